"""All return fractions of the giant component, exactly: ours beside numpy.linalg.inv and the project's prototype.

Run as ``python bench/bench_exact.py [--large]``. `ours` is `exact_returns` on the component, `door` the whole of
`round_trip_fractions` from the graph on; NumPy inverts the same I - P, which takes a minute. The prototype stands in
the project's shared folder; without it that column is left out. ``--large`` solves 100,000 companies with 1,000,000
flows instead, alone: minutes, and gigabytes.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from graphs import power_law
from harness import interleaved, write_result
from ouroflow.components import components_of
from ouroflow.graph import FlowGraph
from ouroflow.roundtrip import round_trip_fractions
from ouroflow.roundtrip.cpu_exact import ExactReturns, exact_returns

Floats = npt.NDArray[np.float64]

COMPANIES, FLOWS = 10_000, 100_000
LARGE_COMPANIES, LARGE_FLOWS = 100_000, 1_000_000
SEED = 1
REPEATS = 3
TIMES_NUMPY = 50.0
"""What this room has promised: so many times faster than the dense inverse, and no slower than the prototype."""
SHARED = Path(os.environ.get("OUROFLOW_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def prototype() -> Callable[[csr_matrix], tuple[Floats, Any]] | None:
    """Return the prototype's `exact`, None where the shared folder is missing."""
    path = SHARED / "prototypes" / "returns.py"
    if not path.is_file():
        print(f"no prototype beside the checkout ({path.name} in the folder 'shared'): its column is left out")
        return None
    spec = importlib.util.spec_from_file_location("prototype_returns", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    exact: Callable[[csr_matrix], tuple[Floats, Any]] = module.exact
    return exact


def flow_graph(companies: int, flows: int) -> FlowGraph:
    return FlowGraph.from_arrays(*power_law(companies, flows, SEED), companies=companies)


def beside_the_peers() -> None:
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
    if (exact := prototype()) is not None:

        def peer() -> None:
            found["prototype"] = exact(moves)[0]

        jobs["prototype"] = peer
    seconds = interleaved(jobs, REPEATS)
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
    payload = {"median_of": REPEATS, "seed": SEED, "companies": COMPANIES, "flows": FLOWS, "giant": size}
    figures = {"seconds": seconds, "ratios": ratios, "promised_to_numpy": TIMES_NUMPY, "largest_difference": difference}
    write_result("exact", payload | figures)


def large() -> None:
    graph = flow_graph(LARGE_COMPANIES, LARGE_FLOWS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    start = time.perf_counter()
    answer = round_trip_fractions(graph, tolerance=0)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{LARGE_COMPANIES:,} companies, {LARGE_FLOWS:,} flows: {seconds:.0f} s, peak {peak / 1e9:.1f} GB")
    payload = {"seed": SEED, "companies": LARGE_COMPANIES, "flows": LARGE_FLOWS, "fraction": answer.fraction.value}
    write_result("exact-large", payload | {"seconds": seconds, "peak_bytes": peak, "peak_bytes_before": before})


def main() -> None:
    if sys.argv[1:] == ["--large"]:
        large()
    elif not sys.argv[1:]:
        beside_the_peers()
    else:
        raise SystemExit("usage: bench_exact.py [--large]")


if __name__ == "__main__":
    main()
