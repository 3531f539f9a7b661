"""Text of others, made harmless: for terminals, and for Markdown that it must not be able to forge.

Whatever a model, a tool or a file wrote may hold terminal escapes, headings, fences and links. In a report it stands
inside code spans and fences only, where Markdown gives nothing a meaning; in a terminal it is a line without controls.
"""

from __future__ import annotations

import html
import re

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor movement
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # OSC, DCS and their kin, with or without their end
    r"|\x1b[ -/]*[0-~]?"  # the short ones, and a lone escape
)
_LINE_ENDS = re.compile(r"\r\n|[\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]")
_CONTROLS = re.compile(
    r"[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f"
    r"\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff"  # invisible, or they turn the reading direction
    r"\U000e0000-\U000e007f"  # invisible letters, by which a text says something else to a model
    r"\ud800-\udfff]"  # a lone surrogate cannot be written as UTF-8
)
_TICKS = re.compile(r"`+")


def clean(text: str) -> str:
    """The text without terminal escapes and invisible controls; only newline and tab are left of those."""
    return _CONTROLS.sub("", _LINE_ENDS.sub("\n", _ESCAPES.sub("", text)))


def one_line(text: str, limit: int = 200) -> str:
    """The text as one clean line of at most `limit` characters."""
    line = " ".join(clean(text).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def clipped(text: str, limit: int) -> str:
    """Head and tail of a clean text, with a line between them that says how much is left out."""
    text = clean(text).strip("\n")
    if len(text) <= limit:
        return text
    head, tail = text[: limit // 3], text[-(limit - limit // 3) :]
    return f"{head}\n[… {len(text) - limit:,} characters left out …]\n{tail}"


def code(text: str, limit: int = 300) -> str:
    """One line as a Markdown code span that the text cannot end."""
    line = one_line(text, limit)
    if not line:
        return "(empty)"
    ticks = "`" * (1 + max((len(run) for run in _TICKS.findall(line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{pad}{line}{pad}{ticks}"


def cell(text: str, limit: int = 120) -> str:
    """A code span for a table, where a bar would begin the next column."""
    return code(text, limit).replace("|", "\\|")


def fence(text: str, *, language: str = "text") -> str:
    """Lines as a Markdown fence that the text cannot close: longer than any run of backticks in it."""
    body = clean(text).strip("\n")
    ticks = "`" * max(3, 1 + max((len(run) for run in _TICKS.findall(body)), default=0))
    return f"{ticks}{language}\n{body}\n{ticks}"


def quoted(text: str, *, limit: int = 8000, language: str = "text") -> str:
    """A fence inside a block quote: each line of it begins with `>`, so that not even in a plain terminal, or to a
    program that looks for headings, a line of it passes for one of ours."""
    return "\n".join(f"> {line}".rstrip() for line in fence(clipped(text, limit), language=language).split("\n"))


def folded(summary: str, text: str, *, limit: int = 8000) -> str:
    """Quoted lines that open on a click where Markdown is rendered. The summary is plain text."""
    return f"<details><summary>{html.escape(one_line(summary))}</summary>\n\n{quoted(text, limit=limit)}\n\n</details>"
