"""`nightcrew crew route`: the router's command line, unit and crew file. integration/test_smg.py has the real smg."""

from __future__ import annotations

import json
import shlex
import sys
import tomllib
from configparser import ConfigParser
from pathlib import Path
from types import SimpleNamespace

import pytest

from nightcrew.cli.main import main
from nightcrew.crew.files import load
from nightcrew.errors import ConfigError
from nightcrew.serving.router import Route, worker_url, workers_of

pytestmark = pytest.mark.timeout(20)

WORKERS = ("http://10.0.0.5:30000", "http://10.0.0.6:30000")
MADE = Route("trio", WORKERS, "127.0.0.1", 30080, 29000)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("NIGHTCREW_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("NIGHTCREW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", "/nowhere")
    (tmp_path / "config.toml").touch()

    def run(*arguments: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["nightcrew", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code or 0, out=captured.out, err=captured.err)

    return run


def test_the_command_line_names_every_worker_and_routes_by_prefix() -> None:
    assert shlex.join(MADE.argv) == (
        "smg launch --host 127.0.0.1 --port 30080 "
        "--worker-urls http://10.0.0.5:30000 http://10.0.0.6:30000 --policy cache_aware --balance-abs-threshold 1 "
        "--health-check-endpoint /ready --disable-tokenizer-autoload "
        "--prometheus-host 127.0.0.1 --prometheus-port 29000 --log-level warn"
    )


def test_the_unit_starts_exactly_that() -> None:
    unit = ConfigParser(interpolation=None)
    unit.optionxform = str
    unit.read_string(Route("trio", ("http://[fe80::1%25eth0]:1",), "::1", 1, 2).unit())
    assert unit["Service"]["DynamicUser"] == "yes"
    command = shlex.split(unit["Service"]["ExecStart"].replace("%%", "%"))
    assert command == list(Route("trio", ("http://[fe80::1%25eth0]:1",), "::1", 1, 2).argv)
    assert Route("trio", WORKERS, "::1", 1, 2).url == "http://[::1]:1/v1"


def test_the_crew_file_is_the_crew_at_the_router(tmp_path: Path) -> None:
    trio = load("trio", {"HOME": str(tmp_path)})
    models = {role: bound.settings.model for role, bound in trio.roles.items()}
    text = MADE.crew_file(models)
    assert tomllib.loads(text)["extends"] == "trio"
    folder = tmp_path / ".config/nightcrew/crews"
    folder.mkdir(parents=True)
    (folder / "trio-routed.toml").write_text(text)
    routed = load("trio-routed", {"HOME": str(tmp_path)})
    assert {role: bound.settings.model for role, bound in routed.roles.items()} == models
    assert all(bound.settings.base_url == MADE.url and not bound.local for bound in routed.roles.values())


def test_without_a_worker_the_planned_ports_of_this_machine_are_taken() -> None:
    assert workers_of((), [30000, 30001]) == ("http://127.0.0.1:30000", "http://127.0.0.1:30001")
    assert workers_of(("http://a:1/v1", "http://a:1/", "https://b"), [30000]) == ("http://a:1", "https://b")


@pytest.mark.parametrize(
    "text", ["10.0.0.5:30000", "ftp://a:1", "http://", "http://a:x", "http://me:pw@a:1", "http://a/x"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="http://HOST:PORT"):
        worker_url(text)


def test_the_command_prints_one_thing_on_standard_output(cli) -> None:
    shown = cli("crew", "route", "trio", "--worker", WORKERS[0], "--worker", WORKERS[1])
    assert shown.code == 0 and shown.out.strip() == shlex.join(MADE.argv)
    assert "uv tool install 'smg>=1.13,<2'" in shown.err
    assert cli("crew", "route", "trio", "--worker", WORKERS[0], "--systemd").out.startswith("[Unit]")
    assert tomllib.loads(cli("crew", "route", "trio", "--crew-file").out)["roles"]["scout"]["base_url"] == MADE.url
    facts = json.loads(cli("crew", "route", "trio", "--json").out)
    assert facts["workers"] == [f"http://127.0.0.1:{port}" for port in (30000, 30001, 30002)]
    assert facts["installed"] is False and facts["argv"][1] == "launch"


def test_a_router_that_others_can_reach_is_warned_of(cli) -> None:
    assert "asks nobody for a key" in cli("crew", "route", "trio", "--host", "0.0.0.0").err
    assert "asks nobody for a key" not in cli("crew", "route", "trio").err


def test_a_crew_without_servers_of_its_own_has_nothing_to_route(cli) -> None:
    shown = cli("crew", "route", "embedded")
    assert shown.code == 2 and "no model that is served" in shown.err
