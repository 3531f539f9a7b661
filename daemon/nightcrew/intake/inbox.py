"""The watched folder: a task file that is dropped becomes a task, or a report that says why not.

Events are hints and the scan is truth: the kernel drops events under load, goes deaf when the folder is replaced, and
never says that a file is complete. So a sweep decides, and events only make it come sooner.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import watchfiles

from nightcrew.attachments import AttachmentStore
from nightcrew.config import Config, environment
from nightcrew.crew import known
from nightcrew.errors import JournalError, NightcrewError, TaskFileError
from nightcrew.events import Recorded, TaskSubmitted
from nightcrew.intake.admission import Admission, Candidate, has_suffix
from nightcrew.intake.dropfolder import Claimed, DropFolder, shown
from nightcrew.intake.places import Dropped, Known, Place
from nightcrew.intake.shared import open_to_group, trusts_events
from nightcrew.journal import Journal, Submission
from nightcrew_tools.contract import TaskNotFound, TaskRequest, TaskView

_log = logging.getLogger("nightcrew.intake")

STILL_SECONDS = 0.15
"""A file that did not change for so long is complete, unless someone has it open for writing."""
DOUBTFUL_SECONDS = 2.0
"""What is no task yet (empty, or another suffix) may still become one by then; and what the kernel tells us less about
(a folder that is being copied, another account's file) must have been still for so long."""
REMOTE_SECONDS = 4.0
"""As long must a file be still that comes over a network: what is known of its size is up to 3 s old (NFS)."""
UNNAMED_SECONDS = 10.0
"""So long may a folder go without its `task.md`, which is copied last."""
TIDY_SECONDS = 3600.0
_SWEEP_SECONDS = 1.0
_AT_ONCE = 8
_BATCH = 250
"""So many files are read before the first of them goes on: a service that is killed all the time must get on, too."""
_HELD_CHARACTERS = 32 * 1024 * 1024
"""Of texts that wait to be submitted; the files behind them are read later."""

Validate = Callable[[TaskRequest], Awaitable[None]]
"""Looks at the repository, the base and the crew.

Raises `NightcrewError` or `ValueError` with a sentence for the report of the rejected file; after a `JournalError` the
file is tried again.
"""


async def _anything_goes(_request: TaskRequest) -> None:
    pass


@dataclass
class _Seen:
    stamp: tuple[object, ...]
    since: float


class Intake:
    """Takes task files from the inbox into the journal; `run` until cancelled.

    `on_accept` gets the view of each new task, `on_reject` file name and reason; neither may raise. `clock` counts
    seconds and never goes back. `current` is what names the crews and repositories, where that changes meanwhile.
    """

    def __init__(
        self,
        config: Config,
        journal: Journal,
        *,
        validate: Validate = _anything_goes,
        on_accept: Callable[[TaskView], None] | None = None,
        on_reject: Callable[[str, str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        current: Callable[[], Config] | None = None,
    ) -> None:
        self._config = config
        self._current = current or (lambda: config)
        self._folder = DropFolder(config.inbox, config.rejected, known_names(config))
        self._store = AttachmentStore(config.attachments)
        self._admission = Admission(self._folder, config.limits, self._store)
        self._journal = journal
        self._validate = validate
        self._on_accept = on_accept
        self._on_reject = on_reject
        self._clock = clock
        self._events = True
        self._tidy_at = clock()
        self._seen: dict[tuple[Place, str], _Seen] = {}
        self._places: list[Place] = [Place()]
        self._in_hand: dict[str, int] = {}
        """Name to size of what is being admitted."""
        self._said: set[str] = set()
        self._hint = anyio.Event()
        self._stop = anyio.Event()
        self._limiter = anyio.CapacityLimiter(_AT_ONCE)

    async def run(self, *, once: bool = False) -> None:
        """Watch the inbox until cancelled; with `once`, take what is in it now and return.

        Raises `JournalError` when the folders cannot be made at the start, or not opened to the group. Later troubles
        of the disk are logged and tried again.
        """
        self._prepare()
        started = self._clock()
        self._events, why = trusts_events(self._folder.inbox, self._config.inbox_settings.watch)
        if why:
            self._say(why)
        async with anyio.create_task_group() as tasks:
            if self._events and not once:
                tasks.start_soon(self._watch)
            try:
                while True:
                    self._hint = anyio.Event()
                    pause = await self.sweep(tasks)
                    settled = pause is None or self._clock() - started > DOUBTFUL_SECONDS + _SWEEP_SECONDS
                    if once and settled and not self._in_hand:
                        return
                    with anyio.move_on_after(min(pause or _SWEEP_SECONDS, _SWEEP_SECONDS)):
                        await self._hint.wait()
            finally:
                self._stop.set()  # the watcher's thread would look up only when its time-out ends

    async def sweep(self, tasks: anyio.abc.TaskGroup) -> float | None:
        """Look once: claim what is ready, begin to admit it in `tasks`.

        Returns the seconds after which another look is worth while, None when nothing in the inbox is on its way.
        """
        try:
            self._prepare()
            ready, pause = self._look()
            for dropped, error in self._folder.claim(ready)[1]:
                self._complain(dropped, error)
            await self._admit(tasks)
            await self._tidy()
        except (OSError, JournalError) as error:
            self._say(f"the inbox cannot be worked: {error}")
            return None
        return pause

    def _prepare(self) -> None:
        self._folder.prepare()
        self._folder.known = known_names(self._current())  # a crew is a file, and a new one needs no restart
        if group := self._config.inbox_settings.group:
            for remark in open_to_group(group, self._config):
                self._say(remark)

    async def _tidy(self) -> None:
        """Now and then: attachments of tasks that the journal does not keep any longer go."""
        if self._clock() >= self._tidy_at:
            self._tidy_at = self._clock() + TIDY_SECONDS
            self._store.sweep(self._is_known)

    def _is_known(self, task: str) -> bool:
        try:
            self._journal.view(task)
        except TaskNotFound:
            return False
        return True

    # --- what is ready

    def _look(self) -> tuple[list[Dropped], float | None]:
        time_now = self._clock()
        scan = self._folder.scan()
        self._places = scan.places
        for place, error in scan.troubles.items():
            self._say(f"{shown(str(place))} in the inbox cannot be looked into: {error.strerror}; chmod g+rwx it")
        self._seen = {dropped.key: self._sight(dropped, time_now) for dropped in scan.dropped}
        ready: list[Dropped] = []
        pauses: list[float] = []
        for dropped in scan.dropped:
            age = time_now - self._seen[dropped.key].since
            patience = self._patience(dropped)
            if patience is None:
                continue
            if patience > age:
                pauses.append(patience - age)
            elif self._folder.is_being_written(dropped):
                pauses.append(STILL_SECONDS if age < DOUBTFUL_SECONDS else _SWEEP_SECONDS)
            else:
                ready.append(dropped)
        return ready, min(pauses, default=None)

    def _sight(self, dropped: Dropped, time_now: float) -> _Seen:
        seen = self._seen.get(dropped.key)
        return seen if seen and seen.stamp == dropped.stamp else _Seen(dropped.stamp, time_now)

    def _patience(self, dropped: Dropped) -> float | None:
        """For how many seconds it must have been as it is; None: for ever."""
        if dropped.kind == "folder":
            look = dropped.look
            if look is not None and (look.unfinished or not look.stamp):
                if look.unfinished:
                    self._say(f"{shown(dropped.name)} waits: {shown(look.unfinished)} in it has a temporary name")
                return None
            whole = look is None or look.has_task or look.fault
            least = DOUBTFUL_SECONDS if whole else UNNAMED_SECONDS
        elif dropped.kind == "file" and dropped.size and has_suffix(dropped.name) and not dropped.foreign:
            least = STILL_SECONDS
        else:
            least = DOUBTFUL_SECONDS
        return least if self._events else max(least, REMOTE_SECONDS)

    async def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                await self._watch_these_folders()
            except (OSError, RuntimeError) as error:  # no such folder, no inotify watches left
                self._say(f"the inbox is looked at every second only: {error}")
                with anyio.move_on_after(_SWEEP_SECONDS):
                    await self._stop.wait()

    async def _watch_these_folders(self) -> None:
        """Pass hints on until the folders are others than they were."""
        armed = self._identities()
        hints = watchfiles.awatch(  # pyright: ignore[reportUnknownMemberType] - trio's types are not installed
            *armed,
            watch_filter=None,
            recursive=False,
            step=20,
            debounce=100,
            rust_timeout=1000,
            yield_on_timeout=True,
            stop_event=self._stop,
        )
        async with contextlib.aclosing(hints):
            async for changes in hints:
                if changes:
                    self._hint.set()
                if self._identities() != armed:
                    return

    def _identities(self) -> dict[Path, tuple[int, int] | None]:
        paths = [self._folder.inbox.joinpath(*place.path) for place in self._places]
        return {path: _identity(path) for path in paths}

    # --- into the journal

    async def _admit(self, tasks: anyio.abc.TaskGroup) -> None:
        """Begin with every claimed file that is not in hand, those of an earlier run included."""
        batch: list[Candidate] = []
        for claimed in self._folder.claimed():
            if claimed.path.name in self._in_hand:
                continue
            if sum(self._in_hand.values()) > _HELD_CHARACTERS:
                break
            await anyio.lowlevel.checkpoint()  # a thousand files must not hold up everybody else
            try:
                candidate = self._admission.read(claimed)
            except TaskFileError as error:
                self._reject(claimed, error.reason, error.line)
            else:
                if candidate is not None:
                    self._in_hand[claimed.path.name] = len(candidate.request.text)
                    batch.append(candidate)
            if len(batch) == _BATCH:
                self._begin(batch, tasks)
                batch = []
        self._begin(batch, tasks)

    def _begin(self, batch: list[Candidate], tasks: anyio.abc.TaskGroup) -> None:
        alike: dict[TaskRequest, list[Candidate]] = {}
        for candidate in batch:
            alike.setdefault(_to_validate(candidate.request), []).append(candidate)
        for group in alike.values():
            tasks.start_soon(self._admit_group, group)

    async def _admit_group(self, group: list[Candidate]) -> None:
        """Validate once what is the same for all of them, then submit them together."""
        try:
            if reason := await self._objection(group[0].request):
                for candidate in group:
                    self._reject(candidate.claimed, reason, None)
                    await anyio.lowlevel.checkpoint()
                return
            if alone := [candidate for candidate in group if candidate.look is None]:
                self._submit(alone)
            for candidate in group:
                if candidate.look is not None and (whole := await self._with_attachments(candidate)) is not None:
                    self._submit([whole])
        except (JournalError, OSError) as error:
            self._say(f"dropped tasks wait: {error}")  # still claimed: the next sweep finds them
        finally:
            for candidate in group:
                self._in_hand.pop(candidate.claimed.path.name, None)
            self._hint.set()

    async def _objection(self, request: TaskRequest) -> str | None:
        """Why the task cannot be taken, None when it can."""
        try:
            async with self._limiter:
                await self._validate(request)
        except JournalError:
            raise
        except (NightcrewError, ValueError, OSError) as error:
            return str(error) or type(error).__name__
        return None

    async def _with_attachments(self, candidate: Candidate) -> Candidate | None:
        """The same with its attachments in place; None when it is rejected, or to be read later."""
        try:
            return await anyio.to_thread.run_sync(self._admission.copy, candidate)
        except TaskFileError as error:
            self._reject(candidate.claimed, error.reason, error.line)
            return None

    def _submit(self, group: list[Candidate]) -> None:
        submissions = [Submission(one.request, one.claimed.origin, one.claimed.stem, one.claimed.task) for one in group]
        for candidate, recorded in zip(group, self._journal.submit_many(submissions), strict=True):
            claimed, request = candidate.claimed, candidate.request
            if request.id is None and not _is_from(recorded, claimed.origin, request):
                self._folder.rename_claimed(claimed)  # another process gave out the same id in the same second
                continue
            if request.id is not None and (objection := self._settle_id(claimed, request, recorded)):
                self._reject(claimed, objection, None)
                continue
            self._folder.accept(claimed)
            view = self._journal.view(recorded.task)
            _log.info("%s is task %s", claimed.shown, view.id)
            for remark in candidate.remarks:
                _log.warning("%s: %s", claimed.shown, remark)
            if self._on_accept:
                self._on_accept(view)

    def _settle_id(self, claimed: Claimed, request: TaskRequest, recorded: Recorded) -> str:
        """What an `id` that was there already means for a file: nothing, a new text for its task, or an objection."""
        event = recorded.event
        if isinstance(event, TaskSubmitted) and (event.origin, event.request) == (claimed.origin, request):
            return ""
        try:
            there = self._journal.record(recorded.task)
        except TaskNotFound:  # only its id is remembered
            return f"`id`: a task {recorded.task!r} ended long ago and is not kept; give this one another id"
        if there.request == request:
            return ""
        if there.origin == claimed.origin and self._journal.revise(recorded.task, request):
            _log.warning("%s takes the place of the file that task %s was made of", claimed.shown, recorded.task)
            return ""
        if there.request.text == request.text:
            return ""
        state = "has begun" if there.claims else f"came from {there.origin}"
        return (
            f"`id`: there is a task {recorded.task!r} with another text, and it {state}; give this one another id, or "
            f"cancel that one (`nightcrew cancel {recorded.task}`) and give this one another id"
        )

    def _reject(self, claimed: Claimed, reason: str, line: int | None) -> None:
        try:
            name = self._folder.reject(claimed, reason, line)
        except (OSError, JournalError) as error:
            self._say(f"{claimed.shown} cannot be moved to the rejected files: {error}")
            return
        where = f"line {line}: " if line else ""
        _log.warning("%s was rejected: %s%s", shown(name), where, reason)
        if self._on_reject:
            self._on_reject(shown(name), f"{where}{reason}")

    def _complain(self, dropped: Dropped, error: OSError) -> None:
        """Say what keeps us from taking something out of the inbox, once, in a report too."""
        name = f"{shown(str(dropped.place))}{shown(dropped.name)}"
        mine = dropped.kind == "folder" and isinstance(error, PermissionError)
        remedy = f"chmod -R g+rwX {shown(dropped.name)}" if mine else "chmod g+rwx the folder that it lies in"
        sticky = "; a sticky inbox (chmod -t) must belong to the service's account" if not mine else ""
        message = f"{name} cannot be taken out of the inbox: {error.strerror}; {remedy}{sticky}"
        if message not in self._said:
            self._folder.complain(dropped, message)
            self._say(message)
            if self._on_reject:
                self._on_reject(shown(dropped.name), message)

    def _say(self, message: str) -> None:
        """Log a trouble that every sweep meets again, once."""
        if message not in self._said:
            self._said.add(message)
            _log.warning("%s", message)


def known_names(config: Config) -> Known:
    """What a folder in the inbox may be called; a name that both have is the crew's."""
    repos = {name: os.path.expanduser(repo) for name, repo in config.inbox_settings.repos.items()}  # noqa: PTH111 - URLs
    return Known(frozenset(known(config, environment())), repos)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _to_validate(request: TaskRequest) -> TaskRequest:
    """The request without what no validation depends on: files that agree in this are validated once."""
    kept = request.id if request.after else None  # a circle of tasks that wait for each other goes by ids
    return request.model_copy(update={"title": "", "text": "", "id": kept, "priority": 0, "images": ()})


def _is_from(recorded: Recorded, origin: str, request: TaskRequest) -> bool:
    """Was this task made of this file? Its text tells; defaults may have changed since an earlier run submitted it."""
    event = recorded.event
    return isinstance(event, TaskSubmitted) and event.origin == origin and event.request.text == request.text
