"""The unit files, as systemd's own tools read them: nothing to complain about, and a stated exposure at most."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(60)

UNITS = Path(__file__).resolve().parents[2] / "systemd"
SYSTEM = sorted(path for path in UNITS.iterdir() if path.suffix in {".service", ".socket", ".target"})
USER = sorted(path for path in (UNITS / "user").iterdir() if path.suffix in {".service", ".socket", ".target"})
MOST_EXPOSED = {"nightcrew.service": 36, "user/nightcrew.service": 75}
"""By unit: most of what `systemd-analyze security` may count (0 nothing is open, 100 everything), a tenth more than it
does. A user's manager cannot mount, which is most of what is counted there."""
OTHERS = 75


def name(path: Path) -> str:
    return str(path.relative_to(UNITS))


@pytest.fixture
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("NOT CHECKED: systemd-analyze is not there; install it (Debian: apt-get install systemd)")
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine's files with what the units start, so that only real complaints are left."""
    for program in ("usr/bin/nightcrew", "bin/kill", "usr/bin/kill", "bin/sh", "usr/bin/env"):
        path = tmp_path / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    own = Path("lib/systemd/system")
    shutil.copytree("/" / own, tmp_path / own, symlinks=True)
    return tmp_path


@pytest.mark.parametrize("folder", [SYSTEM, USER], ids=["system", "user"])
def test_systemd_has_nothing_to_say_against_the_units(folder: list[Path], analyze: str, root: Path) -> None:
    target = root / "etc/systemd/system"
    target.mkdir(parents=True)
    shutil.copytree(UNITS / "sysusers.d", root / "usr/lib/sysusers.d")
    for path in folder:
        shutil.copy(path, target)
    names = [path.name.replace("@.", "@one.") for path in folder]
    ran = subprocess.run(
        [analyze, "verify", f"--root={root}", "--recursive-errors=no", "--man=no", *names],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr, ran.stdout) == (0, "", "")


@pytest.mark.parametrize("path", [path for path in (*SYSTEM, *USER) if path.suffix == ".service"], ids=name)
def test_no_service_is_more_exposed_than_is_stated(path: Path, analyze: str) -> None:
    most = MOST_EXPOSED.get(name(path), OTHERS)
    command = [analyze, "security", "--offline=yes", "--no-pager", f"--threshold={most}", str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("path", [*SYSTEM, *USER], ids=name)
def test_every_unit_says_what_it_is(path: Path) -> None:
    text = path.read_text()
    assert "\nDescription=" in text
    assert "\nDocumentation=" in text


def test_what_breaks_boxes_is_not_asked_for() -> None:
    """Measured; see the comment in the unit."""
    for path in (UNITS / "nightcrew.service", UNITS / "user/nightcrew.service"):
        lines = path.read_text().splitlines()
        names = {line.partition("=")[0] for line in lines if not line.startswith("#")}
        broken = {"ProtectKernelTunables", "ProtectKernelLogs", "ProtectControlGroups", "ProcSubset", "ProtectProc"}
        assert not names & (broken | {"MemoryDenyWriteExecute"})
        assert "RestrictNamespaces=user mnt pid net ipc uts cgroup" in lines
        assert "SystemCallFilter=@system-service @mount seccomp" in lines
        assert "Delegate=yes" in lines


def test_the_account_and_the_folders_can_be_made(tmp_path: Path) -> None:
    if shutil.which("systemd-sysusers") is None:
        pytest.skip("NOT CHECKED: systemd-sysusers is not there; install it (Debian: apt-get install systemd)")
    (tmp_path / "etc").mkdir()
    for name in ("passwd", "group"):
        shutil.copy(f"/etc/{name}", tmp_path / "etc")
    for program, folder in (("systemd-sysusers", "sysusers.d"), ("systemd-tmpfiles", "tmpfiles.d")):
        files = sorted((UNITS / folder).glob("*.conf"))
        argv = [program, f"--root={tmp_path}", *(["--create"] if program == "systemd-tmpfiles" else []), *files]
        ran = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
    assert "nightcrew:" in (tmp_path / "etc/passwd").read_text()
    assert (tmp_path / "var/lib/nightcrew/inbox").stat().st_mode & 0o7777 == 0o2770
    assert (tmp_path / "etc/nightcrew/credentials").stat().st_mode & 0o7777 == 0o700
