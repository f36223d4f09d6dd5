"""Maximum circulation: the optimum, its proof, its interval when stopped early, and the flows that are the same in all optima."""

from __future__ import annotations

import itertools
import random
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ouroflow.circulation import certificate, forced_flows, max_circulation
from ouroflow.circulation.cpu import Solver
from ouroflow.circulation.cpu_network import network_of
from ouroflow.components import components_of, strong_components
from ouroflow.errors import UsageError, VerificationError
from ouroflow.graph import INT64_MAX, FlowGraph
from ouroflow.roundtrip import brackets, round_trip_fractions

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
import graphs as bench_graphs

Int64s = npt.NDArray[np.int64]


def graph_of(*flows: tuple[int, int, int], companies: int | None = None) -> FlowGraph:
    payer, payee, amount = zip(*flows, strict=True) if flows else ((), (), ())
    return FlowGraph.from_arrays(payer, payee, np.array(amount, np.int64), companies=companies)


def random_graph(seed: int, most: int = 40) -> FlowGraph:
    """Return a graph of one of several kinds: sparse or dense, amounts equal, small or widely spread."""
    rng = np.random.default_rng(seed)
    companies = int(rng.integers(2, most))
    flows = int(rng.integers(1, companies * rng.integers(2, 8)))
    payer, payee = rng.integers(0, companies, (2, flows))
    amount = [np.ones(flows), rng.integers(1, 5, flows), rng.lognormal(7, 3, flows) + 1][seed % 3].astype(np.int64)
    return FlowGraph.from_arrays(payer, payee, amount, companies=companies)


def value_of(graph: FlowGraph) -> int:
    """Return the maximum circulation after checking every proof that comes with it."""
    found = max_circulation(graph)
    certificate.check_circulation(graph, found.amount)
    value = sum(found.amount.tolist())
    assert found.fraction.low == found.fraction.high
    assert found.fraction.value == (float(Fraction(value, graph.total)) if graph.total else 0)
    assert sum(found.component_low.tolist()) == sum(found.component_high.tolist()) == value
    assert dual_bound(graph, found.potentials) == value
    return value


def dual_bound(graph: FlowGraph, potentials: Int64s) -> int:
    """Return sum w max(0, 1 - potentials[payer] + potentials[payee]) over the flows inside components."""
    labels = components_of(graph).labels
    flows = zip(graph.payer.tolist(), graph.payee.tolist(), graph.amount.tolist(), strict=True)
    pi = potentials.tolist()
    return sum(w * max(0, 1 - pi[i] + pi[j]) for i, j, w in flows if labels[i] == labels[j])


def by_ortools(graph: FlowGraph) -> int:
    """Return the optimum of OR-tools' min-cost flow."""
    min_cost_flow = pytest.importorskip("ortools.graph.python.min_cost_flow")
    solver = min_cost_flow.SimpleMinCostFlow()
    solver.add_arcs_with_capacity_and_unit_cost(graph.payer, graph.payee, graph.amount, np.full(graph.flows, -1))
    solver.set_nodes_supplies(np.arange(graph.companies), np.zeros(graph.companies, np.int64))
    assert solver.solve() == solver.OPTIMAL
    return -int(solver.optimal_cost())


def all_circulations(graph: FlowGraph) -> list[tuple[int, ...]]:
    """Return every circulation of a tiny graph."""
    return [
        amount
        for amount in itertools.product(*(range(int(whole) + 1) for whole in graph.amount))
        if not (
            np.bincount(graph.payer, amount, graph.companies) - np.bincount(graph.payee, amount, graph.companies)
        ).any()
    ]


@pytest.mark.parametrize(
    ("flows", "value"),
    [
        ([(0, 1, 1), (1, 2, 1), (2, 0, 1)], Fraction(1)),
        ([(0, 1, 1), (1, 2, 1), (0, 2, 1)], Fraction(0)),
        ([(0, 1, 2), (1, 2, 1), (2, 0, 1)], Fraction(3, 4)),
        ([(0, 1, 5), (1, 0, 2)], Fraction(4, 7)),
        ([(0, 1, 1), (1, 2, 1), (0, 2, 1), (2, 0, 1)], Fraction(3, 4)),
        ([(0, 1, 9)], Fraction(0)),
        ([(0, 1, 3), (1, 0, 3)], Fraction(1)),
    ],
)
def test_published_toys_have_their_values(flows: list[tuple[int, int, int]], value: Fraction) -> None:
    graph = graph_of(*flows)
    assert Fraction(value_of(graph), graph.total) == value


def test_no_flow_circulates_nothing() -> None:
    assert max_circulation(graph_of(companies=3)).fraction.value == 0
    assert max_circulation(graph_of()).fraction.value == 0


def test_optimum_equals_that_of_or_tools_on_random_graphs() -> None:
    for seed in range(300):
        graph = random_graph(seed)
        assert value_of(graph) == by_ortools(graph), seed


@given(
    st.integers(2, 5).flatmap(
        lambda n: st.lists(
            st.tuples(st.integers(0, n - 1), st.integers(0, n - 1), st.integers(1, 3)), min_size=1, max_size=7
        ).filter(lambda flows: any(payer != payee for payer, payee, _ in flows))
    )
)
@settings(max_examples=150, deadline=None)
def test_tiny_graphs_are_solved_as_by_trying_everything(flows: list[tuple[int, int, int]]) -> None:
    graph = graph_of(*flows)
    circulations = all_circulations(graph)
    value = max(map(sum, circulations))
    assert value_of(graph) == value
    optima = np.array([amount for amount in circulations if sum(amount) == value]).reshape(-1, graph.flows)
    full, empty = forced_flows(graph, components_of(graph), max_circulation(graph))
    np.testing.assert_array_equal(full, (optima == graph.amount).all(axis=0))
    np.testing.assert_array_equal(empty, (optima == 0).all(axis=0))


graphs = st.integers(0, 10**6).map(random_graph)


@given(graphs)
@settings(max_examples=60, deadline=None)
def test_the_maximum_lies_between_what_returns_and_the_one_pass_brackets(graph: FlowGraph) -> None:
    mu = max_circulation(graph).fraction.value
    one_pass = brackets(graph, components_of(graph).labels)
    returns = round_trip_fractions(graph)
    assert returns.finn.value <= returns.fraction.value + 1e-12
    assert returns.fraction.value <= mu + 1e-12
    assert one_pass.bilateral.value <= mu <= min(one_pass.netting.value, one_pass.intra_component.value)


@given(graphs, st.integers(2, 1000), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_scaling_relabelling_splitting_and_reversing_change_nothing(
    graph: FlowGraph, factor: int, draw: random.Random
) -> None:
    value = value_of(graph)
    name = np.array(draw.sample(range(graph.companies), graph.companies))
    payer, payee, amount = name[graph.payer], name[graph.payee], graph.amount
    assert value_of(FlowGraph.from_arrays(payer, payee, amount)) == value
    assert value_of(FlowGraph.from_arrays(payee, payer, amount)) == value
    assert value_of(FlowGraph.from_arrays(payer, payee, amount * factor)) == value * factor
    part = amount // 2
    kept = part > 0
    halves = np.concatenate([part[kept], amount - part])
    split = FlowGraph.from_arrays(np.concatenate([payer[kept], payer]), np.concatenate([payee[kept], payee]), halves)
    assert value_of(split) == value


@given(st.lists(graphs, min_size=2, max_size=4))
@settings(max_examples=30, deadline=None)
def test_separate_economies_add_up(parts: list[FlowGraph]) -> None:
    shifts = np.cumsum([0] + [part.companies for part in parts])
    union = FlowGraph.from_arrays(
        np.concatenate([part.payer + shift for part, shift in zip(parts, shifts, strict=False)]),
        np.concatenate([part.payee + shift for part, shift in zip(parts, shifts, strict=False)]),
        np.concatenate([part.amount for part in parts]),
    )
    assert value_of(union) == sum(map(value_of, parts))


@given(graphs, st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_any_potentials_bound_any_circulation(graph: FlowGraph, seed: int) -> None:
    potentials = np.random.default_rng(seed).integers(-5, 6, graph.companies)
    found = max_circulation(graph)
    components = components_of(graph)
    low, high = certificate.bounds(graph, components.labels, components.nontrivial, found.amount, potentials)
    assert all(value <= bound for value, bound in zip(low, high, strict=True))
    assert dual_bound(graph, potentials) >= found.amount.sum()


@given(graphs)
@settings(max_examples=60, deadline=None)
def test_what_is_not_netted_has_no_ring(graph: FlowGraph) -> None:
    left = max_circulation(graph).amount < graph.amount
    labels = strong_components(graph.payer[left], graph.payee[left], graph.companies)
    assert np.unique(labels).size == graph.companies


@given(graphs, st.floats(0, 0.5))
@settings(max_examples=60, deadline=None)
def test_a_search_stopped_early_still_proves_its_interval(graph: FlowGraph, tolerance: float) -> None:
    value = float(Fraction(value_of(graph), graph.total)) if graph.total else 0.0
    for found in (max_circulation(graph, tolerance=tolerance), max_circulation(graph, seconds=0)):
        certificate.check_circulation(graph, found.amount)
        assert found.fraction.low <= value <= found.fraction.high
        assert found.fraction.method.startswith("exact" if found.fraction.width == 0 else "bounds")
    assert max_circulation(graph, tolerance=tolerance).fraction.width <= tolerance + 1e-12


def test_interval_is_not_trivial_when_time_is_up_at_once() -> None:
    graph = FlowGraph.from_arrays(*bench_graphs.power_law(1000, 8000, seed=3))
    found = max_circulation(graph, seconds=0)
    assert 0 < found.fraction.low < found.fraction.high < 1
    assert "stopped early" in found.fraction.method


def test_amounts_near_the_end_of_int64() -> None:
    third = INT64_MAX // 3
    assert value_of(graph_of((0, 1, third), (1, 2, third), (2, 0, third))) == 3 * third
    assert value_of(graph_of((0, 1, INT64_MAX - 1), (1, 0, 1))) == 2
    # A long detour of high cost: reduced costs times amounts pass int64 in the proof, not in the answer.
    ring = [(i, (i + 1) % 50, 1) for i in range(50)]
    assert value_of(graph_of(*ring, (10, 5, INT64_MAX - 100))) == 50
    huge = np.full(8, INT64_MAX // 8)
    low, high = certificate.bounds(
        FlowGraph.from_arrays(np.arange(8), (np.arange(8) + 1) % 8, huge),
        np.zeros(8, np.int32),
        1,
        huge,
        np.array([0, 2**40, 0, 0, 0, 0, 0, 0]),
    )
    assert low == high == [8 * (INT64_MAX // 8)]


def test_long_rings_and_chains_of_two_cycles() -> None:
    companies = 5000
    ring = [(i, (i + 1) % companies, 2 + i % 3) for i in range(companies)]
    assert value_of(graph_of(*ring)) == 2 * companies
    chain = [(i, i + 1, 3) for i in range(companies)] + [(i + 1, i, 1 + i % 4) for i in range(companies)]
    assert value_of(graph_of(*chain)) == sum(2 * min(3, 1 + i % 4) for i in range(companies))


def test_detours_of_more_than_sixteen_thousand_flows() -> None:
    # All surplus is at one end and all deficit at the other, so distances outgrow the small integers of the search.
    companies = 40_000
    chain = [(i, i + 1, 2) for i in range(companies)] + [(i + 1, i, 1) for i in range(companies)]
    assert value_of(graph_of(*chain)) == 2 * companies
    assert value_of(graph_of(*chain, (companies, 0, 1))) == 2 * companies + companies + 1


def test_a_balanced_economy_nets_whole() -> None:
    rng = np.random.default_rng(1)
    rings = [rng.permutation(200)[: rng.integers(2, 30)] for _ in range(100)]
    payer, payee = np.concatenate(rings), np.concatenate([np.roll(ring, -1) for ring in rings])
    amount = np.concatenate([np.full(ring.size, rng.integers(1, 1000)) for ring in rings])
    graph = FlowGraph.from_arrays(payer, payee, amount)
    assert value_of(graph) == graph.total


def test_one_hundred_thousand_tiny_components_at_once() -> None:
    rng = np.random.default_rng(2)
    count = 100_000
    first = 3 * np.arange(count)
    payer = np.concatenate([first, first + 1, first + 2, first + 1])
    payee = np.concatenate([first + 1, first + 2, first, first])
    amount = rng.integers(1, 100, 4 * count)
    graph = FlowGraph.from_arrays(payer, payee, amount)
    found = max_circulation(graph)
    there, on, home, back = amount.reshape(4, count)
    straight = np.minimum(there, back)
    around = np.minimum(np.minimum(on, home), there)
    both = np.minimum(there, back + np.minimum(on, home))
    # Money over the first flow comes back straight (two flows) or around (three): around first, for it nets more.
    expected = 3 * around + 2 * np.minimum(there - around, back)
    assert (straight <= both).all()
    value = np.zeros(count, np.int64)
    np.add.at(value, graph.payer // 3, found.amount)
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_array_equal(found.component_low, found.component_high)
    assert found.component_low.sum() == expected.sum()


def test_power_law_economy_has_its_known_optimum() -> None:
    graph = FlowGraph.from_arrays(*bench_graphs.power_law(10_000, 100_000, seed=1))
    assert graph.total == 807030975
    assert value_of(graph) == 144288920


def test_same_answer_every_time_and_with_given_components() -> None:
    graph = FlowGraph.from_arrays(*bench_graphs.power_law(1000, 8000, seed=4))
    once, again = max_circulation(graph), max_circulation(graph, components_of(graph))
    np.testing.assert_array_equal(once.amount, again.amount)
    np.testing.assert_array_equal(once.potentials, again.potentials)


def test_wide_positions_give_the_same_answer() -> None:
    graph = FlowGraph.from_arrays(*bench_graphs.power_law(300, 2000, seed=6))
    components = components_of(graph)
    network, members = network_of(graph, components.labels, components.nontrivial)
    wide = network._replace(
        **{
            field: getattr(network, field).astype(np.int64)
            for field in ("out_offsets", "payee", "in_offsets", "in_payer")
        }
    )
    solver = Solver.of(wide)
    while solver.surplus.any():
        assert solver.run_phase()
    np.testing.assert_array_equal(solver.netted, max_circulation(graph).amount[members.flow])


def test_bounds_only_close_in_from_phase_to_phase() -> None:
    graph = FlowGraph.from_arrays(*bench_graphs.power_law(1000, 8000, seed=5))
    components = components_of(graph)
    network, _ = network_of(graph, components.labels, components.nontrivial)
    value, bound = value_of(graph), graph.total
    solver = Solver.of(network)
    while solver.surplus.any():
        assert int(solver.repaired().sum()) <= value <= solver.upper_bound() <= bound
        bound = solver.upper_bound()
        solver.run_phase()
    assert int(solver.netted.sum()) == value == solver.upper_bound()
    assert solver.phases < 30


def test_broken_circulations_are_found_out() -> None:
    graph = graph_of((0, 1, 5), (1, 0, 5), (1, 2, 4))
    for amount, complaint in (
        ([6, 6, 0], "must be from 0 to the flow"),
        ([-1, -1, 0], "must be from 0 to the flow"),
        ([5, 4, 0], "gives 5 and takes 4"),
        ([5, 5], "one amount per flow"),
    ):
        with pytest.raises(VerificationError, match=complaint):
            certificate.check_circulation(graph, np.array(amount, np.int64))


def test_settings_without_sense_are_refused() -> None:
    graph = graph_of((0, 1, 1))
    with pytest.raises(UsageError, match="tolerance"):
        max_circulation(graph, tolerance=1.0)
    with pytest.raises(UsageError, match="seconds"):
        max_circulation(graph, seconds=-1)
    with pytest.raises(UsageError, match="pass the components of this graph"):
        max_circulation(graph, components_of(graph_of((0, 1, 1), (1, 2, 1))))
