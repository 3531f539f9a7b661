"""A crew's servers as real processes: started in order, warmed up, started again, stopped. Only sglang is a fake."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from fakes.manager import Manager
from nightcrew.config import Config, ServingSettings
from nightcrew.crew.files import load
from nightcrew.crew.planning import plan_crew
from nightcrew.errors import ServingError
from nightcrew.serving import memory
from nightcrew.serving.assembly import find_weights, keepers, least_free_gib, read_cards, retuned
from nightcrew.serving.gpus import Card, NoNvml
from nightcrew.serving.keeper import Event, Times
from nightcrew.serving.plan import Gpu, ServerPlan
from nightcrew.serving.probe import hit_rate, read_metrics
from nightcrew.serving.serverlog import ServerLog
from nightcrew.serving.supervise import Supervisor, await_ready

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]

FAKES = Path(__file__).parents[1] / "fakes"
NOBODY = {"HOME": "/nonexistent"}
QUICK = Times(ready=10, poll=0.02, watch=0.05, stop=5, steady=600, first_pause=0.05)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def runs(pid: int) -> bool:
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


class Stage:
    """A trio planned for a large card, with free ports and fake weights."""

    def __init__(self, folder: Path) -> None:
        plan = plan_crew(load("trio", NOBODY), [Gpu(id=0, total_gib=94.97)])
        self.servers = tuple(one.model_copy(update={"port": free_port()}) for one in plan.servers)
        self.events: list[Event] = []
        self.folder = folder
        self.config = Config(
            home=folder / "home",
            serving=ServingSettings(
                python=Path(sys.executable),
                env={"PYTHONPATH": str(FAKES)},
                models={one.checkpoint.hf_id: self.weights(one) for one in self.servers},
            ),
        )

    def weights(self, server: ServerPlan) -> Path:
        path = self.folder / server.key
        path.mkdir(exist_ok=True)
        return path

    def act(self, server: ServerPlan, **act: object) -> None:
        (self.weights(server) / "act.json").write_text(json.dumps(act))

    def notes(self, server: ServerPlan) -> list[dict[str, Any]]:
        file = self.weights(server) / "requests.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def noted(self, server: ServerPlan, what: str) -> list[dict[str, Any]]:
        return [note for note in self.notes(server) if note["what"] == what]

    def supervisor(self, *servers: ServerPlan, cards: Callable[[], list[Card]] = list, **times: float) -> Supervisor:
        kept = keepers(
            servers or self.servers,
            self.config,
            os.environ,
            tell=self.events.append,
            read_cards=cards,
            times=Times(**{**vars(QUICK), **times}),
        )
        return Supervisor(kept, on_up=lambda: self.events.append(Event("", "serving", "all")))

    def told(self, server: ServerPlan, kind: str) -> list[Event]:
        return [event for event in self.events if (event.server, event.kind) == (server.key, kind)]

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(15):
            while not condition():  # noqa: ASYNC110 - what another process does sets no event
                await anyio.sleep(0.02)

    async def run(self, supervisor: Supervisor, until: Callable[[], bool]) -> None:
        """Run it, wait for something, stop it."""
        async with anyio.create_task_group() as group:
            group.start_soon(supervisor.run)
            await self.until(until)
            supervisor.stop()

    @property
    def all_up(self) -> bool:
        return any(event.text == "all" for event in self.events)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


async def test_servers_start_one_after_the_other_each_after_the_longest_prompt_of_the_one_before(stage: Stage):
    await stage.run(stage.supervisor(), lambda: stage.all_up)
    first, second, third = stage.servers
    for before, after in ((first, second), (second, third)):
        [warm] = stage.noted(before, "/generate")
        assert stage.noted(after, "starts")[0]["at"] > warm["at"]
    for server in stage.servers:
        [warm] = stage.noted(server, "/generate")
        assert warm["tokens"] == min(server.context_length, server.max_total_tokens) - 7
        # Nothing of it stays in the cache.
        assert stage.notes(server)[2]["what"] == "/flush_cache"
        assert "context" in stage.told(server, "serving")[0].text
    phases = [event.text for event in stage.told(first, "phase")]
    assert phases == ["loading weights", "answering"]


async def test_they_stop_in_the_reverse_order_by_their_own_hand(stage: Stage):
    await stage.run(stage.supervisor(), lambda: stage.all_up)
    ends = [stage.noted(server, "ends")[0]["at"] for server in stage.servers]
    assert ends == sorted(ends, reverse=True)
    assert all(not runs(stage.notes(server)[0]["pid"]) for server in stage.servers)


async def test_a_server_that_ends_is_started_again_and_the_others_go_on(stage: Stage):
    steady, shaky = stage.servers[:2]
    stage.act(shaky, lives=1)
    await stage.run(stage.supervisor(steady, shaky), lambda: len(stage.told(shaky, "serving")) == 2)
    assert len(stage.noted(shaky, "starts")) == 2
    assert len(stage.noted(steady, "starts")) == 1
    assert "ended with code 7" in stage.told(shaky, "trouble")[0].text


async def test_a_crash_loop_is_given_up_with_its_reason(stage: Stage):
    server = stage.servers[0]
    stage.act(server, log=["RuntimeError: the moon is full"], exit=3)
    with pytest.raises(ServingError, match=r"ended 4 times in a row.*code 3.*moon is full.*log: .*\.log"):
        await stage.supervisor(server).run()
    pauses = [event.text.rpartition(" in ")[2] for event in stage.told(server, "trouble")]
    assert len(pauses) == 3
    assert len(stage.noted(server, "starts")) == 4


@pytest.mark.parametrize("log", ["unknown-flag", "missing-weights", "gpu-memory", "old-driver"])
async def test_what_a_restart_cannot_mend_ends_everything_at_once(stage: Stage, log: str):
    good, bad = stage.servers[:2]
    lines = (FAKES / "sglang_logs" / f"{log}.log").read_text().splitlines()
    stage.act(bad, log=lines, exit=1)
    with pytest.raises(ServingError, match=bad.key):
        await stage.supervisor(good, bad).run()
    assert len(stage.noted(bad, "starts")) == 1
    assert stage.noted(good, "ends")


async def test_a_server_that_neither_serves_nor_ends_on_a_taken_port_is_recognised_by_its_log(stage: Stage):
    server = stage.servers[0]
    stage.act(server, log=(FAKES / "sglang_logs" / "port-taken.log").read_text().splitlines(), hang=True)
    with pytest.raises(ServingError, match="port 31206 is taken by another program"):
        await stage.supervisor(server, ready=25).run()


async def test_a_taken_port_is_said_before_anything_is_loaded(stage: Stage):
    server = stage.servers[0]
    with socket.socket() as other:
        other.bind(("127.0.0.1", server.port))
        other.listen()
        with pytest.raises(ServingError, match=rf"port {server.port} is taken"):
            await stage.supervisor(server).run()
    assert not stage.notes(server)


async def test_a_server_that_is_never_ready_is_said_to_be_stuck(stage: Stage):
    server = stage.servers[0]
    stage.act(server, log=["[t] Load weight begin."], hang=True)
    with pytest.raises(ServingError, match=r"not ready after 0 s \(last: loading weights\)"):
        await stage.supervisor(server, ready=0.3, first_pause=0.01).run()


async def test_less_cache_than_planned_is_told(stage: Stage):
    server = stage.servers[0]
    stage.act(server, pool=5000)
    await stage.run(stage.supervisor(server), lambda: stage.all_up)
    [event] = stage.told(server, "serving")
    assert event.text.endswith(f"planned were {server.max_total_tokens:,} tokens")
    assert stage.noted(server, "/generate")[0]["tokens"] == 4993


async def test_a_deaf_server_is_killed_with_its_children(stage: Stage):
    server = stage.servers[0]
    stage.act(server, deaf=True)
    await stage.run(stage.supervisor(server, stop=0.2), lambda: stage.all_up)
    assert stage.noted(server, "heard SIGTERM")
    pids = [stage.notes(server)[0]["pid"], stage.noted(server, "child")[0]["child"]]
    wait_for(lambda: not any(runs(pid) for pid in pids))


async def test_load_is_told_from_the_metrics(stage: Stage):
    server = stage.servers[0]
    await stage.run(stage.supervisor(server), lambda: bool(stage.told(server, "load")))
    assert stage.told(server, "load")[0].text == (
        "2 running, 0 waiting, KV cache 0 % full, 75 % of prompt tokens cached"
    )


async def test_two_supervisors_start_their_servers_one_after_the_other(stage: Stage):
    """As two units of systemd do."""
    first, second = stage.servers[:2]
    one, two = stage.supervisor(first), stage.supervisor(second)
    async with anyio.create_task_group() as group:
        group.start_soon(one.run)
        group.start_soon(two.run)
        await stage.until(lambda: bool(stage.told(first, "serving") and stage.told(second, "serving")))
        one.stop()
        two.stop()
    starts = {server.key: stage.noted(server, "starts")[0]["at"] for server in (first, second)}
    warm = {server.key: stage.noted(server, "/flush_cache")[0]["at"] for server in (first, second)}
    early, late = sorted(starts, key=lambda key: starts[key])
    assert warm[early] < starts[late]


async def test_servers_that_others_start_are_waited_for(stage: Stage):
    server = stage.servers[0]
    address = f"http://127.0.0.1:{server.port}"
    assert await await_ready([address], seconds=0.1, poll=0.02) == [address]
    supervisor = stage.supervisor(server)
    async with anyio.create_task_group() as group:
        group.start_soon(supervisor.run)
        assert await await_ready([address], seconds=10, poll=0.02) == []
        supervisor.stop()


def one_server(stage: Stage, server: ServerPlan) -> Path:
    """The configuration file of a crew `one` with this server alone."""
    config = stage.folder / "config.toml"
    config.write_text(
        f'home = "{stage.config.home}"\n[serving]\npython = "{sys.executable}"\nenv = {{PYTHONPATH = "{FAKES}"}}\n'
        f'[serving.models]\n"{server.checkpoint.hf_id}" = "{stage.weights(server)}"\n'
    )
    crews = stage.folder / "crews"
    crews.mkdir()
    (crews / "one.toml").write_text(
        f'[roles.planner]\nmodel = "{server.card.hf_id}"\n[servers."{server.card.hf_id}"]\nport = {server.port}\n'
    )
    return config


def test_servers_die_with_a_supervisor_that_is_killed(stage: Stage):
    server = stage.servers[0]
    command = [sys.executable, "-m", "nightcrew", "crew", "serve", "one", "--gpu-gib", "80", "--json"]
    environ = {**os.environ, "NIGHTCREW_CONFIG": str(one_server(stage, server))}
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout is not None
        assert any(json.loads(line)["kind"] == "up" for line in process.stdout)
        pid = stage.notes(server)[0]["pid"]
        assert runs(pid)
    finally:
        process.kill()
        process.wait()
        process.stdout and process.stdout.close()
    wait_for(lambda: not runs(pid))


def test_a_service_manager_hears_that_it_is_ready_after_the_longest_prompt_and_that_it_stops(stage: Stage):
    """As `nightcrew-model@one.SERVER.service`."""
    server = stage.servers[0]
    line = [sys.executable, "-m", "nightcrew", "crew", "serve", f"one.{server.key}", "--gpu-gib", "80"]
    with Manager(stage.folder) as manager:
        environ = {**os.environ, "NIGHTCREW_CONFIG": str(one_server(stage, server)), **manager.environ()}
        process = subprocess.Popen(line, env=environ, stderr=subprocess.PIPE, text=True)
        try:
            wait_for(lambda: "READY=1" in manager.said(), 20)
            assert stage.noted(server, "/flush_cache")
            assert any(said.startswith(f"STATUS={server.key}: serves") for said in manager.said())
            process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.communicate()
        assert "STOPPING=1" in manager.said()
    assert stage.noted(server, "ends")


def test_weights_that_are_not_here_are_named_before_anything_starts(stage: Stage):
    config = stage.config.model_copy(update={"serving": ServingSettings()})
    with pytest.raises(ServingError, match=r"RedHatAI/Devstral-Small-2507-FP8-Dynamic, .*crew pull"):
        keepers(stage.servers, config, NOBODY, tell=lambda _: None, read_cards=list)


def test_weights_are_found_in_the_hubs_cache(tmp_path: Path):
    repository = tmp_path / "hub" / "models--Qwen--Qwen3-32B-AWQ"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc123")
    config, environ = Config(home=tmp_path), {"HF_HOME": str(tmp_path)}
    assert find_weights("Qwen/Qwen3-32B-AWQ", config, environ) is None
    (repository / "snapshots" / "abc123").mkdir(parents=True)
    assert find_weights("Qwen/Qwen3-32B-AWQ", config, environ) == repository / "snapshots" / "abc123"


def test_weights_that_were_cut_off_are_seen_before_anything_starts(stage: Stage, tmp_path: Path):
    server = stage.servers[0]
    repository = tmp_path / f"models--{server.checkpoint.hf_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors").write_bytes(b"\x10")
    config = stage.config.model_copy(update={"serving": ServingSettings()})
    with pytest.raises(ServingError, match=r"not whole: .*crew pull"):
        keepers([server], config, {"HF_HUB_CACHE": str(tmp_path)}, tell=lambda _: None, read_cards=list)


def test_a_restart_beside_the_others_gets_the_same_cache_from_what_is_free_then(stage: Stage):
    for server in stage.servers:
        sums = server.arithmetic
        needed = sums.context_gib + sums.weights_gib + sums.kv_gib + memory.SAFETY_GIB
        for free in (needed + 0.5, needed + 3, sums.free_at_start_gib):
            fraction = retuned(server, free).mem_fraction_static
            found = memory.profiled_kv_gib(
                fraction=fraction, weights_gib=sums.weights_gib, free_gib=free - sums.context_gib
            )
            assert memory.tokens_in(found, sums.kv_bytes_per_token) >= server.max_total_tokens
        with pytest.raises(ServingError, match=r"needs .* GiB of card 0, of which 5\.0 are free"):
            retuned(server, 5.0)
        assert retuned(server, None) == server


def test_what_is_free_is_that_of_the_fullest_card():
    cards = [Card(0, "x", 95.0, 60.0, "12.0"), Card(1, "x", 95.0, 40.0, "12.0")]
    assert least_free_gib(cards, [0, 1]) == 40.0
    assert least_free_gib(cards, [0]) == 60.0
    assert least_free_gib(cards, [0, 2]) is None


def test_metrics_are_summed_over_their_labels():
    text = (
        "# HELP sglang:cached_tokens_total x\n"
        'sglang:cached_tokens_total{cache_source="device",model="m"} 3000.0\n'
        'sglang:cached_tokens_total{cache_source="host"} 1e3\nsglang:prompt_tokens_total{a="b"} 8000\n'
        "sglang:token_usage NaN\nsglang:gen_throughput 5\n"
    )
    metrics = read_metrics(text)
    assert metrics == {"cached_tokens_total": 4000.0, "prompt_tokens_total": 8000.0}
    assert hit_rate(metrics) == 0.5
    assert hit_rate({}) is None


def test_requests_are_not_counted_twice_where_each_priority_is_told_beside_the_total():
    """As SGLang 0.5.23 writes them with --enable-priority-scheduling."""
    text = (
        'sglang:num_running_reqs{model_name="m",priority=""} 2.0\n'
        'sglang:num_running_reqs{model_name="m",priority="30"} 2.0\n'
        'sglang:prompt_tokens_total{model_name="m",priority="30"} 100.0\n'
        'sglang:prompt_tokens_total{model_name="m",priority="0"} 50.0\n'
    )
    assert read_metrics(text) == {"num_running_reqs": 2.0, "prompt_tokens_total": 150.0}


def test_a_log_does_not_grow_for_ever_and_nobody_else_can_read_it(tmp_path: Path):
    log = ServerLog(tmp_path / "x.log", file_bytes=1000)
    for number in range(60):
        log.take(f"line {number:02} {'x' * 90}\n".encode())
    log.close()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["x.log", "x.log.1", "x.log.2", "x.log.3"]
    assert all(path.stat().st_size <= 1000 and path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())
    assert "line 59" in (tmp_path / "x.log").read_text()
    assert "line 59" in log.tail


def test_lines_are_given_out_whole_however_they_arrive(tmp_path: Path):
    log = ServerLog(tmp_path / "x.log")
    assert log.take(b"one\ntw") == ["one"]
    assert log.take(b"o\r 10%\r 20%\nthr") == ["two", " 10%", " 20%"]
    log.close()


def command(stage: Stage, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    there = {**os.environ, "NIGHTCREW_HOME": str(stage.folder), "NIGHTCREW_CONFIG": "", **environ}
    line = [sys.executable, "-m", "nightcrew", "crew", "serve", *arguments]
    return subprocess.run(line, env=there, capture_output=True, text=True, timeout=20, check=False)


def test_a_dry_run_prints_the_commands_in_order_and_starts_nothing(stage: Stage):
    done = command(stage, "trio", "--gpu-gib", "94.97", "--dry-run", "--json")
    said = json.loads(done.stdout)
    assert [one["server"] for one in said] == [server.key for server in stage.servers]
    assert all(one["argv"][1:3] == ["-m", "sglang.launch_server"] for one in said)
    assert all(one["env"]["CUDA_VISIBLE_DEVICES"] == "0" for one in said)
    alone = command(stage, "trio.qwen3-32b", "--gpu-gib", "94.97", "--dry-run", "--json")
    assert [one["server"] for one in json.loads(alone.stdout)] == ["qwen3-32b"]


def test_a_crew_that_does_not_fit_is_not_started(stage: Stage):
    done = command(stage, "trio", "--gpu-gib", "24")
    assert done.returncode == 1
    assert "does not fit" in done.stderr


def test_without_a_driver_it_says_so_and_how_to_plan_all_the_same(monkeypatch: pytest.MonkeyPatch):
    def nothing() -> None:
        raise NoNvml("there is no NVIDIA driver")

    monkeypatch.setattr("nightcrew.serving.assembly.read_machine", nothing)
    with pytest.raises(ServingError, match=r"no NVIDIA driver: install NVIDIA's driver, or plan by --gpu-gib"):
        read_cards()


def test_a_server_that_the_crew_does_not_have_is_named_with_those_it_has(stage: Stage):
    done = command(stage, "trio", "--gpu-gib", "94.97", "--only", "nobody")
    assert done.returncode == 2
    assert "qwen3-32b" in done.stderr
