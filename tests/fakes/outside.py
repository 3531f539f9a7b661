"""The outside world, on the loopback: a web server with and without TLS, and a resolver that knows no other names."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Self

from nightcrew_workspaces.egress import Egress, EgressLimits, Outside, Upstream, Visit
from nightcrew_workspaces.egress_rules import AllowList, parse_rule
from nightcrew_workspaces.user import box_user

CERTIFICATE = Path(__file__).parent / "tls" / "mirror.pem"
"""For mirror.test and other.test, signed by itself, good for a hundred years."""
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


class World:
    """Answers every request with `body`; keeps what it was asked. Use as an async context manager."""

    def __init__(self, body: bytes = b"hello from outside\n") -> None:
        self.body = body
        self.requests: list[bytes] = []
        """Heads and bodies as they came."""
        self.hang = False
        """Take a request and never answer."""
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE, CERTIFICATE.with_suffix(".key"))
        self._servers = [await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=tls) for tls in (None, context)]
        self.plain, self.tls = (server.sockets[0].getsockname()[1] for server in self._servers)
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._answer(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        self.requests.append(head + await reader.readexactly(length))
        if self.hang:
            await asyncio.Event().wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(self.body) + self.body)
        await writer.drain()


class Names:
    """A resolver: the answers of each name, one after the other; the last one stays."""

    def __init__(self, **names: object) -> None:
        self._answers = {name.replace("_", "."): answers for name, answers in names.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
        self.asked.append(host)
        answers = self._answers.get(host)
        if not answers:
            raise OSError("Name or service not known")
        first = answers[0]
        if isinstance(first, str):
            return [ipaddress.ip_address(text) for text in answers]
        if len(answers) > 1:
            answers.pop(0)
        return [ipaddress.ip_address(text) for text in first]


def allow(*entries: str) -> AllowList:
    return AllowList(tuple(parse_rule(entry) for entry in entries))


def egress(
    folder: Path,
    *entries: str,
    visits: list[Visit] | None = None,
    names: Names | None = None,
    limits: EgressLimits | None = None,
    private: tuple = LOOPBACK,
    upstream: Upstream | None = None,
    env: dict[str, str] | None = None,
) -> Egress:
    """A way out below `folder` to what the entries allow."""
    return Egress(
        allow(*entries),
        folder=folder,
        user=box_user(None),
        log=(visits if visits is not None else []).append,
        limits=limits or EgressLimits(head_seconds=5, dial_seconds=5, idle_seconds=10, total_seconds=30),
        outside=Outside(private, upstream),
        resolve=names or Names(mirror_test=["127.0.0.1"], other_test=["127.0.0.1"]),
        env=env,
    )
