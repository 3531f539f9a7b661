"""One task once more, with the recorded answers in the place of models: the real loop, real boxes, and no delivery.

Everything is made in a folder of its own and thrown away: home, journal, clone. The repository is only read.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from nightcrew.agent.recording import Difference, RecordedModel, Recording
from nightcrew.agent.roster import Roster
from nightcrew.agent.runner import Runner
from nightcrew.attachments import AttachmentStore, owner_of
from nightcrew.config import Config, CrewSettings, NetworkSettings, RoleSettings, WorkspaceSettings, environment
from nightcrew.crew import Role
from nightcrew.errors import AttachmentRefused, NightcrewError
from nightcrew.events import Recorded
from nightcrew.journal import Journal
from nightcrew.journal.fold import REPLAY, TaskRecord, fold
from nightcrew.service.attendant import Say
from nightcrew.service.service import make_home
from nightcrew.service.worker import make_workspaces
from nightcrew_tools.contract import Limits, TaskRequest
from nightcrew_workspaces.folders import remove_tree
from nightcrew_workspaces.selftest import self_test

_MINUTES = 24 * 60.0
"""A replay is not ended for time: that says nothing of the prompts."""


@dataclass(frozen=True)
class Replayed:
    """What a replay came to."""

    task: str
    recorded: str
    """How the task ended, or stands in its journal."""
    outcome: str
    """How its replay ended: as a patch where the task delivered a branch."""
    verdicts_recorded: tuple[bool, ...]
    verdicts: tuple[bool, ...]
    """Of each attempt: did it pass?"""
    prompts: int
    messages: int
    passing: int
    """Messages that differ only in times and names which no two runs share."""
    differences: tuple[Difference, ...]

    @property
    def same(self) -> bool:
        """Was every model asked the same, and every attempt judged the same?"""
        return not self.differences and self.verdicts == self.verdicts_recorded


async def replay(
    config: Config,
    events: Sequence[Recorded],
    *,
    repo: str | None = None,
    strict: bool = False,
    keep: Path | None = None,
    say: Say,
    on_event: Callable[[Recorded], None] | None = None,
) -> Replayed:
    """Replay one task's events. `repo` is where its repository is now; `keep` gets the home that is else thrown away.

    Raises `NightcrewError` for a task that cannot be replayed, and what a workspace raises.
    """
    record = fold(events)
    refuse(record)
    await self_test(config.box.user)
    async with _place(keep) as place:
        mine = _config(config, record, place)
        make_home(mine)
        await anyio.to_thread.run_sync(_bring_attachments, config, mine, record)
        recording = Recording.of(events, strict=strict)

        def open_client(name: str, role: Role) -> RecordedModel:
            return RecordedModel(name, role.settings, recording)

        with Journal.open(mine.journal) as journal:
            if on_event is not None:
                journal.subscribe(on_event)
            journal.submit(_request(record, repo), origin=f"{REPLAY}{record.id}", name_hint="replay", task_id=record.id)
            journal.claim_task(record.id, "replay")
            async with Roster(mine, environment(), say=say) as roster:
                workspaces = make_workspaces(mine)
                runner = Runner(
                    config=mine, journal=journal, workspaces=workspaces, roster=roster, open_client=open_client
                )
                again = await runner.run(record.id)
    recording.close()
    return Replayed(
        task=record.id,
        recorded=_outcome(record),
        outcome=_outcome(again),
        verdicts_recorded=_verdicts(record),
        verdicts=_verdicts(again),
        prompts=recording.prompts,
        messages=recording.messages,
        passing=recording.passing,
        differences=tuple(recording.differences),
    )


def refuse(record: TaskRecord) -> None:
    """Raise `NightcrewError` for a task whose answers do not stand in its journal."""
    if record.opened is None or not any(record.replies.values()):
        raise NightcrewError(f"task {record.id} cannot be replayed: no model had answered yet")
    if record.continued is not None:
        raise NightcrewError(
            f"task {record.id} cannot be replayed: it went on in the clone of task {record.continued.task}"
        )
    if record.candidates or not any(name == "planner" for name in record.replies):
        raise NightcrewError(
            f"task {record.id} cannot be replayed: its crew has no tools, and what the repair ladder's models said is "
            "not in the journal, only what became of it"
        )


@asynccontextmanager
async def _place(keep: Path | None) -> AsyncGenerator[Path]:
    """A folder that boxes can get into; gone afterwards, unless it is to be kept."""
    if keep is not None:
        yield _made(keep)
        return
    place = Path(tempfile.mkdtemp(prefix="nightcrew-replay-"))
    try:
        yield _made(place)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(remove_tree, place)


def _made(place: Path) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    place.chmod(0o711)  # boxes pass through it
    return place.absolute()


def _config(config: Config, record: TaskRecord, place: Path) -> Config:
    """The configuration of this machine with a home, a crew and a delivery that harm nobody."""
    assert record.opened is not None
    judged = any(name.startswith("verifier") for name in record.replies)
    crew = CrewSettings(
        planner=_role(record, "planner"),
        executor=_role(record, "executor"),
        verifier=_role(record, "verifier") if judged else None,
    )
    name = record.opened.crew
    changes = {
        "home": place / "home",
        "workspaces": WorkspaceSettings(path=place / "workspaces", keep="none"),
        "crew": name,
        "crews": {name: crew},
        "network": NetworkSettings(),
    }
    return config.model_copy(update=changes)


def _role(record: TaskRecord, role: str) -> RoleSettings:
    """The role with what shapes its prompts: whether it was shown pictures."""
    told = [texts[:2] for name, texts in record.conversations.items() if name.partition("/")[0] == role]
    sees = any('"image_url"' in text for texts in told for text in texts)
    return RoleSettings(base_url="http://replay.invalid/v1", model="recorded", vision=sees)


def _request(record: TaskRecord, repo: str | None) -> TaskRequest:
    """What was asked for, from the commit it began with; nothing goes into the repository or out to a network."""
    assert record.opened is not None
    asked = record.request
    limits = Limits(minutes=_MINUTES, tokens=asked.limits.tokens, attempts=asked.limits.attempts)
    kept = asked.model_dump(include={"title", "text", "checks", "setup", "attachments", "images"})
    return TaskRequest(**kept, repo=repo or asked.repo, base=record.opened.base_commit, limits=limits, deliver="patch")


def _bring_attachments(config: Config, mine: Config, record: TaskRecord) -> None:
    """Copy what the task's text speaks of, where there is any."""
    try:
        kept = AttachmentStore(config.attachments).of(owner_of(record.id, record.origin), record.request)
    except AttachmentRefused as error:
        raise NightcrewError(f"task {record.id} cannot be replayed here: its attachments are not here") from error
    if kept is None:
        return
    place = AttachmentStore(mine.attachments).folder(record.id, record.request.attachments)
    shutil.copytree(kept, place)


def _outcome(record: TaskRecord) -> str:
    if record.ended is not None:
        return str(record.ended.outcome)
    return "waiting for approval" if record.waits_for_approval else "not ended"


def _verdicts(record: TaskRecord) -> tuple[bool, ...]:
    return tuple(reached.verdict.passed for _, reached in sorted(record.verdicts.items()))
