"""An SQLite file that several processes write: opening, migrating, transactions, and errors said in sentences.

Knows nothing of what is stored; the statements stand in `journal`.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nightcrew.errors import JournalCorrupt, JournalError, JournalUnavailable
from nightcrew.journal.locks import private_directory

APPLICATION = 0x4E435257
"""`NCRW` in the file's header tells our files from anybody else's SQLite database."""

_BUSY_SECONDS = 10.0
_CANNOT_WRITE = "check that the disk is mounted for writing and that file and folder belong to this user"


class Database:
    """An open SQLite file in WAL mode, where a committed transaction is on the disk. Stays with its thread.

    Every call may raise `JournalError`, which says what to do.
    """

    def __init__(self, path: Path, migrations: Mapping[int, str], *, read_only: bool = False) -> None:
        """Open the file, made with its folder (mode 0700) when missing, and bring it to the newest schema.

        `migrations` are statements by schema version, each leading there from the one before. Raises `JournalError`
        when the file is not ours, damaged, newer than this program, or cannot be written.
        """
        self.path = path
        self._connection: sqlite3.Connection | None = None
        with self._explained():
            self._connection = _connect(path, read_only=read_only)
            try:
                self._prepare(migrations, read_only=read_only)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def run(self, statement: str, *values: object) -> None:
        """Execute one statement whose rows nobody wants."""
        with self._explained():
            self._opened().execute(statement, values)

    def all(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """All rows of a query. Read to the end at once: an open cursor would hold an old snapshot of the file."""
        with self._explained():
            return self._opened().execute(statement, values).fetchall()

    @contextlib.contextmanager
    def transaction(self) -> Generator[None]:
        """A write transaction, alone from its first read on; an exception undoes it."""
        self.run("BEGIN IMMEDIATE")
        try:
            yield
            self.run("COMMIT")
        except BaseException:
            with contextlib.suppress(JournalError):
                self.run("ROLLBACK")
            raise

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise JournalError(f"{self.path}: the journal is closed")
        return self._connection

    def _prepare(self, migrations: Mapping[int, str], *, read_only: bool) -> None:
        newest = max(migrations)
        version = self._version(newest)
        self.run("PRAGMA synchronous = FULL")
        if read_only:
            if version < newest:
                raise JournalError(f"{self.path}: an older Nightcrew wrote it; start `nightcrew up` once")
            return
        self.all("PRAGMA journal_mode = WAL")
        if version < newest:
            self._migrate(migrations, newest)

    def _version(self, newest: int) -> int:
        version = int(self.all("PRAGMA user_version")[0][0])
        tables = int(self.all("SELECT count(*) FROM sqlite_master")[0][0])
        if tables and self.all("PRAGMA application_id") != [(APPLICATION,)]:
            raise JournalError(
                f"{self.path}: this SQLite file is not a Nightcrew journal; move it away, "
                "or name another folder with NIGHTCREW_HOME"
            )
        if version > newest:
            raise JournalError(
                f"{self.path}: a newer Nightcrew wrote it (schema {version}, this one knows {newest}); "
                "install that version, or name another folder with NIGHTCREW_HOME"
            )
        return version

    def _migrate(self, migrations: Mapping[int, str], newest: int) -> None:
        with self.transaction():
            version = self._version(newest)  # another process may have been quicker
            for target in range(version + 1, newest + 1):
                for statement in migrations[target].split(";"):
                    self.run(statement)
            self.run(f"PRAGMA application_id = {APPLICATION}")
            self.run(f"PRAGMA user_version = {newest}")

    @contextlib.contextmanager
    def _explained(self) -> Generator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise _explain(self.path, error) from error


def _connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    if read_only and not path.exists():
        raise JournalError(f"{path}: there is no journal yet; submit a task first")
    if not read_only:
        private_directory(path.parent)
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise JournalError(f"{path}: cannot be written ({error.strerror}); {_CANNOT_WRITE}") from error
    uri = f"file:{quote(str(path.absolute()))}?mode={'ro' if read_only else 'rw'}"
    if read_only and _rests(path):
        uri += "&immutable=1"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_SECONDS)


def _rests(path: Path) -> bool:
    """Whether nobody can write to the file, and it is whole without its log.

    SQLite reads a file in WAL mode on a read-only disk only when it is told so, or finds another process's leftovers.
    """
    with contextlib.suppress(OSError):
        log = Path(f"{path}-wal")
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY) and not (log.exists() and log.stat().st_size)
    return False


def _explain(path: Path, error: sqlite3.Error) -> JournalError:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return JournalCorrupt(
            f"{path}: is damaged, or no SQLite file ({error}); restore it from a backup, "
            "or move it away to begin with an empty journal"
        )
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return JournalUnavailable(f"{path}: cannot be written ({error}); {_CANNOT_WRITE}")
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return JournalUnavailable(f"{path}: the disk is full or fails ({error}); make room there")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return JournalUnavailable(f"{path}: another process keeps it locked ({error}); try again")
    return JournalError(f"{path}: {error}")
