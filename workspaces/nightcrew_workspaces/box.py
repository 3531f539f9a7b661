"""A box: run one command in it with limits, or keep a process in it to talk to.

There is no fallback: what cannot be confined is not run.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import anyio

from nightcrew_workspaces.egress_mount import BRIDGE, EgressMount
from nightcrew_workspaces.errors import WorkspaceError
from nightcrew_workspaces.failure import start_failure
from nightcrew_workspaces.loopback import Loopback
from nightcrew_workspaces.output import Transcript
from nightcrew_workspaces.policy import HOME, SUPPORT, BoxPolicy, Limits, Mount
from nightcrew_workspaces.process import BoxProcess, start
from nightcrew_workspaces.room import Held, Room
from nightcrew_workspaces.running import Ended, PipeReader, Running, put_away
from nightcrew_workspaces.user import box_user
from nightcrew_workspaces.watch import Watch

__all__ = ["Box", "BoxChannel", "Captured", "CommandResult", "Ended", "box_user", "support_files"]

_PYTHON = ("/usr/bin/python3", "-I", "-S")
_COUNTING = Limits(seconds=60, memory_mib=1024, workspace_mib=None)
_SCRIPTS = ("held.py", "probe.py", "spectrum.py")
_MODULES = (
    *("boxd.py", "boxd_find.py", "boxd_git.py", "boxd_load.py", "boxd_paths.py", "boxd_reading.py"),
    *("boxd_search.py", "boxd_store.py", "boxd_text.py", "boxd_tree.py", "boxd_wire.py", "boxd_writing.py"),
)


@dataclass(frozen=True)
class CommandResult:
    """What one command did."""

    command: str
    exit_code: int | None
    """None when it was stopped for a limit; 128 + N when it ended by signal N."""
    ended: Ended
    output: str
    """Standard output and error as they came: cleaned, head and tail."""
    omitted_bytes: int
    seconds: float
    reached: str = ""
    """The limit it ran into, in words (`over 2 GiB of memory`), whether it was stopped for it or went on."""


@dataclass(frozen=True)
class Captured:
    """What one command of our own wrote, byte for byte."""

    exit_code: int | None
    ended: Ended
    stdout: bytes
    stderr: str
    """Cleaned, head and tail."""
    seconds: float

    @property
    def ok(self) -> bool:
        return self.exit_code == 0 and self.ended == "exited"


class Box:
    """Runs commands under one policy, each in a fresh box; to be used from the event loop's thread."""

    def __init__(self, policy: BoxPolicy) -> None:
        bridge = {BRIDGE: _bridge()} if policy.network is not None else {}
        self.policy = replace(policy, files={**support_files(), **bridge, **policy.files})
        self.loopback: Loopback | None = None
        """What `run` and background commands share; None as long as each has one of its own."""
        writable = [mount.source for mount in policy.mounts if mount.writable]
        if policy.home is not None:
            writable.append(policy.home)
        watched = bool(writable) and policy.limits.workspace_mib is not None
        self.room = Room(writable, policy.limits, self._held) if watched else None
        """Their size is watched; None where it is not."""

    def with_network(self, network: EgressMount | None) -> Box:
        """The same box with this way out, or with none."""
        return Box(replace(self.policy, network=network))

    def with_home(self, home: Path) -> Box:
        """The same box with a directory, which the box's user owns, as the home of its commands."""
        return Box(replace(self.policy, home=home))

    async def run(
        self,
        command: str | Sequence[str],
        *,
        seconds: float | None = None,
        stdin: bytes = b"",
        on_output: Callable[[str], None] | None = None,
        env: Mapping[str, str] | None = None,
        mounts: Sequence[Mount] = (),
        cwd: str | None = None,
    ) -> CommandResult:
        """Run a command to its end; a `str` goes through the shell. Nothing of it is alive afterwards.

        `seconds` is the limit of this command, the policy's when None. `cwd` is an absolute path in the box. Cancelling
        kills everything it started.
        Raises `BoxUnavailable` or `BoxError` when it could not be started, never for what it did.
        """
        argv = command_argv(command)
        begun = time.monotonic()
        running = Running(self.command_policy(env, mounts, cwd), seconds, self.room)
        limits = running.policy.limits
        transcript = Transcript(limits.output_bytes, on_output)
        sink = running.output(transcript.feed, limits.flood_mib << 20)
        await running.execute(argv, stdin=stdin, stdout=sink, stderr=sink)
        output, omitted = transcript.finish()
        reached = running.conclude(output)
        text = command if isinstance(command, str) else " ".join(argv)
        return CommandResult(text, running.exit_code, running.ended, output, omitted, time.monotonic() - begun, reached)

    async def capture(
        self,
        argv: Sequence[str],
        *,
        seconds: float | None = None,
        stdin: bytes | int = b"",
        stdout: int | None = None,
        env: Mapping[str, str] | None = None,
        mounts: Sequence[Mount] = (),
        limit_bytes: int = 64 << 20,
    ) -> Captured:
        """Run a command whose standard output is data: returned as it is, or written to the descriptor `stdout`.

        More than `limit_bytes` of it ends the command as `output`; with a descriptor the policy's `file_mib` counts.
        `stdin` is bytes or a descriptor to read from. Otherwise as `run`.
        """
        begun = time.monotonic()
        running = Running(self._policy(env, mounts), seconds, self.room)
        limits = running.policy.limits
        data, errors = bytearray(), Transcript(limits.output_bytes)
        sink = running.output(data.extend, limit_bytes) if stdout is None else stdout
        error_sink = running.output(errors.feed, limits.flood_mib << 20)
        await running.execute(argv, stdin=stdin, stdout=sink, stderr=error_sink)
        stderr, _ = errors.finish()
        running.conclude(stderr)
        return Captured(running.exit_code, running.ended, bytes(data), stderr, time.monotonic() - begun)

    async def spawn(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, mounts: Sequence[Mount] = ()
    ) -> BoxChannel:
        """Start a process to talk to over its standard input and output; the channel has to be closed.

        Raises as `run` does where that is known at once; a box that fails later ends the stream, see `aclose`.
        """
        policy = self._policy(env, mounts)
        ours, theirs = socket.socketpair()
        errors = Transcript(policy.limits.output_bytes)
        pipe = PipeReader(errors.feed)
        try:
            end = theirs.fileno()
            process = start(policy, argv, stdin=end, stdout=end, stderr=pipe.write_end)
        except BaseException:
            pipe.close()
            ours.close()
            raise
        finally:
            theirs.close()
        pipe.close_write_end()
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        return BoxChannel(process, policy, reader, writer, pipe, errors)

    def command_policy(
        self, env: Mapping[str, str] | None = None, mounts: Sequence[Mount] = (), cwd: str | None = None
    ) -> BoxPolicy:
        """The policy of one command that a model wants, in the directory `cwd` and the network that is shared."""
        policy = self._policy(env, mounts)
        if self.loopback is not None:
            policy = replace(policy, joins=self.loopback.pid)
        return policy if cwd is None else replace(policy, chdir=cwd)

    async def _held(self) -> Held | None:
        """Count what the writable mounts hold; None when it takes too long or cannot be done."""
        mounts = tuple(replace(mount, writable=False) for mount in self.policy.mounts if mount.writable)
        policy = replace(self.policy, mounts=mounts, network=None, chdir="/", limits=_COUNTING)
        most = str(self.policy.limits.workspace_files)
        try:
            targets = [*(mount.target for mount in mounts), *(() if policy.home is None else (HOME,))]
            argv = (*_PYTHON, f"{SUPPORT}/held.py", most, *targets)
            counted = await Box(policy).capture(argv)
            found = json.loads(counted.stdout)
            return Held(found["bytes"], found["files"], closed=found["closed"] > 0)
        except (WorkspaceError, ValueError, KeyError, TypeError):
            return None

    def _policy(self, env: Mapping[str, str] | None, mounts: Sequence[Mount]) -> BoxPolicy:
        if not env and not mounts:
            return self.policy
        more = {**self.policy.env, **(env or {})}
        return replace(self.policy, env=more, mounts=(*self.policy.mounts, *mounts))


class BoxChannel:
    """A process in a box and the two streams to it."""

    def __init__(
        self,
        process: BoxProcess,
        policy: BoxPolicy,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        pipe: PipeReader,
        errors: Transcript,
    ) -> None:
        self.reader = reader
        self.writer = writer
        self._process = process
        self._policy = policy
        self._pipe = pipe
        self._errors = errors

    @property
    def alive(self) -> bool:
        return not self._process.gone

    @contextmanager
    def memory_watched(self) -> Generator[None]:
        """Hold the box to its memory limit while something is asked of it; going over kills it."""
        watch = Watch(self._process, self._policy.limits, lambda _: self._process.kill())
        try:
            yield
        finally:
            watch.stop()

    def errors(self) -> str:
        """What the process wrote to standard error, head and tail; complete after `aclose`."""
        return self._errors.finish()[0]

    async def aclose(self) -> None:
        """Kill the box and let go of everything. Raises as `Box.run` does when the process never began."""
        never_began = False
        with anyio.CancelScope(shield=True):
            if self.reader.at_eof():  # then it is ending by itself, and why it did so is worth knowing
                with anyio.move_on_after(1.0):
                    await self._process.wait()
            never_began = self._process.gone and self._process.exit_code is None
            self.writer.close()
            await put_away(self._process)
            with suppress(OSError):
                await self.writer.wait_closed()
        self._pipe.close()
        if never_began:
            raise start_failure(self._policy, self.errors())


@lru_cache(maxsize=1)
def support_files() -> dict[str, bytes]:
    """What of this package runs inside boxes: path in the box to content.

    It is passed as content because the box's user cannot be expected to reach the directory it is installed in.
    """
    folder = Path(__file__).parent
    scripts = {f"{SUPPORT}/{name}": folder / name for name in _SCRIPTS if (folder / name).exists()}
    modules = {f"{SUPPORT}/lib/{folder.name}/{name}": folder / name for name in _MODULES}
    package = {f"{SUPPORT}/lib/{folder.name}/__init__.py": b""}
    return package | {path: source.read_bytes() for path, source in (scripts | modules).items()}


@lru_cache(maxsize=1)
def _bridge() -> bytes:
    return Path(__file__).with_name("bridge.py").read_bytes()


def command_argv(command: str | Sequence[str]) -> tuple[str, ...]:
    """A command as it is started; a `str` goes through the shell."""
    if not isinstance(command, str):
        return tuple(command)
    shell = "/bin/bash" if Path("/usr/bin/bash").exists() else "/bin/sh"
    return (shell, "-c", command)
