"""What the configuration and this machine give to boxes."""

from __future__ import annotations

from nightcrew.config import BoxSettings, environment
from nightcrew_workspaces.policy import BoxUser, Limits
from nightcrew_workspaces.toolchains import Toolchains, find_toolchains


def box_limits(box: BoxSettings, *, own_files: bool = False) -> Limits:
    """Of one command. `own_files`: it works in a person's own directories, whose size is not for us to judge."""
    return Limits(
        seconds=box.command_seconds,
        memory_mib=box.memory_mib,
        processes=box.processes,
        cpus=box.cpus,
        cpu_seconds=box.cpu_seconds,
        file_mib=box.file_mib,
        workspace_mib=None if own_files else box.workspace_mib,
        workspace_files=box.workspace_files,
    )


def toolchains(box: BoxSettings, user: BoxUser) -> Toolchains:
    """What boxes of this user are shown of this machine's toolchains. Looks at the disk."""
    return find_toolchains(environment(), user) if box.toolchains else Toolchains()
