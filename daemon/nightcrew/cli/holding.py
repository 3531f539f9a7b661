"""`nightcrew pause`, `resume` and `retry`: holding tasks, and doing them once more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nightcrew.cli.output import JsonFlag, emit, examples, out, say
from nightcrew.cli.tasks import TaskId, account, ask, view_json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nightcrew.cli.tasks import Desk
    from nightcrew_tools.contract import TaskRequest, TaskView

OptionalTask = Annotated[
    str | None, typer.Argument(metavar="[ID]", help="The task's id, the beginning of it, or its name.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        "pause",
        short_help="Hold a task, or the whole queue.",
        epilog=examples("nightcrew pause 6dk", "nightcrew pause --all"),
    )(pause)
    app.command(
        "resume",
        short_help="Let a paused task, or the queue, go on.",
        epilog=examples("nightcrew resume 6dk", "nightcrew resume --all"),
    )(resume)
    app.command(
        "retry",
        short_help="Do a task once more.",
        epilog=examples("nightcrew retry 6dk", "nightcrew retry 6dk --from-step 2"),
    )(retry)


def pause(
    task: OptionalTask = None,
    everything: Annotated[
        bool, typer.Option("--all", help="The whole queue, over restarts, until `resume --all`.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Hold a task until `resume`: a queued or scheduled one does not begin, a running one is let go within seconds.

    What ran goes on later with the same conversation, from its last finished tool call. With --all nothing of the queue
    runs or begins.
    """

    async def hold(desk: Desk, name: str) -> TaskView:
        return await desk.gateway.pause(name, by=account())

    _one_or_all(
        task, everything, hold, lambda desk: desk.journal.pause_all(by=account()), "is told to pause", json=json
    )


def resume(
    task: OptionalTask = None,
    everything: Annotated[bool, typer.Option("--all", help="The whole queue; single paused tasks stay so.")] = False,
    json: JsonFlag = False,
) -> None:
    """Let a paused task go on, or with --all the queue. A schedule does not make up for what it missed."""

    async def go_on(desk: Desk, name: str) -> TaskView:
        return await desk.gateway.resume(name, by=account())

    _one_or_all(task, everything, go_on, lambda desk: desk.journal.resume_all(), "goes on", json=json)


def retry(
    task: TaskId,
    step: Annotated[
        int | None,
        typer.Option("--from-step", metavar="N", min=1, help="Go on with the plan and the files as step N found them."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Do a task that has ended once more, as a new task: from the beginning, or from a step of its plan.

    From a step takes over the private clone of the old task, so that has to be there still: `keep = "failed"` under
    `[workspaces]` keeps the clones of tasks that did not deliver.
    """

    async def again(desk: Desk) -> TaskView:
        record = desk.journal.record(desk.gateway.resolve(task))
        await _validate(desk, record.request)
        if step is not None:
            _check_clone(desk, record.id)
        return await desk.gateway.retry(record.id, step=step)

    view = ask(again, write=True)
    if json:
        emit(view_json(view))
    else:
        out(f"{view.id}  {view.name}: {view.state}, a retry of {view.retry_of}")


async def _validate(desk: Desk, request: TaskRequest) -> None:
    from nightcrew.service.door import validate

    await validate(desk.config, request)


def _check_clone(desk: Desk, task: str) -> None:
    """Raises `NotPossible` where a step has nothing to go on from."""
    from nightcrew.errors import NotPossible
    from nightcrew.service.worker import make_workspaces

    if not make_workspaces(desk.config).exists(task):
        raise NotPossible(
            f"the private clone of task {task} is gone, and with it the files as its steps found them: retry it "
            'without a step. `keep = "failed"` under [workspaces] keeps the clones of tasks that did not deliver'
        )


def _one_or_all(
    task: str | None,
    everything: bool,
    one: Callable[[Desk, str], Awaitable[TaskView]],
    all_of_them: Callable[[Desk], None],
    words: str,
    *,
    json: bool,
) -> None:
    if (task is None) == (not everything):
        raise typer.BadParameter("name a task or give --all, one of them")

    async def carry_out(desk: Desk) -> TaskView | None:
        if task is not None:
            return await one(desk, task)
        all_of_them(desk)
        return None

    view = ask(carry_out, write=True)
    if view is None:
        say(f"the queue {words}")
    elif json:
        emit(view_json(view))
    else:
        out(f"{view.id}  {view.state}" + (f", {words.removeprefix('is ')}" if view.state == "running" else ""))
