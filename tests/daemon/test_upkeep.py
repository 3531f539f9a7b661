"""Which private clones stay after their tasks, which go, and how that is told."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from fakes.house import call, house, script
from fakes.records import opened, submitted
from fakes.repos import make_repository
from fakes.scripted_server import Answer
from nightcrew.cli.main import main
from nightcrew.config import Config, WorkspaceSettings, load_config
from nightcrew.errors import ConfigError
from nightcrew.events import TaskEnded
from nightcrew.journal import Journal
from nightcrew.service.upkeep import Shelved, shelf, surplus, tidy, trim
from nightcrew_tools.contract import Outcome, TaskState
from nightcrew_workspaces.user import box_user
from nightcrew_workspaces.workspace import Workspaces

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

DAY, GIB = 86400.0, 1024**3


def shelved(task: str, days: float = 0, gib: float = 0, *, ended: bool = True, kept: bool = True) -> Shelved:
    return Shelved(task, task, "failed", int(gib * GIB), days * DAY, "", ended=ended, kept=kept, path=Path("/x", task))


def going(settings: WorkspaceSettings, *there: Shelved) -> list[str]:
    return [one.task for one, _ in surplus(settings, list(there))]


# What goes


def test_what_is_not_kept_goes_and_what_is_old_goes() -> None:
    settings = WorkspaceSettings(keep="all", max_age_days=14)
    assert going(settings, shelved("new", 1), shelved("unwanted", 1, kept=False), shelved("old", 14.1)) == [
        "old",
        "unwanted",
    ]


def test_over_the_size_the_oldest_go_first_and_no_more_than_needed() -> None:
    settings = WorkspaceSettings(keep="all", max_gib=5)
    there = [shelved("c", 1, gib=2), shelved("a", 3, gib=2), shelved("b", 2, gib=2), shelved("d", 0, gib=1)]
    assert going(settings, *there) == ["a"]
    assert going(WorkspaceSettings(keep="all", max_gib=0.5), *there) == ["a", "b", "c", "d"]
    assert going(WorkspaceSettings(keep="all", max_gib=7), *there) == []


def test_a_task_that_has_not_ended_never_loses_its_workspace() -> None:
    settings = WorkspaceSettings(keep="none", max_age_days=1, max_gib=1)
    assert going(settings, shelved("running", 100, gib=100, ended=False)) == []
    # and its size takes nothing from the kept ones
    assert going(settings, shelved("running", 100, gib=100, ended=False), shelved("kept", 0.5, gib=1)) == []


def test_each_removal_has_its_reason() -> None:
    settings = WorkspaceSettings(keep="all", max_age_days=2, max_gib=1)
    there = [shelved("a", 3), shelved("b", 1, kept=False), shelved("c", 0, gib=2)]
    assert {one.task: why for one, why in surplus(settings, there)} == {
        "a": "its task ended more than 2 days ago",
        "b": "its task has ended",
        "c": "the kept ones have more than 1 GiB together, and it is the oldest",
    }


# The journal's side


@pytest.fixture
def config(open_tmp: Path) -> Config:
    return Config(home=open_tmp / "home", workspaces=WorkspaceSettings(path=open_tmp / "root", keep="all"))


@pytest.fixture
def journal(config: Config) -> Iterator[Journal]:
    config.home.mkdir()
    config.outbox.mkdir()
    with Journal.open(config.journal) as journal:
        yield journal


@pytest.fixture
def workspaces(config: Config) -> Workspaces:
    assert config.workspaces.path is not None
    config.workspaces.path.mkdir()
    return Workspaces(config.workspaces.path, user=box_user())


def task_with_workspace(journal: Journal, workspaces: Workspaces, outcome: Outcome | None = None) -> str:
    """A task in the journal, running where it has no outcome, and something in its place on the disk."""
    task = journal.submit(submitted().request, origin="test", name_hint="fix").task
    journal.claim_task(task, "w")
    if outcome is not None:
        for event in (opened(), TaskEnded(outcome=outcome, reason="because")):
            journal.append(task, journal.record(task).seq + 1, event)
    place(workspaces, task)
    return task


def place(workspaces: Workspaces, task: str, mib: int = 1) -> None:
    (workspaces.root / task / "clone").mkdir(parents=True)
    (workspaces.root / task / "workspace.json").write_text("{}")
    (workspaces.root / task / "clone/big").write_bytes(b"x" * (mib << 20))


async def test_the_shelf_says_of_each_workspace_why_it_is_there(config, journal, workspaces):
    failed = task_with_workspace(journal, workspaces, Outcome.FAILED)
    running = task_with_workspace(journal, workspaces)
    place(workspaces, "stranger")
    (workspaces.root / ".gone-x-0123456789ab").mkdir()
    found = {one.task: one for one in await shelf(config.workspaces, journal, workspaces)}
    assert {task: (one.state, one.ended, one.kept) for task, one in found.items()} == {
        failed: ("failed", True, True),
        running: ("running", False, True),
        "stranger": ("unknown", False, True),
    }
    assert found[failed].why == 'workspaces: keep = "all"'
    assert found[running].why == "its task is running"
    assert "the journal does not know its task" in found["stranger"].why
    assert all(1 << 20 <= one.bytes < 2 << 20 for one in found.values())


async def test_trimming_removes_what_is_not_kept_and_says_so(config, journal, workspaces):
    config = config.model_copy(update={"workspaces": WorkspaceSettings(path=workspaces.root, keep="failed")})
    failed = task_with_workspace(journal, workspaces, Outcome.FAILED)
    delivered = task_with_workspace(journal, workspaces, Outcome.DELIVERED)
    running = task_with_workspace(journal, workspaces)
    place(workspaces, "stranger")
    said: list[str] = []
    await trim(config, journal, workspaces, said.append)
    assert workspaces.tasks() == sorted([failed, running, "stranger"])
    assert len(said) == 1
    assert said[0].startswith(f"removed the workspace of task {delivered} (1.") and said[0].endswith("has ended")


@pytest.mark.parametrize(("days", "gib", "goes"), [(0, 1, False), (15, 1, True), (0, 0, True)])
async def test_caches_go_by_age_and_size_too(config, journal, workspaces, days, gib, goes):
    cache = workspaces.caches / "0123456789ab.git"
    cache.mkdir(parents=True)
    (cache / "HEAD").write_text("x")
    os.utime(cache, (time.time() - days * DAY,) * 2)
    settings = config.workspaces.model_copy(update={"cache_gib": gib})
    said: list[str] = []
    await trim(config.model_copy(update={"workspaces": settings}), journal, workspaces, said.append)
    assert cache.exists() is not goes
    assert [str(cache) in line for line in said] == [True] * goes


async def test_the_start_finishes_what_a_killed_process_began(config, journal, workspaces):
    running = task_with_workspace(journal, workspaces)
    for name in (".gone-a-0123456789ab", ".new-b-0123456789ab", f".new-{running}-0123456789ab"):
        (workspaces.root / name / "clone").mkdir(parents=True)
    await tidy(config, journal, workspaces, lambda _: None)
    left = sorted(path.name for path in workspaces.root.iterdir())
    assert left == sorted([f".new-{running}-0123456789ab", running])  # another process may be making that one


async def test_a_task_that_waits_keeps_its_workspace_whatever_the_policy(config, journal, workspaces):
    task = task_with_workspace(journal, workspaces)
    journal.release(task, "w")
    assert journal.view(task).state is TaskState.QUEUED
    settings = WorkspaceSettings(path=workspaces.root, keep="none", max_age_days=0.000001, max_gib=0.000001)
    await trim(config.model_copy(update={"workspaces": settings}), journal, workspaces, lambda _: None)
    assert workspaces.tasks() == [task]


@pytest.mark.parametrize(("keep", "stays"), [("none", False), ("failed", True), ("all", True)])
async def test_a_whole_task_that_failed_keeps_its_workspace_as_the_policy_says(open_tmp, keep, stays):
    answers = script(call("finish_step", summary="done"))
    async with house(open_tmp, answers, keep=keep) as home:
        record = await home.run(limits={"attempts": 1})
        assert record.ended is not None and record.ended.outcome is Outcome.UNVERIFIED
        assert (open_tmp / "home/workspaces" / record.id).exists() is stays


@pytest.mark.parametrize(("keep", "stays"), [("failed", False), ("all", True)])
async def test_a_whole_task_that_delivered_keeps_its_workspace_as_the_policy_says(open_tmp, keep, stays):
    async with house(open_tmp, script(), keep=keep) as home:
        record = await home.run()
        assert record.ended is not None and record.ended.outcome is Outcome.DELIVERED
        assert (open_tmp / "home/workspaces" / record.id).exists() is stays


# The command line and the configuration


@pytest.fixture
def cli(open_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    (open_tmp / "c.toml").write_text(
        f'home = "{open_tmp}/home"\n[workspaces]\npath = "{open_tmp}/root"\nkeep = "all"\n'
    )
    monkeypatch.setenv("NIGHTCREW_CONFIG", str(open_tmp / "c.toml"))
    monkeypatch.delenv("NIGHTCREW_HOME", raising=False)

    def run(*arguments: str) -> tuple[str, str]:
        monkeypatch.setattr("sys.argv", ["nightcrew", *arguments])
        with pytest.raises(SystemExit):
            main()
        return capsys.readouterr()

    return run


def test_the_kept_workspaces_are_listed(cli, journal, workspaces):
    task = task_with_workspace(journal, workspaces, Outcome.FAILED)
    running = task_with_workspace(journal, workspaces)
    text, _ = cli("list", "--workspaces")
    assert f"{task}  failed" in text and "1.0 MiB" in text and f"{running}  running" in text
    assert f'workspaces: keep = "all": {workspaces.root / task}' in text
    listed = {one["task"]: one for one in json.loads(cli("list", "--workspaces", "--json")[0])}
    assert set(listed) == {task, running}
    assert (listed[task]["title"], listed[task]["state"]) == (journal.view(task).title, "failed")
    assert listed[running]["why"] == "its task is running" and listed[task]["path"] == str(workspaces.root / task)


def test_a_task_cancelled_between_two_runs_keeps_what_it_did_as_a_patch(cli, journal, workspaces, open_tmp):
    source = make_repository(open_tmp / "src", {"a.py": "old\n"})
    task = journal.submit(submitted().request, origin="test", name_hint="fix").task
    journal.claim_task(task, "w")

    async def begin() -> None:
        async with await workspaces.create(task, str(source)) as work:
            await work.box.run("echo new >> a.py")

    anyio.run(begin)
    journal.release(task, "w")
    assert "cancelled" in cli("cancel", task)[0]
    assert "+new" in cli("diff", task)[0]
    assert "# Cancelled (exit code 130)" in cli("report", task)[0]


def test_a_home_without_workspaces_says_so_and_makes_none(cli, open_tmp):
    assert cli("list", "--workspaces") == ("", "no workspaces are on the disk\n")
    assert json.loads(cli("list", "--workspaces", "--json")[0]) == []
    assert not (open_tmp / "home").exists() and not (open_tmp / "root").exists()


def test_the_old_key_is_refused_with_the_name_of_the_new_one(tmp_path):
    (tmp_path / "c.toml").write_text("keep_workspaces = true\n")
    with pytest.raises(ConfigError, match=r'keep_workspaces: write `\[workspaces\]` and below it `keep = "none"`'):
        load_config({"NIGHTCREW_CONFIG": str(tmp_path / "c.toml"), "HOME": str(tmp_path)})


def test_a_path_alone_is_still_a_place_for_workspaces(tmp_path):
    (tmp_path / "c.toml").write_text('workspaces = "/srv/here"\n')
    config = load_config({"NIGHTCREW_CONFIG": str(tmp_path / "c.toml"), "HOME": str(tmp_path)})
    assert config.workspaces == WorkspaceSettings(path=Path("/srv/here"))


def test_a_size_counts_what_removing_would_free(open_tmp):
    from nightcrew_workspaces.folders import Size

    inside, outside = open_tmp / "inside", open_tmp / "outside"
    inside.mkdir()
    outside.write_bytes(b"x" * (1 << 20))
    empty = Size.of(inside).bytes
    os.link(outside, inside / "shared")
    (inside / "away").symlink_to("/usr")
    assert Size.of(inside).bytes - empty < 65536
    (inside / "own").write_bytes(b"x" * (1 << 20))
    os.link(inside / "own", inside / "twice")
    assert 1 << 20 <= Size.of(inside).bytes - empty < (1 << 20) + 65536
    assert Size.of(open_tmp / "nothing").bytes == 0


async def test_a_clone_stays_until_what_was_done_in_it_has_been_told(open_tmp: Path) -> None:
    async with house(open_tmp, script(call("write_file", path="new.txt", content="x\n"), Answer(fault="hang"))) as home:
        task = home.submit()
        with anyio.CancelScope() as scope:
            home.journal.subscribe(lambda one: scope.cancel() if one.event.kind == "tool_ran" else None)
            await home.runner.run(task)

        async def tell(trouble: OSError | None) -> None:
            async with home.runner.leave(task) as patch:
                assert "new.txt" in patch
                if trouble:
                    raise trouble

        with pytest.raises(OSError, match="full"):
            await tell(OSError("the disk is full"))
        await tell(None)
        assert not (open_tmp / "home/workspaces" / task).exists()
