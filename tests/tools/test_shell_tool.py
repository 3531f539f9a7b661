from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from mcp.client import Client

from nightcrew_tools.grants import BACKGROUND, EXECUTOR, PLANNER, Grants
from nightcrew_tools.output import COMMAND_BYTES
from nightcrew_tools.server import build_server

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]
ERAS = pytest.mark.parametrize("mode", ["auto", "legacy"])


async def test_a_command_answers_with_its_exit_and_its_output(session):
    async with session() as tools:
        first, rest = (await tools("run_command", command="pwd; echo oops >&2; exit 3")).split("\n", 1)
        assert first.startswith("exit 3 after ")
        assert first.endswith(" s")
        assert rest == "/workspace\noops"
        assert (await tools("run_command", command="true")).endswith(" s\n(no output)")


async def test_output_is_cut_in_its_middle_and_counted(session):
    async with session() as tools:
        text = await tools("run_command", command="seq 1 100000")
        assert len(text.encode()) < COMMAND_BYTES + 200
        lines = text.splitlines()
        assert lines[1:3] == ["1", "2"]
        assert lines[-1] == "100000"
        assert any(line.startswith("[... 58") and line.endswith(" bytes left out ...]") for line in lines)


async def test_output_arrives_while_the_command_runs(session):
    pieces: list[str] = []
    arrived = anyio.Event()

    def on_output(piece: str) -> None:
        pieces.append(piece)
        arrived.set()

    async with session(on_output=on_output) as tools, anyio.create_task_group() as group:
        group.start_soon(tools.client.call_tool, "run_command", {"command": "echo begun; sleep 60"})
        with anyio.fail_after(20):
            await arrived.wait()
        group.cancel_scope.cancel()
    assert "".join(pieces) == "begun\n"


async def test_a_command_that_takes_too_long_is_stopped(session):
    async with session() as tools:
        text = await tools("run_command", command="echo begun; sleep 60", timeout_seconds=0.5)
        assert text == "stopped after 0.5 s: timed out\nbegun"


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_cancelling_a_call_kills_everything_it_started(session, mode):
    began = anyio.Event()
    word = f"77{os.getpid()}{time.monotonic_ns() % 10**6:06}"  # a number of seconds that no other process sleeps

    async with session(mode=mode, on_output=lambda _: began.set()) as tools, anyio.create_task_group() as group:
        command = f"(setsid sh -c 'while :; do sleep {word}; done' &) ; echo begun; sleep {word}"
        group.start_soon(tools.client.call_tool, "run_command", {"command": command})
        with anyio.fail_after(20):
            await began.wait()
        assert _running(word)
        group.cancel_scope.cancel()
    with anyio.fail_after(10):
        while _running(word):  # noqa: ASYNC110 - the end of a stray process sends no event
            await anyio.sleep(0.05)


async def test_a_command_that_ends_by_a_signal_is_said_to(session):
    async with session() as tools:
        assert (await tools("run_command", command="kill -SEGV $$")).startswith("killed by SIGSEGV after ")


async def test_a_command_that_takes_too_much_memory_is_killed_and_told_the_limit(session, workspace):
    workspace.box.policy = replace(workspace.box.policy, limits=replace(workspace.box.policy.limits, memory_mib=200))
    async with session() as tools:
        text = await tools("run_command", command="python3 -c 'x = bytearray(10**9); import time; time.sleep(60)'")
        assert text.startswith("killed: over 200 MiB of memory\n")


async def test_a_command_that_may_write_no_larger_file_is_told_how_large(session, workspace):
    workspace.box.policy = replace(workspace.box.policy, limits=replace(workspace.box.policy.limits, file_mib=1))
    async with session() as tools:
        assert (await tools("run_command", command="exec head -c 2M /dev/zero > x")).startswith(
            "killed: a file over 1 MiB\n"
        )
        text = await tools("run_command", command="python3 -c \"open('x', 'wb').write(bytes(2 << 20))\"")
        assert re.match(r"exit 1 after [\d.]+ s \(limit: a file over 1 MiB\)\n", text), text


@pytest.mark.parametrize("arguments", [{"command": "  "}, {"command": "true", "timeout_seconds": 0}])
async def test_a_command_that_means_nothing_is_refused(session, arguments):
    async with session() as tools:
        assert (await tools.fail("run_command", **arguments)).startswith("error[bad_argument]: ")


async def test_a_program_with_arguments_is_run_without_a_shell(session):
    async with session() as tools:
        text = await tools("run_command", command="printf", args=["%s|", "$HOME", "a b", "*"])
        assert text.splitlines()[1] == "$HOME|a b|*|"
        assert (await tools("run_command", command="echo $((1 + 1))", args=[])).endswith("\n2")
        text = await tools("run_command", command="ls -a", args=["/"])
        assert text.startswith("exit 127 after ")


async def test_a_command_has_a_directory_and_an_input(session):
    async with session() as tools:
        assert (await tools("run_command", command="pwd; cat", cwd="src", stdin="hällo")).endswith(
            "\n/workspace/src\nhällo"
        )
        assert (await tools("run_command", command="pwd", cwd="/workspace")).endswith("\n/workspace")
        assert (await tools("run_command", command="pwd", cwd="../tmp")).endswith("\n/tmp")
        assert await tools.fail("run_command", command="pwd", cwd="none") == (
            "error[box]: the command cannot run in /workspace/none: there is no such directory"
        )


@ERAS
async def test_programs_are_told_how_a_command_ended(workspace, mode):
    async with Client(build_server(EXECUTOR, workspace=workspace, facts="always"), mode=mode) as client:
        ended = (await client.call_tool("run_command", {"command": "seq 1 100000; exit 3"})).structured_content
        timed = {"command": "sleep 60", "timeout_seconds": 0.2}
        stopped = (await client.call_tool("run_command", timed)).structured_content
    assert ended.pop("seconds") > 0
    assert ended.pop("omitted_bytes") > 580_000
    assert ended == {"ended": "exited", "exit_code": 3}
    assert (stopped["ended"], "exit_code" in stopped, stopped["omitted_bytes"]) == ("timeout", False, 0)


SHELL = Grants(frozenset({"shell"}))
SERVER = "echo starting; exec python3 -u -m http.server --bind 127.0.0.1 8000"
CLIENT = "python3 -c 'from urllib.request import urlopen; print(urlopen(\"http://localhost:8000/README.md\").read())'"


@ERAS
async def test_a_server_is_started_reached_read_and_stopped(session, mode):
    async with session(SHELL, mode=mode) as tools:
        assert (await tools("start_command", command=SERVER)).startswith("p1: running for ")
        assert "Serving HTTP" in await tools("read_output", handle="p1", wait_for="Serving HTTP")
        assert (await tools("run_command", command=CLIENT)).endswith("\nb'# Sums\\n'")
        assert "GET /README.md" in await tools("read_output", handle="p1", wait_for="GET")
        assert (await tools("read_output", handle="p1", wait_seconds=0)).endswith(" s\n(no new output)")
        assert (await tools("stop_command", handle="p1")).startswith("p1: stopped after ")
        assert "ConnectionRefused" in await tools("run_command", command=CLIENT)
        assert await tools.fail("read_output", handle="p1") == (
            "error[not_found]: there is no background command 'p1'; there are: none"
        )


async def test_a_background_command_is_written_to_and_its_end_is_told(session):
    async with session(SHELL) as tools:
        started = await tools("start_command", command="python3", args=["-c", "print(input('name? ')); print(input())"])
        assert "name?" in started or "name?" in await tools("read_output", handle="p1", wait_for="name?")
        assert (await tools("write_input", handle="p1", text="Ann\n")).endswith("\nAnn")
        ended = await tools("write_input", handle="p1", text="", close=True)
        ended += await tools("read_output", handle="p1", wait_for="never")
        assert "EOFError" in ended
        assert "p1: exit 1 after " in ended
        assert (await tools.fail("write_input", handle="p1", text="x")).startswith("error[closed]: p1 has ended")


async def test_a_command_that_ends_at_once_says_why(session):
    async with session(SHELL) as tools:
        text = await tools("start_command", command="exit 4")
        text = text if "exit" in text else await tools("read_output", handle="p1", wait_for="never")
        assert text.startswith("p1: exit 4 after ")


@ERAS
async def test_programs_are_told_how_a_background_command_is(workspace, mode):
    async with Client(build_server(SHELL, workspace=workspace, facts="always"), mode=mode) as client:
        started = (await client.call_tool("start_command", {"command": "echo up; sleep 1000"})).structured_content
        stopped = (await client.call_tool("stop_command", {"handle": "p1"})).structured_content
    assert (started["handle"], started["state"], "exit_code" in started) == ("p1", "running", False)
    assert (stopped["handle"], stopped["state"], stopped["omitted_bytes"]) == ("p1", "stopped", 0)


@ERAS
async def test_cancelling_a_start_stops_what_it_started(session, workspace, mode):
    word = f"78{os.getpid()}{time.monotonic_ns() % 10**6:06}"
    async with session(SHELL, mode=mode) as tools, anyio.create_task_group() as group:
        group.start_soon(tools.client.call_tool, "start_command", {"command": f"sleep {word}"})
        with anyio.fail_after(20):
            while not _running(word):  # noqa: ASYNC110 - see below
                await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    with anyio.fail_after(10):
        while _running(word):  # noqa: ASYNC110 - the end of a stray process sends no event
            await anyio.sleep(0.05)
    assert workspace.background.list() == []


async def test_background_commands_are_gone_with_the_workspace(session, workspace):
    word = f"79{os.getpid()}{time.monotonic_ns() % 10**6:06}"
    async with session(SHELL) as tools:
        await tools("start_command", command=f"setsid sleep {word} & sleep {word}")
    assert _running(word)
    await workspace.aclose()
    assert not _running(word)


def test_the_crew_is_given_no_background_commands():
    assert not any(EXECUTOR.permit(name, writes=True) or PLANNER.permit(name, writes=True) for name in BACKGROUND)


def _running(word: str) -> bool:
    """Whether any process of this machine has `word` in its command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in path.read_bytes():
                return True
        except OSError:
            continue
    return False
