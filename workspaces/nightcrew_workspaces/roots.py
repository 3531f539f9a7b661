"""A person's own directories, seen through a box at their own paths: what outside clients of the tools work on.

Nothing is cloned: what is written here is written there. So a root is never what programs outside of a box obey: the
machine's root, a home directory (its `.bashrc`, its `.ssh`). A root's `.git` is read-only for commands and for
the file tools. The git tools have a box of their own, in which it can be written to but neither moved away nor
replaced, and its `config` and `hooks` cannot be changed: the person's own git, outside, runs what stands in them.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from nightcrew_workspaces.background import Background
from nightcrew_workspaces.box import Box
from nightcrew_workspaces.errors import RootRefused
from nightcrew_workspaces.files import Files
from nightcrew_workspaces.gitbox import GitBox
from nightcrew_workspaces.policy import BoxPolicy, BoxUser, Mount
from nightcrew_workspaces.user import box_user, unreachable

_GIT_CONFIG = "/opt/nightcrew/gitconfig"
_OBEYED = ("config", "config.worktree", "hooks", "modules")
"""What git outside of a box reads settings from, or runs: read-only even for the git tools."""
_SHUT = (".ssh", ".gnupg", ".bashrc", ".profile", ".config", ".local/share/keyrings")
"""What shows that a directory is somebody's home."""


@dataclass(frozen=True)
class Identity:
    """Who commits, where the repository itself does not say."""

    name: str
    email: str


def person() -> Identity | None:
    """Who this person's own git commits as, None where it has no name for them. Reads no repository."""
    found: list[str] = []
    for key in ("user.name", "user.email"):
        argv = ["git", "config", "--global", "--get", key]
        with suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(argv, cwd="/", capture_output=True, timeout=10, check=False)
            found.append(done.stdout.decode("utf-8", "replace").strip())
    return Identity(*found) if len(found) == 2 and all(found) else None


def check_roots(paths: Sequence[Path]) -> tuple[Path, ...]:
    """The roots by their real paths, in the order in which they were named. Raises `RootRefused`."""
    if not paths:
        raise RootRefused("no root is named: say which directories may be seen (--root DIR)")
    roots: list[Path] = []
    for path in paths:
        root = _real(path)
        for other in roots:
            if root.is_relative_to(other) or other.is_relative_to(root):
                raise RootRefused(f"{path}: the roots {other} and {root} are one inside the other; name one of them")
        roots.append(root)
    return tuple(roots)


def user_of_roots(roots: Sequence[Path], *, read_only: bool, name: str | None = None) -> BoxUser:
    """The account a box over these roots runs as: who owns them where the service is root, otherwise the current one.

    Raises `RootRefused` where that would be root, and `BoxUnavailable`.
    """
    if os.geteuid() != 0 or read_only:
        return box_user(name)
    owners = {root.stat().st_uid for root in roots}
    if len(owners) > 1:
        raise RootRefused("the roots belong to different accounts; use a server for each, or --read-only")
    (uid,) = owners
    if uid == 0:
        raise RootRefused(
            f"{roots[0]} belongs to root, and nothing in a box runs as root: give it to another account "
            f"(chown -R NAME {roots[0]}), start the server as another account, or use --read-only"
        )
    try:
        entry = pwd.getpwuid(uid)
        return BoxUser(entry.pw_name, uid, entry.pw_gid or uid, switch=True)
    except KeyError:
        return BoxUser(str(uid), uid, uid, switch=True)


def roots_policy(
    template: BoxPolicy, roots: Sequence[Path], *, read_only: bool, identity: Identity | None = None
) -> tuple[BoxPolicy, BoxPolicy]:
    """`template` with the roots in it at their own paths: for commands and files, and for git. Reads the disk.

    Raises `RootRefused` for a root that the template's user cannot reach or that would cover the system's directories.
    """
    mounts, with_git = list(template.mounts), list(template.mounts)
    for root in roots:
        if (blocked := unreachable(root, template.user)) is not None:
            raise RootRefused(f"{root}: the account {template.user.name} cannot enter {blocked} (chmod o+x {blocked})")
        try:
            shown = Mount(root, str(root), writable=not read_only)
        except ValueError:
            raise RootRefused(f"{root} is one of the system's own directories; name a project's") from None
        git = root / ".git"
        if git.is_symlink():
            raise RootRefused(f"{git} is a symbolic link; name the directory that has the repository")
        mounts += [shown, Mount(git, str(git))] if git.exists() else [shown]
        with_git += [shown, *(() if read_only else _guards(git))]
    files, env = dict(template.files), dict(template.env)
    if identity is not None:
        files[_GIT_CONFIG] = _git_config(identity)
        env["GIT_CONFIG_GLOBAL"] = _GIT_CONFIG
    policy = replace(template, mounts=tuple(mounts), files=files, env=env, chdir=str(roots[0]))
    return policy, replace(policy, mounts=tuple(with_git))


class Roots:
    """Roots with the boxes over them. An async context manager: leaving it stops what runs in them."""

    base_commit = None
    """There is no task, so nothing that it began from."""

    def __init__(self, roots: Sequence[Path], policies: tuple[BoxPolicy, BoxPolicy]) -> None:
        """`policies` as `roots_policy` gives them."""
        self.roots = tuple(roots)
        commands, git = policies
        self.box = Box(commands)
        self.files = Files(self.box, roots=tuple(map(str, roots)))
        self.git = GitBox(Box(git))
        self.background = Background(self.box)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop the helpers and what runs in the background; the files stay as they are."""
        async with AsyncExitStack() as stack:
            for each in (self.files, self.git, self.background):
                stack.push_async_callback(each.aclose)


def _real(path: Path) -> Path:
    try:
        root = path.expanduser().resolve(strict=True)
    except FileNotFoundError as error:
        raise RootRefused(f"{path}: there is no such directory") from error
    except OSError as error:
        raise RootRefused(f"{path}: cannot be reached: {error.strerror}") from error
    except RuntimeError as error:
        raise RootRefused(f"{path}: {error}") from error
    if not root.is_dir():
        raise RootRefused(f"{path} is not a directory")
    if root == Path("/") or _is_home(root):
        raise RootRefused(
            f"{path}: programs outside of the box obey files that lie in it (.bashrc, .ssh, .config); "
            "name a project's directory below it"
        )
    return root


def _is_home(root: Path) -> bool:
    if any(Path(entry.pw_dir) == root for entry in pwd.getpwall() if entry.pw_dir not in {"", "/"}):
        return True
    return sum((root / name).exists() for name in _SHUT) > 1


def _guards(git: Path) -> list[Mount]:
    """A `.git` bound onto itself, so that it stays where it is, and what in it is obeyed read-only."""
    if not git.is_dir():
        return [Mount(git, str(git))] if git.exists() else []
    guards = [Mount(git, str(git), writable=True)]
    for name in _OBEYED:
        part = git / name
        if part.is_symlink():
            raise RootRefused(f"{part} is a symbolic link, which cannot be guarded; replace it by what it points to")
        if part.exists():
            guards.append(Mount(part, str(part)))
    return guards


def _git_config(identity: Identity) -> bytes:
    def quoted(text: str) -> str:
        clean = "".join(letter for letter in text if letter.isprintable())
        return '"' + clean.replace("\\", "\\\\").replace('"', '\\"') + '"'

    return f"[user]\n\tname = {quoted(identity.name)}\n\temail = {quoted(identity.email)}\n".encode()
