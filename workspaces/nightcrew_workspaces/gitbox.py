"""Git on a repository that a model may have poisoned: commands through a helper in a box that stays up.

What comes back was made in that box: it is checked for its shape here and trusted in nothing else.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
from pydantic import TypeAdapter, ValidationError

from nightcrew_workspaces.box import Box, BoxChannel
from nightcrew_workspaces.errors import BoxError
from nightcrew_workspaces.helpers import start_helper
from nightcrew_workspaces.policy import SUPPORT
from nightcrew_workspaces.running import Ended

_HELPER = (
    *("/usr/bin/python3", "-I", "-S", "-B", "-c"),
    f"import sys; sys.path.insert(0, '{SUPPORT}/lib'); from nightcrew_workspaces.boxd_git import main; main()",
)
_LOOK_SECONDS = 30.0
_GRACE_SECONDS = 10.0  # the helper keeps the time itself; this much later its box is killed
_LARGEST_HEADER = 4 * 1024 * 1024
_LARGEST_ERROR = 64 * 1024
_UNREADABLE = "the git helper's answer cannot be read; try again"
_T = TypeVar("_T")


@dataclass(frozen=True)
class GitRan:
    """What one command did."""

    exit_code: int | None
    """None when it was stopped; 128 + N when it ended by signal N."""
    ended: Ended
    """Never `memory`: going over that ends the box and so is a `BoxError`."""
    stdout: bytes
    """The part of standard output that was asked for."""
    total: int
    """Bytes of the whole standard output, or of what came until the command was stopped."""
    stderr: str

    @property
    def ok(self) -> bool:
        return self.exit_code == 0 and self.ended == "exited"


@dataclass(frozen=True)
class GitFolder:
    """A directory, seen with git's eyes."""

    top: str | None
    """Directory in the box that holds `.git`, or the bare repository itself; None where there is no repository."""
    exists: bool = True
    git: str = ""
    """The git directory."""
    common: str = ""
    """The git directory that linked worktrees share; `git` itself where there are none."""
    bare: bool = False
    lost: bool = False
    """Its `.git` names a git directory that the box does not show."""
    found: Mapping[str, str] | None = None
    """The files in the git directory that were asked for and are there, with their beginning."""


@dataclass(frozen=True)
class _Header:
    stdout: int
    stderr: int
    ended: Ended = "exited"
    exit_code: int | None = None
    total: int = 0
    failed: str = ""


_HEADER = TypeAdapter(_Header)
_FOLDER = TypeAdapter(GitFolder)


class GitBox:
    """Runs one command at a time; its box starts with the first. To be closed.

    Every method raises `BoxUnavailable` or `BoxError` when the box does not start or ends in the middle.
    """

    def __init__(self, box: Box) -> None:
        self._box = box
        # What the box's home directory says would be what an earlier command wrote there.
        self._env = {"GIT_CONFIG_GLOBAL": box.policy.env.get("GIT_CONFIG_GLOBAL", "/dev/null")}
        self._channel: BoxChannel | None = None
        self._shown: tuple[tuple[int, int] | None, ...] = ()
        self._lock = asyncio.Lock()

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
    ) -> GitRan:
        """Run a program, named by its whole path, to its end; nothing of it is alive afterwards.

        Of standard output the `keep` bytes after the first `skip` are returned; more than `most` bytes stop it, as do
        `seconds`. Names that are not UTF-8 are written with lone surrogates, as by `os.fsdecode`. Cancelling kills it.
        """
        asked: dict[str, object] = {"argv": list(argv), "cwd": cwd, "env": {**self._env, **(env or {})}, "stdin": stdin}
        asked |= {"seconds": seconds, "skip": skip, "keep": keep, "most": most}
        async with self._lock:
            header, output, errors = await self._ask("run", asked, seconds + _GRACE_SECONDS, keep)
        told = _checked(_HEADER, header)
        if told.failed:
            raise BoxError(f"{argv[0]} could not be run in {cwd}: {told.failed}")
        return GitRan(told.exit_code, told.ended, output, told.total, errors.decode(errors="replace"))

    async def look(self, path: str, names: Sequence[str] = ()) -> GitFolder:
        """The repository that the directory `path` belongs to, and small files of its git directory."""
        async with self._lock:
            header, _, _ = await self._ask("look", {"path": path, "names": list(names)}, _LOOK_SECONDS, 0)
        return _checked(_FOLDER, header)

    async def aclose(self) -> None:
        """Stop the helper; it would start again with the next command."""
        async with self._lock:
            await self._drop()

    async def _ask(self, op: str, asked: dict[str, object], seconds: float, keep: int) -> tuple[Any, bytes, bytes]:
        body = json.dumps({"op": op, **asked}).encode()
        channel = await self._started()
        try:
            with anyio.fail_after(seconds), channel.memory_watched():
                channel.writer.write(len(body).to_bytes(4, "big") + body)
                await channel.writer.drain()
                header = await _header(channel)
                if op != "run":
                    return header, b"", b""
                output, errors = _sizes(header, keep)
                return header, await channel.reader.readexactly(output), await channel.reader.readexactly(errors)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            await self._drop()
            raise BoxError("the box in which git runs ended: out of memory or time, or git killed it") from error
        except BaseException:
            # What may still come would be taken for the answer to the next request.
            await self._drop()
            raise

    async def _started(self) -> BoxChannel:
        shown = _identities(self._box)
        if self._channel is not None and self._channel.alive and shown == self._shown:
            return self._channel
        await self._drop()
        self._shown = shown
        self._channel = await start_helper(self._box, _HELPER, "git helper", _header)
        return self._channel

    async def _drop(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.aclose()


def _identities(box: Box) -> tuple[tuple[int, int] | None, ...]:
    """Device and inode of what the box shows: what was replaced meanwhile, as git does with its configuration, would
    stay the old one in a box that is up."""
    found: list[tuple[int, int] | None] = []
    for mount in box.policy.mounts:
        try:
            status = mount.source.lstat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_dev, status.st_ino))
    return tuple(found)


def _sizes(header: object, keep: int) -> tuple[int, int]:
    """How many bytes of standard output and error follow."""
    told = _checked(_HEADER, header)
    if not (0 <= told.stdout <= keep and 0 <= told.stderr <= _LARGEST_ERROR):
        raise BoxError(_UNREADABLE)
    return told.stdout, told.stderr


async def _header(channel: BoxChannel) -> object:
    size = int.from_bytes(await channel.reader.readexactly(4), "big")
    if size > _LARGEST_HEADER:
        raise BoxError(_UNREADABLE)
    try:
        return json.loads(await channel.reader.readexactly(size))
    except ValueError as error:
        raise BoxError(_UNREADABLE) from error


def _checked(kind: TypeAdapter[_T], value: object) -> _T:
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        raise BoxError(_UNREADABLE) from error
