"""Tasks that begin together and share a prefix: the first request goes alone until its reply begins, the others follow.

A server puts a prompt into its cache when the prefill is done. Four equal prompts that come at once are prefilled four
times; after one of them, the other three are read from the cache (measured on SGLang).
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio

from nightcrew.config import RoleSettings
from nightcrew.crew import Role
from nightcrew.llm.client import ModelClient, Reply

WAIT_SECONDS = 60.0
"""The longest that a request waits for another one's reply to begin."""
FRESH_SECONDS = 300.0
"""So long a prefix is taken to be in the server's cache."""
_END_OF_CONTEXT = "\\n\\n# Task\\n"
"""Where a first user message, as JSON text, stops being the same for all tasks on a repository."""


class Warmth:
    """What is in the caches of model servers, as far as this process put it there."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, wait_seconds: float = WAIT_SECONDS) -> None:
        self._clock = clock
        self._wait = wait_seconds
        self._first: dict[str, anyio.Event] = {}
        self._warm: dict[str, float] = {}

    def open(self, name: str, role: Role) -> ModelClient:
        """The client of a role, whose conversations begin as this object allows. See `work.open_client`."""
        del name
        return _Sharing(role.settings, self, api_key=role.api_key)

    @asynccontextmanager
    async def beginning(self, prefix: str) -> AsyncGenerator[Callable[[], None]]:
        """Around a request that begins with `prefix`; what is yielded is to be called when its reply begins.

        Waits while another request with this prefix has no reply yet, but not for ever.
        """
        since = self._warm.get(prefix)
        if since is not None and self._clock() - since < FRESH_SECONDS:
            yield _nothing
        elif (event := self._first.get(prefix)) is not None:
            with anyio.move_on_after(self._wait):
                await event.wait()
            yield _nothing
        else:
            event = self._first[prefix] = anyio.Event()

            def began() -> None:
                now = self._clock()
                self._warm = {one: at for one, at in self._warm.items() if now - at < FRESH_SECONDS} | {prefix: now}
                self._done(prefix, event)

            try:
                yield began
            finally:
                self._done(prefix, event)

    def _done(self, prefix: str, event: anyio.Event) -> None:
        event.set()
        if self._first.get(prefix) is event:
            del self._first[prefix]


def _nothing() -> None:
    pass


class _Sharing(ModelClient):
    def __init__(self, settings: RoleSettings, warmth: Warmth, **options: Any) -> None:
        super().__init__(settings, **options)
        self._place = f"{settings.base_url} {settings.model}"
        self._warmth = warmth

    async def chat(self, messages: Sequence[str], *, tools: str | None = None, **rest: Any) -> Reply:
        if len(messages) != 2:
            return await super().chat(messages, tools=tools, **rest)
        context, _, _ = messages[1].partition(_END_OF_CONTEXT)
        async with self._warmth.beginning("\n".join((self._place, tools or "", messages[0], context))) as began:
            return await super().chat(messages, tools=tools, on_start=began, **rest)
