"""A worktree's state as a commit, and back: shell scripts of git commands, each run in one box.

What a checkpoint consists of lies in a repository of its own, `/shadow`, which no box that a model uses can see:
`rm -rf .git`, a poisoned `.git/config` or `git gc` in the clone do not reach it. Its configuration is ours, so filters
that a model configures are not run either; its objects are on the disk before a checkpoint is reported.

What is not in a checkpoint:
- ignored files, and a `.git` at any depth (a repository inside the repository is taken as plain files);
- new files over `MAX_FILE_MIB` and what cannot be read: they are reported as left out;
- sockets, pipes and empty directories, which git does not know; what a submodule contains.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from nightcrew_workspaces.box import Box, Captured
from nightcrew_workspaces.errors import GitError
from nightcrew_workspaces.git import IDENTITY, SHA

MAX_FILE_MIB = 100
"""Largest file that a checkpoint takes up anew, and that may be delivered."""

SHADOW = "/shadow"

SHADOW_SETTINGS = """\
[core]
\tfsync = loose-object,reference
\thooksPath = /dev/null
\tfsmonitor = false
\tuntrackedCache = false
\tattributesFile = /dev/null
[gc]
\tauto = 0
[maintenance]
\tauto = false
[advice]
\taddEmbeddedRepo = false
"""

PICK = "/opt/nightcrew/pick.py"
MEND = "/opt/nightcrew/mend.py"
SCRIPTS = {path: Path(__file__).with_name(Path(path).name).read_bytes() for path in (PICK, MEND)}

_SECONDS = 600.0

_FUNCTIONS = r"""
set -u
umask 022
export GIT_DIR=/shadow GIT_WORK_TREE=/workspace GIT_NO_LAZY_FETCH=1 GIT_ALLOW_PROTOCOL=none
cd /workspace || exit 1

take_up() {
    [ -e /shadow/index.lock ] && rm -f /shadow/index.lock
    git ls-files -z -t --others --modified --exclude-standard >/tmp/changes || return 1
    later=
    if [ -s /tmp/changes ]; then
        rm -f /shadow/tree
        /usr/bin/python3 -I -S "$PICK" "$MAX_BYTES" /tmp/take /tmp/gone </tmp/changes || return 1
        if [ -s /tmp/gone ]; then
            git update-index -z --force-remove --stdin </tmp/gone || return 1
        fi
        if [ -s /tmp/take ]; then
            [ ! -e /tmp/take.many ] || later="-c core.fsync=none"
            git $later update-index -z --add --remove --replace --stdin </tmp/take || return 1
        fi
    fi
    [ -s /shadow/tree ] && read -r tree </shadow/tree && return 0
    tree=$(git $later write-tree) && { [ -z "$later" ] || sync -f /shadow/HEAD; } && echo "$tree" >/shadow/tree
}

# The index becomes what the worktree is, and `tree` its tree. A broken index is made anew.
snapshot() {
    if ! take_up; then
        rm -f /shadow/index /shadow/index.lock /shadow/tree
        git read-tree "$BASE" && take_up || exit 1
    fi
    echo "tree $tree"
}

# git on the clone itself, which may be in any state: what it says is only believed where it cannot do harm, and only
# what runs no program that the clone names: nothing that looks at files, for that runs filters.
theirs() {
    [ -d /workspace/.git ] && [ ! -h /workspace/.git ] || return 128
    git --git-dir=/workspace/.git -c core.hooksPath=/dev/null -c core.fsmonitor=false -c core.bare=false "$@"
}

# The clone's .git is freed of modes that lock us out and of the locks of killed commands; says so where it is broken.
examine() {
    chmod u+rwx /workspace && cd /workspace || exit 1
    if [ -d .git ] && [ ! -h .git ]; then
        chmod -R u+rwX .git
        find .git -path '.git/objects/??' -prune -o -name '*.lock' -type f -exec rm -f {} +
    fi
    theirs rev-list --objects --quiet HEAD "^$BASE" -- || { echo broken; return; }
    /usr/bin/python3 -I -S "$MEND" index .git/index ${#BASE} && theirs ls-files -s >/dev/null && return
    rm -f .git/index && theirs read-tree HEAD || echo broken
} 2>/dev/null
"""

_CHECKPOINT = r"""
snapshot
[ "$tree" = "$LAST" ] && exit 0
# The tree is on the disk; the commit only makes it findable, and does not wait for that.
commit=$(git -c core.fsync=none commit-tree -p "$BASE" -m checkpoint "$tree") || exit 1
echo "$commit" >/shadow/refs/nightcrew/checkpoint
echo "commit $commit"
"""

# The same tree on the same base is the same commit, on whatever machine and whenever.
_NAMED = r"""
git cat-file -e "$TREE^{tree}" || exit 3
export GIT_AUTHOR_DATE="1970-01-01T00:00:00Z" GIT_COMMITTER_DATE="1970-01-01T00:00:00Z"
commit=$(git commit-tree -p "$BASE" -m checkpoint "$TREE") && echo "commit $commit"
"""

_DIFF = r"""
snapshot >/dev/null
git diff-index -p -M --binary --cached "$BASE" | head -c "$LIMIT"
"""

_RESTORE = r"""
rm -f /shadow/index.lock /shadow/tree
git cat-file -e "$TREE^{tree}" || exit 3
chmod u+rwx /workspace
git read-tree --reset -u "$TREE" || {
    rm -f /shadow/index /shadow/index.lock
    chmod -R u+rwX /workspace
    git read-tree --reset -u "$TREE"
} || exit 1
# git neither sees nor removes these, and would leave the directories that they are in.
find /workspace -path /workspace/.git -prune -o \( -type p -o -type s \) -exec rm -f {} +
git clean -ffdq || { chmod -R u+rwX /workspace; git clean -ffdq; } || exit 1
examine
"""

_RECOVER = r"""
find /shadow -path '/shadow/objects/??' -prune -o -name '*.lock' -exec rm -rf {} +
find /shadow/objects -name 'tmp_*' -prune -exec rm -rf {} +
/usr/bin/python3 -I -S "$MEND" objects /shadow/objects >/tmp/removed || exit 1
rm -f /shadow/tree
git rev-parse -q --verify 'refs/nightcrew/checkpoint^{commit}' || echo "$BASE" >/shadow/refs/nightcrew/checkpoint
git rev-parse -q --verify 'refs/nightcrew/final^{commit}' || rm -f /shadow/refs/nightcrew/final
# What was lost is, after a crash, still in the worktree.
if [ -s /tmp/removed ]; then
    rm -f /shadow/index
    snapshot >/dev/null
fi
examine
"""

_COMMIT = r"""
# Whether $1 is reached from the base by commits of one parent each.
straight() {
    [ -n "$1" ] || return 1
    git rev-list --topo-order --parents --max-count=1000 "$1" "^$BASE" >/tmp/line || return 1
    last=$BASE
    while read -r one first more; do
        [ -n "$first" ] && [ -z "$more" ] || return 1
        last=$first
    done </tmp/line
    [ "$last" = "$BASE" ]
}

snapshot
[ "$tree" = "$BASE_TREE" ] && exit 0
head=$(theirs rev-parse -q --verify 'HEAD^{commit}')
parent=$BASE
commit=
export GIT_ALTERNATE_OBJECT_DIRECTORIES=/workspace/.git/objects
if [ -z "$SQUASH" ] && [ "$head" != "$BASE" ] && straight "$head"; then
    printf '%s\n^%s\n' "$head" "$BASE" | git pack-objects --revs --stdout -q >/tmp/pack || exit 1
    GIT_ALTERNATE_OBJECT_DIRECTORIES= git unpack-objects -q </tmp/pack || exit 1
    parent=$head
    [ "$(git rev-parse "$head^{tree}")" = "$tree" ] && commit=$head
fi
unset GIT_ALTERNATE_OBJECT_DIRECTORIES
if [ -z "$commit" ]; then
    final=$(git rev-parse -q --verify refs/nightcrew/final)
    facts=$(git rev-parse "$final^{tree}" "$final^" 2>/dev/null)
    if [ -n "$final" ] && [ "$facts" = "$(printf '%s\n%s' "$tree" "$parent")" ]; then
        commit=$final
    else
        commit=$(git commit-tree -p "$parent" -F - "$tree") || exit 1
    fi
fi
git update-ref refs/nightcrew/final "$commit" && echo "commit $commit" || exit 1
if [ "$commit" != "$head" ]; then
    printf '%s\n^%s\n' "$commit" "$parent" | git pack-objects --revs --stdout -q |
        theirs unpack-objects -q && theirs update-ref -m 'nightcrew: commit' HEAD "$commit" &&
        cp --remove-destination /shadow/index /workspace/.git/index
fi
true
"""

_SETTLE = r"""
mkdir -p /shadow/info /workspace/.git/info
git ls-files -z --others --exclude-standard --directory | /usr/bin/python3 -I -S -c "$PATTERNS" >/tmp/new || exit 1
cat /tmp/new >>/shadow/info/exclude && cat /tmp/new >>/workspace/.git/info/exclude
"""
# Paths to gitignore(5) patterns that match just them; a name with a line end in it cannot be one.
_PATTERNS = r"""
import re, sys
for path in sys.stdin.buffer.read().split(b"\0"):
    if path and b"\n" not in path:
        sys.stdout.buffer.write(b"/" + re.sub(rb"([\\*?\[\] ])", rb"\\\1", path) + b"\n")
"""


@dataclass(frozen=True)
class LeftOut:
    """A file that is in the worktree and not in the checkpoint: too large, or not readable."""

    path: str
    size: int


@dataclass(frozen=True)
class Checkpoint:
    """A state of the worktree. `commit` has the base as its parent; `tree` is what `restore` takes."""

    commit: str
    tree: str
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True)
class Base:
    """What a workspace began with."""

    commit: str
    tree: str


class Shadow:
    """Takes and restores the checkpoints of one worktree. `box` has the worktree and the shadow, both writable."""

    def __init__(self, box: Box, base: Base) -> None:
        self._box = box
        self._base = base
        self._last: Checkpoint | None = None

    async def checkpoint(self) -> Checkpoint:
        """Take one. An unchanged worktree costs no new commit."""
        last = self._last
        answer = await self._run(_CHECKPOINT, "checkpoint", LAST=last.tree if last else "")
        tree = answer.name("tree")
        commit = last.commit if last is not None and last.tree == tree else answer.name("commit")
        self._last = Checkpoint(commit, tree, answer.left_out)
        return self._last

    async def commit_of(self, tree: str) -> str:
        """A commit of a checkpoint's tree on the base. Raises `GitError` for a tree that is not known here."""
        _check_name(tree)
        answer = await self._run(_NAMED, "the commit of a checkpoint", missing=_no_tree(tree), TREE=tree)
        return answer.name("commit")

    async def restore(self, tree: str) -> bool:
        """Make the worktree exactly this tree; ignored files stay. False where the clone's own `.git` is broken."""
        _check_name(tree)
        answer = await self._run(_RESTORE, "restore", missing=_no_tree(tree), TREE=tree)
        return "broken" not in answer.lines

    async def ignore_new(self) -> None:
        """Have what is new in the worktree count as ignored from now on, here and in the clone."""
        await self._run(_SETTLE, "the end of the set-up", PATTERNS=_PATTERNS)

    async def recover(self) -> bool:
        """Clear away what killed processes left. False where the clone's own `.git` is broken."""
        answer = await self._run(_RECOVER, "the recovery")
        return "broken" not in answer.lines

    async def diff(self, limit_bytes: int) -> bytes:
        """The worktree against the base as a patch; one byte more than the limit where it is longer."""
        environment = self._environment({"LIMIT": str(limit_bytes + 1)})
        result = await self._box.capture(
            _script(_DIFF), env=environment, seconds=_SECONDS, limit_bytes=limit_bytes + 4096
        )
        return _checked(result, "diff", "").stdout

    async def commit(self, message: str, author: tuple[str, str], *, squash: bool) -> str | None:
        """The worktree as the last of the commits after the base; None where its tree is the base's."""
        who = dict(zip(("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL"), map(_one_line, author), strict=True))
        text = message.replace("\0", "").encode("utf-8", "replace")
        answer = await self._run(_COMMIT, "commit", stdin=text, SQUASH="yes" if squash else "", **who)
        return None if answer.name("tree") == self._base.tree else answer.name("commit")

    async def _run(self, script: str, what: str, *, stdin: bytes = b"", missing: str = "", **env: str) -> _Answer:
        result = await self._box.capture(_script(script), env=self._environment(env), stdin=stdin, seconds=_SECONDS)
        return _Answer(_checked(result, what, missing).stdout, what)

    def _environment(self, extra: dict[str, str]) -> dict[str, str]:
        return {
            "BASE": self._base.commit,
            "BASE_TREE": self._base.tree,
            "PICK": PICK,
            "MEND": MEND,
            "MAX_BYTES": str(MAX_FILE_MIB * 1024 * 1024),
            "GIT_AUTHOR_NAME": IDENTITY[0],
            "GIT_AUTHOR_EMAIL": IDENTITY[1],
            "GIT_COMMITTER_NAME": IDENTITY[0],
            "GIT_COMMITTER_EMAIL": IDENTITY[1],
            **extra,
        }


class _Answer:
    """What a script said, line by line. Names of objects are checked: the script ran among a model's files."""

    def __init__(self, stdout: bytes, what: str) -> None:
        self.lines = stdout.decode("ascii", "replace").splitlines()
        self._what = what

    def name(self, key: str) -> str:
        values = [line.removeprefix(f"{key} ") for line in self.lines if line.startswith(f"{key} ")]
        if not values or not SHA.match(values[-1]):
            raise GitError(f"{self._what}: git in the box named no {key}")
        return values[-1]

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        found: dict[str, LeftOut] = {}
        for line in self.lines:
            if entry := re.fullmatch(r"left (\d{1,20}) ((?:[0-9a-f]{2})+)", line):
                path = bytes.fromhex(entry[2]).decode("utf-8", "backslashreplace")
                found[path] = LeftOut(path, int(entry[1]))
        return tuple(found.values())


def _script(text: str) -> list[str]:
    return ["/bin/sh", "-c", _FUNCTIONS + text]


def _checked(result: Captured, what: str, missing: str) -> Captured:
    if result.exit_code == 3 and missing:
        raise GitError(missing, exit_code=3, stderr=result.stderr)
    if not result.ok:
        how = f"exit code {result.exit_code}" if result.ended == "exited" else f"stopped: {result.ended}"
        said = result.stderr.strip()[-1000:]
        raise GitError(f"{what} failed in the box ({how}): {said}", exit_code=result.exit_code, stderr=said)
    return result


def _no_tree(tree: str) -> str:
    return f"there is no checkpoint with the tree {tree}"


def _check_name(name: str) -> None:
    if not SHA.match(name):
        raise ValueError(f"{name!r} is not an object name")


def _one_line(text: str) -> str:
    return re.sub(r"[\x00-\x1f<>\x7f]", " ", text).strip() or IDENTITY[0]
