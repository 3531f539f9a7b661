"""`nightcrew mcp`: files, git, shell and tasks for outside clients, over standard input and output or HTTP."""

from __future__ import annotations

import shutil
import sys
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from json import loads
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from nightcrew.cli.clients import CLIENTS, ClientName
from nightcrew.cli.output import HelpFlag, JsonFlag, emit, examples, out, say

if TYPE_CHECKING:
    from nightcrew.config import Config
    from nightcrew_tools.address import Address
    from nightcrew_tools.clients import Facts
    from nightcrew_tools.grants import Grants
    from nightcrew_tools.session import Offer
    from nightcrew_tools.tokens import Tokens

_MCP = examples(
    "nightcrew mcp --root ~/src/shop                          for a client that starts it and talks over stdio",
    "nightcrew mcp --root ~/src/shop --read-only --tools files,git",
    "nightcrew mcp --root . --deny run_command                everything but commands",
    "nightcrew mcp --tools tasks                              the queue of `nightcrew up` alone",
    "nightcrew mcp --root . --http 127.0.0.1:8642 --token-file ~/.config/nightcrew/mcp.token",
    "ssh build-host nightcrew mcp --root /srv/shop            from a Mac or Windows client",
    "nightcrew mcp install claude-code --root .               prints the client's configuration",
)

Root = Annotated[
    list[Path] | None,
    typer.Option(
        "--root", metavar="DIR", help="A directory that the tools may see; again for more. The first is home."
    ),
]
ReadOnly = Annotated[bool, typer.Option("--read-only", help="Only tools that change nothing; roots are read-only.")]
ToolNames = Annotated[
    str | None, typer.Option("--tools", metavar="LIST", help="Of files, git, shell, tasks. Default: all that can work.")
]
Allow = Annotated[list[str] | None, typer.Option("--allow", metavar="NAME", help="Only this tool; again for more.")]
Deny = Annotated[list[str] | None, typer.Option("--deny", metavar="NAME", help="Not this tool; again for more.")]

_INSTALL = examples(
    "nightcrew mcp install claude-code --root . --write      into .mcp.json of this project",
    "nightcrew mcp install claude-desktop --root ~/src/shop",
    "nightcrew mcp install cursor --url http://127.0.0.1:8642/mcp",
    "nightcrew mcp install claude-desktop --ssh build-host --root /srv/shop --system Darwin",
)

app = typer.Typer(rich_markup_mode=None, add_help_option=False, pretty_exceptions_enable=False)


def register(parent: typer.Typer) -> None:
    """Add the command and its own commands."""
    parent.add_typer(app, name="mcp", short_help="Serve files, git, shell and tasks to MCP clients.", epilog=_MCP)


@app.callback(invoke_without_command=True)
def mcp(
    context: typer.Context,
    root: Root = None,
    read_only: ReadOnly = False,
    tools: ToolNames = None,
    allow: Allow = None,
    deny: Deny = None,
    http: Annotated[
        str | None,
        typer.Option("--http", metavar="HOST:PORT", help="Serve over HTTP there, at /mcp, instead of stdio."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", metavar="FILE", help="Bearer tokens for --http; made where it is not there."),
    ] = None,
    host_name: Annotated[
        list[str] | None, typer.Option("--host-name", metavar="NAME", help="A name under which clients reach --http.")
    ] = None,
    facts: Annotated[
        Literal["auto", "always", "never"],
        typer.Option("--facts", metavar="WHO", help="Typed facts beside the text: auto, always or never."),
    ] = "auto",
    audit: Annotated[
        Path | None, typer.Option("--audit", metavar="FILE", help="Log of calls. Default: mcp-audit.jsonl in the home.")
    ] = None,
    _help: HelpFlag = False,
) -> None:
    """Serve files, git, shell and tasks to MCP clients: Claude Desktop, Claude Code, VS Code, Cursor, Zed.

    Everything runs in a box that sees the roots and the system's programs, without a network and without your keys.
    The tools work on the files themselves: there is no clone. Exits with 0 when the client goes, 2 for bad usage.
    """
    if context.invoked_subcommand is not None:
        return
    import anyio

    from nightcrew.config import load_config
    from nightcrew_tools.address import UnsafeAddress, check_address, parse_address
    from nightcrew_tools.tokens import TokenFileError, make_token_file, read_tokens
    from nightcrew_workspaces.errors import RootRefused

    if http is None and (token_file is not None or host_name):
        raise typer.BadParameter("these belong to --http", param_hint="--token-file, --host-name")
    config = load_config()
    try:
        grants = _grants(tools, root, read_only=read_only, allow=allow, deny=deny)
        serve = Serve(config, grants, tuple(root or ()), facts, audit or config.mcp_audit)
        if http is None:
            anyio.run(serve.stdio)
            return
        address = parse_address(http, tuple(host_name or ()))
        if token_file is not None and not token_file.exists():
            make_token_file(token_file)
            say(f"made {token_file} with a new token; clients send it as `Authorization: Bearer TOKEN`")
        tokens = None if token_file is None else read_tokens(token_file)
        check_address(address, tokens)
        anyio.run(serve.http, address, tokens)
    except (ValueError, UnsafeAddress, TokenFileError, RootRefused) as error:
        raise typer.BadParameter(str(error)) from error


@app.command("install", short_help="Print or write a client's configuration.", epilog=_INSTALL)
def install(
    client: Annotated[ClientName, typer.Argument(metavar="CLIENT", help=f"One of {', '.join(CLIENTS)}.")],
    root: Root = None,
    read_only: ReadOnly = False,
    tools: ToolNames = None,
    allow: Allow = None,
    deny: Deny = None,
    url: Annotated[
        str | None, typer.Option("--url", metavar="URL", help="A server that runs already (--http).")
    ] = None,
    ssh: Annotated[
        str | None, typer.Option("--ssh", metavar="HOST", help="The server is on this machine, reached by ssh.")
    ] = None,
    system: Annotated[
        Literal["Linux", "Darwin", "Windows"] | None,
        typer.Option("--system", help="Where the client runs, if not here."),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="What the client calls the server.")] = "nightcrew",
    write: Annotated[bool, typer.Option("--write", help="Write it; the file as it was is kept as NAME.bak.")] = False,
    json: JsonFlag = False,
    _help: HelpFlag = False,
) -> None:
    """Print the configuration that a client needs for this server, and where it belongs; with --write, put it there.

    Exits with 0, or with 2 where the client cannot come to such a server or its file is not plain JSON.
    """
    import platform

    from nightcrew.cli.clients import Reached, Started, merged, over_ssh, place

    if url is not None and (root or ssh):
        raise typer.BadParameter(
            "--url is for a server that runs already; --root and --ssh are for one that is started"
        )
    try:
        if url is not None:
            server: Started | Reached = Reached(url)
        else:
            words = started_arguments(root, read_only=read_only, tools=tools, allow=allow, deny=deny, here=ssh is None)
            server = Started(_own_program(), words) if ssh is None else over_ssh(ssh, words, program="nightcrew")
        placed = place(
            client,
            server,
            home=Path.home(),
            project=Path.cwd(),
            system=system or platform.system(),
        )
        before = placed.file.read_text(encoding="utf-8") if write and placed.file.exists() else ""
        text = merged(before, placed, name)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if write and text != before:
        _replace(placed.file, text, before)
    if json:
        emit({"file": str(placed.file), "written": write, "configuration": loads(merged("", placed, name))})
        return
    if not write:
        out(merged("", placed, name).rstrip("\n"))
    say(f"{'written to' if write else 'belongs in'} {placed.file}" + (f"; {placed.note}" if placed.note else ""))
    if url is None and not root:
        say("without --root it offers the task tools alone")


def started_arguments(
    root: list[Path] | None,
    *,
    read_only: bool,
    tools: str | None,
    allow: list[str] | None,
    deny: list[str] | None,
    here: bool,
) -> tuple[str, ...]:
    """The command line after `nightcrew` for a client that starts the server; roots of this machine are made absolute.

    Raises `ValueError` for what the server would refuse.
    """
    _grants(tools, root, read_only=read_only, allow=allow, deny=deny)
    options: list[str] = []
    for path in root or ():
        options += ["--root", str(path.expanduser().resolve()) if here else str(path)]
    options += ["--read-only"] if read_only else []
    options += ["--tools", tools] if tools else []
    for flag, names in (("--allow", allow), ("--deny", deny)):
        for each in names or ():
            options += [flag, each]
    return ("mcp", *options)


def _grants(
    tools: str | None, root: list[Path] | None, *, read_only: bool, allow: list[str] | None, deny: list[str] | None
) -> Grants:
    from nightcrew_tools.grants import outside_grants

    names = [name.strip() for name in tools.split(",") if name.strip()] if tools else None
    return outside_grants(names, has_roots=bool(root), read_only=read_only, allow=allow, deny=deny or ())


@dataclass(frozen=True)
class Serve:
    """One run of the command."""

    config: Config
    grants: Grants
    roots: tuple[Path, ...]
    facts: Facts
    audit: Path

    async def stdio(self) -> None:
        """Serve the client on standard input and output until it goes."""
        from nightcrew_tools.session import serve_stdio

        async with self._offer() as offer:
            await serve_stdio(offer)

    async def http(self, address: Address, tokens: Tokens | None) -> None:
        """Serve over HTTP until SIGINT or SIGTERM."""
        import signal

        import anyio

        from nightcrew_tools.session import serving_http

        async with self._offer() as offer, serving_http(offer, address, tokens) as port:
            say(f"serving MCP at http://{address.host}:{port}/mcp" + ("" if tokens else ", to anyone on this machine"))
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for _ in signals:
                    return

    def _offer(self) -> AbstractAsyncContextManager[Offer]:
        from nightcrew.service.outside import open_offer

        return open_offer(self.config, self.grants, self.roots, facts=self.facts, audit=self.audit)


def _own_program() -> str:
    """This very program by its absolute path: clients are started with another PATH than a shell's."""
    beside = Path(sys.executable).with_name("nightcrew")
    found = str(beside) if beside.exists() else shutil.which("nightcrew")
    return str(Path(found).absolute()) if found else "nightcrew"


def _replace(file: Path, text: str, before: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if before:
        file.with_name(f"{file.name}.bak").write_text(before, encoding="utf-8")
    fresh = file.with_name(f".{file.name}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(file)
