from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from fakes.boxes import eventually, make_box, make_workspace, running, soon
from nightcrew_workspaces.background import Background
from nightcrew_workspaces.box import Box
from nightcrew_workspaces.egress_mount import EgressMount
from nightcrew_workspaces.errors import BackgroundError, BoxError
from nightcrew_workspaces.policy import Limits

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

SERVER = """
import socketserver
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.readline().upper())
with socketserver.TCPServer(("127.0.0.1", 8000), Echo) as server:
    print("listening", flush=True)
    server.serve_forever()
"""
CLIENT = """
import socket
with socket.create_connection(("localhost", 8000), 10) as connection:
    connection.sendall(b"hello\\n")
    print(connection.recv(100).decode(), end="")
"""


@pytest.fixture
def box(open_tmp: Path) -> Box:
    return make_box(make_workspace(open_tmp))


@pytest.fixture
async def background(box: Box):
    background = Background(box)
    yield background
    await background.aclose()


def marker() -> str:
    """A number of seconds that no other process sleeps."""
    return f"88{os.getpid()}{os.urandom(3).hex()}".translate(str.maketrans("abcdef", "012345"))


async def test_a_server_in_the_background_is_reached_by_the_commands_after_it(box, background):
    handle = await background.start(["/usr/bin/python3", "-c", SERVER])
    assert (await background.read(handle, seconds=30, until="listening")).output.startswith("listening")
    answered = await box.run(["/usr/bin/python3", "-c", CLIENT])
    assert (answered.exit_code, answered.output) == (0, "HELLO\n")


async def test_the_shared_network_leads_nowhere_and_gives_no_power(box, background):
    await background.start("sleep 1000")
    look = "ls /sys/class/net 2>/dev/null; cat /proc/net/route | wc -l; cut -d: -f1 /proc/net/dev | tail -n +3"
    powers = "grep -h CapEff /proc/self/status; readlink /proc/self/ns/net"
    found = (await box.run(f"{look}; {powers}")).output.split()
    assert found[:4] == ["1", "lo", "CapEff:", "0" * 16]
    assert found[4] != os.readlink("/proc/self/ns/net")
    for attack in (
        "ip link set lo down",
        "ip link add dummy0 type dummy",
        "unshare -Un true",
        "nsenter --net=/proc/1/ns/net true",
        'python3 -c "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)"',
        "python3 -c \"import socket; socket.create_connection(('192.0.2.1', 9), 5)\"",
    ):
        assert (await box.run(attack)).exit_code != 0, attack


async def test_a_shared_network_is_seen_by_the_boxes_of_one_task_only(box, background, open_tmp):
    await background.start(["/usr/bin/python3", "-c", SERVER])
    await background.read("p1", seconds=30, until="listening")
    other = Box(box.policy)
    refused = await other.run(["/usr/bin/python3", "-c", CLIENT])
    assert "ConnectionRefusedError" in refused.output


async def test_without_its_holder_no_command_gets_the_machines_network(box, background):
    await background.start("sleep 1000")
    assert box.loopback is not None
    holder = box.loopback.pid
    os.kill(holder, signal.SIGKILL)
    await soon(lambda: not Path(f"/proc/{holder}/ns/net").exists())
    with pytest.raises(BoxError, match="the network that this task's commands share is gone"):
        await box.run("true")
    box.loopback.pid = os.getpid()
    with pytest.raises(BoxError, match="the machine's own"):
        await box.run("true")


async def test_the_way_out_of_boxes_is_there_for_each_of_them(box, open_tmp):
    with socket.socket(socket.AF_UNIX) as proxy:
        proxy.bind(str(open_tmp / "egress"))
        proxy.listen()
        out = box.with_network(EgressMount(open_tmp / "egress"))
        background = Background(out)
        try:
            await background.start("sleep 1000")
            ran = await out.run("echo ran; grep -c ':0C38 .* 0A ' /proc/net/tcp")  # listening on port 3128
        finally:
            await background.aclose()
    assert ran.output == "ran\n2\n"


async def test_each_read_returns_what_is_new(background):
    handle = await background.start("echo one; read line; echo got $line; read line; exit 7")
    assert (await background.read(handle, seconds=30)).output == "one\n"
    assert (await background.read(handle)).output == ""
    await background.write(handle, "twö\n")
    reading = await background.read(handle, seconds=30)
    assert (reading.output, reading.state, reading.exit_code) == ("got twö\n", "running", None)
    await background.write(handle, "", close=True)
    ended = await background.read(handle, seconds=30)
    assert (ended.output, ended.state, ended.exit_code) == ("", "exited", 7)


async def test_what_a_python_program_prints_can_be_read_while_it_runs(background):
    script = "import time; print('listening'); time.sleep(1000)"
    handle = await background.start(["/usr/bin/python3", "-c", script])
    reading = await background.read(handle, seconds=30, until="listening")
    assert (reading.state, reading.output.strip()) == ("running", "listening")


async def test_a_read_waits_for_a_text_that_comes_in_pieces(background):
    handle = await background.start("printf 'noise rea'; read x; printf 'dy'; sleep 1000")
    await background.read(handle, seconds=0)
    async with anyio.create_task_group() as group:
        group.start_soon(background.write, handle, "\n")
        reading = await background.read(handle, seconds=30, until="dy")
    assert reading.output.endswith("dy")
    with anyio.fail_after(30):
        assert (await background.read(handle, seconds=0.01, until="never")).state == "running"


async def test_a_character_in_two_reads_is_whole_in_the_second(background):
    handle = await background.start("printf '\\303'; read x; printf '\\244\\n'; sleep 1000")
    assert (await background.read(handle, seconds=0.5)).output == ""
    await background.write(handle, "\n")
    assert (await background.read(handle, seconds=30)).output == "ä\n"


async def test_output_that_nobody_reads_is_kept_at_both_ends_and_counted(open_tmp):
    box = make_box(make_workspace(open_tmp), limits=Limits(output_bytes=2000))
    background = Background(box)
    try:
        handle = await background.start("seq 1 10000; echo end; sleep 1000")
        reading = await background.read(handle, seconds=30, until="end\n")
    finally:
        await background.aclose()
    assert reading.output.startswith("1\n2\n")
    assert reading.output.endswith("10000\nend\n")
    assert reading.omitted_bytes > 40_000
    assert f"[... {reading.omitted_bytes} bytes left out ...]" in reading.output


async def test_stopping_kills_all_that_it_started(background):
    word = marker()
    handle = await background.start(f"(trap '' TERM; setsid nohup sleep {word} &) ; echo up; sleep {word}")
    await background.read(handle, seconds=30, until="up")
    assert running(word)
    stopped = await background.stop(handle)
    assert (stopped.state, stopped.exit_code) == ("stopped", None)
    assert not running(word)
    with pytest.raises(BackgroundError, match=r"there is no background command 'p1'; there are: none") as caught:
        await background.read(handle)
    assert caught.value.code == "not_found"


async def test_closing_stops_all_and_leaves_no_descriptor_open(box):
    word = marker()
    background = Background(box)
    await box.run("true")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        await background.start(f"sleep {word}")
    await background.start("true")
    holder = box.loopback.pid
    await background.aclose()
    assert not running(word)
    assert not Path(f"/proc/{holder}").exists()
    assert background.list() == []
    assert box.loopback is None
    assert len(os.listdir("/proc/self/fd")) == before


async def test_closing_while_one_is_being_started_leaves_nothing(box):
    word = marker()
    background = Background(box)
    starting = asyncio.create_task(background.start(f"sleep {word}"))
    await asyncio.sleep(0)
    await background.aclose()
    with pytest.raises(BackgroundError):
        await starting
    assert not running(word)
    await background.aclose()
    assert box.loopback is None


async def test_a_cancelled_start_leaves_nothing(box, background):
    word = marker()
    with anyio.move_on_after(0.02) as scope:
        while True:
            await background.start(f"sleep {word}")
    assert scope.cancelled_caught
    alive = [one for one in background.list() if one.state == "running"]
    await soon(lambda: len(running(word)) <= 4 * len(alive))  # setpriv, bubblewrap twice, the command
    await background.aclose()
    assert not running(word)


async def test_limits_hold_in_the_background_too(open_tmp):
    box = make_box(make_workspace(open_tmp), limits=Limits(memory_mib=100, flood_mib=1))
    background = Background(box, seconds=2)
    try:
        greedy = await background.start("python3 -c 'x = bytearray(10**9); import time; time.sleep(1000)'")
        loud = await background.start("yes")
        slow = await background.start("sleep 1000")
        ends = [(await background.read(each, seconds=30, until="\0")).state for each in (greedy, loud, slow)]
    finally:
        await background.aclose()
    assert ends == ["memory", "output", "timeout"]


async def test_no_more_than_so_many_run_at_once(box):
    background = Background(box, most=2)
    try:
        await background.start("sleep 1000")
        await background.start("sleep 1000")
        with pytest.raises(BackgroundError, match="2 commands run in the background: stop one of p1, p2") as caught:
            await background.start("sleep 1000")
        assert caught.value.code == "too_many"
        await background.stop("p1")
        assert await background.start("sleep 1000") == "p3"
    finally:
        await background.aclose()


async def test_the_last_words_of_ended_ones_are_kept_for_a_while(background):
    first = await background.start("echo first")
    for _ in range(18):
        handle = await background.start("echo last")
        await background.read(handle, seconds=30, until="\0")
    with pytest.raises(BackgroundError):
        await background.read(first)
    assert (await background.stop(handle)).state == "exited"


async def test_writing_to_one_that_does_not_read_says_so(background, monkeypatch):
    monkeypatch.setattr("nightcrew_workspaces.background._WRITE_SECONDS", 0.2)
    handle = await background.start("sleep 1000")
    with pytest.raises(BackgroundError, match="p1 does not read its input") as caught:
        await background.write(handle, "x" * 1_000_000)
    assert caught.value.code == "timeout"
    closed = await background.start("cat; sleep 1000")
    await background.write(closed, "x", close=True)
    with pytest.raises(BackgroundError, match="p2 has had its input closed"):
        await background.write(closed, "x")
    ended = await background.start("true")
    await background.read(ended, seconds=30, until="\0")
    with pytest.raises(BackgroundError, match="p3 has ended"):
        await background.write(ended, "x")


async def test_a_writer_learns_that_the_command_has_ended(background):
    handle = await background.start("sleep 1000")
    async with anyio.create_task_group() as group:

        async def write() -> None:
            with pytest.raises(BackgroundError, match="p1 has ended; not all was written"):
                await background.write(handle, "x" * 1_000_000)

        group.start_soon(write)
        await anyio.sleep(0.05)
        with anyio.fail_after(5):
            await background.stop(handle)


async def test_a_command_that_cannot_start_raises_and_takes_no_place(box, background):
    with pytest.raises(BoxError, match="cannot run in /workspace/nowhere: there is no such directory"):
        await background.start("true", cwd="/workspace/nowhere")
    assert background.list() == []
    box.policy = replace(box.policy, mounts=())
    with pytest.raises(BoxError):
        await background.start("true")
    assert background.list() == []


SERVICE = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from fakes.boxes import make_box
from nightcrew_workspaces.background import Background

async def main():
    box = make_box(Path(sys.argv[2]))
    background = Background(box)
    await background.start(f"setsid sleep {sys.argv[3]} & sleep {sys.argv[3]}")
    print(box.loopback.pid, flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


def test_they_die_with_a_service_that_is_killed(open_tmp):
    word = marker()
    arguments = [str(Path(__file__).parent.parent), str(make_workspace(open_tmp)), word]
    with subprocess.Popen([sys.executable, "-c", SERVICE, *arguments], stdout=subprocess.PIPE, text=True) as service:
        holder = int(service.stdout.readline())
        eventually(lambda: len(running(word)) > 2)
        service.kill()
        service.wait()
        eventually(lambda: not running(word))
        eventually(lambda: not Path(f"/proc/{holder}/exe").exists())
