"""The GPU twin walks the walks of the CPU twin: layouts, alias rows, tallies and figures are equal to the bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from ouroflow.errors import ResourceError
from ouroflow.graph import FlowGraph
from ouroflow.graph_gpu import DeviceGraph
from ouroflow.roundtrip import cpu_walks, gpu_walks
from ouroflow.roundtrip.walks import (
    HORIZON,
    AliasTable,
    MoneyLayout,
    WalkTally,
    walk_companies,
    walk_returns,
    walk_sample,
)
from simt.host import HostAccelerator

pytestmark = pytest.mark.host

Labels = npt.NDArray[np.int32]
MOST_SEED = 2**64 - 1


# --- graphs -----------------------------------------------------------------------------------------------------------


def with_labels(graph: FlowGraph) -> tuple[FlowGraph, Labels]:
    matrix = csr_matrix((np.ones(graph.flows), graph.payee, graph.out_offsets), shape=(graph.companies,) * 2)
    return graph, connected_components(matrix, directed=True, connection="strong")[1]


def random_case(seed: int, companies: int, flows: int, largest: int) -> tuple[FlowGraph, Labels]:
    rng = np.random.default_rng(seed)
    payer, payee = rng.integers(0, companies, (2, flows))
    return with_labels(FlowGraph.from_arrays(payer, payee, rng.integers(1, largest + 1, flows), companies=companies))


def power_law(seed: int = 3, companies: int = 900, flows: int = 9_000) -> tuple[FlowGraph, Labels]:
    """Hubs of several blocks of 64 flows, amounts over nine decades, and many trivial components."""
    rng = np.random.default_rng(seed)
    rank = np.arange(1, companies + 1) ** -1.0
    payer, payee = (rng.choice(companies, flows, p=rng.permutation(rank) / rank.sum()) for _ in range(2))
    amount = np.exp(rng.normal(8, 4, flows)).astype(np.int64) + 1
    return with_labels(FlowGraph.from_arrays(payer, payee, amount, companies=companies))


def star(hubs: int = 2, spokes: int = 3_000) -> tuple[FlowGraph, Labels]:
    """Hubs that pay thousands of companies each, which pay a part back; many amounts are equal."""
    rng = np.random.default_rng(hubs)
    spoke, hub = np.tile(np.arange(hubs, spokes + hubs), hubs), np.repeat(np.arange(hubs), spokes)
    payer, payee = np.concatenate([hub, spoke]), np.concatenate([spoke, hub])
    amount = np.concatenate([rng.integers(1, 4, hubs * spokes) ** 9, rng.integers(1, 1_000, hubs * spokes)])
    return with_labels(FlowGraph.from_arrays(payer, payee, amount))


def beside_rings(leak: int) -> tuple[FlowGraph, Labels]:
    """Closed rings, a ring that loses `leak` of 10^6 a hop at one company, and a random component, ids mixed up."""
    rng = np.random.default_rng(leak)
    rings = [np.arange(0, 2), np.arange(2, 72), np.arange(72, 81)]
    payer = np.concatenate([*rings, [72], 81 + rng.integers(0, 40, 300)])
    payee = np.concatenate([*(np.roll(ring, -1) for ring in rings), [121], 81 + rng.integers(0, 40, 300)])
    amount = np.concatenate([np.full(72, 7), np.full(9, 10**6), [leak], rng.integers(1, 50, 300)])
    ids, paid = rng.permutation(122), amount > 0
    return with_labels(FlowGraph.from_arrays(ids[payer[paid]], ids[payee[paid]], amount[paid], companies=122))


def near_int64(largest: int) -> tuple[FlowGraph, Labels]:
    """Throughflows for which a third of all draws is rejected, and amounts times slots that pass int64."""
    rng = np.random.default_rng(5)
    payer, payee = np.append(rng.integers(0, 30, (2, 200)), [[0, 1], [1, 0]], axis=1)
    amount = np.append(rng.integers(1, 1_000, 200), [largest, largest - 10**5])
    return with_labels(FlowGraph.from_arrays(payer, payee, amount, companies=30))


def widened(graph: FlowGraph) -> FlowGraph:
    return replace(
        graph,
        payee=graph.payee.astype(np.int64),
        payments=graph.payments.astype(np.int64),
        in_payer=graph.in_payer.astype(np.int64),
        in_flow=graph.in_flow.astype(np.int64),
    )


CASES = {
    "power law": power_law(),
    "star": star(),
    "closed rings": beside_rings(leak=0),
    "nearly closed ring": beside_rings(leak=1),
    "near int64": near_int64(2**62 - 10**6),
    "one payment": random_case(1, 2, 1, 5),
    "no flow": with_labels(FlowGraph.from_arrays(np.zeros(0, np.int64), np.zeros(0, np.int64), companies=3)),
    "no company": with_labels(FlowGraph.from_arrays(np.zeros(0, np.int64), np.zeros(0, np.int64), companies=0)),
    "acyclic": with_labels(FlowGraph.from_arrays(*np.nonzero(np.triu(np.ones((70, 70)), 1)))),
}


# --- equality ---------------------------------------------------------------------------------------------------------


def here(on: HostAccelerator, array: Any) -> Any:
    return on.to_host(array) if on.is_here(array) else array


def both_layouts(
    graph: FlowGraph, labels: Labels, on: HostAccelerator, hops: int | None
) -> tuple[MoneyLayout, MoneyLayout]:
    ours = gpu_walks.lay_money(DeviceGraph.from_host(on, graph), labels, hops=hops)
    theirs = cpu_walks.lay_money(graph, labels, hops=hops)
    for name in ("inside", "block_before", "company_before", "closed", "closed_paid"):
        one, other = here(on, getattr(ours, name)), getattr(theirs, name)
        assert one.dtype == other.dtype and np.array_equal(one, other), name
    assert (ours.laid, ours.certain) == (theirs.laid, theirs.certain)
    return ours, theirs


def both_tables(ours: MoneyLayout, theirs: MoneyLayout) -> tuple[AliasTable | None, AliasTable | None]:
    one, other = gpu_walks.alias_table(ours), cpu_walks.alias_table(theirs)
    if one is None or other is None:
        assert one is other
        return None, None
    on = ours.graph.on
    assert np.array_equal(on.to_host(one.row_offsets), other.row_offsets)
    assert np.array_equal(on.to_host(one.slots), other.slots)
    assert one.longest == other.longest
    return one, other


def assert_same_tally(one: WalkTally, other: WalkTally) -> None:
    assert np.array_equal(one.layout.to_host(one.returned), other.returned)
    assert np.array_equal(one.layout.to_host(one.unfinished_of), other.unfinished_of)
    for name in ("walks", "hits", "unfinished", "steps", "confidence", "error", "method"):
        assert getattr(one, name) == getattr(other, name), name
    assert (one.fraction(), one.finn(), one.round_trip()) == (other.fraction(), other.finn(), other.round_trip())
    for ours, theirs in zip(one.companies(), other.companies(), strict=True):
        assert np.array_equal(ours, theirs)


def assert_same_walks(
    graph: FlowGraph, labels: Labels, on: HostAccelerator, *, walks: int, seed: int, hops: int | None, base: int = 0
) -> None:
    """Hold every stage of the twins against each other, with both walkers."""
    ours, theirs = both_layouts(graph, labels, on, hops)
    tables = both_tables(ours, theirs)
    settings: dict[str, Any] = {"seed": seed, "hops": hops, "walk_base": base}
    for our_table, their_table in ((None, None), tables):
        one = walk_sample(ours, walks, table=our_table, **settings)
        assert_same_tally(one, walk_sample(theirs, walks, table=their_table, **settings))
    paying = np.flatnonzero(np.diff(theirs.company_before))[::3]
    chosen = np.concatenate([paying, paying[:2]])  # some twice: they are samples of their own
    sizes = np.random.default_rng(seed % 1_000).integers(1, 60, len(chosen))
    last_step = (HORIZON if hops is None else hops) - 1
    for our_table, their_table in ((None, None), tables):
        rest = {"seed": seed, "walk_base": base, "last_step": last_step}
        one = gpu_walks.walk_each(ours, our_table, chosen, sizes, **rest)
        other = cpu_walks.walk_each(theirs, their_table, chosen, sizes, **rest)
        assert np.array_equal(one.returned, other.returned) and np.array_equal(one.unfinished, other.unfinished)
        assert one.steps == other.steps


@pytest.mark.parametrize("hops", [None, 2, 3])
@pytest.mark.parametrize("name", CASES)
def test_every_stage_equals_the_cpu_twin(name: str, hops: int | None) -> None:
    assert_same_walks(*CASES[name], HostAccelerator(), walks=2_000, seed=MOST_SEED, hops=hops, base=12_345)


@settings(max_examples=60)
@given(
    seed=st.integers(0, MOST_SEED),
    companies=st.integers(1, 60),
    flows=st.integers(0, 400),
    largest=st.sampled_from([1, 2, 3, 1_000, 2**32 + 1, 2**52, 2**54]),  # equal amounts, and shares as wide as they get
    hops=st.sampled_from([None, 2, 3, 7]),
    walks=st.sampled_from([1, 2, 63, 64, 500]),
    base=st.sampled_from([0, 1, 2**32 - 100, 2**40]),
    wide=st.booleans(),
    resident_threads=st.sampled_from([256, 512, 4096]),
    workers=st.sampled_from([1, 3]),
)
def test_random_graphs_are_walked_the_same(
    seed: int,
    companies: int,
    flows: int,
    largest: int,
    hops: int | None,
    walks: int,
    base: int,
    wide: bool,
    resident_threads: int,
    workers: int,
) -> None:
    graph, labels = random_case(seed % 2**32, companies, flows, largest)
    on = HostAccelerator(resident_threads=resident_threads, workers=workers)
    graph = widened(graph) if wide else graph
    assert_same_walks(graph, labels, on, walks=walks, seed=seed, hops=hops, base=base)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=150), st.integers(0, 30))
def test_one_row_of_any_amounts_is_balanced_as_by_two_stacks(amounts: list[int], leak: int) -> None:
    # The hub pays spokes, which pay all of it back, and a company that pays nobody.
    spokes = np.arange(1, len(amounts) + 1)
    hub = np.zeros_like(spokes)
    payer, payee = np.concatenate([hub, spokes]), np.concatenate([spokes, hub])
    amount = np.concatenate([amounts, amounts])
    if leak:
        payer, payee, amount = np.append(payer, 0), np.append(payee, len(amounts) + 1), np.append(amount, leak)
    graph, labels = with_labels(FlowGraph.from_arrays(payer, payee, amount, companies=len(amounts) + 2))
    both_tables(*both_layouts(graph, labels, HostAccelerator(), hops=4))


@pytest.mark.parametrize(("throughflow", "possible"), [(2**62 - 1, True), (2**62, False)])
def test_rows_are_built_up_to_the_limit_of_int64_and_not_beyond(throughflow: int, possible: bool) -> None:
    # Company 0 has two slots: one for its only flow, and one for what leaks.
    graph, labels = with_labels(FlowGraph.from_arrays([0, 1], [1, 0], [10, throughflow]))
    table, _ = both_tables(*both_layouts(graph, labels, HostAccelerator(), hops=None))
    assert (table is not None) == possible


def test_ids_of_64_bits_change_nothing() -> None:
    graph, labels = power_law()
    assert_same_walks(widened(graph), labels, HostAccelerator(), walks=3_000, seed=8, hops=None)
    assert_same_walks(widened(graph), labels.astype(np.int64), HostAccelerator(), walks=300, seed=8, hops=None)


def test_walks_that_never_end_are_given_up_alike() -> None:
    ring = np.arange(3 * HORIZON)
    payer, payee = np.append(ring, 0), np.append(np.roll(ring, -1), ring.size)
    graph = FlowGraph.from_arrays(payer, payee, np.append(np.full(ring.size, 10**6), 1), companies=ring.size + 1)
    on = HostAccelerator()
    device, (_, labels) = DeviceGraph.from_host(on, graph), with_labels(graph)
    one, other = (walk_returns(case, labels, seed=1, walks=40) for case in (device, graph))
    assert one.unfinished == one.walks == 40
    assert_same_tally(one, other)


# --- final figures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hops", [None, 2, 3])
@pytest.mark.parametrize("name", CASES)
def test_figures_of_the_graph_are_equal_on_both_devices(name: str, hops: int | None) -> None:
    graph, labels = CASES[name]
    device = DeviceGraph.from_host(HostAccelerator(), graph)
    for wanted in ({"tolerance": 0.02}, {"walks": 700}):
        rest: dict[str, Any] = {"seed": MOST_SEED, "hops": hops, **wanted}
        assert_same_tally(walk_returns(device, labels, **rest), walk_returns(graph, labels, **rest))


@pytest.mark.parametrize("hops", [None, 3])
@pytest.mark.parametrize("name", ["power law", "closed rings", "nearly closed ring", "near int64", "acyclic"])
def test_figures_of_companies_are_equal_on_both_devices(name: str, hops: int | None) -> None:
    graph, labels = CASES[name]
    device = DeviceGraph.from_host(HostAccelerator(), graph)
    chosen = np.append(np.arange(graph.companies)[::-5], [4, 4])
    rest: dict[str, Any] = {"seed": 2**63, "tolerance": 0.03, "hops": hops}
    one, other = (walk_companies(case, labels, chosen, **rest) for case in (device, graph))
    for part in ("companies", "value", "low", "high", "walks"):
        assert np.array_equal(getattr(one, part), getattr(other, part)), part


def test_the_walker_is_chosen_alike() -> None:
    # Few walks go straight over the flows, many over alias rows: a device that chose otherwise would draw other numbers.
    graph, labels = power_law()
    for walks, kernel in ((1_000, "walk_plain_flows"), (20_000, "walk_alias_rows")):
        on = HostAccelerator()
        ours = walk_returns(DeviceGraph.from_host(on, graph), labels, seed=3, walks=walks)
        assert {name for name in on.launches if name.startswith("walk")} == {kernel}
        assert_same_tally(ours, walk_returns(graph, labels, seed=3, walks=walks))


# --- memory and work --------------------------------------------------------------------------------------------------


def test_walks_and_alias_rows_past_the_free_memory_are_done_in_parts() -> None:
    graph, labels = power_law()
    on = HostAccelerator(memory=24 * graph.flows + 16 * graph.companies)
    assert_same_walks(graph, labels, on, walks=50_000, seed=2, hops=None)
    assert on.launches["balance_slots"] >= 2
    assert on.launches["draw_starts"] >= 10


def test_a_row_longer_than_a_part_is_a_part_of_its_own() -> None:
    graph, labels = star(hubs=1)
    on = HostAccelerator()
    ours, theirs = both_layouts(graph, labels, on, None)
    table = cpu_walks.alias_table(theirs)
    assert table is not None
    on.memory = 16 * len(table.slots)
    assert table.longest > on.memory // 2 // gpu_walks.BYTES_PER_BUILT_SLOT
    both_tables(ours, theirs)
    assert on.launches["balance_slots"] >= 3


def test_what_does_not_fit_at_all_is_refused_with_both_figures() -> None:
    graph, labels = power_law()
    on = HostAccelerator()
    device = DeviceGraph.from_host(on, graph)
    layout = gpu_walks.lay_money(device, labels)
    on.memory = 20_000
    with pytest.raises(ResourceError, match="money layout"):
        gpu_walks.lay_money(device, labels)
    with pytest.raises(ResourceError, match="alias slots"):
        gpu_walks.alias_table(layout)
    on.memory = 2_000
    with pytest.raises(ResourceError, match="tallies"):
        walk_sample(layout, 10, seed=1)


def test_a_step_over_alias_rows_reads_one_slot_and_the_layout_reads_each_flow_once() -> None:
    graph, labels = power_law()
    on = HostAccelerator()
    layout = gpu_walks.lay_money(DeviceGraph.from_host(on, graph), labels, hops=9)
    assert on.touched_edges["mark_inside"] == graph.flows
    table = gpu_walks.alias_table(layout)
    assert on.touched_edges["lay_flow_slots"] == int(np.bitwise_count(on.to_host(layout.inside)).sum())
    tally = walk_sample(layout, 5_000, seed=1, table=table, hops=9)
    assert on.touched_edges["walk_alias_rows"] == tally.steps > 5_000
    assert on.touched_edges["draw_starts"] <= 64 * 5_000
    plain = walk_sample(layout, 5_000, seed=1, hops=9)
    assert on.touched_edges["walk_plain_flows"] <= 64 * plain.steps


def test_a_thread_that_walks_many_walks_of_few_payers_loses_none() -> None:
    graph, labels = with_labels(FlowGraph.from_arrays([0, 1, 1], [1, 0, 2], [3, 2, 1]))
    on = HostAccelerator(resident_threads=256)
    assert_same_walks(graph, labels, on, walks=10_000, seed=4, hops=None)
