"""The service is killed at random moments, over and over; what comes out is what an unkilled run brings, once.

make chaos                                              # 300 kills over 40 tasks; a seed of its own, which it prints
make chaos NIGHTCREW_CHAOS_SEED=7                       # those of an earlier run
NIGHTCREW_CHAOS_KILLS=12 NIGHTCREW_CHAOS_TASKS=13 pytest tests/e2e/test_chaos.py -s
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest

from fakes.aftermath import Aftermath, aftermath, untouched
from fakes.boxes import eventually
from fakes.chaos import Doom, Job, config_for, descendants, inside, jobs, script_for, serve_doomed, shop
from fakes.house import fingerprint, make_repository
from fakes.scripted_server import spawned
from nightcrew.gateway import JournalGateway
from nightcrew.journal import Journal
from nightcrew.journal.locks import ServiceLock
from nightcrew_tools.contract import TaskState

SEED = int(os.environ.get("NIGHTCREW_CHAOS_SEED", "5"))
KILLS = int(os.environ.get("NIGHTCREW_CHAOS_KILLS", "6"))
TASKS = int(os.environ.get("NIGHTCREW_CHAOS_TASKS", "5"))

pytestmark = pytest.mark.timeout(120 + 20 * KILLS + 10 * TASKS)

TOTAL_SECONDS = 900.0
"""In which a service that nobody kills brings all tasks to their end."""


@dataclass
class Tally:
    """What became of the kills."""

    kills: Counter[str] = field(default_factory=Counter[str])
    lives: int = 0
    claims: int = 0
    seconds: float = 0.0
    events: int = 0

    def __str__(self) -> str:
        of = ", ".join(f"{number} {what}" for what, number in sorted(self.kills.items()))
        return f"{self.kills.total()} kills ({of}), {self.events} events, {self.claims} claims, {self.seconds:.0f} s"


class Siege:
    """One home with its tasks, and the service over it, as often as it takes."""

    def __init__(self, home: Path, url: str, host: str, some: list[Job]) -> None:
        self.home = home
        self.tally = Tally()
        self._url, self._host, self._jobs = url, host, some
        self._config = config_for(home, url, host)
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["nightcrew.service.worker", "nightcrew.service", "fakes.chaos"])

    def hand_in(self) -> None:
        """Half of the tasks by the folder, half by the queue."""
        (self.home / "inbox").mkdir(parents=True)
        with Journal.open(self._config.journal) as journal:
            for number, job in enumerate(self._jobs):
                if number % 2:
                    (self.home / "inbox" / f"{job.name}.md").write_text(job.file)
                else:
                    journal.submit(job.request, origin="test", name_hint=job.name)

    def go_on(self, kills: int, chance: random.Random, expected: int) -> None:
        """Kill so often, spread over the work, which is `expected` events long; then see it to its end."""
        pace = 0.5
        while self.tally.kills.total() < kills and not self.all_ended:
            left = max(1, expected - self._events) / max(1, kills - self.tally.kills.total())
            started, before = time.monotonic(), self._events
            self._one_life(self._doom(chance, left, pace), chance)
            done = self._events - before
            pace = 0.7 * pace + 0.3 * min(3.0, left * (time.monotonic() - started) / max(1, done))
        self._last_life()

    def _doom(self, chance: random.Random, left: float, pace: float) -> tuple[Doom, float | None]:
        what = chance.choice(("event", "event", "fsync", "rename", "time", "time", "tree"))
        if what in ("time", "tree"):
            return Doom(what), chance.uniform(0.0, 2 * pace) + 0.15
        most = max(1, round(2 * left)) if what == "event" else max(2, round(left))
        return Doom(what, chance.randint(1, most), chance.random() < 0.5), None

    def _one_life(self, doomed: tuple[Doom, float | None], chance: random.Random) -> None:
        doom, seconds = doomed
        process = self._start(doom)
        begun = time.monotonic()
        while process.is_alive() and not self.all_ended:
            self._decide()
            if seconds is not None and time.monotonic() - begun > seconds:
                assert process.pid is not None
                below = descendants(process.pid) if doom.what == "tree" else []
                for pid in chance.sample([process.pid, *below], 1 + len(below)):
                    _kill(pid)
                break
            assert time.monotonic() - begun < TOTAL_SECONDS, f"it does not come to {doom}: {self._state}"
            process.join(0.05)
        if process.is_alive() and self.all_ended and seconds is None:
            self._stop(process)
        process.join(60)
        assert process.exitcode in (-signal.SIGKILL, 0), f"it ended with {process.exitcode} at {doom}"
        if process.exitcode:
            self.tally.kills[doom.what] += 1

    def _last_life(self) -> None:
        process = self._start(Doom())
        try:
            begun = time.monotonic()
            while not self.all_ended:
                self._decide()
                assert process.is_alive(), f"it ended by itself with {process.exitcode}"
                assert time.monotonic() - begun < TOTAL_SECONDS, f"it does not come to an end: {self._state}"
                process.join(0.05)
            self._stop(process)
            process.join(60)
            assert process.exitcode == 0
        finally:
            process.kill()
            process.join()

    def _stop(self, process: multiprocessing.process.BaseProcess) -> None:
        """As systemd would; before it serves, a signal would just end it."""
        eventually(lambda: not process.is_alive() or ServiceLock.owner(self.home) == process.pid, 60)
        process.terminate()

    def _start(self, doom: Doom) -> multiprocessing.process.BaseProcess:
        self.tally.lives += 1
        process = self._processes.Process(target=serve_doomed, args=(str(self.home), self._url, self._host, doom))  # type: ignore[attr-defined]
        process.start()
        return process

    def _decide(self) -> None:
        """What persons do: approve, reject and cancel."""
        wanted = {job.name: job.kind for job in self._jobs}
        with Journal.open(self._config.journal) as journal:
            gateway = JournalGateway(journal, self._config)
            for view in journal.tasks((TaskState.WAITING, TaskState.RUNNING)):
                kind = wanted[view.id]
                if view.state is TaskState.WAITING and kind.decide == "approve":
                    anyio.run(lambda task=view.id: gateway.approve(task, by="ann", door="cli"))
                elif view.state is TaskState.WAITING and kind.decide == "reject":
                    anyio.run(lambda task=view.id: gateway.reject(task, why="no", by="ann", door="cli"))
                elif kind.cancel_after:
                    answers = sum(one.event.kind == "tool_ran" for one in journal.read(view.id))
                    if answers > kind.cancel_after:  # the planner had one
                        journal.request_cancel(view.id)

    @property
    def all_ended(self) -> bool:
        with Journal.open(self._config.journal, read_only=True) as journal:
            return len(journal.tasks((TaskState.ENDED,))) == len(self._jobs)

    @property
    def _events(self) -> int:
        with Journal.open(self._config.journal, read_only=True) as journal:
            return journal._database.all("SELECT coalesce(sum(seq), 0) FROM task")[0][0]

    @property
    def _state(self) -> str:
        with Journal.open(self._config.journal, read_only=True) as journal:
            open_ones = [view for view in journal.tasks() if view.state is not TaskState.ENDED]
            last = {view.id: journal.read(view.id)[-1].event.kind for view in open_ones}
        return ", ".join(f"{view.id} {view.state} {view.activity} after {last[view.id]}" for view in open_ones)

    def close(self) -> dict[str, Aftermath]:
        """Nothing but results is left; returns them."""
        eventually(lambda: not inside(self.home.parent), 20)
        outbox = {path.name for path in (self.home / "outbox").iterdir()}
        assert {name for name in outbox if not name.startswith("t")} == set(), "left in the outbox"
        assert [path.name for path in (self.home / "workspaces").iterdir() if path.name != "gitconfig"] == []
        dropped = [path for path in (self.home / "inbox").rglob("*") if path.is_file()]
        assert {path.parent.name for path in dropped} == {".accepted"}
        assert sorted(path.name.split("--")[1] for path in dropped) == [f"{job.name}.md" for job in self._jobs[1::2]]
        with Journal.open(self._config.journal, read_only=True) as journal:
            self.tally.claims = sum(journal.record(job.name).claims for job in self._jobs)
        self.tally.events = self._events
        return aftermath(self.home, self._jobs)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def place() -> Iterator[Path]:
    """The same place for both runs: its path stands in reports and prompts."""
    path = Path(f"/tmp/nightcrew-chaos-{os.getpid()}")
    path.mkdir(mode=0o755)
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def test_a_service_killed_again_and_again_brings_what_an_unkilled_one_brings(place: Path) -> None:
    print(f"\nseed {SEED}: {KILLS} kills over {TASKS} tasks")
    chance = random.Random(SEED)
    repositories = [place / f"repository{number}" for number in range(max(2, TASKS // 5))]
    with shop() as (host, orders):
        some = jobs(TASKS, repositories, host)
        with spawned(script_for(some)) as model:
            should, calm, _ = _run(place, model.url, host, some, repositories)
            assert orders == {job.name: 1 for job in some if "network" in job.fields}
            assert {job.name: after.outcome for job, after in zip(some, should.values(), strict=True)} == {
                job.name: job.kind.outcome for job in some
            }
            print(f"unkilled: {calm}")
            orders.clear()
            was, wild, touched = _run(place, model.url, host, some, repositories, KILLS, chance, calm.events)
            print(f"killed:   {wild}")
    wrong = {name: said for name in should if (said := was[name].differs(should[name]))}
    assert not wrong, "\n\n".join(f"{name} ({some[int(name[1:])].kind.marker}): {said}" for name, said in wrong.items())
    assert not touched
    assert wild.kills.total() >= KILLS
    for job in some:
        if "network" in job.fields:
            assert orders[job.name] <= 1, f"{job.name} was ordered twice"
            assert orders[job.name] + was[job.name].interrupted >= 1, f"{job.name} was neither ordered nor interrupted"


def _run(
    place: Path,
    url: str,
    host: str,
    some: list[Job],
    repositories: list[Path],
    kills: int = 0,
    chance: random.Random | None = None,
    expected: int = 1,
) -> tuple[dict[str, Aftermath], Tally, list[str]]:
    """All tasks from their submission to their end; also the repositories in which something changed."""
    for repository in repositories:
        make_repository(repository)
    before = {repository: fingerprint(repository) for repository in repositories}
    siege = Siege(place / "home", url, host, some)
    siege.hand_in()
    begun = time.monotonic()
    siege.go_on(kills, chance or random.Random(0), expected)
    found = siege.close()
    siege.tally.seconds = time.monotonic() - begun
    touched = [str(repository) for repository in repositories if not untouched(repository, before[repository])]
    for path in place.iterdir():
        shutil.rmtree(path, ignore_errors=True)
        assert not path.exists()
    return found, siege.tally, touched
