"""A task queue in memory."""

from __future__ import annotations

from nightcrew_tools.contract import NotWaiting, Outcome, TaskNotFound, TaskRequest, TaskState, TaskView


class FakeGateway:
    """Keeps what is submitted; nothing ever runs. `reports` and `diffs` are what ended tasks would have left."""

    def __init__(self) -> None:
        self.views: dict[str, TaskView] = {}
        self.requests: list[tuple[TaskRequest, str]] = []
        self.reports: dict[str, str] = {}
        self.diffs: dict[str, str] = {}

    async def submit(self, request: TaskRequest, *, origin: str) -> TaskView:
        self.requests.append((request, origin))
        task = f"t{len(self.requests)}"
        self.views[task] = TaskView(
            id=task,
            name=task,
            title=request.title,
            repo=request.repo,
            crew=request.crew or "default",
            state=TaskState.QUEUED,
            submitted_at="2026-11-01T22:00:00.000Z",
            report_path=f"/outbox/{task}.report.md",
            patch_path=f"/outbox/{task}.patch",
        )
        return self.views[task]

    async def list(self) -> list[TaskView]:
        return list(reversed(self.views.values()))

    async def view(self, task: str) -> TaskView:
        if task not in self.views:
            raise TaskNotFound(f"no task {task!r}")
        return self.views[task]

    async def cancel(self, task: str) -> TaskView:
        ended = {"state": TaskState.ENDED, "outcome": Outcome.CANCELLED, "reason": "asked to"}
        self.views[task] = (await self.view(task)).model_copy(update=ended)
        return self.views[task]

    async def approve(self, task: str, *, by: str, door: str) -> TaskView:
        return await self._decided(task, f"approved by {by} ({door})", Outcome.DELIVERED)

    async def reject(self, task: str, *, why: str, by: str, door: str) -> TaskView:
        return await self._decided(task, f"{why}, says {by} ({door})", Outcome.REJECTED)

    async def _decided(self, task: str, reason: str, outcome: Outcome) -> TaskView:
        view = await self.view(task)
        if view.state is not TaskState.WAITING:
            raise NotWaiting(f"task {task} does not wait for approval: it is {view.state}")
        ended = {"state": TaskState.ENDED, "outcome": outcome, "reason": reason}
        self.views[task] = view.model_copy(update=ended)
        return self.views[task]

    async def report(self, task: str) -> str:
        await self.view(task)
        if task not in self.reports:
            raise TaskNotFound(f"task {task!r} has no report yet")
        return self.reports[task]

    async def diff(self, task: str) -> str:
        await self.view(task)
        return self.diffs.get(task, "")

    async def journal(self, task: str) -> str:
        await self.view(task)
        return f'{{"task": "{task}"}}\n'
