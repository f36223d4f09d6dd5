"""Strong components: the right partition on every way through the code, numbered predictably, proven by certificate."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from ouroflow.components import (
    ComponentCertificate,
    Components,
    certify,
    components_of,
    cpu,
    cpu_certificate,
    strong_components,
)
from ouroflow.components.cpu_sweep import BLOCK, STALLED, busiest_company, close_by_sweeps
from ouroflow.errors import InputError, UsageError
from ouroflow.graph import FlowGraph

Ids = np.ndarray[Any, np.dtype[Any]]
Case = tuple[Ids, Ids, int]


def bench_graphs() -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "bench" / "graphs.py"
    spec = importlib.util.spec_from_file_location("bench_graphs", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GRAPHS = bench_graphs()


def in_our_order(partition: Ids) -> Ids:
    """Number any partition as ouroflow does: by falling size, then by smallest company."""
    _, smallest, label, sizes = np.unique(partition, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(sizes.size, np.int64)
    rank[np.lexsort((smallest, -sizes))] = np.arange(sizes.size)
    return rank[label]


def by_scipy(payer: Ids, payee: Ids, companies: int) -> Ids:
    matrix = scipy.sparse.csr_matrix((np.ones(len(payer), np.int8), (payer, payee)), shape=(companies, companies))
    _, partition = scipy.sparse.csgraph.connected_components(matrix, directed=True, connection="strong")
    return in_our_order(partition)


def by_brute_force(payer: Ids, payee: Ids, companies: int) -> Ids:
    """Close reachability by repeated squaring; two companies belong together when each reaches the other."""
    reaches = np.eye(companies, dtype=bool)
    reaches[payer, payee] = True
    for _ in range(companies.bit_length()):
        reaches = (reaches.astype(np.int64) @ reaches) > 0
    together = reaches & reaches.T
    return in_our_order(together.argmax(axis=1))


def by_sweeps(payer: Ids, payee: Ids, companies: int) -> Ids | None:
    found = cpu.by_sweeps(cpu.as_input(payer), cpu.as_input(payee), companies)
    return None if found is None else found[0]


def by_trim(payer: Ids, payee: Ids, companies: int) -> Ids | None:
    left = cpu.trim(cpu.as_input(payer), cpu.as_input(payee), companies)
    return None if left is None else cpu.by_search_among_ends(left, companies)[0]


def by_two_searches(payer: Ids, payee: Ids, companies: int) -> Ids:
    return cpu.by_two_searches(cpu.as_input(payer), cpu.as_input(payee), companies, None)[0]


def by_depth_first_search(payer: Ids, payee: Ids, companies: int) -> Ids:
    index = cpu.index_by_payer([(cpu.as_input(payer), cpu.as_input(payee))], companies)
    return cpu.by_depth_first_search(*index)[0]


WAYS: dict[str, Callable[[Ids, Ids, int], Ids | None]] = {
    "sweeps": by_sweeps,
    "trim": by_trim,
    "two searches": by_two_searches,
    "depth first": by_depth_first_search,
}


@st.composite
def small_cases(draw: st.DrawFn, most_companies: int = 14, most_flows: int = 40) -> Case:
    companies = draw(st.integers(1, most_companies))
    company = st.integers(0, companies - 1)
    flows = draw(st.lists(st.tuples(company, company), max_size=most_flows))
    payer, payee = np.array(flows, np.int32).reshape(-1, 2).T
    return np.ascontiguousarray(payer), np.ascontiguousarray(payee), companies


def path(companies: int) -> Case:
    company = np.arange(companies)
    return company[:-1], company[1:], companies


def cycle(companies: int) -> Case:
    company = np.random.default_rng(1).permutation(companies)
    return company, np.roll(company, 1), companies


def star(companies: int) -> Case:
    hub, leaf = np.zeros(companies - 1, np.int64), np.arange(1, companies)
    return np.concatenate([hub, leaf[::2]]), np.concatenate([leaf, hub[::2]]), companies


def complete(companies: int) -> Case:
    payer, payee = np.divmod(np.arange(companies**2), companies)
    return payer, payee, companies


def two_cycles(pairs: int) -> Case:
    company = np.random.default_rng(2).permutation(2 * pairs)
    return company, company.reshape(pairs, 2)[:, ::-1].ravel(), 2 * pairs


def dense_cliques(cliques: int, size: int) -> Case:
    """Many flows per company and no giant: sweeps are tried and must give up."""
    payer, payee = np.divmod(np.arange(size**2), size)
    first = size * np.arange(cliques)[:, None]
    return (payer + first).ravel(), (payee + first).ravel(), cliques * size


def giant_with_long_tail(core: int, tail: int) -> Case:
    """A dense core and a cycle through it that is longer than any sweep likes to follow."""
    rng = np.random.default_rng(3)
    ring = np.concatenate([[0], core + rng.permutation(tail)])
    payer = np.concatenate([rng.integers(0, core, 12 * core), ring])
    payee = np.concatenate([rng.integers(0, core, 12 * core), np.roll(ring, -1)])
    return payer, payee, core + tail


SHAPES: dict[str, Callable[[], Case]] = {
    "a path of a million": lambda: path(1_000_000),
    "a cycle of a million": lambda: cycle(1_000_000),
    "a star": lambda: star(200_001),
    "a complete graph": lambda: complete(500),
    "a hundred thousand two-cycles": lambda: two_cycles(100_000),
    "small dense cliques": lambda: dense_cliques(2_000, 8),
    "a giant with a long tail": lambda: giant_with_long_tail(10_000, 30_000),
    "self-flows only": lambda: (np.arange(30_000), np.arange(30_000), 30_000),
    "one flow many times": lambda: (np.zeros(30_000, np.int64), np.ones(30_000, np.int64), 2),
}


class TestPartition:
    @given(small_cases())
    def test_small_graphs_equal_brute_force(self, case: Case) -> None:
        assert (strong_components(*case) == by_brute_force(*case)).all()

    @pytest.mark.parametrize("dtype", [np.int32, np.int64])
    @pytest.mark.parametrize("way", WAYS)
    @given(case=small_cases())
    def test_every_way_equals_brute_force(self, way: str, dtype: type, case: Case) -> None:
        payer, payee, companies = case
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cpu, "FEW_FLOWS", 0)
            labels = WAYS[way](payer.astype(dtype), payee.astype(dtype), companies)
        if labels is not None:
            assert labels.dtype == dtype
            assert (labels == by_brute_force(*case)).all()

    @pytest.mark.parametrize("name", GRAPHS.STRUCTURES)
    @pytest.mark.parametrize("companies", [500, 40_000])
    def test_benchmark_graphs_equal_scipy(self, name: str, companies: int) -> None:
        payer, payee = GRAPHS.STRUCTURES[name](np.random.default_rng(7), companies=companies)
        expected = by_scipy(payer, payee, companies)
        assert (strong_components(payer, payee, companies) == expected).all()
        for labels in (way(payer.astype(np.int32), payee.astype(np.int32), companies) for way in WAYS.values()):
            assert labels is None or (labels == expected).all()

    def test_sweeps_serve_the_graphs_they_are_for(self) -> None:
        for name in ("zipf", "uniform", "payments"):
            payer, payee = GRAPHS.STRUCTURES[name](np.random.default_rng(7), companies=40_000)
            assert by_sweeps(payer.astype(np.int32), payee.astype(np.int32), 40_000) is not None

    @pytest.mark.parametrize("shape", SHAPES)
    def test_adversarial_shapes_equal_scipy(self, shape: str) -> None:
        payer, payee, companies = SHAPES[shape]()
        assert (strong_components(payer, payee, companies) == by_scipy(payer, payee, companies)).all()

    @given(small_cases(most_companies=60, most_flows=200))
    def test_a_flow_graph_has_the_components_of_its_arrays(self, case: Case) -> None:
        payer, payee, companies = case
        found = components_of(FlowGraph.from_arrays(payer, payee, companies=companies))
        assert (found.labels == strong_components(*case)).all()

    @pytest.mark.parametrize("name", GRAPHS.STRUCTURES)
    def test_a_large_flow_graph_has_the_components_of_its_arrays(self, name: str) -> None:
        payer, payee = GRAPHS.STRUCTURES[name](np.random.default_rng(8), companies=40_000)
        found = components_of(FlowGraph.from_arrays(payer, payee, companies=40_000))
        assert (found.labels == strong_components(payer, payee, 40_000)).all()


class TestSteps:
    @given(small_cases(most_companies=40, most_flows=120), st.integers(0, 39))
    def test_sweeps_reach_exactly_what_can_be_reached(self, case: Case, hub: int) -> None:
        payer, payee, companies = case
        hub %= companies
        swept = self.swept_from(hub, payer, payee, companies)
        if swept is not None:
            reaches = np.eye(companies, dtype=bool)
            reaches[payer, payee] = True
            for _ in range(companies.bit_length()):
                reaches = (reaches.astype(np.int64) @ reaches) > 0
            assert (swept == reaches[hub]).all()

    def test_sweeps_go_on_after_news_from_the_flows_before_the_turning_point(self) -> None:
        # An eighth of 24 companies is reached within the first four flows; only the first of these then has news (5),
        # and what follows from it (6) lies behind.
        flows = [(4, 5), (0, 1), (1, 2), (2, 4), (5, 6), *[(22, 23)] * 27]
        payer, payee = np.array(flows, np.int32).T.copy()
        swept = self.swept_from(0, payer, payee, 24)
        assert swept is not None
        assert np.flatnonzero(swept).tolist() == [0, 1, 2, 4, 5, 6]

    @staticmethod
    def swept_from(hub: int, payer: Ids, payee: Ids, companies: int) -> Ids | None:
        reached = np.zeros(companies, np.uint8)
        kept = np.empty(payer.size + BLOCK, np.uint32), np.empty(payer.size + BLOCK, np.uint32)
        left = close_by_sweeps(cpu.as_input(payer), cpu.as_input(payee), hub, reached, *kept)
        return None if left == STALLED else reached.view(np.bool_)

    def test_trimming_leaves_the_cycle_and_drops_who_only_pays_or_is_only_paid(self) -> None:
        # Companies 0 to 3 on a cycle, 4 to 7 pay into it, 8 to 11 are paid out of it.
        payer = np.array([0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3], np.int32)
        payee = np.array([1, 2, 3, 0, 0, 1, 2, 3, 8, 9, 10, 11], np.int32)
        left = cpu.trim(cpu.as_input(payer), cpu.as_input(payee), 12)
        assert left is not None
        assert sorted((int(a), int(b)) for chunk in left for a, b in zip(*chunk, strict=True)) == [
            (0, 1),
            (1, 2),
            (2, 3),
            (3, 0),
        ]

    @given(small_cases(most_companies=400, most_flows=120))
    def test_the_index_sorts_flows_by_payer_and_keeps_their_order(self, case: Case) -> None:
        payer, payee, companies = case
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cpu, "FEW_FLOWS", 0)
            chunks = [(cpu.as_input(payer[part]), cpu.as_input(payee[part])) for part in cpu.slices(payer.size)]
            offsets, ends = cpu.index_by_payer(chunks, companies)
        assert offsets.tolist() == [0, *np.cumsum(np.bincount(payer, minlength=companies)).tolist()]
        assert ends.tolist() == payee[np.argsort(payer, kind="stable")].tolist()


class TestLabels:
    def test_zero_is_the_largest_and_ties_go_to_the_smallest_company(self) -> None:
        # {1, 4, 5} is the largest; {0, 7} and {2, 6} tie; 3 and 8 are alone.
        payer = [1, 4, 5, 7, 0, 6, 2, 3]
        payee = [4, 5, 1, 0, 7, 2, 6, 8]
        labels = strong_components(payer, payee)
        assert labels.tolist() == [1, 0, 2, 3, 0, 0, 2, 1, 4]
        assert labels.dtype == np.int32

    @given(small_cases(), st.randoms(use_true_random=False))
    def test_the_order_of_flows_changes_nothing(self, case: Case, random: Any) -> None:
        payer, payee, companies = case
        order = list(range(payer.size))
        random.shuffle(order)
        assert (strong_components(payer[order], payee[order], companies) == strong_components(*case)).all()

    @given(small_cases())
    def test_reversing_all_flows_changes_nothing(self, case: Case) -> None:
        payer, payee, companies = case
        assert (strong_components(payee, payer, companies) == strong_components(*case)).all()

    @pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32, np.uint32, np.int64, np.uint64, ">i4", ">i8"])
    def test_every_integer_type_gives_the_same_labels(self, dtype: Any) -> None:
        rng = np.random.default_rng(5)
        payer, payee = rng.integers(0, 100, 300), rng.integers(0, 100, 300)
        labels = strong_components(payer.astype(dtype), payee.astype(dtype), 100)
        assert labels.dtype == np.int32
        assert (labels == strong_components(payer, payee, 100)).all()

    def test_the_number_of_threads_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        payer, payee = GRAPHS.STRUCTURES["local"](np.random.default_rng(9), companies=40_000)
        expected = strong_components(payer, payee, 40_000)
        for threads in (1, 3, 7):
            cuts = [slice(0, 0)] * threads

            def cut(length: int, cuts: list[slice] = cuts) -> list[slice]:
                return [slice(length * t // len(cuts), length * (t + 1) // len(cuts)) for t in range(len(cuts))]

            monkeypatch.setattr(cpu, "slices", cut)
            assert (strong_components(payer, payee, 40_000) == expected).all()

    def test_input_is_left_as_it_was_and_may_be_read_only_or_strided(self) -> None:
        rng = np.random.default_rng(6)
        flows = rng.integers(0, 20_000, (60_000, 2)).astype(np.int32)
        before = flows.copy()
        flows.flags.writeable = False
        strided = strong_components(flows[:, 0], flows[:, 1], 20_000)
        assert (strided == strong_components(before[:, 0].copy(), before[:, 1].copy(), 20_000)).all()
        assert (flows == before).all()


class TestCounts:
    def test_sizes_and_counts_describe_the_labels(self) -> None:
        found = components_of(FlowGraph.from_arrays([0, 1, 2, 3, 4], [1, 0, 3, 2, 5], companies=7))
        assert found.sizes.tolist() == [2, 2, 1, 1, 1]
        assert (found.count, found.nontrivial, found.largest) == (5, 2, 2)
        assert found.sizes.tolist() == np.bincount(found.labels).tolist()

    def test_a_graph_without_companies_has_no_component(self) -> None:
        found = components_of(FlowGraph.from_arrays(np.empty(0, np.int64), np.empty(0, np.int64)))
        assert (found.count, found.nontrivial, found.largest) == (0, 0, 0)
        assert strong_components([], []).size == 0

    def test_companies_without_flows_are_components_of_their_own(self) -> None:
        assert strong_components([], [], companies=3).tolist() == [0, 1, 2]
        assert strong_components([1], [1], companies=3).tolist() == [0, 1, 2]


def check(graph: FlowGraph, found: Components, proof: ComponentCertificate) -> None:
    """Check a certificate against its definition, company by company."""
    flows = set(zip(graph.payer.tolist(), graph.payee.tolist(), strict=True))
    smallest = {int(label): int(company) for company, label in reversed(list(enumerate(found.labels)))}
    for company, label in enumerate(found.labels.tolist()):
        depths = proof.next_depth[company], proof.from_depth[company]
        following, previous = int(proof.next_to_root[company]), int(proof.next_from_root[company])
        if label >= found.nontrivial:
            assert depths == (-1, -1) and (following, previous) == (-1, -1)
        elif company == smallest[label]:
            assert depths == (0, 0) and (following, previous) == (-1, -1)
        else:
            assert (company, following) in flows and (previous, company) in flows
            assert found.labels[following] == label == found.labels[previous]
            assert depths == (proof.next_depth[following] + 1, proof.from_depth[previous] + 1)
    between = found.labels[graph.payer] != found.labels[graph.payee]
    from_rank, to_rank = proof.rank[found.labels[graph.payer]], proof.rank[found.labels[graph.payee]]
    assert (from_rank[between] < to_rank[between]).all()
    assert proof.rank.shape == (found.count,) and proof.rank.dtype == np.int64


class TestCertificate:
    @given(small_cases(most_companies=30, most_flows=90))
    def test_trees_reach_the_root_over_real_flows_and_ranks_rise(self, case: Case) -> None:
        payer, payee, companies = case
        graph = FlowGraph.from_arrays(payer, payee, companies=companies)
        found = components_of(graph)
        check(graph, found, certify(graph, found))

    @pytest.mark.parametrize("name", GRAPHS.STRUCTURES)
    def test_large_graphs_are_certified(self, name: str) -> None:
        payer, payee = GRAPHS.STRUCTURES[name](np.random.default_rng(4), companies=20_000)
        graph = FlowGraph.from_arrays(payer, payee, companies=20_000)
        found = components_of(graph)
        check(graph, found, certify(graph, found))

    def test_depths_are_shortest_and_ranks_count_the_longest_chain(self) -> None:
        # {0, 1, 2} with a shortcut 0 -> 2; then 2 -> 3 -> 4 and 2 -> 4.
        graph = FlowGraph.from_arrays([0, 1, 2, 0, 2, 3, 2], [1, 2, 0, 2, 3, 4, 4])
        proof = certify(graph, components_of(graph))
        assert proof.next_to_root.tolist() == [-1, 2, 0, -1, -1]
        assert proof.next_depth.tolist() == [0, 2, 1, -1, -1]
        assert proof.next_from_root.tolist() == [-1, 0, 0, -1, -1]
        assert proof.from_depth.tolist() == [0, 1, 1, -1, -1]
        assert proof.rank.tolist() == [0, 1, 2]

    def test_a_path_of_a_million_has_a_million_ranks(self) -> None:
        payer, payee, companies = path(1_000_000)
        graph = FlowGraph.from_arrays(payer, payee, companies=companies)
        assert (certify(graph, components_of(graph)).rank == np.arange(companies)).all()

    def test_components_of_another_graph_are_refused(self) -> None:
        graph = FlowGraph.from_arrays([0, 1, 2], [1, 2, 3])
        cyclic = FlowGraph.from_arrays([0, 1, 2, 3], [1, 0, 3, 2])
        with pytest.raises(UsageError, match="not the components of this graph"):
            certify(graph, components_of(cyclic))
        with pytest.raises(UsageError, match="4 of 4 components lie on cycles"):
            certify(cyclic, components_of(graph))
        with pytest.raises(UsageError, match=r"hold 2 companies and the graph 4"):
            certify(graph, components_of(FlowGraph.from_arrays([0], [1])))


class TestBadInput:
    @pytest.mark.parametrize(
        ("payer", "payee", "message"),
        [
            ([0, 1], [1], "payer has 2 ids and payee 1: every flow needs one payer and one payee"),
            ([0, -5], [1, 2], r"payer\[1\] is -5: company ids start at 0"),
            ([0, 1], np.array([3, -(2**40)]), r"payee\[1\] is -1099511627776: company ids start at 0"),
            ([0.0, 1.0], [1, 2], "payer must hold integer company ids, got float64"),
            ([0, 1], ["a", "b"], "payee must hold integer company ids, got <U1"),
            ([True], [False], "payer must hold integer company ids, got bool"),
            ([[0, 1]], [[1, 0]], r"payer must be a one-dimensional array of company ids, got shape \(1, 2\)"),
            (3, [1], r"payer must be a one-dimensional array of company ids, got shape \(\)"),
            (np.array([2**63], np.uint64), [1], "payer holds the id 9223372036854775808, past the range of int64"),
        ],
    )
    def test_bad_ids_are_named(self, payer: Any, payee: Any, message: str) -> None:
        with pytest.raises(InputError, match=message):
            strong_components(payer, payee)

    def test_ids_must_be_below_the_number_of_companies(self) -> None:
        with pytest.raises(InputError, match=r"payee\[2\] is 9, but with companies=5 ids must be below 5"):
            strong_components([0, 1, 2], [3, 4, 9], companies=5)

    @pytest.mark.parametrize(
        ("companies", "message"), [(-1, "must not be negative, got -1"), (2.5, "must be an integer, got 2.5")]
    )
    def test_the_number_of_companies_must_make_sense(self, companies: Any, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            strong_components([0], [1], companies=companies)


def peak_bytes(job: Callable[[], object]) -> int:
    job()
    tracemalloc.start()
    try:
        job()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class TestCost:
    @pytest.mark.parametrize("name", [*GRAPHS.STRUCTURES, "two-cycles", "cliques", "path"])
    def test_memory_stays_within_what_the_stage_states(self, name: str) -> None:
        shapes = {"two-cycles": two_cycles(100_000), "cliques": dense_cliques(20_000, 10), "path": path(200_000)}
        companies = 200_000
        if name in shapes:
            payer, payee, companies = shapes[name]
        else:
            payer, payee = GRAPHS.STRUCTURES[name](np.random.default_rng(3), companies=companies)
        payer, payee = payer.astype(np.int32), payee.astype(np.int32)
        stated = cpu.BYTES_PER_FLOW * payer.size + cpu.BYTES_PER_COMPANY * companies
        assert peak_bytes(lambda: strong_components(payer, payee, companies)) <= stated

    def test_memory_of_the_certificate_stays_within_what_it_states(self) -> None:
        payer, payee = GRAPHS.STRUCTURES["payments"](np.random.default_rng(3), companies=200_000)
        graph = FlowGraph.from_arrays(payer, payee, companies=200_000)
        found = components_of(graph)
        assert peak_bytes(lambda: certify(graph, found)) <= cpu_certificate.BYTES_PER_COMPANY * 200_000

    def test_the_hub_of_a_star_with_returns_is_its_middle(self) -> None:
        payer, payee, companies = star(1_001)
        counts = np.zeros(companies, np.uint8), np.zeros(companies, np.uint8)
        assert busiest_company(cpu.as_input(payer), cpu.as_input(payee), *counts) == 0
        assert not counts[0].any() and not counts[1].any()

    def test_the_door_loads_no_compiler(self) -> None:
        code = "import sys, ouroflow.components; sys.exit('numba' in sys.modules)"
        subprocess.run([sys.executable, "-c", code], check=True)
