"""Every attack twice: without a box its canary fires, and through the product it stays silent."""

from __future__ import annotations

import os

import pytest

from security.attack import Attack
from security.attacks import ATTACKS

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make the throwaway machines that attacks run in"),
]


def named(attack: Attack) -> str:
    return f"{attack.kind}: {attack.id}".replace(" ", "_")


@pytest.mark.unboxed
@pytest.mark.parametrize("attack", ATTACKS, ids=named)
def test_without_a_box_the_canary_fires(machines, attack):
    result = machines(attack.id, "unboxed")
    if not attack.everywhere and not result.fired and "UNAVAILABLE" in result.text:
        pytest.skip(f"not proven: this kernel is built without what {attack.id} asks for")
    assert result.fired, f"this attack proves nothing here: {result.text[-1500:]!r}"


@pytest.mark.parametrize("attack", ATTACKS, ids=named)
def test_in_the_box_the_canary_stays_silent(machines, attack):
    result = machines(attack.id, "boxed")
    assert not result.fired, f"it got through: {result.text[-1500:]!r}"
