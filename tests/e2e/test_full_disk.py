"""A disk that is full in the middle of a real task: models and boxes stop, and it goes on from the same bytes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from fakes.disks import fill, small_disk
from fakes.house import ACTING, FIX, FIXED, call, config_for, git, make_repository, script
from fakes.scripted_server import ScriptedServer
from nightcrew.config import JournalSettings
from nightcrew.events import Recorded
from nightcrew.journal import Journal, health
from nightcrew.service import Service, service
from nightcrew.service.worker import open_worker
from nightcrew_tools.contract import Outcome, TaskRequest, TaskState

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

# Long enough that what is left of a page cannot hold its answer.
READS = (call("read_file", path="notes.txt"), *FIX)


async def until(condition: Callable[[], object], seconds: float = 30) -> None:
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.02)


async def test_a_real_task_stops_without_its_journal_and_is_continued_with_the_same_bytes_and_delivered(
    open_tmp: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(health, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(service, "RESCUE_SECONDS", 0.1)
    monkeypatch.setattr(service, "FIRST_RETRY_SECONDS", 0.1)
    notes = "\n".join(f"line {number}" for number in range(3000))
    repository = make_repository(open_tmp / "repository")
    (repository / "notes.txt").write_text(notes)
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message=notes")
    ballast: list[Path] = []
    said: list[str] = []
    with small_disk(open_tmp / "home", 8) as home:
        async with ScriptedServer(script(*READS)) as server:
            config = config_for(home, server.url)
            places = config.workspaces.model_copy(update={"path": open_tmp / "workspaces"})
            config = config.model_copy(update={"workspaces": places, "keeping": JournalSettings(reserve_mib=1)})

            def fill_up(recorded: Recorded) -> None:
                if recorded.event.kind == "attempt_started" and not ballast:
                    ballast.append(fill(home))

            one = Service(config, open_worker=open_worker, say=said.append, on_event=fill_up)
            with Journal.open(config.journal) as journal:
                request = TaskRequest(title="Fix mean()", text="Fix it.", repo=str(repository))
                task = journal.submit(request, origin="cli", name_hint="fix").task
                async with anyio.create_task_group() as group:
                    group.start_soon(one.run)
                    await until(lambda: one.health.trouble)
                    await until(lambda: not one._running)
                    stopped = journal.record(task)
                    assert journal.view(task).state is TaskState.RUNNING
                    assert stopped.ended is None
                    ballast[0].unlink()
                    await until(lambda: journal.view(task).state is TaskState.ENDED)
                    one.stop()
                record = journal.record(task)
            sent = [one.body.decode() for one in server.requests if ACTING in one.body.decode()]
    assert record.ended is not None
    assert record.ended.outcome is Outcome.DELIVERED, record.ended.reason
    assert record.claims == 2
    for name, texts in stopped.conversations.items():
        assert record.conversations[name][: len(texts)] == texts
    prompts = [body[body.index('"messages":[') : body.rindex('],"tools"')] for body in sent]
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(prompts))
    [branch] = git(repository, "branch", "--format=%(refname:short)", "--list", "nightcrew/*").split()
    assert git(repository, "show", f"{branch}:stats.py") == FIXED
    assert any(line.startswith("no new work is taken") for line in said)
    assert "the trouble is over, work goes on" in said
    assert json.loads(record.conversations["executor/1"][0])["role"] == "system"
