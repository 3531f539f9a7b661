"""Reads from a test runner's output which tests failed and how many passed.

Only what the common runners print at their end; an unknown output gives nothing, and the exit code decides alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PYTEST_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+?\[.*?\](?= - |$)|\S.*?)(?: - .*)?$", re.MULTILINE)
_PYTEST_END = re.compile(
    r"^=*\s?((?:\d+ (?:passed|failed|errors?|skipped|deselected|xfailed|xpassed|warnings?|rerun|subtests passed)"
    r"(?:, )?)+|no tests ran) in [\d.]+s",
    re.MULTILINE,
)
_UNITTEST_FAILED = re.compile(r"^(?:FAIL|ERROR): (\S+ \([\w.]+\)|\S+)", re.MULTILINE)
_UNITTEST_RAN = re.compile(r"^Ran (\d+) tests? in ", re.MULTILINE)
_UNITTEST_END = re.compile(r"^(?:OK|FAILED)(?: \((.*)\))?\s*$", re.MULTILINE)
_GO_FAILED = re.compile(r"^\s*--- FAIL: (\S+)", re.MULTILINE)
_CARGO_FAILED = re.compile(r"^test (\S+) \.\.\. FAILED", re.MULTILINE)
_CARGO_END = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed", re.MULTILINE)
_NODE_END = re.compile(r"^(?:#|ℹ) (pass|fail) (\d+)", re.MULTILINE)
_JEST_END = re.compile(r"^Tests:(?: +\d+ \w+,)* +(\d+) passed", re.MULTILINE)
_COUNT = re.compile(r"(\d+) (\w+)")


MAX_LINE = 2000
"""Characters."""


@dataclass(frozen=True)
class TestOutcome:
    """What a test run said of its tests."""

    __test__ = False

    failing: tuple[str, ...] = ()
    passed: int | None = None
    """None when the output does not tell."""


def read_outcome(output: str) -> TestOutcome:
    """The failing tests' ids, sorted, and the number of passing ones."""
    output = short_lines(output)
    for read in (_pytest, _unittest, _cargo, _node, _go):
        if (outcome := read(output)) is not None:
            return outcome
    return TestOutcome()


def short_lines(output: str) -> str:
    """Without the lines that no test runner prints: patterns over a line of 64 KiB take minutes."""
    return "\n".join(line for line in output.split("\n") if len(line) <= MAX_LINE)


def _pytest(output: str) -> TestOutcome | None:
    ends = list(_PYTEST_END.finditer(output))
    if not ends:
        return None
    counts = {word: int(number) for number, word in _COUNT.findall(ends[-1].group(1))}
    failing = sorted(set(_PYTEST_FAILED.findall(output)))
    return TestOutcome(tuple(failing), counts.get("passed", 0))


def _unittest(output: str) -> TestOutcome | None:
    ran, ends = list(_UNITTEST_RAN.finditer(output)), list(_UNITTEST_END.finditer(output))
    if not ran or not ends:
        return None
    bad = {word: int(number) for word, number in re.findall(r"(\w+)=(\d+)", ends[-1].group(1) or "")}
    passed = int(ran[-1].group(1)) - sum(bad.get(key, 0) for key in ("failures", "errors", "skipped"))
    return TestOutcome(tuple(sorted(set(_UNITTEST_FAILED.findall(output)))), max(0, passed))


def _cargo(output: str) -> TestOutcome | None:
    ends = list(_CARGO_END.finditer(output))
    if not ends:
        return None
    return TestOutcome(tuple(sorted(set(_CARGO_FAILED.findall(output)))), sum(int(end.group(1)) for end in ends))


def _node(output: str) -> TestOutcome | None:
    counts = {word: int(number) for word, number in _NODE_END.findall(output)}
    if "pass" in counts:
        return TestOutcome((), counts["pass"])
    ends = list(_JEST_END.finditer(output))
    return TestOutcome((), int(ends[-1].group(1))) if ends else None


def _go(output: str) -> TestOutcome | None:
    failing = sorted(set(_GO_FAILED.findall(output)))
    return TestOutcome(tuple(failing), None) if failing else None
