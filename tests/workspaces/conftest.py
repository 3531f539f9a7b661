"""A workspace of the boxes' own user and the file helper in a box over it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fakes.boxes import make_box, make_workspace
from nightcrew_workspaces.files import Files


@pytest.fixture
def workspace(open_tmp: Path) -> Path:
    return make_workspace(open_tmp)


@pytest.fixture
async def helper(workspace: Path) -> AsyncIterator[Files]:
    opened = Files(make_box(workspace))
    yield opened
    await opened.aclose()
