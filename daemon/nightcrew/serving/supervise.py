"""The servers of a crew on this machine: started in the plan's order, kept running, stopped in the reverse order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import anyio

from nightcrew.errors import ServingError
from nightcrew.serving.keeper import POLL_SECONDS, Keeper
from nightcrew.serving.probe import Probe


class Supervisor:
    """Runs keepers until `stop`; when one of them gives up, so do all, and its `ServingError` is raised."""

    def __init__(self, keepers: Sequence[Keeper], *, on_up: Callable[[], None] = lambda: None) -> None:
        """`on_up` is called once, when all of them have been warmed up."""
        self._keepers = tuple(keepers)
        self._on_up = on_up
        self._stop = anyio.Event()
        self._failure: ServingError | None = None

    def stop(self) -> None:
        """Stop them all, the last one started first."""
        self._stop.set()

    async def run(self) -> None:
        """Raises `ServingError` when one cannot be started or does not stay up."""
        started: list[Keeper] = []
        async with anyio.create_task_group() as group:
            try:
                await self._start(group.start_soon, started)
                await self._stop.wait()
            finally:
                with anyio.CancelScope(shield=True):
                    for keeper in reversed(started):
                        keeper.stop()
                        await keeper.done.wait()
        if self._failure is not None:
            raise self._failure

    async def _start(self, start_soon: Callable[..., object], started: list[Keeper]) -> None:
        for keeper in self._keepers:
            started.append(keeper)
            start_soon(self._keep, keeper)
            async with anyio.create_task_group() as waiting:
                # Whichever comes first: it serves, or everything is to stop.
                waiting.start_soon(_then_cancel, keeper.up, waiting.cancel_scope)
                waiting.start_soon(_then_cancel, self._stop, waiting.cancel_scope)
            if self._stop.is_set():
                return
        self._on_up()

    async def _keep(self, keeper: Keeper) -> None:
        try:
            await keeper.run()
        except ServingError as error:
            self._failure = self._failure or error
            self._stop.set()


async def await_ready(addresses: Sequence[str], *, seconds: float, poll: float = POLL_SECONDS) -> list[str]:
    """Wait until servers that others start are ready; returns the addresses of those that were not in time."""
    late = list(addresses)
    with anyio.move_on_after(seconds):
        while late:
            async with Probe(late[0]) as probe:
                await probe.until_ready(poll)
            late.pop(0)
    return late


async def _then_cancel(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
