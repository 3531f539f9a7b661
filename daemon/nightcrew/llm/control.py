"""Control tokens in what is said, so that no text can pass for the frame around it.

A server writes a conversation into one text (its chat template) and reads the model's control tokens back out of it:
an `<|im_end|>` and `<|im_start|>system` in a file would end the tool's answer and speak as the system. So each of them
is sent with a mark inside, `<¦|im_start|>`, which no vocabulary knows as one, and the mark is taken away from what the
model writes. Both are exact opposites: a model that copies a line into an edit copies what stands in the file.

What is sent depends on the message alone, so a longer conversation still extends a shorter one. The journal, the tools
and the reports have the true text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

MARK = "¦"

_PATTERN = (
    # <|im_start|>, <|eot_id|>, <|image_pad|>: Qwen, Llama 3, Phi, gpt-oss; <｜User｜>: DeepSeek, with full-width bars.
    r"<¦*(?=\|[A-Za-z0-9_.:-]{1,48}\|>|｜[^<>｜\n]{1,48}｜>"
    # Qwen and Hermes, Mistral's and Llama's ends of a text, Gemma's turns.
    r"|/?(?:tool_call|tool_response|tools|think|s|start_of_turn|end_of_turn|start_of_image|end_of_image|bos|eos)>)"
    # Mistral.
    r"|\[¦*(?=/?(?:INST|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CALLS|TOOL_CONTENT|SYSTEM_PROMPT|THINK|MODEL_SETTINGS)\]"
    r"|(?:ARGS|CALL_ID|PREFIX|MIDDLE|SUFFIX|IMG|IMG_BREAK|IMG_END|AUDIO|BEGIN_AUDIO|TRANSCRIBE)\])"
)
_PLAIN = re.compile(_PATTERN)
_MARKED = re.compile(_PATTERN.replace("¦*", "¦+"))
_ESCAPE = re.compile(r"\\u(?:00[2-7a]|ff5c|2581)|\\/", re.IGNORECASE)
"""How JSON inside of JSON may write a letter of a token, or the mark."""

SILENCE = "(nothing)"
"""Sent for a reply that said and called nothing: Mistral's tokenizers refuse every later request with an empty one."""


def marked(text: str) -> str:
    """The text with one mark more in each control token."""
    return _PLAIN.sub(lambda match: match[0] + MARK, text)


def unmarked(text: str) -> str:
    """The text with one mark less in each control token that has any."""
    return _MARKED.sub(lambda match: match[0][:-1], text)


def unmarked_arguments(raw: str) -> str:
    """The JSON text of a call's arguments without marks, however its letters are written."""
    if MARK in raw:
        raw = unmarked(raw)
    if not _ESCAPE.search(raw):
        return raw
    try:
        arguments = json.loads(raw)
    except (ValueError, RecursionError):
        return raw
    plain = _each_text(arguments, unmarked)
    return raw if plain == arguments else json.dumps(plain, ensure_ascii=False, separators=(",", ":"))


_REMEMBERED = 256 * 1024
"""Characters of the longest message that is kept for the next request: one with pictures has millions."""


def as_sent(message: str) -> str:
    """The JSON text of a message as a server gets it. The same text where nothing has to be done, as nearly always."""
    return _remembered(message) if len(message) <= _REMEMBERED else _as_sent(message)


def _as_sent(message: str) -> str:
    silent = '"assistant"' in message and '"content":""' in message and '"tool_calls"' not in message
    calls = '"tool_calls"' in message
    if not (silent or _PLAIN.search(message) or (calls and _ESCAPE.search(message))):
        return message
    body = cast("dict[str, Any]", json.loads(message))
    for key in ("content", "reasoning_content"):
        body |= {key: _each_text(body[key], marked)} if key in body else {}
    for call in body.get("tool_calls") or ():
        call["function"]["arguments"] = _marked_arguments(call["function"]["arguments"])
    if body.get("role") == "assistant" and not (body.get("content") or body.get("tool_calls")):
        body["content"] = SILENCE
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


_remembered = lru_cache(maxsize=2048)(_as_sent)


def _marked_arguments(raw: str) -> str:
    """Servers parse arguments and write them anew, so that an escaped token would come out as a real one."""
    try:
        arguments = json.loads(raw)
    except (ValueError, RecursionError):
        return marked(raw)
    with_marks = _each_text(arguments, marked)
    return raw if with_marks == arguments else json.dumps(with_marks, ensure_ascii=False, separators=(",", ":"))


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    """The same JSON with each of its texts changed, names of fields too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_each_text(one, change) for one in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {change(key): _each_text(one, change) for key, one in cast("dict[str, Any]", value).items()}
    return value
