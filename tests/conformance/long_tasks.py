"""Calls that become tasks in memory: the other store behind the product's extension, for the suite's fixtures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import anyio
from anyio.abc import TaskGroup
from mcp.server.context import HandlerResult
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolRequestParams, CallToolResult, ElicitRequest, ElicitResult, InputRequest

from nightcrew_tools.contract import TaskNotFound
from nightcrew_tools.task_extension import LongTask, RunCall, TaskStore


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass
class Running:
    """One call that goes on after its answer."""

    seen: LongTask
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    answers: dict[str, Any] = field(default_factory=dict)
    answered: anyio.Event = field(default_factory=anyio.Event)

    def become(self, **changes: Any) -> None:
        self.seen = replace(self.seen, updated_at=now(), **changes)

    async def ask(self, **questions: ElicitRequest) -> dict[str, ElicitResult]:
        """Wait until every question is answered."""
        asked: dict[str, InputRequest] = {f"{name}-{uuid4()}": question for name, question in questions.items()}
        while open_ := {key: asked[key] for key in asked if key not in self.answers}:
            self.answered = anyio.Event()
            self.become(status="input_required", asks=open_)
            await self.answered.wait()
        self.become(status="working", asks={})
        return {key.partition("-")[0]: ElicitResult.model_validate(self.answers[key]) for key in asked}


CURRENT: ContextVar[Running] = ContextVar("running")


class MemoryTasks(TaskStore):
    """Tasks of the tools for which `becomes` is true; those of everything else are asked of `others`."""

    def __init__(
        self, group: TaskGroup, becomes: Callable[[CallToolRequestParams], bool], others: TaskStore | None
    ) -> None:
        self._group = group
        self._becomes = becomes
        self._others = others
        self._tasks: dict[str, Running] = {}

    async def begin(self, params: CallToolRequestParams, run: RunCall) -> HandlerResult | LongTask:
        if not self._becomes(params):
            return await (run() if self._others is None else self._others.begin(params, run))
        moment = now()
        task = Running(LongTask(str(uuid4()), "working", moment, moment))
        self._tasks[task.seen.id] = task
        self._group.start_soon(self._run, task, run)
        return task.seen

    async def get(self, task: str, *, may_ask: bool) -> LongTask:
        if (ours := self._tasks.get(task)) is not None:
            return ours.seen
        return await self._elsewhere(task).get(task, may_ask=may_ask)

    async def cancel(self, task: str) -> None:
        if (ours := self._tasks.get(task)) is not None:
            ours.scope.cancel()
            return
        await self._elsewhere(task).cancel(task)

    async def answer(self, task: str, answers: Mapping[str, Any]) -> None:
        if (ours := self._tasks.get(task)) is not None:
            expected = {key: answers[key] for key in ours.seen.asks if key in answers}
            ours.answers |= expected
            ours.become(asks={key: asked for key, asked in ours.seen.asks.items() if key not in expected})
            ours.answered.set()
            return
        await self._elsewhere(task).answer(task, answers)

    def _elsewhere(self, task: str) -> TaskStore:
        if self._others is None:
            raise TaskNotFound(f"no task {task!r}")
        return self._others

    async def _run(self, task: Running, run: RunCall) -> None:
        CURRENT.set(task)
        with task.scope:
            try:
                result = await run()
                assert isinstance(result, CallToolResult)
                task.become(status="completed", result=result)
            except MCPError as error:
                task.become(status="failed", error=error.error, message=error.error.message)
        if task.scope.cancelled_caught:
            task.become(status="cancelled", asks={})
