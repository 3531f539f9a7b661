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
from typing import Annotated, Any, Protocol, TypeVar, get_args, get_origin, get_type_hints

from nightcrew_tools.kinds import Kind, kind_of
from nightcrew_tools.output import ToolError
from nightcrew_tools.reply import Reply, facts_schema

Handler = Callable[..., Awaitable[str | Reply]]
H = TypeVar("H", bound=Handler)


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
    kind: Kind
    required: bool
    description: str = ""

    @property
    def schema(self) -> dict[str, Any]:
        described = {"description": self.description} if self.description else {}
        return described | self.kind.schema


@dataclass(frozen=True)
class ToolSpec:
    """A tool as it is declared."""

    name: str
    description: str
    parameters: tuple[Parameter, ...]
    writes: bool
    destructive: bool
    idempotent: bool
    open_world: bool = False
    facts: type | None = None
    """Dataclass of what its replies say to programs; None for a tool that answers with text alone."""

    @property
    def facts_schema(self) -> dict[str, Any] | None:
        """JSON schema of `facts`."""
        return None if self.facts is None else facts_schema(self.facts)

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
                checked[parameter.name] = parameter.kind.convert(parameter.name, value)
            elif parameter.required:
                raise ToolError("missing_argument", f"{self.name} needs {parameter.name!r} ({parameter.kind.words})")
        return checked

    def _unknown(self, name: str, known: list[str]) -> str:
        close = get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        return f"{self.name} has no argument {name[:80]!r}{hint}; it takes {', '.join(known) or 'none'}"


def tool(
    description: str,
    *,
    writes: bool = False,
    destructive: bool = False,
    idempotent: bool = False,
    open_world: bool = False,
    facts: type | None = None,
) -> Callable[[H], H]:
    """Declare an async method to be a tool; parameters may carry a description as `Annotated[str, "…"]`.

    `destructive`: it may throw away what was there before. `idempotent`: a second call changes nothing more.
    `open_world`: it reaches beyond this machine. `facts`: the frozen dataclass that every `Reply` of it carries.
    """

    def declare(function: H) -> H:
        hints = get_type_hints(function, include_extras=True)
        parameters = tuple(
            _parameter(name, hints[name], required=parameter.default is inspect.Parameter.empty)
            for name, parameter in inspect.signature(function).parameters.items()
            if name != "self"
        )
        spec = ToolSpec(function.__name__, description, parameters, writes, destructive, idempotent, open_world, facts)
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
    hints = [one for one in (get_args(hint) if type(None) in get_args(hint) else (hint,)) if one is not type(None)]
    if len(hints) != 1 or (kind := kind_of(hints[0])) is None:
        raise TypeError(f"tool parameter {name}: {hint} is none of the types that a tool may take")
    return Parameter(name, kind, required, description)
