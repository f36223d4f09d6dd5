"""Round trips: walks, panel push and the exact method beside their peers, in turns in one run.

Run as ``python bench/bench_roundtrip.py [PART ...]``; the part exact_large takes minutes and 8 GB and is run only when named.

Exact: `ours` is `exact_returns` on the giant component, `door` the whole of `round_trip_fractions` from the graph on;
NumPy inverts the same I - P, which takes a minute. Walks: the plain walker stands below: the same generator, strata and
int64 amounts, one walk after the other, bisection in a running sum of each row. Prototypes stand in the project's
shared folder; without it their columns are left out.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import get_num_threads, njit, prange
from scipy.sparse import csr_matrix

from graphs import power_law, structure
from harness import interleaved, prototype, write_result
from ouroflow.components import components_of
from ouroflow.graph import FlowGraph
from ouroflow.roundtrip import round_trip_fractions
from ouroflow.roundtrip.cpu_exact import ExactReturns, exact_returns
from ouroflow.roundtrip.cpu_walks import alias_table, lay_money, philox
from ouroflow.roundtrip.push import push_returns
from ouroflow.roundtrip.walks import walk_companies, walk_returns, walk_sample

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

REPEATS = 7
EXACT_REPEATS = 3
COMPANIES, FLOWS = 10_000, 100_000
LARGE_COMPANIES, LARGE_FLOWS = 100_000, 1_000_000
SEED = 1
TIMES_NUMPY = 50.0
"""What the exact method has promised: so many times faster than the dense inverse, and no slower than the prototype."""
WALKS = 4_000_000
HORIZON = 4096
LEAST_TIMES_PLAIN = 2.5
MOST_OF_COMPONENTS = {"fraction": 1.0, "top_100": 10.0}
"""What this room has promised: walks against a plain walker, and stages as a multiple of the components stage."""


@njit(cache=True)
def draw(seed: np.uint64, walk: int, number: int) -> np.uint64:
    low = np.uint64(0xFFFFFFFF)
    a, b, _, _ = philox(
        np.uint64(walk) & low,
        np.uint64(walk) >> np.uint64(32),
        np.uint64(number),
        np.uint64(0),
        seed & low,
        seed >> np.uint64(32),
    )
    return (a << np.uint64(32)) | b


@njit(cache=True)
def place_of(value: np.int64, running: Int64s, low: int, high: int) -> int:
    """Return the first place in low..high whose running sum passes a value."""
    while low < high:
        middle = (low + high) // 2
        if running[middle] > value:
            high = middle
        else:
            low = middle + 1
    return low


@njit(cache=True, parallel=True)
def plain_binary_walks(
    offsets: Int64s,
    payee: npt.NDArray[np.int32],
    payer: npt.NDArray[np.int32],
    money: Int64s,
    running: Int64s,
    throughflow: Int64s,
    walks: int,
    seed: np.uint64,
    threads: int,
) -> int:
    """Walk one after the other, each step a bisection in the running sum of its row; return how many came back.

    `money` is the running sum over all flows (for the starts), `running` starts anew in each row.
    """
    hits = np.zeros(threads, np.int64)
    for thread in prange(threads):
        returned = 0
        flow = -1
        for walk in range(walks * thread // threads, walks * (thread + 1) // threads):
            fraction = np.float64(draw(seed, walk, 0) >> np.uint64(11)) * 2.0**-53
            position = np.int64((walk + fraction) * (money[-1] / walks))
            if flow < 0:
                flow = place_of(position, money, 0, len(money) - 1)
            while money[flow] <= position and flow < len(money) - 1:
                flow += 1
            company = payee[flow]
            for step in range(1, HORIZON):
                fraction = np.float64(draw(seed, walk, step) >> np.uint64(11)) * 2.0**-53
                drawn = np.int64(fraction * throughflow[company])
                end = offsets[company + 1]
                if end == offsets[company] or drawn >= running[end - 1]:
                    break
                company = payee[place_of(drawn, running, offsets[company], end - 1)]
                if company == payer[flow]:
                    returned += 1
                    break
        hits[thread] = returned
    return hits.sum()


def plain_walker(graph: FlowGraph, walks: int) -> Callable[[], int]:
    money = np.cumsum(graph.amount)
    before = np.concatenate([[0], money])[graph.out_offsets[:-1]]
    running = money - before[graph.payer]
    arrays = (graph.out_offsets, graph.payee, graph.payer, money, running, graph.throughflow)
    return lambda: int(plain_binary_walks(*arrays, walks, np.uint64(7), get_num_threads()))


def prototype_walkers(graph: FlowGraph, walks: int) -> dict[str, Callable[[], object]]:
    """Return the prototype's plain and lockstep walker, nothing where the shared folder is missing."""
    module = prototype("walks")
    if module is None:
        return {}
    offsets, payee, amount = (np.array(part) for part in (graph.out_offsets, graph.payee, graph.amount))
    payer, through, money, seed = np.array(graph.payer), np.array(graph.throughflow), np.cumsum(amount), np.uint64(7)
    thresholds = module.cumtab(offsets, amount, through)
    rows, slots = module.alias(offsets, payee, amount, through)
    threads = get_num_threads()
    scan = (offsets, payee, thresholds, payer, money, walks, 200, seed, 1)
    lock = (rows, slots, payee, payer, money, walks, 200, seed)
    return {
        "prototype_binary": lambda: module.walk_scan(*scan, 0, threads),
        "prototype_binary_philox": lambda: module.walk_scan(*scan, 1, threads),
        "prototype_lockstep": lambda: module.walk_lock(*lock, 0, threads, 64),
        "prototype_lockstep_philox": lambda: module.walk_lock(*lock, 1, threads, 64),
    }


def measure_steps() -> dict[str, Any]:
    """Time the walkers alone, tables built before, on 100,000 companies and a million flows."""
    graph = FlowGraph.from_arrays(*power_law(100_000, 1_000_000, 1), companies=100_000)
    labels = components_of(graph).labels
    layout = lay_money(graph, labels)
    table = alias_table(layout)
    plain = plain_walker(graph, WALKS)
    tally = walk_sample(layout, WALKS, seed=7, table=table)
    expected = tally.hits * layout.laid / graph.total
    assert abs(plain() - expected) < 6 * np.sqrt(2 * expected + 9), "the walkers disagree"
    jobs: dict[str, Callable[[], object]] = {
        "ours_lockstep": lambda: walk_sample(layout, WALKS, seed=7, table=table),
        "ours_without_tables": lambda: walk_sample(layout, WALKS, seed=7),
        "plain_binary": plain,
        **prototype_walkers(graph, WALKS),
        "ours_layout": lambda: lay_money(graph, labels),
        "ours_alias_table": lambda: alias_table(layout),
    }
    seconds = interleaved(jobs, REPEATS)
    ratio = seconds["plain_binary"] / seconds["ours_lockstep"]
    report(seconds)
    print(f"{tally.steps / seconds['ours_lockstep'] / 1e6:.0f} million steps a second; {ratio:.2f}x the plain walker")
    print(f"promised: {LEAST_TIMES_PLAIN}x: {'kept' if ratio >= LEAST_TIMES_PLAIN else 'MISSED'}")
    return {
        "graph": "power_law(100k, 1M)",
        "walks": WALKS,
        "steps": tally.steps,
        "seconds": seconds,
        "times_plain": ratio,
    }


def measure_payments(amounts: str) -> dict[str, Any]:
    """Time fraction and top 100 to 1e-3 beside the components stage, on 1M companies and 5M payments."""
    payer, payee = structure("payments")
    amount = None
    if amounts == "lognormal":
        drawn = np.random.default_rng(7).lognormal(7, 2, payer.size)
        amount = np.maximum(1, np.rint(drawn)).astype(np.int64)
    graph = FlowGraph.from_arrays(payer, payee, amount, companies=1_000_000)
    found = components_of(graph)
    labels, _ = found.labels, graph.throughflow  # the throughflow belongs to the graph stage: every measure needs it
    payers = np.argsort(-graph.paid, kind="stable")
    top = payers[:100]
    top_inside = payers[labels[payers] == 0][:100]
    pushed, walked = push_returns(graph, labels, top_inside), walk_companies(graph, labels, top_inside, seed=1)
    agree = (walked.low <= pushed.high) & (pushed.low <= walked.high)
    assert agree.mean() >= 0.95, "walks and push disagree"
    jobs: dict[str, Callable[[], object]] = {
        "components": lambda: components_of(graph),
        "fraction": lambda: walk_returns(graph, labels, seed=1).fraction(),
        "top_100_walks": lambda: walk_companies(graph, labels, top, seed=1),
        "top_100_push": lambda: push_returns(graph, labels, top),
        "top_100_of_the_largest_component_walks": lambda: walk_companies(graph, labels, top_inside, seed=1),
        "top_100_of_the_largest_component_push": lambda: push_returns(graph, labels, top_inside),
    }
    seconds = interleaved(jobs, REPEATS)
    report(seconds)
    base = seconds["components"]
    for name in list(jobs)[1:]:
        limit = MOST_OF_COMPONENTS["fraction" if name == "fraction" else "top_100"]
        verdict = "kept" if seconds[name] <= limit * base else "MISSED"
        print(f"{name}: {seconds[name] / base:.2f}x the components stage (promised {limit:g}x): {verdict}")
    figure = walk_returns(graph, labels, seed=1)
    return {
        "graph": f"payments, {amounts} amounts",
        "seconds": seconds,
        "fraction": figure.fraction().as_dict(),
        "walks": figure.walks,
        "walks_of_the_top_100": int(walked.walks.sum()),
        "hops_pushed": int(pushed.hops.max()),
        "largest_fraction_of_the_top_100": float(pushed.high.max()),
    }


def flow_graph(companies: int, flows: int) -> FlowGraph:
    return FlowGraph.from_arrays(*power_law(companies, flows, SEED), companies=companies)


def measure_exact() -> dict[str, Any]:
    """Solve the giant component of 10,000 companies and 100,000 flows, beside its dense inverse and the prototype."""
    graph = flow_graph(COMPANIES, FLOWS)
    components = components_of(graph)
    intra = graph.intra(components.labels)
    size = int(intra.company_offsets[1])
    offsets = intra.flow_offsets[: size + 1]
    payee, amount = intra.payee[: offsets[-1]], intra.amount[: offsets[-1]]
    through = graph.throughflow[intra.company[:size]]
    payer = np.repeat(np.arange(size), np.diff(offsets))
    moves = csr_matrix((amount / through[payer], (payer, payee)), shape=(size, size))
    singular = np.eye(size) - moves.toarray()
    found: dict[str, Floats] = {}

    def ours() -> None:
        solved = exact_returns(offsets, payee, amount, through)
        assert isinstance(solved, ExactReturns)
        found["ours"] = solved.company

    def door() -> None:
        round_trip_fractions(graph, components, tolerance=0)

    jobs: dict[str, Callable[[], object]] = {"ours": ours, "door": door}
    if (sketch := prototype("returns")) is not None:

        def peer() -> None:
            found["prototype"] = sketch.exact(moves)[0]

        jobs["prototype"] = peer
    seconds = interleaved(jobs, EXACT_REPEATS)
    # One run without a rehearsal: there is nothing to compile, and a minute is enough.
    start = time.perf_counter()
    found["numpy"] = 1 - 1 / np.diag(np.linalg.inv(singular))
    seconds["numpy"] = time.perf_counter() - start
    ratios = {f"{peer}_to_ours": seconds[peer] / seconds["ours"] for peer in ("numpy", "prototype") if peer in seconds}
    difference = {peer: float(np.abs(found[peer] - found["ours"]).max()) for peer in found if peer != "ours"}
    print(f"{COMPANIES:,} companies, {FLOWS:,} flows; giant component {size:,}")
    print("  ".join(f"{job} {value:.3f}s" for job, value in seconds.items()))
    print("  ".join(f"{ratio} {value:.1f}" for ratio, value in ratios.items()), f"(promised {TIMES_NUMPY:.0f} and 1)")
    print("largest difference of a return probability:", difference)
    payload = {"median_of": EXACT_REPEATS, "seed": SEED, "companies": COMPANIES, "flows": FLOWS, "giant": size}
    figures = {"seconds": seconds, "ratios": ratios, "promised_to_numpy": TIMES_NUMPY, "largest_difference": difference}
    return payload | figures


def measure_large() -> dict[str, Any]:
    """Solve 100,000 companies and 1,000,000 flows exactly, alone: minutes, and gigabytes."""
    graph = flow_graph(LARGE_COMPANIES, LARGE_FLOWS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    start = time.perf_counter()
    answer = round_trip_fractions(graph, tolerance=0)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{LARGE_COMPANIES:,} companies, {LARGE_FLOWS:,} flows: {seconds:.0f} s, peak {peak / 1e9:.1f} GB")
    payload = {"seed": SEED, "companies": LARGE_COMPANIES, "flows": LARGE_FLOWS, "fraction": answer.fraction.value}
    return payload | {"seconds": seconds, "peak_bytes": peak, "peak_bytes_before": before}


def report(seconds: dict[str, float]) -> None:
    for name, value in seconds.items():
        print(f"  {name:42} {value * 1e3:9.1f} ms")


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "steps": measure_steps,
    "payments_unit": lambda: measure_payments("unit"),
    "payments_lognormal": lambda: measure_payments("lognormal"),
    "exact": measure_exact,
    "exact_large": measure_large,
}


def main(parts: list[str]) -> None:
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise SystemExit(f"no part named {', '.join(unknown)}; there are: {', '.join(PARTS)}")
    payload = {}
    for part in parts:
        print(part)
        payload[part] = PARTS[part]()
    write_result("roundtrip", payload)


if __name__ == "__main__":
    main(sys.argv[1:] or [part for part in PARTS if part != "exact_large"])
