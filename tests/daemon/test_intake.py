"""Dropped files: each becomes one task or one report, whatever happens around it."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from watchfiles import awatch

from fakes.inbox import GOOD, House, running, until
from nightcrew.config import Config
from nightcrew.errors import JournalError, NightcrewError
from nightcrew.events import TaskSubmitted
from nightcrew.intake.dropfolder import DropFolder, has_writer
from nightcrew.intake.inbox import DOUBTFUL_SECONDS, STILL_SECONDS, Intake
from nightcrew.intake.places import Dropped
from nightcrew.journal import Journal
from nightcrew_tools.contract import Limits, TaskRequest

pytestmark = pytest.mark.anyio


class Crash(BaseException):
    """The process is gone: nothing handles it."""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(home=tmp_path / "home", limits=Limits(minutes=7))


@pytest.fixture
def house(config: Config) -> Iterator[House]:
    with Journal.open(config.journal) as journal:
        DropFolder(config.inbox, config.rejected).prepare()
        yield House(config, journal)


# --- taking a file


async def test_a_dropped_file_becomes_a_task_and_is_laid_aside(house: House):
    house.drop("Fix Parser.md")
    await house.sweep()
    assert house.journal.tasks() == []
    await house.sweep(after=STILL_SECONDS)
    (task,) = house.journal.tasks()
    assert (task.title, task.name) == ("Fix it", "fix-parser")
    event = house.journal.read(task.id)[0].event
    assert isinstance(event, TaskSubmitted)
    assert event.origin == "inbox:Fix Parser.md"
    assert event.request.limits.minutes == 7
    assert house.accepted == [task]
    assert house.inbox == []
    assert house.hidden(".accepted") == [f"{task.id}--Fix Parser.md"]
    assert house.hidden(".claimed") == []


async def test_a_file_that_grows_is_left_alone_until_it_is_still(house: House):
    path = house.drop("a.md", "---\nrepo: /src\n")
    await house.sweep()
    for line in ("---\n", "# Title\n", "text\n"):
        with path.open("a") as file:
            file.write(line)
        await house.sweep(after=STILL_SECONDS)
        assert house.inbox == ["a.md"]
    await house.sweep(after=STILL_SECONDS)
    assert house.titles == ["Title"]


async def test_a_file_that_is_rewritten_with_the_same_size_and_time_is_seen_by_its_inode(house: House):
    path = house.drop("a.md")
    status = path.stat()
    await house.sweep()
    fresh = house.drop(".fresh", GOOD.replace("Fix it", "Do it "))
    os.utime(fresh, ns=(status.st_atime_ns, status.st_mtime_ns))
    fresh.rename(path)
    await house.sweep(after=STILL_SECONDS)
    assert house.inbox == ["a.md"]
    await house.sweep(after=STILL_SECONDS)
    assert house.titles == ["Do it"]


async def test_a_writer_that_pauses_with_the_file_open_is_waited_for(house: House):
    path = house.config.inbox / "a.md"
    with path.open("w") as file:
        file.write("---\nrepo: /src\n---\n# Half")
        file.flush()
        for _ in range(4):
            assert await house.sweep(after=DOUBTFUL_SECONDS) is not None
            assert house.inbox == ["a.md"]
        file.write(" and whole\n")
    await house.sweep()
    await house.sweep(after=STILL_SECONDS)
    assert house.titles == ["Half and whole"]


async def test_a_writer_that_still_has_a_claimed_file_open_is_waited_for(house: House):
    path = house.config.inbox / ".claimed" / "t1--a.md"
    with path.open("w") as file:
        file.write(GOOD)
        file.flush()
        await house.settle()
        assert house.hidden(".claimed") == ["t1--a.md"]
    await house.sweep()
    assert [task.id for task in house.journal.tasks()] == ["t1"]


def test_a_writer_that_comes_while_we_look_does_no_harm(house: House):
    path = house.drop("a.md")
    script = "import sys\nwhile True:\n    open(sys.argv[1], 'ab').close()\n"
    with subprocess.Popen([sys.executable, "-c", script, str(path)]) as writer:
        try:
            deadline = time.monotonic() + 1.5
            while time.monotonic() < deadline:
                fd = os.open(path, os.O_RDONLY)
                has_writer(fd)
                os.close(fd)
        finally:
            writer.kill()


async def test_a_file_that_vanishes_before_its_claim_is_nothing(house: House, monkeypatch: pytest.MonkeyPatch):
    path = house.drop("a.md")
    await house.sweep()
    look = DropFolder.is_being_written

    def look_and_lose(self: DropFolder, dropped: Dropped) -> bool:
        path.unlink()
        return look(self, dropped)

    monkeypatch.setattr(DropFolder, "is_being_written", look_and_lose)
    await house.sweep(after=STILL_SECONDS)
    assert (house.titles, house.rejections, house.hidden(".claimed")) == ([], [], [])


async def test_names_of_editors_and_copiers_are_left_alone(house: House):
    names = [".hidden.md", "a.md~", "a.tmp", "a.md.part", ".a.md.swp", "a.swp", "#a.md#"]
    for name in names:
        house.drop(name)
    await house.settle()
    assert sorted(path.name for path in house.config.inbox.iterdir() if path.is_file()) == sorted(names)
    assert house.rejections == []


async def test_a_thousand_files_in_one_drop_are_taken_quickly_and_in_order(house: House):
    for number in range(1000):
        house.drop(f"task-{number:04}.md", GOOD.replace("Fix it", f"Task {number:04}"))
    started = time.process_time()
    await house.sweep()
    await house.sweep(after=STILL_SECONDS)
    assert time.process_time() - started < 8
    assert house.titles == [f"Task {number:04}" for number in range(1000)]
    first, second = house.journal.claim("w"), house.journal.claim("w")
    assert first is not None and second is not None
    assert (first.request.title, second.request.title) == ("Task 0000", "Task 0001")


async def test_the_same_id_in_two_files_is_one_task(house: House):
    for name in ("a.md", "b.md"):
        house.drop(name, GOOD.replace("---\n#", "id: nightly\n---\n#"))
    await house.settle()
    assert [task.id for task in house.journal.tasks()] == ["nightly"]
    assert len(house.hidden(".accepted")) == 2


async def test_an_id_that_another_process_gave_out_already_swallows_no_task(house: House):
    other = TaskRequest(title="Other", text="Other", repo="/src")
    house.journal.submit(other, origin="inbox:a.md", name_hint="other", task_id="t1")
    (house.config.inbox / ".claimed" / "t1--a.md").write_text(GOOD)
    await house.sweep()
    await house.sweep()
    assert house.titles == ["Fix it", "Other"]


# --- refusing a file


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("binary.md", b"a\0b", "Line 1: the file is binary"),
        ("bad.md", "---\nrepo: /src\npriorty: 1\n---\nx\n", "Line 3: there is no field `priorty`"),
        ("latin.md", b"---\nrepo: /src\n---\nCaf\xe9\n", "Line 4: byte 0xe9"),
        ("big.md", b"x" * (1024 * 1024 + 1), "larger than 1 MiB"),
        ("relative.md", "---\nrepo: app\n---\nx\n", "Line 2: `repo`: 'app' is a relative path"),
        ("notes.txt", GOOD, "end in `.md`"),
        ("noext", GOOD, "end in `.md`"),
        ("empty.md", "", "the file is empty"),
        ("empty.txt", "", "end in `.md`"),
    ],
)
async def test_a_bad_file_is_laid_aside_with_a_report_and_others_go_on(
    house: House, name: str, content: str | bytes, words: str
):
    original = house.drop(name, content).read_bytes()
    house.drop("good.md")
    await house.settle()
    assert house.titles == ["Fix it"]
    assert (house.config.rejected / name).read_bytes() == original
    report = house.report(name)
    assert words in report
    assert report.startswith(f"# `{name}` was not taken")
    assert "drop it into the inbox again" in report
    assert [rejected for rejected, _ in house.rejections] == [name]
    assert (house.inbox, house.hidden(".claimed")) == ([], [])


async def test_the_report_shows_the_line(house: House):
    house.drop("bad.md", "---\nrepo: /src\npriorty: \x1b[31m1\n---\nx\n".replace("\x1b", "\u200b"))
    await house.settle()
    assert "    priorty:  [31m1" in house.report("bad.md")


async def test_an_empty_file_gets_time_to_be_filled(house: House):
    path = house.drop("a.md", "")
    await house.sweep()
    await house.sweep(after=DOUBTFUL_SECONDS - 0.1)
    assert house.inbox == ["a.md"]
    path.write_text(GOOD)
    await house.sweep()
    await house.sweep(after=STILL_SECONDS)
    assert (house.titles, house.rejections) == (["Fix it"], [])


async def test_rejecting_the_same_name_twice_keeps_both(house: House):
    for content in ("first\n", "second\n"):
        house.drop("a.md", content)
        await house.settle()
    kept = sorted(path.name for path in house.config.rejected.iterdir())
    assert len(kept) == 4
    contents = {path.read_text() for path in house.config.rejected.glob("*.md") if "report" not in path.name}
    assert contents == {"first\n", "second\n"}


async def test_what_the_validation_says_is_the_reason(house: House):
    seen: list[str] = []

    async def validate(request: TaskRequest) -> None:
        seen.append(request.repo)
        if request.repo == "/nowhere":
            raise NightcrewError("/nowhere: no such directory; write the path of a git repository")

    house.options["validate"] = validate
    house.intake = house.make(clock=house.clock)
    house.drop("a.md")
    house.drop("b.md", GOOD.replace("Fix it", "Fix more"))
    house.drop("c.md", GOOD.replace("/src/app", "/nowhere"))
    await house.settle()
    assert house.titles == ["Fix it", "Fix more"]
    assert "no such directory" in house.report("c.md")
    assert sorted(seen) == ["/nowhere", "/src/app"], "files that agree are validated once"


async def test_a_slow_validation_holds_up_nobody_else(house: House):
    release = anyio.Event()

    async def validate(request: TaskRequest) -> None:
        if request.repo == "/slow":
            await release.wait()

    house.options["validate"] = validate
    house.drop("slow.md", GOOD.replace("/src/app", "/slow").replace("Fix it", "Slow"))
    async with running(house.make()):
        await until(lambda: house.hidden(".claimed"))
        house.drop("quick.md")
        await until(lambda: house.titles == ["Fix it"])
        release.set()
        await until(lambda: house.titles == ["Fix it", "Slow"])
    assert len(house.accepted) == 2


async def test_a_file_that_may_not_be_read_is_rejected(house: House, monkeypatch: pytest.MonkeyPatch):
    def refuse(self: DropFolder, claimed: object, limit: int) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(DropFolder, "read", refuse)
    house.drop("a.md")
    await house.settle()
    assert "cannot be read (Permission denied); check its owner and mode" in house.report("a.md")


# --- what is no file, and odd names


async def test_links_pipes_and_sockets_neither_hang_nor_harm_and_each_has_its_report(house: House, tmp_path: Path):
    target = tmp_path / "secret.md"
    target.write_text(GOOD)
    (house.config.inbox / "folder.md").mkdir()
    (house.config.inbox / "link.md").symlink_to(target)
    (house.config.inbox / "dangling.md").symlink_to(tmp_path / "none")
    os.mkfifo(house.config.inbox / "pipe.md")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(house.config.inbox)
        server.bind("socket.md")
        os.chdir(here)
        house.drop("good.md")
        with anyio.fail_after(5):
            await house.settle()
    assert house.titles == ["Fix it"]
    assert house.inbox == ["folder.md"]
    for name, word in (("dangling", "link"), ("link", "link"), ("pipe", "pipe"), ("socket", "socket")):
        assert word in house.report(f"{name}.md").split("## What to do")[0]
        assert os.path.lexists(house.config.rejected / f"{name}.md")


async def test_a_claimed_name_that_is_a_pipe_or_link_is_not_followed(house: House, tmp_path: Path):
    target = tmp_path / "secret.md"
    target.write_text(GOOD)
    claimed = house.config.inbox / ".claimed"
    (claimed / "t1--link.md").symlink_to(target)
    os.mkfifo(claimed / "t2--pipe.md")
    with anyio.fail_after(5):
        await house.settle()
    assert house.titles == []
    assert "not followed" in house.report("link.md")
    assert "no file" in house.report("pipe.md")


async def test_names_that_are_no_text_or_too_long_are_taken(house: House):
    odd = os.fsdecode(b"caf\xe9 \n\x1b[31m.md")
    for name in (odd, "ü" * 125 + ".md", "x" * 252 + ".md", "y" * 255):
        house.drop(name)
    await house.settle()
    assert len(house.journal.tasks()) == 3
    assert len(house.rejections) == 1
    names = " ".join(name for name, _ in house.rejections)
    assert names.isprintable()
    origins = [house.journal.record(task.id).origin for task in house.journal.tasks()]
    assert all(origin.isprintable() for origin in origins)


# --- crashes


async def test_what_an_earlier_run_claimed_is_finished(house: House):
    claimed = house.config.inbox / ".claimed"
    (claimed / "t1--good.md").write_text(GOOD)
    (claimed / "t2--bad.md").write_text("")
    (claimed / "foreign").write_text("left alone")
    await house.make().run(once=True)
    assert [task.id for task in house.journal.tasks()] == ["t1"]
    assert house.hidden(".claimed") == ["foreign"]
    assert "empty" in house.report("bad.md")


async def test_a_crash_between_journal_and_move_makes_no_second_task(house: House, monkeypatch: pytest.MonkeyPatch):
    house.drop("a.md")

    def crash(self: DropFolder, claimed: object) -> None:
        raise Crash

    with monkeypatch.context() as broken:
        broken.setattr(DropFolder, "accept", crash)
        with pytest.raises(BaseExceptionGroup, match="unhandled"):
            await house.settle()
    assert len(house.hidden(".claimed")) == 1
    house.config = house.config.model_copy(update={"limits": Limits(minutes=9)})  # someone changed the defaults
    house.intake = house.make(clock=house.clock)
    await house.sweep()
    assert house.titles == ["Fix it"]
    assert len(house.hidden(".accepted")) == 1


async def test_a_journal_in_trouble_loses_no_file(house: House, monkeypatch: pytest.MonkeyPatch):
    def full(self: Journal, submissions: object) -> None:
        raise JournalError("the disk is full")

    house.drop("a.md")
    with monkeypatch.context() as broken:
        broken.setattr(Journal, "submit_many", full)
        await house.settle()
        await house.sweep()
    assert (house.titles, house.rejections) == ([], [])
    await house.sweep()
    assert house.titles == ["Fix it"]


# --- the service


async def test_a_drop_is_in_the_journal_well_under_a_second_later(house: House):
    async with running(house.make()):
        await until(house.config.inbox.is_dir)
        await anyio.sleep(0.3)  # the watcher's thread arms itself unseen
        started = time.monotonic()
        house.drop("a.md")
        await until(lambda: house.accepted)
        assert time.monotonic() - started < 0.8


async def test_the_inbox_is_made_for_this_user_alone(config: Config):
    with Journal.open(config.journal) as journal:
        await Intake(config, journal).run(once=True)
    assert stat.S_IMODE(config.inbox.stat().st_mode) == 0o700


async def test_a_replaced_or_removed_inbox_is_watched_again(house: House, monkeypatch: pytest.MonkeyPatch):
    armed: list[object] = []

    def watch(*paths: Path, **options: Any) -> object:
        armed.extend(paths)
        return awatch(*paths, **options)

    monkeypatch.setattr("watchfiles.awatch", watch)
    async with running(house.make()):
        house.drop("a.md")
        await until(lambda: len(house.accepted) == 1)
        house.config.inbox.rename(house.config.home / "old")
        await until((house.config.inbox / ".claimed").is_dir)
        house.drop("b.md")
        await until(lambda: len(house.accepted) == 2)
        shutil.rmtree(house.config.inbox)
        await until((house.config.inbox / ".claimed").is_dir)
        house.drop("c.md")
        await until(lambda: len(house.accepted) == 3)
        await until(lambda: len(armed) >= 3)


async def test_cancelling_the_intake_takes_no_second(house: House):
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(house.make().run)
        await anyio.sleep(0.3)  # so that the watcher's thread waits in the kernel
        started = time.monotonic()
        tasks.cancel_scope.cancel()
    assert time.monotonic() - started < 0.5


async def test_without_events_of_the_kernel_the_sweep_still_finds_everything(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    def no_watches(*paths: object, **options: object) -> None:
        raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr("watchfiles.awatch", no_watches)
    async with running(house.make()):
        await anyio.sleep(0.3)  # past the first sweep
        house.drop("a.md")
        await until(lambda: house.accepted)


async def test_once_takes_what_is_there_and_returns(house: House):
    house.drop("a.md")
    house.drop("bad.txt")
    open_file = (house.config.inbox / "open.md").open("w")
    open_file.write(GOOD)
    open_file.flush()
    with anyio.fail_after(10):
        await house.make().run(once=True)
    open_file.close()
    assert house.titles == ["Fix it"]
    assert house.inbox == ["open.md"]
    assert len(house.rejections) == 1
