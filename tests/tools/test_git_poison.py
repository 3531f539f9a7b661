"""A repository that wants git to run a program: each poison works with plain git, in the box too; the tools that have
no need of the program do not run it, and those that have run it inside the box."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from fakes.boxes import own
from fakes.repositories import commit, git, make
from fakes.roots import open_roots
from nightcrew_tools.git import GitTools
from nightcrew_tools.output import ToolError
from nightcrew_workspaces.roots import Roots

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

_SIGNATURE = "-----BEGIN PGP SIGNATURE-----\n \n =x\n -----END PGP SIGNATURE-----"


class Poisoned:
    """A repository, the program it wants to be run, and what that leaves behind when it was."""

    def __init__(self, folder: Path) -> None:
        self.root = make(folder / "root", {"a.txt": "one\n", "b.txt": "one\n"})
        self.program = self.root / ".git/run"
        self.canary = self.root / ".git/CANARY"
        self.outside = folder / "escaped"
        self.program.write_text(f"#!/bin/sh\ntouch {self.canary} {self.outside}\ncat\n")
        self.program.chmod(0o755)

    def set(self, **settings: str) -> None:
        for key, value in settings.items():
            git("config", key.replace("__", "."), value, at=self.root)

    def attribute(self, text: str) -> None:
        (self.root / ".git/info").mkdir(exist_ok=True)
        (self.root / ".git/info/attributes").write_text(f"* {text}\n")


def fsmonitor(poison: Poisoned) -> str:
    poison.set(core__fsmonitor=str(poison.program))
    return "git status"


def hooks(poison: Poisoned) -> str:
    (poison.root / ".git/hooks").mkdir(exist_ok=True)
    for name in ("pre-commit", "commit-msg", "post-commit", "post-checkout", "reference-transaction", "pre-push",
                 "prepare-commit-msg", "post-index-change", "post-merge", "pre-merge-commit"):  # fmt: skip
        (poison.root / ".git/hooks" / name).symlink_to(poison.program)
    return "git commit --allow-empty -m x; git reset -q --soft HEAD~1"


def hooks_elsewhere(poison: Poisoned) -> str:
    (poison.root / "hooks").mkdir()
    (poison.root / "hooks/pre-commit").symlink_to(poison.program)
    (poison.root / "hooks/reference-transaction").symlink_to(poison.program)
    poison.set(core__hooksPath="hooks")
    return "git commit --allow-empty -m x; git reset -q --soft HEAD~1"


def included(poison: Poisoned) -> str:
    (poison.root / ".git/more").write_text(f"[core]\n\tfsmonitor = {poison.program}\n")
    poison.set(include__path="more")
    return "git status"


def external_diff(poison: Poisoned) -> str:
    poison.set(diff__external=str(poison.program))
    return "git diff"


def diff_driver(poison: Poisoned) -> str:
    poison.attribute("diff=poison")
    poison.set(diff__poison__command=str(poison.program))
    return "git diff"


def textconv(poison: Poisoned) -> str:
    poison.attribute("diff=poison")
    poison.set(diff__poison__textconv=str(poison.program))
    return "git show HEAD; git blame a.txt"


def signature(poison: Poisoned) -> str:
    raw = git("cat-file", "commit", "HEAD", at=poison.root).replace("\n\n", f"\ngpgsig {_SIGNATURE}\n\n", 1) + "\n"
    signed = git("hash-object", "-t", "commit", "-w", "--stdin", at=poison.root, stdin=raw.encode())
    git("update-ref", "refs/heads/main", signed, at=poison.root)
    poison.set(gpg__program=str(poison.program), log__showSignature="true", commit__gpgSign="true")
    return "git log -1"


def lazy_fetch(poison: Poisoned) -> str:
    poison.set(core__repositoryformatversion="1", extensions__partialClone="origin")
    poison.set(remote__origin__url=str(poison.root), remote__origin__promisor="true")
    poison.set(remote__origin__uploadpack=str(poison.program), remote__origin__partialclonefilter="blob:none")
    return f"git cat-file -p {'1' * 40}"


def ssh(poison: Poisoned) -> str:
    poison.set(core__sshCommand=str(poison.program), remote__origin__url="ssh://localhost/x")
    return "git fetch"


def upload_pack(poison: Poisoned) -> str:
    poison.set(remote__origin__url=str(poison.root), remote__origin__uploadpack=str(poison.program))
    poison.set(remote__origin__receivepack=str(poison.program))
    return "git fetch; git push origin main"


def editor(poison: Poisoned) -> str:
    poison.set(core__editor=str(poison.program), sequence__editor=str(poison.program))
    return "git commit --allow-empty --amend; true"


POISONS = [
    *(fsmonitor, hooks, hooks_elsewhere, included, external_diff, diff_driver, textconv, signature, lazy_fetch, ssh),
    *(upload_pack, editor),
]


async def everything(tools: GitTools, poison: Poisoned) -> None:
    """Every tool once; any other error than one with a code is a failure."""
    calls: list[Callable[[], Awaitable[object]]] = [
        tools.git_status,
        tools.git_diff,
        lambda: tools.git_diff(staged=True),
        tools.git_log,
        tools.git_show,
        lambda: tools.git_show("1" * 40),
        lambda: tools.git_show("HEAD:a.txt"),
        lambda: tools.git_blame("a.txt"),
        *(lambda what=what: tools.git_list(what) for what in ("branches", "tags", "remotes", "stashes", "worktrees")),
        lambda: tools.git_add(["a.txt"]),
        lambda: tools.git_commit("x"),
        lambda: tools.git_stash("push"),
        lambda: tools.git_stash("pop"),
        lambda: tools.git_restore(["."]),
        lambda: tools.git_branch("create", "topic"),
        lambda: tools.git_switch("topic"),
        lambda: tools.git_commit("y", all=True, amend=True),
        lambda: tools.git_switch("main"),
        lambda: tools.git_merge("merge", "topic"),
        lambda: tools.git_merge("abort"),
        tools.git_fetch,
        tools.git_push,
        lambda: tools.git_worktree("add", "tree", "other"),
        lambda: tools.git_worktree("remove", "tree", force=True),
        lambda: tools.git_branch("delete", "topic", force=True),
    ]
    for call in calls:
        with contextlib.suppress(ToolError):
            await call()


async def fires(roots: Roots, poison: Poisoned, command: str) -> bool:
    """Whether plain git runs the program, in the box."""
    argv = ("/bin/sh", "-c", f"({command}) 2>&1")
    ran = await roots.git.run(argv, cwd=str(poison.root), seconds=6, stdin="", env={"GIT_CONFIG_GLOBAL": "/dev/null"})
    found = poison.canary.exists()
    assert found, ran.stdout.decode()
    poison.canary.unlink()
    return found


@pytest.mark.parametrize("poison_with", POISONS, ids=lambda function: function.__name__)
async def test_no_tool_runs_what_it_has_no_need_of(open_tmp, poison_with):
    poison = Poisoned(open_tmp)
    command = poison_with(poison)
    (poison.root / "a.txt").write_text("two\n")
    own(poison.root)
    async with open_roots(poison.root) as roots:
        assert await fires(roots, poison, command)
        own(poison.root)
        await everything(GitTools(roots), poison)
    assert not poison.canary.exists()
    assert not poison.outside.exists()


@pytest.mark.parametrize(
    ("settings", "attribute", "call"),
    [
        ({"filter__poison__clean": "{}"}, "filter=poison", lambda tools: tools.git_status()),
        ({"filter__poison__clean": "{}"}, "filter=poison", lambda tools: tools.git_diff()),
        ({"filter__poison__clean": "{}"}, "filter=poison", lambda tools: tools.git_add(["a.txt"])),
        ({"filter__poison__smudge": "{}"}, "filter=poison", lambda tools: tools.git_restore(["a.txt"])),
        ({"merge__poison__driver": "{}"}, "merge=poison", lambda tools: tools.git_merge("merge", "topic")),
    ],
    ids=["status-clean", "diff-clean", "add-clean", "restore-smudge", "merge-driver"],
)
async def test_filters_and_merge_drivers_run_inside_the_box(open_tmp, settings, attribute, call):
    poison = Poisoned(open_tmp)
    git("switch", "-q", "-c", "topic", at=poison.root)
    commit(poison.root, {"b.txt": "theirs\n"})
    git("switch", "-q", "main", at=poison.root)
    commit(poison.root, {"b.txt": "ours\n"})
    poison.attribute(attribute)
    poison.set(**{key: value.format(poison.program) for key, value in settings.items()})
    (poison.root / "a.txt").write_text("two\n")
    own(poison.root)
    async with open_roots(poison.root) as roots:
        await call(GitTools(roots))
    assert poison.canary.exists()
    assert not poison.outside.exists()


async def test_a_commit_says_that_hooks_did_not_run(open_tmp):
    poison = Poisoned(open_tmp)
    hooks(poison)
    (poison.root / "a.txt").write_text("two\n")
    own(poison.root)
    async with open_roots(poison.root) as roots:
        answer = await GitTools(roots).git_commit("x", all=True)
    assert answer.text.endswith("\n[hooks of this repository did not run]")
