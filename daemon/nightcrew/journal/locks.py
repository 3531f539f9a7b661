"""Who lives: locks of the kernel, which end with their process however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from nightcrew.errors import JournalBusy, JournalError


def private_directory(path: Path) -> None:
    """Make the directory and its missing parents for this user alone; what exists keeps its mode.

    Raises `JournalError` when that is not possible.
    """
    missing = [part for part in (path, *path.parents) if not part.exists()]
    try:
        for part in reversed(missing):
            part.mkdir(mode=0o700, exist_ok=True)
        if not path.is_dir():
            raise NotADirectoryError(f"{path} is not a directory")
    except OSError as error:
        raise JournalError(
            f"{path}: cannot be made ({error.strerror or error}); make it by hand for this user, "
            "or name another folder with NIGHTCREW_HOME"
        ) from error


class _FileLock:
    """An exclusive `flock` on a file, which is removed when the lock is given back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def acquire(self) -> bool:
        """Take the lock, or tell at once that a living process has it. Raises `JournalError`."""
        if self._fd is not None:
            return True
        private_directory(self.path.parent)
        # Someone who only asks `_is_locked` has it for an instant, and its last holder may remove the file under us.
        for _ in range(5):
            fd = self._try()
            if fd is not None and _same_file(fd, self.path):
                self._fd = fd
                return True
            if fd is not None:
                os.close(fd)
            time.sleep(0.001)
        return False

    def _try(self) -> int | None:
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise JournalError(f"{self.path}: cannot be opened ({error.strerror}); check who owns it") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return None
        return fd

    def release(self) -> None:
        """Give the lock back; does nothing when it is not held."""
        if self._fd is None:
            return
        with contextlib.suppress(OSError):
            self.path.unlink()
        os.close(self._fd)
        self._fd = None

    def write(self, text: str) -> None:
        """Replace what stands in the lock file; only while it is held."""
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, text.encode(), 0)


def _same_file(fd: int, path: Path) -> bool:
    try:
        there = path.stat()
    except OSError:
        return False
    mine = os.fstat(fd)
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


def _is_locked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


class RunLock(_FileLock):
    """Held by the process that runs a task, for the whole run: others can tell a slow runner from a dead one."""

    def __init__(self, directory: Path, task: str) -> None:
        super().__init__(directory / f"{task}.lock")


class RunLocks:
    """The run locks of this process, in the shape that `Journal.claim` and `Journal.requeue_dead` take.

    `journal.claim(worker, lock=locks.acquire)`, `journal.requeue_dead(locks.is_alive)`, `locks.release(task)`.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held: dict[str, RunLock] = {}

    def acquire(self, task: str) -> bool:
        """Take the task's lock; False when a living process runs it."""
        lock = RunLock(self._directory, task)
        if task in self._held or not lock.acquire():
            return False
        self._held[task] = lock
        return True

    def release(self, task: str) -> None:
        """Give the task's lock back; does nothing when it is not held."""
        if lock := self._held.pop(task, None):
            lock.release()

    def is_alive(self, task: str) -> bool:
        """Does a living process, this one included, run the task?"""
        return _is_locked(self._directory / f"{task}.lock")


class ServiceLock(_FileLock):
    """One service for each home. A context manager; raises `JournalBusy` when another has it."""

    def __init__(self, home: Path) -> None:
        super().__init__(home / "service.lock")
        self._home = home

    def __enter__(self) -> Self:
        if not self.acquire():
            pid = self.owner(self._home)
            raise JournalBusy(
                f"a service already works on {self._home}{f' (process {pid})' if pid else ''}; stop that one first, "
                "or set NIGHTCREW_HOME to another folder"
            )
        self.write(f"{os.getpid()}\n")
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.release()

    @staticmethod
    def owner(home: Path) -> int | None:
        """Process id of the service that works on this home, None when there is none (or it does not say)."""
        path = home / "service.lock"
        if not _is_locked(path):
            return None
        with contextlib.suppress(OSError, ValueError):
            return int(path.read_text(encoding="ascii"))
        return None
