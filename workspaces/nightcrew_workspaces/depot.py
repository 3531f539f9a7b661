"""A task's depot: the source's objects in a bare repository of the service, as hard links wherever that can be.

A hard link is a loan that cannot be called back: whatever becomes of the source or the cache, the depot stays whole.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from pathlib import Path

import anyio

from nightcrew_workspaces.cache import filled
from nightcrew_workspaces.errors import GitError, RepositoryError
from nightcrew_workspaces.folders import make_folder
from nightcrew_workspaces.git import Git
from nightcrew_workspaces.policy import BoxUser
from nightcrew_workspaces.repository import make_repository
from nightcrew_workspaces.source import SourceState

MOST_LOOSE = 2000
"""A source with more loose objects is packed once, into the cache, instead of being linked for each task."""

_NO_LINKS = frozenset({errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP})


async def make_depot(git: Git, source: SourceState, path: Path, reader: BoxUser, caches: Path) -> Path | None:
    """Make the depot: a bare repository with the source's objects, and the base commit as its one branch.

    Where the source's files can be linked, every object of the source is in it, also those that no branch leads to any
    more. They cannot on another file system, where `reader` could not read them or would own them, and where the source
    borrows or links them itself: then the base's history is packed once for all tasks, by `cache`, and linked from
    there. Returns that cache, None where none was needed. Raises `RepositoryError`.
    """
    try:
        _begin(source, path)
        if await anyio.to_thread.run_sync(_link_source, source.git_dir / "objects", path / "objects", reader):
            return None
        shutil.rmtree(path)
        async with filled(git, source, caches) as cache:
            _begin(source, path)
            await anyio.to_thread.run_sync(_link_cache, cache / "objects/pack", path / "objects/pack")
        return cache
    except (OSError, GitError) as error:
        raise RepositoryError(f"{source.path} cannot be copied: {error}") from error


def _begin(source: SourceState, path: Path) -> None:
    make_repository(
        path,
        bare=True,
        head="refs/heads/base",
        refs={"refs/heads/base": source.commit},
        object_format=source.object_format,
        shallow=source.shallow_file(),
        settings="[gc]\n\tauto = 0\n",
    )


class _CannotLink(Exception):
    """A file of the source cannot be shown to boxes as it is."""


def _link_source(source: Path, target: Path, reader: BoxUser) -> bool:
    """Link all object files; False where one of them cannot be linked, or the source kept changing meanwhile."""
    plain = not source.is_symlink() and not (source / "pack").is_symlink()
    if not plain or (source / "info/alternates").exists() or source.stat().st_dev != target.stat().st_dev:
        return False
    for _ in range(3):
        try:
            _link_loose(source, target, reader)
            # Packs come last: whatever a repack takes out of the loose objects is in a pack that exists by then.
            _link_packs(source / "pack", target / "pack", reader)
            return True
        except FileNotFoundError:
            continue
        except _CannotLink:
            return False
    return False


def _link_loose(source: Path, target: Path, reader: BoxUser) -> None:
    count = 0
    for folder in _entries(source):
        if not re.fullmatch(r"[0-9a-f]{2}", folder.name) or not folder.is_dir(follow_symlinks=False):
            continue
        entries = [entry for entry in _entries(folder) if re.fullmatch(r"[0-9a-f]{38,62}", entry.name)]
        count += len(entries)
        if count > MOST_LOOSE:
            raise _CannotLink
        make_folder(target / folder.name)
        for entry in entries:
            _link(entry, target / folder.name, reader)


def _link_packs(source: Path, target: Path, reader: BoxUser) -> None:
    entries = {entry.name: entry for entry in _entries(source)}
    whole = {name.removesuffix(".idx") for name in entries if name.endswith(".idx")}
    for name, entry in entries.items():
        stem, _, suffix = name.rpartition(".")
        if stem in whole and suffix in {"pack", "idx", "rev"}:
            _link(entry, target, reader)


def _entries(folder: str | Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)


def _may_be_shown(status: os.stat_result, reader: BoxUser) -> bool:
    """Whether boxes could read a file as it is, and it is not theirs where they run as an account of their own."""
    theirs = status.st_uid == reader.uid
    if not stat.S_ISREG(status.st_mode) or (reader.switch and theirs):
        return False
    return bool(status.st_mode & stat.S_IROTH) or (theirs and bool(status.st_mode & stat.S_IRUSR))


def _link(entry: os.DirEntry[str], folder: Path, reader: BoxUser) -> None:
    if not _may_be_shown(entry.stat(follow_symlinks=False), reader):
        raise _CannotLink
    try:
        os.link(entry.path, folder / entry.name, follow_symlinks=False)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise _CannotLink from error
        raise


def _link_cache(packs: Path, target: Path) -> None:
    """Link the cache's packs, or copy them where this file system has no hard links."""
    for path in sorted(packs.glob("pack-*")):
        try:
            os.link(path, target / path.name)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            shutil.copyfile(path, target / path.name)
            (target / path.name).chmod(0o444)
