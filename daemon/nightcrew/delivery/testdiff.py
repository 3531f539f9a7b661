"""Whether a change takes something away from the tests: what a patch's lines tell, in the common languages' words.

Removed and added lines are set against each other over all test files together, so that tests may be moved, split and
renamed. What cannot be told from lines (a helper that no longer looks) is for the person who reads the diff.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from nightcrew.delivery.patches import FileChange
from nightcrew.delivery.sensitive import plain

_TEST_PATH = re.compile(
    r"/(?:tests?|specs?|__tests__|__mocks__|e2e|androidtest|unittests?)/"
    r"|/(?:test_[^/]*|tests?|[^/]*_tests?|[^/]*[._-](?:test|spec|e2e|cy)|[^/]*_spec|conftest)\.\w+$"
    r"|\.(?:bats|feature|t|snap)$"
)
_CAMEL_TEST = re.compile(
    r"[a-z0-9](?:Test|Tests|TestCase|Spec|IT)\.(?:java|kt|kts|cs|swift|scala|php|groovy|hs|fs|mm?)$"
)
_IN_SOURCE = re.compile(r"#!?\[\s*(?:\w+::)*(?:test|ignore|should_panic|cfg|cfg_attr)\b|\b(?:debug_)?assert\w*!")
"""What belongs to a test where Rust keeps tests beside the code."""
_IMPORT = re.compile(r"(?:import|from|use|using|#include|package)\b|.*=\s*require\(")
_DATA = re.compile(r"\.(?:md|rst|txt|ini|cfg|toml|ya?ml|json|xml|csv|html|lock|png|jpe?g|gif|svg|pdf|bin|dat|snap)$")

_COMMENT = re.compile(r"\s*(?:#(?!\[|!\[)|//(?!\s*(?:go:build|\+build))|/?\*(?!\w)|--\s|<!--|;|%|\"\"\"|''')")

_TEST = re.compile(
    r"\b(?:async\s+)?def\s+(test\w*)"
    r"|\bclass\s+(Test\w*|\w+Tests?(?:Case)?)\b"
    r"|\bfunc\s+(?:\([^)]*\)\s*)?((?:Test|Benchmark|Fuzz|Example|test)\w+)"
    r"|\b(?:it|test|specify|scenario|example|testWidgets|testcase)(?:\.each\b.*?\))?\s*\(?\s*([\"'`].+?[\"'`])"
    r"|\b(?:fun|function|void|Task)\s+(test\w*|\w*[tT]est|\w*[sS]hould\w*|`[^`]+`)\s*\("
    r"|\b(?:TEST|TEST_F|TEST_P|TYPED_TEST|TEST_CASE|SCENARIO|BOOST_AUTO_TEST_CASE)\s*\(\s*([^)]*)"
    r"|^\s*(#\[(?:\w+::)?(?:test|rstest|proptest|test_case)\b)"
    r"|^\s*(@(?:Test|ParameterizedTest|RepeatedTest|Property)\b|\[(?:Test|Fact|Theory|TestMethod|TestCase)\b)"
    r"|^\s*(@test\s)"
)
_ASSERTION = re.compile(
    r"\bassert\w*\b|\.should\w*\b|\bexpect\w*\s*[({.!]|\bEXPECT_\w+|\bASSERT_\w+|\bREQUIRE\w*\s*\(|\bCHECK\w*\s*\("
    r"|\bt\.(?:Error|Errorf|Fatal|Fatalf|Fail|FailNow)\b|\b(?:require|assert|check|must|verify|is)\.\w+\s*\("
    r"|\bt\.(?:is|not|deepEqual|true|false|truthy|falsy|throws\w*|equal|same|ok|notOk|like|regex|snapshot|assert)\s*\("
    r"|\bpytest\.(?:raises|warns|approx)\b|\bpanic!|\bshould\s|\brefute\w*\b|\bmust_\w+|\bwont_\w+"
    r"|\bXCT\w+|\b(?:ok|is|isnt|like|is_deeply|cmp_ok|plan)\s*\(|\bfail\s*\(|\bBOOST_\w+\s*\("
    r"|\bself\.fail\w*|\bAssert\.\w+|#\[should_panic|\b(?:toBe|toEqual|toMatch|toThrow|toHave)\w*\s*\("
)
_EXACT = re.compile(
    r"==|\beq(?:l|ual|uals)?\b|[eE]quals?\b|_eq\b|_EQ\b|Equal|toBe\s*\(|toStrict|\bSame\b|[dD]eep|\bis_deeply|[rR]aises|[tT]hrow"
    r"|-eq\b|\bassert_output"
)
"""Assertions that pin a value or an error; the others let more pass."""
_HOLLOW = re.compile(
    r"\bassert\s*\(?\s*(?:True|1|not\s+False|true)\b\s*\)?\s*(?:$|,|;|#)|\bassert\w*\s*\(\s*(?:True|true|1|!0)\s*(?:,|\))"
    r"|\bexpect\s*\(\s*(?:true|1|!0)\s*\)|\bassert!\s*\(\s*true|\b(?:EXPECT|ASSERT)_TRUE\s*\(\s*(?:true|1)\s*\)"
    r"|\bassert\b.*\bor\s+(?:True|1)\b|\b(?:assert|expect)\w*.*\|\|\s*(?:true|1)\b|\bok\s*\(\s*1\s*[,)]"
    r"|\bassertEquals?\s*\(\s*(\w+)\s*,\s*\1\s*[,)]|\bassert\s+(\w+)\s*==\s*\2\s*(?:$|#)"
)
_SKIP = re.compile(
    r"pytest\s*\.\s*(?:mark\s*\.\s*)?(?:skip|skipif|xfail|importorskip)\b|\bmark\.(?:skip|skipif|xfail)\b"
    r"|\b(?:unittest\.)?(?:skip|skipIf|skipUnless|expectedFailure)\s*(?:\(|$)|\bskip_?[tT]est\b|\bSkipTest\b"
    r"|\b(?:it|test|describe|context|suite|specify|scenario|each|this|t)\s*\.(?:skip|only|todo|fixme|failing|skipIf|runIf)\b"
    r"|\b(?:xit|xdescribe|xtest|xcontext|xspecify|fit|fdescribe|fcontext|ftest)\s*[(\"']"
    r"|\bt\.(?:Skip|Skipf|SkipNow)\s*\(|\btesting\.Short\s*\(|#!?\[\s*(?:ignore|cfg\s*\((?!test\))|cfg_attr\b.*ignore)"
    r"|@(?:Ignore|Disabled|DisabledIf|DisabledOnOs|EnabledIf|Pending|tag\s+:?skip|moduletag\s+:?skip)\b"
    r"|\[\s*(?:Ignore|Explicit)\b|\bSkip\s*=\s*[\"']|\b(?:assumeTrue|assumeThat|assumeFalse|Assume\.\w+)\s*\("
    r"|\bmarkTest(?:Skipped|Incomplete)\b|\bGTEST_SKIP\b|\bDISABLED_\w|//\s*(?:go:build|\+build)\b"
    r"|\b__test__\s*=|\bcollect_ignore\b|\bpytest_(?:collection_modifyitems|ignore_collect|runtest_\w+|pyfunc_call|collect_file)\b"
    r"|\bXCTSkip\w*|\bpending\s*(?:\(|[\"'])|^\s*skip\b\s*[\"'(]?|\bload_tests\b|\bos\._exit\b|\bprocess\.exit\s*\("
    r"|\b(?:sys\.)?exit\s*\(\s*0?\s*\)|\bos\.Exit\s*\(\s*0|\bpytest\.exit\b"
)
_ONLY = re.compile(
    r"\.only\b\s*[(.`]|\b(?:fit|fdescribe|fcontext|ftest)\s*[(\"']|\bcollect_ignore\b|\bos\._exit\b|\bload_tests\b"
)
"""What in a new file silences others."""


def is_test(path: str) -> bool:
    """Whether a path is a test's, by its folder or its name."""
    return _TEST_PATH.search(plain(path)) is not None or _CAMEL_TEST.search(path) is not None


def weakened(files: Sequence[FileChange]) -> Iterator[tuple[str, str]]:
    """Paths and what was taken from the tests there, in words that follow the path."""
    tests = [file for file in files if any(is_test(path) or path.endswith(".rs") for path in file.paths)]
    come = Counter(line for file in tests for line in _code(file, "+"))
    for file in tests:
        yield from ((file.path, why) for why in _file(file, come))
    yield from _balance(tests)


def _file(file: FileChange, come: Counter[str]) -> Iterator[str]:
    """`come` are the lines that the change brings to any test."""
    if file.status == "deleted" and is_test(file.path):
        gone = Counter(line for line in _code(file, "-") if _TEST.search(line) or _ASSERTION.search(line))
        if not gone <= come or not (gone or _DATA.search(plain(file.path))):
            yield "is deleted"
    elif file.old_path and is_test(file.old_path) and not _found_as_before(file):
        yield f"was {file.old_path}, where tests are looked for"
    pattern = _ONLY if file.status == "added" else _SKIP
    added = Counter(_code(file, "+"))
    for line in added - Counter(_code(file, "-")):
        if pattern.search(line):
            yield f"has a new line that skips or silences tests: {line[:120]}"
        if _HOLLOW.search(line) and file.status != "added":
            yield f"has a new assertion that always holds: {line[:120]}"


def _found_as_before(file: FileChange) -> bool:
    """Whether a renamed test keeps what runners find it by: a name of the same kind, as a test."""
    return is_test(file.path) and _shape(file.path) == _shape(file.old_path)


def _shape(path: str) -> tuple[bool, bool, str]:
    name = plain(path).rsplit("/", 1)[1]
    stem, _, suffix = name.rpartition(".")
    return stem.startswith("test"), stem.endswith(("test", "tests", "spec")), suffix


def _balance(tests: Sequence[FileChange]) -> Iterator[tuple[str, str]]:
    """What is gone on balance: tests, assertions, and assertions that pin a value."""
    for what, pattern in (("test", _TEST), ("assertion", _ASSERTION), ("exact assertion", _EXACT)):
        gone, come = _matches(tests, "-", pattern, what), _matches(tests, "+", pattern, what)
        lost = gone.total() - come.total()
        if lost > 0:
            culprit = max(tests, key=lambda file: _loss(file, pattern, what))
            some = "; ".join(line[:100] for line in list(gone - come)[:3])
            yield culprit.path, f"{lost} {what}{'s' if lost > 1 else ''} fewer than before: {some}"
            return


def _loss(file: FileChange, pattern: re.Pattern[str], what: str) -> int:
    return _matches([file], "-", pattern, what).total() - _matches([file], "+", pattern, what).total()


def _matches(files: Iterable[FileChange], sign: str, pattern: re.Pattern[str], what: str) -> Counter[str]:
    """The lines of one side in which the pattern is; exact assertions must be assertions too, hollow ones are none."""
    found: Counter[str] = Counter()
    for file in files:
        for line in _code(file, sign):
            if pattern.search(line) and (what == "test" or not _HOLLOW.search(line)):
                found[line] += what != "exact assertion" or _ASSERTION.search(line) is not None
    return +found


def _code(file: FileChange, sign: str) -> Iterator[str]:
    """The lines of one side without comments, however they are indented."""
    if _DATA.search(plain(file.path)):
        return
    whole = any(is_test(path) for path in file.paths)
    for line in file.lines:
        text = " ".join(line[1:2001].split())
        if line[0] != sign or _COMMENT.match(text) or _IMPORT.match(text):
            continue
        if whole or _IN_SOURCE.search(text):
            yield text
