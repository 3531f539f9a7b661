"""The result files of a task: a report for people, one for programs, and the patch."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nightcrew.delivery.findings import attention, final_attempt, final_checks, rungs, times, verified
from nightcrew.delivery.patches import changed_files
from nightcrew.delivery.report import exit_code, public_model, report_markdown
from nightcrew.delivery.writing import sync_folder, write_atomically
from nightcrew.domain import CheckResult, HostUse, Plan
from nightcrew.events import ChecksRan, Event, Recorded
from nightcrew.journal.fold import TaskRecord, advance, reason
from nightcrew.secrecy import SECRETS
from nightcrew_tools.contract import Concern, Frozen, Outcome, TaskRequest, TaskUsage

__all__ = [
    "Report",
    "ResultPaths",
    "as_after",
    "report_json",
    "report_markdown",
    "result_paths",
    "tells",
    "write_results",
]

SCHEMA_VERSION = 1


class PatchFile(Frozen):
    """One file of the patch. Line counts are null for a binary file."""

    path: str
    status: Literal["added", "deleted", "modified", "renamed"]
    added: int | None
    removed: int | None


class CheckReport(Frozen):
    """One check on one clean checkout."""

    command: str
    source: Literal["task", "repository", "plan"]
    ok: bool
    exit_code: int | None
    """Null when the command did not end by itself; `ended` says how."""
    ended: str
    limit: str
    """The limit that it ran into, in words; empty when it ran into none."""
    seconds: float
    failing: tuple[str, ...]
    passed_tests: int | None
    output: str


class AttemptReport(Frozen):
    """One try of the executor, and what became of it."""

    number: int
    plan_revision: int
    claim: str
    """What the model says it did. Never believed."""
    stuck: str
    passed: bool | None
    """Null when it never came to a verdict."""
    reason: str
    evidence: str
    notes: tuple[str, ...]
    candidates: dict[str, dict[str, int]]
    """Rung of the repair ladder to `tried` and `passed`."""


class Decision(Frozen):
    """A person's word about a result that waited for approval."""

    approved: bool
    by: str
    door: str
    at: str
    why: str


class Report(Frozen):
    """`<name>.report.json`. Keys are only ever added; `schema_version` grows when one changes its meaning."""

    schema_name: Literal["nightcrew.report"] = "nightcrew.report"
    schema_version: int = SCHEMA_VERSION
    id: str
    name: str
    origin: str
    replay_of: str | None
    """The task whose recorded answers were used in the place of a model; null for a run of models."""
    request: TaskRequest
    outcome: Outcome | None
    """Null while the task has not ended; with exit code 3 it waits for approval then."""
    exit_code: int | None
    verified: bool
    reason: str
    branch: str | None
    commit: str | None
    base_commit: str | None
    base_ref: str | None
    source_dirty: bool
    patch_file: str | None
    """File name beside this report; null when nothing was changed."""
    files: tuple[PatchFile, ...]
    plans: tuple[Plan, ...]
    """All revisions; the last one counts."""
    checks_before: tuple[CheckReport, ...] | None
    checks_after: tuple[CheckReport, ...] | None
    attempts: tuple[AttemptReport, ...]
    final_attempt: int | None
    hosts: tuple[HostUse, ...]
    """What boxes asked of the network, refused or not."""
    attention: tuple[str, ...]
    """What a person should look at."""
    concerns: tuple[Concern, ...]
    """What it waits to be approved for, or had to be."""
    decision: Decision | None
    """Null where nobody was asked, or nobody has answered yet."""
    crew: str | None
    models: dict[str, str]
    """Role to `model @ base_url`."""
    usage: TaskUsage
    cached_rate: float | None
    """Share of the prompt tokens that came from a prefix cache, 0 to 1; null when there were none."""
    seconds: dict[str, float]
    """`total`, `model`, `tools`, `checks`."""
    submitted_at: str
    started_at: str | None
    ended_at: str | None


@dataclass(frozen=True)
class ResultPaths:
    """Where the result files of a task are."""

    markdown: Path
    json: Path
    patch: Path


def result_paths(outbox: Path, name: str) -> ResultPaths:
    """The files of the task with this name, whether they exist or not."""
    return ResultPaths(outbox / f"{name}.report.md", outbox / f"{name}.report.json", outbox / f"{name}.patch")


def tells(outbox: Path, name: str, reason: str) -> bool:
    """Whether there is a report, and it gives this reason: a runner may have been killed over another end than came."""
    paths = result_paths(outbox, name)
    try:
        return paths.markdown.exists() and json.loads(paths.json.read_bytes())["reason"] == reason
    except (OSError, ValueError, LookupError, TypeError):
        return False


def as_after(record: TaskRecord, event: Event, *, at: str) -> TaskRecord:
    """The record as it will be once `event` is in the journal: results are written first, so that who sees the end of
    a task, or is asked about it, finds them. `at` is UTC, ISO 8601. A record that has ended is returned as it is."""
    if record.ended is not None:
        return record
    later = copy.copy(record)
    advance(later, Recorded(task=record.id, seq=record.seq + 1, at=at, event=event))
    return later


def report_json(record: TaskRecord, *, patch: str) -> dict[str, object]:
    """The report for programs: `Report` as JSON values."""
    opened, ended, prompt = record.opened, record.ended, record.usage.prompt_tokens
    spent = times(record)
    report = Report(
        id=record.id,
        name=record.name,
        origin=record.origin,
        replay_of=record.replay_of or None,
        request=record.request.model_copy(update={"repo": public_model(record.request.repo)}),
        outcome=ended.outcome if ended else None,
        exit_code=exit_code(record),
        verified=verified(record),
        reason=reason(record),
        branch=record.delivered.branch if record.delivered else None,
        commit=record.delivered.commit if record.delivered else None,
        base_commit=opened.base_commit if opened else None,
        base_ref=opened.base_ref if opened else None,
        source_dirty=opened.source_dirty if opened else False,
        patch_file=f"{record.name}.patch" if patch else None,
        files=tuple(
            PatchFile(path=file.path, status=file.status, added=file.added, removed=file.removed)
            for file in changed_files(patch)
        ),
        plans=tuple(record.plans),
        checks_before=_checks(record.checks_before),
        checks_after=_checks(final_checks(record)),
        attempts=tuple(_attempt(record, started.number, started.revision) for started in record.attempts),
        final_attempt=final_attempt(record),
        hosts=tuple(record.hosts.values()),
        attention=tuple(str(finding) for finding in attention(record, patch)),
        concerns=record.asked.concerns if record.asked else (),
        decision=_decision(record),
        crew=opened.crew if opened else record.request.crew,
        models={role: public_model(model) for role, model in opened.models.items()} if opened else {},
        usage=record.usage,
        cached_rate=round(record.usage.cached_tokens / prompt, 4) if prompt else None,
        seconds={
            "total": round(spent.total, 3),
            "model": round(spent.model, 3),
            "tools": round(spent.tools, 3),
            "checks": round(spent.checks, 3),
        },
        submitted_at=record.submitted_at,
        started_at=record.started_at,
        ended_at=record.ended_at,
    )
    return report.model_dump(mode="json")


def write_results(outbox: Path, record: TaskRecord, patch: str) -> ResultPaths:
    """Write the three files of a task, each whole or not at all; a second time changes nothing.

    The patch file is there only when the task changed something. Raises `OSError` when the outbox cannot be written.
    """
    outbox.mkdir(parents=True, exist_ok=True)
    paths = result_paths(outbox, record.name)
    if patch:
        write_atomically(paths.patch, patch.encode("utf-8", "surrogateescape"))
    else:
        paths.patch.unlink(missing_ok=True)
    # ASCII, so that no byte a model chose can reach the terminal of someone who looks into it.
    write_atomically(paths.json, SECRETS.hide(json.dumps(report_json(record, patch=patch), indent=2)).encode() + b"\n")
    # Last, because a person who waits for a task looks for this one.
    told = report_markdown(record, patch=patch, patch_path=paths.patch)
    write_atomically(paths.markdown, SECRETS.hide(told).encode("utf-8", "replace"))
    sync_folder(outbox)
    return paths


def _decision(record: TaskRecord) -> Decision | None:
    word = record.decided
    if word is None:
        return None
    return Decision(approved=word.approved, by=word.by, door=word.door, at=record.decided_at or "", why=word.why)


def _checks(run: ChecksRan | None) -> tuple[CheckReport, ...] | None:
    return None if run is None else tuple(_check(result) for result in run.results)


def _check(result: CheckResult) -> CheckReport:
    return CheckReport(
        command=result.check.command,
        source=result.check.source,
        ok=result.ok,
        exit_code=result.exit_code,
        ended=result.ended,
        limit=result.limit,
        seconds=round(result.seconds, 3),
        failing=result.failing,
        passed_tests=result.passed_tests,
        output=result.output,
    )


def _attempt(record: TaskRecord, number: int, revision: int) -> AttemptReport:
    ended, reached = record.ended_attempts.get(number), record.verdicts.get(number)
    return AttemptReport(
        number=number,
        plan_revision=revision,
        claim=ended.claim if ended else "",
        stuck=ended.stuck if ended else "",
        passed=reached.verdict.passed if reached else None,
        reason=reached.verdict.reason if reached else "",
        evidence=reached.verdict.evidence if reached else "",
        notes=reached.verdict.notes if reached else (),
        candidates={rung.name: {"tried": rung.tried, "passed": rung.passed} for rung in rungs(record, number)},
    )
