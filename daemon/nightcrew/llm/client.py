"""One role's model: chat and completion requests to an OpenAI-compatible endpoint, patient and cancellable."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
from pydantic import SecretStr

from nightcrew.config import RoleSettings
from nightcrew.domain import Usage
from nightcrew.errors import EndpointRefused
from nightcrew.llm import dialect, faults
from nightcrew.llm.control import unmarked, unmarked_arguments
from nightcrew.llm.dialect import ToolCall
from nightcrew.llm.endpoint import Endpoint, chat_models
from nightcrew.llm.patience import Passing, Patience
from nightcrew.llm.wire import Assembler, JsonObject, as_object, chat_body, completion_body, dumps

__all__ = ["Completion", "ModelClient", "Reply", "ToolCall"]

T = TypeVar("T")
LONGEST_BONUS = 9
"""A conversation that has gone on for long goes before one that begins, on the same server and in the same role. Less
than the ten that SGLang wants for interrupting a request that runs: roles differ by tens."""
MESSAGES_A_STEP = 8
_SHAPING = ("chat_template_kwargs", "reasoning_effort")
_CHAT_ONLY = frozenset({"chat_template_kwargs", "reasoning_effort", "tool_choice", "parallel_tool_calls"})


@dataclass(frozen=True)
class Reply:
    """What the model said. `message` is its JSON text exactly as it is to be sent again in the next request."""

    message: str
    content: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str
    """`stop`, `tool_calls`, `length` (its token limit, or cut off: it grew without end), or the server's own word."""
    usage: Usage
    seconds: float
    """Of the request that succeeded, without the tries before it."""
    model: str


@dataclass(frozen=True)
class Completion:
    """How the model went on with a prompt."""

    text: str
    finish_reason: str
    usage: Usage
    seconds: float


class ModelClient:
    """The model of one role. Use as an async context manager, or call `aclose`; several tasks may share one.

    Every request waits for an endpoint that is away, for at most `patience_seconds` (the settings' when None), then
    raises `EndpointDown`. A request that the endpoint will never serve raises `EndpointRefused`, one that is too long
    `ContextOverflow`. Cancelling a request closes its connection, which frees the server's slot.
    """

    def __init__(
        self,
        settings: RoleSettings,
        *,
        api_key: SecretStr | None = None,
        patience_seconds: float | None = None,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._settings = settings
        self._patience_seconds = settings.patience_seconds if patience_seconds is None else patience_seconds
        self._sleep = sleep
        self._endpoint = Endpoint(settings, api_key)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; requests under way fail."""
        await self._endpoint.aclose()

    @property
    def sees(self) -> bool:
        """Whether the model takes pictures, as its settings say."""
        return self._settings.vision

    @property
    def url(self) -> str:
        """Base URL of the endpoint, without a user's name and password."""
        return self._endpoint.url

    @property
    def shape(self) -> dict[str, Any]:
        """The request fields that chat templates write into the prompt, as the settings want them now."""
        fields = self._chat_fields(None, 0, None)
        return {name: fields[name] for name in _SHAPING if name in fields}

    async def chat(
        self,
        messages: Sequence[str],
        *,
        tools: str | None = None,
        response_format: dict[str, Any] | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        shape: dict[str, Any] | None = None,
        on_text: Callable[[str], None] | None = None,
        on_start: Callable[[], None] | None = None,
        on_wait: Callable[[str], None] | None = None,
    ) -> Reply:
        """The next message of a conversation.

        `messages` and `tools` are JSON texts and sent byte for byte, but for control tokens (`llm.control`). `on_text`
        gets the content as it comes, from the beginning again when a cut stream is tried again; `on_start` is called
        when the prompt has been read and a reply begins; `on_wait` gets a sentence for every wait. `shape` is what the
        conversation began with; it replaces what the settings say now.
        """
        limit = max_tokens or self._settings.max_tokens
        rest = self._chat_fields(response_format, limit, temperature)
        if shape is not None:
            rest = {**{name: value for name, value in rest.items() if name not in _SHAPING}, **shape}

        async def ask() -> Reply:
            model = await self._model()
            fields = {**await self._priority(len(messages)), **rest}
            parts = Assembler(max_pieces=4 * limit + 1000, on_start=on_start)
            started = time.monotonic()
            body = chat_body(model, messages, tools, fields)
            await self._endpoint.exchange("/chat/completions", body, parts, on_text)
            seconds = time.monotonic() - started
            known = dialect.known_tools(None if response_format else tools)
            return _reply(parts, known, dialect.next_number(messages), seconds, parts.model or model)

        return await self._patiently(ask, on_wait)

    async def complete(
        self,
        prompt: str,
        *,
        max_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int | None = None,
        on_wait: Callable[[str], None] | None = None,
    ) -> Completion:
        """How the model goes on with a bare prompt, without a chat template (`/completions`)."""
        rest: dict[str, Any] = {**self._stream_fields(), "max_tokens": max_tokens, "temperature": temperature}
        rest |= {"stop": list(stop)} if stop else {}
        rest |= {"seed": seed} if seed is not None else {}
        rest |= {key: value for key, value in self._settings.extra_body.items() if key not in _CHAT_ONLY}

        async def ask() -> Completion:
            model = await self._model()
            parts = Assembler(max_pieces=4 * max_tokens + 1000)
            started = time.monotonic()
            await self._endpoint.exchange("/completions", completion_body(model, prompt, rest), parts, None)
            finish_reason = "length" if parts.full else parts.finish_reason or "stop"
            return Completion(parts.content, finish_reason, parts.usage, time.monotonic() - started)

        return await self._patiently(ask, on_wait)

    async def model_names(self, *, on_wait: Callable[[str], None] | None = None) -> list[str]:
        """The models that the endpoint lists, as it names them; asked once."""
        return list(await self._patiently(self._endpoint.models, on_wait))

    def _chat_fields(
        self, response_format: dict[str, Any] | None, max_tokens: int, temperature: float | None
    ) -> JsonObject:
        settings = self._settings
        extra = dict(settings.extra_body)
        fields: dict[str, Any] = self._stream_fields()
        # OpenAI's newer models want another name for the limit; whoever writes that name gets it alone.
        fields |= {} if "max_completion_tokens" in extra else {"max_tokens": max_tokens}
        temperature = settings.temperature if temperature is None else temperature
        fields |= {} if temperature is None else {"temperature": temperature}
        fields |= {} if settings.top_p is None else {"top_p": settings.top_p}
        fields |= {} if response_format is None else {"response_format": response_format}
        if settings.thinking is not None:
            template = as_object(extra.pop("chat_template_kwargs", None))
            fields["chat_template_kwargs"] = {"enable_thinking": settings.thinking, **template}
        return fields | extra

    async def _priority(self, messages: int) -> JsonObject:
        """The `priority` field, where the settings name one and the server obeys it: SGLang with its priorities on.
        Others refuse the field, or do not know it."""
        own = self._settings.priority
        if own is None or not (await self._endpoint.server_info()).get("enable_priority_scheduling"):
            return {}
        return {"priority": own + min(LONGEST_BONUS, messages // MESSAGES_A_STEP)}

    async def server_info(self) -> JsonObject:
        """What an SGLang server says of itself; empty for every other."""
        return await self._endpoint.server_info()

    async def listing(self, *, on_wait: Callable[[str], None] | None = None) -> Sequence[JsonObject]:
        """The endpoint's models with whatever it says of each."""
        return await self._patiently(self._endpoint.listing, on_wait)

    def _stream_fields(self) -> dict[str, Any]:
        return (
            {"stream": True, "stream_options": {"include_usage": True}} if self._settings.stream else {"stream": False}
        )

    async def _patiently(self, ask: Callable[[], Awaitable[T]], on_wait: Callable[[str], None] | None) -> T:
        patience = Patience(self._patience_seconds)
        while True:
            started = time.monotonic()
            try:
                return await ask()
            except Passing as fault:
                pause = patience.after(fault, time.monotonic() - started)
                if pause is None:
                    raise faults.down(self._endpoint.place, fault, patience) from fault
                said = f"{self.url}: {fault.seen}, next try in {pause:.0f} s"
            if on_wait:
                on_wait(said)
            await self._sleep(pause)

    async def _model(self) -> str:
        """The model to ask for: the configured one, or the first that the endpoint lists."""
        if self._settings.model:
            return self._settings.model
        names = await self._endpoint.models()
        if not names:
            raise EndpointRefused(f"{self.url}: lists no models; load one there, or name one by the role's `model`")
        return (chat_models(names) or names)[0]


def _reply(parts: Assembler, known: dialect.Tools, number: int, seconds: float, model: str) -> Reply:
    """The reply, its lost tool calls recovered and its ids rewritten."""
    content, reasoning = parts.content, parts.reasoning
    finish_reason = "length" if parts.full else parts.finish_reason
    if not reasoning:
        content, reasoning = dialect.split_thoughts(content)
    calls = [(pieces.name, pieces.arguments) for pieces in parts.calls]
    if not calls:
        content, calls = dialect.recover(content, known)
    if not calls and not content.strip():
        reasoning, calls = dialect.recover_from_thoughts(reasoning, known)
    # Only here, where calls have been told from text: a model may quote what was marked in a file.
    content, reasoning = unmarked(content), unmarked(reasoning)
    calls = [(name, unmarked_arguments(raw)) for name, raw in calls]
    if finish_reason in ("", "stop"):
        finish_reason = "tool_calls" if calls else "stop"
    last = len(calls) - 1
    read = tuple(
        # What ran into the token limit is the last call; those before it were whole.
        dialect.read_call(number + position, name, raw, cut=finish_reason == "length" and position == last)
        for position, (name, raw) in enumerate(calls)
    )
    message: dict[str, Any] = {"role": "assistant", "content": content}
    message |= {"reasoning_content": reasoning} if reasoning else {}
    message |= {"tool_calls": [call.as_sent() for call in read]} if read else {}
    return Reply(dumps(message), content, reasoning, read, finish_reason, parts.usage, seconds, model)
