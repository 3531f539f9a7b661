"""What every prompt says about the repository: a function of the base commit alone, so that its bytes are cached."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from nightcrew.agent.survey import Survey

TREE_CHARACTERS = 2000


def repository_context(survey: Survey) -> str:
    """The file tree, and the head of the repository's own guide where it has one. Pure."""
    guide = f"\n\n{survey.guide}" if survey.guide else ""
    return f"# Repository\n{tree(survey.files)}{guide}"


def tree(files: Sequence[str], *, limit: int = TREE_CHARACTERS) -> str:
    """The tracked files, sorted; folders instead of their files where the list would be longer than `limit`. Pure."""
    listing = sorted(files)
    text = "\n".join(listing)
    depth = max((path.count("/") for path in listing), default=0)
    while len(text) > limit and depth > 0:
        text = "\n".join(_folded(listing, depth))
        depth -= 1
    return text if len(text) <= limit else f"{text[:limit].rpartition(chr(10))[0]}\n… ({len(listing)} files in all)"


def _folded(files: Sequence[str], depth: int) -> list[str]:
    """Paths cut at `depth` folders, with the number of files below each cut."""
    counts = Counter("/".join(path.split("/")[:depth]) + "/" if path.count("/") >= depth else path for path in files)
    return [f"{name} ({count} files)" if name.endswith("/") else name for name, count in sorted(counts.items())]
