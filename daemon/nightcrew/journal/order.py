"""What a task comes after: whether that can ever be."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from nightcrew.journal.log import comes_after
from nightcrew.journal.queue import Queue
from nightcrew.journal.views import Views
from nightcrew_tools.contract import Outcome, TaskState


def refusal(queue: Queue, views: Views, after: Sequence[str], own: Collection[str]) -> str | None:
    """Why a task that goes by the names `own` cannot come after these, None when it can. Those not there yet may come.

    It could never start when one has ended without a delivery, is a schedule, or waits for this very task.
    """
    for key in after:
        row = queue.called(key)
        if row is None:
            continue
        if queue.due(row.id) is not None:
            return f"it is to come after `{row.name}`, which is a schedule and never delivered itself"
        if row.state is TaskState.ENDED:
            outcome = views.one(row.id).outcome
            if outcome is not None and outcome is not Outcome.DELIVERED:
                return comes_after(row.name, outcome)
    circle = queue.circle(after, own)
    if circle is None:
        return None
    if len(circle) == 1:
        return f"it is to come after itself (`{circle[0]}`)"
    way = ", that after ".join(f"`{key}`" for key in circle)
    return f"tasks would wait for each other in a circle: it is to come after {way}"
