"""The client against a scripted server: what it sends, what it makes of replies, and how it fails."""

from __future__ import annotations

import asyncio
import json
import socket
import traceback
from collections.abc import Callable
from itertools import pairwise

import anyio
import pytest
from pydantic import SecretStr

from fakes.scripted_server import Answer, ScriptedServer
from nightcrew.config import RoleSettings
from nightcrew.errors import ConfigError, ContextOverflow, EndpointDown, EndpointRefused, ModelError
from nightcrew.llm.client import ModelClient, Reply

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]

SYSTEM = '{"role":"system","content":"You help."}'
USER = '{"role":"user","content":"Hello"}'
TOOLS = json.dumps([{"type": "function", "function": {"name": "read_file", "parameters": {"type": "object"}}}])
READ = ("read_file", {"path": "a.py"})
SECRET = "sk-very-secret-key"


class Sleeps:
    """Does not sleep, and remembers for how long."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await anyio.lowlevel.checkpoint()


def client(server: ScriptedServer | str, *, api_key: str | None = None, sleep=None, **settings) -> ModelClient:
    url = server if isinstance(server, str) else server.url
    role = RoleSettings(**{"base_url": url, "model": "scripted", "patience_seconds": 5.0, **settings})
    return ModelClient(role, api_key=SecretStr(api_key) if api_key else None, sleep=sleep or Sleeps())


def serve(answer: Answer | Callable[[dict], Answer], **options) -> ScriptedServer:
    return ScriptedServer(answer if callable(answer) else lambda _: answer, **options)


async def ask(answer: Answer, *, streaming: bool = True, tools: str | None = TOOLS, **settings) -> Reply:
    async with serve(answer) as server, client(server, stream=streaming, **settings) as model:
        return await model.chat([SYSTEM, USER], tools=tools)


async def error_of(answer: Answer, **settings) -> ModelError:
    async with serve(answer) as server, client(server, **settings) as model:
        with pytest.raises(ModelError) as caught:
            await model.chat([SYSTEM, USER])
    return caught.value


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


# What is sent


async def test_every_request_is_the_previous_one_plus_new_bytes():
    def answer(request: dict) -> Answer:
        said = sum(message["role"] == "assistant" for message in request["messages"])
        return Answer("Ich prüfe … 😀", reasoning="hm", tool_calls=(("read_file", '{ "path":"ä" }'),) * (said < 3))

    async with serve(answer) as server, client(server) as model:
        messages = [SYSTEM, USER]
        for _ in range(4):
            reply = await model.chat(messages, tools=TOOLS)
            messages.append(reply.message)
            messages += [f'{{"role":"tool","tool_call_id":"{call.id}","content":"…"}}' for call in reply.tool_calls]
        conversations = [request.body.partition(b'],"tools":')[0] for request in server.requests]
    assert len(conversations) == 4
    for shorter, longer in pairwise(conversations):
        assert longer.startswith(shorter + b",")
    assert server.requests[-1].cached_tokens >= server.requests[-2].prompt_tokens - 1


async def test_settings_and_arguments_become_request_fields():
    settings = {"thinking": False, "top_p": 0.9, "temperature": 0.7, "extra_body": {"top_k": 20, "priority": 3}}
    async with serve(Answer("x")) as server, client(server, **settings) as model:
        await model.chat([USER], response_format={"type": "json_object"}, max_tokens=99)
        await model.chat([USER], temperature=0.0)
    first, second = (request.json for request in server.requests)
    assert first == {
        "model": "scripted",
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 99,
        "temperature": 0.7,
        "top_p": 0.9,
        "response_format": {"type": "json_object"},
        "chat_template_kwargs": {"enable_thinking": False},
        "top_k": 20,
        "priority": 3,
    }
    assert (second["temperature"], second["max_tokens"]) == (0.0, 8192)


async def test_extra_body_can_rename_the_limit_and_add_to_the_template_arguments():
    extra = {"max_completion_tokens": 7, "chat_template_kwargs": {"x": 1}}
    async with serve(Answer("x")) as server, client(server, thinking=True, extra_body=extra) as model:
        await model.chat([USER])
    sent = server.requests[0].json
    assert "max_tokens" not in sent and sent["max_completion_tokens"] == 7
    assert sent["chat_template_kwargs"] == {"enable_thinking": True, "x": 1}


async def test_extra_body_must_not_replace_the_conversation():
    with pytest.raises(ConfigError, match="must not set messages"):
        client("http://127.0.0.1:1/v1", extra_body={"messages": []})


async def test_the_first_listed_chat_model_is_used_when_none_is_named():
    async with serve(Answer("x"), models=["nomic-embed-text", "scripted"]) as server, client(server, model="") as model:
        assert (await model.chat([USER])).model == "scripted"
        await model.chat([USER])
        assert await model.model_names() == ["nomic-embed-text", "scripted"]
    assert [request.path for request in server.all_requests].count("/v1/models") == 1


async def test_the_key_is_sent_as_a_bearer_token():
    async with serve(Answer("x"), api_key=SECRET) as server, client(server, api_key=SECRET) as model:
        assert (await model.chat([USER])).content == "x"


async def test_a_proxy_of_the_environment_does_not_come_before_this_machine(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    assert (await ask(Answer("x"))).content == "x"


async def test_a_proxy_of_the_environment_comes_before_other_machines(monkeypatch):
    async with serve(Answer("x")) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1"))
        async with client("http://models.invalid:9/v1", patience_seconds=0) as model:
            with pytest.raises(EndpointRefused):
                await model.chat([USER])
    assert proxy.all_requests[0].path == "http://models.invalid:9/v1/chat/completions"


# What comes back


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_reply_has_text_reasoning_calls_and_usage(streaming):
    answer = Answer("I look.", reasoning="hm", tool_calls=(READ, ("list_files", "{}")))
    reply = await ask(answer, streaming=streaming)
    assert (reply.content, reply.reasoning, reply.finish_reason) == ("I look.", "hm", "tool_calls")
    assert [(call.name, call.arguments, call.problem) for call in reply.tool_calls] == [
        ("read_file", {"path": "a.py"}, ""),
        ("list_files", {}, ""),
    ]
    assert reply.usage.prompt_tokens > 10 and reply.usage.completion_tokens > 1
    assert reply.seconds > 0
    assert json.loads(reply.message) == {
        "role": "assistant",
        "content": "I look.",
        "reasoning_content": "hm",
        "tool_calls": [
            {"id": "call00000", "type": "function", "function": {"name": "read_file", "arguments": '{"path": "a.py"}'}},
            {"id": "call00001", "type": "function", "function": {"name": "list_files", "arguments": "{}"}},
        ],
    }


async def test_a_plain_reply_carries_nothing_but_its_content():
    assert (await ask(Answer("Hello"))).message == '{"role":"assistant","content":"Hello"}'


async def test_cached_tokens_are_read():
    async with serve(Answer("x")) as server, client(server) as model:
        first = await model.chat([SYSTEM, USER])
        second = await model.chat([SYSTEM, USER])
    assert first.usage.cached_tokens == 0
    assert second.usage.cached_tokens == second.usage.prompt_tokens - 1


async def test_usage_may_be_absent():
    assert (await ask(Answer("x", usage=False))).usage.prompt_tokens == 0


async def test_text_is_told_as_it_comes():
    told: list[str] = []
    async with serve(Answer("one two three four", reasoning="hm", chunk=4)) as server, client(server) as model:
        await model.chat([USER], on_text=told.append)
    assert told == ["one ", "two ", "thre", "e fo", "ur"]


async def test_ids_go_on_over_the_conversation():
    async with serve(Answer(tool_calls=(READ, READ))) as server, client(server) as model:
        first = await model.chat([USER])
        second = await model.chat([USER, first.message])
    assert [call.id for call in first.tool_calls + second.tool_calls] == [f"call0000{n}" for n in range(4)]


async def test_a_call_lost_in_the_text_is_recovered_when_its_tool_is_known():
    text = f"Look:\n<tool_call>\n{json.dumps({'name': READ[0], 'arguments': READ[1]})}\n</tool_call>"
    reply = await ask(Answer(text))
    assert (reply.content, reply.finish_reason) == ("Look:", "tool_calls")
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [READ]
    assert json.loads(reply.message)["tool_calls"][0]["id"] == "call00000"
    assert (await ask(Answer(text), tools=None)).content == text


async def test_thoughts_left_in_the_text_are_split_off():
    reply = await ask(Answer("<think>hm</think>Hello"))
    assert (reply.content, reply.reasoning) == ("Hello", "hm")
    assert json.loads(reply.message)["reasoning_content"] == "hm"


async def test_a_call_lost_in_thoughts_is_recovered_when_nothing_else_was_said():
    text = f"hm\n<tool_call>{json.dumps({'name': READ[0], 'arguments': READ[1]})}</tool_call>"
    assert len((await ask(Answer(reasoning=text))).tool_calls) == 1
    assert not (await ask(Answer("No.", reasoning=text))).tool_calls


async def test_json_that_was_asked_for_is_not_taken_for_a_lost_call():
    text = json.dumps({"name": READ[0], "arguments": READ[1]})
    async with serve(Answer(text)) as server, client(server) as model:
        reply = await model.chat([USER], tools=TOOLS, response_format={"type": "json_object"})
    assert (reply.content, reply.tool_calls) == (text, ())


async def test_broken_arguments_come_with_a_sentence_and_can_be_sent_again():
    reply = await ask(Answer(tool_calls=(("read_file", '{"path": "a'),)))
    assert reply.tool_calls[0].arguments is None
    assert "JSON object" in reply.tool_calls[0].problem
    assert json.loads(json.loads(reply.message)["tool_calls"][0]["function"]["arguments"])


async def test_only_the_last_call_of_a_reply_that_ran_into_its_limit_is_doubted():
    calls = (("read_file", '{"path": "a",}'), ("read_file", '{"path": "b"'))
    reply = await ask(Answer(tool_calls=calls, finish_reason="length"))
    assert reply.finish_reason == "length"
    assert reply.tool_calls[0].arguments == {"path": "a"}
    assert "token limit" in reply.tool_calls[1].problem


async def test_an_empty_reply_is_passed_on():
    reply = await ask(Answer())
    assert (reply.content, reply.tool_calls, reply.finish_reason) == ("", (), "stop")


def said(text: str, finish_reason: str | None = None) -> dict:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}]}


@pytest.mark.parametrize(
    "events",
    [
        (said("Hello", "stop"),),
        (said("Hello"), "[DONE]"),
        (b": keep-alive\n\n", said("Hello", "stop"), b": keep-alive\n\n", "[DONE]"),
        (said("Hello", "stop"), {"choices": [], "usage": None}, "[DONE]", "not even JSON"),
        (b'data: {"choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": "stop"}]}',),
    ],
    ids=["no DONE", "no finish_reason", "comments", "null usage", "no last blank line"],
)
async def test_streams_of_other_servers_are_understood(events):
    reply = await ask(Answer(events=events), patience_seconds=0)
    assert (reply.content, reply.finish_reason) == ("Hello", "stop")


async def test_a_server_that_ignores_stream_is_understood():
    body = json.dumps({"choices": [{"index": 0, "message": {"content": "Hello"}, "finish_reason": "stop"}]})
    assert (await ask(Answer(body=body))).content == "Hello"


async def test_a_stream_that_is_declared_json_is_understood():
    body = f"data: {json.dumps(said('Hello', 'stop'))}\n\ndata: [DONE]\n\n"
    assert (await ask(Answer(body=body))).content == "Hello"


async def test_a_connection_is_used_again():
    async with serve(Answer("x")) as server, client(server) as model:
        connections = set()
        for _ in range(3):
            await model.chat([USER])
            connections |= server._tasks
    assert len(connections) == 1


async def test_a_stream_without_end_is_cut_off():
    async with serve(Answer(fault="endless")) as server, client(server) as model:
        reply = await model.chat([USER], max_tokens=1)
        await server.until(lambda: server.requests[0].disconnected is not None)
    assert reply.finish_reason == "length"
    assert set(reply.content) == {" "}


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_reply_larger_than_the_cap_is_refused_or_cut_off(streaming, monkeypatch):
    monkeypatch.setattr("nightcrew.llm.endpoint.REPLY_CAP", 10_000)
    monkeypatch.setattr("nightcrew.llm.wire.REPLY_CAP", 10_000)
    error = await error_of(Answer("x" * 300_000, chunk=300_000), stream=streaming)
    assert isinstance(error, EndpointRefused)


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_bare_prompt_is_gone_on_with(streaming):
    async with serve(Answer("return 1")) as server, client(server, stream=streaming) as model:
        completion = await model.complete("def f():", max_tokens=48, stop=["\n\n"], seed=7)
    assert (completion.text, completion.finish_reason) == ("return 1", "stop")
    assert completion.usage.prompt_tokens == 2 and completion.seconds > 0
    sent = server.requests[0].json
    assert server.requests[0].path == "/v1/completions"
    assert {key: sent[key] for key in ("prompt", "max_tokens", "stop", "seed", "temperature")} == {
        "prompt": "def f():",
        "max_tokens": 48,
        "stop": ["\n\n"],
        "seed": 7,
        "temperature": 0.0,
    }


# What may pass


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(
    "failure", [408, 409, 425, 429, 500, 503, "cut", "end_early", "malformed", "error_in_stream", "hang_up", "html"]
)
async def test_what_may_pass_is_tried_again(failure, streaming):
    sleeps, told = Sleeps(), []
    server = serve(Answer("Hello, you there"), fail_first=[failure, failure])
    async with server, client(server, sleep=sleeps, stream=streaming) as model:
        reply = await model.chat([USER], on_wait=told.append)
    assert reply.content == "Hello, you there"
    assert len(server.requests) == 3
    assert len(told) == len(sleeps.seconds) == 2
    assert sleeps.seconds[0] < sleeps.seconds[1]
    assert all(line.startswith(f"{server.url}: ") and ", next try in " in line for line in told)


async def test_a_refused_connection_is_waited_for_and_then_named():
    url, told = f"http://127.0.0.1:{closed_port()}/v1", []
    async with client(url, patience_seconds=20) as model:
        with pytest.raises(EndpointDown) as caught:
            await model.chat([USER], on_wait=told.append)
    assert told[0].startswith(f"{url}: connection refused, next try in 1 s")
    text = str(caught.value)
    assert text.startswith(f"{url}: connection refused (given up after ")
    assert "base_url" in text and "20 s" in text


async def test_without_patience_there_is_one_try():
    async with serve(Answer("x"), fail_first=[503]) as server, client(server, patience_seconds=0) as model:
        with pytest.raises(EndpointDown, match="one try"):
            await model.chat([USER])
    assert len(server.requests) == 1


async def test_the_endpoint_says_how_long_to_wait():
    answers = iter([Answer(status=429, headers={"Retry-After": "3"}), Answer("x")])
    sleeps = Sleeps()
    async with serve(lambda _: next(answers)) as server, client(server, sleep=sleeps) as model:
        await model.chat([USER])
    assert sleeps.seconds == [3.0]


async def test_an_endpoint_that_asks_to_wait_beyond_patience_is_given_up_at_once():
    sleeps = Sleeps()
    server = serve(Answer(status=429, headers={"Retry-After": "3600"}))
    async with server, client(server, sleep=sleeps) as model:
        with pytest.raises(EndpointDown, match="asks to wait 3600 s"):
            await model.chat([USER])
    assert sleeps.seconds == []


async def test_what_is_no_api_at_all_is_not_asked_for_ever():
    async with serve(Answer(fault="html")) as server, client(server, patience_seconds=10_000) as model:
        with pytest.raises(EndpointDown, match=r"text/html.*It works.*base_url"):
            await model.chat([USER])
    assert len(server.requests) == 4


async def test_no_token_in_time_is_tried_again():
    server = serve(Answer("x"), fail_first=["hang"])
    async with server, client(server, first_token_seconds=0.2) as model:
        told: list[str] = []
        assert (await model.chat([USER], on_wait=told.append)).content == "x"
    assert "no token within 0.2 s" in told[0]
    assert server.requests[0].disconnected is not None


async def test_an_empty_first_piece_does_not_end_the_wait_for_a_token():
    server = serve(Answer("x"), fail_first=["stall"])
    server._answer = lambda _: Answer("x", after=1)
    async with server, client(server, first_token_seconds=0.3, idle_seconds=0.01) as model:
        told: list[str] = []
        await model.chat([USER], on_wait=told.append)
        await server.until(lambda: server.requests[0].disconnected is not None)
    assert "no token within 0.3 s" in told[0]
    assert server.requests[0].disconnected - server.requests[0].received > 0.2


async def test_keep_alive_comments_do_not_extend_a_wait():
    comments = tuple(b": still here\n\n" for _ in range(200))
    answers = iter([Answer(events=comments, pause=0.02), Answer("x")])
    told: list[str] = []
    async with serve(lambda _: next(answers)) as server, client(server, first_token_seconds=0.3) as model:
        assert (await model.chat([USER], on_wait=told.append)).content == "x"
    assert "no token within 0.3 s" in told[0]


async def test_a_stream_that_stands_still_is_tried_again():
    server = serve(Answer("Hello, you there"), fail_first=["stall"])
    async with server, client(server, idle_seconds=0.2) as model:
        told: list[str] = []
        assert (await model.chat([USER], on_wait=told.append)).content == "Hello, you there"
    assert "stood still for 0.2 s" in told[0]


async def test_a_slow_stream_is_fine_while_it_moves():
    reply = await ask(Answer("a b c d e f", chunk=1, pause=0.05), first_token_seconds=0.4, idle_seconds=0.4)
    assert reply.content == "a b c d e f"


async def test_a_server_that_does_not_end_its_stream_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("nightcrew.llm.endpoint.USAGE_SECONDS", 0.1)
    reply = await ask(Answer(events=(said("Hello", "stop"), said("")), fault="stall", after=1))
    assert reply.content == "Hello"


async def test_an_aborted_request_is_tried_again():
    answers = iter([Answer("Hel", finish_reason="abort"), Answer("Hello")])
    async with serve(lambda _: next(answers)) as server, client(server) as model:
        assert (await model.chat([USER])).content == "Hello"


# What will not pass


@pytest.mark.parametrize(
    "sentence",
    [
        "The input (40000 tokens) is longer than the model's context length (32768 tokens).",
        "Requested token count exceeds the model's maximum context length of 32768 tokens.",
        "Input length (40000 tokens) exceeds the maximum allowed length (32763 tokens).",
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.",
        "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
        "request (13392 tokens) exceeds the available context size (8192 tokens), try increasing it",
        "Context size has been exceeded.",
        "input length exceeds maximum context length",
        "the input length exceeds the context length",
        "Trying to keep the first 9000 tokens when context the overflows. However, the model is loaded with context "
        "length of only 4096 tokens, which is not enough",
        "Prompt contains 40000 tokens, too large for model with 32768 maximum context length",
        "context_length_exceeded",
    ],
)
async def test_a_prompt_that_is_too_long_is_an_overflow(sentence):
    for answer in (Answer(status=400, error=sentence), Answer(fault="error_in_stream", error=sentence)):
        error = await error_of(answer)
        assert isinstance(error, ContextOverflow)
        assert sentence[:40] in str(error)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_names_where_the_key_comes_from(status):
    assert "api_key_env = 'MY_KEY'" in str(await error_of(Answer(status=status), api_key_env="MY_KEY"))
    assert "api_key_file = '/run/key'" in str(await error_of(Answer(status=status), api_key_file="/run/key"))
    error = await error_of(Answer(status=status))
    assert isinstance(error, EndpointRefused) and "set api_key_env or api_key_file" in str(error)


async def test_an_unknown_model_is_refused_with_the_models_there():
    async with serve(Answer("x"), models=["qwen", "devstral"]) as server, client(server, model="gpt") as model:
        with pytest.raises(EndpointRefused, match="does not have the model 'gpt'; it has: qwen, devstral"):
            await model.chat([USER])


async def test_a_model_that_the_endpoint_no_longer_has_is_looked_up_again():
    async with serve(Answer("x"), models=["old"]) as server, client(server, model="") as model:
        await model.chat([USER])
        server.models[:] = ["new"]
        with pytest.raises(EndpointRefused, match="it has: new"):
            await model.chat([USER])
        assert (await model.chat([USER])).model == "new"


async def test_an_endpoint_without_models_is_refused():
    async with serve(Answer("x"), models=[]) as server, client(server, model="") as model:
        with pytest.raises(EndpointRefused, match="lists no models"):
            await model.chat([USER])


@pytest.mark.parametrize("name", ["scripted", ""])
async def test_an_address_without_the_api_is_refused(name):
    async with serve(Answer("x")) as server, client(server.url.removesuffix("/v1"), model=name) as model:
        with pytest.raises(EndpointRefused, match="with its /v1"):
            await model.chat([USER])


async def test_another_refusal_quotes_the_server_and_not_too_much_of_it():
    error = await error_of(Answer(status=422, error="bad\n\x1b[31mfield " + "x" * 5000))
    assert isinstance(error, EndpointRefused)
    assert "422: bad ?[31mfield xxx" in str(error)
    assert len(str(error)) < 700


async def test_a_redirect_is_not_followed():
    error = await error_of(Answer(status=307, headers={"Location": "http://elsewhere/v1"}))
    assert isinstance(error, EndpointRefused) and "redirects to http://elsewhere/v1" in str(error)


async def test_no_secret_stands_in_an_error():
    told: list[str] = []
    server = serve(lambda _: Answer(status=503, error=f"the key {SECRET} is known and so is hunter2"))
    async with server:
        url = server.url.replace("http://", "http://user:hunter3@")
        async with client(url, api_key=SECRET) as model:
            with pytest.raises(EndpointDown) as caught:
                await model.chat([USER], on_wait=told.append)
            shown = "".join(traceback.format_exception(caught.value)) + repr(model) + "".join(told) + model.url
    assert SECRET not in shown and "hunter3" not in shown
    assert "the key *** is known" in shown


async def test_user_and_password_of_the_address_are_used():
    async with serve(Answer("x")) as server:
        async with client(server.url.replace("http://", "http://user:pass@")) as model:
            await model.chat([USER])
        assert server.requests[0].headers["authorization"].startswith("Basic ")


@pytest.mark.parametrize("key", ["two words", "line\nend", "ключ"])
async def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(key):
    with pytest.raises(ConfigError) as caught:
        client("http://127.0.0.1:1/v1", api_key=key, api_key_env="MY_KEY")
    assert "MY_KEY" in str(caught.value) and key not in str(caught.value)


@pytest.mark.parametrize("url", ["http://", "http://a:b:c/v1", "http://host:99999/v1"])
async def test_an_impossible_address_is_a_configuration_error(url):
    with pytest.raises(ConfigError, match="base_url"):
        client(url)


# Cancelling


@pytest.mark.parametrize("answer", [Answer(fault="hang"), Answer(fault="stall"), Answer(fault="endless", pause=0.01)])
@pytest.mark.parametrize("streaming", [True, False])
async def test_cancelling_closes_the_connection(answer, streaming):
    async with serve(answer) as server, client(server, stream=streaming) as model:
        async with anyio.create_task_group() as group:
            group.start_soon(model.chat, [USER])
            await server.until(lambda: bool(server.requests))
            if streaming and answer.fault != "hang":
                await server.until(lambda: server.requests[0].first_byte is not None)
            group.cancel_scope.cancel()
        await server.until(lambda: server.requests[0].disconnected is not None)


async def test_cancelling_a_plain_asyncio_task_closes_the_connection():
    async with serve(Answer(fault="stall")) as server, client(server) as model:
        task = asyncio.ensure_future(model.chat([USER]))
        await server.until(lambda: bool(server.requests))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.until(lambda: server.requests[0].disconnected is not None)


async def test_a_wait_between_tries_can_be_cancelled():
    async with client(f"http://127.0.0.1:{closed_port()}/v1", sleep=anyio.sleep) as model:
        waiting = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: model.chat([USER], on_wait=lambda _: waiting.set()))
            await waiting.wait()
            group.cancel_scope.cancel()


async def test_several_conversations_share_one_client():
    async with serve(lambda request: Answer(request["messages"][0]["content"])) as server, client(server) as model:
        replies: list[str] = []

        async def talk(word: str) -> None:
            replies.append((await model.chat([json.dumps({"role": "user", "content": word})])).content)

        async with anyio.create_task_group() as group:
            for word in "abcdefgh":
                group.start_soon(talk, word)
    assert sorted(replies) == list("abcdefgh")
