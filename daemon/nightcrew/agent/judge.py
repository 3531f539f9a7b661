"""Whether a result is confirmed by its checks: pure, and never by what a model says of itself.

Rules, in order:
1. A result without a change confirms nothing.
2. A check that the person named must pass. One that failed before and still fails is shown as such.
3. A check that passed before must pass: that much is the task's fault.
4. A check of the repository that failed before may still fail only when no test fails that did not fail before; it then
   confirms nothing unless fewer tests fail and more pass.
5. A check of the plan may object, never confirm: the model wrote it.
6. Fewer passing tests than before confirm nothing, nor do failing ones that are gone instead of passing, nor a run
   that no longer says which tests it ran: tests were removed, skipped or hidden.
7. At least one check of the person or the repository must confirm.
"""

from __future__ import annotations

from collections.abc import Sequence

from nightcrew.agent.prompts import clip, describe_failure
from nightcrew.domain import CheckResult, Verdict


def judge(before: Sequence[CheckResult], after: Sequence[CheckResult], *, changed: bool) -> Verdict:
    """The verdict of the checks on a clean checkout of the result. Results are matched by their command."""
    if not changed:
        return Verdict(
            passed=False,
            reason="nothing was changed",
            evidence="Nothing in the repository differs from the start: no file was changed. "
            "Make the change, then call finish_step.",
        )
    was = {result.check.command: result for result in before}
    objections: list[tuple[CheckResult, str]] = []
    notes: list[str] = []
    confirmed = False
    for result in after:
        earlier = was.get(result.check.command)
        fault = _fault(earlier, result)
        if fault:
            objections.append((result, fault))
            continue
        confirmed = confirmed or _confirms(earlier, result)
        if not result.ok:
            notes.append(f"`{result.check.command}` failed before the task and still fails, with no new failing test")
    if objections:
        return Verdict(
            passed=False,
            reason="; ".join(f"`{result.check.command}` {fault}" for result, fault in objections),
            evidence="\n\n".join(_evidence(result, fault) for result, fault in objections),
            notes=tuple(notes),
        )
    if not confirmed:
        return Verdict(
            passed=False, reason=_nothing_confirms(after), evidence=_still_failing(after), notes=tuple(notes)
        )
    if not _anything_new(was, after):
        notes.append("every check passed before the task too: they show that nothing broke, not that the task is done")
    return Verdict(passed=True, reason=_confirmation(after), notes=tuple(notes))


def _confirmation(after: Sequence[CheckResult]) -> str:
    still = [result for result in after if not result.ok]
    if not still:
        return "the checks pass on a clean checkout of the result"
    names = ", ".join(test for result in still for test in result.failing[:5])
    commands = ", ".join(f"`{result.check.command}`" for result in still)
    return (
        "on a clean checkout of the result nothing fails that did not fail before; "
        f"{commands} still fails as before{f': {names}' if names else ''}"
    )


def _anything_new(was: dict[str, CheckResult], after: Sequence[CheckResult]) -> bool:
    """Whether some check says more than it said before: it failed, or it runs more passing tests."""
    for result in after:
        before = was.get(result.check.command)
        if result.check.source == "plan" or before is None:
            continue
        if not before.ok or (result.passed_tests or 0) > (before.passed_tests or 0):
            return True
    return False


def _fault(before: CheckResult | None, after: CheckResult) -> str:
    """What is wrong with a check's result, in words that follow its name; empty when nothing is."""
    if after.ok:
        if after.passed_tests == 0 and not (before and before.ok and before.passed_tests == 0):
            return "ran no test"
        return _lost_tests(before, after)
    if before is None or before.ok or after.check.source != "repository":
        still = " as it did before the task" if before is not None and not before.ok else ""
        return describe_failure(after) + still
    if before.failing and not after.failing:
        return f"{describe_failure(after)} and no longer says which tests fail"
    new = sorted(set(after.failing) - set(before.failing))
    if new:
        return f"has newly failing tests: {', '.join(new[:5])}"
    if _fewer_tests(before, after) and len(after.failing) >= len(before.failing):
        return _fewer(before, after)
    return ""


def _lost_tests(before: CheckResult | None, after: CheckResult) -> str:
    """What speaks against a check that passes now: removing, skipping or hiding a failing test repairs nothing."""
    if before is None or before.passed_tests is None:
        return ""
    if after.passed_tests is None:
        return "no longer says which tests ran"
    if _fewer_tests(before, after):
        return _fewer(before, after)
    if after.passed_tests < before.passed_tests + len(before.failing):
        was = f"{before.passed_tests} passed and {len(before.failing)} failed before"
        return f"has {after.passed_tests} passing tests where {was}: a failing test was removed, skipped or hidden"
    return ""


def _fewer(before: CheckResult | None, after: CheckResult) -> str:
    return f"ran fewer passing tests than before ({after.passed_tests} of {before and before.passed_tests})"


def _fewer_tests(before: CheckResult | None, after: CheckResult) -> bool:
    if before is None or before.passed_tests is None or after.passed_tests is None:
        return False
    return after.passed_tests < before.passed_tests


def _confirms(before: CheckResult | None, after: CheckResult) -> bool:
    if after.check.source == "plan":
        return False
    if after.ok:
        return after.passed_tests != 0
    if before is None or before.ok or not before.failing or not after.failing:
        return False
    fewer_fail = set(after.failing) < set(before.failing)
    return fewer_fail and (after.passed_tests or 0) > (before.passed_tests or 0)


def _nothing_confirms(after: Sequence[CheckResult]) -> str:
    if not any(result.check.source != "plan" for result in after):
        return "no check of the person or the repository is known, so nothing could confirm the result"
    return "no check confirms the result: what failed before still fails"


def _still_failing(after: Sequence[CheckResult]) -> str:
    failing = [_evidence(result, describe_failure(result)) for result in after if not result.ok]
    return "\n\n".join(failing) or "No check is known that could confirm the change."


def _evidence(result: CheckResult, fault: str) -> str:
    return f"`{result.check.command}` {fault}:\n{clip(result.output, 3000)}"
