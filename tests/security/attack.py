"""An attack as data: the same deed with and without a box, and the canary that tells whether it got through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

from security.world import PLANTED, SECRET

Kind = Literal[
    "path traversal",
    "links",
    "magic links",
    "git arguments",
    "git config and hooks",
    "git objects",
    "secrets",
    "egress",
    "resources",
    "outliving the timeout",
    "signals and ptrace",
    "terminal",
    "state tampering",
    "persistence",
    "kernel surface",
]
KINDS: tuple[str, ...] = get_args(Kind)
Half = Literal["unboxed", "boxed"]
Service = Literal["person", "root"]


@dataclass(frozen=True)
class Traces:
    """What an attack left, as the first process of its machine sees it right after the deed."""

    text: str
    """All that the deed gave back: output, answers, refusals."""
    received: str
    """What came to the machine's listeners."""
    injected: bytes
    """What was put into the terminal's input."""
    shown: bytes
    """What was written to the terminal."""
    victim: str
    """State letter of the service's process in /proc/PID/stat; empty when it is gone."""
    alive: tuple[str, ...]
    """Command lines of the processes that are still there, the machine's own left out."""


Canary = Callable[[Traces], bool]


class Deed(Protocol):
    """The same attack twice. Each half returns what a person or a model would be shown of it."""

    def unboxed(self) -> str:
        """With plain subprocess, plain git or a plain implementation of a tool, as the service's own user."""
        ...

    async def boxed(self) -> str:
        """Through the product, which has to go on working: raises where it does not."""
        ...


@dataclass(frozen=True)
class Attack:
    """One way to get out, in, or at something.

    `service` is who runs the service: a person, whose boxes run as the same account, or root, whose boxes do not.
    """

    id: str
    kind: Kind
    deed: Deed
    canary: Canary
    service: Service = "person"
    everywhere: bool = True
    """False for what some kernels are built without. Its proof is then left out aloud, and it does not count."""


def says(text: str = SECRET) -> Canary:
    """It was shown this text."""
    return lambda traces: text in traces.text


def planted(path: str = PLANTED) -> Canary:
    """Something is where nothing was."""
    return lambda traces: Path(path).exists() or Path(path).is_symlink()


def gone(path: str) -> Canary:
    """Something is there no more."""
    return lambda traces: not Path(path).exists()


def changed(path: str = "/outside/file", *, to: str | None = None) -> Canary:
    """A file is there and says something else than `untouched`, or `to`."""

    def sees(traces: Traces) -> bool:
        text = Path(path).read_text(errors="replace")
        return text != "untouched\n" if to is None else to in text

    return sees


def received(text: str = "PING") -> Canary:
    """A listener of the machine got this."""
    return lambda traces: text in traces.received


OUTLIVES = "4242.4242"
"""How long an attack's process sleeps, in seconds; so its command line is known."""


def outlives(traces: Traces) -> bool:
    """A process of the attack is alive after the command's end."""
    return any(line.startswith(f"sleep {OUTLIVES}") for line in traces.alive)


def victim_hurt(traces: Traces) -> bool:
    """The service was killed or stopped."""
    return traces.victim in {"", "T", "t", "Z"}


def injected(traces: Traces) -> bool:
    """Something was typed into the terminal of the service."""
    return traces.injected != b""


def shown(traces: Traces) -> bool:
    """Something was written to the terminal of the service."""
    return traces.shown != b""
