"""A task once more: with the same request, or from where a step of it began. Pure."""

from __future__ import annotations

from nightcrew.errors import NotPossible
from nightcrew.events import Continued, Event, PlanWritten
from nightcrew.journal.fold import TaskRecord
from nightcrew_tools.contract import TaskRequest


def request_of_retry(old: TaskRecord) -> TaskRequest:
    """The same request, of a task of its own: it waits for no others and has no id of a person's."""
    return old.request.model_copy(update={"id": None, "after": (), "schedule": None})


def events_of_retry(old: TaskRecord, step: int | None) -> list[Event]:
    """What the new task knows from the beginning: nothing, or all that was known when the step began.

    Raises `NotPossible`, which says why.
    """
    if old.ended is None:
        raise NotPossible(f"task {old.id} has not ended: cancel it first, or wait")
    if step is None:
        return []
    if old.opened is None or old.checks_before is None or not old.plans:
        raise NotPossible(f"task {old.id} ended before it had a plan: retry it without a step")
    plan = old.plans[-1]
    reached = steps_begun(old)
    if not 1 <= step <= len(reached):
        raise NotPossible(
            f"task {old.id}: its plan has {len(plan.steps)} steps, of which {len(reached)} began; "
            f"there is no step {step} to go on from"
        )
    done = "; ".join(one.title for one in plan.steps[: step - 1])
    summary = f"{plan.summary} Done already: {done}." if done else plan.summary
    remaining = plan.model_copy(update={"revision": 1, "summary": summary, "steps": plan.steps[step - 1 :]})
    began = Continued(task=old.id, step=step, tree=reached[step - 1])
    return [old.opened, old.checks_before, PlanWritten(plan=remaining), began]


def steps_begun(record: TaskRecord) -> list[str | None]:
    """The tree in which each step of the newest plan began; None for the base's."""
    conversation = f"executor/{record.plans[-1].revision}"
    first = next((place for place, ran in enumerate(record.tools_run) if ran.conversation == conversation), None)
    before = record.tools_run[:first] if first is not None else record.tools_run
    tree = next((ran.tree for ran in reversed(before) if ran.tree), None)
    if record.continued is not None and tree is None:
        tree = record.continued.tree
    trees = [tree]
    for ran in record.tools_run[first:] if first is not None else ():
        tree = ran.tree or tree
        if ran.conversation == conversation and ran.name == "finish_step" and not ran.is_error:
            trees.append(tree)
    return trees[: len(record.plans[-1].steps)]
