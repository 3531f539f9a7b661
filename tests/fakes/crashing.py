"""The real service in a process of its own, with a blow that kills it at a chosen event."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import anyio

from fakes.house import config_for
from nightcrew.config import Dialect
from nightcrew.events import Recorded
from nightcrew.journal import Journal
from nightcrew.service import Service
from nightcrew.service.worker import open_worker
from nightcrew_tools.contract import TaskState


@dataclass(frozen=True)
class Blow:
    """Kill the process at the `number`-th event of a kind: before it is durable, or right after."""

    kind: str
    after: bool
    number: int = 1

    def __str__(self) -> str:
        return f"{'after' if self.after else 'before'}-{self.kind}-{self.number}"


def serve(home: str, url: str, blow: Blow | None, dialect: tuple[Dialect, ...] = ("tools",)) -> None:
    """The real service in a process of its own, until the task has ended or the blow falls."""
    config = config_for(Path(home), url, dialect=dialect)
    seen = 0
    service: Service

    def struck(recorded: Recorded) -> None:
        nonlocal seen
        if blow is not None and recorded.event.kind == blow.kind:
            seen += 1
            if seen == blow.number:
                os.kill(os.getpid(), signal.SIGKILL)

    def on_event(recorded: Recorded) -> None:
        if blow is not None and blow.after:
            struck(recorded)
        if recorded.event.kind == "task_ended":
            service.stop()

    if blow is not None and not blow.after:
        insert = Journal._insert

        def insert_or_die(self: Journal, recorded: Recorded) -> None:
            struck(recorded)
            insert(self, recorded)

        Journal._insert = insert_or_die  # type: ignore[method-assign]

    async def run() -> None:
        nonlocal service
        service = Service(config, open_worker=open_worker, say=lambda _: None, on_event=on_event)
        async with anyio.create_task_group() as group:
            group.start_soon(service.run)
            await service.started.wait()
            with Journal.open(config.journal, read_only=True) as journal:
                if [view.state for view in journal.tasks()] == [TaskState.ENDED]:
                    service.stop()

    anyio.run(run)
