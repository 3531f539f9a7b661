"""A task's outer edge: whatever happens to it inside, it ends or waits, and the others go on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

from nightcrew.config import Config
from nightcrew.delivery import as_after, tells, write_results
from nightcrew.errors import EndpointDown, JournalCorrupt, JournalUnavailable, NightcrewError, Stale
from nightcrew.events import Event, Paused, Recorded, TaskClaimed, TaskEnded, Waiting
from nightcrew.journal import Journal
from nightcrew.journal.fold import TaskRecord, reason
from nightcrew.journal.health import storage_error
from nightcrew.journal.ids import now
from nightcrew.telemetry.log import about_task
from nightcrew_tools.contract import Outcome
from nightcrew_tools.groups import unwrapped

log = logging.getLogger("nightcrew")

LONGEST_TRY_SECONDS = 900.0
"""Between two tries of an endpoint; what is longer was no waiting."""

Say = Callable[[str], None]


class Worker(Protocol):
    """Who does the work on claimed tasks."""

    async def run(self, task: str) -> TaskRecord:
        """Work on a claimed task until it has ended; see `Runner.run`. Raises `EndpointDown` when it could wait for a
        model, `Stale` when another worker has it."""
        ...

    def renew(self, config: Config) -> None:
        """Work by this configuration on what is begun from now on."""
        ...

    def leave(self, task: str) -> AbstractAsyncContextManager[str]:
        """Give up what is open for a task that was cut off, and return the patch of what it had done, if any."""
        ...


Leave = Callable[[str], AbstractAsyncContextManager[str]]
OpenWorker = Callable[[Config, Journal, Say], AbstractAsyncContextManager[Worker]]


class Attendant:
    """Runs claimed tasks one by one through a worker, and sees that each ends or waits, whatever happens."""

    def __init__(self, config: Config, journal: Journal, worker: Worker, name: str) -> None:
        self._config = config
        self._journal = journal
        self._worker = worker
        self._name = name

    async def attend(self, record: TaskRecord, *, may_wait: bool) -> None:
        """Work on a task that was claimed until it ended or was taken away.

        With `may_wait`, a task without a usable endpoint goes back into the queue while its limit on minutes allows it.
        Raises `JournalUnavailable` where the task stopped because journal or results cannot be written: it stands as
        its journal says, and goes on from there once it is claimed again.
        """
        with about_task(record.id):
            await self._attend(record, may_wait=may_wait)

    async def _attend(self, record: TaskRecord, *, may_wait: bool) -> None:
        task = record.id
        try:
            await self._worker.run(task)
        except Exception as error:  # noqa: BLE001 - the outer edge of a task: nothing may stop the others
            cause = unwrapped(error)
            if isinstance(cause, Stale):
                log.info("task %s was taken over", task)
            elif storage_error(cause):
                raise JournalUnavailable(f"task {task} stopped where its journal stands: {cause}") from cause
            elif isinstance(cause, JournalCorrupt):
                self._journal.pass_over(task, str(cause))
            elif isinstance(cause, EndpointDown) and may_wait and _may_wait(record, self._journal.read(task)):
                self._wait(task, str(cause))
            else:
                await self._give_up(task, cause)

    async def _give_up(self, task: str, cause: BaseException) -> None:
        if isinstance(cause, EndpointDown):
            await self.end(task, Outcome.NO_ENDPOINT, str(cause))
        elif isinstance(cause, NightcrewError):
            await self.end(task, Outcome.FAILED, str(cause))
        else:
            log.error("task %s ended in an error of Nightcrew's own", task, exc_info=cause)
            await self.end(task, Outcome.FAILED, f"an error of Nightcrew's own: {type(cause).__name__}: {cause}")

    async def end(self, task: str, outcome: Outcome, reason: str) -> None:
        """End a task from outside of its run: its results, then its last event. One that has ended stays as it is."""
        record = self._journal.record(task)
        if record.ended is not None or self._lost(record):
            return  # what another worker has is not ours to leave
        async with self._worker.leave(task) as patch:
            self._end(record, outcome, reason, patch)

    def _end(self, record: TaskRecord, outcome: Outcome, reason: str, patch: str) -> None:
        task = record.id
        ended = TaskEnded(outcome=outcome, reason=reason)
        at = now()
        try:
            after = as_after(record, ended, at=at)
            results = partial(write_results, self._config.outbox, after, patch)
            self._append(record, ended, at=at, first=results)
        except OSError as error:
            if storage_error(error):
                raise JournalUnavailable(f"task {task}: its report cannot be written: {error}") from error
            log.warning("task %s: its report cannot be written: %s", task, error)
            ended = TaskEnded(outcome=outcome, reason=f"{reason} (its report could not be written: {error})")
            self._append(record, ended, at=at)

    def _append(
        self, record: TaskRecord, event: Event, *, at: str | None = None, first: Callable[[], object] | None = None
    ) -> bool:
        """Append as the next event, unless another worker has the task."""
        try:
            self._journal.append(record.id, record.seq + 1, event, at=at, first=first)
        except Stale:
            log.info("task %s was taken over", record.id)
            return False
        return True

    def _lost(self, record: TaskRecord) -> bool:
        """Whether another worker has the task: what we know of its end is no longer true."""
        if record.worker == self._name:
            return False
        log.info("task %s was taken over by %s", record.id, record.worker)
        return True

    def hold(self, task: str, paused: Paused) -> None:
        """Journal that a task, which was let go, stands paused. One that has come to its end meanwhile stays so."""
        record = self._journal.record(task)
        if record.ended is None and not record.waits_for_approval and not self._lost(record):
            self._append(record, paused)

    async def report(self, task: str) -> None:
        """Write the results of a task that ended while nobody ran it, with what it had done until then."""
        try:
            await write_owed(self._config, self._journal, task, self._worker.leave)
        except (OSError, NightcrewError) as error:
            log.warning("task %s: its report cannot be written: %s", task, error)

    def _wait(self, task: str, reason: str) -> None:
        record = self._journal.record(task)
        if not self._lost(record) and self._append(record, Waiting(reason=reason)):
            self._journal.release(task, self._name)


async def write_owed(config: Config, journal: Journal, task: str, leave: Leave) -> None:
    """Write the results of a task in `Journal.owed`, and note that they are there. `leave` is a worker's.

    Raises `OSError`, `JournalError`.
    """
    record = journal.record(task)
    # One that waited for approval has a report, which says that it waits.
    if record.asked is not None or not tells(config.outbox, record.name, reason(record)):
        async with leave(task) as patch:
            write_results(config.outbox, record, patch)
    journal.paid(task)


def _may_wait(record: TaskRecord, events: Sequence[Recorded]) -> bool:
    """Whether a task may go on waiting for an endpoint: as long as it may work, counted from where the wait began.

    Not from the task's own beginning: a machine that was off for a night has not used up anything, nor has a clock that
    was set.
    """
    waited, later = 0.0, datetime.now(UTC)
    for recorded in reversed(events):
        if not isinstance(recorded.event, Waiting | TaskClaimed):
            break
        at = datetime.fromisoformat(recorded.at)
        waited += min(max(0.0, (later - at).total_seconds()), LONGEST_TRY_SECONDS)
        later = at
    return waited < record.request.limits.minutes * 60
