"""A small house for end-to-end tests: repositories, a configuration, and the real runner over a scripted model."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from fakes.scripted_server import Answer, Rule, Script, ScriptedServer
from nightcrew.config import (
    Config,
    CrewSettings,
    Dialect,
    GateSettings,
    NetworkSettings,
    RoleSettings,
    WorkspaceSettings,
)
from nightcrew.journal import Journal
from nightcrew.journal.fold import TaskRecord
from nightcrew.service.worker import CrewWorker, open_worker
from nightcrew_tools.contract import Limits, TaskRequest

BUGGY = '''"""Statistics."""


def mean(values):
    """The arithmetic mean."""
    total = 0
    for value in values:
        total += value
    return total / (len(values) - 1)


def largest(values):
    """The largest value."""
    return max(values)
'''
FIXED = BUGGY.replace("(len(values) - 1)", "len(values)")
TESTS = """import unittest

from stats import largest, mean


class StatsTest(unittest.TestCase):
    def test_mean(self):
        self.assertEqual(mean([1, 2, 3]), 2)

    def test_largest(self):
        self.assertEqual(largest([1, 3, 2]), 3)
"""
PLANNING, ACTING, JUDGING = "You plan work", "You carry out a plan", "You judge whether"


def git(repository: Path, *arguments: str) -> str:
    """Run git as a person would."""
    environ = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z",
        "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z",
    }
    command = ["git", "-c", "user.name=Ann", "-c", "user.email=ann@example.org", "-C", str(repository), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environ).stdout


def make_repository(path: Path, files: dict[str, str] | None = None) -> Path:
    """A repository with one commit on `main`."""
    path.mkdir(parents=True)
    for name, text in (files or {"stats.py": BUGGY, "test_stats.py": TESTS}).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    git(path, "init", "--quiet", "--initial-branch=main")
    git(path, "add", "--all")
    git(path, "commit", "--quiet", "--message=first")
    return path


def fingerprint(repository: Path) -> dict[str, str]:
    """Hash of everything in a checkout, its .git included."""
    return {
        str(path.relative_to(repository)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(repository.rglob("*"))
        if path.is_file()
    }


def plan(*steps: dict[str, object]) -> Answer:
    """A planner's answer."""
    default = ({"title": "Divide by len(values) in mean()", "done_when": "test_mean passes", "files": ["stats.py"]},)
    return Answer(
        tool_calls=(("write_plan", {"summary": "The divisor is off by one.", "steps": list(steps or default)}),)
    )


def call(name: str, **arguments: object) -> Answer:
    return Answer(tool_calls=((name, arguments),))


FIX = (
    call("read_file", path="stats.py"),
    call(
        "edit_file", path="stats.py", old="    return total / (len(values) - 1)", new="    return total / len(values)"
    ),
    call("run_command", command="python3 -m unittest -q"),
    call("finish_step", summary="mean() divides by the number of values now."),
)
"""An executor that does what the plan says."""


def script(*executor: Answer, planner: tuple[Answer, ...] = (), verifier: tuple[Answer, ...] = ()) -> Script:
    """A crew's whole script."""
    rules = [
        Rule(PLANNING, planner or (plan(),), repeat=True),
        Rule(ACTING, executor or FIX, repeat=True),
    ]
    if verifier:
        rules.append(Rule(JUDGING, verifier, repeat=True))
    return Script(tuple(rules))


@dataclass
class House:
    """The real thing from the claim on, over one repository."""

    config: Config
    journal: Journal
    runner: CrewWorker
    server: ScriptedServer
    repository: Path

    async def run(self, text: str = "# Fix mean()\n\nmean([1, 2, 3]) must be 2.", **fields: object) -> TaskRecord:
        """Submit a task and run it to its end."""
        return await self.runner.run(self.submit(text, **fields))

    def submit(self, text: str = "# Fix mean()\n\nmean([1, 2, 3]) must be 2.", **fields: object) -> str:
        """Submit and claim a task; its id."""
        values = {"title": text.lstrip("# ").splitlines()[0], "text": text, "repo": str(self.repository), **fields}
        recorded = self.journal.submit(TaskRequest.model_validate(values), origin="test", name_hint="fix")
        assert self.journal.claim_task(recorded.task, "test") is not None
        return recorded.task

    def report(self, record: TaskRecord) -> str:
        return (self.config.outbox / f"{record.name}.report.md").read_text()

    def patch(self, record: TaskRecord) -> str:
        return (self.config.outbox / f"{record.name}.patch").read_text()

    def branches(self) -> list[str]:
        return git(self.repository, "branch", "--format=%(refname:short)", "--list", "nightcrew/*").split()


def config_for(home: Path, url: str, *, verifier: bool = False, dialect: tuple[Dialect, ...] = ("tools",)) -> Config:
    role = RoleSettings(base_url=url, model="scripted", patience_seconds=1)
    small = "tools" not in dialect
    planner = role.model_copy(update={"dialect": ("choose",)}) if small else role
    crew = CrewSettings(
        planner=planner, executor=role.model_copy(update={"dialect": dialect}), verifier=role if verifier else None
    )
    return Config(home=home, workspaces=home / "workspaces", crew="scripted", crews={"scripted": crew})


@asynccontextmanager
async def house(
    root: Path,
    answers: Script,
    *,
    verifier: bool = False,
    dialect: tuple[Dialect, ...] = ("tools",),
    files: dict[str, str] | None = None,
    fail_first: tuple[int | str, ...] = (),
    limits: Limits | None = None,
    keep: str = "none",
    network: NetworkSettings | None = None,
    gate: GateSettings | None = None,
) -> AsyncIterator[House]:
    """A house below `root`, which boxes must be able to reach."""
    repository = make_repository(root / "repository", files)
    async with ScriptedServer(answers, fail_first=fail_first) as server:
        config = config_for(root / "home", server.url, verifier=verifier, dialect=dialect)
        workspaces = WorkspaceSettings.model_validate({"path": config.workspaces.path, "keep": keep})
        settings = {"workspaces": workspaces, "network": network or config.network, "gate": gate or config.gate}
        config = config.model_copy(update=settings)
        config.home.mkdir(mode=0o755)
        with Journal.open(config.journal) as journal:
            async with open_worker(config, journal, lambda _: None) as runner:
                yield House(config, journal, runner, server, repository)
