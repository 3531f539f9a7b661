"""Events as lines for people who watch: the same in a log and on a terminal, where they have colours."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, cast

from nightcrew.delivery.quoting import one_line
from nightcrew.delivery.report import public_model
from nightcrew.domain import CheckResult, summarised
from nightcrew.events import (
    ApprovalAsked,
    AttemptEnded,
    AttemptStarted,
    CandidateTried,
    ChecksRan,
    Continued,
    Decided,
    Delivered,
    Event,
    ModelReplied,
    Paused,
    PlanWritten,
    Recorded,
    Resumed,
    TaskClaimed,
    TaskEnded,
    TaskRevised,
    TaskSubmitted,
    ToolRan,
    VerdictReached,
    Waiting,
    WorkspaceOpened,
)
from nightcrew_tools.contract import Outcome

Line = tuple[str, str, str]
"""Colour, a word of at most nine letters that says what kind of thing happened, and what happened."""

_COLOURS = {"good": "32", "bad": "31", "warn": "33", "dim": "2", "plain": ""}
_SLOW_REPLY = 20.0
"""Seconds after which a model's reply is worth a line of its own."""
_TOGETHER = 10
"""Candidates that did not pass and share a line."""


class Progress:
    """Writes one line per event. Text of models and tools loses whatever could move a cursor or forge a line."""

    def __init__(
        self, write: Callable[[str], None], *, colour: bool = False, names: bool = False, began: str | None = None
    ) -> None:
        """`names` puts the task's name before each line, for several tasks at once; `began` is the time of offset 0."""
        self._write = write
        self._colour = colour
        self._names = names
        self._began: dict[str, str] = {}
        self._from = began
        self._titles: dict[str, str] = {}
        self._calls: dict[tuple[str, str, str], str] = {}
        self._tries: dict[str, list[CandidateTried]] = {}

    def show(self, recorded: Recorded) -> None:
        """Write the lines of one event."""
        task, event = recorded.task, recorded.event
        self._began.setdefault(task, self._from or recorded.at)
        if isinstance(event, TaskSubmitted):
            self._titles[task] = event.name
        if isinstance(event, CandidateTried):
            self._try(recorded, event)
            return
        self._flush(task, recorded.at)
        if isinstance(event, ModelReplied):
            self._remember_calls(task, event)
        for line in self._lines(task, event):
            self._print(task, recorded.at, line)

    def say(self, text: str) -> None:
        """Write a line of the program's own, for what is no event."""
        self._write(self._painted("dim", f"{'':>9}  {one_line(text, 500)}"))

    def _print(self, task: str, at: str, line: Line) -> None:
        colour, word, text = line
        name = f"{self._titles.get(task, task)}: " if self._names else ""
        offset = f"+{_seconds(self._began[task], at):.1f}s"
        self._write(f"{offset:>9}  {self._painted(colour, f'{word:<9}')} {name}{one_line(text, 400)}")

    def _painted(self, colour: str, text: str) -> str:
        code = _COLOURS[colour]
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour and code else text

    # --- candidates of the repair ladder: many, and most of them say the same

    def _try(self, recorded: Recorded, event: CandidateTried) -> None:
        pending = self._tries.setdefault(recorded.task, [])
        if pending and (pending[-1].rung, pending[-1].path) != (event.rung, event.path):
            self._flush(recorded.task, recorded.at)
            pending = self._tries.setdefault(recorded.task, [])
        pending.append(event)
        if event.passed or len(pending) >= _TOGETHER:
            self._flush(recorded.task, recorded.at)

    def _flush(self, task: str, at: str) -> None:
        pending = self._tries.pop(task, [])
        failed = [one for one in pending if not one.passed]
        if failed:
            self._print(task, at, ("dim", "tried", f"{_candidates(failed)}: failed"))
        for one in pending:
            if one.passed:
                self._print(task, at, ("good", "tried", f"{_candidates([one])}: passed"))

    # --- one event

    def _remember_calls(self, task: str, event: ModelReplied) -> None:
        for identifier, arguments in _tool_calls(event.message):  # servers may number calls alike in every task
            self._calls[task, event.conversation, identifier] = arguments

    def _lines(self, task: str, event: Event) -> Iterator[Line]:
        match event:
            case ModelReplied() if event.seconds >= _SLOW_REPLY or not _tool_calls(event.message):
                yield "dim", "model", _reply(event)
            case ToolRan():
                arguments = self._calls.pop((task, event.conversation, event.call_id), "")
                failed = ": " + _content(event.message) if event.is_error else ""
                yield "warn" if event.is_error else "plain", "tool", f"{event.name} {arguments}{failed}"
            case WorkspaceOpened() | ChecksRan() | PlanWritten():
                yield from _prepared(event)
            case AttemptStarted() | AttemptEnded() | VerdictReached():
                yield from _attempted(event)
            case _:
                yield from _queue_and_end(event)


def _queue_and_end(event: Event) -> Iterator[Line]:
    match event:
        case TaskSubmitted():
            yield "plain", "queued", f"{event.name}: {event.request.title}"
        case TaskRevised():
            yield "plain", "revised", event.request.title
        case TaskClaimed():
            yield "plain", "started", f"by {event.worker}"
        case Waiting():
            yield "warn", "waiting", event.reason
        case Paused() | Resumed() | Continued():
            yield _steered(event)
        case ApprovalAsked():
            yield "warn", "approval", f"needed: {event.problem or summarised(event.concerns)}"
        case Decided():
            words = "approved" if event.approved else "rejected"
            yield "plain", "decided", f"{words} by {event.by}" + (f": {event.why}" if event.why else "")
        case Delivered():
            yield "good", "delivered", f"branch {event.branch}" if event.branch else "as a patch"
        case TaskEnded():
            reason = f": {event.reason}" if event.reason else ""
            yield "good" if event.outcome is Outcome.DELIVERED else "bad", "ended", f"{event.outcome}{reason}"
        case _:
            pass  # what the harness itself writes into a conversation


def _steered(event: Paused | Resumed | Continued) -> Line:
    match event:
        case Paused():
            return "warn", "paused", f"{'with the whole queue ' if event.queue else ''}by {event.by}"
        case Resumed():
            return "plain", "resumed", f"by {event.by}"
        case Continued():
            return "plain", "goes on", f"from step {event.step} of task {event.task}"


def _prepared(event: WorkspaceOpened | ChecksRan | PlanWritten) -> Iterator[Line]:
    match event:
        case WorkspaceOpened():
            yield from _opened(event)
        case ChecksRan():
            yield from _checks(event)
        case PlanWritten():
            yield "plain", "plan", event.plan.summary
            for number, step in enumerate(event.plan.steps, 1):
                done = f" (done when {step.done_when})" if step.done_when else ""
                yield "plain", "", f"{number}. {step.title}{done}"


def _attempted(event: AttemptStarted | AttemptEnded | VerdictReached) -> Iterator[Line]:
    match event:
        case AttemptStarted():
            yield "plain", "attempt", str(event.number)
        case AttemptEnded():
            if event.stuck:
                yield "warn", "stuck", event.stuck
            if event.claim:
                yield "dim", "claim", event.claim
        case VerdictReached(verdict=verdict):
            yield (
                ("good", "verdict", f"passed: {verdict.reason}")
                if verdict.passed
                else ("bad", "verdict", f"not passed: {verdict.reason}")
            )


def _opened(event: WorkspaceOpened) -> Iterator[Line]:
    yield "plain", "clone", f"of {event.base_ref} at {event.base_commit[:12]}"
    roles: dict[str, list[str]] = {}
    for role, model in sorted(event.models.items()):
        roles.setdefault(public_model(model), []).append(role)
    for model, names in roles.items():
        yield "plain", "crew", f"{event.crew}: {model} ({', '.join(names)})"
    if event.source_dirty:
        yield "warn", "note", "the source checkout has uncommitted changes, which are not part of the task"


def _checks(event: ChecksRan) -> Iterator[Line]:
    if not event.results:
        yield "warn", "checks", f"{event.phase}: none were found"
    for result in event.results:
        # A check that fails before the change is what one expects of a bug report.
        bad = "warn" if event.phase == "before" else "bad"
        yield "good" if result.ok else bad, "checks", f"{event.phase}: {result.check.command}: {_result(result)}"


def _result(result: CheckResult) -> str:
    if result.ok:
        tests = f" ({result.passed_tests} tests)" if result.passed_tests is not None else ""
        return f"passed{tests}, {result.seconds:.1f} s"
    how = f"exit {result.exit_code}" if result.ended == "exited" else result.limit or result.ended
    tests = f", {len(result.failing)} failing" if result.failing else ""
    return f"failed ({how}{tests}), {result.seconds:.1f} s"


def _candidates(tried: list[CandidateTried]) -> str:
    first = tried[0]
    lines = sorted({one.line for one in tried if one.line is not None})
    where = ""
    if lines:
        where = f" line {lines[0]}" if len(lines) == 1 else f" {len(lines)} lines from {lines[0]} to {lines[-1]}"
    count = f"{len(tried)} × " if len(tried) > 1 else ""
    return f"{count}{first.rung} {first.path}{where}"


def _reply(event: ModelReplied) -> str:
    usage = event.usage
    cached = f", {usage.cached_tokens:,} cached" if usage.cached_tokens else ""
    return (
        f"{event.conversation} answered in {event.seconds:.1f} s "
        f"({usage.prompt_tokens:,} tokens read{cached}, {usage.completion_tokens:,} written)"
    )


def _tool_calls(message: str) -> list[tuple[str, str]]:
    """Id and short arguments of each call in an assistant's message."""
    calls: Any = _parsed(message).get("tool_calls")
    if not isinstance(calls, list):
        return []
    try:
        return [(str(call["id"]), _short(str(call["function"]["arguments"]))) for call in cast("list[Any]", calls)]
    except (KeyError, TypeError):
        return []  # not the shape of any protocol: then its arguments are not shown


def _short(arguments: str) -> str:
    """The values of a call's arguments, each cut to what tells calls apart."""
    values = _parsed(arguments).values()
    return " ".join(one_line(str(value), 60) for value in values if isinstance(value, str | int) and value != "")


def _content(message: str) -> str:
    return one_line(str(_parsed(message).get("content", "")), 160)


def _parsed(text: str) -> dict[str, Any]:
    try:
        value: Any = json.loads(text)
    except ValueError:
        return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _seconds(start: str, end: str) -> float:
    return max(0.0, (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds())
