"""What was claimed, made into a request: the task file read, what its place says filled in, attachments copied."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from nightcrew.attachments import (
    TASK_FILE,
    AttachmentStore,
    FolderLook,
    Unfinished,
    heads,
    open_in,
    pictures,
)
from nightcrew.errors import AttachmentRefused, TaskFileError
from nightcrew.intake import taskfile
from nightcrew.intake.dropfolder import Claimed, DropFolder, has_writer, shown
from nightcrew.intake.places import GONE, kind_of
from nightcrew_tools.contract import Limits, TaskRequest

SUFFIXES = (".md", ".markdown")


@dataclass(frozen=True)
class Candidate:
    """A claimed file or folder and the task that it asks for."""

    claimed: Claimed
    request: TaskRequest
    remarks: tuple[str, ...] = ()
    """What a person should hear although it is taken."""
    look: FolderLook | None = None
    """Of a folder, whose attachments are not copied yet."""


class Admission:
    """Reads claimed files. Nothing is kept between calls."""

    def __init__(self, folder: DropFolder, limits: Limits, store: AttachmentStore) -> None:
        self._folder = folder
        self._limits = limits
        self._store = store

    def read(self, claimed: Claimed) -> Candidate | None:
        """The task that is asked for; None when it is to be read later. Raises `TaskFileError`."""
        try:
            return self._folder_task(claimed) if claimed.is_folder else self._file_task(claimed)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in GONE:
                return None
            mode = "chmod -R g+rX" if claimed.is_folder else "chmod g+r"
            raise TaskFileError(
                f"the {'folder' if claimed.is_folder else 'file'} cannot be read ({error.strerror}); check its owner "
                f"and mode: the service must be able to read it, `{mode}` does that where it is in the file's group"
            ) from error

    def _file_task(self, claimed: Claimed) -> Candidate | None:
        self._refuse_what_is_no_file(claimed)
        if not has_suffix(claimed.name):
            raise TaskFileError("task files are Markdown and end in `.md`: rename the file")
        data = self._folder.read(claimed, taskfile.MAX_BYTES)
        return None if data is None else self._candidate(claimed, data, None)

    def _refuse_what_is_no_file(self, claimed: Claimed) -> None:
        with contextlib.suppress(FileNotFoundError):
            kind = kind_of(claimed.path.lstat().st_mode)
            if kind == "link":
                raise TaskFileError("it is a symbolic link, which is not followed: copy the file itself into the inbox")
            if kind == "special":
                raise TaskFileError("it is a pipe, socket or device and no file: drop a Markdown file")

    def _folder_task(self, claimed: Claimed) -> Candidate | None:
        look = self._folder.look_into(claimed)
        if look.fault:
            raise TaskFileError(f"the folder is not taken: {look.fault}")
        if not look.has_task:
            raise TaskFileError(self._neither(claimed))
        data = self._folder.read(claimed, taskfile.MAX_BYTES)
        return None if data is None else self._candidate(claimed, data, look)

    def _neither(self, claimed: Claimed) -> str:
        place = claimed.place
        if place.crew is not None and place.repo is not None:
            there = "it lies in a crew's and a repository's folder already"
        else:
            there = f"there are {self._folder.known.described()}"
        return (
            f"no crew and no repository is called {shown(claimed.name)!r}, and the folder has no `{TASK_FILE}`, which "
            f"would make it a task with attachments; {there} (`[inbox.repos]` names more)"
        )

    def _candidate(self, claimed: Claimed, data: bytes, look: FolderLook | None) -> Candidate:
        place = claimed.place
        attach: taskfile.Attach = taskfile.nothing_attached
        if look is not None:
            with self._folder.folder_of(claimed) as folder:
                attach = partial(pictures, heads(folder, look))
        request = taskfile.parse(
            data,
            name=claimed.stem,
            default_repo=place.repo,
            default_limits=self._limits,
            attach=attach,
        )
        remarks = [
            f"it lies in `{place}` and names the {word} {said!r}: that is what counts"
            for word, said, meant in (("crew", request.crew, place.crew), ("repository", request.repo, place.repo))
            if said is not None and meant is not None and said != meant
        ]
        request = request.model_copy(update={"crew": request.crew or place.crew})
        return Candidate(claimed, request, tuple(remarks), look)

    def copy(self, candidate: Candidate) -> Candidate | None:
        """The same with its attachments copied and settled; None when somebody still writes to them. Blocks.

        Raises `TaskFileError`, `OSError`.
        """
        claimed, look = candidate.claimed, candidate.look
        if look is None or not look.files:
            return candidate
        with self._folder.folder_of(claimed) as folder:
            try:
                staged = self._store.stage(
                    [(path, _opener(folder, path)) for path, _ in look.files], is_busy=has_writer
                )
            except Unfinished:
                return None
            except AttachmentRefused as error:
                raise TaskFileError(f"the folder is not taken: {error}") from None
        if self._folder.look_into(claimed).stamp != look.stamp:
            self._store.drop(staged)
            return None
        request = candidate.request.model_copy(update={"attachments": staged.attachments})
        self._store.settle(staged, request.id or claimed.task)
        return replace(candidate, request=request)


def _opener(folder: int, path: str) -> Callable[[], int]:
    return lambda: open_in(folder, path)


def has_suffix(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)
