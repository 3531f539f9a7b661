"""The file by which a task moves to another machine: a plain tar archive (ustar) of a few files with fixed names.

    manifest.json          what it is, and size and SHA-256 of everything else
    events.jsonl           the journal of the task, one event a line
    results/report.md …    the result files of a task that has ended
    objects/COMMIT.pack    git objects of one that has not: what its worktree holds beyond the base

Nothing is ever unpacked to a name that stands in the file, and it is read here to the byte: other names, other kinds of
entries, sizes over the limits, a wrong sum or anything behind the end are refused.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from pydantic import Field, ValidationError

from nightcrew.errors import NightcrewError
from nightcrew_tools.contract import Frozen
from nightcrew_workspaces.harvest import MAX_PACK_MIB

_MIB = 1024 * 1024
_BLOCK = 512
_MANIFEST = "manifest.json"
EVENTS = "events.jsonl"
RESULTS = ("report.md", "report.json", "patch")
_SHA = r"(?:[0-9a-f]{40}|[0-9a-f]{64})"

_LIMITS: tuple[tuple[re.Pattern[str], int], ...] = (
    (re.compile(re.escape(_MANIFEST)), _MIB),
    (re.compile(re.escape(EVENTS)), 256 * _MIB),
    (re.compile(rf"results/(?:{'|'.join(map(re.escape, RESULTS))})"), 64 * _MIB),
    (re.compile(rf"objects/{_SHA}\.pack"), MAX_PACK_MIB * _MIB),
)
"""Names that may stand in it, with the most bytes of each."""
_MOST_FILES = 12
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
"""Of a task and of its files: nothing that leads out of a folder."""


class ParcelRefused(NightcrewError):
    """The file is no task, is damaged, or holds what it may not."""


class Content(Frozen):
    """One file of a parcel."""

    size: int
    sha256: str


class Manifest(Frozen):
    """What a parcel holds."""

    format: Literal["nightcrew.task"] = "nightcrew.task"
    version: Literal[1] = 1
    task: str = Field(pattern=_NAME)
    name: str = Field(pattern=_NAME)
    """What its result files are called after."""
    ended: bool
    machine: str
    """That it comes from."""
    at: str
    """When it was written, UTC."""
    nightcrew: str
    """Version of the program."""
    base_commit: str | None = Field(default=None, pattern=rf"^{_SHA}$")
    """What the private clone was made of; None where there is none."""
    tree: str | None = Field(default=None, pattern=rf"^{_SHA}$")
    """The worktree that the task goes on with; None for the base's."""
    commits: tuple[str, ...] = ()
    """Whose objects come with it, in `objects/`."""
    files: dict[str, Content]


@dataclass(frozen=True)
class Parcel:
    """A parcel that was read and whose sums are right. The file stays open as long as it is used."""

    manifest: Manifest
    _file: IO[bytes]
    _places: dict[str, int]

    def close(self) -> None:
        self._file.close()

    def read(self, name: str) -> bytes:
        """The content of one file, all of it."""
        return b"".join(self._pieces(name))

    def copied(self, name: str) -> IO[bytes]:
        """One file's content in a temporary file without a name, at its beginning."""
        copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        for piece in self._pieces(name):
            copy.write(piece)
        copy.flush()
        copy.seek(0)
        return copy

    def _pieces(self, name: str) -> Iterator[bytes]:
        return _pieces(self._file, self._places[name], self.manifest.files[name].size)


def write_parcel(path: Path, manifest: Manifest, contents: Mapping[str, bytes | IO[bytes]]) -> None:
    """Write the file, for this user alone and on the disk when this returns; `manifest.files` is filled in here.

    Raises `OSError`, `ParcelRefused` for what would not be read again.
    """
    files: dict[str, Content] = {}
    streams: dict[str, tuple[IO[bytes], int]] = {}
    for name, content in contents.items():
        stream = io.BytesIO(content) if isinstance(content, bytes) else content
        size = stream.seek(0, os.SEEK_END)
        _check_entry(name, size)
        stream.seek(0)
        files[name] = Content(size=size, sha256=hashlib.file_digest(stream, "sha256").hexdigest())  # pyright: ignore[reportArgumentType]
        streams[name] = stream, size
    head = manifest.model_copy(update={"files": files}).model_dump_json(indent=1).encode() + b"\n"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for name, (stream, size) in {_MANIFEST: (io.BytesIO(head), len(head)), **streams}.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = size, 0o600
                stream.seek(0)
                archive.addfile(entry, stream)
        file.flush()
        os.fsync(file.fileno())


def open_parcel(path: Path) -> Parcel:
    """Read and check a parcel; the caller closes it. Raises `ParcelRefused`."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ParcelRefused(f"{path}: cannot be read ({error.strerror})") from error
    file = os.fdopen(handle, "rb")
    try:
        return _opened(path, file)
    except BaseException:
        file.close()
        raise


def _opened(path: Path, file: IO[bytes]) -> Parcel:
    try:
        return _checked(file)
    except (ParcelRefused, ValidationError, OSError) as error:
        words = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise ParcelRefused(f"{path}: this is no task that can be imported: {words}") from error


def _checked(file: IO[bytes]) -> Parcel:
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise ParcelRefused("it is no file")
    found = dict(_entries(file))
    if next(iter(found), "") != _MANIFEST:
        raise ParcelRefused("it does not begin with manifest.json: `nightcrew export` writes such files")
    manifest = Manifest.model_validate_json(b"".join(_pieces(file, *found.pop(_MANIFEST))))
    if {name: size for name, (_, size) in found.items()} != {name: f.size for name, f in manifest.files.items()}:
        raise ParcelRefused("it does not hold what its manifest says")
    for name, (place, size) in found.items():
        digest = hashlib.sha256()
        for piece in _pieces(file, place, size):
            digest.update(piece)
        if digest.hexdigest() != manifest.files[name].sha256:
            raise ParcelRefused(f"{name} is damaged: its SHA-256 is not that of the manifest")
    _check_manifest(manifest)
    return Parcel(manifest, file, {name: place for name, (place, _) in found.items()})


def _check_manifest(manifest: Manifest) -> None:
    objects = {f"objects/{commit}.pack" for commit in manifest.commits}
    wanted = {EVENTS, *objects}
    if not wanted <= set(manifest.files) or {n for n in manifest.files if n.startswith("objects/")} != objects:
        raise ParcelRefused("it lacks its events, or the objects that it speaks of")
    if manifest.ended and objects:
        raise ParcelRefused("it has ended, and brings objects all the same")


def _entries(file: IO[bytes]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Name, place and size of each entry, in order; nothing but plain files with known names is one."""
    end, place, seen = os.fstat(file.fileno()).st_size, 0, set[str]()
    while True:
        file.seek(place)
        block = file.read(_BLOCK)
        if len(block) < _BLOCK:
            raise ParcelRefused("it is cut off")
        if not any(block):
            break
        name, size = _header(block)
        _check_entry(name, size)
        if name in seen or len(seen) == _MOST_FILES:
            raise ParcelRefused(f"it holds {name} twice, or too many files")
        seen.add(name)
        place += _BLOCK
        if place + size > end:
            raise ParcelRefused("it is cut off")
        yield name, (place, size)
        place += -(-size // _BLOCK) * _BLOCK
    if end - place > tarfile.RECORDSIZE + _BLOCK or any(file.read()):
        raise ParcelRefused("something stands behind its end")


def _header(block: bytes) -> tuple[str, int]:
    """Name and size out of one header of the ustar format, checked field by field (POSIX.1-1988, `ustar`)."""
    summed = sum(block[:148]) + 8 * 32 + sum(block[156:])
    if _octal(block[148:156]) != summed or block[257:263] != b"ustar\0":
        raise ParcelRefused("it is no tar archive of the kind that `nightcrew export` writes")
    if block[156:157] not in (b"0", b"\0") or any(block[157:257]) or any(block[345:500]):
        raise ParcelRefused("it holds something else than plain files: links, folders or extensions")
    name = block[:100].rstrip(b"\0").decode("ascii", "replace")
    return name, _octal(block[124:136])


def _octal(field: bytes) -> int:
    text = field.strip(b" \0")
    if not re.fullmatch(rb"[0-7]{1,12}", text):
        raise ParcelRefused("a number in it cannot be read")
    return int(text, 8)


def _check_entry(name: str, size: int) -> None:
    most = next((most for pattern, most in _LIMITS if pattern.fullmatch(name)), None)
    if most is None:
        raise ParcelRefused(f"{name!r} has no place in it")
    if size > most:
        raise ParcelRefused(f"{name} has {size / _MIB:.1f} MiB, more than {most // _MIB}")


def _pieces(file: IO[bytes], place: int, size: int) -> Iterator[bytes]:
    file.seek(place)
    while size:
        piece = file.read(min(size, _MIB))
        if not piece:
            raise ParcelRefused("it was cut off while it was read")
        size -= len(piece)
        yield piece
