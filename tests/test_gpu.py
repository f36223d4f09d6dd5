"""The gpu lane: every twin on a real device, held to the CPU, and its memory to what the docstrings say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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


def test_the_command_line_gives_the_digest_of_the_cpu(tmp_path: Path) -> None:
    there = stored("ai-deals", tmp_path / "gpu", "gpu")
    here = stored("ai-deals", tmp_path / "cpu", "cpu")
    assert there["digest"] == here["digest"]
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
