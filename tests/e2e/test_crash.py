"""kill -9 at every kind of step: the next start goes on, and what comes out is the same, whole, and there once."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.crashing import Blow, decide, serve
from fakes.house import ACTING, BUGGY, FIX, PLANNING, call, fingerprint, git, make_repository, plan
from fakes.scripted_server import spawned
from nightcrew.journal import Journal
from nightcrew.journal.fold import TaskRecord, fold

pytestmark = pytest.mark.timeout(120)

KINDS = (
    "task_submitted",
    "task_claimed",
    "workspace_opened",
    "checks_ran",
    "conversation_opened",
    "message_added",
    "model_replied",
    "plan_written",
    "attempt_started",
    "tool_ran",
    "attempt_ended",
    "verdict_reached",
    "delivered",
    "task_ended",
)
"""Every kind of event that a task with tools writes."""

# A first hand-over of nothing, so that evidence and a second attempt are part of the way.
ACTS = (call("finish_step", summary="done already"), *FIX)
# A result that waits for approval.
LOCKING = (FIX[1], call("write_file", path="uv.lock", content="version = 1\n"), FIX[3])


def script() -> dict:
    def answers(*replies) -> list[dict]:
        return [{"text": reply.text, "tool_calls": [list(one) for one in reply.tool_calls]} for reply in replies]

    return {
        "rules": [
            {"when": PLANNING, "answers": answers(call("read_file", path="stats.py"), plan())},
            {"when": ACTING, "answers": answers(*LOCKING), "has": "and lock it"},
            {"when": ACTING, "answers": answers(*ACTS)},
            {"when": "You choose which file", "answers": [{"text": '{"file": "stats.py", "problem": "off by one"}'}]},
            {"when": "total += value\n<|fim_suffix|>", "answers": [{"text": "    return total / len(values)"}]},
            {"when": "<|fim_prefix|>", "answers": [{"text": "    pass"}]},
        ]
    }


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["nightcrew.service.worker", "nightcrew.service", "fakes.crashing"])
    return context


@pytest.fixture(scope="module")
def model() -> Iterator[str]:
    with spawned(script()) as server:
        yield server.url


def run(processes, home: Path, url: str, blow: Blow | None, dialect: tuple[str, ...] = ("tools",)) -> int:
    process = processes.Process(target=serve, args=(str(home), url, blow, dialect))
    process.start()
    process.join(60)
    if process.is_alive():
        process.kill()
        process.join()
        pytest.fail("the service did not come to an end")
    assert process.exitcode is not None
    return process.exitcode


def drop(root: Path, wish: str = "mean([1, 2, 3]) must be 2.") -> tuple[Path, Path]:
    """A repository and a home with a task file in its inbox."""
    repository, home = make_repository(root / "repository"), root / "home"
    (home / "inbox").mkdir(parents=True)
    (home / "inbox" / "fix.md").write_text(f"---\nrepo: {repository}\n---\n# Fix mean()\n\n{wish}\n")
    return repository, home


def the_record(home: Path) -> TaskRecord:
    with Journal.open(home / "journal.sqlite", read_only=True) as journal:
        tasks = journal.tasks()
        assert len(tasks) == 1
        return fold(journal.read(tasks[0].id))


def told(record: TaskRecord) -> dict[str, list[str]]:
    """The transcripts, without what differs between two runs of the same test (its duration)."""
    return {
        name: [json.dumps(timeless(json.loads(text)), sort_keys=True) for text in texts]
        for name, texts in record.conversations.items()
    }


def timeless(body: dict) -> dict:
    lines = [
        line for line in str(body.get("content") or "").splitlines() if " in 0." not in line and " after 0." not in line
    ]
    return {**body, "content": lines}


@pytest.fixture(scope="module")
def unkilled(processes, model: str) -> Iterator[TaskRecord]:
    root = Path(tempfile.mkdtemp(prefix="nightcrew-test-", dir="/tmp"))
    root.chmod(0o755)
    _, home = drop(root)
    assert run(processes, home, model, None) == 0
    yield the_record(home)
    shutil.rmtree(root)


BLOWS = [Blow(kind, after) for kind in KINDS for after in (False, True)]
BLOWS += [Blow("tool_ran", after, number) for number in (3, 4) for after in (False, True)]
BLOWS += [Blow("checks_ran", False, 2), Blow("model_replied", False, 5), Blow("verdict_reached", True, 2)]


@pytest.mark.parametrize("blow", BLOWS, ids=str)
def test_a_killed_service_goes_on_to_the_same_result(
    blow: Blow, open_tmp: Path, processes, model: str, unkilled: TaskRecord
) -> None:
    repository, home = drop(open_tmp)
    before = fingerprint(repository)
    assert run(processes, home, model, blow) == -signal.SIGKILL
    assert run(processes, home, model, None) == 0

    record = the_record(home)
    assert record.ended is not None
    assert record.ended.outcome == "delivered", record.ended.reason
    branches = git(repository, "branch", "--list", "--format=%(refname:short)", "nightcrew/*").split()
    assert branches == [f"nightcrew/{record.id}-fix-mean"]
    assert git(repository, "diff", "--full-index", "main", branches[0]) == (home / "outbox/fix.patch").read_text()
    assert sorted(path.name for path in (home / "outbox").iterdir()) == [
        "fix.patch",
        "fix.report.json",
        "fix.report.md",
    ]
    assert list((home / "inbox").glob("*.md")) == []
    assert told(record) == told(unkilled)
    assert [attempt.number for attempt in record.attempts] == [attempt.number for attempt in unkilled.attempts]
    assert {number: ended.verdict.passed for number, ended in record.verdicts.items()} == {1: False, 2: True}
    assert [path.name for path in (home / "workspaces").iterdir()] == ["gitconfig"]
    after = fingerprint(repository)
    assert {path: after[path] for path in before} == before
    assert (repository / "stats.py").read_text() == BUGGY


LADDER_BLOWS = [Blow("candidate_tried", after, number) for number in (1, 2) for after in (False, True)]
# Between the candidate that passed and the end of its attempt.
LADDER_BLOWS += [Blow("attempt_ended", False)]


def test_a_conversation_never_goes_on_over_a_tree_that_does_not_belong_to_it(
    open_tmp: Path, processes, model: str
) -> None:
    repository, home = drop(open_tmp)
    assert run(processes, home, model, Blow("tool_ran", True, 5)) == -signal.SIGKILL
    assert the_record(home).tools_run[-1].name in ("edit_file", "run_command")
    shutil.rmtree(home / "workspaces" / the_record(home).id)
    assert run(processes, home, model, None) == 0

    record = the_record(home)
    assert record.ended is not None
    assert record.ended.outcome == "failed"
    assert "the private clone of the task is gone, and with it what had been done in it" in record.ended.reason
    assert f"nightcrew retry {record.id}" in record.ended.reason
    assert git(repository, "branch", "--list", "nightcrew/*") == ""


@pytest.mark.parametrize("blow", LADDER_BLOWS, ids=str)
def test_a_killed_ladder_goes_on_with_the_next_candidate(blow: Blow, open_tmp: Path, processes, model: str) -> None:
    repository, home = drop(open_tmp)
    infill = ("infill",)
    assert run(processes, home, model, blow, infill) == -signal.SIGKILL
    assert run(processes, home, model, None, infill) == 0

    record = the_record(home)
    assert record.ended is not None
    assert record.ended.outcome == "delivered", record.ended.reason
    assert [candidate.index for candidate in record.candidates] == list(range(len(record.candidates)))
    assert [candidate.passed for candidate in record.candidates][-1]
    assert len(git(repository, "branch", "--list", "nightcrew/*").split()) == 1


def end(processes, target, *arguments: object) -> int:
    process = processes.Process(target=target, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode is not None, "it did not come to an end"
    return process.exitcode


@pytest.mark.parametrize("after", [False, True])
def test_a_service_that_is_killed_over_a_question_asks_it_once_and_keeps_all(
    after: bool, open_tmp: Path, processes, model: str
) -> None:
    repository, home = drop(open_tmp, "Fix it and lock it.")
    before = fingerprint(repository)
    assert run(processes, home, model, Blow("approval_asked", after)) == -signal.SIGKILL
    for _ in range(2):
        assert run(processes, home, model, None) == 0
        record = the_record(home)
        assert record.waits_for_approval
        assert record.asked is not None
        assert (home / "outbox/fix.report.md").read_text().startswith("# Waiting for approval (exit code 3)\n")
        assert "uv.lock" in (home / "outbox/fix.patch").read_text()
        assert (home / "workspaces" / record.id).is_dir()
        assert fingerprint(repository) == before
    with Journal.open(home / "journal.sqlite", read_only=True) as journal:
        assert [one.event.kind for one in journal.read(record.id)].count("approval_asked") == 1


DECIDING = [
    Blow(kind, after) for kind in ("decided", "task_claimed", "delivered", "task_ended") for after in (False, True)
]


@pytest.mark.parametrize("by_service", [False, True], ids=["again", "service"])
@pytest.mark.parametrize("blow", DECIDING, ids=str)
def test_an_approval_that_is_killed_anywhere_delivers_once_and_the_tested_commit(
    blow: Blow, by_service: bool, open_tmp: Path, processes, model: str
) -> None:
    repository, home = drop(open_tmp, "Fix it and lock it.")
    assert run(processes, home, model, None) == 0
    asked = the_record(home).asked
    assert asked is not None
    assert end(processes, decide, str(home), model, blow, True) == -signal.SIGKILL
    if by_service and blow != Blow("decided", False):
        assert run(processes, home, model, None) == 0
    else:
        assert end(processes, decide, str(home), model, None, True) == 0

    record = the_record(home)
    assert record.ended is not None
    assert record.ended.outcome == "delivered", record.ended.reason
    branches = git(repository, "branch", "--list", "--format=%(refname:short)", "nightcrew/*").split()
    assert branches == [f"nightcrew/{record.id}-fix-mean"]
    assert git(repository, "rev-parse", branches[0]).strip() == asked.commit == record.checks_after[1].commit
    assert (home / "outbox/fix.report.md").read_text().startswith("# Delivered and verified (exit code 0)\n")
    with Journal.open(home / "journal.sqlite", read_only=True) as journal:
        kinds = [one.event.kind for one in journal.read(record.id)]
    assert [kinds.count(kind) for kind in ("decided", "delivered", "task_ended")] == [1, 1, 1]


@pytest.mark.parametrize("blow", [Blow("decided", True), Blow("task_ended", False)], ids=str)
def test_a_rejection_that_is_killed_anywhere_delivers_nothing(
    blow: Blow, open_tmp: Path, processes, model: str
) -> None:
    repository, home = drop(open_tmp, "Fix it and lock it.")
    assert run(processes, home, model, None) == 0
    assert end(processes, decide, str(home), model, blow, False) == -signal.SIGKILL
    assert run(processes, home, model, None) == 0
    record = the_record(home)
    assert record.ended is not None
    assert record.ended.outcome == "rejected"
    assert git(repository, "branch", "--list", "nightcrew/*") == ""
    assert (home / "outbox/fix.report.md").read_text().startswith("# Verified, but rejected")
