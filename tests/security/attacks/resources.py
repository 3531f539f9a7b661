"""Taking more than a command may have."""

from __future__ import annotations

from nightcrew_workspaces.policy import Limits
from security.attack import Attack, Canary, Deed, planted, says
from security.deeds import Python, Shell

_HELD = "time.sleep(1.0); print('HELD')\n"
_KEPT = "time.sleep(4.0); print('HELD')\n"  # the workspace is counted every second, in a box of its own


def _limits(**changes: float) -> Limits:
    return Limits(**{"seconds": 20, "memory_mib": 96, "processes": 40, "file_mib": 2, **changes})


def _attack(name: str, deed: Deed, canary: Canary | None = None) -> Attack:
    return Attack(name, "resources", deed, canary or says("HELD"))


def longer_than(size: int) -> Canary:
    return lambda traces: len(traces.text) > size


_FORKS = """
made = 0
try:
    for _ in range(120):
        if os.fork() == 0: time.sleep(3); os._exit(0)
        made += 1
except OSError: pass
print("HELD" if made == 120 else "REFUSED")
"""
_THREADS = """
try:
    for _ in range(120): threading.Thread(target=time.sleep, args=(1,), daemon=True).start()
    print("HELD", flush=True)
except RuntimeError: print("REFUSED")
"""
_CHILDREN = f"""
for _ in range(3):
    if os.fork() == 0:
        held = bytearray(os.urandom(4096)) * 12288
        time.sleep(1.5); os._exit(0)
{_HELD}
"""
_SHARED = f"""
memory = mmap.mmap(-1, 144 << 20)
for at in range(0, 144 << 20, 4096): memory[at] = 1
{_HELD}
"""
_HIDDEN = f"""
libc.prctl(4, 0, 0, 0, 0)  # not dumpable: its memory cannot be looked at
held = b"x" * (144 << 20)
{_HELD}
"""
_NAMELESS = f"""
for _ in range(4):
    fd = os.memfd_create("held")
    for _ in range(36): os.write(fd, bytes(1 << 20))
{_HELD}
"""
_MANY = f"""
for number in range(30):
    with open(f"/workspace/part{{number}}", "wb") as file: file.write(bytes(1 << 20))
{_KEPT}
"""
_INODES = f"""
for number in range(3000): open(f"/workspace/part{{number}}", "w").close()
{_KEPT}
"""
_SPIN = """
while time.process_time() < 0.9: pass
print("HELD")
"""
_SHM = """
size = 0
with open("{}", "wb", 0) as file:
    try:
        while size < {} << 20: size += file.write(bytes(1 << 20))
    except OSError: pass
print("HELD" if size >= {} << 20 else "REFUSED")
"""
_MANY_FILES = """
held = []
try:
    for _ in range(600): held.append(os.open("/dev/null", os.O_RDONLY))
    print("HELD")
except OSError: print("REFUSED")
"""
_GROW = """
try:
    with open("/workspace/large", "wb") as file: file.{}
    print("HELD" if os.path.getsize("/workspace/large") > 3 << 20 else "REFUSED")
except OSError: print("REFUSED")
"""
_LATE = "(trap '' HUP INT TERM ALRM; sleep 1.3; touch held) & sleep 60"
_CORE = """
if os.fork() == 0:
    os.chdir("/workspace"); os.abort()
_, status = os.wait()
print("HELD" if os.WCOREDUMP(status) or resource.getrlimit(resource.RLIMIT_CORE)[1] else "REFUSED")
"""

ATTACKS = (
    _attack("forks", Python(_FORKS, limits=_limits())),
    _attack("threads", Python(_THREADS, limits=_limits())),
    _attack("memory", Python(f"held = b'x' * (144 << 20)\n{_HELD}", limits=_limits())),
    _attack("memory-of-many-processes", Python(_CHILDREN, limits=_limits())),
    _attack("shared-memory", Python(_SHARED, limits=_limits())),
    _attack("memory-in-files-without-a-name", Python(_NAMELESS, limits=_limits(file_mib=64))),
    _attack("work-of-the-processor", Python(_SPIN, 40, limits=_limits(cpu_seconds=0.2))),
    _attack("size-of-all-files", Python(_MANY, limits=_limits(workspace_mib=20))),
    _attack("number-of-all-files", Python(_INODES, limits=_limits(workspace_files=1000))),
    _attack("memory-that-hides", Python(_HIDDEN, limits=_limits())),
    _attack("files-in-dev-shm", Python(_SHM.format("/dev/shm/x", 80, 80))),
    _attack(
        "files-in-home",
        Python(_SHM.format("/home/person/x", 80, 80).replace('"/home/person/x"', 'os.environ["HOME"] + "/x"')),
    ),
    _attack("files-in-tmp", Python(_SHM.format("/tmp/x", 1100, 1100))),
    _attack("open-files", Python(_MANY_FILES, limits=_limits(open_files=256))),
    _attack("large-file", Python(_GROW.format("write(bytes(4 << 20))"), limits=_limits())),
    _attack("large-file-that-is-a-hole", Python(_GROW.format("truncate(1 << 40)"), limits=_limits())),
    _attack(
        "large-file-reserved",
        Shell("fallocate -l 4M large && test $(stat -c %s large) -gt 3000000 && echo HELD", limits=_limits()),
    ),
    _attack("core-dump", Python(_CORE)),
    _attack(
        "flood-of-output",
        Shell("head -c 4000000 /dev/zero | tr '\\0' x", limits=_limits(output_bytes=20_000)),
        longer_than(100_000),
    ),
    _attack(
        "endless-output",
        Shell("yes", seconds=2, limits=_limits(output_bytes=20_000, flood_mib=1)),
        longer_than(100_000),
    ),
    _attack(
        "endless-errors",
        Shell("yes >&2", seconds=2, limits=_limits(output_bytes=20_000, flood_mib=1)),
        longer_than(100_000),
    ),
    _attack(
        "raised-limits",
        Python("resource.setrlimit(resource.RLIMIT_NPROC, (4000, 4000)); print('HELD')", limits=_limits()),
    ),
    _attack("work-after-the-time-is-over", Shell(_LATE, seconds=1.0), planted("/workspace/held")),
)
