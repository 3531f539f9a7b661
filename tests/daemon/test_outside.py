from __future__ import annotations

import re
import subprocess
from contextlib import ExitStack, asynccontextmanager

import httpx2
import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

from fakes.task_client import DeclaresTasks, ask, call
from nightcrew.config import Config, McpSettings
from nightcrew.errors import ConfigError
from nightcrew.journal import Journal
from nightcrew.journal.locks import ServiceLock
from nightcrew.service.outside import open_door
from nightcrew_tools.contract import Outcome
from nightcrew_tools.grants import outside_grants

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


@pytest.fixture
def source(tmp_path):
    root = tmp_path / "source"
    subprocess.run(["git", "init", "-q", "-b", "main", root], check=True)
    identity = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org"]
    subprocess.run(["git", "-C", root, *identity, "commit", "-q", "--allow-empty", "-m", "First"], check=True)
    return root


def configured(tmp_path, **settings) -> Config:
    return Config(home=tmp_path / "home", mcp=McpSettings(listen="127.0.0.1:0", **settings))


@asynccontextmanager
async def at_the_door(config, *, service: bool = True, mode: str = "legacy", extensions=()):
    said: list[str] = []
    with ExitStack() as stack:
        config.home.mkdir(exist_ok=True)
        if service:
            stack.enter_context(ServiceLock(config.home))
            stack.enter_context(Journal.open(config.journal))
        async with open_door(config, said.append):
            url = re.search(r"http://\S+/mcp", said[0])[0]
            headers = {}
            if config.mcp.token_file is not None:
                headers = {"authorization": f"Bearer {config.mcp.token_file.read_text().split()[0]}"}
            async with (
                httpx2.AsyncClient(headers=headers, timeout=50) as allowed,
                Client(streamable_http_client(url, http_client=allowed), mode=mode, extensions=extensions) as client,
            ):
                yield client


@pytest.mark.parametrize("mode", ["2026-07-28", "legacy"])
async def test_the_service_takes_tasks_at_its_own_door(tmp_path, source, mode):
    config = configured(tmp_path)
    async with at_the_door(config, mode=mode) as client:
        queued = await client.call_tool("task_submit", {"text": "# Round once\nDo it.", "repo": str(source)})
        listed = await client.call_tool("task_list", {})
    assert not queued.is_error, queued.content[0].text
    assert "Round once" in listed.content[0].text
    with Journal.open(config.journal, read_only=True) as journal:
        (view,) = journal.tasks()
    assert view.title == "Round once"
    assert config.mcp_audit.exists()


async def test_a_task_of_the_extension_outlives_the_server_that_answered_with_it(tmp_path, source):
    config = configured(tmp_path)
    async with at_the_door(config, mode="2026-07-28", extensions=[DeclaresTasks()]) as client:
        arguments = {"text": "# Round once\nDo it.", "repo": str(source)}
        created = await call(client, "task_submit", arguments)
    async with at_the_door(config, mode="2026-07-28", extensions=[DeclaresTasks()]) as client:
        seen = await ask(client, "tasks/get", created["taskId"])
        await ask(client, "tasks/cancel", created["taskId"])
        cancelled = await ask(client, "tasks/get", created["taskId"])
    with Journal.open(config.journal, read_only=True) as journal:
        (view,) = journal.tasks()
    assert created["taskId"] == view.id
    assert (seen["status"], seen["createdAt"]) == ("working", view.submitted_at)
    assert cancelled["status"] == "cancelled"
    assert view.outcome is Outcome.CANCELLED


async def test_a_task_that_could_never_run_is_refused_with_the_reason(tmp_path):
    config = configured(tmp_path)
    async with at_the_door(config) as client:
        refused = await client.call_tool("task_submit", {"text": "Do it", "repo": str(tmp_path / "none")})
    assert refused.is_error
    assert "error[bad_argument]: `repo`" in refused.content[0].text
    with Journal.open(config.journal, read_only=True) as journal:
        assert journal.tasks() == []


async def test_without_a_service_every_task_tool_says_so(tmp_path, source):
    config = configured(tmp_path)
    async with at_the_door(config, service=False) as client:
        for name, arguments in [
            ("task_submit", {"text": "Do it", "repo": str(source)}),
            ("task_list", {}),
            ("task_report", {"task": "x"}),
            ("task_cancel", {"task": "x"}),
        ]:
            answer = await client.call_tool(name, arguments)
            assert answer.is_error
            assert "error[no_service]" in answer.content[0].text
            assert "nightcrew up" in answer.content[0].text
    assert not config.journal.exists()


async def test_a_service_without_the_setting_has_no_door(tmp_path):
    said: list[str] = []
    async with open_door(Config(home=tmp_path), said.append):
        assert said == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"listen": "nowhere"}, "HOST:PORT"),
        ({"listen": "0.0.0.0:0"}, "token"),
        ({"tools": ("files",)}, "name a root"),
        ({"tools": ("taks",)}, "tasks"),
        ({"token_file": "/proc/none"}, "cannot be made"),
    ],
)
async def test_a_wrong_setting_is_a_configuration_error(tmp_path, settings, words):
    config = Config(home=tmp_path, mcp=McpSettings(**({"listen": "127.0.0.1:0"} | settings)))
    with pytest.raises(ConfigError, match=words):
        async with open_door(config, print):
            pass


async def test_a_token_file_that_is_not_there_is_made(tmp_path):
    token_file = tmp_path / "keys" / "mcp.token"
    said: list[str] = []
    async with open_door(configured(tmp_path, token_file=token_file), said.append):
        assert token_file.stat().st_mode & 0o777 == 0o600
    assert str(token_file) in said[0]
    made = token_file.read_text()
    async with open_door(configured(tmp_path, token_file=token_file), said.append):
        assert token_file.read_text() == made


def test_grants_for_clients_are_what_was_asked_for():
    assert outside_grants(None, has_roots=False).families == {"tasks"}
    assert outside_grants(None, has_roots=True).families == {"files", "git", "shell", "tasks"}
    assert outside_grants(["git"], has_roots=True, read_only=True).read_only
    with pytest.raises(ValueError, match="files need a directory"):
        outside_grants(["files", "tasks"], has_roots=False)
