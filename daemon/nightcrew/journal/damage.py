"""Tasks whose events or views cannot be read: they are named and passed over, and the others go on."""

from __future__ import annotations

from pydantic import ValidationError

from nightcrew.errors import JournalCorrupt
from nightcrew.events import Recorded, TaskEnded
from nightcrew.journal.database import Database
from nightcrew.journal.fold import fold
from nightcrew.journal.ids import now
from nightcrew.journal.log import Log
from nightcrew.journal.queue import Queue
from nightcrew_tools.contract import TaskState, TaskView

_MOST_LOOKED_AT = 5000
"""Unfinished tasks that one examination folds, which takes a second or two."""


class Damage:
    """What was found to be damaged. It stays noted until the events can be read again."""

    def __init__(self, database: Database, queue: Queue, events: Log) -> None:
        self._database = database
        self._queue = queue
        self._events = events

    def note(self, task: str, what: str) -> None:
        """Say so to whoever looks at the task from now on; inside a transaction."""
        self._database.run("INSERT OR REPLACE INTO damage VALUES (?, ?, ?)", task, now(), what)

    def forget(self, task: str) -> None:
        """The task can be read again; inside a transaction."""
        if self._database.all("SELECT 1 FROM damage WHERE task = ?", task):
            self._database.run("DELETE FROM damage WHERE task = ?", task)

    def end(self, task: str, ended: TaskEnded) -> None:
        """End a task whose events cannot be read, as far as the queue is concerned; inside a transaction."""
        row = self._queue.row(task)
        at = now()
        self._events.insert(Recorded(task=task, seq=row.seq + 1, at=at, event=ended))
        view = _view_of(self._database, task)
        view = view.model_copy(
            update={"state": TaskState.ENDED, "outcome": ended.outcome, "reason": ended.reason, "ended_at": at}
        )
        self._queue.update(task, TaskState.ENDED, row.seq + 1, row.worker, view.model_dump_json(), asked=False)
        self._queue.pay(task)  # nobody could write its report
        self._queue.drop_signals(task, "cancel", "pause")
        self._queue.forget_needs(task)
        self._events.release(row, ended.outcome)

    def examine(self) -> list[str]:
        """What is wrong with the file and with tasks that have not ended, in sentences; nothing is written."""
        try:
            rows = self._database.all("PRAGMA quick_check(5)")
            found = [f"{self._database.path}: {row[0]}" for row in rows if row[0] != "ok"]
            noted = dict(self._database.all("SELECT task, what FROM damage ORDER BY task"))
            unfinished = self._database.all(
                "SELECT id FROM task WHERE state <> 'ended' ORDER BY submitted_at LIMIT ?", _MOST_LOOKED_AT
            )
            for (task,) in unfinished:
                noted.pop(task, None)
                if why := self._trouble_of(task):
                    found.append(why)
            return [*found, *noted.values()]
        except JournalCorrupt as error:
            return [str(error)]

    def _trouble_of(self, task: str) -> str:
        events, why = self._events.readable(task)
        if why:
            return why
        try:
            record = fold(events)
            row = self._queue.row(task)
            return "" if record.seq == row.seq else f"task {task}: event {row.seq} is missing"
        except JournalCorrupt as error:
            return str(error) if task in str(error) else f"task {task}: {error}"


def _view_of(database: Database, task: str) -> TaskView:
    name, submitted_at, stored = database.all("SELECT name, submitted_at, view FROM task WHERE id = ?", task)[0]
    return read_view(task, name, submitted_at, stored)[0]


def read_view(task: str, name: str, submitted_at: str, stored: str) -> tuple[TaskView, str]:
    """A stored view, and why it cannot be read: then what else is known of the task stands in its place."""
    try:
        return TaskView.model_validate_json(stored), ""
    except (ValidationError, TypeError):
        bare = TaskView(
            id=task, name=name, title="", repo="", crew="", state=TaskState.QUEUED, submitted_at=submitted_at
        )
        return bare, f"task {task}: what is stored of it cannot be read"
