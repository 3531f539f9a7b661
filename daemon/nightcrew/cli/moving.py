"""`nightcrew export` and `nightcrew import`: a task in a file, from one machine to another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nightcrew.cli.output import JsonFlag, emit, examples, out, say
from nightcrew.cli.tasks import Desk, TaskId, ask

if TYPE_CHECKING:
    from nightcrew.service.moving import Moving

_EXPORT = examples(
    "nightcrew export 6dk                         into NAME.nightcrew.tar, with its results",
    "nightcrew export 6dk fix.tar --move          it has not ended: it ends here and goes on over there",
)
_IMPORT = examples(
    "nightcrew import fix.tar",
    "nightcrew import fix.tar --repo ~/src/shop   where its repository is on this machine",
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("export", epilog=_EXPORT, short_help="Write a task into a file for another machine.")(export)
    app.command("import", epilog=_IMPORT, short_help="Take in a task from another machine.")(import_)


def export(
    task: TaskId,
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="A new file; NAME.nightcrew.tar in this folder by default.")
    ] = None,
    move: Annotated[
        bool, typer.Option("--move", help="Of a task that has not ended: end it here, for it goes on over there.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Write a task into one file: its journal, and its results, or the state of its worktree when it has not ended.

    A task that has ended is copied. One that has not may go on in one place only, so it needs --move: it ends here as
    cancelled, with a reason that says so. One that runs now has to be paused first, or the service stopped.
    """
    from nightcrew.service.moving import export as write

    async def leave(desk: Desk) -> Moving:
        view = desk.journal.view(desk.gateway.resolve(task))
        return await write(
            desk.config, desk.journal, view.id, (file or Path(f"{view.name}.nightcrew.tar")).absolute(), move=move
        )

    done = ask(leave, write=True)
    _tell(done, json=json)
    if done.moved:
        say(f"it has ended here; `nightcrew import {done.file.name}` on the other machine goes on with it")


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `nightcrew export` wrote.")],
    repo: Annotated[
        str | None, typer.Option("--repo", metavar="PATH", help="Where its repository is here, when that is elsewhere.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Take in a task that another machine exported, and go on with it where it has not ended.

    Sums, events and git objects are checked before anything comes in. The same file a second time changes nothing; an
    id that belongs to another task here is refused.
    """
    import anyio

    from nightcrew.cli.taskinput import absolute_repo
    from nightcrew.config import load_config
    from nightcrew.service.moving import take_in

    config = load_config()

    async def come() -> Moving:
        return await take_in(config, file, repo=None if repo is None else absolute_repo(repo))

    done = anyio.run(come)
    _tell(done, json=json)
    if not done.fresh:
        say("it was here already: nothing was changed")
    elif done.moved:
        say("it goes on as soon as a service runs: `nightcrew up`")


def _tell(done: Moving, *, json: bool) -> None:
    if json:
        emit({"id": done.task, "name": done.name, "file": str(done.file), "moved": done.moved, "fresh": done.fresh})
    else:
        out(f"{done.task}  {done.name}  {done.file}")
