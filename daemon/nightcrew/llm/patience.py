"""How long to wait for an endpoint that is away, and how often to ask it again."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
NONSENSE_TRIES = 4
"""Tries at an endpoint that answers, but not as an OpenAI-compatible one, as a server that starts may do."""

_random = secrets.SystemRandom()


class Passing(Exception):
    """A request failed in a way that may pass.

    `seen` is what was seen, `advice` what a person can do about it, `retry_after` the seconds the endpoint asked for,
    `nonsense` whether it answered something that is no reply at all.
    """

    def __init__(
        self, seen: str, *, advice: str = "", retry_after: float | None = None, nonsense: bool = False
    ) -> None:
        super().__init__(seen)
        self.seen = seen
        self.advice = advice
        self.retry_after = retry_after
        self.nonsense = nonsense


@dataclass
class Patience:
    """Exponential backoff with jitter, until `seconds` have gone by since the first failure.

    What counts are the pauses as planned and the time the later tries took, so a test need not really sleep.
    """

    seconds: float
    waited: float = 0.0
    tries: int = 0
    _nonsense: int = 0

    def after(self, fault: Passing, took: float) -> float | None:
        """Seconds until the next try after one that took `took` seconds, or None when patience is over."""
        self.waited += took if self.tries else 0.0
        self.tries += 1
        self._nonsense += fault.nonsense
        left = self.seconds - self.waited
        if left <= 0 or self._nonsense >= NONSENSE_TRIES or (fault.retry_after or 0.0) > left:
            return None
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self.tries - 1, 10)) * _random.uniform(0.75, 1.25)
        if fault.retry_after is not None:
            pause = max(fault.retry_after, FIRST_PAUSE / 2)
        pause = min(pause, left)
        self.waited += pause
        return pause


def read_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds of a `Retry-After` header (RFC 9110, section 10.2.3): a number, or a date; None for anything else."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            when = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (when.replace(tzinfo=when.tzinfo or UTC) - (now or datetime.now(UTC))).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
