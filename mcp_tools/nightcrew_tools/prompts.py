"""Prompts that a person picks in the client: writing a task well, and reviewing what came of one."""

from __future__ import annotations

from mcp.server.mcpserver.prompts import Prompt
from mcp.server.mcpserver.prompts.base import PromptArgument

_WRITE = """\
Write a task for Nightcrew, which works on it unattended and delivers a git branch only when its checks pass.

Repository: {repo}
What is wanted: {goal}

Look at the repository first. Then write one Markdown text: a heading that names the result in a few words; what is
wrong or missing now and where; what shall be true afterwards, so that a test can tell; what must not change. Name
commands that must exit with 0 in the result as checks. Leave out how to do it, unless there is only one right way. Show
the text, and after it was agreed to, submit it with task_submit.
"""

_REVIEW = """\
Review what task {task} delivered, as for a pull request.

Read its report (task_report) and its diff (task_diff), and the files around each change. The checks passed; look for
what they do not see: whether it does what the task asked, and only that; cases that no test covers; tests that were
weakened; names and style that do not fit; risks in running it. Say first whether you would merge it, then each finding
with its file and line, the most important first.
"""


def _write_task(goal: str, repo: str = "the current one") -> str:
    return _WRITE.format(goal=goal, repo=repo)


def _review_branch(task: str) -> str:
    return _REVIEW.format(task=task)


def prompts() -> list[Prompt]:
    """The prompts, in the order in which a client shows them."""
    return [
        Prompt(
            name="write_task",
            title="Write a task",
            description="Turn a wish into a task that can be worked on and checked unattended.",
            arguments=[
                PromptArgument(name="goal", description="What is wanted", required=True),
                PromptArgument(name="repo", description="Path or URL of the repository"),
            ],
            fn=_write_task,
            context_kwarg=None,
        ),
        Prompt(
            name="review_branch",
            title="Review a branch",
            description="Review what a task delivered.",
            arguments=[PromptArgument(name="task", description="Id of the task", required=True)],
            fn=_review_branch,
            context_kwarg=None,
        ),
    ]
