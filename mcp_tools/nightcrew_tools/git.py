"""The git tools: fixed commands with checked arguments, each run in a box.

The repository is the model's to write, and a poisoned one makes plain git run anything; so nothing here is trusted
outside the box, and the fixed commands only keep honest mistakes out. Reading never takes a lock nor changes the index.
"""

from __future__ import annotations

from nightcrew_tools.output import ANSWER_BYTES, ToolError, head, head_and_tail, note, relative, size
from nightcrew_tools.ports import WorkspacePort
from nightcrew_tools.schema import tool
from nightcrew_workspaces.box import CommandResult

SECONDS = 60.0
STATUS_LINES = 200
LOG_MOST = 100

_ENV = {"GIT_OPTIONAL_LOCKS": "0", "GIT_LITERAL_PATHSPECS": "1", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8"}
_GIT = "git --no-pager -c core.quotePath=false -c color.ui=false -c advice.addEmbeddedRepo=false"

# An index of its own, in which new files are marked as to be added, lets one diff show them beside the changed ones.
_DIFF = f"""
cp "$({_GIT} rev-parse --git-path index)" /tmp/index 2>/dev/null
export GIT_INDEX_FILE=/tmp/index
[ -e /tmp/index ] || {_GIT} read-tree HEAD
{_GIT} add --intent-to-add -- . 2>/dev/null
exec {_GIT} diff --no-ext-diff --no-textconv --find-renames $3 --end-of-options "$1" -- "$2"
"""
_STATUS = f"""
{_GIT} status --short || exit
echo "commits: $({_GIT} rev-list --count --end-of-options "$1..HEAD" 2>/dev/null)"
"""
_COMMIT = f"""
{_GIT} add --all || exit
if {_GIT} diff --cached --quiet; then exit 42; fi
{_GIT} commit --quiet --no-verify --no-gpg-sign --file=- || exit
{_GIT} log -1 --format='%h %s' --shortstat
"""
_NOTHING = 42


class GitTools:
    """The history and the changes of one workspace."""

    def __init__(self, workspace: WorkspacePort) -> None:
        self._workspace = workspace
        self._base = workspace.base_commit or "HEAD"

    @tool("Show changed files.")
    async def git_status(self) -> str:
        output = self._ok(await self._run(_STATUS, self._base))
        *lines, last = output.rstrip("\n").split("\n")
        commits = last.removeprefix("commits: ") or "no"  # a branch without a commit has no count
        made = note(f"{commits} commit{'' if commits == '1' else 's'} since the task began")
        if not lines:
            return f"nothing changed since the last commit\n{made}"
        more = [note(f"{len(lines) - STATUS_LINES} more")] if len(lines) > STATUS_LINES else []
        return "\n".join([*lines[:STATUS_LINES], *more, made])

    @tool("Show all changes since the task began.")
    async def git_diff(self, path: str = ".") -> str:
        path = _path(path)
        base = self._base
        output = self._ok(result := await self._run(_DIFF, base, path, ""))
        if not output.strip():
            return "no changes" if path == "." else f"no changes in {path}"
        text, left_out = head(output, ANSWER_BYTES)
        if not left_out:
            return text
        stat = self._ok(await self._run(_DIFF, base, path, "--stat=100 --stat-graph-width=8 --stat-count=60"))
        stat, _ = head(stat, ANSWER_BYTES // 4)
        text, _ = head(output, ANSWER_BYTES - size(stat))
        left_out = size(output) - size(text) + result.omitted_bytes
        return f"{stat}\n{text}" + note(f"{left_out} more bytes: give a path")

    @tool("Show recent commits.")
    async def git_log(self, limit: int = 10) -> str:
        if not 1 <= limit <= LOG_MOST:
            raise ToolError("bad_argument", f"limit must be 1 to {LOG_MOST}, not {limit}")
        script = f"exec {_GIT} log --no-decorate --no-show-signature --date=short --format='%h %ad %an: %s' -n \"$1\""
        return head(self._ok(await self._run(script, str(limit))), ANSWER_BYTES)[0].rstrip("\n")

    @tool("Commit all changes.", writes=True)
    async def git_commit(self, message: str) -> str:
        if not message.strip():
            raise ToolError("bad_argument", "message is empty; say in a line what was changed")
        result = await self._run(_COMMIT, stdin=message.strip().encode() + b"\n")
        if result.exit_code == _NOTHING and result.ended == "exited":
            return "nothing to commit: no file changed since the last commit"
        return "committed " + ",".join(line for line in self._ok(result).splitlines() if line)

    @tool("Undo uncommitted changes of a file or folder.", writes=True, destructive=True, idempotent=True)
    async def git_restore(self, path: str) -> str:
        path = _path(path)
        result = await self._run(f'exec {_GIT} restore --source=HEAD --staged --worktree -- "$1"', path)
        if result.exit_code != 0 and "did not match any file" in result.output:
            raise ToolError("not_found", f"{path!r} is not in the last commit; delete_file removes a new file")
        self._ok(result)
        return f"restored {'all files' if path == '.' else path} to the last commit"

    async def _run(self, script: str, *arguments: str, stdin: bytes = b"") -> CommandResult:
        command = ["/bin/sh", "-c", script, "git", *arguments]
        return await self._workspace.box.run(command, seconds=SECONDS, stdin=stdin, env=_ENV)

    @staticmethod
    def _ok(result: CommandResult) -> str:
        """The output of a command that went well; raises `ToolError` with what git said."""
        if result.exit_code == 0 and result.ended == "exited":
            return result.output
        if result.ended != "exited":
            stopped = f"git was stopped after {result.seconds:.0f} s ({result.ended})"
            raise ToolError("git", f"{stopped}; give a narrower path, or use run_command")
        said = head_and_tail(result.output.strip(), 800) or f"exit {result.exit_code}"
        if "index.lock" in said:
            said += "\nAn earlier git command was cut off: remove .git/index.lock with run_command."
        raise ToolError("git", said)


def _path(path: str) -> str:
    path = relative(path)
    if path.startswith("-"):
        raise ToolError("bad_argument", f"path {path!r} begins with a dash, which git would take for an option")
    return path
