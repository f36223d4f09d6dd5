"""What each stage allocates, counted: the bytes per payment, flow and company that the README states.

NumPy reports its allocations to tracemalloc; kernels get their arrays from NumPy. Components, graph, identities, walks and push
count theirs in the tests of their rooms; here are the stages that put rooms together.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ouroflow.components import components_of
from ouroflow.graph import FlowGraph
from ouroflow.ledger import read_ledger
from ouroflow.roundtrip import round_trip_fractions

pytestmark = pytest.mark.cpu

MEBIBYTE = 1 << 20


def peak_of(job: Callable[[], object]) -> int:
    job()  # compiles
    tracemalloc.start()
    try:
        job()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def payments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(1)
    names = pa.array([f"C{k:08d}" for k in range(20_000)])
    who = [names.take(pa.array(rng.integers(0, 20_000, 2_000_000))) for _ in range(2)]
    path = tmp_path_factory.mktemp("memory") / "payments.parquet"
    pq.write_table(
        pa.table({"payer": who[0], "payee": who[1], "amount": rng.integers(1, 10**6, 2_000_000) / 100}), path
    )
    return path


def test_the_ledger_takes_16_bytes_a_payment_beside_its_batches(payments: Path) -> None:
    # Batches, the dictionary of 20,000 identities and the arrays of one batch: a part that does not grow with the payments.
    assert peak_of(lambda: read_ledger(payments)) <= 16 * 2_000_000 + 24 * MEBIBYTE


def test_the_graph_takes_at_most_44_bytes_a_payment_on_the_way(payments: Path) -> None:
    ledger = read_ledger(payments)
    # 16 bytes a payment while they are summed, then 28 a flow; here nearly every payment is a flow of its own.
    assert peak_of(ledger.graph) <= (16 + 28) * 2_000_000 + 16 * 20_000 + 24 * MEBIBYTE


def test_the_exact_method_takes_at_most_two_dense_cores_and_its_lists() -> None:
    rng = np.random.default_rng(2)
    graph = FlowGraph.from_arrays(
        rng.integers(0, 3_000, 30_000), rng.integers(0, 3_000, 30_000), rng.integers(1, 99, 30_000)
    )
    components = components_of(graph)
    # Random flows hardly thin out: the core is nearly the whole component, which bounds it from above.
    core = components.largest
    lists = 54 * 40 * graph.flows + 140 * graph.companies
    assert peak_of(lambda: round_trip_fractions(graph, components)) <= 16.5 * core**2 + lists


def test_screening_and_certifying_takes_at_most_64_bytes_a_flow_and_600_a_company(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ouroflow.roundtrip._TRY_COMPANIES", 0)
    rng = np.random.default_rng(3)
    ends = rng.integers(0, 100_000, (2, 1_000_000))
    graph = FlowGraph.from_arrays(ends[0], ends[1], rng.integers(1, 10**6, 1_000_000))
    components = components_of(graph)
    peak = peak_of(lambda: round_trip_fractions(graph, components, tolerance=1e-2, top=32))
    assert peak <= 64 * graph.flows + 600 * graph.companies + 5 * (1 << 18) + 24 * MEBIBYTE
