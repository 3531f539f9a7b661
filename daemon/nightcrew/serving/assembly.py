"""From planned servers to keepers: where sglang and the weights are, and what is really free on the cards."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nightcrew.config import Config, hub_dir
from nightcrew.errors import ServingError
from nightcrew.serving import memory
from nightcrew.serving.gpus import Card, NoNvml, read_machine
from nightcrew.serving.keeper import Event, Keeper, Times
from nightcrew.serving.launch import Launch, launch
from nightcrew.serving.plan import ServerPlan
from nightcrew.serving.snapshots import Cache, trouble

ReadCards = Callable[[], Sequence[Card]]
"""The cards as they are now; empty where they cannot be seen, and the plan's figures hold."""


def serving_dir(home: Path) -> Path:
    """Logs of the servers, and the lock under which they start."""
    return home / "serving"


def python_of(config: Config) -> Path:
    """The interpreter that has sglang: the configured one, that of `sglang/` under the home, or this one."""
    if config.serving.python is not None:
        return config.serving.python.expanduser()
    beside = config.home / "sglang" / "bin" / "python"
    return beside if beside.exists() else Path(sys.executable)


def find_weights(name: str, config: Config, environ: Mapping[str, str]) -> Path | None:
    """The directory with a repository's files: the configured one, or the hub's cache; None where it is not here."""
    if (named := config.serving.models.get(name)) is not None:
        path = named.expanduser()
        return path if path.is_dir() else None
    return Cache(hub_dir(environ), name).current()


def read_cards() -> tuple[Card, ...]:
    """The cards of this machine as they are now. Raises `ServingError`, which says what to do."""
    try:
        cards = read_machine().cards
    except NoNvml as error:
        remedy = error.remedy or "install NVIDIA's driver"
        raise ServingError(f"the cards cannot be read: {error.why}: {remedy}, or plan by --gpu-gib N") from None
    if not cards:
        raise ServingError("the driver shows no card; plan by --gpu-gib N")
    return cards


def least_free_gib(cards: Sequence[Card], ids: Sequence[int]) -> float | None:
    """Of these cards, on the one with the least; None where one of them is not known."""
    free = {card.id: card.free_gib for card in cards}
    return min(free[each] for each in ids) if ids and all(each in free for each in ids) else None


def repositories(server: ServerPlan) -> list[str]:
    """What must be on the disk before the server can start."""
    draft = server.draft.hf_id if server.draft is not None else None
    return [server.checkpoint.hf_id, *([draft] if draft else [])]


def command_of(server: ServerPlan, config: Config, environ: Mapping[str, str], *, cards: Sequence[Card] = ()) -> Launch:
    """How to start a server on the cards as they are now. Raises `ServingError` when something is not there, or too
    much of a card is taken."""
    checkpoint, *draft = (_weights(name, config, environ) for name in repositories(server))
    known = {card.id: card.capability for card in cards}
    return launch(
        retuned(server, least_free_gib(cards, server.gpu_ids)),
        config.serving,
        python=python_of(config),
        model_path=checkpoint,
        draft_path=draft[0] if draft else None,
        environ=environ,
        capability=known.get(server.gpu_ids[0]),
    )


def retuned(server: ServerPlan, free_gib: float | None) -> ServerPlan:
    """The same plan for a card on which `free_gib` are free, which after a restart is less than was planned: SGLang's
    fraction is one of what is free when it starts. Raises `ServingError` when that is too little."""
    if free_gib is None:
        return server
    sums = server.arithmetic
    needed = sums.context_gib + sums.weights_gib + sums.fixed_gib + sums.kv_gib + memory.SAFETY_GIB
    if free_gib < needed:
        cards = ", ".join(map(str, server.gpu_ids))
        raise ServingError(
            f"{server.key} needs {needed:.1f} GiB of card {cards}, of which {free_gib:.1f} are free: stop what else "
            "uses it (nvidia-smi lists it), or plan for what is free with --gpu-gib"
        )
    fraction = memory.fraction_for(sums, free_gib)
    return server.model_copy(update={"mem_fraction_static": min(fraction, 0.99)})


def keepers(
    servers: Sequence[ServerPlan],
    config: Config,
    environ: Mapping[str, str],
    *,
    tell: Callable[[Event], None],
    read_cards: ReadCards,
    times: Times | None = None,
) -> list[Keeper]:
    """One for each server, in the same order. Raises `ServingError` at once for weights that are not there."""
    missing = [
        name for server in servers for name in repositories(server) if find_weights(name, config, environ) is None
    ]
    if not missing:
        _see_that_whole(servers, config, environ)
    else:
        raise ServingError(
            f"not on this machine: {', '.join(dict.fromkeys(missing))}; fetch them (`nightcrew crew pull`), or say "
            "under [serving.models] where they lie"
        )
    folder = serving_dir(config.home)

    def keeper(server: ServerPlan) -> Keeper:
        return Keeper(
            server.key,
            lambda: command_of(server, config, environ, cards=read_cards()),
            kind=server.card.kind,
            planned_tokens=server.max_total_tokens,
            logs=folder,
            lock=folder / "start.lock",
            tell=tell,
            times=times or Times(ready=config.serving.ready_seconds),
        )

    return [keeper(server) for server in servers]


def _see_that_whole(servers: Sequence[ServerPlan], config: Config, environ: Mapping[str, str]) -> None:
    """What was pulled is looked at, since a server says little of a file that is cut off; a person's own directory
    (`[serving.models]`) is theirs."""
    for name in {name for server in servers for name in repositories(server)} - config.serving.models.keys():
        path = find_weights(name, config, environ)
        if path is not None and (wrong := trouble(path)):
            raise ServingError(f"the weights of {name} are not whole: {wrong}; `nightcrew crew pull` mends them")


def _weights(name: str, config: Config, environ: Mapping[str, str]) -> str:
    path = find_weights(name, config, environ)
    if path is None:
        raise ServingError(f"the weights of {name} are not on this machine any more: `nightcrew crew pull`")
    return str(path)
