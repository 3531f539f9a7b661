"""What the README says is true: its commands exist, its examples parse, its links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from nightcrew import config
from nightcrew.cli.clients import CLIENTS
from nightcrew.cli.taskinput import asked_in_file
from nightcrew.intake.taskfile import parse
from nightcrew_tools.contract import EXIT_CODES, Limits, TaskRequest

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


COMMANDS = [line[2:].split("  #")[0].strip() for block in blocks("console") for line in block.splitlines()]


def test_there_are_commands() -> None:
    assert "make demo" in COMMANDS
    assert "make test" in COMMANDS
    assert any(command.startswith("nightcrew run") for command in COMMANDS)


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_make_knows_the_targets(command: str) -> None:
    dry = subprocess.run(
        ["make", "--dry-run", *shlex.split(command)[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert dry.returncode == 0, dry.stderr


def options_and_words(command: str) -> tuple[list[str], list[str]]:
    words = shlex.split(command)[1:]
    options = [word for word in words if word.startswith("-")]
    names = [word for word in words if re.fullmatch(r"[a-z]+", word)]
    grouped = names[:1] in (["model"], ["crew"], ["service"]) or names[:2] == ["mcp", "install"]
    return options, names[:2] if grouped else names[:1]


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("nightcrew ")])
def test_every_command_and_option_is_in_the_help(command: str) -> None:
    options, names = options_and_words(command)
    asked = [sys.executable, "-m", "nightcrew", *names, "--help"]
    helped = subprocess.run(asked, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert helped.returncode == 0, helped.stderr
    for option in options:
        assert option in helped.stdout


@pytest.mark.parametrize("name", ["show", "report", "diff", "cancel"])
def test_the_commands_named_in_passing_exist(name: str) -> None:
    assert name in README
    asked = [sys.executable, "-m", "nightcrew", name, "--help"]
    assert subprocess.run(asked, capture_output=True, stdin=subprocess.DEVNULL, check=False).returncode == 0


def test_the_task_file_is_one() -> None:
    for block in blocks("markdown"):
        request = parse(block.encode(), name="readme")
        assert request.title == "Prices are rounded wrongly"


def test_the_table_of_fields_has_every_field() -> None:
    fields = set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE))
    assert fields == set(TaskRequest.model_fields) - {"title", "text", "attachments"}


def test_the_defaults_are_the_defaults() -> None:
    limits = Limits()
    assert f"{limits.minutes:g}, {limits.tokens:,}, {limits.attempts}" in README


def test_the_configurations_are_accepted(tmp_path: Path) -> None:
    for block in blocks("toml"):
        path = tmp_path / "config.toml"
        path.write_text(block)
        tomllib.loads(block)
        config.load_config({"NIGHTCREW_CONFIG": str(path), "HOME": str(tmp_path)})


def test_the_exit_codes_are_the_codes() -> None:
    codes = set(map(int, re.findall(r"^\| (\d+) \|", README, re.MULTILINE)))
    assert codes == set(EXIT_CODES.values()) | {2, 3}


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "docs/mcp.md",
        "docs/repositories.md",
        "docs/systemd.md",
        "docs/folder.md",
        "docs/crews.md",
    ],
)
def test_lines_are_wrapped_at_120(name: str) -> None:
    lines = (ROOT / name).read_text().splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []


@pytest.mark.parametrize("path", sorted((ROOT / "examples" / "tasks").glob("*.md")), ids=lambda path: path.name)
def test_the_example_tasks_are_task_files(path: Path) -> None:
    assert parse(path.read_bytes(), name=path.stem).title


def test_the_example_of_a_folder_is_a_task_with_its_picture(tmp_path: Path) -> None:
    asked = asked_in_file(
        str(ROOT / "examples" / "tasks" / "rounded-wrongly"), config.Config(home=tmp_path), repo=None, crew=None
    )
    assert asked.request.images == ("receipt.png",)
    assert [name for name, _ in asked.files] == ["basket.json", "receipt.png"]


def test_the_example_configuration_is_accepted() -> None:
    path = ROOT / "examples" / "config.toml"
    loaded = config.load_config({"NIGHTCREW_CONFIG": str(path), "HOME": "/nonexistent"})
    assert set(loaded.crews) == {"duo"}


CLIENT_FILES = sorted((ROOT / "examples" / "mcp").glob("*.json"))


@pytest.mark.parametrize("path", CLIENT_FILES, ids=lambda path: path.name)
def test_the_example_client_configurations_are_what_install_prints(path: Path) -> None:
    client, _, way = path.stem.partition("-over-")
    reached = {
        "": ["--root", "/srv/shop"],
        "ssh": ["--root", "/srv/shop", "--ssh", "build-host"],
        "http": ["--url", "http://127.0.0.1:8642/mcp"],
    }[way]
    asked = [sys.executable, "-m", "nightcrew", "mcp", "install", client, *reached]
    printed = subprocess.run(asked, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True).stdout
    here = str(Path(sys.executable).with_name("nightcrew"))
    assert json.loads(printed.replace(here, "/usr/local/bin/nightcrew")) == json.loads(path.read_text())


def test_there_is_an_example_for_every_client() -> None:
    assert {path.stem for path in CLIENT_FILES} >= set(CLIENTS)
