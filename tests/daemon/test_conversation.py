"""The transcript as state: what comes next is read off the last messages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nightcrew.agent.breaker import NUDGE, empty_replies, repeats
from nightcrew.agent.conversation import Conversation, read_call
from nightcrew.agent.ledger import Ledger
from nightcrew.agent.planner import plan_from_text
from nightcrew.agent.prompts import FINISH_STEP, clip, with_harness_tool
from nightcrew.agent.work import branch_name
from nightcrew.config import RoleSettings
from nightcrew.domain import Usage
from nightcrew.events import ModelReplied
from nightcrew.journal import Journal
from nightcrew.llm.client import ModelClient
from nightcrew_tools.contract import TaskRequest


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Journal.open(tmp_path / "journal.sqlite") as journal:
        task = journal.submit(TaskRequest(title="t", text="t", repo="/r"), origin="test", name_hint="t").task
        assert journal.claim_task(task, "me") is not None
        yield Ledger(journal, journal.record(task))


def talk(ledger: Ledger) -> Conversation:
    conversation = Conversation(ledger, "executor/1", ModelClient(RoleSettings(base_url="http://127.0.0.1:1/v1")))
    conversation.open("system", "user")
    return conversation


def reply(ledger: Ledger, content: str = "", **calls: dict[str, Any]) -> None:
    body: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        body["tool_calls"] = [
            {"id": key, "type": "function", "function": {"name": "read_file", "arguments": json.dumps(value)}}
            for key, value in calls.items()
        ]
    message = json.dumps(body)
    ledger.append(
        ModelReplied(conversation="executor/1", message=message, finish_reason="stop", usage=Usage(), seconds=0)
    )


def test_a_new_conversation_waits_for_the_model(ledger: Ledger) -> None:
    conversation = talk(ledger)
    assert conversation.is_models_turn
    conversation.open("another system text", "another user text")
    assert len(conversation.texts) == 2


def test_calls_without_an_answer_are_pending_in_their_order(ledger: Ledger) -> None:
    conversation = talk(ledger)
    reply(ledger, a={"path": "x"}, b={"path": "y"})
    assert [call.id for call in conversation.pending()] == ["a", "b"]
    conversation.answer(conversation.pending()[0], "text")
    assert [call.id for call in conversation.pending()] == ["b"]
    assert not conversation.is_models_turn
    conversation.answer(conversation.pending()[0], "text")
    assert conversation.is_models_turn


def test_evidence_answers_the_call_that_handed_the_work_over(ledger: Ledger) -> None:
    conversation = talk(ledger)
    reply(ledger, a={}, b={})
    conversation.evidence("it did not pass")
    assert [json.loads(text)["content"] for text in conversation.texts[3:]] == [
        "Not run: the step had been handed over.",
        "it did not pass",
    ]


def test_evidence_without_a_call_is_a_user_message(ledger: Ledger) -> None:
    conversation = talk(ledger)
    reply(ledger, "I am done.")
    conversation.evidence("it did not pass")
    assert conversation.last == {"role": "user", "content": "it did not pass"}


def test_a_call_is_repeated_when_call_and_answer_are_the_same(ledger: Ledger) -> None:
    conversation = talk(ledger)
    for key, answer in (("a", "1"), ("b", "2"), ("c", "2"), ("d", "2\n\n[harness] Do something else.")):
        reply(ledger, **{key: {"path": "x"}})
        conversation.answer(conversation.pending()[0], answer)
    assert repeats(conversation) == 3
    reply(ledger, e={"path": "other"})
    conversation.answer(conversation.pending()[0], "2")
    assert repeats(conversation) == 1


def test_only_empty_replies_in_a_row_count(ledger: Ledger) -> None:
    conversation = talk(ledger)
    for content in ("", "text", " ", "\n"):
        reply(ledger, content)
        conversation.add("user", f"{NUDGE} Go on.")
    assert empty_replies(conversation) == 2


def test_whoever_was_stuck_gets_his_turns_again_when_something_new_is_said(ledger: Ledger) -> None:
    conversation = talk(ledger)
    for key in ("a", "b", "c"):
        reply(ledger, **{key: {"path": "x"}})
        conversation.answer(conversation.pending()[0], "1")
    assert repeats(conversation) == 3
    conversation.evidence("Attempt 2. It was not accepted.")
    assert repeats(conversation) == 1
    reply(ledger, "")
    assert empty_replies(conversation) == 1
    conversation.add("user", "Attempt 3. It was not accepted.")
    assert empty_replies(conversation) == 0


def test_half_a_surrogate_pair_in_arguments_is_replaced() -> None:
    call = read_call({"id": "a", "function": {"name": "f", "arguments": '{"summary": "odd \\ud83d"}'}})
    assert call.arguments == {"summary": "odd ?"}


@pytest.mark.parametrize("arguments", ["[1]", "{", '{"malformed_arguments": "x"}', "3"])
def test_arguments_that_are_no_object_are_a_problem(arguments: str) -> None:
    call = read_call({"id": "a", "function": {"name": "f", "arguments": arguments}})
    assert call.problem
    assert call.arguments == {}


def test_a_plan_is_read_out_of_fenced_json_plain_json_or_prose() -> None:
    body = json.dumps({"summary": "s", "steps": [{"title": "one", "checks": "make"}, "two"]})
    for text in (body, f"Here it is:\n```json\n{body}\n```\n"):
        plan = plan_from_text(text, 1)
        assert [(step.title, step.checks) for step in plan.steps] == [("one", ("make",)), ("two", ())]
    assert [step.title for step in plan_from_text("Just do it.", 1).steps] == ["Just do it."]


def test_the_loops_own_tool_stands_behind_the_others() -> None:
    tools = json.loads(with_harness_tool('[{"type":"function","function":{"name":"a"}}]', FINISH_STEP))
    assert [tool["function"]["name"] for tool in tools] == ["a", "finish_step"]
    assert json.loads(with_harness_tool("[]", FINISH_STEP)) == [FINISH_STEP]


def test_a_long_text_keeps_its_head_and_more_of_its_tail() -> None:
    text = clip("a" * 500 + "z" * 500, 100)
    assert text.startswith("a" * 25 + "\n[… 900 characters left out …]\n")
    assert text.endswith("z" * 75)
    assert clip("short", 100) == "short"


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Fix the Ünicode & Co.!", "nightcrew/t1-fix-the-nicode-co"),
        ("…", "nightcrew/t1-task"),
        ("x" * 99, "nightcrew/t1-" + "x" * 60),
    ],
)
def test_a_branch_is_named_after_the_task(title: str, expected: str) -> None:
    assert branch_name("t1", title) == expected
