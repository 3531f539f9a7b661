"""The planner: reads with read-only tools and writes a plan; or, for a model too small for tools, chooses a file."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Any

from pydantic import ValidationError

from nightcrew.agent.conversation import Call, Conversation
from nightcrew.agent.ledger import Ledger
from nightcrew.agent.pictures import picture_parts
from nightcrew.agent.prompts import PLANNER, WRITE_PLAN, planner_task, task_text, with_harness_tool
from nightcrew.agent.toolbox import Toolbox
from nightcrew.agent.toolloop import Refusal, Stuck, tool_loop
from nightcrew.domain import Plan, Step
from nightcrew.errors import ContextOverflow
from nightcrew.events import PlanWritten
from nightcrew.llm.client import ModelClient
from nightcrew_workspaces.workspace import Workspace

MAX_TURNS = 60
_FENCE = re.compile(r"```(?:json)?\s*(\{.*\})\s*```", re.DOTALL)


async def write_plan(
    ledger: Ledger, client: ModelClient, toolbox: Toolbox, workspace: Workspace, *, evidence: str = ""
) -> Plan:
    """Journal and return the next plan revision.

    `evidence` says why the earlier revision was not enough; it is given to the planner where it stopped. A planner that
    goes round in circles gets a one-step plan with the task itself: the executor may still do it.
    """
    record = ledger.record
    assert record.opened is not None
    assert record.checks_before is not None
    revision = len(record.plans) + 1
    conversation = Conversation(ledger, "planner", client, tools=with_harness_tool(toolbox.tools_text, WRITE_PLAN))
    task = task_text(record.request, sees=conversation.sees)
    conversation.open(
        PLANNER,
        planner_task(record.opened.context, task, record.checks_before.results),
        partial(picture_parts, record.request, workspace),
    )
    if evidence and not _evidence_given(conversation, revision):
        conversation.evidence(evidence)
    try:
        call = await tool_loop(
            conversation,
            toolbox,
            workspace,
            ending="write_plan",
            on_end=_refuse_bad_plan,
            max_turns=MAX_TURNS * revision,
        )
        plan = _plan_of(call.arguments, revision) if call else plan_from_text(conversation.final_text(), revision)
    except (Stuck, ContextOverflow) as stuck:
        plan = Plan(
            revision=revision, summary=f"No plan: {str(stuck).rstrip('.')}.", steps=(Step(title=record.request.title),)
        )
    ledger.append(PlanWritten(plan=plan))
    return plan


def _evidence_given(conversation: Conversation, revision: int) -> bool:
    """Whether this revision's evidence stands in the transcript already: one for each revision after the first."""
    given = sum(
        1
        for body in conversation.messages[2:]
        if body["role"] != "assistant" and str(body.get("content", "")).startswith(EVIDENCE_MARK)
    )
    return given >= revision - 1


EVIDENCE_MARK = "The result did not pass."
"""Begins every piece of evidence, so that a restart sees whether it was given."""


async def _refuse_bad_plan(call: Call) -> Refusal | None:
    try:
        _plan_of(call.arguments, 1)
    except ValueError as error:
        return Refusal(f"error[bad_plan]: {error}. Call write_plan again.")
    return None


def _plan_of(arguments: dict[str, Any], revision: int) -> Plan:
    """Raises ValueError with one sentence when it is no plan."""
    steps = arguments.get("steps")
    if not isinstance(steps, list) or not steps:
        raise ValueError("`steps` must be a list with at least one step, each with `title` and `done_when`")
    try:
        return Plan(
            revision=revision,
            summary=str(arguments.get("summary") or ""),
            steps=tuple(_step_of(step) for step in steps),  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        )
    except ValidationError as error:
        problem = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None


def _step_of(step: object) -> Step:
    if isinstance(step, str) and step.strip():
        return Step(title=step)
    if not isinstance(step, dict) or not str(step.get("title") or "").strip():  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        raise ValueError("every step needs a `title`")
    values: dict[str, Any] = {key: step[key] for key in ("title", "done_when", "checks", "files") if step.get(key)}  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    for key in ("checks", "files"):
        if isinstance(values.get(key), str):
            values[key] = (values[key],)
    return Step.model_validate(values)


def plan_from_text(text: str, revision: int) -> Plan:
    """A plan out of a reply without a call: JSON if there is some, else the text is the one step."""
    fenced = _FENCE.search(text)
    for candidate in (fenced.group(1) if fenced else "", text):
        try:
            return _plan_of(json.loads(candidate), revision)
        except (ValueError, AttributeError, RecursionError):
            continue
    return Plan(revision=revision, summary="", steps=(Step(title=text),))
