"""One task's journal while it is being worked on: what is appended is folded at once, and the budget is watched."""

from __future__ import annotations

import time
from collections.abc import Callable

from nightcrew.errors import LimitReached
from nightcrew.events import Event, Waiting
from nightcrew.journal import Journal
from nightcrew.journal.fold import TaskRecord, advance


class Ledger:
    """The record of a task and the only way to add to it.

    `append` raises `Stale` when another worker took the task over.
    """

    def __init__(self, journal: Journal, record: TaskRecord, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._journal = journal
        self._clock = clock
        self._opened_at = clock()
        self._earlier_seconds = record.active_seconds
        self.record = record

    def append(self, event: Event, *, at: str | None = None) -> None:
        """Make an event durable, then part of the record. `at` is its time where it was told to somebody already."""
        advance(self.record, self._journal.append(self.record.id, self.record.seq + 1, event, at=at))

    def waiting(self, reason: str) -> None:
        """Note why the task cannot go on for now, once for each reason."""
        if self.record.waiting != reason:
            self.append(Waiting(reason=reason))

    @property
    def seconds_left(self) -> float:
        """Of the task's wall-clock limit, over all restarts."""
        used = self._earlier_seconds + self._clock() - self._opened_at
        return self.record.request.limits.minutes * 60 - used

    def check_tokens(self) -> None:
        """Raises `LimitReached` when the task's tokens are used up."""
        usage, limit = self.record.usage, self.record.request.limits.tokens
        used = usage.prompt_tokens + usage.completion_tokens
        if used >= limit:
            raise LimitReached(f"the task used {used:,} tokens; its limit is {limit:,} (limits: tokens)")
