"""A first look at a checkout: its files, build files, guide, and which tools its box has. One command in a box."""

from __future__ import annotations

from dataclasses import dataclass

from nightcrew_workspaces.box import Box
from nightcrew_workspaces.errors import WorkspaceError

MANIFESTS = ("package.json", "Cargo.toml", "go.mod", "Makefile", "pyproject.toml", "pytest.ini")
GUIDES = ("AGENTS.md", "CONTRIBUTING.md")
GUIDE_CHARACTERS = 2000
_TOOLS = ("npm", "cargo", "go", "make", "python3")

_FILE = "@@nightcrew-file "
_PART = "@@nightcrew-part"
_FIND_PYTEST = "import importlib.util, sys; sys.exit(importlib.util.find_spec('pytest') is None)"
_SCRIPT = f"""\
show() {{ for f; do if [ -f "$f" ]; then echo "{_FILE}$f"; head -c 65536 "$f"; echo; fi; done; }}
show {" ".join(MANIFESTS)} {" ".join(GUIDES)}
echo {_PART}
for t in {" ".join(_TOOLS)}; do command -v $t >/dev/null && echo $t; done
python3 -c "{_FIND_PYTEST}" && echo pytest
echo {_PART}
git -c core.quotePath=off ls-files"""


@dataclass(frozen=True)
class Survey:
    """What a checkout has."""

    files: tuple[str, ...]
    """Tracked paths."""
    manifests: dict[str, str]
    """Text of the build files at the top, by name; at most 64 KiB of each."""
    guide: str
    """The head of the repository's own guide for agents, under its name; empty where there is none."""
    tools: frozenset[str]
    """What can be run in a box; `pytest` stands for the importable module."""


async def survey(box: Box) -> Survey:
    """Look at what lies in /workspace."""
    looked = await box.capture(["/bin/sh", "-c", _SCRIPT], seconds=60)
    if looked.ended != "exited":
        raise WorkspaceError(f"the repository could not be looked through: {looked.ended}")
    return read_survey(looked.stdout.decode(errors="replace"))


def read_survey(output: str) -> Survey:
    """The script's output, taken apart. Pure."""
    shown, tools, files = [*output.split(f"{_PART}\n", 2), "", ""][:3]
    texts: dict[str, str] = {}
    for part in shown.split(_FILE)[1:]:
        name, _, text = part.partition("\n")
        texts[name] = text
    guide = next((f"## {name}\n{texts[name][:GUIDE_CHARACTERS].strip()}" for name in GUIDES if name in texts), "")
    return Survey(
        files=tuple(path for path in files.splitlines() if path),
        manifests={name: text for name, text in texts.items() if name in MANIFESTS},
        guide=guide,
        tools=frozenset(tools.split()),
    )
