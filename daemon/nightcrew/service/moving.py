"""A task's way to another machine: out of this home into one file, and in again.

A task that has ended is copied. One that has not may go on in one place only: it moves, that is, it ends here before
its file has a name. What comes in is believed in nothing: the sums, every event and their fold, every git object.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import IO

from nightcrew.config import Config
from nightcrew.delivery import result_paths
from nightcrew.delivery.writing import sync_folder, write_atomically
from nightcrew.errors import JournalCorrupt, NotPossible, TaskFileError
from nightcrew.events import Moved, Recorded
from nightcrew.journal import Journal
from nightcrew.journal.fold import TaskRecord, fold
from nightcrew.journal.health import refuse_in_trouble
from nightcrew.journal.ids import now
from nightcrew.journal.locks import RunLocks
from nightcrew.service.attendant import write_owed
from nightcrew.service.door import validate
from nightcrew.service.parcel import EVENTS, RESULTS, Manifest, Parcel, ParcelRefused, open_parcel, write_parcel
from nightcrew.service.service import make_home, run_locks
from nightcrew.service.upkeep import leave
from nightcrew.service.worker import make_workspaces
from nightcrew_tools.contract import TaskState
from nightcrew_workspaces.errors import HarvestRefused, WorkspaceError
from nightcrew_workspaces.workspace import Workspace, Workspaces


@dataclasses.dataclass(frozen=True)
class Moving:
    """What became of a task that was exported or imported."""

    task: str
    name: str
    file: Path
    moved: bool
    """It had not ended: it has now, in the place that it left."""
    fresh: bool
    """False where an import found the task there already."""


async def export(config: Config, journal: Journal, task: str, file: Path, *, move: bool) -> Moving:
    """Write a task into a new file. With `move`, one that has not ended ends here and goes on where it is imported.

    Raises `NotPossible` for one that runs, or that has not ended without `move`; `HarvestRefused` when its worktree
    holds what no other machine would take.
    """
    _refuse_to_overwrite(file)
    locks = RunLocks(run_locks(config))
    journal.requeue_dead(locks.is_alive)
    state = journal.view(task).state
    if state is TaskState.ENDED:
        return await _copy(config, journal, task, file)
    if state is TaskState.RUNNING or not locks.acquire(task):
        raise NotPossible(f"task {task} runs now: `nightcrew pause {task}` it, or stop the service, and export it then")
    try:
        if not move:
            raise NotPossible(
                f"task {task} has not ended, and may go on in one place only: with --move it ends here, and goes on "
                "where the file is imported"
            )
        return await _move(config, journal, task, file)
    finally:
        locks.release(task)


def _refuse_to_overwrite(file: Path) -> None:
    if file.exists():
        raise NotPossible(f"{file} exists already: name another file")


async def _copy(config: Config, journal: Journal, task: str, file: Path) -> Moving:
    events, record = journal.read(task), journal.record(task)
    paths = result_paths(config.outbox, record.name)
    results = {
        f"results/{name}": path.read_bytes()
        for name, path in zip(RESULTS, (paths.markdown, paths.json, paths.patch), strict=True)
        if path.is_file()
    }
    part = _part(file)
    try:
        write_parcel(part, _manifest(record, ended=True), {EVENTS: _lines(events), **results})
        _name(part, file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return Moving(task, record.name, file, moved=False, fresh=True)


async def _move(config: Config, journal: Journal, task: str, file: Path) -> Moving:
    events = journal.read(task)
    record = fold(events)
    workspaces = make_workspaces(config)
    _refuse_to_move(record, journal.view(task).state, workspaces)
    with ExitStack() as stack:
        manifest, packs = await _state(record, workspaces, stack)
        part = _part(file)
        try:
            write_parcel(part, manifest, {EVENTS: _lines(events), **packs})
            journal.moving.away(task, record.seq, Moved(to="away", machine=socket.gethostname(), file=file.name))
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    # From here on the task goes on nowhere but where the file is imported: whatever happens, the file stays.
    try:
        _name(part, file)
    except OSError as error:
        raise NotPossible(f"the task has moved into {part}, which could not be given its name: {error}") from error
    await write_owed(config, journal, task, partial(leave, config, workspaces))
    return Moving(task, record.name, file, moved=True, fresh=True)


def _refuse_to_move(record: TaskRecord, state: TaskState, workspaces: Workspaces) -> None:
    if record.request.attachments:
        raise NotPossible(f"task {record.id} has attachments, which do not move: let it end here, or submit it there")
    if state is TaskState.BLOCKED:
        raise NotPossible(f"task {record.id} waits for other tasks: let those end, or submit it on the other machine")
    if record.opened is None and record.continued is not None:
        raise NotPossible(f"task {record.id} goes on with the clone of another task, which it has not taken over yet")
    if record.request.schedule is not None:
        raise NotPossible(f"task {record.id} is a schedule: submit its file on the other machine, and cancel it here")
    if record.opened is not None and record.tree is not None and not workspaces.exists(record.id):
        raise NotPossible(f"task {record.id} cannot move: its private clone is gone from {workspaces.root}")


def _part(file: Path) -> Path:
    """Where the file is written before it has its name."""
    part = file.with_name(f".{file.name}.part")
    part.unlink(missing_ok=True)
    return part


def _name(part: Path, file: Path) -> None:
    part.rename(file)
    sync_folder(file.parent)


async def _state(record: TaskRecord, workspaces: Workspaces, stack: ExitStack) -> tuple[Manifest, dict[str, IO[bytes]]]:
    """The git objects that the task goes on with, each commit's beyond the base in a pack."""
    manifest = _manifest(record, ended=False)
    if record.opened is None or not workspaces.exists(record.id):
        return manifest, {}
    async with await workspaces.reopen(record.id) as workspace:
        tree = record.tree if record.tree != workspace.base_tree else None
        commits = [commit for commit in _results_of(record) if commit != workspace.base_commit]
        for commit in commits:
            await workspace.harvest(commit)
        if tree is not None:
            commits.append(await workspace.set_out(tree))
        packs: dict[str, IO[bytes]] = {}
        for commit in commits:
            pack = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
            packs[f"objects/{commit}.pack"] = pack
            await workspace.pack(commit, pack.fileno())
    return manifest.model_copy(update={"tree": tree, "commits": tuple(commits)}), packs


def _results_of(record: TaskRecord) -> list[str]:
    """What the task may still deliver as it is."""
    if record.asked is not None:
        return [record.asked.commit]
    last = record.verdicts.get(len(record.attempts))
    return [last.commit] if last is not None and last.verdict.passed else []


def _manifest(record: TaskRecord, *, ended: bool) -> Manifest:
    return Manifest(
        task=record.id,
        name=record.name,
        ended=ended,
        machine=socket.gethostname(),
        at=now(),
        nightcrew=version("nightcrew"),
        base_commit=record.opened.base_commit if record.opened else None,
        files={},
    )


def _lines(events: Sequence[Recorded]) -> bytes:
    return "".join(f"{recorded.model_dump_json()}\n" for recorded in events).encode()


# --- in


async def take_in(config: Config, file: Path, *, repo: str | None = None) -> Moving:
    """Import a task. `repo` is where its repository is on this machine; the same place as over there by default.

    A second time changes nothing. Raises `ParcelRefused` for a file that is none, `NotPossible` when the id belongs to
    another task here, or what the task needs is not here.
    """
    refuse_in_trouble(config)
    make_home(config)
    with contextlib.closing(open_parcel(file)) as parcel, Journal.open(config.journal) as journal:
        events = _events(parcel)
        record = fold(events)
        _check(parcel.manifest, record)
        if journal.moving.is_here(events):
            return Moving(record.id, journal.view(record.id).name, file, moved=False, fresh=False)
        moved = Moved(to="here", machine=socket.gethostname(), file=file.name, repo=repo or "")
        if record.ended is not None:
            name = journal.moving.here(events, moved, taken=lambda name: _has_results(config, name))
            _place_results(config, parcel, name)
        else:
            await _check_place(config, record, repo or record.request.repo)
            async with _taken_up(make_workspaces(config), parcel, record, repo or record.request.repo):
                name = journal.moving.here(events, moved, taken=lambda name: _has_results(config, name))
    return Moving(record.id, name, file, moved=record.ended is None, fresh=True)


def _events(parcel: Parcel) -> list[Recorded]:
    try:
        events = [Recorded.model_validate_json(line) for line in parcel.read(EVENTS).splitlines()]
        fold(events)
    except (ValueError, JournalCorrupt) as error:
        raise ParcelRefused(f"its events cannot be read ({error}); did a newer Nightcrew write it?") from error
    return events


def _check(manifest: Manifest, record: TaskRecord) -> None:
    """The manifest must say of the task what its events say."""
    base = record.opened.base_commit if record.opened else None
    said = (manifest.task, manifest.name, manifest.ended, manifest.base_commit)
    if said != (record.id, record.name, record.ended is not None, base) or manifest.tree not in (None, record.tree):
        raise ParcelRefused("its manifest says something else than its events")


async def _check_place(config: Config, record: TaskRecord, repo: str) -> None:
    crew = record.request.crew or config.crew
    if record.opened is not None and crew != record.opened.crew and record.opened.crew in config.crews:
        raise NotPossible(
            f"the task began with the crew {record.opened.crew!r}: make it the default here to go on with it"
        )
    try:
        base = record.opened.base_commit if record.opened else record.request.base
        await validate(config, record.request.model_copy(update={"repo": repo, "base": base}))
    except TaskFileError as error:
        raise NotPossible(f"the task cannot go on here: {error} (--repo says where its repository is)") from error


@asynccontextmanager
async def _taken_up(workspaces: Workspaces, parcel: Parcel, record: TaskRecord, repo: str) -> AsyncGenerator[None]:
    """Its private clone with the worktree that it goes on with; gone again when the block does not end well."""
    manifest = parcel.manifest
    if manifest.base_commit is None or (manifest.tree is None and not manifest.commits):
        yield
        return
    try:
        async with await workspaces.create(record.id, repo, manifest.base_commit) as workspace:
            await _objects(workspace, parcel)
        yield
    except BaseException:
        await workspaces.remove(record.id)
        raise


async def _objects(workspace: Workspace, parcel: Parcel) -> None:
    for commit in parcel.manifest.commits:
        with parcel.copied(f"objects/{commit}.pack") as pack:
            await workspace.take_up(pack.fileno(), commit)
    try:
        await workspace.restore(parcel.manifest.tree or workspace.base_tree)
    except WorkspaceError as error:
        raise HarvestRefused(f"its worktree is not among its objects: {error}") from error


def _has_results(config: Config, name: str) -> bool:
    paths = result_paths(config.outbox, name)
    return any(path.exists() for path in (paths.markdown, paths.json, paths.patch))


def _place_results(config: Config, parcel: Parcel, name: str) -> None:
    paths = result_paths(config.outbox, name)
    for key, path in zip(RESULTS, (paths.markdown, paths.json, paths.patch), strict=True):
        if f"results/{key}" in parcel.manifest.files:
            write_atomically(path, parcel.read(f"results/{key}"))
    sync_folder(config.outbox)
