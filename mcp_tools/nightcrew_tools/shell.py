"""The shell tools: one command in a box of its own, or one that goes on in the background while others run."""

from __future__ import annotations

import posixpath
import signal
from dataclasses import dataclass
from typing import Annotated

from nightcrew_tools.output import COMMAND_BYTES, ToolError, cut_middle
from nightcrew_tools.ports import OnOutput, WorkspacePort
from nightcrew_tools.reply import Reply
from nightcrew_tools.schema import tool
from nightcrew_workspaces.background import Reading
from nightcrew_workspaces.box import CommandResult

_FIRST_LOOK_SECONDS = 1.0
"""How long a started command is watched for an early end, and a read waits for something new."""
_LONGEST_WAIT_SECONDS = 300.0
_WAIT_SECONDS = 30.0
"""How long a read waits for a text, when it is not told."""

Args = Annotated[list[str] | None, "run without a shell: command is a program, these its arguments"]
Handle = Annotated[str, "from start_command"]


@dataclass(frozen=True)
class CommandFacts:
    """How a command ended."""

    ended: str
    """See `nightcrew_workspaces.running.Ended`."""
    exit_code: int | None
    seconds: float
    omitted_bytes: int
    """Of its output, from the middle."""


@dataclass(frozen=True)
class BackgroundFacts:
    """How a background command is."""

    handle: str
    state: str
    """`running`, `stopped`, or how it ended."""
    exit_code: int | None
    seconds: float
    omitted_bytes: int
    """Of the output since the last look, from the middle."""


class ShellTools:
    """Running commands in one workspace. `on_output` is given their output while they run."""

    def __init__(self, workspace: WorkspacePort, on_output: OnOutput | None = None) -> None:
        self._workspace = workspace
        self._on_output = on_output

    @tool(
        "Run a shell command. Each call is a new shell.",
        writes=True,
        destructive=True,
        facts=CommandFacts,
    )
    async def run_command(
        self,
        command: str,
        args: Args = None,
        cwd: str | None = None,
        stdin: str | None = None,
        timeout_seconds: float | None = None,
    ) -> Reply:
        most = self._workspace.box.policy.limits.seconds
        if timeout_seconds is not None and timeout_seconds <= 0:
            raise ToolError("bad_argument", f"timeout_seconds must be above 0, not {timeout_seconds:g}")
        seconds = most if timeout_seconds is None else min(timeout_seconds, most)
        result = await self._workspace.box.run(
            _command(command, args),
            seconds=seconds,
            stdin=(stdin or "").encode(),
            on_output=self._on_output,
            cwd=self._directory(cwd),
        )
        output, omitted = cut_middle(result.output, COMMAND_BYTES, result.omitted_bytes)
        facts = CommandFacts(result.ended, result.exit_code, round(result.seconds, 3), omitted)
        return Reply(f"{_ending(result, seconds)}\n{_shown(output)}", facts)

    @tool(
        "Start a command that goes on in the background, such as a server; other commands reach it at localhost.",
        writes=True,
        destructive=True,
        facts=BackgroundFacts,
    )
    async def start_command(self, command: str, args: Args = None, cwd: str | None = None) -> Reply:
        background = self._workspace.background
        handle = await background.start(_command(command, args), cwd=self._directory(cwd))
        try:
            return self._look(await background.read(handle, seconds=_FIRST_LOOK_SECONDS))
        except BaseException:  # nobody was told its handle
            await background.stop(handle)
            raise

    @tool("Read what a background command printed since the last read.", writes=True, facts=BackgroundFacts)
    async def read_output(
        self,
        handle: Handle,
        wait_for: Annotated[str | None, "text to wait for"] = None,
        wait_seconds: Annotated[float | None, "at most"] = None,
    ) -> Reply:
        standard = _FIRST_LOOK_SECONDS if wait_for is None else _WAIT_SECONDS
        seconds = standard if wait_seconds is None else max(0.0, min(wait_seconds, _LONGEST_WAIT_SECONDS))
        return self._look(await self._workspace.background.read(handle, seconds=seconds, until=wait_for))

    @tool("Write to a background command's standard input.", writes=True, facts=BackgroundFacts)
    async def write_input(
        self,
        handle: Handle,
        text: Annotated[str, "with its line end"],
        close: Annotated[bool, "end the input after it"] = False,
    ) -> Reply:
        background = self._workspace.background
        await background.write(handle, text, close=close)
        return self._look(await background.read(handle, seconds=_FIRST_LOOK_SECONDS))

    @tool("Stop a background command.", writes=True, destructive=True, facts=BackgroundFacts)
    async def stop_command(self, handle: Handle) -> Reply:
        return self._look(await self._workspace.background.stop(handle))

    def _directory(self, cwd: str | None) -> str | None:
        """Any directory that the box shows; a relative path begins where commands run."""
        return None if cwd is None else posixpath.normpath(posixpath.join(self._workspace.roots[0], cwd))

    def _look(self, reading: Reading) -> Reply:
        output, omitted = cut_middle(reading.output, COMMAND_BYTES, reading.omitted_bytes)
        facts = BackgroundFacts(reading.handle, reading.state, reading.exit_code, round(reading.seconds, 3), omitted)
        return Reply(f"{reading.handle}: {self._state(reading)}\n{_shown(output, 'no new output')}", facts)

    def _state(self, reading: Reading) -> str:
        match reading.state:
            case "running":
                return f"running for {reading.seconds:.1f} s"
            case "stopped":
                return f"stopped after {reading.seconds:.1f} s"
            case ended:
                return _ended(ended, reading.exit_code, reading.seconds, reading.reached)


def _ending(result: CommandResult, limit: float) -> str:
    if result.ended == "timeout":
        return f"stopped after {limit:g} s: timed out"
    return _ended(result.ended, result.exit_code, result.seconds, result.reached)


def _ended(how: str, exit_code: int | None, seconds: float, reached: str) -> str:
    match how:
        case "exited":
            return f"exit {exit_code} after {seconds:.1f} s" + (f" (limit: {reached})" if reached else "")
        case "timeout":
            return f"stopped after {seconds:.1f} s: timed out"
        case "signal":
            return f"killed by {_signal_name(exit_code)} after {seconds:.1f} s"
        case _:
            return f"killed: {reached}"


def _command(command: str, args: list[str] | None) -> str | list[str]:
    """A shell's line, or a program with its arguments; an empty list of them means nothing."""
    if not command.strip():
        raise ToolError("bad_argument", "command is empty")
    return [command, *args] if args else command


def _shown(output: str, nothing: str = "no output") -> str:
    return output.rstrip("\n") or f"({nothing})"


def _signal_name(exit_code: int | None) -> str:
    """Name of the signal behind an exit code of 128 + N."""
    try:
        return signal.Signals((exit_code or 0) - 128).name
    except ValueError:
        return "a signal"
