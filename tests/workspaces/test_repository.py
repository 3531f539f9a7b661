"""The trusted side: looking at a source, its depot, its mirror, and publishing into it."""

from __future__ import annotations

import functools
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from fakes.repositories import commit, everything, git, make
from nightcrew_workspaces import repository
from nightcrew_workspaces.depot import make_depot
from nightcrew_workspaces.errors import GitError, RepositoryError
from nightcrew_workspaces.git import Git, Owner, safe_config
from nightcrew_workspaces.policy import BoxUser
from nightcrew_workspaces.repository import publish, unwritable
from nightcrew_workspaces.source import Source, SourceState, is_url, look, redacted
from nightcrew_workspaces.user import box_user
from nightcrew_workspaces.workspace import Workspaces

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def source(open_tmp: Path) -> Path:
    return make(open_tmp / "source")


@pytest.fixture
def trusted(open_tmp: Path) -> Git:
    return Git(safe_config(open_tmp))


@pytest.fixture
def see(open_tmp: Path, trusted: Git) -> Callable[..., object]:
    async def look_at(repo: Path | str, base: str | None = None) -> SourceState:
        return await look(trusted, Source(str(repo), base), open_tmp / "mirrors")

    return look_at


async def depot_of(trusted: Git, state: SourceState, path: Path, reader: BoxUser | None = None) -> Path:
    path.mkdir()
    await make_depot(trusted, state, path / "depot.git", reader or box_user(), path / "caches")
    return path / "depot.git"


def result_in(depot: Path, base: str, text: str = "fixed\n") -> str:
    """A commit on the base that only the depot has."""
    blob = git("hash-object", "-w", "--stdin", at=depot, stdin=text.encode())
    tree = git("mktree", at=depot, stdin=f"100644 blob {blob}\tcalc.py\n".encode())
    return git("commit-tree", "-p", base, "-m", "fix", tree, at=depot)


# Looking


async def test_a_checkout_is_seen_at_its_head(source, see):
    state = await see(source)
    assert state.path == source
    assert state.commit == git("rev-parse", "HEAD", at=source)
    assert state.tree == git("rev-parse", "HEAD^{tree}", at=source)
    assert (state.ref, state.dirty, state.bare, state.shallow) == ("main", False, False, False)


@pytest.mark.parametrize("base", ["older", "v1", "refs/heads/older", "main~1", "COMMIT", "SHORT", "annotated"])
async def test_a_base_may_be_a_branch_a_tag_or_a_commit(source, see, base):
    first = git("rev-parse", "HEAD", at=source)
    git("branch", "older", at=source)
    git("tag", "v1", at=source)
    git("tag", "-a", "-m", "a tag", "annotated", at=source)
    commit(source, {"more": "1"})
    state = await see(source, base.replace("COMMIT", first).replace("SHORT", first[:10]))
    assert state.commit == first


async def test_a_branch_is_preferred_to_a_tag_of_the_same_name(source, see):
    git("tag", "same", at=source)
    head = commit(source, {"more": "1"})
    git("branch", "same", at=source)
    assert (await see(source, "same")).commit == head


async def test_a_branch_that_only_the_remote_has_is_found(source, see, open_tmp):
    git("branch", "feature", at=source)
    git("clone", "--quiet", str(source), str(open_tmp / "copy"), at=open_tmp)
    state = await see(open_tmp / "copy", "feature")
    assert (state.commit, state.ref) == (git("rev-parse", "feature", at=source), "origin/feature")


async def test_a_detached_head_is_named_by_its_commit(source, see):
    git("checkout", "--quiet", "--detach", at=source)
    state = await see(source)
    assert state.ref == state.commit == git("rev-parse", "HEAD", at=source)


@pytest.mark.parametrize("change", ["modified", "staged", "untracked"])
async def test_uncommitted_changes_are_noticed(source, see, change):
    (source / ("new.txt" if change == "untracked" else "calc.py")).write_text("other\n")
    if change == "staged":
        git("add", "calc.py", at=source)
    assert (await see(source)).dirty


async def test_ignored_files_are_no_changes(source, see):
    commit(source, {".gitignore": "*.log\n"})
    (source / "x.log").write_text("1")
    assert not (await see(source)).dirty


async def test_looking_writes_nothing_even_where_the_index_is_stale(source, see):
    os.utime(source / "calc.py", ns=(1, 1))
    before = everything(source)
    assert not (await see(source)).dirty
    assert everything(source) == before


async def test_a_sub_directory_is_refused_and_the_top_is_named(source, see):
    (source / "a" / "b").mkdir(parents=True)
    with pytest.raises(RepositoryError, match=f"sub-directory of the checkout {source}: name {source}"):
        await see(source / "a" / "b")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "does not exist"),
        ("plain", "not a git repository: run `git init`"),
        ("file", "is not a directory"),
        ("broken", "cannot be read as a git repository"),
        ("empty", "has no commit yet: commit something first"),
        ("emptybare", "has no commit yet"),
    ],
)
async def test_what_is_no_usable_repository_is_refused_with_the_reason(open_tmp, see, name, message):
    (open_tmp / "plain").mkdir()
    (open_tmp / "file").write_text("x")
    (open_tmp / "broken").mkdir()
    (open_tmp / "broken" / ".git").write_text("gitdir: /nowhere\n")
    git("init", "--quiet", "empty", at=open_tmp)
    git("init", "--quiet", "--bare", "emptybare", at=open_tmp)
    with pytest.raises(RepositoryError, match=message) as caught:
        await see(open_tmp / name)
    assert str(open_tmp / name) in str(caught.value)


async def test_a_head_without_commits_beside_branches_that_have_some_asks_for_a_base(source, see):
    git("symbolic-ref", "HEAD", "refs/heads/unborn", at=source)
    with pytest.raises(RepositoryError, match=r"HEAD \(unborn\) has no commit; name a base that has one \(main\)"):
        await see(source)
    assert (await see(source, "main")).ref == "main"


async def test_an_unknown_base_is_answered_with_names_near_it(source, see):
    git("branch", "feature/parser", at=source)
    with pytest.raises(RepositoryError, match=r"no branch, tag or commit 'feature/parsr'; near it: feature/parser"):
        await see(source, "feature/parsr")


@pytest.mark.parametrize("base", ["", "-x", "a\nb", "a\0b"])
async def test_a_base_that_can_be_no_name_is_refused(source, see, base):
    with pytest.raises(RepositoryError, match="is not the name of a branch"):
        await see(source, base)


async def test_a_relative_path_is_refused(see):
    with pytest.raises(RepositoryError, match="give an absolute path or a URL"):
        await see("somewhere/else")


async def test_bare_and_shallow_repositories_are_recognised(source, see, open_tmp):
    commit(source, {"more": "1"})
    git("clone", "--quiet", "--bare", str(source), "bare.git", at=open_tmp)
    git("clone", "--quiet", "--depth=1", f"file://{source}", "shallow", at=open_tmp)
    bare, shallow = await see(open_tmp / "bare.git"), await see(open_tmp / "shallow")
    assert (bare.bare, bare.shallow, bare.dirty, bare.ref) == (True, False, False, "main")
    assert (shallow.bare, shallow.shallow) == (False, True)


@pytest.mark.parametrize("kind", ["blob:none", "tree:0"])
async def test_a_partial_clone_is_usable_where_it_has_all_of_the_base_and_nothing_is_fetched(
    source, see, trusted, open_tmp, kind
):
    commit(source, {"calc.py": "2\n", "new/more": "1"})
    git("config", "uploadpack.allowFilter", "true", at=source)
    git("clone", "--quiet", f"--filter={kind}", f"file://{source}", "partial", at=open_tmp)
    partial = open_tmp / "partial"
    state = await see(partial)
    assert state.partial
    git("sparse-checkout", "set", "nothing", at=partial)
    assert await see(partial) == state
    before = {name: content for name, (_, _, content) in everything(partial / ".git/objects").items()}
    with pytest.raises(RepositoryError, match=r"a partial clone that lacks objects of the base, .*--refetch"):
        await see(partial, "HEAD~1")
    depot = await depot_of(trusted, state, open_tmp / "one")
    assert git("show", f"{state.commit}:new/more", at=depot) == "1"
    # and by way of the cache
    (partial / ".git/objects/info/alternates").write_text(f"{source}/.git/none\n")
    depot = await depot_of(trusted, state, open_tmp / "two")
    assert git("show", f"{state.commit}:new/more", at=depot) == "1"
    (partial / ".git/objects/info/alternates").unlink()
    assert {name: content for name, (_, _, content) in everything(partial / ".git/objects").items()} == before
    git("fetch", "--quiet", "--refetch", "--no-filter", at=partial)
    assert (await see(partial, "HEAD~1")).tree == git("rev-parse", "HEAD~1^{tree}", at=source)


async def test_the_git_directory_of_a_checkout_stands_for_the_checkout(source, see):
    assert (await see(source / ".git")).path == source


async def test_a_linked_worktree_is_a_source_with_the_main_checkouts_branches(source, see, open_tmp):
    git("worktree", "add", "--quiet", "-b", "side", str(open_tmp / "side"), at=source)
    state = await see(open_tmp / "side")
    assert (state.path, state.ref, state.git_dir) == (open_tmp / "side", "side", source / ".git")


async def test_a_checkout_whose_state_git_cannot_tell_counts_as_changed(source, see):
    (source / ".git/index").write_bytes(b"damaged")
    assert (await see(source)).dirty


@as_root
async def test_a_repository_of_another_account_can_be_looked_at(source, see):
    os.chown(source, 12345, 12345)
    for path in source.rglob("*"):
        os.chown(path, 12345, 12345, follow_symlinks=False)
    assert (await see(source)).ref == "main"


async def test_a_poisoned_source_configuration_runs_nothing(source, see, open_tmp):
    canary = open_tmp / "canary"
    program = open_tmp / "run"
    program.write_text(f"#!/bin/sh\ntouch {canary}\n")
    program.chmod(0o755)
    git("config", "core.fsmonitor", str(program), at=source)
    git("status", at=source)
    assert canary.exists()  # the poison works
    canary.unlink()
    await see(source)
    assert not canary.exists()


# Mirrors


async def test_a_url_is_mirrored_and_fetched_again_each_time(source, see):
    first = await see(f"file://{source}")
    assert (first.commit, first.ref, first.bare) == (git("rev-parse", "HEAD", at=source), "main", True)
    second = commit(source, {"more": "1"})
    again = await see(f"file://{source}")
    assert (again.commit, again.path) == (second, first.path)


async def test_branches_that_the_remote_gave_up_are_gone_and_published_ones_stay(source, see, trusted, open_tmp):
    git("branch", "old", at=source)
    state = await see(f"file://{source}")
    depot = await depot_of(trusted, state, open_tmp / "task")
    result = result_in(depot, state.commit)
    assert await publish(trusted, state, depot, commit=result, base=state.commit, branch="nightcrew/x") == "nightcrew/x"
    git("branch", "-D", "old", at=source)
    with pytest.raises(RepositoryError, match="no branch, tag or commit 'old'"):
        await see(f"file://{source}", "old")
    assert (await see(f"file://{source}", "nightcrew/x")).commit == result


async def test_a_remote_head_that_is_not_main_is_followed(source, see):
    git("checkout", "--quiet", "-b", "trunk", at=source)
    commit(source, {"more": "1"})
    state = await see(f"file://{source}")
    assert (state.ref, state.commit) == ("trunk", git("rev-parse", "trunk", at=source))


async def test_a_url_that_cannot_be_fetched_is_named_without_its_secret(see):
    with pytest.raises(RepositoryError) as caught:
        await see("http://user:secret@127.0.0.1:9/x.git")
    assert "http://127.0.0.1:9/x.git cannot be fetched" in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_only_known_kinds_of_urls_are_fetched(see):
    with pytest.raises(RepositoryError, match="only file, git, http, https, ssh URLs"):
        await see("ftp://example.org/x.git")
    with pytest.raises(RepositoryError, match="give an absolute path or a URL"):
        await see("ext::sh -c true")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://example.org/x.git", True),
        ("ssh://git@example.org/x", True),
        ("git@example.org:team/x.git", True),
        ("/srv/x.git", False),
        ("/srv/odd@name:x", False),
        ("-oProxyCommand=x@y:z", False),
    ],
)
def test_urls_are_told_from_paths(text, expected):
    assert is_url(text) is expected


def test_a_secret_is_taken_out_of_a_url():
    assert redacted("https://u:p@example.org/x") == "https://example.org/x"


# The depot


async def test_the_depot_shares_the_sources_files_and_changes_none(source, see, trusted, open_tmp):
    git("gc", "--quiet", at=source)
    commit(source, {"more": "1"})
    before = everything(source)
    state = await see(source)
    depot = await depot_of(trusted, state, open_tmp / "task")
    assert everything(source) == before
    pack = next((source / ".git/objects/pack").glob("*.pack"))
    assert (depot / "objects/pack" / pack.name).stat().st_ino == pack.stat().st_ino
    assert git("rev-list", "--objects", "base", at=depot) == git("rev-list", "--objects", "main", at=source)


@as_root
async def test_objects_that_the_box_may_not_read_are_copied(source, see, trusted, open_tmp):
    for path in (source / ".git/objects").rglob("*"):
        if path.is_file():
            path.chmod(0o400)
    before = everything(source)
    depot = await depot_of(trusted, await see(source), open_tmp / "task")
    assert everything(source) == before
    modes = {path.stat().st_mode & 0o777 for path in (depot / "objects").rglob("*") if path.is_file()}
    assert modes == {0o444}


async def test_a_source_that_borrows_its_objects_is_packed(source, see, trusted, open_tmp):
    git("clone", "--quiet", "--shared", str(source), "borrower", at=open_tmp)
    head = commit(open_tmp / "borrower", {"more": "1"})
    depot = await depot_of(trusted, await see(open_tmp / "borrower"), open_tmp / "task")
    shutil.rmtree(source)
    assert git("rev-list", "--count", head, at=depot) == "2"
    git("fsck", "--strict", at=depot)


async def test_the_depot_is_readable_whatever_the_services_umask_is(source, see, trusted, open_tmp):
    old = os.umask(0o077)
    try:
        (open_tmp / "task").mkdir(mode=0o755)
        await make_depot(trusted, await see(source), open_tmp / "task/depot.git", box_user(), open_tmp / "caches")
    finally:
        os.umask(old)
    for path in (open_tmp / "task/depot.git").rglob("*"):
        wanted = 0o005 if path.is_dir() else 0o004
        assert path.stat().st_mode & wanted == wanted, path


# Publishing


@pytest.fixture
async def published(source, see, trusted, open_tmp):
    """A source, its state, a depot with a result, and what to call to publish that."""
    state = await see(source)
    depot = await depot_of(trusted, state, open_tmp / "task")
    result = result_in(depot, state.commit)

    async def call(branch: str = "nightcrew/1-fix", of: str = result, at: SourceState = state) -> str:
        return await publish(trusted, at, depot, commit=of, base=state.commit, branch=branch)

    return state, depot, result, call


async def test_a_result_becomes_a_branch_of_the_source(source, published):
    _, _, result, call = published
    before = everything(source)
    assert await call() == "nightcrew/1-fix"
    assert git("rev-parse", "nightcrew/1-fix", at=source) == result
    assert git("show", "nightcrew/1-fix:calc.py", at=source) == "fixed"
    git("fsck", "--strict", at=source)
    after = everything(source)
    assert {name: after[name] for name in before} == before
    new = [name for name in after if name not in before and not Path(source, name).is_dir()]
    allowed = (".git/objects/pack/pack-", ".git/refs/heads/nightcrew/", ".git/logs/refs/heads/nightcrew/")
    assert all(name.startswith(allowed) for name in new)
    assert "nightcrew: result of a task" in git("reflog", "show", "nightcrew/1-fix", at=source)


async def test_publishing_again_changes_nothing(source, published):
    _, _, _, call = published
    await call()
    before = everything(source)
    assert await call() == "nightcrew/1-fix"
    assert everything(source) == before


async def test_a_name_that_is_taken_gets_a_number(source, published):
    state, depot, _, call = published
    git("branch", "nightcrew/1-fix", at=source)
    assert await call() == "nightcrew/1-fix-2"
    assert await call() == "nightcrew/1-fix-2"
    assert await call(of=result_in(depot, state.commit, "otherwise\n")) == "nightcrew/1-fix-3"


async def test_a_branch_in_the_way_of_the_folder_is_gone_around(source, published):
    git("branch", "nightcrew", at=source)
    assert await published[3]() == "nightcrew-1-fix"


async def test_a_folder_in_the_way_of_the_branch_is_gone_around(source, published):
    git("branch", "nightcrew/1-fix/deeper", at=source)
    assert await published[3]() == "nightcrew/1-fix-2"


@pytest.mark.parametrize(
    "branch", ["", "-x", "a b", "a..b", "a.lock", "x.lock/y", "/a", "a/", "a//b", "a@{b", "a\nb", ".a"]
)
async def test_a_branch_name_that_git_would_not_take_is_a_mistake_of_the_caller(published, branch):
    with pytest.raises(ValueError, match="not a valid branch name"):
        await published[3](branch)


async def test_another_gits_lock_is_waited_for(source, published):
    lock = source / ".git/refs/heads/nightcrew/1-fix.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    async with anyio.create_task_group() as group:

        async def release() -> None:
            await anyio.sleep(0.3)
            lock.unlink()

        group.start_soon(release)
        assert await published[3]() == "nightcrew/1-fix"


async def test_a_lock_that_a_killed_git_left_on_the_branch_is_removed_and_no_other(source, published, monkeypatch):
    monkeypatch.setattr(repository, "_LEFT_SECONDS", 0.2)
    monkeypatch.setattr(repository, "_PUBLISH_SECONDS", 2.0)
    heads = source / ".git/refs/heads"
    (heads / "nightcrew").mkdir(parents=True)
    left, another = heads / "nightcrew/1-fix.lock", heads / "nightcrew/2-fix.lock"
    left.touch()
    another.touch()
    assert await published[3]() == "nightcrew/1-fix"
    assert not left.exists()
    assert another.exists()


async def test_a_lock_behind_a_link_is_nobodys_to_remove(source, published, monkeypatch, tmp_path):
    monkeypatch.setattr(repository, "_LEFT_SECONDS", 0.1)
    monkeypatch.setattr(repository, "_PUBLISH_SECONDS", 0.5)
    lock = tmp_path / "1-fix.lock"
    lock.touch()
    (source / ".git/refs/heads/nightcrew").symlink_to(tmp_path)
    with pytest.raises(RepositoryError):
        await published[3]()
    assert lock.exists()


async def test_several_results_are_published_at_once(source, published):
    state, depot, _, call = published
    results = [result_in(depot, state.commit, f"{number}\n") for number in range(4)]
    names: list[str] = []
    async with anyio.create_task_group() as group:

        async def one(result: str) -> None:
            names.append(await call(of=result))

        for result in results:
            group.start_soon(one, result)
    assert sorted(names) == ["nightcrew/1-fix", *(f"nightcrew/1-fix-{number}" for number in (2, 3, 4))]
    assert {git("rev-parse", name, at=source) for name in names} == set(results)


async def test_a_source_that_lost_its_base_gets_the_whole_history(source, published):
    _, _, result, call = published
    git("checkout", "--quiet", "--orphan", "new", at=source)
    commit(source, {"calc.py": "all new\n"})
    git("branch", "-D", "main", at=source)
    git("reflog", "expire", "--expire=now", "--all", at=source)
    git("gc", "--quiet", "--prune=now", at=source)
    assert await call() == "nightcrew/1-fix"
    assert git("rev-list", "--count", result, at=source) == "2"


async def test_no_hook_of_the_source_runs(source, published, open_tmp):
    canary = open_tmp / "canary"
    hook = source / ".git/hooks/reference-transaction"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {canary}\n")
    hook.chmod(0o755)
    git("branch", "other", at=source)
    assert canary.exists()  # the hook works
    canary.unlink()
    await published[3]()
    assert not canary.exists()


@as_root
async def test_what_is_published_belongs_to_the_sources_owner(source, published):
    for path in (source, *source.rglob("*")):
        os.chown(path, 12345, 23456, follow_symlinks=False)
    await published[3]()
    strangers = [path for path in source.rglob("*") if (path.lstat().st_uid, path.lstat().st_gid) != (12345, 23456)]
    assert strangers == []


@as_root
@pytest.mark.parametrize("place", ["objects", "refs/heads", "refs/heads/nightcrew"])
async def test_what_a_sources_owner_may_not_write_is_known_before_anything_is_done(source, trusted, place):
    (source / ".git/refs/heads/nightcrew").mkdir()
    for path in (source, *source.rglob("*")):
        os.chown(path, 12345, 23456, follow_symlinks=False)
    assert unwritable(trusted, source / ".git") is None
    (source / ".git" / place).chmod(0o555)
    assert unwritable(trusted, source / ".git") == source / ".git" / place
    os.chown(source / ".git" / place, 0, 0)
    assert unwritable(trusted, source / ".git") == source / ".git" / place
    (source / ".git" / place).chmod(0o777)
    assert unwritable(trusted, source / ".git") is None


@as_root
async def test_an_owner_who_comes_to_a_source_through_a_group_owns_what_is_published(source, trusted, published):
    account = next(one for one in pwd.getpwall() if one.pw_uid and not os.getgrouplist(one.pw_name, one.pw_gid)[1:])
    owner = Owner(account.pw_uid, account.pw_gid, (account.pw_gid, 34567))
    for path in (source, *source.rglob("*")):
        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
    source.parent.chmod(0o750)
    os.chown(source.parent, 0, 34567)
    try:
        assert trusted.as_owner(source).owner is None  # without the group there is no way in
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Owner, "of", classmethod(lambda cls, uid, gid: owner))
            assert trusted.as_owner(source).owner == owner
            await published[3]()
    finally:
        source.parent.chmod(0o755)
    assert {path.lstat().st_uid for path in source.rglob("*")} == {account.pw_uid}


async def test_a_source_that_cannot_be_written_is_an_error_with_its_path(source, published):
    shutil.rmtree(source)
    with pytest.raises(RepositoryError, match=f"cannot be written to {source}"):
        await published[3]()


# The runner


async def test_git_sees_nothing_of_the_services_environment(trusted, source, monkeypatch):
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    assert (await trusted.run("rev-parse", "--is-bare-repository", at=source)).strip() == b"false"


async def test_git_that_takes_too_long_is_stopped(trusted, source):
    reading, writing = os.pipe()  # a standard input that never ends
    try:
        with pytest.raises(GitError, match=r"hash-object took longer than 0\.2 s"):
            await trusted.run("hash-object", "--stdin", at=source, stdin=reading, seconds=0.2)
    finally:
        os.close(reading)
        os.close(writing)


async def test_output_beyond_the_limit_is_cut(trusted, source):
    commit(source, {"big": "0123456789\n" * 100_000})
    output = await trusted.run_capped("cat-file", "blob", "HEAD:big", at=source, limit=1000)
    assert (len(output.data), output.cut) == (1000, True)


async def test_a_failure_says_what_git_said(trusted, source):
    with pytest.raises(GitError, match="cat-file failed: fatal: Not a valid object name nothing") as caught:
        await trusted.run("cat-file", "-p", "nothing", at=source)
    assert caught.value.exit_code == 128


async def test_a_machine_without_git_is_told_what_to_install(trusted):
    with pytest.raises(GitError, match="git cannot be started: install it"):
        await trusted.run("version", env={"PATH": "/nonexistent"})


@pytest.mark.parametrize("owned", ["directory", "git only", "root's group"])
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can look at somebody else's repository")
async def test_a_filter_of_somebody_elses_repository_never_runs_as_root(open_tmp: Path, owned: str) -> None:
    repository, canary = open_tmp / "theirs", open_tmp / "canary"
    run = functools.partial(subprocess.run, check=True, capture_output=True)
    run(["git", "init", "-q", "-b", "main", str(repository)])
    (repository / ".gitattributes").write_text("*.md filter=evil\n")
    (repository / "x.md").write_text("x\n")
    person = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    run(["git", "-C", str(repository), "add", "-A"])
    run(["git", "-C", str(repository), *person, "commit", "-qm", "x"])
    run(["git", "-C", str(repository), "config", "filter.evil.clean", f"id -u > {canary}; cat"])
    os.utime(repository / "x.md", (1, 1))
    where = repository / ".git" if owned == "git only" else repository
    run(["chown", "-R", "nobody:root" if owned == "root's group" else "nobody:nogroup", str(where)])
    open_tmp.chmod(0o777)

    run(["git", "-c", "safe.directory=*", "-C", str(repository), "status", "--porcelain"])
    assert canary.read_text().strip() == "0", "the canary does not sing without the care"
    canary.unlink()
    os.utime(repository / "x.md", (1, 1))

    state = await Workspaces(open_tmp / "spaces", user=box_user()).look(str(repository))
    assert state.commit
    assert not canary.exists()
