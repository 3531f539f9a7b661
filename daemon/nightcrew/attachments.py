"""What comes with a task beside its text: looked at without following links, copied once, shown to boxes read-only.

They lie under `attachments/<task>/<digest of all of them>`, so a copy is never written over: a task that names other
ones has them in another folder, and whatever a crash leaves is either whole or called `.new-…`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nightcrew.errors import AttachmentRefused
from nightcrew_tools.contract import Attachment, TaskRequest
from nightcrew_workspaces.folders import make_folder, sync_folder

TASK_FILE = "task.md"
"""What makes a dropped folder a task."""
MAX_FILES = 64
MAX_DEPTH = 4
MAX_FILE_BYTES = 16 * 1024 * 1024
MAX_BYTES = 64 * 1024 * 1024
MAX_IMAGES = 8
MAX_IMAGE_BYTES = 4 * 1024 * 1024
"""A larger picture is an attachment like any other: no model is sent it."""
MAX_IMAGES_BYTES = 8 * 1024 * 1024
"""All that one message carries; each conversation of the task has them in the journal."""

ORPHAN_SECONDS = 3600.0
"""What belongs to no task for so long is nobody's that is just being submitted."""

_MAX_PATH = 240
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_RSYNC = re.compile(r"\..+\.[A-Za-z0-9]{6}")

Image = Literal["png", "jpeg", "webp", "gif"]


class Unfinished(Exception):
    """A file changed, or somebody has it open for writing, while it was copied."""


@dataclass(frozen=True)
class FolderLook:
    """A dropped folder as it stands: names and sizes, no content."""

    files: tuple[tuple[str, int], ...]
    """Path and size of everything but the task file and hidden names, sorted."""
    stamp: tuple[object, ...]
    """While it stays the same, nobody has written that we could see."""
    has_task: bool
    fault: str = ""
    """Why it can be no task."""
    unfinished: str = ""
    """A name in it that copiers give to what they have not done with."""


def is_temporary(name: str) -> bool:
    """Is this what editors and copiers call a file that they are busy with?"""
    return (
        name.startswith(".")
        or name.endswith(("~", ".tmp", ".part", ".partial", ".swp", ".crdownload"))
        or (name.startswith("#") and name.endswith("#"))
    )


def look(folder: int) -> FolderLook:
    """Look at the directory behind a descriptor, to the end or to the first thing that is against the rules.

    Raises `OSError` where it cannot be read.
    """
    stamps: list[object] = []
    files: list[tuple[str, int]] = []
    unfinished, fault, has_task = "", "", False
    for path, status in _walk(folder, "", 1):
        stamps.append((path, status.st_size, status.st_mtime_ns, status.st_ino, stat.S_IFMT(status.st_mode)))
        name = path.rpartition("/")[2]
        if is_temporary(name):
            hidden = name.startswith(".") and not _RSYNC.fullmatch(name)
            unfinished = unfinished or ("" if hidden else path)
            continue
        fault = _fault(path, status, len(files), sum(size for _, size in files))
        if fault:
            break
        if path == TASK_FILE:
            has_task = stat.S_ISREG(status.st_mode)
        elif stat.S_ISREG(status.st_mode):
            files.append((path, status.st_size))
    return FolderLook(tuple(sorted(files)), tuple(stamps), has_task, fault, unfinished)


def _walk(folder: int, prefix: str, depth: int) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(folder) as entries:
        found = sorted((entry.name, entry.stat(follow_symlinks=False)) for entry in _at_most(entries))
    for name, status in found:
        yield f"{prefix}{name}", status
        if stat.S_ISDIR(status.st_mode) and depth <= MAX_DEPTH and not is_temporary(name):
            inner = os.open(name, _OPEN | os.O_DIRECTORY, dir_fd=folder)
            try:
                yield from _walk(inner, f"{prefix}{name}/", depth + 1)
            finally:
                os.close(inner)


def _at_most(entries: Iterator[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
    for number, entry in enumerate(entries):
        if number > 4 * MAX_FILES:  # far over the limit already, and there may be millions
            return
        yield entry


def _fault(path: str, status: os.stat_result, files: int, size: int) -> str:
    shown = printable(path)
    if not path.isprintable() or len(path) > _MAX_PATH:
        return f"the name {shown} has characters that cannot be shown, or is longer than {_MAX_PATH}: rename it"
    if stat.S_ISLNK(status.st_mode):
        return f"{shown} is a symbolic link: put the file itself there"
    if stat.S_ISDIR(status.st_mode):
        deep = path.count("/") + 1 > MAX_DEPTH
        return f"{shown} lies more than {MAX_DEPTH} folders deep: put its files higher up" if deep else ""
    if not stat.S_ISREG(status.st_mode):
        return f"{shown} is a pipe, socket or device: only files and folders can be attached"
    if files >= MAX_FILES + (path == TASK_FILE):
        return f"there are more than {MAX_FILES} files in it: attach only what the task speaks of"
    if status.st_size > MAX_FILE_BYTES:
        return f"{shown} is larger than {MAX_FILE_BYTES // 2**20} MiB: name big files by their path in the task"
    if size + status.st_size > MAX_BYTES:
        return f"its files are larger than {MAX_BYTES // 2**20} MiB together: attach only what the task speaks of"
    return ""


def printable(text: str) -> str:
    """Fit for a terminal and for UTF-8."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def image_kind(head: bytes) -> Image | None:
    """What picture a file is that begins with these 12 bytes or more; None for one that no model takes. Pure."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    return "webp" if head[:4] == b"RIFF" and head[8:12] == b"WEBP" else None


def open_in(folder: int, path: str) -> int:
    """A descriptor of a regular file below the directory behind `folder`, no link on the way. Raises `OSError`."""
    *folders, name = path.split("/")
    here = os.dup(folder)
    try:
        for each in folders:
            inner = os.open(each, _OPEN | os.O_DIRECTORY, dir_fd=here)
            os.close(here)
            here = inner
        return os.open(name, _OPEN, dir_fd=here)
    finally:
        os.close(here)


def open_plain(path: Path) -> int:
    """A descriptor of a file that a person named; nothing is waited for. Raises `OSError`."""
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def read_head(path: Path, name: str) -> Attachment:
    """A file that a person named, as far as its size and first bytes tell. Raises `AttachmentRefused`."""
    try:
        fd = open_plain(path)
        with os.fdopen(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise AttachmentRefused(f"{printable(str(path))} is not a regular file")
            return Attachment(path=name, bytes=status.st_size, sha256="", image=image_kind(file.read(16)))
    except OSError as error:
        raise AttachmentRefused(f"{printable(str(path))} cannot be read ({error.strerror})") from error


def heads(folder: int, look: FolderLook) -> tuple[Attachment, ...]:
    """The attachments of a folder as far as their sizes and first bytes tell. Raises `OSError`."""
    found: list[Attachment] = []
    for path, size in look.files:
        with os.fdopen(open_in(folder, path), "rb") as file:
            found.append(Attachment(path=path, bytes=size, sha256="", image=image_kind(file.read(16))))
    return tuple(found)


@dataclass(frozen=True)
class Staged:
    """Copies that belong to no task yet."""

    path: Path
    attachments: tuple[Attachment, ...]


def owner_of(task: str, origin: str) -> str:
    """The task under whose name the attachments of a task lie: those of a scheduled one's runs are its own."""
    return origin.removeprefix("schedule:") if origin.startswith("schedule:") else task


class AttachmentStore:
    """The folder of all attachments. Methods raise `OSError` where the disk refuses."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def stage(
        self, files: Iterable[tuple[str, Callable[[], int]]], *, is_busy: Callable[[int], bool] = lambda _fd: False
    ) -> Staged:
        """Copy files, given by their paths and what opens them; all of it is on the disk when this returns.

        Raises `Unfinished` when one changes meanwhile or `is_busy` says so of its descriptor, `AttachmentRefused` for
        one that is too large or no file.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        place = self.root / f".new-{secrets.token_hex(8)}"
        make_folder(place)
        try:
            copied: list[Attachment] = []
            for path, opens in sorted(files, key=lambda file: file[0]):
                copied.append(_copy(path, opens, place, is_busy, room=MAX_BYTES - sum(one.bytes for one in copied)))
            for folder, _, _ in os.walk(place, topdown=False):
                sync_folder(Path(folder))
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        return Staged(place, tuple(copied))

    def settle(self, staged: Staged, task: str) -> None:
        """Give staged copies to a task: before it is in the journal, so that nobody can begin it without them."""
        target = self.folder(task, staged.attachments)
        make_folder(target.parent, 0o700)
        try:
            staged.path.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            self.drop(staged)  # the same files, from before a crash
        for folder in (target.parent, self.root):
            sync_folder(folder)

    def drop(self, staged: Staged) -> None:
        """Remove copies that no task needs."""
        shutil.rmtree(staged.path, ignore_errors=True)

    def folder(self, task: str, attachments: Sequence[Attachment]) -> Path:
        """Where a task's attachments lie, if it has any."""
        listing = "\n".join(f"{one.sha256} {one.path}" for one in attachments)
        return self.root / task / hashlib.sha256(listing.encode()).hexdigest()[:16]

    def of(self, task: str, request: TaskRequest) -> Path | None:
        """Where they lie; None for a task without any. Raises `AttachmentRefused` when they are gone."""
        if not request.attachments:
            return None
        folder = self.folder(task, request.attachments)
        if not folder.is_dir():
            raise AttachmentRefused(f"the task's attachments are gone from {folder}: submit the task again")
        return folder

    def share(self, owner: str, request: TaskRequest, task: str) -> None:
        """Give a task, before it is in the journal, the attachments that another one has for the same request."""
        folder = self.of(owner, request)
        if folder is None:
            return
        place = self.root / f".new-{secrets.token_hex(8)}"
        shutil.copytree(folder, place)
        self.settle(Staged(place, request.attachments), task)

    def sweep(self, is_known: Callable[[str], bool], *, older_than: float = ORPHAN_SECONDS) -> list[str]:
        """Remove what belongs to no task (`is_known`) and was not touched for so many seconds; returns its names."""
        gone: list[str] = []
        for path in sorted(self.root.iterdir()) if self.root.is_dir() else ():
            if time.time() - path.lstat().st_mtime >= older_than and not is_known(path.name):
                shutil.rmtree(path, ignore_errors=True)
                gone.append(path.name)
        return gone


def _copy(path: str, opens: Callable[[], int], place: Path, is_busy: Callable[[int], bool], *, room: int) -> Attachment:
    target = place
    for part in path.split("/")[:-1]:
        target /= part
        make_folder(target)
    target = place / path
    digest, size, head = hashlib.sha256(), 0, b""
    fd = opens()
    with os.fdopen(fd, "rb") as source:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            raise AttachmentRefused(f"{printable(path)} is not a regular file")
        if is_busy(fd):
            raise Unfinished(path)
        with target.open("xb") as copy:
            while chunk := source.read(256 * 1024):
                size += len(chunk)
                if size > MAX_FILE_BYTES:
                    raise AttachmentRefused(f"{printable(path)} is larger than {MAX_FILE_BYTES // 2**20} MiB")
                if size > room:
                    raise AttachmentRefused(f"the attachments are larger than {MAX_BYTES // 2**20} MiB together")
                head = head or chunk[:16]
                digest.update(chunk)
                copy.write(chunk)
            copy.flush()
            os.fsync(copy.fileno())
        after = os.fstat(fd)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or size != after.st_size:
        raise Unfinished(path)
    target.chmod(0o644)
    return Attachment(path=path, bytes=size, sha256=digest.hexdigest(), image=image_kind(head))


def pictures(attachments: Sequence[Attachment], named: Sequence[str]) -> tuple[str, ...]:
    """Which of them models that take pictures are shown: the named ones, or as many as one message may carry. Pure.

    Raises `AttachmentRefused` where a named one cannot be shown.
    """
    by_path = {one.path: one for one in attachments}
    if not named:
        chosen: list[Attachment] = []
        for one in attachments:
            fits = one.bytes <= MAX_IMAGE_BYTES and one.bytes + sum(each.bytes for each in chosen) <= MAX_IMAGES_BYTES
            if one.image and fits and len(chosen) < MAX_IMAGES:
                chosen.append(one)
        return tuple(one.path for one in chosen)
    total = 0
    for path in named:
        one = by_path.get(path)
        if one is None:
            there = ", ".join(each.path for each in attachments if each.image) or "no picture"
            raise AttachmentRefused(f"{printable(path)!r} is not there; there is {there}")
        if one.image is None:
            raise AttachmentRefused(f"{path} is no PNG, JPEG, WebP or GIF, as its first bytes say")
        if one.bytes > MAX_IMAGE_BYTES:
            raise AttachmentRefused(f"{path} is larger than {MAX_IMAGE_BYTES // 2**20} MiB: make it smaller")
        total += one.bytes
    if len(named) > MAX_IMAGES or total > MAX_IMAGES_BYTES:
        most = f"{MAX_IMAGES} pictures of {MAX_IMAGES_BYTES // 2**20} MiB together"
        raise AttachmentRefused(f"more pictures are named than one message carries: at most {most}")
    return tuple(dict.fromkeys(named))
