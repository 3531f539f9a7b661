"""Errors of the daemon.

NightcrewError
├── ConfigError          the configuration file is wrong: says file, key and what to write
├── TaskFileError        a task file is wrong: says line and reason
├── AttachmentRefused    what came with a task is against the rules, or gone
├── NetworkRefused       a task wants to reach more than this machine allows, or this machine cannot reach out
├── JournalError
│   ├── Stale            another worker took this task over: stop, report nothing
│   ├── JournalBusy      another service runs on this home
│   ├── JournalCorrupt   a stored event cannot be read
│   └── JournalUnavailable  the disk is full, read-only or fails: what runs stops, and goes on when that is over
├── ModelError
│   ├── EndpointDown     nothing answers there, or not in time: may pass
│   ├── EndpointRefused  the endpoint answered, and will not serve this request: will not pass
│   ├── ContextOverflow  the prompt is longer than the model's context
│   ├── EmbeddedError    the embedded model's server could not start: says what to do
│   └── ServingError     a crew's model server cannot be started, or does not stay up: says what to do
├── WeightsError         the embedded model's weights are wrong, or no source could give them
├── PullError            a crew's weights could not be fetched, or are not what the hub states: says what to do
├── NotPossible          a task stands in another way than what was asked of it needs
├── LimitReached         the task used up its minutes, tokens or attempts
└── Cancelled            a person cancelled the task
"""

from __future__ import annotations


class NightcrewError(Exception):
    """Root of the daemon's errors; its text is fit to be shown to a person."""


class ConfigError(NightcrewError):
    """The configuration is wrong."""


class TaskFileError(NightcrewError):
    """A task file is wrong. `line` counts from 1 and is None where no line can be named."""

    def __init__(self, reason: str, *, line: int | None = None) -> None:
        self.reason = reason
        self.line = line
        super().__init__(reason if line is None else f"line {line}: {reason}")


class AttachmentRefused(NightcrewError):
    """An attachment is against the rules, or is not there any more; the text says which one and why."""


class NetworkRefused(NightcrewError):
    """A task's network is more than the configuration allows, or cannot be had."""


class JournalError(NightcrewError):
    """The journal cannot be used."""


class Stale(JournalError):
    """An append met a sequence number that is taken: another worker owns the task now."""


class JournalBusy(JournalError):
    """Another service runs on this home."""


class JournalCorrupt(JournalError):
    """A stored event cannot be read."""


class JournalUnavailable(JournalError):
    """The journal cannot be written or read for now: the disk is full, read-only, fails, or another process holds it.

    Nothing of a task is lost by it, and nothing of it may be done without its journal.
    """


class ModelError(NightcrewError):
    """A model endpoint did not do what was asked."""


class EndpointDown(ModelError):
    """Nothing answers there, or not in time; it may pass."""


class EndpointRefused(ModelError):
    """The endpoint answered and will not serve this request."""


class ContextOverflow(ModelError):
    """The prompt is longer than the model's context."""


class EmbeddedError(ModelError):
    """The embedded model's server could not start, or ended by itself."""


class ServingError(ModelError):
    """A model server of a crew cannot be started, or does not stay up."""


class WeightsError(NightcrewError):
    """The embedded model's weights are wrong, or could not be fetched from any source."""


class PullError(NightcrewError):
    """A crew's weights could not be fetched, or are not what the hub states: says what to do."""


class NotPossible(NightcrewError):
    """What was asked of a task cannot be done as it stands."""


class LimitReached(NightcrewError):
    """The task used up its minutes, tokens or attempts."""


class Cancelled(NightcrewError):
    """A person cancelled the task."""
