"""All attacks, a module for each few kinds."""

from __future__ import annotations

from security.attack import Attack
from security.attacks import (
    arguments,
    egress,
    kernel,
    objects,
    paths,
    persistence,
    poison,
    processes,
    resources,
    secrets,
    state,
    terminal,
)

ATTACKS: tuple[Attack, ...] = (
    *paths.ATTACKS,
    *poison.ATTACKS,
    *objects.ATTACKS,
    *arguments.ATTACKS,
    *state.ATTACKS,
    *terminal.ATTACKS,
    *secrets.ATTACKS,
    *egress.ATTACKS,
    *resources.ATTACKS,
    *processes.ATTACKS,
    *persistence.ATTACKS,
    *kernel.ATTACKS,
)
