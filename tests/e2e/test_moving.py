"""A task moves to another machine in the middle of its work: the same bytes go on there, on the same tree."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fakes.command import command
from fakes.house import ACTING, BUGGY, FIX, FIXED, House, call, config_for, git, house, make_repository, script
from fakes.journals import build
from fakes.records import PATCH
from nightcrew.config import Config, NetworkSettings
from nightcrew.delivery import write_results
from nightcrew.errors import NotPossible
from nightcrew.events import Decided, Moved, Recorded
from nightcrew.journal import Journal
from nightcrew.journal.fold import TaskRecord
from nightcrew.journal.locks import RunLocks
from nightcrew.service import run_locks
from nightcrew.service.approval import settle_here
from nightcrew.service.moving import export, take_in
from nightcrew.service.parcel import EVENTS, Manifest, ParcelRefused, open_parcel, write_parcel
from nightcrew.service.worker import open_worker
from nightcrew_tools.contract import Outcome, TaskNotFound, TaskState
from nightcrew_workspaces.errors import HarvestRefused

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

# A first hand-over of nothing, so that evidence goes back into the conversation that moves.
ACTS = (call("finish_step", summary="done already"), *FIX)
LOCKING = (FIX[1], call("write_file", path="uv.lock", content="version = 1\n"), FIX[3])


class CutOff(Exception):
    pass


async def cut_off(home: House, kind: str, number: int = 1, **fields: object) -> str:
    """Run a task until the `number`-th event of a kind is on the disk, and let go of it there."""
    task, seen = home.submit(**fields), 0

    def count(recorded: Recorded) -> None:
        nonlocal seen
        seen += recorded.event.kind == kind
        if seen == number:
            raise CutOff

    stop = home.journal.subscribe(count)
    with pytest.raises((CutOff, ExceptionGroup)):
        await home.runner.run(task)
    stop()
    home.journal.release(task, "test")
    return task


def elsewhere(root: Path, home: House) -> tuple[Config, Path]:
    """Another machine: a home of its own, and a clone of the repository at another place."""
    repository = root / "elsewhere" / "checkout"
    subprocess.run(["git", "clone", "-q", str(home.repository), str(repository)], check=True)
    place = root / "elsewhere" / "home"
    place.mkdir(mode=0o755)
    return config_for(place, home.server.url), repository


@asynccontextmanager
async def at_work(config: Config) -> AsyncIterator[tuple[Journal, TaskRecord]]:
    """Claim the one task there is, as a service would."""
    with Journal.open(config.journal) as journal:
        async with open_worker(config, journal, lambda _: None) as worker:
            record = journal.claim("there")
            assert record is not None
            yield journal, await worker.run(record.id)


def prompts(home: House) -> list[str]:
    """What the executor's model was sent, as the messages' exact bytes."""
    bodies = [one.body.decode() for one in home.server.requests if one.path.endswith("/chat/completions")]
    mine = [body for body in bodies if ACTING in body]
    return [body[body.index('"messages":[') : body.rindex('],"tools"')] for body in mine]


@pytest.mark.parametrize(("kind", "number"), [("tool_ran", 3), ("verdict_reached", 2)])
async def test_a_moved_task_goes_on_with_the_same_bytes_and_the_same_tree(kind: str, number: int, open_tmp: Path):
    async with house(open_tmp, script(*ACTS), keep="all") as home:
        task = await cut_off(home, kind, number)
        before, file = home.journal.record(task), open_tmp / "fix.tar"
        done = await export(home.config, home.journal, task, file, move=True)
        assert (done.moved, done.name) == (True, "fix")
        assert [path.name for path in open_tmp.iterdir() if path.name.startswith(".")] == []

        here = home.journal.view(task)
        assert (here.state, here.outcome) == (TaskState.ENDED, Outcome.CANCELLED)
        assert here.reason == "moved: it goes on where fix.tar is imported"
        assert home.journal.claim("test") is None
        assert "moved: it goes on where" in (home.config.outbox / "fix.report.md").read_text()
        assert home.branches() == []

        config, repository = elsewhere(open_tmp, home)
        come = await take_in(config, file, repo=str(repository))
        assert (come.task, come.fresh, come.moved) == (task, True, True)
        again = await take_in(config, file, repo=str(repository))
        assert (again.task, again.fresh) == (task, False)
        asked = len(prompts(home))
        async with at_work(config) as (journal, record):
            assert record.ended is not None
            assert record.ended.outcome is Outcome.DELIVERED, record.ended.reason
            events = journal.read(task)
        assert [one.model_dump() for one in events[: before.seq]] == [
            one.model_dump() for one in home.journal.read(task)[: before.seq]
        ]
        assert isinstance(events[before.seq].event, Moved)
        for name, texts in before.conversations.items():
            assert record.conversations[name][: len(texts)] == texts
        sent = prompts(home)
        assert kind == "verdict_reached" or len(sent) > asked
        assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(sent))
        [branch] = git(repository, "branch", "--format=%(refname:short)", "--list", "nightcrew/*").split()
        assert git(repository, "show", f"{branch}:stats.py") == FIXED
        assert (repository / "stats.py").read_text() == BUGGY
        assert (config.outbox / "fix.report.md").read_text().startswith("# Delivered and verified")
        assert home.branches() == []


async def test_a_result_that_waits_moves_and_is_approved_there_as_the_commit_that_was_tested(open_tmp: Path):
    async with house(open_tmp, script(*LOCKING)) as home:
        record = await home.run()
        assert record.asked is not None
        file = open_tmp / "fix.tar"
        await export(home.config, home.journal, record.id, file, move=True)
        assert not (home.config.home / "workspaces" / record.id).exists()
        config, repository = elsewhere(open_tmp, home)
        await take_in(config, file, repo=str(repository))
        with Journal.open(config.journal) as journal:
            assert journal.view(record.id).state is TaskState.WAITING
            journal.decide(record.id, Decided(approved=True, by="ann", door="cli"))
            await settle_here(config, journal, record.id)
            branch = journal.view(record.id).branch
        assert branch is not None
        assert git(repository, "rev-parse", branch).strip() == record.asked.commit


async def test_an_ended_task_is_copied_with_its_results_and_stays(tmp_path: Path):
    config, other, file = Config(home=tmp_path / "home"), Config(home=tmp_path / "other"), tmp_path / "fix.tar"
    build(config.journal)
    other.outbox.mkdir(parents=True)
    with Journal.open(config.journal) as journal:
        record = journal.record("ended")
        write_results(config.outbox, record, PATCH)
        (other.outbox / f"{record.name}.report.md").write_text("of another task\n")
        done = await export(config, journal, "ended", file, move=False)
        assert not done.moved
        assert journal.view("ended").outcome is Outcome.DELIVERED
        with pytest.raises(NotPossible, match="exists already"):
            await export(config, journal, "ended", file, move=False)
    come = await take_in(other, file)
    assert (come.name, come.moved) == (f"{record.name}-ended", False)
    for suffix in ("report.md", "report.json", "patch"):
        mine, theirs = other.outbox / f"{come.name}.{suffix}", config.outbox / f"{record.name}.{suffix}"
        assert mine.read_bytes() == theirs.read_bytes()
    assert (other.outbox / f"{record.name}.report.md").read_text() == "of another task\n"
    with Journal.open(other.journal) as journal:
        assert journal.view("ended").outcome is Outcome.DELIVERED
        assert journal.record("ended").name == come.name


# --- what is refused


async def test_a_task_that_runs_or_has_not_ended_is_not_exported_and_nothing_is_left_behind(tmp_path: Path):
    config, file = Config(home=tmp_path / "home"), tmp_path / "x.tar"
    build(config.journal)
    with Journal.open(config.journal) as journal:
        locks = RunLocks(run_locks(config))
        assert locks.acquire("running")
        with pytest.raises(NotPossible, match="runs now: `nightcrew pause running`"):
            await export(config, journal, "running", file, move=True)
        locks.release("running")
        with pytest.raises(NotPossible, match="with --move it ends here"):
            await export(config, journal, "queued", file, move=False)
        with pytest.raises(NotPossible, match="its private clone is gone"):
            await export(config, journal, "decided", file, move=True)
        with pytest.raises(TaskNotFound):
            await export(config, journal, "nobody", file, move=True)
        assert journal.view("queued").state is TaskState.QUEUED
        assert [path.name for path in tmp_path.iterdir()] == ["home"]
        await export(config, journal, "queued", file, move=True)  # it has begun nothing: only its events move
        assert journal.view("queued").outcome is Outcome.CANCELLED


async def test_a_worktree_that_no_other_machine_would_take_stops_the_export_and_the_task_goes_on_here(open_tmp: Path):
    evil = (call("run_command", command="ln -s /etc/passwd evil"), *FIX)
    async with house(open_tmp, script(*evil)) as home:
        task = await cut_off(home, "tool_ran")
        with pytest.raises(HarvestRefused, match="'evil': a symbolic link to an absolute path"):
            await export(home.config, home.journal, task, open_tmp / "x.tar", move=True)
        assert home.journal.view(task).state is TaskState.QUEUED
        assert list(open_tmp.glob("*.tar")) == list(open_tmp.glob(".*.tar*")) == []


def parcel_of(tmp_path: Path, which: str, **changes: object) -> Path:
    """A parcel of an unfinished task of the built journal, with another word here and there."""
    with Journal.open(tmp_path / "home" / "journal.sqlite") as journal:
        events = journal.read(which)
        record = journal.record(which)
    manifest = Manifest(
        task=which,
        name=record.name,
        ended=record.ended is not None,
        machine="m",
        at="2026-01-01T00:00:00.000Z",
        nightcrew="0",
        base_commit=record.opened.base_commit if record.opened else None,
        files={},
    )
    lines = "".join(f"{one.model_dump_json()}\n" for one in events)
    for old, new in changes.pop("swap", ()):
        lines = lines.replace(old, new)
    file = tmp_path / "parcel.tar"
    file.unlink(missing_ok=True)
    write_parcel(file, manifest.model_copy(update=changes), {EVENTS: lines.encode()})
    return file


async def test_events_that_are_none_do_not_fold_or_are_not_what_the_manifest_says_are_refused(tmp_path: Path):
    build(tmp_path / "home" / "journal.sqlite")
    config = Config(home=tmp_path / "other")
    for swap, changes, why in (
        ([("task_claimed", "task_flew")], {}, "events cannot be read"),
        ([('"seq":2,', '"seq":7,')], {}, "events cannot be read"),
        ([('"task":"ended"', '"task":"../x"')], {}, "its manifest says something else"),
        ([], {"name": "another"}, "its manifest says something else"),
        ([], {"ended": False}, "its manifest says something else"),
        ([], {"task": "queued"}, "its manifest says something else"),
        ([], {"tree": "e" * 40}, "its manifest says something else"),
        ([], {"base_commit": None}, "its manifest says something else"),
    ):
        with pytest.raises(ParcelRefused, match=why):
            await take_in(config, parcel_of(tmp_path, "ended", swap=swap, **changes))
    with Journal.open(config.journal) as journal:
        assert journal.tasks() == []


async def test_a_name_that_would_leave_the_outbox_is_refused(tmp_path: Path):
    build(tmp_path / "home" / "journal.sqlite")
    config = Config(home=tmp_path / "other")
    with Journal.open(tmp_path / "home" / "journal.sqlite") as journal:
        swap = [(f'"name":"{journal.record("ended").name}"', '"name":"../../evil"')]
    for changes, why in (({}, "its manifest says something else"), ({"name": "../../evil"}, "should match pattern")):
        with pytest.raises(ParcelRefused, match=why):
            await take_in(config, parcel_of(tmp_path, "ended", swap=swap, **changes))
    assert list(tmp_path.rglob("*evil*")) == []


async def test_an_id_that_is_another_tasks_here_is_refused_and_a_repository_that_is_not_here_too(tmp_path: Path):
    build(tmp_path / "home" / "journal.sqlite")
    config = Config(home=tmp_path / "other", network=NetworkSettings(allow=("pip",)))
    file = parcel_of(tmp_path, "queued")
    with pytest.raises(NotPossible, match=r"/srv/shop does not exist.*--repo"):
        await take_in(config, file)
    make_repository(tmp_path / "repo")
    build(tmp_path / "other" / "journal.sqlite")  # the same ids, at other times
    with pytest.raises(NotPossible, match="another task has the id queued here"):
        await take_in(config, file, repo=str(tmp_path / "repo"))


async def test_objects_that_are_not_what_they_should_be_are_refused_and_nothing_stays(open_tmp: Path):
    async with house(open_tmp, script(*ACTS), keep="all") as home:
        task = await cut_off(home, "tool_ran", 3)
        await export(home.config, home.journal, task, open_tmp / "fix.tar", move=True)
        good = open_parcel(open_tmp / "fix.tar")
        [commit] = good.manifest.commits
        contents = {EVENTS: good.read(EVENTS), f"objects/{commit}.pack": b"PACK" + bytes(40)}
        manifest = good.manifest
        good.close()
        config, repository = elsewhere(open_tmp, home)
        write_parcel(open_tmp / "evil.tar", manifest, contents)
        with pytest.raises(HarvestRefused, match="git does not accept"):
            await take_in(config, open_tmp / "evil.tar", repo=str(repository))
        empty = manifest.model_copy(update={"commits": ()})
        write_parcel(open_tmp / "empty.tar", empty, {EVENTS: contents[EVENTS]})
        with pytest.raises(HarvestRefused, match="not among its objects"):
            await take_in(config, open_tmp / "empty.tar", repo=str(repository))
        assert [path.name for path in (config.home / "workspaces").iterdir()] == ["gitconfig"]
        with Journal.open(config.journal) as journal:
            assert journal.tasks() == []


def test_the_commands_say_what_they_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    build(tmp_path / "home" / "journal.sqlite")
    monkeypatch.chdir(tmp_path)
    cli = command(monkeypatch, capsys, tmp_path / "home")
    done = cli("export", "ended")
    assert done.code == 0, done.err
    [file] = tmp_path.glob("*.nightcrew.tar")
    said = json.loads(cli("export", "ended", "copy.tar", "--json").out)
    assert (said["id"], said["moved"], said["file"]) == ("ended", False, str(tmp_path / "copy.tar"))
    refused = cli("export", "waiting", "w.tar")
    assert refused.code == 1
    assert "--move" in refused.err
    there = command(monkeypatch, capsys, tmp_path / "there")
    assert json.loads(there("import", file, "--json").out)["fresh"] is True
    assert "it was here already" in there("import", file).err
    assert "no task that can be imported" in there("import", tmp_path / "home" / "journal.sqlite").err
