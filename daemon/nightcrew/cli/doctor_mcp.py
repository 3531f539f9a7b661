"""What `nightcrew doctor` says of the service's own door for MCP clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightcrew.cli.doctor import Check

if TYPE_CHECKING:
    from pathlib import Path

    from nightcrew.config import Config, McpSettings
    from nightcrew_tools.tokens import Tokens


def mcp_check(config: Config) -> Check:
    """Whether the service could open the door, as far as that can be seen without opening it."""
    from nightcrew_tools.address import check_address, parse_address
    from nightcrew_tools.grants import outside_grants
    from nightcrew_workspaces.errors import WorkspaceError
    from nightcrew_workspaces.roots import check_roots, user_of_roots

    settings = config.mcp
    if settings.listen is None:
        return _closed(settings)
    try:
        grants = outside_grants(
            settings.tools,
            has_roots=bool(settings.roots),
            read_only=settings.read_only,
            allow=settings.allow,
            deny=settings.deny,
        )
        address = parse_address(settings.listen, settings.host_names)
        tokens = _tokens(settings)
        check_address(address, tokens)
        roots = check_roots(settings.roots) if settings.roots else ()
        if roots:
            user_of_roots(roots, read_only=grants.read_only, name=config.box.user)
    except (ValueError, WorkspaceError) as error:
        return Check("mcp", "fail", f"[mcp]: {error}", "correct it: `nightcrew up` will not start with this")
    what = f"http://{address.host}:{address.port}/mcp: {', '.join(sorted(grants.families))}"
    what += f" over {', '.join(map(str, roots))}" if roots else ""
    if tokens is None:
        what += "; no token is asked for"
    elif not tokens.scopes:
        what += f"; the first start makes {settings.token_file}"
    return Check("mcp", "ok", what)


def _closed(settings: McpSettings) -> Check:
    if settings.roots or settings.token_file or settings.host_names:
        return Check(
            "mcp", "warn", "[mcp] is there, but the door stays closed", 'say where: `listen = "127.0.0.1:8642"`'
        )
    return Check("mcp", "ok", "the service has no door for clients (`listen` under [mcp] opens one)")


def _tokens(settings: McpSettings) -> Tokens | None:
    """What the token file holds; nothing where the service has to make it first. Raises `TokenFileError`."""
    from nightcrew_tools.tokens import TokenFileError, Tokens, read_tokens

    if settings.token_file is None:
        return None
    path = settings.token_file.expanduser()
    if path.exists():
        return read_tokens(path)
    if not _can_make(path):
        raise TokenFileError(f"{path}: is not there and cannot be made there")
    return Tokens(())


def _can_make(path: Path) -> bool:
    import os

    from nightcrew.cli.doctor import nearest

    near = nearest(path.parent)
    return near.is_dir() and os.access(near, os.W_OK | os.X_OK)
