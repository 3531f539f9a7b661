"""The folders that task files pass through: every step is one rename, so a crash leaves a file in exactly one place.

`inbox/` → `inbox/.claimed/<task id>--<name>` → `inbox/.accepted/` or, with a report beside it, `rejected/`.
Nothing here follows a link, waits at a FIFO or reads a file without end.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import signal
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nightcrew.delivery.writing import sync_folder, write_atomically
from nightcrew.journal.ids import new_task_id, now
from nightcrew.journal.locks import private_directory

_SEPARATOR = "--"
_NAME_BYTES = 200
"""Longer names are shortened, so that an id before and `.report.md` behind still fit into 255 bytes."""

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class Dropped:
    """What stands in the inbox under one name."""

    name: str
    kind: Literal["file", "folder", "link", "special"]
    size: int
    stamp: tuple[int, int, int]
    """Size, mtime in ns and inode: while they stay the same, nobody has written that we could see."""


@dataclass(frozen=True)
class Claimed:
    """A file that is ours now, with the id its task will have."""

    task: str
    name: str
    """As it was dropped, unless that was too long."""
    path: Path

    @property
    def shown(self) -> str:
        """The name, fit for a terminal and for UTF-8."""
        return shown(self.name)


def shown(name: str) -> str:
    """A file name fit for a terminal and for UTF-8."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in name)


class DropFolder:
    """Inbox and rejected folder on the disk. Methods raise `OSError` where the disk refuses; a vanished file never."""

    def __init__(self, inbox: Path, rejected: Path) -> None:
        self.inbox = inbox
        self.rejected = rejected
        self._claimed = inbox / ".claimed"
        self._accepted = inbox / ".accepted"

    def prepare(self) -> None:
        """Make what is missing, for this user alone. Raises `JournalError`, which says what to do."""
        for folder in (self._claimed, self._accepted, self.rejected):
            if not folder.is_dir():
                private_directory(folder)

    def scan(self) -> list[Dropped]:
        """What stands in the inbox, by name; names that editors and copiers use meanwhile are left out."""
        found: list[Dropped] = []
        with os.scandir(self.inbox) as entries:
            for entry in entries:
                if _is_temporary(entry.name):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    stamp = (status.st_size, status.st_mtime_ns, status.st_ino)
                    found.append(Dropped(entry.name, _kind(status.st_mode), status.st_size, stamp))
        return sorted(found, key=lambda dropped: dropped.name)

    def is_being_written(self, path: Path) -> bool:
        """Has some process the file open for writing? Only what the kernel knows: False where it cannot tell."""
        try:
            fd = os.open(path, _OPEN)
        except OSError:
            return False
        try:
            return _has_writer(fd)
        finally:
            os.close(fd)

    def claim(self, names: Iterable[str]) -> list[Claimed]:
        """Take these files out of the inbox; on the disk when this returns. One that is gone is left out."""
        claimed: list[Claimed] = []
        for name in names:
            task = new_task_id()
            short = _shorten(name)
            target = self._claimed / f"{task}{_SEPARATOR}{short}"
            with contextlib.suppress(FileNotFoundError):
                (self.inbox / name).rename(target)
                claimed.append(Claimed(task, short, target))
        if claimed:
            sync_folder(self._claimed)
            sync_folder(self.inbox)
        return claimed

    def claimed(self) -> list[Claimed]:
        """Everything that is claimed and not yet accepted or rejected, oldest first."""
        with contextlib.suppress(FileNotFoundError):
            return [
                Claimed(*name.split(_SEPARATOR, 1), path=self._claimed / name)
                for name in sorted(os.listdir(self._claimed))  # noqa: PTH208 - names are all that is wanted
                if _SEPARATOR in name
            ]
        return []

    def read(self, claimed: Claimed, limit: int) -> bytes | None:
        """At most `limit + 1` bytes of the file; None while a process may still write to it. Raises `OSError`."""
        fd = os.open(claimed.path, _OPEN)
        with os.fdopen(fd, "rb") as file:
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file")
            if _has_writer(fd):
                return None
            data = file.read(limit + 1)
            after = os.fstat(fd)
        return data if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns) else None

    def rename_claimed(self, claimed: Claimed) -> None:
        """Give the claimed file a new task id."""
        claimed.path.rename(self._claimed / f"{new_task_id()}{_SEPARATOR}{claimed.name}")

    def accept(self, claimed: Claimed) -> None:
        """The task is in the journal: lay the file aside."""
        with contextlib.suppress(FileNotFoundError):
            claimed.path.rename(self._accepted / claimed.path.name)

    def reject(self, claimed: Claimed, reason: str, line: int | None) -> str:
        """Lay the file into the rejected folder with a report beside it; returns the name it has there."""
        private_directory(self.rejected)
        target = self.rejected / claimed.name
        if os.path.lexists(target):
            target = target.with_name(f"{target.stem}-{claimed.task}{target.suffix}")
        text = _report(shown(target.name), reason, line, _excerpt(claimed.path, line))
        # The report first: after a crash in between, the file is still claimed and all this happens again.
        write_atomically(target.with_name(f"{target.name}.report.md"), text.encode())
        sync_folder(target.parent)
        with contextlib.suppress(FileNotFoundError):
            shutil.move(claimed.path, target)  # a rename, unless the folders are on different disks
        return target.name


def _is_temporary(name: str) -> bool:
    return (
        name.startswith(".")
        or name.endswith(("~", ".tmp", ".part", ".partial", ".swp", ".crdownload"))
        or (name.startswith("#") and name.endswith("#"))
    )


def _kind(mode: int) -> Literal["file", "folder", "link", "special"]:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return "link" if stat.S_ISLNK(mode) else "special"


def _has_writer(fd: int) -> bool:
    """A read lease is refused (EAGAIN) while the file is open for writing anywhere: fcntl(2), F_SETLEASE."""
    try:
        # A writer that comes in this instant breaks the lease with a signal; the default one would end the process.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN  # other errors: not our file, or a file system without leases
    return False


def _shorten(name: str) -> str:
    raw = os.fsencode(name)
    if len(raw) <= _NAME_BYTES:
        return name
    suffix = os.fsencode(Path(name).suffix)[-20:]
    kept = raw[: _NAME_BYTES - len(suffix)].decode("utf-8", "ignore").encode()
    return os.fsdecode(kept + suffix)


def _excerpt(path: Path, line: int | None) -> str:
    """The offending line as it stands in the file, empty where it cannot be shown."""
    if line is None:
        return ""
    try:
        with os.fdopen(os.open(path, _OPEN), "rb") as file:
            lines = file.read(1024 * 1024).splitlines()
    except OSError:
        return ""
    text = lines[line - 1][:200].decode("utf-8", "replace") if line <= len(lines) else ""
    return "".join(character if character.isprintable() else " " for character in text).strip()


def _report(name: str, reason: str, line: int | None, excerpt: str) -> str:
    def parts() -> Iterator[str]:
        yield f"# `{name}` was not taken as a task\n"
        yield f"{f'Line {line}: ' if line else ''}{reason}\n"
        if excerpt:
            yield f"    {excerpt}\n"
        yield "## What to do\n"
        yield "Correct the file and drop it into the inbox again; this copy and this report can be deleted.\n"
        yield f"Rejected at {now()}.\n"

    return "\n".join(parts())
