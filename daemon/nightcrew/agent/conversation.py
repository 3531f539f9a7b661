"""A conversation with one model: an append-only list of exact message texts in the journal.

Every request is the previous one plus new bytes. The state is what was journalled and nothing else, so a conversation
that a crash cut off goes on where its last message stands, with the model server's prefix still cached.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nightcrew.agent.ledger import Ledger
from nightcrew.agent.prompts import message
from nightcrew.events import ConversationOpened, MessageAdded, ModelReplied, ToolRan, ToolStarted
from nightcrew.llm.client import ModelClient

Pictures = Callable[[], Sequence[Mapping[str, object]]]
"""The content parts of pictures."""


@dataclass(frozen=True)
class Call:
    """A tool call as the model's message carries it."""

    id: str
    name: str
    arguments: dict[str, Any]
    problem: str
    """Why the arguments cannot be used, as a sentence for the model; empty when they can."""

    @property
    def signature(self) -> str:
        """Equal for the same call with the same arguments."""
        return json.dumps([self.name, self.arguments, self.problem], sort_keys=True)


class Conversation:
    """One role's talk about one task. `name` is its key in the journal, such as `executor/1`."""

    def __init__(self, ledger: Ledger, name: str, client: ModelClient, *, tools: str | None = None) -> None:
        self._ledger = ledger
        self._client = client
        self._tools = tools
        self._parsed: list[dict[str, Any]] = []
        self.name = name

    @property
    def texts(self) -> list[str]:
        """The exact messages so far."""
        return self._ledger.record.conversations.get(self.name, [])

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages, each parsed once. Treat them as read-only."""
        texts = self.texts
        self._parsed.extend(json.loads(text) for text in texts[len(self._parsed) :])
        return self._parsed

    @property
    def sees(self) -> bool:
        """Whether the model takes pictures."""
        return self._client.sees

    def open(self, system: str, user: str, pictures: Pictures | None = None) -> None:
        """Write what is missing of what every conversation begins with: what its requests carry, and two messages.

        `pictures` is asked for what follows the user's text, where the model takes pictures.
        """
        if self.name not in self._ledger.record.openings:
            opened = ConversationOpened(conversation=self.name, tools=self._tools, shape=self._client.shape)
            self._ledger.append(opened)
        if not self.texts:
            self.add("system", system)
        if len(self.texts) == 1:
            shown = pictures() if pictures is not None and self.sees else ()
            self.add("user", [{"type": "text", "text": user}, *shown] if shown else user)

    def add(self, role: str, content: str | Sequence[Mapping[str, object]]) -> None:
        self._ledger.append(MessageAdded(conversation=self.name, message=message(role, content)))

    async def ask(
        self,
        *,
        response_format: dict[str, Any] | None = None,
        max_tokens: int | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> None:
        """Get the model's next message and journal it. Raises the `ModelError` family and `LimitReached`."""
        self._ledger.check_tokens()
        opened = self._ledger.record.openings[self.name]
        reply = await self._client.chat(
            self.texts,
            tools=opened.tools,
            shape=opened.shape,
            response_format=response_format,
            max_tokens=max_tokens,
            on_text=on_text,
            on_wait=self._ledger.waiting,
        )
        self._ledger.append(
            ModelReplied(
                conversation=self.name,
                message=reply.message,
                finish_reason=reply.finish_reason,
                usage=reply.usage,
                seconds=round(reply.seconds, 3),
            )
        )

    def begin(self, call: Call) -> None:
        """Note that a call with effects outside of the workspace is about to run."""
        self._ledger.append(ToolStarted(conversation=self.name, call_id=call.id, name=call.name))

    def was_begun(self, call: Call) -> bool:
        """Whether the call was about to run when the work was cut off."""
        begun = self._ledger.record.begun
        return begun is not None and (begun.conversation, begun.call_id) == (self.name, call.id)

    def answer(
        self, call: Call, text: str, *, is_error: bool = False, tree: str | None = None, seconds: float = 0.0
    ) -> None:
        """Put a tool's answer behind its call."""
        body = {"role": "tool", "tool_call_id": call.id, "content": text}
        self._ledger.append(
            ToolRan(
                conversation=self.name,
                call_id=call.id,
                name=call.name,
                message=json.dumps(body, ensure_ascii=False, separators=(",", ":")),
                is_error=is_error,
                tree=tree,
                seconds=seconds,
            )
        )

    def evidence(self, text: str) -> None:
        """Say something to the model: as the answer of the call it waits for, else as a user message.

        A tool result keeps the whole prefix cached; after a user message some chat templates (Qwen3's) drop the
        thoughts of earlier turns and so change what stands before.
        """
        pending = self.pending()
        if not pending:
            self.add("user", text)
            return
        for call in pending[:-1]:
            self.answer(call, "Not run: the step had been handed over.", is_error=True)
        self.answer(pending[-1], text, is_error=True)

    @property
    def last(self) -> dict[str, Any]:
        return self.messages[-1]

    @property
    def is_models_turn(self) -> bool:
        """The last word is not the model's and no call waits for its answer."""
        return self.last["role"] != "assistant" and not self.pending()

    def pending(self) -> list[Call]:
        """The calls of the model's last message that have no answer yet, in order."""
        answered: set[str] = set()
        for body in reversed(self.messages):
            if body["role"] == "tool":
                answered.add(body["tool_call_id"])
            elif body["role"] == "assistant":
                return [call for call in map(read_call, body.get("tool_calls") or ()) if call.id not in answered]
            else:
                return []
        return []

    def final_text(self) -> str:
        """What the model's last message says, without its thoughts."""
        return str(self.last.get("content") or "").strip()


def read_call(raw: dict[str, Any]) -> Call:
    """A call out of an assistant message; arguments that are no JSON object become a problem.

    Broken arguments stand in the message as an object that quotes them (`llm.dialect`), since servers parse them.
    """
    function = raw["function"]
    try:
        arguments: Any = json.loads(function.get("arguments") or "{}")
    except (ValueError, RecursionError):
        arguments = None
    problem = ""
    if not isinstance(arguments, dict) or list(arguments) == ["malformed_arguments"]:  # pyright: ignore[reportUnknownArgumentType]
        arguments, problem = {}, "the arguments are not a valid JSON object; send the call again"
    # Half a surrogate pair cannot be stored or written anywhere.
    arguments = json.loads(json.dumps(arguments, ensure_ascii=False).encode("utf-8", "replace"))
    return Call(raw["id"], function["name"], arguments, problem)  # pyright: ignore[reportUnknownArgumentType]
