"""Tasks as others see them: the stored view of each, with what only the queue knows."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from nightcrew.journal.damage import read_view
from nightcrew.journal.database import Database
from nightcrew.journal.queue import Queue, unknown
from nightcrew_tools.contract import TaskState, TaskView

_SHOWN = 5
_COLUMNS = (
    "id, name, submitted_at, state, due, view, "
    "(SELECT what FROM damage WHERE damage.task = task.id AND state <> 'ended')"
)
DAMAGED = "damaged: "
"""Begins the reason of a task that cannot be read."""


class Views:
    """Reads views; without the paths of result files."""

    def __init__(self, database: Database, queue: Queue) -> None:
        self._database = database
        self._queue = queue

    def one(self, task: str) -> TaskView:
        """Raises `TaskNotFound`."""
        rows = self._database.all(f"SELECT {_COLUMNS} FROM task WHERE id = ?", task)  # noqa: S608 - names of columns
        if not rows:
            raise unknown(task)
        view = self._view(*rows[0])
        gone = self._database.all("SELECT removed FROM retired WHERE task = ? AND removed IS NOT NULL", task)
        if gone:
            return view.model_copy(update={"remark": f"its events were removed at {gone[0][0]}"})
        reused = self._queue.signalled_by(task, "reused")
        if reused is None:
            return view
        remark = f"its id was used again for something else, last at {reused}: that was not taken"
        return view.model_copy(update={"remark": remark})

    def several(self, states: Collection[TaskState] | None, limit: int | None) -> list[TaskView]:
        """Newest first, without those whose events were removed."""
        wanted = tuple(TaskState) if states is None else tuple(states)
        rows = self._database.all(
            f"SELECT {_COLUMNS} FROM task WHERE state IN ({', '.join('?' * len(wanted))}) "  # noqa: S608 - marks
            "AND id NOT IN (SELECT task FROM retired WHERE removed IS NOT NULL) "
            "ORDER BY submitted_at DESC, id DESC LIMIT ?",
            *wanted,
            -1 if limit is None else limit,
        )
        return [self._view(*row) for row in rows]

    def _view(
        self, task: str, name: str, submitted_at: str, state: str, due: str | None, stored: str, damage: str | None
    ) -> TaskView:
        found, unreadable = read_view(task, name, submitted_at, stored)
        changes: dict[str, Any] = {}
        if found.state != state:
            changes = {"state": TaskState(state), "activity": ""}
        if state == TaskState.BLOCKED:
            changes["reason"] = self._waits_for(found.id)
        elif state == TaskState.SCHEDULED and due is not None:
            changes["reason"] = f"next at {datetime.fromisoformat(due).astimezone():%Y-%m-%d %H:%M}"
        if damage or unreadable:
            changes["reason"] = f"{DAMAGED}{damage or unreadable}"
        return found.model_copy(update=changes) if changes else found

    def _waits_for(self, task: str) -> str:
        needs = self._queue.needs(task)
        words = [f"`{need.name}`" if need.name else f"`{need.key}` (there is no such task yet)" for need in needs]
        more = [f"{len(words) - _SHOWN} more"] if len(words) > _SHOWN else []
        return "after " + ", ".join([*words[:_SHOWN], *more])
