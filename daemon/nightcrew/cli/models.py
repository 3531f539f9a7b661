"""`nightcrew model`: the embedded model's weights."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nightcrew.cli.output import HelpFlag, JsonFlag, emit, examples, out, say

if TYPE_CHECKING:
    from nightcrew.serving.weights import Progress

_STEP_SECONDS = 5.0
"""Between two lines about a fetch that goes into a log."""

_LONG_SECONDS = 36_000.0
"""A fetch that seems to need more has only begun, or stands still: nothing is said of its end."""

app = typer.Typer(
    name="model",
    help="The embedded model's weights: fetch them, say where they are, see that they are whole.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    add_help_option=False,
)


@app.callback()
def _group(_help: HelpFlag = False) -> None:  # pyright: ignore[reportUnusedFunction] - typer calls it
    pass


def register(parent: typer.Typer) -> None:
    """Add the commands."""
    parent.add_typer(app, short_help="The embedded model's weights.")


@app.command("fetch", epilog=examples("nightcrew model fetch", "nightcrew model fetch --from /media/usb/model.gguf"))
def fetch(
    source: Annotated[
        str | None, typer.Option("--from", metavar="PATH|URL", help="Take them from here, and try nothing else.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Fetch the weights (1.1 GB) from the first source that answers; one that was interrupted goes on where it stopped.

    Whoever gave them, they are taken when they have the SHA-256 that their maker published.
    """
    path = fetch_weights(source)
    if json:
        emit(_facts(path))
    else:
        out(str(path))


@app.command("path", epilog=examples("nightcrew model path"))
def path(json: JsonFlag = False) -> None:
    """Print where the weights are. Exits with 1 when they are not there."""
    from nightcrew.serving.weights import present

    found = present(_folder())
    if json:
        emit(_facts(found))
    elif found is not None:
        out(str(found))
    if found is None:
        say(f"no verified weights in {_folder()}: `nightcrew model fetch`")
        raise typer.Exit(1)


@app.command("verify", epilog=examples("nightcrew model verify"))
def verify(json: JsonFlag = False) -> None:
    """Read the whole file and compare its SHA-256. Exits with 1 when it is not the right one."""
    from nightcrew.serving.weights import EMBEDDED_WEIGHTS
    from nightcrew.serving.weights import verify as check

    file = _folder() / EMBEDDED_WEIGHTS.file
    check(file)
    if json:
        emit(_facts(file))
    else:
        out(f"{file}: SHA-256 {EMBEDDED_WEIGHTS.sha256}, as published")


def fetch_weights(source: str | None) -> Path:
    """Fetch the embedded model's weights, with progress on standard error; at once when they are there.

    Raises `WeightsError`.
    """
    import anyio

    from nightcrew.serving.weights import fetch as get

    meter = Meter()

    async def run() -> Path:
        return await get(_folder(), source=source, progress=meter.show)

    try:
        return anyio.run(run)
    finally:
        meter.end()


class Meter:
    """A fetch as one line that changes on a terminal, and as a line every few seconds in a log."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._shown = ""
        self._at = 0.0
        self._width = 0

    def show(self, progress: Progress) -> None:
        """Write how far it is, unless that was written just now."""
        text = _words(progress)
        if self._live:
            typer.echo("\r" + text.ljust(self._width), err=True, nl=False)
            self._width = len(text)
        elif progress.step + progress.source != self._shown or time.monotonic() - self._at >= _STEP_SECONDS:
            say(text)
            self._shown, self._at = progress.step + progress.source, time.monotonic()

    def end(self) -> None:
        """Leave the line that changed."""
        if self._live and self._width:
            say("")


def _words(progress: Progress) -> str:
    if progress.step == "waiting":
        return "waiting for another process that fetches the same"
    if progress.step == "checking":
        return f"checking what came from {progress.source}"
    share = 100 * progress.done / progress.total if progress.total else 100.0
    text = f"{share:3.0f} % of {progress.total / 1e6:,.0f} MB from {progress.source}"
    if (left := (progress.total - progress.done) / max(progress.speed, 1e-9)) < _LONG_SECONDS:
        text += f", {progress.speed / 1e6:.1f} MB/s, {left:.0f} s left"
    return text


def _folder() -> Path:
    from nightcrew.config import environment, models_dir

    return models_dir(environment())


def _facts(path: Path | None) -> dict[str, object]:
    from nightcrew.serving.weights import EMBEDDED_WEIGHTS

    weights = EMBEDDED_WEIGHTS
    return {
        "name": weights.name,
        "path": None if path is None else str(path),
        "present": path is not None,
        "bytes": weights.size,
        "sha256": weights.sha256,
        "license": weights.license,
    }
