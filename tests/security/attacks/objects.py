"""Histories that are not what a tree, a commit or a link may be, made by git's plumbing and handed in as a result."""

from __future__ import annotations

from security.attack import Attack, Deed, says
from security.results import Poison, objects

_NAMES = {
    "git-folder": ".git",
    "git-in-capitals": ".GIT",
    "git-by-its-short-name": "git~1",
    "git-by-its-short-name-in-capitals": "GIT~1",
    "git-with-a-dot": ".git.",
    "git-with-a-blank": ".git ",
    "git-as-a-stream": ".git::$INDEX_ALLOCATION",
    "git-with-a-hidden-letter": ".g\\u200cit",
    "git-with-a-mark": "\\ufeff.git",
    "parent": "..",
    "itself": ".",
    "backslashes": "a\\\\..\\\\b",
    "backslashes-to-git": "x\\\\.git\\\\config",
    "line-feed": "a\\nb",
    "escape": "a\\x1b]0;evil\\x07b",
    "slash": "a/b",
}
_LINKS = {
    "absolute": "/etc/passwd",
    "up": "../outside/secret",
    "far-up": "../" * 12 + "etc/passwd",
    "into-git": ".git/hooks",
    "into-git-in-capitals": ".GIT/config",
    "down-and-up": "src/../../outside",
    "empty": "",
    "to-the-kernel": "/proc/self/environ",
}
_OTHER: dict[str, str] = {
    "folder-below": 'evil(with_old(("40000", "deep", tree(("40000", ".git", tree(("100644", "config", blob())))))))',
    "commit-in-between": (
        'evil(with_old(("120000", "out", blob(b"/etc/passwd"))))\n'
        'git("update-ref", "HEAD", commit(git("rev-parse", "HEAD~1^{tree}")))'
    ),
    "submodule": 'evil(with_old(("160000", "sub", git("rev-parse", "HEAD"))))',
    "mode-of-a-socket": 'evil(with_old(("140000", "odd", blob())))',
    "mode-setuid": 'evil(with_old(("104755", "odd", blob())))',
    "mode-for-all": 'evil(with_old(("100666", "odd", blob())))',
    "mode-with-a-zero": 'evil(with_old(("0100644", "odd", blob())))',
    "twice-the-same-name": 'evil(with_old(("100644", "odd", blob()), ("100644", "odd", blob(b"other"))))',
    "file-and-folder-of-one-name": (
        'evil(with_old(("120000", "odd", blob(b"src")), ("40000", "odd", tree(("100644", "x", blob())))))'
    ),
    "unsorted": 'evil(tree(*reversed([*old(), ("100644", "zzz", blob())])))',
    "second-root": (
        'root = git("commit-tree", "-m", "root", git("rev-parse", "HEAD^{tree}"))\n'
        'evil(with_old(("100644", "new", blob())), git("rev-parse", "HEAD"), root)'
    ),
    "history-of-its-own": (
        'root = git("commit-tree", "-m", "root", with_old(("100644", "new", blob())))\n'
        'git("update-ref", "HEAD", root)\nprint("EVIL", root)'
    ),
    "modules-with-a-way-up": (
        'settings = b"[submodule \\"../../evil\\"]\\n\\tpath = sub\\n\\turl = ./x\\n"\n'
        'evil(with_old(("100644", ".gitmodules", blob(settings))))'
    ),
    "modules-with-an-option": (
        'evil(with_old(("100644", ".gitmodules", blob(b"[submodule \\"x\\"]\\n\\tpath = sub\\n\\turl = -u./evil\\n"))))'
    ),
    "modules-as-a-link": 'evil(with_old(("120000", ".gitmodules", blob(b"src/x"))))',
    "link-of-endless-target": 'evil(with_old(("120000", "odd", blob(b"x" * 70000))))',
    "many-commits": (
        'made = git("rev-parse", "HEAD^{tree}")\nlast = git("rev-parse", "HEAD")\n'
        'lines = "".join(f"commit refs/heads/many\\nmark :{n}\\ncommitter x <x> 1 +0000\\ndata 1\\nx\\n"'
        ' + (f"from {last}\\n" if n == 1 else f"from :{n - 1}\\n") for n in range(1, 1202))\n'
        'git("fast-import", "--quiet", data=lines.encode())\n'
        'git("update-ref", "HEAD", "refs/heads/many")\nprint("EVIL", git("rev-parse", "many"))'
    ),
    "commit-with-two-trees": (
        'head, made = git("rev-parse", "HEAD"), git("rev-parse", "HEAD^{tree}")\n'
        "text = f\"tree {made}\\ntree {with_old(('120000', 'out', blob(b'/etc/passwd')))}\\nparent {head}\\n\"\n"
        'text += "author x <x@x> 1 +0000\\ncommitter x <x@x> 1 +0000\\n\\nevil\\n"\n'
        'name = git("hash-object", "-t", "commit", "-w", "--stdin", "--literally", data=text.encode())\n'
        'git("update-ref", "HEAD", name)\nprint("EVIL", name)'
    ),
    "author-of-two-lines": (
        'head, made = git("rev-parse", "HEAD"), with_old(("100644", "new", blob()))\n'
        'text = f"tree {made}\\nparent {head}\\nauthor x <x\\n@x> 1 +0000\\ncommitter x <x@x> 1 +0000\\n\\nevil\\n"\n'
        'name = git("hash-object", "-t", "commit", "-w", "--stdin", "--literally", data=text.encode())\n'
        'git("update-ref", "HEAD", name)\nprint("EVIL", name)'
    ),
}
_BORROWED = """
mkdir -p .git/objects/info; echo /outside/repo.git/.git/objects >> .git/objects/info/alternates
git cat-file --batch-all-objects --batch-check='%(objectname) %(objecttype)' | while read -r name kind; do
  test $kind = blob && git cat-file blob $name
done
"""


def _attack(name: str, deed: Deed, text: str = "DELIVERED") -> Attack:
    return Attack(f"object-{name}", "git objects", deed, says(text))


def honest() -> Poison:
    """A result with nothing wrong, by the same means: it is delivered either way."""
    return objects('evil(with_old(("100644", "new", blob())))')


ATTACKS = (
    *(
        _attack(f"name-{name}", objects(f'evil(with_old(("100644", "{spelt}", blob())))'))
        for name, spelt in _NAMES.items()
    ),
    *(
        _attack(f"link-{name}", objects(f'evil(with_old(("120000", "out", blob({target!r}))))'))
        for name, target in _LINKS.items()
    ),
    *(_attack(name, objects(program)) for name, program in _OTHER.items()),
    Attack("object-borrowed-from-elsewhere", "git objects", Poison(_BORROWED), says()),
)
