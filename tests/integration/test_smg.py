"""The real smg before four fake workers: by the model's name, by the beginning of the prompt, no field lost.

`make integration-smg` installs it into an environment of its own and runs this. The command line is the one that
`nightcrew crew route` writes.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from fakes.workers_of_smg import FakeWorker
from nightcrew.serving.router import Route

PYTHON = os.environ.get("NIGHTCREW_SMG", "")
"""Of the environment that has smg."""
pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="make integration-smg runs it"),
    pytest.mark.timeout(120),
]

LONG = "Carry out the plan on the repository. " * 60


@dataclass
class Field:
    """The router and its workers."""

    url: str
    workers: dict[str, list[FakeWorker]]

    def ask(self, model: str, texts: list[str], **more: Any) -> dict[str, Any]:
        messages = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]
        body = json.dumps({"model": model, "messages": messages, **more}).encode()
        request = urllib.request.Request(f"{self.url}/chat/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as response:
            return json.load(response)


def free_port() -> int:
    """Below the ports that outgoing connections take: smg binds one for its metrics before it listens."""
    for port in range(20000 + os.getpid() % 10000, 32000):
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Generator[Field]:
    with ExitStack() as stack:
        workers = {model: [stack.enter_context(FakeWorker(model)) for _ in range(2)] for model in ("qwen", "devstral")}
        urls = tuple(worker.url for each in workers.values() for worker in each)
        made = Route("trio", urls, "127.0.0.1", free_port(), 0, str(Path(PYTHON).with_name("smg")))
        made = replace(made, metrics_port=made.port + 1)
        log = stack.enter_context((tmp_path_factory.mktemp("smg") / "log").open("wb"))
        process = subprocess.Popen([*made.argv, "--shutdown-grace-period-secs", "1"], stdout=log, stderr=log)
        try:
            _wait(made, process, Path(log.name))
            yield Field(made.url, workers)
        finally:
            process.terminate()
            process.wait(20)


def _wait(made: Route, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until all four are known."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text(errors="replace")[-2000:]
        try:
            with urllib.request.urlopen(made.url.removesuffix("/v1") + "/workers", timeout=5) as response:
                known = json.load(response)["workers"]
            if len(known) == len(made.workers) and all(worker["is_healthy"] for worker in known):
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError(log.read_text(errors="replace")[-2000:])


def test_a_request_goes_to_a_server_that_has_its_model(field: Field) -> None:
    for model in ("qwen", "devstral"):
        for number in range(4):
            assert field.ask(model, [f"{model} {number}"])["model"] == model
    with pytest.raises(urllib.error.HTTPError) as refused:
        field.ask("nobody", ["hello"])
    assert refused.value.code == 404
    refused.value.close()


def test_conversations_that_begin_alike_are_spread_and_each_stays_where_it_is(field: Field) -> None:
    """As a crew's do: the same system text, tools and repository, then each its own."""
    workers = field.workers["qwen"]
    for worker in workers:
        worker.delay = 0.1
        worker.requests.clear()
    places: dict[int, list[str]] = {number: [] for number in range(8)}

    def talk(number: int) -> None:
        texts = [f"{LONG} Task {number}."]
        for turn in range(6):
            places[number].append(field.ask("qwen", texts)["choices"][0]["message"]["content"])
            texts += [f"reply {turn}", f"result {turn} " * 40]

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(talk, places))
    counts = [len(worker.requests) for worker in workers]
    assert sum(counts) == 48 and min(counts) >= 12, counts
    moved = [number for number, seen in places.items() if len(set(seen)) > 1]
    assert len(moved) <= 1, places


def test_no_field_of_a_request_is_lost(field: Field) -> None:
    kept = {
        "rid": "nightcrew-1",
        "priority": 7,
        "cache_salt": "s",
        "session_id": "executor/1",
        "extra_key": "k",
        "chat_template_kwargs": {"enable_thinking": False},
        # What says no more than the default, `true` here, it does leave out.
        "separate_reasoning": False,
        "tools": [{"type": "function", "function": {"name": "read_file", "parameters": {"type": "object"}}}],
    }
    field.ask("devstral", ["fields"], **kept)
    (body,) = [
        request
        for worker in field.workers["devstral"]
        for request in worker.requests
        if "fields" in json.dumps(request)
    ]
    assert {name: body[name] for name in kept if name != "tools"} == {
        name: value for name, value in kept.items() if name != "tools"
    }
    assert body["tools"][0]["function"]["name"] == "read_file"


def test_health_is_asked_where_no_token_is_written(field: Field) -> None:
    asked = Counter(path for each in field.workers.values() for worker in each for path in worker.paths)
    assert asked["/ready"] >= 4 and asked["/health_generate"] == 0
