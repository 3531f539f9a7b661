"""`nightcrew crew list|show|plan`: what they print, and their exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from nightcrew.cli.main import main
from nightcrew.serving import gpus
from nightcrew.serving.gpus import Card, Machine

pytestmark = pytest.mark.timeout(30)

Cli = Callable[..., SimpleNamespace]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.setenv("NIGHTCREW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NIGHTCREW_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").touch()
    (tmp_path / "crews").mkdir()

    def run(*arguments: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["nightcrew", "crew", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code or 0, out=captured.out, err=captured.err)

    return run


def test_the_crews_are_listed_with_what_they_are_good_for(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "crews/night.toml").write_text('about = "mine"\nextends = "trio"\n')
    (tmp_path / "config.toml").write_text('crew = "night"\n[crews.lan.planner]\nbase_url = "http://models.lan/v1"\n')
    shown = cli("list")
    assert shown.code == 0
    assert "* night     mine" in shown.out and "  trio " in shown.out and "  lan " in shown.out
    listed = {crew["name"]: crew for crew in json.loads(cli("list", "--json").out)}
    assert set(listed) >= {"council", "duo", "embedded", "heavy", "modern", "solo", "trio", "night", "lan"}
    assert listed["night"]["origin"] == str(tmp_path / "crews/night.toml")
    assert listed["trio"]["roles"]["scout"]["model"] == "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B"


def test_a_broken_crew_file_is_one_line_of_the_list(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "crews/night.toml").write_text("about = 3\n")
    shown = cli("list")
    assert shown.code == 0
    assert "night" in shown.out and "about: " in shown.out and "trio" in shown.out


def test_a_crew_is_shown_with_its_roles_and_addresses(cli: Cli) -> None:
    shown = cli("show", "trio")
    assert "planner     Qwen/Qwen3-32B  served here on port 30000  2 × 40,960 tokens" in shown.out
    assert json.loads(cli("show", "duo", "--json").out)["roles"]["executor"]["base_url"] == "http://127.0.0.1:30001/v1"
    assert cli("show", "nobody").code == 2
    assert "every role" in cli("show", "embedded").out


def test_a_plan_that_fits_exits_with_0_and_one_that_does_not_with_1(cli: Cli) -> None:
    fits = cli("plan", "trio", "--gpu-gib", "96")
    assert fits.code == 0 and fits.err == ""
    table, bar = fits.out.split("\n\n")
    assert [line.split()[0] for line in table.splitlines()[1:]] == [
        "devstral-small-2507",
        "qwen3-32b",
        "deepseek-r1-0528-qwen3-8b",
    ]
    assert bar.startswith("GPU 0  [####") and "of 96 GiB stay free" in bar
    assert len(bar.split("[")[1].split("]")[0]) == 60
    small = cli("plan", "trio", "--gpu-gib", "48")
    assert small.code == 1 and "trio does not fit: " in small.out and "what would: " in small.out


def test_the_plan_is_there_as_json(cli: Cli) -> None:
    shown = cli("plan", "trio", "--gpus", "2", "--gpu-gib", "48", "--json")
    plan = json.loads(shown.out)
    assert plan["fits"] and len(plan["gpus"]) == len(plan["left_gib"]) == 2
    server = plan["servers"][0]
    assert (
        server["arithmetic"]["kv_gib"] * 2**30
        == server["max_total_tokens"] * server["arithmetic"]["kv_bytes_per_token"]
    )
    refused = json.loads(cli("plan", "trio", "--gpu-gib", "24", "--json").out)
    assert not refused["fits"] and refused["misfits"][0]["nearest"]


def test_the_configured_crew_is_planned_when_none_is_named_else_duo(cli: Cli, tmp_path: Path) -> None:
    assert json.loads(cli("plan", "--gpu-gib", "96", "--json").out)["crew"] == "duo"
    (tmp_path / "config.toml").write_text('crew = "trio"\n')
    assert json.loads(cli("plan", "--gpu-gib", "96", "--json").out)["crew"] == "trio"


def test_a_context_for_a_role_is_planned_for(cli: Cli) -> None:
    shown = cli("plan", "duo", "--gpu-gib", "96", "--context", "planner=65536", "--json")
    servers = {server["key"]: server for server in json.loads(shown.out)["servers"]}
    assert servers["qwen3-32b"]["context_length"] == 65536


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--context", "planner"), "write ROLE=TOKENS"),
        (("--context", "planner=12"), "write ROLE=TOKENS"),
        (("--context", "plumber=65536"), "has no plumber; it has planner, executor, verifier"),
        (("--gpus", "2"), "say how large each is"),
    ],
)
def test_an_option_that_says_nothing_is_refused(cli: Cli, options: tuple[str, ...], said: str) -> None:
    more = () if "--gpus" in options else ("--gpu-gib", "96")
    shown = cli("plan", "duo", *options, *more)
    assert shown.code == 2 and said in " ".join(shown.err.split())


def test_main_memory_has_a_column_when_it_is_used(cli: Cli) -> None:
    assert "RAM GiB" in cli("plan", "trio", "--gpu-gib", "96", "--ram-gib", "256").out
    assert "RAM GiB" not in cli("plan", "trio", "--gpu-gib", "96").out


def test_without_a_size_the_cards_of_this_machine_are_planned_on(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def one(free_gib: float) -> Callable[[], Machine]:
        card = Card(id=0, name="RTX", total_gib=95.0, free_gib=free_gib, capability="12.0")
        return lambda: Machine(driver="580", cuda=(13, 0), cards=(card,))

    monkeypatch.setattr(gpus, "read_machine", one(94.9))
    shown = cli("plan", "trio", "--json")
    assert json.loads(shown.out)["gpus"] == [{"id": 0, "total_gib": 94.9, "capability": "12.0"}]
    monkeypatch.setattr(gpus, "read_machine", one(60.0))
    assert "other programs hold 35.0 GiB" in cli("plan", "trio").err
    monkeypatch.setattr(gpus, "read_machine", lambda: Machine(driver="580", cuda=(13, 0), cards=()))
    assert cli("plan", "trio").code == 2


def test_without_a_size_and_without_a_driver_the_option_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing() -> Machine:
        raise gpus.NoNvml("no driver")

    monkeypatch.setattr(gpus, "read_machine", nothing)
    shown = cli("plan", "trio")
    assert shown.code == 2 and "--gpu-gib 96" in shown.err


def test_the_embedded_crew_needs_no_card(cli: Cli) -> None:
    shown = cli("plan", "embedded")
    assert shown.code == 0 and "needs no card" in shown.out


def test_roles_that_are_played_elsewhere_are_named_and_not_planned(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "crews/mine.toml").write_text('extends = "duo"\n[roles.executor]\nbase_url = "http://models.lan/v1"\n')
    shown = cli("plan", "mine", "--gpu-gib", "48")
    assert shown.code == 0 and "served elsewhere: executor" in shown.out and "devstral" not in shown.out


def test_the_example_of_a_crew_fits_on_the_card_that_it_names(cli: Cli, tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples/crews/night.toml"
    (tmp_path / "crews/night.toml").write_bytes(example.read_bytes())
    shown = cli("plan", "night", "--gpu-gib", "96")
    assert shown.code == 0 and "qwen3-coder-30b-a3b" in shown.out and "note:" not in shown.out


def test_a_crew_of_the_configuration_is_shown_and_nothing_of_it_is_planned(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('crew = "duo"\n[crews.duo.planner]\nbase_url = "http://models.lan/v1"\n')
    assert "http://models.lan/v1" in cli("show").out
    assert [each["origin"] for each in json.loads(cli("list", "--json").out) if each["name"] == "duo"] == [
        "configuration"
    ]
    shown = cli("plan")
    assert shown.code == 0 and "duo needs no card: no model is served here" in shown.out


def test_a_model_of_ones_own_is_planned_from_its_directory(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    shape = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16}
    shape |= {"num_key_value_heads": 8, "vocab_size": 151936, "max_position_embeddings": 40960, "model_type": "qwen3"}
    (folder / "config.json").write_text(json.dumps(shape))
    (tmp_path / "crews/mine.toml").write_text(f'[roles.planner]\nmodel = "{folder}"\n')
    plan = json.loads(cli("plan", "mine", "--gpu-gib", "24", "--json").out)
    assert plan["servers"][0]["key"] == "tiny" and plan["servers"][0]["card"]["hf_id"] == str(folder)
    (tmp_path / "crews/mine.toml").write_text('[roles.planner]\nmodel = "Some/Model"\n')
    shown = cli("plan", "mine", "--gpu-gib", "24")
    assert shown.code == 2 and "nothing is known of the model 'Some/Model'" in shown.err
