"""`nightcrew doctor` and `nightcrew model`: what they find, and what they advise."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from fakes.scripted_server import spawned
from nightcrew.cli.main import main
from nightcrew.cli.models import Meter
from nightcrew.journal.locks import ServiceLock
from nightcrew.llm import discovery
from nightcrew.serving import weights
from nightcrew.serving.weights import Progress
from nightcrew_workspaces import cgroup, selftest
from nightcrew_workspaces.errors import BoxUnavailable

pytestmark = pytest.mark.timeout(30)

Cli = Callable[..., SimpleNamespace]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """The console entry on a machine where boxes work and nothing else is there."""
    monkeypatch.setenv("NIGHTCREW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NIGHTCREW_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("NIGHTCREW_MODELS", str(tmp_path / "models"))
    (tmp_path / "config.toml").touch()

    async def fine(_user: str | None = None) -> None:
        pass

    async def nobody() -> list[discovery.Found]:
        return []

    monkeypatch.setattr(selftest, "self_test", fine)
    monkeypatch.setattr(discovery, "discover", nobody)

    def run(*arguments: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["nightcrew", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code or 0, out=captured.out, err=captured.err)

    return run


def examined(cli: Cli) -> tuple[int, dict[str, list[dict[str, str]]]]:
    shown = cli("doctor", "--json")
    report = json.loads(shown.out)
    assert report["ok"] == (shown.code == 0)
    checks: dict[str, list[dict[str, str]]] = {}
    for check in report["checks"]:
        checks.setdefault(check["name"], []).append(check)
    return shown.code, checks


def configure(tmp_path: Path, *, url: str, crew: str = "mine", model: str = "scripted") -> None:
    text = f'crew = "{crew}"\n' if crew else ""
    text += f'[crews.mine.planner]\nbase_url = "{url}"\nmodel = "{model}"\n'
    (tmp_path / "config.toml").write_text(text)


def test_a_machine_without_a_model_cannot_run_tasks_and_is_told_what_to_do(cli: Cli) -> None:
    code, checks = examined(cli)
    assert code == 1
    assert [check["level"] for check in checks["endpoint"]] == ["warn", "fail"]
    assert "nightcrew model fetch" in checks["endpoint"][1]["fix"]
    assert checks["embedded"][0]["level"] == "warn"


def test_a_configured_endpoint_that_answers_is_enough(cli: Cli, tmp_path: Path) -> None:
    with spawned({"models": ["scripted"], "rules": []}) as server:
        configure(tmp_path, url=server.url)
        code, checks = examined(cli)
    assert code == 0
    assert [(check["level"], check["text"]) for check in checks["crew"]] == [
        ("ok", f"mine: planner: {server.url}: scripted")
    ]


def test_a_default_crew_that_is_down_fails_and_another_one_only_warns(cli: Cli, tmp_path: Path) -> None:
    configure(tmp_path, url="http://127.0.0.1:9/v1")
    code, checks = examined(cli)
    assert (code, checks["crew"][0]["level"]) == (1, "fail")
    configure(tmp_path, url="http://127.0.0.1:9/v1", crew="")
    assert examined(cli)[1]["crew"][0]["level"] == "warn"


def test_a_model_that_the_endpoint_does_not_have_is_named(cli: Cli, tmp_path: Path) -> None:
    with spawned({"models": ["scripted"], "rules": []}) as server:
        configure(tmp_path, url=server.url, model="qwen9")
        code, checks = examined(cli)
    assert code == 1
    assert "has no model 'qwen9'; it has scripted" in checks["crew"][0]["text"]


def test_a_key_in_a_url_is_not_printed(cli: Cli, tmp_path: Path) -> None:
    configure(tmp_path, url="http://me:hunter2@127.0.0.1:9/v1")
    shown = cli("doctor")
    assert "hunter2" not in shown.out + shown.err


def test_the_embedded_model_is_enough_when_it_is_whole(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "xllamacpp" else found(name))
    monkeypatch.setattr(weights, "present", lambda folder: folder / "model.gguf")
    monkeypatch.setattr("nightcrew.serving.embedded.available_memory", lambda: 8 * 10**9)
    code, checks = examined(cli)
    assert (code, checks["embedded"][0]["level"]) == (0, "ok")
    monkeypatch.setattr("nightcrew.serving.embedded.available_memory", lambda: 10**9)
    code, checks = examined(cli)
    assert code == 1 and "1.0 GB of memory" in checks["embedded"][0]["text"]


def test_what_holds_boxes_to_their_limits_is_said_and_why(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "available", lambda: cgroup.Undelegated("it is not ours", "Say Delegate=yes."))
    (line,) = examined(cli)[1]["limits"]
    assert (line["level"], line["text"]) == ("ok", "held by watching /proc: it is not ours")
    (tmp_path / "config.toml").write_text("[box]\ncpus = 2\n")
    (line,) = examined(cli)[1]["limits"]
    assert (line["level"], line["fix"]) == ("warn", "Say Delegate=yes.")
    assert "`box.cpus` is not held" in line["text"]
    monkeypatch.setattr(cgroup, "available", lambda: cgroup.Groups(Path("/sys/fs/cgroup/app/nightcrew-boxes")))
    (line,) = examined(cli)[1]["limits"]
    assert (line["level"], line["text"]) == (
        "ok",
        "held by the kernel: a control group for each box in /sys/fs/cgroup/app/nightcrew-boxes",
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="boxes run as the same user, who reaches his own directories")
def test_a_toolchain_that_boxes_cannot_reach_is_named(
    cli: Cli, tmp_path: Path, open_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (open_tmp / ".rustup/toolchains/mine/bin").mkdir(parents=True)
    (open_tmp / ".rustup/settings.toml").write_text('default_toolchain = "mine"\n')
    monkeypatch.setenv("HOME", str(open_tmp))
    monkeypatch.delenv("RUSTUP_HOME", raising=False)
    assert f"rust ({open_tmp}/.rustup/toolchains/mine)" in examined(cli)[1]["toolchains"][0]["text"]
    (open_tmp / ".rustup").chmod(0o700)
    missed = examined(cli)[1]["toolchains"][1]
    assert missed["level"] == "warn"
    assert f"cannot enter {open_tmp}/.rustup" in missed["text"]
    (tmp_path / "config.toml").write_text("[box]\ntoolchains = false\n")
    assert [line["text"] for line in examined(cli)[1]["toolchains"]] == ["those in /usr"]


def test_a_box_that_does_not_confine_fails_with_its_remedy(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_user: str | None = None) -> None:
        raise BoxUnavailable("/usr/bin/bwrap is not there", "Install it (Debian: apt-get install bubblewrap).")

    monkeypatch.setattr(selftest, "self_test", broken)
    code, checks = examined(cli)
    assert code == 1
    assert (checks["box"][0]["level"], checks["box"][0]["fix"]) == (
        "fail",
        "Install it (Debian: apt-get install bubblewrap).",
    )
    assert "→ Install it" in cli("doctor").out


def test_a_wrong_configuration_is_the_first_thing_to_correct(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("box = 3\n")
    code, checks = examined(cli)
    assert code == 1
    assert checks["config"][0]["level"] == "fail" and "config.toml" in checks["config"][0]["text"]
    assert "box" not in checks


def test_a_default_crew_that_nobody_defined_fails(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('crew = "nobody"\n')
    code, checks = examined(cli)
    assert code == 1 and "no crew is called 'nobody'" in checks["crew"][0]["text"]


def test_the_endpoints_of_a_default_crew_that_is_built_in_are_asked(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('crew = "mine"\n')
    (tmp_path / "crews").mkdir()
    (tmp_path / "crews/mine.toml").write_text(
        'extends = "duo"\n[servers."Qwen/Qwen3-32B"]\nport = 1\n[servers."mistralai/Devstral-Small-2507"]\nport = 2\n'
    )
    code, checks = examined(cli)
    assert code == 1
    assert [line["text"].split(": ")[:2] for line in checks["crew"]] == [["mine", "planner"], ["mine", "executor"]]
    (tmp_path / "crews/mine.toml").write_text("about = 3\n")
    assert "about: " in examined(cli)[1]["crew"][0]["text"]


def test_a_damaged_journal_fails(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/journal.sqlite").write_bytes(b"not a database, not at all" * 100)
    code, checks = examined(cli)
    assert code == 1 and checks["journal"][0]["level"] == "fail"


def test_looking_makes_nothing(cli: Cli, tmp_path: Path) -> None:
    cli("doctor")
    assert not (tmp_path / "home").exists() and not (tmp_path / "models").exists()


def test_a_running_service_is_seen(cli: Cli, tmp_path: Path) -> None:
    with ServiceLock(tmp_path / "home"):
        assert "running, process" in examined(cli)[1]["service"][0]["text"]
    assert "not running" in examined(cli)[1]["service"][0]["text"]


# --- model


def test_weights_that_are_not_there_have_no_path(cli: Cli, tmp_path: Path) -> None:
    shown = cli("model", "path")
    assert (shown.code, shown.out) == (1, "") and str(tmp_path / "models") in shown.err
    assert json.loads(cli("model", "path", "--json").out)["present"] is False


def test_verifying_what_is_not_there_says_how_to_get_it(cli: Cli) -> None:
    shown = cli("model", "verify")
    assert shown.code == 1 and "nightcrew model fetch" in shown.err


def test_verifying_what_is_not_the_model_says_so(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / weights.EMBEDDED_WEIGHTS.file).write_text("hello")
    shown = cli("model", "verify")
    assert shown.code == 1 and "it has 5 bytes instead of" in shown.err


def test_a_named_source_that_is_wrong_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "other.gguf").write_text("hello")
    shown = cli("model", "fetch", "--from", tmp_path / "other.gguf")
    assert shown.code == 1
    assert "could not be fetched" in shown.err and shown.out == ""


def test_a_fetch_in_a_log_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    meter = Meter()
    for done in range(0, 1000, 10):
        meter.show(Progress("fetching", "the hub", done, 1000, 100.0))
    meter.show(Progress("checking", "the hub", 1000, 1000, 0.0))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("  0 % of 0 MB from the hub, 0.0 MB/s, 10 s left")


def test_a_fetch_that_has_only_begun_promises_no_end(capsys: pytest.CaptureFixture[str]) -> None:
    Meter().show(Progress("fetching", "the hub", 64, 1_100_000_000, 64.0))
    assert capsys.readouterr().err == "  0 % of 1,100 MB from the hub\n"


def test_the_hosts_that_tasks_may_ask_for_are_shown(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert "boxes have none" in examined(cli)[1]["network"][0]["text"]
    config = tmp_path / "config.toml"
    config.write_text('[network]\nallow = ["npm", "mirror.lan:8080"]\nprivate = ["10.1.0.0/16"]\n')
    (check,) = examined(cli)[1]["network"]
    assert check["level"] == "ok"
    assert "registry.npmjs.org, mirror.lan:8080; also at 10.1.0.0/16" in check["text"]
    monkeypatch.setenv("https_proxy", "http://me:secret@proxy.example:3128")
    (check,) = examined(cli)[1]["network"]
    assert check["level"] == "warn"
    assert 'proxy = "environment"' in check["fix"]
    config.write_text('[network]\nallow = ["npm"]\nproxy = "environment"\n')
    (check,) = examined(cli)[1]["network"]
    assert check["level"] == "ok"
    assert "by the proxy proxy.example:3128" in check["text"]
    assert "secret" not in check["text"]
    monkeypatch.delenv("https_proxy")
    assert examined(cli)[1]["network"][0]["level"] == "fail"
