"""The report for people: Markdown that reads well as plain text too.

Every word that did not come from this program stands in a code span or a quoted fence (see `quoting`), so that neither
a model nor a test's output can forge a heading, a verdict or a link.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from nightcrew.delivery.findings import (
    Finding,
    attention,
    final_attempt,
    final_checks,
    rungs,
    times,
    verified,
    winning_candidate,
)
from nightcrew.delivery.patches import FileChange, changed_files
from nightcrew.delivery.quoting import cell, clean, code, fence, folded, one_line, quoted
from nightcrew.domain import CheckResult
from nightcrew.events import ApprovalAsked, ChecksRan
from nightcrew.journal.fold import TaskRecord
from nightcrew.secrecy import without_login
from nightcrew_tools.contract import CONCERNS, EXIT_CODES, Outcome

_OUTCOMES: dict[Outcome, str] = {
    Outcome.DELIVERED: "Delivered and verified",
    Outcome.UNVERIFIED: "Not verified, so no branch was delivered",
    Outcome.FAILED: "Failed",
    Outcome.NO_ENDPOINT: "No usable model endpoint",
    Outcome.LIMITS: "Stopped at its limits",
    Outcome.CANCELLED: "Cancelled",
    Outcome.REJECTED: "Verified, but rejected, so no branch was delivered",
}

_PASSING_OUTPUT = 3_000
_FAILING_OUTPUT = 12_000
_CONCERNS_SHOWN = 20


def report_markdown(record: TaskRecord, *, patch: str, patch_path: Path | None = None) -> str:
    """The whole report, ending in one newline. `patch` is the change as `git diff --binary` prints it, empty for none;
    `patch_path` is where it lies, for the commands that apply it."""
    parts: list[str] = []
    for section in (
        _replay(record),
        _head(record),
        _look(record, patch, patch_path),
        _asked(record),
        _plan(record),
        _changes(record, patch),
        _checks(record),
        _network(record),
        _attention(record, patch),
        _attempts(record),
        _cost(record),
        _crew(record),
    ):
        parts.extend(section)
    return "\n\n".join(parts) + "\n"


def outcome_words(record: TaskRecord) -> str:
    """How the task ended, in a few plain words."""
    if record.ended is None:
        return "Waiting for approval" if record.waits_for_approval else "Not ended"
    words = _OUTCOMES[record.ended.outcome]
    if record.ended.outcome is Outcome.DELIVERED and record.delivered is not None and record.delivered.branch is None:
        return "Verified, delivered as a patch"
    return words


def exit_code(record: TaskRecord) -> int | None:
    """As `TaskView.exit_code` has it."""
    if record.ended is not None:
        return EXIT_CODES[record.ended.outcome]
    return 3 if record.waits_for_approval else None


def public_model(model: str) -> str:
    """`model @ base_url` without a name and password that the URL may hold."""
    return without_login(model)


def _replay(record: TaskRecord) -> Iterator[str]:
    if record.replay_of:
        yield "# THIS IS A REPLAY: NO MODEL WAS ASKED, AND NOTHING WAS DELIVERED"
        yield f"What follows is what the recorded answers of task {code(record.replay_of)} led to once more."


def _head(record: TaskRecord) -> Iterator[str]:
    number = exit_code(record)
    yield f"# {outcome_words(record)}" + (f" (exit code {number})" if number is not None else "")
    yield f"Task {code(record.name)}: {code(record.request.title)}"
    if record.asked is not None:
        yield from _asked_for(record, record.asked)
    if record.ended is not None and record.ended.reason:
        yield f"Why: {code(record.ended.reason, 600)}"
    elif record.waiting:
        yield f"Why: {code(record.waiting, 600)}"


def _asked_for(record: TaskRecord, asked: ApprovalAsked) -> Iterator[str]:
    """What a person has to decide, or has decided."""
    word = record.decided
    if word is not None:
        said = "Approved" if word.approved else "Rejected"
        by = f"{code(word.by)} through {code(word.door)} at {code(record.decided_at or '')}"
        yield f"{said} by {by}. It had waited for:"
    elif record.ended is not None:
        yield "It had waited for approval, for:"
    else:
        yield (
            "The checks confirm it, and nothing of it is in the repository yet: it changes what a person should see "
            "first. Look at the patch beside this report, then type one of"
        )
        yield _shell(f"nightcrew approve {record.id}", f'nightcrew reject {record.id} --why "..."')
        if asked.problem:
            yield f"A problem: {code(asked.problem, 600)}"
        yield "It waits for:"
    yield "\n".join(_concerns(asked))


def _concerns(asked: ApprovalAsked) -> Iterator[str]:
    for kind, words in CONCERNS.items():
        found = [concern for concern in asked.concerns if concern.kind == kind]
        if found:
            yield f"- {words} (`{kind}`)"
        for concern in found[:_CONCERNS_SHOWN]:
            yield f"  - {code(concern.path)} {code(concern.why)}"
        if len(found) > _CONCERNS_SHOWN:
            yield f"  - and {len(found) - _CONCERNS_SHOWN} more"


def _look(record: TaskRecord, patch: str, patch_path: Path | None) -> Iterator[str]:
    yield "## How to look at it"
    repo = shlex.quote(clean(record.request.repo).replace("\n", " "))
    local = Path(record.request.repo).is_absolute()
    base = record.opened.base_commit[:12] if record.opened else "HEAD"
    if local and record.delivered is not None and record.delivered.branch is not None:
        branch = shlex.quote(record.delivered.branch)
        yield f"The work is on the branch {code(record.delivered.branch)}. What is checked out there was not touched."
        yield _shell(
            f"git -C {repo} log --stat {base}..{branch}",
            f"git -C {repo} diff {base}...{branch}",
            f"git -C {repo} merge {branch}",
        )
    elif patch:
        name = shlex.quote(str(patch_path) if patch_path is not None else f"{record.name}.patch")
        if record.waits_for_approval:
            yield "There is no branch yet."
        word = "The result" if verified(record) else "No branch was made. What the last attempt changed"
        yield f"{word} is in the patch beside this report, made on commit {code(base)}."
        git = f"git -C {repo}" if local else "git"
        yield _shell(f"{git} apply --stat {name}", f"{git} apply --3way {name}")
    else:
        yield "There is no branch and no patch: nothing was changed."


def _asked(record: TaskRecord) -> Iterator[str]:
    request = record.request
    yield "## What was asked"
    yield quoted(request.text or request.title, limit=20_000, language="markdown")
    base = f" from {code(request.base)}" if request.base else ""
    yield f"For the repository {code(public_model(request.repo))}{base}, handed in through {code(record.origin)}."


def _plan(record: TaskRecord) -> Iterator[str]:
    yield "## The plan"
    if not record.plans:
        yield "No plan was written."
        return
    plan = record.plans[-1]
    revisions = f", revision {plan.revision} of {len(record.plans)}" if len(record.plans) > 1 else ""
    yield f"As the planner wrote it{revisions}: {code(plan.summary, 1000)}"
    lines: list[str] = []
    for number, step in enumerate(plan.steps, 1):
        lines.append(f"{number}. {code(step.title)}")
        if step.done_when:
            lines.append(f"   - done when: {code(step.done_when)}")
        if step.files:
            lines.append(f"   - files: {', '.join(code(path) for path in step.files[:20])}")
        lines.extend(f"   - check: {code(check)}" for check in step.checks)
    if lines:
        yield "\n".join(lines)


def _changes(record: TaskRecord, patch: str) -> Iterator[str]:
    yield "## What changed and why"
    files = changed_files(patch)
    yield _file_table(files) if files else "No file was changed."
    if not verified(record) and files:
        yield "This is the last attempt's work. It was **not** confirmed."
    ended = record.ended_attempts.get(final_attempt(record) or 0)
    if ended is not None and ended.claim:
        yield "The model's own account, which is a claim and not a finding:"
        yield quoted(ended.claim, limit=4000)
    candidate = winning_candidate(record)
    if candidate is not None:
        line = f" at line {candidate.line}" if candidate.line is not None else ""
        yield f"Found by trying: {code(candidate.rung)} in {code(candidate.path)}{line}, kept as the checks passed."


def _file_table(files: tuple[FileChange, ...]) -> str:
    rows = ["| file | | lines |", "| --- | --- | --- |"]
    for file in files[:200]:
        lines = "binary" if file.added is None else f"+{file.added} -{file.removed}"
        rows.append(f"| {cell(file.path)} | {file.status} | {lines} |")
    if len(files) > 200:
        rows.append(f"| and {len(files) - 200} more | | |")
    return "\n".join(rows)


def _checks(record: TaskRecord) -> Iterator[str]:
    yield "## Checks before and after"
    before, after = record.checks_before, final_checks(record)
    commands = list(dict.fromkeys(result.check.command for run in (before, after) if run for result in run.results))
    if not commands:
        yield "No check ran."
        return
    yield "Each ran in a fresh box on a clean checkout: of the base commit, and of the result."
    rows = ["| check | asked by | before | after |", "| --- | --- | --- | --- |"]
    outputs: list[str] = []
    for command in commands:
        first, last = _result(before, command), _result(after, command)
        source = next(result.check.source for result in (last, first) if result is not None)
        rows.append(f"| {cell(command)} | {source} | {_mark(first)} | {_mark(last)} |")
        outputs += [_output("before", first), _output("after", last)]
    yield "\n".join(rows)
    yield from filter(None, outputs)


def _output(when: str, result: CheckResult | None) -> str:
    if result is None or not result.output.strip():
        return ""
    summary = f"{when}: {one_line(result.check.command, 100)} ({_mark(result)})"
    return folded(summary, result.output, limit=_PASSING_OUTPUT if result.ok else _FAILING_OUTPUT)


def _result(run: ChecksRan | None, command: str) -> CheckResult | None:
    return next((result for result in run.results if result.check.command == command), None) if run else None


def _mark(result: CheckResult | None) -> str:
    if result is None:
        return "not run"
    if result.ok:
        tests = f", {result.passed_tests} tests" if result.passed_tests is not None else ""
        return f"passed{tests} in {result.seconds:.1f} s"
    if result.exit_code is None or result.ended != "exited":
        return f"stopped ({one_line(result.limit or result.ended, 120)}) after {result.seconds:.1f} s"
    tests = f", {len(result.failing)} failing" if result.failing else ""
    limit = f" (limit: {one_line(result.limit, 120)})" if result.limit else ""
    return f"failed, exit {result.exit_code}{tests}{limit}"


def _attention(record: TaskRecord, patch: str) -> Iterator[str]:
    yield "## What to look at"
    found = attention(record, patch)
    nothing = "Nothing beyond the change itself." if patch else "Nothing: there is no change."
    yield "\n".join(f"- {_finding(one)}" for one in found) if found else nothing


def _network(record: TaskRecord) -> Iterator[str]:
    if record.request.network is None:
        return
    yield "## What was reached"
    when = "its set-up and its model" if record.request.network.during == "loop" else "its set-up"
    reached = [use for use in record.hosts.values() if use.allowed]
    if not reached:
        yield f"The task allowed {when} a network. No host was reached."
        return
    yield f"The task allowed {when} a network; checks never have one."
    rows = ["| host | address | connections | sent | received | |", "| --- | --- | --- | --- | --- | --- |"]
    for use in reached[:100]:
        where, note = f"{use.host}:{use.port}", cell(use.why) if use.why else ""
        sizes = f"{size(use.sent)} | {size(use.received)}"
        rows.append(f"| {cell(where)} | {cell(use.address)} | {use.connections} | {sizes} | {note} |")
    if len(reached) > 100:
        rows.append(f"| and {len(reached) - 100} more | | | | | |")
    yield "\n".join(rows)


def size(count: int) -> str:
    """Bytes as people write them: `512 B`, `3.4 MiB`."""
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def _finding(finding: Finding) -> str:
    if not finding.names:
        return finding.words
    shown = ", ".join(code(name, 600) for name in finding.names[:8])
    more = f" and {len(finding.names) - 8} more" if len(finding.names) > 8 else ""
    return f"{finding.words}: {shown}{more}"


def _attempts(record: TaskRecord) -> Iterator[str]:
    yield "## Attempts"
    if not record.attempts:
        yield "No attempt began."
    for started in record.attempts:
        number = started.number
        ended, reached = record.ended_attempts.get(number), record.verdicts.get(number)
        lines = [f"{number}. On plan revision {started.revision}: {_judged(record, number)}"]
        lines += [
            f"   - {code(rung.name)}: {rung.tried} {'candidate' if rung.tried == 1 else 'candidates'} tried, "
            f"{rung.passed or 'none'} passed"
            for rung in rungs(record, number)
        ]
        if ended is not None and ended.stuck:
            lines.append(f"   - ended by the harness: {code(ended.stuck)}")
        if reached is not None and reached.verdict.reason:
            lines.append(f"   - verdict: {code(reached.verdict.reason, 600)}")
        yield "\n".join(lines)
        if reached is not None and not reached.verdict.passed and reached.verdict.evidence:
            yield folded(f"evidence against attempt {number}", reached.verdict.evidence, limit=_FAILING_OUTPUT)


def _judged(record: TaskRecord, number: int) -> str:
    reached = record.verdicts.get(number)
    if reached is None:
        return "it did not come to a verdict"
    if reached.verdict.passed:
        return "confirmed"
    return "not confirmed" if reached.commit else "not confirmed; there was nothing to commit"


def _cost(record: TaskRecord) -> Iterator[str]:
    usage, spent = record.usage, times(record)
    rate = f" ({100 * usage.cached_tokens / usage.prompt_tokens:.0f} %)" if usage.prompt_tokens else ""
    yield "## What it cost"
    yield "\n".join(
        [
            "| | |",
            "| --- | --- |",
            f"| model requests | {usage.requests:,} |",
            f"| prompt tokens | {usage.prompt_tokens:,} |",
            f"| of them from the cache | {usage.cached_tokens:,}{rate} |",
            f"| completion tokens | {usage.completion_tokens:,} |",
            f"| time, all in all | {duration(spent.total)} |",
            f"| time of the model | {duration(spent.model)} |",
            f"| time of tools | {duration(spent.tools)} |",
            f"| time of checks | {duration(spent.checks)} |",
        ]
    )


def _crew(record: TaskRecord) -> Iterator[str]:
    yield "## Who worked on it"
    if record.opened is None:
        yield "Nobody: the work did not begin."
        return
    opened = record.opened
    lines = [f"Crew {code(opened.crew)}, on commit {code(opened.base_commit)} ({code(opened.base_ref)})."]
    models = [f"- {code(role)}: {code(public_model(model))}" for role, model in sorted(opened.models.items())]
    yield from lines
    if models:
        yield "\n".join(models)
    if opened.crew == "embedded":
        yield "The embedded 1.5B model is good for small, single-file repairs; a larger one does real work."
    yield f"Submitted {code(record.submitted_at)}, ended {code(record.ended_at or 'not yet')}."


def duration(seconds: float) -> str:
    """Seconds as people write them: `0.4 s`, `2 min 5 s`, `3 h 10 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _shell(*lines: str) -> str:
    return fence("\n".join(lines), language="sh")
