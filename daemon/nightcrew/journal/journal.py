"""The journal: one append-only table of events, with the queue as its projection, in one SQLite file.

The key `(task, seq)` is the fence: an append at a number that is taken raises `Stale`, so a worker that lost its task
learns so before it does harm. The table `task` is written in the same transaction as the event that changes it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from nightcrew.errors import JournalCorrupt, JournalError, Stale
from nightcrew.events import (
    EVENT,
    ApprovalAsked,
    Decided,
    Event,
    Recorded,
    TaskClaimed,
    TaskEnded,
    TaskRevised,
    TaskSubmitted,
)
from nightcrew.journal.database import Database
from nightcrew.journal.fold import TaskRecord, advance, fold, view
from nightcrew.journal.ids import new_task_id, now, slug
from nightcrew.journal.locks import RunLocks
from nightcrew_tools.contract import NotWaiting, Outcome, TaskNotFound, TaskRequest, TaskState, TaskView

_log = logging.getLogger("nightcrew.journal")

MIGRATIONS: dict[int, str] = {
    1: """
    CREATE TABLE event (
      task TEXT NOT NULL, seq INTEGER NOT NULL, at TEXT NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL,
      PRIMARY KEY (task, seq)
    ) WITHOUT ROWID;
    CREATE TABLE task (
      id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL UNIQUE, state TEXT NOT NULL, priority INTEGER NOT NULL,
      submitted_at TEXT NOT NULL, seq INTEGER NOT NULL, worker TEXT, view TEXT NOT NULL
    );
    CREATE INDEX task_queue ON task (state, priority DESC, submitted_at, id);
    CREATE INDEX task_age ON task (submitted_at, id);
    CREATE TABLE signal (
      task TEXT NOT NULL, kind TEXT NOT NULL, at TEXT NOT NULL, PRIMARY KEY (task, kind)
    ) WITHOUT ROWID;
    """,
}
"""By schema version: what leads there from the one before. Only ever added to."""


@dataclass(frozen=True)
class Submission:
    """One task to put into the queue."""

    request: TaskRequest
    origin: str
    """`inbox:<file name>`, `cli`, `mcp`, `run`, `demo`."""
    name_hint: str
    """Its slug becomes the task's name, followed by the id when another task has it."""
    task_id: str | None = None
    """The id when the request names none; a new one when this is None too."""


@dataclass(frozen=True)
class _Row:
    state: TaskState
    seq: int
    worker: str | None


class Journal:
    """An open journal. It belongs to the thread that opened it; several processes may have the same file open.

    Calls are synchronous and take 1 to 3 ms, most of it the disk's. Each may raise `JournalError` with what to do.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._observers: list[Callable[[Recorded], None]] = []
        # Folds of the tasks that this object appends to, so that the projection reads nothing back.
        self._live: dict[str, TaskRecord] = {}
        self._damaged: set[str] = set()

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False) -> Self:
        """Open the journal, made with its folder (mode 0700) when it is missing and may be written.

        Raises `JournalError` when the file is no journal, is damaged, was written by a newer version, or cannot be
        written.
        """
        return cls(Database(path, MIGRATIONS, read_only=read_only))

    def close(self) -> None:
        """Close the journal; a second call does nothing."""
        self._database.close()
        self._live.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    # --- writing

    def submit(self, request: TaskRequest, *, origin: str, name_hint: str, task_id: str | None = None) -> Recorded:
        """Put a task into the queue and return its first event.

        Its id is the request's own, else `task_id`, else a new one. A task that is there already under a given id
        stays as it is, and its first event is returned.
        """
        return self.submit_many([Submission(request, origin, name_hint, task_id)])[0]

    def submit_many(self, submissions: Sequence[Submission]) -> list[Recorded]:
        """`submit` for each, in one transaction."""
        with self._writing() as fresh:
            return [self._submit(submission, fresh) for submission in submissions]

    def submit_claimed(
        self, submission: Submission, worker: str, *, locks: RunLocks | None = None
    ) -> tuple[str, TaskRecord | None]:
        """Submit and claim in one transaction, so that no service takes the task in between.

        Returns the id, and the record when this worker has the task now; None when it was there already and another
        has it, or had it.
        """
        with self._claiming(locks) as take, self._writing() as fresh:
            task = self._submit(submission, fresh).task
            return task, self._claim(task, worker, take, fresh)

    def revise(self, task: str, request: TaskRequest) -> bool:
        """Put another request in the place of what a task was submitted with.

        False, and nothing is written, when somebody has begun with it or it has ended. Raises `TaskNotFound`.
        """
        with self._writing() as fresh:
            row = self._row(task)
            if row.state is not TaskState.QUEUED or fold(self.read(task)).claims:
                return False
            revised = TaskRevised(request=request)
            self._append(Recorded.model_construct(task=task, seq=row.seq + 1, at=now(), event=revised), fresh)
            self._database.run("UPDATE task SET priority = ? WHERE id = ?", request.priority, task)
            return True

    def append(self, task: str, seq: int, event: Event, *, at: str | None = None) -> Recorded:
        """Append the event as number `seq` of its task. It is on the disk when this returns.

        `at` is the time as `ids.now` writes it, which is the default. Raises `Stale` when the number is taken or the
        task has ended, `TaskNotFound` when there is no such task.
        """
        recorded = Recorded.model_construct(task=task, seq=seq, at=at or now(), event=event)
        with self._writing() as fresh:
            self._append(recorded, fresh)
        return recorded

    def claim(self, worker: str, *, exclude: Collection[str] = (), locks: RunLocks | None = None) -> TaskRecord | None:
        """Take the best queued task (priority, then age, then id) that is not in `exclude`; None when there is none.

        With `locks`, its run lock is taken in the same transaction, and a task that a living process still holds is
        passed over: there is no moment in which another process could think this worker dead. A task whose events
        cannot be read is logged and passed over.
        """
        if not self._queued(exclude, 1):
            return None  # an idle service asks often: that costs no write lock
        with self._claiming(locks) as take, self._writing() as fresh:
            for most in (8, -1):
                for task in self._queued(exclude, most):
                    try:
                        record = self._claim(task, worker, take, fresh)
                    except JournalCorrupt as error:
                        _log.error("%s; the other tasks go on", error)
                        self._damaged.add(task)
                        continue
                    if record is not None:
                        return record
            return None

    def claim_task(self, task: str, worker: str, *, locks: RunLocks | None = None) -> TaskRecord | None:
        """Take this task; None when it is not queued, or a living process holds its lock. Raises `TaskNotFound`."""
        with self._claiming(locks) as take, self._writing() as fresh:
            return self._claim(task, worker, take, fresh)

    def release(self, task: str, worker: str) -> None:
        """Queue a task again that this worker runs and gives up for now (the service stops); else do nothing."""
        with self._writing():
            row = self._row(task)
            if row.state is TaskState.RUNNING and row.worker == worker:
                self._set_state(task, TaskState.QUEUED)

    def requeue_dead(self, is_alive: Callable[[str], bool]) -> list[str]:
        """Queue every running task again whose runner is dead, and return their ids. `is_alive` is asked by task id."""
        with self._writing():
            running = [row[0] for row in self._database.all("SELECT id FROM task WHERE state = ?", TaskState.RUNNING)]
            dead = [task for task in running if not is_alive(task)]
            for task in dead:
                self._set_state(task, TaskState.QUEUED)
            return dead

    def request_cancel(self, task: str, *, reason: str = "cancelled by a person") -> TaskState:
        """Ask a task to stop and return its state now.

        A queued one ends here and at once; a running one is told by `cancel_requested`, and so is whoever takes up one
        that waited for approval, since its report has to be written anew; an ended one stays as it is.
        """
        with self._writing() as fresh:
            row = self._row(task)
            if row.state is TaskState.ENDED:
                return row.state
            if row.state in (TaskState.RUNNING, TaskState.WAITING):
                self._database.run("INSERT OR IGNORE INTO signal VALUES (?, 'cancel', ?)", task, now())
                if row.state is TaskState.WAITING:
                    self._set_state(task, TaskState.QUEUED)
                    return TaskState.QUEUED
                return row.state
            ended = TaskEnded(outcome=Outcome.CANCELLED, reason=reason)
            self._append(Recorded.model_construct(task=task, seq=row.seq + 1, at=now(), event=ended), fresh)
            return TaskState.ENDED

    def decide(self, task: str, decided: Decided) -> bool:
        """Journal a person's word about a task that waits for approval, and queue it to be carried out.

        False, and nothing is written, when the same was decided before. Raises `NotWaiting` when there is nothing to
        decide, `TaskNotFound`.
        """
        with self._writing() as fresh:
            row = self._row(task)
            if row.state is not TaskState.WAITING:
                before = self.record(task).decided
                if before is not None and before.approved == decided.approved:
                    return False
                raise NotWaiting(_not_waiting(task, self.view(task), before))
            self._append(Recorded.model_construct(task=task, seq=row.seq + 1, at=now(), event=decided), fresh)
            return True

    # --- reading

    def cancel_requested(self, task: str) -> bool:
        """Did someone ask this running task to stop?"""
        return bool(self._database.all("SELECT 1 FROM signal WHERE task = ? AND kind = 'cancel'", task))

    def read(self, task: str, after: int = 0) -> list[Recorded]:
        """The task's events with a number above `after`, in order; empty for an unknown task.

        Raises `JournalCorrupt` when one cannot be read.
        """
        rows = self._database.all(
            "SELECT seq, at, body FROM event WHERE task = ? AND seq > ? ORDER BY seq", task, after
        )
        return [_recorded(task, *row) for row in rows]

    def readable(self, task: str, after: int = 0) -> tuple[list[Recorded], str]:
        """Like `read`, but up to the first event that cannot be read, with what is wrong with that one; empty when all
        can be."""
        events: list[Recorded] = []
        rows = self._database.all(
            "SELECT seq, at, body FROM event WHERE task = ? AND seq > ? ORDER BY seq", task, after
        )
        for row in rows:
            try:
                events.append(_recorded(task, *row))
            except JournalCorrupt as error:
                return events, str(error)
        return events, ""

    def record(self, task: str) -> TaskRecord:
        """The fold of the task's events. Raises `TaskNotFound`."""
        events = self.read(task)
        if not events:
            raise _unknown(task)
        return fold(events)

    def view(self, task: str) -> TaskView:
        """The task as others see it, without the paths of result files. Raises `TaskNotFound`."""
        rows = self._database.all("SELECT state, view FROM task WHERE id = ?", task)
        if not rows:
            raise _unknown(task)
        return _view(*rows[0])

    def tasks(self, states: Collection[TaskState] | None = None, limit: int | None = None) -> list[TaskView]:
        """Views of all tasks, or of those in these states, newest first; without the paths of result files."""
        wanted = tuple(TaskState) if states is None else tuple(states)
        rows = self._database.all(
            f"SELECT state, view FROM task WHERE state IN ({', '.join('?' * len(wanted))}) "  # noqa: S608 - only marks
            "ORDER BY submitted_at DESC, id DESC LIMIT ?",
            *wanted,
            -1 if limit is None else limit,
        )
        return [_view(*row) for row in rows]

    def counts(self) -> dict[TaskState, int]:
        """How many tasks there are in each state that is not the end; a state without any may be missing."""
        rows = self._database.all(
            "SELECT state, count(*) FROM task WHERE state IN (?, ?, ?) GROUP BY state",
            *(TaskState.QUEUED, TaskState.RUNNING, TaskState.WAITING),
        )
        return {TaskState(state): count for state, count in rows}

    def find(self, prefix: str) -> list[str]:
        """Ids of the tasks that are meant: the one with this id or name, else all whose id begins so, in order."""
        rows = self._database.all("SELECT id FROM task WHERE id = ?", prefix)
        rows = rows or self._database.all("SELECT id FROM task WHERE name = ?", prefix)
        if not rows and prefix:
            end = prefix + "\U0010ffff"
            rows = self._database.all("SELECT id FROM task WHERE id >= ? AND id < ? ORDER BY id", prefix, end)
        return [row[0] for row in rows]

    def decided(self) -> list[str]:
        """Queued tasks that had waited for approval, oldest first: there is little left to do for them."""
        rows = self._database.all(
            "SELECT id FROM task WHERE state = ? AND json_array_length(view, '$.concerns') > 0 ORDER BY submitted_at",
            TaskState.QUEUED,
        )
        return [row[0] for row in rows if row[0] not in self._damaged]

    def data_version(self) -> int:
        """A number that changes when another connection has written: the cheap way to ask whether to look again."""
        return int(self._database.all("PRAGMA data_version")[0][0])

    def subscribe(self, callback: Callable[[Recorded], None]) -> Callable[[], None]:
        """Call back with every event that this object writes, after it is on the disk; returns what ends that.

        The callback must not raise: the event stands whatever it does.
        """
        self._observers.append(callback)
        return lambda: self._observers.remove(callback) if callback in self._observers else None

    # --- inside a transaction

    def _submit(self, submission: Submission, fresh: list[Recorded]) -> Recorded:
        given = submission.request.id or submission.task_id
        rows = self._database.all("SELECT seq, at, body FROM event WHERE task = ? AND seq = 1", given) if given else []
        if given and rows:
            return _recorded(given, *rows[0])
        task = given or self._free_id()
        name = self._free_name(submission.name_hint, task)
        event = TaskSubmitted(request=submission.request, name=name, origin=submission.origin)
        recorded = Recorded.model_construct(task=task, seq=1, at=now(), event=event)
        self._insert(recorded)
        self._database.run(
            "INSERT INTO task VALUES (?, ?, ?, ?, ?, 1, NULL, ?)",
            task,
            name,
            TaskState.QUEUED,
            submission.request.priority,
            recorded.at,
            view(fold([recorded])).model_dump_json(),
        )
        fresh.append(recorded)
        return recorded

    def _free_id(self) -> str:
        task = new_task_id()
        while self._database.all("SELECT 1 FROM task WHERE id = ?", task):
            task = new_task_id()
        return task

    def _free_name(self, hint: str, task: str) -> str:
        base = slug(hint)
        candidates = (base, f"{base}-{task}", *(f"{base}-{task}-{number}" for number in range(2, 100)))
        return next(name for name in candidates if not self._database.all("SELECT 1 FROM task WHERE name = ?", name))

    def _claim(self, task: str, worker: str, take: Callable[[str], bool], fresh: list[Recorded]) -> TaskRecord | None:
        row = self._row(task)
        if row.state is not TaskState.QUEUED:
            return None
        events = self.read(task)
        record = fold(events)  # before anything is written: a damaged task is found out here
        if not take(task):
            return None
        self._live[task] = fold(events)  # another one: the worker keeps and advances its own
        recorded = Recorded.model_construct(task=task, seq=row.seq + 1, at=now(), event=TaskClaimed(worker=worker))
        self._append(recorded, fresh)
        advance(record, recorded)
        return record

    def _append(self, recorded: Recorded, fresh: list[Recorded]) -> None:
        task, seq = recorded.task, recorded.seq
        row = self._row(task)
        if row.state is TaskState.ENDED:
            raise Stale(f"task {task} has ended")
        if seq <= row.seq:
            raise Stale(f"task {task} has its event {seq} already: another worker runs it")
        if seq > row.seq + 1:
            raise JournalError(f"task {task}: event {seq} cannot follow event {row.seq}")
        self._insert(recorded)
        record = self._advanced(recorded)
        state = _state_after(recorded.event, row.state)
        stored = view(record, state=state).model_dump_json()
        self._database.run(
            "UPDATE task SET state = ?, seq = ?, worker = ?, view = ? WHERE id = ?",
            state,
            seq,
            record.worker,
            stored,
            task,
        )
        if state is TaskState.ENDED:
            self._live.pop(task, None)
            self._database.run("DELETE FROM signal WHERE task = ?", task)
        fresh.append(recorded)

    def _advanced(self, recorded: Recorded) -> TaskRecord:
        """The task's fold after this event, which is in the table already."""
        record = self._live.get(recorded.task)
        if record is not None and record.seq == recorded.seq - 1:
            advance(record, recorded)
        else:
            record = self._live[recorded.task] = fold(self.read(recorded.task))
        return record

    def _insert(self, recorded: Recorded) -> None:
        event = recorded.event
        body = event.model_dump_json()
        self._database.run(
            "INSERT INTO event VALUES (?, ?, ?, ?, ?)", recorded.task, recorded.seq, recorded.at, event.kind, body
        )

    def _queued(self, exclude: Collection[str], most: int) -> list[str]:
        passed_over = self._damaged.union(exclude)
        rows = self._database.all(
            "SELECT id FROM task WHERE state = ? ORDER BY priority DESC, submitted_at, id LIMIT ?",
            TaskState.QUEUED,
            most if most < 0 else most + len(passed_over),
        )
        return [row[0] for row in rows if row[0] not in passed_over]

    def _row(self, task: str) -> _Row:
        rows = self._database.all("SELECT state, seq, worker FROM task WHERE id = ?", task)
        if not rows:
            raise _unknown(task)
        state, seq, worker = rows[0]
        return _Row(TaskState(state), seq, worker)

    def _set_state(self, task: str, state: TaskState) -> None:
        self._database.run("UPDATE task SET state = ? WHERE id = ?", state, task)

    @contextlib.contextmanager
    def _writing(self) -> Generator[list[Recorded]]:
        """A transaction; what is put into the list is told to the observers once it is on the disk."""
        fresh: list[Recorded] = []
        try:
            with self._database.transaction():
                yield fresh
        except BaseException:
            self._live.clear()  # they may be ahead of what is on the disk
            raise
        for recorded in fresh:
            for callback in tuple(self._observers):
                callback(recorded)

    @contextlib.contextmanager
    def _claiming(self, locks: RunLocks | None) -> Generator[Callable[[str], bool]]:
        """Takes run locks, and gives them back when the claim does not come to be."""
        taken: list[str] = []

        def take(task: str) -> bool:
            if locks is None:
                return True
            if locks.acquire(task):
                taken.append(task)
                return True
            return False

        try:
            yield take
        except BaseException:
            for task in taken:
                if locks is not None:
                    locks.release(task)
            raise


def _state_after(event: Event, before: TaskState) -> TaskState:
    if isinstance(event, TaskClaimed):
        return TaskState.RUNNING
    if isinstance(event, ApprovalAsked):
        return TaskState.WAITING
    if isinstance(event, Decided):
        return TaskState.QUEUED
    return TaskState.ENDED if isinstance(event, TaskEnded) else before


def _not_waiting(task: str, view: TaskView, before: Decided | None) -> str:
    if before is not None:
        return f"task {task} was {'approved' if before.approved else 'rejected'} by {before.by} already"
    return f"task {task} does not wait for approval: it {'was' if view.outcome else 'is'} {view.outcome or view.state}"


def _unknown(task: str) -> TaskNotFound:
    return TaskNotFound(f"no task has the id {task!r}; `nightcrew list` shows all")


def _recorded(task: str, seq: int, at: str, body: str) -> Recorded:
    try:
        return Recorded.model_construct(task=task, seq=seq, at=at, event=EVENT.validate_json(body))
    except ValidationError as error:
        raise JournalCorrupt(
            f"task {task}: event {seq} cannot be read ({error.errors()[0]['msg']}); did a newer Nightcrew write it? "
            "Install that version, or restore the journal from a backup"
        ) from error


def _view(state: str, stored: str) -> TaskView:
    try:
        found = TaskView.model_validate_json(stored)
    except ValidationError as error:
        raise JournalCorrupt(f"a task's stored view cannot be read ({error.errors()[0]['msg']})") from error
    return found if found.state == state else found.model_copy(update={"state": TaskState(state), "activity": ""})
