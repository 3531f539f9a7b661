"""A crew file onto cards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from nightcrew.crew.files import SMALL, CrewFile, ServerWish, load_builtin
from nightcrew.errors import ConfigError
from nightcrew.serving.localmodel import look_up
from nightcrew.serving.mainmemory import share
from nightcrew.serving.memory import can_split
from nightcrew.serving.models import ModelCard
from nightcrew.serving.nearest import misfit
from nightcrew.serving.plan import CrewPlan, Gpu, Misfit, ServerPlan
from nightcrew.serving.planner import Use, Want, arrange, start_in_order


def wants(crew: CrewFile, *, context: Mapping[str, int] | None = None) -> list[Want]:
    """What the models that are served here need. `context` overrides the file's, in tokens, by role.

    Raises `ConfigError` for a model that nothing is known of, and a context that it cannot have.
    """
    found: list[Want] = []
    for model, roles in crew.models().items():
        card = _card(crew, model)
        uses = tuple(_use(crew, role, card, context or {}) for role in roles)
        wish = _wish(crew, model, card)
        found.append(
            Want(
                card=card,
                uses=uses,
                port=crew.port(model),
                format=wish.format,
                kv=wish.kv,
                tp=wish.tp,
                draft=wish.draft,
            )
        )
    return found


def _wish(crew: CrewFile, model: str, card: ModelCard) -> ServerWish:
    """What the file settles about a model's server, where the model can do it."""
    wish = crew.servers.get(model, ServerWish())
    where = f"crew {crew.name}: servers.{model!r}"
    if wish.draft and card.draft is None:
        raise ConfigError(f"{where}: draft: the catalog names no way to decode {card.hf_id} speculatively")
    if wish.tp is not None and not can_split(card, wish.tp):
        raise ConfigError(
            f"{where}: tp: {wish.tp} cards cannot share {card.heads} heads and {card.kv_heads} KV heads evenly"
        )
    return wish


def plan_crew(
    crew: CrewFile,
    gpus: Sequence[Gpu],
    *,
    context: Mapping[str, int] | None = None,
    ram_gib: float | None = None,
) -> CrewPlan:
    """The whole crew on these cards, or what does not fit and what would.

    `ram_gib` is the machine's main memory, when the KV caches may spread into it. Raises `ConfigError` as `wants` does.
    """
    wanted = wants(crew, context=context)
    empty = CrewPlan(
        crew=crew.name,
        gpus=tuple(gpus),
        servers=(),
        outside=tuple(name for name, role in crew.roles.items() if not role.local),
        left_gib=tuple(gpu.total_gib for gpu in gpus),
    )
    if not wanted:
        return empty
    arranged = arrange(wanted, gpus)
    if arranged is None:
        return empty.model_copy(update={"misfits": (_misfit(crew, wanted, gpus),)})
    servers = start_in_order(arranged.placed, gpus)
    if ram_gib is not None:
        servers = share(servers, ram_gib)
    left = {gpu.id: gpu.total_gib for gpu in gpus}
    for server in servers:
        for each in server.gpu_ids:
            left[each] -= server.arithmetic.total_gib
    return empty.model_copy(
        update={
            "servers": tuple(servers),
            "left_gib": tuple(left.values()),
            "warnings": tuple(_warnings(wanted, servers, whole=arranged.whole, ram_gib=ram_gib)),
        }
    )


def _misfit(crew: CrewFile, wanted: Sequence[Want], gpus: Sequence[Gpu]) -> Misfit:
    """With the crew of one model, where that would do."""
    found = misfit(wanted, gpus)
    small = load_builtin(SMALL)
    if crew.name == SMALL or arrange(wants(small), gpus) is None:
        return found
    model = next(iter(small.models()))
    return found.model_copy(update={"nearest": (*found.nearest, f"the crew {SMALL}: {model} plays every role")})


def _warnings(
    wanted: Sequence[Want], servers: Sequence[ServerPlan], *, whole: bool, ram_gib: float | None
) -> Iterator[str]:
    if not whole:
        wish = {want.port: want for want in wanted}
        for server in servers:
            want = wish[server.port]
            if server.max_total_tokens < want.wished_tokens:
                yield (
                    f"{server.key}: room for {server.max_total_tokens:,} tokens, and the crew wishes for "
                    f"{want.wished_tokens:,}, so that {want.requests} requests can run at once: some will wait"
                )
    for server in servers:
        if server.yarn_factor is not None:
            yield (
                f"{server.key}: positions are stretched {server.yarn_factor:g} times (YaRN) for a context of "
                f"{server.context_length:,}; short texts lose a little by that"
            )
        if not server.checkpoint.confirmed and server.checkpoint.source.startswith("unconfirmed"):
            yield f"{server.key}: the size of {server.checkpoint.hf_id} is {server.checkpoint.source}"
    if ram_gib is not None and not any(server.hicache_gib for server in servers):
        yield f"{ram_gib:g} GiB of main memory are not more than the caches on the cards: none of it is used"


def _card(crew: CrewFile, model: str) -> ModelCard:
    card = look_up(model)
    if card is None:
        raise ConfigError(
            f"crew {crew.name}: nothing is known of the model {model!r}: it is not in the catalog. Name the directory "
            "in which it lies (an absolute path), or give its role a `base_url` where it is served already"
        )
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
