"""`nightcrew crew plan`: whether a crew fits on a machine's cards, by arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nightcrew.cli.crew_choice import NameArgument, chosen
from nightcrew.cli.output import JsonFlag, emit, examples, out, say

if TYPE_CHECKING:
    from nightcrew.crew.files import CrewFile
    from nightcrew.serving.plan import CrewPlan, Gpu

GpuGibOption = Annotated[
    float | None,
    typer.Option("--gpu-gib", min=1, max=4096, metavar="GIB", help="Memory of each card; this machine's when absent."),
]
GpusOption = Annotated[
    int | None, typer.Option("--gpus", min=1, max=64, metavar="N", help="How many such cards (1); needs --gpu-gib.")
]
ContextOption = Annotated[
    list[str] | None,
    typer.Option("--context", metavar="ROLE=TOKENS", help="Context that a role must have; may be given several times."),
]
RamOption = Annotated[
    float | None,
    typer.Option("--ram-gib", min=1, metavar="GIB", help="Main memory that KV caches may spread into (HiCache)."),
]

_BAR = 60
"""Columns of a card."""
_SIGNS = "# weights, + overhead, = KV cache, . free; servers from left to right in the order of starting"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "plan",
        epilog=examples(
            "nightcrew crew plan trio --gpu-gib 96",
            "nightcrew crew plan trio --gpus 2 --gpu-gib 48",
            "nightcrew crew plan duo --gpu-gib 80 --context planner=65536 --json",
            "nightcrew crew plan trio --ram-gib 256             on the cards of this machine",
        ),
    )(plan)


def plan(
    name: NameArgument = None,
    gpu_gib: GpuGibOption = None,
    gpus: GpusOption = None,
    context: ContextOption = None,
    ram_gib: RamOption = None,
    json: JsonFlag = False,
) -> None:
    """Say whether a crew's models fit together on a machine's cards, and what context each gets.

    No GPU is needed: it is arithmetic. Exits with 0 when the crew fits, with 1 when it does not.
    """
    crew = chosen(name)
    planned = planned_for(crew, gpu_gib=gpu_gib, gpus=gpus, context=context, ram_gib=ram_gib)
    if json:
        emit({**planned.model_dump(mode="json"), "fits": planned.fits})
    else:
        for line in lines(planned):
            out(line)
        if not crew.models():
            what = "the embedded model plays every role, on the CPU" if crew.embedded else "no model is served here"
            out(f"{crew.name} needs no card: {what}")
    raise typer.Exit(0 if planned.fits else 1)


def planned_for(
    crew: CrewFile,
    *,
    gpu_gib: float | None = None,
    gpus: int | None = None,
    context: list[str] | None = None,
    ram_gib: float | None = None,
) -> CrewPlan:
    """The plan that these options ask for. Raises `typer.BadParameter` for options that say nothing."""
    from nightcrew.crew.planning import plan_crew

    wanted = _contexts(context or [])
    if unknown := sorted(wanted.keys() - crew.roles.keys()):
        there = ", ".join(crew.roles) or "none: the embedded model plays them all"
        raise typer.BadParameter(f"--context: the crew {crew.name} has no {unknown[0]}; it has {there}")
    cards = [] if not crew.models() else _cards(gpu_gib, gpus)
    return plan_crew(crew, cards, context=wanted, ram_gib=ram_gib)


def _cards(gib: float | None, count: int | None) -> list[Gpu]:
    from nightcrew.serving.plan import Gpu

    if gib is not None:
        return [Gpu(id=number, total_gib=gib) for number in range(count or 1)]
    if count is not None:
        raise typer.BadParameter("--gpus: say how large each is, too: --gpu-gib 48")
    return _this_machine()


def _this_machine() -> list[Gpu]:
    """The cards as they are now. What other programs hold of them is theirs."""
    from nightcrew.serving.gpus import NoNvml, read_machine
    from nightcrew.serving.plan import Gpu

    try:
        cards = read_machine().cards
    except NoNvml as error:
        raise typer.BadParameter(f"say how large a card is, as in --gpu-gib 96: {error}") from None
    if not cards:
        raise typer.BadParameter("this machine has no card that NVIDIA's driver knows; name one: --gpu-gib 96")
    for card in cards:
        if card.free_gib < 0.97 * card.total_gib:
            say(f"GPU {card.id}: other programs hold {card.total_gib - card.free_gib:.1f} GiB; planned on the rest")
    return [Gpu(id=card.id, total_gib=card.free_gib, capability=card.capability) for card in cards]


def _contexts(given: list[str]) -> dict[str, int]:
    """`role=tokens` pairs. Raises `typer.BadParameter`."""
    found: dict[str, int] = {}
    for pair in given:
        role, _, tokens = pair.partition("=")
        if not role or not tokens.isdecimal() or not 1024 <= int(tokens) <= 10_000_000:
            raise typer.BadParameter(f"--context {pair}: write ROLE=TOKENS, 1024 or more, as in planner=65536")
        found[role] = int(tokens)
    return found


# --- for people


def lines(planned: CrewPlan) -> list[str]:
    """A plan: a table of servers in the order of starting, a bar of each card, warnings, what does not fit."""
    text: list[str] = []
    if planned.servers:
        text += [*_table(planned), "", *(_bar(planned, place) for place in range(len(planned.gpus))), f"  {_SIGNS}"]
    if planned.outside:
        text.append(f"not planned, since they are served elsewhere: {', '.join(planned.outside)}")
    text += [f"note: {warning}" for warning in planned.warnings]
    for misfit in planned.misfits:
        text.append(f"{planned.crew} does not fit: {misfit.what}")
        text += [f"  what would: {nearest}" for nearest in misfit.nearest]
    return text


_HEAD = ("server", "roles", "port", "GPU", "weights", "KV", "context", "pool", "fraction", "# GiB", "+ GiB", "= GiB")


def _table(planned: CrewPlan) -> list[str]:
    ram = any(server.hicache_gib for server in planned.servers)
    rows = [[*_HEAD, "RAM GiB"] if ram else [*_HEAD]]
    for server in planned.servers:
        sums = server.arithmetic
        row: list[str] = [
            server.key,
            " ".join(server.roles),
            str(server.port),
            "+".join(str(each) for each in server.gpu_ids),
            server.checkpoint.format,
            server.kv_dtype,
            f"{server.context_length:,}",
            f"{server.max_total_tokens:,}",
            f"{server.mem_fraction_static:.3f}",
            f"{sums.weights_gib:.1f}",
            f"{sums.overhead_gib:.1f}",
            f"{sums.kv_gib:.1f}",
        ]
        rows.append([*row, f"{server.hicache_gib:g}" if server.hicache_gib else "-"] if ram else row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join([*_left(row, widths), *_right(row, widths)]).rstrip() for row in rows]


def _left(row: list[str], widths: list[int]) -> list[str]:
    return [row[column].ljust(widths[column]) for column in (0, 1)]


def _right(row: list[str], widths: list[int]) -> list[str]:
    return [row[column].rjust(widths[column]) for column in range(2, len(row))]


def _bar(planned: CrewPlan, place: int) -> str:
    """A card as a line, drawn to scale."""
    gpu = planned.gpus[place]
    drawn = ""
    done = 0.0
    for server in planned.servers:
        if gpu.id in server.gpu_ids:
            sums = server.arithmetic
            for sign, gib in (("#", sums.weights_gib), ("+", sums.overhead_gib), ("=", sums.kv_gib)):
                done += gib
                drawn = drawn.ljust(round(done / gpu.total_gib * _BAR), sign)
    return f"GPU {gpu.id}  [{drawn:.<{_BAR}}]  {planned.left_gib[place]:.1f} of {gpu.total_gib:g} GiB stay free"
