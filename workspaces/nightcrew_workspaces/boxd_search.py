"""What is in files: lines that match. Standard library only; runs in a box.

ripgrep does the work where it is installed, otherwise Python. Results are sorted by path and line, which ripgrep itself
would only do on one thread: a first run looks at everything and is given up when it finds much more than was asked
for; then a run that names the files with matches tells which of them are needed, and only these are read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from nightcrew_workspaces import boxd_find
from nightcrew_workspaces.boxd_find import Page, order
from nightcrew_workspaces.boxd_load import LARGEST_FILE
from nightcrew_workspaces.boxd_paths import shown
from nightcrew_workspaces.boxd_text import Refused

if TYPE_CHECKING:
    import subprocess

_FILES_AT_ONCE = 500
_LONGEST_LINE = 500
_BYTES_PER_MATCH = 2048
"""How much of ripgrep's answer is read for each match that is wanted before the first run is given up."""
_MESSAGE = b'{"type":"'
_IS_TEXT = b'"binary_offset":null'  # cannot stand in a path, whose quotation marks have backslashes before them
_LEAST_THREADS = 4  # one that finds nothing to do sleeps for a millisecond, so on few cores more of them are quicker


class Hit(NamedTuple):
    """A line that was found, or one beside it."""

    path: str
    line: int
    text: str
    is_match: bool


class Query(NamedTuple):
    """What is looked for."""

    pattern: str
    regex: bool
    limit: int
    context: int
    wanted: re.Pattern[str] | None = None
    """Glob for the part of a path below the directory."""
    skip: int = 0
    """Components of that directory's own path."""
    after: tuple[str, int] | None = None
    """Path and line of the last match that is known already."""

    def is_known(self, path: str, line: int) -> bool:
        return self.after is not None and line <= self.after[1] and shown(path) == self.after[0]


def search(root: str, path: str, query: Query) -> tuple[list[Hit], bool]:
    """Lines that match at or below `path`, in the order of path and line; and whether there are more than `limit`."""
    if not os.path.exists(boxd_find.RG):
        return _search_in_python(root, path, query)
    if query.wanted is None and query.after is None and (found := _at_once(root, path, query)) is not None:
        return found
    hits: list[Hit] = []
    last: str | None = None
    while True:
        page = Page[None](query.limit + 2, last)
        for name in _narrowed(_files_with_matches(root, path, query), query):
            page.put(name, None)
        files = [name for name, _ in page.items()]
        for start in range(0, len(files), _FILES_AT_ONCE):
            left = query._replace(limit=query.limit - sum(hit.is_match for hit in hits))
            more, truncated = _in_order(root, files[start : start + _FILES_AT_ONCE], left)
            hits += more
            if truncated:
                return hits, True
        if not page.more:
            return hits, False
        last = shown(files[-1])  # binary files have matches that do not count


def _at_once(root: str, path: str, query: Query) -> tuple[list[Hit], bool] | None:
    """The result of one run over everything, None where it finds too much."""
    most = _BYTES_PER_MATCH * (query.limit + 8) * (2 * query.context + 1)
    with _started([*_arguments(query), "--json", "--context", str(query.context)], query, [path], root) as process:
        assert process.stdout is not None
        output = process.stdout.read(most + 1)
        if len(output) > most:
            process.kill()
            return None
        found = sorted(_hits(output.splitlines(), query), key=lambda hit: (order(hit.path), hit.line))
        _check(process, found=bool(found))
    return _limited(found, query.limit)


def _in_order(root: str, files: list[str], query: Query) -> tuple[list[Hit], bool]:
    """Lines of these files, in their order; it ends as soon as there are enough."""
    # Hits are held until the end of their file tells whether it is a binary one, so there is a limit for each file.
    most = query.limit + 1 + (0 if query.after is None else query.after[1])
    arguments = [*_arguments(query), "--json", "--context", str(query.context), "--sort", "path"]
    arguments += ["--max-count", str(most)]
    with _started(arguments, query, files, root) as process:
        assert process.stdout is not None
        hits, truncated = _limited(_hits(process.stdout, query), query.limit)
        if truncated:
            process.kill()
        else:
            _check(process, found=bool(hits))
    return hits, truncated


def _files_with_matches(root: str, path: str, query: Query) -> Iterator[str]:
    with _started([*_arguments(query), "--files-with-matches", "--null"], query, [path], root) as process:
        found = False
        for name in boxd_find.named_by(process):
            found = True
            yield name
        _check(process, found=found)


def _narrowed(names: Iterable[str], query: Query) -> Iterator[str]:
    """The files that may hold what is looked for."""
    if query.wanted is not None:
        names = boxd_find.globbed(names, query.skip, query.wanted)
    first = None if query.after is None else order(query.after[0])
    return (name for name in names if first is None or order(shown(name)) >= first)


def _arguments(query: Query) -> list[str]:
    arguments = [boxd_find.RG, *boxd_find.RG_FLAGS, "--crlf", "--max-filesize", str(LARGEST_FILE)]
    if (os.cpu_count() or 1) < _LEAST_THREADS:
        arguments += ["--threads", str(_LEAST_THREADS)]
    return [*arguments, *(["--engine", "auto"] if query.regex else ["--fixed-strings"])]


def _started(arguments: list[str], query: Query, paths: list[str], root: str) -> subprocess.Popen[bytes]:
    import subprocess  # noqa: PLC0415 (10 ms at start; a session that only reads and edits does without)

    argv = [*arguments, "--regexp", query.pattern, "--", *map(boxd_find.argument, paths)]
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    return subprocess.Popen(argv, cwd=root, stdin=null, stdout=pipe, stderr=pipe, close_fds=False)


def _check(process: subprocess.Popen[bytes], *, found: bool) -> None:
    """Refuse a pattern that ripgrep does not understand."""
    assert process.stderr is not None
    said = process.stderr.read(4096).decode(errors="replace").strip()
    if process.wait() == 2 and said and not found:
        why = [line.removeprefix("error: ") for line in said.splitlines() if line.startswith("error: ")]
        message = f"the pattern is not valid: {why[0] if why else said[-300:]}; escape it, or search without regex"
        raise Refused("bad_pattern", message)


def _limited(found: Iterable[Hit], limit: int) -> tuple[list[Hit], bool]:
    hits: list[Hit] = []
    matches = 0
    for hit in found:
        if hit.is_match and matches == limit:
            return hits, True
        matches += hit.is_match
        hits.append(hit)
    return hits, False


def _hits(lines: Iterable[bytes], query: Query) -> Iterator[Hit]:
    """What ripgrep found, file by file, without binary files and what is known already."""
    hits: list[Hit] = []
    for line in lines:
        kind = _kind(line)
        if kind == b"end":
            if _IS_TEXT in line:
                yield from hits
            hits = []
        elif kind in {b"match", b"context"}:
            data: dict[str, Any] = json.loads(line.decode())["data"]
            path = os.fsdecode(_bytes(data["path"])).removeprefix("./")
            if not query.is_known(path, data["line_number"]):
                first = data["submatches"][0]["start"] if data["submatches"] else 0
                text = _clipped(_bytes(data["lines"]), first)
                hits.append(Hit(path, data["line_number"], text, kind == b"match"))


def _kind(line: bytes) -> bytes:
    """What a line of ripgrep's JSON is about: mostly its beginning says so, and two of three need no parsing then."""
    if line.startswith(_MESSAGE):
        return line[len(_MESSAGE) : line.index(b'"', len(_MESSAGE))]
    return json.loads(line)["type"].encode()


def _bytes(value: dict[str, str]) -> bytes:
    if "text" in value:
        return value["text"].encode()
    import base64  # noqa: PLC0415

    return base64.b64decode(value["bytes"])


def _clipped(line: bytes, first: int) -> str:
    """A line without its ending; of a very long one the part around the match, which begins at the byte `first`."""
    if len(line) <= _LONGEST_LINE:
        return line.decode(errors="replace").rstrip("\r\n")
    text = line.decode(errors="replace").rstrip("\r\n")
    begin = len(line[:first].decode(errors="replace"))
    start = max(0, min(begin - _LONGEST_LINE // 4, len(text) - _LONGEST_LINE))
    end = start + _LONGEST_LINE
    return f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}"


def _search_in_python(root: str, path: str, query: Query) -> tuple[list[Hit], bool]:
    try:
        wanted = re.compile(query.pattern if query.regex else re.escape(query.pattern))
    except re.error as error:
        message = f"the pattern is not valid: {error}; escape it, or search without regex"
        raise Refused("bad_pattern", message) from error
    files = sorted(_narrowed(boxd_find.names(root, path), query), key=order)
    hits = (hit for file in files for hit in _hits_in_python(root, file, wanted, query))
    return _limited(hits, query.limit)


def _hits_in_python(root: str, file: str, wanted: re.Pattern[str], query: Query) -> Iterator[Hit]:
    lines = _lines_of(os.path.join(root, file))
    matches = {index: match for index, line in enumerate(lines) if (match := wanted.search(line))}
    near = {index for at in matches for index in range(at - query.context, at + query.context + 1)}
    for index in sorted(near & set(range(len(lines)))):
        if not query.is_known(file, index + 1):
            first = len(lines[index][: matches[index].start()].encode()) if index in matches else 0
            yield Hit(file, index + 1, _clipped(lines[index].encode(), first), index in matches)


def _lines_of(path: str) -> list[str]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    with os.fdopen(descriptor, "rb") as file:
        raw = file.read(LARGEST_FILE + 1)
    if len(raw) > LARGEST_FILE or b"\0" in raw:
        return []
    return [line.removesuffix("\r") for line in raw.decode(errors="replace").removesuffix("\n").split("\n")]
