"""A long text by pieces: as much as one answer holds, in whole lines where that can be, and where the next begins."""

from __future__ import annotations

from dataclasses import dataclass

from nightcrew_tools.git_words import mixed_endings, visible
from nightcrew_tools.output import ToolError, note, size
from nightcrew_workspaces.gitbox import GitRan


@dataclass(frozen=True)
class Page:
    """Where an answer ends: its facts for programs."""

    next: int | None
    """What to go on with, None at the end."""


def page(ran: GitRan, offset: int, limit: int) -> tuple[str, Page]:
    """The text of a command that was run with `skip=offset`, in at most about `limit` bytes.

    Offsets count bytes of what git wrote. Raises `ToolError` where it wrote fewer.
    """
    if offset > 0 and offset >= ran.total:
        raise ToolError("bad_argument", f"offset {offset} is behind the end, which is at {ran.total}")
    returns = mixed_endings(ran.stdout)
    lines: list[str] = []
    used = left = 0
    for line in _lines(ran.stdout):
        text = visible(line, keep_returns=returns)
        if left + size(text) > limit:
            break
        lines.append(text)
        left += size(text)
        used += len(line)
    if not lines and ran.stdout:
        text, used = _piece(ran.stdout, limit, returns=returns)
        lines = [text, "\n"]
    end = offset + used
    return "".join(lines), Page(end if end < ran.total or ran.ended == "output" else None)


def more(found: Page, total: int, name: str = "offset") -> str:
    """The line that says how to go on; nothing at the end."""
    if found.next is None:
        return ""
    return note(f"{max(total - found.next, 1)} more bytes: go on with {name}={found.next}")


def _lines(data: bytes) -> list[bytes]:
    """Only a line feed ends a line here."""
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def _piece(data: bytes, limit: int, *, returns: bool) -> tuple[str, int]:
    """The beginning of a line that is longer than an answer."""
    length = min(len(data), limit)
    while size(text := visible(data[:length], keep_returns=returns)) > limit:
        length = length * 3 // 4
    return text.removesuffix("\n"), length
