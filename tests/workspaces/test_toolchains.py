"""What boxes see of a machine's toolchains, and what they do not see beside them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fakes.boxes import make_box, make_workspace
from nightcrew_workspaces.box import box_user
from nightcrew_workspaces.toolchains import CACHE, Toolchains, cache_environment, find_toolchains

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]


def program(path: Path, says: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho {says}\n")
    path.chmod(0o755)


@pytest.fixture
def home(open_tmp) -> Path:
    """An account's home with one toolchain of each kind, and secrets beside them."""
    program(open_tmp / ".rustup/toolchains/stable-x/bin/cargo", "cargo stable")
    program(open_tmp / ".rustup/toolchains/nightly-x/bin/cargo", "cargo nightly")
    (open_tmp / ".rustup/settings.toml").write_text('default_toolchain = "stable-x"\n')
    program(open_tmp / ".cargo/bin/cargo", "the proxy")
    (open_tmp / ".cargo/credentials.toml").write_text("hunter2")
    program(open_tmp / ".pyenv/versions/3.12.1/bin/python3", "pyenv's")
    (open_tmp / ".pyenv/version").write_text("3.12.1\n3.11.0\n")
    program(open_tmp / ".nvm/versions/node/v9.11.2/bin/node", "node 9")
    program(open_tmp / ".nvm/versions/node/v22.1.0/bin/node", "node 22")
    (open_tmp / ".npmrc").write_text("hunter2")
    program(open_tmp / "sdk/go1.22.3/bin/go", "go")
    program(open_tmp / ".sdkman/candidates/java/21/bin/java", "java")
    (open_tmp / ".sdkman/candidates/java/current").symlink_to("21")
    return open_tmp


def environ(home: Path, path: str = "/usr/bin") -> dict[str, str]:
    return {"HOME": str(home), "PATH": path}


def roots(found: Toolchains, home: Path) -> list[str]:
    return [str(each.root.relative_to(home)) for each in found.found if home in each.root.parents]


def test_the_default_and_the_newest_are_shown(home):
    found = find_toolchains(environ(home), box_user())
    assert roots(found, home) == [
        ".rustup/toolchains/stable-x",
        ".nvm/versions/node/v22.1.0",
        "sdk/go1.22.3",
        ".sdkman/candidates/java/21",
    ]
    assert found.path[0] == f"{home}/.rustup/toolchains/stable-x/bin"
    assert found.env["JAVA_HOME"] == f"{home}/.sdkman/candidates/java/21"
    assert found.missed == ()


def test_pyenv_is_shown_where_the_services_own_python_is_pyenvs(home):
    found = find_toolchains(environ(home, f"{home}/.pyenv/shims:/usr/bin"), box_user())
    assert ".pyenv/versions/3.12.1" in roots(found, home)


@pytest.mark.parametrize("name", ["../../.cargo", "..", "", "a/b"])
def test_a_version_that_is_no_name_shows_nothing(home, name):
    (home / ".rustup/settings.toml").write_text(f'default_toolchain = "{name}"\n')
    (home / ".pyenv/version").write_text(name)
    found = find_toolchains(environ(home, f"{home}/.pyenv/shims"), box_user())
    assert not [each for each in found.found if each.name in ("rust", "python")]


async def test_a_toolchain_runs_in_a_box_and_the_secrets_beside_it_are_not_there(home, open_tmp):
    found = find_toolchains(environ(home), box_user())
    box = make_box(make_workspace(open_tmp), read_only=found.read_only, path=found.path, env=found.env)
    result = await box.run(f"cargo; node; go; java; echo $JAVA_HOME; cat {home}/.cargo/credentials.toml {home}/.npmrc")
    assert result.output.splitlines()[:5] == ["cargo stable", "node 22", "go", "java", found.env["JAVA_HOME"]]
    assert "hunter2" not in result.output
    assert result.output.count("No such file") == 2
    result = await box.run(f"ls -A {home} {home}/.rustup; touch {home}/.rustup/toolchains/stable-x/bin/cargo")
    assert not {".cargo", ".npmrc", "settings.toml"} & set(result.output.split())
    assert f"touch: cannot touch '{home}" in result.output


@pytest.mark.skipif(os.geteuid() != 0, reason="boxes run as the same user, who reaches his own directories")
def test_a_toolchain_that_the_boxes_user_cannot_reach_is_named_with_what_is_in_the_way(home):
    (home / ".rustup").chmod(0o700)
    found = find_toolchains(environ(home), box_user())
    (missed,) = found.missed
    assert (missed.toolchain.name, missed.blocked) == ("rust", home / ".rustup")
    assert "/opt" in missed.remedy
    assert not [each for each in found.found if each.name == "rust"]


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user's part")
def test_a_service_that_may_not_enter_what_its_path_names_finds_no_toolchain_there_and_goes_on(home):
    home.chmod(0o700)
    user = box_user()
    variables = environ(home, f"{home}/.cargo/bin:{home}/.pyenv/shims") | {"JAVA_HOME": f"{home}/java"}
    os.seteuid(user.uid)
    try:
        found = find_toolchains(variables, user)
    finally:
        os.seteuid(0)
    assert roots(found, home) == []
    assert not [missed for missed in found.missed if home in missed.toolchain.root.parents]


def test_every_cache_is_the_tasks_own():
    for name, value in cache_environment().items():
        assert value.removeprefix("-Dmaven.repo.local=").startswith(f"{CACHE}/"), name
