"""What comes out of a box: a pack of objects that is taken into the depot only after every new tree was checked."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import anyio

from nightcrew_workspaces.checkpoint import MAX_FILE_MIB, Base
from nightcrew_workspaces.errors import GitError, HarvestRefused
from nightcrew_workspaces.folders import make_folder, sync_folder
from nightcrew_workspaces.git import Git
from nightcrew_workspaces.repository import DURABLE
from nightcrew_workspaces.treecheck import Commit, Objects, TreeCheck, check_commits, open_objects

_MIB = 1024 * 1024
MAX_PACK_MIB = 512
MAX_PATCH_BYTES = 50 * _MIB
CUT = b"\n[nightcrew: the patch is longer than 50 MiB; the rest is left out, and it cannot be applied]\n"

_MEMORY_MIB = 4096
"""Address space for git where a box made up its input: a few bytes of pack can unfold to gigabytes."""
_SMALL_WINDOWS = ("-c", "core.packedGitWindowSize=32m", "-c", "core.packedGitLimit=512m")


@dataclass(frozen=True)
class ChangedFile:
    """One path that differs between the base and the result."""

    status: str
    """`A` added, `M` modified, `D` deleted, `R` renamed, `T` type changed."""
    path: str
    added: int | None
    """Lines added; None for a binary file."""
    removed: int | None
    old_path: str | None
    """Where a renamed file was."""
    old_mode: str
    """`000000` where there was no file; 100644, 100755 (executable), 120000 (symbolic link), 160000 (submodule)."""
    mode: str

    @property
    def mode_change(self) -> str | None:
        """`100644 => 100755` and the like; None where the mode is the same, or there is no file on one side."""
        if self.old_mode == self.mode or "000000" in {self.old_mode, self.mode}:
            return None
        return f"{self.old_mode} => {self.mode}"


@dataclass(frozen=True)
class Harvest:
    """A result that is in the depot now."""

    commit: str
    tree: str
    files: tuple[ChangedFile, ...] = ()
    patch_bytes: bytes = b""
    """`git diff --binary` from the base, for `git apply`; ends with a line that says so where it was cut."""
    patch_cut: bool = False
    commits: tuple[tuple[str, str], ...] = ()
    """Name and subject of each new commit, oldest first."""
    notes: tuple[str, ...] = ()
    """What a person should know: settings of submodules that were changed."""

    @property
    def patch(self) -> str:
        """The patch to be read; bytes that are not UTF-8 are replaced, so only `patch_bytes` can be applied."""
        return self.patch_bytes.decode("utf-8", "replace")


async def take_in(git: Git, depot: Path, pack: int, incoming: Path, commit: str, base: Base) -> Harvest:
    """Check what a box packed, and move it into the depot.

    `pack` is a file descriptor of the pack, `incoming` a path for a quarantine, which is gone afterwards. Raises
    `HarvestRefused` with path and reason; nothing has come into the depot then.
    """
    if os.fstat(pack).st_size > MAX_PACK_MIB * _MIB:
        raise HarvestRefused(f"the new commits have more than {MAX_PACK_MIB} MiB")
    env = {"GIT_OBJECT_DIRECTORY": str(incoming)}
    try:
        _make_quarantine(incoming, depot)
        await _unpack(git, depot, pack, env, commit, base)
        commits = await _check(git, depot, env, commit, base)
        harvest = await _describe(git, depot, env, Harvest(commit, commits[0].tree), base.commit)
        _move_packs(incoming / "pack", depot / "objects/pack")
    except GitError as error:
        raise HarvestRefused(f"the new commits cannot be examined: {error}") from error
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(lambda: shutil.rmtree(incoming, ignore_errors=True))
    return replace(harvest, commits=tuple((one.oid, one.subject) for one in reversed(commits)))


def _make_quarantine(incoming: Path, depot: Path) -> None:
    for folder in (incoming, incoming / "info", incoming / "pack"):
        make_folder(folder)
    (incoming / "info/alternates").write_text(f"{depot}/objects\n", encoding="utf-8")


def _move_packs(source: Path, target: Path) -> None:
    # The index comes last: a pack is there for git as soon as its index is.
    for path in sorted(source.iterdir(), key=lambda path: path.suffix == ".idx"):
        path.replace(target / path.name)
    sync_folder(target)


async def _unpack(git: Git, depot: Path, pack: int, env: dict[str, str], commit: str, base: Base) -> None:
    index_pack = ("index-pack", "--stdin", "--fix-thin", f"--max-input-size={MAX_PACK_MIB * _MIB}")
    settings = (*DURABLE, *_SMALL_WINDOWS)
    try:
        await git.run(
            *settings, *index_pack, "--strict", git_dir=depot, stdin=pack, env=env, memory_mib=_MEMORY_MIB, seconds=600
        )
    except GitError as strict:
        # git names the object; our own check may find the path.
        try:
            os.lseek(pack, 0, os.SEEK_SET)
            await git.run(
                *settings, *index_pack, git_dir=depot, stdin=pack, env=env, memory_mib=_MEMORY_MIB, seconds=600
            )
            await _check(git, depot, env, commit, base)
        except GitError:
            pass
        raise HarvestRefused(f"git does not accept the new objects: {strict.stderr or strict}") from strict


async def _check(git: Git, depot: Path, env: dict[str, str], commit: str, base: Base) -> list[Commit]:
    """Read all that is new. Returns the new commits, newest first."""
    span = (commit, f"^{base.commit}", "--")
    try:
        # Fails where an object is missing anywhere below the commit.
        await git.run(
            *_SMALL_WINDOWS, "rev-list", "--objects", "--quiet", *span, git_dir=depot, env=env, memory_mib=_MEMORY_MIB
        )
    except GitError as error:
        raise HarvestRefused(f"the commit {commit} is not complete: {error.stderr or error}") from error
    listing = ("rev-list", "--topo-order", "--boundary", *span)
    lines = (await git.run(*_SMALL_WINDOWS, *listing, git_dir=depot, env=env, memory_mib=_MEMORY_MIB)).split(b"\n")
    new = [line.decode() for line in lines if re.fullmatch(rb"[0-9a-f]+", line)]
    border = frozenset(line[1:].decode() for line in lines if line.startswith(b"-"))
    if not new:
        raise HarvestRefused(f"the commit {commit} is not after the base {base.commit}")
    async with open_objects(git, depot, env) as objects:
        commits = await check_commits(objects, new, border, base.commit)
        files = await _check_trees(objects, commits, base.tree)
    await _check_sizes(git, depot, env, files)
    return commits


async def _check_trees(objects: Objects, commits: list[Commit], base_tree: str) -> dict[str, str]:
    check = TreeCheck(objects, base_tree)
    for commit in commits:
        await check.check(commit.tree)
    return check.files


async def _check_sizes(git: Git, depot: Path, env: dict[str, str], files: dict[str, str]) -> None:
    question = "".join(f"{oid}\n" for oid in files).encode()
    asking = ("cat-file", "--batch-check=%(objectname) %(objecttype) %(objectsize)")
    for line in (await git.run(*asking, git_dir=depot, env=env, stdin=question)).decode().splitlines():
        oid, kind, size = (*line.split(), "", "")[:3]
        path = files.get(oid, oid)
        if kind != "blob":
            raise HarvestRefused(f"{path!r}: its content is not a file but {kind}")
        if int(size) > MAX_FILE_MIB * _MIB:
            raise HarvestRefused(f"{path!r}: {int(size) // _MIB} MiB, more than {MAX_FILE_MIB}")


async def look_again(git: Git, depot: Path, commit: str, base: Base) -> Harvest:
    """A result that was taken in before, described again. Raises `GitError` when the depot lacks it."""
    tree = (await git.run("rev-parse", "--verify", f"{commit}^{{tree}}", git_dir=depot)).decode().strip()
    return await _describe(git, depot, {}, Harvest(commit, tree), base.commit)


async def _describe(git: Git, depot: Path, env: dict[str, str], harvest: Harvest, base: str) -> Harvest:
    """Files and patch, from one run of git."""
    diff = ("diff-tree", "-r", "-z", "-M", "--raw", "--numstat", "-p", "--binary", "--full-index", "--no-ext-diff")
    output = await git.run_capped(
        *_SMALL_WINDOWS,
        *(*diff, "--no-textconv", base, harvest.commit, "--"),
        git_dir=depot,
        env=env,
        limit=MAX_PATCH_BYTES,
        memory_mib=_MEMORY_MIB,
        seconds=300,
    )
    files, patch = parse_diff(output.data)
    notes = [
        f"{file.path} was changed: it says where submodules come from"
        for file in files
        if file.path.rpartition("/")[2] == ".gitmodules"
    ]
    if output.cut:
        patch += CUT
    return replace(harvest, files=tuple(files), patch_bytes=patch, patch_cut=output.cut, notes=tuple(notes))


def parse_diff(data: bytes) -> tuple[list[ChangedFile], bytes]:
    """Read what `git diff-tree -z --raw --numstat -p` says: NUL after each field, an empty one before the patch."""
    raw: list[tuple[str, str, str, str | None, str]] = []
    position = 0

    def field() -> str:
        nonlocal position
        end = data.find(b"\0", position)
        if end < 0:
            raise HarvestRefused("more files were changed than can be listed")
        value, position = data[position:end], end + 1
        return value.decode("utf-8", "backslashreplace")

    while data[position : position + 1] == b":":
        old_mode, mode, _, _, status = field()[1:].split(" ")
        first = field()
        renamed = status[0] in "RC"
        raw.append((status[0], old_mode, mode, first if renamed else None, field() if renamed else first))
    files: list[ChangedFile] = []
    for status, old_mode, mode, old_path, path in raw:
        added, removed, _ = field().split("\t", 2)
        if old_path is not None:
            field()
            field()
        files.append(ChangedFile(status, path, _count(added), _count(removed), old_path, old_mode, mode))
    return files, data[position + 1 :]


def _count(text: str) -> int | None:
    return None if text == "-" else int(text)
