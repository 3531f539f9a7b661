"""The crew's side of the MCP tools: an in-process client over the same server that outside clients get."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from mcp.client import Client
from mcp_types import TextContent

from nightcrew_tools.grants import TOOLS, Grants
from nightcrew_tools.groups import unwrapped
from nightcrew_tools.schema import openai_tools
from nightcrew_tools.server import build_server
from nightcrew_workspaces.workspace import Workspace


@dataclass(frozen=True)
class ToolAnswer:
    """What a tool said."""

    text: str
    is_error: bool
    seconds: float


class Toolbox:
    """One role's tools over one workspace."""

    def __init__(self, client: Client, tools_text: str, writers: frozenset[str], outward: frozenset[str]) -> None:
        self._client = client
        self.tools_text = tools_text
        """Canonical JSON of the tools, the same bytes for the same grants in every process."""
        self._writers = writers
        self._outward = outward

    def changes_files(self, name: str) -> bool:
        """Whether a call of this tool may leave another tree behind."""
        return name in self._writers

    def reaches_out(self, name: str) -> bool:
        """Whether a call of this tool may have effects that no restored tree undoes: a command with a network."""
        return name in self._outward

    async def call(self, name: str, arguments: dict[str, Any]) -> ToolAnswer:
        """Call a tool; what goes wrong inside it comes back as text for the model."""
        begun = time.monotonic()
        result = await self._client.call_tool(name, arguments)
        text = "\n".join(part.text for part in result.content if isinstance(part, TextContent))
        return ToolAnswer(text, bool(result.is_error), round(time.monotonic() - begun, 3))


@asynccontextmanager
async def open_toolbox(
    workspace: Workspace, grants: Grants, *, on_output: Callable[[str], None] | None = None
) -> AsyncGenerator[Toolbox]:
    """The tools that `grants` allow, over a workspace. What leaves the block comes out as it is, not in a group."""
    server = build_server(grants, workspace=workspace, on_output=on_output)
    try:
        async with Client(server) as client:
            tools = (await client.list_tools()).tools
            writers = frozenset(
                tool.name for tool in tools if not (tool.annotations and tool.annotations.read_only_hint)
            )
            # Neither the file helper nor git has a network, even where commands have one.
            commands = frozenset(name for name in writers if TOOLS[name] == "shell")
            outward = commands if workspace.box.policy.network is not None else frozenset[str]()
            yield Toolbox(client, openai_tools(tools), writers, outward)
    except BaseExceptionGroup as group:  # the client's own task groups wrap it
        raise unwrapped(group) from None
