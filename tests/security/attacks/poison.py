"""Repositories whose configuration, hooks or attributes make git run a program or look elsewhere."""

from __future__ import annotations

from security.attack import Attack, Canary, planted, says
from security.results import Poison

_TOUCH = "touch /outside/planted"
_PROGRAM = f"printf '#!/bin/sh\\n{_TOUCH}\\n' > evil.sh; chmod +x evil.sh; echo changed >> a.txt; "


def _config(*settings: str, more: str = "") -> str:
    return _PROGRAM + "".join(f"git config {setting}; " for setting in settings) + more


def _hook(name: str) -> Poison:
    return Poison(f"{_PROGRAM} mkdir -p .git/hooks; cp evil.sh .git/hooks/{name}")


_MONITOR = f"core.fsmonitor '{_TOUCH}; false'"
_FILTER = "echo '*.txt filter=x' > .gitattributes"
_MODULE = (
    "git init -q sub; git -C sub -c user.name=x -c user.email=x commit -q --allow-empty -m x; git add sub; "
    "git config -f .gitmodules submodule.sub.path sub; git config -f .gitmodules submodule.sub.url ./x; "
    "git add .gitmodules; git commit -qm sub; git config submodule.sub.url ./x; "
)
_WORK: dict[str, Poison] = {
    "fsmonitor": Poison(_config(_MONITOR)),
    "hooks-path": Poison(_config('core.hooksPath "$PWD/hooks"', more="mkdir hooks; cp evil.sh hooks/pre-commit")),
    **{
        f"hook-{name}": _hook(name)
        for name in (
            *("pre-commit", "prepare-commit-msg", "commit-msg", "post-commit", "post-checkout"),
            *("post-index-change", "reference-transaction"),
        )
    },
    "included-file": Poison(_config("include.path ../evil.cfg", more=f"git config -f evil.cfg {_MONITOR}")),
    "included-where-it-lies": Poison(
        _config('"includeIf.gitdir:**.path" "$PWD/evil.cfg"', more=f"git config -f evil.cfg {_MONITOR}")
    ),
    "configuration-of-the-worktree": Poison(
        _config("core.repositoryFormatVersion 1", "extensions.worktreeConfig true", f"--worktree {_MONITOR}")
    ),
    "clean-filter": Poison(_config(f"filter.x.clean '{_TOUCH}; cat'", more=_FILTER)),
    "smudge-filter": Poison(_config(f"filter.x.smudge '{_TOUCH}; cat'", more=_FILTER)),
    "filter-process": Poison(_config(f"filter.x.process '{_TOUCH}'", more=_FILTER)),
    "filter-by-its-own-attributes": Poison(
        _config(f"filter.x.clean '{_TOUCH}; cat'", more="mkdir -p .git/info; echo '* filter=x' > .git/info/attributes")
    ),
    "filter-by-an-attributes-file": Poison(
        _config(
            f"filter.x.clean '{_TOUCH}; cat'",
            'core.attributesFile "$PWD/attributes"',
            more="echo '* filter=x' > attributes",
        )
    ),
    "text-conversion": Poison(_config(f"diff.x.textconv '{_TOUCH}; cat'", more="echo '*.txt diff=x' > .gitattributes")),
    "external-diff": Poison(_config('diff.external "$PWD/evil.sh"')),
    "diff-driver": Poison(_config('diff.x.command "$PWD/evil.sh"', more="echo '*.txt diff=x' > .gitattributes")),
    "signing-program": Poison(_config("commit.gpgSign true", 'gpg.program "$PWD/evil.sh"')),
    "signing-program-of-ssh": Poison(
        _config("commit.gpgSign true", "gpg.format ssh", "user.signingKey x", 'gpg.ssh.program "$PWD/evil.sh"')
    ),
    "worktree-elsewhere": Poison(_config("core.worktree /outside")),
    "git-folder-elsewhere": Poison(
        f"{_PROGRAM} mv .git real; git --git-dir=real config {_MONITOR}; echo 'gitdir: real' > .git"
    ),
    "common-folder-elsewhere": Poison(
        f"{_PROGRAM} cp -r .git common; git --git-dir=common config {_MONITOR}; echo ../common > .git/commondir"
    ),
    "fsmonitor-of-a-submodule": Poison(f"{_PROGRAM} {_MODULE} git -C sub config {_MONITOR}"),
    "editor": Poison(_config('core.editor "$PWD/evil.sh"'), "git commit --amend"),
    "editor-of-sequences": Poison(_config('sequence.editor "$PWD/evil.sh"'), "git rebase -i HEAD~1"),
    "alias": Poison(_config(f"alias.st '!{_TOUCH}'"), "git st"),
    "ssh-command": Poison(_config('core.sshCommand "$PWD/evil.sh"', "remote.origin.url ssh://host/x"), "git fetch"),
    "proxy-command": Poison(_config('core.gitProxy "$PWD/evil.sh"', "remote.origin.url git://host/x"), "git fetch"),
    "upload-pack": Poison(_config('remote.origin.uploadpack "$PWD/evil.sh"'), "git fetch"),
    "receive-pack": Poison(_config('remote.origin.receivepack "$PWD/evil.sh"'), "git push origin HEAD:refs/heads/x"),
    "external-transport": Poison(
        _config("protocol.ext.allow always", "remote.origin.url 'ext::touch /outside/planted'"), "git fetch"
    ),
    "other-address": Poison(
        _config("protocol.ext.allow always", "'url.ext::touch /outside/planted .insteadOf' /source"),
        "git fetch /source",
    ),
    "credential-helper": Poison(
        _config(f"credential.helper '!{_TOUCH}'"),
        "printf 'protocol=https\\nhost=x\\n\\n' | GIT_TERMINAL_PROMPT=0 git credential fill",
    ),
    "password-program": Poison(
        _config('core.askPass "$PWD/evil.sh"'),
        "printf 'protocol=https\\nhost=x\\n\\n' | GIT_TERMINAL_PROMPT=0 git credential fill",
    ),
    "trailer": Poison(_config(f"trailer.x.command '{_TOUCH}'"), "git commit -q --amend --no-edit --trailer x:y"),
    "diff-tool": Poison(_config(f"difftool.x.cmd '{_TOUCH}'"), "git difftool -y --tool=x HEAD~1"),
    "merge-driver": Poison(
        _config(
            f"merge.x.driver '{_TOUCH}'",
            more="echo '*.txt merge=x' > .git/info/attributes; git commit -qam one; "
            "git checkout -qb other HEAD~1; echo other >> a.txt; git commit -qam two",
        ),
        "git merge -q @{-1}",
    ),
    "submodule-command": Poison(
        f"{_PROGRAM} {_MODULE} git config submodule.sub.update '!{_TOUCH}'; "
        "git -C sub -c user.name=x -c user.email=x commit -q --allow-empty -m y",
        "git -C sub -c user.name=x -c user.email=x commit -q --allow-empty -m z; git submodule update",
    ),
    "bare-repository-inside": Poison(
        f"{_PROGRAM} git init -q --bare bare; cd bare; git config core.bare false; "
        f"git config core.worktree /tmp; git config {_MONITOR}",
        "cd bare && git status",
    ),
}
_CANARIES: dict[str, Canary] = {"worktree-elsewhere": says()}

ATTACKS = tuple(
    Attack(f"git-{name}", "git config and hooks", deed, _CANARIES.get(name, planted())) for name, deed in _WORK.items()
)
