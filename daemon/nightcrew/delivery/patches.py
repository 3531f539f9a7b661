"""What a patch changes, read from its text (`git diff --binary`): files, lines, and what a person should look at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

FileStatus = Literal["added", "deleted", "modified", "renamed"]

_HUNK = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")
_ESCAPED = re.compile(rb"\\([0-7]{3}|.)")
_LETTERS = {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


@dataclass(frozen=True)
class FileChange:
    """One file of a patch. Lines are None for a binary file."""

    path: str
    status: FileStatus = "modified"
    added: int | None = 0
    removed: int | None = 0
    mode: str = ""
    """The new mode in octal, when the patch names one: `100755` is an executable, `120000` a symbolic link."""


def changed_files(patch: str) -> tuple[FileChange, ...]:
    """The files of a patch in its order. Lines inside a hunk are counted, never taken for headers."""
    return tuple(_file(lines) for lines in _sections(patch))


def concerns(files: tuple[FileChange, ...]) -> list[tuple[str, list[str]]]:
    """Files that deserve a second look whatever the checks say: what they are, and their paths."""
    found = [
        (kind, [file.path for file in files if any(_matches(file.path, pattern) for pattern in patterns)])
        for kind, patterns in _SENSITIVE.items()
    ]
    found += [
        ("Symbolic links changed", [file.path for file in files if file.mode == "120000"]),
        ("Files made executable", [file.path for file in files if file.mode == "100755"]),
        ("Submodules changed", [file.path for file in files if file.mode == "160000"]),
        ("Binary files changed, which the diff cannot show", [file.path for file in files if file.added is None]),
    ]
    return [(kind, paths) for kind, paths in found if paths]


_SENSITIVE: dict[str, tuple[str, ...]] = {
    "Tests changed": (
        "test/**",
        "tests/**",
        "test_*.py",
        "*_test.*",
        "*.test.*",
        "*.spec.*",
        "conftest.py",
        "__tests__/**",
    ),
    "CI or hook files changed": (
        ".github/**",
        ".gitlab-ci*",
        ".circleci/**",
        ".ci/**",
        "Jenkinsfile",
        ".travis.yml",
        "azure-pipelines*",
        ".pre-commit-config.yaml",
        ".husky/**",
        ".githooks/**",
    ),
    "Lock files changed": (
        "*.lock",
        "*-lock.json",
        "*-lock.yaml",
        "npm-shrinkwrap.json",
        "go.sum",
        "requirements*.txt",
    ),
    "Build or check settings changed": (
        "pyproject.toml",
        "setup.cfg",
        "pytest.ini",
        "tox.ini",
        "package.json",
        "Makefile",
    ),
    "Git settings changed": (".gitattributes", ".gitmodules", ".gitignore"),
}


def _matches(path: str, pattern: str) -> bool:
    """`dir/**` matches a directory of that name anywhere, everything else the file's own name."""
    *folders, name = path.split("/")
    if pattern.endswith("/**"):
        return pattern[:-3] in folders
    return fnmatchcase(name, pattern)


def _sections(patch: str) -> Iterator[list[str]]:
    """The lines of each file's part, hunks' own lines reduced to what counts."""
    section: list[str] | None = None
    left = [0, 0]
    for line in patch.split("\n"):
        if left[0] > 0 or left[1] > 0:
            left[0] -= line[:1] in ("-", " ", "")
            left[1] -= line[:1] in ("+", " ", "")
            if section is not None and line[:1] in ("+", "-"):
                section.append(line[:1])
        elif line.startswith("diff --git "):
            if section is not None:
                yield section
            section = [line]
        elif section is not None:
            if hunk := _HUNK.match(line):
                left = [int(count) if count is not None else 1 for count in hunk.groups()]
            elif len(line) > 1:  # a lone sign stands for a counted line
                section.append(line)
    if section is not None:
        yield section


def _file(lines: list[str]) -> FileChange:
    change = FileChange(path=_header_path(lines[0].removeprefix("diff --git ")))
    change = replace(change, added=lines.count("+"), removed=lines.count("-"))
    for line in lines[1:]:
        if line.startswith("new file mode "):
            change = replace(change, status="added", mode=_unusual(line))
        elif line.startswith("deleted file mode "):
            change = replace(change, status="deleted")
        elif line.startswith("new mode "):
            change = replace(change, mode=line.rsplit(" ", 1)[1])
        elif line.startswith("rename to "):
            change = replace(change, status="renamed", path=_unquoted(line.removeprefix("rename to ")))
        elif line.startswith("index ") and line.endswith((" 120000", " 160000")):
            change = replace(change, mode=line[-6:])
        elif line == "GIT binary patch" or line.startswith("Binary files "):
            change = replace(change, added=None, removed=None)
    return change


def _unusual(line: str) -> str:
    mode = line.rsplit(" ", 1)[1]
    return "" if mode == "100644" else mode


def _header_path(names: str) -> str:
    """The path in `a/PATH b/PATH`; both are the same but in a rename, which has lines of its own."""
    if names.startswith('"'):
        return _unquoted(names[: names.index('" ') + 1] if '" ' in names else names).removeprefix("a/")
    return names[2 : 2 + (len(names) - 5) // 2]


def _unquoted(name: str) -> str:
    """A name as git writes it, which is C-quoted when it holds anything unusual."""
    if not (len(name) >= 2 and name.startswith('"') and name.endswith('"')):
        return name

    def plain(match: re.Match[bytes]) -> bytes:
        escaped = match.group(1)
        return bytes([int(escaped, 8) & 0xFF]) if len(escaped) == 3 else _LETTERS.get(escaped, escaped)

    raw = _ESCAPED.sub(plain, name[1:-1].encode("utf-8", "surrogateescape"))
    return raw.decode("utf-8", "replace")
