"""The journal on a real disk: nothing acknowledged is lost, nothing is done twice, and every trouble has a sentence."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from fakes.event_sequences import journals
from nightcrew.domain import Usage
from nightcrew.errors import JournalBusy, JournalCorrupt, JournalError, Stale
from nightcrew.events import MessageAdded, ModelReplied, Paused, Recorded, TaskClaimed, TaskEnded, ToolRan
from nightcrew.journal import MIGRATIONS, Journal, Submission
from nightcrew.journal.fold import advance, fold, view
from nightcrew.journal.ids import new_task_id, slug
from nightcrew.journal.locks import RunLock, RunLocks, ServiceLock
from nightcrew_tools.contract import Outcome, TaskNotFound, TaskRequest, TaskState

REPLY = ModelReplied(conversation="e", message="m", finish_reason="", usage=Usage(), seconds=1)
REQUEST = TaskRequest(title="Fix it", text="Fix it", repo="/src")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal.open(path) as opened:
        yield opened


@pytest.fixture
def other(journal: Journal, path: Path) -> Iterator[Journal]:
    """A second process's view of the same file."""
    with Journal.open(path) as opened:
        yield opened


def submit(journal: Journal, hint: str = "fix", **changes: object) -> str:
    return journal.submit(REQUEST.model_copy(update=changes), origin="cli", name_hint=hint).task


def refuse(*_: object, **__: object) -> None:
    raise JournalError("the disk is full")


def note(text: str) -> MessageAdded:
    return MessageAdded(conversation="executor", message=text)


# --- events


def test_an_event_is_read_back_as_it_was_written(journal: Journal):
    task = submit(journal)
    message = '{"role":"user","content":"żółw \\ud83d\\ude00 😀\\u0000 \u2028 \x07  \\n"}'
    written = [
        journal.append(task, 2, TaskClaimed(worker="w")),
        journal.append(task, 3, note(message)),
        journal.append(
            task,
            4,
            ModelReplied(
                conversation="executor", message=message, finish_reason="stop", usage=Usage(), seconds=0.1 + 0.2
            ),
        ),
    ]
    assert journal.read(task)[1:] == written
    assert journal.read(task, after=3) == written[2:]
    assert journal.read("nobody") == []
    assert journal.record(task).conversations["executor"] == [message, message]


STATES = {
    "task_claimed": TaskState.RUNNING,
    "approval_asked": TaskState.WAITING,
    "decided": TaskState.QUEUED,
    "resumed": TaskState.QUEUED,
    "task_ended": TaskState.ENDED,
}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=journals())
def test_any_sequence_of_events_survives_the_disk(path: Path, events: list[Recorded]):
    task = new_task_id()
    with Journal.open(path) as journal, Journal.open(path, read_only=True) as reader:
        event = events[0].event
        assert event.kind == "task_submitted"
        journal.submit(event.request, origin=event.origin, name_hint="fix", task_id=task)
        record = journal.record(task)
        for recorded in events[1:]:
            advance(record, journal.append(task, recorded.seq, recorded.event, at=recorded.at))
        assert [r.event for r in reader.read(task)][1:] == [r.event for r in events][1:]
        assert reader.record(task) == record == fold(journal.read(task))
        state = TaskState.QUEUED
        for recorded in events:
            state = STATES.get(recorded.event.kind, state)
            if isinstance(recorded.event, Paused):
                state = TaskState.QUEUED if recorded.event.queue else TaskState.PAUSED
        assert reader.view(task) == view(record, state=state)


def test_an_append_at_a_taken_number_is_stale(journal: Journal, other: Journal):
    task = submit(journal)
    journal.append(task, 2, TaskClaimed(worker="a"))
    with pytest.raises(Stale, match="another worker"):
        other.append(task, 2, TaskClaimed(worker="b"))
    assert journal.record(task).worker == "a"


def test_an_append_that_leaves_a_gap_or_names_no_task_is_refused(journal: Journal):
    task = submit(journal)
    with pytest.raises(JournalError, match="cannot follow"):
        journal.append(task, 3, note("x"))
    with pytest.raises(TaskNotFound, match="nobody"):
        journal.append("nobody", 2, note("x"))


def test_nothing_follows_the_end(journal: Journal):
    task = submit(journal)
    journal.append(task, 2, TaskEnded(outcome=Outcome.FAILED, reason="x"))
    with pytest.raises(Stale, match="has ended"):
        journal.append(task, 3, note("x"))


def test_a_refused_append_leaves_the_projection_right(journal: Journal, other: Journal):
    task = submit(journal)
    journal.append(task, 2, TaskClaimed(worker="a"))
    other.append(task, 3, REPLY)
    with pytest.raises(Stale):
        journal.append(task, 3, note("x"))
    journal.append(task, 4, note("y"))
    assert journal.view(task).usage.requests == 1
    assert journal.view(task) == view(journal.record(task))


def test_the_projection_follows_what_other_processes_append(journal: Journal, other: Journal):
    task = submit(journal)
    journal.append(task, 2, TaskClaimed(worker="a"))
    other.append(task, 3, REPLY)
    journal.append(task, 4, note("y"))
    assert journal.view(task) == view(journal.record(task))


def test_an_append_that_the_disk_refused_leaves_no_trace(
    journal: Journal, other: Journal, monkeypatch: pytest.MonkeyPatch
):
    task = submit(journal)
    journal.append(task, 2, TaskClaimed(worker="a"))
    with monkeypatch.context() as broken:
        broken.setattr("nightcrew.journal.log.view", refuse)
        with pytest.raises(JournalError, match="full"):
            journal.append(task, 3, REPLY)
    other.append(task, 3, note("x"))
    journal.append(task, 4, note("y"))
    assert journal.view(task).usage.requests == 0
    assert journal.view(task) == view(journal.record(task))


@pytest.mark.timeout(30)
def test_of_two_racing_for_a_number_exactly_one_wins(journal: Journal, path: Path):
    task = submit(journal)
    results: list[str] = []
    start = threading.Barrier(2)

    def race(name: str) -> None:
        with Journal.open(path) as mine:
            for seq in range(2, 32):
                start.wait()
                try:
                    mine.append(task, seq, note(name))
                except Stale:
                    results.append("stale")
                else:
                    results.append(name)

    threads = [threading.Thread(target=race, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count("stale") == 30
    written = [r.event.message for r in journal.read(task)[1:] if isinstance(r.event, MessageAdded)]
    assert sorted(written) == sorted(result for result in results if result != "stale")


_WRITER = """
import sys
from pathlib import Path
from nightcrew.events import MessageAdded
from nightcrew.journal import Journal
journal = Journal.open(Path(sys.argv[1]))
seq = journal.record(sys.argv[2]).seq
while True:
    seq += 1
    journal.append(sys.argv[2], seq, MessageAdded(conversation="e", message=f"{seq} " + "x" * 3000))
    sys.stdout.write(f"{seq}\\n")
    sys.stdout.flush()
"""


@pytest.mark.timeout(60)
def test_a_killed_writer_loses_no_acknowledged_append(journal: Journal, path: Path):
    task = submit(journal)
    rng = random.Random(4)
    for _ in range(10):
        with subprocess.Popen([sys.executable, "-c", _WRITER, str(path), task], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            acknowledged = [writer.stdout.readline() for _ in range(rng.randint(1, 25))]
            writer.send_signal(signal.SIGKILL)
            acknowledged += writer.stdout.read().splitlines(keepends=True)
        last = int([line for line in acknowledged if line.endswith(b"\n")][-1])
        events = journal.read(task)
        assert last <= events[-1].seq <= last + 1
        assert [r.seq for r in events] == list(range(1, events[-1].seq + 1))
        assert all(r.event.message.startswith(f"{r.seq} ") for r in events[1:] if isinstance(r.event, MessageAdded))
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_observers_hear_of_what_is_on_the_disk_and_only_of_that(journal: Journal, other: Journal):
    heard: list[str] = []

    def listen(recorded: Recorded) -> None:
        assert other.read(recorded.task)[-1] == recorded
        heard.append(recorded.event.kind)

    end = journal.subscribe(listen)
    task = submit(journal)
    journal.claim("w")
    with pytest.raises(Stale):
        journal.append(task, 2, note("x"))
    submit(journal, id="given")
    submit(journal, id="given")
    end()
    end()
    journal.append(task, 3, note("x"))
    assert heard == ["task_submitted", "task_claimed", "task_submitted"]


# --- submission


def test_the_same_id_again_is_the_first_task(journal: Journal, other: Journal):
    first = journal.submit(REQUEST.model_copy(update={"id": "nightly"}), origin="cli", name_hint="a")
    again = other.submit(REQUEST.model_copy(update={"id": "nightly", "title": "Other"}), origin="mcp", name_hint="b")
    assert again == first
    assert first.task == "nightly"
    assert [task.title for task in journal.tasks()] == ["Fix it"]


def test_a_task_id_from_outside_makes_a_submission_repeatable(journal: Journal):
    batch = [Submission(REQUEST, "inbox:a.md", "a", "id1"), Submission(REQUEST, "inbox:b.md", "b", "id2")]
    assert journal.submit_many(batch) == journal.submit_many(batch)
    assert len(journal.tasks()) == 2


def test_names_are_slugs_and_unique(journal: Journal):
    names = [journal.view(submit(journal, "Fix: Żółw & Co!")).name for _ in range(2)]
    assert names[0] == "fix-zow-co"
    assert names[1].startswith("fix-zow-co-")
    assert slug("日本") == "task"
    assert len(slug("x" * 500)) == 48


def test_a_failed_batch_leaves_nothing(journal: Journal, monkeypatch: pytest.MonkeyPatch):
    def fail(text: str, *, limit: int = 48) -> str:
        raise KeyboardInterrupt

    submit(journal, "first")
    monkeypatch.setattr("nightcrew.journal.journal.slug", fail)
    with pytest.raises(KeyboardInterrupt):
        submit(journal, "second")
    monkeypatch.undo()
    assert len(journal.tasks()) == 1
    submit(journal, "third")


def test_ids_are_short_sortable_and_never_the_same_twice():
    ids = [new_task_id() for _ in range(40_000)]
    assert len(set(ids)) == len(ids)
    assert sorted(ids) == ids
    assert {len(task) for task in ids} == {9}
    assert not set("".join(ids)) & set("ilouABCDEFGHIJKLMNOPQRSTUVWXYZ")


# --- the queue


def test_the_best_task_is_claimed_first_by_priority_then_age(journal: Journal):
    low, first, second = (submit(journal, priority=p) for p in (-1, 5, 5))
    claimed = [journal.claim("w") for _ in range(4)]
    assert [record.id if record else None for record in claimed] == [first, second, low, None]
    assert claimed[0] is not None
    assert (claimed[0].worker, claimed[0].seq) == ("w", 2)
    assert journal.view(first).state is TaskState.RUNNING


def test_a_claim_passes_over_what_is_excluded_or_still_held(journal: Journal, tmp_path: Path):
    tasks = [submit(journal) for _ in range(12)]
    mine, theirs = RunLocks(tmp_path / "locks"), RunLocks(tmp_path / "locks")
    for task in tasks[1:11]:
        assert theirs.acquire(task)
    record = journal.claim("w", exclude={tasks[0]}, locks=mine)
    assert record is not None
    assert record.id == tasks[11]
    assert mine.is_alive(tasks[11])
    assert journal.claim("w", exclude={tasks[0]}, locks=mine) is None
    assert not mine.is_alive(tasks[0])


def test_a_claim_that_fails_gives_its_lock_back(journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    task = submit(journal)
    locks = RunLocks(tmp_path / "locks")
    monkeypatch.setattr("nightcrew.journal.log.view", refuse)
    with pytest.raises(JournalError, match="full"):
        journal.claim("w", locks=locks)
    assert not locks.is_alive(task)


def test_a_damaged_task_does_not_stop_the_others(journal: Journal, path: Path, tmp_path: Path):
    damaged, sound = submit(journal), submit(journal)
    locks = RunLocks(tmp_path / "locks")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE event SET body = '{}' WHERE task = ?", (damaged,))
    connection.close()
    record = journal.claim("w", locks=locks)
    assert record is not None
    assert record.id == sound
    assert journal.claim("w", locks=locks) is None
    assert not locks.is_alive(damaged)
    with pytest.raises(JournalCorrupt, match=f"task {damaged}: event 1 cannot be read"):
        journal.claim_task(damaged, "w", locks=locks)


@pytest.mark.timeout(30)
def test_two_workers_never_claim_the_same_task(journal: Journal, path: Path):
    tasks = {submit(journal) for _ in range(40)}
    taken: list[str] = []

    def work(name: str) -> None:
        with Journal.open(path) as mine:
            while record := mine.claim(name):
                taken.append(record.id)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 40
    assert set(taken) == tasks


def test_a_certain_task_can_be_claimed_once(journal: Journal):
    submit(journal)
    task = submit(journal)
    record = journal.claim_task(task, "run")
    assert record is not None
    assert record.id == task
    assert journal.claim_task(task, "service") is None
    with pytest.raises(TaskNotFound):
        journal.claim_task("nobody", "w")


def test_submitting_and_claiming_at_once_leaves_a_service_no_chance(journal: Journal, other: Journal, tmp_path: Path):
    locks = RunLocks(tmp_path / "locks")
    task, record = journal.submit_claimed(Submission(REQUEST, "run", "fix"), "me", locks=locks)
    assert record is not None
    assert record.id == task
    assert other.claim("service") is None
    assert locks.is_alive(task)
    again = Submission(REQUEST.model_copy(update={"id": task}), "run", "fix")
    assert other.submit_claimed(again, "you", locks=RunLocks(tmp_path / "locks")) == (task, None)


def test_a_released_task_is_queued_again_but_only_by_its_worker(journal: Journal):
    task = submit(journal)
    journal.claim("a")
    journal.release(task, "b")
    assert journal.view(task).state is TaskState.RUNNING
    journal.release(task, "a")
    assert journal.view(task).state is TaskState.QUEUED
    record = journal.claim("b")
    assert record is not None
    assert record.claims == 2


def test_the_tasks_of_dead_runners_are_queued_again_and_those_of_living_ones_are_not(journal: Journal, tmp_path: Path):
    alive, dead = submit(journal), submit(journal)
    locks = tmp_path / "locks"
    script = (
        "import sys\nfrom pathlib import Path\nfrom nightcrew.journal.locks import RunLock\n"
        "lock = RunLock(Path(sys.argv[1]), sys.argv[2])\nassert lock.acquire()\nprint('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    runners = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(locks), task], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for task in (alive, dead)
    ]
    try:
        for runner in runners:
            assert runner.stdout is not None
            assert runner.stdout.readline() == b"held\n"
            journal.claim("w")
        assert journal.requeue_dead(RunLocks(locks).is_alive) == []
        runners[1].kill()
        runners[1].wait()
        assert journal.requeue_dead(RunLocks(locks).is_alive) == [dead]
        assert [journal.view(task).state for task in (alive, dead)] == [TaskState.RUNNING, TaskState.QUEUED]
        assert journal.view(dead).activity == ""
    finally:
        for runner in runners:
            runner.kill()
            runner.communicate()


def test_a_worker_that_lost_its_task_is_fenced_off(journal: Journal, other: Journal):
    task = submit(journal)
    old = journal.claim("old")
    assert old is not None
    other.requeue_dead(lambda _: False)
    other.claim("new")
    with pytest.raises(Stale):
        journal.append(task, old.seq + 1, note("late"))


# --- cancelling


def test_a_queued_task_that_is_cancelled_ends_at_once(journal: Journal):
    task = submit(journal)
    assert journal.request_cancel(task) is TaskState.ENDED
    shown = journal.view(task)
    assert (shown.state, shown.outcome, shown.exit_code) == (TaskState.ENDED, Outcome.CANCELLED, 130)
    assert journal.claim("w") is None
    assert journal.request_cancel(task) is TaskState.ENDED
    assert len(journal.read(task)) == 2


def test_a_running_task_is_told_and_its_numbers_are_left_alone(journal: Journal, other: Journal):
    task = submit(journal)
    record = journal.claim("w")
    assert record is not None
    assert not journal.cancel_requested(task)
    assert other.request_cancel(task) is TaskState.RUNNING
    assert other.request_cancel(task) is TaskState.RUNNING
    assert journal.cancel_requested(task)
    journal.append(task, record.seq + 1, TaskEnded(outcome=Outcome.CANCELLED, reason="asked"))
    assert not journal.cancel_requested(task)
    with pytest.raises(TaskNotFound):
        journal.request_cancel("nobody")


# --- looking


def test_tasks_come_newest_first_and_by_state(journal: Journal):
    tasks = [submit(journal) for _ in range(3)]
    journal.claim("w")
    assert [task.id for task in journal.tasks()] == tasks[::-1]
    assert [task.id for task in journal.tasks([TaskState.QUEUED])] == [tasks[2], tasks[1]]
    assert [task.id for task in journal.tasks(limit=1)] == [tasks[2]]
    assert journal.tasks([]) == []


def test_a_task_is_found_by_id_name_or_beginning(journal: Journal):
    for task in ("ab1", "ab2", "abc", "ab", "a_1"):
        submit(journal, f"name {task}", id=task)
    assert journal.find("ab") == ["ab"]
    assert journal.find("abc") == ["abc"]
    assert journal.find("a") == ["a_1", "ab", "ab1", "ab2", "abc"]
    assert journal.find("name-ab1") == ["ab1"]
    assert journal.find("a%") == journal.find("") == journal.find("zz") == []


def test_the_data_version_changes_when_another_process_writes(journal: Journal, other: Journal):
    before = journal.data_version()
    assert journal.data_version() == before
    submit(other)
    assert journal.data_version() != before


# --- the file


def test_folder_and_file_are_this_users_alone(journal: Journal, path: Path):
    submit(journal)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}


def test_closing_twice_is_fine_and_using_it_then_is_said(path: Path):
    journal = Journal.open(path)
    journal.close()
    journal.close()
    with pytest.raises(JournalError, match="closed"):
        journal.tasks()


def test_many_processes_may_open_a_new_journal_at_once(path: Path):
    script = (
        "import sys\nfrom pathlib import Path\nfrom nightcrew.journal import Journal\nsys.stdin.read(1)\n"
        "Journal.open(Path(sys.argv[1])).tasks()\n"
    )
    openers = [
        subprocess.Popen([sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(5)
    ]
    for opener in openers:
        assert opener.stdin is not None
        opener.stdin.write(b"x")
        opener.stdin.flush()
    assert [opener.communicate()[1] for opener in openers] == [b""] * 5


def test_a_new_file_that_another_process_reads_is_waited_for(path: Path):
    path.parent.mkdir()
    with sqlite3.connect(path, check_same_thread=False, isolation_level=None) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM sqlite_master").fetchall()
        later = threading.Timer(0.3, reader.rollback)
        later.start()
        Journal.open(path).close()
        later.join()
    reader.close()


@pytest.mark.parametrize(
    "content", [b"this is no database, whatever its name says" * 40, b"SQLite format 3\0" + b"\xff" * 4096]
)
def test_a_file_that_is_no_database_is_said_with_what_to_do(path: Path, content: bytes):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(JournalCorrupt, match=r"journal\.sqlite: is damaged.*move it away"):
        Journal.open(path)
    assert path.read_bytes() == content


def test_another_programs_database_is_left_alone(path: Path):
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE cookies (id)")
    connection.close()
    with pytest.raises(JournalError, match="not a Nightcrew journal"):
        Journal.open(path)


def test_a_newer_schema_is_refused(journal: Journal, path: Path):
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(JournalError, match=r"newer Nightcrew wrote it \(schema 99"):
        Journal.open(path)


def test_an_older_schema_is_brought_up_and_keeps_its_tasks(path: Path, monkeypatch: pytest.MonkeyPatch):
    with Journal.open(path) as journal:
        task = submit(journal)
    monkeypatch.setitem(MIGRATIONS, max(MIGRATIONS) + 1, "CREATE TABLE extra (id);")
    with pytest.raises(JournalError, match="older"):
        Journal.open(path, read_only=True)
    with Journal.open(path) as journal:
        assert journal.view(task).title == "Fix it"
    with Journal.open(path, read_only=True) as journal:
        assert journal.find(task) == [task]


def test_a_folder_in_the_place_of_the_file_is_said(path: Path):
    path.mkdir(parents=True)
    with pytest.raises(JournalError, match="cannot be written"):
        Journal.open(path)


def test_a_folder_that_cannot_be_made_is_said():
    with pytest.raises(JournalError, match="cannot be made"):
        Journal.open(Path("/proc/no-such-place/journal.sqlite"))


def test_a_journal_opened_for_reading_writes_nothing_and_makes_nothing(journal: Journal, path: Path, tmp_path: Path):
    task = submit(journal)
    with Journal.open(path, read_only=True) as reader:
        assert reader.view(task).name == "fix"
        with pytest.raises(JournalError, match="cannot be written"):
            reader.request_cancel(task)
    with pytest.raises(JournalError, match="no journal yet"):
        Journal.open(tmp_path / "none" / "journal.sqlite", read_only=True)
    assert not (tmp_path / "none").exists()


def test_an_event_of_an_unknown_kind_is_corrupt_and_names_itself(journal: Journal, path: Path):
    task = submit(journal)
    journal.append(
        task, 2, ToolRan(conversation="e", call_id="1", name="n", message="m", is_error=False, tree=None, seconds=0)
    )
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE event SET body = replace(body, 'tool_ran', 'tool_flew') WHERE seq = 2")
    connection.close()
    with pytest.raises(JournalCorrupt, match=f"task {task}: event 2 cannot be read"):
        journal.record(task)


# --- locks


def test_one_service_works_on_a_home_and_the_other_is_told_its_process(tmp_path: Path):
    assert ServiceLock.owner(tmp_path) is None
    with ServiceLock(tmp_path):
        assert ServiceLock.owner(tmp_path) == os.getpid()
        with pytest.raises(JournalBusy, match=f"process {os.getpid()}"):
            ServiceLock(tmp_path).__enter__()
    assert ServiceLock.owner(tmp_path) is None
    with ServiceLock(tmp_path):
        pass


def test_a_lock_file_left_by_a_dead_process_is_no_hindrance(tmp_path: Path):
    (tmp_path / "service.lock").write_text("999999\n")
    assert ServiceLock.owner(tmp_path) is None
    with ServiceLock(tmp_path):
        assert ServiceLock.owner(tmp_path) == os.getpid()


def test_a_lock_file_that_is_removed_under_us_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lock = RunLock(tmp_path, "t1")
    take, taken = fcntl.flock, []

    def take_too_late(fd: int, operation: int) -> None:
        if not taken:
            lock.path.unlink()
        taken.append(fd)
        take(fd, operation)

    monkeypatch.setattr("fcntl.flock", take_too_late)
    assert lock.acquire()
    assert not RunLock(tmp_path, "t1").acquire()
    lock.release()


def test_a_run_lock_is_held_once_and_can_be_taken_again(tmp_path: Path):
    first, second = RunLock(tmp_path / "locks", "t1"), RunLock(tmp_path / "locks", "t1")
    assert first.acquire()
    assert first.acquire()
    assert not second.acquire()
    first.release()
    first.release()
    assert second.acquire()
    second.release()
    assert list((tmp_path / "locks").iterdir()) == []
