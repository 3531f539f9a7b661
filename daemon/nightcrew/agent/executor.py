"""The executor with native tools: works the plan step by step, each step's own checks deciding whether it is done."""

from __future__ import annotations

from functools import partial

from nightcrew.agent.checks import run_check
from nightcrew.agent.conversation import Call, Conversation
from nightcrew.agent.ledger import Ledger
from nightcrew.agent.pictures import picture_parts
from nightcrew.agent.prompts import EXECUTOR, FINISH_STEP, clip, describe_failure, executor_task, with_harness_tool
from nightcrew.agent.toolbox import Toolbox
from nightcrew.agent.toolloop import Refusal, Stuck, tool_loop
from nightcrew.domain import Check
from nightcrew.errors import ContextOverflow
from nightcrew.events import AttemptEnded
from nightcrew.llm.client import ModelClient
from nightcrew_workspaces.workspace import Workspace

MAX_TURNS = 200
STEP_TRIES = 3
"""How often a step's own checks may send the model back before the step is taken as it is: the verifier decides."""


class Executor:
    """One attempt. The conversation is the plan revision's: a second attempt on the same plan goes on in it."""

    def __init__(
        self, ledger: Ledger, client: ModelClient, toolbox: Toolbox, workspace: Workspace, *, seconds: float
    ) -> None:
        self._ledger = ledger
        self._toolbox = toolbox
        self._workspace = workspace
        self._seconds = seconds
        self._plan = ledger.record.plans[-1]
        self._conversation = Conversation(
            ledger,
            f"executor/{self._plan.revision}",
            client,
            tools=with_harness_tool(toolbox.tools_text, FINISH_STEP),
        )

    async def attempt(self, number: int, *, evidence: str = "") -> None:
        """Work until the model hands the result over or gets stuck, and journal the attempt's end.

        `evidence` is why the attempt before did not pass.
        """
        record = self._ledger.record
        assert record.opened is not None
        assert record.checks_before is not None
        self._conversation.open(
            EXECUTOR,
            executor_task(
                record.opened.context,
                record.request,
                self._plan,
                record.checks_before.results,
                sees=self._conversation.sees,
            ),
            partial(picture_parts, record.request, self._workspace),
        )
        mark = f"Attempt {number}. "
        if evidence and not self._heard(mark):
            self._conversation.evidence(mark + evidence)
        claim, stuck = "", ""
        try:
            call = await tool_loop(
                self._conversation,
                self._toolbox,
                self._workspace,
                ending="finish_step",
                on_end=self._end_step,
                max_turns=MAX_TURNS * number,
            )
            claim = str(call.arguments.get("summary", "")) if call else self._conversation.final_text()
        except (Stuck, ContextOverflow) as reason:
            stuck = str(reason)  # what was done until then is judged all the same
        tree = (await self._workspace.checkpoint()).tree
        self._ledger.append(AttemptEnded(number=number, claim=claim, tree=tree, stuck=stuck))

    def _heard(self, mark: str) -> bool:
        """Whether the model was told something that begins so; what it says itself does not count."""
        said = (body for body in self._conversation.messages if body["role"] != "assistant")
        return any(str(body.get("content", "")).startswith(mark) for body in said)

    async def _end_step(self, _call: Call) -> Refusal | None:
        """Check the step. None when it was the last one; else what the model is told."""
        steps = self._plan.steps
        done, refusals = self._progress()
        if refusals < STEP_TRIES and (objection := await self._objection(done)):
            return Refusal(f"Not yet: {objection}", is_error=True)
        if done + 1 >= len(steps):
            return None
        following = steps[done + 1]
        return Refusal(f"Step {done + 1} is recorded. Go on with step {done + 2}: {following.title}", is_error=False)

    def _progress(self) -> tuple[int, int]:
        """How many steps were accepted, and how often the current one was sent back. Read from the journal."""
        done = refusals = 0
        for ran in self._ledger.record.tools_run:
            if ran.conversation == self._conversation.name and ran.name == "finish_step":
                done, refusals = (done, refusals + 1) if ran.is_error else (done + 1, 0)
        return min(done, len(self._plan.steps) - 1), refusals

    async def _objection(self, step: int) -> str:
        """What the current step's own checks say against it, in the workspace as it is."""
        for command in self._plan.steps[step].checks:
            box = self._workspace.box.with_network(None)
            result = await run_check(box, Check(command=command, source="plan"), seconds=self._seconds)
            if not result.ok:
                return f"its check `{command}` {describe_failure(result)}:\n{clip(result.output, 3000)}"
        return ""
