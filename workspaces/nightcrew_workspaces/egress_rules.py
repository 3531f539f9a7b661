"""Which hosts and addresses a box's way out may lead to: pure data and arithmetic, no I/O.

A name is allowed by the operator's list; an address by what it is. Both have to hold: an allowed name that resolves to
the metadata service of a cloud leads nowhere.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

DEFAULT_PORTS = (443, 80)
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)")

_NEVER: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text) for text in ("0.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32", "::/128", "ff00::/8")
)
"""No host at all: unspecified, multicast, broadcast."""
_SPECIAL: tuple[tuple[Network, str], ...] = tuple(
    (ipaddress.ip_network(text), what)
    for text, what in (
        ("127.0.0.0/8", "this machine itself"),
        ("::1/128", "this machine itself"),
        ("169.254.0.0/16", "link-local, where clouds keep their metadata"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("fd00:ec2::/32", "a cloud's metadata"),
        ("192.88.99.0/24", "a 6to4 relay"),
        ("::/96", "an IPv4 address in another form"),
        ("::ffff:0:0/96", "an IPv4 address in another form"),
        ("::ffff:0:0:0/96", "an IPv4 address in another form"),
        ("64:ff9b::/96", "an IPv4 address in another form"),
        ("64:ff9b:1::/48", "an IPv4 address in another form"),
        ("2001::/32", "an IPv4 address in another form"),
        ("2002::/16", "an IPv4 address in another form"),
    )
)
"""Opened only by a range that lies within: `10.0.0.0/8` or even `0.0.0.0/0` in a configuration does not mean these."""


@dataclass(frozen=True)
class HostRule:
    """A host, or with `*.` in front every host below it, and the ports of it that are meant."""

    host: str
    """Lower-case ASCII without a final dot; an IPv6 address without brackets."""
    ports: tuple[int, ...] = DEFAULT_PORTS

    def matches(self, host: str) -> bool:
        """Whether a normal host (see `normal_host`) is meant."""
        if self.host.startswith("*."):
            return host.endswith(self.host[1:]) and literal(host) is None
        return host == self.host

    def __str__(self) -> str:
        shown = f"[{self.host}]" if ":" in self.host else self.host
        if self.ports == DEFAULT_PORTS:
            return shown
        return " ".join(f"{shown}:{port}" for port in self.ports)


@dataclass(frozen=True)
class AllowList:
    """Hosts with their ports; empty it allows nothing."""

    rules: tuple[HostRule, ...] = ()

    def allows(self, host: str, port: int) -> bool:
        """Whether some rule means this host and port."""
        return any(rule.matches(host) and port in rule.ports for rule in self.rules)

    def narrowed(self, wanted: str) -> tuple[HostRule, ...]:
        """The part of this list that an entry of another one asks for: never more than is here.

        `wanted` is an entry as in `parse_rule`; without a port it means the ports that are allowed here. Empty where
        nothing of it is allowed. Raises `ValueError` for what is no entry.
        """
        asked = parse_rule(wanted)
        named_port = _split_port(wanted.strip())[1] is not None
        found: list[HostRule] = []
        for rule in self.rules:
            below = asked.host.startswith("*.") and rule.host.startswith("*.") and asked.host.endswith(rule.host[1:])
            if asked.host == rule.host or below or (not asked.host.startswith("*.") and rule.matches(asked.host)):
                ports = tuple(port for port in rule.ports if not named_port or port in asked.ports)
                found += [HostRule(asked.host, ports)] if ports else []
        return tuple(dict.fromkeys(found))


def parse_rule(text: str) -> HostRule:
    """An entry of an allow-list: `host`, `*.host`, either with `:port`. Raises `ValueError`, which says what is wrong.

    Without a port it means 443 and 80.
    """
    host, port = _split_port(text.strip())
    wild = host.startswith("*.")
    name = normal_host(host[2:] if wild else host)
    if wild and ("." not in name or literal(name) is not None):
        raise ValueError(f"{text!r}: a `*.` stands before a domain of at least two parts, such as `*.example.org`")
    return HostRule(f"*.{name}" if wild else name, DEFAULT_PORTS if port is None else (_port(port, text),))


def normal_host(text: str) -> str:
    """A host name or address in the one form in which it is compared. Raises `ValueError` for what is neither."""
    host = text.lower()
    if host.startswith("[") and host.endswith("]"):
        return str(ipaddress.IPv6Address(host[1:-1]))
    host = host.removesuffix(".")
    labels = host.split(".")
    if not host.isascii():
        raise ValueError(f"{text!r}: write an international name in its ASCII form (xn--…)")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{text!r} is no host name")
    # `127.1`, `0x7f.1` and `2130706433` are addresses to a resolver: only the plain form of one is taken for one.
    if _NUMBER.fullmatch(labels[-1]):
        return str(ipaddress.IPv4Address(host))
    return host


def literal(host: str) -> Address | None:
    """The address that a normal host is, None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def split_authority(text: str, default_port: int | None) -> tuple[str, int]:
    """`host:port` of a request, normal. Raises `ValueError`, also without a port where there is no default."""
    host, port = _split_port(text)
    if port is None:
        if default_port is None:
            raise ValueError(f"{text!r} has no port")
        return normal_host(host), default_port
    return normal_host(host), _port(port, text)


def why_refused(address: Address, private: Sequence[Network] = ()) -> str | None:
    """Why nothing may be sent to an address; None where it may. `private` are ranges that the operator opened."""
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        return "it is link-local"
    if _within(address, _NEVER):
        return "it is no single host's address"
    opened = [network for network in private if network.version == address.version and address in network]
    for special, what in _SPECIAL:
        if special.version == address.version and address in special:
            inside = any(network.subnet_of(special) for network in opened)  # pyright: ignore[reportArgumentType]
            return None if inside else f"it is {what}"
    if opened or (address.is_global and not address.is_reserved):
        return None
    return "it is private"


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(network.version == address.version and address in network for network in networks)


def _split_port(text: str) -> tuple[str, str | None]:
    """Host and port as written; an IPv6 address stands in brackets."""
    if text.startswith("["):
        host, closed, rest = text.partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is no host")
        return f"{host}]", rest[1:] if rest else None
    host, colon, port = text.partition(":")
    return host, port if colon else None


def _port(text: str, whole: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) < 65536:
        raise ValueError(f"{whole!r}: the port is no number from 1 to 65535")
    return int(text)
