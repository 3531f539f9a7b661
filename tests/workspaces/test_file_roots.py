"""Where the file helper goes and where not: several roots, read-only ones, git's directories, swapped links."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fakes.boxes import make_workspace, own
from fakes.filework import code_of, put
from nightcrew_workspaces import boxd, boxd_paths
from nightcrew_workspaces.box import Box, box_user
from nightcrew_workspaces.errors import FileError
from nightcrew_workspaces.file_facts import Edit, Entry
from nightcrew_workspaces.files import Files
from nightcrew_workspaces.policy import BoxPolicy, Limits, Mount

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]


class Roots:
    """Two writable directories and a read-only one, which a box shows at their own paths."""

    def __init__(self, parent: Path) -> None:
        self.first, self.second, self.fixed = (make_workspace(parent, name) for name in ("first", "second", "fixed"))
        for root in (self.first, self.second, self.fixed):
            put(root, a_txt=root.name.encode() + b" word\n", sub__b_py=b"word\n")
        mounts = tuple(
            Mount(root, str(root), writable=root != self.fixed) for root in (self.first, self.second, self.fixed)
        )
        policy = BoxPolicy(user=box_user(None), mounts=mounts, limits=Limits(seconds=20), chdir=str(self.first))
        self.files = Files(Box(policy), roots=[str(self.first), str(self.second), str(self.fixed)])


@pytest.fixture
async def roots(open_tmp):
    made = Roots(open_tmp)
    yield made
    await made.files.aclose()


async def test_a_path_is_below_the_first_root_or_absolute_below_any(roots):
    files = roots.files
    assert (await files.read("a.txt")).text == "first word\n"
    assert (await files.read(f"{roots.second}/a.txt")).text == "second word\n"
    assert (await files.read(f"{roots.first}/sub/../a.txt")).text == "first word\n"
    await files.write(f"{roots.second}/new/c.txt", "c")
    assert (roots.second / "new/c.txt").read_text() == "c"
    with pytest.raises(
        FileError, match=f"relative to {roots.first}, or an absolute one below {roots.second} or"
    ) as error:
        await files.read("/etc/passwd")
    assert error.value.code == "outside"
    assert await code_of(files.read("../second/../../etc/passwd")) == "outside"


async def test_answers_name_what_is_in_another_root_by_its_whole_path(roots):
    files, second = roots.files, str(roots.second)
    assert (await files.list(second, depth=2)).entries[1:] == (
        Entry(f"{second}/sub", "directory", 0),
        Entry(f"{second}/sub/b.py", "file", 5),
    )
    assert (await files.glob("*.py", path=second)).paths == (f"{second}/sub/b.py",)
    assert (await files.glob(f"{second}/**/*.py")).paths == (f"{second}/sub/b.py",)
    assert (await files.outline(second, depth=1)).lines == ((f"{second}/a.txt", 0), (f"{second}/sub", 1))
    found = await files.search("word", path=second, limit=1)
    assert (found.matches[0].path, found.cursor) == (f"{second}/a.txt", f"{second}/a.txt:1")
    assert (await files.search("word", path=second, after=found.cursor)).matches[0].path == f"{second}/sub/b.py"
    assert (await files.glob("**", path=second, limit=1)).cursor == f"{second}/a.txt"
    assert (await files.glob("**", path=second, after=f"{second}/a.txt")).paths == (f"{second}/sub/b.py",)
    assert (await files.stat(f"{second}/a.txt")).path == f"{second}/a.txt"
    assert f"+++ b/{second}/a.txt\n" in (await files.edit(f"{second}/a.txt", "word", "x", dry_run=True)).diff


async def test_a_read_only_root_is_read_and_says_where_to_write_instead(roots):
    files, fixed = roots.files, str(roots.fixed)
    assert (await files.read(f"{fixed}/a.txt")).text == "fixed word\n"
    for refused in (
        files.write(f"{fixed}/new", "x"),
        files.edit(f"{fixed}/a.txt", "word", "x"),
        files.edit_all([Edit("a.txt", "word", "x"), Edit(f"{fixed}/a.txt", "word", "x")]),
        files.append(f"{fixed}/a.txt", "x"),
        files.delete(f"{fixed}/a.txt"),
        files.move(f"{fixed}/a.txt", "here"),
        files.move("a.txt", f"{fixed}/here"),
        files.copy("a.txt", f"{fixed}/here"),
        files.make_folder(f"{fixed}/folder"),
    ):
        with pytest.raises(
            FileError, match=rf"is in a read-only root; write below \. or {roots.second} instead"
        ) as error:
            await refused
        assert error.value.code == "read_only"
    assert (roots.first / "a.txt").read_text() == "first word\n"
    await files.copy(f"{fixed}/a.txt", "copied.txt")
    assert (roots.first / "copied.txt").read_text() == "fixed word\n"


async def test_files_and_directories_move_from_one_root_to_another(roots):
    files = roots.files
    (roots.first / "sub/b.py").chmod(0o755)
    await files.move("sub", f"{roots.second}/taken")
    assert (roots.second / "taken/b.py").stat().st_mode & 0o777 == 0o755
    assert not (roots.first / "sub").exists()
    await files.move(f"{roots.second}/a.txt", "from/second.txt")
    assert (roots.first / "from/second.txt").read_text() == "second word\n"
    assert await code_of(files.move(str(roots.second), "x")) == "forbidden"
    assert await code_of(files.delete(str(roots.second), recursive=True)) == "forbidden"


async def test_a_root_in_a_root_is_named_from_the_first(open_tmp):
    outer = make_workspace(open_tmp)
    put(outer, inner__a_txt=b"word\n")
    mount = Mount(outer, str(outer), writable=True)
    policy = BoxPolicy(user=box_user(None), mounts=(mount,), limits=Limits(seconds=20), chdir=str(outer))
    files = Files(Box(policy), roots=[str(outer), f"{outer}/inner"])
    assert (await files.search("word", path="inner")).matches[0].path == "inner/a.txt"
    assert (await files.glob("**")).paths == ("inner/a.txt",)
    await files.aclose()


# What is git's


@pytest.mark.parametrize(
    "name",
    [".git", ".GIT", ".Git", ".git.", ".git ", ".git::$INDEX_ALLOCATION", "git~1", "GIT~1", ".g\u200cit", ".gi\ufefft"],
)
async def test_every_spelling_of_gits_directory_is_closed_at_any_depth(helper, workspace, name):
    put(workspace, a_txt=b"x", sub__b_txt=b"x")
    for path in (name, f"{name}/config", f"sub/{name}", f"sub/{name}/hooks/pre-commit"):
        for refused in (
            *(helper.write(path, "x"), helper.append(path, "x"), helper.make_folder(path)),
            *(helper.copy("a.txt", path), helper.move("a.txt", path), helper.copy("sub", path)),
        ):
            assert await code_of(refused) == "forbidden"
    assert sorted(os.listdir(workspace)) == ["a.txt", "sub"]


async def test_a_file_that_names_a_git_directory_and_that_directory_are_closed(helper, workspace):
    """A worktree's or submodule's `.git` is a file, and the directory that it names may have any name."""
    (workspace / "meta").mkdir()
    for name in ("objects", "refs"):
        (workspace / "meta" / name).mkdir()
    put(workspace, meta__HEAD=b"ref: refs/heads/main\n", meta__config=b"[core]\n", a_txt=b"x")
    (workspace / ".git").write_text("gitdir: meta\n")
    own(workspace)
    assert await code_of(helper.write(".git", "gitdir: elsewhere\n")) == "forbidden"
    for path in ("meta/config", "meta/hooks/post-checkout", "meta/HEAD", "meta/objects/info/alternates"):
        assert await code_of(helper.write(path, "x")) == "forbidden"
        assert await code_of(helper.move("a.txt", path)) == "forbidden"
        assert await code_of(helper.delete(path)) == "forbidden"
    assert (await helper.read("meta/config")).text == "[core]\n"


@pytest.mark.parametrize("last", ["HEAD", "refs/x", "objects/x", "commondir"])
async def test_nothing_becomes_a_git_directory_bit_by_bit(helper, workspace, last):
    parts = ["HEAD", "commondir"] if last == "commondir" else ["HEAD", "refs/x", "objects/x"]
    for part in parts:
        if part != last:
            await helper.write(f"x/{part}", "x")
    await helper.write("x/config", "[core]\n")
    await helper.write("staged", "x")
    assert await code_of(helper.write(f"x/{last}", "x")) == "forbidden"
    assert await code_of(helper.move("staged", f"x/{last}")) == "forbidden"
    if "/" in last:
        assert await code_of(helper.make_folder(f"x/{last}")) == "forbidden"
        assert not (workspace / "x" / last.partition("/")[0]).exists()


def test_ordinary_names_are_not_gits():
    for name in (".gitignore", ".github", ".gitattributes", "git", "git~2", "a.git", "dotgit", "", "é", "g"):
        assert not boxd_paths.is_gits_name(name)


# Links that are swapped


def test_a_directory_that_is_swapped_for_a_link_at_the_last_moment_is_not_entered(tmp_path, monkeypatch):
    inside, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (inside / "sub", outside):
        folder.mkdir(parents=True)
        (folder / "a").write_text(folder.name)
    here = boxd.Helper(str(inside))
    real = os.path.realpath

    def swapped(path, **how):
        found = real(path, **how)
        if str(path).endswith("/a"):
            with contextlib.suppress(FileNotFoundError):
                shutil.move(inside / "sub", inside / "away")
            if not (inside / "sub").is_symlink():
                (inside / "sub").symlink_to(outside)
        return found

    monkeypatch.setattr(boxd_paths.os.path, "realpath", swapped)
    for request in (
        {"op": "read", "path": "sub/a"},
        {"op": "write", "path": "sub/a", "text": "pwned"},
        {"op": "edit", "path": "sub/a", "old": "outside", "new": "pwned"},
        {"op": "delete", "path": "sub/a"},
        {"op": "move", "path": "sub/a", "to": "b"},
        {"op": "copy", "path": "sub/a", "to": "c"},
    ):
        if (inside / "sub").is_symlink():
            (inside / "sub").unlink()
            shutil.move(inside / "away", inside / "sub")
        assert "outside" not in str(boxd.answer(here, dict(request)).get("ok", "")), request
        assert (outside / "a").read_text() == "outside"
        assert os.listdir(outside) == ["a"]
    assert not (inside / "b").exists() or (inside / "b").read_text() != "outside"


async def test_while_links_are_swapped_nothing_outside_is_read_or_written(helper, workspace, open_tmp):
    """A moment of it; what a box cannot see it cannot be tricked into, and /etc of the box is refused too."""
    put(workspace, real__passwd=b"inside\n")
    swapper = (
        "import os, sys\n"
        "os.chdir(sys.argv[1]); os.symlink('/etc', 'l'); os.rename('real', 'r'); os.symlink('r', 'p')\n"
        "while True:\n"
        "    for target in ('r', '/etc'):\n"
        "        os.symlink(target, 'q'); os.rename('q', 'p')\n"
    )
    before = Path("/etc/passwd").read_bytes()
    process = subprocess.Popen([sys.executable, "-c", swapper, workspace])
    outcomes: dict[str, int] = {}
    try:
        while not (workspace / "p").is_symlink():
            assert process.poll() is None
        begun = time.monotonic()
        # At least for half a second, and until both sides of the swap were met: the machine may be busy.
        while (passed := time.monotonic() - begun) < 15 and (
            passed < 0.5 or not {"inside", "outside"} <= set(outcomes)
        ):
            try:
                text = (await helper.read("p/passwd")).text
                assert text == "inside\n"
                await helper.write("p/passwd", "inside\n")
                outcomes["inside"] = outcomes.get("inside", 0) + 1
            except FileError as error:
                outcomes[error.code] = outcomes.get(error.code, 0) + 1
    finally:
        process.kill()
        process.wait()
    assert outcomes.get("inside", 0) > 0
    assert outcomes.get("outside", 0) > 0
    assert set(outcomes) <= {"inside", "outside", "changed", "not_found", "not_a_file", "exists"}
    assert Path("/etc/passwd").read_bytes() == before
