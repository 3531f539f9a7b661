"""Start, watch and stop the embedded model's server, a child process on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio

from nightcrew.config import environment
from nightcrew.errors import EmbeddedError
from nightcrew.secrecy import SECRETS

MODEL = "qwen2.5-coder-1.5b-instruct"
"""The name it serves the model under."""
MEMORY_BYTES = 2_200_000_000
"""Resident size with the weights read and the context full: 2.0 GB measured, and the prompt cache."""
READY_SECONDS = 180.0
"""8 s with cold files here; a slow disk needs a minute for 1.1 GB."""
STOP_SECONDS = 5.0
LOG_BYTES = 1024 * 1024
"""A longer log of an earlier start is set aside as `.1`."""
INSTALL = "pip install 'nightcrew[embedded]'"

_COMMAND = (sys.executable, "-P", "-m", "nightcrew.serving.embedded_server")
_MEMORY_WORDS = (
    "insufficient memory",
    "unable to allocate",
    "failed to allocate",
    "bad_alloc",
    "Cannot allocate memory",
)
_DAMAGE_WORDS = ("is corrupted", "invalid magic", "not within the file bounds", "failed to open GGUF")


class EmbeddedServer:
    """The running server, for the time of an `async with` block.

    `weights` is the verified file, `log` where the server's own words go (at most 8 MiB, and the previous megabytes
    beside it as `.1`). Entering waits until it is ready and raises `EmbeddedError`, which says what to do.
    Start it from the task that runs the event loop for long: the child dies with the thread that started it.
    """

    def __init__(
        self,
        weights: Path,
        log: Path,
        *,
        ready_seconds: float = READY_SECONDS,
        command: Sequence[str] = _COMMAND,
        environ: Mapping[str, str] | None = None,
        needs_bytes: int = MEMORY_BYTES,
    ) -> None:
        self._weights = weights
        self._log = log
        self._ready_seconds = ready_seconds
        self._command = tuple(command)
        self._environ = environment() if environ is None else environ
        self._needs = needs_bytes
        self._process: asyncio.subprocess.Process | None = None
        self._log_from = 0
        self.api_key = secrets.token_urlsafe(24)
        """Random, told to the child through its standard input: no other user of the machine can read it."""
        SECRETS.add(self.api_key)
        self.base_url = ""
        """With its `/v1`; empty before it is ready."""

    async def __aenter__(self) -> Self:
        available = available_memory()
        if available is not None and available < self._needs:
            raise EmbeddedError(
                f"the embedded model needs {self._needs / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are free: "
                "stop something, or name another model endpoint in the configuration file"
            )
        try:
            self._process = await self._spawn()
            self.base_url = await self._ready(self._process)
        except BaseException:
            await self._stop(patience=0)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    @property
    def alive(self) -> bool:
        """Whether the process runs. It serves as long as it runs."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        """Of the child, None before it is started."""
        return None if self._process is None else self._process.pid

    def failure(self) -> str | None:
        """Why it ended, in words for a person; None while it runs."""
        if self._process is None or self._process.returncode is None:
            return None
        return self._explain("", "")

    async def _spawn(self) -> asyncio.subprocess.Process:
        settings = {
            "weights": str(self._weights),
            "api_key": self.api_key,
            "parent": os.getpid(),
            "model": MODEL,
        }
        # Threads that spin while they wait take the cores from whatever else runs: 1.4 tokens a second instead of 9.
        env = {**self._environ, "OMP_WAIT_POLICY": "passive"}
        env.pop("GOMP_SPINCOUNT", None)
        log = _open_log(self._log)
        self._log_from = os.fstat(log).st_size
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=env,
                cwd="/",
                start_new_session=True,  # Ctrl-C in the terminal is for the service, which then stops this in order
            )
        finally:
            os.close(log)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it ended already: _ready says why
            process.stdin.write(json.dumps(settings).encode() + b"\n")
            await process.stdin.drain()
        return process

    async def _ready(self, process: asyncio.subprocess.Process) -> str:
        assert process.stdout is not None
        try:
            with anyio.fail_after(self._ready_seconds):
                line = await process.stdout.readline()
                if not line:
                    await process.wait()
        except TimeoutError:
            raise EmbeddedError(
                f"the embedded model was not ready after {self._ready_seconds:g} s; its log is {self._log}"
            ) from None
        said = _parsed(line)
        if "base_url" not in said:
            raise EmbeddedError(self._explain(said.get("error", ""), said.get("detail", "")))
        return str(said["base_url"])

    def _explain(self, kind: str, detail: str) -> str:
        """What went wrong and what to do about it, from what the child said and from its log."""
        tail = _tail(self._log, self._log_from)
        words = f"{detail}\n{tail}"
        if kind == "import" or "No module named" in detail:
            return _import_failure(detail)
        if any(word in words for word in _MEMORY_WORDS) or self._killed():
            return (
                f"the embedded model ran out of memory: it needs {self._needs / 1e9:.1f} GB. Stop something, or name "
                f"another model endpoint in the configuration file (log: {self._log})"
            )
        if any(word in words for word in _DAMAGE_WORDS):
            return f"the embedded model's weights are damaged: delete {self._weights} and run `nightcrew model fetch`"
        last = next((line for line in reversed(tail.splitlines()) if line.strip()), "it said nothing")
        code = None if self._process is None else self._process.returncode
        ended = "could not start" if code is None else f"ended with code {code}"
        return f"the embedded model's server {ended}: {(detail or last).strip()[:300]} (log: {self._log})"

    def _killed(self) -> bool:
        return self._process is not None and self._process.returncode == -signal.SIGKILL

    async def _stop(self, *, patience: float | None = None) -> None:
        """Close its standard input, which ends it, and kill it when that takes longer than `patience` seconds."""
        process = self._process
        if process is None:
            return
        with anyio.CancelScope(shield=True):
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            try:
                with anyio.fail_after(STOP_SECONDS if patience is None else patience):
                    await process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            while await process.stdout.read(65536):
                pass  # an unread pipe keeps the transport open


def available_memory() -> int | None:
    """Bytes that a new process can have without swapping, or None where that cannot be read."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return min(int(line.split()[1]) * 1024, _group_memory())
    except (OSError, ValueError):
        return None
    return None


def _group_memory(root: Path = Path("/sys/fs/cgroup")) -> int:
    """What is left of a container's own limit (cgroup v2, as seen from inside); very much where there is none."""
    try:
        limit = (root / "memory.max").read_text(encoding="ascii").strip()
        if limit == "max":
            return sys.maxsize
        used = int((root / "memory.current").read_text(encoding="ascii"))
        stat = dict(line.split() for line in (root / "memory.stat").read_text(encoding="ascii").splitlines())
        # File pages are given up first, so they count as free.
        return int(limit) - used + int(stat.get("inactive_file", 0)) + int(stat.get("active_file", 0))
    except (OSError, ValueError):
        return sys.maxsize


def _import_failure(detail: str) -> str:
    if "libgomp" in detail:
        return "the embedded model needs the system library libgomp: apt install libgomp1"
    if "No module named" in detail:
        return f"the embedded model's runtime is not installed: {INSTALL}"
    return f"the embedded model's runtime cannot be loaded ({detail.strip()[:200]}); install it again: {INSTALL}"


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        value: Any = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def _open_log(path: Path) -> int:
    """A file descriptor that appends to the log, readable by its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > LOG_BYTES:
            path.replace(path.with_name(f"{path.name}.1"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _tail(path: Path, start: int, most: int = 4096) -> str:
    """The end of the log, of what was written from byte `start` on."""
    try:
        with path.open("rb") as file:
            file.seek(max(start, path.stat().st_size - most))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""
