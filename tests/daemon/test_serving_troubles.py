"""What a server's log is read as: every sentence is made from lines that SGLang, PyTorch or CUDA really write."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from nightcrew.serving.serverlog import phase_of
from nightcrew.serving.troubles import recognise

pytestmark = pytest.mark.timeout(10)

LOGS = Path(__file__).parents[1] / "fakes" / "sglang_logs"


@pytest.mark.parametrize(
    ("log", "kind", "words"),
    [
        ("unknown-flag", "unknown-flag", "SGLang refused --no-such-flag 3: its version does not know it"),
        ("bad-value", "bad-value", "SGLang refused the value of --tool-call-parser 'nosuch'"),
        ("missing-model", "missing-model", "crew pull"),
        ("missing-directory", "missing-model", "crew pull"),
        ("missing-weights", "missing-model", "crew pull"),
        ("port-taken", "port-taken", "port 31206 is taken by another program: stop it"),
        ("context", "context", "131072 tokens is more than the model's configuration allows (40960)"),
        ("chat-template", "tokenizer", "there is no chat template /templates/absent.jinja"),
        ("tokenizer", "tokenizer", "its tokenizer cannot be read"),
        ("no-card", "driver", "no usable NVIDIA card"),
        ("cpu-torch", "driver", "CUDA build"),
        # From the source of SGLang and PyTorch: no card was at hand to make them happen.
        ("gpu-memory", "gpu-memory", "the card ran out of memory: stop what else uses the card"),
        ("no-room-for-cache", "gpu-memory", "nothing was left for the KV cache"),
        ("old-driver", "driver", "the NVIDIA driver is too old for this PyTorch (it offers CUDA 12020)"),
        ("wrong-card", "cuda", "not made for this card"),
        ("killed-part", "killed", "the kernel killed it"),
    ],
)
def test_a_log_becomes_a_sentence_with_what_to_do(log: str, kind: str, words: str):
    trouble = recognise((LOGS / f"{log}.log").read_text(encoding="utf-8"), 1)
    assert trouble.kind == kind
    assert words in trouble.sentence
    assert ": " in trouble.sentence and "\n" not in trouble.sentence


def test_every_log_of_the_folder_is_tested():
    [mark] = test_a_log_becomes_a_sentence_with_what_to_do.pytestmark
    assert {case[0] for case in mark.args[1]} == {path.stem for path in LOGS.glob("*.log")}


def test_what_is_not_known_is_quoted_not_guessed():
    trouble = recognise("starting\nValueError: the moon is full\nbye\n", 1)
    assert (trouble.kind, trouble.passing) == ("crashed", True)
    assert "ended with code 1; it said: ValueError: the moon is full" in trouble.sentence


def test_a_server_that_is_killed_without_a_word_was_killed_from_outside():
    assert recognise("Load weight begin\n", -signal.SIGKILL).kind == "killed"
    # SGLang kills itself when one of its parts fails, but says why.
    assert recognise("RuntimeError: no\nkill_process_tree called", -signal.SIGKILL).kind == "crashed"


def test_what_a_restart_cannot_mend_is_not_tried_again():
    assert not recognise("error: unrecognized arguments: --x", 2).passing
    assert recognise("torch.OutOfMemoryError: CUDA out of memory. Tried", 1).passing


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "Loading safetensors checkpoint shards:  25% Completed | 2/8 [00:01<00:04,  1.4it/s]",
            "loading weights: 25 %",
        ),
        ("[t] Load weight begin. avail mem=19.69 GB", "loading weights"),
        ("[t] Load weight end. elapsed=0.52 s, type=Qwen3ForCausalLM, avail mem=19.70 GB", "weights loaded in 0.52 s"),
        (
            "[t] KV Cache is allocated. dtype: torch.bfloat16, #tokens: 20000, K size: 0.00 GB",
            "KV cache of 20000 tokens",
        ),
        ("[t] The server is fired up and ready to roll!", "answering"),
        ("[t] Prefill batch, #new-seq: 1, #new-token: 6", None),
    ],
)
def test_a_line_says_how_far_a_start_is(line: str, words: str | None):
    assert phase_of(line) == words
