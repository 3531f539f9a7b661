"""`nightcrew journal`: what stands in the journal of one task, event by event."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from nightcrew.cli.output import JsonFlag, examples, for_terminal, out, say
from nightcrew.cli.tasks import Desk, TaskId, ask

if TYPE_CHECKING:
    from nightcrew.events import MessageAdded, ModelReplied, Recorded, ToolRan
    from nightcrew.journal.fold import TaskRecord

_POLL_SECONDS = 0.25

_JOURNAL = examples(
    "nightcrew journal 6dk                              one line for each event",
    "nightcrew journal 6dk --follow --json | jq .event.kind",
    "nightcrew journal 6dk --conversation executor/1    the exact messages, as they are sent again",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("journal", epilog=_JOURNAL, short_help="Print a task's journal.")(journal)


def journal(
    task: TaskId,
    conversation: Annotated[
        str | None,
        typer.Option("--conversation", "-c", metavar="NAME", help="The messages of this one instead, one a line."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the task has ended.")] = False,
    json: JsonFlag = False,
) -> None:
    """Print what stands in the journal of a task: number, time, kind and the facts of each event.

    With --json each line is one event as it is stored. Exits with 1 where an event cannot be read, after those before.
    """
    if conversation is not None:
        _converse(task, conversation)
        return

    def line(recorded: Recorded) -> str:
        return recorded.model_dump_json(ensure_ascii=True) if json else event_line(recorded)

    damage = ask(lambda desk: _print(desk, task, line, follow=follow))
    if damage:
        say(f"nightcrew: {damage}")
        raise typer.Exit(1)


async def _print(desk: Desk, task: str, line: Callable[[Recorded], str], *, follow: bool) -> str:
    """Print the events, and return why the next one cannot be read; empty when all were."""
    import anyio

    found, seen, version = desk.gateway.resolve(task), 0, -1
    while True:
        if version != (current := desk.journal.data_version()):
            version = current
            events, damage = desk.journal.readable(found, after=seen)
            for recorded in events:
                out(line(recorded))
                seen = recorded.seq
            if not seen and not damage:
                desk.journal.record(found)  # says it where its events are gone
            if damage or not follow or desk.journal.view(found).outcome is not None:
                return damage
        await anyio.sleep(_POLL_SECONDS)


def _converse(task: str, name: str) -> None:
    """The messages byte by byte where they go to a file or a program."""

    async def look(desk: Desk) -> TaskRecord:
        return desk.journal.record(desk.gateway.resolve(task))

    record = ask(look)
    if name not in record.conversations:
        there = ", ".join(record.conversations) or "none yet"
        raise typer.BadParameter(f"the task has no conversation {name!r}; there are: {there}")
    for text in record.conversations[name]:
        out(for_terminal(text))


def event_line(recorded: Recorded) -> str:
    """One event for people: its number, UTC time, kind and facts, without anything that a terminal would obey."""
    from nightcrew.delivery.quoting import one_line

    at = recorded.at[:19].replace("T", " ")
    return f"{recorded.seq:>5}  {at}  {recorded.event.kind:<16}  {one_line(_facts(recorded), 300)}".rstrip()


def _facts(recorded: Recorded) -> str:
    """What a person would ask of the event: its short fields by name, and of its long ones how long they are."""
    from nightcrew.events import ChecksRan, MessageAdded, ModelReplied, ToolRan

    event = recorded.event
    if isinstance(event, ChecksRan):
        results = ", ".join(f"{one.check.command}: {'passed' if one.ok else one.ended}" for one in event.results)
        return f"{event.phase} attempt={event.attempt} commit={event.commit[:12]} {results or 'none'}"
    if isinstance(event, MessageAdded | ModelReplied | ToolRan):
        return _message(event)
    return " ".join(_fields(event.model_dump(mode="json", exclude={"kind"})))


def _message(event: MessageAdded | ModelReplied | ToolRan) -> str:
    from nightcrew.events import ModelReplied, ToolRan

    facts = [event.conversation]
    if isinstance(event, ModelReplied):
        usage = event.usage
        facts.append(f"{event.finish_reason} {event.seconds:g} s")
        facts.append(f"{usage.prompt_tokens}+{usage.completion_tokens} tokens, {usage.cached_tokens} cached")
    if isinstance(event, ToolRan):
        failed = " failed" if event.is_error else ""
        facts.append(f"{event.name} {event.call_id}{failed}{f' tree={event.tree[:12]}' if event.tree else ''}")
    return " ".join((*facts, f"[{len(event.message)}]", event.message))


def _fields(values: dict[str, object], before: str = "") -> list[str]:
    parts: list[str] = []
    for key, value in values.items():
        if isinstance(value, dict):
            parts.extend(_fields(value, f"{before}{key}."))  # pyright: ignore[reportUnknownArgumentType]
        elif value not in (None, "", [], False):
            text = str(value)  # pyright: ignore[reportUnknownArgumentType]
            parts.append(f"{before}{key}={text if len(text) <= 120 else f'{text[:119]}…[{len(text)}]'}")
    return parts
