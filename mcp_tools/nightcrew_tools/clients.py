"""Clients that need another answer than the others.

Claude Code gives its model the structured content of a result and drops the text beside it (its issues 55677 and
79944, 2026: with and without an output schema). Our texts are the answer and the facts only say where they come from,
so such a client is given neither facts nor output schemas.
"""

from __future__ import annotations

from typing import Any, Literal, cast

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp_types import CallToolResult, ListToolsResult

Facts = Literal["auto", "always", "never"]
"""Who gets typed facts beside the text: every client but those that would then lose the text, all, or none."""

DROPS_TEXT = ("claude-code",)
"""Beginnings of the names of clients that show a model nothing but the structured content."""


class FactsFilter:
    """Middleware that takes facts and output schemas out of what is sent to clients that cannot use them."""

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        result = await call_next(ctx)
        if ctx.method not in {"tools/list", "tools/call", "tasks/get"} or not _drops_text(ctx):
            return result
        if isinstance(result, ListToolsResult):
            tools = [tool.model_copy(update={"output_schema": None}) for tool in result.tools]
            return result.model_copy(update={"tools": tools})
        if isinstance(result, CallToolResult):
            return CallToolResult(content=result.content, is_error=result.is_error)
        if isinstance(result, dict):
            return _without_facts(result)
        return result


def _drops_text(ctx: ServerRequestContext[Any, Any]) -> bool:
    params = ctx.session.client_params
    return params is not None and params.client_info.name.lower().startswith(DROPS_TEXT)


def _without_facts(result: dict[str, Any]) -> dict[str, Any]:
    """The same for a result that is its JSON already."""
    kept = {key: value for key, value in result.items() if key != "structuredContent"}
    if isinstance(inlined := kept.get("result"), dict):  # of a task that is completed
        kept["result"] = _without_facts(cast("dict[str, Any]", inlined))
    if isinstance(tools := kept.get("tools"), list):
        listed = cast("list[dict[str, Any]]", tools)
        kept["tools"] = [{key: value for key, value in tool.items() if key != "outputSchema"} for tool in listed]
    return kept
