"""The catalog's figures agree with each other, and a model outside of it is read from its own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nightcrew.crew.files import builtin_names, load_builtin
from nightcrew.errors import ConfigError
from nightcrew.serving import geometry, memory
from nightcrew.serving.localmodel import from_config_json, look_up
from nightcrew.serving.models import ModelCard, catalog, find
from nightcrew.serving.templates import template_path

pytestmark = pytest.mark.timeout(20)

CARDS = [pytest.param(card, id=card.key) for card in catalog().values()]

DENSE: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 5120,
    "intermediate_size": 25600,
    "num_hidden_layers": 64,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
    "sliding_window": None,
}
EXPERTS = DENSE | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
}
LATENT: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 2048,
    "first_k_dense_replace": 3,
    "vocab_size": 129280,
    "max_position_embeddings": 163840,
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
}
WINDOWED: dict[str, Any] = {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 24,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "sliding_window": 128,
    "vocab_size": 201088,
    "max_position_embeddings": 131072,
}
HYBRID: dict[str, Any] = {
    "architectures": ["Qwen3_5ForConditionalGeneration"],
    "model_type": "qwen3_5",
    "vision_config": {"depth": 27},
    "text_config": {
        "model_type": "qwen3_5",
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "attn_output_gate": True,
        "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 8,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4,
        "vocab_size": 248320,
        "max_position_embeddings": 262144,
    },
}


def written(folder: Path, config: dict[str, Any], **sizes: int) -> ModelCard:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return from_config_json(folder)


# --- the catalog


@pytest.mark.parametrize("card", CARDS)
def test_a_models_parameters_follow_from_its_shape(card: ModelCard) -> None:
    assert geometry.parameters_b(card) == pytest.approx(card.params_b, rel=0.001)


@pytest.mark.parametrize("card", CARDS)
def test_a_checkpoint_weighs_what_its_format_says(card: ModelCard) -> None:
    for checkpoint in card.checkpoints:
        # A checkpoint of 4 bits may leave more in 16 bits than the token tables.
        slack = 0.1 if checkpoint.format == "int4" else 0.015
        assert checkpoint.weights_gib == pytest.approx(geometry.weights_gib(card, checkpoint.format), rel=slack)


@pytest.mark.parametrize("card", CARDS)
def test_every_figure_says_where_it_was_read(card: ModelCard) -> None:
    told = {name.strip().partition(".")[0] for names in card.sources for name in names.split(",")}
    figures = {"params_b", "layers", "hidden_size", "intermediate_size", "vocab_size", "heads", "kv_heads", "head_dim"}
    figures |= {"context_tokens"} | {name for name in ("sliding", "linear") if getattr(card, name) is not None}
    figures |= {"extra_params_b"} if card.extra_params_b else set()
    assert figures <= told
    assert all(checkpoint.source for checkpoint in card.checkpoints)


@pytest.mark.parametrize("card", CARDS)
def test_the_templates_that_cards_name_are_there(card: ModelCard) -> None:
    if card.chat_template is not None:
        assert template_path(card.chat_template).is_file()


def test_a_model_is_found_by_its_name_its_short_name_and_those_of_its_checkpoints() -> None:
    card = catalog()["Qwen/Qwen3-32B"]
    assert find("Qwen/Qwen3-32B") == find("qwen3-32b") == find("Qwen/Qwen3-32B-AWQ") == card
    assert find("Qwen/Qwen3-33B") is None and look_up("Qwen/Qwen3-33B") is None


def test_short_names_are_told_apart_and_the_catalog_has_the_models_of_all_crews() -> None:
    cards = list(catalog().values())
    assert len({card.key for card in cards}) == len(cards)
    for name in builtin_names():
        assert set(load_builtin(name).models()) <= set(catalog())


# --- outside of it


def test_a_dense_model_is_read_like_the_catalogs_own(tmp_path: Path) -> None:
    card, known = written(tmp_path / "My Qwen3!", DENSE), catalog()["Qwen/Qwen3-32B"]
    same = ("layers", "hidden_size", "heads", "kv_heads", "head_dim", "attention", "tool_call_parser", "vocab_size")
    assert all(getattr(card, name) == getattr(known, name) for name in same)
    assert card.key == "my-qwen3" and card.hf_id == str(tmp_path / "My Qwen3!")
    assert card.params_b == pytest.approx(32.76, abs=0.01)
    (checkpoint,) = card.checkpoints
    assert (checkpoint.format, checkpoint.confirmed) == ("bf16", False)
    assert checkpoint.weights_gib == pytest.approx(61.0, abs=0.1)
    assert card.thinking_switch


def test_a_mixture_of_experts_has_fewer_active_parameters(tmp_path: Path) -> None:
    card = written(tmp_path, EXPERTS)
    assert (card.params_b, card.active_params_b) == (pytest.approx(30.53, abs=0.01), pytest.approx(3.35, abs=0.05))
    assert memory.kv_bytes_per_token(card, "bf16") == 98_304
    assert card.intermediate_size == 6144


def test_latent_attention_keeps_one_vector_for_each_layer_on_every_card(tmp_path: Path) -> None:
    card = written(tmp_path, LATENT)
    assert card.attention == "mla"
    assert card.params_b == pytest.approx(671.0, abs=1.0)
    assert card.active_params_b == pytest.approx(37.6, abs=1.0)
    assert memory.kv_bytes_per_token(card, "bf16") == (512 + 64) * 61 * 2
    assert memory.kv_bytes_per_token(card, "bf16", tp=8) == memory.kv_bytes_per_token(card, "bf16")
    assert card.checkpoints[0].format == "fp8"


def test_a_window_saves_memory_where_sglang_keeps_a_smaller_pool_for_it(tmp_path: Path) -> None:
    card = written(tmp_path, WINDOWED)
    assert card.attention == "swa-hybrid" and card.sliding is not None and card.sliding.layers == 12
    assert card.params_b == pytest.approx(20.9, abs=0.2)
    layer = 2 * 8 * 64 * 2
    assert memory.kv_bytes_per_token(card, "bf16") == pytest.approx(layer * (12 + 0.8 * 12), abs=1)
    gemma = written(tmp_path, WINDOWED | {"architectures": ["Gemma3ForCausalLM"]})
    assert memory.kv_bytes_per_token(gemma, "bf16") == layer * 24


def test_a_pattern_says_which_layers_slide_and_a_window_for_all_saves_nothing(tmp_path: Path) -> None:
    plain = {key: value for key, value in WINDOWED.items() if key != "layer_types"}
    patterned = written(tmp_path, plain | {"sliding_window_pattern": 6})
    assert patterned.sliding is not None and patterned.sliding.layers == 20
    assert written(tmp_path, plain).attention == "gqa"
    assert written(tmp_path, WINDOWED | {"use_sliding_window": False}).attention == "gqa"


def test_full_layers_of_another_shape_than_the_sliding_ones_are_counted_apart(tmp_path: Path) -> None:
    own = {"architectures": ["Gemma4ForCausalLM"], "num_global_key_value_heads": 4, "global_head_dim": 128}
    card = written(tmp_path, WINDOWED | own)
    expected = 2 * 2 * (12 * 4 * 128 + 0.8 * 12 * 8 * 64)
    assert memory.kv_bytes_per_token(card, "bf16") == pytest.approx(expected, abs=1)


def test_linear_layers_keep_a_state_and_no_keys(tmp_path: Path) -> None:
    card, known = written(tmp_path, HYBRID), catalog()["Qwen/Qwen3.5-9B"]
    assert (card.attention, card.linear, card.vision) == ("linear-hybrid", known.linear, True)
    assert card.params_b == pytest.approx(8.95, abs=0.01)
    assert memory.kv_bytes_per_token(card, "bf16") == memory.kv_bytes_per_token(known, "bf16") == 32_768
    text = {key: value for key, value in HYBRID["text_config"].items() if key != "layer_types"}
    spaced = written(tmp_path, HYBRID | {"text_config": text | {"full_attention_interval": 4}})
    assert spaced.linear == card.linear


def test_weights_on_the_disk_go_before_what_is_computed(tmp_path: Path) -> None:
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"x" * 1000)
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"x" * 24)
    (checkpoint,) = written(tmp_path, DENSE).checkpoints
    assert (checkpoint.weights_gib * 2**30, checkpoint.confirmed) == (1024, True)
    (tmp_path / "model.safetensors.index.json").write_text('{"metadata": {"total_size": 5368709120}}')
    assert written(tmp_path, DENSE).checkpoints[0].weights_gib == 5.0
    (tmp_path / "model.safetensors.index.json").write_text('{"metadata": {}}')
    with pytest.raises(ConfigError, match=r"index\.json: says no total_size"):
        written(tmp_path, DENSE)


@pytest.mark.parametrize(
    ("quantization", "form"),
    [
        ({"quant_method": "awq", "bits": 4}, "int4"),
        ({"quant_method": "gptq", "bits": 8}, "fp8"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "compressed-tensors", "config_groups": {"0": {"weights": {"num_bits": 4}}}}, "int4"),
        ({"quant_method": "compressed-tensors", "config_groups": {"0": {"weights": {"num_bits": 8}}}}, "fp8"),
    ],
)
def test_the_format_is_read_from_the_configuration(tmp_path: Path, quantization: dict[str, Any], form: str) -> None:
    assert written(tmp_path, DENSE | {"quantization_config": quantization}).checkpoints[0].format == form


def test_an_embedding_model_is_one_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[]")
    card = written(tmp_path, DENSE)
    assert (card.kind, card.tool_call_parser) == ("embedding", None)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({key: value for key, value in DENSE.items() if key != "hidden_size"}, "has no 'hidden_size'"),
        (DENSE | {"num_hidden_layers": "many"}, "cannot be understood"),
        (DENSE | {"num_hidden_layers": 0}, "cannot be understood: layers"),
        (DENSE | {"quantization_config": {"quant_method": "magic"}}, "quant_method 'magic' is not known here"),
    ],
)
def test_a_configuration_that_cannot_be_understood_is_said_with_its_key(
    tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        written(tmp_path, config)
    assert str(tmp_path / "config.json") in str(caught.value)


def test_a_directory_without_a_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: "):
        look_up(str(tmp_path / "nothing"))
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="is no JSON object"):
        from_config_json(tmp_path)
