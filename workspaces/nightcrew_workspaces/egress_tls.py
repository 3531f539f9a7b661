"""The first message of a TLS client, read without touching it: RFC 8446, 4.1.2; RFC 6066, 3.

A tunnel is allowed for a host, and behind one address there may be many. So the server name that the client asks for
has to be that host. It is sent in the clear; where it is encrypted (ECH) it cannot be seen, and the tunnel is refused.
"""

from __future__ import annotations

from collections.abc import Iterator

MAX_HELLO = 64 * 1024
_HANDSHAKE = 22
_SERVER_NAME, _ECH = 0, 0xFE0D


class NotTls(ValueError):
    """What a client sent is not the beginning of a TLS connection, or hides where it wants to go."""


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def more(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise NotTls("a TLS client hello that is cut short")
        part, self._at = self._data[self._at : end], end
        return part

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """Bytes with their count, of `size` bytes, in front."""
        return self.take(self.number(size))


def server_name(data: bytes) -> str | None:
    """The server name in a client hello; empty where it names none, None while `data` is not all of it.

    Raises `NotTls`.
    """
    message = _handshake(data)
    if message is None:
        return None
    hello = _Reader(message)
    hello.take(2 + 32)  # version, random
    hello.vector(1)  # session id
    hello.vector(2)  # cipher suites
    hello.vector(1)  # compression methods
    found: list[bytes] = []
    for kind, value in _extensions(hello.vector(2) if hello.more else b""):
        if kind == _ECH:
            raise NotTls("a TLS client hello that hides its server name (ECH)")
        if kind == _SERVER_NAME:
            found += _names(value)
    if len(found) > 1:
        raise NotTls("a TLS client hello with several server names")
    try:
        return found[0].decode("ascii") if found else ""
    except UnicodeDecodeError:
        raise NotTls("a TLS client hello whose server name is not ASCII") from None


def _handshake(data: bytes) -> bytes | None:
    """The body of the client hello, put together from its records; None while something is missing."""
    if len(data) > MAX_HELLO:
        raise NotTls("a TLS client hello of more than 64 KiB")
    message, at = b"", 0
    while True:
        if at < len(data) and (data[at] != _HANDSHAKE or data[at + 1 : at + 2] not in (b"", b"\x03")):
            raise NotTls("not TLS")
        if at + 5 > len(data):
            return None
        length = int.from_bytes(data[at + 3 : at + 5], "big")
        if not length:
            raise NotTls("an empty TLS record")
        message += data[at + 5 : at + 5 + length]
        at += 5 + length
        if message[:1] not in (b"", b"\x01"):
            raise NotTls("not a TLS client hello")
        if len(message) >= 4 and len(message) >= 4 + (size := int.from_bytes(message[1:4], "big")):
            return message[4 : 4 + size]
        if at > len(data):
            return None


def _extensions(data: bytes) -> Iterator[tuple[int, bytes]]:
    reader = _Reader(data)
    while reader.more:
        yield reader.number(2), reader.vector(2)


def _names(data: bytes) -> Iterator[bytes]:
    names = _Reader(_Reader(data).vector(2))
    while names.more:
        names.take(1)  # the only kind is a host name
        yield names.vector(2)
