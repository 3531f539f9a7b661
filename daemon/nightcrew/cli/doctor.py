"""`nightcrew doctor`: what this machine has, what it lacks, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import typer

from nightcrew.cli.output import JsonFlag, colourful, emit, examples, out

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from nightcrew.config import Config, CrewSettings, RoleSettings

Level = Literal["ok", "warn", "fail"]

_GIB = 1024**3
_ENDPOINT_SECONDS = 5.0
_DAMAGED = (
    "the other tasks go on; `nightcrew cancel ID` ends one that is damaged, a backup or its own version brings it back"
)
_FETCH = "nightcrew model fetch"


@dataclass(frozen=True)
class Check:
    """One line of the examination."""

    name: str
    level: Level
    text: str
    fix: str = ""
    """What to do, when it is not ok."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "doctor",
        short_help="See whether tasks can run here.",
        epilog=examples("nightcrew doctor", "nightcrew doctor --json | jq .ok"),
    )(doctor)


def doctor(json: JsonFlag = False) -> None:
    """See whether tasks could run here: programs, the box, folders, the journal, models. Exits with 1 if not."""
    import anyio

    checks: list[Check] = []

    async def collect() -> None:
        async for check in examine():
            checks.append(check)
            if not json:
                _print(check)

    anyio.run(collect)
    fine = all(check.level != "fail" for check in checks)
    if json:
        emit({"ok": fine, "checks": [asdict(check) for check in checks]})
    else:
        out("tasks can run here" if fine else "tasks cannot run here yet: see what failed above")
    raise typer.Exit(0 if fine else 1)


async def examine() -> AsyncIterator[Check]:
    """Look at everything, the cheap things first."""
    from nightcrew.cli.doctor_gpu import gpu_checks
    from nightcrew.cli.doctor_mcp import mcp_check
    from nightcrew.config import load_config
    from nightcrew.errors import ConfigError

    for check in _programs():
        yield check
    try:
        config = load_config()
    except ConfigError as error:
        yield Check("config", "fail", str(error), "correct the file; until then nothing below it is looked at")
        return
    yield _config_file(config)
    yield await _box(config)
    yield _network(config)
    yield _limits(config)
    for check in _toolchains(config):
        yield check
    yield _home(config)
    yield _disk(config)
    yield _journal(config)
    yield _service(config)
    yield mcp_check(config)
    for check in gpu_checks(config):
        yield check
    async for check in _models(config):
        yield check


def _print(check: Check) -> None:
    from nightcrew.delivery.quoting import one_line

    colour = {"ok": "32", "warn": "33", "fail": "31"}[check.level] if colourful(error=False) else ""
    level = f"\x1b[{colour}m{check.level:<4}\x1b[0m" if colour else f"{check.level:<4}"
    out(f"{level}  {check.name:<10}  {one_line(check.text, 500)}")
    if check.fix and check.level != "ok":
        out(f"{'':<16}  → {one_line(check.fix, 500)}")


# --- the machine


def _programs() -> Iterator[Check]:
    import platform
    import shutil
    import sys

    good = sys.version_info >= (3, 11)
    yield Check("python", "ok" if good else "fail", platform.python_version(), "install Python 3.11 or newer")
    git = shutil.which("git")
    yield (
        Check("git", "ok", git)
        if git
        else Check("git", "fail", "is not there", "install it (Debian: apt-get install git)")
    )
    ripgrep = shutil.which("rg")
    yield (
        Check("ripgrep", "ok", ripgrep)
        if ripgrep
        else Check(
            "ripgrep", "warn", "is not there: searching is slower", "install it (Debian: apt-get install ripgrep)"
        )
    )


def _config_file(config: Config) -> Check:
    from nightcrew.config import config_path, environment

    path = config_path(environment())
    crews = ", ".join(sorted(config.crews)) or "none of your own"
    return Check("config", "ok", f"{path if path.exists() else f'{path} (absent: defaults)'}; crews: {crews}")


async def _box(config: Config) -> Check:
    from nightcrew_workspaces.errors import BoxUnavailable
    from nightcrew_workspaces.selftest import self_test
    from nightcrew_workspaces.user import box_user

    try:
        user = box_user(config.box.user)
        await self_test(config.box.user)
    except BoxUnavailable as error:
        return Check("box", "fail", error.why, error.remedy)
    return Check("box", "ok", f"confines commands, as {user.name} (uid {user.uid})")


def _network(config: Config) -> Check:
    from nightcrew.config import environment
    from nightcrew.errors import NetworkRefused
    from nightcrew.network import machine_allows, outside, proxy_of

    allowed = machine_allows(config.network)
    if not allowed.rules:
        return Check("network", "ok", "boxes have none: `allow` under [network] is empty")
    try:
        way = outside(config.network, environment())
    except NetworkRefused as error:
        return Check("network", "fail", str(error), "correct it, or remove `proxy` to connect directly")
    text = f"tasks may ask for {', '.join(str(rule) for rule in allowed.rules)}"
    if way.private:
        text += f"; also at {', '.join(str(network) for network in way.private)}"
    if way.upstream is not None:
        text += f"; by the proxy {way.upstream.host}:{way.upstream.port}, which looks names up"
    elif proxy_of(environment()):
        fix = 'write `proxy = "environment"` under [network] to go by it'
        return Check("network", "warn", f"{text}; directly, although the environment names a proxy", fix)
    return Check("network", "ok", text)


def _limits(config: Config) -> Check:
    """By what boxes are held to their limits, and what that leaves open."""
    from nightcrew_workspaces import cgroup

    groups = cgroup.available()
    if isinstance(groups, cgroup.Undelegated):
        level: Level = "ok" if config.box.cpus is None else "warn"
        without = "" if config.box.cpus is None else "; `box.cpus` is not held without a control group"
        return Check("limits", level, f"held by watching /proc: {groups.why}{without}", groups.remedy)
    return Check("limits", "ok", f"held by the kernel: a control group for each box in {groups.folder}")


def _toolchains(config: Config) -> Iterator[Check]:
    from nightcrew.service.boxes import toolchains
    from nightcrew_workspaces.errors import BoxUnavailable
    from nightcrew_workspaces.user import box_user

    try:
        user = box_user(config.box.user)
    except BoxUnavailable:
        return  # the line about the box has said it
    shown = toolchains(config.box, user)
    names = ", ".join(f"{each.name} ({each.root})" for each in shown.found)
    yield Check("toolchains", "ok", f"those in /usr{f', and {names}' if names else ''}")
    for missed in shown.missed:
        what = f"{missed.toolchain.name} ({missed.toolchain.root})"
        text = f"boxes cannot see {what}: {user.name} cannot enter {missed.blocked}"
        yield Check("toolchains", "warn", text, missed.remedy)


def _home(config: Config) -> Check:
    import os

    near = nearest(config.home)
    if not os.access(near, os.W_OK | os.X_OK):
        return Check(
            "home", "fail", f"{config.home}: {near} cannot be written", "change its owner, or set NIGHTCREW_HOME"
        )
    return Check("home", "ok", str(config.home) if config.home.exists() else f"{config.home} (made when it is needed)")


def _disk(config: Config) -> Check:
    import shutil

    from nightcrew.journal.health import storage_trouble

    if trouble := storage_trouble(config, write=config.home.exists()):
        return Check("disk", "fail", trouble, "no new task is taken until then; what runs goes on afterwards by itself")
    free = shutil.disk_usage(nearest(config.home)).free
    level: Level = "ok" if free > 5 * _GIB else "warn" if free > _GIB / 2 else "fail"
    return Check("disk", level, f"{free / _GIB:.1f} GiB free at {config.home}", "make room: clones and weights need it")


def nearest(path: Path) -> Path:
    """The path itself, or the first folder above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _journal(config: Config) -> Check:
    from nightcrew.errors import JournalError
    from nightcrew.journal import Journal

    if not config.journal.exists():
        return Check("journal", "ok", "none yet")
    try:
        with Journal.open(config.journal, read_only=True) as journal:
            count, damage = len(journal.tasks()), journal.damage.examine()
    except JournalError as error:
        return Check("journal", "fail", str(error), "see the sentence above")
    if damage:
        return Check("journal", "fail", "; ".join(damage[:5]), _DAMAGED)
    return Check("journal", "ok", f"{config.journal}: {count} {'task' if count == 1 else 'tasks'}")


def _service(config: Config) -> Check:
    from nightcrew.journal.locks import ServiceLock

    owner = ServiceLock.owner(config.home)
    if owner is None:
        return Check("service", "ok", "not running (`nightcrew up` starts it; `nightcrew run` needs none)")
    return Check("service", "ok", f"running, process {owner}")


# --- models


async def _models(config: Config) -> AsyncIterator[Check]:
    """Endpoints one by one, and at the end whether a task that names no crew would find one."""
    crews, wrong = _crews(config)
    for name, settings in sorted(crews.items()):
        async for check in _crew(name, settings, default=name == config.crew):
            yield check
    found = await _discovered()
    yield found
    runtime = _embedded()
    yield runtime
    if config.crew in crews:
        return  # its own lines above have said it
    if wrong is not None:
        yield wrong
    elif runtime.level != "ok" and (config.crew is not None or found.level != "ok"):
        yield Check(
            "endpoint",
            "fail",
            "no model to work with",
            "start SGLang or any OpenAI-compatible server, name one in the configuration, or `nightcrew model fetch`",
        )


def _crews(config: Config) -> tuple[dict[str, CrewSettings], Check | None]:
    """Those of the configuration, and the default one wherever it is defined; what is wrong with that."""
    from nightcrew.config import environment
    from nightcrew.crew import settings_of
    from nightcrew.errors import ConfigError

    if config.crew is None:
        return config.crews, None
    try:
        settings = settings_of(config.crew, config, environment())
    except ConfigError as error:
        fix = "define it, correct its file, or change `crew` in the configuration"
        return config.crews, Check("crew", "fail", str(error), fix)
    # The embedded model's crew has no endpoint that could be asked.
    return ({**config.crews, config.crew: settings} if settings else config.crews), None


async def _crew(name: str, settings: CrewSettings, *, default: bool) -> AsyncIterator[Check]:
    """One line for each endpoint of a crew. Only the default crew's can fail the examination."""
    told: list[tuple[object, ...]] = []
    for role, of in settings.roles().items():
        # Roles that differ only in how they ask share a line.
        if (place := (of.base_url, of.model, of.api_key_env, of.api_key_file)) in told:
            continue
        told.append(place)
        text, fix = await _reach(of)
        level: Level = "ok" if not fix else "fail" if default else "warn"
        yield Check("crew", level, f"{name}: {role}: {text}", fix)


async def _reach(settings: RoleSettings) -> tuple[str, str]:
    """What a configured endpoint lists, and what to do when it is not right (empty when it is)."""
    import anyio

    from nightcrew.config import environment, read_key
    from nightcrew.delivery.report import public_model
    from nightcrew.errors import ConfigError, ModelError
    from nightcrew.llm.client import ModelClient

    place = public_model(settings.base_url)
    try:
        with anyio.fail_after(_ENDPOINT_SECONDS):
            async with ModelClient(settings, api_key=read_key(settings, environment()), patience_seconds=0) as client:
                names = await client.model_names()
    except (ConfigError, ModelError) as error:
        return f"{place}: {error}", "start that server, or correct its entry in the configuration"
    except TimeoutError:
        return f"{place} does not answer within {_ENDPOINT_SECONDS:g} s", "see whether that server is busy or stuck"
    if settings.model and settings.model not in names:
        return f"{place} has no model {settings.model!r}; it has {', '.join(names[:5])}", "correct `model`"
    return f"{place}: {settings.model or (names[0] if names else 'answers')}", ""


async def _discovered() -> Check:
    from nightcrew.llm.discovery import USUAL_PORTS, describe, discover

    found = await discover()
    if found:
        return Check("endpoint", "ok", "; ".join(describe(one) for one in found))
    ports = ", ".join(f"{name} {port}" for name, port in USUAL_PORTS.items())
    return Check(
        "endpoint", "warn", f"nothing answers on the usual ports ({ports})", "start a server there for real work"
    )


def _embedded() -> Check:
    import importlib.util

    from nightcrew.config import environment, models_dir
    from nightcrew.serving.embedded import INSTALL, MEMORY_BYTES, available_memory
    from nightcrew.serving.weights import EMBEDDED_WEIGHTS, present

    if importlib.util.find_spec("xllamacpp") is None:
        return Check("embedded", "warn", "its runtime is not installed", INSTALL)
    if present(models_dir(environment())) is None:
        return Check("embedded", "warn", f"its weights are not here ({EMBEDDED_WEIGHTS.size / 1e9:.1f} GB)", _FETCH)
    if (free := available_memory()) is not None and free < MEMORY_BYTES:
        needed = f"it needs {MEMORY_BYTES / 1e9:.1f} GB: stop something else"
        return Check("embedded", "warn", f"only {free / 1e9:.1f} GB of memory are free", needed)
    return Check("embedded", "ok", "the 1.5B model is ready: small, single-file repairs")
