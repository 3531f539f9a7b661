"""What a patch changes, read from its text (`git diff --binary`): files, modes, and the lines themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from nightcrew_workspaces.harvest import ChangedFile

FileStatus = Literal["added", "deleted", "modified", "renamed"]

_HUNK = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")
_ESCAPED = re.compile(rb"\\([0-7]{3}|.)")
_LETTERS = {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_STATUS: dict[str, FileStatus] = {"A": "added", "D": "deleted", "R": "renamed"}


@dataclass(frozen=True)
class FileChange:
    """One file of a patch. Line counts are None for a binary file."""

    path: str
    status: FileStatus = "modified"
    added: int | None = 0
    removed: int | None = 0
    old_path: str = ""
    """Where a renamed file was."""
    old_mode: str = ""
    mode: str = ""
    """In octal, when the patch names one other than 100644: `100755` is an executable, `120000` a symbolic link."""
    lines: tuple[str, ...] = ()
    """The changed lines in order, each with its sign."""
    size: int = 0
    """Bytes that the patch brings: of the added lines, or of a new binary content."""
    unread: bool = False
    """The patch was cut before it, so its lines are not known."""

    @property
    def paths(self) -> tuple[str, ...]:
        """All names that it has or had."""
        return (self.path, self.old_path) if self.old_path else (self.path,)


def changed_files(patch: str) -> tuple[FileChange, ...]:
    """The files of a patch in its order. Lines inside a hunk are never taken for headers."""
    return tuple(_file(section) for section in _sections(patch))


def with_lines(files: Sequence[ChangedFile], patch: str) -> tuple[FileChange, ...]:
    """What git lists as changed, which nothing in a patch's text can disguise, with the lines that the patch shows."""
    shown: dict[str, list[FileChange]] = {}
    for change in changed_files(patch):
        shown.setdefault(change.path, []).append(change)
    return tuple(
        FileChange(
            path=file.path,
            status=_STATUS.get(file.status, "modified"),
            added=file.added,
            removed=file.removed,
            old_path=file.old_path or "",
            old_mode=_unusual(file.old_mode),
            mode=_unusual(file.mode),
            lines=tuple(line for part in shown.get(file.path, ()) for line in part.lines),
            size=sum(part.size for part in shown.get(file.path, ())),
            unread=file.path not in shown,
        )
        for file in files
    )


@dataclass
class _Section:
    headers: list[str]
    lines: list[str] = field(default_factory=list[str])


def _sections(patch: str) -> Iterator[_Section]:
    """Each file's part."""
    section: _Section | None = None
    left = [0, 0]
    for line in patch.split("\n"):
        if left[0] > 0 or left[1] > 0:
            left[0] -= line[:1] in ("-", " ", "")
            left[1] -= line[:1] in ("+", " ", "")
            if section is not None and line[:1] in ("+", "-"):
                section.lines.append(line)
        elif line.startswith("diff --git "):
            if section is not None:
                yield section
            section = _Section([line])
        elif section is not None:
            if hunk := _HUNK.match(line):
                left = [int(count) if count is not None else 1 for count in hunk.groups()]
            else:
                section.headers.append(line)
    if section is not None:
        yield section


def _file(section: _Section) -> FileChange:
    added = [line for line in section.lines if line[0] == "+"]
    change = FileChange(
        path=_header_path(section.headers[0].removeprefix("diff --git ")),
        added=len(added),
        removed=len(section.lines) - len(added),
        lines=tuple(section.lines),
        size=sum(len(line.encode("utf-8", "surrogateescape")) for line in added),  # the sign stands for the line's end
    )
    for line in section.headers[1:]:
        change = _with_header(change, line)
    return change


def _with_header(change: FileChange, line: str) -> FileChange:
    word, _, mode = line.rpartition(" ")
    if word == "new file mode":
        return replace(change, status="added", mode=_unusual(mode))
    if word == "deleted file mode":
        return replace(change, status="deleted", old_mode=_unusual(mode))
    if word == "new mode":
        return replace(change, mode=mode)
    if word == "old mode":
        return replace(change, old_mode=mode)
    if line.startswith("rename from "):
        return replace(change, old_path=_unquoted(line.removeprefix("rename from ")))
    if line.startswith("rename to "):
        return replace(change, status="renamed", path=_unquoted(line.removeprefix("rename to ")))
    if line.startswith("index ") and mode in ("120000", "160000"):
        return replace(change, old_mode=mode, mode=mode)
    if word == "literal" and mode.isdecimal() and change.added is None:
        return change if change.size else replace(change, size=int(mode))  # the first is the new content
    if line == "GIT binary patch" or line.startswith("Binary files "):
        return replace(change, added=None, removed=None)
    return change


def _unusual(mode: str) -> str:
    return "" if mode in ("100644", "000000") else mode


def _header_path(names: str) -> str:
    """The path in `a/PATH b/PATH`; both are the same but in a rename, which has lines of its own."""
    if names.startswith('"'):
        return _unquoted(names[: names.index('" ') + 1] if '" ' in names else names).removeprefix("a/")
    return names[2 : 2 + (len(names) - 5) // 2]


def _unquoted(name: str) -> str:
    """A name as git writes it, which is C-quoted when it holds anything unusual."""
    if not (len(name) >= 2 and name.startswith('"') and name.endswith('"')):
        return name

    def plain(match: re.Match[bytes]) -> bytes:
        escaped = match.group(1)
        return bytes([int(escaped, 8) & 0xFF]) if len(escaped) == 3 else _LETTERS.get(escaped, escaped)

    raw = _ESCAPED.sub(plain, name[1:-1].encode("utf-8", "surrogateescape"))
    return raw.decode("utf-8", "backslashreplace")
