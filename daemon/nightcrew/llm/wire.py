"""Bytes to and from an OpenAI-compatible endpoint: request bodies, events, replies put together from pieces.

Nothing here does I/O. What an endpoint sends is read leniently: a field of the wrong type counts as absent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from nightcrew.domain import Usage
from nightcrew.llm.control import as_sent

JsonObject = Mapping[str, Any]

REPLY_CAP = 8 * 1024 * 1024
"""Most bytes of one reply; a longer one is cut off there."""


class ErrorPayload(Exception):
    """The endpoint sent an error where a reply, or a piece of one, was expected."""

    def __init__(self, payload: JsonObject) -> None:
        super().__init__("error in a reply")
        self.payload = payload


class TooLarge(Exception):
    """More than `REPLY_CAP` bytes in one piece."""


def dumps(value: object) -> str:
    """Compact JSON, the same text for the same value in every process."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def clean(text: str) -> str:
    """Join surrogate pairs that arrived in two pieces, and replace lone ones, which no encoding can send."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def as_dict(value: object) -> dict[str, Any] | None:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def as_object(value: object) -> JsonObject:
    return as_dict(value) or {}


def as_list(value: object) -> Sequence[Any]:
    return cast("Sequence[Any]", value) if isinstance(value, list) else ()


def as_text(value: object) -> str:
    return value if isinstance(value, str) else ""


def as_count(value: object) -> int:
    return max(0, value) if isinstance(value, int) and not isinstance(value, bool) else 0


def chat_body(model: str, messages: Sequence[str], tools: str | None, rest: JsonObject) -> bytes:
    """A chat request. The messages are JSON texts and go in as they are but for control tokens in them, so that a
    longer conversation extends the bytes of a shorter one; whatever may change from request to request stands behind
    them."""
    head = f'{{"model":{dumps(model)},"messages":[{",".join(map(as_sent, messages))}]'
    return _with_rest(head + (f',"tools":{tools}' if tools else ""), rest)


def completion_body(model: str, prompt: str, rest: JsonObject) -> bytes:
    """A request for `/completions`."""
    return _with_rest(f'{{"model":{dumps(model)},"prompt":{dumps(prompt)}', rest)


def _with_rest(head: str, rest: JsonObject) -> bytes:
    return (f"{head},{dumps(rest)[1:]}" if rest else f"{head}}}").encode("utf-8", "replace")


def read_usage(value: object) -> Usage:
    """A `usage` object; whatever it lacks counts as 0."""
    usage = as_object(value)
    details = as_object(usage.get("prompt_tokens_details"))
    return Usage(
        prompt_tokens=as_count(usage.get("prompt_tokens")),
        completion_tokens=as_count(usage.get("completion_tokens")),
        cached_tokens=as_count(details.get("cached_tokens")),
    )


def error_sentence(payload: object) -> str:
    """What an error says, in any of the shapes in use: `error.message`, `error`, `message`, `detail`; or its JSON."""
    if isinstance(payload, str):
        return payload
    body = as_object(payload)
    for key in ("error", "message", "detail"):
        if value := body.get(key):
            return error_sentence(value)
    return dumps(payload)


def error_status(payload: JsonObject) -> int:
    """The HTTP status that an error inside a reply stands for; 500 where it does not tell."""
    error = as_object(payload.get("error")) or payload
    for key in ("code", "status", "status_code"):
        code = str(error.get(key, ""))
        if code.isdecimal() and 400 <= int(code) <= 599:
            return int(code)
    kind = f"{error.get('type', '')} {error.get('code', '')}".lower()
    for word, status in (("authentication", 401), ("not_found", 404), ("invalid_request", 400), ("badrequest", 400)):
        if word in kind:
            return status
    return 500


class EventDecoder:
    """The data of server-sent events, from pieces of bytes cut anywhere (WHATWG HTML, section 9.2).

    httpx2 has a decoder too, but it drops a last event that lacks its blank line, and what it gives out cannot be
    closed when it is left early (an error, a reply that grows without end).
    """

    def __init__(self) -> None:
        self._pending = bytearray()
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[str]:
        """The events that this piece completes. Raises `TooLarge`."""
        self._pending += piece
        if b"\n" not in piece and b"\r" not in piece:
            self._check()
            return []
        lines = bytes(self._pending).splitlines(keepends=True)
        # A line without its end waits for it, and one that ends in \r waits too: \n may follow.
        rest = b"" if lines[-1].endswith(b"\n") else lines.pop()
        self._pending = bytearray(rest)
        events = [event for line in lines if (event := self._line(line.rstrip(b"\r\n"))) is not None]
        self._check()
        return events

    def close(self) -> list[str]:
        """The last event, when the stream ended without its blank line."""
        lines = [*bytes(self._pending).splitlines(), b""]
        self._pending.clear()
        return [event for line in lines if (event := self._line(line)) is not None]

    def _line(self, line: bytes) -> str | None:
        if not line:
            event = b"\n".join(self._data).decode("utf-8", "replace") if self._data else None
            self._data, self._size = [], 0
            return event
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._size += len(value)
        return None

    def _check(self) -> None:
        if self._size + len(self._pending) > REPLY_CAP:
            raise TooLarge


class CallPieces:
    """A tool call as far as it has arrived."""

    def __init__(self, index: int | None) -> None:
        self.index = index
        self.id = ""
        self.name = ""
        self._arguments: list[str] = []

    @property
    def arguments(self) -> str:
        return clean("".join(self._arguments))

    def add(self, call_id: str, name: str, arguments: str) -> None:
        self.id = self.id or call_id
        # Some endpoints repeat the whole name with every piece of the arguments.
        if name != self.name:
            self.name += name
        if arguments:
            self._arguments.append(arguments)

    def is_followed_by(self, call_id: str, name: str) -> bool:
        """Whether a piece belongs to another call: some endpoints send whole calls, all with index 0."""
        if not name:
            return False
        if call_id and self.id and call_id != self.id:
            return True
        return bool(self._arguments) and (name != self.name or _is_json(self.arguments))


class Assembler:
    """A reply, put together from the payloads of a stream, or from the one payload of a plain response."""

    def __init__(
        self, *, max_pieces: int, max_bytes: int = REPLY_CAP, on_start: Callable[[], None] | None = None
    ) -> None:
        """`on_start` is called once, when `started` comes true."""
        self._on_start = on_start
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self.calls: list[CallPieces] = []
        self.finish_reason = ""
        self.usage = Usage()
        self.model = ""
        self.done = False
        """`[DONE]` was seen."""
        self._pieces = 0
        self._bytes = 0
        self._max_pieces = max_pieces
        self._max_bytes = max_bytes

    @property
    def content(self) -> str:
        return clean("".join(self._content))

    @property
    def reasoning(self) -> str:
        return clean("".join(self._reasoning))

    @property
    def started(self) -> bool:
        """Whether anything the model wrote has arrived. An empty piece, sent before the prefill, does not count."""
        return self._pieces > 0

    @property
    def ended(self) -> bool:
        """Whether nothing but the usage can be missing."""
        return self.done or bool(self.finish_reason)

    @property
    def full(self) -> bool:
        """Whether the reply is longer than any model's was asked to be: what follows is not worth waiting for."""
        return self._bytes > self._max_bytes or self._pieces > self._max_pieces

    def add(self, payload: JsonObject) -> str:
        """Take one payload in; returns the content it brought. Raises `ErrorPayload`."""
        if (
            payload.get("error")
            or payload.get("object") == "error"
            or ("detail" in payload and "choices" not in payload)
        ):
            raise ErrorPayload(payload)
        self.model = as_text(payload.get("model")) or self.model
        if payload.get("usage"):
            self.usage = read_usage(payload["usage"])
        for choice in map(as_object, as_list(payload.get("choices"))):
            if as_count(choice.get("index")) == 0:
                return self._add_choice(choice)
        return ""

    def _add_choice(self, choice: JsonObject) -> str:
        delta = as_object(choice.get("delta") or choice.get("message"))
        text, thoughts = _content(delta.get("content"))
        text += as_text(choice.get("text"))
        thoughts += as_text(delta.get("reasoning_content")) or as_text(delta.get("reasoning"))
        calls = [as_object(call) for call in as_list(delta.get("tool_calls"))]
        for position, call in enumerate(calls):
            self._add_call(call, position if "message" in choice else call.get("index"))
        self._content.append(text)
        self._reasoning.append(thoughts)
        self.finish_reason = as_text(choice.get("finish_reason")) or self.finish_reason
        self._pieces += bool(text or thoughts or calls or choice.get("finish_reason"))
        if self.started and self._on_start is not None:
            self._on_start, on_start = None, self._on_start
            on_start()
        self._bytes += len(text) + len(thoughts)
        return text

    def _add_call(self, call: JsonObject, index: object) -> None:
        function = as_object(call.get("function"))
        call_id, name = as_text(call.get("id")), as_text(function.get("name"))
        value = function.get("arguments")
        arguments = value if isinstance(value, str) else "" if value is None else dumps(value)
        self._bytes += len(arguments) + len(name)
        slot = self._slot(index, call_id, name)
        slot.add(call_id, name, arguments)

    def _slot(self, index: object, call_id: str, name: str) -> CallPieces:
        position = index if isinstance(index, int) else None
        same = [call for call in self.calls if position is None or call.index == position]
        if same and not same[-1].is_followed_by(call_id, name):
            return same[-1]
        self.calls.append(CallPieces(position))
        return self.calls[-1]


def _content(value: object) -> tuple[str, str]:
    """Text and thoughts of a `content`: a string, or Mistral's list of typed parts."""
    if isinstance(value, str):
        return value, ""
    text = thoughts = ""
    for part in map(as_object, as_list(value)):
        text += as_text(part.get("text"))
        thoughts += _content(part.get("thinking"))[0]
    return text, thoughts


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
