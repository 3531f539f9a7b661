"""What nothing-is-lost costs: appends, folds, claims, a service that has nothing to do, and 64 tasks at once.

    python bench/journal.py [appends] [fold] [claim] [idle] [crowd]      all parts, or those that are named

- appends: 16 tasks take turns to append the event of a tool call, each on the disk before the next; beside it, in
  turns, a bare SQLite row of the same size, committed in the same mode (WAL, synchronous FULL).
- fold: the record of a task of 2,000 events, read and folded, as a restart does it.
- claim: the best of 100,000 queued tasks is taken, beside the best of 100.
- idle: `nightcrew up` with nothing to do: CPU of the process tree as a share of one core over `--seconds`, and its
  memory (resident; and proportional: pages that processes share are counted once). To reach: 0.5 %, 90 MB.
- crowd: 64 tasks at once with a model of 1 s a call: model replies a second while all of them run, beside the 64 a
  second that a harness without any cost would reach, and the memory of the whole tree. To reach: 90 %, 2.5 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path

from overhead import answers, descendants, rss_mb, service, wait_for

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from fakes.house import ACTING, FIX, PLANNING, call, make_repository, plan  # noqa: E402
from fakes.scripted_server import spawned  # noqa: E402
from nightcrew.domain import Usage  # noqa: E402
from nightcrew.events import ModelReplied, ToolRan  # noqa: E402
from nightcrew.journal import Journal, Submission  # noqa: E402
from nightcrew_tools.contract import TaskRequest  # noqa: E402

TASKS = 16
EVENTS = 2_000
QUEUED = 100_000
CROWD = 64
ROUNDS_OF_TOOLS = 8


def request(number: int = 0) -> TaskRequest:
    return TaskRequest(title=f"task {number}", text="Fix mean().", repo=f"/srv/repository-{number % 50}")


def tool_ran(number: int) -> ToolRan:
    """As large as the answer of a tool usually is."""
    text = json.dumps({"role": "tool", "tool_call_id": f"call_{number}", "content": "x" * 1800})
    return ToolRan(
        conversation="executor/1",
        call_id=f"call_{number}",
        name="read_file",
        message=text,
        is_error=False,
        tree="a" * 40,
        seconds=0.01,
    )


def replied(number: int) -> ModelReplied:
    text = json.dumps({"role": "assistant", "content": "y" * 400})
    usage = Usage(prompt_tokens=9000 + number, completion_tokens=100, cached_tokens=9000)
    return ModelReplied(conversation="executor/1", message=text, finish_reason="tool_calls", usage=usage, seconds=1.0)


def appends(root: Path) -> dict:
    """Seconds of one append, ours and a bare one, in turns."""
    with Journal.open(root / "journal.sqlite") as journal, closing(bare(root / "bare.sqlite")) as plain:
        tasks = [journal.submit(request(n), origin="bench", name_hint=f"task-{n}").task for n in range(TASKS)]
        seqs = {task: journal.claim_task(task, "bench").seq for task in tasks}
        ours, theirs = [], []
        for number in range(100):
            event = tool_ran(number)
            body = event.model_dump_json()
            for task in tasks:
                begun = time.perf_counter()
                seqs[task] += 1
                journal.append(task, seqs[task], event)
                ours.append(time.perf_counter() - begun)
                begun = time.perf_counter()
                plain.execute("INSERT INTO event VALUES (?, ?, ?)", (task, seqs[task], body))
                theirs.append(time.perf_counter() - begun)
    return {
        "appends a second, 16 tasks": round(len(ours) / sum(ours)),
        "bare SQLite commits a second": round(len(theirs) / sum(theirs)),
        "an append beside a bare commit, times": round(statistics.median(ours) / statistics.median(theirs), 2),
    }


def bare(path: Path) -> sqlite3.Connection:
    plain = sqlite3.connect(path, isolation_level=None)
    plain.execute("PRAGMA journal_mode = WAL").fetchall()
    plain.execute("PRAGMA synchronous = FULL")
    plain.execute("CREATE TABLE event (task TEXT, seq INTEGER, body TEXT, PRIMARY KEY (task, seq)) WITHOUT ROWID")
    return plain


def fold(root: Path) -> dict:
    """Milliseconds for the record of a long task."""
    with Journal.open(root / "journal.sqlite") as journal:
        task = journal.submit(request(), origin="bench", name_hint="long").task
        seq = journal.claim_task(task, "bench").seq
        for number in range((EVENTS - seq) // 2):
            journal.append(task, seq + 1, replied(number))
            journal.append(task, seq + 2, tool_ran(number))
            seq += 2
        times = [timed(lambda: journal.record(task)) for _ in range(10)]
        assert journal.record(task).seq == seq
    return {f"fold of {seq} events, ms": milliseconds(times)}


def claim(root: Path) -> dict:
    """Milliseconds to take the best task, with few and with many behind it."""
    found = {}
    for count in (100, QUEUED):
        with Journal.open(root / f"queue-{count}.sqlite") as journal:
            for start in range(0, count, 5_000):
                journal.submit_many(
                    [
                        Submission(request(n), "bench", f"task-{n}", f"task-{n:06}")
                        for n in range(start, min(count, start + 5_000))
                    ]
                )
            times = [timed(lambda: journal.claim("bench")) for _ in range(20)]
        found[f"claim among {count:,}, ms"] = milliseconds(times)
    return found


def idle(root: Path, seconds: float) -> dict:
    """What a service costs that waits for tasks."""
    with service(root, "http://127.0.0.1:9/v1") as (process, _home, cpu):
        time.sleep(5)  # the start is over
        used, begun = cpu.seconds(), time.monotonic()
        time.sleep(seconds)
        share = (cpu.seconds() - used) / (time.monotonic() - begun)
        return {
            "idle CPU, % of a core": round(share * 100, 2),
            "idle resident memory, MB": round(rss_mb(process.pid), 1),
            "idle proportional memory, MB": round(pss_mb(process.pid), 1),
        }


def crowd(root: Path, delay: float) -> dict:
    """Model replies a second while all tasks run, and the memory of everything."""
    steps = (*FIX[:1], FIX[1], *looks() * ROUNDS_OF_TOOLS, *FIX[2:])
    rules = [{"when": PLANNING, "answers": answers(plan())}, {"when": ACTING, "answers": answers(*steps)}]
    with (
        spawned({"rules": rules, "delay": delay}) as model,
        service(root, model.url, f"concurrency = {CROWD}\n") as (process, home, cpu),
    ):
        for number in range(CROWD):
            repository = make_repository(root / f"repository-{number}")
            waiting = root / f"task-{number}.md"
            waiting.write_text(
                f"---\nrepo: {repository}\nchecks: ['python3 -m unittest -q']\n---\n# Fix mean()\n\nIt.\n"
            )
        peak = Memory(process.pid)
        peak.start()
        used = cpu.seconds()
        for number in range(CROWD):
            (root / f"task-{number}.md").rename(home / "inbox" / f"task-{number}.md")
        reports = [home / "outbox" / f"task-{number}.report.json" for number in range(CROWD)]
        wait_for(lambda: all(report.is_file() for report in reports), process, root, seconds=900)
        peak.done.set()
        used = cpu.seconds() - used
        codes = {json.loads(report.read_text())["exit_code"] for report in reports}
        if codes != {0}:
            raise SystemExit(f"not every task was delivered: {codes}")
        rate, replies = steady_rate(home / "journal.sqlite")
    return {
        "replies a second while all run": round(rate, 1),
        "of the ideal, %": round(rate / (CROWD / delay) * 100, 1),
        "CPU for one reply and its tool, ms": round(used / replies * 1000, 1),
        "memory of 64 tasks, MB": round(peak.peak),
    }


def looks() -> tuple:
    """A round of what an executor does most: it reads, searches, edits and runs."""
    text = "# a remark\n"
    return (
        call("read_file", path="test_stats.py"),
        call("search_text", pattern="def test_"),
        call("list_directory", path="."),
        call("write_file", path="NOTES.md", content=text),
        call("read_file", path="stats.py"),
        call("run_command", command="grep -n return stats.py"),
    )


def steady_rate(path: Path) -> tuple[float, int]:
    """Replies a second from the moment when each task had its first to the one when one had its last."""
    with closing(sqlite3.connect(path)) as journal:
        rows = journal.execute("SELECT task, at FROM event WHERE kind = 'model_replied' ORDER BY at").fetchall()
    times: dict[str, list[float]] = {}
    for task, at in rows:
        times.setdefault(task, []).append(datetime.fromisoformat(at).timestamp())
    start, end = max(one[0] for one in times.values()), min(one[-1] for one in times.values())
    inside = sum(start < at <= end for one in times.values() for at in one)
    if end <= start:
        raise SystemExit("the tasks did not run side by side")
    return inside / (end - start), len(rows)


class Memory(threading.Thread):
    """Samples the tree's proportional set size twice a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.peak, self.done = pid, 0.0, threading.Event()

    def run(self) -> None:
        while not self.done.wait(2.0):
            self.peak = max(self.peak, pss_mb(self.pid))


def pss_mb(pid: int) -> float:
    total = 0
    for process in descendants(pid):
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total * 1024 / 1e6


def timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def milliseconds(times: list[float]) -> str:
    return f"{min(times) * 1000:.2f} ({statistics.median(times) * 1000:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="of appends, fold, claim, idle, crowd; all when none is named")
    parser.add_argument("--seconds", type=float, default=30, help="how long the idle service is watched")
    parser.add_argument("--delay", type=float, default=1.0, help="seconds of a model call with 64 tasks at once")
    arguments = parser.parse_args()
    parts: dict[str, Callable[[Path], dict]] = {
        "appends": appends,
        "fold": fold,
        "claim": claim,
        "idle": lambda root: idle(root, arguments.seconds),
        "crowd": lambda root: crowd(root, arguments.delay),
    }
    if unknown := set(arguments.parts) - set(parts):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    result = {}
    for name in arguments.parts or parts:
        root = Path(tempfile.mkdtemp(prefix="nightcrew-bench-"))
        root.chmod(0o755)
        try:
            result |= parts[name](root)
        finally:
            shutil.rmtree(root, ignore_errors=True)
    width = max(map(len, result))
    for name, value in result.items():
        print(f"{name:<{width}}  {value}")
    print(f"minimum (median) where there are two; load {os.getloadavg()[0]:.1f}")
    print(json.dumps({"bench": "journal", **result}))


if __name__ == "__main__":
    main()
