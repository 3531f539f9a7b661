"""Random but well-formed journals, for property tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from nightcrew.domain import Check, CheckResult, HostUse, Plan, Step, Usage, Verdict
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
    NetworkUsed,
    Paused,
    PlanWritten,
    Recorded,
    Resumed,
    TaskClaimed,
    TaskEnded,
    TaskSubmitted,
    ToolRan,
    ToolStarted,
    VerdictReached,
    Waiting,
    WorkspaceOpened,
)
from nightcrew_tools.contract import Concern, Outcome, TaskRequest

_text = st.text(max_size=12)
_number = st.integers(0, 3)
_seconds = st.floats(0, 1e6)
_tree = st.one_of(st.none(), st.sampled_from(["a" * 40, "b" * 40]))
_conversation = st.sampled_from(["planner", "executor-1", "executor-2"])
_usage = st.builds(Usage, prompt_tokens=_number, completion_tokens=_number, cached_tokens=_number)
_check = st.builds(Check, command=_text, source=st.sampled_from(["task", "repository", "plan"]))
_result = st.builds(
    CheckResult,
    check=_check,
    exit_code=st.one_of(st.none(), _number),
    ended=st.sampled_from(["exited", "timeout"]),
    output=_text,
    seconds=_seconds,
    failing=st.lists(_text, max_size=2).map(tuple),
)
_plan = st.builds(
    Plan, revision=_number, summary=_text, steps=st.lists(st.builds(Step, title=_text), max_size=2).map(tuple)
)
_verdict = st.builds(Verdict, passed=st.booleans(), reason=_text)

LATER_EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(TaskClaimed, worker=_text),
    st.builds(
        WorkspaceOpened,
        base_commit=_text,
        base_ref=_text,
        source_dirty=st.booleans(),
        checks=st.lists(_check, max_size=2).map(tuple),
        crew=_text,
        models=st.dictionaries(_text, _text, max_size=2),
        context=_text,
    ),
    st.builds(
        ChecksRan,
        phase=st.sampled_from(["before", "after"]),
        attempt=_number,
        commit=_text,
        results=st.lists(_result, max_size=2).map(tuple),
    ),
    st.builds(
        NetworkUsed,
        during=st.sampled_from(["setup", "loop"]),
        hosts=st.lists(
            st.builds(HostUse, host=_text, port=_number, allowed=st.booleans(), why=_text, sent=_number), max_size=2
        ).map(tuple),
    ),
    st.builds(
        ConversationOpened,
        conversation=_conversation,
        tools=st.one_of(st.none(), st.text()),
        shape=st.dictionaries(_text, st.booleans(), max_size=2),
    ),
    st.builds(MessageAdded, conversation=_conversation, message=st.text()),
    st.builds(
        ModelReplied,
        conversation=_conversation,
        message=st.text(),
        finish_reason=_text,
        usage=_usage,
        seconds=_seconds,
    ),
    st.builds(ToolStarted, conversation=_conversation, call_id=_text, name=_text),
    st.builds(
        ToolRan,
        conversation=_conversation,
        call_id=_text,
        name=_text,
        message=st.text(),
        is_error=st.booleans(),
        tree=_tree,
        seconds=_seconds,
    ),
    st.builds(PlanWritten, plan=_plan),
    st.builds(AttemptStarted, number=_number, revision=_number),
    st.builds(
        CandidateTried,
        attempt=_number,
        rung=st.sampled_from(["infill", "rewrite", "explain"]),
        index=_number,
        path=_text,
        line=st.one_of(st.none(), _number),
        passed=st.booleans(),
        tree=_tree,
        usage=_usage,
        seconds=_seconds,
    ),
    st.builds(AttemptEnded, number=_number, claim=_text, tree=st.sampled_from(["c" * 40, "d" * 40])),
    st.builds(VerdictReached, attempt=_number, commit=_text, verdict=_verdict),
    st.builds(
        ApprovalAsked,
        attempt=_number,
        commit=_text,
        concerns=st.lists(st.builds(Concern, path=_text, why=_text), min_size=1, max_size=3).map(tuple),
        problem=_text,
    ),
    st.builds(Decided, approved=st.booleans(), by=_text, door=_text, why=_text),
    st.builds(Delivered, branch=st.one_of(st.none(), _text), commit=st.one_of(st.none(), _text), patch=_text),
    st.builds(Waiting, reason=_text),
    st.builds(Paused, by=_text, queue=st.booleans()),
    st.builds(Resumed, by=_text),
    st.builds(Continued, task=_text, step=_number, tree=_tree),
)
"""Any event that may stand between the first and the last."""

SUBMITTED = st.builds(
    TaskSubmitted,
    request=st.builds(TaskRequest, title=_text, text=st.text(), repo=_text, base=st.one_of(st.none(), _text)),
    name=st.just("fix"),
    origin=_text,
)

_ENDED = st.builds(TaskEnded, outcome=st.sampled_from(Outcome), reason=_text)

_START = datetime(2031, 5, 4, tzinfo=UTC)


@st.composite
def journals(draw: st.DrawFn) -> list[Recorded]:
    """One task's events; the wall clock may be set back at times."""
    events: list[Event] = [draw(SUBMITTED), *draw(st.lists(LATER_EVENTS, max_size=20))]
    if draw(st.booleans()):
        events.append(draw(_ENDED))
    moment = _START
    recorded: list[Recorded] = []
    for seq, event in enumerate(events, start=1):
        moment += timedelta(seconds=draw(st.integers(-5, 100)))
        at = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        recorded.append(Recorded(task="t1", seq=seq, at=at, event=event))
    return recorded
