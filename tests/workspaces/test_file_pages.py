"""Finding in pages: what a cursor goes on from, and that size does not matter."""

from __future__ import annotations

import fnmatch
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.boxes import own
from fakes.filework import code_of, put
from nightcrew_workspaces import boxd, boxd_find, boxd_load
from nightcrew_workspaces.boxd_find import Page, glob_pattern, order
from nightcrew_workspaces.errors import FileError

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]

TREE = ("a/b/c.txt", "a/b.txt", "a-b/x.txt", "a.txt", "b/1.txt", "b/2.txt", "c d.txt", "é/ü.txt")
ORDERED = ["a/b/c.txt", "a/b.txt", "a-b/x.txt", "a.txt", "b/1.txt", "b/2.txt", "c d.txt", "é/ü.txt"]


@pytest.fixture
def tree(workspace) -> Path:
    for name in TREE:
        (workspace / name).parent.mkdir(exist_ok=True, parents=True)
        (workspace / name).write_text("word one\nword two\n")
    own(workspace)
    return workspace


async def followed(page, take) -> list[object]:
    """All results of a paged operation, one page after the other."""
    found: list[object] = []
    cursor = None
    for _ in range(100):
        result = await page(cursor)
        found += take(result)
        if result.cursor is None:
            return found
        cursor = result.cursor
    raise AssertionError("no end")


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_pages_put_together_are_the_whole(helper, tree, limit):
    paths = await followed(lambda after: helper.glob("**", limit=limit, after=after), lambda page: page.paths)
    assert paths == ORDERED
    entries = await followed(
        lambda after: helper.list(depth=3, limit=limit, after=after), lambda page: [each.path for each in page.entries]
    )
    folders = ["a", "a/b", "a-b", "b", "é"]
    assert entries == sorted([*TREE, *folders], key=order)
    lines = await followed(lambda after: helper.outline(depth=1, limit=limit, after=after), lambda page: page.lines)
    assert lines == [("a", 2), ("a-b", 1), ("a.txt", 0), ("b", 2), ("c d.txt", 0), ("é", 1)]
    everything = await followed(
        lambda after: helper.list_all(limit=limit, after=after), lambda page: [each.path for each in page.entries]
    )
    assert everything == ["a", "a-b", "a.txt", "b", "c d.txt", "é"]


@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_pages_do_not_lose_links_and_empty_folders(helper, workspace, limit):
    put(workspace, a__1_txt=b"x", b_txt=b"x")
    (workspace / "a/link").symlink_to("1.txt")
    (workspace / "a/none/below").mkdir(parents=True)
    (workspace / "a/z").mkdir()
    own(workspace)
    entries = await followed(
        lambda after: helper.list(depth=3, limit=limit, after=after), lambda page: [each.path for each in page.entries]
    )
    assert entries == ["a", "a/1.txt", "a/link", "a/z", "b.txt"]


@pytest.mark.parametrize(("limit", "glob"), [(1, None), (3, None), (4, "*.txt"), (100, "b/*")])
async def test_pages_of_a_search_put_together_are_the_whole(helper, tree, limit, glob):
    hits = await followed(
        lambda after: helper.search("word", limit=limit, after=after, glob=glob),
        lambda page: [(each.path, each.line) for each in page.matches],
    )
    wanted = [name for name in ORDERED if glob != "b/*" or name.startswith("b/")]
    assert hits == [(name, line) for name in wanted for line in (1, 2)]


async def test_a_cursor_stays_right_when_files_come_and_go(helper, tree):
    first = await helper.glob("**", limit=4)
    assert first.cursor == "a.txt"
    (tree / "a.txt").unlink()
    (tree / "a/new.txt").write_text("x")
    own(tree)
    assert (await helper.glob("**", after=first.cursor)).paths == tuple(ORDERED[4:])


async def test_a_cursor_of_something_else_is_refused(helper, tree):
    with pytest.raises(FileError, match="'nonsense' is none of this search; start without it"):
        await helper.search("word", after="nonsense")


async def test_a_search_goes_on_within_a_file_and_with_context(helper, workspace):
    put(workspace, a_txt=b"".join(b"%d word\n\n" % number for number in range(1, 400)))
    lines = await followed(
        lambda after: helper.search("word", limit=150, context=1, after=after),
        lambda page: [each.line for each in page.matches if each.is_match],
    )
    assert lines == list(range(1, 799, 2))


async def test_a_search_that_finds_very_much_still_answers_in_order(helper, workspace):
    for number in range(300):
        (workspace / f"f{number:03}.txt").write_text("word and some more of it\n" * 50)
    (workspace / "a.bin").write_bytes(b"word\n" * 10 + b"\0")
    own(workspace)
    found = await helper.search("word", limit=60)
    assert [each.path for each in found.matches] == ["f000.txt"] * 50 + ["f001.txt"] * 10
    assert found.cursor == "f001.txt:10"


async def test_binary_files_do_not_end_a_search_too_early(helper, workspace):
    for number in range(40):
        (workspace / f"a{number:02}.bin").write_bytes(b"word\n" * 3 + b"\0\0")
    put(workspace, z_txt=b"word\n")
    found = await helper.search("word", glob="*", limit=5)
    assert [each.path for each in found.matches] == ["z.txt"]


async def test_an_outline_is_as_deep_as_fits(helper, workspace):
    for folder in range(10):
        for name in range(30):
            path = workspace / f"d{folder}/e/{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    own(workspace)
    assert (await helper.outline(limit=400)).lines[0] == ("d0/e/0.txt", 0)
    assert (await helper.outline()).lines == tuple((f"d{folder}/e", 30) for folder in range(10))
    assert (await helper.outline("d3", depth=1)).lines == (("d3/e", 30),)
    assert (await helper.outline(pattern="1?.txt", depth=1)).lines[0] == ("d0", 10)
    assert len((await helper.outline(limit=5)).lines) == 5


async def test_everything_in_a_folder_is_listed_when_asked_for(helper, workspace):
    put(workspace, _gitignore=b"*.log\n", a_log=b"12345", b_txt=b"1")
    os.mkfifo(workspace / "pipe")
    (workspace / "link").symlink_to("nowhere")
    (workspace / ".git").mkdir()
    listing = await helper.list_all()
    assert [(each.path, each.kind, each.size) for each in listing.entries] == [
        (".git", "directory", 0),
        (".gitignore", "file", 6),
        ("a.log", "file", 5),
        ("b.txt", "file", 1),
        ("link", "link", 0),
        ("pipe", "other", 0),
    ]


async def test_names_that_are_not_utf_8_can_be_used_as_they_are_shown(helper, workspace):
    odd = os.fsdecode(b"caf\xe9.txt")
    (workspace / odd).write_text("word\n")
    (workspace / "line\nfeed.txt").write_text("word\n")
    own(workspace)
    assert (await helper.glob("**")).paths == ("caf\ufffd.txt", "line\nfeed.txt")
    assert [each.path for each in (await helper.search("word")).matches] == ["caf\ufffd.txt", "line\nfeed.txt"]
    assert (await helper.read("caf\ufffd.txt")).text == "word\n"
    await helper.edit("caf\ufffd.txt", "word", "changed")
    assert (workspace / odd).read_text() == "changed\n"
    assert (await helper.read("line\nfeed.txt")).text == "word\n"
    (workspace / os.fsdecode(b"caf\xe8.txt")).write_text("other\n")
    assert await code_of(helper.read("caf\ufffd.txt")) == "bad_request"


async def test_names_that_differ_in_case_are_two_files(helper, workspace):
    put(workspace, README=b"one\n", readme=b"two\n")
    assert (await helper.glob("**")).paths == ("README", "readme")
    await helper.edit("readme", "two", "2")
    assert (workspace / "README").read_text() == "one\n"


async def test_lines_of_a_file_that_is_too_large_to_be_held_are_read(helper, workspace, open_tmp):
    line = b"x" * 99 + b"\n"
    (workspace / "big.log").write_bytes(b"first\r\n" + line * 150_000 + "größe\n".encode() + b"last")
    own(workspace)
    assert (await helper.read("big.log", lines=1)).text == "first\n"
    found = await helper.read("big.log", start=150_001, lines=2)
    assert found.text == line.decode() + "größe\n"
    assert (found.first_line, found.last_line, found.total_lines) == (150_001, 150_002, 150_003)
    assert (await helper.read("big.log", start=150_003)).text == "last"
    whole = await helper.read("big.log")
    assert whole.truncated
    assert len(whole.text) <= boxd_load.LARGEST_REPLY
    sha = subprocess.run(["sha256sum", workspace / "big.log"], capture_output=True, text=True, check=True).stdout
    assert whole.sha256 == sha.split()[0]
    assert await code_of(helper.read("big.log", start=150_004)) == "bad_request"
    assert await code_of(helper.edit("big.log", "first", "1")) == "too_large"


@pytest.mark.parametrize("line", ["ü", "x"])
def test_a_line_without_end_in_a_large_file_is_cut_at_a_whole_character(tmp_path, line):
    (tmp_path / "big").write_text("a" + line * (12 << 20), encoding="utf-8")
    answer = boxd.answer(boxd.Helper(str(tmp_path)), {"op": "read", "path": "big"})["ok"]
    assert answer["text"] == ("a" + line * boxd_load.LARGEST_REPLY)[: boxd_load.LARGEST_REPLY]
    assert (answer["truncated"], answer["total_lines"]) == (True, 1)


async def test_a_file_is_described_without_being_shown(helper, workspace):
    put(workspace, a_txt=b"\xef\xbb\xbfone\r\ntwo\r\n", b_bin=b"\0\1")
    (workspace / "link").symlink_to("a.txt")
    text = await helper.stat("a.txt")
    assert (text.kind, text.size, text.mode, text.encoding) == ("file", 13, 0o644, "utf-8-sig")
    assert (text.line_endings, text.lines, text.sha256) == ("crlf", 2, (await helper.read("a.txt")).sha256)
    assert abs(text.modified - (workspace / "a.txt").stat().st_mtime) < 1
    binary = await helper.stat("b.bin")
    assert (binary.encoding, binary.sha256 is None) == (None, False)
    link = await helper.stat("link")
    assert (link.kind, link.target, link.size) == ("link", "a.txt", 0)
    assert (await helper.stat(".")).kind == "directory"
    assert await code_of(helper.stat("missing")) == "not_found"


async def test_bytes_come_as_they_are(helper, workspace):
    content = bytes(range(256)) * 1000
    put(workspace, a_bin=content)
    found = await helper.read_bytes("a.bin")
    assert found.data == content
    with pytest.raises(FileError, match="256000 bytes, more than the 1000"):
        await helper.read_bytes("a.bin", limit=1000)


def test_one_page_of_a_huge_directory_is_all_that_is_held(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(60_000):
        os.close(os.open(f"{folder}/{number:06}-{'x' * 150}", os.O_CREAT))
    script = (
        "import resource, sys\n"
        "from nightcrew_workspaces import boxd\n"
        "helper = boxd.Helper(sys.argv[1])\n"
        "boxd.answer(helper, dict(op='list', path='.', limit=100))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for op in ('list', 'list_all', 'outline', 'glob'):\n"
        "    more = {'pattern': '*'} if op == 'glob' else {}\n"
        "    answer = boxd.answer(helper, dict(op=op, path='many', limit=100, **more))['ok']\n"
        "    assert answer['cursor'].startswith('many/000099-'), answer['cursor']\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 6000  # KiB; the names alone are 10 MB


GLOBS = st.lists(st.sampled_from(["a", "b", ".", "*", "?", "[ab]", "[!a]", "/"]), min_size=1, max_size=6).map("".join)
PATHS = st.lists(st.sampled_from(["a", "b", "ab", ".a", "b.a", "aa"]), min_size=1, max_size=4).map("/".join)


@settings(deadline=None)
@given(GLOBS, PATHS)
def test_a_glob_matches_name_by_name_as_fnmatch_does(glob, path):
    wanted = glob_pattern(glob) if glob.strip("./") or set(glob) - {"/", "."} else None
    if wanted is None or "//" in glob or glob.startswith(("/", "./")) or glob.endswith("/"):
        return
    patterns, names = glob.split("/"), path.split("/")
    if len(patterns) == 1:
        names = names[-1:]
    matches = len(patterns) == len(names) and all(map(fnmatch.fnmatchcase, names, patterns))
    matches &= "**" not in glob
    assert bool(wanted.fullmatch(path)) == matches or "**" in glob


@settings(deadline=None)
@given(PATHS)
def test_a_path_written_literally_is_a_glob_for_itself(path):
    assert glob_pattern(f"/{path}").fullmatch(path) or "/" not in path
    assert glob_pattern("**").fullmatch(path)
    assert glob_pattern("**/" + path.rpartition("/")[2]).fullmatch(path)


@settings(deadline=None)
@given(st.lists(PATHS, max_size=40), st.integers(1, 5), st.none() | PATHS)
def test_a_page_is_the_beginning_of_what_comes_after_its_cursor(paths, limit, after):
    page = Page[int](limit, after)
    for path in paths:
        page.put(path, 1, boxd_find.total)
    wanted = sorted({path for path in paths if after is None or order(path) > order(after)}, key=order)
    assert [path for path, _ in page.items()] == wanted[:limit]
    assert page.more == (len(wanted) > limit)
