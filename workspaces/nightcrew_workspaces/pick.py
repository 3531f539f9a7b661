"""Decides which changes of a worktree a checkpoint takes. Runs INSIDE a box, so it uses the standard library alone.

    python3 -I -S pick.py MAX_BYTES TAKE GONE < CHANGES

CHANGES is what `git ls-files -z -t --others --modified --exclude-standard` says. Paths that `git update-index` can look
at are written to the file TAKE, those that it has to forget to GONE, NUL after each. What is left out is said on
standard output: `left`, the size in bytes, the name in hexadecimal.

A new directory that is a git repository of its own is taken as plain files without its `.git`: git would record only
its commit, and the work in it would be lost.
"""

# pathlib takes long to import:
# ruff: noqa: PTH109, PTH118, PTH119, PTH120, PTH123

from __future__ import annotations

import os
import re
import stat
import sys

LEFTOVER = re.compile(rb"\.nightcrew-\d+-\d+\.tmp")
"""What a file helper leaves that is killed just before a new content takes its place; see `boxd_store`."""


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
        status = look(path)
        if tag == b"?":
            if not LEFTOVER.fullmatch(os.path.basename(path)) and status is not None and taken(path, status, limit):
                take.append(path)
        elif status is None:
            gone.append(path)
        elif stat.S_ISDIR(status.st_mode):
            if not os.path.lexists(path + b"/.git"):  # else a submodule, which stays what it was
                gone.append(path)
        elif not stat.S_ISREG(status.st_mode) and not stat.S_ISLNK(status.st_mode):
            gone.append(path)
        elif taken(path, status, None):
            take.append(path)
    for name, paths in zip(arguments[1:], (take, gone), strict=True):
        with open(name, "wb") as file:
            file.write(b"".join(path + b"\0" for path in paths))


def look(path: bytes) -> os.stat_result | None:
    """The status of what really is at a path; None where nothing is, or a link has taken the place of a directory."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    folder = os.path.dirname(path)
    return status if not folder or os.path.realpath(folder) == os.path.join(os.getcwdb(), folder) else None


def taken(path: bytes, status: os.stat_result, limit: int | None) -> bool:
    """Whether a file can be taken; says so where not. `limit` is in bytes."""
    if stat.S_ISLNK(status.st_mode):
        return True
    if not stat.S_ISREG(status.st_mode):
        return False
    if (limit is None or status.st_size <= limit) and os.access(path, os.R_OK):
        return True
    print("left", status.st_size, path.hex())  # noqa: T201 (its output is its answer)
    return False


def inside(folder: bytes) -> list[bytes]:
    """The files of a repository within the repository, its own ignore rules respected."""
    import subprocess  # noqa: PLC0415 (seldom needed, long to import)

    environment = {**os.environ, "GIT_WORK_TREE": ".", "GIT_INDEX_FILE": "/nonexistent"}
    command = ["git", "ls-files", "-z", "--others", "--exclude-standard"]
    found = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, check=False).stdout
    return [b"? " + folder + path for path in found.split(b"\0")[:-1]]


if __name__ == "__main__":
    main(sys.argv[1:])
