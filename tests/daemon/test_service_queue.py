"""The service's part of the queue: what may run beside what, what is let go, and what the clock brings."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from fakes.repos import make_repository
from fakes.services import request, running, until
from fakes.workers import FakeWorker
from nightcrew.config import Config, DailySettings, load_config
from nightcrew.events import Paused, TaskClaimed
from nightcrew.journal import Journal
from nightcrew.service import run_one, service
from nightcrew.service.capacity import Capacity, full_crews
from nightcrew_tools.contract import Outcome, TaskState

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]

CREWS = """
crew = "duo"
concurrency = 4
[crews.duo]
concurrency = 2
planner = {base_url = "http://a.example/v1"}
executor = {base_url = "http://b.example/v1/"}
[crews.solo]
planner = {base_url = "http://b.example/v1"}
[crews.free]
planner = {base_url = "http://c.example/v1"}
[endpoints."http://b.example/v1/"]
concurrency = 3
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(home=tmp_path / "home", concurrency=2)


@pytest.fixture
def crews(tmp_path: Path) -> Config:
    path = tmp_path / "config.toml"
    path.write_text(CREWS)
    return load_config({"NIGHTCREW_CONFIG": str(path), "NIGHTCREW_HOME": str(tmp_path / "home")})


# --- what may run beside what


def test_a_crew_is_full_at_its_own_limit_and_where_an_endpoint_is(crews: Config) -> None:
    def full(*running: str | None) -> frozenset[str]:
        return full_crews(crews, crews.crews, running)

    assert full() == frozenset()
    assert full("duo", None) == {"duo", ""}
    assert full("solo", "solo", "duo") == {"duo", "", "solo"}, "both talk to b"
    assert full(*["free"] * 9) == frozenset()


def test_a_limit_for_an_endpoint_that_no_crew_uses_is_pointed_out(crews: Config) -> None:
    assert Capacity(crews).idle_endpoints() == []
    slip = crews.model_copy(update={"endpoints": {"http://d.example/v1": crews.endpoints["http://b.example/v1/"]}})
    assert Capacity(slip).idle_endpoints() == ["http://d.example/v1"]


async def test_no_crew_runs_more_than_it_may_and_a_full_one_holds_up_no_other(crews: Config) -> None:
    async with running(crews) as now:
        duo = [now.submit(f"hang {n}", priority=50) for n in range(4)]
        await until(lambda: len(now.worker.running) == 2)
        free = now.submit("hang free", crew="free")
        await until(lambda: free in now.worker.running)
        assert len(now.worker.running & set(duo)) == 2
        now.journal.request_cancel(next(iter(now.worker.running & set(duo))))
        await until(lambda: len(set(now.worker.ran) & set(duo)) == 3)
        assert len(now.worker.running & set(duo)) <= 2


async def test_a_free_place_is_given_to_a_task_on_the_repository_that_is_worked_on(config: Config) -> None:
    with Journal.open(config.journal) as journal:
        tasks = [
            journal.submit(request("hang", repo=repo), origin="cli", name_hint=repo).task for repo in ("/a", "/b", "/a")
        ]
    async with running(config) as now:
        await until(lambda: len(now.worker.running) == 2)
        assert now.worker.running == {tasks[0], tasks[2]}


# --- days


async def test_when_a_day_is_used_up_nothing_begins_and_what_has_begun_goes_on(config: Config) -> None:
    config = config.model_copy(update={"daily": DailySettings(tasks=1)})
    async with running(config) as now:
        first, second = now.submit("hang"), now.submit("deliver")
        await until(lambda: now.worker.running == {first})
        view = await now.gateway.view(second)
        assert (view.state, view.reason) == (
            TaskState.QUEUED,
            "today's tasks are used up (1 of 1; daily: tasks): it begins tomorrow",
        )
    async with running(config) as later:
        await until(lambda: later.worker.running == {first})
        assert later.view(second).state is TaskState.QUEUED


async def test_a_new_day_lets_them_begin(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "LOOK_SECONDS", 0.05)
    config = config.model_copy(update={"daily": DailySettings(tasks=1)})
    async with running(config) as now:
        await now.ended(now.submit("deliver"))
        second = now.submit("deliver")
        await anyio.sleep(0.3)
        assert now.view(second).state is TaskState.QUEUED
        tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
        monkeypatch.setattr(service, "now", lambda: tomorrow)
        assert (await now.ended(second)).outcome is Outcome.DELIVERED


# --- holding


async def test_a_running_task_is_let_go_and_goes_on_when_it_is_resumed(config: Config) -> None:
    async with running(config) as now:
        task = now.submit("hang")
        await until(lambda: task in now.worker.running)
        await now.gateway.pause(task, by="ann")
        await until(lambda: now.view(task).state is TaskState.PAUSED)
        assert task not in now.worker.running
        other = now.submit("deliver")
        await now.ended(other)
        assert now.view(task).reason == "paused by ann"
        await now.gateway.resume(task, by="ann")
        await until(lambda: task in now.worker.running)
        now.journal.request_cancel(task)
        await now.ended(task)
    kinds = [recorded.event.kind for recorded in now.journal.read(task)]
    assert kinds == ["task_submitted", "task_claimed", "paused", "resumed", "task_claimed", "task_ended"]


async def test_a_cancelled_task_is_not_paused(config: Config) -> None:
    async with running(config) as now:
        task = now.submit("deaf")
        await until(lambda: task in now.worker.running)
        now.journal.request_cancel(task)
        now.journal.pause(task, by="ann")
        assert (await now.ended(task)).outcome is Outcome.CANCELLED


async def test_a_paused_queue_lets_all_go_and_begins_nothing_until_it_is_resumed(config: Config) -> None:
    async with running(config) as now:
        tasks = [now.submit("hang"), now.submit("hang")]
        await until(lambda: now.worker.running == set(tasks))
        now.journal.pause_all(by="ann")
        await until(lambda: not now.worker.running)
        fresh = now.submit("deliver", priority=100)
        assert (await now.gateway.view(fresh)).reason == "the queue is paused by ann"
    async with running(config) as later:
        await anyio.sleep(0.3)
        assert later.worker.ran == []
        later.journal.resume_all()
        assert (await later.ended(fresh)).outcome is Outcome.DELIVERED
        await until(lambda: later.worker.running == set(tasks))
    events = [recorded.event for recorded in later.journal.read(tasks[0])]
    assert events[2] == Paused(by="ann", queue=True)
    assert isinstance(events[3], TaskClaimed)


async def test_run_lets_its_task_go_when_it_is_paused(config: Config) -> None:
    worker = FakeWorker()
    records = []

    async def run() -> None:
        records.append(await run_one(config, request("hang"), open_worker=worker.open, say=lambda _: None))

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await until(lambda: worker.running)
        with Journal.open(config.journal) as journal:
            journal.pause(next(iter(worker.running)), by="ann")
    assert records[0].paused == Paused(by="ann")


# --- after


async def test_tasks_run_one_after_the_other_and_a_failure_reaches_them_with_reports(config: Config) -> None:
    async with running(config) as now:
        last = now.submit("deliver last", after=("first",))
        assert now.view(last).state is TaskState.BLOCKED
        first = now.submit("hang", id="first")
        await until(lambda: first in now.worker.running)
        third = now.submit("deliver third", after=(last,))
        now.journal.request_cancel(first)
        for task in (last, third):
            assert (await now.ended(task)).outcome is Outcome.FAILED
        await until(lambda: not now.journal.owed())
        reports = [await now.gateway.report(task) for task in (last, third)]
    assert "it was to come after `hang`, which ended without a delivery (cancelled)" in reports[0]
    assert "it was to come after `deliver-last`, which ended without a delivery (failed)" in reports[1]
    assert now.worker.ran == [first]


async def test_dropped_files_that_would_wait_for_each_other_are_rejected(config: Config, tmp_path: Path) -> None:
    repo = make_repository(tmp_path / "repo")
    async with running(config) as now:
        (config.inbox / "a.md").write_text(f"---\nrepo: {repo}\nid: a\nafter: b\n---\n# deliver\n")
        await until(lambda: now.journal.find("a"))
        (config.inbox / "b.md").write_text(f"---\nrepo: {repo}\nid: b\nafter: a\n---\n# deliver\n")
        await until(lambda: now.rejected)
    assert "in a circle: it is to come after `a`, that after `b`" in now.rejected["b.md"]


async def test_a_task_that_is_cancelled_between_two_runs_gets_its_report_at_once(config: Config) -> None:
    with Journal.open(config.journal) as journal:
        task = journal.submit(request("hang"), origin="cli", name_hint="x").task
        assert journal.claim_task(task, "gone") is not None
        journal.release(task, "gone")
        journal.pause(task, by="ann")
    async with running(config) as now:
        await now.gateway.cancel(task)
        await until(lambda: not now.journal.owed())
        assert "+1 -1" in await now.gateway.report(task), "what it had done is in it"
    assert now.worker.left == [task]


# --- schedules


async def test_a_schedule_makes_a_task_of_each_slot(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "LOOK_SECONDS", 0.05)
    async with running(config) as now:
        plan = now.submit("deliver", schedule="daily 03:00", id="nightly")
        view = await now.gateway.view(plan)
        assert view.state is TaskState.SCHEDULED
        assert view.reason.startswith("next at ") and view.reason.endswith(" 03:00")
        with Journal.open(config.journal) as other:
            other.tend(datetime.now(UTC) + timedelta(days=1))
        await until(lambda: len(now.journal.tasks([TaskState.ENDED])) == 1)
        [run] = now.journal.tasks([TaskState.ENDED])
    assert (run.outcome, run.schedule) == (Outcome.DELIVERED, None)
    assert run.id.startswith("nightly-20")
    assert now.view(plan).state is TaskState.SCHEDULED


async def test_sigint_still_cancels_a_run(config: Config) -> None:
    worker = FakeWorker()
    records = []

    async def run() -> None:
        records.append(await run_one(config, request("deaf"), open_worker=worker.open, say=lambda _: None))

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await until(lambda: worker.running)
        os.kill(os.getpid(), signal.SIGINT)
    assert records[0].ended.outcome is Outcome.CANCELLED
