"""The service and `run_one`: what becomes of tasks, whatever happens to them."""

from __future__ import annotations

import signal
from os import getpid, kill
from pathlib import Path

import anyio
import pytest

from fakes.repos import git, make_repository
from fakes.services import request, running, until
from fakes.workers import FakeWorker
from nightcrew.config import Config
from nightcrew.errors import JournalBusy, NightcrewError
from nightcrew.events import TaskClaimed, TaskEnded, Waiting
from nightcrew.journal import Journal
from nightcrew.journal.locks import RunLocks
from nightcrew.service import Service, run_locks, run_one, serve, service
from nightcrew_tools.contract import Limits, Outcome, TaskState

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(home=tmp_path / "home", concurrency=2)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "repo")


# --- tasks


async def test_a_task_of_another_process_is_taken_and_its_results_are_there(config: Config) -> None:
    async with running(config) as now:
        view = await now.ended(now.submit("deliver it"))
    assert (view.outcome, view.branch, view.exit_code) == (Outcome.DELIVERED, f"nightcrew/{view.id}", 0)
    assert view.report_path is not None and view.patch_path is not None


async def test_a_dropped_file_becomes_a_task(config: Config, repo: Path) -> None:
    async with running(config) as now:
        (config.inbox / "fix.md").write_text(f"---\nrepo: {repo}\n---\n# deliver\n")
        await until(lambda: now.journal.tasks([TaskState.ENDED]))
        [view] = now.journal.tasks()
    assert (view.name, view.outcome) == ("fix", Outcome.DELIVERED)


async def test_dropped_files_that_could_never_run_are_rejected(config: Config, repo: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "empty").mkdir()
    git(tmp_path / "empty", "init", "-q")
    bad = {
        "missing": ("repo: /does/not/exist", "does not exist"),
        "empty": (f"repo: {tmp_path}/empty", "has no commit"),
        "plain": (f"repo: {tmp_path}/plain", "not a git repository"),
        "base": (f"repo: {repo}\nbase: nope", "nope"),
        "crew": (f"repo: {repo}\ncrew: nobody", "no crew is called 'nobody'"),
    }
    async with running(config) as now:
        for name, (front, _) in bad.items():
            (config.inbox / f"{name}.md").write_text(f"---\n{front}\n---\n# deliver\n")
        await until(lambda: len(now.rejected) == len(bad))
        assert now.journal.tasks() == []
    for name, (_, reason) in bad.items():
        assert reason in now.rejected[f"{name}.md"]
    assert {path.name for path in config.rejected.iterdir()} >= {f"{name}.md" for name in bad}


async def test_no_more_tasks_run_at_once_than_configured(config: Config) -> None:
    async with running(config) as now:
        tasks = [now.submit(f"hang {number}") for number in range(3)]
        await until(lambda: len(now.worker.running) == 2)
        waiting = [task for task in tasks if now.view(task).state is TaskState.QUEUED]
        assert len(waiting) == 1
        now.journal.request_cancel(next(iter(now.worker.running)))
        await until(lambda: waiting[0] in now.worker.running)
    assert now.worker.most_at_once == 2


async def test_a_bug_in_one_task_ends_that_task_and_no_other(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    async with running(config) as now:
        broken, fine = now.submit("crash"), now.submit("deliver")
        view = await now.ended(broken)
        assert (await now.ended(fine)).outcome is Outcome.DELIVERED
        report = await now.gateway.report(broken)
    assert view.outcome is Outcome.FAILED
    assert "ZeroDivisionError: a bug of ours" in view.reason
    assert report.startswith("# Failed (exit code 1)")
    assert "Traceback" in caplog.text


async def test_a_task_that_was_taken_over_is_dropped_in_silence(config: Config) -> None:
    async with running(config) as now:
        task = now.submit("stale")
        await until(lambda: now.worker.ran == [task] and not now.worker.running)
        assert (await now.ended(now.submit("deliver"))).exit_code == 0
    assert now.view(task).state is TaskState.RUNNING
    assert (now.worker.ran.count(task), now.worker.left, now.said) == (1, [], [])


# --- no endpoint


async def test_a_task_without_an_endpoint_waits_and_runs_when_there_is_one(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "FIRST_RETRY_SECONDS", 0.2)
    async with running(config) as now:
        task = now.submit("deliver", crew="embedded")
        await until(lambda: any(isinstance(r.event, Waiting) for r in now.journal.read(task)))
        await until(lambda: now.view(task).state is TaskState.QUEUED)
        assert "no model endpoint" in now.view(task).reason
        assert (await now.ended(now.submit("deliver"))).exit_code == 0, "the others go on meanwhile"
        now.worker.endpoints = True
        assert (await now.ended(task)).outcome is Outcome.DELIVERED


async def test_a_task_does_not_wait_for_an_endpoint_beyond_its_minutes(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "FIRST_RETRY_SECONDS", 0.05)
    async with running(config) as now:
        view = await now.ended(now.submit("x", crew="embedded", limits=Limits(minutes=0.005)))
    assert (view.outcome, view.exit_code) == (Outcome.NO_ENDPOINT, 4)


# --- cancelling and stopping


async def test_a_running_task_is_cancelled_by_another_process(config: Config) -> None:
    async with running(config) as now:
        task = now.submit("hang")
        await until(lambda: task in now.worker.running)
        await now.gateway.cancel(task)
        view = await now.ended(task)
    assert (view.outcome, view.exit_code) == (Outcome.CANCELLED, 130)


async def test_a_runner_that_does_not_heed_a_cancel_is_cut_off(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "CANCEL_GRACE_SECONDS", 0.2)
    async with running(config) as now:
        task = now.submit("deaf")
        await until(lambda: task in now.worker.running)
        await now.gateway.cancel(task)
        view = await now.ended(task)
        assert "+1 -1" in await now.gateway.report(task), "what it had done is in the report"
    assert view.outcome is Outcome.CANCELLED
    assert view.patch_path is not None


async def test_a_stopped_service_leaves_its_tasks_to_the_next_one(config: Config) -> None:
    async with running(config) as now:
        task = now.submit("hang")
        await until(lambda: task in now.worker.running)
    assert now.view(task).state is TaskState.QUEUED
    async with running(config) as later:
        await until(lambda: task in later.worker.running)
        await later.gateway.cancel(task)
        await later.ended(task)
    claims = [r for r in later.journal.read(task) if isinstance(r.event, TaskClaimed)]
    ends = [r for r in later.journal.read(task) if isinstance(r.event, TaskEnded)]
    assert (len(claims), len(ends)) == (2, 1)


async def test_a_task_whose_process_died_goes_on_with_the_service(config: Config) -> None:
    with Journal.open(config.journal) as journal:
        task = journal.submit(request("deliver"), origin="cli", name_hint="x").task
        assert journal.claim_task(task, "dead") is not None
    async with running(config) as now:
        assert (await now.ended(task)).outcome is Outcome.DELIVERED


async def test_a_task_that_dies_while_the_service_runs_is_rescued(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "RESCUE_SECONDS", 0.1)
    locks = RunLocks(run_locks(config))
    async with running(config) as now:
        other = now.journal.submit_claimed(service.Submission(request("deliver"), "run", "x"), "other", locks=locks)[0]
        await anyio.sleep(0.4)
        assert now.worker.ran == [], "it lives: its lock is held"
        locks.release(other)
        assert (await now.ended(other)).outcome is Outcome.DELIVERED


async def test_a_second_service_on_the_same_home_is_refused(config: Config) -> None:
    async with running(config):
        with pytest.raises(JournalBusy):
            await Service(config, open_worker=FakeWorker().open, say=print).run()


async def test_sigterm_stops_the_service_and_its_tasks_stay(config: Config) -> None:
    worker, said = FakeWorker(), list[str]()
    one = Service(config, open_worker=worker.open, say=said.append)
    with Journal.open(config.journal) as journal:
        task = journal.submit(request("hang"), origin="cli", name_hint="x").task
        async with anyio.create_task_group() as group:
            group.start_soon(serve, one, said.append)
            await until(lambda: task in worker.running)
            kill(getpid(), signal.SIGTERM)
        assert journal.view(task).state is TaskState.QUEUED
    assert "stopping" in said[-1]


async def test_an_outbox_that_cannot_be_written_is_named_in_the_reason(config: Config) -> None:
    async with running(config) as now:
        config.outbox.rmdir()
        config.outbox.write_text("not a folder")
        task = now.submit("crash")
        await until(lambda: now.view(task).state is TaskState.ENDED)
    assert "its report could not be written" in now.view(task).reason


# --- one task without a service


async def one(config: Config, text: str, worker: FakeWorker | None = None, **changes: object):
    said: list[str] = []
    worker = worker or FakeWorker()
    return await run_one(config, request(text, **changes), open_worker=worker.open, say=said.append)


@pytest.mark.parametrize(
    ("text", "outcome"),
    [("deliver", Outcome.DELIVERED), ("fail", Outcome.UNVERIFIED), ("crash", Outcome.FAILED)],
)
async def test_run_ends_as_the_task_does(config: Config, text: str, outcome: Outcome) -> None:
    record = await one(config, text)
    assert record.ended is not None and record.ended.outcome is outcome
    assert (config.outbox / f"{record.name}.report.md").is_file()


async def test_run_does_not_wait_for_an_endpoint(config: Config) -> None:
    record = await one(config, "deliver", crew="embedded")
    assert record.ended is not None and record.ended.outcome is Outcome.NO_ENDPOINT


async def test_run_works_beside_a_service_which_leaves_its_task_alone(config: Config) -> None:
    async with running(config) as now:
        record = await one(config, "deliver")
    assert record.ended is not None and now.worker.ran == []


async def test_interrupting_run_cancels_the_task(config: Config) -> None:
    worker = FakeWorker()
    records = []

    async def run() -> None:
        records.append(await one(config, "hang", worker))

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await until(lambda: worker.running)
        kill(getpid(), signal.SIGINT)
    assert records[0].ended.outcome is Outcome.CANCELLED


async def test_interrupting_a_deaf_run_cuts_it_off(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "CANCEL_GRACE_SECONDS", 0.1)
    worker = FakeWorker()
    records = []

    async def run() -> None:
        records.append(await one(config, "deaf", worker))

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await until(lambda: worker.running)
        kill(getpid(), signal.SIGINT)
    assert records[0].ended.outcome is Outcome.CANCELLED


async def test_running_the_same_id_again_returns_what_it_became(config: Config) -> None:
    worker = FakeWorker()
    first = await one(config, "deliver", worker, id="nightly")
    again = await one(config, "deliver", worker, id="nightly")
    assert (again.id, again.seq, worker.ran) == (first.id, first.seq, ["nightly"])


async def test_running_an_id_that_another_process_works_on_is_an_error(config: Config) -> None:
    async with running(config) as now:
        task = now.submit("hang", id="nightly")
        await until(lambda: task in now.worker.running)
        with pytest.raises(NightcrewError, match="another process works on task nightly"):
            await one(config, "hang", id="nightly")
