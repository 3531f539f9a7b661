"""A server of throwaway machines for each process of the test run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from security.attack import Half
from security.world import ENVIRONMENT


@dataclass(frozen=True)
class Result:
    """What came of one half of an attack."""

    fired: bool
    text: str


Machines = Callable[[str, Half], Result]


@pytest.fixture(scope="session")
def machines() -> Iterator[Machines]:
    """`machines(id, half)` runs one half of an attack in a machine of its own."""
    command = [sys.executable, "-m", "security.run"]
    tests = str(Path(__file__).parents[1])
    environment = {**ENVIRONMENT, "PYTHONPATH": tests, "PYTHONDONTWRITEBYTECODE": "1"}
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tests, env=environment, text=True
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:

        def run(attack: str, half: Half) -> Result:
            server.stdin.write(json.dumps({"id": attack, "half": half}) + "\n")
            server.stdin.flush()
            answer = json.loads(server.stdout.readline())
            assert "error" not in answer, answer["error"]
            return Result(answer["fired"], answer["text"])

        yield run
    finally:
        server.stdin.close()
        server.stdout.close()
        server.wait(10)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What could not be proven here is said, also where nobody asked for reasons of skipped tests."""
    for report in terminalreporter.getreports("skipped"):
        if "tests/security/" in report.nodeid and isinstance(report.longrepr, tuple):
            terminalreporter.write_line(
                f"{report.nodeid.rpartition('[')[2].rstrip(']')}: {report.longrepr[2]}", yellow=True
            )
    for report in terminalreporter.getreports("passed"):
        for what, figures in report.user_properties:
            if "tests/security/" in report.nodeid:
                terminalreporter.write_line(f"{what}: {figures}")
