"""Endpoints and models that misbehave: the task waits, repairs, or ends with a clear reason."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from fakes.house import ACTING, FIX, PLANNING, call, house, plan, script
from fakes.scripted_server import Answer, Rule, Script
from nightcrew.agent.breaker import EMPTY_REPLIES, STOP_AFTER
from nightcrew.errors import EndpointDown
from nightcrew.service.worker import open_worker
from nightcrew_tools.contract import Outcome

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


@pytest.mark.parametrize("fault", [503, 429, "cut", "hang_up", "malformed", "html", "error_in_stream", "end_early"])
async def test_a_fault_that_passes_does_not_change_the_result(open_tmp: Path, fault: int | str) -> None:
    async with house(open_tmp, script(), fail_first=(fault,)) as home:
        for role in ("planner", "executor"):
            settings = getattr(home.config.crews["scripted"], role)
            object.__setattr__(settings, "patience_seconds", 30)
        record = await home.run()
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED, record.ended.reason


async def test_an_endpoint_that_is_down_is_said_to_be_down(open_tmp: Path) -> None:
    async with house(open_tmp, script(), fail_first=(503,) * 50) as home:
        task = home.submit()
        with pytest.raises(EndpointDown, match=r"127\.0\.0\.1"):
            await home.runner.run(task)
        assert home.journal.record(task).ended is None


async def test_a_wrong_key_ends_the_task_with_what_to_do(open_tmp: Path) -> None:
    async with house(open_tmp, script(), fail_first=(401,)) as home:
        record = await home.run()
        assert record.ended is not None
        assert record.ended.outcome is Outcome.NO_ENDPOINT
        assert "api_key" in record.ended.reason


async def test_a_context_overflow_ends_the_attempt_with_a_reason(open_tmp: Path) -> None:
    message = "This model's maximum context length is 4096 tokens. However, you requested 9000 tokens."
    answers = Script(
        (
            Rule(PLANNING, (plan(),), repeat=True),
            Rule(ACTING, (Answer(status=400, error=message),), repeat=True),
        )
    )
    async with house(open_tmp, answers) as home:
        record = await home.run()
        assert record.ended is not None
        assert record.ended.outcome is Outcome.UNVERIFIED
        assert "context" in record.ended_attempts[1].stuck


async def test_what_was_done_before_a_context_overflow_is_judged_all_the_same(open_tmp: Path) -> None:
    overflow = Answer(status=400, error="This model's maximum context length is 4096 tokens.")
    async with house(open_tmp, script(FIX[1], overflow)) as home:
        record = await home.run()
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED, record.ended.reason


async def test_malformed_tool_calls_are_answered_and_the_model_may_try_again(open_tmp: Path) -> None:
    broken = Answer(tool_calls=(("edit_file", '{"path": "stats.py", "old": '),))
    async with house(open_tmp, script(broken, *FIX)) as home:
        record = await home.run()
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED
        answer = json.loads(record.conversations["executor/1"][3])
        assert answer["content"].startswith("error[bad_arguments]")


async def test_a_tool_that_does_not_exist_is_answered_with_those_that_do(open_tmp: Path) -> None:
    async with house(open_tmp, script(call("apply_patch", patch="x"), *FIX)) as home:
        record = await home.run()
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED
        assert "edit_file" in json.loads(record.conversations["executor/1"][3])["content"]


async def test_a_tool_call_that_was_left_in_the_text_is_recovered(open_tmp: Path) -> None:
    lost = [
        Answer(text=f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>")
        for answer in FIX
        for name, arguments in answer.tool_calls
    ]
    async with house(open_tmp, script(*lost)) as home:
        record = await home.run()
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED


async def test_empty_answers_are_nudged_and_then_end_the_attempt(open_tmp: Path) -> None:
    async with house(open_tmp, script(Answer(text=""))) as home:
        record = await home.run(limits={"attempts": 1})
        assert record.ended is not None
        assert record.ended.outcome is Outcome.UNVERIFIED
        assert f"{EMPTY_REPLIES} empty replies" in record.ended_attempts[1].stuck


async def test_the_same_call_for_ever_is_warned_and_then_stopped(open_tmp: Path) -> None:
    async with house(open_tmp, script(call("read_file", path="stats.py"))) as home:
        record = await home.run(limits={"attempts": 1})
        assert record.ended is not None
        assert record.ended.outcome is Outcome.UNVERIFIED
        assert f"the same call with the same answer {STOP_AFTER} times" in record.ended_attempts[1].stuck
        answers = [
            json.loads(text)["content"] for text in record.conversations["executor/1"] if '"role":"tool"' in text
        ]
        assert "Do something else" in answers[2]
        assert len(answers) == STOP_AFTER


async def test_a_planner_that_never_ends_leaves_the_task_itself_as_the_plan(open_tmp: Path) -> None:
    async with house(open_tmp, script(planner=(call("read_file", path="stats.py"),))) as home:
        record = await home.run()
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED
        assert record.plans[0].summary.startswith("No plan: the model made the same call")


async def test_a_bad_plan_is_refused_with_a_reason(open_tmp: Path) -> None:
    bad = Answer(tool_calls=(("write_plan", {"summary": "s", "steps": []}),))
    async with house(open_tmp, script(planner=(bad, plan()))) as home:
        record = await home.run()
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED
        assert json.loads(record.conversations["planner"][3])["content"].startswith("error[bad_plan]")


async def test_the_limit_on_tokens_ends_the_task(open_tmp: Path) -> None:
    async with house(open_tmp, script()) as home:
        record = await home.run(limits={"tokens": 1000})
        assert record.ended is not None
        assert record.ended.outcome is Outcome.LIMITS
        assert "tokens" in record.ended.reason


async def test_the_limit_on_minutes_ends_a_task_whose_model_hangs(open_tmp: Path) -> None:
    async with house(open_tmp, script(Answer(fault="hang"))) as home:
        record = await home.run(limits={"minutes": 0.05})
        assert record.ended is not None
        assert record.ended.outcome is Outcome.LIMITS
        assert "0.05 minutes" in record.ended.reason
        await home.server.until(lambda: home.server.requests[-1].disconnected is not None)


async def test_cancelling_ends_the_task_and_frees_the_models_slot(open_tmp: Path) -> None:
    async with house(open_tmp, script(Answer(fault="hang"))) as home:
        task = home.submit()
        async with anyio.create_task_group() as group:
            group.start_soon(home.runner.run, task)
            await home.server.until(lambda: len(home.server.requests) == 2)
            home.journal.request_cancel(task)
        record = home.journal.record(task)
        assert record.ended is not None
        assert record.ended.outcome is Outcome.CANCELLED
        await home.server.until(lambda: home.server.requests[-1].disconnected is not None)


async def test_a_task_cancelled_while_it_waits_to_be_continued_leaves_its_patch(open_tmp: Path) -> None:
    async with house(open_tmp, script(FIX[1], Answer(fault="hang"))) as home:
        task = home.submit()
        async with anyio.create_task_group() as group:
            group.start_soon(home.runner.run, task)
            await home.server.until(lambda: len(home.server.requests) == 3)
            group.cancel_scope.cancel()
        home.journal.release(task, "test")
        home.journal.request_cancel(task)
        async with open_worker(home.config, home.journal, lambda _: None):
            record = home.journal.record(task)
            assert record.ended is not None
            assert record.ended.outcome is Outcome.CANCELLED
            assert "+    return total / len(values)" in home.patch(record)
            assert "Cancelled" in home.report(record)


async def test_a_commit_that_may_not_leave_the_box_does_not_spoil_a_good_result(open_tmp: Path) -> None:
    mended = (
        call("run_command", command="ln -s /etc/passwd leak"),
        call("git_commit", message="leak"),
        call("run_command", command="rm leak"),
        FIX[1],
        call("finish_step", summary="done"),
    )
    async with house(open_tmp, script(*mended)) as home:
        record = await home.run(limits={"attempts": 1})
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED, record.ended.reason
        assert "leak" not in home.patch(record)


async def test_a_result_that_may_not_leave_the_box_is_refused(open_tmp: Path) -> None:
    escape = (call("run_command", command="ln -s /etc/passwd leak"), FIX[1], call("finish_step", summary="done"))
    async with house(open_tmp, script(*escape)) as home:
        record = await home.run(limits={"attempts": 1})
        assert record.ended is not None
        assert record.ended.outcome is Outcome.UNVERIFIED
        assert "may not leave the box" in record.ended.reason
        assert home.branches() == []
