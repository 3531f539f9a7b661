"""Edits of one or several files: what they change, and that nothing else changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fakes.filework import applied, code_of, put
from nightcrew_workspaces import boxd, boxd_store, boxd_text
from nightcrew_workspaces.boxd_text import Refused
from nightcrew_workspaces.errors import FileError
from nightcrew_workspaces.file_facts import Edit

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]


async def test_several_edits_of_several_files_are_made_at_once(helper, workspace):
    put(workspace, a_py=b"one\ntwo\nthree\n", b_py=b"one\r\n")
    edited = await helper.edit_all(
        [Edit("a.py", "one", "ONE"), Edit("b.py", "one", "1"), Edit("/workspace/a.py", "ONE\ntwo", "1\n2")]
    )
    assert (workspace / "a.py").read_bytes() == b"1\n2\nthree\n"
    assert (workspace / "b.py").read_bytes() == b"1\r\n"
    assert [each.path for each in edited] == ["a.py", "b.py"]
    assert edited[0].diff == "--- a/a.py\n+++ b/a.py\n@@ -1,3 +1,3 @@\n-one\n-two\n+1\n+2\n three\n"
    assert edited[0].sha256 == (await helper.read("a.py")).sha256


async def test_when_one_edit_cannot_be_made_none_is(helper, workspace):
    put(workspace, a_py=b"one\n", b_py=b"one\n")
    with pytest.raises(
        FileError, match=r"(?s)^edit 2 of 2: the old text is not in b\.py.*None of the edits was made"
    ) as error:
        await helper.edit_all([Edit("a.py", "one", "two"), Edit("b.py", "nope", "two")])
    assert error.value.code == "no_match"
    (workspace / "b.py").chmod(0o444)
    assert await code_of(helper.edit_all([Edit("a.py", "one", "two"), Edit("b.py", "one", "two")])) == "forbidden"
    assert (workspace / "a.py").read_bytes() == b"one\n"
    assert os.listdir(workspace) in (["a.py", "b.py"], ["b.py", "a.py"])


async def test_a_dry_run_of_several_edits_changes_nothing(helper, workspace):
    put(workspace, a_py=b"one\n")
    (edited,) = await helper.edit_all([Edit("a.py", "one", "two")], dry_run=True)
    assert "-one\n+two\n" in edited.diff
    assert (workspace / "a.py").read_bytes() == b"one\n"


async def test_an_edit_of_a_file_that_is_not_the_one_that_was_read_is_refused(helper, workspace):
    put(workspace, a_py=b"one\ntwo\n")
    seen = (await helper.read("a.py")).sha256
    await helper.edit_all([Edit("a.py", "one", "1", expected_sha256=seen), Edit("a.py", "two", "2", 1, seen.upper())])
    assert (workspace / "a.py").read_bytes() == b"1\n2\n"
    assert await code_of(helper.edit_all([Edit("a.py", "1", "one", expected_sha256=seen)])) == "changed"


async def test_a_file_that_is_reached_through_a_link_is_edited_once(helper, workspace):
    put(workspace, a_py=b"one two\n")
    (workspace / "link.py").symlink_to("a.py")
    await helper.edit_all([Edit("a.py", "one", "1"), Edit("link.py", "two", "2")])
    assert (workspace / "a.py").read_bytes() == b"1 2\n"
    assert (workspace / "link.py").is_symlink()


async def test_no_edit_and_very_many_edits_are_refused(helper, workspace):
    put(workspace, a_py=b"one\n")
    assert await code_of(helper.edit_all([])) == "bad_request"
    assert await code_of(helper.edit_all([Edit("a.py", "one", "two")] * 201)) == "bad_request"


def test_when_a_file_cannot_be_replaced_those_before_it_are_put_back(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text("old\n")
        (tmp_path / name).chmod(0o640)
    real, calls = os.rename, []

    def rename(source, target, **where):
        calls.append(target)
        if target == "c":
            raise OSError(5, "Input/output error")
        real(source, target, **where)

    monkeypatch.setattr(boxd_store.os, "rename", rename)
    edits = [{"path": name, "old": "old", "new": "new"} for name in ("a", "b", "c")]
    answer = boxd.answer(boxd.Helper(str(tmp_path)), {"op": "edit_all", "edits": edits})
    assert answer["error"]["code"] == "failed"
    assert calls == ["a", "b", "c", "b", "a"]
    assert {name: (tmp_path / name).read_text() for name in sorted(os.listdir(tmp_path))} == dict.fromkeys(
        "abc", "old\n"
    )
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
async def test_utf_16_is_read_searched_and_edited_as_what_it_is(helper, workspace, codec):
    mark = "\ufeff".encode(codec)
    put(workspace, a_txt=mark + "Größe 𝄞\r\nzwei\r\n".encode(codec))
    assert (await helper.read("a.txt")).text == "Größe 𝄞\nzwei\n"
    assert [match.line for match in (await helper.search("zwei")).matches] == [2]
    await helper.edit("a.txt", "zwei\n", "drei\nvier\n")
    assert (workspace / "a.txt").read_bytes() == mark + "Größe 𝄞\r\ndrei\r\nvier\r\n".encode(codec)
    await helper.append("a.txt", "Schluß\n")
    await helper.write("b.txt", "x")
    await helper.write("a.txt", "neu\n")
    assert (workspace / "a.txt").read_bytes() == mark + "neu\r\n".encode(codec)


async def test_appended_text_begins_on_a_line_of_its_own_in_the_files_way(helper, workspace):
    put(workspace, a_txt=b"\xef\xbb\xbfone\r\ntwo", b_txt=b"caf\xe9\n")
    (workspace / "b.txt").chmod(0o755)
    assert not (await helper.append("a.txt", "three\nfour\n")).created
    assert (workspace / "a.txt").read_bytes() == b"\xef\xbb\xbfone\r\ntwo\r\nthree\r\nfour\r\n"
    await helper.append("b.txt", "th\xe9\n")
    assert (workspace / "b.txt").read_bytes() == b"caf\xe9\nth\xe9\n"
    assert (workspace / "b.txt").stat().st_mode & 0o777 == 0o755
    assert (await helper.append("new/c.txt", "one\n")).created
    assert (workspace / "new/c.txt").read_bytes() == b"one\n"
    put(workspace, bin=b"\0")
    assert await code_of(helper.append("bin", "x")) == "not_text"


CODECS = st.sampled_from(["utf-8", "utf-8-sig", "latin-1", "utf-16-le", "utf-16-be"])
PIECES = st.lists(
    st.sampled_from(["a", "bc", "é", "\n", "\r\n", "\r", "\t", "\x0b", "\u0085", "<x>", "<yy>"]), max_size=30
)


@settings(deadline=None, max_examples=200)
@given(
    PIECES,
    CODECS,
    st.lists(st.tuples(st.sampled_from(["<x>", "<yy>", "a"]), st.text("pq\né", max_size=4)), min_size=1, max_size=4),
)
def test_many_edits_leave_every_byte_outside_of_the_matches_as_it_was(pieces, codec, edits):
    text = "".join(pieces)
    raw = boxd_text.encode(text, codec, "f")
    content = boxd_text.decode(raw, "f")
    assume(content.codec == codec or not text.isascii())
    assert boxd_text.encode(content.text, content.codec, "f") == raw
    whole, expected = None, content.text
    for old, new in edits:
        count = expected.count(old)
        if not count or new == old:
            continue
        try:
            step = boxd_text.replace(expected, old, new, count, "f")
        except Refused:
            continue
        whole = step if whole is None else boxd_text.composed(whole, step)
        assert len(step.places) == count
        for start, end, new_start, new_end in step.places:
            assert step.before[start:end] == old
            assert step.after[new_start:new_end].replace("\r\n", "\n") == new
        expected = step.after
    if whole is not None:
        assert (whole.before, whole.after) == (content.text, expected)
        at_before = at_after = 0
        for start, end, new_start, new_end in whole.places:
            assert whole.before[at_before:start] == whole.after[at_after:new_start]
            at_before, at_after = end, new_end
        assert whole.before[at_before:] == whole.after[at_after:]
        if whole.before.splitlines() == whole.before.split("\n")[: len(whole.before.splitlines())]:
            assert applied(whole.before, boxd_text.unified_diff(whole, "f")) == whole.after


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_whatever_can_be_decoded_is_encoded_to_the_same_bytes(raw):
    try:
        content = boxd_text.decode(raw, "f")
    except Refused:
        return
    assert boxd_text.encode(content.text, content.codec, "f") == raw


def test_line_endings_are_named(tmp_path: Path):
    for raw, endings in ((b"", "none"), (b"a\n", "lf"), (b"a\r\n", "crlf"), (b"a\r\nb\n", "mixed")):
        assert boxd_text.decode(raw, "f").endings == endings
