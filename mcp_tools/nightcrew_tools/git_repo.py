"""One repository in the box, and git run on it: the settings that every command of a tool gets.

The repository is the model's to write, and a poisoned one makes plain git run anything: the box is the boundary. Still
no command runs what it has no need of. Never run, whatever the repository says: hooks, fsmonitor, pagers, editors,
external diffs, textconv, signing programs, credential helpers, ssh, other transports, aliases (none is called), git in
submodules. What a command cannot do without runs inside the box: clean filters (`git_status` and `git_diff` of a
changed file, `git_add`, `git_commit`), smudge filters (`git_restore`, `git_switch`, `git_stash`, `git_merge`,
`git_worktree`), merge drivers (`git_merge`, `git_stash`), and the receiving repository's own hooks (`git_push`).
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from nightcrew_tools.git_errors import failure
from nightcrew_tools.git_parse import STATE_FILES, State, Status, parse_state, parse_status
from nightcrew_tools.git_words import Places, path_text, relative_to, visible
from nightcrew_tools.output import ToolError
from nightcrew_tools.ports import GitPort
from nightcrew_workspaces.gitbox import GitFolder, GitRan

SECONDS = 60.0
ALL = 4 << 20
"""Bytes of what is read whole to be counted or sorted."""

GIT = "/usr/bin/git"
_SETTINGS = (
    # The account has another number in the box than outside, by which every file would look changed.
    "core.checkStat=minimal",
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.quotePath=false",
    "core.alternateRefsCommand=:",
    "core.askPass=/bin/false",
    "color.ui=false",
    "advice.addEmbeddedRepo=false",
    "credential.helper=",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
    "push.recurseSubmodules=no",
    "status.submoduleSummary=false",
    "log.showSignature=false",
    "commit.gpgSign=false",
    "tag.gpgSign=false",
    "push.gpgSign=false",
    "merge.verifySignatures=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "rerere.enabled=false",
)
OPTIONS = ("--no-pager", *(word for each in _SETTINGS for word in ("-c", each)))
"""What stands between `git` and the name of its command."""
GIT_WORDS = shlex.join((GIT, *OPTIONS))

_PLAIN = {
    "LC_ALL": "C.UTF-8",
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_ASKPASS": "/bin/false",
    "GIT_EDITOR": ":",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_SEQUENCE_EDITOR": ":",
    "GIT_SSH_COMMAND": "/bin/false",
    "GIT_TERMINAL_PROMPT": "0",
    "SSH_ASKPASS": "/bin/false",
}
_ENVIRONMENT = _PLAIN | {"GIT_LITERAL_PATHSPECS": "1"}
READING = _ENVIRONMENT | {"GIT_OPTIONAL_LOCKS": "0"}
"""Reading never takes a lock nor changes the index."""
LOCAL = _ENVIRONMENT | {"GIT_ALLOW_PROTOCOL": "file"}
STASHING = _PLAIN
"""`git stash` itself calls git with pathspecs that have magic."""

_LOOKED_FOR = (
    *STATE_FILES,
    *("rebase-merge/msgnum", "rebase-merge/end", "rebase-apply/next", "rebase-apply/last"),
    *("hooks/pre-commit", "hooks/commit-msg", "hooks/prepare-commit-msg", "hooks/post-commit"),
    "shallow",
)


@dataclass(frozen=True)
class Repo:
    """A repository, found from a directory; every command runs at its top."""

    port: GitPort
    places: Places
    start: str
    """The directory that it was found from; paths count from here."""
    top: str
    folder: GitFolder

    @property
    def shallow(self) -> bool:
        return "shallow" in self.found

    @property
    def found(self) -> dict[str, str]:
        return dict(self.folder.found or {})

    @property
    def state(self) -> tuple[State, str]:
        """What is in progress, and how far it is."""
        return parse_state(self.found)

    @property
    def hooks(self) -> bool:
        """Whether it has a hook that a commit by hand would run."""
        return any(name.startswith("hooks/") for name in self.found)

    def path(self, path: str) -> str:
        """A model's path as git takes it."""
        return relative_to(self.top, self.places.within(self.start, path))

    def paths(self, paths: Sequence[str]) -> list[str]:
        if not paths:
            raise ToolError("bad_argument", "paths is empty; name files or folders, or '.' for all")
        return [self.path(path) for path in paths]

    async def read(self, *arguments: str, skip: int = 0, keep: int = ALL, stdin: str = "") -> GitRan:
        """Run a command that changes nothing; how it ended is the caller's to judge."""
        return await self._run(arguments, READING, skip=skip, keep=keep, stdin=stdin)

    async def write(self, *arguments: str, stdin: str = "", env: Mapping[str, str] = _ENVIRONMENT) -> GitRan:
        """Run a command that changes the repository; with `LOCAL` it may talk to another one in the box."""
        return await self._run(arguments, env, stdin=stdin)

    async def script(self, script: str, *arguments: str, skip: int = 0, keep: int = ALL) -> GitRan:
        """Run a shell script that reads; `GIT_WORDS` is how git is called in it."""
        argv = ("/bin/sh", "-c", script, "git", *arguments)
        return await self.port.run(argv, cwd=self.top, seconds=SECONDS, env=READING, skip=skip, keep=keep)

    async def said(self, *arguments: str, stdin: str = "", keep: int = ALL) -> bytes:
        """What a reading command writes. Raises `ToolError` where it fails."""
        return self.ok(await self.read(*arguments, stdin=stdin, keep=keep)).stdout

    async def status(self, *options: str) -> Status:
        """The state of all files; one of a submodule is left to the submodule."""
        self.needs_files()
        asked = ("status", "--porcelain=v2", "-z", "--branch", "--show-stash", "--find-renames")
        data = await self.said(*asked, "--untracked-files=normal", "--ignore-submodules=dirty", *options)
        return parse_status(data)

    async def commit_of(self, revision: str) -> str:
        """The id of the commit that `revision` names."""
        asked = ("rev-parse", "--verify", "--quiet", "--end-of-options", revision + "^{commit}")
        ran = await self.read(*asked)
        if ran.exit_code == 1 or (ran.exit_code == 128 and "revision" in ran.stderr):
            await self._raise_unknown(revision)
        return self.ok(ran).stdout.decode("ascii", "replace").strip()

    def needs_files(self) -> None:
        """Raises `ToolError` in a bare repository."""
        if self.folder.bare:
            where = visible(self.top.encode(errors="surrogateescape"))
            raise ToolError("bare_repository", f"{where} has no files, only history: read it with git_log and git_show")

    @staticmethod
    def ok(ran: GitRan) -> GitRan:
        """The same; raises `ToolError` where it did not end well."""
        if not ran.ok:
            raise failure(ran, SECONDS)
        return ran

    async def _raise_unknown(self, revision: str) -> NoReturn:
        shallow = "; the history is shallow and ends early" if self.shallow else ""
        unborn = not (await self.read("rev-parse", "--verify", "--quiet", "HEAD^{commit}")).ok
        if unborn and revision.startswith(("HEAD", "@")):
            raise ToolError("no_commit", "there is no commit yet; commit something first")
        hint = "see git_log, or the lists of branches and tags"
        raise ToolError("unknown_revision", f"there is no commit {revision[:80]!r}{shallow}; {hint}")

    async def _run(
        self, arguments: Sequence[str], env: Mapping[str, str], *, skip: int = 0, keep: int = ALL, stdin: str = ""
    ) -> GitRan:
        where = ("--git-dir=.",) if self.folder.bare else ()
        argv = (GIT, *where, *OPTIONS, *arguments)
        return await self.port.run(argv, cwd=self.top, seconds=SECONDS, env=env, stdin=stdin, skip=skip, keep=keep)


async def open_repo(port: GitPort, places: Places, repo: str | None) -> Repo:
    """The repository that a folder belongs to. Raises `ToolError`."""
    start = places.folder(repo)
    folder = await port.look(start, _LOOKED_FOR)
    where = visible(start.encode(errors="surrogateescape"))
    if folder.top is None:
        if not folder.exists:
            raise ToolError("not_found", f"there is no folder {where}; name one under {' or '.join(places.roots)}")
        raise ToolError("not_a_repository", f"{where} is in no git repository; `git init` with run_command makes one")
    if folder.lost:
        points = visible(folder.git.encode(errors="surrogateescape"))
        raise ToolError("not_a_repository", f"the .git of {where} points to {points}, which is outside of the roots")
    return Repo(port, places, start, folder.top, folder)


def pathspec(repo: Repo, path: str | None) -> list[str]:
    """What limits a command to `path`, nothing for the whole repository."""
    inside = "." if path is None or not path_text(path) else repo.path(path)
    return [] if inside == "." else ["--", inside]
