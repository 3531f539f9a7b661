"""Tries to get out of the box it runs in, and prints what it saw as one line of JSON. Standard library only."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

_WRITE_TRIES = (
    "/probe",
    "/etc/probe",
    "/usr/probe",
    "/opt/probe",
    "/dev/probe",
    "/run/probe",
    "/proc/sys/kernel/hostname",
)
_MANY = 256  # the box may have 64 processes
_LARGE = 2 * 1024 * 1024  # and files of 1 MiB
_OWN = ("/workspace/probe", "/tmp/probe")  # noqa: S108 (the box's own)


def _call(name: str, *arguments: object) -> str:
    """The error that a C library call ends with, or `allowed`."""
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) != -1:
        return "allowed"
    return errno.errorcode.get(ctypes.get_errno(), "?")


def _readable(path: str) -> bool:
    try:
        Path(path).read_bytes()
    except OSError:
        return False
    return True


def _written(paths: tuple[str, ...]) -> list[str]:
    done: list[str] = []
    for path in paths:
        with suppress(OSError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
            done.append(path)
    return done


def _routes() -> int:
    return len(Path("/proc/net/route").read_text(encoding="ascii").splitlines()) - 1


def _reaches_out() -> bool:
    """Connecting a datagram socket sends nothing: it only asks for a route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))
        return True
    return False


def _connects(address: str) -> str:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(address)
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, "?")
    return "allowed"


def _forks() -> str:
    """How starting processes without end ends; those that were started are gone when this process is."""
    for _ in range(_MANY):
        try:
            if os.fork() == 0:
                time.sleep(20)
                os._exit(0)
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, "?")
    return "allowed"


def _grows() -> str:
    try:
        with Path("/tmp/large").open("wb") as file:  # noqa: S108 (the box's own)
            file.write(bytes(_LARGE))
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")
    return "allowed"


def _system_call(numbers: dict[str, int], *arguments: int, otherwise: str) -> str:
    """A system call that the C library has no name for; `otherwise` on a machine whose number is not known here."""
    number = numbers.get(os.uname().machine, numbers.get("", -1))
    return otherwise if number < 0 else _call("syscall", ctypes.c_long(number), *map(ctypes.c_ulong, arguments))


def _family(number: int) -> str:
    try:
        socket.socket(number, socket.SOCK_STREAM).close()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")
    return "allowed"


def _status() -> dict[str, str]:
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def main(canary: str, listening: str, abstract: str) -> None:
    """Print the findings. The arguments are a file and a socket outside, open to every user, and an abstract socket."""
    status = _status()
    environ = Path("/proc/1/environ").read_bytes().split(b"\0")
    findings = {
        "uid": os.getuid(),
        "capabilities": status["CapEff"],
        "seccomp": status["Seccomp"],
        "no_new_privileges": status["NoNewPrivs"],
        "canary": _readable(canary),
        "written": _written((*_WRITE_TRIES, canary)),
        "own": _written(_OWN),
        "socket": _connects(listening),
        "abstract": _connects(f"\0{abstract}"),
        "routes": _routes(),
        "reaches_out": _reaches_out(),
        "vsock": _family(40),
        "unshare": _call("unshare", 0x10000000),
        "mount": _call("mount", b"none", b"/workspace", b"tmpfs", 0, None),
        "trace": _call("process_vm_readv", os.getpid(), None, 0, None, 0, 0),
        "keys": _system_call({"x86_64": 250, "aarch64": 219}, 0, 2**32 - 3, 1, otherwise="EPERM"),
        "io_uring": _system_call({"": 425}, 1, 0, otherwise="ENOSYS"),
        "typing": _call("ioctl", 0, ctypes.c_ulong(0x5412), b"x"),
        "init_environ": [entry.partition(b"=")[0].decode() for entry in environ if entry],
        "forks": _forks(),
        "file": _grows(),
    }
    sys.stdout.write(json.dumps(findings))


if __name__ == "__main__":
    main(*sys.argv[1:])
