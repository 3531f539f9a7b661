from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from nightcrew_workspaces.errors import FileError, RootRefused
from nightcrew_workspaces.policy import BoxPolicy, Mount
from nightcrew_workspaces.roots import Identity, Roots, check_roots, roots_policy, user_of_roots
from nightcrew_workspaces.user import box_user

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

GIT = ["git", "-c", "user.name=Ann", "-c", "user.email=ann@example.org", "-c", "safe.directory=*"]


def give(path: Path) -> Path:
    """To the account that boxes run as."""
    user = box_user(None)
    for each in (path, *path.rglob("*")):
        os.chown(each, user.uid, user.gid, follow_symlinks=False)
    return path


@pytest.fixture
def shop(open_tmp) -> Path:
    """A project with a repository that has one commit."""
    root = open_tmp / "shop"
    root.mkdir()
    (root / "prices.py").write_text("total = 1\n")
    subprocess.run(["git", "init", "-q", "-b", "main", root], check=True)
    subprocess.run([*GIT, "-C", root, "add", "-A"], check=True)
    subprocess.run([*GIT, "-C", root, "commit", "-q", "-m", "First"], check=True)
    return give(root)


@pytest.fixture
def notes(open_tmp) -> Path:
    root = open_tmp / "notes"
    root.mkdir()
    (root / "todo.md").write_text("- buy milk\n")
    return give(root)


def over(*paths: Path, read_only: bool = False, identity: Identity | None = None) -> Roots:
    roots = check_roots(paths)
    template = BoxPolicy(user=user_of_roots(roots, read_only=read_only), mounts=())
    return Roots(roots, roots_policy(template, roots, read_only=read_only, identity=identity))


async def test_files_are_read_and_written_where_they_are(shop):
    async with over(shop) as roots:
        assert (await roots.files.read(f"{shop}/prices.py")).text == "total = 1\n"
        await roots.files.write("new.py", "x = 1\n")
        done = await roots.box.run("pwd; cat new.py")
    assert (shop / "new.py").read_text() == "x = 1\n"
    assert (shop / "new.py").stat().st_uid == box_user(None).uid
    assert done.output == f"{shop}\nx = 1\n"


async def test_every_root_is_there_under_its_own_path_and_nothing_beside(shop, notes):
    (shop.parent / "secret").write_text("secret")
    async with over(shop, notes) as roots:
        assert (await roots.files.read(f"{notes}/todo.md")).text == "- buy milk\n"
        done = await roots.box.run(f"ls {shop.parent}; cat {shop.parent}/secret")
        with pytest.raises(FileError) as refused:
            await roots.files.read(f"{shop.parent}/secret")
    assert "notes\nshop" in done.output
    assert "No such file" in done.output
    assert refused.value.code == "outside"


async def test_read_only_roots_are_read_only_for_commands_too(shop):
    async with over(shop, read_only=True) as roots:
        assert (await roots.files.read("prices.py")).text == "total = 1\n"
        with pytest.raises(FileError):
            await roots.files.write("new.py", "x")
        assert "Read-only" in (await roots.box.run("echo x > prices.py")).output
        ran = await roots.git.run(["/usr/bin/git", "update-ref", "refs/heads/x", "HEAD"], cwd=str(shop), seconds=30)
    assert ran.exit_code != 0
    assert (shop / "prices.py").read_text() == "total = 1\n"


ESCAPES = {
    "a setting that runs a program": "git config core.fsmonitor 'touch {canary}'",
    "a setting by hand": "printf '[core]\\n\\tfsmonitor = touch {canary}; false\\n' >> .git/config",
    "a hook": "mkdir -p .git/hooks; printf '#!/bin/sh\\ntouch {canary}\\n' > .git/hooks/post-index-change; "
    "chmod +x .git/hooks/post-index-change",
    "another repository in its place": "mv .git .old; cp -r .old .git; git config core.fsmonitor 'touch {canary}'",
    "it removed and made anew": "rm -rf .git; git init -q; git config core.fsmonitor 'touch {canary}'",
    "a directory that it says is the common one": "cp -r .git evil; "
    "git --git-dir=evil config core.fsmonitor 'touch {canary}'; echo ../evil > .git/commondir",
}


@pytest.mark.parametrize("script", ESCAPES.values(), ids=ESCAPES)
async def test_a_command_cannot_make_the_persons_own_git_run_anything(shop, open_tmp, script):
    canary = open_tmp / "canary"
    async with over(shop) as roots:
        await roots.box.run(script.format(canary=canary))
    subprocess.run([*GIT, "-C", shop, "status"], check=True, capture_output=True)
    assert not canary.exists()


@pytest.mark.parametrize("script", ESCAPES.values(), ids=ESCAPES)
def test_the_same_outside_of_a_box_does_make_it(shop, open_tmp, script):
    canary = open_tmp / "canary"
    trusting = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
    command = ["/bin/bash", "-c", script.format(canary=canary)]
    subprocess.run(command, cwd=shop, env={**os.environ, **trusting}, capture_output=True, check=False)
    subprocess.run([*GIT, "-C", shop, "status"], capture_output=True, check=False)
    assert canary.exists()


async def test_git_works_in_its_own_box_and_cannot_change_what_git_obeys(shop):
    async with over(shop, identity=Identity('Bo "B" Berg', "bo@example.org")) as roots:

        async def git(*arguments: str):
            return await roots.git.run(["/usr/bin/git", *arguments], cwd=str(shop), seconds=30)

        await roots.files.write("new.py", "x = 1\n")
        assert (await git("add", "new.py")).ok
        assert (await git("commit", "-q", "-m", "Second")).ok
        assert (await git("log", "-1", "--format=%an <%ae>")).stdout == b'Bo "B" Berg <bo@example.org>\n'
        assert not (await git("config", "core.fsmonitor", "true")).ok
    logged = subprocess.run([*GIT, "-C", shop, "log", "--format=%s"], check=True, capture_output=True)
    assert logged.stdout == b"Second\nFirst\n"


async def test_the_repositorys_own_name_for_its_author_comes_first(shop):
    subprocess.run(["git", "config", "-f", shop / ".git/config", "user.name", "Local"], check=True)
    async with over(shop, identity=Identity("Bo", "bo@example.org")) as roots:
        ran = await roots.git.run(["/usr/bin/git", "config", "user.name"], cwd=str(shop), seconds=30)
    assert ran.stdout == b"Local\n"


@pytest.mark.parametrize("path", ["/", "/root", str(Path.home())])
def test_what_programs_outside_obey_is_no_root(path):
    with pytest.raises(RootRefused, match="obey files"):
        check_roots([Path(path)])


def test_a_directory_that_looks_like_a_home_is_no_root(open_tmp):
    (open_tmp / ".ssh").mkdir()
    (open_tmp / ".bashrc").write_text("")
    with pytest.raises(RootRefused, match="obey files"):
        check_roots([open_tmp])


@pytest.mark.parametrize("path", ["/usr", "/etc/ssl", "/proc", "/dev/shm"])
def test_the_systems_own_directories_are_no_roots(path):
    with pytest.raises(RootRefused):
        over(Path(path), read_only=True)


def test_roots_are_named_once_and_not_inside_each_other(shop):
    (shop / "sub").mkdir()
    for paths in ([shop, shop], [shop, shop / "sub"], [shop / "sub", shop]):
        with pytest.raises(RootRefused, match="inside the other"):
            check_roots(paths)
    with pytest.raises(RootRefused, match="--root"):
        check_roots([])


def test_a_root_is_a_directory_that_is_there(shop):
    with pytest.raises(RootRefused, match="no such directory"):
        check_roots([shop / "none"])
    with pytest.raises(RootRefused, match="not a directory"):
        check_roots([shop / "prices.py"])


def test_a_link_counts_as_what_it_points_to(shop, open_tmp):
    (open_tmp / "link").symlink_to(shop)
    assert check_roots([open_tmp / "link"]) == (shop,)
    (open_tmp / "top").symlink_to("/")
    with pytest.raises(RootRefused):
        check_roots([open_tmp / "top"])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes to another account")
def test_roots_of_root_are_looked_at_and_never_written_to(open_tmp):
    with pytest.raises(RootRefused, match="belongs to root"):
        user_of_roots([open_tmp], read_only=False)
    assert user_of_roots([open_tmp], read_only=True).uid != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes to another account")
def test_a_box_runs_as_the_one_account_that_owns_the_roots(shop, notes):
    assert user_of_roots([shop, notes], read_only=False).uid == box_user(None).uid
    os.chown(notes, 12345, 12345)
    assert user_of_roots([notes], read_only=False).uid == 12345
    with pytest.raises(RootRefused, match="different accounts"):
        user_of_roots([shop, notes], read_only=False)


def test_a_root_that_the_account_cannot_reach_is_said_so(shop):
    shop.parent.chmod(0o700)
    try:
        roots = check_roots([shop])
        template = BoxPolicy(user=box_user(None), mounts=())
        if os.geteuid() == 0:
            with pytest.raises(RootRefused, match=r"chmod o\+x"):
                roots_policy(template, roots, read_only=True)
    finally:
        shop.parent.chmod(0o755)


def test_a_repository_behind_a_link_is_refused(shop, open_tmp):
    shutil.move(shop / ".git", open_tmp / "elsewhere")
    (shop / ".git").symlink_to(open_tmp / "elsewhere")
    with pytest.raises(RootRefused, match="symbolic link"):
        over(shop)


def test_the_policy_is_data(shop):
    user = box_user(None)
    commands, git = roots_policy(BoxPolicy(user=user, mounts=()), [shop], read_only=False)
    dot = shop / ".git"
    assert commands.mounts == (Mount(shop, str(shop), writable=True), Mount(dot, str(dot)))
    assert git.mounts == (
        Mount(shop, str(shop), writable=True),
        Mount(dot, str(dot), writable=True),
        Mount(dot / "config", str(dot / "config")),
        Mount(dot / "hooks", str(dot / "hooks")),
    )
    assert commands.chdir == str(shop)
