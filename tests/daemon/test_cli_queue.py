"""The commands of the queue: what they print, where, and with which exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fakes.command import Command, command
from fakes.repos import make_repository
from nightcrew.cli.progress import Progress
from nightcrew.config import DailySettings
from nightcrew.events import Continued, Paused, Recorded, Resumed
from nightcrew.gateway import used_up
from nightcrew.journal import Journal
from nightcrew.journal.queue import Spent
from nightcrew_tools.contract import TaskState

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path) -> Command:
    return command(monkeypatch, capsys, home)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "repo")


def submit(cli: Command, repo: Path, *options: object) -> str:
    shown = cli("submit", "-m", "Fix it", "--repo", repo, "--json", *options)
    assert shown.code == 0, shown.err
    return json.loads(shown.out)["id"]


def test_submit_takes_what_the_task_file_takes(cli: Command, repo: Path, home: Path) -> None:
    first = submit(cli, repo, "--id", "first")
    second = submit(cli, repo, "--after", "first", "--after", "later", "--priority", "7")
    with Journal.open(home / "journal.sqlite") as journal:
        request = journal.record(second).request
    assert (first, request.after, request.priority) == ("first", ("first", "later"), 7)
    listed = cli("list").out.splitlines()
    assert "waiting for other tasks" in listed[0]
    assert "after `fix-it`, `later` (there is no such task yet)" in listed[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--schedule", "sometimes"), "--schedule: 'sometimes' is no schedule; write one such as `daily 03:00`"),
        (("--id", "Not Good"), "--id: "),
        (("--priority", "200"), "less than or equal to 100"),
        (("--schedule", "daily", "--after", "x"), "leave `after` or `schedule` out"),
        (("--schedule", "daily", "--wait"), "has no end to wait for"),
        (("--id", "me", "--after", "me"), "`after`: it is to come after itself (`me`)"),
    ],
)
def test_what_cannot_be_meant_is_bad_usage(cli: Command, repo: Path, options: tuple[str, ...], words: str) -> None:
    shown = cli("submit", "-m", "Fix it", "--repo", repo, *options)
    assert (shown.code, shown.out) == (2, "")
    assert words in shown.err


def test_tasks_that_would_wait_for_each_other_are_refused_with_the_circle(cli: Command, repo: Path) -> None:
    submit(cli, repo, "--id", "a", "--after", "b")
    shown = cli("submit", "-m", "Other", "--repo", repo, "--id", "b", "--after", "a")
    assert shown.code == 2
    assert "in a circle: it is to come after `fix-it`, that after `b`" in shown.err


def test_schedules_are_listed_paused_resumed_and_removed(cli: Command, repo: Path) -> None:
    plan = submit(cli, repo, "--schedule", "daily 03:00", "--id", "nightly")
    submit(cli, repo)
    [line] = cli("list", "--schedules").out.splitlines()
    assert line.startswith("nightly  scheduled")
    assert "daily 03:00: next at 20" in line and line.endswith(" 03:00")
    assert cli("pause", plan).out == "nightly  paused\n"
    assert "daily 03:00: paused by " in cli("list", "--schedules").out
    assert cli("resume", plan).out == "nightly  scheduled\n"
    assert cli("show", plan).out.count("daily 03:00") == 1
    assert cli("cancel", plan).out == "nightly  cancelled\n"


def test_no_schedules_is_said_on_standard_error(cli: Command, repo: Path) -> None:
    submit(cli, repo)
    shown = cli("list", "--schedules")
    assert (shown.code, shown.out) == (0, "")
    assert "nothing is scheduled" in shown.err


def test_a_task_is_paused_and_resumed(cli: Command, repo: Path) -> None:
    task = submit(cli, repo)
    assert cli("pause", task).out == f"{task}  paused\n"
    assert "paused by " in cli("show", task).out
    assert json.loads(cli("resume", task, "--json").out)["state"] == "queued"
    again = cli("resume", task)
    assert again.code == 1
    assert "is not paused: it is queued" in again.err


def test_what_held_a_task_stands_among_what_happened() -> None:
    lines: list[str] = []
    progress = Progress(lines.append)
    said = (
        (Paused(by="ann"), "paused    by ann"),
        (Paused(by="ann", queue=True), "paused    with the whole queue by ann"),
        (Resumed(by="ben"), "resumed   by ben"),
        (Continued(task="6dk", step=2, tree=None), "goes on   from step 2 of task 6dk"),
    )
    for number, (event, words) in enumerate(said, 1):
        progress.show(Recorded(task="t", seq=number, at="2031-05-04T00:00:00.000Z", event=event))
        assert lines[-1].endswith(words)


def test_a_running_task_is_told_to_pause(cli: Command, repo: Path, home: Path) -> None:
    task = submit(cli, repo)
    with Journal.open(home / "journal.sqlite") as journal:
        journal.claim_task(task, "w")
        assert cli("pause", task).out == f"{task}  running, told to pause\n"
        assert journal.pause_requested(task)


def test_the_whole_queue_is_paused_and_resumed(cli: Command, repo: Path) -> None:
    task = submit(cli, repo)
    assert cli("pause", "--all").err == "the queue is told to pause\n"
    assert "the queue is paused by " in cli("list").out
    assert "resume --all" in cli("resume", task).err
    assert cli("resume", "--all").code == 0
    assert "paused" not in cli("list").out


@pytest.mark.parametrize("arguments", [(), ("6dk", "--all")])
def test_pausing_names_a_task_or_all(cli: Command, repo: Path, arguments: tuple[str, ...]) -> None:
    submit(cli, repo)
    shown = cli("pause", *arguments)
    assert shown.code == 2
    assert "name a task or give --all" in shown.err


def test_retry_makes_a_new_task_that_names_the_old_one(cli: Command, repo: Path) -> None:
    task = submit(cli, repo)
    early = cli("retry", task)
    assert (early.code, "has not ended" in early.err) == (1, True)
    cli("cancel", task)
    shown = cli("retry", task)
    assert shown.out.rstrip().endswith(f"queued, a retry of {task}")
    fresh = shown.out.split()[0]
    assert f"retry of  {task}" in cli("show", fresh).out


def test_a_step_whose_files_are_gone_cannot_be_retried(cli: Command, repo: Path) -> None:
    task = submit(cli, repo)
    cli("cancel", task)
    shown = cli("retry", task, "--from-step", 2)
    assert shown.code == 1
    assert "the private clone of task" in shown.err and 'keep = "failed"' in shown.err


def test_an_id_that_is_used_again_for_something_else_is_pointed_out(cli: Command, repo: Path) -> None:
    submit(cli, repo, "--id", "nightly")
    shown = cli("submit", "-m", "Something else", "--repo", repo, "--id", "nightly")
    assert shown.code == 0
    assert "nightly: its id was used again for something else" in shown.err
    assert "its id was used again" in cli("show", "nightly").out


@pytest.mark.parametrize("front", ["after: other", "schedule: daily"])
def test_run_works_here_and_now_and_waits_for_nothing(cli: Command, repo: Path, tmp_path: Path, front: str) -> None:
    path = tmp_path / "task.md"
    path.write_text(f"---\nrepo: {repo}\n{front}\n---\n# Fix\n")
    shown = cli("run", path)
    assert shown.code == 2
    assert "need the queue: use `submit`" in shown.err


def test_a_cancelled_task_leaves_reports_for_those_that_came_after_it(cli: Command, repo: Path, home: Path) -> None:
    submit(cli, repo, "--id", "first")
    second = submit(cli, repo, "--after", "first")
    cli("cancel", "first")
    assert "which ended without a delivery (cancelled)" in cli("report", second).out
    with Journal.open(home / "journal.sqlite") as journal:
        assert (journal.owed(), journal.view(second).state) == ([], TaskState.ENDED)


def test_what_a_day_may_use_is_counted_in_each_of_three_ways() -> None:
    spent = Spent(tokens=1_000_000, seconds=3600, tasks=3)
    assert used_up(DailySettings(), spent) == ""
    assert used_up(DailySettings(tokens=1_000_001, minutes=60.5, tasks=4), spent) == ""
    words = "today's {} are used up ({} of {}; daily: {}): it begins tomorrow"
    assert used_up(DailySettings(tokens=1_000_000), spent) == words.format("tokens", "1,000,000", "1,000,000", "tokens")
    assert used_up(DailySettings(minutes=59.5), spent) == words.format("minutes", "60", "59.5", "minutes")
    assert used_up(DailySettings(tasks=3), spent) == words.format("tasks", "3", "3", "tasks")
