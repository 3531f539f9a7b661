"""The nouns of the daemon: frozen values without I/O."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from nightcrew_tools.contract import CONCERNS, Concern, Frozen


class Usage(Frozen):
    """What one model request cost, as the endpoint counted it."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class Check(Frozen):
    """A command that tells whether the repository is well."""

    command: str
    source: Literal["task", "repository", "plan"]
    """Who asked for it. Only checks of the person or the repository can confirm a result; a plan's can only object."""


class CheckResult(Frozen):
    """One run of a check on a clean checkout."""

    check: Check
    exit_code: int | None
    """None when the command did not end by itself; `ended` says how."""
    ended: str
    """`exited`, or why it was stopped: `signal`, or a limit: `timeout`, `memory`, `output`, `cpu`, `disk`, `file`."""
    output: str
    """Head and tail of standard output and error, capped."""
    seconds: float
    failing: tuple[str, ...] = ()
    """Ids of failing tests, where the output names them."""
    passed_tests: int | None = None
    """Number of passing tests, where the output tells."""
    limit: str = ""
    """The limit that it ran into, in words (`over 4 GiB of memory`), whether it was stopped for it or went on."""

    @property
    def ok(self) -> bool:
        return self.exit_code == 0 and self.ended == "exited"


class HostUse(Frozen):
    """What boxes did with one host and port. Sizes in bytes, TLS and headers included."""

    host: str
    """Empty where what a box sent could not be understood."""
    port: int
    allowed: bool
    why: str = ""
    """Why it was refused, or what went wrong with it last."""
    address: str = ""
    """What was dialled last; `upstream` where an operator's proxy was."""
    connections: int = 0
    sent: int = 0
    received: int = 0

    @property
    def key(self) -> tuple[str, int, bool]:
        return self.host, self.port, self.allowed

    def plus(self, more: HostUse) -> HostUse:
        """Both together; what was said last stands."""
        return HostUse(
            host=self.host,
            port=self.port,
            allowed=self.allowed,
            why=more.why or self.why,
            address=more.address or self.address,
            connections=self.connections + more.connections,
            sent=self.sent + more.sent,
            received=self.received + more.received,
        )


class Step(Frozen):
    """One piece of a plan."""

    title: str
    done_when: str = ""
    checks: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


class Plan(Frozen):
    """A revision of ordered steps."""

    revision: int
    summary: str
    steps: tuple[Step, ...]


class Verdict(Frozen):
    """Whether a result is confirmed, and why."""

    passed: bool
    reason: str
    evidence: str = ""
    """What the executor is shown when it did not pass."""
    notes: tuple[str, ...] = ()
    """What a person should look at all the same."""


def summarised(concerns: Iterable[Concern]) -> str:
    """Concerns in one line: each kind with its first few paths."""
    paths: dict[str, list[str]] = {}
    for concern in concerns:
        paths.setdefault(CONCERNS[concern.kind], []).append(concern.path)
    return "; ".join(f"{words}: {_some(dict.fromkeys(names))}" for words, names in paths.items())


def _some(names: Iterable[str]) -> str:
    first, *rest = list(names)
    shown = [first, *rest[:2]]
    more = len(rest) - len(rest[:2])
    return ", ".join(shown) + (f" and {more} more" if more else "")
