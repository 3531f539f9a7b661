"""A real workspace over a small repository, and a client in front of its tools."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from mcp.client import Client
from mcp_types import TextContent

from nightcrew_tools.grants import EXECUTOR, Grants
from nightcrew_tools.server import build_server
from nightcrew_workspaces.user import box_user
from nightcrew_workspaces.workspace import Workspace, Workspaces

FILES = {
    "README.md": "# Sums\n",
    ".gitignore": "*.log\nbuild/\n",
    "src/sums.py": "def add(a, b):\n    return a - b\n\n\ndef double(a):\n    return add(a, a)\n",
    "src/deep/er/leaf.txt": "leaf\n",
    "long.txt": "".join(f"line {number}\n" for number in range(1, 5001)),
}


class Tools:
    """Calls that must succeed, and calls that must fail."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def __call__(self, name: str, /, **arguments: object) -> str:
        text, is_error = await self._call(name, arguments)
        assert not is_error, text
        return text

    async def fail(self, name: str, /, **arguments: object) -> str:
        text, is_error = await self._call(name, arguments)
        assert is_error, text
        return text

    async def _call(self, name: str, arguments: dict[str, object]) -> tuple[str, bool]:
        result = await self.client.call_tool(name, arguments)
        (content,) = result.content
        assert isinstance(content, TextContent)
        assert result.structured_content is None
        return content.text, bool(result.is_error)


Session = Callable[..., AbstractAsyncContextManager[Tools]]


@pytest.fixture
def repository(open_tmp: Path) -> Path:
    """A source repository with one commit."""
    root = open_tmp / "source"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for arguments in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "First commit"]):
        identity = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=root, check=True)
    return root


@pytest.fixture
async def workspace(repository: Path, open_tmp: Path) -> AsyncIterator[Workspace]:
    workspaces = Workspaces(open_tmp / "workspaces", user=box_user(None))
    async with await workspaces.create("task-1", str(repository), None) as workspace:
        yield workspace


@pytest.fixture
def session(workspace: Workspace) -> Session:
    """`async with session(grants, mode=…, on_output=…) as tools`: a client of a server over the workspace."""

    @asynccontextmanager
    async def connect(grants: Grants = EXECUTOR, *, mode: str = "auto", **keywords: object) -> AsyncIterator[Tools]:
        try:
            async with Client(build_server(grants, workspace=workspace, **keywords), mode=mode) as client:
                yield Tools(client)
        except BaseExceptionGroup as group:  # the client's two task groups wrap what leaves its block
            only: BaseException = group
            while isinstance(only, BaseExceptionGroup) and len(only.exceptions) == 1:
                only = only.exceptions[0]
            raise only from None

    return connect
