"""A task that is cut off goes on with the same bytes, also under a newer version, and does nothing outside twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import anyio
import pytest

from fakes.boxes import soon
from fakes.chaos import inside
from fakes.house import FIX, House, call, house, script
from fakes.outside import Names, World
from nightcrew.agent import executor, prompts, toolbox
from nightcrew.config import CrewSettings, NetworkSettings, RoleSettings
from nightcrew.delivery import write_results
from nightcrew.events import Delivered, Event, ToolRan
from nightcrew.service import Service
from nightcrew.service.worker import open_worker
from nightcrew_tools.contract import Outcome, TaskRequest, TaskState
from nightcrew_workspaces import egress

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

GONE = call("old_tool", path="stats.py")


async def run_until(home: House, task: str, cut: Callable[[Event], bool]) -> None:
    """Run, and let go of the task at an event, as a service does that stops."""
    with anyio.CancelScope() as scope:
        end = home.journal.subscribe(lambda recorded: scope.cancel() if cut(recorded.event) else None)
        await home.runner.run(task)
    end()
    assert scope.cancelled_caught
    home.journal.release(task, "test")
    assert home.journal.claim_task(task, "test") is not None


def bodies(home: House, tool: str) -> list[dict]:
    """The requests that offered this tool."""
    return [one.json for one in home.server.requests if f'"{tool}"' in json.dumps(one.json.get("tools"))]


async def test_a_task_that_an_older_version_began_goes_on_with_the_same_bytes(
    open_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(open_tmp, script(FIX[0], GONE, *FIX[1:])) as home:
        task = home.submit()
        await run_until(home, task, lambda event: isinstance(event, ToolRan) and event.name == "read_file")

        # The newer version: another system text, another tool of the loop, a tool more, and thinking switched on.
        monkeypatch.setattr(executor, "EXECUTOR", "You carry out a plan, differently.")
        monkeypatch.setitem(prompts.FINISH_STEP["function"], "description", "Say that it is done.")  # type: ignore[arg-type]
        openai_tools = toolbox.openai_tools
        monkeypatch.setattr(toolbox, "openai_tools", lambda tools: openai_tools(list(tools)[1:]))
        role = home.config.crews["scripted"].planner.model_copy(update={"thinking": True})
        newer = home.config.model_copy(update={"crews": {"scripted": CrewSettings(planner=role, executor=role)}})
        async with open_worker(newer, home.journal, lambda _: None) as worker:
            record = await worker.run(task)

        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED, record.ended.reason
        requests = bodies(home, "finish_step")
        assert len(requests) == len(FIX) + 1
        for earlier, later in pairwise(requests):
            assert later["tools"] == earlier["tools"]
            assert later["messages"][: len(earlier["messages"])] == earlier["messages"]
            assert later.get("chat_template_kwargs") == earlier.get("chat_template_kwargs")
        [answer] = [ran.message for ran in record.tools_run if ran.name == "old_tool"]
        assert "old_tool" in json.loads(answer)["content"]


async def test_a_task_from_a_version_that_noted_no_opening_goes_on_with_todays(open_tmp: Path) -> None:
    async with house(open_tmp, script()) as home:
        task = home.submit()
        await run_until(home, task, lambda event: isinstance(event, ToolRan) and event.name == "read_file")
        _forget_openings(home, task)
        record = await home.runner.run(task)
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED, record.ended.reason
        assert "executor/1" in record.openings
        requests = bodies(home, "finish_step")
        assert all(one["tools"] == requests[0]["tools"] for one in requests)


def _forget_openings(home: House, task: str) -> None:
    """Write the journal anew as an older version would have written it."""
    events = [one for one in home.journal.read(task) if one.event.kind != "conversation_opened"]
    with home.journal._events.writing():
        home.journal._database.run("DELETE FROM event WHERE task = ?", task)
        for seq, one in enumerate(events, start=1):
            home.journal._events.insert(one.model_copy(update={"seq": seq}))
        home.journal._database.run("UPDATE task SET seq = ? WHERE id = ?", len(events), task)
    home.journal._events.forget()


async def test_a_role_of_todays_configuration_shapes_what_begins_today(open_tmp: Path) -> None:
    async with house(open_tmp, script()) as home:
        role = RoleSettings(base_url=home.server.url, model="scripted", thinking=False)
        newer = home.config.model_copy(update={"crews": {"scripted": CrewSettings(planner=role)}})
        async with open_worker(newer, home.journal, lambda _: None) as worker:
            record = await worker.run(home.submit())
        assert record.openings["executor/1"].shape == {"chat_template_kwargs": {"enable_thinking": False}}
        assert {str(one.json["chat_template_kwargs"]) for one in home.server.requests} == {"{'enable_thinking': False}"}


async def test_a_command_with_a_network_that_was_cut_off_is_never_run_again(
    open_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(egress, "_look_up", Names(mirror_test=["127.0.0.1"]))
    async with World() as world:
        host = f"mirror.test:{world.plain}"
        order = call("run_command", command=f"touch ordered; curl -s -m 20 -X POST -d order http://{host}/orders")
        allowed = NetworkSettings.model_validate({"allow": (host,), "private": ["127.0.0.1/32"]})
        async with house(open_tmp, script(order, *FIX), network=allowed) as home:
            task = home.submit(network={"hosts": [host], "during": "loop"})
            world.hang = True
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:

                    async def cut() -> None:
                        await soon(lambda: world.requests)
                        scope.cancel()

                    group.start_soon(cut)
                    await home.runner.run(task)
            world.hang = False
            home.journal.release(task, "test")
            assert home.journal.claim_task(task, "test") is not None
            record = await home.runner.run(task)

        assert len(world.requests) == 1
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED, record.ended.reason
        answers = [json.loads(ran.message)["content"] for ran in record.tools_run if ran.name == "run_command"]
        assert answers[0].startswith("INTERRUPTED: ")
        assert "check first" in answers[0]
        assert not answers[1].startswith("INTERRUPTED")  # the tests ran with the way out, and to their end
        # What the command had left in the workspace is gone, as the answer says.
        assert [path for path in home.patch(record).splitlines() if path.startswith("diff")] == [
            "diff --git a/stats.py b/stats.py"
        ]


async def test_a_cancel_that_comes_after_the_branch_does_not_unsay_it(open_tmp: Path) -> None:
    async with house(open_tmp, script()) as home:
        task = home.submit()
        home.journal.subscribe(lambda one: home.journal.request_cancel(task) if _is_delivered(one.event) else None)
        assert (await home.runner.run(task)).ended.outcome is Outcome.DELIVERED  # type: ignore[union-attr]

        task = home.submit("# Fix mean() again")
        await run_until(home, task, _is_delivered)
        home.journal.release(task, "test")
        assert home.journal.request_cancel(task) is TaskState.QUEUED
        assert home.journal.claim_task(task, "test") is not None
        record = await home.runner.run(task)
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED
        assert home.report(record).startswith("# Delivered and verified")


def _is_delivered(event: Event) -> bool:
    return isinstance(event, Delivered)


async def test_a_report_that_its_runner_was_killed_over_is_written_anew_when_the_task_ended_otherwise(
    open_tmp: Path,
) -> None:
    async with house(open_tmp, script()) as home:
        task = home.submit()
        await run_until(home, task, lambda event: isinstance(event, ToolRan))
        write_results(home.config.outbox, home.journal.record(task), "")  # without an end: what a killed runner left
        home.journal.release(task, "test")
        assert home.journal.request_cancel(task) is TaskState.ENDED
        async with open_worker(home.config, home.journal, lambda _: None):
            record = home.journal.record(task)
            assert record.ended is not None
            assert record.ended.reason in home.report(record)


async def test_a_command_without_a_network_is_not_announced_and_so_run_again(open_tmp: Path) -> None:
    async with house(open_tmp, script()) as home:
        record = await home.run()
        kinds = [one.event.kind for one in home.journal.read(record.id)]
        assert "tool_ran" in kinds
        assert "tool_started" not in kinds


async def test_a_stop_in_the_middle_of_a_command_leaves_no_process_and_the_next_start_runs_it_again(
    open_tmp: Path,
) -> None:
    slow = "test -e /cache/once || { touch /cache/once begun; sleep 300; }; test ! -e begun"
    async with house(open_tmp, script(call("run_command", command=slow), *FIX)) as home:
        task = home.journal.submit(
            TaskRequest(title="Fix mean()", text="# Fix mean()", repo=str(home.repository)), origin="t", name_hint="fix"
        ).task
        clone = open_tmp / f"home/workspaces/{task}/clone"
        for ended in (False, True):
            service = Service(home.config, open_worker=open_worker, say=lambda _: None)

            def holds(ended: bool = ended) -> bool:
                return home.journal.view(task).state is TaskState.ENDED if ended else (clone / "begun").exists()

            async with anyio.create_task_group() as group:
                group.start_soon(service.run)
                await soon(holds, 40)
                before = home.journal.record(task).seq
                service.stop()
            assert not inside(open_tmp)
            if not ended:
                assert home.journal.view(task).state is TaskState.QUEUED
                assert home.journal.record(task).seq == before  # what was cut off has no answer
        record = home.journal.record(task)
        assert record.ended is not None
        assert record.ended.outcome is Outcome.DELIVERED, record.ended.reason
        # It ran again, to its end, and in a tree without what the first one left.
        assert [ran.is_error for ran in record.tools_run if ran.name == "run_command"] == [False, False]
        assert "begun" not in home.patch(record)
