"""What both helpers that run INSIDE a box talk through: frames on standard input and output. Standard library only.

A frame is four bytes of length, big-endian, then a body; see `boxd` and `boxd_git` for what is in it.
"""

from __future__ import annotations

import os


def send(body: bytes, *more: bytes) -> None:
    """Write one frame, and right after it what its body announces."""
    view = memoryview(b"".join((len(body).to_bytes(4, "big"), body, *more)))
    while view:
        view = view[os.write(1, view) :]


def receive(size: int) -> bytes:
    """Exactly `size` bytes, or nothing when the other side is gone."""
    received = bytearray()
    while len(received) < size:
        if not (chunk := os.read(0, size - len(received))):
            return b""
        received += chunk
    return bytes(received)


def close_to_others() -> None:
    """Other processes in the box must not write into this one: then /proc/PID/mem and /proc/PID/fd are root's."""
    import ctypes  # noqa: PLC0415

    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
