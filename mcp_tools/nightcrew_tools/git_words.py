"""Words between a model and git: file names, paths, revisions and names of branches, checked before git sees them.

Only words are looked at here; that nothing else can be reached is the box's doing. Every check raises `ToolError`.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Sequence

from nightcrew_tools.output import ToolError

_LONGEST = 500
_ESCAPES = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13, '"': 34, "\\": 92}
_LETTERS = {code: letter for letter, code in _ESCAPES.items()}
_QUOTED = re.compile(r'"(?:[^"\\]|\\(?:[abtnvfr"\\]|[0-3][0-7]{2}))*"')
_PART = re.compile(r"\\([0-3][0-7]{2}|.)|([^\\]+)", re.DOTALL)
_NEVER_IN_NAMES = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]")
_PICTURES: dict[int, int | str] = {
    **{code: 0x2400 + code for code in range(0x20) if code not in (0x09, 0x0A)},
    0x7F: 0x2421,
    **{code: f"\\u{code:04x}" for code in range(0x80, 0xA0)},
}


def shown(name: bytes) -> str:
    """A file name as it is shown, and understood by `path_text`: quoted as git does where it is not plain text."""
    text = name.decode("utf-8", "surrogateescape")
    if text.isprintable() and not text.startswith('"'):
        return text
    return '"' + "".join(_escaped(letter) for letter in text) + '"'


def path_text(path: str) -> str:
    """A path as a model wrote it; one in quotes, as `shown` writes it, may hold any byte."""
    path = path.strip()
    if not _QUOTED.fullmatch(path):
        return path
    raw = bytearray()
    for escape, plain in _PART.findall(path[1:-1]):
        if plain:
            raw += plain.encode()
        else:
            raw.append(_ESCAPES[escape] if escape in _ESCAPES else int(escape, 8))
    if 0 in raw:
        raise ToolError("bad_argument", f"path {path[:80]} has a NUL byte in it, which no file's name has")
    return os.fsdecode(bytes(raw))


def visible(data: bytes, *, keep_returns: bool = False) -> str:
    """Text in which nothing hides: control characters have a picture (␛), bytes that are not UTF-8 are `\\xff`.

    Carriage returns at the ends of lines are left out unless `keep_returns`, which shows them as ␍.
    """
    if not keep_returns:
        data = data.replace(b"\r\n", b"\n")
    return data.decode("utf-8", "backslashreplace").translate(_PICTURES)


def mixed_endings(diff: bytes) -> bool:
    """Whether among the changed lines of a diff some end in a carriage return and others do not."""
    changed = [line for line in diff.split(b"\n") if line[:1] in (b"+", b"-")]
    changed = [line for line in changed if not line.startswith((b"+++ ", b"--- "))]
    return 0 < sum(line.endswith(b"\r") for line in changed) < len(changed)


class Places:
    """The directories that a session works on, and what paths mean in them."""

    def __init__(self, roots: Sequence[str]) -> None:
        self.roots = tuple(roots)

    def folder(self, repo: str | None) -> str:
        """The directory that `repo` names; the first root when it names none."""
        return self.within(self.roots[0], repo or ".", "repo")

    def within(self, base: str, path: str, what: str = "path") -> str:
        """Absolute path of `path`, which counts from `base`, under one of the roots."""
        path = path_text(path) or "."
        if path.startswith("-"):
            hint = f"; write ./{path} if it is a file's name" if what == "path" else ""
            raise ToolError("bad_argument", f"{what} {path[:80]!r} begins with a dash, like an option{hint}")
        place = posixpath.normpath(posixpath.join(base, path))
        if not any(place == root or place.startswith(root.rstrip("/") + "/") for root in self.roots):
            named = _plain(path)
            word = "" if what == "path" else f"{what} "
            raise ToolError("outside", f"{word}{named!r} is outside {' and '.join(self.roots)}; name a path in it")
        return place


def relative_to(top: str, place: str) -> str:
    """`place` as git takes it in the repository at `top`."""
    inside = posixpath.relpath(place, top)
    if inside == ".." or inside.startswith("../"):
        raise ToolError("outside", f"{_plain(place)!r} is not in the repository {_plain(top)}; name its repo")
    return inside


def revision(text: str, what: str = "revision") -> str:
    """A revision or a range of them, as git's own rules (`git help revisions`) may read it."""
    text = text.strip()
    if not text:
        raise ToolError("bad_argument", f"{what} is empty; name a commit, branch or tag")
    if text.startswith("-"):
        raise ToolError("bad_argument", f"{what} {text[:80]!r} begins with a dash, like an option")
    if len(text) > _LONGEST or any(ord(letter) < 0x20 or letter == "\x7f" for letter in text):
        raise ToolError("bad_argument", f"{what} {text[:80]!r} is too long or has a control character in it")
    return text


def ref_name(text: str, what: str = "name") -> str:
    """The name of a new or existing branch or remote, by the rules of `git check-ref-format --branch`."""
    if (problem := ref_problem(text)) is not None:
        raise ToolError("bad_argument", f"{what} {text[:80]!r} {problem}")
    return text


def ref_problem(name: str) -> str | None:
    """What keeps `name` from being a branch's, in words that follow it; None when nothing does."""
    if not name or len(name) > _LONGEST:
        return "is empty or too long"
    if name.startswith("-"):
        return "begins with a dash"
    if name in ("HEAD", "@"):
        return "has another meaning for git"
    if _NEVER_IN_NAMES.search(name):
        return "has a space or one of ~^:?*[\\ or a control character in it"
    if ".." in name or "@{" in name:
        return "has '..' or '@{' in it"
    if name.endswith("."):
        return "ends with a dot"
    for part in name.split("/"):
        if not part:
            return "begins or ends with a slash or has two in a row"
        if part.startswith(".") or part.endswith(".lock"):
            return f"has a part, {part!r}, that begins with a dot or ends with .lock"
    return None


def _escaped(letter: str) -> str:
    if letter in ('"', "\\") or (ord(letter) in _LETTERS and letter not in ('"', "\\")):
        return "\\" + _LETTERS[ord(letter)]
    if letter.isprintable():
        return letter
    return "".join(f"\\{byte:03o}" for byte in letter.encode("utf-8", "surrogateescape"))


def _plain(path: str) -> str:
    return path.encode(errors="surrogateescape").decode(errors="replace")[:200]
