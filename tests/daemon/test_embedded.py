"""The embedded model's server as a child process: its settings, its end, and what it says when it cannot start.

The child is the real one; only the library that it loads is a fake.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import httpx2
import pytest

from nightcrew.config import environment, models_dir
from nightcrew.errors import EmbeddedError
from nightcrew.serving.embedded import EmbeddedServer
from nightcrew.serving.embedded_server import LOG_BYTES, thread_counts, usable_cores
from nightcrew.serving.weights import present

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]

FAKES = Path(__file__).parents[1] / "fakes" / "embedded"
Make = Callable[..., EmbeddedServer]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A server over the fake library; `act` is what that shall do."""

    def made(act: str = "serve", *, library: Path = FAKES, **settings: object) -> EmbeddedServer:
        weights = tmp_path / "tiny.gguf"
        weights.write_text(act, encoding="utf-8")
        environ = {**os.environ, "PYTHONPATH": str(library)}
        return EmbeddedServer(weights, tmp_path / "logs" / "embedded.log", environ=environ, needs_bytes=0, **settings)

    return made


def runs(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


async def settings_of(server: EmbeddedServer) -> dict[str, object]:
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {server.api_key}"}) as client:
        return (await client.get(server.base_url)).json()


async def test_it_listens_on_loopback_for_those_who_have_the_key(make: Make):
    async with make() as server, httpx2.AsyncClient() as client:
        assert server.base_url.startswith("http://127.0.0.1:") and server.base_url.endswith("/v1")
        assert (await client.get(server.base_url)).status_code == 401
        settings = await settings_of(server)
    assert settings["hostnames"] == ["127.0.0.1"]
    assert (settings["n_ctx"], settings["n_parallel"], settings["cache_prompt"]) == (8192, 1, True)
    assert settings["model_alias"] == ["qwen2.5-coder-1.5b-instruct"]


async def test_the_key_is_not_where_other_processes_can_read_it(make: Make):
    async with make() as server:
        shown = [Path(f"/proc/{server.pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
        assert len(server.api_key) >= 24
        assert server.api_key.encode() not in b"".join(shown)
    assert make().api_key != server.api_key


async def test_waiting_threads_sleep(make: Make):
    async with make() as server:
        assert b"OMP_WAIT_POLICY=passive\0" in Path(f"/proc/{server.pid}/environ").read_bytes()


async def test_it_ends_with_the_block(make: Make):
    async with make() as server:
        pid = server.pid
        assert pid is not None and runs(pid) and server.alive
    assert not runs(pid) and not server.alive


async def test_a_server_that_does_not_end_is_killed(make: Make, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("nightcrew.serving.embedded.STOP_SECONDS", 0.2)
    deaf = 'import time; print(\'{"base_url": "http://127.0.0.1:1/v1"}\', flush=True); time.sleep(600)'
    async with make(command=[sys.executable, "-c", deaf]) as server:
        pid = server.pid
        assert pid is not None
    assert not runs(pid)


def test_it_dies_with_a_service_that_is_killed(tmp_path: Path):
    weights, said = tmp_path / "tiny.gguf", tmp_path / "pid"
    weights.write_text("serve")
    # The service's end of the pipe is held open, so that only the parent's death can end the child.
    service = (
        "import anyio, os, sys, time\nfrom pathlib import Path\nfrom nightcrew.serving.embedded import EmbeddedServer\n"
        "async def main():\n"
        f"    async with EmbeddedServer(Path({str(weights)!r}), Path({str(tmp_path / 'log')!r}), needs_bytes=0) as s:\n"
        "        if os.fork() == 0:\n            time.sleep(600)\n"
        f"        Path({str(said)!r}).write_text(str(s.pid))\n"
        "        await anyio.sleep_forever()\nanyio.run(main)\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(FAKES)}
    process = subprocess.Popen([sys.executable, "-c", service], env=environ, start_new_session=True)
    try:
        wait_for(lambda: said.exists() and said.read_text() != "", 20)
        pid = int(said.read_text())
        assert runs(pid)
        process.kill()
        process.wait()
        wait_for(lambda: not runs(pid))
    finally:
        os.killpg(process.pid, signal.SIGKILL)


async def test_a_server_that_dies_says_why(make: Make):
    async with make() as server:
        assert server.failure() is None
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        with anyio.fail_after(10):
            while server.alive:  # noqa: ASYNC110 - the event is the kernel's
                await anyio.sleep(0.02)
        assert "ran out of memory" in (server.failure() or "")


@pytest.mark.parametrize(
    ("act", "words"),
    [
        ("E ggml_aligned_malloc: insufficient memory (attempted to allocate 596.53 MB)", "ran out of memory"),
        ("kill", "ran out of memory"),
        ("E model is corrupted or incomplete", "are damaged: delete .*tiny.gguf and run `nightcrew model fetch`"),
        ("E something else", r"could not start|ended with code 1.*Failed to init server.*embedded.log"),
    ],
)
async def test_a_start_that_fails_says_what_to_do(make: Make, act: str, words: str):
    with pytest.raises(EmbeddedError, match=words):
        await make(act).__aenter__()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("No module named 'xllamacpp'", r"not installed: pip install 'nightcrew\[embedded\]'"),
        ("libgomp.so.1: cannot open shared object file: No such file or directory", "apt install libgomp1"),
        ("GLIBC_2.99 not found", "cannot be loaded.*GLIBC_2.99"),
    ],
)
async def test_a_missing_library_is_named(make: Make, tmp_path: Path, error: str, words: str):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "xllamacpp.py").write_text(f"raise ImportError({error!r})\n")
    with pytest.raises(EmbeddedError, match=words):
        await make(library=tmp_path / "broken").__aenter__()


async def test_what_an_earlier_start_logged_is_not_this_ones_reason(make: Make, tmp_path: Path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "embedded.log").write_text("E insufficient memory\n")
    with pytest.raises(EmbeddedError, match="Failed to init server"):
        await make("E something else").__aenter__()


async def test_a_start_that_takes_too_long_ends(make: Make):
    server, begun = make("hang", ready_seconds=1.0), time.monotonic()
    with pytest.raises(EmbeddedError, match=r"not ready after 1 s; its log is .*embedded\.log"):
        await server.__aenter__()
    assert not server.alive
    assert time.monotonic() - begun < 4, "a child that is still loading is not waited for"


async def test_too_little_memory_is_said_before_it_starts(tmp_path: Path):
    server = EmbeddedServer(tmp_path / "w", tmp_path / "log", needs_bytes=10**18)
    with pytest.raises(EmbeddedError, match=r"needs 1000000000\.0 GB of memory"):
        await server.__aenter__()
    assert server.pid is None


async def test_a_log_has_a_limit_and_an_old_one_is_set_aside(make: Make, tmp_path: Path):
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "embedded.log").write_text("old\n" * 300_000)
    async with make("chatter") as server:
        assert await settings_of(server)
    assert (logs / "embedded.log").stat().st_size == LOG_BYTES
    assert (logs / "embedded.log.1").read_text().startswith("old")


@pytest.mark.parametrize(
    ("cores", "load", "threads"),
    [(2, 0.0, (1, 2)), (2, 4.0, (1, 2)), (1, 0.0, (1, 1)), (0.5, 0.0, (1, 1)), (8, 0.2, (3, 8)), (64, 1.0, (4, 8))],
)
def test_a_prompt_takes_every_core_and_a_reply_half_of_the_free_ones(cores, load, threads):
    assert thread_counts(cores, load) == threads


def test_a_quota_of_the_control_group_counts(tmp_path: Path):
    (tmp_path / "a.slice" / "b.service").mkdir(parents=True)
    (tmp_path / "own").write_text("0::/a.slice/b.service\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "a.slice" / "cpu.max").write_text("50000 100000\n")
    assert usable_cores(tmp_path, tmp_path / "own") == 0.5
    assert usable_cores(tmp_path / "nothing", tmp_path / "nothing") == len(os.sched_getaffinity(0))


@pytest.mark.weights
@pytest.mark.timeout(240)
async def test_the_real_model_fills_in_a_line_and_chooses_by_schema(request: pytest.FixtureRequest, tmp_path: Path):
    if "weights" not in request.config.option.markexpr:
        pytest.skip("run with -m weights")
    weights = present(models_dir(environment()))
    if weights is None:
        pytest.skip("nightcrew model fetch")
    body = "def total(values):\n    result = 0\n    for value in values:\n"
    prompt = f"<|fim_prefix|>{body}<|fim_suffix|>    return result\n<|fim_middle|>"
    schema = {"type": "object", "properties": {"file": {"enum": ["cart.py", "fonts.py"]}}, "required": ["file"]}
    form = {"type": "json_schema", "json_schema": {"name": "choice", "schema": schema}}
    question = [{"role": "user", "content": "The cart's total is wrong. Which of cart.py and fonts.py? JSON."}]
    async with EmbeddedServer(weights, tmp_path / "log") as server:
        headers = {"Authorization": f"Bearer {server.api_key}"}
        async with httpx2.AsyncClient(base_url=server.base_url, headers=headers, timeout=200) as client:
            ask = {"prompt": prompt, "max_tokens": 48, "temperature": 0, "stop": ["\n"]}
            first = (await client.post("/completions", json=ask)).json()
            again = (await client.post("/completions", json=ask)).json()
            chat = {"messages": question, "max_tokens": 40, "temperature": 0, "response_format": form}
            choice = (await client.post("/chat/completions", json=chat)).json()
    assert first["choices"][0]["text"] == "        result += value"
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert '"cart.py"' in choice["choices"][0]["message"]["content"]
