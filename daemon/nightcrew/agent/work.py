"""The way of one task through its stations: workspace, checks, plan, attempt, verdict, delivery.

Each station looks at the record and does what is missing, so the way can be entered anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import anyio

from nightcrew.agent.checks import find_checks
from nightcrew.agent.chooser import choose_plan
from nightcrew.agent.context import repository_context
from nightcrew.agent.executor import Executor
from nightcrew.agent.ladder import Ladder
from nightcrew.agent.ledger import Ledger
from nightcrew.agent.planner import EVIDENCE_MARK, write_plan
from nightcrew.agent.roster import NoEndpoint, Roster
from nightcrew.agent.survey import survey
from nightcrew.agent.suspects import Suspect, find_suspects
from nightcrew.agent.toolbox import open_toolbox
from nightcrew.agent.verifier import check_before, verify
from nightcrew.agent.wayout import WayOut
from nightcrew.attachments import AttachmentStore, owner_of
from nightcrew.config import Config, environment
from nightcrew.crew import Crew, Role
from nightcrew.delivery.gate import Settings, concerns
from nightcrew.delivery.patches import with_lines
from nightcrew.domain import Check
from nightcrew.events import AttemptStarted, Delivered, WorkspaceOpened
from nightcrew.llm.client import ModelClient
from nightcrew_tools.contract import Concern, Outcome
from nightcrew_tools.grants import EXECUTOR, PLANNER
from nightcrew_workspaces.errors import WorkspaceError
from nightcrew_workspaces.harvest import Harvest
from nightcrew_workspaces.workspace import Workspace, Workspaces

ATTEMPTS_PER_PLAN = 2
"""Then the planner writes a new revision."""
SMALL_CHECK_SECONDS = 60.0
"""Longest time of one check for a small crew."""
DELIVER_SECONDS = 900.0
"""Neither a limit nor a cancel may fall between the branch and the word of it in the journal."""
_SLUG = re.compile(r"[^a-z0-9]+")


OpenClient = Callable[[str, Role], ModelClient]
"""Makes the client of a role, by its name."""


def open_client(name: str, role: Role) -> ModelClient:
    """To the role's own endpoint."""
    del name
    return ModelClient(role.settings, api_key=role.api_key)


@dataclass(frozen=True)
class Ended:
    """How the work came to its end."""

    outcome: Outcome
    reason: str
    patch: str = ""


@dataclass(frozen=True)
class Held:
    """A verified result that waits for a person's word."""

    attempt: int
    commit: str
    concerns: tuple[Concern, ...]
    patch: str


class Work:
    """One task on its way. What it opens is closed by `stack`."""

    def __init__(
        self,
        config: Config,
        ledger: Ledger,
        workspaces: Workspaces,
        roster: Roster,
        stack: AsyncExitStack,
        open_client: OpenClient = open_client,
    ) -> None:
        self._config = config
        self._ledger = ledger
        self._workspaces = workspaces
        self._roster = roster
        self._stack = stack
        self._open_client = open_client
        self._way_out = WayOut(config, ledger, environment())
        self._clients: dict[str, ModelClient] = {}
        self._harvests: dict[int, Harvest] = {}
        self._suspected: tuple[tuple[str, ...], list[Suspect]] | None = None
        self.workspace: Workspace | None = None

    def _seconds(self, crew: Crew) -> float:
        """Longest time of one check. A small model's tasks are small, and a test that hangs is among its usual bugs."""
        most = self._config.box.command_seconds
        return min(most, SMALL_CHECK_SECONDS) if crew.small else most

    async def to_its_end(self) -> Ended | Held:
        """Do what is missing until there is a result. Raises what stops the work."""
        crew = await self._roster.crew(self._ledger.record.request.crew)
        opened = self._ledger.record.opened
        if opened is not None and opened.crew != crew.name:
            began = ", ".join(sorted(set(opened.models.values())))
            raise NoEndpoint(f"the task began with the crew {opened.crew!r} ({began}), which does not answer now")
        workspace = await self._open_workspace()
        await self._look_around(workspace, crew)
        if self._ledger.record.checks_before is None:
            await check_before(self._ledger, workspace, self._way_out, seconds=self._seconds(crew))
        await self._way_out.prepare(workspace)
        while True:
            number = len(self._ledger.record.attempts)
            verdict = self._ledger.record.verdicts.get(number)
            if verdict is not None and verdict.verdict.passed:
                with anyio.move_on_after(DELIVER_SECONDS, shield=True):
                    return await self._deliver(workspace, number)
                raise WorkspaceError(f"the result could not be delivered within {DELIVER_SECONDS:.0f} s")
            if verdict is not None and self._is_over(crew, number):
                return Ended(Outcome.UNVERIFIED, verdict.verdict.reason)
            await self._attempt(crew, workspace, number)

    def _is_over(self, crew: Crew, number: int) -> bool:
        """A ladder has tried all it can in one attempt; tools may try as often as the limits say."""
        return not crew.executor.uses_tools or number >= self._ledger.record.request.limits.attempts

    async def _open_workspace(self) -> Workspace:
        """The private clone: a new one, or after a restart the old one with the tree that the journal names."""
        record = self._ledger.record
        if record.continued is not None and not self._workspaces.exists(record.id):
            await self._workspaces.take_over(record.continued.task, record.id)
        if record.opened is not None and self._workspaces.exists(record.id):
            workspace = await self._stack.enter_async_context(await self._workspaces.reopen(record.id))
            await workspace.restore(record.tree or workspace.base_tree)
        else:
            base = record.opened.base_commit if record.opened is not None else record.request.base
            owner = owner_of(record.id, record.origin)
            kept = AttachmentStore(self._config.attachments).of(owner, record.request)
            created = await self._workspaces.create(record.id, record.request.repo, base, attachments=kept)
            workspace = await self._stack.enter_async_context(created)
            if record.tree not in (None, workspace.base_tree):
                raise WorkspaceError(
                    "the private clone of the task is gone, and with it what had been done in it, so the conversation "
                    f"cannot go on: `nightcrew retry {record.id}` begins anew"
                )
        self.workspace = workspace
        return workspace

    async def _look_around(self, workspace: Workspace, crew: Crew) -> None:
        """Journal where the task starts: commit, checks, and the context that every prompt carries."""
        record = self._ledger.record
        if record.opened is not None:
            return
        found = await survey(workspace.box)
        if record.request.checks is not None:
            checks = tuple(Check(command=command, source="task") for command in record.request.checks)
        else:
            checks = find_checks(found.files, found.manifests, found.tools).checks
        self._ledger.append(
            WorkspaceOpened(
                base_commit=workspace.base_commit,
                base_ref=workspace.source.ref,
                source_dirty=workspace.source.dirty,
                checks=checks,
                crew=crew.name,
                models=crew.models(),
                context=repository_context(found),
            )
        )

    async def _attempt(self, crew: Crew, workspace: Workspace, last: int) -> None:
        """One attempt with its plan before it and its verdict behind it, or the rest of one that was cut off."""
        record = self._ledger.record
        if last == 0 or last in record.verdicts:
            await self._plan(crew, workspace, last)
            self._ledger.append(AttemptStarted(number=last + 1, revision=record.plans[-1].revision))
            last += 1
        if last not in record.ended_attempts:
            await self._execute(crew, workspace, last)
        judge_client = await self._client("verifier", crew.verifier) if crew.verifier else None
        seconds = self._seconds(crew)
        way_out = self._way_out
        harvest = await verify(self._ledger, workspace, way_out, last, judge_client=judge_client, seconds=seconds)
        if harvest is not None:
            self._harvests[last] = harvest

    async def _plan(self, crew: Crew, workspace: Workspace, last: int) -> None:
        """A first plan, or a new revision when the newest one had its attempts."""
        record = self._ledger.record
        tried = sum(1 for attempt in record.attempts if record.plans and attempt.revision == record.plans[-1].revision)
        if record.plans and tried < ATTEMPTS_PER_PLAN:
            return
        client = await self._client("planner", crew.planner)
        if not crew.planner.uses_tools:
            if not record.plans:
                files, suspects = await self._suspects(workspace)
                await choose_plan(self._ledger, client, files, suspects)
            return
        evidence = f"{EVIDENCE_MARK} {self._evidence(last)}\nWrite a new plan." if record.plans else ""
        async with open_toolbox(workspace, PLANNER) as toolbox:
            await write_plan(self._ledger, client, toolbox, workspace, evidence=evidence)

    async def _execute(self, crew: Crew, workspace: Workspace, number: int) -> None:
        client = await self._client("executor", crew.executor)
        seconds = self._seconds(crew)
        async with self._way_out.while_working(workspace), open_toolbox(workspace, EXECUTOR) as toolbox:
            if crew.executor.uses_tools:
                executor = Executor(self._ledger, client, toolbox, workspace, seconds=seconds)
                await executor.attempt(number, evidence=self._evidence_on_this_plan(number))
            else:
                _, suspects = await self._suspects(workspace)
                settings = crew.executor.settings
                await Ladder(self._ledger, client, settings, toolbox, workspace, suspects, seconds).attempt(number)

    def _evidence_on_this_plan(self, number: int) -> str:
        """Why the attempt before did not pass, when it worked on the same plan and so in the same conversation."""
        attempts = self._ledger.record.attempts
        same = number > 1 and attempts[number - 2].revision == attempts[number - 1].revision
        return self._evidence(number - 1) if same else ""

    def _evidence(self, number: int) -> str:
        """Why an attempt did not pass, for whoever tries next."""
        verdict = self._ledger.record.verdicts[number].verdict
        return f"It was not accepted: {verdict.reason}\n{verdict.evidence}".strip()

    async def _suspects(self, workspace: Workspace) -> tuple[tuple[str, ...], list[Suspect]]:
        before = self._ledger.record.checks_before
        assert before is not None
        if self._suspected is None:  # traced once: planner and ladder look at the same tree
            files = (await survey(workspace.box)).files
            failing = [result for result in before.results if not result.ok]
            self._suspected = files, await find_suspects(workspace.box, files, failing)
        return self._suspected

    async def _client(self, name: str, role: Role) -> ModelClient:
        if name not in self._clients:
            client = self._open_client(name, role)
            self._clients[name] = await self._stack.enter_async_context(client)
        return self._clients[name]

    async def _deliver(self, workspace: Workspace, number: int) -> Ended | Held:
        """Publish what the clean checkout confirmed, exactly that commit, unless a person should see it first.

        A patch enters no repository by itself, so it needs nobody's word; its report names what there is to see.
        """
        record = self._ledger.record
        verdict = record.verdicts[number]
        harvest = self._harvests.get(number) or await workspace.harvest(verdict.commit)
        if record.delivered is None:
            if record.request.deliver == "branch" and (held := await self._concerns(workspace, number, harvest)):
                return Held(number, verdict.commit, held, patch_text(harvest))
            branch = None
            if record.request.deliver == "branch":
                branch = await workspace.publish(verdict.commit, branch_name(record.id, record.request.title))
            self._ledger.append(Delivered(branch=branch, commit=verdict.commit, patch=f"{record.name}.patch"))
        return Ended(Outcome.DELIVERED, verdict.verdict.reason, patch_text(harvest))

    async def _concerns(self, workspace: Workspace, number: int, harvest: Harvest) -> tuple[Concern, ...]:
        record, gate = self._ledger.record, self._config.gate
        files = with_lines(harvest.files, patch_text(harvest))
        before, after = record.checks_before, record.checks_after.get(number)
        settings = Settings(large_kib=gate.large_file_kib, hooks_folder=await workspace.hooks_folder())
        found = concerns(files, before.results if before else (), after.results if after else (), settings)
        return tuple(concern for concern in found if concern.kind not in gate.allow)


def patch_text(harvest: Harvest) -> str:
    """The patch as the result files take it: bytes that are no UTF-8 come out again as they were. Pure."""
    return harvest.patch_bytes.decode(errors="surrogateescape")


def branch_name(task: str, title: str) -> str:
    """`nightcrew/<id>-<slug>`, at most 60 characters of slug. Pure."""
    slug = _SLUG.sub("-", title.lower()).strip("-")[:60].strip("-")
    return f"nightcrew/{task}-{slug or 'task'}"
