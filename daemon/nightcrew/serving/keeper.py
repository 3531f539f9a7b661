"""One model server, kept running: started, waited for, warmed up, watched, started again, stopped."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio
from anyio.abc import Process

from nightcrew.errors import ServingError
from nightcrew.serving.launch import HOST, Launch
from nightcrew.serving.probe import NotServing, Probe, hit_rate
from nightcrew.serving.serverlog import ServerLog, phase_of
from nightcrew.serving.troubles import Trouble, port_taken, recognise

POLL_SECONDS = 2.0
"""Between two questions whether it is ready, while it starts."""
WATCH_SECONDS = 10.0
STUCK_AFTER = 12
"""Questions in a row without an answer, after which a running server counts as stuck."""
LOAD_EVERY = 6
"""Metrics are told once in so many looks."""
STOP_SECONDS = 30.0
"""For requests under way, after SIGTERM; then it is killed with all its processes."""
STEADY_SECONDS = 600.0
"""A server that served so long has not begun a crash loop."""
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0
HOPELESS_AT_FIRST = frozenset({"port-taken", "gpu-memory"})
"""Later these may pass: what held the port or the memory ends. Before the first success a person has to act."""
TRIES = 4
"""Failures in a row that end it."""

EventKind = Literal["starting", "phase", "serving", "trouble", "load", "stopping", "stopped"]


@dataclass(frozen=True)
class Event:
    """Something a person may want to know of a server."""

    server: str
    kind: EventKind
    text: str
    data: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Times:
    """How long to wait for what, in seconds; tests have less."""

    ready: float = 1800.0
    poll: float = POLL_SECONDS
    watch: float = WATCH_SECONDS
    stop: float = STOP_SECONDS
    steady: float = STEADY_SECONDS
    first_pause: float = FIRST_PAUSE


class _Ended(Exception):
    def __init__(self, trouble: Trouble, served: float) -> None:
        super().__init__(trouble.sentence)
        self.trouble = trouble
        self.served = served


class Keeper:
    """Keeps one server running. `command` makes its command line anew for every start, `lock` is the file that all
    servers of the machine take while they start, `tell` is told what happens and may not raise."""

    def __init__(
        self,
        key: str,
        command: Callable[[], Launch],
        *,
        kind: Literal["chat", "embedding"],
        planned_tokens: int,
        logs: Path,
        lock: Path,
        tell: Callable[[Event], None],
        times: Times | None = None,
    ) -> None:
        self.key = key
        self._command = command
        self._kind: Literal["chat", "embedding"] = kind
        self._planned = planned_tokens
        self._log = ServerLog(logs / f"{key}.log")
        self._lock = lock
        self._tell = tell
        self._times = times or Times()
        self._scope = anyio.CancelScope()
        self._fatal: Trouble | None = None
        self._phase = ""
        self.up = anyio.Event()
        """Set when it has been warmed up for the first time."""
        self.done = anyio.Event()
        """Set when nothing of it runs any more."""

    def stop(self) -> None:
        """End it; `done` says when."""
        self._scope.cancel()

    async def run(self) -> None:
        """Until `stop`. Raises `ServingError` when it cannot be started, or does not stay up."""
        failures = 0
        try:
            with self._scope:
                while True:
                    try:
                        await self._live()
                    except _Ended as end:
                        failures = 1 if end.served >= self._times.steady else failures + 1
                        await self._after(end.trouble, failures)
        finally:
            self._log.close()
            self.done.set()

    async def _after(self, trouble: Trouble, failures: int) -> None:
        if not trouble.passing or (trouble.kind in HOPELESS_AT_FIRST and not self.up.is_set()):
            raise ServingError(f"{self.key}: {trouble.sentence} (log: {self._log.path})")
        if failures >= TRIES:
            raise ServingError(
                f"{self.key}: ended {failures} times in a row, the last time because {trouble.sentence} "
                f"(log: {self._log.path})"
            )
        pause = min(LONGEST_PAUSE, self._times.first_pause * 2 ** (failures - 1))
        self._say("trouble", f"{trouble.sentence}; next start in {pause:.0f} s", trouble=trouble.kind)
        await anyio.sleep(pause)

    async def _live(self) -> None:
        """One life of the process. Raises `_Ended`; on cancellation it is stopped."""
        self._fatal, self._phase = None, ""
        self._log.begin()
        begun = 0.0
        lock = _StartLock(self._lock)
        try:
            await lock.take()
            launch = self._make_command()
            if not _free(launch.port):
                raise _Ended(port_taken(launch.port), 0.0)
            process = await self._spawn(launch)
            try:
                async with self._attended(process), Probe(launch.address, kind=self._kind) as probe:
                    await self._bring_up(launch, probe)
                    if self._fatal is None:
                        begun = time.monotonic()
                        lock.release()
                        self.up.set()
                        await self._watch(probe)
            finally:
                await self._end(process)
        finally:
            lock.release()
        served = time.monotonic() - begun if begun else 0.0
        raise _Ended(self._fatal or recognise(self._log.tail, process.returncode), served)

    def _make_command(self) -> Launch:
        try:
            return self._command()
        except ServingError as error:
            if not self.up.is_set():
                raise
            # What it held on the card may not be free yet.
            raise _Ended(Trouble("gpu-memory", str(error), "", passing=True), 0.0) from error

    async def _spawn(self, launch: Launch) -> Process:
        self._say("starting", f"starting {launch.model} on port {launch.port}", argv=list(launch.argv))
        leash = (sys.executable, "-P", "-m", "nightcrew.serving.leash", str(os.getpid()))
        return await anyio.open_process(
            [*leash, *launch.argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(launch.env),
            cwd="/",
            start_new_session=True,  # Ctrl-C in the terminal is for us, who then stop it in order
        )

    @asynccontextmanager
    async def _attended(self, process: Process) -> AsyncGenerator[None]:
        """While its output is read; the block is left early when the process ends, or says that it will never serve."""
        async with anyio.create_task_group() as group:

            async def pump() -> None:
                assert process.stdout is not None
                with suppress(anyio.EndOfStream, anyio.ClosedResourceError):
                    while True:
                        for line in self._log.take(await process.stdout.receive()):
                            self._heed(line)
                        if self._fatal is not None:
                            group.cancel_scope.cancel()

            async def wait() -> None:
                await process.wait()
                # Its last words may still be on their way.
                await anyio.sleep(0.2)
                group.cancel_scope.cancel()

            group.start_soon(pump)
            group.start_soon(wait)
            yield
            group.cancel_scope.cancel()

    def _heed(self, line: str) -> None:
        phase = phase_of(line)
        if phase is not None and phase != self._phase and not self.up.is_set():
            self._phase = phase
            self._say("phase", phase)
        # Seen: with its port taken, the server neither serves nor ends.
        if "[Errno 98]" in line:
            self._fatal = recognise(line, None)

    async def _bring_up(self, launch: Launch, probe: Probe) -> None:
        """Wait until it is ready and send it its longest prompt; `_fatal` says why when that does not work."""
        started = time.monotonic()
        try:
            with anyio.fail_after(self._times.ready):
                await probe.until_ready(self._times.poll)
                facts = await probe.facts()
                tokens = facts.longest_prompt
                warm = await probe.warm_up(tokens)
        except TimeoutError:
            seen = f"it was not ready after {self._times.ready:.0f} s (last: {self._phase or 'nothing said'})"
            self._fatal = Trouble("stuck", seen, "see its log, or raise [serving] ready_seconds", passing=True)
            return
        except NotServing as error:
            seen = f"its first long prompt failed ({error})"
            self._fatal = Trouble("crashed", seen, "see its log", passing=not error.refused)
            return
        took = time.monotonic() - started
        text = f"serves {launch.model} on port {launch.port} after {took:.0f} s (SGLang {facts.version}): context "
        text += f"{facts.context_tokens:,}, {facts.pool_tokens:,} tokens of KV cache, longest prompt {warm:.1f} s"
        if facts.pool_tokens < self._planned:
            text += f"; planned were {self._planned:,} tokens"
        self._say(
            "serving",
            text,
            context_tokens=facts.context_tokens,
            pool_tokens=facts.pool_tokens,
            planned_tokens=self._planned,
            warm_up_tokens=tokens,
            warm_up_seconds=round(warm, 2),
            seconds=round(took, 1),
        )

    async def _watch(self, probe: Probe) -> None:
        """Look after it until it does not answer any more; that it ends is seen elsewhere."""
        silent = looks = 0
        while silent < STUCK_AFTER:
            await anyio.sleep(self._times.watch)
            looks += 1
            silent = 0 if await probe.ready() else silent + 1
            if looks % LOAD_EVERY == 0 and not silent:
                with suppress(NotServing):
                    self._tell_load(await probe.metrics())
        seen = f"it has not answered for {STUCK_AFTER * self._times.watch:.0f} s"
        self._fatal = Trouble("stuck", seen, "it is started again; its log may say why", passing=True)

    def _tell_load(self, metrics: dict[str, float]) -> None:
        rate = hit_rate(metrics)
        text = f"{metrics.get('num_running_reqs', 0):.0f} running, {metrics.get('num_queue_reqs', 0):.0f} waiting"
        text += f", KV cache {100 * metrics.get('token_usage', 0):.0f} % full"
        text += "" if rate is None else f", {100 * rate:.0f} % of prompt tokens cached"
        self._say("load", text, **metrics)

    async def _end(self, process: Process) -> None:
        """SIGTERM to the server itself (it then lets its parts end in order), SIGKILL to all of them when that takes
        long."""
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                self._say("stopping", "stopping")
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGKILL if self._fatal is not None else signal.SIGTERM)
                with anyio.move_on_after(self._times.stop):
                    await self._drain(process)
                    await process.wait()
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            with anyio.move_on_after(2):
                await self._drain(process)
            await process.aclose()
            self._say("stopped", f"stopped (exit code {process.returncode})")

    async def _drain(self, process: Process) -> None:
        assert process.stdout is not None
        with suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            while True:
                self._log.take(await process.stdout.receive())

    def _say(self, kind: EventKind, text: str, **data: object) -> None:
        self._tell(Event(self.key, kind, text, data))


class _StartLock:
    """Servers start one after the other, whoever starts them: each sizes its cache by what it finds free."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    async def take(self) -> None:
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                await anyio.sleep(0.25)

    def release(self) -> None:
        """Also when it is released already."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def _free(port: int) -> bool:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, port))
        except OSError:
            return False
        return True
