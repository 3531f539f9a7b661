"""Fixtures that every package's tests use."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def open_tmp() -> Iterator[Path]:
    """A fresh directory that an unprivileged user can enter, unlike pytest's own under a root-owned 0700 folder."""
    path = Path(tempfile.mkdtemp(prefix="nightcrew-test-", dir="/tmp"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
