"""The measures of the round-trip room: published values, invariants on random graphs, brute force on small ones."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import oracle
from ouroflow.errors import UsageError
from ouroflow.graph import FlowGraph
from ouroflow.roundtrip import RoundTrip, round_trip_fractions

pytestmark = pytest.mark.cpu


def graph_of(weights: list[list[int]]) -> FlowGraph:
    payer, payee = np.nonzero(np.array(weights))
    amounts = [weights[i][j] for i, j in zip(payer, payee, strict=True)]
    return FlowGraph.from_arrays(payer, payee, np.array(amounts, np.int64), companies=len(weights))


def values(answer: RoundTrip) -> tuple[float, float]:
    return answer.fraction.value, answer.finn.value


def ring(k: int, amount: int = 7) -> list[list[int]]:
    return [[amount if j == (i + 1) % k else 0 for j in range(k)] for i in range(k)]


@st.composite
def weights(draw: st.DrawFn, largest: int = 7, amount: int = 50) -> list[list[int]]:
    n = draw(st.integers(2, largest))
    cell = st.one_of(st.just(0), st.integers(1, amount))
    return [[0 if i == j else draw(cell) for j in range(n)] for i in range(n)]


# --- published and hand-computed values -------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 3, 5, 50, 400])
def test_a_ring_returns_everything_exactly(k: int) -> None:
    answer = round_trip_fractions(graph_of(ring(k)))
    assert values(answer) == (1.0, 1.0)
    assert answer.brackets.netting.value == 1.0
    assert (answer.flows == 1.0).all()
    assert (answer.companies.round_trip == 7.0).all()


TOYS = {
    "no way back": ([[0, 1, 1], [0, 0, 1], [0, 0, 0]], 0, 0, Fraction(1, 3), [0, 0, 0]),
    "half comes back": ([[0, 2, 0], [0, 0, 1], [1, 0, 0]], Fraction(5, 8), Fraction(1, 2), Fraction(3, 4), [1, 1, 0.5]),
    "two companies": ([[0, 5], [2, 0]], Fraction(4, 7), Fraction(2, 5), Fraction(4, 7), None),
    "shortcut": ([[0, 1, 1], [0, 0, 1], [1, 0, 0]], Fraction(7, 12), Fraction(7, 15), Fraction(3, 4), None),
}


@pytest.mark.parametrize("name", TOYS)
def test_toys_have_their_known_values(name: str) -> None:
    matrix, fraction, finn, netting, _ = TOYS[name]
    answer = round_trip_fractions(graph_of(matrix))
    assert answer.fraction.value == pytest.approx(float(fraction), abs=1e-15)
    assert answer.finn.value == pytest.approx(float(finn), abs=1e-15)
    assert answer.brackets.netting.value == pytest.approx(float(netting), abs=1e-15)
    assert answer.fraction.low == answer.fraction.value == answer.fraction.high


def test_company_fractions_of_the_half_that_comes_back() -> None:
    graph = graph_of([[0, 2, 0], [0, 0, 1], [1, 0, 0]])
    answer = round_trip_fractions(graph)
    assert answer.companies.round_trip / graph.paid == pytest.approx([0.5, 1.0, 0.5], abs=1e-15)


def test_return_probabilities_of_the_shortcut() -> None:
    graph = graph_of([[0, 1, 1], [0, 0, 1], [1, 0, 0]])
    answer = round_trip_fractions(graph)
    assert answer.companies.round_trip / graph.throughflow == pytest.approx([1 / 2, 1 / 3, 1 / 2], abs=1e-15)


NETWORKS = ["marine_coprophagy", "cone_spring", "silver_springs", "oyster_reef", "hubbard_brook_ca"]


@pytest.mark.shared
@pytest.mark.parametrize("name", NETWORKS)
def test_published_finn_cycling_indices(name: str, shared: Path) -> None:
    """Known boundary: in steady state the inflow z fixes every throughflow; the published outflows add only rounding to it."""
    network = json.loads((shared / "reference" / "networks.json").read_text(encoding="utf-8"))["networks"][name]
    scale = 10**6  # every published figure has at most six decimals
    flows = np.rint(np.array(network["F"]) * scale).astype(np.int64)
    inflow = np.rint(np.array(network["z"]) * scale).astype(np.int64)
    payer, payee = np.nonzero(flows)
    graph = FlowGraph.from_arrays(payer, payee, flows[payer, payee], companies=len(flows), inflow=inflow)
    answer = round_trip_fractions(graph)
    assert answer.finn.value == pytest.approx(network["FCI"], abs=1e-6)
    assert graph.throughflow.sum() / scale == pytest.approx(network["TST"], rel=1e-6)


@pytest.mark.shared
@pytest.mark.parametrize("given_boundary", [False, True])
def test_input_output_table_equals_its_leontief_inverse(given_boundary: bool, shared: Path) -> None:
    rows = (shared / "datasets" / "us_bea_io" / "bea_flows_2017.csv").read_text(encoding="utf-8").splitlines()[1:]
    cells = [row.split(",") for row in rows]
    names = sorted({name for cell in cells for name in cell[:2]})
    position = {name: i for i, name in enumerate(names)}
    table = np.zeros((len(names), len(names)), np.int64)
    for payer, payee, amount in cells:
        table[position[payer], position[payee]] += round(float(amount) * 100)
    np.fill_diagonal(table, 0)
    # A given boundary: every industry also sells a quarter of its receipts to, and buys a tenth from, outside.
    inflow = table.sum(0) // 4 if given_boundary else None
    outflow = table.sum(1) // 10 if given_boundary else None
    a, b = np.nonzero(table)
    graph = FlowGraph.from_arrays(a, b, table[a, b], companies=len(names), inflow=inflow, outflow=outflow)
    answer, expected = round_trip_fractions(graph), oracle.dense(table, inflow, outflow)
    assert answer.fraction.value == pytest.approx(expected.fraction, rel=1e-9)
    assert answer.finn.value == pytest.approx(expected.finn, rel=1e-9)
    # 1 - 1/n_ii of the oracle loses the digits that n_ii shares with 1, so small figures are compared absolutely: 1e-12 of T_i.
    rho, expected_rho = answer.companies.round_trip / graph.throughflow, expected.round_trip / graph.throughflow
    np.testing.assert_allclose(rho, expected_rho, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(answer.flows, expected.flows[graph.payer, graph.payee], rtol=1e-9)


# --- brute force and invariants ---------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(weights(largest=5, amount=10**6))
def test_exact_equals_rational_arithmetic(matrix: list[list[int]]) -> None:
    assume(any(map(any, matrix)))
    graph = graph_of(matrix)
    answer = round_trip_fractions(graph)
    fraction, finn, round_trip = oracle.rational(matrix)
    assert answer.fraction.value == pytest.approx(float(fraction), rel=1e-13, abs=1e-300)
    assert answer.finn.value == pytest.approx(float(finn), rel=1e-13, abs=1e-300)
    np.testing.assert_allclose(answer.companies.round_trip, [float(x) for x in round_trip], rtol=1e-13)


@settings(max_examples=150)
@given(weights())
def test_order_of_the_figures(matrix: list[list[int]]) -> None:
    """Invariants 1 and 4: 0 <= FCI <= RTF <= min(nu, sigma) <= 1, and C_i <= min(in_i, out_i)."""
    assume(any(map(any, matrix)))
    graph = graph_of(matrix)
    answer = round_trip_fractions(graph)
    rtf, fci = values(answer)
    slack = 1e-12
    ceiling = min(answer.brackets.netting.value, answer.brackets.intra_component.value)
    assert 0 <= fci <= rtf + slack <= ceiling + 2 * slack <= 1 + 3 * slack
    assert 0 <= answer.brackets.bilateral.value <= ceiling + slack
    assert (answer.companies.round_trip <= np.minimum(graph.paid, graph.received)).all()
    assert ((answer.flows >= 0) & (answer.flows <= 1)).all()


@settings(max_examples=60)
@given(weights())
def test_acyclic_flows_return_nothing_exactly(matrix: list[list[int]]) -> None:
    """Invariant 2: all zero, to the last bit."""
    upper = [[value if j > i else 0 for j, value in enumerate(row)] for i, row in enumerate(matrix)]
    assume(any(map(any, upper)))
    answer = round_trip_fractions(graph_of(upper))
    assert values(answer) == (0.0, 0.0)
    assert answer.brackets.bilateral.value == answer.brackets.intra_component.value == 0.0
    assert not answer.companies.round_trip.any() and not answer.flows.any()


@settings(max_examples=60)
@given(weights(largest=6), st.data())
def test_balanced_component_returns_everything_exactly(matrix: list[list[int]], data: st.DataObject) -> None:
    """Invariant 3: random rings laid over each other balance every company; nothing leaks, everything returns."""
    n = len(matrix)
    balanced = np.array(ring(n, 3))
    for _ in range(data.draw(st.integers(1, 4))):
        order = data.draw(st.permutations(range(n)))
        balanced[order, np.roll(order, -1)] += data.draw(st.integers(1, 2**40))
    np.fill_diagonal(balanced, 0)
    answer = round_trip_fractions(graph_of(balanced.tolist()))
    assert values(answer) == (1.0, 1.0)
    assert (answer.flows == 1.0).all()


@settings(max_examples=60)
@given(weights(), st.integers(2, 10**6))
def test_scaling_relabelling_and_splitting_change_nothing(matrix: list[list[int]], factor: int) -> None:
    """Invariant 5."""
    assume(any(map(any, matrix)))
    graph = graph_of(matrix)
    before = round_trip_fractions(graph)
    order = np.random.default_rng(factor).permutation(len(matrix))
    payer, payee = order[graph.payer], order[graph.payee]
    part = graph.amount * factor // 3
    keep = part > 0
    after = round_trip_fractions(
        FlowGraph.from_arrays(
            np.concatenate([payer, payer[keep]]),
            np.concatenate([payee, payee[keep]]),
            np.concatenate([graph.amount * factor - part, part[keep]]),
            companies=len(matrix),
        )
    )
    assert values(after) == pytest.approx(values(before), rel=1e-13)
    np.testing.assert_allclose(after.companies.round_trip[order], before.companies.round_trip * factor, rtol=1e-12)
    assert after.brackets.bilateral.value == before.brackets.bilateral.value


@settings(max_examples=60)
@given(weights())
def test_reversing_all_payments_changes_nothing(matrix: list[list[int]]) -> None:
    """Invariant 6."""
    assume(any(map(any, matrix)))
    before = round_trip_fractions(graph_of(matrix))
    after = round_trip_fractions(graph_of(np.array(matrix).T.tolist()))
    assert values(after) == pytest.approx(values(before), rel=1e-13)
    np.testing.assert_allclose(after.companies.round_trip, before.companies.round_trip, rtol=1e-12, atol=1e-12)


@settings(max_examples=60)
@given(weights(largest=5), weights(largest=5))
def test_components_add(first: list[list[int]], second: list[list[int]]) -> None:
    """Invariant 7: side by side, every company keeps its figures."""
    assume(any(map(any, first)) and any(map(any, second)))
    a, b = graph_of(first), graph_of(second)
    both = FlowGraph.from_arrays(
        np.concatenate([a.payer, b.payer + a.companies]),
        np.concatenate([a.payee, b.payee + a.companies]),
        np.concatenate([a.amount, b.amount]),
        companies=a.companies + b.companies,
    )
    parts = [round_trip_fractions(g).companies.round_trip for g in (a, b)]
    np.testing.assert_allclose(round_trip_fractions(both).companies.round_trip, np.concatenate(parts), rtol=1e-13)


@settings(max_examples=60)
@given(weights(), st.data())
def test_pass_through_shell_changes_nobody_else(matrix: list[list[int]], data: st.DataObject) -> None:
    """Invariant 8: a shell company between payer and payee hides nothing."""
    assume(any(map(any, matrix)))
    graph = graph_of(matrix)
    flow = data.draw(st.integers(0, graph.flows - 1))
    shell = graph.companies
    payer, payee = np.append(graph.payer, shell), np.append(graph.payee, graph.payee[flow])
    payee[flow] = shell
    amount = np.append(graph.amount, graph.amount[flow])
    with_shell = round_trip_fractions(FlowGraph.from_arrays(payer, payee, amount))
    before = round_trip_fractions(graph)
    np.testing.assert_allclose(
        with_shell.companies.round_trip[:shell], before.companies.round_trip, rtol=1e-12, atol=1e-12
    )


@settings(max_examples=60)
@given(weights(), st.data())
def test_more_external_flow_lowers_every_return(matrix: list[list[int]], data: st.DataObject) -> None:
    """Invariant 9."""
    assume(any(map(any, matrix)))
    n = len(matrix)
    extra = np.array(data.draw(st.lists(st.integers(0, 100), min_size=n, max_size=n)))
    graph = graph_of(matrix)
    more = FlowGraph.from_arrays(graph.payer, graph.payee, graph.amount, companies=n, inflow=extra, outflow=extra)
    before, after = round_trip_fractions(graph), round_trip_fractions(more)
    rho_before = before.companies.round_trip / np.maximum(graph.throughflow, 1)
    rho_after = after.companies.round_trip / np.maximum(more.throughflow, 1)
    assert (rho_after <= rho_before + 1e-12).all()


@settings(max_examples=60)
@given(weights())
def test_hop_limited_values_rise_to_the_limit(matrix: list[list[int]]) -> None:
    """Invariant 10, and equality with powers of the share matrix for every limit."""
    assume(any(map(any, matrix)))
    graph = graph_of(matrix)
    last = np.zeros(graph.companies)
    for hops in (2, 3, 4, 9):
        answer = round_trip_fractions(graph, hops=hops)
        found = answer.companies.round_trip
        np.testing.assert_allclose(found, oracle.hop_limited(np.array(matrix), hops), rtol=1e-12, atol=1e-12)
        assert (found >= last - 1e-9).all()
        last = found
    assert (last <= round_trip_fractions(graph).companies.round_trip + 1e-9).all()


@settings(max_examples=100)
@given(weights())
def test_flow_fractions_add_up_to_the_company(matrix: list[list[int]]) -> None:
    """Invariant 11: sum_j w_ij h_ji = C_i."""
    assume(any(map(any, matrix)))
    graph = graph_of(matrix)
    answer = round_trip_fractions(graph)
    sums = np.bincount(graph.payer, graph.amount * answer.flows, graph.companies)
    np.testing.assert_allclose(sums, answer.companies.round_trip, rtol=1e-12)


def test_two_hops_are_plain_reciprocity() -> None:
    answer = round_trip_fractions(graph_of([[0, 6, 0], [3, 0, 3], [0, 0, 0]]), hops=2)
    assert answer.companies.round_trip.tolist() == [3.0, 3.0, 0.0]


def test_a_hop_limit_below_two_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 2"):
        round_trip_fractions(graph_of(ring(3)), hops=1)


@pytest.mark.parametrize("hops", [2, 50, 1_000, 10_000])
def test_no_hop_limit_passes_the_limit_of_all(hops: int) -> None:
    graph = FlowGraph.from_arrays([0, 1, 1], [1, 0, 2], [2, 1, 1])
    limited, whole = round_trip_fractions(graph, hops=hops), round_trip_fractions(graph)
    assert limited.fraction.value <= whole.fraction.value * (1 + 1e-15)


def test_a_hop_limit_without_end_is_refused() -> None:
    with pytest.raises(UsageError, match="leave the limit out"):
        round_trip_fractions(graph_of(ring(3)), hops=10**20)


def test_a_large_sparse_component_is_exact() -> None:
    n = 200_000
    payer, payee = np.append(np.arange(n), 0), np.append((np.arange(n) + 1) % n, 2)
    answer = round_trip_fractions(FlowGraph.from_arrays(payer, payee, np.append(np.full(n, 1000), 1)))
    assert answer.method == "exact"


def test_a_graph_without_flows_has_no_round_trips() -> None:
    answer = round_trip_fractions(FlowGraph.from_arrays([], [], [], companies=3))
    assert values(answer) == (0.0, 0.0)
    assert not answer.companies.round_trip.any()


# --- the sampled way, where elimination is not tried --------------------------------------------------------------------


@pytest.fixture
def no_elimination(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send every component the way of those that are too large for elimination."""
    monkeypatch.setattr("ouroflow.roundtrip._TRY_COMPANIES", 0)
    monkeypatch.setattr("ouroflow.roundtrip.cpu_exact.SMALL", 1)


def economy(seed: int, companies: int = 60, flows: int = 400) -> FlowGraph:
    rng = np.random.default_rng(seed)
    ends = rng.integers(0, companies, (2, flows))
    return FlowGraph.from_arrays(ends[0], ends[1], rng.integers(1, 10**6, flows), companies=companies)


@pytest.mark.usefixtures("no_elimination")
def test_sampled_intervals_hold_the_exact_figure_as_often_as_they_say() -> None:
    graph = economy(1)
    exact = oracle.dense(_matrix(graph)).fraction
    misses = 0
    for seed in range(200):
        answer = round_trip_fractions(graph, tolerance=5e-3, top=0, seed=seed)
        assert "walks" in answer.fraction.method
        assert answer.fraction.width <= 1e-2
        misses += not answer.fraction.low <= exact <= answer.fraction.high
    # 200 intervals at 99% miss 2 on average; 9 or more happen once in 3,000 times.
    assert misses <= 8


@pytest.mark.usefixtures("no_elimination")
@pytest.mark.parametrize("seed", range(6))
def test_certified_companies_hold_the_exact_figure(seed: int) -> None:
    graph = economy(seed)
    expected = oracle.dense(_matrix(graph)).round_trip
    answer = round_trip_fractions(graph, tolerance=1e-3, top=10, companies=[3, 4], seed=seed)
    money = answer.companies
    assert (money.low <= money.round_trip).all() and (money.round_trip <= money.high).all()
    narrow = money.return_high - money.return_low <= 2.001e-3
    assert narrow[[3, 4]].all() and np.count_nonzero(narrow) >= 10
    inside = (money.low <= expected * (1 + 1e-12)) & (expected <= money.high * (1 + 1e-12))
    # 60 intervals at 99% each: five misses at once would happen less than once in 4,000 times.
    assert np.count_nonzero(~inside) <= 4


@pytest.mark.usefixtures("no_elimination")
def test_the_same_seed_gives_the_same_answer_and_another_seed_another() -> None:
    graph = economy(2)
    first, again, other = (round_trip_fractions(graph, seed=seed) for seed in (5, 5, 6))
    assert first.fraction == again.fraction != other.fraction
    np.testing.assert_array_equal(first.companies.round_trip, again.companies.round_trip)


@pytest.mark.usefixtures("no_elimination")
def test_zero_tolerance_asks_for_exact_figures_whatever_they_cost() -> None:
    answer = round_trip_fractions(economy(3), tolerance=0)
    assert answer.method == "exact" and answer.fraction.width == 0


def test_small_components_stay_exact_beside_a_large_sampled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ouroflow.roundtrip._TRY_COMPANIES", 0)
    monkeypatch.setattr("ouroflow.roundtrip.cpu_exact.SMALL", 10)
    large = economy(4)
    payer, payee = np.append(large.payer, [60, 61]), np.append(large.payee, [61, 60])
    graph = FlowGraph.from_arrays(payer, payee, np.append(large.amount, [5, 2]))
    money = round_trip_fractions(graph, top=5).companies
    assert money.low[60] == money.round_trip[60] == money.high[60] == pytest.approx(2.0, abs=1e-15)
    assert (money.low[:60] < money.high[:60]).any()


def _matrix(graph: FlowGraph) -> np.ndarray:
    matrix = np.zeros((graph.companies, graph.companies))
    matrix[graph.payer, graph.payee] = graph.amount
    return matrix
