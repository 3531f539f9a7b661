"""What stands in the inbox and in the folders of it that are called after a crew or a repository.

Everything is reached through descriptors of directories that no link led to: members of a group may write here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from nightcrew import attachments
from nightcrew.attachments import FolderLook, is_temporary

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
GONE = frozenset((errno.ENOENT, errno.ESTALE))
"""What looking at a file that is not there any more says; the second on network file systems."""


@dataclass(frozen=True)
class Place:
    """A folder for task files: the inbox itself, or one in it that says what its tasks have in common."""

    path: tuple[str, ...] = ()
    """Names below the inbox."""
    crew: str | None = None
    repo: str | None = None

    def __str__(self) -> str:
        return "".join(f"{name}/" for name in self.path)


INBOX = Place()


@dataclass(frozen=True)
class Known:
    """The names that a folder in the inbox may have."""

    crews: frozenset[str] = frozenset()
    repos: Mapping[str, str] = field(default_factory=dict[str, str])

    def inside(self, place: Place, name: str) -> Place | None:
        """The place that a folder of this name in `place` is; None when it is none."""
        if place.crew is None and name in self.crews:
            return replace(place, path=(*place.path, name), crew=name)
        if place.repo is None and name in self.repos:
            return replace(place, path=(*place.path, name), repo=self.repos[name])
        return None

    def at(self, path: tuple[str, ...]) -> Place:
        """The place of these names; a name that nobody knows any more counts as a crew's, which is then refused."""
        place = Place()
        for name in path:
            place = self.inside(place, name) or replace(place, path=(*place.path, name), crew=name)
        return place

    def described(self) -> str:
        """What there is, for a report."""
        repos = f"; of repositories: {', '.join(sorted(self.repos))}" if self.repos else ""
        return f"folders of crews: {', '.join(sorted(self.crews)) or 'none'}{repos}"


@dataclass(frozen=True)
class Dropped:
    """What stands in a place under one name."""

    place: Place
    name: str
    kind: Literal["file", "folder", "link", "special"]
    size: int
    stamp: tuple[object, ...]
    """While it stays the same, nobody has written that we could see."""
    look: FolderLook | None = None
    """Of a folder that can be read."""
    foreign: bool = False
    """Another account's, whose writers the kernel does not tell us of."""

    @property
    def key(self) -> tuple[Place, str]:
        return self.place, self.name


@dataclass(frozen=True)
class Scan:
    """The inbox at one moment."""

    dropped: list[Dropped]
    """By place and name, without names that editors and copiers use meanwhile."""
    places: list[Place]
    troubles: dict[Place, OSError]
    """Places that could not be looked into."""


def scan(inbox: Path, known: Known) -> Scan:
    """Look at the inbox and at every place in it. Raises `OSError` when the inbox itself cannot be read."""
    found: list[Dropped] = []
    places = [Place()]
    troubles: dict[Place, OSError] = {}
    for place in places:  # grows while it is walked, by two levels at most
        try:
            with opened(inbox, place) as folder:
                found += _in(folder, place, known, places)
        except OSError as error:
            if not place.path:
                raise
            troubles[place] = error
    return Scan(sorted(found, key=lambda dropped: (dropped.place.path, dropped.name)), places, troubles)


def _in(folder: int, place: Place, known: Known, places: list[Place]) -> list[Dropped]:
    found: list[Dropped] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_temporary(entry.name):
                continue
            with gone_is_nothing():
                status = entry.stat(follow_symlinks=False)
                inner = known.inside(place, entry.name) if stat.S_ISDIR(status.st_mode) else None
                if inner is not None:
                    places.append(inner)
                else:
                    found.append(_dropped(folder, place, entry.name, status))
    return found


def _dropped(folder: int, place: Place, name: str, status: os.stat_result) -> Dropped:
    stamp: tuple[object, ...] = (status.st_size, status.st_mtime_ns, status.st_ino)
    kind = kind_of(status.st_mode)
    foreign = os.geteuid() not in (0, status.st_uid)
    if kind != "folder":
        return Dropped(place, name, kind, status.st_size, stamp, foreign=foreign)
    try:
        inner = os.open(name, FOLDER, dir_fd=folder)
        try:
            look = attachments.look(inner)
        finally:
            os.close(inner)
    except PermissionError:
        return Dropped(place, name, kind, 1, stamp, foreign=foreign)
    return Dropped(place, name, kind, len(look.stamp), (*stamp, *look.stamp), look, foreign)


def kind_of(mode: int) -> Literal["file", "folder", "link", "special"]:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return "link" if stat.S_ISLNK(mode) else "special"


@contextlib.contextmanager
def opened(inbox: Path, place: Place) -> Generator[int]:
    """A descriptor of a place's folder. Only the way to the inbox itself may lead over links."""
    with open_chain(inbox, place.path) as folder:
        yield folder


@contextlib.contextmanager
def open_chain(start: Path, names: tuple[str, ...]) -> Generator[int]:
    """A descriptor of the directory of these names below `start`; each must be a directory, not a link to one."""
    here = os.open(start, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            inner = os.open(name, FOLDER, dir_fd=here)
            os.close(here)
            here = inner
        yield here
    finally:
        os.close(here)


@contextlib.contextmanager
def gone_is_nothing() -> Generator[None]:
    """What somebody took away meanwhile is no trouble."""
    try:
        yield
    except OSError as error:
        if error.errno not in GONE:
            raise
