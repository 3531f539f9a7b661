"""What people say about tasks that are there: cancel, pause, resume, approve, reject."""

from __future__ import annotations

from datetime import UTC, datetime

from nightcrew.errors import JournalCorrupt, NotPossible
from nightcrew.events import Decided, Paused, Resumed, TaskEnded
from nightcrew.journal.damage import Damage
from nightcrew.journal.ids import now
from nightcrew.journal.log import Log
from nightcrew.journal.queue import Queue, Row
from nightcrew.journal.timetable import next_slot
from nightcrew.journal.views import Views
from nightcrew_tools.contract import NotWaiting, Outcome, TaskState, TaskView


class Steering:
    """A part of the journal: see `Journal`, which it is made for. Each call may raise `JournalError`."""

    def __init__(self, queue: Queue, events: Log, views: Views, damage: Damage) -> None:
        self._queue = queue
        self._events = events
        self._views = views
        self.damage = damage

    def request_cancel(self, task: str, *, reason: str = "cancelled by a person") -> TaskState:
        """Ask a task to stop and return its state now.

        A queued one ends here and at once; a running one is told by `cancel_requested`, and so is whoever takes up one
        that waited for approval, since its report has to be written anew; an ended one stays as it is. What ends here
        after it had begun is owed a report.
        """
        with self._events.writing():
            row = self._queue.row(task)
            match row.state:
                case TaskState.ENDED:
                    return row.state
                case TaskState.RUNNING | TaskState.WAITING:
                    self._queue.signal(task, "cancel", now())
                    if row.state is TaskState.WAITING:
                        self._queue.set_state(task, TaskState.QUEUED)
                        return TaskState.QUEUED
                    return row.state
                case _ if self._views.one(task).commit:  # the branch is there: whoever takes it up writes the report
                    self._queue.signal(task, "cancel", now())
                    return row.state
                case _:
                    self._end(row, reason)
                    return TaskState.ENDED

    def _end(self, row: Row, reason: str) -> None:
        try:
            self._events.end_here(row.id, Outcome.CANCELLED, reason, report=row.worker is not None)
        except JournalCorrupt as error:
            self.damage.end(row.id, TaskEnded(outcome=Outcome.CANCELLED, reason=f"{reason}; {error}"))

    def cancel_requested(self, task: str) -> bool:
        """Did someone ask this running task to stop?"""
        return self._queue.signalled(task, "cancel")

    def pause(self, task: str, *, by: str) -> TaskState:
        """Hold a task until `resume` and return its state now; a running one is told by `pause_requested`.

        Raises `NotPossible` where there is nothing to hold, `TaskNotFound`.
        """
        with self._events.writing():
            row = self._queue.row(task)
            match row.state:
                case TaskState.PAUSED:
                    return row.state
                case TaskState.RUNNING:
                    self._queue.signal(task, "pause", by)
                    return row.state
                case TaskState.ENDED | TaskState.WAITING:
                    stands = "has ended" if row.state is TaskState.ENDED else "waits for approval"
                    raise NotPossible(f"task {task} {stands}: there is nothing to pause")
                case _:
                    self._events.follow(task, Paused(by=by))
                    return TaskState.PAUSED

    def resume(self, task: str, *, by: str) -> TaskState:
        """Let a paused task go on and return its state now. Raises `NotPossible` for one that is not paused."""
        with self._events.writing():
            row = self._queue.row(task)
            if self._queue.signalled(task, "pause"):  # it runs, or its process died before it heard of it
                self._queue.drop_signals(task, "pause")
                return row.state
            if row.state is not TaskState.PAUSED:
                raise NotPossible(f"task {task} is not paused: it is {row.state}{self._and_all()}")
            self._events.follow(task, Resumed(by=by))
            if (text := self._events.record(task).request.schedule) is not None:
                self._queue.set_due(task, next_slot(text, datetime.now(UTC)))  # what it missed is not made up for
            return self._queue.row(task).state

    def _and_all(self) -> str:
        return "; the whole queue is paused: `nightcrew resume --all`" if self.paused() else ""

    def pause_requested(self, task: str) -> str | None:
        """Who asked for this running task to be held, None when nobody did."""
        return self._queue.signalled_by(task, "pause")

    def pause_all(self, *, by: str) -> None:
        """Let no task begin or go on until `resume_all`, over restarts too."""
        with self._events.writing():
            if self._queue.setting("paused") is None:
                self._queue.set("paused", by)

    def resume_all(self) -> None:
        """End `pause_all`; single tasks that are paused stay so."""
        with self._events.writing():
            self._queue.set("paused", None)

    def paused(self) -> str | None:
        """Who holds the whole queue, None when nobody does."""
        return self._queue.setting("paused")

    def decide(self, task: str, decided: Decided) -> bool:
        """Journal a person's word about a task that waits for approval, and queue it to be carried out.

        False, and nothing is written, when the same was decided before. Raises `NotWaiting` when there is nothing to
        decide, `TaskNotFound`.
        """
        with self._events.writing():
            if self._queue.row(task).state is not TaskState.WAITING:
                before = self._events.record(task).decided
                if before is not None and before.approved == decided.approved:
                    return False
                raise NotWaiting(_not_waiting(task, self._views.one(task), before))
            self._events.follow(task, decided)
            return True


def _not_waiting(task: str, view: TaskView, before: Decided | None) -> str:
    if before is not None:
        return f"task {task} was {'approved' if before.approved else 'rejected'} by {before.by} already"
    return f"task {task} does not wait for approval: it {'was' if view.outcome else 'is'} {view.outcome or view.state}"
