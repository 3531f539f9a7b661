"""The one door to the queue: `TaskGateway` over the journal and the outbox."""

from __future__ import annotations

from pathlib import Path

import anyio.to_thread

from nightcrew.attachments import AttachmentStore, owner_of
from nightcrew.config import Config, DailySettings
from nightcrew.errors import TaskFileError
from nightcrew.events import Decided
from nightcrew.journal import Journal
from nightcrew.journal.health import refuse_in_trouble
from nightcrew.journal.ids import new_task_id, now
from nightcrew.journal.queue import Spent
from nightcrew_tools.contract import TaskGateway, TaskNotFound, TaskRequest, TaskState, TaskView

_SHOWN = 8
_WHY = 2000
"""Most characters of a reason."""


class JournalGateway(TaskGateway):
    """Submits, shows and cancels tasks. Whoever submits has looked at the repository and merged the limits before.

    Every method may raise `JournalError`.
    """

    def __init__(self, journal: Journal, config: Config) -> None:
        self._journal = journal
        self._config = config

    async def submit(
        self, request: TaskRequest, *, origin: str, name_hint: str | None = None, task_id: str | None = None
    ) -> TaskView:
        """Put a task into the queue; the same `id` twice returns the first one's view.

        `task_id` is the id of one that names none. `name_hint` is what the result files are called after, a task
        file's stem say; the title by default. Raises `JournalUnavailable` where the disk is in trouble,
        `TaskFileError` where it could never start because of the tasks that it is to come after.
        """
        refuse_in_trouble(self._config)
        if why := self._journal.refuses(request, name_hint=name_hint or request.title):
            raise TaskFileError(f"`after`: {why}")
        recorded = self._journal.submit(request, origin=origin, name_hint=name_hint or request.title, task_id=task_id)
        return self._finish(self._journal.view(recorded.task))

    async def list(self) -> list[TaskView]:
        """All tasks that are kept, newest first."""
        held = self._held()
        return [self._finish(view, held) for view in self._journal.tasks()]

    async def view(self, task: str) -> TaskView:
        """One task, by its id, its name, or an unambiguous beginning of its id. Raises `TaskNotFound`."""
        return self._finish(self._journal.view(self.resolve(task)))

    async def cancel(self, task: str) -> TaskView:
        """Ask a task to stop: a queued one ends at once, a running one soon, an ended one stays as it is.

        Raises `TaskNotFound`.
        """
        found = self.resolve(task)
        self._journal.request_cancel(found)
        return self._finish(self._journal.view(found))

    async def approve(self, task: str, *, by: str, door: str) -> TaskView:
        """Journal that a task's result may enter its repository. A service carries it out, or the caller by
        `service.approval`. Raises `NotWaiting`, `TaskNotFound`."""
        return self._decide(task, Decided(approved=True, by=by, door=door))

    async def reject(self, task: str, *, why: str, by: str, door: str) -> TaskView:
        """Journal that a task's result is not wanted, and why; otherwise like `approve`."""
        return self._decide(task, Decided(approved=False, by=by, door=door, why=" ".join(why.split())[:_WHY]))

    def _decide(self, task: str, decided: Decided) -> TaskView:
        found = self.resolve(task)
        self._journal.decide(found, decided)
        return self._finish(self._journal.view(found))

    async def report(self, task: str) -> str:
        """The Markdown report of a task that ended or waits for approval. Raises `TaskNotFound` while there is none."""
        view = await self.view(task)
        text = await _read(self._outbox(view.name, ".report.md"))
        if text is None:
            raise TaskNotFound(self._no_report(view))
        return text

    async def diff(self, task: str) -> str:
        """The patch of an ended task, empty when it changed nothing. Raises `TaskNotFound` while it has not ended."""
        view = await self.view(task)
        text = await _read(self._outbox(view.name, ".patch"))
        if text is None and view.state is not TaskState.ENDED:
            raise TaskNotFound(f"task {view.id} is {view.state}: there is no patch before its end")
        return text or ""

    async def journal(self, task: str) -> str:
        """The events of a task, one JSON object a line, oldest first. Raises `TaskNotFound`."""
        events = self._journal.read(self.resolve(task))
        return "".join(recorded.model_dump_json() + "\n" for recorded in events)

    def resolve(self, prefix: str) -> str:
        """The id of the one task that is meant. Raises `TaskNotFound`, which says what there is."""
        found = self._journal.find(prefix)
        if not found:
            named = f"no task has the id, the name or the beginning {prefix!r}" if prefix else "no task is named"
            raise TaskNotFound(f"{named}; `nightcrew list` shows all")
        if len(found) > 1:
            shown = ", ".join(found[:_SHOWN]) + (", …" if len(found) > _SHOWN else "")
            raise TaskNotFound(f"{len(found)} tasks begin with {prefix!r}: {shown}; write more of the id")
        return found[0]

    def _outbox(self, name: str, suffix: str) -> Path:
        return self._config.outbox / f"{name}{suffix}"

    def _no_report(self, view: TaskView) -> str:
        if view.state is not TaskState.ENDED:
            return f"task {view.id} is {view.state}: there is no report before its end"
        if view.started_at is None:
            return f"task {view.id} was {view.outcome} before it began: there is no report"
        return f"task {view.id}: {self._outbox(view.name, '.report.md')} is gone; see `nightcrew show {view.id}`"

    async def pause(self, task: str, *, by: str) -> TaskView:
        """Hold a task until `resume`; a running one is let go soon. Raises `NotPossible`, `TaskNotFound`."""
        found = self.resolve(task)
        self._journal.pause(found, by=by)
        return self._finish(self._journal.view(found))

    async def resume(self, task: str, *, by: str) -> TaskView:
        """Let a paused task go on. Raises `NotPossible`, `TaskNotFound`."""
        found = self.resolve(task)
        self._journal.resume(found, by=by)
        return self._finish(self._journal.view(found))

    async def retry(self, task: str, *, step: int | None = None) -> TaskView:
        """A new task that does an ended one once more, or goes on where a step of it began. Raises `NotPossible`,
        `AttachmentRefused` where what came with it is gone, `JournalUnavailable`."""
        refuse_in_trouble(self._config)
        old, fresh = self._journal.record(self.resolve(task)), new_task_id()
        if old.ended is not None:
            AttachmentStore(self._config.attachments).share(owner_of(old.id, old.origin), old.request, fresh)
        return self._finish(self._journal.view(self._journal.retry(old.id, step=step, task_id=fresh).task))

    def _held(self) -> str:
        """Why no task begins now; empty when nothing is in the way."""
        if (by := self._journal.paused()) is not None:
            return f"the queue is paused by {by}"
        return used_up(self._config.daily, self._journal.spent(now()))

    def _finish(self, view: TaskView, held: str | None = None) -> TaskView:
        """Adds what the journal does not know: the default crew, what holds it, and where the result files are."""
        if view.state is TaskState.QUEUED and not view.reason:
            view = view.model_copy(update={"reason": self._held() if held is None else held})
        report, patch = self._outbox(view.name, ".report.md"), self._outbox(view.name, ".patch")
        ended = view.state is TaskState.ENDED or bool(view.concerns)
        return view.model_copy(
            update={
                "crew": view.crew or self._config.crew or "",
                "report_path": str(report) if ended and report.is_file() else None,
                "patch_path": str(patch) if ended and patch.is_file() else None,
            }
        )


async def _read(path: Path) -> str | None:
    def read() -> str | None:
        try:
            # A patch is bytes; what is no UTF-8 in it can only be shown, not applied.
            return path.read_bytes().decode("utf-8", "replace")
        except FileNotFoundError:
            return None

    return await anyio.to_thread.run_sync(read)


def used_up(daily: DailySettings, spent: Spent) -> str:
    """Why no task begins before the next day; empty while there is something left. Pure."""
    used = {"tokens": spent.tokens, "minutes": spent.seconds / 60, "tasks": spent.tasks}
    for name, value in used.items():
        limit: float | None = getattr(daily, name)
        if limit is not None and value >= limit:
            return f"today's {name} are used up ({value:,.0f} of {limit:,.12g}; daily: {name}): it begins tomorrow"
    return ""
