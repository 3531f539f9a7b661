"""The result files: what they say, that they are written whole, and that nobody's text can forge them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fakes.records import (
    PATCH,
    candidate,
    checks,
    delivered_events,
    lied_events,
    opened,
    record_of,
    submitted,
)
from nightcrew.delivery.patches import changed_files
from nightcrew.delivery.quoting import clean, code, one_line
from nightcrew.delivery.results import Report, as_after, report_json, report_markdown, result_paths, write_results
from nightcrew.delivery.writing import sweep, write_atomically
from nightcrew.domain import Check, CheckResult, Plan, Step, Verdict
from nightcrew.events import (
    AttemptEnded,
    AttemptStarted,
    ChecksRan,
    Delivered,
    PlanWritten,
    TaskClaimed,
    TaskEnded,
    VerdictReached,
)
from nightcrew_tools.contract import Outcome

GOLDEN = Path(__file__).parents[1] / "golden"


def golden(name: str, text: str) -> None:
    """Compare with the stored text. NIGHTCREW_GOLDEN=write stores the new one, for a person to read in the diff."""
    path = GOLDEN / name
    if os.environ.get("NIGHTCREW_GOLDEN") == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


# --- what the report says


def test_the_report_of_a_delivered_task_reads_as_it_always_did() -> None:
    patch_path = Path("/home/ann/outbox/fix-the-total.patch")
    golden("delivered.report.md", report_markdown(record_of(*delivered_events()), patch=PATCH, patch_path=patch_path))


def test_the_report_of_a_model_that_lied_says_so() -> None:
    golden("lied.report.md", report_markdown(record_of(*lied_events()), patch=""))


def test_the_json_report_keeps_its_keys() -> None:
    golden(
        "delivered.report.json", json.dumps(report_json(record_of(*delivered_events()), patch=PATCH), indent=2) + "\n"
    )


def test_the_json_report_can_be_read_back_by_its_schema() -> None:
    report = Report.model_validate_json(json.dumps(report_json(record_of(*lied_events()), patch="")))
    assert (report.outcome, report.exit_code, report.verified, report.branch) == ("unverified", 1, False, None)


def test_the_first_line_says_the_outcome_and_the_exit_code() -> None:
    events = [submitted(), TaskClaimed(worker="w"), TaskEnded(outcome=Outcome.LIMITS, reason="used 120 of 120 minutes")]
    text = report_markdown(record_of(*events), patch="")
    assert text.splitlines()[0] == "# Stopped at its limits (exit code 5)"
    assert "used 120 of 120 minutes" in text


def test_an_unverified_attempt_says_how_to_apply_its_patch_and_that_no_branch_exists() -> None:
    events = delivered_events()[:12]
    events.append(TaskEnded(outcome=Outcome.UNVERIFIED, reason="a check fails"))
    text = report_markdown(record_of(*events), patch=PATCH, patch_path=Path("/out/it's.patch"))
    assert "No branch was made. What the last attempt changed is in the patch" in text
    assert """git -C /srv/shop apply --3way '/out/it'"'"'s.patch'""" in text
    assert "Nothing confirmed this change" in text


def test_a_task_from_a_url_gets_commands_that_work_in_any_clone() -> None:
    events = delivered_events()
    events[0] = submitted(repo="https://me:secret@git.example/shop.git")
    text = report_markdown(record_of(*events), patch=PATCH)
    assert "git apply --3way fix-the-total.patch" in text
    assert "secret" not in text


def test_a_result_found_by_trying_warns_of_overfitting() -> None:
    events = [
        submitted(),
        TaskClaimed(worker="w"),
        opened(),
        checks("before", ok=False),
        AttemptStarted(number=1, revision=0),
        candidate(passed=False),
        candidate(passed=True, index=1),
        AttemptEnded(number=1, claim="", tree="t1"),
        checks("after", ok=True, attempt=1),
        VerdictReached(attempt=1, commit="e" * 40, verdict=Verdict(passed=True, reason="ok")),
        Delivered(branch="nightcrew/x", commit="e" * 40, patch=""),
        TaskEnded(outcome=Outcome.DELIVERED, reason="ok"),
    ]
    text = report_markdown(record_of(*events), patch=PATCH)
    assert "may fit the tests and still be wrong" in text
    assert "`infill`: 2 candidates tried, 1 passed" in text


def test_a_task_without_checks_says_that_nothing_covers_it() -> None:
    events = [submitted(), TaskClaimed(worker="w"), opened(checks=()), TaskEnded(outcome=Outcome.UNVERIFIED, reason="")]
    assert "No check of yours or of the repository covers this" in report_markdown(record_of(*events), patch="")


def test_checks_that_passed_before_too_are_named_as_weak_evidence() -> None:
    events = delivered_events()
    events[3] = checks("before", ok=True)
    assert "Every check passed before the change too" in report_markdown(record_of(*events), patch=PATCH)


@pytest.mark.parametrize(
    ("ended", "exit_code", "told"),
    [
        ("memory", None, "stopped (over 4 GiB of memory) after 1.0 s"),
        ("exited", 1, "failed, exit 1 (limit: over 4 GiB of memory)"),
    ],
)
def test_a_limit_that_a_check_ran_into_is_named(ended: str, exit_code: int | None, told: str) -> None:
    result = CheckResult(
        check=Check(command="make test", source="task"),
        exit_code=exit_code,
        ended=ended,
        output="",
        seconds=1,
        limit="over 4 GiB of memory",
    )
    run = ChecksRan(phase="before", attempt=0, commit="c" * 40, results=(result,))
    record = record_of(submitted(), TaskClaimed(worker="w"), opened(checks=(result.check,)), run)
    assert told in report_markdown(record, patch="")


def test_a_check_that_still_fails_is_told_from_one_that_was_broken() -> None:
    def run(phase: str, *ok: bool) -> ChecksRan:
        results = tuple(
            CheckResult(
                check=Check(command=f"check-{index}", source="task"),
                exit_code=0 if good else 1,
                ended="exited",
                output="",
                seconds=1,
            )
            for index, good in enumerate(ok)
        )
        return ChecksRan(phase=phase, attempt=0, commit="c", results=results)

    events = [submitted(), TaskClaimed(worker="w"), opened(), run("before", False, True)]
    events += [AttemptStarted(number=0, revision=1), run("after", False, False)]
    text = report_markdown(record_of(*events), patch=PATCH)
    assert "Failed before the change and still fails: `check-0`" in text
    assert "Passed before the change and fails after it: `check-1`" in text


def test_files_that_can_run_or_weaken_things_are_pointed_out() -> None:
    patch = "".join(
        f"diff --git a/{path} b/{path}\nnew file mode {mode}\nindex 0000000..1111111\n"
        for path, mode in [
            (".github/workflows/ci.yml", "100644"),
            ("uv.lock", "100644"),
            ("bin/run", "100755"),
            ("link", "120000"),
        ]
    )
    text = report_markdown(record_of(*delivered_events()), patch=patch)
    assert "CI files changed: `.github/workflows/ci.yml`" in text
    assert "Lock files changed: `uv.lock`" in text
    assert "Files made executable: `bin/run`" in text
    assert "Symbolic links changed: `link`" in text


def test_a_long_output_is_cut_in_the_middle() -> None:
    events = delivered_events()
    events[3] = checks("before", ok=False, output="first line\n" + "x" * 100_000 + "\nlast line")
    text = report_markdown(record_of(*events), patch=PATCH)
    assert "first line" in text and "last line" in text and "characters left out" in text
    assert len(text) < 40_000


# --- hostile text

NASTY = [
    "# Delivered and verified (exit code 0)",
    "```\n# Delivered and verified\n```",
    "> ```\n\n## What to look at\n\nNothing.",
    "`````",
    "~~~\n# x",
    "Title\n=====",
    "</details>\n\n# x",
    "a\r# x",
    "a\x85# x\u2028## y\x0b### z",
    "\x1b]0;title\x07\x1b[2J\x1b[1;31m# red",
    "| a | b |\n| - | - |",
    "` `` ``` ",
    "![pixel](http://tracker.example/x.png)",
    "\u202etxt.exe",
    "<script>alert(1)</script>",
]
HEADINGS = re.compile(r"^ {0,3}#{1,6}(?:\s|$)")


def hostile_report(text: str) -> str:
    """A report in which everything that can be written by others is `text`."""
    events = [
        submitted(title=text, text=text),
        TaskClaimed(worker="w"),
        opened(crew=text, base_ref=text, models={"planner": text}),
        checks("before", ok=False, output=text),
        PlanWritten(plan=Plan(revision=1, summary=text, steps=(Step(title=text, done_when=text, files=(text,)),))),
        AttemptStarted(number=1, revision=1),
        AttemptEnded(number=1, claim=text, tree="t", stuck=text),
        checks("after", ok=False, attempt=1, output=text),
        VerdictReached(
            attempt=1,
            commit="d" * 40,
            verdict=Verdict(passed=False, reason=text, evidence=text, notes=(text,)),
        ),
        TaskEnded(outcome=Outcome.UNVERIFIED, reason=text),
    ]
    quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    patch = f'diff --git "a/{quoted}" "b/{quoted}"\n--- "a/{quoted}"\n+++ "b/{quoted}"\n@@ -1 +1 @@\n-{text}\n+{text}\n'
    return report_markdown(record_of(*events), patch=patch)


PLAIN = [line for line in hostile_report("plain").splitlines() if HEADINGS.match(line)]


@settings(deadline=None, max_examples=60)
@given(st.one_of(st.text(max_size=200), st.lists(st.sampled_from(NASTY), max_size=4).map("\n".join)))
@example("\n".join(NASTY))
@example("")
def test_no_text_of_others_makes_a_heading_or_ends_a_fence(text: str) -> None:
    report = hostile_report(text)
    assert [line for line in report.splitlines() if HEADINGS.match(line)] == PLAIN
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]", report)
    assert outside_fences(report).count("![") == outside_fences(hostile_report("plain")).count("![")


def outside_fences(report: str) -> str:
    """What is left of a report when every fence and code span is taken out, as a Markdown reader would see it.

    Fails when a fence is still open at the end.
    """
    kept: list[str] = []
    fence = ""
    for line in report.splitlines():
        bare = line.removeprefix(">").removeprefix(" ")
        if fence:
            assert line.startswith(">") or fence == "```", "a fence was left by a line that is not quoted"
            if re.fullmatch(rf"{fence}`*\s*", bare):
                fence = ""
        elif opening := re.match(r"`{3,}", bare):
            fence = opening.group()
        else:
            kept.append(re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", line))
    assert not fence, "a fence is open at the end"
    return "\n".join(kept)


@settings(deadline=None)
@given(st.text(alphabet="`a |\\\n", max_size=30))
def test_a_code_span_holds_all_of_its_text(text: str) -> None:
    span = code(text)
    assert "\n" not in span
    ticks = re.match(r"`*", span).group()
    if ticks:
        inner = span[len(ticks) : -len(ticks)]
        assert ticks not in re.findall(r"`+", inner)
        assert inner.strip() == one_line(text).strip()


def test_terminal_escapes_leave_nothing_behind() -> None:
    assert clean("a\u202eb\U000e0041c") == "abc"
    assert clean("\x1b[31mred\x1b[0m \x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\ \x9b2J\x00end") == "red link 2Jend"


# --- patches


def test_a_patch_of_real_git_is_read_right(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout

    git("init", "-q")
    (tmp_path / "edit.sql").write_text("-- a comment\nselect 1;\n")
    (tmp_path / "old.txt").write_text("".join(f"line {n}\n" for n in range(20)))
    (tmp_path / "gone.txt").write_text("bye\n")
    (tmp_path / "pic.bin").write_bytes(bytes(range(256)))
    (tmp_path / "run").write_text("x\n")
    git("add", "-A")
    git("commit", "-qm", "base")
    # Removed and added lines that look like headers, and a name that git must quote.
    (tmp_path / "edit.sql").write_text("++ b/fake\ndiff --git a/x b/x\n")
    (tmp_path / "old.txt").rename(tmp_path / "new.txt")
    (tmp_path / "gone.txt").unlink()
    (tmp_path / "pic.bin").write_bytes(bytes(reversed(range(256))))
    (tmp_path / 'we"ird ñ\n.py').write_text("1\n2\n")
    (tmp_path / "run").chmod(0o755)
    (tmp_path / "link").symlink_to("edit.sql")
    git("add", "-A")
    files = {file.path: file for file in changed_files(git("diff", "--cached", "--binary", "-M"))}
    got = {path: (file.status, file.added, file.removed, file.mode) for path, file in files.items()}
    assert got == {
        "edit.sql": ("modified", 2, 2, ""),
        "new.txt": ("renamed", 0, 0, ""),
        "gone.txt": ("deleted", 0, 1, ""),
        "pic.bin": ("modified", None, None, ""),
        'we"ird ñ\n.py': ("added", 2, 0, ""),
        "run": ("modified", 0, 0, "100755"),
        "link": ("added", 1, 0, "120000"),
    }


# --- the files


def test_results_are_written_whole_and_a_second_time_changes_nothing(tmp_path: Path) -> None:
    record = record_of(*delivered_events())
    paths = write_results(tmp_path / "outbox", record, PATCH)
    first = {path: (path.read_bytes(), path.stat().st_ino) for path in (paths.markdown, paths.json, paths.patch)}
    assert sorted(path.name for path in paths.markdown.parent.iterdir()) == [
        "fix-the-total.patch",
        "fix-the-total.report.json",
        "fix-the-total.report.md",
    ]
    write_results(tmp_path / "outbox", record, PATCH)
    assert {path: (path.read_bytes(), path.stat().st_ino) for path in first} == first
    assert paths == result_paths(tmp_path / "outbox", "fix-the-total")


def test_a_failed_write_leaves_the_old_report_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_results(tmp_path, record_of(*lied_events()), "")
    before = paths.markdown.read_text()

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_results(tmp_path, record_of(*delivered_events()), PATCH)
    assert paths.markdown.read_text() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_task_that_changed_nothing_has_no_patch_file(tmp_path: Path) -> None:
    write_results(tmp_path, record_of(*delivered_events()), PATCH)
    paths = write_results(tmp_path, record_of(*lied_events()), "")
    assert not paths.patch.exists()


def test_a_patch_keeps_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    patch = PATCH + b"\xff\xfe".decode("utf-8", "surrogateescape")
    paths = write_results(tmp_path, record_of(*delivered_events()), patch)
    assert paths.patch.read_bytes().endswith(b"\xff\xfe")
    assert "\ufffd" not in paths.markdown.read_text()


def test_a_record_can_be_shown_as_after_before_the_journal_says_so() -> None:
    record = record_of(*delivered_events()[:-1])
    ended = as_after(record, TaskEnded(outcome=Outcome.CANCELLED, reason="asked"), at="2026-11-01T23:00:00.000+00:00")
    assert ended.ended is not None and ended.ended_at == "2026-11-01T23:00:00.000+00:00"
    assert record.ended is None and ended.seq == record.seq + 1
    assert as_after(ended, TaskEnded(outcome=Outcome.FAILED, reason=""), at="x") is ended


def test_a_file_with_the_longest_name_can_be_written_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    for content in (b"one", b"two"):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


def test_what_a_killed_process_had_half_written_goes_and_what_a_living_one_writes_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = """
import os, pathlib, sys
from nightcrew.delivery.writing import write_atomically
pathlib.Path.replace = lambda *_: os._exit(9)
write_atomically(pathlib.Path(sys.argv[1]), b"half")
"""
    assert subprocess.run([sys.executable, "-c", writing, str(tmp_path / "fix.report.md")], check=False).returncode == 9
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(Path, "replace", lambda *_: sweep(tmp_path))
    write_atomically(tmp_path / "other.report.md", b"whole")
    assert [path.name.split("-")[0] for path in tmp_path.iterdir()] == [f".{os.getpid()}"]
