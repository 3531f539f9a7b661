"""Looks whether git's files are whole. Runs INSIDE a box, so it uses the standard library alone.

    python3 -I -S mend.py objects DIRECTORY
    python3 -I -S mend.py index FILE WIDTH

A power failure can leave a file empty or cut off under its final name, and git takes it for whole. `objects` removes
such loose objects and says `removed` and the name of each on standard output. `index` exits with 1 where the checksum
at the end of an index, of WIDTH hexadecimal digits, is wrong.
"""

# pathlib takes long to import:
# ruff: noqa: PTH107, PTH118, PTH208

from __future__ import annotations

import hashlib
import os
import re
import sys
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing takes long to import too
    from collections.abc import Iterator

HASHES = {40: "sha1", 64: "sha256"}
"""By the hexadecimal digits of a name."""


def main(arguments: list[str]) -> int:
    if arguments[0] == "index":
        return 0 if index_is_whole(arguments[1], int(arguments[2])) else 1
    objects = arguments[1]
    for folder in os.listdir(objects):
        for rest in os.listdir(os.path.join(objects, folder)) if re.fullmatch(r"[0-9a-f]{2}", folder) else ():
            path = os.path.join(objects, folder, rest)
            if re.fullmatch(r"[0-9a-f]{38}|[0-9a-f]{62}", rest) and not object_is_whole(path, folder + rest):
                os.remove(path)
                print("removed", folder + rest)  # noqa: T201 (its output is its answer)
    return 0


def object_is_whole(path: str, name: str) -> bool:
    """Whether a loose object's content is what its name says, to the last byte."""
    digest, unfolding = hashlib.new(HASHES[len(name)], usedforsecurity=False), zlib.decompressobj()
    try:
        for piece in pieces(path):
            digest.update(unfolding.decompress(piece))
    except (OSError, zlib.error):
        return False
    return unfolding.eof and not unfolding.unused_data and digest.hexdigest() == name


def index_is_whole(path: str, width: int) -> bool:
    """Whether an index ends with its own checksum."""
    digest, tail = hashlib.new(HASHES[width], usedforsecurity=False), b""
    try:
        for piece in pieces(path):
            tail += piece
            digest.update(tail[: -width // 2])
            tail = tail[-width // 2 :]
    except OSError:
        return False
    return digest.hexdigest() == tail.hex()


def pieces(path: str) -> Iterator[bytes]:
    """A file's content; a link is not followed."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        while piece := file.read(1 << 16):
            yield piece


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
