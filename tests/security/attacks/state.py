"""Changing what the service believes: its records, other tasks, the checks' verdict, what is said to have changed."""

from __future__ import annotations

from pathlib import Path

from security.attack import Attack, Canary, Deed, Traces, changed, gone, says
from security.deeds import Shell
from security.results import ROOT, Poison
from security.verdicts import Hidden, Verdict

_OTHER = "/var/lib/nightcrew/workspaces/other-task"
_LOCAL = "/home/person/.local/share/nightcrew"
_SITE = 'site=$(/usr/bin/python3 -m site --user-site); mkdir -p "$site"; '


def _evil_below(*folders: Path | str) -> Canary:
    """Some file below one of these has `evil` in it."""

    def sees(_: Traces) -> bool:
        files = (path for folder in folders for path in Path(folder).rglob("*") if path.is_file())
        return any(b"evil" in path.read_bytes() for path in files)

    return sees


_DEPOTS = _evil_below("/source/.git", ROOT / "task/depot.git")
_EVERYWHERE = "for place in /depot /source/.git; do {}; done"
_RECORDS: dict[str, tuple[Deed, Canary]] = {
    "another-tasks-record": (Shell(f"echo evil > {_OTHER}/workspace.json"), changed(f"{_OTHER}/workspace.json")),
    "another-tasks-clone": (Shell(f"echo evil > {_OTHER}/clone/secret"), changed(f"{_OTHER}/clone/secret", to="evil")),
    "another-task-removed": (Shell(f"rm -rf {_OTHER}"), gone(_OTHER)),
    "journal": (Shell(f"echo evil >> {_LOCAL}/journal.sqlite"), changed(f"{_LOCAL}/journal.sqlite", to="evil")),
    "journal-emptied": (Shell(f"rm -f {_LOCAL}/journal.sqlite"), gone(f"{_LOCAL}/journal.sqlite")),
    "report": (
        Shell(f"echo evil: verified > {_LOCAL}/outbox/other.report.md"),
        changed(f"{_LOCAL}/outbox/other.report.md", to="evil"),
    ),
    "head-of-the-source": (Poison(_EVERYWHERE.format("echo 'ref: refs/heads/evil' > $place/HEAD")), _DEPOTS),
    "branch-of-the-source": (
        Poison(_EVERYWHERE.format("mkdir -p $place/refs/heads; echo evil > $place/refs/heads/x")),
        _DEPOTS,
    ),
    "objects-of-the-source": (
        Poison(
            _EVERYWHERE.format("find $place/objects -type f | while read -r f; do chmod u+w $f; echo evil > $f; done")
        ),
        _DEPOTS,
    ),
    "settings-of-the-source": (Poison(_EVERYWHERE.format("git config -f $place/config core.pager evil")), _DEPOTS),
    "hook-of-the-source": (
        Poison(_EVERYWHERE.format("mkdir -p $place/hooks; echo 'evil' > $place/hooks/post-receive")),
        _DEPOTS,
    ),
}
_VERDICTS: dict[str, Verdict] = {
    "start-of-python": Verdict(f"{_SITE}echo 'import os; os._exit(0)' > \"$site/usercustomize.py\""),
    "path-file-of-python": Verdict(f"{_SITE}echo 'import os; os._exit(0)' > \"$site/evil.pth\""),
    "compiled-file-that-is-ignored": Verdict(
        'sed s/-/+/ src/sums.py > /tmp/sums.py; /usr/bin/python3 -c "'
        "import importlib.util, py_compile; mode = py_compile.PycInvalidationMode.UNCHECKED_HASH; "
        "py_compile.compile('/tmp/sums.py', importlib.util.cache_from_source('src/sums.py'), invalidation_mode=mode)\""
    ),
    "profile-of-the-shell": Verdict(
        "echo 'echo VERDICT 0; exit' > ~/.profile", "HOME=$HOME bash -lc 'false; echo VERDICT $?'"
    ),
    "flag-that-is-ignored": Verdict(
        "mkdir -p ignored; touch ignored/passed", "test -e ignored/passed; echo VERDICT $?"
    ),
    "flag-in-tmp": Verdict("touch /tmp/passed", "test -e /tmp/passed; echo VERDICT $?"),
    "flag-in-the-home": Verdict("touch ~/passed", "test -e ~/passed; echo VERDICT $?"),
    "flag-in-git": Verdict("touch .git/passed", "test -e .git/passed; echo VERDICT $?"),
    "branch-that-is-not-delivered": Verdict("git branch passed", "git rev-parse -q --verify passed; echo VERDICT $?"),
}
_CHANGE = "printf 'evil!\\nbeta\\n' > a.txt; "
_HIDING: dict[str, Hidden] = {
    "skip-worktree": Hidden(_CHANGE + "git update-index --skip-worktree a.txt"),
    "assume-unchanged": Hidden(_CHANGE + "git update-index --assume-unchanged a.txt"),
    "same-time-and-size": Hidden(
        "touch -d @1700000000 a.txt; git update-index --refresh; git config core.trustctime false; "
        f"git config core.checkStat minimal; {_CHANGE} touch -d @1700000000 a.txt"
    ),
    "own-excludes": Hidden("echo evil > evil.txt; mkdir -p .git/info; echo evil.txt > .git/info/exclude"),
    "excludes-by-a-setting": Hidden(
        "echo evil > evil.txt; echo evil.txt > .git/x; git config core.excludesFile /workspace/.git/x"
    ),
    "not-a-text": Hidden(_CHANGE + "mkdir -p .git/info; echo '* -diff' > .git/info/attributes", "evil!"),
    "text-conversion": Hidden(
        _CHANGE
        + "mkdir -p .git/info; echo '* diff=x' > .git/info/attributes; git config diff.x.textconv 'echo same; true'",
        "evil!",
    ),
    "clean-filter": Hidden(
        _CHANGE + "mkdir -p .git/info; echo 'a.txt filter=x' > .git/info/attributes; "
        "git config filter.x.clean 'git show HEAD:a.txt'; git add a.txt"
    ),
    "worktree-elsewhere": Hidden(
        f"mkdir /tmp/copy; git archive HEAD | tar -x -C /tmp/copy; {_CHANGE} git config core.worktree /tmp/copy"
    ),
    "replaced-base": Hidden(
        _CHANGE
        + "base=$(git rev-parse HEAD); git commit -qam evil; git replace $base $(git commit-tree -m x HEAD^{tree}); "
        "git reset -q --soft $base"
    ),
    "committed": Hidden(_CHANGE + "git commit -qam x; git update-ref refs/remotes/origin/main HEAD"),
}


def _attack(name: str, deed: Deed, canary: Canary) -> Attack:
    return Attack(f"state-{name}", "state tampering", deed, canary)


ATTACKS = (
    *(_attack(name, deed, canary) for name, (deed, canary) in _RECORDS.items()),
    *(_attack(f"verdict-{name}", deed, says("VERDICT 0")) for name, deed in _VERDICTS.items()),
    *(_attack(f"hidden-{name}", deed, says("HIDDEN")) for name, deed in _HIDING.items()),
)
