"""The git tools: the five of a task's crew, and the whole set for a person's own directories.

Every command runs in a box, through `GitBox`; `git_repo` says what of a repository's own settings takes effect there.
"""

from __future__ import annotations

from typing import Annotated

from nightcrew_tools import git_read, git_remote, git_write
from nightcrew_tools.git_page import Page
from nightcrew_tools.git_read import Sides, StatusFacts, What
from nightcrew_tools.git_remote import Moved
from nightcrew_tools.git_repo import Repo, open_repo
from nightcrew_tools.git_words import Places, revision
from nightcrew_tools.git_write import Branch, Head, Merge, Stash, Tree
from nightcrew_tools.output import ToolError, note
from nightcrew_tools.ports import WorkspacePort
from nightcrew_tools.reply import Reply
from nightcrew_tools.schema import tool


class TaskGitTools:
    """The history and the changes of one task's workspace: few tools, as every byte of them stands in every prompt."""

    def __init__(self, workspace: WorkspacePort, base: str) -> None:
        self._port = workspace.git
        self._places = Places([str(root) for root in workspace.roots])
        self._base = base

    @tool("Show changed files.")
    async def git_status(self) -> str:
        repo = await self._open()
        found = await repo.status()
        lines, following = git_read.status_lines(found)
        if doing := git_read.state_line(repo, found):
            lines.append(note(doing))
        if following is not None:
            lines.append(note(f"{len(found.changes) - following} more"))
        made = "no" if found.commit is None else await self._count(repo, found.commit)
        lines = lines or ["nothing changed since the last commit"]
        return "\n".join([*lines, note(f"{made} commit{'' if made == '1' else 's'} since the task began")])

    @tool("Show all changes since the task began.")
    async def git_diff(self, path: str = ".", offset: int = 0) -> Reply:
        return await git_read.diff(await self._open(), Sides(self._base), path, offset)

    @tool("Show recent commits.")
    async def git_log(self, limit: int = 10) -> Reply:
        return await git_read.log(await self._open(), "HEAD", None, limit=limit, brief=True)

    @tool("Commit all changes.", writes=True)
    async def git_commit(self, message: str) -> str:
        try:
            return (await git_write.commit(await self._open(), message, everything=True)).text
        except ToolError as error:
            if error.code != "nothing_to_commit":
                raise
            return f"nothing to commit: {error.message}"

    @tool("Undo uncommitted changes of a file or folder.", writes=True, destructive=True, idempotent=True)
    async def git_restore(self, path: str) -> str:
        return (await git_write.restore(await self._open(), [path])).text

    async def _open(self) -> Repo:
        return await open_repo(self._port, self._places, None)

    async def _count(self, repo: Repo, commit: str) -> str:
        if commit == self._base:
            return "0"
        ran = await repo.read("rev-list", "--count", f"{self._base}..{commit}")
        return ran.stdout.decode("ascii", "replace").strip() if ran.ok else "no"


class GitTools:
    """Everything that is done with git by hand, in the repositories under one or more roots.

    `repo` is a folder in the repository, the first root when it is absent; paths count from it.
    """

    def __init__(self, workspace: WorkspacePort) -> None:
        self._port = workspace.git
        self._places = Places([str(root) for root in workspace.roots])

    @tool("Show branch, changed files, conflicts, and what is in progress.", facts=StatusFacts)
    async def git_status(self, repo: str | None = None, skip: int = 0) -> Reply:
        return await git_read.status(await self._open(repo), skip)

    @tool("Show changes: files against base; with staged the index, with target that revision.", facts=Page)
    async def git_diff(
        self,
        path: str | None = None,
        base: Annotated[str, "revision, default HEAD"] = "HEAD",
        target: str | None = None,
        staged: bool = False,
        offset: int = 0,
        repo: str | None = None,
    ) -> Reply:
        if staged and target:
            raise ToolError("bad_argument", "staged compares the index: leave target out")
        opened = await self._open(repo)
        base, target = revision(base, "base"), None if target is None else revision(target, "target")
        if target is None and base == "HEAD" and not (await opened.read("rev-parse", "--verify", "-q", "HEAD")).ok:
            base = (await opened.said("hash-object", "-t", "tree", "--stdin")).decode("ascii").strip()
        return await git_read.diff(opened, Sides(base, staged, target), path, offset)

    @tool("List commits, newest first.", facts=Page)
    async def git_log(
        self,
        revision: Annotated[str, "or a range a..b"] = "HEAD",
        path: str | None = None,
        search: Annotated[str | None, "text in the message"] = None,
        limit: int = 20,
        skip: int = 0,
        repo: str | None = None,
    ) -> Reply:
        opened = await self._open(repo)
        return await git_read.log(opened, revision, path, limit=limit, skip=skip, search=search)

    @tool("Show a commit or stash with its changes; REVISION:PATH shows a file or folder as it was.", facts=Page)
    async def git_show(
        self, revision: str = "HEAD", path: str | None = None, offset: int = 0, repo: str | None = None
    ) -> Reply:
        return await git_read.show(await self._open(repo), revision, path, offset)

    @tool("Show who last changed each line.", facts=Page)
    async def git_blame(
        self,
        path: str,
        start_line: int = 1,
        end_line: int | None = None,
        revision: str | None = None,
        repo: str | None = None,
    ) -> Reply:
        return await git_read.blame(await self._open(repo), path, start_line, end_line, revision)

    @tool("List branches, tags, remotes, stashes or worktrees.", facts=Page)
    async def git_list(self, what: What, skip: int = 0, repo: str | None = None) -> Reply:
        return await git_read.list_of(await self._open(repo), what, skip)

    @tool("Stage files for the next commit.", writes=True, idempotent=True, facts=Head)
    async def git_add(self, paths: list[str], repo: str | None = None) -> Reply:
        return await git_write.add(await self._open(repo), paths)

    @tool("Commit what is staged; with all every change.", writes=True, facts=Head)
    async def git_commit(
        self,
        message: str,
        all: bool = False,  # noqa: A002 (as git calls it)
        amend: bool = False,
        repo: str | None = None,
    ) -> Reply:
        return await git_write.commit(await self._open(repo), message, everything=all, amend=amend)

    @tool(
        "Throw away uncommitted changes of files; with staged only unstage them.",
        writes=True,
        destructive=True,
        idempotent=True,
        facts=Head,
    )
    async def git_restore(
        self,
        paths: list[str],
        staged: bool = False,
        source: Annotated[str | None, "revision, default HEAD"] = None,
        repo: str | None = None,
    ) -> Reply:
        return await git_write.restore(await self._open(repo), paths, staged=staged, source=source)

    @tool("Create, delete or rename a branch.", writes=True, destructive=True, facts=Head)
    async def git_branch(
        self,
        action: Branch,
        name: str,
        start: Annotated[str | None, "for create"] = None,
        new_name: str | None = None,
        force: Annotated[bool, "delete unmerged commits"] = False,
        repo: str | None = None,
    ) -> Reply:
        opened = await self._open(repo)
        return await git_write.branch(opened, action, name, start=start, new_name=new_name, force=force)

    @tool("Switch to a branch; create makes it, detach takes any commit.", writes=True, idempotent=True, facts=Head)
    async def git_switch(
        self,
        branch: str,
        create: bool = False,
        start: Annotated[str | None, "for create"] = None,
        detach: bool = False,
        repo: str | None = None,
    ) -> Reply:
        return await git_write.switch(await self._open(repo), branch, create=create, start=start, detach=detach)

    @tool("Put changes aside, or take them back.", writes=True, destructive=True, facts=Head)
    async def git_stash(
        self,
        action: Stash,
        message: str | None = None,
        index: int = 0,
        untracked: bool = False,
        repo: str | None = None,
    ) -> Reply:
        opened = await self._open(repo)
        return await git_write.stash(opened, action, message=message, index=index, untracked=untracked)

    @tool(
        "Merge a revision; continue, skip or abort a merge, rebase, cherry-pick or revert.",
        writes=True,
        destructive=True,
        facts=Head,
    )
    async def git_merge(self, action: Merge, revision: str | None = None, repo: str | None = None) -> Reply:
        return await git_write.merge(await self._open(repo), action, revision)

    @tool("Fetch from a remote under the roots.", writes=True, idempotent=True, open_world=True, facts=Moved)
    async def git_fetch(self, remote: str = "origin", repo: str | None = None) -> Reply:
        return await git_remote.fetch(await self._open(repo), remote)

    @tool("Push a branch to a remote under the roots.", writes=True, idempotent=True, open_world=True, facts=Moved)
    async def git_push(
        self,
        remote: str = "origin",
        branch: Annotated[str | None, "default: the current one"] = None,
        repo: str | None = None,
    ) -> Reply:
        return await git_remote.push(await self._open(repo), remote, branch)

    @tool("Add or remove a worktree.", writes=True, destructive=True, facts=Head)
    async def git_worktree(
        self,
        action: Tree,
        path: str,
        branch: Annotated[str | None, "made when new"] = None,
        force: bool = False,
        repo: str | None = None,
    ) -> Reply:
        return await git_write.worktree(await self._open(repo), action, path, branch, force=force)

    async def _open(self, repo: str | None) -> Repo:
        return await open_repo(self._port, self._places, repo)
