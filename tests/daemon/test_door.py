"""What is asked of a task before it is let in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fakes.repos import make_repository
from nightcrew.config import Config
from nightcrew.errors import TaskFileError
from nightcrew.service.door import validate
from nightcrew_tools.contract import TaskRequest

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]


@pytest.fixture
def config(open_tmp: Path) -> Config:
    return Config(home=open_tmp / "home")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a repository that it cannot write as its owner")
async def test_a_source_that_cannot_take_the_result_is_refused_unless_only_a_patch_is_wanted(config, open_tmp):
    repository = make_repository(open_tmp / "repo")
    for path in (repository, *repository.rglob("*")):
        os.chown(path, 12345, 12345, follow_symlinks=False)
    request = TaskRequest(title="x", text="# x", repo=str(repository))
    await validate(config, request)
    heads = repository / ".git/refs/heads"
    heads.chmod(0o555)
    with pytest.raises(TaskFileError, match=f"since {heads} cannot be written: .* or say `deliver: patch`"):
        await validate(config, request)
    await validate(config, request.model_copy(update={"deliver": "patch"}))


async def test_a_repository_without_the_base_is_refused(config, open_tmp):
    repository = make_repository(open_tmp / "repo")
    with pytest.raises(TaskFileError, match=r"`repo`: .* has no branch, tag or commit 'nowhere'"):
        await validate(config, TaskRequest(title="x", text="# x", repo=str(repository), base="nowhere"))


async def test_built_in_crews_are_let_in_and_a_crew_file_that_is_wrong_is_not(config, open_tmp, monkeypatch):
    monkeypatch.setenv("NIGHTCREW_CONFIG", str(open_tmp / "config.toml"))
    task = TaskRequest(title="x", text="# x", repo=str(make_repository(open_tmp / "repo")), crew="trio")
    await validate(config, task)
    (open_tmp / "crews").mkdir()
    (open_tmp / "crews/trio.toml").write_text("about = 3")
    with pytest.raises(TaskFileError, match=r"(?s)`crew`: .*crews/trio\.toml:.*about: "):
        await validate(config, task)


async def test_a_crew_that_nobody_defined_is_refused(config, open_tmp):
    with pytest.raises(TaskFileError, match=r"no crew is called 'nobody'; there are: .*duo, embedded, .*trio"):
        await validate(config, TaskRequest(title="x", text="# x", repo=str(open_tmp), crew="nobody"))
