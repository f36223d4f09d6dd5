"""Maximum circulation from arrays to the proven optimum: ours beside OR-tools and the project's prototype, in turns.

Run as ``python bench/bench_circulation.py [graph ...]``. Every time includes what is built first: ours the flow graph,
its components and the check of the proof, OR-tools its network. The prototype stands in the project's shared folder;
without it, or without the package ortools, that column is left out. ``seconds_to_gap`` is what our method takes, on
the same graph, to certify an interval of that width.
"""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from graphs import power_law
from harness import interleaved, prototype, write_result
from ouroflow.circulation import max_circulation
from ouroflow.graph import FlowGraph

try:
    from ortools.graph.python.min_cost_flow import SimpleMinCostFlow
except ImportError:
    SimpleMinCostFlow = None

Int64s = npt.NDArray[np.int64]
Flows = tuple[Int64s, Int64s, Int64s]

GAPS = (1e-1, 1e-2, 1e-3, 1e-4)


def near_balanced(companies: int = 10_000, rings: int = 15_000) -> Flows:
    """Rings of 3 to 12 companies with one amount each, and one flow in a hundred that is off."""
    rng = np.random.default_rng(1)
    sizes = rng.integers(3, 13, rings)
    payer = rng.integers(0, companies, sizes.sum())
    first = np.cumsum(sizes) - sizes
    payee = np.roll(payer, -1)
    payee[first + sizes - 1] = payer[first]
    amount = np.repeat(np.rint(rng.lognormal(7, 2, rings)).astype(np.int64) + 1, sizes)
    off = rng.random(amount.size) < 0.01
    amount[off] += rng.integers(1, 100, off.sum())
    return payer, payee, amount


def local_ring(companies: int = 10_000, flows: int = 50_000) -> Flows:
    """Companies on a ring that pay only their neighbours within 20 places, most of them forward: long detours."""
    rng = np.random.default_rng(2)
    payer = rng.integers(0, companies, flows)
    return (
        payer,
        (payer + rng.integers(-5, 21, flows)) % companies,
        np.rint(rng.lognormal(7, 2, flows)).astype(np.int64) + 1,
    )


def long_path(companies: int = 20_000) -> Flows:
    """A chain of mutual payments with one flow from its end to its start: detours as long as the chain."""
    rng = np.random.default_rng(3)
    here = np.arange(companies - 1)
    payer, payee = np.concatenate([here, here + 1, [companies - 1]]), np.concatenate([here + 1, here, [0]])
    return payer, payee, np.concatenate([rng.integers(1, 1000, 2 * companies - 2), [500]])


def unit_capacity(companies: int = 20_000, flows: int = 200_000) -> Flows:
    """A power-law graph in which every flow is 1."""
    payer, payee, _ = power_law(companies, flows, seed=4)
    return payer, payee, np.ones(flows, np.int64)


def tiny_components(components: int = 100_000) -> Flows:
    """Rings of three with one payment back: one hundred thousand economies."""
    rng = np.random.default_rng(5)
    first = 3 * np.arange(components)
    payer = np.concatenate([first, first + 1, first + 2, first + 1])
    payee = np.concatenate([first + 1, first + 2, first, first])
    return payer, payee, rng.integers(1, 100, payer.size)


GRAPHS: dict[str, tuple[Callable[[], Flows], int, float | None]] = {
    "power_law_10k": (lambda: power_law(10_000, 100_000, seed=1), 21, 0.28),
    "power_law_100k": (lambda: power_law(100_000, 1_000_000, seed=1), 3, 0.18),
    "power_law_1m": (lambda: power_law(1_000_000, 5_000_000, seed=1), 1, 0.18),
    "tiny_components": (tiny_components, 5, None),
    "near_balanced": (near_balanced, 3, 0.67),
    "local_ring": (local_ring, 3, 0.67),
    "long_path": (long_path, 3, 0.67),
    "unit_capacity": (unit_capacity, 3, 0.67),
}
"""Name: the flows, how often each job is timed, and what was promised as a share of OR-tools' time (tiny: under 2 s)."""


def by_ortools(flows: Flows, companies: int) -> int:
    """Return the optimum: largest total of a circulation, as the cheapest one at a price of -1 a unit."""
    payer, payee, amount = flows
    solver = SimpleMinCostFlow()
    solver.add_arcs_with_capacity_and_unit_cost(payer, payee, amount, np.full(payer.size, -1))
    solver.set_nodes_supplies(np.arange(companies), np.zeros(companies, np.int64))
    assert solver.solve() == solver.OPTIMAL
    return -int(solver.optimal_cost())


def by_prototype(circulation: Any, flows: Flows, companies: int) -> int:
    with contextlib.redirect_stdout(io.StringIO()):
        value, _ = circulation.solve(circulation.build(*flows, companies), False, 8.0)
    return int(value)


def once(job: Callable[[], None]) -> float:
    """Return the seconds of one run, for graphs on which a peer takes minutes."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def measure(name: str, circulation: Any) -> dict[str, Any]:
    make, repeats, promised = GRAPHS[name]
    flows = make()
    companies = int(max(flows[0].max(), flows[1].max())) + 1
    # One flow per pair and none to oneself, for all alike: only ours sums and drops by itself.
    graph = FlowGraph.from_arrays(*flows, companies=companies)
    flows = (graph.payer.astype(np.int64), graph.payee.astype(np.int64), graph.amount.copy())
    jobs: dict[str, Callable[[], int]] = {
        "ours": lambda: int(max_circulation(FlowGraph.from_arrays(*flows, companies=companies)).amount.sum()),
    }
    if SimpleMinCostFlow is not None:
        jobs["ortools"] = lambda: by_ortools(flows, companies)
    if circulation is not None and name != "long_path":  # its distances end at 30,000
        jobs["prototype"] = lambda: by_prototype(circulation, flows, companies)
    values: dict[str, int] = {}

    def noting(job: str) -> Callable[[], None]:
        return lambda: values.__setitem__(job, jobs[job]())

    timed = {job: noting(job) for job in jobs}
    seconds = interleaved(timed, repeats) if repeats > 1 else {job: once(timed[job]) for job in timed}
    assert len(set(values.values())) == 1, values
    gaps = {}
    for gap in GAPS:
        start = time.perf_counter()
        found = max_circulation(FlowGraph.from_arrays(*flows, companies=companies), tolerance=gap)
        gaps[f"{gap:g}"] = {
            "seconds": time.perf_counter() - start,
            "low": found.fraction.low,
            "high": found.fraction.high,
        }
    ratios = {f"to_{peer}": seconds["ours"] / seconds[peer] for peer in ("ortools", "prototype") if peer in seconds}
    print(
        f"{name:15} {companies:>9,} companies {graph.flows:>9,} flows  netted {values['ours']} of {graph.total}  "
        + "  ".join(f"{job} {value:.4f}s" for job, value in seconds.items())
        + "  "
        + "  ".join(f"{ratio} {value:.3f}" for ratio, value in ratios.items())
        + f"  (promised {promised} of OR-tools)  gap 0.1% {gaps['0.001']['seconds']:.4f}s",
        flush=True,
    )
    return {
        "graph": name,
        "companies": companies,
        "flows": graph.flows,
        "netted": values["ours"],
        "total": graph.total,
        "repeats": repeats,
        "seconds": seconds,
        **ratios,
        "promised": promised,
        "seconds_to_gap": gaps,
    }


def main() -> None:
    names = sys.argv[1:] or list(GRAPHS)
    circulation = prototype("circulation")
    max_circulation(FlowGraph.from_arrays([0, 1], [1, 0], [1, 2]))  # compiled before anything is timed
    write_result("circulation", {"graphs": [measure(name, circulation) for name in names]})


if __name__ == "__main__":
    main()
