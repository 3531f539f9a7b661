"""Notices a model that goes round in circles: the same call with the same answer, or empty replies.

Computed from the transcript, so that a restart does not forget it.
"""

from __future__ import annotations

from nightcrew.agent.conversation import Call, Conversation, read_call

WARN_AFTER = 3
"""The same call with the same answer this many times in a row: the model is told."""
STOP_AFTER = 6
"""And this many times: the attempt ends."""
EMPTY_REPLIES = 3
"""Replies with neither text nor a call, one after the other, that end an attempt."""
NUDGE = "Your reply was empty."
"""Begins what a model hears after an empty reply."""
HARNESS_MARK = "\n\n[harness] "
"""Stands before what the harness adds to a tool's answer."""


def repeats(conversation: Conversation, call: Call | None = None, text: str = "") -> int:
    """How often the newest answered call stands at the transcript's end, one after the other, with the same answer.

    With `call` and `text`: how often that call with that answer stands there already.
    """
    history = _history(conversation)
    wanted = (call.signature, text) if call is not None else (history[-1] if history else None)
    count = 0
    for pair in reversed(history):
        if pair != wanted:
            break
        count += 1
    return count


def _history(conversation: Conversation) -> list[tuple[str, str]]:
    """Signature and answer of every answered call, in order."""
    signatures: dict[str, str] = {}
    history: list[tuple[str, str]] = []
    for body in conversation.messages:
        if body["role"] == "assistant":
            signatures |= {call.id: call.signature for call in map(read_call, body.get("tool_calls") or ())}
        elif body["role"] == "tool":
            answer = str(body["content"]).split(HARNESS_MARK)[0]
            history.append((signatures.get(body["tool_call_id"], ""), answer))
        elif body["role"] == "user":
            history.append(("", ""))  # something new was said: whoever was stuck gets his turns again
    return history


def empty_replies(conversation: Conversation) -> int:
    """How many of the model's newest messages in a row say nothing and call nothing."""
    count = 0
    for body in reversed(conversation.messages):
        if body["role"] == "user" and not str(body.get("content")).startswith(NUDGE):
            break
        if body["role"] != "assistant":
            continue
        if str(body.get("content") or "").strip() or body.get("tool_calls"):
            break
        count += 1
    return count
