"""Strong components on a GPU: the whole control flow in the host lane, with labels equal to the CPU twin's on every way."""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ouroflow.components import cpu, gpu
from ouroflow.components.gpu_kernels import DOUBLE_PATHS
from ouroflow.errors import ResourceError
from ouroflow.runtime.launch import Kernel
from simt.host import HostAccelerator, NumpyAccelerator
from test_components import GRAPHS, Case, Ids, complete, cycle, dense_cliques, path, small_cases, star, two_cycles

pytestmark = pytest.mark.host

ON_DEVICE = gpu.Plan(host_tail=0)
"""Nothing is left to the CPU twin."""


class CountingAccelerator(HostAccelerator):
    """The host lane, with the flows read by each launch."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.reads: list[tuple[str, int]] = []

    def launch(self, kernel: Kernel, threads: int, *arguments: Any, blocks: int | None = None) -> None:
        before = self.touched_edges[kernel.name]
        super().launch(kernel, threads, *arguments, blocks=blocks)
        self.reads.append((kernel.name, self.touched_edges[kernel.name] - before))


def labels_of(case: Case, plan: gpu.Plan = ON_DEVICE, on: HostAccelerator | None = None, dtype: type = np.int32) -> Ids:
    """Label on the accelerator, and hold labels and sizes against the CPU twin."""
    payer, payee, companies = case
    payer, payee = np.ascontiguousarray(payer, dtype), np.ascontiguousarray(payee, dtype)
    on = on or HostAccelerator()
    labels, sizes = gpu.components_of_flows(on, on.to_device(payer), on.to_device(payee), companies, plan=plan)
    expected_labels, expected_sizes = cpu.components_of_flows(payer, payee, companies)
    assert labels.dtype == dtype
    assert sizes.dtype == np.int64
    found = on.to_host(labels)
    assert (found == expected_labels).all()
    assert sizes.tolist() == expected_sizes.tolist()
    return found


def structure(name: str, companies: int, seed: int = 7) -> Case:
    payer, payee = GRAPHS.STRUCTURES[name](np.random.default_rng(seed), companies=companies)
    return payer, payee, companies


def indexes(on: HostAccelerator, case: Case, dtype: type = np.int32) -> tuple[gpu.Index, gpu.Index]:
    """Index flows both ways on the accelerator, self-flows included."""
    payer, payee, companies = case
    both = []
    for first, second in ((payer, payee), (payee, payer)):
        offsets = np.searchsorted(np.sort(first), np.arange(companies + 1)).astype(np.int64)
        ends = second[np.argsort(first, kind="stable")].astype(dtype)
        both.append((on.to_device(offsets), on.to_device(ends)))
    return both[0], both[1]


def joined(*cases: Case) -> Case:
    """Put graphs side by side."""
    first = np.cumsum([0] + [companies for _, _, companies in cases])
    payer = np.concatenate([case[0] + start for case, start in zip(cases, first[:-1], strict=True)])
    payee = np.concatenate([case[1] + start for case, start in zip(cases, first[:-1], strict=True)])
    return payer, payee, int(first[-1])


def with_flows(case: Case, *flows: tuple[int, int]) -> Case:
    payer, payee = np.array(flows).T
    return np.concatenate([case[0], payer]), np.concatenate([case[1], payee]), case[2]


def ladder(rungs: int) -> Case:
    """Two paths side by side, each company also paying the next on the other side: a deep graph without cycles."""
    company = np.arange(2 * rungs - 2)
    along = company + 2
    across = along ^ 1
    return np.concatenate([company, company]), np.concatenate([along, across]), 2 * rungs


def random_order(case: Case) -> Case:
    order = np.random.default_rng(3).permutation(case[2])
    return order[case[0]], order[case[1]], case[2]


def hubs(leaves: int) -> Case:
    """Two companies that pay and are paid by hundreds of others, with rows longer than a block."""
    leaf = np.arange(2, leaves + 2)
    payer = np.concatenate(
        [np.zeros(leaves, np.int64), leaf[: leaves // 2], leaf[leaves // 2 :], np.ones(leaves, np.int64)]
    )
    payee = np.concatenate([leaf, np.zeros(leaves // 2, np.int64), np.ones(leaves - leaves // 2, np.int64), leaf])
    return payer, payee, leaves + 2


def forward_only(companies: int) -> Case:
    payer, payee = np.random.default_rng(4).integers(0, companies, (2, 4 * companies))
    return np.minimum(payer, payee), np.maximum(payer, payee), companies


EMPTY = np.empty(0, np.int64)
SHAPES: dict[str, Callable[[], Case]] = {
    "no company": lambda: (EMPTY, EMPTY, 0),
    "one company": lambda: (EMPTY, EMPTY, 1),
    "no flow": lambda: (EMPTY, EMPTY, 100),
    "one self-flow": lambda: (np.zeros(1, np.int64), np.zeros(1, np.int64), 1),
    "self-flows only": lambda: (np.arange(1000), np.arange(1000), 1000),
    "one flow many times": lambda: (np.zeros(3000, np.int64), np.ones(3000, np.int64), 2),
    "one two-cycle many times": lambda: (np.arange(3000) % 2, np.arange(1, 3001) % 2, 2),
    "a cycle": lambda: cycle(5000),
    "a cycle in order of ids": lambda: (np.arange(5000), (np.arange(5000) + 1) % 5000, 5000),
    "a path": lambda: path(5000),
    "a path in random order": lambda: random_order(path(5000)),
    "a path into a cycle and out of it": lambda: with_flows(
        joined(path(700), cycle(900), path(600)), (699, 700), (800, 1600)
    ),
    "two cycles, one paying the other": lambda: with_flows(joined(cycle(900), cycle(800)), (5, 905), (17, 1300)),
    "two cycles and a path between": lambda: with_flows(
        joined(cycle(900), path(400), cycle(800)), (5, 900), (1299, 1400)
    ),
    "a ladder": lambda: random_order(ladder(600)),
    "a ladder between cycles": lambda: with_flows(joined(cycle(90), ladder(300), cycle(80)), (5, 90), (689, 700)),
    "a star": lambda: star(3001),
    "two hubs": lambda: hubs(1500),
    "two hubs, and many small components": lambda: joined(hubs(1500), two_cycles(1000)),
    "thousands of two-cycles": lambda: two_cycles(3000),
    "cliques": lambda: dense_cliques(200, 6),
    "a complete graph": lambda: complete(70),
    "no cycle at all": lambda: random_order(forward_only(2000)),
}

EAGER = gpu.Plan(small_rows=0, small_flows=0, host_tail=0)
PLANS = {
    "as it comes": gpu.Plan(),
    "all on the device": ON_DEVICE,
    "no small frontiers": EAGER,
    "chains soon": gpu.Plan(trim_rounds=1, small_rounds=2, host_tail=0),
    "no trimming but at the beginning": gpu.Plan(trim_rounds=0, chain_rounds=0, host_tail=0),
    "push only": dataclasses.replace(EAGER, pull_ratio=0, levels=300),
    "pull only": dataclasses.replace(EAGER, pull_ratio=10**9, levels=300),
    "pull only, rows soon too long": dataclasses.replace(EAGER, pull_ratio=10**9, levels=300, long_row=2),
    "searches given up at once": gpu.Plan(levels=0, host_tail=0),
    "the second search given up": gpu.Plan(small_rounds=3, levels=3, host_tail=0),
    "signatures by passes only": gpu.Plan(levels=0, doubling_every=10**9, signature_passes=10**6, host_tail=0),
    "signatures given up": gpu.Plan(levels=0, signature_passes=2, host_tail=0),
    "one round of signatures": gpu.Plan(levels=0, signature_rounds=1, host_tail=0),
    "no signatures": gpu.Plan(levels=0, signature_rounds=0),
    "sweeps to the end": gpu.Plan(levels=0, sweep_worth=0, trim_rounds=0, chain_rounds=0, host_tail=0),
}


class TestSameAsTheCpuTwin:
    @pytest.mark.parametrize("dtype", [np.int32, np.int64])
    @pytest.mark.parametrize("plan", ["as it comes", "all on the device"])
    @pytest.mark.parametrize("name", GRAPHS.STRUCTURES)
    def test_benchmark_graphs(self, name: str, plan: str, dtype: type) -> None:
        labels_of(structure(name, 20_000), PLANS[plan], dtype=dtype)

    @pytest.mark.parametrize("plan", PLANS)
    @pytest.mark.parametrize("name", GRAPHS.STRUCTURES)
    def test_benchmark_graphs_on_every_way(self, name: str, plan: str) -> None:
        labels_of(structure(name, 2_000), PLANS[plan])

    @pytest.mark.parametrize("dtype", [np.int32, np.int64])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_shapes(self, shape: str, dtype: type) -> None:
        labels_of(SHAPES[shape](), dtype=dtype)

    @pytest.mark.parametrize("plan", PLANS)
    def test_shapes_on_every_way(self, plan: str) -> None:
        for shape in SHAPES.values():
            labels_of(shape(), PLANS[plan])

    @given(small_cases(most_companies=60, most_flows=120), st.sampled_from(sorted(PLANS)))
    @settings(max_examples=100)
    def test_random_graphs_on_every_way(self, case: Case, plan: str) -> None:
        labels_of(case, PLANS[plan])

    @given(st.integers(0, 2**32), st.integers(2, 800), st.floats(0.5, 3), st.sampled_from(sorted(PLANS)))
    @settings(max_examples=40)
    def test_random_graphs_past_a_warp(self, seed: int, companies: int, density: float, plan: str) -> None:
        rng = np.random.default_rng(seed)
        payer, payee = rng.integers(0, companies, (2, int(density * companies)))
        labels_of((payer, payee, companies), PLANS[plan])

    @given(small_cases(most_companies=40, most_flows=100), st.sampled_from([np.int32, np.int64]))
    @settings(max_examples=50)
    def test_indexes_with_self_flows_and_parallel_flows(self, case: Case, dtype: type) -> None:
        on = HostAccelerator()
        labels, sizes = gpu.components_of_indexes(on, *indexes(on, case, dtype), plan=ON_DEVICE)
        expected_labels, expected_sizes = cpu.components_of_flows(case[0], case[1], case[2])
        assert labels.dtype == dtype
        assert (on.to_host(labels) == expected_labels).all()
        assert sizes.tolist() == expected_sizes.tolist()

    @pytest.mark.parametrize("workers", [1, 2, 4])
    @pytest.mark.parametrize("resident_threads", [256, 1024, 65_536])
    @pytest.mark.parametrize("name", ["payments", "long_cycle", "local"])
    def test_whatever_runs_at_a_time(self, name: str, resident_threads: int, workers: int) -> None:
        on = HostAccelerator(resident_threads=resident_threads, workers=workers)
        labels_of(structure(name, 3_000), ON_DEVICE, on)

    def test_the_same_on_repetition(self) -> None:
        case = structure("local", 5_000)
        first = labels_of(case)
        assert all((labels_of(case, on=HostAccelerator(workers=4)) == first).all() for _ in range(3))


def launches(case: Case, plan: gpu.Plan = ON_DEVICE, **settings: Any) -> Counter[str]:
    on = HostAccelerator(**settings)
    labels_of(case, plan, on)
    return on.launches


class TestWays:
    """Each plan above takes the way that it is named after."""

    def test_what_has_no_cycle_is_trimmed_and_nothing_else(self) -> None:
        ran = launches(random_order(forward_only(2000)), EAGER)
        assert ran["release_rows"] > 1
        assert ran["push_level"] == ran["pull_level"] == ran["list_members"] == 0

    def test_small_frontiers_go_on_in_one_launch(self) -> None:
        assert launches(path(200))["release_small"] == 1
        assert launches(cycle(200))["push_small"] == 2

    def test_a_long_path_goes_by_its_chain(self) -> None:
        ran = launches(random_order(path(50_000)))
        assert ran["cut_chains"] > 0
        assert ran["push_small"] == ran["list_members"] == 0
        assert ran.total() < 60

    @pytest.mark.parametrize(("turned", "links"), [(False, "only payer"), (True, "only payee")])
    def test_chains_are_cut_in_both_directions(self, turned: bool, links: str) -> None:
        # A tree of long paths: everybody has one payer (or, turned round, one payee) but many on the other side.
        company = np.arange(1, 20_000)
        payer, payee = (company - 1) // 50 * 50 * (company % 50 == 1) + (company - 1) * (company % 50 != 1), company
        flows = (payee, payer) if turned else (payer, payee)
        plan = gpu.Plan(trim_rounds=1, small_rounds=2, host_tail=0)
        ran = launches((*flows, 20_000), plan)
        assert ran["cut_chains"] > 0, links
        assert ran["list_members"] == 0

    def test_levels_are_pushed_or_pulled(self) -> None:
        case = structure("uniform", 3_000)
        pushed, pulled = launches(case, PLANS["push only"]), launches(case, PLANS["pull only"])
        assert pushed["push_level"] > 0 and pushed["pull_level"] == 0
        assert pulled["pull_level"] > 0 and pulled["push_level"] == 0
        as_it_comes = launches(case)
        assert as_it_comes["pull_level"] > 0 and as_it_comes["push_small"] > 0

    def test_long_rows_are_pulled_flow_by_flow(self) -> None:
        assert launches(hubs(1500), PLANS["pull only, rows soon too long"])["pull_long_rows"] > 0
        assert launches(hubs(1500), PLANS["pull only"])["pull_long_rows"] == 0

    def test_a_search_that_takes_too_long_is_given_up(self) -> None:
        ran = launches(structure("long_cycle", 20_000))
        assert ran["push_small"] == 1 and ran["name_members"] == 0
        assert ran["spread_signatures"] > 0

    def test_a_search_that_fails_one_way_still_splits_the_rest(self) -> None:
        # The dense hub reaches a long cycle and is paid by a long path out of another: forward takes few levels.
        dense = complete(40)
        case = with_flows(joined(dense, cycle(3000)), (5, 100), (200, 6))
        ran = launches(case, gpu.Plan(small_rounds=16, host_tail=0))
        assert ran["push_small"] >= 1 and ran["name_members"] == 0 and ran["spread_signatures"] > 0

    def test_the_rest_is_settled_by_signatures_or_on_the_host(self) -> None:
        case = two_cycles(500)
        assert launches(case)["spread_signatures"] > 0
        assert launches(case, gpu.Plan())["spread_signatures"] == 0

    def test_signatures_that_take_too_long_are_left_to_the_host(self) -> None:
        assert launches(structure("local", 5_000), PLANS["signatures given up"])["spread_signatures"] == 2
        assert launches(structure("local", 5_000), PLANS["one round of signatures"])["begin_signatures"] == 1

    def test_chains_of_the_rest_go_at_once(self) -> None:
        # A path between two cycles is no chain of the whole graph; it is one as soon as the larger cycle is out.
        ran = launches(with_flows(joined(complete(60), path(200), complete(20)), (5, 60), (259, 260)))
        assert ran["name_members"] > 0 and ran["jump_links"] > 0
        assert ran["begin_signatures"] == 1 and ran["spread_signatures"] < 20

    def test_a_large_graph_is_searched_along_a_longer_path(self) -> None:
        case = with_flows(joined(complete(60), path(2000)), (5, 60), (2059, 7))
        assert launches(case)["name_members"] == 0
        assert launches(case, dataclasses.replace(ON_DEVICE, patience=100))["name_members"] == 1


class TestSteps:
    def test_doubling_carries_signatures_along_a_whole_path_both_ways(self) -> None:
        places, on = 3000, NumpyAccelerator()
        number = np.random.default_rng(5).permutation(places)
        reached_by, reaches, spare = number.copy(), number.copy(), np.empty(places, np.int64)
        up = np.maximum(np.arange(places) - 1, 0)
        for _ in range(places.bit_length()):
            on.launch(DOUBLE_PATHS, places, up, spare, places, reached_by, reaches)
            up, spare = spare, up
        assert (reached_by == np.maximum.accumulate(number)).all()
        assert (reaches == np.maximum.accumulate(number[::-1])[::-1]).all()


GIANT = ("zipf", "uniform", "payments")
INDEXING = ("pack_flows", "unpack_flows")
TRIMMING = ("release_rows", "release_small", "link_chains")


def counted(case: Case, plan: gpu.Plan = ON_DEVICE) -> CountingAccelerator:
    on = CountingAccelerator(resident_threads=16_384)
    labels_of(case, plan, on)
    return on


class TestTraffic:
    @pytest.mark.parametrize("name", GRAPHS.STRUCTURES)
    def test_trimming_reads_no_flow_more_than_twice(self, name: str) -> None:
        case = structure(name, 20_000)
        assert sum(flows for kernel, flows in counted(case).reads if kernel in TRIMMING) <= 2 * case[0].size

    @pytest.mark.parametrize("name", GIANT)
    def test_what_trimming_leaves_is_read_at_most_one_and_a_half_times(self, name: str) -> None:
        case = structure(name, 20_000)
        later = [flows for kernel, flows in counted(case).reads if kernel not in (*TRIMMING, *INDEXING)]
        assert sum(later) <= 1.5 * case[0].size

    def test_the_long_cycle_takes_few_passes(self) -> None:
        for seed in range(3):
            assert counted(structure("long_cycle", 50_000, seed)).launches["spread_signatures"] <= 40

    def test_no_round_of_trimming_or_searching_reads_all_flows(self) -> None:
        # A path and a ladder as deep as they are large, a cycle that no search can go around: what rounds cost altogether
        # stays within a few times the flows.
        for case in (random_order(path(20_000)), random_order(ladder(10_000)), cycle(20_000)):
            reads = [
                flows
                for kernel, flows in counted(case).reads
                if kernel.startswith(("release", "push", "pull", "link_chains"))
            ]
            assert sum(reads) <= 5 * case[0].size

    def test_the_host_waits_a_few_times_however_large_the_graph(self) -> None:
        for name in GIANT:
            assert counted(structure(name, 20_000), gpu.Plan()).synchronisations.total() <= 50
        assert counted(structure("long_cycle", 50_000), gpu.Plan(host_tail=0)).synchronisations.total() <= 100


class TestMemory:
    @pytest.mark.parametrize("dtype", [np.int32, np.int64])
    @pytest.mark.parametrize("name", [*GRAPHS.STRUCTURES, "two-cycles"])
    def test_no_more_than_is_stated(self, name: str, dtype: type) -> None:
        case = two_cycles(20_000) if name == "two-cycles" else structure(name, 40_000)
        on = HostAccelerator()
        outgoing, incoming = indexes(on, case, dtype)
        plan = gpu.Plan(host_tail=0)
        gpu.components_of_indexes(on, outgoing, incoming, plan=plan)
        tracemalloc.start()
        gpu.components_of_indexes(on, outgoing, incoming, plan=plan)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        size, flows, (_, _, companies) = np.dtype(dtype).itemsize, case[0].size, case
        search, rest = (3 * size + 38) * companies, (7 * size + 6) * companies + 4 * size * flows
        assert peak <= 1.02 * (search if name in (*GIANT, "local") else max(search, rest))

    def test_too_little_memory_is_said_before_anything_is_taken(self) -> None:
        case = structure("uniform", 2_000)
        with pytest.raises(ResourceError, match="indexes of 10000 flows"):
            labels_of(case, on=HostAccelerator(memory=100_000))
        on = HostAccelerator(memory=90_000)
        with pytest.raises(ResourceError, match="components of 2000 companies"):
            gpu.components_of_indexes(on, *indexes(on, case))
        on = HostAccelerator(memory=10_000)
        with pytest.raises(ResourceError, match="4900 flows of companies outside"):
            gpu.components_of_indexes(on, *indexes(on, complete(70)), plan=gpu.Plan(levels=0))
