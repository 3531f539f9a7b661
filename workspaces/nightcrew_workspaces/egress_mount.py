"""What a box sees of its way out: a socket, a bridge to it on the loopback, and the variables that tell tools. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BRIDGE = "/opt/nightcrew/bridge.py"
SOCKET = "/run/egress"
PORT = 3128
"""Of the box's own loopback, where the bridge listens."""
_PROXY = f"http://127.0.0.1:{PORT}"
_LOCAL = "localhost,127.0.0.1,::1"


@dataclass(frozen=True)
class EgressMount:
    """A way out for a box: the socket on this machine behind which `egress.Egress` serves."""

    socket: Path
    ca_bundle: str = ""
    """The certificates that the box's tools are to trust, a path in the box; their own when empty."""
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    """More variables, which win: the address of a mirror, say."""

    def __post_init__(self) -> None:
        if not self.socket.is_absolute():
            raise ValueError(f"egress socket {self.socket}: not an absolute path")

    def environment(self) -> dict[str, str]:
        """For curl and most others, then for those that read variables of their own."""
        hosts, port = ("http", "https"), f"Port={PORT}"
        java = " ".join(f"-D{name}.proxyHost=127.0.0.1 -D{name}.proxy{port}" for name in hosts)
        told = {name: _PROXY for each in ("http_proxy", "https_proxy", "all_proxy") for name in (each, each.upper())}
        told |= {"no_proxy": _LOCAL, "NO_PROXY": _LOCAL}
        told |= {"PIP_PROXY": _PROXY, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
        told |= {"npm_config_proxy": _PROXY, "npm_config_https_proxy": _PROXY, "npm_config_noproxy": _LOCAL}
        told |= {f"npm_config_{name}": "false" for name in ("audit", "fund", "update_notifier")}
        told |= {"CARGO_HTTP_PROXY": _PROXY, "MAVEN_OPTS": java, "GRADLE_OPTS": java}
        if self.ca_bundle:
            # Tools that bring certificates of their own would not know those that this machine's operator added.
            names = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO")
            told |= dict.fromkeys((*names, "NODE_EXTRA_CA_CERTS", "CARGO_HTTP_CAINFO"), self.ca_bundle)
        return {**told, **self.env}

    def arguments(self) -> list[str]:
        """For bubblewrap, after /run is there."""
        return ["--ro-bind", str(self.socket), SOCKET]

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command with the bridge started before it."""
        return ["/usr/bin/python3", "-I", "-S", BRIDGE, SOCKET, str(PORT), *argv]
