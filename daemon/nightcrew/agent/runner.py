"""Runs one task to its end, from wherever its journal stands.

The loop is a question to the record: what comes next? Each answer appends events, so a process that is killed anywhere
leaves a record that the next one can ask the same question of.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

import anyio

from nightcrew.agent.ledger import Ledger
from nightcrew.agent.roster import Roster
from nightcrew.agent.settlement import settle
from nightcrew.agent.warmth import Warmth
from nightcrew.agent.work import Ended, Held, OpenClient, Work
from nightcrew.config import Config
from nightcrew.delivery import as_after, write_results
from nightcrew.errors import (
    Cancelled,
    ConfigError,
    ContextOverflow,
    EndpointDown,
    EndpointRefused,
    JournalError,
    JournalUnavailable,
    LimitReached,
    NightcrewError,
)
from nightcrew.events import ApprovalAsked, Event, TaskEnded
from nightcrew.journal import Journal
from nightcrew.journal.fold import TaskRecord
from nightcrew.journal.health import storage_trouble
from nightcrew.journal.ids import now
from nightcrew_tools.contract import Outcome
from nightcrew_tools.groups import unwrapped
from nightcrew_workspaces.errors import WorkspaceError
from nightcrew_workspaces.workspace import Workspace, Workspaces

CANCEL_POLL_SECONDS = 0.25


class Runner:
    """Runs claimed tasks. One object serves any number of them side by side."""

    def __init__(
        self,
        *,
        config: Config,
        journal: Journal,
        workspaces: Workspaces,
        roster: Roster,
        open_client: OpenClient | None = None,
    ) -> None:
        """`open_client` makes the models' clients; by default tasks that share a prefix begin one after the other."""
        self._config = config
        self._journal = journal
        self._workspaces = workspaces
        self._roster = roster
        self._open_client = open_client or Warmth().open

    async def run(self, task: str) -> TaskRecord:
        """Work on a task that this process has claimed, until it has ended or a person must decide; returns its record.

        Raises `Stale` when another worker took it over. Cancelling the coroutine leaves the task as it stands in the
        journal; the next run goes on from there.
        """
        ledger = Ledger(self._journal, self._journal.record(task))
        if ledger.record.ended is not None:
            return ledger.record
        if ledger.record.asked is not None:
            await settle(self._config, ledger, self._workspaces, cancelled=self._journal.cancel_requested(task))
        else:
            await self._work(ledger)
        end = ledger.record.ended
        if end is not None and not self._config.workspaces.keeps(end.outcome):
            with anyio.CancelScope(shield=True):
                await self._workspaces.remove(task)
        return ledger.record

    async def _work(self, ledger: Ledger) -> None:
        async with AsyncExitStack() as stack:
            work = Work(self._config, ledger, self._workspaces, self._roster, stack, self._open_client)
            ended = await self._outcome(ledger, work)
            workspace = work.workspace or await self._left_behind(ledger, stack)
            await self._conclude(ledger, ended, workspace)

    async def _left_behind(self, ledger: Ledger, stack: AsyncExitStack) -> Workspace | None:
        """The workspace of an earlier run, where this one ended before it opened any."""
        if not self._workspaces.exists(ledger.record.id):
            return None
        try:
            return await stack.enter_async_context(await self._workspaces.reopen(ledger.record.id))
        except WorkspaceError:
            return None

    async def _outcome(self, ledger: Ledger, work: Work) -> Ended | Held:
        """Work within the limits, and put what stops the work for good into an outcome and a reason.

        `EndpointDown` passes: whether a task may wait for its endpoint is not for the runner to say. So does what the
        journal raises: nothing is done without it, and what a disk could not hold is no fault of the task.
        """
        try:
            if ledger.record.delivered is not None:  # the branch is there, whoever cancels now
                with anyio.CancelScope(shield=True):
                    return await work.to_its_end()
            return await self._within_limits(ledger, work)
        except LimitReached as error:
            return Ended(Outcome.LIMITS, str(error))
        except Cancelled as error:
            return Ended(Outcome.CANCELLED, str(error))
        except (EndpointRefused, ConfigError) as error:
            return Ended(Outcome.NO_ENDPOINT, str(error))
        except ContextOverflow as error:
            return Ended(Outcome.UNVERIFIED, f"the task does not fit into the model's context: {error}")
        except (JournalError, EndpointDown):
            raise
        except (WorkspaceError, NightcrewError) as error:
            if trouble := storage_trouble(self._config, write=True):
                raise JournalUnavailable(f"{error} ({trouble})") from error
            return Ended(Outcome.FAILED, str(error))

    async def _within_limits(self, ledger: Ledger, work: Work) -> Ended | Held:
        """Raises `LimitReached` or `Cancelled` when the clock or a person stops the work."""
        ended: Ended | Held | BaseException | None = None
        cancelled = False

        async def watch(scope: anyio.CancelScope) -> None:
            nonlocal cancelled
            while not self._journal.cancel_requested(ledger.record.id):  # noqa: ASYNC110 - another process asks
                await anyio.sleep(CANCEL_POLL_SECONDS)
            cancelled = True
            scope.cancel()

        with anyio.move_on_after(ledger.seconds_left):
            async with anyio.create_task_group() as group:
                group.start_soon(watch, group.cancel_scope)
                try:
                    ended = await work.to_its_end()
                except (NightcrewError, WorkspaceError, ExceptionGroup) as error:
                    ended = unwrapped(error)  # raised below: this task group would wrap it again
                group.cancel_scope.cancel()
        if isinstance(ended, Ended | Held):
            return ended
        if isinstance(ended, BaseException):
            raise ended
        if cancelled:
            raise Cancelled("a person cancelled the task")
        raise LimitReached(ledger.time_words())

    async def _conclude(self, ledger: Ledger, ended: Ended | Held, workspace: Workspace | None) -> None:
        """Write the result files, then the event that says so: a crash in between writes the same files again."""
        patch = ended.patch
        event: Event
        if isinstance(ended, Held):
            event = ApprovalAsked(attempt=ended.attempt, commit=ended.commit, concerns=ended.concerns)
        else:
            event = TaskEnded(outcome=ended.outcome, reason=ended.reason)
            patch = patch or await self._left_over(ended, workspace)
        at = now()
        after = as_after(ledger.record, event, at=at)
        ledger.append(event, at=at, first=lambda: write_results(self._config.outbox, after, patch))

    async def _left_over(self, ended: Ended, workspace: Workspace | None) -> str:
        return await _attempts_patch(workspace) if workspace and ended.outcome is not Outcome.DELIVERED else ""


async def _attempts_patch(workspace: Workspace) -> str:
    """What an attempt that did not verify left behind, empty when even that cannot be had."""
    with anyio.move_on_after(60, shield=True):
        try:
            return await workspace.diff()
        except WorkspaceError:
            return ""
    return ""
