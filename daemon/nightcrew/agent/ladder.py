"""The executor for models too small for tools: a ladder of repairs, the checks deciding after each candidate.

`infill` takes out suspicious lines, `rewrite` asks for the whole file, `explain` asks what is wrong and then for the
file. The first candidate that the checks confirm ends the ladder; when none does, the attempt ends honestly.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from nightcrew.agent import infill, rewrite
from nightcrew.agent.checks import run_checks
from nightcrew.agent.judge import judge
from nightcrew.agent.ledger import Ledger
from nightcrew.agent.prompts import clip, message
from nightcrew.agent.suspects import Suspect
from nightcrew.agent.toolbox import Toolbox
from nightcrew.config import RoleSettings
from nightcrew.domain import CheckResult, Usage
from nightcrew.errors import ContextOverflow, EndpointRefused
from nightcrew.events import AttemptEnded, CandidateTried
from nightcrew.llm.client import ModelClient
from nightcrew_workspaces.errors import FileError, WorkspaceError
from nightcrew_workspaces.workspace import Workspace

MAX_HOLES = 40
MAX_FILE_CHARACTERS = 12_000
REWRITES = 6
EXPLANATIONS = 4
EVIDENCE_CHARACTERS = 1500
HUNG_SECONDS = 4.0
"""What is taken for a check's usual time when it did not come to an end before the change either."""

Rung = Literal["infill", "rewrite", "explain"]


@dataclass(frozen=True)
class Candidate:
    """A new text for one file."""

    path: str
    text: str | None
    """None when the model gave nothing usable."""
    line: int | None
    usage: Usage
    seconds: float
    """Of the model's answer."""
    note: str = ""


@dataclass
class Ladder:
    """One attempt of an executor without tools."""

    ledger: Ledger
    client: ModelClient
    settings: RoleSettings
    toolbox: Toolbox
    workspace: Workspace
    suspects: list[Suspect]
    seconds: float
    """Of one check."""
    _texts: dict[str, str] = field(default_factory=dict[str, str])
    _tried: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])

    async def attempt(self, number: int) -> None:
        """Climb the rungs until a candidate passes, and journal the attempt's end."""
        candidates = self.ledger.record.candidates
        won = next((one for one in candidates if one.attempt == number and one.passed and one.tree), None)
        if won is not None:  # a restart between the winner and the attempt's end
            self._end(number, won)
            return
        before = self.ledger.record.checks_before
        if before is None or all(result.ok for result in before.results):
            await self._give_up(number, "no check fails, so no check could tell a repair")
            return
        await self._read_files()
        for rung in self._rungs():
            if await self._climb(number, rung):
                return
        tried = sum(1 for candidate in self.ledger.record.candidates if candidate.attempt == number)
        await self._give_up(number, f"the checks confirmed none of {tried} candidates")

    async def _give_up(self, number: int, why: str) -> None:
        tree = (await self.workspace.checkpoint()).tree
        self.ledger.append(AttemptEnded(number=number, claim="", tree=tree, stuck=why))

    def _end(self, number: int, won: CandidateTried) -> None:
        where = f", line {won.line}" if won.line else ""
        claim = f"{won.rung}: a new text for {won.path}{where} makes the failing checks pass"
        self.ledger.append(AttemptEnded(number=number, claim=claim, tree=won.tree or ""))

    def _rungs(self) -> list[Rung]:
        rungs: dict[str, Rung] = {"infill": "infill", "rewrite": "rewrite", "explain": "explain"}
        return [rungs[name] for name in self.settings.dialect if name in rungs]

    async def _climb(self, number: int, rung: Rung) -> bool:
        """Try a rung's candidates, from where an earlier run left off. True when one passed."""
        done = sum(1 for tried in self.ledger.record.candidates if tried.attempt == number and tried.rung == rung)
        makers: dict[Rung, Callable[[int], AsyncIterator[Candidate]]] = {
            "infill": self._infills,
            "rewrite": self._rewrites,
            "explain": self._explained,
        }
        index = done
        async for candidate in makers[rung](done):
            passed, note = await self._try(candidate)
            tree = (await self.workspace.checkpoint()).tree if passed else None
            tried = CandidateTried(
                attempt=number,
                rung=rung,
                index=index,
                path=candidate.path,
                line=candidate.line,
                passed=passed,
                tree=tree,
                usage=candidate.usage,
                seconds=round(candidate.seconds, 3),
                note=note,
            )
            self.ledger.append(tried)
            index += 1
            if passed:
                self._end(number, tried)
                return True
            self.ledger.check_tokens()
        return False

    async def _try(self, candidate: Candidate) -> tuple[bool, str]:
        """Put the candidate into the workspace, run the checks, and take it out again unless they confirm it."""
        text = candidate.text
        if text is None:
            return False, candidate.note or "nothing usable came back"
        if (candidate.path, text) in self._tried:
            return False, "the same text was tried before"
        self._tried.add((candidate.path, text))
        record = self.ledger.record
        assert record.opened is not None
        assert record.checks_before is not None
        await self._write(candidate.path, text)
        after = await run_checks(
            self.workspace.box.with_network(None),
            record.opened.checks,
            # What needs a network was installed before; what only builds is built anew for each candidate.
            setup=() if record.request.network else record.request.setup,
            seconds=candidate_seconds(record.checks_before.results, self.seconds),
        )
        verdict = judge(record.checks_before.results, after, changed=True)
        # Half a repair would end the ladder: while there are candidates left, all that failed has to pass.
        passed = verdict.passed and all(result.ok for result in after)
        if not passed:
            await self._write(candidate.path, self._texts[candidate.path])
        return passed, clip(verdict.reason, 200)

    async def _write(self, path: str, text: str) -> None:
        """Raises `WorkspaceError` when the file cannot be written: a candidate must not be judged that is not there."""
        answer = await self.toolbox.call("write_file", {"path": path, "content": text})
        if answer.is_error:
            raise WorkspaceError(f"{path} could not be written: {answer.text}")

    async def _read_files(self) -> None:
        """The files that may be repaired: those the plan chose, then those with suspicious lines."""
        plan = self.ledger.record.plans[-1]
        chosen = [path for step in plan.steps for path in step.files]
        for path in dict.fromkeys([*chosen, *(suspect.path for suspect in self.suspects)]):
            try:
                file = await self.workspace.files.read(path)
            except FileError:
                continue
            if not file.truncated and len(file.text) <= MAX_FILE_CHARACTERS:
                self._texts[path] = file.text

    def _ordered_suspects(self) -> list[Suspect]:
        """By suspicion; among equals those in files that the plan chose come first."""
        chosen = {path for step in self.ledger.record.plans[-1].steps for path in step.files}
        return sorted(self.suspects, key=lambda suspect: (-round(suspect.score, 3), suspect.path not in chosen))

    async def _infills(self, done: int) -> AsyncIterator[Candidate]:
        holes = infill.holes(self._ordered_suspects(), self._texts, most=MAX_HOLES)
        for hole in itertools.islice(holes, done, None):
            text = self._texts[hole.path]
            asked = infill.prompt(self.settings.model, self._hint(hole.path), text, hole)
            stops = (*infill.STOPS, "\n") if hole.lines == 1 else infill.STOPS
            try:
                completion = await self.client.complete(
                    asked, max_tokens=infill.MAX_TOKENS, stop=stops, on_wait=self.ledger.waiting
                )
            except ContextOverflow as error:
                yield Candidate(hole.path, None, hole.first, Usage(), 0.0, str(error))
                continue
            except EndpointRefused as error:
                yield Candidate(hole.path, None, hole.first, Usage(), 0.0, f"no completions here: {error}")
                return  # a chat-only endpoint; the other rungs ask it to chat, and fail if that is refused too
            new = infill.filled(text, hole, completion.text)
            note = "" if new else "the line stayed as it is"
            yield Candidate(hole.path, new, hole.first, completion.usage, completion.seconds, note)

    def _hint(self, path: str) -> str:
        """What fails, as comment lines: the assertion says more than its traceback."""
        mark = infill.comment_mark(path)
        lines = [line for line in self._evidence().splitlines() if line.startswith(("E  ", "AssertionError", "FAIL"))]
        return "".join(f"{mark} {line.strip()[:160]}\n" for line in lines[:4])

    def _evidence(self) -> str:
        before = self.ledger.record.checks_before
        assert before is not None
        return "\n".join(clip(result.output, EVIDENCE_CHARACTERS) for result in before.results if not result.ok)

    async def _rewrites(self, done: int) -> AsyncIterator[Candidate]:
        for path, index in itertools.islice(self._targets(REWRITES), done, None):
            asked = rewrite.ask_for_file(self.ledger.record.request.text, path, self._texts[path], self._evidence())
            yield await self._rewritten(path, asked, warm=index > 0)

    async def _explained(self, done: int) -> AsyncIterator[Candidate]:
        task = self.ledger.record.request.text
        for path, _ in itertools.islice(self._targets(EXPLANATIONS), done, None):
            asked = rewrite.ask_why(task, path, self._texts[path], self._evidence())
            system = message("system", rewrite.EXPLAIN_SYSTEM)
            try:
                said = await self.client.chat(
                    [system, message("user", asked)], max_tokens=200, temperature=0.7, on_wait=self.ledger.waiting
                )
            except ContextOverflow as error:
                yield Candidate(path, None, None, Usage(), 0.0, str(error))
                continue
            asked = rewrite.ask_for_file(task, path, self._texts[path], self._evidence(), explanation=said.content)
            candidate = await self._rewritten(path, asked, warm=True)
            usage = _sum(said.usage, candidate.usage)
            yield Candidate(path, candidate.text, None, usage, said.seconds + candidate.seconds, candidate.note)

    def _targets(self, rounds: int) -> list[tuple[str, int]]:
        """Files to rewrite with the number of the try, the likeliest file most often."""
        paths = list(self._texts)[:3]
        return [(path, index) for index in range(rounds) for path in paths[: 1 if index % 2 else None]]

    async def _rewritten(self, path: str, asked: str, *, warm: bool) -> Candidate:
        old = self._texts[path]
        try:
            reply = await self.client.chat(
                [message("system", rewrite.SYSTEM), message("user", asked)],
                max_tokens=max(256, len(old) // 2),
                temperature=0.8 if warm else 0.0,
                on_wait=self.ledger.waiting,
            )
        except ContextOverflow as error:
            return Candidate(path, None, None, Usage(), 0.0, str(error))
        text = rewrite.new_text(reply.content, old)
        note = "" if text else "no new text of the file came back"
        return Candidate(path, text, None, reply.usage, reply.seconds, note)


def candidate_seconds(before: Sequence[CheckResult], most: float) -> float:
    """How long a candidate's checks may take: many candidates loop for ever, and what came to an end before the change
    says how long is long."""
    ended = [result.seconds for result in before if result.ended == "exited"]
    usual = max(ended) if len(ended) == len(before) and ended else HUNG_SECONDS
    return min(most, 10 + 5 * usual)


def _sum(one: Usage, two: Usage) -> Usage:
    return Usage(
        prompt_tokens=one.prompt_tokens + two.prompt_tokens,
        completion_tokens=one.completion_tokens + two.completion_tokens,
        cached_tokens=one.cached_tokens + two.cached_tokens,
    )
