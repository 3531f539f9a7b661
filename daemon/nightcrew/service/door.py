"""What is asked of a task before it is let in: that its repository and its crew exist, and its network is allowed."""

from __future__ import annotations

from urllib.parse import urlsplit

from nightcrew.config import Config, config_path, environment
from nightcrew.crew import settings_of
from nightcrew.errors import ConfigError, NetworkRefused, TaskFileError
from nightcrew.journal.locks import private_directory
from nightcrew.network import outside, task_may
from nightcrew.secrecy import SECRETS
from nightcrew_tools.contract import TaskRequest
from nightcrew_workspaces.errors import WorkspaceError
from nightcrew_workspaces.git import Git, safe_config
from nightcrew_workspaces.repository import unwritable
from nightcrew_workspaces.source import Source, is_url, look


async def validate(config: Config, request: TaskRequest) -> None:
    """Refuse what could never run: a crew that nobody defined, a network that is not allowed, a source that is not
    there, is not git, has no commit or not this base, or cannot take the result. A URL is taken as it is: only a fetch
    could tell more. Raises `TaskFileError`.
    """
    if request.crew is not None:
        try:
            settings_of(request.crew, config, environment())
        except ConfigError as error:
            raise TaskFileError(f"`crew`: {error}") from None
    if request.network is not None:
        try:
            task_may(config.network, request.network)
            outside(config.network, environment())
        except NetworkRefused as error:
            raise TaskFileError(f"`network`: {error} in {config_path(environment())}") from None
    if is_url(request.repo):
        if _has_login(request.repo):
            raise TaskFileError(
                "`repo`: a name and password in the URL would stand in the task's journal; write them into ~/.netrc of "
                "the account that Nightcrew runs as (machine HOST login NAME password ...), and the URL without them"
            )
        return
    private_directory(config.home)
    git = Git(safe_config(config.home))
    # The branch of a task that this one comes after is not there yet.
    later = bool(request.after) and (request.base or "").startswith("nightcrew/")
    try:
        source = await look(git, Source(request.repo, None if later else request.base), config.home / "mirrors")
        closed = unwritable(git, source.git_dir) if request.deliver == "branch" else None
    except (WorkspaceError, OSError) as error:
        raise TaskFileError(f"`repo`: {error}") from error
    if closed is not None:
        raise TaskFileError(
            f"`repo`: the result could not become a branch, since {closed} cannot be written: change its owner or "
            "mode, or say `deliver: patch`"
        )


def _has_login(url: str) -> bool:
    """Whether the URL holds a secret: `ssh://git@host` names an account and no more."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "@" in url and "://" in url
    secret = parts.password is not None or (parts.scheme in {"http", "https"} and parts.username is not None)
    if secret:
        SECRETS.add_url(url)
    return secret
