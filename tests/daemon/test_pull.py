"""`nightcrew crew pull`: weights from the hub by its own client, from mirrors, and what goes wrong on the way."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import SecretStr

from fakes.hub import FakeHub, commit, model, safetensors
from nightcrew.cli.main import main
from nightcrew.config import Config, hub_dir, hub_endpoint, hub_token
from nightcrew.errors import PullError
from nightcrew.serving import pull as pulling
from nightcrew.serving.assembly import find_weights
from nightcrew.serving.hub import Hub
from nightcrew.serving.pull import check_room, jobs_from, jobs_of, pull
from nightcrew.serving.snapshots import File, matches, needed
from nightcrew.serving.weights import Progress

pytestmark = pytest.mark.timeout(30)

NAME = "Qwen/Qwen3-32B-FP8"
SHARD = "model-00001-of-00002.safetensors"
BIG = 25_000_000


def fetched(
    hub: FakeHub, directory: Path, *repos: str, tell: Callable[[Progress], None] = lambda _: None, token=""
) -> Path:
    client = Hub(hub.url, SecretStr(token) if token else None)
    paths = pull(jobs_of(repos or (NAME,), directory, client.look), directory, client.fetch, tell)
    return paths[(repos or (NAME,))[0]]


def test_what_serving_needs_comes_and_nothing_else(tmp_path: Path) -> None:
    repo = model(shards=2)
    seen: list[Progress] = []
    with FakeHub({NAME: repo}) as hub:
        directory = fetched(hub, tmp_path, tell=seen.append)
    assert sorted(file.name for file in directory.iterdir()) == [
        "config.json",
        SHARD,
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    ]
    assert all((directory / file.name).read_bytes() == repo[file.name] for file in directory.iterdir())
    assert directory == tmp_path / "models--Qwen--Qwen3-32B-FP8/snapshots" / commit(repo)
    assert find_weights(NAME, Config(home=tmp_path), {"HF_HUB_CACHE": str(tmp_path)}) == directory
    assert seen[-1].done == seen[-1].total == sum(len(repo[file.name]) for file in directory.iterdir())


def test_what_is_here_is_not_fetched_again(tmp_path: Path) -> None:
    with FakeHub({NAME: model()}) as hub:
        fetched(hub, tmp_path)
        asked = len(hub.requests)
        fetched(hub, tmp_path)
        assert len(hub.requests) == asked


def test_the_hubs_own_client_finds_what_was_pulled(tmp_path: Path) -> None:
    from huggingface_hub import snapshot_download

    with FakeHub({NAME: model()}) as hub:
        directory = fetched(hub, tmp_path)
    assert snapshot_download(NAME, cache_dir=tmp_path, local_files_only=True) == str(directory)


def test_a_connection_that_breaks_is_gone_on_with(tmp_path: Path) -> None:
    repo = model(shards=2, size=BIG)
    with FakeHub({NAME: repo}, cuts={SHARD: [15_000_000]}) as hub:
        directory = fetched(hub, tmp_path)
    ranges = [wanted for file, wanted in hub.requests if file == SHARD]
    assert ranges == [None, "bytes=10485760-"], "pieces are of 10 MiB"
    assert (directory / SHARD).read_bytes() == repo[SHARD]


class Killed(BaseException):
    pass


def test_a_pull_that_was_cut_off_goes_on_where_it_stopped(tmp_path: Path) -> None:
    repo = model(shards=1, size=30_000_000)
    (shard,) = (name for name in repo if name.endswith("safetensors"))
    with FakeHub({NAME: repo}) as hub:
        client = Hub(hub.url)
        (job,) = jobs_of([NAME], tmp_path, client.look)

        def killed(progress: Progress) -> None:
            if progress.done > 15_000_000:
                raise Killed

        old, pulling._TELL_SECONDS = pulling._TELL_SECONDS, 0.0
        try:
            with pytest.raises(Killed):
                pull([job], tmp_path, client.fetch, killed)
        finally:
            pulling._TELL_SECONDS = old
        assert find_weights(NAME, Config(home=tmp_path), {"HF_HUB_CACHE": str(tmp_path)}) is None
        assert 0 < job.bytes_to_come < 15_000_000
        hub.requests.clear()
        directory = fetched(hub, tmp_path)
    ((_, wanted),) = [request for request in hub.requests if request[0] == shard]
    assert wanted is not None and int(wanted.removeprefix("bytes=").rstrip("-")) > 14_000_000
    assert (directory / shard).read_bytes() == repo[shard]


def test_a_pull_that_was_killed_goes_on_where_it_stopped(tmp_path: Path) -> None:
    repos = [server["checkpoint"]["hf_id"] for server in planned(tmp_path)]
    weights = {repo: model(shards=1, size=30_000_000, tekken__json=b"{}") for repo in repos}
    shard = "model-00001-of-00001.safetensors"
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "NIGHTCREW_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "nightcrew", "crew", "pull", "trio", "--gpu-gib", "96"]
    with FakeHub(weights, holds={shard: 22_000_000}) as hub:
        environment |= {"HF_ENDPOINT": hub.url, "NIGHTCREW_CONFIG": str(tmp_path / "none.toml")}
        (tmp_path / "none.toml").touch()
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            until = time.monotonic() + 20
            while sum(file.stat().st_size for file in tmp_path.rglob("*.incomplete")) < 2 * 10 * 2**20:
                assert process.poll() is None and time.monotonic() < until
                time.sleep(0.05)
            process.kill()
        hub.released.set()
        hub.requests.clear()
        directory = fetched(hub, tmp_path / "hub", repos[0])
        assert [wanted for file, wanted in hub.requests if file == shard] == ["bytes=20971520-"]
        assert hub.strange == [], "nothing is told to the hub but what is wanted"
    assert (directory / shard).read_bytes() == weights[repos[0]][shard]


def planned(home: Path) -> list[dict]:
    """The servers of trio on a card of 96 GiB."""
    from nightcrew.crew.files import load
    from nightcrew.crew.planning import plan_crew
    from nightcrew.serving.plan import Gpu

    made = plan_crew(load("trio", {"HOME": str(home)}), [Gpu(id=0, total_gib=96)])
    return [server.model_dump(mode="json") for server in made.servers]


def test_what_is_not_what_the_hub_states_is_thrown_away(tmp_path: Path) -> None:
    repo = model()
    for file, content in repo.items():
        if file.endswith((".safetensors", "tokenizer.json")):
            lie = bytes([content[0] ^ 1]) + content[1:]
            own = tmp_path / file
            with (
                FakeHub({NAME: repo}, lies={file: lie}) as hub,
                pytest.raises(PullError, match="otherwise than the hub"),
            ):
                fetched(hub, own)
            with FakeHub({NAME: repo}) as hub:
                assert (fetched(hub, own) / file).read_bytes() == content


def test_a_model_behind_a_licence_says_where_to_accept_it(tmp_path: Path) -> None:
    with FakeHub({"google/gemma-3-27b-it": model()}, gated={"google/gemma-3-27b-it": "hf_good"}) as hub:
        with pytest.raises(PullError, match=rf"accept it at {hub.url}/google/gemma-3-27b-it, then set HF_TOKEN"):
            fetched(hub, tmp_path, "google/gemma-3-27b-it")
        with pytest.raises(PullError, match="has not accepted its licence") as caught:
            fetched(hub, tmp_path, "google/gemma-3-27b-it", token="hf_bad")
        assert "hf_bad" not in str(caught.value)
        assert fetched(hub, tmp_path, "google/gemma-3-27b-it", token="hf_good").is_dir()


def test_a_hub_that_has_it_not_or_is_not_there_is_told_apart(tmp_path: Path) -> None:
    with FakeHub({}) as hub, pytest.raises(PullError, match="has no Qwen/Qwen3-32B-FP8, or shows it only"):
        fetched(hub, tmp_path)
    with pytest.raises(PullError, match=r"127.0.0.1:9 cannot be reached .* by --from DIR"):
        jobs_of([NAME], tmp_path, Hub("http://127.0.0.1:9").look)


def test_room_is_seen_to_before_anything_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=2**30 + 1000))
    with FakeHub({NAME: model(size=900)}) as hub:
        client = Hub(hub.url)
        jobs = jobs_of([NAME], tmp_path / "hub", client.look)
        with pytest.raises(PullError, match=r"1\.0 GiB are needed at .*, 1\.0 are free"):
            pull(jobs, tmp_path / "hub", client.fetch, lambda _: None)
        assert hub.requests == []


def test_one_process_pulls_at_a_time_and_the_other_says_that_it_waits(tmp_path: Path) -> None:
    with FakeHub({NAME: model()}) as hub:
        client = Hub(hub.url)
        jobs = jobs_of([NAME], tmp_path, client.look)
        held = os.open(tmp_path / ".nightcrew.lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = threading.Event()
        second = threading.Thread(
            target=lambda: pull(jobs, tmp_path, client.fetch, lambda seen: seen.step == "waiting" and waiting.set())
        )
        second.start()
        assert waiting.wait(10)
        assert hub.requests == []
        os.close(held)
        second.join(10)
    assert not jobs[0].missing


# --- what is needed


def files(*names: str) -> list[File]:
    return [File(name, 1, "a" * 40) for name in names]


def test_mistrals_second_copy_of_the_weights_is_left_out() -> None:
    both = files("consolidated.safetensors", "model.safetensors", "params.json", "tekken.json", "config.json")
    assert [file.name for file in needed("x/y", both)] == [
        "config.json",
        "model.safetensors",
        "params.json",
        "tekken.json",
    ]
    alone = files("consolidated.safetensors", "params.json", "tekken.json")
    assert [file.name for file in needed("x/y", alone)] == ["consolidated.safetensors", "params.json", "tekken.json"]


def test_the_devstral_that_sglang_gives_another_tokenizer_gets_a_directory_with_its_own() -> None:
    name = "mistralai/Devstral-Small-2505"
    listed = files("config.json", "model.safetensors", "tekken.json", "tokenizer.json", "tokenizer_config.json")
    assert [file.name for file in needed(name, listed)] == ["config.json", "model.safetensors", "tekken.json"]
    assert len(needed("mistralai/Devstral-Small-2507", listed)) == 5
    with pytest.raises(PullError, match=r"no tekken\.json"):
        needed(name, files("config.json", "model.safetensors", "tokenizer.json"))


def test_a_repository_without_safetensors_is_refused() -> None:
    with pytest.raises(PullError, match="has no safetensors"):
        needed("x/y-GGUF", files("model.gguf", "pytorch_model.bin", "config.json"))


def test_small_files_are_known_by_gits_own_checksum(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"hello\n")
    assert matches(tmp_path / "f", File("f", 6, "ce013625030ba8dba906f756967f9e9ca394464a"))
    assert not matches(tmp_path / "f", File("f", 6, "ce013625030ba8dba906f756967f9e9ca394464b"))


# --- mirrors


def test_a_copy_of_the_hubs_cache_is_taken_and_checked(tmp_path: Path) -> None:
    usb, own = tmp_path / "usb", tmp_path / "own"
    repo = model(shards=2)
    with FakeHub({NAME: repo}) as hub:
        fetched(hub, usb / "hub")
    (job,) = jobs_from([NAME], own, usb)
    directory = pull([job], own, None, lambda _: None)[NAME]
    assert directory.name == commit(repo)
    assert (directory / SHARD).read_bytes() == repo[SHARD] and not (directory / SHARD).resolve().is_relative_to(usb)
    blob = (usb / "hub/models--Qwen--Qwen3-32B-FP8/snapshots" / commit(repo) / SHARD).resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"\xff")
    shutil.rmtree(own)
    with pytest.raises(PullError, match="is not what the hub's cache names it by"):
        pull(jobs_from([NAME], own, usb), own, None, lambda _: None)


@pytest.mark.parametrize("layout", ["Qwen/Qwen3-32B-FP8", "Qwen3-32B-FP8"])
def test_folders_of_a_mirror_are_copied_or_linked(tmp_path: Path, layout: str) -> None:
    folder = tmp_path / "usb" / layout
    folder.mkdir(parents=True)
    for name, content in model(shards=2).items():
        if "/" not in name:
            (folder / name).write_bytes(content)
    for link in (False, True):
        own = tmp_path / f"own-{link}"
        jobs = jobs_from([NAME], own, tmp_path / "usb")
        directory = pull(jobs, own, None, lambda _: None, link=link)[NAME]
        assert (directory / SHARD).resolve().is_relative_to(folder) == link
        assert find_weights(NAME, Config(home=tmp_path), {"HF_HUB_CACHE": str(own)}) == directory
        assert not (directory / "README.md").exists()


def test_a_mirror_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "usb" / NAME
    folder.mkdir(parents=True)
    with pytest.raises(PullError, match=r"has no x/y: a mirror is"):
        jobs_from(["x/y"], tmp_path, tmp_path / "usb")
    for said, name, content in (
        ("has no config.json", "tokenizer.json", b"{}"),
        ("has no safetensors", "config.json", b"{}"),
        (
            "lacks b.safetensors",
            "model.safetensors.index.json",
            json.dumps({"weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}).encode(),
        ),
        ("b.safetensors is no safetensors file", "b.safetensors", b"version https://git-lfs.github.com/spec/v1\n"),
        ("it is cut off", "b.safetensors", safetensors()[:-1]),
    ):
        (folder / "a.safetensors").write_bytes(safetensors()) if said.startswith("lacks") else None
        (folder / name).write_bytes(content)
        with pytest.raises(PullError, match=said):
            jobs_from([NAME], tmp_path, tmp_path / "usb")
    (folder / "b.safetensors").write_bytes(safetensors())
    assert jobs_from([NAME], tmp_path, tmp_path / "usb")
    check_room(jobs_from([NAME], tmp_path, tmp_path / "usb"), tmp_path)


# --- the command


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NIGHTCREW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NIGHTCREW_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    (tmp_path / "config.toml").touch()

    def run(*arguments: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["nightcrew", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code or 0, out=captured.out, err=captured.err)

    return run


def test_a_crew_is_pulled_as_it_is_planned(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = json.loads(cli("crew", "plan", "trio", "--gpu-gib", 96, "--json").out)
    repos = [server["checkpoint"]["hf_id"] for server in plan["servers"]]
    assert len(repos) == 3
    weights = {repo: model(shards=1, tekken__json=b"{}") for repo in repos}
    with FakeHub(weights) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        dry = cli("crew", "pull", "trio", "--gpu-gib", 96, "--dry-run")
        assert dry.code == 0 and hub.requests == []
        assert all(f"{repo}: 5 files" in dry.out for repo in repos)
        shown = json.loads(cli("crew", "pull", "trio", "--gpu-gib", 96, "--dry-run", "--json").out)
        assert [each["repo"] for each in shown] == repos and all(each["bytes_to_fetch"] > 0 for each in shown)
        done = cli("crew", "pull", "trio", "--gpu-gib", 96)
        assert done.code == 0 and all(f"from {repo}" in done.err for repo in repos)
        again = json.loads(cli("crew", "pull", "trio", "--gpu-gib", 96, "--json").out)
        assert [each["bytes_to_fetch"] for each in again] == [0, 0, 0]
        shard = next(Path(again[0]["path"]).glob("*.safetensors"))
        sound = shard.read_bytes()
        shard.resolve().write_bytes(sound[:-1] + b"\xff")
        assert cli("crew", "pull", "trio", "--gpu-gib", 96).code == 0 and shard.read_bytes() != sound
        shown = cli("crew", "pull", "trio", "--gpu-gib", 96, "--verify")
        assert f"{repos[0]}/{shard.name} is not what the hub states" in shown.err
        assert shown.code == 0 and shard.read_bytes() == sound
    served = cli("crew", "serve", "trio", "--gpu-gib", 96, "--dry-run")
    assert served.code == 0, served.err
    assert all(each["path"] in served.out for each in again)


def test_what_goes_wrong_is_one_sentence_and_exit_code_1(cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    shown = cli("crew", "pull", "duo", "--gpu-gib", 96)
    assert shown.code == 1 and "cannot be reached" in shown.err and "Traceback" not in shown.err
    assert cli("crew", "pull", "duo", "--gpu-gib", 96, "--link").code == 2
    assert "has no Qwen" in cli("crew", "pull", "duo", "--gpu-gib", 96, "--from", tmp_path).err


def test_the_environment_says_where_the_hub_is_and_who_asks(tmp_path: Path) -> None:
    assert hub_endpoint({}) == "https://huggingface.co" and hub_endpoint({"HF_ENDPOINT": "http://m/"}) == "http://m"
    assert hub_dir({"HOME": "/h"}) == Path("/h/.cache/huggingface/hub")
    assert hub_dir({"HF_HOME": "/x"}) == Path("/x/hub") and hub_dir({"HF_HUB_CACHE": "/y", "HF_HOME": "/x"}) == Path(
        "/y"
    )
    assert hub_token({"HOME": str(tmp_path)}) is None
    (tmp_path / "token").write_text("hf_file\n")
    assert hub_token({"HF_HOME": str(tmp_path)}) == SecretStr("hf_file")
    assert hub_token({"HF_HOME": str(tmp_path), "HF_TOKEN": "hf_env"}) == SecretStr("hf_env")
