"""A crew file onto cards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nightcrew.crew.files import CrewFile
from nightcrew.errors import ConfigError
from nightcrew.serving.models import ModelCard, find
from nightcrew.serving.plan import CrewPlan, Gpu, Misfit
from nightcrew.serving.planner import Use, Want, arrange, start_in_order


def wants(crew: CrewFile, *, context: Mapping[str, int] | None = None) -> list[Want]:
    """What the models that are served here need. `context` overrides the file's, in tokens, by role.

    Raises `ConfigError` for a model that nothing is known of, and a context that it cannot have.
    """
    found: list[Want] = []
    for model, roles in crew.models().items():
        card = _card(crew, model)
        uses = tuple(_use(crew, role, card, context or {}) for role in roles)
        wish = crew.servers.get(model)
        found.append(
            Want(
                card=card,
                uses=uses,
                port=crew.port(model),
                format=wish.format if wish else None,
                kv=wish.kv if wish else None,
                tp=wish.tp if wish else None,
                draft=wish.draft if wish else None,
            )
        )
    return found


def plan_crew(crew: CrewFile, gpus: Sequence[Gpu], *, context: Mapping[str, int] | None = None) -> CrewPlan:
    """The whole crew on these cards, or what does not fit. Raises `ConfigError` as `wants` does."""
    wanted = wants(crew, context=context)
    outside = tuple(name for name, role in crew.roles.items() if not role.local)
    if not wanted:
        return CrewPlan(crew=crew.name, gpus=tuple(gpus), servers=(), outside=outside)
    arranged = arrange(wanted, gpus)
    if arranged is None:
        return CrewPlan(
            crew=crew.name,
            gpus=tuple(gpus),
            servers=(),
            outside=outside,
            misfits=(Misfit(what="not even one request of each role's context fits beside the weights"),),
        )
    placed, _whole = arranged
    servers = start_in_order(placed, gpus, priority=True)
    left = {gpu.id: gpu.total_gib for gpu in gpus}
    for server in servers:
        for each in server.gpu_ids:
            left[each] -= server.arithmetic.total_gib
    return CrewPlan(
        crew=crew.name, gpus=tuple(gpus), servers=tuple(servers), outside=outside, left_gib=tuple(left.values())
    )


def _card(crew: CrewFile, model: str) -> ModelCard:
    card = find(model)
    if card is None:
        raise ConfigError(f"crew {crew.name}: nothing is known of the model {model!r}: it is not in the catalog")
    return card


def _use(crew: CrewFile, role: str, card: ModelCard, context: Mapping[str, int]) -> Use:
    need = crew.roles[role].need
    tokens = context.get(role, need.context)
    if tokens > card.longest_tokens:
        raise ConfigError(
            f"crew {crew.name}: {role} needs a context of {tokens:,} tokens, and {card.hf_id} has "
            f"{card.longest_tokens:,} at most"
        )
    return Use(role=role, context_tokens=tokens, requests=need.requests)
