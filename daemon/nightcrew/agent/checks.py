"""Which checks a repository has, and one run of them on a checkout."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nightcrew.agent.outcomes import read_outcome
from nightcrew.domain import Check, CheckResult
from nightcrew_workspaces.box import Box

_TEST_FILE = re.compile(r"(^|/)(test_[^/]*|[^/]*_test|tests?)\.py$")
_MAKE_TEST = re.compile(r"^test\s*:", re.MULTILINE)


@dataclass(frozen=True)
class Found:
    """The checks that a repository has, and what stands in the way of others."""

    checks: tuple[Check, ...]
    missing: tuple[str, ...] = ()
    """Sentences about test suites whose tool is not in the box."""


def find_checks(files: Sequence[str], manifests: dict[str, str], tools: frozenset[str]) -> Found:
    """Choose the checks by what is in the repository. Pure.

    `files` are the tracked paths, `manifests` the texts of the top-level build files, `tools` what can be run in a box
    (`pytest` stands for the importable module). `make test` is taken only where no test runner is recognised, since it
    would run the same tests again.
    """
    commands: list[str] = []
    missing: list[str] = []

    def offer(command: str, tool: str) -> None:
        if tool in tools:
            commands.append(command)
        else:
            missing.append(f"`{command}` looks right for this repository, but {tool} is not in the box")

    if _has_python_tests(files, manifests):
        if "pytest" in tools:
            commands.append("python3 -m pytest -q")
        else:
            offer(_unittest_command(files), "python3")
    if _npm_has_test(manifests.get("package.json", "")):
        offer("npm test", "npm")
    if "Cargo.toml" in manifests:
        offer("cargo test", "cargo")
    if "go.mod" in manifests:
        offer("go test ./...", "go")
    if not commands and _MAKE_TEST.search(manifests.get("Makefile", "")):
        offer("make test", "make")
    return Found(tuple(Check(command=command, source="repository") for command in commands), tuple(missing))


def _has_python_tests(files: Sequence[str], manifests: dict[str, str]) -> bool:
    if any(_TEST_FILE.search(path) for path in files):
        return True
    return "pytest.ini" in manifests or "[tool.pytest" in manifests.get("pyproject.toml", "")


def _unittest_command(files: Sequence[str]) -> str:
    """unittest's discovery finds a folder of tests only when it is named or is a package."""
    folder = next((name for name in ("tests", "test") if any(path.startswith(f"{name}/") for path in files)), None)
    at_top = any("/" not in path and _TEST_FILE.search(path) for path in files)
    if folder is None or at_top or f"{folder}/__init__.py" in files:
        return "python3 -m unittest discover"
    return f"PYTHONPATH=. python3 -m unittest discover -s {folder}"


def _npm_has_test(manifest: str) -> bool:
    try:
        script = json.loads(manifest)["scripts"]["test"]
    except (ValueError, KeyError, TypeError):
        return False
    return isinstance(script, str) and "no test specified" not in script


async def run_checks(
    box: Box,
    checks: Sequence[Check],
    *,
    setup: Sequence[str] = (),
    seconds: float,
    on_result: Callable[[CheckResult], None] | None = None,
) -> tuple[CheckResult, ...]:
    """Run the set-up, then every check, in one checkout. A set-up command that fails stands as a failed check."""
    failed = await set_up(box, setup, seconds=seconds)
    if failed is not None:
        return (failed,)
    results: list[CheckResult] = []
    for check in checks:
        results.append(await run_check(box, check, seconds=seconds))
        if on_result is not None:
            on_result(results[-1])
    return tuple(results)


async def set_up(box: Box, commands: Sequence[str], *, seconds: float) -> CheckResult | None:
    """Run the commands of a set-up one after the other: the one that failed, None when all went well."""
    for command in commands:
        result = await run_check(box, Check(command=command, source="task"), seconds=seconds)
        if not result.ok:
            return result
    return None


async def run_check(box: Box, check: Check, *, seconds: float) -> CheckResult:
    ran = await box.run(check.command, seconds=seconds)
    outcome = read_outcome(ran.output)
    return CheckResult(
        check=check,
        exit_code=ran.exit_code,
        ended=ran.ended,
        output=ran.output,
        seconds=round(ran.seconds, 3),
        failing=outcome.failing,
        passed_tests=outcome.passed,
        limit=ran.reached,
    )
