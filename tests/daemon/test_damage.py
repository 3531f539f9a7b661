"""A damaged row costs one task, a damaged file the service; neither is written over, and both are said."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from fakes.command import Command, command
from fakes.workers import FakeWorker
from nightcrew.config import Config
from nightcrew.errors import JournalCorrupt
from nightcrew.events import TaskClaimed
from nightcrew.journal import Journal
from nightcrew.journal.fold import TaskRecord
from nightcrew.service import Service
from nightcrew_tools.contract import Outcome, TaskRequest, TaskState
from nightcrew_tools.groups import unwrapped

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(home=tmp_path / "home", concurrency=2)


@pytest.fixture
def cli(config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return command(monkeypatch, capsys, config.home)


def submit(journal: Journal, text: str, **changes: object) -> str:
    request = TaskRequest.model_validate({"title": text, "text": text, "repo": "/nowhere", **changes})
    return journal.submit(request, origin="cli", name_hint=text).task


def damage(config: Config, statement: str, *values: object) -> None:
    with sqlite3.connect(config.journal) as connection:
        connection.execute(statement, values)
    connection.close()


def break_event(config: Config, task: str, body: str = "{") -> None:
    damage(config, "UPDATE event SET body = ? WHERE task = ? AND seq = 1", body, task)


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.01)


@pytest.mark.anyio
async def test_a_damaged_task_is_passed_over_and_the_others_go_on(config: Config, caplog: pytest.LogCaptureFixture):
    worker = FakeWorker()
    with Journal.open(config.journal) as journal:
        broken, decided, fine = (
            submit(journal, "deliver one"),
            submit(journal, "deliver two"),
            submit(journal, "deliver"),
        )
        break_event(config, broken)
        damage(config, "UPDATE task SET asked = 1 WHERE id = ?", decided)
        break_event(config, decided)
        one = Service(config, open_worker=worker.open, say=lambda _: None)
        async with anyio.create_task_group() as group:
            group.start_soon(one.run)
            await until(lambda: journal.view(fine).state is TaskState.ENDED)
            one.stop()
        assert worker.ran == [fine]
        for task in (broken, decided):
            view = journal.view(task)
            assert view.state is TaskState.QUEUED
            assert view.reason.startswith(f"damaged: task {task}: event 1 cannot be read")
    assert f"task {broken}: event 1 cannot be read" in caplog.text


@pytest.mark.anyio
async def test_a_task_that_is_damaged_while_it_runs_stops_and_the_service_goes_on(config: Config):
    class Meeting(FakeWorker):
        async def _run(self, task: str, words: set[str]) -> TaskRecord:
            if "meet" in words:
                break_event(config, task)
                self.journal.record(task)
            return await super()._run(task, words)

    worker = Meeting()
    with Journal.open(config.journal) as journal:
        broken = submit(journal, "meet")
        one = Service(config, open_worker=worker.open, say=lambda _: None)
        async with anyio.create_task_group() as group:
            group.start_soon(one.run)
            await until(lambda: journal.view(broken).reason.startswith("damaged: "))
            fine = submit(journal, "deliver")
            await until(lambda: journal.view(fine).state is TaskState.ENDED)
            one.stop()
        assert journal.view(broken).outcome is None


def test_a_damaged_task_that_waits_keeps_nobody_from_ending(config: Config):
    with Journal.open(config.journal) as journal:
        first = submit(journal, "one")
        broken = submit(journal, "two", after=(first,))
        last = submit(journal, "three", after=(broken,))
        break_event(config, broken)
        journal.request_cancel(first)
        assert journal.view(first).outcome is Outcome.CANCELLED
        assert journal.view(broken).outcome is None
        journal.request_cancel(broken)
        assert journal.view(broken).outcome is Outcome.CANCELLED
        assert journal.view(last).outcome is Outcome.FAILED
        assert last in journal.owed()


def test_list_show_and_doctor_name_it_and_cancel_ends_it(config: Config, cli: Command):
    with Journal.open(config.journal) as journal:
        broken, fine = submit(journal, "deliver"), submit(journal, "fine")
        break_event(config, broken)
        claimed = journal.claim("w")
        assert claimed is not None
        assert claimed.id == fine
    listed = cli("list")
    assert listed.code == 0
    [line] = [line for line in listed.out.splitlines() if line.startswith(broken)]
    assert "damaged" in line.split()[1]
    shown = cli("show", broken)
    assert shown.code == 1
    assert f"task {broken}: event 1 cannot be read" in shown.out + shown.err
    [check] = [one for one in json.loads(cli("doctor", "--json").out)["checks"] if one["name"] == "journal"]
    assert check["level"] == "fail"
    assert f"task {broken}: event 1 cannot be read" in check["text"]
    assert cli("cancel", broken).code == 0
    with Journal.open(config.journal) as journal:
        view = journal.view(broken)
        assert (view.state, view.outcome) == (TaskState.ENDED, Outcome.CANCELLED)
        assert "cannot be read" in view.reason
        assert journal.owed() == []


def test_a_task_that_can_be_read_again_is_taken_up_at_the_next_start(config: Config):
    with Journal.open(config.journal) as journal:
        task = submit(journal, "deliver")
        good = journal.read(task)[0].event.model_dump_json()
        break_event(config, task)
        assert journal.claim("w") is None
        assert journal.view(task).reason.startswith("damaged: ")
    break_event(config, task, good)
    with Journal.open(config.journal) as journal:
        claimed = journal.claim("w")
        assert claimed is not None
        assert not journal.view(task).reason.startswith("damaged: ")
        assert journal.damage.examine() == []


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE event SET body = 'x' WHERE seq = 2", "event 2 cannot be read"),
        ("DELETE FROM event WHERE seq = 1", "begins with event 2"),
        ("DELETE FROM event WHERE seq = 2", "event 2 is missing"),
        ("UPDATE event SET at = 'yesterday' WHERE seq = 2", ""),
    ],
)
def test_an_examination_finds_what_a_task_could_not_be_run_with(config: Config, statement: str, words: str):
    with Journal.open(config.journal) as journal:
        task = submit(journal, "deliver")
        journal.append(task, 2, TaskClaimed(worker="w"))
        assert journal.damage.examine() == []
        damage(config, statement)
        found = journal.damage.examine()
    assert (words in found[0] and task in found[0]) if words else found == []


def test_a_stored_view_that_cannot_be_read_hides_no_other_task(config: Config, cli: Command):
    with Journal.open(config.journal) as journal:
        broken, fine = submit(journal, "one"), submit(journal, "two")
        damage(config, "UPDATE task SET view = 'x' WHERE id = ?", broken)
        assert {view.id for view in journal.tasks()} == {broken, fine}
        assert journal.view(broken).reason.startswith("damaged: ")
        assert len(cli("list").out.splitlines()) == 2


def wreck(path: Path) -> None:
    """Overwrite the pages in the middle of the file."""
    with path.open("r+b") as file:
        size = file.seek(0, 2)
        for place in range(4096, size, 4096):
            file.seek(place)
            file.write(b"\xa5" * 4096)


@pytest.mark.anyio
async def test_a_service_whose_file_is_damaged_ends_with_a_sentence_and_writes_no_more(config: Config):
    worker = FakeWorker()
    one = Service(config, open_worker=worker.open, say=lambda _: None)

    async def serve_until_the_file_is_wrecked() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(one.run)
            with anyio.fail_after(10):
                await one.started.wait()
            with Journal.open(config.journal) as journal:
                submit(journal, "hang")
                await until(lambda: worker.running)
                for number in range(40):
                    submit(journal, f"{number} {'y' * 5000}")
            damage(config, "PRAGMA wal_checkpoint(TRUNCATE)")
            wreck(config.journal)
            with anyio.fail_after(15):
                await anyio.sleep_forever()

    with pytest.raises(ExceptionGroup) as ended:
        await serve_until_the_file_is_wrecked()
    cause = unwrapped(ended.value)
    assert isinstance(cause, JournalCorrupt), repr(ended.value)
    assert "restore it from a backup" in str(cause)
