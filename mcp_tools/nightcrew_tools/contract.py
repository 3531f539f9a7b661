"""What a front door and the crew agree on: the task a person asks for, how it looks later, and the gateway.

Plain pydantic: nothing here imports mcp, so the command line can use it without paying for the server.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

Slug = Annotated[str, Field(pattern=r"^[a-z0-9]+(?:[._-][a-z0-9]+)*$", max_length=64)]
"""Fit for a file's and a branch's name: no two dots, none at the end."""


class Frozen(BaseModel):
    """A value: immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(Frozen):
    """What one task may use up before it ends with exit code 5."""

    minutes: Annotated[float, Field(gt=0, le=7 * 24 * 60)] = 120.0
    """Minutes of work, over all restarts; time in the queue does not count."""
    wall_minutes: Annotated[float, Field(gt=0, le=366 * 24 * 60)] | None = None
    """Minutes by the clock on the wall since its first start, whatever it did meanwhile: work, wait for an endpoint,
    stand paused. No such limit when None."""
    tokens: Annotated[int, Field(ge=1)] = 4_000_000
    """Prompt and completion tokens over all requests of the task; tokens served from a cache count too."""
    attempts: Annotated[int, Field(ge=1, le=50)] = 3
    """Attempts of the executor, over all plan revisions."""


class TaskNetwork(Frozen):
    """What a task's boxes may reach, within what the machine allows."""

    hosts: tuple[str, ...] | None = None
    """Hosts, `*.` before a domain, names of groups; all that the machine allows when None."""
    during: Literal["setup", "loop"] = "setup"
    """`setup`: while the set-up runs, and not afterwards. `loop`: while a model works too. Never while checks run."""


class Attachment(Frozen):
    """A file that came with a task; the task's boxes see it read-only below /attachments."""

    path: str
    """Below /attachments, printable."""
    bytes: int
    sha256: str
    image: Literal["png", "jpeg", "webp", "gif"] | None = None
    """What its first bytes say it is."""


class TaskRequest(Frozen):
    """What a person asked for, from whichever front door it came."""

    title: str
    text: str
    """The request itself: Markdown, as the person wrote it."""
    repo: str
    """Absolute path or URL of the source repository."""
    base: str | None = None
    """Branch, tag or commit to start from; the source's HEAD when absent."""
    crew: str | None = None
    """Name of the crew; the configured default when absent."""
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    """Higher runs first."""
    checks: tuple[str, ...] | None = None
    """Shell commands that must exit 0 in the result; found in the repository when None."""
    setup: tuple[str, ...] = ()
    """Shell commands that prepare every checkout before its checks."""
    network: TaskNetwork | None = None
    """None: boxes have no network."""
    limits: Limits = Limits()
    deliver: Literal["branch", "patch"] = "branch"
    attachments: tuple[Attachment, ...] = ()
    """In the order of their paths."""
    images: tuple[str, ...] = ()
    """Attachments that models which take pictures are shown, in this order."""
    after: tuple[str, ...] = ()
    """Ids or names of tasks that have to be delivered before this one may start."""
    schedule: str | None = None
    """When to run, again and again (`nightcrew.schedule`); the task itself then only stands for its runs."""
    id: Slug | None = None
    """The person's own idempotency key: a second task with the same id is the first one."""


ConcernKind = Literal[
    "ci",
    "hooks",
    "lock-files",
    "git-settings",
    "symlinks",
    "executables",
    "large-files",
    "binary-files",
    "tests",
    "checks",
    "tool-settings",
]
"""What makes a verified result wait for a person's word; the names that `[gate] allow` takes."""

CONCERNS: dict[ConcernKind, str] = {
    "ci": "CI files changed",
    "hooks": "Hooks changed",
    "lock-files": "Lock files changed",
    "git-settings": "Git settings or submodules changed",
    "symlinks": "Symbolic links changed",
    "executables": "Files made executable",
    "large-files": "Large files",
    "binary-files": "Binary files changed, which the diff cannot show",
    "tests": "Tests deleted or weakened",
    "checks": "Changed what the checks run, or how they run it",
    "tool-settings": "Changed files that editors, shells, package managers or agents obey by themselves",
}
"""Each kind in words that a list of paths may follow."""


class Concern(Frozen):
    """Something in a verified result that a person should see before it enters the repository."""

    kind: ConcernKind
    path: str
    """Of the file; a check's command where no one file is meant."""
    why: str
    """What is wrong with it, in a few words that follow the path."""


class TaskState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting for approval"
    BLOCKED = "waiting for other tasks"
    """It comes after tasks that are not delivered yet."""
    PAUSED = "paused"
    SCHEDULED = "scheduled"
    """It is never run itself: each time of its schedule makes a task of it."""
    ENDED = "ended"


class Outcome(StrEnum):
    """How a task ended."""

    DELIVERED = "delivered"
    UNVERIFIED = "unverified"
    NO_ENDPOINT = "no endpoint"
    LIMITS = "limits reached"
    CANCELLED = "cancelled"
    FAILED = "failed"
    REJECTED = "rejected"
    """Verified, and a person did not want it."""


EXIT_CODES: dict[Outcome, int] = {
    Outcome.DELIVERED: 0,
    Outcome.UNVERIFIED: 1,
    Outcome.FAILED: 1,
    Outcome.REJECTED: 1,
    Outcome.NO_ENDPOINT: 4,
    Outcome.LIMITS: 5,
    Outcome.CANCELLED: 130,
}
"""Exit codes of `run` and `submit --wait`; 2 is bad usage or a bad task file, 3 is waiting for approval."""


class TaskUsage(Frozen):
    """Sums over all model requests of a task."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens that the server took from its prefix cache."""
    model_seconds: float = 0.0


class TaskView(Frozen):
    """A task as others see it: a fold of its journal."""

    id: str
    name: str
    """Stem of the result files in the outbox."""
    title: str
    repo: str
    crew: str
    state: TaskState
    activity: str = ""
    """What it is doing now, in a few words."""
    outcome: Outcome | None = None
    reason: str = ""
    submitted_at: str
    started_at: str | None = None
    ended_at: str | None = None
    branch: str | None = None
    commit: str | None = None
    concerns: tuple[Concern, ...] = ()
    """What it waits to be approved for, or had to be."""
    report_path: str | None = None
    patch_path: str | None = None
    attempts: int = 0
    usage: TaskUsage = TaskUsage()
    schedule: str | None = None
    """When it runs again and again; None for a task that runs once."""
    retry_of: str | None = None
    """The task that it does once more."""
    remark: str = ""
    """What a person should know about it besides, such as that its id was used again for something else."""

    @property
    def exit_code(self) -> int | None:
        """Exit code of `run` and `submit --wait` for this task, None while it has none."""
        if self.state is TaskState.WAITING:
            return 3
        return None if self.outcome is None else EXIT_CODES[self.outcome]


class TaskGateway(Protocol):
    """The one door through which tasks are submitted, looked at, decided and cancelled."""

    async def submit(self, request: TaskRequest, *, origin: str) -> TaskView:
        """Put a task into the queue; the same `id` twice returns the first one's view."""
        ...

    async def list(self) -> list[TaskView]:
        """All tasks that are kept, newest first."""
        ...

    async def view(self, task: str) -> TaskView:
        """One task, by its id or an unambiguous beginning of it; raises `TaskNotFound`."""
        ...

    async def cancel(self, task: str) -> TaskView:
        """Ask a queued, running or waiting task to stop; one that has ended stays as it is."""
        ...

    async def approve(self, task: str, *, by: str, door: str) -> TaskView:
        """Let a task's result, which waits for approval, into its repository.

        `by` is who says so and `door` where (`cli`, `mcp`): both are journalled. A second time changes nothing. Raises
        `NotWaiting` for a task that does not wait.
        """
        ...

    async def reject(self, task: str, *, why: str, by: str, door: str) -> TaskView:
        """End a task that waits for approval without a branch; otherwise like `approve`."""
        ...

    async def report(self, task: str) -> str:
        """The Markdown report of an ended task; raises `TaskNotFound` while there is none."""
        ...

    async def diff(self, task: str) -> str:
        """The patch of an ended task, empty when it changed nothing."""
        ...

    async def journal(self, task: str) -> str:
        """What happened to a task so far: one JSON object a line."""
        ...


class NoQueue(RuntimeError):
    """No service is there to take tasks: says which one is missing and how to start it."""


class TaskRefused(ValueError):
    """A task could never run: its repository or its crew is not there."""


class NotWaiting(ValueError):
    """The task does not wait for approval, so there is nothing to decide."""


class TaskNotFound(LookupError):
    """No task has this id, or several begin with it."""
