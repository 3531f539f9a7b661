"""The task tools: a queue of tasks for whoever holds a `TaskGateway`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated

import anyio
from pydantic import ValidationError

from nightcrew_tools import calls
from nightcrew_tools.contract import TaskGateway, TaskRequest, TaskState, TaskView
from nightcrew_tools.output import ANSWER_BYTES, ToolError, note
from nightcrew_tools.reply import Reply
from nightcrew_tools.schema import tool

LISTED = 50
LONGEST_WAIT = 3600.0
LOOK_SECONDS = 0.5
"""How often a waiting call looks how far its task is."""
CLIENT = "an MCP client"
"""Who decides through this door: a client says nothing of itself that could be relied on."""

_SETTLED = frozenset({TaskState.ENDED, TaskState.WAITING})


@dataclass(frozen=True)
class TaskFacts:
    """How a task stands."""

    id: str
    state: str
    outcome: str | None
    exit_code: int | None
    branch: str | None


@dataclass(frozen=True)
class TaskPage:
    """Ids of the tasks that an answer shows."""

    ids: tuple[str, ...]
    cursor: str | None


@dataclass(frozen=True)
class TextPage:
    """Which part of a report or diff a text is."""

    offset: int
    total_bytes: int
    next_offset: int | None


class TaskTools:
    """Submitting tasks and looking at them. Without a gateway every call says so."""

    def __init__(self, gateway: TaskGateway | None) -> None:
        self._optional = gateway

    @tool("Queue a task on a git repository.", writes=True, facts=TaskFacts)
    async def task_submit(
        self,
        text: Annotated[str, "what to do"],
        repo: Annotated[str, "absolute path or URL"],
        title: str | None = None,
        base: Annotated[str | None, "branch, tag or commit"] = None,
        checks: Annotated[list[str] | None, "commands that must exit 0"] = None,
    ) -> Reply:
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
        view = await self._gateway.submit(request, origin="mcp")
        calls.started(view.id)
        return _reply(view)

    @tool("List tasks, newest first.", facts=TaskPage)
    async def task_list(self, after: Annotated[str | None, "id to go on after"] = None) -> Reply:
        views = await self._gateway.list()
        if after is not None:
            ids = [view.id for view in views]
            if after not in ids:
                raise ToolError("not_found", f"no task {after!r} to go on after; leave it out to begin anew")
            views = views[ids.index(after) + 1 :]
        shown, more = views[:LISTED], len(views) - LISTED
        lines = [task_line(view) for view in shown] or ["no tasks" if after is None else "no more tasks"]
        if more > 0:
            lines.append(note(f"{more} older: go on with after={shown[-1].id}"))
        return Reply("\n".join(lines), TaskPage(tuple(view.id for view in shown), shown[-1].id if more > 0 else None))

    @tool("Show how far a task is.", facts=TaskFacts)
    async def task_status(self, task: Annotated[str, "task id"]) -> Reply:
        view = await self._gateway.view(task)
        shown = view.model_dump(mode="json", exclude_none=True, exclude_defaults=True, exclude={"usage", "concerns"})
        lines = [f"{key}: {value}" for key, value in shown.items()]
        lines += [f"concern: {each.path} {each.why} ({each.kind})" for each in view.concerns]
        lines.append(f"tokens: {view.usage.prompt_tokens + view.usage.completion_tokens}")
        return Reply("\n".join(lines), task_facts(view))

    @tool("Wait until a task has ended or waits for approval.", facts=TaskFacts)
    async def task_wait(self, task: Annotated[str, "task id"], timeout_seconds: float = 300) -> Reply:
        if not 0 <= timeout_seconds <= LONGEST_WAIT:
            raise ToolError("bad_argument", f"timeout_seconds is 0 to {LONGEST_WAIT:g}, not {timeout_seconds:g}")
        deadline = time.monotonic() + timeout_seconds
        view = await self._gateway.view(task)
        while view.state not in _SETTLED and time.monotonic() < deadline:
            calls.heard(f"{view.state}: {view.activity}" if view.activity else view.state)
            await anyio.sleep(min(LOOK_SECONDS, max(0.0, deadline - time.monotonic())))
            view = await self._gateway.view(view.id)
        going = "" if view.state in _SETTLED else "\n" + note(f"not yet after {timeout_seconds:g} s: wait again")
        return Reply(task_line(view) + going, task_facts(view))

    @tool("Read the report of a task that has ended or waits for approval.", facts=TextPage)
    async def task_report(self, task: Annotated[str, "task id"], offset: int = 0) -> Reply:
        return _page(await self._gateway.report(task), offset)

    @tool("Read what a task changed, as a diff.", facts=TextPage)
    async def task_diff(self, task: Annotated[str, "task id"], offset: int = 0) -> Reply:
        return _page(await self._gateway.diff(task), offset, empty="no changes")

    @tool("Cancel a task.", writes=True, destructive=True, idempotent=True, facts=TaskFacts)
    async def task_cancel(self, task: Annotated[str, "task id"]) -> Reply:
        return _reply(await self._gateway.cancel(task))

    @tool("Deliver a result that waits for approval.", writes=True, idempotent=True, facts=TaskFacts)
    async def task_approve(self, task: Annotated[str, "task id"]) -> Reply:
        return _reply(await self._gateway.approve(task, by=CLIENT, door="mcp"))

    @tool("Refuse a result that waits for approval.", writes=True, destructive=True, idempotent=True, facts=TaskFacts)
    async def task_reject(self, task: Annotated[str, "task id"], why: Annotated[str, "the reason"]) -> Reply:
        if not why.strip():
            raise ToolError("bad_argument", "why is empty; give the reason")
        return _reply(await self._gateway.reject(task, why=why, by=CLIENT, door="mcp"))

    @property
    def _gateway(self) -> TaskGateway:
        if self._optional is None:
            raise ToolError("no_tasks", "this session has no task queue; `nightcrew up` runs one")
        return self._optional


def _page(text: str, offset: int, *, empty: str = "nothing more") -> Reply:
    """A part of a text from `offset`, in bytes of UTF-8, cut between lines where that can be."""
    data = text.encode(errors="replace")
    if not 0 <= offset <= len(data):
        raise ToolError("bad_argument", f"offset is 0 to {len(data)}, not {offset}")
    end = len(data)
    if end - offset > ANSWER_BYTES:
        end = data.rfind(b"\n", offset, offset + ANSWER_BYTES) + 1 or offset + ANSWER_BYTES
    shown = data[offset:end].decode(errors="ignore")
    following = end if end < len(data) else None
    more = note(f"{len(data) - end} more bytes: go on with offset={end}") if following is not None else ""
    return Reply((shown + more) or empty, TextPage(offset, len(data), following))


def task_facts(view: TaskView) -> TaskFacts:
    """How a task stands, for programs."""
    outcome = view.outcome.value if view.outcome is not None else None
    return TaskFacts(view.id, view.state.value, outcome, view.exit_code, view.branch)


def _reply(view: TaskView) -> Reply:
    return Reply(task_line(view), task_facts(view))


def task_line(view: TaskView) -> str:
    """How a task stands, in one line."""
    state = view.outcome or view.state
    branch = f" on {view.branch}" if view.branch else ""
    detail = view.reason or view.activity
    return f"{view.id} {state.value}{branch}: {view.title}" + (f" ({detail})" if detail else "")
