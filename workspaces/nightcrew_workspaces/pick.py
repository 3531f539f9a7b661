"""Decides which changes of a worktree a checkpoint takes. Runs INSIDE a box, so it uses the standard library alone.

    python3 -I -S pick.py MAX_BYTES TAKE GONE < CHANGES

CHANGES is what `git ls-files -z -t --others --modified --exclude-standard` says. Paths that `git update-index` can look
at are written to the file TAKE, those that it has to forget to GONE, NUL after each. What is left out is said on
standard output: `left`, the size in bytes, the name in hexadecimal. With very many paths there is a file TAKE.many too.

A new directory that is a git repository of its own is taken as plain files without its `.git`: git would record only
its commit, and the work in it would be lost.
"""

# pathlib takes long to import:
# ruff: noqa: PTH109, PTH118, PTH119, PTH120, PTH123

from __future__ import annotations

import functools
import os
import re
import stat
import sys

LEFTOVER = re.compile(rb"\.nightcrew-\d+-\d+\.tmp")
"""What a file helper leaves that is killed just before a new content takes its place; see `boxd_store`."""
MANY = 200
"""From so many files on, one flush of the whole file system is cheaper than one for each."""


def main(arguments: list[str]) -> None:
    limit = int(arguments[0])
    changes = sys.stdin.buffer.read().split(b"\0")[:-1]
    take: list[bytes] = []
    gone: list[bytes] = []
    for change in changes:  # grows while it is read: repositories may lie in repositories
        tag, path = change[:1], change[2:]
        if path.endswith(b"/"):
            changes += inside(path)
            continue
        try:
            status = look(path)
        except PermissionError:  # a directory that may not be entered: nobody knows, so nothing is gone
            left_out(0, path)
            continue
        if tag == b"?":
            if status is not None and taken(path, status, limit):
                take.append(path)
        elif status is None or is_gone(path, status):
            gone.append(path)
        elif (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)) and taken(path, status, None):
            take.append(path)
    for name, paths in zip(arguments[1:], (take, gone), strict=True):
        with open(name, "wb") as file:
            file.write(b"".join(path + b"\0" for path in paths))
    if len(take) > MANY:
        open(f"{arguments[1]}.many", "wb").close()


def is_gone(path: bytes, status: os.stat_result) -> bool:
    """Whether something stands in a tracked file's place that git does not track. A submodule stays what it was."""
    if stat.S_ISDIR(status.st_mode):
        return not os.path.lexists(path + b"/.git")
    return not stat.S_ISREG(status.st_mode) and not stat.S_ISLNK(status.st_mode)


def look(path: bytes) -> os.stat_result | None:
    """The status of what really is at a path; None where nothing is, or a link has taken the place of a directory.

    Raises `PermissionError` where that cannot be told.
    """
    try:
        status = os.lstat(path)
    except PermissionError:
        raise
    except OSError:
        return None
    folder = os.path.dirname(path)
    return status if not folder or is_real(folder) else None


@functools.cache
def is_real(folder: bytes) -> bool:
    """Whether no link leads to a directory."""
    return os.path.realpath(folder) == os.path.join(os.getcwdb(), folder)


def taken(path: bytes, status: os.stat_result, limit: int | None) -> bool:
    """Whether a file can be taken; says so where not. `limit` is in bytes."""
    if stat.S_ISLNK(status.st_mode):
        return True
    if not stat.S_ISREG(status.st_mode) or (limit is not None and LEFTOVER.fullmatch(os.path.basename(path))):
        return False
    if (limit is None or status.st_size <= limit) and os.access(path, os.R_OK):
        return True
    left_out(status.st_size, path)
    return False


def left_out(size: int, path: bytes) -> None:
    print("left", size, path.hex())  # noqa: T201 (its output is its answer)


def inside(folder: bytes) -> list[bytes]:
    """The files of a repository within the repository, its own ignore rules respected."""
    import subprocess  # noqa: PLC0415 (seldom needed, long to import)

    environment = {**os.environ, "GIT_WORK_TREE": ".", "GIT_INDEX_FILE": "/nonexistent"}
    command = ["git", "ls-files", "-z", "--others", "--exclude-standard"]
    found = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, check=False).stdout
    return [b"? " + folder + path for path in found.split(b"\0")[:-1]]


if __name__ == "__main__":
    main(sys.argv[1:])
