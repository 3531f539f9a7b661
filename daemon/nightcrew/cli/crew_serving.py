"""`nightcrew crew serve`: a crew's model servers, started as planned and kept running."""

from __future__ import annotations

import shlex
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightcrew.cli.crew_choice import NameArgument, chosen
from nightcrew.cli.output import JsonFlag, emit, examples, out, say

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    import anyio

    from nightcrew.config import Config
    from nightcrew.crew.files import CrewFile
    from nightcrew.serving.gpus import Card
    from nightcrew.serving.keeper import Event
    from nightcrew.serving.launch import Launch
    from nightcrew.serving.plan import CrewPlan, Gpu, ServerPlan

_SERVE = examples(
    "nightcrew crew serve trio                         on the cards of this machine, until Ctrl-C",
    "nightcrew crew serve trio --gpu-gib 96 --dry-run  the exact commands, no card needed",
    "nightcrew crew serve trio --only qwen3-32b        one server of it, as nightcrew-model@.service does",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve", epilog=_SERVE)(serve)


def serve(
    name: NameArgument = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="KEY", help="This server alone, after those before it are ready.")
    ] = None,
    gpu_gib: Annotated[
        float | None, typer.Option("--gpu-gib", min=1, help="Plan for cards of so many GiB instead of asking them.")
    ] = None,
    gpus: Annotated[int, typer.Option("--gpus", min=1, max=64, help="How many such cards.")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands and start nothing.")] = False,
    json: JsonFlag = False,
) -> None:
    """Start the crew's model servers with SGLang, one after the other, and keep them running.

    Each is waited for and sent its longest prompt before the next one starts. A server that ends is started again
    with growing pauses; what cannot work is said in a sentence. Stops on SIGTERM or Ctrl-C, the last one first. All
    listen on 127.0.0.1 without a key. Logs: `serving/` under NIGHTCREW_HOME.
    """
    from nightcrew.config import load_config

    config = load_config()
    crew, only = _which(name, only)
    gpu_list, read_cards = cards_to_plan_for(gpu_gib, gpus)
    planned = fitting_plan(crew, gpu_list)
    servers = _chosen(planned, only)
    if dry_run:
        _print_commands(servers, config, json=json)
        return
    _run(config, planned, servers, read_cards, Teller(json=json))


def _which(name: str | None, only: str | None) -> tuple[CrewFile, str | None]:
    """The crew, and the one server of it. `trio.qwen3-32b`, the instance of a unit, is both in one word."""
    from nightcrew.config import environment
    from nightcrew.crew.files import names

    there = names(environment())
    if name is not None and only is None and name not in there:
        for at in (index for index, letter in enumerate(name) if letter == "."):
            if name[:at] in there:
                return chosen(name[:at]), name[at + 1 :]
    return chosen(name), only


def cards_to_plan_for(gpu_gib: float | None, count: int) -> tuple[list[Gpu], Callable[[], Sequence[Card]]]:
    """The cards to plan for, and how to look at them when a server starts."""
    from nightcrew.serving.assembly import read_cards
    from nightcrew.serving.plan import Gpu

    if gpu_gib is not None:
        return [Gpu(id=number, total_gib=gpu_gib) for number in range(count)], list
    found = read_cards()
    # Not by what is free: the plan must be the same when one server of it starts again beside the others.
    return [Gpu(id=card.id, total_gib=card.total_gib) for card in found], read_cards


def fitting_plan(crew: CrewFile, gpus: list[Gpu]) -> CrewPlan:
    """The crew's plan for these cards. Exits with 1, and the plan's words, where it does not fit; raises `ServingError`
    where nothing would be served."""
    from nightcrew.cli.crew_plan import lines
    from nightcrew.crew.planning import plan_crew
    from nightcrew.errors import ServingError

    planned = plan_crew(crew, gpus)
    if not planned.fits:
        for line in lines(planned):
            say(line)
        raise typer.Exit(1)
    if not planned.servers:
        raise ServingError(f"crew {crew.name} has no model that is served here: there is nothing to start")
    return planned


def _chosen(planned: CrewPlan, only: str | None) -> tuple[ServerPlan, ...]:
    if only is None:
        return planned.servers
    server = planned.server(only)
    if server is None:
        keys = ", ".join(each.key for each in planned.servers)
        raise typer.BadParameter(f"--only {only}: crew {planned.crew} has no such server; it has {keys}")
    return (server,)


def _print_commands(servers: Sequence[ServerPlan], config: Config, *, json: bool) -> None:
    launches = [_command(server, config) for server in servers]
    if json:
        emit([{"server": one.key, "model": one.model, "argv": one.argv, "env": _added(one)} for one in launches])
        return
    for one in launches:
        out(f"# {one.key}: {one.model} on port {one.port}")
        out(" ".join(f"{name}={shlex.quote(value)}" for name, value in sorted(_added(one).items())) + " \\")
        out(f"  {shlex.join(one.argv)}")


def _command(server: ServerPlan, config: Config) -> Launch:
    """As it would be started, with the repositories' names where the weights are not here."""
    from nightcrew.config import environment
    from nightcrew.serving.assembly import find_weights, python_of, repositories
    from nightcrew.serving.launch import launch

    paths = [str(find_weights(name, config, environment()) or name) for name in repositories(server)]
    return launch(
        server,
        config.serving,
        python=python_of(config),
        model_path=paths[0],
        draft_path=paths[1] if len(paths) > 1 else None,
        environ=environment(),
    )


def _added(launch: Launch) -> dict[str, str]:
    """What of its environment this process does not have."""
    from nightcrew.config import environment

    there = environment()
    return {name: value for name, value in launch.env.items() if there.get(name) != value}


def _run(
    config: Config,
    planned: CrewPlan,
    servers: Sequence[ServerPlan],
    read_cards: Callable[[], Sequence[Card]],
    teller: Teller,
) -> None:
    import anyio

    from nightcrew.config import environment
    from nightcrew.serving.assembly import keepers
    from nightcrew.serving.launch import HOST
    from nightcrew.serving.supervise import Supervisor, await_ready

    async def main() -> None:
        kept = keepers(servers, config, environment(), tell=teller.tell, read_cards=read_cards)
        supervisor = Supervisor(kept, on_up=teller.up)

        def stop() -> None:
            teller.stopping()
            supervisor.stop()

        async with _until_signal(stop) as early:
            with early:
                if before:
                    say(f"waiting for {', '.join(before)}: they come first in the plan")
                    await await_ready(before, seconds=config.serving.ready_seconds * len(before))
            await supervisor.run()

    first = planned.servers.index(servers[0])
    before = [f"http://{HOST}:{server.port}" for server in planned.servers[:first]]
    anyio.run(main)


@asynccontextmanager
async def _until_signal(stop: Callable[[], None]) -> AsyncGenerator[anyio.CancelScope]:
    """Calls `stop`, and cancels the scope that it gives, on SIGTERM or SIGINT; a second one ends the process."""
    import os
    import signal

    import anyio

    early = anyio.CancelScope()

    async def heed() -> None:
        stopping = False
        async for number in signals:
            if stopping:
                os._exit(128 + number)
            stopping = True
            stop()
            early.cancel()

    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with anyio.create_task_group() as group:
            group.start_soon(heed)
            yield early
            group.cancel_scope.cancel()


class Teller:
    """What happens to the servers, as lines for a person on standard error, or as JSON lines on standard output."""

    def __init__(self, *, json: bool) -> None:
        from nightcrew.config import environment
        from nightcrew.service.notify import Notifier

        self._json = json
        self._manager = Notifier(environment())
        self._since: dict[str, float] = {}

    def tell(self, event: Event) -> None:
        now = time.monotonic()
        if event.kind == "starting":
            self._since[event.server] = now
        if event.kind != "load":
            self._manager.send(f"STATUS={event.server}: {event.text}")
        seconds = now - self._since.get(event.server, now)
        if self._json:
            self._emit(server=event.server, kind=event.kind, text=event.text, data=event.data)
        elif event.kind == "phase":
            say(f"{event.server}: {seconds:4.0f} s  {event.text}")
        else:
            say(f"{event.server}: {event.text}")

    def up(self) -> None:
        """Every server has answered its longest prompt; a service manager hears that, too."""
        self._manager.send("READY=1", "STATUS=all servers are up")
        if self._json:
            self._emit(server=None, kind="up", text="all servers are up", data={})
        else:
            say("all servers are up")

    def stopping(self) -> None:
        """A person or a service manager asked for it."""
        self._manager.send("STOPPING=1")
        say("stopping (once more to stop at once)")

    def _emit(self, **values: Any) -> None:
        import json

        typer.echo(json.dumps(values))
