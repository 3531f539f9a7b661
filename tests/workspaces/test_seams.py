"""What a model wrote or started, and the boxes that must know nothing of it."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from fakes.repositories import make
from nightcrew_workspaces.box import Box
from nightcrew_workspaces.egress_mount import EgressMount
from nightcrew_workspaces.user import box_user
from nightcrew_workspaces.workspace import Workspace, Workspaces

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

POISON = """
echo poison > ~/.gitconfig; mkdir -p ~/.config/pip && echo poison > ~/.config/pip/pip.conf
mkdir -p /cache/cargo && echo poison > /cache/cargo/config.toml
echo poison > ignored.txt; echo hidden.txt >> .git/info/exclude; echo 1 > hidden.txt
git config core.hooksPath /workspace/hooks; git config alias.poison status; git config filter.f.smudge 'echo poison'
printf '#!/bin/sh\\necho poison > /workspace/hooked\\n' > .git/hooks/post-checkout; chmod +x .git/hooks/post-checkout
mkdir -p .git/modules/sub && echo poison > .git/modules/sub/config
git tag poison; git replace --graft HEAD; git update-ref refs/heads/poison HEAD
echo '* filter=f' > .git/info/attributes
echo done > calc.txt
"""
SERVER = "import http.server as h; h.HTTPServer(('127.0.0.1', 8000), h.BaseHTTPRequestHandler).serve_forever()"
CONNECT = "python3 -c \"import socket; socket.create_connection(('127.0.0.1', 8000), 10)\""


@pytest.fixture
async def work(open_tmp: Path) -> AsyncGenerator[Workspace]:
    source = make(open_tmp / "source", {"calc.txt": "1\n", ".gitignore": "ignored.txt\n"})
    workspaces = Workspaces(open_tmp / "root", user=box_user())
    async with await workspaces.create("t1", str(source)) as workspace:
        yield workspace


async def sh(box: Box, script: str) -> str:
    result = await box.run(script)
    assert result.exit_code == 0, result.output
    return result.output


async def test_nothing_that_a_model_wrote_beside_its_commit_is_in_a_clean_room(work):
    async with work.preparing() as box:
        await sh(box, "echo set-up > made; echo set-up > ~/made")
    await sh(work.box, POISON)
    everywhere = "grep -rl poison /workspace /cache ~ | sort"
    found = await sh(work.box, everywhere)
    for place in ("/workspace/.git/config", "/workspace/ignored.txt", "/cache/cargo/config.toml", ".gitconfig"):
        assert place in found
    commit = await work.commit("Poison")
    assert commit is not None
    harvest = await work.harvest(commit)
    async with work.clean_room(harvest.commit, home=True) as room:
        assert await sh(room, everywhere) == ""
        found = await sh(room, "cat calc.txt; ls -A; ls -A ~; ls -A /cache")
        assert found.split() == ["done", ".git", ".gitignore", "calc.txt", "hidden.txt"]  # hidden from git, not from us
        assert (await sh(room, "git for-each-ref --format='%(refname)'; git status --short")).split() == [
            "refs/heads/work"
        ]


async def test_only_commands_see_the_way_out_and_no_helper_does(work, open_tmp):
    with socket.socket(socket.AF_UNIX) as proxy:
        proxy.bind(str(open_tmp / "egress"))
        proxy.listen()
        await work.files.start()
        await work.use(work.box.with_network(EgressMount(open_tmp / "egress")))
        look = "ls -A /run; env | grep -i proxy | wc -l"
        assert (await sh(work.box, look)).startswith("egress\n")
        asked = await work.git.run(["/bin/sh", "-c", look], cwd="/workspace", seconds=20.0)
        assert asked.stdout == b"0\n"
        for box in (work.files._box, work._git_box, work.box.with_network(None)):
            assert (await sh(box, look)) == "0\n"
        async with work.clean_room(work.base_commit) as room:
            assert (await sh(room, look)) == "0\n"


async def test_a_server_of_the_models_is_reached_by_its_commands_and_by_no_check_and_no_helper(work):
    handle = await work.background.start(["/usr/bin/python3", "-c", f"print('up', flush=True); {SERVER}"])
    assert (await work.background.read(handle, seconds=30, until="up")).output.startswith("up")
    await sh(work.box, f"until {CONNECT} 2>/dev/null; do :; done")
    async with work.clean_room(work.base_commit) as room:
        for box in (room, work.box.with_network(None)):
            assert "ConnectionRefusedError" in (await box.run(CONNECT)).output
    asked = await work.git.run(["/bin/sh", "-c", CONNECT], cwd="/workspace", seconds=20.0)
    assert "ConnectionRefusedError" in asked.stderr
    for box in (work.files._box, work._git_box):  # as the helpers and our own git are started
        assert "ConnectionRefusedError" in (await box.capture(["/bin/sh", "-c", CONNECT])).stderr


async def test_the_network_that_commands_share_ends_when_their_box_is_exchanged(work):
    await work.background.start(["/usr/bin/python3", "-c", SERVER])
    before = work.box
    assert before.loopback is not None
    holder = before.loopback.pid
    await work.use(before.with_network(None))
    assert (before.loopback, work.box.loopback) == (None, None)
    assert not Path(f"/proc/{holder}").exists()
