"""A worker that was stopped, or lost its task in any other way, harms nobody: it writes, reports and leaves nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import anyio
import pytest

from fakes.boxes import soon
from fakes.chaos import inside
from fakes.crashing import run_alone
from fakes.house import FIX, House, call, house, script
from fakes.workers import FakeWorker
from nightcrew.config import Config
from nightcrew.errors import Stale
from nightcrew.events import Event
from nightcrew.journal import Journal
from nightcrew.journal.locks import RunLocks
from nightcrew.service.attendant import Attendant
from nightcrew.service.service import run_locks
from nightcrew_tools.contract import Outcome, TaskRequest, TaskState

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]

NOISE = "test -e /cache/once || { touch /cache/once; while :; do echo x >> noise.txt; sleep 0.02; done; }"
"""Writes and writes, the first time."""


async def test_a_stopped_run_is_taken_over_with_its_tree_and_delivers_once(open_tmp: Path) -> None:
    async with house(open_tmp, script(call("run_command", command=NOISE), *FIX)) as home:
        context = multiprocessing.get_context("forkserver")
        stopped = context.Process(
            target=run_alone, args=(str(home.config.home), home.server.url, str(home.repository), "t1")
        )
        stopped.start()
        clone = open_tmp / "home/workspaces/t1/clone"
        await soon((clone / "noise.txt").exists, 60)
        assert stopped.pid is not None
        os.kill(stopped.pid, signal.SIGSTOP)
        assert inside(open_tmp)  # its boxes go on without it

        locks = RunLocks(run_locks(home.config), lease_seconds=1.0)
        await soon(lambda: home.journal.requeue_dead(locks.is_alive) == ["t1"], 30)
        assert home.journal.claim_task("t1", "other", locks=locks) is not None
        record = await home.runner.run("t1")

        await anyio.to_thread.run_sync(stopped.join, 10)
        assert stopped.exitcode == -signal.SIGKILL
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED, record.ended.reason
        assert "noise" not in home.patch(record)
        assert len(home.branches()) == 1
        await soon(lambda: not inside(open_tmp))


@pytest.mark.parametrize("at", ["attempt_ended", "verdict_reached", "delivered"])
async def test_a_worker_that_lost_its_task_reports_nothing_and_the_next_delivers_once(open_tmp: Path, at: str) -> None:
    async with house(open_tmp, script()) as home:
        task = home.submit()
        end = home.journal.subscribe(lambda one: _take_over(home, task) if one.event.kind == at else None)
        with pytest.raises(Stale):
            await home.runner.run(task)
        end()
        assert not home.config.outbox.exists() or list(home.config.outbox.iterdir()) == []
        assert home.journal.view(task).state is TaskState.RUNNING
        record = await home.runner.run(task)
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED, record.ended.reason
        assert record.worker == "other"
        assert len(home.branches()) == 1


def _take_over(home: House, task: str) -> None:
    with Journal.open(home.config.journal) as journal:
        journal.release(task, "test")
        assert journal.claim_task(task, "other") is not None


async def test_whoever_lost_a_task_neither_ends_it_nor_gives_up_its_clone(tmp_path: Path) -> None:
    config = Config(home=tmp_path)
    with Journal.open(config.journal) as journal:
        request = TaskRequest(title="t", text="crash", repo="/r")
        task = journal.submit(request, origin="test", name_hint="t").task
        record = journal.claim_task(task, "mine")
        assert record is not None
        journal.release(task, "mine")
        assert journal.claim_task(task, "theirs") is not None
        worker = FakeWorker()
        async with worker.open(config, journal, lambda _: None):
            attendant = Attendant(config, journal, worker, "mine")
            await attendant.attend(record, may_wait=True)  # an error of its own, which would end the task
            await attendant.end(task, Outcome.CANCELLED, "too late")
        assert worker.left == []
        assert _kinds(journal, task) == ["task_submitted", "task_claimed", "task_claimed"]


def _kinds(journal: Journal, task: str) -> list[str]:
    events: list[Event] = [one.event for one in journal.read(task)]
    return [event.kind for event in events]
