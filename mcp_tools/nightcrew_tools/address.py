"""Where the HTTP door listens, and who could come in there. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from nightcrew_tools.tokens import Tokens


@dataclass(frozen=True)
class Address:
    """Where the door listens. `names` are more host names under which clients know it."""

    host: str
    port: int
    names: tuple[str, ...] = ()

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def hosts(self) -> tuple[str, ...]:
        """Host headers that belong to this door, with and without a port (`:*` stands for any)."""
        local = ("127.0.0.1", "localhost", "[::1]") if self.is_local else ()
        own = () if self.host in {"0.0.0.0", "::"} else (f"[{self.host}]" if ":" in self.host else self.host,)  # noqa: S104
        return tuple(form for host in dict.fromkeys((*own, *self.names, *local)) for form in (host, f"{host}:*"))


class UnsafeAddress(ValueError):
    """The door may not listen there: says why and what to do."""


def parse_address(text: str, names: tuple[str, ...] = ()) -> Address:
    """`HOST:PORT`, `:PORT` or `PORT`; the host is this machine alone where none is named. Raises `ValueError`."""
    host, _, port = text.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{text!r} is no address; write HOST:PORT, for example 127.0.0.1:8642")
    return Address(host, int(port), names)


def check_address(address: Address, tokens: Tokens | None) -> None:
    """Raises `UnsafeAddress` where other machines could come in without a token, or under no known name."""
    if address.is_local:
        return
    if tokens is None:
        raise UnsafeAddress(
            f"{address.host} can be reached from other machines, so a token is needed: add --token-file FILE "
            "(it is made where it is not there), or listen on 127.0.0.1"
        )
    if not address.hosts():
        raise UnsafeAddress(
            f"{address.host} stands for every name of this machine: "
            "say by --host-name NAME under which one clients come"
        )
