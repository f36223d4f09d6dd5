"""What every benchmark shares: the machine, the medians, and one JSON per run that is never overwritten."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
SHARED = Path(os.environ.get("OUROFLOW_SHARED", Path(__file__).resolve().parents[2] / "shared"))
PACKAGES = ("ouroflow", "numpy", "numba", "scipy", "pyarrow", "polars", "duckdb", "pandas", "networkx")


def machine() -> dict[str, Any]:
    """Return what a reader must know of the machine to read a figure: processor, cores, memory, versions."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_before": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def write_result(name: str, payload: dict[str, Any]) -> Path:
    """Write one run to bench/results/<name>-<time>.json; an existing file is never overwritten."""
    RESULTS.mkdir(exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    path = RESULTS / f"{name}-{stamp}.json"
    with path.open("x", encoding="utf-8") as file:
        json.dump({"bench": name, "at": stamp, "machine": machine(), **payload}, file, indent=1, ensure_ascii=False)
        file.write("\n")
    print(f"written: {path.relative_to(RESULTS.parents[1])}")
    return path


def seconds(job: Callable[[], object], repeats: int = 3) -> float:
    """Return the median wall-clock seconds of a job, after one run that is not counted (JIT, caches)."""
    job()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def interleaved(jobs: dict[str, Callable[[], object]], repeats: int = 3) -> dict[str, float]:
    """Return the median seconds of several jobs, run in turns so that a busy machine disturbs all of them alike."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(repeats + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def prototype(name: str) -> ModuleType | None:
    """Return a sketch from the project's shared folder, the yardstick of our own figures; None where it is missing."""
    path = SHARED / "prototypes" / f"{name}.py"
    if not path.is_file():
        print(f"no prototype {name}.py in a shared folder beside the checkout: its columns are left out")
        return None
    spec = importlib.util.spec_from_file_location(f"prototype_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # numba's cache asks for it
    spec.loader.exec_module(module)
    return module


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
