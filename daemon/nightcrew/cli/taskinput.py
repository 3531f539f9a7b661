"""A task from the command line: a file, standard input when asked for, or a sentence."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from nightcrew.config import Config
    from nightcrew.intake.taskfile import Attach
    from nightcrew_tools.contract import TaskRequest


@dataclass(frozen=True)
class Asked:
    """A task as it was asked for, before what comes with it is copied."""

    request: TaskRequest
    hint: str | None
    """What its results are called after; its title when None."""
    files: tuple[tuple[str, Callable[[], int]], ...] = ()
    """Attachments: their paths, and what opens them."""

    def settled(self, config: Config) -> tuple[TaskRequest, str | None]:
        """The request with its attachments copied, and the id that they wait for; None where there are none.

        Raises `AttachmentRefused`, and `TaskFileError` for a file that somebody still writes to.
        """
        if not self.files:
            return self.request, self.request.id
        from nightcrew.attachments import AttachmentStore, Unfinished
        from nightcrew.errors import TaskFileError
        from nightcrew.journal.ids import new_task_id
        from nightcrew.journal.locks import private_directory

        private_directory(config.home)
        store = AttachmentStore(config.attachments)
        try:
            staged = store.stage(self.files)
        except Unfinished as error:
            raise TaskFileError(f"{error} changed while it was copied; try again when it is complete") from None
        except OSError as error:
            raise TaskFileError(f"{error.filename or 'an attachment'} cannot be copied ({error.strerror})") from error
        task = self.request.id or new_task_id()
        store.settle(staged, task)
        return self.request.model_copy(update={"attachments": staged.attachments}), task


def asked_in_file(path: str, config: Config, *, repo: str | None, crew: str | None) -> Asked:
    """Read a task file, a folder with a `task.md`, or standard input for `-`. What the command line names comes before
    what the file says.

    Raises `TaskFileError` with the file's name before the reason.
    """
    if path != "-" and Path(path).is_dir():
        return _asked_in_folder(Path(path), config, repo=repo, crew=crew)
    data, name, folder = _read(path)
    hint = None if path == "-" else Path(path).stem
    named = _Named(folder)
    request = _parse(data, name, folder, config, repo=repo, crew=crew, attach=named.attach)
    return Asked(request, hint, tuple(named.files.items()))


def asked_in_words(text: str, config: Config, *, repo: str | None, crew: str | None) -> Asked:
    """A task that was typed. Raises `TaskFileError`."""
    from nightcrew.errors import TaskFileError

    if repo is None:
        raise TaskFileError("-m needs a repository: add --repo PATH")
    data = text.encode("utf-8", "surrogateescape")
    return Asked(_parse(data, "-m", Path.cwd(), config, repo=repo, crew=crew), None)


def _asked_in_folder(path: Path, config: Config, *, repo: str | None, crew: str | None) -> Asked:
    import os
    from functools import partial

    from nightcrew.attachments import TASK_FILE, heads, look, open_in, pictures
    from nightcrew.errors import TaskFileError

    def opens(name: str) -> int:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return open_in(folder, name)
        finally:
            os.close(folder)

    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found = look(folder)
            if found.fault or not found.has_task:
                raise TaskFileError(f"{path}: {found.fault or f'has no `{TASK_FILE}`, which makes a folder a task'}")
            attached = heads(folder, found)
        finally:
            os.close(folder)
    except OSError as error:
        raise TaskFileError(f"{path}: cannot be read ({error.strerror})") from error
    data, name, base = _read(str(path / TASK_FILE))
    request = _parse(data, name, base, config, repo=repo, crew=crew, attach=partial(pictures, attached))
    return Asked(request, path.resolve().name, tuple((one, partial(opens, one)) for one, _ in found.files))


class _Named:
    """The pictures that a single file names: they lie where it says, from where the file lies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.files: dict[str, Callable[[], int]] = {}

    def attach(self, named: tuple[str, ...]) -> tuple[str, ...]:
        from functools import partial

        from nightcrew.attachments import open_plain, pictures, printable, read_head
        from nightcrew.errors import AttachmentRefused

        heads = [read_head(self._folder / Path(name).expanduser(), Path(name).name) for name in named]
        for name, head in zip(named, heads, strict=True):
            if head.path in self.files or not head.path.isprintable():
                raise AttachmentRefused(f"two pictures are called {printable(head.path)!r}, or it cannot be shown")
            self.files[head.path] = partial(open_plain, self._folder / Path(name).expanduser())
        return pictures(heads, [head.path for head in heads]) if heads else ()


def absolute_repo(repo: str) -> str:
    """What was typed as a repository: a URL as it is, a path from where the person stands. Raises `TaskFileError`."""
    from nightcrew.intake.taskfile import parse

    return parse(b"-", name="-", default_repo=repo, base_dir=Path.cwd()).repo


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


def _parse(
    data: bytes,
    name: str,
    folder: Path,
    config: Config,
    *,
    repo: str | None,
    crew: str | None,
    attach: Attach | None = None,
) -> TaskRequest:
    from nightcrew.errors import TaskFileError
    from nightcrew.intake.taskfile import nothing_attached, parse

    # A path on the command line is meant from where the person stands, one in a file from where the file lies.
    given = None if repo is None else absolute_repo(repo)
    try:
        request = parse(
            data,
            name=Path(name).stem,
            default_repo=given,
            base_dir=folder,
            default_limits=config.limits,
            attach=attach or nothing_attached,
        )
    except TaskFileError as error:
        raise TaskFileError(f"{name}: {error}") from None
    changes = {key: value for key, value in (("repo", given), ("crew", crew)) if value is not None}
    return request.model_copy(update=changes)


def with_options(asked: Asked, options: dict[str, object]) -> Asked:
    """What was asked for, with what the command line says instead: fields of a task by name, None where it says
    nothing. Raises `TaskFileError`, which names the option."""
    from pydantic import ValidationError

    from nightcrew.errors import TaskFileError
    from nightcrew.schedule import parse_schedule
    from nightcrew_tools.contract import TaskRequest

    changes = {key: value for key, value in options.items() if value not in (None, ())}
    try:
        if schedule := changes.get("schedule"):
            parse_schedule(str(schedule))
        request = TaskRequest.model_validate({**asked.request.model_dump(), **changes})
    except ValidationError as error:
        problem = error.errors()[0]
        raise TaskFileError(f"--{problem['loc'][0]}: {problem['msg']}") from None
    except ValueError as error:
        raise TaskFileError(f"--schedule: {error}") from None
    if request.schedule and request.after:
        raise TaskFileError("a scheduled task comes after no others: leave `after` or `schedule` out")
    return replace(asked, request=request)
