"""What test runners print at their end, as printed by the real ones."""

from __future__ import annotations

import pytest

from nightcrew.agent.outcomes import TestOutcome, read_outcome

PYTEST_FAILS = """\
.F..E                                                                    [100%]
=================================== FAILURES ===================================
    def test_mean():
>       assert mean([]) == 0
E       ZeroDivisionError: division by zero
=========================== short test summary info ============================
FAILED tests/test_stats.py::test_mean[empty - list] - ZeroDivisionError: divi...
ERROR tests/test_io.py::test_read - OSError: no
1 failed, 3 passed, 1 error in 0.04s
"""
UNITTEST_FAILS = """\
.F
======================================================================
FAIL: test_last (test_pages.PagesTest.test_last)
----------------------------------------------------------------------
AssertionError: 3 != 4

----------------------------------------------------------------------
Ran 5 tests in 0.001s

FAILED (failures=1, skipped=1)
"""
CARGO = """\
test tests::adds ... ok
test tests::subtracts ... FAILED

test result: FAILED. 4 passed; 1 failed; 0 ignored
"""


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (
            PYTEST_FAILS,
            TestOutcome(("tests/test_io.py::test_read", "tests/test_stats.py::test_mean[empty - list]"), 3),
        ),
        ("....\n4 passed in 0.01s\n", TestOutcome((), 4)),
        ("============================ no tests ran in 0.01s ============================\n", TestOutcome((), 0)),
        ("================== 2 passed, 1 warning in 1.20s ==================\n", TestOutcome((), 2)),
        (UNITTEST_FAILS, TestOutcome(("test_last (test_pages.PagesTest.test_last)",), 3)),
        ("....\n-----\nRan 4 tests in 0.000s\n\nOK\n", TestOutcome((), 4)),
        ("\n-----\nRan 0 tests in 0.000s\n\nOK\n", TestOutcome((), 0)),
        (CARGO, TestOutcome(("tests::subtracts",), 4)),
        ("# tests 3\n# pass 2\n# fail 1\n", TestOutcome((), 2)),
        ("Tests:       1 failed, 7 passed, 8 total\n", TestOutcome((), 7)),
        ("--- FAIL: TestSum (0.00s)\nFAIL\nexit status 1\n", TestOutcome(("TestSum",), None)),
        ("all is well\n", TestOutcome((), None)),
        ("", TestOutcome((), None)),
    ],
)
def test_a_runners_last_lines_tell_what_failed_and_how_many_passed(output: str, expected: TestOutcome) -> None:
    assert read_outcome(output) == expected
