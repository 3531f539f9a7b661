"""Boxes for tests: a workspace of the boxes' own user, and ways to see what is alive outside."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import anyio

from nightcrew_workspaces.box import Box, box_user
from nightcrew_workspaces.policy import BoxPolicy, Limits, Mount


def make_workspace(parent: Path, name: str = "workspace") -> Path:
    """A directory that the boxes' user owns."""
    path = parent / name
    path.mkdir()
    own(path)
    return path


def own(path: Path) -> None:
    """Give a path, and all that is below it, to the boxes' user."""
    user = box_user(None)
    if user.switch:
        for each in (path, *path.rglob("*")):
            os.chown(each, user.uid, user.gid, follow_symlinks=False)


def make_box(workspace: Path, *, mounts: tuple[Mount, ...] = (), limits: Limits | None = None, **changes) -> Box:
    mount = Mount(workspace, "/workspace", writable=True)
    limits = limits or Limits(seconds=20)
    return Box(BoxPolicy(user=box_user(None), mounts=(mount, *mounts), limits=limits, **changes))


def running(marker: str) -> list[int]:
    """Processes outside of all boxes' view with the marker in their command line, zombies left out."""
    found: list[int] = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and marker.encode() in (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


def eventually(holds: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait in small steps until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


async def soon(holds: Callable[[], object], seconds: float = 10.0) -> None:
    """The same, and the event loop goes on."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        await anyio.sleep(0.01)
