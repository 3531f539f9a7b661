"""The MCP server beside the reference servers for files and git: the same client over stdio, the same work, in turns.

Read, list, search and tree over 2,000 files, status and log of their repository, the time from the start to the first
tools/list, and resident memory. The reference servers are named by the commands that start them, and a row whose server
is not named is left out with a line that says so:

    npm install --prefix DIR @modelcontextprotocol/server-filesystem@2026.8.31
    python -m venv DIR/git && DIR/git/bin/pip install mcp-server-git==2026.10.19
    python bench/servers.py --files "node DIR/node_modules/@modelcontextprotocol/server-filesystem/dist/index.js" \\
        --git DIR/git/bin/mcp-server-git [--rounds 100]
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
from box import make_source
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from overhead import rss_mb

from nightcrew_workspaces.user import box_user


def work(root: Path) -> dict[str, tuple[tuple[str, dict], str, tuple[str, dict], int]]:
    """What is measured: our call, which of the other servers, its call, and how often for each round."""
    file = f"{root}/package03/module0171.py"
    repo = {"repo_path": str(root)}
    return {
        "read": (("read_file", {"path": file}), "files", ("read_text_file", {"path": file}), 5),
        "list": (
            ("list_folder", {"path": f"{root}/package03"}),
            "files", ("list_directory", {"path": f"{root}/package03"}), 5,
        ),
        "search": (
            ("list_files", {"pattern": "module017*.py"}),
            "files", ("search_files", {"path": str(root), "pattern": "**/module017*.py"}), 1,
        ),
        "search contents": (("search_files", {"pattern": r"function_17\d\d_7\b"}), "", ("", {}), 1),
        "tree": (("show_tree", {"path": "."}), "files", ("directory_tree", {"path": str(root)}), 1),
        "status": (("git_status", {}), "git", ("git_status", repo), 1),
        "log": (("git_log", {"limit": 10}), "git", ("git_log", {**repo, "max_count": 10}), 1),
    }  # fmt: skip


async def connected(stack: AsyncExitStack, command: list[str], home: Path) -> tuple[Client, float, int]:
    """A client of the server that this command starts, seconds until it listed its tools, and the process."""
    before = set(children())
    begun = time.perf_counter()
    environ = {"HOME": str(home), "NIGHTCREW_HOME": str(home / "home"), "PATH": os.environ["PATH"]}
    # The account that owns the repository is not the one that measures; only git has to be told that this is meant.
    environ |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
    server = StdioServerParameters(command=command[0], args=command[1:], env=environ)
    client = await stack.enter_async_context(Client(server, mode="legacy"))
    await client.list_tools()
    took = time.perf_counter() - begun
    (pid,) = set(children()) - before
    return client, took, pid


def children() -> list[int]:
    own = os.getpid()
    return [
        int(child)
        for task in os.listdir(f"/proc/{own}/task")
        for child in Path(f"/proc/{own}/task/{task}/children").read_text().split()
    ]


async def once(client: Client, call: tuple[str, dict]) -> float:
    begun = time.perf_counter()
    result = await client.call_tool(*call)
    took = (time.perf_counter() - begun) * 1000
    assert not result.is_error, result.content[0].text
    return took


async def measure(top: Path, root: Path, commands: dict[str, list[str]], rounds: int) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    clients: dict[str, Client] = {}
    async with AsyncExitStack() as stack:
        for name, command in commands.items():
            starts = []
            for _ in range(5):
                async with AsyncExitStack() as short:
                    starts.append((await connected(short, command, top))[1] * 1000)
            clients[name], _, pid = await connected(stack, command, top)
            found[f"start, {name}"] = {"ours" if name == "ours" else "theirs": round(min(starts))}
            found[f"resident MB, {name}"] = {"ours" if name == "ours" else "theirs": round(rss_mb(pid))}
        for name, (ours, server, theirs, often) in work(root).items():
            times: dict[str, list[float]] = {"ours": [], "theirs": []}
            for turn in range(rounds * often + 2):
                for side, client, call in (("ours", clients["ours"], ours), ("theirs", clients.get(server), theirs)):
                    if client is not None:
                        took = await once(client, call)
                        times[side] += [took] if turn >= 2 else []  # by then caches are filled
            found[name] = {}
            for side, taken in times.items():
                if taken:
                    found[name] |= {side: round(min(taken), 2), f"{side} median": round(statistics.median(taken), 2)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--files", default="", help="command of the reference server for files; the root is added")
    parser.add_argument("--git", default="", help="command of the reference server for git; the root is added")
    arguments = parser.parse_args()
    top = Path(tempfile.mkdtemp(prefix="nightcrew-bench-", dir="/tmp"))
    top.chmod(0o755)
    try:
        root = make_source(top / "source", 2000)
        user = box_user(None)
        for path in (root, *root.rglob("*")):
            os.chown(path, user.uid, user.gid)
        # The index knows the files by their owner too: whoever does not write to it would read all of them each time.
        subprocess.run(["git", "-c", "safe.directory=*", "update-index", "-q", "--refresh"], cwd=root, check=True)
        os.chown(root / ".git/index", user.uid, user.gid)
        commands = {"ours": [sys.executable, "-m", "nightcrew", "mcp", "--root", str(root)]}
        for name, command, extra in (("files", arguments.files, []), ("git", arguments.git, ["--repository"])):
            if command:
                commands[name] = [*shlex.split(command), *extra, str(root)]
            else:
                print(f"*** NOT MEASURED: the reference server for {name}; name its command by --{name} ***")
        found = anyio.run(measure, top, root, commands, arguments.rounds)
    finally:
        shutil.rmtree(top, ignore_errors=True)
    print(f"{'ms, minimum (median)':<22} {'ours':>18} {'reference':>18}")
    for name, row in found.items():
        cells = [
            f"{row[side]:g}" + (f" ({row[f'{side} median']:g})" if f"{side} median" in row else "")
            if side in row
            else "-"
            for side in ("ours", "theirs")
        ]
        print(f"{name:<22} {cells[0]:>18} {cells[1]:>18}")
    print(
        f"{arguments.rounds} rounds; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; Python {sys.version[:6]}"
    )
    print(json.dumps({"bench": "servers", "load": round(os.getloadavg()[0], 1), **found}))


if __name__ == "__main__":
    main()
