"""Fetching and pushing, between repositories that the box can see.

A box has no network and never gets credentials. So a remote works when its address is a path, or a `file:` URL, under
one of the roots; for any other the answer says where to run the command instead.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from nightcrew_tools.git_errors import said
from nightcrew_tools.git_read import mask, remotes
from nightcrew_tools.git_repo import LOCAL, Repo
from nightcrew_tools.git_words import ref_name, visible
from nightcrew_tools.git_write import has_branch
from nightcrew_tools.output import ToolError
from nightcrew_tools.reply import Reply

_LINES = 40
_SCP = re.compile(r"[^/]*:")


@dataclass(frozen=True)
class Moved:
    """What a fetch or push did: facts for programs."""

    remote: str
    refs: int
    """Branches and tags that are new or moved."""


async def fetch(repo: Repo, remote: str) -> Reply:
    """Get what a remote has; nothing that is checked out changes."""
    await _reachable(repo, remote, "fetch", push=False)
    before = await _tips(repo)
    options = ("--no-recurse-submodules", "--no-auto-maintenance", "--upload-pack=git-upload-pack", "--end-of-options")
    repo.ok(await repo.write("fetch", *options, remote, env=LOCAL))
    after = await _tips(repo)
    lines = [
        f"{name} {before.get(name, 'new')[:10]} -> {tip[:10]}"
        for name, tip in sorted(after.items())
        if before.get(name) != tip
    ]
    more = [f"[{len(lines) - _LINES} more]"] if len(lines) > _LINES else []
    return Reply("\n".join([*lines[:_LINES], *more]) or f"{remote} has nothing new", Moved(remote, len(lines)))


async def push(repo: Repo, remote: str, branch: str | None) -> Reply:
    """Send one branch to the branch of the same name; never by force."""
    name = branch if branch is not None else await _current(repo)
    ref_name(name, "branch")
    if not await has_branch(repo, name):
        raise ToolError("not_found", f"there is no branch {name!r}; git_list shows them")
    await _reachable(repo, remote, f"push {{}} {name}", push=True)
    options = ("--porcelain", "--no-verify", "--no-signed", "--no-recurse-submodules", "--no-follow-tags")
    refspec = f"refs/heads/{name}:refs/heads/{name}"
    pack = "--receive-pack=git-receive-pack"
    ran = await repo.write("push", *options, pack, "--end-of-options", remote, refspec, env=LOCAL)
    if not ran.ok and (refused := re.search(rb"^!\t\S+\t(.*)$", ran.stdout, re.MULTILINE)):
        why = visible(refused[1])
        hint = "; fetch and merge first" if "fetch first" in why or "non-fast" in why else ""
        raise ToolError("rejected", f"{remote} refused {name}: {why}{hint}\n{said(ran)}")
    repo.ok(ran)
    moved = b"=\trefs/" not in ran.stdout
    return Reply(f"pushed {name} to {remote}" if moved else f"{remote} has {name} already", Moved(remote, int(moved)))


def local_path(url: str, top: str) -> str | None:
    """The path that an address names on this machine, None for one that needs a network or a helper program."""
    if url.lower().startswith("file://"):
        parts = urlsplit(url)
        return posixpath.normpath(unquote(parts.path)) if parts.netloc in ("", "localhost") else None
    if _SCP.match(url):  # host:path, https://…, ext::program
        return None
    return posixpath.normpath(posixpath.join(top, url))


async def _reachable(repo: Repo, remote: str, command: str, *, push: bool) -> None:
    """Raises `ToolError` unless every address of the remote is a path under a root."""
    ref_name(remote, "remote")
    asked = ("remote", "get-url", "--all", *(["--push"] if push else []), "--", remote)
    ran = await repo.read(*asked)
    if not ran.ok:
        known = ", ".join(dict.fromkeys(name for name, _, _ in await remotes(repo))) or "none"
        raise ToolError("not_found", f"there is no remote {remote!r}; there are: {known}")
    for url in ran.stdout.decode(errors="surrogateescape").splitlines():
        path = local_path(url, repo.top)
        if path is None:
            words = command.format(remote) if "{}" in command else f"{command} {remote}"
            raise ToolError(
                "no_network",
                f"{remote} is {mask(url)}, and a box has neither a network nor credentials: "
                f"somebody has to run `git {words}` outside of it",
            )
        repo.places.within(repo.top, path, f"remote {remote}:")


async def _tips(repo: Repo) -> dict[str, str]:
    """Names and commits of what a fetch may move."""
    layout = "--format=%(refname:lstrip=2)%00%(objectname)%00%(symref)"
    records = (
        line.split(b"\0")
        for line in (await repo.said("for-each-ref", layout, "refs/remotes", "refs/tags")).split(b"\n")
    )
    return {visible(record[0]): visible(record[1]) for record in records if len(record) == 3 and not record[2]}


async def _current(repo: Repo) -> str:
    ran = await repo.read("symbolic-ref", "--quiet", "--short", "HEAD")
    if not ran.ok:
        raise ToolError("bad_argument", "HEAD is detached: name the branch to push")
    return ran.stdout.decode(errors="surrogateescape").strip()
