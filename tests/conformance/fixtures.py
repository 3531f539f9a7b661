"""What the protocol's conformance suite wants to find on a server, added to one of ours by the SDK's own decorators.

Names, texts and schemas are the suite's. The object they are added to is the one that clients get.
"""

from __future__ import annotations

import base64
import json
from typing import Annotated, Any

import anyio
from anyio.abc import TaskGroup
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context, require_client_extension
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    CallToolRequestParams,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    EmbeddedResource,
    EmptyResult,
    ImageContent,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    SamplingMessage,
    SetLevelRequestParams,
    TextContent,
    TextResourceContents,
)
from pydantic import BaseModel, Field

from conformance.long_tasks import CURRENT, MemoryTasks
from nightcrew_tools.server import ToolServer
from nightcrew_tools.task_extension import IDENTIFIER, TaskExtension

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
WAV = base64.b64encode(
    b"RIFF\x26\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x40\x1f\0\0\x80\x3e\0\0\2\0\x10\0data\2\0\0\0\0\0"
).decode()
PAUSE = 0.05
"""Seconds between two signs of life, as the suite's texts have it."""

RICH_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def furnish(server: ToolServer, group: TaskGroup) -> None:
    """Add everything; `group` runs the tools that become tasks."""
    contents(server)
    conversations(server)
    rounds(server)
    resources(server)
    prompts(server)
    long_tools(server)
    extension = next(one for one in server._extensions if isinstance(one, TaskExtension))
    extension.store = MemoryTasks(group, becomes_task, extension.store)


def contents(server: ToolServer) -> None:
    """Tools that answer with each kind of content, with an error, with progress."""

    @server.tool()
    async def test_simple_text() -> str:
        """One text."""
        return "This is a simple text response for testing."

    @server.tool(structured_output=False)
    async def test_image_content() -> ImageContent:
        """A picture."""
        return ImageContent(data=PNG, mime_type="image/png")

    @server.tool(structured_output=False)
    async def test_audio_content() -> AudioContent:
        """A sound."""
        return AudioContent(data=WAV, mime_type="audio/wav")

    @server.tool(structured_output=False)
    async def test_embedded_resource() -> EmbeddedResource:
        """A resource inside of the answer."""
        return embedded("test://embedded-resource", "This is an embedded resource content.", "text/plain")

    @server.tool(structured_output=False)
    async def test_multiple_content_types() -> list[TextContent | ImageContent | EmbeddedResource]:
        """A text, a picture and a resource."""
        return [
            TextContent(text="Multiple content types test:"),
            ImageContent(data=PNG, mime_type="image/png"),
            embedded("test://mixed-content-resource", '{"test":"data","value":123}', "application/json"),
        ]

    @server.tool()
    async def test_error_handling() -> str:
        """Always fails."""
        raise ToolError("This tool intentionally returns an error for testing")

    @server.tool()
    async def test_tool_with_progress(ctx: Context[Any, Any]) -> str:
        """Reports 0, 50 and 100 of 100."""
        for done in (0, 50, 100):
            await ctx.report_progress(done, 100)
            await anyio.sleep(PAUSE)
        return "done"

    @server.tool()
    async def test_missing_capability(ctx: Context[Any, Any]) -> str:
        """Needs a client that samples."""
        if ctx.client_capabilities is None or ctx.client_capabilities.sampling is None:
            needed = {"requiredCapabilities": {"sampling": {}}}
            raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "sampling is needed", needed)
        return "there is sampling"

    @server.tool()
    async def test_region(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})]) -> str:
        """An argument that stands in a header, too."""
        return region

    async def json_schema_2020_12_tool() -> str:
        """Takes what its schema says, and does nothing with it."""
        return "ok"

    server.add_tool(json_schema_2020_12_tool)
    # No decorator takes a schema as it is.
    server._tool_manager._tools["json_schema_2020_12_tool"].parameters = RICH_SCHEMA

    @server.tool()
    async def test_trigger_tool_change(ctx: Context[Any, Any]) -> str:
        """Says that the tools changed."""
        await ctx.notify_tools_changed()
        return "said so"

    @server.tool()
    async def test_trigger_prompt_change(ctx: Context[Any, Any]) -> str:
        """Says that the prompts changed."""
        await ctx.notify_prompts_changed()
        return "said so"


class Answer(BaseModel):
    username: str = Field(description="User's response")
    email: str = Field(description="User's email address")


class Defaults(BaseModel):
    name: str = "John Doe"
    age: int = 30
    score: float = 95.5
    status: str = Field(default="active", json_schema_extra={"enum": ["active", "inactive", "pending"]})
    verified: bool = True


def titled(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"const": value, "title": title} for value, title in pairs]


class Choices(BaseModel):
    untitledSingle: str = Field(json_schema_extra={"enum": ["option1", "option2", "option3"]})
    titledSingle: str = Field(
        json_schema_extra={
            "oneOf": titled(("value1", "First Option"), ("value2", "Second Option"), ("value3", "Third Option"))
        }
    )
    legacyEnum: str = Field(
        json_schema_extra={
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        }
    )
    untitledMulti: list[str] = Field(
        json_schema_extra={"items": {"type": "string", "enum": ["option1", "option2", "option3"]}}
    )
    titledMulti: list[str] = Field(
        json_schema_extra={
            "items": {
                "anyOf": titled(("value1", "First Choice"), ("value2", "Second Choice"), ("value3", "Third Choice"))
            }
        }
    )


def conversations(server: ToolServer) -> None:
    """Tools that talk to the client while they run: the 2025 era's way."""

    async def elicit(ctx: Context[Any, Any], message: str, schema: type[BaseModel]) -> str:
        result = await ctx.elicit(message, schema)
        content = result.data.model_dump(mode="json") if result.action == "accept" else {}
        return f"action={result.action}, content={json.dumps(content)}"

    @server.tool()
    async def test_tool_with_logging(ctx: Context[Any, Any]) -> str:
        """Three log messages."""
        for line in ("Tool execution started", "Tool processing data", "Tool execution completed"):
            await ctx.info(line)
            await anyio.sleep(PAUSE)
        return "Tool with logging executed successfully"

    @server.tool()
    async def test_logging_tool(ctx: Context[Any, Any]) -> str:
        """One log message, heard by who asked for it."""
        await ctx.info("a line of the log")
        return "logged"

    @server.tool()
    async def test_sampling(prompt: str, ctx: Context[Any, Any]) -> str:
        """Asks the client's model."""
        asked = SamplingMessage(role="user", content=TextContent(text=prompt))
        result = await ctx.session.create_message([asked], max_tokens=100)
        return f"LLM response: {result.content.text if isinstance(result.content, TextContent) else ''}"

    @server.tool()
    async def test_elicitation(message: str, ctx: Context[Any, Any]) -> str:
        """Asks the client's person."""
        return f"User response: {await elicit(ctx, message, Answer)}"

    @server.tool()
    async def test_elicitation_sep1034_defaults(ctx: Context[Any, Any]) -> str:
        """A form with a default for every primitive type."""
        return f"Elicitation completed: {await elicit(ctx, 'Please review the form', Defaults)}"

    @server.tool()
    async def test_elicitation_sep1330_enums(ctx: Context[Any, Any]) -> str:
        """A form with every kind of choice."""
        return f"Elicitation completed: {await elicit(ctx, 'Please choose', Choices)}"

    async def set_level(ctx: ServerRequestContext[Any, Any], params: SetLevelRequestParams) -> EmptyResult:
        return EmptyResult()

    server._lowlevel_server.add_request_handler("logging/setLevel", SetLevelRequestParams, set_level)


def form(message: str, **properties: str) -> ElicitRequest:
    schema = {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in properties.items()},
        "required": list(properties),
    }
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def sample(text: str, most: int) -> CreateMessageRequest:
    message = SamplingMessage(role="user", content=TextContent(text=text))
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[message], max_tokens=most))


def filled(ctx: Context[Any, Any], key: str) -> dict[str, Any] | None:
    """What a person wrote into the form `key`, None where it was not sent."""
    given = (ctx.input_responses or {}).get(key)
    return dict(given.content or {}) if isinstance(given, ElicitResult) and given.action == "accept" else None


def rounds(server: ToolServer) -> None:
    """Tools that ask by an interim result, and are called again: the 2026 era's way."""

    @server.tool()
    async def test_input_required_result_elicitation(ctx: Context[Any, Any]) -> str | InputRequiredResult:
        """Asks for a name."""
        if (answer := filled(ctx, "user_name")) is not None:
            return f"Hello, {answer['name']}!"
        return InputRequiredResult(input_requests={"user_name": form("What is your name?", name="string")})

    @server.tool()
    async def test_streaming_elicitation(ctx: Context[Any, Any]) -> str | InputRequiredResult:
        """Asks after a sign of life."""
        await ctx.report_progress(1, 2)
        if filled(ctx, "confirm") is not None:
            return "confirmed"
        return InputRequiredResult(input_requests={"confirm": form("Go on?", ok="boolean")})

    @server.tool()
    async def test_input_required_result_sampling(ctx: Context[Any, Any]) -> str | InputRequiredResult:
        """Asks the client's model."""
        given = (ctx.input_responses or {}).get("capital_question")
        if isinstance(given, CreateMessageResult) and isinstance(given.content, TextContent):
            return given.content.text
        question = sample("What is the capital of France?", 100)
        return InputRequiredResult(input_requests={"capital_question": question})

    @server.tool()
    async def test_input_required_result_list_roots(ctx: Context[Any, Any]) -> str | InputRequiredResult:
        """Asks for the client's roots."""
        given = (ctx.input_responses or {}).get("client_roots")
        if isinstance(given, ListRootsResult):
            return "roots: " + ", ".join(str(root.uri) for root in given.roots)
        return InputRequiredResult(input_requests={"client_roots": ListRootsRequest()})

    @server.tool()
    async def test_input_required_result_request_state(ctx: Context[Any, Any]) -> str | InputRequiredResult:
        """Finds its state again."""
        if filled(ctx, "confirm") is not None and ctx.request_state == "asked":
            return "state-ok"
        asked = form("Please confirm", ok="boolean")
        return InputRequiredResult(input_requests={"confirm": asked}, request_state="asked")

    @server.tool()
    async def test_input_required_result_tampered_state(ctx: Context[Any, Any]) -> str | InputRequiredResult:
        """The SDK's boundary refuses a state that was changed."""
        if filled(ctx, "confirm") is not None and ctx.request_state == "sealed":
            return "state-ok"
        asked = form("Please confirm", ok="boolean")
        return InputRequiredResult(input_requests={"confirm": asked}, request_state="sealed")

    @server.tool()
    async def test_input_required_result_multiple_inputs(ctx: Context[Any, Any]) -> str | InputRequiredResult:
        """Three questions at once."""
        asked: dict[str, InputRequest] = {
            "user_name": form("What is your name?", name="string"),
            "greeting": sample("Generate a greeting", 50),
            "client_roots": ListRootsRequest(),
        }
        if set(asked) <= set(ctx.input_responses or {}):
            return "all three answered"
        return InputRequiredResult(input_requests=asked, request_state="three")

    @server.tool()
    async def test_input_required_result_multi_round(ctx: Context[Any, Any]) -> str | InputRequiredResult:
        """Two questions, one after the other."""
        state = json.loads(ctx.request_state or "{}")
        if "name" in state and (color := filled(ctx, "step2")) is not None:
            return f"{state['name']} likes {color['color']}"
        if state and (name := filled(ctx, "step1")) is not None:
            second = form("Step 2: What is your favorite color?", color="string")
            return InputRequiredResult(input_requests={"step2": second}, request_state=json.dumps(name))
        first = form("Step 1: What is your name?", name="string")
        return InputRequiredResult(input_requests={"step1": first}, request_state=json.dumps({"step": 1}))

    @server.tool()
    async def test_input_required_result_capabilities(ctx: Context[Any, Any]) -> str | InputRequiredResult:
        """Asks only what the client can answer."""
        able = ctx.client_capabilities
        asked: dict[str, InputRequest] = {}
        if able is not None and able.sampling is not None:
            asked["sample"] = sample("Say hello", 50)
        if able is not None and able.elicitation is not None:
            asked["name"] = form("What is your name?", name="string")
        return InputRequiredResult(input_requests=asked) if asked else "nobody to ask"


def resources(server: ToolServer) -> None:
    @server.resource("test://static-text", mime_type="text/plain")
    def static_text() -> str:
        """A text."""
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", mime_type="image/png")
    def static_binary() -> bytes:
        """A picture."""
        return base64.b64decode(PNG)

    @server.resource("test://template/{id}/data", mime_type="application/json")
    def template(id: str) -> str:  # noqa: A002 - the suite's name
        """One of many."""
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})

    @server.resource("test://watched-resource", mime_type="text/plain")
    def watched() -> str:
        """One that clients watch."""
        return "Watched resource content"


def prompts(server: ToolServer) -> None:
    @server.prompt()
    def test_simple_prompt() -> str:
        """Without arguments."""
        return "This is a simple prompt for testing."

    @server.prompt()
    def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
        """With two arguments."""
        return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"

    @server.prompt()
    def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:
        """With a resource inside."""
        inside = embedded(resourceUri, "Embedded resource content for testing.", "text/plain")
        return [UserMessage(inside), UserMessage("Please process the embedded resource above.")]

    @server.prompt()
    def test_prompt_with_image() -> list[UserMessage]:
        """With a picture."""
        return [
            UserMessage(ImageContent(data=PNG, mime_type="image/png")),
            UserMessage("Please analyze the image above."),
        ]

    @server.prompt()
    async def test_input_required_result_prompt(ctx: Context[Any, Any]) -> list[UserMessage] | InputRequiredResult:
        """Asks before it is written."""
        if (answer := filled(ctx, "user_context")) is not None:
            return [UserMessage(f"Context: {answer['context']}")]
        asked = form("What context should the prompt use?", context="string")
        return InputRequiredResult(input_requests={"user_context": asked})


BECOME_TASKS = {"slow_compute", "failing_job", "protocol_error_job", "confirm_delete", "multi_input"}


def becomes_task(params: CallToolRequestParams) -> bool:
    """`test_tool_with_task` asks first, and becomes a task when it is called again with the answer."""
    if params.name == "test_tool_with_task":
        return bool(params.input_responses)
    return params.name in BECOME_TASKS


def long_tools(server: ToolServer) -> None:
    """Tools that become tasks where the client declares the extension."""

    @server.tool()
    async def greet(name: str) -> str:
        """Never becomes a task."""
        return f"Hello, {name}!"

    @server.tool()
    async def slow_compute(seconds: float = 0, label: str = "") -> str:
        """Takes its time."""
        await anyio.sleep(seconds)
        return f"{label} computed for {seconds} s"

    @server.tool()
    async def failing_job(ctx: Context[Any, Any]) -> str:
        """Fails as a tool does, and only as a task."""
        require_client_extension(ctx.request_context, IDENTIFIER)
        await anyio.sleep(1)
        raise ToolError("the job failed")

    @server.tool()
    async def protocol_error_job() -> str:
        """Fails as the protocol does."""
        raise MCPError(INTERNAL_ERROR, "the job broke the protocol")

    @server.tool()
    async def confirm_delete(filename: str) -> str:
        """Asks one question while it is a task."""
        answers = await CURRENT.get().ask(confirm=form(f"Delete {filename}?", confirm="boolean"))
        return f"{filename}: {answers['confirm'].action}"

    @server.tool()
    async def multi_input() -> str:
        """Asks two at once."""
        answers = await CURRENT.get().ask(
            first=form("What is your name?", name="string"), second=form("Go on?", confirm="boolean")
        )
        return ", ".join(answer.action for answer in answers.values())

    @server.tool()
    async def test_tool_with_task(ctx: Context[Any, Any]) -> str | InputRequiredResult:
        """Asks first, then becomes a task."""
        if (answer := filled(ctx, "user_name")) is not None:
            return f"Hello, {answer['name']}!"
        return InputRequiredResult(input_requests={"user_name": form("What is your name?", name="string")})


def embedded(uri: str, text: str, mime_type: str) -> EmbeddedResource:
    return EmbeddedResource(resource=TextResourceContents(uri=uri, text=text, mime_type=mime_type))
