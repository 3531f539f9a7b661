"""The log: one line for each thing that happened, JSON for machines and words for people, and no secret in either.

Whoever has something to log takes `logging.getLogger` or structlog, and says it the same way: what the standard library
and other packages log goes through here too. What is logged within `about_task` carries that task's id.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager
from typing import Any, Literal, TextIO

import structlog
from structlog.contextvars import bound_contextvars
from structlog.typing import EventDict, Processor, WrappedLogger

from nightcrew.secrecy import SECRETS

Format = Literal["auto", "json", "text"]
Level = Literal["debug", "info", "warning", "error"]

OWN = ("nightcrew", "nightcrew_tools", "nightcrew_workspaces")
"""Loggers that the configured level is for. What other packages log below a warning is for debugging alone."""

_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def to_journal(environ: Mapping[str, str], stream: TextIO) -> bool:
    """Whether the stream goes into systemd's journal; see `$JOURNAL_STREAM` in systemd.exec(5)."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


def wants_json(wanted: Format, environ: Mapping[str, str], stream: TextIO) -> bool:
    """`auto`: words for a terminal, JSON for everything else."""
    return wanted == "json" or (wanted == "auto" and (to_journal(environ, stream) or not stream.isatty()))


def set_up(level: Level, *, json: bool, environ: Mapping[str, str], stream: TextIO | None = None) -> None:
    """Send what this process logs to `stream`, standard error where there is none. May be called again."""
    target: TextIO = sys.stderr if stream is None else stream
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.StackInfoRenderer(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    last: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if json:
        last += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(sort_keys=False, default=str)]
    else:
        last += [structlog.processors.format_exc_info, _words]
    if json and to_journal(environ, target):
        last.append(_priority)
    handler = logging.StreamHandler(target)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[*last, _hide]))
    _take_over(handler, level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def _take_over(handler: logging.Handler, level: Level) -> None:
    root = logging.getLogger()
    for old in [one for one in root.handlers if getattr(one, "of_nightcrew", False)]:
        root.removeHandler(old)
    handler.of_nightcrew = True  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
    root.addHandler(handler)
    set_level(level)
    logging.captureWarnings(True)


def set_level(level: Level) -> None:
    """Log from this level on."""
    logging.getLogger().setLevel("DEBUG" if level == "debug" else "WARNING")
    for name in OWN:
        logging.getLogger(name).setLevel(level.upper())


def about_task(task: str) -> AbstractContextManager[None]:
    """While the block runs, what is logged from here on names the task."""
    return bound_contextvars(task=task)


def logger(name: str = "nightcrew") -> Any:  # structlog's own type is a protocol without methods
    """A logger that takes values by name: `logger().info("reloaded", keys=[…])`."""
    return structlog.get_logger(name)


def _words(_logger: WrappedLogger, _name: str, event: EventDict) -> str:
    """For people: what happened, then what belongs to it. Beside the lines of progress on a terminal."""
    exception = event.pop("exception", "")
    level, name, text = event.pop("level", ""), event.pop("logger", ""), event.pop("event", "")
    event.pop("time", None)
    more = "".join(f" {key}={value}" for key, value in event.items())
    line = f"{'':>9}  {level:<9} {name}: {_one_line(str(text))}{_one_line(more)}"
    return f"{line}\n{exception}" if exception else line


def _one_line(text: str) -> str:
    """What a model or another program wrote must not forge a line of the log, or move a terminal's cursor."""
    return "".join(one if one.isprintable() else " " for one in text)


def _priority(_logger: WrappedLogger, _name: str, text: MutableMapping[str, Any] | str) -> str:
    """The line with its level in front, as the journal takes it; see sd-daemon(3)."""
    for level, number in _PRIORITIES.items():
        if f'"level": "{level}"' in text:
            return f"<{number}>{text}"
    return f"<6>{text}"


def _hide(_logger: WrappedLogger, _name: str, text: MutableMapping[str, Any] | str) -> str:
    return SECRETS.hide(str(text))
