"""The log: one line an event, JSON or words, the task in it, and no secret."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator

import pytest

from fakes.records import delivered_events, recorded
from nightcrew.cli.eventlog import EventLog
from nightcrew.secrecy import HIDDEN, SECRETS
from nightcrew.telemetry import log


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in log.OWN}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_of_json_has_time_level_logger_task_and_text() -> None:
    stream = io.StringIO()
    log.set_up("info", json=True, environ={}, stream=stream)
    with log.about_task("k3v9q2"):
        logging.getLogger("nightcrew.journal").warning("the disk is %s", "full")
    log.logger().info("reloaded", keys=["concurrency"])
    first, second = lines(stream)
    assert first | {"time": 0} == {
        "event": "the disk is full",
        "task": "k3v9q2",
        "logger": "nightcrew.journal",
        "level": "warning",
        "time": 0,
    }
    assert (second["event"], second["keys"], "task" in second) == ("reloaded", ["concurrency"], False)


def test_an_exception_is_one_line_of_json() -> None:
    stream = io.StringIO()
    log.set_up("info", json=True, environ={}, stream=stream)
    logging.getLogger("nightcrew").error("it ended", exc_info=ValueError("a\nb"))
    [line] = lines(stream)
    assert "ValueError: a\nb" in line["exception"]


def test_words_for_people_are_one_line_each_whatever_is_logged() -> None:
    stream = io.StringIO()
    log.set_up("info", json=False, environ={}, stream=stream)
    with log.about_task("k3v9q2"):
        logging.getLogger("nightcrew").warning("a\n\x1b[31mforged")
    [line] = stream.getvalue().splitlines()
    assert line.split() == ["warning", "nightcrew:", "a", "[31mforged", "task=k3v9q2"]


@pytest.mark.parametrize("json", [True, False])
def test_no_secret_gets_into_the_log_by_text_value_or_traceback(json: bool) -> None:
    SECRETS.add("sk-in-the-log-1")
    stream = io.StringIO()
    log.set_up("debug", json=json, environ={}, stream=stream)
    logging.getLogger("httpx2").debug("headers: %s", {"authorization": "Bearer abcdefghijk"})
    log.logger().info("x sk-in-the-log-1", url="http://ann:hunter22@h/", key="sk-in-the-log-1")
    logging.getLogger("uvicorn.error").error("it ended", exc_info=ValueError("sk-in-the-log-1"))
    said = stream.getvalue()
    assert not [secret for secret in ("sk-in-the-log-1", "hunter22", "abcdefghijk") if secret in said]
    assert said.count(HIDDEN) == 5
    assert len(said.splitlines()) == 3 or not json


def test_the_level_is_for_our_own_and_others_speak_from_a_warning_on() -> None:
    stream = io.StringIO()
    log.set_up("info", json=True, environ={}, stream=stream)
    for name in ("httpx2", "nightcrew_tools.output"):
        logging.getLogger(name).debug("no")
        logging.getLogger(name).info("info of %s", name)
        logging.getLogger(name).warning("warning of %s", name)
    assert [line["event"] for line in lines(stream)] == [
        "warning of httpx2",
        "info of nightcrew_tools.output",
        "warning of nightcrew_tools.output",
    ]


def test_setting_up_again_does_not_double_the_lines() -> None:
    stream = io.StringIO()
    for level in ("info", "warning"):
        log.set_up(level, json=True, environ={}, stream=stream)
    logging.getLogger("nightcrew").info("no")
    logging.getLogger("nightcrew").error("once")
    assert [line["event"] for line in lines(stream)] == ["once"]


def test_the_journal_is_known_by_its_stream_and_gets_priorities(tmp_path) -> None:
    with (tmp_path / "journal").open("w+", encoding="utf-8") as stream:
        status = os.fstat(stream.fileno())
        environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert log.to_journal(environ, stream)
        assert not log.to_journal({"JOURNAL_STREAM": "1:1"}, stream)
        assert not log.to_journal(environ, io.StringIO())
        log.set_up("info", json=True, environ=environ, stream=stream)
        logging.getLogger("nightcrew").error("bad")
        logging.getLogger("nightcrew").info("good")
        stream.seek(0)
        assert [line[:4] for line in stream.read().splitlines()] == ["<3>{", "<6>{"]


def test_a_terminal_gets_words_and_everything_else_json() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert not log.wants_json("auto", {}, Terminal())
    assert log.wants_json("auto", {}, io.StringIO())
    assert log.wants_json("json", {}, Terminal())
    assert not log.wants_json("text", {}, io.StringIO())


def test_each_event_of_a_task_is_one_line_with_its_task() -> None:
    stream = io.StringIO()
    log.set_up("debug", json=True, environ={}, stream=stream)
    shown = EventLog(log.logger())
    events = recorded(*delivered_events())
    for one in events:
        shown.show(one)
    shown.say("stopping")
    told = lines(stream)
    assert [line["event"] for line in told] == [*(one.event.kind for one in events), "stopping"]
    assert {line["task"] for line in told[:-1]} == {"k3v9q2"}
    assert [line["seq"] for line in told[:-1]] == [one.seq for one in events]
    [ended] = [line for line in told if line["event"] == "task_ended"]
    assert ended["text"].startswith("ended delivered")
    quiet = [line for line in told if line["level"] == "debug"]
    assert all("text" not in line for line in quiet)
