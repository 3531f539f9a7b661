"""Crews onto cards: what fits, what each server gets, and that SGLang's own arithmetic comes to the same.

The golden tables of all built-in crews lie in tests/golden/plans. Where a change of them is meant, they are renewed by
`NIGHTCREW_WRITE_GOLDEN=1 pytest tests/daemon/test_plan.py`, and the difference is read before it is committed.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakes.plans import GOLDEN, MACHINES, crews, planned, table
from nightcrew.crew.files import load, load_builtin
from nightcrew.crew.planning import plan_crew, wants
from nightcrew.errors import ConfigError
from nightcrew.serving import memory
from nightcrew.serving.mainmemory import RESERVE_GIB
from nightcrew.serving.models import ModelCard, catalog
from nightcrew.serving.nearest import USUAL_GIB, misfit
from nightcrew.serving.plan import CrewPlan, Gpu, ServerPlan
from nightcrew.serving.planner import Arrangement, Use, Want, arrange, options, start_in_order, usable_gib

pytestmark = pytest.mark.timeout(60)

CHAT = [card for card in catalog().values() if card.kind == "chat"]
SIZES = st.floats(16, 300)
FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "nightcrew/crews").mkdir(parents=True)
    return {"XDG_CONFIG_HOME": str(tmp_path)}


def own(environ: dict[str, str], text: str) -> None:
    """A person's own crew, called `mine`."""
    (Path(environ["XDG_CONFIG_HOME"]) / "nightcrew/crews/mine.toml").write_text(text, encoding="utf-8")


def cards(gib: float, count: int = 1) -> list[Gpu]:
    return [Gpu(id=number, total_gib=gib) for number in range(count)]


@st.composite
def some_wants(draw: st.DrawFn, most: int = 3) -> list[Want]:
    """Different models, each with one or two roles."""
    chosen = draw(st.lists(st.sampled_from(CHAT), min_size=1, max_size=most, unique_by=lambda card: card.hf_id))
    found: list[Want] = []
    for place, card in enumerate(chosen):
        uses = draw(
            st.lists(
                st.builds(
                    Use,
                    role=st.sampled_from(("planner", "executor", "scout")),
                    context_tokens=st.integers(1024, card.longest_tokens),
                    requests=st.integers(1, 4),
                ),
                min_size=1,
                max_size=2,
            )
        )
        found.append(Want(card=card, uses=tuple(uses), port=30000 + place))
    return found


def start(servers: list[ServerPlan] | tuple[ServerPlan, ...], gpus: list[Gpu] | tuple[Gpu, ...]) -> None:
    """What SGLang finds on the cards, server after server, by the formula of its own code."""
    free = {gpu.id: gpu.total_gib for gpu in gpus}
    for server in servers:
        sums = server.arithmetic
        before = min(free[gpu] for gpu in server.gpu_ids) - sums.context_gib
        profiled = memory.profiled_kv_gib(
            fraction=server.mem_fraction_static,
            weights_gib=sums.weights_gib,
            fixed_gib=sums.fixed_gib,
            free_gib=before,
        )
        assert memory.tokens_in(profiled, sums.kv_bytes_per_token) >= server.max_total_tokens
        # Pinned, so that it takes no more than was planned although it could.
        for gpu in server.gpu_ids:
            free[gpu] -= sums.total_gib
            assert free[gpu] >= 0


def check(arranged: Arrangement, asked: list[Want], gpus: list[Gpu]) -> None:
    servers = start_in_order(arranged.placed, gpus)
    start(servers, gpus)
    used = {gpu.id: 0.0 for gpu in gpus}
    for server in servers:
        assert server.max_total_tokens % memory.PAGE_TOKENS == 0
        assert len(set(server.gpu_ids)) == server.tp
        assert 0 < server.mem_fraction_static < 1
        for gpu in server.gpu_ids:
            used[gpu] += server.arithmetic.total_gib
    assert all(used[gpu.id] <= usable_gib(gpu) + 1e-6 for gpu in gpus)
    for want in asked:
        server = next(one for one in servers if one.port == want.port)
        assert server.context_length >= want.context_tokens
        assert server.context_length <= max(want.card.longest_tokens, want.card.config_context_tokens)
        if arranged.whole:
            assert server.max_total_tokens >= want.wished_tokens


# --- the arithmetic


@pytest.mark.parametrize(
    ("model", "bf16", "fp8"),
    [
        ("Qwen/Qwen3-32B", 262_144, 131_072),
        ("mistralai/Devstral-Small-2507", 163_840, 81_920),
        ("mistralai/Devstral-Small-2-24B-Instruct-2512", 163_840, 81_920),
        ("deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", 147_456, 73_728),
        ("google/gemma-3-27b-it", 507_904, 253_952),
        ("google/gemma-3-12b-it", 393_216, 196_608),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", 327_680, 163_840),
        ("Qwen/Qwen3-8B", 147_456, 73_728),
        ("Qwen/Qwen3-14B", 163_840, 81_920),
        ("Qwen/Qwen3-30B-A3B", 98_304, 49_152),
        ("Qwen/Qwen3.6-27B", 65_536, 32_768),
    ],
)
def test_the_kv_cache_of_a_token_is_what_running_servers_report(model: str, bf16: int, fp8: int) -> None:
    card = catalog()[model]
    assert memory.kv_bytes_per_token(card, "bf16") == bf16
    assert memory.kv_bytes_per_token(card, "fp8_e4m3") == memory.kv_bytes_per_token(card, "fp8_e5m2") == fp8
    assert memory.kv_bytes_per_token(card, "bf16", tp=2) * 2 == bf16


def test_more_cards_than_kv_heads_copy_them() -> None:
    card = catalog()["Qwen/Qwen3-30B-A3B"]
    assert memory.kv_bytes_per_token(card, "bf16", tp=4) == memory.kv_bytes_per_token(card, "bf16", tp=8)
    assert memory.can_split(card, 8) and not memory.can_split(card, 3)


def test_the_state_of_a_linear_layer_is_one_matrix_for_each_head() -> None:
    card = catalog()["Qwen/Qwen3.6-27B"]
    one = 48 * (48 * 128 * 128 * 4 + (2 * 16 * 128 + 48 * 128) * 3 * 2)
    assert memory.state_gib(card, slots=9) * memory.GIB == pytest.approx(10 * one)
    assert memory.state_gib(card, slots=9, tp=2) * memory.GIB == pytest.approx(5 * one)
    assert memory.state_gib(catalog()["Qwen/Qwen3-8B"], slots=9) == 0


@given(weights=st.floats(0.5, 150), fixed=st.floats(0, 10), kv=st.floats(0.1, 150), rest=st.floats(1, 20))
def test_the_fraction_gives_the_cache_that_was_planned_and_hardly_more(
    weights: float, fixed: float, kv: float, rest: float
) -> None:
    free = weights + fixed + kv + rest
    fraction = memory.mem_fraction_static(static_gib=weights + fixed + kv, free_gib=free)
    found = memory.profiled_kv_gib(fraction=fraction, weights_gib=weights, fixed_gib=fixed, free_gib=free)
    assert kv - 1e-6 <= found <= kv + free / 1000 + 1e-6


@given(card=st.sampled_from(CHAT), context=st.integers(1024, 131072), more=st.integers(1, 131072))
def test_what_a_server_takes_grows_with_its_context_and_its_chunks(card: ModelCard, context: int, more: int) -> None:
    def runtime(context_tokens: int, chunk: int, running: int) -> float:
        return memory.runtime_gib(card, chunk_tokens=chunk, max_running=running, context_tokens=context_tokens)

    least = runtime(context, 2048, 8)
    assert 1 < least < runtime(context + more, 2048, 8) < runtime(context + more, 4096, 8)
    assert least < runtime(context, 2048, 9)


@pytest.mark.parametrize("card", CHAT, ids=lambda card: card.key)
def test_the_overhead_is_between_two_and_a_half_gibibytes_and_four_and_a_half(card: ModelCard) -> None:
    # What is known of SGLang on one card. States of linear layers come on top and are counted by themselves.
    option = options(Want(card=card, uses=(Use("planner", 32768, 2),), port=1), cards(96))[0]
    assert 2.3 <= memory.CONTEXT_GIB + option.runtime_gib(1) <= 4.5


# --- the plans


@FEW
@given(asked=some_wants(), gib=SIZES, count=st.sampled_from((1, 2, 4)))
def test_no_plan_goes_over_a_card_and_sglang_finds_what_was_planned(asked: list[Want], gib: float, count: int) -> None:
    gpus = cards(gib, count)
    if (arranged := arrange(asked, gpus)) is not None:
        check(arranged, asked, gpus)


@FEW
@given(asked=some_wants(), gib=SIZES, more=st.floats(0, 100))
def test_what_fits_on_a_card_fits_as_well_on_a_larger_one(asked: list[Want], gib: float, more: float) -> None:
    smaller, larger = arrange(asked, cards(gib)), arrange(asked, cards(gib + more))
    if smaller is None:
        return
    assert larger is not None
    assert larger.whole >= smaller.whole
    if larger.whole == smaller.whole:
        assert rank(larger) <= rank(smaller)
        if ways(larger) == ways(smaller):
            assert tokens(larger) >= tokens(smaller)


@FEW
@given(asked=some_wants(), gib=SIZES, share=st.floats(0.1, 1))
def test_a_shorter_context_fits_wherever_a_longer_one_does(asked: list[Want], gib: float, share: float) -> None:
    shorter = [
        replace(
            want,
            uses=tuple(replace(use, context_tokens=max(1024, int(use.context_tokens * share))) for use in want.uses),
        )
        for want in asked
    ]
    longer_fits = arrange(asked, cards(gib))
    if longer_fits is not None:
        fits = arrange(shorter, cards(gib))
        assert fits is not None and fits.whole >= longer_fits.whole


@FEW
@given(asked=some_wants(most=1), gib=SIZES)
def test_a_smaller_format_fits_wherever_a_larger_one_does(asked: list[Want], gib: float) -> None:
    (want,) = asked
    by_weight = sorted(want.card.checkpoints, key=lambda each: each.weights_gib)
    fits = [arrange([replace(want, format=each.hf_id)], cards(gib)) is not None for each in by_weight]
    same_repository = len({each.hf_id for each in by_weight}) < len(by_weight)  # 16 bits, and 8 made of them
    assert same_repository or fits == sorted(fits, reverse=True)


def rank(arranged: Arrangement) -> int:
    return sum(one.option.rank for one in arranged.placed)


def ways(arranged: Arrangement) -> list[tuple[int, str, str]]:
    return [(one.option.want.port, one.option.checkpoint.format, one.option.kv) for one in arranged.placed]


def tokens(arranged: Arrangement) -> int:
    return sum(one.tokens for one in arranged.placed)


@pytest.mark.parametrize("name", crews())
def test_the_plans_of_the_built_in_crews_are_as_written_down(name: str) -> None:
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("NIGHTCREW_WRITE_GOLDEN"):
        file.write_text(table(name), encoding="utf-8")
    assert file.read_text(encoding="utf-8") == table(name)


@pytest.mark.parametrize("name", crews())
def test_the_readme_names_the_smallest_usual_cards_that_a_crew_fits_on(name: str) -> None:
    readme = (GOLDEN.parents[2] / "README.md").read_text(encoding="utf-8")
    row = next(line for line in readme.splitlines() if line.startswith(f"| {name} | ") and "GiB |" in line)
    for cell, count in zip(row.strip("| ").split(" | ")[2:], (1, 2), strict=True):
        smallest = next(gib for gib in USUAL_GIB if planned(name, gib, count).fits)
        assert cell == f"{smallest:g} GiB"


@pytest.mark.parametrize("name", crews())
def test_every_plan_of_a_built_in_crew_starts_server_after_server(name: str) -> None:
    crew = load_builtin(name)
    fitting = 0
    for count, gib in MACHINES:
        plan = planned(name, gib, count)
        start(plan.servers, plan.gpus)
        fitting += plan.fits
        assert plan.fits == bool(plan.servers) == (not plan.misfits)
        assert all(left >= 0 for left in plan.left_gib)
        for server in plan.servers:
            for role in server.roles:
                assert server.context_length >= crew.roles[role].need.context
                assert server.base_url == crew.roles[role].settings.base_url
                assert server.served_name == crew.roles[role].settings.model
    assert fitting > 0


# --- the combinations that were reckoned by hand


def pinned(card: str, form: str, port: int) -> Want:
    return Want(card=catalog()[card], uses=(Use("planner", 16384, 1),), port=port, format=form)


QWEN, DEVSTRAL, SMALL = "Qwen/Qwen3-32B", "mistralai/Devstral-Small-2507", "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B"
GEMMA, LARGE = "google/gemma-3-27b-it", "deepseek-ai/DeepSeek-R1-Distill-Llama-70B"


@pytest.mark.parametrize(
    ("combination", "by_hand_gib"),
    [
        ([(QWEN, "int4"), (DEVSTRAL, "fp8"), (SMALL, "fp8")], 35.4),
        ([(LARGE, "int4"), (DEVSTRAL, "fp8"), (SMALL, "fp8")], 15.4),
    ],
)
def test_what_is_left_for_kv_caches_is_what_was_reckoned_by_hand(
    combination: list[tuple[str, str]], by_hand_gib: float
) -> None:
    asked = [pinned(card, form, 30000 + place) for place, (card, form) in enumerate(combination)]
    arranged = arrange(asked, cards(94.97))
    assert arranged is not None
    servers = start_in_order(arranged.placed, cards(94.97))
    cache = sum(server.arithmetic.kv_gib for server in servers)
    # By hand nothing stays free, and the overhead is 2.5 to 4.5 GiB for each server.
    assert abs(cache + 0.02 * 94.97 - by_hand_gib) < 3 * 1.0


def test_gemma_in_16_bits_has_no_room_beside_the_others_and_in_8_it_has() -> None:
    beside = [pinned(QWEN, "int4", 30001), pinned(DEVSTRAL, "fp8", 30002)]
    assert arrange([pinned(GEMMA, "bf16", 30000), *beside], cards(94.97)) is None
    arranged = arrange([pinned(GEMMA, "fp8", 30000), *beside], cards(94.97))
    assert arranged is not None
    # 25k, 42k and 48k tokens by hand, with the cache in 8 bits.
    cells = {one.option.want.port: one.option.cell_bytes(1) for one in arranged.placed}
    spent = sum(one.tokens * cells[one.option.want.port] for one in arranged.placed) / memory.GIB
    by_hand = (25_000 * 253_952 + 42_000 * 131_072 + 48_000 * 81_920) / memory.GIB
    assert abs(spent + 0.02 * 94.97 - by_hand) < 3 * 1.0


# --- choices


def test_the_best_format_that_leaves_room_is_taken() -> None:
    def formats(gib: float) -> list[str]:
        return [server.checkpoint.format for server in planned("solo", gib).servers]

    assert (formats(24), formats(48)) == (["int4"], ["fp8"])


def test_a_cache_in_8_bits_is_one_that_the_card_computes_with() -> None:
    (want,) = wants(load_builtin("solo"))
    for capability, dtype in (("8.6", "fp8_e5m2"), ("8.9", "fp8_e4m3"), ("12.0", "fp8_e4m3"), ("", "fp8_e4m3")):
        found = options(want, [Gpu(id=0, total_gib=24, capability=capability)])
        assert {option.kv for option in found} == {"bf16", dtype}


def test_a_longer_context_than_its_own_stretches_the_positions_no_further_than_needed() -> None:
    near, far = (planned("duo", 141, context={"planner": tokens}) for tokens in (65_536, 131_072))
    for plan, factor, length in ((near, 2.0, 65_536), (far, 4.0, 131_072)):
        server = plan.server("qwen3-32b")
        assert server is not None
        assert (server.yarn_factor, server.context_length) == (factor, length)
        assert any("YaRN" in warning for warning in plan.warnings)
    plain = planned("duo", 141).server("qwen3-32b")
    assert plain is not None and plain.yarn_factor is None and plain.context_length == 40_960


def test_a_context_that_no_stretching_reaches_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"planner needs a context of 262,144 tokens, and Qwen/Qwen3-32B has 131,072"):
        planned("duo", 141, context={"planner": 262_144})


def test_no_card_stays_idle_where_a_model_can_be_spread() -> None:
    plan = planned("duo", 48, 4)
    assert sorted(gpu for server in plan.servers for gpu in server.gpu_ids) == [0, 1, 2, 3]
    assert all(server.tp == 2 for server in plan.servers)


def test_main_memory_goes_to_caches_that_it_is_larger_than() -> None:
    def sizes(ram_gib: float) -> list[float | None]:
        return [server.hicache_gib for server in planned("trio", 94.97, ram_gib=ram_gib).servers]

    assert all(size is None for size in sizes(18))
    rich = planned("trio", 94.97, ram_gib=256)
    assert all(server.hicache_gib and server.hicache_gib > server.arithmetic.kv_gib for server in rich.servers)
    assert sum(server.hicache_gib or 0 for server in rich.servers) <= 256 - RESERVE_GIB
    assert any("main memory" in warning for warning in planned("trio", 94.97, ram_gib=18).warnings)


def test_an_embedder_gets_the_cache_that_it_needs_and_no_more(environ: dict[str, str]) -> None:
    own(
        environ,
        """extends = "trio"
roles.embedder = { model = "Qwen/Qwen3-Embedding-0.6B", context = 8192, requests = 4 }""",
    )
    plan = plan_crew(load("mine", environ), cards(94.97))
    server = plan.server("qwen3-embedding-0.6b")
    assert server is not None and server.max_total_tokens == 4 * 8192
    assert not server.priority_scheduling


def test_what_a_crew_file_settles_about_a_server_is_kept(environ: dict[str, str]) -> None:
    own(
        environ,
        """extends = "trio"
[servers."Qwen/Qwen3-32B"]
format = "Qwen/Qwen3-32B-FP8"
kv = "fp8_e5m2"
tp = 2
port = 31000
draft = true""",
    )
    server = plan_crew(load("mine", environ), cards(80, 2)).server("qwen3-32b")
    assert server is not None and server.draft is not None
    assert (server.checkpoint.hf_id, server.kv_dtype) == ("Qwen/Qwen3-32B-FP8", "fp8_e5m2")
    assert (server.tp, server.gpu_ids, server.port) == (2, (0, 1), 31000)
    assert server.arithmetic.weights_gib == (32.0 + 1.5) / 2
    # One layer more than the model's 64 keeps keys and values.
    assert server.arithmetic.kv_bytes_per_token == 2 * 65 * 4 * 128


@pytest.mark.parametrize(
    ("model", "wish", "said"),
    [
        ("Qwen/Qwen3-32B", "tp = 3", "3 cards cannot share 64 heads and 8 KV heads evenly"),
        ("mistralai/Devstral-Small-2507", "draft = true", "names no way to decode mistralai/Devstral-Small-2507"),
    ],
)
def test_what_a_model_cannot_do_is_refused(environ: dict[str, str], model: str, wish: str, said: str) -> None:
    own(environ, f'extends = "duo"\n[servers."{model}"]\n{wish}')
    with pytest.raises(ConfigError, match=said):
        plan_crew(load("mine", environ), cards(141, 4))


def test_more_cards_than_there_are_is_said(environ: dict[str, str]) -> None:
    own(environ, 'extends = "duo"\n[servers."Qwen/Qwen3-32B"]\ntp = 2')
    plan = plan_crew(load("mine", environ), cards(141))
    assert "to be spread over 2 cards, and there is 1" in plan.misfits[0].what
    assert any("2 × 141 GiB" in nearest for nearest in plan.misfits[0].nearest)


# --- what does not fit


def test_six_models_are_planned_at_once() -> None:
    asked = [
        Want(card=card, uses=(Use("scout", 32768, 2),), port=30000 + place)
        for place, card in enumerate(sorted(CHAT, key=lambda card: -card.params_b)[:6])
    ]
    started = time.process_time()
    assert misfit(asked, cards(80)).nearest
    assert time.process_time() - started < 5  # half a second; trying all combinations took a quarter of a minute


def misfits(plan: CrewPlan) -> str:
    (found,) = plan.misfits
    return "\n".join((found.what, *found.nearest))


def test_a_misfit_says_what_is_missing_and_what_would_do() -> None:
    said = misfits(planned("trio", 48))
    assert "needs 11.0 GiB of KV cache beside 45.8 GiB" in said and "has 47.0 GiB to give" in said
    assert "Qwen/Qwen3-14B instead of Qwen/Qwen3-32B" in said
    assert "without scout and critic" in said
    assert "a card of 80 GiB or 2 × 48 GiB" in said
    assert "the crew solo" in said


def test_every_shorter_context_that_is_offered_fits() -> None:
    said = misfits(planned("duo", 24, 2))
    (line,) = [line for line in said.splitlines() if line.startswith("a shorter context: ")]
    pairs = [pair.split("=") for pair in line.split() if "=" in pair]
    assert planned("duo", 24, 2, context={role: int(tokens) for role, tokens in pairs}).fits


def test_a_format_that_was_asked_for_and_does_not_fit_is_set_free() -> None:
    want = replace(pinned(QWEN, "bf16", 30000), uses=(Use("planner", 40_960, 1),))
    found = misfit([want], cards(48))
    assert "Qwen/Qwen3-32B as fp8 with KV cache in bf16" in found.nearest
    assert "has no checkpoint int3: there are fp8, bf16, int4" in misfit([replace(want, format="int3")], cards(48)).what


@settings(FEW, max_examples=12)
@given(asked=some_wants(), gib=st.floats(4, 60))
def test_there_is_always_a_reason_and_no_model_is_offered_that_is_there_already(asked: list[Want], gib: float) -> None:
    if arrange(asked, cards(gib)) is None:
        found = misfit(asked, cards(gib))
        assert "GiB" in found.what
        for want in asked:
            assert not any(line.startswith(f"{want.card.hf_id} instead of") for line in found.nearest)
