"""Which lines of a repository are most likely wrong: spectrum-based fault localisation over its failing tests.

Lines are ranked by Ochiai, ef / sqrt((ef + nf) * (ef + ep)), over the coverage of failing and passing tests (Abreu et
al., 2007). Where tests cannot be traced, lines named in the failing output come first, then the files as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from nightcrew.agent.outcomes import short_lines
from nightcrew.domain import CheckResult
from nightcrew_workspaces.box import Box

_SCRIPT = "/opt/nightcrew/spectrum.py"
_SOURCE = re.compile(r"\.(py|js|mjs|ts|tsx|jsx|go|rs|java|c|cc|cpp|h|hpp|rb|php|sh|lua|kt|cs|scala|swift)$")
_TEST = re.compile(r"(^|/)(tests?|spec|__tests__)/|(^|/)(test_[^/]*|conftest|[^/]*_test|[^/]*\.(test|spec))\.\w+$")
_NAMED = re.compile(r"([\w./-]+\.\w+)(?:\", line |:)(\d+)")


@dataclass(frozen=True)
class Suspect:
    """A line that may be wrong."""

    path: str
    line: int
    """From 1."""
    score: float
    """Ochiai, 0 to 1."""


def source_files(files: Iterable[str]) -> list[str]:
    """The code that is not tests. Pure."""
    return sorted(path for path in files if _SOURCE.search(path) and not _TEST.search(path))


def is_test(path: str) -> bool:
    """Whether a path is a test's. Pure."""
    return _TEST.search(path) is not None


async def find_suspects(box: Box, files: Sequence[str], failing: Sequence[CheckResult]) -> list[Suspect]:
    """Lines to look at, most suspicious first. `failing` are the checks that fail in this checkout."""
    sources = set(source_files(files))
    if any(path.endswith(".py") for path in sources) and failing:
        runner = "pytest" if any("pytest" in result.check.command for result in failing) else "unittest"
        ran = await box.run(["python3", _SCRIPT, "--runner", runner, "--seconds", "60"], seconds=90)
        traced = read_spectrum(ran.output, sources)
        if traced:
            return traced
    return named_lines((result.output for result in failing), sources)


def read_spectrum(output: str, sources: set[str]) -> list[Suspect]:
    """The suspects out of the tracer's JSON; empty when it could not trace."""
    try:
        body: Any = json.loads(output[output.index("{") :])
        lines = body["lines"]
        suspects = [Suspect(str(path), int(line), float(score)) for path, line, score in lines]
    except (ValueError, KeyError, TypeError):
        return []
    return [suspect for suspect in suspects if suspect.path in sources and suspect.score > 0]


def named_lines(outputs: Iterable[str], sources: set[str]) -> list[Suspect]:
    """Source lines that failing output names, as tracebacks and compilers do; the last named is the innermost."""
    found: dict[tuple[str, int], float] = {}
    for output in outputs:
        named = [
            (path.removeprefix("/workspace/").removeprefix("./"), int(line))
            for path, line in _NAMED.findall(short_lines(output))
        ]
        for position, key in enumerate(named, 1):
            if key[0] in sources:
                found[key] = max(found.get(key, 0.0), position / len(named))
    ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return [Suspect(path, line, score) for (path, line), score in ranked]
