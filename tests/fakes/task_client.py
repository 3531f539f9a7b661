"""A client that declares the tasks extension, and looks at tasks itself."""

from __future__ import annotations

from typing import Any, Literal

from mcp.client import Client
from mcp.client.extension import ClientExtension, ResultClaim
from mcp_types import CallToolResult, Request, Result
from pydantic import ConfigDict, TypeAdapter

from nightcrew_tools.task_extension import IDENTIFIER


class Created(Result):
    """A task instead of an answer, with all that came."""

    model_config = ConfigDict(extra="allow")
    result_type: Literal["task"] = "task"


class DeclaresTasks(ClientExtension):
    identifier = IDENTIFIER

    def claims(self):
        return (ResultClaim(result_type="task", model=Created, resolve=self.resolve),)

    async def resolve(self, created, context) -> CallToolResult:
        raise AssertionError("tests look at tasks themselves")


class OfTask(Request[dict[str, Any], str]):
    """A request whose `Mcp-Name` is the task's id."""

    name_param = "taskId"


async def call(client: Client, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Call a tool; its answer, or the task that it became, as JSON."""
    result = await client.session.call_tool(tool, arguments, allow_claimed=True)
    return result.model_dump(mode="json", by_alias=True, exclude={"meta"})


async def ask(client: Client, method: str, task: str, **more: Any) -> dict[str, Any]:
    """`tasks/get` and its like."""
    request = OfTask(method=method, params={"taskId": task, **more})
    answer = await client.session.send_request(request, TypeAdapter(dict[str, Any]))
    answer.pop("_meta", None)
    return answer
