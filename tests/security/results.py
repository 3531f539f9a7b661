"""What attacks do by what they leave in a repository, when the service, or a person, then works with it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from mcp.client import Client
from mcp_types import TextContent

from nightcrew_tools.grants import EXECUTOR
from nightcrew_tools.server import build_server
from nightcrew_workspaces.errors import WorkspaceError
from nightcrew_workspaces.user import box_user
from nightcrew_workspaces.workspace import Workspace, Workspaces
from security.deeds import run_plainly, still_works

ROOT = Path("/var/lib/nightcrew/workspaces")

_PLAIN = """
git status; git diff HEAD; git add -A; git commit -q -m x; git log -1 -p; git show --stat
git stash -q; echo more >> a.txt; git checkout -q -- .; git branch -a
git -C /source fetch -q /workspace HEAD; git -C /source cherry -v HEAD FETCH_HEAD
"""
"""What a person, or a service that trusts its own clone, does with a result."""


@dataclass(frozen=True)
class Poison:
    """A repository that makes git do something. `plain` is one more thing that people do with repositories."""

    script: str
    plain: str = "true"

    def unboxed(self) -> str:
        left = run_plainly(["/bin/bash", "-c", self.script])
        return left + run_plainly(["/bin/bash", "-c", f"{_PLAIN}\n{self.plain}"]) + _delivered(left)

    async def boxed(self) -> str:
        workspaces = Workspaces(ROOT, user=box_user(None))
        async with await workspaces.create("task", "/source") as workspace:
            left = (await workspace.box.run(self.script)).output
            said = await _everything(workspaces, workspace)
            await still_works(workspace.box)
        return left + "\n".join(said) + _delivered(left)


async def _everything(workspaces: Workspaces, workspace: Workspace) -> list[str]:
    """All that the service does with a repository, each whatever came of the one before."""
    said: list[str] = []

    async def attempt(step: Callable[[], Awaitable[object]]) -> object:
        try:
            answer = await step()
        except WorkspaceError as error:
            answer = f"{type(error).__name__}: {error}"
        said.append(str(answer))
        return answer

    await attempt(workspace.checkpoint)
    await attempt(workspace.diff)
    async with Client(build_server(EXECUTOR, workspace=workspace)) as client:
        for tool, arguments in (
            ("git_status", {}),
            ("git_diff", {}),
            ("git_commit", {"message": "x"}),
            ("git_log", {}),
        ):
            answer = await client.call_tool(tool, arguments)
            said += [content.text for content in answer.content if isinstance(content, TextContent)]
    commit = await attempt(lambda: workspace.commit("The result"))
    if isinstance(commit, str) and re.fullmatch("[0-9a-f]{40}", commit):
        harvest = await attempt(lambda: workspace.harvest(commit))
        if not isinstance(harvest, str):
            await attempt(lambda: workspace.publish(commit, "nightcrew/result"))
            async with workspace.clean_room(commit) as room:
                said.append((await room.run("git status --short; cat a.txt")).output)
    await attempt(lambda: workspace.restore(workspace.base_tree))
    await attempt(lambda: workspaces.reopen("task"))
    return said


def _delivered(said: str) -> str:
    """`DELIVERED` when the object that an attack named with `EVIL NAME` has come into the source."""
    named = re.findall(r"EVIL ([0-9a-f]{40})", said)
    listing = ["git", "-C", "/source", "cat-file", "--batch-all-objects", "--batch-check=%(objectname)"]
    there = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split()
    return "\nDELIVERED" if named and set(named) & set(there) else ""


OBJECTS = r"""
import os, subprocess, sys, zlib, hashlib

def git(*arguments, data=b"", **env):
    done = subprocess.run(["git", *arguments], input=data, capture_output=True, check=True, env={**os.environ, **env})
    return done.stdout.decode().strip()

def blob(content=b"evil\n"):
    return git("hash-object", "-w", "--stdin", data=content if isinstance(content, bytes) else content.encode())

def tree(*entries):
    "A tree of (mode, name, object), nothing of it checked."
    lines = [f"{mode} ".encode() + os.fsencode(name) + b"\0" + bytes.fromhex(oid) for mode, name, oid in entries]
    return git("hash-object", "-t", "tree", "-w", "--stdin", "--literally", data=b"".join(lines))

def old():
    "What the base has, as entries."
    lines = [line.split(None, 3) for line in git("ls-tree", "HEAD").splitlines()]
    return [(mode.lstrip("0"), name, oid) for mode, _, oid, name in lines]

def with_old(*entries):
    order = lambda each: os.fsencode(each[1]) + (b"/" if each[0] == "40000" else b"")
    return tree(*sorted([*old(), *entries], key=order))

def commit(made, *parents, message="evil"):
    parents = parents or (git("rev-parse", "HEAD"),)
    words = [word for parent in parents for word in ("-p", parent)]
    return git("commit-tree", *words, "-m", message, made)

def evil(made, *parents, message="evil"):
    "Commit a tree on the branch, and name what must not come out."
    name = commit(made, *parents, message=message)
    git("update-ref", "HEAD", name)
    print("EVIL", name)
"""


def objects(program: str) -> Poison:
    """A history that is made by git's plumbing, and a changed worktree, so that a result stands on it."""
    return Poison(f"/usr/bin/python3 -I -S - <<'END'\n{OBJECTS}\n{program}\nEND\necho changed >> a.txt\n")


@dataclass(frozen=True)
class Trusted:
    """A name that reaches the trusted side, where `plain` is a shell command that is given it as `$VALUE`."""

    step: str
    value: str
    plain: str

    def unboxed(self) -> str:
        return run_plainly(["/usr/bin/env", f"VALUE={self.value}", "/bin/bash", "-c", self.plain])

    async def boxed(self) -> str:
        workspaces = Workspaces(ROOT, user=box_user(None))
        async with await workspaces.create("task", "/source") as workspace:
            steps: dict[str, Callable[[], Awaitable[object]]] = {
                "look": lambda: workspaces.look(self.value),
                "base": lambda: workspaces.look("/source", self.value),
                "task": lambda: workspaces.create(self.value, "/source"),
                "harvest": lambda: workspace.harvest(self.value),
                "restore": lambda: workspace.restore(self.value),
                "publish": lambda: workspace.publish(workspace.base_commit, self.value),
            }
            try:
                said = str(await steps[self.step]())
            except (WorkspaceError, ValueError) as error:
                said = f"{type(error).__name__}: {error}"
            await still_works(workspace.box)
        return said
