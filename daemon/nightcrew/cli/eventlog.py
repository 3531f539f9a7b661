"""What `nightcrew up` writes on standard error: progress for a terminal, or the log's own lines for machines."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nightcrew.cli.progress import Progress
from nightcrew.cli.running import make_progress
from nightcrew.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nightcrew.config import LogSettings
    from nightcrew.events import Recorded


class EventLog:
    """The events of tasks as the log's lines, one for each: its kind, its task, and in words what happened."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._lines: list[str] = []
        self._names: dict[str, str] = {}
        self._progress = Progress(self._lines.append)

    def show(self, recorded: Recorded) -> None:
        """Log one event. One that people are not told about stands in the log for debugging alone."""
        event = recorded.event
        self._progress.show(recorded)
        text = "; ".join(" ".join(line.split()[1:]) for line in self._lines)
        self._lines.clear()
        write = self._logger.info if text else self._logger.debug
        write(event.kind, task=recorded.task, seq=recorded.seq, **({"text": text} if text else {}))

    def say(self, text: str) -> None:
        """Log what is no event of a task."""
        self._logger.info(text)


def set_up(
    settings: LogSettings, environ: Mapping[str, str]
) -> tuple[Callable[[Recorded], None], Callable[[str], None]]:
    """Set up the log of a service; what shows it an event, and what says a sentence."""
    json = log.wants_json(settings.format, environ, sys.stderr)
    log.set_up(settings.level, json=json, environ=environ)
    writer = EventLog(log.logger()) if json else make_progress(names=True)
    return writer.show, writer.say
