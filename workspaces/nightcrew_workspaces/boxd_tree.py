"""Whole directories: looked through, copied, removed. Standard library only; runs in a box."""

from __future__ import annotations

import os
import stat

from nightcrew_workspaces import boxd_load, boxd_store
from nightcrew_workspaces.boxd_paths import is_gits_name, opened_folder, shown
from nightcrew_workspaces.boxd_store import Change
from nightcrew_workspaces.boxd_text import Refused

MOST_ENTRIES = 20_000
MOST_BYTES = 2 * 1024 * 1024 * 1024


def look(real: str, path: str) -> None:
    """Refuse a directory that has a repository of git's or something special in it, or is very large."""
    entries = total = 0
    waiting = [real]
    while waiting:
        with os.scandir(waiting.pop()) as found:
            for entry in found:
                entries += 1
                name = f"{path}/{shown(os.path.relpath(entry.path, real))}"
                if is_gits_name(entry.name):
                    raise Refused("forbidden", f"{name} is git's own, which only git changes; leave {path} or use git")
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(entry.path)
                elif not stat.S_ISREG(status.st_mode) and not stat.S_ISLNK(status.st_mode):
                    raise Refused("not_a_file", f"{name} is a pipe, socket or device; use a command for {path}")
                total += status.st_size
                if entries > MOST_ENTRIES or total > MOST_BYTES:
                    most = f"{MOST_ENTRIES} entries or {MOST_BYTES >> 30} GiB"
                    raise Refused("too_large", f"{path} has more than {most}; use a command for it")


def copy(source: str, target: str) -> None:
    """Copy a file, link or directory with its permission bits; nothing of it stays where it cannot be finished."""
    try:
        _copy(source, target)
    except BaseException:
        if os.path.lexists(target):
            folder, name = os.path.split(target)
            with opened_folder(folder) as parent:
                remove(name, parent, recursive=True)
        raise


def remove(name: str, parent: int, *, recursive: bool) -> None:
    """Remove what is called `name` in an open directory; without following links, whatever is swapped meanwhile."""
    if not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
        os.unlink(name, dir_fd=parent)
    elif not recursive:
        os.rmdir(name, dir_fd=parent)
    else:
        import shutil  # noqa: PLC0415 (15 ms at start)

        shutil.rmtree(name, dir_fd=parent)


def _copy(source: str, target: str) -> None:
    status = os.lstat(source)
    mode = stat.S_IMODE(status.st_mode) & 0o777
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(source), target)
    elif stat.S_ISREG(status.st_mode):
        descriptor = boxd_load.open_regular(source)
        try:
            boxd_store.store(Change(target, descriptor, mode))
        finally:
            os.close(descriptor)
    else:
        os.makedirs(target)
        with os.scandir(source) as found:
            names = sorted(entry.name for entry in found)
        for name in names:
            _copy(os.path.join(source, name), os.path.join(target, name))
        os.chmod(target, mode)
