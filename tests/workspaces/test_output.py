"""What is kept of a command's output."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightcrew_workspaces.output import Transcript, clean


def kept(data: bytes, limit: int = 1000, pieces: int = 7) -> tuple[str, int]:
    transcript = Transcript(limit)
    for start in range(0, len(data), pieces):
        transcript.feed(data[start : start + pieces])
    return transcript.finish()


def test_output_within_the_limit_is_whole():
    assert kept(b"one\ntwo\n") == ("one\ntwo\n", 0)


def test_head_and_tail_are_kept_in_whole_lines_with_the_gap_counted():
    data = b"".join(b"line %04d\n" % number for number in range(1000))
    text, omitted = kept(data, limit=100)
    head, tail = text.split(f"[... {omitted} bytes left out ...]\n")
    assert head == "".join(f"line {number:04}\n" for number in range(5))
    assert tail == "".join(f"line {number:04}\n" for number in range(996, 1000))
    assert len(head) + len(tail) + omitted == len(data)


def test_one_endless_line_is_cut_between_characters():
    text, omitted = kept("ä".encode() * 1000, limit=101)
    assert "�" not in text
    assert omitted > 1800


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPdevice control\x1b\\after", "after"),
        ("\x9b2Jcleared", "cleared"),
        ("\x1b(Bcharset", "charset"),
        ("a\r\nb\r\n", "a\nb\n"),
        ("10%\r50%\r100%\ndone", "100%\ndone"),
        ("bell\x07 back\x08 null\x00 tab\t", "bell back null tab\t"),
        ("\u202egnp.exe \U000e0041", "\\u202egnp.exe \\U000e0041"),
        ("\x1b]never ended\nnext line", "\nnext line"),
    ],
)
def test_terminal_control_is_not_passed_on(raw, shown):
    assert clean(raw) == shown


def test_bytes_that_are_not_utf_8_are_replaced():
    assert kept(b"caf\xe9\n") == ("caf�\n", 0)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "é", "\n", "\r\n", "\x1b[31m", "\x1b]0;t\x07", "\x1b[0m", "🙂"]), max_size=40))
def test_what_is_shown_live_is_what_is_kept_however_it_was_cut(parts):
    pieces: list[str] = []
    transcript = Transcript(10_000, pieces.append)
    for byte in "".join(parts).encode():
        transcript.feed(bytes([byte]))
    text, _ = transcript.finish()
    assert "".join(pieces) == text


def test_live_output_ends_after_the_first_mebibyte():
    pieces: list[str] = []
    transcript = Transcript(1000, pieces.append)
    for _ in range(40):
        transcript.feed(b"x" * 65536)
    assert sum(map(len, pieces)) == 1024 * 1024
