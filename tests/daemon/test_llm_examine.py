"""What `nightcrew crew check` finds out about an endpoint, and what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes.scripted_server import Answer, ScriptedServer
from nightcrew.config import RoleSettings
from nightcrew.errors import EndpointDown
from nightcrew.llm.client import ModelClient
from nightcrew.llm.examine import FILE, WORD, Examination, examine

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]

SGLANG = {"version": "0.5.23", "enable_priority_scheduling": True, "max_total_num_tokens": 50_000}


def good(request: dict) -> Answer:
    """Does what it is asked."""
    last = request["messages"][-1]
    if last["role"] == "tool":
        return Answer(text=WORD)
    if request.get("tools"):
        return Answer(tool_calls=(("read_file", {"path": FILE}),))
    return Answer(text="42")


async def found(answer: Callable[[dict], Answer], *, listing=None, info=None, **settings: object) -> Examination:
    async with ScriptedServer(answer, listing=listing, info=info) as server:
        role = RoleSettings.model_validate({"base_url": server.url, "model": "scripted", **settings})
        return await examine(role)


def said(one: Examination) -> str:
    return " | ".join(finding.text for finding in one.findings)


async def test_an_endpoint_that_does_all_is_described_and_has_no_findings():
    one = await found(good, listing={"max_model_len": 40960}, info=SGLANG)
    assert (one.ok, one.findings) == (True, [])
    assert (one.model, one.context, one.server, one.priority) == ("scripted", 40960, "SGLang 0.5.23", True)
    assert one.tool_call is True and one.cache_report and one.thinking == "none"
    assert 0 < one.cached_tokens < one.prompt_tokens
    assert one.first_token_seconds is not None and one.tokens_per_second is not None


async def test_no_tool_call_is_a_failure_with_its_likely_cause():
    one = await found(lambda request: Answer(text="42"))
    assert not one.ok and one.tool_call is False
    assert "--tool-call-parser" in said(one)


async def test_a_call_that_had_to_be_read_out_of_the_text_is_told():
    def answer(request: dict) -> Answer:
        text = json.dumps({"name": "read_file", "arguments": {"path": FILE}})
        is_call = request.get("tools") and request["messages"][-1]["role"] == "user"
        return Answer(text=f"<tool_call>{text}</tool_call>") if is_call else good(request)

    one = await found(answer)
    assert one.ok and one.tool_call
    assert "came as text" in said(one)


async def test_thoughts_in_the_text_ask_for_a_reasoning_parser_and_thoughts_apart_do_not():
    apart = await found(lambda request: Answer(**{**vars(good(request)), "reasoning": "hm"}))
    assert (apart.thinking, apart.findings) == ("separate", [])
    inside = await found(lambda request: Answer(**{**vars(good(request)), "text": "<think>hm</think>\n42 heron"}))
    assert inside.thinking == "in the text"
    assert said(inside).count("--reasoning-parser") == 1


async def test_a_server_that_forgets_its_prompts_is_told_how_to_report_them():
    one = await found(lambda request: Answer(**{**vars(good(request)), "usage": False}))
    assert not one.cache_report
    assert "does not report usage" in said(one)


async def test_a_wrong_answer_is_quoted_and_no_failure():
    one = await found(lambda request: good(request) if request.get("tools") else Answer(text="about forty"))
    assert one.ok
    assert "'about forty'" in said(one)


async def test_a_model_that_is_not_there_and_a_cache_smaller_than_the_context_are_told():
    async with ScriptedServer(good, models=["other", "scripted"], listing={"max_model_len": 131072}, info=SGLANG) as it:
        one = await examine(RoleSettings(base_url=it.url, model=""))
    assert one.model == "other"
    assert "KV cache holds 50,000 tokens" in said(one)


async def test_a_role_without_tools_is_asked_for_none():
    one = await found(good, dialect="choose")
    assert one.tool_call is None and one.ok


async def test_nobody_there_is_an_error_at_once():
    with pytest.raises(EndpointDown):
        await examine(RoleSettings(base_url="http://127.0.0.1:9/v1", model="x"))


@pytest.mark.parametrize(
    ("info", "sent"), [(SGLANG, [20, 22]), ({"enable_priority_scheduling": False}, []), (None, [])]
)
async def test_a_priority_is_sent_only_where_it_is_obeyed_and_grows_with_the_conversation(info, sent):
    async with ScriptedServer(lambda _: Answer("x"), info=info) as server:
        settings = RoleSettings(base_url=server.url, model="scripted", priority=20)
        async with ModelClient(settings) as client:
            for count in (2, 17):
                await client.chat(['{"role":"user","content":"x"}'] * count)
        bodies = [request.json for request in server.requests]
    assert [body["priority"] for body in bodies if "priority" in body] == sent
    assert sum(request.path == "/server_info" for request in server.all_requests) == 1


async def test_without_a_priority_no_server_is_asked_about_it():
    async with ScriptedServer(lambda _: Answer("x"), info=SGLANG) as server:
        async with ModelClient(RoleSettings(base_url=server.url, model="scripted")) as client:
            await client.chat(['{"role":"user","content":"x"}'])
        assert [request.path for request in server.all_requests] == ["/v1/chat/completions"]


async def command(tmp_path: Path, *roles: str) -> subprocess.CompletedProcess[bytes]:
    import anyio

    config = tmp_path / "config.toml"
    config.write_text('crew = "mine"\n' + "".join(f"[crews.mine.{role}" for role in roles))
    line = [sys.executable, "-m", "nightcrew", "crew", "check", "--json"]
    return await anyio.run_process(line, env={**os.environ, "NIGHTCREW_CONFIG": str(config)}, check=False)


async def test_roles_that_share_an_endpoint_are_asked_once_and_the_exit_code_tells(tmp_path: Path):
    async with ScriptedServer(good) as server:
        here = f']\nbase_url = "{server.url}"\nmodel = "scripted"\n'
        done = await command(tmp_path, f"planner{here}", f"executor{here}temperature = 0.1\n")
        assert done.returncode == 0, done.stderr
        [one] = json.loads(done.stdout)
        assert one["roles"] == ["planner", "executor"] and one["ok"]
        gone = await command(tmp_path, f"planner{here}", 'executor]\nbase_url = "http://127.0.0.1:9/v1"\nmodel = "x"\n')
    assert gone.returncode == 4
    assert "connection refused" in json.loads(gone.stdout)[1]["error"]


async def test_an_endpoint_that_cannot_work_makes_it_fail(tmp_path: Path):
    async with ScriptedServer(lambda _: Answer("42")) as server:
        done = await command(tmp_path, f'planner]\nbase_url = "{server.url}"\nmodel = "scripted"\n')
    assert done.returncode == 1
