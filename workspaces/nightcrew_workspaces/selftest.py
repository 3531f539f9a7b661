"""Whether boxes confine on this machine: tried out, before anything of a model's is run."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from nightcrew_workspaces.box import Box, Captured
from nightcrew_workspaces.errors import BoxUnavailable, WorkspaceError
from nightcrew_workspaces.policy import SUPPORT, WORKSPACE, BoxPolicy, BoxUser, Limits, Mount
from nightcrew_workspaces.process import kill_strays
from nightcrew_workspaces.user import box_user

_PYTHON = ("/usr/bin/python3", "-I", "-S")
_NEEDED = {"/usr/bin/python3": "python3", "/usr/bin/git": "git", "/usr/bin/prlimit": "util-linux"}
_PROBE = Limits(seconds=30, processes=64, file_mib=1, workspace_mib=None)
_HUNGRY = Limits(seconds=30, memory_mib=128, workspace_mib=None)
_EAT = "import time; x = bytearray(256 << 20); time.sleep(20)"

_EXPECTED: dict[str, tuple[object, str]] = {
    "uid": (1000, "the command is not the box's own user"),
    "capabilities": ("0" * 16, "the command has capabilities"),
    "seccomp": ("2", "the system call filter is not active"),
    "no_new_privileges": ("1", "the command may gain privileges"),
    "canary": (False, "a file outside of the box can be read"),
    "written": ([], "something outside of the workspace can be written"),
    "own": (["/workspace/probe", "/tmp/probe"], "the workspace or /tmp cannot be written"),  # noqa: S108
    "socket": ("ENOENT", "a socket of this machine can be reached by its path"),
    "abstract": ("ECONNREFUSED", "a socket of this machine can be reached by its abstract name"),
    "routes": (0, "there is a network route"),
    "reaches_out": (False, "the network can be reached"),
    "vsock": ("EAFNOSUPPORT", "AF_VSOCK sockets are open"),
    "unshare": ("EPERM", "namespaces can be made"),
    "mount": ("EPERM", "file systems can be mounted"),
    "trace": ("EPERM", "processes can be traced"),
    "keys": ("EPERM", "keys can be kept in the kernel"),
    "io_uring": ("ENOSYS", "io_uring is open"),
    "typing": ("EPERM", "input can be typed into a terminal"),
    "init_environ": (["PATH"], "the environment of the service shows in /proc/1/environ"),
    "forks": ("EAGAIN", "the number of processes is not limited"),
    "file": ("EFBIG", "the size of a file is not limited"),
}


@dataclass(frozen=True)
class _Outside:
    """What a box must not reach, made to be found."""

    workspace: Path
    canary: Path
    socket: Path
    abstract: str


async def self_test(user: str | None = None) -> None:
    """Start boxes and try to get out of them. Also clears away what an earlier service's end left of its own.

    Raises `BoxUnavailable`, which says what to install or enable, unless every attempt failed as it should.
    """
    account = box_user(user)
    kill_strays()
    _check_machine()
    with _made_outside(account) as outside:
        mounts = (Mount(outside.workspace, WORKSPACE, writable=True),)
        failed: list[WorkspaceError] = []

        async def attempt(limits: Limits, argv: tuple[str, ...], judge: Callable[[Captured], None]) -> None:
            try:
                judge(await Box(BoxPolicy(user=account, mounts=mounts, limits=limits)).capture((*_PYTHON, *argv)))
            except WorkspaceError as error:
                failed.append(error)

        probe = (f"{SUPPORT}/probe.py", str(outside.canary), str(outside.socket), outside.abstract)
        async with anyio.create_task_group() as group:  # one of them mostly waits
            group.start_soon(attempt, _PROBE, probe, _judge)
            group.start_soon(attempt, _HUNGRY, ("-c", _EAT), _judge_memory)
    if failed:
        raise failed[0]


def _check_machine() -> None:
    for program, package in _NEEDED.items():
        if not Path(program).exists():
            raise BoxUnavailable(f"{program} is not there", f"Install it (Debian: apt-get install {package}).")
    if not any(Path("/proc/self/task").glob("*/children")):
        raise BoxUnavailable("the kernel does not list a process's children", "Use one with CONFIG_PROC_CHILDREN.")


def _judge_memory(ran: Captured) -> None:
    if ran.ended != "memory":
        said = f"it ended as {ran.ended} with exit code {ran.exit_code}: {ran.stderr.strip()[-500:]}"
        raise BoxUnavailable(
            f"the memory limit does not strike: {said}", "See `nightcrew doctor` about control groups."
        )


def _judge(probe: Captured) -> None:
    try:
        found: dict[str, Any] = json.loads(probe.stdout)
    except ValueError:
        said = probe.stderr.strip()[-500:] or f"it ended as {probe.ended} with exit code {probe.exit_code}"
        raise BoxUnavailable(f"the box's own check did not run: {said}", "See that /usr/bin/python3 works.") from None
    wrong = [
        f"{text} ({name} is {found.get(name)!r})" for name, (want, text) in _EXPECTED.items() if found.get(name) != want
    ]
    if wrong:
        raise BoxUnavailable(f"the box does not confine: {'; '.join(wrong)}", "Check bubblewrap and the kernel.")


@contextmanager
def _made_outside(user: BoxUser) -> Generator[_Outside]:
    """A directory with a `workspace` of the box's user in it, and things beside it; gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="nightcrew-box-", dir="/tmp"))  # every user can enter it
    made = _Outside(directory / "workspace", directory / "canary", directory / "socket", f"nightcrew-{directory.name}")
    try:
        directory.chmod(0o755)
        made.workspace.mkdir()
        if user.switch:
            os.chown(made.workspace, user.uid, user.gid)
        made.canary.write_text("outside", encoding="ascii")
        made.canary.chmod(0o666)
        with ExitStack() as opened:
            for address in (str(made.socket), f"\0{made.abstract}"):
                server = opened.enter_context(socket.socket(socket.AF_UNIX))
                server.bind(address)
                server.listen()
            made.socket.chmod(0o777)
            yield made
    finally:
        shutil.rmtree(directory, ignore_errors=True)
