"""The demo's repositories: a real bug each, and tests that show it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from fakes.repos import git
from nightcrew.demo import Case, list_cases, make_repository
from nightcrew.intake.taskfile import parse

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]

CASES = list_cases()


def unittest_in(repository: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-B", "-m", "unittest"]
    return subprocess.run(command, cwd=repository, check=False, capture_output=True, text=True)


def test_there_is_a_handful_of_cases_of_different_kinds():
    assert len(CASES) >= 6
    assert len({case.name for case in CASES}) == len({case.about for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_case_is_a_clean_repository_whose_tests_fail(case: Case, tmp_path: Path):
    repository = tmp_path / case.name
    await make_repository(case, repository)
    assert git(repository, "status", "--porcelain") == ""
    assert git(repository, "log", "--format=%an %s", "main").count("\n") == 0
    ran = unittest_in(repository)
    assert ran.returncode != 0 and "FAILED (failures=" in ran.stderr, "the tests run, and some of them fail"
    assert "errors=" not in ran.stderr


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_is_a_short_module_with_words_and_its_tests(case: Case):
    module, tests = sorted((case.folder / "repository").glob("*.py"), key=lambda path: path.name.startswith("test_"))
    assert tests.name == f"test_{module.name}"
    tree = ast.parse(module.read_text())
    assert 10 <= len(module.read_text().splitlines()) <= 40
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name != "__init__"]
    assert len(functions) >= 2 and all(ast.get_docstring(function) for function in functions)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_its_task_file_can_be_read(case: Case, tmp_path: Path):
    request = parse(case.task_file(tmp_path).encode(), name=case.name)
    assert request.repo == str(tmp_path)
    assert "{" not in request.text


async def test_the_same_case_makes_the_same_commit(tmp_path: Path):
    heads = set()
    for name in ("one", "two"):
        await make_repository(CASES[0], tmp_path / name)
        heads.add(git(tmp_path / name, "rev-parse", "HEAD"))
    assert len(heads) == 1
