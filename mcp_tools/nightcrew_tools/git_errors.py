"""What git says when it fails, as an error with a stable code and what to do next.

Codes: `not_a_repository`, `bare_repository`, `no_commit`, `unknown_revision`, `not_found`, `exists`, `conflict`,
`in_progress`, `nothing_in_progress`, `nothing_to_commit`, `nothing_to_stash`, `would_overwrite`, `not_merged`,
`checked_out`, `ignored`, `rejected`, `no_network`, `read_only`, `locked`, `too_large`, `timeout`, `filter`, `git`.
"""

from __future__ import annotations

import re

from nightcrew_tools.git_words import visible
from nightcrew_tools.output import ToolError, head_and_tail
from nightcrew_workspaces.gitbox import GitRan

_SAID = 800

_KNOWN: tuple[tuple[str, str, str], ...] = (
    (r"not a git repository", "not_a_repository", "name a folder of a repository as repo"),
    (r"must be run in a work tree", "bare_repository", "it has no files, only history"),
    (r"\.lock': File exists|index\.lock", "locked", ""),
    (r"transport '.*' not allowed", "no_network", "a box reaches only repositories under its roots"),
    (r"external filter .* failed|clean filter .* failed|smudge filter .* failed", "filter", ""),
    (r"would be overwritten|overwritten by (?:merge|checkout)|contains modified or untracked files", "would_overwrite",
     "commit, stash or restore those changes first"),
    (r"CONFLICT|needs merge|unmerged|[Rr]esolve all conflicts|could not apply|fix conflicts", "conflict",
     "edit the files, stage them, then continue; or abort"),
    (r"does not have any commits yet|could not resolve '?HEAD|no commits? yet|not a valid object name: 'HEAD'"
     r"|bad default revision|You do not have the initial commit", "no_commit", "commit something first"),
    (r"not fully merged", "not_merged", "force throws its commits away"),
    (r"already checked out|used by worktree|checked out at", "checked_out", "switch to another branch there first"),
    (r"already exists|already used by", "exists", "choose another name"),
    (r"did not match any file|no such path|does not exist in|exists on disk, but not in|is not a working tree"
     r"|No such remote|is not a valid reference|branch '.*' not found|[Nn]o branch named|not a stash reference"
     r"|log for '?(?:refs/)?stash|No stash entries", "not_found", ""),
    (r"unknown revision|bad revision|ambiguous argument|[Nn]ot a valid object|invalid (?:reference|object name)"
     r"|invalid upstream|bad object|Needed a single revision|not something we can merge|No such ref"
     r"|a branch is expected|no such commit|unable to resolve|not a valid (?:ref|commit)"
     r"|Invalid symmetric difference", "unknown_revision",
     "see git_log, or the lists of branches and tags"),
    (r"ignored by one of your \.gitignore", "ignored", "a file that .gitignore names is not added"),
    (r"\[rejected\]|\[remote rejected\]|fetch first|non-fast-forward", "rejected",
     "the remote has other commits: fetch and merge first"),
    (r"Read-only file system|Permission denied|[Ii]nsufficient permission|Device or resource busy", "read_only",
     "the box may not write there"),
)  # fmt: skip


def failure(ran: GitRan, seconds: float) -> ToolError:
    """The error that a command which did not end well is told as."""
    if ran.ended == "timeout":
        return ToolError("timeout", f"git was stopped after {seconds:g} s; give a narrower path, or use run_command")
    if ran.ended == "output":
        return ToolError("too_large", "git was stopped for its flood of output; give a narrower path or revision")
    words = said(ran)
    for pattern, code, hint in _KNOWN:
        if re.search(pattern, words):
            if code == "locked":
                lock = f"another git works here, or was cut off: then remove {_lock(words)}"
                return ToolError(code, f"{words}\n{lock}")
            return ToolError(code, f"{words}\n{hint}" if hint else words)
    return ToolError("git", words or f"git ended with exit code {ran.exit_code} and said nothing")


def said(ran: GitRan) -> str:
    """What git wrote to standard error and, where that is empty, to standard output; without its hints."""
    text = visible(ran.stderr.encode()) if ran.stderr.strip() else visible(ran.stdout)
    lines = [line.removeprefix("fatal: ").removeprefix("error: ").rstrip() for line in text.splitlines()]
    kept = [line for line in lines if line and not line.startswith("hint:") and not _ADVICE.match(line)]
    return head_and_tail("\n".join(kept), _SAID)


_ADVICE = re.compile(
    r"Please |Aborting$|Use '--'|'git <command>|Did you mean|If you want to |Another git process seems"
)


def _lock(words: str) -> str:
    found = re.search(r"'(?:[^']*/)?(\.git/[^']*\.lock)'", words)
    return found[1] if found else ".git/index.lock"
