"""The gpu lane: every twin on a real device, held to the CPU, and its memory to what the docstrings say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ouroflow.cli import main
from ouroflow.errors import ResourceError
from ouroflow.graph_gpu import BYTES_PER_PAYMENT, DeviceGraph
from test_analyze_gpu import bench_module, stored

pytestmark = pytest.mark.gpu


@pytest.fixture
def on() -> Any:
    from ouroflow.runtime.device import usable_gpu

    return usable_gpu()


def test_every_twin_equals_the_cpu(on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "bench"))
    bench = bench_module("bench_gpu")
    assert bench.parity(on, 3_000)["equal"] == list(bench.STRUCTURES)


@pytest.mark.parametrize("settings", [{}, {"tolerance": 0.0}, {"hops": 3}], ids=["default", "exact", "three hops"])
def test_an_analysis_has_the_digest_of_the_cpu(tmp_path: Path, settings: dict[str, Any]) -> None:
    rng = np.random.default_rng(2)
    ends = rng.integers(0, 3_000, (2, 30_000))
    path = tmp_path / "payments.parquet"
    pq.write_table(pa.table({"payer": ends[0], "payee": ends[1], "amount": rng.integers(1, 10**6, 30_000)}), path)
    there = stored(str(path), tmp_path / "gpu", "gpu", **settings)
    here = stored(str(path), tmp_path / "cpu", "cpu", **settings)
    assert there["digest"] == here["digest"]


def test_cugraph_finds_the_same_components(on: Any) -> None:
    pytest.importorskip("cugraph", reason="cuGraph is not installed")
    from ouroflow import FlowGraph, components_of

    ends = np.random.default_rng(3).integers(0, 2_000, (2, 5_000))
    graph = FlowGraph.from_arrays(*ends)
    found = components_of(DeviceGraph.from_host(on, graph), scc="cugraph")
    assert np.array_equal(found.labels, components_of(graph).labels)


def test_the_command_line_takes_the_device(tmp_path: Path) -> None:
    assert main(["analyze", "ai-deals", "-o", str(tmp_path / "gpu"), "--device", "gpu", "--quiet"]) == 0
    assert json.loads((tmp_path / "gpu" / "run.json").read_text(encoding="utf-8"))["device"]["name"] == "gpu"


def test_device_arrays_in_device_labels_out(on: Any) -> None:
    from ouroflow import strong_components

    rng = np.random.default_rng(0)
    payer, payee = rng.integers(0, 1_000, (2, 3_000)).astype(np.int32)
    labels = strong_components(on.to_device(payer), on.to_device(payee), 1_000)
    assert isinstance(labels, on.xp.ndarray)
    assert np.array_equal(on.to_host(labels), strong_components(payer, payee, 1_000))


def test_building_a_graph_takes_no_more_memory_than_stated(on: Any) -> None:
    payments = 4_000_000
    rng = np.random.default_rng(1)
    payer, payee = (on.to_device(ids) for ids in rng.integers(0, 400_000, (2, payments)).astype(np.int32))
    amount = on.to_device(rng.integers(1, 10**9, payments))
    pool = on.xp.get_default_memory_pool()
    pool.free_all_blocks()
    before = pool.total_bytes()  # grows to the peak, for nothing is given back while the graph is built
    DeviceGraph.from_payments(on, payer, payee, amount, companies=400_000)
    taken = pool.total_bytes() - before
    if not taken:
        pytest.skip("CuPy allocates from RMM's pool here, which tells no peak")
    assert taken <= BYTES_PER_PAYMENT * payments


def test_more_than_the_device_holds_is_refused_with_the_figure(on: Any) -> None:
    with pytest.raises(ResourceError, match="of device memory"):
        on.require(on.free_bytes() * 2, "twice the memory")
