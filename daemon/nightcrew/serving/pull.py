"""Fetches the weights of a crew into the hub's cache: room first, four files at a time, each checked, then named.

What has come stays when a pull is cut off, and the next one goes on there. One process pulls at a time.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nightcrew.errors import PullError
from nightcrew.serving.snapshots import (
    Cache,
    File,
    Listing,
    commit_of,
    files_of,
    in_mirror,
    is_digest,
    matches,
    needed,
    take,
    trouble,
)
from nightcrew.serving.weights import Progress

GIB = 2**30
_AT_ONCE = 4
_SPARE_BYTES = GIB
"""Left on the disk."""
_TELL_SECONDS = 0.2

Tell = Callable[[Progress], None]
Fetch = Callable[[Listing, File, Path, Callable[[int], None]], None]
"""Brings a partial file to the whole one, and tells of the bytes that come."""


@dataclass(frozen=True)
class Job:
    """A repository and what of it is needed."""

    listing: Listing
    cache: Cache
    files: tuple[File, ...]
    mirror: Path | None = None
    """The directory to take it from, instead of the hub."""

    @property
    def missing(self) -> tuple[File, ...]:
        return tuple({file.digest: file for file in self.files if not self.cache.has(file)}.values())

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def bytes_to_come(self) -> int:
        """Without what an earlier pull has left."""
        return sum(max(0, file.size - self.begun(file)) for file in self.missing)

    def begun(self, file: File) -> int:
        partial = self.cache.partial(file)
        return partial.stat().st_size if partial.exists() else 0


def jobs_of(repos: Sequence[str], directory: Path, look: Callable[[str], Listing]) -> list[Job]:
    """What pulling these repositories from the hub would be. Raises `PullError`, and what `look` raises."""
    jobs: list[Job] = []
    for repo in dict.fromkeys(repos):
        listing = look(repo)
        files = needed(repo, listing.files)
        if not is_digest(listing.commit):
            raise PullError(f"no commit is stated of {repo}: that is no hub, or no whole mirror of it")
        if strange := [file.name for file in files if not is_digest(file.digest)]:
            raise PullError(f"no checksum is stated of {repo}/{strange[0]}: that is no whole mirror of the hub")
        jobs.append(Job(listing, Cache(directory, repo), files))
    return jobs


def jobs_from(repos: Sequence[str], directory: Path, mirror: Path) -> list[Job]:
    """What taking them from a mirror would be. Raises `PullError` for the first that is not whole there."""
    jobs: list[Job] = []
    for repo in dict.fromkeys(repos):
        found = in_mirror(mirror, repo)
        if found is None:
            raise PullError(
                f"{mirror} has no {repo}: a mirror is a copy of the hub's cache (models--…), or has folders ORG/NAME"
            )
        if problem := trouble(found):
            raise PullError(f"{repo}: {problem}")
        files = needed(repo, files_of(found))
        jobs.append(Job(Listing(repo, commit_of(found, files), files), Cache(directory, repo), files, found))
    return jobs


def check_room(jobs: Sequence[Job], directory: Path, *, link: bool = False) -> None:
    """Raises `PullError` when the disk has no room for what is to come."""
    coming = sum(job.bytes_to_come for job in jobs if not (link and job.mirror))
    folder = next(each for each in (directory, *directory.parents) if each.exists())
    free = shutil.disk_usage(folder).free
    if coming and coming + _SPARE_BYTES > free:
        raise PullError(
            f"{(coming + _SPARE_BYTES) / GIB:.1f} GiB are needed at {directory}, {free / GIB:.1f} are free: make "
            "room, or set HF_HOME to a larger disk"
        )


def drop_damaged(jobs: Sequence[Job], directory: Path, tell: Tell) -> list[str]:
    """Read what is here, and remove what is not as the hub states it, so that it is fetched again; the names of it."""
    dropped: list[str] = []
    with _alone(directory, tell):
        for job in jobs:
            for file in job.files:
                path = job.cache.path(file)
                if job.cache.has(file) and is_digest(file.digest):
                    tell(Progress("checking", f"{job.listing.repo}/{file.name}", 0, file.size, 0.0))
                    if not matches(path, file):
                        path.unlink()
                        dropped.append(f"{job.listing.repo}/{file.name}")
    return dropped


def pull(
    jobs: Sequence[Job], directory: Path, fetch: Fetch | None, tell: Tell, *, link: bool = False
) -> dict[str, Path]:
    """Fetch what is missing, check it, and name it; the directory of each repository.

    `fetch` is for jobs without a mirror. Raises `PullError`.
    """
    with _alone(directory, tell):
        check_room(jobs, directory, link=link)
        return {job.listing.repo: _finish(job, fetch, tell, link=link) for job in jobs}


def _finish(job: Job, fetch: Fetch | None, tell: Tell, *, link: bool) -> Path:
    missing = job.missing
    if missing:
        job.cache.path(missing[0]).parent.mkdir(parents=True, exist_ok=True)
        meter = _Meter(job, missing, tell)
        _all(missing, lambda file: _get(job, file, fetch, meter, link=link), meter)
    return job.cache.finish(job.listing.commit, job.files)


def _all(files: Sequence[File], get: Callable[[File], None], meter: _Meter) -> None:
    """Each file by one of a few threads; the first error stops the others at their next piece."""
    # The large ones first, so that none of them is alone at the end.
    ordered = sorted(files, key=lambda file: -file.size)
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pull") as threads:
        try:
            futures = [threads.submit(get, file) for file in ordered]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            errors = [error for future in done if (error := future.exception()) is not None]
            failed = sorted(errors, key=lambda error: isinstance(error, _Stopped))
        except BaseException:
            meter.stop()
            threads.shutdown(cancel_futures=True)
            raise
        if failed:
            meter.stop()
            threads.shutdown(cancel_futures=True)
            raise failed[0]


def _get(job: Job, file: File, fetch: Fetch | None, meter: _Meter, *, link: bool) -> None:
    target = job.cache.path(file)
    if job.mirror is not None:
        source = job.mirror / file.name
        if is_digest(file.digest) and not matches(source, file):
            raise PullError(f"{source} is not what the hub's cache names it by: fetch the mirror again")
        take(source, target, link=link)
        meter.come(file.size)
        return
    partial = job.cache.partial(file)
    if job.begun(file) > file.size:
        partial.unlink()
    assert fetch is not None, "a job without a mirror needs the hub"
    fetch(job.listing, file, partial, meter.come)
    if not matches(partial, file):
        partial.unlink()
        raise PullError(f"{job.listing.repo}/{file.name} came otherwise than the hub states it: try again")
    partial.replace(target)


class _Stopped(Exception):
    """Another file could not be fetched."""


class _Meter:
    """Turns bytes from several threads into progress, a few times a second."""

    def __init__(self, job: Job, files: Sequence[File], tell: Tell) -> None:
        self._source = job.listing.repo if job.mirror is None else str(job.mirror)
        self._total = sum(file.size for file in files)
        self._done = self._begun = self._total - job.bytes_to_come
        self._tell = tell
        self._started = time.monotonic()
        self._told = 0.0
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def stop(self) -> None:
        self._stop.set()

    def come(self, size: int) -> None:
        """So many bytes more, or fewer. Raises in a thread that is to stop."""
        if self._stop.is_set():
            raise _Stopped
        with self._lock:
            self._done += size
            now = time.monotonic()
            if now - self._told < _TELL_SECONDS and self._done < self._total:
                return
            self._told = now
            # What the first moment's speed would promise is worth nothing.
            passed = now - self._started
            speed = max(0, self._done - self._begun) / passed if passed > 1 else 0.0
            self._tell(Progress("fetching", self._source, self._done, self._total, speed))


@contextmanager
def _alone(directory: Path, tell: Tell) -> Generator[None]:
    """Hold the cache's lock; waits where another process has it, and says so."""
    directory.mkdir(parents=True, exist_ok=True)
    lock = os.open(directory / ".nightcrew.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(Progress("waiting", str(directory), 0, 0, 0.0))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
