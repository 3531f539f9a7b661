"""Plan against reality on a card: SGLang with dummy weights of the real shapes, one model alone and two together.

    python bench/gpu/measure.py qwen3-32b devstral-small-2507 --tokenizers .sglang/models

Each model of the catalog is started by the launcher's own code; what it says of its memory is set beside the plan, and
prefill (cold, and with its prefix cached) and decode are timed. Writes docs/measurements/gpu-CARD.{json,md}.
`--gpu-gib N` leaves the cards unread: a trial of this script, which is marked as one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import httpx2
from reading import compare, read_log, table

from nightcrew.config import Config, RoleSettings, environment, load_config
from nightcrew.crew.files import BoundRole, CrewFile, Need
from nightcrew.crew.planning import plan_crew
from nightcrew.serving.assembly import keepers, least_free_gib, read_cards, serving_dir
from nightcrew.serving.models import ModelCard, find
from nightcrew.serving.plan import Gpu, ServerPlan
from nightcrew.serving.supervise import Supervisor

PREFILL_TOKENS = (1000, 8000, 30000)
DECODE_TOKENS = 256
ARCHITECTURES = {"qwen3": ("Qwen3ForCausalLM", "qwen3"), "mistral": ("MistralForCausalLM", "mistral")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="short names of the catalog; the first alone, then all together")
    parser.add_argument(
        "--tokenizers", type=Path, required=True, help="has qwen3/ and mistral/, as scripts/sglang-cpu makes"
    )
    parser.add_argument("--gpu-gib", type=float, help="a trial without reading cards")
    parser.add_argument("--out", type=Path, default=Path("docs/measurements"))
    asked = parser.parse_args()
    cards = [_card(name) for name in asked.models]
    seen = [] if asked.gpu_gib else list(read_cards())
    gpus = [Gpu(id=each.id, total_gib=each.total_gib) for each in seen] or [Gpu(id=0, total_gib=asked.gpu_gib)]
    name = seen[0].name if seen else "trial, no card read"
    runs = [anyio.run(run, group, gpus, asked.tokenizers, bool(seen)) for group in _groups(cards)]
    result = {
        "card": name,
        "date": datetime.now(UTC).date().isoformat(),
        "gpus": [gpu.model_dump() for gpu in gpus],
        "runs": runs,
    }
    slug = "".join(letter if letter.isalnum() else "-" for letter in name.lower()).strip("-")
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / f"gpu-{slug}.json").write_text(json.dumps(result, indent=2) + "\n")
    (asked.out / f"gpu-{slug}.md").write_text(markdown(result))
    print(markdown(result))
    print(json.dumps(result))


def _card(name: str) -> ModelCard:
    card = find(name)
    if card is None:
        raise SystemExit(f"the catalog has no model {name}")
    return card


def _groups(cards: Sequence[ModelCard]) -> list[list[ModelCard]]:
    return [[cards[0]], list(cards)] if len(cards) > 1 else [list(cards)]


async def run(models: Sequence[ModelCard], gpus: Sequence[Gpu], tokenizers: Path, readable: bool) -> dict[str, Any]:
    """One group of servers: planned, started, read, timed, stopped."""
    config = load_config()
    plan = plan_crew(_crew(models), gpus)
    if not plan.fits:
        raise SystemExit(f"does not fit: {[each.what for each in plan.misfits]}")
    config = _with_shapes(config, plan.servers, tokenizers)
    for server in plan.servers:
        (serving_dir(config.home) / f"{server.key}.log").unlink(missing_ok=True)
    up = anyio.Event()
    kept = keepers(
        plan.servers,
        config,
        environment(),
        tell=lambda event: print(f"{event.server}: {event.text}", flush=True),
        read_cards=read_cards if readable else list,
    )
    supervisor = Supervisor(kept, on_up=up.set)
    found: list[dict[str, Any]] = []
    async with anyio.create_task_group() as group:
        group.start_soon(supervisor.run)
        await up.wait()
        for server in plan.servers:
            free = least_free_gib(read_cards(), server.gpu_ids) if readable else None
            found.append(await _measure(server, config, free, alone=len(plan.servers) == 1))
        supervisor.stop()
    return {"models": [server.key for server in plan.servers], "servers": found, "left_planned_gib": plan.left_gib}


def _crew(models: Sequence[ModelCard]) -> CrewFile:
    roles = ("planner", "executor", "scout", "critic")
    ports = range(30000, 30000 + len(models))
    bound = {
        role: BoundRole(
            settings=RoleSettings(base_url=f"http://127.0.0.1:{port}/v1", model=card.hf_id),
            need=Need(context=min(32768, card.context_tokens)),
            local=True,
        )
        for role, card, port in zip(roles, models, ports, strict=False)
    }
    return CrewFile(name="measured", origin="bench", roles=bound)


def _with_shapes(config: Config, servers: Sequence[ServerPlan], tokenizers: Path) -> Config:
    """Directories with the real shapes and no weights, and the flag that makes SGLang fill them with noise."""
    places: dict[str, Path] = {}
    for server in servers:
        card = server.card
        kind = "qwen3" if card.family.startswith("qwen3") else "mistral"
        if card.attention != "gqa" or card.experts:
            raise SystemExit(f"{card.key}: shapes of mixtures and of other attention are not written here")
        folder = serving_dir(config.home) / "shapes" / card.key
        folder.mkdir(parents=True, exist_ok=True)
        for file in (tokenizers / kind).iterdir():
            if file.name != "config.json":
                shutil.copy(file, folder)
        (folder / "config.json").write_text(json.dumps(shape(card, kind)))
        places[server.checkpoint.hf_id] = folder
    # Online quantization gives dummy weights the size of the planned format, where SGLang can.
    extra = ("--load-format", "dummy", *config.serving.extra_args)
    if all(server.checkpoint.format == "fp8" for server in servers):
        extra = ("--quantization", "fp8", *extra)
    serving = config.serving.model_copy(update={"models": {**places, **config.serving.models}, "extra_args": extra})
    return config.model_copy(update={"serving": serving})


def shape(card: ModelCard, kind: str) -> dict[str, Any]:
    """A config.json with the model's real sizes."""
    architecture, model_type = ARCHITECTURES[kind]
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_size": card.hidden_size,
        "intermediate_size": card.intermediate_size,
        "num_hidden_layers": card.layers,
        "num_attention_heads": card.heads,
        "num_key_value_heads": card.kv_heads,
        "head_dim": card.head_dim,
        "vocab_size": card.vocab_size,
        "max_position_embeddings": card.config_context_tokens,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


async def _measure(server: ServerPlan, config: Config, free: float | None, *, alone: bool) -> dict[str, Any]:
    log = (serving_dir(config.home) / f"{server.key}.log").read_text(encoding="utf-8", errors="replace")
    seen = read_log(log)
    if free is not None and alone:  # beside another server nobody can tell whose memory it is
        seen["free_in_use_gib"] = free
    sums = server.arithmetic
    planned = {
        "weights_gib": sums.weights_gib,
        "kv_gib": sums.kv_gib,
        "pool_tokens": float(server.max_total_tokens),
        "runtime_gib": sums.runtime_gib,
        "context_tokens": float(server.context_length),
    }
    most = int(min(seen.get("pool_tokens", 0), seen.get("context_tokens", 0))) - DECODE_TOKENS - 16
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=900, trust_env=False) as http:
        speeds = [await _prefill(http, tokens) for tokens in PREFILL_TOKENS if tokens <= most]
        decode = await _decode(http)
    lines = compare(planned, seen)
    shown = [{"what": line.what, "planned": line.planned, "seen": line.seen} for line in lines]
    return {
        "server": server.key,
        "format": server.checkpoint.format,
        "kv": server.kv_dtype,
        "figures": shown,
        "table": table(lines),
        "log": seen,
        "prefill": speeds,
        "decode_tokens_per_second": decode,
    }


async def _prefill(http: httpx2.AsyncClient, tokens: int) -> dict[str, float]:
    """Seconds until the first token, with nothing cached and with all of it."""
    await http.post("/flush_cache", json={})
    ids = [1000 + number * 7919 % 20000 for number in range(tokens)]
    cold, _ = await _generate(http, ids, 1)
    warm, cached = await _generate(http, ids, 1)
    return {"tokens": tokens, "cold_seconds": cold, "warm_seconds": warm, "warm_cached_tokens": cached}


async def _decode(http: httpx2.AsyncClient) -> float:
    ids = list(range(1000, 1200))
    first, _ = await _generate(http, ids, 1)
    whole, _ = await _generate(http, ids, DECODE_TOKENS)
    return round((DECODE_TOKENS - 1) / max(1e-6, whole - first), 1)


async def _generate(http: httpx2.AsyncClient, ids: Sequence[int], tokens: int) -> tuple[float, float]:
    sampling = {"max_new_tokens": tokens, "ignore_eos": True, "temperature": 0}
    started = time.monotonic()
    response = await http.post("/generate", json={"input_ids": list(ids), "sampling_params": sampling})
    response.raise_for_status()
    return round(time.monotonic() - started, 3), float(response.json()["meta_info"].get("cached_tokens", 0))


def markdown(result: dict[str, Any]) -> str:
    """The note for docs/measurements."""
    text = [
        f"# {result['card']}",
        "",
        f"`bench/gpu/measure.py`, {result['date']}; dummy weights of the real shapes.",
        "",
    ]
    for one in result["runs"]:
        text += [f"## {' and '.join(one['models'])}", ""]
        for server in one["servers"]:
            text += [f"### {server['server']} ({server['format']}, KV {server['kv']})", "", server["table"], ""]
            text += ["| prompt, tokens | cold, s | cached, s |", "| --- | --- | --- |"]
            text += [f"| {p['tokens']:,} | {p['cold_seconds']} | {p['warm_seconds']} |" for p in server["prefill"]]
            text += ["", f"Decode: {server['decode_tokens_per_second']} tokens/s for one request.", ""]
    return "\n".join(text)


if __name__ == "__main__":
    main()
