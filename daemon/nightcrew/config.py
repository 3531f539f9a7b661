"""The configuration: one TOML file and a few environment variables, read here and nowhere else."""

from __future__ import annotations

import contextlib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, IPvAnyNetwork, SecretStr, ValidationError, field_validator, model_validator

from nightcrew.errors import ConfigError
from nightcrew.secrecy import SECRETS
from nightcrew_tools.contract import ConcernKind, Frozen, Limits, Outcome
from nightcrew_workspaces.egress import parse_upstream
from nightcrew_workspaces.egress_rules import parse_rule

Dialect = Literal["tools", "choose", "infill", "rewrite", "explain"]
"""How a role talks to its model: `tools` is native tool calls; `choose` picks files by JSON schema (planner); `infill`,
`rewrite` and `explain` are the rungs of the repair ladder (executor), for models too small for tools."""

ROLES = ("planner", "executor", "verifier", "scout", "critic", "arbiter", "vision", "escalation", "embedder")
"""In the order in which they are listed, and their servers get their ports."""


class RoleSettings(Frozen):
    """One role of a crew, bound to a model."""

    base_url: str
    """Of an OpenAI-compatible API, with its `/v1`."""
    model: str = ""
    """Model name as the endpoint lists it; its first one when empty."""
    api_key_env: str | None = None
    api_key_file: Path | None = None
    api_key_credential: str | None = None
    """Name of a systemd credential; see LoadCredential in the units. One of the three ways at most."""
    dialect: tuple[Dialect, ...] = ("tools",)
    thinking: bool | None = None
    """Sent as `chat_template_kwargs.enable_thinking`; the model's own default when absent."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=16)] = 8192
    """Most tokens of one reply."""
    extra_body: dict[str, object] = Field(default_factory=dict)
    """More request fields, sent as they are (`top_k`, `priority`, `reasoning_effort`, …)."""
    priority: Annotated[int, Field(ge=-1000, le=1000)] | None = None
    """Higher goes first, on an SGLang server that obeys priorities; sent to no other."""
    first_token_seconds: Annotated[float, Field(gt=0)] = 900.0
    """A local prefill may take minutes."""
    idle_seconds: Annotated[float, Field(gt=0)] = 120.0
    """Longest pause between two pieces of a stream."""
    patience_seconds: Annotated[float, Field(ge=0)] = 600.0
    """How long an endpoint may be away before the task gives up."""
    stream: bool = True
    vision: bool = False
    """The model takes pictures: those of a task come with its first message."""

    @field_validator("dialect", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("api_key_credential")
    @classmethod
    def _is_name(cls, value: str | None) -> str | None:
        if value is not None and (not value or "/" in value or value.startswith(".")):
            raise ValueError("must be the name of a credential, without a folder")
        return value

    @field_validator("base_url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return value.rstrip("/")


class CrewSettings(Frozen):
    """A named set of roles. An absent executor is played by the planner's model; the others are optional, and those
    below the verifier are bound to a model and not yet called."""

    planner: RoleSettings
    executor: RoleSettings | None = None
    verifier: RoleSettings | None = None
    """Judges the diff after the checks passed; without it the checks alone decide."""
    scout: RoleSettings | None = None
    """Cheap drafts."""
    critic: RoleSettings | None = None
    """A second opinion on plan and diff."""
    arbiter: RoleSettings | None = None
    """Breaks a tie."""
    vision: RoleSettings | None = None
    """Reads the images of a task."""
    escalation: RoleSettings | None = None
    """The large model that is called last."""
    embedder: RoleSettings | None = None
    concurrency: Annotated[int, Field(ge=1, le=256)] | None = None
    """Its tasks at the same time, within `concurrency` of all."""

    def roles(self) -> dict[str, RoleSettings]:
        """Those that are there, by name, in the order of `ROLES`."""
        bound = ((name, getattr(self, name)) for name in ROLES)
        return {name: settings for name, settings in bound if settings is not None}

    @property
    def endpoints(self) -> frozenset[str]:
        """Base URLs that its tasks talk to."""
        return frozenset(role.base_url for role in self.roles().values())


class EndpointSettings(Frozen):
    """What one endpoint is good for, whichever crews use it."""

    concurrency: Annotated[int, Field(ge=1, le=256)]
    """Tasks of all its crews at the same time."""


class DailySettings(Frozen):
    """What all tasks together may use from one local midnight to the next; no limit where a key is absent.

    Where one is used up no task begins before the next day; those that have begun go on, within their own limits.
    """

    tokens: Annotated[int, Field(ge=1)] | None = None
    minutes: Annotated[float, Field(gt=0)] | None = None
    """Of work, the tasks' own counted one by one."""
    tasks: Annotated[int, Field(ge=1)] | None = None
    """That begin."""


class BoxSettings(Frozen):
    """What every box of this machine may use."""

    user: str | None = None
    """Unprivileged account for boxes when the service runs as root; `nightcrew`, else `nobody`."""
    read_only: tuple[Path, ...] = ()
    """More directories to show read-only at the same path: toolchains, virtual environments."""
    path: tuple[str, ...] = ()
    """Directories put before the box's PATH."""
    toolchains: bool = True
    """Show the toolchains that are found in the usual places outside of /usr: rustup, pyenv, nvm, Go, SDKMAN, /opt."""
    memory_mib: Annotated[int, Field(ge=64)] = 4096
    """Of one command, all its processes together; so are the limits below."""
    processes: Annotated[int, Field(ge=16)] = 512
    """Processes and threads at the same time."""
    cpus: Annotated[float, Field(gt=0)] | None = None
    """How many CPUs it may keep busy; all when absent. Needs a delegated control group."""
    cpu_seconds: Annotated[float, Field(gt=0)] = 6 * 3600.0
    file_mib: Annotated[int, Field(ge=1)] = 2048
    """Largest size of one file."""
    workspace_mib: Annotated[int, Field(ge=64)] = 16 * 1024
    """What the clone and its cache may hold together."""
    workspace_files: Annotated[int, Field(ge=1000)] = 1_000_000
    command_seconds: Annotated[float, Field(gt=0)] = 600.0
    """Longest time of one command or check."""


class ServingSettings(Frozen):
    """How `nightcrew crew serve` starts model servers."""

    python: Path | None = None
    """Interpreter of the environment that has sglang; `sglang/bin/python` under `home`, else this one, when absent."""
    models: dict[str, Path] = Field(default_factory=dict[str, Path])
    """Repository name on the hub to a local directory with its weights; the hub's cache when absent."""
    extra_args: tuple[str, ...] = ()
    """Put behind every server's own arguments, so that they win."""
    env: dict[str, str] = Field(default_factory=dict[str, str])
    """More variables for the servers."""
    ready_seconds: Annotated[float, Field(gt=0)] = 1800.0
    """Loading and warming up one server may take so long."""


class WorkspaceSettings(Frozen):
    """Where private clones live, and which of them stay when their tasks have ended."""

    path: Path | None = None
    """Chosen beside `home`, or under /var/lib when boxes could not reach that."""
    keep: Literal["none", "failed", "all"] = "none"
    """`failed`: those of tasks that did not deliver."""
    max_age_days: Annotated[float, Field(gt=0)] = 14.0
    """A kept one is removed so long after its task ended."""
    max_gib: Annotated[float, Field(gt=0)] = 20.0
    """All kept ones together; the oldest are removed first."""
    cache_gib: Annotated[float, Field(ge=0)] = 20.0
    """Histories of sources that cannot be linked, together; one that no task used for `max_age_days` goes too."""

    def keeps(self, outcome: Outcome) -> bool:
        """Whether the clone of a task that ended like this stays, for a while."""
        return self.keep == "all" or (self.keep == "failed" and outcome is not Outcome.DELIVERED)


class InboxSettings(Frozen):
    """The watched folder, and who may drop files into it."""

    repos: dict[str, str] = Field(default_factory=dict[str, str])
    """Folder in the inbox to the repository that tasks in it belong to: an absolute path or a URL."""
    watch: Literal["auto", "events", "poll"] = "auto"
    """`poll`: look once a second and trust no events; `auto` does so on network file systems."""
    group: str | None = None
    """Members of this group may drop tasks and read results; only the service's own account when absent."""

    @field_validator("repos")
    @classmethod
    def _are_folders(cls, value: dict[str, str]) -> dict[str, str]:
        for name, repo in value.items():
            if not name or "/" in name or name.startswith("."):
                raise ValueError(f"{name!r}: a folder's name has no `/` and does not begin with a dot")
            if not (Path(repo).expanduser().is_absolute() or ":" in repo):
                raise ValueError(f"{name}: {repo!r} is neither an absolute path nor a URL")
        return value


class McpSettings(Frozen):
    """The service's own door for MCP clients; closed while `listen` is absent."""

    listen: str | None = None
    """`HOST:PORT`; clients come to /mcp there."""
    token_file: Path | None = None
    """Bearer tokens and their scopes; needed where other machines can come in."""
    host_names: tuple[str, ...] = ()
    """More names under which clients reach it."""
    roots: tuple[Path, ...] = ()
    """Directories for the file, git and shell tools; without one there are the task tools alone."""
    tools: tuple[str, ...] | None = None
    """Of files, git, shell and tasks; all that can work when absent."""
    read_only: bool = False
    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()


class NetworkSettings(Frozen):
    """What boxes may reach when a task asks for it: nothing, unless it stands in `allow`."""

    allow: tuple[str, ...] = ()
    """Hosts as `host`, `*.domain`, each with or without `:port` (443 and 80), and names of groups."""
    groups: dict[str, tuple[str, ...]] = Field(default_factory=dict[str, tuple[str, ...]])
    """More names for several hosts; `pip`, `npm`, `cargo`, `go` and `maven` are there."""
    private: tuple[IPvAnyNetwork, ...] = ()
    """Ranges that may be reached although they are not public: a mirror's."""
    proxy: str | None = None
    """The way from this machine to the outside: `http://host:port`, or `environment` for its `https_proxy`. It looks
    names up by itself, so their addresses are not checked here."""
    env: dict[str, str] = Field(default_factory=dict[str, str])
    """Variables for boxes with a network: a mirror's address. Boxes can read them."""
    connections: Annotated[int, Field(ge=1, le=1024)] = 64
    """Of one task, at the same time."""
    upload_mib: Annotated[int, Field(ge=1)] = 16
    """Most that one task may send."""
    download_mib: Annotated[int, Field(ge=1)] = 4096

    @field_validator("allow")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            parse_rule(entry)
        return value

    @field_validator("groups")
    @classmethod
    def _hold_hosts(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, hosts in value.items():
            if "." in name or not hosts:
                raise ValueError(f"{name}: a group has a name without dots, and hosts")
            for entry in hosts:
                parse_rule(entry)
        return value

    @field_validator("proxy")
    @classmethod
    def _is_proxy(cls, value: str | None) -> str | None:
        if value not in (None, "environment"):
            parse_upstream(value)
        return value


class LogSettings(Frozen):
    """What the service says of itself on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "text"] = "auto"
    """`auto`: text on a terminal, JSON elsewhere, systemd's journal for one."""


class GateSettings(Frozen):
    """What a verified result may bring into a repository without a person's word."""

    allow: tuple[ConcernKind, ...] = ()
    """Kinds that are only named in the report."""
    large_file_kib: Annotated[int, Field(ge=1)] = 1024
    """A file that brings more than this is a large one."""


class JournalSettings(Frozen):
    """How long the journals of ended tasks are kept, and how much room is left for those of running ones."""

    keep_days: Annotated[float, Field(gt=0)] = 180.0
    """Since a task ended; then its events go, and its id, name and outcome stay."""
    max_mib: Annotated[float, Field(gt=0)] = 4096.0
    """Of the journal; the oldest ended tasks' events go first."""
    keep_results: bool = True
    """Reports and patches stay in the outbox when a task's journal goes."""
    reserve_mib: Annotated[float, Field(ge=0)] = 64.0
    """With less than this free on the disk no new task is taken."""


class Config(Frozen):
    """The whole configuration file."""

    home: Path
    workspaces: WorkspaceSettings = WorkspaceSettings()
    crew: str | None = None
    """Default crew; found by looking on the usual local ports when absent."""
    crews: dict[str, CrewSettings] = Field(default_factory=dict[str, "CrewSettings"])
    """Those of this file; they go before crew files and built-in crews of the same name."""
    box: BoxSettings = BoxSettings()
    inbox_settings: InboxSettings = Field(default=InboxSettings(), alias="inbox")
    serving: ServingSettings = ServingSettings()
    mcp: McpSettings = McpSettings()
    network: NetworkSettings = NetworkSettings()
    gate: GateSettings = GateSettings()
    log: LogSettings = LogSettings()
    keeping: Annotated[JournalSettings, Field(alias="journal")] = JournalSettings()
    limits: Limits = Limits()
    daily: DailySettings = DailySettings()
    endpoints: dict[str, EndpointSettings] = Field(default_factory=dict[str, EndpointSettings])
    """By base URL, as the crews write it."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 4
    """Tasks at the same time."""

    @model_validator(mode="before")
    @classmethod
    def _no_old_keys(cls, values: object) -> object:
        if isinstance(values, dict) and "keep_workspaces" in values:
            raise ValueError(
                'keep_workspaces: write `[workspaces]` and below it `keep = "none"`, `"failed"` or `"all"`'
            )
        return values  # pyright: ignore[reportUnknownVariableType]

    @model_validator(mode="after")
    def _one_name_each(self) -> Self:
        if both := sorted(self.crews.keys() & self.inbox_settings.repos.keys()):
            raise ValueError(f"inbox.repos: {both[0]!r} is a crew's name too; call the folder something else")
        return self

    @field_validator("workspaces", mode="before")
    @classmethod
    def _path_alone(cls, value: object) -> object:
        return {"path": value} if isinstance(value, str | Path) else value

    @property
    def inbox(self) -> Path:
        return self.home / "inbox"

    @property
    def outbox(self) -> Path:
        return self.home / "outbox"

    @property
    def rejected(self) -> Path:
        return self.home / "rejected"

    @property
    def attachments(self) -> Path:
        """What came with tasks beside their text."""
        return self.home / "attachments"

    @property
    def mcp_audit(self) -> Path:
        """The log of what outside clients call."""
        return self.home / "mcp-audit.jsonl"

    @property
    def journal(self) -> Path:
        return self.home / "journal.sqlite"


def default_home(environ: Mapping[str, str]) -> Path:
    """`NIGHTCREW_HOME`, or the user's data folder."""
    if home := environ.get("NIGHTCREW_HOME"):
        return Path(home).expanduser().absolute()
    data = environ.get("XDG_DATA_HOME") or Path(environ.get("HOME", "/root")) / ".local/share"
    return Path(data) / "nightcrew"


def config_path(environ: Mapping[str, str]) -> Path:
    """`NIGHTCREW_CONFIG`, or the user's configuration folder."""
    if path := environ.get("NIGHTCREW_CONFIG"):
        return Path(path).expanduser().absolute()
    base = environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME", "/root")) / ".config"
    return Path(base) / "nightcrew" / "config.toml"


def crews_dir(environ: Mapping[str, str]) -> Path:
    """Where a person's own crew files lie: `crews` beside the configuration file."""
    return config_path(environ).parent / "crews"


def models_dir(environ: Mapping[str, str]) -> Path:
    """`NIGHTCREW_MODELS`, or the user's cache folder."""
    if path := environ.get("NIGHTCREW_MODELS"):
        return Path(path).expanduser().absolute()
    base = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "/root")) / ".cache"
    return Path(base) / "nightcrew" / "models"


def hub_dir(environ: Mapping[str, str]) -> Path:
    """Where weights from the hub lie, for SGLang too: `HF_HUB_CACHE`, or below `HF_HOME` or the user's cache folder."""
    if path := environ.get("HF_HUB_CACHE"):
        return Path(path).expanduser().absolute()
    if home := environ.get("HF_HOME"):
        return Path(home).expanduser().absolute() / "hub"
    base = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "/root")) / ".cache"
    return Path(base) / "huggingface" / "hub"


def hub_endpoint(environ: Mapping[str, str]) -> str:
    """`HF_ENDPOINT`, a mirror that speaks the hub's API, or the hub."""
    return (environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def hub_token(environ: Mapping[str, str]) -> SecretStr | None:
    """`HF_TOKEN`, or what `hf auth login` has left below `HF_HOME` or the user's cache folder."""
    if token := environ.get("HF_TOKEN"):
        return SecretStr(token.strip())
    file = environ.get("HF_TOKEN_PATH") or Path(environ.get("HF_HOME") or hub_dir(environ).parent) / "token"
    try:
        token = Path(file).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return SecretStr(token) if token else None


def environment() -> Mapping[str, str]:
    """The process environment: the one place of the project that reads it."""
    return os.environ


def load_config(environ: Mapping[str, str] | None = None) -> Config:
    """Read the configuration file, or the defaults where there is none.

    Raises `ConfigError`, which names the file, the key and what is wrong with it.
    """
    environ = environment() if environ is None else environ
    path = config_path(environ)
    values: dict[str, object] = {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if environ.get("NIGHTCREW_CONFIG"):
            raise ConfigError(f"{path}: no such file (NIGHTCREW_CONFIG names it)") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    values.setdefault("home", str(default_home(environ)))
    if environ.get("NIGHTCREW_HOME"):
        values["home"] = str(default_home(environ))
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_sentence(path, error)) from None
    _keep_secret(config, environ)
    return config


def _keep_secret(config: Config, environ: Mapping[str, str]) -> None:
    """Keys and what the configuration and the environment hold in URLs must never be written down."""
    found = (getattr(crew, name, None) for crew in config.crews.values() for name in ROLES)
    roles = [role for role in found if isinstance(role, RoleSettings)]
    urls = [role.base_url for role in roles]
    urls += [config.network.proxy or "", *config.network.env.values()]
    urls += [value for name, value in environ.items() if name.lower().endswith("_proxy")]
    for url in urls:
        SECRETS.add_url(url)
    for role in roles:
        with contextlib.suppress(ConfigError):  # said where it is needed
            read_key(role, environ)


def read_key(role: RoleSettings, environ: Mapping[str, str]) -> SecretStr | None:
    """The role's API key, or None when it names none. Raises `ConfigError` when the named place has none."""
    key = _find_key(role, environ)
    if key is not None:
        SECRETS.add(key.get_secret_value())
    return key


def credential(name: str, environ: Mapping[str, str]) -> Path:
    """Where systemd put a credential: under its name, or as a file of the folder that the units load as `key`.

    Raises `ConfigError` where there is none.
    """
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise ConfigError(f"the credential {name} is wanted, and systemd has passed none (CREDENTIALS_DIRECTORY)")
    for path in (Path(folder, name), Path(folder, f"key_{name}")):
        if path.is_file():
            return path
    raise ConfigError(f"systemd has passed no credential {name}: write it to /etc/nightcrew/credentials/{name}")


def _find_key(role: RoleSettings, environ: Mapping[str, str]) -> SecretStr | None:
    if role.api_key_credential is not None:
        path = credential(role.api_key_credential, environ)
        try:
            return SecretStr(path.read_text(encoding="utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"api_key_credential {role.api_key_credential}: {error}") from error
    if role.api_key_file is not None:
        try:
            return SecretStr(role.api_key_file.expanduser().read_text(encoding="utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"api_key_file {role.api_key_file}: {error}") from error
    if role.api_key_env is not None:
        key = environ.get(role.api_key_env)
        if not key:
            raise ConfigError(f"api_key_env: the environment has no {role.api_key_env}")
        return SecretStr(key)
    return None


def _sentence(path: Path, error: ValidationError) -> str:
    lines = [f"{path}:"]
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        what = "unknown key" if problem["type"] == "extra_forbidden" else problem["msg"]
        lines.append(f"  {where}: {what}" if where else f"  {what.removeprefix('Value error, ')}")
    return "\n".join(lines)
