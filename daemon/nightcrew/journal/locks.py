"""Who lives: locks of the kernel, which end with their process however it ends.

A process that is stopped or hangs keeps its locks, so whoever holds one also writes into it, again and again, what the
clock says. One that has not for a whole lease is killed, and its boxes with it, before anybody takes its task: nobody
watches over their limits, and a later SIGCONT would set two workers on one tree. The clock is CLOCK_MONOTONIC, the same
for all processes of a machine; it does not jump, and it stands still while the machine sleeps, so that a laptop's night
makes nobody late.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import selectors
import signal
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from nightcrew.errors import JournalBusy, JournalError

LEASE_SECONDS = 60.0
"""A process that did not move for so long loses its tasks, and its life."""
STILL_SECONDS = 15.0
"""A service that did not move for so long is said to stand still."""
_KILL_SECONDS = 5.0

_log = logging.getLogger("nightcrew")


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
            if _same_file(self._fd, self.path):
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


def _written(path: Path) -> list[str]:
    """The words in a lock file: who has it, and when that one was seen to move last."""
    try:
        return path.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return []


def _idle_seconds(path: Path) -> float:
    """How long the holder of a lock has not moved; 0 where it does not say."""
    try:
        return max(0.0, time.monotonic() - float(_written(path)[1]))
    except (IndexError, ValueError):
        return 0.0


def _holder(path: Path) -> int | None:
    """The process that holds a lock, as the kernel tells it; None for none, and for one of another PID namespace."""
    try:
        file = path.stat()
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    device = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    for line in lines:
        fields = line.split()
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[5] == device and int(fields[4]) > 0:
            return int(fields[4])
    return None


def _kill_holder(path: Path) -> bool:
    """Kill the process that holds a lock; True when the lock is free. Its boxes die with it."""
    pid = _holder(path)
    if pid is None or pid == os.getpid():
        return False
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return not _is_locked(path)
    try:
        if _holder(path) == pid:  # still: the handle is that of the holder
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        with selectors.DefaultSelector() as ended:
            ended.register(handle, selectors.EVENT_READ)
            ended.select(_KILL_SECONDS)
    except OSError:
        return False
    finally:
        os.close(handle)
    return not _is_locked(path)


class RunLock(_FileLock):
    """Held by the process that runs a task, for the whole run: others can tell a slow runner from a dead one."""

    def __init__(self, directory: Path, task: str) -> None:
        super().__init__(directory / f"{task}.lock")


class RunLocks:
    """The run locks of this process, in the shape that `Journal.claim` and `Journal.requeue_dead` take.

    `journal.claim(worker, lock=locks.acquire)`, `journal.requeue_dead(locks.is_alive)`, `locks.release(task)`, and
    `locks.beat()` every second or so.
    """

    def __init__(self, directory: Path, *, lease_seconds: float | None = None) -> None:
        self._directory = directory
        self._held: dict[str, RunLock] = {}
        self._lease = LEASE_SECONDS if lease_seconds is None else lease_seconds
        self._beaten = self._judges_from = time.monotonic()

    def beat(self) -> None:
        """Show that this process moves."""
        moment = time.monotonic()
        if moment - self._beaten > self._lease / 2:
            self._judges_from = moment + self._lease  # it stood still itself, and so may all others have
        if moment - self._beaten > min(1.0, self._lease / 4):
            self._beaten = moment
            for lock in self._held.values():
                self._sign(lock)

    def _sign(self, lock: RunLock) -> None:
        with contextlib.suppress(OSError):  # a full disk, say: then the process may be thought dead, and is fenced
            lock.write(f"{os.getpid()} {time.monotonic():.3f}\n")

    def acquire(self, task: str) -> bool:
        """Take the task's lock; False when a living process runs it."""
        lock = RunLock(self._directory, task)
        if task in self._held or not lock.acquire():
            return False
        self._held[task] = lock
        self._sign(lock)
        return True

    def release(self, task: str) -> None:
        """Give the task's lock back; does nothing when it is not held."""
        if lock := self._held.pop(task, None):
            lock.release()

    def is_alive(self, task: str) -> bool:
        """Does a living process, this one included, run the task? One that did not move for a lease is killed."""
        path = self._directory / f"{task}.lock"
        if not _is_locked(path):
            return False
        idle = _idle_seconds(path)
        if task in self._held or idle < self._lease or time.monotonic() < self._judges_from:
            return True
        pid = _holder(path)
        if not _kill_holder(path):
            _log.warning("task %s: process %s has not moved for %.0f s and cannot be killed", task, pid, idle)
            return True
        _log.warning("task %s: process %s had not moved for %.0f s and was killed; its task goes on", task, pid, idle)
        return False


class ServiceLock(_FileLock):
    """One service for each home. A context manager; raises `JournalBusy` when another has it."""

    def __init__(self, home: Path) -> None:
        super().__init__(home / "service.lock")
        self._home = home

    def __enter__(self) -> Self:
        if not self.acquire():
            raise JournalBusy(self._who_has_it())
        self._beaten = 0.0
        self.beat()
        return self

    def beat(self) -> None:
        """Show that the service moves."""
        if time.monotonic() - self._beaten > 1.0:
            self._beaten = time.monotonic()
            with contextlib.suppress(OSError):
                self.write(f"{os.getpid()} {self._beaten:.3f}\n")

    def _who_has_it(self) -> str:
        pid, idle = self.owner(self._home), _idle_seconds(self.path)
        who = f"a service already works on {self._home}" + (f" (process {pid})" if pid else "")
        if pid and idle > STILL_SECONDS:
            return (
                f"{who}, but has not moved for {idle:.0f} s: it is stopped or hangs. `kill -CONT {pid}` lets a stopped "
                f"one go on; after `kill -9 {pid}` the next start continues its tasks"
            )
        return f"{who}; stop that one first, or set NIGHTCREW_HOME to another folder"

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
        with contextlib.suppress(IndexError, ValueError):
            return int(_written(path)[0])
        return None
