"""What `docs/repositories.md` says of each kind of repository, one test a line."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from fakes.repositories import commit, git, make
from nightcrew_workspaces.errors import HarvestRefused
from nightcrew_workspaces.user import box_user
from nightcrew_workspaces.workspace import Workspace, Workspaces

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


@pytest.fixture
def workspaces(open_tmp: Path) -> Workspaces:
    return Workspaces(open_tmp / "root", user=box_user())


async def sh(work: Workspace, script: str) -> str:
    result = await work.box.run(script)
    assert result.exit_code == 0, result.output
    return result.output


async def delivered(work: Workspace, source: Path, script: str = "echo 1 > added") -> list[str]:
    """Do something in an untouched workspace, take it the whole way, and return the paths that changed."""
    assert (await work.checkpoint()).tree == work.base_tree
    assert await sh(work, "git status --short 2>/dev/null") == ""
    await sh(work, script)
    result = await work.commit("change") or ""
    await work.harvest(result)
    async with work.clean_room(result) as room:
        assert (await room.run("git status --short 2>/dev/null")).output == ""
    branch = await work.publish(result, "nightcrew/1")
    return git("diff", "--no-renames", "--name-only", "-z", work.base_commit, branch, at=source).split("\0")[:-1]


def tree_of(source: Path, *entries: tuple[str, str, bytes]) -> str:
    """Commit a tree of these (mode, object, name), which no file system has to hold."""
    listing = b"".join(
        f"{mode} {'commit' if mode == '160000' else 'blob'} {oid}\t".encode() + name + b"\0"
        for mode, oid, name in entries
    )
    tree = git("mktree", "-z", "--missing", at=source, stdin=listing)
    result = git("commit-tree", "-m", "tree", tree, at=source)
    git("update-ref", "refs/heads/main", result, at=source)
    return result


def blob(source: Path, content: bytes) -> str:
    return git("hash-object", "-w", "--stdin", at=source, stdin=content)


# Content that other programs fetch


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "4d7a" * 16 + "\nsize 12345\n"


async def test_lfs_pointers_stay_pointers(open_tmp, workspaces):
    lfs = "*.bin filter=lfs diff=lfs merge=lfs -text\n"
    source = make(open_tmp / "source", {".gitattributes": lfs, "big.bin": POINTER, "other.bin": POINTER})
    for key, value in (("clean", "git-lfs clean"), ("smudge", "git-lfs smudge"), ("required", "true")):
        git("config", f"filter.lfs.{key}", value, at=source)  # as `git lfs install --local` leaves it
    async with await workspaces.create("t1", str(source)) as work:
        assert await sh(work, "cat big.bin") == POINTER
        changed = await delivered(work, source, "mv other.bin moved.bin; echo real content > new.bin; echo 1 > added")
    assert changed == ["added", "moved.bin", "new.bin", "other.bin"]
    assert git("show", "nightcrew/1:moved.bin", at=source) + "\n" == POINTER
    assert git("show", "nightcrew/1:new.bin", at=source) == "real content"


@pytest.mark.parametrize("url", ["../sub", "https://[broken", "/etc", "ext::sh -c touch% /tmp/nightcrew-canary"])
async def test_submodules_stay_empty_whatever_their_url_is(open_tmp, workspaces, url):
    inner = make(open_tmp / "inner", {"f": "1"})
    make(open_tmp / "sub", {"file": "1"})
    source = make(
        open_tmp / "source", {"calc.py": "1\n", ".gitmodules": f'[submodule "sub"]\n\tpath = a/sub\n\turl = {url}\n'}
    )
    oid = git("rev-parse", "HEAD", at=inner)
    git("update-index", "--add", "--cacheinfo", f"160000,{oid},a/sub", at=source)
    git("commit", "--quiet", "-m", "sub", at=source)
    async with await workspaces.create("t1", str(source)) as work:
        assert await sh(work, "ls -A a/sub") == ""
        nested = "mkdir -p a/sub/b/c; cd a/sub; git init -q; echo 1 > f; cd b/c; git init -q; echo 1 > f; cd /workspace"
        assert await delivered(work, source, f"{nested}; echo 1 > added") == ["added"]
    assert git("ls-tree", "nightcrew/1:a", at=source).split()[:3] == ["160000", "commit", oid]
    assert not Path("/tmp/nightcrew-canary").exists()


async def test_a_submodule_whose_url_is_an_option_is_never_read_and_lets_no_result_out(open_tmp, workspaces):
    modules = '[submodule "s"]\n\tpath = s\n\turl = --upload-pack=touch /tmp/nightcrew-canary\n'
    source = make(open_tmp / "source", {".gitmodules": modules})
    async with await workspaces.create("t1", str(source)) as work:
        await sh(work, "echo 1 > added")
        with pytest.raises(HarvestRefused, match="disallowed submodule url"):
            await work.harvest(await work.commit("x") or "")
    assert not Path("/tmp/nightcrew-canary").exists()


async def test_a_submodule_that_is_added_or_moved_on_is_refused(open_tmp, workspaces):
    source = make(open_tmp / "source")
    async with await workspaces.create("t1", str(source)) as work:
        link = f"git update-index --add --cacheinfo 160000,{'1' * 40},sub; git commit -qm sub"
        await sh(work, f"{link}; mkdir sub; echo 1 > added")
        with pytest.raises(HarvestRefused, match="'sub': a submodule that the base does not have"):
            await work.harvest(await work.commit("x") or "")
        harvest = await work.harvest(await work.commit("x", squash=True) or "")
    assert [file.path for file in harvest.files] == ["added"]


# Names


NAMES = {
    "a newline": b"new\nline",
    "latin-1": b"latin\xe9",
    "a leading dash": b"-rf",
    "a device of Windows": b"con",
    "trailing dots": b"dots...",
    "a trailing space": b"space ",
    "very long": b"x" * 255,
    "composed": "\u00e9moji \U0001f469\u200d\U0001f4bb".encode(),
    "decomposed": "e\u0301moji \U0001f469\u200d\U0001f4bb".encode(),
    "a quote and a tab": b'say "hi"\there',
    "a backslash": b"back\\slash",
    "a colon": b"c:stream",
    "a star": b"*",
    "shell": b"$(touch x);`touch y`",
    "a control": b"\x1b[31mred",
}


async def test_names_of_every_kind_are_kept_byte_for_byte(open_tmp, workspaces):
    source = make(open_tmp / "source")
    one = blob(source, b"1\n")
    head = tree_of(source, *(("100644", one, name) for name in sorted(NAMES.values())))
    async with await workspaces.create("t1", str(source)) as work:
        assert work.base_commit == head
        count = await sh(work, "python3 -c \"import os; print(len(os.listdir(b'.')))\"")
        assert int(count) == len(NAMES) + 1
        changed = await delivered(work, source, 'for f in *; do echo 2 > "./$f"; done; rm -- -rf; echo 2 > added')
    assert {name.encode("utf-8", "surrogateescape") for name in changed} == {*NAMES.values(), b"added"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("new\\nline", "a control character"),
        ("a\\\\..", "leads upwards"),
        (".g\\u200cit", "stands for .git"),
    ],
)
async def test_new_names_that_harm_elsewhere_are_refused(open_tmp, workspaces, name, reason):
    source = make(open_tmp / "source")
    async with await workspaces.create("t1", str(source)) as work:
        await sh(work, f"python3 -c \"open('{name}', 'w').write('1')\"")
        with pytest.raises(HarvestRefused, match=reason):
            await work.harvest(await work.commit("x") or "")


@pytest.mark.parametrize("name", [".GIT", "git~1", "a/.Git/x", "GIT~1", ".git./x"])
async def test_files_that_git_takes_for_its_own_are_left_out_and_stop_nothing(open_tmp, workspaces, name):
    source = make(open_tmp / "source")
    async with await workspaces.create("t1", str(source)) as work:
        assert await delivered(work, source, f"mkdir -p $(dirname {name}); echo 1 > {name}; echo 1 > added") == [
            "added"
        ]


async def test_names_that_differ_only_in_case_or_form_are_two_files(open_tmp, workspaces):
    source = make(open_tmp / "source", {"README": "big\n", "readme": "small\n", "Docs/a": "1\n", "docs/a": "2\n"})
    async with await workspaces.create("t1", str(source)) as work:
        assert await sh(work, "cat README readme Docs/a docs/a") == "big\nsmall\n1\n2\n"
        assert await delivered(work, source, "echo new > readme") == ["readme"]


# Links and modes


async def test_links_that_lead_out_stay_what_they_are_and_lead_nowhere(open_tmp, workspaces):
    secret = open_tmp / "secret"
    secret.write_text("secret")
    source = make(open_tmp / "source")
    for name, target in (
        ("absolute", str(secret)),
        ("upwards", "../secret"),
        ("folder", str(open_tmp)),
        ("loop", "loop"),
    ):
        (source / name).symlink_to(target)
    commit(source, {})
    async with await workspaces.create("t1", str(source)) as work:
        result = await work.box.run("cat absolute upwards folder/secret; ls folder/")
        assert "secret\n" not in result.output and result.exit_code != 0
        assert await sh(work, "readlink upwards absolute") == f"../secret\n{secret}\n"
        assert await delivered(work, source) == ["added"]
        await sh(work, "ln -sfn /etc absolute")
        with pytest.raises(HarvestRefused, match="'absolute': a symbolic link to an absolute path"):
            await work.harvest(await work.commit("x") or "")


async def test_line_ends_and_encodings_that_attributes_name_are_kept(open_tmp, workspaces):
    attributes = "*.txt text eol=crlf\n*.u16 text working-tree-encoding=UTF-16LE\n*.c ident\n*.raw -text\n"
    source = make(open_tmp / "source", {".gitattributes": attributes})
    lines = {"a.txt": b"one\ntwo\n", "b.u16": b"one\n", "c.c": b"/* $Id$ */\n", "d.raw": b"one\r\ntwo\n"}
    oids = {name: blob(source, content) for name, content in lines.items()}
    oids[".gitattributes"] = git("rev-parse", "HEAD:.gitattributes", at=source)
    tree_of(source, *(("100644", oid, name.encode()) for name, oid in sorted(oids.items())))
    async with await workspaces.create("t1", str(source)) as work:
        assert (
            await sh(work, "cat a.txt | od -c | head -n 1") == "0000000   o   n   e  \\r  \\n   t   w   o  \\r  \\n\n"
        )
        assert await delivered(work, source, "printf 'three\\r\\n' >> a.txt") == ["a.txt"]
    assert git("cat-file", "blob", "nightcrew/1:a.txt", at=source) == "one\ntwo\nthree"


# Size


async def test_a_source_with_very_many_refs_costs_a_depot_one(open_tmp, workspaces):
    source = make(open_tmp / "source")
    head = git("rev-parse", "HEAD", at=source)
    lines = "".join(f"{head} refs/heads/many/{number:06}\n" for number in range(20_000))
    (source / ".git/packed-refs").write_text(f"# pack-refs with: peeled fully-peeled sorted \n{lines}")
    async with await workspaces.create("t1", str(source), "many/012345") as work:
        assert (await sh(work, "git for-each-ref | wc -l")).strip() == "1"
        assert await delivered(work, source) == ["added"]
    assert len(git("for-each-ref", at=source).splitlines()) == 20_002


async def test_a_source_in_sha_256_goes_the_whole_way(open_tmp, workspaces):
    source = make(open_tmp / "source", None, "--object-format=sha256")
    async with await workspaces.create("t1", str(source)) as work:
        assert len(work.base_commit) == 64
        assert await delivered(work, source) == ["added"]


async def test_a_partial_clone_goes_the_whole_way_and_fetches_nothing(open_tmp, workspaces):
    full = make(open_tmp / "full", {"calc.py": "1\n"})
    commit(full, {"calc.py": "2\n"})
    git("config", "uploadpack.allowFilter", "true", at=full)
    git("clone", "--quiet", "--filter=blob:none", f"file://{full}", "source", at=open_tmp)
    full.rename(open_tmp / "gone")
    async with await workspaces.create("t1", str(open_tmp / "source")) as work:
        assert "-1" not in await sh(work, "git diff")
        assert await delivered(work, open_tmp / "source", "echo 3 > calc.py") == ["calc.py"]


async def test_sparse_and_skipped_files_of_the_checkout_are_all_there(open_tmp, workspaces):
    source = make(open_tmp / "source", {"a/x": "1\n", "b/y": "2\n"})
    git("sparse-checkout", "set", "a", at=source)
    assert not (source / "b").exists()
    async with await workspaces.create("t1", str(source)) as work:
        assert await sh(work, "cat b/y") == "2\n"
        assert await delivered(work, source, "echo 3 > b/y") == ["b/y"]


def test_every_line_of_the_table_names_its_tests() -> None:
    root = Path(__file__).parents[2]
    table = (root / "docs/repositories.md").read_text(encoding="utf-8")
    rows = [line for line in table.splitlines() if line.startswith("| ") and "---" not in line][1:]
    found = subprocess.run(
        ["grep", "-rhoE", r"def test_\w+", str(root / "tests/workspaces")], capture_output=True, text=True, check=True
    ).stdout
    known = {line.removeprefix("def ") for line in found.splitlines()}
    assert len(rows) >= 20
    for row in rows:
        names = [part for part in row.split("`") if part.startswith("test_")]
        assert names and set(names) <= known, row
    assert os.path.exists(root / "docs/repositories.md")
