"""ouroflow: money that goes round, measured and proven.

Everything public is reachable from here and loaded on first use, so that ``import ouroflow`` stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ouroflow.certified import Certified
from ouroflow.errors import (
    InputError,
    Interrupted,
    OuroflowError,
    ResourceError,
    UsageError,
    VerificationError,
)

if TYPE_CHECKING:
    from ouroflow.analysis import Analysis, analyze
    from ouroflow.circulation import Circulation, max_circulation
    from ouroflow.components import Components, components_of, strong_components
    from ouroflow.cycles import Cycles, time_ordered_cycles
    from ouroflow.graph import FlowGraph
    from ouroflow.ledger import Ledger, read_ledger
    from ouroflow.roundtrip import RoundTrip, round_trip_fractions

_HOME = {
    "Analysis": "analysis",
    "analyze": "analysis",
    "Circulation": "circulation",
    "max_circulation": "circulation",
    "Cycles": "cycles",
    "time_ordered_cycles": "cycles",
    "Components": "components",
    "components_of": "components",
    "strong_components": "components",
    "FlowGraph": "graph",
    "Ledger": "ledger",
    "read_ledger": "ledger",
    "RoundTrip": "roundtrip",
    "round_trip_fractions": "roundtrip",
}

__all__ = [
    "Analysis",
    "Certified",
    "Circulation",
    "Components",
    "Cycles",
    "FlowGraph",
    "InputError",
    "Interrupted",
    "Ledger",
    "OuroflowError",
    "ResourceError",
    "RoundTrip",
    "UsageError",
    "VerificationError",
    "analyze",
    "components_of",
    "max_circulation",
    "read_ledger",
    "round_trip_fractions",
    "strong_components",
    "time_ordered_cycles",
]


def _keep_kernels_somewhere() -> None:
    """Give numba a folder of this process where it can write neither beside the package nor in the user's cache.

    The folder is private and goes with the process: compiled kernels from a place that others can write to are never loaded.
    """
    import os
    from pathlib import Path

    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    places = (Path(__file__).parent, next(part for part in (home, *home.parents) if part.exists()))
    if "NUMBA_CACHE_DIR" not in os.environ and not any(os.access(place, os.W_OK) for place in places):
        import atexit
        import shutil
        import tempfile

        os.environ["NUMBA_CACHE_DIR"] = folder = tempfile.mkdtemp(prefix="ouroflow-kernels-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


_keep_kernels_somewhere()


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'ouroflow' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"ouroflow.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
