"""The task tools: a queue of tasks for whoever holds a `TaskGateway`."""

from __future__ import annotations

from typing import Annotated

from pydantic import ValidationError

from nightcrew_tools.contract import TaskGateway, TaskRequest, TaskView
from nightcrew_tools.output import ANSWER_BYTES, ToolError, head, note
from nightcrew_tools.schema import tool

LISTED = 50
CLIENT = "an MCP client"
"""Who decides through this door: a client says nothing of itself that could be relied on."""


class TaskTools:
    """Submitting tasks and looking at them. Without a gateway every call says so."""

    def __init__(self, gateway: TaskGateway | None) -> None:
        self._optional = gateway

    @tool("Queue a task on a git repository.", writes=True)
    async def task_submit(
        self,
        text: Annotated[str, "what to do"],
        repo: Annotated[str, "absolute path or URL"],
        title: str | None = None,
        base: Annotated[str | None, "branch, tag or commit"] = None,
        checks: Annotated[list[str] | None, "commands that must exit 0"] = None,
    ) -> str:
        first = next((line.strip("# ").strip() for line in text.splitlines() if line.strip("# ")), "")
        if not first:
            raise ToolError("bad_argument", "text is empty; say what is to be done")
        try:
            request = TaskRequest(
                title=title or first[:120],
                text=text,
                repo=repo,
                base=base,
                checks=None if checks is None else tuple(checks),
            )
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"])
            raise ToolError("bad_argument", f"{where}: {problem['msg']}") from None
        return _line(await self._gateway.submit(request, origin="mcp"))

    @tool("List tasks, newest first.")
    async def task_list(self) -> str:
        views = await self._gateway.list()
        if not views:
            return "no tasks"
        more = [note(f"{len(views) - LISTED} older")] if len(views) > LISTED else []
        return "\n".join([*(_line(view) for view in views[:LISTED]), *more])

    @tool("Show a task.")
    async def task_show(self, task: Annotated[str, "task id"]) -> str:
        view = await self._gateway.view(task)
        shown = view.model_dump(mode="json", exclude_none=True, exclude_defaults=True, exclude={"usage"})
        shown.pop("concerns", None)
        lines = [f"{key}: {value}" for key, value in shown.items()]
        lines += [f"concern: {each.path} {each.why} ({each.kind})" for each in view.concerns]
        return "\n".join([*lines, f"tokens: {view.usage.prompt_tokens + view.usage.completion_tokens}"])

    @tool("Read the report of an ended task.")
    async def task_report(self, task: Annotated[str, "task id"]) -> str:
        text = await self._gateway.report(task)
        return await self._cut(task, text)

    @tool("Read the diff of an ended task.")
    async def task_diff(self, task: Annotated[str, "task id"]) -> str:
        text = await self._gateway.diff(task)
        return await self._cut(task, text) if text else "no changes"

    @tool("Cancel a task.", writes=True, destructive=True, idempotent=True)
    async def task_cancel(self, task: Annotated[str, "task id"]) -> str:
        return _line(await self._gateway.cancel(task))

    @tool("Deliver a result that waits for approval.", writes=True, idempotent=True)
    async def task_approve(self, task: Annotated[str, "task id"]) -> str:
        return _line(await self._gateway.approve(task, by=CLIENT, door="mcp"))

    @tool("Refuse a result that waits for approval.", writes=True, destructive=True, idempotent=True)
    async def task_reject(self, task: Annotated[str, "task id"], why: Annotated[str, "the reason"]) -> str:
        if not why.strip():
            raise ToolError("bad_argument", "why is empty; give the reason")
        return _line(await self._gateway.reject(task, why=why, by=CLIENT, door="mcp"))

    @property
    def _gateway(self) -> TaskGateway:
        if self._optional is None:
            raise ToolError("no_tasks", "this session has no task queue; `nightcrew up` runs one")
        return self._optional

    async def _cut(self, task: str, text: str) -> str:
        shown, left_out = head(text, ANSWER_BYTES)
        if not left_out:
            return shown
        view = await self._gateway.view(task)
        where = view.patch_path if text.startswith("diff ") else view.report_path
        return shown + note(f"{left_out} more bytes" + (f" in {where}" if where else ""))


def _line(view: TaskView) -> str:
    state = view.outcome or view.state
    branch = f" on {view.branch}" if view.branch else ""
    detail = view.reason or view.activity
    return f"{view.id} {state.value}{branch}: {view.title}" + (f" ({detail})" if detail else "")
