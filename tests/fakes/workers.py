"""A worker that needs no models and no boxes: each task does what its text says."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel

from fakes.records import PATCH
from nightcrew.config import Config
from nightcrew.delivery import as_after, write_results
from nightcrew.errors import EndpointDown, Stale
from nightcrew.events import Delivered, TaskEnded
from nightcrew.journal import Journal
from nightcrew.journal.fold import TaskRecord
from nightcrew.journal.ids import now
from nightcrew_tools.contract import Outcome


class FakeWorker:
    """Words in a task's text: `deliver`, `fail`, `hang`, `deaf` (hangs and does not heed a cancel), `crash`,
    `stale`. A task for the crew `embedded` has no endpoint until `endpoints` is true."""

    def __init__(self, *, endpoints: bool = False) -> None:
        self.endpoints = endpoints
        self.running: set[str] = set()
        self.most_at_once = 0
        self.ran: list[str] = []
        self.left: list[str] = []
        self.config: Config
        self.journal: Journal
        self.say: Callable[[str], None]

    @asynccontextmanager
    async def open(self, config: Config, journal: Journal, say: Callable[[str], None]) -> AsyncGenerator[FakeWorker]:
        self.config, self.journal, self.say = config, journal, say
        yield self

    def renew(self, config: Config) -> None:
        self.config = config

    @asynccontextmanager
    async def leave(self, task: str) -> AsyncGenerator[str]:
        self.left.append(task)
        yield PATCH

    async def run(self, task: str) -> TaskRecord:
        self.ran.append(task)
        self.running.add(task)
        self.most_at_once = max(self.most_at_once, len(self.running))
        try:
            async with anyio.create_task_group():  # errors come wrapped in groups, as the real one's do
                return await self._run(task, set(self.journal.record(task).request.text.split()))
        finally:
            self.running.discard(task)

    async def _run(self, task: str, words: set[str]) -> TaskRecord:
        await anyio.lowlevel.checkpoint()
        if not self.endpoints and self.journal.record(task).request.crew == "embedded":
            raise EndpointDown("no model endpoint: start one")
        if "crash" in words:
            raise ZeroDivisionError("a bug of ours")
        if "stale" in words:
            raise Stale("another worker has it")
        if {"hang", "deaf"} & words:
            while "deaf" in words or not self.journal.cancel_requested(task):  # noqa: ASYNC110
                await anyio.sleep(0.01)
            return self.end(task, Outcome.CANCELLED, "a person cancelled the task")
        if "fail" in words:
            return self.end(task, Outcome.UNVERIFIED, "a check fails", PATCH)
        record = self.journal.record(task)
        delivered = Delivered(branch=f"nightcrew/{task}", commit="c" * 40, patch="")
        self.journal.append(task, record.seq + 1, delivered)
        return self.end(task, Outcome.DELIVERED, "all checks pass", PATCH)

    def end(self, task: str, outcome: Outcome, reason: str, patch: str = "") -> TaskRecord:
        record = self.journal.record(task)
        event = TaskEnded(outcome=outcome, reason=reason)
        write_results(self.config.outbox, as_after(record, event, at=now()), patch)
        self.journal.append(task, record.seq + 1, event)
        return self.journal.record(task)
