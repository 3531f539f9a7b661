"""A folder that somebody swaps for a link to what is outside, as fast as they can, while files are used below it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from nightcrew_workspaces.errors import FileError
from nightcrew_workspaces.files import Files
from security.attack import Attack, Traces
from security.deeds import make_box, still_works
from security.world import PLANTED, SECRET

SECONDS = 20.0
_STOP = Path("/workspace/.stop")
_COUNT = Path("/workspace/.count")
# renameat2(RENAME_EXCHANGE): there is always something at both names.
_SWAPPER = """
import ctypes, os
exchange, swaps = ctypes.CDLL(None).renameat2, 0
while not os.path.exists(".stop"):
    for _ in range(100): exchange(-100, b"swap", -100, b"link", 2)
    swaps += 100
open(".count", "a").write(f"{swaps}\\n")
"""


@contextmanager
def _swapping() -> Iterator[None]:
    """Outside of any box, where the attacker is stronger than any model."""
    Path("swap").mkdir()
    Path("swap/secret").write_text("inside\n")
    Path("link").symlink_to("/outside")
    swapper = subprocess.Popen(["/usr/bin/python3", "-I", "-S", "-c", _SWAPPER], cwd="/workspace")
    try:
        yield
    finally:
        _STOP.touch()
        swapper.wait()


@dataclass
class _Tally:
    operations: int = 0
    refused: int = 0
    read: int = 0
    written: int = 0

    def seen(self, text: str) -> None:
        self.read += SECRET in text

    def wrote(self) -> None:
        if os.path.exists(PLANTED):
            os.unlink(PLANTED)
            self.written += 1

    def __str__(self) -> str:
        swaps = sum(map(int, _COUNT.read_text().split()))
        escapes = f"{self.read} reads and {self.written} writes outside"
        return f"{self.operations} operations ({self.refused} refused), {swaps} swaps, {escapes}"


@dataclass(frozen=True)
class Race:
    """Reads and writes below a folder that is swapped all the time. `ESCAPED` is said where one got out."""

    def unboxed(self) -> str:
        """Looks where a path really leads, and opens it then; ends as soon as a read or a write got out."""
        tally = _Tally()
        deadline = time.monotonic() + SECONDS
        with _swapping():
            while time.monotonic() < deadline and not (tally.read or tally.written):
                for name, mode in (("swap/secret", "r"), ("swap/planted", "w")):
                    tally.operations += 1
                    try:
                        if not os.path.realpath(name).startswith("/workspace/"):
                            tally.refused += 1
                            continue
                        with open(name, mode) as file:
                            text = file.read() if mode == "r" else str(file.write("x"))
                    except OSError:
                        tally.refused += 1
                    else:
                        tally.seen(text) if mode == "r" else tally.wrote()
        return f"{tally}{'; ESCAPED' if tally.read or tally.written else ''}"

    async def boxed(self) -> str:
        """Through the file helper, while a command in another box of the workspace swaps as well."""
        tally = _Tally()
        box = make_box()
        files = Files(box)
        with _swapping():
            async with anyio.create_task_group() as group:
                group.start_soon(
                    lambda: box.run(["/usr/bin/python3", "-I", "-S", "-c", _SWAPPER], seconds=SECONDS + 10)
                )
                deadline = time.monotonic() + SECONDS
                while time.monotonic() < deadline:
                    tally.operations += 2
                    try:
                        tally.seen((await files.read("swap/secret")).text)
                    except FileError:
                        tally.refused += 1
                    try:
                        await files.write("swap/planted", "x")
                    except FileError:
                        tally.refused += 1
                    tally.wrote()
                _STOP.touch()
        await files.aclose()
        await still_works(box)
        return f"{tally}{'; ESCAPED' if tally.read or tally.written else ''}"


def _escaped(traces: Traces) -> bool:
    return "ESCAPED" in traces.text


RACE = Attack("swapped-folder", "links", Race(), _escaped)
