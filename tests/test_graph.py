"""FlowGraph: payments become flows in both orders, nothing is lost, and what cannot be right is refused."""

from __future__ import annotations

import re
import tracemalloc
from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ouroflow import aggregate
from ouroflow import graph as graph_module
from ouroflow.errors import InputError
from ouroflow.graph import FlowGraph, exact_sum

INT64_MAX = 2**63 - 1
ARRAYS = ("out_offsets", "payee", "amount", "payments", "in_offsets", "in_payer", "in_flow")


@pytest.fixture(params=["numpy", "numba"])
def lane(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with both ways of summing, whatever the size."""
    if request.param == "numba":
        monkeypatch.setattr(graph_module, "NUMPY_LIMIT", -1)
    return str(request.param)


def flows_of(graph: FlowGraph) -> dict[tuple[int, int], tuple[int, int]]:
    """Read the flows back as {(payer, payee): (amount, payments)}."""
    rows = zip(graph.payer.tolist(), graph.payee.tolist(), graph.amount.tolist(), graph.payments.tolist(), strict=True)
    return {(payer, payee): (amount, payments) for payer, payee, amount, payments in rows}


def summed(payer: Any, payee: Any, amount: Any) -> dict[tuple[int, int], tuple[int, int]]:
    """Sum payments the slow and obvious way."""
    flows: dict[tuple[int, int], tuple[int, int]] = defaultdict(lambda: (0, 0))
    for i, j, money in zip(payer, payee, amount, strict=True):
        if i != j:
            flows[i, j] = (flows[i, j][0] + money, flows[i, j][1] + 1)
    return dict(flows)


def assert_sound(graph: FlowGraph) -> None:
    """Check everything that holds for every graph."""
    n, m = graph.companies, graph.flows
    for offsets in (graph.out_offsets, graph.in_offsets):
        assert offsets.dtype == np.int64 and len(offsets) == n + 1
        assert offsets[0] == 0 and offsets[-1] == m and (np.diff(offsets) >= 0).all()
    keys = list(zip(graph.payer.tolist(), graph.payee.tolist(), strict=True))
    assert keys == sorted(set(keys))
    payee_of_in = np.repeat(np.arange(n), np.diff(graph.in_offsets))
    reverse = list(zip(payee_of_in.tolist(), graph.in_payer.tolist(), strict=True))
    assert reverse == sorted(set(reverse))
    assert (graph.payee[graph.in_flow] == payee_of_in).all()
    assert (graph.payer[graph.in_flow] == graph.in_payer).all()
    assert not (graph.payer == graph.payee).any()
    assert graph.paid.sum() == graph.received.sum() == graph.total
    for name in ARRAYS:
        assert not getattr(graph, name).flags.writeable


payments = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(1, 10**6)), max_size=60)


@given(payments, st.sampled_from([np.int8, np.uint8, np.int32, np.int64, np.uint64]))
def test_flows_are_the_sums_of_the_payments(rows: list[tuple[int, int, int]], dtype: Any) -> None:
    payer, payee, amount = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    graph = FlowGraph.from_arrays(np.array(payer, dtype), np.array(payee, dtype), amount)
    assert_sound(graph)
    assert flows_of(graph) == summed(payer, payee, amount)
    to_oneself = [money for i, j, money in rows if i == j]
    assert (graph.self_payments, graph.self_amount) == (len(to_oneself), sum(to_oneself))
    assert graph.transactions + graph.self_payments == len(rows)
    assert graph.total + graph.self_amount == sum(amount)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 5000),
    st.integers(0, 3000),
    st.integers(1, 4),
    st.sampled_from([np.int32, np.int64]),
    st.integers(1, 2000),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_the_fast_way_equals_numpy_bit_for_bit(
    companies: int, count: int, threads: int, dtype: Any, block: int, with_amounts: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    hubs = np.minimum(rng.zipf(1.4, count), companies) - 1
    payer, payee = hubs.astype(dtype), rng.integers(0, companies, count).astype(dtype)
    amount = rng.integers(1, 2**40, count) if with_amounts else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aggregate, "PAYMENTS_PER_BLOCK", block)
        patch.setattr(aggregate, "FLOWS_PER_BLOCK", block)
        patch.setattr(aggregate, "RANGES_LOG", 6)
        by_payer = aggregate.sum_payments(payer, payee, amount, companies, threads)
        by_payee = aggregate.by_payee(by_payer[0], by_payer[1], threads)
    expected_by_payer, expected_by_payee = graph_module._both_orders_small(payer, payee, amount, companies)
    for fast, plain in zip((*by_payer, *by_payee), (*expected_by_payer, *expected_by_payee), strict=True):
        assert fast.dtype == plain.dtype
        assert np.array_equal(fast, plain)


def test_a_hub_among_many_payments_is_summed_alike_by_any_number_of_threads() -> None:
    rng = np.random.default_rng(7)
    payer = np.where(rng.random(200_000) < 0.5, 3, rng.integers(0, 50_000, 200_000)).astype(np.int32)
    payee, amount = rng.integers(0, 50_000, 200_000).astype(np.int32), rng.integers(1, 10**9, 200_000)
    graph = FlowGraph.from_arrays(payer, payee, amount)
    assert_sound(graph)
    assert flows_of(graph) == summed(payer.tolist(), payee.tolist(), amount.tolist())


def test_blocks_are_cut_where_payer_and_payee_would_not_fit_one_key() -> None:
    counts = np.ones((2, 100), dtype=np.int64)
    block_of, first_range, starts, _ = aggregate._blocks(counts, target=10**9, widest=16)
    assert np.diff(first_range).max() == 16
    assert (block_of == np.arange(100) // 16).all()
    assert starts[-1] == 200


@pytest.mark.usefixtures("lane")
class TestBothWays:
    """What holds whichever way the payments are summed."""

    def test_parallel_payments_become_one_flow(self) -> None:
        graph = FlowGraph.from_arrays([2, 0, 2, 2], [1, 2, 1, 0], [5, 7, 6, 1])
        assert flows_of(graph) == {(0, 2): (7, 1), (2, 0): (1, 1), (2, 1): (11, 2)}
        assert graph.paid.tolist() == [7, 0, 12]
        assert graph.received.tolist() == [1, 11, 7]
        assert graph.throughflow.tolist() == [7, 11, 12]
        assert_sound(graph)

    def test_without_amounts_every_payment_counts_one(self) -> None:
        graph = FlowGraph.from_arrays([0, 0, 1], [1, 1, 0])
        assert flows_of(graph) == {(0, 1): (2, 2), (1, 0): (1, 1)}

    def test_payments_to_oneself_are_counted_and_left_out(self) -> None:
        graph = FlowGraph.from_arrays([0, 1, 3], [0, 2, 3], [4, 1, 5])
        assert (graph.companies, graph.flows, graph.self_payments, graph.self_amount) == (4, 1, 2, 9)
        assert_sound(graph)

    def test_only_payments_to_oneself_leave_companies_without_flows(self) -> None:
        graph = FlowGraph.from_arrays([5, 5], [5, 5], [1, 2])
        assert (graph.companies, graph.flows, graph.transactions, graph.self_amount) == (6, 0, 0, 3)
        assert_sound(graph)

    @pytest.mark.parametrize("companies", [None, 0, 3])
    def test_no_payments_make_an_empty_graph(self, companies: int | None) -> None:
        graph = FlowGraph.from_arrays([], [], [], companies=companies)
        assert (graph.companies, graph.flows, graph.total) == (companies or 0, 0, 0)
        assert len(graph.paid) == len(graph.received) == len(graph.throughflow) == (companies or 0)
        assert_sound(graph)

    def test_companies_beyond_the_largest_id_are_there_without_flows(self) -> None:
        graph = FlowGraph.from_arrays([0], [1], companies=1000)
        assert graph.companies == 1000
        assert_sound(graph)

    @pytest.mark.parametrize("last", [0, 1])
    def test_the_total_may_reach_the_largest_int64_and_not_pass_it(self, last: int) -> None:
        amounts = np.array([2**62, 2**62 - 2, 1 + last], dtype=np.int64)
        for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
            if last == 0:
                assert FlowGraph.from_arrays([0, 0, 0], [1, 1, 1], amounts[order]).amount.tolist() == [INT64_MAX]
            else:
                with pytest.raises(InputError, match=str(2**63)):
                    FlowGraph.from_arrays([0, 0, 0], [1, 1, 1], amounts[order])

    def test_a_total_that_wraps_all_the_way_round_is_refused(self) -> None:
        with pytest.raises(InputError, match=re.escape(str(4 * 2**62 + 8))):
            FlowGraph.from_arrays([0, 1, 2, 0], [1, 2, 0, 2], np.full(4, 2**62 + 2))

    def test_the_input_is_left_as_it_was(self) -> None:
        payer, payee, amount = (np.array(values) for values in ([1, 0, 1], [0, 1, 0], [3, 4, 5]))
        for array in (payer, payee, amount):
            array.setflags(write=False)
        graph = FlowGraph.from_arrays(payer, payee, amount)
        assert graph.amount.tolist() == [4, 8]
        assert amount.tolist() == [3, 4, 5]

    def test_strided_and_foreign_byte_order_arrays_are_read(self) -> None:
        payer = np.arange(8, dtype=">i4")[::2] // 2
        graph = FlowGraph.from_arrays(payer, payer[::-1], np.arange(1, 9, dtype=">i8")[::2])
        assert flows_of(graph) == {(0, 3): (1, 1), (1, 2): (3, 1), (2, 1): (5, 1), (3, 0): (7, 1)}


def test_ids_of_32_bits_stay_32_bits() -> None:
    graph = FlowGraph.from_arrays(np.array([0, 1]), np.array([1, 0]))
    assert {graph.payee.dtype, graph.in_payer.dtype, graph.in_flow.dtype, graph.payments.dtype} == {np.dtype(np.int32)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 1], [1]), "payer has 2 entries and payee 1"),
        (([0], [1], [1, 2]), "amount has 2 entries for 1 payments"),
        (([0, -4], [1, 1]), "payer[1] is -4"),
        (([0, 1], [1, -1]), "payee[1] is -1"),
        (([0, 1], [1, 0], [3, 0]), "amount[1] is 0: amounts are positive"),
        (([0, 1], [1, 0], [-7, 0]), "amount[0] is -7"),
        (([0], [1], [0.5]), "amount has dtype float64: amounts are integers in minor units; convert with np.rint"),
        ((["a"], ["b"]), "payer has dtype <U1: company ids are integers"),
        (([0.0], [1]), "payer has dtype float64"),
        (([True], [1]), "payer has dtype bool"),
        (([0], [2**62]), f"{2**62 + 1} companies: there can be 0 to {2**40}, and memory is taken for every id"),
        (([[0, 1]], [[1, 0]]), "payer has shape (1, 2)"),
        (([0], [1], np.array([2**63], dtype=np.uint64)), f"amount[0] is {2**63}"),
    ],
)
def test_unsound_payments_are_refused_with_their_place(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        FlowGraph.from_arrays(*arguments)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"companies": 2}, "payee[1] is 2: with 2 companies the ids are 0..1"),
        ({"companies": -1}, "-1 companies: there can be 0 to"),
        ({"companies": 2**60}, f"{2**60} companies"),
        ({"names": ["a", "b"]}, "payee[1] is 2"),
        ({"names": ["a", "b", "c"], "companies": 4}, "names has 3 entries for 4 companies"),
        ({"inflow": [0, 0, 0, 0], "companies": 3}, "inflow has 4 entries for 3 companies"),
        ({"outflow": [0, -1, 0]}, "outflow[1] is -1: external flows are 0 or more"),
        ({"inflow": [0, INT64_MAX, 0]}, f"the payments and the known inflow sum up to {INT64_MAX + 2}"),
        ({"outflow": [1, INT64_MAX - 2, 0]}, f"the payments and the known outflow sum up to {INT64_MAX + 1}"),
    ],
)
def test_settings_that_contradict_the_payments_are_refused(settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        FlowGraph.from_arrays([0, 1], [1, 2], **settings_)


def test_known_external_flows_enter_the_throughflow() -> None:
    graph = FlowGraph.from_arrays([0, 1], [1, 0], [5, 3], inflow=[10, 0])
    assert graph.throughflow.tolist() == [13, 5]
    assert graph.outflow is not None
    assert graph.outflow.tolist() == [0, 0]
    graph = FlowGraph.from_arrays([0, 1], [1, 0], [5, 3], inflow=[10, 0], outflow=[0, 20])
    assert graph.throughflow.tolist() == [13, 23]


def test_names_are_kept_as_one_arrow_array() -> None:
    names = pa.chunked_array([["가나다 ㈜"], ["b", "c"]])
    graph = FlowGraph.from_arrays([0], [1], names=names)
    assert graph.companies == 3
    assert graph.names.to_pylist() == ["가나다 ㈜", "b", "c"]


@given(st.lists(st.integers(-(2**63), INT64_MAX), max_size=50))
def test_sums_are_exact_whatever_their_size(values: list[int]) -> None:
    assert exact_sum(np.array(values, dtype=np.int64)) == sum(values)


@given(payments, st.integers(0, 2**32 - 1))
def test_the_flows_inside_components_are_cut_out_whole(rows: list[tuple[int, int, int]], seed: int) -> None:
    payer, payee, amount = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    graph = FlowGraph.from_arrays(payer, payee, amount, companies=13)
    drawn = np.random.default_rng(seed).integers(0, 8, 13)
    _, members, sizes = np.unique(drawn, return_inverse=True, return_counts=True)
    rank = np.empty(len(sizes), dtype=np.int32)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    labels = rank[members]
    inside = graph.intra(labels)
    assert inside.components == (sizes >= 2).sum()
    seen = []
    for component in range(inside.components):
        companies = inside.company[inside.company_offsets[component] : inside.company_offsets[component + 1]]
        assert companies.tolist() == np.flatnonzero(labels == component).tolist()
        for local, company in enumerate(companies.tolist()):
            position = inside.company_offsets[component] + local
            row = slice(inside.flow_offsets[position], inside.flow_offsets[position + 1])
            assert (np.diff(inside.payee[row]) > 0).all()
            for to, money, flow in zip(inside.payee[row], inside.amount[row], inside.flow[row], strict=True):
                assert (graph.payer[flow], graph.payee[flow], graph.amount[flow]) == (company, companies[to], money)
                seen.append(int(flow))
    expected = (labels[graph.payer] == labels[graph.payee]).nonzero()[0]
    assert sorted(seen) == expected.tolist()


def test_components_beyond_16_bits_are_cut_out_alike() -> None:
    pairs = 70_000
    order = np.random.default_rng(1).permutation(2 * pairs).astype(np.int32)
    one, other = order[:pairs], order[pairs:]
    graph = FlowGraph.from_arrays(np.concatenate([one, other]), np.concatenate([other, one]))
    labels = np.empty(2 * pairs, dtype=np.int32)
    labels[one] = labels[other] = np.arange(pairs)
    inside = graph.intra(labels)
    assert (labels[inside.company] == np.repeat(np.arange(pairs), 2)).all()
    assert (inside.payee.reshape(-1, 2) == [1, 0]).all()


def test_memory_stays_within_what_the_docstrings_state() -> None:
    companies, count = 200_000, 1_000_000
    rng = np.random.default_rng(3)
    payer, payee = (rng.integers(0, companies, count).astype(np.int32) for _ in range(2))
    amount = rng.integers(1, 100, count)
    FlowGraph.from_payments(payer, payee, amount, companies=companies)
    tracemalloc.start()
    graph = FlowGraph.from_payments(payer, payee, amount, companies=companies)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    state = 24 * graph.flows + 16 * companies
    assert state <= kept <= state + 100_000
    assert peak <= state + 16 * count + 8 * 2**20
