"""The verifier: runs the checks on a clean checkout of what would be delivered, and only then asks a model."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from functools import partial
from typing import Any

from nightcrew.agent.checks import run_check, run_checks
from nightcrew.agent.conversation import Conversation
from nightcrew.agent.judge import judge
from nightcrew.agent.ledger import Ledger
from nightcrew.agent.pictures import picture_parts
from nightcrew.agent.prompts import VERIFIER, clip, task_text
from nightcrew.agent.suspects import is_test
from nightcrew.agent.wayout import WayOut
from nightcrew.domain import Check, CheckResult, Verdict
from nightcrew.errors import ContextOverflow, EndpointRefused
from nightcrew.events import ChecksRan, VerdictReached
from nightcrew.llm.client import ModelClient
from nightcrew_workspaces.errors import HarvestRefused
from nightcrew_workspaces.harvest import Harvest
from nightcrew_workspaces.workspace import Workspace

_ANSWER: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "verdict",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"reason": {"type": "string"}, "passes": {"type": "boolean"}},
            "required": ["reason", "passes"],
            "additionalProperties": False,
        },
    },
}


async def check_before(ledger: Ledger, workspace: Workspace, way_out: WayOut, *, seconds: float) -> None:
    """Run the checks on a clean checkout of the base: what fails here is not the task's fault."""
    record = ledger.record
    assert record.opened is not None
    results = await _in_clean_room(
        ledger, workspace, way_out, workspace.base_commit, record.opened.checks, seconds=seconds
    )
    ledger.append(ChecksRan(phase="before", attempt=0, commit=workspace.base_commit, results=results))


async def verify(
    ledger: Ledger,
    workspace: Workspace,
    way_out: WayOut,
    attempt: int,
    *,
    judge_client: ModelClient | None,
    seconds: float,
) -> Harvest | None:
    """Commit the attempt, take it out of the box, check it, and journal the verdict.

    Returns what was harvested, None when there was nothing to harvest or it was refused.
    """
    record = ledger.record
    assert record.checks_before is not None
    try:
        harvest = await _take_out(ledger, workspace)
    except HarvestRefused as refused:
        reason = f"the result may not leave the box: {refused}"
        _conclude(ledger, attempt, "", Verdict(passed=False, reason=reason, evidence=reason))
        return None
    if harvest is None:
        _conclude(ledger, attempt, "", judge(record.checks_before.results, (), changed=False))
        return None
    commit = harvest.commit
    ran = record.checks_after.get(attempt)
    if ran is None or ran.commit != commit:
        results = await _in_clean_room(ledger, workspace, way_out, commit, _checks(ledger), seconds=seconds)
        ledger.append(ChecksRan(phase="after", attempt=attempt, commit=commit, results=results))
    verdict = judge(record.checks_before.results, record.checks_after[attempt].results, changed=True)
    if verdict.passed:
        verdict = await _with_the_tests_as_they_were(ledger, workspace, way_out, harvest, verdict, seconds=seconds)
    if verdict.passed and judge_client is not None:
        verdict = await _ask(ledger, judge_client, workspace, attempt, harvest.patch, verdict)
    _conclude(ledger, attempt, commit, verdict)
    return harvest


async def _with_the_tests_as_they_were(
    ledger: Ledger, workspace: Workspace, way_out: WayOut, harvest: Harvest, verdict: Verdict, *, seconds: float
) -> Verdict:
    """A failing test is not repaired by rewriting it: what failed before is run again with the old tests put back.

    Only where the result changes or removes tests, and only for checks that failed before with failing tests named.
    """
    before = ledger.record.checks_before
    assert before is not None
    failed = [result for result in before.results if not result.ok and result.failing]
    touched = [file.old_path or file.path for file in harvest.files if file.status != "A"]
    tests = [path for path in touched if is_test(path)]
    if not failed or not tests:
        return verdict
    checks = [result.check for result in failed]
    paths = (f":(literal){path}" for path in tests)
    put_back = shlex.join(["git", "checkout", "--quiet", workspace.base_commit, "--", *paths])
    again = await _in_clean_room(ledger, workspace, way_out, harvest.commit, checks, seconds=seconds, first=put_back)
    was = {result.check.command: set(result.failing) for result in failed}
    still = [
        result for result in again if not result.ok and was.get(result.check.command, set()) <= set(result.failing)
    ]
    if not still:
        return verdict
    reason = f"the failing tests pass only because tests were changed ({', '.join(tests[:5])})"
    evidence = "\n\n".join(clip(result.output, 3000) for result in still)
    return Verdict(
        passed=False,
        reason=reason,
        evidence=f"{reason}. With the tests as they were:\n{evidence}\nPut the tests back and repair the code.",
        notes=verdict.notes,
    )


async def _in_clean_room(
    ledger: Ledger,
    workspace: Workspace,
    way_out: WayOut,
    commit: str,
    checks: Sequence[Check],
    *,
    seconds: float,
    first: str = "",
) -> tuple[CheckResult, ...]:
    """Set a clean checkout up, with the task's network if it has one, then run the checks in it without any."""
    async with workspace.clean_room(commit, home=bool(ledger.record.request.setup)) as box:
        if first:
            result = await run_check(box, Check(command=first, source="task"), seconds=seconds)
            if not result.ok:
                return (result,)
        failed = await way_out.set_up(workspace, box)
        return (failed,) if failed is not None else await run_checks(box, checks, seconds=seconds)


async def _take_out(ledger: Ledger, workspace: Workspace) -> Harvest | None:
    """The result as commits that were checked; None when nothing was changed. Raises `HarvestRefused`.

    What is wrong may stand only in a commit that the model made on its way: then one commit of the result is tried.
    """
    # The commit of an attempt that was rejected has no place in what is delivered.
    rejected = any(reached.commit for reached in ledger.record.verdicts.values())
    commit = await workspace.commit(_commit_message(ledger), squash=rejected)
    if commit is None:
        return None
    try:
        return await workspace.harvest(commit)
    except HarvestRefused:
        if rejected:
            raise
        squashed = await workspace.commit(_commit_message(ledger), squash=True)
        if squashed in (None, commit):
            raise
        return await workspace.harvest(squashed)


def _conclude(ledger: Ledger, attempt: int, commit: str, verdict: Verdict) -> None:
    ledger.append(VerdictReached(attempt=attempt, commit=commit, verdict=verdict))


def _checks(ledger: Ledger) -> list[Check]:
    """The known checks, then those of the newest plan that are not among them."""
    opened = ledger.record.opened
    assert opened is not None
    checks = list(opened.checks)
    known = {check.command for check in checks}
    steps = ledger.record.plans[-1].steps if ledger.record.plans else ()
    for command in (command for step in steps for command in step.checks):
        if command not in known:
            known.add(command)
            checks.append(Check(command=command, source="plan"))
    return checks


def _commit_message(ledger: Ledger) -> str:
    record = ledger.record
    claim = next((ended.claim for _, ended in sorted(record.ended_attempts.items(), reverse=True) if ended.claim), "")
    body = f"\n\n{clip(claim, 2000)}" if claim else ""
    return f"{clip(record.request.title, 100)}{body}\n\nNightcrew-Task: {record.id}\n"


async def _ask(
    ledger: Ledger, client: ModelClient, workspace: Workspace, attempt: int, patch: str, verdict: Verdict
) -> Verdict:
    """A model's second opinion. It may object; an answer that cannot be read, or none, leaves the checks' verdict."""
    conversation = Conversation(ledger, f"verifier/{attempt}", client)
    task = task_text(ledger.record.request, sees=conversation.sees, reads=False)
    pictures = partial(picture_parts, ledger.record.request, workspace)
    conversation.open(VERIFIER, f"# Task\n{task}\n\n# Diff\n```diff\n{clip(patch, 40_000)}\n```", pictures)
    try:
        if conversation.is_models_turn:
            await conversation.ask(response_format=_ANSWER)
        opinion: object = json.loads(_json_part(conversation.final_text()))
    except (ValueError, RecursionError, EndpointRefused, ContextOverflow) as error:
        return verdict.model_copy(update={"notes": (*verdict.notes, f"the verifier gave no usable opinion: {error}")})
    if not isinstance(opinion, dict) or opinion.get("passes") is not False:  # pyright: ignore[reportUnknownMemberType]
        return verdict
    reason = clip(str(opinion.get("reason") or "no reason given"), 1000)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    return Verdict(passed=False, reason=f"the verifier objects: {reason}", evidence=reason, notes=verdict.notes)


def _json_part(text: str) -> str:
    return text[text.find("{") : text.rfind("}") + 1]
