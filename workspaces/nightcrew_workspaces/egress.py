"""A box's way out: a proxy of the service's behind one unix socket, which is all of the network that a box is shown.

A host is let through when the allow-list has it and every address that its name resolves to may be reached. What is
dialled is one of exactly those addresses: the name is not looked up again, so a second answer cannot lead elsewhere.
Tunnels (CONNECT) carry TLS that asks for the same host and is not opened; plain HTTP is taken apart and put together
anew, one request to a connection. Everything is counted, capped and told to `log`.

What this cannot see: what is asked of an allowed host inside TLS. A host that serves strangers' content under one name
is a way for data to leave, up to the cap on uploads; an allow-list is as good as the hosts on it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import os
import secrets
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

from nightcrew_workspaces.egress_http import BadRequest, Flow, Head, Meter, OverBudget, answer, read_head, relay_request
from nightcrew_workspaces.egress_rules import Address, AllowList, Network, literal, why_refused
from nightcrew_workspaces.egress_tls import MAX_HELLO, NotTls, server_name
from nightcrew_workspaces.errors import EgressError
from nightcrew_workspaces.folders import give_to, make_folder, remove_tree
from nightcrew_workspaces.policy import BoxUser, EgressMount

__all__ = ["Egress", "EgressLimits", "Log", "Outside", "Upstream", "Visit", "parse_upstream"]

logger = logging.getLogger("nightcrew.egress")

_MIB = 1024 * 1024
_CHUNK = 64 * 1024
_MOST_ADDRESSES = 16
_LAST_SECONDS = 5.0
_PAUSE_SECONDS = 0.1
_CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_PEER = struct.Struct("3i")

Resolve = Callable[[str, int], Awaitable[list[Address]]]
"""Looks a name up. Raises `OSError`."""


@dataclass(frozen=True)
class EgressLimits:
    """What may pass through one `Egress`; sizes in bytes, times in seconds."""

    connections: int = 64
    """At the same time; more are turned away."""
    upload: int = 16 * _MIB
    """All that is sent, TLS and headers included. Uploads are how secrets leave."""
    download: int = 4096 * _MIB
    head_seconds: float = 15.0
    """For the head of a request, and for the beginning of TLS in a tunnel."""
    dial_seconds: float = 15.0
    idle_seconds: float = 120.0
    """Without a byte in any direction."""
    total_seconds: float = 3600.0
    """Of one connection."""


@dataclass(frozen=True)
class Upstream:
    """An operator's own HTTP proxy. It looks names up, so nobody here can check their addresses."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)
    """Value of `Proxy-Authorization`; empty for none."""


@dataclass(frozen=True)
class Outside:
    """How the service itself reaches the outside."""

    private: tuple[Network, ...] = ()
    """Ranges that the operator opened: a mirror's."""
    upstream: Upstream | None = None


@dataclass(frozen=True)
class Visit:
    """One decision, told when it is taken, and for what was allowed once more when the connection has ended."""

    method: str
    host: str
    port: int
    allowed: bool
    why: str = ""
    """Why not, or how it went wrong; empty otherwise."""
    address: str = ""
    """What was dialled; `upstream` where an operator's proxy was."""
    sent: int = 0
    received: int = 0
    seconds: float = 0.0
    ended: bool = False


Log = Callable[[Visit], object]


class Refused(Exception):
    """A host that a box asked for is not to be reached; the text says why."""


class Egress:
    """Serves a proxy on a unix socket while its block lasts; `mount` is what a box's policy takes.

    `folder` is a directory of the service that the box's user can pass through; the socket lies in one below it that is
    gone afterwards. `used` is what was sent and received before; it counts too. Raises `EgressError` where it cannot be
    made. To be used on the event loop's thread.
    """

    def __init__(
        self,
        allow: AllowList,
        *,
        folder: Path,
        user: BoxUser,
        log: Log,
        limits: EgressLimits | None = None,
        outside: Outside | None = None,
        resolve: Resolve | None = None,
        env: Mapping[str, str] | None = None,
        used: tuple[int, int] = (0, 0),
    ) -> None:
        self._allow = allow
        self._user = user
        self._log = log
        self._limits = limits or EgressLimits()
        self._outside = outside or Outside()
        self._resolve = resolve or _look_up
        self._env = dict(env or {})
        self._folder = folder / f"egress-{secrets.token_hex(6)}"
        self._meter = Meter(self._limits.upload, self._limits.download, *used)
        self._handlers: set[asyncio.Task[None]] = set()
        self._closing = False

    @property
    def mount(self) -> EgressMount:
        """For `BoxPolicy.network`."""
        bundle = str(_CA_BUNDLE) if _CA_BUNDLE.exists() else ""
        return EgressMount(self._folder / "proxy", ca_bundle=bundle, env=self._env)

    async def __aenter__(self) -> Self:
        try:
            self._listener = _listen(self._folder, self._user)
        except OSError as error:
            remove_tree(self._folder)
            raise EgressError(f"the way out of the box cannot be made at {self._folder}: {error}") from error
        # Not asyncio's own server: what comes in while that is being closed stays open.
        self._door = asyncio.create_task(self._take_in(self._listener))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        tasks = [self._door, *self._handlers]
        for task in tasks:
            task.cancel()
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            self._listener.close()
            remove_tree(self._folder)

    async def _take_in(self, listener: socket.socket) -> None:
        """Give every connection a task of its own."""
        while True:
            try:
                connection, _ = await asyncio.get_running_loop().sock_accept(listener)
            except OSError as error:  # out of descriptors: it waits in the queue
                logger.warning("a connection of a box cannot be taken: %s", error)
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            task = asyncio.create_task(self._attend(connection))
            self._handlers.add(task)
            task.add_done_callback(self._handlers.discard)

    async def _attend(self, connection: socket.socket) -> None:
        """One connection of a box, from its first byte to its last."""
        try:
            reader, writer = await asyncio.open_unix_connection(sock=connection, limit=_CHUNK)
        except BaseException:
            connection.close()
            raise
        try:
            if not self._is_the_boxs(writer):
                return
            if len(self._handlers) > self._limits.connections:
                writer.write(answer(503, f"more than {self._limits.connections} connections at once"))
                return
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(self._limits.total_seconds):
                    await self._serve(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        except Exception:
            # The log failed, say since another worker took the task over: then nothing goes out, and the rest goes on.
            logger.exception("a connection of a box was cut off")
        finally:
            with contextlib.suppress(TimeoutError):
                await _let_go(writer)

    def _is_the_boxs(self, writer: asyncio.StreamWriter) -> bool:
        """Whether the other end runs as the box's user, or is the service: the socket is for nobody else."""
        other: socket.socket = writer.get_extra_info("socket")
        _, uid, _ = _PEER.unpack(other.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        return uid in (self._user.uid, os.geteuid())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(self._limits.head_seconds):
                head = await read_head(reader)
        except BadRequest as error:
            self._log(Visit("", "", 0, allowed=False, why=str(error), ended=True))
            writer.write(answer(400, str(error)))
            return
        if head is None:
            return
        visit, begun = Visit(head.method, head.host, head.port, allowed=False), time.monotonic()
        try:
            addresses = await self._decide(head)
        except Refused as refused:
            self._log(replace(visit, why=str(refused), ended=True))
            writer.write(answer(403, f"{head.host}:{head.port} is refused: {refused}"))
            return
        visit = replace(visit, allowed=True, address=str(addresses[0]) if addresses else "upstream")
        self._log(visit)
        flow = self._meter.flow(self._limits.idle_seconds)
        why = f"it was open for more than {self._limits.total_seconds:g} s"
        try:
            visit, why = await self._pass_on(head, addresses, visit, flow, (reader, writer))
        except OverBudget as over:
            why = str(over)
        except TimeoutError:
            why = "too slow"
        except asyncio.CancelledError:
            why = "" if self._closing else why  # kept open for a next request, when the way out is closed
            raise
        except OSError as error:
            why = error.strerror or str(error)
        finally:
            spent = round(time.monotonic() - begun, 3)
            self._log(replace(visit, why=why, sent=flow.sent, received=flow.received, seconds=spent, ended=True))

    async def _decide(self, head: Head) -> tuple[Address, ...]:
        """The checked addresses, none where the upstream proxy knows better. Raises `Refused`."""
        if not self._allow.allows(head.host, head.port):
            raise Refused("the task's `network` does not name it, or the machine's `network.allow` does not")
        if self._meter.spent is not None:
            raise Refused(self._meter.spent)
        address = literal(head.host)
        if address is None and self._outside.upstream is not None:
            return ()
        found = [address] if address is not None else await self._addresses(head)
        for one in found:
            if (why := why_refused(one, self._outside.private)) is not None:
                name = "" if address is not None else f"its address {one}: "
                raise Refused(f"{name}{why} (`network.private` opens ranges)")
        return () if self._outside.upstream is not None else tuple(found)

    async def _addresses(self, head: Head) -> list[Address]:
        try:
            async with asyncio.timeout(self._limits.dial_seconds):
                found = await self._resolve(head.host, head.port)
        except (OSError, UnicodeError) as error:
            raise Refused(f"its name cannot be looked up: {error}") from None
        if not found or len(found) > _MOST_ADDRESSES:
            raise Refused(f"its name has {len(found)} addresses")
        return found

    async def _pass_on(
        self,
        head: Head,
        addresses: tuple[Address, ...],
        visit: Visit,
        flow: Flow,
        box: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> tuple[Visit, str]:
        """Dial and move bytes until it is over: the visit with the address that answered, and what went wrong."""
        writer = box[1]
        try:
            connected, address = await self._dial(addresses, head.port)
        except (OSError, TimeoutError) as error:
            writer.write(answer(502, f"{head.host}:{head.port} cannot be reached: {error or 'it does not answer'}"))
            return visit, f"not reached: {error or 'no answer'}"
        visit = replace(visit, address=address)
        try:
            if head.method == "CONNECT":
                return visit, await self._tunnel(head, flow, box, connected)
            upstream = self._outside.upstream
            extra = [("Proxy-Authorization", upstream.authorization)] if upstream and upstream.authorization else []
            return visit, await relay_request(head, flow, box, connected, absolute=upstream is not None, extra=extra)
        finally:
            connected[1].close()

    async def _dial(
        self, addresses: tuple[Address, ...], port: int
    ) -> tuple[tuple[asyncio.StreamReader, asyncio.StreamWriter], str]:
        upstream = self._outside.upstream
        if upstream is not None:
            async with asyncio.timeout(self._limits.dial_seconds):
                return await asyncio.open_connection(upstream.host, upstream.port, limit=_CHUNK), "upstream"
        failed: OSError | TimeoutError | None = None
        for address in addresses:
            try:
                async with asyncio.timeout(self._limits.dial_seconds):
                    return await _connect(address, port), str(address)
            except (OSError, TimeoutError) as error:
                failed = error
        raise failed or OSError("it has no address")

    async def _tunnel(
        self,
        head: Head,
        flow: Flow,
        box: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        out: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> str:
        """Pass TLS for the host on, both ways. Returns what was wrong, empty when nothing was."""
        reader, writer = box
        if self._outside.upstream is not None:
            async with asyncio.timeout(self._limits.dial_seconds):
                refusal = await _ask_upstream(self._outside.upstream, head, flow, out)
            if refusal:
                writer.write(answer(502, refusal))
                return refusal
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            async with asyncio.timeout(self._limits.head_seconds):
                hello = await _tls_for(head, reader)
        except NotTls as error:
            return f"cut off: {error}"
        if not hello:
            return ""
        async with flow.clock():
            flow.up(hello)
            out[1].write(hello)
            async with asyncio.TaskGroup() as both:
                both.create_task(_pump(reader, out[1], flow.up))
                both.create_task(_pump(out[0], writer, flow.down))
        return ""


def parse_upstream(url: str) -> Upstream:
    """An operator's proxy as `http://[user:password@]host:port`. Raises `ValueError`."""
    parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
    if parts.scheme != "http" or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ValueError("an upstream proxy is written as http://host:port, with user:password@ where it wants them")
    pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    value = "Basic " + base64.b64encode(pair.encode()).decode() if parts.username else ""
    return Upstream(parts.hostname, parts.port or 80, value)


def _listen(folder: Path, user: BoxUser) -> socket.socket:
    """A socket in a directory of its own: the box's user and the service reach it, nobody else does."""
    make_folder(folder, 0o700)
    # A path of a socket has at most 107 bytes; through the descriptor of its directory it is always short.
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(f"/proc/self/fd/{handle}/proxy")
        (folder / "proxy").chmod(0o600)
        give_to(folder, user)
        listener.listen(128)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    finally:
        os.close(handle)
    return listener


async def _let_go(writer: asyncio.StreamWriter) -> None:
    """Close, and give a client that does not read what it was sent no time to speak of."""
    writer.close()
    try:
        async with asyncio.timeout(_LAST_SECONDS):
            await writer.wait_closed()
    except (TimeoutError, asyncio.CancelledError):  # the first is an OSError too
        writer.transport.abort()
        raise
    except OSError:
        pass


async def _look_up(host: str, port: int) -> list[Address]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = (literal(str(entry[4][0])) for entry in found)
    return list(dict.fromkeys(address for address in addresses if address is not None))


async def _connect(address: Address, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to this address and no other: nothing is looked up."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    outgoing = socket.socket(family, socket.SOCK_STREAM)
    try:
        outgoing.setblocking(False)
        await asyncio.get_running_loop().sock_connect(outgoing, (str(address), port))
        return await asyncio.open_connection(sock=outgoing, limit=_CHUNK)
    except BaseException:
        outgoing.close()
        raise


async def _ask_upstream(
    upstream: Upstream, head: Head, flow: Flow, out: tuple[asyncio.StreamReader, asyncio.StreamWriter]
) -> str:
    """Have the operator's proxy open a tunnel; what it says against it, empty when it did."""
    target = f"[{head.host}]:{head.port}" if ":" in head.host else f"{head.host}:{head.port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if upstream.authorization:
        lines.append(f"Proxy-Authorization: {upstream.authorization}")
    request = ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")
    flow.up(request)
    out[1].write(request)
    try:
        reply = await out[0].readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return "the upstream proxy gave no answer"
    flow.down(reply)
    status = reply.split(b"\r\n", 1)[0].decode("ascii", "replace").split(" ", 2)
    if len(status) > 1 and status[1] == "200":
        return ""
    return f"the upstream proxy refused: {' '.join(status[1:])[:200]}"


async def _tls_for(head: Head, reader: asyncio.StreamReader) -> bytes:
    """What a client begins TLS with, when that asks for the tunnel's host; empty when it goes away. Raises `NotTls`."""
    data = b""
    while (name := server_name(data)) is None:
        if not (more := await reader.read(MAX_HELLO)):
            return b""
        data += more
    wanted = head.host if literal(head.host) is None else ""
    if name.lower().removesuffix(".") != wanted:
        raise NotTls(f"TLS for {name[:255] or 'no host'!r} in a tunnel to {head.host}")
    return data


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: Callable[[bytes], None]) -> None:
    """Pass on until the end, which is passed on too."""
    while data := await reader.read(_CHUNK):
        count(data)
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()
