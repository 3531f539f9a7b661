"""`nightcrew up`: the service in the foreground."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from nightcrew.cli.output import JsonFlag, examples

if TYPE_CHECKING:
    from nightcrew.config import Config
    from nightcrew.events import Recorded

_UP = examples(
    "nightcrew up                                    then drop task files into its inbox",
    "NIGHTCREW_HOME=/srv/nightcrew nightcrew up      another home",
    "nightcrew up --json >> events.jsonl             one line for each event",
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("up", epilog=_UP, short_help="Run the service.")(up)


def up(json: JsonFlag = False) -> None:
    """Take tasks from the inbox and the queue until stopped (Ctrl-C, SIGTERM).

    Running tasks are let go of then, and go on at the next start. A second signal stops at once.
    """
    import faulthandler
    from functools import partial

    import anyio

    from nightcrew.cli import eventlog
    from nightcrew.config import environment, load_config
    from nightcrew.service import Service, serve
    from nightcrew.service.herald import Herald
    from nightcrew.service.notify import Notifier, passed_sockets
    from nightcrew.service.outside import open_door
    from nightcrew.service.worker import open_worker
    from nightcrew.telemetry.log import set_level

    faulthandler.enable()  # a watchdog's SIGABRT shows where the loop hung
    config = load_config()
    show, say = eventlog.set_up(config.log, environment())

    def on_event(recorded: Recorded) -> None:
        if json:
            typer.echo(recorded.model_dump_json(ensure_ascii=True))
        show(recorded)

    def reread() -> Config:
        fresh = load_config()
        set_level(fresh.log.level)
        return fresh

    service = Service(
        config,
        open_worker=open_worker,
        say=say,
        open_door=partial(open_door, sockets=passed_sockets(environment()), current=lambda: service.config),
        on_event=on_event,
        herald=Herald(Notifier(environment())),
    )
    say(f"home {config.home}; drop task files into {config.inbox}; results come to {config.outbox}")
    anyio.run(partial(serve, load=reread), service, say)
