"""What each MCP client wants to read about a server: the shape of its entry and the file that it stands in. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

ClientName = Literal["claude-desktop", "claude-code", "vscode", "cursor", "zed", "windsurf"]
CLIENTS: tuple[ClientName, ...] = get_args(ClientName)


@dataclass(frozen=True)
class Started:
    """A server that the client starts and talks to over stdio."""

    command: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Reached:
    """A server that runs already. The token is never written down: the client asks for it, or takes it from the
    environment variable `NIGHTCREW_MCP_TOKEN`."""

    url: str


@dataclass(frozen=True)
class Placed:
    """An entry and where it belongs."""

    file: Path
    key: str
    entry: Mapping[str, Any]
    more: Mapping[str, Any]
    """Other top-level keys that the entry needs; lists in it are added to."""
    note: str = ""


class CannotReach(ValueError):
    """The client has no way to such a server: says what it can do instead."""


def place(client: ClientName, server: Started | Reached, *, home: Path, project: Path, system: str) -> Placed:
    """The entry for a client. `system` is `Linux`, `Darwin` or `Windows`: where the client runs.

    Raises `CannotReach` where the client cannot come to an HTTP server by its file.
    """
    file = _file(client, home, project, system)
    match client:
        case "claude-desktop":
            if isinstance(server, Reached):
                raise CannotReach("Claude Desktop takes remote servers in its settings (Connectors), not from a file")
            return Placed(file, "mcpServers", _started(server), {}, "restart Claude Desktop afterwards")
        case "claude-code":
            entry = _started(server) if isinstance(server, Started) else _reached("http", server.url, _BY_ENVIRONMENT)
            return Placed(file, "mcpServers", entry, {}, "Claude Code asks once whether this project's server may run")
        case "cursor":
            entry = _started(server) if isinstance(server, Started) else _reached(None, server.url, _BY_CURSOR)
            return Placed(file, "mcpServers", entry, {})
        case "vscode":
            if isinstance(server, Started):
                return Placed(file, "servers", {"type": "stdio", **_started(server)}, {})
            return Placed(file, "servers", _reached("http", server.url, _BY_INPUT), {"inputs": [_INPUT]})
        case "zed":
            if isinstance(server, Started):
                return Placed(file, "context_servers", {**_started(server), "env": {}}, {})
            return Placed(file, "context_servers", _reached(None, server.url, "Bearer TOKEN"), {}, _PUT_TOKEN)
        case "windsurf":
            if isinstance(server, Started):
                return Placed(file, "mcpServers", _started(server), {})
            entry = {"serverUrl": server.url, "headers": {"Authorization": _BY_CURSOR}}
            return Placed(file, "mcpServers", entry, {})


def merged(text: str, placed: Placed, name: str) -> str:
    """The file's new text, with everything that was there. Raises `ValueError` where it is not plain JSON."""
    try:
        loaded: object = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise ValueError(
            f"{placed.file} is not plain JSON ({error}): comments would be lost; add the entry by hand"
        ) from error
    whole = _object(loaded, placed.file, "the file")
    servers = _object(whole.setdefault(placed.key, {}), placed.file, f"`{placed.key}`")
    servers[name] = dict(placed.entry)
    for key, values in placed.more.items():
        known = whole.setdefault(key, [])
        known += [value for value in values if value not in known]
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def _object(value: object, file: Path, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{file}: {what} is not an object; add the entry by hand")  # noqa: TRY004 - what a person wrote
    return cast("dict[str, Any]", value)


def over_ssh(host: str, arguments: Sequence[str], *, program: str) -> Started:
    """The same server on another machine: for clients on systems that have no box."""
    return Started("ssh", ("-T", "-o", "BatchMode=yes", host, program, *arguments))


_BY_ENVIRONMENT = "Bearer ${NIGHTCREW_MCP_TOKEN}"
_BY_CURSOR = "Bearer ${env:NIGHTCREW_MCP_TOKEN}"
_BY_INPUT = "Bearer ${input:nightcrew-token}"
_INPUT = {"type": "promptString", "id": "nightcrew-token", "description": "Nightcrew's MCP token", "password": True}
_PUT_TOKEN = "put the token in place of TOKEN"  # noqa: S105


def _started(server: Started | Reached) -> dict[str, Any]:
    assert isinstance(server, Started)
    return {"command": server.command, "args": list(server.arguments)}


def _reached(kind: str | None, url: str, authorization: str) -> dict[str, Any]:
    return {**({"type": kind} if kind else {}), "url": url, "headers": {"Authorization": authorization}}


def _file(client: ClientName, home: Path, project: Path, system: str) -> Path:
    settings = {
        "Darwin": home / "Library/Application Support",
        "Windows": home / "AppData/Roaming",
    }.get(system, home / ".config")
    match client:
        case "claude-desktop":
            return settings / "Claude/claude_desktop_config.json"
        case "claude-code":
            return project / ".mcp.json"
        case "vscode":
            return project / ".vscode/mcp.json"
        case "cursor":
            return home / ".cursor/mcp.json"
        case "zed":
            return (settings / "Zed" if system == "Windows" else home / ".config/zed") / "settings.json"
        case "windsurf":
            return home / ".codeium/windsurf/mcp_config.json"
