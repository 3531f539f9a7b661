"""The system call filter of a box, as the BPF program that bubblewrap loads.

Everything is allowed but what a build or a test has no use for and an attacker has: other processes' memory, the
kernel's own interfaces, new namespaces and mounts, injected terminal input, socket families that a network namespace
does not close (AF_VSOCK), and the call by which a box's first process could outlive the service.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
from functools import lru_cache
from typing import Any

from nightcrew_workspaces.errors import BoxUnavailable

# Names with their number where a libseccomp older than the system call would not know them; from 424 on the number is
# the same on every architecture.
_EPERM: tuple[str | tuple[str, int], ...] = (
    *("ptrace", "process_vm_readv", "process_vm_writev", ("process_madvise", 440), "kcmp", ("pidfd_getfd", 438)),
    *("add_key", "request_key", "keyctl", "bpf", "perf_event_open", "userfaultfd", "fanotify_init", "fanotify_mark"),
    *("mount", "umount2", "pivot_root", "chroot", "unshare", "setns", "mount_setattr", ("open_tree_attr", 467)),
    *(("open_tree", 428), ("move_mount", 429), ("fsopen", 430), ("fsconfig", 431), ("fsmount", 432), ("fspick", 433)),
    *("kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "reboot", "swapon", "swapoff"),
    *("acct", "quotactl", ("quotactl_fd", 443), "syslog", "vhangup", "lookup_dcookie"),
    *("settimeofday", "clock_settime", "clock_adjtime", "adjtimex"),
    *("iopl", "ioperm", "open_by_handle_at", "name_to_handle_at"),
)
# Programs probe for these and fall back: glibc from clone3, whose flags a filter cannot see, to clone.
_ENOSYS: tuple[tuple[str, int], ...] = (
    *(("clone3", 435), ("io_uring_setup", 425), ("io_uring_enter", 426), ("io_uring_register", 427)),
)
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_NEW_NAMESPACE = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_ALLOWED_FAMILIES = (1, 2, 10, 16)  # UNIX, INET, INET6, NETLINK


@lru_cache(maxsize=1)
def seccomp_filter() -> bytes:
    """The filter for this machine's architecture, built once per process: about 1.5 KB of BPF.

    Raises `BoxUnavailable` when libseccomp is missing or cannot build it.
    """
    try:
        seccomp: Any = importlib.import_module("pyseccomp")  # raises where libseccomp is missing
        rules = seccomp.SyscallFilter(seccomp.ALLOW)
        _add_rules(rules, seccomp)
        return _exported(rules)
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        remedy = "Install a current libseccomp (Debian: apt-get install libseccomp2) and the pyseccomp package."
        raise BoxUnavailable(f"the system call filter cannot be built: {error}", remedy) from error


def _add_rules(rules: Any, seccomp: Any) -> None:
    """Deny rules on top of a filter that allows."""
    eperm, enosys = seccomp.ERRNO(errno.EPERM), seccomp.ERRNO(errno.ENOSYS)
    # Calls by another architecture's table (32-bit, x32) would pass by rules that are written for this one's.
    rules.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.KILL_PROCESS)
    for call in _EPERM:
        number = seccomp.resolve_syscall(seccomp.Arch.NATIVE, call) if isinstance(call, str) else call[1]
        if number >= 0:  # negative: this architecture never had it
            rules.add_rule(eperm, number)
    for _, number in _ENOSYS:
        rules.add_rule(enosys, number)
    for flag in _NEW_NAMESPACE:
        rules.add_rule(eperm, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, flag, flag))
    for request in (_TIOCSTI, _TIOCLINUX):
        # The kernel looks at the low 32 bits only; a comparison of all 64 could be dodged with a high one.
        rules.add_rule(eperm, "ioctl", seccomp.Arg(1, seccomp.MASKED_EQ, 0xFFFFFFFF, request))
    # bubblewrap's init dies with its parent by PR_SET_PDEATHSIG. It shares the command's uid, so its memory can be
    # written through /proc/1/mem, and it could be made to take that back.
    pdeathsig = (seccomp.Arg(0, seccomp.MASKED_EQ, 0xFFFFFFFF, 1), seccomp.Arg(1, seccomp.NE, signal.SIGKILL))
    rules.add_rule(eperm, "prctl", *pdeathsig)
    refuse, last = seccomp.ERRNO(errno.EAFNOSUPPORT), max(_ALLOWED_FAMILIES)
    for family in range(last):
        if family not in _ALLOWED_FAMILIES:
            rules.add_rule(refuse, "socket", seccomp.Arg(0, seccomp.EQ, family))
    rules.add_rule(refuse, "socket", seccomp.Arg(0, seccomp.GT, last))


def _exported(rules: Any) -> bytes:
    with os.fdopen(os.memfd_create("nightcrew-seccomp"), "r+b") as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()
