"""Start a program that ends with its parent: `python -P -m nightcrew.serving.leash PARENT_PID PROGRAM [ARGUMENT…]`.

The kernel keeps the wish across exec, so the program itself need not know of it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent ends, and end now if that has happened already."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def main() -> int:
    """Become the program. Returns only when that is not possible."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    die_with(parent)
    try:
        os.execvp(program[0], program)  # noqa: S606 - an argument list, no shell
    except OSError as error:
        sys.stderr.write(f"cannot start {program[0]}: {error.strerror}\n")
    return 127


if __name__ == "__main__":
    sys.exit(main())
