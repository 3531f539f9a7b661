"""Reading regular files, whole or by lines. Standard library only; runs in a box."""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Iterator
from typing import Any, NamedTuple

from nightcrew_workspaces import boxd_text
from nightcrew_workspaces.boxd_paths import Places, check_place
from nightcrew_workspaces.boxd_text import Refused

LARGEST_FILE = 10 * 1024 * 1024
"""Bytes of a file that is held in memory: to be edited, written, or searched."""
LARGEST_STREAMED = 1024 * 1024 * 1024
"""Bytes of a file of which lines are read."""
LARGEST_REPLY = 256 * 1024
"""Characters of text in one answer."""
_CHUNK = 1024 * 1024
_TRIES = 3
_HOW = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Loaded(NamedTuple):
    """A file's content, and its status when it was read."""

    raw: bytes
    status: os.stat_result

    @property
    def mode(self) -> int:
        """Permission bits."""
        return stat.S_IMODE(self.status.st_mode) & 0o777


def load(places: Places, path: str, real: str) -> Loaded:
    """A regular file as a whole. One that changes while it is read is read again."""
    status = regular(places, path, real)
    raw = b""
    for _ in range(_TRIES):
        check_size(status.st_size, path)
        descriptor = open_regular(real)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            raw = file.read(LARGEST_FILE + 1) if status.st_size else b"".join(_chunks(descriptor, LARGEST_FILE + 1))
            before, status = status, os.fstat(descriptor)
        check_size(len(raw), path)
        if len(raw) == status.st_size and same(before, status):
            break
    return Loaded(raw, status)


def open_regular(real: str) -> int:
    """A descriptor of the file that is at a real path; refused when something else has taken its place."""
    descriptor = os.open(real, _HOW)
    try:
        check_place(descriptor, real)
        _check_regular(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_regular(descriptor: int) -> None:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise Refused("changed", "the file was replaced by something else while it was opened; try again")


def same(before: os.stat_result, after: os.stat_result) -> bool:
    """Whether a file is the one that it was, as far as its status tells."""
    return (before.st_ino, before.st_dev, before.st_size, before.st_mtime_ns) == (
        *(after.st_ino, after.st_dev),
        *(after.st_size, after.st_mtime_ns),
    )


def regular(places: Places, path: str, real: str) -> os.stat_result:
    """The status of a regular file; anything else is refused with what it is."""
    try:
        status = os.lstat(real)
    except FileNotFoundError:
        raise Refused("not_found", f"there is no file {path}{_nearby(places, real)}") from None
    if stat.S_ISDIR(status.st_mode):
        raise Refused("is_directory", f"{path} is a directory; list it instead")
    if not stat.S_ISREG(status.st_mode):
        raise Refused("not_a_file", f"{path} is a pipe, socket or device, not a file")
    return status


def lines_of(places: Places, path: str, real: str, start: int, count: int | None) -> dict[str, Any]:
    """Lines of a text file from `start`, counted from 1, with line feeds as their endings."""
    if regular(places, path, real).st_size > LARGEST_FILE:
        return _lines_streamed(path, real, start, count)
    raw = load(places, path, real).raw
    content = boxd_text.split_lines(boxd_text.decode(raw, path).text.replace("\r\n", "\n"))
    _check_start(start, len(content), path)
    wanted = content[start - 1 :] if count is None else content[start - 1 : start - 1 + max(count, 0)]
    kept, truncated = within_reply(wanted)
    return _answer("".join(kept), start, len(kept), len(content), truncated) | facts(raw)


def facts(raw: bytes) -> dict[str, Any]:
    """What programs want to know of a content."""
    return {"size": len(raw), "sha256": sha256(raw)}


def sha256(raw: bytes) -> str:
    import hashlib  # noqa: PLC0415 (7 ms at start)

    return hashlib.sha256(raw).hexdigest()


def check_size(size: int, path: str) -> None:
    if size > LARGEST_FILE:
        limit = f"{LARGEST_FILE >> 20} MiB"
        raise Refused("too_large", f"{path} has {size} bytes, more than {limit}; use a command to look at parts of it")


def check_unchanged(raw: bytes, expected_sha256: str | None, path: str) -> None:
    """Refuse a file that is not the one that somebody read."""
    if expected_sha256 is not None and sha256(raw) != expected_sha256.lower():
        raise Refused("changed", f"{path} has changed since it was read; read it again")


def within_reply(texts: list[str]) -> tuple[list[str], bool]:
    """As many as one answer may hold, and whether something is missing; a first one that is too long is cut."""
    left = LARGEST_REPLY
    for index, text in enumerate(texts):
        left -= len(text)
        if left < 0:
            return texts[:index] or [text[:LARGEST_REPLY]], True
    return texts, False


def _lines_streamed(path: str, real: str, start: int, count: int | None) -> dict[str, Any]:
    """Lines of a file that is too large to be held, which is read to its end for its number of lines and its hash."""
    import hashlib  # noqa: PLC0415

    digest, kept, held, cut = hashlib.sha256(), bytearray(), 4 * LARGEST_REPLY, False
    line, size, last = 1, 0, b"\n"
    end = None if count is None else start + max(count, 0)
    with os.fdopen(open_regular(real), "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size > LARGEST_STREAMED:
            limit = f"{LARGEST_STREAMED >> 30} GiB"
            raise Refused("too_large", f"{path} has more than {limit}; use a command to look at parts of it")
        for chunk in _chunks(file.fileno(), LARGEST_STREAMED):
            if b"\0" in chunk:
                raise Refused("not_text", f"{path} is not a text file (binary); use a command to look at it")
            digest.update(chunk)
            feeds = chunk.count(b"\n")
            wanted = line + feeds >= start and (end is None or line < end)
            cut |= wanted and len(kept) >= held
            if wanted and not cut:
                kept += _between_lines(chunk, start - line, None if end is None else end - line)
            line, size, last = line + feeds, size + len(chunk), chunk[-1:]
    total = line if last != b"\n" else line - 1
    _check_start(start, total, path)
    lines = boxd_text.split_lines(boxd_text.decode(_whole(bytes(kept), cut=cut), path).text.replace("\r\n", "\n"))
    shown, truncated = within_reply(lines)
    asked = total - start + 1 if count is None else min(max(count, 0), total - start + 1)
    answer = _answer("".join(shown), start, len(shown), total, truncated or len(shown) < asked)
    return answer | {"size": size, "sha256": digest.hexdigest()}


def _between_lines(chunk: bytes, first: int, end: int | None) -> bytes:
    """What of a chunk belongs to the lines `first` up to `end`, counted from the line in which it begins, that is 0."""
    begin = _after_feeds(chunk, first)
    return chunk[begin:] if end is None else chunk[begin : _after_feeds(chunk, end)]


def _after_feeds(chunk: bytes, feeds: int) -> int:
    """The position after so many line feeds, or the end."""
    at = 0
    for _ in range(feeds):
        at = chunk.find(b"\n", at) + 1
        if not at:
            return len(chunk)
    return at


def _whole(piece: bytes, *, cut: bool) -> bytes:
    """A piece of a file that ends with a whole line, or where there is none with a whole character."""
    if not cut:
        return piece
    if feed := piece.rfind(b"\n") + 1:
        return piece[:feed]
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(piece).encode()
    except UnicodeDecodeError:
        return piece


def _chunks(descriptor: int, most: int) -> Iterator[bytes]:
    while most > 0 and (chunk := os.read(descriptor, min(_CHUNK, most))):
        most -= len(chunk)
        yield chunk


def _answer(text: str, start: int, lines: int, total: int, truncated: bool) -> dict[str, Any]:
    place = {"first_line": start, "last_line": start - 1 + lines, "total_lines": total}
    return {"text": text, "truncated": truncated, **place}


def _check_start(start: int, total: int, path: str) -> None:
    if start < 1 or (start > total and start > 1):
        raise Refused("bad_request", f"{path} has {total} lines; there is no line {start}")


def _nearby(places: Places, real: str) -> str:
    """What a person who asked for a file that is not there may have meant."""
    import difflib  # noqa: PLC0415 (only where something went wrong)
    import itertools  # noqa: PLC0415

    folder = os.path.dirname(real)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    if not places.holds(folder):
        return ""
    with os.scandir(folder) as found:
        names = sorted(entry.name for entry in itertools.islice(found, 2000))
    close = difflib.get_close_matches(os.path.basename(real), names, 3)
    alike = ", ".join(places.label(os.path.join(folder, name)) for name in close)
    return f"; did you mean {alike}?" if alike else f"; list {places.label(folder)} to see what there is"
