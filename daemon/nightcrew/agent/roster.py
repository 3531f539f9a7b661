"""Who works tonight: a crew's name becomes live endpoints; with no configuration, what is found on this machine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import anyio

from nightcrew.config import Config, models_dir
from nightcrew.crew import Crew, embedded_crew, from_settings, settings_of, solo_crew
from nightcrew.errors import EndpointDown, ModelError
from nightcrew.llm.discovery import Found, describe, discover
from nightcrew.serving.embedded import EmbeddedServer
from nightcrew.serving.embedded_weights import EMBEDDED_WEIGHTS
from nightcrew.serving.weights import present

EMBEDDED_WORDS = (
    "embedded 1.5B model: small, single-file repairs; point me at SGLang or any OpenAI-compatible server for real work"
)


class NoEndpoint(EndpointDown):
    """No usable model endpoint: says what was looked for and what to do."""


class Roster:
    """Resolves crews, and owns the embedded model's server, which is started at most once, when it is needed."""

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str],
        *,
        say: Callable[[str], None],
        look: Callable[[], Awaitable[list[Found]]] = discover,
    ) -> None:
        """`look` finds the endpoints that answer on this machine."""
        self._config = config
        self._environ = environ
        self._say = say
        self._look = look
        self._stack = AsyncExitStack()
        self._starting = anyio.Lock()
        self._embedded: EmbeddedServer | None = None

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def renew(self, config: Config) -> None:
        """Resolve crews by another configuration from now on."""
        self._config = config

    async def crew(self, name: str | None) -> Crew:
        """A crew by name, the configured default, or what answers on this machine.

        Raises `ConfigError` for a name that nobody defined, `NoEndpoint` when there is nothing to talk to.
        """
        name = name or self._config.crew
        if name is None:
            return await self._found()
        settings = settings_of(name, self._config, self._environ)
        if settings is None:
            return await self._embedded_crew()
        return from_settings(name, settings, self._environ)

    async def _found(self) -> Crew:
        """The first endpoint on the usual local ports, else the embedded model."""
        found = await self._look()
        for each in found:
            self._say(describe(each))
        if found:
            return solo_crew(found[0].base_url, found[0].models[0])
        return await self._embedded_crew()

    async def _embedded_crew(self) -> Crew:
        async with self._starting:
            if self._embedded is None or not self._embedded.alive:
                self._embedded = await self._start_embedded()
        return embedded_crew(self._embedded.base_url, self._embedded.api_key)

    async def _start_embedded(self) -> EmbeddedServer:
        weights = present(models_dir(self._environ))
        if weights is None:
            raise NoEndpoint(
                "no model endpoint: nothing answers on the usual local ports, and the embedded model's weights "
                f"({EMBEDDED_WEIGHTS.size / 2**30:.1f} GiB) are not here. Start SGLang or any OpenAI-compatible "
                "server, name one in the configuration file, or run `nightcrew model fetch`"
            )
        self._say(EMBEDDED_WORDS)
        try:
            server = EmbeddedServer(weights, self._config.home / "logs" / "embedded.log")
            return await self._stack.enter_async_context(server)
        except ModelError as error:
            raise NoEndpoint(f"no model endpoint: {error}") from error
