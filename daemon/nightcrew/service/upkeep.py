"""The private clones of tasks: which stay, why, and which go."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import anyio

from nightcrew.config import Config, WorkspaceSettings
from nightcrew.delivery import tells, write_results
from nightcrew.delivery.writing import sweep
from nightcrew.errors import JournalCorrupt
from nightcrew.journal import Journal
from nightcrew.service.attendant import Say
from nightcrew_tools.contract import TaskNotFound, TaskState, TaskView
from nightcrew_workspaces.errors import WorkspaceError
from nightcrew_workspaces.workspace import Workspaces

log = logging.getLogger("nightcrew")

LEAVE_SECONDS = 60.0

_STAYS = {
    TaskState.QUEUED: "its task will go on",
    TaskState.RUNNING: "its task is running",
    TaskState.WAITING: "its task is waiting for approval",
    TaskState.BLOCKED: "its task waits for other tasks",
    TaskState.PAUSED: "its task is paused",
}
"""Why a workspace is never removed while its task has not ended."""


@dataclass(frozen=True)
class Shelved:
    """A workspace that is on the disk."""

    task: str
    title: str
    state: str
    """The task's outcome, or its state while it has none; `unknown` where the journal has no such task."""
    bytes: int
    """What removing it would free."""
    age_seconds: float
    """Since its task ended, or since the workspace was changed where it has not."""
    why: str
    """Why it is still there."""
    ended: bool
    """Its task has ended, so it may be removed."""
    kept: bool
    """The configuration wants it kept."""
    path: Path


async def shelf(settings: WorkspaceSettings, journal: Journal | None, workspaces: Workspaces) -> list[Shelved]:
    """Every workspace there is, the oldest first."""
    found = [await _shelved(settings, journal, workspaces, task) for task in workspaces.tasks()]
    return sorted(found, key=lambda one: -one.age_seconds)


async def _shelved(settings: WorkspaceSettings, journal: Journal | None, workspaces: Workspaces, task: str) -> Shelved:
    size = await anyio.to_thread.run_sync(workspaces.measure, task)
    view = _view(journal, task)
    moment = datetime.now(UTC).timestamp()
    if view is None:
        why = "the journal does not know its task: remove it by hand when nobody needs it"
        return Shelved(
            task, "", "unknown", size.bytes, moment - size.changed_at, why, ended=False, kept=True, path=size.path
        )
    outcome = view.outcome if view.state is TaskState.ENDED else None
    kept = outcome is None or settings.keeps(outcome)
    since = datetime.fromisoformat(view.ended_at).timestamp() if outcome and view.ended_at else size.changed_at
    return Shelved(
        task,
        view.title,
        str(outcome or view.state),
        size.bytes,
        max(0.0, moment - since),
        _STAYS.get(view.state) or (f'workspaces: keep = "{settings.keep}"' if kept else "the next start removes it"),
        ended=outcome is not None,
        kept=kept,
        path=size.path,
    )


def _view(journal: Journal | None, task: str) -> TaskView | None:
    try:
        return journal.view(task) if journal is not None else None
    except TaskNotFound:
        return None


def surplus(settings: WorkspaceSettings, there: list[Shelved], *, by_age: bool = True) -> list[tuple[Shelved, str]]:
    """What has to go and why: what nobody wants kept, then what is too old (`by_age`), then the oldest over"""
    going: list[tuple[Shelved, str]] = []
    left: list[Shelved] = []
    for one in sorted((one for one in there if one.ended), key=lambda one: -one.age_seconds):
        if not one.kept:
            going.append((one, "its task has ended"))
        elif by_age and one.age_seconds > settings.max_age_days * 86400:
            going.append((one, f"its task ended more than {settings.max_age_days:g} days ago"))
        else:
            left.append(one)
    total = sum(one.bytes for one in left)
    for one in left:
        if total <= settings.max_gib * 1024**3:
            break
        total -= one.bytes
        going.append((one, f"the kept ones have more than {settings.max_gib:g} GiB together, and it is the oldest"))
    return going


async def trim(config: Config, journal: Journal, workspaces: Workspaces, say: Say, *, by_age: bool = True) -> None:
    """Remove what need not be kept any longer, and say so; without `by_age` nothing for being old."""
    there = await shelf(config.workspaces, journal, workspaces)
    for one, why in surplus(config.workspaces, there, by_age=by_age):
        try:
            await workspaces.remove(one.task)
        except OSError as error:
            log.warning("the workspace %s cannot be removed: %s", one.path, error)
        else:
            say(f"removed the workspace of task {one.task} ({one.bytes / 1024**2:.1f} MiB): {why}")
    settings = config.workspaces
    age, most = settings.max_age_days * 86400 if by_age else math.inf, settings.cache_gib * 1024**3
    for cache in await workspaces.trim_caches(max_age_seconds=age, max_bytes=most):
        say(f"removed {cache.path}, the cache of a source ({cache.bytes / 1024**2:.1f} MiB): unused or over the size")


@asynccontextmanager
async def leave(config: Config, workspaces: Workspaces, task: str) -> AsyncGenerator[str]:
    """Give up a task's clone, unless clones are kept; the patch of what had been done in it.

    The clone goes when the block has ended well: what is told in it, nobody could tell afterwards.
    """
    patch = ""
    with anyio.move_on_after(LEAVE_SECONDS, shield=True):
        try:
            if workspaces.exists(task):
                async with await workspaces.reopen(task) as workspace:
                    patch = await workspace.diff()
        except (WorkspaceError, OSError) as error:
            log.warning("task %s: what it had done cannot be shown: %s", task, error)
    yield patch
    if config.workspaces.keep == "none":
        with anyio.move_on_after(LEAVE_SECONDS, shield=True):
            try:
                await workspaces.remove(task)
            except OSError as error:
                log.warning("task %s: its clone cannot be removed: %s", task, error)


async def tidy(config: Config, journal: Journal, workspaces: Workspaces, say: Say) -> None:
    """At the start: give up what tasks left that ended while nobody was there, finish removals, and `trim`.

    A task that was cancelled while it waited to be continued gets its report now, with what it had done.
    """
    for folder in (config.outbox, config.rejected):
        sweep(folder)
    for task in workspaces.tasks():
        view = _view(journal, task)
        if view is None or view.state is not TaskState.ENDED:
            continue
        if not tells(config.outbox, view.name, view.reason):
            try:
                record = journal.record(task)
            except (JournalCorrupt, TaskNotFound) as error:
                log.warning("task %s: no report can be written: %s", task, error)
                continue
            async with leave(config, workspaces, task) as patch:
                write_results(config.outbox, record, patch)
    # What another process is in the middle of making is not its leftover.
    await workspaces.sweep({view.id for view in journal.tasks([TaskState.RUNNING])})
    await trim(config, journal, workspaces, say)
