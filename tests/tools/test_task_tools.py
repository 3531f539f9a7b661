from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from mcp.client import Client

from fakes.gateway import FakeGateway
from nightcrew_tools import tasks
from nightcrew_tools.contract import Concern, TaskRequest, TaskState
from nightcrew_tools.grants import Grants
from nightcrew_tools.server import build_server

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]

TASKS = Grants(frozenset({"tasks"}))


@asynccontextmanager
async def over(gateway: FakeGateway | None, grants: Grants = TASKS) -> AsyncIterator:
    async with Client(build_server(grants, gateway=gateway)) as client:

        async def call(name: str, **arguments: object) -> str:
            return (await client.call_tool(name, arguments)).content[0].text

        yield call


async def test_a_submitted_task_can_be_listed_shown_and_cancelled():
    gateway = FakeGateway()
    async with over(gateway) as call:
        assert await call("task_list") == "no tasks"
        text = "# Fix the sum\n\nIt subtracts."
        assert await call("task_submit", text=text, repo="/r", checks=["make test"]) == "t1 queued: Fix the sum"
        request, origin = gateway.requests[0]
        assert (request.text, request.checks, origin) == (text, ("make test",), "mcp")
        await call("task_submit", text="Other", repo="/r", title="Second")
        assert await call("task_list") == "t2 queued: Second\nt1 queued: Fix the sum"
        shown = (await call("task_status", task="t1")).splitlines()
        assert {"id: t1", "state: queued", "repo: /r", "tokens: 0"} <= set(shown)
        assert await call("task_cancel", task="t1") == "t1 cancelled: Fix the sum (asked to)"


async def test_a_client_that_is_allowed_to_decides_what_waits_for_approval():
    gateway = FakeGateway()
    allowed = Grants(
        frozenset({"tasks"}), allow=frozenset({"task_submit", "task_status", "task_approve", "task_reject"})
    )
    async with over(gateway, allowed) as call:
        for task in ("t1", "t2", "t3"):
            await call("task_submit", text=f"Task {task}", repo="/r")
        concern = Concern(kind="lock-files", path="uv.lock", why="is new")
        for task in ("t1", "t2"):
            waiting = {"state": TaskState.WAITING, "concerns": (concern,)}
            gateway.views[task] = gateway.views[task].model_copy(update=waiting)
        shown = (await call("task_status", task="t1")).splitlines()
        assert {"state: waiting for approval", "concern: uv.lock is new (lock-files)"} <= set(shown)
        done = await call("task_approve", task="t1")
        assert done == "t1 delivered: Task t1 (approved by an MCP client (mcp))"
        assert (await call("task_reject", task="t2", why=" ")).startswith("error[bad_argument]: why is empty")
        assert await call("task_reject", task="t2", why="No") == "t2 rejected: Task t2 (No, says an MCP client (mcp))"
        assert await call("task_approve", task="t3") == (
            "error[not_waiting]: task t3 does not wait for approval: it is queued"
        )


async def test_a_report_is_given_whole_or_with_the_place_of_its_rest():
    gateway = FakeGateway()
    async with over(gateway) as call:
        await call("task_submit", text="A", repo="/r")
        assert (
            await call("task_report", task="t1")
            == "error[not_found]: task 't1' has no report yet; task_list shows the tasks"
        )
        gateway.reports["t1"] = "# Report\n"
        assert await call("task_report", task="t1") == "# Report\n"
        gateway.reports["t1"] = "line\n" * 10_000
        assert (await call("task_report", task="t1")).endswith("\n[33620 more bytes: go on with offset=16380]")
        assert await call("task_diff", task="t1") == "no changes"
        patch = gateway.diffs["t1"] = "diff --git a/a b/a\n" + "+ä\n" * 10_000
        read, offset = "", 0
        while offset is not None:
            text, facts = await whole(gateway, "task_diff", task="t1", offset=offset)
            offset = facts.get("next_offset")
            read += text.rpartition("[")[0] if offset is not None else text
        assert read == patch
        assert (await call("task_diff", task="t1", offset=10**6)).startswith(
            "error[bad_argument]: offset is 0 to 40019"
        )


async def whole(gateway: FakeGateway, name: str, **arguments: object) -> tuple[str, dict[str, object]]:
    """A tool's text and its facts."""
    async with Client(build_server(TASKS, gateway=gateway, facts="always")) as client:
        result = await client.call_tool(name, arguments)
    assert not result.is_error, result.content[0].text
    return result.content[0].text, result.structured_content


async def test_a_long_list_goes_on_after_its_last_task():
    gateway = FakeGateway()
    for _ in range(60):
        await gateway.submit(TaskRequest(title="T", text="T", repo="/r"), origin="test")
    text, facts = await whole(gateway, "task_list")
    assert text.endswith("[10 older: go on with after=t11]")
    assert (len(facts["ids"]), facts["cursor"]) == (50, "t11")
    text, facts = await whole(gateway, "task_list", after="t11")
    assert (facts["ids"][0], len(facts["ids"]), "cursor" in facts) == ("t10", 10, False)
    async with over(gateway) as call:
        assert (await call("task_list", after="zz")).startswith("error[not_found]: no task 'zz'")


async def test_waiting_lasts_until_the_task_has_settled(monkeypatch):
    monkeypatch.setattr(tasks, "LOOK_SECONDS", 0.01)
    gateway = FakeGateway()
    await gateway.submit(TaskRequest(title="T", text="T", repo="/r"), origin="test")
    looked = 0
    view = gateway.view

    async def settling(task: str):
        nonlocal looked
        looked += 1
        if looked == 4:
            gateway.views["t1"] = gateway.views["t1"].model_copy(update={"state": TaskState.WAITING})
        return await view(task)

    monkeypatch.setattr(gateway, "view", settling)
    text, facts = await whole(gateway, "task_wait", task="t1")
    assert text == "t1 waiting for approval: T"
    assert (facts["state"], facts["exit_code"], looked) == ("waiting for approval", 3, 4)


async def test_waiting_that_was_not_long_enough_says_so():
    gateway = FakeGateway()
    await gateway.submit(TaskRequest(title="T", text="T", repo="/r"), origin="test")
    text, facts = await whole(gateway, "task_wait", task="t1", timeout_seconds=0)
    assert text == "t1 queued: T\n[not yet after 0 s: wait again]"
    assert "exit_code" not in facts
    async with over(gateway) as call:
        assert (await call("task_wait", task="t1", timeout_seconds=-1)).startswith("error[bad_argument]")


async def test_an_unknown_task_is_answered_with_where_to_look():
    async with over(FakeGateway()) as call:
        for name in ("task_status", "task_wait", "task_cancel", "task_report", "task_diff"):
            assert await call(name, task="zz") == "error[not_found]: no task 'zz'; task_list shows the tasks"


async def test_a_task_without_text_is_refused():
    gateway = FakeGateway()
    async with over(gateway) as call:
        assert (await call("task_submit", text=" \n#\n", repo="/r")).startswith("error[bad_argument]: text is empty")
    assert not gateway.requests


async def test_without_a_gateway_every_task_tool_says_what_starts_one():
    async with over(None) as call:
        answers = [
            await call("task_list"),
            await call("task_status", task="t1"),
            await call("task_submit", text="a", repo="/r"),
        ]
    assert set(answers) == {"error[no_tasks]: this session has no task queue; `nightcrew up` runs one"}


async def test_a_reader_of_the_queue_can_neither_submit_nor_cancel():
    async with over(FakeGateway(), Grants(frozenset({"tasks"}), read_only=True)) as call:
        assert (await call("task_submit", text="a", repo="/r")).startswith("error[unknown_tool]: ")
        assert (await call("task_cancel", task="t1")).startswith("error[unknown_tool]: ")
        assert await call("task_list") == "no tasks"
