"""What the proxy reads and writes of HTTP, by h11, and how it counts.

A plain request is taken apart and put together anew, so what two parsers could read differently is not passed on. After
one answer the connection is closed: there is no second request to hide.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import h11

from nightcrew_workspaces.egress_rules import split_authority

MAX_HEAD = 32 * 1024
_CHUNK = 64 * 1024
_REASONS = {400: "Bad Request", 403: "Forbidden", 502: "Bad Gateway", 503: "Service Unavailable"}
_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer upgrade expect".split()
)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class BadRequest(ValueError):
    """What a client asks a proxy in a way that can be understood in two ways, or in none."""


class OverBudget(Exception):
    """More bytes went through than the limits allow; says which."""


@dataclass
class Meter:
    """Counts what passes through all connections together, in bytes."""

    upload: int
    download: int
    sent: int = 0
    received: int = 0

    @property
    def spent(self) -> str | None:
        """What is used up, as a sentence."""
        if self.sent > self.upload:
            return f"more than {self.upload >> 20} MiB were sent (`network.upload_mib`)"
        if self.received > self.download:
            return f"more than {self.download >> 20} MiB were received (`network.download_mib`)"
        return None

    def flow(self, idle_seconds: float) -> Flow:
        """The counter of one connection."""
        return Flow(self, idle_seconds)


class Flow:
    """One connection's bytes, and the clock that runs out when none pass. `up` and `down` raise `OverBudget`."""

    def __init__(self, meter: Meter, idle_seconds: float) -> None:
        self.sent = 0
        self.received = 0
        self._meter = meter
        self._idle = idle_seconds
        self._clock: asyncio.Timeout | None = None

    @contextlib.asynccontextmanager
    async def clock(self) -> AsyncGenerator[None]:
        """Raises `TimeoutError` when nothing passed for too long; an error of a task group comes out by itself."""
        try:
            async with asyncio.timeout(self._idle) as self._clock:
                yield
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    def up(self, data: bytes) -> None:
        """Count before sending: what is over the limit does not leave."""
        self._meter.sent += len(data)
        self._passed()
        self.sent += len(data)

    def down(self, data: bytes) -> None:
        self._meter.received += len(data)
        self._passed()
        self.received += len(data)

    def _passed(self) -> None:
        if (spent := self._meter.spent) is not None:
            raise OverBudget(spent)
        if self._clock is not None:
            self._clock.reschedule(asyncio.get_running_loop().time() + self._idle)


@dataclass(frozen=True)
class Head:
    """What a client asks of the proxy: a tunnel, or one plain request. `host` is normal (see `egress_rules`)."""

    method: str
    host: str
    port: int
    connection: h11.Connection
    request: h11.Request


def answer(status: int, why: str) -> bytes:
    """A whole refusal. The sentence stands in the status line too, which is all that many clients show."""
    text = "".join(letter if " " <= letter <= "~" else "?" for letter in f"Nightcrew: {why}")
    body = f"{text}\n".encode()
    head = f"HTTP/1.1 {status} {_REASONS[status]} ({text[:300]})\r\nContent-Type: text/plain\r\n"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """The head of a request; None when the client goes away before. Raises `BadRequest`."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
    try:
        while (event := connection.next_event()) is h11.NEED_DATA:
            if not (data := await reader.read(_CHUNK)):
                return None
            connection.receive_data(data)
    except h11.RemoteProtocolError as error:
        raise BadRequest(f"no HTTP that this proxy understands: {error}") from None
    if not isinstance(event, h11.Request):
        return None
    if event.method == b"CONNECT":
        if connection.trailing_data[0]:
            raise BadRequest("bytes before the tunnel was there")
        host, port = _authority(event.target.decode("ascii"), None)
        return Head("CONNECT", host, port, connection, event)
    host, port = _plain_target(event)
    return Head(event.method.decode("ascii"), host, port, connection, event)


def _plain_target(request: h11.Request) -> tuple[str, int]:
    """Where a plain request goes, when all that says so agrees."""
    try:
        parts = urlsplit(request.target.decode("ascii"))
    except ValueError:
        raise BadRequest("the URL cannot be read") from None
    if parts.scheme.lower() != "http" or not parts.netloc or "@" in parts.netloc:
        raise BadRequest("a proxy is asked for a whole URL, http://host/path, or for a tunnel")
    names = [name for name, _ in request.headers]
    if b"transfer-encoding" in names and b"content-length" in names:
        raise BadRequest("both a Content-Length and a Transfer-Encoding")
    target = _authority(parts.netloc, 80)
    said = [value.decode("latin-1") for name, value in request.headers if name == b"host"]
    if any(_authority(value, 80) != target for value in said):
        raise BadRequest("the Host header names another host than the URL")
    return target


def _authority(text: str, default_port: int | None) -> tuple[str, int]:
    try:
        return split_authority(text, default_port)
    except ValueError as error:
        raise BadRequest(str(error)) from None


async def relay_request(
    head: Head, flow: Flow, box: Streams, out: Streams, *, absolute: bool, extra: Sequence[tuple[str, str]] = ()
) -> str:
    """Send one plain request on and its answer back. Returns what was wrong, empty when nothing was.

    `absolute`: the other end is a proxy too, and wants the whole URL; `extra` are headers for it.
    """
    far = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
    try:
        async with flow.clock():
            await _send(far, _outgoing(head, absolute=absolute, extra=extra), out[1], flow)
            await _send_body(head, far, box, out[1], flow)
            await _send_answer(head, far, box[1], out[0], flow)
    except h11.ProtocolError as error:
        if head.connection.our_state is h11.SEND_RESPONSE:
            box[1].write(answer(502, f"the answer of {head.host} is no HTTP: {error}"))
        return f"cut off: {error}"
    return ""


async def _send(far: h11.Connection, event: h11.Event, out: asyncio.StreamWriter, flow: Flow) -> None:
    data = far.send(event)
    if data:
        flow.up(data)
        out.write(data)
        await out.drain()


async def _send_body(head: Head, far: h11.Connection, box: Streams, out: asyncio.StreamWriter, flow: Flow) -> None:
    near = head.connection
    while True:
        if near.they_are_waiting_for_100_continue:
            box[1].write(near.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
        event = near.next_event()
        if event is h11.NEED_DATA:
            near.receive_data(await box[0].read(_CHUNK))
        elif isinstance(event, h11.Data):
            await _send(far, h11.Data(data=event.data), out, flow)
        else:
            await _send(far, h11.EndOfMessage(), out, flow)
            return


async def _send_answer(
    head: Head, far: h11.Connection, box: asyncio.StreamWriter, out: asyncio.StreamReader, flow: Flow
) -> None:
    near = head.connection
    while True:
        event = far.next_event()
        sent: Any = b""
        if event is h11.NEED_DATA:
            data = await out.read(_CHUNK)
            flow.down(data)
            far.receive_data(data)
        elif isinstance(event, h11.Response):
            headers = [*_end_to_end(event.headers), (b"connection", b"close")]
            sent = near.send(h11.Response(status_code=event.status_code, headers=headers, reason=event.reason))
        elif isinstance(event, h11.Data):
            sent = near.send(h11.Data(data=event.data))
        elif isinstance(event, h11.EndOfMessage):
            box.write(near.send(h11.EndOfMessage()) or b"")
            return
        elif not isinstance(event, h11.InformationalResponse):
            raise h11.RemoteProtocolError("it ended too early")
        box.write(sent or b"")
        await box.drain()


def _outgoing(head: Head, *, absolute: bool, extra: Sequence[tuple[str, str]]) -> h11.Request:
    parts = urlsplit(head.request.target.decode("ascii"))
    path = (parts.path or ("*" if head.method == "OPTIONS" else "/")) + (f"?{parts.query}" if parts.query else "")
    shown = f"[{head.host}]" if ":" in head.host else head.host
    host = shown if head.port == 80 else f"{shown}:{head.port}"
    headers = [(name, value) for name, value in _end_to_end(head.request.headers) if name != b"host"]
    more = [(name.encode(), value.encode()) for name, value in extra]
    target = f"http://{host}{path}" if absolute else path
    return h11.Request(
        method=head.request.method,
        target=target,
        headers=[(b"host", host.encode()), *headers, *more, (b"connection", b"close")],
    )


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Without what concerns only the connection that they came by."""
    given = list(headers)
    named = {word.strip().lower() for name, value in given if name == b"connection" for word in value.split(b",")}
    return [(name, value) for name, value in given if name not in _HOP and (name not in named or name == b"host")]
