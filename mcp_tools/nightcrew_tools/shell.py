"""The shell tool: one command in a box of its own, its output shown from both ends."""

from __future__ import annotations

import signal

from nightcrew_tools.output import COMMAND_BYTES, ToolError, head_and_tail
from nightcrew_tools.ports import OnOutput, WorkspacePort
from nightcrew_tools.schema import tool
from nightcrew_workspaces.box import CommandResult


class ShellTools:
    """Running commands in one workspace. `on_output` is given their output while they run."""

    def __init__(self, workspace: WorkspacePort, on_output: OnOutput | None = None) -> None:
        self._workspace = workspace
        self._on_output = on_output

    @tool("Run a shell command in /workspace. Each call is a new shell.", writes=True, destructive=True)
    async def run_command(self, command: str, timeout_seconds: float | None = None) -> str:
        if not command.strip():
            raise ToolError("bad_argument", "command is empty")
        most = self._workspace.box.policy.limits.seconds
        if timeout_seconds is not None and timeout_seconds <= 0:
            raise ToolError("bad_argument", f"timeout_seconds must be above 0, not {timeout_seconds:g}")
        seconds = most if timeout_seconds is None else min(timeout_seconds, most)
        result = await self._workspace.box.run(command, seconds=seconds, on_output=self._on_output)
        output = head_and_tail(result.output, COMMAND_BYTES, omitted=result.omitted_bytes).rstrip("\n")
        return f"{self._ending(result, seconds)}\n{output or '(no output)'}"

    def _ending(self, result: CommandResult, seconds: float) -> str:
        match result.ended:
            case "exited":
                return f"exit {result.exit_code} after {result.seconds:.1f} s"
            case "timeout":
                return f"stopped after {seconds:g} s: timed out"
            case "memory":
                return f"killed: over {self._workspace.box.policy.limits.memory_mib} MiB of memory"
            case "output":
                return f"killed after {result.seconds:.1f} s: too much output"
            case "signal":
                return f"killed by {_signal_name(result.exit_code)} after {result.seconds:.1f} s"


def _signal_name(exit_code: int | None) -> str:
    """Name of the signal behind an exit code of 128 + N."""
    try:
        return signal.Signals((exit_code or 0) - 128).name
    except ValueError:
        return "a signal"
