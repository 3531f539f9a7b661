"""The real SGLang on the CPU, started by `nightcrew crew serve`: two tiny random models with real tokenizers.

They solve nothing. What is shown is that the launcher, the client, the loop and the accounting fit the real server.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from fakes.repos import make_repository
from nightcrew.config import RoleSettings
from nightcrew.llm.client import ModelClient
from nightcrew.serving.probe import Probe

pytestmark = [pytest.mark.sglang, pytest.mark.anyio, pytest.mark.timeout(1200)]

STUBS = Path(__file__).with_name("stubs")
QWEN, MISTRAL = "Qwen/Qwen3-8B", "mistralai/Devstral-Small-2507"
POOL = 8000
START_SECONDS = 500.0
SYSTEM = '{"role":"system","content":"You work in a repository. Be exact, be brief, and use the tools that you have."}'
ASKED = '{"role":"user","content":"Read a.py and tell what stands there."}'
TOOL = {
    "type": "function",
    "function": {
        "name": "read_file",
        "description": "Read a file.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"line": {"type": "boolean"}},
            "required": ["line"],
            "additionalProperties": False,
        },
    },
}


@dataclass(frozen=True)
class Crew:
    """The crew, served."""

    environ: dict[str, str]
    urls: dict[str, str]
    """By model."""
    events: list[dict[str, Any]]

    def settings(self, model: str, **more: object) -> RoleSettings:
        values = {"base_url": f"{self.urls[model]}/v1", "model": model, "max_tokens": 16, **more}
        return RoleSettings.model_validate(values)

    def ask(self, model: str, messages: list[dict[str, Any]], **more: object) -> dict[str, Any]:
        """A request with its token ids, past our client."""
        more = {"max_tokens": 12, "temperature": 0, "chat_template_kwargs": {"enable_thinking": False}, **more}
        shown = {"return_input_ids_in_sglext": True, "return_output_ids_in_sglext": True}
        body = {"model": model, "messages": messages, **shown, **more}
        answer = httpx2.post(f"{self.urls[model]}/v1/chat/completions", json=body, timeout=300)
        assert answer.status_code == 200, answer.text
        return answer.json()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def served(sglang_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    folder = tmp_path_factory.mktemp("served")
    ports = {QWEN: free_port(), MISTRAL: free_port()}
    models = sglang_home / "models"
    extra = ["--device", "cpu", "--attention-backend", "torch_native", "--load-format", "dummy"]
    extra += ["--kv-cache-dtype", "auto", "--context-length", str(POOL), "--max-total-tokens", str(POOL)]
    extra += ["--max-running-requests", "2"]
    places = {"Qwen/Qwen3-8B": "qwen3", "Qwen/Qwen3-8B-FP8": "qwen3", "Qwen/Qwen3-8B-AWQ": "qwen3"}
    places |= {MISTRAL: "mistral", "RedHatAI/Devstral-Small-2507-FP8-Dynamic": "mistral"}
    (folder / "config.toml").write_text(
        f'home = "{folder / "home"}"\ncrew = "tiny"\n[serving]\npython = "{sglang_home}/venv/bin/python"\n'
        f"extra_args = {json.dumps(extra)}\nready_seconds = {START_SECONDS}\n"
        f'[serving.env]\nPYTHONPATH = "{STUBS}"\nSGLANG_USE_CPU_ENGINE = "1"\n[serving.models]\n'
        + "".join(f'"{name}" = "{models / place}"\n' for name, place in places.items())
    )
    (folder / "crews").mkdir()
    (folder / "crews" / "tiny.toml").write_text(
        f'[roles.planner]\nmodel = "{QWEN}"\ncontext = 8192\nmax_tokens = 32\nthinking = false\n'
        f'[roles.executor]\nmodel = "{MISTRAL}"\ncontext = 8192\nmax_tokens = 32\n'
        + "".join(f'[servers."{model}"]\nport = {port}\n' for model, port in ports.items())
    )
    environ = {**os.environ, "NIGHTCREW_CONFIG": str(folder / "config.toml")}
    command = [
        "nice",
        "-n",
        "10",
        sys.executable,
        "-m",
        "nightcrew",
        "crew",
        "serve",
        "tiny",
        "--gpu-gib",
        "80",
        "--json",
    ]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)
    events: list[dict[str, Any]] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            events.append(json.loads(line))
            if events[-1]["kind"] == "up":
                break
        else:
            pytest.fail(f"not served: {events[-3:]}")
        yield Crew(environ, {model: f"http://127.0.0.1:{port}" for model, port in ports.items()}, events)
        process.send_signal(signal.SIGTERM)
        ended = [json.loads(line) for line in process.stdout]
        assert process.wait(120) == 0
        # In the reverse order, each by its own hand: SGLang ends a clean stop by killing what is left of itself.
        assert [event["server"] for event in ended if event["kind"] == "stopped"] == ["qwen3-8b", "devstral-small-2507"]
    finally:
        process.kill()
        process.wait()
        process.stdout and process.stdout.close()


def test_each_is_started_told_of_and_sent_its_longest_prompt_before_the_next(served: Crew):
    told = [event for event in served.events if event["kind"] in ("starting", "serving")]
    assert [(event["kind"], event["server"]) for event in told] == [
        ("starting", "devstral-small-2507"),
        ("serving", "devstral-small-2507"),
        ("starting", "qwen3-8b"),
        ("serving", "qwen3-8b"),
    ]
    for event in (told[1], told[3]):
        assert event["data"]["pool_tokens"] == POOL
        assert POOL - 16 < event["data"]["warm_up_tokens"] < POOL
    assert any(event["text"] == "loading weights" for event in served.events)


def test_the_check_describes_both_and_says_that_neither_can_work(served: Crew):
    line = [sys.executable, "-m", "nightcrew", "crew", "check", "--json"]
    ran = subprocess.run(line, env=served.environ, capture_output=True, text=True, check=False)
    found = {one["model"]: one for one in json.loads(ran.stdout)}
    assert ran.returncode == 1, ran.stderr
    for model in (QWEN, MISTRAL):
        assert found[model]["server"] == "SGLang 0.5.23"
        assert (found[model]["context"], found[model]["priority"], found[model]["tool_call"]) == (POOL, True, False)


@pytest.mark.parametrize("model", [QWEN, MISTRAL])
async def test_a_tool_call_is_forced_by_grammar_and_read_by_our_client(served: Crew, model: str):
    forced = {"tool_choice": "required", "seed": 1}
    for _ in range(6):  # a random model may fill its limit with white space, which the grammar of calls allows
        async with ModelClient(served.settings(model, extra_body=forced, max_tokens=160, thinking=False)) as client:
            reply = await client.chat([SYSTEM, ASKED], tools=json.dumps([TOOL]), temperature=1.0)
        if reply.tool_calls and reply.tool_calls[0].arguments is not None:
            break
    call = reply.tool_calls[0]
    assert (call.name, set(call.arguments or {})) == ("read_file", {"line"})
    assert call.id == "call00000"


@pytest.mark.parametrize("model", [QWEN, MISTRAL])
def test_the_tokens_that_the_server_counts_as_cached_are_those_that_the_prompts_share(served: Crew, model: str):
    """Of the earlier prompt and what was written after it, the last token excepted, which was never computed."""
    messages = [json.loads(SYSTEM), json.loads(ASKED)]
    before = served.ask(model, messages)
    call = {"id": "call00000", "type": "function", "function": {"name": "read_file", "arguments": '{"line":true}'}}
    messages += [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "a = 1", "tool_call_id": "call00000"},
    ]
    after = served.ask(model, messages)
    was = before["sglext"]["input_ids"] + before["sglext"]["output_ids"][0][:-1]
    now = after["sglext"]["input_ids"]
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(was, now, strict=False)))
    assert shared > 10
    assert after["usage"]["prompt_tokens_details"]["cached_tokens"] == min(shared, len(now) - 1)
    again = served.ask(model, messages)
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == len(now) - 1


async def test_our_client_counts_what_the_server_counts(served: Crew):
    async with ModelClient(served.settings(QWEN, thinking=False)) as client:
        first = await client.chat([SYSTEM, ASKED])
        second = await client.chat([SYSTEM, ASKED, first.message, '{"role":"user","content":"Go on."}'])
        third = await client.chat([SYSTEM, ASKED, first.message, '{"role":"user","content":"Go on."}'])
    assert first.usage.prompt_tokens < second.usage.prompt_tokens == third.usage.prompt_tokens
    assert third.usage.cached_tokens == third.usage.prompt_tokens - 1


async def until(probe: Probe, running: float, seconds: float = 60) -> float:
    """Seconds until so many requests run, by the server's own metrics."""
    started = time.monotonic()
    with anyio.fail_after(seconds):
        while (await probe.metrics()).get("num_running_reqs") != running:  # noqa: ASYNC110 - another process's
            await anyio.sleep(0.25)
    return time.monotonic() - started


async def test_a_cancelled_request_frees_its_slot(served: Crew):
    heard = anyio.Event()
    long = served.settings(QWEN, max_tokens=4000, extra_body={"ignore_eos": True}, thinking=False)
    async with Probe(served.urls[QWEN]) as probe, ModelClient(long) as client:
        async with anyio.create_task_group() as group:

            async def talk() -> None:
                await client.chat([SYSTEM, ASKED], on_text=lambda _: heard.set())

            group.start_soon(talk)
            await heard.wait()
            group.cancel_scope.cancel()
        assert await until(probe, 0) < 30


async def test_a_request_with_a_higher_priority_overtakes(served: Crew):
    ended: list[str] = []
    blocking = {"ignore_eos": True}

    async def talk(name: str, priority: int, tokens: int) -> None:
        settings = served.settings(
            QWEN, max_tokens=tokens, priority=priority, extra_body=blocking, thinking=False, first_token_seconds=600
        )
        async with ModelClient(settings) as client:
            await client.chat([SYSTEM, json.dumps({"role": "user", "content": name})])
        ended.append(name)

    async with Probe(served.urls[QWEN]) as probe, anyio.create_task_group() as group:
        for number in range(2):  # as many as may run
            group.start_soon(talk, f"runs {number}", 30, 240)
        await until(probe, 2)
        group.start_soon(talk, "scout", 0, 16)
        with anyio.fail_after(90):  # told once in forty steps
            while not (await probe.metrics()).get("num_queue_reqs"):  # noqa: ASYNC110 - another process's
                await anyio.sleep(0.1)
        group.start_soon(talk, "planner", 20, 16)
    assert ended.index("planner") < ended.index("scout")


async def test_metrics_are_read(served: Crew):
    for _ in range(2):
        served.ask(QWEN, [json.loads(SYSTEM), json.loads(ASKED)])
    async with Probe(served.urls[QWEN]) as probe:
        metrics = await probe.metrics()
        facts = await probe.facts()
    assert metrics["prompt_tokens_total"] > metrics["cached_tokens_total"] > 0
    assert metrics["generation_tokens_total"] > 0
    assert (facts.version, facts.models, facts.pool_tokens, facts.priority) == ("0.5.23", (QWEN,), POOL, True)


def test_the_real_loop_runs_a_task_against_them_and_does_not_break(served: Crew, tmp_path: Path):
    """They cannot solve it: it ends without a result, with a report, and with every token counted."""
    repo = make_repository(tmp_path / "repo", {"a.py": "def one():\n    return 2\n", "test_a.py": "import a\n"})
    task = tmp_path / "task.md"
    task.write_text(
        f'---\nrepo: {repo}\nchecks: ["false"]\nlimits: {{minutes: 4, attempts: 1}}\n---\n# One is one\n\nMend `one`.\n'
    )
    line = [sys.executable, "-m", "nightcrew", "run", str(task), "--crew", "tiny", "--json"]
    ran = subprocess.run(line, env=served.environ, capture_output=True, text=True, check=False, timeout=600)
    assert ran.returncode in (1, 5), ran.stderr[-3000:]
    assert "Traceback" not in ran.stderr
    report = json.loads(ran.stdout)
    print(json.dumps(report)[:2000])
    assert report["outcome"] != "delivered"
