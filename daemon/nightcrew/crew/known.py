"""Every crew that a task may name: the configuration's, a person's crew files, the built-in ones, in that order."""

from __future__ import annotations

from collections.abc import Mapping

from nightcrew.config import Config, CrewSettings
from nightcrew.crew.files import BoundRole, CrewFile, Need, load, names
from nightcrew.errors import ConfigError


def known(config: Config, environ: Mapping[str, str]) -> list[str]:
    """Their names."""
    return sorted({*config.crews, *names(environ)})


def crew_of(name: str, config: Config, environ: Mapping[str, str]) -> CrewFile:
    """A crew as `settings_of` finds it, with what its roles need. Of one that stands in the configuration nothing is
    served here: it names endpoints. Raises `ConfigError` as that does."""
    if name not in config.crews:
        return load(name, environ)
    settings = config.crews[name]
    return CrewFile(
        name=name,
        origin="configuration",
        concurrency=settings.concurrency,
        roles={role: BoundRole(settings=of, need=Need(), local=False) for role, of in settings.roles().items()},
    )


def settings_of(name: str, config: Config, environ: Mapping[str, str]) -> CrewSettings | None:
    """The roles of a crew; None for one that the embedded model plays.

    Raises `ConfigError` for a name that nobody defined, and for a crew file that is wrong.
    """
    if name in config.crews:
        return config.crews[name]
    if name not in (there := known(config, environ)):
        raise ConfigError(f"no crew is called {name!r}; there are: {', '.join(there)}")
    crew = load(name, environ)
    return None if crew.embedded else crew.settings()
