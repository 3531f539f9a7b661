"""Commands that go on while others run: started, read, written to and stopped by a handle, and gone with their owner.

Each is a box of its own under the limits of any command, except that it may run for hours. They share a network with
the commands of the same `Box`, and nothing else: not the process table, not /tmp.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from nightcrew_workspaces.box import Box, command_argv
from nightcrew_workspaces.errors import BackgroundError, BoxError, WorkspaceError
from nightcrew_workspaces.loopback import Loopback
from nightcrew_workspaces.output import Transcript
from nightcrew_workspaces.running import Running

MOST = 8
"""Commands in the background at the same time."""
SECONDS = 4 * 3600.0
"""The longest that one may run."""
_REMEMBERED = 16  # ended ones whose last output can still be read
_FLOODS = 16  # they print for hours, so they may print more than other commands
_ENVIRONMENT = {"PYTHONUNBUFFERED": "1"}
"""Python holds back what it prints into a pipe: a server's "listening" would come when it ends."""
_START_SECONDS = 30.0
_WRITE_SECONDS = 10.0
_GATE_PASSED = b"\x06"  # see `inner_command`


@dataclass(frozen=True)
class Reading:
    """What a background command printed since the last look, and how it is."""

    handle: str
    command: str
    output: str
    """Standard output and error as they came: cleaned, head and tail."""
    omitted_bytes: int
    state: str
    """`running`, `stopped` (on request), or how it ended by itself or for a limit, see `running.Ended`."""
    exit_code: int | None
    """None while it runs and when it was stopped; 128 + N when it ended by signal N."""
    seconds: float
    """How long it has been running, or ran."""
    reached: str = ""
    """The limit that it ran into, in words, whether it was stopped for it or not."""


class Background:
    """The background commands of one box; to be closed. Every method but `list` and `aclose` raises `BackgroundError`.

    To be used from the event loop's thread.
    """

    def __init__(self, box: Box, *, most: int = MOST, seconds: float = SECONDS) -> None:
        self._box = box
        self._most = most
        self._seconds = seconds
        self._count = 0
        self._commands: dict[str, _Command] = {}
        self._opening = asyncio.Lock()

    async def start(self, command: str | Sequence[str], *, cwd: str | None = None) -> str:
        """Start a command, a `str` through the shell, and return its handle. Raises as `Box.run` does, too."""
        self._make_room()
        self._count += 1
        started = _Command(f"p{self._count}", command, self._box.policy.limits.output_bytes)
        self._commands[started.handle] = started  # it takes its place before anything is waited for
        try:
            await self._share_loopback()
            self._find(started.handle)  # it is gone when all were stopped meanwhile
            running = Running(self._box.command_policy(_ENVIRONMENT, cwd=cwd), self._seconds, self._box.room)
            await started.start(running, command_argv(command))
        except BaseException:
            self._commands.pop(started.handle, None)
            await started.stop()
            raise
        return started.handle

    async def read(self, handle: str, *, seconds: float = 0.0, until: str | None = None) -> Reading:
        """What it printed since the last look; waits up to `seconds` for its end or for something new.

        With `until` it waits for this text instead, which may have come already.
        """
        command = self._find(handle)
        with anyio.move_on_after(seconds):
            await command.wait_for(until)
        return command.take()

    async def write(self, handle: str, text: str, *, close: bool = False) -> None:
        """Write to its standard input; `close` ends the input."""
        await self._find(handle).write(text.encode(errors="replace"), close=close)

    async def stop(self, handle: str) -> Reading:
        """Kill it and everything that it started, and forget it; of one that has ended, only the latter."""
        command = self._find(handle)
        await command.stop()
        self._commands.pop(handle, None)
        return command.take()

    def list(self) -> list[Reading]:
        """How each one is, without its output, oldest first."""
        return [command.look("", 0) for command in self._commands.values()]

    async def aclose(self) -> None:
        """Stop all of them and close the network. Others may be started afterwards."""
        ends: list[BaseException | None] = []
        with anyio.CancelScope(shield=True):
            ends += await asyncio.gather(*(one.stop() for one in self._commands.values()), return_exceptions=True)
            self._commands.clear()
            async with self._opening:
                if self._box.loopback is not None:
                    self._box.loopback.close()
                    self._box.loopback = None
        for end in ends:
            if end is not None:
                raise end

    async def _share_loopback(self) -> None:
        async with self._opening:
            if self._box.loopback is not None:
                return
            loopback = Loopback(self._box.policy.user)
            try:
                await loopback.ready()
            except BaseException:
                loopback.close()
                raise
            self._box.loopback = loopback

    def _make_room(self) -> None:
        ended = [handle for handle, command in self._commands.items() if command.state != "running"]
        if len(self._commands) - len(ended) >= self._most:
            running = ", ".join(handle for handle in self._commands if handle not in ended)
            raise BackgroundError("too_many", f"{self._most} commands run in the background: stop one of {running}")
        for handle in ended[: max(0, len(ended) - _REMEMBERED)]:
            del self._commands[handle]

    def _find(self, handle: str) -> _Command:
        if (command := self._commands.get(handle)) is not None:
            return command
        known = ", ".join(self._commands) or "none"
        raise BackgroundError("not_found", f"there is no background command {handle[:40]!r}; there are: {known}")


class _Command:
    """One of them: the task that keeps it within its limits, and what of its output has not been looked at."""

    def __init__(self, handle: str, command: str | Sequence[str], output_bytes: int) -> None:
        self.handle = handle
        self.state = "running"
        self._text = command if isinstance(command, str) else " ".join(command)
        self._exit_code: int | None = None
        self._reached = ""
        self._begun = time.monotonic()
        self._seconds = 0.0
        self._output_bytes = output_bytes
        self._unread = Transcript(output_bytes)
        self._held = b""
        self._news = asyncio.Event()
        self._listeners: list[_Listener] = []
        self._task: asyncio.Task[None] | None = None
        self._failure: WorkspaceError | OSError | None = None
        self._in_box = False
        self._source, self._input = -1, -1
        self._input_lock = asyncio.Lock()
        self._stopping = False

    async def start(self, running: Running, argv: Sequence[str]) -> None:
        """Return when it runs. Raises as `Box.run` does when it never began."""
        self._source, self._input = os.pipe()
        os.set_blocking(self._input, False)
        self._task = asyncio.create_task(self._keep(running, argv))
        try:
            with anyio.fail_after(_START_SECONDS):
                while self.state == "running" and not self._in_box:
                    await self._next()
        except TimeoutError:
            raise BoxError(f"the box did not start within {_START_SECONDS:g} seconds") from None
        if self._failure is not None:
            raise self._failure

    async def wait_for(self, until: str | None) -> None:
        """Return when there is something to read, or `until` is in it, or the command has ended."""
        if until is None:
            while self.state == "running" and not self._unread.total:
                await self._next()
            return
        listener = _Listener(until.encode(errors="replace"), self._unread.finish()[0].encode())
        self._listeners.append(listener)
        try:
            while self.state == "running" and not listener.heard:
                await self._next()
        finally:
            self._listeners.remove(listener)

    async def write(self, data: bytes, *, close: bool) -> None:
        """Write all of it, or raise `BackgroundError`."""
        async with self._input_lock:
            if self._input < 0:
                why = "has ended" if self.state != "running" else "has had its input closed"
                raise BackgroundError("closed", f"{self.handle} {why}; nothing can be written to it")
            try:
                with anyio.fail_after(_WRITE_SECONDS):
                    await self._write(data)
            except TimeoutError:
                raise BackgroundError(
                    "timeout", f"{self.handle} does not read its input; not all was written"
                ) from None
            except BrokenPipeError:
                raise BackgroundError("closed", f"{self.handle} has ended; not all was written") from None
            if close:
                self._close_input()

    async def stop(self) -> None:
        """Kill it; returns when nothing of it is alive. Raises `BoxError` when that fails."""
        if self._task is None:
            return
        if not self._stopping:  # a second cancellation would cut the first one's wait short
            self._stopping = True
            self._task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([self._task])
        self._close_source()
        self._close_input()
        if self._failure is not None and self._in_box:
            raise self._failure

    def take(self) -> Reading:
        """Hand out what has not been looked at."""
        unread, self._unread = self._unread, Transcript(self._output_bytes)
        return self.look(*unread.finish())

    def look(self, output: str, omitted: int) -> Reading:
        """How it is, with this as its output."""
        seconds = time.monotonic() - self._begun if self.state == "running" else self._seconds
        return Reading(self.handle, self._text, output, omitted, self.state, self._exit_code, seconds, self._reached)

    async def _keep(self, running: Running, argv: Sequence[str]) -> None:
        sink = running.output(self._feed, (running.policy.limits.flood_mib << 20) * _FLOODS)
        try:
            await running.execute(argv, stdin=self._source, stdout=sink, stderr=sink)
            self._reached = running.conclude(self._unread.finish()[0])
            self._end(running.ended, running.exit_code)
        except (WorkspaceError, OSError) as failure:
            self._failure = failure
        finally:
            if self.state == "running":
                self._end("stopped", None)
            self._close_source()
            async with self._input_lock:  # who writes just now is told that nobody reads any more
                self._close_input()

    def _end(self, state: str, exit_code: int | None) -> None:
        self._unread.feed(self._held)
        self._held = b""
        self._seconds = time.monotonic() - self._begun
        self.state, self._exit_code = state, exit_code
        self._news.set()

    def _feed(self, data: bytes) -> None:
        if not self._in_box and data.startswith(_GATE_PASSED):
            self._in_box = True
            data = data.removeprefix(_GATE_PASSED)
            self._close_source()  # the box has its own
        data = self._held + data
        whole = _whole_characters(data)
        self._held = data[whole:]
        self._unread.feed(data[:whole])
        for listener in self._listeners:
            listener.feed(data[:whole])
        self._news.set()

    async def _next(self) -> None:
        """Wait until something happens."""
        self._news.clear()
        await self._news.wait()

    async def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._input, view) :]
            except BlockingIOError:
                await anyio.wait_writable(self._input)

    def _close_input(self) -> None:
        if self._input >= 0:
            os.close(self._input)
            self._input = -1

    def _close_source(self) -> None:
        if self._source >= 0:
            os.close(self._source)
            self._source = -1


class _Listener:
    """Tells whether a text has come, also in two pieces."""

    def __init__(self, text: bytes, before: bytes) -> None:
        self.heard = text in before
        self._text = text
        self._end: bytes = before

    def feed(self, data: bytes) -> None:
        """Take in the next piece."""
        together = self._end[max(0, len(self._end) - len(self._text) + 1) :] + data
        self.heard = self.heard or self._text in together
        self._end = together


def _whole_characters(data: bytes) -> int:
    """How many bytes there are before a character in UTF-8 of which the rest has yet to come."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte >= 0xC0:
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) - back if length > back else len(data)
        if byte < 0x80:
            break
    return len(data)
