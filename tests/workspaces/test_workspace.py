"""A task's workspace from its clone to the branch it leaves behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import pytest

from fakes.repositories import commit, everything, git, make
from nightcrew_workspaces.box import Box
from nightcrew_workspaces.errors import HarvestRefused, RepositoryError, WorkspaceError
from nightcrew_workspaces.policy import BoxUser
from nightcrew_workspaces.user import box_user
from nightcrew_workspaces.workspace import Workspace, Workspaces, default_root

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]

FILES = {"calc.py": "def add(a, b):\n    return a - b\n", "docs/read me.txt": "hello\n", "übung.txt": "1\n"}

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def source(open_tmp: Path) -> Path:
    return make(open_tmp / "source", FILES)


@pytest.fixture
def workspaces(open_tmp: Path) -> Workspaces:
    return Workspaces(open_tmp / "root", user=box_user())


@pytest.fixture
async def work(source: Path, workspaces: Workspaces) -> AsyncGenerator[Workspace]:
    async with await workspaces.create("t1", str(source)) as workspace:
        yield workspace


async def sh(box: Box, script: str) -> str:
    result = await box.run(script)
    assert result.exit_code == 0, result.output
    return result.output


def folder(workspaces: Workspaces) -> Path:
    return workspaces.root / "t1"


# Making


async def test_a_clone_is_the_base_on_its_own_branch_with_no_remote(work, source):
    script = (
        "git branch --show-current; git rev-parse HEAD; git config user.name; git remote; git status --short; ls; pwd"
    )
    assert (await sh(work.box, script)).splitlines() == [
        "work",
        git("rev-parse", "HEAD", at=source),
        "Nightcrew",
        "calc.py",
        "docs",
        "übung.txt",
        "/workspace",
    ]
    assert work.base_tree == git("rev-parse", "HEAD^{tree}", at=source)
    await sh(work.box, "git fsck --strict && git log --oneline && echo 1 > new && git add new && git commit -qm new")


async def test_the_clone_belongs_to_the_boxes_user_and_copies_no_objects(work, workspaces):
    user = box_user()
    clone = folder(workspaces) / "clone"
    assert {path.lstat().st_uid for path in (clone, *clone.rglob("*"))} == {user.uid}
    assert [path for path in (clone / ".git/objects").rglob("*") if path.is_file()] == [
        clone / ".git/objects/info/alternates"
    ]
    result = await work.box.run("touch /depot/x || touch /depot/objects/x || rm -f /depot/HEAD")
    assert "Read-only file system" in result.output
    assert "shadow" not in await sh(work.box, "ls /")


@pytest.mark.parametrize("kind", ["bare", "shallow", "detached", "sha256", "tag", "url", "worktree"])
async def test_every_kind_of_source_can_be_worked_on_and_published_to(open_tmp, workspaces, kind):
    source = make(open_tmp / "source", FILES, *(["--object-format=sha256"] if kind == "sha256" else []))
    base = commit(source, {"more": "1"})
    repo, home, wanted = str(source), source, None
    if kind == "bare":
        git("clone", "--quiet", "--bare", str(source), "bare.git", at=open_tmp)
        repo, home = str(open_tmp / "bare.git"), open_tmp / "bare.git"
    elif kind == "shallow":
        git("clone", "--quiet", "--depth=1", f"file://{source}", "shallow", at=open_tmp)
        repo, home = str(open_tmp / "shallow"), open_tmp / "shallow"
    elif kind == "detached":
        git("checkout", "--quiet", "--detach", at=source)
    elif kind == "tag":
        git("tag", "v1", "HEAD~1", at=source)
        wanted, base = "v1", git("rev-parse", "v1", at=source)
    elif kind == "worktree":
        git("worktree", "add", "--quiet", "-b", "side", str(open_tmp / "side"), at=source)
        repo = str(open_tmp / "side")
    elif kind == "url":
        repo = f"file://{source}"
    async with await workspaces.create("t1", repo, wanted) as work:
        home = work.source.path if kind == "url" else home
        assert work.base_commit == base
        await sh(work.box, "echo 2 > new && git log --oneline")
        result = await work.commit("add new")
        assert result is not None
        harvest = await work.harvest(result)
        async with work.clean_room(result) as room:
            assert await sh(room, "cat new && git status --short") == "2\n"
        branch = await work.publish(result, "nightcrew/1")
    assert [file.path for file in harvest.files] == ["new"]
    assert git("rev-parse", f"{branch}^", at=home) == base
    assert git("show", f"{branch}:new", at=home) == "2"


async def test_submodules_are_left_empty_and_stay_what_they_were(open_tmp, workspaces):
    source = make(open_tmp / "source", FILES)
    git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},sub", at=source)
    git("commit", "--quiet", "-m", "sub", at=source)
    async with await workspaces.create("t1", str(source)) as work:
        assert (await work.checkpoint()).tree == work.base_tree
        await sh(work.box, "cd sub && git init -q && echo 1 > f && git add . && git commit -qm f && echo 1 > ../new")
        harvest = await work.harvest(await work.commit("new") or "")
    assert [file.path for file in harvest.files] == ["new"]


async def test_making_a_workspace_again_begins_anew(workspaces, source):
    async with await workspaces.create("t1", str(source)) as first:
        await sh(first.box, "echo 1 > new; mkdir locked; echo 1 > locked/x; chmod 000 locked")
    second = commit(source, {"calc.py": "x = 1\n"})
    async with await workspaces.create("t1", str(source)) as work:
        assert work.base_commit == second
        assert await sh(work.box, "ls; git status --short") == "calc.py\ndocs\nübung.txt\n"
    assert sorted(path.name for path in workspaces.root.iterdir()) == ["gitconfig", "t1"]


async def test_what_a_killed_attempt_left_is_removed(workspaces, source):
    (workspaces.root / ".new-t1-0123456789ab" / "clone").mkdir(parents=True)
    (workspaces.root / ".gone-t1-0123456789ab" / "clone").mkdir(parents=True)
    async with await workspaces.create("t1", str(source)):
        assert workspaces.exists("t1")
    assert sorted(path.name for path in workspaces.root.iterdir()) == ["gitconfig", "t1"]


async def test_a_sweep_removes_what_killed_processes_left_and_no_workspace(workspaces, work):
    (workspaces.root / ".new-t2-0123456789ab/clone").mkdir(parents=True)
    (workspaces.root / ".gone-t3-0123456789ab").mkdir()
    await workspaces.sweep()
    assert sorted(path.name for path in workspaces.root.iterdir()) == ["gitconfig", "t1"]


async def test_nothing_is_left_of_a_workspace_that_could_not_be_made(workspaces, source, monkeypatch):
    monkeypatch.setattr("nightcrew_workspaces.workspace._CHECK_OUT_CLONE", "exit 7")
    with pytest.raises(WorkspaceError, match="the checkout of"):
        await workspaces.create("t1", str(source))
    assert not workspaces.exists("t1")
    assert [path.name for path in workspaces.root.iterdir()] == ["gitconfig"]


async def test_cancelling_leaves_nothing(workspaces, source, monkeypatch):
    monkeypatch.setattr("nightcrew_workspaces.workspace._CHECK_OUT_CLONE", "sleep 100")
    with anyio.move_on_after(1.0) as scope:
        await workspaces.create("t1", str(source))
    assert scope.cancelled_caught
    assert [path.name for path in workspaces.root.iterdir()] == ["gitconfig"]


async def test_an_unusable_source_makes_no_workspace(workspaces, open_tmp):
    with pytest.raises(RepositoryError, match="does not exist"):
        await workspaces.create("t1", str(open_tmp / "nothing"))
    assert not workspaces.exists("t1")


@pytest.mark.parametrize("task", ["", "../x", "a/b", ".new", "-x", "a b"])
def test_a_task_name_that_is_no_directory_name_is_a_mistake_of_the_caller(workspaces, task):
    with pytest.raises(ValueError, match="cannot be the name of a workspace"):
        workspaces.exists(task)


# Reopening and removing


async def test_a_workspace_is_found_again_as_it_was(work, workspaces):
    await sh(work.box, "echo 1 > new")
    async with await workspaces.reopen("t1") as later:
        assert (later.source, later.base_commit, later.base_tree) == (work.source, work.base_commit, work.base_tree)
        assert await sh(later.box, "cat new") == "1\n"


async def test_reopening_clears_away_what_a_killed_process_left(work, workspaces):
    await sh(work.box, "touch .git/index.lock .git/refs/heads/x.lock")
    (folder(workspaces) / "shadow.git/index.lock").touch()
    (folder(workspaces) / "rooms/old/deep").mkdir(parents=True)
    (folder(workspaces) / "incoming-1").mkdir()
    async with await workspaces.reopen("t1") as later:
        await sh(later.box, "echo 1 > new && git add new && git commit -qm new && git branch x")
        await later.checkpoint()
    assert list((folder(workspaces) / "rooms").iterdir()) == []
    assert not (folder(workspaces) / "incoming-1").exists()


async def test_a_lock_that_is_a_link_out_of_the_clone_harms_nothing(work, workspaces, open_tmp):
    victim = open_tmp / "victim"
    victim.mkdir(mode=0o777)
    (victim / "index.lock").touch()
    await sh(work.box, f"mv .git git-was && ln -s {victim} .git")
    async with await workspaces.reopen("t1") as later:
        assert await sh(later.box, "git rev-parse HEAD") == f"{work.base_commit}\n"
    assert (victim / "index.lock").exists()


@pytest.mark.parametrize("part", ["workspace.json", "clone", "depot.git", "shadow.git"])
async def test_a_workspace_that_is_not_whole_is_not_reopened(work, workspaces, part):
    path = folder(workspaces) / part
    path.unlink() if path.is_file() else shutil.rmtree(path)
    with pytest.raises(
        WorkspaceError, match="there is no workspace" if part.endswith("json") else f"{part} is missing"
    ):
        await workspaces.reopen("t1")


async def test_a_damaged_marker_is_told(work, workspaces):
    (folder(workspaces) / "workspace.json").write_text("{")
    with pytest.raises(WorkspaceError, match="is not whole: workspace"):
        await workspaces.reopen("t1")


async def test_removing_copes_with_whatever_modes_were_left(work, workspaces):
    await sh(work.box, "mkdir -p a/b; echo 1 > a/b/c; chmod 000 a/b a; chmod 500 docs .git")
    await work.aclose()
    await workspaces.remove("t1")
    assert not workspaces.exists("t1")
    assert [path.name for path in workspaces.root.iterdir()] == ["gitconfig"]
    await workspaces.remove("t1")


# Committing


async def test_the_worktree_becomes_one_commit_on_the_base(work):
    await sh(work.box, "echo 'x = 1' > calc.py; echo 1 > new; rm 'docs/read me.txt'")
    result = await work.commit("Fix the sign\n\nBecause.\n", author=("Ann <x>\n", "ann@example.org"))
    assert (await sh(work.box, "git log -1 --format='%H|%P|%an|%ae|%cn|%s|%b'; git status --short")).splitlines() == [
        f"{result}|{work.base_commit}|Ann  x|ann@example.org|Nightcrew|Fix the sign|Because.",
        "",
    ]
    harvest = await work.harvest(result or "")
    assert {(file.status, file.path) for file in harvest.files} == {
        ("M", "calc.py"),
        ("A", "new"),
        ("D", "docs/read me.txt"),
    }


async def test_a_worktree_like_the_base_gives_no_commit(work):
    assert await work.commit("nothing") is None
    await sh(work.box, "echo 1 > new; git add new; git commit -qm new; git rm -q new; git commit -qm undo")
    assert await work.commit("nothing") is None


async def test_committing_again_returns_the_same_commit(work, workspaces):
    await sh(work.box, "echo 1 > new")
    first = await work.commit("one")
    assert await work.commit("two") == first
    async with await workspaces.reopen("t1") as later:
        assert await later.commit("three") == first


async def test_a_crash_before_the_clone_knew_of_the_commit_does_not_make_another(work):
    await sh(work.box, "echo 1 > new")
    first = await work.commit("one")
    await sh(work.box, f"git reset -q {work.base_commit}")
    assert await work.commit("one") == first


async def test_commits_that_the_model_made_are_kept(work):
    await sh(work.box, "echo 1 > one; git add one; git commit -qm 'First step'; echo 2 > two")
    harvest = await work.harvest(await work.commit("The rest") or "")
    assert [subject for _, subject in harvest.commits] == ["First step", "The rest"]
    await sh(work.box, "git commit -q --allow-empty -m 'Empty'; echo 3 > three; git add three; git commit -qm 'Third'")
    head = (await sh(work.box, "git rev-parse HEAD")).strip()
    assert await work.commit("not needed") == head
    assert len((await work.harvest(head)).commits) == 4
    squashed = await work.harvest(await work.commit("All of it", squash=True) or "")
    assert [subject for _, subject in squashed.commits] == ["All of it"]


@pytest.mark.parametrize(
    "script",
    [
        "git checkout -q --orphan fresh; git commit -qm orphan",
        "git checkout -q -b side; git commit -q --allow-empty -m a; git checkout -q work;"
        " git commit -q --allow-empty -m b; git merge -q side",
        "rm -rf .git",
        "git update-ref --no-deref HEAD $(printf 1%.0s $(seq 40)) || echo garbage > .git/HEAD",
        "git config core.repositoryformatversion 99",
    ],
)
async def test_a_history_that_does_not_follow_the_base_in_a_line_becomes_one_commit(work, script):
    await sh(work.box, f"{script}; echo 1 > new")
    harvest = await work.harvest(await work.commit("All") or "")
    assert [subject for _, subject in harvest.commits] == ["All"]
    assert [file.path for file in harvest.files] == ["new"]


async def test_a_model_that_commits_a_link_out_is_refused_at_the_harvest(work):
    await sh(work.box, "ln -s /etc/passwd leak")
    with pytest.raises(HarvestRefused, match="'leak': a symbolic link to an absolute path"):
        await work.harvest(await work.commit("x") or "")


async def test_a_bad_commit_in_between_can_be_squashed_away(work):
    await sh(work.box, "ln -s /etc/passwd leak; git add leak; git commit -qm leak; rm leak; echo 1 > new")
    with pytest.raises(HarvestRefused, match="leak"):
        await work.harvest(await work.commit("x") or "")
    assert (await work.harvest(await work.commit("x", squash=True) or "")).commits[0][1] == "x"


async def test_harvesting_the_base_is_an_empty_harvest(work):
    harvest = await work.harvest(work.base_commit)
    assert (harvest.tree, harvest.files, harvest.patch) == (work.base_tree, (), "")


async def test_a_commit_that_does_not_exist_is_refused(work):
    with pytest.raises(HarvestRefused, match="cannot be packed"):
        await work.harvest("1" * 40)
    with pytest.raises(ValueError, match="not an object name"):
        await work.harvest("HEAD")


# Clean rooms


async def test_a_clean_room_has_the_commit_and_nothing_else(work, workspaces):
    await sh(work.box, "echo ignored > .git/info/exclude; echo 1 > new")
    result = await work.commit("new") or ""
    await work.harvest(result)
    await sh(work.box, "echo 2 > left; git config core.hooksPath /workspace")
    async with work.clean_room(result) as room, work.clean_room(work.base_commit) as before:
        script = "ls; git status --short; git branch --show-current; git rev-parse HEAD; touch written"
        assert (await room.run(script)).output.splitlines() == ["calc.py", "docs", "new", "übung.txt", "work", result]
        assert "new" not in await sh(before, "ls")
        assert "written" not in await sh(before, "ls")
    assert list((folder(workspaces) / "rooms").iterdir()) == []


async def test_what_is_left_in_a_clean_rooms_home_stays_as_long_as_the_room(work, workspaces):
    async with work.clean_room(work.base_commit, home=True) as room, work.clean_room(work.base_commit) as other:
        await sh(room, "mkdir -p ~/.cache && echo 1 > ~/.cache/kept")
        assert await sh(room, "cat ~/.cache/kept; ls -A /workspace | grep -c cache || true") == "1\n0\n"
        assert await sh(other, "echo 1 > ~/kept; ls -A ~") == "kept\n"
        assert await sh(other, "ls -A ~") == ""
    assert list((folder(workspaces) / "rooms").iterdir()) == []


# Preparing


async def test_what_a_set_up_leaves_stays_and_is_no_part_of_the_result(work, workspaces, source):
    names = ["plain", "with space", "star*", "[brackets]", "back\\slash", "#hash", "!bang", "ünicode", "dir/inner"]
    assert not work.prepared
    async with work.preparing() as box:
        for name in names:
            await sh(box, f"mkdir -p \"$(dirname '{name}')\"; echo 1 > '{name}'")
        await sh(box, "echo changed > calc.py; rm 'docs/read me.txt'; echo 1 > ~/kept")
    assert work.prepared
    assert (
        await sh(work.box, "cat ~/kept; git status --short; cat 'docs/read me.txt' dir/inner '[brackets]'")
        == "1\nhello\n1\n1\n"
    )
    assert await sh(work.box, "cat calc.py") == FILES["calc.py"]
    assert await work.commit("nothing") is None
    await sh(work.box, "echo 1 > starfish; echo 1 > b; echo 2 > calc.py; git add -A; git commit -qm mine")
    harvest = await work.harvest(await work.commit("new") or "")
    assert sorted(file.path for file in harvest.files) == ["b", "calc.py", "starfish"]
    await work.restore(work.base_tree)
    assert await sh(work.box, "ls -d plain '[brackets]' starfish 2>/dev/null || true") == "[brackets]\nplain\n"


async def test_a_workspace_stays_prepared_over_a_restart_and_a_set_up_that_was_cut_off_does_not(work, workspaces):
    with anyio.CancelScope() as scope:
        async with work.preparing() as box:
            await sh(box, "echo half > ~/half; echo half > half")
            scope.cancel()
            await anyio.sleep_forever()
    assert not (await workspaces.reopen("t1")).prepared
    async with work.preparing() as box:
        assert await sh(box, "ls -A ~") == ""
        await sh(box, "echo whole > ~/whole")
    async with await workspaces.reopen("t1") as again:
        assert again.prepared
        assert await sh(again.box, "cat ~/whole") == "whole\n"


async def test_git_and_the_file_helper_do_not_read_the_home_of_commands(work):
    async with work.preparing():
        pass
    await sh(
        work.box, "git config --global core.pager 'touch /workspace/ran'; git config --global alias.status '!touch ran'"
    )
    await work.checkpoint()
    assert "ran" not in await sh(work.box, "ls")


async def test_a_clean_room_is_gone_when_its_use_is_cancelled(work, workspaces):
    started = anyio.Event()
    async with anyio.create_task_group() as group:

        async def use() -> None:
            async with work.clean_room(work.base_commit) as room:
                await sh(room, "chmod 000 docs")
                started.set()
                await room.run("sleep 100")

        group.start_soon(use)
        await started.wait()
        group.cancel_scope.cancel()
    assert list((folder(workspaces) / "rooms").iterdir()) == []


async def test_a_clean_room_for_what_was_not_harvested_says_so(work):
    await sh(work.box, "echo 1 > new")
    result = await work.commit("new") or ""
    with pytest.raises(WorkspaceError, match=f"the checkout of {result}"):
        async with work.clean_room(result):
            pass


# The whole way


@pytest.mark.parametrize("dirty", [False, True])
async def test_the_checkout_is_byte_for_byte_what_it_was_apart_from_the_new_branch(source, workspaces, dirty):
    (source / "übung.txt").touch()  # a stale index is not refreshed either
    if dirty:
        (source / "calc.py").write_text("in the middle of something\n")
        (source / "staged").write_text("1")
        git("add", "staged", at=source)
    before = everything(source)
    async with await workspaces.create("t1", str(source)) as work:
        assert work.source.dirty is dirty
        await sh(work.box, "echo 'x = 1' > calc.py; ls staged && exit 1; true")
        await work.checkpoint()
        result = await work.commit("fix") or ""
        await work.harvest(result)
        branch = await work.publish(result, "nightcrew/1-fix")
    await workspaces.remove("t1")
    after = everything(source)
    assert {name: after.get(name) for name in before} == before
    new = [name for name in after if name not in before and not (source / name).is_dir()]
    allowed = (".git/objects/pack/pack-", f".git/refs/heads/{branch}", f".git/logs/refs/heads/{branch}")
    assert new and all(name.startswith(allowed) for name in new)
    assert git("show", f"{branch}:calc.py", at=source) == "x = 1"


def poison(canary: Path) -> str:
    """What a model would write into its clone so that git runs a program of its."""
    run = f"touch {canary}"
    return f"""
    mkdir -p evil
    for hook in post-checkout pre-commit post-index-change reference-transaction pre-auto-gc; do
        printf '#!/bin/sh\\n{run}\\n' > evil/$hook; chmod +x evil/$hook
    done
    printf '#!/bin/sh\\n{run}\\ncat\\n' > evil/run; chmod +x evil/run
    git config core.fsmonitor "{run}; false"
    git config core.hooksPath "$EVIL"
    git config filter.x.clean "{run}; cat"
    git config filter.x.smudge "{run}; cat"
    git config diff.external "{run}; true"
    git config core.pager "{run}; cat"
    git config uploadpack.packObjectsHook "{run}; true"
    git config alias.status "!{run}"
    echo '* filter=x diff=x' > .gitattributes
    echo changed >> calc.py
    """


async def test_a_poisoned_clone_never_runs_anything_outside(source, workspaces, open_tmp, work):
    canary = open_tmp / "canary"
    open_tmp.chmod(0o777)
    clone = folder(workspaces) / "clone"
    evil = f"EVIL={clone}/evil"
    await sh(work.box, f"{evil}\n{poison(canary)}")
    objects = {"GIT_ALTERNATE_OBJECT_DIRECTORIES": str(folder(workspaces) / "depot.git/objects")}
    git("status", at=clone, env=objects)  # outside of a box, the poison works
    assert canary.exists()
    canary.unlink()
    checkpoint = await work.checkpoint()
    await work.diff()
    result = await work.commit("fix") or ""
    harvest = await work.harvest(result)
    async with work.clean_room(result) as room:
        await sh(room, "git status --short")
    await work.restore(work.base_tree)
    await work.restore(checkpoint.tree)
    await work.publish(result, "nightcrew/1")
    async with await workspaces.reopen("t1"):
        pass
    await workspaces.remove("t1")
    assert not canary.exists()
    assert ".gitattributes" in {file.path for file in harvest.files}


async def test_two_tasks_on_one_source_run_and_publish_side_by_side(source, workspaces):
    branches: list[str] = []

    async def one(task: str) -> None:
        async with await workspaces.create(task, str(source)) as work:
            await sh(work.box, f"echo {task} > new")
            result = await work.commit(task) or ""
            await work.harvest(result)
            branches.append(await work.publish(result, "nightcrew/same"))

    async with anyio.create_task_group() as group:
        for task in ("a", "b", "c"):
            group.start_soon(one, task)
    assert sorted(branches) == ["nightcrew/same", "nightcrew/same-2", "nightcrew/same-3"]
    assert {git("show", f"{branch}:new", at=source) for branch in branches} == {"a", "b", "c"}


# Where workspaces live


@as_root
def test_the_root_is_below_home_where_the_boxes_user_can_go(open_tmp):
    user = BoxUser("someone", 12345, 12345, switch=True)
    assert default_root(open_tmp / "home", user) == open_tmp / "home/workspaces"
    open_tmp.chmod(0o700)
    hidden = default_root(open_tmp / "home", user)
    assert hidden.parent == Path("/var/lib/nightcrew/workspaces")
    assert hidden != default_root(open_tmp / "other", user)


@as_root
async def test_other_accounts_cannot_look_into_the_root(work, workspaces):
    status = workspaces.root.stat()
    assert (status.st_mode & 0o777, status.st_uid, status.st_gid) == (0o710, 0, box_user().gid)


async def test_a_clean_room_does_not_see_what_was_put_into_the_tasks_cache(work):
    await sh(work.box, "mkdir -p $CARGO_HOME && echo poison > $CARGO_HOME/config.toml")
    assert await sh(work.box, "cat /cache/cargo/config.toml") == "poison\n"
    async with work.clean_room(work.base_commit) as room:
        assert await sh(room, "ls -A /cache; echo own > /cache/x; cat /cache/x") == "own\n"
    assert await sh(work.box, "ls /cache") == "cargo\n"
