"""What is removed of ended tasks, what never is, and whether the disk gets its room back."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fakes.command import command
from nightcrew.config import Config, JournalSettings
from nightcrew.delivery import write_results
from nightcrew.events import MessageAdded, TaskEnded
from nightcrew.journal import Journal, health
from nightcrew.journal.health import Health
from nightcrew.service import keeping
from nightcrew.service.keeping import Keeping
from nightcrew_tools.contract import Outcome, TaskNotFound, TaskRequest, TaskState

pytestmark = pytest.mark.timeout(30)

NOW = datetime.now(UTC)
MUCH = {"keep_days": 100.0, "max_mib": 1000.0}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    config = Config(home=tmp_path / "home", journal=JournalSettings(keep_days=100))
    for folder in (config.outbox, config.inbox / ".accepted", config.attachments):
        folder.mkdir(parents=True)
    return config


@pytest.fixture
def journal(config: Config) -> Iterator[Journal]:
    with Journal.open(config.journal) as opened:
        yield opened


def submit(journal: Journal, name: str, **changes: object) -> str:
    request = TaskRequest.model_validate({"title": name, "text": "x", "repo": "/src", **changes})
    return journal.submit(request, origin="cli", name_hint=name).task


def end(journal: Journal, task: str, *, kib: int = 0) -> str:
    assert journal.claim_task(task, "w") is not None
    if kib:
        text = os.urandom(kib * 512).hex()
        journal.append(task, journal.record(task).seq + 1, MessageAdded(conversation="e", message=text))
    ended = TaskEnded(outcome=Outcome.DELIVERED, reason="the checks pass")
    journal.append(task, journal.record(task).seq + 1, ended)
    return task


def later(days: float) -> datetime:
    return NOW + timedelta(days=days)


def test_an_ended_task_goes_a_day_after_it_was_found_too_old_and_an_unfinished_one_never(journal: Journal):
    old, queued, running = end(journal, submit(journal, "old")), submit(journal, "queued"), submit(journal, "running")
    journal.claim_task(running, "w")
    trim = journal.retention.trim
    assert trim(later(99), **MUCH) == []
    assert trim(later(101), **MUCH) == []
    assert trim(later(101.5), **MUCH) == []
    [gone] = trim(later(102.1), **MUCH)
    assert (gone.task, gone.name, gone.why) == (old, "old", "it ended more than 100 days ago")
    assert trim(later(3000), **MUCH) == trim(later(3002), **MUCH) == []
    assert journal.read(old) == []
    assert [view.id for view in journal.tasks()] == [running, queued]
    assert [journal.view(task).state for task in (queued, running)] == [TaskState.QUEUED, TaskState.RUNNING]


def test_a_clock_that_is_a_year_ahead_for_an_hour_removes_nothing(journal: Journal):
    task = end(journal, submit(journal, "fix"))
    trim = journal.retention.trim
    assert trim(later(365), **MUCH) == []
    assert trim(later(0.1), **MUCH) == []
    assert trim(later(101), **MUCH) == []  # it was forgotten that it had been too old once
    assert len(journal.read(task)) == 3


def test_what_remains_is_its_name_its_outcome_and_its_id_which_is_not_run_twice(journal: Journal):
    task = end(journal, submit(journal, "fix", id="my-key"))
    before = journal.view(task)
    journal.retention.trim(later(101), **MUCH)
    journal.retention.trim(later(103), **MUCH)
    view = journal.view("my-key")
    assert (view.state, view.outcome, view.reason, view.ended_at) == (
        TaskState.ENDED,
        Outcome.DELIVERED,
        "the checks pass",
        before.ended_at,
    )
    assert view.remark.startswith("its events were removed at ")
    assert journal.find("fix") == ["my-key"]
    assert submit(journal, "other", id="my-key") == "my-key"
    assert journal.claim("w") is None
    assert journal.tasks() == []
    with pytest.raises(TaskNotFound, match="the events of task my-key were removed"):
        journal.record("my-key")
    # Its results may still lie in the outbox: nothing else is called so.
    assert journal.view(submit(journal, "fix")).name != "fix"
    # Who comes after it, may.
    after = submit(journal, "next", after=["my-key"])
    assert journal.view(after).state is TaskState.QUEUED


def test_over_the_size_the_oldest_ended_ones_go_first_and_only_as_many_as_needed(journal: Journal):
    tasks = [end(journal, submit(journal, f"t{number}"), kib=400) for number in range(5)]
    unfinished = submit(journal, "unfinished", text="x" * 2_000_000)
    gone = journal.retention.trim(NOW, keep_days=100, max_mib=3.2, by_age=False)
    assert [one.task for one in gone] == tasks[: len(gone)]
    assert 1 <= len(gone) <= 3
    assert "more than 3.2 MiB" in gone[0].why
    assert [bool(journal.read(task)) for task in tasks] == [False] * len(gone) + [True] * (5 - len(gone))
    assert len(journal.retention.trim(NOW, keep_days=100, max_mib=0.1, by_age=False)) == 5 - len(gone)
    assert journal.read(unfinished)


@pytest.mark.anyio
async def test_the_disk_gets_the_room_back_when_nothing_runs(config: Config, journal: Journal):
    for number in range(6):
        end(journal, submit(journal, f"t{number}"), kib=1000)
    size = config.journal.stat().st_size
    said: list[str] = []
    mine = config.model_copy(update={"keeping": JournalSettings(max_mib=1.5)})
    keep = Keeping(mine, journal, Health(mine, said.append), say=said.append, is_idle=lambda: True)
    assert not keep._wastes()
    await keep.trim()
    assert config.journal.stat().st_size >= size  # the room is in the file still
    assert keep._wastes()
    await keep.compact()
    assert config.journal.stat().st_size < size / 3
    assert not keep._wastes()
    assert "of the journal back to the disk" in said[-1]
    assert journal.view(submit(journal, "goes-on")).state is TaskState.QUEUED


@pytest.mark.anyio
async def test_results_stay_unless_they_are_not_to_and_what_else_belongs_to_the_task_goes(
    config: Config, journal: Journal
):
    for keep_results in (True, False):
        task = end(journal, submit(journal, "fix"))
        name = journal.view(task).name
        write_results(config.outbox, journal.record(task), "")
        (config.attachments / task / "digest").mkdir(parents=True)
        mine = config.model_copy(update={"keeping": JournalSettings(keep_days=1, keep_results=keep_results)})
        keep = Keeping(mine, journal, Health(mine, print), say=print, is_idle=lambda: True)
        await keep.trim(later(2))
        await keep.trim(later(4))
        assert journal.read(task) == []
        assert (config.outbox / f"{name}.report.md").exists() is keep_results
        assert not (config.attachments / task).exists()


def test_files_that_were_laid_aside_go_by_when_that_was_and_links_are_not_followed(config: Config, tmp_path: Path):
    accepted, moment = config.inbox / ".accepted", time.time()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_text("stays")
    (accepted / "6fp--fix.md").write_text("x")
    os.utime(accepted / "6fp--fix.md", (0, 0))  # its own time is from 1970, and it was laid aside just now
    (accepted / "6fq--folder").mkdir()
    (accepted / "6fq--folder" / "task.md").write_text("x")
    (accepted / "6fr--link").symlink_to(tmp_path / "elsewhere")
    keeping.remove_accepted(accepted, moment - 60)
    assert len(list(accepted.iterdir())) == 3
    keeping.remove_accepted(accepted, moment + 60)
    assert list(accepted.iterdir()) == []
    assert (tmp_path / "elsewhere" / "file").exists()
    keeping.remove_accepted(tmp_path / "nowhere", moment)


@pytest.mark.anyio
async def test_within_a_day_after_the_clock_was_set_nothing_is_judged_by_its_age(config: Config, journal: Journal):
    task = end(journal, submit(journal, "fix"))
    (config.inbox / ".accepted" / "6fp--fix.md").write_text("x")
    wall = [0.0]
    watch = Health(config, print, clock=lambda: 0.0, wall=lambda: wall[0])
    keep = Keeping(config, journal, watch, say=print, is_idle=lambda: True)
    wall[0] = 365 * 86400.0
    await keep.trim(later(365))
    await keep.trim(later(367))
    assert journal.read(task)
    assert list((config.inbox / ".accepted").iterdir())


def test_a_removed_task_is_shown_with_what_is_kept(
    config: Config, journal: Journal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    task = end(journal, submit(journal, "fix"))
    journal.retention.trim(later(101), **MUCH)
    journal.retention.trim(later(103), **MUCH)
    cli = command(monkeypatch, capsys, config.home)
    shown = cli("show", task)
    assert shown.code == 0
    assert "delivered" in shown.out and "its events were removed" in shown.out
    for words in (("replay",), ("journal",), ("journal", "-c", "planner"), ("export",)):
        assert "were removed" in cli(words[0], task, *words[1:]).err
    assert cli("list", "--json").out.strip() == "[]"
    assert health.storage_trouble(config) == ""
