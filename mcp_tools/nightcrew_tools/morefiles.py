"""More file tools, for outside clients: a crew gets by with the first seven, since each tool stands in every prompt."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from nightcrew_tools.files import ENTRIES, Done, Page, Stored, cut_diff, go_on, read_text
from nightcrew_tools.media import mime_type
from nightcrew_tools.output import ANSWER_BYTES, ToolError, note, quoted, relative, size
from nightcrew_tools.ports import FilesPort
from nightcrew_tools.reply import Media, Reply
from nightcrew_tools.schema import tool
from nightcrew_workspaces import file_facts
from nightcrew_workspaces.errors import FileError

MEDIA_BYTES = 3 * 1024 * 1024
"""Largest file that is sent as it is: 4 MiB on the wire."""
FILES = 50
"""Most files in one answer."""
PATHS_BYTES = 8 * 1024
"""Most that the paths of one call may have together: its facts name each of them."""
DIFFS_BYTES = 12 * 1024


@dataclass(frozen=True)
class Edit:
    """One replacement."""

    path: str
    old: str
    new: str
    count: int = 1
    sha256: str = ""


@dataclass(frozen=True)
class Several:
    """Whole files: bytes and hash of each."""

    files: tuple[Stored, ...]


@dataclass(frozen=True)
class Shown:
    """The files that an answer shows, and those that it had no room for."""

    shown: tuple[str, ...]
    left: tuple[str, ...]


@dataclass(frozen=True)
class Info:
    """A path without its content."""

    path: str
    kind: str
    size: int
    mode: str
    modified: str
    target: str | None
    sha256: str | None
    encoding: str | None


class MoreFileTools:
    """What the first file tools do one by one, or not at all."""

    def __init__(self, files: FilesPort) -> None:
        self._files = files

    @tool("Read several text files.", facts=Shown)
    async def read_files(self, paths: list[str]) -> Reply:
        wanted = self._paths("paths", paths)
        parts: list[str] = []
        left = ANSWER_BYTES
        for number, path in enumerate(wanted):
            if left < ANSWER_BYTES // 16 and parts:
                rest = wanted[number:]
                parts.append(note(f"no room for {', '.join(map(quoted, rest))}: ask for them again"))
                return Reply("\n\n".join(parts), Shown(tuple(wanted[:number]), tuple(rest)))
            try:
                text = (await read_text(self._files, path, 1, None, left)).text.removesuffix("\n")
            except FileError as error:
                text = f"{quoted(path)} error[{error.code}]: {error.message}"
            parts.append(text)
            left -= size(text)
        return Reply("\n\n".join(parts), Shown(tuple(wanted), ()))

    @tool("Get an image or another binary file.", facts=Stored)
    async def read_media(self, path: str) -> Reply:
        path = self._path(path)
        found = await self._files.read_bytes(path, limit=MEDIA_BYTES)
        kind = mime_type(found.data, path)
        uri = f"file://{self._absolute(path)}"
        facts = Stored(path, len(found.data), found.sha256)
        return Reply(f"{quoted(path)}, {kind}, {len(found.data)} bytes", facts, (Media(found.data, kind, uri),))

    @tool(
        "Make several edits like edit_file, all or none. dry_run only shows the diff; sha256: edit no other content.",
        writes=True,
        destructive=True,
        facts=Several,
    )
    async def edit_files(self, edits: list[Edit], dry_run: bool = False) -> Reply:
        paths = {each.path: self._path(each.path) for each in edits}
        self._paths("edits", list(paths))
        wanted = [
            file_facts.Edit(paths[each.path], each.old, each.new, each.count, each.sha256 or None) for each in edits
        ]
        edited = await self._files.edit_all(wanted, dry_run=dry_run)
        diff = cut_diff("".join(each.diff for each in edited), DIFFS_BYTES)
        facts = Several(tuple(Stored(each.path, each.size, each.sha256) for each in edited))
        return Reply((note("dry run: nothing was changed") + "\n" if dry_run else "") + diff, facts)

    @tool("Add text to the end of a file.", writes=True, facts=Stored)
    async def append_file(self, path: str, content: str) -> Reply:
        path = self._path(path)
        written = await self._files.append(path, content)
        text = f"{'created' if written.created else 'appended to'} {quoted(path)}, now {written.size} bytes"
        return Reply(text, Stored(path, written.size, written.sha256))

    @tool("Copy a file or folder.", writes=True, facts=Done)
    async def copy_file(self, path: str, to: str) -> Reply:
        path, to = self._path(path), self._path(to)
        await self._files.copy(path, to)
        return Reply(f"copied {quoted(path)} to {quoted(to)}", Done(to))

    @tool("Create a folder.", writes=True, idempotent=True, facts=Done)
    async def make_folder(self, path: str) -> Reply:
        path = self._path(path)
        created = await self._files.make_folder(path)
        return Reply(f"{'created' if created else 'there already:'} {quoted(path)}", Done(path))

    @tool("List one folder with sizes, git-ignored files too.", facts=Page)
    async def list_folder(self, path: str = ".", cursor: str | None = None) -> Reply:
        path = self._path(path)
        found = await self._files.list_all(path, limit=ENTRIES, after=cursor)
        skip = 0 if path == "." else len(path.rstrip("/")) + 1
        lines = [_entry(each, each.path[skip:]) for each in found.entries]
        text = "\n".join([*lines, *go_on(found.cursor, "look at a folder in it")])
        return Reply(text or f"{quoted(path)} is empty", Page(len(lines), found.cursor))

    @tool("Show folders as a tree.", facts=Page)
    async def show_tree(
        self, path: str = ".", depth: Annotated[int, "folder levels"] = 3, cursor: str | None = None
    ) -> Reply:
        path = self._path(path)
        if depth < 1:
            raise ToolError("bad_argument", f"depth must be 1 or more, not {depth}")
        found = await self._files.list(path, depth=depth, limit=ENTRIES, after=cursor)
        skip = 0 if path == "." else len(path.rstrip("/").split("/"))
        lines = [quoted(path), *_tree(found.entries, skip), *go_on(found.cursor, "give a path or less depth")]
        return Reply("\n".join(lines), Page(len(found.entries), found.cursor))

    @tool("Show size, mode, time, encoding and SHA-256 of a file.", facts=Info)
    async def file_info(self, path: str) -> Reply:
        found = await self._files.stat(self._path(path))
        modified = datetime.fromtimestamp(found.modified, UTC).isoformat(timespec="seconds")
        facts = Info(
            *(found.path, found.kind, found.size, f"{found.mode:04o}", modified),
            *(found.target, found.sha256, found.encoding),
        )
        said = [quoted(found.path), found.kind, f"{found.size} bytes", f"mode {facts.mode}", f"modified {modified}"]
        said += [f"link to {quoted(found.target)}"] if found.target is not None else []
        if found.encoding:
            said += [found.encoding, f"{found.lines} lines", f"line endings {found.line_endings}"]
        said += [f"sha256 {found.sha256}"] if found.sha256 else []
        return Reply(", ".join(said), facts)

    def _paths(self, name: str, paths: list[str]) -> list[str]:
        """Several paths. Raises `ToolError` for none, or too many to be named in one answer."""
        if not 1 <= len(paths) <= FILES:
            raise ToolError("bad_argument", f"{name} must name 1 to {FILES} files, not {len(paths)}")
        together = size(json.dumps(paths, ensure_ascii=False))
        if together > PATHS_BYTES:
            raise ToolError("bad_argument", f"the paths in {name} have {together} bytes together; name fewer files")
        return [self._path(path) for path in paths]

    def _path(self, path: str) -> str:
        return relative(path, self._files.roots)

    def _absolute(self, path: str) -> str:
        return path if path.startswith("/") else f"{self._files.roots[0]}/{path}"


def _entry(entry: file_facts.Entry, name: str) -> str:
    match entry.kind:
        case "directory":
            return f"{quoted(name)}/"
        case "file":
            return f"{quoted(name)}  {entry.size}"
        case _:
            return f"{quoted(name)}  ({entry.kind})"


def _tree(entries: tuple[file_facts.Entry, ...], skip: int) -> list[str]:
    """Entries below each other; folders of which an earlier page told are named again."""
    lines: list[str] = []
    above: list[str] = []
    for entry in entries:
        parts = entry.path.split("/")[skip:]
        for level, part in enumerate(parts[:-1]):
            if above[: level + 1] != parts[: level + 1]:
                lines.append("  " * (level + 1) + quoted(part) + "/")
        lines.append("  " * len(parts) + _entry(entry, parts[-1]))
        above = parts
    return lines
