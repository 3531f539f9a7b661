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
from nightcrew.gateway import JournalGateway
from nightcrew.journal import Journal
from nightcrew.journal.log import Log
from nightcrew.service import Service, run_one
from nightcrew.service.approval import settle_here
from nightcrew.service.worker import open_worker
from nightcrew_tools.contract import TaskRequest


@dataclass(frozen=True)
class Blow:
    """Kill the process at the `number`-th event of a kind: before it is durable, or right after."""

    kind: str
    after: bool
    number: int = 1

    def __str__(self) -> str:
        return f"{'after' if self.after else 'before'}-{self.kind}-{self.number}"


class _Striker:
    """Counts events, and kills this process at the chosen one."""

    def __init__(self, blow: Blow | None) -> None:
        self._blow = blow
        self._seen = 0
        if blow is not None and not blow.after:
            insert = Log.insert

            def insert_or_die(log: Log, recorded: Recorded) -> None:
                self._count(recorded)
                insert(log, recorded)

            Log.insert = insert_or_die  # type: ignore[method-assign]

    def written(self, recorded: Recorded) -> None:
        """An event is on the disk."""
        if self._blow is not None and self._blow.after:
            self._count(recorded)

    def _count(self, recorded: Recorded) -> None:
        if self._blow is not None and recorded.event.kind == self._blow.kind:
            self._seen += 1
            if self._seen == self._blow.number:
                os.kill(os.getpid(), signal.SIGKILL)


def decide(home: str, url: str, blow: Blow | None, approved: bool) -> None:
    """What `nightcrew approve` and `reject` do, in a process of its own."""
    config = config_for(Path(home), url)
    striker = _Striker(blow)

    async def run() -> None:
        with Journal.open(config.journal) as journal:
            journal.subscribe(striker.written)
            gateway = JournalGateway(journal, config)
            [view] = journal.tasks()
            if approved:
                await gateway.approve(view.id, by="ann", door="cli")
            else:
                await gateway.reject(view.id, why="no", by="ann", door="cli")
            await settle_here(config, journal, view.id)

    anyio.run(run)


def serve(home: str, url: str, blow: Blow | None, dialect: tuple[Dialect, ...] = ("tools",)) -> None:
    """The real service in a process of its own, until the task has ended or waits for a person, or the blow falls."""
    config = config_for(Path(home), url, dialect=dialect)
    service: Service
    striker = _Striker(blow)

    def on_event(recorded: Recorded) -> None:
        striker.written(recorded)
        if recorded.event.kind in ("task_ended", "approval_asked"):
            service.stop()

    async def run() -> None:
        nonlocal service
        service = Service(config, open_worker=open_worker, say=lambda _: None, on_event=on_event)
        async with anyio.create_task_group() as group:
            group.start_soon(service.run)
            await service.started.wait()
            with Journal.open(config.journal, read_only=True) as journal:
                if [view.exit_code is not None for view in journal.tasks()] == [True]:
                    service.stop()

    anyio.run(run)


def run_alone(home: str, url: str, repository: str, task: str) -> None:
    """What `nightcrew run` does, in a process of its own."""
    config = config_for(Path(home), url)
    values = {"title": "Fix mean()", "text": "# Fix mean()", "repo": repository, "id": task}
    request = TaskRequest.model_validate(values)
    anyio.run(lambda: run_one(config, request, open_worker=open_worker, say=lambda _: None, name_hint="fix"))
