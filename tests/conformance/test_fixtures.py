"""The suite itself comes from npm (`make conformance`); here its fixtures, and what of the extension only they use."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from mcp.client import Client
from mcp.client.subscriptions import ToolsListChanged
from mcp.shared.exceptions import MCPError
from mcp_types import MISSING_REQUIRED_CLIENT_CAPABILITY, Request
from pydantic import TypeAdapter

from conformance.fixtures import furnish
from fakes.gateway import FakeGateway
from fakes.task_client import DeclaresTasks, ask, call
from nightcrew_tools.grants import Grants
from nightcrew_tools.session import Offer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]


@asynccontextmanager
async def connected(mode: str = "auto", *, declares: bool = True):
    offer = Offer(Grants(frozenset({"tasks"})), gateway=FakeGateway())
    async with offer.server() as server, anyio.create_task_group() as group:
        furnish(server, group)
        async with Client(server, mode=mode, extensions=[DeclaresTasks()] if declares else []) as client:
            yield client
        group.cancel_scope.cancel()


async def begun(client: Client, tool: str, **arguments: Any) -> str:
    return (await call(client, tool, arguments))["taskId"]


async def until(client: Client, task: str, *statuses: str) -> dict[str, Any]:
    while (seen := await ask(client, "tasks/get", task))["status"] not in statuses:
        await anyio.lowlevel.checkpoint()
    return seen


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_fixtures_stand_beside_the_products_own_tools(mode):
    async with connected(mode) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        simple = await client.call_tool("test_simple_text", {})
        own = await client.call_tool("task_list", {})
        uris = {str(each.uri) for each in (await client.list_resources()).resources}
        prompts = {prompt.name for prompt in (await client.list_prompts()).prompts}
    assert {"task_submit", "test_simple_text", "slow_compute"} <= names
    assert simple.content[0].text == "This is a simple text response for testing."
    assert own.content[0].text == "no tasks"
    assert "test://static-text" in uris
    assert {"write_task", "test_simple_prompt"} <= prompts


async def test_what_a_tool_announces_reaches_who_listens():
    async with connected() as client, client.listen(tools_list_changed=True) as events:
        await client.call_tool("test_trigger_tool_change", {})
        with anyio.fail_after(10):
            assert isinstance(await anext(aiter(events)), ToolsListChanged)


async def test_an_error_of_the_protocol_is_a_failed_task():
    async with connected() as client:
        seen = await until(client, await begun(client, "protocol_error_job"), "failed")
    assert seen["error"] == {"code": -32603, "message": "the job broke the protocol"}
    assert "result" not in seen


async def test_questions_are_answered_one_by_one_and_each_key_is_used_once():
    async with connected() as client:
        task = await begun(client, "multi_input")
        asked = (await until(client, task, "input_required"))["inputRequests"]
        first, second = asked
        await ask(client, "tasks/update", task, inputResponses={first: {"action": "accept", "content": {}}})
        left = await ask(client, "tasks/get", task)
        await ask(client, "tasks/update", task, inputResponses={second: {"action": "decline"}})
        done = await until(client, task, "completed")
    assert (left["status"], list(left["inputRequests"])) == ("input_required", [second])
    assert done["result"]["content"][0]["text"] == "accept, decline"


async def test_tasks_of_both_stores_are_found():
    async with connected() as client:
        ours = await begun(client, "task_submit", text="# Round once", repo="/srv/shop")
        theirs = await begun(client, "slow_compute", seconds=60)
        await ask(client, "tasks/cancel", theirs)
        cancelled = await until(client, theirs, "cancelled")
        seen = await ask(client, "tasks/get", ours)
    assert (ours, seen["status"]) == ("t1", "working")
    assert "result" not in cancelled


async def test_who_does_not_declare_the_extension_cannot_watch_tasks():
    wanted = {"notifications": {"taskIds": ["t1"]}}
    async with connected(declares=False) as client:
        request = Request[dict[str, Any], str](method="subscriptions/listen", params=wanted)
        with pytest.raises(MCPError) as caught:
            await client.session.send_request(request, TypeAdapter(dict[str, Any]))
    assert caught.value.code == MISSING_REQUIRED_CLIENT_CAPABILITY
