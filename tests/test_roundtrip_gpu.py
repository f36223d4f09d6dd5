"""Push and the exact method on a device, run in the host lane: the bits of the CPU twins, whatever the launch."""

from __future__ import annotations

import sys
from dataclasses import fields
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

import oracle
from ouroflow.components import components_of
from ouroflow.errors import ResourceError, UsageError
from ouroflow.graph import FlowGraph
from ouroflow.graph_gpu import DeviceGraph
from ouroflow.roundtrip import cpu_exact, cpu_push, gpu_push
from ouroflow.roundtrip.gpu_exact import DeviceExact
from ouroflow.roundtrip.push import MOST_HOPS, PART, part_bounds, push_returns, two_hop_returns
from simt.host import HostAccelerator

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
import graphs

pytestmark = pytest.mark.host

Labels = npt.NDArray[np.int32]


def labels_of(graph: FlowGraph) -> Labels:
    shape = (graph.companies, graph.companies)
    moves = csr_matrix((np.ones(graph.flows), (graph.payer, graph.payee)), shape=shape)
    return connected_components(moves, directed=True, connection="strong")[1]


def random_graph(seed: int, companies: int, flows: int, largest: int = 1000) -> FlowGraph:
    rng = np.random.default_rng(seed)
    payer, payee = rng.integers(0, companies, (2, flows))
    return FlowGraph.from_arrays(payer, payee, rng.integers(1, largest, flows), companies=companies)


def hub_graph(companies: int, hubs: int, seed: int) -> FlowGraph:
    """Everybody pays each hub and is paid by it, and some others pay each other: rows of several pieces."""
    rng = np.random.default_rng(seed)
    ids, hub = np.repeat(np.arange(companies), hubs), np.tile(np.arange(hubs), companies)
    few = rng.integers(0, companies, (2, companies))
    payer, payee = np.concatenate([ids, hub, few[0]]), np.concatenate([hub, ids, few[1]])
    return FlowGraph.from_arrays(payer, payee, rng.integers(1, 10**6, len(payer)), companies=companies)


def ring_graph(companies: int, leak: int, amount: int = 10**9) -> FlowGraph:
    """A ring from which company 0 pays `leak` units to somebody outside."""
    payer, payee = np.arange(companies), np.roll(np.arange(companies), -1)
    paid = np.full(companies, amount)
    if leak:
        payer, payee, paid = np.append(payer, 0), np.append(payee, companies), np.append(paid, leak)
    return FlowGraph.from_arrays(payer, payee, paid, companies=companies + 1)


def wide(graph: FlowGraph) -> FlowGraph:
    """Return the graph with 64-bit ids and positions."""
    changed = {name: getattr(graph, name).astype(np.int64) for name in ("payee", "in_payer", "in_flow", "payments")}
    return FlowGraph(**{part.name: changed.get(part.name, getattr(graph, part.name)) for part in fields(graph)})


def assert_same_bits(one: Any, other: Any) -> None:
    for part in fields(one):
        ours, theirs = getattr(one, part.name), getattr(other, part.name)
        assert ours.dtype == theirs.dtype, part.name
        np.testing.assert_array_equal(ours, theirs, err_msg=part.name)


def assert_twins_agree(graph: FlowGraph, roots: Any, on: HostAccelerator | None = None, **asked: Any) -> None:
    labels = labels_of(graph)
    device = DeviceGraph.from_host(on or HostAccelerator(), graph)
    assert_same_bits(push_returns(device, labels, roots, **asked), push_returns(graph, labels, roots, **asked))


# --- push -------------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    st.integers(0, 2**32),
    st.integers(2, 40),
    st.floats(0.5, 4),
    st.sampled_from([{}, {"tolerance": 0.1}, {"tolerance": 1e-7}, {"hops": 2}, {"hops": 5}]),
)
def test_a_push_has_the_bits_of_the_cpu_twin(seed: int, companies: int, degree: float, asked: dict[str, Any]) -> None:
    graph = random_graph(seed, companies, int(companies * degree))
    assert_twins_agree(graph, np.arange(companies), **asked)


@pytest.mark.parametrize("asked", [{"tolerance": 1e-2}, {"tolerance": 1e-4}, {"hops": 3}])
def test_power_laws_and_hubs_have_the_bits_of_the_cpu_twin(asked: dict[str, Any]) -> None:
    power_law = FlowGraph.from_arrays(*graphs.power_law(700, 3500, 1), companies=700)
    assert_twins_agree(power_law, np.arange(0, 700, 20), **asked)
    hubs = hub_graph(3 * PART + 10, 2, seed=1)
    assert np.diff(hubs.in_offsets)[:2].min() > 3 * PART
    assert_twins_agree(hubs, np.arange(35), **asked)


@pytest.mark.parametrize("length", [63, 64, 65, PART - 1, PART, PART + 1, 2 * PART, 2 * PART + 1])
def test_rows_around_every_limit_have_the_bits_of_the_cpu_twin(length: int) -> None:
    """A hub that is paid by so many others, and pays them unequally."""
    rng = np.random.default_rng(length)
    spokes, hub = np.arange(1, length + 1), np.zeros(length, np.int64)
    payer, payee = np.concatenate([hub, spokes]), np.concatenate([spokes, hub])
    graph = FlowGraph.from_arrays(payer, payee, rng.integers(1, 10**6, len(payer)))
    assert_twins_agree(graph, [0, 1, length], hops=6)
    assert_twins_agree(graph, [0, 1, length], tolerance=0.05)


def test_money_that_hardly_leaks_has_the_bits_of_the_cpu_twin() -> None:
    assert_twins_agree(ring_graph(5, leak=1), [0, 3], tolerance=1e-2)
    # One unit passes company 8 on its way around a ring of 10^9: after all hops nothing is decided.
    payer, payee = np.append(np.arange(8), [7, 8]), np.append(np.roll(np.arange(8), -1), [8, 1])
    graph = FlowGraph.from_arrays(payer, payee, np.append(np.full(8, 10**9), [1, 1]))
    assert_twins_agree(graph, [8], tolerance=1e-3)
    found = push_returns(DeviceGraph.from_host(HostAccelerator(), graph), labels_of(graph), [8])
    assert found.hops[0] == MOST_HOPS and 0 < found.low[0] < 1e-5 and found.high[0] > 0.99


@pytest.mark.parametrize(("resident_threads", "workers"), [(256, 1), (512, 3), (1 << 20, 2)])
def test_neither_the_grid_nor_the_width_of_ids_changes_a_bit(resident_threads: int, workers: int) -> None:
    on = HostAccelerator(resident_threads=resident_threads, workers=workers)
    graph = hub_graph(2 * PART, 1, seed=2)
    assert_twins_agree(graph, np.arange(0, 300, 9), on, tolerance=1e-3)
    labels, roots = labels_of(graph), np.arange(40)
    narrow, device = (push_returns(DeviceGraph.from_host(on, g), labels, roots, hops=3) for g in (graph, wide(graph)))
    assert device.last_hop_flow.dtype == np.int64
    for part in ("value", "low", "high", "hops", "last_hop_offsets", "last_hop_flow", "last_hop_share"):
        np.testing.assert_array_equal(getattr(narrow, part), getattr(device, part))


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.integers(2, 40), st.floats(0.5, 4), st.integers(1, 60))
def test_inner_flows_have_the_bits_of_the_cpu_twin(seed: int, companies: int, degree: float, at_once: int) -> None:
    graph = random_graph(seed, companies, int(companies * degree), largest=10**15)
    labels, roots = labels_of(graph), np.arange(0, companies, 3)
    on = HostAccelerator()
    device = gpu_push.inner_flows(DeviceGraph.from_host(on, graph), labels, roots, flows_at_once=at_once)
    host = cpu_push.inner_flows(graph, labels, roots)
    for part in fields(host):
        ours, theirs = on.to_host(getattr(device, part.name)), getattr(host, part.name)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs, err_msg=part.name)


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(2, 600), st.floats(0, 3))
def test_parts_hold_all_payees_and_a_long_row_is_the_last_of_its_part(seed: int, companies: int, degree: float) -> None:
    rng = np.random.default_rng(seed)
    graph = random_graph(seed, companies, int(companies * degree))
    if rng.random() < 0.5:
        graph = hub_graph(companies, 1, seed)
    inner = cpu_push.inner_flows(graph, labels_of(graph), np.arange(companies))
    bounds = part_bounds(graph, inner)
    lengths = np.diff(inner.offsets)
    assert (bounds[0], bounds[-1]) == (0, companies) and (np.diff(bounds) >= 0).all()
    for first, last in pairwise(bounds):
        assert (lengths[first : last - 1] + 1).sum() < PART
        assert (lengths[first : last - 1] <= PART).all()


def test_every_hop_reads_each_flow_once_and_the_first_hops_less() -> None:
    graph = random_graph(3, 600, 2400)
    labels, on = labels_of(graph), HostAccelerator()
    device = DeviceGraph.from_host(on, graph)
    inner = gpu_push.inner_flows(device, labels, np.arange(600))
    panel = gpu_push.DevicePanel(device, inner, np.float32)
    flows, read, filled = len(inner.payer), [], []
    panel.place(np.arange(2))
    for _ in range(12):
        filled.append(int((panel.now[inner.payer] > 0).any(axis=1).sum()))
        on.touched_edges.clear()
        panel.hop()
        read.append(on.touched_edges["gather_parts"])
    assert read[:3] == filled[:3] and read[0] < flows / 50  # only what leads from somewhere
    assert read[-1] == flows  # once nearly all rows are filled nothing is looked up any more


def test_a_whole_push_touches_flows_times_hops() -> None:
    graph = hub_graph(2 * PART, 1, seed=4)
    labels, on = labels_of(graph), HostAccelerator()
    found = push_returns(DeviceGraph.from_host(on, graph), labels, np.arange(32), hops=7)
    hops = int(found.hops.max()) - 2  # the first is placed, the last is only collected
    gathered = on.touched_edges["gather_parts"] + on.touched_edges["gather_pieces"]
    assert (hops - 1) * graph.flows < gathered <= hops * graph.flows
    assert on.touched_edges["bring_back"] == (hops + 1) * len(found.last_hop_flow)
    assert on.launches["gather_parts"] == hops


@pytest.mark.parametrize(("memory", "what"), [(50_000, "taking out"), (300_000, "inside"), (600_000, "two panels")])
def test_a_push_that_does_not_fit_is_refused_with_the_figure(memory: int, what: str) -> None:
    graph = ring_graph(3000, leak=1)
    on = HostAccelerator()
    device = DeviceGraph.from_host(on, graph)
    on.memory = memory
    with pytest.raises(ResourceError, match=rf"{what}.* MB of device memory"):
        push_returns(device, labels_of(graph), np.arange(40))


def test_two_hops_that_do_not_fit_are_refused_with_the_figure() -> None:
    on = HostAccelerator()
    device = DeviceGraph.from_host(on, random_graph(5, 500, 2500))
    on.memory = 10_000
    with pytest.raises(ResourceError, match=r"two-hop returns.* MB of device memory"):
        two_hop_returns(device)


def test_settings_out_of_range_are_refused_on_a_device_too() -> None:
    graph = random_graph(6, 20, 60)
    device = DeviceGraph.from_host(HostAccelerator(), graph)
    with pytest.raises(UsageError, match="once"):
        push_returns(device, labels_of(graph), [3, 3])
    assert push_returns(device, labels_of(graph), np.zeros(0, np.int64)).low.size == 0


# --- two hops ---------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(2, 60), st.floats(0, 12))
def test_two_hops_have_the_bits_of_the_cpu_twin(seed: int, companies: int, degree: float) -> None:
    for graph in (random_graph(seed, companies, int(companies * degree)), hub_graph(companies, 1, seed)):
        on = HostAccelerator(resident_threads=256)
        expected = two_hop_returns(graph)
        for ids in (graph, wide(graph)):
            np.testing.assert_array_equal(two_hop_returns(DeviceGraph.from_host(on, ids)), expected)


# --- small components --------------------------------------------------------------------------------------------------


def rings_with(sizes: list[int], seed: int, closed: tuple[int, ...] = ()) -> FlowGraph:
    """Components of the given sizes, rings with random other flows; those named `closed` leak nothing."""
    rng = np.random.default_rng(seed)
    columns, start = [], 0
    for nth, size in enumerate(sizes):
        ring = np.stack([np.arange(size), np.roll(np.arange(size), -1)], 1)
        pair = np.concatenate([ring, rng.integers(0, size, (0 if nth in closed else 2 * size, 2))]) + start
        amount = np.full(len(pair), 9) if nth in closed else rng.integers(1, 1000, len(pair))
        columns.append((*pair.T, amount))
        start += size
    payer, payee, amount = (np.concatenate(column) for column in zip(*columns, strict=True))
    return FlowGraph.from_arrays(payer, payee, amount, companies=start)


@pytest.mark.parametrize("batch_bytes", [1, 7_000, 1 << 30])
def test_small_components_equal_the_cpu_twin(batch_bytes: int) -> None:
    graph = rings_with([2, 2, 3, 3, 5, 17, 17, 40, 2, 7], seed=1, closed=(8, 9))
    intra = graph.intra(components_of(graph).labels)
    through, asked = graph.throughflow[intra.company], np.arange(1, intra.components)
    on = HostAccelerator(resident_threads=512)
    found = DeviceExact(on, batch_bytes=batch_bytes).exact_small(intra, through, asked)
    expected = cpu_exact.exact_small(intra, through, asked)
    for ours, theirs in ((found.company, expected.company), (found.flow, expected.flow)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-13)  # NaN where not asked for, in both
        np.testing.assert_array_equal(ours == 1.0, theirs == 1.0)
    assert (found.company == 1.0).sum() >= 9
    assert on.launches["sweep_chains"] == {1: 9, 7_000: 3, 1 << 30: 1}[batch_bytes]


def test_the_largest_small_component_equals_the_cpu_twin() -> None:
    graph = rings_with([cpu_exact.SMALL], seed=2)
    intra = graph.intra(components_of(graph).labels)
    arguments = (intra, graph.throughflow[intra.company], np.array([0]))
    found, expected = DeviceExact(HostAccelerator()).exact_small(*arguments), cpu_exact.exact_small(*arguments)
    np.testing.assert_allclose(found.company, expected.company, rtol=1e-12)
    np.testing.assert_allclose(found.flow, expected.flow, rtol=1e-12)


def test_a_leak_of_one_unit_in_10_to_the_17_costs_no_digits() -> None:
    """I - P is singular in double precision here; the sweep of the device agrees with rational arithmetic."""
    most = 10**17
    matrix = [[0, most, 3, 0], [1, 0, most, 7], [0, 5, 0, most], [most + 2, 2, 1, 0]]
    for i in range(3):  # pay the differences around by way of the last company
        paid, received = sum(matrix[i]), sum(row[i] for row in matrix)
        matrix[i][3] += max(received - paid, 0)
        matrix[3][i] += max(paid - received, 0)
    matrix[0][1] += 1
    payer, payee = np.nonzero(matrix)
    graph = FlowGraph.from_arrays(payer, payee, np.array(matrix)[payer, payee])
    intra = graph.intra(components_of(graph).labels)
    found = DeviceExact(HostAccelerator()).exact_small(intra, graph.throughflow[intra.company], np.array([0]))
    through = graph.throughflow.tolist()
    exact = [money / part for money, part in zip(oracle.rational(matrix)[2], through, strict=True)]
    for value, truth in zip(found.company, exact, strict=True):
        assert abs(Fraction(float(value)) - truth) <= Fraction(1, 10**13) * truth


def test_small_components_that_do_not_fit_are_refused_with_the_figure() -> None:
    graph = rings_with([40], seed=3)
    intra = graph.intra(components_of(graph).labels)
    with pytest.raises(ResourceError, match=r"small components.* MB of device memory"):
        DeviceExact(HostAccelerator(memory=5000)).exact_small(intra, graph.throughflow[intra.company], np.array([0]))


# --- large components ---------------------------------------------------------------------------------------------------


class Component:
    """The largest component of a graph, as the solvers want it."""

    def __init__(self, graph: FlowGraph) -> None:
        intra = graph.intra(components_of(graph).labels)
        size = int(intra.company_offsets[1])
        self.offsets = intra.flow_offsets[: size + 1]
        self.payee, self.amount = intra.payee[: self.offsets[-1]], intra.amount[: self.offsets[-1]]
        self.company, self.flow = intra.company[:size], intra.flow[: self.offsets[-1]]
        self.throughflow = graph.throughflow[self.company]
        self.chain = (self.offsets, self.payee, self.amount, self.throughflow)


# (flops to leave the lists): 0 eliminates everything there, infinity nothing, so that the core is the whole component.
@pytest.mark.parametrize("flops_to_leave", [0.0, 400_000.0, np.inf])
@pytest.mark.parametrize("blocks", [(64,), (128, 32), (200, 100, 30)])
def test_the_core_on_a_device_equals_the_cpu_twin(flops_to_leave: float, blocks: tuple[int, ...]) -> None:
    part = Component(FlowGraph.from_arrays(*graphs.power_law(350, 2500, 1), companies=350))
    on = HostAccelerator()
    found = DeviceExact(on, blocks=blocks, flops_to_leave=flops_to_leave).exact_returns(*part.chain)
    expected = cpu_exact.exact_returns(*part.chain)
    assert found is not None and expected is not None
    np.testing.assert_allclose(found.company, expected.company, rtol=1e-12)
    np.testing.assert_allclose(found.flow, expected.flow, rtol=1e-12)
    assert (on.launches["sweep_chains"] > 0) == (flops_to_leave > 0)


@pytest.mark.parametrize("leak", [1, 10**6])
def test_a_core_that_hardly_leaks_keeps_its_digits(leak: int) -> None:
    """A ring of 300 with one leak: whatever is paid behind it returns with the share that does not leak."""
    graph = ring_graph(300, leak, amount=10**15)
    part = Component(graph)
    found = DeviceExact(HostAccelerator(), flops_to_leave=np.inf).exact_returns(*part.chain)
    assert found is not None
    share = 10**15 / (10**15 + leak)
    np.testing.assert_allclose(found.company, share, rtol=1e-14)
    lost = 1 - found.company
    assert lost == pytest.approx(1 - share, rel=0.3)


def test_a_closed_component_returns_everything_exactly_and_needs_no_device() -> None:
    part, on = Component(ring_graph(300, leak=0)), HostAccelerator()
    found = DeviceExact(on).exact_returns(*part.chain)
    assert found is not None and (found.company == 1.0).all() and (found.flow == 1.0).all()
    assert not on.launches


def test_exact_figures_lie_in_the_bounds_of_the_push() -> None:
    graph = FlowGraph.from_arrays(*graphs.power_law(350, 2500, 2), companies=350)
    part, on = Component(graph), HostAccelerator()
    found = DeviceExact(on).exact_returns(*part.chain)
    assert found is not None
    roots = part.company[::9].astype(np.int64)
    pushed = push_returns(DeviceGraph.from_host(on, graph), labels_of(graph), roots, tolerance=1e-4)
    exact = found.company[::9] * part.throughflow[::9] / graph.paid[roots]
    assert (pushed.low <= exact * (1 + 1e-12)).all() and (exact * (1 - 1e-12) <= pushed.high).all()
    assert (pushed.high - pushed.low <= 2e-4).all()


def test_a_core_that_does_not_fit_is_refused() -> None:
    part = Component(FlowGraph.from_arrays(*graphs.power_law(350, 2500, 1), companies=350))
    exact = DeviceExact(HostAccelerator(memory=100_000), flops_to_leave=np.inf)
    with pytest.raises(ResourceError, match=r"dense core.* MB of device memory"):
        exact.exact_returns(*part.chain)
    assert DeviceExact(HostAccelerator()).exact_returns(*part.chain, core_limit=3) is None


@pytest.mark.parametrize("memory", [0, 10**6, 10**8, 10**10])
def test_the_core_that_fits_is_accepted_and_one_more_company_is_not(memory: int) -> None:
    exact = DeviceExact(HostAccelerator(memory=memory))
    fits = exact.core_that_fits()
    assert 8 * fits**2 + exact._work_bytes(fits) <= memory
    if memory < 10**10:  # beyond it the memory of this machine is the limit
        assert 8 * (fits + 1) ** 2 + exact._work_bytes(fits + 1) > memory
