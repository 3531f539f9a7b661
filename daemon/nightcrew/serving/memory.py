"""What a server takes of a card: pure arithmetic, units in the names, the source of each formula beside it.

GiB are 2**30 bytes. What is an estimate is called one; a measurement on a card replaces the constants here.
"""

from __future__ import annotations

import math

from nightcrew.serving.models import Checkpoint, Draft, ModelCard
from nightcrew.serving.plan import Arithmetic, KvDtype

GIB = 2**30
MIB = 2**20

KV_BYTES: dict[KvDtype, int] = {"bf16": 2, "fp8_e4m3": 1, "fp8_e5m2": 1}

PAGE_TOKENS = 64
"""Pools are rounded down to this; the largest page size that SGLang's backends ask for without being told."""
SWA_FULL_TOKENS_RATIO = 0.8
"""SGLang's default of `--swa-full-tokens-ratio`: tokens in the sliding layers' pool, of those in the full layers'."""

CONTEXT_GIB = 0.6
"""Estimate: CUDA's context, cuBLAS and NCCL on one card, before SGLang first looks at what is free."""
WORKSPACE_GIB = 0.9
"""Estimate: the attention backend's workspace (FlashInfer: 0.5 GiB), and SGLang's own 0.5 GiB for metadata, less what
they share."""
FRAGMENTS = 1.25
"""Estimate: what PyTorch's allocator holds, over what activations are alive at once."""
GRAPH_MIB_PER_REQUEST = 2.0
"""SGLang's own reserve for decode graphs, for each request in the largest captured batch (`reserve_for_graph_mb`)."""
PREFILL_GRAPH_MIB = 8.0
"""SGLang's own reserve for each captured prefill size."""
PREFILL_GRAPHS = 40
IMAGE_CACHE_GIB = 100 / 1024
"""SGLang's `SGLANG_VLM_CACHE_SIZE_MB`, which it takes off the KV cache of a model that sees."""
STATES_PER_REQUEST = 5
"""Slots for states of linear layers, for each request that runs: SGLang caps the requests by a third to a fifth of the
slots, depending on its scheduler (`_calculate_mamba_ratio`). The others hold cached prefixes."""
SAFETY_GIB = 0.25
"""Left in each server's share so that weights which are a little larger than planned do not shrink the KV cache."""


def kv_bytes_per_token(card: ModelCard, dtype: KvDtype, *, tp: int = 1, draft: Draft | None = None) -> int:
    """Of one card, for each token of the pool.

    2 × layers × KV heads × head size × bytes; for latent attention (rank + rope) × layers × bytes, on every card;
    linear layers keep nothing of a token; sliding layers whose pool is smaller count with its share. As SGLang 0.5.23
    does it in `pool_configurator.py`.
    """
    size = KV_BYTES[dtype]
    if card.latent is not None:
        return (card.latent.kv_lora_rank + card.latent.rope_head_dim) * size * card.layers
    row = 2 * size
    full = row * heads_per_card(card.kv_heads, tp) * card.head_dim
    layers = card.layers + (draft.kv_layers if draft else 0) - (card.linear.layers if card.linear else 0)
    if card.sliding is None:
        return full * layers
    window = row * heads_per_card(card.sliding.kv_heads or card.kv_heads, tp) * (card.sliding.head_dim or card.head_dim)
    share = SWA_FULL_TOKENS_RATIO if card.sliding.saves_memory else 1.0
    return math.ceil(full * (layers - card.sliding.layers) + share * window * card.sliding.layers)


def heads_per_card(kv_heads: int, tp: int) -> int:
    """Heads are split over cards, and copied where there are more cards than heads."""
    return max(1, kv_heads // tp)


def can_split(card: ModelCard, tp: int) -> bool:
    """Whether so many cards can share each layer: heads must divide, KV heads divide or be copied evenly."""
    kv = card.kv_heads
    linear = card.linear is None or (card.linear.key_heads % tp == 0 and card.linear.value_heads % tp == 0)
    return card.heads % tp == 0 and (kv % tp == 0 or tp % kv == 0) and linear


def weights_gib(checkpoint: Checkpoint, *, tp: int = 1, draft: Draft | None = None) -> float:
    """Of one card."""
    return (checkpoint.weights_gib + (draft.weights_gib if draft else 0.0)) / tp


def activations_gib(card: ModelCard, *, chunk_tokens: int, tp: int = 1) -> float:
    """Estimate of what a prefill of `chunk_tokens` needs at its widest: the residual stream and a copy, normed input,
    and gate, up and their product of the feed-forward layer, in 16 bits; or the attention's heads where those are
    wider; and one row of logits in 32 bits for each of a few requests."""
    widest = max(3 * card.intermediate_size, 4 * card.heads * card.head_dim) / tp
    chunk_bytes = chunk_tokens * 2 * (4 * card.hidden_size + widest)
    logits_bytes = 16 * 4 * card.vocab_size
    return FRAGMENTS * (chunk_bytes + logits_bytes) / GIB


def graphs_gib(*, max_running: int) -> float:
    """SGLang's own reserve: 2 MiB for each request of the largest decode batch, 8 MiB for each prefill size."""
    return (GRAPH_MIB_PER_REQUEST * max_running + PREFILL_GRAPH_MIB * PREFILL_GRAPHS) / 1024


def request_table_gib(*, max_running: int, context_tokens: int) -> float:
    """The table from request and position to place in the pool: 4 bytes each. At SGLang's default of 2,048 requests
    it would be 1 GiB for 131,072 tokens, so `--max-running-requests` is always given."""
    return 4 * (max_running + 1) * context_tokens / GIB


def state_gib(card: ModelCard, *, slots: int, tp: int = 1) -> float:
    """States of the linear layers in so many slots, and one more for padding, as SGLang allocates them: for each layer
    value heads × key size × value size in 32 bits, and the last inputs of its convolution in 16 bits."""
    if card.linear is None:
        return 0.0
    of = card.linear
    channels = 2 * of.key_heads * of.key_dim + of.value_heads * of.value_dim
    state_bytes = 4 * of.value_heads * of.key_dim * of.value_dim + 2 * channels * (of.conv_kernel - 1)
    return (slots + 1) * of.layers * state_bytes / tp / GIB


def fixed_static_gib(card: ModelCard, *, slots: int, tp: int = 1) -> float:
    """What SGLang takes out of the static share before the KV cache gets the rest of it: states, cached images."""
    return state_gib(card, slots=slots, tp=tp) + (IMAGE_CACHE_GIB if card.vision else 0.0)


def runtime_gib(card: ModelCard, *, chunk_tokens: int, max_running: int, context_tokens: int, tp: int = 1) -> float:
    """What a server takes of a card beside weights, states, KV cache and CUDA's context."""
    return (
        WORKSPACE_GIB
        + activations_gib(card, chunk_tokens=chunk_tokens, tp=tp)
        + graphs_gib(max_running=max_running)
        + request_table_gib(max_running=max_running, context_tokens=context_tokens)
        + SAFETY_GIB
    )


def mem_fraction_static(*, static_gib: float, free_gib: float) -> float:
    """The `--mem-fraction-static` with which a server that finds `free_gib` before its weights keeps `static_gib` of
    them for weights, states and KV cache.

    SGLang takes KV = free after the weights - (1 - f) × free before them, so f = (weights + KV) / free before. Rounded
    up to a thousandth: `--max-total-tokens` keeps the pool from growing by what that adds.
    """
    return math.ceil(1000 * static_gib / free_gib - 1e-9) / 1000


def fraction_for(sums: Arithmetic, free_gib: float) -> float:
    """The fraction for a server that is started where `free_gib` are free, before CUDA's context.

    `SAFETY_GIB` of the overhead is counted as static: it is what weights may be larger than planned.
    """
    static = sums.weights_gib + sums.fixed_gib + sums.kv_gib + SAFETY_GIB
    return mem_fraction_static(static_gib=static, free_gib=free_gib - sums.context_gib)


def profiled_kv_gib(*, fraction: float, weights_gib: float, free_gib: float, fixed_gib: float = 0.0) -> float:
    """What SGLang will find for the KV cache with that fraction, where `free_gib` were free before the weights
    (`_profile_available_bytes`). `fixed_gib` is what `fixed_static_gib` says."""
    return (free_gib - weights_gib) - (1 - fraction) * free_gib - fixed_gib


def tokens_in(kv_gib: float, bytes_per_token: int) -> int:
    """Whole pages of tokens that so much KV cache holds."""
    return max(0, int(kv_gib * GIB / bytes_per_token)) // PAGE_TOKENS * PAGE_TOKENS


def kv_gib(tokens: int, bytes_per_token: int) -> float:
    return tokens * bytes_per_token / GIB
