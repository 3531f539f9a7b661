"""The inbox in full: folders of crews and repositories, attachments, and files that are changed in time."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from watchfiles import awatch

from fakes.inbox import GOOD, House, running, until
from nightcrew import attachments
from nightcrew.attachments import MAX_DEPTH, MAX_FILES, AttachmentStore, pictures
from nightcrew.config import Config, CrewSettings, InboxSettings, RoleSettings
from nightcrew.errors import AttachmentRefused
from nightcrew.events import TaskRevised, TaskSubmitted
from nightcrew.intake import inbox as intake_inbox
from nightcrew.intake.dropfolder import DropFolder
from nightcrew.intake.inbox import DOUBTFUL_SECONDS, REMOTE_SECONDS, STILL_SECONDS, UNNAMED_SECONDS
from nightcrew.intake.shared import file_system, trusts_events
from nightcrew.journal import Journal
from nightcrew_tools.contract import Attachment, TaskRequest

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(64))
JPEG = b"\xff\xd8\xff\xe0" + bytes(60)
NO_REPO = "# Fix it\n\nPlease.\n"


def settings(**inbox: object) -> InboxSettings:
    return InboxSettings.model_validate({"repos": {"shop": "/srv/shop"}, **inbox})


@pytest.fixture
def config(tmp_path: Path) -> Config:
    crew = CrewSettings(planner=RoleSettings(base_url="http://127.0.0.1:1/v1"))
    return Config(home=tmp_path / "home", crews={"duo": crew}, inbox=settings())


@pytest.fixture
def house(config: Config) -> Iterator[House]:
    with Journal.open(config.journal) as journal:
        DropFolder(config.inbox, config.rejected).prepare()
        yield House(config, journal)


def folder(house: House, name: str, files: dict[str, bytes | str]) -> Path:
    """A folder as one rename brings it."""
    aside = house.config.home / f"aside-{Path(name).name}"
    for path, content in files.items():
        (aside / path).parent.mkdir(parents=True, exist_ok=True)
        (aside / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    return aside.rename(house.config.inbox / name)


def requests(house: House) -> dict[str, TaskRequest]:
    """By name of the results."""
    return {task.name: house.journal.record(task.id).request for task in house.journal.tasks()}


# --- folders of crews and repositories


async def test_a_folder_that_is_called_after_a_crew_or_a_repository_says_it_for_its_files(house: House):
    for place in ("duo", "embedded", "shop", "shop/duo", "duo/shop"):
        (house.config.inbox / place).mkdir(parents=True, exist_ok=True)
        house.drop(f"{place}/{place.replace('/', '-')}.md", NO_REPO if "shop" in place else GOOD)
    await house.settle()
    found = {name: (request.crew, request.repo) for name, request in requests(house).items()}
    assert found == {
        "duo": ("duo", "/src/app"),
        "embedded": ("embedded", "/src/app"),
        "shop": (None, "/srv/shop"),
        "shop-duo": ("duo", "/srv/shop"),
        "duo-shop": ("duo", "/srv/shop"),
    }
    assert house.rejections == []
    assert {house.journal.record(task.id).origin for task in house.journal.tasks()} >= {"inbox:shop/duo/shop-duo.md"}


async def test_what_a_file_says_itself_wins_over_its_folder_and_that_is_said(
    house: House, caplog: pytest.LogCaptureFixture
):
    (house.config.inbox / "shop" / "duo").mkdir(parents=True)
    house.drop("shop/duo/a.md", GOOD.replace("---\n#", "crew: embedded\n---\n#"))
    await house.settle()
    request = requests(house)["a"]
    assert (request.crew, request.repo) == ("embedded", "/src/app")
    said = [record.message for record in caplog.records if record.message.startswith("a.md: it lies in")]
    assert len(said) == 2
    assert "'embedded'" in said[0] and "'/src/app'" in said[1]


async def test_a_new_folder_of_a_crew_is_noticed_and_watched_without_a_restart(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    armed: list[set[str]] = []

    def watch(*paths: Path, **options: object) -> object:
        armed.append({path.name for path in paths})
        return awatch(*paths, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("watchfiles.awatch", watch)
    async with running(house.make()):
        await until(lambda: armed)
        (house.config.inbox / "duo").mkdir()
        await until(lambda: {"inbox", "duo"} in armed)
        house.drop("duo/a.md")
        await until(lambda: house.accepted)
    assert requests(house)["a"].crew == "duo"


async def test_a_folder_that_is_neither_gets_time_and_then_a_report_that_names_what_there_is(house: House):
    folder(house, "dou", {"a.md": GOOD, "b.md": GOOD})
    (house.config.inbox / "empty").mkdir()
    await house.sweep()
    await house.sweep(after=UNNAMED_SECONDS - 0.1)
    assert house.inbox == ["dou", "empty"]
    await house.sweep(after=0.2)
    assert house.inbox == ["empty"]
    report = house.report("dou")
    assert "no crew and no repository is called 'dou'" in report
    assert "duo" in report and "embedded" in report and "shop" in report and "task.md" in report
    assert sorted(path.name for path in (house.config.rejected / "dou").iterdir()) == ["a.md", "b.md"]
    assert house.titles == []


async def test_a_bad_file_of_a_place_says_into_which_folder_it_is_to_be_dropped_again(house: House):
    (house.config.inbox / "duo").mkdir()
    house.drop("duo/a.md", "---\npriorty: 1\n---\nx\n")
    await house.settle()
    assert "the folder `duo/` of the inbox again" in house.report("a.md")
    assert "Line 2" in house.report("a.md")


async def test_what_an_earlier_run_claimed_in_a_place_keeps_its_crew_also_when_the_crew_is_gone(house: House):
    claimed = house.config.inbox / ".claimed"
    for place in ("@duo", "@shop/@duo", "@trio"):
        (claimed / place).mkdir(parents=True, mode=0o700)
        (claimed / place / f"t{len(place)}--{place.replace('/', '')}.md").write_text(GOOD)
    await house.settle()
    assert {name: request.crew for name, request in requests(house).items()} == {
        "duo": "duo",
        "shop-duo": "duo",
        "trio": "trio",  # which the validation then refuses by name
    }
    assert list(claimed.rglob("*--*")) == []


async def test_a_link_that_is_called_after_a_crew_is_no_place(house: House, tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.md").write_text(GOOD)
    (house.config.inbox / "duo").symlink_to(elsewhere)
    await house.settle()
    assert (elsewhere / "a.md").exists()
    assert house.titles == []
    assert "symbolic link" in house.report("duo")


def test_a_name_for_a_repositorys_folder_that_is_a_crews_too_is_refused(tmp_path: Path):
    crews = {"duo": {"planner": {"base_url": "http://127.0.0.1:1/v1"}}}
    with pytest.raises(ValueError, match="'duo' is a crew's name too"):
        Config.model_validate({"home": tmp_path, "crews": crews, "inbox": {"repos": {"duo": "/srv/x"}}})
    with pytest.raises(ValueError, match="neither an absolute path nor a URL"):
        Config.model_validate({"home": tmp_path, "inbox": {"repos": {"x": "src/x"}}})


# --- attachments


async def test_a_folder_with_a_task_file_is_one_task_and_its_files_are_kept_for_it(house: House):
    files = {"task.md": GOOD, "shot.png": PNG, "logs/run.txt": "it broke\n", ".DS_Store": "x"}
    folder(house, "Login broken", files)
    await house.settle()
    (task,) = house.journal.tasks()
    request = house.journal.record(task.id).request
    assert (task.name, request.images) == ("login-broken", ("shot.png",))
    assert request.attachments == (
        Attachment(path="logs/run.txt", bytes=9, sha256=hashlib.sha256(b"it broke\n").hexdigest()),
        Attachment(path="shot.png", bytes=len(PNG), sha256=hashlib.sha256(PNG).hexdigest(), image="png"),
    )
    kept = AttachmentStore(house.config.attachments).of(task.id, request)
    assert kept is not None
    assert (kept / "shot.png").read_bytes() == PNG
    assert (kept / "logs" / "run.txt").read_text() == "it broke\n"
    assert not (kept / ".DS_Store").exists() and not (kept / "task.md").exists()
    assert house.hidden(".accepted") == [f"{task.id}--Login broken"]
    assert (house.inbox, house.hidden(".claimed")) == ([], [])


async def test_a_folder_in_a_crews_folder_is_a_task_for_that_crew(house: House):
    (house.config.inbox / "duo").mkdir()
    folder(house, "duo/shots", {"task.md": GOOD, "a.png": PNG})
    await house.settle()
    assert requests(house)["shots"].crew == "duo"
    (house.config.inbox / "duo" / "task.md").write_text(GOOD)  # a crew's folder is never itself a task
    await house.settle()
    assert requests(house)["task"].attachments == ()


async def test_a_folder_that_is_being_copied_is_left_alone_until_all_of_it_is_still(house: House):
    place = house.config.inbox / "shots"
    place.mkdir()
    (place / "task.md").write_text(GOOD)
    await house.sweep()
    for number in range(3):
        with (place / f"{number}.png").open("wb") as file:
            file.write(PNG)
            file.flush()
            await house.sweep(after=DOUBTFUL_SECONDS)
            assert house.inbox == ["shots"]
            await house.sweep(after=DOUBTFUL_SECONDS)  # still for long, and open
            assert house.inbox == ["shots"]
    (place / "late.png.part").write_bytes(PNG)
    (place / ".late.png.x8Kq2Z").write_bytes(PNG)
    for name in ("late.png.part", ".late.png.x8Kq2Z"):
        await house.sweep(after=DOUBTFUL_SECONDS)
        await house.sweep(after=DOUBTFUL_SECONDS)
        assert house.inbox == ["shots"], name
        (place / name).unlink()
    await house.sweep()
    await house.sweep(after=DOUBTFUL_SECONDS)
    assert [one.path for one in requests(house)["shots"].attachments] == ["0.png", "1.png", "2.png"]


async def test_a_folder_whose_writer_still_works_after_the_claim_is_waited_for(house: House):
    claimed = house.config.inbox / ".claimed" / "t1--shots"
    claimed.mkdir()
    (claimed / "task.md").write_text(GOOD)
    with (claimed / "a.png").open("wb") as file:
        file.write(PNG[:9])
        file.flush()
        await house.settle()
        assert house.journal.tasks() == []
        file.write(PNG[9:])
    await house.sweep()
    assert [one.bytes for one in requests(house)["shots"].attachments] == [len(PNG)]
    assert [path for path in house.config.attachments.iterdir() if path.name.startswith(".")] == []


def many(place: Path) -> None:
    for number in range(MAX_FILES + 1):
        (place / f"{number}.txt").write_text("x")


def deep(place: Path) -> None:
    inner = place.joinpath(*"abcdefgh"[: MAX_DEPTH + 1])
    inner.mkdir(parents=True)
    (inner / "x.txt").write_text("x")


def sparse(place: Path, name: str, size: int) -> None:
    with (place / name).open("wb") as file:
        file.truncate(size)


def a_socket(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(place)
        server.bind("s.png")
        os.chdir(here)


WRONGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "many": (many, f"more than {MAX_FILES} files"),
    "deep": (deep, f"more than {MAX_DEPTH} folders deep"),
    "large": (lambda place: sparse(place, "core", 1 << 40), "larger than 16 MiB"),
    "together": (lambda place: [sparse(place, f"{n}.bin", 15 << 20) for n in range(5)], "64 MiB together"),
    "link": (lambda place: (place / "a.png").symlink_to("/etc/passwd"), "a.png is a symbolic link"),
    "linked folder": (lambda place: (place / "logs").symlink_to("/etc"), "logs is a symbolic link"),
    "pipe": (lambda place: os.mkfifo(place / "p.png"), "p.png is a pipe"),
    "socket": (a_socket, "s.png is a pipe, socket"),
    "name": (lambda place: (place / "a\nb.png").write_bytes(PNG), "cannot be shown"),
    "task link": (
        lambda place: [(place / "task.md").unlink(), (place / "task.md").symlink_to("a")],
        "task.md is a sym",
    ),
    "no picture": (
        lambda place: [
            (place / "a.png").write_text("no"),
            (place / "task.md").write_text(GOOD.replace("---\n#", "images: [a.png]\n---\n#")),
        ],
        "Line 3: `images`: a.png is no PNG",
    ),
    "not there": (
        lambda place: [
            (place / "a.png").write_bytes(PNG),
            (place / "task.md").write_text(GOOD.replace("---\n#", "images: [b.png]\n---\n#")),
        ],
        "'b.png' is not there; there is a.png",
    ),
    "outside": (
        lambda place: (place / "task.md").write_text(GOOD.replace("---\n#", "images: [../../x.png]\n---\n#")),
        "'../../x.png' is not there",
    ),
    "bad task": (lambda place: (place / "task.md").write_text("---\npriorty: 1\n---\nx"), "Line 2: there is no field"),
}


async def test_a_folder_against_the_rules_is_laid_aside_whole_with_the_reason(house: House):
    for name, (spoil, _) in WRONGS.items():
        aside = house.config.home / "aside"
        aside.mkdir()
        (aside / "task.md").write_text(GOOD)
        spoil(aside)
        aside.rename(house.config.inbox / name)
    with anyio.fail_after(20):
        await house.settle()
        await house.sweep(after=UNNAMED_SECONDS)
    assert house.titles == []
    for name, (_, words) in WRONGS.items():
        assert words in house.report(name), name
        assert (house.config.rejected / name).is_dir()
    assert (house.inbox, house.hidden(".claimed")) == ([], [])
    assert not house.config.attachments.exists() or not any(house.config.attachments.iterdir())


async def test_named_pictures_come_in_their_order_and_others_are_attachments_only(house: House):
    text = GOOD.replace("---\n#", "images: [b.gif, a.jpg]\n---\n#")
    files = {"task.md": text, "a.jpg": JPEG, "b.gif": b"GIF89a" + bytes(9), "c.webp": b"RIFF0000WEBPVP8 "}
    folder(house, "shots", files)
    await house.settle()
    request = requests(house)["shots"]
    assert request.images == ("b.gif", "a.jpg")
    assert [one.image for one in request.attachments] == ["jpeg", "gif", "webp"]


def test_no_more_pictures_are_shown_than_one_message_carries():
    def image(name: str, mib: float) -> Attachment:
        return Attachment(path=name, bytes=int(mib * 2**20), sha256="", image="png")

    assert pictures([image("a", 5), image("b", 1)], ()) == ("b",)
    assert pictures([image("a", 4), image("b", 3.5), image("c", 1), image("d", 0.5)], ()) == ("a", "b", "d")
    assert len(pictures([image(str(n), 0.1) for n in range(20)], ())) == 8
    for named in (
        (image("a", 5),),
        tuple(image(str(n), 4) for n in range(3)),
        tuple(image(str(n), 0) for n in range(9)),
    ):
        with pytest.raises(AttachmentRefused):
            pictures(named, [one.path for one in named])


class Crash(BaseException):
    """The process is gone: nothing handles it."""


@pytest.mark.parametrize("where", ["submit_many", "accept"])
async def test_a_crash_around_the_journal_makes_one_task_with_one_set_of_attachments(
    house: House, monkeypatch: pytest.MonkeyPatch, where: str
):
    folder(house, "shots", {"task.md": GOOD, "a.png": PNG})

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as broken:
        broken.setattr(DropFolder if where == "accept" else Journal, where, crash)
        with pytest.raises(BaseExceptionGroup, match="unhandled"):
            await house.settle()
    house.intake = house.make(clock=house.clock)
    await house.sweep()
    (task,) = house.journal.tasks()
    kept = AttachmentStore(house.config.attachments).of(task.id, house.journal.record(task.id).request)
    assert kept is not None and (kept / "a.png").read_bytes() == PNG
    assert [path.name for path in house.config.attachments.iterdir()] == [task.id]
    assert len(list((house.config.attachments / task.id).iterdir())) == 1
    assert house.hidden(".accepted") == [f"{task.id}--shots"]


async def test_attachments_go_when_the_journal_does_not_keep_their_task_and_not_before(house: House):
    folder(house, "shots", {"task.md": GOOD, "a.png": PNG})
    await house.settle()
    (task,) = house.journal.tasks()
    fresh, old = house.config.attachments / "fresh", house.config.attachments / "old"
    for path in (fresh, old):
        path.mkdir()
    past = time.time() - 2 * attachments.ORPHAN_SECONDS
    os.utime(old, (past, past))
    os.utime(house.config.attachments / task.id, (past, past))
    house.intake = house.make(clock=house.clock)
    await house.sweep()
    assert sorted(path.name for path in house.config.attachments.iterdir()) == sorted(["fresh", task.id])


def test_attachments_that_somebody_removed_are_missed_by_name(tmp_path: Path):
    request = TaskRequest(
        title="t", text="t", repo="/r", attachments=(Attachment(path="a.png", bytes=1, sha256="0" * 64),)
    )
    with pytest.raises(AttachmentRefused, match="attachments are gone from"):
        AttachmentStore(tmp_path).of("t1", request)


# --- files that are changed while they wait


async def test_an_edit_before_the_claim_counts_and_a_deleted_file_is_no_task(house: House):
    edited, saved, deleted = house.drop("edited.md"), house.drop("saved.md"), house.drop("deleted.md")
    await house.sweep()
    edited.write_text(GOOD.replace("Fix it", "Fix it well"))
    house.drop(".saved.md.new", GOOD.replace("Fix it", "Saved by an editor")).rename(saved)
    deleted.unlink()
    await house.sweep(after=STILL_SECONDS)
    assert house.titles == []
    await house.sweep(after=STILL_SECONDS)
    assert house.titles == ["Fix it well", "Saved by an editor"]
    assert house.rejections == []


def with_id(text: str, more: str = "") -> str:
    return GOOD.replace("---\n#", f"id: nightly\n{more}---\n#").replace("Fix it", text)


async def test_a_file_of_the_same_name_and_id_takes_the_place_of_one_that_nobody_has_begun(house: House):
    folder(house, "fix", {"task.md": with_id("First"), "a.png": PNG})
    house.drop("other.md")
    await house.settle()
    folder(house, "fix", {"task.md": with_id("Second", "priority: 5\n"), "b.png": PNG})
    await house.settle()
    assert house.titles == ["Fix it", "Second"]
    record = house.journal.record("nightly")
    kinds = [type(recorded.event) for recorded in house.journal.read("nightly")]
    assert kinds == [TaskSubmitted, TaskRevised]
    assert house.journal.view("nightly").remark == ""
    assert [one.path for one in record.request.attachments] == ["b.png"]
    kept = AttachmentStore(house.config.attachments).of("nightly", record.request)
    assert kept is not None and (kept / "b.png").exists()
    first = house.journal.claim("w")
    assert first is not None and first.id == "nightly", "its new priority counts"
    assert (house.inbox, house.rejections) == ([], [])


async def test_the_same_file_again_changes_nothing_whether_the_task_has_begun_or_not(house: House):
    for begin in (False, True):
        house.drop("fix.md", with_id("First"))
        await house.settle()
        if not begin:
            assert house.journal.claim("w") is not None
    assert len(house.journal.read("nightly")) == 2
    assert (house.rejections, len(house.hidden(".accepted"))) == ([], 2)


async def test_another_text_for_a_task_that_has_begun_or_that_another_file_made_is_refused_with_a_report(house: House):
    house.drop("fix.md", with_id("First"))
    await house.settle()
    house.drop("else.md", with_id("Elsewhere"))
    await house.settle()
    assert "came from inbox:fix.md" in house.report("else.md")
    assert house.journal.claim("w") is not None
    house.drop("fix.md", with_id("Second"))
    await house.settle()
    assert "has begun" in house.report("fix.md")
    assert house.titles == ["First"]


async def test_the_id_of_a_task_that_the_journal_does_not_keep_any_longer_is_refused_and_stops_nothing(house: House):
    house.drop("fix.md", with_id("First"))
    await house.settle()
    house.journal.request_cancel("nightly")
    for days in (101, 103):
        moment = datetime.now(UTC) + timedelta(days=days)
        house.journal.retention.trim(moment, keep_days=100.0, max_mib=1000.0)
    house.drop("fix.md", with_id("First"))
    house.drop("other.md")
    await house.settle()
    assert "ended long ago and is not kept" in house.report("fix.md")
    assert "Fix it" in house.titles


async def test_without_an_id_the_same_name_again_is_a_second_task_and_the_laid_aside_copy_means_nothing(house: House):
    house.drop("fix.md")
    await house.settle()
    for path in (house.config.inbox / ".accepted").iterdir():
        path.unlink()
    await house.settle()
    assert len(house.journal.tasks()) == 1
    house.drop("fix.md", GOOD.replace("Fix it", "Fix it too"))
    await house.settle()
    assert house.titles == ["Fix it", "Fix it too"]


# --- file systems of others


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:50 / /srv rw,relatime - nfs4 filer:/srv rw,vers=4.2
41 22 0:51 / /mnt/my\\040share rw shared:5 master:2 - cifs //filer/share rw
42 22 0:52 / /home/me/remote rw - fuse.sshfs me@far:/ rw
43 40 8:2 / /srv/local rw - xfs /dev/sdb rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me/inbox", "ext4"),
        ("/srv/inbox", "nfs4"),
        ("/srv/local/inbox", "xfs"),
        ("/mnt/my share/inbox", "cifs"),
        ("/home/me/remote/inbox", "fuse.sshfs"),
    ],
)
def test_the_file_system_of_a_path_is_that_of_the_innermost_mount(path: str, kind: str):
    assert file_system(Path(path), MOUNTS) == kind


def test_events_are_trusted_here_unless_somebody_says_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert trusts_events(tmp_path, "poll") == (False, "")
    assert trusts_events(tmp_path, "events") == (True, "")
    assert trusts_events(tmp_path, "auto") == (True, "")
    for kind in ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse", "fuse.sshfs", "virtiofs"):
        monkeypatch.setattr("nightcrew.intake.shared.file_system", lambda *_, kind=kind: kind)
        trusted, why = trusts_events(tmp_path, "auto")
        assert not trusted and kind in why


async def test_an_inbox_that_is_polled_awaits_no_events_and_gives_files_longer(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("watchfiles.awatch", lambda *_, **__: pytest.fail("it was watched"))
    monkeypatch.setattr(intake_inbox, "REMOTE_SECONDS", 0.5)
    house.config = house.config.model_copy(update={"inbox_settings": settings(watch="poll")})
    async with running(house.make()):
        started = time.monotonic()
        house.drop("a.md")
        await until(lambda: house.accepted)
        assert time.monotonic() - started >= 0.5
    assert REMOTE_SECONDS > 3, "longer than what a client of NFS knows of a size may be old"


async def test_a_rename_whose_answer_the_network_lost_is_found_out(house: House, monkeypatch: pytest.MonkeyPatch):
    house.drop("a.md")
    house.drop("b.md")
    rename = os.rename

    def renamed_twice(source: object, target: object, **folders: int) -> None:
        rename(source, target, **folders)  # type: ignore[call-overload]
        if source == "a.md":
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    with monkeypatch.context() as broken:
        broken.setattr(os, "rename", renamed_twice)
        await house.settle()
    assert len(house.journal.tasks()) == 2
    assert (house.inbox, house.hidden(".claimed"), house.rejections) == ([], [], [])


async def test_a_stale_handle_is_a_file_that_is_gone_and_holds_up_no_other(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    house.drop("a.md")
    house.drop("b.md", GOOD.replace("Fix it", "Fix b"))
    rename = os.rename

    def stale(source: object, target: object, **folders: int) -> None:
        if source == "a.md":
            raise OSError(errno.ESTALE, "Stale file handle")
        rename(source, target, **folders)  # type: ignore[call-overload]

    with monkeypatch.context() as broken:
        broken.setattr(os, "rename", stale)
        await house.settle()
        assert house.titles == ["Fix b"]
    await house.settle()
    assert house.titles == ["Fix b", "Fix it"]


async def test_clocks_that_disagree_by_years_do_not_matter(house: House):
    for name, moment in (("past.md", 0), ("future.md", 4_000_000_000)):
        path = house.drop(name)
        os.utime(path, (moment, moment))
    await house.sweep()
    await house.sweep(after=STILL_SECONDS)
    assert len(house.journal.tasks()) == 2


async def test_one_file_that_may_not_be_taken_away_gets_a_report_and_holds_up_no_other(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    house.drop("a.md")
    house.drop("b.md", GOOD.replace("Fix it", "Fix b"))
    rename = os.rename

    def refused(source: object, target: object, **folders: int) -> None:
        if source == "a.md":
            raise PermissionError(errno.EACCES, "Permission denied")
        rename(source, target, **folders)  # type: ignore[call-overload]

    with monkeypatch.context() as broken:
        broken.setattr(os, "rename", refused)
        await house.settle()
        await house.sweep(after=1)
    assert house.titles == ["Fix b"]
    assert "cannot be taken out of the inbox: Permission denied; chmod" in house.report("a.md")
    assert "taken as soon as that is put right" in house.report("a.md")
    assert len(house.rejections) == 1
    await house.sweep(after=1)
    assert house.titles == ["Fix b", "Fix it"]


async def test_rejected_files_go_to_another_file_system_too(house: House, tmp_path: Path):
    elsewhere = Path("/dev/shm") / f"nightcrew-{os.getpid()}"
    if not elsewhere.parent.is_dir() or elsewhere.parent.stat().st_dev == house.config.inbox.stat().st_dev:
        pytest.skip("there is no second file system")
    elsewhere.mkdir()
    try:
        house.config.rejected.rmdir()
        house.config.rejected.symlink_to(elsewhere)
        house.drop("bad.md", "x")
        os.mkfifo(house.config.inbox / "pipe.md")
        folder(house, "bad", {"task.md": "x", "a.png": PNG})
        await house.settle()
        assert (elsewhere / "bad.md").read_text() == "x"
        assert (elsewhere / "bad" / "a.png").read_bytes() == PNG
        assert (elsewhere / "pipe.md.report.md").exists()
        assert (house.inbox, house.hidden(".claimed")) == ([], [])
    finally:
        shutil.rmtree(elsewhere)


# --- a crash at every step


@pytest.mark.timeout(120)
async def test_a_crash_before_any_rename_or_sync_loses_doubles_and_cuts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    steps = 0
    for step in range(1, 200):
        config = Config(home=tmp_path / str(step))
        with Journal.open(config.journal) as journal:
            DropFolder(config.inbox, config.rejected).prepare()
            house = House(config, journal)
            house.drop("good.md")
            house.drop("bad.md", "---\npriorty: 1\n---\nx\n")
            folder(house, "shots", {"task.md": GOOD.replace("Fix it", "Look"), "a.png": PNG})
            crashed = await _crash_at(step, house, monkeypatch)
            house.intake = house.make(clock=house.clock)
            await house.settle()
            await house.sweep()
            assert house.titles == ["Fix it", "Look"], step
            (shots,) = (task.id for task in journal.tasks() if task.title == "Look")
            kept = AttachmentStore(config.attachments).of(shots, journal.record(shots).request)
            assert kept is not None and (kept / "a.png").read_bytes() == PNG, step
            assert sorted(path.name for path in config.rejected.glob("[!.]*")) == ["bad.md", "bad.md.report.md"], step
            assert (house.inbox, house.hidden(".claimed"), len(house.hidden(".accepted"))) == ([], [], 2), step
        if not crashed:
            break
        steps = step
    assert 10 < steps < 199, "the last one went through, and there were steps before"


async def _crash_at(step: int, house: House, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Work the inbox, and stop before the so-many-th call that changes the disk; False when there were less."""
    calls = 0

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **more: object) -> object:
            nonlocal calls
            calls += 1
            if calls >= step:  # and nothing after it: the process is gone
                raise Crash
            return real(*arguments, **more)

        return call

    with monkeypatch.context() as broken:
        for owner, name in ((os, "rename"), (os, "replace"), (os, "fsync"), (Journal, "submit_many")):
            broken.setattr(owner, name, counted(getattr(owner, name)))
        try:
            await house.settle()
        except (Crash, BaseExceptionGroup):
            return True
    return False
