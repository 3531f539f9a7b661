"""Which keys of a changed configuration take effect at once, which for tasks that start from now on, and which not yet.

Pure. What needs a restart keeps its old value, so that the service goes on as one that was configured in one piece.
"""

from __future__ import annotations

from dataclasses import dataclass

from nightcrew.config import Config
from nightcrew_tools.contract import Frozen

AT_ONCE = frozenset(("concurrency", "log"))
FOR_NEW_TASKS = frozenset(("crew", "crews", "box", "network", "gate", "workspaces"))
"""A running task keeps what it began with."""
NEEDS_RESTART = frozenset(("box.user", "log.format", "workspaces.path"))
"""Of those; and every key that stands in neither set."""


@dataclass(frozen=True)
class Changes:
    """Names of the keys that are different, by when they count."""

    at_once: tuple[str, ...] = ()
    new_tasks: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = (
            ("at once", self.at_once),
            ("for new tasks", self.new_tasks),
            ("only after a restart", self.restart),
        )
        return "; ".join(f"{when}: {', '.join(keys)}" for when, keys in parts if keys) or "nothing has changed"


def merged(old: Config, new: Config) -> tuple[Config, Changes]:
    """What the service works with from now on, and what of `new` is in it."""
    taken: dict[str, object] = {}
    at_once: list[str] = []
    new_tasks: list[str] = []
    restart: list[str] = []
    for name, field in Config.model_fields.items():
        before, after = getattr(old, name), getattr(new, name)
        if before == after:
            continue
        shown = field.alias or name
        if name in AT_ONCE | FOR_NEW_TASKS:
            after, kept = _keeping(name, before, after)
            restart += kept
            if before != after:
                (at_once if name in AT_ONCE else new_tasks).append(shown)
        else:
            restart.append(shown)
            continue
        taken[name] = after
    return old.model_copy(update=taken), Changes(tuple(at_once), tuple(new_tasks), tuple(restart))


def _keeping(name: str, before: object, after: object) -> tuple[object, list[str]]:
    """`after` with the old values of its keys that need a restart, and their names."""
    kept = [key.partition(".")[2] for key in sorted(NEEDS_RESTART) if key.startswith(f"{name}.")]
    changed = [key for key in kept if getattr(before, key) != getattr(after, key)]
    update = {key: getattr(before, key) for key in changed}
    if isinstance(after, Frozen):
        after = after.model_copy(update=update)
    return after, [f"{name}.{key}" for key in changed]
