"""What git writes for programs, as values: pure functions over the formats of its manual pages.

Input is what a box wrote, so a record that is not as it should be is left out and never trusted to be anything.
Names are as `git_words.shown` writes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from nightcrew_tools.git_words import shown, visible

State = Literal["none", "merge", "rebase", "cherry-pick", "revert", "am", "bisect"]
"""What a repository is in the middle of."""

STATE_FILES: dict[str, State] = {
    "rebase-merge": "rebase",
    "rebase-apply/applying": "am",
    "rebase-apply": "rebase",
    "CHERRY_PICK_HEAD": "cherry-pick",
    "REVERT_HEAD": "revert",
    "MERGE_HEAD": "merge",
    "BISECT_LOG": "bisect",
}
"""Files of the git directory that tell what it is in the middle of; the first that is there counts."""

_SUBMODULE = "160000"
_HEADER = re.compile(rb"# (branch\.(?:oid|head|upstream|ab)|stash) (.*)", re.DOTALL)
_POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-[^\n]*\n)*oid (\S+)\nsize (\d+)\n?")


@dataclass(frozen=True)
class Change:
    """A file that is not as in the last commit."""

    code: str
    """Two letters as in `git status --short`: index, worktree."""
    path: str
    origin: str | None = None
    """Where it was before it was renamed or copied."""
    submodule: bool = False
    conflict: bool = False

    @property
    def staged(self) -> bool:
        return not self.conflict and self.code[0] not in " ?!"

    @property
    def unstaged(self) -> bool:
        return not self.conflict and self.code[1] not in " ?!"

    @property
    def untracked(self) -> bool:
        return self.code == "??"


@dataclass(frozen=True)
class Status:
    """`git status --porcelain=v2 -z --branch --show-stash`."""

    commit: str | None = None
    """None on a branch without a commit."""
    branch: str | None = None
    """None where HEAD is detached."""
    upstream: str | None = None
    ahead: int | None = None
    """None where the upstream branch is gone, or there is none."""
    behind: int | None = None
    stashes: int = 0
    changes: tuple[Change, ...] = ()

    @property
    def conflicts(self) -> tuple[str, ...]:
        return tuple(change.path for change in self.changes if change.conflict)


@dataclass(frozen=True)
class Commit:
    """One line of a log."""

    id: str
    short: str
    date: str
    author: str
    subject: str
    refs: str = ""


LOG_FORMAT = "%H%x00%h%x00%ad%x00%an%x00%D%x00%s"


@dataclass(frozen=True)
class BlameLine:
    number: int
    """Counted from 1, in the file as it was asked for."""
    commit: str
    """All zeros where the line is not committed."""
    author: str
    time: int
    """Seconds since 1970, UTC."""
    summary: str
    text: str


@dataclass(frozen=True)
class Worktree:
    path: str
    commit: str | None
    branch: str | None
    bare: bool = False
    note: str = ""
    """`locked`, `prunable` or nothing."""


def parse_status(data: bytes) -> Status:
    """Records end with NUL; a renamed file's record is followed by its old name."""
    headers: dict[str, str] = {}
    changes: list[Change] = []
    records = iter(data.split(b"\0"))
    for record in records:
        if found := _HEADER.fullmatch(record):
            headers[found[1].decode()] = visible(found[2])
        elif change := _change(record, records):
            changes.append(change)
    return _status(headers, tuple(changes))


def parse_log(data: bytes) -> tuple[Commit, ...]:
    """Records of `LOG_FORMAT` under `-z`."""
    fields = [visible(field) for field in data.split(b"\0")]
    return tuple(
        Commit(whole, short, date, author, subject, refs)
        for whole, short, date, author, refs, subject in zip(*(iter(fields),) * 6, strict=False)
    )


def parse_blame(data: bytes) -> tuple[BlameLine, ...]:
    """`git blame --porcelain`: what is known of a commit stands at its first line only."""
    known: dict[str, dict[str, str]] = {}
    lines: list[BlameLine] = []
    commit, number = "", 0
    for raw in data.split(b"\n"):
        if raw.startswith(b"\t"):
            facts = known.get(commit, {})
            time = facts.get("author-time", "0")
            when = int(time) if time.isdigit() else 0
            author, summary = facts.get("author", "?"), facts.get("summary", "")
            lines.append(BlameLine(number, commit, author, when, summary, visible(raw[1:].rstrip(b"\r"))))
        elif found := re.match(rb"([0-9a-f]{40,64}) \d+ (\d+)", raw):
            commit, number = found[1].decode(), int(found[2])
            known.setdefault(commit, {})
        elif commit and b" " in raw:
            key, value = raw.split(b" ", 1)
            known[commit].setdefault(visible(key), visible(value))
    return tuple(lines)


def parse_worktrees(data: bytes) -> tuple[Worktree, ...]:
    """`git worktree list --porcelain -z`: lines end with NUL, records with another."""
    worktrees: list[Worktree] = []
    for record in data.split(b"\0\0"):
        facts: dict[bytes, bytes] = {}
        for line in record.split(b"\0"):
            key, _, value = line.partition(b" ")
            facts[key] = value
        if b"worktree" in facts:
            branch = visible(facts[b"branch"]).removeprefix("refs/heads/") if b"branch" in facts else None
            note = next((name for name in ("locked", "prunable") if name.encode() in facts), "")
            commit = visible(facts[b"HEAD"]) if b"HEAD" in facts else None
            worktrees.append(Worktree(shown(facts[b"worktree"]), commit, branch, b"bare" in facts, note))
    return tuple(worktrees)


def parse_tree(data: bytes) -> tuple[str, ...]:
    """`git ls-tree -z --long`: a line for each entry, folders first to be told by their slash."""
    lines: list[str] = []
    for record in data.split(b"\0"):
        facts, _, name = record.partition(b"\t")
        fields = facts.split()
        if len(fields) != 4:
            continue
        mode, kind, _, size = (field.decode("ascii", "replace") for field in fields)
        ending = {"tree": "/", "commit": " (submodule)"}.get(kind, "")
        if kind == "blob":
            ending = " (symbolic link)" if mode == "120000" else f" ({size} bytes)"
        lines.append(shown(name) + ending)
    return tuple(lines)


def parse_state(found: Mapping[str, str]) -> tuple[State, str]:
    """What is in progress, and how far it is; `found` are the files of `STATE_FILES` and their progress."""
    state: State = "none"
    for name, meaning in reversed(STATE_FILES.items()):
        if name in found:
            state = meaning
    if state not in ("rebase", "am"):
        return state, ""
    for done, end in (("rebase-merge/msgnum", "rebase-merge/end"), ("rebase-apply/next", "rebase-apply/last")):
        if found.get(done, "").strip().isdigit() and found.get(end, "").strip().isdigit():
            return state, f"step {found[done].strip()} of {found[end].strip()}"
    return state, ""


def lfs_pointer(data: bytes) -> int | None:
    """Size in bytes of the content that a Git LFS pointer stands for; None for any other content."""
    found = _POINTER.fullmatch(data)
    return int(found[2]) if found else None


def _change(record: bytes, rest: Iterator[bytes]) -> Change | None:
    kind = record[:2]
    if kind in (b"? ", b"! "):
        return Change("??" if kind == b"? " else "!!", shown(record[2:]))
    wanted = {b"1 ": 9, b"2 ": 10, b"u ": 11}.get(kind)
    if wanted is None:
        return None
    fields = record.split(b" ", wanted - 1)
    origin = next(rest, b"") if kind == b"2 " else None
    if len(fields) != wanted:
        return None
    code = fields[1].decode("ascii", "replace").replace(".", " ")
    submodule = fields[2].startswith(b"S")
    path = shown(fields[-1])
    return Change(code, path, None if origin is None else shown(origin), submodule, kind == b"u ")


def _status(headers: dict[str, str], changes: tuple[Change, ...]) -> Status:
    commit, branch = headers.get("branch.oid"), headers.get("branch.head")
    ahead = behind = None
    if found := re.fullmatch(r"\+(\d+) -(\d+)", headers.get("branch.ab", "")):
        ahead, behind = int(found[1]), int(found[2])
    stashes = headers.get("stash", "0")
    return Status(
        None if commit == "(initial)" else commit,
        None if branch == "(detached)" else branch,
        headers.get("branch.upstream"),
        ahead,
        behind,
        int(stashes) if stashes.isdigit() else 0,
        changes,
    )
