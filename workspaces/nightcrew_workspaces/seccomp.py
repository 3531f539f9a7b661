"""The system call filter of a box, as the BPF program that bubblewrap loads.

Everything is allowed but what a build or a test has no use for and an attacker has: other processes' memory, the
kernel's own interfaces, new namespaces and mounts, injected terminal input, socket families that a network namespace
does not close (AF_VSOCK), protocols for which the kernel would load a module, memory that no limit sees, and the call
by which a box's first process could outlive the service.
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
    *(("process_mrelease", 448), "migrate_pages", "move_pages", "mbind", "set_mempolicy", ("memfd_secret", 447)),
    *(("set_mempolicy_home_node", 450), ("lsm_set_self_attr", 460), "modify_ldt", "uselib", "sysfs", "ustat"),
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
    *(("statmount", 457), ("listmount", 458)),
)
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_NEW_NAMESPACE = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
# Typing into a terminal, and line disciplines: any user may have the kernel load one for a terminal of his own.
_IOCTLS = {"TIOCSTI": 0x5412, "TIOCLINUX": 0x541C, "TIOCSETD": 0x5423}
_LOW = 0xFFFFFFFF  # what the kernel looks at of an `int`: a comparison of all 64 bits could be dodged with a high one
_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16
_ALLOWED_FAMILIES = (_UNIX, _INET, _INET6, _NETLINK)
# DCCP, L2TP, SCTP, UDP-Lite, SMC; 262 is MPTCP, which Go listens by.
_CLOSED_PROTOCOLS, _LAST_PROTOCOL = (33, 115, 132, 136, 256), 262
_SOL_TCP, _TCP_ULP = 6, 31
# A System V segment that nobody has attached is in no process's memory; a namespace may have 4,096 of them.
_LARGEST_SEGMENT = 1024 * 1024


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
    for request in _IOCTLS.values():
        rules.add_rule(eperm, "ioctl", seccomp.Arg(1, seccomp.MASKED_EQ, _LOW, request))
    # bubblewrap's init dies with its parent by PR_SET_PDEATHSIG. It shares the command's uid, so its memory can be
    # written through /proc/1/mem, and it could be made to take that back.
    pdeathsig = (seccomp.Arg(0, seccomp.MASKED_EQ, _LOW, 1), seccomp.Arg(1, seccomp.NE, signal.SIGKILL))
    rules.add_rule(eperm, "prctl", *pdeathsig)
    rules.add_rule(seccomp.ERRNO(errno.ENOMEM), "shmget", seccomp.Arg(1, seccomp.GT, _LARGEST_SEGMENT))
    _add_socket_rules(rules, seccomp)


def _add_socket_rules(rules: Any, seccomp: Any) -> None:
    """Four families, of NETLINK only the one that tells of network interfaces, of INET no protocol of a module."""
    refuse, last = seccomp.ERRNO(errno.EAFNOSUPPORT), max(_ALLOWED_FAMILIES)
    for family in range(last):
        if family not in _ALLOWED_FAMILIES:
            rules.add_rule(refuse, "socket", seccomp.Arg(0, seccomp.EQ, family))
    rules.add_rule(refuse, "socket", seccomp.Arg(0, seccomp.GT, last))
    rules.add_rule(refuse, "socketpair", seccomp.Arg(0, seccomp.NE, _UNIX))
    unsupported = seccomp.ERRNO(errno.EPROTONOSUPPORT)
    rules.add_rule(unsupported, "socket", seccomp.Arg(0, seccomp.EQ, _NETLINK), seccomp.Arg(2, seccomp.NE, 0))
    for family in (_INET, _INET6):
        of_family = seccomp.Arg(0, seccomp.EQ, family)
        for protocol in _CLOSED_PROTOCOLS:
            rules.add_rule(unsupported, "socket", of_family, seccomp.Arg(2, seccomp.MASKED_EQ, _LOW, protocol))
        rules.add_rule(unsupported, "socket", of_family, seccomp.Arg(2, seccomp.GT, _LAST_PROTOCOL))
    # An upper layer protocol (TLS) is a module too.
    ulp = (seccomp.Arg(1, seccomp.MASKED_EQ, _LOW, _SOL_TCP), seccomp.Arg(2, seccomp.MASKED_EQ, _LOW, _TCP_ULP))
    rules.add_rule(seccomp.ERRNO(errno.ENOPROTOOPT), "setsockopt", *ulp)


def _exported(rules: Any) -> bytes:
    with os.fdopen(os.memfd_create("nightcrew-seccomp"), "r+b") as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()
