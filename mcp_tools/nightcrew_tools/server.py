"""The MCP server over one workspace: granted tools in a fixed order, nothing else.

The crew calls it through an in-process client, outside clients through stdio or HTTP. A tool answers with one text, and
where wanted with small typed facts beside it, so nothing is sent twice; a failure is an `is_error` result whose
text begins `error[code]:`.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Awaitable, Callable, Iterable
from difflib import get_close_matches
from functools import cache
from importlib import metadata
from typing import Any

from mcp.server import MCPServer
from mcp.server.context import ServerRequestContext
from mcp.server.extension import Extension
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from mcp_types import (
    BlobResourceContents,
    CallToolResult,
    Completion,
    CompletionArgument,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    InputRequiredResult,
    PromptReference,
    Resource,
    ResourceTemplate,
    ResourceTemplateReference,
    SubscribeRequestParams,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    TextContent,
    ToolAnnotations,
    UnsubscribeRequestParams,
)
from pydantic import AnyUrl

from nightcrew_tools.calls import Call, OnCall, client_name, door_of, heard, running
from nightcrew_tools.calls import Ended as CallEnded
from nightcrew_tools.changes import Changes
from nightcrew_tools.clients import Facts, FactsFilter
from nightcrew_tools.contract import TaskGateway
from nightcrew_tools.files import FileTools
from nightcrew_tools.git import GitTools, TaskGitTools
from nightcrew_tools.grants import TOOLS, Grants
from nightcrew_tools.morefiles import MoreFileTools
from nightcrew_tools.output import ToolError, as_tool_error, bounded
from nightcrew_tools.ports import OnOutput, WorkspacePort
from nightcrew_tools.prompts import prompts
from nightcrew_tools.reply import Media, Reply, facts_value
from nightcrew_tools.resources import Resources
from nightcrew_tools.schema import Handler, ToolSpec, tools_of
from nightcrew_tools.shell import ShellTools
from nightcrew_tools.task_extension import TaskExtension, refuse_foreign_watchers
from nightcrew_tools.task_store import NEEDED, QueueTasks
from nightcrew_tools.tasks import TaskTools

Ready = Callable[[], Awaitable[None]]
"""Returns when the workspace may be used; raises what keeps it from that."""


class GrantedTool(Tool):
    """A tool whose arguments are checked by its `ToolSpec` and whose every failure has a code.

    The SDK's own `run` would put "Error executing tool X:" and pydantic's prose around it.
    """

    spec: ToolSpec
    structured: bool
    on_call: OnCall | None
    ready: Ready | None

    async def run(
        self, arguments: dict[str, Any], context: Context[Any, Any], convert_result: bool = False
    ) -> CallToolResult:
        del convert_result
        call = Call(self.name)
        code, result = "cancelled", None
        try:
            async with running(call, context):
                code, result = await self._answer(arguments)
            return result
        finally:
            if self.on_call is not None:
                ctx = context.request_context
                size = sum(len(part.text) for part in result.content if isinstance(part, TextContent)) if result else 0
                self.on_call(CallEnded(self.name, arguments, door_of(ctx), client_name(ctx), code, call.seconds, size))

    async def _answer(self, arguments: dict[str, Any]) -> tuple[str, CallToolResult]:
        try:
            checked = self.spec.check(arguments)
            if self.ready is not None:
                await self.ready()
            reply = await self.fn(**checked)
            return "ok", _result(Reply(reply) if isinstance(reply, str) else reply, structured=self.structured)
        except Exception as error:  # noqa: BLE001 - the outer edge of a call: whatever happens, the model gets a sentence
            told = as_tool_error(self.name, error)
            return told.code, _failure(told)


class ToolServer(MCPServer[Any]):
    """The SDK's server, except that an unknown tool is answered like any other mistake, and that it can have resources
    whose list and content are asked for each time."""

    resources: Resources | None = None

    def furnish(self, resources: Resources, changes: Changes) -> None:
        """Offer resources, completion of their addresses, word of their changes, and prompts. For outside clients."""
        self.resources = resources
        for prompt in prompts():
            self.add_prompt(prompt)

        async def complete(
            ref: PromptReference | ResourceTemplateReference, argument: CompletionArgument, context: object
        ) -> Completion:
            del ref, context
            return Completion(values=await resources.complete(argument.name, argument.value))

        async def listen(
            ctx: ServerRequestContext[Any, Any], params: SubscriptionsListenRequestParams
        ) -> SubscriptionsListenResult:
            refuse_foreign_watchers(ctx)
            return await changes.listen(ctx, params, self._subscriptions)

        self.completion()(complete)
        lowlevel = self._lowlevel_server  # the SDK has no public way to serve these
        lowlevel.add_request_handler("subscriptions/listen", SubscriptionsListenRequestParams, listen)
        lowlevel.add_request_handler("resources/subscribe", SubscribeRequestParams, changes.subscribe)
        lowlevel.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, changes.unsubscribe)

    async def list_resources(self) -> list[Resource]:
        ours = await self.resources.listed() if self.resources is not None else []
        return [*ours, *await super().list_resources()]

    async def list_resource_templates(self) -> list[ResourceTemplate]:
        ours = self.resources.templates() if self.resources is not None else []
        return [*ours, *await super().list_resource_templates()]

    async def read_resource(
        self, uri: AnyUrl | str, context: Context[Any, Any] | None = None
    ) -> Iterable[ReadResourceContents] | InputRequiredResult:
        found = await self.resources.read(str(uri)) if self.resources is not None else None
        return [found] if found is not None else await super().read_resource(uri, context)

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        names = [each.name for each in await self.list_tools()]
        if name in names:
            return await super().call_tool(name, arguments, context)
        close = get_close_matches(name, names, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        sentence = f"there is no tool {name[:80]!r}{hint}; there are {', '.join(names)}"
        return _failure(ToolError("unknown_tool", sentence))


def build_server(
    grants: Grants,
    *,
    workspace: WorkspacePort | None = None,
    gateway: TaskGateway | None = None,
    on_output: OnOutput | None = None,
    on_call: OnCall | None = None,
    ready: Ready | None = None,
    facts: Facts = "never",
    instructions: str | None = None,
) -> ToolServer:
    """A server with the tools that `grants` permits over `workspace` and `gateway`, in the order of `grants.TOOLS`.

    `on_output` is given the output of commands while they run, `on_call` every call when it is over. `ready` is awaited
    before a tool touches the workspace. `facts` says who gets output schemas and typed facts beside the text; a crew's
    prompt has no use for them. `instructions` is told to clients when they connect. Raises `ValueError` when a tool is
    granted that needs a workspace and there is none.
    """

    def listen(text: str) -> None:
        heard(text)
        if on_output is not None:
            on_output(text)

    declared: dict[str, tuple[ToolSpec, Handler]] = {}
    families: list[object] = [TaskTools(gateway)]
    if workspace is not None:
        families += [
            FileTools(workspace.files),
            MoreFileTools(workspace.files),
            _git(workspace),
            ShellTools(workspace, listen),
        ]
    elif grants.families - {"tasks"}:
        raise ValueError(f"{', '.join(sorted(grants.families - {'tasks'}))}: these tools need a workspace")
    for family in families:
        declared |= {spec.name: (spec, handler) for spec, handler in tools_of(family)}
    granted = [declared[name] for name in TOOLS if name in declared]
    permitted = [(spec, handler) for spec, handler in granted if grants.permit(spec.name, writes=spec.writes)]
    tools = [
        _tool(
            spec,
            handler,
            structured=facts != "never",
            on_call=on_call,
            ready=None if TOOLS[spec.name] == "tasks" else ready,
        )
        for spec, handler in permitted
    ]
    names = {spec.name for spec, _ in permitted}
    extensions: list[Extension] = []
    if gateway is not None and names >= NEEDED:
        extensions.append(TaskExtension(QueueTasks(gateway, names, structured=facts != "never"), on_call))
    middleware = [FactsFilter()] if facts == "auto" else []
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        return ToolServer(
            "nightcrew",
            instructions=instructions,
            version=_version(),
            tools=tools,
            extensions=extensions,
            subscriptions=False,
            middleware=middleware,
        )
    finally:
        # The SDK configures the whole process's logging when a server is made; that is for the program to do.
        root.handlers[:] = handlers
        root.setLevel(level)


def _git(workspace: WorkspacePort) -> object:
    """A task's few git tools, or all of them where there is no task."""
    base = workspace.base_commit
    return GitTools(workspace) if base is None else TaskGitTools(workspace, base)


def _tool(spec: ToolSpec, handler: Handler, *, structured: bool, on_call: OnCall | None, ready: Ready | None) -> Tool:
    return GrantedTool(
        fn=handler,
        name=spec.name,
        title=None,
        description=spec.description,
        parameters=spec.schema,
        # Our schemas and checks are our own; the SDK only wants to see that there is an argument model.
        fn_metadata=FuncMetadata(arg_model=ArgModelBase, output_schema=spec.facts_schema if structured else None),
        is_async=True,
        context_kwarg=None,
        annotations=_annotations(spec),
        spec=spec,
        structured=structured and spec.facts is not None,
        on_call=on_call,
        ready=ready,
    )


def _annotations(spec: ToolSpec) -> ToolAnnotations:
    """What the protocol's defaults (writes, destroys, not idempotent, open world) would get wrong, and what clients ask
    for first. The list of all tools is read by models, so each word of it costs."""
    if not spec.writes:  # for these the protocol gives the other two no meaning
        return ToolAnnotations(read_only_hint=True, open_world_hint=spec.open_world)
    return ToolAnnotations(
        destructive_hint=spec.destructive,
        idempotent_hint=True if spec.idempotent else None,
        open_world_hint=spec.open_world,
    )


def _result(reply: Reply, *, structured: bool) -> CallToolResult:
    content: list[ContentBlock] = [TextContent(type="text", text=bounded(reply.text))]
    content += [_block(media) for media in reply.media]
    if not structured:
        return CallToolResult(content=content)
    return CallToolResult(content=content, structured_content=facts_value(reply.facts))


def _block(media: Media) -> ContentBlock:
    data = base64.b64encode(media.data).decode("ascii")
    if media.is_image:
        return ImageContent(type="image", data=data, mime_type=media.mime_type)
    resource = BlobResourceContents(uri=media.uri, mime_type=media.mime_type, blob=data)
    return EmbeddedResource(type="resource", resource=resource)


def _failure(error: ToolError) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=bounded(str(error)))], is_error=True)


@cache
def _version() -> str:
    return metadata.version("nightcrew")
