"""Which lines of a Python repository are most likely wrong: runs inside a box, with the standard library alone.

    python3 spectrum.py [--out FILE] [--runner pytest|unittest] [--seconds 60] [-- ARGUMENTS OF THE RUNNER]

Runs the tests of the current directory once, notes which lines each of them reaches, and prints one JSON object:
`{"lines": [[path, line, score], …], "failing": [test, …], "passed": n, "error": ""}`, most suspicious lines first. The
score is Ochiai's, ef / sqrt((ef + nf) * (ef + ep)), the field's standard (Abreu et al., 2007), of failing and passing
tests that reach the line. Statements that run at import reach every test and would drown the others, so they count for
the tests that use what they define, and for less. It always prints JSON: the tests run in a child process, which is
stopped when the time is over.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import importlib.util
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import unittest
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Callable, Iterator, NamedTuple  # noqa: UP035 - boxes have old Pythons

MAX_LINES = 400
MAX_FAILING = 50
TEST_SECONDS = 10.0
"""A test that takes longer hangs, and counts as failing."""
GRACE_SECONDS = 5.0
INNERMOST_BONUS = 0.001
"""Breaks ties in favour of the line where the exception came from."""
SIGNATURE, SIGNATURE_WITH_DEFAULTS, CONSTANT, STATEMENT, IMPORT = 0.2, 0.6, 0.6, 0.3, 0.1
"""What Ochiai's score is multiplied with for lines that run at import."""

_FRAME = re.compile(r'File "([^"\n]+)", line (\d+)')
_TEST = re.compile(r"(^|/)(tests?|__tests__)/|(^|/)(test_[^/]*|conftest|tests|[^/]*_test)\.py$")
_FOREIGN = re.compile(r"(^|/)(site-packages|dist-packages|node_modules|\.[^/]+|venv|env)/")
_CO_OPTIMIZED = 0x1  # set for functions, not for modules and class bodies

Line = tuple[str, int]
ROOT = Path.cwd().resolve()
"""The repository; tests may change the current directory later."""


class TooLong(BaseException):
    """A test hangs. Not an `Exception`, so that the code under test does not swallow it."""


@functools.cache
def source_path(filename: str) -> str | None:
    """The path in the repository of a file that may be repaired, None for tests and for other people's code."""
    if not filename.endswith(".py"):
        return None
    file = (ROOT / filename).resolve()
    if not file.is_relative_to(ROOT) or not file.is_file():
        return None
    path = file.relative_to(ROOT).as_posix()
    return None if _FOREIGN.search(path) or _TEST.search(path) else path


class Run(NamedTuple):
    """What one test reached, and how it ended: `passed` is None for a skipped one."""

    name: str
    hits: dict[CodeType, set[int]]
    passed: bool | None


class Tracer:
    """Notes the lines that run between `begin` and `end`."""

    def __init__(self) -> None:
        self.hits: dict[CodeType, set[int]] = {}
        self._events: Any = getattr(sys, "monitoring", None)
        self._tool = 4
        if self._events is not None:
            try:
                self._events.use_tool_id(self._tool, "nightcrew")
                self._events.register_callback(self._tool, self._events.events.LINE, self._on_event)
            except ValueError:  # somebody has it already
                self._events = None

    def begin(self) -> None:
        self.hits = {}
        if self._events is not None:
            self._events.restart_events()
            self._events.set_events(self._tool, self._events.events.LINE)
        else:
            threading.settrace(self._on_call)
            sys.settrace(self._on_call)

    def end(self) -> dict[CodeType, set[int]]:
        if self._events is not None:
            self._events.set_events(self._tool, 0)
        else:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]
        return self.hits

    def _on_event(self, code: CodeType, line: int) -> Any:
        if code.co_flags & _CO_OPTIMIZED and source_path(code.co_filename) is not None:
            self.hits.setdefault(code, set()).add(line)
        return self._events.DISABLE

    def _on_call(self, frame: FrameType, event: str, arg: object) -> Callable[..., Any] | None:  # noqa: ARG002
        code = frame.f_code
        if not code.co_flags & _CO_OPTIMIZED or source_path(code.co_filename) is None:
            return None
        note = self.hits.setdefault(code, set()).add

        def on_line(frame: FrameType, event: str, arg: object) -> Callable[..., Any]:  # noqa: ARG001
            if event == "line":
                note(frame.f_lineno)
            return on_line

        return on_line


class Recorder:
    """Collects the runs of tests. Both runners report to it."""

    def __init__(self, seconds: float) -> None:
        self.runs: list[Run] = []
        self.innermost: set[Line] = set()
        self.broken: list[Line] = []
        """Where imports failed, innermost first."""
        self.failing: list[str] = []
        self._deadline = time.monotonic() + seconds
        self._tracer = Tracer()
        self._passed: bool | None = None

    @property
    def late(self) -> bool:
        return time.monotonic() >= self._deadline

    def alarm(self, most: float) -> None:
        """Raise `TooLong` in this many seconds and again every five; 0 calls it off."""
        left = max(0.1, min(most, self._deadline - time.monotonic())) if most else 0.0
        signal.signal(signal.SIGALRM, _too_long)
        signal.setitimer(signal.ITIMER_REAL, left, 5.0 if most else 0.0)

    def begin(self) -> None:
        self._passed = None
        self.alarm(TEST_SECONDS)
        self._tracer.begin()

    def passed(self) -> None:
        if self._passed is None:
            self._passed = True

    def failed(self, words: str) -> None:
        """The test failed; `words` is its formatted traceback."""
        self._passed = False
        self.innermost.update(_frames(words)[-1:])

    def end(self, name: str) -> None:
        hits = self._tracer.end()
        self.alarm(0)
        if self._passed is False:
            self.failing.append(name)
        self.runs.append(Run(name, hits, self._passed))

    def import_failed(self, name: str, words: str) -> None:
        """A test module could not be imported."""
        self.failing.append(name)
        self.broken.extend(line for line in reversed(_frames(words)) if line not in self.broken)

    def report(self) -> dict[str, Any]:
        scores = suspiciousness(self.runs)
        for line in self.innermost & scores.keys():
            scores[line] = min(1.0, scores[line] + INNERMOST_BONUS)
        if self.broken:
            scores = {line: 0.8 * score for line, score in scores.items()}
            scores.update(
                {line: max(0.81, 1.0 - 0.02 * place) for place, line in reversed(list(enumerate(self.broken)))}
            )
        ranked = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
        return {
            "lines": [[path, line, round(score, 4)] for (path, line), score in ranked if score > 0][:MAX_LINES],
            "failing": self.failing[:MAX_FAILING],
            "passed": sum(1 for run in self.runs if run.passed),
            "error": "" if self.runs or self.failing else "no test was found",
        }


def _too_long(*_: object) -> None:
    raise TooLong(f"longer than {TEST_SECONDS:g} s")


def _frames(words: str) -> list[Line]:
    """The repairable lines that a traceback names, innermost last."""
    found = [(source_path(name), int(line)) for name, line in _FRAME.findall(words[-100_000:])]
    return [(path, line) for path, line in found if path is not None]


def suspiciousness(runs: list[Run]) -> dict[Line, float]:
    """Ochiai's score of every line that a failing test reaches."""
    runs = [run for run in runs if run.passed is not None]
    failing = sum(1 for run in runs if not run.passed)
    reached: dict[Line, set[int]] = {}
    for number, run in enumerate(runs):
        for code, lines in run.hits.items():
            path = source_path(code.co_filename)
            if path is not None:
                for line in lines:
                    reached.setdefault((path, line), set()).add(number)

    def ochiai(tests: set[int]) -> float:
        failed = sum(1 for number in tests if not runs[number].passed)
        return failed / math.sqrt(failing * len(tests)) if failed else 0.0

    scores = {line: ochiai(tests) for line, tests in reached.items()}
    for line, weight, tests in _at_import(runs, reached):
        scores[line] = max(scores.get(line, 0.0), weight * ochiai(tests))
    return scores


def _at_import(runs: list[Run], reached: dict[Line, set[int]]) -> Iterator[tuple[Line, float, set[int]]]:
    """Lines that run at import, their weight, and the tests for which they count."""
    using: dict[str, set[int]] = {}
    entered: dict[Line, set[int]] = {}
    for number, run in enumerate(runs):
        for code in run.hits:
            path = source_path(code.co_filename)
            if path is not None:
                entered.setdefault((path, code.co_firstlineno), set()).add(number)
            for name in code.co_names:
                using.setdefault(name, set()).add(number)
    touching: dict[str, set[int]] = {}
    for (path, _), tests in reached.items():
        touching.setdefault(path, set()).update(tests)
    for path in {*touching, *_loaded()}:
        for statement in _statements(path):
            weight, users = _weigh(path, statement, using, entered)
            for line in _lines_of(statement):
                yield (path, line), weight, touching.get(path, set()) if users is None else users


def _loaded() -> set[str]:
    """The repairable files among the modules that were imported."""
    files = [str(getattr(module, "__dict__", {}).get("__file__")) for module in list(sys.modules.values())]
    return {path for path in map(source_path, files) if path is not None}


def _statements(path: str) -> Iterator[ast.stmt]:
    """The statements of a file that run at import, those of class bodies too."""
    try:
        todo: list[ast.stmt] = list(ast.parse((ROOT / path).read_bytes()).body)
    except (OSError, SyntaxError, ValueError):
        return
    while todo:
        statement = todo.pop()
        if isinstance(statement, ast.ClassDef):
            todo.extend(statement.body)
        is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if not is_text and not isinstance(statement, ast.Pass):
            yield statement


def _weigh(
    path: str, statement: ast.stmt, using: dict[str, set[int]], entered: dict[Line, set[int]]
) -> tuple[float, set[int] | None]:
    """The weight of a statement, and the tests that use what it defines; None for those that use the file at all."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
        rich = statement.args.defaults or statement.args.kw_defaults or statement.decorator_list
        first = min([statement.lineno, *(decorator.lineno for decorator in statement.decorator_list)])
        return SIGNATURE_WITH_DEFAULTS if rich else SIGNATURE, entered.get((path, first), set())
    if isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        names = {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}
        tests = {test for name in names for test in using.get(name, ())}
        return (CONSTANT, tests) if tests else (STATEMENT, None)
    if isinstance(statement, (ast.Import, ast.ImportFrom, ast.ClassDef)):
        return IMPORT, None
    return STATEMENT, None


def _lines_of(statement: ast.stmt) -> range:
    """All of it; of definitions what stands before the body."""
    first, last = statement.lineno, statement.end_lineno or statement.lineno
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        first = min([first, *(decorator.lineno for decorator in statement.decorator_list)])
        last = max(statement.lineno, min(last, statement.body[0].lineno - 1))
    return range(first, last + 1)


class UnittestResult(unittest.TestResult):
    """Passes what happens on to the recorder."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def startTest(self, test: Any) -> None:  # noqa: N802
        super().startTest(test)
        self._recorder.begin()

    def stopTest(self, test: Any) -> None:  # noqa: N802
        super().stopTest(test)
        self._recorder.end(test.id())
        if self._recorder.late:
            self.stop()

    def addSuccess(self, test: Any) -> None:  # noqa: N802, ARG002
        self._recorder.passed()

    def addFailure(self, test: Any, err: Any) -> None:  # noqa: N802
        words = "".join(traceback.format_exception(*err))
        if type(test).__name__ == "_FailedTest" or not hasattr(test, "run"):
            self._recorder.import_failed(test.id(), words)
        else:
            self._recorder.failed(words)

    addError = addFailure  # noqa: N815

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802, ARG002
        if err is not None:
            self.addFailure(test, err)


class UnittestRunner:
    """What `unittest.TestProgram` wants of a runner."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def run(self, suite: unittest.TestSuite) -> UnittestResult:
        self._recorder.alarm(0)
        result = UnittestResult(self._recorder)
        suite.run(result)
        return result


def run_unittest(recorder: Recorder, arguments: list[str]) -> None:
    """Run what `python -m unittest` would run, and tests in folders that are no packages too."""
    folders = sorted({str(path.parent) for path in Path().rglob("test*.py") if not _FOREIGN.search(f"{path}")})
    # Discovery enters packages only.
    outside = [folder for folder in folders if folder != "." and not (Path(folder) / "__init__.py").exists()]
    tries = [arguments] if arguments else [["discover"], *(["discover", "-s", folder] for folder in outside)]
    for argv in tries:
        recorder.alarm(TEST_SECONDS)
        unittest.TestProgram(
            module=None,
            argv=["unittest", *argv],
            exit=False,
            testLoader=unittest.TestLoader(),  # a loader remembers the top folder of its first discovery
            testRunner=UnittestRunner(recorder),  # type: ignore[arg-type]
        )
        recorder.alarm(0)


def run_pytest(recorder: Recorder, arguments: list[str]) -> None:
    """Run pytest in this process, where the tracer is."""
    import pytest  # noqa: PLC0415 - boxes without it use unittest

    class Plugin:
        @pytest.hookimpl(hookwrapper=True)
        def pytest_collection(self) -> Iterator[None]:
            recorder.alarm(2 * TEST_SECONDS)
            yield
            recorder.alarm(0)

        @pytest.hookimpl(hookwrapper=True, tryfirst=True)
        def pytest_runtest_protocol(self, item: Any) -> Iterator[None]:
            recorder.begin()
            yield
            recorder.end(item.nodeid)
            if recorder.late:
                item.session.shouldstop = "the time is over"

        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.failed:
                recorder.failed("")
            elif report.passed and report.when == "call":
                recorder.passed()

        def pytest_exception_interact(self, node: Any, call: Any) -> None:
            error: BaseException = call.excinfo.value
            words = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            if isinstance(node, pytest.Item):
                recorder.failed(words)
            else:
                recorder.import_failed(node.nodeid, words)

    # One process (xdist's workers have no tracer), and nothing left behind in the repository.
    fixed = ["-q", "-p", "no:xdist", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    code = pytest.main([*fixed, *arguments], plugins=[Plugin()])
    if int(code) == 4 and not recorder.runs and not recorder.failing:
        # The project's own options want a plugin that is not here, or is switched off.
        pytest.main([*fixed, "-o", "addopts=", *arguments], plugins=[Plugin()])


def trace(runner: str, seconds: float, arguments: list[str]) -> dict[str, Any]:
    """Run the tests in this process and judge their lines."""
    sys.path[0] = str(ROOT)
    sys.dont_write_bytecode = True
    recorder = Recorder(seconds)
    error = ""
    try:
        if runner == "pytest" and importlib.util.find_spec("pytest") is not None:
            run_pytest(recorder, arguments)
        else:
            run_unittest(recorder, [] if runner == "pytest" else arguments)
    except BaseException as caught:  # noqa: BLE001 - whatever the tests do to the runner, what was seen counts
        error = f"{type(caught).__name__}: {caught}"[:300]
    recorder.alarm(0)
    report = recorder.report()
    if recorder.late:
        error = error or f"stopped after {seconds:g} s"
    report["error"] = error or report["error"]
    return report


def supervise(options: argparse.Namespace) -> dict[str, Any]:
    """Trace in a child process, so that nothing the tests do keeps the result back."""
    failure: dict[str, Any] = {"lines": [], "failing": [], "passed": 0}
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result"
        command = [sys.executable, str(Path(__file__).resolve()), "--child", str(result), "--runner", options.runner]
        command += ["--seconds", str(options.seconds), "--", *options.arguments]
        quiet = subprocess.DEVNULL
        child = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
        try:
            code = child.wait(options.seconds + GRACE_SECONDS)
            failure["error"] = f"the test run ended with code {code} and no result"
        except subprocess.TimeoutExpired:
            failure["error"] = f"the tests could not be stopped after {options.seconds:g} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        try:
            report: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return failure
        return report


def main() -> int:
    """Print the result, or put it into a file."""
    parser = argparse.ArgumentParser(description="Rank the lines of a Python repository by how suspicious they are.")
    parser.add_argument("--out", help="a file for the result; the standard output otherwise")
    parser.add_argument("--runner", choices=["pytest", "unittest"], default="pytest")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="*", help="for the runner, after --")
    options = parser.parse_args()
    if options.child:
        words = json.dumps(trace(options.runner, options.seconds, options.arguments))
        fresh = Path(f"{options.child}.new")
        fresh.write_text(words, encoding="utf-8")
        fresh.replace(options.child)
        # Threads and exit handlers of the tests have had their turn.
        os._exit(0)
    words = json.dumps(supervise(options)) + "\n"
    if options.out:
        Path(options.out).write_text(words, encoding="utf-8")
    else:
        sys.stdout.write(words)
    return 0


if __name__ == "__main__":
    sys.exit(main())
