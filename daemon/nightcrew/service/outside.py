"""Outside clients: a person's directories in a box, the queue behind them, and what of it is offered.

`nightcrew mcp` opens this for one client, the service for everyone who comes to its `/mcp`.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import anyio

from nightcrew.config import Config, McpSettings
from nightcrew.errors import ConfigError, NightcrewError
from nightcrew.gateway import JournalGateway
from nightcrew.journal import Journal
from nightcrew.journal.locks import ServiceLock
from nightcrew.secrecy import SECRETS
from nightcrew.service.attendant import Say
from nightcrew.service.boxes import box_limits, toolchains
from nightcrew.service.door import validate
from nightcrew_tools.address import Address, check_address, parse_address
from nightcrew_tools.clients import Facts
from nightcrew_tools.contract import NoQueue, TaskGateway, TaskRefused, TaskRequest, TaskView
from nightcrew_tools.grants import Grants, outside_grants
from nightcrew_tools.session import Offer, Readiness, serving_http
from nightcrew_tools.tokens import TokenFileError, Tokens, make_token_file, read_tokens
from nightcrew_workspaces.policy import BoxPolicy
from nightcrew_workspaces.roots import Roots, check_roots, person, roots_policy, user_of_roots
from nightcrew_workspaces.selftest import self_test


class ServiceGateway(TaskGateway):
    """The queue of a running service, from whichever process: looks at the journal anew for each call.

    Every method raises `NoQueue` where no service runs on this home, and what `JournalGateway` raises.
    """

    def __init__(self, config: Config, current: Callable[[], Config] | None = None) -> None:
        """`current` is what tasks are judged by, where that changes while the gateway is open."""
        self._config = config
        self._current = current or (lambda: config)

    async def submit(self, request: TaskRequest, *, origin: str) -> TaskView:
        """Put a task into the queue. Raises `TaskRefused` for one that could never run."""
        with self._journal(write=True) as gateway:
            try:
                await validate(self._current(), request)
            except NightcrewError as error:
                raise TaskRefused(str(error)) from error
            return await gateway.submit(request, origin=origin)  # a client cannot say `after`

    async def list(self) -> list[TaskView]:
        with self._journal() as gateway:
            return await gateway.list()

    async def view(self, task: str) -> TaskView:
        with self._journal() as gateway:
            return await gateway.view(task)

    async def cancel(self, task: str) -> TaskView:
        with self._journal(write=True) as gateway:
            return await gateway.cancel(task)

    async def approve(self, task: str, *, by: str, door: str) -> TaskView:
        with self._journal(write=True) as gateway:
            return await gateway.approve(task, by=by, door=door)

    async def reject(self, task: str, *, why: str, by: str, door: str) -> TaskView:
        with self._journal(write=True) as gateway:
            return await gateway.reject(task, why=why, by=by, door=door)

    async def report(self, task: str) -> str:
        with self._journal() as gateway:
            return await gateway.report(task)

    async def diff(self, task: str) -> str:
        with self._journal() as gateway:
            return await gateway.diff(task)

    async def journal(self, task: str) -> str:
        with self._journal() as gateway:
            return await gateway.journal(task)

    @contextmanager
    def _journal(self, *, write: bool = False) -> Generator[JournalGateway]:
        config = self._config
        if ServiceLock.owner(config.home) is None:
            raise NoQueue(f"no service runs on {config.home}: start `nightcrew up`, or set NIGHTCREW_HOME to its home")
        with Journal.open(config.journal, read_only=not write) as journal:
            yield JournalGateway(journal, config)


@asynccontextmanager
async def open_offer(
    config: Config,
    grants: Grants,
    roots: tuple[Path, ...],
    *,
    facts: Facts = "auto",
    audit: Path | None = None,
    current: Callable[[], Config] | None = None,
) -> AsyncGenerator[Offer]:
    """What outside clients get, while the block runs. The box is tested beside the first requests.

    Raises `RootRefused`, `BoxUnavailable`; and where the box does not confine, every tool call does.
    """
    gateway = ServiceGateway(config, current) if "tasks" in grants.families else None
    if not grants.families - {"tasks"}:
        yield Offer(grants, gateway=gateway, facts=facts, audit=audit)
        return
    async with AsyncExitStack() as stack:
        workspace = await stack.enter_async_context(open_roots(config, roots, read_only=grants.read_only))
        readiness = Readiness(lambda: _prepare(workspace, config.box.user))
        group = await stack.enter_async_context(anyio.create_task_group())
        group.start_soon(readiness.run)
        stack.callback(group.cancel_scope.cancel)
        yield Offer(grants, workspace, gateway, facts, audit, readiness.wait)


@asynccontextmanager
async def open_door(
    config: Config,
    say: Say,
    *,
    sockets: Sequence[socket.socket] = (),
    current: Callable[[], Config] | None = None,
) -> AsyncGenerator[None]:
    """The service's own `/mcp`, while the block runs; nothing where neither the configuration nor systemd opens one.

    `sockets` listen already, and take the place of the configured address. Raises `ConfigError`, `RootRefused`,
    `BoxUnavailable`, and `OSError` where the address is taken.
    """
    settings = config.mcp
    if settings.listen is None and not sockets:
        yield
        return
    try:
        grants = outside_grants(
            settings.tools,
            has_roots=bool(settings.roots),
            read_only=settings.read_only,
            allow=settings.allow,
            deny=settings.deny,
        )
        listener, address = _place(settings, sockets)
        tokens = None if settings.token_file is None else _tokens(settings.token_file.expanduser(), say)
        check_address(address, tokens)
    except ValueError as error:
        raise ConfigError(f"[mcp]: {error}") from error
    async with AsyncExitStack() as stack:
        audit = config.mcp_audit
        offer = await stack.enter_async_context(
            open_offer(config, grants, settings.roots, audit=audit, current=current)
        )
        port = await stack.enter_async_context(serving_http(offer, address, tokens, listener=listener))
        say(f"MCP clients are served at http://{address.host}:{port}/mcp")
        yield


def _place(settings: McpSettings, sockets: Sequence[socket.socket]) -> tuple[socket.socket | None, Address]:
    """Where clients come in: at the one socket that systemd passed, else where the configuration says.

    Raises `ValueError`.
    """
    if not sockets:
        return None, parse_address(settings.listen or "", settings.host_names)
    if len(sockets) > 1 or sockets[0].family not in (socket.AF_INET, socket.AF_INET6):
        raise ValueError("the socket unit must pass one TCP socket: ListenStream=HOST:PORT, once")
    host, port = sockets[0].getsockname()[:2]
    return sockets[0], Address(host, port, settings.host_names)


def _tokens(path: Path, say: Say) -> Tokens:
    """The tokens of a file, which is made where it is not there. Raises `TokenFileError`."""
    if not path.exists():
        try:
            make_token_file(path)
        except OSError as error:
            raise TokenFileError(f"{path}: cannot be made: {error.strerror}") from error
        say(f"made {path} with a new token; clients send it as `Authorization: Bearer TOKEN`")
    tokens = read_tokens(path)
    SECRETS.add_digests(tokens.digests)
    return tokens


def open_roots(config: Config, paths: tuple[Path, ...], *, read_only: bool) -> Roots:
    """A box over these directories, as the configuration wants boxes. Raises `RootRefused`, `BoxUnavailable`."""
    roots = check_roots(paths)
    box = config.box
    user = user_of_roots(roots, read_only=read_only, name=box.user)
    shown = toolchains(box, user)
    template = BoxPolicy(
        user=user,
        mounts=(),
        read_only=(*box.read_only, *shown.read_only),
        path=(*box.path, *shown.path),
        env=shown.env,
        limits=box_limits(box, own_files=True),
    )
    return Roots(roots, roots_policy(template, roots, read_only=read_only, identity=person()))


async def _prepare(workspace: Roots, user: str | None) -> None:
    """Prove that the box confines, then have the file helper ready before it is asked."""
    await self_test(user)
    await workspace.files.start()
