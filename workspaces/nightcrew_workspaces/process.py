"""One bubblewrap process: how it is started, how its end is noticed, how it is killed with everything in it.

It is started with `Popen` from the event loop's thread and watched through pidfds: `--die-with-parent` holds for the
thread that started it; asyncio's own watcher costs a thread per process before Python 3.12; and dropping to the box's
user by `setpriv` lets CPython vfork, which `user=` does not (1.5 against 4 ms with 100 MB resident).
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightcrew_workspaces import cgroup
from nightcrew_workspaces.errors import BoxError, BoxUnavailable
from nightcrew_workspaces.failure import NETWORK_GONE
from nightcrew_workspaces.policy import (
    TAG,
    BoxPolicy,
    BoxUser,
    Limits,
    box_files,
    bwrap_arguments,
    inner_command,
    resource_limits,
)
from nightcrew_workspaces.seccomp import seccomp_filter

_SEARCH = "/usr/bin:/usr/local/bin:/bin"
_LONGEST_ARGUMENT = 120 * 1024  # the kernel's limit for one argument is 128 KiB
_SECOND_KILL_SECONDS = 1.0
_REMOVE_SECONDS = 0.02  # after which a control group that was not quite empty is tried again
_REMOVE_TRIES = 50
_OOM_SCORE = b"500"  # when the machine runs out of memory, boxes go before the service
_CEILINGS = {
    "nproc": resource.RLIMIT_NPROC,
    "fsize": resource.RLIMIT_FSIZE,
    "nofile": resource.RLIMIT_NOFILE,
    "core": resource.RLIMIT_CORE,
}


class BoxProcess:
    """A started box. Everything in it is dead once `wait` returns. To be made in the event loop's thread."""

    def __init__(self, child: subprocess.Popen[bytes], status_fd: int, group: cgroup.Group | None) -> None:
        self.pid = child.pid
        """Of bubblewrap itself, outside: the root of the box's process tree."""
        self.group = group
        """What holds the box to its memory and number of processes; None where no control group can be made."""
        self.exit_code: int | None = None
        """What the command ended with, 128 + N for signal N; None while it runs, was killed or could not start."""
        self._child = child
        self._status = status_fd
        self._status_text = b""
        self._loop = asyncio.get_running_loop()
        self._gone = asyncio.Event()
        self._init: int | None = None
        self._init_pid: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._outer = os.pidfd_open(child.pid)
        self._loop.add_reader(self._outer, self._outer_ended)

    @property
    def gone(self) -> bool:
        """Whether nothing of the box is alive any more."""
        return self._gone.is_set()

    @property
    def init_pid(self) -> int | None:
        """Of the box's first process, as seen from outside; None until bubblewrap has named it, and after the end."""
        if self._init_pid is None and not self.gone:
            self._read_status()
        return None if self.gone else self._init_pid

    async def wait(self) -> None:
        """Wait until nothing of the box is alive, what the command left in the background included."""
        await self._gone.wait()

    def kill(self) -> None:
        """Kill everything in the box; `wait` tells when it is done. May be called again, and after the end."""
        if self._timer is not None or self.gone:
            return
        self._timer = self._loop.call_later(_SECOND_KILL_SECONDS, self._kill_outer)
        if self.group is not None:
            self.group.kill()
        # Before bubblewrap has named its init there is nothing safe to kill: an init whose parent dies while it still
        # waits for its user mapping would stay for ever.
        if not self._kill_init():
            self._loop.add_reader(self._status, self._init_named)

    def _init_named(self) -> None:
        if self._kill_init() or self._status_text.endswith(b"\0"):
            self._loop.remove_reader(self._status)

    def _kill_outer(self) -> None:
        self._kill_init()
        self._child.kill()

    def _kill_init(self) -> bool:
        self._read_status()
        if self._init is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init, signal.SIGKILL)
        return self._init is not None

    def _outer_ended(self) -> None:
        self._loop.remove_reader(self._outer)
        self._loop.remove_reader(self._status)
        killed_by = -self._child.wait()  # returns at once: the pidfd is readable when it has ended
        os.close(self._outer)
        if killed_by > 0 and self.exit_code is None:
            self.exit_code = 128 + killed_by
        # A command that took over the init could have told bubblewrap an end that has not come.
        self._kill_init()
        if self._init is not None:
            self._loop.add_reader(self._init, self._init_ended)
        else:
            self._finish()

    def _init_ended(self) -> None:
        assert self._init is not None
        self._loop.remove_reader(self._init)
        with suppress(ChildProcessError):  # where the service is PID 1 it inherits the init, and has to reap it
            os.waitid(os.P_PIDFD, self._init, os.WEXITED | os.WNOHANG)
        os.close(self._init)
        self._finish()

    def _finish(self) -> None:
        os.close(self._status)
        if self._timer is not None:
            self._timer.cancel()
        self._leave_group()
        self._gone.set()

    def _leave_group(self, tries: int = _REMOVE_TRIES) -> None:
        """Remove the group; what will not go within a second is left to the next start of a service."""
        if self.group is not None and not self.group.close() and tries > 0:
            self._loop.call_later(_REMOVE_SECONDS, self._leave_group, tries - 1)

    def _read_status(self) -> None:
        """Take in what bubblewrap says about itself: JSON lines with its init's pid and, in the end, the exit code."""
        with suppress(BlockingIOError):
            while chunk := os.read(self._status, 4096):
                self._status_text += chunk
            self._status_text += b"\0"
        for line in self._status_text.split(b"\n")[:-1]:
            record: dict[str, Any] = json.loads(line)
            self.exit_code = record.get("exit-code", self.exit_code)
            if self._init is None and "child-pid" in record:
                with suppress(ProcessLookupError):
                    self._init = os.pidfd_open(record["child-pid"])
                    self._init_pid = record["child-pid"]


def start(policy: BoxPolicy, argv: Sequence[str], *, stdin: int, stdout: int, stderr: int) -> BoxProcess:
    """Start a command in a box of its own. The descriptors stay the caller's to close.

    `stderr` is a pipe that only this process reads; the first byte on it is a control character (see `inner_command`).

    Raises `BoxUnavailable` when this machine cannot confine it, `BoxError` when the command cannot be passed on, and
    `RuntimeError` in a thread without an event loop, before anything is started: with that thread the box would end.
    """
    asyncio.get_running_loop()
    _check_command(argv)
    programs = _programs(policy)
    with ExitStack() as opened:

        def held(content: bytes) -> int:
            fd = memory_file(content)
            opened.callback(os.close, fd)
            return fd

        status_read, status_write = os.pipe()
        opened.callback(os.close, status_write)
        failed = opened.enter_context(ExitStack())
        failed.callback(os.close, status_read)
        os.set_blocking(status_read, False)
        file_fds = {path: held(content) for path, content in box_files(policy).items()}
        seccomp_fd = held(seccomp_filter())
        options = bwrap_arguments(policy, seccomp_fd=seccomp_fd, status_fd=status_write, file_fds=file_fds)
        within = policy.network.command(argv) if policy.network is not None else argv
        group = _new_group(policy.limits)
        if group is not None:
            failed.callback(group.close)
        resources = _within_ceilings(resource_limits(policy.limits, grouped=group is not None))
        # bubblewrap starts nothing before it has read all of its options: until then it can be moved and marked.
        told = _option_pipe(opened, b"".join(os.fsencode(option) + b"\0" for option in options))
        child = _popen(
            [*programs, "--args", str(told.read_end), "--", *inner_command(resources, within)],
            (stdin, stdout, stderr),
            (status_write, seccomp_fd, told.read_end, *file_fds.values()),
        )
        _prepare(child, group)
        failed.pop_all()
        told.tell()
        return BoxProcess(child, status_read, group)


@dataclass(frozen=True)
class _Options:
    """The pipe that bubblewrap reads its options from."""

    text: bytes
    read_end: int
    write_end: int

    def tell(self) -> None:
        # It fits into the pipe, so it is written as a whole or, when the service is killed before, not at all: then
        # bubblewrap shows nothing of the machine, and there is nothing to run.
        with suppress(BrokenPipeError):  # it has ended already; what it said tells why
            os.write(self.write_end, self.text)


def _option_pipe(opened: ExitStack, text: bytes) -> _Options:
    options = _Options(text, *os.pipe())
    opened.callback(os.close, options.read_end)
    opened.callback(os.close, options.write_end)
    try:
        if len(text) > fcntl.fcntl(options.write_end, fcntl.F_GETPIPE_SZ):
            fcntl.fcntl(options.write_end, fcntl.F_SETPIPE_SZ, len(text))
    except OSError as error:
        raise BoxError(f"the box's policy is {len(text)} bytes long: shorten its environment") from error
    return options


def _new_group(limits: Limits) -> cgroup.Group | None:
    groups = cgroup.available()
    if isinstance(groups, cgroup.Undelegated):
        return None
    try:
        return groups.make(limits)
    except OSError as error:
        raise BoxError(f"no control group can be made for the box in {groups.folder}: {error}") from error


def _prepare(child: subprocess.Popen[bytes], group: cgroup.Group | None) -> None:
    """Put what is about to become a box under its limits. Raises `BoxError`, and then nothing has begun."""
    try:
        with suppress(FileNotFoundError, PermissionError):
            Path(f"/proc/{child.pid}/oom_score_adj").write_bytes(_OOM_SCORE)
        if group is not None:
            group.add(child.pid)
    except OSError as error:
        child.kill()
        child.wait()
        raise BoxError(f"the box could not be put under its limits: {error}") from error


def kill_strays() -> int:
    """Kill what is left of boxes whose service was killed while they were being made; the number of them.

    bubblewrap's init then waits for ever for a parent that is gone. It runs nothing, but it stays.
    """
    killed = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and _is_stray(folder):
            with suppress(OSError):
                os.kill(int(folder.name), signal.SIGKILL)
                killed += 1
    return killed


def memory_file(content: bytes) -> int:
    """A descriptor from which a process reads `content`; the caller's to close."""
    fd = os.memfd_create("nightcrew")
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError:
        os.close(fd)
        raise
    return fd


def _is_stray(folder: Path) -> bool:
    """Whether a process is the first of a box's own namespace while its parent has nothing to do with boxes."""
    tag = f"\0{TAG}\0".encode()
    try:
        if tag not in (folder / "cmdline").read_bytes():
            return False
        lines = (folder / "status").read_text(encoding="ascii", errors="replace").splitlines()
        status = dict(line.split(":", 1) for line in lines if ":" in line)
        numbers = status["NSpid"].split()
        parent = Path("/proc", status["PPid"].strip(), "cmdline").read_bytes()
    except (OSError, KeyError):
        return False
    return len(numbers) > 1 and numbers[-1] == "1" and tag not in parent


def _popen(argv: Sequence[str], stdio: tuple[int, int, int], pass_fds: Iterable[int]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            argv,
            stdin=stdio[0],
            stdout=stdio[1],
            stderr=stdio[2],
            env={"PATH": _SEARCH},  # a box can read it in /proc/1/environ
            cwd="/",
            pass_fds=tuple(pass_fds),
            start_new_session=True,  # a Ctrl-C on the terminal is for the service, which ends its boxes itself
        )
    except OSError as error:
        raise BoxError(f"the box could not be started: {error}") from error


def as_user(user: BoxUser) -> list[str]:
    """What goes before a program to run it as the boxes' user. Raises `BoxUnavailable` where that would be root."""
    if user.uid == 0 or (os.geteuid() == 0 and not user.switch):
        remedy = "Set `box.user` to an unprivileged account."
        raise BoxUnavailable("boxes cannot run as root, for whom they are no boundary", remedy)
    if not user.switch:
        return []
    change = [f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups", "--inh-caps=-all", "--"]
    return [_program("setpriv", "util-linux"), *change]


def _programs(policy: BoxPolicy) -> list[str]:
    """How bubblewrap is called: with the change of user before it, and the way into a network that is shared."""
    programs = as_user(policy.user)
    if policy.joins is not None:
        _check_network(policy.joins)
        programs += [_program("nsenter", "util-linux"), f"--target={policy.joins}"]
        programs += ["--user", "--net", "--preserve-credentials", "--"]
    return [*programs, _program("bwrap", "bubblewrap")]


def _check_network(holder: int) -> None:
    """The holder is a child that has not been waited for, so its number cannot have become another process's."""
    try:
        apart = not Path(f"/proc/{holder}/ns/net").samefile("/proc/self/ns/net")
    except OSError:
        raise BoxError(NETWORK_GONE) from None
    if not apart:
        raise BoxError("the network to join is the machine's own")


def _program(name: str, package: str) -> str:
    if (found := shutil.which(name, path=_SEARCH)) is None:
        raise BoxUnavailable(f"{name} is not installed", f"Install it (Debian: apt-get install {package}).")
    return found


def _within_ceilings(resources: dict[str, int]) -> dict[str, int]:
    """A limit cannot be set above the service's own hard limit."""
    within: dict[str, int] = {}
    for name, value in resources.items():
        hard = resource.getrlimit(_CEILINGS[name])[1]
        within[name] = value if hard == resource.RLIM_INFINITY else min(value, hard)
    return within


def _check_command(argv: Sequence[str]) -> None:
    if not argv or not argv[0]:
        raise BoxError("the command is empty")
    for argument in argv:
        if "\0" in argument:
            raise BoxError("the command contains a NUL character")
        if len(argument.encode(errors="surrogateescape")) > _LONGEST_ARGUMENT:
            raise BoxError(f"the command is longer than {_LONGEST_ARGUMENT // 1024} KiB; put it into a file")
