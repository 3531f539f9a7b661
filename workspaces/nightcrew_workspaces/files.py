"""Files of a workspace, through the helper that runs in its box.

Paths are relative to the workspace, or absolute under /workspace. What comes back was made in a box that a model works
in: it is checked for its shape here and trusted in nothing else.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TypeVar, cast

import anyio
from pydantic import TypeAdapter, ValidationError

from nightcrew_workspaces.box import Box, BoxChannel
from nightcrew_workspaces.errors import FILE_CODES, BoxError, FileCode, FileError
from nightcrew_workspaces.policy import SUPPORT

_HELPER = (
    *("/usr/bin/python3", "-I", "-S", "-B", "-c"),
    f"import sys; sys.path.insert(0, '{SUPPORT}/lib'); from nightcrew_workspaces.boxd import main; main()",
)
_LARGEST_FRAME = 16 * 1024 * 1024
_START_SECONDS = 30.0
_UNREADABLE = "the file helper's answer cannot be read; try again"
_HARMLESS = frozenset({"read", "list", "glob", "search"})
_T = TypeVar("_T")


@dataclass(frozen=True)
class FileText:
    """Lines of a text file, with line feeds as their endings whatever the file has."""

    text: str
    first_line: int
    """Counted from 1."""
    last_line: int
    """Less than `first_line` when there are none."""
    total_lines: int
    size: int
    """Bytes of the whole file."""
    sha256: str
    """Of the whole file, in hex."""
    truncated: bool
    """Fewer lines than were asked for, because an answer holds 256 KiB of text at most."""


@dataclass(frozen=True)
class Written:
    created: bool
    size: int
    sha256: str


@dataclass(frozen=True)
class Edited:
    diff: str
    """Unified diff of what changed, or would."""
    replaced: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Entry:
    path: str
    kind: str
    """`file`, `directory`, `link` or `other`."""
    size: int
    """Bytes of a file, otherwise 0."""


@dataclass(frozen=True)
class Match:
    path: str
    line: int
    """Counted from 1."""
    text: str
    """The line without its ending; of a long one the part around the match."""
    is_match: bool = True
    """False for a line that is only near one (`context`)."""


@dataclass(frozen=True)
class SearchResult:
    matches: tuple[Match, ...]
    truncated: bool


@dataclass(frozen=True)
class _Refusal:
    code: str
    message: str


@dataclass(frozen=True)
class _Entries:
    entries: list[tuple[str, str, int]]


@dataclass(frozen=True)
class _Paths:
    paths: list[str]
    truncated: bool


@dataclass(frozen=True)
class _Hits:
    matches: list[tuple[str, int, str, bool]]
    truncated: bool


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
_PATHS = TypeAdapter(_Paths)
_HITS = TypeAdapter(_Hits)


class Files:
    """The files of one box. One request at a time; every method raises `FileError`.

    A helper that died is started again at the next request.
    """

    def __init__(self, box: Box, *, seconds: float = 60.0) -> None:
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

    async def delete(self, path: str) -> None:
        """Remove a file or a symbolic link."""
        await self._ask(_NOTHING, "delete", path=path)

    async def move(self, path: str, to: str) -> None:
        """Rename to a path that is not taken, making its directories."""
        await self._ask(_NOTHING, "move", path=path, to=to)

    async def list(self, path: str = ".", *, depth: int = 1, limit: int = 1000) -> list[Entry]:
        """What is in a directory, sorted, without what .gitignore names and without .git."""
        found = await self._ask(_ENTRIES, "list", path=path, depth=depth, limit=limit)
        return [Entry(*entry) for entry in found.entries]

    async def glob(self, pattern: str, *, limit: int = 1000) -> tuple[list[str], bool]:
        """Sorted paths of files, and whether there are more; a pattern without a slash is about names anywhere."""
        found = await self._ask(_PATHS, "glob", pattern=pattern, limit=limit)
        return found.paths, found.truncated

    async def search(
        self,
        pattern: str,
        *,
        path: str = ".",
        glob: str | None = None,
        regex: bool = True,
        limit: int = 200,
        context: int = 0,
    ) -> SearchResult:
        """Lines that match, case-sensitively, sorted by path and line; `context` lines before and after each."""
        asked = {"path": path, "glob": glob, "regex": regex, "limit": limit, "context": context}
        found = await self._ask(_HITS, "search", pattern=pattern, **asked)
        return SearchResult(tuple(Match(*match) for match in found.matches), found.truncated)

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
        channel = self._channel = await self._box.spawn(_HELPER)
        try:
            with anyio.fail_after(_START_SECONDS):
                await _receive(channel)
        except BaseException as error:
            self._channel = None
            await channel.aclose()
            if isinstance(error, (OSError, asyncio.IncompleteReadError, TimeoutError)):
                said = channel.errors() or "it ended at once"
                raise BoxError(f"the file helper did not start: {said}") from error
            raise
        return channel

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


def _opened(kind: TypeAdapter[_T], answer: object) -> _T:
    try:
        checked = _ANSWER.validate_python(answer)
        if checked.error is None:
            return kind.validate_python(checked.ok)
    except ValidationError as error:
        raise FileError("failed", _UNREADABLE) from error
    code = checked.error.code if checked.error.code in FILE_CODES else "failed"
    raise FileError(cast("FileCode", code), checked.error.message)
