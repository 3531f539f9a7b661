"""How long a task may wait for an endpoint."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from nightcrew.events import Event, MessageAdded, Recorded, TaskClaimed, TaskSubmitted, Waiting
from nightcrew.journal.fold import fold
from nightcrew.service.attendant import _may_wait
from nightcrew_tools.contract import Limits, TaskRequest


def waits(*events: tuple[float, Event], minutes: float = 60) -> bool:
    """Whether a task that had these events so many hours ago may go on waiting."""
    request = TaskRequest(title="t", text="t", repo="/r", limits=Limits(minutes=minutes))
    told: list[tuple[float, Event]] = [(24, TaskSubmitted(request=request, name="t", origin="test")), *events]
    recorded = [
        Recorded(task="t", seq=seq, at=(datetime.now(UTC) - timedelta(hours=hours)).isoformat(), event=event)
        for seq, (hours, event) in enumerate(told, 1)
    ]
    return _may_wait(fold(recorded), recorded)


CLAIMED = TaskClaimed(worker="w")
WAITING = Waiting(reason="nobody there")
SAID = MessageAdded(conversation="planner", message="{}")


def test_a_task_that_just_lost_its_endpoint_may_wait_however_old_it_is() -> None:
    assert waits((23, CLAIMED), (22, SAID))


def test_it_waits_as_long_as_it_may_work_from_where_the_wait_began() -> None:
    assert waits((23, CLAIMED), (0.5, WAITING), (0.2, CLAIMED))
    tries = [(hours / 6, event) for hours in range(9, 0, -1) for event in (WAITING, CLAIMED)]
    assert not waits((23, CLAIMED), *tries)


def test_a_clock_that_was_set_and_a_night_in_which_the_machine_was_off_count_for_nothing() -> None:
    assert waits((24 * 365, CLAIMED), (24 * 365, WAITING), (0.2, CLAIMED), (0.1, WAITING))
    assert waits((-24, CLAIMED), (-24, WAITING), (0.2, CLAIMED), (0.1, WAITING))


def test_work_in_between_begins_the_wait_anew() -> None:
    assert waits((23, CLAIMED), (20, WAITING), (19, CLAIMED), (18, SAID), (0.5, WAITING))
