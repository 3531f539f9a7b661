"""The watched folder: a task file that is dropped becomes a task, or a report that says why not.

Events are hints and the scan is truth: the kernel drops events under load, goes deaf when the folder is replaced, and
never says that a file is complete. So a sweep decides, and events only make it come sooner.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path, PurePath

import anyio
import anyio.abc
import anyio.lowlevel
import watchfiles

from nightcrew.config import Config
from nightcrew.errors import JournalError, NightcrewError, TaskFileError
from nightcrew.events import Recorded, TaskSubmitted
from nightcrew.intake import taskfile
from nightcrew.intake.dropfolder import Claimed, DropFolder, Dropped, shown
from nightcrew.journal import Journal, Submission
from nightcrew_tools.contract import Limits, TaskRequest, TaskView

_log = logging.getLogger("nightcrew.intake")

STILL_SECONDS = 0.15
"""A file that did not change for so long is complete, unless someone has it open for writing."""
DOUBTFUL_SECONDS = 2.0
"""What is no task yet (empty, or another suffix) may still become one by then."""
_SWEEP_SECONDS = 1.0
_SUFFIXES = (".md", ".markdown")
_AT_ONCE = 8
_BATCH = 500

Validate = Callable[[TaskRequest], Awaitable[None]]
"""Looks at the repository, the base and the crew.

Raises `NightcrewError` or `ValueError` with a sentence for the report of the rejected file; after a `JournalError` the
file is tried again.
"""


async def _anything_goes(_request: TaskRequest) -> None:
    pass


@dataclass
class _Seen:
    stamp: tuple[int, int, int]
    since: float


class Intake:
    """Takes task files from the inbox into the journal; `run` until cancelled.

    `on_accept` gets the view of each new task, `on_reject` file name and reason; neither may raise. `clock` counts
    seconds and never goes back.
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
    ) -> None:
        self._folder = DropFolder(config.inbox, config.rejected)
        self._limits: Limits = config.limits
        self._journal = journal
        self._validate = validate
        self._on_accept = on_accept
        self._on_reject = on_reject
        self._clock = clock
        self._seen: dict[str, _Seen] = {}
        self._in_hand: set[str] = set()
        self._said: set[str] = set()
        self._hint = anyio.Event()
        self._stop = anyio.Event()
        self._limiter = anyio.CapacityLimiter(_AT_ONCE)

    async def run(self, *, once: bool = False) -> None:
        """Watch the inbox until cancelled; with `once`, take what is in it now and return.

        Raises `JournalError` when the folders cannot be made at the start. Later troubles of the disk are logged and
        tried again.
        """
        self._folder.prepare()
        started = self._clock()
        async with anyio.create_task_group() as tasks:
            if not once:
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
            self._folder.prepare()
            ready, pause = self._look()
            self._folder.claim(ready)
            await self._admit(tasks)
        except (OSError, JournalError) as error:
            self._say(f"the inbox cannot be worked: {error}")
            return None
        return pause

    # --- what is ready

    def _look(self) -> tuple[list[str], float | None]:
        time_now = self._clock()
        found = self._folder.scan()
        files = [dropped for dropped in found if dropped.kind == "file"]
        for dropped in found:
            if dropped.kind != "file":
                self._say(f"{shown(dropped.name)} in the inbox is left alone: a {dropped.kind} is no task file")
        self._seen = {dropped.name: self._sight(dropped, time_now) for dropped in files}
        ready: list[str] = []
        pauses: list[float] = []
        for dropped in files:
            age = time_now - self._seen[dropped.name].since
            wait = _patience(dropped) - age
            if wait > 0:
                pauses.append(wait)
            elif self._folder.is_being_written(self._folder.inbox / dropped.name):
                pauses.append(STILL_SECONDS if age < DOUBTFUL_SECONDS else _SWEEP_SECONDS)
            else:
                ready.append(dropped.name)
        return ready, min(pauses, default=None)

    def _sight(self, dropped: Dropped, time_now: float) -> _Seen:
        seen = self._seen.get(dropped.name)
        return seen if seen and seen.stamp == dropped.stamp else _Seen(dropped.stamp, time_now)

    async def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                await self._watch_this_folder()
            except (OSError, RuntimeError) as error:  # no such folder, no inotify watches left
                self._say(f"the inbox is looked at every second only: {error}")
                with anyio.move_on_after(_SWEEP_SECONDS):
                    await self._stop.wait()

    async def _watch_this_folder(self) -> None:
        """Pass hints on until the folder is another one than it was."""
        inbox = self._folder.inbox
        armed = _identity(inbox)
        hints = watchfiles.awatch(  # pyright: ignore[reportUnknownMemberType] - trio's types are not installed
            inbox,
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
                if _identity(inbox) != armed:
                    return

    # --- into the journal

    async def _admit(self, tasks: anyio.abc.TaskGroup) -> None:
        """Begin with every claimed file that is not in hand, those of an earlier run included."""
        alike: dict[TaskRequest, list[tuple[Claimed, TaskRequest]]] = {}
        for claimed in self._folder.claimed():
            if claimed.path.name in self._in_hand:
                continue
            await anyio.lowlevel.checkpoint()  # a thousand files must not hold up everybody else
            try:
                request = self._parse(claimed)
            except TaskFileError as error:
                self._reject(claimed, error.reason, error.line)
            else:
                if request is not None:
                    alike.setdefault(_to_validate(request), []).append((claimed, request))
        for group in alike.values():
            self._in_hand.update(claimed.path.name for claimed, _ in group)
            tasks.start_soon(self._admit_group, group)

    def _parse(self, claimed: Claimed) -> TaskRequest | None:
        """The request in the file; None when it is to be read later. Raises `TaskFileError`."""
        if not _has_suffix(claimed.name):
            raise TaskFileError("task files are Markdown and end in `.md`: rename the file")
        try:
            data = self._folder.read(claimed, taskfile.MAX_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TaskFileError(f"the file cannot be read ({error.strerror}); check its owner and mode") from error
        if data is None:
            return None
        return taskfile.parse(data, name=PurePath(claimed.shown).stem, default_limits=self._limits)

    async def _admit_group(self, group: list[tuple[Claimed, TaskRequest]]) -> None:
        """Validate once what is the same for all of them, then submit them together."""
        try:
            if reason := await self._objection(group[0][1]):
                for claimed, _ in group:
                    self._reject(claimed, reason, None)
                    await anyio.lowlevel.checkpoint()
                return
            for start in range(0, len(group), _BATCH):
                self._submit(group[start : start + _BATCH])
                await anyio.lowlevel.checkpoint()
        except (JournalError, OSError) as error:
            self._say(f"dropped tasks wait: {error}")  # still claimed: the next sweep finds them
        finally:
            self._in_hand.difference_update(claimed.path.name for claimed, _ in group)
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

    def _submit(self, group: list[tuple[Claimed, TaskRequest]]) -> None:
        submissions = [
            Submission(request, f"inbox:{claimed.shown}", PurePath(claimed.shown).stem, claimed.task)
            for claimed, request in group
        ]
        for (claimed, request), recorded in zip(group, self._journal.submit_many(submissions), strict=True):
            if request.id is None and not _is_from(recorded, f"inbox:{claimed.shown}", request):
                self._folder.rename_claimed(claimed)  # another process gave out the same id in the same second
                continue
            self._folder.accept(claimed)
            view = self._journal.view(recorded.task)
            _log.info("%s is task %s", claimed.shown, view.id)
            if self._on_accept:
                self._on_accept(view)

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

    def _say(self, message: str) -> None:
        """Log a trouble that every sweep meets again, once."""
        if message not in self._said:
            self._said.add(message)
            _log.warning("%s", message)


def _patience(dropped: Dropped) -> float:
    return STILL_SECONDS if dropped.size and _has_suffix(dropped.name) else DOUBTFUL_SECONDS


def _has_suffix(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _to_validate(request: TaskRequest) -> TaskRequest:
    """The request without what no validation depends on: files that agree in this are validated once."""
    return request.model_copy(update={"title": "", "text": "", "id": None, "priority": 0})


def _is_from(recorded: Recorded, origin: str, request: TaskRequest) -> bool:
    """Was this task made of this file? Its text tells; defaults may have changed since an earlier run submitted it."""
    event = recorded.event
    return isinstance(event, TaskSubmitted) and event.origin == origin and event.request.text == request.text
