"""An inbox that is not this account's and this machine's alone: network file systems, and a group that drops files."""

from __future__ import annotations

import grp
import os
import re
import stat
from pathlib import Path
from typing import Literal

from nightcrew.config import Config
from nightcrew.errors import JournalError
from nightcrew_workspaces.user import permits

DROP_MODE = 0o3770
"""Owner and group may write, new files get the group, and members cannot take away each other's (nor our own)."""
READ_MODE = 0o2750

_REMOTE = re.compile(
    r"(?:nfs4?|cifs|smb\w*|9p|afs|ceph|glusterfs|lustre|beegfs|gpfs|ocfs2|gfs2|virtiofs|vboxsf|davfs|fuse\b.*|fuseblk)"
)
"""What others write to without this machine's kernel telling: the names in `/proc/self/mountinfo`."""


def trusts_events(inbox: Path, watch: Literal["auto", "events", "poll"]) -> tuple[bool, str]:
    """Whether the kernel's events are listened to, and a sentence when they are not although nobody said so."""
    if watch != "auto":
        return watch == "events", ""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True, ""
    kind = file_system(inbox.resolve(), mounts)
    if _REMOTE.fullmatch(kind) is None:
        return True, ""
    return False, f"the inbox is on a {kind} file system, so it is looked at every second and no events are awaited"


def file_system(path: Path, mounts: str) -> str:
    """The type of the file system that a path is on, by the text of `/proc/self/mountinfo`; empty when unknown. Pure.

    proc(5): the fifth field is the mount point, spaces in it as `\\040`; the type follows a field `-`.
    """
    best, kind = -1, ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 7 or "-" not in fields[6:]:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4]))
        if path.is_relative_to(point) and len(point.parts) >= best:  # a later mount covers an earlier one
            best, kind = len(point.parts), fields[fields.index("-", 6) + 1]
    return kind


def open_to_group(name: str, config: Config) -> list[str]:
    """Let a group drop files into the inbox and read results and reports; returns what is left to be done by hand.

    Raises `JournalError` when there is no such group, or when the modes are wrong and cannot be set from here.
    """
    try:
        group = grp.getgrnam(name).gr_gid
    except KeyError:
        raise JournalError(
            f"inbox.group: there is no group {name!r}; make it (groupadd {name}) or name another"
        ) from None
    _open(config.inbox, group, name, DROP_MODE, least=0o2070)
    for folder in (config.outbox, config.rejected):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _open(folder, group, name, READ_MODE, least=0o0050)
    closed = [step for step in config.inbox.parents if not permits(step.stat(), 0o1, -1, {group})]
    return [
        f"members of {name} cannot reach {config.inbox}: {step} is closed to them; "
        f"chgrp {name} {step} && chmod g+x {step}"
        for step in closed
    ]


def _open(folder: Path, group: int, name: str, mode: int, *, least: int) -> None:
    status = folder.stat()
    if status.st_gid == group and stat.S_IMODE(status.st_mode) & least == least:
        return
    try:
        os.chown(folder, -1, group)
        folder.chmod(mode)
    except OSError as error:
        raise JournalError(
            f"{folder} is not open to the group {name} ({error.strerror}): as its owner or root, "
            f"chgrp {name} {folder} && chmod {mode:o} {folder}"
        ) from error
