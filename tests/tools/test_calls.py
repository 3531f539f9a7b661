from __future__ import annotations

import json
from dataclasses import dataclass

import anyio
import pytest
from mcp.client import Client
from mcp_types import Implementation

from fakes.gateway import FakeGateway
from nightcrew_tools import audit, calls, server
from nightcrew_tools.audit import AuditLog, shortened
from nightcrew_tools.calls import Call, Ended
from nightcrew_tools.grants import Grants
from nightcrew_tools.reply import Reply
from nightcrew_tools.schema import tool
from nightcrew_tools.server import build_server

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]

ERAS = pytest.mark.parametrize("mode", ["auto", "legacy"])
TASKS = Grants(frozenset({"tasks"}))


@dataclass(frozen=True)
class Count:
    many: int


class Slow:
    """Stands in for the task tools."""

    going = None

    def __init__(self, gateway: object) -> None:
        self.gateway = gateway

    @tool("Wait.")
    async def task_list(self) -> str:
        calls.heard("compiling\n\n")
        await self.gateway.wait()
        return "done"

    @tool("Count.", facts=Count)
    async def task_status(self) -> Reply:
        return Reply("three", Count(3))


@pytest.fixture
def slow(monkeypatch):
    monkeypatch.setattr(server, "TaskTools", Slow)
    monkeypatch.setattr(calls, "BEAT_SECONDS", 0.02)
    return anyio.Event()


@ERAS
async def test_a_client_that_asks_hears_of_a_call_while_it_runs(slow, mode):
    heard: list[tuple[float, str]] = []

    async def listen(progress, total, message):
        heard.append((progress, message))
        if len(heard) == 3:
            slow.set()

    async with Client(build_server(TASKS, gateway=slow), mode=mode) as client:
        result = await client.call_tool("task_list", {}, progress_callback=listen)
    assert result.content[0].text == "done"
    assert [progress for progress, _ in heard] == sorted(progress for progress, _ in heard)
    assert heard[0][1].endswith("s: compiling")


@ERAS
async def test_a_call_that_is_cancelled_is_written_down_as_that(slow, mode):
    over: list[Ended] = []
    ended = anyio.Event()

    def on_call(one: Ended) -> None:
        over.append(one)
        ended.set()

    async with Client(build_server(TASKS, gateway=slow, on_call=on_call), mode=mode) as client:
        with anyio.move_on_after(0.1):
            await client.call_tool("task_list", {})
        with anyio.fail_after(5):
            await ended.wait()
    assert [(one.tool, one.code) for one in over] == [("task_list", "cancelled")]


@ERAS
@pytest.mark.parametrize(
    ("name", "facts", "expected"),
    [
        ("claude-code", "auto", None),
        ("claude-code", "always", {"many": 3}),
        ("cursor-vscode", "auto", {"many": 3}),
        ("cursor-vscode", "never", None),
    ],
)
async def test_a_client_that_drops_texts_gets_no_facts(slow, mode, name, facts, expected):
    info = Implementation(name=name, version="1")
    made = build_server(TASKS, gateway=slow, facts=facts)
    async with Client(made, mode=mode, client_info=info) as client:
        tools = {one.name: one for one in (await client.list_tools()).tools}
        result = await client.call_tool("task_status", {})
    assert result.structured_content == expected
    assert (tools["task_status"].output_schema is None) == (expected is None)
    assert result.content[0].text == "three"


async def test_what_keeps_the_workspace_from_use_is_every_calls_error():
    async def never() -> None:
        raise RuntimeError("no box here")

    waiting = anyio.Event()
    offered = build_server(TASKS, gateway=FakeGateway(), ready=never)
    async with Client(offered) as client:  # the queue needs no box
        assert not (await client.call_tool("task_list", {})).is_error
    assert not waiting.is_set()


def test_the_last_line_that_says_something_is_kept():
    call = Call("run_command")
    call.heard("one\ntwo\n\n")
    assert call.last_line == "two"
    call.heard("   \n")
    assert call.last_line == "two"
    call.heard("x" * 1000)
    assert len(call.last_line) == 200


ENDED = Ended("read_file", {"path": "a"}, "", "t 1", "ok", 0.1, 5)


def test_a_log_that_has_become_long_begins_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(audit, "MOST_BYTES", 300)
    log = AuditLog(tmp_path / "sub" / "audit.jsonl")
    for _ in range(10):
        log(ENDED)
    lines = (tmp_path / "sub" / "audit.jsonl").read_text().splitlines()
    old = (tmp_path / "sub" / "audit.jsonl.1").read_text().splitlines()
    assert all(json.loads(line)["tool"] == "read_file" for line in (*lines, *old))
    assert 0 < len(lines) < 10


def test_a_log_behind_a_link_is_refused(tmp_path):
    (tmp_path / "target").write_text("")
    (tmp_path / "log").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match=r"log"):
        AuditLog(tmp_path / "log")


def test_contents_stay_out_of_the_log():
    shown = shortened({"path": "p" * 500, "content": "secret", "old": "secret", "count": 2, "edits": [{"old": "x"}]})
    assert "secret" not in json.dumps(shown)
    assert shown["count"] == 2
    assert len(shown["path"]) < 250
