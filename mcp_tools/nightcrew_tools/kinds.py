"""The types that a tool's argument may have: how each stands in a JSON schema, and how what a model sends becomes one.

A number in quotes is a number, and a list that came as its JSON text is that list: habits of small models that leave
no doubt about what was meant. Everything else is an error that names the argument.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from nightcrew_tools.output import ToolError

_SHOWN = 40
_NOTHING = object()


@dataclass(frozen=True)
class Kind:
    """One type of argument. `words` name it in an error; `convert` takes the argument's name and its value."""

    schema: dict[str, Any]
    words: str
    convert: Callable[[str, object], Any]


def kind_of(hint: object) -> Kind | None:
    """The kind of a type: text, numbers, truth values, `Literal` texts, lists of texts, lists of a frozen dataclass.

    None for any other type.
    """
    if hint in _PLAIN:
        return _PLAIN[hint]
    if get_origin(hint) is Literal:
        choices = cast("tuple[str, ...]", get_args(hint))
        words = f"one of {', '.join(choices)}"
        return Kind({"enum": list(choices), "type": "string"}, words, partial(_choice, words, choices))
    if get_origin(hint) is list and (inner := get_args(hint)[0]) is not str:
        return _objects(inner) if dataclasses.is_dataclass(inner) else None
    return None


def _objects(inner: Any) -> Kind:
    hints = get_type_hints(inner)
    fields: dict[str, tuple[Kind, bool]] = {}
    for field in dataclasses.fields(inner):
        kind = kind_of(hints[field.name])
        if kind is None:
            raise TypeError(
                f"{inner.__name__}.{field.name}: {hints[field.name]} is none of the types that a tool may take"
            )
        fields[field.name] = (kind, field.default is dataclasses.MISSING)
    schema = {
        "additionalProperties": False,
        "properties": {name: kind.schema for name, (kind, _) in fields.items()},
        "required": [name for name, (_, required) in fields.items() if required],
        "type": "object",
    }
    words = f"a list of objects with {', '.join(fields)}"
    return Kind({"items": schema, "type": "array"}, words, partial(_list_of, words, inner, fields))


def _list_of(words: str, inner: Any, fields: dict[str, tuple[Kind, bool]], name: str, value: object) -> list[Any]:
    items = _unquoted(value)
    if not isinstance(items, list):
        raise _wrong(name, words, value)
    made: list[Any] = []
    for number, item in enumerate(cast("list[object]", items), 1):
        where = f"{name}[{number}]"
        if not isinstance(item, dict):
            raise _wrong(where, f"an object with {', '.join(fields)}", item)
        given = cast("dict[str, object]", item)
        for key in given:
            if key not in fields:
                raise ToolError("unknown_argument", f"{where} has no {str(key)[:80]!r}; it takes {', '.join(fields)}")
        values: dict[str, Any] = {}
        for key, (kind, required) in fields.items():
            entry = given.get(key, _NOTHING)
            if entry is _NOTHING and required:
                raise ToolError("missing_argument", f"{where} needs {key!r} ({kind.words})")
            if entry is not _NOTHING:
                values[key] = kind.convert(f"{where}.{key}", entry)
        made.append(inner(**values))
    return made


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _wrong(name, "text", value)
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        # Neither a file nor a command line can carry it.
        raise ToolError("bad_argument", f"{name} holds a character that is not text (NUL or a lone surrogate)")
    return value


def _texts(name: str, value: object) -> list[str]:
    items = _unquoted(value)
    if isinstance(items, list):
        entries = cast("list[object]", items)
        if all(isinstance(item, str) for item in entries):
            return [_text(name, item) for item in entries]
    raise _wrong(name, "a list of texts", value)


def _choice(words: str, choices: tuple[str, ...], name: str, value: object) -> str:
    if value in choices:
        return str(value)
    raise _wrong(name, words, value)


def _truth(name: str, value: object) -> bool:
    if isinstance(value, bool) or value in ("true", "false"):
        return value in (True, "true")
    raise _wrong(name, "true or false", value)


def _whole(name: str, value: object) -> int:
    number = _number_of(value)
    if number is None or not number.is_integer():
        raise _wrong(name, "a whole number", value)
    return int(number)


def _number(name: str, value: object) -> float:
    number = _number_of(value)
    if number is None or abs(number) == float("inf"):
        raise _wrong(name, "a number", value)
    return number


def _number_of(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return None if number != number else number  # noqa: PLR0124 (not a number)


def _unquoted(value: object) -> object:
    """A list, also one that was sent as its JSON text."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _wrong(name: str, words: str, value: object) -> ToolError:
    shown = json.dumps(value, ensure_ascii=True, default=str)
    shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "…"
    return ToolError("bad_argument", f"{name} must be {words}, not {shown}")


_PLAIN: dict[object, Kind] = {
    str: Kind({"type": "string"}, "text", _text),
    int: Kind({"type": "integer"}, "a whole number", _whole),
    float: Kind({"type": "number"}, "a number", _number),
    bool: Kind({"type": "boolean"}, "true or false", _truth),
    list[str]: Kind({"items": {"type": "string"}, "type": "array"}, "a list of texts", _texts),
}
