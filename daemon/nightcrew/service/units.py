"""The unit files on a machine: what is to be written where, what a person has changed, and doing it.

Every file that is written begins with a line that says so and has the hash of the rest: a file that does not fit its
line was edited, and is left alone. Drop-ins (`nightcrew.service.d/`) are a person's and are never touched.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nightcrew.errors import NightcrewError

Doing = Literal["write", "replace", "same", "edited", "remove", "absent"]

SHIPPED = "/usr/bin/nightcrew"
"""The program as the shipped units name it."""
_MARK = re.compile(r"# Written by `nightcrew service install`; sha256 of the rest: ([0-9a-f]{64})\n")
_KINDS = (".service", ".socket", ".target")
_BOOTED = Path("/run/systemd/system")


class UnitsError(NightcrewError):
    """The units cannot be installed like this; says why and what to do."""


@dataclass(frozen=True)
class Step:
    """One file, and what becomes of it."""

    path: Path
    doing: Doing
    content: str = ""


@dataclass(frozen=True)
class Place:
    """Whose manager the units are for, and below which root."""

    user: bool
    home: Path
    """Of the person, for a user's units."""
    root: Path = Path("/")

    @property
    def units(self) -> Path:
        return self.home / ".config/systemd/user" if self.user else self.root / "etc/systemd/system"

    def systemctl(self, *words: str) -> list[str]:
        return ["systemctl", *(["--user"] if self.user else []), *words]


def shipped() -> Path:
    """The folder of units of this installation: beside the code in a checkout, in the package elsewhere."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parents[1] / "systemd", package / "systemd"):
        if (folder / "nightcrew.service").is_file():
            return folder
    raise UnitsError(f"this installation has no unit files beside {package}: install nightcrew again")


def program() -> str:
    """How this installation is started, for ExecStart."""
    script = Path(sysconfig.get_path("scripts")) / "nightcrew"
    if script.is_file():
        return _checked(str(script))
    return f"{_checked(sys.executable)} -P -m nightcrew"


def _checked(path: str) -> str:
    if re.search(r"[\s\"'\\%$]", path):
        raise UnitsError(f"{path}: systemd cannot start a path with such characters; install nightcrew elsewhere")
    return path


def unreachable_for_service(command: str) -> str:
    """Why the system's service could not start this program; empty where it can."""
    path = Path(command.split(maxsplit=1)[0])
    for step in (path, *path.parents):
        if str(step) in ("/home", "/root", "/run/user"):
            return f"{path} lies in {step}, which the service does not see"
    try:
        closed = [step for step in path.resolve().parents if not step.stat().st_mode & 0o001]
    except OSError as error:
        return f"{path}: {error.strerror}"
    return f"{path}: its account cannot enter {closed[-1]}" if closed else ""


def wanted(place: Place, command: str) -> Iterator[tuple[Path, str]]:
    """Every file with its content."""
    folder = shipped()
    for path in sorted((folder / "user" if place.user else folder).iterdir()):
        if path.suffix in _KINDS:
            yield place.units / path.name, path.read_text(encoding="utf-8").replace(SHIPPED, command)
    if not place.user:
        for name in ("sysusers.d", "tmpfiles.d"):
            for path in sorted((folder / name).glob("*.conf")):
                yield place.root / "etc" / name / path.name, path.read_text(encoding="utf-8")


def plan_install(place: Place, command: str, *, force: bool = False) -> list[Step]:
    """What an installation would do, file by file."""
    steps: list[Step] = []
    for path, text in wanted(place, command):
        content = _marked(text)
        there = _read(path)
        doing: Doing = "write" if there is None else "same" if there == content else "replace"
        if doing == "replace" and there is not None and not _ours(there) and not force:
            doing = "edited"
        steps.append(Step(path, doing, content))
    return steps


def plan_uninstall(place: Place, command: str) -> list[Step]:
    """What a removal would do: nothing to what a person has edited."""
    found = [(path, _read(path)) for path, _ in wanted(place, command)]
    return [Step(path, "absent" if text is None else "remove" if _ours(text) else "edited") for path, text in found]


def carry_out(steps: list[Step]) -> None:
    """Write and remove; what is replaced although a person edited it stays beside it as `.before`. Raises `OSError`."""
    for step in steps:
        if step.doing == "remove":
            step.path.unlink(missing_ok=True)
        elif step.doing in ("write", "replace"):
            step.path.parent.mkdir(parents=True, exist_ok=True)
            there = _read(step.path)
            if there is not None and not _ours(there):
                shutil.copy2(step.path, step.path.with_name(f"{step.path.name}.before"))
            fresh = step.path.with_name(f".{step.path.name}.new")
            fresh.write_text(step.content, encoding="utf-8")
            fresh.chmod(0o644)
            fresh.replace(step.path)


def write_absent(path: Path, text: str) -> bool:
    """A file that a person goes on with: written once, never again. Whether it was."""
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)
    return True


def drop_ins(place: Place) -> list[Path]:
    """What a person has added to our units."""
    return sorted(path for folder in place.units.glob("nightcrew*.d") for path in folder.glob("*.conf"))


def is_booted(place: Place) -> bool:
    """Whether the manager that these units are for runs here."""
    if place.root != Path("/") or not _BOOTED.is_dir():
        return False
    asked = subprocess.run(place.systemctl("show", "--property=Version"), capture_output=True, check=False)
    return asked.returncode == 0


def commands_after_install(place: Place, *, start: bool) -> list[list[str]]:
    """What makes the machine take the files in."""
    made = (
        []
        if place.user
        else [["systemd-sysusers", "nightcrew.conf"], ["systemd-tmpfiles", "--create", "nightcrew.conf"]]
    )
    enable = place.systemctl("enable", *(["--now"] if start else []), "nightcrew.service")
    return [*made, place.systemctl("daemon-reload"), enable]


def commands_before_uninstall(place: Place, steps: list[Step]) -> list[list[str]]:
    """What stops and disables the units that are about to go; model servers stop with their target."""
    names = [step.path.name for step in steps if step.doing == "remove" and step.path.suffix in _KINDS]
    going = [name for name in names if "@" not in name]
    return [place.systemctl("disable", "--now", *going)] if going else []


def _marked(text: str) -> str:
    return f"# Written by `nightcrew service install`; sha256 of the rest: {_hash(text)}\n{text}"


def _ours(text: str) -> bool:
    mark = _MARK.match(text)
    return mark is not None and mark[1] == _hash(text[mark.end() :])


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
