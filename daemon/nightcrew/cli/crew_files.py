"""`nightcrew crew pull` and `route`: a crew's weights on this disk, and a router before several machines."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from nightcrew.cli.crew_choice import NameArgument, chosen
from nightcrew.cli.output import JsonFlag, emit, examples, out, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from nightcrew.serving.hub import Hub
    from nightcrew.serving.plan import CrewPlan
    from nightcrew.serving.pull import Job, Tell

_PULL = examples(
    "nightcrew crew pull trio                            for the cards of this machine",
    "nightcrew crew pull trio --gpu-gib 96 --dry-run     what, and how many GiB",
    "nightcrew crew pull trio --from /media/usb/models   a copy of the hub's cache, or folders ORG/NAME",
)

_ROUTE = examples(
    "nightcrew crew route trio --worker http://10.0.0.5:30000 --worker http://10.0.0.6:30000",
    "nightcrew crew route trio --worker http://10.0.0.5:30000 --systemd > /etc/systemd/system/nightcrew-route.service",
    "nightcrew crew route trio --crew-file > ~/.config/nightcrew/crews/trio-routed.toml",
)

Result = TypeVar("Result")

GpuGib = Annotated[
    float | None, typer.Option("--gpu-gib", min=1, help="Choose for cards of so many GiB instead of asking them.")
]
Gpus = Annotated[int, typer.Option("--gpus", min=1, max=64, help="How many such cards.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("pull", epilog=_PULL)(pull)
    app.command("route", epilog=_ROUTE)(route)


def pull(
    name: NameArgument = None,
    gpu_gib: GpuGib = None,
    gpus: Gpus = 1,
    mirror: Annotated[
        Path | None, typer.Option("--from", metavar="DIR", help="Take them from this directory, not from the hub.")
    ] = None,
    link: Annotated[bool, typer.Option("--link", help="With --from: link to its files instead of copying.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read what is here already; fetch what is damaged.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what and how much; fetch nothing.")] = False,
    json: JsonFlag = False,
) -> None:
    """Fetch the weights that the crew's plan needs into the hub's cache, where SGLang finds them.

    Only what serving reads: configuration, tokenizer, and the weights once. What an earlier pull has left is kept and
    gone on with; every file that comes is compared with the checksum that the hub states. A licence that has to be
    accepted is named; set HF_TOKEN then.
    """
    from nightcrew.config import environment, hub_dir
    from nightcrew.serving.pull import check_room, drop_damaged, jobs_from, jobs_of
    from nightcrew.serving.pull import pull as fetch

    if link and mirror is None:
        raise typer.BadParameter("--link goes with --from DIR")
    directory = hub_dir(environment())
    repos = _repositories(_planned(name, gpu_gib, gpus))
    hub = _hub() if mirror is None else None
    jobs = jobs_of(repos, directory, hub.look) if hub else jobs_from(repos, directory, (mirror or Path()).expanduser())
    if verify:
        for damaged in _with_meter(lambda tell: drop_damaged(jobs, directory, tell)):
            say(f"{damaged} is not what the hub states: removed, to be fetched again")
    if dry_run:
        _tell(jobs, directory, json=json)
        check_room(jobs, directory, link=link)
        return
    if not json:
        _tell(jobs, directory, json=False)
    paths = _with_meter(lambda tell: fetch(jobs, directory, hub.fetch if hub else None, tell, link=link))
    if json:
        emit([_facts(job) | {"path": str(paths[job.listing.repo])} for job in jobs])
    else:
        for path in paths.values():
            out(str(path))


def route(
    name: NameArgument = None,
    worker: Annotated[
        list[str] | None,
        typer.Option("--worker", metavar="URL", help="A model server; again for more. Default: this machine's ports."),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Where the router listens. It asks nobody for a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 30080,
    metrics_port: Annotated[int, typer.Option("--metrics-port", min=1, max=65535, help="For Prometheus.")] = 29000,
    systemd: Annotated[bool, typer.Option("--systemd", help="Print a systemd unit.")] = False,
    crew_file: Annotated[bool, typer.Option("--crew-file", help="Print a crew that asks the router.")] = False,
    json: JsonFlag = False,
) -> None:
    """Write how to start smg, the router before model servers on several machines.

    It asks the servers which models they have, so that a request goes by its model's name, and to the server that
    holds most of its beginning. Nothing is started: without an option the command line is printed.
    """
    import shutil

    from nightcrew.serving.router import INSTALL, Route, workers_of

    crew = chosen(name)
    models = {role: bound.settings.model for role, bound in crew.roles.items() if bound.local}
    if not models:
        raise typer.BadParameter(f"crew {crew.name} has no model that is served by servers of its own")
    workers = workers_of(worker or (), [crew.port(model) for model in crew.models()])
    program = shutil.which("smg")
    made = Route(crew.name, workers, host, port, metrics_port, program or "smg")
    if json:
        texts = {"unit": made.unit(), "crew_file": made.crew_file(models)}
        emit({"argv": made.argv, "url": made.url, "workers": workers, "installed": program is not None, **texts})
        return
    if systemd:
        out(made.unit().rstrip("\n"))
    elif crew_file:
        out(made.crew_file(models).rstrip("\n"))
    else:
        out(shlex.join(made.argv))
    if program is None:
        say(f"smg is not installed here: {INSTALL}")
    if not made.is_local:
        say(f"whoever reaches {host}:{port} can use the models: smg asks nobody for a key")


def _hub() -> Hub:
    """Raises `PullError` where its client is not installed."""
    from nightcrew.config import environment, hub_endpoint, hub_token
    from nightcrew.errors import PullError

    try:
        from nightcrew.serving.hub import Hub
    except ImportError as error:
        raise PullError(f"huggingface_hub is not installed ({error}): pip install 'nightcrew[serving]'") from None
    return Hub(hub_endpoint(environment()), hub_token(environment()))


def _planned(name: str | None, gpu_gib: float | None, gpus: int) -> CrewPlan:
    """The plan that `crew serve` would follow. Exits with 1, and the plan's words, where nothing fits."""
    from nightcrew.cli.crew_serving import cards_to_plan_for, fitting_plan

    return fitting_plan(chosen(name), cards_to_plan_for(gpu_gib, gpus)[0])


def _repositories(planned: CrewPlan) -> list[str]:
    from nightcrew.serving.assembly import repositories

    return [repo for server in planned.servers for repo in repositories(server)]


def _with_meter(run: Callable[[Tell], Result]) -> Result:
    from nightcrew.cli.models import Meter

    meter = Meter()
    try:
        return run(meter.show)
    finally:
        meter.end()


def _tell(jobs: list[Job], directory: Path, *, json: bool) -> None:
    if json:
        emit([_facts(job) for job in jobs])
        return
    for job in jobs:
        come = f"{_gib(job.bytes_to_come)} to fetch" if job.missing else "all here"
        out(f"{job.listing.repo}: {len(job.files)} files, {_gib(job.bytes)}, {come}")
    out(f"into {directory}: {_gib(sum(job.bytes_to_come for job in jobs))} to fetch")


def _facts(job: Job) -> dict[str, object]:
    return {
        "repo": job.listing.repo,
        "commit": job.listing.commit,
        "files": len(job.files),
        "bytes": job.bytes,
        "bytes_to_fetch": job.bytes_to_come,
    }


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**28 else f"{size / 2**20:.1f} MiB"
