"""The file helper: runs INSIDE a box and does there what file tools ask for, so that paths need no trust outside.

Frames on standard input and output: four bytes of length, big-endian, then JSON in UTF-8. A request is an object with
`op` and the operation's arguments, an answer has `ok` or `error` (`code`, `message`). The first frame is a greeting.
Standard library only; the box is the boundary, the checks of paths here are for good answers.
"""

# Paths here are strings from requests, and importing pathlib would cost a fifth of the start.
# ruff: noqa: PTH103, PTH104, PTH108, PTH112, PTH118, PTH119, PTH120, PTH208

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import stat
from collections.abc import Callable
from typing import Any

from nightcrew_workspaces import boxd_find, boxd_text
from nightcrew_workspaces.boxd_text import Refused, Text

GREETING = "nightcrew boxd 1"
LARGEST_FILE = 10 * 1024 * 1024
LARGEST_REPLY = 256 * 1024
"""Characters of text in one answer."""
_LARGEST_FRAME = 64 * 1024 * 1024
_MOST_RESULTS = 10_000
_DEEPEST = 20
_CODES = {
    errno.ENOENT: ("not_found", "there is no such file"),
    errno.EISDIR: ("is_directory", "it is a directory"),
    errno.ENOTDIR: ("not_a_file", "a part of the path is a file, not a directory"),
    errno.ELOOP: ("not_a_file", "its symbolic links go in a circle"),
    errno.EACCES: ("forbidden", "its permissions do not allow that"),
    errno.EPERM: ("forbidden", "its permissions do not allow that"),
    errno.EEXIST: ("not_a_file", "a part of the path is a file, not a directory"),
}
_counter = itertools.count()


class Helper:
    """The operations, on the files under `root`."""

    def __init__(self, root: str) -> None:
        self.root = os.path.realpath(root)

    def read(self, path: str, start: int = 1, lines: int | None = None) -> dict[str, Any]:
        """Lines of a text file from `start`, counted from 1, with line feeds as their endings."""
        raw, _ = self._load(self._locate(path), path)
        content = boxd_text.split_lines(boxd_text.decode(raw, path).text.replace("\r\n", "\n"))
        if start < 1 or (start > len(content) and start > 1):
            raise Refused("bad_request", f"{path} has {len(content)} lines; there is no line {start}")
        wanted = content[start - 1 :] if lines is None else content[start - 1 : start - 1 + max(lines, 0)]
        kept, truncated = _within_reply(wanted)
        return {
            "text": "".join(kept),
            "first_line": start,
            "last_line": start - 1 + len(kept),
            "total_lines": len(content),
            "truncated": truncated,
            **_facts(raw),
        }

    def write(self, path: str, text: str, expected_sha256: str | None = None) -> dict[str, Any]:
        """Write a whole file, making its directories; one that is there keeps its mode and way of writing."""
        real = self._locate(path, writing=True)
        previous: Text | None = None
        mode = 0o644
        exists = os.path.lexists(real)
        if exists:
            raw, mode = self._load(real, path)
            _check_unchanged(raw, expected_sha256, path)
            with contextlib.suppress(Refused):
                previous = boxd_text.decode(raw, path)
        elif expected_sha256 is not None:
            raise Refused("changed", f"{path} is not there any more; read the directory again")
        raw = _in_the_way_of(previous, text, path)
        _store(real, raw, mode)
        return {"created": not exists, **_facts(raw)}

    def edit(
        self,
        path: str,
        old: str,
        new: str,
        count: int = 1,
        expected_sha256: str | None = None,
        dry_run: bool = False,
    ) -> dict[str, Any]:
        """Replace text that is in the file exactly `count` times; nothing else in it changes."""
        real = self._locate(path, writing=True)
        raw, mode = self._load(real, path)
        _check_unchanged(raw, expected_sha256, path)
        content = boxd_text.decode(raw, path)
        replaced = boxd_text.replace(content.text, old, new, count, path)
        changed = boxd_text.encode(replaced.after, content.codec, path)
        _check_size(len(changed), path)
        diff = boxd_text.unified_diff(replaced, boxd_find.shown(os.path.relpath(real, self.root)))
        if not dry_run:
            _store(real, changed, mode)
        return {"diff": diff[:LARGEST_REPLY], "replaced": count, **_facts(changed)}

    def delete(self, path: str) -> dict[str, Any]:
        """Remove a file or a symbolic link."""
        real = self._locate(path, writing=True, follow=False)
        if stat.S_ISDIR(os.lstat(real).st_mode):
            raise Refused("is_directory", f"{path} is a directory; remove it with a command (rm -r)")
        os.unlink(real)
        return {}

    def move(self, path: str, to: str) -> dict[str, Any]:
        """Rename a file, symbolic link or directory to a path that is not taken."""
        source = self._locate(path, writing=True, follow=False)
        target = self._locate(to, writing=True, follow=False)
        os.lstat(source)
        if os.path.lexists(target):
            raise Refused("exists", f"{to} exists; name the whole new path, or delete what is there first")
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.rename(source, target)
        return {}

    def list(self, path: str = ".", depth: int = 1, limit: int = 1000) -> dict[str, Any]:
        """What is in a directory, down to `depth` levels."""
        real = self._directory(path)
        found = boxd_find.entries(self.root, os.path.relpath(real, self.root), _between(depth, 1, _DEEPEST))
        limited = itertools.islice(found, _between(limit, 1, _MOST_RESULTS))
        return {"entries": [(boxd_find.shown(name), kind, size) for name, kind, size in limited]}

    def glob(self, pattern: str, limit: int = 1000) -> dict[str, Any]:
        """Paths of the files that match."""
        wanted = boxd_find.glob_pattern(pattern)
        matching = [name for name in boxd_find.files_under(self.root, ".") if wanted.fullmatch(name)]
        kept, cut = _within_reply([boxd_find.shown(name) for name in matching[: _between(limit, 1, _MOST_RESULTS)]])
        return {"paths": kept, "truncated": cut or len(kept) < len(matching)}

    def search(
        self,
        pattern: str,
        path: str = ".",
        glob: str | None = None,
        regex: bool = True,
        limit: int = 200,
        context: int = 0,
    ) -> dict[str, Any]:
        """Lines that match."""
        if not pattern or "\n" in pattern or "\0" in pattern:
            raise Refused("bad_pattern", "the pattern has to be one line of text; search for a part of it")
        real = self._locate(path)
        os.lstat(real)
        hits, truncated = boxd_find.search(
            self.root,
            os.path.relpath(real, self.root),
            pattern,
            glob=glob,
            regex=regex,
            limit=_between(limit, 1, _MOST_RESULTS),
            context=_between(context, 0, 50),
        )
        kept, cut = _within_reply([hit.text for hit in hits])
        matches = [(hit.path, hit.line, hit.text, hit.is_match) for hit in hits[: len(kept)]]
        return {"matches": matches, "truncated": truncated or cut}

    def _locate(self, path: str, *, writing: bool = False, follow: bool = True) -> str:
        """The real path, which is in the workspace and, for writing, not in a .git."""
        if not path or "\0" in path:
            raise Refused("bad_request", "the path is empty or has a NUL character in it")
        named = os.path.normpath(os.path.join(self.root, path))
        if not self._holds(named):
            raise Refused("outside", f"{path} is outside of the workspace; name a path relative to {self.root}")
        real = os.path.realpath(named)
        if not follow:
            real = os.path.join(os.path.realpath(os.path.dirname(named)), os.path.basename(named))
            if named == self.root:
                raise Refused("forbidden", "that is the workspace itself; name something in it")
        if not self._holds(real):
            raise Refused("outside", f"{path} leads out of the workspace through a symbolic link")
        if writing:
            for component in (named + real).lower().split("/"):
                if component.rstrip(". ") == ".git":
                    raise Refused("forbidden", f"{path} is in git's own directory, which only git writes to")
        return real

    def _holds(self, path: str) -> bool:
        return path == self.root or path.startswith(f"{self.root}/")

    def _directory(self, path: str) -> str:
        real = self._locate(path)
        if not stat.S_ISDIR(os.lstat(real).st_mode):
            raise Refused("not_a_file", f"{path} is not a directory; read it instead")
        return real

    def _load(self, real: str, path: str) -> tuple[bytes, int]:
        """Content and permission bits of a regular file."""
        try:
            status = os.lstat(real)
        except FileNotFoundError:
            raise Refused("not_found", f"there is no file {path}{self._nearby(real)}") from None
        if stat.S_ISDIR(status.st_mode):
            raise Refused("is_directory", f"{path} is a directory; list it instead")
        if not stat.S_ISREG(status.st_mode):
            raise Refused("not_a_file", f"{path} is a pipe, socket or device, not a file")
        _check_size(status.st_size, path)
        with os.fdopen(os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            raw = file.read(LARGEST_FILE + 1)
        _check_size(len(raw), path)
        return raw, stat.S_IMODE(status.st_mode) & 0o777

    def _nearby(self, real: str) -> str:
        """What a person who asked for a file that is not there may have meant."""
        import difflib  # noqa: PLC0415 (only where something went wrong)

        folder = os.path.dirname(real)
        while not os.path.isdir(folder):
            folder = os.path.dirname(folder)
        close = difflib.get_close_matches(os.path.basename(real), sorted(os.listdir(folder)), 3)
        where = os.path.relpath(folder, self.root)
        names = ", ".join(boxd_find.shown(os.path.normpath(os.path.join(where, name))) for name in close)
        return f"; did you mean {names}?" if names else f"; list {where} to see what there is"


def answer(helper: Helper, request: dict[str, Any]) -> dict[str, Any]:
    """Do what a request asks for."""
    operations: dict[str, Callable[..., dict[str, Any]]] = {
        operation.__name__: operation
        for operation in (
            *(helper.read, helper.write, helper.edit, helper.delete, helper.move),
            *(helper.list, helper.glob, helper.search),
        )
    }
    try:
        operation = operations[str(request.pop("op", None))]
        return {"ok": operation(**request)}
    except Refused as refused:
        return {"error": {"code": refused.code, "message": refused.message}}
    except OSError as error:
        code, why = _CODES.get(error.errno or 0, ("failed", error.strerror or "the operation failed"))
        return {"error": {"code": code, "message": f"{request.get('path', 'workspace')}: {why}"}}
    except Exception as error:  # noqa: BLE001 (the outer edge: one bad request must not end the helper)
        return {"error": {"code": "bad_request", "message": f"{type(error).__name__}: {error}"}}


def serve(root: str) -> None:
    """Answer requests until standard input ends."""
    os.umask(0o022)
    helper = Helper(root)
    _send({"ok": GREETING})
    while header := _receive(4):
        size = int.from_bytes(header, "big")
        if size > _LARGEST_FRAME:
            return
        _send(answer(helper, json.loads(_receive(size))))


def _send(message: dict[str, Any]) -> None:
    body = json.dumps(message, ensure_ascii=False).encode(errors="replace")
    view = memoryview(len(body).to_bytes(4, "big") + body)
    while view:
        view = view[os.write(1, view) :]


def _receive(size: int) -> bytes:
    """Exactly `size` bytes, or nothing when the other side is gone."""
    received = bytearray()
    while len(received) < size:
        if not (chunk := os.read(0, size - len(received))):
            return b""
        received += chunk
    return bytes(received)


def _facts(raw: bytes) -> dict[str, Any]:
    return {"size": len(raw), "sha256": _sha256(raw)}


def _sha256(raw: bytes) -> str:
    import hashlib  # noqa: PLC0415 (7 ms at start)

    return hashlib.sha256(raw).hexdigest()


def _check_unchanged(raw: bytes, expected_sha256: str | None, path: str) -> None:
    if expected_sha256 is not None and _sha256(raw) != expected_sha256.lower():
        raise Refused("changed", f"{path} has changed since it was read; read it again")


def _check_size(size: int, path: str) -> None:
    if size > LARGEST_FILE:
        limit = f"{LARGEST_FILE >> 20} MiB"
        raise Refused("too_large", f"{path} has {size} bytes, more than {limit}; use a command to look at parts of it")


def _in_the_way_of(previous: Text | None, text: str, path: str) -> bytes:
    """New content in the encoding and with the line endings of what was there before."""
    codec = "utf-8" if previous is None else previous.codec
    if previous is not None and previous.crlf and "\r" not in text:
        text = text.replace("\n", "\r\n")
    if codec == "latin-1":
        with contextlib.suppress(UnicodeEncodeError):
            return text.encode(codec)
        codec = "utf-8"
    raw = boxd_text.encode(text.removeprefix("\ufeff") if codec == "utf-8-sig" else text, codec, path)
    _check_size(len(raw), path)
    return raw


def _store(real: str, raw: bytes, mode: int) -> None:
    """All of it or nothing: a new file in the same directory takes the old one's place."""
    folder = os.path.dirname(real)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".nightcrew-{os.getpid()}-{next(_counter)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(raw)
            os.fchmod(descriptor, mode)
        os.rename(temporary, real)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _within_reply(texts: list[str]) -> tuple[list[str], bool]:
    """As many as one answer may hold, and whether something is missing; a first one that is too long is cut."""
    left = LARGEST_REPLY
    for index, text in enumerate(texts):
        left -= len(text)
        if left < 0:
            return texts[:index] or [text[:LARGEST_REPLY]], True
    return texts, False


def _between(value: int, least: int, most: int) -> int:
    return max(least, min(int(value), most))


def _close_to_others() -> None:
    """Other processes in the box must not write into this one: then /proc/PID/mem and /proc/PID/fd are root's."""
    import ctypes  # noqa: PLC0415

    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE


def main() -> None:
    """Serve the workspace."""
    _close_to_others()
    serve("/workspace")
