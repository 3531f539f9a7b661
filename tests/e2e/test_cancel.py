"""A task that is cancelled at any moment is gone within two seconds: its processes, and its requests to models."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from fakes.house import FIX, House, call, house, script
from fakes.scripted_server import Answer
from nightcrew.events import ChecksRan, ModelReplied, ToolRan, WorkspaceOpened
from nightcrew_tools.contract import Outcome

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

SECONDS = 2.0
LONG = "sleep 600 & sleep 600"


def below(parent: int) -> set[int]:
    """Processes that come from this one, whatever they have become; other tests' are not among them."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = {parent}
    while more := {pid for pid, above in parents.items() if above in found} - found:
        found |= more
    return found - {parent}


def kinds(home: House, task: str, kind: type) -> int:
    return sum(isinstance(recorded.event, kind) for recorded in home.journal.read(task))


async def until(condition: Callable[[], object], seconds: float = 30) -> None:
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.005)


def most_seconds() -> float:
    """Two, as is promised; more where this machine has so much else to do that no promise holds."""
    busy = os.getloadavg()[0] / (os.cpu_count() or 1)
    return SECONDS * max(1.0, busy)


async def cancelled_at(home: House, moment: Callable[[str], object], **fields: object) -> str:
    """Cancel a task at a moment, and see that all of it is gone in time; its id."""
    task, before = home.submit(**fields), below(os.getpid())
    gone_after = 0.0
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            nonlocal gone_after
            await until(lambda: moment(task))
            home.journal.request_cancel(task)
            asked = time.monotonic()
            await until(lambda: home.journal.view(task).outcome and not below(os.getpid()) - before)
            await home.server.until(lambda: all(one.finished or one.disconnected for one in home.server.requests))
            gone_after = time.monotonic() - asked

        group.start_soon(home.runner.run, task)
        await watch()
    print(f"gone after {gone_after:.2f} s")
    assert gone_after < most_seconds()
    return task


HANG = Answer(fault="hang")
MOMENTS = {
    "before it is cloned": ((), lambda home, task: True, {}),
    "while its set-up runs": (
        (),
        lambda home, task: kinds(home, task, WorkspaceOpened) and len(below(os.getpid())) > 2,
        {"setup": [LONG]},
    ),
    "while the checks run": (
        (),
        lambda home, task: kinds(home, task, WorkspaceOpened) and len(below(os.getpid())) > 2,
        {"checks": [LONG]},
    ),
    "while a model says nothing": ((HANG,), lambda home, task: len(home.server.requests) == 2, {}),
    "while a model talks": (
        (Answer(text="x" * 9000, pause=0.05),),
        lambda home, task: len(home.server.requests) == 2 and home.server.requests[1].first_byte,
        {},
    ),
    "while a command of the model runs": (
        (call("run_command", command=LONG),),
        lambda home, task: kinds(home, task, ModelReplied) == 2 and len(below(os.getpid())) > 2,
        {},
    ),
    "while a command is in the background": (
        (call("start_command", command=LONG), HANG),
        lambda home, task: kinds(home, task, ToolRan) >= 1 and len(home.server.requests) == 3,
        {},
    ),
    "while the result is checked": (
        (FIX[1], call("run_command", command="echo 'import time; time.sleep(600)' >> test_stats.py"), FIX[3]),
        lambda home, task: (
            kinds(home, task, ChecksRan) == 1 and kinds(home, task, ToolRan) == 2 and _is_checking(home, task)
        ),
        {"limits": {"attempts": 1}},
    ),
}


def _is_checking(home: House, task: str) -> bool:
    return "checking the result" in home.journal.view(task).activity and len(below(os.getpid())) > 2


@pytest.mark.parametrize("moment", MOMENTS)
async def test_all_of_it_is_gone_within_two_seconds(open_tmp: Path, moment: str) -> None:
    answers, when, fields = MOMENTS[moment]
    async with house(open_tmp, script(*answers)) as home:
        task = await cancelled_at(home, lambda task: when(home, task), **fields)
        record = home.journal.record(task)
        assert record.ended is not None
        assert record.ended.outcome is Outcome.CANCELLED
        assert "Cancelled" in home.report(record)


MANY = int(os.environ.get("NIGHTCREW_CANCELS", "3"))
"""How many random moments are tried; a longer run is asked for by the environment."""


async def test_it_is_gone_within_two_seconds_at_any_moment_or_ends_by_itself(open_tmp: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for number in range(MANY):
        async with house(open_tmp / str(number), script()) as home:
            due = time.monotonic() + chance.uniform(0, 1.5)
            task = await cancelled_at(
                home,
                lambda task: time.monotonic() > due or home.journal.view(task).outcome,  # noqa: B023
            )
            ended = home.journal.record(task).ended
            assert ended is not None
            assert ended.outcome in (Outcome.CANCELLED, Outcome.DELIVERED)
            assert bool(home.branches()) == (ended.outcome is Outcome.DELIVERED), "never half"
