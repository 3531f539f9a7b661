"""The closed union of journal events.

A message is stored as the exact JSON text that was sent or will be sent again: the transcript is the durable state, and
a byte that differs would cost the model server its cached prefix.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from nightcrew.domain import Check, CheckResult, HostUse, Plan, Usage, Verdict
from nightcrew.secrecy import SECRETS
from nightcrew_tools.contract import Concern, Frozen, Outcome, TaskRequest


class TaskSubmitted(Frozen):
    """First event of every task."""

    kind: Literal["task_submitted"] = "task_submitted"
    request: TaskRequest
    name: str
    """Stem of the result files; unique among the tasks of this journal."""
    origin: str
    """`inbox:<file name>`, `cli`, `mcp`, `run`, `demo`, `schedule:<task>`, `retry`."""
    retry_of: str | None = None
    """The task that this one does once more."""


class TaskRevised(Frozen):
    """What was asked for, written anew before anybody began with it."""

    kind: Literal["task_revised"] = "task_revised"
    request: TaskRequest


class TaskClaimed(Frozen):
    """A worker took the task; an older worker's next append is stale from here on."""

    kind: Literal["task_claimed"] = "task_claimed"
    worker: str


class WorkspaceOpened(Frozen):
    """The private clone exists."""

    kind: Literal["workspace_opened"] = "workspace_opened"
    base_commit: str
    base_ref: str
    source_dirty: bool
    """The source checkout had uncommitted changes, which are not part of the task."""
    checks: tuple[Check, ...]
    crew: str
    models: dict[str, str]
    """Role to `model @ base_url`."""
    context: str
    """Repository context of the base commit, as every prompt carries it."""


class ChecksRan(Frozen):
    """All checks on one clean checkout."""

    kind: Literal["checks_ran"] = "checks_ran"
    phase: Literal["before", "after"]
    attempt: int
    """0 for the run before any change."""
    commit: str
    results: tuple[CheckResult, ...]


class NetworkUsed(Frozen):
    """What boxes asked of the network: a host when it is first asked for, before anything is sent, then the sums."""

    kind: Literal["network_used"] = "network_used"
    during: Literal["setup", "loop"]
    hosts: tuple[HostUse, ...]
    """What came to what earlier events tell."""


class ConversationOpened(Frozen):
    """What every request of a conversation carries beside its messages, as long as it lasts.

    A newer version, or another configuration, would send other bytes and lose the cached prefix in mid-task.
    """

    kind: Literal["conversation_opened"] = "conversation_opened"
    conversation: str
    tools: str | None
    """The exact JSON text; None for a role without tools."""
    shape: dict[str, object]
    """The request fields that chat templates write into the prompt."""


class MessageAdded(Frozen):
    """A message that the harness wrote: system, user, or a nudge."""

    kind: Literal["message_added"] = "message_added"
    conversation: str
    message: str


class ModelReplied(Frozen):
    """A message that a model wrote, normalised once and never touched again."""

    kind: Literal["model_replied"] = "model_replied"
    conversation: str
    message: str
    finish_reason: str
    usage: Usage
    seconds: float


class ToolStarted(Frozen):
    """A call that may have effects outside of the workspace is about to run; one without an answer is not run again."""

    kind: Literal["tool_started"] = "tool_started"
    conversation: str
    call_id: str
    name: str


class ToolRan(Frozen):
    """A tool's answer, with the tree it left behind."""

    kind: Literal["tool_ran"] = "tool_ran"
    conversation: str
    call_id: str
    name: str
    message: str
    is_error: bool
    tree: str | None
    """Worktree snapshot after the call; None when the tool cannot change files."""
    seconds: float


class PlanWritten(Frozen):
    kind: Literal["plan_written"] = "plan_written"
    plan: Plan


class AttemptStarted(Frozen):
    kind: Literal["attempt_started"] = "attempt_started"
    number: int
    revision: int
    """Of the plan that it works on."""


class CandidateTried(Frozen):
    """One rung's try of the repair ladder: a new text for one file, judged by the checks."""

    kind: Literal["candidate_tried"] = "candidate_tried"
    attempt: int
    rung: Literal["infill", "rewrite", "explain"]
    index: int
    """Position in the rung's own order, from 0."""
    path: str
    line: int | None
    """First line that was masked, from 1; None for a whole-file candidate."""
    passed: bool
    tree: str | None
    """Worktree with the candidate in it, when it passed."""
    usage: Usage
    seconds: float
    """Of the model's answer; the checks' time is not part of it."""
    note: str = ""


class AttemptEnded(Frozen):
    kind: Literal["attempt_ended"] = "attempt_ended"
    number: int
    claim: str
    """What the model says it did. Never believed."""
    tree: str
    stuck: str = ""
    """Why the harness ended it, when the model did not."""


class VerdictReached(Frozen):
    kind: Literal["verdict_reached"] = "verdict_reached"
    attempt: int
    commit: str
    """Empty when there was nothing to commit."""
    verdict: Verdict


class ApprovalAsked(Frozen):
    """A verified result is held back until a person decides; its report is in place."""

    kind: Literal["approval_asked"] = "approval_asked"
    attempt: int
    commit: str
    """What was tested, and what an approval delivers."""
    concerns: tuple[Concern, ...]
    problem: str = ""
    """Why an approval could not be carried out, when there was one before."""


class Decided(Frozen):
    """A person's word about a result that waited."""

    kind: Literal["decided"] = "decided"
    approved: bool
    by: str
    """Account of who said so."""
    door: str
    """`cli` or `mcp`."""
    why: str = ""


class Delivered(Frozen):
    """The branch (when there is one) and the result files are in place."""

    kind: Literal["delivered"] = "delivered"
    branch: str | None
    commit: str | None
    patch: str


class Waiting(Frozen):
    """The task cannot go on for now, and why."""

    kind: Literal["waiting"] = "waiting"
    reason: str


class Paused(Frozen):
    """A person holds the task, or with `queue` all of them; what ran of it was let go at its last event."""

    kind: Literal["paused"] = "paused"
    by: str
    """Account of who said so."""
    queue: bool = False


class Resumed(Frozen):
    """A paused task may go on."""

    kind: Literal["resumed"] = "resumed"
    by: str


class Continued(Frozen):
    """The task begins where a step of an earlier one began: with that one's clone, plan and tree."""

    kind: Literal["continued"] = "continued"
    task: str
    """The earlier one."""
    step: int
    """From 1, of the earlier task's plan."""
    tree: str | None
    """Worktree at the beginning of the step; None for the base's."""


class Moved(Frozen):
    """The task goes on elsewhere from here on, or came from elsewhere up to here."""

    kind: Literal["moved"] = "moved"
    to: Literal["away", "here"]
    machine: str
    """Where this was written."""
    file: str
    """Name of the file that it moved by."""
    name: str = ""
    """What its result files are called here, where the name it came with was taken."""
    repo: str = ""
    """Where its repository is on this machine, where that is another place."""


class TaskEnded(Frozen):
    kind: Literal["task_ended"] = "task_ended"
    outcome: Outcome
    reason: str


Event = Annotated[
    TaskSubmitted
    | TaskRevised
    | TaskClaimed
    | WorkspaceOpened
    | ChecksRan
    | NetworkUsed
    | ConversationOpened
    | MessageAdded
    | ModelReplied
    | ToolStarted
    | ToolRan
    | PlanWritten
    | AttemptStarted
    | CandidateTried
    | AttemptEnded
    | VerdictReached
    | ApprovalAsked
    | Decided
    | Delivered
    | Waiting
    | Paused
    | Resumed
    | Continued
    | Moved
    | TaskEnded,
    Field(discriminator="kind"),
]

EVENT: TypeAdapter[Event] = TypeAdapter(Event)
"""Parses and prints any event; raises pydantic's ValidationError on what is not one."""


def without_secrets(event: Event) -> Event:
    """The event without the keys and passwords that this process knows, wherever they came from: an endpoint that
    quotes them in an error, a file that a tool read. Prompts are made of events, so none gets into a prompt either."""
    body = event.model_dump_json()
    hidden = SECRETS.hide_values(body)
    if hidden == body:
        return event
    try:
        return EVENT.validate_json(hidden)
    except ValidationError:  # a password that is one of our own words, `delivered` say: it cannot be told from it
        return event


class Recorded(Frozen):
    """An event where it stands in the journal."""

    task: str
    seq: int
    at: str
    """UTC, ISO 8601 with milliseconds."""
    elapsed: float | None = None
    """Seconds since its worker claimed the task, by a clock that nobody can set; None where no worker wrote it."""
    event: Event
