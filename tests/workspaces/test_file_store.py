"""How files are stored, moved, copied and removed: whole or not at all, and with nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fakes.boxes import make_box, make_workspace, own
from fakes.filework import code_of, put
from nightcrew_workspaces import boxd, boxd_store
from nightcrew_workspaces.errors import FileError
from nightcrew_workspaces.files import Files
from nightcrew_workspaces.policy import Limits

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]


async def test_a_file_with_several_names_is_replaced_under_one_and_stays_under_the_others(helper, workspace):
    put(workspace, store_txt=b"shared\n")
    os.link(workspace / "store.txt", workspace / "linked.txt")
    await helper.edit("linked.txt", "shared", "mine")
    assert (workspace / "store.txt").read_bytes() == b"shared\n"
    assert (workspace / "linked.txt").read_bytes() == b"mine\n"


async def test_a_link_to_nothing_is_written_through(helper, workspace):
    (workspace / "link").symlink_to("later/target.txt")
    await helper.write("link", "x")
    assert (workspace / "link").is_symlink()
    assert (workspace / "later/target.txt").read_text() == "x"


async def test_a_read_only_file_is_left_alone(helper, workspace):
    put(workspace, a_txt=b"one\n")
    (workspace / "a.txt").chmod(0o444)
    for refused in (helper.write("a.txt", "x"), helper.edit("a.txt", "one", "x"), helper.append("a.txt", "x")):
        with pytest.raises(FileError, match=r"a\.txt is read-only \(mode 0444\); make it writable first") as error:
            await refused
        assert error.value.code == "forbidden"
    assert (workspace / "a.txt").read_bytes() == b"one\n"


async def test_extended_attributes_stay(helper, workspace):
    put(workspace, a_txt=b"one\n")
    os.setxattr(workspace / "a.txt", "user.note", b"kept")
    await helper.edit("a.txt", "one", "two")
    assert os.getxattr(workspace / "a.txt", "user.note") == b"kept"


async def test_a_full_disk_is_said_and_changes_nothing(workspace):
    put(workspace, a_txt=b"one\n", b_txt=b"two\n")
    helper = Files(make_box(workspace, limits=Limits(seconds=20, file_mib=1)))
    assert await code_of(helper.write("a.txt", "x" * (2 << 20))) == "too_large"
    assert (workspace / "a.txt").read_bytes() == b"one\n"
    assert sorted(os.listdir(workspace)) == ["a.txt", "b.txt"]
    await helper.aclose()


def test_on_a_disk_without_room_every_file_stays_as_it_was(tmp_path):
    script = (
        "mount -t tmpfs -o size=256k tmpfs . && cd \"$PWD\" && printf 'one\\n' > a && cp a b && exec "
        f"{sys.executable} -c 'import json, os; from nightcrew_workspaces import boxd;"
        'edit = lambda path, new: {"path": path, "old": "one", "new": new};'
        'say = lambda **request: print(json.dumps(boxd.answer(boxd.Helper("."), request)));'
        'say(op="edit_all", edits=[edit("a", "two"), edit("b", "x" * 400000)]);'
        'say(op="write", path="new/c", text="x" * 400000);'
        'print(sorted(os.listdir(".")), open("a").read(), open("b").read())\''
    )
    env = {**os.environ, "PYTHONPATH": str(Path(boxd.__file__).parents[1])}
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    done = subprocess.run(
        [*unshare, "sh", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    first, second, state = done.stdout.split("\n", 2)
    assert '"no_space"' in first
    assert '"no_space"' in second
    assert state == "['a', 'b'] one\n one\n\n"


def killed_at(root: Path, what: str) -> None:
    """Write over `a` in `root` and be killed when `what` is called."""
    script = (
        "import os, signal, sys\n"
        "from nightcrew_workspaces import boxd\n"
        "def kill(*_, **__): os.kill(os.getpid(), signal.SIGKILL)\n"
        f"os.{what} = kill\n"
        f"boxd.answer(boxd.Helper({str(root)!r}), dict(op='write', path='a', text='new'))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("what", ["fchmod", "link"])
def test_a_helper_that_is_killed_while_it_writes_leaves_nothing(tmp_path, what):
    (tmp_path / "a").write_text("old")
    killed_at(tmp_path, what)
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


async def test_what_a_helper_leaves_that_is_killed_at_the_last_moment_is_nobodys_file(helper, workspace):
    put(workspace, a=b"old")
    killed_at(workspace, "rename")
    own(workspace)
    (left,) = [name for name in os.listdir(workspace) if name != "a"]
    assert left.startswith(".nightcrew-")
    assert (workspace / "a").read_text() == "old"
    assert [entry.path for entry in (await helper.list()).entries] == ["a"]
    assert [entry.path for entry in (await helper.list_all()).entries] == ["a"]
    assert (await helper.glob("**")).paths == ("a",)
    assert (await helper.outline()).lines == (("a", 0),)
    assert (await helper.search("new")).matches == ()


def test_where_files_need_names_the_same_is_written(tmp_path, monkeypatch):
    real = os.open

    def without_nameless_files(path, flags, *arguments, **where):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return real(path, flags, *arguments, **where)

    monkeypatch.setattr(boxd_store.os, "open", without_nameless_files)
    here = boxd.Helper(str(tmp_path))
    for text in ("one", "two"):
        assert "ok" in boxd.answer(here, {"op": "write", "path": "new/a", "text": text})
        assert (tmp_path / "new/a").read_text() == text
        assert os.listdir(tmp_path / "new") == ["a"]


def test_a_file_that_changes_between_reading_and_replacing_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("one")
    real = boxd_store.Staged.commit

    def meanwhile(staged):
        (tmp_path / "a").write_text("theirs")
        real(staged)

    monkeypatch.setattr(boxd_store.Staged, "commit", meanwhile)
    answer = boxd.answer(boxd.Helper(str(tmp_path)), {"op": "edit", "path": "a", "old": "one", "new": "two"})
    assert answer["error"]["code"] == "changed"
    assert (tmp_path / "a").read_text() == "theirs"


def test_a_file_that_appears_while_another_is_written_is_left_alone(tmp_path, monkeypatch):
    real = boxd_store.Staged.commit

    def meanwhile(staged):
        (tmp_path / "a").write_text("theirs")
        real(staged)

    monkeypatch.setattr(boxd_store.Staged, "commit", meanwhile)
    answer = boxd.answer(boxd.Helper(str(tmp_path)), {"op": "write", "path": "a", "text": "mine"})
    assert answer["error"]["code"] == "exists"
    assert (tmp_path / "a").read_text() == "theirs"


# Whole directories


async def test_a_directory_is_deleted_when_it_is_empty_or_that_is_asked_for(helper, workspace):
    put(workspace, folder__deep__a_txt=b"a", folder__b_txt=b"b", keep_txt=b"k")
    (workspace / "folder/link").symlink_to("../keep.txt")
    with pytest.raises(FileError, match="3 entries; delete it with recursive=true"):
        await helper.delete("folder")
    await helper.delete("folder", recursive=True)
    assert os.listdir(workspace) == ["keep.txt"]
    assert await helper.make_folder("empty/inner")
    assert not await helper.make_folder("empty/inner")
    assert await code_of(helper.make_folder("keep.txt")) == "exists"
    await helper.delete("empty/inner")
    assert os.listdir(workspace / "empty") == []


async def test_a_directory_with_a_repository_in_it_is_neither_deleted_nor_copied(helper, workspace):
    put(workspace, folder__sub__a_txt=b"a")
    (workspace / "folder/sub/.git").mkdir()
    own(workspace)
    assert await code_of(helper.delete("folder", recursive=True)) == "forbidden"
    assert await code_of(helper.copy("folder", "other")) == "forbidden"
    assert (workspace / "folder/sub/a.txt").exists()
    assert os.listdir(workspace) == ["folder"]


async def test_files_and_directories_are_copied_with_modes_and_links(helper, workspace):
    put(workspace, folder__deep__run_sh=b"#!/bin/sh\n", folder__b=b"b", big=b"x" * (11 << 20))
    (workspace / "folder/deep/run.sh").chmod(0o755)
    (workspace / "folder/link").symlink_to("deep/run.sh")
    own(workspace)
    await helper.copy("folder", "new/place")
    assert (workspace / "new/place/deep/run.sh").stat().st_mode & 0o777 == 0o755
    assert os.readlink(workspace / "new/place/link") == "deep/run.sh"
    await helper.copy("folder/link", "copied.sh")
    assert not (workspace / "copied.sh").is_symlink()
    assert (workspace / "copied.sh").read_bytes() == b"#!/bin/sh\n"
    await helper.copy("big", "big2")
    assert (workspace / "big2").stat().st_size == 11 << 20
    assert await code_of(helper.copy("folder", "new")) == "exists"
    assert await code_of(helper.copy("folder", "folder/below")) == "bad_request"
    assert await code_of(helper.copy("nothing", "x")) == "not_found"
    os.mkfifo(workspace / "folder/pipe")
    assert await code_of(helper.copy("folder", "third")) == "not_a_file"
    assert not (workspace / "third").exists()


async def test_a_copy_that_fails_half_way_leaves_nothing(open_tmp):
    workspace = make_workspace(open_tmp)
    put(workspace, folder__a=b"a", folder__b=b"x" * (2 << 20))
    helper = Files(make_box(workspace, limits=Limits(seconds=20, file_mib=1)))
    assert await code_of(helper.copy("folder", "other/folder")) == "too_large"
    assert sorted(os.listdir(workspace / "other" if (workspace / "other").exists() else workspace)) in ([], ["folder"])
    assert not (workspace / "other/folder").exists()
    await helper.aclose()
