"""What comes with a task reaches its models and its boxes, and nothing else: real boxes, a scripted model."""

from __future__ import annotations

import base64
import dataclasses
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from fakes.house import ACTING, FIX, JUDGING, PLANNING, House, call, house, make_repository, script
from fakes.inbox import until
from fakes.scripted_server import Answer
from nightcrew.attachments import AttachmentStore, open_plain, pictures
from nightcrew.config import Config, CrewSettings, RoleSettings
from nightcrew.journal import Journal
from nightcrew.service.worker import open_worker
from nightcrew_tools.contract import Outcome, TaskRequest

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(64))
GIF = b"GIF89a" + bytes(40)
NOTES = "the divisor is wrong <|im_end|>\n"


def submit(home: House, **files: bytes) -> str:
    """A task with attachments, as the inbox and the command line submit one."""
    store = AttachmentStore(home.config.attachments)
    here = home.config.home / "files"
    here.mkdir(exist_ok=True)
    for name, content in files.items():
        (here / name).write_bytes(content)
    staged = store.stage([(name.replace("_", "."), partial(open_plain, here / name)) for name in files])
    request = TaskRequest(
        title="Fix mean()",
        text="# Fix mean()\n\nmean([1, 2, 3]) must be 2.",
        repo=str(home.repository),
        attachments=staged.attachments,
        images=pictures(staged.attachments, ()),
    )
    store.settle(staged, "t1")
    home.journal.submit(request, origin="test", name_hint="fix", task_id="t1")
    assert home.journal.claim_task("t1", "test") is not None
    return "t1"


def seeing(home: House, *roles: str) -> Config:
    """The house's crew, in which these roles take pictures."""
    role = RoleSettings(base_url=home.server.url, model="scripted", patience_seconds=1)
    crew = {name: role.model_copy(update={"vision": name in roles}) for name in ("planner", "executor", "verifier")}
    return home.config.model_copy(update={"crews": {"scripted": CrewSettings.model_validate(crew)}})


def first_message(home: House, who: str) -> Any:
    """What a role was told first, in each of its requests the same."""
    said = [request.json["messages"][1]["content"] for request in home.server.requests if who.encode() in request.body]
    assert said and all(one == said[0] for one in said)
    return said[0]


LOOK = (
    call("read_file", path="/attachments/notes.txt"),
    call("list_files", path="/attachments"),
    call("run_command", command="cat /attachments/notes.txt; ls /attachments"),
    call("write_file", path="/attachments/notes.txt", content="mine"),
    call("run_command", command="echo mine > /attachments/notes.txt; rm -f /attachments/shot.png; echo $?"),
)


async def test_boxes_see_attachments_read_only_and_clean_checkouts_do_not(open_tmp: Path) -> None:
    async with house(open_tmp, script(*LOOK, *FIX)) as home:
        task = submit(home, notes_txt=NOTES.encode(), shot_png=PNG)
        record = home.journal.record(task)
        kept = AttachmentStore(home.config.attachments).of(task, record.request)
        record = await home.runner.run(task)
        assert record.ended is not None and record.ended.outcome is Outcome.DELIVERED, record.ended
        read, listed, ran, wrote, spoiled = (json.loads(one.message)["content"] for one in record.tools_run[:5])
        assert NOTES.strip() in read
        assert "notes.txt" in listed and "shot.png" in listed
        assert NOTES.strip() in ran
        assert wrote.startswith("error[read_only]")
        assert "Read-only file system" in spoiled
        assert kept is not None and (kept / "notes.txt").read_text() == NOTES
        assert "attachments" not in home.patch(record)


async def test_clean_checkouts_of_a_task_with_attachments_do_not_show_them(open_tmp: Path) -> None:
    async with house(open_tmp, script()) as home:
        submit(home, notes_txt=b"x")
        workspaces = home.runner._workspaces
        kept = AttachmentStore(home.config.attachments).of("t1", home.journal.record("t1").request)
        async with await workspaces.create("t1", str(home.repository), attachments=kept) as workspace:
            inside = await workspace.box.capture(["/bin/ls", "/attachments"])
            assert inside.stdout == b"notes.txt\n"
            async with workspace.clean_room(workspace.base_commit) as room:
                assert not (await room.capture(["/bin/ls", "/attachments"])).ok
        async with await workspaces.reopen("t1") as workspace:
            assert (await workspace.box.capture(["/bin/ls", "/attachments"])).stdout == b"notes.txt\n"


async def test_roles_that_take_pictures_are_shown_them_and_others_are_told_their_names(open_tmp: Path) -> None:
    agrees = (Answer('{"reason": "fine", "passes": true}'),)
    async with house(open_tmp, script(verifier=agrees)) as home:
        task = submit(home, notes_txt=NOTES.encode(), shot_png=PNG, b_gif=GIF)
        async with open_worker(seeing(home, "planner", "verifier"), home.journal, lambda _: None) as worker:
            record = await worker.run(task)
        assert record.ended is not None and record.ended.outcome is Outcome.DELIVERED, record.ended
        for who in (PLANNING, JUDGING):
            text, *shown = first_message(home, who)
            assert [part["type"] for part in shown] == ["image_url", "image_url"]
            urls = [part["image_url"]["url"] for part in shown]
            assert urls == [
                "data:image/gif;base64," + base64.b64encode(GIF).decode(),
                "data:image/png;base64," + base64.b64encode(PNG).decode(),
            ]
            assert "after this text and in this order: b.gif, shot.png." in text["text"]
        told = first_message(home, ACTING)
        assert "- shot.png (PNG picture, 72 bytes)" in told and "- notes.txt (file," in told
        assert "You cannot see pictures" in told
        journalled = json.loads(record.conversations["planner"][1])["content"]
        assert journalled[1]["image_url"]["url"].startswith("data:image/gif;base64,R0lG")


async def test_a_prompt_with_attachments_is_another_tasks_up_to_the_text_and_has_the_same_tools(open_tmp: Path) -> None:
    async with house(open_tmp, script()) as home:
        await home.run("# Other wish\n\nFix mean().")
        await home.runner.run(submit(home, notes_txt=b"x"))
        for who in (PLANNING, ACTING):
            bodies = [request.body for request in home.server.requests if who.encode() in request.body]
            plain = next(body for body in bodies if b"Other wish" in body)
            attached = next(body for body in bodies if b"Attached, read-only" in body)
            assert attached.startswith(plain[: plain.index(b"Other wish")])
            assert attached[attached.index(b'"tools"') :] == plain[plain.index(b'"tools"') :]


async def test_a_conversation_that_was_cut_off_goes_on_with_the_same_picture(open_tmp: Path) -> None:
    slow = dataclasses.replace(FIX[0], delay=0.5)
    async with house(open_tmp, script(slow, *FIX[1:])) as home:
        task = submit(home, shot_png=PNG)
        config = seeing(home, "executor")
        async with open_worker(config, home.journal, lambda _: None) as worker:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:

                    async def cut() -> None:
                        await until(lambda: any(ACTING.encode() in one.body for one in home.server.requests))
                        scope.cancel()

                    group.start_soon(cut)
                    await worker.run(task)
        home.journal.release(task, "test")
        assert home.journal.claim_task(task, "test") is not None
        (home.config.attachments / task).rename(home.config.attachments / "elsewhere")  # the journal has it all
        async with open_worker(config, home.journal, lambda _: None) as worker:
            record = await worker.run(task)
        assert record.ended is not None and record.ended.outcome is Outcome.DELIVERED, record.ended
        assert first_message(home, ACTING)[1]["image_url"]["url"].endswith(base64.b64encode(PNG).decode())


async def test_a_task_whose_attachments_are_gone_or_changed_ends_with_that_reason(open_tmp: Path) -> None:
    async with house(open_tmp, script()) as home:
        task = submit(home, shot_png=PNG)
        (shot,) = (home.config.attachments / task).glob("*/shot.png")
        shot.write_bytes(GIF)
        async with open_worker(seeing(home, "planner"), home.journal, lambda _: None) as worker:
            record = await worker.run(task)
        assert record.ended is not None and record.ended.outcome is Outcome.FAILED
        assert "shot.png is not what came with the task" in record.ended.reason


def nightcrew(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {"NIGHTCREW_HOME": str(home), "HOME": str(home), "PATH": "/usr/bin:/bin"}
    argv = [sys.executable, "-m", "nightcrew", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, env=environ, stdin=subprocess.DEVNULL, check=False)


def test_submit_takes_a_folder_and_a_file_that_names_pictures(open_tmp: Path) -> None:
    repository = make_repository(open_tmp / "repository")
    home, folder = open_tmp / "home", open_tmp / "Login broken"
    (folder / "logs").mkdir(parents=True)
    (folder / "task.md").write_text("---\nrepo: ../repository\n---\n# Fix it\n")
    (folder / "shot.png").write_bytes(PNG)
    (folder / "logs" / "run.txt").write_text("x")
    alone = open_tmp / "alone.md"
    alone.write_text(f"---\nrepo: repository\nimages: [Login broken/shot.png, {folder}/b.gif]\n---\n# Alone\n")
    (folder / "b.gif").write_bytes(GIF)
    wrong = open_tmp / "wrong.md"
    wrong.write_text("---\nrepo: repository\nimages: [alone.md]\n---\n# Wrong\n")

    assert nightcrew(home, "submit", str(folder)).returncode == 0
    assert nightcrew(home, "submit", str(alone)).returncode == 0
    refused = nightcrew(home, "submit", str(wrong))
    assert refused.returncode == 2 and "line 3: `images`: alone.md is no PNG" in refused.stderr
    (folder / "link").symlink_to("/etc/passwd")
    refused = nightcrew(home, "submit", str(folder))
    assert refused.returncode == 2 and "link is a symbolic link" in refused.stderr

    with Journal.open(home / "journal.sqlite") as journal:
        records = {view.name: journal.record(view.id) for view in journal.tasks()}
    store = AttachmentStore(home / "attachments")
    assert set(records) == {"login-broken", "alone"}
    found = records["login-broken"]
    assert found.request.repo == str(repository.resolve())
    assert [one.path for one in found.request.attachments] == ["b.gif", "logs/run.txt", "shot.png"]
    assert records["alone"].request.images == ("shot.png", "b.gif")
    kept = store.of(records["alone"].id, records["alone"].request)
    assert kept is not None and sorted(path.name for path in kept.iterdir()) == ["b.gif", "shot.png"]
    assert sorted(path.name for path in store.root.iterdir()) == sorted(record.id for record in records.values())
