"""Chat templates rendered as SGLang renders them, and a conversation that has every shape of ours in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from nightcrew.agent.breaker import NUDGE
from nightcrew.agent.prompts import EXECUTOR, FINISH_STEP, message
from nightcrew.llm.control import as_sent
from nightcrew.llm.dialect import read_call
from nightcrew.llm.wire import dumps
from nightcrew.serving.templates import template_path

OWN = Path(__file__).parent / "templates"

Message = dict[str, Any]

TOOLS: list[Message] = [
    {
        "type": "function",
        "function": {
            "name": "read_file",
            "description": "Read a file.",
            "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
        },
    },
    FINISH_STEP,
]


class _Generation(Extension):
    """`{% generation %}`: marks what the model wrote, and renders as what stands in it."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> jinja2.Environment:
    """The one that `transformers` makes (`utils/chat_template_utils.py`)."""

    def raise_exception(text: str) -> None:
        raise jinja2.TemplateError(text)

    def tojson(value: object, ensure_ascii: bool = False, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = lambda form: datetime.now(UTC).strftime(form)
    return made


ENVIRONMENT = _environment()


@cache
def compiled(template: str) -> jinja2.Template:
    return ENVIRONMENT.from_string(text_of(template))


def text_of(template: str) -> str:
    """Of a template that ships with Nightcrew (`qwen3.jinja`), or of a model's own (`Qwen3.jinja`)."""
    path = OWN / template
    return (path if path.exists() else template_path(template)).read_text(encoding="utf-8")


def render(template: str, texts: list[str], *, thinking: bool | None = None, tools: bool = True) -> str:
    """The prompt that SGLang makes of a request with these messages.

    It parses the arguments of calls, takes an absent content for an empty one, and leaves absent fields out.
    """
    messages: list[Message] = [json.loads(text) for text in texts]
    for body in messages:
        body["content"] = body.get("content") or ""
        for call in body.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return compiled(template).render(
        messages=messages,
        tools=TOOLS if tools else None,
        add_generation_prompt=True,
        bos_token="<bos>",
        eos_token="<eos>",
        **({} if thinking is None else {"enable_thinking": thinking}),
    )


class Talk:
    """A conversation in the making, of the messages that the harness sends; `requests` are those it has been asked."""

    def __init__(self, system: str = EXECUTOR, user: str = "# Task\nRound once.\n\nBegin with step 1.") -> None:
        self.texts = [message("system", system), message("user", user)]
        self.requests: list[list[str]] = []
        self._calls = 0

    def says(self, content: str = "", *calls: dict[str, Any] | str, thoughts: str = "") -> Talk:
        """The model's reply to what stands there; each call is read_file with these arguments."""
        self.requests.append([as_sent(text) for text in self.texts])
        body: Message = {"role": "assistant", "content": content}
        body |= {"reasoning_content": thoughts} if thoughts else {}
        made = []
        for arguments in calls:
            raw = arguments if isinstance(arguments, str) else json.dumps(arguments)
            made.append(read_call(self._calls, "read_file", raw).as_sent())
            self._calls += 1
        body |= {"tool_calls": made} if made else {}
        self.texts.append(dumps(body))
        return self

    def hears(self, *answers: str) -> Talk:
        """The answers of the calls just made."""
        calls = json.loads(self.texts[-1])["tool_calls"]
        for call, answer in zip(calls, answers, strict=True):
            self.texts.append(dumps({"role": "tool", "tool_call_id": call["id"], "content": answer}))
        return self

    def is_told(self, text: str) -> Talk:
        self.texts.append(message("user", text))
        return self


def long_talk(
    turns: int = 30, *, users: bool = True, empty: bool = True, thinks: Callable[[int], object] = lambda turn: turn % 3
) -> Talk:
    """`turns` replies: with and without thoughts and text, several calls at once, broken arguments, an empty reply and
    its nudge, an end that was none and the evidence after it."""
    talk = Talk()
    for turn in range(turns):
        thoughts = f"\nStep {turn}.\n\nRead on.\n" if thinks(turn) else ""
        if users and turn % 10 == 7:
            talk.says("All done, I think.", thoughts=thoughts)
            talk.is_told("The checks fail:\n`pytest` fails with exit code 1\n2 failed")
        elif empty and turn % 10 == 4:
            talk.says(thoughts=thoughts).is_told(f"{NUDGE} Go on with a tool call, or call finish_step.")
        elif turn % 10 == 5:
            talk.says("\n\nTwo at once.", {"path": f"{turn}.py"}, {"path": "ü.py"}, thoughts=thoughts)
            talk.hears(f"1: print({turn})\n", "error[not_found]: ü.py")
        elif turn % 10 == 8:
            talk.says("", '{"path": ', thoughts=thoughts).hears("error[bad_arguments]: not a JSON object")
        else:
            talk.says("Let me see." if turn % 2 else "", {"path": f"src/{turn}.py"}, thoughts=thoughts)
            talk.hears(f"   1  x = {turn}\n   2  <table>  {{% if %}} ¦\n")
    talk.requests.append([as_sent(text) for text in talk.texts])
    return talk


def common(one: str, other: str) -> int:
    """How many characters two texts begin with together."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def breaks(prompts: list[str], shared: Callable[[str, str], int] = common) -> list[tuple[int, float]]:
    """The prompts that do not begin with the one before, by number, and the share of that one which they keep."""
    return [
        (number, shared(before, after) / len(before))
        for number, (before, after) in enumerate(pairwise(prompts), 1)
        if after[: len(before)] != before
    ]
