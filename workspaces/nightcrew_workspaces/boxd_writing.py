"""What the file helper changes. Standard library only; runs in a box."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import Any, NamedTuple

from nightcrew_workspaces import boxd_load, boxd_store, boxd_text, boxd_tree
from nightcrew_workspaces.boxd_load import LARGEST_REPLY, Loaded, check_size, check_unchanged, facts
from nightcrew_workspaces.boxd_paths import Places, opened_folder
from nightcrew_workspaces.boxd_store import Change
from nightcrew_workspaces.boxd_text import Refused, Replaced, Text

_NEW_MODE = 0o644
_MOST_EDITS = 200


class _Draft(NamedTuple):
    """A file while it is edited, and what was done to it so far."""

    path: str
    before: Loaded
    codec: str
    replaced: Replaced


class Writing:
    """The operations that change files. Each makes its whole change or none."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def write(self, path: str, text: str, expected_sha256: str | None = None) -> dict[str, Any]:
        """Write a whole file, making its directories; one that is there keeps its mode and way of writing."""
        real = self._places.locate(path, writing=True)
        before: Loaded | None = None
        previous: Text | None = None
        if os.path.lexists(real):
            before = self._load(path, real)
            check_unchanged(before.raw, expected_sha256, path)
            with contextlib.suppress(Refused):
                previous = boxd_text.decode(before.raw, path)
        elif expected_sha256 is not None:
            raise Refused("changed", f"{path} is not there any more; read the directory again")
        raw = _in_the_way_of(previous, text, path)
        boxd_store.store(Change(real, raw, _NEW_MODE if before is None else before.mode, before))
        return {"created": before is None, **facts(raw)}

    def append(self, path: str, text: str) -> dict[str, Any]:
        """Put text at the end of a file, which begins a line of its own; the file is made where there is none."""
        real = self._places.locate(path, writing=True)
        if not os.path.lexists(real):
            return self.write(path, text)
        before = self._load(path, real)
        content = boxd_text.decode(before.raw, path)
        ending = "\r\n" if content.crlf else "\n"
        between = ending if content.text and not content.text.endswith("\n") else ""
        added = text.replace("\r\n", "\n").replace("\n", ending)
        raw = boxd_text.encode(content.text + between + added, content.codec, path)
        check_size(len(raw), path)
        boxd_store.store(Change(real, raw, before.mode, before))
        return {"created": False, **facts(raw)}

    def edit(
        self,
        path: str,
        old: str,
        new: str,
        count: int = 1,
        expected_sha256: str | None = None,
        dry_run: bool = False,
    ) -> dict[str, Any]:
        """Replace text that is in the file exactly `count` times; nothing else in it changes."""
        draft = self._edited(None, path, old, new, count, expected_sha256)
        change, result = self._finished(draft, self._places.locate(path, writing=True))
        if not dry_run:
            boxd_store.store(change)
        return {**result, "replaced": count}

    def edit_all(self, edits: list[dict[str, Any]], dry_run: bool = False) -> dict[str, Any]:
        """Many edits of one or several files, each on what those before it made; all of them are made or none."""
        if not 1 <= len(edits) <= _MOST_EDITS:
            raise Refused("bad_request", f"give 1 to {_MOST_EDITS} edits at once, not {len(edits)}")
        drafts: dict[str, _Draft] = {}
        for number, edit in enumerate(edits, 1):
            try:
                real = self._places.locate(edit["path"], writing=True)
                drafts[real] = self._edited(drafts.get(real), **edit)
            except Refused as refused:
                if len(edits) == 1:
                    raise
                where = f"edit {number} of {len(edits)}: {refused.message}"
                raise Refused(refused.code, f"{where}\nNone of the edits was made.") from None
        finished = [self._finished(draft, real) for real, draft in drafts.items()]
        if not dry_run:
            boxd_store.store_all([change for change, _ in finished])
        return {
            "files": [
                {"path": draft.path, **result} for draft, (_, result) in zip(drafts.values(), finished, strict=True)
            ]
        }

    def delete(self, path: str, recursive: bool = False) -> dict[str, Any]:
        """Remove a file, a symbolic link or an empty directory; `recursive`: a directory with all that is in it."""
        real = self._places.locate(path, writing=True, follow=False)
        folder, name = os.path.split(real)
        is_folder = stat.S_ISDIR(os.lstat(real).st_mode)
        if is_folder and recursive:
            boxd_tree.look(real, path)
        elif is_folder and (entries := os.listdir(real)):
            what = f"{len(entries)} entr{'y' if len(entries) == 1 else 'ies'}"
            raise Refused("not_empty", f"{path} is a directory with {what}; delete it with recursive=true")
        with opened_folder(folder) as parent:
            if is_folder:
                boxd_tree.remove(name, parent, recursive=recursive)
            else:
                os.unlink(name, dir_fd=parent)
        return {}

    def move(self, path: str, to: str) -> dict[str, Any]:
        """Rename a file, symbolic link or directory to a path that is not taken."""
        source, target = self._from_to(path, to)
        (source_folder, source_name), (target_folder, target_name) = os.path.split(source), os.path.split(target)
        os.makedirs(target_folder, exist_ok=True)
        with opened_folder(source_folder) as old, opened_folder(target_folder) as new:
            try:
                os.rename(source_name, target_name, src_dir_fd=old, dst_dir_fd=new)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
            else:
                return {}
        if stat.S_ISDIR(os.lstat(source).st_mode):  # from one root to another
            boxd_tree.look(source, path)
        boxd_tree.copy(source, target)
        return self.delete(path, recursive=True)

    def copy(self, path: str, to: str) -> dict[str, Any]:
        """Copy a file, or a directory with all that is in it, to a path that is not taken; links in it stay links."""
        source, target = self._from_to(path, to, copying=True)
        if os.path.isdir(source):
            boxd_tree.look(source, path)
        else:
            boxd_load.regular(self._places, path, source)
        boxd_tree.copy(source, target)
        return {}

    def make_folder(self, path: str) -> dict[str, Any]:
        """Make a directory and those above it; `created` is False where it is there already."""
        real = self._places.locate(path, writing=True)
        created = not os.path.isdir(real)
        if created and os.path.lexists(real):
            raise Refused("exists", f"{path} is a file; name another path")
        os.makedirs(real, exist_ok=True)
        return {"created": created}

    def _edited(
        self,
        draft: _Draft | None,
        path: str,
        old: str,
        new: str,
        count: int = 1,
        expected_sha256: str | None = None,
    ) -> _Draft:
        if draft is None:
            before = self._load(path, self._places.locate(path, writing=True))
            content = boxd_text.decode(before.raw, path)
            replaced = boxd_text.replace(content.text, old, new, count, path)
            draft = _Draft(path, before, content.codec, replaced)
        else:
            more = boxd_text.replace(draft.replaced.after, old, new, count, path)
            draft = draft._replace(replaced=boxd_text.composed(draft.replaced, more))
        check_unchanged(draft.before.raw, expected_sha256, path)
        return draft

    def _finished(self, draft: _Draft, real: str) -> tuple[Change, dict[str, Any]]:
        raw = boxd_text.encode(draft.replaced.after, draft.codec, draft.path)
        check_size(len(raw), draft.path)
        diff = boxd_text.unified_diff(draft.replaced, self._places.label(real))
        return Change(real, raw, draft.before.mode, draft.before), {"diff": diff[:LARGEST_REPLY], **facts(raw)}

    def _load(self, path: str, real: str) -> Loaded:
        """A file that may be changed."""
        before = boxd_load.load(self._places, path, real)
        if not before.mode & 0o222 or not os.access(real, os.W_OK):
            mode = f"{before.mode:04o}"
            raise Refused("forbidden", f"{path} is read-only (mode {mode}); make it writable first, if that is meant")
        return before

    def _from_to(self, path: str, to: str, *, copying: bool = False) -> tuple[str, str]:
        """Where a move or a copy begins, and its end, which is free."""
        source = self._places.locate(path, writing=not copying, follow=copying)
        target = self._places.locate(to, writing=True, follow=False)
        if not os.path.lexists(source):
            boxd_load.regular(self._places, path, source)  # raises, with what may be meant
        if os.path.lexists(target):
            raise Refused("exists", f"{to} exists; name the whole new path, or delete what is there first")
        if target.startswith(f"{source}/") and os.path.isdir(source):
            raise Refused("bad_request", f"{to} is in {path} itself; name a place outside of it")
        return source, target


def _in_the_way_of(previous: Text | None, text: str, path: str) -> bytes:
    """New content in the encoding and with the line endings of what was there before."""
    codec = "utf-8" if previous is None else previous.codec
    if previous is not None and previous.crlf and "\r" not in text:
        text = text.replace("\n", "\r\n")
    if codec == "latin-1":
        with contextlib.suppress(UnicodeEncodeError):
            return text.encode(codec)
        codec = "utf-8"
    raw = boxd_text.encode(text if codec == "utf-8" else text.removeprefix("\ufeff"), codec, path)
    check_size(len(raw), path)
    return raw
