"""A tool call while it runs: signs of life for a client that waits, and one line in the audit log when it is over."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import anyio
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context
from starlette.requests import Request

BEAT_SECONDS = 1.0
"""How often a client that asked for progress hears of a call that is still running."""
_LINE_CHARACTERS = 200


@dataclass(frozen=True)
class Ended:
    """One call, as the audit log shows it."""

    tool: str
    arguments: Mapping[str, Any]
    door: str
    """Name of the token that the client came in with; empty over stdio and in process."""
    client: str
    """Name and version as the client gives them; empty where it gives none. Nobody vouches for it."""
    code: str
    """`ok`, the code of the error that the model was told, or `cancelled`."""
    seconds: float
    answer_bytes: int


OnCall = Callable[[Ended], None]
"""Is told of every call when it is over. Must not raise."""


@dataclass
class Call:
    """A call that is running."""

    tool: str
    begun: float = field(default_factory=time.monotonic)
    last_line: str = ""
    """What it last printed."""

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begun

    def heard(self, text: str) -> None:
        """Take in a piece of output."""
        lines = text.split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        if last:
            self.last_line = last.strip()[:_LINE_CHARACTERS]


_CURRENT: ContextVar[Call | None] = ContextVar("nightcrew_call", default=None)


def heard(text: str) -> None:
    """A piece of output of the call that is running here, where there is one."""
    if (call := _CURRENT.get()) is not None:
        call.heard(text)


_STARTED: ContextVar[list[str] | None] = ContextVar("nightcrew_started", default=None)


def started(task: str) -> None:
    """The call that is running here put a task into the queue."""
    if (tasks := _STARTED.get()) is not None:
        tasks.append(task)


@contextmanager
def tasks_started() -> Generator[list[str]]:
    """Ids of the tasks that calls inside of the block put into the queue."""
    tasks: list[str] = []
    token = _STARTED.set(tasks)
    try:
        yield tasks
    finally:
        _STARTED.reset(token)


@asynccontextmanager
async def running(call: Call, context: Context[Any, Any] | None) -> AsyncGenerator[None]:
    """Make `call` the current one, and tell its client every second that it runs (heard where it asked for that)."""
    token = _CURRENT.set(call)
    try:
        if context is None:
            yield
            return
        async with anyio.create_task_group() as group:
            group.start_soon(_beat, call, context)
            yield
            group.cancel_scope.cancel()
    finally:
        _CURRENT.reset(token)


def client_name(ctx: ServerRequestContext[Any, Any]) -> str:
    """What the client calls itself, with its version; empty where it does not say."""
    params = ctx.session.client_params
    return "" if params is None else f"{params.client_info.name} {params.client_info.version}".strip()[:100]


def door_of(ctx: ServerRequestContext[Any, Any]) -> str:
    """Name of the bearer token that a request came with; empty where there is none."""
    request: object = ctx.request
    user = request.scope.get("user") if isinstance(request, Request) else None
    return user.access_token.client_id if isinstance(user, AuthenticatedUser) else ""


async def _beat(call: Call, context: Context[Any, Any]) -> None:
    while True:
        await anyio.sleep(BEAT_SECONDS)
        seconds = round(call.seconds, 1)
        await context.report_progress(seconds, message=f"{seconds:g} s: {call.last_line or call.tool}")
