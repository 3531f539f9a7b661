"""A task's way out: open while its set-up runs, and while a model works where the task says so.

Every host that is asked for is journalled.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Literal

from nightcrew.agent.checks import set_up
from nightcrew.agent.ledger import Ledger
from nightcrew.config import Config
from nightcrew.domain import CheckResult, HostUse
from nightcrew.events import NetworkUsed
from nightcrew.network import egress_limits, outside, task_may
from nightcrew_workspaces.box import Box
from nightcrew_workspaces.egress import Visit
from nightcrew_workspaces.egress_mount import EgressMount
from nightcrew_workspaces.workspace import Workspace

Phase = Literal["setup", "loop"]

MOST_HOSTS = 200
"""Hosts that are journalled of those that were refused, and of those that were reached.

More refused ones are only logged; more of the others are not reached: what goes out unseen would count for nothing.
"""

logger = logging.getLogger("nightcrew")


class TooManyHosts(Exception):
    """More hosts than are journalled."""


class WayOut:
    """Opens ways out of one task's boxes. Raises `NetworkRefused` where the configuration forbids that now."""

    def __init__(self, config: Config, ledger: Ledger, environ: Mapping[str, str]) -> None:
        self._settings = config.network
        self._seconds = (
            config.box.command_seconds
        )  # a small crew's shorter time is for its checks: they hang, this loads
        self._ledger = ledger
        self._environ = environ

    async def set_up(self, workspace: Workspace, box: Box) -> CheckResult | None:
        """Run the task's set-up in a box: the command that failed, None when all went well."""
        commands = self._ledger.record.request.setup
        if not commands:
            return None
        async with self._open("setup", workspace) as mount:
            return await set_up(box.with_network(mount), commands, seconds=self._seconds)

    async def prepare(self, workspace: Workspace) -> None:
        """Run the set-up in the worktree that the model works in, once, so that it can run the tests.

        One that fails is left as it is: the checks on clean checkouts have told it.
        """
        if self._ledger.record.request.setup and not workspace.prepared:
            async with workspace.preparing() as box:
                await self.set_up(workspace, box)

    @asynccontextmanager
    async def while_working(self, workspace: Workspace) -> AsyncGenerator[None]:
        """Give the commands of a model a way out, where the task says so."""
        network, box = self._ledger.record.request.network, workspace.box
        if network is None or network.during != "loop":
            yield
            return
        async with self._open("loop", workspace) as mount:
            await workspace.use(box.with_network(mount))
            try:
                yield
            finally:
                await workspace.use(box)

    @asynccontextmanager
    async def _open(self, phase: Phase, workspace: Workspace) -> AsyncGenerator[EgressMount | None]:
        network, settings, hosts = self._ledger.record.request.network, self._settings, self._ledger.record.hosts
        if network is None:
            yield None
            return
        log = _Log(self._ledger, phase)
        async with AsyncExitStack() as stack:
            stack.callback(log.sum_up)
            egress = workspace.egress(
                task_may(settings, network),
                log=log,
                limits=egress_limits(settings),
                outside=outside(settings, self._environ),
                env=settings.env,
                used=(sum(use.sent for use in hosts.values()), sum(use.received for use in hosts.values())),
            )
            yield (await stack.enter_async_context(egress)).mount


class _Log:
    """Journals a host when it is first asked for, and what was done with it when the way is closed.

    Refused ones take no places of those that are reached: a box could hide where its bytes went, and get round the cap.
    """

    def __init__(self, ledger: Ledger, phase: Phase) -> None:
        self._ledger = ledger
        self._phase: Phase = phase
        self._sums: dict[tuple[str, int, bool], HostUse] = {}

    def __call__(self, visit: Visit) -> None:
        """Raises what the journal raises, and `TooManyHosts`: then nothing goes out."""
        logger.info("task %s, %s: %s", self._ledger.record.id, self._phase, visit)
        use = HostUse(
            host=visit.host,
            port=visit.port,
            allowed=visit.allowed,
            why=visit.why,
            address=visit.address,
            connections=int(visit.ended),
            sent=visit.sent,
            received=visit.received,
        )
        known = use.key in self._ledger.record.hosts or use.key in self._sums
        if not known:
            if sum(one.allowed == use.allowed for one in self._ledger.record.hosts.values()) >= MOST_HOSTS:
                if use.allowed:
                    raise TooManyHosts(f"a task may reach {MOST_HOSTS} hosts: {use.host}:{use.port} is one more")
                return
            self._append([use.model_copy(update={"connections": 0, "sent": 0, "received": 0})])
        self._sums[use.key] = self._sums[use.key].plus(use) if use.key in self._sums else use

    def sum_up(self) -> None:
        sums = [use for use in self._sums.values() if use.connections]
        if sums:
            self._append(sums)

    def _append(self, uses: Sequence[HostUse]) -> None:
        self._ledger.append(NetworkUsed(during=self._phase, hosts=tuple(uses)))
