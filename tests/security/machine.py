"""A throwaway machine for one half of one attack: everything of this one can be seen in it, nothing can be changed.

Its root is an overlay of the real root and a template, with what is written kept in memory; it has mounts, processes,
network, IPC and host name of its own, and is gone when its first process ends. The first process is root of the real
machine all the same, so a payload may only ask the kernel for what does no harm.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
import platform
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}.get(platform.machine(), 155)

_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC, _NEWPID, _NEWNET = (
    0x20000,
    0x2000000,
    0x4000000,
    0x8000000,
    0x20000000,
    0x40000000,
)
_NAMESPACES = _NEWNS | _NEWCGROUP | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET
_RDONLY, _REMOUNT, _BIND, _REC, _PRIVATE, _DETACH = 1, 32, 4096, 16384, 1 << 18, 2

_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_ROOTS_DEVICES = {"kmsg": (1, 11), "loop-control": (10, 237), "fuse": (10, 229)}

_SIOCSIFADDR, _SIOCSIFFLAGS, _SIOCSIFNETMASK = 0x8916, 0x8914, 0x891C
_IFF_UP_RUNNING = 0x41


@contextmanager
def own_memory(folder: Path) -> Iterator[Path]:
    """Mount memory at a folder, for this process and its children alone. A layer may not lie in the one below it."""
    _check(_LIBC.unshare(_NEWNS), "unshare")
    mount("none", "/", None, _REC | _PRIVATE)
    mount("tmpfs", folder, "tmpfs", data="mode=755,size=64m")
    try:
        yield folder
    finally:
        _check(_LIBC.umount2(os.fsencode(folder), _DETACH), "umount")


def leave_the_real_one() -> None:
    """Make the caller's next child the first process of a new machine; its mounts are made by `furnish`."""
    _check(_LIBC.unshare(_NAMESPACES), "unshare")
    mount("none", "/", None, _REC | _PRIVATE)


def furnish(folder: Path, template: Path) -> None:
    """Change to the new root, made below `folder`. To be called by the first process of the new machine."""
    mount("tmpfs", folder, "tmpfs", data="size=3g,mode=755")
    for name in ("upper", "work", "root"):
        (folder / name).mkdir()
    root = folder / "root"
    mount("overlay", root, "overlay", data=f"lowerdir={template}:/,upperdir={folder}/upper,workdir={folder}/work")
    mount("proc", root / "proc", "proc")
    mount("sysfs", root / "sys", "sysfs")
    if Path("/sys/fs/cgroup").is_dir():
        mount("/sys/fs/cgroup", root / "sys/fs/cgroup", None, _BIND | _REC)
    mount("tmpfs", root / "tmp", "tmpfs", data="mode=1777,size=2g")
    _make_dev(root / "dev")
    for source in (Path(__file__).parents[2], Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()):
        if not (root / source.relative_to("/")).is_mount() and source != Path("/usr"):
            _show(source, root)
    os.chdir(root)
    _check(_LIBC.syscall(_PIVOT_ROOT, b".", b"."), "pivot_root")
    _check(_LIBC.umount2(b".", _DETACH), "umount")
    os.chdir("/")
    _bring_up("lo", "127.0.0.1", "255.0.0.0")
    _bring_up("lo:1", "10.9.8.7", "255.255.255.0")


def mount(source: str | Path, target: str | Path, kind: str | None, flags: int = 0, data: str = "") -> None:
    """mount(2). Raises `OSError`."""
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind)]
    _check(_LIBC.mount(*words, ctypes.c_ulong(flags), data.encode() or None), f"mount {target}")


def drop_to(uid: int) -> None:
    """Become an unprivileged user, as visible to its other processes as one that logged in."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    _LIBC.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, which a change of user takes away


def die_with_parent() -> None:
    _LIBC.prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL


def _make_dev(dev: Path) -> None:
    mount("tmpfs", dev, "tmpfs", data="mode=755,size=1m")
    for names, mode in ((_DEVICES, 0o666), (_ROOTS_DEVICES, 0o600)):
        for name, numbers in names.items():
            os.mknod(dev / name, stat.S_IFCHR | mode, os.makedev(*numbers))
            os.chmod(dev / name, mode)
    for name in ("pts", "shm", "mqueue", "net"):
        (dev / name).mkdir()
    os.mknod(dev / "net/tun", stat.S_IFCHR | 0o600, os.makedev(10, 200))
    mount("devpts", dev / "pts", "devpts", data="newinstance,ptmxmode=0666,mode=620")
    mount("tmpfs", dev / "shm", "tmpfs", data="mode=1777,size=256m")
    mount("mqueue", dev / "mqueue", "mqueue")
    (dev / "ptmx").symlink_to("pts/ptmx")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        (dev / name).symlink_to(f"/proc/self/fd/{number}")
    (dev / "fd").symlink_to("/proc/self/fd")


def _show(source: Path, root: Path) -> None:
    """This project and its Python, wherever they lie, for every user of the machine, read-only."""
    target = root / source.relative_to("/")
    target.mkdir(parents=True, exist_ok=True)
    for folder in target.parents:
        if folder == root or os.statvfs(folder).f_flag & os.ST_RDONLY:
            break
        folder.chmod(folder.stat().st_mode | 0o055)
    mount(source, target, None, _BIND | _REC)
    mount("none", target, None, _BIND | _REMOUNT | _RDONLY)


def _bring_up(interface: str, address: str, netmask: str) -> None:
    name = interface.encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, value in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, netmask)):
            told = struct.pack("16sHH4s8x", name, socket.AF_INET, 0, socket.inet_aton(value))
            fcntl.ioctl(control, request, array.array("B", told))
        fcntl.ioctl(control, _SIOCSIFFLAGS, array.array("B", struct.pack("16sH22x", name, _IFF_UP_RUNNING)))


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
