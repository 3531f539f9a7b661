"""`nightcrew crew`: which crews there are, who plays in them, and whether they fit on a card."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from nightcrew.cli import crew_check, crew_files, crew_plan, crew_serving
from nightcrew.cli.crew_choice import NameArgument, chosen
from nightcrew.cli.output import HelpFlag, JsonFlag, emit, examples, out

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nightcrew.config import Config
    from nightcrew.crew.files import CrewFile

app = typer.Typer(
    name="crew",
    help="Crews: which there are, who plays in them, and how they fit on the cards of a machine.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    add_help_option=False,
)


@app.callback()
def _group(_help: HelpFlag = False) -> None:  # pyright: ignore[reportUnusedFunction] - typer calls it
    pass


def register(parent: typer.Typer) -> None:
    """Add the commands; those that plan, serve or pull live in modules of their own, each with a `register`."""
    crew_plan.register(app)
    crew_files.register(app)
    crew_serving.register(app)
    crew_check.register(app)
    parent.add_typer(app, short_help="Crews, and how they fit on a card.")


@app.command("list", epilog=examples("nightcrew crew list", "nightcrew crew list --json | jq '.[].name'"))
def list_crews(json: JsonFlag = False) -> None:
    """List the built-in crews, a person's own, and those of the configuration file."""
    from nightcrew.config import environment, load_config
    from nightcrew.crew import known

    environ = environment()
    config = load_config()
    crews = [_listed(name, config, environ) for name in known(config, environ)]
    if json:
        emit(crews)
        return
    width = max(len(str(each["name"])) for each in crews)
    for each in crews:
        mark = "*" if each["name"] == config.crew else " "
        out(f"{mark} {each['name']:<{width}}  {each['about'] or each['origin']}")


@app.command("show", epilog=examples("nightcrew crew show trio", "nightcrew crew show trio --json"))
def show(name: NameArgument = None, json: JsonFlag = False) -> None:
    """Show who plays which role, with which model, at which address, and what each needs."""
    crew = chosen(name)
    if json:
        emit(_facts(crew))
        return
    out(f"{crew.name}: {crew.about or 'a crew of its own'} ({crew.origin})")
    if crew.embedded:
        out("the embedded model plays every role")
    for role, bound in crew.roles.items():
        served = f"served here on port {crew.port(bound.settings.model)}" if bound.local else bound.settings.base_url
        need = f"{bound.need.requests} × {bound.need.context:,} tokens" if bound.local else ""
        out(f"  {role:<10}  {bound.settings.model or 'its first model'}  {served}  {need}".rstrip())


def _listed(name: str, config: Config, environ: Mapping[str, str]) -> dict[str, object]:
    """A crew, or what is wrong with its file: a broken one must not hide the others."""
    from nightcrew.crew import crew_of
    from nightcrew.errors import ConfigError

    try:
        return _facts(crew_of(name, config, environ))
    except ConfigError as error:
        return {"name": name, "about": " ".join(str(error).split()), "origin": "broken", "embedded": False, "roles": {}}


def _facts(crew: CrewFile) -> dict[str, object]:
    return {
        "name": crew.name,
        "about": crew.about,
        "origin": crew.origin,
        "embedded": crew.embedded,
        "roles": {
            name: {
                "model": role.settings.model,
                "base_url": role.settings.base_url,
                "local": role.local,
                "context": role.need.context,
                "requests": role.need.requests,
            }
            for name, role in crew.roles.items()
        },
    }
