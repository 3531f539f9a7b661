"""What one session may do: which tools it is given, and whether it may change anything.

A tool that is not granted is not registered, so a model can neither see it nor call it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches

TOOLS: dict[str, str] = {
    "read_file": "files",
    "write_file": "files",
    "edit_file": "files",
    "delete_file": "files",
    "move_file": "files",
    "list_files": "files",
    "search_files": "files",
    "read_files": "files",
    "read_media": "files",
    "edit_files": "files",
    "append_file": "files",
    "copy_file": "files",
    "make_folder": "files",
    "list_folder": "files",
    "show_tree": "files",
    "file_info": "files",
    "git_status": "git",
    "git_diff": "git",
    "git_log": "git",
    "git_show": "git",
    "git_blame": "git",
    "git_list": "git",
    "git_add": "git",
    "git_commit": "git",
    "git_restore": "git",
    "git_branch": "git",
    "git_switch": "git",
    "git_stash": "git",
    "git_merge": "git",
    "git_fetch": "git",
    "git_push": "git",
    "git_worktree": "git",
    "run_command": "shell",
    "start_command": "shell",
    "read_output": "shell",
    "write_input": "shell",
    "stop_command": "shell",
    "task_submit": "tasks",
    "task_list": "tasks",
    "task_status": "tasks",
    "task_wait": "tasks",
    "task_report": "tasks",
    "task_diff": "tasks",
    "task_cancel": "tasks",
    "task_approve": "tasks",
    "task_reject": "tasks",
}
"""Every tool and its family, in the order in which a server lists them. A task's crew has five of the git tools."""

DECIDING: frozenset[str] = frozenset({"task_approve", "task_reject"})
"""Tools that stand for a person's word: no family brings them, only an `allow` that names them. Never for a crew."""

FAMILIES: frozenset[str] = frozenset(TOOLS.values())


def _known(what: str, names: frozenset[str], known: frozenset[str]) -> None:
    for name in sorted(names - known):
        close = get_close_matches(name, sorted(known), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(sorted(known))}"
        raise ValueError(f"grants: no {what} is called {name!r}{hint}")


@dataclass(frozen=True)
class Grants:
    """The tools of `families`, less those that write when `read_only`, cut to `allow` and without `deny`.

    Raises `ValueError` on a family or tool that does not exist: a misspelt `deny` must not grant anything.
    """

    families: frozenset[str]
    read_only: bool = False
    allow: frozenset[str] | None = None
    """Only these tools; all of the families' when None."""
    deny: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        _known("family", self.families, FAMILIES)
        _known("tool", (self.allow or frozenset()) | self.deny, frozenset(TOOLS))

    def permit(self, name: str, *, writes: bool) -> bool:
        """Whether the tool `name`, which changes things when `writes`, belongs to this session."""
        if TOOLS[name] not in self.families or name in self.deny or (writes and self.read_only):
            return False
        return name not in DECIDING if self.allow is None else name in self.allow


BACKGROUND = frozenset({"start_command", "read_output", "write_input", "stop_command"})
"""Commands that go on while others run."""

MORE_FILES: frozenset[str] = frozenset(
    {
        *("read_files", "read_media", "edit_files", "append_file", "copy_file"),
        *("make_folder", "list_folder", "show_tree", "file_info"),
    }
)
"""Comforts for outside clients."""

EXECUTOR = Grants(frozenset({"files", "git", "shell"}), deny=BACKGROUND | MORE_FILES)
"""What is needed inside one workspace: a server and its client fit into one command, and each tool more stands in every
prompt."""

PLANNER = Grants(
    frozenset({"files", "git"}),
    read_only=True,
    allow=frozenset({"read_file", "list_files", "search_files", "git_log", "git_diff"}),
)
"""Looking around, changing nothing."""


def outside_grants(
    tools: Collection[str] | None,
    *,
    has_roots: bool,
    read_only: bool = False,
    allow: Collection[str] | None = None,
    deny: Collection[str] = (),
) -> Grants:
    """What outside clients are granted. Raises `ValueError` for a name that does not exist, or where roots are missing.

    To approve a result is a person's doing: a client may only where `allow` names the tool.
    """
    families = frozenset(tools if tools is not None else FAMILIES if has_roots else ("tasks",))
    _known("family", families, FAMILIES)
    if families - {"tasks"} and not has_roots:
        raise ValueError(f"{', '.join(sorted(families - {'tasks'}))} need a directory to work on: name a root")
    chosen = frozenset(allow) if allow is not None else None
    return Grants(families, read_only=read_only, allow=chosen, deny=frozenset(deny))
