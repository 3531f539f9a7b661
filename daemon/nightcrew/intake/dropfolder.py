"""The folders that task files pass through: every step is one rename, so a crash leaves a file in exactly one place.

`inbox/` → `inbox/.claimed/<task id>--<name>` → `inbox/.accepted/` or, with a report beside it, `rejected/`. What was
dropped into a folder of a crew or repository is claimed into a folder `@<name>` of `.claimed`, so that a restart knows.
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
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nightcrew import attachments
from nightcrew.attachments import TASK_FILE, FolderLook, open_in
from nightcrew.delivery.writing import sync_folder, write_atomically
from nightcrew.intake.places import GONE, INBOX, Dropped, Known, Place, Scan, gone_is_nothing, open_chain, opened, scan
from nightcrew.intake.rejection import excerpt, report
from nightcrew.journal.ids import new_task_id
from nightcrew.journal.locks import private_directory

_SEPARATOR = "--"
_NAME_BYTES = 200
"""Longer names are shortened, so that an id before and `.report.md` behind still fit into 255 bytes."""
_CLAIMED, _ACCEPTED = ".claimed", ".accepted"

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class Claimed:
    """A file or folder that is ours now, with the id its task will have."""

    task: str
    name: str
    """As it was dropped, unless that was too long."""
    path: Path
    place: Place = INBOX
    is_folder: bool = False

    @property
    def shown(self) -> str:
        """The name, fit for a terminal and for UTF-8."""
        return shown(self.name)

    @property
    def origin(self) -> str:
        """Where it was dropped."""
        return f"inbox:{shown(str(self.place))}{self.shown}"

    @property
    def stem(self) -> str:
        """What the results are called after."""
        return self.shown if self.is_folder else Path(self.shown).stem


def shown(name: str) -> str:
    """A file name fit for a terminal and for UTF-8."""
    return attachments.printable(name)


class DropFolder:
    """Inbox and rejected folder on the disk. Methods raise `OSError` where the disk refuses; a vanished file never."""

    def __init__(self, inbox: Path, rejected: Path, known: Known | None = None) -> None:
        self.inbox = inbox
        self.rejected = rejected
        self.known = known or Known()

    def prepare(self) -> None:
        """Make what is missing, for this user alone. Raises `JournalError`, which says what to do."""
        for folder in (self.inbox / _CLAIMED, self.inbox / _ACCEPTED, self.rejected):
            if not folder.is_dir():
                private_directory(folder)

    def scan(self) -> Scan:
        """What stands in the inbox now."""
        return scan(self.inbox, self.known)

    def is_being_written(self, dropped: Dropped) -> bool:
        """Has some process the file, or one in the folder, open for writing? Only what the kernel knows.

        Also when it is not what the scan saw: opening is what brings the news on a network file system.
        """
        try:
            with opened(self.inbox, dropped.place) as folder:
                if dropped.look is None:
                    return dropped.kind == "file" and _written(folder, dropped.name, dropped.stamp)
                inner = os.open(dropped.name, _OPEN | os.O_DIRECTORY, dir_fd=folder)
                try:
                    return any(_written(inner, path, None) for path, _ in (*dropped.look.files, (TASK_FILE, 0)))
                finally:
                    os.close(inner)
        except OSError:
            return False

    def claim(self, ready: Iterable[Dropped]) -> tuple[list[Claimed], list[tuple[Dropped, OSError]]]:
        """Take these out of the inbox; on the disk when this returns. One that is gone is left out.

        The second list has those that may not be taken away, and why.
        """
        claimed: list[Claimed] = []
        refused: list[tuple[Dropped, OSError]] = []
        by_place: dict[Place, list[Dropped]] = {}
        for dropped in ready:
            by_place.setdefault(dropped.place, []).append(dropped)
        for place, group in by_place.items():
            with gone_is_nothing(), opened(self.inbox, place) as source, self._claims(place) as target:
                for dropped in group:
                    try:
                        if (one := self._claim(source, target, dropped)) is not None:
                            claimed.append(one)
                    except OSError as error:
                        refused.append((dropped, error))
                os.fsync(target)
                os.fsync(source)
        return claimed, refused

    def _claim(self, source: int, target: int, dropped: Dropped) -> Claimed | None:
        name = _shorten(dropped.name)
        task = new_task_id()
        while _is_there(target, entry := f"{task}{_SEPARATOR}{name}"):  # of a process that was killed this second
            task = new_task_id()
        try:
            os.rename(dropped.name, entry, src_dir_fd=source, dst_dir_fd=target)
        except OSError as error:
            if error.errno not in GONE:
                raise
            # Over a network the rename may have happened, and the answer been lost: the second try finds nothing.
            if not _is_there(target, entry):
                return None
        path = self._claimed_path(dropped.place) / entry
        return Claimed(task, name, path, dropped.place, dropped.kind == "folder")

    @contextlib.contextmanager
    def _claims(self, place: Place) -> Generator[int]:
        """The folder of what was claimed in a place; made when it is missing."""
        here = self.inbox / _CLAIMED
        for name in ("", *(f"@{part}" for part in place.path)):
            here /= name
            here.mkdir(mode=0o700, exist_ok=True)
        with self._ours(_CLAIMED, *(f"@{part}" for part in place.path)) as folder:
            yield folder

    @contextlib.contextmanager
    def _ours(self, *names: str) -> Generator[int]:
        """A folder of ours in the inbox, not what somebody who may write there put in its place."""
        with open_chain(self.inbox, names) as folder:
            if os.fstat(folder).st_uid != os.geteuid():
                path = self.inbox.joinpath(*names)
                raise OSError(errno.EPERM, f"{path} belongs to another account; remove it and look who put it there")
            yield folder

    def claimed(self) -> list[Claimed]:
        """Everything that is claimed and not yet accepted or rejected, by place and then the oldest first."""
        with gone_is_nothing():
            return list(self._claimed_in(()))
        return []

    def _claimed_in(self, path: tuple[str, ...]) -> Iterator[Claimed]:
        place = self.known.at(path)
        with self._ours(_CLAIMED, *(f"@{part}" for part in path)) as folder, os.scandir(folder) as entries:
            found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
        for name, is_folder in found:
            if name.startswith("@") and is_folder:
                yield from self._claimed_in((*path, name[1:]))
            elif _SEPARATOR in name and not name.startswith("@"):
                task, given = name.split(_SEPARATOR, 1)
                yield Claimed(task, given, self._claimed_path(place) / name, place, is_folder)

    def _claimed_path(self, place: Place) -> Path:
        return self.inbox.joinpath(_CLAIMED, *(f"@{part}" for part in place.path))

    @contextlib.contextmanager
    def folder_of(self, claimed: Claimed) -> Generator[int]:
        """A descriptor of a claimed folder."""
        with self._claims(claimed.place) as claims:
            folder = os.open(claimed.path.name, _OPEN | os.O_DIRECTORY, dir_fd=claims)
        try:
            yield folder
        finally:
            os.close(folder)

    def look_into(self, claimed: Claimed) -> FolderLook:
        """What a claimed folder has in it. Raises `OSError`."""
        with self.folder_of(claimed) as folder:
            return attachments.look(folder)

    def read(self, claimed: Claimed, limit: int) -> bytes | None:
        """At most `limit + 1` bytes of the task file; None while a process may still write to it. Raises `OSError`."""
        with self._claims(claimed.place) as claims:
            fd = open_in(claims, _task_path(claimed))
        with os.fdopen(fd, "rb") as file:
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file")
            if has_writer(fd):
                return None
            data = file.read(limit + 1)
            after = os.fstat(fd)
        return data if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns) else None

    def rename_claimed(self, claimed: Claimed) -> None:
        """Give the claimed file a new task id."""
        with self._claims(claimed.place) as claims:
            entry = f"{new_task_id()}{_SEPARATOR}{claimed.name}"
            os.rename(claimed.path.name, entry, src_dir_fd=claims, dst_dir_fd=claims)

    def accept(self, claimed: Claimed) -> None:
        """The task is in the journal: lay the file aside."""
        name = claimed.path.name
        with gone_is_nothing(), self._claims(claimed.place) as claims, self._ours(_ACCEPTED) as accepted:
            os.rename(name, name, src_dir_fd=claims, dst_dir_fd=accepted)

    def reject(self, claimed: Claimed, reason: str, line: int | None) -> str:
        """Lay the file into the rejected folder with a report beside it; returns the name it has there."""
        private_directory(self.rejected)
        target = self.rejected / claimed.name
        if os.path.lexists(target):
            target = target.with_name(f"{target.stem}-{claimed.task}{target.suffix}")
        with gone_is_nothing(), self._claims(claimed.place) as claims:
            quoted = excerpt(claims, _task_path(claimed), line)
            self._report(target.name, report(shown(target.name), reason, line, quoted, str(claimed.place)))
            # The report first: after a crash in between, the file is still claimed and all this happens again.
            _move(claims, claimed.path.name, target)
        return target.name

    def complain(self, dropped: Dropped, reason: str) -> None:
        """A report on what has to stay in the inbox."""
        name = _shorten(dropped.name)
        self._report(name, report(shown(name), reason, None, "", str(dropped.place), stays=True))

    def _report(self, name: str, text: str) -> None:
        write_atomically(self.rejected / f"{name}.report.md", text.encode())
        sync_folder(self.rejected)


def has_writer(fd: int) -> bool:
    """A read lease is refused (EAGAIN) while the file is open for writing anywhere: fcntl(2), F_SETLEASE."""
    try:
        # A writer that comes in this instant breaks the lease with a signal; the default one would end the process.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN  # other errors: not our file, or a file system without leases
    return False


def _written(folder: int, path: str, stamp: tuple[object, ...] | None) -> bool:
    try:
        fd = open_in(folder, path)
    except OSError:
        return False
    try:
        status = os.fstat(fd)
        changed = stamp is not None and stamp != (status.st_size, status.st_mtime_ns, status.st_ino)
        return changed or has_writer(fd)
    finally:
        os.close(fd)


def _is_there(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return True


def _task_path(claimed: Claimed) -> str:
    """Of the task file, below the folder of what was claimed."""
    return f"{claimed.path.name}/{TASK_FILE}" if claimed.is_folder else claimed.path.name


def _move(folder: int, name: str, target: Path) -> None:
    """A rename; where the folders are on different file systems a copy, and then the original goes."""
    try:
        os.rename(name, target, src_dir_fd=folder)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode) or stat.S_ISREG(mode) or stat.S_ISLNK(mode):
            shutil.move(f"/proc/self/fd/{folder}/{name}", target)  # the folder that is open, whatever has its place
        else:
            os.unlink(name, dir_fd=folder)  # a pipe or socket means nothing elsewhere


def _shorten(name: str) -> str:
    raw = os.fsencode(name)
    if len(raw) <= _NAME_BYTES:
        return name
    suffix = os.fsencode(Path(name).suffix)[-20:]
    kept = raw[: _NAME_BYTES - len(suffix)].decode("utf-8", "ignore").encode()
    return os.fsdecode(kept + suffix)
