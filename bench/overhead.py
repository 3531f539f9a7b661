"""What the harness costs beside the model: one warm service, a scripted model of 50 ms a call, a one-line bug.

The same five calls for everybody: plan, read, edit, run the test, hand over. Printed: seconds and CPU above the model's
time, in parts, from the drop of the task file into the inbox to the end of the task; time from the drop to the first
request; peak RSS of the service's process tree; requests; prompt tokens of the first request. Beside it, in the same
run, the floor: the same commands in one bare shell.

    python bench/overhead.py [--rounds 5] [--delay 0.05]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import httpx2

from nightcrew.config import environment, models_dir
from nightcrew.serving.embedded import EmbeddedServer
from nightcrew.serving.weights import present

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from fakes.house import ACTING, FIX, PLANNING, make_repository, plan  # noqa: E402
from fakes.scripted_server import spawned  # noqa: E402

FLOOR = """cat stats.py
sed -i 's|(len(values) - 1)|len(values)|' stats.py
python3 -m unittest -q
git -c user.name=a -c user.email=a@example.org commit -qam 'fix mean'
"""


def answers(*replies) -> list[dict]:
    return [{"text": reply.text, "tool_calls": [list(call) for call in reply.tool_calls]} for reply in replies]


def script(delay: float) -> dict:
    rules = [{"when": PLANNING, "answers": answers(plan())}, {"when": ACTING, "answers": answers(*FIX)}]
    return {"rules": rules, "delay": delay}


def descendants(pid: int) -> list[int]:
    """The process and all below it."""
    found = [pid]
    for parent in found:
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                found += [int(child) for child in Path(f"/proc/{parent}/task/{task}/children").read_text().split()]
        except OSError:
            continue
    return found


class Cpu:
    """CPU time of everything that a process starts, by a control group of its own (v1 or v2; only root can).

    The times that /proc gives for ended children miss what a box's processes used: they are killed with their
    namespace, and nobody waits for each of them.
    """

    def __init__(self, pid: int) -> None:
        self.folder: Path | None = None
        for base in (Path("/sys/fs/cgroup/cpuacct"), Path("/sys/fs/cgroup")):
            folder = base / f"nightcrew-bench-{pid}"
            try:
                folder.mkdir()
                (folder / "cgroup.procs").write_text(str(pid))
            except OSError:
                continue
            self.folder = folder
            return

    def seconds(self) -> float:
        """NaN where it cannot be measured."""
        if self.folder is None:
            return float("nan")
        if (self.folder / "cpuacct.usage").exists():
            return int((self.folder / "cpuacct.usage").read_text()) / 1e9
        return int((self.folder / "cpu.stat").read_text().split()[1]) / 1e6

    def close(self) -> None:
        if self.folder is not None:
            with suppress(OSError):
                self.folder.rmdir()


def rss_mb(pid: int) -> float:
    total = 0
    for process in descendants(pid):
        try:
            total += int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError):
            continue
    return total / 1e6


class Peak(threading.Thread):
    """Samples the tree's resident memory every 10 ms; pages that processes share are counted for each."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.peak, self.done = pid, 0.0, threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.01):
            self.peak = max(self.peak, rss_mb(self.pid))


@contextmanager
def service(root: Path, url: str, more: str = ""):
    """`nightcrew up` on a home of its own; `more` are lines of its configuration."""
    home, config = root / "home", root / "config.toml"
    home.mkdir()
    config.write_text(
        f'home = "{home}"\nworkspaces = "{root}/workspaces"\ncrew = "bench"\n{more}'
        f'[crews.bench.planner]\nbase_url = "{url}"\nmodel = "scripted"\n'
    )
    environ = {**os.environ, "NIGHTCREW_CONFIG": str(config), "NIGHTCREW_HOME": str(home)}
    log = (root / "service.log").open("w")
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("nightcrew")), "up"], env=environ, stdout=log, stderr=log
    )
    try:
        wait_for((home / "inbox").is_dir, process, root)
        cpu = Cpu(process.pid)
        yield process, home, cpu
    finally:
        process.terminate()
        process.wait(20)
    cpu.close()


def wait_for(condition, process: subprocess.Popen, root: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"the service did not do it:\n{(root / 'service.log').read_text()}")
        time.sleep(0.002)


def one_task(root: Path, process: subprocess.Popen, home: Path, cpu: Cpu, name: str) -> dict:
    """Drop a task file and wait for its report."""
    repository = make_repository(root / f"repository-{name}")
    waiting = root / f"{name}.md"
    waiting.write_text(
        f"---\nrepo: {repository}\nchecks: ['python3 -m unittest -q']\n---\n# Fix mean()\n\nIt is wrong.\n"
    )
    report = home / "outbox" / f"{name}.report.json"
    peak = Peak(process.pid)
    peak.start()
    used, dropped = cpu.seconds(), time.time()
    waiting.rename(home / "inbox" / f"{name}.md")
    wait_for(report.is_file, process, root)
    wall = time.time() - dropped
    body = json.loads(report.read_text())
    peak.done.set()
    if body["exit_code"] != 0:
        raise SystemExit(f"the task was not delivered: {body['reason']}")
    return {"id": body["id"], "dropped": dropped, "wall": wall, "cpu": cpu.seconds() - used, "rss": peak.peak}


def parts(home: Path, task: dict) -> dict:
    """Seconds of each station, from the times of the journal's events."""
    with sqlite3.connect(home / "journal.sqlite") as journal:
        rows = journal.execute("select at, kind, body from event where task = ? order by seq", (task["id"],)).fetchall()
    at = [datetime.fromisoformat(when).timestamp() for when, _, _ in rows]
    kinds = [kind for _, kind, _ in rows]
    bodies = [json.loads(body) for _, _, body in rows]
    replied = [i for i, kind in enumerate(kinds) if kind == "model_replied"]
    first_request = at[replied[0]] - bodies[replied[0]]["seconds"]
    model = sum(bodies[i]["seconds"] for i in replied)
    checks = sum(r["seconds"] for b in bodies if b.get("kind") == "checks_ran" for r in b["results"])
    own_run = sum(b["seconds"] for b in bodies if b.get("kind") == "tool_ran" and b["name"] == "run_command")
    tools = sum(b["seconds"] for b in bodies if b.get("kind") == "tool_ran") - own_run
    claimed = at[kinds.index("task_claimed")]
    return {
        "drop to claim": claimed - task["dropped"],
        "drop to first request": first_request - task["dropped"],
        "workspace and context": at[kinds.index("workspace_opened")] - claimed,
        "checks before and after": checks,
        "the model's own test run": own_run,
        "other tools": tools,
        "model": model,
        "whole": task["wall"],
        "above the model": task["wall"] - model,
        "harness's own": task["wall"] - model - checks - own_run - max(0.0, claimed - task["dropped"]),
    }


def floor(root: Path, rounds: int) -> dict:
    walls, cpus = [], []
    for number in range(rounds):
        repository = make_repository(root / f"floor-{number}")
        before, begun = os.times(), time.monotonic()
        subprocess.run(["sh", "-c", FLOOR], cwd=repository, check=True, capture_output=True)
        after = os.times()
        walls.append(time.monotonic() - begun)
        cpus.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return {"seconds": statistics.median(walls), "cpu": statistics.median(cpus)}


def tokens_of(first: dict) -> tuple[int, str]:
    """Prompt tokens of a request: counted by the embedded model's tokenizer where its weights are, else estimated."""
    request = json.loads(first["body"])
    text = "\n".join([json.dumps(request.get("tools", [])), *(message["content"] for message in request["messages"])])
    try:
        return count_tokens(text), "counted by Qwen2.5-Coder's tokenizer, without the template's own"
    except (OSError, RuntimeError) as error:
        return len(text.encode()) // 4, f"estimated at 4 bytes a token ({error})"


def count_tokens(text: str) -> int:
    weights = present(models_dir(environment()))
    if weights is None:
        raise OSError("the weights are not here")

    async def ask() -> int:
        with tempfile.TemporaryDirectory() as folder:
            async with EmbeddedServer(weights, Path(folder) / "log") as server, httpx2.AsyncClient() as client:
                headers = {"Authorization": f"Bearer {server.api_key}"}
                url = server.base_url.removesuffix("/v1") + "/tokenize"
                answer = await client.post(url, json={"content": text}, headers=headers, timeout=60)
                return len(answer.json()["tokens"])

    return asyncio.run(ask())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--delay", type=float, default=0.05, help="seconds a model call takes")
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="nightcrew-bench-"))
    root.chmod(0o755)
    try:
        with spawned(script(arguments.delay)) as model, service(root, model.url) as (process, home, cpu):
            one_task(root, process, home, cpu, "warm-up")
            seen = len(model.requests())
            tasks = [one_task(root, process, home, cpu, f"task-{number}") for number in range(arguments.rounds)]
            requests = model.requests()
            rows = [parts(home, task) for task in tasks]
        result = {name: round(statistics.median(row[name] for row in rows), 3) for name in rows[0]}
        result["cpu"] = round(statistics.median(task["cpu"] for task in tasks), 3)
        result["peak RSS MB"] = round(max(task["rss"] for task in tasks))
        result["requests"] = (len(requests) - seen) / arguments.rounds
        result["first prompt tokens"], how = tokens_of(requests[0])
        bare = floor(root, arguments.rounds)
        result["floor seconds"], result["floor cpu"] = round(bare["seconds"], 3), round(bare["cpu"], 3)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    width = max(map(len, result))
    for name, value in result.items():
        print(f"{name:<{width}}  {value}")
    print(f"tokens: {how}; median of {arguments.rounds} tasks; load {os.getloadavg()[0]:.1f}")
    print(json.dumps({"bench": "overhead", **result}))


if __name__ == "__main__":
    main()
