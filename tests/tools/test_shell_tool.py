from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from nightcrew_tools.output import COMMAND_BYTES

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]


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


@pytest.mark.parametrize("arguments", [{"command": "  "}, {"command": "true", "timeout_seconds": 0}])
async def test_a_command_that_means_nothing_is_refused(session, arguments):
    async with session() as tools:
        assert (await tools.fail("run_command", **arguments)).startswith("error[bad_argument]: ")


def _running(word: str) -> bool:
    """Whether any process of this machine has `word` in its command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in path.read_bytes():
                return True
        except OSError:
            continue
    return False
