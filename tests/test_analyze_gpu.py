"""A whole analysis on an accelerator gives what the CPU gives: the same figures, the same digest, verified alike."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ouroflow
from ouroflow.errors import ResourceError, UsageError
from ouroflow.runtime.device import choose_device
from ouroflow.runtime.launch import Accelerator
from ouroflow.verify import verify
from simt.host import HostAccelerator

pytestmark = pytest.mark.host


def bench_module(name: str) -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "bench" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def payments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    payer, payee, amount = bench_module("graphs").power_law(400, 3_000, seed=2)
    path = tmp_path_factory.mktemp("payments") / "payments.parquet"
    names = np.array([f"회사 {company}" for company in range(400)])
    pq.write_table(pa.table({"payer": names[payer], "payee": names[payee], "amount": amount / 100}), path)
    return path


def stored(source: str, out: Path, device: str | Accelerator, **settings: Any) -> dict[str, Any]:
    ouroflow.analyze(source, out=out, device=device, **settings)
    return json.loads((out / "run.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "settings",
    [{}, {"hops": 2}, {"hops": 4, "top": 5}, {"measures": ["components"]}, {"tolerance": 0.0}],
    ids=["default", "two hops", "four hops", "components only", "exact"],
)
def test_the_digest_is_that_of_the_cpu(payments: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    there = stored(str(payments), tmp_path / "gpu", HostAccelerator(), **settings)
    here = stored(str(payments), tmp_path / "cpu", "cpu", **settings)
    assert there["digest"] == here["digest"]
    assert there["device"]["name"] == "gpu" and "host lane" in there["device"]["why"]
    assert verify(tmp_path / "gpu").ok


def test_sampled_figures_have_the_same_digest(tmp_path: Path) -> None:
    # A component too large for the exact method here: walks, screens and pushes decide every figure.
    rng = np.random.default_rng(5)
    ends = rng.integers(0, 20_000, (2, 160_000))
    path = tmp_path / "large.parquet"
    pq.write_table(pa.table({"payer": ends[0], "payee": ends[1], "amount": rng.integers(1, 10**6, 160_000)}), path)
    settings: dict[str, Any] = {"tolerance": 0.02, "top": 3}
    there = stored(str(path), tmp_path / "gpu", HostAccelerator(), **settings)
    here = stored(str(path), tmp_path / "cpu", "cpu", **settings)
    summary = json.loads((tmp_path / "gpu" / "summary.json").read_text(encoding="utf-8"))
    assert "walks" in summary["round_trip_fraction"]["method"]
    assert there["digest"] == here["digest"]


def test_announced_ranges_are_followed_on_an_accelerator_too(tmp_path: Path) -> None:
    there = stored("ai-deals", tmp_path / "gpu", HostAccelerator())
    here = stored("ai-deals", tmp_path / "cpu", "cpu")
    assert there["digest"] == here["digest"]


def test_too_little_device_memory_ends_with_the_figure(payments: Path) -> None:
    with pytest.raises(ResourceError, match=r"do not fit|of device memory"):
        ouroflow.analyze(str(payments), device=HostAccelerator(memory=20_000))


def test_cugraph_needs_a_gpu(payments: Path) -> None:
    with pytest.raises(UsageError, match=r"cuGraph works on a GPU"):
        ouroflow.analyze(str(payments), device="cpu", scc="cugraph")


def test_an_accelerator_is_used_as_given_and_said_so() -> None:
    on = HostAccelerator()
    chosen = choose_device(on)
    assert (chosen.name, chosen.on) == ("gpu", on) and chosen.why == "the host lane, as given"


def test_the_bench_of_the_device_runs_to_its_end_and_finds_equal_twins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "bench"))
    bench = bench_module("bench_gpu")
    monkeypatch.setattr(bench, "WALKS", 1 << 10)
    monkeypatch.setattr(bench, "PARITY_COMPANIES", 60)
    monkeypatch.setattr(bench, "COPY_WORDS", 1 << 12)
    monkeypatch.setattr(bench, "EXACT", (100, 600))
    monkeypatch.setattr(bench, "LEDGER_ROWS", 3_000)
    run = bench.Run(HostAccelerator())
    bench.measure(run, (2_000, 4_000))
    failed = {name: part for name, part in run.found.items() if isinstance(part, dict) and "failed" in part}
    assert not failed
    assert run.found["parity"]["equal"] == list(bench.STRUCTURES)
    assert run.found["flows_4000"]["walks"]["plain"]["steps"] > 0
