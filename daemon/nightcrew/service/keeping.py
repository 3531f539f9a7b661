"""What is kept of tasks that have ended, and for how long: at the start of a service and once a day."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import anyio

from nightcrew.config import Config
from nightcrew.delivery import result_paths
from nightcrew.errors import JournalUnavailable
from nightcrew.journal import Journal
from nightcrew.journal.health import Health
from nightcrew.service.attendant import Say
from nightcrew_workspaces.folders import remove_tree

log = logging.getLogger("nightcrew")

DAY_SECONDS = 86400.0
IDLE_SECONDS = 60.0
"""How often it is asked whether nothing runs, when there is room to give back."""
_WASTED_BYTES = 1024 * 1024
_WASTED_SHARE = 0.2


class Keeping:
    """Removes what need not be kept any longer. `run` lasts until cancelled."""

    def __init__(
        self, config: Config, journal: Journal, health: Health, *, say: Say, is_idle: Callable[[], bool]
    ) -> None:
        """`is_idle` tells whether no task runs: only then is the room given back, which keeps others from writing."""
        self._config = config
        self._journal = journal
        self._health = health
        self._say = say
        self._is_idle = is_idle

    async def run(self) -> None:
        """Look at once, and then every day."""
        while True:
            again = time.monotonic() + DAY_SECONDS
            try:
                if self._health.good():
                    await self.trim()
                while self._wastes() and time.monotonic() < again:
                    if self._is_idle() and self._health.good():
                        await self.compact()
                        break
                    await anyio.sleep(IDLE_SECONDS)
            except JournalUnavailable as error:
                self._health.report(error)
            await anyio.sleep(max(0.0, again - time.monotonic()))

    async def trim(self, moment: datetime | None = None) -> None:
        """Remove the events of ended tasks that are too old or too many, and what else belongs to those tasks."""
        settings, moment = self._config.keeping, moment or datetime.now(UTC)
        calm = self._health.clock_is_calm()
        gone = self._journal.retention.trim(moment, keep_days=settings.keep_days, max_mib=settings.max_mib, by_age=calm)
        for one in gone:
            self._say(f"removed the events of task {one.task}: {one.why}")
            await anyio.to_thread.run_sync(remove_tree, self._config.attachments / one.task)
            if not settings.keep_results:
                self._remove_results(one.name)
        if calm:
            before = moment.timestamp() - settings.keep_days * DAY_SECONDS
            await anyio.to_thread.run_sync(remove_accepted, self._config.inbox / ".accepted", before)

    async def compact(self) -> None:
        """Give the room of what was removed back to the disk, by a connection of its own."""
        wasted, _ = self._journal.retention.wasted()
        try:
            await anyio.to_thread.run_sync(partial(_compact, self._config.journal))
        except JournalUnavailable as error:
            log.warning("the journal keeps %.1f MiB that nothing stands in: %s", wasted / 1024**2, error)
        else:
            self._say(f"gave {wasted / 1024**2:.1f} MiB of the journal back to the disk")

    def _wastes(self) -> bool:
        wasted, whole = self._journal.retention.wasted()
        return wasted > max(_WASTED_BYTES, whole * _WASTED_SHARE)

    def _remove_results(self, name: str) -> None:
        paths = result_paths(self._config.outbox, name)
        for path in (paths.markdown, paths.json, paths.patch):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("%s cannot be removed: %s", path, error)


def _compact(path: Path) -> None:
    with Journal.open(path) as journal:
        journal.retention.compact()


def remove_accepted(folder: Path, before: float) -> None:
    """Remove what was laid aside in this folder before a moment (seconds since 1970): files of tasks that are known."""
    try:
        found = list(folder.iterdir())
    except OSError:
        return
    for path in found:
        try:
            if path.lstat().st_ctime < before:  # laying a file aside changes that, whatever its own time says
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        except OSError as error:
            log.warning("%s cannot be removed: %s", path, error)
