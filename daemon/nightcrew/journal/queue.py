"""The queue: the table of tasks beside the journal's events, and the questions that are put to it.

Which task is next is told by its rank, the moment of its submission less `AGEING_SECONDS` for each point of priority:
a point of priority is worth so long a wait. So everything queued comes to the front in the end, whatever else keeps
coming, and the order stands in an index, since two tasks never change places by waiting.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from nightcrew.journal.database import Database
from nightcrew_tools.contract import TaskNotFound, TaskState

AGEING_SECONDS = 600
"""A point of priority is worth so long a wait. The migration to schema 2 knows it too."""
TOGETHER_SECONDS = 600
"""So much is a task ahead of others when one on its repository, with its crew, runs already."""


@dataclass(frozen=True)
class Row:
    """What the queue knows of a task."""

    id: str
    name: str
    state: TaskState
    seq: int
    worker: str | None


@dataclass(frozen=True)
class Spent:
    """What all tasks used on one local day."""

    tokens: int = 0
    seconds: float = 0.0
    """Of work."""
    tasks: int = 0
    """Begun."""


@dataclass(frozen=True)
class Need:
    """A task that another one waits for."""

    key: str
    """Its id, or what the person wrote when there is no such task yet."""
    name: str | None
    """None when there is no such task yet."""


class Queue:
    """The tables `task`, `need`, `signal`, `spent` and `setting`. Whoever writes through it holds a transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- tasks

    def row(self, task: str) -> Row:
        """Raises `TaskNotFound`."""
        rows = self._database.all("SELECT id, name, state, seq, worker FROM task WHERE id = ?", task)
        if not rows:
            raise unknown(task)
        return _row(*rows[0])

    def known(self, task: str) -> bool:
        """Whether a task has this id, or had it."""
        return bool(self._database.all("SELECT 1 FROM task WHERE id = ?", task))

    def called(self, key: str) -> Row | None:
        """The task with this id, or else with this name."""
        rows = self._database.all("SELECT id, name, state, seq, worker FROM task WHERE id = ?", key)
        rows = rows or self._database.all("SELECT id, name, state, seq, worker FROM task WHERE name = ?", key)
        return _row(*rows[0]) if rows else None

    def find(self, prefix: str) -> list[str]:
        """Ids of the tasks that are meant: the one with this id or name, else all whose id begins so, in order."""
        if (row := self.called(prefix)) is not None:
            return [row.id]
        if not prefix:
            return []
        end = prefix + "\U0010ffff"
        return [
            row[0]
            for row in self._database.all("SELECT id FROM task WHERE id >= ? AND id < ? ORDER BY id", prefix, end)
        ]

    def insert(
        self,
        task: str,
        name: str,
        state: TaskState,
        at: str,
        view: str,
        *,
        priority: int,
        crew: str,
        repo: str,
        due: str | None,
    ) -> None:
        self._database.run(
            "INSERT INTO task (id, name, state, priority, submitted_at, seq, view, rank, crew, repo, due) "
            "VALUES (?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?)",
            *(task, name, state, priority, at, view, rank(at, priority), crew, repo, due),
        )

    def update(self, task: str, state: TaskState, seq: int, worker: str | None, view: str, *, asked: bool) -> None:
        self._database.run(
            "UPDATE task SET state = ?, seq = ?, worker = ?, view = ?, asked = ? WHERE id = ?",
            *(state, seq, worker, view, int(asked), task),
        )

    def set_state(self, task: str, state: TaskState) -> None:
        self._database.run("UPDATE task SET state = ? WHERE id = ?", state, task)

    def revise(self, task: str, priority: int, crew: str, repo: str, due: str | None) -> None:
        """What was asked for has changed; it keeps its place in time."""
        self._database.run(
            "UPDATE task SET rank = rank + (priority - ?) * ?, priority = ?, crew = ?, repo = ?, due = ? WHERE id = ?",
            *(priority, AGEING_SECONDS * 1000, priority, crew, repo, due, task),
        )

    def in_state(self, state: TaskState) -> list[str]:
        return [
            row[0] for row in self._database.all("SELECT id FROM task WHERE state = ? ORDER BY submitted_at", state)
        ]

    # --- which is next

    def next(
        self,
        most: int,
        *,
        full: Collection[str] = (),
        beside: Collection[tuple[str, str]] = (),
        passed_over: Collection[str] = (),
    ) -> list[str]:
        """Up to `most` queued tasks, the best first; all when it is negative.

        None of a crew in `full`. A task whose crew and repository are in `beside` comes before the best one when its
        rank is not more than `TOGETHER_SECONDS` behind.
        """
        limit = most if most < 0 else most + len(passed_over)
        crews = [crew for crew in self._crews() if crew not in full]
        found = sorted(row for crew in crews for row in self._of_crew(crew, limit))
        if found and beside:
            latest = found[0][0] + TOGETHER_SECONDS * 1000
            near = sorted(
                row for crew, repo in beside if crew in crews for row in self._siblings(crew, repo, latest, limit)
            )
            found = [*near, *found]
        ids = [task for task in dict.fromkeys(task for _, task in found) if task not in passed_over]
        return ids if most < 0 else ids[:most]

    def begun(self, full: Collection[str] = (), passed_over: Collection[str] = ()) -> list[str]:
        """Queued tasks that have run before, the best first; none of a crew in `full`."""
        rows = self._database.all(
            "SELECT id, crew FROM task INDEXED BY task_begun WHERE state = 'queued' AND worker IS NOT NULL "
            "ORDER BY rank, id"
        )
        return [row[0] for row in rows if row[1] not in full and row[0] not in passed_over]

    def _crews(self) -> list[str]:
        """The crews that queued tasks ask for: one look into the index for each."""
        # Without its name the planner takes the index of states, and reads all that is queued.
        least = "SELECT crew FROM task INDEXED BY task_queue WHERE state = 'queued'"
        rows = self._database.all(
            f"WITH RECURSIVE found (crew) AS (SELECT * FROM ({least} ORDER BY crew LIMIT 1) UNION ALL "  # noqa: S608
            f"SELECT ({least} AND crew > found.crew ORDER BY crew LIMIT 1) FROM found WHERE found.crew IS NOT NULL) "
            "SELECT crew FROM found WHERE crew IS NOT NULL"
        )
        return [row[0] for row in rows]

    def _of_crew(self, crew: str, limit: int) -> list[tuple[int, str]]:
        return self._ranked(
            "SELECT rank, id FROM task WHERE state = 'queued' AND crew = ? ORDER BY rank, id LIMIT ?", crew, limit
        )

    def _siblings(self, crew: str, repo: str, latest: int, limit: int) -> list[tuple[int, str]]:
        return self._ranked(
            "SELECT rank, id FROM task WHERE state = 'queued' AND crew = ? AND repo = ? AND rank <= ? "
            "ORDER BY rank, id LIMIT ?",
            *(crew, repo, latest, limit),
        )

    def _ranked(self, statement: str, *values: object) -> list[tuple[int, str]]:
        return [(row[0], row[1]) for row in self._database.all(statement, *values)]

    def rank_anew(self, at: str) -> None:
        """Give those a rank of now that were submitted later than now: the clock was wrong, and they would starve."""
        self._database.run(
            "UPDATE task SET rank = ? - priority * ? WHERE state = 'queued' AND rank + priority * ? > ?",
            *(rank(at, 0), AGEING_SECONDS * 1000, AGEING_SECONDS * 1000, rank(at, 0)),
        )

    def decided(self) -> list[str]:
        """Queued tasks that had waited for approval, oldest first."""
        rows = self._database.all(
            "SELECT id FROM task INDEXED BY task_decided WHERE state = 'queued' AND asked = 1 ORDER BY submitted_at"
        )
        return [row[0] for row in rows]

    # --- what comes after what

    def needs(self, task: str) -> list[Need]:
        """What a task still waits for."""
        rows = self._database.all(
            "SELECT key, (SELECT name FROM task WHERE id = key OR name = key) FROM need WHERE task = ? ORDER BY key",
            task,
        )
        return [Need(*row) for row in rows]

    def add_need(self, task: str, key: str) -> None:
        self._database.run("INSERT OR IGNORE INTO need VALUES (?, ?)", task, key)

    def take_dependents(self, row: Row) -> list[str]:
        """The tasks that wait for this one, which from now on do not."""
        keys = (row.id, row.name)
        rows = self._database.all("SELECT DISTINCT task FROM need WHERE key IN (?, ?) ORDER BY task", *keys)
        self._database.run("DELETE FROM need WHERE key IN (?, ?)", *keys)
        return [found[0] for found in rows]

    def forget_needs(self, task: str) -> None:
        self._database.run("DELETE FROM need WHERE task = ?", task)

    def circle(self, keys: Sequence[str], own: Collection[str]) -> list[str] | None:
        """Names of tasks that lead from `keys` back to a task called by one of `own`; None when none do."""
        if not any(self._database.all("SELECT 1 FROM need WHERE key = ? LIMIT 1", name) for name in own):
            return [key for key in keys if key in own][:1] or None  # nobody waits for it: nothing can lead back
        paths = [[key] for key in keys]
        seen: set[str] = set()
        while paths:
            path = paths.pop()
            if path[-1] in own:
                return path
            row = self.called(path[-1])
            if row is None or row.id in seen:
                continue
            seen.add(row.id)
            path[-1] = row.name
            paths += [[*path, need.key] for need in self.needs(row.id)]
        return None

    # --- schedules

    def due(self, task: str) -> str | None:
        return self._database.all("SELECT due FROM task WHERE id = ?", task)[0][0]

    def scheduled(self) -> list[tuple[str, str]]:
        """Scheduled tasks that are not paused, each with its next slot, the nearest first."""
        rows = self._database.all("SELECT id, due FROM task WHERE state = 'scheduled' AND due IS NOT NULL")
        return sorted(((row[0], row[1]) for row in rows), key=lambda row: row[1])

    def set_due(self, task: str, due: str | None) -> None:
        self._database.run("UPDATE task SET due = ? WHERE id = ?", due, task)

    # --- reports that nobody wrote

    def owe(self, task: str) -> None:
        self._database.run("UPDATE task SET owed = 1 WHERE id = ?", task)

    def owed(self) -> list[str]:
        return [row[0] for row in self._database.all("SELECT id FROM task WHERE owed = 1 ORDER BY id")]

    def pay(self, task: str) -> None:
        self._database.run("UPDATE task SET owed = 0 WHERE id = ?", task)

    # --- signals to whoever runs a task

    def signal(self, task: str, kind: str, said: str) -> None:
        """`said` is what is kept with it: a time, or who gave the signal."""
        self._database.run("INSERT OR IGNORE INTO signal VALUES (?, ?, ?)", task, kind, said)

    def signalled(self, task: str, kind: str) -> bool:
        return self.signalled_by(task, kind) is not None

    def signalled_by(self, task: str, kind: str) -> str | None:
        """What was kept with the signal."""
        rows = self._database.all("SELECT at FROM signal WHERE task = ? AND kind = ?", task, kind)
        return rows[0][0] if rows else None

    def drop_signals(self, task: str, *kinds: str) -> None:
        for kind in kinds:
            self._database.run("DELETE FROM signal WHERE task = ? AND kind = ?", task, kind)

    # --- the whole queue

    def setting(self, name: str) -> str | None:
        rows = self._database.all("SELECT value FROM setting WHERE name = ?", name)
        return rows[0][0] if rows else None

    def set(self, name: str, value: str | None) -> None:
        if value is None:
            self._database.run("DELETE FROM setting WHERE name = ?", name)
        else:
            self._database.run("INSERT OR REPLACE INTO setting VALUES (?, ?)", name, value)

    def spend(self, at: str, tokens: int, seconds: float, tasks: int) -> None:
        """Count what was used, on the local day of this time."""
        if tokens or seconds or tasks:
            self._database.run(
                "INSERT INTO spent VALUES (?, ?, ?, ?) ON CONFLICT (day) DO UPDATE SET "
                "tokens = tokens + excluded.tokens, seconds = seconds + excluded.seconds, "
                "tasks = tasks + excluded.tasks",
                *(local_day(at), tokens, seconds, tasks),
            )

    def spent(self, day: str) -> Spent:
        rows = self._database.all("SELECT tokens, seconds, tasks FROM spent WHERE day = ?", day)
        return Spent(*rows[0]) if rows else Spent()


def rank(at: str, priority: int) -> int:
    """Of a task: milliseconds, the smallest first."""
    return round(datetime.fromisoformat(at).timestamp() * 1000) - priority * AGEING_SECONDS * 1000


def local_day(at: str) -> str:
    """The day that a time of the journal belongs to, by this machine's clock on the wall."""
    return datetime.fromisoformat(at).astimezone().date().isoformat()


def unknown(task: str) -> TaskNotFound:
    return TaskNotFound(f"no task has the id {task!r}; `nightcrew list` shows all")


def _row(task: str, name: str, state: str, seq: int, worker: str | None) -> Row:
    return Row(task, name, TaskState(state), seq, worker)
