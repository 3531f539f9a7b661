"""Which schedules have come due: each slot once, over restarts and clocks that jump."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import datetime

from nightcrew.journal.queue import Queue
from nightcrew.schedule import parse_schedule

_log = logging.getLogger("nightcrew.journal")


def next_slot(text: str, moment: datetime) -> str:
    """The first slot after a moment, as the journal writes times."""
    return _written(parse_schedule(text).after(moment))


class Timetable:
    """Looks at the schedules of the queue. A slot's task has the slot in its id, so none can be there twice."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._looked: datetime | None = None

    def wants(self, moment: datetime) -> bool:
        """Whether there may be something to do; costs one look into an index."""
        if self._looked is None or moment < self._looked:
            return True
        self._looked = moment
        scheduled = self._queue.scheduled()
        return bool(scheduled) and scheduled[0][1] <= _written(moment)

    def went_back(self, moment: datetime) -> bool:
        """Whether the clock may have been set back since the last look; so it is at the first one."""
        return self._looked is None or moment < self._looked

    def due(self, moment: datetime, text_of: Callable[[str], str | None]) -> Iterator[tuple[str, datetime]]:
        """Tasks with a slot that has come, each with its last one; their next slots are noted. In a transaction."""
        back = self.went_back(moment)
        for task, due in self._queue.scheduled():
            text = text_of(task)
            if text is None or (due > _written(moment) and not back):
                continue
            schedule = parse_schedule(text)
            following = _written(schedule.after(moment))
            if due <= _written(moment):
                yield task, schedule.last(moment)
            elif following >= due:
                continue
            # Else the clock was set back: what comes again by it has been, and the ids of its tasks tell.
            self._queue.set_due(task, following)
        self._looked = moment


def _written(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
