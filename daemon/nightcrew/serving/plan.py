"""A crew planned onto cards: what each server is started with, what it takes, and what does not fit.

The nouns only; `planner` makes them, and whoever starts servers reads them. Sizes are in GiB (2**30 bytes).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nightcrew.serving.models import Checkpoint, Draft, ModelCard
from nightcrew_tools.contract import Frozen, Slug

KvDtype = Literal["bf16", "fp8_e4m3", "fp8_e5m2"]


class Arithmetic(Frozen):
    """What one server takes of each of its cards, in GiB."""

    free_at_start_gib: float
    """Free on its card when it is started, after the servers before it."""
    context_gib: float
    """CUDA's context and libraries: taken before the server looks at what is free."""
    weights_gib: float
    fixed_gib: float = 0.0
    """States of linear layers and cached images: out of the static share, before the KV cache."""
    runtime_gib: float
    """Activations of the longest prefill chunk, CUDA graphs, workspaces, tables: taken after the KV cache."""
    kv_gib: float
    kv_bytes_per_token: int
    """On each card."""

    @property
    def overhead_gib(self) -> float:
        """All that is neither weights nor KV cache."""
        return self.context_gib + self.fixed_gib + self.runtime_gib

    @property
    def total_gib(self) -> float:
        return self.overhead_gib + self.weights_gib + self.kv_gib


class ServerPlan(Frozen):
    """One server: what it is started with."""

    key: Slug
    """The model's short name; one server of a crew has it."""
    card: ModelCard
    checkpoint: Checkpoint
    roles: tuple[str, ...]
    port: Annotated[int, Field(ge=1, le=65535)]
    gpu_ids: tuple[int, ...]
    tp: Annotated[int, Field(ge=1)]
    """Cards that share each layer; as many as `gpu_ids`."""
    context_length: Annotated[int, Field(gt=0)]
    """Tokens of the longest request."""
    max_total_tokens: Annotated[int, Field(gt=0)]
    """Tokens in the KV cache, all requests together; pinned."""
    mem_fraction_static: Annotated[float, Field(gt=0, lt=1)]
    """Of what is free when this server starts."""
    kv_dtype: KvDtype
    max_running: Annotated[int, Field(ge=1)]
    """Requests at the same time."""
    chunked_prefill_tokens: Annotated[int, Field(ge=512)]
    """Tokens of a prompt that are read in one go; activations grow with it."""
    state_slots: Annotated[int, Field(ge=1)] | None = None
    """States of linear layers that are kept (`--max-mamba-cache-size`); None for a model without such layers."""
    yarn_factor: float | None = None
    """How far positions are stretched; None for not at all."""
    hicache_gib: float | None = None
    """Main memory, for each card, for what the KV cache on the card has no room for; None for none."""
    draft: Draft | None = None
    priority_scheduling: bool = False
    """Requests with a higher `priority` go first: several roles, or several tasks, share this server."""
    arithmetic: Arithmetic

    @property
    def served_name(self) -> str:
        """The name that requests call the model by."""
        return self.card.hf_id

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


class Gpu(Frozen):
    """A card, as the plan sees it."""

    id: Annotated[int, Field(ge=0)]
    total_gib: Annotated[float, Field(gt=0)]
    """What is free on it before the first server is started."""
    capability: str = ""
    """Compute capability, such as `12.0`; empty when it is not known."""


class Misfit(Frozen):
    """What could not be done, and the nearest thing that can."""

    what: str
    nearest: tuple[str, ...] = ()
    """Each would do, the smallest change first."""


class CrewPlan(Frozen):
    """A whole crew on the cards of one machine."""

    crew: str
    gpus: tuple[Gpu, ...]
    servers: tuple[ServerPlan, ...]
    """In the order in which they must be started. Empty when the crew does not fit."""
    outside: tuple[str, ...] = ()
    """Roles that are played by endpoints which are not started here."""
    left_gib: tuple[float, ...] = ()
    """Of each card, after all servers."""
    warnings: tuple[str, ...] = ()
    misfits: tuple[Misfit, ...] = ()

    @property
    def fits(self) -> bool:
        return not self.misfits

    def server(self, key: str) -> ServerPlan | None:
        """The server with this short name."""
        return next((one for one in self.servers if one.key == key), None)
