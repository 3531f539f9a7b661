"""The loop of a role with native tool calls: ask, run what was called, answer, until its own ending tool is called.

The whole state is the transcript: the loop looks at its last message and does what comes next, so it does not matter
whether the process is the one that began the conversation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from nightcrew.agent.breaker import EMPTY_REPLIES, HARNESS_MARK, NUDGE, STOP_AFTER, WARN_AFTER, empty_replies, repeats
from nightcrew.agent.conversation import Call, Conversation
from nightcrew.agent.toolbox import Toolbox
from nightcrew_workspaces.workspace import Workspace


@dataclass(frozen=True)
class Refusal:
    """The loop's own tool did not end it: the answer that the model gets."""

    text: str
    is_error: bool = True


INTERRUPTED = (
    "INTERRUPTED: the service was stopped while this ran, and its outcome is unknown. It is not run again by itself, "
    "since it may have had effects outside of the workspace: check first. The workspace is as it was before the call."
)
"""The answer to a call that could have reached the outside and was cut off."""

Ending = Callable[[Call], Awaitable[Refusal | None]]
"""Handles the loop's own tool. A refusal is its answer; None ends the loop with the call unanswered."""


class Stuck(Exception):
    """The model goes round in circles or says nothing any more."""


async def tool_loop(
    conversation: Conversation,
    toolbox: Toolbox,
    workspace: Workspace,
    *,
    ending: str,
    on_end: Ending,
    max_turns: int,
) -> Call | None:
    """Run until the tool named `ending` is accepted, and return its call; None when the model ended with plain text.

    Raises `Stuck`, or what asking the model raises.
    """
    while True:
        calls = conversation.pending()
        if calls:
            done = await _run_next(conversation, toolbox, workspace, calls, ending, on_end)
            if done is not None:
                return done
        elif conversation.is_models_turn:
            _stop_circles(conversation, max_turns)
            await conversation.ask()
        elif conversation.final_text():
            return None
        else:
            if empty_replies(conversation) >= EMPTY_REPLIES:
                raise Stuck(f"the model gave {EMPTY_REPLIES} empty replies, one after the other")
            conversation.add("user", f"{NUDGE} Go on with a tool call, or call {ending}.")


async def _run_next(
    conversation: Conversation, toolbox: Toolbox, workspace: Workspace, calls: list[Call], ending: str, on_end: Ending
) -> Call | None:
    """Run the first pending call. Returns it when it ended the loop."""
    call = calls[0]
    if call.problem:
        conversation.answer(call, f"error[bad_arguments]: {call.problem}", is_error=True)
    elif call.name == ending:
        refusal = await on_end(call)
        if refusal is None:
            return call
        conversation.answer(call, refusal.text, is_error=refusal.is_error)
    elif conversation.was_begun(call):
        conversation.answer(call, INTERRUPTED, is_error=True)
    else:
        if toolbox.reaches_out(call.name):
            conversation.begin(call)
        answer = await toolbox.call(call.name, call.arguments)
        tree = (await workspace.checkpoint()).tree if toolbox.changes_files(call.name) else None
        text = answer.text + _warning(conversation, call, answer.text)
        conversation.answer(call, text, is_error=answer.is_error, tree=tree, seconds=answer.seconds)
    return None


def _warning(conversation: Conversation, call: Call, text: str) -> str:
    """A word behind an answer that the model has had several times already."""
    seen = repeats(conversation, call, text)
    if seen < WARN_AFTER - 1:
        return ""
    return f"{HARNESS_MARK}This is the same call with the same answer, {seen + 1} times in a row. Do something else."


def _stop_circles(conversation: Conversation, max_turns: int) -> None:
    replies = sum(1 for body in conversation.messages if body["role"] == "assistant")
    if repeats(conversation) >= STOP_AFTER:
        raise Stuck(f"the model made the same call with the same answer {STOP_AFTER} times in a row")
    if replies >= max_turns:
        raise Stuck(f"the conversation reached {max_turns} replies without an end")
