from __future__ import annotations

import json
from pathlib import Path

import pytest

from nightcrew.cli.clients import CLIENTS, CannotReach, Reached, Started, merged, over_ssh, place

HOME, PROJECT = Path("/home/ann"), Path("/home/ann/shop")
STARTED = Started("/opt/nightcrew", ("mcp", "--root", "/home/ann/shop"))
REACHED = Reached("http://127.0.0.1:8642/mcp")

FILES = {
    ("claude-desktop", "Linux"): "/home/ann/.config/Claude/claude_desktop_config.json",
    ("claude-desktop", "Darwin"): "/home/ann/Library/Application Support/Claude/claude_desktop_config.json",
    ("claude-desktop", "Windows"): "/home/ann/AppData/Roaming/Claude/claude_desktop_config.json",
    ("claude-code", "Linux"): "/home/ann/shop/.mcp.json",
    ("vscode", "Linux"): "/home/ann/shop/.vscode/mcp.json",
    ("cursor", "Darwin"): "/home/ann/.cursor/mcp.json",
    ("zed", "Darwin"): "/home/ann/.config/zed/settings.json",
    ("zed", "Windows"): "/home/ann/AppData/Roaming/Zed/settings.json",
    ("windsurf", "Linux"): "/home/ann/.codeium/windsurf/mcp_config.json",
}


def placed(client, server=STARTED, system="Linux"):
    return place(client, server, home=HOME, project=PROJECT, system=system)


@pytest.mark.parametrize(("client", "system"), FILES)
def test_each_client_reads_its_own_file(client, system):
    assert str(placed(client, system=system).file) == FILES[client, system]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_started_server_is_a_command_with_arguments(client):
    entry = placed(client).entry
    assert (entry["command"], entry["args"]) == (STARTED.command, list(STARTED.arguments))


def test_vs_code_is_told_the_kind_and_asks_for_the_token():
    assert placed("vscode").entry["type"] == "stdio"
    reached = placed("vscode", REACHED)
    assert reached.entry["type"] == "http"
    (question,) = reached.more["inputs"]
    assert question["password"] is True
    assert f"${{input:{question['id']}}}" in reached.entry["headers"]["Authorization"]


@pytest.mark.parametrize("client", [client for client in CLIENTS if client != "claude-desktop"])
def test_a_server_that_runs_is_reached_with_a_token_that_is_not_written_down(client):
    entry = placed(client, REACHED).entry
    assert REACHED.url in entry.values()
    assert entry["headers"]["Authorization"].startswith("Bearer ")


def test_claude_desktop_cannot_reach_a_server_by_its_file():
    with pytest.raises(CannotReach, match="Connectors"):
        placed("claude-desktop", REACHED)


def test_what_stands_in_a_file_stays():
    once = merged('{"servers": {"a": {}}, "inputs": [{"id": "x"}], "z": 1}', placed("vscode", REACHED), "night")
    twice = json.loads(merged(once, placed("vscode", REACHED), "night"))
    assert twice["servers"].keys() == {"a", "night"}
    assert [question["id"] for question in twice["inputs"]] == ["x", "nightcrew-token"]
    assert twice["z"] == 1


@pytest.mark.parametrize("text", ["[1]", '{"mcpServers": []}', "{ // no\n}", "nonsense"])
def test_a_file_that_is_not_plain_json_is_not_touched(text):
    with pytest.raises(ValueError, match="by hand"):
        merged(text, placed("cursor"), "nightcrew")


def test_over_ssh_nothing_asks_and_no_terminal_is_made():
    started = over_ssh("box", ("mcp", "--root", "/srv"), program="nightcrew")
    assert started.command == "ssh"
    assert started.arguments == ("-T", "-o", "BatchMode=yes", "box", "nightcrew", "mcp", "--root", "/srv")
