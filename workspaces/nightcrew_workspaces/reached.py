"""Which limit a command reached, and how that is told."""

from __future__ import annotations

import re
from typing import Literal

from nightcrew_workspaces.policy import Limits

Stopped = Literal["timeout", "memory", "output", "cpu", "disk", "file"]
"""A limit for which a command is ended."""

Reached = Literal[Stopped, "processes"]
"""A limit that a command ran into. The last two are refusals, with which a program may cope."""

# What programs say when the kernel refuses them a process, or more of a file.
_NO_PROCESS = re.compile(
    r"Resource temporarily unavailable|BlockingIOError: \[Errno 11\]|can't start new thread|"
    r"[Uu]nable to create (?:new )?native thread|failed to create new OS thread|spawn \S+ EAGAIN|Cannot fork"
)
_NO_SPACE_IN_FILE = re.compile(r"File too large|EFBIG|File size limit exceeded|SIGXFSZ")


def sentence(reached: Reached, limits: Limits, *, seconds: float, output: int, disk: str) -> str:
    """The limit in a few words that go after `killed:`.

    `seconds` and `output` (bytes) are what this command was given, `disk` is what `Stay` says of the workspace.
    """
    match reached:
        case "timeout":
            return f"over {_time(seconds)}"
        case "memory":
            return f"over {size(limits.memory_mib << 20)} of memory"
        case "output":
            return f"over {size(output)} of output"
        case "cpu":
            return f"over {_time(limits.cpu_seconds)} of CPU time"
        case "file":
            return f"a file over {size(limits.file_mib << 20)}"
        case "processes":
            return f"over {limits.processes:,} processes and threads at the same time"
        case "disk":
            return disk


def noticed(exit_code: int | None, said: str) -> Reached | None:
    """A limit that a failed command ran into without being ended for it, as its own output tells."""
    if exit_code in (None, 0):
        return None
    if _NO_PROCESS.search(said):
        return "processes"
    return "file" if _NO_SPACE_IN_FILE.search(said) else None


def size(count: int) -> str:
    """A number of bytes as people write it."""
    mib = count / (1 << 20)
    return f"{mib / 1024:.4g} GiB" if mib >= 1024 else f"{mib:.4g} MiB"


def _time(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length and seconds % length == 0:
            return f"{seconds / length:g} {unit}"
    return f"{seconds:g} s"
