"""Everything that runs on a GPU, checked against the CPU twins and then measured: one command, under 8 minutes.

Run as ``python bench/bench_gpu.py [--most-flows 1e9]`` on any machine with an NVIDIA GPU and CuPy. First every twin answers
the structure graphs and must equal the CPU; then the ledger and the exact method are timed once, and build, components,
walks and panel push at 1M, 10M, 100M and (memory and time permitting) 1B flows, beside cuGraph, whose labels must be ours,
and cuSPARSE, where they are installed. Achieved bytes a second are those of the models in the docstrings of the twins,
over the copy bandwidth measured in the same run. A part that fails says why and leaves the rest; what was found is
written at the end, or when the run is interrupted.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from graphs import STRUCTURES, power_law
from harness import write_result
from ouroflow.components import components_of, cpu, gpu, gpu_cugraph
from ouroflow.errors import ResourceError
from ouroflow.graph import FlowGraph
from ouroflow.graph_gpu import BYTES_PER_PAYMENT, DeviceGraph
from ouroflow.ledger import reader
from ouroflow.roundtrip import gpu_push, gpu_walks, round_trip_fractions, walks
from ouroflow.runtime.device import usable_gpu
from ouroflow.runtime.launch import Accelerator, programs

BUDGET_SECONDS = 400.0
"""No part and no repeat begins after this, so that the whole should stay under 8 minutes."""
SIZES = (1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
FLOWS_PER_COMPANY = 10
PARITY_COMPANIES = 5_000
ROOTS = 32
FULL_AFTER = 6
"""Hops after which a panel is full: the first ones read less."""
WALKS = 1 << 26
COPY_WORDS = 1 << 28
EXACT = 10_000, 100_000
"""Companies and flows of the graph that is solved exactly."""
LEDGER_ROWS = 5_000_000


class Run:
    """The measurements of one run, and the time that is left."""

    def __init__(self, on: Accelerator, budget: float = BUDGET_SECONDS) -> None:
        self.on, self.found = on, dict[str, Any]()
        self.end = time.perf_counter() + budget

    def part(self, name: str, job: Callable[[], Any]) -> None:
        """Measure one part; what goes wrong is written down and ends this part alone."""
        if time.perf_counter() > self.end:
            self.found[name] = {"left_out": "no time left"}
        else:
            try:
                self.found[name] = job()
            except Exception as error:
                self.found[name] = {
                    "failed": f"{type(error).__name__}: {error}",
                    "where": traceback.format_exc(limit=4),
                }
        print(f"{name}: {self.found[name]}", flush=True)

    def seconds(self, job: Callable[[], object], repeats: int = 5) -> dict[str, float]:
        """Return first-call and median warm seconds of a job, the device idle before and after."""
        times = []
        for _ in range(repeats + 1):
            self.on.synchronize()
            began = time.perf_counter()
            job()
            self.on.synchronize()
            times.append(time.perf_counter() - began)
            if time.perf_counter() > self.end:
                break
        return {"first": times[0], "warm": statistics.median(times[1:] or times), "repeats": len(times) - 1}


# ---- parity ------------------------------------------------------------------------------------------------------------------


def parity(on: Accelerator, companies: int) -> dict[str, Any]:
    """Hold every twin to the CPU on the structure graphs, with both widths of ids; a difference raises."""
    checked = []
    for name, build in STRUCTURES.items():
        payer, payee = build(np.random.default_rng(0), companies)
        for width in (np.int32, np.int64):
            ends = payer.astype(width), payee.astype(width)
            expected = cpu.components_of_flows(*ends, companies)
            labels, sizes = gpu.components_of_flows(on, *(on.to_device(ids) for ids in ends), companies)
            _same(f"components of {name}", on.to_host(labels), expected[0])
            _same(f"sizes of {name}", sizes, expected[1])
        amount = np.random.default_rng(1).integers(1, 10**9, payer.size)
        graph = FlowGraph.from_arrays(payer, payee, amount, companies=companies)
        there = DeviceGraph.from_payments(
            on, payer.astype(np.int32), payee.astype(np.int32), amount, companies=companies
        )
        for array in ("out_offsets", "payee", "amount", "payments", "in_offsets", "in_payer", "in_flow", "throughflow"):
            _same(f"{array} of {name}", on.to_host(getattr(there, array)), getattr(graph, array))
        for settings in ({"tolerance": 0.01}, {"tolerance": 0.01, "hops": 3}, {"tolerance": 0.0}):
            ours = round_trip_fractions(there, top=40, **settings)
            theirs = round_trip_fractions(graph, top=40, **settings)
            _near(f"fraction of {name}", ours.fraction.value, theirs.fraction.value)
            for part in ("low", "round_trip", "high"):
                _near(f"{part} of {name}", getattr(ours.companies, part), getattr(theirs.companies, part))
        checked.append(name)
    return {"equal": checked, "companies": companies}


def _same(what: str, ours: Any, theirs: Any) -> None:
    if not np.array_equal(ours, theirs):
        raise AssertionError(f"{what}: {np.count_nonzero(np.asarray(ours) != theirs)} of {np.size(theirs)} differ")


def _near(what: str, ours: Any, theirs: Any) -> None:
    if not np.allclose(ours, theirs, rtol=1e-12, atol=0, equal_nan=True):
        raise AssertionError(f"{what}: {np.nanmax(np.abs(np.subtract(ours, theirs)))} apart")


# ---- measurements ------------------------------------------------------------------------------------------------------------


def copy_bandwidth(run: Run) -> float:
    """Return the bytes a second of a copy on the device, read and written counted."""
    xp = run.on.xp
    source, target = xp.ones(COPY_WORDS, np.int64), xp.empty(COPY_WORDS, np.int64)

    def copy() -> None:
        target[:] = source

    return 2 * source.nbytes / run.seconds(copy, 10)["warm"]


def compile_times(run: Run) -> dict[str, float]:
    """Return the seconds until a program can be launched: NVRTC, or CuPy's disk cache."""
    found = {}
    for program in programs():
        began = time.perf_counter()
        run.on.warm(program)
        found[program.file] = time.perf_counter() - began
    return found


def latencies(run: Run) -> dict[str, Any]:
    """Return what the smallest useful calls take: host round trips and launches, not work."""
    graph = DeviceGraph.from_host(run.on, FlowGraph.from_arrays(*power_law(1_000, 10_000)))
    return {"components_10k": run.seconds(lambda: components_of(graph), 20)}


def exact_seconds(run: Run) -> dict[str, Any]:
    """Return what exact figures of one component take on the device and on the CPU of the machine, in one run."""
    graph = FlowGraph.from_arrays(*power_law(*EXACT))
    there = DeviceGraph.from_host(run.on, graph)
    ours = run.seconds(lambda: round_trip_fractions(there, tolerance=0), 2)
    theirs = run.seconds(lambda: round_trip_fractions(graph, tolerance=0), 1)
    return {"graph": EXACT, "device": ours, "cpu": theirs, "times_the_cpu": theirs["warm"] / ours["warm"]}


def ledger_seconds(run: Run) -> dict[str, Any]:
    """Return what reading clean payments with text ids takes on the device and on the CPU of the machine, in one run."""
    rng = np.random.default_rng(0)
    names = pa.array([f"company {company}" for company in range(max(2, LEDGER_ROWS // 10))])
    ends = (names.take(pa.array(rng.integers(0, len(names), LEDGER_ROWS))) for _ in range(2))
    columns = dict(zip(("payer", "payee"), ends, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/payments.parquet"
        pq.write_table(pa.table({**columns, "amount": rng.integers(1, 10**9, LEDGER_ROWS)}), path)
        there = run.seconds(lambda: reader(run.on)(path), 2)
        here = run.seconds(lambda: reader(None)(path), 2)
        said = reader(run.on)(path).notes[-1]
    return {"rows": LEDGER_ROWS, "device": there, "cpu": here, "read": said}


def device_payments(on: Accelerator, flows: int, seed: int = 0) -> tuple[Any, Any, Any, int]:
    """Return payer, payee and amount of random payments, made on the device: 35% never pay, 30% are never paid."""
    xp, companies = on.xp, max(2, flows // FLOWS_PER_COMPANY)
    random = xp.random.RandomState(seed)
    kind = random.random_sample(companies)
    activity = random.random_sample(companies) ** (-1 / 1.2)
    ends: list[Any] = []
    for idle in (kind < 0.35, (kind >= 0.35) & (kind < 0.65)):
        running = xp.cumsum(xp.where(idle, 0.0, activity))
        ids = xp.empty(flows, np.int32)
        for first in range(0, flows, 1 << 26):
            draws = random.random_sample(min(1 << 26, flows - first)) * running[-1]
            ids[first : first + len(draws)] = xp.searchsorted(running, draws)
        ends.append(ids)
    amount = xp.empty(flows, np.int64)
    for first in range(0, flows, 1 << 26):
        part = amount[first : first + (1 << 26)]
        part[:] = xp.exp(random.standard_normal(len(part)) * 2 + 9).astype(np.int64) + 1
    return ends[0], ends[1], amount, companies


def at_size(run: Run, flows: int, bandwidth: float) -> dict[str, Any]:
    """Time build, components, walks and push on one graph, and the peers beside them."""
    on = run.on
    needed = (BYTES_PER_PAYMENT + 24) * flows
    if needed > on.free_bytes():
        return {"left_out": f"needs {needed / 1e9:.0f} GB, {on.free_bytes() / 1e9:.0f} GB are free"}
    repeats = 5 if flows <= 10**8 else 2
    payer, payee, amount, companies = device_payments(on, flows)
    found: dict[str, Any] = {"companies": companies, "payments": flows}
    found["build"] = run.seconds(
        lambda: DeviceGraph.from_payments(on, payer, payee, amount, companies=companies), min(repeats, 3)
    )
    graph = DeviceGraph.from_payments(on, payer, payee, amount, companies=companies)
    payer = payee = amount = None  # 16 bytes a payment that the rest can use
    _give_back(on)
    found["flows"] = graph.flows
    indexes = (graph.out_offsets, graph.payee), (graph.in_offsets, graph.in_payer)
    found["components"] = run.seconds(lambda: gpu.components_of_indexes(on, *indexes), repeats)
    labels, sizes = gpu.components_of_indexes(on, *indexes)
    found["largest_component"] = int(sizes[0]) if sizes.size else 0
    # The least that any way must read: each flow once, and the state of each company.
    least = (4 * graph.flows + 36 * companies) / bandwidth
    found["components"]["times_the_bound"] = found["components"]["warm"] / least
    found["cugraph"] = cugraph_seconds(run, graph, labels)
    _give_back(on)
    found["walks"] = walk_rate(run, graph, labels, repeats)
    _give_back(on)
    found["push"] = push_rate(run, graph, labels, bandwidth)
    _give_back(on)
    return found


def walk_rate(run: Run, graph: DeviceGraph, labels: Any, repeats: int) -> dict[str, Any]:
    """Return steps a second of one sample by either walker; layout and alias table are timed apart."""
    layout = gpu_walks.lay_money(graph, labels)
    found: dict[str, Any] = {"layout": run.seconds(lambda: gpu_walks.lay_money(graph, labels), repeats)}
    found["alias_table"] = run.seconds(lambda: gpu_walks.alias_table(layout), 1)
    table = gpu_walks.alias_table(layout)
    # Short walks weigh the starts, long ones the steps: both are what users see.
    for name, chosen in (("alias", table), ("plain", None)):
        sample = partial(walks.walk_sample, layout, WALKS, seed=1, table=chosen)
        steps = sample().steps
        timed = run.seconds(sample, repeats)
        found[name] = {"steps": steps, **timed, "steps_a_second": steps / timed["warm"]}
    return found


def push_rate(run: Run, graph: DeviceGraph, labels: Any, bandwidth: float) -> dict[str, Any]:
    """Return the bytes a second of a full hop of 32 roots as a share of the copy's, and cuSPARSE's product beside it."""
    on, xp = run.on, run.on.xp
    roots = np.flatnonzero(on.to_host(labels) == 0)[:ROOTS]
    inner = gpu_push.inner_flows(graph, on.to_host(labels), roots)
    panel = gpu_push.DevicePanel(graph, inner, np.float32)
    panel.place(roots)
    for _ in range(FULL_AFTER):
        panel.hop()
    hop = run.seconds(panel.hop, 5)
    flows, members = len(inner.payer), len(inner.member)
    # Payer and share of each flow, the payer's row read, the payee's row written.
    moved = (8 + 4 * ROOTS) * flows + (4 * ROOTS + 24) * members
    found = {"flows": flows, "hop": hop, "share_of_copy": moved / hop["warm"] / bandwidth}
    _give_back(on)
    try:
        from cupyx.scipy.sparse import csr_matrix
    except ImportError as error:
        return {**found, "cusparse": {"left_out": str(error)}}
    matrix = csr_matrix(
        (inner.share.astype(np.float32), inner.payer, inner.offsets.astype(np.int32)), shape=(members, members)
    )
    now = xp.asfortranarray(panel.now)
    product = run.seconds(lambda: matrix @ now, 5)
    return {**found, "cusparse": product, "times_cusparse": product["warm"] / hop["warm"]}


def cugraph_seconds(run: Run, graph: DeviceGraph, ours: Any) -> dict[str, Any]:
    """Return what cuGraph's own strong components take on the same flows, its graph built before and apart."""
    try:
        import cudf
        import cugraph
    except ImportError as error:
        return {"left_out": str(error)}
    frame = cudf.DataFrame({"payer": graph.payer, "payee": graph.payee})
    began = time.perf_counter()
    theirs = cugraph.Graph(directed=True)
    theirs.from_cudf_edgelist(frame, source="payer", destination="payee", renumber=False)
    built = time.perf_counter() - began
    timed = run.seconds(lambda: cugraph.strongly_connected_components(theirs), 3)
    labels, _ = gpu_cugraph.labels_by_cugraph(run.on, graph.payer, graph.payee, graph.companies)
    return {"build": built, **timed, "same_labels": bool((labels == ours).all())}


def _give_back(on: Accelerator) -> None:
    """Return unused memory of CuPy's pool to the device, so that libraries beside it find some."""
    pool = getattr(on.xp, "get_default_memory_pool", None)
    if pool is not None:
        pool().free_all_blocks()


def measure(run: Run, sizes: tuple[int, ...]) -> None:
    """Run every part; what was found is in ``run.found``."""
    on = run.on
    run.found["device"] = {"name": on.name, "free_bytes": on.free_bytes()}
    run.part("compile_seconds", lambda: compile_times(run))
    run.part("parity", lambda: parity(on, PARITY_COMPANIES))
    run.part("copy_bytes_a_second", lambda: copy_bandwidth(run))
    run.part("latencies", lambda: latencies(run))
    bandwidth = run.found["copy_bytes_a_second"]
    for flows in sizes[:-1]:
        run.part(f"flows_{flows}", partial(at_size, run, flows, bandwidth))
    run.part("ledger", lambda: ledger_seconds(run))
    run.part("exact", lambda: exact_seconds(run))
    for flows in sizes[-1:]:
        run.part(f"flows_{flows}", partial(at_size, run, flows, bandwidth))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--most-flows", type=float, default=SIZES[-1], metavar="M", help="largest graph to time (default 1e9)"
    )
    sizes = tuple(flows for flows in SIZES if flows <= parser.parse_args().most_flows)
    try:
        run = Run(usable_gpu())
    except ResourceError as error:
        print(f"bench_gpu: {error}", file=sys.stderr)
        return error.exit_code
    try:
        measure(run, sizes)
    finally:
        write_result("gpu", run.found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
