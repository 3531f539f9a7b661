"""Paths that lead out of the workspace, by their words, by links, or by what the kernel makes of them."""

from __future__ import annotations

from security.attack import Attack, Canary, Deed, Kind, changed, gone, planted, says
from security.deeds import Python, Shell
from security.tools import (
    Call,
    Reading,
    as_it_is,
    by_url,
    decoded,
    expanded,
    normalised,
    slashes,
    stripped,
    to_the_nul,
    words_normalised,
)

_READS: dict[str, tuple[str, Reading]] = {
    "up": ("../outside/secret", as_it_is),
    "down-and-up": ("src/../../outside/secret", as_it_is),
    "far-up": ("../" * 40 + "outside/secret", as_it_is),
    "absolute": ("/outside/secret", as_it_is),
    "two-slashes": ("//outside/secret", as_it_is),
    "dots": ("./.././outside/./secret", as_it_is),
    "below-the-workspaces-name": ("/workspace/../outside/secret", as_it_is),
    "beside-the-workspace": ("/workspace-other/secret", as_it_is),
    "beside-the-workspace-by-words": ("../workspace-other/secret", as_it_is),
    "percent": ("%2e%2e%2foutside%2fsecret", decoded),
    "percent-absolute": ("%2Foutside%2Fsecret", decoded),
    "two-dot-leader": ("\u2025/outside/secret", normalised),
    "full-width": ("\uff0e\uff0e\uff0foutside\uff0fsecret", normalised),
    "backslashes": ("..\\outside\\secret", slashes),
    "nul": ("../outside/secret\0.py", to_the_nul),
    "blanks": ("  /outside/secret  ", stripped),
    "line-feed": ("\n/outside/secret\n", stripped),
    "home": ("~/.ssh/id_ed25519", expanded),
    "home-of": ("~person/.ssh/id_ed25519", expanded),
    "variable": ("$HOME/.ssh/id_ed25519", expanded),
    "url": ("file:///outside/secret", by_url),
    "long": ("x/../" * 1500 + "../outside/secret", words_normalised),
    "not-there-and-up": ("nowhere/../../outside/secret", words_normalised),
}
_GIT_FOLDER = (
    *(".git/hooks/post-checkout", ".git/config.worktree", "src/../.git/hooks/update", "/workspace/.git/planted"),
    *(".GIT/planted", ".git./planted", ".git /planted", "src/.git/planted", "./.git//planted"),
)


def _attack(kind: Kind, name: str, deed: Deed, canary: Canary) -> Attack:
    return Attack(name, kind, deed, canary)


_PATHS = (
    *(
        _attack("path traversal", f"read-{name}", Call("read_file", {"path": path}, reading=reading), says())
        for name, (path, reading) in _READS.items()
    ),
    *(
        _attack(
            "path traversal",
            f"write-{path.strip('./').replace('/', '-').replace(' ', '_')}",
            Call("write_file", {"path": path, "content": "evil\n"}),
            planted(f"/workspace/{path}" if path[0] != "/" else path),
        )
        for path in _GIT_FOLDER
    ),
    *(
        _attack("path traversal", name, Call(tool, arguments), canary)
        for name, tool, arguments, canary in (
            ("write-up", "write_file", {"path": "../outside/planted", "content": "x"}, planted()),
            ("write-absolute", "write_file", {"path": "/outside/planted", "content": "x"}, planted()),
            ("write-new-folders", "write_file", {"path": "/outside/planted/deep/x", "content": "x"}, planted()),
            ("edit-up", "edit_file", {"path": "../outside/file", "old": "untouched", "new": "evil"}, changed()),
            ("delete-up", "delete_file", {"path": "../outside/file"}, gone("/outside/file")),
            ("move-out", "move_file", {"path": "a.txt", "to": "../outside/planted"}, planted()),
            ("move-in", "move_file", {"path": "../outside/secret", "to": "got"}, says()),
            ("list-up", "list_files", {"path": "../outside"}, says("secret")),
            ("list-by-pattern", "list_files", {"pattern": "../outside/*"}, says("/secret")),
            ("search-up", "search_files", {"pattern": "canary", "path": "../outside"}, says()),
            ("search-absolute", "search_files", {"pattern": "canary", "path": "/outside"}, says()),
            ("search-one-file", "search_files", {"pattern": "canary", "path": "/outside/secret"}, says()),
        )
    ),
)

_LINKED: dict[str, tuple[str, str, dict[str, object], Canary]] = {
    "read-file": ("ln -s /outside/secret link", "read_file", {"path": "link"}, says()),
    "read-relative": ("ln -s ../outside/secret link", "read_file", {"path": "link"}, says()),
    "read-folder": ("ln -s /outside link", "read_file", {"path": "link/secret"}, says()),
    "read-chain": ("ln -s b a; ln -s c b; ln -s /outside c", "read_file", {"path": "a/secret"}, says()),
    "read-to-the-root": ("ln -s / src/root", "read_file", {"path": "src/root/outside/secret"}, says()),
    "read-to-the-home": ("ln -s /home/person home", "read_file", {"path": "home/.ssh/id_ed25519"}, says()),
    "write-file": ("ln -s /outside/file link", "write_file", {"path": "link", "content": "evil"}, changed()),
    "write-folder": ("ln -s /outside link", "write_file", {"path": "link/planted", "content": "x"}, planted()),
    "write-not-there": ("ln -s /outside/planted link", "write_file", {"path": "link", "content": "x"}, planted()),
    "edit-file": ("ln -s /outside/file l", "edit_file", {"path": "l", "old": "untouched", "new": "evil"}, changed()),
    "delete-folder": ("ln -s /outside link", "delete_file", {"path": "link/file"}, gone("/outside/file")),
    "move-into": ("ln -s /outside link", "move_file", {"path": "a.txt", "to": "link/planted"}, planted()),
    "move-from": ("ln -s /outside link", "move_file", {"path": "link/secret", "to": "got"}, says()),
    "list-folder": ("ln -s /outside link", "list_files", {"path": "link"}, says("/secret")),
    "search-folder": ("ln -s /outside link", "search_files", {"pattern": "canary", "path": "link"}, says()),
    "search-file": ("ln -s /outside/secret l", "search_files", {"pattern": "canary", "path": "l"}, says()),
    "write-git": (
        "ln -s .git/hooks link",
        "write_file",
        {"path": "link/post-checkout", "content": "evil"},
        planted("/workspace/.git/hooks/post-checkout"),
    ),
}
_LINKS = (
    *(
        _attack("links", f"link-{name}", Call(tool, arguments, before), canary)
        for name, (before, tool, arguments, canary) in _LINKED.items()
    ),
    _attack("links", "hard-link", Shell("ln /outside/file name && echo evil > name"), changed()),
    _attack("links", "hard-link-to-read", Shell("ln /outside/secret name; cat name"), says()),
    _attack(
        "links", "link-by-a-command", Shell("ln -s /outside out; cat out/secret; echo evil > out/planted"), planted()
    ),
    _attack("links", "copy-that-follows", Shell("ln -s /outside out; cp -rL out copied; cat copied/secret"), says()),
    _attack(
        "links",
        "archive-that-leads-out",
        Shell(
            "ln -s /outside out; echo evil > x; tar -cf a.tar --transform s,x,out/planted, x; "
            "tar -xf a.tar --keep-directory-symlink"
        ),
        planted(),
    ),
)

_MAGIC_TOOLS: dict[str, tuple[str, str]] = {
    "own-root": ("/proc/self/root/outside/secret", ""),
    "own-root-by-words": ("../proc/self/root/outside/secret", ""),
    "own-folder": ("/proc/self/cwd/../outside/secret", ""),
    "link-to-own-root": ("link", "ln -s /proc/self/root/outside/secret link"),
    "link-to-a-thread": ("link/outside/secret", "ln -s /proc/thread-self/root link"),
    "environment": ("/proc/self/environ", ""),
    "link-to-the-environment": ("link", "ln -s /proc/self/environ link"),
    "task": ("/proc/self/task/../root/outside/secret", ""),
}
_MAGIC: dict[str, Deed] = {
    "root-of-others": Shell("cat /proc/[0-9]*/root/outside/secret"),
    "folder-of-others": Shell("cat /proc/[0-9]*/cwd/../outside/secret"),
    "descriptors-of-others": Python(
        "for pid in others():\n    try: print(open(f'/proc/{pid}/fd/77').read())\n    except OSError: pass"
    ),
    "task-of-others": Shell("cat /proc/[0-9]*/task/*/root/outside/secret"),
    "mounts-of-others": Python(
        "for pid in others():\n"
        "    try: os.chdir(f'/proc/{pid}/root'); print(open('outside/secret').read())\n    except OSError: pass"
    ),
    "open-folder-and-up": Python(
        "at = os.open('/', os.O_RDONLY)\nprint(os.read(os.open('outside/secret', os.O_RDONLY, dir_fd=at), 99))"
    ),
}
_MAGIC_LINKS = (
    *(
        _attack("magic links", f"magic-{name}", Call("read_file", {"path": path}, before), says())
        for name, (path, before) in _MAGIC_TOOLS.items()
    ),
    *(_attack("magic links", name, deed, says()) for name, deed in _MAGIC.items()),
    Attack("root-of-the-first-process", "magic links", Shell("cat /proc/1/root/outside/secret"), says(), "root"),
    Attack(
        "link-to-the-first-process",
        "magic links",
        Call("read_file", {"path": "link/outside/secret"}, "ln -s /proc/1/root link"),
        says(),
        "root",
    ),
    Attack(
        "own-program",
        "magic links",
        Shell(
            "cp /bin/sleep /usr/local/bin/nap 2>/dev/null; /usr/local/bin/nap 1 & sleep 0.1; rm -f /usr/local/bin/nap; "
            "test -e /proc/$!/exe && cp /proc/$!/exe /usr/local/bin/planted"
        ),
        planted("/usr/local/bin/planted"),
        "root",
    ),
)

ATTACKS = (*_PATHS, *_LINKS, *_MAGIC_LINKS)
