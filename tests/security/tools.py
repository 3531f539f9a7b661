"""What attacks do by the arguments of a tool: through the MCP server, and with the tool as it is often written."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mcp.client import Client
from mcp_types import TextContent

from nightcrew_tools.grants import EXECUTOR, Grants
from nightcrew_tools.server import build_server
from nightcrew_workspaces.background import Background
from nightcrew_workspaces.files import Files
from nightcrew_workspaces.gitbox import GitBox
from security.deeds import WORKSPACE, make_box, run_plainly, still_works

Reading = Callable[[str], str]
"""What an implementation makes of a path before it joins it to the workspace's."""


def as_it_is(path: str) -> str:
    return path


def decoded(path: str) -> str:
    return unquote(path)


def normalised(path: str) -> str:
    return unicodedata.normalize("NFKC", path)


def slashes(path: str) -> str:
    return path.replace("\\", "/")


def to_the_nul(path: str) -> str:
    return path.partition("\0")[0]


def stripped(path: str) -> str:
    return path.strip()


def expanded(path: str) -> str:
    return os.path.expandvars(os.path.expanduser(path))


def by_url(path: str) -> str:
    return urlsplit(path).path


def words_normalised(path: str) -> str:
    return os.path.normpath(path)


_BASE = Path("/source/.git/refs/heads/main")
_EVERYTHING = Grants(frozenset({"files", "git", "shell"}))


class _Naive:
    """The tools without a box: a path is joined to the workspace's and used, git gets what the model says."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def read_file(self, path: str) -> str:
        with open(self._at(path), errors="replace") as file:
            return file.read(100_000)

    def write_file(self, path: str, content: str) -> str:
        os.makedirs(os.path.dirname(self._at(path)), exist_ok=True)
        with open(self._at(path), "w") as file:
            file.write(content)
        return "written"

    def edit_file(self, path: str, old: str, new: str) -> str:
        return self.write_file(path, self.read_file(path).replace(old, new))

    def delete_file(self, path: str) -> str:
        os.unlink(self._at(path))
        return "deleted"

    def move_file(self, path: str, to: str) -> str:
        os.rename(self._at(path), self._at(to))
        with open(self._at(to), errors="replace") as file:
            return file.read(1000)

    def list_files(self, path: str = ".", pattern: str = "*") -> str:
        found = [os.path.join(at, name) for at, _, names in os.walk(self._at(path)) for name in names]
        if "/" in pattern:
            import glob

            found = glob.glob(self._at(pattern))
        return "\n".join(each for each in found if fnmatch.fnmatch(each, f"*{os.path.basename(pattern)}"))

    def search_files(self, pattern: str, path: str = ".", glob: str = "*") -> str:
        target = self._at(path)
        files = [target] if os.path.isfile(target) else self.list_files(path, glob).splitlines()
        return "\n".join(
            line for each in files for line in self.read_file(each).splitlines() if re.search(pattern, line)
        )

    def git_status(self) -> str:
        return run_plainly(["git", "status", "--short"])

    def git_diff(self, path: str = ".") -> str:
        return run_plainly(["git", "diff", *path.split()])

    def git_log(self, limit: object = 10) -> str:
        return run_plainly(["/bin/sh", "-c", f"git log -n {limit}"])

    def git_commit(self, message: str) -> str:
        run_plainly(["/bin/sh", "-c", f'git commit --allow-empty -m "{message}"'])
        return run_plainly(["git", "log", "-1", "--format=%B"])

    def git_restore(self, path: str) -> str:
        return run_plainly(["git", "restore", *path.split()])

    def run_command(self, command: str) -> str:
        return run_plainly(["/bin/sh", "-c", command])

    def _at(self, path: str) -> str:
        return os.path.join("/workspace", self._reading(path))


@dataclass(frozen=True)
class Call:
    """One call of a tool. `before` is a command of the same model that ran earlier.

    `plain` is the command that a tool without a box makes of the arguments, where there is no other. `outside` calls
    the tools of clients who work on a person's own directories.
    """

    tool: str
    arguments: Mapping[str, object] = field(default_factory=dict[str, object])
    before: str = ""
    reading: Reading = as_it_is
    plain: tuple[str, ...] = ()
    outside: bool = False

    def unboxed(self) -> str:
        if self.before:
            run_plainly(["/bin/bash", "-c", self.before])
        if self.plain:
            return run_plainly(self.plain)
        try:
            return getattr(_Naive(self.reading), self.tool)(**self.arguments)
        except (OSError, ValueError, subprocess.SubprocessError, shutil.Error) as error:
            return f"{type(error).__name__}: {error}"

    async def boxed(self) -> str:
        place = Place(None if self.outside else _BASE.read_text().strip())
        if self.before:
            await place.box.run(self.before)
        answer = await place.call(self.tool, self.arguments)
        await place.files.read("README.md")
        await place.aclose()
        await still_works(place.box)
        return answer


class Place:
    """What the tools need of a workspace, over the directory that both halves work in."""

    def __init__(self, base_commit: str | None) -> None:
        self.base_commit = base_commit
        self.roots = (WORKSPACE,)
        self.box = make_box()
        self.files = Files(self.box)
        self.git = GitBox(self.box)
        self.background = Background(self.box)

    async def call(self, tool: str, arguments: Mapping[str, object]) -> str:
        """What a model is told."""
        grants = EXECUTOR if self.base_commit else _EVERYTHING
        async with Client(build_server(grants, workspace=self)) as client:
            result = await client.call_tool(tool, dict(arguments))
        texts = [content.text for content in result.content if isinstance(content, TextContent)]
        for code in ("internal", "unknown_tool", "unknown_argument", "missing_argument"):
            assert not any(f"error[{code}]" in text for text in texts), texts  # then the attack did not reach the tool
        return "\n".join(texts)

    async def aclose(self) -> None:
        await self.background.aclose()
        await self.git.aclose()
        await self.files.aclose()
