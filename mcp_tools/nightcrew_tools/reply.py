"""What a tool answers: the text that a model reads, and beside it small typed facts for programs.

A large text stands in the answer once: facts say where it comes from (path, lines, hash, cursor), never what it says.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

FACTS_BYTES = 16 * 1024
"""Most of an answer's facts as JSON; a tool whose lists could be longer cuts them and says so in a cursor."""

_SCALARS: dict[object, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}


@dataclass(frozen=True)
class Media:
    """Bytes that are no text: a picture is shown as one, anything else is attached as a resource."""

    data: bytes
    mime_type: str
    uri: str = ""
    """Where an attached resource can be read again; not used for pictures."""

    @property
    def is_image(self) -> bool:
        return self.mime_type.startswith("image/")


@dataclass(frozen=True)
class Reply:
    """A tool's answer. `facts` is an instance of the frozen dataclass that the tool declares with `facts=`."""

    text: str
    facts: object | None = None
    media: tuple[Media, ...] = ()


def facts_schema(kind: type) -> dict[str, Any]:
    """JSON schema of a dataclass: as short as it can be, keys sorted. Raises `TypeError` for what JSON has not.

    Fields may be text, numbers, truth values, `Literal` texts, other dataclasses, tuples or lists of one of these. A
    field that may be None is not required: None is left out of the value.
    """
    return json.loads(json.dumps(_object(kind), sort_keys=True))


def facts_value(facts: object) -> dict[str, Any]:
    """A dataclass instance as the JSON object that `facts_schema` describes."""
    return json.loads(json.dumps(dataclasses.asdict(cast("Any", facts), dict_factory=_known), ensure_ascii=False))


def _known(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in fields if value is not None}


def _object(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    fields = [field.name for field in dataclasses.fields(kind)]
    schema = {"properties": {name: _schema(hints[name], kind) for name in fields}, "type": "object"}
    required = [name for name in fields if NoneType not in get_args(hints[name])]
    return schema | ({"required": required} if required else {})


def _schema(hint: object, owner: type) -> dict[str, Any]:
    if hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        kinds = [_schema(one, owner) for one in arguments if one is not NoneType]
        if len(kinds) == 1:
            return kinds[0]
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (list, tuple):
        return {"items": _schema(arguments[0], owner), "type": "array"}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _object(hint)
    raise TypeError(f"{owner.__name__}: {hint} has no place in a tool's facts")
