"""A network that boxes of one task share: loopback and nothing else, so that a command reaches a server that another
one started.

Each box is a process of its own with its own view of everything else. The namespace is made by a little process of the
boxes' user (`loopback_holder`) in a user namespace of its own; a box enters both before bubblewrap makes it, and what
runs in it has no power over either.
"""

from __future__ import annotations

import os
import subprocess
from functools import lru_cache
from pathlib import Path

import anyio

from nightcrew_workspaces.errors import BoxError, BoxUnavailable
from nightcrew_workspaces.policy import BoxUser
from nightcrew_workspaces.process import as_user

_START_SECONDS = 30.0
_REMEDY = "Allow unprivileged user and network namespaces, or run server and client in one command."


class Loopback:
    """A network that boxes of `user` can join by the `pid` of its holder; to be closed, also where `ready` failed."""

    def __init__(self, user: BoxUser) -> None:
        argv = [*as_user(user), "/usr/bin/python3", "-I", "-S", "-c", _holder_text()]
        stdin, self._stdin = os.pipe()
        self._said, said = os.pipe()
        try:
            self._holder = subprocess.Popen(
                argv, stdin=stdin, stdout=said, stderr=said, env={}, cwd="/", start_new_session=True
            )
        except OSError as error:
            os.close(self._stdin)
            os.close(self._said)
            raise BoxError(f"the network that commands share could not be made: {error}") from error
        finally:
            os.close(stdin)
            os.close(said)
        self.pid = self._holder.pid

    async def ready(self) -> None:
        """Wait until it can be joined. Raises `BoxUnavailable` where this machine does not allow it."""
        with anyio.move_on_after(_START_SECONDS):
            await anyio.wait_readable(self._said)
            said = os.read(self._said, 4096).decode(errors="replace").strip()
            if said == "ready":
                return
            raise BoxUnavailable(f"commands cannot share a network here: {said or 'its holder ended'}", _REMEDY)
        raise BoxError(f"the network that commands share was not there within {_START_SECONDS:g} seconds")

    def close(self) -> None:
        """Let go of it. Boxes that are in it keep it until they end; none can join any more."""
        self._holder.kill()
        self._holder.wait()
        os.close(self._stdin)
        os.close(self._said)


@lru_cache(maxsize=1)
def _holder_text() -> str:
    """Passed as text, because the boxes' user cannot be expected to reach the directory it is installed in."""
    return Path(__file__).with_name("loopback_holder.py").read_text(encoding="utf-8")
