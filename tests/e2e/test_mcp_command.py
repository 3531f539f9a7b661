"""`nightcrew mcp` as clients start it: a real process, real boxes, both protocol eras."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import httpx2
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from nightcrew_workspaces.user import box_user

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

ERAS = pytest.mark.parametrize("mode", ["2026-07-28", "legacy"])
NIGHTCREW = (sys.executable, "-m", "nightcrew")


@pytest.fixture
def home(tmp_path) -> dict[str, str]:
    """The environment of a person with nothing set up."""
    return {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "NIGHTCREW_HOME": str(tmp_path / "home")}


@pytest.fixture
def shop(open_tmp) -> Path:
    root = open_tmp / "shop"
    root.mkdir()
    (root / "prices.py").write_text("total = 1\n")
    user = box_user(None)
    for each in (root, root / "prices.py"):
        os.chown(each, user.uid, user.gid)
    return root


@asynccontextmanager
async def over_stdio(home, *arguments: str, mode: str = "legacy"):
    command, *rest = NIGHTCREW
    server = StdioServerParameters(command=command, args=[*rest, "mcp", *arguments], env=home)
    async with Client(server, mode=mode) as client:
        yield client


def run(home, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*NIGHTCREW, "mcp", *arguments]
    return subprocess.run(
        command, env=home, stdin=subprocess.DEVNULL, capture_output=True, timeout=50, text=True, check=False
    )


def text(result) -> str:
    return result.content[0].text


@ERAS
async def test_a_client_over_stdio_works_on_the_files_themselves(home, shop, mode):
    async with over_stdio(home, "--root", str(shop), mode=mode) as client:
        read = await client.call_tool("read_file", {"path": f"{shop}/prices.py"})
        edited = await client.call_tool("edit_file", {"path": "prices.py", "old": "1", "new": "2"})
        ran = await client.call_tool("run_command", {"command": "cat prices.py; pwd"})
        outside = await client.call_tool("read_file", {"path": "/etc/hostname"})
        tasks = await client.call_tool("task_list", {})
    assert "total = 1" in text(read)
    assert read.structured_content["total_lines"] == 1
    assert not edited.is_error
    assert "total = 2" in text(ran)
    assert str(shop) in text(ran)
    assert (shop / "prices.py").read_text() == "total = 2\n"
    assert text(outside).startswith("error[outside]")
    assert text(tasks).startswith("error[no_service]")
    log = [json.loads(line) for line in (Path(home["NIGHTCREW_HOME"]) / "mcp-audit.jsonl").read_text().splitlines()]
    assert [line["tool"] for line in log] == ["read_file", "edit_file", "run_command", "read_file", "task_list"]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_client_that_asks_is_told_about_paths_and_commands(home, shop, mode):
    async with over_stdio(home, "--root", str(shop), mode=mode) as client:
        told = client.instructions
    assert told == (
        f"Paths are absolute or relative to {shop}. "
        "Commands run in a sandbox without a network and cannot write to .git: commit with git_commit."
    )


async def test_a_read_only_session_has_no_tool_that_writes(home, shop):
    async with over_stdio(home, "--root", str(shop), "--read-only") as client:
        tools = (await client.list_tools()).tools
        read = await client.call_tool("read_file", {"path": "prices.py"})
        assert client.instructions == f"Paths are absolute or relative to {shop}. Nothing can be changed."
    assert all(tool.annotations.read_only_hint for tool in tools)
    assert not read.is_error


async def test_tools_are_chosen_by_family_and_by_name(home, shop):
    async with over_stdio(home, "--root", str(shop), "--tools", "files", "--deny", "delete_file") as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
    assert "read_file" in names
    assert not names & {"delete_file", "run_command", "git_status", "task_list"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tools", "files"], "--root|name a root"),
        (["--tools", "fles", "--root", "/tmp"], "files"),
        (["--tools", "nope", "--root", "/tmp"], "there are: files, git, shell, tasks"),
        (["--root", "/none"], "no such directory"),
        (["--root", "/"], "obey files"),
        (["--deny", "run_comand", "--root", "."], "run_command"),
        (["--http", "nowhere"], "HOST:PORT"),
        (["--http", "0.0.0.0:0"], "--token-file"),
        (["--token-file", "x"], "--http"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_served(home, arguments, words):
    done = run(home, *arguments)
    assert done.returncode == 2
    assert re.search(words, re.sub(r"[\s│]+", " ", done.stderr))
    assert "Traceback" not in done.stderr


@ERAS
async def test_a_client_over_http_needs_the_token_that_was_made(home, shop, tmp_path, mode):
    token_file = tmp_path / "mcp.token"
    arguments = ["mcp", "--root", str(shop), "--http", "127.0.0.1:0", "--token-file", str(token_file)]
    process = await anyio.open_process([*NIGHTCREW, *arguments], env=home, stdin=subprocess.DEVNULL)
    try:
        said = ""
        while "serving MCP at" not in said:
            said += (await process.stderr.receive()).decode()
        url = re.search(r"http://\S+/mcp", said)[0]
        token = token_file.read_text().split()[0]
        async with (
            httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}, timeout=50) as allowed,
            Client(streamable_http_client(url, http_client=allowed), mode=mode) as client,
        ):
            read = await client.call_tool("read_file", {"path": "prices.py"})
        async with httpx2.AsyncClient() as stranger:
            refused = await stranger.post(url, json={})
    finally:
        process.send_signal(signal.SIGTERM)
        code = await process.wait()
    assert "total = 1" in text(read)
    assert refused.status_code == 401
    assert code == 0


def test_the_task_tools_alone_need_no_root(home):
    assert run(home).returncode == 0  # its client is gone at once


@ERAS
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_a_call_that_is_cancelled_leaves_no_process(home, shop, tmp_path, mode, transport):
    marker = f"41{os.getpid()}{secrets.randbelow(10**6):06}"
    opened = over_stdio(home, "--root", str(shop), mode=mode) if transport == "stdio" else over_http(home, shop, mode)
    async with opened as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "run_command", {"command": f"setsid sleep {marker} & sleep {marker}"})
            await until(lambda: running(marker))
            group.cancel_scope.cancel()
        await until(lambda: not running(marker))
        assert not (await client.call_tool("read_file", {"path": "prices.py"})).is_error


def running(marker: str) -> list[str]:
    """Processes of this machine, in boxes too, that have the marker as an argument."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if path.read_bytes().split(b"\0")[:2] == [b"sleep", marker.encode()]:
                found.append(path.parent.name)
    return found


async def until(condition) -> None:
    with anyio.fail_after(40):
        while not condition():  # noqa: ASYNC110 - a process elsewhere has no event
            await anyio.sleep(0.05)


@asynccontextmanager
async def over_http(home, shop, mode):
    arguments = ["mcp", "--root", str(shop), "--http", "127.0.0.1:0"]
    process = await anyio.open_process([*NIGHTCREW, *arguments], env=home, stdin=subprocess.DEVNULL)
    try:
        said = ""
        while "serving MCP at" not in said:
            said += (await process.stderr.receive()).decode()
        async with Client(re.search(r"http://\S+/mcp", said)[0], mode=mode) as client:
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()


def test_configurations_are_printed_for_every_client(home, shop):
    for client, key in [("claude-desktop", "mcpServers"), ("vscode", "servers"), ("zed", "context_servers")]:
        done = run(home, "install", client, "--root", str(shop))
        entry = json.loads(done.stdout)[key]["nightcrew"]
        assert entry["args"] == ["mcp", "--root", str(shop)]
        assert Path(entry["command"]).is_absolute()
        assert "belongs in" in done.stderr
        assert "without --root" not in done.stderr
    assert "the task tools alone" in run(home, "install", "cursor").stderr


def test_a_configuration_is_written_beside_what_was_there(home, shop, tmp_path):
    file = tmp_path / ".cursor/mcp.json"
    file.parent.mkdir()
    file.write_text('{"mcpServers": {"other": {"command": "x"}}, "theme": "dark"}')
    assert run(home, "install", "cursor", "--root", str(shop), "--write").returncode == 0
    written = json.loads(file.read_text())
    assert set(written["mcpServers"]) == {"other", "nightcrew"}
    assert written["theme"] == "dark"
    kept = file.parent / "mcp.json.bak"
    assert json.loads(kept.read_text())["mcpServers"] == {"other": {"command": "x"}}
    assert run(home, "install", "cursor", "--root", str(shop), "--write").returncode == 0
    assert json.loads(kept.read_text())["mcpServers"] == {"other": {"command": "x"}}  # nothing new, nothing lost


def test_a_file_with_comments_is_left_alone(home, shop, tmp_path):
    file = tmp_path / ".config/zed/settings.json"
    file.parent.mkdir(parents=True)
    file.write_text('{ // mine\n "theme": "dark" }')
    done = run(home, "install", "zed", "--root", str(shop), "--write")
    assert done.returncode == 2
    assert "by hand" in done.stderr
    assert file.read_text() == '{ // mine\n "theme": "dark" }'
