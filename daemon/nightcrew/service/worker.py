"""The real worker: a crew, the boxes of this machine, and the runner that brings them together."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from nightcrew.agent.roster import Roster
from nightcrew.agent.runner import Runner
from nightcrew.config import Config, environment
from nightcrew.delivery import result_paths, write_results
from nightcrew.journal import Journal
from nightcrew.journal.fold import TaskRecord
from nightcrew.service.attendant import Say
from nightcrew_tools.contract import TaskState
from nightcrew_workspaces.box import self_test
from nightcrew_workspaces.errors import WorkspaceError
from nightcrew_workspaces.policy import Limits
from nightcrew_workspaces.user import box_user
from nightcrew_workspaces.workspace import Workspaces, default_root

log = logging.getLogger("nightcrew")

LEAVE_SECONDS = 60.0
REMOTE_VARIABLES = frozenset(
    (
        "HOME",
        "SSH_AUTH_SOCK",
        *(name for each in ("http_proxy", "https_proxy", "no_proxy") for name in (each, each.upper())),
    )
)
"""What fetching from a URL may need; no box and no other command gets them."""


def make_workspaces(config: Config) -> Workspaces:
    """Private clones and boxes as the configuration wants them. Raises `BoxUnavailable`."""
    user, box = box_user(config.box.user), config.box
    return Workspaces(
        config.workspaces or default_root(config.home, user),
        user=user,
        read_only=box.read_only,
        path=box.path,
        limits=Limits(seconds=box.command_seconds, memory_mib=box.memory_mib),
        mirrors=config.home / "mirrors",
        remote_env={name: value for name, value in environment().items() if name in REMOTE_VARIABLES},
    )


@asynccontextmanager
async def open_worker(config: Config, journal: Journal, say: Say) -> AsyncGenerator[CrewWorker]:
    """A worker for this machine. Raises `BoxUnavailable` when a box does not confine here: then nothing is run."""
    await self_test(config.box.user)
    workspaces = make_workspaces(config)
    if not config.keep_workspaces:
        await _tidy(config, journal, workspaces)
    async with Roster(config, environment(), say=_once(say)) as roster:
        runner = Runner(config=config, journal=journal, workspaces=workspaces, roster=roster)
        yield CrewWorker(config, workspaces, runner)


class CrewWorker:
    """See `attendant.Worker`."""

    def __init__(self, config: Config, workspaces: Workspaces, runner: Runner) -> None:
        self._config = config
        self._workspaces = workspaces
        self._runner = runner

    async def run(self, task: str) -> TaskRecord:
        return await self._runner.run(task)

    async def leave(self, task: str) -> str:
        return await _leave(self._config, self._workspaces, task)


async def _leave(config: Config, workspaces: Workspaces, task: str) -> str:
    """Give up a task's clone, unless clones are kept; the patch of what had been done in it."""
    patch = ""
    with anyio.move_on_after(LEAVE_SECONDS, shield=True):
        try:
            if workspaces.exists(task):
                async with await workspaces.reopen(task) as workspace:
                    patch = await workspace.diff()
                if not config.keep_workspaces:
                    await workspaces.remove(task)
        except (WorkspaceError, OSError) as error:
            log.warning("task %s: what it had done cannot be shown, or its clone not removed: %s", task, error)
    return patch


async def _tidy(config: Config, journal: Journal, workspaces: Workspaces) -> None:
    """Give up the clones of tasks that ended while nobody was there, and what killed processes left by half.

    A task that was cancelled while it waited to be continued gets its report now, with what it had done.
    """
    for view in journal.tasks([TaskState.ENDED], limit=1000):
        if workspaces.exists(view.id):
            patch = await _leave(config, workspaces, view.id)
            if not result_paths(config.outbox, view.name).markdown.exists():
                write_results(config.outbox, journal.record(view.id), patch)
    if not journal.tasks([TaskState.RUNNING]):  # else another process may be in the middle of making one
        await workspaces.sweep()


def _once(say: Say) -> Say:
    """Says a sentence only when it is another one than the last: each task asks who is there."""
    last = ""

    def once(text: str) -> None:
        nonlocal last
        if text != last:
            last = text
            say(text)

    return once
