"""One real question and one tool call to an endpoint, as the crew would ask them: does it do what a role needs?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import SecretStr

from nightcrew.config import RoleSettings
from nightcrew.llm.client import ModelClient, Reply
from nightcrew.llm.endpoint import chat_models
from nightcrew.llm.wire import JsonObject, as_count, as_object, as_text, dumps

SYSTEM = (
    "You are examined before you are given work in a repository. Answer each request exactly and briefly. Where a tool "
    "is asked for, call it with the arguments that the request names and say nothing else. Where a number or a word is "
    "asked for, answer with that number or that word alone, without a sentence around it and without an explanation."
)
"""Longer than a page of any server's cache, so that a prefix can be found again."""
QUESTION, ANSWER = "What is 17 + 25?", "42"
FILE, WORD = "notes/today.txt", "heron"
CALL = f"Read the file {FILE} with the tool read_file. Then answer with the word that stands in it."
TOOLS = dumps(
    [
        {
            "type": "function",
            "function": {
                "name": "read_file",
                "description": "Read a file of the repository.",
                "parameters": {
                    "type": "object",
                    "properties": {"path": {"type": "string", "description": "Path from the repository's root."}},
                    "required": ["path"],
                },
            },
        }
    ]
)
MOST_TOKENS = 4096
"""Of one answer, where the role allows as many: a model that thinks needs some hundred for these."""

Thinking = Literal["separate", "in the text", "none"]


@dataclass(frozen=True)
class Finding:
    """Something that a person should change. `fail` keeps a role from working."""

    level: Literal["warn", "fail"]
    text: str


@dataclass
class Examination:
    """What was found. Counts are tokens."""

    base_url: str
    model: str = ""
    context: int | None = None
    """Longest request, where the endpoint tells."""
    server: str = ""
    """`SGLang 0.5.23`, where it tells."""
    first_token_seconds: float | None = None
    """Until the first piece of an answer that came in pieces, thoughts not counted."""
    tokens_per_second: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the last prompt, which extends the one before."""
    cache_report: bool = False
    thinking: Thinking = "none"
    tool_call: bool | None = None
    """Whether the call came as it should; None where the role makes none."""
    priority: bool | None = None
    """Whether it obeys priorities; None where it does not tell."""
    findings: list[Finding] = field(default_factory=list[Finding])

    @property
    def ok(self) -> bool:
        return all(finding.level != "fail" for finding in self.findings)

    def warn(self, text: str) -> None:
        self.findings.append(Finding("warn", text))

    def fail(self, text: str) -> None:
        self.findings.append(Finding("fail", text))


async def examine(settings: RoleSettings, api_key: SecretStr | None = None) -> Examination:
    """Ask three things: a question, a tool call, and to go on after the tool's result.

    Raises `EndpointDown` when nothing answers (at once: nobody waits for a server here), and `EndpointRefused`.
    """
    result = Examination(base_url=settings.base_url)
    capped = settings.model_copy(update={"max_tokens": min(settings.max_tokens, MOST_TOKENS)})
    async with ModelClient(capped, api_key=api_key, patience_seconds=0) as client:
        listing = await client.listing()
        _describe(result, settings, listing, await client.server_info())
        if "tools" not in settings.dialect:
            await _question(client, result)
            return result
        await _question(client, result)
        await _tool_call(client, result)
    return result


def _describe(result: Examination, settings: RoleSettings, listing: Sequence[JsonObject], info: JsonObject) -> None:
    """Name, context and settings, from what the endpoint tells without being asked to generate."""
    names = [name for entry in listing if (name := as_text(entry.get("id")))]
    result.model = settings.model or next(iter(chat_models(names) or names), "")
    nothing: JsonObject = {}
    entry = next((each for each in listing if each.get("id") == result.model), nothing)
    meta = as_object(entry.get("meta"))
    # SGLang and vLLM; LM Studio and others; llama.cpp.
    lengths = (entry.get("max_model_len"), entry.get("context_length"), meta.get("n_ctx"), meta.get("n_ctx_train"))
    result.context = next((count for each in lengths if (count := as_count(each))), None)
    if "enable_priority_scheduling" in info:
        result.server = f"SGLang {as_text(info.get('version'))}".strip()
        result.priority = bool(info["enable_priority_scheduling"])
        pool = as_count(info.get("max_total_num_tokens"))
        if pool and result.context and pool < result.context:
            result.warn(f"its KV cache holds {pool:,} tokens, so no request can have its context of {result.context:,}")
    if settings.model and settings.model not in names:
        result.fail(f"it has no model {settings.model!r}; it has {', '.join(names[:5]) or 'none'}")


async def _question(client: ModelClient, result: Examination) -> None:
    heard = _Heard()
    reply = await client.chat([_message("system", SYSTEM), _message("user", QUESTION)], **heard.options)
    result.first_token_seconds = heard.first
    if reply.usage.completion_tokens and reply.seconds:
        result.tokens_per_second = round(reply.usage.completion_tokens / reply.seconds, 1)
    if not reply.usage.prompt_tokens:
        result.warn("it does not report usage: reports cannot count tokens")
    _thoughts(result, reply, heard)
    if reply.finish_reason == "length":
        result.warn(f"its answer to {QUESTION!r} did not end within {reply.usage.completion_tokens:,} tokens")
    elif ANSWER not in reply.content:
        result.warn(f"asked {QUESTION!r} it said {reply.content.strip()[:80]!r}")


async def _tool_call(client: ModelClient, result: Examination) -> None:
    asked = [_message("system", SYSTEM), _message("user", CALL)]
    heard = _Heard()
    reply = await client.chat(asked, tools=TOOLS, **heard.options)
    _thoughts(result, reply, heard)
    call = next((each for each in reply.tool_calls if each.name == "read_file"), None)
    result.tool_call = call is not None and (call.arguments or {}).get("path") == FILE
    if call is None:
        result.fail(
            f"asked for a tool call it said {reply.content.strip()[:80]!r}: does the server have a tool parser for "
            "this model (SGLang: --tool-call-parser), and its chat template tools?"
        )
        return
    if call.arguments is None:
        result.fail(f"the arguments of its tool call are broken: {call.raw_arguments[:80]!r}")
    elif not result.tool_call:
        result.warn(f"it called read_file with {dumps(call.arguments)[:80]} instead of the path {FILE}")
    if heard.text.strip() != reply.content.strip() and result.thinking != "in the text":
        result.warn("its tool call came as text, and was read out of it: give the server a tool parser for this model")
    answer = _message("tool", f"The word is {WORD}.", tool_call_id=call.id)
    others = [_message("tool", "Not now.", tool_call_id=each.id) for each in reply.tool_calls if each is not call]
    last = await client.chat([*asked, reply.message, answer, *others], tools=TOOLS, **_Heard().options)
    _prefix(result, reply, last)
    if last.finish_reason != "length" and WORD not in last.content:
        result.warn(f"after the tool's result it said {last.content.strip()[:80]!r}")


def _prefix(result: Examination, before: Reply, last: Reply) -> None:
    """Whether what was sent before was found in the cache."""
    result.prompt_tokens, result.cached_tokens = last.usage.prompt_tokens, last.usage.cached_tokens
    result.cache_report = last.usage.cached_tokens > 0
    if not result.prompt_tokens:
        return
    if not result.cache_report:
        result.warn("it reports no cached tokens: SGLang needs --enable-cache-report; others may have no prefix cache")
    elif result.cached_tokens < 0.8 * before.usage.prompt_tokens:
        result.warn(
            f"of the prompt before, {before.usage.prompt_tokens:,} tokens, only {result.cached_tokens:,} were found "
            "again: its chat template changes earlier text (docs/templates.md)"
        )


def _thoughts(result: Examination, reply: Reply, heard: _Heard) -> None:
    if not reply.reasoning:
        return
    inside = any(mark in heard.text for mark in ("<think>", "</think>", "[THINK]"))
    result.thinking = "in the text" if inside else "separate"
    text = "its thoughts come in the text: give the server a reasoning parser (SGLang: --reasoning-parser)"
    if inside and all(finding.text != text for finding in result.findings):
        result.warn(text)


class _Heard:
    """The content as it came, and when its first piece did."""

    def __init__(self) -> None:
        self.text = ""
        self.first: float | None = None
        self._asked = time.monotonic()

    @property
    def options(self) -> dict[str, Any]:
        return {"on_text": self._take}

    def _take(self, piece: str) -> None:
        if self.first is None:
            self.first = round(time.monotonic() - self._asked, 3)
        self.text += piece


def _message(role: str, content: str, **more: str) -> str:
    return dumps({"role": role, "content": content, **more})
