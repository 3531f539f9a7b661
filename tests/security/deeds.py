"""What attacks do by a command: in a shell or as a Python program, once or twice, with and without a box."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyseccomp as seccomp

from nightcrew_workspaces.box import Box
from nightcrew_workspaces.policy import BoxPolicy, Limits, Mount
from nightcrew_workspaces.user import box_user

WORKSPACE = Path("/workspace")

_NAMES = (
    *("kcmp", "tgkill", "ptrace", "bpf", "perf_event_open", "userfaultfd", "keyctl", "add_key", "unshare", "setns"),
    *("pivot_root", "chroot", "open_by_handle_at", "name_to_handle_at", "init_module", "delete_module", "kexec_load"),
    *("reboot", "swapon", "swapoff", "acct", "quotactl", "syslog", "vhangup", "settimeofday", "clock_settime"),
    *("adjtimex", "iopl", "ioperm", "fanotify_init", "clone", "sethostname", "ioctl"),
)
NUMBER = {name: seccomp.resolve_syscall(seccomp.Arch.NATIVE, name) for name in _NAMES}

PRELUDE = (
    f"NUMBER = {NUMBER}\n"
    + """\
import ctypes, errno, mmap, os, resource, signal, socket, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)

def kernel(number, *arguments):
    "The result of a system call, and the name of its error."
    ctypes.set_errno(0)
    words = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result = libc.syscall(ctypes.c_long(number), *words)
    return result, "" if result >= 0 else errno.errorcode.get(ctypes.get_errno(), "?")

def reach(number, *arguments, past=()):
    "Say whether the kernel let a call through: it succeeded, or failed for what comes after the permission."
    result, error = kernel(number, *arguments)
    print("REACHED" if result >= 0 or error in past else "UNAVAILABLE" if error == "ENOSYS" else error)
    return result

def others():
    "Every other process in sight but the first, which is the machine's own or the box's."
    return [pid for pid in range(2, 64) if pid not in (os.getpid(), os.getppid()) and os.path.exists(f"/proc/{pid}")]
"""
)


@dataclass(frozen=True)
class Shell:
    """A command line. `before` is run first, as what an earlier command of the same model left behind."""

    script: str
    before: str = ""
    seconds: float = 10.0
    limits: Limits | None = None

    def unboxed(self) -> str:
        if self.before:
            run_plainly(["/bin/bash", "-c", self.before], self.seconds)
        return run_plainly(["/bin/bash", "-c", self.script], self.seconds)

    async def boxed(self) -> str:
        box = make_box(self.limits)
        if self.before:
            await box.run(self.before, seconds=self.seconds)
        result = await box.run(self.script, seconds=self.seconds)
        await still_works(box)
        return result.output


@dataclass(frozen=True)
class Python:
    """A program with the names of `PRELUDE`."""

    program: str
    seconds: float = 10.0
    limits: Limits | None = None

    def _argv(self) -> list[str]:
        return ["/usr/bin/python3", "-I", "-S", "-c", PRELUDE + self.program]

    def unboxed(self) -> str:
        return run_plainly(self._argv(), self.seconds)

    async def boxed(self) -> str:
        box = make_box(self.limits)
        result = await box.run(self._argv(), seconds=self.seconds)
        await still_works(box)
        return result.output


def make_box(limits: Limits | None = None) -> Box:
    """The box of a workspace, at the path that a box shows it at."""
    mount = Mount(WORKSPACE, "/workspace", writable=True)
    return Box(BoxPolicy(user=box_user(None), mounts=(mount,), limits=limits or Limits(seconds=20)))


async def still_works(box: Box) -> None:
    """The next command runs as if nothing had been."""
    result = await box.run("echo fine")
    assert (result.output, result.exit_code) == ("fine\n", 0), result


def run_plainly(argv: Sequence[str], seconds: float = 10.0) -> str:
    """A command as a program runs it that has no box: its process is killed after its time, what it started is not."""
    with tempfile.TemporaryFile(dir="/tmp") as output:
        process = subprocess.Popen(argv, cwd="/workspace", stdout=output, stderr=subprocess.STDOUT)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        output.seek(0)
        return output.read(1 << 20).decode(errors="replace")
