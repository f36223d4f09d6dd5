"""Seeded walks: the generator, exact draws, intervals that hold, and results that depend on nothing but the seed."""

from __future__ import annotations

import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from scipy.stats import binom

import oracle
from ouroflow.errors import UsageError
from ouroflow.graph import FlowGraph
from ouroflow.roundtrip import cpu_walks
from ouroflow.roundtrip.cpu_walks import alias_table, lay_money, philox
from ouroflow.roundtrip.intervals import clopper_pearson, draws_needed
from ouroflow.roundtrip.walks import (
    HORIZON,
    AliasTable,
    MoneyLayout,
    WalkTally,
    walk_companies,
    walk_returns,
    walk_sample,
)

pytestmark = pytest.mark.cpu

Labels = npt.NDArray[np.int32]


def labels_of(weights: npt.NDArray[np.int64]) -> Labels:
    labels: Labels = connected_components(csr_matrix(weights), directed=True, connection="strong")[1]
    return labels


def graph_of(weights: npt.NDArray[np.int64]) -> tuple[FlowGraph, Labels]:
    payer, payee = np.nonzero(weights)
    graph = FlowGraph.from_arrays(payer, payee, weights[payer, payee], companies=len(weights))
    return graph, labels_of(weights)


def random_weights(seed: int, companies: int = 30, share: float = 0.12, largest: int = 1000) -> npt.NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    weights = np.where(rng.random((companies, companies)) < share, rng.integers(1, largest, (companies, companies)), 0)
    np.fill_diagonal(weights, 0)
    return weights.astype(np.int64)


def plenty_of_rows(seed: int = 3, companies: int = 400, flows: int = 6_000) -> tuple[FlowGraph, Labels]:
    """A graph with hubs of several blocks of 64 flows, amounts over nine decades, and many trivial components."""
    rng = np.random.default_rng(seed)
    rank = np.arange(1, companies + 1) ** -0.9
    payer, payee = (rng.choice(companies, flows, p=rng.permutation(rank) / rank.sum()) for _ in range(2))
    graph = FlowGraph.from_arrays(
        payer, payee, np.exp(rng.normal(8, 4, flows)).astype(np.int64) + 1, companies=companies
    )
    matrix = csr_matrix((np.ones(graph.flows), (graph.payer, graph.payee)), shape=(companies, companies))
    return graph, connected_components(matrix, directed=True, connection="strong")[1]


def payers_of(layout: MoneyLayout, walks: int, seed: int) -> npt.NDArray[np.int64]:
    """Where the walks of a sample start."""
    laid = cpu_walks._arrays(layout)
    sample = cpu_walks._Sample(0, layout.graph.companies, walks, 0, np.uint64(seed), 1)
    starts, payers, spare = np.empty(walks, np.int64), np.empty(walks, np.int64), np.empty(walks, np.uint64)
    cpu_walks._draw_starts(0, walks, sample, laid, cpu_walks._first_cursor(0, laid), starts, payers, spare)
    assert (layout.graph.payer[starts] == payers).all()
    return payers


def misses_allowed(trials: int, level: float) -> int:
    """Most misses that a method keeping its level shows, but for one run in a million."""
    return int(binom.ppf(1 - 1e-6, trials, 1 - level))


# --- the generator ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "block"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_vectors(
    counter: tuple[int, ...], key: tuple[int, ...], block: tuple[int, ...]
) -> None:
    assert tuple(int(word) for word in philox(*map(np.uint64, counter + key))) == block


# --- intervals --------------------------------------------------------------------------------------------------------


def sum_distribution(probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Distribution of a sum of independent yes/no draws of these probabilities."""
    mass = np.ones(1)
    for p in probabilities:
        mass = np.convolve(mass, [1 - p, p])
    return mass


@given(
    st.lists(st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 1), st.floats(0, 0.02)), min_size=1, max_size=40),
    st.sampled_from([0.5, 0.9, 0.99, 0.999]),
)
def test_the_interval_holds_for_unequal_draws(probabilities: list[float], confidence: float) -> None:
    draws, mean = len(probabilities), float(np.mean(probabilities))
    low, high = clopper_pearson(np.arange(draws + 1), np.full(draws + 1, draws), confidence)
    mass = sum_distribution(np.array(probabilities))
    side = (1 - confidence) / 2 + 1e-12
    assert mass[low > mean].sum() <= side
    assert mass[high < mean].sum() <= side
    assert (np.diff(low) > 0).all() and (np.diff(high) > 0).all()


def test_one_certain_return_among_many_draws_shows_why_one_hit_needs_markov() -> None:
    # One draw that returns with probability 0.0052, 999 that never do: plain Clopper-Pearson would miss too often.
    low, _ = clopper_pearson(1, 1000, 0.99)
    assert low <= 0.005 / 1000


@pytest.mark.parametrize(("fraction", "half_width"), [(0.0, 1e-3), (0.5, 1e-3), (0.01, 1e-3), (0.5, 0.3), (1.0, 0.01)])
def test_the_draws_needed_are_enough_and_not_many_too_many(fraction: float, half_width: float) -> None:
    def reach(draws: int) -> float:
        hits = round(fraction * draws)
        low, high = clopper_pearson(hits, draws, 0.99)
        return float(max(high - hits / draws, hits / draws - low))

    needed = int(draws_needed(fraction, half_width, 0.99))
    assert reach(needed) <= half_width
    assert reach(max(needed * 95 // 100 - 2, 1)) > half_width or needed <= 3


# --- the layout -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
def test_the_layout_holds_the_money_inside_components_and_no_other(threads: int) -> None:
    graph, labels = plenty_of_rows()
    layout = lay_money(graph, labels, threads=threads)
    inside = labels[graph.payer] == labels[graph.payee]
    bits = np.unpackbits(layout.inside.view(np.uint8), bitorder="little")[: graph.flows]
    assert (bits == inside).all()
    money = np.where(inside, graph.amount, 0)
    assert (np.diff(layout.company_before) == np.bincount(graph.payer, money, graph.companies)).all()
    assert (layout.block_before[:-1] == np.concatenate([[0], np.cumsum(money)])[:-1:64]).all()
    assert layout.laid == layout.block_before[-1] == money.sum()


@pytest.mark.parametrize("companies", [2, 7, 200])
def test_money_of_a_balanced_ring_returns_for_sure_and_is_not_walked(companies: int) -> None:
    ring = np.roll(np.eye(companies, dtype=np.int64) * 5, 1, axis=1)
    tally = walk_returns(*graph_of(ring), seed=1)
    assert (tally.walks, tally.fraction().value, tally.fraction().width) == (0, 1.0, 0.0)
    assert all((part == 5.0).all() for part in tally.companies())
    assert (walk_companies(*graph_of(ring), [0, 1], seed=1).low == 1).all()


def test_a_closed_ring_beside_a_leaky_component_is_certain_and_the_rest_is_sampled() -> None:
    weights = np.zeros((7, 7), np.int64)
    weights[:3, :3] = [[0, 2, 0], [0, 0, 1], [1, 0, 0]]
    weights[3:, 3:] = np.roll(np.eye(4, dtype=np.int64) * 9, 1, axis=1)
    tally = walk_returns(*graph_of(weights), seed=5, tolerance=5e-3)
    figure = tally.fraction()
    assert tally.layout.certain == 36
    assert figure.low <= (36 + 2.5) / 40 <= figure.high
    assert max(figure.high - figure.value, figure.value - figure.low) <= 5e-3
    assert (tally.companies()[0][3:] == 9).all()


def test_a_hop_limit_counts_returns_of_a_ring_only_when_it_is_long_enough() -> None:
    graph, labels = graph_of(np.roll(np.eye(5, dtype=np.int64), 1, axis=1))
    assert walk_returns(graph, labels, seed=1, hops=4, walks=100).hits == 0
    assert walk_returns(graph, labels, seed=1, hops=5, walks=100).hits == 100


def test_acyclic_money_takes_no_walk() -> None:
    tally = walk_returns(*graph_of(np.triu(np.ones((6, 6), np.int64), 1)), seed=1)
    assert (tally.walks, tally.fraction().high, tally.finn().high) == (0, 0.0, 0.0)
    assert not np.any(tally.companies())


def test_a_graph_without_flows_returns_nothing() -> None:
    graph = FlowGraph.from_arrays(np.zeros(0, np.int64), np.zeros(0, np.int64), companies=3)
    assert walk_returns(graph, np.arange(3, dtype=np.int32), seed=1).fraction().high == 0.0


# --- starts and alias tables ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("walks", [7, 60, 60_000])
def test_every_unit_of_money_is_equally_likely_to_start_a_walk(walks: int) -> None:
    # Three companies in a ring of 1, 2 and 3 units plus a leak: 6 units, drawn in strata that cut through units.
    weights = np.array([[0, 1, 0], [0, 0, 2], [3, 0, 0]], np.int64)
    layout = lay_money(*graph_of(weights))
    starts = sum(np.bincount(payers_of(layout, walks, seed), minlength=3) for seed in range(4000 // walks + 20))
    drawn = starts.sum()
    expected = drawn * np.array([1, 2, 3]) / 6
    assert (np.abs(starts - expected) <= 6 * np.sqrt(expected) + 1e-9).all()


def test_as_many_walks_as_units_of_money_start_at_every_unit_once() -> None:
    graph, labels = graph_of(random_weights(2, 12, 0.4, 50))
    layout = lay_money(graph, labels)
    payers = payers_of(layout, layout.laid, seed=1)
    assert (np.bincount(payers, minlength=graph.companies) == np.diff(layout.company_before)).all()


def test_the_starts_ascend_and_stay_within_their_strata() -> None:
    graph, labels = plenty_of_rows()
    layout = lay_money(graph, labels)
    walks = 1000
    payers = payers_of(layout, walks, seed=9)
    lowest, highest = layout.company_before[payers], layout.company_before[payers + 1]
    stratum = layout.laid / walks
    assert (np.diff(payers) >= 0).all()
    assert (lowest < (np.arange(walks) + 1) * stratum).all() and (highest >= np.arange(walks) * stratum).all()


def row_probabilities(table: AliasTable, company: int, companies: int) -> npt.NDArray[np.float64]:
    """Probability of each next company, and last of leaving, as the slots say."""
    rows = table.slots[table.row_offsets[company] : table.row_offsets[company + 1]]
    result = np.zeros(companies + 1)
    for threshold, targets in rows:
        below = int(threshold) / 2**64
        for target, part in ((int(targets) & 0xFFFFFFFF, below), (int(targets) >> 32, 1 - below)):
            result[min(target, companies)] += part / len(rows)
    return result


def test_alias_rows_hold_the_shares_of_the_flows() -> None:
    graph, labels = plenty_of_rows()
    layout = lay_money(graph, labels)
    table = alias_table(layout, threads=2)
    assert table is not None and table.error_per_step < 1e-15
    inside = labels[graph.payer] == labels[graph.payee]
    for company in np.flatnonzero(np.diff(layout.company_before))[:100]:
        expected = np.zeros(graph.companies + 1)
        row = np.flatnonzero((graph.payer == company) & inside)
        expected[graph.payee[row]] = graph.amount[row] / graph.throughflow[company]
        expected[-1] = 1 - expected.sum()
        assert np.abs(row_probabilities(table, int(company), graph.companies) - expected).max() < 1e-14


@pytest.mark.parametrize("largest", [2**61, 2**62 - 10**6])
def test_amounts_up_to_the_limit_of_int64_are_walked_without_alias_rows(largest: int) -> None:
    weights = random_weights(5)
    weights[0, 1], weights[1, 0] = largest, largest - 10**5
    graph, labels = graph_of(weights)
    assert alias_table(lay_money(graph, labels)) is None
    figure = walk_returns(graph, labels, seed=3, tolerance=3e-3).fraction()
    exact = oracle.dense(weights.astype(float)).fraction
    assert figure.low <= exact <= figure.high
    assert figure.high > 0.99


# --- intervals hold ---------------------------------------------------------------------------------------------------


def leaky_case(seed: int) -> tuple[FlowGraph, Labels, npt.NDArray[np.int64]]:
    weights = random_weights(seed)
    return *graph_of(weights), weights


@pytest.mark.parametrize("over_table", [False, True])
def test_the_sampled_fraction_holds_the_exact_one_at_its_level(over_table: bool) -> None:
    graph, labels, weights = leaky_case(11)
    layout = lay_money(graph, labels)
    table = alias_table(layout) if over_table else None
    exact = oracle.dense(weights.astype(float)).fraction
    seeds, level = range(400), 0.9
    figures = [walk_sample(layout, 500, seed=seed, table=table, confidence=level).fraction() for seed in seeds]
    missed = [seed for seed, figure in zip(seeds, figures, strict=True) if not figure.low <= exact <= figure.high]
    assert len(missed) <= misses_allowed(len(seeds), level), f"seeds that miss {exact}: {missed}"
    assert abs(np.mean([figure.value for figure in figures]) - exact) < 4 * 0.5 / np.sqrt(500 * len(seeds))


def test_the_adaptive_sample_holds_the_exact_fraction_at_its_level() -> None:
    graph, labels, weights = leaky_case(12)
    exact, seeds = oracle.dense(weights.astype(float)).fraction, range(400)
    figures = [walk_returns(graph, labels, seed=seed, tolerance=0.02).fraction() for seed in seeds]
    missed = [seed for seed, figure in zip(seeds, figures, strict=True) if not figure.low <= exact <= figure.high]
    assert len(missed) <= misses_allowed(len(seeds), 0.99), f"seeds that miss {exact}: {missed}"
    assert max(max(f.high - f.value, f.value - f.low) for f in figures) <= 0.02


def test_company_intervals_hold_at_their_level_one_by_one() -> None:
    graph, labels, weights = leaky_case(13)
    layout, exact = lay_money(graph, labels), oracle.dense(weights.astype(float)).round_trip
    level, tried, missed = 0.9, 0, 0
    for seed in range(150):
        value, low, high = walk_sample(layout, 700, seed=seed, confidence=level).companies()
        assert ((low <= value) & (value <= high)).all()
        # Where nothing can return the interval is 0 exactly and cannot miss.
        uncertain = high > 0
        tried += int(uncertain.sum())
        missed += int(np.sum((low > exact * (1 + 1e-12)) | (high < exact * (1 - 1e-12))))
    assert missed <= misses_allowed(tried, level), f"{missed} of {tried}"


@pytest.mark.parametrize("hops", [None, 2, 4])
def test_walks_from_single_companies_hold_their_exact_fractions(hops: int | None) -> None:
    graph, labels, weights = leaky_case(14)
    exact = oracle.dense(weights.astype(float)).round_trip if hops is None else oracle.hop_limited(weights, hops)
    exact = exact / np.maximum(weights.sum(1), 1)
    everyone = np.arange(graph.companies)
    tried, missed = 0, 0
    for seed in range(20):
        found = walk_companies(graph, labels, everyone, seed=seed, tolerance=0.02, confidence=0.95, hops=hops)
        assert np.maximum(found.high - found.value, found.value - found.low).max() <= 0.02 + 1e-12
        tried += len(everyone)
        missed += int(np.sum((found.low > exact + 1e-12) | (found.high < exact - 1e-12)))
    assert missed <= misses_allowed(tried, 0.95), f"{missed} of {tried}"


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.integers(2, 6), st.sampled_from([None, 2, 3, 5]))
def test_plain_and_lockstep_walks_agree_with_dense_algebra(seed: int, companies: int, hops: int | None) -> None:
    weights = random_weights(seed, companies, 0.6, 20)
    graph, labels = graph_of(weights)
    layout = lay_money(graph, labels, hops=hops)
    if layout.laid == 0 or layout.certain:
        return
    paid = weights.sum()
    exact = oracle.hop_limited(weights, hops).sum() / paid if hops else oracle.dense(weights.astype(float)).fraction
    for table in (None, alias_table(layout)):
        figure = walk_sample(layout, 4000, seed=seed, table=table, hops=hops, confidence=1 - 1e-7).fraction()
        assert figure.low <= exact <= figure.high


def test_walks_that_do_not_end_widen_the_interval_to_both_sides() -> None:
    # A ring of 3 whose only leak is one unit in a million, beside a way out: nearly nobody ends within the horizon.
    companies = 3 * HORIZON
    ring = np.arange(companies)
    payer, payee = np.append(ring, 0), np.append(np.roll(ring, -1), companies)
    amount = np.append(np.full(companies, 10**6), 1)
    graph = FlowGraph.from_arrays(payer, payee, amount, companies=companies + 1)
    labels = np.append(np.zeros(companies, np.int32), np.int32(1))
    tally = walk_returns(graph, labels, seed=1, tolerance=0.01)
    assert tally.unfinished == tally.walks
    assert (tally.fraction().low, round(tally.fraction().high, 6)) == (0.0, 1.0)


# --- nothing but the seed ---------------------------------------------------------------------------------------------


def same(one: WalkTally, other: WalkTally) -> bool:
    pairs = ((one.returned, other.returned), (one.unfinished_of, other.unfinished_of))
    return all((ours == theirs).all() for ours, theirs in pairs) and one.steps == other.steps


def test_threads_change_nothing_and_seeds_change_everything() -> None:
    graph, labels = plenty_of_rows()
    layout = lay_money(graph, labels, threads=1)
    table = alias_table(layout, threads=1)
    again = alias_table(lay_money(graph, labels, threads=5), threads=5)
    assert table is not None and again is not None and (table.slots == again.slots).all()
    for chosen in (None, table):
        one = walk_sample(layout, 5000, seed=4, table=chosen, threads=1)
        assert same(one, walk_sample(layout, 5000, seed=4, table=chosen, threads=7))
        assert not same(one, walk_sample(layout, 5000, seed=5, table=chosen, threads=1))
        assert not same(one, walk_sample(layout, 5000, seed=4, table=chosen, walk_base=5000))
    alone = walk_companies(graph, labels, np.arange(50), seed=4, tolerance=0.01, threads=1)
    together = walk_companies(graph, labels, np.arange(50), seed=4, tolerance=0.01, threads=3)
    assert all((getattr(alone, part) == getattr(together, part)).all() for part in ("value", "low", "high", "walks"))


def test_ids_of_64_bits_walk_the_same_paths() -> None:
    graph, labels = plenty_of_rows()
    wide = FlowGraph(
        graph.out_offsets,
        graph.payee.astype(np.int64),
        graph.amount,
        graph.payments,
        graph.in_offsets,
        graph.in_payer.astype(np.int64),
        graph.in_flow.astype(np.int64),
    )
    for tables in (False, True):
        tallies = []
        for case in (graph, wide):
            layout: MoneyLayout = lay_money(case, labels)
            tallies.append(walk_sample(layout, 3000, seed=2, table=alias_table(layout) if tables else None))
        assert same(*tallies)


def test_memory_is_what_the_docstrings_say() -> None:
    rng = np.random.default_rng(1)
    companies, flows, walks = 20_000, 200_000, 3_000_000
    graph = FlowGraph.from_arrays(
        rng.integers(0, companies, flows), rng.integers(0, companies, flows), companies=companies
    )
    labels = np.zeros(companies, np.int32)
    walk_sample(lay_money(graph, labels), 10, seed=1, table=alias_table(lay_money(graph, labels)))
    tracemalloc.start()
    try:
        layout = lay_money(graph, labels)
        layout_bytes = tracemalloc.get_traced_memory()[1]
        table = alias_table(layout)
        table_bytes = tracemalloc.get_traced_memory()[1] - layout_bytes
        tracemalloc.reset_peak()
        held = tracemalloc.get_traced_memory()[0]
        walk_sample(layout, walks, seed=1, table=table)
        walk_bytes = tracemalloc.get_traced_memory()[1] - held
    finally:
        tracemalloc.stop()
    spare = 200_000  # threads, Python objects
    assert layout_bytes <= 8 * companies + 0.25 * graph.flows + spare
    assert table_bytes <= 16 * graph.flows + (16 + 8) * companies + spare
    assert walk_bytes <= 16 * companies + spare


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"tolerance": 0}, "tolerance"),
        ({"tolerance": float("nan")}, "tolerance"),
        ({"confidence": 1.0}, "confidence"),
        ({"hops": 1}, "hops"),
        ({"walks": 0}, "walks"),
        ({"walks": 2**31}, "walks"),
    ],
)
def test_settings_out_of_range_are_refused(setting: dict[str, float], words: str) -> None:
    graph, labels = graph_of(random_weights(1))
    with pytest.raises(UsageError, match=words):
        walk_returns(graph, labels, **({"seed": 1} | setting))  # type: ignore[arg-type]


def test_companies_that_do_not_exist_are_refused() -> None:
    graph, labels = graph_of(random_weights(1))
    with pytest.raises(UsageError, match="ids in 0"):
        walk_companies(graph, labels, [30], seed=1)


def test_samples_that_just_fall_short_grow_until_they_do_not() -> None:
    # A share a little above one half at a wide tolerance: a size predicted for one half misses by a hair, time after time.
    hub, spokes = np.zeros(49, np.int64), np.arange(1, 50)
    rng = np.random.default_rng(297)
    graph = FlowGraph.from_arrays(np.append(spokes, hub), np.append(hub, spokes), rng.integers(1, 100, 98))
    found = walk_companies(graph, np.zeros(50, np.int32), np.arange(5), seed=4, tolerance=0.1)
    assert np.all(np.maximum(found.high - found.value, found.value - found.low) <= 0.1)
