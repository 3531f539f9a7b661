"""The file helper: what it does to files, what it refuses, what it survives."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.boxes import make_box, own
from fakes.filework import applied, code_of, put
from nightcrew_workspaces import boxd, boxd_find, boxd_text, files
from nightcrew_workspaces.boxd_text import Refused
from nightcrew_workspaces.errors import BoxError, FileError
from nightcrew_workspaces.file_facts import Entry, FoundPaths, Listing, Match, SearchResult
from nightcrew_workspaces.files import Files
from nightcrew_workspaces.usage import process_tree

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]


# Reading


async def test_a_file_is_read_with_line_feeds_and_its_facts(helper, workspace):
    put(workspace, a_txt=b"one\r\ntwo\r\nthree")
    text = await helper.read("a.txt")
    assert (text.text, text.first_line, text.last_line, text.total_lines) == ("one\ntwo\nthree", 1, 3, 3)
    assert text.size == 15
    assert not text.truncated
    assert len(text.sha256) == 64
    assert await helper.read("/workspace/a.txt") == text


async def test_some_lines_can_be_read(helper, workspace):
    put(workspace, a_txt=b"".join(b"line %d\n" % number for number in range(1, 11)))
    text = await helper.read("a.txt", start=4, lines=2)
    assert (text.text, text.first_line, text.last_line, text.total_lines) == ("line 4\nline 5\n", 4, 5, 10)
    assert (await helper.read("a.txt", start=9, lines=100)).last_line == 10
    with pytest.raises(FileError, match="10 lines; there is no line 11"):
        await helper.read("a.txt", start=11)


async def test_an_empty_file_has_no_lines(helper, workspace):
    put(workspace, a_txt=b"")
    text = await helper.read("a.txt")
    assert (text.text, text.first_line, text.last_line, text.total_lines) == ("", 1, 0, 0)


async def test_a_long_answer_ends_with_a_whole_line_and_says_so(helper, workspace):
    put(workspace, a_txt=b"x" * 999 + b"\n" + (b"y" * 999 + b"\n") * 400)
    text = await helper.read("a.txt")
    assert text.truncated
    assert (text.last_line, text.total_lines) == (262, 401)
    assert len(text.text) == 262_000
    put(workspace, b_txt=b"z" * 1_000_000)
    text = await helper.read("b.txt")
    assert text.truncated
    assert len(text.text) == 256 * 1024


async def test_what_is_no_text_file_is_refused_with_a_code(helper, workspace, open_tmp):
    put(
        workspace,
        bin=b"\x7fELF\0\1",
        utf32=b"\xff\xfe\0\0a\0\0\0",
        half=b"\xff\xfea",
        controls=b"\x01\x02\xff",
        text=b"x",
    )
    (workspace / "folder").mkdir()
    os.mkfifo(workspace / "pipe")
    with (workspace / "huge").open("wb") as file:
        file.truncate(1 << 40)
    own(workspace)
    assert await code_of(helper.read("bin")) == "not_text"
    assert await code_of(helper.read("utf32")) == "not_text"
    assert await code_of(helper.read("half")) == "not_text"
    assert await code_of(helper.read("controls")) == "not_text"
    assert await code_of(helper.read("folder")) == "is_directory"
    assert await code_of(helper.read("pipe")) == "not_a_file"
    assert await code_of(helper.search("a", path="pipe")) == "not_a_file"
    assert await code_of(helper.write("pipe", "x")) == "not_a_file"
    assert await code_of(helper.read("huge")) == "too_large"
    assert await code_of(helper.read("text/below")) == "not_a_file"
    assert await code_of(helper.read("")) == "bad_request"
    assert await code_of(helper.read("a\0b")) == "bad_request"
    assert await code_of(helper.read("x" * 300)) == "bad_request"


async def test_a_file_that_is_not_there_is_answered_with_what_may_be_meant(helper, workspace):
    put(workspace, src__settings_py=b"")
    with pytest.raises(FileError, match=r"did you mean src/settings\.py\?"):
        await helper.read("src/setings.py")
    with pytest.raises(FileError, match="list src to see"):
        await helper.read("src/zzz")
    with pytest.raises(FileError, match=r"list \. to see"):
        await helper.read("nowhere/at/all")


# Leaving


async def test_nothing_outside_of_the_workspace_is_read_or_written(helper, workspace, open_tmp):
    canary = open_tmp / "canary"
    canary.write_text("secret")
    canary.chmod(0o666)
    (workspace / "passwd").symlink_to("/etc/passwd")
    (workspace / "usr").symlink_to("/usr")
    (workspace / "tmp").symlink_to("/tmp")
    (workspace / "up").symlink_to("../..")
    (workspace / "circle").symlink_to("circle")
    for path in (
        "/etc/passwd",
        "../etc/passwd",
        "passwd",
        "usr/bin/env",
        "up/etc/passwd",
        "a/../../etc/passwd",
        str(canary),
    ):
        assert await code_of(helper.read(path)) == "outside"
        assert await code_of(helper.write(path, "x")) == "outside"
        assert await code_of(helper.edit(path, "a", "b")) == "outside"
    for path in ("tmp/x", "/tmp/x", "../tmp/x"):
        assert await code_of(helper.write(path, "x")) == "outside"
        assert await code_of(helper.move("passwd", path)) == "outside"
        assert await code_of(helper.delete(path)) == "outside"
    assert await code_of(helper.list("usr")) == "outside"
    assert await code_of(helper.search("x", path="up")) == "outside"
    assert await code_of(helper.read("circle")) == "not_a_file"
    assert canary.read_text() == "secret"


async def test_links_within_the_workspace_are_followed_and_stay_links(helper, workspace):
    put(workspace, AGENTS_md=b"be kind\n")
    (workspace / "CLAUDE.md").symlink_to("AGENTS.md")
    assert (await helper.read("CLAUDE.md")).text == "be kind\n"
    await helper.edit("CLAUDE.md", "kind", "brief")
    assert (workspace / "CLAUDE.md").is_symlink()
    assert (workspace / "AGENTS.md").read_text() == "be brief\n"
    await helper.delete("CLAUDE.md")
    assert not (workspace / "CLAUDE.md").is_symlink()
    assert (workspace / "AGENTS.md").exists()


@pytest.mark.parametrize("path", [".git/config", ".GIT/config", "sub/.git/x", "link/config", ".git", ".git./x"])
async def test_gits_own_directory_is_closed_to_everything_that_writes(helper, workspace, path):
    put(workspace, x=b"x")
    (workspace / ".git").mkdir()
    (workspace / ".git" / "config").write_text("[core]\n")
    (workspace / "link").symlink_to(".git")
    own(workspace)
    assert await code_of(helper.write(path, "x")) == "forbidden"
    assert await code_of(helper.edit(path, "core", "x")) == "forbidden"
    assert await code_of(helper.delete(path)) == "forbidden"
    assert await code_of(helper.move(path, "y")) == "forbidden"
    assert await code_of(helper.move("x", path)) == "forbidden"
    assert (workspace / ".git" / "config").read_text() == "[core]\n"


async def test_gits_own_directory_can_be_read(helper, workspace):
    (workspace / ".git").mkdir()
    (workspace / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    assert (await helper.read(".git/HEAD")).text == "ref: refs/heads/main\n"


# Writing


async def test_a_new_file_is_written_with_its_directories(helper, workspace):
    written = await helper.write("a/b/c.txt", "grüße\n")
    assert written.created
    assert (workspace / "a/b/c.txt").read_bytes() == "grüße\n".encode()
    assert (workspace / "a/b/c.txt").stat().st_mode & 0o777 == 0o644
    assert written.sha256 == (await helper.read("a/b/c.txt")).sha256
    assert os.listdir(workspace / "a/b") == ["c.txt"]


async def test_a_file_that_is_written_anew_keeps_its_mode_and_way_of_writing(helper, workspace):
    put(workspace, run_sh=b"\xef\xbb\xbfold\r\ntext\r\n", old_txt=b"caf\xe9\n")
    (workspace / "run.sh").chmod(0o755)
    assert not (await helper.write("run.sh", "new\ntext\n")).created
    assert (workspace / "run.sh").read_bytes() == b"\xef\xbb\xbfnew\r\ntext\r\n"
    assert (workspace / "run.sh").stat().st_mode & 0o777 == 0o755
    await helper.write("old.txt", "thé\n")
    assert (workspace / "old.txt").read_bytes() == b"th\xe9\n"
    await helper.write("old.txt", "茶\n")
    assert (workspace / "old.txt").read_bytes() == "茶\n".encode()


async def test_a_file_that_changed_since_it_was_read_is_left_alone(helper, workspace):
    put(workspace, a_txt=b"one\n")
    seen = (await helper.read("a.txt")).sha256
    put(workspace, a_txt=b"two\n")
    assert await code_of(helper.write("a.txt", "three\n", expected_sha256=seen)) == "changed"
    assert await code_of(helper.edit("a.txt", "two", "three", expected_sha256=seen)) == "changed"
    assert (workspace / "a.txt").read_bytes() == b"two\n"
    (workspace / "a.txt").unlink()
    assert await code_of(helper.write("a.txt", "three\n", expected_sha256=seen)) == "changed"
    assert not (workspace / "a.txt").exists()


async def test_what_cannot_be_written_leaves_the_file_and_nothing_beside_it(helper, workspace):
    put(workspace, folder__a_txt=b"kept")
    (workspace / "folder").chmod(0o555)
    assert await code_of(helper.write("folder/a.txt", "new")) == "forbidden"
    assert await code_of(helper.write("folder", "new")) == "is_directory"
    assert await code_of(helper.write("folder/a.txt/b", "new")) == "not_a_file"
    assert await code_of(helper.write("b.txt", "\ud800")) == "bad_request"
    assert await code_of(helper.write("b.txt", "x" * (10 * 1024 * 1024 + 1))) == "too_large"
    assert os.listdir(workspace / "folder") == ["a.txt"]
    assert os.listdir(workspace) == ["folder"]


async def test_files_are_deleted_and_moved(helper, workspace):
    put(workspace, a_txt=b"a", b_txt=b"b", folder__c_txt=b"c")
    await helper.delete("a.txt")
    await helper.move("b.txt", "new/place/b.txt")
    await helper.move("folder", "renamed")
    assert (workspace / "new/place/b.txt").read_bytes() == b"b"
    assert (workspace / "renamed/c.txt").read_bytes() == b"c"
    assert sorted(os.listdir(workspace)) == ["new", "renamed"]
    assert await code_of(helper.delete("a.txt")) == "not_found"
    assert await code_of(helper.delete("renamed")) == "not_empty"
    assert await code_of(helper.delete(".")) == "forbidden"
    assert await code_of(helper.move("missing", "x")) == "not_found"
    assert await code_of(helper.move("new/place/b.txt", "renamed/c.txt")) == "exists"
    assert await code_of(helper.move("new", "renamed")) == "exists"
    assert await code_of(helper.move("new", "new/below")) == "bad_request"


# Editing


async def test_an_edit_changes_what_it_names_and_shows_it(helper, workspace):
    put(workspace, a_py=b"def f():\n    return 1\n\n\ndef g():\n    return 2")
    edited = await helper.edit("/workspace/a.py", "return 2", "return 3")
    assert (workspace / "a.py").read_bytes() == b"def f():\n    return 1\n\n\ndef g():\n    return 3"
    assert edited.replaced == 1
    assert edited.diff == (
        "--- a/a.py\n+++ b/a.py\n@@ -3,4 +3,4 @@\n \n \n def g():\n-    return 2\n\\ No newline at end of file\n"
        "+    return 3\n\\ No newline at end of file\n"
    )
    assert edited.sha256 == (await helper.read("a.py")).sha256


async def test_an_edit_keeps_encoding_mark_endings_and_mode(helper, workspace):
    put(workspace, a_txt=b"\xef\xbb\xbfone\r\ntwo\r\nthree", b_txt=b"caf\xe9\nth\xe9\n")
    (workspace / "a.txt").chmod(0o750)
    await helper.edit("a.txt", "one\ntwo\n", "1\n1.5\n2\n")
    assert (workspace / "a.txt").read_bytes() == b"\xef\xbb\xbf1\r\n1.5\r\n2\r\nthree"
    assert (workspace / "a.txt").stat().st_mode & 0o777 == 0o750
    await helper.edit("b.txt", "thé", "Thé à la menthe")
    assert (workspace / "b.txt").read_bytes() == b"caf\xe9\nTh\xe9 \xe0 la menthe\n"
    assert await code_of(helper.edit("b.txt", "café", "咖啡")) == "not_text"


async def test_a_dry_run_shows_the_change_and_makes_none(helper, workspace):
    put(workspace, a_txt=b"one\n")
    assert "-one\n+two\n" in (await helper.edit("a.txt", "one", "two", dry_run=True)).diff
    assert (workspace / "a.txt").read_bytes() == b"one\n"


async def test_an_edit_needs_exactly_as_many_places_as_were_named(helper, workspace):
    put(workspace, a_txt=b"x = 1\ny = 1\nx = 1\n")
    with pytest.raises(FileError, match=r"3 times \(lines 1, 2, 3\), not 1") as refused:
        await helper.edit("a.txt", "= 1", "= 2")
    assert refused.value.code == "several_matches"
    assert await code_of(helper.edit("a.txt", "= 1", "= 2", count=2)) == "several_matches"
    assert await code_of(helper.edit("a.txt", "", "= 2")) == "bad_request"
    assert await code_of(helper.edit("a.txt", "x", "x")) == "bad_request"
    assert (workspace / "a.txt").read_bytes() == b"x = 1\ny = 1\nx = 1\n"
    assert (await helper.edit("a.txt", "= 1", "= 2", count=3)).replaced == 3
    assert (workspace / "a.txt").read_bytes() == b"x = 2\ny = 2\nx = 2\n"


async def test_old_text_that_is_not_there_is_answered_with_the_nearest_lines(helper, workspace):
    put(
        workspace,
        a_py=b"class A:\n    def run(self):\n        return compute(1)\n\n    def stop(self):\n        pass\n",
    )
    with pytest.raises(FileError, match="Lines 2 to 3 differ from it in white space only") as refused:
        await helper.edit("a.py", "def run(self):\n    return compute(1)", "x")
    assert refused.value.code == "no_match"
    assert "    def run(self):\n        return compute(1)" in refused.value.message
    with pytest.raises(FileError, match=r"3:         return compute\(1\)"):
        await helper.edit("a.py", "return compute(2)", "x")
    with pytest.raises(FileError, match="Nothing there looks like it"):
        await helper.edit("a.py", "zzzzzzzzzzzzzzzzz", "x")


ENDINGS = st.sampled_from(["\n", "\r\n"])
LINES = st.lists(st.tuples(st.text("ab é\t", max_size=6), ENDINGS), max_size=12)


@settings(deadline=None)
@given(
    before=LINES,
    old=LINES,
    new=st.text("xyz\n", max_size=8),
    after=LINES,
    raw_codec=st.sampled_from(["utf-8", "utf-8-sig", "latin-1"]),
)
def test_an_edit_leaves_every_other_byte_as_it_was(before, old, new, after, raw_codec):
    head, middle, tail = ("".join(map("".join, part)) for part in (before, old, after))
    middle = f"<{middle}>"
    raw = (head + middle + tail).encode(raw_codec)
    content = boxd_text.decode(raw, "f")
    replaced = boxd_text.replace(content.text, middle.replace("\r\n", "\n"), new, 1, "f")
    result = boxd_text.encode(replaced.after, content.codec, "f")
    mark = boxd_text.BOM if raw.startswith(boxd_text.BOM) else b""
    codec = content.codec.removesuffix("-sig")
    assert result.startswith(mark + head.encode(codec))
    assert result.endswith(tail.encode(codec))
    between = result[len(mark + head.encode(codec)) : len(result) - len(tail.encode(codec))]
    assert between.replace(b"\r\n", b"\n") == new.encode()


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "#", ""]), max_size=60), st.text("x\n", max_size=4), st.booleans())
def test_the_diff_of_an_edit_makes_the_new_text_of_the_old_one(lines, new, final):
    text = "\n".join(lines) + ("\n" if final else "")
    count = text.count("#\n")
    if count:
        replaced = boxd_text.replace(text, "#\n", new, count, "f") if new != "#\n" else None
        if replaced is not None:
            assert applied(text, boxd_text.unified_diff(replaced, "f")) == replaced.after


# Finding


@pytest.fixture
def project(workspace) -> Path:
    put(
        workspace,
        _gitignore=b"ignored/\n*.log\n",
        a_py=b"import os\n",
        src__b_py=b"def find_me():\n    return 1\n",
        src__deep__c_py=b"x = 'find_me'\r\n",
        src__d_txt=b"find_me (literally)\n",
        ignored__e_py=b"find_me\n",
        f_log=b"find_me\n",
        binary_bin=b"find_me\0\n",
        _git__config=b"find_me\n",
        _hidden__g_py=b"h\n",
    )
    (workspace / "link").symlink_to("a.py")
    (workspace / "empty").mkdir()
    own(workspace)
    return workspace


async def test_a_binary_file_is_left_out_of_a_search_whatever_its_name_says(helper, workspace):
    (workspace / 'a"binary_offset":null').write_bytes(b"find_me\n\0\n")
    (workspace / 'b"binary_offset":7').write_bytes(b"find_me\n")
    found = await helper.search("find_me")
    assert [match.path for match in found.matches] == ['b"binary_offset":7']


async def test_a_listing_is_sorted_and_leaves_out_what_is_ignored(helper, project):
    assert await helper.list() == Listing(
        (
            Entry(".gitignore", "file", 15),
            Entry(".hidden", "directory", 0),
            Entry("a.py", "file", 10),
            Entry("binary.bin", "file", 9),
            Entry("empty", "directory", 0),
            Entry("link", "link", 0),
            Entry("src", "directory", 0),
        ),
        None,
    )
    assert [entry.path for entry in (await helper.list("src", depth=2)).entries] == [
        *("src/b.py", "src/d.txt", "src/deep", "src/deep/c.py"),
    ]
    assert len((await helper.list(depth=9, limit=3)).entries) == 3
    assert await code_of(helper.list("a.py")) == "not_a_file"
    assert await code_of(helper.list("missing")) == "not_found"


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.py", [".hidden/g.py", "a.py", "src/b.py", "src/deep/c.py"]),
        ("/workspace/*.py", [".hidden/g.py", "a.py", "src/b.py", "src/deep/c.py"]),
        ("src/*.py", ["src/b.py"]),
        ("src/**/*.py", ["src/b.py", "src/deep/c.py"]),
        ("**/deep/**", ["src/deep/c.py"]),
        ("src/", ["src/b.py", "src/d.txt", "src/deep/c.py"]),
        ("[ab].{py,txt}", ["a.py", "src/b.py"]),
        ("[!ab].{py,txt}", [".hidden/g.py", "src/d.txt", "src/deep/c.py"]),
        ("?.txt", ["src/d.txt"]),
        ("nothing*", []),
    ],
)
async def test_a_glob_names_files(helper, project, pattern, found):
    assert await helper.glob(pattern) == FoundPaths(tuple(found), None)


async def test_a_glob_says_when_there_is_more_and_when_it_is_none(helper, project):
    assert await helper.glob("*.py", limit=1) == FoundPaths((".hidden/g.py",), ".hidden/g.py")
    for wrong in ("", "{a,b", "[z-a]"):
        assert await code_of(helper.glob(wrong)) == "bad_pattern"


async def test_a_search_finds_lines_in_order_and_skips_what_is_ignored(helper, project):
    assert await helper.search("find_me") == SearchResult(
        (
            Match("src/b.py", 1, "def find_me():"),
            Match("src/d.txt", 1, "find_me (literally)"),
            Match("src/deep/c.py", 1, "x = 'find_me'"),
        ),
        None,
    )


async def test_a_search_can_be_narrowed(helper, project):
    async def paths(pattern: str, **how) -> list[str]:
        return [match.path for match in (await helper.search(pattern, **how)).matches]

    assert await paths("find_me", path="src/deep") == ["src/deep/c.py"]
    assert await paths("find_me", path="src/b.py") == ["src/b.py"]
    assert await paths("find_me", glob="*.txt") == ["src/d.txt"]
    assert await paths("find_me", glob="*.bin") == []
    assert await paths("find_me", glob="*.log") == []
    assert await paths("find_me (lit", regex=False) == ["src/d.txt"]
    assert await paths("FIND_ME") == []
    assert await paths("(?i)FIND_ME$") == []
    assert await paths("find_me'$") == ["src/deep/c.py"]
    assert await paths(r"find(?=_me\()") == ["src/b.py"]
    assert await paths("zzz", glob="*.nothing") == []
    assert await code_of(helper.search("find_me", path="missing")) == "not_found"


async def test_a_search_shows_context_and_says_when_there_is_more(helper, project):
    result = await helper.search("find_me", glob="b.py", context=1)
    assert result.matches == (Match("src/b.py", 1, "def find_me():"), Match("src/b.py", 2, "    return 1", False))
    result = await helper.search("find_me", limit=2)
    assert [match.path for match in result.matches] == ["src/b.py", "src/d.txt"]
    assert result.cursor == "src/d.txt:1"


async def test_a_pattern_that_is_none_says_what_to_do(helper, project):
    with pytest.raises(FileError, match=r"not valid: unclosed group; escape it, or search without regex") as refused:
        await helper.search("f(")
    assert refused.value.code == "bad_pattern"
    for wrong in ("", "a\nb"):
        assert await code_of(helper.search(wrong)) == "bad_pattern"


async def test_a_very_long_line_is_shown_around_the_match(helper, workspace):
    put(workspace, min_js=b"x" * 5000 + b"needle" + b"y" * 5000)
    (match,) = (await helper.search("needle")).matches
    assert "needle" in match.text
    assert len(match.text) < 510


@pytest.mark.parametrize("git", [True, False])
def test_without_ripgrep_the_same_is_found(project, monkeypatch, git):
    if git:
        subprocess.run(["chown", "-R", f"{os.geteuid()}:{os.getegid()}", project], check=True)
        shutil.rmtree(project / ".git")
        (project / "gone.py").touch()
        subprocess.run(["git", "init", "-q"], cwd=project, check=True)
        subprocess.run(["git", "add", "a.py", "gone.py"], cwd=project, check=True)
        (project / "gone.py").unlink()
    here = boxd.Helper(str(project))
    asked = [
        {"op": "list", "depth": 3},
        {"op": "glob", "pattern": "*.py"},
        {"op": "search", "pattern": "find_me", "context": 1},
        {"op": "search", "pattern": "find_me", "glob": "*.py", "limit": 1},
        {"op": "search", "pattern": "return", "path": "src/b.py", "context": 2},
        {"op": "search", "pattern": "me (lit", "regex": False},
    ]
    if not git:
        (project / ".gitignore").write_bytes(b"")
        (project / "f.log").unlink()
    with_ripgrep = [boxd.answer(here, dict(each)) for each in asked]
    monkeypatch.setattr(boxd_find, "RG", "/nonexistent")
    assert [boxd.answer(here, dict(each)) for each in asked] == with_ripgrep
    assert boxd.answer(here, {"op": "search", "pattern": "("})["error"]["code"] == "bad_pattern"


# The helper itself


async def test_the_helper_starts_at_the_first_request_and_ends_when_closed(workspace):
    put(workspace, a_txt=b"a")
    gc.collect()  # what earlier tests left to the collector must not close meanwhile
    before = sorted(os.listdir("/proc/self/fd"))
    helper = Files(make_box(workspace))
    assert sorted(os.listdir("/proc/self/fd")) == before
    await helper.read("a.txt")
    await helper.aclose()
    await helper.aclose()
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert (await helper.read("a.txt")).text == "a"
    await helper.aclose()


def helper_process(helper: Files) -> int:
    """The helper itself, the last of the processes of its box."""
    assert helper._channel is not None
    return list(process_tree(helper._channel._process.pid))[-1]


async def test_a_helper_that_died_is_started_again(helper, workspace):
    put(workspace, a_txt=b"a")
    await helper.start()
    os.kill(helper_process(helper), signal.SIGKILL)
    assert (await helper.read("a.txt")).text == "a"


async def test_a_helper_that_dies_while_it_writes_is_not_asked_twice(helper, workspace):
    await helper.start()
    pid = helper_process(helper)
    os.kill(pid, signal.SIGSTOP)
    codes: list[str] = []

    async def write() -> None:
        codes.append(await code_of(helper.write("a.txt", "x")))

    async with anyio.create_task_group() as group:
        group.start_soon(write)
        await anyio.wait_all_tasks_blocked()
        os.kill(pid, signal.SIGKILL)
    assert codes == ["failed"]
    assert (await helper.write("a.txt", "y")).created


async def test_a_request_that_takes_too_long_is_given_up_and_the_next_one_works(workspace):
    put(workspace, a_txt=b"a")
    helper = Files(make_box(workspace), seconds=0.3)
    await helper.start()
    os.kill(helper_process(helper), signal.SIGSTOP)
    assert await code_of(helper.read("a.txt")) == "timeout"
    assert (await helper.read("a.txt")).text == "a"
    await helper.aclose()


async def test_a_cancelled_request_does_not_answer_the_next_one(helper, workspace):
    put(workspace, a_txt=b"a", b_txt=b"b")
    await helper.start()
    os.kill(helper_process(helper), signal.SIGSTOP)
    with anyio.move_on_after(0.05):
        await helper.read("a.txt")
    assert (await helper.read("b.txt")).text == "b"


async def test_requests_made_at_the_same_time_get_their_own_answers(helper, workspace):
    put(workspace, **{f"{letter}_txt": letter.encode() for letter in "abcdefgh"})
    answers: dict[str, str] = {}

    async def read(letter: str) -> None:
        answers[letter] = (await helper.read(f"{letter}.txt")).text

    async with anyio.create_task_group() as group:
        for letter in "abcdefgh":
            group.start_soon(read, letter)
    assert answers == {letter: letter for letter in "abcdefgh"}


async def test_other_commands_cannot_reach_into_the_helper(helper, workspace):
    await helper.start()
    status = Path(f"/proc/{helper_process(helper)}/status").read_text()
    assert "\nSeccomp:\t2\n" in status
    assert Path(f"/proc/{helper_process(helper)}/mem").stat().st_uid == 0


ANSWERS = [
    b'{"ok": 5}',
    b'{"ok": {"text": 1}}',
    b'{"error": "x"}',
    b'{"error": {"code": 1, "message": []}}',
    b"[]",
    b"\\xff",
    b"not json",
    b"{}",
]


@pytest.mark.parametrize("body", ANSWERS)
async def test_an_answer_that_is_none_is_an_error_and_nothing_worse(workspace, monkeypatch, body):
    program = (
        "import os\n"
        "def send(body): os.write(1, len(body).to_bytes(4, 'big') + body)\n"
        "send(b'{}')\n"
        f"while os.read(0, 65536): send(b'{body.decode()}')\n"
    )
    monkeypatch.setattr(files, "_HELPER", ("/usr/bin/python3", "-I", "-S", "-c", program))
    helper = Files(make_box(workspace))
    assert await code_of(helper.read("a.txt")) == "failed"
    await helper.aclose()


async def test_an_answer_without_end_is_not_waited_for(workspace, monkeypatch):
    program = "import os\nos.write(1, b'\\0\\0\\0\\2{}')\nos.read(0, 9)\nos.write(1, b'\\xff' * 9)\nos.read(0, 9)"
    monkeypatch.setattr(files, "_HELPER", ("/usr/bin/python3", "-I", "-S", "-c", program))
    helper = Files(make_box(workspace))
    assert await code_of(helper.read("a.txt")) == "failed"
    await helper.aclose()


async def test_an_unknown_code_is_passed_on_as_failed(workspace, monkeypatch):
    program = (
        "import os\n"
        "def send(body): os.write(1, len(body).to_bytes(4, 'big') + body)\n"
        "send(b'{}')\n"
        'while os.read(0, 65536): send(b\'{"error": {"code": "pwned", "message": "m"}}\')\n'
    )
    monkeypatch.setattr(files, "_HELPER", ("/usr/bin/python3", "-I", "-S", "-c", program))
    helper = Files(make_box(workspace))
    assert await code_of(helper.read("a.txt")) == "failed"
    await helper.aclose()


async def test_a_helper_that_cannot_start_says_why(open_tmp, workspace, monkeypatch):
    with pytest.raises(BoxError, match="does not exist"):
        await Files(make_box(open_tmp / "missing")).start()
    monkeypatch.setattr(files, "_HELPER", ("/bin/sh", "-c", "echo broken >&2"))
    with pytest.raises(BoxError, match="did not start: broken"):
        await Files(make_box(workspace)).read("a.txt")


def test_a_bad_request_does_not_end_the_helper(tmp_path):
    here = boxd.Helper(str(tmp_path))
    for request in (
        {},
        {"op": "nothing"},
        {"op": "read"},
        {"op": "read", "path": 5},
        {"op": "operation", "name": "read"},
    ):
        assert boxd.answer(here, request)["error"]["code"] == "bad_request"


def test_an_answer_keeps_its_code():
    assert Refused("no_match", "x").code == "no_match"
