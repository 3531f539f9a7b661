"""Carrying out a decision in the process that hears it, whether a service works on this home or not."""

from __future__ import annotations

import anyio

from nightcrew.agent.ledger import Ledger
from nightcrew.agent.settlement import settle
from nightcrew.config import Config
from nightcrew.journal import Journal
from nightcrew.journal.locks import RunLocks
from nightcrew.service.service import keep_moving, run_locks, worker_name
from nightcrew.service.worker import make_workspaces
from nightcrew_tools.contract import TaskState, TaskView
from nightcrew_tools.groups import unwrapped

OTHER_SECONDS = 60.0
"""How long another process, a service say, is given to carry out what it was quicker to take."""
_POLL_SECONDS = 0.05


async def settle_here(config: Config, journal: Journal, task: str) -> TaskView:
    """Carry out what was decided about a task, and return how it stands then: ended, or waiting once more.

    A process that died over it is stepped in for; a living one is waited for. Raises `BoxUnavailable` where the account
    of the boxes, to which the clones belong, is not known.
    """
    workspaces, locks = make_workspaces(config), RunLocks(run_locks(config))
    with anyio.move_on_after(OTHER_SECONDS):
        while (state := journal.view(task).state) in (TaskState.QUEUED, TaskState.RUNNING):
            if state is TaskState.RUNNING:
                journal.requeue_dead(locks.is_alive)
            record = journal.claim_task(task, worker_name(), locks=locks)
            if record is None:
                await anyio.sleep(_POLL_SECONDS)
                continue
            try:
                cancelled = journal.cancel_requested(task)
                async with anyio.create_task_group() as group:
                    group.start_soon(keep_moving, locks)
                    await settle(config, Ledger(journal, record), workspaces, cancelled=cancelled)
                    group.cancel_scope.cancel()
            except BaseExceptionGroup as error:
                raise unwrapped(error) from None
            finally:
                locks.release(task)
    view = journal.view(task)
    if view.outcome is not None and not config.workspaces.keeps(view.outcome):
        await workspaces.remove(task)
    return view
