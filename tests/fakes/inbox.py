"""An intake over real folders and a real journal, for tests: swept by hand, with time that passes when they say so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from nightcrew.config import Config
from nightcrew.intake.inbox import DOUBTFUL_SECONDS, Intake
from nightcrew.journal import Journal
from nightcrew_tools.contract import TaskView

GOOD = "---\nrepo: /src/app\n---\n# Fix it\n\nPlease.\n"


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


class House:
    """An intake over real folders and a real journal, swept by hand."""

    def __init__(self, config: Config, journal: Journal, **options: object) -> None:
        self.config = config
        self.journal = journal
        self.clock = Clock()
        self.accepted: list[TaskView] = []
        self.rejections: list[tuple[str, str]] = []
        self.options = options
        self.intake = self.make(clock=self.clock)

    def make(self, **more: object) -> Intake:
        return Intake(
            self.config,
            self.journal,
            on_accept=self.accepted.append,
            on_reject=lambda name, reason: self.rejections.append((name, reason)),
            **{**self.options, **more},  # type: ignore[arg-type]
        )

    def drop(self, name: str, text: str | bytes = GOOD) -> Path:
        path = self.config.inbox / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    async def sweep(self, *, after: float = 0.0) -> float | None:
        self.clock.seconds += after
        async with anyio.create_task_group() as tasks:
            return await self.intake.sweep(tasks)

    async def settle(self) -> None:
        """Long enough for everything, doubtful files included."""
        await self.sweep()
        await self.sweep(after=DOUBTFUL_SECONDS)

    @property
    def titles(self) -> list[str]:
        return sorted(task.title for task in self.journal.tasks())

    @property
    def inbox(self) -> list[str]:
        return sorted(path.name for path in self.config.inbox.iterdir() if not path.name.startswith("."))

    def hidden(self, folder: str) -> list[str]:
        return sorted(path.name for path in (self.config.inbox / folder).iterdir())

    def report(self, name: str) -> str:
        return (self.config.rejected / f"{name}.report.md").read_text(encoding="utf-8")


async def until(condition: Callable[[], object], *, seconds: float = 10.0) -> None:
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - a file or a row appears, nobody sets an event
            await anyio.sleep(0.01)


@asynccontextmanager
async def running(intake: Intake) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(intake.run)
        yield
        tasks.cancel_scope.cancel()
