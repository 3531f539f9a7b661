"""A task's events on their way from one machine's journal into another's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nightcrew.errors import NotPossible
from nightcrew.events import Moved, Recorded
from nightcrew.journal.fold import TaskRecord, fold, view
from nightcrew.journal.ids import now
from nightcrew.journal.log import Log
from nightcrew.journal.queue import Queue
from nightcrew_tools.contract import Outcome, TaskState


class Moving:
    """What a journal lets go, and takes in."""

    def __init__(self, queue: Queue, events: Log) -> None:
        self._queue = queue
        self._events = events

    def away(self, task: str, seq: int, moved: Moved) -> None:
        """End a task here, which stands at event `seq`: it goes on elsewhere. It is owed a report.

        Raises `NotPossible` when it stands otherwise, or somebody has begun to work on it.
        """
        with self._events.writing():
            row = self._queue.row(task)
            if row.seq != seq or row.state in (TaskState.RUNNING, TaskState.ENDED):
                raise NotPossible(f"task {task} went on meanwhile: export it once more")
            self._events.follow(task, moved)
            reason = f"moved: it goes on where {moved.file} is imported"
            self._events.end_here(task, Outcome.CANCELLED, reason, report=True)

    def is_here(self, events: Sequence[Recorded]) -> bool:
        """Whether this task is in the journal already, up to here at least.

        Raises `NotPossible` when another one has its id.
        """
        task = events[0].task
        there = self._events.read(task)
        if not there and not self._queue.known(task):
            return False
        if [one.model_dump_json() for one in there[: len(events)]] == [one.model_dump_json() for one in events]:
            return True
        raise NotPossible(f"another task has the id {task} here, or the same one went on here: it is left as it is")

    def here(self, events: Sequence[Recorded], moved: Moved, *, taken: Callable[[str], bool]) -> str:
        """Take a task in as its events tell it, and return what it is called here.

        `taken` says which names are not free. One that has not ended goes on: nobody runs it. Raises `NotPossible` like
        `is_here`.
        """
        with self._events.writing():
            if self.is_here(events):
                return self._queue.row(events[0].task).name
            record = fold(events)
            name = self._name(record, taken)
            if name != record.name:
                moved = moved.model_copy(update={"name": name})
            last = Recorded(task=record.id, seq=record.seq + 1, at=now(), event=moved)
            self._place([*events, last])
            return name

    def _name(self, record: TaskRecord, taken: Callable[[str], bool]) -> str:
        names = (record.name, f"{record.name}-{record.id}", *(f"{record.name}-{record.id}-{n}" for n in range(2, 100)))
        return next(name for name in names if self._queue.called(name) is None and not taken(name))

    def _place(self, events: Sequence[Recorded]) -> None:
        for recorded in events:
            self._events.insert(recorded)
        record = fold(events)
        state = _state(record)
        stored = view(record, state=state).model_dump_json()
        request = record.request
        self._queue.insert(
            record.id,
            record.name,
            state,
            record.submitted_at,
            stored,
            priority=request.priority,
            crew=request.crew or "",
            repo=request.repo,
            due=None,
        )
        self._queue.update(record.id, state, record.seq, record.worker, stored, asked=record.asked is not None)


def _state(record: TaskRecord) -> TaskState:
    if record.ended is not None:
        return TaskState.ENDED
    if record.waits_for_approval:
        return TaskState.WAITING
    return TaskState.PAUSED if record.paused is not None else TaskState.QUEUED
