"""What attacks do to what is believed of a result: the checks' verdict, and what is said to have changed."""

from __future__ import annotations

from dataclasses import dataclass

from nightcrew_workspaces.user import box_user
from nightcrew_workspaces.workspace import Workspaces
from security.deeds import run_plainly, still_works
from security.results import ROOT

_CHECK = "/usr/bin/python3 -B -m unittest -q test_sums; echo VERDICT $?"


@dataclass(frozen=True)
class Verdict:
    """The checks fail in this repository, and the script does not repair it. `check` prints `VERDICT` and a number.

    Without a box the checks run where the model worked.
    """

    script: str
    check: str = _CHECK

    def unboxed(self) -> str:
        run_plainly(["/bin/bash", "-c", self.script])
        return run_plainly(["/bin/bash", "-c", self.check])

    async def boxed(self) -> str:
        workspaces = Workspaces(ROOT, user=box_user(None))
        async with await workspaces.create("task", "/source") as workspace:
            await workspace.box.run(self.script)
            commit = await workspace.commit("The result")
            if commit is not None:
                await workspace.harvest(commit)
            async with workspace.clean_room(commit or workspace.base_commit) as room:
                said = (await room.run(self.check)).output
            await still_works(workspace.box)
        assert "VERDICT" in said, said
        return said


@dataclass(frozen=True)
class Hidden:
    """The script changes something, of which `needle` is a part, so that git does not show it; then says `HIDDEN`."""

    script: str
    needle: str = "evil"

    def unboxed(self) -> str:
        run_plainly(["/bin/bash", "-c", self.script])
        shown = run_plainly(["/bin/bash", "-c", "git add -A; git status; git diff HEAD"])
        return shown + ("" if self.needle in shown else "\nHIDDEN")

    async def boxed(self) -> str:
        workspaces = Workspaces(ROOT, user=box_user(None))
        async with await workspaces.create("task", "/source") as workspace:
            await workspace.box.run(self.script)
            shown = await workspace.diff()
            commit = await workspace.commit("The result")
            assert commit is not None
            patch = (await workspace.harvest(commit)).patch
            await still_works(workspace.box)
        both = self.needle in shown and self.needle in patch
        return shown + patch + ("" if both else "\nHIDDEN")
