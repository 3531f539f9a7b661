"""How long to wait, and how often to try."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import pytest

from nightcrew.llm.patience import LONGEST_PAUSE, Passing, Patience, read_retry_after


def pauses(patience: Patience, took: float = 0.0) -> list[float]:
    found: list[float] = []
    while (pause := patience.after(Passing("down"), took)) is not None:
        found.append(pause)
    return found


def test_pauses_grow_to_a_limit_and_add_up_to_the_patience():
    found = pauses(Patience(600))
    assert 0.75 <= found[0] <= 1.25
    assert all(longer > shorter for shorter, longer in pairwise(found[:5]))
    assert max(found) <= LONGEST_PAUSE * 1.25
    assert sum(found) == pytest.approx(600)


def test_the_time_of_the_first_failure_does_not_count_but_that_of_later_tries_does():
    assert len(pauses(Patience(10), took=1000)) == 1
    assert pauses(Patience(0)) == []


def test_pauses_are_not_the_same_for_two_clients():
    assert pauses(Patience(600)) != pauses(Patience(600))


def test_retry_after_is_read_as_seconds_or_as_a_date():
    now = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
    assert read_retry_after("7") == 7.0
    assert read_retry_after("Thu, 01 Jan 2026 12:01:00 GMT", now) == 60.0
    assert read_retry_after("Thu, 01 Jan 2026 11:00:00 GMT", now) == 0.0
    assert [read_retry_after(value) for value in (None, "", "soon", "nan", "inf")] == [None] * 5
