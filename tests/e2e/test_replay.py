"""A replay: the recorded answers through the real loop, and what is sent held against what was sent then."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from fakes.command import Command, command
from fakes.house import fingerprint, house, make_repository, script
from fakes.journals import BETWEEN, REQUEST
from fakes.replays import GOLDENS, path, read
from nightcrew.agent import executor
from nightcrew.agent.recording import Recording, without_passing
from nightcrew.attachments import AttachmentStore, open_plain, pictures
from nightcrew.config import Config
from nightcrew.errors import EndpointRefused, NightcrewError
from nightcrew.events import ModelReplied, Recorded, TaskSubmitted
from nightcrew.journal.fold import fold
from nightcrew.service.replay import Replayed, refuse, replay
from nightcrew.service.worker import open_worker
from nightcrew_tools.contract import TaskRequest

pytestmark = pytest.mark.timeout(60)

RENEW = "if prompts were changed on purpose: PYTHONPATH=tests .venv/bin/python tests/fakes/replays.py"


async def again(root: Path, events: list[Recorded], **options: object) -> Replayed:
    repository = make_repository(root / "repository")
    before = fingerprint(repository)
    found = await replay(Config(home=root / "home"), events, repo=str(repository), say=lambda _: None, **options)
    assert fingerprint(repository) == before
    assert not (root / "home").exists()
    return found


@pytest.mark.anyio
@pytest.mark.parametrize("name", GOLDENS)
async def test_a_golden_journal_is_replayed_with_the_same_prompts_and_verdicts(name: str, open_tmp: Path):
    events = read(name)
    found = await again(open_tmp, events)
    assert found.differences == (), f"{found.differences}\n{RENEW}"
    assert found.same
    assert found.prompts == sum(isinstance(one.event, ModelReplied) for one in events)
    assert found.messages > found.prompts
    assert found.verdicts[-1]
    assert (found.recorded, found.outcome) == ("delivered", "delivered")


@pytest.mark.anyio
async def test_a_changed_prompt_is_seen_and_where(open_tmp: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(executor, "EXECUTOR", executor.EXECUTOR.replace("smallest change", "boldest change"))
    found = await again(open_tmp, read("stumbling"))
    [one] = found.differences
    assert (one.conversation, one.number, one.what, one.role) == ("executor/1", 1, "message", "system")
    assert "+" in one.text and "boldest change" in one.text
    assert not found.same
    assert found.verdicts == (True,)


@pytest.fixture
def cli(open_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return command(monkeypatch, capsys, open_tmp / "home")


def test_the_command_the_json_and_the_reports_say_in_large_letters_that_it_is_a_replay(cli: Command, open_tmp: Path):
    repository = make_repository(open_tmp / "repository")
    before = fingerprint(repository)
    kept = open_tmp / "kept"
    shown = cli("replay", path("stumbling"), "--repo", repository, "--json", "--keep", kept)
    assert shown.code == 0, shown.err
    assert "R  E  P  L  A  Y        NO MODEL IS ASKED, NOTHING IS DELIVERED" in shown.err
    said = json.loads(shown.out)
    assert said["REPLAY"] is True
    assert (said["same"], said["differences"]) == (True, [])
    assert fingerprint(repository) == before
    report = (kept / "home" / "outbox" / "replay.report.md").read_text()
    assert report.startswith("# THIS IS A REPLAY: NO MODEL WAS ASKED, AND NOTHING WAS DELIVERED\n")
    assert json.loads((kept / "home" / "outbox" / "replay.report.json").read_text())["replay_of"] == "0golden00"
    assert not (open_tmp / "home" / "journal.sqlite").exists()


def test_a_file_that_is_no_journal_and_a_task_that_is_not_there_are_said(cli: Command, open_tmp: Path):
    (open_tmp / "bad.jsonl").write_text("{}\n")
    assert "not the events of a task" in cli("replay", open_tmp / "bad.jsonl").err
    assert cli("replay", "nobody").code == 1


def test_a_changed_tool_is_seen_once_for_each_conversation():
    recording = Recording.of(read("stumbling"))
    for turn in list(recording.turns["executor"]):
        assert turn.tools
        recording.answer("executor", turn.prompt, turn.tools.replace('"finish_step"', '"end_step"'))
    [one] = recording.differences
    assert (one.conversation, one.number, one.what) == ("executor/1", 0, "tools")
    assert '+   "name": "end_step"' in one.text


@pytest.mark.anyio
async def test_what_is_attached_comes_along_and_pictures_are_shown_to_those_that_saw_them(open_tmp: Path):
    picture = open_tmp / "shot.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    async with house(open_tmp, script()) as home:
        store = AttachmentStore(home.config.attachments)
        staged = store.stage([("shot.png", partial(open_plain, picture))])
        store.settle(staged, "t1")
        seeing = {"executor": home.config.crews["scripted"].planner.model_copy(update={"vision": True})}
        crew = home.config.crews["scripted"].model_copy(update=seeing)
        config = home.config.model_copy(update={"crews": {"scripted": crew}})
        request = TaskRequest(
            title="Fix mean()",
            text="# Fix mean()\n\nmean([1, 2, 3]) must be 2.",
            repo=str(home.repository),
            attachments=staged.attachments,
            images=pictures(staged.attachments, ()),
        )
        home.journal.submit(request, origin="test", name_hint="fix", task_id="t1")
        assert home.journal.claim_task("t1", "test") is not None
        async with open_worker(config, home.journal, lambda _: None) as worker:
            await worker.run("t1")
        recorded = home.journal.read("t1")
    assert "image_url" in fold(recorded).conversations["executor/1"][1]
    found = await replay(config, recorded, say=lambda _: None)
    assert found.differences == ()
    assert found.same
    with pytest.raises(NightcrewError, match="its attachments are not here"):
        await replay(Config(home=open_tmp / "elsewhere"), recorded, say=lambda _: None)


# --- what cannot be replayed, and what differs


def events(*, until: str) -> list[Recorded]:
    found = [TaskSubmitted(request=REQUEST, name="n", origin="cli"), *BETWEEN]
    kinds = [event.kind for event in found]
    return [
        Recorded(task="t1", seq=number, at="2026-01-01T00:00:00.000Z", event=event)
        for number, event in enumerate(found[: kinds.index(until) + 1], 1)
    ]


def test_a_task_whose_answers_are_not_in_its_journal_is_refused_with_the_reason():
    with pytest.raises(NightcrewError, match="no model had answered yet"):
        refuse(fold(events(until="message_added")))
    with pytest.raises(NightcrewError, match="repair ladder"):
        refuse(fold(events(until="verdict_reached")))


def test_times_addresses_ids_and_temporary_names_pass_in_what_tools_and_checks_said_and_nothing_else_does():
    tool = '{"role":"tool","content":"Ran 2 tests in 0.003s at 10:20:30, commit 1a2b3c4d in /tmp/x_1"}'
    other = '{"role":"tool","content":"Ran 2 tests in 12.5s at 01:02:03, commit 99ffe01a in /tmp/y"}'
    assert without_passing(tool) == without_passing(other)
    assert without_passing(tool) != without_passing(other.replace("2 tests", "3 tests"))
    assert without_passing(tool.replace("tool", "system")) == tool.replace("tool", "system")
    assert without_passing('{"role":"tool","content":"1234567 deadbeef"}').count("<id>") == 0


@pytest.mark.parametrize("strict", [False, True])
def test_a_message_that_differs_only_in_time_is_counted_and_with_strict_a_difference(strict: bool):
    recording = Recording.of(read("stumbling"), strict=strict)
    turn = recording.turns["planner"][0]
    user = turn.prompt[1]
    assert "in 0." in user
    recording.answer("planner", [turn.prompt[0], user.replace("in 0.", "in 7.")])
    assert recording.passing == 1
    assert [one.number for one in recording.differences] == ([2] if strict else [])


def test_more_and_fewer_answers_and_messages_than_recorded_are_differences():
    recording = Recording.of(read("stumbling"))
    turn = recording.turns["planner"][0]
    recording.answer("planner", [*turn.prompt, '{"role":"user","content":"and more"}'])
    with pytest.raises(EndpointRefused, match="one more answer than the journal has"):
        recording.answer("planner", turn.prompt)
    first = recording.turns["executor"][0]
    recording.answer("executor", first.prompt[:1])
    recording.close()
    assert [(one.conversation, one.number, one.what) for one in recording.differences] == [
        ("planner", 3, "more"),
        ("planner", 3, "end"),
        ("executor/1", 2, "missing"),
        ("executor/1", 5, "end"),
    ]
