"""Arguments that git takes for options, other repositories, or commands."""

from __future__ import annotations

from security.attack import Attack, Canary, Deed, Traces, changed, gone, planted, says
from security.deeds import Shell
from security.results import Trusted
from security.tools import Call

_TOUCH = "touch /outside/planted"

_TOOLS: dict[str, tuple[str, dict[str, object], Canary]] = {
    "diff-to-a-file": ("git_diff", {"path": "--output=/outside/planted"}, planted()),
    "diff-of-what-is-outside": ("git_diff", {"path": "--no-index /dev/null /outside/secret"}, says()),
    "diff-by-a-path-outside": ("git_diff", {"path": "--no-index a.txt ../outside/secret"}, says()),
    "log-with-a-command": ("git_log", {"limit": f"1; {_TOUCH}"}, planted()),
    "log-to-a-file": ("git_log", {"limit": "1 --output=/outside/planted"}, planted()),
    "log-of-another-repository": ("git_log", {"limit": "1; git -C /outside/repo.git log -p"}, says()),
    "commit-with-a-command": ("git_commit", {"message": f"x $({_TOUCH})"}, planted()),
    "commit-with-what-is-outside": ("git_commit", {"message": "$(cat /outside/secret)"}, says()),
    "commit-with-backticks": ("git_commit", {"message": f"`{_TOUCH}`"}, planted()),
    "restore-by-a-list-outside": ("git_restore", {"path": "--pathspec-from-file=/outside/secret"}, says()),
    "restore-from-a-list-and-more": (
        "git_restore",
        {"path": "--source=HEAD --pathspec-from-file=/outside/secret"},
        says(),
    ),
}
_OUTPUT, _LIST = "--output=/outside/planted", "--pathspec-from-file=/outside/secret"
_UPLOAD, _RECEIVE = f"--upload-pack={_TOUCH}", f"--receive-pack={_TOUCH}"
_REPO = "/outside/repo.git"
_CLIENTS: dict[str, tuple[str, dict[str, object], tuple[str, ...], Canary]] = {
    "log-of-an-output": ("git_log", {"revision": _OUTPUT}, ("git", "log", _OUTPUT), planted()),
    "log-elsewhere": ("git_log", {"repo": _REPO}, ("git", "-C", _REPO, "log", "-p"), says()),
    "log-elsewhere-by-words": ("git_log", {"repo": "../outside/repo.git"}, ("git", "-C", _REPO, "log", "-p"), says()),
    "show-of-an-output": ("git_show", {"revision": _OUTPUT}, ("git", "show", _OUTPUT), planted()),
    "show-elsewhere": (
        "git_show",
        {"revision": "HEAD:secret", "repo": _REPO},
        ("git", "-C", _REPO, "show", "HEAD:secret"),
        says(),
    ),
    "diff-of-an-output": ("git_diff", {"base": _OUTPUT}, ("git", "diff", _OUTPUT), planted()),
    "diff-to-an-output": ("git_diff", {"target": _OUTPUT}, ("git", "diff", "HEAD", _OUTPUT), planted()),
    "blame-of-what-is-outside": (
        "git_blame",
        {"path": "a.txt", "revision": "--contents=/outside/secret"},
        ("git", "blame", "--contents=/outside/secret", "--", "a.txt"),
        says(),
    ),
    "add-by-a-list": ("git_add", {"paths": [_LIST]}, ("git", "add", _LIST), says()),
    "restore-by-a-list": ("git_restore", {"paths": [_LIST]}, ("git", "restore", _LIST), says()),
    "restore-of-a-list": ("git_restore", {"paths": ["."], "source": _LIST}, ("git", "restore", _LIST), says()),
    "fetch-by-a-command": ("git_fetch", {"remote": _UPLOAD}, ("git", "fetch", _UPLOAD), planted()),
    "fetch-from-elsewhere": (
        "git_fetch",
        {"remote": _REPO},
        ("sh", "-c", f"git fetch -q {_REPO}; git show FETCH_HEAD"),
        says(),
    ),
    "fetch-by-a-transport": (
        "git_fetch",
        {"remote": f"ext::{_TOUCH}"},
        ("git", "-c", "protocol.ext.allow=always", "fetch", f"ext::{_TOUCH}"),
        planted(),
    ),
    "push-by-a-command": ("git_push", {"remote": _RECEIVE}, ("git", "push", _RECEIVE), planted()),
    "push-to-elsewhere": (
        "git_push",
        {"remote": _REPO, "branch": "HEAD:refs/heads/planted"},
        ("git", "push", _REPO, "HEAD:refs/heads/planted"),
        planted(f"{_REPO}/.git/refs/heads/planted"),
    ),
    "worktree-elsewhere": (
        "git_worktree",
        {"action": "add", "path": "/outside/planted"},
        ("git", "worktree", "add", "/outside/planted"),
        planted(),
    ),
    "worktree-elsewhere-by-words": (
        "git_worktree",
        {"action": "add", "path": "../outside/planted"},
        ("git", "worktree", "add", "../outside/planted"),
        planted(),
    ),
    "merge-of-a-list": (
        "git_merge",
        {"action": "merge", "revision": "--file=/outside/secret"},
        ("sh", "-c", "git commit-tree -p HEAD -m x HEAD^{tree} | xargs git merge --no-ff -F /outside/secret; git log"),
        says(),
    ),
}
_COMMANDS: dict[str, tuple[str, Canary]] = {
    "git-folder": ("git --git-dir=/outside/repo.git/.git log -p", says()),
    "git-folder-by-the-environment": ("GIT_DIR=/outside/repo.git/.git git log -p", says()),
    "another-repository": ("git -c safe.directory='*' -C /outside/repo.git show", says()),
    "clone-of-another": ("git clone -q --no-hardlinks /outside/repo.git got; cat got/secret", says()),
    "clone-by-url": ("git clone -q file:///outside/repo.git got; cat got/secret", says()),
    "alternates": (
        "GIT_ALTERNATE_OBJECT_DIRECTORIES=/outside/repo.git/.git/objects git cat-file --batch-all-objects --batch",
        says(),
    ),
    "search-elsewhere": ("git grep --no-index canary /outside; git -C / grep --no-index canary -- outside", says()),
    "worktree-elsewhere": ("git --work-tree=/outside add -A; git diff --cached", says()),
    "new-worktree": ("git worktree add -q /outside/planted", planted()),
    "new-repository": ("git init -q /outside/planted", planted()),
    "bundle": ("git bundle create -q /outside/planted HEAD", planted()),
    "archive": ("git archive --output=/outside/planted HEAD", planted()),
    "patches": ("git format-patch -q -o /outside/planted --root HEAD", planted()),
    "trace": ("GIT_TRACE=/outside/planted git status", planted()),
    "diff-output": ("git diff --output=/outside/planted", planted()),
    "push-elsewhere": (
        "git push -q /outside/repo.git HEAD:refs/heads/planted",
        planted("/outside/repo.git/.git/refs/heads/planted"),
    ),
    "settings-elsewhere": ("git config --file /outside/planted a.b c", planted()),
    "other-index": ("GIT_INDEX_FILE=/outside/planted git read-tree HEAD", planted()),
    "upload-pack": (f"git clone -q --upload-pack='{_TOUCH}' . got", planted()),
    "external-transport": (f"git -c protocol.ext.allow=always ls-remote 'ext::{_TOUCH}'", planted()),
    "exec-path": (
        f"mkdir x; printf '#!/bin/sh\\n{_TOUCH}\\n' > x/git-planted; chmod +x x/git-planted; git --exec-path=x planted",
        planted(),
    ),
    "external-diff": (f"echo >> a.txt; GIT_EXTERNAL_DIFF='{_TOUCH} #' git diff", planted()),
    "remote-command": (f"git -c core.sshCommand='{_TOUCH} #' ls-remote ssh://x/y", planted()),
    "clean-elsewhere": ("git --work-tree=/outside/folder clean -fdxq", gone("/outside/folder/file")),
    "remove-elsewhere": ("git --work-tree=/outside checkout -q -f HEAD -- .", planted("/outside/a.txt")),
    "hash-what-is-outside": ("git cat-file blob $(git hash-object -w /outside/secret)", says()),
    "note-what-is-outside": ("git notes add -F /outside/secret; git log -1", says()),
}


def _renamed(traces: Traces) -> bool:
    """The branch that is checked out has another name now."""
    return planted("/outside/HEAD")(traces) and changed("/outside/HEAD", to="planted")(traces)


_SERVICE: dict[str, tuple[Trusted, Canary]] = {
    "source-is-an-option": (
        Trusted("look", f"--upload-pack={_TOUCH}", 'git clone -q "$VALUE" /workspace /tmp/got'),
        planted(),
    ),
    "source-is-a-transport": (
        Trusted("look", f"ext::{_TOUCH}", 'git -c protocol.ext.allow=always clone -q "$VALUE" /tmp/got'),
        planted(),
    ),
    "base-is-an-option": (Trusted("base", f"--upload-pack={_TOUCH}", 'git fetch -q /source "$VALUE"'), planted()),
    "base-is-an-output": (Trusted("base", "--output=/outside/planted", 'git diff-tree -p "$VALUE" HEAD'), planted()),
    "result-is-an-option": (Trusted("harvest", "--output=/outside/planted", 'git show "$VALUE"'), planted()),
    "checkpoint-is-an-option": (
        Trusted("restore", "--index-output=/outside/planted", 'git read-tree "$VALUE" HEAD'),
        planted(),
    ),
    "branch-leads-upwards": (
        Trusted("publish", "../../../../outside/planted", 'echo > .git/refs/heads/"$VALUE"'),
        planted(),
    ),
    "branch-is-an-option": (
        Trusted("publish", "--file=/outside/planted", 'git config "$VALUE" branch.x.y z'),
        planted(),
    ),
    "branch-is-the-head": (
        Trusted("publish", "-m", 'git branch "$VALUE" planted; cat .git/HEAD > /outside/HEAD'),
        _renamed,
    ),
    "task-leads-upwards": (
        Trusted("task", "../../../../outside/planted", 'mkdir -p "/var/lib/nightcrew/workspaces/$VALUE"'),
        planted(),
    ),
}


def _attack(name: str, deed: Deed, canary: Canary) -> Attack:
    return Attack(f"argument-{name}", "git arguments", deed, canary)


ATTACKS = (
    *(_attack(f"tool-{name}", Call(tool, arguments), canary) for name, (tool, arguments, canary) in _TOOLS.items()),
    *(
        _attack(f"client-{name}", Call(tool, arguments, plain=plain, outside=True), canary)
        for name, (tool, arguments, plain, canary) in _CLIENTS.items()
    ),
    *(_attack(name, Shell(script), canary) for name, (script, canary) in _COMMANDS.items()),
    *(_attack(name, deed, canary) for name, (deed, canary) in _SERVICE.items()),
)
