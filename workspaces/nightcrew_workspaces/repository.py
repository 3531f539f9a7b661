"""Repositories that the service itself owns: made from nothing, filled from the source, published back into it."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio

from nightcrew_workspaces.errors import GitError, RepositoryError
from nightcrew_workspaces.folders import give_to, make_folder
from nightcrew_workspaces.git import Git
from nightcrew_workspaces.policy import BoxUser
from nightcrew_workspaces.source import SourceState

DURABLE = ("-c", "core.fsync=pack,pack-metadata,loose-object,reference")
_PUBLISH_SECONDS = 30.0
"""How long another git's lock on the source is waited for."""
_MOST_NAMES = 1000
_LINK_ERRORS = frozenset({errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP})
_NOT_IN_BRANCHES = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?:/|$)|^[-/.]|[/.]$")


def make_repository(
    path: Path,
    *,
    bare: bool,
    head: str,
    object_format: str = "sha1",
    refs: Mapping[str, str] | None = None,
    alternates: Sequence[str] = (),
    shallow: bytes | None = None,
    settings: str = "",
    owner: BoxUser | None = None,
) -> None:
    """Write an empty repository: the files of gitrepository-layout(5), as `git init` does but in one go.

    `path` is the git directory and must not exist. `head` is a full reference name or a commit, `settings` more lines
    of its configuration, `owner` who gets all of it where the service is root.
    """
    extended = object_format != "sha1"
    config = f"[core]\n\trepositoryformatversion = {int(extended)}\n\tfilemode = true\n"
    config += "\tbare = true\n" if bare else "\tbare = false\n\tlogallrefupdates = true\n"
    config += f"[extensions]\n\tobjectformat = {object_format}\n" if extended else ""
    files = {
        "HEAD": f"ref: {head}\n" if head.startswith("refs/") else f"{head}\n",
        "config": config + settings,
        **({"objects/info/alternates": "".join(f"{entry}\n" for entry in alternates)} if alternates else {}),
        **{name: f"{commit}\n" for name, commit in (refs or {}).items()},
    }
    for folder in ("", "objects", "objects/info", "objects/pack", "refs", "refs/heads", "refs/tags"):
        make_folder(path / folder)
    for name, text in files.items():
        make_folder((path / name).parent)
        _write(path / name, text.encode())
    if shallow is not None:
        _write(path / "shallow", shallow)
    give_to(path, owner)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o644)


async def make_depot(git: Git, source: SourceState, path: Path, reader: BoxUser) -> None:
    """Make the depot: a bare repository with the source's objects, and the base commit as its one branch.

    Objects are hard links where they can be, and `reader` can read them. Every object of the source is in it, also
    those that no branch leads to any more. A source that borrows objects from another repository is packed instead.
    Raises `RepositoryError`.
    """
    shallow = source.git_dir / "shallow"
    try:
        make_repository(
            path,
            bare=True,
            head="refs/heads/base",
            refs={"refs/heads/base": source.commit},
            object_format=source.object_format,
            shallow=shallow.read_bytes() if source.shallow else None,
            settings="[gc]\n\tauto = 0\n",
        )
        borrows = (source.git_dir / "objects/info/alternates").exists()
        if not borrows and await anyio.to_thread.run_sync(link_objects, source.git_dir, path, reader):
            return
    except OSError as error:
        raise RepositoryError(f"{source.path} cannot be copied: {error}") from error
    pack = ("pack-objects", "--revs", "--quiet", "--delta-base-offset", f"{path}/objects/pack/pack")
    try:
        await git.run(*pack, git_dir=source.git_dir, stdin=f"{source.commit}\n".encode(), seconds=1800)
    except GitError as error:
        raise RepositoryError(f"{source.path} cannot be copied: {error.stderr or error}") from error


def link_objects(source: Path, target: Path, reader: BoxUser) -> bool:
    """Link all object files of one git directory into another; False where the source kept changing meanwhile."""
    for _ in range(3):
        try:
            _link_loose(source / "objects", target / "objects", reader)
            # Packs come last: whatever a repack takes out of the loose objects is in a pack that exists by then.
            _link_packs(source / "objects/pack", target / "objects/pack", reader)
        except FileNotFoundError:
            continue
        return True
    return False


def _link_loose(source: Path, target: Path, reader: BoxUser) -> None:
    for folder in os.scandir(source):
        if not re.fullmatch(r"[0-9a-f]{2}", folder.name):
            continue
        make_folder(target / folder.name)
        for entry in os.scandir(folder):
            if re.fullmatch(r"[0-9a-f]{38,62}", entry.name):
                _link(entry, target / folder.name, reader)


def _link_packs(source: Path, target: Path, reader: BoxUser) -> None:
    entries = {entry.name: entry for entry in os.scandir(source)}
    whole = {name.removesuffix(".idx") for name in entries if name.endswith(".idx")}
    for name, entry in entries.items():
        stem, _, suffix = name.rpartition(".")
        if stem in whole and suffix in {"pack", "idx", "rev"}:
            _link(entry, target, reader)


def _link(entry: os.DirEntry[str], folder: Path, reader: BoxUser) -> None:
    status = entry.stat()
    copy = folder / entry.name
    if status.st_mode & 0o004 or status.st_uid == reader.uid:
        try:
            os.link(entry.path, copy)
            return
        except FileExistsError:
            return
        except OSError as error:
            if error.errno not in _LINK_ERRORS:
                raise
    shutil.copyfile(entry.path, copy)
    copy.chmod(0o444)


async def publish(git: Git, source: SourceState, depot: Path, *, commit: str, base: str, branch: str) -> str:
    """Put a commit of the depot into the source as a new branch, and return the branch's name.

    A branch that is there already with this commit is left as it is; a name that is taken gets `-2`, `-3`, …, and where
    a branch stands in the way of a folder of branches, its slashes become dashes. No hook runs, nothing checked out
    changes, and new files belong to the source's owner. Raises `RepositoryError` when the source cannot be written.
    """
    if not branch or _NOT_IN_BRANCHES.search(branch):
        raise ValueError(f"{branch!r} is not a valid branch name")
    try:
        theirs = git.as_owner(source.git_dir)
        sent = False
        for _ in range(_MOST_NAMES):
            name, there = await _free_name(theirs, source.git_dir, branch, commit)
            if there:
                return name
            if not sent:
                await _send(git, theirs, depot, source.git_dir, commit=commit, base=base)
                sent = True
            problem = await _create_branch(theirs, source.git_dir, name, commit)
            if problem is None:
                return name
            if problem == "folder":
                branch = branch.replace("/", "-")
    except (GitError, OSError) as error:
        raise RepositoryError(f"the branch cannot be written to {source.path}: {error}") from error
    raise RepositoryError(f"{source.path}: others keep taking the names beside {branch}")


async def _free_name(theirs: Git, git_dir: Path, branch: str, commit: str) -> tuple[str, bool]:
    """A name that is free, or the one under which this commit has been published already (then True)."""
    listing = ("for-each-ref", "--format=%(objectname) %(refname)", f"refs/heads/{branch}", f"refs/heads/{branch}-*")
    taken: dict[str, str] = {}
    for line in (await theirs.run(*listing, git_dir=git_dir)).decode("utf-8", "replace").splitlines():
        there, _, name = line.partition(" ")
        taken[name.removeprefix("refs/heads/")] = there
    folders = {name[: len(branch)] for name in taken if name.startswith(f"{branch}/")}
    for number in range(1, _MOST_NAMES):
        name = branch if number == 1 else f"{branch}-{number}"
        if taken.get(name) == commit:
            return name, True
        if name not in taken and name not in folders:
            return name, False
    raise RepositoryError(f"{git_dir} has {_MOST_NAMES} branches named {branch}-N: remove some")


async def _send(ours: Git, theirs: Git, depot: Path, git_dir: Path, *, commit: str, base: str) -> None:
    """Copy what the source lacks into its object store, checked as it comes in."""
    receive = ("index-pack", "--strict", "--stdin", "--fix-thin")
    for without in (f"^{base}\n", ""):  # everything, where the source has lost its base meanwhile
        pack = ("pack-objects", "--revs", "--thin", "--stdout", "--quiet", "--delta-base-offset")
        with tempfile.TemporaryFile(dir=depot.parent) as file:
            await ours.run(
                *pack, git_dir=depot, stdin=f"{commit}\n{without}".encode(), stdout=file.fileno(), seconds=600
            )
            file.seek(0)
            try:
                await theirs.run(*DURABLE, *receive, git_dir=git_dir, stdin=file.fileno(), seconds=600)
                return
            except GitError:
                if not without or await _has_commit(theirs, git_dir, base):
                    raise


async def _has_commit(git: Git, git_dir: Path, commit: str) -> bool:
    out = await git.run("cat-file", "--batch-check", git_dir=git_dir, stdin=f"{commit}\n".encode())
    return b" commit " in out


async def _create_branch(theirs: Git, git_dir: Path, name: str, commit: str) -> str | None:
    """Create one branch. Returns None when done, "folder" where a branch has the name of its folder, else "taken"."""
    update = ("update-ref", "-m", "nightcrew: result of a task", f"refs/heads/{name}", commit, "0" * len(commit))
    deadline = anyio.current_time() + _PUBLISH_SECONDS
    while True:
        try:
            await theirs.run(*DURABLE, *update, git_dir=git_dir)
            return None
        except GitError as error:
            if "exists; cannot create" in error.stderr:
                return "folder"
            if "already exists" in error.stderr:
                return "taken"
            if "File exists" not in error.stderr or anyio.current_time() > deadline:
                raise
            await anyio.sleep(0.05)
