"""The service manager's two small protocols: sd_notify(3) and sd_listen_fds(3). Without a manager nothing happens.

Both are stable, documented and a few lines each, so no library is needed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping

_FIRST_FD = 3


class Notifier:
    """Sends the service's state to the manager that started this process."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.watchdog_seconds = _watchdog(environ)
        """The manager ends this process when it heard nothing for so long; None when it does not watch."""

    @property
    def heard(self) -> bool:
        """Whether anybody listens."""
        return bool(self._address)

    def send(self, *assignments: str) -> None:
        """Send `NAME=value` assignments as one message. A manager that does not take it changes nothing here."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.setblocking(False)  # a manager that is being replaced must not hold up the tasks
            connection.sendto("\n".join(one.replace("\n", " ") for one in assignments).encode(), self._address)


def monotonic_usec() -> str:
    """What a RELOADING=1 has to carry: when the reload began."""
    return f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"


def passed_sockets(environ: Mapping[str, str]) -> list[socket.socket]:
    """The sockets that the manager listened on before it started this process. To be taken once."""
    if environ.get("LISTEN_PID") != str(os.getpid()) or not environ.get("LISTEN_FDS", "").isdecimal():
        return []
    taken: list[socket.socket] = []
    for fd in range(_FIRST_FD, _FIRST_FD + int(environ["LISTEN_FDS"])):
        os.set_inheritable(fd, False)
        taken.append(socket.socket(fileno=fd))
    return taken


def _watchdog(environ: Mapping[str, str]) -> float | None:
    usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", str(os.getpid()))
    return int(usec) / 1e6 if usec.isdecimal() and int(usec) > 0 and pid == str(os.getpid()) else None
