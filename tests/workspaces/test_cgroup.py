"""Where control groups are delegated, and what is written into them: on a made-up machine, and on a real one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fakes.boxes import make_box, make_workspace
from nightcrew_workspaces import cgroup
from nightcrew_workspaces.cgroup import Groups, Undelegated, find, group_settings
from nightcrew_workspaces.policy import Limits, resource_limits

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


def machine(
    root: Path, own: str, *, within: str = "/", point: str = "/sys/fs/cgroup", controllers: str = "cpu memory pids"
) -> Path:
    """A machine's files, as a process in the group `own` sees them; returns the directory of that group."""
    proc = root / "proc/self"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text(f"4:memory:/elsewhere\n0::{own}\n")
    (proc / "mountinfo").write_text(
        f"22 1 8:1 / / rw - ext4 /dev/vda rw\n30 22 0:26 {within} {point} rw,nosuid - cgroup2 cgroup2 rw\n"
    )
    group = root / point.lstrip("/") / own[len(within.rstrip("/")) :].strip("/")
    group.mkdir(parents=True)
    for name, text in (("controllers", controllers), ("procs", ""), ("subtree_control", "")):
        (group / f"cgroup.{name}").write_text(text)
    return group


@pytest.mark.parametrize("mark", ["user.delegate", "trusted.delegate"])
def test_a_unit_with_delegation_is_known_by_its_mark(tmp_path, monkeypatch, mark):
    group = machine(tmp_path, "/system.slice/nightcrew.service")

    def getxattr(path: Path, name: str) -> bytes:  # not every file system keeps such marks
        if (path, name) != (group, mark):
            raise OSError(errno.ENODATA, "No data available")
        return b"1"

    monkeypatch.setattr(cgroup.os, "getxattr", getxattr)
    assert find(tmp_path) == group


def test_a_group_that_nobody_delegated_is_left_alone(tmp_path):
    machine(tmp_path, "/user.slice/session-3.scope")
    with pytest.raises(Undelegated, match=r"session-3.scope is not delegated.*Delegate=yes"):
        find(tmp_path)


def test_the_top_of_a_containers_own_hierarchy_is_its_own(tmp_path):
    group = machine(tmp_path, "/docker/abc", within="/docker/abc")
    assert find(tmp_path) == group


def test_a_service_that_moved_itself_finds_its_base_again(tmp_path):
    group = machine(tmp_path, "/app/nightcrew-service")
    for name in ("controllers", "procs", "subtree_control"):
        (group.parent / f"cgroup.{name}").write_text("memory pids")
    assert find(tmp_path) == group.parent


@pytest.mark.parametrize(
    ("made", "why"),
    [
        ({"own": "/", "controllers": "hugetlb"}, r"no controller for memory and pids"),
        ({"own": "/", "controllers": "cpu memory"}, r"no controller for pids"),
        ({"own": "/../../other", "within": "/"}, r"lies outside"),
        ({"own": "/other", "within": "/docker/abc"}, r"lies outside"),
    ],
)
def test_what_is_lacking_is_said(tmp_path, made, why):
    machine(tmp_path, **made)
    with pytest.raises(Undelegated, match=why):
        find(tmp_path)


def test_a_machine_without_control_groups_of_the_second_version(tmp_path):
    machine(tmp_path, "/")
    (tmp_path / "proc/self/mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/vda rw\n")
    with pytest.raises(Undelegated, match="not mounted"):
        find(tmp_path)


def test_limits_as_the_kernel_is_told_them():
    assert group_settings(Limits(memory_mib=2, processes=30, cpus=1.5)) == {
        "memory.max": "2097152",
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "31",
        "cpu.max": "150000 100000",
    }
    assert group_settings(Limits())["cpu.max"] == "max 100000"


def test_in_a_group_the_group_is_the_first_to_refuse_a_process():
    limits = Limits(processes=30)
    assert resource_limits(limits)["nproc"] == 30
    assert resource_limits(limits, grouped=True)["nproc"] > int(group_settings(limits)["pids.max"])


def test_groups_of_a_service_that_is_gone_are_removed_and_others_stay(tmp_path):
    own = f"{os.getpid()}.{cgroup._start_time(os.getpid())}-7"
    for name in (own, "999999999.1-0", f"{os.getpid()}.1-0", "something-else"):
        (tmp_path / name).mkdir()
    assert Groups(tmp_path).sweep() == 2
    assert {path.name for path in tmp_path.iterdir()} == {own, "something-else"}


# On this machine


@pytest.fixture
def groups() -> Groups:
    if isinstance(found := cgroup.available(), Undelegated):
        pytest.skip(f"NOT TESTED HERE: control groups, because {found}")
    return found


async def test_a_box_has_a_group_of_its_own_while_it_runs(groups, open_tmp):
    before = set(groups.folder.iterdir())
    box = make_box(make_workspace(open_tmp), limits=Limits(seconds=30, memory_mib=100, cpus=0.5))
    channel = await box.spawn(["/bin/sh", "-c", "ls -d /sys/fs/cgroup 2>&1; cat /proc/self/cgroup; echo; exec cat"])
    try:
        assert b"No such file" in await channel.reader.readline()
        assert await channel.reader.readuntil(b"\n\n")
        (group,) = [path for path in set(groups.folder.iterdir()) - before if path.is_dir()]
        assert (group / "memory.max").read_text().strip() == str(100 << 20)
        assert (group / "cpu.max").read_text().split() == ["50000", "100000"]
        assert len((group / "cgroup.procs").read_text().split()) >= 3
    finally:
        await channel.aclose()
    assert not group.exists()
