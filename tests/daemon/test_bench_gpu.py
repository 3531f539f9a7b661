"""What bench/gpu reads: the log of a real server on the CPU, and the shapes that it writes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from nightcrew.serving.models import find

pytestmark = pytest.mark.timeout(20)

BENCH = Path(__file__).resolve().parents[2] / "bench" / "gpu"
LOG = Path(__file__).parents[1] / "fakes" / "sglang_started.log"


def module(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCH))
    spec = importlib.util.spec_from_file_location(name, BENCH / f"{name}.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, made)
    spec.loader.exec_module(made)
    return made


def test_the_log_of_a_real_start_is_read(monkeypatch: pytest.MonkeyPatch):
    seen = module("reading", monkeypatch).read_log(LOG.read_text(encoding="utf-8"))
    assert (seen["pool_tokens"], seen["context_tokens"]) == (8000, 8000)
    assert 0 < seen["load_seconds"] < 60
    assert seen["free_before_weights_gib"] > 0 and seen["free_after_pool_gib"] > 0
    assert {"weights_gib", "k_gib", "v_gib", "free_at_end_gib"} <= seen.keys()


def test_planned_and_seen_stand_side_by_side_and_what_was_not_seen_is_said(monkeypatch: pytest.MonkeyPatch):
    reading = module("reading", monkeypatch)
    planned = {"weights_gib": 33.0, "kv_gib": 10.0, "pool_tokens": 80000, "runtime_gib": 3.0, "context_tokens": 40960}
    seen = {"weights_gib": 30.0, "k_gib": 5.0, "v_gib": 5.0, "pool_tokens": 80000, "context_tokens": 40960}
    text = reading.table(reading.compare(planned, seen))
    assert "| weights, GiB | 33.00 | 30.00 | +10.0 % |" in text
    assert "| KV cache, GiB | 10.00 | 10.00 | +0.0 % |" in text
    assert "| taken after the pool, GiB | 3.00 | not seen | not seen |" in text


def test_shapes_are_the_models_own(monkeypatch: pytest.MonkeyPatch):
    card = find("qwen3-32b")
    assert card is not None
    shape = module("measure", monkeypatch).shape(card, "qwen3")
    assert (shape["num_hidden_layers"], shape["num_key_value_heads"], shape["head_dim"]) == (64, 8, 128)
