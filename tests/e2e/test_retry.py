"""A task once more, from the beginning and from a step; two side by side; and a limit by the clock on the wall."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from fakes.house import ACTING, FIX, PLANNING, House, call, git, house, plan
from fakes.scripted_server import Answer, Rule, Script
from nightcrew.errors import NotPossible
from nightcrew.gateway import JournalGateway
from nightcrew.journal.fold import TaskRecord
from nightcrew_tools.contract import Outcome

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

STEPS = ({"title": "Write notes.txt"}, {"title": "Divide by len(values)"})
NOTES = call("write_file", path="notes.txt", content="thought about\n")
FIRST = (
    NOTES,
    call("finish_step", summary="noted"),
    call("write_file", path="stats.py", content="broken("),
    call("finish_step", summary="done"),
)
AGAIN = Script(
    (
        Rule(PLANNING, (plan(*STEPS),), repeat=True),
        Rule(ACTING, (FIX[1], FIX[3]), has="Done already: Write notes.txt", repeat=True),
        Rule(ACTING, FIRST, repeat=True),
    )
)


async def rerun(home: House, task: str, step: int | None) -> TaskRecord:
    view = await JournalGateway(home.journal, home.config).retry(task, step=step)
    assert view.retry_of == task
    assert home.journal.claim_task(view.id, "test") is not None
    return await home.runner.run(view.id)


async def test_a_retry_from_a_step_goes_on_with_the_plan_and_the_files_as_the_step_found_them(open_tmp: Path) -> None:
    async with house(open_tmp, AGAIN, keep="failed") as home:
        failed = await home.run(limits={"attempts": 1})
        assert failed.ended is not None and failed.ended.outcome is Outcome.UNVERIFIED
        asked = len(home.server.requests)
        record = await rerun(home, failed.id, 2)
        assert record.ended is not None and record.ended.outcome is Outcome.DELIVERED, record.ended
        assert record.delivered is not None and record.delivered.branch is not None
        shown = git(home.repository, "show", f"{record.delivered.branch}:notes.txt")
        assert shown == "thought about\n", "what the first step did is there"
        assert len(home.server.requests) - asked == 2, "nothing was planned anew, and the first step not done again"
        assert [step.title for step in record.plans[0].steps] == ["Divide by len(values)"]
        assert record.checks_before == failed.checks_before


async def test_a_step_that_did_not_begin_or_whose_files_are_gone_cannot_be_gone_on_from(open_tmp: Path) -> None:
    async with house(open_tmp, AGAIN) as home:
        failed = await home.run(limits={"attempts": 1})
        with pytest.raises(NotPossible, match="2 steps, of which 2 began; there is no step 3"):
            home.journal.retry(failed.id, step=3)
        record = await rerun(home, failed.id, 2)  # the clone was not kept
        assert record.ended is not None and record.ended.outcome is Outcome.FAILED
        assert "there is no workspace" in record.ended.reason


async def test_the_limit_by_the_clock_on_the_wall_counts_from_the_first_start(open_tmp: Path) -> None:
    async with house(open_tmp, Script((Rule(PLANNING, (Answer(fault="hang"),), repeat=True),))) as home:
        record = await home.run(limits={"wall_minutes": 0.02})
        assert record.ended is not None
        assert record.ended.outcome is Outcome.LIMITS
        assert record.ended.reason == "0.02 minutes have passed since the task began (limits: wall_minutes)"


async def test_of_two_tasks_on_a_repository_the_second_begins_with_what_the_first_put_into_the_cache(
    open_tmp: Path,
) -> None:
    async with house(open_tmp, Script((Rule(PLANNING, (Answer(text="x" * 400, pause=0.05),), repeat=True),))) as home:
        tasks = [home.submit(f"# Fix number {number}", limits={"wall_minutes": 0.06}) for number in range(2)]
        async with anyio.create_task_group() as group:
            for task in tasks:
                group.start_soon(home.runner.run, task)
        first, second = sorted(home.server.requests, key=lambda request: request.received)[:2]
        assert first.first_byte is not None
        assert second.received >= first.first_byte
        assert second.cached_tokens > second.prompt_tokens / 2
