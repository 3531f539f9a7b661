"""Which crew a command of `nightcrew crew` is about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nightcrew.crew.files import CrewFile

NameArgument = Annotated[str | None, typer.Argument(metavar="[NAME]", help="The crew; the configured one, else `duo`.")]


def chosen(name: str | None) -> CrewFile:
    """The crew of this name; the configured one, else `duo`. Raises `ConfigError`."""
    from nightcrew.config import environment, load_config
    from nightcrew.crew import crew_of
    from nightcrew.crew.files import DEFAULT

    config = load_config()
    return crew_of(name or config.crew or DEFAULT, config, environment())
