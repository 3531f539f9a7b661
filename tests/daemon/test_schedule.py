"""Schedules: which times they mean, on days when the clocks change too, and that each is run once."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightcrew.errors import NotPossible
from nightcrew.journal import Journal
from nightcrew.schedule import parse_schedule
from nightcrew_tools.contract import Outcome, TaskRequest, TaskState

pytestmark = pytest.mark.timeout(30)


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A place where the clocks change: 2026-03-29 02:00 becomes 03:00, 2026-10-25 03:00 becomes 02:00."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def at(text: str) -> datetime:
    """A local time; with an offset the one that is meant where there are two."""
    return datetime.fromisoformat(text).astimezone(UTC)


def following(schedule: str, moment: str, count: int = 3) -> list[str]:
    found, parsed, now = [], parse_schedule(schedule), at(moment)
    for _ in range(count):
        now = parsed.after(now)
        found.append(now.astimezone().isoformat(timespec="minutes"))
    return found


@pytest.mark.parametrize(
    ("words", "cron"),
    [
        ("hourly", "0 * * * *"),
        ("daily", "0 0 * * *"),
        ("daily 03:05", "5 3 * * *"),
        ("weekdays 8:30", "30 8 * * 1-5"),
        ("weekly", "0 0 * * mon"),
        ("weekly sun 03:00", "0 3 * * 7"),
        ("weekly fri-sun 03:00", "0 3 * * 0,5,6"),
        ("monthly", "0 0 1 * *"),
        ("Monthly 15 04:30", "30 4 15 * *"),
        ("0 0 1 JAN,jul *", "0 0 1 1,7 *"),
        ("5-20/5 * * * *", "5,10,15,20 * * * *"),
        ("50/5 * * * *", "50,55 * * * *"),
    ],
)
def test_words_and_names_mean_fields(words: str, cron: str) -> None:
    assert following(words, "2026-06-01T12:00") == following(cron, "2026-06-01T12:00")


@pytest.mark.parametrize(
    ("schedule", "moment", "slots"),
    [
        ("daily 03:00", "2026-06-01T02:59", ["2026-06-01T03:00+02:00", "2026-06-02T03:00+02:00"]),
        ("daily 03:00", "2026-06-01T03:00", ["2026-06-02T03:00+02:00", "2026-06-03T03:00+02:00"]),
        ("*/20 8 * * 1-5", "2026-06-05T08:40", ["2026-06-08T08:00+02:00", "2026-06-08T08:20+02:00"]),
        ("0 0 29 2 *", "2026-01-01T00:00", ["2028-02-29T00:00+01:00", "2032-02-29T00:00+01:00"]),
        # A day of the month and one of the week: either is enough, as in cron.
        ("0 0 13 * fri", "2026-11-10T00:00", ["2026-11-13T00:00+01:00", "2026-11-20T00:00+01:00"]),
        ("0 0 */2 * fri", "2026-11-10T00:00", ["2026-11-13T00:00+01:00", "2026-11-27T00:00+01:00"]),
    ],
)
def test_the_slots_after_a_moment(schedule: str, moment: str, slots: list[str]) -> None:
    assert following(schedule, moment, len(slots)) == slots


def test_a_time_that_is_skipped_in_spring_comes_an_hour_later() -> None:
    slots = following("daily 02:30", "2026-03-28T12:00", 2)
    assert slots == ["2026-03-29T03:30+02:00", "2026-03-30T02:30+02:00"]


def test_a_time_that_comes_twice_in_autumn_counts_once() -> None:
    slots = following("daily 02:30", "2026-10-24T12:00", 2)
    assert slots == ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]


def test_where_the_hour_is_a_star_real_hours_count() -> None:
    spring = following("hourly", "2026-03-29T01:00", 2)
    autumn = following("0 * * * *", "2026-10-25T01:00", 4)
    assert spring == ["2026-03-29T03:00+02:00", "2026-03-29T04:00+02:00"]
    assert autumn == [f"2026-10-25T{hour}" for hour in ("02:00+02:00", "02:00+01:00", "03:00+01:00", "04:00+01:00")]


@settings(max_examples=60, deadline=None)
@given(
    schedule=st.sampled_from(["hourly", "daily 02:30", "*/7 2-3 * * *", "weekly sun 01:59", "monthly 31 03:00"]),
    moment=st.integers(0, 2 * 365 * 86400).map(lambda seconds: at("2026-01-01") + timedelta(seconds=seconds)),
)
def test_last_and_after_agree_whatever_the_clocks_do(schedule: str, moment: datetime) -> None:
    parsed = parse_schedule(schedule)
    after = parsed.after(moment)
    assert after > moment
    assert parsed.last(after) == after
    assert parsed.last(after - timedelta(microseconds=1)) <= moment
    assert parsed.after(parsed.last(moment)) == after


@pytest.mark.parametrize(
    "text",
    [
        *("", "sometimes", "daily 25:00", "hourly 03:00", "weekly mon tue", "60 * * * *", "* * 0 * *", "0 0 30 2 *"),
        *("*/0 * * * *", "1-x * * * *", "5-1 * * * *", "* * * * * *", "1,,2 * * * *", "*-5 * * * *", "0 0 * foo *"),
        "² * * * *",
    ],
)
def test_what_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as|is no|never comes|goes backwards|write a number"):
        parse_schedule(text)


# --- in the queue


REQUEST = TaskRequest(title="Nightly", text="Look at it", repo="/src", schedule="daily 03:00", priority=5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


def scheduled(path: Path, moment: str, **changes: object) -> str:
    """A scheduled task, submitted at that moment."""
    with Journal.open(path) as journal:
        request = REQUEST.model_copy(update=changes)
        task = journal.submit(request, origin="cli", name_hint="nightly", task_id="plan").task
        due = parse_schedule(request.schedule or "").after(at(moment)).isoformat(timespec="milliseconds")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE task SET due = ? WHERE id = ?", (due.replace("+00:00", "Z"), task))
    connection.close()
    return task


def runs(journal: Journal) -> list[str]:
    return sorted(view.id for view in journal.tasks([TaskState.QUEUED]))


def test_each_slot_is_run_once_over_restarts(path: Path) -> None:
    scheduled(path, "2026-06-01T12:00")
    for moment in ("2026-06-01T23:00", "2026-06-02T03:00", "2026-06-02T03:00", "2026-06-02T12:00", "2026-06-03T03:01"):
        for _ in range(2):
            with Journal.open(path) as journal:
                journal.tend(at(moment))
                journal.tend(at(moment))
    with Journal.open(path) as journal:
        assert runs(journal) == ["plan-20260602-0100", "plan-20260603-0100"], "the slot in UTC"
        run = journal.record("plan-20260602-0100")
    assert (run.name, run.origin) == ("nightly-2026-06-02-0300", "schedule:plan")
    assert run.request == REQUEST.model_copy(update={"schedule": None})


def test_of_the_slots_that_were_missed_the_last_one_is_made_up_for(path: Path) -> None:
    scheduled(path, "2026-06-01T12:00")
    with Journal.open(path) as journal:
        journal.tend(at("2026-06-09T02:00"))
        assert runs(journal) == ["plan-20260608-0100"]
        journal.tend(at("2026-06-09T03:00"))
        assert runs(journal) == ["plan-20260608-0100", "plan-20260609-0100"]


def test_a_clock_that_is_set_back_runs_nothing_twice_and_forgets_nothing(path: Path) -> None:
    scheduled(path, "2026-06-01T12:00")
    with Journal.open(path) as journal:
        journal.tend(at("2026-06-02T03:30"))
        for moment in ("2026-06-02T02:30", "2026-06-02T03:00", "2026-06-02T04:00"):
            journal.tend(at(moment))
        assert runs(journal) == ["plan-20260602-0100"]
        journal.tend(at("2030-01-01T12:00"))  # a clock that was years ahead for a moment
        ahead = "plan-20300101-0200"
        for moment in ("2026-06-02T05:00", "2026-06-03T03:00"):
            journal.tend(at(moment))
        assert runs(journal) == ["plan-20260602-0100", "plan-20260603-0100", ahead]


def test_two_processes_that_tend_one_journal_make_one_run(path: Path) -> None:
    scheduled(path, "2026-06-01T12:00")
    with Journal.open(path) as one, Journal.open(path) as other:
        for journal in (one, other, one):
            journal.tend(at("2026-06-02T03:00"))
        assert len(runs(one)) == 1


def test_a_schedule_is_listed_paused_resumed_and_removed(path: Path) -> None:
    task = scheduled(path, "2026-06-01T12:00")
    with Journal.open(path) as journal:
        view = journal.view(task)
        assert (view.state, view.schedule, view.reason) == (
            TaskState.SCHEDULED,
            "daily 03:00",
            "next at 2026-06-02 03:00",
        )
        assert journal.claim("w") is None
        assert journal.claim_task(task, "w") is None
        journal.pause(task, by="ann")
        journal.tend(at("2026-06-05T03:00"))
        assert runs(journal) == []
        assert journal.resume(task, by="ann") is TaskState.SCHEDULED
        journal.tend(datetime.now(UTC))
        assert runs(journal) == [], "what it missed is not made up for"
        journal.request_cancel(task)
        journal.tend(datetime.now(UTC) + timedelta(days=3))
        assert (runs(journal), journal.view(task).outcome) == ([], Outcome.CANCELLED)
        assert journal.owed() == []


def test_nothing_can_come_after_a_schedule(path: Path) -> None:
    scheduled(path, "2026-06-01T12:00")
    with Journal.open(path) as journal:
        late = REQUEST.model_copy(update={"schedule": None, "after": ("plan",)})
        assert "which is a schedule and never delivered itself" in str(journal.refuses(late, name_hint="x"))


def test_a_schedule_that_cannot_be_read_stops_no_other(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scheduled(path, "2026-06-01T12:00")
    with Journal.open(path) as journal:
        other = journal.submit(REQUEST, origin="cli", name_hint="other", task_id="sound").task
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE event SET body = '{}' WHERE task = 'plan'")
            connection.execute("UPDATE task SET due = '2026-06-02T01:00:00.000Z'")
        connection.close()
        for _ in range(2):
            journal.tend(at("2026-06-02T03:00"))
        assert runs(journal) == [f"{other}-20260602-0100"]
    assert caplog.text.count("its schedule stands still") == 1


def test_a_schedule_is_not_retried_while_it_stands(path: Path) -> None:
    task = scheduled(path, "2026-06-01T12:00")
    with Journal.open(path) as journal, pytest.raises(NotPossible, match="has not ended"):
        journal.retry(task)


def test_a_task_that_is_revised_before_it_began_takes_its_new_place(path: Path) -> None:
    with Journal.open(path) as journal:
        request = REQUEST.model_copy(update={"schedule": None})
        first = journal.submit(request, origin="cli", name_hint="a").task
        second = journal.submit(request, origin="cli", name_hint="b").task
        assert journal.revise(first, request.model_copy(update={"priority": -50, "crew": "solo"}))
        assert journal.revise(second, request.model_copy(update={"after": (first,)}))
        assert journal.view(second).state is TaskState.BLOCKED
        third = journal.submit(request, origin="cli", name_hint="c").task
        assert [record.id for record in iter(lambda: journal.claim("w", full={"solo"}), None)] == [third]
        assert journal.revise(second, REQUEST)
        assert journal.view(second).state is TaskState.SCHEDULED
        claimed = journal.claim("w")
        assert claimed is not None and claimed.id == first
        assert not journal.revise(first, request)
