"""All git tools, over a person's own directories."""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from mcp.client import Client

from fakes.boxes import own
from fakes.repositories import commit, git, make
from fakes.roots import open_roots
from nightcrew_tools.grants import Grants
from nightcrew_tools.output import ANSWER_BYTES
from nightcrew_tools.server import build_server

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

FILES = {"calc.py": "def add(a, b):\n    return a - b\n", "docs/a.md": "# A\n"}


class Tools:
    """A client of the git tools: the text of an answer, and the facts of the last."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.facts: dict[str, Any] = {}

    async def __call__(self, name: str, /, **arguments: object) -> str:
        text, is_error = await self._call(name, arguments)
        assert not is_error, text
        return text

    async def fail(self, name: str, /, **arguments: object) -> str:
        text, is_error = await self._call(name, arguments)
        assert is_error, text
        return text

    async def _call(self, name: str, arguments: dict[str, object]) -> tuple[str, bool]:
        result = await self.client.call_tool(f"git_{name}", arguments)
        self.facts = result.structured_content or {}
        return result.content[0].text, bool(result.is_error)


@pytest.fixture
def root(open_tmp: Path) -> Path:
    return make(open_tmp / "root", FILES)


@pytest.fixture
async def tools(root: Path, open_tmp: Path) -> AsyncIterator[Tools]:
    second = open_tmp / "second"
    second.mkdir()
    for each in (root, second):
        own(each)
    grants = Grants(frozenset({"git"}))
    async with (
        open_roots(root, second) as roots,
        Client(build_server(grants, workspace=roots, facts="always")) as client,
    ):
        yield Tools(client)


def write(path: Path, content: str | bytes = "x\n") -> None:
    """A file as the person would write it, owned as everything in a root is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    own(path.parent)


def plain(root: Path, *arguments: str) -> str:
    """Plain git by hand, and everything owned as before."""
    said = git("-c", "user.name=Ada", "-c", "user.email=ada@example.org", *arguments, at=root)
    own(root)
    return said


def clone(source: Path, target: Path, *options: str) -> None:
    """A clone by plain git, which looks at who owns its source."""
    config = target.parent.parent / "gitconfig"
    config.write_text("[safe]\n\tdirectory = *\n")
    git("clone", "-q", *options, str(source), str(target), at=source, env={"GIT_CONFIG_GLOBAL": str(config)})
    own(target)


def conflict(root: Path) -> None:
    plain(root, "switch", "-q", "-c", "topic")
    commit(root, {"calc.py": "theirs\n"}, "theirs")
    plain(root, "switch", "-q", "main")
    commit(root, {"calc.py": "ours\n"}, "ours")
    own(root)


# --- status


async def test_status_tells_branch_and_files_and_counts_them(tools, root):
    assert await tools("status") == "on main\nnothing changed since the last commit"
    assert tools.facts == {
        "branch": "main", "changes": 0, "commit": git("rev-parse", "HEAD", at=root), "conflicts": 0,
        "state": "none",
    }  # fmt: skip
    write(root / "new.txt")
    write(root / "calc.py", "changed\n")
    plain(root, "mv", "docs/a.md", "docs/b.md")
    assert (await tools("status")).split("\n") == ["on main", " M calc.py", "R  docs/a.md -> docs/b.md", "?? new.txt"]
    assert tools.facts["changes"] == 3


async def test_status_tells_what_a_branch_is_beside_its_upstream(tools, root, open_tmp):
    plain(root, "remote", "add", "origin", str(make(open_tmp / "elsewhere")))
    plain(root, "update-ref", "refs/remotes/origin/main", "HEAD")
    plain(root, "branch", "-q", "--set-upstream-to=origin/main")
    commit(root, {"more": "1"})
    own(root)
    assert (await tools("status")).startswith("on main, 1 ahead, 0 behind of origin/main\n")
    plain(root, "update-ref", "-d", "refs/remotes/origin/main")
    assert (await tools("status")).startswith("on main, upstream origin/main is gone\n")


async def test_a_detached_head_and_one_without_a_commit_have_a_status(tools, root):
    head = plain(root, "rev-parse", "HEAD")
    plain(root, "switch", "-q", "--detach")
    assert (await tools("status")).startswith(f"detached at {head[:10]}\n")
    assert tools.facts.get("branch") is None
    plain(root, "switch", "-q", "--orphan", "fresh")
    write(root / "a", "1\n")
    assert await tools("status") == "on fresh, no commit yet\n?? a"
    assert tools.facts.get("commit") is None
    assert await tools("log") == "no commits yet"
    assert "+1" in await tools("diff")
    assert await tools.fail("show") == "error[no_commit]: there is no commit yet; commit something first"
    await tools("add", paths=["a"])
    assert await tools("restore", paths=["a"], staged=True) == "unstaged a"
    await tools("add", paths=["a"])
    assert re.match(
        r"committed [0-9a-f]{7,} Begin, 1 file changed, 1 insertion\(\+\)$", await tools("commit", message="Begin")
    )
    assert tools.facts["branch"] == "fresh"


async def test_a_long_status_is_cut_and_goes_on(tools, root):
    for number in range(450):
        (root / f"f{number:03}").write_text("x")
    own(root)
    first = await tools("status")
    assert first.endswith("[250 more: go on with skip=200]")
    assert (tools.facts["next"], tools.facts["changes"]) == (200, 450)
    last = await tools("status", skip=400)
    assert last.endswith("?? f449")
    assert tools.facts.get("next") is None


# --- odd names and contents

ODD = [
    "a b",
    "-p",
    "--all",
    "ä",
    "line\nbreak",
    'quo"te',
    "back\\slash",
    "tab\there",
    ":(top)x",
    "*",
    "\udcff\udcfe",
    "'",
]


@pytest.mark.parametrize("name", ODD)
async def test_a_file_with_an_odd_name_can_be_named_as_it_is_shown(tools, root, name):
    write(root / "plain")
    (root / name).write_text("one\n")
    own(root)
    lines = (await tools("status")).split("\n")
    assert len(lines) == 3
    shown = next(line[3:] for line in lines[1:] if line != "?? plain")
    if name.startswith("-"):
        assert (await tools.fail("add", paths=[shown])).startswith("error[bad_argument]")
        shown = f"./{shown}"
    assert (await tools("add", paths=[shown])).startswith("1 file staged\n")
    await tools("commit", message="Add")
    (root / name).write_text("two\n")
    own(root)
    assert "+two" in await tools("diff", path=shown)
    assert "1: one" in await tools("blame", path=shown, revision="HEAD")
    assert "Add" in await tools("log", path=shown)
    assert (await tools("restore", paths=[shown])).startswith("restored ")
    assert (root / name).read_text() == "one\n"


async def test_binary_files_are_named_and_not_shown(tools, root):
    write(root / "picture", bytes(range(256)) * 8)
    assert "Binary files /dev/null and b/picture differ" in await tools("diff")
    await tools("commit", message="Add", all=True)
    assert "Binary files" in await tools("show")
    assert await tools("show", revision="HEAD:picture") == "a binary file of 2048 bytes"


async def test_a_pointer_of_lfs_is_shown_as_one_and_staging_the_content_instead_is_told(tools, root):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 123456\n"
    write(root / ".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n")
    write(root / "big.bin", pointer)
    assert "Git LFS" not in await tools("add", paths=["."])
    await tools("commit", message="Add")
    assert (await tools("show", revision="HEAD:big.bin")).endswith(
        "[a Git LFS pointer: the file itself, of 123456 bytes, is not in the repository]"
    )
    write(root / "big.bin", b"\0" * 5000)
    assert "the whole content of big.bin is staged" in await tools("add", paths=["big.bin"])


async def test_a_submodule_is_its_commit(tools, root, open_tmp):
    inner = make(root / "sub")
    plain(root, "-c", "advice.addEmbeddedRepo=false", "add", "sub")
    plain(root, "commit", "-q", "-m", "Add sub")
    plain(inner, "config", "core.fsmonitor", f"touch {root}/CANARY; false")
    write(inner / "calc.py", "changed\n")
    assert "nothing changed" in await tools("status")
    assert not (root / "CANARY").exists()
    head = commit(inner, {"more": "1"})
    (root / "CANARY").unlink(missing_ok=True)
    own(root)
    assert " M sub" in await tools("status")
    assert f"+Subproject commit {head}" in await tools("diff")
    assert await tools("show", revision="HEAD:") == "calc.py (32 bytes)\ndocs/\nsub (submodule)"
    assert not (root / "CANARY").exists()


async def test_nothing_hides_in_a_diff(tools, root):
    write(root / "calc.py", b"a\x1b[2Kb\x00"[:5] + b"evil\rgood\xff\n")
    diff = await tools("diff")
    assert "+a␛[2Kevil␍good\\xff" in diff
    write(root / "calc.py", b"def add(a, b):\r\n    return a - b\n")
    assert "-def add(a, b):\n+def add(a, b):␍\n" in await tools("diff")
    write(root / "dos.txt", b"one\r\ntwo\r\n")
    assert "+one\n+two\n" in await tools("diff", path="dos.txt")


async def test_a_change_of_the_same_size_in_the_second_of_the_commit_is_seen(tools, root):
    write(root / "a", "one\n")
    await tools("commit", message="Add", all=True)
    before = (root / "a").stat()
    (root / "a").write_text("two\n")
    for path in (root / "a", root / ".git/index"):
        os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))
    assert "-one\n+two\n" in await tools("diff")
    assert " M a" in await tools("status")


# --- diff, log, show, blame


async def test_diff_compares_what_it_is_asked_to(tools, root):
    first = git("rev-parse", "HEAD", at=root)
    commit(root, {"calc.py": "two\n"}, "second")
    own(root)
    write(root / "calc.py", "three\n")
    await tools("add", paths=["calc.py"])
    write(root / "calc.py", "four\n")
    write(root / "new.txt", "new\n")
    both = await tools("diff")
    assert "-two\n+four\n" in both
    assert "+++ b/new.txt" in both
    staged = await tools("diff", staged=True)
    assert "-two\n+three\n" in staged
    assert "new.txt" not in staged
    for between in (await tools("diff", base=first, target="HEAD"), await tools("diff", base=f"{first}..HEAD")):
        assert "+two\n" in between
        assert "four" not in between
    assert "+four\n" in await tools("diff", base=first)
    assert await tools("diff", path="docs") == "no changes in docs"
    assert (await tools.fail("diff", staged=True, target="HEAD")).startswith("error[bad_argument]")
    assert (await tools.fail("diff", base="nothing")).startswith("error[unknown_revision]")
    assert "?? new.txt" in await tools("status")


async def test_a_long_diff_is_read_in_pages_that_fit_together(tools, root):
    text = "".join(f"line {number} {'ä' * (number % 7)}\n" for number in range(6000))
    write(root / "long.txt", text)
    offset, pages = 0, []
    for _ in range(20):
        answer = await tools("diff", offset=offset)
        assert len(answer.encode()) <= ANSWER_BYTES + 200
        body = answer.partition("\n\n")[2] if offset == 0 else answer
        pages.append(body.rpartition("[")[0] if tools.facts.get("next") else body)
        if (following := tools.facts.get("next")) is None:
            break
        offset = following
    whole = "".join(pages)
    assert [line[1:] for line in whole.split("\n") if line.startswith("+line")] == text.splitlines()
    assert (await tools.fail("diff", offset=10**7)).startswith("error[bad_argument]: offset")


async def test_one_endless_line_is_read_in_pages_too(tools, root):
    write(root / "min.js", "x" * 100_000 + "\n")
    answer = await tools("diff")
    assert len(answer.encode()) <= ANSWER_BYTES + 200
    count = answer.count("x")
    while (following := tools.facts.get("next")) is not None:
        count += (await tools("diff", offset=following)).count("x")
    assert 100_000 <= count <= 100_020  # the summary's own


async def test_log_lists_searches_and_goes_on(tools, root):
    for number in range(1, 6):
        commit(root, {"n": str(number)}, f"Number {number}\n\nwith [a] body")
    plain(root, "tag", "v1")
    lines = (await tools("log", limit=2)).split("\n")
    assert re.fullmatch(r"[0-9a-f]{7,} \d{4}-\d\d-\d\d Ada: \(HEAD -> main, tag: v1\) Number 5", lines[0])
    assert lines[2] == "[older ones: skip=2]"
    assert tools.facts == {"next": 2}
    rest = await tools("log", limit=10, skip=2)
    assert rest.count("\n") == 3
    assert tools.facts == {}
    assert (await tools("log", search="NUMBER 3")).count("\n") == 0
    assert (await tools("log", search="[a]")).count("\n") == 4
    assert (await tools("log", path="docs")).endswith("first")
    assert (await tools("log", revision="HEAD~2..HEAD")).count("\n") == 1
    assert await tools("log", search="nothing") == "no commit matches"
    assert (await tools.fail("log", revision="v9")).startswith("error[unknown_revision]")
    for wrong in ({"limit": 0}, {"limit": 101}, {"skip": -1}, {"revision": "--all"}, {"revision": "a\nb"}):
        assert (await tools.fail("log", **wrong)).startswith("error[bad_argument]")


async def test_show_shows_commits_files_folders_tags_and_stashes(tools, root):
    commit(root, {"calc.py": "def add(a, b):\n    return a + b\n"}, "Fix the sum\n\nIt was a difference.")
    plain(root, "tag", "-a", "v1", "-m", "One")
    text = await tools("show")
    head = git("rev-parse", "HEAD", at=root)
    assert text.startswith(f"commit {head}\nauthor Ada <ada@example.org>\ndate 20")
    assert "Fix the sum\n\nIt was a difference.\n" in text
    assert "+    return a + b" in text
    assert (await tools("show", revision="v1")).split("commit ")[1].startswith(head)
    assert "calc.py" not in await tools("show", path="docs")
    assert await tools("show", revision="HEAD~1:calc.py") == FILES["calc.py"]
    assert await tools("show", revision="HEAD:docs") == "a.md (4 bytes)"
    assert await tools("show", revision=":calc.py") == "def add(a, b):\n    return a + b\n"
    assert await tools.fail("show", revision="HEAD:nothing") == (
        "error[not_found]: 'nothing' is not in HEAD; git_show HEAD: lists what is there"
    )
    assert (await tools.fail("show", revision="nothing:calc.py")).startswith("error[unknown_revision]")
    assert (await tools.fail("show", revision="-p")).startswith("error[bad_argument]")
    write(root / "calc.py", "stashed\n")
    await tools("stash", action="push", message="Later")
    assert "+stashed" in await tools("show", revision="stash@{0}")


async def test_a_merge_is_shown_against_its_first_parent(tools, root):
    plain(root, "switch", "-q", "-c", "topic")
    commit(root, {"topic.txt": "1\n"}, "topic")
    plain(root, "switch", "-q", "main")
    commit(root, {"main.txt": "1\n"}, "main")
    plain(root, "merge", "-q", "--no-edit", "topic")
    text = await tools("show")
    assert text.startswith("[a merge: ")
    assert "topic.txt" in text
    assert "main.txt" not in text


async def test_blame_puts_lines_of_one_commit_together(tools, root):
    commit(root, {"calc.py": "def add(a, b):\n    return a + b\n"}, "Fix")
    own(root)
    write(root / "calc.py", "def add(a, b):\n    return a + b\n# new\n")
    text = await tools("blame", path="calc.py")
    assert re.fullmatch(
        r"\w{7} \d{4}-\d\d-\d\d Ada: first\n1: def add\(a, b\):\n"
        r"\w{7} \d{4}-\d\d-\d\d Ada: Fix\n2:     return a \+ b\nnot committed yet\n3: # new",
        text,
    )
    assert (await tools("blame", path="calc.py", start_line=2, end_line=2)).endswith("Fix\n2:     return a + b")
    assert "Fix" not in await tools("blame", path="calc.py", revision="HEAD~1")
    assert (await tools.fail("blame", path="calc.py", start_line=9)).startswith("error[bad_argument]: file calc.py has")
    assert (await tools.fail("blame", path="nothing")).startswith("error[not_found]")
    write(root / "empty", "")
    await tools("commit", message="Empty", all=True)
    assert await tools("blame", path="empty") == "empty is empty"


async def test_a_long_blame_goes_on(tools, root):
    commit(root, {"long": "".join(f"{number}\n" for number in range(1, 501))}, "Long")
    own(root)
    assert (await tools("blame", path="long")).endswith("\n200: 200\n[go on with start_line=201]")
    assert tools.facts == {"next": 201}
    assert (await tools("blame", path="long", start_line=401)).endswith("\n500: 500")
    assert tools.facts == {}


# --- lists


async def test_lists_show_branches_tags_remotes_stashes_and_worktrees(tools, root):
    plain(root, "branch", "topic")
    plain(root, "tag", "v1")
    plain(root, "remote", "add", "origin", "https://ann:secret@example.org/x.git")
    plain(root, "update-ref", "refs/remotes/origin/main", "HEAD")
    plain(root, "symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main")
    head = git("rev-parse", "--short", "HEAD", at=root)
    lines = (await tools("list", what="branches")).split("\n")
    assert [re.sub(r" \d{4}-\d\d-\d\d ", " DAY ", line) for line in lines] == [
        f"* main {head} DAY first", f"topic {head} DAY first", f"origin/main {head} DAY first (remote)",
    ]  # fmt: skip
    assert re.fullmatch(rf"v1 {head} \d{{4}}-\d\d-\d\d first", await tools("list", what="tags"))
    assert await tools("list", what="remotes") == "origin https://***@example.org/x.git"
    assert await tools("list", what="stashes") == "no stashes"
    write(root / "calc.py", "x\n")
    await tools("stash", action="push", message="Later")
    assert re.fullmatch(r"stash@\{0\} \d{4}-\d\d-\d\d On main: Later", await tools("list", what="stashes"))
    assert await tools("list", what="worktrees") == f"{root} {git('rev-parse', 'HEAD', at=root)[:10]} main"


async def test_a_long_list_goes_on(tools, root):
    for number in range(205):
        plain(root, "update-ref", f"refs/tags/t{number:03}", "HEAD") if number < 1 else None
    refs = "".join(f"create refs/tags/t{number:03} HEAD\n" for number in range(1, 205))
    git("update-ref", "--stdin", at=root, stdin=refs.encode())
    own(root)
    assert (await tools("list", what="tags")).endswith("[5 more: go on with skip=200]")
    assert (await tools("list", what="tags", skip=200)).count("\n") == 4
    assert (await tools.fail("list", what="tags", skip=300)).startswith("error[bad_argument]")


# --- changes


async def test_add_commit_and_amend(tools, root):
    assert (
        await tools.fail("commit", message="x")
    ) == "error[nothing_to_commit]: no file changed since the last commit"
    write(root / "a")
    write(root / "b")
    assert (await tools.fail("commit", message="x")).startswith("error[nothing_to_commit]: nothing is staged: git_add")
    assert await tools("add", paths=["a"]) == "1 file staged\nA  a"
    await tools("commit", message="Add a")
    assert await tools("status") == "on main\n?? b"
    head = git("rev-parse", "HEAD", at=root)
    assert tools.facts["commit"] == head
    assert " Better," in await tools("commit", message="Better", amend=True)
    assert git("rev-list", "--count", "HEAD", at=root) == "2"
    assert git("log", "-1", "--format=%an %B", at=root) == "Ada Better"
    await tools("commit", message="# not a comment", all=True)
    assert git("log", "-1", "--format=%B", at=root) == "# not a comment"
    assert (await tools.fail("commit", message=" ")).startswith("error[bad_argument]")
    assert (await tools.fail("add", paths=[])).startswith("error[bad_argument]")
    assert (await tools.fail("add", paths=["nothing"])).startswith("error[not_found]")
    write(root / ".gitignore", "*.log\n")
    write(root / "x.log")
    assert (await tools.fail("add", paths=["x.log"])).startswith("error[ignored]")


async def test_restore_unstages_brings_back_and_takes_from_a_revision(tools, root):
    commit(root, {"calc.py": "two\n"}, "second")
    own(root)
    write(root / "calc.py", "three\n")
    await tools("add", paths=["calc.py"])
    assert await tools("restore", paths=["calc.py"], staged=True) == "unstaged calc.py"
    assert (await tools("status")).endswith(" M calc.py")
    assert await tools("restore", paths=["."]) == "restored all files to the last commit"
    assert (root / "calc.py").read_text() == "two\n"
    await tools("restore", paths=["calc.py"], source="HEAD~1")
    assert (root / "calc.py").read_text() == FILES["calc.py"]
    assert (await tools.fail("restore", paths=["nothing"])).startswith("error[not_found]: 'nothing' is not in the last")
    assert (await tools.fail("restore", paths=["calc.py"], source="v9")).startswith("error[unknown_revision]")


async def test_branches_are_made_renamed_deleted_and_switched_to(tools, root):
    assert (await tools("branch", action="create", name="topic")).startswith("created topic at ")
    assert (await tools.fail("branch", action="create", name="topic")).startswith("error[exists]")
    assert (await tools.fail("branch", action="create", name="x", start="v9")).startswith("error[unknown_revision]")
    write(root / "new")
    assert (await tools("switch", branch="topic")).endswith(", 1 uncommitted change carried along")
    assert tools.facts["branch"] == "topic"
    await tools("commit", message="New", all=True)
    assert await tools("branch", action="rename", name="topic", new_name="better") == "renamed topic to better"
    assert (await tools.fail("branch", action="delete", name="better")).startswith("error[checked_out]")
    await tools("switch", branch="main")
    assert (await tools.fail("branch", action="delete", name="better")).startswith("error[not_merged]")
    assert await tools("branch", action="delete", name="better", force=True) == "deleted better"
    assert (await tools.fail("branch", action="delete", name="better")).startswith("error[not_found]")
    assert (await tools.fail("branch", action="rename", name="main")).startswith("error[missing_argument]")
    assert (await tools.fail("branch", action="list", name="main")).startswith(
        "error[bad_argument]: action must be one"
    )
    for name in ("-D", "a..b", "a b", "HEAD", "x.lock", "@{1}"):
        assert (await tools.fail("branch", action="create", name=name)).startswith("error[bad_argument]")
        assert (await tools.fail("switch", branch=name)).startswith("error[bad_argument]")


async def test_switching_makes_detaches_and_does_not_overwrite(tools, root):
    conflict(root)
    assert (await tools("switch", branch="new", create=True, start="HEAD~1")).startswith("on new at ")
    assert (await tools("switch", branch="topic", detach=True)).startswith("detached at ")
    assert (await tools.fail("switch", branch="HEAD~1")).startswith("error[bad_argument]")
    assert (await tools.fail("switch", branch="nothing")).startswith(
        "error[not_found]: there is no branch 'nothing'; create"
    )
    write(root / "calc.py", "mine\n")
    assert (await tools.fail("switch", branch="main")).startswith("error[would_overwrite]")
    assert (root / "calc.py").read_text() == "mine\n"


async def test_stashes_are_pushed_listed_popped_applied_and_dropped(tools, root):
    assert (await tools.fail("stash", action="push")).startswith("error[nothing_to_stash]")
    write(root / "calc.py", "one\n")
    write(root / "new")
    await tools("stash", action="push", message="--quiet", untracked=True)
    assert "nothing changed" in await tools("status")
    assert "On main: --quiet" in await tools("list", what="stashes")
    assert await tools("stash", action="apply") == "stash@{0} applied, and kept\n M calc.py\n?? new"
    await tools("restore", paths=["calc.py"])
    (root / "new").unlink()
    assert (await tools("stash", action="pop")).startswith("stash@{0} taken back\n M calc.py")
    for action in ("pop", "apply", "drop"):
        assert (await tools.fail("stash", action=action)).startswith("error[not_found]")
    await tools("stash", action="push")
    write(root / "calc.py", "two\n")
    assert (await tools.fail("stash", action="pop")).startswith("error[would_overwrite]")
    await tools("commit", message="Two", all=True)
    assert await tools.fail("stash", action="pop") == (
        "error[conflict]: both sides changed calc.py: edit what is between the markers, then stage; "
        "the stash is kept: drop it when they are resolved"
    )
    await tools("restore", paths=["."])
    assert await tools("stash", action="drop") == "stash@{0} dropped"
    assert await tools("list", what="stashes") == "no stashes"


# --- conflicts


async def test_a_merge_in_conflict_is_told_resolved_and_continued(tools, root):
    conflict(root)
    assert (await tools.fail("merge", action="merge", revision="topic")).startswith(
        "error[conflict]: both sides changed calc.py: "
    )
    text = await tools("status")
    assert "\nin the middle of a merge: 1 file in conflict; git_merge continues or aborts it\nUU calc.py" in text
    assert (tools.facts["state"], tools.facts["conflicts"]) == ("merge", 1)
    for name, arguments in [
        ("merge", {"action": "continue"}), ("commit", {"message": "x"}), ("commit", {"message": "x", "all": True}),
    ]:  # fmt: skip
        assert (await tools.fail(name, **arguments)).startswith("error[conflict]: both sides changed calc.py")
    write(root / "calc.py", "both\n")
    await tools("add", paths=["calc.py"])
    assert (await tools("merge", action="continue")).startswith("done: main at ")
    assert git("log", "-1", "--format=%s", at=root) == "Merge branch 'topic'"
    assert (await tools("merge", action="merge", revision="topic")).startswith("nothing to merge: ")


async def test_a_merge_is_given_up(tools, root):
    conflict(root)
    head = git("rev-parse", "HEAD", at=root)
    await tools.fail("merge", action="merge", revision="topic")
    assert (await tools("merge", action="abort")).startswith("given up; ")
    assert git("rev-parse", "HEAD", at=root) == head
    assert (await tools.fail("merge", action="abort")).startswith("error[nothing_in_progress]")
    assert (await tools.fail("merge", action="merge", revision="v9")).startswith("error[unknown_revision]")


@pytest.mark.parametrize(
    ("command", "state"), [("rebase", "rebase"), ("cherry-pick", "cherry-pick"), ("revert", "revert")]
)
async def test_other_operations_in_progress_are_told_and_continued(tools, root, command, state):
    conflict(root)
    if command == "revert":
        commit(root, {"calc.py": "more\n"}, "more")
        own(root)
    which = {"rebase": "topic", "cherry-pick": "topic", "revert": "HEAD~1"}[command]
    with pytest.raises(AssertionError):
        plain(root, command, which)
    own(root)
    text = await tools("status")
    assert f"in the middle of a {state}" in text
    assert ("step 1 of 1" in text) == (command == "rebase")
    assert tools.facts["state"] == state
    write(root / "calc.py", "both\n")
    await tools("add", paths=["calc.py"])
    assert (await tools("merge", action="continue")).startswith("done: main at ")
    assert "in the middle" not in await tools("status")


# --- repositories of every kind


async def test_a_folder_without_a_repository_and_one_that_is_not_there_are_told(tools, root, open_tmp):
    second = open_tmp / "second"
    assert await tools.fail("status", repo=str(second)) == (
        f"error[not_a_repository]: {second} is in no git repository; `git init` with run_command makes one"
    )
    assert (await tools.fail("status", repo="nothing")).startswith("error[not_found]: there is no folder ")
    for outside in ("/etc", "..", f"{root}/../..", f"{root}x"):
        assert (await tools.fail("status", repo=outside)).startswith("error[outside]")
    assert (await tools.fail("diff", path="../x")).startswith("error[outside]")
    (second / ".git").write_text("gitdir: /elsewhere/.git/worktrees/x\n")
    own(second)
    assert "points to /elsewhere/.git/worktrees/x, which is outside of the roots" in await tools.fail(
        "status", repo=str(second)
    )


async def test_another_root_and_a_folder_in_a_repository_are_named_by_repo(tools, root, open_tmp):
    other = make(open_tmp / "second/inner", {"x/y.txt": "1\n"})
    own(open_tmp / "second")
    assert "y.txt" in await tools("show", repo=str(other))
    write(other / "x/y.txt", "2\n")
    assert "+2" in await tools("diff", repo=f"{other}/x", path="y.txt")
    assert "+2" in await tools("diff", repo=str(other), path=f"{other}/x/y.txt")
    assert (await tools.fail("diff", path=f"{other}/x/y.txt")).startswith("error[outside]")
    assert "nothing changed" in await tools("status")


async def test_a_bare_repository_is_read_and_has_no_status(tools, root, open_tmp):
    bare = open_tmp / "second/bare.git"
    clone(root, bare, "--bare")
    own(bare)
    repo = str(bare)
    assert (await tools("log", repo=repo)).endswith("first")
    assert "+def add" in await tools("show", repo=repo)
    assert (await tools("show", repo=repo, revision="HEAD:calc.py")).startswith("def add")
    assert (await tools("blame", repo=repo, path="calc.py", revision="HEAD")).endswith("return a - b")
    assert "main" in await tools("list", repo=repo, what="branches")
    for name, arguments in [
        ("status", {}), ("diff", {}), ("add", {"paths": ["x"]}), ("commit", {"message": "x"}),
        ("blame", {"path": "calc.py"}), ("switch", {"branch": "main"}), ("stash", {"action": "push"}),
    ]:  # fmt: skip
        assert (await tools.fail(name, repo=repo, **arguments)).startswith("error[bare_repository]"), name


async def test_a_shallow_history_says_that_it_ends_early(tools, root, open_tmp):
    commit(root, {"more": "1"}, "second")
    shallow = open_tmp / "second/shallow"
    clone(root, shallow, "--depth=1", "--no-local")
    own(shallow)
    assert (await tools("log", repo=str(shallow))).endswith(
        "second\n[the history is shallow and may end here before its beginning]"
    )
    assert "the history is shallow and ends early" in await tools.fail("show", repo=str(shallow), revision="HEAD~1")


async def test_a_lock_left_behind_is_told_and_reading_goes_on(tools, root):
    write(root / ".git/index.lock", "")
    write(root / "a")
    assert "?? a" in await tools("status")
    assert (await tools.fail("add", paths=["a"])).startswith("error[locked]: ")


# --- remotes and worktrees


async def test_fetching_and_pushing_work_between_repositories_under_the_roots(tools, root, open_tmp):
    bare = open_tmp / "second/bare.git"
    clone(root, bare, "--bare")
    other = open_tmp / "second/other"
    clone(bare, other)
    plain(root, "remote", "add", "origin", f"file://{bare}")
    own(open_tmp / "second")
    assert re.fullmatch(r"origin/main new -> \w{10}", await tools("fetch"))
    assert await tools("fetch") == "origin has nothing new"
    assert tools.facts == {"refs": 0, "remote": "origin"}
    commit(root, {"mine": "1"}, "Mine")
    own(root)
    assert await tools("push") == "pushed main to origin"
    assert await tools("push", branch="main") == "origin has main already"
    assert git("rev-parse", "main", at=bare) == git("rev-parse", "HEAD", at=root)
    commit(other, {"theirs": "1"}, "Theirs")
    own(other)
    assert (await tools.fail("push", repo=str(other))).startswith(
        "error[rejected]: origin refused main: [rejected] (fetch first)"
    )
    assert (await tools("fetch", repo=str(other))).startswith("origin/main ")
    assert (await tools("merge", repo=str(other), action="merge", revision="origin/main")).startswith("done: ")
    assert await tools("push", repo=str(other)) == "pushed main to origin"
    assert (await tools.fail("push", branch="nothing")).startswith("error[not_found]")


@pytest.mark.parametrize(
    "url",
    [
        "https://ann:secret@example.org/x.git", "ssh://git@example.org/x", "git@example.org:x.git", "ext::sh -c id",
        "git://example.org/x", "file://host/x",
    ],
)  # fmt: skip
async def test_a_remote_beyond_the_box_is_told_with_the_command_to_run_outside(tools, root, url):
    plain(root, "remote", "add", "far", url)
    for name, command in (("fetch", "git fetch far"), ("push", "git push far main")):
        answer = await tools.fail(name, remote="far")
        assert answer.startswith("error[no_network]: far is ")
        assert f"somebody has to run `{command}` outside of it" in answer
        assert "secret" not in answer


async def test_a_remote_outside_of_the_roots_or_unknown_is_refused(tools, root, open_tmp):
    plain(root, "remote", "add", "far", str(open_tmp / "elsewhere"))
    assert (await tools.fail("fetch", remote="far")).startswith("error[outside]")
    assert await tools.fail("fetch") == "error[not_found]: there is no remote 'origin'; there are: far"
    assert (await tools.fail("fetch", remote="--upload-pack=x")).startswith("error[bad_argument]")
    assert (await tools.fail("push", remote="/tmp")).startswith("error[bad_argument]")


async def test_worktrees_are_added_and_removed(tools, root, open_tmp):
    place = open_tmp / "second/tree"
    assert await tools("worktree", action="add", path=str(place), branch="topic") == (
        f"{place} is a worktree on new branch topic"
    )
    assert (await tools("status", repo=str(place))).startswith("on topic\n")
    assert str(place) in await tools("list", what="worktrees")
    assert (await tools.fail("switch", branch="topic")).startswith("error[checked_out]")
    write(place / "new")
    assert (await tools.fail("worktree", action="remove", path=str(place))).startswith("error[would_overwrite]")
    await tools("worktree", action="remove", path=str(place), force=True)
    assert not place.exists()
    assert (await tools.fail("worktree", action="add", path="/etc/x", branch="x")).startswith("error[outside]")
    assert (await tools.fail("worktree", action="add", path=str(place))).startswith("error[missing_argument]")


# --- what the server offers


async def test_annotations_and_facts_of_the_whole_set():
    class Nothing:
        base_commit, roots, git, box, files, background = None, (Path("/r"),), None, None, None, None

    async with Client(build_server(Grants(frozenset({"git"})), workspace=Nothing(), facts="always")) as client:
        tools = (await client.list_tools()).tools
    hints = {tool.name.removeprefix("git_"): tool.annotations for tool in tools}
    assert [name for name, hint in hints.items() if hint.read_only_hint] == [
        "status", "diff", "log", "show", "blame", "list",
    ]  # fmt: skip
    assert {name for name, hint in hints.items() if hint.destructive_hint} == {
        "restore", "branch", "stash", "merge", "worktree",
    }  # fmt: skip
    assert {name for name, hint in hints.items() if hint.open_world_hint} == {"fetch", "push"}
    assert all(tool.output_schema for tool in tools)
    listed = json.dumps(
        [{"name": t.name, "description": t.description, "inputSchema": t.input_schema} for t in tools],
        separators=(",", ":"),
    )
    assert len(listed) / len(tools) < 400  # a token is about four of these bytes


async def test_a_status_reads_no_file_that_the_persons_own_git_has_looked_at(tools: Tools, root: Path):
    """The account has another number in the box than in the index, which is no change of a file."""
    past = 1_700_000_000
    os.utime(root / "calc.py", (past, past))
    git("update-index", "--really-refresh", at=root)
    own(root / ".git")
    (root / "calc.py").chmod(0o200)  # whoever reads it now gets an error
    assert "nothing changed" in await tools("status")
    os.utime(root / "calc.py", (past + 5, past + 5))
    assert "calc.py" in await tools("status")
