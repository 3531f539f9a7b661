"""One half of one attack in a machine of its own, and the server that pytest asks for it.

The server is forked for each half, so that importing the product is paid for once. Answers are lines of JSON: `fired`,
`text` (what the attack was shown) and `error` (why there is no result).
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import select
import signal
import socket
import sys
import tempfile
import termios
import time
import traceback
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nightcrew_workspaces.box import support_files
from nightcrew_workspaces.seccomp import seccomp_filter
from security import world
from security.attack import Attack, Half, Traces
from security.attacks import ATTACKS
from security.controls import CONTROLS
from security.machine import die_with_parent, drop_to, furnish, leave_the_real_one, own_memory
from security.race import RACE

_SECONDS = 45.0
_RECEIVED = Path("/run/received")


def serve() -> None:
    """Answer requests, lines of JSON with `id` and `half`, until standard input ends."""
    seccomp_filter()
    support_files()
    os.environ.clear()
    os.environ.update(world.ENVIRONMENT)
    attacks = {attack.id: attack for attack in (*ATTACKS, *CONTROLS, RACE)}
    with (
        tempfile.TemporaryDirectory(prefix="nightcrew-machines-", dir="/tmp") as name,
        own_memory(Path(name)) as folder,
    ):
        template = world.make_template(folder / "template")
        (folder / "machine").mkdir()
        for line in sys.stdin:
            request = json.loads(line)
            answer = _in_a_new_machine(attacks[request["id"]], request["half"], folder / "machine", template)
            sys.stdout.write(answer + "\n")
            sys.stdout.flush()


def _in_a_new_machine(attack: Attack, half: Half, folder: Path, template: Path) -> str:
    """Fork three times: out of the namespaces, to the machine's first process, and to the service in it."""
    read_end, write_end = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(read_end)
        die_with_parent()
        with _last_words(write_end):
            leave_the_real_one()
            if (first := os.fork()) == 0:
                die_with_parent()
                with _last_words(write_end):
                    furnish(folder, template)
                    os.write(write_end, json.dumps(_first_process(attack, half)).encode())
            os.waitpid(first, 0)
    os.close(write_end)
    answer = _read_all(read_end, _SECONDS)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return answer.decode() or json.dumps({"error": f"no answer within {_SECONDS:g} s"})


@contextmanager
def _last_words(fd: int) -> Iterator[None]:
    """Whatever goes wrong in a forked process is its answer, and the process ends here either way."""
    try:
        yield
    except BaseException as error:  # noqa: BLE001 (it is reported, and the process ends)
        os.write(fd, json.dumps({"error": "".join(traceback.format_exception(error))}).encode())
    os._exit(0)


def _first_process(attack: Attack, half: Half) -> dict[str, object]:
    uid = world.PERSON if attack.service == "person" else 0
    if uid == 0:  # then boxes run as nobody, who has to own what they write
        for place in ("/workspace", "/source"):
            world.give(Path(place), 65534)
    _RECEIVED.touch()
    master, terminal = pty.openpty()
    tty.setraw(terminal, termios.TCSANOW)
    os.setsid()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    os.fchown(terminal, uid, -1)
    sockets = world.listeners()
    read_end, write_end = os.pipe()
    own = {os.getpid()}
    ready, go = os.pipe()
    for work in (lambda: _neighbour(sockets), lambda: _victim(uid, go)):
        if (pid := os.fork()) == 0:
            os.close(write_end)
            with suppress(BaseException):
                work()
            os._exit(0)
        own.add(pid)
    victim = pid
    for each in sockets:
        each.close()
    os.close(go)
    os.read(ready, 1)
    if (service := os.fork()) == 0:
        os.close(read_end)
        with _last_words(write_end):
            _service(attack, half, uid, terminal, write_end)
    own.add(service)
    os.close(write_end)
    said = _read_all(read_end, _SECONDS - 5, until=service)
    answer = json.loads(said) if said else {"text": ""}
    if "error" in answer:
        return answer

    def look() -> Traces:
        tty_in, tty_out = _waiting(terminal), _waiting(master)
        return Traces(answer["text"], _settled(), tty_in, tty_out, _state(victim), _alive(own))

    fired = _fires(attack, look)
    os.close(master)
    return {"fired": fired, "text": answer["text"]}


def _fires(attack: Attack, look: Callable[[], Traces]) -> bool:
    """Ask the canary, again and again for a moment where something of the attack is still at work."""
    deadline = time.monotonic() + 0.5
    while True:
        traces = look()
        if attack.canary(traces):
            return True
        if not traces.alive or time.monotonic() > deadline:
            return False
        time.sleep(0.005)


def _service(attack: Attack, half: Half, uid: int, terminal: int, write_end: int) -> None:
    """What a service does with an attack, with a terminal as its standard input."""
    os.dup2(terminal, 0)
    null = os.open("/dev/null", os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    if uid:
        drop_to(uid)
    else:
        os.environ["HOME"] = "/root"
    os.chdir("/workspace")
    text = attack.deed.unboxed() if half == "unboxed" else asyncio.run(attack.deed.boxed())
    os.write(write_end, json.dumps({"text": text[-200_000:]}).encode())


def _victim(uid: int, go: int) -> None:
    """Stands for the service in what is done to processes: it has keys in its memory and an open file."""
    secret = os.open("/outside/.open", os.O_RDWR | os.O_CREAT, 0o600)
    os.write(secret, f"{world.SECRET}\n".encode())
    os.fchown(secret, uid, uid)
    os.unlink("/outside/.open")
    os.dup2(secret, world.KEPT_OPEN)
    if uid:
        drop_to(uid)
    os.write(go, b"!")
    while True:
        signal.pause()


def _neighbour(sockets: list[socket.socket]) -> None:
    """Writes down what comes to any socket of the machine, and answers with the secret."""
    streams = [each for each in sockets if each.type == socket.SOCK_STREAM]
    waiting = list(sockets)
    with _RECEIVED.open("a") as log:
        while True:
            for each in select.select(waiting, [], [])[0]:
                if each in streams:
                    connection, _ = each.accept()
                    connection.send(f"HTTP/1.0 200 OK\r\n\r\n{world.SECRET}\n".encode())
                    waiting.append(connection)
                    print("CONNECTED", each.getsockname(), file=log, flush=True)
                    continue
                data, sender = each.recvfrom(4096)
                if each.type == socket.SOCK_DGRAM:
                    each.sendto(world.SECRET.encode(), sender)
                elif not data:
                    waiting.remove(each)
                    each.close()
                    continue
                print(repr(data), file=log, flush=True)


def _settled() -> str:
    """What the neighbour wrote down; it may still be at it when the attack is over."""
    begun = time.monotonic()
    while True:
        text = _RECEIVED.read_text()
        last = text.splitlines()[-1] if text else ""
        # Who has connected is about to send something.
        patience = 0.5 if last.startswith("CONNECTED") else 0.0 if text else 0.02
        if time.monotonic() - begun >= patience:
            return text
        time.sleep(0.002)


def _waiting(fd: int) -> bytes:
    return os.read(fd, 4096) if select.select([fd], [], [], 0)[0] else b""


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _alive(own: set[int]) -> tuple[str, ...]:
    lines: list[str] = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) not in own and _state(int(folder.name)) not in {"Z", ""}:
            with suppress(OSError):
                lines.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return tuple(lines)


def _read_all(fd: int, seconds: float, until: int | None = None) -> bytes:
    """Everything up to the pipe's end, or to the end of the process `until`, reaping on the way."""
    data, deadline = b"", time.monotonic() + seconds
    while time.monotonic() < deadline:
        if select.select([fd], [], [], 0.05 if until is not None else 1.0)[0]:
            if not (piece := os.read(fd, 65536)):
                break
            data += piece
        elif until is not None and _state(until) in {"Z", ""} and not select.select([fd], [], [], 0)[0]:
            break
    os.close(fd)
    return data


if __name__ == "__main__":
    serve()
