"""What the system call filter closes, asked in a box, and what it leaves open."""

from __future__ import annotations

import json
import platform

import pytest

from fakes.boxes import make_box, make_workspace
from nightcrew_workspaces.seccomp import seccomp_filter

pytestmark = pytest.mark.anyio

CALLS_X86_64 = """
EPERM: ptrace=101 process_vm_readv=310 process_vm_writev=311 process_madvise=440 kcmp=312 pidfd_getfd=438 add_key=248
EPERM: request_key=249 keyctl=250 bpf=321 perf_event_open=298 userfaultfd=323 fanotify_init=300 fanotify_mark=301
EPERM: mount=165 umount2=166 pivot_root=155 chroot=161 unshare=272 setns=308 mount_setattr=442 open_tree=428
EPERM: move_mount=429 fsopen=430 fsconfig=431 fsmount=432 fspick=433 open_tree_attr=467 kexec_load=246
EPERM: kexec_file_load=320 init_module=175 finit_module=313 delete_module=176 reboot=169 swapon=167 swapoff=168
EPERM: acct=163 quotactl=179 quotactl_fd=443 syslog=103 settimeofday=164 clock_settime=227 clock_adjtime=305
EPERM: adjtimex=159 iopl=172 ioperm=173 open_by_handle_at=304 name_to_handle_at=303
EPERM: process_mrelease=448 migrate_pages=256 move_pages=279 mbind=237 set_mempolicy=238 set_mempolicy_home_node=450
EPERM: memfd_secret=447 lsm_set_self_attr=460 modify_ldt=154 uselib=134 sysfs=139 ustat=136
ENOSYS: clone3=435 io_uring_setup=425 io_uring_enter=426 io_uring_register=427 statmount=457 listmount=458
"""

PROBE = """
import ctypes, errno, json, sys
library = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    ctypes.set_errno(0)
    result = library.syscall(ctypes.c_long(number), *(ctypes.c_ulong(each) for each in arguments))
    return errno.errorcode.get(ctypes.get_errno(), "?") if result == -1 else "allowed"
asked = json.loads(sys.argv[1])
print(json.dumps({name: call(*numbers) for name, numbers in asked.items()}))
"""


async def answers(workspace, asked: dict[str, list[int]]) -> dict[str, str]:
    result = await make_box(workspace).run(["/usr/bin/python3", "-I", "-S", "-c", PROBE, json.dumps(asked)])
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="the test has this machine's numbers")


@x86_64
async def test_every_closed_call_is_refused_by_the_filter_itself(open_tmp):
    expected = {
        name: (code, int(number))
        for line in CALLS_X86_64.strip().splitlines()
        for code, _, calls in [line.partition(": ")]
        for name, number in (call.split("=") for call in calls.split())
    }
    # Bad pointers: a kernel that came to look at them would answer EFAULT or EINVAL.
    asked = {name: [number, 1, 1, 1, 1, 1, 1] for name, (_, number) in expected.items()}
    found = await answers(make_workspace(open_tmp), asked)
    assert found == {name: code for name, (code, _) in expected.items()}


@x86_64
@pytest.mark.parametrize("high", [0, 1 << 40])
async def test_typing_into_the_terminal_is_refused_whatever_the_high_bits_say(open_tmp, high):
    closed = {"TIOCSTI": 0x5412, "TIOCLINUX": 0x541C, "TIOCSETD": 0x5423}
    asked = {name: [16, 0, high | request, 0] for name, request in closed.items()} | {"TCGETS": [16, 0, 0x5401, 0]}
    assert await answers(make_workspace(open_tmp), asked) == dict.fromkeys(closed, "EPERM") | {"TCGETS": "ENOTTY"}


@x86_64
async def test_new_namespaces_are_refused_in_clone_too(open_tmp):
    flags = [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000]
    asked = {hex(flag): [56, flag | 17, 0, 0, 0, 0] for flag in flags}
    assert set((await answers(make_workspace(open_tmp), asked)).values()) == {"EPERM"}


@x86_64
async def test_only_four_socket_families_are_open(open_tmp):
    asked = {str(family): [41, family, 1, 0] for family in range(46)}
    asked |= {"16": [41, 16, 3, 0], "vsock": [41, 40, 1, 0], "high": [41, (1 << 33) | 1, 1, 0]}
    found = await answers(make_workspace(open_tmp), asked)
    assert {name for name, answer in found.items() if answer == "allowed"} == {"1", "2", "10", "16"}
    assert found["vsock"] == found["high"] == "EAFNOSUPPORT"


@x86_64
async def test_pairs_of_sockets_are_of_one_family(open_tmp):
    found = await answers(make_workspace(open_tmp), {str(family): [53, family, 1, 0, 1] for family in (1, 2, 30, 40)})
    # A bad pointer: the family that is open gets as far as that.
    assert found == {"1": "EFAULT", "2": "EAFNOSUPPORT", "30": "EAFNOSUPPORT", "40": "EAFNOSUPPORT"}


@x86_64
async def test_no_socket_makes_the_kernel_load_a_protocol(open_tmp):
    closed = {"dccp": 33, "l2tp": 115, "sctp": 132, "udplite": 136, "smc": 256, "later": 263}
    asked = {f"{name} {family}": [41, family, 1, number] for name, number in closed.items() for family in (2, 10)}
    asked |= {"high": [41, 2, 1, (1 << 32) | 132], "nfnetlink": [41, 16, 3, 12], "generic": [41, 16, 3, 16]}
    useful = {"tcp": [41, 2, 1, 6], "udp": [41, 10, 2, 17], "route": [41, 16, 3, 0]}
    found = await answers(make_workspace(open_tmp), asked | useful)
    assert {name: found[name] for name in useful} == dict.fromkeys(useful, "allowed")
    assert {found[name] for name in asked} == {"EPROTONOSUPPORT"}, found


@x86_64
async def test_no_connection_makes_the_kernel_load_tls(open_tmp):
    asked = {"tls": [54, 0, 6, 31, 0, 0], "high": [54, 0, 1 << 32 | 6, 1 << 32 | 31, 0, 0], "nodelay": [54, 0, 6, 1]}
    expected = {"tls": "ENOPROTOOPT", "high": "ENOPROTOOPT", "nodelay": "ENOTSOCK"}
    assert await answers(make_workspace(open_tmp), asked) == expected


@x86_64
async def test_shared_memory_that_no_process_holds_is_small(open_tmp):
    asked = {"small": [29, 0, 1 << 20, 0o1600], "large": [29, 0, (1 << 20) + 1, 0o1600]}
    assert await answers(make_workspace(open_tmp), asked) == {"small": "allowed", "large": "ENOMEM"}


@x86_64
async def test_nothing_can_take_back_that_it_dies_with_its_parent(open_tmp):
    asked = {"none": [157, 1, 0], "SIGTERM": [157, 1, 15], "high": [157, (1 << 32) | 1, 0], "SIGKILL": [157, 1, 9]}
    found = await answers(make_workspace(open_tmp), asked)
    assert found == {"none": "EPERM", "SIGTERM": "EPERM", "high": "EPERM", "SIGKILL": "allowed"}


@x86_64
async def test_the_32_bit_table_of_calls_is_closed(open_tmp):
    program = "import ctypes; ctypes.CDLL(None).syscall(ctypes.c_long(0x40000000 | 39)); print('alive')"
    result = await make_box(make_workspace(open_tmp)).run(["/usr/bin/python3", "-I", "-S", "-c", program])
    assert result.ended == "signal"
    assert result.exit_code == 128 + 31  # SIGSYS


async def test_what_builds_and_tests_need_is_open(open_tmp):
    program = """
import multiprocessing, socket, subprocess, tempfile, threading
def twice(number): return number * 2
if __name__ == "__main__":
    thread = threading.Thread(target=print, args=("thread",)); thread.start(); thread.join()
    with multiprocessing.get_context("fork").Pool(2) as pool: print(pool.map(twice, [1, 2]))
    server = socket.create_server(("127.0.0.1", 0)); client = socket.create_connection(server.getsockname())
    server.accept()[0].sendall(b"loopback"); print(client.recv(8).decode())
    a, b = socket.socketpair(); a.sendall(b"pair"); print(b.recv(4).decode())
    print(subprocess.run(["id", "-u"], capture_output=True, text=True, check=True).stdout.strip())
    with tempfile.NamedTemporaryFile() as file: print(file.name.startswith("/tmp/"))
"""
    result = await make_box(make_workspace(open_tmp)).run(["/usr/bin/python3", "-c", program])
    assert result.output.split("\n")[:-1] == ["thread", "[2, 4]", "loopback", "pair", "1000", "True"]


def test_the_filter_is_built_once():
    assert seccomp_filter() is seccomp_filter()
    assert len(seccomp_filter()) % 8 == 0
