"""The real worker: a crew, the boxes of this machine, and the runner that brings them together."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from nightcrew.agent.roster import Roster
from nightcrew.agent.runner import Runner
from nightcrew.config import Config, environment
from nightcrew.journal import Journal
from nightcrew.journal.fold import TaskRecord
from nightcrew.journal.health import ClockWatch
from nightcrew.service.attendant import Say
from nightcrew.service.boxes import box_limits, toolchains
from nightcrew.service.upkeep import leave, tidy, trim
from nightcrew_workspaces.selftest import self_test
from nightcrew_workspaces.user import box_user
from nightcrew_workspaces.workspace import Workspaces, default_root

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
    shown = toolchains(box, user)
    return Workspaces(
        config.workspaces.path or default_root(config.home, user),
        user=user,
        read_only=(*box.read_only, *shown.read_only),
        path=(*box.path, *shown.path),
        env=shown.env,
        limits=box_limits(box),
        mirrors=config.home / "mirrors",
        remote_env={name: value for name, value in environment().items() if name in REMOTE_VARIABLES},
    )


@asynccontextmanager
async def open_worker(config: Config, journal: Journal, say: Say) -> AsyncGenerator[CrewWorker]:
    """A worker for this machine. Raises `BoxUnavailable` when a box does not confine here: then nothing is run."""
    await self_test(config.box.user)
    workspaces = make_workspaces(config)
    await tidy(config, journal, workspaces, say)
    async with Roster(config, environment(), say=_once(say)) as roster:
        runner = Runner(config=config, journal=journal, workspaces=workspaces, roster=roster)
        yield CrewWorker(config, journal, workspaces, runner, roster, say)


class CrewWorker:
    """See `attendant.Worker`."""

    def __init__(
        self, config: Config, journal: Journal, workspaces: Workspaces, runner: Runner, roster: Roster, say: Say
    ) -> None:
        self._config = config
        self._journal = journal
        self._workspaces = workspaces
        self._runner = runner
        self._roster = roster
        self._clock = ClockWatch()
        self._say = say

    async def run(self, task: str) -> TaskRecord:
        record = await self._runner.run(task)
        calm = self._clock.is_calm()
        await trim(self._config, self._journal, self._workspaces, self._say, by_age=calm)
        return record

    def renew(self, config: Config) -> None:
        workspaces = make_workspaces(config)
        self._roster.renew(config)
        self._runner = Runner(config=config, journal=self._journal, workspaces=workspaces, roster=self._roster)
        self._config, self._workspaces = config, workspaces

    def leave(self, task: str) -> AbstractAsyncContextManager[str]:
        return leave(self._config, self._workspaces, task)


def _once(say: Say) -> Say:
    """Says a sentence only when it is another one than the last: each task asks who is there."""
    last = ""

    def once(text: str) -> None:
        nonlocal last
        if text != last:
            last = text
            say(text)

    return once
