"""Starting a helper of ours in a box that stays up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import anyio

from nightcrew_workspaces.box import Box, BoxChannel
from nightcrew_workspaces.errors import BoxError

_START_SECONDS = 30.0


async def start_helper(
    box: Box, argv: Sequence[str], name: str, greeting: Callable[[BoxChannel], Awaitable[object]]
) -> BoxChannel:
    """Start it and hear its `greeting`; the channel has to be closed.

    Raises `BoxUnavailable` or `BoxError` where it does not start; then nothing of it is left.
    """
    channel = await box.spawn(argv)
    try:
        with anyio.fail_after(_START_SECONDS):
            await greeting(channel)
    except BaseException as error:
        await channel.aclose()
        if isinstance(error, (OSError, asyncio.IncompleteReadError, TimeoutError)):
            said = channel.errors() or "it ended at once"
            raise BoxError(f"the {name} did not start: {said}") from error
        raise
    return channel
