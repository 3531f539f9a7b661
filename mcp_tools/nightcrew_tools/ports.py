"""What the tools need of a workspace; `nightcrew_workspaces.workspace.Workspace` is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from nightcrew_workspaces.box import CommandResult
from nightcrew_workspaces.files import Edited, Entry, FileText, SearchResult, Written
from nightcrew_workspaces.gitbox import GitFolder, GitRan
from nightcrew_workspaces.policy import BoxPolicy

OnOutput = Callable[[str], None]
"""Is given a command's output piece by piece while it runs."""


class FilesPort(Protocol):
    async def read(self, path: str, *, start: int = 1, lines: int | None = None) -> FileText: ...
    async def write(self, path: str, text: str) -> Written: ...
    async def edit(self, path: str, old: str, new: str, *, count: int = 1) -> Edited: ...
    async def delete(self, path: str) -> None: ...
    async def move(self, path: str, to: str) -> None: ...
    async def list(self, path: str = ".", *, depth: int = 1, limit: int = 1000) -> list[Entry]: ...
    async def glob(self, pattern: str, *, limit: int = 1000) -> tuple[list[str], bool]: ...
    async def search(
        self, pattern: str, *, path: str = ".", glob: str | None = None, regex: bool = True, limit: int = 200
    ) -> SearchResult: ...


class BoxPort(Protocol):
    @property
    def policy(self) -> BoxPolicy: ...
    async def run(
        self,
        command: str | Sequence[str],
        *,
        seconds: float | None = None,
        stdin: bytes = b"",
        on_output: OnOutput | None = None,
        env: Mapping[str, str] | None = None,
    ) -> CommandResult: ...


class GitPort(Protocol):
    async def run(
        self,
        argv: Sequence[str],
        *,
        cwd: str,
        seconds: float,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        skip: int = 0,
        keep: int = 1 << 20,
        most: int = 64 << 20,
    ) -> GitRan: ...
    async def look(self, path: str, names: Sequence[str] = ()) -> GitFolder: ...


class WorkspacePort(Protocol):
    @property
    def base_commit(self) -> str | None:
        """What a task began from; None where there is no task, but a person's own directories."""
        ...

    @property
    def roots(self) -> Sequence[Path]:
        """The directories that are worked on, as the box shows them; relative paths begin at the first."""
        ...

    @property
    def box(self) -> BoxPort: ...
    @property
    def git(self) -> GitPort: ...
    @property
    def files(self) -> FilesPort: ...
