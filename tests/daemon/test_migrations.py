"""A journal that an earlier version wrote is brought forward, and nothing of it is lost.

What each version wrote is frozen under tests/golden/journal: `schema-N.sql` is a whole journal, `events-N.jsonl` one
event of each kind. `tests/fakes/journals.py` writes them, before the version after it is added.
"""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path

import pytest

from fakes.journals import FOLDER, KINDS, build, dump, one_of_each
from nightcrew.events import EVENT, Recorded
from nightcrew.journal import MIGRATIONS, Journal
from nightcrew.journal.fold import fold, natural_state
from nightcrew_tools.contract import TaskState

NEWEST = max(MIGRATIONS)
HOW = (
    "run `PYTHONPATH=tests .venv/bin/python tests/fakes/journals.py` on the version before yours, and commit the files"
)

Rows = list[tuple[object, ...]]


def frozen(pattern: str) -> dict[int, Path]:
    found = ((re.fullmatch(pattern, path.name), path) for path in FOLDER.iterdir())
    return {int(match[1]): path for match, path in found if match}


SCHEMAS = frozen(r"schema-(\d+)\.sql")
EVENTS = frozen(r"events-(\d+)\.jsonl")
OLDER = [version for version in sorted(SCHEMAS) if version <= NEWEST]


def thaw(version: int, path: Path) -> dict[str, tuple[list[str], Rows]]:
    """Make the journal of that version, and return its tables: names of columns, and rows."""
    with sqlite3.connect(path) as connection:
        connection.executescript(SCHEMAS[version].read_text(encoding="utf-8"))
        assert connection.execute("PRAGMA user_version").fetchone() == (version,)
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        tables = {name: columns_and_rows(connection, name) for name in names}
    connection.close()
    return tables


def columns_and_rows(connection: sqlite3.Connection, table: str, columns: list[str] | None = None):
    columns = columns or [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    return columns, connection.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY 1, 2").fetchall()


def test_every_version_before_the_newest_is_frozen_whole_and_with_its_events():
    wanted = set(range(1, NEWEST))
    assert wanted - set(SCHEMAS) == set(), f"schema-N.sql is missing: {HOW}"
    assert wanted - set(EVENTS) == set(), f"events-N.jsonl is missing: {HOW}"


@pytest.mark.parametrize("version", OLDER)
def test_a_frozen_journal_has_tasks_in_every_state_and_every_kind_of_its_events(version: int, tmp_path: Path):
    tables = thaw(version, tmp_path / "journal.sqlite")
    columns, tasks = tables["task"]
    assert {row[columns.index("state")] for row in tasks} >= {
        TaskState.QUEUED,
        TaskState.RUNNING,
        TaskState.WAITING,
        TaskState.ENDED,
    }
    columns, events = tables["event"]
    kinds = {json.loads(line)["kind"] for line in EVENTS[version].read_text(encoding="utf-8").splitlines()}
    assert {row[columns.index("kind")] for row in events} == kinds
    assert tables["signal"][1]


@pytest.mark.parametrize("version", OLDER)
def test_an_older_journal_is_brought_forward_and_keeps_every_row(version: int, tmp_path: Path):
    path = tmp_path / "journal.sqlite"
    before = thaw(version, path)
    Journal.open(path).close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (NEWEST,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        for table, (columns, rows) in before.items():
            assert columns_and_rows(connection, table, columns) == (columns, rows), table
    connection.close()


@pytest.mark.parametrize("version", OLDER)
def test_the_tasks_of_an_older_journal_go_on(version: int, tmp_path: Path):
    path = tmp_path / "journal.sqlite"
    columns, tasks = thaw(version, path)["task"]
    states = {row[columns.index("id")]: row[columns.index("state")] for row in tasks}
    with Journal.open(path) as journal:
        assert {view.id: view.state for view in journal.tasks()} == states
        for task, state in states.items():
            record = journal.record(task)
            assert state == TaskState.QUEUED or natural_state(record) == state
            assert record.conversations == {} or all(map(json.loads, record.conversations["planner"]))
        assert journal.cancel_requested("told")
        journal.requeue_dead(lambda _: False)
        claimed = {record.id for record in iter(lambda: journal.claim("w"), None)}
        assert claimed == {task for task, state in states.items() if state in (TaskState.QUEUED, TaskState.RUNNING)}


def test_a_new_journal_has_the_schema_of_one_that_was_brought_forward(tmp_path: Path):
    thaw(1, tmp_path / "old.sqlite")
    shapes: list[Rows] = []
    for name in ("old.sqlite", "new.sqlite"):
        Journal.open(tmp_path / name).close()
        with sqlite3.connect(tmp_path / name) as connection:
            shapes.append(connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2").fetchall())
        connection.close()
    assert shapes[0] == shapes[1]


# --- events


@pytest.mark.parametrize("version", sorted(EVENTS))
def test_events_as_an_earlier_version_wrote_them_are_read_and_mean_the_same(version: int):
    for line in EVENTS[version].read_text(encoding="utf-8").splitlines():
        event = EVENT.validate_json(line)
        assert within(json.loads(line), json.loads(event.model_dump_json())), line


def within(old: object, new: object) -> bool:
    """Whether everything that the old value says is said by the new one, which may say more."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(key in new and within(value, new[key]) for key, value in old.items())
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(within, old, new))
    return old == new


def test_what_would_be_frozen_next_has_every_kind_of_event(tmp_path: Path):
    build(tmp_path / "journal.sqlite")
    lines = one_of_each(tmp_path / "journal.sqlite")
    assert {json.loads(line)["kind"] for line in lines} == KINDS, "tests/fakes/journals.py lacks a kind"
    with sqlite3.connect(tmp_path / "copy.sqlite") as connection:
        connection.executescript(dump(tmp_path / "journal.sqlite"))
    connection.close()
    with Journal.open(tmp_path / "copy.sqlite") as journal:
        events = journal.read("ended")
    assert isinstance(events[0], Recorded)
    assert fold(events).ended is not None
