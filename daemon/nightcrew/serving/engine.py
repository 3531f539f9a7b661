"""Which SGLang an interpreter has, and with which CUDA: read from its installed packages, none of them imported."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ASK_SECONDS = 20.0

_ASK = """
import json, sys
from importlib.metadata import distributions
wanted = ("sglang", "torch", "nvidia-cuda-runtime")
found = {}
for each in distributions():
    name = (each.metadata["Name"] or "").lower()
    if name.startswith(wanted):
        found.setdefault(name, each.version)
print(json.dumps({"python": sys.version.split()[0], "packages": found}))
"""


@dataclass(frozen=True)
class Engine:
    """What an interpreter's environment holds; an empty version is a package that is not there."""

    python: str
    sglang: str
    torch: str
    cuda: tuple[int, int] | None
    """Of the CUDA runtime that PyTorch came with."""


class NoEngine(Exception):
    """The interpreter cannot be asked: says why."""


def read_engine(python: Path) -> Engine:
    """Ask an interpreter what it has. Raises `NoEngine`."""
    try:
        done = subprocess.run(
            [str(python), "-I", "-c", _ASK], capture_output=True, text=True, timeout=ASK_SECONDS, check=False
        )
    except FileNotFoundError:
        raise NoEngine(f"{python} is not there") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoEngine(f"{python} cannot be asked: {error}") from None
    try:
        answer = json.loads(done.stdout)
        packages: dict[str, str] = answer["packages"]
    except (ValueError, KeyError, TypeError):
        said = done.stderr.strip()[-200:] or done.stdout[:200]
        raise NoEngine(f"{python} is no Python that answers: {said}") from None
    runtimes = [version for name, version in packages.items() if name.startswith("nvidia-cuda-runtime")]
    return Engine(
        python=answer["python"],
        sglang=packages.get("sglang", ""),
        torch=packages.get("torch", ""),
        cuda=max(filter(None, map(_release, runtimes)), default=None),
    )


def nvcc_release(environ: Mapping[str, str]) -> tuple[int, int] | None:
    """Major and minor version of the CUDA compiler that SGLang's kernels would be built with, or None without one."""
    path = environ.get("CUDA_HOME") or environ.get("CUDA_PATH") or "/usr/local/cuda"
    program = shutil.which("nvcc", path=f"{path}/bin") or shutil.which("nvcc", path=environ.get("PATH"))
    if program is None:
        return None
    try:
        shown = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=ASK_SECONDS, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"release (\d+\.\d+)", shown)
    return _release(match[1]) if match else None


def _release(version: str) -> tuple[int, int] | None:
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else None
