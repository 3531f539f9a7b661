"""Ids, names and times of tasks."""

from __future__ import annotations

import re
import secrets
import time
import unicodedata
from datetime import UTC, datetime

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32 in lower case: sorts as it counts, and no letter looks like another (no i, l, o, u)."""

_EPOCH = 1_577_836_800
"""2020-01-01 UTC: six characters of seconds last until 2054."""

_TAILS = 32**3


class _Ids:
    """Counts up, so that one process never gives the same id twice however many it gives in a second."""

    def __init__(self) -> None:
        self.second = 0
        self.tail = 0

    def next(self) -> str:
        second = int(time.time()) - _EPOCH
        if second > self.second:
            self.second, self.tail = second, secrets.randbelow(_TAILS // 2)
        else:
            self.tail += 1
            if self.tail == _TAILS:
                self.second, self.tail = self.second + 1, 0
        return _base32(self.second, 6) + _base32(self.tail, 3)


_ids = _Ids()


def new_task_id() -> str:
    """Nine characters that sort by time of making: six of seconds, three against others of that second.

    Never twice the same within a process; between processes a clash is rare, not impossible.
    """
    return _ids.next()


def _base32(number: int, width: int) -> str:
    digits = ""
    for _ in range(width):
        number, digit = divmod(number, 32)
        digits = _ALPHABET[digit] + digits
    return digits


def slug(text: str, *, limit: int = 48) -> str:
    """Lower-case ASCII letters, digits and single hyphens, at most `limit` characters; `task` when nothing is left."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:limit].strip("-") or "task"


def ticks() -> float:
    """Seconds that nobody can set; only their differences mean something, and only within a process."""
    return time.monotonic()


def now() -> str:
    """The time as the journal writes it: UTC, ISO 8601 with milliseconds."""
    return stamp(datetime.now(UTC))


def stamp(moment: datetime) -> str:
    """A time in UTC as the journal writes it. Such texts sort as the times do."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
