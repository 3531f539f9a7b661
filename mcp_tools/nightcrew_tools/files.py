"""The file tools: thin sentences over `Workspace.files`, whose helper runs inside the box. The crew's own seven.

`read_file` shows plain text without line numbers: small models copy what they see into `edit_file`, numbers included.
Where the text comes from stands in one line above it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from nightcrew_tools.output import ANSWER_BYTES, ROOT, ToolError, head, note, quoted, relative
from nightcrew_tools.ports import FilesPort
from nightcrew_tools.reply import Reply
from nightcrew_tools.schema import tool
from nightcrew_workspaces.errors import FileError
from nightcrew_workspaces.file_facts import SearchResult

READ_LINES = 4000
"""Most lines asked of the helper at once; more would not fit into an answer."""
ENTRIES = 200
"""Most lines of a listing."""
MATCHES = 100
MATCH_CHARACTERS = 240
DIFF_BYTES = 4 * 1024


@dataclass(frozen=True)
class Lines:
    """Which part of which file a text is."""

    path: str
    first_line: int
    last_line: int
    total_lines: int
    sha256: str


@dataclass(frozen=True)
class Stored:
    """A whole file: bytes and hash."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Page:
    """How many results an answer shows, and what goes on after them."""

    count: int
    cursor: str | None


@dataclass(frozen=True)
class Done:
    """What there is now, or is no more."""

    path: str


class FileTools:
    """Reading, writing and searching in one workspace."""

    def __init__(self, files: FilesPort) -> None:
        self._files = files

    @tool("Read a text file, or lines of it.", facts=Lines)
    async def read_file(self, path: str, start_line: int = 1, end_line: int | None = None) -> Reply:
        return await read_text(self._files, self._path(path), start_line, end_line, ANSWER_BYTES)

    @tool("Create or overwrite a file.", writes=True, destructive=True, idempotent=True, facts=Stored)
    async def write_file(self, path: str, content: str) -> Reply:
        path = self._path(path)
        written = await self._files.write(path, content)
        text = f"{'created' if written.created else 'overwrote'} {quoted(path)}, {written.size} bytes"
        return Reply(text, Stored(path, written.size, written.sha256))

    @tool(
        "Replace text in a file. `old` must match exactly, with its whitespace, `count` times (default 1): "
        "copy it from read_file, with enough lines around it to be unique.",
        writes=True,
        destructive=True,
        facts=Stored,
    )
    async def edit_file(self, path: str, old: str, new: str, count: int = 1) -> Reply:
        path = self._path(path)
        if not old:
            raise ToolError("bad_argument", "old is empty; use write_file to create or overwrite a file")
        if old == new:
            raise ToolError("bad_argument", "old and new are the same; nothing to change")
        if count < 1:
            raise ToolError("bad_argument", f"count must be 1 or more, not {count}")
        edited = await self._files.edit(path, old, new, count=count)
        return Reply(cut_diff(edited.diff, DIFF_BYTES), Stored(path, edited.size, edited.sha256))

    @tool("Delete a file or folder.", writes=True, destructive=True, facts=Done)
    async def delete_file(self, path: str, recursive: bool = False) -> Reply:
        path = self._path(path)
        await self._files.delete(path, recursive=recursive)
        return Reply(f"deleted {quoted(path)}", Done(path))

    @tool("Move or rename a file.", writes=True, facts=Done)
    async def move_file(self, path: str, to: str) -> Reply:
        path, to = self._path(path), self._path(to)
        await self._files.move(path, to)
        return Reply(f"moved {quoted(path)} to {quoted(to)}", Done(to))

    @tool("List files, without those git ignores.", facts=Page)
    async def list_files(
        self,
        path: str = ".",
        pattern: Annotated[str | None, "glob, like **/*.py"] = None,
        depth: Annotated[int | None, "folder levels"] = None,
        cursor: str | None = None,
    ) -> Reply:
        path = self._path(path)
        if depth is not None and depth < 1:
            raise ToolError("bad_argument", f"depth must be 1 or more, not {depth}")
        if pattern is not None and depth is None:
            named = await self._files.glob(_recursive(pattern), path=path, limit=ENTRIES, after=cursor)
            lines, more = [quoted(each) for each in named.paths], named.cursor
        else:
            how = None if pattern is None else _recursive(pattern)
            outline = await self._files.outline(path, pattern=how, depth=depth, limit=ENTRIES, after=cursor)
            lines, more = [_counted(*line) for line in outline.lines], outline.cursor
        if lines:
            shown = [*lines, *go_on(more, "give a narrower path or pattern")]
        elif cursor is not None:
            shown = ["no more files"]
        elif pattern is not None:
            shown = [f"no file matches {pattern} in {quoted(path)}"]
        else:
            return await self._list_plainly(path)
        return Reply("\n".join([*shown, *self._other_roots(path)]), Page(len(lines), more))

    @tool("Search file contents for a regex.", facts=Page)
    async def search_files(
        self,
        pattern: str,
        path: str = ".",
        glob: Annotated[str | None, "only these files, like *.py"] = None,
        context: Annotated[int, "lines around"] = 0,
        cursor: str | None = None,
    ) -> Reply:
        path = self._path(path)
        asked = _Search(pattern, path, glob, context, cursor)
        remark = ""
        try:
            found = await self._search(asked, regex=True)
        except FileError as error:
            if error.code != "bad_pattern":
                raise
            # A model that searches for `f(x` means the text; the answer costs less than another turn.
            found = await self._search(asked, regex=False)
            remark = note("not a valid regex, searched as plain text") + "\n"
        if not found.matches:
            what = "no more matches" if cursor else f"no match in {quoted(path)}" + (f" ({glob})" if glob else "")
            return Reply(remark + what, Page(0, None))
        lines, count, more = _matches(found)
        shown = [*lines, *go_on(more, "give a narrower pattern, path or glob")]
        return Reply(remark + "\n".join(shown), Page(count, more))

    async def _search(self, asked: _Search, *, regex: bool) -> SearchResult:
        return await self._files.search(
            asked.pattern,
            path=asked.path,
            glob=asked.glob,
            regex=regex,
            limit=MATCHES,
            context=asked.context,
            after=asked.cursor,
        )

    async def _list_plainly(self, path: str) -> Reply:
        """A folder in which git sees no file: ignored, or empty. Raises what `list_all` raises where there is none."""
        found = await self._files.list_all(path, limit=ENTRIES)
        if not found.entries:
            return Reply("\n".join([f"{quoted(path)} is empty", *self._other_roots(path)]), Page(0, None))
        lines = [quoted(each.path) + ("/" if each.kind == "directory" else "") for each in found.entries]
        more = [note("more: list a folder below")] if found.cursor else []
        text = "\n".join([note("ignored by git, or no file in it"), *lines, *more, *self._other_roots(path)])
        return Reply(text, Page(len(lines), None))

    def _other_roots(self, path: str) -> list[str]:
        others = self._files.roots[1:]
        return [note(f"other roots: {', '.join(others)}")] if others and path == "." else []

    def _path(self, path: str) -> str:
        return relative(path, self._files.roots)


@dataclass(frozen=True)
class _Search:
    pattern: str
    path: str
    glob: str | None
    context: int
    cursor: str | None


async def read_text(files: FilesPort, path: str, start_line: int, end_line: int | None, limit: int) -> Reply:
    """Lines of a file within `limit` bytes, under a line that says which they are."""
    start_line, end_line = _line_range(start_line, end_line)
    wanted = READ_LINES if end_line is None else min(end_line - start_line + 1, READ_LINES)
    found = await files.read(path, start=start_line, lines=wanted)
    if found.total_lines == 0:
        return Reply(f"{quoted(path)} is empty", Lines(path, 1, 0, 0, found.sha256))
    text, left_out = head(found.text, limit)
    last = found.first_line + text.count("\n") - text.endswith("\n")
    answer = f"{quoted(path)} lines {found.first_line}-{last} of {found.total_lines}\n{text}"
    if left_out and not text.endswith("\n"):
        answer += "\n" + note(f"line {last} is too long to be shown whole")
    if last < min(end_line or found.total_lines, found.total_lines):
        answer = answer.removesuffix("\n") + "\n" + note(f"continue with start_line={last + 1}")
    return Reply(answer, Lines(path, found.first_line, last, found.total_lines, found.sha256))


def cut_diff(diff: str, limit: int) -> str:
    """A diff within about `limit` bytes; what is left out is counted."""
    shown, left_out = head(diff, limit)
    return shown + note(f"{left_out} more bytes of diff") if left_out else shown


def go_on(cursor: str | None, otherwise: str) -> list[str]:
    """How to see what does not fit into this answer."""
    return [note(f"there are more: go on with cursor={quoted(cursor)}, or {otherwise}")] if cursor is not None else []


def _counted(path: str, files: int) -> str:
    return f"{quoted(path)}/ ({files} file{'' if files == 1 else 's'})" if files else quoted(path)


def _matches(found: SearchResult) -> tuple[list[str], int, str | None]:
    """The lines of an answer, how many of them matched, and the cursor for the rest."""
    lines: list[str] = []
    left = ANSWER_BYTES
    count, last = 0, None
    for each in found.matches:
        mark = ":" if each.is_match else "-"
        line = f"{quoted(each.path)}{mark}{each.line}{mark} {each.text.rstrip()[:MATCH_CHARACTERS]}"
        left -= len(line.encode(errors="replace")) + 1
        if left < 0 and last is not None:
            return lines, count, last
        lines.append(line)
        if each.is_match:
            count, last = count + 1, f"{each.path}:{each.line}"
    return lines, count, found.cursor


def _recursive(pattern: str) -> str:
    """A pattern without a slash means files of that name at any depth, as in .gitignore."""
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
