"""The depot of a task and the cache behind it: nothing is copied twice, nothing is lost, and no box can write to it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from fakes.repositories import commit, everything, git, make
from nightcrew_workspaces.box import Box
from nightcrew_workspaces.cache import MOST_PACKS, cache_sizes, filled
from nightcrew_workspaces.depot import MOST_LOOSE, make_depot
from nightcrew_workspaces.git import Git, safe_config
from nightcrew_workspaces.policy import BoxPolicy, Mount
from nightcrew_workspaces.source import Source, SourceState, look
from nightcrew_workspaces.user import box_user
from nightcrew_workspaces.workspace import Workspace, Workspaces

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def trusted(open_tmp: Path) -> Git:
    return Git(safe_config(open_tmp))


@pytest.fixture
def workspaces(open_tmp: Path) -> Workspaces:
    return Workspaces(open_tmp / "root", user=box_user())


@pytest.fixture
def borrower(open_tmp: Path) -> Path:
    """A source whose objects cannot be linked: it borrows some from another repository."""
    make(open_tmp / "origin", {"calc.py": "1\n", "big": os.urandom(300_000)})
    git("clone", "--quiet", "--shared", "origin", "source", at=open_tmp)
    commit(open_tmp / "source", {"more": "1"})
    return open_tmp / "source"


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A directory on another file system."""
    path = Path(tempfile.mkdtemp(prefix="nightcrew-test-", dir="/dev/shm"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


async def state_of(trusted: Git, source: Path) -> SourceState:
    return await look(trusted, Source(str(source)), source.parent / "mirrors")


async def depot_of(trusted: Git, source: Path, task: Path) -> tuple[Path, Path | None]:
    """A depot, and the cache that it was made from."""
    task.mkdir()
    caches = task.parent / "caches"
    cache = await make_depot(trusted, await state_of(trusted, source), task / "depot.git", box_user(), caches)
    return task / "depot.git", cache


def packs(repository: Path) -> dict[str, int]:
    """Inode of each pack."""
    return {path.name: path.stat().st_ino for path in (repository / "objects/pack").glob("*.pack")}


def whole(repository: Path, head: str) -> bool:
    git("fsck", "--strict", "--full", at=repository, env={"GIT_DIR": str(repository)})
    return bool(git("rev-list", "--objects", head, at=repository, env={"GIT_DIR": str(repository)}))


# Nothing is copied twice


async def test_a_source_that_can_be_linked_needs_no_cache(trusted, open_tmp):
    source = make(open_tmp / "source")
    _, cache = await depot_of(trusted, source, open_tmp / "task")
    assert cache is None and not (open_tmp / "caches").exists()


async def test_a_second_task_copies_nothing_from_a_source_on_another_file_system(trusted, open_tmp, elsewhere):
    source = make(elsewhere / "source", {"calc.py": "1\n", "big": os.urandom(300_000)})
    before = everything(source)
    first, cache = await depot_of(trusted, source, open_tmp / "one")
    assert cache is not None
    second, _ = await depot_of(trusted, source, open_tmp / "two")
    assert packs(first) == packs(second) == packs(cache) and len(packs(cache)) == 1
    assert everything(source) == before
    head = git("rev-parse", "HEAD", at=source)
    shutil.rmtree(source)
    assert whole(first, head) and whole(second, head)


async def test_a_new_commit_brings_only_what_is_new(trusted, open_tmp, borrower):
    _, cache = await depot_of(trusted, borrower, open_tmp / "one")
    assert cache is not None
    old = packs(cache)
    head = commit(borrower, {"more": "2"})
    second, _ = await depot_of(trusted, borrower, open_tmp / "two")
    (new,) = packs(cache).keys() - old.keys()
    assert (cache / "objects/pack" / new).stat().st_size < 2000
    assert whole(second, head)


async def test_a_source_with_very_many_loose_objects_is_packed_once(trusted, open_tmp):
    source = make(open_tmp / "source")
    blobs = "".join(f"blob\nmark :{n}\ndata {len(str(n))}\n{n}\n" for n in range(1, MOST_LOOSE + 2))
    files = "".join(f"M 100644 :{n} d/{n}\n" for n in range(1, MOST_LOOSE + 2))
    end = f"commit refs/heads/main\ncommitter A <a@b> 1 +0000\ndata 1\nx\nfrom refs/heads/main^0\n{files}\n"
    git("-c", "fastimport.unpackLimit=100000", "fast-import", "--quiet", at=source, stdin=(blobs + end).encode())
    depot, cache = await depot_of(trusted, source, open_tmp / "task")
    assert cache is not None and len(packs(depot)) == 1
    assert whole(depot, git("rev-parse", "main", at=source))


async def test_tasks_that_begin_together_fill_the_cache_once(trusted, open_tmp, borrower):
    depots: list[Path] = []

    async def one(name: str) -> None:
        depots.append((await depot_of(trusted, borrower, open_tmp / name))[0])

    async with anyio.create_task_group() as group:
        for name in "abcd":
            group.start_soon(one, name)
    assert len({tuple(packs(depot).items()) for depot in depots}) == 1 and len(packs(depots[0])) == 1


async def test_a_shallow_source_keeps_its_end_in_the_cache(trusted, open_tmp, borrower):
    git("clone", "--quiet", "--depth=1", f"file://{borrower}", "shallow", at=open_tmp)
    shallow = open_tmp / "shallow"
    shutil.copytree(shallow / ".git/objects", open_tmp / "lent")
    (shallow / ".git/objects/info/alternates").write_text(f"{open_tmp}/lent\n")
    depot, cache = await depot_of(trusted, shallow, open_tmp / "one")
    assert cache is not None
    assert git("rev-list", "--count", "base", at=depot) == "1"
    git("fetch", "--quiet", "--unshallow", at=shallow)
    deep, other = await depot_of(trusted, shallow, open_tmp / "two")
    assert other != cache
    assert git("rev-list", "--count", "base", at=deep) == "2"


# Nothing is lost


async def test_a_cache_that_is_packed_anew_takes_nothing_from_a_live_depot(trusted, open_tmp, borrower):
    first_head = git("rev-parse", "HEAD", at=borrower)
    first, cache = await depot_of(trusted, borrower, open_tmp / "one")
    assert cache is not None
    for number in range(MOST_PACKS):
        commit(borrower, {"more": f"again {number}"})
        async with filled(trusted, await state_of(trusted, borrower), open_tmp / "caches"):
            pass
    assert len(packs(cache)) == 1 and not packs(cache).keys() & packs(first).keys()
    assert whole(first, first_head)
    last, _ = await depot_of(trusted, borrower, open_tmp / "last")
    assert packs(last) == packs(cache) and whole(last, git("rev-parse", "HEAD", at=borrower))


@pytest.mark.parametrize("kind", ["old", "large"])
async def test_caches_are_removed_by_age_and_size_and_live_depots_stay_whole(trusted, workspaces, borrower, kind):
    async with await workspaces.create("t1", str(borrower)) as work:
        (cache,) = cache_sizes(workspaces.caches)
        assert cache.bytes > 300_000
        assert await workspaces.trim_caches(max_age_seconds=60, max_bytes=1e9) == []
        if kind == "old":
            os.utime(cache.path, (time.time() - 61,) * 2)
        gone = await workspaces.trim_caches(max_age_seconds=60, max_bytes=1000 if kind == "large" else 1e9)
        assert [one.path for one in gone] == [cache.path] and not cache.path.exists()
        async with work.clean_room(work.base_commit) as room:
            assert (await room.run("git fsck && cat more")).output.endswith("1")
    async with await workspaces.create("t2", str(borrower)):
        assert cache.path.exists()


async def test_a_cache_in_use_is_not_removed(trusted, open_tmp, borrower, workspaces):
    workspaces.root.mkdir()
    async with filled(trusted, await state_of(trusted, borrower), workspaces.caches) as cache:
        assert await workspaces.trim_caches(max_age_seconds=0, max_bytes=0) == []
        assert cache.exists()
    assert len(await workspaces.trim_caches(max_age_seconds=0, max_bytes=0)) == 1


@pytest.mark.parametrize("damage", ["HEAD", "objects", "pack", "index", "middle", "leftovers"])
async def test_a_broken_cache_is_made_anew(trusted, workspaces, borrower, damage):
    async with await workspaces.create("t1", str(borrower)):
        pass
    await workspaces.remove("t1")
    cache = cache_sizes(workspaces.caches)[0].path
    (pack,) = (cache / "objects/pack").glob("*.pack")
    if damage == "HEAD":
        (cache / "HEAD").write_bytes(b"")
    elif damage == "objects":
        shutil.rmtree(cache / "objects")
    elif damage == "leftovers":
        for name in ("objects/pack/tmp_pack_x", "objects/pack/tmp-x.pack", "packed-refs.lock", "HEAD.lock"):
            (cache / name).write_bytes(b"half")
        commit(borrower, {"more": "2"})
    else:
        path = pack.with_suffix(".idx") if damage == "index" else pack
        path.chmod(0o644)
        content = path.read_bytes()
        half = len(content) // 2
        path.write_bytes(content[:half] + (bytes(1000) + content[half + 1000 :] if damage == "middle" else b""))
    async with await workspaces.create("t2", str(borrower)) as work:
        result = await work.box.run("git fsck && git status --short && wc -c < big")
        assert (result.exit_code, result.output.split()[-1]) == (0, "300000")
    assert not [*(cache / "objects/pack").glob("tmp*")]


async def test_a_source_that_is_itself_broken_is_said_to_be_and_leaves_nothing(workspaces, borrower, open_tmp):
    from nightcrew_workspaces.errors import RepositoryError

    blob = git("rev-parse", "HEAD~1:big", at=borrower)
    (open_tmp / "origin/.git/objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(RepositoryError, match=f"{borrower} cannot be copied: .*{blob}"):
        await workspaces.create("t1", str(borrower))
    assert workspaces.tasks() == []


# Nobody else's files


@as_root
async def test_a_link_among_somebody_elses_objects_gets_nothing_of_roots(trusted, open_tmp):
    """Objects of a person's repository that are links to a file that only the service may read."""
    source, secret = make(open_tmp / "source"), open_tmp / "secret"
    secret.write_text("secret")
    secret.chmod(0o600)
    (source / ".git/objects/aa").mkdir(exist_ok=True)
    (source / ".git/objects/aa" / ("b" * 38)).symlink_to(secret)
    for path in (source, *source.rglob("*")):
        os.chown(path, 12345, 12345, follow_symlinks=False)
    depot, _ = await depot_of(trusted, source, open_tmp / "task")
    found = [*(depot / "objects").rglob("*")]
    assert [path for path in found if path.is_symlink() or (path.is_file() and b"secret" in path.read_bytes())] == []
    assert whole(depot, git("rev-parse", "HEAD", at=source))


@as_root
async def test_objects_that_a_person_borrows_from_roots_own_repository_are_not_read_for_them(trusted, open_tmp):
    from nightcrew_workspaces.errors import WorkspaceError

    hidden = make(open_tmp / "hidden", {"secret": "secret"})
    source = make(open_tmp / "source")
    (source / ".git/objects/info/alternates").write_text(f"{hidden}/.git/objects\n")
    secret = git("rev-parse", "HEAD", at=hidden)
    git("update-ref", "refs/heads/main", secret, at=source)
    for path in (source, *source.rglob("*")):
        os.chown(path, 12345, 12345, follow_symlinks=False)
    hidden.chmod(0o700)
    with pytest.raises(WorkspaceError):
        await depot_of(trusted, source, open_tmp / "task")


@as_root
async def test_objects_that_the_boxes_user_owns_are_not_linked(trusted, open_tmp):
    source, user = make(open_tmp / "source"), box_user()
    for path in (source, *source.rglob("*")):
        os.chown(path, user.uid, user.gid, follow_symlinks=False)
    depot, cache = await depot_of(trusted, source, open_tmp / "task")
    assert cache is not None
    assert {path.stat().st_uid for path in (depot, *depot.rglob("*"))} == {0}


# Nobody writes to it


ATTACK = """
cd "$TARGET" || exit 9
pack=$(ls objects/pack/*.pack)
try() { "$@" 2>/dev/null && echo "did: $*"; }
try touch objects/new
try mkdir objects/bb
try ln -s /etc objects/aa
try ln "$pack" linked
try sh -c "echo x > HEAD.new"
try git --git-dir=. config core.fsmonitor /bin/false
try git --git-dir=. update-ref refs/heads/other base
try python3 -c "import os;os.utime('$pack',(1,1))"
try chmod 666 "$pack"
try python3 -c "import mmap,os;m=mmap.mmap(os.open('$pack',os.O_RDWR),16);m[0:1]=b'x'"
try sh -c "exec 3<$pack; printf x | dd of=/proc/self/fd/3 bs=1 conv=notrunc"
try sh -c "echo x >> $pack"
try truncate -s 0 "$pack"
try mv "$pack" objects/pack/other
try rm -rf objects/pack
mount -o remount,rw "$TARGET" 2>/dev/null && echo "did: remount"
unshare -rm mount -o remount,rw "$TARGET" 2>/dev/null && echo "did: remount in a namespace"
ln "$pack" /workspace/linked 2>/dev/null && echo "did: link into the worktree"
"""


@pytest.fixture
async def work(open_tmp: Path, workspaces: Workspaces, borrower: Path) -> AsyncGenerator[Workspace]:
    async with await workspaces.create("t1", str(borrower)) as workspace:
        yield workspace


@pytest.mark.parametrize("owner", ["service", "box"])
async def test_a_box_cannot_change_the_depot_even_where_its_files_were_its_own(work, workspaces, open_tmp, owner):
    depot = workspaces.root / "t1/depot.git"
    user = box_user()
    if owner == "box" and user.switch:
        for path in (depot, *depot.rglob("*")):
            os.chown(path, user.uid, user.gid)
    # The same attack where the depot is bound to be written proves that it is one.
    copy = open_tmp / "copy"
    shutil.copytree(depot, copy)
    for path in (copy, *copy.rglob("*")):
        os.chown(path, user.uid, user.gid)
    victim = Box(BoxPolicy(user=user, mounts=(Mount(copy, "/workspace", writable=True),)))
    succeeded = (await victim.run(f"TARGET=/workspace\n{ATTACK}")).output
    assert succeeded.count("did:") == ATTACK.count("\ntry "), succeeded

    before = everything(depot)
    result = await work.box.run(f"TARGET=/depot\n{ATTACK}")
    assert "did:" not in result.output
    assert everything(depot) == before
    assert (await work.box.run("ls -A | grep linked")).exit_code == 1


async def test_a_box_sees_neither_caches_nor_the_depots_of_others(work, workspaces, borrower):
    async with await workspaces.create("t2", str(borrower)):
        found = (
            await work.box.run("find / -xdev -name '*.pack' 2>/dev/null; find / -name '.caches' 2>/dev/null")
        ).output
        assert {line.rpartition("/")[0] for line in found.split()} <= {"/depot/objects/pack"}
        assert (await work.box.run("ls /depot/objects/pack/*.pack")).exit_code == 0
    if os.geteuid() == 0:
        user = box_user()
        looking = subprocess.run(
            ["ls", str(workspaces.caches)],
            user=user.uid,
            group=user.gid,
            extra_groups=[],
            capture_output=True,
            check=False,
        )
        assert looking.returncode != 0


async def test_the_reader_is_asked_about_each_file(trusted, open_tmp):
    """Where the service is the boxes' account, its own files are linked although nobody else may read them."""
    source = make(open_tmp / "source")
    for path in (source / ".git/objects").rglob("*"):
        if path.is_file():
            path.chmod(0o400)
    state = await state_of(trusted, source)
    (open_tmp / "task").mkdir()
    same = replace(box_user(), uid=os.geteuid(), gid=os.getegid(), switch=False)
    assert await make_depot(trusted, state, open_tmp / "task/depot.git", same, open_tmp / "caches") is None
