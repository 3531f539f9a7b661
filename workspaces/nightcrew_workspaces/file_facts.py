"""What the file helper's answers look like: plain values, checked for their shape when they come out of the box."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FileText:
    """Lines of a text file, with line feeds as their endings whatever the file has."""

    text: str
    first_line: int
    """Counted from 1."""
    last_line: int
    """Less than `first_line` when there are none."""
    total_lines: int
    size: int
    """Bytes of the whole file."""
    sha256: str
    """Of the whole file, in hex."""
    truncated: bool
    """Fewer lines than were asked for, because an answer holds 256 KiB of text at most."""


@dataclass(frozen=True)
class FileBytes:
    """A whole file as it is."""

    data: bytes
    sha256: str


@dataclass(frozen=True)
class FileStat:
    """What is known of a path. The last four are None where there is no content that could be looked at."""

    path: str
    kind: str
    """`file`, `directory`, `link` or `other`."""
    size: int
    """Bytes of a file, otherwise 0."""
    mode: int
    """Permission bits."""
    modified: float
    """Seconds since 1970."""
    target: str | None = None
    """Where a symbolic link points."""
    sha256: str | None = None
    encoding: str | None = None
    """`utf-8`, `utf-8-sig` (with a byte order mark), `utf-16-le`, `utf-16-be` or `latin-1`; None for a binary file."""
    line_endings: str | None = None
    """`lf`, `crlf`, `mixed` or `none`."""
    lines: int | None = None


@dataclass(frozen=True)
class Written:
    created: bool
    size: int
    sha256: str


@dataclass(frozen=True)
class Edit:
    """One replacement: `old` is in the file exactly `count` times."""

    path: str
    old: str
    new: str
    count: int = 1
    expected_sha256: str | None = None
    """Of the whole file on the disk; one that is different is left alone."""


@dataclass(frozen=True)
class Edited:
    diff: str
    """Unified diff of what changed, or would."""
    replaced: int
    size: int
    sha256: str


@dataclass(frozen=True)
class EditedFile:
    """A file after all edits of it; with a dry run, as it would be."""

    path: str
    diff: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Entry:
    path: str
    kind: str
    """`file`, `directory`, `link` or `other`."""
    size: int
    """Bytes of a file, otherwise 0."""


@dataclass(frozen=True)
class Listing:
    entries: tuple[Entry, ...]
    cursor: str | None
    """What to give as `after` for more; None where that was all."""


@dataclass(frozen=True)
class Outline:
    """Files, and directories of which only the number of files is told: (path, number), 0 for a file."""

    lines: tuple[tuple[str, int], ...]
    cursor: str | None


@dataclass(frozen=True)
class FoundPaths:
    paths: tuple[str, ...]
    cursor: str | None


@dataclass(frozen=True)
class Match:
    path: str
    line: int
    """Counted from 1."""
    text: str
    """The line without its ending; of a long one the part around the match."""
    is_match: bool = True
    """False for a line that is only near one (`context`)."""


@dataclass(frozen=True)
class SearchResult:
    matches: tuple[Match, ...]
    cursor: str | None
    """What to give as `after` for more; None where that was all."""
