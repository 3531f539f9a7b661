"""A box, attacked: each way out that is known to work without it, with proof that it is there to be found outside."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import platform
import pty
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
from pathlib import Path

import anyio
import pytest

from fakes.boxes import eventually, make_box, make_workspace, own, running, soon
from nightcrew_workspaces import process
from nightcrew_workspaces.box import Box
from nightcrew_workspaces.errors import BoxError, BoxUnavailable
from nightcrew_workspaces.failure import start_failure
from nightcrew_workspaces.policy import BoxPolicy, BoxUser, Limits, Mount
from nightcrew_workspaces.selftest import self_test

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]

ALLOW_ALL = struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000)  # BPF: return SECCOMP_RET_ALLOW


@pytest.fixture
def workspace(open_tmp) -> Path:
    return make_workspace(open_tmp)


@pytest.fixture
def box(workspace):
    return make_box(workspace)


def marker(name: str) -> str:
    """A length of sleep, in seconds, that no other process on the machine has on its command line."""
    return f"{3000 + os.getpid() % 997}.{sum(name.encode()):05}"


# The box itself


async def test_the_self_test_passes_here():
    await self_test()


async def test_the_self_test_fails_when_the_filter_lets_everything_through(monkeypatch):
    monkeypatch.setattr(process, "seccomp_filter", lambda: ALLOW_ALL)
    with pytest.raises(BoxUnavailable, match=r"does not confine.*namespaces can be made.*keys can be kept"):
        await self_test()


async def test_without_bubblewrap_nothing_runs_and_the_package_is_named(box, workspace, monkeypatch):
    monkeypatch.setattr(process, "_SEARCH", "/nonexistent")
    with pytest.raises(BoxUnavailable, match=r"is not installed.*apt-get install"):
        await box.run("touch ran")
    assert not (workspace / "ran").exists()


async def test_where_namespaces_are_forbidden_nothing_runs_and_the_settings_are_named(
    box, workspace, open_tmp, monkeypatch
):
    fake = open_tmp / "bin" / "bwrap"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(process, "_SEARCH", f"{fake.parent}:/usr/bin")
    with pytest.raises(BoxUnavailable, match=r"kernel\.unprivileged_userns_clone.*apparmor"):
        await box.run("touch ran")
    assert not (workspace / "ran").exists()


async def test_a_box_for_root_is_refused(workspace):
    root = BoxUser("root", 0, 0, switch=True)
    box = Box(BoxPolicy(user=root, mounts=(Mount(workspace, "/workspace", writable=True),)))
    with pytest.raises(BoxUnavailable, match="cannot run as root"):
        await box.run("touch ran")
    assert not (workspace / "ran").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="boxes run as the same user, who reaches his own directories")
async def test_a_directory_that_the_user_cannot_reach_is_named(open_tmp):
    closed = open_tmp / "closed"
    closed.mkdir(mode=0o700)
    inside = make_workspace(closed)
    with pytest.raises(BoxUnavailable, match=f"cannot reach {inside}, because of {closed}"):
        await make_box(inside).run("true")


async def test_a_directory_that_is_not_there_is_named(open_tmp):
    with pytest.raises(BoxError, match=f"{open_tmp}/missing does not exist"):
        await make_box(open_tmp / "missing").run("true")


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("bwrap: execvp /usr/bin/prlimit: No such file or directory", "apt-get install util-linux"),
        ("bwrap: Unknown option --disable-userns", "bubblewrap 0.8 or newer"),
        ("bwrap: prctl(PR_SET_SECCOMP): Invalid argument", "CONFIG_SECCOMP_FILTER"),
        ("setpriv: setresuid failed: Operation not permitted", "CAP_SETUID"),
        ("bwrap: pivot_root: Invalid argument", "not in a chroot"),
        ("bwrap: Failed to make / slave: Permission denied", "mounting is allowed"),
        ("bwrap: Creating new namespace failed: Operation not permitted", "kernel.unprivileged_userns_clone"),
        ("bwrap: setting up uid map: Permission denied", "apparmor_restrict_unprivileged_userns"),
        ("bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted", "apparmor_restrict_unprivileged_userns"),
        ("bwrap: Can't mount proc on /newroot/proc: Operation not permitted", "systempaths=unconfined"),
        ("bwrap: Creating new namespace failed: No space left on device", "Raise user.max_user_namespaces"),
        ("bwrap: Can't open sys/user/max_user_namespaces: Read-only file system", "ProtectKernelTunables"),
        ("bwrap: Creating new namespace failed: Resource temporarily unavailable", "TasksMax"),
    ],
)
async def test_what_the_kernel_refuses_is_told_with_what_to_do(box, said, advice):
    failure = start_failure(box.policy, f"{said}\n")
    assert isinstance(failure, BoxUnavailable)
    assert advice in failure.remedy
    assert said in failure.why


async def test_a_failure_that_nobody_knows_is_of_this_box_alone(box):
    failure = start_failure(box.policy, "bwrap: something else\n")
    assert isinstance(failure, BoxError)
    assert "something else" in str(failure)


# What it shows


async def test_a_command_is_nobody_in_particular(box):
    result = await box.run("id -u; id -un; id -G; pwd; echo $HOME; grep -E 'CapEff|NoNewPrivs' /proc/self/status")
    assert result.output.split() == [
        *("1000", "agent", "1000", "/workspace", "/home/agent"),
        *("CapEff:", "0000000000000000", "NoNewPrivs:", "1"),
    ]


async def test_files_of_the_machine_are_not_there(box, open_tmp, workspace):
    canary = open_tmp / "canary"
    canary.write_text("secret")
    canary.chmod(0o666)
    (workspace / "way_out").symlink_to(canary)
    looked = (
        f"cat {canary}; cat way_out; ls /root /var/lib /srv /mnt /sys; cat /etc/shadow; ls -a / /etc /opt /var /run"
    )
    result = await box.run(looked)
    assert "secret" not in result.output
    assert result.output.count("No such file or directory") == 8
    result = await box.run(f"echo overwritten > {canary}; echo overwritten > way_out; true")
    assert canary.read_text() == "secret"


async def test_only_the_workspace_and_scratch_space_can_be_written(box):
    places = "/ /etc /usr /opt /opt/nightcrew /dev /run /var /proc/sys/kernel /workspace /tmp /dev/shm /home/agent"
    result = await box.run(f"for place in {places}; do touch $place/probe 2>/dev/null && echo $place; done; true")
    assert result.output.split() == ["/workspace", "/tmp", "/dev/shm", "/home/agent"]


async def test_what_is_mounted_read_only_stays_as_it_is(workspace, open_tmp):
    depot = open_tmp / "depot"
    depot.mkdir()
    (depot / "object").write_text("kept")
    own(depot)
    box = make_box(workspace, mounts=(Mount(depot, "/depot"),))
    result = await box.run("cat /depot/object; echo changed > /depot/object; rm /depot/object; touch /depot/new")
    assert result.output.startswith("kept")
    assert result.output.count("Read-only file system") == 3
    assert [path.name for path in depot.iterdir()] == ["object"]


async def test_the_services_environment_does_not_show_anywhere(box, monkeypatch):
    monkeypatch.setenv("NIGHTCREW_TEST_SECRET", "hunter2")
    result = await box.run("env; cat /proc/*/environ")
    assert "PATH=" in result.output
    assert "hunter2" not in result.output
    assert "NIGHTCREW_TEST" not in result.output


async def test_scratch_space_is_private_to_one_command(box):
    await box.run("echo mine > /tmp/x; echo mine > $HOME/x; echo mine > /dev/shm/x")
    result = await box.run("ls -A /tmp $HOME /dev/shm")
    assert "x" not in result.output.replace("/dev/shm", "").split()
    assert not Path("/dev/shm/x").exists()


async def test_processes_outside_are_out_of_sight_and_reach(box):
    result = await box.run(f"ls -d /proc/[0-9]* | wc -l; kill -0 {os.getpid()}")
    assert int(result.output.split()[0]) < 10
    assert "No such process" in result.output


async def test_sockets_of_the_machine_cannot_be_connected_to(box, open_tmp):
    path, abstract = open_tmp / "socket", f"\0nightcrew-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as named, socket.socket(socket.AF_UNIX) as hidden, socket.socket() as internet:
        named.bind(str(path))
        path.chmod(0o777)
        hidden.bind(abstract)
        internet.bind(("127.0.0.1", 0))
        for server in (named, hidden, internet):
            server.listen()
        program = (
            "import socket\n"
            f"for family, address in ((1, {str(path)!r}), (1, {abstract!r}), (2, {internet.getsockname()!r}),"
            " (2, ('192.0.2.1', 80))):\n"
            "    try: socket.socket(family).connect(address); print('connected')\n"
            "    except OSError as error: print(type(error).__name__, error.errno)\n"
        )
        outside = subprocess.run([sys.executable, "-c", program.replace(", (2, ('192.0.2.1', 80))", "")],
                                 capture_output=True, text=True, check=True)  # fmt: skip
        assert outside.stdout.split("\n")[:-1] == ["connected"] * 3
        result = await box.run(["/usr/bin/python3", "-c", program])
    assert result.output.split("\n")[:-1] == [
        "FileNotFoundError 2",
        "ConnectionRefusedError 111",
        "ConnectionRefusedError 111",
        "OSError 101",  # ENETUNREACH
    ]


async def test_a_terminal_that_is_given_as_input_cannot_be_typed_into(box):
    program = (
        "import fcntl, sys, termios\n"
        "print(open('/proc/self/stat').read().rpartition(')')[2].split()[4])\n"
        "try: fcntl.ioctl(0, termios.TIOCSTI, b'x')\n"
        "except OSError as error: print(error.errno)\n"
        "try: open('/dev/tty'); print('opened')\n"
        "except OSError as error: print(error.errno)\n"
    )
    ours, theirs = pty.openpty()
    try:
        captured = await box.capture(["/usr/bin/python3", "-c", program], stdin=theirs)
        assert captured.stdout.split() == [b"0", b"1", b"6"]  # no controlling terminal, EPERM, ENXIO
        os.set_blocking(theirs, False)
        with pytest.raises(BlockingIOError):
            os.read(theirs, 1)
    finally:
        os.close(ours)
        os.close(theirs)


async def test_a_box_is_not_started_where_it_would_end_with_a_thread(box):
    def start() -> None:
        process.start(box.policy, ["/bin/true"], stdin=0, stdout=1, stderr=2)

    before = running("nightcrew-box")
    with pytest.raises(RuntimeError, match="no running event loop"):
        await anyio.to_thread.run_sync(start)
    assert not [pid for pid in running("nightcrew-box") if pid not in before and _parent(pid) == os.getpid()]


async def test_each_kind_of_namespace_is_the_boxs_own(box):
    kinds = ("user", "ipc", "pid", "net", "uts", "mnt", "cgroup")
    inside = await box.run("".join(f"readlink /proc/self/ns/{kind};" for kind in kinds))
    outside = [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds]
    assert len(inside.output.split()) == len(kinds)
    assert not set(inside.output.split()) & set(outside)


async def test_options_longer_than_a_pipe_are_told_to_bubblewrap_as_a_whole(box):
    result = await box.run("echo ${#LONG}", env={"LONG": "x" * 100_000, "MORE": "y" * 100_000})
    assert result.output == "100000\n"


async def test_there_is_no_terminal_and_standard_input_is_empty(box):
    result = await box.run("tty; cat; echo x > /dev/tty")
    assert result.output.startswith("not a tty\n")
    assert "/dev/tty: No such device" in result.output


async def test_given_files_are_shown_though_the_user_could_not_reach_them(workspace):
    box = make_box(workspace, files={"/opt/extra/tool": b"#!/bin/sh\necho tool\n"})
    result = await box.run("sh /opt/extra/tool; echo > /opt/extra/tool; ls /opt/nightcrew/lib/nightcrew_workspaces")
    assert result.output.startswith("tool\n")
    assert "Read-only file system" in result.output
    assert "boxd.py" in result.output


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
async def test_git_works_on_a_repository_that_someone_else_owns(box, workspace):
    subprocess.run(["git", "init", "-q", str(workspace / "repo")], check=True)
    own(workspace)
    os.chown(workspace / "repo", 12345, 12345)
    (workspace / "repo").chmod(0o777)
    result = await box.run("cd repo && echo x > x && git add x && git commit -qm x && git log --format='%an <%ae>'")
    assert result.output == "Nightcrew <nightcrew@localhost>\n"


# How it ends


async def test_a_command_that_succeeds(box):
    result = await box.run("echo out; echo err >&2")
    assert (result.exit_code, result.ended, result.output, result.omitted_bytes) == (0, "exited", "out\nerr\n", 0)
    assert result.command == "echo out; echo err >&2"
    assert 0 < result.seconds < 10


@pytest.mark.parametrize(
    ("command", "exit_code", "ended"),
    [
        ("exit 7", 7, "exited"),
        ("kill -SEGV $$", 139, "signal"),
        ("no-such-program", 127, "exited"),
        (["no-such-program"], 127, "exited"),
        (["/usr/bin/printf", "%s", "a b; $(c)"], 0, "exited"),
    ],
)
async def test_how_a_command_ended_is_told(box, command, exit_code, ended):
    result = await box.run(command)
    assert (result.exit_code, result.ended) == (exit_code, ended)
    if isinstance(command, list) and exit_code == 0:
        assert result.output == "a b; $(c)"


DAEMON = (
    "import os, signal, time\n"
    "if os.fork() == 0:\n"
    "    os.setsid()\n"
    "    if os.fork() == 0:\n"
    "        for number in (1, 2, 3, 15): signal.signal(number, signal.SIG_IGN)\n"
    "        null = os.open('/dev/null', os.O_RDWR)\n"
    "        for fd in (0, 1, 2): os.dup2(null, fd)\n"
    "        open('/workspace/started', 'w').close()\n"
    "        os.execvp('sleep', ['sleep', '{}'])\n"
    "    os._exit(0)\n"
    "while not os.path.exists('/workspace/started'): time.sleep(0.01)\n"
)


async def test_a_timeout_ends_everything_a_command_started(box):
    length = marker("timeout")
    program = DAEMON.format(length) + f"os.execvp('sleep', ['sleep', '{length}'])"
    result = await box.run(["/usr/bin/python3", "-c", program], seconds=1.0)
    assert (result.exit_code, result.ended) == (None, "timeout")
    assert result.seconds < 5
    assert running(length) == []


@pytest.mark.parametrize(
    "command",
    [
        "setsid sleep {0} & sleep {0}",
        "nohup sleep {0} & sleep {0}",
        "(trap '' HUP INT TERM QUIT; sleep {0}) & sleep {0}",
        "(( sleep {0} & ) & ); sleep {0}",
        "kill -STOP $$; sleep {0}",
    ],
    ids=["setsid", "nohup", "ignored signals", "double fork", "stopped"],
)
async def test_no_way_to_outlive_a_timeout(box, command):
    length = marker(command)
    result = await box.run(command.format(length), seconds=0.5)
    assert (result.exit_code, result.ended) == (None, "timeout")
    assert running(length) == []


async def test_nothing_stays_in_the_background_when_a_command_ends(box, workspace):
    length = marker("background")
    result = await box.run(["/usr/bin/python3", "-c", DAEMON.format(length)])
    assert result.exit_code == 0
    assert (workspace / "started").exists()
    assert running(length) == []


async def test_cancelling_ends_everything_before_it_comes_back(box, workspace):
    length = marker("cancel")
    with anyio.move_on_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(box.run, f"touch started; setsid sleep {length} & sleep {length}")
            await soon((workspace / "started").exists)
            group.cancel_scope.cancel()
    assert running(length) == []


async def test_a_command_cancelled_while_its_box_is_being_made_leaves_nothing(box):
    length = marker("early")
    gc.collect()  # what earlier tests left to the collector must not close meanwhile
    before = os.listdir("/proc/self/fd")
    for milliseconds in range(0, 16, 3):
        with anyio.move_on_after(milliseconds / 1000):
            await box.run(f"sleep {length}")
    assert running(length) == []
    assert len(os.listdir("/proc/self/fd")) <= len(before)


async def test_when_the_service_is_killed_its_commands_die(workspace):
    length = marker("crash")
    program = (
        "import asyncio, pathlib\n"
        "from fakes.boxes import make_box\n"
        f"asyncio.run(make_box(pathlib.Path({str(workspace)!r})).run('setsid sleep {length} & sleep {length}'))\n"
    )
    tests = str(Path(__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=tests, env={**os.environ, "PYTHONPATH": tests}
    ) as service:
        eventually(lambda: len([pid for pid in running(length) if _name(pid) == "sleep"]) == 2)
        service.kill()
    eventually(lambda: not running(length))


HIJACK = """
import os
eventfd = next(fd for fd in os.listdir("/proc/1/fd") if "eventfd" in os.readlink("/proc/1/fd/" + fd))
at = int(open("/proc/1/syscall").read().split()[-1], 16)
rax, rdi, rsi, rdx = (b"\\x48\\xc7" + bytes([each]) for each in (0xC0, 0xC7, 0xC6, 0xC2))
number = lambda value: value.to_bytes(4, "little")
code = rax + number(157) + rdi + number(1) + rsi + number(0) + b"\\x0f\\x05"  # prctl(PR_SET_PDEATHSIG, 0)
code += rax + number(1) + rdi + number(int(eventfd)) + rdx + number(8)
code += b"\\x48\\x8d\\x35" + number(4) + b"\\x0f\\x05\\xeb\\xfe" + (1).to_bytes(8, "little")  # "exited with 0"; loop
if os.fork() == 0:
    os.setsid()
    os.execvp("sleep", ["sleep", "{}"])
with open("/proc/1/mem", "r+b", buffering=0) as memory:
    memory.seek(at)
    memory.write(code)
os.spawnlp(os.P_WAIT, "sh", "sh", "-c", "true &")  # an orphan, whose end wakes the init
os.execvp("sleep", ["sleep", "{}"])
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the attack is written in machine code")
async def test_a_command_that_takes_over_the_boxs_init_ends_all_the_same(box):
    length = marker("hijack")
    result = await box.run(["/usr/bin/python3", "-c", HIJACK.replace("{}", length)], seconds=10)
    assert (result.exit_code, result.ended) == (0, "exited"), result  # so the attack worked as far as it can
    assert running(length) == []


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


async def test_when_the_service_is_killed_while_a_box_is_being_made_its_command_does_not_run(workspace):
    length = marker("birth")
    program = (
        "import asyncio, os, pathlib\n"
        "from fakes.boxes import make_box\n"
        "from nightcrew_workspaces.seccomp import seccomp_filter\n"
        f"box = make_box(pathlib.Path({str(workspace)!r}))\n"
        "async def main(seconds):\n"
        "    asyncio.get_running_loop().call_later(seconds, os.kill, os.getpid(), 9)\n"
        f"    await box.run('sleep {length}')\n"
        "seccomp_filter()\n"
        "for milliseconds in range(1, 25):\n"
        "    if os.fork() == 0: asyncio.run(main(milliseconds / 1000))\n"
        "    os.wait()\n"
    )
    tests = str(Path(__file__).parents[1])
    subprocess.run([sys.executable, "-c", program], cwd=tests, env={**os.environ, "PYTHONPATH": tests}, check=True)
    eventually(lambda: not [pid for pid in running(length) if _name(pid) != "bwrap"])
    process.kill_strays()
    eventually(lambda: not running(length))


async def test_clearing_away_strays_leaves_living_boxes_alone(box):
    result = []

    async def run() -> None:
        result.append(await box.run("touch started; while [ ! -e go ]; do sleep 0.01; done; echo alive"))

    workspace = box.policy.mounts[0].source
    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await soon((workspace / "started").exists)
        process.kill_strays()
        (workspace / "go").touch()
    assert result[0].output == "alive\n"


async def test_memory_is_counted_over_all_processes(workspace):
    box = make_box(workspace, limits=Limits(seconds=20, memory_mib=150))
    hungry = "python3 -c 'import time; x = bytearray(60 << 20); time.sleep(30)'"
    result = await box.run(" & ".join([hungry] * 4) + " & wait")
    assert (result.exit_code, result.ended) == (None, "memory")


async def test_shared_memory_is_counted_once(workspace):
    box = make_box(workspace, limits=Limits(seconds=20, memory_mib=150))
    program = (
        "import mmap, os, time\n"
        "memory = mmap.mmap(-1, 60 << 20)\n"
        "for _ in range(4):\n"
        "    if os.fork() == 0:\n"
        "        for at in range(0, 60 << 20, 4096): memory[at] = 1\n"
        "        time.sleep(1.2); os._exit(0)\n"
        "for _ in range(4): os.wait()\n"
    )
    result = await box.run(["/usr/bin/python3", "-c", program])
    assert result.ended == "exited", result


async def test_processes_are_limited_per_box(workspace):
    box = make_box(workspace, limits=Limits(seconds=20, processes=30))
    many = "for i in $(seq 20); do sleep 0.5 & done; wait; echo fine"
    results = []

    async def run() -> None:
        results.append(await box.run(many))

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        group.start_soon(run)
    assert [result.output for result in results] == ["fine\n", "fine\n"]
    bomb = "import os, time\nwhile True:\n    if os.fork() == 0: time.sleep(9)"
    result = await box.run(["/usr/bin/python3", "-c", bomb])
    assert "Resource temporarily unavailable" in result.output


async def test_a_file_cannot_grow_over_its_limit(workspace):
    box = make_box(workspace, limits=Limits(seconds=20, file_mib=1))
    result = await box.run("head -c 3000000 /dev/zero > big")
    assert result.exit_code != 0
    assert (workspace / "big").stat().st_size == 1024 * 1024


# Output and input


async def test_a_flood_of_output_is_stopped_and_its_ends_are_kept(workspace):
    box = make_box(workspace, limits=Limits(seconds=20, output_bytes=1000, flood_mib=2))
    result = await box.run("echo first; yes")
    assert (result.exit_code, result.ended) == (None, "output")
    assert result.output.startswith("first\ny\n")
    assert len(result.output) < 1100
    assert result.omitted_bytes > 2 * 1024 * 1024 - 1000


async def test_output_is_shown_while_the_command_runs(box, workspace):
    shown: list[str] = []

    def see(text: str) -> None:
        shown.append(text)
        (workspace / "seen").touch()

    result = await box.run("echo one; while [ ! -e seen ]; do sleep 0.01; done; printf '\\033[31mtwo'", on_output=see)
    assert result.exit_code == 0
    assert "".join(shown) == result.output == "one\ntwo"
    assert shown[0] == "one\n"


async def test_input_is_given_as_bytes(box):
    data = bytes(range(256)) * 1000
    result = await box.run("sha256sum", stdin=data)
    assert result.output.split()[0] == hashlib.sha256(data).hexdigest()


async def test_one_command_can_have_more_environment_and_mounts(box, open_tmp):
    extra = open_tmp / "extra"
    extra.mkdir()
    (extra / "x").write_text("mounted")
    result = await box.run("echo $COLOUR; cat /extra/x", env={"COLOUR": "blue"}, mounts=[Mount(extra, "/extra")])
    assert result.output == "blue\nmounted"
    assert (await box.run("echo $COLOUR; ls /extra")).output.startswith("\nls:")


async def test_data_is_captured_byte_for_byte_apart_from_complaints(box):
    captured = await box.capture(["/bin/sh", "-c", r"printf '\000\377\033[1m'; echo warning >&2"])
    assert captured.stdout == b"\x00\xff\x1b[1m"
    assert captured.stderr == "warning\n"
    assert captured.ok


async def test_more_data_than_asked_for_is_stopped(box):
    captured = await box.capture(["/usr/bin/yes"], limit_bytes=100_000)
    assert captured.ended == "output"
    assert not captured.ok


async def test_data_can_go_from_and_to_files_of_the_service(box, open_tmp):
    source, target = open_tmp / "source", open_tmp / "target"
    source.write_bytes(b"abc" * 100_000)
    with source.open("rb") as given, target.open("wb") as taken:
        captured = await box.capture(["/usr/bin/tr", "a", "b"], stdin=given.fileno(), stdout=taken.fileno())
    assert captured.ok
    assert captured.stdout == b""
    assert target.read_bytes() == b"bbc" * 100_000


async def test_a_process_can_be_talked_to_and_is_gone_when_closed(box):
    length = marker("channel")
    channel = await box.spawn(["/bin/sh", "-c", f"(setsid sleep {length} &); exec cat"])
    channel.writer.write(b"hello\n")
    assert await channel.reader.readline() == b"hello\n"
    assert channel.alive
    await channel.aclose()
    assert not channel.alive
    assert running(length) == []


async def test_a_process_to_talk_to_that_cannot_start_says_why(open_tmp):
    channel = await make_box(open_tmp / "missing").spawn(["/bin/cat"])
    assert await channel.reader.read() == b""
    with pytest.raises(BoxError, match="does not exist"):
        await channel.aclose()


async def test_twenty_commands_leave_no_descriptor_behind(box):
    await box.run("true")
    gc.collect()  # what earlier tests left to the collector must not close meanwhile
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(5):
        await box.run("true", stdin=b"x")
        await box.run("sleep 100", seconds=0.05)
        await box.capture(["/usr/bin/yes"], limit_bytes=10_000)
        await (await box.spawn(["/bin/cat"])).aclose()
    assert sorted(os.listdir("/proc/self/fd")) == before


async def test_a_command_that_cannot_be_passed_on_leaves_no_descriptor_behind(box):
    await box.run("true")
    gc.collect()  # what earlier tests left to the collector must not close meanwhile
    before = sorted(os.listdir("/proc/self/fd"))
    for command, why in (("x" * 200_000, "longer than 120 KiB"), ("a\0b", "NUL"), ([], "empty")):
        with pytest.raises(BoxError, match=why):
            await box.run(command)
    with pytest.raises(ValueError, match="NUL"):
        await box.run("true", env={"A": "\0"})
    assert sorted(os.listdir("/proc/self/fd")) == before


async def test_commands_run_side_by_side_without_threads(box):
    threads: set[int] = set()

    async def run(number: int) -> None:
        result = await box.run(f"sleep 0.2; echo {number}", on_output=lambda _: threads.add(threading.active_count()))
        assert result.output == f"{number}\n"

    before = threading.active_count()
    async with anyio.create_task_group() as group:
        for number in range(6):
            group.start_soon(run, number)
    assert threads == {before}


async def test_a_command_can_leave_sockets_and_pipes_that_hold_nothing_up(box, workspace):
    result = await box.run("mkfifo pipe; (sleep 100 > pipe &) ; echo done")
    assert result.output == "done\n"
    assert stat.S_ISFIFO((workspace / "pipe").stat().st_mode)


async def test_a_box_killed_from_outside_is_told_as_a_signal(box, workspace):
    length = marker("outside")
    task = asyncio.ensure_future(box.run(f"touch started; sleep {length}"))
    await soon((workspace / "started").exists)
    outer = next(pid for pid in running(length) if _name(pid) == "bwrap" and _parent(pid) == os.getpid())
    os.kill(outer, signal.SIGKILL)
    result = await task
    assert (result.exit_code, result.ended) == (137, "signal")
    assert running(length) == []


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
