"""The append-only part of the journal: events, their folds, and the queue's rows written with the events they follow.

The key `(task, seq)` is the fence: an append at a number that is taken raises `Stale`, so a worker that lost its task
learns so before it does harm.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Sequence

from pydantic import ValidationError

from nightcrew.errors import JournalCorrupt, JournalError, Stale
from nightcrew.events import (
    EVENT,
    ApprovalAsked,
    Decided,
    Event,
    Paused,
    Recorded,
    Resumed,
    TaskClaimed,
    TaskEnded,
    TaskSubmitted,
    without_secrets,
)
from nightcrew.journal.database import Database
from nightcrew.journal.fold import TaskRecord, advance, fold, view
from nightcrew.journal.ids import now, ticks
from nightcrew.journal.queue import Queue, Row, unknown
from nightcrew_tools.contract import Outcome, TaskNotFound, TaskState


class Log:
    """Events on the disk. What is written is told to `observers`, after it is there; they must not raise."""

    def __init__(self, database: Database, queue: Queue) -> None:
        self._database = database
        self._queue = queue
        self.observers: list[Callable[[Recorded], None]] = []
        # Folds of the tasks that this object appends to, so that the projection reads nothing back.
        self._live: dict[str, TaskRecord] = {}
        self._fresh: list[Recorded] = []
        self._claimed: dict[str, float] = {}
        """When this process claimed a task, by `ticks`."""

    @contextlib.contextmanager
    def writing(self) -> Generator[None]:
        """A transaction; its events are told to the observers once they are on the disk."""
        try:
            with self._database.transaction():
                yield
        except BaseException:
            self.forget()  # the folds may be ahead of what is on the disk
            raise
        fresh, self._fresh = self._fresh, []
        for recorded in fresh:
            for callback in tuple(self.observers):
                callback(recorded)

    def forget(self) -> None:
        """Fold every task anew from what is on the disk."""
        self._live.clear()
        self._fresh.clear()

    def read(self, task: str, after: int = 0, most: int = -1) -> list[Recorded]:
        """Events with a number above `after`, in order; empty for an unknown task. Raises `JournalCorrupt`."""
        rows = self._database.all(
            "SELECT seq, at, body, elapsed FROM event WHERE task = ? AND seq > ? ORDER BY seq LIMIT ?",
            task,
            after,
            most,
        )
        return [_recorded(task, *row) for row in rows]

    def readable(self, task: str, after: int = 0) -> tuple[list[Recorded], str]:
        """Like `read`, but up to the first event that cannot be read, with what is wrong with that one."""
        events: list[Recorded] = []
        rows = self._database.all(
            "SELECT seq, at, body, elapsed FROM event WHERE task = ? AND seq > ? ORDER BY seq", task, after
        )
        for row in rows:
            try:
                events.append(_recorded(task, *row))
            except JournalCorrupt as error:
                return events, str(error)
        return events, ""

    def record(self, task: str) -> TaskRecord:
        """The fold of a task's events. Raises `TaskNotFound`, `JournalCorrupt`."""
        events = self.read(task)
        if not events:
            raise self._none(task)
        return fold(events)

    def _none(self, task: str) -> TaskNotFound:
        """Why a task has no events."""
        gone = self._database.all("SELECT removed FROM retired WHERE task = ? AND removed IS NOT NULL", task)
        if gone:
            words = "only how it ended is kept ([journal] keep_days and max_mib)"
            return TaskNotFound(f"the events of task {task} were removed at {gone[0][0]}: {words}")
        return unknown(task)

    # --- inside of `writing`

    def begin(self, task: str, event: TaskSubmitted, state: TaskState, due: str | None) -> Recorded:
        """The first event of a task that is new."""
        recorded = Recorded.model_construct(task=task, seq=1, at=now(), event=without_secrets(event))
        self.insert(recorded)
        request = event.request
        stored = view(fold([recorded])).model_dump_json()
        self._queue.insert(
            task,
            event.name,
            state,
            recorded.at,
            stored,
            priority=request.priority,
            crew=request.crew or "",
            repo=request.repo,
            due=due,
        )
        self._fresh.append(recorded)
        return recorded

    def follow(self, task: str, event: Event) -> Recorded:
        """Append as the next event, whichever number that is."""
        return self.append(task, self._queue.row(task).seq + 1, event, at=now())

    def append(self, task: str, seq: int, event: Event, *, at: str) -> Recorded:
        """Append, and do to other tasks what follows from it. Raises `Stale`, `TaskNotFound`, `JournalError`."""
        row = self._queue.row(task)
        if row.state is TaskState.ENDED:
            raise Stale(f"task {task} has ended")
        if seq <= row.seq:
            raise Stale(f"task {task} has its event {seq} already: another worker runs it")
        if seq > row.seq + 1:
            raise JournalError(f"task {task}: event {seq} cannot follow event {row.seq}")
        if isinstance(event, TaskClaimed):
            self._claimed[task] = ticks()
        began = self._claimed.get(task)
        elapsed = None if began is None else round(ticks() - began, 3)
        event = without_secrets(event)
        recorded = Recorded.model_construct(task=task, seq=seq, at=at, event=event, elapsed=elapsed)
        self._append(recorded, row)
        if isinstance(event, TaskEnded):
            self.release(row, event.outcome)
        return recorded

    def end_here(self, task: str, outcome: Outcome, reason: str, *, report: bool) -> None:
        """End a task that nobody runs. With `report`, whoever serves the queue owes it one."""
        row = self._queue.row(task)
        if report:
            self._queue.owe(task)
        self.append(task, row.seq + 1, TaskEnded(outcome=outcome, reason=reason), at=now())

    def ready(self, task: str) -> TaskState:
        """The state of a task that nobody holds any longer."""
        return TaskState.BLOCKED if self._queue.needs(task) else TaskState.QUEUED

    def remember(self, record: TaskRecord) -> None:
        """Use this fold for the next events of its task; it is advanced here and nowhere else."""
        self._live[record.id] = record

    def release(self, ended: Row, outcome: Outcome) -> None:
        """Let those start that came after a task, or end them too, and those that came after them. One that is damaged
        goes on waiting: it could not start."""
        gone = deque([(ended, outcome)])
        while gone:
            row, how = gone.popleft()
            for dependent in self._queue.take_dependents(row):
                after = self._queue.row(dependent)
                if after.state is TaskState.ENDED:
                    continue
                if how is Outcome.DELIVERED:
                    if after.state is TaskState.BLOCKED:
                        self._queue.set_state(dependent, self.ready(dependent))
                    continue
                event = TaskEnded(outcome=Outcome.FAILED, reason=comes_after(row.name, how))
                following = Recorded.model_construct(task=dependent, seq=after.seq + 1, at=now(), event=event)
                try:
                    self._append(following, after)
                except JournalCorrupt:
                    self._queue.add_need(dependent, row.id)
                    continue
                self._queue.owe(dependent)
                gone.append((after, Outcome.FAILED))

    def _append(self, recorded: Recorded, row: Row) -> None:
        task, event = recorded.task, recorded.event
        record = self._live.get(task)
        if record is None or record.seq != row.seq:
            record = self._live[task] = self.record(task)
        tokens, seconds = _tokens(record), record.active_seconds
        self.insert(recorded)
        advance(record, recorded)
        began = isinstance(event, TaskClaimed) and record.claims == 1
        self._queue.spend(recorded.at, _tokens(record) - tokens, record.active_seconds - seconds, int(began))
        state = self._state_after(record, event, row.state)
        stored = view(record, state=state).model_dump_json()
        self._queue.update(task, state, recorded.seq, record.worker, stored, asked=record.asked is not None)
        if state is not TaskState.RUNNING:
            self._claimed.pop(task, None)
            self._queue.drop_signals(task, "pause")
        if state is TaskState.ENDED:
            self._live.pop(task, None)
            self._queue.drop_signals(task, "cancel")
            self._queue.forget_needs(task)
        self._fresh.append(recorded)

    def _state_after(self, record: TaskRecord, event: Event, before: TaskState) -> TaskState:
        match event:
            case TaskClaimed():
                return TaskState.RUNNING
            case ApprovalAsked():
                return TaskState.WAITING
            case Decided():
                return TaskState.QUEUED
            case Paused():
                return TaskState.QUEUED if event.queue else TaskState.PAUSED
            case Resumed():
                return TaskState.SCHEDULED if record.request.schedule is not None else self.ready(record.id)
            case TaskEnded():
                return TaskState.ENDED
            case _:
                return before

    def insert(self, recorded: Recorded) -> None:
        """Write the row of an event, and nothing that follows from it."""
        event = recorded.event
        body = event.model_dump_json()
        self._database.run(
            "INSERT INTO event (task, seq, at, kind, body, elapsed) VALUES (?, ?, ?, ?, ?, ?)",
            *(recorded.task, recorded.seq, recorded.at, event.kind, body, recorded.elapsed),
        )


def comes_after(name: str, outcome: Outcome) -> str:
    """Why a task ends that was to come after another one."""
    return f"it was to come after `{name}`, which ended without a delivery ({outcome})"


def first_of(events: Sequence[Recorded]) -> TaskSubmitted:
    """How a task was submitted. Raises `JournalCorrupt`."""
    event = events[0].event if events else None
    if not isinstance(event, TaskSubmitted):
        raise JournalCorrupt("a task does not begin with how it was submitted")
    return event


def _tokens(record: TaskRecord) -> int:
    return record.usage.prompt_tokens + record.usage.completion_tokens


def _recorded(task: str, seq: int, at: str, body: str, elapsed: float | None) -> Recorded:
    try:
        return Recorded.model_construct(task=task, seq=seq, at=at, event=EVENT.validate_json(body), elapsed=elapsed)
    except ValidationError as error:
        raise JournalCorrupt(
            f"task {task}: event {seq} cannot be read ({error.errors()[0]['msg']}); did a newer Nightcrew write it? "
            "Install that version, or restore the journal from a backup"
        ) from error
