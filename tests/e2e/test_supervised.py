"""`nightcrew up` under a service manager of the test's: ready, fed, silent when frozen, its socket, and its end."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fakes.manager import Manager

pytestmark = pytest.mark.timeout(60)


@contextmanager
def supervised(root: Path, manager: Manager, listener: socket.socket) -> Generator[subprocess.Popen[str]]:
    """The service, with one socket passed to it as systemd would."""
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(root),
        "NIGHTCREW_HOME": str(root / "home"),
        **manager.environ(2.0),
        "LISTEN_FDS": "1",
    }
    start = f'exec 3<&{listener.fileno()}; export LISTEN_PID=$$; exec "$0" -m nightcrew up'
    process = subprocess.Popen(
        ["bash", "-c", start, sys.executable],
        env=environ,
        pass_fds=[listener.fileno()],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_supervised_service_tells_its_manager_how_it_is(open_tmp: Path) -> None:
    with (
        Manager(open_tmp) as manager,
        socket.create_server(("127.0.0.1", 0)) as listener,
        supervised(open_tmp, manager, listener) as process,
    ):
        port = listener.getsockname()[1]
        asked = http.client.HTTPConnection("127.0.0.1", port, timeout=40)
        asked.request("GET", "/mcp")  # before the service listens: the socket is there already
        manager.wait(lambda said: "READY=1" in said, "ready")
        assert asked.getresponse().status in (400, 405, 406)
        asked.close()
        manager.wait(lambda said: "STATUS=idle: nothing is queued" in said, "the status")
        manager.wait(lambda said: said.count("WATCHDOG=1") >= 2, "food for the watchdog")

        process.send_signal(signal.SIGSTOP)
        frozen = time.monotonic()
        while time.monotonic() < frozen + 1.5:
            time.sleep(0.1)
        thawed = time.monotonic()
        process.send_signal(signal.SIGCONT)
        fed = len([at for at in manager.times("WATCHDOG=1") if at < thawed])
        manager.wait(lambda said: said.count("WATCHDOG=1") > fed, "food after the freeze")
        assert not [at for at in manager.times("WATCHDOG=1") if frozen + 0.5 < at < thawed]

        process.send_signal(signal.SIGTERM)
        manager.wait(lambda said: "STOPPING=1" in said and "EXTEND_TIMEOUT_USEC=10000000" in said, "the stop")
        assert process.wait(20) == 0
