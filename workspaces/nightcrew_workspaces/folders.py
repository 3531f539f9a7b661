"""Directories of which a box may see parts: made with explicit modes, removed whatever a box left in them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from nightcrew_workspaces.policy import BoxUser


def make_folder(path: Path, mode: int = 0o755) -> None:
    """Make a directory with this mode, whatever the service's umask is."""
    path.mkdir(exist_ok=True)
    path.chmod(mode)


def make_root(root: Path, user: BoxUser) -> None:
    """Make the directory of all workspaces: the boxes' user may pass through it, and nobody else of this machine."""
    if root.is_dir():
        return
    for parent in reversed(root.parents):
        if not parent.exists():
            make_folder(parent, 0o755 if user.switch else 0o700)
    make_folder(root, 0o700)
    if user.switch:
        os.chown(root, -1, user.gid)
        root.chmod(0o710)


def give_to(path: Path, owner: BoxUser | None, *, below: bool = True) -> None:
    """Make `owner` the owner of what the service has just made; nothing where the service is that account."""
    if owner is None or not owner.switch:
        return
    os.chown(path, owner.uid, owner.gid, follow_symlinks=False)
    for folder, folders, files in os.walk(path) if below else ():
        for name in (*folders, *files):
            os.chown(Path(folder, name), owner.uid, owner.gid, follow_symlinks=False)


def copy_readable(source: Path, target: Path) -> None:
    """Copy a directory of plain files of ours to where boxes may read it, whatever the service's umask is."""
    make_folder(target)
    for entry in sorted(source.iterdir()):
        copy = target / entry.name
        if entry.is_dir():
            copy_readable(entry, copy)
        else:
            shutil.copyfile(entry, copy)
            copy.chmod(0o644)


def remove_tree(path: Path) -> None:
    """Remove a directory that a box wrote to: without following links, and whatever modes it left."""
    if os.geteuid() != 0:
        for folder, folders, _ in os.walk(path):
            for name in folders:
                inner = Path(folder, name)
                with contextlib.suppress(OSError):
                    if not inner.is_symlink() and not os.access(inner, os.R_OK | os.W_OK | os.X_OK):
                        inner.chmod(stat.S_IRWXU)
    shutil.rmtree(path, ignore_errors=True)


def sync_file_system(path: Path) -> None:
    """Bring everything that was written to the file system of this directory onto the disk: syncfs(2), one call for
    the thousands of files that git leaves unsynced. Raises `OSError`."""
    library = ctypes.CDLL(None, use_errno=True)
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if library.syncfs(handle) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Have the names in a directory on the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True)
class Size:
    """What a directory takes up."""

    path: Path
    bytes: int
    """On the disk, as far as removing the directory frees them: what is linked from elsewhere too counts nothing."""
    changed_at: float
    """When the directory itself was changed last, in seconds since 1970."""

    @classmethod
    def of(cls, path: Path) -> Size:
        """Measure a directory; all zero where it is gone. Links are not followed."""
        try:
            changed = path.lstat().st_mtime
        except FileNotFoundError:
            return cls(path, 0, 0.0)
        blocks = 0
        shared: dict[tuple[int, int], int] = {}
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                with contextlib.suppress(OSError):
                    status = os.lstat(f"{folder}/{name}")
                    if stat.S_ISDIR(status.st_mode) or status.st_nlink == 1:
                        blocks += status.st_blocks
                        continue
                    key = (status.st_dev, status.st_ino)
                    shared[key] = shared.get(key, 0) + 1
                    if shared[key] == status.st_nlink:
                        blocks += status.st_blocks
        return cls(path, blocks * 512, changed)
