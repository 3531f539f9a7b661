from __future__ import annotations

import pytest

from nightcrew_tools.output import ANSWER_BYTES

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]


async def test_a_file_is_shown_as_it_is_under_a_line_that_says_what_it_is(session):
    async with session() as tools:
        assert await tools("read_file", path="README.md") == "README.md lines 1-1 of 1\n# Sums\n"


async def test_the_path_at_which_commands_see_the_workspace_is_accepted(session):
    async with session() as tools:
        assert await tools("read_file", path="/workspace/README.md") == "README.md lines 1-1 of 1\n# Sums\n"
        assert (await tools("write_file", path="/workspace/src/../a.txt", content="a")).startswith("created a.txt")


@pytest.mark.parametrize("path", ["/etc/passwd", "../other", "src/../../x", "/workspace2/x"])
async def test_a_path_outside_is_refused_by_name(session, path):
    async with session() as tools:
        for name, more in [("read_file", {}), ("write_file", {"content": ""}), ("list_files", {}), ("git_diff", {})]:
            assert (await tools.fail(name, path=path, **more)).startswith(f"error[outside]: '{path}' is outside")


async def test_lines_can_be_asked_for_and_the_answer_says_where_to_go_on(session):
    async with session() as tools:
        text = await tools("read_file", path="long.txt", start_line=10, end_line=12)
        assert text == "long.txt lines 10-12 of 5000\nline 10\nline 11\nline 12\n"
        assert (
            await tools("read_file", path="README.md", start_line=0, end_line=-1)
            == "README.md lines 1-1 of 1\n# Sums\n"
        )


async def test_a_long_file_is_read_to_its_end_by_following_the_answers(session):
    lines: list[str] = []
    start = 1
    async with session() as tools:
        for _ in range(50):
            text = await tools("read_file", path="long.txt", start_line=start)
            assert len(text.encode()) < ANSWER_BYTES + 200
            body = text.splitlines()[1:]
            if not body[-1].startswith("[continue with start_line="):
                lines += body
                break
            lines += body[:-1]
            start = int(body[-1].removeprefix("[continue with start_line=").removesuffix("]"))
    assert lines == [f"line {number}" for number in range(1, 5001)]


async def test_one_endless_line_is_cut_and_said_to_be(session):
    async with session() as tools:
        await tools("write_file", path="one.txt", content="x" * 40_000)
        text = await tools("read_file", path="one.txt")
        assert len(text) < ANSWER_BYTES + 300
        assert "line 1 is too long to be shown whole" in text


async def test_an_empty_file_is_said_to_be_empty(session):
    async with session() as tools:
        await tools("write_file", path="empty", content="")
        assert await tools("read_file", path="empty") == "empty is empty"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"path": "nope.txt"}, "not_found"),
        ({"path": "src"}, "is_directory"),
        ({"path": "README.md", "start_line": -2}, "bad_argument"),
        ({"path": "README.md", "start_line": 9}, "bad_argument"),
        ({"path": "README.md", "start_line": 3, "end_line": 2}, "bad_argument"),
    ],
)
async def test_a_read_that_cannot_be_done_says_why(session, arguments, code):
    async with session() as tools:
        assert (await tools.fail("read_file", **arguments)).startswith(f"error[{code}]: ")


async def test_a_binary_file_is_not_shown(session):
    async with session() as tools:
        await tools("run_command", command="head -c 2000 /dev/zero > zeros.bin")
        assert (await tools.fail("read_file", path="zeros.bin")).startswith("error[not_text]: ")


async def test_writing_says_whether_the_file_was_there(session):
    async with session() as tools:
        assert await tools("write_file", path="new/a.txt", content="é\n") == "created new/a.txt, 3 bytes"
        assert await tools("write_file", path="new/a.txt", content="") == "overwrote new/a.txt, 0 bytes"


async def test_git_itself_is_closed_to_file_tools(session):
    async with session() as tools:
        for name, more in [("write_file", {"content": "x"}), ("delete_file", {}), ("move_file", {"to": "x"})]:
            assert (await tools.fail(name, path=".git/config", **more)).startswith("error[forbidden]: ")


async def test_an_edit_answers_with_its_diff(session):
    async with session() as tools:
        diff = await tools("edit_file", path="src/sums.py", old="return a - b", new="return a + b")
        assert "-    return a - b\n+    return a + b\n" in diff
        assert "return a + b" in await tools("read_file", path="src/sums.py")


async def test_an_edit_that_misquotes_the_file_is_shown_what_stands_there(session):
    async with session() as tools:
        answer = await tools.fail("edit_file", path="src/sums.py", old="def add(a, b):\n  return a - b", new="")
        assert answer.startswith("error[no_match]: the old text is not in src/sums.py. Lines 1 to 2 differ")
        assert answer.endswith("\ndef add(a, b):\n    return a - b")


async def test_an_edit_that_would_hit_several_places_is_refused_until_counted(session):
    async with session() as tools:
        answer = await tools.fail("edit_file", path="src/sums.py", old="def ", new="async def ")
        assert answer.startswith("error[several_matches]: ")
        await tools("edit_file", path="src/sums.py", old="def ", new="async def ", count=2)
        assert (await tools("read_file", path="src/sums.py")).count("async def ") == 2


@pytest.mark.parametrize(
    "arguments", [{"old": "", "new": "x"}, {"old": "x", "new": "x"}, {"old": "#", "new": "", "count": 0}]
)
async def test_an_edit_that_means_nothing_is_refused(session, arguments):
    async with session() as tools:
        assert (await tools.fail("edit_file", path="README.md", **arguments)).startswith("error[bad_argument]: ")


async def test_files_are_moved_and_deleted(session):
    async with session() as tools:
        assert await tools("move_file", path="README.md", to="docs/README.md") == "moved README.md to docs/README.md"
        assert await tools("delete_file", path="docs/README.md") == "deleted docs/README.md"
        assert (await tools.fail("delete_file", path="docs/README.md")).startswith("error[not_found]: ")


async def test_a_listing_leaves_out_what_git_ignores(session):
    async with session() as tools:
        await tools("write_file", path="noise.log", content="")
        await tools("write_file", path="fresh.txt", content="")
        listing = (await tools("list_files")).splitlines()
        assert listing == [".gitignore", "README.md", "fresh.txt", "long.txt", "src/deep/er/leaf.txt", "src/sums.py"]


async def test_a_listing_can_be_folded_narrowed_and_filtered(session):
    async with session() as tools:
        assert await tools("list_files", depth=1, path="src") == "src/deep/ (1 file)\nsrc/sums.py"
        assert await tools("list_files", pattern="*.txt") == "long.txt\nsrc/deep/er/leaf.txt"
        assert await tools("list_files", pattern="src/*.py") == "src/sums.py"
        assert await tools("list_files", pattern="*.py", path="src/deep") == "no file matches *.py in src/deep"
        assert await tools("list_files", pattern="/workspace/src/**/*.txt") == "src/deep/er/leaf.txt"
        for more in ({}, {"pattern": "*.py"}):
            assert (await tools.fail("list_files", path="nope", **more)).startswith("error[not_found]: ")
        assert (await tools.fail("list_files", path="README.md")).startswith("error[not_a_file]: ")


async def test_a_folder_whose_name_is_a_pattern_is_a_folder(session):
    async with session() as tools:
        await tools("write_file", path="app/[id]/{a}/page.ts", content="x")
        await tools("write_file", path="app/i/b/page.ts", content="x")
        assert await tools("list_files", path="app/[id]") == "app/[id]/{a}/page.ts"


async def test_an_ignored_folder_is_listed_when_asked_for(session):
    async with session() as tools:
        await tools("write_file", path="build/out.txt", content="")
        assert (await tools("list_files", path="build")).splitlines()[-1] == "build/out.txt"


async def test_a_search_answers_with_path_line_and_text(session):
    async with session() as tools:
        assert await tools("search_files", pattern=r"def \w+") == (
            "src/sums.py:1: def add(a, b):\nsrc/sums.py:5: def double(a):"
        )
        assert await tools("search_files", pattern="leaf", glob="*.py") == "no match in . (*.py)"
        assert await tools("search_files", pattern="Sums", path="README.md") == "README.md:1: # Sums"


async def test_a_search_with_too_many_matches_says_so(session):
    async with session() as tools:
        lines = (await tools("search_files", pattern="line")).splitlines()
        assert len(lines) == 101
        assert lines[-1].startswith("[there are more: go on with cursor=long.txt:100, or give a narrower pattern")


async def test_a_pattern_that_is_no_regex_is_taken_as_text(session):
    async with session() as tools:
        assert await tools("search_files", pattern="add(a, a") == (
            "[not a valid regex, searched as plain text]\nsrc/sums.py:6:     return add(a, a)"
        )
