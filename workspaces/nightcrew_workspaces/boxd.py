"""The file helper: runs INSIDE a box and does there what file tools ask for, so that paths need no trust outside.

    python3 -I -S -c '…; main()' ROOT [ROOT …]

Frames on standard input and output: four bytes of length, big-endian, then JSON in UTF-8. A request is an object with
`op` and the operation's arguments, an answer has `ok` or `error` (`code`, `message`). The first frame is a greeting.
Standard library only; the box is the boundary, the checks of paths here are for good answers.
"""

from __future__ import annotations

import errno
import json
import os
import select
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from nightcrew_workspaces.boxd_paths import Places
from nightcrew_workspaces.boxd_reading import Reading
from nightcrew_workspaces.boxd_text import Refused
from nightcrew_workspaces.boxd_wire import close_to_others, receive, send

if TYPE_CHECKING:
    from nightcrew_workspaces.boxd_writing import Writing

GREETING = "nightcrew boxd 2"
_LOOKING = frozenset({"read", "read_bytes", "stat", "list", "list_all", "outline", "glob", "search"})
_CHANGING = frozenset({"write", "append", "edit", "edit_all", "delete", "move", "copy", "make_folder"})
_LATER = ("hashlib", "subprocess", "nightcrew_workspaces.boxd_writing", "nightcrew_workspaces.boxd_search", "difflib")
_LARGEST_FRAME = 64 * 1024 * 1024
_FULL = ("no_space", "the disk is full; nothing was changed. Delete what is not needed, or write less")
_CODES = {
    errno.ENOENT: ("not_found", "there is no such file"),
    errno.EISDIR: ("is_directory", "it is a directory"),
    errno.ENOTDIR: ("not_a_file", "a part of the path is a file, not a directory"),
    errno.ELOOP: ("not_a_file", "its symbolic links go in a circle"),
    errno.EACCES: ("forbidden", "its permissions do not allow that"),
    errno.EPERM: ("forbidden", "its permissions do not allow that"),
    errno.EEXIST: ("not_a_file", "a part of the path is a file, not a directory"),
    errno.ENOTEMPTY: ("not_empty", "the directory is not empty; delete it with recursive=true"),
    errno.EROFS: ("read_only", "it is in a read-only root; nothing can be written there"),
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: ("too_large", "the file would be larger than files may be here"),
    errno.ENAMETOOLONG: (
        "bad_request",
        "a name has more than 255 bytes, or the path more than 4096; take a shorter one",
    ),
}


class Helper:
    """The operations by name, on the files under `roots`."""

    def __init__(self, *roots: str) -> None:
        self._places = Places(roots)
        self._reading = Reading(self._places)
        self._writing: Writing | None = None

    def operation(self, name: str) -> Callable[..., dict[str, Any]]:
        """What does `name`; raises `KeyError`."""
        if name in _LOOKING:
            return getattr(self._reading, name)
        if name not in _CHANGING:
            raise KeyError(name)
        if self._writing is None:
            # Modules are compiled at every start, since a box has no cache of them; a session that reads does without.
            from nightcrew_workspaces.boxd_writing import Writing  # noqa: PLC0415

            self._writing = Writing(self._places)
        return getattr(self._writing, name)


def answer(helper: Helper, request: dict[str, Any]) -> dict[str, Any]:
    """Do what a request asks for."""
    try:
        operation = helper.operation(str(request.pop("op", None)))
        return {"ok": operation(**request)}
    except Refused as refused:
        return {"error": {"code": refused.code, "message": refused.message}}
    except OSError as error:
        code, why = _CODES.get(error.errno or 0, ("failed", error.strerror or "the operation failed"))
        return {"error": {"code": code, "message": f"{request.get('path', 'workspace')}: {why}"}}
    except Exception as error:  # noqa: BLE001 (the outer edge: one bad request must not end the helper)
        return {"error": {"code": "bad_request", "message": f"{type(error).__name__}: {error}"}}


def serve(roots: Sequence[str]) -> None:
    """Answer requests until standard input ends."""
    os.umask(0o022)
    helper = Helper(*roots)
    _send({"ok": GREETING})
    _prepare()
    while header := receive(4):
        size = int.from_bytes(header, "big")
        if size > _LARGEST_FRAME:
            return
        _send(answer(helper, json.loads(receive(size))))


def _prepare() -> None:
    """Import what most sessions need later, as long as nobody waits."""
    for module in _LATER:
        if select.select([0], [], [], 0)[0]:
            return
        import_module(module)


def _send(message: dict[str, Any]) -> None:
    send(json.dumps(message, ensure_ascii=False).encode(errors="replace"))


def main() -> None:
    """Serve the roots that the command line names."""
    close_to_others()
    serve(sys.argv[1:])
