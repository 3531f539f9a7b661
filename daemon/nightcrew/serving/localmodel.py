"""A model that is not in the catalog: its card out of the `config.json` of a directory, and the weights beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from nightcrew.errors import ConfigError
from nightcrew.serving import geometry
from nightcrew.serving.models import Checkpoint, Experts, Format, Latent, Linear, ModelCard, Sliding, find

_WINDOW_SAVES = frozenset(
    {
        "DeepseekV4ForCausalLM",
        "Gemma4ForCausalLM",
        "Gemma4ForConditionalGeneration",
        "GptOssForCausalLM",
        "LagunaForCausalLM",
        "Llama4ForConditionalGeneration",
        "MiMoV2FlashForCausalLM",
        "Step3p5ForCausalLM",
    }
)
"""Architectures that get a smaller pool for sliding layers: those of `is_hybrid_swa_model` in SGLang 0.5.23 that a
crew might meet. Of another one the whole cache is planned."""

_PARSERS: Mapping[str, tuple[str | None, str | None]] = {
    "deepseek_v3": ("deepseekv3", "deepseek-r1"),
    "gemma4": ("gemma4", "gemma4"),
    "gpt_oss": ("gpt-oss", "gpt-oss"),
    "llama": ("llama3", None),
    "ministral3": ("mistral", None),
    "mistral": ("mistral", None),
    "mistral3": ("mistral", None),
    "qwen2": ("qwen", None),
    "qwen3": ("qwen", "qwen3"),
    "qwen3_5": ("qwen3_coder", "qwen3"),
    "qwen3_5_moe": ("qwen3_coder", "qwen3"),
    "qwen3_moe": ("qwen", "qwen3"),
    "qwen3_next": ("qwen3_coder", None),
}
"""Model type to parsers of tool calls and of thoughts, as SGLang 0.5.23 names them. Another model gets none: without
one its tool calls are text."""


def look_up(name: str) -> ModelCard | None:
    """The card of a model: the catalog's, or that of a directory. None for a name that nothing is known of.

    Raises `ConfigError` for a directory that has no usable `config.json`.
    """
    if name.startswith(("/", "~", "./", "../")):
        return from_config_json(Path(name).expanduser())
    return find(name)


def from_config_json(path: Path) -> ModelCard:
    """The card of a model on this disk; `path` is its directory or its `config.json`.

    What its weights take is read from the safetensors index, else from the files, else computed from its shape. Raises
    `ConfigError`, which names the file and the key that is missing or wrong.
    """
    file = path if path.name.endswith(".json") else path / "config.json"
    try:
        whole = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: {error}") from error
    if not isinstance(whole, dict):
        raise ConfigError(f"{file}: is no JSON object")
    try:
        return _card(file.parent, cast("dict[str, Any]", whole))
    except KeyError as error:
        raise ConfigError(f"{file}: has no {error.args[0]!r}, without which nothing can be planned") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{file}: cannot be understood: {where}: {first['msg']}") from None
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"{file}: cannot be understood: {error}") from None


def _card(folder: Path, whole: dict[str, Any]) -> ModelCard:
    text = {**whole, **cast("dict[str, Any]", whole.get("text_config") or {})}
    architecture = str((whole.get("architectures") or [""])[0])
    heads = int(text["num_attention_heads"])
    sliding, linear, latent = _sliding(text, architecture), _linear(text), _latent(text)
    embedding = (folder / "modules.json").exists() or "Embedding" in architecture
    parsers = _PARSERS.get(str(text.get("model_type") or ""), (None, None))
    experts = _experts(text)
    shape: dict[str, Any] = {
        "key": _key(folder),
        "hf_id": str(folder),
        "family": str(whole.get("model_type") or "unknown"),
        "kind": "embedding" if embedding else "chat",
        "licence": "unknown",
        "params_b": 1.0,
        "active_params_b": 1.0,
        "layers": int(text["num_hidden_layers"]),
        "hidden_size": int(text["hidden_size"]),
        "intermediate_size": experts.active * experts.size if experts else int(text["intermediate_size"]),
        "vocab_size": int(text["vocab_size"]),
        "heads": heads,
        "kv_heads": int(text.get("num_global_key_value_heads") or text.get("num_key_value_heads") or heads),
        "head_dim": int(text.get("global_head_dim") or text.get("head_dim") or int(text["hidden_size"]) // heads),
        "tied_embeddings": bool(text.get("tie_word_embeddings", False)),
        "gated_attention": bool(text.get("attn_output_gate", False)),
        "attention": "mla" if latent else "linear-hybrid" if linear else "swa-hybrid" if sliding else "gqa",
        "sliding": sliding,
        "linear": linear,
        "latent": latent,
        "experts": experts,
        "vision": "vision_config" in whole,
        "context_tokens": int(text["max_position_embeddings"]),
        "config_context_tokens": int(text["max_position_embeddings"]),
        "checkpoints": (_placeholder(folder),),
        "tool_call_parser": None if embedding else parsers[0],
        "reasoning_parser": None if embedding else parsers[1],
        "thinking_switch": parsers[1] == "qwen3",
        "sources": {"all": f"{folder}/config.json"},
    }
    return _weighed(folder, whole, ModelCard.model_validate(shape))


def _weighed(folder: Path, whole: Mapping[str, Any], card: ModelCard) -> ModelCard:
    """The card with its parameters and its one checkpoint."""
    form, recipe = _format(whole)
    counted = card.model_copy(
        update={"params_b": geometry.parameters_b(card), "active_params_b": geometry.active_parameters_b(card)}
    )
    weighed = weights_bytes(folder)
    checkpoint = Checkpoint(
        hf_id=str(folder),
        format=form,
        recipe=recipe,
        weights_gib=geometry.weights_gib(counted, form) if weighed is None else weighed / geometry.GIB,
        confirmed=weighed is not None,
        source="computed from config.json: no weights lie beside it" if weighed is None else "the files beside it",
    )
    return counted.model_copy(update={"checkpoints": (checkpoint,)})


def weights_bytes(folder: Path) -> int | None:
    """Of the safetensors in a directory: what their index says, else the size of the files; None where there are none.

    Raises `ConfigError` for an index that is none.
    """
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            return int(json.loads(index.read_text(encoding="utf-8"))["metadata"]["total_size"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{index}: says no total_size: {error}") from error
    sizes = [file.stat().st_size for file in folder.glob("*.safetensors")]
    return sum(sizes) if sizes else None


def _placeholder(folder: Path) -> Checkpoint:
    return Checkpoint(hf_id=str(folder), format="bf16", recipe="plain", weights_gib=1.0, source="-")


def _key(folder: Path) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")
    return name[:64].strip("-") or "model"


def _format(whole: Mapping[str, Any]) -> tuple[Format, Any]:
    quantization = cast("dict[str, Any]", whole.get("quantization_config") or {})
    method = str(quantization.get("quant_method") or "")
    if not method:
        return "bf16", "plain"
    if method == "compressed-tensors":
        groups = cast("dict[str, dict[str, Any]]", quantization.get("config_groups") or {})
        weights = [cast("dict[str, Any]", group.get("weights") or {}) for group in groups.values()]
        bits = [int(each.get("num_bits") or 8) for each in weights]
        return ("int4" if bits and min(bits) <= 4 else "fp8"), method
    if method in ("awq", "gptq"):
        return ("int4" if int(quantization.get("bits") or 4) <= 4 else "fp8"), method
    if method == "fp8":
        return "fp8", "fp8"
    raise ValueError(f"quant_method {method!r} is not known here")


def _experts(text: Mapping[str, Any]) -> Experts | None:
    count = int(text.get("num_experts") or text.get("num_local_experts") or text.get("n_routed_experts") or 0)
    if count == 0:
        return None
    size = int(text.get("moe_intermediate_size") or text["intermediate_size"])
    shared = int(text.get("n_shared_experts") or 0)
    shared += int(text.get("shared_expert_intermediate_size") or 0) // size
    return Experts(
        count=count + shared,
        active=int(text.get("num_experts_per_tok") or text.get("num_experts_per_token") or 1) + shared,
        size=size,
        dense_layers=int(text.get("first_k_dense_replace") or 0),
    )


def _latent(text: Mapping[str, Any]) -> Latent | None:
    if not text.get("kv_lora_rank"):
        return None
    return Latent(
        kv_lora_rank=int(text["kv_lora_rank"]),
        rope_head_dim=int(text["qk_rope_head_dim"]),
        q_lora_rank=int(text.get("q_lora_rank") or 0),
        nope_head_dim=int(text["qk_nope_head_dim"]),
        value_dim=int(text["v_head_dim"]),
    )


def _linear(text: Mapping[str, Any]) -> Linear | None:
    layers = _layers_of(text, "linear_attention")
    if not layers and text.get("full_attention_interval") and "linear_num_value_heads" in text:
        layers = int(text["num_hidden_layers"]) - int(text["num_hidden_layers"]) // int(text["full_attention_interval"])
    if not layers:
        return None
    return Linear(
        layers=layers,
        key_heads=int(text["linear_num_key_heads"]),
        value_heads=int(text["linear_num_value_heads"]),
        key_dim=int(text["linear_key_head_dim"]),
        value_dim=int(text["linear_value_head_dim"]),
        conv_kernel=int(text.get("linear_conv_kernel_dim") or 4),
    )


def _sliding(text: Mapping[str, Any], architecture: str) -> Sliding | None:
    window = int(text.get("sliding_window") or 0)
    if not window or text.get("use_sliding_window") is False:
        return None
    layers = _layers_of(text, "sliding_attention")
    pattern = int(text.get("sliding_window_pattern") or text.get("_sliding_window_pattern") or 0)
    if not layers and pattern > 1:
        layers = int(text["num_hidden_layers"]) - int(text["num_hidden_layers"]) // pattern
    if not layers:
        return None  # the same window in all layers: SGLang keeps the whole context of it
    own = "global_head_dim" in text or "num_global_key_value_heads" in text
    return Sliding(
        layers=layers,
        window_tokens=window,
        kv_heads=int(text["num_key_value_heads"]) if own else None,
        head_dim=int(text["head_dim"]) if own else None,
        saves_memory=architecture in _WINDOW_SAVES,
    )


def _layers_of(text: Mapping[str, Any], kind: str) -> int:
    return cast("list[str]", text.get("layer_types") or []).count(kind)
