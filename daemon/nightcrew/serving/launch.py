"""A planned server as a command: the exact arguments and environment of `sglang.launch_server`. Pure.

Arguments are those of SGLang 0.5.20 to 0.5.23; `make integration-sglang` has that version's own parser read them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nightcrew.config import ServingSettings
from nightcrew.serving.models import Draft
from nightcrew.serving.plan import ServerPlan
from nightcrew.serving.templates import template_path

HOST = "127.0.0.1"
"""Of every server: nothing but this machine can reach one."""
QUIET_PATHS = ("/ready", "/health", "/metrics", "/v1/models", "/server_info")
"""What is polled; a line in the log for each would bury the rest."""
BLACKWELL = "12.0"
"""Compute capability of the RTX PRO 6000 and the RTX 50 cards (sm_120)."""

_INHERITED = (
    "HOME",
    "LANG",
    "LOGNAME",
    "PATH",
    "SHELL",
    "TMPDIR",
    "TZ",
    "USER",
    "XDG_CACHE_HOME",
    "HF_HOME",
    "HF_HUB_CACHE",
    "LD_LIBRARY_PATH",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
)
_INHERITED_PREFIXES = ("LC_", "CUDA_", "NCCL_", "SGLANG_", "FLASHINFER_", "TRITON_", "TORCH", "OMP_")


@dataclass(frozen=True)
class Launch:
    """How one server is started."""

    key: str
    model: str
    """The name that requests call it by."""
    port: int
    argv: tuple[str, ...]
    env: Mapping[str, str]
    """All of its environment."""

    @property
    def address(self) -> str:
        """Of the server, without the `/v1` of its API."""
        return f"http://{HOST}:{self.port}"


def launch(
    server: ServerPlan,
    settings: ServingSettings,
    *,
    python: Path,
    model_path: str,
    draft_path: str | None,
    environ: Mapping[str, str],
    capability: str | None = None,
) -> Launch:
    """The command of a planned server.

    `model_path` and `draft_path` are directories, or names that the hub's cache holds; `environ` is this
    process's environment, of which only what a model server needs is handed on; `capability` is the cards' compute
    capability, such as `12.0`, where it is known. Raises `ConfigError` for a chat template that is not there.
    """
    argv = (
        *(str(python), "-m", "sglang.launch_server"),
        *_model(server, model_path),
        *_memory(server),
        *_scheduling(server),
        *_draft(server.draft, draft_path),
        *server.card.flags,
        *server.checkpoint.flags,
        *settings.extra_args,
    )
    return Launch(
        key=server.key,
        model=server.served_name,
        port=server.port,
        argv=argv,
        env=_environment(server, settings, environ, capability),
    )


def _model(server: ServerPlan, model_path: str) -> list[str]:
    """What is served, where, and how what it writes is read."""
    card = server.card
    argv = ["--model-path", model_path, "--served-model-name", server.served_name]
    argv += ["--host", HOST, "--port", str(server.port)]
    if server.tp > 1:
        argv += ["--tp-size", str(server.tp)]
    if card.kind == "embedding":
        argv += ["--is-embedding"]
    if card.tool_call_parser:
        argv += ["--tool-call-parser", card.tool_call_parser]
    if card.reasoning_parser:
        argv += ["--reasoning-parser", card.reasoning_parser]
    if card.chat_template:
        argv += ["--chat-template", str(template_path(card.chat_template))]
    argv += ["--enable-cache-report", "--enable-metrics"]
    # A weak model fills its token limit with JSON's white space.
    argv += ["--constrained-json-disable-any-whitespace"]
    return [*argv, "--uvicorn-access-log-exclude-prefixes", *QUIET_PATHS]


def _memory(server: ServerPlan) -> list[str]:
    """Context, KV cache, and what lies behind it."""
    argv = ["--context-length", str(server.context_length), "--max-total-tokens", str(server.max_total_tokens)]
    argv += ["--mem-fraction-static", f"{server.mem_fraction_static:.3f}", "--kv-cache-dtype", server.kv_dtype]
    argv += ["--max-running-requests", str(server.max_running)]
    argv += ["--chunked-prefill-size", str(server.chunked_prefill_tokens)]
    if server.state_slots is not None:
        argv += ["--max-mamba-cache-size", str(server.state_slots)]
    if server.yarn_factor is not None:
        argv += ["--json-model-override-args", _yarn(server, server.yarn_factor)]
    if server.hicache_gib is not None and (size := int(server.hicache_gib)) > 0:
        argv += ["--enable-hierarchical-cache", "--hicache-size", str(size), "--hicache-write-policy", "write_through"]
    return argv


def _yarn(server: ServerPlan, factor: float) -> str:
    """Positions stretched: `rope_scaling` alone is refused, the limit must be written too."""
    assert server.card.yarn is not None, f"{server.key} is planned with YaRN, which its card does not know"
    original = server.card.yarn.original_tokens
    scaling = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    return json.dumps({"rope_scaling": scaling, "max_position_embeddings": int(factor * original)})


def _scheduling(server: ServerPlan) -> list[str]:
    if not server.priority_scheduling:
        return []
    # With priorities SGLang takes only these policies: fcfs and lof.
    return ["--enable-priority-scheduling", "--schedule-policy", "fcfs", "--default-priority-value", "0"]


def _draft(draft: Draft | None, path: str | None) -> list[str]:
    if draft is None:
        return []
    argv = ["--speculative-algorithm", draft.algorithm]
    if draft.hf_id is not None:
        argv += ["--speculative-draft-model-path", path or draft.hf_id]
    return [*argv, *draft.flags]


def _environment(
    server: ServerPlan, settings: ServingSettings, environ: Mapping[str, str], capability: str | None
) -> dict[str, str]:
    """What a model server needs of the environment, and no key of anybody's."""
    env = {
        name: value
        for name, value in environ.items()
        if name in _INHERITED or (name.startswith(_INHERITED_PREFIXES) and not _is_secret(name))
    }
    # Weights are pulled before: a server that starts fetching would look as if it hung.
    env |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    # The order of nvidia-smi; CUDA's own puts the fastest first.
    env |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(map(str, server.gpu_ids))}
    # /health then answers without generating a token.
    env |= {"SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "false"}
    if capability == BLACKWELL:
        env |= {"FLASHINFER_CUDA_ARCH_LIST": "12.0f"}
    return env | settings.env


def _is_secret(name: str) -> bool:
    return name.endswith(("_KEY", "_TOKEN", "_SECRET", "_PASSWORD"))
