"""The file tools that outside clients have: what they answer, and the facts beside it."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from mcp.client import Client
from mcp_types import CallToolResult, EmbeddedResource, ImageContent, TextContent

from fakes.boxes import make_workspace, own
from nightcrew_tools.grants import FAMILIES, Grants
from nightcrew_tools.media import mime_type
from nightcrew_tools.output import ANSWER_BYTES
from nightcrew_tools.reply import FACTS_BYTES
from nightcrew_tools.server import build_server
from nightcrew_workspaces.box import Box, box_user
from nightcrew_workspaces.files import Files
from nightcrew_workspaces.policy import BoxPolicy, Limits, Mount

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]

WIDE = Grants(frozenset({"files"}))
PNG = b"\x89PNG\r\n\x1a\n" + bytes(200)


class Folders:
    """A workspace of two roots; `git` and `box` are not used by file tools."""

    base_commit = None
    box = git = background = None

    def __init__(self, parent: Path) -> None:
        self.first, self.second = make_workspace(parent, "first"), make_workspace(parent, "second")
        self.roots = (self.first, self.second)
        mounts = tuple(Mount(root, str(root), writable=root == self.first) for root in self.roots)
        policy = BoxPolicy(user=box_user(None), mounts=mounts, limits=Limits(seconds=20), chdir=str(self.first))
        self.files = Files(Box(policy), roots=[str(root) for root in self.roots])

    def put(self, name: str, content: bytes) -> None:
        path = self.first / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        own(self.first)
        own(self.second)


class Answers:
    def __init__(self, client: Client) -> None:
        self.client = client

    async def __call__(self, name: str, /, **arguments: object) -> tuple[str, dict[str, object]]:
        result = await self.call(name, **arguments)
        assert not result.is_error, result.content
        assert isinstance(result.content[0], TextContent)
        assert len(json.dumps(result.structured_content)) <= FACTS_BYTES
        return result.content[0].text, result.structured_content or {}

    async def call(self, name: str, /, **arguments: object) -> CallToolResult:
        return await self.client.call_tool(name, arguments)

    async def fail(self, name: str, /, **arguments: object) -> str:
        result = await self.call(name, **arguments)
        assert result.is_error
        assert isinstance(result.content[0], TextContent)
        return result.content[0].text


@pytest.fixture
async def folders(open_tmp: Path) -> AsyncIterator[Folders]:
    made = Folders(open_tmp)
    yield made
    await made.files.aclose()


@pytest.fixture
def client(folders: Folders) -> Callable[[], AbstractAsyncContextManager[Answers]]:
    @asynccontextmanager
    async def connect() -> AsyncIterator[Answers]:
        async with Client(build_server(WIDE, workspace=folders, facts="always")) as opened:
            yield Answers(opened)

    return connect


async def test_facts_say_where_a_text_is_from_and_never_what_it_says(client, folders):
    folders.put("a.txt", b"one\ntwo\nthree\n")
    async with client() as tools:
        text, facts = await tools("read_file", path="a.txt", start_line=2, end_line=2)
        assert text == "a.txt lines 2-2 of 3\ntwo\n"
        sha = facts.pop("sha256")
        assert facts == {"path": "a.txt", "first_line": 2, "last_line": 2, "total_lines": 3}
        _, facts = await tools("write_file", path="b.txt", content="one\ntwo\nthree\n")
        assert facts == {"path": "b.txt", "size": 14, "sha256": sha}
        _, facts = await tools("edit_file", path="b.txt", old="one", new="1")
        assert (facts["path"], facts["size"]) == ("b.txt", 12)
        assert (await tools("move_file", path="b.txt", to="c.txt"))[1] == {"path": "c.txt"}
        assert (await tools("delete_file", path="c.txt"))[1] == {"path": "c.txt"}
        assert (await tools("list_files"))[1] == {"count": 1}
        assert (await tools("search_files", pattern="t"))[1] == {"count": 2}
        assert (await tools("search_files", pattern="zzz"))[1] == {"count": 0}


async def test_long_lists_and_searches_are_followed_by_their_cursors(client, folders):
    for number in range(450):
        (folders.first / f"f{number:03}.txt").write_text("word\n")
    folders.put("g.txt", b"")
    for name, more, found in (
        ("list_files", {"pattern": "f*"}, 450),
        ("list_files", {}, 451),
        ("list_folder", {}, 451),
        ("show_tree", {}, 451),
        ("search_files", {"pattern": "word"}, 450),
    ):
        async with client() as tools:
            count, cursor = 0, None
            for _ in range(10):
                text, facts = await tools(name, **more, **({"cursor": cursor} if cursor else {}))
                count, cursor = count + facts["count"], facts.get("cursor")
                assert (f"go on with cursor={cursor}," in text) == (cursor is not None)
                if cursor is None:
                    break
            assert (name, count) == (name, found)


async def test_a_search_shows_the_lines_around_when_asked_to(client, folders):
    folders.put("a.txt", b"one\ntwo\nthree\nfour\n")
    async with client() as tools:
        text, facts = await tools("search_files", pattern="two", context=1)
        assert text == "a.txt-1- one\na.txt:2: two\na.txt-3- three"
        assert facts["count"] == 1


async def test_several_files_are_read_at_once_and_one_that_is_none_does_not_stop_the_others(client, folders):
    folders.put("a.txt", b"one\n")
    folders.put("b.txt", b"two\n")
    async with client() as tools:
        text, facts = await tools("read_files", paths=["a.txt", "nope.txt", "b.txt"])
        assert text.startswith("a.txt lines 1-1 of 1\none\n\nnope.txt error[not_found]: there is no file nope.txt")
        assert text.endswith("b.txt lines 1-1 of 1\ntwo")
        assert facts == {"shown": ["a.txt", "nope.txt", "b.txt"], "left": []}
        few = "must name 1 to 50 files"
        assert (await tools.fail("read_files", paths=[])).startswith(f"error[bad_argument]: paths {few}, not 0")
        assert (await tools.fail("edit_files", edits=[])).startswith(f"error[bad_argument]: edits {few}, not 0")


async def test_paths_that_an_answer_has_no_room_to_name_are_refused(client, folders):
    long = ["n" * 900 + str(number) for number in range(10)]
    edits = [{"path": path, "old": "a", "new": "b"} for path in long]
    async with client() as tools:
        assert (await tools.fail("read_files", paths=long)).startswith("error[bad_argument]: the paths in paths have 9")
        assert (await tools.fail("edit_files", edits=edits)).startswith(
            "error[bad_argument]: the paths in edits have 9"
        )
        answer = await tools.fail("read_file", path="n" * 100_000)
        assert answer == "error[bad_argument]: a path is 100000 bytes long; there is none of more than 4095"


async def test_files_that_do_not_fit_into_the_answer_are_named(client, folders):
    for name in "abcde":
        folders.put(f"{name}.txt", (b"x" * 79 + b"\n") * 60)
    async with client() as tools:
        text, facts = await tools("read_files", paths=["a.txt", "b.txt", "c.txt", "d.txt", "e.txt"])
        assert len(text.encode()) < ANSWER_BYTES + 500
        assert facts == {"shown": ["a.txt", "b.txt", "c.txt", "d.txt"], "left": ["e.txt"]}
        assert text.endswith("[continue with start_line=24]\n\n[no room for e.txt: ask for them again]")
        assert "d.txt lines 1-23 of 60\n" in text


async def test_a_picture_is_a_picture_and_other_bytes_are_attached(client, folders):
    folders.put("pic", PNG)
    folders.put("data.zip", b"PK\x03\x04" + bytes(range(256)))
    async with client() as tools:
        result = await tools.call("read_media", path="pic")
        picture = result.content[1]
        assert isinstance(picture, ImageContent)
        assert (picture.mime_type, base64.b64decode(picture.data)) == ("image/png", PNG)
        assert result.structured_content["size"] == len(PNG)
        attached = (await tools.call("read_media", path="data.zip")).content[1]
        assert isinstance(attached, EmbeddedResource)
        assert (attached.resource.mime_type, str(attached.resource.uri)) == (
            "application/zip",
            f"file://{folders.first}/data.zip",
        )
        folders.put("huge.png", PNG + bytes(4 << 20))
        assert (await tools.fail("read_media", path="huge.png")).startswith("error[too_large]: huge.png has 4194")
        assert (await tools.fail("read_file", path="pic")).startswith("error[not_text]")


@pytest.mark.parametrize(
    ("data", "name", "kind"),
    [
        (b"\xff\xd8\xff\xe0", "x.png", "image/jpeg"),
        (b"GIF89a", "x", "image/gif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "x", "image/webp"),
        (b"RIFF\0\0\0\0WAVE", "x", "audio/wav"),
        (b"XXXX\0\0\0\0WEBP", "x", "application/octet-stream"),
        (b"%PDF-1.7", "x", "application/pdf"),
        (b"no picture", "x.png", "application/octet-stream"),
        (b"a,b\n", "x.csv", "text/csv"),
        (b"", "x", "application/octet-stream"),
    ],
)
def test_the_kind_of_a_file_is_what_its_bytes_say(data, name, kind):
    assert mime_type(data, name) == kind


async def test_several_edits_are_made_together_or_tried_only(client, folders):
    folders.put("a.txt", b"one\ntwo\n")
    folders.put("b.txt", b"one\n")
    edits = [{"path": "a.txt", "old": "one", "new": "1"}, {"path": "b.txt", "old": "one", "new": "1", "count": 1}]
    async with client() as tools:
        text, facts = await tools("edit_files", edits=edits, dry_run=True)
        assert text.startswith("[dry run: nothing was changed]\n--- a/a.txt\n")
        assert (folders.first / "a.txt").read_bytes() == b"one\ntwo\n"
        _, facts = await tools("edit_files", edits=json.dumps(edits))
        assert [each["path"] for each in facts["files"]] == ["a.txt", "b.txt"]
        assert (folders.first / "a.txt").read_bytes() == b"1\ntwo\n"
        stale = [{"path": "a.txt", "old": "1", "new": "2", "sha256": "0" * 64}]
        assert (await tools.fail("edit_files", edits=stale)).startswith("error[changed]: a.txt has changed since")
        good = [{"path": "a.txt", "old": "1", "new": "2", "sha256": facts["files"][0]["sha256"]}]
        await tools("edit_files", edits=good)
        assert (await tools.fail("edit_files", edits=edits)).startswith("error[no_match]: edit 1 of 2: ")
        wrong = [{"path": "a.txt", "old": "1", "nwe": "2"}]
        assert (await tools.fail("edit_files", edits=wrong)).startswith(
            "error[unknown_argument]: edits[1] has no 'nwe'"
        )


async def test_text_is_appended_and_files_and_folders_are_copied_and_made(client, folders):
    async with client() as tools:
        text, facts = await tools("append_file", path="log.txt", content="one\n")
        assert text == "created log.txt, now 4 bytes"
        text, facts = await tools("append_file", path="log.txt", content="two\n")
        assert (text, facts["size"]) == ("appended to log.txt, now 8 bytes", 8)
        assert (await tools("copy_file", path="log.txt", to="sub/log.txt"))[0] == "copied log.txt to sub/log.txt"
        assert (await tools("make_folder", path="sub/new"))[0] == "created sub/new"
        assert (await tools("make_folder", path="sub/new"))[0] == "there already: sub/new"
        assert (await tools.fail("delete_file", path="sub")).startswith("error[not_empty]: sub is a directory with 2")
        await tools("delete_file", path="sub", recursive=True)
        assert (await tools.fail("list_folder", path="sub")).startswith("error[not_found]")


async def test_a_tree_names_folders_again_where_a_page_begins_in_them(client, folders):
    for name in ("a/b/c/d/e.txt", "a/b/f.txt", "g.txt"):
        folders.put(name, b"123")
    (folders.first / "h").symlink_to("g.txt")
    own(folders.first)
    async with client() as tools:
        text, _ = await tools("show_tree")
        assert text == ".\n  a/\n    b/\n      c/\n      f.txt  3\n  g.txt  3\n  h  (link)"
        assert (await tools("show_tree", path="a", depth=1))[0] == "a\n  b/"
        text, _ = await tools("show_tree", cursor="a/b/c")
        assert text == ".\n  a/\n    b/\n      f.txt  3\n  g.txt  3\n  h  (link)"
        assert (await tools.fail("show_tree", depth=0)).startswith("error[bad_argument]")


async def test_a_folder_is_listed_with_what_git_ignores(client, folders):
    folders.put(".gitignore", b"*.log\n")
    folders.put("sub/a.log", b"12")
    folders.put("sub/deep/b.txt", b"1")
    async with client() as tools:
        assert (await tools("list_folder", path="sub"))[0] == "a.log  2\ndeep/"
        assert (await tools("list_folder", path=str(folders.second)))[0] == f"{folders.second} is empty"
        assert (await tools("list_files", path="sub"))[0] == "sub/deep/b.txt"


async def test_a_path_is_described(client, folders):
    folders.put("a.txt", b"one\r\n")
    async with client() as tools:
        text, facts = await tools("file_info", path="a.txt")
        assert text.startswith("a.txt, file, 5 bytes, mode 0644, modified 20")
        assert ", utf-8, 1 lines, line endings crlf, sha256 " in text
        assert (facts["kind"], facts["encoding"], "target" in facts) == ("file", "utf-8", False)
        text, facts = await tools("file_info", path=".")
        assert facts["kind"] == "directory"


async def test_several_roots_are_named_and_reached_by_absolute_paths(client, folders):
    folders.put("a.txt", b"one\n")
    (folders.second / "b.txt").write_text("two\n")
    second = str(folders.second)
    async with client() as tools:
        assert (await tools("list_files"))[0] == f"a.txt\n[other roots: {second}]"
        assert (await tools("list_files", path=second))[0] == f"{second}/b.txt"
        assert (await tools("list_files", path=second, pattern="*.txt"))[0] == f"{second}/b.txt"
        assert (await tools("list_files", pattern=f"{second}/*.txt"))[0].startswith(f"{second}/b.txt")
        assert (await tools("read_file", path=f"{second}/b.txt"))[0] == f"{second}/b.txt lines 1-1 of 1\ntwo\n"
        assert (await tools("search_files", pattern="two", path=second))[0] == f"{second}/b.txt:1: two"
        assert (await tools("show_tree", path=second))[0] == f"{second}\n  b.txt  4"
        answer = await tools.fail("write_file", path=f"{second}/c.txt", content="x")
        assert answer == f"error[read_only]: {second}/c.txt is in a read-only root; write below . instead"
        answer = await tools.fail("read_file", path="/etc/passwd")
        assert answer.startswith(
            f"error[outside]: '/etc/passwd' is outside the roots; give a path relative to {folders.first}"
        )


async def test_odd_names_are_shown_in_quotes_and_understood_in_them(client, folders):
    folders.put("line\nfeed.txt", b"word\n")
    folders.put(" spaces ", b"word\n")
    async with client() as tools:
        assert (await tools("list_files"))[0].splitlines()[:2] == ['" spaces "', '"line\\nfeed.txt"']
        assert (await tools("search_files", pattern="word"))[0].splitlines()[1] == '"line\\nfeed.txt":1: word'
        assert (await tools("read_file", path='"line\\nfeed.txt"'))[0].startswith(
            '"line\\nfeed.txt" lines 1-1 of 1\nword'
        )
        assert (await tools("delete_file", path='" spaces "'))[0] == 'deleted " spaces "'


async def test_the_whole_list_of_tools_leaves_room_in_a_prompt():
    """About four characters of JSON are a token; the issue's limit for all families is 6,000 of them."""

    class Nothing:
        base_commit = files = box = git = background = None
        roots = (Path("/workspace"),)

    async with Client(build_server(Grants(FAMILIES), workspace=Nothing(), facts="always")) as opened:
        listed = [
            tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in (await opened.list_tools()).tools
        ]
    files = [tool for tool in listed if tool["name"] in {*FILE_TOOLS}]
    assert len(files) == len(FILE_TOOLS)
    assert len(json.dumps(files, separators=(",", ":"))) < 9_000
    for tool in files:
        assert len(tool["description"]) < 190


FILE_TOOLS = (
    *("read_file", "write_file", "edit_file", "delete_file", "move_file", "list_files", "search_files"),
    *("read_files", "read_media", "edit_files", "append_file", "copy_file", "make_folder"),
    *("list_folder", "show_tree", "file_info"),
)
