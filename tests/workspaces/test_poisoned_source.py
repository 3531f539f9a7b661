"""A source whose own files want git to run a program: each poison works with plain git, and none does with ours."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fakes.repositories import commit, git, make
from nightcrew_workspaces.depot import make_depot
from nightcrew_workspaces.errors import WorkspaceError
from nightcrew_workspaces.git import Git, safe_config
from nightcrew_workspaces.repository import publish
from nightcrew_workspaces.source import Source, look
from nightcrew_workspaces.user import box_user

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


_SIGNATURE = "-----BEGIN PGP SIGNATURE-----\n \n =x\n -----END PGP SIGNATURE-----"


@dataclass
class Poison:
    """A source, the program that it should not be able to start, and what that leaves behind."""

    source: Path
    program: Path
    canary: Path

    def set(self, *settings: str, file: str = "config") -> None:
        for key, value in zip(settings[::2], settings[1::2], strict=True):
            git("config", "--file", str(self.source / ".git" / file), key, value, at=self.source)

    def plain(self, *arguments: str) -> None:
        """What a person would type; it may fail, once the program has run."""
        command = ["git", "-c", "safe.directory=*", *arguments]
        subprocess.run(command, cwd=self.source, capture_output=True, check=False, timeout=30)


def hooks(poison: Poison) -> None:
    folder = poison.source.parent / "hooks"
    folder.mkdir()
    for name in ("reference-transaction", "post-index-change", "pre-auto-gc", "update", "post-update"):
        (folder / name).symlink_to(poison.program)
    poison.set("core.hooksPath", str(folder))
    poison.plain("branch", "probe")


def hooks_in_place(poison: Poison) -> None:
    folder = poison.source / ".git/hooks"
    folder.mkdir(exist_ok=True)
    (folder / "reference-transaction").symlink_to(poison.program)
    poison.plain("branch", "probe")


def fsmonitor(poison: Poison) -> None:
    poison.set("core.fsmonitor", str(poison.program))
    poison.plain("status")


def included(poison: Poison) -> None:
    poison.set("core.fsmonitor", str(poison.program), file="other")
    poison.set("include.path", "other", "includeIf.gitdir:/.path", "other")
    poison.plain("status")


def worktree_configuration(poison: Poison) -> None:
    poison.set("extensions.worktreeConfig", "true", "core.repositoryformatversion", "1")
    poison.set("core.fsmonitor", str(poison.program), file="config.worktree")
    poison.plain("status")


def clean_filter(poison: Poison) -> None:
    _attributes(poison, "filter=poison")
    poison.set("filter.poison.clean", str(poison.program), "filter.poison.required", "true")
    poison.plain("status")
    os.utime(poison.source / "calc.py", (2, 2))


def filter_process(poison: Poison) -> None:
    _attributes(poison, "filter=poison.two")
    poison.set("filter.poison.two.process", str(poison.program), "filter.poison.two.required", "true")
    poison.plain("status")
    os.utime(poison.source / "calc.py", (2, 2))


def smudge_filter(poison: Poison) -> None:
    _attributes(poison, "filter=poison")
    poison.set("filter.poison.smudge", str(poison.program))
    (poison.source / "calc.py").unlink()
    poison.plain("checkout", "--", "calc.py")


def textconv(poison: Poison) -> None:
    _attributes(poison, "diff=poison")
    poison.set("diff.poison.textconv", str(poison.program))
    poison.plain("show", "HEAD")


def external_diff(poison: Poison) -> None:
    poison.set("diff.external", str(poison.program))
    (poison.source / "calc.py").write_text("other\n")
    poison.plain("diff")


def another_worktree(poison: Poison) -> None:
    other = poison.source.parent / "other"
    other.mkdir()
    (other / "calc.py").write_bytes((poison.source / "calc.py").read_bytes())
    (other / ".gitattributes").write_text("* filter=poison\n")
    poison.set("core.worktree", str(other), "filter.poison.clean", str(poison.program))
    poison.plain("status")
    os.utime(other / "calc.py", (2, 2))


def submodule(poison: Poison) -> None:
    inner = make(poison.source / "sub")
    git("config", "core.fsmonitor", str(poison.program), at=inner)
    url = f"--upload-pack={poison.program}"
    (poison.source / ".gitmodules").write_text(f'[submodule "sub"]\n\tpath = sub\n\turl = {url}\n')
    commit(poison.source, {"more": "1"})
    poison.set("submodule.sub.update", f"!{poison.program}", "submodule.sub.url", url, "submodule.recurse", "true")
    poison.canary.unlink(missing_ok=True)
    poison.plain("status")


def lazy_fetch(poison: Poison) -> None:
    """An object that a partial clone lacks is fetched by a program that the configuration names."""
    url = str(make(poison.source.parent / "remote"))
    poison.set("core.repositoryformatversion", "1", "extensions.partialClone", "origin")
    poison.set(
        "remote.origin.url", url, "remote.origin.promisor", "true", "remote.origin.uploadpack", str(poison.program)
    )
    blob = git("rev-parse", "HEAD:calc.py", at=poison.source)
    (poison.source / ".git/objects" / blob[:2] / blob[2:]).unlink()
    poison.plain("cat-file", "-p", blob)


def alternates(poison: Poison) -> None:
    other = make(poison.source.parent / "other")
    (poison.source / ".git/objects/info/alternates").write_text(f"{other}/.git/objects\n")
    poison.set("core.alternateRefsCommand", str(poison.program))
    poison.plain("rev-list", "--alternate-refs", "HEAD")


def ssh_command(poison: Poison) -> None:
    poison.set("core.sshCommand", str(poison.program), "remote.origin.url", "ssh://localhost/x")
    poison.set("branch.main.remote", "origin", "fetch.all", "true")
    poison.plain("fetch")


def gpg(poison: Poison) -> None:
    raw = git("cat-file", "commit", "HEAD", at=poison.source).replace("\n\n", f"\ngpgsig {_SIGNATURE}\n\n", 1) + "\n"
    signed = git("hash-object", "-t", "commit", "-w", "--stdin", at=poison.source, stdin=raw.encode())
    git("update-ref", "refs/heads/main", signed, at=poison.source)
    poison.set("gpg.program", str(poison.program), "log.showSignature", "true")
    poison.plain("log", "-1")


def _attributes(poison: Poison, attribute: str) -> None:
    (poison.source / ".git/info").mkdir(exist_ok=True)
    (poison.source / ".git/info/attributes").write_text(f"* {attribute}\n")
    os.utime(poison.source / "calc.py", (1, 1))


POISONS = [
    *(hooks, hooks_in_place, fsmonitor, included, worktree_configuration, clean_filter, filter_process, smudge_filter),
    *(textconv, external_diff, another_worktree, submodule, lazy_fetch, alternates, ssh_command, gpg),
]


@pytest.mark.parametrize("way", ["path", "url"])
@pytest.mark.parametrize("poison_with", POISONS, ids=lambda function: function.__name__)
async def test_a_poisoned_source_runs_nothing(open_tmp: Path, poison_with: Callable[[Poison], None], way: str) -> None:
    canary, program = open_tmp / "canary", open_tmp / "run"
    program.write_text(f"#!/bin/sh\ntouch {canary}\n")
    program.chmod(0o755)
    source = make(open_tmp / "source")
    poison_with(Poison(source, program, canary))
    assert canary.exists(), "the poison does not work with plain git"
    canary.unlink()

    trusted = Git(safe_config(open_tmp))
    try:
        state = await look(trusted, Source(str(source) if way == "path" else f"file://{source}"), open_tmp / "mirrors")
        (open_tmp / "task").mkdir()
        depot = open_tmp / "task/depot.git"
        await make_depot(trusted, state, depot, box_user(), open_tmp / "caches")
        result = git("commit-tree", "-p", state.commit, "-m", "fix", state.tree, at=depot)
        await publish(trusted, state, depot, commit=result, base=state.commit, branch="nightcrew/1")
        assert git("rev-parse", "nightcrew/1", at=state.git_dir, env={"GIT_DIR": str(state.git_dir)}) == result
    except WorkspaceError:
        # What is not whole, and over a URL a submodule whose address is an option: fsck stops that one.
        assert poison_with is lazy_fetch or (poison_with, way) == (submodule, "url")
    finally:
        assert not canary.exists()


async def test_grafts_and_replacements_of_the_source_change_nothing(open_tmp: Path) -> None:
    source = make(open_tmp / "source")
    first = git("rev-parse", "HEAD", at=source)
    head = commit(source, {"more": "1"})
    other = git("commit-tree", "-m", "other", f"{first}^{{tree}}", at=source)
    git("replace", head, other, at=source)
    (source / ".git/info").mkdir(exist_ok=True)
    (source / ".git/info/grafts").write_text(f"{head}\n")
    assert git("rev-list", "--count", "HEAD", at=source) == "1"  # they work
    (source / ".git/objects/info/alternates").write_text(f"{source}/.git/objects\n")  # has it packed, not linked
    trusted = Git(safe_config(open_tmp))
    state = await look(trusted, Source(str(source)), open_tmp / "mirrors")
    assert (state.commit, state.tree) == (head, git("--no-replace-objects", "rev-parse", "HEAD^{tree}", at=source))
    (open_tmp / "task").mkdir()
    await make_depot(trusted, state, open_tmp / "task/depot.git", box_user(), open_tmp / "caches")
    assert git("rev-list", head, at=open_tmp / "task/depot.git").split() == [head, first]


async def test_every_trusted_git_has_the_whole_list_of_settings(open_tmp: Path) -> None:
    trusted = Git(safe_config(open_tmp))
    source = make(open_tmp / "source")
    listed = dict(
        line.split("=", 1)
        for line in (await trusted.run("config", "--list", at=source)).decode().splitlines()
        if "=" in line
    )
    wanted = {
        "core.hookspath": "/dev/null",
        "core.fsmonitor": "false",
        "core.attributesfile": "/dev/null",
        "diff.external": "",
        "credential.helper": "",
        "protocol.allow": "never",
        "protocol.file.allow": "always",
        "submodule.recurse": "false",
        "gc.auto": "0",
        "maintenance.auto": "false",
        "commit.gpgsign": "false",
        "safe.barerepository": "explicit",
        "transfer.fsckobjects": "true",
    }
    assert {name: listed.get(name) for name in wanted} == wanted


async def test_a_bare_repository_that_lies_in_a_checkout_is_not_found_by_itself(open_tmp: Path) -> None:
    source = make(open_tmp / "source")
    git("clone", "--quiet", "--bare", str(source), "inner", at=source)
    trusted = Git(safe_config(open_tmp))
    with pytest.raises(WorkspaceError, match=r"safe\.bareRepository"):
        await trusted.run("rev-parse", "HEAD", at=source / "inner")
