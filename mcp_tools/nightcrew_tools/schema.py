"""From a function's signature to a tool: its JSON schema, and the check of what a model sends.

Written by hand instead of derived by pydantic for three reasons: the schema stands in every prompt, so each byte of it
is paid for by every request; a model reads the errors, so each must be one sentence; and a server is built for every
task, so it must cost nothing to build.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Protocol, TypeVar, cast, get_args, get_origin, get_type_hints

from nightcrew_tools.output import ToolError

Handler = Callable[..., Awaitable[str]]
H = TypeVar("H", bound=Handler)

_KINDS: dict[object, tuple[dict[str, Any], str]] = {
    str: ({"type": "string"}, "text"),
    int: ({"type": "integer"}, "a whole number"),
    float: ({"type": "number"}, "a number"),
    bool: ({"type": "boolean"}, "true or false"),
    list[str]: ({"items": {"type": "string"}, "type": "array"}, "a list of texts"),
}
"""Parameter types: JSON schema, and words for the error."""


class Described(Protocol):
    """What `openai_tools` needs of a tool; an MCP client's `Tool` has it."""

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str | None: ...
    @property
    def input_schema(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Parameter:
    """One argument of a tool."""

    name: str
    kind: object
    required: bool
    description: str = ""

    @property
    def schema(self) -> dict[str, Any]:
        described = {"description": self.description} if self.description else {}
        return described | _KINDS[self.kind][0]


@dataclass(frozen=True)
class ToolSpec:
    """A tool as it is declared."""

    name: str
    description: str
    parameters: tuple[Parameter, ...]
    writes: bool
    destructive: bool
    idempotent: bool

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of the arguments, keys sorted at every level."""
        schema: dict[str, Any] = {
            "additionalProperties": False,
            "properties": {parameter.name: parameter.schema for parameter in self.parameters},
            "type": "object",
        }
        if required := [parameter.name for parameter in self.parameters if parameter.required]:
            schema["required"] = required
        return json.loads(_canonical(schema))

    def check(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments for the handler; raises `ToolError` with the one thing to put right.

        A null or an empty text for an optional argument means that it is absent, and a number in quotes is a number:
        habits of small models that leave no doubt about what was meant.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in arguments:
            if name not in known:
                raise ToolError("unknown_argument", self._unknown(name, list(known)))
        checked: dict[str, Any] = {}
        for parameter in self.parameters:
            value = arguments.get(parameter.name)
            if value is not None and (parameter.required or value != ""):
                checked[parameter.name] = _convert(parameter, value)
            elif parameter.required:
                words = _KINDS[parameter.kind][1]
                raise ToolError("missing_argument", f"{self.name} needs {parameter.name!r} ({words})")
        return checked

    def _unknown(self, name: str, known: list[str]) -> str:
        close = get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        return f"{self.name} has no argument {name[:80]!r}{hint}; it takes {', '.join(known) or 'none'}"


def tool(
    description: str, *, writes: bool = False, destructive: bool = False, idempotent: bool = False
) -> Callable[[H], H]:
    """Declare an async method to be a tool; parameters may carry a description as `Annotated[str, "…"]`.

    `destructive`: it may throw away what was there before. `idempotent`: a second call changes nothing more.
    """

    def declare(function: H) -> H:
        hints = get_type_hints(function, include_extras=True)
        parameters = tuple(
            _parameter(name, hints[name], required=parameter.default is inspect.Parameter.empty)
            for name, parameter in inspect.signature(function).parameters.items()
            if name != "self"
        )
        spec = ToolSpec(function.__name__, description, parameters, writes, destructive, idempotent)
        function.__tool__ = spec  # type: ignore[attr-defined]
        return function

    return declare


def tools_of(family: object) -> list[tuple[ToolSpec, Handler]]:
    """The tools that a family's methods declare, bound to this instance."""
    declared = [name for name, value in vars(type(family)).items() if hasattr(value, "__tool__")]
    return [(getattr(family, name).__tool__, getattr(family, name)) for name in declared]


def openai_tools(tools: Sequence[Described]) -> str:
    """The tools as the text of an OpenAI request's `tools` field: the same bytes in every process and protocol era.

    Sorted by name, keys sorted, no spaces. `additionalProperties` stays out: it tells a model nothing and what it
    forbids is answered by the server.
    """
    functions: list[dict[str, Any]] = []
    for each in sorted(tools, key=lambda one: one.name):
        parameters = {key: value for key, value in each.input_schema.items() if key != "additionalProperties"}
        function = {"description": each.description or "", "name": each.name, "parameters": parameters}
        functions.append({"function": function, "type": "function"})
    return _canonical(functions)


def _canonical(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _parameter(name: str, hint: object, *, required: bool) -> Parameter:
    description = ""
    if get_origin(hint) is Annotated:
        hint, description = get_args(hint)[:2]
    kinds = [kind for kind in (get_args(hint) if type(None) in get_args(hint) else (hint,)) if kind is not type(None)]
    if len(kinds) != 1 or kinds[0] not in _KINDS:
        raise TypeError(f"tool parameter {name}: {hint} is none of the types that a tool may take")
    return Parameter(name, kinds[0], required, description)


def _convert(parameter: Parameter, value: Any) -> Any:
    kind, words = parameter.kind, _KINDS[parameter.kind][1]
    if kind is str and isinstance(value, str):
        return _clean(parameter.name, value)
    if kind == list[str] and isinstance(value, list):
        items = cast("list[object]", value)
        if all(isinstance(item, str) for item in items):
            return [_clean(parameter.name, str(item)) for item in items]
    if kind is bool and (isinstance(value, bool) or value in ("true", "false")):
        return value in (True, "true")
    if kind in (int, float) and not isinstance(value, bool) and isinstance(value, int | float | str):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = float("nan")
        if kind is int and number.is_integer():
            return int(number)
        if kind is float and abs(number) < float("inf"):
            return number
    shown = json.dumps(value, ensure_ascii=True, default=str)
    shown = shown if len(shown) <= 40 else shown[:40] + "…"
    raise ToolError("bad_argument", f"{parameter.name} must be {words}, not {shown}")


def _clean(name: str, value: str) -> str:
    """No text with NUL or half a surrogate pair: neither a file nor a command line can carry it."""
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise ToolError("bad_argument", f"{name} holds a character that is not text (NUL or a lone surrogate)")
    return value
