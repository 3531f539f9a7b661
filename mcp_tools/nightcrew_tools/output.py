"""What a model reads: answers that are cut at a known size and say so, and failures with a stable code.

    error[code]: what was wrong, and what to do next.

Codes of our own: `unknown_tool`, `unknown_argument`, `missing_argument`, `bad_argument`, `outside`, `not_found`, `git`,
`box`, `workspace`, `no_tasks`, `no_service`, `not_granted`, `not_waiting`, `not_delivered`, `internal`. `git_errors`
has those of git. Those of `FileError` and `BackgroundError` in `nightcrew_workspaces.errors` pass through, except that
`bad_request` is a `bad_argument` here.
Sizes are in bytes of UTF-8.
"""

from __future__ import annotations

import json
import logging
import posixpath
import re
from collections.abc import Sequence

from nightcrew_tools.contract import NoQueue, NotWaiting, TaskNotFound, TaskRefused
from nightcrew_workspaces.errors import BackgroundError, BoxError, BoxUnavailable, FileError, GitError, WorkspaceError

ANSWER_BYTES = 16 * 1024
"""Most of a file, diff or report in one answer: about 4,000 tokens."""
COMMAND_BYTES = 8 * 1024
"""Most of a command's output: what matters stands at its beginning and its end."""
MOST_BYTES = 24 * 1024
"""Most of any answer, whatever went into it."""
PATH_BYTES = 4095
"""Longest path that Linux takes."""
ROOT = "/workspace"
"""Where every box shows the task's files."""

UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]"
)
"""Controls but tab and line feed, and what is invisible or turns the direction in which a line is read."""

log = logging.getLogger(__name__)


class ToolError(Exception):
    """A failure that the model is told about. `code` is stable, `message` says what to do next."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(f"error[{code}]: {message}")


def as_tool_error(tool: str, error: Exception) -> ToolError:
    """What the model is told of any exception. One that nobody foresaw keeps its text for the log."""
    if isinstance(error, ToolError):
        return error
    code, message = "internal", f"{tool} failed inside the harness; try another way"
    match error:
        case FileError():
            code, message = "bad_argument" if error.code == "bad_request" else error.code, error.message
        case BackgroundError():
            code, message = error.code, error.message
        case NotWaiting():
            code, message = "not_waiting", str(error)
        case TaskNotFound():
            code, message = "not_found", f"{error}; task_list shows the tasks"
        case NoQueue():
            code, message = "no_service", str(error)
        case TaskRefused():
            code, message = "bad_argument", str(error)
        case GitError():
            code, message = "git", str(error)
        case BoxError() | BoxUnavailable():
            code, message = "box", str(error)
        case WorkspaceError():
            code, message = "workspace", str(error)
        case _:
            log.error("tool %s failed: %s: %s", tool, type(error).__name__, error)
            log.debug("tool %s", tool, exc_info=error)
    return ToolError(code, message)


def relative(path: str, roots: Sequence[str] = (ROOT,)) -> str:
    """A model's path, relative to the first root: `/workspace/a/../b` is `b`, the root itself `.`.

    One below another root stays absolute. A path in double quotes, as answers show odd ones, is that path. Only words
    are looked at here; that nothing else can be reached is the box's doing. Raises `ToolError`.
    """
    path = _unquoted(path) or path.strip() or "."
    if size(path) > PATH_BYTES:
        raise ToolError("bad_argument", f"a path is {size(path)} bytes long; there is none of more than {PATH_BYTES}")
    named = posixpath.normpath(posixpath.join(roots[0], path))
    for root in roots:
        inside = posixpath.relpath(named, root)
        if inside != ".." and not inside.startswith("../"):
            return inside if root == roots[0] else named
    where = f"{roots[0]}; give a path relative to it"
    if len(roots) > 1:
        where = f"the roots; give a path relative to {roots[0]}, or an absolute one in {' or '.join(roots[1:])}"
    raise ToolError("outside", f"{path[:200]!r} is outside {where}")


def quoted(path: str) -> str:
    """A path as answers show it: in quotes and with its odd characters named, where it could be misread."""
    plain = path.isprintable() and path == path.strip() and not path.startswith('"')
    return path if plain else json.dumps(path, ensure_ascii=False)


def _unquoted(path: str) -> str | None:
    if not (path.startswith('"') and path.endswith('"')):
        return None
    try:
        plain = json.loads(path)
    except ValueError:
        return None
    return plain if isinstance(plain, str) and "\0" not in plain else None


def size(text: str) -> int:
    return len(text.encode(errors="replace"))


def head(text: str, limit: int) -> tuple[str, int]:
    """The first lines of `text` within `limit` bytes, and how many bytes were left out.

    A first line that alone is longer is cut inside.
    """
    data = text.encode(errors="replace")
    if len(data) <= limit:
        return text, 0
    cut = data.rfind(b"\n", 0, limit) + 1 or limit
    kept = data[:cut].decode(errors="ignore")
    return kept, len(data) - size(kept)


def head_and_tail(text: str, limit: int, *, omitted: int = 0) -> str:
    """Both ends of `text` within about `limit` bytes, with a line between them that counts what was left out.

    `omitted` bytes are gone already from the middle of `text`.
    """
    return cut_middle(text, limit, omitted)[0]


def cut_middle(text: str, limit: int, omitted: int) -> tuple[str, int]:
    """The same, and how many bytes are gone then."""
    data = text.encode(errors="replace")
    if len(data) <= limit:
        return text, omitted
    first = data.rfind(b"\n", 0, limit // 3) + 1 or limit // 3
    last = data.find(b"\n", len(data) - (limit - first)) + 1 or len(data) - (limit - first)
    gone = last - first + omitted
    above, below = data[:first].decode(errors="ignore"), data[last:].decode(errors="ignore")
    return f"{above.rstrip()}\n[... {gone} bytes left out ...]\n{below}", gone


def bounded(text: str) -> str:
    """An answer as it may be sent: of bounded size, valid Unicode, and with nothing in it that a terminal would obey.

    What comes out of a box is none of these by itself. Controls and what is invisible are named (`\\x1b`), not dropped:
    a model has to know that they are there.
    """
    visible = UNSEEN.sub(
        lambda found: found[0].encode("unicode_escape").decode(), text.encode(errors="replace").decode()
    )
    return head_and_tail(visible, MOST_BYTES)


def note(text: str) -> str:
    """A remark of the tool itself, so that it cannot be taken for a line of what it shows."""
    return f"[{text}]"
