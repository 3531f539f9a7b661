"""A box's own control group, where a cgroup v2 subtree is delegated to this service: file work below one mount.

A subtree is ours when systemd says so (`Delegate=yes`, which it marks with an extended attribute), or when this process
is at the top of what it can see and may write there: a container of its own. Below it are made:

    nightcrew-service     this process and what was beside it: a group with children may hold no process itself
    nightcrew-boxes       one group for each box, with its limits; gone with the box
"""

from __future__ import annotations

import errno
import itertools
import os
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from nightcrew_workspaces.policy import Limits

SERVICE = "nightcrew-service"
BOXES = "nightcrew-boxes"

_NEEDED = ("memory", "pids")
_WANTED = (*_NEEDED, "cpu")
_MIB = 1024 * 1024
_PERIOD = 100_000  # microseconds, the kernel's own default
_MARKS = ("user.delegate", "trusted.delegate")
_ROUNDS = 20  # of moving processes away, while they make new ones

_UNIT = (
    "Start it as a systemd unit with Delegate=yes, or with `systemd-run --user --scope -p Delegate=yes nightcrew …`."
)
_CONTAINER = "Start the container with its own cgroup namespace (--cgroupns=private) and /sys/fs/cgroup writable."
_numbers = itertools.count()


class Undelegated(Exception):
    """No group can be made for boxes; says why, and what would change that."""

    def __init__(self, why: str, remedy: str) -> None:
        self.why = why
        self.remedy = remedy
        super().__init__(f"{why}. {remedy}")


class Group:
    """The control group of one box. Its directory is gone after `close`, its last counts stay."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.out_of_memory = False
        """Whether the kernel killed the box for its memory; known after `close`."""
        self.forks_refused = False
        """Whether a process or thread could not be started for their number; known after `close`."""

    def add(self, pid: int) -> None:
        """Take in a process; what it starts from now on is in the group too. Raises `OSError`."""
        _write(self.path / "cgroup.procs", str(pid))

    def kill(self) -> None:
        """Kill everything in the group at once: a process that forks meanwhile is killed with its child."""
        with suppress(OSError):  # before Linux 5.14 there is no such file, and the box is killed by its init
            _write(self.path / "cgroup.kill", "1")

    def cpu_seconds(self) -> float:
        """CPU time of all processes that are or were in the group."""
        return _counts(self.path / "cpu.stat").get("usage_usec", 0) / 1e6

    def close(self) -> bool:
        """Take the last counts and remove the group; False when something in it has not quite ended."""
        if self.path.exists():
            self.out_of_memory = _counts(self.path / "memory.events").get("oom_kill", 0) > 0
            self.forks_refused = _counts(self.path / "pids.events").get("max", 0) > 0
        try:
            self.path.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True


@dataclass(frozen=True)
class Groups:
    """Where groups for boxes are made."""

    folder: Path

    def make(self, limits: Limits) -> Group:
        """A new, empty group with these limits. Raises `OSError`."""
        path = self.folder / f"{os.getpid()}.{_start_time(os.getpid())}-{next(_numbers)}"
        path.mkdir()
        try:
            for name, value in group_settings(limits).items():
                if name in _OPTIONAL and not (path / name).exists():
                    continue
                _write(path / name, value)
        except OSError:
            path.rmdir()
            raise
        return Group(path)

    def sweep(self) -> int:
        """Kill and remove the groups of services that are gone; the number of them."""
        swept = 0
        for path in self.folder.glob("*.*-*"):
            pid, _, began = path.name.partition("-")[0].partition(".")
            if path.is_dir() and _start_time(int(pid) if pid.isdigit() else 0) != began:
                group = Group(path)
                group.kill()
                swept += group.close()
        return swept


_OPTIONAL = frozenset(("memory.swap.max", "cpu.max"))  # no swap accounting; no cpu controller


def group_settings(limits: Limits) -> dict[str, str]:
    """File of a control group to its content. Pure."""
    cpu = "max" if limits.cpus is None else str(max(1000, round(limits.cpus * _PERIOD)))
    return {
        "memory.max": str(limits.memory_mib * _MIB),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": str(limits.processes + 1),  # bubblewrap itself, outside, is the one
        "cpu.max": f"{cpu} {_PERIOD}",
    }


@lru_cache(maxsize=1)
def available() -> Groups | Undelegated:
    """Where groups are made on this machine, prepared at the first call of a process; or why there are none."""
    try:
        groups = prepare(find())
    except Undelegated as why:
        return why
    groups.sweep()
    return groups


def find(root: Path = Path("/")) -> Path:
    """The group that is delegated to this process; `root` stands for the machine's. Raises `Undelegated`."""
    own, is_top = _own_group(root)
    base = own.parent if own.name == SERVICE else own
    try:
        controllers = (base / "cgroup.controllers").read_text(encoding="ascii").split()
    except OSError as error:
        raise Undelegated(f"{base} cannot be read: {error.strerror}", _CONTAINER) from error
    if lacking := [name for name in _NEEDED if name not in controllers]:
        why = f"cgroup v2 has no controller for {' and '.join(lacking)} in {base}"
        remedy = "Boot with systemd.unified_cgroup_hierarchy=1 where cgroup v1 holds them; in a unit say Delegate=yes."
        raise Undelegated(why, remedy)
    if not (is_top or own.name == SERVICE or _is_marked(base)):
        raise Undelegated(f"the control group {base} is not delegated to this process", _UNIT)
    for path in (base, base / "cgroup.procs", base / "cgroup.subtree_control"):
        if not os.access(path, os.W_OK):
            raise Undelegated(f"{path} cannot be written", _CONTAINER if is_top else _UNIT)
    return base


def prepare(base: Path) -> Groups:
    """Make room for boxes below a delegated group. Safe where several processes do it. Raises `Undelegated`."""
    boxes = base / BOXES
    try:
        _enable(base)
        boxes.mkdir(exist_ok=True)
        _enable(boxes)
    except OSError as error:
        raise Undelegated(f"no groups can be made below {base}: {error}", _UNIT) from error
    return Groups(boxes)


def _own_group(root: Path) -> tuple[Path, bool]:
    """The directory of this process's group, and whether it is the top of what is mounted."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        mounts = (root / "proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise Undelegated(f"/proc/self cannot be read: {error.strerror}", _CONTAINER) from error
    path = next((line[3:] for line in lines if line.startswith("0::")), None)
    mounted = next((found for line in mounts if (found := _mounted(line))), None)
    if path is None or mounted is None:
        raise Undelegated("cgroup v2 is not mounted", "Mount it at /sys/fs/cgroup, or boot with systemd.")
    within, point = mounted
    if not (path == within or path.startswith(f"{within.rstrip('/')}/")) or ".." in path.split("/"):
        raise Undelegated(f"the control group {path} lies outside of what is mounted at {point}", _CONTAINER)
    below = path[len(within.rstrip("/")) :].strip("/")
    return root / point.lstrip("/") / below, not below


def _mounted(line: str) -> tuple[str, str] | None:
    """Of a line of mountinfo for cgroup v2: which of its directories is mounted, and where."""
    fields, _, rest = line.partition(" - ")
    if rest.split(" ", 1)[0] != "cgroup2":
        return None
    parts = fields.split(" ")
    return parts[3], parts[4]


def _is_marked(base: Path) -> bool:
    for mark in _MARKS:
        with suppress(OSError):
            if os.getxattr(base, mark) == b"1":
                return True
    return False


def _enable(group: Path) -> None:
    """Hand the controllers on to a group's children, and make it empty of processes where it has to be."""
    control = group / "cgroup.subtree_control"
    has = (group / "cgroup.controllers").read_text(encoding="ascii").split()
    for _ in range(_ROUNDS):
        missing = set(has).intersection(_WANTED).difference(control.read_text(encoding="ascii").split())
        if not missing:
            return
        try:
            _write(control, " ".join(f"+{name}" for name in sorted(missing)))
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            _move_away(group)
    raise OSError(errno.EBUSY, "processes stay in the group", str(group))


def _move_away(group: Path) -> None:
    leaf = group / SERVICE
    leaf.mkdir(exist_ok=True)
    for pid in (group / "cgroup.procs").read_text(encoding="ascii").split():
        with suppress(ProcessLookupError):  # it has ended
            _write(leaf / "cgroup.procs", pid)


def _start_time(pid: int) -> str:
    """When a process began, in ticks since the boot; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _counts(path: Path) -> dict[str, int]:
    """A flat file of names and numbers; empty when it is not there."""
    try:
        pairs = (line.split() for line in path.read_text(encoding="ascii").splitlines())
        return {name: int(value) for name, value in pairs}
    except (OSError, ValueError):
        return {}


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode("ascii"))
    finally:
        os.close(fd)
