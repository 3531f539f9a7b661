"""What a running SGLang server says of itself: ready or not, its real sizes, its metrics; and its first long prompt."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import anyio
import httpx2

ASK_SECONDS = 10.0
WARM_UP_SECONDS = 900.0
"""Of one prompt of the maximum length."""

METRICS = (
    "num_running_reqs",
    "num_queue_reqs",
    "token_usage",
    "prompt_tokens_total",
    "cached_tokens_total",
    "generation_tokens_total",
)
"""Those that are read, without their prefix `sglang:`. The rate of cache hits is cached over prompt tokens: the
gauge of that name reads 0 while the server is idle."""

_METRIC = re.compile(r"^sglang:(?P<name>\w+)(?:\{(?P<labels>[^}]*)\})?\s+(?P<value>[-+.\deE]+|NaN)\s*$", re.MULTILINE)
_OF_A_PRIORITY = re.compile(r'priority="[^"]')


@dataclass(frozen=True)
class Facts:
    """What a server really has, beside what it was planned with."""

    version: str
    models: tuple[str, ...]
    context_tokens: int
    pool_tokens: int
    """In the KV cache."""
    request_tokens: int
    """A prompt must be shorter than that."""
    priority: bool
    cache_report: bool

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt that it takes: its own limit is one that it refuses itself."""
        return max(1, min(self.request_tokens, self.pool_tokens) - 1)


class NotServing(Exception):
    """It does not answer, or not as a server does that can be used; says what was seen. `refused`: it answered that it
    will not, and will say the same again."""

    def __init__(self, seen: str, *, refused: bool = False) -> None:
        super().__init__(seen)
        self.refused = refused


class Probe:
    """Asks one server. Use as an async context manager, or call `aclose`."""

    def __init__(self, address: str, *, kind: Literal["chat", "embedding"] = "chat") -> None:
        self._kind = kind
        self._http = httpx2.AsyncClient(base_url=address, trust_env=False, timeout=ASK_SECONDS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def ready(self) -> bool:
        """Whether it takes requests. `/health` would make it generate a token each time."""
        try:
            return (await self._http.get("/ready")).status_code == 200
        except httpx2.HTTPError:
            return False

    async def until_ready(self, poll: float) -> None:
        """Ask every `poll` seconds, without an end."""
        while not await self.ready():  # noqa: ASYNC110 - another process's readiness sets no event here
            await anyio.sleep(poll)

    async def facts(self) -> Facts:
        """Raises `NotServing`."""
        info = await self._json("/server_info")
        listed = await self._json("/v1/models")
        entries = cast("list[dict[str, Any]]", listed.get("data") or [])
        states = cast("list[dict[str, Any]]", info.get("internal_states") or [{}])
        pool = int(info.get("max_total_num_tokens") or states[0].get("max_total_num_tokens") or 0)
        context = max((int(entry.get("max_model_len") or 0) for entry in entries), default=0)
        # SGLang keeps a few tokens for itself; where it does not say how many, 16 fewer are surely taken.
        longest = int(info.get("max_req_input_len") or max(1, min(context, pool) - 16))
        return Facts(
            version=str(info.get("version") or ""),
            models=tuple(str(entry.get("id")) for entry in entries),
            context_tokens=context,
            pool_tokens=pool,
            request_tokens=longest,
            priority=bool(info.get("enable_priority_scheduling")),
            cache_report=bool(info.get("enable_cache_report")),
        )

    async def warm_up(self, tokens: int) -> float:
        """Send one prompt of so many tokens; returns its seconds. Whatever the server allocates for its longest prompt
        it has then, so that the next server on the card finds what is really left. Raises `NotServing`."""
        ids = [100 + number % 1000 for number in range(tokens)]
        started = time.monotonic()
        if self._kind == "embedding":
            await self._post("/v1/embeddings", {"model": "warm-up", "input": ids})
        else:
            sampling = {"max_new_tokens": 1, "temperature": 0.0}
            await self._post("/generate", {"input_ids": ids, "sampling_params": sampling})
        seconds = time.monotonic() - started
        # What it leaves in the cache is nobody's prefix.
        await self._post("/flush_cache", {})
        return seconds

    async def metrics(self) -> dict[str, float]:
        """Those of `METRICS` that it has, summed over their labels. Raises `NotServing`."""
        try:
            response = await self._http.get("/metrics", follow_redirects=True)
        except httpx2.HTTPError as error:
            raise NotServing(f"/metrics: {type(error).__name__}") from error
        return read_metrics(response.text) if response.is_success else {}

    async def _json(self, path: str) -> Mapping[str, Any]:
        try:
            response = await self._http.get(path)
            value: Any = response.json()
        except (httpx2.HTTPError, ValueError) as error:
            raise NotServing(f"{path}: {type(error).__name__}") from error
        if not response.is_success or not isinstance(value, dict):
            raise NotServing(f"{path} answered {response.status_code}")
        return cast("Mapping[str, Any]", value)

    async def _post(self, path: str, body: Mapping[str, Any]) -> None:
        try:
            response = await self._http.post(path, json=body, timeout=WARM_UP_SECONDS)
        except httpx2.HTTPError as error:
            raise NotServing(f"{path}: {type(error).__name__}") from error
        if not response.is_success:
            refused = 400 <= response.status_code < 500
            raise NotServing(f"{path} answered {response.status_code}: {response.text[:300]}", refused=refused)


def read_metrics(text: str) -> dict[str, float]:
    """Values of `METRICS` in Prometheus' text format, summed over their labels; absent ones are left out.

    With priorities on, gauges of requests come once as a total (`priority=""`) and once for each priority beside it;
    counters come for each priority alone.
    """
    found: dict[str, float] = {}
    for match in _METRIC.finditer(text):
        part = not match["name"].endswith("_total") and _OF_A_PRIORITY.search(match["labels"] or "")
        if (name := match["name"]) in METRICS and match["value"] != "NaN" and not part:
            found[name] = found.get(name, 0.0) + float(match["value"])
    return found


def hit_rate(metrics: Mapping[str, float]) -> float | None:
    """Cached share of all prompt tokens so far; None where there were none."""
    prompt = metrics.get("prompt_tokens_total", 0.0)
    return metrics.get("cached_tokens_total", 0.0) / prompt if prompt else None
