"""The stages of an analysis in order: ledger, graph, components, round trips, circulation, report.

Data runs one way. Every stage is timed, and what it found is handed to the next one; nothing is computed twice.
"""

from __future__ import annotations

import difflib
import hashlib
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ouroflow.assets import dataset_names, load_dataset
from ouroflow.circulation import Circulation, forced_flows, max_circulation
from ouroflow.components import Components, certify, components_of
from ouroflow.digest import record_sha256, result_digest
from ouroflow.errors import UsageError
from ouroflow.graph import FlowGraph
from ouroflow.graph_gpu import DeviceGraph
from ouroflow.ledger import Ledger, reader
from ouroflow.report import tables
from ouroflow.report.folder import OutFolder
from ouroflow.report.text import printable
from ouroflow.roundtrip import Brackets, RoundTrip, brackets, check_settings, over_ranges, round_trip_fractions
from ouroflow.roundtrip.ranges import FlowRanges, RangedReturns, flow_ranges, out_of_scope
from ouroflow.runtime.device import Device, choose_device
from ouroflow.runtime.launch import Accelerator
from ouroflow.runtime.stages import Stages

MEASURES = ("components", "roundtrip", "circulation")
"""The measures of this version; cycles are named in the design and not wired yet."""

DEFAULT_MEASURES = ("components", "roundtrip")
"""What is computed unless asked otherwise: the maximum circulation is exact and takes seconds per million flows."""

_STATED_ONLY = "at the stated amounts, announced ranges not followed"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user asked for, as run.json keeps it.

    Attributes
    ----------
    measures : tuple of str
        Of components, roundtrip and circulation.
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
    status : tuple of str or None
        Statuses that count; None where nothing was chosen by status.
    reversals, on_bad_rows : str
        What negative amounts and bad rows meant.
    boundary, entities, rates : str or None
        The optional tables.
    scc : str
        Who finds the components on a GPU: own, cugraph.
    """

    measures: tuple[str, ...] = DEFAULT_MEASURES
    tolerance: float = 1e-3
    confidence: float = 0.99
    hops: int | None = None
    top: int = 100
    company: tuple[str, ...] = ()
    seed: int = 0
    decimals: int = 2
    unit: str = ""
    status: tuple[str, ...] | None = None
    reversals: str = "stop"
    on_bad_rows: str = "stop"
    boundary: str | None = None
    entities: str | None = None
    rates: str | None = None
    scc: str = "own"


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
    brackets : Brackets
        Netting, intra-component and bilateral fraction.
    roundtrip : RoundTrip or None
        Round-trip fractions; None when they were not asked for.
    circulation : Circulation or None
        Maximum circulation with its proof; None when it was not asked for.
    settings : Settings
    device : Device
    stages : Stages
        What each stage took.
    named : tuple of int
        Ids of the companies asked for by name.
    family : str
        pandas, polars or arrow: what `companies` and `flows` are given back as.
    over : pair of FlowRanges and RangedReturns, or None
        Announced ranges of the flows, and what is proven over them.
    caveats : tuple of str
        What the card of a bundled data set says about reading its figures.
    """

    name: str
    ledger: Ledger
    graph: FlowGraph
    components: Components
    brackets: Brackets
    roundtrip: RoundTrip | None
    circulation: Circulation | None
    settings: Settings
    device: Device
    stages: Stages
    named: tuple[int, ...] = ()
    family: str = "arrow"
    over: tuple[FlowRanges, RangedReturns] | None = None
    caveats: tuple[str, ...] = ()

    @cached_property
    def companies(self) -> Any:
        """One row per company, as companies.parquet; a pandas, Polars or Arrow table like the source."""
        return _as_family(tables.companies_table(self.graph, self.components, self.roundtrip), self.family)

    @cached_property
    def flows(self) -> Any:
        """One row per flow, as flows.parquet; a pandas, Polars or Arrow table like the source."""
        return _as_family(tables.flows_table(self.graph, self.components, self.roundtrip), self.family)

    def summary(self) -> dict[str, Any]:
        """Return the content of summary.json; keys are stable, measures that were not computed are null."""
        fraction = None if self.roundtrip is None else self.roundtrip.fraction.as_dict()
        finn = None if self.roundtrip is None else self.roundtrip.finn.as_dict()
        circulation = None if self.circulation is None else self.circulation.fraction.as_dict()
        return {
            "companies": self.graph.companies,
            "flows": self.graph.flows,
            "transactions": self.graph.transactions,
            "total": self.graph.total,
            "components": {
                "count": self.components.count,
                "nontrivial": self.components.nontrivial,
                "largest": self.components.largest,
            },
            "round_trip_fraction": fraction,
            "finn_cycling_index": finn,
            "max_circulation_fraction": circulation,
            "netting_fraction": self.brackets.netting.as_dict(),
            "bilateral_fraction": self.brackets.bilateral.as_dict(),
            "intra_component_fraction": self.brackets.intra_component.as_dict(),
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
                components = tables.components_table(self.graph, self.components, self.roundtrip, self.circulation)
                certificate = certify(self.graph, self.components)
                folder.table("companies.parquet", companies)
                folder.table("flows.parquet", flows)
                folder.table("components.parquet", components)
                folder.table(
                    "certificate/components.parquet",
                    tables.component_certificate_table(self.graph, self.components, certificate),
                )
                folder.table("certificate/order.parquet", tables.order_table(certificate))
                if self.circulation is not None:
                    self._save_circulation(folder, self.circulation)
                ranges = None if self.over is None else tables.ranges_table(self.graph, *self.over)
                if ranges is not None:
                    folder.table("certificate/ranges.parquet", ranges)
                if self.ledger.rejected is not None:
                    folder.table("rejected.parquet", self.ledger.rejected)
                folder.json("summary.json", self.summary())
                digest = result_digest(companies, flows, components, ranges)
            record = self.record(folder.sha256, digest)
            folder.json("run.json", {**record, "sha256": record_sha256(record)}, seal=False)
        return path

    def _save_circulation(self, folder: OutFolder, circulation: Circulation) -> None:
        full, empty = forced_flows(self.graph, self.components, circulation)
        folder.table("netting.parquet", tables.netting_table(self.graph, circulation))
        folder.table("certificate/circulation.parquet", tables.circulation_table(self.graph, circulation, full, empty))
        folder.table("certificate/potentials.parquet", tables.potentials_table(self.graph, circulation))

    def record(self, sha256: dict[str, str], digest: str) -> dict[str, Any]:
        """Return the content of run.json."""
        return {
            "name": self.name,
            "inputs": [asdict(file) for file in self.ledger.inputs],
            "columns": self.ledger.columns,
            "notes": list(self.ledger.notes),
            "rows": {
                "read": self.ledger.rows.read,
                "used": self.ledger.rows.used,
                "self_payments": self.ledger.rows.self_payments,
                "rejected": dict(self.ledger.rows.rejected),
            },
            "optional_tables": {
                role: {"path": path, "sha256": _file_sha256(path)}
                for role in ("boundary", "entities", "rates")
                if (path := getattr(self.settings, role)) is not None
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


def analyze(
    source: Any,
    *,
    out: str | Path | None = None,
    payer: str | None = None,
    payee: str | None = None,
    amount: str | None = None,
    time: str | None = None,
    id: str | None = None,
    currency: str | None = None,
    decimals: int | None = None,
    status: Sequence[str] | None = None,
    reversals: str = "stop",
    on_bad_rows: str = "stop",
    boundary: str | Path | None = None,
    entities: str | Path | None = None,
    rates: str | Path | None = None,
    measures: Sequence[str] = DEFAULT_MEASURES,
    tolerance: float = 1e-3,
    hops: int | None = None,
    top: int = 100,
    company: Sequence[str] = (),
    seed: int = 0,
    device: str | Accelerator = "auto",
    scc: str = "own",
    quiet: bool = True,
) -> Analysis:
    """Read payments and compute what goes round.

    Parameters
    ----------
    source : path, list of paths, data frame, table, graph, or the name of a bundled data set
        As for :func:`ouroflow.read_ledger`.
    out : path, optional
        Folder to write; an older result there is replaced. Nothing is written without it.
    payer, payee, amount, time, id, currency : str, optional
        Columns; guessed from their names when unambiguous.
    decimals : int, optional
        Minor units are 10^-decimals of the unit of amounts (default 2; a bundled data set brings its own).
    status : sequence of str, optional
        Count only payments with one of these statuses.
    reversals : {'stop', 'flip'}
        What a negative amount means: an error, or the payee pays back.
    on_bad_rows : {'stop', 'reject'}
        Stop at bad rows, or set them aside in rejected.parquet.
    boundary, entities, rates : path, optional
        Known external flows, companies to merge, exchange rates.
    measures : sequence of str
        Of components, roundtrip and circulation. The maximum circulation is exact and takes seconds per million flows,
        so it is computed only when it is asked for.
    tolerance : float
        Half-width that sampled figures are driven to; 0 asks for exact figures whatever they cost.
    hops : int, optional
        Count round trips of at most so many payments.
    top : int
        Certify so many companies with most round-trip money where not all are exact.
    company : sequence of str
        Certify these companies too.
    seed : int
        Seed of the walks.
    device : {'auto', 'cpu', 'gpu'} or Accelerator
        Where to compute; 'auto' takes an NVIDIA GPU where one can be used.
    scc : {'own', 'cugraph'}
        Who finds the components on a GPU.
    quiet : bool
        Say nothing on stderr.

    Returns
    -------
    Analysis

    Raises
    ------
    UsageError, InputError, ResourceError
        With a message that says what was found, where, and what to do.
    """
    chosen = choose_device(device)
    if scc != "own" and chosen.on is None:
        raise UsageError(
            f"--scc {scc}: cuGraph works on a GPU, and this run is on the CPU ({chosen.why}); leave --scc out"
        )
    measures = _listed(measures)
    _check_measures(measures)
    check_settings(tolerance, 0.99, hops, top, seed)
    if out is not None:
        OutFolder(Path(out))  # refuses what could not be written later
    company, status = _listed(company), None if status is None else _listed(status)
    stages = Stages(quiet=quiet, total=3 + len({"roundtrip", "circulation"} & set(measures)) + (out is not None))
    try:
        stages.note(f"device {chosen.name}: {chosen.why}")
        dataset = load_dataset(source) if isinstance(source, str) and source in dataset_names() else None
        roles: dict[str, str | None] = {
            "payer": payer, "payee": payee, "amount": amount, "time": time, "id": id, "currency": currency,
        }  # fmt: skip
        if dataset is not None:
            roles = {role: column or dataset.roles.get(role) for role, column in roles.items()}
            decimals = dataset.card["decimals"] if decimals is None else decimals
            status = dataset.statuses if status is None else status
        with stages.stage("ledger", f"read {_named(source)}"):
            ledger = reader(chosen.on)(
                source if dataset is None else dataset.path,
                **roles,
                decimals=2 if decimals is None else decimals,
                statuses=None if status is None else set(status),
                reversals=reversals,
                on_bad_rows=on_bad_rows,
                rates=rates,
                entities=entities,
                boundary=boundary,
            )
        for note in ledger.notes:
            stages.note(note)
        settings = Settings(
            measures=tuple(measures),
            tolerance=tolerance,
            hops=hops,
            top=top,
            company=tuple(company),
            seed=seed,
            decimals=ledger.decimals,
            unit=dataset.card["unit"] if dataset is not None else (ledger.currency or ""),
            status=None if status is None else tuple(status),
            reversals=reversals,
            on_bad_rows=on_bad_rows,
            boundary=None if boundary is None else _named(boundary),
            entities=None if entities is None else _named(entities),
            rates=None if rates is None else _named(rates),
            scc=scc,
        )
        caveats = () if dataset is None else tuple(dataset.card["caveats"])
        analysis = _compute(_named(source), ledger, settings, chosen, stages, _family(source))
        analysis = replace(analysis, caveats=caveats)
        if out is not None:
            analysis.save(out)
        return analysis
    finally:
        stages.close()


def _compute(name: str, ledger: Ledger, settings: Settings, device: Device, stages: Stages, family: str) -> Analysis:
    with stages.stage("graph", f"sum {ledger.rows.used:,} payments into flows"):
        graph = ledger.graph(device.on)
    named = tuple(find_company(graph, company) for company in settings.company)
    with stages.stage("components", f"{graph.companies:,} companies, {graph.flows:,} flows"):
        components = components_of(graph, scc=settings.scc)
        if "roundtrip" not in settings.measures:
            bracket = brackets(graph, graph.place(components.labels))
    roundtrip, circulation, over = None, None, None
    if "roundtrip" in settings.measures:
        with stages.stage("roundtrip", f"{components.nontrivial:,} components of two companies or more"):
            roundtrip = round_trip_fractions(
                graph,
                components,
                tolerance=settings.tolerance,
                confidence=settings.confidence,
                hops=settings.hops,
                top=settings.top,
                companies=named,
                seed=settings.seed,
            )
            roundtrip, over = _over_ranges(ledger, graph.host, components, roundtrip, settings, stages)
            bracket = roundtrip.brackets
    if "circulation" in settings.measures:
        with stages.stage("circulation", f"exact, in {components.nontrivial:,} components of two companies or more"):
            if graph.device == "gpu":
                stages.note("the maximum circulation is computed on the CPU: it has no GPU kernels")
            circulation = _circulation(ledger, graph.host, components)
    return Analysis(
        name,
        ledger,
        graph.host,
        components,
        bracket,
        roundtrip,
        circulation,
        settings,
        device,
        stages,
        named,
        family,
        over,
    )


def _circulation(ledger: Ledger, graph: FlowGraph, components: Components) -> Circulation:
    """Find the maximum circulation; where amounts have announced ranges, say that it is that of the stated amounts."""
    found = max_circulation(graph, components)
    if flow_ranges(ledger, graph) is None:
        return found
    return replace(found, fraction=replace(found.fraction, method=f"{found.fraction.method}; {_STATED_ONLY}"))


def _over_ranges(
    ledger: Ledger, graph: FlowGraph, components: Components, roundtrip: RoundTrip, settings: Settings, stages: Stages
) -> tuple[RoundTrip, tuple[FlowRanges, RangedReturns] | None]:
    """Give the figures intervals over announced ranges of amounts, or say why they have none."""
    ranges = flow_ranges(ledger, graph)
    if ranges is None:
        return roundtrip, None
    why_not = "round trips are limited to some hops" if settings.hops else out_of_scope(components, ranges)
    if why_not:
        stages.note(f"amounts have announced ranges; figures are for the stated amounts only: {why_not}")
        stated = f"{roundtrip.method}; {_STATED_ONLY}"
        fraction, finn = (replace(figure, method=stated) for figure in (roundtrip.fraction, roundtrip.finn))
        return replace(roundtrip, fraction=fraction, finn=finn, method=stated), None
    roundtrip, found = over_ranges(graph, components, roundtrip, ranges)
    return roundtrip, (ranges, found)


def find_company(graph: FlowGraph | DeviceGraph, name: str) -> int:
    """Return the id of a company by its identity as text.

    Raises
    ------
    UsageError
        If there is none; close names are listed.
    """
    names = tables.identities(graph).cast(pa.string())
    at = pc.index(names, name).as_py()
    if at < 0:
        close = (
            difflib.get_close_matches(name, names.to_pylist(), n=5, cutoff=0.5) if graph.companies <= 200_000 else []
        )
        hint = f"; close names: {', '.join(map(printable, close))}" if close else ""
        raise UsageError(f"--company {printable(name)}: no such company among {graph.companies:,}{hint}")
    return int(at)


def _file_sha256(path: str) -> str | None:
    """Return the SHA-256 of a file, None for what is no file: a table that was given in memory."""
    if not Path(path).is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _listed(texts: str | Sequence[str]) -> tuple[str, ...]:
    """Return texts as a tuple; one text alone is not its letters."""
    return (texts,) if isinstance(texts, str) else tuple(dict.fromkeys(str(text) for text in texts))


def _check_measures(measures: Sequence[str]) -> None:
    unknown = sorted(set(measures) - set(MEASURES))
    if unknown or not measures:
        raise UsageError(f"--measures {','.join(unknown)}: this version computes {', '.join(MEASURES)}")


def _named(source: Any) -> str:
    if isinstance(source, str | Path):
        return str(source)
    if isinstance(source, list | tuple) and source:
        return f"{source[0]} and {len(source) - 1} more" if len(source) > 1 else str(source[0])
    return f"{type(source).__module__.partition('.')[0]} {type(source).__name__}"


def _family(source: Any) -> str:
    module = type(source).__module__.partition(".")[0]
    return module if module in ("pandas", "polars") else "arrow"


def _as_family(table: pa.Table, family: str) -> Any:
    if family == "pandas":
        return table.to_pandas()
    if family == "polars":
        import polars

        return polars.from_arrow(table)
    return table
