"""What the processes of a box use, asked of /proc: for that no control group is needed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
_SCRATCH = ("tmp", "dev/shm", "home/agent")  # the box's own file systems in memory
_MOST_FILES = 20_000
"""Of open files looked at in one go: who has more, and whose machine has lost as much memory as his limit, hides it."""


@dataclass(frozen=True)
class Usage:
    """A process tree at one moment. A cheap look: memory that processes share counts once for each of them."""

    processes: int
    """Processes and threads."""
    cpu_seconds: float
    """Of those that run and of those that they have waited for."""
    resident: int
    """Bytes."""


def usage(pid: int) -> Usage:
    """What the tree under `pid` uses now."""
    processes = ticks = pages = 0
    for each in process_tree(pid):
        with suppress(OSError, IndexError):  # it ended in between
            fields = Path(f"/proc/{each}/stat").read_bytes().rpartition(b")")[2].split()
            ticks += sum(map(int, fields[11:15]))
            processes += int(fields[17])
            pages += int(fields[21])
    return Usage(processes, ticks / _TICKS, pages * _PAGE)


def memory(pid: int, init: int | None) -> int:
    """Bytes of memory that a box takes: a page that N processes share counted as a Nth, files in memory included.

    `init` is a process of the box through which its own file systems are seen.
    """
    own = shared = 0
    files: dict[tuple[int, int], int] = {}
    for each in process_tree(pid):
        with suppress(OSError):
            one, of_shared = _proportional(each)
            own += one - of_shared
            shared += of_shared
            _unnamed_files(each, files)
    stored = scratch(init) + sum(files.values())
    return own + max(shared, stored)  # what is stored may be mapped as well: never counted twice


def scratch(init: int | None) -> int:
    """Bytes in a box's own file systems in memory."""
    total = 0
    for name in _SCRATCH if init is not None else ():
        with suppress(OSError):
            status = os.statvfs(f"/proc/{init}/root/{name}")
            total += (status.f_blocks - status.f_bfree) * status.f_frsize
    return total


def shared_memory() -> int:
    """Bytes of the whole machine's memory that belong to no process alone: files in memory and shared segments."""
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_bytes().splitlines():
            if line.startswith(b"Shmem:"):
                return int(line.split()[1]) * 1024
    return 0


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


def _proportional(pid: int) -> tuple[int, int]:
    """Resident bytes of a process, its share of shared pages; and how many of them are files in memory and the like."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except PermissionError:  # it made itself unreadable (PR_SET_DUMPABLE): nothing is taken off
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE, 0
    found = {"Pss": 0, "Pss_Shmem": 0}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if name in found:
            found[name] = int(rest.split()[0]) * 1024
    return found["Pss"], found["Pss_Shmem"]


def _unnamed_files(pid: int, found: dict[tuple[int, int], int]) -> None:
    """Add the files in memory that a process holds open and that have no name anywhere (memfd_create)."""
    device = _unnamed_device()
    for opened in Path(f"/proc/{pid}/fd").iterdir():
        if len(found) >= _MOST_FILES:
            return
        with suppress(OSError):
            status = opened.stat()
            if status.st_dev == device:
                found[status.st_dev, status.st_ino] = status.st_blocks * 512


def _unnamed_device() -> int:
    fd = os.memfd_create("nightcrew")
    try:
        return os.fstat(fd).st_dev
    finally:
        os.close(fd)
