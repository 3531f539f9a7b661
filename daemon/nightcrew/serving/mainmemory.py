"""Main memory for what the KV caches on the cards have no room for (SGLang's HiCache)."""

from __future__ import annotations

from collections.abc import Sequence

from nightcrew.serving.plan import ServerPlan

RESERVE_GIB = 16.0
"""Left to the machine: SGLang itself leaves 10 GiB alone, and each server and the boxes need some."""


def share(servers: Sequence[ServerPlan], ram_gib: float) -> list[ServerPlan]:
    """Share main memory out by the size of the KV caches.

    A server gets some only when that is more than its cache on the card: with less, SGLang warns that it does not help.
    Servers of embedding models get none, since they hold no conversation.
    """
    takers = [server for server in servers if server.card.kind == "chat"]
    while takers:
        whole = sum(_cache_gib(server) for server in takers)
        ratio = (ram_gib - RESERVE_GIB) / whole
        if ratio > 1:
            # Of each card's process, in whole GiB: SGLang takes whole gigabytes.
            sizes = {server.port: float(int(server.arithmetic.kv_gib * ratio)) for server in takers}
            return [server.model_copy(update={"hicache_gib": sizes.get(server.port)}) for server in servers]
        takers.remove(max(takers, key=_cache_gib))
    return list(servers)


def _cache_gib(server: ServerPlan) -> float:
    """Of all its cards."""
    return server.arithmetic.kv_gib * server.tp
