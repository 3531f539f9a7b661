"""Where a path leads: below which root, and not into git's own directories. Standard library only; runs in a box.

The box is the boundary: nothing else of the machine can be reached from here. What is checked here is for good
answers, and keeps what is read and written below the roots while other processes swap links: a directory or file that
was opened is asked where it really is before it is used.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Generator, Sequence

from nightcrew_workspaces.boxd_text import Refused

LEFTOVER = re.compile(r"\.nightcrew-\d+-\d+\.tmp")
"""Names of files that exist between writing and taking the place of another one; one is left when the helper is killed
just then. They are no part of anybody's work: not listed, not searched, not in checkpoints."""

_UNKNOWN = "\ufffd"
# What HFS+ leaves out when it compares names, as git's own utf8.c lists it.
_IGNORED_BY_HFS = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
_NTFS_TAIL = re.compile(r"[. ]*(?::.*)?$", re.DOTALL)


class Places:
    """The directories that requests may name, by absolute paths, or by relative ones below the first."""

    def __init__(self, roots: Sequence[str]) -> None:
        self.roots = tuple(os.path.realpath(root) for root in roots)

    def locate(self, path: str, *, writing: bool = False, follow: bool = True) -> str:
        """The real path, which is below a root and, for writing, in no directory of git's and in no read-only root.

        Without `follow` a symbolic link at the end of the path is meant itself.
        """
        if not path or "\0" in path:
            raise Refused("bad_request", "the path is empty or has a NUL character in it")
        named = os.path.normpath(os.path.join(self.roots[0], path))
        if not self.holds(named):
            raise Refused("outside", f"{path} is outside of the workspace; name a path {self.described()}")
        if _UNKNOWN in named:
            named = _undecodable(named)
        real = os.path.realpath(named)
        if not follow:
            real = os.path.join(os.path.realpath(os.path.dirname(named)), os.path.basename(named))
            if named in self.roots:
                raise Refused("forbidden", "that is the workspace itself; name something in it")
        if not self.holds(real):
            raise Refused("outside", f"{path} leads out of the workspace through a symbolic link")
        if writing:
            self._check_writable(named, real, path)
        return real

    def holds(self, path: str) -> bool:
        return any(path == root or path.startswith(f"{root}/") for root in self.roots)

    def root_of(self, real: str) -> str:
        """The innermost root that holds a path."""
        return max((root for root in self.roots if real == root or real.startswith(f"{root}/")), key=len)

    def label(self, real: str) -> str:
        """A real path as answers name it: relative to the first root, else absolute."""
        first = self.roots[0]
        if real == first:
            return "."
        return shown(real[len(first) + 1 :] if real.startswith(f"{first}/") else real)

    def prefix(self, root: str) -> str:
        """What goes before a path relative to `root` to make the label of it."""
        first = self.roots[0]
        if root == first:
            return ""
        return f"{shown(root)[len(first) + 1 :] if root.startswith(f'{first}/') else shown(root)}/"

    def described(self) -> str:
        """Which paths may be named, for a message."""
        first, *others = self.roots
        return f"relative to {first}" + (f", or an absolute one below {' or '.join(others)}" if others else "")

    def _check_writable(self, named: str, real: str, path: str) -> None:
        if any(is_gits_name(component) for component in (named + real).split("/")):
            raise Refused("forbidden", f"{path} is in git's own directory, which only git writes to")
        root = self.root_of(real)
        if os.statvfs(root).f_flag & os.ST_RDONLY:
            others = [self.label(each) for each in self.roots if not os.statvfs(each).f_flag & os.ST_RDONLY]
            instead = f"write below {' or '.join(others)} instead" if others else "nothing can be written here"
            raise Refused("read_only", f"{path} is in a read-only root; {instead}")
        if in_git_directory(root, real):
            raise Refused("forbidden", f"{path} is in a git directory (HEAD, objects, refs), which only git writes to")


def is_gits_name(name: str) -> bool:
    """Whether a name stands for `.git`: some file systems read several spellings as that."""
    if name == ".git":
        return True
    if not name or (name[0] not in ".gG" and name.isascii()):  # the quick way for nearly all names
        return False
    text = name.casefold()
    spellings = (text, _IGNORED_BY_HFS.sub("", text))
    return any(_NTFS_TAIL.sub("", spelling) in {".git", "git~1"} for spelling in spellings)


def in_git_directory(root: str, real: str) -> bool:
    """Whether something at `real` would be part of what git takes for a repository, whatever that is called.

    A bare repository or separate git directory has a configuration that makes git run commands, so the file tools
    neither write into one nor make one.
    """
    folder, child = os.path.split(real)
    while len(folder) >= len(root):
        there = [name for name in ("HEAD", "commondir", "objects", "refs") if _there(folder, name, child)]
        if "HEAD" in there and ("commondir" in there or len(there) == 3):
            return True
        folder, child = os.path.split(folder)
        if not child:
            break
    return False


def shown(name: str) -> str:
    """A file name as text: bytes that are not UTF-8 are replaced. `locate` understands it where it is no riddle."""
    return name if name.isascii() else name.encode(errors="surrogateescape").decode(errors="replace")


@contextlib.contextmanager
def opened_folder(real: str) -> Generator[int]:
    """A descriptor of the directory `real`, for the time of a `with`; refused when something else has its place."""
    descriptor = os.open(real, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        check_place(descriptor, real)
        yield descriptor
    finally:
        os.close(descriptor)


def check_place(descriptor: int, real: str) -> None:
    """Refuse an open file or directory that is not where it was looked for: a link was swapped meanwhile."""
    if os.readlink(f"/proc/self/fd/{descriptor}").removesuffix(" (deleted)") != real.removesuffix(" (deleted)"):
        raise Refused("changed", f"{shown(real)} is being moved by somebody else; try again")


def _there(folder: str, name: str, child: str) -> bool:
    return name == child or os.path.lexists(f"{folder}/{name}")


def _undecodable(named: str) -> str:
    """The path whose bytes are not UTF-8 and that a listing showed as `named`; `named` where there is no such one."""
    at = "/"
    for component in named.strip("/").split("/"):
        here = os.path.join(at, component)
        if _UNKNOWN in component and not os.path.lexists(here) and os.path.isdir(at):
            alike = [name for name in os.listdir(at) if not name.isascii() and shown(name) == component]
            if len(alike) > 1:
                raise Refused("bad_request", f"{named} stands for {len(alike)} names that are not UTF-8; use a command")
            here = os.path.join(at, *alike) if alike else here
        at = here
    return at


def kind_of(mode: int) -> str:
    """`file`, `directory`, `link` or `other` (pipe, socket, device)."""
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}
    return kinds.get(stat.S_IFMT(mode), "other")
