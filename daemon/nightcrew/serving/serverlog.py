"""A model server's log: kept in files that do not grow for ever, and read as it comes."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

FILE_BYTES = 16 * 1024 * 1024
OLD_FILES = 3
"""Kept beside the log as `.1` (the newest) to `.3`."""
TAIL_BYTES = 64 * 1024
"""Of the end, kept in memory for whoever asks why the server ended."""
_LINE_BYTES = 16 * 1024

_PHASES = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"Loading safetensors checkpoint shards:\s+(\d+)%", "loading weights: {} %"),
        (r"Load weight begin", "loading weights"),
        (r"Load weight end\. elapsed=([\d.]+) s", "weights loaded in {} s"),
        (r"KV Cache is allocated\..*#tokens: (\d+)", "KV cache of {} tokens"),
        (r"Capturing batches.*?(\d+)%\|", "capturing CUDA graphs: {} %"),
        (r"Capture .*graph begin", "capturing CUDA graphs"),
        (r"Init (?:parallel|torch distributed) begin", "joining the card"),
        (r"The server is fired up and ready to roll", "answering"),
    )
)


def phase_of(line: str) -> str | None:
    """What a line says about how far a start is, in words; None for the others."""
    for pattern, words in _PHASES:
        if match := pattern.search(line):
            return words.format(*match.groups())
    return None


class ServerLog:
    """Takes a server's output in pieces, writes it to `path`, readable by its owner only, and gives out its lines."""

    def __init__(self, path: Path, *, file_bytes: int = FILE_BYTES) -> None:
        self.path = path
        self._most = file_bytes
        self._rest = b""
        self._tail = b""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open()

    @property
    def tail(self) -> str:
        """The end of what this start wrote."""
        return self._tail.decode("utf-8", "replace")

    def begin(self) -> None:
        """A new start: what an earlier one said explains nothing any more."""
        self._rest = self._tail = b""

    def take(self, piece: bytes) -> list[str]:
        """Write a piece and return the lines it completes; a progress bar's carriage returns end lines, too."""
        if self._size + len(piece) > self._most and self._size > 0:
            self._rotate()
        # A full disk must not end a server that works: what cannot be written is lost, and still read.
        with suppress(OSError):
            os.write(self._file, piece)
        self._size += len(piece)
        self._tail = (self._tail + piece)[-TAIL_BYTES:]
        *lines, self._rest = re.split(rb"[\r\n]+", self._rest + piece)
        self._rest = self._rest[-_LINE_BYTES:]
        return [line[:_LINE_BYTES].decode("utf-8", "replace") for line in lines if line.strip()]

    def close(self) -> None:
        os.close(self._file)

    def _open(self) -> None:
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._file).st_size

    def _rotate(self) -> None:
        self.close()
        for number in range(OLD_FILES, 0, -1):
            newer = self._old(number - 1) if number > 1 else self.path
            with suppress(FileNotFoundError):
                newer.replace(self._old(number))
        self._open()

    def _old(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")
