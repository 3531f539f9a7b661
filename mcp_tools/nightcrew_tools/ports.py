"""What the tools need of a workspace; `nightcrew_workspaces.workspace.Workspace` is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from nightcrew_workspaces.background import Reading
from nightcrew_workspaces.box import CommandResult
from nightcrew_workspaces.file_facts import (
    Edit,
    Edited,
    EditedFile,
    FileBytes,
    FileStat,
    FileText,
    FoundPaths,
    Listing,
    Outline,
    SearchResult,
    Written,
)
from nightcrew_workspaces.gitbox import GitFolder, GitRan
from nightcrew_workspaces.policy import BoxPolicy

OnOutput = Callable[[str], None]
"""Is given a command's output piece by piece while it runs."""


class FilesPort(Protocol):
    @property
    def roots(self) -> tuple[str, ...]: ...
    async def read(self, path: str, *, start: int = 1, lines: int | None = None) -> FileText: ...
    async def read_bytes(self, path: str, *, limit: int) -> FileBytes: ...
    async def stat(self, path: str) -> FileStat: ...
    async def write(self, path: str, text: str) -> Written: ...
    async def append(self, path: str, text: str) -> Written: ...
    async def edit(self, path: str, old: str, new: str, *, count: int = 1) -> Edited: ...
    async def edit_all(self, edits: Sequence[Edit], *, dry_run: bool = False) -> tuple[EditedFile, ...]: ...
    async def delete(self, path: str, *, recursive: bool = False) -> None: ...
    async def move(self, path: str, to: str) -> None: ...
    async def copy(self, path: str, to: str) -> None: ...
    async def make_folder(self, path: str) -> bool: ...
    async def list(
        self, path: str = ".", *, depth: int = 1, limit: int = 1000, after: str | None = None
    ) -> Listing: ...
    async def list_all(self, path: str = ".", *, limit: int = 1000, after: str | None = None) -> Listing: ...
    async def outline(
        self,
        path: str = ".",
        *,
        pattern: str | None = None,
        depth: int | None = None,
        limit: int = 200,
        after: str | None = None,
    ) -> Outline: ...
    async def glob(
        self, pattern: str, *, path: str = ".", limit: int = 1000, after: str | None = None
    ) -> FoundPaths: ...
    async def search(
        self,
        pattern: str,
        *,
        path: str = ".",
        glob: str | None = None,
        regex: bool = True,
        limit: int = 200,
        context: int = 0,
        after: str | None = None,
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
        cwd: str | None = None,
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


class BackgroundPort(Protocol):
    async def start(self, command: str | Sequence[str], *, cwd: str | None = None) -> str: ...
    async def read(self, handle: str, *, seconds: float = 0.0, until: str | None = None) -> Reading: ...
    async def write(self, handle: str, text: str, *, close: bool = False) -> None: ...
    async def stop(self, handle: str) -> Reading: ...


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
    def background(self) -> BackgroundPort: ...
    @property
    def files(self) -> FilesPort: ...
