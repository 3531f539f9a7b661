"""Git outside of boxes: hardened, and only ever pointed at repositories that no model has written to.

A repository that a model has written to can make git run anything (fsmonitor, hooks, filters with names of its own
choice), and no set of switches closes all of it. Those repositories are therefore only touched by git inside a box;
what runs here are the person's own source repository, mirrors and depots.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import re
import resource
import signal
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio

from nightcrew_workspaces.errors import GitError
from nightcrew_workspaces.policy import BoxUser
from nightcrew_workspaces.user import permits, unreachable

SHA = re.compile(r"^(?:[0-9a-f]{40}|[0-9a-f]{64})$")
"""A full object name, SHA-1 or SHA-256."""

IDENTITY = ("Nightcrew", "nightcrew@localhost")
"""Who commits, and who writes a reflog."""

_MIB = 1024 * 1024
_NOGROUP = 65534

_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.untrackedCache=false",
    "core.attributesFile=/dev/null",
    "core.alternateRefsCommand=:",
    "core.askPass=/bin/false",
    "core.pager=cat",
    "diff.external=",
    "credential.helper=",
    "protocol.allow=never",
    "protocol.file.allow=always",
    "transfer.fsckObjects=true",
    "submodule.recurse=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "commit.gpgSign=false",
    "safe.bareRepository=explicit",
)

_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LC_ALL": "C.UTF-8",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_GRAFT_FILE": "/nonexistent/grafts",
    "GIT_EDITOR": "/bin/false",
    "GIT_SEQUENCE_EDITOR": "/bin/false",
    "GIT_ASKPASS": "/bin/false",
    "SSH_ASKPASS": "/bin/false",
    "GIT_AUTHOR_NAME": IDENTITY[0],
    "GIT_AUTHOR_EMAIL": IDENTITY[1],
    "GIT_COMMITTER_NAME": IDENTITY[0],
    "GIT_COMMITTER_EMAIL": IDENTITY[1],
}

# Not even `file`: a missing object of a partial clone is fetched by a program that its configuration names, and only
# git from 2.39.4 on heeds GIT_NO_LAZY_FETCH.
_NO_REMOTES = {"GIT_ALLOW_PROTOCOL": "none", "GIT_SSH_COMMAND": "/bin/false"}

_REMOTES = {
    "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
    "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=30 -o ControlMaster=no -o ControlPath=none",
}


@dataclass(frozen=True)
class Owner:
    """The account that git runs as, and that owns what it writes."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    @classmethod
    def of(cls, uid: int, gid: int) -> Owner:
        """The account with its own groups; a file's group says nothing about its owner's, and may be root's."""
        try:
            account = pwd.getpwuid(uid)
        except KeyError:
            return cls(uid, gid or _NOGROUP)
        return cls(uid, account.pw_gid, tuple(os.getgrouplist(account.pw_name, account.pw_gid)))


@dataclass(frozen=True)
class Output:
    """What a git command wrote to its standard output, and whether that was cut at the limit."""

    data: bytes
    cut: bool


def safe_config(folder: Path) -> Path:
    """Write the global configuration that every trusted git reads, and return its path.

    It says that repositories of other accounts may be read: a service that runs as root works on people's
    repositories, and `-c safe.directory` does not reach the `upload-pack` that a fetch starts.
    """
    path = folder / "gitconfig"
    text = "[safe]\n\tdirectory = *\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        fresh = folder / f"gitconfig.{os.getpid()}"
        fresh.write_text(text, encoding="utf-8")
        fresh.chmod(0o644)
        fresh.replace(path)
    return path


@dataclass(frozen=True)
class Git:
    """The trusted git: nothing of the service's environment reaches it, and every command has a time limit.

    `config` is the file of `safe_config`. `owner` runs commands as another account (only root can). `remote_env` holds
    the variables that reaching a remote needs (`SSH_AUTH_SOCK`, `HOME`); only `fetching` commands get them.
    """

    config: Path
    owner: Owner | None = None
    remote_env: Mapping[str, str] = field(default_factory=dict[str, str])

    def as_owner(self, path: Path) -> Git:
        """The same git, run as the account that owns `path`, so that what it writes there belongs to that account.

        Stays as it is where the service is not root, or where that account could not get to `path` at all.
        """
        owned = path.stat()
        if os.geteuid() != 0 or owned.st_uid == 0:
            return self
        owner = Owner.of(owned.st_uid, owned.st_gid)
        if unreachable(path, BoxUser("", owner.uid, owner.gid, switch=True), owner.groups) is not None:
            return self
        return replace(self, owner=owner)

    def may_write(self, path: Path) -> bool:
        """Whether what this git runs as could make files in a directory; access control lists are not looked at."""
        if self.owner is None:
            return os.access(path, os.W_OK | os.X_OK)
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            return False
        return permits(path.stat(), 0o3, self.owner.uid, {self.owner.gid, *self.owner.groups})

    @property
    def is_root(self) -> bool:
        """Whether commands run as root."""
        return os.geteuid() == 0 and self.owner is None

    async def run(
        self,
        *arguments: str,
        at: Path | None = None,
        git_dir: Path | None = None,
        stdin: bytes | int = b"",
        stdout: int = asyncio.subprocess.PIPE,
        seconds: float = 120.0,
        ok: tuple[int, ...] = (0,),
        env: Mapping[str, str] | None = None,
        fetching: bool = False,
        memory_mib: int | None = None,
    ) -> bytes:
        """Run one command and return its standard output, at most 64 MiB of it.

        `stdin` is bytes or an open file descriptor, `stdout` may be one too. `memory_mib` bounds the address space: for
        data that a box made up. Raises `GitError` when the exit code is not in `ok`, when it takes
        longer than `seconds`, or when it writes more than it may.
        """
        output = await self.run_capped(
            *arguments,
            at=at,
            git_dir=git_dir,
            stdin=stdin,
            stdout=stdout,
            seconds=seconds,
            ok=ok,
            env=env,
            fetching=fetching,
            memory_mib=memory_mib,
            limit=64 * _MIB,
        )
        if output.cut:
            raise GitError(f"git {_verb(arguments)} wrote more than 64 MiB")
        return output.data

    async def run_capped(
        self,
        *arguments: str,
        limit: int,
        at: Path | None = None,
        git_dir: Path | None = None,
        stdin: bytes | int = b"",
        stdout: int = asyncio.subprocess.PIPE,
        seconds: float = 120.0,
        ok: tuple[int, ...] = (0,),
        env: Mapping[str, str] | None = None,
        fetching: bool = False,
        memory_mib: int | None = None,
    ) -> Output:
        """Like `run`, but output beyond `limit` bytes ends the command and is marked as cut."""
        try:
            with anyio.fail_after(seconds):
                async with self.process(
                    *arguments,
                    at=at,
                    git_dir=git_dir,
                    stdin=stdin,
                    stdout=stdout,
                    env=env,
                    fetching=fetching,
                    memory_mib=memory_mib,
                ) as process:
                    out, err, cut = await _converse(process, stdin if isinstance(stdin, bytes) else b"", limit)
        except TimeoutError as error:
            raise GitError(f"git {_verb(arguments)} took longer than {seconds:g} s and was stopped") from error
        code = process.returncode
        if not cut and code not in ok:
            said = err.decode("utf-8", "replace").strip()
            raise GitError(f"git {_verb(arguments)} failed: {said or f'exit code {code}'}", exit_code=code, stderr=said)
        return Output(out, cut)

    @contextlib.asynccontextmanager
    async def process(
        self,
        *arguments: str,
        at: Path | None = None,
        git_dir: Path | None = None,
        stdin: bytes | int = b"",
        stdout: int = asyncio.subprocess.PIPE,
        env: Mapping[str, str] | None = None,
        fetching: bool = False,
        memory_mib: int | None = None,
    ) -> AsyncGenerator[asyncio.subprocess.Process]:
        """A running git command, killed with all its children on the way out if it has not ended."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command(arguments, at, git_dir),
                stdin=asyncio.subprocess.PIPE if isinstance(stdin, bytes) else stdin,
                stdout=stdout,
                stderr=asyncio.subprocess.PIPE,
                env=self._environment(env, fetching=fetching),
                cwd="/",
                start_new_session=True,
                umask=0o022,
                user=self.owner.uid if self.owner else None,
                group=self.owner.gid if self.owner else None,
                extra_groups=list(self.owner.groups) if self.owner else None,
            )
        except OSError as error:
            hint = (
                ": install it (Debian: apt-get install git)" if isinstance(error, FileNotFoundError) else f": {error}"
            )
            raise GitError(f"git cannot be started{hint}") from error
        if memory_mib is not None:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(process.pid, resource.RLIMIT_AS, (memory_mib * _MIB, memory_mib * _MIB))
        try:
            yield process
        finally:
            with anyio.CancelScope(shield=True):
                await _end(process)

    def _command(self, arguments: tuple[str, ...], at: Path | None, git_dir: Path | None) -> list[str]:
        command = ["git"]
        for setting in _SETTINGS:
            command += ["-c", setting]
        if at is not None:
            command += ["-C", str(at)]
        if git_dir is not None:
            command.append(f"--git-dir={git_dir}")
        return [*command, *arguments]

    def _environment(self, extra: Mapping[str, str] | None, *, fetching: bool) -> dict[str, str]:
        env = {**_ENVIRONMENT, "GIT_CONFIG_GLOBAL": str(self.config), **(_REMOTES if fetching else _NO_REMOTES)}
        if fetching:
            env |= self.remote_env
        return env | dict(extra or {})


def _verb(arguments: tuple[str, ...]) -> str:
    """The git command among its arguments: what comes after the settings."""
    position = 0
    while arguments[position] == "-c":
        position += 2
    return arguments[position]


async def _converse(process: asyncio.subprocess.Process, stdin: bytes, limit: int) -> tuple[bytes, bytes, bool]:
    """Feed a process and read what it says; standard output beyond `limit` ends it, standard error keeps 16 KiB."""
    assert process.stderr is not None
    errors = bytearray()

    async def feed() -> None:
        if process.stdin is None:
            return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(stdin)
            await process.stdin.drain()
        process.stdin.close()

    async def listen(stream: asyncio.StreamReader) -> None:
        while piece := await stream.read(65536):
            errors.extend(piece[: 16384 - len(errors)])

    out = bytearray()
    cut = False
    async with anyio.create_task_group() as group:
        group.start_soon(feed)
        group.start_soon(listen, process.stderr)
        while process.stdout is not None and (piece := await process.stdout.read(262144)):
            if len(out) + len(piece) > limit and not cut:
                cut = True
                out.extend(piece[: limit - len(out)])
                _kill(process)
            elif not cut:
                out.extend(piece)
    await process.wait()
    return bytes(out), bytes(errors), cut


async def _end(process: asyncio.subprocess.Process) -> None:
    _kill(process)
    if process.stdin is not None:
        process.stdin.close()
    with anyio.move_on_after(5):  # what escaped the kill may hold the pipes open
        for stream in (process.stdout, process.stderr):
            while stream is not None and await stream.read(262144):
                pass  # an unread pipe keeps the transport open
    await process.wait()


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
