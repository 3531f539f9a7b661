"""The protocol's extension `io.modelcontextprotocol/tasks` (SEP-2663): a call that takes hours is answered with a task.

The client polls the task, may cancel it, and answers what it asks. Only for clients of 2026-07-28 that declare the
extension in the request itself; everyone else gets the tool's plain answer and has the task tools. Where tasks live is
the business of a `TaskStore`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import require_client_extension
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value
from mcp_types import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    CallToolRequestParams,
    CallToolResult,
    ErrorData,
    InputRequest,
    RequestParams,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from starlette.requests import Request

from nightcrew_tools.calls import Ended, OnCall, client_name, door_of
from nightcrew_tools.output import as_tool_error

IDENTIFIER = "io.modelcontextprotocol/tasks"
POLL_MS = 5000
"""How often a client may well look, in milliseconds."""

_VERSIONS = frozenset(MODERN_PROTOCOL_VERSIONS)
_CODES = {"not_found": INVALID_PARAMS, "bad_argument": INVALID_PARAMS, "not_granted": INVALID_REQUEST}

Status = Literal["working", "input_required", "completed", "failed", "cancelled"]
RunCall = Callable[[], Awaitable[HandlerResult]]


@dataclass(frozen=True)
class LongTask:
    """A task as clients see it."""

    id: str
    status: Status
    created_at: str
    """ISO 8601, like `updated_at`."""
    updated_at: str
    message: str = ""
    """For people: what it does now, or why it ended."""
    result: CallToolResult | None = None
    """Of a completed task: what the call would have answered, failures of the tool too."""
    error: ErrorData | None = None
    """Of a failed task; only for errors of the protocol."""
    asks: Mapping[str, InputRequest] = field(default_factory=dict[str, InputRequest])
    """What an `input_required` task wants to know, by keys that are never used again."""


class TaskStore(Protocol):
    """Where tasks live. What is wrong is raised as anything that `as_tool_error` knows."""

    async def begin(self, params: CallToolRequestParams, run: RunCall) -> HandlerResult | LongTask:
        """Answer a tool call by running it, or with the task that it became and that `get` knows from now on."""
        ...

    async def get(self, task: str, *, may_ask: bool) -> LongTask:
        """A task by its whole id; it asks nothing where the client could not put questions to a person."""
        ...

    async def cancel(self, task: str) -> None:
        """Ask a task to stop; one that has ended stays as it is."""
        ...

    async def answer(self, task: str, answers: Mapping[str, Any]) -> None:
        """Take in what a client answers, raw as it came. Keys that nobody asked for are ignored."""
        ...


class GetTask(RequestParams):
    """Parameters of `tasks/get` and `tasks/cancel`."""

    task_id: str


class UpdateTask(GetTask):
    """Parameters of `tasks/update`."""

    input_responses: dict[str, Any]


class TaskExtension(Extension):
    """The extension over one store."""

    identifier = IDENTIFIER

    def __init__(self, store: TaskStore, on_call: OnCall | None = None) -> None:
        """`on_call` is told of what clients change; that they look is not worth a line."""
        self.store = store
        self._on_call = on_call

    def methods(self) -> Sequence[MethodBinding]:
        return (
            MethodBinding("tasks/get", GetTask, self._get, _VERSIONS),
            MethodBinding("tasks/cancel", GetTask, self._cancel, _VERSIONS),
            MethodBinding("tasks/update", UpdateTask, self._update, _VERSIONS),
        )

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        if not _declared(ctx):
            return await call_next(ctx)
        begun = await self.store.begin(params, lambda: call_next(ctx))
        return {"resultType": "task", **_summary(begun)} if isinstance(begun, LongTask) else begun

    async def _get(self, ctx: ServerRequestContext[Any, Any], params: GetTask) -> HandlerResult:
        _admit(ctx, params)
        try:
            return _detail(await self.store.get(params.task_id, may_ask=_may_ask(ctx)))
        except Exception as error:  # noqa: BLE001 - whatever happens, the client gets a sentence
            raise _told(ctx.method, error)[1] from None

    async def _cancel(self, ctx: ServerRequestContext[Any, Any], params: GetTask) -> HandlerResult:
        return await self._noted(ctx, params, lambda: self.store.cancel(params.task_id))

    async def _update(self, ctx: ServerRequestContext[Any, Any], params: UpdateTask) -> HandlerResult:
        return await self._noted(ctx, params, lambda: self.store.answer(params.task_id, params.input_responses))

    async def _noted(
        self, ctx: ServerRequestContext[Any, Any], params: GetTask, act: Callable[[], Awaitable[None]]
    ) -> HandlerResult:
        """Do what changes a task, acknowledge it with nothing, and tell `on_call`."""
        _admit(ctx, params)
        begun, code = time.monotonic(), "cancelled"
        try:
            await act()
            code = "ok"
        except Exception as error:  # noqa: BLE001 - as above
            code, told = _told(ctx.method, error)
            raise told from None
        finally:
            if self._on_call is not None:
                seconds = time.monotonic() - begun
                arguments = {"task": params.task_id}
                self._on_call(Ended(ctx.method, arguments, door_of(ctx), client_name(ctx), code, seconds, 0))
        return {}


def _declared(ctx: ServerRequestContext[Any, Any]) -> bool:
    """Whether this very request may be answered with a task."""
    capabilities = ctx.session.client_capabilities
    extensions = capabilities.extensions if capabilities is not None else None
    return ctx.protocol_version in _VERSIONS and IDENTIFIER in (extensions or {})


def _admit(ctx: ServerRequestContext[Any, Any], params: GetTask) -> None:
    """Refuse clients that did not declare the extension, and over HTTP requests whose `Mcp-Name` is not the task's id.

    The SDK checks that header for the core's methods; the extension makes it mandatory for its own.
    """
    require_client_extension(ctx, IDENTIFIER)
    request: object = ctx.request
    if isinstance(request, Request) and decode_header_value(request.headers.get(MCP_NAME_HEADER)) != params.task_id:
        raise MCPError(HEADER_MISMATCH, f"{MCP_NAME_HEADER} header does not match the request body's 'taskId'")


def refuse_foreign_watchers(ctx: ServerRequestContext[Any, Any]) -> None:
    """Refuse to watch tasks for clients that did not declare the extension. For others nothing is pushed: they poll."""
    wanted = (ctx.params or {}).get("notifications")
    if isinstance(wanted, Mapping) and "taskIds" in wanted:
        require_client_extension(ctx, IDENTIFIER)


def _may_ask(ctx: ServerRequestContext[Any, Any]) -> bool:
    """Whether the client puts forms to its person; an empty capability means that it does."""
    capabilities = ctx.session.client_capabilities
    elicitation = capabilities.elicitation if capabilities is not None else None
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)


def _told(method: str, error: Exception) -> tuple[str, MCPError]:
    """Our code, and the error as the protocol has it."""
    if isinstance(error, MCPError):
        return "protocol", error
    told = as_tool_error(method, error)
    return told.code, MCPError(_CODES.get(told.code, INTERNAL_ERROR), told.message)


def _summary(task: LongTask) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "taskId": task.id,
        "status": task.status,
        "createdAt": task.created_at,
        "lastUpdatedAt": task.updated_at,
        "ttlMs": None,  # tasks are kept until a person removes them
        "pollIntervalMs": POLL_MS,
    }
    return shown | ({"statusMessage": task.message} if task.message else {})


def _detail(task: LongTask) -> dict[str, Any]:
    shown = _summary(task)
    match task.status:
        case "completed" if task.result is not None:
            shown["result"] = task.result.model_dump(mode="json", by_alias=True, exclude_none=True)
        case "failed" if task.error is not None:
            shown["error"] = task.error.model_dump(mode="json", by_alias=True, exclude_none=True)
        case "input_required":
            shown["inputRequests"] = {
                key: asked.model_dump(mode="json", by_alias=True, exclude_none=True) for key, asked in task.asks.items()
            }
        case _:
            pass
    return shown
