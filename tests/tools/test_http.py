from __future__ import annotations

import json
import socket
from contextlib import asynccontextmanager

import anyio
import httpx2
import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

from fakes.gateway import FakeGateway
from nightcrew_tools import http, listen
from nightcrew_tools.address import Address, UnsafeAddress, check_address, parse_address
from nightcrew_tools.grants import Grants
from nightcrew_tools.http import DoorLimits, http_app
from nightcrew_tools.session import Offer, serving_http
from nightcrew_tools.tokens import read_tokens

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]

ERAS = pytest.mark.parametrize("mode", ["2026-07-28", "legacy"])
LOCAL = Address("127.0.0.1", 0)
FULL, LOOKER, WATCHER = "full-token-0123456789", "looker-token-0123456789", "watcher-token-0123456789"
CALL = {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {}}
HEADERS = {"content-type": "application/json", "accept": "application/json, text/event-stream"}


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"# who may come in\n{FULL}\n\n{LOOKER} read-only looker\n{WATCHER} tasks-only watcher\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def offer(tmp_path):
    return Offer(Grants(frozenset({"tasks"})), gateway=FakeGateway(), audit=tmp_path / "audit.jsonl")


@asynccontextmanager
async def serving(offer, tokens=None, limits=None, monkeypatch=None):
    if limits is not None:
        monkeypatch.setattr(http, "DoorLimits", lambda: limits)
    async with serving_http(offer, LOCAL, tokens) as port:
        yield f"http://127.0.0.1:{port}/mcp"


@asynccontextmanager
async def connected(url, token, mode):
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=20) as http_client,
        Client(streamable_http_client(url, http_client=http_client), mode=mode) as client,
    ):
        yield client


async def names(client) -> set[str]:
    return {tool.name for tool in (await client.list_tools()).tools}


@ERAS
async def test_a_client_with_a_token_calls_tools(offer, token_file, mode):
    async with serving(offer, read_tokens(token_file)) as url, connected(url, FULL, mode) as client:
        result = await client.call_tool("task_submit", {"text": "Do it", "repo": "/srv/shop"})
        assert not result.is_error
        assert offer.gateway.requests[0][0].repo == "/srv/shop"


@ERAS
async def test_a_tokens_scope_decides_which_tools_there_are(offer, token_file, mode):
    async with serving(offer, read_tokens(token_file)) as url:
        async with connected(url, FULL, mode) as client:
            everything = await names(client)
        async with connected(url, LOOKER, mode) as client:
            reading = await names(client)
            refused = await client.call_tool("task_submit", {"text": "Do it", "repo": "/srv/shop"})
        async with connected(url, WATCHER, mode) as client:
            tasks = await names(client)
    assert {"task_submit", "task_list"} <= everything
    assert "task_list" in reading
    assert "task_submit" not in reading
    assert refused.is_error
    assert "error[unknown_tool]" in refused.content[0].text
    assert tasks == everything
    assert offer.gateway.requests == []


@pytest.mark.parametrize(
    "authorization",
    [None, "Bearer", "Bearer wrong-token-0123456789", f"Basic {FULL}", FULL, f"Bearer {FULL}x", f"Bearer {FULL[:-1]}"],
)
async def test_without_a_known_token_nobody_comes_in(offer, token_file, authorization):
    headers = HEADERS | ({"authorization": authorization} if authorization is not None else {})
    async with serving(offer, read_tokens(token_file)) as url, httpx2.AsyncClient() as client:
        answer = await client.post(url, json=CALL, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert "Authorization: Bearer TOKEN" in answer.json()["error"]


async def test_a_session_belongs_to_the_token_that_opened_it(offer, token_file):
    token_file.write_text(f"{FULL} full one\n{LOOKER} full two\n")
    opening = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "t", "version": "1"},
        },
    }
    async with serving(offer, read_tokens(token_file)) as url, httpx2.AsyncClient(headers=HEADERS) as client:
        opened = await client.post(url, json=opening, headers={"authorization": f"Bearer {FULL}"})
        session = {"mcp-session-id": opened.headers["mcp-session-id"], "mcp-protocol-version": "2025-11-25"}
        listing = {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}}
        own = await client.post(url, json=listing, headers=session | {"authorization": f"Bearer {FULL}"})
        foreign = await client.post(url, json=listing, headers=session | {"authorization": f"Bearer {LOOKER}"})
    assert own.status_code == 200
    assert foreign.status_code == 404


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example"]
)
async def test_other_names_than_its_own_are_refused(offer, host):
    async with serving(offer) as url, httpx2.AsyncClient() as client:
        answer = await client.post(url, json=CALL, headers=HEADERS | {"host": host})
    assert answer.status_code == 421


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost.evil.example", "null"])
async def test_pages_of_other_sites_are_refused(offer, origin):
    async with serving(offer) as url, httpx2.AsyncClient() as client:
        answer = await client.post(url, json=CALL, headers=HEADERS | {"origin": origin})
    assert answer.status_code == 403


async def test_a_request_that_is_too_large_is_refused_before_it_is_read(offer, monkeypatch):
    limits = DoorLimits(request_bytes=2000)
    async with serving(offer, limits=limits, monkeypatch=monkeypatch) as url, httpx2.AsyncClient() as client:
        answer = await client.post(url, json=CALL | {"params": {"x": "y" * 3000}}, headers=HEADERS)
    assert answer.status_code == 413


async def test_too_many_requests_are_told_to_wait(offer, monkeypatch):
    limits = DoorLimits(burst=3, requests_per_second=0.001)
    async with serving(offer, limits=limits, monkeypatch=monkeypatch) as url, httpx2.AsyncClient() as client:
        codes = [(await client.post(url, json=CALL, headers=HEADERS)).status_code for _ in range(5)]
    assert 429 not in codes[:3]
    assert codes[3:] == [429, 429]


async def test_a_rate_is_each_tokens_own(offer, token_file, monkeypatch):
    limits = DoorLimits(burst=1, requests_per_second=0.001)
    async with (
        serving(offer, read_tokens(token_file), limits, monkeypatch) as url,
        httpx2.AsyncClient(headers=HEADERS) as client,
    ):

        async def ask(token: str) -> int:
            return (await client.post(url, json=CALL, headers={"authorization": f"Bearer {token}"})).status_code

        assert await ask(FULL) != 429
        assert await ask(FULL) == 429
        assert await ask(LOOKER) != 429


async def raw(url: str) -> anyio.abc.SocketStream:
    return await anyio.connect_tcp("127.0.0.1", httpx2.URL(url).port)


async def read_to_end(stream: anyio.abc.SocketStream) -> bytes:
    received = b""
    try:
        while True:
            received += await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return received


async def test_a_head_that_comes_too_slowly_is_cut_off(offer, monkeypatch):
    monkeypatch.setattr(listen, "HEAD_SECONDS", 0.2)
    async with serving(offer) as url, await raw(url) as stream:
        await stream.send(b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        with anyio.fail_after(10):
            await read_to_end(stream)


async def test_a_body_that_comes_too_slowly_is_cut_off(offer, monkeypatch):
    limits = DoorLimits(arrival_seconds=0.2)
    lines = ["POST /mcp HTTP/1.1", "Host: 127.0.0.1", "Content-Length: 100", "Content-Type: application/json"]
    async with serving(offer, limits=limits, monkeypatch=monkeypatch) as url, await raw(url) as stream:
        await stream.send(("\r\n".join([*lines, "Accept: application/json, text/event-stream", "", "{"])).encode())
        with anyio.fail_after(10):
            assert b" 408 " in await read_to_end(stream)


async def test_a_client_that_does_not_take_its_answer_is_cut_off():
    """The door's own part of it: a send that does not get through ends the request, and with it what it does."""
    ended = anyio.Event()

    async def app(scope, receive, send):
        try:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        finally:
            ended.set()

    async def stuck(message):
        await anyio.sleep_forever()

    async def nothing():
        await anyio.sleep_forever()

    door = http.Door({"full": app}, None, DoorLimits(take_seconds=0.1))
    with anyio.fail_after(5):
        await door({"type": "http", "headers": []}, nothing, stuck)
    assert ended.is_set()


async def test_every_call_is_written_down_with_its_token(offer, token_file):
    async with serving(offer, read_tokens(token_file)) as url, connected(url, WATCHER, "legacy") as client:
        await client.call_tool("task_submit", {"text": "a secret " * 50, "repo": "/srv/shop"})
        await client.call_tool("task_report", {"task": "t9"})
    lines = [json.loads(line) for line in offer.audit.read_text().splitlines()]
    assert [(line["tool"], line["code"], line["door"]) for line in lines] == [
        ("task_submit", "ok", "watcher"),
        ("task_report", "not_found", "watcher"),
    ]
    assert lines[0]["arguments"] == {"text": "[450]", "repo": "/srv/shop"}
    assert lines[0]["client"]
    assert offer.audit.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        (":8642", ("127.0.0.1", 8642)),
        ("[::1]:1", ("::1", 1)),
        ("box:9", ("box", 9)),
    ],
)
def test_an_address_is_host_and_port(text, address):
    parsed = parse_address(text)
    assert (parsed.host, parsed.port) == address


@pytest.mark.parametrize("text", ["127.0.0.1", "host:", "host:port", "host:70000", ""])
def test_what_is_no_address_is_said_so(text):
    with pytest.raises(ValueError, match="write HOST:PORT"):
        parse_address(text)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "box.example"])
def test_other_machines_come_in_with_a_token_or_not_at_all(host, token_file):
    with pytest.raises(UnsafeAddress, match="--token-file"):
        check_address(Address(host, 80), None)
    check_address(Address(host, 80, ("box.example",)), read_tokens(token_file))


def test_an_address_that_is_no_name_needs_one(token_file):
    with pytest.raises(UnsafeAddress, match="--host-name"):
        check_address(Address("0.0.0.0", 80), read_tokens(token_file))


def test_a_scope_without_a_server_is_an_error(offer, token_file):
    with pytest.raises(ValueError, match="no server for tokens of scope read-only, tasks-only"):
        http_app({"full": offer.server()}, address=LOCAL, tokens=read_tokens(token_file))


async def test_an_address_that_is_taken_is_an_os_error(offer):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        async with serving_http(offer, Address("127.0.0.1", taken.getsockname()[1]), None):
            pass
