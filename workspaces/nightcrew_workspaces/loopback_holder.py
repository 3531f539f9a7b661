"""Makes a network namespace with nothing but loopback in it, and stays, so that boxes can join it.

It runs as the boxes' user, outside of a box, and takes nothing from one. Standard library only. It says `ready` when
the namespace is there, gives up all power over it by becoming `cat`, and ends with its standard input.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys
from pathlib import Path

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 1  # SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP
_INTERFACE = "16sH14x"  # struct ifreq: the name, the flags


def main() -> None:
    """Never returns."""
    user, group = os.getuid(), os.getgid()
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(_NEW_USER | _NEW_NETWORK) != 0:
        sys.exit(f"new user and network namespaces: {os.strerror(ctypes.get_errno())}")
    own = Path("/proc/self")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        (own / name).write_text(text, encoding="ascii")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        answer = fcntl.ioctl(control, _GET_FLAGS, struct.pack(_INTERFACE, b"lo", 0))
        flags: int = struct.unpack(_INTERFACE, answer)[1]
        fcntl.ioctl(control, _SET_FLAGS, struct.pack(_INTERFACE, b"lo", flags | _UP))
    os.write(1, b"ready\n")
    os.execv("/bin/cat", ["cat"])  # noqa: S606 (an unprivileged user loses its capabilities by this)


if __name__ == "__main__":
    main()
