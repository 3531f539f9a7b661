"""A wall clock that jumps, forward by a year or back by a day, ends no task, starts none twice and starves none."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from nightcrew.agent.ledger import Ledger
from nightcrew.events import MessageAdded
from nightcrew.journal import Journal
from nightcrew.journal.ids import new_task_id, stamp
from nightcrew.journal.locks import RunLocks
from nightcrew_tools.contract import Limits, TaskRequest, TaskState

START = datetime(2026, 11, 1, 22, 0, tzinfo=UTC)
JUMPS = pytest.mark.parametrize("jump", [timedelta(days=365), timedelta(days=-1)], ids=["year ahead", "day back"])


class Time:
    """Both clocks of a machine: the one on the wall, which can be set, and the one that counts."""

    def __init__(self) -> None:
        self.wall = START
        self.ticks = 1000.0

    def seconds(self) -> float:
        return self.wall.timestamp()

    def goes_by(self, minutes: float) -> None:
        self.wall += timedelta(minutes=minutes)
        self.ticks += minutes * 60


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    for module in ("log", "journal"):
        monkeypatch.setattr(f"nightcrew.journal.{module}.now", lambda: stamp(made.wall))
    monkeypatch.setattr("nightcrew.journal.log.ticks", lambda: made.ticks)
    monkeypatch.setattr("nightcrew.journal.ids.time", SimpleNamespace(time=made.seconds))
    return made


@pytest.fixture
def journal(tmp_path: Path, time: Time) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal.sqlite") as opened:
        yield opened


def submit(journal: Journal, **changes: object) -> str:
    values = {"title": "t", "text": "t", "repo": "/r", "limits": Limits(minutes=60), **changes}
    return journal.submit(TaskRequest.model_validate(values), origin="cli", name_hint="fix").task


@JUMPS
def test_minutes_of_work_are_those_that_went_by_also_after_a_restart(journal: Journal, time: Time, jump: timedelta):
    task = submit(journal)
    record = journal.claim("w")
    assert record is not None
    time.goes_by(5)
    journal.append(task, 3, MessageAdded(conversation="e", message="{}"))
    time.wall += jump
    time.goes_by(5)
    journal.append(task, 4, MessageAdded(conversation="e", message="{}"))
    journal.release(task, "w")
    time.goes_by(600)
    again = journal.claim("w2")
    assert again is not None
    assert again.active_seconds == 600
    time.goes_by(1)
    journal.append(task, 6, MessageAdded(conversation="e", message="{}"))
    assert journal.record(task).active_seconds == 660
    assert Ledger(journal, journal.record(task), clock=lambda: 0.0).seconds_left == 3600 - 660


@JUMPS
def test_a_running_task_stays_its_workers(journal: Journal, time: Time, jump: timedelta, tmp_path: Path):
    locks = RunLocks(tmp_path / "run")
    task = submit(journal)
    assert journal.claim("w", locks=locks) is not None
    time.wall += jump
    assert journal.requeue_dead(RunLocks(tmp_path / "run").is_alive) == []
    assert journal.view(task).state is TaskState.RUNNING


@JUMPS
def test_what_was_submitted_before_a_jump_and_after_it_is_all_run(journal: Journal, time: Time, jump: timedelta):
    before = [submit(journal) for _ in range(3)]
    time.wall += jump
    between = [submit(journal) for _ in range(3)]
    time.wall -= jump
    after = [submit(journal) for _ in range(3)]
    journal.tend(time.wall)
    ids = [record.id for record in iter(lambda: journal.claim("w"), None)]
    assert sorted(ids) == sorted({*before, *between, *after})
    assert len(ids) == 9


@JUMPS
def test_a_schedule_makes_up_for_no_year_and_goes_on_when_the_clock_is_right_again(
    journal: Journal, time: Time, jump: timedelta
):
    schedule = submit(journal, schedule="0 3 * * *")

    def days(count: int) -> int:
        for _ in range(count * 24):
            time.goes_by(60)
            journal.tend(time.wall)
        return len(journal.tasks()) - 1

    assert days(2) == 2
    time.wall += jump
    journal.tend(time.wall)
    assert len(journal.tasks()) - 1 <= 3  # of all the slots that seem to be missed, the last
    time.wall -= jump
    journal.tend(time.wall)
    had = len(journal.tasks()) - 1
    assert days(3) >= had + 2
    assert journal.view(schedule).state is TaskState.SCHEDULED
    assert len({view.id for view in journal.tasks()}) == len(journal.tasks())


def test_ids_count_up_when_the_clock_goes_back(time: Time):
    ids = [new_task_id()]
    time.wall += timedelta(days=365)
    ids.append(new_task_id())
    time.wall -= timedelta(days=366)
    ids += [new_task_id() for _ in range(3)]
    assert ids == sorted(set(ids))
