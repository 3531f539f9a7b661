"""Disks that are small, or go bad: real ones, mounted for one test."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(path: Path, mib: int) -> Iterator[Path]:
    """A file system of so many MiB at `path`. Skips the test, with the reason, where none may be mounted."""
    path.mkdir(parents=True, exist_ok=True)
    with _mounted(path, "-t", "tmpfs", "-o", f"size={mib}m,mode=0755", "none"):
        yield path


@contextmanager
def read_only(path: Path) -> Iterator[Path]:
    """A directory that is read-only for everybody. Skips like `small_disk`."""
    with _mounted(path, "--bind", str(path)):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(path)], check=True, capture_output=True)
        yield path


@contextmanager
def breaking_disk(path: Path, image: Path, mib: int = 16) -> Iterator[Path]:
    """An ext4 file system on a loop device, to be broken by `break_disk`. Skips like `small_disk`."""
    image.write_bytes(b"")
    os.truncate(image, mib * 1024 * 1024)
    made = subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no ext4 can be made here: {made.stderr.strip()}")
    path.mkdir(parents=True, exist_ok=True)
    with _mounted(path, "-o", "loop,errors=remount-ro", str(image)):
        yield path


@contextmanager
def unsynced_disk(path: Path, image: Path, *, new: bool = True, mib: int = 192) -> Iterator[Path]:
    """An ext4 file system on a loop device that keeps in memory what nobody syncs: a copy of `image` is what a power
    cut leaves. `new` makes it first. Skips like `small_disk`."""
    if new:
        image.write_bytes(b"")
        os.truncate(image, mib * 1024 * 1024)
        made = subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], capture_output=True, text=True, check=False)
        if made.returncode:
            pytest.skip(f"no ext4 can be made here: {made.stderr.strip()}")
    path.mkdir(parents=True, exist_ok=True)
    with _mounted(path, "-o", "loop,commit=600,noauto_da_alloc", str(image)):
        path.chmod(0o755)
        yield path


def break_disk(path: Path) -> None:
    """What the kernel does when a disk fails under an ext4 file system: from now on it is read-only, for open files
    too."""
    subprocess.run(["mount", "-o", "remount,abort", str(path)], check=False, capture_output=True)


def fill(path: Path) -> Path:
    """Write until the disk is full; returns the file to remove."""
    ballast = path / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(_Full), _full():
                while True:
                    file.write(bytes(size))
    return ballast


class _Full(Exception):
    pass


@contextmanager
def _full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise _Full from error


@contextmanager
def _mounted(path: Path, *arguments: str) -> Iterator[None]:
    done = subprocess.run(["mount", *arguments, str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=False, capture_output=True)
