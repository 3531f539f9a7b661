"""Listening for HTTP clients: uvicorn, with the patience it lacks for a request whose head comes slowly."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Generator
from typing import cast

import anyio
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from nightcrew_tools.address import Address

HEAD_SECONDS = 10.0
"""Longest time for the head of a request to arrive."""
CONNECTIONS = 512
_STOP_SECONDS = 5


class PatientProtocol(H11Protocol):
    """Closes a connection that has been silent or slow in the middle of a request's head for too long."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is None or cycle.response_complete:
            self._expect_head()
        else:
            self._head_came()

    def _expect_head(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _head_came(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class _Server(uvicorn.Server):
    """uvicorn without its hands on the process's signals, which are the program's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@contextlib.asynccontextmanager
async def listening(app: Starlette, address: Address, passed: socket.socket | None = None) -> AsyncGenerator[int]:
    """Serve `app` at `address` while the block runs; gives the port, which is a free one where 0 was asked for.

    `passed` listens there already: the service manager's, which stays open when this end of it is closed. Raises
    `OSError` where it cannot listen there.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with passed or socket.create_server((address.host, address.port), family=family, backlog=128) as listener:
        config = uvicorn.Config(
            app,
            http=PatientProtocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=_STOP_SECONDS,
        )
        server = _Server(config)
        async with anyio.create_task_group() as group:
            group.start_soon(server.serve, [listener])
            try:
                while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                    await anyio.sleep(0.01)
                yield listener.getsockname()[1]
            finally:
                server.should_exit = True
