"""The command of every server of every built-in crew, read by SGLang's own argument parser."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from nightcrew.config import ServingSettings
from nightcrew.crew.files import builtin_names, load
from nightcrew.crew.planning import plan_crew
from nightcrew.serving.launch import launch
from nightcrew.serving.models import Draft, catalog
from nightcrew.serving.plan import Gpu, ServerPlan

pytestmark = [pytest.mark.sglang, pytest.mark.timeout(300)]

NOBODY = {"HOME": "/nonexistent"}


def planned() -> list[ServerPlan]:
    """Each built-in crew on cards of several sizes, and what a plan may ask for beyond them."""
    servers: list[ServerPlan] = []
    for crew in builtin_names():
        for gib, count in ((24.0, 1), (48.0, 1), (94.97, 1), (141.0, 1), (80.0, 2)):
            gpus = [Gpu(id=number, total_gib=gib) for number in range(count)]
            servers += plan_crew(load(crew, NOBODY), gpus).servers
    some = next(server for server in servers if server.card.tool_call_parser == "qwen")
    servers.append(some.model_copy(update={"hicache_gib": 32.0}))
    draft = Draft(algorithm="EAGLE3", hf_id="somebody/draft", flags=("--speculative-num-steps", "3"))
    servers.append(some.model_copy(update={"draft": draft}))
    servers.append(some.model_copy(update={"draft": Draft(algorithm="NGRAM")}))
    stretched = next((card for card in catalog().values() if card.yarn is not None), None)
    assert stretched is not None and stretched.yarn is not None
    length = int(stretched.yarn.factor * stretched.yarn.original_tokens)
    servers.append(
        some.model_copy(update={"card": stretched, "yarn_factor": stretched.yarn.factor, "context_length": length})
    )
    for card in catalog().values():
        servers += [some.model_copy(update={"card": card, "checkpoint": one}) for one in card.checkpoints]
        if card.draft is not None:
            servers.append(some.model_copy(update={"card": card, "draft": card.draft}))
    return servers


def test_sglang_understands_every_command_as_it_is_meant(sglang_python: Path):
    servers = planned()
    commands = [
        launch(
            server,
            ServingSettings(),
            python=sglang_python,
            model_path=f"/weights/{server.checkpoint.hf_id}",
            draft_path=None,
            environ={},
        )
        for server in servers
    ]
    asked = json.dumps([command.argv[3:] for command in commands])
    script = Path(__file__).with_name("parse_argv.py")
    ran = subprocess.run([sglang_python, script], input=asked, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    answer: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    print(f"SGLang {answer['version']} read {len(servers)} commands")
    for server, command, understood in zip(servers, commands, answer["understood"], strict=True):
        expected = {
            "served_model_name": server.card.hf_id,
            "host": "127.0.0.1",
            "port": server.port,
            "tp_size": server.tp,
            "context_length": server.context_length,
            "max_total_tokens": server.max_total_tokens,
            "mem_fraction_static": pytest.approx(server.mem_fraction_static, abs=0.0006),
            "max_running_requests": server.max_running,
            "chunked_prefill_size": server.chunked_prefill_tokens,
            "tool_call_parser": server.card.tool_call_parser,
            "reasoning_parser": server.card.reasoning_parser,
            "enable_cache_report": True,
            "enable_metrics": True,
            "enable_priority_scheduling": server.priority_scheduling,
            "enable_hierarchical_cache": server.hicache_gib is not None,
            "speculative_algorithm": server.draft.algorithm if server.draft else None,
        }
        assert {name: understood[name] for name in expected} == expected, command.argv
        if server.yarn_factor is not None:
            override = json.loads(understood["json_model_override_args"])
            assert override["max_position_embeddings"] >= server.context_length
