"""Carrying out what a person decided about a result that waited: no model, no box, no limit on time.

What is published is the commit that the clean checkout confirmed, out of the depot that no box can write to.
"""

from __future__ import annotations

import anyio

from nightcrew.agent.ledger import Ledger
from nightcrew.agent.work import branch_name, patch_text
from nightcrew.config import Config
from nightcrew.delivery import as_after, result_paths, write_results
from nightcrew.events import ApprovalAsked, Delivered, TaskEnded
from nightcrew.journal.ids import now
from nightcrew_tools.contract import Outcome
from nightcrew_workspaces.errors import WorkspaceError
from nightcrew_workspaces.workspace import Workspaces


async def settle(config: Config, ledger: Ledger, workspaces: Workspaces, *, cancelled: bool) -> None:
    """Deliver, or end without a delivery, a claimed task that waited for approval.

    When an approval cannot be carried out, the task waits once more and says why: what is in the way may pass, and the
    decision is not lost on it. Raises `Stale` when another worker has the task.
    """
    with anyio.CancelScope(shield=True):  # neither a cancel nor a stop may fall between the branch and the word of it
        await _Settlement(config, ledger, workspaces).carry_out(cancelled=cancelled)


class _Settlement:
    def __init__(self, config: Config, ledger: Ledger, workspaces: Workspaces) -> None:
        self._config = config
        self._ledger = ledger
        self._workspaces = workspaces

    async def carry_out(self, *, cancelled: bool) -> None:
        record = self._ledger.record
        asked, decided = record.asked, record.decided
        assert asked is not None
        if record.delivered is None and cancelled:
            await self._end(Outcome.CANCELLED, "a person cancelled the task while it waited for approval")
        elif record.delivered is None and decided is None:
            await self._ask_again(asked.problem)  # nobody has decided: its claim was a mistake
        elif decided is not None and not decided.approved:
            await self._end(Outcome.REJECTED, decided.why)
        else:
            await self._deliver(asked)

    async def _deliver(self, asked: ApprovalAsked) -> None:
        record = self._ledger.record
        verdict = record.verdicts[asked.attempt].verdict
        if record.delivered is None:
            try:
                workspace = self._workspaces.peek(record.id)
                await workspace.result(asked.commit)
                branch = await workspace.publish(asked.commit, branch_name(record.id, record.request.title))
            except (WorkspaceError, OSError) as error:
                await self._ask_again(self._problem(error))
                return
            self._ledger.append(Delivered(branch=branch, commit=asked.commit, patch=f"{record.name}.patch"))
        await self._end(Outcome.DELIVERED, verdict.reason)

    def _problem(self, error: Exception) -> str:
        record = self._ledger.record
        if self._workspaces.exists(record.id):
            return f"approved, but not delivered: {error}"
        patch = result_paths(self._config.outbox, record.name).patch
        return (
            "approved, but not delivered: the private clone of the task is gone, and with it the commit that was "
            f"tested. Its patch is {patch}: apply it by hand, then reject the task"
        )

    async def _end(self, outcome: Outcome, reason: str) -> None:
        event, at = TaskEnded(outcome=outcome, reason=reason), now()
        try:
            await self._tell(event, at)
        except OSError as error:
            event = TaskEnded(outcome=outcome, reason=f"{reason} (its report could not be written: {error})")
            self._ledger.append(event, at=at)

    async def _tell(self, event: TaskEnded | ApprovalAsked, at: str) -> None:
        """The result files and the event, both or neither. Raises `OSError`."""
        after, patch = as_after(self._ledger.record, event, at=at), await self._patch()
        self._ledger.append(event, at=at, first=lambda: write_results(self._config.outbox, after, patch))

    async def _ask_again(self, problem: str) -> None:
        asked = self._ledger.record.asked
        assert asked is not None
        event, at = asked.model_copy(update={"problem": problem}), now()
        try:
            await self._tell(event, at)
        except OSError:  # the older report says that it waits, too
            self._ledger.append(event, at=at)

    async def _patch(self) -> str:
        """From the depot, or where that is gone what was written when the task began to wait."""
        record = self._ledger.record
        assert record.asked is not None
        try:
            return patch_text(await self._workspaces.peek(record.id).result(record.asked.commit))
        except (WorkspaceError, OSError):
            path = result_paths(self._config.outbox, record.name).patch
            return path.read_bytes().decode(errors="surrogateescape") if path.is_file() else ""
