"""How much memory a box uses: asked of /proc while a command runs, because no cgroup is needed for that."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

_FIRST_SECONDS = 0.5  # most commands are over by then
_EVERY_SECONDS = 0.25
_PAGE = os.sysconf("SC_PAGE_SIZE")


class MemoryWatch:
    """Calls `exceeded` once when the process tree under `pid` uses more than `limit` bytes."""

    def __init__(self, pid: int, limit: int, exceeded: Callable[[], None]) -> None:
        self._pid = pid
        self._limit = limit
        self._exceeded = exceeded
        self._timer = asyncio.get_running_loop().call_later(_FIRST_SECONDS, self._look)

    def stop(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def _look(self) -> None:
        # The cheap figure counts a page once for each process that maps it, so it alone convicts nobody.
        if _sum(self._pid, _resident) > self._limit and _sum(self._pid, _proportional) > self._limit:
            self._exceeded()
            return
        self._timer = asyncio.get_running_loop().call_later(_EVERY_SECONDS, self._look)


def process_tree(pid: int) -> Iterator[int]:
    """`pid` and everything it started; in a box nothing leaves the tree, as orphans become the init's children."""
    waiting = [pid]
    while waiting:
        current = waiting.pop()
        yield current
        with suppress(OSError):
            for thread in Path(f"/proc/{current}/task").iterdir():
                with suppress(OSError):
                    waiting += map(int, (thread / "children").read_bytes().split())


def _sum(pid: int, measure: Callable[[int], int]) -> int:
    total = 0
    for process in process_tree(pid):
        with suppress(OSError):  # it ended in between
            total += measure(process)
    return total


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE


def _proportional(pid: int) -> int:
    """Resident memory in bytes, a page that N processes share counted as a Nth of itself."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except PermissionError:  # it made itself unreadable (PR_SET_DUMPABLE): nothing is taken off
        return _resident(pid)
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0
