"""Which checks a repository is found to have."""

from __future__ import annotations

import pytest

from nightcrew.agent.checks import find_checks

ALL = frozenset({"pytest", "python3", "npm", "cargo", "go", "make"})


def commands(files: list[str], manifests: dict[str, str] | None = None, tools: frozenset[str] = ALL) -> list[str]:
    return [check.command for check in find_checks(files, manifests or {}, tools).checks]


@pytest.mark.parametrize("path", ["test_a.py", "tests/test_a.py", "pkg/a_test.py", "src/tests.py"])
def test_python_tests_are_run_by_pytest(path: str) -> None:
    assert commands([path, "a.py"]) == ["python3 -m pytest -q"]


def test_without_pytest_python_tests_are_run_by_unittest_where_they_lie() -> None:
    tools = frozenset({"python3"})
    assert commands(["test_a.py"], tools=tools) == ["python3 -m unittest discover"]
    assert commands(["tests/test_a.py", "tests/__init__.py"], tools=tools) == ["python3 -m unittest discover"]
    assert commands(["tests/test_a.py"], tools=tools) == ["PYTHONPATH=. python3 -m unittest discover -s tests"]


def test_a_file_that_is_merely_called_like_a_test_is_none() -> None:
    assert commands(["contest.py", "latest.py", "testing/a.txt"]) == []


def test_npm_test_is_run_when_the_package_has_one() -> None:
    assert commands([], {"package.json": '{"scripts": {"test": "node --test"}}'}) == ["npm test"]
    unwritten = '{"scripts": {"test": "echo \\"Error: no test specified\\" && exit 1"}}'
    assert commands([], {"package.json": unwritten}) == []
    assert commands([], {"package.json": "not json"}) == []
    assert commands([], {"package.json": "[]"}) == []


def test_cargo_and_go_are_known_by_their_manifests() -> None:
    assert commands([], {"Cargo.toml": "", "go.mod": ""}) == ["cargo test", "go test ./..."]


def test_make_test_is_run_only_where_no_test_runner_is_recognised() -> None:
    manifests = {"Makefile": "all:\n\ntest: all\n\t./run"}
    assert commands([], manifests) == ["make test"]
    assert commands(["test_a.py"], manifests) == ["python3 -m pytest -q"]
    assert commands([], {"Makefile": "latest:\n"}) == []


def test_a_suite_whose_tool_is_not_in_the_box_is_named() -> None:
    found = find_checks([], {"go.mod": ""}, frozenset())
    assert found.checks == ()
    assert found.missing == ("`go test ./...` looks right for this repository, but go is not in the box",)
