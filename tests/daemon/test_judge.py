"""The verdict of the checks: what confirms a result, and what does not."""

from __future__ import annotations

from typing import Literal

from nightcrew.agent.judge import judge
from nightcrew.domain import Check, CheckResult


def ran(
    code: int | None,
    *,
    failing: tuple[str, ...] = (),
    passed: int | None = None,
    source: Literal["task", "repository", "plan"] = "repository",
    command: str = "pytest",
    ended: str = "exited",
) -> CheckResult:
    return CheckResult(
        check=Check(command=command, source=source),
        exit_code=code,
        ended=ended,
        output="the output",
        seconds=0.1,
        failing=failing,
        passed_tests=passed,
    )


def test_a_failing_check_that_passes_afterwards_confirms_the_result() -> None:
    assert judge([ran(1, failing=("a",), passed=2)], [ran(0, passed=3)], changed=True).passed


def test_a_model_that_changed_nothing_is_not_believed_even_when_all_checks_pass() -> None:
    verdict = judge([ran(0, passed=3)], [ran(0, passed=3)], changed=False)
    assert not verdict.passed
    assert verdict.reason == "nothing was changed"


def test_a_check_that_passed_before_must_pass() -> None:
    verdict = judge([ran(0, passed=3)], [ran(1, failing=("a",), passed=2)], changed=True)
    assert not verdict.passed
    assert "fails with exit code 1" in verdict.reason
    assert "the output" in verdict.evidence


def test_a_check_that_the_person_named_must_pass_even_if_it_failed_before() -> None:
    verdict = judge([ran(1, source="task")], [ran(1, source="task")], changed=True)
    assert not verdict.passed
    assert "as it did before the task" in verdict.reason


def test_what_failed_already_is_not_the_tasks_fault_when_another_check_confirms() -> None:
    before = [ran(1, command="npm test"), ran(1, failing=("a",), passed=1)]
    after = [ran(1, command="npm test"), ran(0, passed=2)]
    verdict = judge(before, after, changed=True)
    assert verdict.passed
    assert any("`npm test` failed before the task and still fails" in note for note in verdict.notes)


def test_what_failed_already_confirms_nothing_by_itself() -> None:
    verdict = judge([ran(1, failing=("a",), passed=1)], [ran(1, failing=("a",), passed=1)], changed=True)
    assert not verdict.passed
    assert "what failed before still fails" in verdict.reason


def test_fewer_failing_and_more_passing_tests_confirm_although_an_old_failure_stays() -> None:
    before = [ran(1, failing=("mine", "theirs"), passed=5)]
    after = [ran(1, failing=("theirs",), passed=6)]
    assert judge(before, after, changed=True).passed


def test_a_failing_test_that_is_gone_without_another_passing_confirms_nothing() -> None:
    before = [ran(1, failing=("mine", "theirs"), passed=5)]
    after = [ran(1, failing=("theirs",), passed=5)]
    assert not judge(before, after, changed=True).passed


def test_a_newly_failing_test_is_the_tasks_fault_although_the_check_failed_before() -> None:
    verdict = judge([ran(1, failing=("a",), passed=5)], [ran(1, failing=("b",), passed=5)], changed=True)
    assert not verdict.passed
    assert "newly failing tests: b" in verdict.reason


def test_removing_passing_tests_confirms_nothing() -> None:
    verdict = judge([ran(1, failing=("a",), passed=5)], [ran(0, passed=4)], changed=True)
    assert not verdict.passed
    assert "ran fewer passing tests than before (4 of 5)" in verdict.reason


def test_a_test_run_without_tests_confirms_nothing() -> None:
    verdict = judge([ran(1, failing=("a",), passed=0)], [ran(0, passed=0)], changed=True)
    assert not verdict.passed
    assert "ran no test" in verdict.reason


def test_a_plans_check_may_object_but_never_confirm() -> None:
    plan = ran(0, source="plan", command="true")
    assert not judge([], [plan], changed=True).passed
    objection = ran(1, source="plan", command="test -f x")
    assert not judge([ran(0, passed=1)], [ran(0, passed=1), objection], changed=True).passed


def test_without_any_check_nothing_is_verified() -> None:
    verdict = judge([], [], changed=True)
    assert not verdict.passed
    assert "no check of the person or the repository is known" in verdict.reason


def test_a_check_that_timed_out_is_said_to_have_been_stopped() -> None:
    verdict = judge([ran(0)], [ran(None, ended="timeout")], changed=True)
    assert "stopped (timeout)" in verdict.reason


def test_checks_that_all_passed_before_are_said_to_show_only_that_nothing_broke() -> None:
    verdict = judge([ran(0, passed=3)], [ran(0, passed=3)], changed=True)
    assert verdict.passed
    assert any("nothing broke" in note for note in verdict.notes)


def test_a_failing_test_that_was_skipped_or_deleted_confirms_nothing() -> None:
    verdict = judge([ran(1, failing=("a",), passed=2)], [ran(0, passed=2)], changed=True)
    assert not verdict.passed
    assert "removed, skipped or hidden" in verdict.reason


def test_a_run_that_no_longer_says_which_tests_ran_confirms_nothing() -> None:
    verdict = judge([ran(1, failing=("a",), passed=2)], [ran(0)], changed=True)
    assert not verdict.passed
    assert "no longer says which tests ran" in verdict.reason


def test_a_suite_that_now_crashes_is_not_what_failed_already() -> None:
    before = [ran(1, failing=("a",), passed=2), ran(0, command="npm test")]
    after = [ran(139), ran(0, command="npm test")]
    verdict = judge(before, after, changed=True)
    assert not verdict.passed
    assert "no longer says which tests fail" in verdict.reason


def test_a_verdict_names_what_still_fails() -> None:
    before = [ran(1, failing=("mine", "theirs"), passed=5)]
    verdict = judge(before, [ran(1, failing=("theirs",), passed=6)], changed=True)
    assert verdict.passed
    assert "`pytest` still fails as before: theirs" in verdict.reason
