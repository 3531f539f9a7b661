"""Text files as the file helper sees them: decoding, exact edits, diffs. Pure; standard library only; runs in a box.

What an edit does not name stays as it is, byte for byte: encoding, byte order mark, line endings, the final newline.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

BOM = b"\xef\xbb\xbf"
_MARKS = {"utf-8-sig": BOM, "utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}
_UTF32_LE = b"\xff\xfe\0\0"
_BINARY = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_CONTEXT = 3
_LINES_COMPARED = 5000
_LINES_SHOWN = 3
_LINES_DIFFED = 2000


class Refused(Exception):
    """An operation that was refused: a stable code and a sentence with what to do next."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(message)


class Text(NamedTuple):
    """A decoded file: `text` without byte order mark, line endings as they are."""

    text: str
    codec: str
    """`utf-8` or `latin-1` without a byte order mark, `utf-8-sig`, `utf-16-le` or `utf-16-be` with one."""

    @property
    def crlf(self) -> bool:
        """Whether every line ends with CR LF, and there is one."""
        return self.endings == "crlf"

    @property
    def endings(self) -> str:
        """`lf`, `crlf`, `mixed`, or `none` where no line ends."""
        feeds, pairs = self.text.count("\n"), self.text.count("\r\n")
        if not feeds:
            return "none"
        return "crlf" if feeds == pairs else "mixed" if pairs else "lf"


class Replaced(NamedTuple):
    """A text before and after, and where each replacement is: (start before, end before, start after, end after)."""

    before: str
    after: str
    places: tuple[tuple[int, int, int, int], ...]


def decode(raw: bytes, path: str) -> Text:
    """UTF-8, UTF-16 with its byte order mark, Latin-1 where it cannot be UTF-8; `not_text` for anything else."""
    codec = next((codec for codec, mark in _MARKS.items() if raw.startswith(mark)), "utf-8")
    if "16" in codec:
        text = None if raw.startswith(_UTF32_LE) else _decoded(raw[2:], codec)
        if text is not None and not _BINARY.search(text):
            return Text(text, codec)
    elif b"\0" not in raw:
        if (text := _decoded(raw.removeprefix(BOM), "utf-8")) is not None:
            return Text(text, codec)
        if not _BINARY.search(text := raw.decode("latin-1")):
            return Text(text, "latin-1")
    raise Refused("not_text", f"{path} is not a text file (binary); use a command to look at it")


def encode(text: str, codec: str, path: str) -> bytes:
    """The inverse of `decode`; `not_text` for what the encoding cannot hold."""
    try:
        return _MARKS.get(codec, b"") + text.encode(codec.removesuffix("-sig"))
    except UnicodeEncodeError as error:
        wrong = text[error.start : error.start + 1]
        raise Refused("not_text", f"{path} is {codec} and cannot hold {wrong!r}; leave that out") from error


def replace(text: str, old: str, new: str, count: int, path: str) -> Replaced:
    """Replace `old` by `new`, which has to be there exactly `count` times.

    A newline in `old` matches either line ending; newlines in `new` become the ending that is used at that place.
    """
    old, new = (_plain_newlines(part) for part in (old, new))
    if not old:
        raise Refused("bad_request", "the text to replace is empty; give the lines that are there now")
    if old == new:
        raise Refused("bad_request", "the old and the new text are the same; nothing to do")
    matches = list(re.finditer(re.escape(old).replace("\\\n", "\r?\n"), text))
    if len(matches) != count:
        raise _miscounted(text, old, matches, count, path)
    parts: list[str] = []
    places: list[tuple[int, int, int, int]] = []
    done = length = 0
    for match in matches:
        kept, put = text[done : match.start()], new.replace("\n", _ending(text, match))
        parts += [kept, put]
        length += len(kept)
        places.append((match.start(), match.end(), length, length + len(put)))
        length += len(put)
        done = match.end()
    return Replaced(text, "".join((*parts, text[done:])), tuple(places))


def composed(first: Replaced, second: Replaced) -> Replaced:
    """Two replacements, the second in the result of the first, as one."""
    changes = [(start, end, before - after, 0) for before, after, start, end in _sizes(first.places, new=True)]
    changes += [(start, end, 0, after - before) for before, after, start, end in _sizes(second.places, new=False)]
    places: list[tuple[int, int, int, int]] = []
    old = new = 0  # how far the texts before and after are ahead of the one between, up to here
    begin = end = -1
    grown_old = grown_new = 0
    for start, stop, more_old, more_new in [*sorted(changes), (len(first.after) + 2, 0, 0, 0)]:
        if start > end:
            if begin >= 0:
                places.append((begin + old, end + old + grown_old, begin + new, end + new + grown_new))
            old, new, grown_old, grown_new = old + grown_old, new + grown_new, 0, 0
            begin, end = start, stop
        end, grown_old, grown_new = max(end, stop), grown_old + more_old, grown_new + more_new
    return Replaced(first.before, second.after, tuple(places))


def unified_diff(replaced: Replaced, path: str) -> str:
    """The change as a unified diff. Only lines around the replacements are compared, so size does not matter."""
    before, after = _Lines(replaced.before), _Lines(replaced.after)
    lines = [f"--- a/{path}", f"+++ b/{path}"]
    for old_start, old_end, new_start, new_end in _blocks(replaced, before, after):
        old, new = before.between(old_start, old_end), after.between(new_start, new_end)
        for group in _opcode_groups(old, new):
            (_, first, _, new_first, _), (_, _, last, _, new_last) = group[0], group[-1]
            old_range = _range(old_start + first, last - first)
            lines.append(f"@@ -{old_range} +{_range(new_start + new_first, new_last - new_first)} @@")
            for tag, a, b, c, d in group:
                lines += _marked(" " if tag == "equal" else "-", old[a:b])
                lines += [] if tag == "equal" else _marked("+", new[c:d])
    return "\n".join(lines) + "\n"


def _sizes(places: Sequence[tuple[int, int, int, int]], *, new: bool) -> list[tuple[int, int, int, int]]:
    """(length before, length after, start, end) of places, where start and end count in the new text or the old one."""
    return [(b - a, d - c, *((c, d) if new else (a, b))) for a, b, c, d in places]


class _Lines:
    """The lines of a text, and which one a position is in; both count from 0."""

    def __init__(self, text: str) -> None:
        self._lines = split_lines(text)
        self._starts = [0]  # the empty line after a final line feed has its own
        for line in self._lines:
            if line.endswith("\n"):
                self._starts.append(self._starts[-1] + len(line))

    def of(self, position: int) -> int:
        return bisect_right(self._starts, position) - 1

    def between(self, start: int, end: int) -> list[str]:
        return self._lines[start:end]


def split_lines(text: str) -> list[str]:
    """Lines with their endings; only a line feed ends a line, whatever else Unicode has."""
    *lines, last = text.split("\n")
    return [*(f"{line}\n" for line in lines), *([last] if last else [])]


def _blocks(replaced: Replaced, before: _Lines, after: _Lines) -> list[tuple[int, int, int, int]]:
    """Line ranges around the replacements, before and after; those that touch are one."""
    blocks: list[tuple[int, int, int, int]] = []
    for start, end, new_start, new_end in replaced.places:
        old_first, old_last = max(before.of(start) - _CONTEXT, 0), before.of(end) + 1 + _CONTEXT
        new_first, new_last = max(after.of(new_start) - _CONTEXT, 0), after.of(new_end) + 1 + _CONTEXT
        if blocks and (old_first <= blocks[-1][1] or new_first <= blocks[-1][3]):
            first = blocks.pop()
            old_first, new_first = first[0], first[2]
        blocks.append((old_first, old_last, new_first, new_last))
    return blocks


def _opcode_groups(old: list[str], new: list[str]) -> list[list[tuple[str, int, int, int, int]]]:
    if max(len(old), len(new)) > _LINES_DIFFED:
        return [[("replace", 0, len(old), 0, len(new))]]
    import difflib  # noqa: PLC0415 (10 ms at start that most sessions do not need)

    return [list(group) for group in difflib.SequenceMatcher(None, old, new, False).get_grouped_opcodes(_CONTEXT)]


def _range(start: int, length: int) -> str:
    """How a hunk names lines: from 1, and the line before where there are none."""
    return f"{start + 1 if length else start},{length}"


def _marked(mark: str, lines: list[str]) -> list[str]:
    marked: list[str] = []
    for line in lines:
        marked.append(mark + line.rstrip("\n").removesuffix("\r"))
        if not line.endswith("\n"):
            marked.append("\\ No newline at end of file")
    return marked


def _decoded(raw: bytes, codec: str) -> str | None:
    try:
        return raw.decode(codec)
    except UnicodeDecodeError:
        return None


def _plain_newlines(text: str) -> str:
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def _ending(text: str, match: re.Match[str]) -> str:
    """The line ending that is used where the match is: in it, after it, before it, or a line feed."""
    for at in (text.find("\n", match.start()), text.rfind("\n", 0, match.start())):
        if at >= 0:
            return "\r\n" if text[at - 1 : at] == "\r" else "\n"
    return "\n"


def _miscounted(text: str, old: str, matches: list[re.Match[str]], count: int, path: str) -> Refused:
    if not matches:
        return Refused("no_match", f"the old text is not in {path}. {_nearest(text, old)}")
    lines = _Lines(text)
    where = ", ".join(str(lines.of(match.start()) + 1) for match in matches[:10])
    times = f"{len(matches)} times (lines {where}{', …' if len(matches) > 10 else ''})"
    return Refused(
        "several_matches",
        f"the old text is in {path} {times}, not {count}; add lines around it so that it is unique, or give that count",
    )


def _nearest(text: str, old: str) -> str:
    """Where the text looks most like `old`, for someone who has to copy it better."""
    lines = [line.rstrip("\r") for line in text.split("\n")[:_LINES_COMPARED]]
    wanted = [line.strip() for line in old.strip("\n").split("\n")]
    stripped = [line.strip() for line in lines]
    for start in range(len(lines) - len(wanted) + 1):
        if stripped[start] == wanted[0] and stripped[start : start + len(wanted)] == wanted:
            end = start + len(wanted)
            shown = "\n".join(lines[start : min(end, start + 20)])
            return f"Lines {start + 1} to {end} differ from it in white space only; copy them as they are:\n{shown}"
    import difflib  # noqa: PLC0415

    first = next((line for line in wanted if line), "")
    close = difflib.get_close_matches(first[:200], {line[:200] for line in stripped if line}, _LINES_SHOWN, 0.6)
    found = sorted({stripped.index(line) for line in close if line in stripped})
    if not found:
        return "Nothing there looks like it; read the file again."
    shown = "\n".join(f"{index + 1}: {lines[index]}" for index in found)
    return f"Read the file again; the lines most like its first are:\n{shown}"
