"""How long the events of ended tasks are kept. Of a removed one its row stays: id, name, outcome and times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from nightcrew.journal.damage import read_view
from nightcrew.journal.database import Database
from nightcrew.journal.ids import stamp
from nightcrew.journal.log import Log
from nightcrew.journal.queue import Queue

GRACE = timedelta(days=1)
"""What is too old goes so long after that was seen first: a clock that was set wrong meanwhile removes nothing."""
_OLD = (
    "SELECT id FROM task WHERE state = 'ended' AND owed = 0 "
    "AND CASE WHEN json_valid(view) THEN json_extract(view, '$.ended_at') END < ?"
)
_AT_ONCE = 20
"""Tasks whose events go in one transaction."""
_ROW_BYTES = 80
"""Of an event, beside its body."""
_MIB = 1024 * 1024


@dataclass(frozen=True)
class Removed:
    """A task whose events are gone."""

    task: str
    name: str
    why: str


class Retention:
    """Removes the events of ended tasks; of one that has not ended never."""

    def __init__(self, database: Database, queue: Queue, events: Log) -> None:
        self._database = database
        self._queue = queue
        self._events = events

    def trim(self, moment: datetime, *, keep_days: float, max_mib: float, by_age: bool = True) -> list[Removed]:
        """Remove what is too old and too much. `moment` is now in UTC; without `by_age` only the size counts."""
        gone: list[Removed] = []
        if by_age:
            self._note_due(moment - timedelta(days=keep_days), moment)
            for task, name in self._overdue(moment):
                gone.append(Removed(task, name, f"it ended more than {keep_days:g} days ago"))
        known = {one.task for one in gone}
        excess = self._bytes() - sum(self._bytes_of(one.task) for one in gone) - max_mib * _MIB
        for task, name in self._oldest() if excess > 0 else ():
            if excess <= 0:
                break
            if task not in known:
                excess -= self._bytes_of(task)
                gone.append(Removed(task, name, f"the journal has more than {max_mib:g} MiB, it is among the oldest"))
        for start in range(0, len(gone), _AT_ONCE):
            self._remove(gone[start : start + _AT_ONCE], stamp(moment))
        return gone

    def was_removed(self, task: str) -> bool:
        """Whether a task was here whose events are gone."""
        return bool(self._database.all("SELECT 1 FROM retired WHERE task = ? AND removed IS NOT NULL", task))

    def wasted(self) -> tuple[int, int]:
        """Bytes of the file that nothing stands in, and of the whole file."""
        size = self._pragma("page_size")
        return self._pragma("freelist_count") * size, self._pragma("page_count") * size

    def compact(self) -> None:
        """Give the room of what was removed back to the disk. Needs as much free again for a moment; nobody can write
        meanwhile. Raises `JournalUnavailable` where there is none."""
        self._database.run("VACUUM")
        self._database.all("PRAGMA wal_checkpoint(TRUNCATE)")

    def _note_due(self, before: datetime, moment: datetime) -> None:
        """Note which tasks are too old now, and forget those that are not, after all."""
        with self._database.transaction():
            self._database.run(f"DELETE FROM retired WHERE removed IS NULL AND task NOT IN ({_OLD})", stamp(before))  # noqa: S608
            self._database.run(
                f"INSERT OR IGNORE INTO retired SELECT id, ?, NULL FROM task WHERE id IN ({_OLD})",  # noqa: S608
                *(stamp(moment), stamp(before)),
            )

    def _overdue(self, moment: datetime) -> list[tuple[str, str]]:
        return [
            (row[0], row[1])
            for row in self._database.all(
                "SELECT id, name FROM task JOIN retired ON task = id WHERE removed IS NULL AND retired.due <= ? "
                "ORDER BY submitted_at",
                stamp(moment - GRACE),
            )
        ]

    def _oldest(self) -> Sequence[tuple[str, str]]:
        return [
            (row[0], row[1])
            for row in self._database.all(
                "SELECT id, name FROM task WHERE state = 'ended' AND owed = 0 "
                "AND id NOT IN (SELECT task FROM retired WHERE removed IS NOT NULL) ORDER BY submitted_at, id"
            )
        ]

    def _remove(self, some: Sequence[Removed], at: str) -> None:
        with self._events.writing():
            for one in some:
                self._database.run("DELETE FROM event WHERE task = ?", one.task)
                self._database.run("DELETE FROM damage WHERE task = ?", one.task)
                rows = self._database.all("SELECT submitted_at, view FROM task WHERE id = ?", one.task)
                view, _ = read_view(one.task, one.name, *rows[0])
                slim = view.model_copy(update={"concerns": (), "activity": ""})
                self._database.run("UPDATE task SET view = ? WHERE id = ?", slim.model_dump_json(), one.task)
                self._database.run("INSERT OR REPLACE INTO retired VALUES (?, ?, ?)", one.task, at, at)

    def _bytes(self) -> int:
        wasted, whole = self.wasted()
        return whole - wasted

    def _bytes_of(self, task: str) -> int:
        asked = "SELECT coalesce(sum(length(body) + ?), 0) FROM event WHERE task = ?"
        return int(self._database.all(asked, _ROW_BYTES, task)[0][0])

    def _pragma(self, name: str) -> int:
        return int(self._database.all(f"PRAGMA {name}")[0][0])
