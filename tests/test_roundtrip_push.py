"""Absorbing push: bounds that hold and close, hop limits that are exact, and who pays the money back."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

import oracle
from ouroflow.errors import UsageError
from ouroflow.graph import FlowGraph
from ouroflow.roundtrip.cpu_push import inner_flows
from ouroflow.roundtrip.push import MOST_HOPS, push_returns, two_hop_returns

pytestmark = pytest.mark.cpu

Weights = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int32]


def graph_of(weights: Weights) -> tuple[FlowGraph, Labels]:
    payer, payee = np.nonzero(weights)
    graph = FlowGraph.from_arrays(payer, payee, weights[payer, payee], companies=len(weights))
    return graph, connected_components(csr_matrix(weights), directed=True, connection="strong")[1]


def random_weights(seed: int, companies: int = 40, share: float = 0.1, largest: int = 1000) -> Weights:
    rng = np.random.default_rng(seed)
    weights = np.where(rng.random((companies, companies)) < share, rng.integers(1, largest, (companies, companies)), 0)
    np.fill_diagonal(weights, 0)
    return weights.astype(np.int64)


def exact_fractions(weights: Weights) -> npt.NDArray[np.float64]:
    return oracle.dense(weights.astype(float)).round_trip / np.maximum(weights.sum(1), 1)


def has_closed_component(weights: Weights) -> bool:
    """Whether money can never leave somewhere: then the dense oracle is singular."""
    labels = connected_components(csr_matrix(weights), directed=True, connection="strong")[1]
    through = np.maximum(weights.sum(0), weights.sum(1))
    stays = np.where(labels[:, None] == labels[None, :], weights, 0).sum(1)
    return any((stays == through)[labels == label].all() and stays[labels == label].any() for label in set(labels))


def ring(companies: int, amount: int = 7) -> Weights:
    return np.roll(np.eye(companies, dtype=np.int64) * amount, 1, axis=1)


# --- bounds -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(2, 45), st.sampled_from([0.3, 1e-2, 1e-3, 1e-6, 1e-12]))
def test_the_bounds_hold_and_are_as_narrow_as_asked(seed: int, companies: int, tolerance: float) -> None:
    weights = random_weights(seed, companies, 0.15)
    if has_closed_component(weights) or not weights.any():
        return
    found = push_returns(*graph_of(weights), np.arange(companies), tolerance=tolerance)
    exact = exact_fractions(weights)
    assert (found.low <= exact + 1e-12).all() and (exact <= found.high + 1e-12).all()
    assert (found.low <= found.high).all()
    narrow = found.high - found.low <= 2 * tolerance
    assert (narrow | (found.hops == MOST_HOPS)).all()


def test_more_hops_raise_the_lower_bound_and_never_the_upper_one() -> None:
    weights = random_weights(8)
    graph, labels = graph_of(weights)
    steps = [push_returns(graph, labels, np.arange(32), tolerance=t) for t in (0.2, 0.05, 0.01, 1e-4, 1e-7)]
    for wide, narrow in pairwise(steps):
        assert (wide.low <= narrow.low + 1e-5).all()
        assert (wide.high >= narrow.high - 1e-5).all()
        assert (wide.hops <= narrow.hops).all()


def test_small_companies_among_large_ones_are_bounded_by_what_can_reach_them() -> None:
    # The second bound ends it early: who gets more from outside than goes through the root seldom feeds the root.
    weights = np.zeros((6, 6), np.int64)
    weights[0, 1], weights[1, 2], weights[2, 3], weights[3, 1] = 10, 10**6, 10**6, 10**6 - 20
    weights[3, 0], weights[4, 1], weights[2, 5] = 9, 10**5, 10**5
    graph, labels = graph_of(weights)
    found = push_returns(graph, labels, [0], tolerance=1e-3)
    exact = exact_fractions(weights)[0]
    assert found.low[0] <= exact <= found.high[0]
    assert found.hops[0] < 40


def test_what_nobody_returns_is_zero_without_a_hop() -> None:
    weights = np.triu(np.ones((5, 5), np.int64), 1)
    found = push_returns(*graph_of(weights), np.arange(5))
    assert not found.low.any() and not found.high.any()


@pytest.mark.parametrize("companies", [3, 9, 40])
def test_a_balanced_ring_returns_everything_once_its_length_is_followed(companies: int) -> None:
    graph, labels = graph_of(ring(companies))
    found = push_returns(graph, labels, np.arange(companies), hops=companies)
    assert found.low == pytest.approx(1, abs=1e-12) and found.high == pytest.approx(1, abs=1e-12)
    assert not push_returns(graph, labels, np.arange(companies), hops=companies - 1).low.any()


def test_money_that_hardly_leaks_keeps_honest_bounds() -> None:
    companies = 3 * MOST_HOPS
    ring_payer = np.arange(companies)
    payer, payee = np.append(ring_payer, 0), np.append(np.roll(ring_payer, -1), companies)
    amount = np.append(np.full(companies, 10**9), 1)
    graph = FlowGraph.from_arrays(payer, payee, amount, companies=companies + 1)
    labels = np.append(np.zeros(companies, np.int32), np.int32(1))
    found = push_returns(graph, labels, [5])
    assert (found.low[0], found.hops[0]) == (0.0, MOST_HOPS)
    assert found.high[0] > 0.99


# --- hop limits -------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(2, 50), st.integers(2, 12))
def test_a_hop_limit_gives_what_powers_with_an_absorbing_root_give(seed: int, companies: int, hops: int) -> None:
    weights = random_weights(seed, companies, 0.15)
    found = push_returns(*graph_of(weights), np.arange(companies), hops=hops)
    exact = oracle.hop_limited(weights.astype(float), hops) / np.maximum(weights.sum(1), 1)
    assert np.abs((found.low + found.high) / 2 - exact).max() < 1e-12
    assert (found.high - found.low).max() < 1e-11


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(2, 40))
def test_two_hops_in_closed_form_equal_two_hops_pushed(seed: int, companies: int) -> None:
    weights = random_weights(seed, companies, 0.3)
    graph, labels = graph_of(weights)
    flows = two_hop_returns(graph)
    through = np.maximum(weights.sum(0), weights.sum(1))
    assert flows == pytest.approx(weights[graph.payee, graph.payer] / through[graph.payee], abs=1e-15)
    back = np.bincount(graph.payer, graph.amount * flows, companies) / np.maximum(graph.paid, 1)
    pushed = push_returns(graph, labels, np.arange(companies), hops=2)
    assert np.abs(back - (pushed.low + pushed.high) / 2).max() < 1e-12


# --- who pays it back -------------------------------------------------------------------------------------------------


def test_the_last_hops_add_up_to_what_comes_back_and_name_flows_into_the_root() -> None:
    weights = random_weights(4)
    graph, labels = graph_of(weights)
    roots = np.array([7, 3, 21])
    found = push_returns(graph, labels, roots, tolerance=1e-10)
    for nth, root in enumerate(roots):
        own = slice(*found.last_hop_offsets[nth : nth + 2])
        assert (graph.payee[found.last_hop_flow[own]] == root).all()
        assert found.last_hop_share[own].sum() == pytest.approx(found.low[nth], rel=1e-9)
    # By algebra: what j pays back is what visits j before the return, times its share to the root.
    root, through = 3, np.maximum(weights.sum(0), weights.sum(1))
    share = weights / np.maximum(through, 1)[:, None]
    away = np.delete(np.arange(len(weights)), root)
    start = weights[root, away] / weights[root].sum()
    visits = start @ np.linalg.inv(np.eye(len(away)) - share[np.ix_(away, away)])
    own = slice(*found.last_hop_offsets[1:3])
    by_payer = dict(zip(graph.payer[found.last_hop_flow[own]].tolist(), found.last_hop_share[own], strict=True))
    for j, visited in zip(away, visits, strict=True):
        assert by_payer.get(int(j), 0.0) == pytest.approx(visited * share[j, root], abs=1e-9)


# --- nothing else changes the result ----------------------------------------------------------------------------------


def assert_same(one: Any, other: Any) -> None:
    for part in ("low", "high", "hops", "last_hop_share"):
        assert (getattr(one, part) == getattr(other, part)).all()


@pytest.mark.parametrize("tolerance", [1e-3, 1e-9])
def test_threads_and_64_bit_ids_change_nothing(tolerance: float) -> None:
    graph, labels = graph_of(random_weights(6, 300, 0.02))
    roots = np.arange(0, 300, 3)
    one = push_returns(graph, labels, roots, tolerance=tolerance, threads=1)
    assert_same(one, push_returns(graph, labels, roots, tolerance=tolerance, threads=4))
    wide = FlowGraph(
        graph.out_offsets,
        graph.payee.astype(np.int64),
        graph.amount,
        graph.payments,
        graph.in_offsets,
        graph.in_payer.astype(np.int64),
        graph.in_flow.astype(np.int64),
    )
    assert_same(one, push_returns(wide, labels, roots, tolerance=tolerance))


def test_a_root_gets_the_same_figures_alone_and_among_others() -> None:
    graph, labels = graph_of(random_weights(9))
    together = push_returns(graph, labels, np.arange(40), hops=6)
    for root in (0, 17, 39):
        alone = push_returns(graph, labels, [root], hops=6)
        assert alone.low[0] == pytest.approx(together.low[root], rel=1e-12)


def test_only_the_components_of_the_roots_are_taken_out() -> None:
    weights = np.zeros((9, 9), np.int64)
    weights[:3, :3], weights[3:7, 3:7], weights[2, 3], weights[8, 0] = ring(3), ring(4), 5, 2
    graph, labels = graph_of(weights)
    inner = inner_flows(graph, labels, np.array([1]))
    assert inner.member.tolist() == [0, 1, 2]
    assert graph.payee[inner.flow].tolist() == [0, 1, 2]
    assert inner.outside.tolist() == [2, 2 - 2, 12 - 7]
    assert inner.stay.tolist() == [7 / 9, 1, 7 / 12]


def test_memory_is_what_the_docstrings_say() -> None:
    rng = np.random.default_rng(1)
    companies, flows = 20_000, 200_000
    graph = FlowGraph.from_arrays(
        rng.integers(0, companies, flows), rng.integers(0, companies, flows), companies=companies
    )
    labels, roots = np.zeros(companies, np.int32), np.arange(32)
    push_returns(graph, labels, roots)
    tracemalloc.start()
    try:
        push_returns(graph, labels, roots)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    inner = 16 * graph.flows + 40 * companies
    panels = 2 * 128 * companies + 9 * companies + 4 * graph.flows
    sums = graph.flows + companies
    assert peak <= inner + panels + sums + 400_000


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("roots", "setting", "words"),
    [
        ([40], {}, "0..39"),
        ([-1], {}, "0..39"),
        ([3, 3], {}, "once"),
        ([3], {"hops": 1}, "hops"),
        ([3], {"tolerance": 0.0}, "tolerance"),
        ([3], {"tolerance": float("nan")}, "tolerance"),
    ],
)
def test_settings_out_of_range_are_refused(roots: list[int], setting: dict[str, Any], words: str) -> None:
    graph, labels = graph_of(random_weights(1))
    with pytest.raises(UsageError, match=words):
        push_returns(graph, labels, roots, **setting)


def test_no_root_gives_no_result() -> None:
    graph, labels = graph_of(random_weights(1))
    assert push_returns(graph, labels, np.zeros(0, np.int64)).low.size == 0
