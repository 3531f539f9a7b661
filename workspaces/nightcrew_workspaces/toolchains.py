"""Compilers and interpreters outside of /usr that boxes may see, and where builds keep what they fetch.

What is shown is chosen by this machine and the service's own environment, never by a repository: only directories that
hold nothing but a toolchain. What lies beside them is not shown: `~/.cargo` with its credentials, `~/.npmrc`, `~/.m2`.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nightcrew_workspaces.policy import BoxUser
from nightcrew_workspaces.user import unreachable

CACHE = "/cache"
"""Where a box sees its task's cache, which is writable, and gone with the workspace or the clean room."""

_OPT = Path("/opt")
_TOOLS = ("python3", "node", "cargo", "go", "java", "mvn", "gradle", "gcc", "clang")
_REMEDY = (
    "Install it where every user can read it (below /opt or /usr/local), or let boxes run as an account that can: "
    "`box.user`."
)


@dataclass(frozen=True)
class Toolchain:
    """One directory with a `bin` in it. `variable` is set to the directory where a program asks for that."""

    name: str
    root: Path
    variable: str = ""


@dataclass(frozen=True)
class Missed:
    """A toolchain of this machine that boxes cannot see."""

    toolchain: Toolchain
    blocked: Path
    """The directory that the boxes' user cannot enter."""
    remedy: str = _REMEDY


@dataclass(frozen=True)
class Toolchains:
    """What boxes see, in the order of their PATH."""

    found: tuple[Toolchain, ...] = ()
    missed: tuple[Missed, ...] = ()

    @property
    def read_only(self) -> tuple[Path, ...]:
        """Directories to bind."""
        return tuple(each.root for each in self.found)

    @property
    def path(self) -> tuple[str, ...]:
        """Directories for PATH."""
        return tuple(str(each.root / "bin") for each in self.found)

    @property
    def env(self) -> dict[str, str]:
        """What their programs have to be told."""
        return {each.variable: str(each.root) for each in self.found if each.variable}


def cache_environment(at: str = CACHE) -> dict[str, str]:
    """Where each language's tools keep what they fetch and build once. Pure."""
    return {
        "CARGO_HOME": f"{at}/cargo",
        "GOCACHE": f"{at}/go-build",
        "GOMODCACHE": f"{at}/go-mod",
        "GRADLE_USER_HOME": f"{at}/gradle",
        "MAVEN_OPTS": f"-Dmaven.repo.local={at}/m2",
        "PIP_CACHE_DIR": f"{at}/pip",
        "UV_CACHE_DIR": f"{at}/uv",
        "XDG_CACHE_HOME": f"{at}/xdg",
        "YARN_CACHE_FOLDER": f"{at}/yarn",
        "npm_config_cache": f"{at}/npm",
        "npm_config_store_dir": f"{at}/pnpm",
    }


def find_toolchains(environ: Mapping[str, str], user: BoxUser) -> Toolchains:
    """Look at the usual places of this machine and of the service's own account. `environ` is the service's.

    What the service itself may not enter (a `PATH` that came along through `su`) is no toolchain of its, and no error.
    """
    found: list[Toolchain] = []
    missed: list[Missed] = []
    seen: set[Path] = set()
    for each in _candidates(environ):
        root = each.root.resolve()
        if root in seen or not _is(root / "bin", stat.S_ISDIR):
            continue
        seen.add(root)
        toolchain = Toolchain(each.name, root, each.variable)
        if (blocked := unreachable(root / "bin", user)) is not None:
            missed.append(Missed(toolchain, blocked))
        else:
            found.append(toolchain)
    return Toolchains(tuple(found), tuple(missed))


def _is(path: Path, kind: Callable[[int], bool]) -> bool:
    try:
        return kind(path.stat().st_mode)
    except OSError:
        return False


def _candidates(environ: Mapping[str, str]) -> Iterator[Toolchain]:
    """Directories that would be toolchains, the better one of a kind first."""
    home = Path(environ.get("HOME") or "/nonexistent")
    search = [Path(entry) for entry in environ.get("PATH", "").split(":") if entry.startswith("/")]
    yield from _rust(Path(environ.get("RUSTUP_HOME") or home / ".rustup"))
    yield from _python(Path(environ.get("PYENV_ROOT") or home / ".pyenv"), search)
    yield from _newest("node", home / ".nvm/versions/node", "v*")
    yield Toolchain("go", Path("/usr/local/go"))
    yield from _newest("go", home / "sdk", "go*")
    if java := environ.get("JAVA_HOME"):
        yield Toolchain("java", Path(java), "JAVA_HOME")
    yield Toolchain("java", home / ".sdkman/candidates/java/current", "JAVA_HOME")
    yield Toolchain("maven", home / ".sdkman/candidates/maven/current")
    yield Toolchain("gradle", home / ".sdkman/candidates/gradle/current")
    yield from _optional(search)


def _rust(rustup: Path) -> Iterator[Toolchain]:
    """rustup's default toolchain itself: its proxies in `~/.cargo/bin` would want to be beside the credentials."""
    try:
        name = tomllib.loads((rustup / "settings.toml").read_text(encoding="utf-8")).get("default_toolchain")
    except (OSError, ValueError):
        name = None
    if isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9._-]+", name) and name.strip("."):
        yield Toolchain("rust", rustup / "toolchains" / name)


def _python(pyenv: Path, search: list[Path]) -> Iterator[Toolchain]:
    """pyenv's global version, where this service's own `python3` is pyenv's."""
    if pyenv / "shims" not in search:
        return
    try:
        versions = (pyenv / "version").read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return
    for name in versions[:1]:
        if re.fullmatch(r"[A-Za-z0-9._-]+", name) and name.strip(".") and name != "system":
            yield Toolchain("python", pyenv / "versions" / name)


def _newest(name: str, folder: Path, pattern: str) -> Iterator[Toolchain]:
    try:
        versions = [path for path in folder.glob(pattern) if _is(path / "bin", stat.S_ISDIR)]
    except OSError:
        return
    if versions:
        yield Toolchain(name, max(versions, key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)]))


def _optional(search: list[Path]) -> Iterator[Toolchain]:
    """Tools that PATH leads to below /opt: a directory of /opt belongs to one program."""
    for tool in _TOOLS:
        for entry in search:
            program = Path(os.path.realpath(entry / tool))
            if _is(program, stat.S_ISREG) and program.parent.name == "bin" and _OPT in program.parents:
                if program.parent.parent != _OPT:
                    yield Toolchain(tool, program.parent.parent)
                break
