"""What an outside client is offered, and the servers made of it: one over stdio, one for each scope over HTTP."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
from mcp.server import MCPServer

from nightcrew_tools.address import Address
from nightcrew_tools.audit import AuditLog
from nightcrew_tools.changes import watching
from nightcrew_tools.clients import Facts
from nightcrew_tools.contract import TaskGateway
from nightcrew_tools.grants import Grants
from nightcrew_tools.http import http_app
from nightcrew_tools.listen import listening
from nightcrew_tools.ports import WorkspacePort
from nightcrew_tools.resources import Resources
from nightcrew_tools.server import ToolServer, build_server
from nightcrew_tools.tokens import SCOPES, Scope, Tokens


@dataclass(frozen=True)
class Offer:
    """Everything that clients of one session may be given."""

    grants: Grants
    workspace: WorkspacePort | None = None
    gateway: TaskGateway | None = None
    facts: Facts = "auto"
    audit: Path | None = None
    """Where each call is written down; nowhere when None."""
    ready: Callable[[], Awaitable[None]] | None = field(default=None, compare=False)
    """See `build_server`."""

    @asynccontextmanager
    async def server(self, scope: Scope = "full") -> AsyncGenerator[ToolServer]:
        """A server for clients of this scope. Raises `ValueError` for a scope that leaves no tool, `OSError`."""
        grants = scoped(self.grants, scope)
        workspace = self.workspace if grants.families - {"tasks"} else None
        gateway = self.gateway if "tasks" in grants.families else None
        server = build_server(
            grants,
            workspace=workspace,
            gateway=gateway,
            on_call=AuditLog(self.audit) if self.audit is not None else None,
            ready=self.ready,
            facts=self.facts,
            instructions=_instructions(grants, workspace),
        )
        files = workspace.files if workspace is not None and "files" in grants.families else None
        resources = Resources(files, gateway, self.ready)
        async with watching(resources) as changes:
            server.furnish(resources, changes)
            yield server


def _instructions(grants: Grants, workspace: WorkspacePort | None) -> str | None:
    """What a model cannot see in the tools, in a few words: clients put it into every prompt."""
    if workspace is None:
        return None
    first, *others = (str(root) for root in workspace.roots)
    more = f"; also there: {', '.join(others)}" if others else ""
    said = [f"Paths are absolute or relative to {first}{more}."]
    if grants.read_only:
        said.append("Nothing can be changed.")
    elif grants.permit("run_command", writes=True):
        git = ": commit with git_commit" if grants.permit("git_commit", writes=True) else ""
        said.append(f"Commands run in a sandbox without a network and cannot write to .git{git}.")
    return " ".join(said)


def scoped(grants: Grants, scope: Scope) -> Grants:
    """`grants` cut down to what a token's scope permits. Raises `ValueError` where that is nothing."""
    match scope:
        case "full":
            return grants
        case "read-only":
            return replace(grants, read_only=True)
        case "tasks-only":
            if "tasks" not in grants.families:
                raise ValueError("a token is for tasks only, but the server does not offer the task tools")
            return replace(grants, families=frozenset({"tasks"}))


async def serve_stdio(offer: Offer) -> None:
    """Serve one client on standard input and output until it goes. Raises `ValueError`, `OSError`."""
    async with offer.server() as server:
        await server.run_stdio_async()


@asynccontextmanager
async def serving_http(
    offer: Offer, address: Address, tokens: Tokens | None, *, listener: socket.socket | None = None
) -> AsyncGenerator[int]:
    """Serve over HTTP while the block runs; gives the port. A `listener` listens at `address` already.

    Raises `UnsafeAddress`, `ValueError` and `OSError`.
    """
    wanted: list[Scope] = ["full"] if tokens is None else [scope for scope in SCOPES if scope in tokens.scopes]
    async with AsyncExitStack() as stack:
        servers: dict[Scope, MCPServer[Any]] = {
            scope: await stack.enter_async_context(offer.server(scope)) for scope in wanted
        }
        app = http_app(servers, address=address, tokens=tokens)
        yield await stack.enter_async_context(listening(app, address, listener))


class Readiness:
    """One check that runs beside the first requests, and that every tool waits for. Its error is every call's error."""

    def __init__(self, check: Callable[[], Awaitable[None]]) -> None:
        self._check = check
        self._done = anyio.Event()
        self._error: Exception | None = None

    async def run(self) -> None:
        """Do the check; to be started once."""
        try:
            await self._check()
        except Exception as error:  # noqa: BLE001 - it is raised to whoever waits
            self._error = error
        finally:
            self._done.set()

    async def wait(self) -> None:
        """Return when the check passed. Raises what it raised."""
        await self._done.wait()
        if self._error is not None:
            raise self._error
