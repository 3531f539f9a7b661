"""The delivery gate: what in a verified result a person should see before it enters the repository. Pure.

Nothing here trusts a name to be spelt as expected, and nothing that a task, a plan or a model says has a part in it:
the rules look at what git lists as changed, at the lines of the patch, and at the checks' own results.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from nightcrew.delivery.patches import FileChange
from nightcrew.delivery.sensitive import (
    CHECK_SETTINGS,
    CI,
    DRIVERS,
    GIT_SETTINGS,
    HOOKS,
    LOCK_FILES,
    MANIFESTS,
    TOOL_SETTINGS,
    Names,
    plain,
)
from nightcrew.delivery.testdiff import is_test, weakened
from nightcrew.domain import CheckResult
from nightcrew_tools.contract import Concern, ConcernKind

_BY_NAME: tuple[tuple[ConcernKind, Names], ...] = (
    ("ci", CI),
    ("hooks", HOOKS),
    ("lock-files", LOCK_FILES),
    ("git-settings", GIT_SETTINGS),
    ("tool-settings", TOOL_SETTINGS),
)
_NO_TEXT = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_HOOKS_PATH = re.compile(r"hooks_?path|\.git/+hooks|init\.templatedir", re.IGNORECASE)
_RUNNERS = frozenset(
    {"pytest", "_pytest", "unittest", "doctest", "pluggy", "nose", "nose2", "coverage", "xdist", "tox"}
)
_KNOWN = """
    pytest python python3 ruff mypy pyright flake8 pylint black npm npx yarn pnpm cargo go make gmake mvn gradle ctest
    cmake meson rspec mix dotnet swift cd test true grep echo export set env coverage tox nox
"""
_PLAIN_PROGRAMS = frozenset(_KNOWN.split())
"""Programs whose checks are known to obey only files that the rules name."""
_INTERPRETERS = frozenset({"python", "python3", "node", "bash", "sh", "ruby", "perl", "php", "deno", "source", "."})
_WRAPPERS = frozenset(
    {"env", "time", "nice", "exec", "sudo", "timeout", "xargs", "uv", "run", "poetry", "pipenv", "bundle"}
)
_JOINTS = re.compile(r"[;&|()\n`]+|\$\(")
_SKIPPED = re.compile(r"(?:^|[ \t(#ℹ])(\d+) (?:skipped|xfailed|deselected|ignored|pending|todo)\b|\bskipped[=: ]+(\d+)")
_SHOWN = 120


@dataclass(frozen=True)
class Settings:
    """What of the gate can be set on a machine."""

    large_kib: int = 1024
    hooks_folder: str = ""
    """Where the source repository keeps its hooks, when that is in its own worktree (`core.hooksPath`)."""


def concerns(
    files: Sequence[FileChange],
    before: Sequence[CheckResult] = (),
    after: Sequence[CheckResult] = (),
    settings: Settings | None = None,
) -> tuple[Concern, ...]:
    """Everything that should be seen, each once, in the order of its kinds' weight.

    `before` and `after` are the results of the checks on the base and on the result.
    """
    settings = settings or Settings()
    commands = list(dict.fromkeys(result.check.command for result in before if result.check.source != "plan"))
    found = [
        *(concern for file in files for concern in _about_name(file, settings)),
        *(concern for file in files for concern in _about_content(file, settings)),
        *(Concern(kind="tests", path=path, why=why) for path, why in weakened(files)),
        *_about_counts(before, after),
        *(concern for file in files for concern in _about_checks(file, commands)),
    ]
    return tuple(dict.fromkeys(found))


def merely_noted(files: Sequence[FileChange]) -> list[tuple[str, list[str]]]:
    """Files that deserve a look and no question: what they are, and their paths."""
    tests = [file.path for file in files if is_test(file.path)]
    builds = [file.path for file in files if _name(file.path) in MANIFESTS or _driver_of(file)]
    ignores = [file.path for file in files if _name(file.path) == ".gitignore"]
    found = [("Tests changed", tests), ("Build settings changed", builds), ("What git ignores changed", ignores)]
    return [(words, paths) for words, paths in found if paths]


def _about_name(file: FileChange, settings: Settings) -> Iterator[Concern]:
    for kind, names in _BY_NAME:
        if any(names.has(path) for path in file.paths):
            yield Concern(kind=kind, path=file.path, why=_done_to(file))
    folder = plain(settings.hooks_folder.strip("/")) + "/" if settings.hooks_folder.strip("/") else ""
    if folder and any(plain(path).startswith(folder) for path in file.paths):
        yield Concern(kind="hooks", path=file.path, why=f"{_done_to(file)}, where core.hooksPath points")


def _done_to(file: FileChange) -> str:
    if file.old_path:
        return f"was renamed from {file.old_path}"
    return {"added": "is new", "deleted": "is deleted"}.get(file.status, "was changed")


def _about_content(file: FileChange, settings: Settings) -> Iterator[Concern]:
    modes = (file.old_mode, file.mode)
    if "160000" in modes:
        yield Concern(kind="git-settings", path=file.path, why="is a submodule: what it points to was changed")
    if "120000" in modes:
        words = "is a symbolic link" if file.mode == "120000" else "is no longer a symbolic link"
        yield Concern(kind="symlinks", path=file.path, why=words)
    if file.mode == "100755" and file.old_mode != "100755":
        words = "is a new executable" if file.status == "added" else "was made executable"
        yield Concern(kind="executables", path=file.path, why=words)
    if file.unread:
        yield Concern(kind="large-files", path=file.path, why="is not in the patch, which was cut: nobody can read it")
    if file.status != "deleted" and file.size > settings.large_kib * 1024:
        words = f"brings {file.size // 1024:,} KiB, more than {settings.large_kib:,}"
        yield Concern(kind="large-files", path=file.path, why=words)
    if file.added is None and file.status != "deleted":
        yield Concern(kind="binary-files", path=file.path, why="is binary")
    elif any(line[0] == "+" and _NO_TEXT.search(line) for line in file.lines):
        # git takes for text what has no NUL in it
        yield Concern(kind="binary-files", path=file.path, why="brings control characters, which no text has")
    for line in file.lines:
        if line[0] == "+" and _HOOKS_PATH.search(line):
            yield Concern(kind="hooks", path=file.path, why=f"tells git where hooks are: {_short(line)}")
            break


def _about_counts(before: Sequence[CheckResult], after: Sequence[CheckResult]) -> Iterator[Concern]:
    """What the checks themselves say of their tests."""
    was = {result.check.command: result for result in before}
    for now in after:
        earlier = was.get(now.check.command)
        if earlier is None or now.check.source == "plan":
            continue
        if earlier.passed_tests is not None:
            had, has = earlier.passed_tests + len(earlier.failing), (now.passed_tests or 0) + len(now.failing)
            if now.passed_tests is None:
                yield Concern(kind="tests", path=now.check.command, why="no longer says how many tests it ran")
            elif has < had:
                yield Concern(kind="tests", path=now.check.command, why=f"ran {has} tests, and {had} before")
        skipped, skips = _skipped(earlier.output), _skipped(now.output)
        if skips > skipped:
            yield Concern(kind="tests", path=now.check.command, why=f"skipped {skips} tests, and {skipped} before")


def _skipped(output: str) -> int:
    """As the last lines of common runners have it."""
    ending = output[-4000:].splitlines()[-12:]
    return sum(int(one or other) for line in ending for one, other in _SKIPPED.findall(line))


def _about_checks(file: FileChange, commands: Sequence[str]) -> Iterator[Concern]:
    """Whether the file decides what the checks do."""
    if any(CHECK_SETTINGS.has(path) for path in file.paths):
        yield Concern(kind="checks", path=file.path, why=f"{_done_to(file)}: it tells the checks what to look at")
    elif (line := _telling_line(file)) is not None:
        yield Concern(kind="checks", path=file.path, why=f"may tell the checks what to run: {_short(line)}")
    for path in file.paths:
        if (module := _shadowed(file, path)) is not None:
            why = f"stands in the way of Python's own `{module}`, which the checks may load instead"
            yield Concern(kind="checks", path=path, why=why)
    for command in commands:
        if _names(command, file):
            yield Concern(kind="checks", path=file.path, why=f"is run by the check `{command}`")
        elif (driver := _driver_of(file)) and _obeys(command, driver):
            yield Concern(kind="checks", path=file.path, why=f"decides what the check `{command}` does")


def _telling_line(file: FileChange) -> str | None:
    """The first changed line of a manifest that says more than versions and descriptions."""
    for path in file.paths:
        harmless = MANIFESTS.get(_name(path))
        if harmless is None:
            continue
        if file.status == "deleted" or file.added is None:
            return f"it {_done_to(file)}"
        for line in file.lines:
            if harmless.fullmatch(line[1:]) is None:
                return line
    return None


def _shadowed(file: FileChange, path: str) -> str | None:
    """The module of the standard library or of a test runner that a new file at the top, or beside tests, hides."""
    if file.status not in ("added", "renamed"):
        return None
    parts = plain(path).strip("/").split("/")
    while len(parts) > 1 and parts[0] in ("src", "lib", "test", "tests"):
        parts = parts[1:]
    name = parts[0].partition(".")[0]
    if len(parts) > 1 and parts[1].partition(".")[0] != "__init__" and name not in _RUNNERS:
        return None
    if len(parts) == 1 and not parts[0].endswith((".py", ".pyc", ".so", ".pyd")):
        return None
    taken = name in _RUNNERS or (name in sys.stdlib_module_names and name not in ("test", "this"))
    return name if taken else None


def _names(command: str, file: FileChange) -> bool:
    """Whether the command runs this file itself."""
    run = {plain(word.removeprefix("./")).strip("/") for word in _run_by(command)}
    for path in file.paths:
        bare = plain(path).strip("/")
        module = bare.removesuffix(".py").removesuffix("/__main__").replace("/", ".")
        if bare in run or (bare.endswith(".py") and module in run):
            return True
    return False


def _run_by(command: str) -> Iterator[str]:
    """Programs, scripts and modules that a command line starts."""
    for part in _JOINTS.split(command):
        words = _program(part)
        if not words:
            continue
        yield words[0]
        if PurePosixPath(words[0]).name in _INTERPRETERS:
            rest = [word for word in words[1:] if not word.startswith("-")]
            yield from rest[:1]


def _program(part: str) -> list[str]:
    """A simple command's words from its program on."""
    words = [word for word in _words(part) if not re.match(r"\w+=", word)]
    while words and PurePosixPath(words[0]).name in _WRAPPERS:
        words = words[1:]
        while words and (words[0].startswith("-") or words[0].isdecimal()):
            words = words[1:]
    return words


def _driver_of(file: FileChange) -> str:
    """The programs that obey this file as their build file, empty when there is none. Manifests are judged by line."""
    if any(_name(path) in MANIFESTS for path in file.paths):
        return ""
    return next(
        (programs for programs, names in DRIVERS.items() if any(names.has(path) for path in file.paths)),
        "",
    )


def _obeys(command: str, programs: str) -> bool:
    """Whether the command runs one of the programs, or something of which that cannot be told."""
    words = [PurePosixPath(word).name for word in _words(command)]
    if set(programs.split()) & set(words):
        return True
    return any(_is_unknown(part) for part in _JOINTS.split(command))


def _is_unknown(part: str) -> bool:
    """Whether a simple command may run anything: a script, or a program that the rules know nothing of."""
    words = _program(part)
    if not words:
        return False
    program = PurePosixPath(words[0]).name
    if program in _INTERPRETERS:
        return words[1:2] not in (["-m"], ["-c"], ["-e"], ["--test"]) or program in ("bash", "sh")
    return program not in _PLAIN_PROGRAMS or "/" in words[0]


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    return [piece for word in words for piece in _JOINTS.split(word) if piece]


def _name(path: str) -> str:
    return plain(path).rsplit("/", 1)[1]


def _short(line: str) -> str:
    text = " ".join(line[1:].split()) if line[:1] in "+-" else line
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
