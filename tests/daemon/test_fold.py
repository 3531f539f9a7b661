"""What is known of a task is a fold of its events."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings

from fakes.event_sequences import journals
from nightcrew.domain import Plan, Step, Usage, Verdict
from nightcrew.errors import JournalCorrupt
from nightcrew.events import (
    AttemptEnded,
    AttemptStarted,
    CandidateTried,
    ChecksRan,
    Delivered,
    Event,
    MessageAdded,
    ModelReplied,
    PlanWritten,
    Recorded,
    TaskClaimed,
    TaskEnded,
    TaskSubmitted,
    ToolRan,
    VerdictReached,
    Waiting,
    WorkspaceOpened,
)
from nightcrew.journal.fold import TaskRecord, activity, advance, fold, view
from nightcrew_tools.contract import Outcome, TaskRequest, TaskState, TaskUsage

SUBMITTED = TaskSubmitted(
    request=TaskRequest(title="Fix", text="Fix it", repo="/src", crew="night"), name="fix", origin="cli"
)
OPENED = WorkspaceOpened(
    base_commit="c0", base_ref="main", source_dirty=False, checks=(), crew="local", models={}, context=""
)
PLAN = PlanWritten(plan=Plan(revision=1, summary="s", steps=(Step(title="a"), Step(title="b"))))


def at(second: float) -> str:
    return f"2031-05-04T00:{int(second // 60):02}:{second % 60:06.3f}Z"


def journal(*events: Event, times: list[float] | None = None) -> list[Recorded]:
    times = times or [float(number) for number in range(len(events) + 1)]
    return [
        Recorded(task="t1", seq=seq, at=at(times[seq - 1]), event=event)
        for seq, event in enumerate((SUBMITTED, *events), start=1)
    ]


def folded(*events: Event, times: list[float] | None = None) -> TaskRecord:
    return fold(journal(*events, times=times))


def checks(phase: str, attempt: int) -> ChecksRan:
    return ChecksRan.model_validate({"phase": phase, "attempt": attempt, "commit": "c", "results": ()})


def reply(text: str, *, prompt: int = 10, cached: int = 4) -> ModelReplied:
    usage = Usage(prompt_tokens=prompt, completion_tokens=2, cached_tokens=cached)
    return ModelReplied(conversation="executor", message=text, finish_reason="stop", usage=usage, seconds=1.5)


def tool(text: str, tree: str | None) -> ToolRan:
    return ToolRan(
        conversation="executor", call_id="1", name="edit_file", message=text, is_error=False, tree=tree, seconds=0.1
    )


def candidate(*, passed: bool, tree: str | None = None, tokens: int = 5) -> CandidateTried:
    return CandidateTried(
        attempt=1,
        rung="infill",
        index=0,
        path="a.py",
        line=3,
        passed=passed,
        tree=tree,
        usage=Usage(prompt_tokens=tokens, completion_tokens=tokens),
        seconds=2.0 if tokens else 0.0,
    )


@settings(max_examples=150, deadline=None)
@given(journals())
def test_advancing_event_by_event_gives_the_fold_of_all(events: list[Recorded]):
    record = fold(events[:1])
    for number, recorded in enumerate(events[1:], start=2):
        advance(record, recorded)
        if number % 7 == 0:
            assert record == fold(events[:number])
    assert record == fold(iter(events))
    assert view(record).id == "t1"


@settings(max_examples=50, deadline=None)
@given(journals())
def test_a_fold_keeps_every_message_in_its_conversation_and_order(events: list[Recorded]):
    record = fold(events)
    for name, messages in record.conversations.items():
        said = [r.event for r in events if isinstance(r.event, MessageAdded | ModelReplied | ToolRan)]
        assert messages == [event.message for event in said if event.conversation == name]


def test_a_journal_that_begins_with_another_event_is_corrupt():
    with pytest.raises(JournalCorrupt, match="task_claimed"):
        fold([Recorded(task="t1", seq=1, at=at(0), event=TaskClaimed(worker="w"))])
    with pytest.raises(JournalCorrupt, match="no events"):
        fold([])


def test_a_missing_or_foreign_or_second_first_event_is_corrupt_and_leaves_the_record_alone():
    record = folded(TaskClaimed(worker="w"))
    before = copy.deepcopy(record)
    wrong = [
        Recorded(task="t1", seq=4, at=at(9), event=OPENED),
        Recorded(task="t1", seq=2, at=at(9), event=OPENED),
        Recorded(task="t2", seq=3, at=at(9), event=OPENED),
        Recorded(task="t1", seq=3, at=at(9), event=SUBMITTED),
    ]
    for recorded in wrong:
        with pytest.raises(JournalCorrupt):
            advance(record, recorded)
    assert record == before


def test_a_fresh_task_is_queued_and_shows_what_was_asked():
    shown = view(folded(), report_path="/out/fix.report.md")
    assert (shown.state, shown.title, shown.crew, shown.name) == (TaskState.QUEUED, "Fix", "night", "fix")
    assert (shown.activity, shown.outcome, shown.exit_code, shown.report_path) == ("", None, None, "/out/fix.report.md")
    assert shown.submitted_at == at(0)


def test_the_queue_knows_better_than_the_events_whether_a_task_runs():
    record = folded(TaskClaimed(worker="w"))
    assert view(record).state is TaskState.RUNNING
    requeued = view(record, state=TaskState.QUEUED)
    assert (requeued.state, requeued.activity) == (TaskState.QUEUED, "")


def test_the_tree_is_the_last_one_that_an_event_names():
    assert folded(tool("a", "t1"), tool("b", None)).tree == "t1"
    assert folded(tool("a", "t1"), candidate(passed=True, tree="t2")).tree == "t2"
    assert folded(tool("a", "t1"), candidate(passed=False, tree="t2")).tree == "t1"
    assert folded(tool("a", "t1"), AttemptEnded(number=1, claim="", tree="t3")).tree == "t3"
    assert folded().tree is None


def test_messages_of_all_writers_stand_in_their_conversation_as_they_are():
    record = folded(
        MessageAdded(conversation="executor", message='{"role":"user"}'),
        reply('{"role":"assistant"}'),
        tool('{"role":"tool"}', None),
        MessageAdded(conversation="planner", message="p"),
    )
    assert record.conversations == {
        "executor": ['{"role":"user"}', '{"role":"assistant"}', '{"role":"tool"}'],
        "planner": ["p"],
    }
    assert [answer.message for answer in record.replies["executor"]] == ['{"role":"assistant"}']
    assert [ran.name for ran in record.tools_run] == ["edit_file"]


def test_usage_sums_replies_and_those_candidates_that_cost_something():
    record = folded(reply("a"), reply("b"), candidate(passed=False), candidate(passed=False, tokens=0))
    assert record.usage == TaskUsage(
        requests=3, prompt_tokens=25, completion_tokens=9, cached_tokens=8, model_seconds=5.0
    )


def test_active_time_leaves_out_queue_and_downtime():
    record = folded(
        TaskClaimed(worker="a"),
        OPENED,
        TaskClaimed(worker="b"),
        PLAN,
        Waiting(reason="r"),
        times=[0, 10, 40, 60, 65, 70],
    )
    assert record.active_seconds == pytest.approx(30 + 10)
    assert (record.worker, record.claims, record.started_at) == ("b", 2, at(10))


def test_a_clock_that_was_set_back_gives_no_time_back():
    record = folded(TaskClaimed(worker="a"), OPENED, PLAN, TaskClaimed(worker="b"), PLAN, times=[0, 10, 40, 20, 5, 3])
    assert record.active_seconds == pytest.approx(30)


def test_a_cancel_long_after_the_worker_died_counts_as_no_work():
    ended = TaskEnded(outcome=Outcome.CANCELLED, reason="no more")
    record = folded(TaskClaimed(worker="a"), OPENED, ended, times=[0, 10, 20, 3000])
    assert record.active_seconds == pytest.approx(10)
    assert record.ended_at == at(3000)


def test_waiting_lasts_until_anything_follows():
    record = folded(TaskClaimed(worker="w"), Waiting(reason="no endpoint"))
    assert (record.waiting, activity(record)) == ("no endpoint", "waiting: no endpoint")
    advance(record, Recorded(task="t1", seq=4, at=at(9), event=TaskClaimed(worker="w")))
    assert record.waiting == ""


def test_the_step_in_hand_is_the_one_after_the_last_that_was_accepted():
    def finished(conversation: str, *, refused: bool) -> ToolRan:
        return tool("m", None).model_copy(
            update={"conversation": conversation, "name": "finish_step", "is_error": refused}
        )

    record = folded(TaskClaimed(worker="w"), OPENED, PLAN, AttemptStarted(number=1, revision=1))
    for seq, (ran, shown) in enumerate(
        [
            (finished("executor/1", refused=True), "step 1 of 2"),
            (finished("executor/0", refused=False), "step 1 of 2"),
            (finished("executor/1", refused=False), "step 2 of 2"),
            (finished("executor/1", refused=False), "step 2 of 2"),
        ],
        start=record.seq + 1,
    ):
        advance(record, Recorded(task="t1", seq=seq, at=at(seq), event=ran))
        assert shown in activity(record)


def test_the_activity_follows_the_way_of_the_task():
    passed = VerdictReached(attempt=2, commit="c", verdict=Verdict(passed=True, reason="ok"))
    failed = VerdictReached(attempt=1, commit="c", verdict=Verdict(passed=False, reason="no"))
    way: list[tuple[Event, str]] = [
        (TaskClaimed(worker="w"), "cloning the repository"),
        (OPENED, "running the checks before the change"),
        (checks("before", 0), "planning"),
        (PLAN, "planning"),
        (AttemptStarted(number=1, revision=1), "editing: step 1 of 2 (attempt 1)"),
        (candidate(passed=False), "trying repairs: infill, 1 so far (attempt 1)"),
        (AttemptEnded(number=1, claim="done", tree="t"), "checking the result (attempt 1)"),
        (checks("after", 1), "judging the result (attempt 1)"),
        (failed, "preparing attempt 2"),
        (AttemptStarted(number=2, revision=1), "editing: step 1 of 2 (attempt 2)"),
        (AttemptEnded(number=2, claim="done", tree="t"), "checking the result (attempt 2)"),
        (passed, "delivering"),
        (Delivered(branch="nightcrew/t1-fix", commit="c1", patch="fix.patch"), "writing the report"),
        (TaskEnded(outcome=Outcome.DELIVERED, reason="verified"), ""),
    ]
    assert activity(folded()) == ""
    for length in range(1, len(way) + 1):
        events = [event for event, _ in way[:length]]
        assert activity(folded(*events)) == way[length - 1][1]
    shown = view(folded(*[event for event, _ in way]))
    assert (shown.state, shown.outcome, shown.exit_code) == (TaskState.ENDED, Outcome.DELIVERED, 0)
    assert (shown.branch, shown.commit, shown.attempts, shown.reason) == ("nightcrew/t1-fix", "c1", 2, "verified")
