"""A small, strict YAML: plain values with the lines they stand on, for files that strangers may write.

No anchors or aliases (so no bombs), no tags beyond YAML's own, no duplicate keys, little nesting.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from nightcrew.errors import TaskFileError

MAX_CHARACTERS = 64 * 1024
_MAX_DEPTH = 8
_CORE = "tag:yaml.org,2002:"
_TAGS = frozenset(_CORE + name for name in ("str", "int", "float", "bool", "null", "seq", "map"))
_KINDS: dict[str, Literal["text", "number", "boolean", "nothing"]] = {
    "str": "text",
    "timestamp": "text",
    "int": "number",
    "float": "number",
    "bool": "boolean",
    "null": "nothing",
}


@dataclass(frozen=True)
class Scalar:
    line: int
    """In the file, from 1."""
    text: str
    """As written, without quotes."""
    kind: Literal["text", "number", "boolean", "nothing"]
    """What YAML takes it for."""


@dataclass(frozen=True)
class Listing:
    line: int
    items: tuple[Node, ...]


@dataclass(frozen=True)
class Mapping:
    line: int
    fields: dict[str, Node]
    lines: dict[str, int]
    """Where each key stands."""


Node = Scalar | Listing | Mapping


def describe(node: Node) -> str:
    """What was found, for an error message."""
    match node:
        case Listing():
            return "a list"
        case Mapping():
            return "a group of fields"
        case Scalar(kind="nothing"):
            return "nothing"
        case Scalar(kind="text"):
            return f"the text {_short(node.text)!r}"
        case Scalar():
            return f"the {node.kind} {_short(node.text)}"


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"


def parse_mapping(text: str, *, first_line: int) -> Mapping:
    """Read `field: value` lines; `first_line` is where the text begins in its file. Raises `TaskFileError`."""
    if len(text) > MAX_CHARACTERS:
        raise TaskFileError(f"the front matter is longer than {MAX_CHARACTERS // 1024} KiB", line=first_line)
    reader = _Reader(text, first_line)
    root = reader.document()
    if root is None or (isinstance(root, Scalar) and root.kind == "nothing"):
        return Mapping(first_line, {}, {})
    if not isinstance(root, Mapping):
        raise TaskFileError(
            f"the front matter must be lines of `field: value`, such as `repo: /path/to/repo`; found {describe(root)}",
            line=root.line,
        )
    return root


class _Reader:
    def __init__(self, text: str, first_line: int) -> None:
        self._text = text
        self._first_line = first_line
        self._breaks = [index for index, character in enumerate(text) if character == "\n"]
        resolver: Any = yaml.resolver.Resolver()
        self._resolve: Callable[..., str] = resolver.resolve
        self._events = self._parse()

    def document(self) -> Node | None:
        root: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent) and (root is not None or event.explicit):
                raise self._error("the front matter holds one document; remove the `---` inside it", event)
            if isinstance(event, yaml.NodeEvent):
                root = self._node(event, depth=0)
        return root

    def _parse(self) -> Iterator[yaml.Event]:
        try:
            yield from yaml.parse(self._text, Loader=yaml.SafeLoader)  # pyright: ignore[reportUnknownMemberType]
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            problem = (error.problem or error.context or "it cannot be read").replace("<stream end>", "its end")
            line = self._line(mark.index) if mark else None
            raise TaskFileError(f"the front matter is not valid YAML: {problem}", line=line) from None
        except yaml.reader.ReaderError as error:
            line = self._line(error.position)
            raise TaskFileError("the front matter has a control character; remove it", line=line) from None
        except (yaml.YAMLError, ValueError, OverflowError) as error:  # an escape beyond Unicode is a ValueError
            raise TaskFileError(f"the front matter is not valid YAML: {error}", line=self._first_line) from None

    def _line(self, index: int) -> int:
        # YAML counts more characters as line breaks than editors do.
        return self._first_line + bisect_left(self._breaks, index)

    def _where(self, event: yaml.Event) -> int:
        return self._line(event.start_mark.index if event.start_mark else 0)

    def _error(self, reason: str, event: yaml.Event) -> TaskFileError:
        return TaskFileError(reason, line=self._where(event))

    def _node(self, event: yaml.Event, depth: int) -> Node:
        line = self._where(event)
        if depth > _MAX_DEPTH:
            raise self._error(f"the front matter is nested more than {_MAX_DEPTH} deep", event)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise self._error("YAML anchors and aliases (`&name`, `*name`) are not allowed; write the value out", event)
        tag: str | None = getattr(event, "tag", None)
        if tag is not None and tag not in _TAGS:
            raise self._error(f"the YAML tag {_short(tag)!r} is not allowed; write a plain value", event)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, tag, line)
        if isinstance(event, yaml.SequenceStartEvent):
            return Listing(line, tuple(self._items(depth)))
        return self._mapping(line, depth)

    def _scalar(self, event: yaml.ScalarEvent, tag: str | None, line: int) -> Scalar:
        kind = _KINDS.get(
            (tag or self._resolve(yaml.ScalarNode, event.value, event.implicit)).removeprefix(_CORE), "text"
        )
        return Scalar(line, event.value, kind)

    def _items(self, depth: int) -> Iterator[Node]:
        for event in self._events:
            if isinstance(event, yaml.SequenceEndEvent):
                return
            yield self._node(event, depth + 1)

    def _mapping(self, line: int, depth: int) -> Mapping:
        fields: dict[str, Node] = {}
        lines: dict[str, int] = {}
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self._node(event, depth + 1)
            if not isinstance(key, Scalar):
                raise self._error(f"a field's name must be a word; found {describe(key)}", event)
            if key.text in fields:
                raise self._error(f"`{_short(key.text)}` is given twice (line {lines[key.text]} has it too)", event)
            lines[key.text] = key.line
            fields[key.text] = self._node(next(self._events), depth + 1)
        return Mapping(line, fields, lines)
