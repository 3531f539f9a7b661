"""A journal with every kind of event and tasks in every state, as the schema of this version writes it.

Before a schema version is added, what the one before wrote is frozen, for good:

    PYTHONPATH=tests .venv/bin/python tests/fakes/journals.py

writes `tests/golden/journal/schema-N.sql` and `events-N.jsonl`, N being the newest version.
"""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path
from typing import get_args

from nightcrew.domain import Check, CheckResult, HostUse, Plan, Step, Usage, Verdict
from nightcrew.events import (
    ApprovalAsked,
    AttemptEnded,
    AttemptStarted,
    CandidateTried,
    ChecksRan,
    Continued,
    ConversationOpened,
    Decided,
    Delivered,
    Event,
    MessageAdded,
    ModelReplied,
    Moved,
    NetworkUsed,
    Paused,
    PlanWritten,
    TaskEnded,
    TaskRevised,
    ToolRan,
    ToolStarted,
    VerdictReached,
    Waiting,
    WorkspaceOpened,
)
from nightcrew.journal import MIGRATIONS, Journal
from nightcrew_tools.contract import Concern, Limits, Outcome, TaskNetwork, TaskRequest

FOLDER = Path(__file__).resolve().parents[1] / "golden" / "journal"

KINDS: frozenset[str] = frozenset(one.model_fields["kind"].default for one in get_args(get_args(Event)[0]))
"""Of every event that there is."""

REQUEST = TaskRequest(
    title="Prices are rounded wrongly",
    text='# Prices are rounded wrongly\n\n`total()` rounds each line. Żółw 😀 "quoted".\n',
    repo="/srv/shop",
    base="main",
    crew="duo",
    priority=3,
    checks=("python3 -m pytest -q",),
    setup=("pip install -e .",),
    network=TaskNetwork(hosts=("pip",), during="setup"),
    limits=Limits(minutes=60, tokens=1000, attempts=2),
)
_CHECK = Check(command="python3 -m pytest -q", source="task")
_FAILED = CheckResult(
    check=_CHECK,
    exit_code=1,
    ended="exited",
    output="1 failed",
    seconds=1.5,
    failing=("test_shop.py::test_total",),
    passed_tests=3,
    limit="over 4 GiB of memory",
)
_PASSED = CheckResult(check=_CHECK, exit_code=0, ended="exited", output="4 passed", seconds=1.25, passed_tests=4)
_TREE, _COMMIT = "a" * 40, "c" * 40
_CALL = (
    '{"role":"assistant","content":"","tool_calls":[{"id":"call_0","type":"function",'
    '"function":{"name":"read_file","arguments":"{\\"path\\":\\"shop.py\\"}"}}]}'
)

BETWEEN: tuple[Event, ...] = (
    Waiting(reason="http://127.0.0.1:30000/v1: refused, next try in 5 s"),
    WorkspaceOpened(
        base_commit=_COMMIT,
        base_ref="main",
        source_dirty=True,
        checks=(_CHECK,),
        crew="duo",
        models={"planner": "qwen @ http://127.0.0.1:30000/v1", "executor": "devstral @ http://127.0.0.1:30001/v1"},
        context="# Repository\nshop.py",
    ),
    NetworkUsed(
        during="setup",
        hosts=(
            HostUse(
                host="pypi.org",
                port=443,
                allowed=True,
                why="",
                address="151.101.0.223",
                connections=1,
                sent=517,
                received=90210,
            ),
        ),
    ),
    ChecksRan(phase="before", attempt=0, commit=_COMMIT, results=(_FAILED,)),
    ConversationOpened(conversation="planner", tools='[{"type":"function"}]', shape={"thinking": True}),
    MessageAdded(conversation="planner", message='{"role":"system","content":"You plan work. Żółw 😀"}'),
    MessageAdded(conversation="planner", message='{"role":"user","content":"# Task\\nRound once."}'),
    ModelReplied(
        conversation="planner",
        message=_CALL,
        finish_reason="tool_calls",
        usage=Usage(prompt_tokens=900, completion_tokens=20, cached_tokens=512),
        seconds=2.125,
    ),
    ToolStarted(conversation="planner", call_id="call_0", name="read_file"),
    ToolRan(
        conversation="planner",
        call_id="call_0",
        name="read_file",
        message='{"role":"tool","tool_call_id":"call_0","content":"def total(): ..."}',
        is_error=False,
        tree=_TREE,
        seconds=0.01,
    ),
    PlanWritten(
        plan=Plan(
            revision=1,
            summary="Round once.",
            steps=(Step(title="Round the sum", done_when="the test passes", checks=("true",), files=("shop.py",)),),
        )
    ),
    AttemptStarted(number=1, revision=1),
    CandidateTried(
        attempt=1,
        rung="infill",
        index=0,
        path="shop.py",
        line=12,
        passed=False,
        tree=None,
        usage=Usage(prompt_tokens=40, completion_tokens=8),
        seconds=0.5,
        note="the checks fail",
    ),
    AttemptEnded(number=1, claim="done", tree=_TREE, stuck="the model gave 3 empty replies, one after the other"),
    ChecksRan(phase="after", attempt=1, commit="d" * 40, results=(_PASSED,)),
    VerdictReached(
        attempt=1,
        commit="d" * 40,
        verdict=Verdict(passed=True, reason="the checks pass", evidence="", notes=("look at the lock file",)),
    ),
)
"""Everything between the claim and the question."""

_ASKED = ApprovalAsked(
    attempt=1, commit="d" * 40, concerns=(Concern(kind="lock-files", path="uv.lock", why="was changed"),), problem=""
)


def build(path: Path) -> None:
    """Write the journal: tasks that are queued, running, told to stop, waiting, decided, ended; every kind of event."""
    with Journal.open(path) as journal:
        for state in ("queued", "running", "told", "waiting", "decided", "ended"):
            _task(journal, state)


def _task(journal: Journal, state: str) -> None:
    task = journal.submit(REQUEST.model_copy(update={"id": state}), origin="inbox:shop.md", name_hint="shop").task
    if state == "queued":
        return
    revised = REQUEST.model_copy(update={"id": state})
    journal.append(task, 2, TaskRevised(request=revised))
    _append(journal, task, Moved(to="here", machine="host", file="shop.tar", name="", repo="/srv/shop"))
    assert journal.claim_task(task, "host/1") is not None
    for event in BETWEEN[: 5 if state == "running" else None]:
        _append(journal, task, event)
    if state == "told":
        journal.request_cancel(task)
    if state in ("waiting", "decided", "ended"):
        _append(journal, task, Paused(by="ann"))
        journal.resume(task, by="ann")
        assert journal.claim_task(task, "host/1") is not None
        _append(journal, task, Continued(task="earlier", step=2, tree=_TREE))
        _append(journal, task, _ASKED)
    if state in ("decided", "ended"):
        journal.decide(task, Decided(approved=True, by="ann", door="cli", why="fine"))
    if state == "ended":
        assert journal.claim_task(task, "host/2") is not None
        _append(journal, task, Delivered(branch="nightcrew/ended-prices", commit="d" * 40, patch="shop.patch"))
        _append(journal, task, TaskEnded(outcome=Outcome.DELIVERED, reason="the checks pass"))


def _append(journal: Journal, task: str, event: Event) -> None:
    journal.append(task, journal.record(task).seq + 1, event)


def dump(path: Path) -> str:
    """The file as SQL that makes it again, its version included."""
    with sqlite3.connect(path) as connection:
        marks = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
        lines = [f"PRAGMA application_id = {marks[0]};", f"PRAGMA user_version = {marks[1]};", *connection.iterdump()]
    connection.close()
    return "\n".join(lines) + "\n"


def one_of_each(path: Path) -> list[str]:
    """The body of the first event of each kind, as it stands in the file."""
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT kind, body FROM event ORDER BY task, seq").fetchall()
    connection.close()
    first: dict[str, str] = {}
    for kind, body in rows:
        first.setdefault(kind, body)
    return [body for _, body in sorted(first.items())]


def freeze() -> None:
    """Write the two files of the newest version; those that are there are left alone."""
    newest = max(MIGRATIONS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite"
        build(path)
        for name, text in (
            (f"schema-{newest}.sql", dump(path)),
            (f"events-{newest}.jsonl", "\n".join(one_of_each(path)) + "\n"),
        ):
            if (FOLDER / name).exists():
                print(f"{name} is frozen already")
            else:
                (FOLDER / name).write_text(text, encoding="utf-8")
                print(f"wrote {FOLDER / name}")


if __name__ == "__main__":
    freeze()
