"""Reading a repository: what each of the reading git tools asks of git, and how the answer reads."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from nightcrew_tools.git_page import Page, more, page
from nightcrew_tools.git_parse import (
    LOG_FORMAT,
    BlameLine,
    Status,
    lfs_pointer,
    parse_blame,
    parse_log,
    parse_tree,
    parse_worktrees,
)
from nightcrew_tools.git_repo import GIT_WORDS, Repo, pathspec
from nightcrew_tools.git_words import revision, shown, visible
from nightcrew_tools.output import ANSWER_BYTES, ToolError, head, note
from nightcrew_tools.reply import Reply
from nightcrew_workspaces.gitbox import GitRan

ENTRIES = 200
"""Most lines of a list."""
LOG_MOST = 100
BLAME_LINES = 200
_BINARY_LOOK = 8000  # as git itself: a NUL in the beginning makes a file binary
_AT_ONCE = ANSWER_BYTES + 1024

What = Literal["branches", "tags", "remotes", "stashes", "worktrees"]

_QUIET = ("--no-ext-diff", "--no-textconv", "--no-color", "--find-renames", "--ignore-submodules=dirty")
_PATCH = (*_QUIET, "--submodule=short", "--no-relative", "--src-prefix=a/", "--dst-prefix=b/", "--unified=3")
_STAT = ("--stat=100", "--stat-graph-width=8", "--stat-count=60")

# An index of its own, in which new files are marked as to be added, lets one diff show them beside the changed ones. It
# keeps the time of the real one, by which git knows which files could have changed unseen in the second it was written.
_WITH_NEW_FILES = f"""
index=/tmp/nightcrew-index
rm -f $index $index.lock
cp -p -- "$1/index" $index 2>/dev/null
export GIT_INDEX_FILE=$index
shift
[ -e $index ] || {GIT_WORDS} read-tree HEAD 2>/dev/null
{GIT_WORDS} add --intent-to-add -- "$1" 2>/dev/null
shift
exec {GIT_WORDS} diff "$@"
"""


@dataclass(frozen=True)
class StatusFacts:
    branch: str | None
    """None where HEAD is detached."""
    commit: str | None
    state: str
    changes: int
    conflicts: int
    next: int | None


def status_lines(found: Status, skip: int = 0) -> tuple[list[str], int | None]:
    """The changed files as `git status --short` shows them, and which is the next that is not shown."""
    kept = found.changes[skip : skip + ENTRIES]
    lines = [f"{each.code} {each.path if each.origin is None else f'{each.origin} -> {each.path}'}" for each in kept]
    end = skip + len(kept)
    return lines, end if end < len(found.changes) else None


def state_line(repo: Repo, found: Status) -> str | None:
    """What is in progress and what it waits for."""
    state, step = repo.state
    if state == "none" and not found.conflicts:
        return None
    doing = "conflicts" if state == "none" else f"in the middle of a {state}" + (f", {step}" if step else "")
    files = len(found.conflicts)
    waits = f": {files} file{'' if files == 1 else 's'} in conflict" if files else ""
    return doing + waits


async def status(repo: Repo, skip: int) -> Reply:
    if skip < 0:
        raise ToolError("bad_argument", f"skip must be 0 or more, not {skip}")
    found = await repo.status()
    lines, following = status_lines(found, skip)
    if found.branch is None:
        where = f"detached at {(found.commit or '')[:10]}"
    else:
        where = f"on {found.branch}" + ("" if found.commit else ", no commit yet")
    if found.upstream is not None:
        apart = "gone" if found.ahead is None else f"{found.ahead} ahead, {found.behind} behind"
        where += f", {apart} of {found.upstream}" if found.ahead is not None else f", upstream {found.upstream} is gone"
    if found.stashes:
        where += f", {found.stashes} stashed"
    doing = state_line(repo, found)
    if doing is not None and repo.state[0] != "none":
        doing += "; git_merge continues or aborts it"
    text = [where, *([doing] if doing else []), *(lines or ["nothing changed since the last commit"])]
    if following is not None:
        text.append(note(f"{len(found.changes) - following} more: go on with skip={following}"))
    state = "conflict" if found.conflicts and repo.state[0] == "none" else repo.state[0]
    facts = StatusFacts(found.branch, found.commit, state, len(found.changes), len(found.conflicts), following)
    return Reply("\n".join(text), facts)


@dataclass(frozen=True)
class Sides:
    """What a diff compares: `base` with the files as they are, or with the index, or with `target`."""

    base: str
    staged: bool = False
    target: str | None = None

    @property
    def revisions(self) -> list[str]:
        return [
            *(["--cached"] if self.staged else []),
            "--end-of-options",
            self.base,
            *([self.target] if self.target else []),
        ]


async def diff(repo: Repo, sides: Sides, path: str | None, offset: int) -> Reply:
    """A patch, new files included where the files themselves are compared; a long one begins with a summary."""
    if offset < 0:
        raise ToolError("bad_argument", f"offset must be 0 or more, not {offset}")
    limits = pathspec(repo, path)
    if not sides.target and not sides.staged and ".." not in sides.base:
        repo.needs_files()
    ran = await _diff(repo, sides, limits, _PATCH, offset, _AT_ONCE)
    if not ran.stdout and offset == 0:
        return Reply("no changes" if not limits else f"no changes in {limits[-1]}", Page(None))
    if offset > 0 or ran.total <= ANSWER_BYTES:
        text, found = page(ran, offset, ANSWER_BYTES)
        return Reply(text + more(found, ran.total), found)
    stat = await _diff(repo, sides, limits, (*_QUIET, *_STAT), 0, ANSWER_BYTES)
    summary, _ = head(visible(stat.stdout), ANSWER_BYTES // 4)
    text, found = page(ran, offset, ANSWER_BYTES - len(summary.encode()))
    return Reply(f"{summary}\n{text}{more(found, ran.total)}", found)


async def log(
    repo: Repo,
    start: str,
    path: str | None,
    *,
    limit: int,
    skip: int = 0,
    search: str | None = None,
    brief: bool = False,
) -> Reply:
    """Commits, a line each; `brief` leaves out branches, tags and how to go on."""
    if not 1 <= limit <= LOG_MOST:
        raise ToolError("bad_argument", f"limit must be 1 to {LOG_MOST}, not {limit}")
    if skip < 0:
        raise ToolError("bad_argument", f"skip must be 0 or more, not {skip}")
    asked = ["log", "-z", "--date=short", "--no-show-signature", "--no-notes", "--encoding=UTF-8", "--decorate=short"]
    asked += [f"--format={LOG_FORMAT}", f"--max-count={limit + 1}", f"--skip={skip}"]
    if search:
        asked += ["--fixed-strings", "--regexp-ignore-case", f"--grep={search}"]
    ran = await repo.read(*asked, "--end-of-options", revision(start), *(pathspec(repo, path) or ["--"]))
    if not ran.ok and "does not have any commits" in ran.stderr + await _unborn(repo, start):
        return Reply("no commits yet", Page(None))
    commits = parse_log(repo.ok(ran).stdout)
    lines: list[str] = []
    room = ANSWER_BYTES
    for each in commits[:limit]:
        refs = f" ({each.refs})" if each.refs and not brief else ""
        line = f"{each.short} {each.date} {each.author}:{refs} {each.subject}"
        room -= len(line.encode()) + 1
        if room < 0 and lines:
            break
        lines.append(line)
    following = skip + len(lines) if len(lines) < len(commits) else None
    if following is not None and not brief:
        lines.append(note(f"older ones: skip={following}"))
    elif commits and repo.shallow:
        lines.append(note("the history is shallow and may end here before its beginning"))
    return Reply("\n".join(lines) or "no commit" + (" matches" if search or path else ""), Page(following))


async def show(repo: Repo, spec: str, path: str | None, offset: int) -> Reply:
    """A commit with its changes, or the file or folder that `REVISION:PATH` names."""
    if offset < 0:
        raise ToolError("bad_argument", f"offset must be 0 or more, not {offset}")
    spec = revision(spec)
    kind, size = await _kind(repo, spec)
    match kind:
        case "blob":
            return await _blob(repo, spec, size, offset)
        case "tree":
            entries = parse_tree(await repo.said("ls-tree", "-z", "--long", "--end-of-options", spec))
            return listed(entries, offset, "an empty folder", "offset")
        case _:
            return await _commit(repo, spec, path, offset)


async def blame(repo: Repo, path: str, start: int, end: int | None, at: str | None) -> Reply:
    """Lines of a file with the commits that they are from, neighbours of one commit together."""
    start = start or 1
    if start < 1 or (end is not None and end < start):
        raise ToolError("bad_argument", f"lines count from 1 and start before they end, not {start} to {end}")
    last = min(end or start + BLAME_LINES - 1, start + BLAME_LINES - 1)
    inside = repo.path(path)
    commit = [] if at is None else [await repo.commit_of(revision(at))]
    if at is None:
        repo.needs_files()
    asked = ["blame", "--porcelain", "--no-textconv", "--encoding=UTF-8", "-L", f"{start},{last + 1}"]
    ran = await repo.read("-c", "blame.ignoreRevsFile=", *asked, *commit, "--", inside)
    if "has only 0 lines" in ran.stderr:
        return Reply(f"{shown(inside.encode(errors='surrogateescape'))} is empty", Page(None))
    if "has only" in ran.stderr:
        raise ToolError("bad_argument", visible(ran.stderr.encode()).removeprefix("fatal: ").strip())
    lines = parse_blame(repo.ok(ran).stdout)
    text, following = _blamed(lines, last)
    if following is not None and (end is None or following <= end):
        return Reply(text + note(f"go on with start_line={following}"), Page(following))
    return Reply(text.rstrip("\n"), Page(None))


async def list_of(repo: Repo, what: What, skip: int) -> Reply:
    match what:
        case "branches":
            lines = await _branches(repo)
        case "tags":
            lines = await _refs(repo, "refs/tags", "--sort=-creatordate")
        case "remotes":
            lines = [f"{name} {mask(url)}{' (push)' if push else ''}" for name, url, push in await remotes(repo)]
        case "stashes":
            lines = await _stashes(repo)
        case "worktrees":
            lines = await _worktrees(repo)
    return listed(lines, skip, f"no {what}", "skip")


def listed(lines: Sequence[str], skip: int, none: str, name: str) -> Reply:
    """A page of a list."""
    if skip < 0:
        raise ToolError("bad_argument", f"{name} must be 0 or more, not {skip}")
    if not lines:
        return Reply(none, Page(None))
    if skip >= len(lines):
        raise ToolError("bad_argument", f"{name}={skip} is behind the end: there are {len(lines)}")
    kept: list[str] = []
    room = ANSWER_BYTES
    for line in lines[skip : skip + ENTRIES]:
        room -= len(line.encode(errors="replace")) + 1
        if room < 0 and kept:
            break
        kept.append(line)
    end = skip + len(kept)
    if end == len(lines):
        return Reply("\n".join(kept), Page(None))
    return Reply("\n".join([*kept, note(f"{len(lines) - end} more: go on with {name}={end}")]), Page(end))


async def remotes(repo: Repo) -> list[tuple[str, str, bool]]:
    """Name, address and whether it is for pushing alone, of every remote; addresses as they were written down."""
    ran = await repo.read("config", "-z", "--get-regexp", r"^remote\..*\.(url|pushurl)$")
    found: list[tuple[str, str, bool]] = []
    for record in ran.stdout.decode(errors="surrogateescape").split("\0"):
        key, _, url = record.partition("\n")
        name, _, which = key.removeprefix("remote.").rpartition(".")
        if name:
            found.append((visible(name.encode(errors="surrogateescape")), url, which == "pushurl"))
    return found


def mask(url: str) -> str:
    """An address without the password or token that may stand in it."""
    text = visible(url.encode(errors="surrogateescape"))
    try:
        parts = urlsplit(text)
    except ValueError:
        return text
    if not parts.scheme or "@" not in parts.netloc:
        return text
    user, _, host = parts.netloc.rpartition("@")
    hidden = "***" if parts.scheme in ("http", "https") else user.partition(":")[0]
    return urlunsplit(parts._replace(netloc=f"{hidden}@{host}"))


async def _diff(repo: Repo, sides: Sides, limits: list[str], options: Sequence[str], skip: int, keep: int) -> GitRan:
    if sides.target or sides.staged or ".." in sides.base:
        return repo.ok(await repo.read("diff", *options, *sides.revisions, *(limits or ["--"]), skip=skip, keep=keep))
    at = limits[-1] if limits else "."
    arguments = (repo.folder.git, at, *options, *sides.revisions, "--", at)
    return repo.ok(await repo.script(_WITH_NEW_FILES, *arguments, skip=skip, keep=keep))


async def _unborn(repo: Repo, start: str) -> str:
    """Git's words for a branch without a commit, for a git that says it in others."""
    if start != "HEAD" or (await repo.read("rev-parse", "--verify", "--quiet", "HEAD")).ok:
        return ""
    return "does not have any commits"


async def _kind(repo: Repo, spec: str) -> tuple[str, int]:
    """Type and size in bytes of the object that a revision names; a tag's is that of what it is on."""
    asked = ("cat-file", "--batch-check=%(objecttype) %(objectsize)")
    fields = (await repo.said(*asked, stdin=f"{spec}\n")).split()
    if fields[:1] == [b"tag"]:
        fields = (await repo.said(*asked, stdin=f"{spec}^{{}}\n")).split()
    if len(fields) == 2 and fields[1].isdigit():
        return fields[0].decode("ascii", "replace"), int(fields[1])
    rev, colon, path = spec.partition(":")
    if colon and rev and (await repo.read("rev-parse", "--verify", "--quiet", "--end-of-options", rev)).ok:
        raise ToolError("not_found", f"{path[:200]!r} is not in {rev[:80]}; git_show {rev[:80]}: lists what is there")
    await repo.commit_of(spec)  # says what is wrong with it
    raise ToolError("unknown_revision", f"{spec[:80]!r} names nothing that can be shown")


async def _blob(repo: Repo, spec: str, size: int, offset: int) -> Reply:
    ran = repo.ok(await repo.read("cat-file", "blob", spec, skip=offset, keep=_AT_ONCE))
    if offset == 0 and b"\0" in ran.stdout[:_BINARY_LOOK]:
        return Reply(f"a binary file of {size} bytes", Page(None))
    if not size:
        return Reply("an empty file", Page(None))
    text, found = page(ran, offset, ANSWER_BYTES)
    if offset == 0 and (content := lfs_pointer(ran.stdout)) is not None:
        text += note(f"a Git LFS pointer: the file itself, of {content} bytes, is not in the repository")
    return Reply(text + more(found, ran.total), found)


async def _commit(repo: Repo, spec: str, path: str | None, offset: int) -> Reply:
    layout = "commit %H%nauthor %an <%ae>%ndate %ad%nparents %p%n%n%B"
    asked = ["show", f"--format={layout}", "--date=iso", "--encoding=UTF-8", "--no-notes", "--no-show-signature"]
    asked += ["--diff-merges=first-parent", "--patch", *_STAT, *_PATCH, "--end-of-options", spec]
    ran = repo.ok(await repo.read(*asked, *(pathspec(repo, path) or ["--"]), skip=offset, keep=_AT_ONCE))
    text, found = page(ran, offset, ANSWER_BYTES)
    merge = offset == 0 and " " in next((x for x in text.splitlines() if x.startswith("parents ")), "")[8:]
    remark = note("a merge: the changes are those against its first parent") + "\n" if merge else ""
    return Reply(remark + text.rstrip("\n") + ("\n" + more(found, ran.total) if found.next else ""), found)


def _blamed(lines: Sequence[BlameLine], last: int) -> tuple[str, int | None]:
    """The lines up to `last` that an answer holds, and the number of the next when there is one."""
    text: list[str] = []
    room, previous = ANSWER_BYTES, ""
    for line in lines:
        entry = f"{line.number}: {line.text[:1000]}\n"
        if line.commit != previous:
            entry = _commit_line(line) + entry
            previous = line.commit
        room -= len(entry.encode(errors="replace"))
        if line.number > last or (room < 0 and text):
            return "".join(text), line.number
        text.append(entry)
    return "".join(text), None


def _commit_line(line: BlameLine) -> str:
    if not line.commit.strip("0"):
        return "not committed yet\n"
    day = time.strftime("%Y-%m-%d", time.gmtime(min(line.time, 1 << 37)))
    return f"{line.commit[:7]} {day} {line.author}: {line.summary}\n"


async def _branches(repo: Repo) -> list[str]:
    return await _refs(repo, "refs/heads") + [f"{line} (remote)" for line in await _refs(repo, "refs/remotes")]


async def _refs(repo: Repo, under: str, *options: str) -> list[str]:
    fields = ("HEAD", "refname:lstrip=2", "objectname:short", "committerdate:short", "creatordate:short")
    fields += ("upstream:short", "upstream:track,nobracket", "subject", "symref")
    layout = "%00".join(f"%({field})" for field in fields)
    lines: list[str] = []
    for record in (await repo.said("for-each-ref", f"--format={layout}", *options, under)).split(b"\n"):
        parts = [visible(part) for part in record.split(b"\0")]
        if len(parts) != len(fields) or parts[-1]:
            continue
        here, name, commit, day, created, upstream, track, subject, _ = parts
        apart = f" [{upstream}{': ' + track if track else ''}]" if upstream else ""
        lines.append(f"{'* ' if here == '*' else ''}{name} {commit} {day or created}{apart} {subject}")
    return lines


async def _stashes(repo: Repo) -> list[str]:
    data = await repo.said("stash", "list", "-z", "--date=short", "--format=%cs%x00%gs")
    fields = [visible(field) for field in data.split(b"\0")]
    pairs = zip(*(iter(fields),) * 2, strict=False)
    return [f"stash@{{{number}}} {day} {subject}" for number, (day, subject) in enumerate(pairs)]


async def _worktrees(repo: Repo) -> list[str]:
    found = parse_worktrees(await repo.said("worktree", "list", "--porcelain", "-z"))
    return [
        f"{each.path} {(each.commit or 'no commit')[:10]} "
        + ("bare" if each.bare else each.branch or "detached")
        + (f" ({each.note})" if each.note else "")
        for each in found
    ]
