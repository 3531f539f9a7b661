"""The file tools: thin sentences over `Workspace.files`, whose helper runs inside the box.

`read_file` shows plain text without line numbers: small models copy what they see into `edit_file`, numbers included.
Where the text comes from stands in one line above it.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated

from nightcrew_tools.output import ANSWER_BYTES, ROOT, ToolError, head, note, relative
from nightcrew_tools.ports import FilesPort
from nightcrew_tools.schema import tool
from nightcrew_workspaces.errors import FileError

READ_LINES = 4000
"""Most lines asked of the helper at once; more would not fit into an answer."""
ENTRIES = 200
"""Most lines of a listing."""
LISTED = 10_000
"""Most paths that a listing is folded from: what the helper gives at once."""
MATCHES = 100
MATCH_CHARACTERS = 240
DIFF_BYTES = 4 * 1024


class FileTools:
    """Reading, writing and searching in one workspace."""

    def __init__(self, files: FilesPort) -> None:
        self._files = files

    @tool("Read a text file, or lines of it.")
    async def read_file(self, path: str, start_line: int = 1, end_line: int | None = None) -> str:
        path = relative(path)
        start_line, end_line = _line_range(start_line, end_line)
        wanted = READ_LINES if end_line is None else min(end_line - start_line + 1, READ_LINES)
        found = await self._files.read(path, start=start_line, lines=wanted)
        if found.total_lines == 0:
            return f"{path} is empty"
        text, left_out = head(found.text, ANSWER_BYTES)
        last = found.first_line + text.count("\n") - text.endswith("\n")
        answer = f"{path} lines {found.first_line}-{last} of {found.total_lines}\n{text}"
        if left_out and not text.endswith("\n"):
            answer += "\n" + note(f"line {last} is too long to be shown whole")
        if last < min(end_line or found.total_lines, found.total_lines):
            answer = answer.removesuffix("\n") + "\n" + note(f"continue with start_line={last + 1}")
        return answer

    @tool("Create or overwrite a file.", writes=True, destructive=True, idempotent=True)
    async def write_file(self, path: str, content: str) -> str:
        path = relative(path)
        written = await self._files.write(path, content)
        return f"{'created' if written.created else 'overwrote'} {path}, {written.size} bytes"

    @tool(
        "Replace text in a file. `old` must match exactly, with its whitespace, `count` times (default 1): "
        "copy it from read_file, with enough lines around it to be unique.",
        writes=True,
        destructive=True,
    )
    async def edit_file(self, path: str, old: str, new: str, count: int = 1) -> str:
        path = relative(path)
        if not old:
            raise ToolError("bad_argument", "old is empty; use write_file to create or overwrite a file")
        if old == new:
            raise ToolError("bad_argument", "old and new are the same; nothing to change")
        if count < 1:
            raise ToolError("bad_argument", f"count must be 1 or more, not {count}")
        edited = await self._files.edit(path, old, new, count=count)
        diff, left_out = head(edited.diff, DIFF_BYTES)
        return diff + note(f"{left_out} more bytes of diff") if left_out else diff

    @tool("Delete a file.", writes=True, destructive=True)
    async def delete_file(self, path: str) -> str:
        path = relative(path)
        await self._files.delete(path)
        return f"deleted {path}"

    @tool("Move or rename a file.", writes=True)
    async def move_file(self, path: str, to: str) -> str:
        path, to = relative(path), relative(to)
        await self._files.move(path, to)
        return f"moved {path} to {to}"

    @tool("List files, without those git ignores.")
    async def list_files(
        self,
        path: str = ".",
        pattern: Annotated[str | None, "glob, like **/*.py"] = None,
        depth: Annotated[int | None, "folder levels"] = None,
    ) -> str:
        path = relative(path)
        if depth is not None and depth < 1:
            raise ToolError("bad_argument", f"depth must be 1 or more, not {depth}")
        prefix = "" if path == "." else f"{path}/"
        found, truncated = await self._files.glob(_literal(prefix) + _recursive(pattern), limit=LISTED)
        if not found and pattern is None:
            return await self._list_plainly(path)
        if not found:
            await self._files.list(path, limit=1)  # raises where there is no such folder
            return f"no file matches {pattern} in {path}"
        lines = sorted(found) if pattern and depth is None else folded(found, prefix, depth)
        shown = "\n".join(lines[:ENTRIES])
        more = len(lines) - ENTRIES
        if more > 0 or truncated:
            count = f"{more}{' or more' if truncated else ''} more" if more > 0 else "more, not counted"
            shown += "\n" + note(f"{count}: give a narrower path or pattern")
        return shown

    @tool("Search file contents for a regex.")
    async def search_files(
        self, pattern: str, path: str = ".", glob: Annotated[str | None, "only these files, like *.py"] = None
    ) -> str:
        path = relative(path)
        remark = ""
        try:
            found = await self._files.search(pattern, path=path, glob=glob, limit=MATCHES)
        except FileError as error:
            if error.code != "bad_pattern":
                raise
            # A model that searches for `f(x` means the text; the answer costs less than another turn.
            found = await self._files.search(pattern, path=path, glob=glob, limit=MATCHES, regex=False)
            remark = note("not a valid regex, searched as plain text") + "\n"
        if not found.matches:
            return f"{remark}no match in {path}" + (f" ({glob})" if glob else "")
        lines = [f"{each.path}:{each.line}: {each.text.rstrip()[:MATCH_CHARACTERS]}" for each in found.matches]
        text, left_out = head("\n".join(lines) + "\n", ANSWER_BYTES)
        if found.truncated or left_out:
            text += note("there are more: give a narrower pattern, path or glob")
        return remark + text.rstrip("\n")

    async def _list_plainly(self, path: str) -> str:
        """A folder in which git sees no file: ignored, or empty. Raises what `list` raises where there is none."""
        entries = await self._files.list(path, depth=1, limit=ENTRIES + 1)
        if not entries:
            return f"{path} is empty"
        lines = [each.path + ("/" if each.kind == "directory" else "") for each in entries[:ENTRIES]]
        more = [note("more: list a folder below")] if len(entries) > ENTRIES else []
        return "\n".join([note("ignored by git, or no file in it"), *lines, *more])


def folded(paths: list[str], prefix: str, depth: int | None) -> list[str]:
    """Paths with everything below `depth` folder levels folded into `folder/ (n files)`.

    Without a depth the deepest one that fits into `ENTRIES` lines is taken, so that a small repository is seen whole
    and a large one at a glance.
    """
    if depth is None:
        levels = [folded(paths, prefix, level) for level in range(1, 9)]
        return [level for level in levels if len(level) <= ENTRIES or level is levels[0]][-1]
    lines: set[str] = set()
    folders: Counter[str] = Counter()
    for path in paths:
        parts = path[len(prefix) :].split("/")
        if len(parts) <= depth:
            lines.add(path)
        else:
            folders[prefix + "/".join(parts[:depth]) + "/"] += 1
    counted = (f"{folder} ({number} file{'' if number == 1 else 's'})" for folder, number in folders.items())
    return sorted([*lines, *counted])


def _literal(path: str) -> str:
    """A path as a glob that matches nothing else."""
    return re.sub(r"[\\*?\[\]{}]", r"\\\g<0>", path)


def _recursive(pattern: str | None) -> str:
    """A pattern without a slash means files of that name at any depth, as in .gitignore."""
    if pattern is None:
        return "**"
    pattern = pattern.removeprefix(f"{ROOT}/").removeprefix("./")
    return pattern if "/" in pattern else f"**/{pattern}"


def _line_range(start_line: int, end_line: int | None) -> tuple[int, int | None]:
    """First and last line, counted from 1. Those who count from 0, or write -1 for the last line, are understood."""
    start_line = start_line or 1
    end_line = None if end_line == -1 else end_line
    if start_line < 1:
        raise ToolError("bad_argument", f"lines count from 1; start_line={start_line} is too small")
    if end_line is not None and end_line < start_line:
        raise ToolError("bad_argument", f"end_line={end_line} is before start_line={start_line}")
    return start_line, end_line
