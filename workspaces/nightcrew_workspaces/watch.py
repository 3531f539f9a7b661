"""Looks at a box while a command runs: what no kernel limit stops is stopped here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from nightcrew_workspaces.policy import Limits
from nightcrew_workspaces.process import BoxProcess
from nightcrew_workspaces.reached import Stopped
from nightcrew_workspaces.usage import memory, shared_memory, usage

_FIRST_SECONDS = 0.1  # most commands are over by then
_EVERY_SECONDS = 0.25
_EVERY_SECONDS_IN_GROUP = 1.0  # memory and processes are the kernel's business then
_MIB = 1024 * 1024


class Watch:
    """Calls `exceeded` once when a box goes over its memory or its CPU time.

    A box in a control group is held to its memory by the kernel, so that only its CPU time is looked at.
    """

    def __init__(self, process: BoxProcess, limits: Limits, exceeded: Callable[[Stopped], None]) -> None:
        self.full = False
        """Whether the box was seen with as many processes and threads as it may have."""
        self._process = process
        self._limits = limits
        self._exceeded = exceeded
        self._later(_FIRST_SECONDS)

    def stop(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def _later(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        begun = time.perf_counter()
        over = self._over_in_group() if self._process.group is not None else self._over()
        if over is not None:
            self._exceeded(over)
            return
        # A box of many processes takes long to look at: never more than a tenth of the service's time.
        every = _EVERY_SECONDS if self._process.group is None else _EVERY_SECONDS_IN_GROUP
        self._later(max(every, 10 * (time.perf_counter() - begun)))

    def _over_in_group(self) -> Stopped | None:
        group = self._process.group
        return "cpu" if group is not None and group.cpu_seconds() > self._limits.cpu_seconds else None

    def _over(self) -> Stopped | None:
        limit, pid, init = self._limits.memory_mib * _MIB, self._process.pid, self._process.init_pid
        now = usage(pid)
        self.full = self.full or now.processes > self._limits.processes  # bubblewrap itself, outside, is one more
        if now.cpu_seconds > self._limits.cpu_seconds:
            return "cpu"
        # The cheap figures count much twice, and what is others', so they alone convict nobody.
        if now.resident + shared_memory() > limit and memory(pid, init) > limit:
            return "memory"
        return None
