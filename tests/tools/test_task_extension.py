from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from mcp.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    ElicitResult,
    Implementation,
)

from fakes.gateway import FakeGateway
from fakes.task_client import DeclaresTasks, ask, call
from nightcrew_tools.address import Address
from nightcrew_tools.contract import Concern, NoQueue, Outcome, TaskState
from nightcrew_tools.grants import TOOLS, Grants
from nightcrew_tools.server import build_server
from nightcrew_tools.session import Offer, serving_http
from nightcrew_tools.task_extension import IDENTIFIER

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]

TASKS = Grants(frozenset({"tasks"}))
DECIDING = Grants(frozenset({"tasks"}), allow=frozenset(name for name, family in TOOLS.items() if family == "tasks"))
SUBMIT = {"text": "# Round once\nDo it.", "repo": "/srv/shop"}


class Peer:
    """What a client can send, and the JSON that comes back."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.capabilities = client.server_capabilities

    async def submit(self, **arguments: Any) -> dict[str, Any]:
        return await call(self.client, "task_submit", {**SUBMIT, **arguments})

    async def ask(self, method: str, task: str, **more: Any) -> dict[str, Any]:
        return await ask(self.client, method, task, **more)

    async def get(self, task: str = "t1") -> dict[str, Any]:
        return await self.ask("tasks/get", task)

    async def refused(self, method: str, task: str = "t1", **more: Any) -> MCPError:
        with pytest.raises(MCPError) as caught:
            await self.ask(method, task, **more)
        return caught.value


@asynccontextmanager
async def peer(gateway, grants=TASKS, *, facts="never", declares=True, asks=True, mode="auto", name="t", on_call=None):
    async def nobody(context, params):
        return ElicitResult(action="cancel")

    server = build_server(grants, gateway=gateway, facts=facts, on_call=on_call)
    async with Client(
        server,
        mode=mode,
        extensions=[DeclaresTasks()] if declares else [],
        elicitation_callback=nobody if asks else None,
        client_info=Implementation(name=name, version="1"),
    ) as client:
        yield Peer(client)


def ended(gateway: FakeGateway, outcome: Outcome, task: str = "t1", **more: Any) -> None:
    more = {"state": TaskState.ENDED, "outcome": outcome, "ended_at": "2026-11-01T23:00:00.000Z", **more}
    gateway.views[task] = gateway.views[task].model_copy(update=more)


def waiting(gateway: FakeGateway, task: str = "t1") -> None:
    concern = Concern(kind="lock-files", path="uv.lock", why="is new")
    changes = {"state": TaskState.WAITING, "commit": "c0ffee", "concerns": (concern,)}
    gateway.views[task] = gateway.views[task].model_copy(update=changes)


async def test_a_submitted_task_is_answered_with_the_task_and_can_be_polled_at_once():
    async with peer(FakeGateway()) as client:
        created = await client.submit()
        seen = await client.get(created["taskId"])
    assert client.capabilities.extensions == {IDENTIFIER: {}}
    assert created == {
        "resultType": "task",
        "taskId": "t1",
        "status": "working",
        "statusMessage": "queued",
        "createdAt": "2026-11-01T22:00:00.000Z",
        "lastUpdatedAt": "2026-11-01T22:00:00.000Z",
        "ttlMs": None,
        "pollIntervalMs": 5000,
    }
    assert seen == {**created, "resultType": "complete"}


async def test_a_working_task_says_what_it_does():
    gateway = FakeGateway()
    async with peer(gateway) as client:
        await client.submit()
        running = {"state": TaskState.RUNNING, "activity": "attempt 2", "started_at": "2026-11-01T22:10:00.000Z"}
        gateway.views["t1"] = gateway.views["t1"].model_copy(update=running)
        seen = await client.get()
    assert (seen["status"], seen["statusMessage"]) == ("working", "running: attempt 2")
    assert seen["lastUpdatedAt"] == "2026-11-01T22:10:00.000Z"


async def test_a_delivered_task_carries_its_branch_and_its_report():
    gateway = FakeGateway()
    async with peer(gateway, facts="always") as client:
        await client.submit()
        ended(gateway, Outcome.DELIVERED, branch="nightcrew/t1")
        gateway.reports["t1"] = "# Round once\n\nDone.\n"
        seen = await client.get()
    assert seen["status"] == "completed"
    assert "error" not in seen
    text = "t1 delivered on nightcrew/t1: Round once\n\n# Round once\n\nDone.\n"
    assert seen["result"]["content"] == [{"type": "text", "text": text}]
    assert seen["result"]["isError"] is False
    assert seen["result"]["structuredContent"]["branch"] == "nightcrew/t1"
    assert seen["result"]["structuredContent"]["exit_code"] == 0


async def test_a_long_report_is_cut_and_says_how_to_go_on():
    gateway = FakeGateway()
    async with peer(gateway) as client:
        await client.submit()
        ended(gateway, Outcome.DELIVERED)
        gateway.reports["t1"] = "x" * 99 + "\n" + "line\n" * 10_000
        text = (await client.get())["result"]["content"][0]["text"]
    assert len(text) < 20_000
    shown = text.partition("\n\n")[2].rpartition("[")[0]
    assert text.endswith(f"more bytes: task_report goes on with offset={len(shown)}]")


@pytest.mark.parametrize("outcome", sorted(set(Outcome) - {Outcome.DELIVERED, Outcome.CANCELLED}))
async def test_a_task_without_a_result_is_the_tools_failure_and_not_the_protocols(outcome):
    gateway = FakeGateway()
    async with peer(gateway) as client:
        await client.submit()
        ended(gateway, outcome, reason="it was so")
        seen = await client.get()
    assert seen["status"] == "completed"
    assert seen["result"]["isError"] is True
    assert seen["result"]["content"][0]["text"] == f"error[not_delivered]: t1 {outcome}: Round once (it was so)"


async def test_a_client_cancels_a_task():
    gateway, told = FakeGateway(), []
    async with peer(gateway, on_call=told.append) as client:
        await client.submit()
        assert await client.ask("tasks/cancel", "t1") == {"resultType": "complete"}
        seen = await client.get()
        assert await client.ask("tasks/cancel", "t1") == {"resultType": "complete"}
    assert seen["status"] == "cancelled"
    assert "result" not in seen
    assert gateway.views["t1"].outcome is Outcome.CANCELLED
    assert [(call.tool, call.arguments, call.code) for call in told[1:]] == [("tasks/cancel", {"task": "t1"}, "ok")] * 2


async def test_what_is_refused_is_the_tools_answer_and_no_task():
    gateway = FakeGateway()
    async with peer(gateway) as client:
        answered = await client.submit(text=" ")
    assert answered["isError"]
    assert "taskId" not in answered
    assert "error[bad_argument]" in answered["content"][0]["text"]


async def test_other_tools_are_answered_as_ever():
    async with peer(FakeGateway()) as client:
        answered = await call(client.client, "task_list", {})
    assert answered["content"][0]["text"] == "no tasks"


@pytest.mark.parametrize(
    ("mode", "declares", "code"),
    [("legacy", True, METHOD_NOT_FOUND), ("legacy", False, METHOD_NOT_FOUND), ("auto", False, None)],
)
async def test_who_does_not_declare_the_extension_has_the_plain_tools(mode, declares, code):
    async with peer(FakeGateway(), mode=mode, declares=declares) as client:
        answered = await client.submit()
        refused = [
            await client.refused(method, **more)
            for method, more in [("tasks/get", {}), ("tasks/cancel", {}), ("tasks/update", {"inputResponses": {}})]
        ]
    assert answered["content"][0]["text"] == "t1 queued: Round once"
    assert "taskId" not in answered
    assert {error.code for error in refused} == {code or MISSING_REQUIRED_CLIENT_CAPABILITY}
    if mode == "legacy":
        assert not client.capabilities.extensions


@pytest.mark.parametrize(
    ("method", "more"), [("tasks/get", {}), ("tasks/cancel", {}), ("tasks/update", {"inputResponses": {}})]
)
async def test_only_a_whole_id_names_a_task(method, more):
    class Guessing(FakeGateway):
        async def view(self, task):
            return self.views["t1"]

    async with peer(Guessing(), DECIDING) as client:
        await client.submit()
        refused = await client.refused(method, "t", **more)
    assert refused.code == INVALID_PARAMS
    assert "'t'" in refused.message


@pytest.mark.parametrize("missing", ["task_submit", "task_status"])
async def test_a_session_that_may_not_submit_or_look_has_no_extension(missing):
    async with peer(FakeGateway(), Grants(frozenset({"tasks"}), deny=frozenset({missing}))) as client:
        assert not client.capabilities.extensions


async def test_grants_hold_for_the_extension_too():
    gateway = FakeGateway()
    few = Grants(frozenset({"tasks"}), allow=frozenset({"task_submit", "task_status"}))
    async with peer(gateway, few) as client:
        await client.submit()
        refused = await client.refused("tasks/cancel")
        waiting(gateway)
        seen = await client.get()
        answers = {"decide-c0ffee": {"action": "accept", "content": {"decision": "approve"}}}
        assert await client.ask("tasks/update", "t1", inputResponses=answers) == {"resultType": "complete"}
        assert gateway.views["t1"].state is TaskState.WAITING
        ended(gateway, Outcome.DELIVERED)
        gateway.reports["t1"] = "secret"
        done = await client.get()
    assert refused.code == INVALID_REQUEST
    assert "task_cancel" in refused.message
    assert seen["status"] == "working"
    assert "waits for a person" in seen["statusMessage"]
    assert done["result"]["content"][0]["text"] == "t1 delivered: Round once"


async def test_a_person_at_a_client_that_may_decide_is_asked():
    gateway, told = FakeGateway(), []
    async with peer(gateway, DECIDING, on_call=told.append) as client:
        await client.submit()
        waiting(gateway)
        seen = await client.get()
        ((key, question),) = seen["inputRequests"].items()
        for ignored in ({key: {"action": "decline"}}, {"other": 1}, {key: {"action": "accept", "content": {}}}):
            assert await client.ask("tasks/update", "t1", inputResponses=ignored) == {"resultType": "complete"}
        assert (await client.get())["status"] == "input_required"
        malformed = await client.refused("tasks/update", inputResponses={key: 5})
        answer = {"action": "accept", "content": {"decision": "approve"}}
        await client.ask("tasks/update", "t1", inputResponses={key: answer})
        done = await client.get()
        await client.ask("tasks/update", "t1", inputResponses={key: answer})
    assert seen["status"] == "input_required"
    assert question["method"] == "elicitation/create"
    assert "uv.lock is new" in question["params"]["message"]
    assert question["params"]["requestedSchema"]["properties"]["decision"]["enum"] == ["approve", "reject"]
    assert malformed.code == INVALID_PARAMS
    assert done["status"] == "completed"
    assert gateway.views["t1"].reason == "approved by an MCP client (mcp)"
    assert told[-1].tool == "tasks/update"


async def test_a_person_at_a_client_refuses_with_a_reason():
    gateway = FakeGateway()
    async with peer(gateway, DECIDING) as client:
        await client.submit()
        waiting(gateway)
        answer = {"action": "accept", "content": {"decision": "reject", "why": "no new locks"}}
        await client.ask("tasks/update", "t1", inputResponses={"decide-c0ffee": answer})
        seen = await client.get()
    assert gateway.views["t1"].outcome is Outcome.REJECTED
    assert "no new locks" in seen["result"]["content"][0]["text"]


async def test_a_client_that_cannot_ask_a_person_is_not_asked():
    gateway = FakeGateway()
    async with peer(gateway, DECIDING, asks=False) as client:
        await client.submit()
        waiting(gateway)
        seen = await client.get()
    assert seen["status"] == "working"
    assert "inputRequests" not in seen


async def test_a_client_that_drops_texts_gets_no_facts_in_a_tasks_result_either():
    gateway = FakeGateway()
    async with peer(gateway, facts="auto", name="claude-code") as client:
        await client.submit()
        ended(gateway, Outcome.DELIVERED)
        dropping = await client.get()
    async with peer(gateway, facts="auto") as client:
        other = await client.get()
    assert "structuredContent" not in dropping["result"]
    assert dropping["result"]["content"] == other["result"]["content"]
    assert other["result"]["structuredContent"]["id"] == "t1"


async def test_without_a_service_a_poll_says_so():
    gateway = FakeGateway()
    async with peer(gateway) as client:
        await client.submit()

        async def gone(task):
            raise NoQueue("no service runs on /home: start `nightcrew up`")

        gateway.view = gone
        refused = await client.refused("tasks/get")
    assert refused.code == INTERNAL_ERROR
    assert "nightcrew up" in refused.message


@pytest.mark.parametrize(("name", "status"), [("t1", 200), ("t2", 400), (None, 400)])
async def test_over_http_the_header_names_the_task(name, status):
    gateway = FakeGateway()
    async with peer(gateway) as client:
        await client.submit()
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {"extensions": {IDENTIFIER: {}}},
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "tasks/get", "params": {"taskId": "t1", "_meta": meta}}
    headers = {
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tasks/get",
        **({"mcp-name": name} if name else {}),
    }
    async with (
        serving_http(Offer(TASKS, gateway=gateway), Address("127.0.0.1", 0), None) as port,
        httpx2.AsyncClient() as http,
    ):
        answer = await http.post(f"http://127.0.0.1:{port}/mcp", json=body, headers=headers)
    assert answer.status_code == status
    data = answer.text if answer.text.startswith("{") else answer.text.partition("data: ")[2]
    told = json.loads(data)
    assert told["result"]["taskId"] == "t1" if status == 200 else told["error"]["code"] == HEADER_MISMATCH
