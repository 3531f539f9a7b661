"""A process that does not move for a lease loses its tasks and its life; nobody loses either by mistake."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from fakes.boxes import eventually
from nightcrew.errors import JournalBusy
from nightcrew.journal import locks as module
from nightcrew.journal.locks import RunLocks, ServiceLock

pytestmark = pytest.mark.timeout(30)

RUNNER = """
import sys, time
from pathlib import Path
from nightcrew.journal.locks import RunLocks
locks = RunLocks(Path(sys.argv[1]), lease_seconds=float(sys.argv[2]))
assert locks.acquire("t1")
print("held", flush=True)
if sys.argv[3] == "beats":
    begun = time.monotonic()
    while time.monotonic() - begun < 2 * float(sys.argv[2]):
        locks.beat()
        time.sleep(0.02)
    print("beaten", flush=True)
    sys.stdin.readline()
    locks.beat()
sys.stdin.read()
"""


@contextmanager
def runner(folder: Path, lease: float, how: str) -> Generator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", RUNNER, str(folder), str(lease), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


def test_a_stopped_process_is_killed_after_its_lease_and_its_task_is_free(tmp_path: Path) -> None:
    with runner(tmp_path, 0.5, "stands still") as process:
        process.send_signal(signal.SIGSTOP)
        mine = RunLocks(tmp_path, lease_seconds=0.5)
        assert RunLocks(tmp_path, lease_seconds=60).is_alive("t1")  # another lease has not run out
        eventually(lambda: not mine.is_alive("t1"))
        assert process.wait(10) == -signal.SIGKILL
        assert mine.acquire("t1")


def test_a_process_that_moves_keeps_its_task_beyond_the_lease(tmp_path: Path) -> None:
    with runner(tmp_path, 0.5, "beats") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"beaten\n"
        assert RunLocks(tmp_path, lease_seconds=0.5).is_alive("t1")
        assert process.poll() is None


def test_one_who_stood_still_itself_gives_all_others_a_lease_before_it_judges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with runner(tmp_path, 60, "stands still") as process:
        moment = module.time.monotonic()
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: moment, sleep=lambda _: None))
        mine = RunLocks(tmp_path, lease_seconds=60)
        moment += 300.0  # the whole machine was frozen
        mine.beat()
        assert mine.is_alive("t1")
        for _ in range(70):
            moment += 1.0
            mine.beat()
        assert not mine.is_alive("t1")
        assert process.wait(10) == -signal.SIGKILL


def test_a_lock_of_an_older_version_that_says_nothing_is_its_holders(tmp_path: Path) -> None:
    held = module.RunLock(tmp_path, "t1")
    assert held.acquire()
    assert RunLocks(tmp_path, lease_seconds=0.0).is_alive("t1")
    held.release()


def test_who_lost_a_lock_does_not_take_the_new_holders_away(tmp_path: Path) -> None:
    mine, theirs = RunLocks(tmp_path), RunLocks(tmp_path)
    assert mine.acquire("t1")
    (tmp_path / "t1.lock").unlink()
    assert theirs.acquire("t1")
    mine.release("t1")
    assert mine.is_alive("t1")


def test_a_service_that_stands_still_is_named_with_how_long_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ServiceLock(tmp_path) as held:
        with pytest.raises(JournalBusy, match="stop that one first"):
            ServiceLock(tmp_path).__enter__()
        later = module.time.monotonic() + 42
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: later, sleep=lambda _: None))
        with pytest.raises(JournalBusy, match=rf"has not moved for 42 s.*kill -CONT {os.getpid()}"):
            ServiceLock(tmp_path).__enter__()
        held.beat()
        with pytest.raises(JournalBusy, match="stop that one first"):
            ServiceLock(tmp_path).__enter__()
        assert ServiceLock.owner(tmp_path) == os.getpid()
