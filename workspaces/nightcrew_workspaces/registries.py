"""Names for the hosts of the usual package registries. A name opens nothing: an operator's allow-list does."""

from __future__ import annotations

from collections.abc import Mapping

REGISTRIES: Mapping[str, tuple[str, ...]] = {
    "pip": ("pypi.org", "files.pythonhosted.org"),
    "npm": ("registry.npmjs.org",),
    "cargo": ("index.crates.io", "static.crates.io", "crates.io"),
    "go": ("proxy.golang.org", "sum.golang.org"),
    "maven": ("repo.maven.apache.org", "repo1.maven.org"),
}
"""What a fresh pip, npm, cargo, go or Maven asks for."""
