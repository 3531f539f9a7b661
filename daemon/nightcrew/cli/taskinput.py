"""A task from the command line: a file, standard input when asked for, or a sentence."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightcrew.config import Config
    from nightcrew_tools.contract import TaskRequest


def request_from_file(path: str, config: Config, *, repo: str | None, crew: str | None) -> TaskRequest:
    """Read a task file, or standard input for `-`. What the command line names comes before what the file says.

    Raises `TaskFileError` with the file's name before the reason.
    """
    data, name, folder = _read(path)
    return _parse(data, name, folder, config, repo=repo, crew=crew)


def request_from_text(text: str, config: Config, *, repo: str | None, crew: str | None) -> TaskRequest:
    """A task that was typed. Raises `TaskFileError`."""
    from nightcrew.errors import TaskFileError

    if repo is None:
        raise TaskFileError("-m needs a repository: add --repo PATH")
    return _parse(text.encode("utf-8", "surrogateescape"), "-m", Path.cwd(), config, repo=repo, crew=crew)


def _read(path: str) -> tuple[bytes, str, Path]:
    from nightcrew.errors import TaskFileError
    from nightcrew.intake.taskfile import MAX_BYTES

    if path == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise TaskFileError("standard input is a terminal: pipe a task file into it, or name one")
        return sys.stdin.buffer.read(MAX_BYTES + 1), "standard input", Path.cwd()
    file = Path(path)
    try:
        if not file.is_file():
            raise TaskFileError(f"{path}: {'is not a file' if file.exists() else 'there is no such file'}")
        with file.open("rb") as stream:
            return stream.read(MAX_BYTES + 1), path, file.absolute().parent
    except OSError as error:
        raise TaskFileError(f"{path}: cannot be read ({error.strerror})") from error


def _parse(data: bytes, name: str, folder: Path, config: Config, *, repo: str | None, crew: str | None) -> TaskRequest:
    from nightcrew.errors import TaskFileError
    from nightcrew.intake.taskfile import parse

    # A path on the command line is meant from where the person stands, one in a file from where the file lies.
    given = None if repo is None else parse(b"-", name="-", default_repo=repo, base_dir=Path.cwd()).repo
    try:
        request = parse(data, name=Path(name).stem, default_repo=given, base_dir=folder, default_limits=config.limits)
    except TaskFileError as error:
        raise TaskFileError(f"{name}: {error}") from None
    changes = {key: value for key, value in (("repo", given), ("crew", crew)) if value is not None}
    return request.model_copy(update=changes)
