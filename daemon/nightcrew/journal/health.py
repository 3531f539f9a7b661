"""Whether the place where journal and results are can be written now, and whether the clock was set.

In trouble no new work is taken, what is there is kept, and a running task that cannot write its journal stops. Nobody
has to restart anything: what is looked at here again and again says when the trouble is over.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from nightcrew.config import Config
from nightcrew.errors import JournalUnavailable

log = logging.getLogger("nightcrew.journal")

STORAGE_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
"""What the operating system says when a disk is full, over its quota, read-only or broken."""

JUMP_SECONDS = 60.0
"""A wall clock that moved so much more or less than time went by was set."""

LOOK_SECONDS = 5.0
CALM_SECONDS = 24 * 3600.0
"""So long after the clock was set nothing is removed for its age: it may be set right again."""

_MIB = 1024 * 1024


def storage_trouble(config: Config, *, write: bool = False) -> str:
    """Why nothing new should be written to the home now, in a sentence; empty when all is well.

    With `write` a small file is written and removed, which is the only proof that there is.
    """
    home = next(folder for folder in (config.home, *config.home.parents) if folder.exists())
    try:
        status = os.statvfs(home)
        if status.f_flag & os.ST_RDONLY:
            return f"{home} is on a read-only disk: mount it for writing (dmesg may say why it is read-only)"
        free, least = status.f_bavail * status.f_frsize / _MIB, config.keeping.reserve_mib
        if free < least:
            return f"{home} has only {free:.1f} MiB left, and {least:g} are kept free for what runs: make room there"
        if write:
            _write(home)
    except OSError as error:
        return f"{home} cannot be written ({error.strerror or error}): see to its disk"
    return ""


def _write(folder: Path) -> None:
    path = folder / f".probe-{secrets.token_hex(6)}"
    try:
        with path.open("xb") as file:
            file.write(bytes(8192))
            file.flush()
            os.fsync(file.fileno())
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def storage_error(error: BaseException) -> bool:
    """Whether this is trouble of the disk and not of the task that met it."""
    return isinstance(error, JournalUnavailable) or (isinstance(error, OSError) and error.errno in STORAGE_ERRORS)


def refuse_in_trouble(config: Config) -> None:
    """Raise `JournalUnavailable` where no new work is taken."""
    if trouble := storage_trouble(config):
        raise JournalUnavailable(f"no new task is taken: {trouble}")


def since_boot() -> float:
    """Seconds that nobody can set, and that go on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class ClockWatch:
    """Notices when the wall clock is set, while this process runs."""

    def __init__(self, *, clock: Callable[[], float] = since_boot, wall: Callable[[], float] = time.time) -> None:
        """`clock` counts seconds and cannot be set, `wall` are seconds since 1970."""
        self._clock = clock
        self._wall = wall
        self._offset = wall() - clock()
        self._set_at: float | None = None

    def moved(self) -> float:
        """By how many seconds it was set since this was asked last; 0 for what a clock drifts."""
        offset = self._wall() - self._clock()
        by, self._offset = offset - self._offset, offset
        if abs(by) <= JUMP_SECONDS:
            return 0.0
        self._set_at = self._clock()
        return by

    def is_calm(self) -> bool:
        """Whether it can be asked how old something is: it was not set within a day."""
        self.moved()
        return self._set_at is None or self._clock() - self._set_at > CALM_SECONDS


class Health:
    """What a service asks before it takes up work."""

    def __init__(
        self,
        config: Config,
        say: Callable[[str], None],
        *,
        clock: Callable[[], float] = since_boot,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`clock` counts seconds and cannot be set, `wall` are seconds since 1970."""
        self._config = config
        self._say = say
        self._clock = clock
        self._watch = ClockWatch(clock=clock, wall=wall)
        self._next = clock()
        self.trouble = ""
        """Why no new work is taken now; empty when all is well. Fit for a line of status."""

    def good(self) -> bool:
        """Whether new work may be taken. Looks at the disk every five seconds, and at each error that was reported."""
        if self._clock() >= self._next:
            self._look()
        return not self.trouble

    def report(self, error: BaseException) -> None:
        """Something could not be written: take nothing up until a look at the disk finds it well."""
        self._is(str(error))
        self._next = self._clock() + LOOK_SECONDS

    def clock_is_calm(self) -> bool:
        """Whether the wall clock can be asked how old something is: it was not set within a day."""
        self._watch_clock()
        return self._watch.is_calm()

    def _look(self) -> None:
        self._next = self._clock() + LOOK_SECONDS
        self._watch_clock()
        self._is(storage_trouble(self._config, write=bool(self.trouble)))

    def _is(self, trouble: str) -> None:
        if trouble and not self.trouble:
            log.error("no new work is taken: %s", trouble)
            self._say(f"no new work is taken: {trouble}")
        elif self.trouble and not trouble:
            log.warning("the trouble is over, work goes on: %s", self.trouble)
            self._say("the trouble is over, work goes on")
        self.trouble = trouble

    def _watch_clock(self) -> None:
        if moved := self._watch.moved():
            how = f"{'forward' if moved > 0 else 'back'} by {_length(abs(moved))}"
            log.warning("the clock was set %s: nothing is removed for its age within a day", how)
            self._say(f"the clock was set {how}")


def _length(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
