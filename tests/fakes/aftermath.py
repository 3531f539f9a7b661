"""What a run of many tasks leaves behind, in a shape in which two runs can be compared byte for byte.

What two runs may differ in, and nothing else, is taken out here:

- claims, waits for an endpoint, and the hosts of a way out (their counts and order, which a crash may take before they
  are summed up): `_KINDS`, `_COUNTS`
- times, and numbers of seconds, in fields and in texts: `_FIELDS`, `_TIMES`
- tokens that the model server had cached, and what is counted of them: `_FIELDS`, `_CACHED`
- names of commits, which hold a time: each is replaced by its tree and message; names of trees stay
- the words of a cancel, which say whether it met a running task or one that waited to be continued: `_CANCELS`
- the answer INTERRUPTED to a command with a network, where the unkilled run has the command's own; and, of such a task,
  the prompt tokens, which count that answer, and what its report says of the hosts, none of which it may have reached
"""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fakes.chaos import Job
from fakes.house import fingerprint
from nightcrew.journal import Journal

_KINDS = ("task_claimed", "waiting", "network_used")
_FIELDS = ("seconds", "cached_tokens", "cached_rate", "model_seconds", "at")
_TIMES = re.compile(r"\b\d+(?:\.\d+)?(?= ?s\b)|\d{4}-\d\d-\d\dT[\d:.]+(?:Z|\+00:00)")
_CANCELS = re.compile("a person cancelled the task|cancelled by a person")
_CACHED = re.compile(r"(of them from the cache \| )[^|]*")
_PROMPTS = re.compile(r"(prompt.tokens[^\d\n]*)[\d,]+")
_REACHED = re.compile(r"## What was reached\n.*?(?=\n## )", re.DOTALL)
_COUNTS = re.compile(r"^(\| `mirror\.test:\d+` \| `[^`]*` )\|.*$", re.MULTILINE)
_COMMIT = re.compile(r"\b[0-9a-f]{40}\b|\b[0-9a-f]{12}\b")


@dataclass(frozen=True)
class Aftermath:
    """One task's part."""

    outcome: str
    events: tuple[str, ...]
    """Every one as JSON, in order."""
    files: dict[str, str]
    """What lies in the outbox for it; a patch as it is."""
    branch: tuple[str, ...]
    """Tree, parents' trees, author and message of each commit that was delivered."""
    interrupted: int
    """Answers INTERRUPTED."""

    def _without_answers(self) -> Aftermath:
        """Without what a cut-off command with a network changes."""
        events = [json.loads(event) for event in self.events]
        for event in events:
            if event["kind"] == "tool_ran" and event["name"] == "run_command":
                event |= {"message": None, "is_error": None, "tree": None}
        files = {name: _REACHED.sub("", _PROMPTS.sub(r"\1", text)) for name, text in self.files.items()}
        said = tuple(_PROMPTS.sub(r"\1", json.dumps(event, sort_keys=True)) for event in events)
        return replace(self, events=said, files=files, interrupted=0)

    def differs(self, unkilled: Aftermath) -> str:
        """In what this differs from what it should be, in words; empty when it does not."""
        said = f"{self.outcome}, not {unkilled.outcome}\n" if self.outcome != unkilled.outcome else ""
        if self.interrupted:
            return self._without_answers().differs(unkilled._without_answers())
        mine, theirs = list(self.events), list(unkilled.events)
        for at, (one, other) in enumerate(zip(mine, theirs, strict=False)):
            if one != other:
                said += f"event {at}:\n  {one[:700]}\n  {other[:700]}\n"
                break
        if len(mine) != len(theirs):
            said += f"{len(mine)} events, not {len(theirs)}\n"
        if self.branch != unkilled.branch:
            said += f"branch {self.branch}, not {unkilled.branch}\n"
        for name in sorted(self.files.keys() | unkilled.files.keys()):
            there, should = self.files.get(name), unkilled.files.get(name)
            if there != should:
                said += f"{name}: {_first_difference(there, should)}\n"
        return said


def _first_difference(there: str | None, should: str | None) -> str:
    if there is None or should is None:
        return "is missing" if there is None else "should not be there"
    for one, other in zip(there.splitlines(), should.splitlines(), strict=False):
        if one != other:
            return f"{one[:300]!r}, not {other[:300]!r}"
    return f"{len(there)} characters, not {len(should)}"


def aftermath(home: Path, jobs: list[Job]) -> dict[str, Aftermath]:
    """Of all tasks, by name."""
    with Journal.open(home / "journal.sqlite", read_only=True) as journal:
        return {job.name: _of_one(home, job, journal) for job in jobs}


def _of_one(home: Path, job: Job, journal: Journal) -> Aftermath:
    events = [one.event for one in journal.read(job.name)]
    view = journal.view(job.name)
    names = _Names(job.repository)
    interrupted = sum(event.kind == "tool_ran" and "INTERRUPTED" in event.message for event in events)
    files = {
        path.name: _file(path, names) for path in sorted((home / "outbox").iterdir()) if path.name.startswith(job.name)
    }
    return Aftermath(
        outcome=str(view.outcome),
        events=tuple(
            json.dumps(_plain(event.model_dump(mode="json"), names), sort_keys=True)
            for event in events
            if event.kind not in _KINDS
        ),
        files=files,
        branch=names.history(view.branch) if view.branch else (),
        interrupted=interrupted,
    )


def _file(path: Path, names: _Names) -> str:
    text = path.read_text()
    if path.suffix == ".json":
        report = json.loads(text)
        report["hosts"] = []
        return json.dumps(_plain(report, names), indent=1, sort_keys=True)
    if path.suffix == ".patch":
        return text
    text = _COUNTS.sub(r"\1", _CACHED.sub(r"\1", _TIMES.sub("T", text)))
    return names.replaced(_CANCELS.sub("cancelled", text))


def _plain(value: Any, names: _Names) -> Any:
    if isinstance(value, dict):
        items = ((key, each) for key, each in value.items() if not key.endswith("_at"))
        return {key: None if key in _FIELDS else _plain(each, names) for key, each in items}
    if isinstance(value, list):
        return [_plain(each, names) for each in value]
    return names.replaced(_CANCELS.sub("cancelled", _TIMES.sub("T", value))) if isinstance(value, str) else value


class _Names:
    """What commits of a repository are, apart from when they were made."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._known: dict[str, str] = {}

    def replaced(self, text: str) -> str:
        """A text in which commits are called by what they hold; those of no branch by that alone."""
        return _COMMIT.sub(lambda match: self._known.setdefault(match[0], self._what(match[0])), text)

    def history(self, branch: str) -> tuple[str, ...]:
        """The commits of a branch that the repository's own does not have."""
        return tuple(self._git("log", "--format=%T %s %b %an %ae", f"main..{branch}").split("\n"))

    def _what(self, name: str) -> str:
        kind = self._git("cat-file", "-t", name)
        if kind == "commit":
            return f"<commit of {self._git('log', '-1', '--format=%T %s', name)}>"
        # What was not delivered is in no repository that stays; a tree's name tells what is in it.
        return name if kind else "<unpublished>"

    def _git(self, *arguments: str) -> str:
        command = ["git", "-c", "safe.directory=*", "-C", str(self._repository), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def untouched(repository: Path, before: dict[str, str]) -> bool:
    """Whether all that was in a repository before is there as it was."""
    after = fingerprint(repository)
    return all(after.get(path) == digest for path, digest in before.items())
