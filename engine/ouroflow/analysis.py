"""The stages of an analysis in order: ledger, graph, components, round trips, report.

Data runs one way. Every stage is timed, and what it found is handed to the next one; nothing is computed twice.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ouroflow.assets import dataset_names, load_dataset
from ouroflow.components import ComponentCertificate, Components, certify, components_of
from ouroflow.digest import result_digest
from ouroflow.errors import UsageError
from ouroflow.graph import FlowGraph, exact_sum
from ouroflow.ledger import Ledger, read_ledger
from ouroflow.report import tables
from ouroflow.report.folder import OutFolder
from ouroflow.roundtrip import RoundTrip, round_trip_fractions
from ouroflow.runtime.device import Device, choose_device
from ouroflow.runtime.stages import Stages

if TYPE_CHECKING:
    import numpy.typing as npt

MEASURES = ("components", "roundtrip")
"""The measures of this version; circulation and cycles are named in the design and not built yet."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user asked for, as run.json keeps it.

    Attributes
    ----------
    measures : tuple of str
        components, roundtrip.
    tolerance : float
        Half-width that sampled fractions and certified companies are driven to.
    confidence : float
        Level of sampled intervals.
    hops : int or None
        Longest round trip that counts.
    top : int
        Companies certified beyond the screen.
    company : tuple of str
        Companies certified by name.
    seed : int
        Seed of every random choice.
    decimals : int
        Minor units are 10^-decimals of a unit.
    unit : str
        Unit of money in words, empty where nobody stated it.
    """

    measures: tuple[str, ...] = MEASURES
    tolerance: float = 1e-3
    confidence: float = 0.99
    hops: int | None = None
    top: int = 100
    company: tuple[str, ...] = ()
    seed: int = 0
    decimals: int = 2
    unit: str = ""


@dataclass(frozen=True, eq=False)
class Analysis:
    """A finished analysis.

    Attributes
    ----------
    name : str
        What was analysed, for people.
    ledger : Ledger
        The payments with the account of every row.
    graph : FlowGraph
        Who pays whom how much.
    components : Components
        Strong components of the graph.
    roundtrip : RoundTrip or None
        Round-trip fractions; None when they were not asked for.
    settings : Settings
    device : Device
    stages : Stages
        What each stage took.
    """

    name: str
    ledger: Ledger
    graph: FlowGraph
    components: Components
    roundtrip: RoundTrip
    settings: Settings
    device: Device
    stages: Stages

    def summary(self) -> dict[str, Any]:
        """Return the content of summary.json; keys are stable, measures that were not computed are null."""
        brackets = self.roundtrip.brackets
        sizes = self.components.sizes
        return {
            "companies": self.graph.companies,
            "flows": self.graph.flows,
            "transactions": self.graph.transactions,
            "total": self.graph.total,
            "components": {
                "count": self.components.count,
                "nontrivial": self.components.nontrivial,
                "largest": int(sizes[0]) if sizes.size else 0,
            },
            "round_trip_fraction": self.roundtrip.fraction.as_dict(),
            "finn_cycling_index": self.roundtrip.finn.as_dict(),
            "max_circulation_fraction": None,
            "netting_fraction": brackets.netting.as_dict(),
            "bilateral_fraction": brackets.bilateral.as_dict(),
            "intra_component_fraction": brackets.intra_component.as_dict(),
            "cycles": None,
        }

    def save(self, out: str | Path) -> Path:
        """Write the OUT folder, whole or not at all, and return its path.

        Raises
        ------
        UsageError
            If `out` is a file or holds something else.
        ResourceError
            If the disk is full.
        """
        path = Path(out)
        with OutFolder(path) as folder:
            with self.stages.stage("report", f"write {path}"):
                companies = tables.companies_table(self.graph, self.components, self.roundtrip)
                flows = tables.flows_table(self.graph, self.components, self.roundtrip)
                components = tables.components_table(self.graph, self.components, self.roundtrip)
                certificate = certify(self.graph, self.components)
                folder.table("companies.parquet", companies)
                folder.table("flows.parquet", flows)
                folder.table("components.parquet", components)
                folder.table(
                    "certificate/components.parquet",
                    tables.component_certificate_table(self.graph, self.components, certificate),
                )
                folder.table("certificate/order.parquet", tables.order_table(certificate))
                if self.ledger.rejected is not None:
                    folder.table("rejected.parquet", self.ledger.rejected)
                folder.json("summary.json", self.summary())
                digest = result_digest(companies, flows, components)
            folder.json("run.json", self.record(folder.sha256, digest), seal=False)
        return path

    def record(self, sha256: dict[str, str], digest: str) -> dict[str, Any]:
        """Return the content of run.json."""
        return {
            "name": self.name,
            "inputs": [asdict(file) for file in self.ledger.inputs],
            "columns": self.ledger.columns,
            "rows": {
                "read": self.ledger.rows.read,
                "used": self.ledger.rows.used,
                "self_payments": self.ledger.rows.self_payments,
                "rejected": dict(self.ledger.rows.rejected),
            },
            "settings": asdict(self.settings),
            "versions": versions(),
            "device": {"name": self.device.name, "why": self.device.why},
            "seeds": {"walks": self.settings.seed},
            "stages": [stage.as_dict() for stage in self.stages.done],
            "tables": sha256,
            "digest": digest,
        }


def versions() -> dict[str, str]:
    """Return the versions that a figure depends on."""
    packages = ("ouroflow", "numpy", "numba", "scipy", "pyarrow")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}
