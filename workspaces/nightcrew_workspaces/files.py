"""Files of a workspace, through the helper that runs in its box.

Paths are relative to the first root, or absolute under any of them, and answers name what is below the first root
relative to it; a workspace has the one root /workspace. What comes back was made in a box that a model works in: it is
checked for its shape here and trusted in nothing else.

Lists come in pages, sorted: `after` takes the `cursor` of the page before, and stays right when files come and go.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar, cast

import anyio
from pydantic import TypeAdapter, ValidationError

from nightcrew_workspaces.box import Box, BoxChannel
from nightcrew_workspaces.errors import FILE_CODES, FileCode, FileError
from nightcrew_workspaces.file_facts import (
    Edit,
    Edited,
    EditedFile,
    Entry,
    FileBytes,
    FileStat,
    FileText,
    FoundPaths,
    Listing,
    Match,
    Outline,
    SearchResult,
    Written,
)
from nightcrew_workspaces.helpers import start_helper
from nightcrew_workspaces.policy import SUPPORT, WORKSPACE

_HELPER = (
    *("/usr/bin/python3", "-I", "-S", "-B", "-c"),
    f"import sys; sys.path.insert(0, '{SUPPORT}/lib'); from nightcrew_workspaces.boxd import main; main()",
)
_LARGEST_FRAME = 16 * 1024 * 1024
_UNREADABLE = "the file helper's answer cannot be read; try again"
_LARGEST_BYTES = 8 * 1024 * 1024
_HARMLESS = frozenset({"read", "read_bytes", "stat", "list", "list_all", "outline", "glob", "search"})
_T = TypeVar("_T")


@dataclass(frozen=True)
class _Refusal:
    code: str
    message: str


@dataclass(frozen=True)
class _Bytes:
    base64: str
    sha256: str


@dataclass(frozen=True)
class _Entries:
    entries: list[tuple[str, str, int]]
    cursor: str | None


@dataclass(frozen=True)
class _Hits:
    matches: list[tuple[str, int, str, bool]]
    cursor: str | None


@dataclass(frozen=True)
class _EditedFiles:
    files: tuple[EditedFile, ...]


@dataclass(frozen=True)
class _Made:
    created: bool


@dataclass(frozen=True)
class _Answer:
    ok: object = None
    error: _Refusal | None = None


_ANSWER = TypeAdapter(_Answer)
_TEXT = TypeAdapter(FileText)
_WRITTEN = TypeAdapter(Written)
_EDITED = TypeAdapter(Edited)
_NOTHING = TypeAdapter(dict[str, object])
_ENTRIES = TypeAdapter(_Entries)
_BYTES = TypeAdapter(_Bytes)
_STAT = TypeAdapter(FileStat)
_EDITED_FILES = TypeAdapter(_EditedFiles)
_MADE = TypeAdapter(_Made)
_OUTLINE = TypeAdapter(Outline)
_PATHS = TypeAdapter(FoundPaths)
_HITS = TypeAdapter(_Hits)


class Files:
    """The files of one box. One request at a time; every method raises `FileError`.

    A helper that died is started again at the next request.
    """

    def __init__(self, box: Box, *, roots: Sequence[str] = (WORKSPACE,), seconds: float = 60.0) -> None:
        self.roots = tuple(roots)
        """Directories of the box; one that it shows read-only is not written to (`read_only`)."""
        self._box = box
        self._seconds = seconds
        self._channel: BoxChannel | None = None
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Start the helper before it is needed. Raises `BoxUnavailable` or `BoxError` when that fails."""
        async with self._lock:
            await self._started()

    async def aclose(self) -> None:
        """Stop the helper; it would start again at the next request."""
        async with self._lock:
            await self._drop()

    async def read(self, path: str, *, start: int = 1, lines: int | None = None) -> FileText:
        """Lines of a text file from `start`; all of them when `lines` is None."""
        return await self._ask(_TEXT, "read", path=path, start=start, lines=lines)

    async def read_bytes(self, path: str, *, limit: int = _LARGEST_BYTES) -> FileBytes:
        """A file of at most `limit` bytes, 8 MiB at most, whatever is in it."""
        found = await self._ask(_BYTES, "read_bytes", path=path, limit=min(limit, _LARGEST_BYTES))
        try:
            return FileBytes(base64.b64decode(found.base64, validate=True), found.sha256)
        except (binascii.Error, ValueError) as error:
            raise FileError("failed", _UNREADABLE) from error

    async def stat(self, path: str) -> FileStat:
        """What is known of a file, directory or symbolic link without showing it."""
        return await self._ask(_STAT, "stat", path=path)

    async def write(self, path: str, text: str, *, expected_sha256: str | None = None) -> Written:
        """Write a whole file, making its directories; an existing one keeps mode, encoding and line endings.

        With `expected_sha256` a file that is different, or gone, is left alone (`changed`).
        """
        return await self._ask(_WRITTEN, "write", path=path, text=text, expected_sha256=expected_sha256)

    async def edit(
        self,
        path: str,
        old: str,
        new: str,
        *,
        count: int = 1,
        expected_sha256: str | None = None,
        dry_run: bool = False,
    ) -> Edited:
        """Replace `old`, which is there exactly `count` times; nothing else in the file changes."""
        asked = {"old": old, "new": new, "count": count, "expected_sha256": expected_sha256, "dry_run": dry_run}
        return await self._ask(_EDITED, "edit", path=path, **asked)

    async def edit_all(self, edits: Sequence[Edit], *, dry_run: bool = False) -> tuple[EditedFile, ...]:
        """Make all edits, each on what those before it made, or none of them.

        Nothing is written before all of it could be; a helper killed between two files leaves some of them changed.
        """
        asked = [asdict(edit) for edit in edits]
        return (await self._ask(_EDITED_FILES, "edit_all", edits=asked, dry_run=dry_run)).files

    async def append(self, path: str, text: str) -> Written:
        """Put text at the end of a file, beginning on a line of its own; makes the file where there is none."""
        return await self._ask(_WRITTEN, "append", path=path, text=text)

    async def delete(self, path: str, *, recursive: bool = False) -> None:
        """Remove a file, a symbolic link or an empty directory; `recursive`: a directory with all that is in it."""
        await self._ask(_NOTHING, "delete", path=path, recursive=recursive)

    async def move(self, path: str, to: str) -> None:
        """Rename to a path that is not taken, making its directories."""
        await self._ask(_NOTHING, "move", path=path, to=to)

    async def copy(self, path: str, to: str) -> None:
        """Copy a file or a directory to a path that is not taken, making its directories."""
        await self._ask(_NOTHING, "copy", path=path, to=to)

    async def make_folder(self, path: str) -> bool:
        """Make a directory; False where it is there already."""
        return (await self._ask(_MADE, "make_folder", path=path)).created

    async def list(self, path: str = ".", *, depth: int = 1, limit: int = 1000, after: str | None = None) -> Listing:
        """What is in a directory down to `depth` levels, without what .gitignore names and without .git."""
        found = await self._ask(_ENTRIES, "list", path=path, depth=depth, limit=limit, after=after)
        return _listing(found)

    async def list_all(self, path: str = ".", *, limit: int = 1000, after: str | None = None) -> Listing:
        """What is in one directory, everything."""
        return _listing(await self._ask(_ENTRIES, "list_all", path=path, limit=limit, after=after))

    async def outline(
        self,
        path: str = ".",
        *,
        pattern: str | None = None,
        depth: int | None = None,
        limit: int = 200,
        after: str | None = None,
    ) -> Outline:
        """Files below a directory that match a glob, those below `depth` levels only counted.

        Without a depth it is as deep as fits into `limit` lines.
        """
        asked = {"pattern": pattern, "depth": depth, "limit": limit, "after": after}
        return await self._ask(_OUTLINE, "outline", path=path, **asked)

    async def glob(self, pattern: str, *, path: str = ".", limit: int = 1000, after: str | None = None) -> FoundPaths:
        """Files below `path` that match a glob: a pattern without a slash is about names anywhere."""
        return await self._ask(_PATHS, "glob", pattern=pattern, path=path, limit=limit, after=after)

    async def search(
        self,
        pattern: str,
        *,
        path: str = ".",
        glob: str | None = None,
        regex: bool = True,
        limit: int = 200,
        context: int = 0,
        after: str | None = None,
    ) -> SearchResult:
        """Lines that match, case-sensitively, sorted by path and line; `context` lines before and after each."""
        asked = {"path": path, "glob": glob, "regex": regex, "limit": limit, "context": context, "after": after}
        found = await self._ask(_HITS, "search", pattern=pattern, **asked)
        return SearchResult(tuple(Match(*match) for match in found.matches), found.cursor)

    async def _ask(self, kind: TypeAdapter[_T], op: str, **arguments: object) -> _T:
        try:
            body = json.dumps({"op": op, **arguments}, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise FileError("bad_request", "the text holds half a character (a lone surrogate); leave it out") from None
        async with self._lock:
            try:
                answer = await self._attempt(op, body)
            except (OSError, asyncio.IncompleteReadError) as error:
                if op not in _HARMLESS:
                    message = f"the file helper ended during {op}; look at the file before trying again"
                    raise FileError("failed", message) from error
                answer = await self._attempt(op, body)
        return _opened(kind, answer)

    async def _attempt(self, op: str, body: bytes) -> object:
        channel = await self._started()
        try:
            with anyio.fail_after(self._seconds):
                return await _exchange(channel, body)
        except TimeoutError:
            await self._drop()
            raise FileError("timeout", f"{op} took longer than {self._seconds:g} seconds; ask for less") from None
        except BaseException:
            # What may still come would be taken for the answer to the next request.
            await self._drop()
            raise

    async def _started(self) -> BoxChannel:
        if self._channel is not None and self._channel.alive:
            return self._channel
        await self._drop()
        self._channel = await start_helper(self._box, (*_HELPER, *self.roots), "file helper", _receive)
        return self._channel

    async def _drop(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.aclose()


async def _exchange(channel: BoxChannel, body: bytes) -> object:
    with channel.memory_watched():
        channel.writer.write(len(body).to_bytes(4, "big") + body)
        await channel.writer.drain()
        return await _receive(channel)


async def _receive(channel: BoxChannel) -> object:
    size = int.from_bytes(await channel.reader.readexactly(4), "big")
    if size > _LARGEST_FRAME:
        raise FileError("failed", _UNREADABLE)
    try:
        return json.loads(await channel.reader.readexactly(size))
    except ValueError as error:
        raise FileError("failed", _UNREADABLE) from error


def _listing(found: _Entries) -> Listing:
    return Listing(tuple(Entry(*entry) for entry in found.entries), found.cursor)


def _opened(kind: TypeAdapter[_T], answer: object) -> _T:
    try:
        checked = _ANSWER.validate_python(answer)
        if checked.error is None:
            return kind.validate_python(checked.ok)
    except ValidationError as error:
        raise FileError("failed", _UNREADABLE) from error
    code = checked.error.code if checked.error.code in FILE_CODES else "failed"
    raise FileError(cast("FileCode", code), checked.error.message)
