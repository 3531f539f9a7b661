"""`nightcrew replay`: a task once more with its recorded answers, to see whether its models would be asked the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nightcrew.cli.output import JsonFlag, emit, examples, for_terminal, out, say
from nightcrew.cli.tasks import Desk, ask

if TYPE_CHECKING:
    from nightcrew.config import Config
    from nightcrew.events import Recorded
    from nightcrew.service.replay import Replayed

_REPLAY = examples(
    "nightcrew replay 6dk                          its repository is where it was",
    "nightcrew replay 6dk --repo ~/src/shop",
    "nightcrew journal 6dk --json > golden.jsonl   and later: nightcrew replay golden.jsonl",
)

_BANNER = """\
################################################################################
##                                                                            ##
##      R  E  P  L  A  Y        NO MODEL IS ASKED, NOTHING IS DELIVERED       ##
##                                                                            ##
################################################################################"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("replay", epilog=_REPLAY, short_help="Run a task's recorded answers through the loop again.")(replay)


def replay(
    task: Annotated[
        str, typer.Argument(metavar="ID", help="The task, or a file of what `nightcrew journal ID --json` prints.")
    ],
    repo: Annotated[
        str | None, typer.Option("--repo", metavar="PATH", help="Where its repository is, when it is there no more.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Times, temporary names and ids in what tools said count, too.")
    ] = False,
    keep: Annotated[
        Path | None, typer.Option("--keep", metavar="DIR", help="A new folder for the home that is else thrown away.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No lines about what happens, only the result.")] = False,
    json: JsonFlag = False,
) -> None:
    """Run the answers of a task's models through the real loop again, with real boxes, in a home and clone of its own.

    Compares every message that is sent with the recorded one, and says where they differ. The repository is only read;
    boxes have no network. Exits with 0 when the prompts and verdicts are the same, else with 1.
    """
    import anyio

    from nightcrew.cli.running import make_progress
    from nightcrew.config import load_config
    from nightcrew.service.replay import replay as run

    config = load_config()
    events = _events(task)
    say(_BANNER)
    progress = make_progress(quiet=quiet)

    async def again(config: Config) -> Replayed:
        return await run(config, events, repo=repo, strict=strict, keep=keep, say=progress.say, on_event=progress.show)

    found = anyio.run(again, config)
    if json:
        emit(as_json(found))
    else:
        for line in report(found):
            out(for_terminal(line))
    raise typer.Exit(0 if found.same else 1)


def _events(task: str) -> list[Recorded]:
    from nightcrew.errors import NightcrewError
    from nightcrew.events import Recorded

    path = Path(task)
    if not path.is_file():

        async def read(desk: Desk) -> list[Recorded]:
            found = desk.gateway.resolve(task)
            desk.journal.record(found)  # says it where its events are gone
            return desk.journal.read(found)

        return ask(read)
    try:
        return [Recorded.model_validate_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise NightcrewError(f"{path}: these are not the events of a task: {error}") from error


def as_json(found: Replayed) -> dict[str, object]:
    """The result for programs."""
    from dataclasses import asdict

    return {"REPLAY": True, **asdict(found), "same": found.same}


def report(found: Replayed) -> list[str]:
    """The result for people."""
    lines = [
        f"REPLAY OF TASK {found.task}: THIS WAS NO RUN OF A MODEL, AND NOTHING WAS DELIVERED",
        f"{found.prompts} answers asked for, {found.messages} messages compared, "
        f"{found.passing} differ only in times and ids",
        f"recorded: {found.recorded}, attempts {_verdicts(found.verdicts_recorded)}",
        f"replayed: {found.outcome}, attempts {_verdicts(found.verdicts)}",
    ]
    for one in found.differences:
        lines.append(f"DIFFERS: {one.conversation}, message {one.number} ({one.role}): {one.what}")
        lines.extend(f"    {line}" for line in one.text.splitlines())
    lines.append("the prompts are the same" if found.same else "THE PROMPTS OR VERDICTS ARE NOT THE SAME")
    return lines


def _verdicts(passed: tuple[bool, ...]) -> str:
    return ", ".join("passed" if one else "not passed" for one in passed) or "none"
