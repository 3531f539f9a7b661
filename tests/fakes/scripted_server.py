"""An OpenAI-compatible server that says what a script tells it to: for tests and benchmarks.

Which answer a request gets depends on nothing but the request, so a client that was killed and comes back hears the
same again. In a test:

    async with ScriptedServer(lambda request: Answer(text="hello")) as server:
        ... RoleSettings(base_url=server.url) ...
        assert server.requests[0].json["messages"]

With a script: a rule speaks for the conversations whose system message holds `when`; its answers are counted by the
assistant messages that are there already. In Python, and the same as JSON for a process of its own:

    Script((Rule("You plan", (Answer("1. fix it"),)),
            Rule("You execute", (Answer(tool_calls=(("read_file", {"path": "a.py"}),)), Answer("done")))))

    {"rules": [{"when": "You plan", "answers": [{"text": "1. fix it"}]},
               {"when": "You execute",
                "answers": [{"tool_calls": [["read_file", {"path": "a.py"}]]}, {"text": "done"}]}],
     "delay": 0.05, "fail_first": [503, "cut"], "models": ["scripted"], "api_key": null}

    python tests/fakes/scripted_server.py script.json      # prints its URL, serves until it is stopped
    with spawned(script) as server: ... server.url, server.requests() ...

Standard library only, and nothing of the project: it must not share its mistakes.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

FAULTS = ("cut", "end_early", "hang", "stall", "malformed", "endless", "error_in_stream", "hang_up", "html")
"""What can go wrong with an answer; `after` counts chunks.

cut: the connection breaks there; end_early: the stream ends there, properly; hang: no byte ever comes; stall: nothing
comes after that; malformed: an event there is no JSON; endless: the text never ends; error_in_stream: an error object
comes there; hang_up: the connection closes unanswered; html: a page comes instead of JSON.
"""


@dataclass(frozen=True)
class Answer:
    """What one request hears."""

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[tuple[str, dict[str, Any] | str], ...] = ()
    """Name and arguments; a str is sent as it is, broken or not."""
    finish_reason: str | None = None
    delay: float | None = None
    """Seconds before the first byte; the server's own when None."""
    pause: float = 0.0
    """Seconds between two chunks."""
    chunk: int = 12
    """Characters in a chunk."""
    usage: bool = True
    status: int = 200
    error: str = "scripted failure"
    """Said with a status other than 200, and by `error_in_stream`."""
    headers: Mapping[str, str] = field(default_factory=dict)
    fault: str = ""
    after: int = 2
    events: tuple[Any, ...] | None = None
    """Sent instead of the reply's own: a str as the data of an event, bytes as they are, anything else as JSON."""
    body: str | None = None
    """Sent instead of a JSON response."""

    def __post_init__(self) -> None:
        if self.fault and self.fault not in FAULTS:
            raise ValueError(f"no such fault: {self.fault}; there are {', '.join(FAULTS)}")


@dataclass(frozen=True)
class Rule:
    when: str
    """In the system message of a chat, in the prompt of a completion."""
    answers: tuple[Answer, ...]
    has: str = ""
    """Somewhere in the request as well, to tell apart what `when` does not."""
    repeat: bool = False
    """The last answer again for ever; otherwise a request past the last one is refused with 400."""


@dataclass(frozen=True)
class Script:
    rules: tuple[Rule, ...]

    def __call__(self, request: dict[str, Any]) -> Answer:
        system, everything, turn = _sorted_out(request)
        for rule in self.rules:
            if rule.when in system and rule.has in everything:
                if turn < len(rule.answers):
                    return rule.answers[turn]
                if rule.repeat:
                    return rule.answers[-1]
                return Answer(status=400, error=f"the script has no answer number {turn} when {rule.when!r}")
        return Answer(status=400, error="the script has no rule for this request")

    @classmethod
    def from_json(cls, script: Mapping[str, Any]) -> Script:
        return cls(
            tuple(
                Rule(**{**rule, "answers": tuple(answer_from_json(answer) for answer in rule["answers"])})
                for rule in script["rules"]
            )
        )


def answer_from_json(answer: Mapping[str, Any]) -> Answer:
    calls = tuple((name, arguments) for name, arguments in answer.get("tool_calls", ()))
    events = tuple(answer["events"]) if answer.get("events") is not None else None
    return Answer(**{**answer, "tool_calls": calls, "events": events})


@dataclass
class Recorded:
    """One request as it came, and what became of it. Times are `time.monotonic()`, None for what did not happen."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    received: float
    first_byte: float | None = None
    finished: float | None = None
    disconnected: float | None = None
    """When the client went away before the answer was complete."""
    status: int | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


class PrefixCache:
    """SGLang's accounting in small: four bytes are a token, and the last token of a prompt is always computed."""

    def __init__(self) -> None:
        self._prompts: list[bytes] = []

    def cached(self, prompt: bytes) -> int:
        common = max((_common_prefix(prompt, earlier) for earlier in self._prompts), default=0)
        return max(0, min(common // 4, self.tokens(prompt) - 1))

    def add(self, prompt: bytes) -> None:
        self._prompts = [earlier for earlier in self._prompts if not prompt.startswith(earlier)]
        self._prompts.append(prompt)

    @staticmethod
    def tokens(prompt: bytes) -> int:
        return max(1, len(prompt) // 4)


def canonical_prompt(request: Mapping[str, Any]) -> bytes:
    """The bytes of a prompt in the order of a chat template: system message, tools, conversation."""
    if "prompt" in request:
        return str(request["prompt"]).encode("utf-8", "replace")
    messages = list(request.get("messages", ()))
    first = [messages.pop(0)] if messages and messages[0].get("role") == "system" else []
    parts = [*first, *request.get("tools", ()), *messages]
    return b"\n".join(json.dumps(part, ensure_ascii=True).encode() for part in parts)


class ClientGone(Exception):
    """The client closed its connection."""


class _Connection(asyncio.StreamReaderProtocol):
    """Knows when the client goes away, even while nothing is read or written."""

    def __init__(self, serve: Callable[..., Any]) -> None:
        super().__init__(asyncio.StreamReader(limit=64 << 20), functools.partial(serve, self))
        self.gone = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()
        super().connection_lost(exc)

    def eof_received(self) -> bool | None:
        self.gone.set()
        return super().eof_received()

    async def pause(self, seconds: float | None) -> None:
        """Wait, for ever when None. Raises `ClientGone` as soon as the client is."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.gone.wait(), seconds)
        if self.gone.is_set():
            raise ClientGone


class ScriptedServer:
    """Serves on a free port of 127.0.0.1 while its `async with` block runs; `url` ends in `/v1`.

    `fail_first` is what the first requests for a reply hear instead: a status, or one of `FAULTS`.
    """

    def __init__(
        self,
        answer: Callable[[dict[str, Any]], Answer],
        *,
        models: Sequence[str] = ("scripted",),
        fail_first: Sequence[int | str] = (),
        api_key: str | None = None,
        delay: float = 0.0,
        port: int = 0,
        listing: Mapping[str, Any] | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        """`listing` is said of each model beside its name, `info` at `/server_info`, as SGLang does."""
        self._answer = answer
        self._fail_first = list(fail_first)
        self._api_key = api_key
        self._delay = delay
        self._port = port
        self._listing = listing or {}
        self._info = info
        self._cache = PrefixCache()
        self._tasks: set[asyncio.Task[None]] = set()
        self.models = list(models)
        self.all_requests: list[Recorded] = []
        self.url = ""

    @property
    def requests(self) -> list[Recorded]:
        """The requests for a reply, without those for the list of models."""
        return [request for request in self.all_requests if request.method == "POST"]

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self._serve), "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        """Wait until something that the server sees makes `condition` true; raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - it may depend on anything
                await asyncio.sleep(0.005)

    async def _serve(self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while (request := await _read_request(reader)) is not None:
                self.all_requests.append(request)
                try:
                    await self._respond(request, connection, writer)
                except (ClientGone, ConnectionError):
                    request.disconnected = time.monotonic()
                    return
                if writer.is_closing():
                    return
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client is gone, or the server stops
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _respond(self, request: Recorded, connection: _Connection, writer: asyncio.StreamWriter) -> None:
        out = _Writer(request, connection, writer)
        if self._api_key is not None and request.headers.get("authorization") != f"Bearer {self._api_key}":
            return await out.json(401, {"error": {"message": "Invalid API key", "code": 401}})
        if request.method == "GET":
            return await self._look_up(request.path, out)
        if request.path not in ("/v1/chat/completions", "/v1/completions"):
            return await out.json(404, {"detail": "Not Found"})
        asked = request.json
        if asked.get("model") not in self.models:
            message = f"The model `{asked.get('model')}` does not exist."
            return await out.json(404, {"error": {"message": message, "type": "NotFoundError", "code": 404}})
        answer = self._next_answer(asked)
        prompt = canonical_prompt(asked)
        request.prompt_tokens = self._cache.tokens(prompt)
        if answer.status == 200:
            request.cached_tokens = self._cache.cached(prompt)
        await connection.pause(None if answer.fault == "hang" else answer.delay or 0.0)
        if answer.status == 200 and answer.fault not in ("hang_up", "html"):
            self._cache.add(prompt)
        return await _Responder(answer, asked, request).send(out)

    def _next_answer(self, asked: dict[str, Any]) -> Answer:
        answer = self._answer(asked)
        if self._fail_first:
            failure = self._fail_first.pop(0)
            answer = replace(answer, **({"status": failure} if isinstance(failure, int) else {"fault": failure}))
        return replace(answer, delay=self._delay) if answer.delay is None else answer

    async def _look_up(self, path: str, out: _Writer) -> None:
        if path == "/v1/models":
            data = [{"id": name, "object": "model", "owned_by": "script", **self._listing} for name in self.models]
            return await out.json(200, {"object": "list", "data": data})
        if path == "/server_info" and self._info is not None:
            return await out.json(200, dict(self._info))
        if path == "/_requests":
            seen = [{**asdict(request), "body": request.body.decode()} for request in self.requests]
            return await out.json(200, seen)
        return await out.json(404, {"detail": "Not Found"})


class _Writer:
    """Writes one HTTP response and notes when."""

    def __init__(self, request: Recorded, connection: _Connection, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self.connection = connection
        self.writer = writer

    async def json(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        await self.whole(status, json.dumps(value).encode(), "application/json", headers or {})

    async def whole(self, status: int, body: bytes, kind: str, headers: Mapping[str, str]) -> None:
        self._head(status, {"Content-Type": kind, "Content-Length": str(len(body)), **headers})
        self.writer.write(body)
        await self.writer.drain()
        self.request.finished = time.monotonic()

    def begin_stream(self, headers: Mapping[str, str]) -> None:
        self._head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked", **headers})

    async def write(self, data: bytes) -> None:
        self.writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        await self.writer.drain()
        await asyncio.sleep(0)
        if self.connection.gone.is_set():
            raise ClientGone

    async def end_stream(self) -> None:
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()
        self.request.finished = time.monotonic()

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.request.status = status
        self.request.first_byte = time.monotonic()
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.writer.write(f"HTTP/1.1 {status} Scripted\r\n{lines}\r\n".encode())


class _Responder:
    """One answer in the shape that was asked for."""

    def __init__(self, answer: Answer, asked: Mapping[str, Any], request: Recorded) -> None:
        self.answer = answer
        self.asked = asked
        self.request = request
        self.is_chat = "messages" in asked

    async def send(self, out: _Writer) -> None:
        answer = self.answer
        if answer.fault == "hang_up":
            out.writer.close()
        elif answer.fault == "html":
            await out.whole(200, b"<html><body>It works!</body></html>", "text/html", answer.headers)
        elif answer.status != 200:
            error = {"message": answer.error, "type": "Scripted", "code": answer.status}
            await out.json(answer.status, {"object": "error", "error": error}, answer.headers)
        elif answer.body is not None:
            await out.whole(200, answer.body.encode(), "application/json", answer.headers)
        elif self.asked.get("stream"):
            await self._send_stream(out)
        else:
            await self._send_whole(out)

    async def _send_whole(self, out: _Writer) -> None:
        match self.answer.fault:
            case "cut" | "end_early":
                out.writer.close()
            case "stall" | "endless":
                await out.connection.pause(None)
            case "malformed":
                await out.whole(200, b'{"choices": [', "application/json", self.answer.headers)
            case "error_in_stream":
                await out.json(200, {"error": {"message": self.answer.error, "code": 500}}, self.answer.headers)
            case _:
                await out.json(200, self._whole(), self.answer.headers)

    async def _send_stream(self, out: _Writer) -> None:
        answer = self.answer
        out.begin_stream(answer.headers)
        for position, event in enumerate(self._events()):
            if answer.fault and position == answer.after and await self._spoil(out):
                return
            await out.write(_as_event(event))
            if answer.pause:
                await out.connection.pause(answer.pause)
        await out.end_stream()

    async def _spoil(self, out: _Writer) -> bool:
        """The fault in the middle of a stream; True when nothing follows it."""
        match self.answer.fault:
            case "cut":
                out.writer.close()
            case "end_early":
                await out.end_stream()
            case "stall":
                await out.connection.pause(None)
            case "error_in_stream":
                await out.write(_as_event({"error": {"message": self.answer.error, "code": 500}}))
                await out.end_stream()
            case "malformed":
                await out.write(_as_event('{"choices": [{"index": 0, "del'))
                return False
            case _:
                return False
        return True

    def _events(self) -> Iterator[Any]:
        answer = self.answer
        if answer.events is not None:
            yield from answer.events
            return
        if self.is_chat:
            yield self._chunk({"role": "assistant", "content": ""})
        while answer.fault == "endless":
            yield self._chunk(self._delta(" "))
        for piece in _pieces(answer.reasoning, answer.chunk):
            yield self._chunk({"reasoning_content": piece})
        for piece in _pieces(answer.text, answer.chunk):
            yield self._chunk(self._delta(piece))
        for index, (name, arguments) in enumerate(answer.tool_calls):
            head = {"index": index, "id": self._call_id(index), "type": "function"}
            yield self._chunk({"tool_calls": [{**head, "function": {"name": name, "arguments": ""}}]})
            for piece in _pieces(_as_arguments(arguments), answer.chunk):
                yield self._chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        yield self._chunk({}, self._finish_reason)
        if answer.usage and (self.asked.get("stream_options") or {}).get("include_usage"):
            yield {**self._envelope, "choices": [], "usage": self._usage}
        yield "[DONE]"

    def _whole(self) -> dict[str, Any]:
        answer = self.answer
        message: dict[str, Any] = {"role": "assistant", "content": answer.text or None}
        if answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        if answer.tool_calls:
            message["tool_calls"] = [
                {"id": self._call_id(index), "type": "function", "function": {"name": name, "arguments": text}}
                for index, (name, arguments) in enumerate(answer.tool_calls)
                for text in (_as_arguments(arguments),)
            ]
        content = {"message": message} if self.is_chat else {"text": answer.text}
        choice = {"index": 0, **content, "finish_reason": self._finish_reason}
        return {**self._envelope, "choices": [choice]} | ({"usage": self._usage} if answer.usage else {})

    def _delta(self, text: str) -> dict[str, Any]:
        return {"content": text} if self.is_chat else {"text": text}

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        content = {"delta": delta} if self.is_chat else {"text": delta.get("text", "")}
        return {**self._envelope, "choices": [{"index": 0, **content, "finish_reason": finish_reason}]}

    def _call_id(self, index: int) -> str:
        return f"call_{index:024x}"

    @property
    def _envelope(self) -> dict[str, Any]:
        kind = "chat.completion" if self.is_chat else "text_completion"
        return {"id": "scripted", "object": kind, "created": 0, "model": self.asked.get("model")}

    @property
    def _finish_reason(self) -> str:
        return self.answer.finish_reason or ("tool_calls" if self.answer.tool_calls else "stop")

    @property
    def _usage(self) -> dict[str, Any]:
        answer = self.answer
        written = (
            answer.text + answer.reasoning + "".join(name + _as_arguments(text) for name, text in answer.tool_calls)
        )
        completion = max(1, len(written.encode()) // 4)
        return {
            "prompt_tokens": self.request.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.request.prompt_tokens + completion,
            "prompt_tokens_details": {"cached_tokens": self.request.cached_tokens},
        }


async def _read_request(reader: asyncio.StreamReader) -> Recorded | None:
    """The next request of a connection, None when it has ended."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    try:
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    except asyncio.IncompleteReadError:
        return None
    method, path, _ = first.split(" ")
    return Recorded(method, path, headers, body, received=time.monotonic())


def _sorted_out(request: Mapping[str, Any]) -> tuple[str, str, int]:
    """System text (or the prompt), all text, and the number of assistant messages."""
    if "prompt" in request:
        return str(request["prompt"]), str(request["prompt"]), 0
    messages: list[dict[str, Any]] = request.get("messages", [])
    system = "\n".join(_text(message.get("content")) for message in messages if message.get("role") == "system")
    everything = "\n".join(_text(message.get("content")) for message in messages)
    return system, everything, sum(message.get("role") == "assistant" for message in messages)


def _text(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content)


def _as_event(event: Any) -> bytes:
    if isinstance(event, bytes):
        return event
    return f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n".encode()


def _as_arguments(arguments: dict[str, Any] | str) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


def _pieces(text: str, size: int) -> Iterator[str]:
    return (text[start : start + size] for start in range(0, len(text), size))


def _common_prefix(one: bytes, other: bytes) -> int:
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle - 1)
    return low


@dataclass
class Spawned:
    """A server in a process of its own."""

    url: str
    process: subprocess.Popen[str]

    def requests(self) -> list[dict[str, Any]]:
        """What `ScriptedServer.requests` has, as JSON; `body` is text."""
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/_requests", timeout=10) as response:
            return json.load(response)


@contextmanager
def spawned(script: Mapping[str, Any], *, port: int = 0) -> Generator[Spawned]:
    """Run a script in a process of its own; it ends with the block."""
    command = [sys.executable, str(Path(__file__)), "-", "--port", str(port)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps(script))
        process.stdin.close()
        yield Spawned(process.stdout.readline().strip(), process)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def _run(script: Mapping[str, Any], port: int) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    options = {key: script[key] for key in ("models", "fail_first", "api_key", "delay") if key in script}
    async with ScriptedServer(Script.from_json(script), port=port, **options) as server:
        print(server.url, flush=True)
        await stopped.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a script as an OpenAI-compatible endpoint.")
    parser.add_argument("script", help="JSON file, - for standard input")
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    text = sys.stdin.read() if arguments.script == "-" else Path(arguments.script).read_text(encoding="utf-8")
    asyncio.run(_run(json.loads(text), arguments.port))


if __name__ == "__main__":
    main()
