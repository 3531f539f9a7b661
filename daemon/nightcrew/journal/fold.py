"""What is known of a task: the fold of its journal. Pure, no I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from nightcrew.domain import HostUse, Plan, Usage, summarised
from nightcrew.errors import JournalCorrupt
from nightcrew.events import (
    ApprovalAsked,
    AttemptEnded,
    AttemptStarted,
    CandidateTried,
    ChecksRan,
    Continued,
    ConversationOpened,
    Decided,
    Delivered,
    Event,
    MessageAdded,
    ModelReplied,
    Moved,
    NetworkUsed,
    Paused,
    PlanWritten,
    Recorded,
    Resumed,
    TaskClaimed,
    TaskEnded,
    TaskRevised,
    TaskSubmitted,
    ToolRan,
    ToolStarted,
    VerdictReached,
    Waiting,
    WorkspaceOpened,
)
from nightcrew_tools.contract import Outcome, TaskRequest, TaskState, TaskUsage, TaskView

REPLAY = "replay:"
"""Begins the origin of a task that is the replay of another one."""


@dataclass(kw_only=True)
class TaskRecord:
    """One task as its events tell it. Only `advance` writes to it; everyone else reads."""

    id: str
    request: TaskRequest
    name: str
    """Stem of the result files."""
    origin: str
    submitted_at: str
    """UTC, ISO 8601, as all times here."""
    seq: int
    """Of the last event; the next one is appended at `seq + 1`."""
    worker: str | None = None
    """Who claimed it last."""
    claims: int = 0
    started_at: str | None = None
    """Of the first claim."""
    ended_at: str | None = None
    updated_at: str
    """Of the last event."""
    opened: WorkspaceOpened | None = None
    checks_before: ChecksRan | None = None
    checks_after: dict[int, ChecksRan] = field(default_factory=dict[int, ChecksRan])
    """By attempt."""
    plans: list[Plan] = field(default_factory=list[Plan])
    """Revisions in order."""
    attempts: list[AttemptStarted] = field(default_factory=list[AttemptStarted])
    ended_attempts: dict[int, AttemptEnded] = field(default_factory=dict[int, AttemptEnded])
    verdicts: dict[int, VerdictReached] = field(default_factory=dict[int, VerdictReached])
    """By attempt."""
    conversations: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """The exact message texts in order, whoever wrote them."""
    openings: dict[str, ConversationOpened] = field(default_factory=dict[str, ConversationOpened])
    """What each conversation's requests carry; a conversation of an older version may have none."""
    replies: dict[str, list[ModelReplied]] = field(default_factory=dict[str, list[ModelReplied]])
    """What the model said, per conversation."""
    candidates: list[CandidateTried] = field(default_factory=list[CandidateTried])
    tree: str | None = None
    """Worktree snapshot after the last event that names one: what a restart restores."""
    hosts: dict[tuple[str, int, bool], HostUse] = field(default_factory=dict[tuple[str, int, bool], HostUse])
    """What boxes asked of the network, by host, port and whether it was allowed."""
    usage: TaskUsage = field(default_factory=TaskUsage)
    active_seconds: float = 0.0
    """Work over all claims, each from its claim to its last event: what counts against `limits.minutes`."""
    waiting: str = ""
    """Reason of the last `Waiting` event, empty when anything followed it."""
    paused: Paused | None = None
    """Who holds it, None when nobody does."""
    continued: Continued | None = None
    """Where it began, when that is a step of an earlier task."""
    retry_of: str | None = None
    asked: ApprovalAsked | None = None
    """What a person was asked about last."""
    decided: Decided | None = None
    """The answer to it."""
    decided_at: str | None = None
    moved: Moved | None = None
    """The last time that it left a machine, or came to one."""
    delivered: Delivered | None = None
    ended: TaskEnded | None = None
    begun: ToolStarted | None = None
    """A call that may have had effects outside and has no answer yet."""
    tools_run: list[ToolRan] = field(default_factory=list[ToolRan])
    claimed_at: str | None = None
    """Of the last claim."""
    earlier_seconds: float = 0.0
    """Part of `active_seconds` that belongs to claims before the last one."""

    @property
    def replay_of(self) -> str:
        """The task whose recorded answers take the place of models here; empty for a run of models."""
        return self.origin.removeprefix(REPLAY) if self.origin.startswith(REPLAY) else ""

    @property
    def waits_for_approval(self) -> bool:
        """Whether it is a person's turn."""
        return self.asked is not None and self.decided is None and self.ended is None


def fold(events: Iterable[Recorded]) -> TaskRecord:
    """All that is known of one task, from its events in order.

    Raises `JournalCorrupt` when there is no event, when the first one is not `TaskSubmitted`, or when one is missing.
    """
    record: TaskRecord | None = None
    for recorded in events:
        if record is None:
            record = _begin(recorded)
        else:
            advance(record, recorded)
    if record is None:
        raise JournalCorrupt("the task has no events in the journal")
    return record


def advance(record: TaskRecord, recorded: Recorded) -> None:
    """Apply the next event. Raises `JournalCorrupt` when it is not the next one of this task."""
    event = recorded.event
    if recorded.task != record.id or recorded.seq != record.seq + 1:
        found = f"event {recorded.seq} of task {recorded.task}"
        raise JournalCorrupt(f"task {record.id}: event {record.seq + 1} is missing, {found} stands there")
    if isinstance(event, TaskSubmitted):
        raise JournalCorrupt(f"task {record.id}: submitted a second time by event {recorded.seq}")
    record.seq = recorded.seq
    record.updated_at = recorded.at
    record.waiting = event.reason if isinstance(event, Waiting) else ""
    if isinstance(event, TaskRevised):
        record.request = event.request
        return
    if isinstance(event, TaskClaimed):
        _claim(record, event, recorded.at)
        return
    _count_time(record, recorded)
    if isinstance(event, TaskEnded):
        record.ended, record.ended_at = event, recorded.at
    elif isinstance(event, ApprovalAsked):
        record.asked, record.decided, record.decided_at = event, None, None
    elif isinstance(event, Decided):
        record.decided, record.decided_at = event, recorded.at
    elif isinstance(event, ConversationOpened):
        record.openings[event.conversation] = event
    elif isinstance(event, ToolStarted):
        record.begun = event
    elif isinstance(event, Paused | Resumed | Continued | Moved):
        _steer(record, event)
    elif isinstance(event, MessageAdded | ModelReplied | ToolRan):
        _converse(record, event)
    else:
        _work(record, event)


def _begin(recorded: Recorded) -> TaskRecord:
    event = recorded.event
    if not isinstance(event, TaskSubmitted) or recorded.seq != 1:
        raise JournalCorrupt(
            f"task {recorded.task}: begins with event {recorded.seq} `{event.kind}` where 1 `task_submitted` belongs"
        )
    return TaskRecord(
        id=recorded.task,
        request=event.request,
        name=event.name,
        origin=event.origin,
        retry_of=event.retry_of,
        submitted_at=recorded.at,
        updated_at=recorded.at,
        seq=recorded.seq,
    )


def _claim(record: TaskRecord, event: TaskClaimed, at: str) -> None:
    record.worker = event.worker
    record.claims += 1
    record.started_at = record.started_at or at
    record.claimed_at = at
    record.earlier_seconds = record.active_seconds


def _count_time(record: TaskRecord, recorded: Recorded) -> None:
    event = recorded.event
    # A person may cancel a task hours after its worker died, or decide days later: that time is nobody's work.
    persons = isinstance(event, Decided | Moved | Paused | Resumed) or (
        isinstance(event, TaskEnded) and event.outcome is Outcome.CANCELLED
    )
    if record.claimed_at is not None and not persons:
        # By the worker's own clock; an older version kept none, and then a wall clock that was set back must not give
        # minutes back.
        spent = recorded.elapsed if recorded.elapsed is not None else _seconds(record.claimed_at, recorded.at)
        this_claim = max(spent, record.active_seconds - record.earlier_seconds)
        record.active_seconds = record.earlier_seconds + this_claim


def _seconds(start: str, end: str) -> float:
    try:
        return max(0.0, (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds())
    except (ValueError, TypeError) as error:
        raise JournalCorrupt(f"a time in the journal cannot be read: {start!r} or {end!r}") from error


def _move(record: TaskRecord, event: Moved) -> None:
    record.moved = event
    record.name = event.name or record.name
    if event.repo:
        record.request = record.request.model_copy(update={"repo": event.repo})
    if event.to == "here":  # over there nobody works on it any longer
        record.earlier_seconds, record.claimed_at = record.active_seconds, None


def _converse(record: TaskRecord, event: MessageAdded | ModelReplied | ToolRan) -> None:
    record.conversations.setdefault(event.conversation, []).append(event.message)
    if isinstance(event, ModelReplied):
        record.replies.setdefault(event.conversation, []).append(event)
        record.usage = _add(record.usage, event.usage, event.seconds)
    elif isinstance(event, ToolRan):
        record.tools_run.append(event)
        record.begun = None
        record.tree = event.tree or record.tree


def _steer(record: TaskRecord, event: Paused | Resumed | Continued | Moved) -> None:
    if isinstance(event, Moved):
        _move(record, event)
    elif isinstance(event, Continued):
        record.continued, record.tree = event, event.tree
    else:
        record.paused = event if isinstance(event, Paused) and not event.queue else None


def _work(record: TaskRecord, event: Event) -> None:
    match event:
        case WorkspaceOpened():
            record.opened = event
        case ChecksRan(phase="before"):
            record.checks_before = event
        case ChecksRan():
            record.checks_after[event.attempt] = event
        case NetworkUsed():
            for use in event.hosts:
                record.hosts[use.key] = record.hosts[use.key].plus(use) if use.key in record.hosts else use
        case PlanWritten():
            record.plans.append(event.plan)
        case AttemptStarted():
            record.attempts.append(event)
        case CandidateTried():
            _candidate(record, event)
        case AttemptEnded():
            record.ended_attempts[event.number] = event
            record.tree = event.tree or record.tree
        case VerdictReached():
            record.verdicts[event.attempt] = event
        case Delivered():
            record.delivered = event
        case _:
            pass  # `Waiting` has left its mark already


def _candidate(record: TaskRecord, event: CandidateTried) -> None:
    record.candidates.append(event)
    if event.passed:
        record.tree = event.tree or record.tree
    if event.usage != Usage():  # one answer may bring several candidates; only the first carries its cost
        record.usage = _add(record.usage, event.usage, event.seconds)


def _add(total: TaskUsage, usage: Usage, seconds: float) -> TaskUsage:
    return TaskUsage(
        requests=total.requests + 1,
        prompt_tokens=total.prompt_tokens + usage.prompt_tokens,
        completion_tokens=total.completion_tokens + usage.completion_tokens,
        cached_tokens=total.cached_tokens + usage.cached_tokens,
        model_seconds=total.model_seconds + seconds,
    )


def view(
    record: TaskRecord,
    *,
    state: TaskState | None = None,
    crew: str = "",
    report_path: str | None = None,
    patch_path: str | None = None,
) -> TaskView:
    """The task as others see it.

    `state` is what the queue knows better than the events: a task whose worker died is queued again. `crew` is the
    configured default, shown while neither the task nor a workspace names one.
    """
    delivered, ended = record.delivered, record.ended
    state = state or natural_state(record)
    return TaskView(
        id=record.id,
        name=record.name,
        title=record.request.title,
        repo=record.request.repo,
        crew=record.opened.crew if record.opened else record.request.crew or crew,
        state=state,
        activity=activity(record) if state is TaskState.RUNNING else "",
        outcome=ended.outcome if ended else None,
        reason=reason(record),
        submitted_at=record.submitted_at,
        started_at=record.started_at,
        ended_at=record.ended_at,
        branch=delivered.branch if delivered else None,
        commit=delivered.commit if delivered else None,
        concerns=record.asked.concerns if record.asked else (),
        report_path=report_path,
        patch_path=patch_path,
        attempts=len(record.attempts),
        usage=record.usage,
        schedule=record.request.schedule,
        retry_of=record.retry_of,
    )


def reason(record: TaskRecord) -> str:
    """Why the task ended as it did, or why it does not go on."""
    if record.ended:
        return record.ended.reason
    if record.paused:
        return f"paused by {record.paused.by}"
    if record.asked and record.waits_for_approval:
        return record.asked.problem or summarised(record.asked.concerns)
    return record.waiting


def natural_state(record: TaskRecord) -> TaskState:
    """The state as the events alone tell it."""
    if record.ended:
        return TaskState.ENDED
    if record.waits_for_approval:
        return TaskState.WAITING
    if record.paused:
        return TaskState.PAUSED
    if record.request.schedule is not None:
        return TaskState.SCHEDULED
    return TaskState.RUNNING if record.claims else TaskState.QUEUED


def activity(record: TaskRecord) -> str:
    """What a claimed task is doing now, in a few words; empty before its claim and after its end."""
    if record.ended or not record.claims:
        return ""
    if record.waiting:
        return f"waiting: {record.waiting}"
    if record.asked and not record.delivered:
        return "carrying out what a person decided" if record.decided else ""
    if record.delivered:
        return "writing the report"
    if record.opened is None:
        return "cloning the repository"
    if record.attempts:
        return _attempt_activity(record)
    # Attempts begin with a plan or without one; the checks come first either way.
    return "running the checks before the change" if record.checks_before is None else "planning"


def _attempt_activity(record: TaskRecord) -> str:
    number = record.attempts[-1].number
    if verdict := record.verdicts.get(number):
        return "delivering" if verdict.verdict.passed else f"preparing attempt {number + 1}"
    if number in record.checks_after:
        return f"judging the result (attempt {number})"
    if number in record.ended_attempts:
        return f"checking the result (attempt {number})"
    candidates = [candidate for candidate in record.candidates if candidate.attempt == number]
    if candidates:
        return f"trying repairs: {candidates[-1].rung}, {len(candidates)} so far (attempt {number})"
    steps = len(record.plans[-1].steps) if record.plans else 0
    if not steps:
        return f"editing (attempt {number})"
    return f"editing: step {min(_steps_done(record) + 1, steps)} of {steps} (attempt {number})"


def _steps_done(record: TaskRecord) -> int:
    """Accepted `finish_step` calls in the executor's conversation about the plan that is worked on."""
    conversation = f"executor/{record.attempts[-1].revision}"
    return sum(
        ran.name == "finish_step" and not ran.is_error and ran.conversation == conversation for ran in record.tools_run
    )
