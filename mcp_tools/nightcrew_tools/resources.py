"""What clients can read without a tool: files below the roots, and the reports and journals of tasks.

    file:///srv/shop/prices.py            a file; of a directory, its listing
    nightcrew://tasks/ID/report           Markdown
    nightcrew://tasks/ID/patch            what the task changed
    nightcrew://tasks/ID/journal          one JSON object a line

Files are read by the helper in the box, like everything else.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Awaitable, Callable
from urllib.parse import quote, unquote, urlsplit

from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp_types import Resource, ResourceTemplate

from nightcrew_tools.contract import NoQueue, TaskGateway, TaskNotFound, TaskState, TaskView
from nightcrew_tools.ports import FilesPort
from nightcrew_workspaces.errors import FileError, WorkspaceError
from nightcrew_workspaces.file_facts import FileStat

MOST_BYTES = 1024 * 1024
"""Most of one resource; a larger file is for `read_file`, which reads parts."""
LISTED_TASKS = 20
_ENTRIES = 1000
_COMPLETIONS = 100  # the protocol's own limit
_DIRECTORY = "inode/directory"
_TASK = re.compile(r"nightcrew://tasks/([^/]+)/(report|patch|journal)")
_KINDS = {"report": "text/markdown", "patch": "text/x-diff", "journal": "application/jsonl"}


class Resources:
    """Resources over the files of a workspace and the queue, as far as a session has them."""

    def __init__(
        self, files: FilesPort | None, gateway: TaskGateway | None, ready: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """`ready` is awaited before files are touched; see `build_server`."""
        self._files = files
        self._gateway = gateway
        self._ready = ready

    async def listed(self) -> list[Resource]:
        """The roots, and the reports of the newest tasks that ended."""
        roots = self._files.roots if self._files is not None else ()
        found = [
            Resource(uri=file_uri(root), name=root.rpartition("/")[2] or root, mime_type=_DIRECTORY) for root in roots
        ]
        return found + [
            Resource(
                uri=task_uri(view, "report"), name=f"{view.id} report", title=view.title, mime_type="text/markdown"
            )
            for view in (await self._tasks())
            if view.state is TaskState.ENDED
        ]

    def templates(self) -> list[ResourceTemplate]:
        """What addresses may look like."""
        files = [
            ResourceTemplate(
                uri_template="file:///{+path}", name="file", description="A file or directory below a root"
            )
        ]
        tasks = [
            ResourceTemplate(uri_template=f"nightcrew://tasks/{{task}}/{kind}", name=f"task {kind}", mime_type=mime)
            for kind, mime in _KINDS.items()
        ]
        return [*(files if self._files is not None else ()), *(tasks if self._gateway is not None else ())]

    async def read(self, uri: str) -> ReadResourceContents | None:
        """One resource, None for an address that is none of ours. Raises `ResourceError`."""
        if uri.startswith("file:") and self._files is not None:
            return await self._read_file(self._files, uri)
        task = _TASK.fullmatch(uri)
        if task is not None and self._gateway is not None:
            return await self._read_task(self._gateway, unquote(task[1]), task[2])
        return None

    async def stamp(self, uri: str) -> str | None:
        """Something that changes whenever the resource does; None for one that is not there."""
        try:
            if uri.startswith("file:") and self._files is not None:
                await self._be_ready()
                stat = await self._files.stat(file_path(uri))
                return f"{stat.kind} {stat.size} {stat.modified} {stat.mode}"
            task = _TASK.fullmatch(uri)
            if task is not None and self._gateway is not None:
                return (await self._gateway.view(unquote(task[1]))).model_dump_json()
        except (FileError, WorkspaceError, TaskNotFound, NoQueue, ResourceError):
            return None
        return None

    async def list_stamp(self) -> str:
        """Something that changes whenever the list does."""
        return " ".join(str(resource.uri) for resource in await self.listed())

    async def complete(self, argument: str, value: str) -> list[str]:
        """How an address that was begun may go on."""
        if argument == "task":
            return [view.id for view in await self._tasks() if view.id.startswith(value)][:_COMPLETIONS]
        if argument == "path" and self._files is not None:
            await self._be_ready()
            return await _paths(self._files, value)
        return []

    async def _tasks(self) -> list[TaskView]:
        if self._gateway is None:
            return []
        try:
            return (await self._gateway.list())[:LISTED_TASKS]
        except NoQueue:
            return []

    async def _be_ready(self) -> None:
        if self._ready is not None:
            await self._ready()

    async def _read_file(self, files: FilesPort, uri: str) -> ReadResourceContents:
        try:
            await self._be_ready()
            path = file_path(uri)
            stat = await files.stat(path)
            if stat.kind == "directory":
                return ReadResourceContents(await _listing(files, path), _DIRECTORY)
            raw = (await files.read_bytes(path, limit=MOST_BYTES)).data
        except FileError as error:
            kind = ResourceNotFoundError if error.code in {"not_found", "outside"} else ResourceError
            raise kind(f"{uri}: {error.message}") from error
        except WorkspaceError as error:
            raise ResourceError(f"{uri}: {error}") from error
        return ReadResourceContents(_as_text(raw, stat), mime_type(path, stat))

    async def _read_task(self, gateway: TaskGateway, task: str, kind: str) -> ReadResourceContents:
        try:
            text = await {"report": gateway.report, "patch": gateway.diff, "journal": gateway.journal}[kind](task)
        except TaskNotFound as error:
            raise ResourceNotFoundError(str(error)) from error
        except NoQueue as error:
            raise ResourceError(str(error)) from error
        if len(text) > MOST_BYTES:
            raise ResourceError(f"the {kind} of {task} has {len(text)} characters, more than {MOST_BYTES}")
        return ReadResourceContents(text, _KINDS[kind])


def file_uri(path: str) -> str:
    """The address of an absolute path."""
    return "file://" + quote(path, safe="/")


def file_path(uri: str) -> str:
    """The absolute path that an address means. Raises `ResourceNotFoundError` for one of another machine."""
    parts = urlsplit(uri)
    if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
        raise ResourceNotFoundError(f"{uri}: write file:/// and an absolute path of this machine")
    return unquote(parts.path, errors="surrogateescape").rstrip("/") or "/"


def mime_type(path: str, stat: FileStat) -> str:
    """By the name where that is known, else text or bytes by what is in it."""
    guessed, packed = mimetypes.guess_type(path)
    if guessed is not None and packed is None and (stat.encoding is None) == (not guessed.startswith("text/")):
        return guessed
    return "application/octet-stream" if stat.encoding is None else "text/plain"


def task_uri(view: TaskView, kind: str) -> str:
    return f"nightcrew://tasks/{quote(view.id, safe='')}/{kind}"


def _as_text(raw: bytes, stat: FileStat) -> str | bytes:
    if stat.encoding is None:
        return raw
    codec = "utf-16" if stat.encoding.startswith("utf-16") else stat.encoding
    return raw.decode(codec, "replace")


async def _listing(files: FilesPort, path: str) -> str:
    found = await files.list(path, depth=1, limit=_ENTRIES)
    lines = [entry.path + ("/" if entry.kind == "directory" else "") for entry in found.entries]
    return "\n".join([*lines, *(["[more: list a directory below]"] if found.cursor is not None else [])])


async def _paths(files: FilesPort, value: str) -> list[str]:
    """Absolute paths without their first slash, as the template has it there, that begin with `value`."""
    begun = "/" + value
    roots = [root[1:] for root in files.roots if root.startswith(begun)]
    if roots:
        return roots
    folder = begun.rpartition("/")[0]
    try:
        found = await files.list(folder or "/", depth=1, limit=_ENTRIES)
    except FileError:
        return []
    below = [f"{folder}/{entry.path.rpartition('/')[2]}" for entry in found.entries]
    return [path[1:] for path in below if path.startswith(begun)][:_COMPLETIONS]
