"""What models write when they call tools: lost calls are recovered, arguments read, ids rewritten."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from nightcrew.llm.wire import JsonObject, as_dict, as_list, as_object, as_text, clean, dumps

Tools = Mapping[str, JsonObject]
"""Tool name to the JSON schema of its parameters."""

THOUGHTS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
CALL_TAGS = (("<tool_call>", "</tool_call>"), ("<tools>", "</tools>"))

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_OUR_ID = re.compile(r"call(\d{5})")
_MISTRAL_CALL = re.compile(
    r"(?P<mark>\[TOOL_CALLS\]\s*)?(?P<name>[A-Za-z0-9_.-]+)\s*(?:\[CALL_ID\]\s*\w+\s*)?(?P<args>\[ARGS\])?\s*(?=\{)"
)
_LONE_BLOCK = re.compile(r"```(?:json|tool_call|tool_code)?[ \t]*\n(?P<body>\s*\{.*\}\s*)\n?```\s*\Z", re.DOTALL)
_XML_CALL = re.compile(r"\s*<function=(?P<name>[^>\s]+)>(?P<body>.*?)(?:</function>\s*|\Z)", re.DOTALL)
_XML_ARGUMENT = re.compile(r"<parameter=(?P<key>[^>\s]+)>\n?(?P<value>.*?)\n?</parameter>", re.DOTALL)
_NAME_IN_BROKEN = re.compile(r'\s*\{\s*"name"\s*:\s*"(?P<name>[^"]+)"\s*,\s*"(?:arguments|parameters)"\s*:\s*')


@dataclass(frozen=True)
class ToolCall:
    """A tool call as the model meant it.

    `raw_arguments` is what it wrote. `arguments` is None, and `problem` a sentence for the model, when that is no JSON
    object. `id` is nine letters and digits, unique in its conversation: Mistral's tokenizers refuse any other.
    """

    id: str
    name: str
    arguments: dict[str, Any] | None
    raw_arguments: str
    problem: str = ""

    def as_sent(self) -> JsonObject:
        """The call as it goes into the assistant message.

        Servers parse the arguments of earlier calls, so broken ones would make every later request fail: they go back
        as a JSON object that quotes them.
        """
        arguments = self.raw_arguments
        if self.arguments is None:
            arguments = dumps({"malformed_arguments": self.raw_arguments})
        elif not _is_strict_object(arguments):
            arguments = dumps(self.arguments)
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": arguments}}


class Found(NamedTuple):
    """A call found in a text: where it stands, and what it says."""

    start: int
    end: int
    name: str
    arguments: str


@lru_cache(maxsize=32)
def known_tools(tools: str | None) -> Tools:
    """The tools of a request by name; `tools` is the JSON text of its `tools` field."""
    entries = [as_object(as_object(entry).get("function")) for entry in as_list(json.loads(tools or "[]"))]
    return {as_text(entry.get("name")): as_object(entry.get("parameters")) for entry in entries}


def split_thoughts(content: str) -> tuple[str, str]:
    """Content and thoughts of a text in which a server left both: `<think>…</think>` first, perhaps without its head,
    which some chat templates write into the prompt."""
    start = len(content) - len(content.lstrip())
    for head, tail in THOUGHTS:
        if content.startswith(head, start):
            thoughts, _, rest = content[start + len(head) :].partition(tail)
            return rest.lstrip("\n"), thoughts.strip("\n")
        # Without the head only a closing tag alone on its line counts: a text may well speak of such tags.
        if head not in content and (match := re.search(rf"^{re.escape(tail)}[ \t]*(?:\n|\Z)", content, re.MULTILINE)):
            return content[match.end() :].lstrip("\n"), content[: match.start()].strip("\n")
    return content, ""


def recover(content: str, tools: Tools) -> tuple[str, list[tuple[str, str]]]:
    """Calls that a server's parser left in the text, as (name, arguments), and the text without them.

    Reads Hermes and Qwen (`<tool_call>{…}</tool_call>`, and Qwen-Coder's XML inside it), Mistral (`[TOOL_CALLS][{…}]`,
    `[TOOL_CALLS]name[ARGS]{…}`) and a lone JSON block or text `{"name": …, "arguments": …}`. Only calls of `tools`
    count: a text may speak of others.
    """
    if not tools:
        return content, []
    for read in (_tagged, _mistral, _lone):
        found = [call for call in read(content, tools) if call.name in tools]
        if found:
            kept = [content[end:start] for end, start in _gaps(found, len(content))]
            return "".join(kept).strip(), [(call.name, call.arguments) for call in found]
    return content, []


def recover_from_thoughts(reasoning: str, tools: Tools) -> tuple[str, list[tuple[str, str]]]:
    """Calls at the very end of thoughts, where a model forgot to stop thinking before it called."""
    start = min((at for head, _ in CALL_TAGS if (at := reasoning.find(head)) >= 0), default=-1)
    if start < 0 or not reasoning.rstrip().endswith(tuple(tail for _, tail in CALL_TAGS)):
        return reasoning, []
    rest, calls = recover(reasoning[start:], tools)
    return (reasoning, []) if rest or not calls else (reasoning[:start].rstrip(), calls)


def read_arguments(raw: str, *, cut: bool = False) -> tuple[dict[str, Any] | None, str]:
    """The arguments of a call, or None and what is wrong with them.

    A JSON object in a string, unescaped line ends, trailing commas, and one closing brace too few or too many are
    understood; nothing is where `cut` says that the reply ran into its token limit.
    """
    if raw.strip() in ("", "null") and not cut:
        return {}, ""
    value, problem = _loads(raw)
    if problem and not cut:
        value, _ = _loads(_repaired(raw))
    if isinstance(value, str):
        value, problem = _loads(value)
    if (arguments := as_dict(value)) is not None:
        return _encodable(arguments), ""
    if cut:
        return None, "The arguments were cut off: the reply reached its token limit. Send less in one call."
    kind = f"not valid JSON ({problem})" if problem else f"a JSON {_kind(value)}, not an object"
    return None, f"The arguments are {kind}. Send the call again with one JSON object as its arguments."


def next_number(messages: Sequence[str]) -> int:
    """The running number of the next tool call in a conversation of JSON texts: the number of calls before it, and past
    every number that its messages name, should some have been dropped."""
    calls = [call for message in messages if '"tool_calls"' in message for call in _calls_of(message)]
    named = [int(match[1]) + 1 for call in calls if (match := _OUR_ID.fullmatch(as_text(call.get("id"))))]
    return max([len(calls), *named])


def read_call(number: int, name: str, raw: str, *, cut: bool = False) -> ToolCall:
    """The call with this running number, read; a name that no server would take back is made harmless."""
    arguments, problem = read_arguments(raw, cut=cut)
    if not _NAME.fullmatch(name):
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:64] or "unnamed"
    return ToolCall(f"call{number % 100_000:05d}", name, arguments, raw, problem)


def _calls_of(message: str) -> Iterator[JsonObject]:
    yield from map(as_object, as_list(as_object(json.loads(message)).get("tool_calls")))


def _kind(value: object) -> str:
    if isinstance(value, list):
        return "array"
    return "string" if isinstance(value, str) else "value"


def _encodable(value: dict[str, Any]) -> dict[str, Any]:
    """The same without lone surrogates, which JSON can write and no encoding can send."""
    text = dumps(value)
    return value if text == clean(text) else json.loads(clean(text))


def _gaps(found: Sequence[Found], length: int) -> Iterator[tuple[int, int]]:
    ends = [0, *(call.end for call in found)]
    starts = [*(call.start for call in found), length]
    yield from zip(ends, starts, strict=True)


def _loads(text: str) -> tuple[Any, str]:
    """Parsed leniently towards raw control characters in strings; or None and what is wrong."""
    try:
        return json.loads(text, strict=False, parse_constant=_refuse), ""
    except RecursionError:
        return None, "nested too deeply"
    except ValueError as error:
        return None, str(error)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _is_strict_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text, parse_constant=_refuse), dict)
    except (ValueError, RecursionError):
        return False


def _repaired(text: str) -> str:
    """Without trailing commas, and with the one closing brace that is missing or one too many put right."""
    text = text.strip()
    kept: list[str] = []
    depth = 0
    for part in re.findall(r'"(?:[^"\\]|\\.)*"|\s+|.', text, re.DOTALL):
        depth += (part == "{") - (part == "}")
        if part in "}]":
            while kept and (kept[-1].isspace() or kept[-1] == ","):
                kept.pop()
        kept.append(part)
    joined = "".join(kept)
    if depth == 1:
        return joined.rstrip().rstrip(",") + "}"
    return joined[:-1] if depth == -1 and joined.endswith("}") else joined


def _object_at(text: str, start: int, stop: int) -> tuple[dict[str, Any], int] | None:
    """The JSON object that begins at `start`, and where it ends; a broken one is mended, and ends at `stop`."""
    while start < stop and text[start].isspace():
        start += 1
    try:
        value, end = json.JSONDecoder(strict=False).raw_decode(text, start)
    except (ValueError, RecursionError):
        value, end = _loads(_repaired(text[start:stop]))[0], stop
    found = as_dict(value)
    return None if found is None else (found, end)


def _call_of(value: JsonObject) -> tuple[str, str] | None:
    """Name and arguments of a `{"name": …, "arguments": {…}}`."""
    arguments = value.get("arguments", value.get("parameters"))
    fields = as_dict(arguments)
    if not isinstance(value.get("name"), str) or (fields is None and not isinstance(arguments, str)):
        return None
    return value["name"], as_text(arguments) if fields is None else dumps(_encodable(fields))


def _tagged(content: str, tools: Tools) -> Iterator[Found]:
    for head, tail in CALL_TAGS:
        position = 0
        while (start := content.find(head, position)) >= 0:
            body = start + len(head)
            close = content.find(tail, body)
            stop = len(content) if close < 0 else close
            position, calls = _in_tag(content, body, stop, tools)
            # Some models close one brace too many; some never write the closing tag.
            after = re.compile(rf"[\s}}]*(?:{re.escape(tail)}|\Z)").match(content, position)
            position = after.end() if after else position
            for name, arguments in calls:
                yield Found(start, position, name, arguments)
                start = position


def _in_tag(content: str, body: int, stop: int, tools: Tools) -> tuple[int, list[tuple[str, str]]]:
    """Where the body of a tag ends, and the calls in it."""
    if match := _XML_CALL.match(content, body):
        return match.end(), [(match["name"], _xml_arguments(match["body"], tools.get(match["name"], {})))]
    calls: list[tuple[str, str]] = []
    position = body
    while (parsed := _object_at(content, position, stop)) is not None:
        position = parsed[1]
        if call := _call_of(parsed[0]):
            calls.append(call)
    if position == body:
        # Beyond repair, but a call all the same: the model is to hear that, not to be taken for finished.
        broken = _NAME_IN_BROKEN.match(content, body, stop)
        calls = [(broken["name"], content[broken.end() : stop].strip())] if broken else []
        position = stop
    return position, calls


def _xml_arguments(body: str, schema: JsonObject) -> str:
    """The parameters of a Qwen-Coder call. Their values are bare text, so the schema says what is not a string."""
    properties = as_object(schema.get("properties"))
    arguments: dict[str, Any] = {}
    for match in _XML_ARGUMENT.finditer(body):
        key, value = match["key"], match["value"]
        parsed, problem = _loads(value)
        is_text = as_object(properties.get(key)).get("type", "string") == "string"
        arguments[key] = value if is_text or problem else parsed
    return dumps(arguments)


def _mistral(content: str, _tools: Tools) -> Iterator[Found]:
    mark = "[TOOL_CALLS]"
    start = content.find(mark)
    if start >= 0 and content[start + len(mark) :].lstrip().startswith("["):
        text = content[start + len(mark) :]
        try:
            values, length = json.JSONDecoder(strict=False).raw_decode(text, len(text) - len(text.lstrip()))
        except (ValueError, RecursionError):
            values, length = _loads(_repaired(text))[0], len(text)
        end = start + len(mark) + length
        for call in filter(None, (_call_of(as_object(value)) for value in as_list(values))):
            yield Found(start, end, *call)
            start = end
        return
    position = 0
    while match := _MISTRAL_CALL.search(content, position):
        position = match.end()
        if match["mark"] or match["args"]:
            following = content.find(mark, position)
            stop = len(content) if following < 0 else following
            parsed = _object_at(content, position, stop)
            arguments = content[position:stop].strip() if parsed is None else dumps(_encodable(parsed[0]))
            position = stop if parsed is None else parsed[1]
            yield Found(match.start(), position, match["name"], arguments)


def _lone(content: str, _tools: Tools) -> Iterator[Found]:
    """A JSON block that ends the text and is its only block, or a text that is nothing but the JSON."""
    text = content.strip()
    start, end = 0, len(content)
    if content.count("```") == 2 and (match := _LONE_BLOCK.search(content)):
        start, text = match.start(), match["body"].strip()
    elif not (text.startswith("{") and text.endswith("}")):
        return
    value = as_object(_loads(text)[0] or _loads(_repaired(text))[0])
    if set(value) <= {"name", "arguments", "parameters", "id", "type"} and (call := _call_of(value)):
        yield Found(start, end, *call)
