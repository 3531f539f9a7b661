"""Twenty seconds against an attacker who swaps a folder for a link to what is outside."""

from __future__ import annotations

import os
import re

import pytest

from security.race import RACE

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make the throwaway machines that attacks run in"),
]


@pytest.mark.unboxed
def test_who_looks_first_and_opens_then_loses_the_race(machines, record_property):
    result = machines(RACE.id, "unboxed")
    record_property("race without a box", result.text)
    assert result.fired, result.text


def test_the_file_helper_wins_the_race(machines, record_property):
    result = machines(RACE.id, "boxed")
    record_property("race in the box", result.text)
    assert not result.fired, result.text
    operations, _, swaps = map(int, re.findall(r"\d+", result.text)[:3])
    assert operations > 500
    assert swaps > 5000
