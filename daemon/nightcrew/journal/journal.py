"""The journal: one append-only table of events, with the queue as its projection, in one SQLite file.

The table `task` is written in the same transaction as the event that changes it; see `log` for events, `queue` for
what is next.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from nightcrew.errors import JournalCorrupt
from nightcrew.events import Event, Recorded, TaskClaimed, TaskRevised, TaskSubmitted
from nightcrew.journal.damage import Damage
from nightcrew.journal.database import Database
from nightcrew.journal.fold import TaskRecord, advance, fold
from nightcrew.journal.ids import new_task_id, now, slug
from nightcrew.journal.locks import RunLocks
from nightcrew.journal.log import Log, first_of
from nightcrew.journal.moving import Moving
from nightcrew.journal.order import refusal
from nightcrew.journal.queue import Queue, Row, Spent, local_day
from nightcrew.journal.retention import Retention
from nightcrew.journal.retry import events_of_retry, request_of_retry
from nightcrew.journal.schema import MIGRATIONS
from nightcrew.journal.steering import Steering
from nightcrew.journal.timetable import Timetable, next_slot
from nightcrew.journal.views import Views
from nightcrew_tools.contract import Outcome, TaskRequest, TaskState, TaskView

_log = logging.getLogger("nightcrew.journal")


@dataclass(frozen=True)
class Submission:
    """One task to put into the queue."""

    request: TaskRequest
    origin: str
    """`inbox:<file name>`, `cli`, `mcp`, `run`, `demo`, `schedule:<task>`, `retry`."""
    name_hint: str
    """Its slug becomes the task's name, followed by the id when another task has it."""
    task_id: str | None = None
    """The id when the request names none; a new one when this is None too."""
    retry_of: str | None = None


class Journal(Steering):
    """An open journal. It belongs to the thread that opened it; several processes may have the same file open.

    Calls are synchronous and take 1 to 3 ms, most of it the disk's. Each may raise `JournalError` with what to do.
    """

    def __init__(self, database: Database) -> None:
        queue = Queue(database)
        events = Log(database, queue)
        super().__init__(queue, events, Views(database, queue), Damage(database, queue, events))
        self._database = database
        self._timetable = Timetable(self._queue)
        self.moving = Moving(self._queue, self._events)
        """From one machine to another."""
        self.retention = Retention(database, self._queue, self._events)
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
        self._events.forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    # --- submitting

    def submit(self, request: TaskRequest, *, origin: str, name_hint: str, task_id: str | None = None) -> Recorded:
        """Put a task into the queue and return its first event.

        Its id is the request's own, else `task_id`, else a new one. A task that is there already under a given id
        stays as it is, and its first event is returned.
        """
        return self.submit_many([Submission(request, origin, name_hint, task_id)])[0]

    def submit_many(self, submissions: Sequence[Submission]) -> list[Recorded]:
        """`submit` for each, in one transaction."""
        with self._events.writing():
            return [self._submit(submission) for submission in submissions]

    def submit_claimed(
        self, submission: Submission, worker: str, *, locks: RunLocks | None = None
    ) -> tuple[str, TaskRecord | None]:
        """Submit and claim in one transaction, so that no service takes the task in between.

        Returns the id, and the record when this worker has the task now; None when it was there already and another
        has it, or had it.
        """
        with self._claiming(locks) as take, self._events.writing():
            task = self._submit(submission).task
            return task, self._claim(task, worker, take)

    def refuses(self, request: TaskRequest, *, name_hint: str) -> str | None:
        """Why a task may not come after those that it names, None when it may: they wait for it in turn, or have ended
        without a delivery."""
        own = {request.id} if request.id else set[str]()
        if name_hint and self._queue.called(name := slug(name_hint)) is None:  # else it will be called something else
            own.add(name)
        return refusal(self._queue, self._views, request.after, own)

    def retry(self, task: str, *, step: int | None = None, task_id: str | None = None) -> Recorded:
        """A new task with the request of an ended one; with `step`, one that goes on where that step began.

        Raises `NotPossible` when it has not ended or did not come so far, `TaskNotFound`.
        """
        with self._events.writing():
            old = self._events.record(task)
            events = events_of_retry(old, step)
            submission = Submission(request_of_retry(old), "retry", old.name, task_id, retry_of=task)
            recorded = self._submit(submission)
            for event in events:
                self._events.follow(recorded.task, event)
            return recorded

    def tend(self, moment: datetime | None = None) -> None:
        """Submit what schedules have come due: of the slots that were missed, the last one. `moment` is now in UTC."""
        moment = moment or datetime.now(UTC)
        if not self._timetable.wants(moment):
            return
        with self._events.writing():
            if self._timetable.went_back(moment):
                self._queue.rank_anew(now())
            for task, slot in self._timetable.due(moment, self._schedule_of):
                record = self._events.record(task)
                request = record.request.model_copy(update={"schedule": None, "id": None})
                local = slot.astimezone()
                hint = f"{record.name[:30]}-{local:%Y-%m-%d-%H%M}"
                self._submit(Submission(request, f"schedule:{task}", hint, f"{task}-{slot:%Y%m%d-%H%M}"))

    def _schedule_of(self, task: str) -> str | None:
        try:
            return self._events.record(task).request.schedule
        except JournalCorrupt as error:
            _log.error("%s; its schedule stands still", error)
            self._queue.set_due(task, None)
            return None

    # --- working

    def revise(self, task: str, request: TaskRequest) -> bool:
        """Put another request in the place of what a task was submitted with.

        False, and nothing is written, when somebody has begun with it or it has ended. Raises `TaskNotFound`.
        """
        with self._events.writing():
            row = self._queue.row(task)
            if row.worker is not None or row.state in (TaskState.RUNNING, TaskState.WAITING, TaskState.ENDED):
                return False
            self._events.follow(task, TaskRevised(request=request))
            self._queue.revise(task, request.priority, request.crew or "", request.repo, self._first_slot(request))
            self._queue.drop_signals(task, "reused")  # that was this request, and now it is taken
            self._queue.forget_needs(task)
            if row.state is not TaskState.PAUSED:
                scheduled = request.schedule is not None
                self._queue.set_state(task, TaskState.SCHEDULED if scheduled else TaskState.QUEUED)
            if request.after:
                self._put_after(self._queue.row(task), request.after)
            return True

    def append(
        self, task: str, seq: int, event: Event, *, at: str | None = None, first: Callable[[], object] | None = None
    ) -> Recorded:
        """Append the event as number `seq` of its task. It is on the disk when this returns.

        `at` is the time as `ids.now` writes it, which is the default. `first` is what has to be done before the event
        is true and by nobody who lost the task: it is called once the number is known to be free, while no other
        process can write; what it raises undoes the event. Raises `Stale` when the number is taken or the task has
        ended, `TaskNotFound` when there is no such task.
        """
        with self._events.writing():
            recorded = self._events.append(task, seq, event, at=at or now())
            if first is not None:
                first()
            return recorded

    def claim(
        self,
        worker: str,
        *,
        exclude: Collection[str] = (),
        full: Collection[str] = (),
        beside: Collection[tuple[str, str]] = (),
        begun: bool = False,
        locks: RunLocks | None = None,
    ) -> TaskRecord | None:
        """Take the best queued task that is not in `exclude`; None when there is none, or the queue is paused.

        The best is the one with the smallest rank (see `queue`), of a crew that is not in `full`; what shares crew and
        repository with one of `beside` comes a little earlier. With `begun`, only those that have run before.
        With `locks`, its run lock is taken in the same transaction, and a task that a living process still holds is
        passed over: there is no moment in which another process could think this worker dead. A task whose events
        cannot be read is logged and passed over.
        """
        passed_over = self._damaged.union(exclude)

        def best(most: int) -> list[str]:
            if begun:
                return self._queue.begun(full, passed_over)
            return self._queue.next(most, full=full, beside=beside, passed_over=passed_over)

        if self.paused() or not best(1):
            return None  # an idle service asks often: that costs no write lock
        with self._claiming(locks) as take, self._events.writing():
            for most in (8, -1):
                for task in best(most):
                    try:
                        record = self._claim(task, worker, take)
                    except JournalCorrupt as error:
                        _log.error("%s; the other tasks go on", error)
                        self._damaged.add(task)
                        self.damage.note(task, str(error))
                        continue
                    if record is not None:
                        return record
            return None

    def claim_task(self, task: str, worker: str, *, locks: RunLocks | None = None) -> TaskRecord | None:
        """Take this task; None when it is not queued, or a living process holds its lock. Raises `TaskNotFound`."""
        with self._claiming(locks) as take, self._events.writing():
            return self._claim(task, worker, take)

    def pass_over(self, task: str, why: str) -> None:
        """Take up this task no more, which was found to be damaged, until it can be read at another start."""
        _log.error("%s; the other tasks go on", why)
        with self._events.writing():
            self._damaged.add(task)
            self.damage.note(task, why)
            if self._queue.row(task).state is TaskState.RUNNING:
                self._queue.set_state(task, TaskState.QUEUED)

    def release(self, task: str, worker: str) -> None:
        """Queue a task again that this worker runs and gives up for now (the service stops); else do nothing."""
        with self._events.writing():
            row = self._queue.row(task)
            if row.state is TaskState.RUNNING and row.worker == worker:
                self._queue.set_state(task, TaskState.QUEUED)

    def requeue_dead(self, is_alive: Callable[[str], bool]) -> list[str]:
        """Queue every running task again whose runner is dead, and return their ids. `is_alive` is asked by task id."""
        with self._events.writing():
            dead = [task for task in self._queue.in_state(TaskState.RUNNING) if not is_alive(task)]
            for task in dead:
                self._queue.set_state(task, TaskState.QUEUED)
            return dead

    # --- reading

    def read(self, task: str, after: int = 0) -> list[Recorded]:
        """The task's events with a number above `after`, in order; empty for an unknown task.

        Raises `JournalCorrupt` when one cannot be read.
        """
        return self._events.read(task, after)

    def readable(self, task: str, after: int = 0) -> tuple[list[Recorded], str]:
        """Like `read`, but up to the first event that cannot be read, with what is wrong with that one; empty when all
        can be."""
        return self._events.readable(task, after)

    def record(self, task: str) -> TaskRecord:
        """The fold of the task's events. Raises `TaskNotFound`."""
        return self._events.record(task)

    def view(self, task: str) -> TaskView:
        """The task as others see it, without the paths of result files. Raises `TaskNotFound`."""
        return self._views.one(task)

    def tasks(self, states: Collection[TaskState] | None = None, limit: int | None = None) -> list[TaskView]:
        """Views of all tasks, or of those in these states, newest first; without the paths of result files."""
        return self._views.several(states, limit)

    def counts(self) -> dict[TaskState, int]:
        """How many tasks there are in each state that is not the end; a state without any may be missing."""
        states = [state for state in TaskState if state is not TaskState.ENDED]
        rows = self._database.all(
            f"SELECT state, count(*) FROM task WHERE state IN ({', '.join('?' * len(states))}) GROUP BY state",  # noqa: S608 - only marks
            *states,
        )
        return {TaskState(state): count for state, count in rows}

    def find(self, prefix: str) -> list[str]:
        """Ids of the tasks that are meant: the one with this id or name, else all whose id begins so, in order."""
        return self._queue.find(prefix)

    def decided(self) -> list[str]:
        """Queued tasks that had waited for approval, oldest first: there is little left to do for them."""
        return [task for task in self._queue.decided() if task not in self._damaged]

    def owed(self) -> list[str]:
        """Tasks that ended while nobody ran them, and whose report somebody has to write: see `paid`."""
        return self._queue.owed()

    def paid(self, task: str) -> None:
        """The report of a task in `owed` is there."""
        with self._events.writing():
            self._queue.pay(task)

    def spent(self, at: str) -> Spent:
        """What all tasks used on the local day of a time."""
        return self._queue.spent(local_day(at))

    def data_version(self) -> int:
        """A number that changes when another connection has written: the cheap way to ask whether to look again."""
        return int(self._database.all("PRAGMA data_version")[0][0])

    def subscribe(self, callback: Callable[[Recorded], None]) -> Callable[[], None]:
        """Call back with every event that this object writes, after it is on the disk; returns what ends that.

        The callback must not raise: the event stands whatever it does.
        """
        observers = self._events.observers
        observers.append(callback)
        return lambda: observers.remove(callback) if callback in observers else None

    # --- inside a transaction

    def _submit(self, submission: Submission) -> Recorded:
        request = submission.request
        given = request.id or submission.task_id
        if given and self.retention.was_removed(given):
            return self._as_remembered(given)
        there = self._events.read(given, most=1) if given else []
        if given and there:
            self._mark_reuse(given, first_of(there), request)
            return there[0]
        task = given or self._free_id()
        name = self._free_name(submission.name_hint, task)
        event = TaskSubmitted(request=request, name=name, origin=submission.origin, retry_of=submission.retry_of)
        state = TaskState.QUEUED if request.schedule is None else TaskState.SCHEDULED
        recorded = self._events.begin(task, event, state, self._first_slot(request))
        if request.after:
            self._put_after(self._queue.row(task), request.after)
        return recorded

    def _as_remembered(self, task: str) -> Recorded:
        """The first event of a task whose events were removed, as far as it is known."""
        view = self.view(task)
        request = TaskRequest(title=view.title, text="", repo=view.repo, id=None)
        event = TaskSubmitted(request=request, name=view.name, origin="")
        return Recorded.model_construct(task=task, seq=1, at=view.submitted_at, event=event)

    def _first_slot(self, request: TaskRequest) -> str | None:
        return None if request.schedule is None else next_slot(request.schedule, datetime.now(UTC))

    def _mark_reuse(self, task: str, before: TaskSubmitted, request: TaskRequest) -> None:
        if request.id is not None and (before.request.text, before.request.repo) != (request.text, request.repo):
            _log.warning("the id %s was used again for something else: the task that has it stays as it is", task)
            self._queue.signal(task, "reused", now())

    def _put_after(self, task: Row, after: Sequence[str]) -> None:
        """Have a task that has not begun wait for others; end it where that could never come to an end."""
        if (why := refusal(self._queue, self._views, after, {task.id, task.name})) is not None:
            self._events.end_here(task.id, Outcome.FAILED, why, report=True)
            return
        for key in after:
            row = self._queue.called(key)
            if row is None or row.state is not TaskState.ENDED:
                self._queue.add_need(task.id, key if row is None else row.id)
        if task.state is not TaskState.PAUSED:
            self._queue.set_state(task.id, self._events.ready(task.id))

    def _free_id(self) -> str:
        task = new_task_id()
        while self._database.all("SELECT 1 FROM task WHERE id = ?", task):
            task = new_task_id()
        return task

    def _free_name(self, hint: str, task: str) -> str:
        base = slug(hint)
        candidates = (base, f"{base}-{task}", *(f"{base}-{task}-{number}" for number in range(2, 100)))
        return next(name for name in candidates if not self._database.all("SELECT 1 FROM task WHERE name = ?", name))

    def _claim(self, task: str, worker: str, take: Callable[[str], bool]) -> TaskRecord | None:
        row = self._queue.row(task)
        if row.state is not TaskState.QUEUED:
            return None
        events = self.read(task)
        record = fold(events)  # before anything is written: a damaged task is found out here
        if not take(task):
            return None
        self.damage.forget(task)
        self._events.remember(fold(events))  # another one: the worker keeps and advances its own
        advance(record, self._events.append(task, row.seq + 1, TaskClaimed(worker=worker), at=now()))
        return record

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
