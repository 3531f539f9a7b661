"""What a started SGLang says of its memory in its log, beside what was planned. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

GB = 2**30
"""SGLang prints GiB and calls them GB."""

_NUMBER = r"(-?[\d.]+)"
_PATTERNS = {
    "free_before_weights_gib": rf"Load weight begin\. avail mem={_NUMBER} GB",
    "load_seconds": rf"Load weight end\. elapsed={_NUMBER} s",
    "weights_gib": rf"Load weight end\..*mem usage={_NUMBER} GB",
    "pool_tokens": r"KV Cache is allocated\..*#tokens: (\d+)",
    "k_gib": rf"KV Cache is allocated\..*K size: {_NUMBER} GB",
    "v_gib": rf"KV Cache is allocated\..*V size: {_NUMBER} GB",
    "free_after_pool_gib": rf"Memory pool end\. avail mem={_NUMBER} GB",
    "context_tokens": r"max_total_num_tokens=\d+.*context_len=(\d+)",
    "free_at_end_gib": rf"max_total_num_tokens=\d+.*available_(?:gpu|cpu)_mem={_NUMBER} GB",
}


def read_log(text: str) -> dict[str, float]:
    """The last of each figure in the log of one start; those that it lacks are left out."""
    found: dict[str, float] = {}
    for name, pattern in _PATTERNS.items():
        if matches := re.findall(pattern, text):
            found[name] = float(matches[-1])
    return found


@dataclass(frozen=True)
class Line:
    """One figure, planned and seen."""

    what: str
    planned: float
    seen: float | None

    @property
    def off(self) -> str:
        """How far the plan was off, in percent of what was seen."""
        if self.seen is None or not self.seen:
            return "not seen"
        return f"{100 * (self.planned - self.seen) / self.seen:+.1f} %"


def compare(planned: Mapping[str, float], seen: Mapping[str, float]) -> list[Line]:
    """The plan's figures beside the server's. `planned` has weights_gib, kv_gib, pool_tokens, runtime_gib and
    context_tokens."""
    kv = seen["k_gib"] + seen["v_gib"] if {"k_gib", "v_gib"} <= seen.keys() else None
    runtime = None
    if {"free_after_pool_gib", "free_in_use_gib"} <= seen.keys():
        runtime = seen["free_after_pool_gib"] - seen["free_in_use_gib"]
    return [
        Line("weights, GiB", planned["weights_gib"], seen.get("weights_gib")),
        Line("KV cache, GiB", planned["kv_gib"], kv),
        Line("KV cache, tokens", planned["pool_tokens"], seen.get("pool_tokens")),
        Line("context, tokens", planned["context_tokens"], seen.get("context_tokens")),
        Line("taken after the pool, GiB", planned["runtime_gib"], runtime),
    ]


def table(lines: list[Line]) -> str:
    """Markdown."""
    rows = ["| | planned | seen | plan off by |", "| --- | --- | --- | --- |"]
    for line in lines:
        seen = "not seen" if line.seen is None else f"{line.seen:,.2f}"
        rows.append(f"| {line.what} | {line.planned:,.2f} | {seen} | {line.off} |")
    return "\n".join(rows)
