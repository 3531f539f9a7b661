"""The repository that a task starts from: looked at without changing anything, or mirrored where it is a URL."""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import hashlib
import os
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import anyio

from nightcrew_workspaces.errors import GitError, RepositoryError
from nightcrew_workspaces.git import SHA, Git

_URL = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_SCP = re.compile(r"^[A-Za-z0-9_][\w.-]*@[A-Za-z0-9][\w.-]*:[^/].*$|^[A-Za-z0-9_][\w.-]*@[A-Za-z0-9][\w.-]*:/.*$")
_SCHEMES = ("file", "git", "http", "https", "ssh")

_FETCH_SECONDS = 1800.0

# Old public repositories carry these harmless faults; everything else that fsck knows stops a fetch.
_FAULTS_OF_OLD_HISTORIES = (
    "badDate",
    "badDateOverflow",
    "badEmail",
    "badName",
    "badTagName",
    "badTimezone",
    "missingEmail",
    "missingNameBeforeEmail",
    "missingSpaceBeforeDate",
    "missingSpaceBeforeEmail",
    "missingTaggerEntry",
    "zeroPaddedDate",
    "zeroPaddedFilemode",
)


@dataclass(frozen=True)
class Source:
    """What a task names: a path or URL, and where to start (branch, tag or commit; the repository's HEAD when None)."""

    repo: str
    base: str | None = None


@dataclass(frozen=True)
class SourceState:
    """What a source was when it was looked at."""

    path: Path
    """The local repository that branches are published to: the path itself, or the mirror of a URL."""
    commit: str
    """The base commit."""
    tree: str
    """Its tree."""
    ref: str
    """Short name of the branch or tag that the base is, or the commit itself."""
    dirty: bool
    """The checkout has changes that are not committed, or untracked files; they are not part of the task."""
    bare: bool
    shallow: bool
    git_dir: Path
    """Where the repository's objects and branches are; a linked worktree shares that of its main checkout."""
    object_format: str = "sha1"
    partial: bool = False
    """A partial clone: objects that its remote promised may be missing, and nothing here fetches them."""

    def shallow_file(self) -> bytes | None:
        """Where the history of a shallow repository ends, as git writes it; None for a whole one."""
        return (self.git_dir / "shallow").read_bytes() if self.shallow else None


def is_url(repo: str) -> bool:
    """Whether `repo` names a remote repository (`https://…`, `ssh://…`, `user@host:path`) and not a local path."""
    return bool(_URL.match(repo)) or (bool(_SCP.match(repo)) and not Path(repo).exists())


def redacted(url: str) -> str:
    """The URL without what stands before an `@` in it, fit for messages."""
    return re.sub(r"(?<=://)[^/@\s]*@", "", url)


async def look(git: Git, source: Source, mirrors: Path) -> SourceState:
    """Find out what a source is and which commit it stands for; a URL is fetched into its mirror first.

    Writes nothing into a local repository. Raises `RepositoryError` with the reason and what to do.
    """
    if source.base is not None:
        _check_base(source.base)
    try:
        if is_url(source.repo):
            return await _look_at_mirror(git, await mirror(git, source.repo, mirrors), source)
        if not source.repo.startswith("/"):
            raise RepositoryError(f"{source.repo}: give an absolute path or a URL")
        return await _look_at_path(git, _existing(Path(source.repo)), source.base)
    except GitError as error:
        raise RepositoryError(f"{redacted(source.repo)} cannot be read: {error}") from error


def _check_base(base: str) -> None:
    if not base or base.startswith("-") or any(ord(letter) < 32 or ord(letter) == 127 for letter in base):
        raise RepositoryError(f"base {base!r} is not the name of a branch, tag or commit")


def _existing(path: Path) -> Path:
    try:
        path = path.resolve(strict=True)
        if not path.is_dir():
            raise RepositoryError(f"{path} is not a directory: name the checkout or the bare repository itself")
        next(path.iterdir(), None)
    except FileNotFoundError:
        raise RepositoryError(f"{path} does not exist") from None
    except PermissionError as error:
        raise RepositoryError(f"{path} cannot be read by uid {os.geteuid()}: {error.strerror}") from error
    except OSError as error:
        raise RepositoryError(f"{path}: {error.strerror}") from error
    return path.parent if path.name == ".git" else path


async def _look_at_path(git: Git, path: Path, base: str | None) -> SourceState:
    bare_dir = path if (path / "HEAD").is_file() and (path / "objects").is_dir() else None
    facts = await _facts(git, path, bare_dir)
    where = {"git_dir": bare_dir} if bare_dir else {"at": path}
    candidates = ["HEAD"] if base is None else _candidates(base, "refs/remotes/origin/")
    partial = _is_partial(facts.git_dir)
    try:
        found = await _first_commit(git, candidates, **where)
        if found is None:
            raise await _no_base(git, str(path), base, **where)
        name, commit, tree = found
        if partial:
            await _need_all_of(git, tree, **where)
    except GitError as error:
        if "promisor" not in error.stderr:
            raise
        raise RepositoryError(
            f"{path} is a partial clone that lacks objects of the base, and nothing here fetches them: "
            f"run `git -C {path} fetch --refetch --no-filter`"
        ) from error
    ref = facts.head if base is None else _short(name)
    return SourceState(
        path=path,
        commit=commit,
        tree=tree,
        ref=commit if ref in {None, "HEAD"} or SHA.match(ref or "") else str(ref),
        dirty=not facts.bare and await _is_dirty(git, path, facts.git_dir),
        bare=facts.bare,
        shallow=facts.shallow,
        git_dir=facts.git_dir,
        object_format=facts.object_format,
        partial=partial,
    )


def _is_partial(git_dir: Path) -> bool:
    """Whether this is a partial clone: its packs that lack something are marked so."""
    return next((git_dir / "objects/pack").glob("*.promisor"), None) is not None


async def _need_all_of(git: Git, tree: str, *, at: Path | None = None, git_dir: Path | None = None) -> None:
    """Raises `GitError`, which names a promisor, where files of the tree are missing."""
    await git.run("rev-list", "--objects", "--quiet", tree, at=at, git_dir=git_dir, seconds=600)


@dataclass(frozen=True)
class _Facts:
    bare: bool
    shallow: bool
    git_dir: Path
    object_format: str
    head: str | None


async def _facts(git: Git, path: Path, bare_dir: Path | None) -> _Facts:
    questions = ("--is-bare-repository", "--is-shallow-repository", "--show-object-format", "--git-common-dir")
    # HEAD comes last: where it has no commit, git fails after it has answered the rest.
    asking = ("rev-parse", *questions, "--show-prefix", "--symbolic-full-name", "HEAD")
    out = await git.run(*asking, at=None if bare_dir else path, git_dir=bare_dir, ok=(0, 128))
    lines = os.fsdecode(out).split("\n")
    if len(lines) < len(questions) + 1:
        raise await _not_git(git, path)
    prefix = lines[4] if bare_dir is None else ""
    if prefix:
        top = path.parents[prefix.rstrip("/").count("/")]
        raise RepositoryError(f"{path} is a sub-directory of the checkout {top}: name {top} itself")
    head = next((line.removeprefix("refs/heads/") for line in lines[5:] if line), None)
    return _Facts(
        bare=lines[0] == "true" or bare_dir is not None,
        shallow=lines[1] == "true",
        git_dir=(bare_dir or path).joinpath(lines[3]).resolve(),
        object_format=lines[2],
        head=None if head == "HEAD" else head,
    )


async def _not_git(git: Git, path: Path) -> RepositoryError:
    try:
        await git.run("rev-parse", "--git-dir", at=path)
    except GitError as error:
        if "not a git repository (or any" in error.stderr:
            return RepositoryError(f"{path} is not a git repository: run `git init` there and commit, or name another")
        return RepositoryError(f"{path} cannot be read as a git repository: {error.stderr.removeprefix('fatal: ')}")
    return RepositoryError(f"{path} cannot be read as a git repository")


async def _is_dirty(git: Git, path: Path, git_dir: Path) -> bool:
    """Whether `git status` would show anything. The index is not refreshed on disk (GIT_OPTIONAL_LOCKS).

    `status` is the one command on a source that could run what its configuration names, clean filters. They are
    switched off, and root never asks on a configuration that is somebody else's: where its owner cannot be asked
    instead, there may be changes.
    """
    places = [place for place in (path, git_dir, git_dir / "config") if place.exists()]
    foreign = {owner: place for place in places if (owner := place.stat().st_uid) != 0}
    if os.geteuid() == 0 and foreign:
        git = git.as_owner(next(iter(foreign.values())))
        if len(foreign) > 1 or git.is_root:
            return True
    arguments = ("status", "--porcelain", "-z", "--untracked-files=normal", "--ignore-submodules=dirty", "--no-renames")
    try:
        env = await _without_filters(git, path)
        output = await git.run_capped(*arguments, at=path, limit=1, seconds=600, env=env)
    except GitError:
        return True  # a damaged index, say: there may be changes, and the commit can be worked on all the same
    return bool(output.data)


async def _without_filters(git: Git, path: Path) -> dict[str, str]:
    """Environment that switches off every filter that the configuration names."""
    listed = await git.run("config", "-z", "--name-only", "--get-regexp", r"^filter\..*\.", at=path, ok=(0, 1))
    names = {key.rpartition(".")[0] for key in listed.decode("utf-8", "surrogateescape").split("\0") if key}
    settings = [
        (f"{name}.{key}", value)
        for name in sorted(names)
        for key, value in (("clean", ""), ("process", ""), ("required", "false"))
    ]
    env = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (key, value) in enumerate(settings):
        env |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return env


def _candidates(base: str, remote: str) -> list[str]:
    """Where a name is looked for. A branch comes before a tag of the same name, as `git checkout` does it."""
    return [f"refs/heads/{base}", base, f"{remote}{base}"]


async def _first_commit(
    git: Git, names: list[str], *, at: Path | None = None, git_dir: Path | None = None
) -> tuple[str, str, str] | None:
    """The first of `names` that leads to a commit, with that commit and its tree."""
    questions = "".join(f"{name}^{{commit}}\n{name}^{{tree}}\n" for name in names).encode()
    out = await git.run(
        "cat-file", "--batch-check=%(objectname) %(objecttype)", at=at, git_dir=git_dir, stdin=questions
    )
    answers = [line.partition(" ") for line in out.decode("utf-8", "replace").splitlines()]
    for name, commit, tree in zip(names, answers[::2], answers[1::2], strict=True):
        if commit[2] == "commit" and tree[2] == "tree" and SHA.match(commit[0]):
            return name, commit[0], tree[0]
    return None


def _short(name: str) -> str:
    for prefix in ("refs/heads/", "refs/tags/", "refs/remotes/"):
        name = name.removeprefix(prefix)
    return name


async def _no_base(
    git: Git, where: str, base: str | None, *, at: Path | None = None, git_dir: Path | None = None
) -> RepositoryError:
    pattern = ("for-each-ref", "--count=2000", "--format=%(refname:short)", "refs/heads", "refs/tags", "refs/remotes")
    names = (await git.run(*pattern, at=at, git_dir=git_dir)).decode("utf-8", "replace").splitlines()
    if base is None:
        if not names:
            return RepositoryError(f"{where} has no commit yet: commit something first")
        head = (await git.run("symbolic-ref", "HEAD", at=at, git_dir=git_dir, ok=(0, 128))).decode("utf-8", "replace")
        some = ", ".join(names[:5])
        return RepositoryError(
            f"{where}: HEAD ({_short(head.strip())}) has no commit; name a base that has one ({some})"
        )
    near = difflib.get_close_matches(base, names, n=3, cutoff=0.5)
    near += [name for name in names if name.rpartition("/")[2] == base and name not in near]
    hint = f"; near it: {', '.join(near)}" if near else f"; it has: {', '.join(names[:8])}" if names else ""
    return RepositoryError(f"{where} has no branch, tag or commit {base!r}{hint}")


async def mirror(git: Git, url: str, mirrors: Path) -> Path:
    """Fetch a URL's branches and tags into its bare mirror under `mirrors` and return the mirror's path.

    What the remote has is kept apart (`refs/remotes/origin/*`), so a fetch never touches a branch published here.
    The URL is not stored: it may hold a token. Raises `RepositoryError` when the remote cannot be fetched.
    """
    if _URL.match(url) and urlsplit(url).scheme.lower() not in _SCHEMES:
        raise RepositoryError(f"{redacted(url)}: only {', '.join(_SCHEMES)} URLs can be fetched")
    path = _mirror_path(url, mirrors)
    async with locked(path.with_suffix(".lock"), seconds=_FETCH_SECONDS):
        try:
            await git.run("init", "--bare", "--quiet", "--template=", str(path))
            head = await _fetch(git, path, url)
        except GitError as error:
            reason = redacted(error.stderr or str(error)).replace(url, redacted(url)).removeprefix("fatal: ")
            raise RepositoryError(f"{redacted(url)} cannot be fetched: {reason}") from error
        await git.run("symbolic-ref", "HEAD", head, git_dir=path)
    return path


def _mirror_path(url: str, mirrors: Path) -> Path:
    mirrors.mkdir(parents=True, exist_ok=True, mode=0o700)
    return mirrors / hashlib.sha256(url.encode()).hexdigest()[:24]


async def _fetch(git: Git, path: Path, url: str) -> str:
    """Fetch, and return the reference that stands for the remote's HEAD."""
    checks = [f"fetch.fsck.{fault}=ignore" for fault in _FAULTS_OF_OLD_HISTORIES]
    settings = ["fetch.fsckObjects=true", *checks, "http.lowSpeedLimit=100", "http.lowSpeedTime=120"]
    switches = [part for setting in settings for part in ("-c", setting)]
    refspecs = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
    fetch = ("fetch", "--quiet", "--prune", "--no-write-fetch-head", "--no-auto-gc", "--no-recurse-submodules")
    await git.run(*switches, *fetch, "--", url, *refspecs, git_dir=path, fetching=True, seconds=_FETCH_SECONDS)
    asking = ("ls-remote", "--symref", "--", url, "HEAD")
    heads = await git.run(*asking, git_dir=path, fetching=True, seconds=_FETCH_SECONDS)
    found = re.match(rb"ref: refs/heads/(\S+)\tHEAD\n", heads)
    return f"refs/remotes/origin/{found[1].decode('utf-8', 'replace')}" if found else "refs/remotes/origin/HEAD"


async def _look_at_mirror(git: Git, path: Path, source: Source) -> SourceState:
    facts = await _facts(git, path, path)
    base = source.base
    candidates = ["HEAD"] if base is None else _candidates(base, "refs/remotes/origin/")[::-1]
    found = await _first_commit(git, candidates, git_dir=path)
    if found is None:
        raise await _no_base(git, redacted(source.repo), base, git_dir=path)
    name, commit, tree = found
    ref = (facts.head or commit) if base is None else _short(name)
    ref = ref.removeprefix("refs/remotes/").removeprefix("origin/")
    return SourceState(
        path=path,
        commit=commit,
        tree=tree,
        ref=ref,
        dirty=False,
        bare=True,
        shallow=False,
        git_dir=path,
        object_format=facts.object_format,
    )


@contextlib.asynccontextmanager
async def locked(path: Path, *, seconds: float) -> AsyncGenerator[None]:
    """Hold an advisory lock on the file `path`, against other tasks and other processes.

    Raises `RepositoryError` when another holds it for longer than `seconds`.
    """
    handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        with anyio.move_on_after(seconds) as scope:
            while not _try_lock(handle):  # noqa: ASYNC110
                await anyio.sleep(0.05)  # another process may hold it, and none tells
        if scope.cancelled_caught:
            raise RepositoryError(f"{path} is held by another task for more than {seconds:g} s")
        yield
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
