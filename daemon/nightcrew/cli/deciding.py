"""`nightcrew approve` and `nightcrew reject`: a person's word about a result that waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nightcrew.cli.output import JsonFlag, emit, examples, out, say
from nightcrew.cli.tasks import Desk, TaskId, account, ask, view_json

if TYPE_CHECKING:
    from nightcrew_tools.contract import TaskView


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        "approve",
        short_help="Deliver a result that waits for approval.",
        epilog=examples("nightcrew report 6dk; nightcrew diff 6dk", "nightcrew approve 6dk"),
    )(approve)
    app.command(
        "reject",
        short_help="Refuse a result that waits for approval.",
        epilog=examples('nightcrew reject 6dk --why "the lock file is none of its business"'),
    )(reject)


def approve(task: TaskId, json: JsonFlag = False) -> None:
    """Deliver a result that waits for approval: exactly the commit that was tested becomes the branch.

    Needs no running service. Exits with 0 when it is delivered, a second time too; with 3 when it could not be and
    still waits; with 1 when nothing waits for approval.
    """

    async def decide(desk: Desk) -> TaskView:
        view = await desk.gateway.approve(task, by=account(), door="cli")
        return await desk.carry_out(view)

    view = ask(decide, write=True)
    _show(view, json=json)
    raise typer.Exit(1 if view.exit_code is None else view.exit_code)


def reject(
    task: TaskId,
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="The reason, for the report.")],
    json: JsonFlag = False,
) -> None:
    """Refuse a result that waits for approval: the task ends without a branch, its patch stays beside the report."""
    if not why.strip():
        raise typer.BadParameter("say why, in a few words", param_hint="--why")

    async def decide(desk: Desk) -> TaskView:
        view = await desk.gateway.reject(task, why=why, by=account(), door="cli")
        return await desk.carry_out(view)

    _show(ask(decide, write=True), json=json)


def _show(view: TaskView, *, json: bool) -> None:
    from nightcrew.delivery.quoting import one_line

    if json:
        emit(view_json(view))
        return
    out(f"{view.id}  {view.outcome or view.state}" + (f": {one_line(view.reason, 600)}" if view.reason else ""))
    for label, value in (("branch", view.branch), ("report", view.report_path), ("patch", view.patch_path)):
        if value:
            out(f"{label:>9}  {one_line(value, 4096)}")
    if view.exit_code is None:
        say(f"another process carries it out: `nightcrew show {view.id}`")
