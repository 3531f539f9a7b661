"""One command in a box, from its start to its end within its limits."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Literal

import anyio

from nightcrew_workspaces.errors import BoxError
from nightcrew_workspaces.failure import start_failure
from nightcrew_workspaces.policy import BoxPolicy
from nightcrew_workspaces.process import BoxProcess, memory_file, start
from nightcrew_workspaces.reached import Reached, Stopped, noticed, sentence
from nightcrew_workspaces.room import Room, Stay
from nightcrew_workspaces.watch import Watch

Ended = Literal["exited", "signal", Stopped]
"""How a command ended: by itself, by a signal, or for a limit, see `reached`."""

_CHUNK = 64 * 1024
_CHUNKS_AT_ONCE = 16  # then the event loop has its turn
_LAST_SECONDS = 10.0  # the longest that killed processes may take to be gone
# Signals that end a process which does nothing about them: 128 + N is what a shell and bubblewrap make of them.
_DEADLY = frozenset((1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 24, 31))
_TOO_LARGE = 128 + 25  # SIGXFSZ


class PipeReader:
    """A pipe: what is written to its end comes to `sink` from the event loop, with no task and no thread."""

    def __init__(self, sink: Callable[[bytes], object]) -> None:
        self._fd, self.write_end = os.pipe()
        os.set_blocking(self._fd, False)
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._take)

    def close_write_end(self) -> None:
        """Leave writing to the process that has a copy of it."""
        os.close(self.write_end)
        self.write_end = -1

    def close(self) -> None:
        """Take in what is still there, then let go; to be called when nothing writes any more."""
        if self.write_end >= 0:
            self.close_write_end()
        while self._take():
            pass
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _take(self) -> bool:
        """Read a few chunks; False when there was nothing more."""
        with suppress(BlockingIOError):
            for _ in range(_CHUNKS_AT_ONCE):
                if not (data := os.read(self._fd, _CHUNK)):
                    self._loop.remove_reader(self._fd)
                    return False
                self._sink(data)
            return True
        return False


class Running:
    """A command and its limits: give it its outputs, then `execute` it, then see how it ended."""

    def __init__(self, policy: BoxPolicy, seconds: float | None, room: Room | None) -> None:
        self.policy = policy
        self.exit_code: int | None = None
        self.ended: Ended = "exited"
        self.reached: Reached | None = None
        """The limit that it ran into, whether it was ended for that or went on."""
        self._seconds = policy.limits.seconds if seconds is None else seconds
        self._room = room
        self._pipes: list[PipeReader] = []
        self._process: BoxProcess | None = None
        self._stopped: Stopped | None = None
        self._stay: Stay | None = None
        self._most_output = 0

    def output(self, sink: Callable[[bytes], object], limit: int) -> int:
        """A descriptor to write to, for `sink`; more than `limit` bytes end the command."""
        left = self._most_output = limit

        def capped(data: bytes) -> None:
            nonlocal left
            left -= len(data)
            sink(data)
            if left < 0:
                self._stop("output")

        self._pipes.append(PipeReader(capped))
        return self._pipes[-1].write_end

    async def execute(self, argv: Sequence[str], *, stdin: bytes | int, stdout: int, stderr: int) -> None:
        """Run the command to its end; `_raise_for_start` is the caller's next step."""
        owned = memory_file(stdin) if isinstance(stdin, bytes) and stdin else None
        source = stdin if isinstance(stdin, int) else subprocess.DEVNULL if owned is None else owned
        try:
            process = start(self.policy, argv, stdin=source, stdout=stdout, stderr=stderr)
            for pipe in self._pipes:
                pipe.close_write_end()
            self._process = process
            await self._to_end(process)
        finally:
            for pipe in self._pipes:
                pipe.close()
            if owned is not None:
                os.close(owned)

    def conclude(self, said: str) -> str:
        """The limit that was reached, in words, or nothing; `said` is what came on standard error.

        Raises when the command never began.
        """
        if self.exit_code is None and self.ended == "exited":
            raise start_failure(self.policy, said)
        grouped = self._process is not None and self._process.group is not None
        if self.reached is None and not (grouped and noticed(self.exit_code, said) == "processes"):
            self.reached = noticed(self.exit_code, said)  # a group itself tells of processes, whatever was said
        if self.reached is None:
            return ""
        disk = self._stay.words if self._stay is not None else ""
        return sentence(self.reached, self.policy.limits, seconds=self._seconds, output=self._most_output, disk=disk)

    async def _to_end(self, process: BoxProcess) -> None:
        timer = asyncio.get_running_loop().call_later(self._seconds, self._stop, "timeout")
        watch = Watch(process, self.policy.limits, self._stop)
        stay = self._stay = None if self._room is None else self._room.enter(self._stop)
        try:
            await process.wait()
        except BaseException:
            await put_away(process)
            raise
        finally:
            timer.cancel()
            watch.stop()
            if stay is not None:
                await stay.leave()
        self._judge(process, full=watch.full)
        if stay is not None and self.reached is None and await stay.conclude():
            self.reached = "disk"

    def _judge(self, process: BoxProcess, *, full: bool) -> None:
        if self._stopped is None and process.group is not None and process.group.out_of_memory:
            self._stopped = "memory"
        if self._stopped is not None:
            self.ended = self.reached = self._stopped
            return
        code = self.exit_code = process.exit_code
        if code == _TOO_LARGE:
            self.ended = self.reached = "file"
        elif code is not None and code - 128 in _DEADLY:
            self.ended = "signal"
        if self.reached is None and (full or (process.group is not None and process.group.forks_refused)):
            self.reached = "processes"

    def _stop(self, why: Stopped) -> None:
        if self._stopped is None and self._process is not None:
            self._stopped = why
            self._process.kill()


async def put_away(process: BoxProcess) -> None:
    """Kill a box and wait until nothing of it is alive, also while being cancelled. Raises `BoxError` if that fails."""
    process.kill()
    with anyio.move_on_after(_LAST_SECONDS, shield=True):
        await process.wait()
    if not process.gone:
        raise BoxError(f"the processes of a box (under process {process.pid}) do not end, although they were killed")
