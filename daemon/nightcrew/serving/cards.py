"""The cards of this machine as the driver sees them, by `nvidia-smi`, which comes with it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from nightcrew.errors import ServingError

_QUERY = (
    "nvidia-smi",
    "--query-gpu=index,name,memory.total,memory.reserved,memory.free,compute_cap",
    "--format=csv,noheader,nounits",
)
_SECONDS = 20.0


@dataclass(frozen=True)
class Card:
    """One card. GiB are 2**30 bytes."""

    id: int
    """In the order of the bus, as nvidia-smi numbers them."""
    name: str
    total_gib: float
    """Without what the driver keeps for itself."""
    free_gib: float
    capability: str
    """Compute capability, such as `12.0`."""


def read_cards() -> list[Card]:
    """Every card. Raises `ServingError`, which says what to install or look at."""
    try:
        said = subprocess.run(_QUERY, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except FileNotFoundError:
        raise ServingError(
            "no NVIDIA driver on this machine (nvidia-smi is not there): install it, or plan for a card by --gpu-gib N"
        ) from None
    except subprocess.TimeoutExpired:
        raise ServingError(f"nvidia-smi did not answer within {_SECONDS:.0f} s: look into `dmesg` for Xid") from None
    if said.returncode != 0:
        words = " ".join((said.stdout + said.stderr).split())[:200]
        raise ServingError(f"nvidia-smi failed: {words}; reboot after a driver update, or install the driver anew")
    return parse_cards(said.stdout)


def parse_cards(text: str) -> list[Card]:
    """The answer to the query: one line a card, memory in MiB. Lines without figures (a card that is lost) are left
    out."""
    cards: list[Card] = []
    for line in text.splitlines():
        index, _, rest = line.partition(",")
        name, *figures = rest.rsplit(",", 4)
        try:
            total, reserved, free, capability = (figure.strip() for figure in figures)
            usable_mib = float(total) - float(reserved)
            cards.append(Card(int(index), name.strip(), usable_mib / 1024, float(free) / 1024, capability))
        except ValueError:
            continue
    return cards


def least_free_gib(cards: Sequence[Card], ids: Sequence[int]) -> float | None:
    """Of these cards, on the one with the least; None where one of them is not known."""
    free = {card.id: card.free_gib for card in cards}
    return min(free[each] for each in ids) if ids and all(each in free for each in ids) else None
