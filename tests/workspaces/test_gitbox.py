from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from fakes.boxes import make_box, make_workspace, own, running, soon
from fakes.repositories import make
from nightcrew_workspaces.errors import BoxError
from nightcrew_workspaces.gitbox import GitBox, GitRan
from nightcrew_workspaces.policy import Limits, Mount

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


@pytest.fixture
def place(open_tmp: Path) -> Path:
    return make_workspace(open_tmp)


@pytest.fixture
async def git(place: Path):
    box = GitBox(make_box(place))
    yield box
    await box.aclose()


async def sh(git: GitBox, script: str, **keywords) -> GitRan:
    return await git.run(["/bin/sh", "-c", script], **{"cwd": "/workspace", "seconds": 20.0, **keywords})


async def test_a_command_gets_its_input_and_environment_and_tells_how_it_ended(git):
    ran = await sh(git, 'cat; echo "$WHO in $PWD" >&2; exit 3', stdin="ä\udcff\n", env={"WHO": "me"})
    assert ran == GitRan(3, "exited", b"\xc3\xa4\xff\n", 4, "me in /workspace\n")
    assert not ran.ok
    assert (await sh(git, "true")).ok


async def test_only_the_part_that_was_asked_for_comes_back_and_all_is_counted(git):
    ran = await sh(git, "seq 1 100000", skip=7, keep=5)
    assert (ran.stdout, ran.total, ran.ok) == (b"\n5\n6\n", 588_895, True)


async def test_a_flood_is_stopped(git):
    ran = await sh(git, "yes", keep=10, most=1 << 20)
    assert (ran.exit_code, ran.ended, ran.stdout) == (None, "output", b"y\n" * 5)
    ran = await sh(git, "yes >&2", keep=10, most=1 << 20)
    assert (ran.exit_code, ran.ended) == (None, "output")


async def test_a_command_that_takes_too_long_is_stopped_with_all_that_it_started(git):
    script = "setsid sh -c 'trap \"\" TERM INT; exec sleep 98761' & trap '' TERM; sleep 98761"
    ran = await sh(git, script, seconds=0.3)
    assert (ran.exit_code, ran.ended) == (None, "timeout")
    await soon(lambda: not running("98761"))
    assert (await sh(git, "echo on")).stdout == b"on\n"


async def test_what_a_command_leaves_running_dies_before_its_answer_comes(git):
    """Also what holds on to its output, which would otherwise never end."""
    script = "for each in 1 2 3; do setsid sleep 98762 & done; (setsid sleep 98762 &) >/dev/null 2>&1; echo done"
    assert (await sh(git, script)).stdout == b"done\n"
    others = "for p in /proc/[0-9]*; do echo ${p#/proc/}; done | wc -l"
    assert int((await sh(git, others)).stdout) <= 6  # the box's own two, the shells, wc
    await soon(lambda: not running("98762"))


async def test_a_command_killed_by_a_signal_says_so(git):
    ran = await sh(git, "kill -9 $$")
    assert (ran.exit_code, ran.ended) == (137, "signal")


async def test_a_command_that_does_not_exist_and_a_directory_that_does_not_are_errors(git):
    with pytest.raises(BoxError, match="No such file"):
        await git.run(["/bin/nothing"], cwd="/workspace", seconds=5)
    with pytest.raises(BoxError, match="No such file"):
        await git.run(["/bin/true"], cwd="/workspace/nothing", seconds=5)
    assert (await sh(git, "echo on")).stdout == b"on\n"


async def test_cancelling_kills_the_command_and_the_next_one_works(git):
    with anyio.move_on_after(0.5) as scope:
        await sh(git, "sleep 98763")
    assert scope.cancelled_caught
    await soon(lambda: not running("98763"))
    assert (await sh(git, "echo on")).stdout == b"on\n"


async def test_a_helper_that_is_killed_from_inside_is_an_error_and_starts_again(git):
    for _ in range(2):
        with pytest.raises(BoxError, match="ended"):
            await sh(git, "kill -9 -1; sleep 5")
    assert (await sh(git, "echo on")).stdout == b"on\n"


async def test_memory_over_the_limit_ends_the_box(place):
    git = GitBox(make_box(place, limits=Limits(seconds=30, memory_mib=150)))
    try:
        with pytest.raises(BoxError, match="out of memory"):
            await sh(git, "python3 -c 'import time; held = bytearray(400 << 20); time.sleep(20)'")
    finally:
        await git.aclose()


async def test_the_helper_cannot_be_read_or_written_by_what_it_starts(git):
    script = "for fd in /proc/$PPID/fd/1 /proc/$PPID/mem; do (echo x > $fd) 2>/dev/null && echo open; done; echo end"
    assert (await sh(git, script)).stdout == b"end\n"


async def test_commands_asked_for_at_the_same_time_run_one_after_the_other(git):
    answers: list[bytes] = []

    async def one(number: int) -> None:
        answers.append((await sh(git, f"echo {number}")).stdout)

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(one, number)
    assert sorted(answers) == [b"0\n", b"1\n", b"2\n", b"3\n", b"4\n"]


async def test_looking_finds_a_repository_as_git_does(git, place):
    make(place / "one")
    (place / "one/deep/er").mkdir(parents=True)
    (place / "linked").mkdir()
    (place / "linked/.git").write_text("gitdir: ../one/.git/worktrees/linked\n")
    admin = place / "one/.git/worktrees/linked"
    admin.mkdir(parents=True)
    (admin / "commondir").write_text("../..\n")
    (admin / "MERGE_HEAD").write_text("abc\n")
    (place / "one/.git/shallow").write_text("x\n")
    (place / "lost").mkdir()
    (place / "lost/.git").write_text("gitdir: /nowhere/.git\n")
    for name in ("objects", "refs"):
        (place / "bare.git" / name).mkdir(parents=True)
    (place / "bare.git/HEAD").write_text("ref: refs/heads/main\n")
    own(place)

    found = await git.look("/workspace/one/deep/er", ["MERGE_HEAD", "shallow", "nothing", "refs"])
    assert (found.top, found.git, found.bare, found.lost) == ("/workspace/one", "/workspace/one/.git", False, False)
    assert found.found == {"shallow": "x\n", "refs": ""}
    linked = await git.look("/workspace/linked", ["MERGE_HEAD", "shallow"])
    assert (linked.top, linked.common) == ("/workspace/linked", "/workspace/one/.git")
    assert linked.found == {"MERGE_HEAD": "abc\n", "shallow": "x\n"}
    assert (await git.look("/workspace/lost")).lost
    bare = await git.look("/workspace/bare.git/refs")
    assert (bare.top, bare.bare) == ("/workspace/bare.git", True)
    assert (await git.look("/workspace")).top is None
    assert not (await git.look("/workspace/nothing")).exists


async def test_looking_never_waits_for_a_pipe(git, place):
    make(place / "one")
    os.mkfifo(place / "one/.git/MERGE_HEAD")
    own(place)
    with anyio.fail_after(10):
        assert (await git.look("/workspace/one", ["MERGE_HEAD"])).found == {"MERGE_HEAD": ""}


async def test_a_home_that_an_earlier_command_wrote_to_configures_nothing(git, place):
    make(place / "one")
    own(place)
    script = "git config --file ~/.gitconfig core.fsmonitor 'touch /workspace/CANARY; false'; git -C one status; ls"
    assert b"CANARY" not in (await sh(git, script)).stdout
    assert b"CANARY" in (await sh(git, f"unset GIT_CONFIG_GLOBAL; {script}")).stdout


async def test_a_mount_that_is_replaced_outside_is_shown_anew(open_tmp, place):
    (open_tmp / "config").write_text("old\n")
    git = GitBox(make_box(place, mounts=(Mount(open_tmp / "config", "/mnt/config"),)))
    try:
        assert (await sh(git, "cat /mnt/config")).stdout == b"old\n"
        (open_tmp / "config.lock").write_text("new\n")
        (open_tmp / "config.lock").rename(open_tmp / "config")
        assert (await sh(git, "cat /mnt/config; touch /tmp/same")).stdout == b"new\n"
        assert (await sh(git, "ls /tmp")).stdout == b"same\n"
    finally:
        await git.aclose()
