"""What the box costs: each operation beside the plain one in the same run, in turns, so that both meet the same load.

A command in a box, alone and beside a background command, next to a plain subprocess; the file helper's start, a read
and an edit next to plain Python; a search over 2,000 files next to plain ripgrep; a checkpoint of one changed file and
a restore of 1,500 files next to plain git. The minimum of many rounds is what the machine can do when it is left alone,
the median is what it did.

    python bench/box.py [--rounds 40] [--only command,search,…]

On a machine that others use, root can keep them away for the few seconds: `chrt -r 1 python bench/box.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from nightcrew_workspaces import Background, Box, Files, Workspace, Workspaces, box_user

TARGETS = {
    "command": ("ms more than plain", 12.0),
    "command beside a server": ("ms more than plain", 12.0),
    "read": ("ms", 0.3),
    "search": ("times plain", 1.3),
    "search, few hits": ("times plain", 1.3),
    "checkpoint": ("ms", 60.0),
}
GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "core.fsync=none", "-c", "gc.auto=0"]
RG = ["/usr/bin/rg", "--no-config", "--line-number", "--hidden", "-g", "!.git"]

Action = Callable[[int], Awaitable[object]]


def make_source(root: Path, files: int) -> Path:
    """A repository with `files` modules of about 60 lines; the word `needle` in one line of every tenth."""
    root.mkdir()
    for number in range(files):
        folder = root / f"package{number // 50:02}"
        folder.mkdir(exist_ok=True)
        lines = [
            f"def function_{number}_{line}(value):\n    return value * {line} + {number}\n\n" for line in range(20)
        ]
        lines += [f"needle = {number}\n"] if number % 10 == 0 else []
        (folder / f"module{number:04}.py").write_text("".join(lines))
    for arguments in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*GIT, *arguments], cwd=root, check=True)
    return root


async def plain(*argv: str, cwd: Path) -> None:
    """A subprocess as any program starts one."""
    done = subprocess.run(argv, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


class Bench:
    """The operations, over one workspace and one plain clone of the same source."""

    def __init__(self, workspace: Workspace, clone: Path) -> None:
        self.workspace = workspace
        self.shared = Box(workspace.box.policy)
        self.clone = clone
        self.file = "package03/module0171.py"
        self.tree = ""
        self.plain_tree = ""

    def pairs(self) -> dict[str, tuple[Action, Action]]:
        return {
            "command": (self.command, self.plain_command),
            "command beside a server": (self.shared_command, self.plain_command),
            "helper start": (self.start, self.plain_start),
            "read": (self.read, self.plain_read),
            "edit": (self.edit, self.plain_edit),
            "search": (self.search, self.plain_search),
            "search, few hits": (self.rare_search, self.plain_rare_search),
            "checkpoint": (self.checkpoint, self.plain_checkpoint),
            "restore": (self.restore, self.plain_restore),
        }

    async def command(self, _: int) -> None:
        assert (await self.workspace.box.run("true")).exit_code == 0

    async def shared_command(self, _: int) -> None:
        assert (await self.shared.run("true")).exit_code == 0

    async def plain_command(self, _: int) -> None:
        await plain("/bin/bash", "-c", "true", cwd=self.clone)

    async def start(self, _: int) -> None:
        files = Files(self.workspace.box)
        await files.start()
        await files.aclose()

    async def plain_start(self, _: int) -> None:
        await plain("/usr/bin/python3", "-I", "-S", "-c", "import json", cwd=self.clone)

    async def read(self, _: int) -> None:
        assert (await self.workspace.files.read(self.file)).total_lines >= 60

    async def plain_read(self, _: int) -> None:
        assert (self.clone / self.file).read_text().count("\n") >= 60

    async def edit(self, turn: int) -> None:
        old, new = (f"_{1 + turn % 2}(value)", f"_{2 - turn % 2}(value)")
        await self.workspace.files.edit("edited.txt", old, new)

    async def plain_edit(self, turn: int) -> None:
        path = self.clone / "edited.txt"
        text = path.read_text().replace(f"_{1 + turn % 2}(value)", f"_{2 - turn % 2}(value)")
        path.with_suffix(".new").write_text(text)
        path.with_suffix(".new").replace(path)

    async def search(self, _: int) -> None:
        found = len((await self.workspace.files.search("needle", limit=300)).matches)
        assert found == 200, found

    async def plain_search(self, _: int) -> None:
        await plain(*RG, "needle", "./", cwd=self.clone)

    async def rare_search(self, _: int) -> None:
        assert len((await self.workspace.files.search(r"function_17\d\d_7\b", regex=True)).matches) == 100

    async def plain_rare_search(self, _: int) -> None:
        await plain(*RG, r"function_17\d\d_7\b", "./", cwd=self.clone)

    async def checkpoint(self, turn: int) -> None:
        (self.workspace.clone / "package00/module0001.py").write_text(f"changed = {turn}\n")
        self.tree = (await self.workspace.checkpoint()).tree

    async def plain_checkpoint(self, turn: int) -> None:
        (self.clone / "package00/module0001.py").write_text(f"changed = {turn}\n")
        await plain("sh", "-c", "git add -A && git commit -q -m checkpoint", cwd=self.clone)

    async def restore(self, turn: int) -> None:
        (self.workspace.clone / "package00/module0001.py").write_text(f"damaged = {turn}\n")
        await self.workspace.restore(self.tree)

    async def plain_restore(self, turn: int) -> None:
        (self.clone / "package00/module0001.py").write_text(f"damaged = {turn}\n")
        await plain("git", "reset", "-q", "--hard", cwd=self.clone)


async def timed(action: Action, turn: int) -> float:
    begun = time.perf_counter()
    await action(turn)
    return (time.perf_counter() - begun) * 1000


async def measure(pair: tuple[Action, Action], rounds: int) -> dict[str, float]:
    boxed, bare = [], []
    for turn in range(rounds + 2):
        boxed.append(await timed(pair[0], turn))
        bare.append(await timed(pair[1], turn))
    del boxed[:2], bare[:2]  # caches are filled by then
    return {
        "box": round(min(boxed), 3),
        "plain": round(min(bare), 3),
        "box median": round(statistics.median(boxed), 3),
        "plain median": round(statistics.median(bare), 3),
    }


async def run(root: Path, rounds: int, only: set[str]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    workspaces = Workspaces(root / "workspaces", user=box_user(None))
    searches = {"search", "search, few hits"}
    for files in (2000, 1500):
        source = make_source(root / f"source{files}", files)
        clone = root / f"clone{files}"
        subprocess.run(["git", "clone", "-q", str(source), str(clone)], check=True)
        subprocess.run(["git", "config", "core.fsync", "none"], cwd=clone, check=True)
        subprocess.run(["git", "config", "user.name", "a"], cwd=clone, check=True)
        subprocess.run(["git", "config", "user.email", "a@example.org"], cwd=clone, check=True)
        async with await workspaces.create(f"bench-{files}", str(source)) as workspace:
            bench = Bench(workspace, clone)
            background = Background(bench.shared)
            await background.start("sleep 100000")
            for place in (workspace.clone, clone):
                (place / "edited.txt").write_text("".join(f"line_{line}(value)\n" for line in (1, *range(3, 60))))
            os.chown(workspace.clone / "edited.txt", box_user(None).uid, box_user(None).gid)
            bench.tree = (await workspace.checkpoint()).tree
            for name, pair in bench.pairs().items():
                if (name in searches) == (files == 2000) and (not only or name.split(",")[0] in only):
                    many = rounds * 10 if name in ("read", "edit") else rounds
                    found[name] = await measure(pair, many)
            await background.aclose()
    return found


def reached(name: str, row: dict[str, float]) -> str:
    if name not in TARGETS:
        return ""
    unit, most = TARGETS[name]
    value = {
        "ms": row["box"],
        "ms more than plain": row["box"] - row["plain"],
        "times plain": row["box"] / row["plain"],
    }[unit]
    return f"{value:.2f} {unit}, at most {most:g}: {'reached' if value <= most else 'MISSED'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--only", default="", help="operations to measure, with commas between them")
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="nightcrew-bench-", dir="/tmp"))
    root.chmod(0o755)
    try:
        found = asyncio.run(run(root, arguments.rounds, {name for name in arguments.only.split(",") if name}))
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(f"{'ms, minimum (median)':<23} {'in the box':>18} {'plain':>18} {'ratio':>6}")
    for name, row in found.items():
        ratio = row["box"] / row["plain"]
        box, bare = (f"{row[kind]:.2f} ({row[f'{kind} median']:.2f})" for kind in ("box", "plain"))
        print(f"{name:<23} {box:>18} {bare:>18} {ratio:>6.2f}  {reached(name, row)}")
    print(
        f"{arguments.rounds} rounds; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; Python {sys.version[:6]}"
    )
    print(json.dumps({"bench": "box", "load": round(os.getloadavg()[0], 1), **found}))


if __name__ == "__main__":
    main()
