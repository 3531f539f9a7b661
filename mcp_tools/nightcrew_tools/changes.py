"""Telling clients that something changed: resources that they watch, and the list of resources.

Nothing here looks at the disk: each watched resource is asked for its stamp every few seconds, a file through the box.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.abc import TaskGroup
from mcp.server.context import ServerRequestContext
from mcp.server.session import ServerSession
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
    SubscriptionBus,
)
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    EmptyResult,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    UnsubscribeRequestParams,
)

from nightcrew_tools.groups import unwrapped
from nightcrew_tools.resources import Resources

_STATE = "nightcrew watches"
POLL_SECONDS = 2.0
MOST_WATCHED = 64
"""Resources that one client may watch at the same time."""


class Changes:
    """Watches resources for the clients of one server."""

    def __init__(self, resources: Resources, group: TaskGroup) -> None:
        """`group` runs the watching for clients of the 2025 era, as long as they stay."""
        self._resources = resources
        self._group = group

    async def listen(
        self, ctx: ServerRequestContext[Any, Any], params: SubscriptionsListenRequestParams, said: SubscriptionBus
    ) -> SubscriptionsListenResult:
        """`subscriptions/listen` of 2026-07-28: the watching lasts as long as this request.

        `said` is where the server itself announces what changed; the client hears that, too.
        """
        uris = list(params.notifications.resource_subscriptions or ())
        _check_number(len(uris))
        bus = InMemorySubscriptionBus()
        async with anyio.create_task_group() as group:
            for uri in uris:
                group.start_soon(self._watch, uri, lambda uri=uri: bus.publish(ResourceUpdated(uri=uri)))
            if params.notifications.resources_list_changed:
                group.start_soon(self._watch, None, lambda: bus.publish(ResourcesListChanged()))
            try:
                return await ListenHandler(_Joined(bus, said))(ctx, params)
            finally:
                group.cancel_scope.cancel()
        raise AssertionError("a task group swallows no result")

    async def subscribe(self, ctx: ServerRequestContext[Any, Any], params: SubscribeRequestParams) -> EmptyResult:
        """`resources/subscribe` of 2025-11-25: the watching lasts until the client takes it back, or goes."""
        watched, uri = _watched(ctx.session), str(params.uri)
        if uri not in watched:
            _check_number(len(watched) + 1)
            watched[uri] = anyio.CancelScope()
            self._group.start_soon(self._serve, ctx.session, uri, watched[uri])
        return EmptyResult()

    async def unsubscribe(self, ctx: ServerRequestContext[Any, Any], params: UnsubscribeRequestParams) -> EmptyResult:
        """`resources/unsubscribe`."""
        if (scope := _watched(ctx.session).pop(str(params.uri), None)) is not None:
            scope.cancel()
        return EmptyResult()

    async def _serve(self, session: ServerSession, uri: str, scope: anyio.CancelScope) -> None:
        with scope:
            await self._watch(uri, lambda: session.send_resource_updated(uri))

    async def _watch(self, uri: str | None, tell: Callable[[], Awaitable[None]]) -> None:
        """Tell whenever the stamp of a resource changes, or that of the list where `uri` is None."""
        known: object = math.nan  # nothing is equal to it
        while True:
            stamp = await (self._resources.list_stamp() if uri is None else self._resources.stamp(uri))
            if known == known and stamp != known:  # noqa: PLR0124
                await tell()
            known = stamp
            await anyio.sleep(POLL_SECONDS)


class _Joined:
    """Two buses as one: what is watched for one client, and what everyone hears."""

    def __init__(self, own: SubscriptionBus, common: SubscriptionBus) -> None:
        self._own = own
        self._common = common

    async def publish(self, event: ServerEvent) -> None:
        await self._own.publish(event)

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        ends = [bus.subscribe(listener) for bus in (self._own, self._common)]

        def unsubscribe() -> None:
            for end in ends:
                end()

        return unsubscribe


@asynccontextmanager
async def watching(resources: Resources) -> AsyncGenerator[Changes]:
    """Changes with a task group of their own; who watches is let go of at the end."""
    try:
        async with anyio.create_task_group() as group:
            yield Changes(resources, group)
            group.cancel_scope.cancel()
    except BaseExceptionGroup as error:  # what left the block comes out as it is
        raise unwrapped(error) from None


def _watched(session: ServerSession) -> dict[str, anyio.CancelScope]:
    """What a client watches; it ends with the connection, which the SDK gives no public way to see."""
    connection = session._connection  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    watched: dict[str, anyio.CancelScope] | None = connection.state.get(_STATE)
    if watched is None:
        watched = connection.state[_STATE] = {}
        connection.exit_stack.callback(_let_go, watched)
    return watched


def _let_go(watched: dict[str, anyio.CancelScope]) -> None:
    for scope in watched.values():
        scope.cancel()
    watched.clear()


def _check_number(number: int) -> None:
    if number > MOST_WATCHED:
        raise MCPError(INVALID_PARAMS, f"at most {MOST_WATCHED} resources are watched for one client")
