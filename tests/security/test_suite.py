"""Whether the suite is as large as it has to be, and can fail."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from security.attack import KINDS
from security.attacks import ATTACKS
from security.controls import CONTROLS
from security.race import RACE
from security.test_attacks import named

pytestmark = pytest.mark.timeout(60)

COUNTED = [attack for attack in ATTACKS if attack.everywhere]


def test_there_are_at_least_150_attacks_that_every_kernel_can_prove():
    assert len(COUNTED) >= 150


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_share(kind):
    assert Counter(attack.kind for attack in COUNTED)[kind] >= 10


def test_no_two_attacks_have_one_name():
    names = Counter(attack.id for attack in (*ATTACKS, *CONTROLS, RACE))
    assert [name for name, count in names.items() if count > 1] == []


def test_no_two_attacks_are_the_same():
    deeds = Counter(str((attack.deed, attack.service)) for attack in ATTACKS)
    assert [deed for deed, count in deeds.items() if count > 1] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make the throwaway machines that attacks run in")
@pytest.mark.parametrize("half", ["unboxed", "boxed"])
@pytest.mark.parametrize("control", CONTROLS, ids=named)
def test_what_is_allowed_goes_through_in_both_halves(machines, control, half):
    result = machines(control.id, half)
    assert result.fired, f"the suite would not notice: {result.text[-1500:]!r}"
