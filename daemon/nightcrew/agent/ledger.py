"""One task's journal while it is being worked on: what is appended is folded at once, and the budget is watched."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from nightcrew.errors import LimitReached
from nightcrew.events import Event, Waiting
from nightcrew.journal import Journal
from nightcrew.journal.fold import TaskRecord, advance


class Ledger:
    """The record of a task and the only way to add to it.

    `append` raises `Stale` when another worker took the task over.
    """

    def __init__(
        self,
        journal: Journal,
        record: TaskRecord,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._wall = wall
        self._opened_at = clock()
        self._earlier_seconds = record.active_seconds
        self.record = record

    def append(self, event: Event, *, at: str | None = None, first: Callable[[], object] | None = None) -> None:
        """Make an event durable, then part of the record. `at` is its time where it was told to somebody already;
        `first` is what only the task's own worker may do, see `Journal.append`."""
        advance(self.record, self._journal.append(self.record.id, self.record.seq + 1, event, at=at, first=first))

    def waiting(self, reason: str) -> None:
        """Note why the task cannot go on for now, once for each reason."""
        if self.record.waiting != reason:
            self.append(Waiting(reason=reason))

    @property
    def seconds_left(self) -> float:
        """Until the task has worked for as long as it may, or its time by the clock on the wall is over."""
        return min(self._work_left, self._wall_left)

    def time_words(self) -> str:
        """Which of the two limits on time was reached."""
        limits = self.record.request.limits
        if limits.wall_minutes is not None and self._wall_left <= self._work_left:
            return f"{limits.wall_minutes:g} minutes have passed since the task began (limits: wall_minutes)"
        return f"the task worked for {limits.minutes:g} minutes, its limit (limits: minutes)"

    @property
    def _work_left(self) -> float:
        used = self._earlier_seconds + self._clock() - self._opened_at
        return self.record.request.limits.minutes * 60 - used

    @property
    def _wall_left(self) -> float:
        minutes, began = self.record.request.limits.wall_minutes, self.record.started_at
        if minutes is None or began is None:
            return float("inf")
        return minutes * 60 - (self._wall().timestamp() - datetime.fromisoformat(began).timestamp())

    def check_tokens(self) -> None:
        """Raises `LimitReached` when the task's tokens are used up."""
        usage, limit = self.record.usage, self.record.request.limits.tokens
        used = usage.prompt_tokens + usage.completion_tokens
        if used >= limit:
            raise LimitReached(f"the task used {used:,} tokens; its limit is {limit:,} (limits: tokens)")
