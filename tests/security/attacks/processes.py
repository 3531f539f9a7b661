"""Outliving a command, and hurting other processes."""

from __future__ import annotations

from security.attack import OUTLIVES, Attack, Canary, Deed, Kind, Service, outlives, says, victim_hurt
from security.deeds import Python, Shell

_SLEEP = f"os.execvp('sleep', ['sleep', '{OUTLIVES}'])"
_STARTED = "while not os.path.exists('/tmp/started'): time.sleep(0.001)\n"
_START = "open('/tmp/started', 'w').close()\n"
_FOREVER = f"{_STARTED}time.sleep(60)\n"
_DETACH = "null = os.open('/dev/null', os.O_RDWR)\nfor fd in (0, 1, 2): os.dup2(null, fd)\n"


def _child(*steps: str) -> str:
    """A program whose child does this and then sleeps, while it waits for no more than the child's start."""
    body = "".join(f"    {line}\n" for step in (*steps, _START, _SLEEP) for line in step.splitlines())
    return f"if os.fork() == 0:\n{body}{_STARTED}"


_OUTLIVING: dict[str, Deed] = {
    "background": Shell(f"sleep {OUTLIVES} &"),
    "background-with-closed-pipes": Shell(f"sleep {OUTLIVES} </dev/null >/dev/null 2>&1 &"),
    "nohup": Shell(f"nohup sleep {OUTLIVES} >/dev/null 2>&1 &"),
    "disowned": Shell(f"sleep {OUTLIVES} & disown -a"),
    "coprocess": Shell(f"coproc sleep {OUTLIVES}"),
    "setsid": Shell(f"setsid --fork sleep {OUTLIVES}"),
    "own-process-group": Shell(f"set -m; sleep {OUTLIVES} & true"),
    "signals-ignored": Shell(f"(trap '' HUP INT TERM; exec sleep {OUTLIVES}) &"),
    "double-fork": Python(_child("os.setsid()", "if os.fork(): os._exit(0)")),
    "daemon": Python(_child("os.setsid()", "if os.fork(): os._exit(0)", "os.chdir('/')", "os.umask(0)", _DETACH)),
    "own-subreaper": Python("libc.prctl(36, 1, 0, 0, 0)\n" + _child("os.setsid()")),
    "no-death-with-the-parent": Python(_child("libc.prctl(1, 0, 0, 0, 0)")),
    "stopped": Python(
        _child("if os.fork() == 0:\n    time.sleep(0.02); os.kill(os.getppid(), signal.SIGSTOP); os._exit(0)")
    ),
    "at-the-timeout": Shell(f"sleep {OUTLIVES} & sleep 60", seconds=1.0),
    "at-the-timeout-detached": Shell(f"setsid sleep {OUTLIVES} & sleep 60", seconds=1.0),
    "at-the-timeout-as-a-daemon": Python(_child("os.setsid()", "if os.fork(): os._exit(0)", _DETACH) + _FOREVER, 1.0),
    "at-the-timeout-with-signals-ignored": Python(
        "for number in {*range(1, 32)} - {9, 17, 19}: signal.signal(number, signal.SIG_IGN)\n"
        + _child("os.setsid()")
        + _FOREVER,
        1.0,
    ),
    "at-the-timeout-in-many-generations": Python(
        "for _ in range(20):\n    if os.fork(): os._exit(0) if _ else time.sleep(60)\n    os.setsid()\n" + _SLEEP, 1.0
    ),
    "watchdogs-that-start-each-other-again": Python(
        "def watch(other):\n"
        "    while True:\n"
        "        if not os.path.exists(f'/proc/{other}'): " + _SLEEP + "\n"
        "        time.sleep(0.001)\n"
        "first = os.getpid()\n"
        "if os.fork() == 0:\n    os.setsid(); watch(first)\n"
        "time.sleep(60)\n",
        1.0,
    ),
}

_EVERYBODY = "for pid in others():\n    try: {}\n    except OSError as error: print(error)\n"
_PTRACE = """
    if libc.ptrace({}, pid, 0, 0) == 0:
        print("REACHED")
        libc.ptrace(17, pid, 0, 0)
"""
_IO = """
ours, theirs = socket.socketpair()
import fcntl
for pid in others():
    try: fcntl.fcntl(ours, fcntl.F_SETOWN, pid)
    except OSError: continue
    fcntl.fcntl(ours, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    theirs.send(b"!")
    time.sleep(0.05)
"""
_MAP = 'first = int(open(f"/proc/{pid}/maps").read().split("-")[0], 16)'
_ADVISE = f"""
for pid in others():
    try: {_MAP}
    except OSError: continue
    vector = (ctypes.c_size_t * 2)(first, 4096)
    reach(440, os.pidfd_open(pid), ctypes.byref(vector), 1, 20, 0)
"""
_SIGNALS: dict[str, tuple[Deed, Canary]] = {
    "kill": (Python(_EVERYBODY.format("os.kill(pid, signal.SIGKILL)")), victim_hurt),
    "terminate": (Python(_EVERYBODY.format("os.kill(pid, signal.SIGTERM)")), victim_hurt),
    "stop": (Python(_EVERYBODY.format("os.kill(pid, signal.SIGSTOP); time.sleep(0.02)")), victim_hurt),
    "kill-everybody": (Shell("trap '' TERM; kill -KILL -1; sleep 0.05"), victim_hurt),
    "kill-its-group": (Python(_EVERYBODY.format("os.killpg(os.getpgid(pid), signal.SIGKILL)")), victim_hurt),
    "kill-by-descriptor": (
        Python(_EVERYBODY.format("signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGKILL)")),
        victim_hurt,
    ),
    "kill-by-thread": (Python("for pid in others(): libc.syscall(NUMBER['tgkill'], pid, pid, 9)"), victim_hurt),
    "signal-by-a-socket": (Python(_IO), victim_hurt),
    "attach": (Python("for pid in others():" + _PTRACE.format(16)), says("REACHED")),
    "seize": (
        Python("for pid in others():\n    if libc.ptrace(0x4206, pid, 0, 0) == 0: print('REACHED')"),
        says("REACHED"),
    ),
    "write-its-memory-by-a-call": (
        Python(
            f"for pid in others():\n    try: {_MAP}\n    except OSError: continue\n"
            "    stack = [each for each in open(f'/proc/{pid}/maps') if '[stack]' in each][0]\n"
            "    at = int(stack.split()[0].split('-')[0], 16)\n"
            "    here = ctypes.create_string_buffer(b'x')\n"
            "    ours, theirs = (ctypes.c_size_t * 2)(ctypes.addressof(here), 1), (ctypes.c_size_t * 2)(at, 1)\n"
            "    if libc.process_vm_writev(pid, ours, 1, theirs, 1, 0) == 1: print('REACHED')"
        ),
        says("REACHED"),
    ),
    "write-its-memory-by-its-file": (
        Python(
            f"for pid in others():\n    try:\n        {_MAP}\n        memory = open(f'/proc/{{pid}}/mem', 'r+b', 0)\n"
            "        memory.seek(first); kept = memory.read(1); memory.seek(first)\n"
            "        if memory.write(kept) == 1: print('REACHED')\n"
            "    except OSError: continue"
        ),
        says("REACHED"),
    ),
    "steal-its-open-file": (
        Python(
            "for pid in others():\n"
            "    fd = libc.syscall(438, os.pidfd_open(pid), 77, 0)\n"
            "    if fd >= 0: print(os.pread(fd, 99, 0))"
        ),
        says(),
    ),
    "compare-with-it": (
        Python("for pid in others(): reach(NUMBER['kcmp'], os.getpid(), pid, 1, 0, 0)"),
        says("REACHED"),
    ),
    "take-its-limits": (
        Python(_EVERYBODY.format("resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, 3)); print('REACHED')")),
        says("REACHED"),
    ),
    "take-its-time": (
        Python(_EVERYBODY.format("os.setpriority(os.PRIO_PROCESS, pid, 19); print('REACHED')")),
        says("REACHED"),
    ),
    "take-its-cores": (
        Python(_EVERYBODY.format("os.sched_setaffinity(pid, {0}); print('REACHED')")),
        says("REACHED"),
    ),
    "offer-it-to-the-memory-killer": (
        Python(_EVERYBODY.format("open(f'/proc/{pid}/oom_score_adj', 'w').write('1000'); print('REACHED')")),
        says("REACHED"),
    ),
}


def _made(kind: Kind, name: str, deed: Deed, canary: Canary, service: Service = "person") -> Attack:
    return Attack(name, kind, deed, canary, service)


ATTACKS = (
    *(_made("outliving the timeout", f"outlive-{name}", deed, outlives) for name, deed in _OUTLIVING.items()),
    *(_made("signals and ptrace", name, deed, canary) for name, (deed, canary) in _SIGNALS.items()),
    _made("signals and ptrace", "advise-its-memory", Python(_ADVISE), says("REACHED"), "root"),
    _made("signals and ptrace", "kill-as-root", _SIGNALS["kill"][0], victim_hurt, "root"),
)
