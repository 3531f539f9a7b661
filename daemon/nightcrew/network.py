"""What a task may reach: what it asks for, cut to what the machine's operator allows."""

from __future__ import annotations

from collections.abc import Mapping

from nightcrew.config import NetworkSettings
from nightcrew.errors import NetworkRefused
from nightcrew_tools.contract import TaskNetwork
from nightcrew_workspaces.egress import EgressLimits, Outside, parse_upstream
from nightcrew_workspaces.egress_rules import AllowList, HostRule, parse_rule
from nightcrew_workspaces.registries import REGISTRIES

_PROXIES = ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY")
_MIB = 1024 * 1024


def machine_allows(settings: NetworkSettings) -> AllowList:
    """The operator's list, groups written out."""
    return AllowList(tuple(parse_rule(entry) for entry in _written_out(settings, settings.allow)))


def task_may(settings: NetworkSettings, wanted: TaskNetwork) -> AllowList:
    """What a task asks for. Raises `NetworkRefused` when the machine does not allow all of it."""
    machine = machine_allows(settings)
    if not machine.rules:
        raise NetworkRefused("this machine allows no network; its operator allows hosts by `allow` under [network]")
    if wanted.hosts is None:
        return machine
    rules: list[HostRule] = []
    refused: list[str] = []
    for entry in _written_out(settings, wanted.hosts):
        try:
            found = machine.narrowed(entry)
        except ValueError as error:
            raise NetworkRefused(str(error)) from None
        rules += found
        if not found:
            refused.append(entry)
    if refused:
        names = ", ".join(refused)
        raise NetworkRefused(f"this machine does not allow {names}; its operator does by `allow` under [network]")
    return AllowList(tuple(dict.fromkeys(rules)))


def outside(settings: NetworkSettings, environ: Mapping[str, str]) -> Outside:
    """How this machine reaches the outside. Raises `NetworkRefused` where the environment should name a proxy."""
    if settings.proxy is None:
        return Outside(settings.private)
    url = proxy_of(environ) if settings.proxy == "environment" else settings.proxy
    if not url:
        raise NetworkRefused(f"network.proxy: the environment has none of {', '.join(_PROXIES)}")
    try:
        return Outside(settings.private, parse_upstream(url))
    except ValueError as error:
        raise NetworkRefused(f"network.proxy: {error}") from None


def proxy_of(environ: Mapping[str, str]) -> str:
    """The proxy that an environment names; empty for none."""
    return next((environ[name] for name in _PROXIES if environ.get(name)), "")


def egress_limits(settings: NetworkSettings) -> EgressLimits:
    """For one task."""
    return EgressLimits(
        connections=settings.connections,
        upload=settings.upload_mib * _MIB,
        download=settings.download_mib * _MIB,
    )


def _written_out(settings: NetworkSettings, entries: tuple[str, ...]) -> list[str]:
    groups = {**REGISTRIES, **settings.groups}
    return [host for entry in entries for host in groups.get(entry, (entry,))]
