"""`nightcrew service`: units in their places, again and again, and no edit of a person's lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fakes.command import Command, command
from nightcrew.service import units

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path) -> Command:
    monkeypatch.setattr(units, "is_booted", lambda place: False)
    monkeypatch.setattr(Path, "home", classmethod(lambda cls: tmp_path / "person"))
    return command(monkeypatch, capsys, tmp_path / "home")


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_an_image_gets_the_units_the_account_and_a_configuration_to_fill_in(run: Command, tmp_path: Path) -> None:
    root = tmp_path / "image"
    done = run("service", "install", "--root", root, "--json")
    said = json.loads(done.out)
    assert done.code == 0
    assert {one["action"] for one in said["files"]} == {"write"}
    assert said["commands"] == []
    there = files(root)
    assert set(there) >= {
        "etc/systemd/system/nightcrew.service",
        "etc/systemd/system/nightcrew.socket",
        "etc/sysusers.d/nightcrew.conf",
        "etc/tmpfiles.d/nightcrew.conf",
        "etc/nightcrew/config.toml",
    }
    assert "\nExecStart=/usr/bin/nightcrew up\n" in there["etc/systemd/system/nightcrew.service"]


def test_doing_it_again_changes_nothing_and_a_new_version_replaces_what_is_ours(run: Command, tmp_path: Path) -> None:
    root = tmp_path / "image"
    run("service", "install", "--root", root)
    before = files(root)
    again = run("service", "install", "--root", root, "--json")
    assert {one["action"] for one in json.loads(again.out)["files"]} == {"same"}
    unit = root / "etc/systemd/system/nightcrew.service"
    unit.write_text(units._marked("[Service]\nExecStart=/usr/bin/older\n"))
    run("service", "install", "--root", root)
    assert files(root) == before


def test_what_a_person_edited_is_left_and_said_until_they_say_otherwise(run: Command, tmp_path: Path) -> None:
    root = tmp_path / "image"
    run("service", "install", "--root", root)
    unit, config = root / "etc/systemd/system/nightcrew.service", root / "etc/nightcrew/config.toml"
    edited = unit.read_text().replace("WatchdogSec=60", "WatchdogSec=90")
    unit.write_text(edited)
    config.write_text("concurrency = 1\n")
    done = run("service", "install", "--root", root)
    assert done.code == 1
    assert "edited by hand" in done.out
    assert unit.read_text() == edited
    gone = run("service", "uninstall", "--root", root)
    assert (gone.code, unit.read_text()) == (1, edited)

    forced = run("service", "install", "--root", root, "--force")
    assert forced.code == 0
    assert "WatchdogSec=60" in unit.read_text()
    assert unit.with_name("nightcrew.service.before").read_text() == edited
    assert config.read_text() == "concurrency = 1\n"


def test_uninstall_takes_the_units_and_says_what_stays(run: Command, tmp_path: Path) -> None:
    root = tmp_path / "image"
    run("service", "install", "--root", root)
    drop_in = root / "etc/systemd/system/nightcrew.service.d/own.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\nNice=5\n")
    done = run("service", "uninstall", "--root", root)
    assert done.code == 0
    assert f"yours, and left alone: {drop_in}" in done.err
    assert f"tasks and results stay in {root}/var/lib/nightcrew" in done.err
    assert set(files(root)) == {"etc/nightcrew/config.toml", "etc/systemd/system/nightcrew.service.d/own.conf"}
    again = run("service", "uninstall", "--root", root, "--json")
    assert {one["action"] for one in json.loads(again.out)["files"]} == {"absent"}


def test_a_dry_run_writes_nothing(run: Command, tmp_path: Path) -> None:
    done = run("service", "install", "--root", tmp_path / "image", "--dry-run")
    assert "write " in done.out
    assert not (tmp_path / "image").exists()


def test_a_persons_own_units_start_this_installation_and_without_systemd_that_is_said(
    run: Command, tmp_path: Path
) -> None:
    done = run("service", "install", "--user")
    assert done.code == 4
    assert "no systemd runs here" in done.err
    assert "loginctl enable-linger" in done.err
    unit = tmp_path / "person/.config/systemd/user/nightcrew.service"
    [start] = [line for line in unit.read_text().splitlines() if line.startswith("ExecStart=")]
    asked = [*start.removeprefix("ExecStart=").split()[:-1], "--version"]
    ran = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("nightcrew ")
    assert run("service", "status", "--user").code == 4


def test_where_systemd_runs_the_files_are_taken_in_and_failures_are_told(monkeypatch, run: Command) -> None:
    monkeypatch.setattr(units, "is_booted", lambda place: True)
    asked = json.loads(run("service", "install", "--user", "--dry-run", "--json").out)
    assert asked["commands"] == ["systemctl --user daemon-reload", "systemctl --user enable --now nightcrew.service"]
    place = units.Place(user=False, home=Path("/root"))
    assert units.commands_after_install(place, start=False) == [
        ["systemd-sysusers", "nightcrew.conf"],
        ["systemd-tmpfiles", "--create", "nightcrew.conf"],
        ["systemctl", "daemon-reload"],
        ["systemctl", "enable", "nightcrew.service"],
    ]
    monkeypatch.setattr(units, "commands_after_install", lambda place, start: [["false"], ["/nonexistent"]])
    done = run("service", "install", "--user")
    assert done.code == 1
    assert "failed: false: 1" in done.err
    assert "failed: /nonexistent: No such file or directory" in done.err


def test_uninstalling_stops_what_goes_and_nothing_where_nothing_is_there(tmp_path: Path) -> None:
    place = units.Place(user=False, home=tmp_path, root=tmp_path)
    assert units.commands_before_uninstall(place, units.plan_uninstall(place, units.SHIPPED)) == []
    units.carry_out(units.plan_install(place, units.SHIPPED))
    [command] = units.commands_before_uninstall(place, units.plan_uninstall(place, units.SHIPPED))
    assert command[:3] == ["systemctl", "disable", "--now"]
    assert {"nightcrew.service", "nightcrew.socket", "nightcrew-models.target"} <= set(command[3:])
    assert not [name for name in command[3:] if "@" in name or name.endswith(".conf")]


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("/root/.local/bin/nightcrew", "does not see"),
        ("/home/ann/venv/bin/nightcrew", "does not see"),
        ("/nonexistent/nightcrew", "No such file"),
        ("/usr/bin/env", ""),
    ],
)
def test_a_program_that_the_services_account_cannot_start_is_refused(command: str, why: str) -> None:
    said = units.unreachable_for_service(command)
    assert why in said
    assert bool(why) == bool(said)


def test_a_program_in_a_closed_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o700)
    (tmp_path / "closed/nightcrew").write_text("")
    assert "cannot enter" in units.unreachable_for_service(str(tmp_path / "closed/nightcrew"))


def test_the_wheel_has_the_units(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    text = (root / "pyproject.toml").read_text()
    assert '"systemd" = "nightcrew/systemd"' in text
    # As an installed package finds them.
    package = tmp_path / "site-packages/nightcrew"
    shutil.copytree(root / "systemd", package / "systemd")
    (package / "service").mkdir()
    shutil.copy(root / "daemon/nightcrew/service/units.py", package / "service/units.py")
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('units', {str(package / 'service/units.py')!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "sys.modules['units'] = module\n"
        "spec.loader.exec_module(module)\n"
        "print(module.shipped())\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == str(package / "systemd")
