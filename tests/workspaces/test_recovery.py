"""After a crash, and whatever a model did: a workspace is found again, and a checkpoint comes back exactly."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from fakes.repositories import git, make
from nightcrew_workspaces.checkpoint import Checkpoint
from nightcrew_workspaces.user import box_user
from nightcrew_workspaces.workspace import Workspace, Workspaces

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

FILES = {
    "calc.py": "def add(a, b):\n    return a - b\n",
    "docs/read me.txt": "hello\n",
    ".gitignore": "*.log\n",
}


@pytest.fixture
def workspaces(open_tmp: Path) -> Workspaces:
    return Workspaces(open_tmp / "root", user=box_user())


@pytest.fixture
async def work(open_tmp: Path, workspaces: Workspaces) -> AsyncGenerator[Workspace]:
    source = make(open_tmp / "source", FILES)
    async with await workspaces.create("t1", str(source)) as workspace:
        yield workspace


async def sh(work: Workspace, script: str) -> str:
    result = await work.box.run(script)
    assert result.exit_code == 0, result.output
    return result.output


def shadow(work: Workspace) -> Path:
    return work._folder / "shadow.git"


def own(path: Path) -> None:
    """Make a file that a test wrote look as if the box's user had."""
    user = box_user()
    if user.switch:
        os.chown(path, user.uid, user.gid)


async def changed(work: Workspace) -> Checkpoint:
    """A checkpoint with a new, a changed and a deleted file."""
    await sh(work, "echo new > new; echo more >> calc.py; rm 'docs/read me.txt'; mkdir -p a/b; echo deep > a/b/c")
    return await work.checkpoint()


async def exactly(work: Workspace, checkpoint: Checkpoint, *, usable: bool = True) -> None:
    """The worktree is the checkpoint's tree, and there is nothing else, not even a directory or a pipe."""
    names = await sh(work, "find . -mindepth 1 -path ./.git -prune -o -print | sort")
    assert names.split() == ["./.gitignore", "./a", "./a/b", "./a/b/c", "./calc.py", "./new"]
    assert await sh(work, "cat new a/b/c calc.py") == "new\ndeep\n" + FILES["calc.py"] + "more\n"
    assert (await work.checkpoint()).tree == checkpoint.tree
    if usable:
        await sh(
            work, "git status --short && git add -A && git commit -q --allow-empty -m x && git fsck && git branch b"
        )


# What a model may do to a worktree

MESS = {
    "nothing": "",
    "everything removed": "find . -mindepth 1 -delete",
    "no .git": "rm -rf .git",
    ".git is a file": "rm -rf .git; echo 'gitdir: /nowhere' > .git",
    ".git is a file that leads to a real one": "mv .git real; echo 'gitdir: /workspace/real' > .git",
    ".git is a link": "mv .git real; ln -s real .git",
    ".git is a dangling link": "rm -rf .git; ln -s /nowhere .git",
    ".git is a link to the depot": "rm -rf .git; ln -s /depot .git",
    ".git is a pipe": "rm -rf .git; mkfifo .git",
    ".git may not be read": "chmod 000 .git",
    ".git may not be written": "chmod -R a-w .git",
    "broken and not to be written": "echo x > .git/HEAD; chmod -R a-w .git",
    "locks everywhere": "touch .git/index.lock .git/HEAD.lock .git/packed-refs.lock .git/config.lock"
    " .git/refs/heads/work.lock .git/shallow.lock; mkdir -p .git/objects/info .git/objects/pack;"
    " touch .git/objects/info/commit-graph.lock .git/objects/pack/multi-pack-index.lock",
    "a cut off index": "head -c 40 .git/index > i; mv i .git/index",
    "an empty HEAD": ": > .git/HEAD",
    "a HEAD elsewhere": "git checkout -q --detach; git commit -q --allow-empty -m x; git checkout -q --orphan other",
    "a commit whose tree is cut off": "git add -A; git commit -qm x; t=$(git rev-parse HEAD^{tree});"
    " f=.git/objects/$(echo $t | cut -c1-2)/$(echo $t | cut -c3-); chmod u+w $f; : > $f",
    "a configuration that is none": "echo '[core' > .git/config",
    "a worktree elsewhere": "git config core.worktree /tmp; git config core.bare true",
    "the top may not be written": "echo 2 > new; rm -rf a; chmod 555 .",
    "directories may not be read": "mkdir -p d/e; echo 1 > d/e/f; chmod 000 d/e d a/b a calc.py",
    "directories may not be written": "mkdir d; echo 1 > d/f; chmod 555 d a a/b; chmod 444 calc.py",
    "files are directories": "rm new calc.py; mkdir -p new/x calc.py/y; echo 1 > new/x/z",
    "directories are links": "rm -rf a; mkdir -p out/b; echo other > out/b/c; ln -s out a; ln -s /etc etc",
    "pipes and sockets": "mkfifo pipe a/pipe; rm new; mkfifo new; mkdir s;"
    " python3 -c \"import socket;socket.socket(socket.AF_UNIX).bind('s/socket')\"",
    "repositories within": "git init -q in; echo 1 > in/f; cd in; git add f; git commit -qm x; git init -q more",
    "odd names": "printf 1 > \"$(printf 'a\\nb')\"; printf 1 > \"$(printf 'a\\377')\"; echo 1 > -rf;"
    " echo 1 > '*'; mkdir ' '",
    "everything ignored": "echo '*' > .gitignore; echo 1 > hidden; mkdir h; echo 1 > h/x",
    "a sparse checkout": "git sparse-checkout set --no-cone nothing",
    "hidden changes": "git update-index --assume-unchanged calc.py; git add new; git update-index --skip-worktree new;"
    " echo 2 > calc.py; echo 2 > new",
    "old times": "touch -d @1 calc.py new a/b/c; echo x > calc.py; touch -d @1 calc.py",
}


AS_THE_MODEL_WANTED = {"a worktree elsewhere", "a sparse checkout"}
"""Settings of the clone that are neither broken nor ours to judge."""


@pytest.mark.parametrize("mess", MESS)
@pytest.mark.parametrize("crashed", [False, True], ids=["restored", "reopened"])
async def test_whatever_a_model_left_a_checkpoint_comes_back_exactly(work, workspaces, mess, crashed):
    checkpoint, usable = await changed(work), mess not in AS_THE_MODEL_WANTED
    await work.box.run(MESS[mess])
    if not crashed:
        await work.restore(checkpoint.tree)
        await exactly(work, checkpoint, usable=usable)
        return
    await work.aclose()
    async with await workspaces.reopen("t1") as later:
        await later.restore(checkpoint.tree)
        await exactly(later, checkpoint, usable=usable)


async def test_a_worktree_filled_with_files_is_recorded_and_cleared(work):
    checkpoint = await changed(work)
    fill = "for d in range(100):\n os.mkdir(f'd{d}')\n for f in range(100): open(f'd{d}/{f}', 'w').write(str(f))"
    await sh(work, f'python3 -c "import os\n{fill}"')
    full = await work.checkpoint()
    assert full.tree != checkpoint.tree
    await work.restore(checkpoint.tree)
    await exactly(work, checkpoint)
    await work.restore(full.tree)
    assert await sh(work, "ls d99 | wc -l; cat d99/99") == "100\n99"


# What a crash may do to the checkpoints


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(content[: int(len(content) * share)])
    own(path)


def object_file(work: Workspace, oid: str) -> Path:
    return shadow(work) / "objects" / oid[:2] / oid[2:]


@pytest.mark.parametrize(
    "name", ["index.lock", "HEAD.lock", "packed-refs.lock", "config.lock", "refs/nightcrew/final.lock", "shallow.lock"]
)
async def test_a_lock_on_the_checkpoints_stops_nothing_afterwards(work, workspaces, name):
    checkpoint = await changed(work)
    (shadow(work) / name).touch()
    own(shadow(work) / name)
    async with await workspaces.reopen("t1") as later:
        await later.restore(checkpoint.tree)
        assert await later.commit("all") is not None
        await exactly(later, checkpoint)
    assert [*shadow(work).rglob("*.lock")] == []


@pytest.mark.parametrize("name", ["refs/nightcrew/checkpoint", "refs/nightcrew/final", "tree", "index"])
@pytest.mark.parametrize("content", [b"", b"1" * 40 + b"\n"])
async def test_a_half_written_note_is_made_anew(work, workspaces, name, content):
    checkpoint = await changed(work)
    first = await work.commit("all")
    (shadow(work) / name).write_bytes(content)
    own(shadow(work) / name)
    async with await workspaces.reopen("t1") as later:
        await later.restore(checkpoint.tree)
        assert (await later.checkpoint()).tree == checkpoint.tree
        again = await later.commit("all")
        assert (
            again is not None
            and git("rev-parse", f"{again}^{{tree}}", at=shadow(work), env=borrowing(work)) == checkpoint.tree
        )
        assert again == first or "final" in name
        assert git("rev-parse", "refs/nightcrew/final", at=shadow(work), env=borrowing(work)) == again


def borrowing(work: Workspace) -> dict[str, str]:
    return {"GIT_ALTERNATE_OBJECT_DIRECTORIES": str(work._depot / "objects"), "GIT_DIR": str(shadow(work))}


@pytest.mark.parametrize("share", [0, 0.99])
@pytest.mark.parametrize("kind", ["tree", "inner tree", "blob", "commit"])
async def test_an_object_that_was_cut_off_is_made_anew_from_the_worktree(work, workspaces, kind, share):
    checkpoint = await changed(work)
    name = {"tree": "", "inner tree": ":a/b", "blob": ":new", "commit": None}[kind]
    spec = checkpoint.commit if name is None else f"{checkpoint.tree}{name}"
    oid = git("rev-parse", spec, at=shadow(work), env=borrowing(work))
    cut(object_file(work, oid), share)
    async with await workspaces.reopen("t1") as later:
        await later.restore(checkpoint.tree)
        await exactly(later, checkpoint)
        git("fsck", "--full", at=shadow(work), env=borrowing(work))


async def test_a_crash_in_the_middle_of_a_checkpoint_leaves_nothing_behind(work, workspaces):
    checkpoint = await changed(work)
    objects = shadow(work) / "objects"
    (objects / "aa").mkdir(exist_ok=True)
    for name in ("aa/tmp_obj_x", "pack/tmp_pack_x", f"tmp_objdir-bulk-fsync-{secrets.token_hex(3)}/bb/tmp_obj_y"):
        (objects / name).parent.mkdir(parents=True, exist_ok=True)
        (objects / name).write_bytes(b"half")
    for path in (objects, *objects.rglob("*")):
        own(path)
    async with await workspaces.reopen("t1") as later:
        await later.restore(checkpoint.tree)
        await exactly(later, checkpoint)
    assert [*objects.rglob("tmp_*")] == []


async def test_files_that_cannot_be_looked_at_are_not_taken_for_deleted(work):
    before = await work.checkpoint()
    await sh(work, "echo 1 > new; chmod 000 docs")
    checkpoint = await work.checkpoint()
    assert "docs/read me.txt" in {left.path for left in checkpoint.left_out}
    assert (
        git("diff-tree", "--name-status", "-r", before.tree, checkpoint.tree, at=shadow(work), env=borrowing(work))
        == "A\tnew"
    )


async def test_no_program_that_a_clone_names_runs_beside_the_checkpoints(work, workspaces, open_tmp):
    """Filters, hooks and the like of the clone, which would find `/shadow` writable."""
    await sh(
        work,
        """
        printf '#!/bin/sh\\ntouch /shadow/canary /tmp/canary 2>/dev/null\\ntest $1 || cat\\n' > run; chmod +x run
        mkdir hooks; for hook in post-index-change reference-transaction; do ln -s ../run hooks/$hook; done
        git config core.hooksPath /workspace/hooks; git config core.fsmonitor '/workspace/run x'
        git config filter.x.clean /workspace/run; git config filter.x.smudge /workspace/run
        git config core.repositoryformatversion 1; git config extensions.partialClone o
        git config remote.o.promisor true; git config remote.o.url /workspace
        git config remote.o.uploadpack '/workspace/run x'; git config core.alternateRefsCommand '/workspace/run x'
        mkdir -p .git/info; echo '* filter=x' > .git/info/attributes
        """,
    )
    # Each of these runs it, where it is done without care.
    for careless in ("touch -d @5 calc.py; git status", "git cat-file -p 1111111111111111111111111111111111111111"):
        assert "/tmp/canary" in (await work.box.run(f"{careless}; ls /tmp/canary")).output
    await sh(work, "touch -d @9 calc.py; echo 1 > new")
    checkpoint = await work.checkpoint()
    await work.diff()
    assert await work.commit("all") is not None
    await sh(
        work, "touch -d @7 calc.py; echo 2 > new; echo 1111111111111111111111111111111111111111 > .git/refs/heads/work"
    )
    await work.checkpoint()
    await work.restore(checkpoint.tree)
    async with await workspaces.reopen("t1") as later:
        assert await later.commit("again") is not None
    assert not (shadow(work) / "canary").exists()
