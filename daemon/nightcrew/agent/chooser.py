"""The planner for a model too small for tools: it chooses, by JSON schema, the file to repair."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from nightcrew.agent.conversation import Conversation
from nightcrew.agent.ledger import Ledger
from nightcrew.agent.prompts import clip
from nightcrew.agent.suspects import Suspect, source_files
from nightcrew.domain import Plan, Step
from nightcrew.events import PlanWritten
from nightcrew.llm.client import ModelClient

MAX_FILES = 40
"""Choices that are offered: the suspicious files first, then the others by name."""

SYSTEM = """\
You choose which file of a repository must be changed, and say in one sentence what is wrong there. Answer with JSON."""


async def choose_plan(ledger: Ledger, client: ModelClient, files: Sequence[str], suspects: Sequence[Suspect]) -> Plan:
    """Journal and return a one-step plan on the file that the model chose. `files` are the tracked paths."""
    record = ledger.record
    assert record.checks_before is not None
    choices = offered(files, suspects)
    if not choices:
        plan = Plan(revision=1, summary="The repository has no source file to change.", steps=(Step(title="nothing"),))
    else:
        evidence = "\n".join(clip(result.output, 1000) for result in record.checks_before.results if not result.ok)
        conversation = Conversation(ledger, "planner", client)
        conversation.open(SYSTEM, _question(record.request.text, choices, evidence))
        if conversation.is_models_turn:
            await conversation.ask(response_format=_schema(choices), max_tokens=160)
        plan = read_choice(conversation.final_text(), choices)
    ledger.append(PlanWritten(plan=plan))
    return plan


def offered(files: Sequence[str], suspects: Sequence[Suspect]) -> list[str]:
    """At most `MAX_FILES` source files, the most suspicious first. Pure."""
    sources = source_files(files)
    known = set(sources)
    ranked = [suspect.path for suspect in suspects if suspect.path in known]
    return list(dict.fromkeys([*ranked, *sources]))[:MAX_FILES]


def _question(task: str, choices: Sequence[str], evidence: str) -> str:
    fails = f"\n\nThis fails:\n```\n{evidence.strip()}\n```" if evidence.strip() else ""
    listing = "\n".join(f"- {path}" for path in choices)
    return f"Task: {task}\n\nFiles:\n{listing}{fails}\n\nWhich file must be changed, and what is wrong?"


def _schema(choices: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "json_schema",
        "json_schema": {
            "name": "choice",
            "strict": True,
            "schema": {
                "type": "object",
                "properties": {
                    "file": {"type": "string", "enum": list(choices)},
                    "problem": {"type": "string", "maxLength": 240},
                },
                "required": ["file", "problem"],
                "additionalProperties": False,
            },
        },
    }


def read_choice(text: str, choices: Sequence[str]) -> Plan:
    """The plan out of the model's answer; its first choice where the answer cannot be read. Pure."""
    path, problem = choices[0], ""
    try:
        answer: Any = json.loads(text)
        path = answer["file"] if answer["file"] in choices else path
        problem = str(answer.get("problem", "")).strip()
    except (ValueError, KeyError, TypeError, AttributeError):
        problem = "The model's choice could not be read; the most suspicious file is taken."
    step = Step(title=f"Repair {path}", done_when="the failing checks pass", files=(path,))
    return Plan(revision=1, summary=problem, steps=(step,))
