"""Which model servers run on this machine."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack

import pytest

from fakes.scripted_server import Answer, ScriptedServer
from nightcrew.llm.discovery import USUAL_PORTS, Found, describe, discover

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]


def port_of(server: ScriptedServer) -> int:
    return int(server.url.split(":")[2].split("/")[0])


def nothing(_: dict) -> Answer:
    return Answer()


async def test_servers_are_found_in_the_usual_order_and_the_rest_passed_over(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n<html>hello>")
        writer.close()

    async def garbled(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail ready\r\n")
        writer.close()

    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(ScriptedServer(nothing, models=["nomic-embed-text", "qwen3"]))
        two = await stack.enter_async_context(ScriptedServer(nothing, models=["devstral"]))
        embedder = await stack.enter_async_context(ScriptedServer(nothing, models=["bge-m3"]))
        locked = await stack.enter_async_context(ScriptedServer(nothing, api_key="k"))
        others = [await asyncio.start_server(handler, "127.0.0.1", 0) for handler in (silent, rude, garbled)]
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            ports = {"A": port_of(two), "B": port_of(one), "C": port_of(embedder), "D": port_of(locked)}
            ports |= {f"E{number}": other.sockets[0].getsockname()[1] for number, other in enumerate(others)}
            ports |= {"F": closed.getsockname()[1]}
            found = await discover(ports=ports)
        for other in others:
            other.close()
    assert found == [Found("A", two.url, ("devstral",)), Found("B", one.url, ("qwen3",))]


async def test_a_host_that_does_not_exist_finds_nothing():
    assert await discover(ports={"A": 1}, host="no such host") == []


async def test_the_usual_ports_are_looked_at():
    assert dict(USUAL_PORTS) == {"SGLang": 30000, "vLLM": 8000, "llama.cpp": 8080, "Ollama": 11434, "LM Studio": 1234}


async def test_a_find_is_described_in_one_harmless_line():
    found = Found("vLLM", "http://127.0.0.1:8000/v1", ("qwen\x1b[2J", "b", "c"))
    assert describe(found) == "vLLM at http://127.0.0.1:8000/v1: qwen?[2J and 2 more"
    assert describe(Found("X", "u", ("a",))) == "X at u: a"
