"""The unprivileged account that boxes run as, and what it can reach."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Collection
from pathlib import Path

from nightcrew_workspaces.errors import BoxUnavailable
from nightcrew_workspaces.policy import BoxUser

_CREATE = "Create one (useradd --system --user-group --no-create-home nightcrew) or set `box.user` to another account."


def box_user(name: str | None = None) -> BoxUser:
    """The account for boxes: as root the named one, else `nightcrew`, else `nobody`; otherwise the current user.

    Raises `BoxUnavailable` when there is no such account, or when it is root: for root a box is no boundary.
    """
    if os.geteuid() != 0:
        return _current_user(name)
    for candidate in (name,) if name else ("nightcrew", "nobody"):
        try:
            entry = pwd.getpwnam(candidate)
        except KeyError:
            continue
        if entry.pw_uid == 0 or entry.pw_gid == 0:
            raise BoxUnavailable(f"boxes cannot run as {candidate}, which is root or in root's group", _CREATE)
        return BoxUser(candidate, entry.pw_uid, entry.pw_gid, switch=True)
    wanted = name or "nightcrew or nobody"
    raise BoxUnavailable(f"the service runs as root and there is no account {wanted} to run boxes as", _CREATE)


def _current_user(name: str | None) -> BoxUser:
    uid, gid = os.geteuid(), os.getegid()
    try:
        own = pwd.getpwuid(uid).pw_name
    except KeyError:
        own = str(uid)
    if name not in (None, own):
        remedy = f"Remove `box.user`, or start the service as root or as {name}."
        raise BoxUnavailable(f"boxes cannot run as {name}: the service runs as {own}", remedy)
    return BoxUser(own, uid, gid, switch=False)


def unreachable(path: Path, user: BoxUser, groups: Collection[int] = ()) -> Path | None:
    """The first directory on the way to `path`, or `path` itself, that `user` cannot enter or that is missing.

    `groups` are more groups that the account is in; a box keeps none. None where the permission bits let it through;
    access control lists are not looked at.
    """
    for step in (*reversed(path.parents), path):
        try:
            status = step.stat()
        except OSError:
            return step
        if stat.S_ISDIR(status.st_mode) and not permits(status, 0o1, user.uid, {user.gid, *groups}):
            return step
    return None


def permits(status: os.stat_result, wanted: int, uid: int, groups: Collection[int]) -> bool:
    """Whether the permission bits give an account all of `wanted`: 1 to enter, 2 to write, 4 to read, or a sum."""
    if status.st_uid == uid:
        bits = status.st_mode >> 6
    elif status.st_gid in groups:
        bits = status.st_mode >> 3
    else:
        bits = status.st_mode
    return bits & wanted == wanted
