"""The power goes at random moments: what nobody synced is gone, and the next start brings what it would have brought.

Home, clones and repositories lie on an ext4 file system on a loop device, mounted so that the kernel writes nothing
back by itself for minutes, and gives no file its blocks just because it is renamed. A copy of the device, made while
the service and its boxes stand still, is what a machine finds that lost its power in that moment: what was in memory
alone is not in it. What this cannot show: disks that lie about a flush, and writes that are torn within a sector.

    NIGHTCREW_CHAOS_SEED=7 NIGHTCREW_CHAOS_CUTS=20 NIGHTCREW_CHAOS_TASKS=12 pytest -s tests/e2e/test_power_cut.py
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.test_chaos import Siege
from fakes.boxes import eventually
from fakes.chaos import Doom, Job, descendants, jobs, script_for, shop
from fakes.disks import unsynced_disk
from fakes.house import git, make_repository
from fakes.scripted_server import spawned
from nightcrew.events import Recorded
from nightcrew.journal import Journal

SEED = int(os.environ.get("NIGHTCREW_CHAOS_SEED", "5"))
CUTS = int(os.environ.get("NIGHTCREW_CHAOS_CUTS", "2"))
TASKS = int(os.environ.get("NIGHTCREW_CHAOS_TASKS", "2"))
EVENTS_OF_A_TASK = 22

pytestmark = pytest.mark.timeout(120 + CUTS * (60 + 10 * TASKS))


@dataclass(frozen=True)
class Cut:
    """A disk as the power left it."""

    image: Path
    told: dict[str, list[Recorded]]
    """What the journal had told by then, by task."""
    orders: Counter[str]
    """What had gone out by then."""


@pytest.fixture
def place() -> Iterator[Path]:
    """Where the disk is mounted, the same for all runs: the path stands in reports and prompts."""
    path = Path(f"/tmp/nightcrew-power-{os.getpid()}")
    yield path
    path.rmdir()


@pytest.fixture
def images() -> Iterator[Path]:
    path = Path(f"/tmp/nightcrew-power-images-{os.getpid()}")
    path.mkdir()
    yield path
    shutil.rmtree(path, ignore_errors=True)


def test_a_power_cut_loses_nothing_that_was_told_and_the_next_start_brings_the_same(place: Path, images: Path) -> None:
    chance = random.Random(SEED)
    print(f"\nseed {SEED}: {CUTS} cuts over {TASKS} tasks")
    repositories = [place / f"repository{number}" for number in range(max(1, TASKS // 4))]
    with shop() as (host, orders):
        some = jobs(TASKS, repositories, host)
        with spawned(script_for(some)) as model:
            with unsynced_disk(place, images / "disk"):
                for repository in repositories:
                    make_repository(repository)
                siege = Siege(place / "home", model.url, host, some)
                siege.hand_in()
                os.sync()
                cuts = cut_at_random(siege, images, some, orders, chance)
                should = siege.close()
            assert len(cuts) == CUTS
            for cut in cuts:
                orders.clear()
                with unsynced_disk(place, cut.image, new=False):
                    nothing_told_is_missing(place / "home", cut)
                    siege = Siege(place / "home", model.url, host, some)
                    siege.go_on(0, chance, 1)
                    was = siege.close()
                    for repository in repositories:
                        git(repository, "fsck", "--strict", "--no-dangling")
                cut.image.unlink()
                wrong = {name: said for name in should if (said := was[name].differs(should[name]))}
                assert not wrong, f"{cut.image.name}: {wrong}"
                for job in some:
                    if "network" in job.fields:
                        assert cut.orders[job.name] + orders[job.name] <= 1, f"{job.name} was ordered twice"


def cut_at_random(
    siege: Siege, images: Path, some: list[Job], orders: Counter[str], chance: random.Random
) -> list[Cut]:
    """Run all tasks to their end, and copy the disk in between."""
    moments = sorted(chance.randint(1, EVENTS_OF_A_TASK * TASKS) for _ in range(CUTS))
    cuts: list[Cut] = []
    process = siege._start(Doom())
    try:
        while not siege.all_ended or moments:
            assert process.is_alive(), f"it ended by itself with {process.exitcode}"
            siege._decide()
            if moments and (siege._events >= moments[0] or siege.all_ended):
                del moments[0]
                assert process.pid is not None
                cuts.append(cut_now(process.pid, siege, images / f"cut-{len(cuts)}", some, orders))
            process.join(chance.uniform(0, 0.05))
        siege._stop(process)
        process.join(60)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()
    return cuts


def cut_now(pid: int, siege: Siege, image: Path, some: list[Job], orders: Counter[str]) -> Cut:
    """Copy the disk while nobody can write to it."""
    stopped: list[int] = []
    try:
        while fresh := [each for each in (pid, *descendants(pid)) if each not in stopped]:
            for each in fresh:  # they may start others until they stand still
                _send(each, signal.SIGSTOP)
                stopped.append(each)
            eventually(lambda: all(stands_still(each) for each in stopped))
        with Journal.open(siege.home / "journal.sqlite", read_only=True) as journal:
            told = {job.name: journal.read(job.name) for job in some}
        subprocess.run(["cp", "--sparse=always", image.with_name("disk"), image], check=True)
        return Cut(image, told, Counter(orders))
    finally:
        for each in stopped:
            _send(each, signal.SIGCONT)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def stands_still(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in {"T", "t", "Z", "X"}
    except OSError:
        return True


def nothing_told_is_missing(home: Path, cut: Cut) -> None:
    """Every event that anybody could have read is there, and every dropped file is a task or still in the inbox."""
    with Journal.open(home / "journal.sqlite") as journal:
        for name, told in cut.told.items():
            there = journal.read(name)
            assert [one.model_dump_json() for one in there[: len(told)]] == [one.model_dump_json() for one in told]
        known = {view.id for view in journal.tasks()}
    dropped = {path.name.split("--")[-1] for path in (home / "inbox").rglob("*.md") if ".accepted" not in path.parts}
    assert known | {name.removesuffix(".md") for name in dropped} >= set(cut.told), "a dropped file is gone"
