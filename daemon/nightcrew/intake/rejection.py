"""What a person reads about a file that was not taken. Pure but for the line that it quotes."""

from __future__ import annotations

import os
from collections.abc import Iterator

from nightcrew.attachments import open_in
from nightcrew.journal.ids import now


def excerpt(folder: int, path: str, line: int | None) -> str:
    """The offending line as it stands in the file below the directory `folder`, empty where it cannot be shown."""
    if line is None:
        return ""
    try:
        with os.fdopen(open_in(folder, path), "rb") as file:
            lines = file.read(1024 * 1024).splitlines()
    except OSError:
        return ""
    text = lines[line - 1][:200].decode("utf-8", "replace") if line <= len(lines) else ""
    return "".join(character if character.isprintable() else " " for character in text).strip()


def report(name: str, reason: str, line: int | None, quoted: str, place: str = "", *, stays: bool = False) -> str:
    """Why, where, and what to do. `place` is the folder of the inbox it came from; `stays`: it is there still."""

    def parts() -> Iterator[str]:
        yield f"# `{name}` was not taken as a task\n"
        yield f"{f'Line {line}: ' if line else ''}{reason}\n"
        if quoted:
            yield f"    {quoted}\n"
        yield "## What to do\n"
        if stays:
            yield "It is where it was, and taken as soon as that is put right; this report can be deleted.\n"
        else:
            inbox = f"the folder `{place}` of the inbox" if place else "the inbox"
            yield f"Correct the file and drop it into {inbox} again; this copy and this report can be deleted.\n"
        yield f"Rejected at {now()}.\n"

    return "\n".join(parts())
