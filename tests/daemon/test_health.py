"""A disk that is full, read-only or broken, and a clock that is set: no new work, nothing lost, and on it goes."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from fakes.command import Command, command
from fakes.disks import break_disk, breaking_disk, fill, read_only, small_disk
from fakes.repos import make_repository
from fakes.workers import FakeWorker
from nightcrew.config import Config, JournalSettings
from nightcrew.errors import JournalError, JournalUnavailable
from nightcrew.events import MessageAdded
from nightcrew.gateway import JournalGateway
from nightcrew.journal import Journal, health
from nightcrew.journal.fold import TaskRecord
from nightcrew.journal.health import Health, storage_trouble
from nightcrew.service import Service, run_one, service
from nightcrew_tools.contract import Outcome, TaskRequest, TaskState
from nightcrew_tools.groups import unwrapped

pytestmark = pytest.mark.timeout(30)

TEXT = "x" * 20_000


class Talker(FakeWorker):
    """A task with the word `talk` appends long messages, each when it is told to, and is done when it is told so."""

    def __init__(self) -> None:
        super().__init__()
        self.go = anyio.Event()
        self.done = False
        self.acknowledged: list[str] = []

    async def _run(self, task: str, words: set[str]) -> TaskRecord:
        if "talk" not in words:
            return await super()._run(task, words)
        record = self.journal.record(task)
        texts = record.conversations.get("executor", [])
        assert texts == self.acknowledged
        while not self.done:
            await self.go.wait()
            text = json.dumps({"role": "user", "content": f"{len(texts)} {TEXT}"})
            record = self.journal.record(task)
            self.journal.append(task, record.seq + 1, MessageAdded(conversation="executor", message=text))
            self.acknowledged.append(text)
            await anyio.lowlevel.checkpoint()
        return self.end(task, Outcome.DELIVERED, "all checks pass", "")


def settings(home: Path, reserve_mib: float = 0.5) -> Config:
    return Config(home=home, journal=JournalSettings(reserve_mib=reserve_mib), concurrency=2)


def request(text: str, repo: object = "/nowhere") -> TaskRequest:
    return TaskRequest(title=text, text=text, repo=str(repo))


async def until(condition: Callable[[], object], seconds: float = 15) -> None:
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.01)


@asynccontextmanager
async def serving(config: Config, worker: FakeWorker, said: list[str]) -> AsyncGenerator[Service]:
    one = Service(config, open_worker=worker.open, say=said.append)
    async with anyio.create_task_group() as group:
        group.start_soon(one.run)
        with anyio.fail_after(10):
            await one.started.wait()
        try:
            yield one
        finally:
            one.stop()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the disk, rescue and try again at once."""
    monkeypatch.setattr(health, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(service, "RESCUE_SECONDS", 0.1)
    monkeypatch.setattr(service, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(service, "FIRST_RETRY_SECONDS", 0.1)


@pytest.mark.anyio
async def test_a_full_disk_stops_what_runs_takes_nothing_new_and_goes_on_from_the_same_bytes_when_there_is_room(
    tmp_path: Path, quick: None, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.WARNING)
    repo = make_repository(tmp_path / "repo")
    with small_disk(tmp_path / "home", 4) as home:
        config, worker, said = settings(home), Talker(), []
        async with serving(config, worker, said) as one:
            with Journal.open(config.journal) as journal:
                gateway = JournalGateway(journal, config)
                task = (await gateway.submit(request("talk"), origin="cli")).id
                await until(lambda: task in worker.running)
                ballast = fill(home)
                worker.go.set()
                await until(lambda: one.health.trouble)
                assert task not in worker.running
                assert journal.view(task).state is TaskState.RUNNING  # even that could not be written
                assert "no new work is taken" in said[-1]
                with pytest.raises(JournalUnavailable, match="no new task is taken"):
                    await gateway.submit(request("later"), origin="cli")
                (home / "inbox" / "dropped.md").symlink_to(tmp_path)  # what lies there is looked at, and kept
                assert "MiB left" in storage_trouble(config)

                worker.go = anyio.Event()
                ballast.unlink()
                await until(lambda: not one.health.trouble)
                await until(lambda: task in worker.running)
                worker.done = True
                worker.go.set()
                await until(lambda: journal.view(task).state is TaskState.ENDED)
                assert journal.view(task).outcome is Outcome.DELIVERED
                assert journal.record(task).conversations["executor"] == worker.acknowledged
                assert journal.record(task).claims == 2
                dropped = home / "inbox" / "new.md"
                dropped.write_text(f"---\nrepo: {repo}\n---\n# deliver\n\ndeliver\n")
                await until(lambda: len(journal.tasks([TaskState.ENDED])) == 2)
    assert "the trouble is over, work goes on" in said
    assert [record.levelname for record in caplog.records if "no new work" in record.message] == ["ERROR"]


@pytest.mark.anyio
async def test_a_journal_that_cannot_be_read_for_a_while_does_not_end_the_service(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
):
    failing, read = False, Journal.data_version

    def version(journal: Journal) -> int:
        if failing:
            raise JournalUnavailable("the disk fails")
        return read(journal)

    monkeypatch.setattr(Journal, "data_version", version)
    config, worker, said = settings(tmp_path / "home"), FakeWorker(), []
    async with serving(config, worker, said) as one:
        failing = True
        await until(lambda: "no new work is taken: the disk fails" in said)
        failing = False
        await until(lambda: not one.health.trouble)
        with Journal.open(config.journal) as journal:
            journal.submit(request("deliver"), origin="cli", name_hint="fix")
            await until(lambda: [view.outcome for view in journal.tasks()] == [Outcome.DELIVERED])


@pytest.mark.anyio
async def test_a_dropped_file_waits_in_the_inbox_while_there_is_no_room(tmp_path: Path, quick: None):
    repo = make_repository(tmp_path / "repo")
    with small_disk(tmp_path / "home", 4) as home:
        config, worker, said = settings(home, reserve_mib=2), FakeWorker(), []
        async with serving(config, worker, said) as one:
            (home / "ballast").write_bytes(bytes(3 << 20))
            await until(lambda: one.health.trouble)
            (home / "inbox" / "fix.md").write_text(f"---\nrepo: {repo}\n---\n# deliver\n\ndeliver\n")
            await until(lambda: list((home / "inbox" / ".claimed").iterdir()))
            with Journal.open(config.journal) as journal:
                assert journal.tasks() == []
                (home / "ballast").unlink()
                await until(lambda: [view.outcome for view in journal.tasks()] == [Outcome.DELIVERED])
    assert list(tmp_path.glob("home/rejected/*")) == []


@pytest.mark.anyio
async def test_a_disk_that_breaks_under_a_running_task_stops_it_and_the_service_stays_and_says_so(
    tmp_path: Path, quick: None
):
    with breaking_disk(tmp_path / "home", tmp_path / "image") as home:
        config, worker, said = settings(home), Talker(), []
        async with serving(config, worker, said) as one:
            with Journal.open(config.journal) as journal:
                task = journal.submit(request("talk"), origin="cli", name_hint="talk").task
                worker.go.set()
                await until(lambda: len(worker.acknowledged) > 3)
                break_disk(home)
                await until(lambda: one.health.trouble)
                await until(lambda: "cannot be written" in one.health.trouble)  # a look at the disk says the same
                assert task not in worker.running
                assert journal.view(task).state is TaskState.RUNNING
                assert journal.record(task).conversations["executor"] == worker.acknowledged
                assert "cannot be written" in storage_trouble(config, write=True)


@pytest.mark.anyio
async def test_a_task_that_is_run_here_and_now_is_refused_or_stops_where_its_journal_stands(tmp_path: Path):
    with small_disk(tmp_path / "home", 4) as home:
        worker = Talker()
        worker.go.set()
        with pytest.raises(JournalUnavailable, match="no new task is taken"):
            await run_one(settings(home, 50), request("talk"), open_worker=worker.open, say=lambda _: None)
        with pytest.raises(ExceptionGroup) as stopped:
            await run_one(settings(home, 0), request("talk"), open_worker=worker.open, say=lambda _: None)
        assert "stopped where its journal stands" in str(unwrapped(stopped.value))
        with Journal.open(home / "journal.sqlite") as journal:
            [view] = journal.tasks()
            assert view.state is TaskState.RUNNING
            assert journal.record(view.id).conversations["executor"] == worker.acknowledged


@pytest.mark.anyio
async def test_a_report_that_finds_no_room_is_written_later_and_the_task_does_not_fail_for_it(
    tmp_path: Path, quick: None
):
    with small_disk(tmp_path / "results", 1) as results:
        config, worker, said = settings(tmp_path / "home"), FakeWorker(), []
        config.home.mkdir()
        config.outbox.symlink_to(results)
        ballast = fill(results)
        async with serving(config, worker, said):
            with Journal.open(config.journal) as journal:
                task = journal.submit(request("deliver"), origin="cli", name_hint="fix").task
                await until(lambda: len(worker.ran) > 1)
                assert journal.view(task).outcome is None
                ballast.unlink()
                await until(lambda: journal.view(task).outcome is Outcome.DELIVERED)
        assert (config.outbox / "fix.report.md").exists()


def test_a_read_only_disk_is_said_and_what_is_there_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    home = tmp_path / "home"
    cli: Command = command(monkeypatch, capsys, home)
    with Journal.open(home / "journal.sqlite") as journal:
        journal.submit(request("deliver"), origin="cli", name_hint="fix")
    with read_only(home):
        listed = cli("list")
        assert (listed.code, "deliver" in listed.out) == (0, True)
        assert "no new task is taken" in listed.err
        assert "read-only" in listed.err
        assert cli("journal", "fix").code == 0
        refused = cli("submit", "-m", "more", "--repo", str(make_repository(tmp_path / "repo")))
        assert refused.code == 1
        assert "no new task is taken" in refused.err
        checks = {check["name"]: check for check in json.loads(cli("doctor", "--json").out)["checks"]}
        assert checks["disk"]["level"] == "fail"
        assert "read-only" in checks["disk"]["text"]
        assert checks["journal"]["level"] == "ok"
        environ = {**os.environ, "NIGHTCREW_HOME": str(home)}
        up = [sys.executable, "-m", "nightcrew", "up"]
        started = subprocess.run(up, env=environ, capture_output=True, text=True, timeout=25, check=False)
        assert started.returncode == 1
        assert "cannot be written" in started.stderr or "read-only" in started.stderr.lower()
        assert "Traceback" not in started.stderr


# --- the clock


def test_a_clock_that_is_set_is_said_once_and_nothing_is_judged_by_its_age_for_a_day(tmp_path: Path):
    now, wall, said = [100.0], [1_000_000.0], []
    one = Health(settings(tmp_path), said.append, clock=lambda: now[0], wall=lambda: wall[0])

    def goes_by(seconds: float, jump: float = 0.0) -> bool:
        now[0] += seconds
        wall[0] += seconds + jump
        assert one.good()
        return one.clock_is_calm()

    assert goes_by(3600)
    assert goes_by(3600, jump=2)
    assert not goes_by(10, jump=365 * 86400)
    assert not goes_by(3600)
    assert said == ["the clock was set forward by 365.0 days"]
    assert goes_by(24 * 3600)
    assert not goes_by(10, jump=-86400)
    assert said[1:] == ["the clock was set back by 1.0 days"]


def test_trouble_is_said_once_and_so_is_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now, said = [0.0], []
    one = Health(settings(tmp_path), said.append, clock=lambda: now[0])
    assert one.good()
    one.report(JournalError("the disk is full"))
    one.report(JournalError("the disk is full"))
    assert not one.good()
    assert said == ["no new work is taken: the disk is full"]
    now[0] += health.LOOK_SECONDS
    assert one.good()
    assert said[1:] == ["the trouble is over, work goes on"]
    assert list(tmp_path.iterdir()) == []
