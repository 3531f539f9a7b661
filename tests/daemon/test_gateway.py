"""Every front door goes through the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nightcrew.config import Config
from nightcrew.events import TaskEnded
from nightcrew.gateway import JournalGateway
from nightcrew.journal import Journal
from nightcrew_tools.contract import Outcome, TaskGateway, TaskNotFound, TaskRequest, TaskState

pytestmark = pytest.mark.anyio

REQUEST = TaskRequest(title="Fix the parser", text="Fix it", repo="/src")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    config = Config(home=tmp_path / "home", crew="local")
    config.outbox.mkdir(parents=True)
    return config


@pytest.fixture
def journal(config: Config) -> Iterator[Journal]:
    with Journal.open(config.journal) as opened:
        yield opened


@pytest.fixture
def gateway(journal: Journal, config: Config) -> TaskGateway:
    return JournalGateway(journal, config)


def finish(journal: Journal, task: str, outcome: Outcome = Outcome.DELIVERED) -> None:
    record = journal.claim_task(task, "w")
    assert record is not None
    journal.append(task, record.seq + 1, TaskEnded(outcome=outcome, reason="verified"))


async def test_a_submitted_task_is_queued_under_its_title_with_the_default_crew(gateway: TaskGateway):
    view = await gateway.submit(REQUEST, origin="mcp")
    assert (view.state, view.name, view.crew, view.report_path) == (TaskState.QUEUED, "fix-the-parser", "local", None)
    assert [task.id for task in await gateway.list()] == [view.id]


async def test_a_hint_names_the_task_after_its_file(journal: Journal, config: Config):
    view = await JournalGateway(journal, config).submit(REQUEST, origin="cli", name_hint="Tuesday")
    assert view.name == "tuesday"


async def test_the_same_id_twice_returns_the_first_ones_view(gateway: TaskGateway):
    request = REQUEST.model_copy(update={"id": "nightly"})
    first = await gateway.submit(request, origin="mcp")
    assert await gateway.submit(request.model_copy(update={"title": "Other"}), origin="cli") == first


async def test_a_task_is_meant_by_an_unambiguous_beginning_or_its_name(gateway: TaskGateway):
    for task in ("abc1", "abd2"):
        await gateway.submit(REQUEST.model_copy(update={"id": task, "title": task + " title"}), origin="cli")
    assert (await gateway.view("abc")).id == "abc1"
    assert (await gateway.view("abd2-title")).id == "abd2"
    with pytest.raises(TaskNotFound, match=r"2 tasks begin with 'ab': abc1, abd2; write more"):
        await gateway.view("ab")
    with pytest.raises(TaskNotFound, match=r"beginning 'x'; `nightcrew list` shows all"):
        await gateway.view("x")
    with pytest.raises(TaskNotFound, match="no task is named"):
        await gateway.view("")


async def test_results_are_read_from_the_outbox_once_the_task_has_ended(
    gateway: TaskGateway, journal: Journal, config: Config
):
    view = await gateway.submit(REQUEST, origin="cli")
    with pytest.raises(TaskNotFound, match="is queued: there is no report before its end"):
        await gateway.report(view.id)
    with pytest.raises(TaskNotFound, match="is queued: there is no patch before its end"):
        await gateway.diff(view.id)
    finish(journal, view.id)
    assert await gateway.diff(view.id) == ""
    with pytest.raises(TaskNotFound, match=r"fix-the-parser\.report\.md is gone"):
        await gateway.report(view.id)
    (config.outbox / "fix-the-parser.report.md").write_text("# Done\n")
    (config.outbox / "fix-the-parser.patch").write_bytes(b"+caf\xe9\r\n")
    assert await gateway.report(view.id) == "# Done\n"
    assert await gateway.diff(view.id) == "+caf\N{REPLACEMENT CHARACTER}\r\n"
    shown = await gateway.view(view.id)
    assert shown.report_path == str(config.outbox / "fix-the-parser.report.md")
    assert shown.patch_path == str(config.outbox / "fix-the-parser.patch")
    assert shown.exit_code == 0


async def test_a_queued_task_is_cancelled_at_once_a_running_one_is_asked_and_an_ended_one_stays(
    gateway: TaskGateway, journal: Journal
):
    queued, running, ended = [await gateway.submit(REQUEST, origin="cli") for _ in range(3)]
    finish(journal, ended.id)
    journal.claim_task(running.id, "w")
    assert (await gateway.cancel(queued.id)).outcome is Outcome.CANCELLED
    with pytest.raises(TaskNotFound, match="was cancelled before it began"):
        await gateway.report(queued.id)
    assert (await gateway.cancel(running.id)).state is TaskState.RUNNING
    assert journal.cancel_requested(running.id)
    assert (await gateway.cancel(ended.id)).outcome is Outcome.DELIVERED
