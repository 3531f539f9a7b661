"""What a model server's log says when it goes wrong: one sentence for a person, with what to do.

The words are those of SGLang 0.5.23, PyTorch and CUDA; the first line of the table that fits decides, so what is
special stands before what is general.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "unknown-flag",
    "bad-value",
    "port-taken",
    "driver",
    "cuda",
    "missing-model",
    "damaged-model",
    "tokenizer",
    "context",
    "gpu-memory",
    "host-memory",
    "killed",
    "not-installed",
    "stuck",
    "crashed",
]

_PULL = "fetch the weights (`nightcrew crew pull CREW`), or say under [serving.models] where they lie"
_DRIVER = "install a driver that the CUDA of this PyTorch accepts (nvidia-smi names the driver and its newest CUDA)"
_SMALLER = (
    "stop what else uses the card (nvidia-smi lists it), or plan with less: a shorter context, fp8 KV cache, another "
    "checkpoint (`nightcrew crew plan CREW --gpu-gib N`)"
)
_NEWER = "its version does not know it: install sglang 0.5.20 or newer, or correct [serving] extra_args"


@dataclass(frozen=True)
class Trouble:
    """Why a server ended or does not start."""

    kind: Kind
    seen: str
    """What happened, in words."""
    advice: str
    passing: bool = False
    """Whether the same start may well work in a while. What is not passing is not tried again."""

    @property
    def sentence(self) -> str:
        return f"{self.seen}: {self.advice}" if self.advice else self.seen


@dataclass(frozen=True)
class _Sign:
    kind: Kind
    pattern: re.Pattern[str]
    seen: str
    """May name groups of the pattern as `{name}`."""
    advice: str
    passing: bool = False


def _sign(kind: Kind, pattern: str, seen: str, advice: str, *, passing: bool = False) -> _Sign:
    return _Sign(kind, re.compile(pattern), seen, advice, passing)


_PORT = _sign(
    "port-taken",
    r"\[Errno 98\].*\('?(?P<what>[\d.]+)'?, (?P<value>\d+)\).*address already in use",
    "port {value} is taken by another program",
    "stop it (`ss -ltnp` names it), or give the model another port in the crew file",
    passing=True,
)

_SIGNS = (
    _sign(
        "not-installed",
        r"No module named '?sglang|cannot start .*python.*: No such file",
        "the interpreter that servers are started with has no sglang",
        "make an environment for it (`nightcrew doctor` says how), and let [serving] python name its interpreter",
    ),
    _sign("unknown-flag", r"error: unrecognized arguments: (?P<what>.{1,80})", "SGLang refused {what}", _NEWER),
    _sign(
        "bad-value",
        r"error: argument (?P<what>\S+): (?:invalid choice: (?P<value>'[^']{1,60}')|.{1,80})",
        "SGLang refused the value of {what} {value}",
        _NEWER,
    ),
    _PORT,
    _sign(
        "driver",
        r"NVIDIA driver on your system is too old \(found version (?P<what>\d+)\)",
        "the NVIDIA driver is too old for this PyTorch (it offers CUDA {what})",
        _DRIVER,
    ),
    _sign(
        "driver",
        r"Found no NVIDIA driver|nvidia-smi not found|CUDA driver initialization failed|No CUDA GPUs are available"
        r"|NVML.*(?:Not Found|Uninitialized|Unknown Error)|No accelerator \(CUDA|no GPU .*detected"
        r"|Torch not compiled with CUDA enabled|has no attribute '_cuda_",
        "no usable NVIDIA card was found",
        "see whether nvidia-smi runs for this user and lists the cards of the plan, and that PyTorch is a CUDA build",
    ),
    _sign(
        "cuda",
        r"no kernel image is available|CUDA capability (?P<what>sm_\d+) is not compatible|Unsupported gpu architecture"
        r"|Could not find nvcc|nvcc fatal|Ninja is required|CUDA_HOME environment variable is not set",
        "PyTorch, the kernels or nvcc were not made for this card {what}",
        "install the CUDA toolkit that this sglang asks for (12.9 or newer for RTX 50 and RTX PRO 6000) and a matching "
        "PyTorch",
    ),
    _sign(
        "cuda",
        r"CUDA error: (?P<what>an illegal memory access|device-side assert|unspecified launch failure|"
        r"uncorrectable ECC error)",
        "the card reported {what}",
        "it is started again; if that repeats, look into `dmesg` for Xid lines, and try another attention backend",
        passing=True,
    ),
    _sign(
        "gpu-memory",
        r"torch\.OutOfMemoryError|CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED"
        r"|NCCL .*out of memory",
        "the card ran out of memory",
        _SMALLER,
        passing=True,
    ),
    _sign(
        "gpu-memory",
        r"Not enough memory\. Please try to increase --mem-fraction-static",
        "nothing was left for the KV cache after the weights",
        _SMALLER,
        passing=True,
    ),
    _sign(
        "host-memory",
        r"Not enough host memory|Unable to mmap|cannot allocate memory|Cannot allocate memory"
        r"|DefaultCPUAllocator: can't allocate",
        "main memory ran out",
        "stop something, or ask for a smaller HiCache",
        passing=True,
    ),
    _sign(
        "missing-model",
        r"couldn't find them in the cached files|LocalEntryNotFoundError|OfflineModeIsEnabled"
        r"|OSError: Repo id must be in the form|does not appear to have a file named config\.json"
        r"|Cannot find any model weights with|Can't load the configuration of",
        "the model's files are not on this machine",
        _PULL,
    ),
    _sign(
        "damaged-model",
        r"SafetensorError|Error while deserializing header|HeaderTooLarge|MetadataIncompleteBuffer|Missing shard"
        r"|incomplete checkpoint",
        "the model's files are damaged or not whole",
        "fetch them again (`nightcrew crew pull CREW`)",
    ),
    _sign(
        "tokenizer",
        r"Couldn't instantiate the backend tokenizer|Can't load tokenizer for|Unable to load vocabulary"
        # Seen: without tokenizer.json it starts with an empty tokenizer, and dies of its first request.
        r"|unexpected error loading tokenizer\.json[\s\S]*IndexError: index is out of bounds for dimension with size 0",
        "its tokenizer cannot be read",
        "fetch the tokenizer's files too (`nightcrew crew pull CREW`)",
    ),
    _sign(
        "tokenizer",
        r"Chat template (?P<what>\S+) is not a built-in template name",
        "there is no chat template {what}",
        "correct [serving] extra_args, or install Nightcrew anew: its templates come with it",
    ),
    _sign(
        "context",
        r"context_length \((?P<what>\d+)\) is greater than the derived context_length \((?P<value>\d+)\)",
        "a context of {what} tokens is more than the model's configuration allows ({value})",
        "plan a shorter one, or one with YaRN where the model knows it",
    ),
    _sign(
        "killed",
        r"crashed with exit code -9\b|Out of memory: Killed process",
        "the kernel killed it, most likely for want of main memory",
        "see `dmesg`; free memory, or ask for a smaller HiCache",
        passing=True,
    ),
    _sign(
        "stuck",
        r"watchdog timeout|Scheduler watchdog timeout|Health check failed\. Server couldn't get a response",
        "it stood still",
        "it is started again; its log has the stacks",
        passing=True,
    ),
)


def port_taken(port: int) -> Trouble:
    """Seen before a start."""
    return _trouble(_PORT, {"value": str(port)})


def recognise(log: str, code: int | None) -> Trouble:
    """What the end of a server's log and its exit code (negative: the signal) tell; the last sign in the log counts
    within each line of the table. Never silent: what is not known is quoted."""
    for sign in _SIGNS:
        if matches := list(sign.pattern.finditer(log)):
            return _trouble(sign, matches[-1].groupdict())
    last = _last_words(log)
    if code == -signal.SIGKILL and not last:
        # SGLang kills itself too, but never without a word in its log.
        return Trouble("killed", "it was killed", "if nobody did, the kernel did: see `dmesg`", passing=True)
    ended = "does not answer" if code is None else f"ended with code {code}"
    return Trouble("crashed", f"it {ended}; it said: {last or 'nothing'}", "its log has more", passing=True)


def _trouble(sign: _Sign, groups: Mapping[str, str | None]) -> Trouble:
    named = {"what": "", "value": "", **{name: text or "" for name, text in groups.items()}}
    return Trouble(sign.kind, " ".join(sign.seen.format(**named).split()), sign.advice, sign.passing)


def _last_words(log: str) -> str:
    """The last exception, or the last error, or nothing."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return next(_worst(lines), "")[:300]


def _worst(lines: list[str]) -> Iterator[str]:
    for pattern in (r"^[\w.]*(?:Error|Exception)\b", r"\b(?:error|Error|ERROR|exception|failed)\b"):
        for line in reversed(lines):
            if re.search(pattern, line):
                yield line
