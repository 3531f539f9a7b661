"""What both reports say about a task beyond the plain facts: which attempt counts, what to look at, where time went."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from nightcrew.delivery.gate import concerns, merely_noted
from nightcrew.delivery.patches import changed_files
from nightcrew.events import CandidateTried, ChecksRan
from nightcrew.journal.fold import TaskRecord
from nightcrew_tools.contract import CONCERNS, ConcernKind


@dataclass(frozen=True)
class Rung:
    """What one rung of the repair ladder did in one attempt."""

    name: str
    tried: int
    passed: int


@dataclass(frozen=True)
class Finding:
    """Something to look at: this program's words, and names or notes that come from elsewhere."""

    words: str
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.words}: {', '.join(self.names)}" if self.names else self.words


@dataclass(frozen=True)
class Times:
    """Seconds of work. The parts overlap where things ran side by side."""

    total: float
    model: float
    tools: float
    checks: float


def final_attempt(record: TaskRecord) -> int | None:
    """The attempt that the result stands for: the one that was confirmed, else the last one that began."""
    confirmed = [number for number, reached in record.verdicts.items() if reached.verdict.passed]
    if confirmed:
        return max(confirmed)
    return record.attempts[-1].number if record.attempts else None


def verified(record: TaskRecord) -> bool:
    """Whether a verdict confirmed the result. The model's own word does not count."""
    return any(reached.verdict.passed for reached in record.verdicts.values())


def final_checks(record: TaskRecord) -> ChecksRan | None:
    """The checks after the change, of the attempt that counts or of the last one that was checked."""
    number = final_attempt(record)
    if number in record.checks_after:
        return record.checks_after[number]
    return record.checks_after[max(record.checks_after)] if record.checks_after else None


def rungs(record: TaskRecord, attempt: int) -> list[Rung]:
    """The repair ladder's tries of one attempt, in the order in which the rungs began."""
    tried: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    for candidate in record.candidates:
        if candidate.attempt == attempt:
            tried[candidate.rung] += 1
            passed[candidate.rung] += candidate.passed
    return [Rung(name, count, passed[name]) for name, count in tried.items()]


def winning_candidate(record: TaskRecord) -> CandidateTried | None:
    """The candidate of the repair ladder that became the result."""
    number = final_attempt(record)
    return next((one for one in reversed(record.candidates) if one.passed and one.attempt == number), None)


def times(record: TaskRecord) -> Times:
    """Where the task's time went."""
    runs = [run for run in (record.checks_before, *record.checks_after.values()) if run is not None]
    return Times(
        total=record.active_seconds,
        model=record.usage.model_seconds,
        tools=sum(tool.seconds for tool in record.tools_run),
        checks=sum(result.seconds for run in runs for result in run.results),
    )


def attention(record: TaskRecord, patch: str) -> list[Finding]:
    """What a person should look at, most important first."""
    found = [*_about_trust(record, patch), *_about_checks(record)]
    reached = record.verdicts.get(final_attempt(record) or 0)
    found += [Finding("The verifier notes", (note,)) for note in (reached.verdict.notes if reached else ())]
    candidate = winning_candidate(record)
    if candidate is not None:
        words = (
            "Found by trying replacements until the checks passed. That may fit the tests and still be wrong, so read "
            "it against what the code is meant to do"
        )
        found.append(Finding(words, (candidate.path,)))
    found += _about_files(record, patch)
    found += _about_network(record)
    if record.opened is not None and record.opened.source_dirty:
        found.append(
            Finding("The source checkout had uncommitted changes. They are not part of this work, and are untouched.")
        )
    return list(dict.fromkeys(found))


def _about_network(record: TaskRecord) -> list[Finding]:
    refused = [use for use in record.hosts.values() if not use.allowed]
    names = tuple(f"{use.host or 'no host'}:{use.port} ({use.why})" if use.port else use.why for use in refused)
    return [Finding("A box asked for what it may not reach", names)] if names else []


def _about_files(record: TaskRecord, patch: str) -> list[Finding]:
    """What the gate sees, whether it held the result back or not, and what it lets pass without a word."""
    files = changed_files(patch)
    before, after = record.checks_before, final_checks(record)
    seen = concerns(files, before.results if before else (), after.results if after else ())
    paths: dict[ConcernKind, list[str]] = {}
    for concern in (*(record.asked.concerns if record.asked else ()), *seen):
        paths.setdefault(concern.kind, []).append(concern.path)
    found = [Finding(CONCERNS[kind], tuple(dict.fromkeys(names))) for kind, names in paths.items()]
    held = {name for names in paths.values() for name in names}
    noted = ((words, tuple(name for name in names if name not in held)) for words, names in merely_noted(files))
    return [*found, *(Finding(words, names) for words, names in noted if names)]


def _about_trust(record: TaskRecord, patch: str) -> list[Finding]:
    ended = record.ended_attempts.get(final_attempt(record) or 0)
    if ended is None or verified(record):
        return []
    if patch:
        return [Finding("Nothing confirmed this change. Do not merge it unread.")]
    return [Finding("The model says that it did the work, but it changed nothing.")] if ended.claim else []


def _about_checks(record: TaskRecord) -> list[Finding]:
    if record.opened is None:
        return []
    before, after = record.checks_before, final_checks(record)
    results = (*(before.results if before else ()), *(after.results if after else ()))
    if not any(result.check.source != "plan" for result in results):
        return [
            Finding(
                "No check of yours or of the repository covers this: nothing but a model's word says that it works."
            )
        ]
    found: list[Finding] = []
    broken = {result.check.command for result in before.results if not result.ok} if before else set[str]()
    still = [result.check.command for result in after.results if not result.ok] if after else []
    if before and after and not broken and not still:
        found.append(
            Finding("Every check passed before the change too, so they alone do not show that it does what was asked.")
        )
    worse = tuple(command for command in still if command not in broken)
    same = tuple(command for command in still if command in broken)
    if worse:
        found.append(Finding("Passed before the change and fails after it", worse))
    if same:
        found.append(Finding("Failed before the change and still fails", same))
    return found
