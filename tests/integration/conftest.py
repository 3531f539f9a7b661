"""Where the real SGLang is: `make integration-sglang` makes it and says so by NIGHTCREW_SGLANG."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def sglang_home() -> Path:
    """The folder that scripts/sglang-cpu made."""
    named = os.environ.get("NIGHTCREW_SGLANG")
    if not named:
        pytest.skip("NOT CHECKED: needs a real SGLang (3.2 GB); run `make integration-sglang`")
    home = Path(named).absolute()
    assert (home / "installed").exists(), f"{home} is not what scripts/sglang-cpu makes"
    return home


@pytest.fixture(scope="session")
def sglang_python(sglang_home: Path) -> Path:
    return sglang_home / "venv" / "bin" / "python"
