"""What the file helper does without changing anything. Standard library only; runs in a box."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from typing import Any

from nightcrew_workspaces import boxd_find, boxd_load, boxd_text
from nightcrew_workspaces.boxd_find import Page
from nightcrew_workspaces.boxd_paths import Places, kind_of, shown
from nightcrew_workspaces.boxd_text import Refused

_MOST_RESULTS = 10_000
_DEEPEST = 20


class Reading:
    """The operations that look. Results that can be many come in pages: `cursor` goes on after the last of them."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def read(self, path: str, start: int = 1, lines: int | None = None) -> dict[str, Any]:
        """Lines of a text file from `start`, counted from 1, with line feeds as their endings."""
        return boxd_load.lines_of(self._places, path, self._places.locate(path), start, lines)

    def read_bytes(self, path: str, limit: int) -> dict[str, Any]:
        """A file of at most `limit` bytes as it is, in base64."""
        import base64  # noqa: PLC0415

        raw = boxd_load.load(self._places, path, self._places.locate(path)).raw
        if len(raw) > limit:
            raise Refused("too_large", f"{path} has {len(raw)} bytes, more than the {limit} that can be shown")
        return {"base64": base64.b64encode(raw).decode(), **boxd_load.facts(raw)}

    def stat(self, path: str) -> dict[str, Any]:
        """What is known of a path without showing it; a symbolic link is described itself."""
        places = self._places
        real = places.locate(path, follow=False) if os.path.normpath(path) not in (".", *places.roots) else "."
        real = places.locate(path) if real == "." else real
        try:
            status = os.lstat(real)
        except FileNotFoundError:
            boxd_load.regular(places, path, real)  # raises, with what may be meant
            raise
        found: dict[str, Any] = {
            "path": places.label(real),
            "kind": kind_of(status.st_mode),
            "size": status.st_size if stat.S_ISREG(status.st_mode) else 0,
            "mode": stat.S_IMODE(status.st_mode),
            "modified": status.st_mtime,
            "target": shown(os.readlink(real)) if stat.S_ISLNK(status.st_mode) else None,
        }
        return found | self._content(path, real, status)

    def list(self, path: str = ".", depth: int = 1, limit: int = 1000, after: str | None = None) -> dict[str, Any]:
        """What is in a directory, down to `depth` levels, without what .gitignore names."""
        root, below, page = self._paged(path, limit, after)
        found = boxd_find.entries(root, below, _between(depth, 1, _DEEPEST), page)
        return self._entries(root, found, page)

    def list_all(self, path: str = ".", limit: int = 1000, after: str | None = None) -> dict[str, Any]:
        """What is in a directory, everything."""
        root, below, page = self._paged(path, limit, after)
        return self._entries(root, boxd_find.everything(root, below, page), page)

    def outline(
        self,
        path: str = ".",
        pattern: str | None = None,
        depth: int | None = None,
        limit: int = 200,
        after: str | None = None,
    ) -> dict[str, Any]:
        """The files below a directory, those in its deeper directories counted only; see `boxd_find.outline`."""
        root, found, skip = self._files(path, pattern)
        depth = None if depth is None else _between(depth, 1, _DEEPEST)
        limit = _between(limit, 1, _MOST_RESULTS)
        lines, more = boxd_find.outline(found, skip, depth, limit, self._within(root, after))
        paths, cut = self._paths(root, [path for path, _ in lines])
        cursor = paths[-1] if paths and (more or cut) else None
        return {"lines": list(zip(paths, [count for _, count in lines], strict=False)), "cursor": cursor}

    def glob(self, pattern: str, path: str = ".", limit: int = 1000, after: str | None = None) -> dict[str, Any]:
        """Paths of the files that match, as seen from `path`."""
        root, found, _ = self._files(path, pattern)
        page = Page[None](_between(limit, 1, _MOST_RESULTS), self._within(root, after))
        for name in found:
            page.put(name, None)
        paths, cut = self._paths(root, [name for name, _ in page.items()])
        return {"paths": paths, "cursor": paths[-1] if paths and (page.more or cut) else None}

    def search(
        self,
        pattern: str,
        path: str = ".",
        glob: str | None = None,
        regex: bool = True,
        limit: int = 200,
        context: int = 0,
        after: str | None = None,
    ) -> dict[str, Any]:
        """Lines that match; `after` is the `path:line` of the last one that is known already."""
        from nightcrew_workspaces import boxd_search  # noqa: PLC0415 (compiled at every start; not every session searches)

        if not pattern or "\n" in pattern or "\0" in pattern:
            raise Refused("bad_pattern", "the pattern has to be one line of text; search for a part of it")
        root, below = self._root_and_path(path)
        mode = os.stat(os.path.join(root, below)).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # ripgrep would wait for somebody who writes into a pipe
            raise Refused("not_a_file", f"{path} is a pipe, socket or device, not a file")
        query = boxd_search.Query(
            pattern,
            regex,
            _between(limit, 1, _MOST_RESULTS),
            _between(context, 0, 50),
            None if glob is None else boxd_find.glob_pattern(self._unrooted(glob, root)),
            _components(below),
            self._place(root, after),
        )
        hits, truncated = boxd_search.search(root, below, query)
        kept, cut = boxd_load.within_reply([hit.text + hit.path for hit in hits])
        prefix = self._places.prefix(root)
        matches = [(prefix + shown(hit.path), hit.line, hit.text, hit.is_match) for hit in hits[: len(kept)]]
        last = next((f"{name}:{line}" for name, line, _, is_match in reversed(matches) if is_match), None)
        return {"matches": matches, "cursor": last if truncated or cut else None}

    def _content(self, path: str, real: str, status: os.stat_result) -> dict[str, Any]:
        """What the content of a file that can be held is like."""
        if not stat.S_ISREG(status.st_mode) or status.st_size > boxd_load.LARGEST_FILE:
            return {}
        try:
            raw = boxd_load.load(self._places, path, real).raw
        except PermissionError:
            return {}
        facts: dict[str, Any] = {"sha256": boxd_load.sha256(raw)}
        with contextlib.suppress(Refused):  # not a text
            text = boxd_text.decode(raw, path)
            lines = len(boxd_text.split_lines(text.text))
            facts |= {"encoding": text.codec, "line_endings": text.endings, "lines": lines}
        return facts

    def _root_and_path(self, path: str, *, directory: bool = False) -> tuple[str, str]:
        """The root of a path, and the path relative to it; `directory`: it has to be one."""
        real = self._places.locate(path)
        if directory and not stat.S_ISDIR(os.lstat(real).st_mode):
            raise Refused("not_a_file", f"{path} is not a directory; read it instead")
        root = self._places.root_of(real)
        return root, "." if real == root else real[len(root) + 1 :]

    def _paged(self, path: str, limit: int, after: str | None) -> tuple[str, str, Page[str]]:
        root, below = self._root_and_path(path, directory=True)
        return root, below, Page[str](_between(limit, 1, _MOST_RESULTS), self._within(root, after))

    def _files(self, path: str, pattern: str | None) -> tuple[str, Iterable[str], int]:
        """The root, the files below the path that match, and how many components the path has."""
        if pattern is not None:
            for root in self._places.roots:
                if pattern.startswith(f"{root}/"):
                    path, pattern = root, f"/{pattern[len(root) + 1 :]}"
        wanted = None if pattern is None else boxd_find.glob_pattern(pattern)
        root, below = self._root_and_path(path, directory=True)
        found, skip = boxd_find.names(root, below), _components(below)
        return root, found if wanted is None else boxd_find.globbed(found, skip, wanted), skip

    def _unrooted(self, glob: str, root: str) -> str:
        return f"/{glob[len(root) + 1 :]}" if glob.startswith(f"{root}/") else glob

    def _within(self, root: str, after: str | None) -> str | None:
        """A path as an answer named it, relative to its root."""
        return None if after is None else after.removeprefix(self._places.prefix(root))

    def _place(self, root: str, after: str | None) -> tuple[str, int] | None:
        if after is None:
            return None
        name, _, line = after.rpartition(":")
        if not name or not line.isdecimal():
            raise Refused("bad_request", f"the cursor {after!r} is none of this search; start without it")
        return str(self._within(root, name)), int(line)

    def _entries(self, root: str, found: list[boxd_find.Entry], page: Page[str]) -> dict[str, Any]:
        paths, cut = self._paths(root, [entry.path for entry in found])
        entries = [(path, entry.kind, entry.size) for path, entry in zip(paths, found, strict=False)]
        return {"entries": entries, "cursor": paths[-1] if paths and (page.more or cut) else None}

    def _paths(self, root: str, names: list[str]) -> tuple[list[str], bool]:
        prefix = self._places.prefix(root)
        return boxd_load.within_reply([prefix + shown(name) for name in names])


def _components(below: str) -> int:
    return 0 if below == "." else below.count("/") + 1


def _between(value: int, least: int, most: int) -> int:
    return max(least, min(int(value), most))
