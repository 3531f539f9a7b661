"""What would fit, when a crew does not: the smallest change of each kind, tried out with the same arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from nightcrew.serving.models import ModelCard, catalog
from nightcrew.serving.plan import Gpu, Misfit
from nightcrew.serving.planner import Option, Want, arrange, options, usable_gib

USUAL_GIB = (24.0, 32.0, 48.0, 80.0, 96.0, 141.0)
SHORTEST_TOKENS = 8192
"""A shorter context holds no task."""
_STEPS = 16


def misfit(wants: Sequence[Want], gpus: Sequence[Gpu]) -> Misfit:
    """Why these do not fit on these cards, and what would."""
    found = [
        line
        for kind in (_free_choice, _shorter, _smaller, _without, _larger)
        if (line := next(kind(wants, gpus), None)) is not None
    ]
    return Misfit(what=_why(wants, gpus), nearest=tuple(found))


def _fits(wants: Sequence[Want], gpus: Sequence[Gpu]) -> bool:
    return arrange(wants, gpus) is not None


def _why(wants: Sequence[Want], gpus: Sequence[Gpu]) -> str:
    """In GiB, each model as small as it gets."""
    missing = [want for want in wants if not options(want, gpus)]
    if missing:
        there = ", ".join(dict.fromkeys(one.format for one in missing[0].card.checkpoints))
        return f"{missing[0].card.hf_id} has no checkpoint {missing[0].format}: there are {there}"
    wide = max((want.tp or 1 for want in wants), default=1)
    if wide > len(gpus):
        return f"a server is to be spread over {wide} cards, and there {'is' if len(gpus) == 1 else 'are'} {len(gpus)}"
    smallest = [min(options(want, gpus), key=_taken) for want in wants]
    room = sum(usable_gib(gpu) for gpu in gpus)
    cards = f"the card has {room:.1f} GiB" if len(gpus) == 1 else f"the {len(gpus)} cards together have {room:.1f} GiB"
    fixed = sum(option.fixed_gib(1) for option in smallest)
    if fixed > room:
        weights = sum(option.checkpoint.weights_gib for option in smallest)
        return f"weights of {weights:.1f} GiB and overhead of {fixed - weights:.1f} GiB: {cards} to give"
    cache = sum(_taken(option) - option.fixed_gib(1) for option in smallest)
    each = ", ".join(f"{option.want.card.key} {_taken(option):.1f}" for option in smallest)
    return (
        f"one request of each role's context needs {cache:.1f} GiB of KV cache beside {fixed:.1f} GiB of weights and "
        f"overhead ({each}): {cards} to give"
    )


def _taken(option: Option) -> float:
    return option.fixed_gib(1) + option.kv_gib(option.want.context_tokens, 1)


def _free_choice(wants: Sequence[Want], gpus: Sequence[Gpu]) -> Iterator[str]:
    """Another format, where the crew file or the command line settles one."""
    for place, want in enumerate(wants):
        if want.format is None and want.kv is None and want.tp is None:
            continue
        free = _with(wants, place, replace(want, format=None, kv=None, tp=None))
        arranged = arrange(free, gpus)
        if arranged is not None:
            chosen = next(one for one in arranged.placed if one.option.want.port == want.port)
            cards = f" on {chosen.tp} cards" if chosen.tp > 1 else ""
            yield f"{want.card.hf_id} as {chosen.option.checkpoint.format} with KV cache in {chosen.option.kv}{cards}"


def _shorter(wants: Sequence[Want], gpus: Sequence[Gpu]) -> Iterator[str]:
    """The longest contexts that fit, all shortened by the same share."""
    for step in range(_STEPS - 1, 0, -1):
        shorter = [_shortened(want, step / _STEPS) for want in wants]
        if shorter == list(wants):
            return
        if _fits(shorter, gpus):
            changed = [
                f"--context {use.role}={use.context_tokens}"
                for want, before in zip(shorter, wants, strict=True)
                for use, old in zip(want.uses, before.uses, strict=True)
                if use != old
            ]
            yield f"a shorter context: {' '.join(changed)}"
            return


def _shortened(want: Want, share: float) -> Want:
    def tokens(now: int) -> int:
        return min(now, max(SHORTEST_TOKENS, int(now * share) // 1024 * 1024))

    return replace(want, uses=tuple(replace(use, context_tokens=tokens(use.context_tokens)) for use in want.uses))


def _smaller(wants: Sequence[Want], gpus: Sequence[Gpu]) -> Iterator[str]:
    """A smaller model of the catalog instead of one of them, the largest first."""
    order = sorted(range(len(wants)), key=lambda place: -wants[place].card.params_b)
    others = [want.card for want in wants]
    for place in order:
        for card in _successors(wants[place]):
            if card in others:
                continue  # it would be that server
            if _fits(_with(wants, place, replace(wants[place], card=card, format=None, draft=None)), gpus):
                yield f"{card.hf_id} instead of {wants[place].card.hf_id}"
                return


def _successors(want: Want) -> list[ModelCard]:
    """Smaller models of the same kind that can have the context, the own family's first, the largest first."""
    smaller = [
        card
        for card in catalog().values()
        if card.kind == want.card.kind
        and card.params_b < 0.9 * want.card.params_b
        and card.longest_tokens >= want.context_tokens
        and (card.vision or not want.card.vision)
    ]
    return sorted(smaller, key=lambda card: (card.family != want.card.family, -card.params_b, card.key))


def _without(wants: Sequence[Want], gpus: Sequence[Gpu]) -> Iterator[str]:
    """One server fewer, where none of its roles is needed."""
    for place in sorted(range(len(wants)), key=lambda each: wants[each].card.params_b):
        roles = [use.role for use in wants[place].uses]
        if {"planner", "executor", "verifier"}.isdisjoint(roles) and _fits([*wants[:place], *wants[place + 1 :]], gpus):
            yield f"without {' and '.join(roles)} ({wants[place].card.hf_id})"


def _larger(wants: Sequence[Want], gpus: Sequence[Gpu]) -> Iterator[str]:
    """The smallest usual card that does, or more of the same."""
    smallest = min(gpu.total_gib for gpu in gpus)
    words: list[str] = []
    for gib in USUAL_GIB:
        if gib > smallest and _fits(wants, _cards(gib, len(gpus))):
            words.append(f"{len(gpus)} × {gib:g} GiB" if len(gpus) > 1 else f"a card of {gib:g} GiB")
            break
    for count in (2, 4, 8):
        if count > len(gpus) and _fits(wants, _cards(smallest, count)):
            words.append(f"{count} × {smallest:g} GiB")
            break
    if words:
        yield " or ".join(words)


def _cards(gib: float, count: int) -> list[Gpu]:
    return [Gpu(id=number, total_gib=gib) for number in range(count)]


def _with(wants: Sequence[Want], place: int, want: Want) -> list[Want]:
    return [*wants[:place], want, *wants[place + 1 :]]
