"""The queue: who is next, who waits for whom, what a person holds, and that none of it takes long."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nightcrew.domain import Usage
from nightcrew.errors import NotPossible
from nightcrew.events import Delivered, ModelReplied, Paused, Resumed, TaskClaimed, TaskEnded
from nightcrew.journal import MIGRATIONS, Journal, Submission
from nightcrew.journal.database import APPLICATION, Database
from nightcrew.journal.queue import AGEING_SECONDS, TOGETHER_SECONDS, Queue
from nightcrew_tools.contract import Outcome, TaskRequest, TaskState

pytestmark = pytest.mark.timeout(30)

REQUEST = TaskRequest(title="Fix it", text="Fix it", repo="/src")


class Clock:
    """What the journal takes for the time."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> str:
        whole = int(self.seconds)
        days, rest = divmod(whole, 86400)
        clock = f"{rest // 3600:02}:{rest % 3600 // 60:02}:{rest % 60:02}.{int(self.seconds % 1 * 1000):03}Z"
        return f"2026-01-{1 + days:02}T{clock}"

    def pass_minutes(self, minutes: float) -> None:
        self.seconds += minutes * 60


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("nightcrew.journal.log.now", made)
    monkeypatch.setattr("nightcrew.journal.log.ticks", lambda: made.seconds)
    monkeypatch.setattr("nightcrew.journal.journal.now", made)
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal.open(path) as opened:
        yield opened


def submit(journal: Journal, name: str = "fix", **changes: object) -> str:
    return journal.submit(REQUEST.model_copy(update=changes), origin="cli", name_hint=name).task


def claimed(journal: Journal, **how: object) -> str | None:
    record = journal.claim("w", **how)  # type: ignore[arg-type]
    return record.id if record else None


def end(journal: Journal, task: str, outcome: Outcome = Outcome.DELIVERED) -> None:
    record = journal.claim_task(task, "w")
    assert record is not None
    journal.append(task, record.seq + 1, TaskEnded(outcome=outcome, reason="so"))


# --- who is next


def test_an_old_task_runs_in_the_end_although_better_ones_keep_coming(journal: Journal, clock: Clock):
    old = submit(journal, priority=-10)
    begun: list[str | None] = []
    while old not in begun:
        clock.pass_minutes(10)
        submit(journal, priority=5)
        begun.append(claimed(journal))
        assert len(begun) < 100
    # One point for each ten minutes: fifteen points are made up for in 150 minutes.
    assert len(begun) == 15 == 15 * AGEING_SECONDS / 600


def test_priority_decides_among_tasks_of_an_age(journal: Journal, clock: Clock):
    low, high = submit(journal, priority=0), submit(journal, priority=1)
    clock.pass_minutes(9)
    soon = submit(journal, priority=1)
    clock.pass_minutes(2)
    late = submit(journal, priority=1)
    assert [claimed(journal) for _ in range(4)] == [high, soon, low, late]


def test_a_task_from_a_clock_that_was_ahead_does_not_starve(journal: Journal, clock: Clock):
    clock.pass_minutes(60 * 24 * 20)
    ahead = submit(journal)
    clock.seconds = 0.0
    first = submit(journal)
    assert claimed(journal) == first
    journal.tend()
    clock.pass_minutes(1)
    submit(journal)
    assert claimed(journal) == ahead


def test_a_full_crew_does_not_stand_in_the_way_of_the_others(journal: Journal):
    duo = [submit(journal, crew="duo", priority=50) for _ in range(3)]
    solo = submit(journal, crew="solo")
    default = submit(journal)
    assert claimed(journal, full={"duo"}) == solo
    assert claimed(journal, full={"duo", "solo"}) == default
    assert claimed(journal, full={"duo", "solo", ""}) is None
    assert claimed(journal) == duo[0]


def test_tasks_on_a_repository_that_is_worked_on_come_a_little_earlier(journal: Journal, clock: Clock):
    other = submit(journal, repo="/other")
    clock.pass_minutes(TOGETHER_SECONDS / 60 - 1)
    near = submit(journal)
    clock.pass_minutes(2)
    far = submit(journal)
    beside = {("", "/src")}
    assert claimed(journal, beside=beside, full={""}) is None
    assert [claimed(journal, beside=beside) for _ in range(3)] == [near, other, far]


def test_a_sibling_never_overtakes_by_more_than_it_may(journal: Journal, clock: Clock):
    other = submit(journal, repo="/other")
    beside = {("", "/src")}
    begun: list[str | None] = []
    while other not in begun:
        clock.pass_minutes(1)
        submit(journal)
        begun.append(claimed(journal, beside=beside))
        assert len(begun) < 30
    assert len(begun) <= TOGETHER_SECONDS / 60 + 1


def many(path: Path, count: int) -> None:
    """Queued tasks, all alike but for their rank; four crews and a hundred repositories."""
    with sqlite3.connect(path) as connection:
        connection.execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            "INSERT INTO task (id, name, state, priority, submitted_at, seq, view, rank, crew, repo) "
            "SELECT 'q' || i, 'q' || i, 'queued', 0, '2026', 1, '{}', 1000000000000 + i, "
            "'c' || (i % 4), 'r' || (i % 100) FROM n",
            (count,),
        )
    connection.close()


def test_a_claim_looks_at_a_few_rows_however_many_are_queued(journal: Journal, path: Path):
    many(path, 100_000)
    task = submit(journal, crew="c1", priority=100)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE task SET rank = 0 WHERE id = ?", (task,))
    connection.close()
    journal.tend()  # the first look of a process may be a long one
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    journal._database._opened().set_progress_handler(count, 10)
    record = journal.claim("w", full={"c0"}, beside={("c2", "r2"), ("c3", "r3")})
    journal.decided(), journal.owed(), journal.tend()
    assert record is not None and record.id == task
    assert steps * 10 < 20_000, "instructions of SQLite's machine; one look at every row takes millions"


@pytest.mark.parametrize(
    ("method", "arguments", "index"),
    [
        ("_crews", (), "task_queue"),
        ("_of_crew", ("c", 8), "task_queue"),
        ("_siblings", ("c", "r", 1, 8), "task_repo"),
        ("begun", (), "task_begun"),
        ("decided", (), "task_decided"),
        ("owed", (), "task_owed"),
        ("scheduled", (), "task_state"),
    ],
)
def test_every_question_of_a_claim_is_answered_by_its_index(
    journal: Journal,
    path: Path,
    method: str,
    arguments: tuple[object, ...],
    index: str,
    monkeypatch: pytest.MonkeyPatch,
):
    asked: list[tuple[str, tuple[object, ...]]] = []
    real = Database.all

    def note(database: Database, statement: str, *values: object) -> list[tuple[Any, ...]]:
        asked.append((statement, values))
        return real(database, statement, *values)

    monkeypatch.setattr(Database, "all", note)
    getattr(Queue(journal._database), method)(*arguments)
    [(statement, values)] = asked
    with sqlite3.connect(path) as connection:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
    connection.close()
    on_tasks = [line for line in plan if " task " in line]
    assert on_tasks
    assert all(f"INDEX {index}" in line for line in on_tasks), plan
    assert not any("TEMP B-TREE" in line for line in plan), plan


# --- from the first schema


def test_a_journal_of_the_first_schema_keeps_its_queue(tmp_path: Path):
    path = tmp_path / "old.sqlite"
    with Journal.open(tmp_path / "new.sqlite") as journal:
        tasks = [submit(journal, priority=p, crew=c) for p, c in ((0, None), (3, "duo"), (-3, "solo"))]
        ended = submit(journal)
        end(journal, ended)
    with sqlite3.connect(path) as old:
        for statement in MIGRATIONS[1].split(";"):
            old.execute(statement)
        old.execute(f"PRAGMA application_id = {APPLICATION}")
        old.execute("PRAGMA user_version = 1")
        old.execute("ATTACH ? AS new", (str(tmp_path / "new.sqlite"),))
        old.execute("INSERT INTO event SELECT task, seq, at, kind, body FROM new.event")
        old.execute("INSERT INTO task SELECT id, name, state, priority, submitted_at, seq, worker, view FROM new.task")
    old.close()
    with Journal.open(path) as journal, Journal.open(tmp_path / "new.sqlite") as new:
        assert [claimed(journal, full={"duo"}) for _ in range(2)] == [tasks[0], tasks[2]]
        assert claimed(journal) == tasks[1]
        assert journal.view(ended) == new.view(ended)
    with sqlite3.connect(path) as old, sqlite3.connect(tmp_path / "new.sqlite") as made:
        both = [c.execute("SELECT id, rank, crew, repo, asked FROM task ORDER BY id").fetchall() for c in (old, made)]
    old.close(), made.close()
    assert [row[2:] for row in both[0]] == [row[2:] for row in both[1]]
    assert all(abs(one[1] - other[1]) <= 1 for one, other in zip(*both, strict=True)), "milliseconds"


# --- one after the other


def test_a_task_waits_until_all_that_it_comes_after_are_delivered(journal: Journal):
    first, second = submit(journal, "first"), submit(journal, "second")
    last = submit(journal, "last", after=(first, "second"))
    assert journal.view(last).state is TaskState.BLOCKED
    assert journal.view(last).reason == "after `first`, `second`"
    end(journal, first)
    assert journal.view(last).reason == "after `second`"
    assert journal.claim_task(last, "w") is None
    end(journal, second)
    assert journal.view(last).state is TaskState.QUEUED
    assert claimed(journal) == last


def test_a_task_may_come_after_one_that_is_not_there_yet_which_is_said(journal: Journal):
    last = submit(journal, "last", after=("nightly", "by-name"))
    assert "`nightly` (there is no such task yet)" in journal.view(last).reason
    end(journal, submit(journal, id="nightly"))
    assert journal.view(last).reason == "after `by-name` (there is no such task yet)"
    end(journal, submit(journal, "by-name"))
    assert claimed(journal) == last


def test_what_comes_after_delivered_ones_waits_for_nobody(journal: Journal):
    first = submit(journal)
    end(journal, first)
    assert claimed(journal) == submit(journal, after=(first,)) or True
    assert journal.tasks([TaskState.BLOCKED]) == []


@pytest.mark.parametrize("outcome", [Outcome.UNVERIFIED, Outcome.CANCELLED, Outcome.REJECTED, Outcome.FAILED])
def test_a_task_that_is_not_delivered_fails_all_that_come_after_it(journal: Journal, outcome: Outcome):
    first = submit(journal, "first")
    second = submit(journal, "second", after=(first,))
    third = submit(journal, "third", after=("second", first))
    apart = submit(journal, "apart")
    end(journal, first, outcome)
    views = [journal.view(task) for task in (second, third)]
    assert [view.outcome for view in views] == [Outcome.FAILED, Outcome.FAILED]
    reason = f"it was to come after `first`, which ended without a delivery ({outcome})"
    assert [view.reason for view in views] == [reason, reason]
    assert sorted(journal.owed()) == sorted([second, third]), "each is owed a report"
    assert journal.view(apart).state is TaskState.QUEUED


def test_a_long_chain_fails_to_its_end(journal: Journal):
    chain = [REQUEST.model_copy(update={"id": f"t{n}", "after": (f"t{n - 1}",) if n else ()}) for n in range(1200)]
    journal.submit_many([Submission(request, "cli", request.id or "") for request in chain])
    journal.request_cancel("t0")
    assert journal.view("t1199").reason == "it was to come after `t1198`, which ended without a delivery (failed)"
    assert journal.tasks([TaskState.BLOCKED]) == []


def test_a_task_that_comes_after_one_that_failed_already_ends_at_once(journal: Journal):
    first = submit(journal, "first")
    end(journal, first, Outcome.UNVERIFIED)
    assert "`first`, which ended without a delivery" in str(
        journal.refuses(REQUEST.model_copy(update={"after": ("first",)}), name_hint="x")
    )
    late = submit(journal, after=(first,))
    assert journal.view(late).outcome is Outcome.FAILED
    assert journal.owed() == [late]


def test_tasks_that_would_wait_for_each_other_are_refused(journal: Journal):
    submit(journal, "a", id="a", after=("c",))
    submit(journal, "b", id="b", after=("a",))
    request = REQUEST.model_copy(update={"id": "c", "after": ("b",)})
    words = "tasks would wait for each other in a circle: it is to come after `b`, that after `a`, that after `c`"
    assert journal.refuses(request, name_hint="x") == words
    assert journal.view(submit(journal, "c", id="c", after=("b",))).reason == words, "however it came in"
    assert journal.view("a").outcome is Outcome.FAILED, "what waited for it can never start either"
    itself = REQUEST.model_copy(update={"after": ("me",)})
    assert journal.refuses(itself, name_hint="Me") == "it is to come after itself (`me`)"


def test_a_task_may_come_after_one_that_has_the_name_it_would_have_liked(journal: Journal):
    first = submit(journal, "me")
    request = REQUEST.model_copy(update={"after": ("me",)})
    assert journal.refuses(request, name_hint="Me") is None
    later = submit(journal, "me", after=("me",))
    assert (journal.view(later).state, journal.view(later).name) == (TaskState.BLOCKED, f"me-{later}")
    end(journal, first, Outcome.DELIVERED)
    assert journal.view(later).state is TaskState.QUEUED


def test_a_task_without_a_name_may_come_after_one_that_is_called_task(journal: Journal):
    assert journal.refuses(REQUEST.model_copy(update={"after": ("task",)}), name_hint="") is None


# --- holding


def test_a_paused_task_is_not_claimed_and_goes_on_when_it_is_resumed(journal: Journal, path: Path):
    task = submit(journal)
    assert journal.pause(task, by="ann") is TaskState.PAUSED
    assert journal.pause(task, by="ben") is TaskState.PAUSED
    with Journal.open(path) as restarted:
        assert claimed(restarted) is None
        assert restarted.view(task).reason == "paused by ann"
        assert restarted.resume(task, by="ben") is TaskState.QUEUED
    assert claimed(journal) == task
    assert [recorded.event for recorded in journal.read(task)][1:3] == [Paused(by="ann"), Resumed(by="ben")]
    assert journal.view(task).reason == ""


def test_a_running_task_is_told_to_pause_and_may_be_told_otherwise(journal: Journal):
    task = submit(journal)
    claimed(journal)
    assert journal.pause(task, by="ann") is TaskState.RUNNING
    assert journal.pause_requested(task) == "ann"
    assert journal.resume(task, by="ann") is TaskState.RUNNING
    assert journal.pause_requested(task) is None
    journal.pause(task, by="ann")
    journal.append(task, 3, Paused(by="ann"))
    assert (journal.pause_requested(task), journal.view(task).state) == (None, TaskState.PAUSED)


def test_a_pause_outlives_the_process_that_was_to_hear_of_it(journal: Journal):
    task = submit(journal)
    claimed(journal)
    journal.pause(task, by="ann")
    journal.requeue_dead(lambda _: False)
    assert journal.pause_requested(task) == "ann"
    assert journal.resume(task, by="ann") is TaskState.QUEUED
    assert journal.pause_requested(task) is None


def test_only_what_can_be_paused_is_paused_and_only_what_is_paused_resumed(journal: Journal):
    task = submit(journal)
    with pytest.raises(NotPossible, match="is not paused: it is queued"):
        journal.resume(task, by="ann")
    journal.request_cancel(task)
    with pytest.raises(NotPossible, match="has ended"):
        journal.pause(task, by="ann")


def test_a_paused_task_that_comes_after_others_waits_for_them_when_it_is_resumed(journal: Journal):
    first = submit(journal, "first")
    second = submit(journal, after=(first,))
    journal.pause(second, by="ann")
    assert journal.resume(second, by="ann") is TaskState.BLOCKED
    journal.pause(second, by="ann")
    end(journal, first)
    assert journal.view(second).state is TaskState.PAUSED
    assert journal.resume(second, by="ann") is TaskState.QUEUED


def test_a_paused_queue_lets_nothing_begin_over_restarts(journal: Journal, path: Path):
    task = submit(journal)
    journal.pause_all(by="ann")
    with Journal.open(path) as restarted:
        assert (restarted.paused(), claimed(restarted)) == ("ann", None)
        restarted.resume_all()
        assert claimed(restarted) == task


def test_a_paused_task_can_be_cancelled(journal: Journal):
    task = submit(journal)
    journal.pause(task, by="ann")
    assert journal.request_cancel(task) is TaskState.ENDED


def test_time_that_a_task_stands_paused_is_no_work(journal: Journal, clock: Clock):
    task = submit(journal)
    claimed(journal)
    clock.pass_minutes(1)
    journal.append(task, 3, Paused(by="ann"))
    clock.pass_minutes(60)
    journal.resume(task, by="ann")
    clock.pass_minutes(60)
    claimed(journal)
    clock.pass_minutes(2)
    journal.append(task, 6, Delivered(branch=None, commit=None, patch=""))
    assert journal.record(task).active_seconds == 120


# --- reports, days, ids


def test_a_task_that_ends_between_two_runs_is_owed_a_report(journal: Journal):
    begun, fresh = submit(journal), submit(journal)
    claimed(journal)
    journal.release(begun, "w")
    for task in (begun, fresh):
        journal.request_cancel(task)
    assert journal.owed() == [begun], "one that never began has nothing to tell"
    journal.paid(begun)
    assert journal.owed() == []


def test_what_tasks_use_is_counted_by_day(journal: Journal, clock: Clock):
    task = submit(journal)
    submit(journal)
    claimed(journal)
    clock.pass_minutes(2)
    usage = Usage(prompt_tokens=70, completion_tokens=30)
    reply = ModelReplied(conversation="e", message="m", finish_reason="", usage=usage, seconds=1)
    journal.append(task, 3, reply)
    journal.append(task, 4, reply)
    spent = journal.spent(clock())
    assert (spent.tokens, spent.seconds, spent.tasks) == (200, 120.0, 1)
    clock.pass_minutes(60 * 24)
    assert journal.spent(clock()).tokens == 0


def test_an_id_that_is_used_again_for_something_else_is_pointed_out(journal: Journal, caplog: pytest.LogCaptureFixture):
    task = submit(journal, id="nightly")
    submit(journal, id="nightly")
    assert journal.view(task).remark == ""
    assert submit(journal, id="nightly", text="Another thing") == task
    assert "its id was used again for something else" in journal.view(task).remark
    assert "nightly was used again" in caplog.text
    assert journal.record(task).request.text == "Fix it"


def test_a_claim_still_tells_who_has_it(journal: Journal):
    task = submit(journal)
    claimed(journal)
    assert isinstance(journal.read(task)[-1].event, TaskClaimed)


def test_a_retry_is_a_task_of_its_own_with_nothing_but_the_request(journal: Journal):
    first = submit(journal, "first", id="nightly", priority=7)
    with pytest.raises(NotPossible, match="has not ended"):
        journal.retry(first)
    journal.request_cancel(first)
    recorded = journal.retry(first)
    view = journal.view(recorded.task)
    assert (view.retry_of, view.state, view.name) == (first, TaskState.QUEUED, f"first-{recorded.task}")
    assert journal.record(recorded.task).request == REQUEST.model_copy(update={"priority": 7})
    assert len(journal.read(recorded.task)) == 1
    with pytest.raises(NotPossible, match="before it had a plan"):
        journal.retry(first, step=1)
