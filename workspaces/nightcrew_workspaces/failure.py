"""Why a box did not start, told so that a person can do something about it."""

from __future__ import annotations

import re
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
_NEWER = "Install bubblewrap 0.8 or newer (Debian 12 and Ubuntu 24.04 have it: apt-get install bubblewrap)."
_NO_LIMITS = "Raise the service's own limits: LimitNPROC= and TasksMax= of its unit, `ulimit -u`, --pids-limit."

_REFUSALS: tuple[tuple[str, str, str], ...] = (
    # what is said, what it means, what to do; the first that is found counts
    (r"execvp \S*prlimit", "/usr/bin/prlimit is not installed", "Install it (Debian: apt-get install util-linux)."),
    (r"[Uu]nknown option|unrecognized option", "bubblewrap here is too old", _NEWER),
    (
        r"PR_SET_SECCOMP|system call filtering",
        "this kernel has no system call filters",
        "Use one with CONFIG_SECCOMP_FILTER.",
    ),
    (
        r"setpriv: .*(?:set(?:res)?[ug]id|setgroups|[ug]id failed|groups failed|capabilit)",
        "the service may not change to the boxes' user",
        "Leave it CAP_SETUID and CAP_SETGID, or start it as an unprivileged user.",
    ),
    (r"setpriv: failed to execute", "the boxes' user may not run bubblewrap", "chmod 755 the program it names."),
    (
        r"pivot_root|make / slave",
        "bubblewrap cannot set up a root file system of its own",
        "Start the service where / is a mount point (not in a chroot or initramfs) and mounting is allowed; "
        + _NAMESPACES,
    ),
    (
        r"[Rr]esource temporarily unavailable|[Cc]annot fork|\bfork\b",
        "this machine lets the boxes' user start no more processes",
        _NO_LIMITS,
    ),
    (
        r"[Nn]o space left on device",
        "this machine allows no more namespaces",
        "Raise user.max_user_namespaces (sysctl).",
    ),
    (
        r"max_user_namespaces",
        "namespaces cannot be closed inside of a box",
        "Leave /proc/sys writable for bubblewrap: without ProtectKernelTunables= in a unit, and in a container with "
        "--security-opt systempaths=unconfined.",
    ),
    (
        r"namespace|[ug]id[ _]map|mount proc|loopback|RTM_NEWADDR",
        "bubblewrap cannot confine commands here",
        _NAMESPACES,
    ),
)


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
    for pattern, why, remedy in _REFUSALS:
        if re.search(pattern, said):
            return BoxUnavailable(f"{why}: {said[:500]}", remedy)
    return BoxError(f"the box could not be started: {said}")


def _blocked(source: Path, blocked: Path, user: str) -> BoxError | BoxUnavailable:
    if not blocked.exists():
        return BoxError(f"the box could not be started: {blocked} does not exist")
    where = str(source) if source == blocked else f"{source}, because of {blocked}"
    remedy = f"Use a directory that {user} can reach, or let it enter {blocked} (chmod o+x)."
    return BoxUnavailable(f"the box's user {user} cannot reach {where}", remedy)
