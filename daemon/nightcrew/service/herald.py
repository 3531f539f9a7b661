"""What the service manager hears of the service: that it is ready, alive, what it does, that it reloads or stops."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping

import anyio

from nightcrew.errors import JournalError
from nightcrew.events import Recorded, TaskClaimed
from nightcrew.journal import Journal
from nightcrew.service.notify import Notifier, monotonic_usec
from nightcrew.service.whereabouts import Whereabouts, whereabouts
from nightcrew_tools.contract import TaskState

STATUS_SECONDS = 1.0
"""The status line changes at most this often."""
STOP_STEP_SECONDS = 5.0
"""How much more time a stop asks for at once, over and over while the loop goes on."""
STOP_SECONDS = 120.0
"""A stop asks for no more than this in all: then the manager's patience ends, and the next start continues."""
_NAMED = 3
"""Running tasks that the status line tells about; of more it tells the number."""

PARTS = ("dispatch", "look after")
"""The loops of the service, each of which has to go round for the watchdog to be fed."""


class Herald:
    """Tells a notifier. Called from the service's own loops, so that a loop that hangs is silent: no timer, no thread.

    `beat` may be called as often as one likes; it sends what is due.
    """

    def __init__(self, notifier: Notifier, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._notifier = notifier
        self._clock = clock
        self._beats: set[str] = set()
        self._fed_at = clock()
        self._looked_at = float("-inf")
        self._version = -1
        self._fresh = True
        self._status = ""
        self._note = ""
        self._trouble = ""
        self._running: dict[str, Whereabouts] = {}

    def ready(self) -> None:
        """Everything is set up: tasks are taken from now on."""
        self._notifier.send("READY=1")

    def observe(self, recorded: Recorded) -> None:
        """Take in an event that this service wrote."""
        if not self._notifier.heard:
            return
        self._fresh = True
        if (known := self._running.get(recorded.task)) is not None:
            known.see(recorded.event)
        elif isinstance(recorded.event, TaskClaimed):
            self._running[recorded.task] = Whereabouts()  # what came before is read when the status is next told

    def beat(self, part: str, journal: Journal, trouble: str = "") -> None:
        """A loop of the service went round; `trouble` is why it takes no new work, where it does not."""
        if trouble != self._trouble:
            self._trouble, self._fresh = trouble, True
        self._beats.add(part)
        moment, patience = self._clock(), self._notifier.watchdog_seconds
        if patience is not None and self._beats.issuperset(PARTS) and moment - self._fed_at >= patience / 4:
            self._feed(moment)
        if self._notifier.heard and moment - self._looked_at >= STATUS_SECONDS:
            self._looked_at = moment
            with contextlib.suppress(JournalError):  # whoever works with the journal says so
                self._tell(journal)

    def reloading(self) -> None:
        """The configuration is read again; `reloaded` must follow."""
        self._notifier.send("RELOADING=1", monotonic_usec())

    def reloaded(self, note: str) -> None:
        """The service goes on; `note` stands at the end of its status until the next reload."""
        self._note, self._fresh = note, True
        self._looked_at = float("-inf")
        self._notifier.send("READY=1")

    async def stop(self) -> None:
        """Say that the service stops, and ask for time as long as the loop goes on. To be cancelled when it has."""
        began = self._clock()
        self._notifier.send("STOPPING=1", "STATUS=stopping: running tasks are put down and go on at the next start")
        while self._clock() - began < STOP_SECONDS:
            usec = round(STOP_STEP_SECONDS * 2e6)
            self._notifier.send(f"EXTEND_TIMEOUT_USEC={usec}", "WATCHDOG=1")
            await anyio.sleep(STOP_STEP_SECONDS)

    def _feed(self, moment: float) -> None:
        self._beats.clear()
        self._fed_at = moment
        self._notifier.send("WATCHDOG=1")

    def _tell(self, journal: Journal) -> None:
        version = journal.data_version()
        if version == self._version and not self._fresh:
            return
        self._version, self._fresh = version, False
        counts = journal.counts()
        self._forget_ended(journal, counts)
        held = f"the queue is paused by {by}" if (by := journal.paused()) is not None else ""
        notes = "; ".join(filter(None, (self._trouble, held, self._note)))
        said = status_line(counts, [str(one) for one in self._running.values()], notes)
        if said != self._status:
            self._status = said
            self._notifier.send(f"STATUS={said}")

    def _forget_ended(self, journal: Journal, counts: Mapping[TaskState, int]) -> None:
        running = {view.id for view in journal.tasks([TaskState.RUNNING] if counts.get(TaskState.RUNNING) else [])}
        self._running = {task: known for task, known in self._running.items() if task in running}
        for task, known in self._running.items():
            if not known.name:
                self._running[task] = whereabouts(journal.read(task))


def status_line(counts: Mapping[TaskState, int], running: list[str], note: str = "") -> str:
    """For `systemctl status`: `2 running, 5 queued, 1 waiting for approval: fix-login editing step 2 of 3`."""
    words = {
        TaskState.RUNNING: "running",
        TaskState.QUEUED: "queued",
        TaskState.WAITING: "waiting for approval",
        TaskState.BLOCKED: "waiting for other tasks",
        TaskState.PAUSED: "paused",
        TaskState.SCHEDULED: "scheduled",
    }
    parts = [f"{counts[state]} {word}" for state, word in words.items() if counts.get(state)]
    said = ", ".join(parts) or "idle: nothing is queued"
    if running:
        more = [f"{len(running) - _NAMED} more"] if len(running) > _NAMED else []
        said += ": " + "; ".join([*running[:_NAMED], *more])
    return f"{said} ({note})" if note else said
