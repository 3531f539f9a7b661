"""A service manager as a service sees it: a notify socket that somebody reads, and the environment that says so."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self


class Manager:
    """Collects what is sent, with the time of each message."""

    def __init__(self, folder: Path) -> None:
        self.address = folder / "notify"
        self.heard: list[tuple[float, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.address))
        self._came = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self.address))
        self._thread.join()
        self._socket.close()

    def environ(self, watchdog_seconds: float | None = None) -> dict[str, str]:
        """What the service finds in its environment."""
        watched = {} if watchdog_seconds is None else {"WATCHDOG_USEC": str(round(watchdog_seconds * 1e6))}
        return {"NOTIFY_SOCKET": str(self.address), **watched}

    def said(self) -> list[str]:
        """All assignments so far, in order."""
        with self._came:
            return [line for _, text in self.heard for line in text.splitlines()]

    def times(self, line: str) -> list[float]:
        with self._came:
            return [at for at, text in self.heard if line in text.splitlines()]

    def wait(self, condition: Callable[[list[str]], object], what: str, seconds: float = 30) -> None:
        """Until what was said fulfils a condition."""
        deadline = time.monotonic() + seconds
        with self._came:
            while not condition([line for _, text in self.heard for line in text.splitlines()]):
                if not self._came.wait(deadline - time.monotonic()):
                    raise AssertionError(f"not within {seconds:g} s: {what}; heard {self.heard}")

    def _read(self) -> None:
        while message := self._socket.recv(65536):
            with self._came:
                self.heard.append((time.monotonic(), message.decode()))
                self._came.notify_all()
