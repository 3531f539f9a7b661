"""Task records made from events, for tests of what is built on them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from nightcrew.domain import Check, CheckResult, Plan, Step, Usage, Verdict
from nightcrew.events import (
    AttemptEnded,
    AttemptStarted,
    CandidateTried,
    ChecksRan,
    Delivered,
    Event,
    ModelReplied,
    PlanWritten,
    Recorded,
    TaskClaimed,
    TaskEnded,
    TaskSubmitted,
    ToolRan,
    VerdictReached,
    WorkspaceOpened,
)
from nightcrew.journal.fold import TaskRecord, fold
from nightcrew_tools.contract import Outcome, TaskRequest

START = datetime(2026, 11, 1, 22, 0, 0, tzinfo=UTC)

PATCH = """\
diff --git a/cart.py b/cart.py
index 1111111..2222222 100644
--- a/cart.py
+++ b/cart.py
@@ -1,2 +1,2 @@
 def total(prices):
-    return sum(prices) - 1
+    return sum(prices)
diff --git a/tests/test_cart.py b/tests/test_cart.py
index 3333333..4444444 100644
--- a/tests/test_cart.py
+++ b/tests/test_cart.py
@@ -3,0 +4,2 @@ def test_total():
+def test_empty():
+    assert total([]) == 0
"""


def recorded(*events: Event, task: str = "k3v9q2", step: float = 2.0) -> list[Recorded]:
    """The events as a journal holds them, one every `step` seconds."""
    return [
        Recorded(
            task=task,
            seq=index + 1,
            at=(START + timedelta(seconds=step * index)).isoformat(timespec="milliseconds"),
            event=event,
        )
        for index, event in enumerate(events)
    ]


def record_of(*events: Event) -> TaskRecord:
    return fold(recorded(*events))


def submitted(**changes: object) -> TaskSubmitted:
    values: dict[str, object] = {
        "title": "Fix the total",
        "text": "# Fix the total\n\nIt is off by one.",
        "repo": "/srv/shop",
    }
    return TaskSubmitted(request=TaskRequest(**(values | changes)), name="fix-the-total", origin="inbox:fix.md")


def opened(**changes: object) -> WorkspaceOpened:
    values: dict[str, object] = {
        "base_commit": "0123456789abcdef0123456789abcdef01234567",
        "base_ref": "main",
        "source_dirty": False,
        "checks": (CHECK,),
        "crew": "local",
        "models": {"planner": "qwen3 @ http://127.0.0.1:30000/v1", "executor": "devstral @ http://127.0.0.1:30001/v1"},
        "context": "",
    }
    return WorkspaceOpened(**(values | changes))


CHECK = Check(command="python3 -m pytest -q", source="repository")


def checks(phase: str, *, ok: bool, attempt: int = 0, output: str | None = None) -> ChecksRan:
    said = output if output is not None else ("2 passed in 0.01s" if ok else "E   assert 5 == 6\n1 failed, 1 passed")
    result = CheckResult(
        check=CHECK,
        exit_code=0 if ok else 1,
        ended="exited",
        output=said,
        seconds=0.5,
        failing=() if ok else ("tests/test_cart.py::test_total",),
        passed_tests=2 if ok else 1,
    )
    return ChecksRan(phase=phase, attempt=attempt, commit="c" * 40, results=(result,))


PLAN = Plan(
    revision=1,
    summary="Stop subtracting one.",
    steps=(
        Step(title="Return the plain sum", done_when="the tests pass", checks=(CHECK.command,), files=("cart.py",)),
    ),
)


def replied(conversation: str = "executor") -> ModelReplied:
    return ModelReplied(
        conversation=conversation,
        message='{"role":"assistant","content":"ok"}',
        finish_reason="stop",
        usage=Usage(prompt_tokens=1000, completion_tokens=50, cached_tokens=900),
        seconds=1.25,
    )


def delivered_events() -> list[Event]:
    """A task that failed once, passed then, and was delivered."""
    return [
        submitted(),
        TaskClaimed(worker="w1"),
        opened(source_dirty=True),
        checks("before", ok=False),
        replied("planner"),
        PlanWritten(plan=PLAN),
        AttemptStarted(number=1, revision=1),
        replied(),
        ToolRan(
            conversation="executor",
            call_id="1",
            name="edit_file",
            message='{"role":"tool","content":"edited"}',
            is_error=False,
            tree="t1",
            seconds=0.05,
        ),
        AttemptEnded(number=1, claim="I fixed it.", tree="t1"),
        checks("after", ok=False, attempt=1),
        VerdictReached(
            attempt=1,
            commit="d" * 40,
            verdict=Verdict(passed=False, reason="a check fails", evidence="E   assert 5 == 6"),
        ),
        AttemptStarted(number=2, revision=1),
        replied(),
        AttemptEnded(number=2, claim="The sum is plain now, and I added a test.", tree="t2"),
        checks("after", ok=True, attempt=2),
        VerdictReached(
            attempt=2,
            commit="e" * 40,
            verdict=Verdict(passed=True, reason="all checks pass", notes=("The docstring is still old.",)),
        ),
        Delivered(branch="nightcrew/k3v9q2-fix-the-total", commit="e" * 40, patch=""),
        TaskEnded(outcome=Outcome.DELIVERED, reason="all checks pass on a clean checkout"),
    ]


def lied_events() -> list[Event]:
    """A model that changed nothing and said it had."""
    return [
        submitted(),
        TaskClaimed(worker="w1"),
        opened(),
        checks("before", ok=False),
        PlanWritten(plan=PLAN),
        AttemptStarted(number=1, revision=1),
        replied(),
        AttemptEnded(number=1, claim="Done, all tests pass!", tree="t0"),
        VerdictReached(attempt=1, commit="", verdict=Verdict(passed=False, reason="nothing was changed")),
        TaskEnded(outcome=Outcome.UNVERIFIED, reason="1 attempt, none confirmed: nothing was changed"),
    ]


def candidate(*, passed: bool, index: int = 0, rung: str = "infill") -> CandidateTried:
    return CandidateTried(
        attempt=1,
        rung=rung,
        index=index,
        path="cart.py",
        line=2,
        passed=passed,
        tree="t1" if passed else None,
        usage=Usage(prompt_tokens=100, completion_tokens=12),
        seconds=0.6,
    )
