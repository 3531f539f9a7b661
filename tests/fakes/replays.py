"""Golden journals: what scripted models said to the real loop, recorded once and replayed by the tests.

They are renewed where a prompt was changed on purpose:

    PYTHONPATH=tests .venv/bin/python tests/fakes/replays.py

and the difference of the files is what a reviewer reads.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import anyio

from fakes.house import FIX, call, house, plan, script
from fakes.scripted_server import Answer, Script
from nightcrew.events import Recorded

FOLDER = Path(__file__).resolve().parents[1] / "golden" / "replays"

_GOOD = Answer(text='{"reason": "it divides by the number of values", "passes": true}')

GOLDENS: dict[str, tuple[Callable[[], Script], bool]] = {
    # What the first attempt hands over is nothing, so evidence goes back; then the verifier is asked.
    "second-attempt": (
        lambda: script(
            call("finish_step", summary="done already"),
            *FIX,
            planner=(call("read_file", path="stats.py"), call("search", pattern="def mean"), plan()),
            verifier=(_GOOD,),
        ),
        True,
    ),
    # A tool that is not there, arguments that are none, an empty answer, a command that fails.
    "stumbling": (
        lambda: script(
            call("no_such_tool", path="stats.py"),
            Answer(tool_calls=(("read_file", "{broken"),)),
            Answer(text=""),
            call("run_command", command="ls nowhere"),
            *FIX,
        ),
        False,
    ),
}
"""By name: the script, and whether there is a verifier."""


async def record(name: str, root: Path) -> list[Recorded]:
    """Run the script, and return the journal without what belongs to this machine and moment."""
    make, verifier = GOLDENS[name]
    async with house(root, make(), verifier=verifier) as home:
        task = (await home.run()).id
        events = home.journal.read(task)
        url, repository = home.server.url, str(home.repository)
    lines = (one.model_dump_json().replace(url, "http://model.invalid/v1") for one in events)
    clean = (line.replace(repository, "/srv/stats").replace(task, "0golden00") for line in lines)
    return [Recorded.model_validate_json(line).model_copy(update={"at": "2026-01-01T00:00:00.000Z"}) for line in clean]


def read(name: str) -> list[Recorded]:
    return [Recorded.model_validate_json(line) for line in path(name).read_text(encoding="utf-8").splitlines()]


def path(name: str) -> Path:
    return FOLDER / f"{name}.jsonl"


def renew() -> None:
    for name in GOLDENS:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)
            events = anyio.run(record, name, Path(folder))
        assert events[-1].event.kind == "task_ended"
        path(name).write_text("".join(f"{one.model_dump_json()}\n" for one in events), encoding="utf-8")
        print(f"wrote {path(name)}: {len(events)} events")


if __name__ == "__main__":
    renew()
