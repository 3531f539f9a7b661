"""Which model servers run on this machine, by the ports they usually have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import anyio
import httpx2

from nightcrew.llm.endpoint import chat_models, open_http, read_some
from nightcrew.llm.wire import as_list, as_object, as_text

USUAL_PORTS: Mapping[str, int] = MappingProxyType(
    {"SGLang": 30000, "vLLM": 8000, "llama.cpp": 8080, "Ollama": 11434, "LM Studio": 1234}
)
LOOK_SECONDS = 1.0
LIST_CAP = 1024 * 1024


@dataclass(frozen=True)
class Found:
    """A server that lists chat models. `name` is whose usual port it has, which proves nothing."""

    name: str
    base_url: str
    models: tuple[str, ...]


async def discover(*, ports: Mapping[str, int] = USUAL_PORTS, host: str = "127.0.0.1") -> list[Found]:
    """Every server that lists at least one chat model, in the order of `ports`; looks for a second, never raises."""
    found: dict[str, Found] = {}

    async def look(name: str, base_url: str) -> None:
        if models := await _chat_models_at(base_url):
            found[name] = Found(name, base_url, models)

    async with anyio.create_task_group() as group:
        for name, port in ports.items():
            group.start_soon(look, name, f"http://{host}:{port}/v1")
    return [found[name] for name in ports if name in found]


def describe(found: Found) -> str:
    """One line for people."""
    first, *others = found.models
    more = f" and {len(others)} more" if others else ""
    # A stranger may have chosen the name: nothing that a terminal would obey gets through.
    shown = "".join(char if char.isprintable() else "?" for char in first)[:100]
    return f"{found.name} at {found.base_url}: {shown}{more}"


async def _chat_models_at(base_url: str) -> tuple[str, ...]:
    body = b""
    with anyio.move_on_after(LOOK_SECONDS):
        try:
            async with open_http(base_url) as http, http.stream("GET", f"{base_url}/models") as response:
                body = await read_some(response, LIST_CAP) if response.is_success else b""
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError):
            return ()
    try:
        payload = as_object(json.loads(body))
    except (ValueError, RecursionError):
        return ()
    names = [as_text(as_object(entry).get("id")) for entry in as_list(payload.get("data"))]
    return tuple(chat_models([name for name in names if name]))
