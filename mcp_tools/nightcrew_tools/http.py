"""The HTTP door: who may come in, how much and how fast; behind it the SDK's streamable HTTP app, one for each scope.

In this order: only addresses of this door as Host and only its own pages as Origin (DNS rebinding, other web sites), a
bearer token compared in constant time, a rate for each token, a size for each request, a time for its arrival, and a
time for the client to take each piece of the answer.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from mcp.server import MCPServer
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nightcrew_tools.address import Address, check_address
from nightcrew_tools.tokens import Scope as TokenScope
from nightcrew_tools.tokens import Token, Tokens

PATH = "/mcp"
_MIB = 1024 * 1024


@dataclass(frozen=True)
class DoorLimits:
    """What one client may ask of the door."""

    request_bytes: int = 4 * _MIB
    requests_per_second: float = 50.0
    """For each token, over the long run."""
    burst: int = 200
    """Requests at once before the rate counts."""
    arrival_seconds: float = 30.0
    """Longest time for a request's body to arrive."""
    take_seconds: float = 30.0
    """Longest time for the client to take a piece of the answer."""
    sessions: int = 256


def _security(address: Address) -> TransportSecuritySettings:
    """Host and Origin headers that belong to this door."""
    hosts = address.hosts()
    origins = [f"{scheme}://{host}" for scheme in ("http", "https") for host in hosts]
    return TransportSecuritySettings(
        enable_dns_rebinding_protection=True, allowed_hosts=list(hosts), allowed_origins=origins
    )


def http_app(
    servers: Mapping[TokenScope, MCPServer[Any]],
    *,
    address: Address,
    tokens: Tokens | None,
    limits: DoorLimits | None = None,
) -> Starlette:
    """The ASGI application: each token's scope has a server of its own; without tokens everyone gets `full`.

    Raises `UnsafeAddress`, and `ValueError` where a token has a scope without a server.
    """
    check_address(address, tokens)
    limits = limits or DoorLimits()
    missing = (tokens.scopes if tokens else {"full"}) - set(servers)
    if missing:
        raise ValueError(f"no server for tokens of scope {', '.join(sorted(missing))}")
    security = _security(address)
    apps: dict[TokenScope, Starlette] = {
        scope: server.streamable_http_app(
            streamable_http_path=PATH,
            max_request_body_size=limits.request_bytes,
            max_sessions=limits.sessions,
            transport_security=security,
        )
        for scope, server in servers.items()
    }

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        del app
        async with AsyncExitStack() as stack:
            for inner in apps.values():
                await stack.enter_async_context(inner.router.lifespan_context(inner))
            yield

    outer = Starlette(lifespan=lifespan)
    outer.mount("", Door(apps, tokens, limits))
    return outer


@dataclass
class _Bucket:
    """A token bucket in the sense of networks: `burst` at once, refilled at the rate."""

    left: float
    at: float = field(default_factory=time.monotonic)

    def take(self, limits: DoorLimits) -> bool:
        moment = time.monotonic()
        self.left = min(limits.burst, self.left + (moment - self.at) * limits.requests_per_second)
        self.at = moment
        if self.left < 1:
            return False
        self.left -= 1
        return True


class Door:
    """Lets requests in, or answers them itself."""

    def __init__(self, apps: Mapping[TokenScope, ASGIApp], tokens: Tokens | None, limits: DoorLimits) -> None:
        self._apps = apps
        self._tokens = tokens
        self._limits = limits
        self._buckets: dict[bytes, _Bucket] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        token = self._token(scope)
        if token is None and self._tokens is not None:
            headers = ((b"www-authenticate", b'Bearer realm="nightcrew"'),)
            await _refuse(send, 401, "a bearer token is needed: Authorization: Bearer TOKEN", headers)
            return
        key = token.digest if token else b""
        if not self._buckets.setdefault(key, _Bucket(self._limits.burst)).take(self._limits):
            words = f"too many requests: at most {self._limits.requests_per_second:g} a second"
            await _refuse(send, 429, words, ((b"retry-after", b"1"),))
            return
        if token is not None:  # the SDK binds a session to who opened it
            user = AuthenticatedUser(AccessToken(token="", client_id=token.name, scopes=[token.scope]))
            scope = {**scope, "user": user}
        app = self._apps[token.scope if token else "full"]
        began = False

        async def note(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        with anyio.CancelScope() as cut:
            await app(scope, _in_time(receive, self._limits, cut), _taken(note, self._limits, cut))
        if cut.cancelled_caught and not began:
            words = f"the request did not arrive within {self._limits.arrival_seconds:g} s"
            await _refuse(send, 408, words, ((b"connection", b"close"),))

    def _token(self, scope: Scope) -> Token | None:
        kind, _, presented = Headers(scope=scope).get("authorization", "").partition(" ")
        if self._tokens is None or kind.lower() != "bearer":
            return None
        return self._tokens.find(presented.strip())


def _in_time(receive: Receive, limits: DoorLimits, cut: anyio.CancelScope) -> Receive:
    """The body within a time; afterwards the client may be silent, for that is how it waits for an answer."""
    deadline = time.monotonic() + limits.arrival_seconds
    complete = False

    async def inner() -> Message:
        nonlocal complete
        if complete:
            return await receive()
        with anyio.move_on_after(max(0.0, deadline - time.monotonic())):
            message = await receive()
            complete = message["type"] != "http.request" or not message.get("more_body", False)
            return message
        cut.cancel()
        await anyio.lowlevel.checkpoint()
        return {"type": "http.disconnect"}

    return inner


def _taken(send: Send, limits: DoorLimits, cut: anyio.CancelScope) -> Send:
    async def inner(message: Message) -> None:
        with anyio.move_on_after(limits.take_seconds) as waiting:
            await send(message)
        if waiting.cancelled_caught:
            cut.cancel()
            await anyio.lowlevel.checkpoint()

    return inner


async def _refuse(send: Send, status: int, words: str, headers: tuple[tuple[bytes, bytes], ...]) -> None:
    body = json.dumps({"error": words}).encode()
    all_headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": all_headers})
    await send({"type": "http.response.body", "body": body})
