"""Which files there are: listing, outlining, globbing. Standard library only; runs in a box.

What .gitignore names is left out. ripgrep names the files where it is installed; otherwise git does, or a plain walk.
Results are sorted, a directory where its name stands and what is in it right after: the same tree gives the same
bytes. They come in pages, and only one page is held: a directory may be larger than memory.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar, cast

from nightcrew_workspaces.boxd_paths import LEFTOVER, kind_of, shown
from nightcrew_workspaces.boxd_text import Refused

if TYPE_CHECKING:
    import subprocess
    from io import BufferedReader

RG = "/usr/bin/rg"
RG_FLAGS = (
    *("--no-config", "--no-messages", "--hidden", "--no-require-git", "--no-ignore-global", "--no-ignore-dot"),
    *("-g", "!.git", "-g", "!.nightcrew-*.tmp"),
)
LEVELS = 8
"""How deep an outline may be that chooses its own depth."""
_PIECE = 256 * 1024
_KNOWN = 1000
_V = TypeVar("_V")


class Entry(NamedTuple):
    """What is in a directory; `size` in bytes for a file, otherwise 0."""

    path: str
    kind: str
    size: int


def order(path: str) -> str:
    """By what paths are sorted: component by component."""
    return path.replace("/", "\0")


class Page(Generic[_V]):
    """The first `limit` of many paths that come after the path `after`, each with a value; holds few more than that."""

    def __init__(self, limit: int, after: str | None) -> None:
        self.more = False
        self._limit = limit
        self._after = None if after is None else order(after)
        self._found: dict[str, _V] = {}
        self._last: str | None = None

    def wants(self, path: str) -> bool:
        """Whether a path may still belong to this page."""
        key = order(path)
        if self._after is not None and (key if key.isascii() else shown(key)) <= self._after:
            return False
        if self._last is not None and key > self._last:
            self.more = True
            return False
        return True

    def continues_in(self, folder: str) -> bool:
        """Whether the page before this one ended in a directory, or with it."""
        return self._after is not None and f"{self._after}\0".startswith(f"{order(shown(folder))}\0")

    def put(self, path: str, value: _V, merge: Callable[[_V, _V], _V] | None = None) -> None:
        """Take a path up if it belongs here; `merge` says what becomes of its old value and this one."""
        if path in self._found:
            if merge is not None:
                self._found[path] = merge(self._found[path], value)
        elif self.wants(path):
            self._found[path] = value
            if len(self._found) > 2 * self._limit + 1000:
                self._cut()

    def __contains__(self, path: str) -> bool:
        return path in self._found

    def __len__(self) -> int:
        return len(self._found)

    def items(self) -> list[tuple[str, _V]]:
        """The page, sorted."""
        self._cut()
        return list(self._found.items())

    def _cut(self) -> None:
        ordered = sorted(self._found, key=order)
        if len(ordered) > self._limit:
            self.more = True
            ordered = ordered[: self._limit]
            self._last = order(ordered[-1])
        self._found = {path: self._found[path] for path in ordered}


def names(root: str, path: str) -> Iterator[str]:
    """Regular files at or below `path`, relative to `root`, in no order, without what .gitignore names and .git."""
    if os.path.exists(RG):
        yield from _named_by_ripgrep(root, path)
        return
    named = _named_by_git(root, path)
    found = _walk(root, path) if named is None else (name for name in named if _is_regular(f"{root}/{name}"))
    yield from (name for name in found if not LEFTOVER.fullmatch(name.rpartition("/")[2]))


def named_by(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """File names that a running program writes, NUL after each; it is stopped when nobody wants more of them."""
    assert process.stdout is not None
    read1 = cast("BufferedReader", process.stdout).read1
    rest = b""
    try:
        while piece := read1(_PIECE):
            *ended, rest = (rest + piece).split(b"\0")
            for name in ended:
                yield os.fsdecode(name.removeprefix(b"./"))
    except GeneratorExit:
        process.kill()
        raise


def argument(path: str) -> str:
    """A path as a program is given it, so that it begins with a dot whatever its name begins with."""
    return "./" if path == "." else f"./{path}"


def entries(root: str, path: str, depth: int, page: Page[str]) -> list[Entry]:
    """What is in a directory down to `depth` levels. Symbolic links and empty directories are always shown."""
    skip = 0 if path == "." else path.count("/") + 1
    known: set[str] = set()
    for name in names(root, path):
        folder = name[: name.rfind("/")] if "/" in name else ""
        if folder not in known:
            _put_folders(folder, skip, depth, page)
            known = known if len(known) < _KNOWN else set()
            known.add(folder)
        if name.count("/") < skip + depth:
            page.put(name, "file")
    _scan(root, path, depth, page)
    found = [(name, kind, _status(f"{root}/{name}")) for name, kind in page.items()]
    return [Entry(name, kind, status.st_size if kind == "file" else 0) for name, kind, status in found if status]


def everything(root: str, path: str, page: Page[str]) -> list[Entry]:
    """What is in one directory, ignored or not."""
    with os.scandir(os.path.join(root, path)) as found:
        for entry in found:
            if not LEFTOVER.fullmatch(entry.name):
                page.put(os.path.normpath(os.path.join(path, entry.name)), "")
    statuses = [(name, _status(f"{root}/{name}")) for name, _ in page.items()]
    kinds = [(name, kind_of(status.st_mode), status.st_size) for name, status in statuses if status]
    return [Entry(name, kind, size if kind == "file" else 0) for name, kind, size in kinds]


def outline(
    found: Iterable[str], skip: int, depth: int | None, limit: int, after: str | None
) -> tuple[list[tuple[str, int]], bool]:
    """Files, with what is below `depth` directories folded into (directory, number of its files); and is there more.

    Without a depth the deepest one that fits into `limit` lines is taken, so that a small repository is seen whole and
    a large one at a glance. `skip` components of each path are above the directory that is outlined.
    """
    depths = [depth] if depth is not None else ([1] if after is not None else list(range(1, LEVELS + 1)))
    levels = {level: Page[int](limit, after) for level in depths}
    for name in found:
        parts = name.split("/")
        for level, page in list(levels.items()):
            if len(parts) <= skip + level:
                page.put(name, 0)
            else:
                page.put("/".join(parts[: skip + level]), 1, total)
            if level != depths[0] and len(page) > limit:
                del levels[level]
    pages = [(page.items(), page.more) for page in levels.values()]
    return pages[-1]


def globbed(found: Iterable[str], skip: int, wanted: re.Pattern[str]) -> Iterator[str]:
    """The paths whose part below the directory that was asked for matches."""
    for name in found:
        below = name.split("/", skip)[-1] if skip else name
        if wanted.fullmatch(below):
            yield name


def glob_pattern(glob: str) -> re.Pattern[str]:
    """A glob as .gitignore and editors write it: `*` and `?` within a name, `**` across, `{a,b}`, `[a-z]`.

    Without a slash it is about the name in any directory, with one about the path.
    """
    glob = glob.removeprefix("./").lstrip("/")
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


def _put_folders(folder: str, skip: int, depth: int, page: Page[str]) -> None:
    """Add a directory and those above it, down to `depth` levels below the one that is listed."""
    parts = folder.split("/") if folder else []
    for end in range(skip + 1, min(len(parts), skip + depth) + 1):
        page.put("/".join(parts[:end]), "directory")


def _scan(root: str, path: str, depth: int, page: Page[str]) -> None:
    """Add what `names` does not name: links, empty directories, pipes and the like."""
    below: list[str] = []
    try:
        found = os.scandir(os.path.join(root, path))
    except OSError:
        return  # gone meanwhile, or closed
    with found:
        for entry in found:
            name = entry.name if path == "." else f"{path}/{entry.name}"
            if entry.name == ".git" or LEFTOVER.fullmatch(entry.name):
                continue
            if entry.is_symlink():
                page.put(name, "link")
            elif entry.is_dir(follow_symlinks=False):
                if name in page:
                    below.append(name)
                elif page.wants(name) and _is_empty(entry.path):
                    page.put(name, "directory")
                elif page.continues_in(name):
                    below.append(name)
            elif not entry.is_file(follow_symlinks=False):
                page.put(name, "other")
    if depth > 1:
        for name in below:
            _scan(root, name, depth - 1, page)


def total(one: int, other: int) -> int:
    """How the numbers of files of one directory go together."""
    return one + other


def _is_empty(path: str) -> bool:
    try:
        with os.scandir(path) as found:
            return next(found, None) is None
    except OSError:
        return False


def _status(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None


def _is_regular(path: str) -> bool:
    status = _status(path)
    return status is not None and stat.S_ISREG(status.st_mode)


def _walk(root: str, path: str) -> Iterator[str]:
    start = os.path.normpath(os.path.join(root, path))
    if _is_regular(start):
        yield path
    for folder, folders, files in os.walk(start):
        folders[:] = [name for name in folders if name != ".git"]
        for name in files:
            if name != ".git" and _is_regular(os.path.join(folder, name)):
                yield os.path.relpath(os.path.join(folder, name), root)


def _named_by_ripgrep(root: str, path: str) -> Iterator[str]:
    import subprocess  # noqa: PLC0415 (10 ms at start; a session that only reads and edits does without)

    argv = [RG, *RG_FLAGS, "--files", "--null", "--", argument(path)]
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(argv, cwd=root, stdin=null, stdout=pipe, stderr=null, close_fds=False) as process:
        yield from named_by(process)


def _named_by_git(root: str, path: str) -> set[str] | None:
    import subprocess  # noqa: PLC0415

    argv = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", argument(path)]
    try:
        done = subprocess.run(argv, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except FileNotFoundError:
        return None
    names = {os.fsdecode(name) for name in done.stdout.split(b"\0") if name}
    return names if done.returncode == 0 else None


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
