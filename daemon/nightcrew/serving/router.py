"""A router before the servers of several machines: smg (PyPI, 1.13), told where they are.

It asks each worker for its models (`/v1/models`), sends a request to one that has the model, and among those to the one
that holds most of the request's beginning. What it does not know of a request it hands on: `rid`, `priority`,
`cache_salt`, `session_id`. sglang-router drops them, and `--enable-igw` makes smg forget its `--worker-urls`.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from nightcrew.errors import ConfigError

INSTALL = "uv tool install 'smg>=1.13,<2'"
HEALTH = "/ready"
"""SGLang's `/health` makes the model write a token each time."""

SPILL = "1"
"""How many requests above the mean keep new conversations away from a server that holds their beginning.

All of a crew's begin alike (system text, tools, repository): with smg's own 64, eight conversations at once all went to
one of two servers; with 1 they were 48 and 48 of 96 requests, and none of them moved (tests/integration/test_smg.py).
"""


@dataclass(frozen=True)
class Route:
    """How the router is started, and where it listens."""

    crew: str
    workers: tuple[str, ...]
    host: str
    port: int
    metrics_port: int
    program: str = "smg"

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/v1"

    @property
    def argv(self) -> tuple[str, ...]:
        """Its command line; see `smg launch --help`."""
        return (
            *(self.program, "launch", "--host", self.host, "--port", str(self.port)),
            *("--worker-urls", *self.workers),
            *("--policy", "cache_aware", "--balance-abs-threshold", SPILL),
            *("--health-check-endpoint", HEALTH),
            # Prompts go on as messages: no tokenizer is needed here.
            "--disable-tokenizer-autoload",
            *("--prometheus-host", self.host, "--prometheus-port", str(self.metrics_port)),
            *("--log-level", "warn"),
        )

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it. It asks nobody for a key."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def unit(self) -> str:
        """A systemd unit. Percent signs are systemd's own, so they are doubled."""
        command = shlex.join(self.argv).replace("%", "%%")
        return "\n".join(
            (
                "[Unit]",
                f"Description=Router before the model servers of the crew {self.crew}",
                "After=network-online.target",
                "Wants=network-online.target",
                "",
                "[Service]",
                f"ExecStart={command}",
                "Restart=on-failure",
                "RestartSec=5",
                "DynamicUser=yes",
                "NoNewPrivileges=yes",
                "ProtectSystem=strict",
                "ProtectHome=yes",
                "",
                "[Install]",
                "WantedBy=multi-user.target",
                "",
            )
        )

    def crew_file(self, models: Mapping[str, str]) -> str:
        """A crew file that extends the crew and asks the router: `models` is role to model."""
        lines = [f'extends = "{self.crew}"', f'about = "{self.crew}, by a router before several servers"']
        for role, model in models.items():
            lines += ["", f"[roles.{role}]", f'base_url = "{self.url}"', f'model = "{model}"']
        return "\n".join(lines) + "\n"


def worker_url(text: str) -> str:
    """A worker's address as smg wants it: without the `/v1` of its API. Raises `ConfigError`."""
    url = urlsplit(text.strip())
    try:
        port = url.port
    except ValueError:
        port = -1
    if url.scheme not in {"http", "https"} or not url.hostname or port == -1:
        raise ConfigError(f"{text!r} is no worker; write http://HOST:PORT")
    if url.username or url.password or url.query or url.path.rstrip("/") not in {"", "/v1"}:
        raise ConfigError(f"{text!r}: a worker is an address alone, http://HOST:PORT")
    return f"{url.scheme}://{url.netloc}"


def workers_of(given: Sequence[str], ports: Sequence[int]) -> tuple[str, ...]:
    """The workers that are named, else this machine's servers on their planned ports; each once."""
    urls = [worker_url(text) for text in given] or [f"http://127.0.0.1:{port}" for port in ports]
    return tuple(dict.fromkeys(urls))
