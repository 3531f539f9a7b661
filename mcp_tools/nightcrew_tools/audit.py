"""The audit log: one line of JSON for every tool call of an outside client, in a file that only its owner reads."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nightcrew_tools.calls import Ended

MOST_BYTES = 16 * 1024 * 1024
"""Then the file becomes `NAME.1`, and what was that is gone."""
_SHOWN = 200
_BULKY = frozenset({"content", "text", "old", "new", "edits", "input", "message"})
"""Arguments of which only the length is written down: contents of files do not belong into a log."""


class AuditLog:
    """Appends to one file. A log that cannot be written stops the session rather than going on unseen."""

    def __init__(self, path: Path) -> None:
        """Raises `OSError` where the file cannot be written."""
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._append(b"")

    def __call__(self, ended: Ended) -> None:
        """Write a call down. Raises `OSError` where the file cannot be written any more."""
        line = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "door": ended.door,
            "client": ended.client,
            "tool": ended.tool,
            "arguments": shortened(ended.arguments),
            "code": ended.code,
            "seconds": round(ended.seconds, 3),
            "answer_bytes": ended.answer_bytes,
            "pid": os.getpid(),
        }
        self._append(json.dumps(line, ensure_ascii=True).encode() + b"\n")

    def _append(self, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(self._path, flags, 0o600)
        try:
            if os.fstat(handle).st_size > MOST_BYTES:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
                os.close(handle)
                handle = os.open(self._path, flags, 0o600)
            os.write(handle, data)  # one write: lines of several processes do not mix
        finally:
            os.close(handle)


def shortened(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments fit for a log: contents by their length, everything else cut to 200 characters."""
    shown: dict[str, Any] = {}
    for name, value in list(arguments.items())[:20]:
        if name in _BULKY:
            shown[name[:_SHOWN]] = f"[{len(str(value))}]"
        elif isinstance(value, bool | int | float) or value is None:
            shown[name[:_SHOWN]] = value
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            shown[name[:_SHOWN]] = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… [{len(text)}]"
    return shown
