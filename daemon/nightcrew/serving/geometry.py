"""How many parameters a model's shape has, and what they weigh: to check the catalog, and for models outside of it."""

from __future__ import annotations

from nightcrew.serving.models import Format, Latent, ModelCard

GIB = 2**30

BYTES_PER_PARAMETER: dict[Format, float] = {"bf16": 2.0, "fp8": 1.0, "int4": 0.5 + 2 / 128 + 0.5 / 128}
"""Of quantized layers. Four bits, and for each group of 128 a scale in 16 bits and a zero point in four."""


def parameters_b(card: ModelCard) -> float:
    """All parameters, in billions. Norms and biases are left out: less than a thousandth."""
    return (_layers(card) + _embeddings(card)) / 1e9 + card.extra_params_b


def active_parameters_b(card: ModelCard) -> float:
    """Those that one token uses, in billions."""
    if card.experts is None:
        return parameters_b(card)
    of = card.experts
    idle = (of.count - of.active) * 3 * of.size * card.hidden_size * (card.layers - of.dense_layers)
    return parameters_b(card) - idle / 1e9


def weights_gib(card: ModelCard, form: Format) -> float:
    """What a checkpoint of this format weighs: token tables and vision stay in 16 bits, layers are quantized."""
    whole = (_embeddings(card) + card.extra_params_b * 1e9) * 2
    return (whole + (card.params_b * 1e9 - whole / 2) * BYTES_PER_PARAMETER[form]) / GIB


def _embeddings(card: ModelCard) -> float:
    once = card.vocab_size * card.hidden_size
    return once if card.tied_embeddings or card.kind == "embedding" else 2 * once


def _layers(card: ModelCard) -> float:
    linear = card.linear.layers if card.linear else 0
    sliding = card.sliding.layers if card.sliding else 0
    total = (card.layers - linear - sliding) * _attention(card, card.kv_heads, card.head_dim)
    if card.linear is not None:
        total += linear * _linear_attention(card)
    if card.sliding is not None:
        heads, size = card.sliding.kv_heads or card.kv_heads, card.sliding.head_dim or card.head_dim
        total += sliding * _attention(card, heads, size)
    return total + _feed_forward(card)


def _feed_forward(card: ModelCard) -> float:
    """Of all layers."""
    dense = 3 * card.hidden_size * card.intermediate_size
    if card.experts is None:
        return card.layers * dense
    # Each expert has a row in the router.
    expert = card.hidden_size * (3 * card.experts.size + 1)
    return card.experts.dense_layers * dense + (card.layers - card.experts.dense_layers) * card.experts.count * expert


def _attention(card: ModelCard, kv_heads: int, head_dim: int) -> float:
    if card.latent is not None:
        return _latent_attention(card, card.latent)
    queries = card.heads * head_dim * (2 if card.gated_attention else 1)
    return card.hidden_size * (queries + 2 * kv_heads * head_dim + card.heads * head_dim)


def _latent_attention(card: ModelCard, of: Latent) -> float:
    asked = card.heads * (of.nope_head_dim + of.rope_head_dim)
    queries = of.q_lora_rank * (card.hidden_size + asked) if of.q_lora_rank else card.hidden_size * asked
    down = card.hidden_size * (of.kv_lora_rank + of.rope_head_dim)
    up = of.kv_lora_rank * card.heads * (of.nope_head_dim + of.value_dim)
    return queries + down + up + card.heads * of.value_dim * card.hidden_size


def _linear_attention(card: ModelCard) -> float:
    assert card.linear is not None
    keys = card.linear.key_heads * card.linear.key_dim
    values = card.linear.value_heads * card.linear.value_dim
    return card.hidden_size * (2 * keys + 2 * values + 2 * card.linear.value_heads + values)
