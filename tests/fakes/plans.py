"""Plans of the built-in crews as text, for the golden tables."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from nightcrew.cli.crew_plan import lines
from nightcrew.crew.files import builtin_names, load_builtin
from nightcrew.crew.planning import plan_crew
from nightcrew.serving.plan import CrewPlan, Gpu

GOLDEN = Path(__file__).resolve().parents[1] / "golden/plans"

MACHINES = (
    *((1, gib) for gib in (24.0, 32.0, 48.0, 80.0, 94.97, 141.0)),
    *((2, gib) for gib in (24.0, 48.0, 80.0)),
    *((4, gib) for gib in (24.0, 48.0)),
)
"""How many cards, and what is free on each: 94.97 is what an RTX PRO 6000 of 96 GB shows."""


@cache
def _plain(name: str, gib: float, count: int) -> CrewPlan:
    return plan_crew(load_builtin(name), _cards(gib, count))


def planned(name: str, gib: float, count: int = 1, **options: object) -> CrewPlan:
    if not options:
        return _plain(name, gib, count)
    return plan_crew(load_builtin(name), _cards(gib, count), **options)  # type: ignore[arg-type]


def _cards(gib: float, count: int) -> list[Gpu]:
    return [Gpu(id=number, total_gib=gib) for number in range(count)]


def table(name: str) -> str:
    """The crew on every machine."""
    parts = [f"$ nightcrew crew plan {name} --gpus {count} --gpu-gib {gib:g}\n" for count, gib in MACHINES]
    for place, (count, gib) in enumerate(MACHINES):
        parts[place] += "\n".join(lines(planned(name, gib, count))) + "\n"
    return "\n".join(parts)


def crews() -> list[str]:
    return [name for name in builtin_names() if load_builtin(name).models()]
