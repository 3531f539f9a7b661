"""What a command printed: head and tail kept, control sequences stripped, a flood thrown away as it comes."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable

_LIVE_CHARACTERS = 1024 * 1024
_LONGEST_SEQUENCE = 1024
_WHOLE_LINES = 4096  # how far a cut moves to fall between two lines

_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"  # OSC, DCS, SOS, PM, APC
    r"|\x1b[ -/]*[0-~]"  # the other escapes
)
_UNFINISHED = re.compile(r"(?:\x1b(?:\[[0-?]*|[\]PX^_][^\x07\x1b\n]*\x1b?)?[ -/]*|\r)\Z")
_OVERWRITTEN = re.compile(r"[^\n]*\r(?!\n)")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# Invisible, or they turn the direction in which a line is read: named, so that it is known that they are there.
_UNSEEN = re.compile(r"[\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]")


def clean(text: str) -> str:
    """Plain text as a terminal would show it in the end: no control sequences, no overwritten progress lines.

    Characters that are there and cannot be seen are named (`\\u202e`).
    """
    text = _SEQUENCES.sub("", text)
    text = re.sub(r"\r+(?=\n|\Z)", "", text)
    if "\r" in text:
        text = _OVERWRITTEN.sub("", text)
    text = _CONTROLS.sub("", text)
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class Transcript:
    """Takes output in as it comes; keeps the first and the last half of `limit` bytes.

    `on_output` gets cleaned pieces of the first MiB while the command runs. It is called from the event loop and must
    not raise.
    """

    def __init__(self, limit: int, on_output: Callable[[str], None] | None = None) -> None:
        self.total = 0
        """Bytes that came."""
        self._half = max(limit // 2, 1)
        self._head = bytearray()
        self._tail = bytearray()
        self._live = _Live(on_output) if on_output is not None else None

    def feed(self, data: bytes) -> None:
        """Take in the next piece."""
        self.total += len(data)
        if self._live is not None:
            self._live.feed(data)
        room = self._half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if len(data) >= self._half:
            self._tail[:] = data[-self._half :]
        elif data:
            self._tail += data
            if len(self._tail) > 4 * self._half:
                del self._tail[: -self._half]

    def finish(self) -> tuple[str, int]:
        """The cleaned text and how many bytes are missing from it; where they were, a line says so."""
        if self._live is not None:
            self._live.finish()
        tail = bytes(self._tail[-self._half :])
        if self.total == len(self._head) + len(tail):
            return clean((bytes(self._head) + tail).decode(errors="replace")), 0
        head = _until_line_end(bytes(self._head))
        tail = _from_line_start(tail)
        omitted = self.total - len(head) - len(tail)
        before = clean(codecs.getincrementaldecoder("utf-8")(errors="replace").decode(head))  # a cut character goes
        after = clean(tail.decode(errors="replace"))
        gap = "" if before.endswith("\n") or not before else "\n"
        return f"{before}{gap}[... {omitted} bytes left out ...]\n{after}", omitted


class _Live:
    """Cleans a stream piece by piece: a sequence that is cut off waits for its rest."""

    def __init__(self, on_output: Callable[[str], None]) -> None:
        self._on_output = on_output
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._waiting = ""
        self._left = _LIVE_CHARACTERS

    def feed(self, data: bytes) -> None:
        if self._left > 0:
            self._emit(self._waiting + self._decoder.decode(data), last=False)

    def finish(self) -> None:
        self._emit(self._waiting, last=True)

    def _emit(self, text: str, *, last: bool) -> None:
        self._waiting = ""
        unfinished = None if last else _UNFINISHED.search(text, max(0, len(text) - _LONGEST_SEQUENCE))
        if unfinished is not None:
            text, self._waiting = text[: unfinished.start()], unfinished.group()
        if text := clean(text)[: self._left]:
            self._left -= len(text)
            self._on_output(text)


def _until_line_end(head: bytes) -> bytes:
    end = head.rfind(b"\n", max(0, len(head) - _WHOLE_LINES))
    return head[: end + 1] if end >= 0 else head


def _from_line_start(tail: bytes) -> bytes:
    start = tail.find(b"\n", 0, _WHOLE_LINES)
    return tail[start + 1 :] if 0 <= start < len(tail) - 1 else tail.lstrip(bytes(range(0x80, 0xC0)))
