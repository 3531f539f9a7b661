"""Tasks of every kind over a scripted model, and the real service over them in a process that kills itself."""

from __future__ import annotations

import http.server
import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from fakes.house import ACTING, FIX, JUDGING, PLANNING, call, plan
from fakes.outside import Names
from fakes.scripted_server import Answer
from nightcrew.config import Config, CrewSettings, NetworkSettings, RoleSettings
from nightcrew.events import Recorded
from nightcrew.journal.log import Log
from nightcrew.service import Service
from nightcrew.service.service import serve
from nightcrew.service.worker import open_worker
from nightcrew_tools.contract import TaskRequest
from nightcrew_workspaces import egress

PLAN = plan()
STEPS = plan(
    {"title": "Look at mean()", "done_when": "read", "checks": ["test -s stats.py"]},
    {"title": "Divide by len(values)", "done_when": "test_mean passes"},
)
STRAY = "(sleep 300; echo late >> stats.py) > /dev/null 2>&1 & echo left behind"
"""A command that leaves a process in the background: it ends with its box and changes nothing any more."""
HANGING = Answer(fault="hang")


@dataclass(frozen=True)
class Kind:
    """One kind of task: what stands in its file, and what the model says when it reads `marker`."""

    marker: str
    acts: tuple[Answer, ...] = FIX
    plan: Answer = PLAN
    fields: tuple[tuple[str, Any], ...] = ()
    outcome: str = "delivered"
    decide: str = ""
    """What a person says to its question: `approve` or `reject`."""
    cancel_after: int = 0
    """A person cancels it when the model has had so many answers of tools."""


KINDS = (
    Kind("second try", acts=(call("finish_step", summary="done already"), *FIX)),
    Kind(
        "locked",
        acts=(FIX[1], call("write_file", path="uv.lock", content="version = 1\n"), FIX[3]),
        decide="approve",
    ),
    Kind("ordered", fields=(("network", None),)),
    Kind("cancelled", acts=(*FIX[:2], HANGING), outcome="cancelled", cancel_after=2),
    Kind("small", fields=(("crew", "small"),)),
    Kind("plain"),
    Kind("stepwise", acts=(call("finish_step", summary="read"), *FIX), plan=STEPS),
    Kind("patched", fields=(("deliver", "patch"),)),
    Kind("stray", acts=(call("run_command", command=STRAY), *FIX)),
    Kind(
        "set up",
        fields=(
            ("setup", ["mkdir -p deps && echo 'ok = 1' > deps/helper.py"]),
            ("checks", ["PYTHONPATH=deps python3 -c 'import helper, stats; assert stats.mean([1, 2, 3]) == 2'"]),
        ),
    ),
    Kind("judged", fields=(("crew", "judged"),)),
    Kind(
        "refused",
        acts=(FIX[1], call("write_file", path=".github/workflows/x.yml", content="on: push\n"), FIX[3]),
        outcome="rejected",
        decide="reject",
    ),
    Kind(
        "hopeless",
        acts=(call("write_file", path="notes.txt", content="no idea\n"), *(call("finish_step", summary="done"),) * 9),
        fields=(("limits", {"attempts": 2}),),
        outcome="unverified",
    ),
)


def order(name: str, host: str) -> Answer:
    """The model orders something outside, once."""
    return call("run_command", command=f"curl -sS -m 20 -X POST -d {name} http://{host}/orders")


@dataclass(frozen=True)
class Job:
    """One task of the many."""

    name: str
    kind: Kind
    repository: Path
    host: str
    """Where it may order from."""

    @property
    def fields(self) -> dict[str, Any]:
        fields = dict(self.kind.fields)
        if "network" in fields:
            fields["network"] = {"hosts": [self.host], "during": "loop"}
        return fields

    @property
    def text(self) -> str:
        return f"# Fix mean() ({self.kind.marker})\n\nmean([1, 2, 3]) must be 2: {self.kind.marker}, {self.name}.\n"

    @property
    def file(self) -> str:
        """The same as a task file."""
        front = {"repo": str(self.repository), "id": self.name, **self.fields}
        return "---\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in front.items()) + f"---\n{self.text}"

    @property
    def request(self) -> TaskRequest:
        title = f"Fix mean() ({self.kind.marker})"
        values = {"title": title, "text": self.text, "repo": str(self.repository), "id": self.name, **self.fields}
        return TaskRequest.model_validate(values)

    @property
    def acts(self) -> tuple[Answer, ...]:
        return (order(self.name, self.host), *self.kind.acts) if "network" in self.fields else self.kind.acts


def jobs(number: int, repositories: list[Path], host: str) -> list[Job]:
    """So many tasks, the kinds one after the other, spread over the repositories."""
    return [
        Job(f"t{at:03}", KINDS[at % len(KINDS)], repositories[at % len(repositories)], host) for at in range(number)
    ]


def script_for(some: list[Job]) -> dict[str, Any]:
    """What the scripted model says to all of them."""

    def plain(answers: tuple[Answer, ...]) -> list[dict[str, Any]]:
        return [
            {"text": one.text, "tool_calls": [list(each) for each in one.tool_calls], "fault": one.fault}
            for one in answers
        ]

    rules: list[dict[str, Any]] = [
        {"when": JUDGING, "answers": plain((Answer('{"reason": "it does what was asked", "passes": true}'),))},
        {"when": "You choose which file", "answers": [{"text": '{"file": "stats.py", "problem": "off by one"}'}]},
        {"when": "total += value\n<|fim_suffix|>", "answers": [{"text": "    return total / len(values)"}]},
        {"when": "<|fim_prefix|>", "answers": [{"text": "    pass"}]},
    ]
    for job in some:
        marker, look = f"{job.kind.marker}, {job.name}.", call("read_file", path="stats.py")
        plans = plain((look, job.kind.plan))
        rules.append({"when": PLANNING, "has": marker, "answers": plans, "repeat": True})
        rules.append({"when": ACTING, "has": marker, "answers": plain(job.acts), "repeat": True})
    return {"rules": rules}


def config_for(home: Path, url: str, host: str) -> Config:
    role = RoleSettings(base_url=url, model="scripted", patience_seconds=30)
    chooser = role.model_copy(update={"dialect": ("choose",)})
    crews = {
        "scripted": CrewSettings(planner=role, executor=role),
        "judged": CrewSettings(planner=role, executor=role, verifier=role),
        "small": CrewSettings(planner=chooser, executor=role.model_copy(update={"dialect": ("infill",)})),
    }
    network = NetworkSettings.model_validate({"allow": (host,), "private": ["127.0.0.1/32"]})
    return Config(home=home, workspaces=home / "workspaces", crew="scripted", crews=crews, network=network)  # type: ignore[arg-type]


@contextmanager
def shop() -> Generator[tuple[str, Counter[str]]]:
    """What is outside: takes orders, and counts them. Yields its place as tasks name it."""
    orders: Counter[str] = Counter()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            orders[self.rfile.read(int(self.headers["Content-Length"])).decode()] += 1
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"mirror.test:{server.server_port}", orders
        finally:
            server.shutdown()
            thread.join()


# --- the service, in a process of its own


@dataclass(frozen=True)
class Doom:
    """When the process kills itself: at the `number`-th event, fsync or rename, before or after it; `none`: never."""

    what: str = "none"
    number: int = 0
    after: bool = False

    def __str__(self) -> str:
        return f"{'after' if self.after else 'before'} {self.what} {self.number}"


def serve_doomed(home: str, url: str, host: str, doom: Doom) -> None:
    """`nightcrew up` until SIGTERM, or its doom."""
    config = config_for(Path(home), url, host)
    egress._look_up = Names(mirror_test=["127.0.0.1"])  # type: ignore[assignment]
    seen = 0

    def count() -> None:
        nonlocal seen
        seen += 1
        if seen == doom.number:
            os.kill(os.getpid(), signal.SIGKILL)

    def doomed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if not doom.after:
                count()
            result = function(*arguments, **named)
            if doom.after:
                count()
            return result

        return call

    def on_event(_: Recorded) -> None:
        if doom.what == "event" and doom.after:
            count()

    if doom.what == "event" and not doom.after:
        Log.insert = doomed(Log.insert)  # type: ignore[method-assign]
    elif doom.what == "fsync":
        os.fsync = doomed(os.fsync)
    elif doom.what == "rename":
        os.rename, os.replace = doomed(os.rename), doomed(os.replace)

    async def run() -> None:
        service = Service(config, open_worker=open_worker, say=lambda _: None, on_event=on_event)
        await serve(service, lambda _: None)

    anyio.run(run)


def descendants(pid: int) -> list[int]:
    """All processes below one, the nearest first."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(folder.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(0), [])
        found += below
        waiting += below
    return found


def inside(folder: Path) -> list[int]:
    """Processes that have something below a folder mounted, whose name is no other's: the boxes of its workspaces."""
    found: list[int] = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                mounts = (process / "mountinfo").read_text()
            except OSError:
                continue
            if f"/{folder.name}/" in mounts:
                found.append(int(process.name))
    return found
