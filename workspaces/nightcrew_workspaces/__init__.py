"""Workspaces: boxes that confine commands, private clones for tasks, checkpoints, and what comes out of them."""

from nightcrew_workspaces.background import Background, Reading
from nightcrew_workspaces.box import Box, Captured, CommandResult, Ended
from nightcrew_workspaces.checkpoint import Checkpoint, LeftOut
from nightcrew_workspaces.errors import (
    BackgroundError,
    BoxError,
    BoxUnavailable,
    FileCode,
    FileError,
    GitError,
    HarvestRefused,
    RepositoryError,
    WorkspaceError,
)
from nightcrew_workspaces.file_facts import (
    Edit,
    Edited,
    EditedFile,
    Entry,
    FileBytes,
    FileStat,
    FileText,
    FoundPaths,
    Listing,
    Match,
    Outline,
    SearchResult,
    Written,
)
from nightcrew_workspaces.files import Files
from nightcrew_workspaces.harvest import ChangedFile, Harvest
from nightcrew_workspaces.policy import WORKSPACE, BoxPolicy, BoxUser, Limits, Mount
from nightcrew_workspaces.selftest import self_test
from nightcrew_workspaces.source import Source, SourceState, is_url
from nightcrew_workspaces.user import box_user
from nightcrew_workspaces.workspace import Workspace, Workspaces, default_root

__all__ = [
    "WORKSPACE",
    "Background",
    "BackgroundError",
    "Box",
    "BoxError",
    "BoxPolicy",
    "BoxUnavailable",
    "BoxUser",
    "Captured",
    "ChangedFile",
    "Checkpoint",
    "CommandResult",
    "Edit",
    "Edited",
    "EditedFile",
    "Ended",
    "Entry",
    "FileBytes",
    "FileCode",
    "FileError",
    "FileStat",
    "FileText",
    "Files",
    "FoundPaths",
    "GitError",
    "Harvest",
    "HarvestRefused",
    "LeftOut",
    "Limits",
    "Listing",
    "Match",
    "Mount",
    "Outline",
    "Reading",
    "RepositoryError",
    "SearchResult",
    "Source",
    "SourceState",
    "Workspace",
    "WorkspaceError",
    "Workspaces",
    "Written",
    "box_user",
    "default_root",
    "is_url",
    "self_test",
]
