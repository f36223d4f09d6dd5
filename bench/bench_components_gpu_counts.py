"""What the strong components on a GPU cost, counted in the host lane: launches, waits and flows read, against the model.

No device is needed and nothing is timed: the same kernels, compiled by g++, say how many flows they read.

    python bench/bench_components_gpu_counts.py [companies]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from graphs import STRUCTURES
from harness import write_result
from ouroflow.components import cpu, gpu

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from simt.host import HostAccelerator

COMPANIES = 200_000
PHASES = {
    "trim": ("begin_trim", "release_rows", "release_small", "link_chains", "cut_chains"),
    "search": ("push_level", "push_small", "pull_level", "pull_long_rows", "name_members"),
    "rest": ("count_members", "list_members", "keep_inner_flows"),
    "filters": (
        "link_flows",
        "jump_links",
        "keep_live_flows",
        "keep_undecided_flows",
        "mark_ends",
        "renumber_ends",
        "finish_places",
    ),
    "signatures": ("begin_signatures", "spread_signatures", "jump_signatures", "pick_paths", "double_paths"),
    "numbering": ("measure_components", "write_labels"),
}
MODEL = {
    "zipf": {"trim": 2.0, "after trim": 1.5},
    "uniform": {"trim": 2.0, "after trim": 1.5},
    "payments": {"trim": 2.0, "after trim": 1.5},
    "local": {"trim": 2.0},
    "long_cycle": {"trim": 2.0, "passes": 40},
}
"""Most flows read, as multiples of the flows, and most passes of signatures."""


def counts(name: str, companies: int) -> dict[str, Any]:
    """Label one graph wholly on the accelerator; return what that took."""
    payer, payee = (ids.astype(np.int32) for ids in STRUCTURES[name](np.random.default_rng(0), companies=companies))
    on = HostAccelerator(resident_threads=16_384)
    ends = on.to_device(payer), on.to_device(payee)
    outgoing, incoming = (gpu.index_of_flows(on, *ends, companies) for ends in (ends, ends[::-1]))
    on.launches.clear()
    on.touched_edges.clear()
    on.synchronisations.clear()
    labels, _ = gpu.components_of_indexes(on, outgoing, incoming, plan=gpu.Plan(host_tail=companies // 1000))
    waits = on.synchronisations.total()
    assert (on.to_host(labels) == cpu.components_of_flows(payer, payee, companies)[0]).all()
    flows = payer.size
    reads = {phase: sum(on.touched_edges[kernel] for kernel in kernels) / flows for phase, kernels in PHASES.items()}
    found = {
        "trim": reads["trim"],
        "after trim": sum(reads.values()) - reads["trim"],
        "passes": on.launches["spread_signatures"],
    }
    return {
        "companies": companies,
        "flows": flows,
        "reads_per_flow": {phase: round(share, 4) for phase, share in reads.items()},
        "launches": {phase: sum(on.launches[kernel] for kernel in kernels) for phase, kernels in PHASES.items()},
        "passes": found["passes"],
        "waits": waits,
        "model": {what: {"most": most, "found": round(found[what], 4)} for what, most in MODEL[name].items()},
    }


def main() -> None:
    companies = int(sys.argv[1]) if len(sys.argv) > 1 else COMPANIES
    results = {}
    for name in STRUCTURES:
        one = results[name] = counts(name, companies)
        print(f"{name:11} m = {one['flows']:,}; {one['waits']} waits, {one['passes']} passes of signatures")
        for phase, share in one["reads_per_flow"].items():
            print(f"    {phase:11} {share:8.3f} m read, {one['launches'][phase]:4} launches")
        for what, figures in one["model"].items():
            verdict = "within" if figures["found"] <= figures["most"] else "ABOVE"
            print(f"    {what}: {figures['found']:g}, {verdict} the model's {figures['most']:g}")
    write_result("components-gpu-counts", {"graphs": results})


if __name__ == "__main__":
    main()
