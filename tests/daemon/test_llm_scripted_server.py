"""The scripted server itself: what other tests and the benchmarks rely on."""

from __future__ import annotations

import json

import anyio
import pytest

from fakes.scripted_server import Answer, PrefixCache, Rule, Script, ScriptedServer, spawned
from nightcrew.config import RoleSettings
from nightcrew.errors import EndpointRefused
from nightcrew.llm.client import ModelClient

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]

SCRIPT = {
    "rules": [
        {"when": "You plan", "answers": [{"text": "1. fix it"}]},
        {
            "when": "You execute",
            "answers": [{"tool_calls": [["read_file", {"path": "a.py"}]], "reasoning": "hm"}, {"text": "done"}],
        },
        {"when": "Loop", "has": "now", "answers": [{"text": "again"}], "repeat": True},
        {"when": "def f", "answers": [{"text": "return 1"}]},
    ],
    "delay": 0.01,
    "fail_first": [503],
}


def talk(system: str, turns: int = 0, user: str = "go") -> list[str]:
    said = [json.dumps({"role": "assistant", "content": "x"})] * turns
    return [json.dumps({"role": "system", "content": system}), json.dumps({"role": "user", "content": user}), *said]


async def test_a_script_in_its_own_process_answers_by_role_and_turn_and_tells_what_it_saw():
    async def no_sleep(_: float) -> None:
        return

    with spawned(SCRIPT) as server:
        async with ModelClient(RoleSettings(base_url=server.url), sleep=no_sleep) as model:
            assert (await model.chat(talk("You plan."))).content == "1. fix it"
            assert (await model.chat(talk("You execute."))).tool_calls[0].arguments == {"path": "a.py"}
            assert (await model.chat(talk("You execute.", 1))).content == "done"
            assert (await model.chat(talk("You execute.", 1))).content == "done"
            assert (await model.chat(talk("Loop", 5, user="now"))).content == "again"
            assert (await model.complete("def f():", max_tokens=16)).text == "return 1"
            with pytest.raises(EndpointRefused, match="no answer number 2 when 'You execute'"):
                await model.chat(talk("You execute.", 2))
            with pytest.raises(EndpointRefused, match="no rule"):
                await model.chat(talk("Loop"))
        seen = server.requests()
    assert [request["status"] for request in seen] == [503, 200, 200, 200, 200, 200, 200, 400, 400]
    assert seen[1]["first_byte"] - seen[1]["received"] >= 0.01
    assert json.loads(seen[1]["body"])["messages"][1]["content"] == "go"


async def test_prompts_that_run_at_the_same_time_do_not_share_a_cold_prefix():
    script = Script((Rule("s", (Answer("x", delay=0.05),), repeat=True),))
    async with ScriptedServer(script) as server, ModelClient(RoleSettings(base_url=server.url)) as model:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(model.chat, talk("s"))
        await model.chat(talk("s"))
    assert [request.cached_tokens for request in server.requests][:3] == [0, 0, 0]
    assert server.requests[3].cached_tokens == server.requests[3].prompt_tokens - 1


def test_the_cache_counts_the_longest_common_prefix():
    cache = PrefixCache()
    cache.add(b"a" * 400)
    cache.add(b"b" * 40)
    assert cache.cached(b"a" * 200 + b"c" * 200) == 50
    assert cache.cached(b"b" * 80) == 10
    assert cache.cached(b"a" * 400) == 99
    assert cache.cached(b"c") == 0


def test_a_fault_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="no such fault: explode"):
        Answer(fault="explode")
