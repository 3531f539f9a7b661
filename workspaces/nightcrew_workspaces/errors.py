"""Errors of the workspaces.

WorkspaceError
├── BoxUnavailable     this machine cannot confine a command: says why and what to install, enable or open
├── BoxError           a box could not be started for one command, or ended in the middle of an operation
├── RootRefused        a directory may not be shown to outside clients: says why and what to do
├── EgressError        the way out of a box cannot be made
├── BackgroundError    a background command cannot be had, or takes no input: a stable code and what to do
├── RepositoryError    the source repository cannot be used: not there, not git, no commit, unknown base
├── GitError           a git command failed where it should not have
├── HarvestRefused     what a box committed may not leave it: says which path and why
└── FileError          a file operation was refused: a stable code and a sentence with what to do next
"""

from __future__ import annotations

from typing import Literal, get_args

FileCode = Literal[
    "not_found",
    "not_a_file",
    "is_directory",
    "not_text",
    "too_large",
    "no_space",
    "no_match",
    "several_matches",
    "changed",
    "forbidden",
    "read_only",
    "outside",
    "exists",
    "not_empty",
    "bad_pattern",
    "bad_request",
    "timeout",
    "failed",
]
"""Codes of `FileError`. The last three are about the request itself: malformed, not answered in time, an OS error."""

BackgroundCode = Literal["not_found", "too_many", "closed", "timeout"]
"""Codes of `BackgroundError`; the last two are about writing to one."""

FILE_CODES: frozenset[str] = frozenset(get_args(FileCode))


class WorkspaceError(Exception):
    """Root of this package's errors; its text is fit to be shown to a person."""


class BoxUnavailable(WorkspaceError):
    """Commands cannot be confined here, so none is run. `remedy` says what to install, enable or open."""

    def __init__(self, why: str, remedy: str = "") -> None:
        self.why = why
        self.remedy = remedy
        super().__init__(f"{why}. {remedy}" if remedy else why)


class BoxError(WorkspaceError):
    """A box that works on this machine could not be started this time, or ended too early."""


class RootRefused(WorkspaceError):
    """A directory may not be a root."""


class EgressError(WorkspaceError):
    """The socket of a box's way out cannot be made."""


class BackgroundError(WorkspaceError):
    """Something is wrong with what was asked of background commands. `code` is stable and for programs."""

    def __init__(self, code: BackgroundCode, message: str) -> None:
        self.code: BackgroundCode = code
        self.message = message
        super().__init__(message)


class RepositoryError(WorkspaceError):
    """The source repository cannot be used."""


class GitError(WorkspaceError):
    """A git command failed. `stderr` is what it said, at most a few lines of it."""

    def __init__(self, message: str, *, exit_code: int | None = None, stderr: str = "") -> None:
        self.exit_code = exit_code
        self.stderr = stderr
        super().__init__(message)


class HarvestRefused(WorkspaceError):
    """What was committed in a box may not leave it."""


class FileError(WorkspaceError):
    """A file operation was refused. `code` is stable and for programs, `message` is for the reader."""

    def __init__(self, code: FileCode, message: str) -> None:
        self.code: FileCode = code
        self.message = message
        super().__init__(message)
