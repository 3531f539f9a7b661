"""`nightcrew run` and `nightcrew submit`: a task now, or a task for the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nightcrew.cli.output import JsonFlag, colourful, emit, examples, out, say
from nightcrew.cli.tasks import decide_words, view_json

if TYPE_CHECKING:
    from nightcrew.cli.progress import Progress
    from nightcrew.cli.taskinput import Asked
    from nightcrew.config import Config
    from nightcrew_tools.contract import TaskRequest, TaskView

Repo = Annotated[
    str | None, typer.Option("--repo", metavar="PATH", help="Path or URL of the repository; before what the file says.")
]
CrewName = Annotated[str | None, typer.Option("--crew", metavar="NAME", help="Who does it; before what the file says.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No lines about what happens, only the result.")]

_TASK = "A task file, or a folder with a task.md; `-` reads standard input."
_RUN = examples(
    "nightcrew run fix-login.md                 the file names its repository",
    "nightcrew run fix-login.md --repo .        this one",
    "nightcrew run login-broken/                with its pictures: a folder with a task.md",
    "nightcrew run fix-login.md --json | jq .branch",
    "echo 'Fix the failing test' | nightcrew run - --repo .",
)
_SUBMIT = examples(
    "nightcrew submit fix-login.md",
    "nightcrew submit -m 'Make the tests pass' --repo ~/shop",
    "nightcrew submit fix-login.md --wait && git merge nightcrew/…",
    "nightcrew submit fix-login.md --after 6dk --priority 10",
    "nightcrew submit -m 'Update the changelog' --repo ~/shop --schedule 'weekly mon 03:00'",
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("run", epilog=_RUN, short_help="Work on one task here and now.")(run)
    app.command("submit", epilog=_SUBMIT, short_help="Put a task into the queue.")(submit)


def run(
    task: Annotated[
        str,
        typer.Argument(metavar="TASK.md", help="A task file, or a folder with a task.md; `-` reads standard input."),
    ],
    repo: Repo = None,
    crew: CrewName = None,
    quiet: Quiet = False,
    json: JsonFlag = False,
) -> None:
    """Work on one task here and now, without the service, and exit with how it ended.

    0 delivered and verified, 1 ended without a verified result, 2 bad usage or bad task file, 3 waiting for approval,
    4 no usable model endpoint, 5 limits reached, 130 cancelled (Ctrl-C).
    """
    import anyio

    from nightcrew.cli.taskinput import asked_in_file
    from nightcrew.config import load_config
    from nightcrew.errors import TaskFileError

    config = load_config()
    asked = asked_in_file(task, config, repo=repo, crew=crew)
    if asked.request.after or asked.request.schedule:
        raise TaskFileError(f"{task}: `run` works here and now; `after` and `schedule` need the queue: use `submit`")
    anyio.run(_validate, config, asked.request)
    view = anyio.run(_run, config, asked, quiet)
    _result(view, json=json)
    raise typer.Exit(1 if view.exit_code is None else view.exit_code)


def submit(
    task: Annotated[
        str | None,
        typer.Argument(metavar="TASK.md", help="A task file, or a folder with a task.md; `-` reads standard input."),
    ] = None,
    message: Annotated[str | None, typer.Option("--message", "-m", metavar="TEXT", help="The task itself.")] = None,
    repo: Repo = None,
    crew: CrewName = None,
    after: Annotated[
        list[str] | None,
        typer.Option("--after", metavar="ID", help="Begin when that task is delivered; may be repeated."),
    ] = None,
    priority: Annotated[
        int | None, typer.Option("--priority", metavar="N", min=-100, max=100, help="Higher comes first; 0 by default.")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option("--schedule", metavar="WHEN", help="Again and again, such as 'daily 03:00'.")
    ] = None,
    key: Annotated[
        str | None, typer.Option("--id", metavar="KEY", help="Your own id: the same id twice is one task.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end, and exit with it as `run` does.")] = False,
    quiet: Quiet = False,
    json: JsonFlag = False,
) -> None:
    """Put a task into the queue of the service, which may be running or not.

    Exits with 0 when it is queued and 2 for a bad task file. With --wait it exits as `run` does; Ctrl-C then ends the
    waiting and not the task.
    """
    import anyio

    from nightcrew.cli.taskinput import asked_in_file, asked_in_words, with_options
    from nightcrew.config import load_config

    if (task is None) == (message is None):
        raise typer.BadParameter("give a task file or -m TEXT, one of them")
    config = load_config()
    if message is not None:
        asked = asked_in_words(message, config, repo=repo, crew=crew)
    else:
        assert task is not None
        asked = asked_in_file(task, config, repo=repo, crew=crew)
    said: dict[str, object] = {"after": tuple(after or ()), "priority": priority, "schedule": schedule, "id": key}
    asked = with_options(asked, said)
    if asked.request.schedule and wait:
        raise typer.BadParameter("a scheduled task has no end to wait for", param_hint="--wait")
    view = anyio.run(_submit, config, asked)
    if view.remark:
        say(f"{view.id}: {view.remark}")
    if wait:
        view = _wait(config, view, quiet=quiet)
        _result(view, json=json)
        raise typer.Exit(view.exit_code or 0)
    if json:
        emit(view_json(view))
    else:
        out(f"{view.id}  {view.name}: {view.state}" + (f", {view.reason}" if view.reason else ""))
        say(_who_takes_it(config, view))


def make_progress(*, names: bool = False, quiet: bool = False) -> Progress:
    """Lines about what happens, on standard error."""
    from nightcrew.cli.progress import Progress

    return Progress((lambda _line: None) if quiet else say, colour=colourful(), names=names)


async def _validate(config: Config, request: TaskRequest) -> None:
    from nightcrew.journal.health import refuse_in_trouble
    from nightcrew.service.door import validate

    refuse_in_trouble(config)
    await validate(config, request)


async def _run(config: Config, asked: Asked, quiet: bool) -> TaskView:
    from nightcrew.gateway import JournalGateway
    from nightcrew.journal import Journal
    from nightcrew.service import run_one
    from nightcrew.service.worker import open_worker

    progress = make_progress(quiet=quiet)
    request, task = asked.settled(config)
    record = await run_one(
        config,
        request,
        open_worker=open_worker,
        say=progress.say,
        name_hint=asked.hint,
        task_id=task,
        on_event=progress.show,
    )
    with Journal.open(config.journal, read_only=True) as journal:
        return await JournalGateway(journal, config).view(record.id)


async def _submit(config: Config, asked: Asked) -> TaskView:
    from nightcrew.gateway import JournalGateway
    from nightcrew.journal import Journal

    await _validate(config, asked.request)
    request, task = asked.settled(config)
    with Journal.open(config.journal) as journal:
        gateway = JournalGateway(journal, config)
        return await gateway.submit(request, origin="cli", name_hint=asked.hint, task_id=task)


def _who_takes_it(config: Config, view: TaskView) -> str:
    from nightcrew.journal.locks import ServiceLock
    from nightcrew_tools.contract import TaskState

    if view.state is TaskState.ENDED:
        return f"this id was there already: `nightcrew report {view.id}`"
    if ServiceLock.owner(config.home) is None:
        return "no service is running: start `nightcrew up` and it is taken"
    return f"`nightcrew show {view.id}` tells how far it is"


def _wait(config: Config, view: TaskView, *, quiet: bool) -> TaskView:
    import anyio

    from nightcrew.cli.follow import follow

    if view.exit_code is None:
        say(f"{view.id} {_who_takes_it(config, view)}")
    try:
        return anyio.run(follow, config, view.id, make_progress(quiet=quiet))
    except KeyboardInterrupt:
        say(f"no longer waiting; the task goes on: `nightcrew show {view.id}`, or `nightcrew cancel {view.id}`")
        raise typer.Exit(130) from None


def _result(view: TaskView, *, json: bool) -> None:
    if json:
        emit(view_json(view))
        return
    from nightcrew.delivery.quoting import one_line

    out(f"{view.id}  {view.outcome or view.state}" + (f": {one_line(view.reason, 300)}" if view.reason else ""))
    for label, value in (("branch", view.branch), ("report", view.report_path), ("patch", view.patch_path)):
        if value:
            out(f"{label:>9}  {one_line(value, 4096)}")
    if view.exit_code == 3:
        say(f"it waits for a person: {decide_words(view.id)}")
