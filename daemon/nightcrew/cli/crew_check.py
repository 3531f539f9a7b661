"""`nightcrew crew check`: every endpoint of a crew is asked one real question and for one tool call."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from nightcrew.cli.crew_choice import NameArgument
from nightcrew.cli.output import JsonFlag, emit, examples, out

if TYPE_CHECKING:
    from nightcrew.config import RoleSettings
    from nightcrew.llm.examine import Examination

_CHECK = examples("nightcrew crew check", "nightcrew crew check trio", "nightcrew crew check trio --json")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("check", epilog=_CHECK)(check)


def check(name: NameArgument = None, json: JsonFlag = False) -> None:
    """Ask each endpoint of a crew one question and for one tool call, and say what it lacks.

    Any OpenAI-compatible server will do. Exits with 0 when all can work, with 1 when one cannot, with 4 when one does
    not answer.
    """
    import anyio

    from nightcrew.delivery.quoting import one_line

    found: list[Examination | str] = []
    facts: list[dict[str, Any]] = []
    for roles, settings in _groups(name):
        found.append(one := anyio.run(_examine, settings))
        facts.append(_facts(roles, one))
        for line in () if json else _lines(roles, one):
            out(one_line(line, 500))
    if json:
        emit(facts)
    if any(isinstance(one, str) for one in found):
        raise typer.Exit(4)
    raise typer.Exit(0 if all(each["ok"] for each in facts) else 1)


def _groups(name: str | None) -> list[tuple[list[str], RoleSettings]]:
    """Roles and the settings that they share: those that differ in nothing that is examined are asked once."""
    from nightcrew.config import environment, load_config
    from nightcrew.crew import settings_of
    from nightcrew.crew.files import DEFAULT
    from nightcrew.errors import ConfigError

    config = load_config()
    name = name or config.crew or DEFAULT
    settings = settings_of(name, config, environment())
    if settings is None:
        raise ConfigError(f"crew {name} is played by the embedded model, which has no endpoint: see `nightcrew doctor`")
    groups: dict[str, tuple[list[str], RoleSettings]] = {}
    for role, of in settings.roles().items():
        if role != "embedder":
            key = of.model_dump_json(exclude={"temperature", "top_p", "max_tokens", "priority", "extra_body"})
            groups.setdefault(key, ([], of))[0].append(role)
    return list(groups.values())


async def _examine(settings: RoleSettings) -> Examination | str:
    """What was found, or why nothing could be."""
    from nightcrew.config import environment, read_key
    from nightcrew.errors import ModelError
    from nightcrew.llm.examine import examine

    try:
        return await examine(settings, read_key(settings, environment()))
    except ModelError as error:
        return str(error)


def _facts(roles: list[str], one: Examination | str) -> dict[str, Any]:
    if isinstance(one, str):
        return {"roles": roles, "ok": False, "error": one}
    return {"roles": roles, "ok": one.ok, **asdict(one)}


def _lines(roles: list[str], one: Examination | str) -> list[str]:
    who = ", ".join(roles)
    if isinstance(one, str):
        return [f"fail  {who}: {one}"]
    words = [one.model or "its first model"]
    words += [one.server] if one.server else []
    words += [f"context {one.context:,}"] if one.context else ["context not told"]
    words += [f"first token after {one.first_token_seconds:.2f} s"] if one.first_token_seconds is not None else []
    words += [f"{one.tokens_per_second:g} tokens/s"] if one.tokens_per_second else []
    words.append(f"cached {one.cached_tokens:,} of {one.prompt_tokens:,}" if one.cache_report else "no cache report")
    words.append(
        {"separate": "thoughts apart", "in the text": "thoughts in the text", "none": "no thoughts"}[one.thinking]
    )
    if one.tool_call is not None:
        words.append("tool call as asked" if one.tool_call else "tool call not as asked")
    if one.priority is not None:
        words.append("priorities on" if one.priority else "priorities off")
    level = "ok  " if not one.findings else "warn" if one.ok else "fail"
    return [f"{level}  {who}: {'; '.join(words)}", *(f"      → {finding.text}" for finding in one.findings)]
