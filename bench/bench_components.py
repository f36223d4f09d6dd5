"""Strong components from arrays to labels: ours beside scipy and the project's prototype, in turns in one run.

Run as ``python bench/bench_components.py [graph ...]``. scipy's time includes the csr_matrix that it needs first. The
prototype stands in the project's shared folder; without it that column is left out.
"""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from graphs import STRUCTURES, structure
from harness import interleaved, prototype, write_result
from ouroflow.components import certify, components_of, strong_components
from ouroflow.graph import FlowGraph

Ids = npt.NDArray[np.int32]

REPEATS = 5
MOST_OF_SCIPY = {"zipf": 0.2, "uniform": 0.2, "payments": 0.2, "long_cycle": 0.33, "local": 0.5}
"""What this room has promised: time as a share of scipy's."""


def by_scipy(payer: Ids, payee: Ids, companies: int) -> Ids:
    matrix = csr_matrix((np.ones(payer.size, np.int8), (payer, payee)), shape=(companies, companies))
    labels: Ids = connected_components(matrix, directed=True, connection="strong")[1]
    return labels


def same_partition(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    """Tell whether two labellings group the companies alike."""
    pairs = np.unique(one.astype(np.int64) * (int(other.max()) + 1) + other).size
    return bool(pairs == np.unique(one).size == np.unique(other).size)


def peak_bytes(job: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        job()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def measure(name: str, scc: Callable[..., tuple[int, Ids]] | None) -> dict[str, Any]:
    payer, payee = structure(name)
    companies = int(max(payer.max(), payee.max())) + 1
    graph = FlowGraph.from_arrays(payer, payee, companies=companies)
    found = components_of(graph)
    assert same_partition(found.labels, by_scipy(payer, payee, companies))
    jobs: dict[str, Callable[[], object]] = {
        "ours": lambda: strong_components(payer, payee, companies),
        "scipy": lambda: by_scipy(payer, payee, companies),
        "ours_from_graph": lambda: components_of(graph),
        "certificate": lambda: certify(graph, found),
    }
    if scc is not None:
        jobs["prototype"] = lambda: scc(payer, payee, companies)
    seconds = interleaved(jobs, REPEATS)
    peak = peak_bytes(jobs["ours"])
    ratios = {f"to_{peer}": seconds["ours"] / seconds[peer] for peer in ("scipy", "prototype") if peer in seconds}
    print(
        f"{name:10} {companies:>9,} companies {payer.size:>10,} flows  "
        + "  ".join(f"{job} {value:.4f}s" for job, value in seconds.items())
        + "  "
        + "  ".join(f"{ratio} {value:.3f}" for ratio, value in ratios.items())
        + f"  (promised {MOST_OF_SCIPY[name]} of scipy)  peak {peak / payer.size:.1f} B/flow"
    )
    return {
        "graph": name,
        "companies": companies,
        "flows": int(payer.size),
        "components": found.count,
        "nontrivial": found.nontrivial,
        "largest": found.largest,
        "seconds": seconds,
        "ratios": ratios,
        "promised_to_scipy": MOST_OF_SCIPY[name],
        "peak_bytes": peak,
    }


def main() -> None:
    sketch = prototype("components")
    scc = None if sketch is None else sketch.scc
    rows = [measure(name, scc) for name in sys.argv[1:] or STRUCTURES]
    write_result("components", {"repeats": REPEATS, "median_of": REPEATS, "graphs": rows})


if __name__ == "__main__":
    main()
