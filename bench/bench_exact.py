"""Exact returns of a whole component: ours beside NumPy's dense inverse of the same matrix and the project's prototype.

Run as ``python bench/bench_exact.py`` (10,000 companies, 100,000 flows; the inverse takes up to a minute or two and
runs once) or with ``--large`` (100,000 companies, 1,000,000 flows: ours alone, once, with its peak memory). Ours starts
from integers and includes all set-up; the inverse is given its matrix, and the prototype its sparse matrix.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
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
from ouroflow.roundtrip.cpu_exact import ExactReturns, exact_returns

Component = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.int64]]
Floats = npt.NDArray[np.float64]

REPEATS = 5
TIMES_THE_INVERSE = 50
"""What this room has promised: the inverse takes so many times as long."""
SHARED = Path(os.environ.get("OUROFLOW_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def prototype() -> Callable[..., tuple[Floats, Any]] | None:
    """Return the prototype's `exact`, None where the shared folder is missing."""
    path = SHARED / "prototypes" / "returns.py"
    if not path.is_file():
        print(f"no prototype beside the checkout ({path.name} in the folder 'shared'): its column is left out")
        return None
    spec = importlib.util.spec_from_file_location("prototype_returns", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    exact: Callable[..., tuple[Floats, Any]] = module.exact
    return exact


def giant(companies: int, flows: int) -> Component:
    """Return offsets, payee, amount and throughflow of the largest component of the power-law graph."""
    graph = FlowGraph.from_arrays(*power_law(companies, flows, 1), companies=companies)
    intra = graph.intra(components_of(graph).labels)
    members = int(intra.company_offsets[1])
    offsets = intra.flow_offsets[: members + 1]
    payee, amount = intra.payee[: offsets[-1]].astype(np.int32), intra.amount[: offsets[-1]]
    return offsets, payee, amount, graph.throughflow[intra.company[:members]]


def solve(component: Component) -> ExactReturns:
    found = exact_returns(*component)
    assert found is not None
    return found


def transitions(component: Component) -> csr_matrix:
    offsets, payee, amount, throughflow = component
    return csr_matrix(
        (amount / np.repeat(throughflow, np.diff(offsets)), payee, offsets), shape=(throughflow.size,) * 2
    )


def against_peers() -> None:
    component = giant(10_000, 100_000)
    companies = component[3].size
    chain = transitions(component)
    exact = prototype()
    found = solve(component)
    jobs: dict[str, Callable[[], object]] = {"ours": lambda: solve(component)}
    if exact is not None:
        jobs["prototype"] = lambda: exact(chain)
    seconds = interleaved(jobs, REPEATS)
    matrix = np.eye(companies) - chain.toarray()
    start = time.perf_counter()
    visits = np.linalg.inv(matrix)
    seconds["inverse"] = time.perf_counter() - start
    own, payer = np.diag(visits), np.repeat(np.arange(companies), np.diff(component[0]))
    error = max(
        float(np.abs(1 - 1 / own - found.company).max()),
        float(np.abs(visits[component[1], payer] / own[payer] - found.flow).max()),
    )
    ratios = {f"{peer}_to_ours": value / seconds["ours"] for peer, value in seconds.items() if peer != "ours"}
    print(f"{companies:,} companies, {component[1].size:,} flows, largest difference to the inverse {error:.1e}")
    print("  ".join(f"{job} {value:.3f}s" for job, value in seconds.items()))
    print(
        "  ".join(f"{name} {value:.2f}" for name, value in ratios.items()),
        f"(promised {TIMES_THE_INVERSE} for inverse)",
    )
    write_result(
        "exact",
        {
            "companies": companies,
            "flows": int(component[1].size),
            "median_of": REPEATS,
            "inverse_runs": 1,
            "seconds": seconds,
            "ratios": ratios,
            "promised_inverse_to_ours": TIMES_THE_INVERSE,
            "difference_to_inverse": error,
        },
    )


def large() -> None:
    component = giant(100_000, 1_000_000)
    solve(giant(1_000, 10_000))  # compiles
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    start = time.perf_counter()
    found = solve(component)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    money = np.add.reduceat(component[2] * found.flow, component[0][:-1])
    closure = float(np.abs(money / component[3] - found.company).max())
    print(
        f"{component[3].size:,} companies, {component[1].size:,} flows: {seconds:.1f}s, peak {peak / 1e9:.2f} GB of memory "
        f"({before / 1e9:.2f} GB before), flows and companies agree to {closure:.1e}"
    )
    write_result(
        "exact_large",
        {
            "companies": int(component[3].size),
            "flows": int(component[1].size),
            "seconds": seconds,
            "peak_bytes": peak,
            "peak_bytes_before": before,
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="100,000 companies and 1,000,000 flows, once")
    if parser.parse_args().large:
        large()
    else:
        against_peers()


if __name__ == "__main__":
    main()
