"""The tables of the journal, by schema version."""

from __future__ import annotations

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
    # rank: when it was submitted (ms), less its priority's worth of waiting; crew: as asked for, empty for the default;
    # due: a schedule's next slot; asked: it had waited for approval; owed: it ended with nobody to write its report.
    # need: tasks (ids, or what a person wrote for one that is not there yet) that a task comes after. spent: what all
    # tasks used on a local day. setting: what holds for the whole queue.
    2: """
    ALTER TABLE task ADD COLUMN rank INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE task ADD COLUMN crew TEXT NOT NULL DEFAULT '';
    ALTER TABLE task ADD COLUMN repo TEXT NOT NULL DEFAULT '';
    ALTER TABLE task ADD COLUMN due TEXT;
    ALTER TABLE task ADD COLUMN asked INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE task ADD COLUMN owed INTEGER NOT NULL DEFAULT 0;
    UPDATE task SET
      rank = CAST(round((julianday(submitted_at) - 2440587.5) * 86400000) AS INTEGER) - priority * 600000,
      repo = coalesce(json_extract(view, '$.repo'), ''),
      asked = json_array_length(view, '$.concerns') > 0,
      crew = coalesce((
        SELECT json_extract(body, '$.request.crew') FROM event WHERE event.task = task.id AND seq = 1), '');
    DROP INDEX task_queue;
    CREATE INDEX task_queue ON task (crew, rank, id) WHERE state = 'queued';
    CREATE INDEX task_repo ON task (crew, repo, rank, id) WHERE state = 'queued';
    CREATE INDEX task_begun ON task (rank, id) WHERE state = 'queued' AND worker IS NOT NULL;
    CREATE INDEX task_decided ON task (submitted_at) WHERE state = 'queued' AND asked = 1;
    CREATE INDEX task_owed ON task (id) WHERE owed = 1;
    CREATE INDEX task_state ON task (state, submitted_at, id);
    CREATE TABLE need (task TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (task, key)) WITHOUT ROWID;
    CREATE INDEX need_key ON need (key, task);
    CREATE TABLE spent (
      day TEXT PRIMARY KEY NOT NULL, tokens INTEGER NOT NULL, seconds REAL NOT NULL, tasks INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE setting (name TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL) WITHOUT ROWID;
    """,
    # elapsed: seconds since the claim by a clock that nobody sets. damage: tasks that cannot be read, and why. retired:
    # ended tasks that are too old since `due`, and those whose events are `removed`.
    3: """
    ALTER TABLE event ADD COLUMN elapsed REAL;
    CREATE TABLE damage (task TEXT PRIMARY KEY NOT NULL, at TEXT NOT NULL, what TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE retired (task TEXT PRIMARY KEY NOT NULL, due TEXT NOT NULL, removed TEXT) WITHOUT ROWID;
    """,
}
"""What leads to a version from the one before. Only ever added to."""
