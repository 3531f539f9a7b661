"""What may come out of a box: every new commit, tree and link is checked before the depot has it."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fakes.repositories import commit, everything, git, make
from nightcrew_workspaces import harvest as module
from nightcrew_workspaces.checkpoint import Base
from nightcrew_workspaces.errors import HarvestRefused
from nightcrew_workspaces.git import Git, safe_config
from nightcrew_workspaces.harvest import Harvest, take_in
from nightcrew_workspaces.treecheck import clean_subject, forbidden_link, forbidden_name

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]

FILES = {"calc.py": "def add(a, b):\n    return a - b\n", "docs/guide.txt": "hello\n" * 20, "tool": "#!/bin/sh\n"}


@dataclass
class Field:
    """A depot, and a repository in which everything may be committed that git's plumbing can make."""

    depot: Path
    wild: Path
    base: Base

    def tree(self, *entries: str) -> str:
        """A tree of the base's entries and these (`MODE NAME CONTENT`), nothing of it checked."""
        old = subprocess.run(
            ["git", "-C", self.wild, "cat-file", "tree", self.base.tree], capture_output=True, check=True
        )
        return self.raw_tree(*entries, before=old.stdout)

    def raw_tree(self, *entries: str, before: bytes = b"") -> str:
        lines: list[tuple[bytes, bytes]] = []
        for entry in entries:
            mode, name, content = entry.split(" ", 2)
            oid = content if mode in {"160000", "40000"} else self.blob(content)
            raw_name = name.encode("utf-8", "surrogateescape")
            line = mode.encode() + b" " + raw_name + b"\0" + bytes.fromhex(oid)
            lines.append((raw_name + (b"/" if mode == "40000" else b""), line))
        while before:
            head, _, rest = before.partition(b"\0")
            mode, _, name = head.partition(b" ")
            lines.append((name + (b"/" if mode == b"40000" else b""), head + b"\0" + rest[:20]))
            before = rest[20:]
        data = b"".join(line for _, line in sorted(lines))
        return git("hash-object", "-t", "tree", "-w", "--stdin", "--literally", at=self.wild, stdin=data)

    def blob(self, content: str) -> str:
        return git("hash-object", "-w", "--stdin", at=self.wild, stdin=content.encode("utf-8", "surrogateescape"))

    def commit(self, tree: str, *parents: str, message: str = "change") -> str:
        options = [part for parent in parents or (self.base.commit,) for part in ("-p", parent)]
        return git("commit-tree", *options, "-m", message, tree, at=self.wild)

    async def take(self, result: str, pack: bytes | None = None) -> Harvest:
        with tempfile.TemporaryFile() as file:
            if pack is None:
                command = ["git", "-C", self.wild, "pack-objects", "--revs", "--thin", "--stdout", "-q"]
                wanted = f"{result}\n^{self.base.commit}\n".encode()
                pack = subprocess.run(command, input=wanted, capture_output=True, check=True).stdout
            file.write(pack)
            file.seek(0)
            trusted = Git(safe_config(self.depot.parent))
            return await take_in(trusted, self.depot, file.fileno(), self.depot.parent / "incoming", result, self.base)


@pytest.fixture
def field(tmp_path: Path) -> Field:
    return field_from(tmp_path, FILES)


def field_from(tmp_path: Path, files: dict[str, str], prepare: Callable[[Path], None] = lambda path: None) -> Field:
    wild = make(tmp_path / "wild", files)
    prepare(wild)
    git("clone", "--quiet", "--bare", str(wild), "depot.git", at=tmp_path)
    base = Base(git("rev-parse", "HEAD", at=wild), git("rev-parse", "HEAD^{tree}", at=wild))
    return Field(tmp_path / "depot.git", wild, base)


async def test_an_honest_result_is_described_and_can_be_applied(field, tmp_path):
    (field.wild / "tool").chmod(0o755)
    commit(field.wild, {"calc.py": "def add(a, b):\n    return a + b\n"}, "Fix the sign")
    last = commit(
        field.wild,
        {"docs/guide.txt": None, "docs/moved guide.txt": "hello\n" * 20, "b in": b"\0\xff\x00", "latin": b"caf\xe9\n"},
        "Move\n\nwith a body",
    )
    harvest = await field.take(last)
    assert harvest.tree == git("rev-parse", f"{last}^{{tree}}", at=field.wild)
    assert [subject for _, subject in harvest.commits] == ["Fix the sign", "Move"]
    assert harvest.commits[-1][0] == last
    seen = {
        file.path: (file.status, file.added, file.removed, file.old_path, file.mode_change) for file in harvest.files
    }
    assert seen == {
        "calc.py": ("M", 1, 1, None, None),
        "docs/moved guide.txt": ("R", 0, 0, "docs/guide.txt", None),
        "b in": ("A", None, None, None, None),
        "latin": ("A", 1, 0, None, None),
        "tool": ("M", 0, 0, None, "100644 => 100755"),
    }
    assert "+    return a + b" in harvest.patch
    assert not harvest.patch_cut
    git("checkout", "--quiet", "--detach", field.base.commit, at=field.wild)
    git("apply", "--index", at=field.wild, stdin=harvest.patch_bytes)
    assert git("write-tree", at=field.wild) == harvest.tree
    assert git("cat-file", "-t", last, at=field.depot) == "commit"
    git("fsck", "--strict", at=field.depot)


async def test_taking_the_same_in_twice_changes_nothing(field):
    result = commit(field.wild, {"calc.py": "x = 1\n"})
    first = await field.take(result)
    before = set(everything(field.depot))
    assert await field.take(result) == first
    assert set(everything(field.depot)) == before


BAD = {
    ".git": "a name that stands for .git",
    ".GIT": "a name that stands for .git",
    "git~1": "a name that stands for .git",
    "GIT~1": "a name that stands for .git",
    ".git. .": "a name that stands for .git",
    ".git::$INDEX_ALLOCATION": "a name that stands for .git",
    ".g\u200cit": "a name that stands for .git",
    "a\\.git\\config": "a name that stands for .git",
    "a\\..\\b": "a name that leads upwards",
    "..": "the name '..'",
    ".": "the name '.'",
    "a/b": "a slash in a name",
    "bell\x07": "a control character in a name",
    "new\nline": "a control character in a name",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_name_is_known(name):
    assert forbidden_name(name.encode()) == BAD[name]


@pytest.mark.parametrize("name", [".gitignore", ".github", "git", "a.git", "..a", "ünïcode", "git~2", "x.git.", "a b"])
def test_a_good_name_is_allowed(name):
    assert forbidden_name(name.encode()) is None


@pytest.mark.parametrize("name", [".GIT", "git~1", "..", ".g\u200cit", "bell\x07", ".git"])
async def test_a_tree_with_a_bad_name_is_refused_with_its_path(field, name):
    inner = field.raw_tree(f"100644 {name} x")
    result = field.commit(field.tree(f"40000 deep {inner}"))
    before = everything(field.depot)
    with pytest.raises(HarvestRefused) as caught:
        await field.take(result)
    assert repr(f"deep/{name}") in str(caught.value)
    assert BAD[name] in str(caught.value)
    assert everything(field.depot) == before
    assert not (field.depot.parent / "incoming").exists()


async def test_a_bad_tree_of_a_commit_in_between_is_refused_too(field):
    bad = field.commit(field.tree("120000 out /etc/passwd"))
    with pytest.raises(HarvestRefused, match="'out': a symbolic link to an absolute path"):
        await field.take(field.commit(field.tree("100644 good x"), bad))


@pytest.mark.parametrize(
    ("folder", "target", "reason"),
    [
        ("", "/etc/passwd", "an absolute path"),
        ("", "..", "leads out"),
        ("", "../x", "leads out"),
        ("a/", "../../x", "leads out"),
        ("a/b/", "./.././../../x", "leads out"),
        ("a/", "b/../c", "down and up again"),
        ("", ".git/config", "into .git"),
        ("a/", "../.GIT/hooks", "into .git"),
        ("", "", "empty"),
        ("", "a\0b", "NUL"),
    ],
)
def test_a_bad_link_is_known(folder, target, reason):
    assert reason in (forbidden_link(folder, target.encode()) or "")


@pytest.mark.parametrize(
    ("folder", "target"), [("", "x"), ("a/", "../x"), ("a/b/", "../../x/y"), ("", "./a//b"), ("a/", ".")]
)
def test_a_link_within_the_repository_is_allowed(folder, target):
    assert forbidden_link(folder, target.encode()) is None


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../x", ".git/hooks"])
async def test_a_link_that_leaves_is_refused(field, target):
    with pytest.raises(HarvestRefused, match="'link': a symbolic link"):
        await field.take(field.commit(field.tree(f"120000 link {target}")))


async def test_a_link_with_an_endless_target_is_refused(field):
    with pytest.raises(HarvestRefused, match="has 5000 bytes"):
        await field.take(field.commit(field.tree(f"120000 link {'x' * 5000}")))


async def test_a_submodule_that_is_new_is_refused(field):
    with pytest.raises(HarvestRefused, match="'sub': a submodule"):
        await field.take(field.commit(field.tree(f"160000 sub {field.base.commit}")))


@pytest.mark.parametrize("mode", ["100666", "100600", "140000"])
async def test_another_file_mode_is_refused(field, mode):
    with pytest.raises(HarvestRefused):
        await field.take(field.commit(field.tree(f"{mode} odd x")))


async def test_what_the_base_has_is_left_alone(tmp_path):
    def prepare(wild: Path) -> None:
        (wild / "absolute").symlink_to("/etc/passwd")
        (wild / "odd\x07name").write_text("1")
        git("add", "--all", at=wild)
        git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},sub", at=wild)
        git("commit", "--quiet", "-m", "odd", at=wild)

    field = field_from(tmp_path, FILES, prepare)
    (field.wild / "odd\x07name").write_text("2")
    (field.wild / "calc.py").write_text("x = 1\n")
    git("add", "calc.py", "odd\x07name", at=field.wild)
    git("commit", "--quiet", "-m", "change", at=field.wild)
    harvest = await field.take(git("rev-parse", "HEAD", at=field.wild))
    assert {file.path for file in harvest.files} == {"calc.py", "odd\x07name"}


async def test_changed_submodule_settings_are_noted(field):
    harvest = await field.take(commit(field.wild, {".gitmodules": "[submodule]\n"}))
    assert harvest.notes == (".gitmodules was changed: it says where submodules come from",)


async def test_a_history_of_its_own_is_refused(field):
    orphan = git("commit-tree", "-m", "orphan", field.base.tree, at=field.wild)
    with pytest.raises(HarvestRefused, match="does not descend from the base"):
        await field.take(orphan)
    with pytest.raises(HarvestRefused, match="begins a history of its own"):
        await field.take(field.commit(field.tree("100644 new x"), field.base.commit, orphan))


async def test_a_name_that_looks_like_a_line_of_a_listing_fools_nobody(field):
    older = field.base.commit
    field.base = Base(commit(field.wild, {"more": "1"}), git("rev-parse", "HEAD^{tree}", at=field.wild))
    git("fetch", "--quiet", str(field.wild), "+main:main", at=field.depot)
    result = field.commit(field.tree(f"100644 x\n-{field.base.commit} x"), older)
    with pytest.raises(HarvestRefused, match="does not descend from the base"):
        await field.take(result)


async def test_an_object_that_is_missing_is_noticed(field):
    result = field.commit(field.tree("100644 new content"))
    listed = git("rev-list", "--objects", "--no-object-names", result, f"^{field.base.commit}", at=field.wild)
    keep = [oid for oid in listed.split() if oid != field.blob("content")]
    command = ["git", "-C", field.wild, "pack-objects", "--stdout", "-q"]
    pack = subprocess.run(command, input="\n".join(keep).encode(), capture_output=True, check=True).stdout
    with pytest.raises(HarvestRefused, match=r"git does not accept the new objects|is not complete"):
        await field.take(result, pack)


@pytest.mark.parametrize("pack", [b"", b"garbage", b"PACK\0\0\0\2\0\0\0\5"])
async def test_what_is_no_pack_is_refused(field, pack):
    with pytest.raises(HarvestRefused, match="git does not accept"):
        await field.take(field.base.commit[::-1], pack)


async def test_a_pack_over_the_limit_is_refused(field, monkeypatch):
    monkeypatch.setattr(module, "MAX_PACK_MIB", 0)
    with pytest.raises(HarvestRefused, match="more than 0 MiB"):
        await field.take(commit(field.wild, {"new": "x"}))


async def test_a_file_over_the_limit_is_refused(field, monkeypatch):
    monkeypatch.setattr(module, "MAX_FILE_MIB", 0)
    with pytest.raises(HarvestRefused, match="'new': 0 MiB, more than 0"):
        await field.take(commit(field.wild, {"new": "x"}))


async def test_a_long_patch_is_cut_and_says_so(field, monkeypatch):
    monkeypatch.setattr(module, "MAX_PATCH_BYTES", 2000)
    harvest = await field.take(commit(field.wild, {"new": "line\n" * 1000}))
    assert harvest.patch_cut
    assert harvest.patch.endswith("the rest is left out, and it cannot be applied]\n")
    assert [file.path for file in harvest.files] == ["new"]


async def test_a_few_bytes_that_unfold_to_gigabytes_do_not_take_the_machines_memory(field, monkeypatch):
    # Room enough for git and its threads, whatever else the machine does; not for the file.
    monkeypatch.setattr(module, "_MEMORY_MIB", 90)
    small = commit(field.wild, {"zeros": b"\0" * 1024 * 1024})
    assert (await field.take(small)).commit == small
    with pytest.raises(HarvestRefused, match="memory"):
        await field.take(commit(field.wild, {"zeros": b"\0" * 99 * 1024 * 1024}))


def test_a_subject_is_one_clean_line():
    assert clean_subject(b"\n\n  Fix\x1b[31m it\x07 \nbody") == "Fix [31m it"
    assert clean_subject(b"caf\xe9") == "caf\ufffd"
    assert len(clean_subject(b"x" * 5000)) == 200
    assert clean_subject(b"") == ""
