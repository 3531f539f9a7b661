"""Reports of tasks that ended while nobody ran them: the service writes them, or where none runs whoever ended them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightcrew.config import Config
    from nightcrew.journal import Journal

WAIT_SECONDS = 10.0
"""How long a service is given to write them."""


async def write_reports(config: Config, journal: Journal) -> None:
    """See that every report is there that is owed. What cannot be had here, the next start of a service writes."""
    from contextlib import suppress
    from functools import partial

    import anyio

    from nightcrew.journal.locks import ServiceLock
    from nightcrew.service.attendant import write_owed
    from nightcrew.service.upkeep import leave
    from nightcrew.service.worker import make_workspaces
    from nightcrew_workspaces.errors import BoxUnavailable

    if not journal.owed():
        return
    if ServiceLock.owner(config.home) is not None:
        with anyio.move_on_after(WAIT_SECONDS):
            while journal.owed():  # noqa: ASYNC110 - another process writes them
                await anyio.sleep(0.1)
        return
    with suppress(BoxUnavailable):
        workspaces = make_workspaces(config)
        for task in journal.owed():
            await write_owed(config, journal, task, partial(leave, config, workspaces))
