from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightcrew_tools.output import ToolError, bounded, head, head_and_tail, relative

TEXT = st.text(st.sampled_from("ab\né😀"), max_size=300)


@given(TEXT, st.integers(20, 200))
def test_a_head_is_a_beginning_within_its_size_and_the_rest_is_counted(text, limit):
    kept, left_out = head(text, limit)
    assert text.startswith(kept)
    assert len(kept.encode()) <= limit
    assert len(kept.encode()) + left_out == len(text.encode())
    assert kept or not text


def test_a_head_ends_with_a_whole_line_where_it_can():
    assert head("one\ntwo\nthree\n", 9) == ("one\ntwo\n", 6)
    assert head("onetwothree", 6) == ("onetwo", 5)


@given(TEXT, st.integers(30, 200))
def test_both_ends_are_kept_and_what_is_between_is_counted(text, limit):
    shown = head_and_tail(text, limit)
    if len(text.encode()) <= limit:
        assert shown == text
    else:
        above, _, below = shown.partition("\n[... ")
        count, _, below = below.partition(" bytes left out ...]\n")
        assert text.startswith(above)
        assert text.endswith(below)
        assert int(count) >= len(text.encode()) - limit - 1


def test_what_was_gone_before_is_counted_too():
    assert "[... 1080 bytes left out ...]" in head_and_tail("x" * 100, 20, omitted=1000)


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("a/b", "a/b"),
        ("./a//b/", "a/b"),
        ("", "."),
        (".", "."),
        ("/workspace", "."),
        ("/workspace/a", "a"),
        ("a/../b", "b"),
        (" a ", "a"),
        ("..a", "..a"),
    ],
)
def test_a_path_is_taken_relative_to_the_workspace(path, inside):
    assert relative(path) == inside


@pytest.mark.parametrize("path", ["..", "a/../..", "/", "/workspaces", "//etc"])
def test_a_path_that_leaves_is_refused(path):
    with pytest.raises(ToolError, match=r"^error\[outside\]: "):
        relative(path)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("FAILED\rPASSED", "FAILED\\rPASSED"),
        ("\u202etxt", "\\u202etxt"),
        ("\U000e0041", "\\U000e0041"),
        ("one\n\ttwo é😀", "one\n\ttwo é😀"),
    ],
)
def test_what_a_terminal_would_obey_or_nobody_sees_is_named_in_an_answer(text, shown):
    assert bounded(text) == shown
