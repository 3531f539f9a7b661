"""Watching a task that another process works on, through the journal."""

from __future__ import annotations

import anyio

from nightcrew.cli.progress import Progress
from nightcrew.config import Config
from nightcrew.gateway import JournalGateway
from nightcrew.journal import Journal
from nightcrew_tools.contract import TaskView

POLL_SECONDS = 0.25


async def follow(config: Config, task: str, progress: Progress) -> TaskView:
    """Show a task's events as they come, and return its view once it has an exit code (see `TaskView`)."""
    with Journal.open(config.journal, read_only=True) as journal:
        gateway = JournalGateway(journal, config)
        seen, version = 0, -1
        while True:
            if version != (current := journal.data_version()):
                version = current
                for recorded in journal.read(task, after=seen):
                    progress.show(recorded)
                    seen = recorded.seq
                view = await gateway.view(task)
                if view.exit_code is not None:
                    return view
            await anyio.sleep(POLL_SECONDS)
