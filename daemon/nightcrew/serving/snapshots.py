"""Weights on the disk, in the layout of the hub's own cache: where SGLang and every other tool look for them.

models--ORG--NAME/refs/main            the commit
models--ORG--NAME/snapshots/COMMIT/    names, linked to
models--ORG--NAME/blobs/DIGEST         contents, each by its SHA-256, or by git's SHA-1 where it is small
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from nightcrew.errors import PullError

_CHUNK = 4 * 1024 * 1024
_TOP = re.compile(r"[A-Za-z0-9._+-]+\.(?:json|safetensors|model|jinja|txt|tiktoken)")
_REDIRECTED = frozenset({"mistralai/Devstral-Small-2505"})
"""SGLang 0.5.23 replaces the tokenizer of these by one without tools (`mistral_utils.py`), but only by their exact
name: from a directory with tekken.json and without tokenizer.json they are served with their own."""


@dataclass(frozen=True)
class File:
    """One file of a repository. `digest` is the SHA-256 of a large file, git's SHA-1 of a small one."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True)
class Listing:
    """A repository at one commit."""

    repo: str
    commit: str
    files: tuple[File, ...]


def needed(repo: str, files: Sequence[File]) -> tuple[File, ...]:
    """What serving needs: configuration, tokenizer, and the weights once, in the form that SGLang prefers.

    Raises `PullError` when there are no safetensors.
    """
    kept = [file for file in files if _TOP.fullmatch(file.name) and not file.name.startswith("README")]
    weights = [file for file in kept if file.name.endswith(".safetensors")]
    if not weights:
        raise PullError(
            f"{repo} has no safetensors: choose another checkpoint, by `format` under [servers] in the crew's file"
        )
    twice: set[str] = set()
    if not all(file.name.startswith("consolidated") for file in weights):
        # Mistral ships the same weights a second time.
        twice = {file.name for file in kept if file.name.startswith("consolidated")}
    if repo in _REDIRECTED:
        twice |= {"tokenizer.json", "tokenizer_config.json"}
        if not any(file.name == "tekken.json" for file in kept):
            raise PullError(f"{repo} has no tekken.json any more, without which SGLang gives it no tools")
    return tuple(sorted((file for file in kept if file.name not in twice), key=lambda file: file.name))


class Cache:
    """One repository in the hub's cache."""

    def __init__(self, hub: Path, repo: str) -> None:
        self.repo = repo
        self._root = hub / f"models--{repo.replace('/', '--')}"

    def path(self, file: File) -> Path:
        """Where a file's contents lie, or will lie."""
        return self._root / "blobs" / file.digest

    def partial(self, file: File) -> Path:
        """What of it has come so far. A name of our own: others give theirs a new one each time, and do not resume."""
        return self._root / "blobs" / f"{file.digest}.nightcrew.incomplete"

    def has(self, file: File) -> bool:
        """Whether it is here, as far as its size tells."""
        path = self.path(file)
        return path.is_file() and path.stat().st_size == file.size

    def directory(self, commit: str) -> Path:
        return self._root / "snapshots" / commit

    def current(self) -> Path | None:
        """The snapshot that `refs/main` names, or None."""
        try:
            commit = (self._root / "refs/main").read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None
        directory = self.directory(commit)
        return directory if commit and directory.is_dir() else None

    def finish(self, commit: str, files: Sequence[File]) -> Path:
        """Make the snapshot of files that are all here, then name it: nobody sees a part of it."""
        directory = self.directory(commit)
        directory.mkdir(parents=True, exist_ok=True)
        wanted = {file.name for file in files}
        for old in directory.iterdir():
            if old.name in {"tokenizer.json", "tokenizer_config.json"} - wanted and self.repo in _REDIRECTED:
                old.unlink()
        for file in files:
            link = directory / file.name
            if not link.exists():
                link.unlink(missing_ok=True)
                link.symlink_to(Path("../../blobs") / file.digest)
        if problem := trouble(directory):
            raise PullError(f"{self.repo}: {problem}")
        reference = self._root / "refs/main"
        reference.parent.mkdir(exist_ok=True)
        new = reference.with_name("main.new")
        new.write_text(commit, encoding="ascii")
        new.replace(reference)
        return directory


def matches(path: Path, file: File, tell: Callable[[int], None] = lambda _: None) -> bool:
    """Whether the file's contents have the digest that the hub states. `tell` hears of the bytes read."""
    if path.stat().st_size != file.size:
        return False
    digest = hashlib.sha256() if len(file.digest) == 64 else hashlib.sha1(usedforsecurity=False)
    if len(file.digest) == 40:
        digest.update(b"blob %d\0" % file.size)
    with path.open("rb") as content:
        while piece := content.read(_CHUNK):
            digest.update(piece)
            tell(len(piece))
    return digest.hexdigest() == file.digest


def trouble(directory: Path) -> str:
    """What is wrong with a directory of weights, as far as it tells by itself; empty when nothing is.

    There is a config.json (or Mistral's params.json), every file that the index names is there, and each is as long as
    its own header says (safetensors: eight bytes of length, then JSON with the offsets).
    """
    if not (directory / "config.json").is_file() and not (directory / "params.json").is_file():
        return f"{directory} has no config.json"
    names = {file.name for file in directory.glob("*.safetensors")}
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        try:
            stated = set(cast("dict[str, str]", json.loads(index.read_text(encoding="utf-8"))["weight_map"]).values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return f"{index} cannot be read"
        if missing := sorted(stated - names):
            return f"{directory} lacks {', '.join(missing[:3])}{' and more' if len(missing) > 3 else ''}"
    if not names:
        return f"{directory} has no safetensors"
    for name in sorted(names):
        if problem := _trouble_of(directory / name):
            return problem
    return ""


def _trouble_of(path: Path) -> str:
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size, 100_000_000):
                return f"{path} is no safetensors file"
            header: dict[str, Any] = json.loads(file.read(length))
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return f"{path} is no safetensors file"
    stated = 8 + length + max(ends, default=0)
    return "" if size == stated else f"{path} has {size} bytes where its header states {stated}: it is cut off"


def in_mirror(mirror: Path, repo: str) -> Path | None:
    """The directory of a repository in a mirror: a copy of the hub's cache, or folders ORG/NAME, or NAME."""
    for hub in (mirror, mirror / "hub"):
        if (found := Cache(hub, repo).current()) is not None:
            return found
    for folder in (mirror / repo, mirror / repo.rpartition("/")[2]):
        if folder.is_dir():
            return folder
    return None


def files_of(directory: Path) -> tuple[File, ...]:
    """A directory's files. Their digests are those by which the hub's cache names them, or made from name and size
    where the directory is no part of one."""
    found: list[File] = []
    for path in sorted(directory.iterdir()):
        if path.is_file():
            size = path.stat().st_size
            stated = path.resolve().name
            made = hashlib.sha1(f"{path.name} {size}".encode(), usedforsecurity=False).hexdigest()
            found.append(File(path.name, size, stated if is_digest(stated) else f"local-{made}"))
    return tuple(found)


def is_digest(name: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", name) is not None


def commit_of(directory: Path, files: Sequence[File]) -> str:
    """The commit of a mirror's directory; made from what is in it where it is no snapshot."""
    if is_digest(directory.name):
        return directory.name
    listing = "\n".join(f"{file.name} {file.size}" for file in files)
    return hashlib.sha1(listing.encode(), usedforsecurity=False).hexdigest()


def take(source: Path, target: Path, *, link: bool) -> None:
    """Copy a mirror's file, or link to it; either way the target appears whole."""
    new = target.with_name(f"{target.name}.new")
    new.unlink(missing_ok=True)
    if link:
        new.symlink_to(source.resolve())
    else:
        shutil.copyfile(source, new)
    new.replace(target)
