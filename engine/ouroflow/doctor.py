"""What this machine offers to ouroflow: device, driver, packages, memory, test lanes, and what to install."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from ouroflow.errors import ResourceError
from ouroflow.runtime.device import choose_device, usable_gpu
from ouroflow.runtime.launch import programs
from ouroflow.runtime.memory import available_bytes

ENGINE = ("ouroflow", "numpy", "numba", "scipy", "pyarrow", "fsspec")
RAPIDS = {
    "cudf": "reading and cleaning on the device",
    "cugraph": "--scc cugraph",
    "rmm": "one memory pool for cuDF and CuPy",
    "dask_cudf": "clusters of GPUs",
    "dask_cuda": "clusters of GPUs",
}
"""Packages that a GPU run can do without, and what they add."""


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes
    ----------
    machine, packages, device, rapids : dict
        Name to finding, for people and for JSON.
    lanes : dict of str to str
        Test lanes; an empty text where the lane can run here, else the reason why it cannot.
    advice : list of str
        What to install or change.
    """

    machine: dict[str, str]
    packages: dict[str, str]
    device: dict[str, str]
    rapids: dict[str, str]
    lanes: dict[str, str]
    advice: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the content of ``ouroflow doctor --json``."""
        return dict(vars(self))

    def render(self) -> str:
        """Return the findings as text."""
        lanes = {name: why or "can run here" for name, why in self.lanes.items()}
        parts = {
            "machine": self.machine, "packages": self.packages, "device": self.device, "rapids": self.rapids,
            "test lanes": lanes,
        }  # fmt: skip
        lines = []
        for title, findings in parts.items():
            lines += [title, *(f"  {name:<12} {finding}" for name, finding in findings.items())]
        return "\n".join([*lines, *(f"-> {line}" for line in self.advice)])


def diagnose() -> Diagnosis:
    """Look at the machine; nothing is compiled or changed."""
    chosen = choose_device("auto")
    device = {"chosen": f"{chosen.name}: {chosen.why}"}
    advice = []
    try:
        on = usable_gpu()
        device |= {
            "name": on.name,
            "capability": ".".join(map(str, on.capability)),
            "driver": _cuda_version(on.xp.cuda.runtime.driverGetVersion()),
            "runtime": _cuda_version(on.xp.cuda.runtime.runtimeGetVersion()),
            "free memory": _gigabytes(on.free_bytes()),
        }
    except ResourceError as error:
        advice.append(f"for GPU runs: {error}")
    rapids = {name: _installed(name) or f"not installed (adds {use})" for name, use in RAPIDS.items()}
    if chosen.name == "gpu" and _installed("cudf") is None:
        advice.append("cuDF is not installed: pyarrow reads on the host, and the device takes over from there")
    lanes = {name: why or "" for name, why in lane_obstacles().items()}
    return Diagnosis(
        machine={
            "system": platform.platform(),
            "python": platform.python_version(),
            "cores": str(len(os.sched_getaffinity(0))),
            "free memory": _gigabytes(available_bytes()),
        },
        packages={name: _version(name) or "not installed" for name in (*ENGINE, "cupy")},
        device=device,
        rapids=rapids,
        lanes=lanes,
        advice=advice,
    )


def lane_obstacles() -> dict[str, str | None]:
    """Return why each test lane cannot run on this machine, None where it can."""
    compiler = None if shutil.which("g++") else "g++ is not installed"
    return {
        "cpu": None,
        "host": compiler,
        "sanitize": compiler or _no_sanitizers(),
        "nvrtc": _no_nvrtc(),
        "contract": None,
        "gpu": _no_device(),
    }


def _no_sanitizers() -> str | None:
    for library in ("libtsan.so", "libasan.so"):
        # g++ answers with a path where it has the library, with the bare name where it has not.
        found = subprocess.run(["g++", f"-print-file-name={library}"], capture_output=True, text=True, check=False)
        if "/" not in found.stdout:
            return f"g++ has no {library}"
    return None


def _no_nvrtc() -> str | None:
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError) as error:
        return f"NVRTC cannot be loaded ({str(error).splitlines()[0]}); pip install cuda-bindings nvidia-cuda-nvrtc"
    return None


def _no_device() -> str | None:
    try:
        usable_gpu()
    except ResourceError as error:
        return str(error)
    return None


def warm() -> dict[str, float]:
    """Compile every kernel for the device at hand; CuPy keeps the results on disk.

    Returns
    -------
    dict of str to float
        Seconds by kernel file.

    Raises
    ------
    ResourceError
        If there is no device to compile for.
    """
    on = usable_gpu()
    seconds = {}
    for program in programs():
        began = time.perf_counter()
        on.warm(program)
        seconds[program.file] = time.perf_counter() - began
    return seconds


def _installed(name: str) -> str | None:
    return (_version(name) or "installed") if importlib.util.find_spec(name) is not None else None


def _version(name: str) -> str | None:
    """Return the version of a package, whose distribution may carry a CUDA version in its name."""
    for distribution in metadata.packages_distributions().get(name, [name]):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None


def _cuda_version(number: int) -> str:
    return f"CUDA {number // 1000}.{number % 1000 // 10}"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
