"""Chat templates under which every prompt of a conversation extends the one before it; see docs/templates.md."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from nightcrew.errors import ConfigError


def template_path(name: str) -> Path:
    """The file of a template that comes with Nightcrew, for a server's `--chat-template`.

    Raises `ConfigError` when none has this name.
    """
    files = {Path(str(file)).name: Path(str(file)) for file in resources.files(__name__).iterdir()}
    known = sorted(each for each in files if each.endswith(".jinja"))
    if name not in known:
        raise ConfigError(f"no chat template is called {name!r}; there are {', '.join(known)}")
    return files[name]
