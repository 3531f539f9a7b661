"""What commands write: results on standard output, words about them on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from nightcrew.secrecy import SECRETS

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on standard output.")]


def _help(context: typer.Context, wanted: bool) -> None:
    if wanted:
        typer.echo(context.get_help())
        raise typer.Exit


HelpFlag = Annotated[
    bool, typer.Option("--help", "-h", callback=_help, is_eager=True, help="Show this message and exit.")
]
"""`--help` of a group of commands. Typer's own would load pydantic (0.2 s) to find that it was not given."""


def out(text: str | bytes = "") -> None:
    """A line of the result."""
    typer.echo(text)


def raw(text: bytes) -> None:
    """A result byte by byte, with nothing added."""
    typer.echo(text, nl=False)


def say(text: str) -> None:
    """A line about the work, for people."""
    typer.echo(SECRETS.hide(text), err=True)


def emit(value: Mapping[str, Any] | Sequence[Any]) -> None:
    """A result as one JSON document. ASCII, so that no byte of a model's text can reach a terminal."""
    typer.echo(SECRETS.hide(json.dumps(value, indent=2)))


def for_terminal(text: str) -> str:
    """The text as it is when it goes to a file or a pipe; without controls when a person's terminal would obey them."""
    from nightcrew.delivery.quoting import clean

    return clean(text) if sys.stdout.isatty() else text


def colourful(*, error: bool = True) -> bool:
    """Whether colours make sense: a terminal that has not been told otherwise."""
    from nightcrew.config import environment

    stream = sys.stderr if error else sys.stdout
    return stream.isatty() and "NO_COLOR" not in environment() and environment().get("TERM") != "dumb"


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])
