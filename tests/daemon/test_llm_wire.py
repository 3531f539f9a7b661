"""Request bytes, server-sent events, and replies put together from pieces."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightcrew.llm.wire import (
    Assembler,
    ErrorPayload,
    EventDecoder,
    TooLarge,
    chat_body,
    clean,
    completion_body,
    dumps,
    error_sentence,
    error_status,
    read_usage,
)


def assembled(*payloads: dict, **options) -> Assembler:
    parts = Assembler(**{"max_pieces": 1000, **options})
    for payload in payloads:
        parts.add(payload)
    return parts


def delta(finish_reason: str | None = None, **fields) -> dict:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}]}


def call(index: int | None = None, call_id: str | None = None, name: str | None = None, arguments=None) -> dict:
    piece = {"function": {"name": name, "arguments": arguments}}
    if index is not None:
        piece["index"] = index
    if call_id is not None:
        piece["id"] = call_id
    return delta(tool_calls=[piece])


def calls_of(parts: Assembler) -> list[tuple[str, str]]:
    return [(pieces.name, pieces.arguments) for pieces in parts.calls]


def test_messages_go_in_as_the_bytes_that_were_given():
    odd = '{"role":"user",  "content":"caf\\u00e9 é"}'
    body = chat_body("m", [odd, '{"role":"user","content":"2"}'], None, {})
    assert body == f'{{"model":"m","messages":[{odd},{{"role":"user","content":"2"}}]}}'.encode()


def test_everything_that_may_change_stands_behind_messages_and_tools():
    body = chat_body("m", ['{"role":"user"}'], "[1]", {"stream": True, "temperature": 0.5})
    assert body == b'{"model":"m","messages":[{"role":"user"}],"tools":[1],"stream":true,"temperature":0.5}'


def test_a_completion_request_is_json():
    assert json.loads(completion_body("m", 'a"\n', {"stop": ["x"]})) == {"model": "m", "prompt": 'a"\n', "stop": ["x"]}


def test_a_lone_surrogate_in_a_message_can_be_sent():
    assert b'"x?"' in chat_body("m", ['"x\ud800"'], None, {})


def test_content_reasoning_and_usage_are_put_together():
    parts = assembled(
        delta(role="assistant", content=""),
        delta(reasoning_content="thin"),
        delta(reasoning="king"),
        delta(content="an"),
        delta(content="swer"),
        delta("stop"),
        {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": None}},
    )
    assert (parts.content, parts.reasoning, parts.finish_reason) == ("answer", "thinking", "stop")
    assert (parts.usage.prompt_tokens, parts.usage.completion_tokens, parts.usage.cached_tokens) == (7, 2, 0)


def test_reasoning_that_comes_under_both_names_is_taken_once():
    assert assembled(delta(reasoning="a", reasoning_content="a")).reasoning == "a"


def test_tool_calls_are_put_together_by_index():
    parts = assembled(
        call(0, "call_1", "read_", ""),
        call(0, None, "file", None),
        call(1, "call_2", "list_files", '{"pa'),
        call(0, None, None, '{"path":'),
        call(1, None, None, 'th":"."}'),
        call(0, None, None, '"a"}'),
    )
    assert calls_of(parts) == [("read_file", '{"path":"a"}'), ("list_files", '{"path":"."}')]


def test_whole_calls_that_all_have_index_0_stay_apart():
    parts = assembled(call(0, "a", "read_file", '{"path":"a"}'), call(0, "b", "read_file", '{"path":"b"}'))
    assert calls_of(parts) == [("read_file", '{"path":"a"}'), ("read_file", '{"path":"b"}')]


def test_whole_calls_without_index_and_id_stay_apart():
    parts = assembled(
        call(name="read_file", arguments='{"path":"a"}'), call(name="read_file", arguments='{"path":"b"}')
    )
    assert calls_of(parts) == [("read_file", '{"path":"a"}'), ("read_file", '{"path":"b"}')]


def test_pieces_without_index_belong_to_the_last_call():
    parts = assembled(call(call_id="a", name="read_file", arguments='{"path'), call(arguments='":"a"}'))
    assert calls_of(parts) == [("read_file", '{"path":"a"}')]


def test_a_name_that_is_repeated_with_every_piece_is_taken_once():
    parts = assembled(call(0, "a", "read_file", '{"path'), call(0, "a", "read_file", '":"a"}'))
    assert calls_of(parts) == [("read_file", '{"path":"a"}')]


def test_arguments_that_come_as_an_object_become_text():
    assert calls_of(assembled(call(0, "a", "f", {"x": 1}))) == [("f", '{"x":1}')]


def test_a_plain_response_is_read_like_a_stream_of_one_piece():
    calls = [{"function": {"name": "f", "arguments": "{}"}}, {"function": {"name": "f", "arguments": "{}"}}]
    message = {"content": [{"type": "thinking", "thinking": [{"text": "hm"}]}, {"text": "so"}], "tool_calls": calls}
    parts = assembled({"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]})
    assert (parts.content, parts.reasoning, calls_of(parts)) == ("so", "hm", [("f", "{}"), ("f", "{}")])


def test_fields_of_the_wrong_type_count_as_absent():
    parts = assembled(
        {"choices": [{"index": 0, "delta": {"content": 5, "tool_calls": {}}, "finish_reason": {"type": "stop"}}]},
        {"choices": [None, 3], "usage": []},
        {"choices": {}, "usage": {"prompt_tokens": "7", "completion_tokens": True, "prompt_tokens_details": 1}},
        {"model": None},
    )
    assert (parts.content, parts.finish_reason, parts.calls, parts.usage.prompt_tokens) == ("", "", [], 0)


def test_a_surrogate_pair_cut_in_two_pieces_is_joined():
    first, second = json.loads('["\\ud83d", "\\ude00"]')
    assert assembled(delta(content=first), delta(content=second)).content == "😀"
    assert clean(first) == "\ufffd"


def test_an_empty_first_piece_is_not_yet_a_token():
    assert not assembled(delta(role="assistant", content="")).started
    assert assembled(delta(content="x")).started


@pytest.mark.parametrize(
    "payload",
    [{"error": {"message": "no"}}, {"error": "no"}, {"object": "error", "message": "no"}, {"detail": "no"}],
)
def test_an_error_in_place_of_a_reply_is_raised(payload):
    with pytest.raises(ErrorPayload):
        assembled(payload)
    assert error_sentence(payload) == "no"


def test_the_status_of_an_error_is_found_where_servers_put_it():
    assert error_status({"error": {"code": 400}}) == 400
    assert error_status({"error": {"code": "429"}}) == 429
    assert error_status({"error": {"type": "invalid_request_error"}}) == 400
    assert error_status({"object": "error", "code": 404}) == 404
    assert error_status({"error": "boom"}) == 500
    assert error_sentence({"strange": 1}) == '{"strange":1}'


def test_a_reply_without_end_counts_as_full():
    assert assembled(*[delta(content=" ")] * 11, max_pieces=10).full
    assert assembled(delta(content="x" * 101), max_bytes=100).full
    assert not assembled(*[delta(content="")] * 50, max_pieces=10).full


def test_usage_reads_cached_tokens():
    usage = read_usage({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 8}})
    assert (usage.prompt_tokens, usage.cached_tokens) == (9, 8)


def decoded(stream: bytes, cuts: list[int]) -> list[str]:
    decoder = EventDecoder()
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    events = [event for a, b in pairwise(places) for event in decoder.feed(stream[a:b])]
    return events + decoder.close()


def test_events_are_decoded_with_comments_and_every_kind_of_line_end():
    stream = b': keep-alive\n\ndata: {"a": 1}\r\n\r\nevent: x\ndata:two\ndata: lines\n\nid: 3\n\ndata: last'
    assert decoded(stream, []) == ['{"a": 1}', "two\nlines", "last"]


@given(
    st.lists(st.text(st.characters(blacklist_characters="\r\n", blacklist_categories=("Cs",))), max_size=5),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.lists(st.integers(0, 200), max_size=8),
)
def test_events_are_the_same_wherever_the_bytes_are_cut(texts, end, cuts):
    stream = "".join(f"data: {text}{end}{end}" for text in texts).encode()
    assert decoded(stream, cuts) == texts


def test_an_event_larger_than_any_reply_is_refused(monkeypatch):
    monkeypatch.setattr("nightcrew.llm.wire.REPLY_CAP", 1000)
    decoder = EventDecoder()
    decoder.feed(b"data: " + b"x" * 900)
    with pytest.raises(TooLarge):
        decoder.feed(b"x" * 200)


def test_dumps_gives_the_same_text_for_the_same_value():
    assert dumps({"b": "é", "a": [1, 2.5]}) == '{"b":"é","a":[1,2.5]}'
