"""The console entry, run in the test's own process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from nightcrew.cli.main import main

Command = Callable[..., SimpleNamespace]


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path) -> Command:
    """A function that runs `nightcrew ARGUMENTS` over this home, and returns `code`, `out` and `err`."""
    monkeypatch.setenv("NIGHTCREW_HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home.parent / "config"))
    for name in ("NIGHTCREW_CONFIG", "NIGHTCREW_DEBUG"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["nightcrew", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code or 0, out=captured.out, err=captured.err)

    return run
