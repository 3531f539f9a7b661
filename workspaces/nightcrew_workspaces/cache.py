"""Bare caches that the service owns: the histories of sources whose object files cannot be linked into depots.

There is one for each source. It is filled with what it lacks of a base's history, and the depots of tasks link its
packs: a second task copies nothing. A link keeps its file, so a cache may be repacked, remade or removed at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import anyio

from nightcrew_workspaces.errors import GitError, RepositoryError
from nightcrew_workspaces.folders import make_folder, remove_tree, sync_folder
from nightcrew_workspaces.git import SHA, Git
from nightcrew_workspaces.repository import DURABLE, make_repository
from nightcrew_workspaces.source import SourceState, locked

MOST_PACKS = 16
"""With more packs than that, a cache is packed anew."""
_MOST_BASES = 64
_SECONDS = 1800.0
_SETTINGS = "[gc]\n\tauto = 0\n"


@contextlib.asynccontextmanager
async def filled(git: Git, source: SourceState, caches: Path) -> AsyncGenerator[Path]:
    """The source's cache with the whole history of its base; locked while it is used.

    One that is broken is made anew. Raises `RepositoryError` where the source cannot be read, `GitError` where the
    cache cannot be made.
    """
    make_folder(caches, 0o700)
    path = caches / f"{_key(source)}.git"
    async with locked(path.with_suffix(".lock"), seconds=_SECONDS):
        try:
            await _fill(git, source, path)
        except (GitError, OSError):
            await anyio.to_thread.run_sync(remove_tree, path)
            await _fill(git, source, path)
        os.utime(path)
        yield path


async def discard(cache: Path) -> None:
    """Remove a cache that turned out to be broken."""
    async with locked(cache.with_suffix(".lock"), seconds=_SECONDS):
        await anyio.to_thread.run_sync(remove_tree, cache)


@dataclass(frozen=True)
class CacheSize:
    """One cache on the disk."""

    path: Path
    bytes: int
    """Of its files, whether or not depots link them too."""
    used_at: float
    """When a task used it last, in seconds since 1970."""


def cache_sizes(caches: Path) -> list[CacheSize]:
    """All caches, the one that was used longest ago first."""
    found = [CacheSize(path, _bytes(path), path.stat().st_mtime) for path in caches.glob("*.git")]
    return sorted(found, key=lambda cache: cache.used_at)


async def trim_caches(caches: Path, *, max_age_seconds: float, max_bytes: float) -> list[CacheSize]:
    """Remove what nobody used for so long, then the longest unused ones over the size; returns what went.

    One that is in use now stays.
    """
    there = await anyio.to_thread.run_sync(cache_sizes, caches)
    total, gone = sum(cache.bytes for cache in there), list[CacheSize]()
    for cache in there:
        if time.time() - cache.used_at <= max_age_seconds and total <= max_bytes:
            continue
        with contextlib.suppress(RepositoryError):  # locked: a task is made from it
            async with locked(cache.path.with_suffix(".lock"), seconds=0):
                await anyio.to_thread.run_sync(remove_tree, cache.path)
            total -= cache.bytes
            gone.append(cache)
    return gone


def _key(source: SourceState) -> str:
    """Names the source; what a shallow one ends at belongs to its name, since a cache cannot forget it."""
    facts = (os.fsencode(source.git_dir), source.object_format.encode(), source.shallow_file() or b"")
    return hashlib.sha256(b"\0".join(facts)).hexdigest()[:24]


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


async def _fill(git: Git, source: SourceState, path: Path) -> None:
    """Bring the base's history in, where it is not there yet."""
    _make_ready(source, path)
    packs = path / "objects/pack"
    base = path / "refs/bases" / source.commit
    if base.exists():
        await git.run("cat-file", "-e", f"{source.commit}^{{tree}}", git_dir=path)
        return
    await _take_over(git, source, path, packs)
    make_folder(base.parent)
    base.write_text(f"{source.commit}\n", encoding="ascii")
    if len([*packs.glob("*.idx")]) > MOST_PACKS:
        await _pack_anew(git, path)


def _make_ready(source: SourceState, path: Path) -> None:
    """Make the empty cache where there is none, and clear away what a killed process left in one that is there."""
    if not path.exists():
        head, shallow = "refs/bases/none", source.shallow_file()
        make_repository(
            path, bare=True, head=head, object_format=source.object_format, shallow=shallow, settings=_SETTINGS
        )
    packs = path / "objects/pack"
    for leftover in (*packs.glob("tmp*"), *packs.glob("*.lock"), *path.glob("*.lock")):
        leftover.unlink()


async def _take_over(git: Git, source: SourceState, path: Path, packs: Path) -> None:
    """Have the source's owner pack what the cache lacks, and index that: a pack is there as soon as its index is."""
    theirs = git.as_owner(source.git_dir)
    fresh = packs / f"tmp-{secrets.token_hex(6)}.pack"
    wanted = "".join([f"{source.commit}\n", *(f"^{base}\n" for base in await _shared(theirs, source, path))])
    revs, stdin = ("--revs",), wanted.encode()
    with fresh.open("wb") as file:
        try:
            if source.partial:  # pack-objects itself stops at a tree that is missing from the history
                listing = ("rev-list", "--objects", "--no-object-names", "--missing=allow-any", "--stdin")
                revs, stdin = (), await theirs.run(*listing, git_dir=source.git_dir, stdin=stdin, seconds=_SECONDS)
            pack = ("pack-objects", *revs, "--stdout", "--quiet", "--delta-base-offset")
            await theirs.run(*pack, git_dir=source.git_dir, stdin=stdin, stdout=file.fileno(), seconds=_SECONDS)
        except GitError as error:
            raise RepositoryError(f"{source.path} cannot be copied: {error.stderr or error}") from error
        os.fsync(file.fileno())
    index = ("index-pack", "-o", str(fresh.with_suffix(".idx")), str(fresh))
    name = (await git.run(*DURABLE, *index, git_dir=path, seconds=_SECONDS)).decode("ascii", "replace").split()[-1]
    if not SHA.match(name):
        raise GitError(f"git index-pack named no pack but {name!r}")
    for suffix in (".pack", ".idx"):
        fresh.with_suffix(suffix).chmod(0o444)
        fresh.with_suffix(suffix).replace(packs / f"pack-{name}{suffix}")
    sync_folder(packs)


async def _shared(theirs: Git, source: SourceState, path: Path) -> list[str]:
    """Bases of earlier tasks that the source still has, the newest first: their histories need not be copied again."""
    bases = sorted((path / "refs/bases").glob("*"), key=lambda base: -base.stat().st_mtime)[:_MOST_BASES]
    if not bases:
        return []
    question = "".join(f"{base.name}\n" for base in bases).encode()
    answer = await theirs.run("cat-file", "--batch-check", git_dir=source.git_dir, stdin=question)
    return [line.split()[0].decode() for line in answer.splitlines() if b" commit " in line]


async def _pack_anew(git: Git, path: Path) -> None:
    """One pack of all, without what only bases of long ago needed."""
    bases = sorted((path / "refs/bases").glob("*"), key=lambda base: -base.stat().st_mtime)
    for base in bases[_MOST_BASES:]:
        base.unlink()
    await git.run(*DURABLE, "repack", "-a", "-d", "-q", git_dir=path, seconds=_SECONDS)
