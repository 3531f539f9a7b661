"""Repositories that the service itself owns, made from nothing, and the way of a result back into the source."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio

from nightcrew_workspaces.errors import GitError, RepositoryError
from nightcrew_workspaces.folders import give_to, make_folder
from nightcrew_workspaces.git import Git
from nightcrew_workspaces.policy import BoxUser
from nightcrew_workspaces.source import SourceState

_log = logging.getLogger("nightcrew")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

DURABLE = ("-c", "core.fsync=pack,pack-metadata,loose-object,reference")
_PUBLISH_SECONDS = 30.0
"""How long another git's lock on the source is waited for."""
_LEFT_SECONDS = 3.0
"""A lock on the new branch that is the same for so long was left by a git that was killed: git holds one for moments,
and nobody but one task publishes under its name."""
_MOST_NAMES = 1000
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


def unwritable(git: Git, git_dir: Path) -> Path | None:
    """A directory of a source that `publish` would have to write to and cannot; None where nothing is in the way."""
    theirs = git.as_owner(git_dir)
    places = (git_dir / name for name in ("objects", "objects/pack", "refs", "refs/heads", "refs/heads/nightcrew"))
    return next((place for place in places if place.is_dir() and not theirs.may_write(place)), None)


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
    lock = _Lock(git_dir, name)
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
            lock.remove_if_left()
            await anyio.sleep(0.05)


class _Lock:
    """git's lock on one branch of a source, while it is in the way."""

    def __init__(self, git_dir: Path, name: str) -> None:
        self._git_dir = git_dir
        self._parts = ("refs", "heads", *f"{name}.lock".split("/"))
        self._seen: tuple[int, int, int] | None = None
        self._since = 0.0

    def remove_if_left(self) -> None:
        """Remove the lock when it has been the same one for long enough. Links on the way to it are not followed."""
        with contextlib.ExitStack() as opened, contextlib.suppress(OSError):
            folder = os.open(self._git_dir, _FOLDER)
            opened.callback(os.close, folder)
            for part in self._parts[:-1]:
                folder = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
                opened.callback(os.close, folder)
            found = os.stat(self._parts[-1], dir_fd=folder, follow_symlinks=False)
            if (seen := (found.st_ino, found.st_size, found.st_mtime_ns)) != self._seen:
                self._seen, self._since = seen, anyio.current_time()
            elif anyio.current_time() - self._since > _LEFT_SECONDS:
                _log.warning("%s: removed the lock %s, which a killed git left", self._git_dir, "/".join(self._parts))
                os.unlink(self._parts[-1], dir_fd=folder)
