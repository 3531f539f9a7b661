"""A real systemd as process 1 of its own namespaces, to boot units in: nothing of the machine's own is touched.

It sees the machine's /usr, and copies of /etc and /var that are gone afterwards; it has a network of its own, without a
way out, and a control group tree of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SYSTEMD = Path("/lib/systemd/systemd")
PROGRAM = "/opt/nightcrew/bin/nightcrew"
"""The command under test, as the machine inside knows it."""
PYTHON = "/opt/python/bin/python3"

_UNITS = "/run/nested-units"
_INIT = """
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /mnt
for each in etc var opt srv; do
  mkdir -p /mnt/$each/upper /mnt/$each/work
  mount -t overlay -o lowerdir=/$each,upperdir=/mnt/$each/upper,workdir=/mnt/$each/work overlay /$each
done
mkdir -p /opt/python /opt/checkout
mount --bind "$BASE" /opt/python
mount --bind "$CHECKOUT" /opt/checkout
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /dev
for each in "null 3" "zero 5" "full 7" "random 8" "urandom 9"; do
  set -- $each
  mknod -m 666 /dev/$1 c 1 $2
done
mknod -m 666 /dev/tty c 5 0
ln -s /proc/self/fd /dev/fd
mkdir -p /dev/shm /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts /dev/pts
ln -s pts/ptmx /dev/ptmx
"$BASE"/bin/python3 -c '
import fcntl, socket, struct
with socket.socket() as one:
    fcntl.ioctl(one, 0x8914, struct.pack("16sh14x", b"lo", 0x41))'  # SIOCSIFFLAGS: up, running
mkdir -p "$UNITS" /run/none /etc/systemd/journald.conf.d /opt/nightcrew/bin
cd "$UNITS"
for each in sysinit basic sockets network-online multi-user shutdown umount final; do
  printf '[Unit]\\nDescription=%s\\nDefaultDependencies=no\\n' $each > $each.target
done
for each in systemd-journald.service systemd-journald.socket; do ln -s /lib/systemd/system/$each; done
printf '[Unit]\\nWants=systemd-journald.service\\n' > nested.target
printf '[Journal]\\nStorage=volatile\\nReadKMsg=no\\nAudit=no\\n' > /etc/systemd/journald.conf.d/nested.conf
rm -rf /etc/machine-id /var/lib/nightcrew /etc/nightcrew /etc/systemd/system/nightcrew*
echo 0123456789abcdef0123456789abcdef > /etc/machine-id
cat > /opt/nightcrew/main.py <<END
import site, sys, sysconfig
sysconfig.get_path = lambda *_: "/opt/nightcrew/bin"  # as an installed one would say
sys.dont_write_bytecode = True
sys.argv[0] = "/opt/nightcrew/bin/nightcrew"
site.addsitedir("$SITE")
sys.path[:0] = ["/opt/checkout/daemon", "/opt/checkout/mcp_tools", "/opt/checkout/workspaces"]
from nightcrew.cli.main import main
main()
END
cat > /opt/nightcrew/bin/nightcrew <<END
#!/bin/sh
exec env LD_LIBRARY_PATH=/opt/python/lib /opt/python/bin/python3 -S /opt/nightcrew/main.py "\\$@"
END
chmod 755 /opt/nightcrew/bin/nightcrew
mount --make-rshared /  # credentials come in by propagation, as on a machine; of this namespace alone
exec env -i PATH=/usr/bin:/usr/sbin container=nightcrew SYSTEMD_UNIT_PATH=/etc/systemd/system:"$UNITS" \\
  SYSTEMD_GENERATOR_PATH=/run/none SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/run/none \\
  /lib/systemd/systemd --system --log-target=journal --show-status=no --unit=nested.target
"""


def why_not() -> str | None:
    """Why no systemd can be booted here; None where it can."""
    if not SYSTEMD.exists():
        return "systemd is not installed (Debian: apt-get install systemd)"
    if os.geteuid() != 0:
        return "namespaces with control groups need root"
    try:
        _unified()
    except OSError as error:
        return f"no control group tree (v2) to boot in: {error}"
    return None


def _unified() -> Path:
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.startswith("cgroup2 ") and os.access(fields.split()[4], os.W_OK):
            return Path(fields.split()[4])
    raise OSError("none is mounted for writing")


class Machine:
    """The machine inside."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.root = Path(f"/proc/{pid}/root")

    def run(self, *argv: str, check: bool = True, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command as root in there."""
        enter = ["nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-n", "-p", "-C", "--"]
        environ = {"PATH": "/usr/bin:/usr/sbin", "LANG": "C.UTF-8"}
        done = subprocess.run(
            [*enter, *argv], capture_output=True, text=True, env=environ, timeout=seconds, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"{argv}: exit {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.log()}")
        return done

    def nightcrew(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        where = ["NIGHTCREW_HOME=/var/lib/nightcrew", "NIGHTCREW_CONFIG=/etc/nightcrew/config.toml"]
        return self.run("env", *where, PROGRAM, *argv, check=check)

    def show(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "--value", "-p", name, unit).stdout.strip()

    def is_up(self) -> bool:
        return self.show("nested.target", "ActiveState") == "active"

    def log(self, *argv: str) -> str:
        return self.run("journalctl", "--no-pager", "-o", "short-monotonic", *argv, check=False).stdout

    def until(self, condition: Callable[[], object], what: str, seconds: float = 60) -> None:
        """Wait for something to become true."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds:g} s: {what}\n{self.log()}")
            time.sleep(0.05)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        file.chmod(mode)


@contextmanager
def booted() -> Generator[Machine]:
    """A machine that runs until the block ends."""
    group = _unified() / f"nightcrew-nested-{os.getpid()}"
    group.mkdir()
    site = next(path for path in sys.path if path.endswith("site-packages"))
    environ = {
        "PATH": "/usr/bin:/usr/sbin",
        "BASE": sys.base_prefix,
        "CHECKOUT": str(ROOT),
        "SITE": site.replace(str(ROOT), "/opt/checkout"),
        "UNITS": _UNITS,
    }
    command = ["unshare", *("--pid", "--fork", "--mount", "--cgroup", "--uts", "--ipc", "--net", "--mount-proc")]
    join = f'echo $$ > {group}/cgroup.procs; exec {" ".join(command)} --kill-child bash -c "$0"'
    outer = subprocess.Popen(["bash", "-c", join, _INIT], env=environ, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        yield _started(outer)
    finally:
        with suppress(ProcessLookupError):
            for child in _children(outer.pid):
                os.kill(child, signal.SIGKILL)
        outer.kill()
        outer.wait()
        assert outer.stderr is not None
        outer.stderr.close()
        _remove(group)


def _started(outer: subprocess.Popen[bytes], seconds: float = 30) -> Machine:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and outer.poll() is None:
        for child in _children(outer.pid):
            machine = Machine(child)
            if machine.root.joinpath("run/systemd/private").exists():
                machine.until(machine.is_up, "nested.target", seconds)
                return machine
        time.sleep(0.05)
    outer.kill()
    assert outer.stderr is not None
    raise AssertionError(f"systemd did not come up: {outer.stderr.read().decode()}")


def _children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _remove(group: Path) -> None:
    deadline = time.monotonic() + 10
    while group.exists() and time.monotonic() < deadline:
        for path in sorted(group.rglob("*/"), reverse=True):
            with suppress(OSError):
                path.rmdir()
        with suppress(OSError):
            group.rmdir()
        time.sleep(0.02)
