"""Whether what a box committed may leave it: commits, trees and links are read here, not believed from a listing.

An entry that the base has at the same path is left alone, whatever it is: the source is trusted.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nightcrew_workspaces.errors import GitError, HarvestRefused
from nightcrew_workspaces.git import SHA, Git

_MOST_TREES = 50_000
_MOST_COMMITS = 1_000
_LARGEST = {"commit": 1024 * 1024, "tree": 32 * 1024 * 1024, "blob": 4096}
"""Bytes of one object that is read; a blob is only read where it is the target of a symbolic link."""

_FILES = frozenset({b"100644", b"100755"})
_LINK = b"120000"
_TREE = b"40000"
_GITLINK = b"160000"

# What HFS+ leaves out when it compares names, as git's own utf8.c lists it.
_IGNORED_BY_HFS = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
_NTFS_TAIL = re.compile(r"[. ]*(?::.*)?$", re.DOTALL)
_CONTROLS = re.compile(rb"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Entry:
    """One line of a tree."""

    mode: bytes
    name: bytes
    oid: str


@dataclass(frozen=True)
class Commit:
    """What is used of a commit."""

    oid: str
    tree: str
    parents: tuple[str, ...]
    subject: str


class Objects:
    """Objects of one repository, from a running `git cat-file`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._trees: dict[str, tuple[Entry, ...]] = {}

    async def read(self, oid: str, kind: str) -> bytes:
        """One object's content. Raises `HarvestRefused` where it is not there, of another kind, or too large."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{oid}\n".encode())
        await stdin.drain()
        header = (await stdout.readline()).decode("ascii", "replace").split()
        if len(header) != 3:
            raise HarvestRefused(f"the {kind} {oid} is missing")
        if header[1] != kind:
            raise HarvestRefused(f"{oid} is a {header[1]} where a {kind} belongs")
        if int(header[2]) > _LARGEST[kind]:
            raise HarvestRefused(f"the {kind} {oid} has {header[2]} bytes, more than {_LARGEST[kind]}")
        return (await stdout.readexactly(int(header[2]) + 1))[:-1]

    async def tree(self, oid: str) -> tuple[Entry, ...]:
        if oid not in self._trees:
            self._trees[oid] = tuple(parse_tree(await self.read(oid, "tree"), len(oid) // 2))
        return self._trees[oid]

    async def commit(self, oid: str) -> Commit:
        return parse_commit(oid, await self.read(oid, "commit"))


@contextlib.asynccontextmanager
async def open_objects(git: Git, git_dir: Path, env: Mapping[str, str]) -> AsyncGenerator[Objects]:
    """Read objects of a repository for a while."""
    async with git.process("cat-file", "--batch", git_dir=git_dir, env=env) as process:
        try:
            yield Objects(process)
        except (asyncio.IncompleteReadError, BrokenPipeError, ConnectionResetError, ValueError) as error:
            raise GitError("git cat-file ended too early") from error


def parse_tree(data: bytes, width: int) -> list[Entry]:
    """The entries of a tree object; `width` is the length of an object name in bytes."""
    entries: list[Entry] = []
    position = 0
    while position < len(data):
        space, end = data.find(b" ", position), data.find(b"\0", position)
        if not position < space < end or end + 1 + width > len(data):
            raise HarvestRefused("a tree object is damaged")
        oid = data[end + 1 : end + 1 + width].hex()
        entries.append(Entry(data[position:space], data[space + 1 : end], oid))
        position = end + 1 + width
    return entries


def parse_commit(oid: str, data: bytes) -> Commit:
    """What is used of a commit object; the subject is cleaned and cut to 200 characters."""
    head, _, message = data.partition(b"\n\n")
    lines = [line.partition(b" ") for line in head.split(b"\n")]
    tree = next((value.decode("ascii", "replace") for key, _, value in lines if key == b"tree"), "")
    parents = tuple(value.decode("ascii", "replace") for key, _, value in lines if key == b"parent")
    if not all(SHA.match(name) for name in (tree, *parents)):
        raise HarvestRefused(f"the commit {oid} is damaged")
    return Commit(oid, tree, parents, clean_subject(message))


def clean_subject(message: bytes) -> str:
    """The first line of a message as plain text."""
    first = next((line for line in message.decode("utf-8", "replace").splitlines() if line.strip()), "")
    return "".join(letter if letter.isprintable() else " " for letter in first).strip()[:200]


def forbidden_name(name: bytes) -> str | None:
    """Why a name may not stand in a tree, None where it may. Some file systems read several spellings as `.git`."""
    if name in {b"", b".", b".."}:
        return f"the name {name.decode()!r}"
    if b"/" in name:
        return "a slash in a name"
    if _CONTROLS.search(name):
        return "a control character in a name"
    for part in name.split(b"\\"):
        if _is_git(part):
            return "a name that stands for .git"
        if part == b"..":
            return "a name that leads upwards"
    return None


def _is_git(name: bytes) -> bool:
    text = name.decode("utf-8", "replace").casefold()
    spellings = (text, _IGNORED_BY_HFS.sub("", text))
    return any(_NTFS_TAIL.sub("", spelling) in {".git", "git~1"} for spelling in spellings)


def forbidden_link(folder: str, target: bytes) -> str | None:
    """Why a symbolic link in `folder` (with a slash at its end, or empty) may not have this target."""
    if not target or target.startswith(b"/"):
        return "a symbolic link to an absolute path" if target else "an empty symbolic link"
    if b"\0" in target:
        return "a symbolic link with a NUL character"
    parts = [part for part in target.split(b"/") if part not in {b"", b"."}]
    ups = next((index for index, part in enumerate(parts) if part != b".."), len(parts))
    if ups > folder.count("/"):
        return "a symbolic link that leads out of the repository"
    # After a first step down, `..` may start from wherever another link leads.
    if b".." in parts[ups:]:
        return "a symbolic link that goes down and up again"
    if any(_is_git(part) for part in parts):
        return "a symbolic link into .git"
    return None


@dataclass
class TreeCheck:
    """Checks new trees against the base's. Raises `HarvestRefused` with the path and the reason."""

    objects: Objects
    base_tree: str
    files: dict[str, str] = field(default_factory=dict[str, str])
    """Object name to path of every file that is new or changed."""
    _seen: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])

    async def check(self, tree: str) -> None:
        """Check everything below a root tree."""
        waiting = [("", tree, self.base_tree)]
        while waiting:
            folder, new, old = waiting.pop()
            if new == old or (folder, new) in self._seen:
                continue
            self._seen.add((folder, new))
            if len(self._seen) > _MOST_TREES:
                raise HarvestRefused(f"more than {_MOST_TREES} directories were changed")
            before = {entry.name: entry for entry in (await self.objects.tree(old) if old else ())}
            for entry in await self.objects.tree(new):
                known = before.get(entry.name)
                if known == entry:
                    continue
                path = folder + entry.name.decode("utf-8", "backslashreplace")
                if known is None and (reason := forbidden_name(entry.name)):
                    raise HarvestRefused(f"{path!r}: {reason}")
                await self._check_entry(path, folder, entry, known)
                if entry.mode == _TREE:
                    below = known.oid if known is not None and known.mode == _TREE else ""
                    waiting.append((f"{path}/", entry.oid, below))

    async def _check_entry(self, path: str, folder: str, entry: Entry, known: Entry | None) -> None:
        if entry.mode == _LINK:
            reason = forbidden_link(folder, await self.objects.read(entry.oid, "blob"))
            if reason:
                raise HarvestRefused(f"{path!r}: {reason}")
        elif entry.mode == _GITLINK:
            raise HarvestRefused(f"{path!r}: a submodule that the base does not have in this state")
        elif entry.mode in _FILES or (known is not None and entry.mode == known.mode and entry.mode != _TREE):
            self.files[entry.oid] = path
        elif entry.mode != _TREE:
            raise HarvestRefused(f"{path!r}: the file mode {entry.mode.decode('ascii', 'replace')}")


async def check_commits(objects: Objects, new: list[str], border: frozenset[str], base: str) -> list[Commit]:
    """Read the commits after the base; `border` are the older commits that they follow.

    Raises `HarvestRefused` where the base is not one of those, or a commit follows none.
    """
    if len(new) > _MOST_COMMITS:
        raise HarvestRefused(f"there are more than {_MOST_COMMITS} new commits")
    if base not in border:
        raise HarvestRefused(f"the commit {new[0]} does not descend from the base {base}")
    commits = [await objects.commit(oid) for oid in new]
    for commit in commits:
        if not commit.parents:
            raise HarvestRefused(f"the commit {commit.oid} begins a history of its own")
    return commits
