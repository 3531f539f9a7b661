"""From what a crew's models need to what each server is started with: pure, no GPU is looked at.

1. Each model has options, best first: its checkpoints as the catalog ranks them, each with the KV cache in 16 bits,
   then in 8. The combinations are tried from the best to the worst.
2. A combination fits when every server has its weights, its overhead and the KV cache it needs on its cards. First
   that is the context of each role for all the requests that should run at once; if nothing fits, for one request.
3. What is left of a card is shared out between its servers by what they need: more requests at once, and prefixes that
   stay cached.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, product

from nightcrew.serving import memory
from nightcrew.serving.models import Checkpoint, Draft, ModelCard
from nightcrew.serving.plan import Arithmetic, Gpu, KvDtype, ServerPlan

CHUNK_TOKENS = 4096
"""Of a prompt, read in one go. SGLang's 8,192 on large cards would cost each server another gibibyte."""
LARGEST_BATCH = 32
"""More requests at once than that only make each of them slow."""
RESERVE = 0.02
"""Of a card, left free: what the estimates miss, and a display."""


@dataclass(frozen=True)
class Use:
    """What one role asks of its server."""

    role: str
    context_tokens: int
    requests: int


@dataclass(frozen=True)
class Want:
    """A model to be served, and what is settled about it."""

    card: ModelCard
    uses: tuple[Use, ...]
    port: int
    format: str | None = None
    kv: KvDtype | None = None
    tp: int | None = None
    draft: bool | None = None

    @property
    def context_tokens(self) -> int:
        """Of the longest request."""
        return max(use.context_tokens for use in self.uses)

    @property
    def wished_tokens(self) -> int:
        """All requests that should run at once, each as long as its role may need."""
        return sum(use.context_tokens * use.requests for use in self.uses)

    @property
    def requests(self) -> int:
        return sum(use.requests for use in self.uses)


@dataclass(frozen=True, eq=False)
class Option:
    """One way to serve a model."""

    want: Want
    checkpoint: Checkpoint
    kv: KvDtype
    rank: int
    """0 for the best; what is lost grows with it."""

    @property
    def draft(self) -> Draft | None:
        return self.want.card.draft if self.want.draft else None

    @property
    def context_tokens(self) -> int:
        return served_context(self.want.card, self.want.context_tokens)

    @property
    def max_running(self) -> int:
        return min(LARGEST_BATCH, max(8, 2 * self.want.requests))

    def fixed_gib(self, tp: int) -> float:
        """Of each card, without KV cache."""
        weights = memory.weights_gib(self.checkpoint, tp=tp, draft=self.draft)
        return memory.CONTEXT_GIB + weights + self.fixed_static_gib(tp) + self.runtime_gib(tp)

    @property
    def state_slots(self) -> int | None:
        return None if self.want.card.linear is None else memory.STATES_PER_REQUEST * self.max_running

    def fixed_static_gib(self, tp: int) -> float:
        return memory.fixed_static_gib(self.want.card, slots=self.state_slots or 0, tp=tp)

    def runtime_gib(self, tp: int) -> float:
        return memory.runtime_gib(
            self.want.card,
            chunk_tokens=CHUNK_TOKENS,
            max_running=self.max_running,
            context_tokens=self.context_tokens,
            tp=tp,
        )

    def tokens(self, *, whole: bool) -> int:
        """Of the pool that it must have: for all requests that should run at once, or for the longest one."""
        return _paged(self.want.wished_tokens if whole else self.want.context_tokens)

    def cell_bytes(self, tp: int) -> int:
        return memory.kv_bytes_per_token(self.want.card, self.kv, tp=tp, draft=self.draft)

    def kv_gib(self, tokens: int, tp: int) -> float:
        return memory.kv_gib(_paged(tokens), self.cell_bytes(tp))


@dataclass(frozen=True)
class Placed:
    """An option on its cards, with so many tokens of KV cache."""

    option: Option
    gpu_ids: tuple[int, ...]
    tokens: int

    @property
    def tp(self) -> int:
        return len(self.gpu_ids)

    @property
    def gib(self) -> float:
        """Of each of its cards."""
        return self.option.fixed_gib(self.tp) + memory.kv_gib(self.tokens, self.option.cell_bytes(self.tp))


@dataclass
class Cards:
    """What is free on each card while servers are placed."""

    gpus: Sequence[Gpu]
    free: dict[int, float] = field(default_factory=dict[int, float])

    def __post_init__(self) -> None:
        self.free = self.free or {gpu.id: usable_gib(gpu) for gpu in self.gpus}

    def group(self, count: int) -> tuple[int, ...]:
        """The cards with the most room."""
        roomy = sorted(self.free, key=lambda each: (-self.free[each], each))
        return tuple(sorted(roomy[:count]))

    def room(self, ids: Sequence[int]) -> float:
        return min(self.free[each] for each in ids)

    def take(self, ids: Sequence[int], gib: float) -> None:
        for each in ids:
            self.free[each] -= gib


def usable_gib(gpu: Gpu) -> float:
    return gpu.total_gib * (1 - RESERVE)


def served_context(card: ModelCard, wanted_tokens: int) -> int:
    """The context that a server offers to a model of which `wanted_tokens` are needed: its own, or stretched."""
    if wanted_tokens <= card.config_context_tokens or card.yarn is None:
        return card.config_context_tokens
    return int(yarn_factor(card, wanted_tokens) or 1) * card.yarn.original_tokens


def yarn_factor(card: ModelCard, wanted_tokens: int) -> float | None:
    """The smallest whole factor that reaches so far: a larger one costs quality in short texts. None for no need."""
    if card.yarn is None or wanted_tokens <= card.config_context_tokens:
        return None
    return float(min(math.ceil(card.yarn.factor), math.ceil(wanted_tokens / card.yarn.original_tokens)))


def options(want: Want, gpus: Sequence[Gpu]) -> list[Option]:
    """Ways to serve a model, best first. Empty when the format that is asked for does not exist."""
    chosen = want.card.checkpoints if want.format is None else _named(want)
    kinds = ("bf16", eight_bits(gpus)) if want.kv is None else (want.kv,)
    kept: list[Checkpoint] = []
    for checkpoint in chosen:
        if not kept or checkpoint.weights_gib < kept[-1].weights_gib:  # else it is worse and no smaller
            kept.append(checkpoint)
    return [
        Option(want, checkpoint, kv, 2 * place + index)
        for place, checkpoint in enumerate(kept)
        for index, kv in enumerate(kinds)
    ]


def eight_bits(gpus: Sequence[Gpu]) -> KvDtype:
    """The 8-bit format that all of these cards compute with: e4m3 keeps more of a number, and needs Ada or newer."""
    known = [tuple(int(part) for part in gpu.capability.split(".")) for gpu in gpus if gpu.capability]
    return "fp8_e5m2" if any(each < (8, 9) for each in known) else "fp8_e4m3"


def _named(want: Want) -> tuple[Checkpoint, ...]:
    assert want.format is not None
    found = want.card.checkpoint(want.format)
    return () if found is None else (found,)


@dataclass(frozen=True)
class Arrangement:
    """Where everything goes."""

    placed: tuple[Placed, ...]
    whole: bool
    """Whether all requests that should run at once can; otherwise one of each model."""


def arrange(wants: Sequence[Want], gpus: Sequence[Gpu]) -> Arrangement | None:
    """The best combination that fits, filled up. None when not even one request of each role's context fits."""
    ways = [options(want, gpus) for want in wants]
    room = sum(usable_gib(gpu) for gpu in gpus)
    combinations = sorted(product(*ways), key=lambda each: sum(option.rank for option in each))
    for whole in (True, False):
        # Spread over cards a server takes more of them together, never less: what is over the sum has no place.
        least = {option: option.fixed_gib(1) + option.kv_gib(option.tokens(whole=whole), 1) for option in chain(*ways)}
        if sum(min(map(least.__getitem__, way), default=math.inf) for way in ways) > room:
            continue
        for combination in combinations:
            if sum(map(least.__getitem__, combination)) > room:
                continue
            if placed := place(combination, gpus, whole=whole):
                return Arrangement(tuple(fill(placed, gpus)), whole)
    return None


def place(combination: Sequence[Option], gpus: Sequence[Gpu], *, whole: bool) -> list[Placed] | None:
    """Each server on the card with the most room, the largest first; over several where one is too small, or where
    cards would stay idle. None when one has no place."""
    spread: dict[int, int] = {}
    placed = _place(combination, gpus, spread, whole=whole)
    while placed is not None and (idle := len(gpus) - len({each for one in placed for each in one.gpu_ids})) > 0:
        wider = _wider(placed, spread, idle)
        if wider is None or (again := _place(combination, gpus, wider, whole=whole)) is None:
            break
        spread, placed = wider, again
    return placed


def _wider(placed: Sequence[Placed], spread: Mapping[int, int], idle: int) -> dict[int, int] | None:
    """Twice the cards for the largest server that can use them."""
    for one in sorted(placed, key=lambda each: -each.gib):
        want = one.option.want
        if want.tp is None and one.tp <= idle and memory.can_split(want.card, 2 * one.tp):
            return {**spread, want.port: 2 * one.tp}
    return None


def _place(
    combination: Sequence[Option], gpus: Sequence[Gpu], spread: Mapping[int, int], *, whole: bool
) -> list[Placed] | None:
    cards = Cards(gpus)
    placed: list[Placed] = []
    for option in sorted(combination, key=lambda each: -each.checkpoint.weights_gib):
        want = option.want
        tokens = option.tokens(whole=whole)
        for tp in _widths(want, spread.get(want.port, 1), len(gpus)):
            ids = cards.group(tp)
            gib = option.fixed_gib(tp) + option.kv_gib(tokens, tp)
            if gib <= cards.room(ids):
                cards.take(ids, gib)
                placed.append(Placed(option, ids, tokens))
                break
        else:
            return None
    return placed


def _widths(want: Want, least: int, most: int) -> Iterator[int]:
    if want.tp is not None:
        if want.tp <= most and memory.can_split(want.card, want.tp):
            yield want.tp
        return
    width = least
    while width <= most:
        if memory.can_split(want.card, width):
            yield width
        width *= 2


def fill(placed: Sequence[Placed], gpus: Sequence[Gpu]) -> list[Placed]:
    """Share out what is left by what each needs, and round down to whole pages."""
    result = list(placed)
    for _ in range(8):  # a server on several cards is held back by the fullest: what it leaves is shared out again
        cards = Cards(gpus)
        for one in result:
            cards.take(one.gpu_ids, one.gib)
        grown = [_grow(one, result, cards) for one in result]
        if grown == result:
            break
        result = grown
    return result


def _grow(one: Placed, all_placed: Sequence[Placed], cards: Cards) -> Placed:
    def need_gib(each: Placed) -> float:
        return each.option.kv_gib(each.option.want.wished_tokens, each.tp)

    if one.option.want.card.kind == "embedding":
        return one  # no conversation comes back to it, so that more would hold nothing
    takers = [each for each in all_placed if each.option.want.card.kind != "embedding"]
    share = min(
        cards.free[gpu] * need_gib(one) / sum(need_gib(other) for other in takers if gpu in other.gpu_ids)
        for gpu in one.gpu_ids
    )
    return replace(one, tokens=one.tokens + memory.tokens_in(share, one.option.cell_bytes(one.tp)))


def start_in_order(placed: Sequence[Placed], gpus: Sequence[Gpu]) -> list[ServerPlan]:
    """The servers in the order of starting, each with what it will find: the largest weights first, when the cards
    are emptiest, because loading takes more than what is loaded."""
    free = {gpu.id: gpu.total_gib for gpu in gpus}
    servers: list[ServerPlan] = []
    for one in sorted(placed, key=lambda each: -each.option.checkpoint.weights_gib / each.tp):
        server = _server(one, min(free[each] for each in one.gpu_ids))
        servers.append(server)
        for each in one.gpu_ids:
            free[each] -= server.arithmetic.total_gib
    return servers


def _server(one: Placed, free_gib: float) -> ServerPlan:
    option, want, tp = one.option, one.option.want, one.tp
    cell = option.cell_bytes(tp)
    arithmetic = Arithmetic(
        free_at_start_gib=free_gib,
        context_gib=memory.CONTEXT_GIB,
        weights_gib=memory.weights_gib(option.checkpoint, tp=tp, draft=option.draft),
        fixed_gib=option.fixed_static_gib(tp),
        runtime_gib=option.runtime_gib(tp),
        kv_gib=memory.kv_gib(one.tokens, cell),
        kv_bytes_per_token=cell,
    )
    return ServerPlan(
        key=want.card.key,
        card=want.card,
        checkpoint=option.checkpoint,
        roles=tuple(use.role for use in want.uses),
        port=want.port,
        gpu_ids=one.gpu_ids,
        tp=tp,
        context_length=min(option.context_tokens, one.tokens),
        max_total_tokens=one.tokens,
        mem_fraction_static=memory.fraction_for(arithmetic, free_gib),
        kv_dtype=option.kv,
        max_running=option.max_running,
        chunked_prefill_tokens=CHUNK_TOKENS,
        state_slots=option.state_slots,
        yarn_factor=yarn_factor(want.card, want.context_tokens),
        draft=option.draft,
        priority_scheduling=want.card.kind == "chat",
        arithmetic=arithmetic,
    )


def _paged(tokens: int) -> int:
    """Up to whole pages."""
    return -(-tokens // memory.PAGE_TOKENS) * memory.PAGE_TOKENS
