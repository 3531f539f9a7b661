"""`nightcrew service`: the units of systemd, put in their places and taken away again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightcrew.cli.output import HelpFlag, JsonFlag, emit, examples, out, say

if TYPE_CHECKING:
    from nightcrew.service.units import Place, Step

User = Annotated[bool, typer.Option("--user", help="For your own systemd, not the machine's.")]
Root = Annotated[
    Path | None, typer.Option("--root", metavar="DIR", help="Write below DIR and run nothing: for packages and images.")
]
Dry = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
_NO_SYSTEMD = 4

_CONFIG = """# See https://github.com/nightcrew/nightcrew about every key.
# crew = "duo"
#
# [crews.duo.planner]
# base_url = "http://127.0.0.1:30000/v1"
# api_key_credential = "planner"     # the file /etc/nightcrew/credentials/planner
"""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        name="service",
        help="Run as a service of systemd.",
        no_args_is_help=True,
        rich_markup_mode=None,
        add_help_option=False,
    )

    @group.callback()
    def _group(_help: HelpFlag = False) -> None:  # pyright: ignore[reportUnusedFunction] - typer calls it
        pass

    group.command(
        "install",
        short_help="Write the units and start the service.",
        epilog=examples(
            "nightcrew service install --dry-run      say what it would do",
            "sudo nightcrew service install           for this machine, as the account nightcrew",
            "nightcrew service install --user         for you, as you",
        ),
    )(install)
    group.command("status", short_help="Whether it runs, and what.", epilog=examples("nightcrew service status"))(
        status
    )
    group.command(
        "uninstall", short_help="Stop it and take the units away.", epilog=examples("sudo nightcrew service uninstall")
    )(uninstall)
    app.add_typer(group)


def install(
    user: User = False,
    root: Root = None,
    dry_run: Dry = False,
    force: Annotated[bool, typer.Option("--force", help="Replace edited files too; they stay as NAME.before.")] = False,
    start: Annotated[bool, typer.Option("--start/--no-start", help="Start it at once.")] = True,
    json: JsonFlag = False,
) -> None:
    """Write the units, then have systemd take them in, enable and start them. Doing it again changes nothing.

    Exits with 0 when all is as it should be, 1 when an edited file was left alone or a command failed, and 4 where no
    systemd runs: the files are written all the same.
    """
    from nightcrew.service import units

    place, command = _place(user, root), units.program()
    if root is not None:
        command = units.SHIPPED
    if not user and root is None and (why := units.unreachable_for_service(command)):
        raise units.UnitsError(
            f"{why}: install nightcrew where every account can read it (sudo UV_TOOL_DIR=/opt/nightcrew "
            "UV_TOOL_BIN_DIR=/usr/local/bin uv tool install nightcrew), or use --user"
        )
    steps = units.plan_install(place, command, force=force)
    booted = units.is_booted(place)
    after = units.commands_after_install(place, start=start) if booted else []
    if not dry_run:
        units.carry_out(steps)
        if not user:
            units.write_absent(place.root / "etc/nightcrew/config.toml", _CONFIG)
    failed = [] if dry_run else _run(after)
    code = 1 if failed or any(step.doing == "edited" for step in steps) else 0 if booted or root else _NO_SYSTEMD
    if json:
        emit(_as_json(steps, after, failed, booted=booted, dry_run=dry_run, place=place))
        raise typer.Exit(code)
    _tell(steps, after, failed, dry_run=dry_run)
    if not booted and root is None:
        say("no systemd runs here, so nothing was started: the files are for the next boot")
    if user and not (Path("/var/lib/systemd/linger") / Path.home().name).exists():
        say("it ends when you log out, unless: loginctl enable-linger")
    raise typer.Exit(code)


def uninstall(user: User = False, root: Root = None, dry_run: Dry = False, json: JsonFlag = False) -> None:
    """Stop and disable the service and remove its units. Tasks, results, keys and the configuration stay.

    Exits as `install` does.
    """
    from nightcrew.service import units

    place = _place(user, root)
    steps, booted = units.plan_uninstall(place, units.program()), units.is_booted(place)
    before = units.commands_before_uninstall(place, steps) if booted else []
    after = [place.systemctl("daemon-reload")] if booted else []
    failed = [] if dry_run else _run(before)
    if not dry_run:
        units.carry_out(steps)
        failed += _run(after)
    code = 1 if failed or any(step.doing == "edited" for step in steps) else 0 if booted or root else _NO_SYSTEMD
    if json:
        emit(_as_json(steps, [*before, *after], failed, booted=booted, dry_run=dry_run, place=place))
        raise typer.Exit(code)
    _tell(steps, [*before, *after], failed, dry_run=dry_run)
    for path in units.drop_ins(place):
        say(f"yours, and left alone: {path}")
    say(f"tasks and results stay in {_data(place)}" + ("" if user else ", configuration and keys in /etc/nightcrew"))
    raise typer.Exit(code)


def status(user: User = False, json: JsonFlag = False) -> None:
    """Whether the service is installed and runs, and what it does.

    Exits with 0 when it runs, 3 when it does not, and 4 where no systemd runs.
    """
    import subprocess

    from nightcrew.service import units

    place = _place(user, None)
    names = ("ActiveState", "SubState", "StatusText", "MainPID", "NRestarts", "UnitFileState", "Result")
    values: dict[str, str] = {}
    booted = units.is_booted(place)
    if booted:
        asked = place.systemctl("show", "nightcrew.service", f"--property={','.join(names)}")
        shown = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
        values = {line.partition("=")[0]: line.partition("=")[2] for line in shown.splitlines()}
    edited = [str(step.path) for step in units.plan_uninstall(place, units.program()) if step.doing == "edited"]
    active = values.get("ActiveState") in ("active", "reloading")
    if json:
        drop_ins = [str(path) for path in units.drop_ins(place)]
        emit({"systemd": booted, "active": active, "properties": values, "edited": edited, "drop_ins": drop_ins})
    elif booted:
        out(f"nightcrew.service is {values.get('ActiveState')} ({values.get('UnitFileState') or 'not installed'})")
        for name in names[2:5]:
            out(f"{name:>14}  {values.get(name, '')}")
    else:
        say("no systemd runs here for " + ("you" if user else "this machine"))
    for path in edited:
        say(f"edited by hand: {path}")
    raise typer.Exit(_NO_SYSTEMD if not booted else 0 if active else 3)


def _place(user: bool, root: Path | None) -> Place:
    from nightcrew.service import units

    if user and root is not None:
        raise typer.BadParameter("--root is for the machine's units, --user for your own")
    if not user and root is None and os.geteuid() != 0:
        say("the machine's units belong to root: this will need sudo (or --user)")
    return units.Place(user=user, home=Path.home(), root=(root or Path("/")).absolute())


def _data(place: Place) -> str:
    if not place.user:
        return str(place.root / "var/lib/nightcrew")
    from nightcrew.config import default_home, environment

    return str(default_home(environment()))


def _run(commands: list[list[str]]) -> list[str]:
    """Run each, whatever became of those before; those that failed, with what they said."""
    import subprocess

    failed: list[str] = []
    for command in commands:
        try:
            ran = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        except OSError as error:
            failed.append(f"{' '.join(command)}: {error.strerror}")
            continue
        if ran.returncode:
            failed.append(f"{' '.join(command)}: {ran.stderr.strip() or ran.returncode}")
    return failed


def _tell(steps: list[Step], commands: list[list[str]], failed: list[str], *, dry_run: bool) -> None:
    words = {"edited": "left", "absent": "gone"}
    for step in steps:
        why = "  (edited by hand; --force replaces it)" if step.doing == "edited" else ""
        out(f"{words.get(step.doing, step.doing):<8} {step.path}{why}")
    for command in commands:
        out(f"{'would run' if dry_run else 'ran':<8} {' '.join(command)}")
    for each in failed:
        say(f"failed: {each}")


def _as_json(
    steps: list[Step], commands: list[list[str]], failed: list[str], *, booted: bool, dry_run: bool, place: Place
) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "systemd": booted,
        "files": [{"path": str(step.path), "action": step.doing} for step in steps],
        "commands": [" ".join(command) for command in commands],
        "failed": failed,
        "data": _data(place),
    }
