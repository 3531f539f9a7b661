"""`nightcrew journal`: what it shows, for people and for programs."""

from __future__ import annotations

import json
import sqlite3
import threading
from pathlib import Path

import pytest

from fakes.command import Command, command
from fakes.journals import BETWEEN, build
from nightcrew.events import MessageAdded, ModelReplied, TaskEnded, ToolRan
from nightcrew.journal import Journal
from nightcrew_tools.contract import Outcome


@pytest.fixture
def home(tmp_path: Path) -> Path:
    build(tmp_path / "home" / "journal.sqlite")
    return tmp_path / "home"


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path) -> Command:
    return command(monkeypatch, capsys, home)


def test_each_event_is_one_line_with_number_time_kind_and_facts(cli: Command, home: Path):
    shown = cli("journal", "ended")
    with Journal.open(home / "journal.sqlite") as journal:
        events = journal.read("ended")
    lines = shown.out.splitlines()
    assert shown.code == 0
    assert [line.split()[0] for line in lines] == [str(one.seq) for one in events]
    assert [line.split()[3] for line in lines] == [one.event.kind for one in events]
    assert lines[0].split()[1:3] == events[0].at[:19].split("T")
    for fact in (
        "title=Prices",
        "worker=host/1",
        "before attempt=0",
        "planner",
        "read_file call_0",
        "by=ann",
        "branch=",
    ):
        assert fact in shown.out
    assert max(map(len, lines)) < 350


def test_what_a_model_wrote_cannot_move_the_cursor_or_forge_a_line(cli: Command, home: Path):
    with Journal.open(home / "journal.sqlite") as journal:
        evil = MessageAdded(conversation="planner", message='{"content":"\x1b[2J\n    9  2026 task_ended \u202e"}')
        journal.append("running", journal.record("running").seq + 1, evil)
    shown = cli("journal", "running")
    assert len(shown.out.splitlines()) == 10
    assert "\x1b" not in shown.out
    assert "\u202e" not in shown.out


def test_as_json_each_line_is_the_stored_event_in_ascii(cli: Command, home: Path):
    shown = cli("journal", "ended", "--json")
    with Journal.open(home / "journal.sqlite") as journal:
        events = journal.read("ended")
    assert [json.loads(line) for line in shown.out.splitlines()] == [one.model_dump(mode="json") for one in events]
    assert shown.out.isascii()


def test_a_conversation_is_printed_message_by_message_to_the_byte(cli: Command):
    messages = [e.message for e in BETWEEN if isinstance(e, MessageAdded | ModelReplied | ToolRan)]
    assert cli("journal", "ended", "-c", "planner").out == "".join(f"{message}\n" for message in messages)
    refused = cli("journal", "ended", "--conversation", "executor/1")
    assert refused.code == 2
    assert "there are: planner" in refused.err


def test_following_goes_on_until_the_task_has_ended(cli: Command, home: Path):
    def end() -> None:
        with Journal.open(home / "journal.sqlite") as journal:
            seq = journal.record("running").seq + 1
            journal.append("running", seq, TaskEnded(outcome=Outcome.FAILED, reason="so it is"))

    later = threading.Timer(0.3, end)
    later.start()
    shown = cli("journal", "running", "--follow")
    later.join()
    assert "outcome=failed reason=so it is" in shown.out.splitlines()[-1]


def test_what_stands_before_a_damaged_event_is_shown_and_the_damage_said(cli: Command, home: Path):
    with sqlite3.connect(home / "journal.sqlite") as connection:
        connection.execute("UPDATE event SET body = '{' WHERE task = 'ended' AND seq = 4")
    connection.close()
    shown = cli("journal", "ended")
    assert shown.code == 1
    assert len(shown.out.splitlines()) == 3
    assert "task ended: event 4 cannot be read" in shown.err
