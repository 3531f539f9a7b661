"""Runs INSIDE a box that has a way out: joins a TCP port of the box's loopback to the proxy's socket. Standard library
only.

    bridge.py SOCKET PORT COMMAND…

listens, leaves a process of its own behind that passes bytes on, and becomes the command. It decides nothing: what it
reaches is the proxy, and that is all that there is to be reached.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys

_CHUNK = 64 * 1024
_MOST = 256  # connections; the proxy takes fewer


class _Half:
    """One direction: what was read from `source` and is not yet written to `target`."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source = source
        self.target = target
        self.held = b""
        self.ended = False
        self.closed = False

    def read(self) -> None:
        try:
            self.held = self.source.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self.held = b""
        self.ended = not self.held
        self.write()

    def write(self) -> None:
        try:
            if self.held:
                self.held = self.held[self.target.send(self.held) :]
            if self.ended and not self.held and not self.closed:
                self.closed = True
                self.target.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return
        except OSError:
            self.held, self.ended, self.closed = b"", True, True


class _Pair:
    """A connection of the box and its connection to the proxy."""

    def __init__(self, client: socket.socket, proxy: socket.socket) -> None:
        self.ends = (client, proxy)
        self.halves = (_Half(client, proxy), _Half(proxy, client))
        for end in self.ends:
            end.setblocking(False)

    def wanted(self, end: socket.socket) -> int:
        """The events that this end waits for: it is read only when all that was read is written."""
        events = 0
        for half in self.halves:
            if half.source is end and not half.held and not half.ended:
                events |= selectors.EVENT_READ
            if half.target is end and half.held:
                events |= selectors.EVENT_WRITE
        return events

    def step(self, end: socket.socket, events: int) -> None:
        for half in self.halves:
            if events & selectors.EVENT_WRITE and half.target is end:
                half.write()
            if events & selectors.EVENT_READ and half.source is end and not half.held:
                half.read()

    @property
    def over(self) -> bool:
        return all(half.closed for half in self.halves)


class _Bridge:
    def __init__(self, listener: socket.socket, path: str) -> None:
        self._listener = listener
        self._path = path
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._pairs = 0

    def run(self) -> None:
        while True:
            for key, events in self._selector.select():
                if key.data is None:
                    self._accept()
                elif key.fileobj.fileno() >= 0:  # type: ignore[union-attr]
                    key.data.step(key.fileobj, events)
                    self._watch(key.data)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        proxy = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if self._pairs >= _MOST:
                raise BlockingIOError
            proxy.connect(self._path)
        except OSError:
            proxy.close()
            client.close()
            return
        self._pairs += 1
        self._watch(_Pair(client, proxy))

    def _watch(self, pair: _Pair) -> None:
        """Have the selector wait for what the pair can go on with, or let go of it."""
        for end in pair.ends:
            wanted = 0 if pair.over else pair.wanted(end)
            known = end in self._selector.get_map()
            if wanted and known:
                self._selector.modify(end, wanted, pair)
            elif wanted:
                self._selector.register(end, wanted, pair)
            elif known:
                self._selector.unregister(end)
        if pair.over:
            self._pairs -= 1
            for end in pair.ends:
                end.close()


def _leave_behind(listener: socket.socket, path: str) -> None:
    """A process of its own, no child of the command's, that holds nothing of the command's but the listener."""
    if child := os.fork():
        os.waitpid(child, 0)
        return
    try:
        os.setsid()
        if os.fork() == 0:
            nothing = os.open("/dev/null", os.O_RDWR)
            for fd in range(3):
                os.dup2(nothing, fd)
            _Bridge(listener, path).run()
    finally:
        os._exit(0)


def main(path: str, port: str, command: list[str]) -> None:
    # Boxes that share a loopback have a bridge each, all to the same socket.
    listener = socket.create_server(("127.0.0.1", int(port)), backlog=128, reuse_port=True)
    _leave_behind(listener, path)
    listener.close()
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python, and a command would inherit that
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)  # noqa: S606 (it becomes the command of its box)
    except FileNotFoundError:
        sys.stderr.write(f"{command[0]}: not found\n")
        sys.exit(127)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        sys.exit(126)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
