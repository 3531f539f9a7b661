"""Whole-file repair: the model is shown a file and the failing evidence and answers with the new file."""

from __future__ import annotations

import re

SYSTEM = "You fix bugs in code. Keep names, comments and docstrings. Answer with the complete file in one code block."
EXPLAIN_SYSTEM = "You find bugs in code. Say in two or three sentences which line is wrong, why, and what it must be."

_BLOCK = re.compile(r"```[\w+.-]*\n(.*?)\n?```", re.DOTALL)


def ask_for_file(task: str, path: str, text: str, evidence: str, *, explanation: str = "") -> str:
    """The user message for a new text of one file."""
    why = f"\nWhat is wrong:\n{explanation.strip()}\n" if explanation else ""
    return f"{_shown(task, path, text, evidence)}{why}\nWrite the complete corrected {path}."


def ask_why(task: str, path: str, text: str, evidence: str) -> str:
    """The user message for an explanation of the failure."""
    return f"{_shown(task, path, text, evidence)}\nWhat is wrong in {path}?"


def _shown(task: str, path: str, text: str, evidence: str) -> str:
    fails = f"\nThis fails:\n```\n{evidence.strip()}\n```\n" if evidence else ""
    return f"Task: {task}\n\n{path}:\n```\n{text.rstrip()}\n```\n{fails}"


def new_text(reply: str, old: str) -> str | None:
    """The file out of a reply: its longest code block. None when there is none, it is cut off, or nothing is new."""
    blocks: list[str] = _BLOCK.findall(reply)
    if not blocks:
        return None
    text = max(blocks, key=len).rstrip() + "\n"
    return None if text.strip() == old.strip() else text
