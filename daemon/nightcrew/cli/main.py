"""`nightcrew`: the command. Only typer is imported for `--help`; a command's body imports what it needs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from nightcrew.cli import (
    crew,
    deciding,
    demo,
    doctor,
    holding,
    journal,
    mcp,
    models,
    moving,
    replay,
    running,
    tasks,
    unitcommands,
    up,
)
from nightcrew.cli.output import HelpFlag, examples, say

_HELP = """A headless crew of local models that turns dropped task files into verified git branches.

Exit codes of `run` and `submit --wait`: 0 delivered and verified, 1 ended without a verified result, 2 bad usage or bad
task file, 3 waiting for approval, 4 no usable model endpoint, 5 limits reached, 130 cancelled.
"""

app = typer.Typer(
    name="nightcrew",
    help=_HELP,
    epilog=examples(
        "nightcrew demo                           watch a real model repair a small repository",
        "nightcrew run fix-login.md --repo .      one task, here and now",
        "nightcrew up                             the service: tasks are files dropped into its inbox",
    ),
    no_args_is_help=True,
    # Plain help: rich alone would cost more time than everything else that --help does.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    add_help_option=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"nightcrew {version('nightcrew')}")
        raise typer.Exit


@app.callback()
def _root(  # pyright: ignore[reportUnusedFunction] - typer calls it
    _help: HelpFlag = False,
    _show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


up.register(app)
running.register(app)
tasks.register(app)
holding.register(app)
deciding.register(app)
journal.register(app)
replay.register(app)
moving.register(app)
doctor.register(app)
demo.register(app)
models.register(app)
crew.register(app)
mcp.register(app)
unitcommands.register(app)


def main() -> None:
    """The console entry: ends the process with the command's exit code, and an expected error in a sentence."""
    try:
        app()
    except Exception as error:
        code = explain(error)
        if code is None:
            raise
        sys.exit(code)


def explain(error: Exception) -> int | None:
    """Say an expected error in one sentence on standard error and return its exit code; None for a bug of ours, and
    when NIGHTCREW_DEBUG asks for the traceback."""
    from nightcrew.config import environment
    from nightcrew_tools.groups import unwrapped

    cause = unwrapped(error)
    code = _exit_code(cause)
    if code is None or environment().get("NIGHTCREW_DEBUG"):
        return None
    say(f"nightcrew: {cause}")
    return code


def _exit_code(error: BaseException) -> int | None:
    from nightcrew.errors import ConfigError, ModelError, NightcrewError, TaskFileError
    from nightcrew_tools.contract import NotWaiting, TaskNotFound
    from nightcrew_workspaces.errors import WorkspaceError

    if isinstance(error, ConfigError | TaskFileError):
        return 2
    if isinstance(error, ModelError):
        return 4
    if isinstance(error, NightcrewError | WorkspaceError | TaskNotFound | NotWaiting | OSError):
        return 1
    return None
