"""The graph on an accelerator is the graph on the host, array for array, whatever the size of the pieces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ouroflow.errors import InputError, ResourceError
from ouroflow.graph import FlowGraph
from ouroflow.graph_gpu import BYTES_PER_PAYMENT, DeviceGraph, running_sums
from simt.host import HostAccelerator

pytestmark = pytest.mark.host

ARRAYS = ("out_offsets", "payee", "amount", "payments", "in_offsets", "in_payer", "in_flow")
DERIVED = ("payer", "paid", "received", "throughflow")


def assert_same(device: DeviceGraph, host: FlowGraph) -> None:
    for name in ARRAYS + DERIVED:
        ours, theirs = device.on.to_host(getattr(device, name)), getattr(host, name)
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs), name
    for name in ("companies", "flows", "transactions", "total", "self_payments", "self_amount"):
        assert getattr(device, name) == getattr(host, name), name


def random_payments(seed: int, companies: int, payments: int, ids: type = np.int32) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    ends = rng.integers(0, companies, (2, payments)).astype(ids)
    return ends[0], ends[1], rng.integers(1, 10**9, payments)


@given(seed=st.integers(0, 2**32), companies=st.integers(1, 40), payments=st.integers(0, 300), wide=st.booleans())
def test_equals_the_host_graph(seed: int, companies: int, payments: int, wide: bool) -> None:
    payer, payee, amount = random_payments(seed, companies, payments, np.int64 if wide else np.int32)
    on = HostAccelerator()
    expected = FlowGraph.from_payments(payer, payee, amount, companies=companies)
    assert_same(DeviceGraph.from_payments(on, payer, payee, amount, companies=companies), expected)
    device = tuple(on.to_device(array) for array in (payer, payee, amount))
    assert_same(DeviceGraph.from_payments(on, *device, companies=companies), expected)
    assert_same(DeviceGraph.from_host(on, expected), expected)


@pytest.mark.parametrize("pieces", [1, 3, 40])
def test_payments_past_the_free_memory_are_summed_in_pieces(pieces: int) -> None:
    payer, payee, amount = random_payments(1, 12, 4_000)
    on = HostAccelerator(memory=BYTES_PER_PAYMENT * 4 * 4_000 // pieces)
    graph = DeviceGraph.from_payments(on, payer, payee, amount, companies=12)
    assert_same(graph, FlowGraph.from_payments(payer, payee, amount, companies=12))


def test_without_amounts_payments_are_counted() -> None:
    payer, payee, _ = random_payments(2, 9, 500)
    graph = DeviceGraph.from_payments(HostAccelerator(), payer, payee, None, companies=9)
    assert_same(graph, FlowGraph.from_payments(payer, payee, None, companies=9))


def test_known_external_flows_enter_the_throughflow() -> None:
    payer, payee, amount = random_payments(3, 9, 50)
    inflow = np.arange(9, dtype=np.int64) * 10**9
    graph = DeviceGraph.from_payments(HostAccelerator(), payer, payee, amount, companies=9, inflow=inflow)
    assert_same(graph, FlowGraph.from_payments(payer, payee, amount, companies=9, inflow=inflow))


def test_flows_that_do_not_fit_are_refused_with_the_figures() -> None:
    payer, payee, amount = random_payments(4, 3_000, 20_000)
    with pytest.raises(ResourceError, match=r"flows of 20,000 payments.*do not fit the 0 MB.*--device cpu"):
        DeviceGraph.from_payments(HostAccelerator(memory=60_000), payer, payee, amount, companies=3_000)
    host = FlowGraph.from_payments(payer, payee, amount, companies=3_000)
    with pytest.raises(ResourceError, match=r"20,\d\d\d flows|19,\d\d\d flows"):
        DeviceGraph.from_host(HostAccelerator(memory=60_000), host)


def test_sums_past_int64_are_refused_and_sums_up_to_it_are_exact() -> None:
    payer, payee = np.array([0, 0], np.int32), np.array([1, 1], np.int32)
    with pytest.raises(InputError, match="more than int64"):
        DeviceGraph.from_payments(HostAccelerator(), payer, payee, np.array([2**62, 2**62]), companies=2)
    graph = DeviceGraph.from_payments(HostAccelerator(), payer, payee, np.array([2**62, 2**62 - 1]), companies=2)
    assert graph.total == 2**63 - 1


def test_more_companies_than_a_packed_key_holds_are_sorted_by_both_ends() -> None:
    # Only the sort is tried: offsets for so many companies would not fit the test's memory.
    from ouroflow.graph_gpu import PACKED_COMPANIES, _Flows, _summed

    on = HostAccelerator()
    payer, payee, amount = random_payments(5, 20, 400, np.int64)
    far = PACKED_COMPANIES * 3
    rest = tuple(on.to_device(array) for array in (payee, amount, np.ones(400, np.int64)))
    wide = _summed(on, _Flows(on.to_device(payer * far // 20), *rest), far)
    near = _summed(on, _Flows(on.to_device(payer), *rest), 20)
    apart = payer * far // 20 != payee
    assert apart[payer != payee].all()
    assert int(wide.amount.sum()) == amount[apart].sum() and len(near.payer) <= len(wide.payer)
    order = np.lexsort((on.to_host(wide.payee), on.to_host(wide.payer)))
    assert np.array_equal(order, np.arange(len(wide.payer)))


@given(st.lists(st.integers(-(2**40), 2**40), max_size=20), st.integers(1, 7))
def test_running_sums_do_not_depend_on_the_pieces_they_are_made_in(values: list[int], at_once: int) -> None:
    on = HostAccelerator()
    sums = running_sums(on.xp, on.to_device(np.array(values, np.int64)), at_once=at_once)
    assert on.to_host(sums).tolist() == [0, *np.cumsum(values, dtype=np.int64).tolist()]
