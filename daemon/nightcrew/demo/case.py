"""The cases of the demo: small repositories with one real bug each.

A case is a folder under `cases/`: `case.toml` says what is wrong, `task.md` is a task file with `{repo}` in it, and
`repository/` holds the files as they are committed, a module and its tests. Nothing of a repair is stored anywhere.
"""

from __future__ import annotations

import shutil
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

from anyio import to_thread

from nightcrew_workspaces.git import Git, safe_config

_CASES = Path(__file__).parent / "cases"
_PERSON = {
    "GIT_AUTHOR_NAME": "Nightcrew demo",
    "GIT_AUTHOR_EMAIL": "demo@localhost",
    "GIT_AUTHOR_DATE": "2026-01-01T00:00:00+00:00",
}
"""The same commit each time, so that two runs of a case can be compared."""
_COMMITTER = {name.replace("AUTHOR", "COMMITTER"): value for name, value in _PERSON.items()}


@dataclass(frozen=True)
class Case:
    """A repository with a bug."""

    name: str
    about: str
    """What kind of bug it is, in a few words for people; no model is told."""
    folder: Path

    def task_file(self, repository: Path) -> str:
        """The task file that is dropped into the inbox, for the repository at `repository`."""
        return (self.folder / "task.md").read_text(encoding="utf-8").replace("{repo}", str(repository))


def list_cases() -> tuple[Case, ...]:
    """All cases, by name."""
    return tuple(_read(path.parent) for path in sorted(_CASES.glob("*/case.toml")))


def _read(folder: Path) -> Case:
    described = tomllib.loads((folder / "case.toml").read_text(encoding="utf-8"))
    return Case(name=folder.name, about=str(described["about"]), folder=folder)


async def make_repository(case: Case, directory: Path) -> None:
    """Make the case's repository at `directory`, which must not exist: one commit on `main`.

    Raises `GitError` where git is missing or fails.
    """
    await to_thread.run_sync(_copy, case.folder / "repository", directory)
    with tempfile.TemporaryDirectory() as folder:
        git = Git(safe_config(Path(folder)))
        await git.run("init", "--quiet", "--initial-branch=main", ".", at=directory)
        await git.run("add", "--all", at=directory)
        message = f"A small module ({case.name})"
        await git.run("commit", "--quiet", "--message", message, at=directory, env=_PERSON | _COMMITTER)


def _copy(files: Path, directory: Path) -> None:
    # An installed package may have compiled them.
    shutil.copytree(files, directory, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
