"""Files for the file helper's tests."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path

import pytest

from fakes.boxes import own
from nightcrew_workspaces.errors import FileError


def put(workspace: Path, **contents: bytes) -> None:
    """Write files of the boxes' user; `__` in a name stands for a slash and `_` for a dot."""
    for name, content in contents.items():
        path = workspace / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    own(workspace)


async def code_of(operation: Awaitable[object]) -> str:
    with pytest.raises(FileError) as refused:
        await operation
    return refused.value.code


def applied(text: str, diff: str) -> str:
    """Apply a unified diff of a text with line feeds, checking what it says about the old text."""
    result: list[str] = []
    lines, at = text.splitlines(keepends=True), 0
    body = diff.replace("\n\\ No newline at end of file", "\0").splitlines(keepends=True)[2:]
    for line in body:
        mark, content = line[0], line[1:].replace("\0\n", "")
        if mark == "@":
            start, _, length = line.split()[1][1:].partition(",")
            start = int(start) - (length != "0")
            result += lines[at:start]
            at = start
        else:
            if mark in " -":
                assert lines[at] == content
                at += 1
            result += [content] if mark in " +" else []
    return "".join(result + lines[at:])
