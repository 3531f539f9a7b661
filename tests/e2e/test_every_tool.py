"""Every tool, in both protocol eras, over stdio, over HTTP and in process: the answers are the same everywhere.

The client of the SDK checks the facts of each answer against the tool's output schema.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from nightcrew.config import load_config
from nightcrew.journal import Journal
from nightcrew.journal.locks import ServiceLock
from nightcrew.service.outside import open_offer
from nightcrew_tools.grants import FAMILIES, TOOLS, Grants
from nightcrew_workspaces.user import box_user

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

FIRST = ("2026-07-28", "in process")
OTHERS = [
    ("legacy", "in process"),
    *((era, transport) for transport in ("stdio", "http") for era in ("2026-07-28", "legacy")),
]
NIGHTCREW = (sys.executable, "-m", "nightcrew")
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
SUMS = "def add(a, b):\n    return a - b\n"
EDITS = [{"path": "sums.py", "old": "a + b", "new": "b + a"}, {"path": "notes/a.txt", "old": "one", "new": "1"}]

CALLS: list[tuple[str, dict[str, Any], str]] = [
    ("read_file", {"path": "sums.py"}, "ok"),
    ("read_file", {"path": "/etc/hostname"}, "outside"),
    ("read_file", {"path": "sums.py", "lines": 3}, "unknown_argument"),
    ("write_file", {"path": "notes/a.txt", "content": "one\ntwo\n"}, "ok"),
    ("edit_file", {"path": "sums.py", "old": "a - b", "new": "a + b"}, "ok"),
    ("edit_file", {"path": "sums.py", "old": "no such text", "new": "x"}, "no_match"),
    ("edit_files", {"edits": EDITS}, "ok"),
    ("append_file", {"path": "notes/a.txt", "content": "three\n"}, "ok"),
    ("copy_file", {"path": "notes/a.txt", "to": "notes/b.txt"}, "ok"),
    ("move_file", {"path": "notes/b.txt", "to": "notes/c.txt"}, "ok"),
    ("make_folder", {"path": "empty/folder"}, "ok"),
    ("read_files", {"paths": ["sums.py", "notes/c.txt", "none"]}, "ok"),
    ("read_media", {"path": "dot.png"}, "ok"),
    ("list_files", {}, "ok"),
    ("list_folder", {"path": "notes"}, "ok"),
    ("show_tree", {}, "ok"),
    ("file_info", {"path": "dot.png"}, "ok"),
    ("search_files", {"pattern": "return"}, "ok"),
    ("delete_file", {"path": "empty", "recursive": True}, "ok"),
    ("git_status", {}, "ok"),
    ("git_diff", {}, "ok"),
    ("git_add", {"paths": ["sums.py"]}, "ok"),
    ("git_commit", {"message": "Add, not subtract"}, "ok"),
    ("edit_file", {"path": "dot.txt", "old": ".", "new": "!"}, "ok"),
    ("git_restore", {"paths": ["dot.txt"]}, "ok"),
    ("git_restore", {"paths": ["none"]}, "not_found"),
    ("git_log", {"limit": 1}, "ok"),
    ("git_show", {"revision": "HEAD:sums.py"}, "ok"),
    ("git_blame", {"path": "sums.py"}, "ok"),
    ("git_branch", {"action": "create", "name": "topic"}, "ok"),
    ("git_switch", {"branch": "topic"}, "ok"),
    ("git_stash", {"action": "push", "untracked": True}, "ok"),
    ("git_merge", {"action": "merge", "revision": "main"}, "ok"),
    ("git_push", {}, "ok"),
    ("git_fetch", {}, "ok"),
    ("git_list", {"what": "branches"}, "ok"),
    ("git_worktree", {"action": "add", "path": "{other}/tree", "branch": "tree"}, "ok"),
    ("run_command", {"command": "echo out; echo err >&2; exit 3"}, "ok"),
    ("run_command", {"command": "true", "timeout_seconds": -1}, "bad_argument"),
    ("start_command", {"command": "cat"}, "ok"),
    ("write_input", {"handle": "p1", "text": "heard\n"}, "ok"),
    ("read_output", {"handle": "p1", "wait_seconds": 0}, "ok"),
    ("read_output", {"handle": "p7"}, "not_found"),
    ("stop_command", {"handle": "p1"}, "ok"),
    ("task_submit", {"text": "# Round once\n\nDo it.", "repo": "https://git.example.org/shop.git"}, "ok"),
    ("task_list", {}, "ok"),
    ("task_status", {"task": "{task}"}, "ok"),
    ("task_wait", {"task": "{task}", "timeout_seconds": 0}, "ok"),
    ("task_approve", {"task": "{task}"}, "not_waiting"),
    ("task_reject", {"task": "{task}", "why": "no"}, "not_waiting"),
    ("task_cancel", {"task": "{task}"}, "ok"),
    ("task_report", {"task": "{task}"}, "not_found"),
    ("task_diff", {"task": "none"}, "not_found"),
    ("task_shw", {}, "unknown_tool"),
]
EVERYTHING = Grants(FAMILIES, allow=frozenset(TOOLS))


@dataclass(frozen=True)
class Place:
    """A home with a queue, and two roots: a repository, and a folder with its remote."""

    top: Path

    @property
    def environ(self) -> dict[str, str]:
        return {"HOME": str(self.top), "PATH": os.environ["PATH"], "NIGHTCREW_HOME": str(self.top / "home")}

    @property
    def roots(self) -> tuple[Path, Path]:
        return self.top / "shop", self.top / "other"

    @property
    def arguments(self) -> list[str]:
        roots = [word for root in self.roots for word in ("--root", str(root))]
        return ["mcp", *roots, *(word for name in TOOLS for word in ("--allow", name))]

    def fill(self) -> None:
        shop, other = self.roots
        (shop / "notes").mkdir(parents=True)
        (self.top / "home").mkdir()
        (shop / "sums.py").write_text(SUMS)
        (shop / "dot.png").write_bytes(PNG)
        (shop / "dot.txt").write_text(".\n")
        remote = str(other / "remote.git")
        identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
        for words in (
            ["init", "-q", "-b", "main", str(shop)],
            ["init", "-q", "--bare", "-b", "main", remote],
            ["-C", str(shop), "config", "user.name", "Ada"],
            ["-C", str(shop), "config", "user.email", "ada@example.org"],
            ["-C", str(shop), "remote", "add", "origin", remote],
            ["-C", str(shop), "add", "-A"],
            ["-C", str(shop), *identity, "commit", "-q", "-m", "First"],
        ):
            subprocess.run(["git", *words], check=True, env=self.environ, cwd=self.top)
        user = box_user(None)
        for root in self.roots:
            for path in (root, *root.rglob("*")):
                os.chown(path, user.uid, user.gid)

    def alike(self, text: str) -> str:
        """`text` without what differs from run to run: paths, hashes, times."""
        for name, path in (("SHOP", self.roots[0]), ("OTHER", self.roots[1])):
            text = text.replace(str(path), name)
        text = re.sub(r"\b(?=[0-9a-f]*\d)[0-9a-f]{7,64}\b", "HASH", text)
        text = re.sub(r"\d{4}-\d\d-\d\d(T[\d:.+]+Z?)?", "TIME", text)
        return re.sub(r"\d+(\.\d+)? s\b", "N s", text)


@asynccontextmanager
async def connected(place: Place, era: str, transport: str) -> AsyncIterator[Client]:
    """A client of a server over the place; what serves it is real."""
    if transport == "stdio":
        command, *rest = NIGHTCREW
        parameters = StdioServerParameters(command=command, args=[*rest, *place.arguments], env=place.environ)
        async with Client(parameters, mode=era) as client:
            yield client
    elif transport == "http":
        async with served(place) as url, Client(streamable_http_client(url), mode=era) as client:
            yield client
    else:
        config = load_config(place.environ)
        async with (
            open_offer(config, EVERYTHING, place.roots, audit=config.mcp_audit) as offer,
            offer.server() as server,
            Client(server, mode=era) as client,
        ):
            yield client


@asynccontextmanager
async def served(place: Place) -> AsyncIterator[str]:
    arguments = [*NIGHTCREW, *place.arguments, "--http", "127.0.0.1:0"]
    process = await anyio.open_process(arguments, env=place.environ, stdin=subprocess.DEVNULL)
    try:
        said = ""
        while (address := re.search(r"http://\S+/mcp", said)) is None:
            said += (await process.stderr.receive()).decode()
        yield address[0]
    finally:
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


async def answers(era: str, transport: str) -> list[tuple[str, str, str]]:
    """Tool, code and answer of every call in the table, as one text with the facts in it."""
    place = Place(Path(tempfile.mkdtemp(prefix="nightcrew-test-", dir="/tmp")))
    place.top.chmod(0o755)
    told: list[tuple[str, str, str]] = []
    try:
        place.fill()
        config = load_config(place.environ)
        async with AsyncExitStack() as stack:
            stack.enter_context(ServiceLock(config.home))
            stack.enter_context(Journal.open(config.journal))
            client = await stack.enter_async_context(connected(place, era, transport))
            names = {"other": str(place.roots[1]), "task": "none yet"}
            for name, arguments, _ in CALLS:
                filled = {
                    key: value.format(**names) if isinstance(value, str) else value for key, value in arguments.items()
                }
                result = await client.call_tool(name, filled)
                told.append((name, *answer(place, result)))
                if name == "task_submit":
                    names["task"] = result.structured_content["id"]
            told = [(name, code, text.replace(names["task"], "TASK")) for name, code, text in told]
        log = [json.loads(line) for line in config.mcp_audit.read_text().splitlines()]
    finally:
        shutil.rmtree(place.top, ignore_errors=True)
    assert [line["tool"] for line in log] == [name for name, _, _ in CALLS if name in TOOLS]
    assert [line["code"] for line in log] == [code for name, code, _ in told if name in TOOLS]
    return told


def answer(place: Place, result: Any) -> tuple[str, str]:
    parts = [
        part.text if part.type == "text" else f"{part.type} {part.mime_type} {part.data}" for part in result.content
    ]
    failed = re.match(r"error\[(\w+)\]: \S", parts[0])
    assert bool(result.is_error) == bool(failed), parts[0]
    facts = {key: value for key, value in (result.structured_content or {}).items() if key != "seconds"}
    whole = "\n".join([*parts, json.dumps(facts, sort_keys=True)])
    return failed[1] if failed else "ok", place.alike(whole)


@pytest.fixture(scope="module")
def expected() -> list[tuple[str, str, str]]:
    """What the first of the ways answers."""
    return anyio.run(answers, *FIRST)


def test_the_table_has_every_tool_and_most_of_it_succeeds():
    assert set(TOOLS) - {name for name, _, _ in CALLS} == set()
    failing = {name for name in TOOLS if all(code != "ok" for each, _, code in CALLS if each == name)}
    assert failing == {"task_approve", "task_reject", "task_report", "task_diff"}


def test_every_call_ends_as_the_table_says(expected):
    assert [(name, code) for name, code, _ in expected] == [(name, code) for name, _, code in CALLS], expected


@pytest.mark.parametrize(("era", "transport"), OTHERS)
async def test_every_tool_answers_the_same_in_every_era_over_every_transport(expected, era, transport):
    for ours, theirs in zip(await answers(era, transport), expected, strict=True):
        assert ours == theirs
