"""A changed configuration: what counts at once, what for new tasks, what not yet; a wrong one changes nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import anyio
import pytest

from fakes.manager import Manager
from fakes.repos import make_repository
from fakes.services import until
from fakes.workers import FakeWorker
from nightcrew.config import (
    BoxSettings,
    Config,
    CrewSettings,
    LogSettings,
    McpSettings,
    RoleSettings,
    WorkspaceSettings,
)
from nightcrew.errors import ConfigError
from nightcrew.journal import Journal
from nightcrew.service import Service, serve
from nightcrew.service.herald import Herald
from nightcrew.service.notify import Notifier
from nightcrew.service.reload import AT_ONCE, FOR_NEW_TASKS, NEEDS_RESTART, Changes, merged
from nightcrew_tools.contract import Limits, TaskRequest, TaskState

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(home=tmp_path / "home", concurrency=1)


def test_nothing_changed_is_said(config: Config) -> None:
    assert merged(config, config) == (config, Changes())
    assert str(Changes()) == "nothing has changed"


def test_each_key_counts_when_it_can(config: Config) -> None:
    new = config.model_copy(
        update={
            "concurrency": 3,
            "log": LogSettings(level="debug", format="json"),
            "box": BoxSettings(user="ann", memory_mib=99),
            "workspaces": WorkspaceSettings(path=Path("/x"), keep="all"),
            "mcp": McpSettings(listen="127.0.0.1:1"),
            "home": Path("/elsewhere"),
            "limits": Limits(minutes=1),
        }
    )
    taken, changes = merged(config, new)
    assert set(changes.at_once) == {"concurrency", "log"}
    assert set(changes.new_tasks) == {"box", "workspaces"}
    assert set(changes.restart) == {"box.user", "workspaces.path", "mcp", "home", "limits", "log.format"}
    assert (taken.concurrency, taken.box.memory_mib, taken.box.user) == (3, 99, None)
    assert (taken.log.level, taken.log.format) == ("debug", "auto")
    assert (taken.workspaces.keep, taken.workspaces.path) == ("all", None)
    assert (taken.home, taken.mcp, taken.limits) == (config.home, config.mcp, config.limits)
    assert str(changes).startswith("at once: ")
    assert "; only after a restart: " in str(changes)


def test_a_key_that_needs_a_restart_and_nothing_else_is_no_change_for_new_tasks(config: Config) -> None:
    taken, changes = merged(config, config.model_copy(update={"box": BoxSettings(user="ann")}))
    assert (taken, changes) == (config, Changes(restart=("box.user",)))


def test_the_keys_exist() -> None:
    assert set(Config.model_fields) >= AT_ONCE | FOR_NEW_TASKS | {key.partition(".")[0] for key in NEEDS_RESTART}


async def test_a_crew_that_a_reload_brings_has_an_inbox(config: Config, tmp_path: Path) -> None:
    repository, worker = make_repository(tmp_path / "repository"), FakeWorker()
    service = Service(config, open_worker=worker.open, say=lambda _: None)
    mine = CrewSettings(planner=RoleSettings(base_url="http://127.0.0.1:9/v1"))
    async with anyio.create_task_group() as group:
        group.start_soon(service.run)
        await service.started.wait()
        service.reload(config.model_copy(update={"crews": {"mine": mine}}))
        folder = config.inbox / "mine"
        folder.mkdir()
        (folder / "fix.md").write_text(f"---\nrepo: {repository}\n---\ndeliver\n")
        with Journal.open(config.journal) as journal:
            await until(lambda: [view.crew for view in journal.tasks()] == ["mine"])
        service.stop()


async def test_a_reload_loses_no_task_and_a_wrong_configuration_keeps_the_old_one(
    config: Config, tmp_path: Path
) -> None:
    worker, said, given = FakeWorker(), list[str](), list[Config | ConfigError]()

    def load() -> Config:
        one = given.pop()
        if isinstance(one, ConfigError):
            raise one
        return one

    with Manager(tmp_path) as manager:
        herald = Herald(Notifier(manager.environ()))
        service = Service(config, open_worker=worker.open, say=said.append, herald=herald)

        async def run() -> None:
            await serve(service, said.append, load=load)

        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await service.started.wait()
            with Journal.open(config.journal) as journal:
                tasks = [
                    journal.submit(
                        TaskRequest(title="hang", text="hang", repo="/nowhere"), origin="cli", name_hint=name
                    ).task
                    for name in ("one", "two")
                ]
                await until(lambda: len(worker.running) == 1)

                given.append(ConfigError("config.toml: crew: wrong"))
                os.kill(os.getpid(), signal.SIGHUP)
                await until(lambda: any("the old one stays: config.toml: crew: wrong" in line for line in said))
                assert service.config is config

                given.append(config.model_copy(update={"concurrency": 2, "home": Path("/elsewhere")}))
                os.kill(os.getpid(), signal.SIGHUP)
                await until(lambda: len(worker.running) == 2)
                assert worker.config.concurrency == 2
                assert said[-1].endswith("at once: concurrency; only after a restart: home")
                assert set(worker.running) == set(tasks)
                assert {view.state for view in journal.tasks()} == {TaskState.RUNNING}
            wanted = "(needs a restart: home)"
            await anyio.to_thread.run_sync(manager.wait, lambda lines: any(wanted in line for line in lines), wanted)
            service.stop()
        told = [line.partition("=")[0] for line in manager.said() if not line.startswith("STATUS=")]
        assert told == ["READY", "RELOADING", "MONOTONIC_USEC", "READY", "RELOADING", "MONOTONIC_USEC", "READY"]
