"""`nightcrew crew plan`: whether a crew fits on a machine's cards, by arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nightcrew.cli.crew_choice import NameArgument, chosen
from nightcrew.cli.output import JsonFlag, emit, examples, out

if TYPE_CHECKING:
    from nightcrew.serving.plan import CrewPlan, Gpu

_BAR = 60
"""Columns of a card."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "plan",
        epilog=examples(
            "nightcrew crew plan trio --gpu-gib 96",
            "nightcrew crew plan trio --gpus 2 --gpu-gib 48",
            "nightcrew crew plan duo --gpu-gib 80 --context planner=65536 --json",
        ),
    )(plan)


def plan(
    name: NameArgument = None,
    gpu_gib: Annotated[
        float | None, typer.Option("--gpu-gib", min=1, help="Memory of each card in GiB, as the driver shows it.")
    ] = None,
    gpus: Annotated[int, typer.Option("--gpus", min=1, max=64, help="How many such cards.")] = 1,
    context: Annotated[
        list[str] | None,
        typer.Option("--context", metavar="ROLE=TOKENS", help="Context that a role must have; may be given often."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Say whether a crew's models fit together on a machine's cards, and what context each gets.

    No GPU is needed: it is arithmetic. Exits with 0 when the crew fits, with 1 when it does not.
    """
    from nightcrew.crew.planning import plan_crew
    from nightcrew.serving.plan import Gpu

    crew = chosen(name)
    if gpu_gib is None:
        raise typer.BadParameter("say how large the card is: --gpu-gib 96")
    cards = [Gpu(id=number, total_gib=gpu_gib) for number in range(gpus)]
    planned = plan_crew(crew, cards, context=contexts(context or []))
    if json:
        emit({**planned.model_dump(mode="json"), "fits": planned.fits})
    else:
        for line in lines(planned):
            out(line)
    raise typer.Exit(0 if planned.fits else 1)


def contexts(given: list[str]) -> dict[str, int]:
    """`role=tokens` pairs. Raises `typer.BadParameter`."""
    from nightcrew.config import ROLES

    found: dict[str, int] = {}
    for pair in given:
        role, _, tokens = pair.partition("=")
        if role not in ROLES or not tokens.isdecimal() or int(tokens) < 1024:
            raise typer.BadParameter(f"--context {pair}: write ROLE=TOKENS, 1024 or more, as in planner=65536")
        found[role] = int(tokens)
    return found


def lines(planned: CrewPlan) -> list[str]:
    """A plan for people: a table of servers, a bar of each card, what does not fit."""
    rows = [("server", "roles", "port", "weights", "kv", "context", "pool", "GiB: weights", "overhead", "KV cache")]
    for server in planned.servers:
        sums = server.arithmetic
        rows.append(
            (
                server.key,
                " ".join(server.roles),
                str(server.port),
                server.checkpoint.format,
                server.kv_dtype,
                f"{server.context_length:,}",
                f"{server.max_total_tokens:,}",
                f"{sums.weights_gib:.1f}",
                f"{sums.overhead_gib:.1f}",
                f"{sums.kv_gib:.1f}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    text = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
        if len(rows) > 1
    ]
    text += [bar(planned, gpu) for gpu in planned.gpus if planned.servers]
    text += [f"warning: {warning}" for warning in planned.warnings]
    for misfit in planned.misfits:
        text += [f"does not fit: {misfit.what}", *(f"  nearest: {nearest}" for nearest in misfit.nearest)]
    return text


def bar(planned: CrewPlan, gpu: Gpu) -> str:
    """A card as a line: `#` weights, `+` overhead, `=` KV cache, `.` free; servers in the order of starting."""
    drawn = ""
    for server in planned.servers:
        if gpu.id in server.gpu_ids:
            sums = server.arithmetic
            for sign, gib in (("#", sums.weights_gib), ("+", sums.overhead_gib), ("=", sums.kv_gib)):
                drawn += sign * round(gib / gpu.total_gib * _BAR)
            drawn += "|"
    return f"GPU {gpu.id}  [{drawn:.<{_BAR}}]  {planned.left_gib[gpu.id]:.1f} of {gpu.total_gib:g} GiB free"
