"""One case of the demo: a folder under `cases/` with the repository's files, the task file and a word on the bug."""

from __future__ import annotations

import shutil
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import anyio
from nightcrew_workspaces.git import IDENTITY, Git, safe_config

_CASES = Path(__file__).parent / "cases"
_IDENTITY = ("-c", f"user.name={IDENTITY[0]}", "-c", f"user.email={IDENTITY[1]}")


@dataclass(frozen=True)
class Case:
    """A repository with a bug."""

    name: str
    about: str
    """What is wrong, in a few words: for people, never for the model."""

    def task_file(self, repository: Path) -> str:
        """The task file that is dropped into the inbox."""
        return (_CASES / self.name / "task.md").read_text(encoding="utf-8").replace("{repo}", str(repository))


@cache
def list_cases() -> tuple[Case, ...]:
    """All cases, by name."""
    folders = sorted(path.parent for path in _CASES.glob("*/case.toml"))
    return tuple(
        Case(folder.name, tomllib.loads((folder / "case.toml").read_text(encoding="utf-8"))["about"])
        for folder in folders
    )


async def make_repository(case: Case, directory: Path) -> None:
    """Make the case's repository in `directory`, which must not exist: one commit on `main`."""
    await anyio.to_thread.run_sync(shutil.copytree, _CASES / case.name / "repository", directory)
    git = Git(safe_config(directory.parent))
    await git.run("init", "--quiet", "--initial-branch=main", str(directory))
    await git.run("add", "--all", at=directory)
    await git.run(*_IDENTITY, "commit", "--quiet", f"--message={case.name}, with a bug", at=directory)
