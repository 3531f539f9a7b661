from __future__ import annotations

import os
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightcrew_tools.git_parse import lfs_pointer, parse_blame, parse_log, parse_state, parse_status, parse_worktrees
from nightcrew_tools.git_remote import local_path
from nightcrew_tools.git_words import mixed_endings, path_text, ref_problem, shown, visible

NAMES = st.text(st.sampled_from("ab/.@{}-~^:?*[\\ \x7f\nlockHEADä"), max_size=12)


@settings(max_examples=150, deadline=None)
@given(NAMES)
def test_names_of_branches_follow_gits_own_rules(name):
    full = ["git", "check-ref-format", f"refs/heads/{name}"]
    allowed = subprocess.run(full, check=False).returncode == 0
    special = name.startswith("-") or name in ("HEAD", "@")
    assert (ref_problem(name) is None) == (allowed and not special)


@given(st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name))
def test_every_file_name_is_understood_as_it_is_shown(name):
    text = shown(name)
    assert text.isprintable()
    assert text.encode().decode() == text
    if name.strip() == name and not any(letter.isspace() for letter in (text[:1], text[-1:])):
        assert os.fsencode(path_text(text)) == name


@given(st.binary(max_size=300))
def test_no_bytes_break_a_parser_or_stay_hidden(data):
    for parse in (parse_status, parse_log, parse_blame, parse_worktrees, lfs_pointer, mixed_endings):
        parse(data)
    text = visible(data, keep_returns=True)
    assert not any(ord(letter) < 0x20 and letter not in "\t\n" for letter in text)
    assert not any(0x7F <= ord(letter) < 0xA0 for letter in text)


@pytest.mark.parametrize(
    ("found", "state"),
    [
        ({}, ("none", "")),
        ({"MERGE_HEAD": "x"}, ("merge", "")),
        ({"rebase-merge": "", "MERGE_HEAD": "x", "rebase-merge/msgnum": "2\n", "rebase-merge/end": "5\n"},
         ("rebase", "step 2 of 5")),
        ({"rebase-apply": "", "rebase-apply/applying": "", "rebase-apply/next": "1", "rebase-apply/last": "x"},
         ("am", "")),
    ],
)  # fmt: skip
def test_the_first_of_nested_operations_is_the_one_in_progress(found, state):
    assert parse_state(found) == state


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///r/x%20y.git", "/r/x y.git"), ("/r/../s", "/s"), ("../x", "/top/x"), ("./a:b", "/top/in/a:b"),
        ("file://host/x", None), ("host:x", None), ("https://h/x", None), ("ext::sh -c id", None), ("C:/x", None),
    ],
)  # fmt: skip
def test_only_paths_are_local(url, path):
    assert local_path(url, "/top/in") == path
