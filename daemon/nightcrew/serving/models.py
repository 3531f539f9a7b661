"""What is known of a model before it is loaded: a card for each, from the catalog or a local `config.json`.

Sizes are in GiB (2**30 bytes), contexts in tokens, parameters in billions.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from nightcrew.errors import ConfigError
from nightcrew_tools.contract import Frozen, Slug

Format = Literal["bf16", "fp8", "int4"]
"""How weights are stored: 16 bits, 8 bits, or 4 bits with their scales (AWQ, GPTQ, w4a16)."""

Attention = Literal["gqa", "mla", "swa-hybrid", "linear-hybrid"]
"""What a layer keeps of a token: keys and values of grouped heads, one latent vector, keys and values of a window in
some layers, or a state of fixed size in some layers."""


class Checkpoint(Frozen):
    """A published set of weights of a model."""

    hf_id: str
    """Repository on the hub. The model's own BF16 one, where the server quantizes while it loads."""
    format: Format
    recipe: Literal["plain", "awq", "gptq", "compressed-tensors", "fp8", "online-fp8"]
    """How it was made, which decides what the server must be told."""
    weights_gib: Annotated[float, Field(gt=0)]
    """What the weights take on the cards, all of them together."""
    flags: tuple[str, ...] = ()
    """More arguments for the server, such as `--quantization fp8 --load-format layered`."""
    confirmed: bool = True
    """Whether `weights_gib` comes from the files themselves; otherwise it is parameters times bits."""
    note: str = ""
    source: str
    """Where the name and the size were read."""


class Yarn(Frozen):
    """How far the positions of a model can be stretched."""

    factor: Annotated[float, Field(gt=1)]
    """The largest."""
    original_tokens: Annotated[int, Field(gt=0)]


class Sliding(Frozen):
    """Layers that look only at the last tokens."""

    layers: Annotated[int, Field(gt=0)]
    window_tokens: Annotated[int, Field(gt=0)]
    kv_heads: Annotated[int, Field(gt=0)] | None = None
    """Where it differs from the other layers'; so `head_dim`."""
    head_dim: Annotated[int, Field(gt=0)] | None = None
    saves_memory: bool = True
    """Whether SGLang keeps a smaller pool for them; for some models it turns that off."""


class Latent(Frozen):
    """Multi-head latent attention: what is kept of a token in each layer, on every card."""

    kv_lora_rank: Annotated[int, Field(gt=0)]
    rope_head_dim: Annotated[int, Field(ge=0)]
    q_lora_rank: Annotated[int, Field(ge=0)] = 0
    """0 for queries that are not compressed."""
    nope_head_dim: Annotated[int, Field(gt=0)] = 128
    value_dim: Annotated[int, Field(gt=0)] = 128


class Linear(Frozen):
    """Layers with a state of fixed size for each request instead of keys and values (gated delta nets)."""

    layers: Annotated[int, Field(gt=0)]
    key_heads: Annotated[int, Field(gt=0)]
    value_heads: Annotated[int, Field(gt=0)]
    key_dim: Annotated[int, Field(gt=0)]
    value_dim: Annotated[int, Field(gt=0)]
    conv_kernel: Annotated[int, Field(gt=1)] = 4


class Experts(Frozen):
    """Of a mixture of experts, in each layer."""

    count: Annotated[int, Field(gt=0)]
    active: Annotated[int, Field(gt=0)]
    """That one token goes through, those that are shared by all included."""
    size: Annotated[int, Field(gt=0)]
    """Intermediate size of each."""
    dense_layers: Annotated[int, Field(ge=0)] = 0
    """Layers at the beginning that have none."""


class Draft(Frozen):
    """A small model, or none at all (NGRAM), that guesses tokens ahead."""

    algorithm: Literal["EAGLE", "EAGLE3", "NGRAM", "STANDALONE"]
    hf_id: str | None = None
    weights_gib: Annotated[float, Field(ge=0)] = 0.0
    kv_layers: Annotated[int, Field(ge=0)] = 0
    """Layers of the draft, each of which keeps keys and values like one of the model's."""
    flags: tuple[str, ...] = ()
    source: str = ""


class Sampling(Frozen):
    """How its makers want it sampled; None for the server's default."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None

    def request_keys(self) -> dict[str, object]:
        """As a role's settings name them."""
        keys: dict[str, object] = {"temperature": self.temperature, "top_p": self.top_p}
        if self.top_k is not None:
            keys["extra_body"] = {"top_k": self.top_k}
        return {key: value for key, value in keys.items() if value is not None}


class ModelCard(Frozen):
    """One model."""

    key: Slug
    """Short name, for files, logs and units."""
    hf_id: str
    """Its name on the hub; servers offer it under this name, whichever checkpoint they load."""
    family: str
    kind: Literal["chat", "embedding"] = "chat"
    licence: str
    params_b: Annotated[float, Field(gt=0)]
    active_params_b: Annotated[float, Field(gt=0)]
    """Parameters that one token uses: fewer than all in a mixture of experts."""
    extra_params_b: Annotated[float, Field(ge=0)] = 0.0
    """Of `params_b`, those outside of the layers and embeddings of the language model: what it sees with."""
    layers: Annotated[int, Field(gt=0)]
    hidden_size: Annotated[int, Field(gt=0)]
    intermediate_size: Annotated[int, Field(gt=0)]
    """Of the feed-forward layer; of all the experts together that one token goes through."""
    vocab_size: Annotated[int, Field(gt=0)]
    heads: Annotated[int, Field(gt=0)]
    kv_heads: Annotated[int, Field(gt=0)]
    head_dim: Annotated[int, Field(gt=0)]
    tied_embeddings: bool = False
    """Whether the last layer is the table of tokens again."""
    gated_attention: bool = False
    """Whether queries have a gate of their own size."""
    attention: Attention = "gqa"
    sliding: Sliding | None = None
    latent: Latent | None = None
    linear: Linear | None = None
    experts: Experts | None = None
    vision: bool = False
    context_tokens: Annotated[int, Field(gt=0)]
    """Longest that its makers vouch for without YaRN."""
    config_context_tokens: Annotated[int, Field(gt=0)]
    """`max_position_embeddings` of its configuration: the longest that a server takes without being told otherwise."""
    yarn: Yarn | None = None
    checkpoints: Annotated[tuple[Checkpoint, ...], Field(min_length=1)]
    """The best first."""
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    chat_template: str | None = None
    """File among the templates that come with the crew; None for the model's own."""
    thinking_switch: bool = False
    """Whether its template knows `enable_thinking`."""
    sampling: Sampling = Sampling()
    sampling_plain: Sampling | None = None
    """When it is told not to think."""
    traps: tuple[str, ...] = ()
    """What its chat template does that one should know."""
    tokenizer_notes: tuple[str, ...] = ()
    draft: Draft | None = None
    flags: tuple[str, ...] = ()
    """More arguments for the server, whichever checkpoint it loads."""
    sources: Mapping[str, str] = Field(default_factory=dict[str, str])
    """Field, or several separated by commas, to where its figure was read; `unconfirmed: …` where nobody has."""

    @model_validator(mode="after")
    def _attention_has_its_figures(self) -> ModelCard:
        figures = {"mla": self.latent, "swa-hybrid": self.sliding, "linear-hybrid": self.linear}
        if self.attention in figures and figures[self.attention] is None:
            raise ValueError(f"{self.hf_id}: attention {self.attention} without its figures")
        return self

    @property
    def longest_tokens(self) -> int:
        """The longest context that it can have, with YaRN where it knows that."""
        stretched = int(self.yarn.factor * self.yarn.original_tokens) if self.yarn else 0
        return max(self.context_tokens, self.config_context_tokens, stretched)

    def checkpoint(self, wanted: str) -> Checkpoint | None:
        """The first checkpoint of this format, or with this repository."""
        return next((one for one in self.checkpoints if wanted in (one.format, one.hf_id)), None)


@cache
def catalog() -> Mapping[str, ModelCard]:
    """Every model of the catalog by its `hf_id`."""
    folder = resources.files("nightcrew.serving").joinpath("catalog")
    cards: dict[str, ModelCard] = {}
    for file in sorted(folder.iterdir(), key=lambda each: each.name):
        if file.name.endswith(".toml"):
            try:
                card = ModelCard.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
            except (ValidationError, tomllib.TOMLDecodeError) as error:
                raise ConfigError(f"catalog/{file.name}: {error}") from error
            cards[card.hf_id] = card
    return cards


def find(name: str) -> ModelCard | None:
    """The catalog's card by repository name, a checkpoint's repository name, or short name; None when it has none."""
    cards = catalog()
    if name in cards:
        return cards[name]
    return next(
        (card for card in cards.values() if name == card.key or any(name == one.hf_id for one in card.checkpoints)),
        None,
    )
