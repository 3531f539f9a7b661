"""The exact command of each server of each built-in crew, and of what a plan may ask for beyond them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nightcrew.config import ServingSettings
from nightcrew.crew.files import builtin_names, load
from nightcrew.crew.planning import plan_crew
from nightcrew.serving.launch import Launch, launch
from nightcrew.serving.models import Draft, Yarn, find
from nightcrew.serving.plan import Gpu, ServerPlan
from nightcrew.serving.templates import template_path

pytestmark = pytest.mark.timeout(20)

GOLDEN = Path(__file__).parents[1] / "golden" / "launch"
NOBODY = {"HOME": "/nonexistent"}
FIGURES = frozenset(
    {
        "--port",
        "--context-length",
        "--max-total-tokens",
        "--mem-fraction-static",
        "--max-running-requests",
        "--chunked-prefill-size",
    }
)
"""Whose values are arithmetic, which has golden tables of its own."""


def servers(crew: str, gib: float = 94.97) -> tuple[ServerPlan, ...]:
    return plan_crew(load(crew, NOBODY), [Gpu(id=0, total_gib=gib)]).servers


def launched(server: ServerPlan, **more: object) -> Launch:
    settings = more.pop("settings", ServingSettings())
    arguments = {
        "python": Path("/sglang/bin/python"),
        "model_path": f"/weights/{server.checkpoint.hf_id}",
        "draft_path": None,
        "environ": {},
        **more,
    }
    return launch(server, settings, **arguments)


def shown(server: ServerPlan) -> str:
    """The arguments, a flag a line, without the plan's figures."""
    text = " ".join(launched(server).argv).replace(str(template_path("qwen3.jinja").parent), "/templates")
    program, *flags = text.split(" --")
    pairs = [f"--{each}".partition(" ") for each in flags]
    return "\n".join([program, *(f"  {name} {'…' if name in FIGURES else value}".rstrip() for name, _, value in pairs)])


@pytest.mark.parametrize("crew", builtin_names())
def test_the_commands_of_a_built_in_crew_are_these(crew: str):
    text = "".join(f"{server.key}: {shown(server)}\n" for server in servers(crew))
    file = GOLDEN / f"{crew}.txt"
    if os.environ.get("NIGHTCREW_WRITE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text()


@pytest.fixture
def qwen() -> ServerPlan:
    return next(server for server in servers("trio") if server.key == "qwen3-32b")


def value(argv: tuple[str, ...], flag: str) -> str:
    assert argv.count(flag) == 1
    return argv[argv.index(flag) + 1]


def test_every_server_listens_on_this_machine_alone_and_reports_its_cache(qwen: ServerPlan):
    for crew in builtin_names():
        for server in servers(crew):
            argv = launched(server).argv
            assert value(argv, "--host") == "127.0.0.1"
            assert {"--enable-cache-report", "--enable-metrics"} <= set(argv)
            assert value(argv, "--served-model-name") == server.card.hf_id
            assert "--trust-remote-code" not in argv


def test_yarn_is_written_with_the_limit_that_it_makes(qwen: ServerPlan):
    card = qwen.card.model_copy(update={"yarn": Yarn(factor=4, original_tokens=32768)})
    server = qwen.model_copy(update={"card": card, "yarn_factor": 4.0, "context_length": 131072})
    argv = launched(server).argv
    assert json.loads(value(argv, "--json-model-override-args")) == {
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
        "max_position_embeddings": 131072,
    }
    assert value(argv, "--context-length") == "131072"


def test_main_memory_takes_what_falls_out_of_the_cache(qwen: ServerPlan):
    argv = launched(qwen.model_copy(update={"hicache_gib": 32.5})).argv
    assert "--enable-hierarchical-cache" in argv
    assert value(argv, "--hicache-size") == "32"
    assert value(argv, "--hicache-write-policy") == "write_through"
    assert "--enable-hierarchical-cache" not in launched(qwen).argv


def test_a_draft_is_loaded_beside_the_model(qwen: ServerPlan):
    draft = Draft(algorithm="EAGLE3", hf_id="somebody/draft", flags=("--speculative-num-steps", "3"))
    argv = launched(qwen.model_copy(update={"draft": draft}), draft_path="/weights/draft").argv
    assert value(argv, "--speculative-algorithm") == "EAGLE3"
    assert value(argv, "--speculative-draft-model-path") == "/weights/draft"
    assert value(argv, "--speculative-num-steps") == "3"
    ngram = launched(qwen.model_copy(update={"draft": Draft(algorithm="NGRAM")})).argv
    assert value(ngram, "--speculative-algorithm") == "NGRAM"
    assert "--speculative-draft-model-path" not in ngram


def test_priorities_come_with_a_policy_that_sglang_takes_them_with(qwen: ServerPlan):
    argv = launched(qwen.model_copy(update={"priority_scheduling": True})).argv
    assert value(argv, "--schedule-policy") in ("fcfs", "lof")
    off = launched(qwen.model_copy(update={"priority_scheduling": False})).argv
    assert "--enable-priority-scheduling" not in off


def test_several_cards_share_the_layers(qwen: ServerPlan):
    made = launched(qwen.model_copy(update={"tp": 2, "gpu_ids": (1, 3)}))
    assert value(made.argv, "--tp-size") == "2"
    assert made.env["CUDA_VISIBLE_DEVICES"] == "1,3"
    # Numbered as nvidia-smi numbers them.
    assert made.env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_templates_that_come_with_the_crew_are_named_by_their_file(qwen: ServerPlan):
    card = qwen.card.model_copy(update={"chat_template": "qwen3.jinja"})
    path = value(launched(qwen.model_copy(update={"card": card})).argv, "--chat-template")
    assert Path(path).read_text(encoding="utf-8")


def test_a_model_for_embeddings_is_served_as_one(qwen: ServerPlan):
    card = qwen.card.model_copy(update={"kind": "embedding", "tool_call_parser": None, "reasoning_parser": None})
    argv = launched(qwen.model_copy(update={"card": card})).argv
    assert "--is-embedding" in argv and "--tool-call-parser" not in argv


def test_a_persons_own_arguments_stand_last_so_that_they_win(qwen: ServerPlan):
    settings = ServingSettings(extra_args=("--device", "cpu"), env={"SGLANG_USE_CPU_ENGINE": "1"})
    made = launched(qwen, settings=settings)
    assert made.argv[-2:] == ("--device", "cpu")
    assert made.env["SGLANG_USE_CPU_ENGINE"] == "1"


def test_no_key_of_anybody_reaches_a_model_server(qwen: ServerPlan):
    environ = {
        "PATH": "/usr/bin",
        "HOME": "/home/me",
        "LD_LIBRARY_PATH": "/cuda",
        "HF_TOKEN": "secret",
        "OPENAI_API_KEY": "secret",
        "SGLANG_API_KEY": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "NIGHTCREW_HOME": "/x",
        "https_proxy": "http://me:secret@proxy",
    }
    env = launched(qwen, environ=environ).env
    assert "secret" not in " ".join(env.values())
    assert (env["PATH"], env["HOME"], env["LD_LIBRARY_PATH"]) == ("/usr/bin", "/home/me", "/cuda")
    assert env["HF_HUB_OFFLINE"] == "1"


def test_kernels_are_built_for_the_card(qwen: ServerPlan):
    assert launched(qwen, capability="12.0").env["FLASHINFER_CUDA_ARCH_LIST"] == "12.0f"
    assert "FLASHINFER_CUDA_ARCH_LIST" not in launched(qwen, capability="9.0").env
    assert "FLASHINFER_CUDA_ARCH_LIST" not in launched(qwen).env


def test_models_of_the_catalog_name_parsers_that_there_are():
    """Names of SGLang 0.5.23; `make integration-sglang` asks the installed one."""
    card = find("Qwen/Qwen3-32B")
    assert card is not None
    assert (card.tool_call_parser, card.reasoning_parser) == ("qwen", "qwen3")
