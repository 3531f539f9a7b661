"""Writing what people and programs look for: whole or not at all, also after a crash."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the file, flush to disk, rename over it: a reader sees the old file or the new one.

    A file that has this content already is left alone. The name is durable only after `sync_folder`. Raises `OSError`.
    """
    try:
        if path.read_bytes() == content:
            return
    except FileNotFoundError:
        pass
    handle, temporary = tempfile.mkstemp(prefix=f".{os.getpid()}-", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def sweep(folder: Path) -> None:
    """Remove the half-written files of processes that were killed over them."""
    for path in folder.glob(".*-*.tmp"):
        process = path.name[1:].partition("-")[0]
        if process.isdigit() and not Path("/proc", process).exists():
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable; one that is gone has none."""
    with contextlib.suppress(FileNotFoundError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
