"""Crews onto cards: what fits, what each server gets, and that SGLang's own arithmetic comes to the same."""

from __future__ import annotations

import pytest

from nightcrew.crew.files import builtin_names, load
from nightcrew.crew.planning import plan_crew
from nightcrew.serving import memory
from nightcrew.serving.models import catalog
from nightcrew.serving.plan import CrewPlan, Gpu

pytestmark = pytest.mark.timeout(30)

NOBODY = {"HOME": "/nonexistent"}
CARDS = (24.0, 32.0, 48.0, 80.0, 94.97, 141.0)


def planned(name: str, gib: float, count: int = 1) -> CrewPlan:
    return plan_crew(load(name, NOBODY), [Gpu(id=number, total_gib=gib) for number in range(count)])


def start(plan: CrewPlan) -> None:
    """What SGLang would find on the cards, server after server."""
    free = {gpu.id: gpu.total_gib for gpu in plan.gpus}
    for server in plan.servers:
        sums = server.arithmetic
        before = min(free[gpu] for gpu in server.gpu_ids) - sums.context_gib
        profiled = memory.profiled_kv_gib(
            fraction=server.mem_fraction_static, weights_gib=sums.weights_gib, free_gib=before
        )
        assert memory.tokens_in(profiled, sums.kv_bytes_per_token) >= server.max_total_tokens
        for gpu in server.gpu_ids:
            free[gpu] -= sums.total_gib
            assert free[gpu] >= 0


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("gib", CARDS)
@pytest.mark.parametrize("name", builtin_names())
def test_a_plan_that_fits_gives_each_role_its_context_and_stays_on_the_card(name: str, gib: float, count: int) -> None:
    plan = planned(name, gib, count)
    if plan.fits:
        start(plan)
    crew = load(name, NOBODY)
    for server in plan.servers:
        for role in server.roles:
            assert server.context_length >= crew.roles[role].need.context
            assert server.base_url == crew.roles[role].settings.base_url


def test_the_trio_fits_on_the_card_it_was_made_for() -> None:
    plan = planned("trio", 94.97)
    assert plan.fits
    assert [server.key for server in plan.servers] == [
        "devstral-small-2507",
        "qwen3-32b",
        "deepseek-r1-0528-qwen3-8b",
    ]


def test_the_catalog_names_every_model_of_the_built_in_crews() -> None:
    for name in builtin_names():
        assert set(load(name, NOBODY).models()) <= set(catalog())


def test_the_kv_cache_of_a_token_is_what_a_running_server_reported() -> None:
    card = catalog()["Qwen/Qwen3-32B"]
    assert memory.kv_bytes_per_token(card, "bf16") == 262_144
    assert memory.kv_bytes_per_token(card, "fp8_e4m3") == 131_072
    assert memory.kv_bytes_per_token(card, "bf16", tp=2) == 131_072
