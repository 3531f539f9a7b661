"""A model that says what a journal says it said, and hears whether it is asked the same.

Its answers come in the order of the journal, whatever it is asked; every message that is sent is held against the one
that was sent then.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nightcrew.config import RoleSettings
from nightcrew.errors import EndpointRefused
from nightcrew.events import ConversationOpened, MessageAdded, ModelReplied, Recorded, ToolRan
from nightcrew.llm.client import ModelClient, Reply

_LINES = 40
"""Most lines of one difference that are kept."""

_PASSING: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?"), "<time>"),
    (re.compile(r"\b\d\d:\d\d:\d\d(?:[.,]\d+)?\b"), "<time>"),
    (re.compile(r"\b\d+(?:\.\d+)?(?:e-\d+)?\s?(?:ns|µs|us|ms|s|sec|seconds?|min|minutes?)\b"), "<time>"),
    (re.compile(r"\b0x[0-9a-f]+\b"), "<address>"),
    (re.compile(r"\b(?=[0-9]*[a-f])(?=[a-f]*[0-9])[0-9a-f]{7,64}\b"), "<id>"),
    (re.compile(r"(?<=/tmp/)[\w.-]+"), "<name>"),
)
"""What a second run of the same commands says otherwise: times, durations, addresses, names of objects and temporary
files. Only in what tools and checks said; the harness's own words have none of it."""


@dataclass(frozen=True)
class Difference:
    """A message that is sent now and was not then, or the other way round."""

    conversation: str
    number: int
    """Position in the conversation, from 1; 0 for what stands before it."""
    what: Literal["message", "missing", "more", "end", "tools"]
    """`tools`: the definitions of tools before the first message.

    `message`: it reads otherwise. `missing`: it was sent then. `more`: it was not. `end`: the loop asked for more
    answers than the journal has, or for fewer."""
    role: str
    text: str
    """The change as lines that begin with `-` (then) and `+` (now)."""


@dataclass(frozen=True)
class _Turn:
    conversation: str
    prompt: tuple[str, ...]
    reply: ModelReplied
    tools: str | None
    """Empty where an older version did not keep them."""


@dataclass
class Recording:
    """What the roles of one task said, to be said again. Filled while it is replayed."""

    turns: dict[str, list[_Turn]]
    """By role, in the order of the journal."""
    differences: list[Difference] = field(default_factory=list[Difference])
    prompts: int = 0
    """Answers that were asked for."""
    messages: int = 0
    """That were compared, each once."""
    passing: int = 0
    """That differ only in times and names which no two runs share."""
    strict: bool = False
    """Those are differences, too."""
    _seen: dict[str, int] = field(default_factory=dict[str, int])

    @classmethod
    def of(cls, events: Iterable[Recorded], *, strict: bool = False) -> Recording:
        """Of one task's events, in order."""
        said: dict[str, list[str]] = {}
        tools: dict[str, str | None] = {}
        turns: dict[str, list[_Turn]] = {}
        for event in (recorded.event for recorded in events):
            if isinstance(event, ConversationOpened):
                tools[event.conversation] = event.tools
            if not isinstance(event, MessageAdded | ModelReplied | ToolRan):
                continue
            texts = said.setdefault(event.conversation, [])
            if isinstance(event, ModelReplied):
                turn = _Turn(event.conversation, tuple(texts), event, tools.get(event.conversation, ""))
                turns.setdefault(event.conversation.partition("/")[0], []).append(turn)
            texts.append(event.message)
        return cls(turns, strict=strict)

    def answer(self, role: str, messages: Sequence[str], tools: str | None = "") -> ModelReplied:
        """The next thing that the role said, whatever it is asked. Raises `EndpointRefused` when it said no more."""
        self.prompts += 1
        left = self.turns.get(role, [])
        if not left:
            words = "the loop asks for one more answer than the journal has"
            self.differences.append(Difference(role, len(messages) + 1, "end", "assistant", words))
            raise EndpointRefused(f"replay: {role}: {words}")
        turn = left.pop(0)
        if turn.tools != "" != tools != turn.tools and turn.conversation not in self._seen:
            lines = _lines(_by_line(turn.tools), _by_line(tools))
            self.differences.append(Difference(turn.conversation, 0, "tools", "", lines))
        self._compare(turn, messages)
        return turn.reply

    def close(self) -> None:
        """Note what was never asked for."""
        for role, left in self.turns.items():
            if left:
                words = f"{len(left)} recorded answers were not asked for"
                place = len(left[0].prompt) + 1
                self.differences.append(Difference(left[0].conversation or role, place, "end", "assistant", words))

    def _compare(self, turn: _Turn, messages: Sequence[str]) -> None:
        """Compare what was not compared before: each request begins with the one before it."""
        start = self._seen.get(turn.conversation, 0)
        for position in range(start, max(len(turn.prompt), len(messages))):
            then = turn.prompt[position] if position < len(turn.prompt) else None
            now = messages[position] if position < len(messages) else None
            self.messages += 1
            if then != now:
                self._differ(turn.conversation, position + 1, then, now)
        self._seen[turn.conversation] = max(len(turn.prompt), len(messages)) + 1  # the answer is the recorded one

    def _differ(self, conversation: str, number: int, then: str | None, now: str | None) -> None:
        if then is not None and now is not None:
            if without_passing(then) == without_passing(now):
                self.passing += 1
                if not self.strict:
                    return
            what: Literal["message", "missing", "more"] = "message"
        else:
            what = "missing" if now is None else "more"
        role = str(_parsed(now or then or "").get("role", ""))
        self.differences.append(Difference(conversation, number, what, role, _lines(then, now)))


def without_passing(message: str) -> str:
    """The message without what two runs of the same commands say differently; that of the system as it is. Pure."""
    if _parsed(message).get("role") in ("system", "assistant"):
        return message
    for pattern, name in _PASSING:
        message = pattern.sub(name, message)
    return message


def _parsed(message: str) -> dict[str, Any]:
    try:
        value = json.loads(message)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def _lines(then: str | None, now: str | None) -> str:
    """Where two messages differ, by the lines of their contents."""
    old, new = (_content(text).splitlines() if text is not None else [] for text in (then, now))
    found = [line for line in difflib.unified_diff(old, new, n=1, lineterm="") if not line.startswith(("---", "+++"))]
    more = [f"… and {len(found) - _LINES} lines more"] if len(found) > _LINES else []
    return "\n".join([*found[:_LINES], *more]) or "they differ in something else than their text"


def _by_line(tools: str | None) -> str:
    """The definitions of tools, a field a line."""
    return json.dumps(json.loads(tools), indent=1, ensure_ascii=False) if tools else ""


def _content(message: str) -> str:
    body = _parsed(message)
    return str(body.get("content") or "") if body else message


class RecordedModel(ModelClient):
    """One role of a recording, in the place of its model. Speaks to nobody."""

    def __init__(self, role: str, settings: RoleSettings, recording: Recording) -> None:
        super().__init__(settings)
        self._role = role
        self._recording = recording

    async def chat(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, messages: Sequence[str], *, tools: str | None = None, **_: object
    ) -> Reply:
        """The role's next recorded answer, to the byte. Raises `EndpointRefused` when there is none left."""
        said = self._recording.answer(self._role, messages, tools)
        return Reply(
            message=said.message,
            content=_content(said.message),
            reasoning="",
            tool_calls=(),
            finish_reason=said.finish_reason,
            usage=said.usage,
            seconds=said.seconds,
            model="recorded",
        )
