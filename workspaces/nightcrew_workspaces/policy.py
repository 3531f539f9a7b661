"""What a box may see and use, and how bubblewrap is told: pure data, no I/O.

A box shows an allow-list, never the machine's root: pathname sockets (docker, D-Bus, our own) are reachable through
every directory that is bound, even read-only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nightcrew_workspaces.egress_mount import EgressMount

WORKSPACE = "/workspace"
SUPPORT = "/opt/nightcrew"
"""Where a box sees this package's own helper scripts, read-only."""
HOME = "/home/agent"
_UID = 1000
_MIB = 1024 * 1024
_TMP_BYTES = 1024 * _MIB
_BEHIND_GROUP = 64
_SMALL_BYTES = 64 * _MIB
_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_MERGED = (("usr/bin", "/bin"), ("usr/sbin", "/sbin"), ("usr/lib", "/lib"), ("usr/lib64", "/lib64"))
_ETC = (
    *("alternatives", "ca-certificates", "fonts", "host.conf", "ld.so.cache", "ld.so.conf"),
    *("ld.so.conf.d", "localtime", "maven", "mime.types", "os-release", "perl", "protocols", "services"),
    *("ssl/certs", "ssl/openssl.cnf"),
    *("java-11-openjdk", "java-17-openjdk", "java-21-openjdk", "java-25-openjdk"),
)
_NEVER_SHOWN = frozenset(
    f"/{name}" for name in ("", "dev", "etc", "home", "opt", "proc", "root", "run", "sys", "tmp", "var", "var/run")
)
_OURS = ("/bin", "/dev", "/etc", "/lib", "/lib64", "/opt/nightcrew", "/proc", "/sbin", "/usr")

TAG = "nightcrew-box"
"""An argument of every box's processes, by which they are known outside."""

# bubblewrap asks to die with its parent without looking whether that is still alive, so a box whose service is killed
# while it is being made would run on unwatched (13 of 50 kills within the first 30 ms). The command therefore waits
# until bubblewrap's init has asked, which it does right before it takes on the filter, and then proves by a byte on a
# pipe that the service still reads. From there on every link of the chain is bound to the one before.
_GATE = """\
until while read -r __name __value; do test "$__name" = Seccomp: && break; done </proc/1/status && test "$__value" = 2
do :
done
printf '\\006' >&2 || exit 125
exec "$@"
"""

_GITCONFIG = """\
[user]
\tname = Nightcrew
\temail = nightcrew@localhost
[safe]
\tdirectory = *
[init]
\tdefaultBranch = main
[core]
\tfsync = none
[gc]
\tauto = 0
[maintenance]
\tauto = false
[advice]
\tdetachedHead = false
"""
_PASSWD = f"""\
root:x:0:0:root:/root:/usr/sbin/nologin
agent:x:{_UID}:{_UID}:agent:{HOME}:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
_ETC_FILES = {
    "/etc/gitconfig": _GITCONFIG,
    "/etc/group": f"root:x:0:\nagent:x:{_UID}:\nnogroup:x:65534:\n",
    "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "/etc/passwd": _PASSWD,
    "/etc/resolv.conf": "",
}


@dataclass(frozen=True)
class BoxUser:
    """The unprivileged account a box is started as. `switch`: the service is root and has to change to it."""

    name: str
    uid: int
    gid: int
    switch: bool


@dataclass(frozen=True)
class Mount:
    """A directory or file of the machine that a box sees at `target`, an absolute path in the box."""

    source: Path
    target: str
    writable: bool = False

    def __post_init__(self) -> None:
        if not self.source.is_absolute():
            raise ValueError(f"mount source {self.source}: not an absolute path")
        if not _is_plain(self.target) or any(_is_under(self.target, ours) for ours in (*_OURS, HOME)):
            raise ValueError(f"mount target {self.target!r}: must be an absolute path outside the system's directories")


@dataclass(frozen=True)
class Limits:
    """What one command may use. Sizes in MiB are 1024 * 1024 bytes."""

    seconds: float = 600
    """Wall-clock time."""
    memory_mib: int = 4096
    """Resident memory of all its processes together, shared pages counted once."""
    processes: int = 512
    """Processes and threads at the same time."""
    cpus: float | None = None
    """How many CPUs they may keep busy at the same time; all when None. Held only where a control group can be made."""
    cpu_seconds: float = 6 * 3600
    """CPU time of all its processes together."""
    file_mib: int = 2048
    """Largest size of one file."""
    workspace_mib: int | None = 16 * 1024
    """What all its writable mounts and its home may hold together; not looked at when None."""
    workspace_files: int = 1_000_000
    output_bytes: int = 64 * 1024
    """How much output is kept, half of it from the beginning and half from the end."""
    flood_mib: int = 64
    """A command that writes more output than this is stopped."""
    open_files: int = 4096


@dataclass(frozen=True, kw_only=True)
class BoxPolicy:
    """Everything about a box but the command. Raises `ValueError` where a part contradicts confinement."""

    user: BoxUser
    mounts: tuple[Mount, ...]
    read_only: tuple[Path, ...] = ()
    """More of the machine, at the same path: toolchains, virtual environments."""
    path: tuple[str, ...] = ()
    """Directories in the box that go before the standard PATH."""
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    """Path in the box to content, shown read-only. For what the box's user could not reach on the machine."""
    limits: Limits = Limits()
    chdir: str = WORKSPACE
    home: Path | None = None
    """What is HOME in the box; memory that is gone with each command when None."""
    network: EgressMount | None = None
    """The way out, when there is one: nothing else leads out of a box."""
    joins: int | None = None
    """Process whose network the command has, see `loopback`; None for a network of its own."""

    def __post_init__(self) -> None:
        for path in self.read_only:
            if not path.is_absolute() or os.path.normpath(path) in _NEVER_SHOWN:
                raise ValueError(f"read-only path {path}: name an absolute directory below it instead")
        for target in self.files:
            if not _is_plain(target) or not _is_under(target, "/opt"):
                raise ValueError(f"file {target!r}: must be an absolute path below /opt")
        for name in self.env:
            if not name or "=" in name:
                raise ValueError(f"environment variable {name!r}: not a name")


def box_files(policy: BoxPolicy) -> dict[str, bytes]:
    """Path in the box to content of every file that is made for it, sorted by path."""
    made = {path: text.encode() for path, text in _ETC_FILES.items()}
    return dict(sorted({**made, **policy.files}.items()))


def box_environment(policy: BoxPolicy) -> dict[str, str]:
    """The whole environment of a command, sorted by name; the policy's own values win.

    Only `MAVEN_OPTS` takes up both: it is a list of options, where the cache and the way out each have theirs.
    """
    standard = {
        "GIT_PAGER": "cat",
        "GIT_TERMINAL_PROMPT": "0",
        "HOME": HOME,
        "LANG": "C.UTF-8",
        "LOGNAME": "agent",
        "PAGER": "cat",
        "PATH": ":".join((*policy.path, *_PATH)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TERM": "dumb",
        "USER": "agent",
    }
    network = policy.network.environment() if policy.network is not None else {}
    values = {**standard, **network, **policy.env}
    if (maven := network.get("MAVEN_OPTS")) and "MAVEN_OPTS" in policy.env:
        values["MAVEN_OPTS"] = f"{maven} {policy.env['MAVEN_OPTS']}"
    return dict(sorted(values.items()))


def bwrap_arguments(policy: BoxPolicy, *, seccomp_fd: int, status_fd: int, file_fds: Mapping[str, int]) -> list[str]:
    """Options for bubblewrap, as they go through `--args`; `file_fds` has a descriptor per path of `box_files`.

    Raises `ValueError` for a NUL character: in the list that `--args` reads it would begin a new option.
    """
    arguments = [
        *("--unshare-user", "--unshare-ipc", "--unshare-pid"),
        *(("--unshare-net",) if policy.joins is None else ()),
        *("--unshare-uts", "--unshare-cgroup-try", "--disable-userns", "--die-with-parent", "--new-session"),
        *("--cap-drop", "ALL", "--uid", str(_UID), "--gid", str(_UID), "--clearenv"),
        *_system_arguments(file_fds),
        *(() if policy.home is None else ("--bind", str(policy.home), HOME)),
        *_mount_arguments(policy),
        *(policy.network.arguments() if policy.network is not None else ()),
    ]
    for name, value in box_environment(policy).items():
        arguments += ["--setenv", name, value]
    # bubblewrap leaves /dev writable: memory that no limit counts.
    arguments += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", policy.chdir]
    arguments += ["--seccomp", str(seccomp_fd), "--json-status-fd", str(status_fd)]
    for argument in arguments:
        if "\0" in argument:
            raise ValueError(f"{argument!r}: a NUL character has no place in a box's policy")
    return arguments


def resource_limits(limits: Limits, *, grouped: bool = False) -> dict[str, int]:
    """Name of a `prlimit` option to its value; the kernel counts processes per box.

    `grouped`: a control group counts them too, and it is to be the first to refuse one, since it tells of it.
    """
    return {
        "nproc": limits.processes + (_BEHIND_GROUP if grouped else 0),
        "fsize": limits.file_mib * _MIB,
        "nofile": limits.open_files,
        "core": 0,
    }


def inner_command(resources: Mapping[str, int], argv: Sequence[str]) -> list[str]:
    """The command as it is run inside: limits are set there, where they count for this box alone, and the gate kept.

    The gate writes one byte (ACK, 6) to standard error, which has to be a pipe that only the service reads.
    """
    limits = (f"--{name}={value}" for name, value in resources.items())
    return ["/usr/bin/prlimit", *limits, "--", "/bin/sh", "-c", _GATE, TAG, *argv]


def _system_arguments(file_fds: Mapping[str, int]) -> list[str]:
    arguments = ["--ro-bind", "/usr", "/usr"]
    for target, link in _MERGED:
        arguments += ["--symlink", target, link]
    for name in _ETC:
        arguments += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    for path, fd in file_fds.items():
        arguments += ["--perms", "0444", "--file", str(fd), path]
    arguments += ["--proc", "/proc", "--dev", "/dev"]
    arguments += ["--size", str(_TMP_BYTES), "--perms", "1777", "--tmpfs", "/tmp"]  # noqa: S108 (the box's own)
    arguments += ["--size", str(_SMALL_BYTES), "--perms", "1777", "--tmpfs", "/dev/shm"]  # noqa: S108
    arguments += ["--size", str(_SMALL_BYTES), "--perms", "0700", "--tmpfs", HOME]
    return [*arguments, "--dir", "/run", "--symlink", "/tmp", "/var/tmp"]  # noqa: S108


def _mount_arguments(policy: BoxPolicy) -> list[str]:
    arguments: list[str] = []
    for path in policy.read_only:
        if not _is_under(str(path), "/usr"):
            arguments += ["--ro-bind", str(path), str(path)]
    for mount in policy.mounts:
        arguments += ["--bind" if mount.writable else "--ro-bind", str(mount.source), mount.target]
    return arguments


def _is_plain(path: str) -> bool:
    return path.startswith("/") and path != "/" and os.path.normpath(path) == path and not path.startswith("//")


def _is_under(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory}/")
