"""Who goes on with a workspace is alone in it, and boxes go before the service when memory runs out."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from fakes.boxes import eventually, make_box, make_workspace, running, soon
from nightcrew_workspaces.eviction import evict

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


async def test_what_an_earlier_run_left_in_a_workspace_is_killed_and_nothing_else(open_tmp: Path) -> None:
    folders = [open_tmp / "one task", open_tmp / "another"]
    for folder in folders:
        folder.mkdir(mode=0o755)
    boxes = [make_box(make_workspace(folder)) for folder in folders]
    ended: list[str] = []

    async def run(name: str, number: int) -> None:
        await boxes[number].run(f"touch began; sleep 19.{number}7531")
        ended.append(name)

    async with anyio.create_task_group() as group:
        group.start_soon(run, "one", 0)
        group.start_soon(run, "another", 1)
        await soon(lambda: all((folder / "workspace/began").exists() for folder in folders))
        assert await evict(folders[0]) > 0
        await soon(lambda: ended == ["one"])
        assert running("19.17531")
        assert await evict(open_tmp / "nothing") == 0
        group.cancel_scope.cancel()
    eventually(lambda: not running("19.17531"))


async def test_boxes_are_first_to_go_when_memory_runs_out(open_tmp: Path) -> None:
    box = make_box(make_workspace(open_tmp))
    inside = await box.run("cat /proc/self/oom_score_adj; (sh -c 'cat /proc/self/oom_score_adj')")
    own = int(Path("/proc/self/oom_score_adj").read_text())
    scores = [int(line) for line in inside.output.split()]
    assert len(scores) == 2
    assert all(score > own for score in scores), (scores, own)
