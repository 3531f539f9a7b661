"""One task's clone, its box and its checkpoints: what the other packages hold.

A task's directory, `<root>/<task>`, is complete as soon as it has its name (it is renamed into place):

    workspace.json   what it was made from
    depot.git        the source's objects, owned by the service; read-only at /depot in every box
    cache            what builds fetched and made; /cache in this task's boxes, clean rooms have one of their own
    clone            the worktree, owned by the boxes' user; /workspace in every box; borrows its objects from /depot
    shadow.git       checkpoints; seen by boxes that only run our own scripts
    attachments      what came with the task, where anything did; read-only at /attachments
    home             HOME of commands in the worktree, where a set-up ran; `prepared` says that it did
    rooms            clean checkouts, while they are used
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import AsyncGenerator, Collection, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio

from nightcrew_workspaces.background import Background
from nightcrew_workspaces.box import Box
from nightcrew_workspaces.cache import CacheSize, discard, trim_caches
from nightcrew_workspaces.checkpoint import SCRIPTS, SHADOW, SHADOW_SETTINGS, Base, Checkpoint, Shadow
from nightcrew_workspaces.depot import make_depot
from nightcrew_workspaces.egress import Egress, EgressLimits, Log, Outside
from nightcrew_workspaces.egress_rules import AllowList
from nightcrew_workspaces.errors import GitError, HarvestRefused, WorkspaceError
from nightcrew_workspaces.eviction import evict
from nightcrew_workspaces.files import Files
from nightcrew_workspaces.folders import (
    Size,
    copy_readable,
    give_to,
    make_folder,
    make_root,
    remove_tree,
    sync_file_system,
    sync_folder,
)
from nightcrew_workspaces.git import IDENTITY, SHA, Git, safe_config
from nightcrew_workspaces.gitbox import GitBox
from nightcrew_workspaces.harvest import MAX_PACK_MIB, Harvest, look_again, take_in
from nightcrew_workspaces.policy import WORKSPACE, BoxPolicy, BoxUser, Limits, Mount
from nightcrew_workspaces.repository import make_repository, publish
from nightcrew_workspaces.source import Source, SourceState, look
from nightcrew_workspaces.toolchains import CACHE, cache_environment
from nightcrew_workspaces.user import unreachable

DEPOT = "/depot"
ATTACHMENTS = "/attachments"
"""Where boxes of a task see what came with it, read-only; clean rooms do not."""
BRANCH = "refs/heads/work"
"""The branch of every clone and clean room."""

_TASK = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SECONDS = 600.0
_MIB = 1024 * 1024

_CLONE_SETTINGS = f"""\
[user]
\tname = {IDENTITY[0]}
\temail = {IDENTITY[1]}
[gc]
\tauto = 0
[maintenance]
\tauto = false
[advice]
\tdetachedHead = false
"""

_CHECK_OUT = "umask 022; git read-tree -m -u HEAD"
_CHECK_OUT_CLONE = f"{_CHECK_OUT} && cp .git/index {SHADOW}/index"
_REPAIR = """\
[ -h .git ] || chmod -R u+rwX .git 2>/dev/null
rm -rf .git && cp -a /fresh .git && git read-tree HEAD
git update-index -q --refresh
true
"""


def default_root(home: Path, user: BoxUser) -> Path:
    """Where workspaces live: below `home`, or in /var/lib where the boxes' user could not enter that."""
    there = home.absolute()
    while not there.exists():
        there = there.parent
    if unreachable(there, user) is None:
        return home.absolute() / "workspaces"
    return Path("/var/lib/nightcrew/workspaces") / hashlib.sha256(os.fsencode(home.absolute())).hexdigest()[:12]


class Workspaces:
    """Makes, finds and removes the workspaces below one directory.

    `remote_env` holds the variables that reaching a remote repository needs (`SSH_AUTH_SOCK`, `HOME`); nothing else
    gets them. Submodules are not populated, and Git LFS pointers stay pointers: no box can fetch them.
    """

    def __init__(
        self,
        root: Path,
        *,
        user: BoxUser,
        read_only: tuple[Path, ...] = (),
        path: tuple[str, ...] = (),
        env: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        mirrors: Path | None = None,
        remote_env: Mapping[str, str] | None = None,
    ) -> None:
        self.root = root.absolute()
        self.user = user
        self.read_only = read_only
        self.path = path
        self.env = {**cache_environment(), **(env or {})}
        self.limits = limits or Limits()
        self.mirrors = mirrors or self.root / ".mirrors"
        self.caches = self.root / ".caches"
        self._remote_env = dict(remote_env or {})

    async def look(self, repo: str, base: str | None = None) -> SourceState:
        """What a source is now, without making anything of it; a URL is fetched. Raises `RepositoryError`."""
        return await look(self.git, Source(repo, base), self.mirrors)

    async def create(
        self, task: str, repo: str, base: str | None = None, *, attachments: Path | None = None
    ) -> Workspace:
        """Clone a source privately and check out its base on the branch `work`; `attachments` is copied.

        What an earlier call for this task left is removed first, a whole workspace too: use `reopen` to go on with one.
        Raises `RepositoryError` for a source that cannot be used, `BoxUnavailable` where nothing can be confined.
        """
        folder = self._folder(task)
        source = await look(self.git, Source(repo, base), self.mirrors)
        await self.remove(task)
        making = self.root / f".new-{task}-{secrets.token_hex(6)}"
        try:
            await self._make(making, source, attachments)
            # The journal is about to say that it is there: that has to be true after a power cut, too.
            await anyio.to_thread.run_sync(sync_file_system, making)
            making.rename(folder)
            sync_folder(self.root)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(remove_tree, making)
            raise
        return Workspace(self, folder, source)

    async def _make(self, making: Path, source: SourceState, attachments: Path | None) -> None:
        """Make a whole workspace in a new directory. A cache that proves broken at the checkout is made anew, once."""
        for last in (False, True):
            make_folder(making)
            cache = await make_depot(self.git, source, making / "depot.git", self.user, self.caches)
            try:
                await Workspace(self, making, source).check_out()
                break
            except GitError:
                if last or cache is None:
                    raise
                await discard(cache)
                await anyio.to_thread.run_sync(remove_tree, making)
        if attachments is not None:
            await anyio.to_thread.run_sync(copy_readable, attachments, making / "attachments")
        _write_marker(making, source)

    async def reopen(self, task: str) -> Workspace:
        """Go on with a workspace after a crash: locks of killed commands are removed, a broken `.git` is made anew.

        Raises `WorkspaceError` when it is gone or not whole.
        """
        folder = self._folder(task)
        source = _read_marker(folder)
        for part in ("depot.git", "clone", "shadow.git"):
            if not (folder / part).is_dir():
                raise WorkspaceError(f"the workspace {folder} is not whole: {part} is missing")
        workspace = Workspace(self, folder, source)
        await workspace.recover()
        return workspace

    async def take_over(self, old: str, task: str) -> None:
        """Make an ended task's workspace that of another one. Raises `WorkspaceError` when it is gone or not whole."""
        folder = self._folder(old)
        _read_marker(folder)
        await self.remove(task)
        folder.rename(self._folder(task))
        sync_folder(self.root)

    def peek(self, task: str) -> Workspace:
        """A workspace as it lies there, for what needs only its depot: `result`, `publish`. Starts no box.

        Raises `WorkspaceError` when it is gone or not whole.
        """
        folder = self._folder(task)
        return Workspace(self, folder, _read_marker(folder))

    async def remove(self, task: str) -> None:
        """Remove a task's workspace and what unfinished calls left of it; nothing when there is none."""
        folder = self._folder(task)
        with contextlib.suppress(FileNotFoundError):  # there is none, or another process removes it now
            folder.rename(self.root / f".gone-{task}-{secrets.token_hex(6)}")
        leftovers = [*self.root.glob(f".new-{task}-????????????"), *self.root.glob(f".gone-{task}-????????????")]
        for leftover in leftovers:
            await anyio.to_thread.run_sync(remove_tree, leftover)

    async def sweep(self, busy: Collection[str] = ()) -> None:
        """Remove what killed processes left half made or half removed, but for what is made now for a `busy` task."""
        making = [path for path in self.root.glob(".new-*") if path.name[len(".new-") : -13] not in busy]
        for leftover in (*making, *self.root.glob(".gone-*")):
            await anyio.to_thread.run_sync(remove_tree, leftover)

    async def trim_caches(self, *, max_age_seconds: float, max_bytes: float) -> list[CacheSize]:
        """Remove caches of sources that were not used for so long, or that are over the size; returns what went."""
        return await trim_caches(self.caches, max_age_seconds=max_age_seconds, max_bytes=max_bytes)

    def tasks(self) -> list[str]:
        """The tasks that have a workspace, sorted."""
        return sorted(
            path.parent.name for path in self.root.glob("*/workspace.json") if _TASK.fullmatch(path.parent.name)
        )

    def measure(self, task: str) -> Size:
        """How large a task's workspace is, and when it was changed. Reads every directory: best called in a thread."""
        return Size.of(self._folder(task))

    def exists(self, task: str) -> bool:
        """Whether `reopen` would find a workspace."""
        return (self._folder(task) / "workspace.json").is_file()

    def policy(self, mounts: tuple[Mount, ...]) -> BoxPolicy:
        """For boxes that run what a model or a repository wants."""
        return BoxPolicy(
            user=self.user,
            mounts=mounts,
            read_only=self.read_only,
            path=self.path,
            env=self.env,
            limits=self.limits,
        )

    def git_policy(self, mounts: tuple[Mount, ...]) -> BoxPolicy:
        """For boxes that run our own scripts of git commands."""
        limits = Limits(seconds=_SECONDS, file_mib=4096, output_bytes=16 * 1024, workspace_mib=None)
        return BoxPolicy(user=self.user, mounts=mounts, files=SCRIPTS, limits=limits)

    def _folder(self, task: str) -> Path:
        if not _TASK.fullmatch(task):
            raise ValueError(f"{task!r} cannot be the name of a workspace")
        return self.root / task

    @cached_property
    def git(self) -> Git:
        """The git that is run outside of boxes."""
        make_root(self.root, self.user)
        return Git(safe_config(self.root), remote_env=self._remote_env)


class Workspace:
    """A task's clone and everything that is done with it. An async context manager: leaving it stops what runs there.

    One operation runs at a time; commands in `box` are the caller's to order.
    """

    def __init__(self, workspaces: Workspaces, folder: Path, source: SourceState) -> None:
        self.source = source
        self.base_commit = source.commit
        self.base_tree = source.tree
        self.clone = folder / "clone"
        """Where the worktree is on this machine, for people to look into. No git outside of a box may touch it."""
        self.roots = (Path(WORKSPACE),)
        """What is worked on, as the box shows it."""
        self._workspaces = workspaces
        self._folder = folder
        self._depot = folder / "depot.git"
        depot = Mount(self._depot, DEPOT)
        clone = Mount(self.clone, WORKSPACE, writable=True)
        shadow = Mount(folder / "shadow.git", SHADOW, writable=True)
        kept = folder / "attachments"
        self.attachments = kept if kept.is_dir() else None
        """What came with the task, as it lies on this machine; no box can change it."""
        shown = (Mount(kept, ATTACHMENTS),) if self.attachments else ()
        self.box = Box(workspaces.policy((clone, depot, Mount(folder / "cache", CACHE, writable=True), *shown)))
        """Runs commands in the worktree; `preparing` says what their home is."""
        self.background = Background(self.box)
        self._home = folder / "home"
        self.files = Files(self.box, roots=(WORKSPACE, *(mount.target for mount in shown)))
        self.git = GitBox(self.box)
        self._git_box = Box(workspaces.git_policy((clone, depot, shadow)))
        self._shadow = Shadow(self._git_box, Base(self.base_commit, self.base_tree))
        self._lock = anyio.Lock()
        if self.prepared:
            self.box = self.box.with_home(self._home)
            self.background = Background(self.box)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop background commands and the helpers. The workspace stays on the disk."""
        try:
            await self.background.aclose()
        finally:
            await self._stop_helpers()

    async def _stop_helpers(self) -> None:
        try:
            await self.git.aclose()
        finally:
            await self.files.aclose()

    @property
    def prepared(self) -> bool:
        """Whether a set-up ran here to its end."""
        return (self._folder / "prepared").exists()

    @contextlib.asynccontextmanager
    async def preparing(self) -> AsyncGenerator[Box]:
        """A box for a set-up of the worktree, once. Its home stays, and is that of all commands in `box` from then on.

        What the set-up leaves in the worktree counts as ignored afterwards, and tracked files are those of the base:
        nothing of it is part of a result. Git and the file helper have no part in that home.
        """
        await anyio.to_thread.run_sync(remove_tree, self._home)
        self._make_home(self._home)
        box = self.box.with_home(self._home)
        yield box
        async with self._lock:
            await self._shadow.ignore_new()
        await self.restore(self.base_tree)
        (self._folder / "prepared").touch()
        sync_folder(self._folder)
        await self.use(box)

    async def use(self, box: Box) -> None:
        """Have commands run in this box from now on; what the old one has in the background ends."""
        await self.background.aclose()
        self.box, self.background = box, Background(box)

    def egress(
        self,
        allow: AllowList,
        *,
        log: Log,
        limits: EgressLimits,
        outside: Outside,
        env: Mapping[str, str],
        used: tuple[int, int],
    ) -> Egress:
        """A way out for this task's boxes, an async context manager; see `Egress`."""
        user = self._workspaces.user
        return Egress(
            allow, folder=self._folder, user=user, log=log, limits=limits, outside=outside, env=env, used=used
        )

    async def checkpoint(self) -> Checkpoint:
        """Record the worktree, new files included; `checkpoint` (the module) says what is not. Durable on return."""
        async with self._lock:
            return await self._shadow.checkpoint()

    async def restore(self, tree: str) -> None:
        """Make the worktree exactly the tree of a checkpoint or of the base; ignored files stay.

        The clone's HEAD and branches stay where they are, unless its `.git` is broken: then that is made anew at the
        base. Raises `GitError` for a tree that is not known here.
        """
        async with self._lock:
            if not await self._shadow.restore(tree):
                await self._repair()

    async def diff(self, *, limit_bytes: int | None = None) -> str:
        """The worktree, new files included, against the base as a patch; cut with a line that says so at the limit."""
        limit = limit_bytes if limit_bytes is not None else 16 * _MIB
        async with self._lock:
            data = await self._shadow.diff(limit)
        if len(data) <= limit:
            return data.decode("utf-8", "replace")
        return (
            data[:limit].decode("utf-8", "replace")
            + f"\n[the diff is longer than {limit} bytes; the rest is left out]\n"
        )

    async def commit(self, message: str, *, author: tuple[str, str] = IDENTITY, squash: bool = False) -> str | None:
        """Everything in the worktree as commits on the base; returns the last one, None when it equals the base.

        Commits that the model made are kept when they follow the base in a straight line, and one more takes up what
        they lack; otherwise, and with `squash`, there is one commit for all. The clone's HEAD is moved to the result.
        Called again without a change in between, it returns the same commit.
        """
        async with self._lock:
            return await self._shadow.commit(message, author, squash=squash)

    async def harvest(self, commit: str) -> Harvest:
        """Check a result of `commit` and take it into the depot. Raises `HarvestRefused` with path and reason."""
        if not SHA.match(commit):
            raise ValueError(f"{commit!r} is not an object name")
        if commit == self.base_commit:
            return Harvest(commit, self.base_tree)
        async with self._lock:
            with tempfile.TemporaryFile(dir=self._folder) as pack:
                await self._pack(commit, pack.fileno())
                pack.seek(0)
                incoming = self._folder / f"incoming-{secrets.token_hex(6)}"
                base = Base(self.base_commit, self.base_tree)
                return await take_in(self._workspaces.git, self._depot, pack.fileno(), incoming, commit, base)

    async def result(self, commit: str) -> Harvest:
        """What `harvest` returned for a commit, read from the depot alone. Raises `GitError` when it is not there."""
        if not SHA.match(commit):
            raise ValueError(f"{commit!r} is not an object name")
        base = Base(self.base_commit, self.base_tree)
        return await look_again(self._workspaces.git, self._depot, commit, base)

    async def set_out(self, tree: str) -> str:
        """A checkpoint's tree as a commit in the depot, so that it can be packed for another machine.

        It is checked as a result is: raises `HarvestRefused` for what could not be taken in over there.
        """
        async with self._lock:
            commit = await self._shadow.commit_of(tree)
        await self.harvest(commit)
        return commit

    async def pack(self, commit: str, pack: int) -> None:
        """Write what a commit of the depot has beyond the base to a file descriptor. Raises `GitError`."""
        argv = ("pack-objects", "--revs", "--stdout", "--quiet", "--delta-base-offset")
        wanted = f"{commit}\n^{self.base_commit}\n".encode()
        await self._workspaces.git.run(*argv, git_dir=self._depot, stdin=wanted, stdout=pack, seconds=600)

    async def take_up(self, pack: int, commit: str) -> None:
        """Take a pack of another machine into the depot, checked as what comes out of a box is.

        Raises `HarvestRefused`: nothing has come in then.
        """
        if not SHA.match(commit):
            raise ValueError(f"{commit!r} is not an object name")
        incoming = self._folder / f"incoming-{secrets.token_hex(6)}"
        base = Base(self.base_commit, self.base_tree)
        async with self._lock:
            await take_in(self._workspaces.git, self._depot, pack, incoming, commit, base)

    async def hooks_folder(self) -> str:
        """Where in its worktree the source keeps its hooks (`core.hooksPath` of its own configuration); empty for none.

        What is delivered there would run on the person's machine at the next commit.
        """
        config = self.source.git_dir / "config"
        if not config.is_file():
            return ""
        asked = ("config", "--file", str(config), "--get", "core.hooksPath")
        named = (await self._workspaces.git.run(*asked, ok=(0, 1))).decode("utf-8", "replace").strip()
        return _inside(self.source.path, named) if named else ""

    async def publish(self, commit: str, branch: str) -> str:
        """Put a harvested commit into the source as a branch that is new there; returns its name.

        Nothing that is checked out changes. The same commit under the same name is published once; a name that another
        commit has gets `-2`, `-3`, …. Raises `RepositoryError`.
        """
        return await publish(
            self._workspaces.git, self.source, self._depot, commit=commit, base=self.base_commit, branch=branch
        )

    @contextlib.asynccontextmanager
    async def clean_room(self, commit: str, *, home: bool = False) -> AsyncGenerator[Box]:
        """A box with a fresh checkout of the base or of a harvested commit at /workspace; gone afterwards.

        It is a git repository with that commit on the branch `work`, without tags. Several may be open at once. With
        `home`, what commands leave in HOME is there for the next ones, as long as the room is. Its cache is empty: what
        a model put into the task's own cannot help a check to pass.
        """
        if not SHA.match(commit):
            raise ValueError(f"{commit!r} is not an object name")
        place = self._folder / "rooms" / secrets.token_hex(6)
        room = place / "checkout"
        try:
            for each in (place.parent, place, room):
                make_folder(each)
            self._make_git(room / ".git", commit)
            give_to(room, self._workspaces.user, below=False)
            mounts = (Mount(room, WORKSPACE, writable=True), Mount(self._depot, DEPOT))
            await _run(Box(self._workspaces.git_policy(mounts)), _CHECK_OUT, f"the checkout of {commit}")
            box = Box(self._workspaces.policy((*mounts, self._make_cache(place))))
            if home:
                self._make_home(place / "home")
                box = box.with_home(place / "home")
            yield box
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(remove_tree, place)

    def _make_home(self, path: Path) -> None:
        make_folder(path, 0o700)
        give_to(path, self._workspaces.user)

    def _make_cache(self, folder: Path) -> Mount:
        cache = folder / "cache"
        make_folder(cache)
        give_to(cache, self._workspaces.user, below=False)
        return Mount(cache, CACHE, writable=True)

    async def check_out(self) -> None:
        """Make clone and shadow from the depot; part of `Workspaces.create`."""
        shadow = self._folder / "shadow.git"
        make_folder(self.clone)
        self._make_cache(self._folder)
        self._make_git(self.clone / ".git", self.base_commit)
        give_to(self.clone, self._workspaces.user, below=False)
        make_repository(
            shadow,
            bare=False,
            head="refs/heads/none",
            refs={"refs/nightcrew/checkpoint": self.base_commit},
            object_format=self.source.object_format,
            alternates=[f"{DEPOT}/objects"],
            shallow=self._shallow(),
            settings=SHADOW_SETTINGS,
            owner=self._workspaces.user,
        )
        await _run(self._git_box, _CHECK_OUT_CLONE, f"the checkout of {self.base_commit}")

    async def recover(self) -> None:
        """Remove what a killed process left, its boxes too; part of `Workspaces.reopen`."""
        await evict(self._folder)
        if not (self._folder / "cache").is_dir():  # it was made before there were caches
            self._make_cache(self._folder)
        for leftover in (
            *self._folder.glob("rooms/*"),
            *self._folder.glob("incoming-*"),
            *self._folder.glob("fresh-*"),
            *self._folder.glob("egress-*"),
        ):
            await anyio.to_thread.run_sync(remove_tree, leftover)
        if not await self._shadow.recover():
            await self._repair()

    async def _repair(self) -> None:
        """Make the clone's `.git` anew, at the base; the worktree stays."""
        fresh = self._folder / f"fresh-{secrets.token_hex(6)}"
        try:
            self._make_git(fresh, self.base_commit)
            await _run(self._git_box, _REPAIR, "the repair of .git", Mount(fresh, "/fresh"))
        finally:
            remove_tree(fresh)

    async def _pack(self, commit: str, pack: int) -> None:
        """Have the new objects packed in a box, into a file of ours."""
        argv = ("git", "pack-objects", "--revs", "--thin", "--stdout", "--quiet", "--delta-base-offset")
        wanted = f"{commit}\n^{self.base_commit}\n".encode()
        limits = dataclasses.replace(self._git_box.policy.limits, file_mib=MAX_PACK_MIB + 1)
        box = Box(dataclasses.replace(self._git_box.policy, limits=limits))
        result = await box.capture(argv, stdin=wanted, stdout=pack, env={"GIT_DIR": SHADOW})
        if not result.ok:
            said = result.stderr.strip()[-500:] or result.ended
            raise HarvestRefused(f"the new commits cannot be packed (at most {MAX_PACK_MIB} MiB): {said}")

    def _make_git(self, path: Path, commit: str) -> None:
        make_repository(
            path,
            bare=False,
            head=BRANCH,
            refs={BRANCH: commit},
            object_format=self.source.object_format,
            alternates=[f"{DEPOT}/objects"],
            shallow=self._shallow(),
            settings=_CLONE_SETTINGS,
            owner=self._workspaces.user,
        )

    def _shallow(self) -> bytes | None:
        try:
            return (self._depot / "shallow").read_bytes()
        except FileNotFoundError:
            return None


async def _run(box: Box, script: str, what: str, *mounts: Mount) -> list[str]:
    result = await box.capture(["/bin/sh", "-c", script], mounts=mounts, seconds=_SECONDS)
    if not result.ok:
        said = result.stderr.strip()[-1000:] or result.ended
        raise GitError(f"{what} failed in the box: {said}", exit_code=result.exit_code, stderr=said)
    return result.stdout.decode("ascii", "replace").split()


def _inside(folder: Path, named: str) -> str:
    """A path below the folder, relative to it; empty for the folder itself and for any other."""
    path = os.path.normpath(folder / named)
    inside = os.path.relpath(path, folder)
    return "" if inside in (os.curdir, os.pardir) or inside.startswith("../") else inside


def _write_marker(folder: Path, source: SourceState) -> None:
    values = dataclasses.asdict(source) | {"path": str(source.path), "git_dir": str(source.git_dir)}
    with (folder / "workspace.json").open("w", encoding="utf-8") as file:
        json.dump({"version": 1, "source": values}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


def _read_marker(folder: Path) -> SourceState:
    try:
        values: dict[str, Any] = json.loads((folder / "workspace.json").read_text(encoding="utf-8"))["source"]
        values |= {"path": Path(values["path"]), "git_dir": Path(values["git_dir"])}
        return SourceState(**values)
    except FileNotFoundError:
        raise WorkspaceError(f"there is no workspace {folder}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkspaceError(f"the workspace {folder} is not whole: workspace.json: {error}") from error
