"""A person's own directories, opened as `nightcrew mcp` does: real boxes, real git."""

from __future__ import annotations

from pathlib import Path

from nightcrew_workspaces.policy import BoxPolicy, Limits
from nightcrew_workspaces.roots import Identity, Roots, check_roots, roots_policy, user_of_roots


def open_roots(*paths: Path) -> Roots:
    roots = check_roots(paths)
    template = BoxPolicy(user=user_of_roots(roots, read_only=False), mounts=(), limits=Limits(seconds=30))
    identity = Identity("Ada", "ada@example.org")
    return Roots(roots, roots_policy(template, roots, read_only=False, identity=identity))
