"""The service: takes tasks from the inbox and the queue, and has a worker run as many side by side as it may.

`run_one` is `nightcrew run`: the same for one task, without a service.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, suppress
from pathlib import Path

import anyio
from anyio.abc import TaskGroup

from nightcrew.config import Config, load_config
from nightcrew.errors import JournalCorrupt, JournalUnavailable, NightcrewError, TaskFileError
from nightcrew.events import Paused, Recorded, TaskSubmitted
from nightcrew.gateway import used_up
from nightcrew.intake.inbox import Intake
from nightcrew.journal import Journal, Submission
from nightcrew.journal.fold import TaskRecord
from nightcrew.journal.health import Health, refuse_in_trouble, storage_error
from nightcrew.journal.ids import now
from nightcrew.journal.locks import RunLocks, ServiceLock, private_directory
from nightcrew.service.attendant import Attendant, OpenWorker, Say, Worker
from nightcrew.service.capacity import Capacity
from nightcrew.service.door import validate
from nightcrew.service.herald import Herald
from nightcrew.service.keeping import Keeping
from nightcrew.service.notify import Notifier
from nightcrew.service.reload import Changes, merged
from nightcrew_tools.contract import Outcome, TaskRequest, TaskState
from nightcrew_workspaces.errors import WorkspaceError

POLL_SECONDS = 0.25
"""How often the service asks whether another process wrote into the journal."""
RESCUE_SECONDS = 5.0
"""How often it looks for tasks whose process died."""
CANCEL_GRACE_SECONDS = 1.0
"""A runner ends a cancelled task by itself; one that has not by then is cut off."""
LOOK_SECONDS = 1.0
"""How often it looks whether the clock alone allows something: a schedule, another day."""
FIRST_RETRY_SECONDS = 5.0
LAST_RETRY_SECONDS = 60.0

OnEvent = Callable[[Recorded], None]
OpenDoor = Callable[[Config, Say], AbstractAsyncContextManager[None]]
"""Lets outside clients in while the service runs; see `outside.open_door`."""


@asynccontextmanager
async def no_door(config: Config, say: Say) -> AsyncGenerator[None]:
    """For a service without MCP clients."""
    del config, say
    yield


class Service:
    """`nightcrew up`. One for each home; `run` lasts until `stop`."""

    def __init__(
        self,
        config: Config,
        *,
        open_worker: OpenWorker,
        say: Say,
        open_door: OpenDoor = no_door,
        on_event: OnEvent | None = None,
        on_reject: Callable[[str, str], None] | None = None,
        herald: Herald | None = None,
    ) -> None:
        """`on_event` is shown what this service writes into the journal, `on_reject` the name of each task file that is
        refused and why; neither may raise. `herald` tells the service manager, where there is one."""
        self._config = config
        self.herald = herald or Herald(Notifier({}))
        self._open_worker = open_worker
        self._open_door = open_door
        self._say = say
        self._on_event = on_event
        self._on_reject = on_reject
        self._name = worker_name()
        self._scope: anyio.CancelScope | None = None
        self._wake = anyio.Event()
        self._running: dict[str, anyio.CancelScope] = {}
        self._requests: dict[str, TaskRequest] = {}
        self._held: dict[str, Paused] = {}
        """By running task that is being let go: what is journalled of it then."""
        self._reporting: set[str] = set()
        """Tasks whose reports, which were owed, are written or were tried to be: the next start tries again."""
        self._later: dict[str, tuple[float, float]] = {}
        """By task that waits for an endpoint: when to try again (monotonic), and how long it waited last."""
        self.health = Health(config, say)
        self._capacity = Capacity(config)
        self._worker: Worker | None = None
        self.started = anyio.Event()
        self.stopping = False

    def stop(self) -> None:
        """Take no more tasks and let go of the running ones, which the next start continues."""
        self.stopping = True
        if self._scope is not None:
            self._scope.cancel()

    @property
    def config(self) -> Config:
        """What the service works by now."""
        return self._config

    def reload(self, config: Config) -> Changes:
        """Work by another configuration from now on, as far as that needs no restart. Running tasks keep theirs."""
        self._config, changes = merged(self._config, config)
        self._capacity = Capacity(self._config)
        if self._worker is not None:
            self._worker.renew(self._config)
        self._wake.set()
        return changes

    async def run(self) -> None:
        """Serve until `stop`.

        Raises `JournalBusy` when another service has this home, `JournalError` when the journal cannot be used. The
        caller has tested the box before.
        """
        config = self._config
        make_home(config)
        for url in self._capacity.idle_endpoints():
            self._say(f"[endpoints] has a limit for {url}, which no crew talks to")
        with ExitStack() as stack:
            lock = stack.enter_context(ServiceLock(config.home))
            journal = stack.enter_context(Journal.open(config.journal))
            stack.callback(journal.subscribe(self._observe))
            locks = RunLocks(run_locks(config))
            for task in journal.requeue_dead(locks.is_alive):
                self._say(f"task {task} was cut off and goes on")
            async with self._open_worker(config, journal, self._say) as worker, self._open_door(config, self._say):
                attendant = Attendant(config, journal, worker, self._name)
                self._worker = worker
                with anyio.CancelScope() as self._scope:
                    async with anyio.create_task_group() as group:
                        group.start_soon(self._intake(journal).run)
                        group.start_soon(self._look_after, journal, locks)
                        group.start_soon(keep_moving, lock, locks)
                        keeping = Keeping(
                            config, journal, self.health, say=self._say, is_idle=lambda: not self._running
                        )
                        group.start_soon(keeping.run)
                        self.started.set()
                        self.herald.ready()
                        await self._dispatch(journal, locks, attendant, group)

    def _intake(self, journal: Journal) -> Intake:
        async def check(request: TaskRequest) -> None:
            if not self.health.good():
                raise JournalUnavailable(self.health.trouble)  # dropped files are kept until the trouble is over
            try:
                await validate(self._config, request)
            except OSError as error:
                if storage_error(error):  # no fault of the file
                    raise JournalUnavailable(str(error)) from error
                raise
            if why := journal.refuses(request, name_hint=request.id or ""):
                raise TaskFileError(f"`after`: {why}")

        return Intake(self._config, journal, validate=check, on_reject=self._on_reject, current=lambda: self._config)

    def _observe(self, recorded: Recorded) -> None:
        self.herald.observe(recorded)
        if isinstance(recorded.event, TaskSubmitted):
            self._wake.set()
        if self._on_event is not None:
            self._on_event(recorded)

    async def _dispatch(self, journal: Journal, locks: RunLocks, attendant: Attendant, group: TaskGroup) -> None:
        """Start what may start, whenever something happened that could allow it, and write what reports are owed."""
        while True:
            self._wake = anyio.Event()
            self.herald.beat("dispatch", journal, self.health.trouble)
            good = self.health.good()
            try:
                if good:
                    self._begin(journal, locks, attendant, group)
            except JournalUnavailable as error:
                self.health.report(error)
                good = False
            version, look_at = self._version(journal), time.monotonic() + LOOK_SECONDS
            while not self._wake.is_set() and self._version(journal) == version and not self._any_due():
                self.herald.beat("dispatch", journal, self.health.trouble)
                if time.monotonic() >= look_at:
                    break
                with anyio.move_on_after(POLL_SECONDS):
                    await self._wake.wait()
                if self.health.good() and not good:
                    break

    def _version(self, journal: Journal) -> int | None:
        """See `Journal.data_version`; None while the disk does not let it be read."""
        try:
            return journal.data_version()
        except JournalUnavailable as error:
            self.health.report(error)
            return None

    def _begin(self, journal: Journal, locks: RunLocks, attendant: Attendant, group: TaskGroup) -> None:
        """Start what may start now, and write the reports that are owed."""
        journal.tend()
        for record in self._claims(journal, locks):
            self._running[record.id] = anyio.CancelScope()
            self._requests[record.id] = record.request
            group.start_soon(self._attend, record, journal, locks, attendant)
        for task in set(journal.owed()) - self._reporting:
            self._reporting.add(task)
            group.start_soon(attendant.report, task)

    def _claims(self, journal: Journal, locks: RunLocks) -> Iterator[TaskRecord]:
        """What may be started now. A task that a person has decided about waits for nobody's work to end."""
        for task in journal.decided():
            try:
                record = journal.claim_task(task, self._name, locks=locks)
            except JournalCorrupt as error:
                journal.pass_over(task, str(error))
                continue
            if record is not None:
                yield record
        while len(self._running) < self._config.concurrency:
            requests = [self._requests[task] for task in self._running]
            record = journal.claim(
                self._name,
                exclude=self._not_yet(),
                full=self._capacity.full(request.crew for request in requests),
                beside={(request.crew or "", request.repo) for request in requests},
                begun=bool(used_up(self._config.daily, journal.spent(now()))),
                locks=locks,
            )
            if record is None:
                return
            yield record

    async def _attend(self, record: TaskRecord, journal: Journal, locks: RunLocks, attendant: Attendant) -> None:
        task = record.id
        scope = self._running[task]
        try:
            with scope:
                await attendant.attend(record, may_wait=True)
            if scope.cancelled_caught:
                await self._let_go(task, journal, attendant)
            if task in self._held or journal.view(task).state in (TaskState.ENDED, TaskState.WAITING):
                self._later.pop(task, None)
            else:
                self._postpone(task)  # it waits for an endpoint, or another worker has it
        except JournalUnavailable as error:
            self.health.report(error)  # `_look_after` queues the task again, as soon as that can be written
        except anyio.get_cancelled_exc_class():
            with suppress(JournalUnavailable):  # the next start finds out that this process is dead
                journal.release(task, self._name)  # the service stops, and the next one goes on with it
            raise
        finally:
            locks.release(task)
            self._held.pop(task, None)
            del self._running[task], self._requests[task]
            self._wake.set()

    async def _let_go(self, task: str, journal: Journal, attendant: Attendant) -> None:
        """What becomes of a task that was cut off: it is paused, or it has been cancelled."""
        if task not in self._held or journal.cancel_requested(task):
            self._held.pop(task, None)
            await attendant.end(task, Outcome.CANCELLED, "a person cancelled the task")
        else:
            attendant.hold(task, self._held[task])

    async def _look_after(self, journal: Journal, locks: RunLocks) -> None:
        """Let go of what a person cancelled or paused, and queue what a dead process left (`nightcrew run`, killed)."""
        cancelled: dict[str, float] = {}
        rescue_at = time.monotonic() + RESCUE_SECONDS
        while True:
            await anyio.sleep(POLL_SECONDS)
            self.herald.beat("look after", journal, self.health.trouble)
            moment = time.monotonic()
            try:
                self._heed(journal, cancelled)
                if moment >= rescue_at and self.health.good():
                    rescue_at = moment + RESCUE_SECONDS
                    self._rescue(journal, locks)
            except JournalUnavailable as error:
                self.health.report(error)

    def _heed(self, journal: Journal, cancelled: dict[str, float]) -> None:
        """Let go of what a person paused, and in the end of what was cancelled: `cancelled` is since when that is."""
        moment, everything = time.monotonic(), journal.paused()
        for task in cancelled.keys() - self._running.keys():
            del cancelled[task]
        for task, scope in tuple(self._running.items()):
            if journal.cancel_requested(task):
                if moment - cancelled.setdefault(task, moment) > CANCEL_GRACE_SECONDS:
                    scope.cancel()
            elif (by := journal.pause_requested(task)) is not None:
                self._held[task] = Paused(by=by)
                scope.cancel()
            elif everything is not None:
                self._held[task] = Paused(by=everything, queue=True)
                scope.cancel()

    def _rescue(self, journal: Journal, locks: RunLocks) -> None:
        others = [view.id for view in journal.tasks([TaskState.RUNNING]) if view.id not in self._running]
        # First without a transaction: one that was stopped in the middle of its own keeps all others out until it dies.
        if [task for task in others if not locks.is_alive(task)]:
            for task in journal.requeue_dead(locks.is_alive):
                self._say(f"task {task} was cut off and goes on")
                self._wake.set()

    # --- tasks that wait for an endpoint

    def _postpone(self, task: str) -> None:
        _, delay = self._later.get(task, (0.0, FIRST_RETRY_SECONDS / 2))
        delay = min(LAST_RETRY_SECONDS, delay * 2)
        self._later[task] = (time.monotonic() + delay, delay)

    def _not_yet(self) -> set[str]:
        moment = time.monotonic()
        return {task for task, (due, _) in self._later.items() if due > moment}

    def _any_due(self) -> bool:
        """Is there a task whose wait is over, and a worker free for it?"""
        free = len(self._running) < self._config.concurrency
        return free and any(task not in self._running for task in self._later.keys() - self._not_yet())


async def keep_moving(*locks: RunLocks | ServiceLock) -> None:
    """Show through its locks that this process moves, until cancelled."""
    while True:
        for lock in locks:
            lock.beat()
        await anyio.sleep(POLL_SECONDS)


async def serve(service: Service, say: Say, *, load: Callable[[], Config] = load_config) -> None:
    """Run the service until SIGTERM or SIGINT; a second signal ends the process at once. SIGHUP reads the configuration
    again with `load`; one that is wrong is said, and the old one stays."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with anyio.create_task_group() as group:

            async def heed() -> None:
                async for number in signals:
                    if number == signal.SIGHUP:
                        if service.started.is_set() and not service.stopping:
                            _reload(service, say, load)
                        continue
                    if service.stopping:
                        os._exit(128 + number)
                    say("stopping: running tasks go on at the next start (once more to stop at once)")
                    group.start_soon(service.herald.stop)
                    service.stop()

            group.start_soon(heed)
            await service.run()
            group.cancel_scope.cancel()


def _reload(service: Service, say: Say, load: Callable[[], Config]) -> None:
    service.herald.reloading()
    try:
        changes = service.reload(load())
    except (NightcrewError, WorkspaceError) as error:
        say(f"the configuration cannot be used, and the old one stays: {error}")
        service.herald.reloaded("the configuration was changed and is wrong: the old one stays, see the log")
    else:
        say(f"the configuration was read again; {changes}")
        waits = f"needs a restart: {', '.join(changes.restart)}" if changes.restart else ""
        service.herald.reloaded(waits)


async def run_one(
    config: Config,
    request: TaskRequest,
    *,
    open_worker: OpenWorker,
    say: Say,
    name_hint: str | None = None,
    task_id: str | None = None,
    on_event: OnEvent | None = None,
) -> TaskRecord:
    """Run one task in this process, whether a service works on this home or not, until it ends or waits for approval.

    SIGINT and SIGTERM cancel the task; a second one ends the process at once. A task whose `id` was there already is
    returned as it is when it has ended. Raises `NightcrewError` when another process runs it now.
    """
    make_home(config)
    refuse_in_trouble(config)
    locks, name = RunLocks(run_locks(config)), worker_name()
    with Journal.open(config.journal) as journal:
        if on_event is not None:
            journal.subscribe(on_event)
        async with open_worker(config, journal, say) as worker:
            submission = Submission(request, "run", name_hint or request.title, task_id)
            task, record = journal.submit_claimed(submission, name, locks=locks)
            if record is None:
                return _there_already(journal, task)
            try:
                await _until_cancelled(journal, Attendant(config, journal, worker, name), record, say, locks)
            finally:
                locks.release(task)
        return journal.record(task)


def _there_already(journal: Journal, task: str) -> TaskRecord:
    record = journal.record(task)
    if record.ended is None and not record.waits_for_approval:
        raise NightcrewError(
            f"another process works on task {task}, or died over it: `nightcrew show {task}` tells how far it is, "
            "and `nightcrew up` goes on with it"
        )
    return record


async def _until_cancelled(
    journal: Journal, attendant: Attendant, record: TaskRecord, say: Say, locks: RunLocks
) -> None:
    task = record.id
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with anyio.create_task_group() as group:

            async def heed() -> None:
                async for number in signals:
                    if journal.cancel_requested(task):
                        os._exit(128 + number)
                    say("cancelling (once more to stop at once)")
                    journal.request_cancel(task)

            async def insist() -> None:
                while not journal.cancel_requested(task):
                    if journal.pause_requested(task) is not None:
                        scope.cancel()
                    await anyio.sleep(POLL_SECONDS)
                await anyio.sleep(CANCEL_GRACE_SECONDS)
                scope.cancel()

            with anyio.CancelScope() as scope:
                group.start_soon(heed)
                group.start_soon(insist)
                group.start_soon(keep_moving, locks)
                await attendant.attend(record, may_wait=False)
            by = journal.pause_requested(task)
            if scope.cancelled_caught and by is not None and not journal.cancel_requested(task):
                attendant.hold(task, Paused(by=by))
            elif scope.cancelled_caught:
                await attendant.end(task, Outcome.CANCELLED, "a person cancelled the task")
            group.cancel_scope.cancel()


def make_home(config: Config) -> None:
    """Make the home and its folders. Raises `JournalError` when that is not possible."""
    for folder in (config.home, config.inbox, config.outbox, config.rejected):
        private_directory(folder)


def run_locks(config: Config) -> Path:
    """Where processes show that they live, for each task one."""
    return config.home / "run"


def worker_name() -> str:
    """This process, as the journal names it."""
    return f"{socket.gethostname()}/{os.getpid()}"
