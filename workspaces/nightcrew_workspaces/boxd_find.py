"""Which files there are and what is in them: listing, globbing, searching. Standard library only; runs in a box.

What .gitignore names is left out. ripgrep does the work where it is installed; otherwise git names the files, or a
plain walk does, and Python searches them. Results are sorted: the same tree gives the same bytes.
"""

# Paths here are strings from requests, and importing pathlib would cost a fifth of the start.
# ruff: noqa: PTH110, PTH112, PTH118

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from nightcrew_workspaces.boxd_text import Refused

RG = "/usr/bin/rg"
_MOST_NAMES = 64 * 1024 * 1024  # bytes of file names
_LARGEST_SEARCHED = 10 * 1024 * 1024
_FILES_AT_ONCE = 2000
_LONGEST_LINE = 500
_RG = (RG, "--no-config", "--no-messages", "--hidden", "--no-require-git", "--no-ignore-global", "--no-ignore-dot")


class Hit(NamedTuple):
    """A line that was found, or one beside it."""

    path: str
    line: int
    text: str
    is_match: bool


def shown(name: str) -> str:
    """A file name as text: bytes that are not UTF-8 are replaced."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def files_under(root: str, path: str) -> list[str]:
    """Regular files under `path`, relative to `root`, sorted, without what .gitignore names and without .git."""
    named = _run([*_RG, "--files", "--null", "-g", "!.git", "--", f"./{path}"], root) if os.path.exists(RG) else None
    if named is None:
        git = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", f"./{path}"]
        named = _run(git, root)
        if named is not None:
            names = {os.fsdecode(name) for name in named.split(b"\0") if name}
            return sorted(name for name in names if _is_regular(os.path.join(root, name)))
    if named is None:
        return sorted(_walk(root, path))
    return sorted(os.path.normpath(os.fsdecode(name)) for name in named.split(b"\0") if name)


def entries(root: str, path: str, depth: int) -> Iterator[tuple[str, str, int]]:
    """(path, kind, size) of what is in a directory down to `depth` levels, a directory before what is in it.

    Kinds are `file`, `directory`, `link` and `other`. Symbolic links and empty directories are always shown.
    """
    files = set(files_under(root, path))
    folders = {file[:at] for file in files for at, letter in enumerate(file) if letter == "/"}
    yield from _level(root, path, depth, files, folders)


def glob_pattern(glob: str) -> re.Pattern[str]:
    """A glob as .gitignore and editors write it: `*` and `?` within a name, `**` across, `{a,b}`, `[a-z]`.

    Without a slash it is about the name in any directory, with one about the path from the workspace.
    """
    glob = glob.removeprefix("/workspace/").removeprefix("./").lstrip("/")
    if glob.endswith("/"):
        glob += "**"
    if not glob:
        raise Refused("bad_pattern", "the glob is empty; to name every file write **")
    parts = [] if "/" in glob else ["(?:[^/]+/)*"]
    at = braces = 0
    while at < len(glob):
        part, at = _glob_part(glob, at, braces)
        braces += {"(?:": 1, ")": -1}.get(part, 0)
        parts.append(part)
    if braces:
        raise Refused("bad_pattern", f"the glob {glob!r} has a {{ without its }}")
    try:
        return re.compile("".join(parts), re.DOTALL)
    except re.error as error:
        raise Refused("bad_pattern", f"the glob {glob!r} is not valid: {error}") from error


def search(
    root: str, path: str, pattern: str, *, glob: str | None, regex: bool, limit: int, context: int
) -> tuple[list[Hit], bool]:
    """Lines that match, in the order of path and line; and whether there are more than `limit`."""
    files: Sequence[str] = [path]
    if glob is not None:
        wanted = glob_pattern(glob)
        files = [file for file in files_under(root, path) if wanted.fullmatch(file)]
    if os.path.exists(RG):
        hits: list[Hit] = []
        for start in range(0, len(files), _FILES_AT_ONCE):
            left = limit - sum(hit.is_match for hit in hits)
            more, truncated = _ripgrep(root, files[start : start + _FILES_AT_ONCE], pattern, regex, left, context)
            hits += more
            if truncated:
                return hits, True
        return hits, False
    if glob is None and os.path.isdir(os.path.join(root, path)):
        files = files_under(root, path)
    return _search_in_python(root, files, pattern if regex else re.escape(pattern), limit, context)


def _level(root: str, path: str, depth: int, files: set[str], folders: set[str]) -> Iterator[tuple[str, str, int]]:
    with os.scandir(os.path.join(root, path)) as found:
        ordered = sorted(found, key=lambda entry: entry.name)
    for entry in ordered:
        name = os.path.normpath(os.path.join(path, entry.name))
        if entry.name == ".git":
            continue
        if entry.is_symlink():
            yield name, "link", 0
        elif entry.is_file(follow_symlinks=False):
            if name in files:
                yield name, "file", entry.stat(follow_symlinks=False).st_size
        elif not entry.is_dir(follow_symlinks=False):
            yield name, "other", 0
        elif name in folders or _is_empty(entry.path):
            yield name, "directory", 0
            if depth > 1:
                yield from _level(root, name, depth - 1, files, folders)


def _is_empty(path: str) -> bool:
    try:
        with os.scandir(path) as found:
            return next(found, None) is None
    except OSError:
        return False


def _is_regular(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _walk(root: str, path: str) -> Iterator[str]:
    start = os.path.join(root, path)
    if _is_regular(start):
        yield path
    for folder, folders, names in os.walk(start):
        folders[:] = [name for name in folders if name != ".git"]
        for name in names:
            if name != ".git" and _is_regular(os.path.join(folder, name)):
                yield os.path.relpath(os.path.join(folder, name), root)


def _run(argv: Sequence[str], root: str) -> bytes | None:
    """Standard output of a helper program, None when it failed."""
    import subprocess  # noqa: PLC0415 (10 ms at start; a session that only reads and edits does without)

    try:
        done = subprocess.run(
            argv, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, close_fds=False, check=False
        )
    except FileNotFoundError:
        return None
    # ripgrep: 1 is nothing found, 2 with names is a directory that could not be read.
    return done.stdout[:_MOST_NAMES] if done.returncode in (0, 1) or done.stdout else None


def _glob_part(glob: str, at: int, braces: int) -> tuple[str, int]:
    """The expression for what begins at `at`, and where the next part begins."""
    letter = glob[at]
    if glob.startswith("**/", at) and (at == 0 or glob[at - 1] == "/"):
        return "(?:[^/]+/)*", at + 3
    if glob.startswith("**", at):
        return ".*", at + 2
    if letter == "[" and (end := glob.find("]", at + 2)) > 0:
        inside = glob[at + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
        return f"(?!/)[{'^' + inside[1:] if inside[0] in '!^' else inside}]", end + 1
    if letter == "\\" and at + 1 < len(glob):
        return re.escape(glob[at + 1]), at + 2
    simple = {"*": "[^/]*", "?": "[^/]", "{": "(?:"}
    if braces:
        simple |= {",": "|", "}": ")"}
    return simple.get(letter, re.escape(letter)), at + 1


def _ripgrep(
    root: str, files: Sequence[str], pattern: str, regex: bool, limit: int, context: int
) -> tuple[list[Hit], bool]:
    import subprocess  # noqa: PLC0415

    argv = [*_RG, "--json", "--crlf", "--sort", "path", "-g", "!.git", "--max-filesize", str(_LARGEST_SEARCHED)]
    argv += ["--engine", "auto"] if regex else ["--fixed-strings"]
    argv += ["--context", str(context), "--regexp", pattern, "--", *(f"./{file}" for file in files)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        argv, cwd=root, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, close_fds=False
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        hits, truncated = _read_matches(process.stdout, limit)
        if truncated:
            process.kill()
        said = process.stderr.read(4096).decode(errors="replace").strip()
    if process.returncode == 2 and said and not hits:
        why = next(
            (line.removeprefix("error: ") for line in said.splitlines() if line.startswith("error: ")), said[-300:]
        )
        raise Refused("bad_pattern", f"the pattern is not valid: {why}; escape it, or search without regex")
    return hits, truncated


def _read_matches(lines: Iterable[bytes], limit: int) -> tuple[list[Hit], bool]:
    hits: list[Hit] = []
    begin = found = 0
    for line in lines:
        message: dict[str, Any] = json.loads(line)
        data = message["data"]
        if message["type"] == "begin":
            begin = len(hits)
        elif message["type"] == "end" and data["binary_offset"] is not None:
            del hits[begin:]
        elif message["type"] in {"match", "context"}:
            is_match = message["type"] == "match"
            if is_match and found == limit:
                return hits, True
            found += is_match
            first = data["submatches"][0]["start"] if data["submatches"] else 0
            path = os.path.normpath(_text(data["path"]))
            hits.append(Hit(path, data["line_number"], _clipped(_text(data["lines"]), first), is_match))
    return hits, False


def _text(value: dict[str, str]) -> str:
    if "text" in value:
        return value["text"]
    import base64  # noqa: PLC0415

    return base64.b64decode(value["bytes"]).decode(errors="replace")


def _clipped(line: str, first: int) -> str:
    """A line without its ending; of a very long one the part around the match."""
    line = line.rstrip("\r\n")
    if len(line) <= _LONGEST_LINE:
        return line
    start = max(0, min(first - _LONGEST_LINE // 4, len(line) - _LONGEST_LINE))
    return (
        f"{'…' if start else ''}{line[start : start + _LONGEST_LINE]}{'…' if start + _LONGEST_LINE < len(line) else ''}"
    )


def _search_in_python(
    root: str, files: Sequence[str], pattern: str, limit: int, context: int
) -> tuple[list[Hit], bool]:
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        message = f"the pattern is not valid: {error}; escape it, or search without regex"
        raise Refused("bad_pattern", message) from error
    hits: list[Hit] = []
    left = limit
    for file in files:
        lines = _lines_of(os.path.join(root, file))
        found = [index for index, line in enumerate(lines) if wanted.search(line)]
        kept = found[:left]
        left -= len(kept)
        last = -1
        for index in kept:
            for near in range(max(index - context, last + 1), min(index + context + 1, len(lines))):
                match = wanted.search(lines[near]) if near in kept else None
                hits.append(
                    Hit(shown(file), near + 1, _clipped(lines[near], match.start() if match else 0), match is not None)
                )
                last = near
        if len(found) > len(kept):
            return hits, True
    return hits, False


def _lines_of(path: str) -> list[str]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    with os.fdopen(descriptor, "rb") as file:
        raw = file.read(_LARGEST_SEARCHED + 1)
    if len(raw) > _LARGEST_SEARCHED or b"\0" in raw:
        return []
    return [line.removesuffix("\r") for line in raw.decode(errors="replace").removesuffix("\n").split("\n")]
