"""Real package managers in a real box, through the way out to real registries, where this machine reaches them."""

from __future__ import annotations

import ipaddress
import socket
import warnings
from pathlib import Path

import pytest

from fakes.boxes import make_box, make_workspace
from fakes.outside import allow
from nightcrew_workspaces.box import box_user
from nightcrew_workspaces.egress import Egress, Outside, Visit
from nightcrew_workspaces.policy import Limits
from nightcrew_workspaces.registries import REGISTRIES

pytestmark = [pytest.mark.anyio, pytest.mark.registry, pytest.mark.timeout(60)]
_CONNECT_SECONDS = 5.0


def addresses(group: str) -> list[str]:
    """What the hosts of a group resolve to, when all of them take a connection."""
    found: list[str] = []
    for host in REGISTRIES[group]:
        try:
            with socket.create_connection((host, 443), timeout=_CONNECT_SECONDS) as reached:
                found.append(reached.getpeername()[0])
            found += [str(entry[4][0]) for entry in socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)]
        except OSError as error:
            with warnings.catch_warnings():
                warnings.simplefilter("default")
                warnings.warn(f"NOT TESTED: no way from here to {group}'s registry: {error}", stacklevel=2)
            pytest.skip(f"NOT TESTED: no way from here to {group}'s registry: {error}")
    return found


def way_out(folder: Path, group: str, visits: list[Visit]) -> Egress:
    """To a group's hosts; where a mirror stands in for them, its addresses are opened as an operator would."""
    private = tuple(ipaddress.ip_network(address) for address in dict.fromkeys(addresses(group)))
    return Egress(
        allow(*REGISTRIES[group]), folder=folder, user=box_user(None), log=visits.append, outside=Outside(private)
    )


async def install(open_tmp: Path, group: str, command: str) -> tuple[str, list[Visit]]:
    visits: list[Visit] = []
    async with way_out(open_tmp, group, visits) as egress:
        box = make_box(make_workspace(open_tmp), limits=Limits(seconds=50)).with_network(egress.mount)
        result = await box.run(command)
    assert result.exit_code == 0, result.output
    return result.output, visits


async def test_pip_installs_from_its_registry_and_only_its_hosts_are_asked(open_tmp: Path) -> None:
    pip = "/usr/bin/python3 -m pip download --quiet --no-cache-dir --no-deps --dest wheels six==1.17.0 && ls wheels"
    output, visits = await install(open_tmp, "pip", pip)
    assert "six-1.17.0-py2.py3-none-any.whl" in output
    assert {visit.host for visit in visits} == set(REGISTRIES["pip"])
    assert all(visit.allowed and not visit.why for visit in visits)
    assert sum(visit.received for visit in visits) > 10_000


async def test_npm_installs_from_its_registry(open_tmp: Path) -> None:
    output, visits = await install(open_tmp, "npm", "npm install --no-save left-pad@1.3.0 && ls node_modules")
    assert "left-pad" in output
    assert {visit.host for visit in visits} == set(REGISTRIES["npm"])


async def test_what_a_registry_is_asked_for_without_the_operators_leave_is_refused(open_tmp: Path) -> None:
    visits: list[Visit] = []
    addresses("pip")
    egress = Egress(allow(), folder=open_tmp, user=box_user(None), log=visits.append)
    async with egress:
        box = make_box(make_workspace(open_tmp)).with_network(egress.mount)
        result = await box.run("/usr/bin/python3 -m pip download --retries 1 --no-deps six")
    assert result.exit_code != 0
    assert "403 Forbidden (Nightcrew:" in result.output
    assert {(visit.host, visit.allowed) for visit in visits} == {("pypi.org", False)}
