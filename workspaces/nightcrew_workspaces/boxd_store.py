"""Writing files: all of it or nothing, and nothing left behind. Standard library only; runs in a box.

New content waits in a file without a name (`O_TMPFILE`), so that a helper which is killed meanwhile leaves nothing; it
has a name of its own (`boxd_paths.LEFTOVER`) only for the moment before it takes an old file's place. Where the file
system has no such files it has that name from the beginning.

What takes a file's place keeps its permission bits and extended attributes. A file with several names (hard links) is
replaced under the one that was asked for and stays as it was under the others: package managers link their caches into
repositories. A symbolic link stays, and what it points at is replaced.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from nightcrew_workspaces.boxd_load import Loaded, same
from nightcrew_workspaces.boxd_paths import opened_folder, shown
from nightcrew_workspaces.boxd_text import Refused

if TYPE_CHECKING:
    from typing import Self

_NEW = os.O_WRONLY | os.O_CLOEXEC
_NOT_SUPPORTED = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL})
_PIECE = 64 * 1024 * 1024
_counter = itertools.count()


class Change(NamedTuple):
    """New content for a file. `before` is what was read of the one that is there, None where there is to be none."""

    real: str
    content: bytes | int
    """Bytes, or a descriptor of a file to be copied from its beginning."""
    mode: int
    before: Loaded | None = None


def store(change: Change) -> None:
    """Make one change."""
    store_all([change])


def store_all(changes: Sequence[Change]) -> None:
    """Make all changes or none, as far as a file system can.

    Everything is written before the first file is replaced, so a full disk or a missing permission changes nothing;
    when replacing one fails nevertheless, those before it are put back. Killed between two of them, some are made.
    """
    with contextlib.ExitStack() as held:
        staged = [held.enter_context(Staged(change)) for change in changes]
        for number, each in enumerate(staged):
            try:
                each.commit()
            except BaseException:
                for done in reversed(changes[:number]):
                    _put_back(done)
                raise


class Staged:
    """One change that is written and not yet to be seen; a context manager that forgets it at the end."""

    def __init__(self, change: Change) -> None:
        self._change = change
        self._held = contextlib.ExitStack()
        folder, self._name = os.path.split(change.real)
        try:
            self._make_folders(folder)
            self._folder = self._held.enter_context(opened_folder(folder))
            self._descriptor, self._temporary = _open_new(self._folder)
            self._held.callback(os.close, self._descriptor)
            self._held.callback(self._forget)
            _fill(self._descriptor, change.content)
            if change.before is not None:
                _copy_attributes(change.real, self._descriptor)
            os.fchmod(self._descriptor, change.mode)
        except BaseException:
            self._held.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def commit(self) -> None:
        """Take the file's place, which must be as it was."""
        before = self._change.before
        if before is None:
            self._take_free_place()
            return
        now = os.lstat(self._name, dir_fd=self._folder)
        if not stat.S_ISREG(now.st_mode) or not same(before.status, now):
            raise Refused("changed", f"{shown(self._name)} was changed by somebody else just now; read it again")
        if self._temporary is None:
            self._temporary = _temporary_name()
            self._link(self._temporary)
        os.rename(self._temporary, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self._temporary = None

    def _make_folders(self, folder: str) -> None:
        """Make a directory and those above it, which go again at the end when nothing came into them."""
        missing: list[str] = []
        at = folder
        while not os.path.lexists(at):
            missing.append(at)
            at = os.path.dirname(at)
        for each in reversed(missing):
            with contextlib.suppress(FileExistsError):
                os.mkdir(each)
                self._held.callback(_remove_empty, each)

    def _take_free_place(self) -> None:
        try:
            if self._temporary is None:
                self._link(self._name)
            else:
                os.link(self._temporary, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except FileExistsError:
            raise Refused("exists", f"{shown(self._name)} was made by somebody else just now; read it first") from None

    def _link(self, name: str) -> None:
        source = f"/proc/self/fd/{self._descriptor}"
        os.link(source, name, dst_dir_fd=self._folder, follow_symlinks=True)

    def _forget(self) -> None:
        if self._temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary, dir_fd=self._folder)


def _open_new(folder: int) -> tuple[int, str | None]:
    """A descriptor to write to, and the file's name where it had to have one."""
    try:
        return os.open(".", _NEW | os.O_TMPFILE, 0o600, dir_fd=folder), None
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
    name = _temporary_name()
    return os.open(name, _NEW | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder), name


def _temporary_name() -> str:
    return f".nightcrew-{os.getpid()}-{next(_counter)}.tmp"


def _fill(descriptor: int, content: bytes | int) -> None:
    if isinstance(content, int):
        at = 0
        while copied := os.sendfile(descriptor, content, at, _PIECE):
            at += copied
        return
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _copy_attributes(real: str, descriptor: int) -> None:
    """Extended attributes, access control lists among them; those that may not be set are left out."""
    with contextlib.suppress(OSError):
        for name in os.listxattr(real, follow_symlinks=False):
            with contextlib.suppress(OSError):
                os.setxattr(descriptor, name, os.getxattr(real, name, follow_symlinks=False))


def _put_back(change: Change) -> None:
    """Undo a change that was made, as well as it can be done."""
    with contextlib.suppress(OSError, Refused):
        if change.before is None:
            os.unlink(change.real)
        else:
            now = Loaded(b"", os.lstat(change.real))
            with Staged(Change(change.real, change.before.raw, change.mode, now)) as old:
                old.commit()


def _remove_empty(folder: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(folder)
