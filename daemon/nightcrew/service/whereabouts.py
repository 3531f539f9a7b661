"""How far a task is, in a few words: `fix-login editing, step 2 of 3`. Kept from its events as they come."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nightcrew.events import (
    AttemptEnded,
    AttemptStarted,
    CandidateTried,
    ChecksRan,
    Delivered,
    Event,
    PlanWritten,
    Recorded,
    TaskClaimed,
    TaskSubmitted,
    ToolRan,
    VerdictReached,
    WorkspaceOpened,
)

_EDITS = frozenset(("edit_file", "write_file", "move_file", "delete_file"))
_COMMANDS = frozenset(("run_command",))


@dataclass
class Whereabouts:
    """Of one task. `see` each of its events in order."""

    name: str = ""
    doing: str = "starting"
    steps: int = 0
    done: int = 0
    """Steps of the plan that were accepted: another attempt on it goes on behind them."""
    step: int = 0
    """From 1; 0 outside of a plan's steps."""

    def __str__(self) -> str:
        return f"{self.name} {self.doing}" + (f" step {self.step} of {self.steps}" if self.step else "")

    def see(self, event: Event) -> None:
        """Take the next event in."""
        match event:
            case TaskSubmitted():
                self.name = event.name
            case PlanWritten():
                self._now("planning")
                self.steps, self.done = len(event.plan.steps), 0
            case AttemptStarted():
                self._now("working on", self.done + 1)
            case CandidateTried():
                self._now(f"trying {event.rung} in {event.path}")
            case ToolRan() if self.step:
                self._tool(event)
            case _:
                self._between(event)

    def _between(self, event: Event) -> None:
        match event:
            case TaskClaimed():
                self.doing = self.doing if self.step else "starting"
            case WorkspaceOpened():
                self._now("running its checks before the change")
            case ChecksRan(phase="before"):
                self._now("planning")
            case AttemptEnded():
                self._now(f"running its checks after attempt {event.number}")
            case ChecksRan() | VerdictReached():
                self._now("judging the result")
            case Delivered():
                self._now("delivering")
            case _:
                pass

    def _tool(self, event: ToolRan) -> None:
        if event.name == "finish_step" and not event.is_error:
            self.done += 1
            self._now("working on", self.done + 1)
        elif event.name in _EDITS:
            self.doing = "editing"
        else:
            self.doing = "running commands in" if event.name in _COMMANDS else "reading for"

    def _now(self, doing: str, step: int = 0) -> None:
        self.doing, self.step = doing, min(step, self.steps)


def whereabouts(events: Iterable[Recorded]) -> Whereabouts:
    """Of a task whose events are these."""
    found = Whereabouts()
    for recorded in events:
        found.see(recorded.event)
    return found
