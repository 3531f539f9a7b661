"""Changing a repository: what each of the writing git tools does, and how the answer reads.

Hooks of the repository never run (a commit's answer says so where there are some), nothing is signed, no editor opens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nightcrew_tools.git_errors import failure, said
from nightcrew_tools.git_parse import Status
from nightcrew_tools.git_read import status_lines
from nightcrew_tools.git_repo import SECONDS, STASHING, Repo
from nightcrew_tools.git_words import path_text, ref_name, revision, shown, visible
from nightcrew_tools.output import ToolError, note
from nightcrew_tools.reply import Reply
from nightcrew_workspaces.gitbox import GitRan

Branch = Literal["create", "delete", "rename"]
Stash = Literal["push", "pop", "apply", "drop"]
Merge = Literal["merge", "continue", "skip", "abort"]
Tree = Literal["add", "remove"]

_FEW = 20


@dataclass(frozen=True)
class Head:
    """Where HEAD is after a change: facts for programs."""

    branch: str | None
    """None where HEAD is detached."""
    commit: str | None
    """None on a branch without a commit."""


async def add(repo: Repo, paths: Sequence[str]) -> Reply:
    repo.needs_files()
    ran = repo.ok(await repo.write("add", "--", *repo.paths(paths)))
    found = await repo.status()
    staged = [change for change in found.changes if change.staged]
    text = f"{len(staged)} file{'' if len(staged) == 1 else 's'} staged"
    lines, _ = status_lines(Status(changes=tuple(staged)))
    if "embedded git repository" in ran.stderr:
        lines.append(note("a folder is a repository of its own: only its commit is recorded, not its files"))
    if lost := await unpointed(repo):
        lines.append(note(f"Git LFS is not set up in the box: the whole content of {lost} is staged, not a pointer"))
    return Reply("\n".join([text, *lines]), head_of(found))


async def commit(repo: Repo, message: str, *, everything: bool, amend: bool = False) -> Reply:
    """Record what is staged, or all changes. Raises `nothing_to_commit` and `conflict`."""
    if not message.strip():
        raise ToolError("bad_argument", "message is empty; say in a line what was changed")
    found = await repo.status()
    if everything:
        await _no_markers(repo, found)
        repo.ok(await repo.write("add", "--all"))
    elif found.conflicts:
        raise in_conflict(found.conflicts)
    if not amend and repo.state[0] != "merge" and (await repo.read("diff", "--cached", "--quiet")).ok:
        raise _nothing(found)
    options = ["--quiet", "--no-verify", "--no-gpg-sign", "--cleanup=whitespace", "--file=-"]
    options += ["--amend", "--allow-empty"] if amend else []
    repo.ok(await repo.write("commit", *options, stdin=message.strip() + "\n"))
    return await _committed(repo)


async def restore(repo: Repo, paths: Sequence[str], *, staged: bool = False, source: str | None = None) -> Reply:
    """Bring files back, or with `staged` only take them out of the next commit."""
    repo.needs_files()
    inside = repo.paths(paths)
    at = "HEAD" if source is None else await repo.commit_of(revision(source))
    if staged and source is None and (await repo.status()).commit is None:
        repo.ok(await repo.write("rm", "--cached", "-r", "--quiet", "--", *inside))
    else:
        where = ["--staged"] if staged else ["--staged", "--worktree"]
        ran = await repo.write("restore", "--no-recurse-submodules", f"--source={at}", *where, "--", *inside)
        if ran.exit_code != 0 and "did not match any file" in ran.stderr:
            known = "in the last commit" if source is None else f"in {source}"
            names = " or ".join(repr(path_text(path)) for path in paths[:_FEW])
            raise ToolError("not_found", f"{names} is not {known}; delete_file removes a new file")
        repo.ok(ran)
    names = ", ".join("all files" if each == "." else _name(each) for each in inside[:_FEW])
    names += f" and {len(inside) - _FEW} more" if len(inside) > _FEW else ""
    done = f"unstaged {names}" if staged else f"restored {names} to {'the last commit' if source is None else source}"
    return Reply(done, head_of(await repo.status()))


async def branch(
    repo: Repo, action: Branch, name: str, *, start: str | None, new_name: str | None, force: bool
) -> Reply:
    ref_name(name)
    match action:
        case "create":
            at = "HEAD" if start is None else start
            commit = await repo.commit_of(revision(at, "start"))
            repo.ok(await repo.write("branch", "--no-track", name, commit))
            text = f"created {name} at {commit[:10]}; git_switch goes there"
        case "delete":
            repo.ok(await repo.write("branch", "--delete", *(["--force"] if force else []), name))
            text = f"deleted {name}"
        case "rename":
            if new_name is None:
                raise ToolError("missing_argument", "git_branch needs 'new_name' (text) to rename")
            ref_name(new_name, "new_name")
            ran = await repo.write("branch", "--move", name, new_name)
            # Where the configuration is read-only git has renamed the branch before it fails to rename its section.
            if not ran.ok and not (await repo.read("show-ref", "--verify", "--quiet", f"refs/heads/{new_name}")).ok:
                raise failure(ran, SECONDS)
            if not ran.ok and "config" not in ran.stderr:
                raise failure(ran, SECONDS)
            text = f"renamed {name} to {new_name}"
    return Reply(text, await _head(repo))


async def switch(repo: Repo, name: str, *, create: bool, start: str | None, detach: bool) -> Reply:
    """Go to a branch, to a new one, or with `detach` to any commit; changes that do not collide are carried along."""
    repo.needs_files()
    options = ["--quiet", "--no-recurse-submodules", "--no-guess"]
    if detach:
        options += ["--detach", await repo.commit_of(revision(name, "branch"))]
    else:
        ref_name(name, "branch")
        if create:
            options += ["--no-track", "--create", name]
            options += [] if start is None else [await repo.commit_of(revision(start, "start"))]
        elif not await has_branch(repo, name):
            hint = "create=true makes it (start=… says from where), detach=true goes to any commit"
            raise ToolError("not_found", f"there is no branch {name!r}; {hint}")
        else:
            options.append(name)
    repo.ok(await repo.write("switch", *options))
    found = await repo.status()
    kept = len(found.changes)
    carried = f", {kept} uncommitted change{'' if kept == 1 else 's'} carried along" if kept else ""
    where = f"on {found.branch}" if found.branch else "detached"
    return Reply(f"{where} at {(found.commit or 'no commit')[:10]}{carried}", head_of(found))


async def stash(repo: Repo, action: Stash, *, message: str | None, index: int, untracked: bool) -> Reply:
    repo.needs_files()
    if index < 0:
        raise ToolError("bad_argument", f"index must be 0 or more, not {index}")
    if action == "push":
        options = [*(["--include-untracked"] if untracked else []), *([f"--message={message}"] if message else [])]
        ran = repo.ok(await repo.write("stash", "push", *options, env=STASHING))
        if b"No local changes" in ran.stdout:
            raise ToolError("nothing_to_stash", "no tracked file is changed; untracked=true takes new files too")
        return Reply("stashed; git_stash pop brings it back", await _head(repo))
    await _has_stash(repo, index)
    options = ["--quiet"] if action == "drop" else ["--quiet", "--index"]
    ran = await repo.write("stash", action, *options, f"stash@{{{index}}}", env=STASHING)
    if not ran.ok and action != "drop" and ("--index" in ran.stderr or "ndex" in said(ran)):
        ran = await repo.write("stash", action, "--quiet", f"stash@{{{index}}}", env=STASHING)
    found = await repo.status()
    if not ran.ok and found.conflicts:
        raise in_conflict(found.conflicts, "; the stash is kept: drop it when they are resolved")
    repo.ok(ran)
    lines, _ = status_lines(found)
    done = {"pop": "taken back", "apply": "applied, and kept", "drop": "dropped"}[action]
    return Reply("\n".join([f"stash@{{{index}}} {done}", *(lines if action != "drop" else [])]), head_of(found))


async def merge(repo: Repo, action: Merge, source: str | None) -> Reply:
    """Merge, or go on with or give up whatever is in progress."""
    repo.needs_files()
    if action == "merge":
        if source is None:
            raise ToolError("missing_argument", "git_merge needs 'revision' (text) to merge")
        await repo.commit_of(revision(source))
        options = ("--no-edit", "--no-verify", "--no-gpg-sign", "--no-verify-signatures", "--no-stat", "--no-log")
        ran = await repo.write("merge", *options, "--", source)
    else:
        ran = await _go_on(repo, action)
    found = await repo.status()
    if not ran.ok and found.conflicts:
        raise in_conflict(found.conflicts)
    if not ran.ok and action == "continue" and "No changes" in said(ran):
        raise ToolError("nothing_to_commit", "this step changes nothing any more: skip it")
    repo.ok(ran)
    if action == "abort":
        text = "given up; all is as it was before"
    else:
        text = "nothing to merge" if b"Already up to date" in ran.stdout else "done"
    return Reply(f"{text}: {found.branch or 'detached'} at {(found.commit or '')[:10]}", head_of(found))


async def worktree(repo: Repo, action: Tree, path: str, name: str | None, *, force: bool) -> Reply:
    """Another checkout of the repository, under one of the roots."""
    place = repo.places.within(repo.start, path)
    if action == "remove":
        repo.ok(await repo.write("worktree", "remove", *(["--force"] if force else []), "--", place))
        return Reply(f"removed the worktree {_name(place)}", await _head(repo))
    if name is None:
        raise ToolError("missing_argument", "git_worktree needs 'branch' (text) to add one")
    ref_name(name, "branch")
    new = not await has_branch(repo, name)
    target = ["--no-track", "-b", name, "--", place] if new else ["--", place, name]
    repo.ok(await repo.write("worktree", "add", "--quiet", *target))
    made = "new branch " if new else ""
    return Reply(f"{_name(place)} is a worktree on {made}{name}", await _head(repo))


def in_conflict(paths: Sequence[str], more: str = "") -> ToolError:
    """Files that wait for somebody to decide."""
    listed = ", ".join(paths[:_FEW]) + (f" and {len(paths) - _FEW} more" if len(paths) > _FEW else "")
    return ToolError("conflict", f"both sides changed {listed}: edit what is between the markers, then stage{more}")


def head_of(found: Status) -> Head:
    return Head(found.branch, found.commit)


async def has_branch(repo: Repo, name: str) -> bool:
    return (await repo.read("show-ref", "--verify", "--quiet", f"refs/heads/{name}")).ok


async def unpointed(repo: Repo) -> str | None:
    """A staged file that Git LFS should hold but whose content is no pointer, because the box has no filter for it."""
    if (await repo.read("config", "--get-regexp", r"^filter\.lfs\.(clean|process)$")).ok:
        return None
    names = (await repo.said("diff", "--cached", "--name-only", "-z", "--no-renames", "--diff-filter=AM")).decode(
        errors="surrogateescape"
    )
    if not names:
        return None
    fields = (await repo.said("check-attr", "--stdin", "-z", "filter", stdin=names)).split(b"\0")
    tracked = [path for path, _, value in zip(*(iter(fields),) * 3, strict=False) if value == b"lfs"]
    for path in tracked[:_FEW]:
        blob = repo.ok(await repo.read("cat-file", "blob", ":" + path.decode(errors="surrogateescape"), keep=200))
        if not blob.stdout.startswith(b"version https://git-lfs.github.com/spec/v1\n"):
            return shown(path)
    return None


async def _committed(repo: Repo) -> Reply:
    """What the last commit is, and what it changes."""
    asked = ("log", "--max-count=1", "--shortstat", "--no-notes", "--no-show-signature", "--no-ext-diff")
    data = await repo.said(*asked, "--no-textconv", "--no-decorate", "--encoding=UTF-8", "--format=%h %s")
    lines = ["committed " + ",".join(line for line in visible(data).splitlines() if line)]
    if await _has_hooks(repo):
        lines.append(note("hooks of this repository did not run"))
    return Reply("\n".join(lines), await _head(repo))


async def _has_hooks(repo: Repo) -> bool:
    path = await repo.port.run(
        ("/usr/bin/git", "config", "--get", "core.hooksPath"), cwd=repo.top, seconds=SECONDS, env={"LC_ALL": "C.UTF-8"}
    )
    return repo.hooks or path.ok


async def _head(repo: Repo) -> Head:
    names = await repo.read("symbolic-ref", "--quiet", "--short", "HEAD")
    commit = await repo.read("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    return Head(
        visible(names.stdout.strip()) if names.ok else None, visible(commit.stdout.strip()) if commit.ok else None
    )


async def _no_markers(repo: Repo, found: Status) -> None:
    """Raises `conflict` where a file in conflict still has the markers in it, which `add --all` would call resolved."""
    if not found.conflicts:
        return
    names = [path_text(path) for path in found.conflicts]
    argv = ("/bin/grep", "-lIZE", "-e", "^(<{7}|>{7})( |$)", "--", *names)
    ran = await repo.port.run(argv, cwd=repo.top, seconds=SECONDS)
    if marked := [shown(name) for name in ran.stdout.split(b"\0") if name]:
        raise in_conflict(marked, "")


def _nothing(found: Status) -> ToolError:
    if not found.changes:
        return ToolError("nothing_to_commit", "no file changed since the last commit")
    return ToolError("nothing_to_commit", "nothing is staged: git_add first, or all=true for every change")


async def _has_stash(repo: Repo, index: int) -> None:
    ran = await repo.read("rev-parse", "--verify", "--quiet", f"refs/stash@{{{index}}}")
    if not ran.ok:
        raise ToolError("not_found", f"there is no stash@{{{index}}}; git_list what=stashes shows them")


async def _go_on(repo: Repo, action: Literal["continue", "skip", "abort"]) -> GitRan:
    state, _ = repo.state
    if state == "none":
        raise ToolError("nothing_in_progress", f"there is no merge, rebase or cherry-pick to {action}")
    if state == "bisect":
        raise ToolError("in_progress", "a bisect is in progress: `git bisect` goes on or ends it")
    if action == "skip" and state == "merge":
        raise ToolError("bad_argument", "a merge has no steps to skip: continue or abort it")
    if action != "continue":
        return await repo.write(state, f"--{action}")
    if conflicts := (await repo.status()).conflicts:
        raise in_conflict(conflicts)
    if state == "merge":
        return await repo.write("commit", "--quiet", "--no-edit", "--no-verify", "--no-gpg-sign", "--cleanup=strip")
    return await repo.write(state, "--continue")


def _name(path: str) -> str:
    return shown(path.encode(errors="surrogateescape"))
