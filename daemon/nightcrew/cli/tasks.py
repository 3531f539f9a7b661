"""`nightcrew list`, `show`, `report`, `diff`, `cancel`: what is known of tasks."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from nightcrew.cli.output import JsonFlag, colourful, emit, examples, for_terminal, out, raw, say

if TYPE_CHECKING:
    from nightcrew.config import Config
    from nightcrew.events import Recorded
    from nightcrew.gateway import JournalGateway
    from nightcrew.journal import Journal
    from nightcrew.service.upkeep import Shelved
    from nightcrew_tools.contract import TaskView

T = TypeVar("T")

_NO_TASKS = "no tasks yet: `nightcrew submit` one, or drop a task file into the inbox"

TaskId = Annotated[str, typer.Argument(metavar="ID", help="The task's id, the beginning of it, or its name.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        "list",
        short_help="List tasks.",
        epilog=examples(
            "nightcrew list",
            "nightcrew list --schedules",
            "nightcrew list --workspaces",
            "nightcrew list --json | jq '.[].outcome'",
        ),
    )(list_tasks)
    app.command(
        "show",
        short_help="Show a task and what happened.",
        epilog=examples("nightcrew show 6dk", "nightcrew show fix-login --json"),
    )(show)
    app.command("report", short_help="Print a task's report.", epilog=examples("nightcrew report 6dk | less"))(report)
    app.command(
        "diff",
        short_help="Print what a task changed.",
        epilog=examples("nightcrew diff 6dk", "nightcrew diff 6dk | git apply --3way"),
    )(diff)
    app.command("cancel", short_help="Stop a task.", epilog=examples("nightcrew cancel 6dk"))(cancel)


def list_tasks(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="The newest so many.")] = 50,
    schedules: Annotated[
        bool, typer.Option("--schedules", help="Tasks that run again and again, and when they do next.")
    ] = False,
    workspaces: Annotated[
        bool, typer.Option("--workspaces", help="The private clones that are on the disk, and why, oldest first.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """List tasks, newest first."""
    from nightcrew.journal.health import storage_trouble

    config = _config()
    if trouble := storage_trouble(config):
        say(f"no new task is taken: {trouble}")
    if workspaces:
        _list_workspaces(config, json=json)
        return
    views = _ask(config, lambda desk: desk.gateway.list()) if config.journal.exists() else []
    views = [view for view in views if view.schedule or not schedules][:limit]
    if json:
        emit([view_json(view) for view in views])
        return
    if not views:
        say("nothing is scheduled: a task file with `schedule: daily 03:00` is" if schedules else _NO_TASKS)
    if waiting := sum(view.exit_code == 3 for view in views):
        say(f"{waiting} waiting for approval: see `nightcrew report ID`, then `nightcrew approve ID` or `reject ID`")
    for line in _table(views):
        out(line)


def show(task: TaskId, json: JsonFlag = False) -> None:
    """Show a task: where it stands, and what happened so far."""

    async def look(desk: Desk) -> tuple[TaskView, list[Recorded], str]:
        view = await desk.gateway.view(task)
        events, damage = ([], "") if json else desk.journal.readable(view.id)
        return view, events, damage

    view, events, damage = _ask(_config(), look)
    if json:
        emit(view_json(view))
        return
    from nightcrew.cli.progress import Progress

    for label, value in _facts(view):
        out(f"{label:>9}  {value}")
    out()
    progress = Progress(out, colour=colourful(error=False))
    for recorded in events:
        progress.show(recorded)
    if damage:
        say(f"nightcrew: {damage}")
        raise typer.Exit(1)


def report(task: TaskId, json: JsonFlag = False) -> None:
    """Print the report of a task that has ended: Markdown, or with --json the report for programs."""
    from nightcrew.delivery import result_paths

    config = _config()

    async def look(desk: Desk) -> tuple[TaskView, str]:
        return await desk.gateway.view(task), await desk.gateway.report(task)

    view, text = _ask(config, look)
    if json:
        raw(result_paths(config.outbox, view.name).json.read_bytes())
    else:
        out(for_terminal(text).rstrip("\n"))


def diff(task: TaskId, json: JsonFlag = False) -> None:
    """Print what a task changed, as `git diff --binary` does; what it last tried, when it was not verified."""

    async def look(desk: Desk) -> tuple[TaskView, str]:
        return await desk.gateway.view(task), await desk.gateway.diff(task)

    view, text = _ask(_config(), look)
    if json:
        emit({"id": view.id, "verified": view.exit_code == 0, "files": _files(text), "patch": text})
    elif not text:
        say("it changed nothing")
    elif sys.stdout.isatty() or view.patch_path is None:
        out(for_terminal(text).rstrip("\n"))
    else:
        raw(Path(view.patch_path).read_bytes())  # to the byte, so that it can be applied


def cancel(task: TaskId, json: JsonFlag = False) -> None:
    """Stop a task: a queued or waiting one at once, a running one within seconds. What it did is kept as a patch."""
    from nightcrew.cli.owed import write_reports

    async def stop(desk: Desk) -> TaskView:
        view = await desk.gateway.cancel(task)
        if view.outcome is not None:
            # It was waiting for its next run, so no worker is there to write down what it did; nor for those after it.
            await write_reports(desk.config, desk.journal)
            view = await desk.gateway.view(view.id)
        elif view.outcome is None and view.concerns:
            view = await desk.carry_out(view)
        return view

    view = _ask(_config(), stop, write=True)
    if json:
        emit(view_json(view))
    else:
        out(f"{view.id}  {view.outcome or f'{view.state}, told to stop'}")


def view_json(view: TaskView) -> dict[str, object]:
    """A task for programs: the fields of `TaskView` and its exit code (null while there is none)."""
    return {**view.model_dump(mode="json"), "exit_code": view.exit_code}


# --- inside


@dataclass(frozen=True)
class Desk:
    """What a question about tasks is put to."""

    config: Config
    gateway: JournalGateway
    journal: Journal

    async def carry_out(self, view: TaskView) -> TaskView:
        """What was decided about a task that waited for approval, here and now."""
        from nightcrew.service.approval import settle_here

        await settle_here(self.config, self.journal, view.id)
        return await self.gateway.view(view.id)


def _config() -> Config:
    from nightcrew.config import load_config

    return load_config()


def ask(question: Callable[[Desk], Awaitable[T]], *, write: bool = False) -> T:
    """Put a question to the configured home. Raises `TaskNotFound` where it has no journal."""
    return _ask(_config(), question, write=write)


def _ask(config: Config, question: Callable[[Desk], Awaitable[T]], *, write: bool = False) -> T:
    """Raises `TaskNotFound` in a home without a journal: only looking should make none."""
    import anyio

    from nightcrew.gateway import JournalGateway
    from nightcrew.journal import Journal
    from nightcrew_tools.contract import TaskNotFound

    if not config.journal.exists():
        raise TaskNotFound(_NO_TASKS)

    async def ask() -> T:
        with Journal.open(config.journal, read_only=not write) as journal:
            return await question(Desk(config, JournalGateway(journal, config), journal))

    return anyio.run(ask)


def account() -> str:
    """Who the system says this is: the environment could say anything."""
    import os
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def _files(patch: str) -> list[dict[str, object]]:
    from nightcrew.delivery.patches import changed_files

    return [
        {"path": file.path, "status": file.status, "added": file.added, "removed": file.removed}
        for file in changed_files(patch)
    ]


def _table(views: list[TaskView]) -> list[str]:
    from nightcrew.delivery.quoting import one_line

    rows = [(view.id, _stands(view), _age(view.submitted_at), one_line(view.title, 50), _note(view)) for view in views]
    widths = [max(len(row[column]) for row in rows) if rows else 0 for column in range(4)]
    return [
        "  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[4]]).rstrip()
        for row in rows
    ]


def _stands(view: TaskView) -> str:
    """How a task ended, or stands: in a word or two."""
    from nightcrew.journal.views import DAMAGED

    return "damaged" if view.reason.startswith(DAMAGED) else str(view.outcome or view.state)


def _list_workspaces(config: Config, *, json: bool) -> None:
    from nightcrew.delivery.quoting import one_line

    there = _workspaces(config)
    if json:
        emit([{**asdict(one), "path": str(one.path)} for one in there])
        return
    if not there:
        say("no workspaces are on the disk")
    for one in there:
        size = f"{one.bytes / 1024**2:.1f} MiB"
        title = one_line(one.title, 50)
        out(f"{one.task}  {one.state:<20}  {size:>12}  {_length(one.age_seconds):>6}  {title}")
        out(f"{'':<{len(one.task)}}  {one.why}: {one.path}")


def _workspaces(config: Config) -> list[Shelved]:
    import anyio

    from nightcrew.journal import Journal
    from nightcrew.service.upkeep import shelf
    from nightcrew.service.worker import make_workspaces

    workspaces = make_workspaces(config)
    if not config.journal.exists():
        return anyio.run(shelf, config.workspaces, None, workspaces)
    with Journal.open(config.journal, read_only=True) as journal:
        return anyio.run(shelf, config.workspaces, journal, workspaces)


def _note(view: TaskView) -> str:
    from nightcrew.delivery.quoting import one_line

    schedule = f"{view.schedule}: " if view.schedule else ""
    return one_line(schedule + (view.branch or view.activity or view.reason), 80)


def decide_words(task: str) -> str:
    """What to type about a result that waits for approval."""
    decide = f'`nightcrew approve {task}` or `nightcrew reject {task} --why "..."`'
    return f"look at it with `nightcrew report {task}`, then type {decide}"


def _age(at: str) -> str:
    from datetime import UTC, datetime

    return _length((datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds())


def _length(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{max(0, int(seconds))} s"


def _facts(view: TaskView) -> list[tuple[str, str]]:
    from nightcrew.delivery.quoting import one_line
    from nightcrew.delivery.report import duration, public_model

    usage = view.usage
    tokens = f"{usage.prompt_tokens:,} read ({usage.cached_tokens:,} cached), {usage.completion_tokens:,} written"
    facts = [
        ("task", f"{view.id}  {view.name}"),
        ("title", view.title),
        ("repo", public_model(view.repo)),
        ("crew", view.crew or "what is found"),
        ("state", _stands(view)),
        ("now", view.activity),
        ("reason", view.reason),
        ("schedule", view.schedule or ""),
        ("remark", view.remark),
        ("retry of", view.retry_of or ""),
        *(("concern", f"{concern.path} {concern.why} ({concern.kind})") for concern in view.concerns[:50]),
        ("decide", decide_words(view.id) if view.exit_code == 3 else ""),
        ("branch", view.branch or ""),
        ("commit", view.commit or ""),
        ("report", view.report_path or ""),
        ("patch", view.patch_path or ""),
        ("attempts", str(view.attempts) if view.attempts else ""),
        ("tokens", tokens if usage.requests else ""),
        ("model", f"{usage.requests} requests, {duration(usage.model_seconds)}" if usage.requests else ""),
    ]
    return [(label, one_line(value, 1000)) for label, value in facts if value]
