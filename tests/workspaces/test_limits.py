"""What a command may use: each limit strikes, ends everything, and is told in words; held by the kernel or by us."""

from __future__ import annotations

import re
from collections.abc import Iterator

import anyio
import pytest

from fakes.boxes import make_box, make_workspace, running
from nightcrew_workspaces import cgroup, room
from nightcrew_workspaces.policy import Limits
from nightcrew_workspaces.reached import noticed, size

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

PYTHON = ("/usr/bin/python3", "-I", "-S", "-c")


@pytest.fixture(params=["group", "watch"])
def held_by(request, monkeypatch) -> Iterator[str]:
    """The two ways in which a machine can hold a box to its limits."""
    if request.param == "watch":
        monkeypatch.setattr(cgroup, "available", lambda: cgroup.Undelegated("not in this test", ""))
    elif isinstance(why := cgroup.available(), cgroup.Undelegated):
        pytest.skip(f"NOT TESTED HERE: control groups, because {why}")
    return request.param


@pytest.fixture
def workspace(open_tmp):
    return make_workspace(open_tmp)


def limited(workspace, **limits):
    return make_box(workspace, limits=Limits(**{"seconds": 30, **limits}))


@pytest.fixture
def quick_looks(monkeypatch):
    monkeypatch.setattr(room, "_EVERY_SECONDS", 0.05)


async def test_a_command_within_its_limits_ran_into_none(workspace, held_by):
    result = await limited(workspace).run("echo 'Resource temporarily unavailable'")
    assert (result.ended, result.exit_code, result.reached) == ("exited", 0, "")


@pytest.mark.parametrize(
    "program",
    [
        "x = bytearray(400 << 20); import time; time.sleep(60)",
        "import os, time; fd = os.memfd_create('x')\nfor _ in range(400): os.write(fd, bytes(1 << 20))\ntime.sleep(60)",
        "import time; f = open('/tmp/x', 'wb')\nfor _ in range(400): f.write(bytes(1 << 20))\ntime.sleep(60)",
        "import os, time\nfor _ in range(3):\n    if os.fork() == 0: x = bytearray(90 << 20); break\ntime.sleep(60)",
    ],
    ids=["heap", "unnamed files", "files in /tmp", "children"],
)
async def test_over_its_memory_a_command_is_killed_wherever_it_keeps_it(workspace, held_by, program):
    result = await limited(workspace, memory_mib=200).run([*PYTHON, program])
    assert (result.exit_code, result.ended, result.reached) == (None, "memory", "over 200 MiB of memory")


async def test_what_is_stored_and_mapped_is_counted_once(workspace, held_by):
    program = (
        "import mmap, time\n"
        "with open('/tmp/x', 'w+b') as file:\n"
        "    file.truncate(120 << 20); memory = mmap.mmap(file.fileno(), 120 << 20)\n"
        "for at in range(0, 120 << 20, 4096): memory[at] = 1\n"
        "time.sleep(1)\n"
    )
    result = await limited(workspace, memory_mib=200).run([*PYTHON, program])
    assert (result.exit_code, result.reached) == (0, "")


async def test_cpu_time_is_counted_over_all_processes_also_of_those_that_ended(workspace, held_by):
    program = (
        "import os, time\n"
        "while True:\n"
        "    if os.fork() == 0:\n"
        "        while time.process_time() < 0.1: pass\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
    )
    result = await limited(workspace, cpu_seconds=0.5).run([*PYTHON, program])
    assert (result.exit_code, result.ended, result.reached) == (None, "cpu", "over 0.5 s of CPU time")


async def test_a_command_that_may_start_no_more_processes_is_told_how_many(workspace, held_by):
    bomb = "import os, time\nwhile True:\n    if os.fork() == 0: time.sleep(60)"
    result = await limited(workspace, processes=30).run([*PYTHON, bomb])
    assert (result.exit_code, result.ended) == (1, "exited")
    assert "Resource temporarily unavailable" in result.output
    assert result.reached == "over 30 processes and threads at the same time"


async def test_a_command_that_copes_with_too_few_processes_is_told_too(workspace, held_by):
    program = (
        "import os, time\n"
        "children = 0\n"
        "try:\n"
        "    while True:\n"
        "        if os.fork() == 0: time.sleep(60)\n"
        "        children += 1\n"
        "except OSError: pass\n"
        "time.sleep(2); print(children)\n"
    )
    result = await limited(workspace, processes=30).run([*PYTHON, program])
    assert result.exit_code == 0
    assert 25 <= int(result.output) < 30
    assert result.reached == "over 30 processes and threads at the same time"


async def test_threads_count_as_processes(workspace, held_by):
    program = (
        "import threading, time\n"
        "for _ in range(100): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    )
    result = await limited(workspace, processes=30).run([*PYTHON, program])
    assert "can't start new thread" in result.output
    assert result.reached == "over 30 processes and threads at the same time"


@pytest.mark.parametrize(
    ("command", "ended"),
    [
        ("exec head -c 3000000 /dev/zero > big", "file"),
        ("python3 -c \"open('big','wb').write(bytes(3000000))\"", "exited"),
    ],
)
async def test_a_file_that_may_grow_no_more_is_told_with_its_size(workspace, command, ended):
    result = await limited(workspace, file_mib=1).run(command)
    assert result.exit_code not in (None, 0)
    assert (result.ended, result.reached) == (ended, "a file over 1 MiB")
    assert (workspace / "big").stat().st_size == 1024 * 1024


async def test_time_and_output_are_told_in_words(workspace):
    assert (await limited(workspace).run("sleep 60", seconds=0.3)).reached == "over 0.3 s"
    assert (await limited(workspace, flood_mib=2).run("yes")).reached == "over 2 MiB of output"


# The workspace's size


FULL = "for n in 1 2 3 4; do fallocate -l 50M $n; done"


async def test_a_command_that_fills_the_workspace_is_killed_and_told_what_it_holds(workspace, quick_looks):
    result = await limited(workspace, workspace_mib=100).run(f"{FULL}; sleep 31.7")
    assert (result.exit_code, result.ended) == (None, "disk")
    words = r"the workspace holds [\d.]+ MiB where 100 MiB are allowed; delete what is not needed"
    assert re.fullmatch(words, result.reached), result
    assert running("31.7") == []


async def test_a_home_that_stays_counts_with_the_workspace(workspace, quick_looks, open_tmp):
    home = make_workspace(open_tmp, "home")
    box = limited(workspace, workspace_mib=100).with_home(home)
    result = await box.run(f"cd; {FULL}; sleep 31.9")
    assert (result.exit_code, result.ended) == (None, "disk")
    assert "where 100 MiB are allowed" in result.reached
    assert running("31.9") == []


async def test_too_many_files_are_too_much_too(workspace, quick_looks):
    program = "import time\nfor n in range(400): open(f'/workspace/{n}', 'w').close()\ntime.sleep(60)"
    result = await limited(workspace, workspace_files=300).run([*PYTHON, program])
    assert (result.exit_code, result.ended) == (None, "disk")
    assert "files where 300 are allowed" in result.reached


async def test_a_command_that_ends_before_it_is_looked_at_is_told_of_a_full_workspace(workspace, monkeypatch):
    monkeypatch.setattr(room, "_EVERY_SECONDS", 60.0)
    result = await limited(workspace, workspace_mib=100).run(FULL)
    assert (result.exit_code, result.ended) == (0, "exited")
    assert result.reached == "the workspace holds 200 MiB where 100 MiB are allowed; delete what is not needed"


@pytest.mark.parametrize(
    ("limits", "command", "words"),
    [
        ({"workspace_mib": 20}, "fallocate -l 30M big", "30 MiB where 20 MiB are allowed"),
        ({"workspace_files": 300}, "seq 400 | xargs touch", "files where 300 are allowed"),
    ],
)
async def test_a_small_limit_is_noticed_at_the_end_of_a_command_too(workspace, monkeypatch, limits, command, words):
    monkeypatch.setattr(room, "_EVERY_SECONDS", 60.0)
    result = await limited(workspace, **limits).run(command)
    assert (result.exit_code, result.ended) == (0, "exited")
    assert words in result.reached


async def test_in_a_full_workspace_commands_can_clear_away_but_add_nothing(workspace, monkeypatch):
    monkeypatch.setattr(room, "_EVERY_SECONDS", 60.0)
    box = limited(workspace, workspace_mib=100)
    await box.run(FULL)
    monkeypatch.setattr(room, "_EVERY_SECONDS", 0.05)
    result = await box.run("sleep 0.5; rm 1; sleep 0.5; echo cleared")
    assert (result.exit_code, result.output) == (0, "cleared\n")
    assert "150 MiB" in result.reached
    more = await box.run("fallocate -l 100M 5; fallocate -l 100M 6; sleep 60")
    assert more.ended == "disk"
    result = await box.run("rm -f *")
    assert (result.exit_code, result.reached) == (0, "")
    assert (await box.run("fallocate -l 50M 1; sleep 0.5")).reached == ""


async def test_what_is_hidden_from_counting_counts_as_it_grew(workspace, quick_looks):
    box = limited(workspace, workspace_mib=100)
    assert (await box.run("mkdir closed; fallocate -l 10M closed/0; sleep 0.5")).reached == ""
    program = (
        "import os, time\n"
        "files = [open(f'/workspace/closed/{n}', 'wb') for n in range(1, 4)]\n"
        "os.chmod('/workspace/closed', 0)\n"
        "for file in files: os.posix_fallocate(file.fileno(), 0, 100 << 20)\n"
        "time.sleep(60)\n"
    )
    result = await box.run([*PYTHON, program])
    assert result.ended == "disk", result


async def test_a_file_with_two_names_is_counted_once(workspace, quick_looks):
    command = "fallocate -l 70M 1; mkdir more; for n in 2 3 4; do ln 1 more/$n; done; sleep 0.5"
    assert (await limited(workspace, workspace_mib=100).run(command)).reached == ""


async def test_a_command_during_which_the_disk_became_nearly_full_is_killed(workspace, quick_looks, monkeypatch):
    monkeypatch.setattr(room, "LEAST_FREE", 1 << 60)
    box = limited(workspace)
    with anyio.move_on_after(20) as waiting:
        result = await box.run("fallocate -l 300M file; sleep 60")
    assert not waiting.cancelled_caught
    assert result.ended == "disk"
    assert result.reached.startswith("the disk has less than ")
    assert (await box.run("sleep 0.5")).ended == "exited"  # others do not suffer for it


async def test_counting_is_rare(workspace, monkeypatch):
    monkeypatch.setattr(room, "_EVERY_SECONDS", 60.0)
    box = limited(workspace)
    counted = []
    held = box._held
    monkeypatch.setattr(box.room, "_count", lambda: counted.append(1) or held())
    for _ in range(3):
        await box.run("true")
    assert counted == []
    monkeypatch.setattr(room, "_EVERY_SECONDS", 0.05)
    await box.run("sleep 2")
    assert counted == [1]


# The words


@pytest.mark.parametrize(
    ("said", "reached"),
    [
        ("sh: 1: Cannot fork", "processes"),
        ("RuntimeError: can't start new thread", "processes"),
        ("java.lang.OutOfMemoryError: unable to create native thread: possibly out of memory", "processes"),
        ("OSError: [Errno 27] File too large: 'x'", "file"),
        ("AssertionError", None),
    ],
)
def test_a_refusal_is_read_from_what_a_failed_command_says(said, reached):
    assert noticed(1, said) == reached
    assert noticed(0, said) is None
    assert noticed(None, said) is None


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (2 << 30, "2 GiB"),
        (1536 << 20, "1.5 GiB"),
        (200 << 20, "200 MiB"),
        (1000 << 20, "1000 MiB"),
        (1 << 19, "0.5 MiB"),
    ],
)
def test_sizes_are_written_as_people_write_them(count, text):
    assert size(count) == text
