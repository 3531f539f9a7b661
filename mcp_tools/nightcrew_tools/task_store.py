"""The queue's tasks as the protocol's: `task_submit` becomes a task that outlives this process and every connection.

What a session may do with a task over `tasks/…` is what its tools permit: looking is `task_status`, the report is
`task_report`, cancelling is `task_cancel`, deciding is `task_approve` and `task_reject`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from mcp.server.context import HandlerResult
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequest,
    TextContent,
)
from pydantic import ValidationError

from nightcrew_tools.calls import tasks_started
from nightcrew_tools.contract import NotWaiting, Outcome, TaskGateway, TaskNotFound, TaskState, TaskView
from nightcrew_tools.output import ANSWER_BYTES, ToolError, bounded, head, note, quoted, size
from nightcrew_tools.reply import facts_value
from nightcrew_tools.task_extension import LongTask, RunCall, Status, TaskStore
from nightcrew_tools.tasks import CLIENT, task_facts, task_line

NEEDED = frozenset({"task_submit", "task_status"})
"""Without these tools a session has no use for the extension."""
_SHOWN_CONCERNS = 10
_DECISIONS = {"approve": "task_approve", "reject": "task_reject"}


class QueueTasks(TaskStore):
    """Tasks of a gateway, for a session that has the tools `granted`."""

    def __init__(self, gateway: TaskGateway, granted: Collection[str], *, structured: bool) -> None:
        """`structured`: results carry facts beside the text, as those of the tools do."""
        self._gateway = gateway
        self._granted = frozenset(granted)
        self._structured = structured

    async def begin(self, params: CallToolRequestParams, run: RunCall) -> HandlerResult | LongTask:
        if params.name != "task_submit":
            return await run()
        with tasks_started() as started:
            result = await run()
        # A task that was refused is answered by the tool; one that was not is in the journal by now.
        return await self.get(started[0], may_ask=False) if started else result

    async def get(self, task: str, *, may_ask: bool) -> LongTask:
        view = await self._view(task)
        result = await self._result(view) if view.state is TaskState.ENDED else None
        asks = self._asks(view) if may_ask else {}
        return LongTask(
            id=view.id,
            status=_status(view, asking=bool(asks)),
            created_at=view.submitted_at,
            updated_at=view.ended_at or view.started_at or view.submitted_at,
            message=_message(view),
            result=result,
            asks=asks,
        )

    async def cancel(self, task: str) -> None:
        if "task_cancel" not in self._granted:
            raise ToolError("not_granted", "this session may not cancel tasks: it has no task_cancel")
        await self._gateway.cancel((await self._view(task)).id)

    async def answer(self, task: str, answers: Mapping[str, Any]) -> None:
        view = await self._view(task)
        given = answers.get(_key(view))
        if given is None or not self._asks(view):
            return
        decision, why = _decision(given)
        if _DECISIONS.get(decision) not in self._granted:
            return  # the form was cancelled, or gives another answer than it could: the task goes on waiting
        try:
            if decision == "approve":
                await self._gateway.approve(view.id, by=CLIENT, door="mcp")
            else:
                await self._gateway.reject(view.id, why=why or "no reason was given", by=CLIENT, door="mcp")
        except NotWaiting:
            return  # somebody else was faster: an answer to what is no longer asked

    async def _view(self, task: str) -> TaskView:
        view = await self._gateway.view(task)
        if view.id != task:  # a person may write the beginning of an id or a name, a program writes the id
            raise TaskNotFound(f"no task {task!r}")
        return view

    async def _result(self, view: TaskView) -> CallToolResult:
        """What `task_submit` would have answered, had it waited until the end."""
        delivered = view.outcome is Outcome.DELIVERED
        line = task_line(view)
        text = (line if delivered else str(ToolError("not_delivered", line))) + await self._report(view)
        return CallToolResult(
            content=[TextContent(type="text", text=bounded(text))],
            structured_content=facts_value(task_facts(view)) if self._structured else None,
            is_error=not delivered,
        )

    async def _report(self, view: TaskView) -> str:
        if "task_report" not in self._granted:
            return ""
        try:
            report = await self._gateway.report(view.id)
        except TaskNotFound:  # it ended before it began, or a person took the file away
            return ""
        shown, left_out = head(report, ANSWER_BYTES)
        more = note(f"{left_out} more bytes: task_report goes on with offset={size(shown)}") if left_out else ""
        return f"\n\n{shown}{more}"

    def _asks(self, view: TaskView) -> dict[str, InputRequest]:
        """The form for the person at the client, where the session may decide at all."""
        if view.state is not TaskState.WAITING or "task_approve" not in self._granted:
            return {}
        return {_key(view): _form(view, [name for name, tool in _DECISIONS.items() if tool in self._granted])}


def _status(view: TaskView, *, asking: bool) -> Status:
    if view.state is TaskState.ENDED:
        return "cancelled" if view.outcome is Outcome.CANCELLED else "completed"
    return "input_required" if asking else "working"


def _message(view: TaskView) -> str:
    match view.state:
        case TaskState.ENDED:
            return task_line(view)
        case TaskState.WAITING:
            return (
                f"its result waits for a person's word: `nightcrew approve {view.id}`, or `nightcrew reject {view.id}`"
            )
        case _:
            return f"{view.state.value}: {view.activity}" if view.activity else view.state.value


def _key(view: TaskView) -> str:
    """A result is asked for once: another one of the same task has another commit."""
    return f"decide-{view.commit or view.id}"


def _form(view: TaskView, decisions: list[str]) -> ElicitRequest:
    concerns = [f"{quoted(each.path)} {each.why}" for each in view.concerns[:_SHOWN_CONCERNS]]
    if len(view.concerns) > _SHOWN_CONCERNS:
        concerns.append(f"and {len(view.concerns) - _SHOWN_CONCERNS} more")
    lines = [f"Deliver the result of {view.id}, {quoted(view.title)}, into {quoted(view.repo)}?", *concerns]
    schema = {
        "type": "object",
        "properties": {
            "decision": {"type": "string", "enum": decisions},
            "why": {"type": "string", "description": "the reason, where it is refused"},
        },
        "required": ["decision"],
    }
    return ElicitRequest(params=ElicitRequestFormParams(message="\n".join(lines), requested_schema=schema))


def _decision(given: Any) -> tuple[str, str]:
    """What a person chose and why; empty where the form was not sent. Raises `ToolError`."""
    try:
        result = ElicitResult.model_validate(given)
    except ValidationError:
        raise ToolError("bad_argument", "an answer is {action, content}, as of any form") from None
    content = result.content or {}
    if result.action != "accept":
        return "", ""
    return str(content.get("decision", "")), str(content.get("why", "")).strip()
