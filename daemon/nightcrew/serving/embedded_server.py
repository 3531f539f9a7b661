"""The embedded model's server: llama.cpp's own OpenAI-compatible server in a process of its own.

Run as `python -m nightcrew.serving.embedded_server` by `EmbeddedServer`, never by hand. It reads one JSON line from its
standard input (`{"weights", "api_key", "parent", "model"}`), answers one JSON line on its standard output
(`{"base_url"}` once it is ready, or `{"error", "detail"}`), logs to its standard error, and lives until its standard
input closes or its parent is gone. This is the only module that imports xllamacpp.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any, TextIO

from nightcrew.serving.leash import die_with

CONTEXT_TOKENS = 8192
"""Of the one slot. The key and value cache takes 28 KiB a token, 224 MiB in all."""
MAX_REPLY_TOKENS = 2048
"""Where a request names no limit of its own."""
PROMPT_CACHE_MIB = 256
"""For prompts that another prompt drove out of the slot: planner and executor take turns. The default is 8 GiB."""
LOG_BYTES = 8 * 1024 * 1024
MAX_PROMPT_THREADS = 8
MAX_REPLY_THREADS = 4


def thread_counts(cores: float, load: float) -> tuple[int, int]:
    """Threads for writing a reply and for reading a prompt, given usable cores and the load average. Pure.

    Measured on two cores with the 1.5B model, in tokens a second with one thread and with two, where OpenMP's threads
    sleep while they wait (`OMP_WAIT_POLICY=passive`). Machine idle: prompt 35 and 55 to 75, reply 16 and 16. One core
    busy: prompt 33 and 35, reply 16 and 13. Both busy: prompt 18 and 27, reply 8 and 9. So a prompt takes every core,
    whoever else is there, and a reply, which waits for memory more than for cores, takes half of the free ones.
    """
    prompt = max(1, min(int(cores), MAX_PROMPT_THREADS))
    reply = max(1, min(int(cores - load) // 2, MAX_REPLY_THREADS))
    return reply, prompt


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Cores that this process may use: its affinity, and the tightest quota of its control groups."""
    cores = float(len(os.sched_getaffinity(0)))
    for name in ("", *_own_groups(own)):
        try:
            quota, period = (cgroup / name / "cpu.max").read_text(encoding="ascii").split()
            if quota != "max":
                cores = min(cores, int(quota) / int(period))
        except (OSError, ValueError):
            continue
    return cores


def _own_groups(own: Path) -> list[str]:
    """This process's control group (v2) and those above it, as paths below the mount."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    path = next((Path(line[3:].strip("/")) for line in lines if line.startswith("0::")), Path())
    return [str(group) for group in (path, *path.parents) if str(group) != "."]


def _start(settings: dict[str, Any]) -> tuple[Any, str]:
    """Load the weights and listen. Returns the server, which lives as long as it is referred to, and its address."""
    xllamacpp: Any = importlib.import_module("xllamacpp")
    reply_threads, prompt_threads = thread_counts(usable_cores(), os.getloadavg()[0])
    params = xllamacpp.CommonParams()
    params.model.path = str(settings["weights"])
    params.model_alias = {str(settings["model"])}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [str(settings["api_key"])]
    params.cors_origins = "http://127.0.0.1"
    params.ui = False
    params.n_ctx = CONTEXT_TOKENS
    params.n_parallel = 1
    params.n_predict = MAX_REPLY_TOKENS
    params.cache_prompt = True
    params.cache_ram_mib = PROMPT_CACHE_MIB
    params.cpuparams.n_threads = reply_threads
    params.cpuparams_batch.n_threads = prompt_threads
    params.fit_params = False
    params.verbosity = 2
    sys.stderr.write(f"embedded model: {reply_threads} thread(s) for replies, {prompt_threads} for prompts\n")
    server = xllamacpp.Server(params)
    return server, str(server.listening_address)


def _say(stream: TextIO, **words: str) -> None:
    stream.write(json.dumps(words) + "\n")
    stream.flush()


def main() -> int:
    """Serve until the standard input closes. Returns the exit code when it could not start."""
    settings: dict[str, Any] = json.loads(sys.stdin.readline())
    die_with(int(settings["parent"]))
    # Whatever the library prints goes to the log: the original standard output carries the one line and nothing else.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # Python ignores SIGXFSZ, so a log that reached its limit only loses what follows. No other file is written here.
    resource.setrlimit(resource.RLIMIT_FSIZE, (LOG_BYTES, LOG_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        server, address = _start(settings)
    except ImportError as error:
        _say(replies, error="import", detail=str(error))
        return 1
    except (RuntimeError, MemoryError) as error:
        _say(replies, error="load", detail=str(error))
        return 1
    _say(replies, base_url=f"{address}/v1")
    sys.stdin.read()
    del server
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # the library's threads need no tidying, and must not hold the exit up
