"""Checkpoints of a worktree: what is in them, that they come back exactly, and that a model cannot break them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from fakes.repositories import git, make
from nightcrew_workspaces.errors import GitError
from nightcrew_workspaces.user import box_user
from nightcrew_workspaces.workspace import Workspace, Workspaces

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]

FILES = {
    "calc.py": "def add(a, b):\n    return a - b\n",
    "docs/read me.txt": "hello\n",
    ".gitignore": "*.log\nbuild/\n",
}


@pytest.fixture
async def work(open_tmp: Path) -> AsyncGenerator[Workspace]:
    source = make(open_tmp / "source", FILES)
    workspaces = Workspaces(open_tmp / "root", user=box_user())
    async with await workspaces.create("t1", str(source)) as workspace:
        yield workspace


def clone_of(work: Workspace) -> Path:
    return work._folder / "clone"


async def sh(work: Workspace, script: str) -> str:
    result = await work.box.run(script)
    assert result.exit_code == 0, result.output
    return result.output


def listing(work: Workspace, tree: str) -> dict[str, str]:
    """Path to mode of a checkpoint's files, read by plain git with the depot's objects."""
    shadow, depot = work._folder / "shadow.git", work._depot
    (shadow / "objects/info/alternates").write_text(f"{depot}/objects\n")
    try:
        out = git("--git-dir", str(shadow), "ls-tree", "-r", "-z", tree, at=shadow)
    finally:
        (shadow / "objects/info/alternates").write_text("/depot/objects\n")
    return {line.split("\t")[1]: line.split()[0] for line in out.split("\0") if line}


async def test_an_untouched_worktree_has_the_bases_tree(work):
    assert (await work.checkpoint()).tree == work.base_tree


async def test_what_a_killed_file_helper_leaves_is_in_no_checkpoint_and_gone_after_a_restore(work):
    await sh(work, "touch .nightcrew-12-0.tmp .nightcrew-notes")
    await sh(work, "mkdir sub; touch sub/.nightcrew-1-3.tmp")
    point = await work.checkpoint()
    assert set(listing(work, point.tree)) == {*FILES, ".nightcrew-notes"}
    await work.restore(point.tree)
    assert await sh(work, "find . -name '.nightcrew-*' -not -path './.git/*'") == "./.nightcrew-notes\n"


async def test_an_unchanged_worktree_gives_the_same_checkpoint(work):
    await sh(work, "echo 1 > new")
    first = await work.checkpoint()
    assert await work.checkpoint() == first
    await sh(work, "echo 2 > new")
    assert (await work.checkpoint()).tree != first.tree


async def test_a_checkpoint_after_a_diff_still_sees_the_change(work):
    first = await work.checkpoint()
    await sh(work, "echo 1 > new")
    assert "+++ b/new" in await work.diff()
    assert (await work.checkpoint()).tree != first.tree


async def test_an_edit_of_the_same_size_within_the_same_second_is_seen(work):
    for sign in "+*/-":
        await sh(work, f"sed -i 's|a . b|a {sign} b|' calc.py")
        before = await work.checkpoint()
        await sh(work, "sed -i 's|a . b|a % b|' calc.py")
        assert (await work.checkpoint()).tree != before.tree


async def test_every_kind_of_change_is_in_a_checkpoint(work):
    script = """
    echo changed >> calc.py; git mv 'docs/read me.txt' moved.txt; printf 'x\\0y' > binary; chmod +x calc.py
    ln -s calc.py link; mkdir -p a/b; echo deep > a/b/c; echo log > x.log; mkdir build; echo o > build/o; mkfifo pipe
    printf 1 > "$(printf 'new\\nline')"; echo 1 > 'über mäßig.txt'; echo 1 > -dash; printf 1 > "$(printf 'latin\\351')"
    """
    await sh(work, script)
    tree = (await work.checkpoint()).tree
    assert listing(work, tree) == {
        ".gitignore": "100644",
        "-dash": "100644",
        "a/b/c": "100644",
        "binary": "100644",
        "calc.py": "100755",
        "latin\udce9": "100644",
        "link": "120000",
        "moved.txt": "100644",
        "new\nline": "100644",
        "über mäßig.txt": "100644",
    }


async def test_a_file_that_becomes_a_directory_and_back_is_followed(work):
    start = await work.checkpoint()
    await sh(work, "rm calc.py; mkdir calc.py; echo 1 > calc.py/inner; rm -r docs; echo 1 > docs")
    changed = await work.checkpoint()
    assert set(listing(work, changed.tree)) == {".gitignore", "calc.py/inner", "docs"}
    await work.restore(start.tree)
    assert (await work.checkpoint()).tree == start.tree
    await sh(work, "rm calc.py; mkdir calc.py")
    assert set(listing(work, (await work.checkpoint()).tree)) == {".gitignore", "docs/read me.txt"}


async def test_a_directory_that_becomes_a_link_is_followed(work):
    await sh(work, "mv docs papers; echo more >> 'papers/read me.txt'; ln -s papers docs")
    modes = listing(work, (await work.checkpoint()).tree)
    assert modes["docs"] == "120000"
    assert "papers/read me.txt" in modes


async def test_a_tracked_file_that_becomes_a_pipe_is_recorded_as_gone(work):
    await sh(work, "rm calc.py; mkfifo calc.py")
    assert "calc.py" not in listing(work, (await work.checkpoint()).tree)


async def test_restoring_makes_the_worktree_exactly_the_tree(work):
    await sh(work, "echo 1 > kept; echo log > x.log; mkdir build; echo o > build/o")
    kept = await work.checkpoint()
    await sh(
        work,
        "echo 2 > kept; rm calc.py; rm -r docs; echo 1 > more; mkdir -p deep/er; echo 1 > deep/er/file; mkdir empty",
    )
    await work.checkpoint()
    await sh(work, "echo 3 > kept; echo 1 > after")
    await work.restore(kept.tree)
    names = await sh(work, "find . -path ./.git -prune -o -type f -print | sort; cat kept; ls -A")
    expected = "./.gitignore\n./build/o\n./calc.py\n./docs/read me.txt\n./kept\n./x.log\n1\n"
    assert names.startswith(expected)
    assert "deep" not in names and "empty" not in names
    assert (await work.checkpoint()).tree == kept.tree


async def test_restoring_the_base_undoes_everything(work):
    await sh(work, "rm -rf calc.py docs .gitignore; echo 1 > junk")
    await work.restore(work.base_tree)
    assert await sh(work, "git status --short") == ""


async def test_a_tree_that_is_not_known_cannot_be_restored(work):
    with pytest.raises(GitError, match="there is no checkpoint with the tree"):
        await work.restore("1" * 40)
    with pytest.raises(ValueError, match="not an object name"):
        await work.restore("--help")


async def test_modes_that_lock_everybody_out_do_not_stop_a_restore(work):
    start = await work.checkpoint()
    await sh(work, "echo 1 > docs/x; chmod 000 calc.py docs")
    await work.restore(start.tree)
    assert await sh(work, "cat calc.py docs/*") == FILES["calc.py"] + FILES["docs/read me.txt"]


async def test_locks_of_a_killed_git_are_removed(work):
    await sh(work, "echo 1 > new; touch .git/index.lock .git/HEAD.lock .git/refs/heads/work.lock")
    (work._folder / "shadow.git/index.lock").touch()
    tree = (await work.checkpoint()).tree
    (work._folder / "shadow.git/index.lock").touch()
    await work.restore(tree)
    await sh(work, "git add new && git commit -qm new")


async def test_a_broken_index_is_made_anew(work):
    await sh(work, "echo 1 > new; rm 'docs/read me.txt'")
    (work._folder / "shadow.git/index").write_bytes(b"garbage")
    assert set(listing(work, (await work.checkpoint()).tree)) == {".gitignore", "calc.py", "new"}


async def test_checkpoints_survive_a_model_that_destroys_the_repository(work):
    await sh(work, "echo 1 > new")
    good = await work.checkpoint()
    await sh(work, "rm -rf .git; rm new; echo 2 > other")
    bad = await work.checkpoint()
    assert set(listing(work, bad.tree)) == {".gitignore", "calc.py", "docs/read me.txt", "other"}
    await work.restore(good.tree)
    assert (await sh(work, "git rev-parse HEAD; git branch --show-current; git status --short")).splitlines() == [
        work.base_commit,
        "work",
        "?? new",
    ]


async def test_a_configuration_that_a_model_wrote_does_not_shape_a_checkpoint(work):
    await sh(
        work,
        """
        git config filter.evil.clean 'sed s/hello/evil/'; echo '*.txt filter=evil' > .gitattributes
        git config core.worktree /tmp; git config core.fsmonitor /bin/false; echo '*' > .git/info/exclude
        echo hello > new.txt
        """,
    )
    checkpoint = await work.checkpoint()
    await work.restore(work.base_tree)
    await work.restore(checkpoint.tree)
    assert await sh(work, "cat new.txt") == "hello\n"


async def test_a_repository_within_the_repository_is_taken_as_plain_files(work):
    await sh(
        work,
        """
        mkdir -p sub/inner empty; (cd sub && git init -q && echo '*.o' > .gitignore && echo 1 > f && echo 1 > x.o)
        (cd sub/inner && git init -q && echo 2 > g && git add . && git -c user.name=x -c user.email=x commit -qm x)
        (cd empty && git init -q)
        """,
    )
    first = await work.checkpoint()
    assert {name: mode for name, mode in listing(work, first.tree).items() if name.startswith("sub")} == {
        "sub/.gitignore": "100644",
        "sub/f": "100644",
        "sub/inner/g": "100644",
    }
    await sh(work, "echo 3 > sub/inner/h")
    assert "sub/inner/h" in listing(work, (await work.checkpoint()).tree)
    await work.restore(work.base_tree)
    assert "sub" not in (await sh(work, "ls")).split()


async def test_files_that_are_huge_or_cannot_be_read_are_left_out_and_named(work):
    await sh(
        work,
        "truncate -s 101M huge.bin; echo 1 > ok; echo 1 > secret; echo 2 >> calc.py; chmod 000 secret calc.py",
    )
    checkpoint = await work.checkpoint()
    assert {(left.path, left.size) for left in checkpoint.left_out} >= {("huge.bin", 101 * 1024 * 1024), ("secret", 2)}
    assert "calc.py" in {left.path for left in checkpoint.left_out}
    assert "ok" in listing(work, checkpoint.tree)
    assert not {"huge.bin", "secret"} & set(listing(work, checkpoint.tree))


async def test_a_diff_shows_new_and_changed_files_and_is_cut_at_its_limit(work):
    await sh(work, "echo changed >> calc.py; echo new > new.txt")
    diff = await work.diff()
    assert "+changed" in diff and "+++ b/new.txt" in diff
    cut = await work.diff(limit_bytes=40)
    assert cut.startswith(diff[:40]) and "longer than 40 bytes" in cut
    assert await sh(work, "git status --short") == " M calc.py\n?? new.txt\n"


async def test_a_checkpoint_can_be_restored_by_a_later_process(work, open_tmp):
    await sh(work, "echo 1 > new")
    checkpoint = await work.checkpoint()
    await sh(work, "rm new calc.py")
    async with await Workspaces(open_tmp / "root", user=box_user()).reopen("t1") as later:
        await later.restore(checkpoint.tree)
        assert (await later.checkpoint()).tree == checkpoint.tree
    assert (clone_of(work) / "new").exists()
