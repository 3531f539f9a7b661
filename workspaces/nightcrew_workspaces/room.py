"""How much a box's writable mounts hold: looked at while commands run, and counted only when it may have become much.

Counting 100,000 files takes a quarter of a second, so it is done when the file system has filled up by half of what is
still allowed, and once in a while; asking the file system itself costs microseconds. Others fill it as well, so that it
convicts nobody alone, but for the last resort: a command during which the disk became nearly full.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nightcrew_workspaces.policy import Limits
from nightcrew_workspaces.reached import Stopped, size

_EVERY_SECONDS = 1.0
_MIB = 1024 * 1024
_STEP_BYTES = 64 * _MIB  # growth that is worth counting for; of a small limit it is a quarter
_STEP_FILES = 20_000
_COUNT_AGAIN_SECONDS = 60.0
_SPARED = 10  # counting may take a tenth of the time, and where nothing calls for it a fiftieth
_RARE = 50
LEAST_FREE = 512 * _MIB
"""What has to stay free on the disk, for the service and all other tasks."""
_GREW = 256 * _MIB


@dataclass(frozen=True)
class Held:
    """What was counted. `closed`: some of it could not be looked into, so that it may be more."""

    size: int
    """Bytes on the disk."""
    files: int
    closed: bool = False


@dataclass(frozen=True)
class Filled:
    """How full the file systems of the mounts are, by whatever."""

    size: int
    """Bytes used."""
    files: int
    free: int
    """Bytes that are free where the least is."""


class Room:
    """The writable mounts of one box's commands. `count` counts what they hold."""

    def __init__(self, folders: Iterable[Path], limits: Limits, count: Callable[[], Awaitable[Held | None]]) -> None:
        self._folders = tuple(folders)
        self._limit = (limits.workspace_mib or 0) * _MIB
        self._limit_files = limits.workspace_files
        self._step = min(_STEP_BYTES, self._limit // 4)
        self._step_files = min(_STEP_FILES, self._limit_files // 4)
        self._count = count
        self._counting = False
        self._counted_at = time.monotonic()
        self._took = 0.0
        self._held: Held | None = None
        self._filled: Filled | None = None

    def enter(self, stop: Callable[[Stopped], None]) -> Stay:
        """Look at the mounts from now on until `Stay.leave`; `stop` is called at most once, with `disk`."""
        if self._filled is None:
            self._filled = self.filled()
        return Stay(self, stop)

    @property
    def held(self) -> Held:
        """What they held at the last count; nothing before the first."""
        return self._held or Held(0, 0)

    def filled(self) -> Filled:
        """How full the file systems are; a mount that is not there is left out."""
        seen: dict[int, os.statvfs_result] = {}
        for folder in self._folders:
            with suppress(OSError):
                seen[folder.stat().st_dev] = os.statvfs(folder)
        return Filled(
            sum((each.f_blocks - each.f_bfree) * each.f_frsize for each in seen.values()),
            sum(each.f_files - each.f_ffree for each in seen.values()),
            min((each.f_bavail * each.f_frsize for each in seen.values()), default=LEAST_FREE),
        )

    def over(self, before: Held) -> str:
        """What is too much, in words, for a command that found `before`; empty when nothing is.

        What was over its limit already may grow no more: a command that clears away is not stopped.
        """
        now = self.held
        much = now.size > max(self._limit, before.size + self._step if before.size > self._limit else 0)
        many = now.files > max(
            self._limit_files, before.files + self._step_files if before.files > self._limit_files else 0
        )
        return self.words() if much or many else ""

    def words(self) -> str:
        """What is held and what is allowed, where it is too much; empty where it is not."""
        found: list[str] = []
        if self.held.size > self._limit:
            found.append(f"{size(self.held.size)} where {size(self._limit)} are allowed")
        if self.held.files > self._limit_files:
            found.append(f"{self.held.files:,} files where {self._limit_files:,} are allowed")
        return f"the workspace holds {' and '.join(found)}; delete what is not needed" if found else ""

    def grew(self) -> bool:
        """Whether so much was added since the last count that it may be too much now."""
        filled, then = self.filled(), self._filled or self.filled()
        left, left_files = self._limit - self.held.size, self._limit_files - self.held.files
        much = filled.size - then.size >= max(self._step, left // 2)
        return much or filled.files - then.files >= max(self._step_files, left_files // 2)

    def is_due(self) -> bool:
        """Whether to count now, while a command runs."""
        since = time.monotonic() - self._counted_at
        if self._counting or (self._held is not None and since < _SPARED * self._took):
            return False
        return self._held is None or since >= max(_COUNT_AGAIN_SECONDS, _RARE * self._took) or self.grew()

    async def recount(self) -> None:
        """Count; what could not be looked into is taken to have grown with the file system."""
        self._counting, begun, filled = True, time.monotonic(), self.filled()
        try:
            counted = await self._count()
        finally:
            self._counting = False
        held, then = self.held, self._filled or filled
        if counted is None or counted.closed:
            grown = Held(held.size + max(0, filled.size - then.size), held.files + max(0, filled.files - then.files))
            known = counted or Held(0, 0)
            counted = Held(max(known.size, grown.size), max(known.files, grown.files), closed=True)
        self._held, self._filled = counted, filled
        self._counted_at = time.monotonic()
        self._took = self._counted_at - begun


class Stay:
    """One command's time in a room."""

    def __init__(self, room: Room, stop: Callable[[Stopped], None]) -> None:
        self.words = ""
        """What is too much; empty while nothing is."""
        self._room = room
        self._stop = stop
        self._filled = room.filled()
        self._before = room.held
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(_EVERY_SECONDS, self._look)

    async def leave(self) -> None:
        """Look no more; a count that is going on is given up."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def conclude(self) -> str:
        """After the end of a command that was not stopped: what is too much now, in words."""
        if self._room.grew() or self._room.words():
            await self._room.recount()
        self.words = self._room.words()
        return self.words

    def _look(self) -> None:
        self._timer = self._loop.call_later(_EVERY_SECONDS, self._look)
        now = self._room.filled()
        if now.free < LEAST_FREE and now.size - self._filled.size >= _GREW:
            self._over(f"the disk has less than {size(LEAST_FREE)} left")
        elif self._room.is_due():
            self._task = self._loop.create_task(self._recount())

    async def _recount(self) -> None:
        await self._room.recount()
        if words := self._room.over(self._before):
            self._over(words)

    def _over(self, words: str) -> None:
        self.words = words
        self._timer.cancel()
        self._stop("disk")
