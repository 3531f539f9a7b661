"""Lost tool calls are recovered, arguments read, ids rewritten."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightcrew.llm.dialect import (
    known_tools,
    next_number,
    read_arguments,
    read_call,
    recover,
    recover_from_thoughts,
    split_thoughts,
)
from nightcrew.llm.wire import dumps

TOOLS = known_tools(
    json.dumps(
        [
            {"type": "function", "function": {"name": "read_file", "parameters": {}}},
            {
                "type": "function",
                "function": {
                    "name": "write_file",
                    "parameters": {"properties": {"text": {"type": "string"}, "mode": {"type": "integer"}}},
                },
            },
        ]
    )
)
READ = '{"name": "read_file", "arguments": {"path": "a.py"}}'


def recovered(content: str) -> tuple[str, list[tuple[str, dict | None]]]:
    text, calls = recover(content, TOOLS)
    return text, [(name, read_arguments(arguments)[0]) for name, arguments in calls]


@pytest.mark.parametrize(
    "content",
    [
        f"<tool_call>\n{READ}\n</tool_call>",
        f"<tool_call>{READ}",
        f"<tool_call>{READ}}}</tool_call>",
        f"<tools>{READ}</tools>",
        f"[TOOL_CALLS][{READ}]",
        f"[TOOL_CALLS] [{READ}]",
        '[TOOL_CALLS]read_file[ARGS]{"path": "a.py"}',
        '[TOOL_CALLS]read_file[CALL_ID]abcdefghi[ARGS]{"path": "a.py"}',
        '[TOOL_CALLS]read_file{"path": "a.py"}',
        'read_file[ARGS]{"path": "a.py"}',
        f"```json\n{READ}\n```",
        f"```\n{READ}\n```\n",
        READ,
        '{"name": "read_file", "parameters": {"path": "a.py"}}',
        '{"name": "read_file", "arguments": "{\\"path\\": \\"a.py\\"}"}',
        "<tool_call>\n<function=read_file>\n<parameter=path>\na.py\n</parameter>\n</function>\n</tool_call>",
    ],
)
def test_a_lost_call_is_recovered_from_the_text(content):
    assert recovered(content) == ("", [("read_file", {"path": "a.py"})])


def test_words_around_a_lost_call_stay():
    text, calls = recovered(f"I look first.\n<tool_call>{READ}</tool_call>\nThen I think.")
    assert (text, len(calls)) == ("I look first.\n\nThen I think.", 1)
    assert recovered(f"I look.\n```json\n{READ}\n```")[0] == "I look."


@pytest.mark.parametrize(
    "content",
    [
        f"<tool_call>{READ}</tool_call>\n<tool_call>{READ}</tool_call>",
        f"<tool_call>{READ}\n{READ}</tool_call>",
        f"[TOOL_CALLS][{READ}, {READ}]",
        '[TOOL_CALLS]read_file[ARGS]{"path": "a.py"}[TOOL_CALLS]read_file[ARGS]{"path": "a.py"}',
    ],
)
def test_several_lost_calls_are_recovered_in_order(content):
    assert recovered(content) == ("", [("read_file", {"path": "a.py"})] * 2)


@pytest.mark.parametrize(
    "content",
    [
        "Just words.",
        '<tool_call>{"name": "launch", "arguments": {}}</tool_call>',
        '{"name": "launch", "arguments": {}}',
        '{"name": "read_file"}',
        '{"name": "read_file", "arguments": {}, "why": "a file that happens to look so"}',
        f"```json\n{READ}\n```\nand\n```json\n{READ}\n```",
        f"```json\n{READ}\n```\nis how it would look.",
        "call read_file {path} or not",
        "[TOOL_CALLS]",
        "<tool_call>",
    ],
)
def test_a_text_that_only_resembles_a_call_is_left_alone(content):
    assert recover(content, TOOLS) == (content, [])


def test_nothing_is_recovered_where_no_tools_are_known():
    assert recover(f"<tool_call>{READ}</tool_call>", known_tools(None)) == (f"<tool_call>{READ}</tool_call>", [])


def test_a_closing_tag_inside_an_argument_does_not_end_the_call():
    call = {"name": "write_file", "arguments": {"text": "say </tool_call> and }"}}
    assert recovered(f"<tool_call>{json.dumps(call)}</tool_call>") == ("", [("write_file", call["arguments"])])


def test_xml_values_are_text_unless_the_schema_says_otherwise():
    body = '<parameter=text>\n{"a": 1}\n</parameter>\n<parameter=mode>420</parameter>'
    content = f"<tool_call>\n<function=write_file>\n{body}\n</function>\n</tool_call>"
    assert recovered(content) == ("", [("write_file", {"text": '{"a": 1}', "mode": 420})])


def test_a_lost_call_beyond_repair_is_still_a_call_with_a_problem():
    content = '<tool_call>{"name": "write_file", "arguments": {"text": "a "quoted" word"}}</tool_call>'
    text, calls = recover(content, TOOLS)
    assert (text, calls[0][0]) == ("", "write_file")
    assert read_arguments(calls[0][1])[0] is None


def test_a_call_at_the_end_of_thoughts_is_recovered():
    thoughts = f"I should look.\n<tool_call>\n{READ}\n</tool_call>"
    assert recover_from_thoughts(thoughts, TOOLS)[0] == "I should look."
    assert len(recover_from_thoughts(thoughts, TOOLS)[1]) == 1
    musing = f"Say <tool_call>{READ}</tool_call>? No."
    assert recover_from_thoughts(musing, TOOLS) == (musing, [])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("<think>\nhm\n</think>\n\nanswer", ("answer", "hm")),
        ("\n<think>hm</think>answer", ("answer", "hm")),
        ("hm\n</think>\n\nanswer", ("answer", "hm")),
        ("<think>cut off", ("", "cut off")),
        ("[THINK]hm[/THINK]answer", ("answer", "hm")),
        ("the tag </think> ends thoughts", ("the tag </think> ends thoughts", "")),
        ("use <think> and\n</think>\nas tags", ("use <think> and\n</think>\nas tags", "")),
        ("answer", ("answer", "")),
    ],
)
def test_thoughts_left_in_the_content_are_split_off(content, expected):
    assert split_thoughts(content) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ('{"a": 1}', {"a": 1}),
        ("", {}),
        ("null", {}),
        ('"{\\"a\\": 1}"', {"a": 1}),
        ('{"a": 1,}', {"a": 1}),
        ('{"a": [1, 2, ], }', {"a": [1, 2]}),
        ('{"a": {"b": 1}', {"a": {"b": 1}}),
        ('{"a": 1}}', {"a": 1}),
        ('{"a": "one\ntwo"}', {"a": "one\ntwo"}),
        ('{"a": "keep ,} this"}', {"a": "keep ,} this"}),
    ],
)
def test_slightly_broken_arguments_are_understood(raw, expected):
    assert read_arguments(raw) == (expected, "")


@pytest.mark.parametrize(
    "raw", ['{"a": "cut of', "[1]", '"text"', "7", '{"a": NaN}', "path=a", '{"a": {"b": {', "[" * 100_000, "9" * 5000]
)
def test_arguments_beyond_repair_become_a_sentence_for_the_model(raw):
    arguments, problem = read_arguments(raw)
    assert arguments is None
    assert problem.startswith("The arguments are ") and "JSON object" in problem


def test_arguments_cut_off_by_the_token_limit_are_not_repaired():
    arguments, problem = read_arguments('{"path": "a"', cut=True)
    assert arguments is None and "token limit" in problem
    assert read_arguments('{"path": "a"}', cut=True) == ({"path": "a"}, "")


def test_a_call_goes_back_as_the_model_wrote_it_when_that_is_json():
    call = read_call(3, "read_file", '{ "path":"a" }')
    assert call.as_sent() == {
        "id": "call00003",
        "type": "function",
        "function": {"name": "read_file", "arguments": '{ "path":"a" }'},
    }


@pytest.mark.parametrize("raw", ["", '{"a": 1,}', '{"a": "x\ny"}', '"{}"', "[1]", '{"a', '{"a": "\\ud800"}'])
def test_what_goes_back_can_be_parsed_by_a_strict_server(raw):
    call = read_call(0, "f", raw)
    sent = call.as_sent()["function"]["arguments"]
    assert isinstance(json.loads(sent), dict)
    dumps(call.as_sent()).encode()
    dumps(call.arguments).encode()


def test_broken_arguments_go_back_quoted_so_that_the_model_sees_them():
    assert json.loads(read_call(0, "f", '{"a').as_sent()["function"]["arguments"]) == {"malformed_arguments": '{"a'}


def test_a_name_that_no_server_takes_back_is_made_harmless():
    assert read_call(0, "read file\n", "{}").name == "read_file_"
    assert read_call(0, "", "{}").name == "unnamed"


@given(st.integers(0, 99_999))
def test_ids_are_nine_letters_and_digits(number):
    assert re.fullmatch(r"[a-zA-Z0-9]{9}", read_call(number, "f", "{}").id)


def test_ids_go_on_from_the_calls_before_even_when_messages_were_dropped():
    def message(*numbers: int) -> str:
        return dumps(
            {"role": "assistant", "tool_calls": [read_call(number, "f", "{}").as_sent() for number in numbers]}
        )

    user = '{"role":"user","content":"\\"tool_calls\\""}'
    assert next_number([user]) == 0
    assert next_number([user, message(0, 1), user, message(2)]) == 3
    assert next_number([user, message(7)]) == 8


@given(st.text(max_size=200))
def test_no_text_breaks_the_readers(text):
    recover(text, TOOLS)
    recover(f"<tool_call>{text}", TOOLS)
    recover(f"[TOOL_CALLS]{text}", TOOLS)
    split_thoughts(text)
    arguments, problem = read_arguments(text)
    assert (arguments is None) == bool(problem)
