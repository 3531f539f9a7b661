"""What a service manager hears: ready, alive only while the loops go round, what runs, reloading, stopping."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from fakes.manager import Manager
from fakes.records import opened
from fakes.services import request
from fakes.workers import FakeWorker
from nightcrew.config import Config
from nightcrew.domain import Plan, Step
from nightcrew.events import AttemptStarted, PlanWritten, Recorded, TaskClaimed, TaskSubmitted, ToolRan
from nightcrew.journal import Journal
from nightcrew.service import Service
from nightcrew.service.herald import PARTS, STOP_STEP_SECONDS, Herald, status_line
from nightcrew.service.notify import Notifier, passed_sockets
from nightcrew.service.whereabouts import Whereabouts
from nightcrew_tools.contract import TaskState

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with Manager(tmp_path) as manager:
        yield manager


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "home/journal.sqlite") as journal:
        yield journal


# --- the protocol


def test_nothing_is_sent_where_nobody_listens(tmp_path: Path) -> None:
    Notifier({}).send("READY=1")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).send("READY=1")


def test_an_abstract_address_is_understood() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0nightcrew-test-{os.getpid()}")
        Notifier({"NOTIFY_SOCKET": f"@nightcrew-test-{os.getpid()}"}).send("READY=1", "STATUS=a\nREADY=0")
        assert listener.recv(100) == b"READY=1\nSTATUS=a READY=0"


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "2000000"}, 2.0),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_taken_when_it_is_meant_for_this_process(environ: dict, seconds: float | None) -> None:
    assert Notifier(environ).watchdog_seconds == seconds


def test_sockets_of_another_process_are_not_taken() -> None:
    assert passed_sockets({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) == []
    assert passed_sockets({"LISTEN_FDS": "1"}) == []


def test_a_passed_socket_is_taken_and_not_inherited_any_further() -> None:
    code = (
        "import os, sys\n"
        "from nightcrew.service.notify import passed_sockets\n"
        "[one] = passed_sockets({'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '1'})\n"
        "print(one.getsockname()[1], os.get_inheritable(one.fileno()))\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ran = subprocess.run(
            ["bash", "-c", f'exec 3<&{listener.fileno()} "$0" "$@"', sys.executable, "-c", code],
            pass_fds=[listener.fileno()],
            capture_output=True,
            text=True,
            check=True,
        )
        assert ran.stdout.split() == [str(listener.getsockname()[1]), "False"]


# --- the watchdog


def test_the_watchdog_is_fed_only_when_every_loop_went_round(manager: Manager, journal: Journal) -> None:
    clock = [0.0]
    herald = Herald(Notifier(manager.environ(8)), clock=lambda: clock[0])
    for moment in range(1, 40):
        clock[0] = float(moment)
        herald.beat(PARTS[0], journal)
    assert "WATCHDOG=1" not in manager.said()
    herald.beat(PARTS[1], journal)
    manager.wait(lambda said: said.count("WATCHDOG=1") == 1, "the food")
    clock[0] += 1
    for part in PARTS:
        herald.beat(part, journal)  # too early for another
    clock[0] += 1
    for part in PARTS:
        herald.beat(part, journal)
    manager.wait(lambda said: said.count("WATCHDOG=1") == 2, "the food")
    assert manager.said().count("WATCHDOG=1") == 2


class Blocking(FakeWorker):
    """Holds up the whole loop, as a bug of ours would."""

    async def _run(self, task: str, words: set[str]):
        if "block" in words:
            self.began = time.monotonic()
            time.sleep(1.5)
            self.ended = time.monotonic()
        return await super()._run(task, words)


async def test_a_service_is_silent_while_its_loop_hangs(manager: Manager, tmp_path: Path) -> None:
    config, worker = Config(home=tmp_path / "home"), Blocking()
    service = Service(
        config, open_worker=worker.open, say=lambda _: None, herald=Herald(Notifier(manager.environ(0.4)))
    )
    async with anyio.create_task_group() as group:
        group.start_soon(service.run)
        await service.started.wait()
        await anyio.to_thread.run_sync(manager.wait, lambda said: said.count("WATCHDOG=1") > 2, "food")
        with Journal.open(config.journal) as journal:
            journal.submit(request("block deliver"), origin="cli", name_hint="block")
        await anyio.to_thread.run_sync(manager.wait, lambda said: any("idle" in line for line in said[-3:]), "the end")
        service.stop()
    fed = manager.times("WATCHDOG=1")
    assert manager.said()[0] == "READY=1"
    assert not [at for at in fed if worker.began < at < worker.ended]
    assert [at for at in fed if at > worker.ended]


# --- the status


def test_the_status_says_what_runs_and_what_waits() -> None:
    counts = {TaskState.RUNNING: 2, TaskState.QUEUED: 5, TaskState.WAITING: 1}
    said = status_line(counts, ["fix-login editing step 2 of 3"])
    assert said == "2 running, 5 queued, 1 waiting for approval: fix-login editing step 2 of 3"
    assert status_line({}, []) == "idle: nothing is queued"
    assert status_line({}, [], "the configuration is wrong") == "idle: nothing is queued (the configuration is wrong)"
    assert status_line({TaskState.RUNNING: 5}, list("abcde")) == "5 running: a; b; c; 2 more"


def ran(name: str, *, error: bool = False) -> ToolRan:
    return ToolRan(
        conversation="executor-1", call_id="1", name=name, message="{}", is_error=error, tree=None, seconds=0.1
    )


def test_a_tasks_whereabouts_follow_its_events() -> None:
    where = Whereabouts()
    plan = Plan(revision=0, summary="s", steps=tuple(Step(title=title) for title in ("a", "b", "c")))
    told = []
    for event in (
        TaskSubmitted(request=request("x"), name="fix-login", origin="cli"),
        opened(),
        PlanWritten(plan=plan),
        AttemptStarted(number=1, revision=0),
        ran("finish_step", error=True),
        ran("finish_step"),
        ran("edit_file"),
        ran("run_command"),
        AttemptStarted(number=2, revision=0),
        ran("finish_step"),
        ran("finish_step"),
    ):
        where.see(event)
        told.append(str(where).removeprefix("fix-login "))
    assert told == [
        "starting",
        "running its checks before the change",
        "planning",
        "working on step 1 of 3",
        "reading for step 1 of 3",
        "working on step 2 of 3",
        "editing step 2 of 3",
        "running commands in step 2 of 3",
        "working on step 2 of 3",
        "working on step 3 of 3",
        "working on step 3 of 3",
    ]


async def test_the_status_of_a_service_names_the_task_that_another_process_submitted(
    manager: Manager, tmp_path: Path
) -> None:
    config, worker = Config(home=tmp_path / "home", concurrency=1), FakeWorker()
    service = Service(config, open_worker=worker.open, say=lambda _: None, herald=Herald(Notifier(manager.environ())))
    async with anyio.create_task_group() as group:
        group.start_soon(service.run)
        await service.started.wait()
        with Journal.open(config.journal) as journal:
            task = journal.submit(request("hang"), origin="cli", name_hint="fix login").task
            journal.submit(request("hang"), origin="cli", name_hint="two")
            wanted = "STATUS=1 running, 1 queued: fix-login starting"
            await anyio.to_thread.run_sync(manager.wait, lambda said: wanted in said, wanted)
            journal.request_cancel(task)
        wanted = "STATUS=1 running: two starting"
        await anyio.to_thread.run_sync(manager.wait, lambda said: wanted in said, wanted)
        with Journal.open(config.journal) as journal:
            journal.submit(request("hang", after=("two",)), origin="cli", name_hint="three")
            journal.submit(request("hang", schedule="daily 03:00"), origin="cli", name_hint="four")
        wanted = "STATUS=1 running, 1 waiting for other tasks, 1 scheduled: two starting"
        await anyio.to_thread.run_sync(manager.wait, lambda said: wanted in said, wanted)
        service.stop()


def test_nothing_is_kept_for_a_status_that_nobody_hears() -> None:
    herald = Herald(Notifier({}))
    herald.observe(Recorded(task="a", seq=2, at="2026-01-01T00:00:00.000Z", event=TaskClaimed(worker="w")))
    assert herald._running == {}


# --- the end


async def test_a_stop_asks_for_time_again_and_again_while_the_loop_goes_on(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nightcrew.service.herald.STOP_STEP_SECONDS", 0.02)
    with anyio.move_on_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(Herald(Notifier(manager.environ())).stop)
            await anyio.to_thread.run_sync(
                manager.wait, lambda said: said.count("EXTEND_TIMEOUT_USEC=40000") > 2, "time"
            )
            group.cancel_scope.cancel()
    assert manager.said()[0] == "STOPPING=1"
    assert STOP_STEP_SECONDS * 2 < 15  # TimeoutStopSec of the units: the first request comes at once


async def test_a_stop_does_not_ask_for_ever(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nightcrew.service.herald.STOP_STEP_SECONDS", 0.01)
    monkeypatch.setattr("nightcrew.service.herald.STOP_SECONDS", 0.05)
    with anyio.fail_after(10):
        await Herald(Notifier(manager.environ())).stop()
