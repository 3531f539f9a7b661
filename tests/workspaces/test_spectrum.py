"""The script that ranks suspicious lines, run as boxes run it: with whatever Python is there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from nightcrew_workspaces import spectrum

pytestmark = pytest.mark.timeout(50)

SCRIPT = Path(spectrum.__file__)
BUG = ["calc.py", 10, 1.0]


def pythons() -> list[str]:
    """This one, the system's, and newer ones (they are traced by another means), as far as they run."""
    names = [sys.executable, "/usr/bin/python3", "python3.9", "python3.12", "python3.13"]
    found = [path for path in map(shutil.which, names) if path is not None]
    return [path for path in found if run([path, "-c", ""]).returncode == 0]


def has_pytest(python: str) -> bool:
    return run([python, "-c", "import pytest"]).returncode == 0


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    (tmp_path / "repo").mkdir()
    return tmp_path / "repo"


def put(folder: Path, **files: str) -> None:
    """Write Python files; `calc_py` is `calc.py`."""
    for name, text in files.items():
        (folder / f"{name.removesuffix('_py')}.py").write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")


def run(command: list[object], **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], check=False, capture_output=True, text=True, **settings)


def trace(repo: Path, *arguments: str, python: str = sys.executable, runner: str = "unittest") -> dict[str, Any]:
    command = [python, str(SCRIPT), "--runner", runner, "--seconds", "30", *arguments]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON"))}
    done = run(command, cwd=repo, env=environ, timeout=45)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert set(report) == {"lines", "failing", "passed", "error"}
    return report


def ranked(report: dict[str, Any]) -> list[tuple[str, int]]:
    return [(path, line) for path, line, _ in report["lines"]]


CALC = '''
    """Sums."""

    RATE = 0.2


    def total(values):
        """Sum of all values."""
        result = 0
        for value in values:
            result -= value
        return result


    def largest(values):
        best = values[0]
        for value in values:
            if value > best:
                best = value
        return best


    def taxed(value, rate=RATE):
        return value * (1 + rate)
'''
TESTS = """
    import unittest
    from calc import largest, taxed, total


    class Tests(unittest.TestCase):
        def test_total(self):
            print("noise")
            self.assertEqual(total([1, 2]), 3)

        def test_total_of_nothing(self):
            self.assertEqual(total([]), 0)

        def test_largest(self):
            self.assertEqual(largest([1, 3, 2]), 3)

        def test_taxed(self):
            self.assertAlmostEqual(taxed(10), 12)
"""


@pytest.mark.parametrize("runner", ["unittest", "pytest"])
@pytest.mark.parametrize("python", pythons())
def test_the_line_that_only_the_failing_test_reaches_comes_first(repo: Path, python: str, runner: str):
    if runner == "pytest" and not has_pytest(python):
        pytest.skip("no pytest there")
    put(repo, calc_py=CALC, test_calc_py=TESTS)
    report = trace(repo, python=python, runner=runner)
    assert report["lines"][0] == BUG
    assert ranked(report)[1:4] == [("calc.py", 8), ("calc.py", 9), ("calc.py", 11)]
    assert report["lines"][1][2] == pytest.approx(0.7071, abs=1e-4)
    assert not {line for _, line in ranked(report)} & set(range(14, 24)), "only passing tests reach these"
    assert [name.rpartition(".")[2].rpartition(":")[2] for name in report["failing"]] == ["test_total"]
    assert (report["passed"], report["error"]) == (3, "")


def test_nothing_is_left_in_the_repository(repo: Path):
    put(repo, calc_py=CALC, test_calc_py=TESTS)
    for runner in ("unittest", "pytest"):
        trace(repo, runner=runner)
    assert {path.name for path in repo.rglob("*")} == {"calc.py", "test_calc.py"}


def test_the_result_goes_into_a_file(repo: Path, tmp_path: Path):
    put(repo, calc_py=CALC, test_calc_py=TESTS)
    out = tmp_path / "out.json"
    done = run([sys.executable, SCRIPT, "--out", out, "--runner", "unittest"], cwd=repo)
    assert (done.stdout, done.stderr) == ("", "")
    assert json.loads(out.read_text())["lines"][0] == BUG


def test_without_pytest_unittest_runs_the_tests(repo: Path, tmp_path: Path):
    put(repo, calc_py=CALC, test_calc_py=TESTS)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    report = trace(repo, "--", "-k", "something", python=str(tmp_path / "bare" / "bin" / "python"), runner="pytest")
    assert report["lines"][0] == BUG


def test_a_wrong_default_and_a_wrong_constant_are_suspicious(repo: Path):
    put(repo, calc_py=CALC.replace("-=", "+=").replace("0.2", "0.25"), test_calc_py=TESTS)
    report = trace(repo)
    scores = {line: score for _, line, score in report["lines"]}
    assert (scores.pop(23), scores.pop(22)) == (1.0, 0.6), "the body, then the signature with its default"
    assert set(scores) == {3}, "what runs at import is no reason to suspect other functions"
    assert 0 < scores[3] < 0.6


def test_a_constant_of_another_file_counts_for_the_tests_that_use_it(repo: Path):
    put(
        repo,
        conf_py="LIMIT = 3\nOTHER = 4\n",
        shop_py="""
            import conf

            def full(items):
                return len(items) >= conf.LIMIT

            def other():
                return conf.OTHER
        """,
        test_shop_py="""
            import unittest, shop

            class Tests(unittest.TestCase):
                def test_full(self):
                    self.assertFalse(shop.full([1, 2, 3]))
                def test_other(self):
                    self.assertEqual(shop.other(), 4)
        """,
    )
    scores = {(path, line): score for path, line, score in trace(repo)["lines"]}
    assert scores["shop.py", 4] == 1.0
    assert scores["conf.py", 1] == 0.6
    assert scores.get(("conf.py", 2), 0) < 0.3


@pytest.mark.parametrize("runner", ["unittest", "pytest"])
def test_the_line_that_raises_comes_before_its_equals(repo: Path, runner: str):
    put(
        repo,
        first_py="def first(values):\n    index = 1\n    found = values[index]\n    return found\n",
        test_first_py="""
            import unittest
            from first import first

            class Tests(unittest.TestCase):
                def test_first(self):
                    self.assertEqual(first([7]), 7)
                def test_first_of_two(self):
                    self.assertEqual(first([7, 7]), 7)
        """,
    )
    report = trace(repo, runner=runner)
    assert ranked(report)[0] == ("first.py", 3)
    assert ("first.py", 4) not in ranked(report)


@pytest.mark.parametrize("runner", ["unittest", "pytest"])
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("def f(:\n    return 1\n", 1),
        ("import math\n\nSIZE = math.flor(2)\n\n\ndef f():\n    return 1\n", 3),
        ("def make():\n    return undefined\n\n\nTHING = make()\n", 2),
    ],
)
def test_a_module_that_cannot_be_imported_names_the_line(repo: Path, runner: str, text: str, line: int):
    put(repo, good_py=CALC, test_good_py=TESTS.replace("calc", "good"))
    put(repo, broken_py=text, test_broken_py="import unittest, broken\n")
    report = trace(repo, runner=runner)
    assert ranked(report)[0] == ("broken.py", line)
    assert report["lines"][0][2] == 1.0
    assert ("good.py", 10) in ranked(report), "the other tests ran all the same"
    assert any("test_broken" in name for name in report["failing"])


def test_tests_in_folders_that_are_no_packages_are_found(repo: Path):
    for folder in ("shop", "tests/unit"):
        (repo / folder).mkdir(parents=True)
    put(repo / "shop", calc_py=CALC, __init___py="")
    put(repo / "tests/unit", test_calc_py=TESTS.replace("from calc", "from shop.calc"))
    assert trace(repo)["lines"][0] == ["shop/calc.py", 10, 1.0]


def test_arguments_choose_the_tests(repo: Path):
    put(repo, calc_py=CALC, test_calc_py=TESTS)
    report = trace(repo, "--", "test_calc.Tests.test_largest", runner="unittest")
    assert (report["passed"], report["failing"], report["lines"]) == (1, [], [])
    report = trace(repo, "--", "-k", "largest", runner="pytest")
    assert (report["passed"], report["failing"], report["lines"]) == (1, [], [])


@pytest.mark.parametrize("runner", ["unittest", "pytest"])
def test_a_test_that_hangs_counts_as_failing_and_the_others_run(repo: Path, runner: str, tmp_path: Path):
    quick = tmp_path / "quick.py"
    quick.write_text(SCRIPT.read_text().replace("TEST_SECONDS = 10.0", "TEST_SECONDS = 0.5"))
    put(
        repo,
        loop_py="""
            def down(n):
                while n != 0:
                    try:
                        n -= 2
                    except Exception:
                        pass
                return n
        """,
        test_loop_py="""
            import unittest
            from loop import down

            class Tests(unittest.TestCase):
                def test_odd(self):
                    self.assertEqual(down(3), 0)
                def test_zero(self):
                    self.assertEqual(down(0), 0)
        """,
    )
    done = run([sys.executable, quick, "--runner", runner], cwd=repo, timeout=40)
    report = json.loads(done.stdout)
    assert report["passed"] == 1 and len(report["failing"]) == 1
    assert ("loop.py", 4) in ranked(report)[:2]


@pytest.mark.parametrize("runner", ["unittest", "pytest"])
@pytest.mark.parametrize(
    ("ending", "words"),
    [
        ("os._exit(3)", "ended with code 3 and no result"),
        ("os.kill(os.getpid(), 9)", "ended with code -9"),
        ("sys.exit(5)", ""),
    ],
)
def test_whatever_the_tests_do_there_is_json(repo: Path, runner: str, ending: str, words: str):
    put(
        repo,
        test_end_py=f"""
            import os, sys, unittest

            class Tests(unittest.TestCase):
                def test_end(self):
                    {ending}
        """,
    )
    report = trace(repo, runner=runner)
    assert report["lines"] == []
    assert words in report["error"]


def test_a_process_that_cannot_be_stopped_is_killed(repo: Path):
    put(
        repo,
        test_deaf_py="import signal, time, unittest\nclass Tests(unittest.TestCase):\n    def test_deaf(self):\n"
        "        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})\n        time.sleep(600)\n",
    )
    script = repo.parent / "quick.py"
    script.write_text(SCRIPT.read_text().replace("GRACE_SECONDS = 5.0", "GRACE_SECONDS = 0.5"))
    command = [sys.executable, script, "--runner", "unittest", "--seconds", "1"]
    report = json.loads(run(command, cwd=repo, timeout=20).stdout)
    assert report["error"] == "the tests could not be stopped after 1 s"


def test_a_repository_without_tests_says_so(repo: Path):
    put(repo, calc_py=CALC)
    for runner in ("unittest", "pytest"):
        assert trace(repo, runner=runner) == {"lines": [], "failing": [], "passed": 0, "error": "no test was found"}


def test_options_of_the_project_that_need_a_missing_plugin_are_left_out(repo: Path):
    put(repo, calc_py=CALC, test_calc_py=TESTS)
    (repo / "pytest.ini").write_text("[pytest]\naddopts = -n auto --no-such-option\n")
    assert trace(repo, runner="pytest")["lines"][0] == BUG


def test_code_of_others_in_the_repository_is_not_suspicious(repo: Path):
    put(repo, calc_py="from vendored import double\n\n\ndef twice(value):\n    return double(value)\n")
    put(
        repo,
        test_calc_py="""
            import sys, unittest
            sys.path.insert(0, ".venv/lib/site-packages")
            from calc import twice

            class Tests(unittest.TestCase):
                def test_twice(self):
                    self.assertEqual(twice(2), 5)
        """,
    )
    (repo / ".venv/lib/site-packages").mkdir(parents=True)
    (repo / ".venv/lib/site-packages/vendored.py").write_text("def double(value):\n    return 2 * value\n")
    assert {path for path, _ in ranked(trace(repo))} == {"calc.py"}


def test_lines_that_run_in_threads_are_seen(repo: Path):
    put(repo, work_py="def work(out):\n    out.append(1)\n")
    put(
        repo,
        test_work_py="""
            import threading, unittest
            from work import work

            class Tests(unittest.TestCase):
                def test_work(self):
                    out = []
                    thread = threading.Thread(target=work, args=(out,))
                    thread.start()
                    thread.join()
                    self.assertEqual(out, [2])
        """,
    )
    assert trace(repo)["lines"][0] == ["work.py", 2, 1.0]


def test_a_result_has_a_limit(repo: Path):
    body = "".join(f"    values.append({number})\n" for number in range(3000))
    put(repo, long_py=f"def fill(values):\n{body}    return values\n")
    put(
        repo,
        test_long_py="""
            import unittest, long

            class Tests(unittest.TestCase):
                def test_fill(self):
                    self.assertEqual(long.fill([]), 1)
        """,
    )
    report = trace(repo)
    assert len(report["lines"]) == spectrum.MAX_LINES
    assert len(json.dumps(report)) < 32_000
