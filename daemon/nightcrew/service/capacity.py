"""How much more may run, by crew and by endpoint."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from nightcrew.config import Config, CrewSettings, environment
from nightcrew.crew.known import known, settings_of
from nightcrew.errors import ConfigError

LOOK_SECONDS = 5.0
"""How long a crew file that was changed may go unnoticed."""


class Capacity:
    """Knows which crews have no room left; looks at the crew files now and then."""

    def __init__(self, config: Config, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock = clock
        self._crews: dict[str, CrewSettings] = {}
        self._look_at = clock()

    def full(self, running: Iterable[str | None]) -> frozenset[str]:
        """Crews, as tasks name them (None for the default one), of which no other task may start beside `running`."""
        named = list(running)
        if not named:
            return frozenset()
        if self._clock() >= self._look_at:
            self._crews, self._look_at = limited(self._config, environment()), self._clock() + LOOK_SECONDS
        return full_crews(self._config, self._crews, named)

    def idle_endpoints(self) -> list[str]:
        """Endpoints that have a limit, and that no crew talks to: most likely a slip of the pen."""
        if not self._config.endpoints:
            return []
        used = {url for crew in limited(self._config, environment()).values() for url in crew.endpoints}
        return [url for url in self._config.endpoints if url.rstrip("/") not in used]


def full_crews(config: Config, crews: Mapping[str, CrewSettings], running: Iterable[str | None]) -> frozenset[str]:
    """See `Capacity.full`; the default crew stands as its name and as the empty one. Pure.

    What is found on this machine without a configuration, and the embedded model, have no limit of their own.
    """
    counts = Counter(crew or config.crew or "" for crew in running)
    used: Counter[str] = Counter()
    for name, count in counts.items():
        if name in crews:
            used.update(dict.fromkeys(crews[name].endpoints, count))
    busy = {url.rstrip("/") for url, each in config.endpoints.items() if used[url.rstrip("/")] >= each.concurrency}
    full = {
        name
        for name, crew in crews.items()
        if (crew.concurrency is not None and counts[name] >= crew.concurrency) or busy & crew.endpoints
    }
    return frozenset(full | {""} if config.crew in full else full)


def limited(config: Config, environ: Mapping[str, str]) -> dict[str, CrewSettings]:
    """Every crew that names endpoints, those of crew files too. A crew file that is wrong is its own tasks' trouble."""
    found: dict[str, CrewSettings] = {}
    for name in known(config, environ):
        try:
            settings = settings_of(name, config, environ)
        except ConfigError:
            continue
        if settings is not None:
            found[name] = settings
    return found
