"""Who is still in a workspace whose owner is gone: found by what is mounted, killed, and waited for.

The kernel gives back the locks of a process that is killed a moment before its boxes hear of its end, and a box that
cannot be killed at once (its disk hangs) stays longer. Whoever goes on with the workspace has to be alone in it.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import anyio

from nightcrew_workspaces.errors import WorkspaceError

_SECONDS = 30.0
_STEP_SECONDS = 0.02


async def evict(folder: Path) -> int:
    """Kill every process of another mount namespace that has something below the folder mounted; how many there were.

    Returns when they are gone. Raises `WorkspaceError` when one stays.
    """
    source = _source(folder)
    if source is None:
        return 0
    killed: set[int] = set()
    with anyio.move_on_after(_SECONDS):
        while there := _inside(*source):
            for pid in there:
                killed.add(pid)
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            await anyio.sleep(_STEP_SECONDS)
        return len(killed)
    raise WorkspaceError(f"processes of an earlier run are still in {folder} and cannot be killed: {_inside(*source)}")


def _source(folder: Path) -> tuple[str, str] | None:
    """Where a folder is, as mountinfo(5) names it: the device, and the path in its file system."""
    best: tuple[str, str, str] | None = None
    for device, root, point in _mounts("self"):
        below = point.rstrip("/") + "/"
        if f"{folder}/".startswith(below) and (best is None or len(point) >= len(best[2])):
            best = (device, root, point)
    if best is None:
        return None
    device, root, point = best
    inside = os.path.relpath(folder, point)
    return device, os.path.normpath(f"{root.rstrip('/')}/{inside}")


def _inside(device: str, path: str) -> list[int]:
    def within(process: str) -> bool:
        return any(where == device and root.startswith(f"{path}/") for where, root, _ in _mounts(process))

    # Where the machine itself has such a mount, everybody has it: only who is surely in a namespace of its own counts.
    own, ambiguous = _namespace("self"), within("self")
    found: list[int] = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and within(process.name):
            there = _namespace(process.name)
            if there != own and not (there is None and ambiguous):
                found.append(int(process.name))
    return found


def _namespace(process: str) -> str | None:
    """None where it cannot be told: the process has just ended, or is another account's."""
    try:
        return str(Path("/proc", process, "ns/mnt").readlink())
    except OSError:
        return None


def _mounts(process: str) -> list[tuple[str, str, str]]:
    """Device, path in the file system and mount point of all that a process has mounted."""
    try:
        lines = Path("/proc", process, "mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    return [(fields[2], _plain(fields[3]), _plain(fields[4])) for line in lines if len(fields := line.split(" ")) > 4]


def _plain(text: str) -> str:
    """Spaces and the like stand there as octal numbers."""
    for octal, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(octal, character)
    return text
