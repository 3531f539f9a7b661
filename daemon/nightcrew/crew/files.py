"""Crew files: which model plays which role, and how much of it each role needs.

    about = "what it is good for"
    extends = "duo"                     # another crew; tables are merged, everything else replaced
    concurrency = 2                     # tasks of this crew at the same time

    [roles.scout]
    model = "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B"   # served here, on a port of its own
    context = 32768                     # tokens that one request must be able to have
    requests = 2                        # that should be able to run at the same time, each that long
    thinking = true                     # and the other keys of a role in the configuration file

    [roles.critic]
    base_url = "https://models.lan/v1"  # an endpoint that is there already; nothing is planned for it

    [servers."deepseek-ai/DeepSeek-R1-0528-Qwen3-8B"]  # rarely needed: what the plan would choose by itself
    format = "int4"

Built-in crews lie in `builtin/`, a person's own beside the configuration file under `crews/`, and go first.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import Field, ValidationError, field_validator

from nightcrew.config import ROLES, CrewSettings, RoleSettings, crews_dir
from nightcrew.errors import ConfigError
from nightcrew.serving.localmodel import look_up
from nightcrew.serving.plan import KvDtype
from nightcrew_tools.contract import Frozen

FIRST_PORT = 30000
DEFAULT = "duo"
PRIORITIES = {
    "verifier": 30,
    "arbiter": 30,
    "planner": 20,
    "executor": 20,
    "vision": 20,
    "escalation": 20,
    "critic": 10,
}
"""Of requests to a server that several roles, or several tasks, share: what ends a task goes before what may help one.
Ten more than another's interrupts it where the server is full. A scout waits for all."""
SMALL = "solo"
"""The built-in crew of one model."""
_LONGEST_CHAIN = 8


class Need(Frozen):
    """What a role must have of its model's server."""

    context: Annotated[int, Field(ge=1024)] = 32768
    """Tokens of one request."""
    requests: Annotated[int, Field(ge=1, le=256)] = 1
    """That should be able to run at the same time, each of that length."""


class ServerWish(Frozen):
    """What a crew file settles about a model's server; the plan chooses what is absent."""

    format: str | None = None
    """A format, or a checkpoint's repository."""
    kv: KvDtype | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    tp: Annotated[int, Field(ge=1)] | None = None
    draft: bool | None = None
    """Whether to decode speculatively; None for where the catalog names a way and there is room."""


class BoundRole(Frozen):
    """A role of a crew file."""

    settings: RoleSettings
    need: Need
    local: bool
    """Its model is served here."""


class CrewFile(Frozen):
    """A crew as its file and those that it extends describe it."""

    name: str
    about: str = ""
    origin: str
    """Path, or `built-in`."""
    embedded: bool = False
    """The embedded model plays all roles; nothing is planned or started."""
    concurrency: Annotated[int, Field(ge=1, le=256)] | None = None
    """Its tasks at the same time; see `CrewSettings`."""
    roles: Mapping[str, BoundRole] = Field(default_factory=dict[str, BoundRole])
    servers: Mapping[str, ServerWish] = Field(default_factory=dict[str, ServerWish])
    """By model."""

    def settings(self) -> CrewSettings:
        """For whoever talks to its models."""
        roles = {name: role.settings for name, role in self.roles.items()}
        return CrewSettings.model_validate({**roles, "concurrency": self.concurrency})

    def models(self) -> dict[str, tuple[str, ...]]:
        """Model that is served here to the roles it plays, in the order of `ROLES`."""
        found: dict[str, tuple[str, ...]] = {}
        for name in ROLES:
            if (role := self.roles.get(name)) is not None and role.local:
                found[role.settings.model] = (*found.get(role.settings.model, ()), name)
        return found

    def port(self, model: str) -> int:
        """Where the server of this model listens."""
        return _ports(tuple(self.models()), self.servers)[model]


class _File(Frozen):
    about: str = ""
    extends: str | None = None
    embedded: bool = False
    concurrency: Annotated[int, Field(ge=1, le=256)] | None = None
    roles: dict[str, dict[str, Any]] = Field(default_factory=dict[str, dict[str, Any]])
    servers: dict[str, ServerWish] = Field(default_factory=dict[str, ServerWish])

    @field_validator("roles")
    @classmethod
    def _are_roles(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        if unknown := sorted(value.keys() - set(ROLES)):
            raise ValueError(f"there is no role {unknown[0]!r}; there are {', '.join(ROLES)}")
        return value


def builtin_names() -> list[str]:
    """The crews that come with Nightcrew."""
    folder = resources.files("nightcrew.crew").joinpath("builtin")
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def own_names(environ: Mapping[str, str]) -> list[str]:
    """The crews that a person has written."""
    return _own_names(crews_dir(environ))


def names(environ: Mapping[str, str]) -> list[str]:
    """All that `load` knows."""
    return _names(crews_dir(environ))


def _own_names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.toml"))


def _names(folder: Path | None) -> list[str]:
    return sorted({*builtin_names(), *(_own_names(folder) if folder else ())})


def load_builtin(name: str) -> CrewFile:
    """The crew that comes with Nightcrew under this name, whatever a person has written."""
    return _load(name, None)


def load(name: str, environ: Mapping[str, str]) -> CrewFile:
    """A person's own crew of this name, or the built-in one.

    Raises `ConfigError`, which names the file, the key and what is wrong with it, or says which crews there are.
    """
    return _load(name, crews_dir(environ))


def _load(name: str, folder: Path | None) -> CrewFile:
    values, origin = _merged(name, folder, ())
    values.pop("extends", None)
    try:
        file = _File.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_sentence(origin, error)) from None
    roles = _bind(file, origin)
    if not file.embedded and "planner" not in roles:
        raise ConfigError(f"{origin}: a crew needs a planner: [roles.planner] with a model or a base_url")
    return CrewFile(
        name=name,
        about=file.about,
        origin=origin,
        embedded=file.embedded,
        concurrency=file.concurrency,
        roles=roles,
        servers=file.servers,
    )


def _merged(name: str, folder: Path | None, chain: tuple[str, ...]) -> tuple[dict[str, Any], str]:
    """The tables of a crew file over those that it extends, and where it lies; `folder` has a person's own.

    A file of a person's that extends its own name extends the built-in crew of that name.
    """
    own = None if folder is None or name in chain else _own(name, folder)
    values, origin = own or _builtin(name, folder)
    base = values.get("extends")
    if base is None:
        return values, origin
    if len(chain) > _LONGEST_CHAIN or (base in chain and base != name):
        raise ConfigError(f"{origin}: extends: {' → '.join((*chain, name, str(base)))} goes round in a circle")
    try:
        under, _ = _merged(str(base), folder, (*chain, name))
    except ConfigError as error:
        raise ConfigError(f"{origin}: extends: {error}") from None
    return _over(under, values), origin


def _own(name: str, folder: Path) -> tuple[dict[str, Any], str] | None:
    path = folder / f"{name}.toml"
    # A name with a path in it would lead out of the folder.
    if Path(name).name != name or not path.is_file():
        return None
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")), str(path)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _builtin(name: str, folder: Path | None) -> tuple[dict[str, Any], str]:
    if name not in builtin_names():
        raise ConfigError(f"no crew is called {name!r}; there are: {', '.join(_names(folder))}")
    file = resources.files("nightcrew.crew").joinpath("builtin", f"{name}.toml")
    return tomllib.loads(file.read_text(encoding="utf-8")), "built-in"


def _over(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[key] = _over(cast("dict[str, Any]", below), cast("dict[str, Any]", value))
        else:
            merged[key] = value
    return merged


def _bind(file: _File, origin: str) -> dict[str, BoundRole]:
    """Roles with their addresses: a model that is served here gets a port, in the order of `ROLES`."""
    local = [
        str(table["model"])
        for name in ROLES
        if (table := file.roles.get(name)) is not None and "model" in table and "base_url" not in table
    ]
    ports = _ports(tuple(dict.fromkeys(local)), file.servers)
    bound: dict[str, BoundRole] = {}
    for name in ROLES:
        if (table := file.roles.get(name)) is not None:
            if "base_url" not in table and name != "embedder":
                table = {"priority": PRIORITIES.get(name, 0), **table}
            bound[name] = _role(f"{origin}: roles.{name}", dict(table), ports)
    return bound


def _role(where: str, table: dict[str, Any], ports: Mapping[str, int]) -> BoundRole:
    need = {key: table.pop(key) for key in ("context", "requests") if key in table}
    here = "base_url" not in table
    try:
        if here:
            if not isinstance(table.get("model"), str):
                raise ConfigError(f"{where}: names neither a model to serve nor a base_url")
            table = {**_manners(table), "base_url": f"http://127.0.0.1:{ports[table['model']]}/v1"}
        return BoundRole(settings=RoleSettings.model_validate(table), need=Need.model_validate(need), local=here)
    except ValidationError as error:
        raise ConfigError(_sentence(where, error)) from None


def _manners(table: Mapping[str, Any]) -> dict[str, Any]:
    """The role's keys over how its model likes to be sampled: a crew that changes only the model is right, too."""
    card = look_up(str(table["model"]))
    if card is None:
        return dict(table)
    own = {key: value for key, value in table.items() if key != "thinking" or card.thinking_switch}
    sampling = card.sampling_plain if own.get("thinking") is False else None
    return {**(sampling or card.sampling).request_keys(), **({"vision": True} if card.vision else {}), **own}


def _ports(models: tuple[str, ...], servers: Mapping[str, ServerWish]) -> dict[str, int]:
    wished = {model: wish.port for model in models if (wish := servers.get(model)) and wish.port is not None}
    free = (port for port in range(FIRST_PORT, 65536) if port not in wished.values())
    return {model: wished.get(model) or next(free) for model in models}


def _sentence(origin: str, error: ValidationError) -> str:
    lines = [f"{origin}:"]
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        what = "unknown key" if problem["type"] == "extra_forbidden" else problem["msg"]
        lines.append(f"  {where}: {what.removeprefix('Value error, ')}")
    return "\n".join(lines)
