"""A service that runs in a test, with a worker that needs no models."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import anyio

from fakes.workers import FakeWorker
from nightcrew.config import Config
from nightcrew.gateway import JournalGateway
from nightcrew.journal import Journal
from nightcrew.service import Service
from nightcrew_tools.contract import TaskRequest, TaskState, TaskView


def request(text: str, **changes: object) -> TaskRequest:
    return TaskRequest(**({"title": text, "text": text, "repo": "/nowhere"} | changes))


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.01)


class Running:
    """A service under test, with a second connection to its journal, as another process would have."""

    def __init__(self, config: Config, worker: FakeWorker, said: list[str], rejected: dict[str, str]) -> None:
        self.config = config
        self.worker = worker
        self.said = said
        self.rejected = rejected
        self.journal = Journal.open(config.journal)
        self.gateway = JournalGateway(self.journal, config)

    def submit(self, text: str, **changes: object) -> str:
        return self.journal.submit(request(text, **changes), origin="cli", name_hint=text).task

    def view(self, task: str) -> TaskView:
        return self.journal.view(task)

    async def ended(self, task: str) -> TaskView:
        await until(lambda: self.view(task).state is TaskState.ENDED)
        return await self.gateway.view(task)


@asynccontextmanager
async def running(config: Config, worker: FakeWorker | None = None) -> AsyncGenerator[Running]:
    """A service that runs until the block ends; it must end by itself then."""
    worker = worker or FakeWorker()
    said: list[str] = []
    rejected: dict[str, str] = {}
    one = Service(config, open_worker=worker.open, say=said.append, on_reject=rejected.__setitem__)
    async with anyio.create_task_group() as group:
        group.start_soon(one.run)
        with anyio.fail_after(10):
            await one.started.wait()
        try:
            yield Running(config, worker, said, rejected)
        finally:
            one.stop()
