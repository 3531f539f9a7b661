"""Task files as people write them, and as they should not."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nightcrew.errors import TaskFileError
from nightcrew.intake.taskfile import MAX_BYTES, parse
from nightcrew_tools.contract import Limits, TaskNetwork, TaskRequest

REPO = "repo: /src/app\n"


def task(front: str = "", body: str = "# Fix it\n\nPlease.\n") -> bytes:
    return f"---\n{REPO}{front}---\n{body}".encode()


def read(data: bytes, **options: object) -> TaskRequest:
    return parse(data, name="job", **options)  # type: ignore[arg-type]


def refused(data: bytes, **options: object) -> TaskFileError:
    with pytest.raises(TaskFileError) as caught:
        read(data, **options)
    assert caught.value.reason
    return caught.value


# --- what is taken


def test_every_supported_field_arrives_in_the_request():
    request = read(
        task(
            "base: main\ncrew: local\npriority: 7\nchecks:\n  - pytest -q\n  - 'make lint: all'\nsetup: npm ci\n"
            "limits: {minutes: 30.5, tokens: 2_000_000, attempts: 2}\ndeliver: patch\nid: nightly-1\n",
            "\n# Fix the *parser*\n\nIt fails on `x`.\n",
        )
    )
    assert request == TaskRequest(
        title="Fix the *parser*",
        text="# Fix the *parser*\n\nIt fails on `x`.",
        repo="/src/app",
        base="main",
        crew="local",
        priority=7,
        checks=("pytest -q", "make lint: all"),
        setup=("npm ci",),
        limits=Limits(minutes=30.5, tokens=2_000_000, attempts=2),
        deliver="patch",
        id="nightly-1",
    )


def test_a_file_without_front_matter_takes_the_default_repository():
    request = read(b"Tidy the imports\n", default_repo="/src/app")
    assert (request.repo, request.title, request.text) == ("/src/app", "Tidy the imports", "Tidy the imports")


def test_the_files_repository_wins_over_the_default():
    assert read(task(), default_repo="/other").repo == "/src/app"


def test_limits_that_are_not_given_come_from_the_defaults():
    request = read(task("limits:\n  attempts: 1\n"), default_limits=Limits(minutes=5, tokens=1000, attempts=9))
    assert request.limits == Limits(minutes=5, tokens=1000, attempts=1)
    assert read(task(), default_limits=Limits(minutes=5)).limits == Limits(minutes=5)


def test_a_field_without_a_value_counts_as_absent():
    request = read(task("base:\nchecks:\npriority: ~\nlimits:\n"))
    assert (request.base, request.checks, request.priority, request.limits) == (None, None, 0, Limits())


def test_an_empty_list_of_checks_means_none_and_absence_means_find_them():
    assert read(task("checks: []\n")).checks == ()
    assert read(task()).checks is None


def test_a_byte_order_mark_and_windows_line_ends_are_accepted():
    data = b"\xef\xbb\xbf" + task("priority: 3\n", "# One\n\nTwo\n").replace(b"\n", b"\r\n")
    request = read(data)
    assert (request.priority, request.title, request.text) == (3, "One", "# One\n\nTwo")


@pytest.mark.parametrize(("written", "meant"), [("1234567", "1234567"), ("1.10", "1.10"), ("0123", "0123")])
def test_a_base_that_looks_like_a_number_is_taken_as_it_is_written(written: str, meant: str):
    assert read(task(f"base: {written}\n")).base == meant


def test_an_id_that_looks_like_a_date_or_number_is_taken_as_it_is_written():
    assert read(task("id: 2031-05-04\n")).id == "2031-05-04"
    assert read(task("id: 7\n")).id == "7"


# --- the repository


@pytest.mark.parametrize(
    "repo",
    [
        "https://example.org/a/b.git",
        "http://example.org/a",
        "ssh://git@example.org:22/a.git",
        "git://example.org/a",
        "file:///srv/a.git",
        "git@example.org:team/a.git",
    ],
)
def test_urls_are_taken_as_they_are(repo: str):
    assert read(f"---\nrepo: {repo}\n---\nx\n".encode()).repo == repo


@pytest.mark.parametrize(
    "repo", ["ftp://example.org/a", "ext::sh -c id", "fd::17", "https://-evil/x", "--upload-pack=x"]
)
def test_other_kinds_of_repository_are_refused(repo: str):
    error = refused(f"---\nid: a\nrepo: '{repo}'\n---\nx\n".encode())
    assert error.line == 3
    assert "repo" in error.reason


def test_a_relative_path_is_relative_to_the_given_directory(tmp_path: Path):
    (tmp_path / "here").mkdir()
    data = b"---\nrepo: ../app\n---\nx\n"
    assert read(data, base_dir=tmp_path / "here").repo == str(tmp_path.resolve() / "app")


def test_a_relative_path_without_a_directory_is_refused_with_its_line():
    error = refused(b"---\nid: a\nrepo: app\n---\nx\n")
    assert error.line == 3
    assert "whole path" in error.reason


def test_the_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert read(b"---\nrepo: ~/app\n---\nx\n").repo == "/home/me/app"
    assert "home folder" in refused(b"---\nrepo: ~nobody-of-this-name/app\n---\nx\n").reason


def test_a_missing_repository_is_said_with_an_example():
    error = refused(b"---\npriority: 1\n---\nx\n")
    assert "repo: /" in error.reason
    assert refused(b"just text\n").line == 1


# --- title


@pytest.mark.parametrize(
    ("body", "title"),
    [
        ("Intro\n\n## Second\n", "Second"),
        ("```sh\n# not a title\n```\n\n# Real\n", "Real"),
        ("~~~~\n# no\n~~~\n# still no\n~~~~\n# Yes\n", "Yes"),
        ("````\n```\n# no\n````\nplain\n", "plain"),
        ("```a``` is code\n# Real\n", "Real"),
        ("Underlined\n==========\n", "Underlined"),
        ("# Closed ##\n", "Closed"),
        ("# Learn C#\n", "Learn C#"),
        ("    # indented code\n# Real\n", "Real"),
        ("#hashtag\n", "#hashtag"),
        ("#\n\nfirst\n", "#"),
        ("# Red \x1b[31m alarm\n", "Red [31m alarm"),
        ("x" * 200 + "\n", "x" * 80),
        ("\u200b\n```\ncode\n```\n", "job"),
    ],
)
def test_the_title_is_the_first_heading_outside_code_else_the_first_line(body: str, title: str):
    assert read(task(body=body)).title == title


# --- what is refused: the file


@pytest.mark.parametrize(
    ("data", "words", "line"),
    [
        (b"", "empty", None),
        (b" \r\n\t\n", "empty", None),
        (b"\xef\xbb\xbf", "empty", None),
        (b"a\nb\x00c", "binary", 2),
        ("---\nrepo: /a\n---\nx".encode("utf-16"), "UTF-16", 1),
        (b"one\ntwo \xff\n", "offset 8", 2),
        (b"\xef\xbb\xbfone\ntwo \xff\n", "offset 11", 2),
        (b"---\nrepo: /a\n", "closing `---`", 1),
        (b"\n\n---\nrepo: /a\n", "closing `---`", 3),
        (b"---\n- a\n---\nx\n", "found a list", 2),
        (b"---\nrepo /a\n---\nx\n", "found the text 'repo /a'", 2),
        (b"---\nrepo: /a\n---\n \n", "says nothing", 4),
        (b"---\nrepo: /a\nbase: [x\n---\nx\n", "but got 'its end'", 3),
        (b"---\nrepo: /a\n\tbase: x\n---\nx\n", "not valid YAML", 3),
        (b"---\nrepo: /a\nbase: \x07\n---\nx\n", "control character", 3),
        (b"---\nrepo: /a\nbase: b\nrepo: /c\n---\nx\n", "given twice", 4),
        (b'---\nrepo: /a\nbase: "\\ud800"\n---\nx\n', "control character", 3),
        (b'---\nrepo: /a\nbase: "\\UFFFFFFFF"\n---\nx\n', "not valid YAML", 2),
        (b"---\nrepo: /a\n? [a]\n: b\n---\nx\n", "name must be a word", 3),
        (b"---\nrepo: /a\n--- x\n---\nx\n", "one document", 3),
    ],
)
def test_a_broken_file_is_refused_with_reason_and_line(data: bytes, words: str, line: int | None):
    error = refused(data)
    assert words in str(error)
    assert error.line == line


def test_a_file_over_one_mebibyte_is_refused():
    assert "1 MiB" in refused(task(body="x" * MAX_BYTES)).reason
    assert len(read(task(body="x" * (MAX_BYTES - 100))).text) == MAX_BYTES - 100


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("front", "words"),
    [
        ("a: &a [x,x]\nb: &b [*a,*a]\n", "anchors"),
        ("base: *nothing\n", "anchors"),
        ("base: &name main\n", "anchors"),
        ("base: !!python/object/apply:os.system [id]\n", "tag"),
        ("base: !secret x\n", "tag"),
        ("checks: " + "[" * 20_000 + "\n", "nested"),
        ("checks: " + "[" * 20_000 + "]" * 20_000 + "\n", "nested"),
        ("checks: " + "{a: " * 10_000 + "\n", "nested"),
        ("- " * 20_000 + "\n", "YAML"),
        ("checks: [" + "true, " * 8000 + "]\n", "100 is the most"),
        ("priority: " + "9" * 60_000 + "\n", "whole number"),
        ("limits: {minutes: " + "1:" * 20_000 + "1}\n", "minutes"),
        ("? " * 20_000 + "\n", "nested"),
        ("x" * 70_000 + ": 1\n", "64 KiB"),
    ],
)
def test_a_yaml_bomb_is_refused_quickly(front: str, words: str):
    started = time.process_time()
    assert words in refused(task(front)).reason
    assert time.process_time() - started < 3


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "line", ["# a" + " " * 900_000 + "b", "#" * 900_000, "=" * 900_000, "`" * 900_000, "\x1b" * 900_000]
)
def test_one_endless_line_in_the_body_costs_little(line: str):
    started = time.process_time()
    read(task(body=f"{line}\n{line[:1000]}\n"))
    assert time.process_time() - started < 3


# --- what is refused: fields


def test_an_unknown_field_is_refused_with_the_nearest_one_and_its_line():
    error = refused(task("priorty: 3\n"))
    assert error.line == 3
    assert "`priorty`" in error.reason
    assert "did you mean `priority`?" in error.reason
    assert "`limits.minutes`" in refused(task("limits:\n  minuts: 3\n")).reason


def test_an_unknown_field_like_no_other_gets_the_list_of_fields():
    error = refused(task("zzzz: 3\n"))
    assert "repo, base, crew" in error.reason


@pytest.mark.parametrize(
    ("front", "found", "wanted"),
    [
        ("priority: high\n", "the text 'high'", "priority: 10"),
        ("priority: 101\n", "101", "-100 to 100"),
        ("priority: 1.5\n", "1.5", "whole number"),
        ("crew: 5\n", "the number 5", "quotes"),
        ("crew: [a]\n", "a list", "crew: local"),
        ("checks: true\n", "the boolean true", "quotes"),
        ("checks: [{pytest: x}]\n", "a group of fields", "quotes"),
        ("checks: ['']\n", "0 characters", "pytest -q"),
        ("setup: 3\n", "the number 3", "npm ci"),
        ("limits: 3\n", "the number 3", "limits: {minutes: 90"),
        ("limits: {minutes: 0}\n", "0", "minutes: 90"),
        ("limits: {minutes: .inf}\n", ".inf", "minutes: 90"),
        ("limits: {attempts: 2.5}\n", "2.5", "attempts: 3"),
        ("limits: {tokens: [1]}\n", "a list", "tokens: 2000000"),
        ("deliver: email\n", "'email'", "`branch` or `patch`"),
        ("id: Not Good\n", "'Not Good'", "lower-case"),
        ("id: a..b\n", "a..b", "lower-case"),
        ("base: 'a b'\n", "'a b'", "branch, tag or commit"),
        ("base: '-x'\n", "leading", "base: main"),
        ("network: 5\n", "the number 5", "network: ["),
        ("schedule: [a]\n", "a list", "daily 03:00"),
        ("schedule: sometimes\n", "'sometimes' is no schedule", "daily 03:00"),
        ("schedule: 0 0 31 2 *\n", "'0 0 31 2 *' never comes", "such a day"),
        ("after: [Not Good]\n", "'Not Good'", "no id and no name"),
        ("after: {a: b}\n", "a group of fields", "after: [nightly]"),
        ("limits: {wall_minutes: 0}\n", "0", "at most a year"),
    ],
)
def test_an_ill_typed_field_says_what_was_found_and_what_is_wanted(front: str, found: str, wanted: str):
    error = refused(task(front))
    assert found in error.reason
    assert wanted in error.reason
    assert error.line == 3


def test_the_line_of_a_nested_value_is_its_own():
    assert refused(task("checks:\n  - ok\n\n  - 5\n")).line == 6
    assert refused(task("limits:\n  minutes: 5\n  attempts: 99\n")).line == 5


def test_pictures_of_a_file_that_comes_alone_are_refused():
    error = refused(task("images: [a.png]\n"))
    assert "folder" in error.reason
    assert error.line == 3


def test_what_a_task_comes_after_is_one_id_or_several():
    assert read(task("after: nightly\n")).after == ("nightly",)
    assert read(task("after: [a, 20310504, a]\n")).after == ("a", "20310504")


def test_a_schedule_is_words_or_cron_fields():
    assert read(task("schedule: weekly  mon 03:00\n")).schedule == "weekly mon 03:00"
    assert read(task("schedule: '*/15 8-18 * * mon-fri'\n")).schedule == "*/15 8-18 * * mon-fri"
    assert "leave `after` or `schedule` out" in refused(task("after: a\nschedule: daily\n")).reason


def test_a_limit_by_the_clock_on_the_wall_is_none_or_minutes():
    assert read(task("")).limits.wall_minutes is None
    assert read(task("limits: {wall_minutes: 600}\n")).limits.wall_minutes == 600


@pytest.mark.parametrize("front", ["deliver: push\n"])
def test_fields_of_later_are_refused_with_a_clear_sentence(front: str):
    error = refused(task(front))
    assert "not supported yet" in error.reason
    assert error.line == 3


@pytest.mark.parametrize(
    ("front", "wanted"),
    [
        ("network: true\n", TaskNetwork()),
        ("network: pip\n", TaskNetwork(hosts=("pip",))),
        ("network: [pip, '*.example.org:8443']\n", TaskNetwork(hosts=("pip", "*.example.org:8443"))),
        ("network: {hosts: [a.example], during: loop}\n", TaskNetwork(hosts=("a.example",), during="loop")),
        ("network: {hosts: true, during: setup}\n", TaskNetwork()),
        ("network: false\n", None),
        ("network: []\n", None),
        ("network:\n", None),
        ("network: {hosts: false, during: loop}\n", None),
    ],
)
def test_a_network_is_asked_for_whole_or_host_by_host(front: str, wanted: TaskNetwork | None):
    assert read(task(front)).network == wanted


@pytest.mark.parametrize(
    ("front", "reason"),
    [
        ("network: [http://a.example]\n", "'http://a.example': the port is no number"),
        ("network: ['*']\n", "'*' is no host name"),
        ("network: {hosts: [a.example], during: checks}\n", "`network.during` must be `setup`, or `loop`"),
        ("network: {during: loop}\n", "found a group of fields"),
        ("network: {host: a.example}\n", "did you mean `network.hosts`?"),
        ("network: {hosts: 3}\n", "the number 3"),
    ],
)
def test_a_network_that_cannot_be_meant_is_refused(front: str, reason: str):
    assert reason in refused(task(front)).reason


def test_fields_of_later_that_ask_for_nothing_are_accepted():
    assert read(task("network: []\nafter:\nimages: []\n")).title == "Fix it"


# --- anything at all

_YAMLISH = st.text(alphabet="ab:-[]{}&*!|>?'\"#%@,\\U0\u2028\x85 \n\t~e.~", max_size=120)
_FIELDS = st.sampled_from(
    ["repo", "base", "crew", "checks", "limits", "id", "priority", "deliver", "images", "<<", "x"]
)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
@example(b"---\n\xef\xbb\xbf\n---\n")
@example(b"---\n%YAML 9.9\n---\nx")
def test_arbitrary_bytes_raise_nothing_but_task_file_errors(data: bytes):
    _never_raises_anything_else(data)


@settings(max_examples=600, deadline=None)
@given(front=st.lists(st.tuples(_FIELDS, _YAMLISH), max_size=5), loose=_YAMLISH, body=st.text(max_size=80))
def test_arbitrary_front_matter_raises_nothing_but_task_file_errors(
    front: list[tuple[str, str]], loose: str, body: str
):
    lines = "".join(f"{key}: {value}\n" for key, value in front)
    _never_raises_anything_else(f"---\n{lines}{loose}\n---\n{body}".encode("utf-8", "replace"))


def _never_raises_anything_else(data: bytes) -> None:
    try:
        request = parse(data, name="job", default_repo="/src/app", base_dir=Path("/base"))
    except TaskFileError as caught:
        error = caught
    else:
        assert request.title.isprintable()
        assert TaskRequest.model_validate_json(request.model_dump_json()) == request
        return
    assert error.reason
    assert error.line is None or 1 <= error.line <= data.replace(b"\r", b"\n").count(b"\n") + 2
