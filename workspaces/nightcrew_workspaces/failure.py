"""Why a box did not start, told so that a person can do something about it."""

from __future__ import annotations

from pathlib import Path

from nightcrew_workspaces.errors import BoxError, BoxUnavailable
from nightcrew_workspaces.policy import BoxPolicy
from nightcrew_workspaces.user import unreachable

_NAMESPACES = (
    "Allow unprivileged user namespaces: sysctl kernel.unprivileged_userns_clone=1 (Debian), "
    "sysctl kernel.apparmor_restrict_unprivileged_userns=0 or an AppArmor profile for bwrap (Ubuntu), "
    "user.max_user_namespaces above 0; in a container start it with "
    "--security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined."
)
NETWORK_GONE = "the network that this task's commands share is gone; stop its background commands"
_NAMESPACE_WORDS = ("namespace", "uid map", "gid map", "uid_map", "gid_map", "mount proc", "loopback", "RTM_NEWADDR")


def start_failure(policy: BoxPolicy, said: str) -> BoxError | BoxUnavailable:
    """What to raise for a box whose command never began; `said` is what bubblewrap printed."""
    said = " ".join(said.split()) or "bubblewrap ended without a word"
    for source in (*(mount.source for mount in policy.mounts), *policy.read_only):
        if (blocked := unreachable(source, policy.user)) is not None:
            return _blocked(source, blocked, policy.user.name)
    if "nsenter" in said:
        return BoxError(f"{NETWORK_GONE} ({said})")
    if "chdir to" in said:
        return BoxError(f"the command cannot run in {policy.chdir}: there is no such directory")
    if "execvp" in said and "prlimit" in said:
        return BoxUnavailable("/usr/bin/prlimit is not installed", "Install it (Debian: apt-get install util-linux).")
    if any(word in said for word in _NAMESPACE_WORDS):
        return BoxUnavailable(f"bubblewrap cannot confine commands here: {said}", _NAMESPACES)
    return BoxError(f"the box could not be started: {said}")


def _blocked(source: Path, blocked: Path, user: str) -> BoxError | BoxUnavailable:
    if not blocked.exists():
        return BoxError(f"the box could not be started: {blocked} does not exist")
    where = str(source) if source == blocked else f"{source}, because of {blocked}"
    remedy = f"Use a directory that {user} can reach, or let it enter {blocked} (chmod o+x)."
    return BoxUnavailable(f"the box's user {user} cannot reach {where}", remedy)
