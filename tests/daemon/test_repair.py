"""The pure parts of the repair ladder: suspects, holes, prompts, and what is made of a small model's answers."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from nightcrew.agent.chooser import offered, read_choice
from nightcrew.agent.infill import Hole, filled, holes, prompt
from nightcrew.agent.ladder import candidate_seconds
from nightcrew.agent.rewrite import new_text
from nightcrew.agent.suspects import Suspect, named_lines, read_spectrum, source_files
from nightcrew.domain import Check, CheckResult

TEXT = "def mean(xs):\n    # the mean\n\n    total = sum(xs)\n    return total / (len(xs) - 1)\n"


def test_tests_and_prose_are_no_source_files() -> None:
    files = ["a.py", "test_a.py", "tests/util.py", "README.md", "src/b.rs", "conftest.py", "ui/x.test.ts", "c_test.go"]
    assert source_files(files) == ["a.py", "src/b.rs"]


def test_the_tracers_lines_are_kept_when_they_are_source_and_suspicious() -> None:
    output = "noise " + json.dumps({"lines": [["a.py", 3, 0.7], ["test_a.py", 1, 1.0], ["a.py", 9, 0.0]], "error": ""})
    assert read_spectrum(output, {"a.py"}) == [Suspect("a.py", 3, 0.7)]


def test_output_of_a_tracer_that_broke_gives_no_suspects() -> None:
    for output in ("", "Traceback", '{"lines": [["a.py"]]}', '{"lines": 3}', '{"lines": [[1, "x", null]]}'):
        assert read_spectrum(output, {"a.py"}) == []


def test_lines_that_a_traceback_names_are_suspects_innermost_first() -> None:
    output = 'File "/workspace/a.py", line 3, in f\n./b.go:7: oops\n  File "/usr/lib/x.py", line 9\n'
    assert [(s.path, s.line) for s in named_lines([output], {"a.py", "b.go"})] == [("b.go", 7), ("a.py", 3)]


def test_holes_are_single_code_lines_first_then_wider_ones_and_insertions() -> None:
    suspects = [Suspect("a.py", line, 1 - line / 10) for line in (5, 4, 3, 2, 1)]
    found = list(holes(suspects, {"a.py": TEXT}, most=8))
    bare = [hole for hole in found if hole.lines == 1 and not hole.marked]
    assert bare == [Hole("a.py", 5, 5), Hole("a.py", 4, 4), Hole("a.py", 1, 1)]
    assert found[1] == Hole("a.py", 5, 5, marked=True)
    assert Hole("a.py", 5, 5, lines=3, marked=True) in found
    assert Hole("a.py", 5, 4, lines=3) in found


def test_a_prompt_shows_the_hint_and_both_sides_but_not_the_line() -> None:
    text = prompt("qwen2.5-coder", "# E assert 1 == 2\n", TEXT, Hole("a.py", 5, 5))
    assert text.startswith("<|fim_prefix|># E assert 1 == 2\ndef mean")
    assert text.endswith("total = sum(xs)\n<|fim_suffix|><|fim_middle|>")
    assert "len(xs)" not in text


def test_a_marked_hole_shows_what_was_wrong_in_the_prompt_and_never_in_the_file() -> None:
    hole = Hole("a.py", 5, 5, marked=True)
    text = prompt("qwen", "", TEXT, hole)
    assert "    # was wrong: return total / (len(xs) - 1)\n<|fim_suffix|>" in text
    fixed = TEXT.replace(" / (len(xs) - 1)", " / len(xs)")
    for completion in (
        "    return total / len(xs)",
        "    # was wrong: return total\n    return total / len(xs)",
        "    return total / len(xs)  # was wrong: - 1",
    ):
        assert filled(TEXT, hole, completion) == fixed
    assert filled(TEXT, hole, "    # was wrong: return total") is None


def test_a_models_own_marks_are_used() -> None:
    assert prompt("starcoder2-3b", "", "a\nb\n", Hole("a", 2, 2)) == "<fim_prefix>a\n<fim_suffix><fim_middle>"


def test_a_filled_hole_replaces_the_line_and_only_it() -> None:
    fixed = TEXT.replace(" / (len(xs) - 1)", " / len(xs)")
    assert filled(TEXT, Hole("a.py", 5, 5), "    return total / len(xs)") == fixed


def test_a_hole_filled_with_what_was_there_is_no_candidate() -> None:
    assert filled(TEXT, Hole("a.py", 5, 5), "    return total / (len(xs) - 1)\n") is None
    assert filled(TEXT, Hole("a.py", 5, 5), "  \n \n") is None


def test_an_insertion_keeps_every_line() -> None:
    new = filled(TEXT, Hole("a.py", 4, 3, lines=3), "    if not xs:\n        return 0\n\n\n")
    assert new is not None
    assert new.replace("    if not xs:\n        return 0\n", "") == TEXT


def ran(seconds: float, ended: str = "exited") -> CheckResult:
    check = Check(command="pytest", source="repository")
    return CheckResult(check=check, exit_code=1, ended=ended, output="", seconds=seconds)


def test_a_candidate_that_loops_for_ever_is_cut_off_soon_after_the_usual_time() -> None:
    assert candidate_seconds([ran(0.4), ran(2.0)], 600) == 20
    assert candidate_seconds([ran(200)], 600) == 600
    assert candidate_seconds([ran(60, "timeout"), ran(0.1)], 600) == 30
    assert candidate_seconds([], 600) == 30


@given(st.text(max_size=200), st.integers(1, 6))
def test_no_completion_touches_lines_outside_its_hole(completion: str, line: int) -> None:
    lines = [f"line {number}\n" for number in range(1, 7)]
    new = filled("".join(lines), Hole("a", line, line), completion)
    if new is not None:
        assert new.startswith("".join(lines[: line - 1]))
        assert new.endswith("".join(lines[line:]))


def test_the_longest_code_block_of_a_reply_is_the_new_file() -> None:
    reply = "Change `x`:\n```python\nx = 1\n```\nThe file:\n```python\nx = 1\ny = 2\n```\nDone."
    assert new_text(reply, "x = 0\ny = 2\n") == "x = 1\ny = 2\n"


def test_a_reply_without_a_finished_block_or_without_news_gives_no_file() -> None:
    assert new_text("I would change it.", "x\n") is None
    assert new_text("```python\nx = 1\n", "x\n") is None
    assert new_text("```\nx\n```", "x\n") is None


def test_suspicious_files_are_offered_first() -> None:
    assert offered(["a.py", "b.py", "c.py", "test_a.py"], [Suspect("c.py", 1, 1.0)]) == ["c.py", "a.py", "b.py"]


def test_a_choice_that_is_not_on_the_list_or_unreadable_falls_back_to_the_most_suspicious() -> None:
    assert read_choice('{"file": "b.py", "problem": "off by one"}', ["a.py", "b.py"]).steps[0].files == ("b.py",)
    for text in ('{"file": "/etc/passwd", "problem": ""}', "no json", "[]", '{"file": 3}'):
        assert read_choice(text, ["a.py", "b.py"]).steps[0].files == ("a.py",)
