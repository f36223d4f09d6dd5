"""The tables of a run as Arrow tables: companies, flows, components and their certificates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

if TYPE_CHECKING:
    from ouroflow.circulation import Circulation
    from ouroflow.components import ComponentCertificate, Components
    from ouroflow.graph import FlowGraph, Ids
    from ouroflow.graph_gpu import DeviceGraph
    from ouroflow.roundtrip import RoundTrip
    from ouroflow.roundtrip.ranges import FlowRanges, RangedReturns


COMPANY_FIGURES = {
    "round_trip": "round_trip",
    "round_trip_low": "low",
    "round_trip_high": "high",
    "return_fraction": "return_fraction",
    "return_fraction_low": "return_low",
    "return_fraction_high": "return_high",
    "self_funded_fraction": "self_funded",
    "self_funded_fraction_low": "self_low",
    "self_funded_fraction_high": "self_high",
}
"""Columns of companies.parquet that the round-trip room fills, and where it keeps them."""


def identities(graph: FlowGraph | DeviceGraph) -> pa.Array:
    """Return the identity of each company: names where there are any, else the ids."""
    return graph.names if graph.names is not None else pa.array(np.arange(graph.companies))


def companies_table(graph: FlowGraph, components: Components, roundtrip: RoundTrip | None) -> pa.Table:
    """Return one row per company: what it pays and receives, and how much of it comes back (money in minor units)."""
    unknown = np.full(graph.companies, np.nan)
    figures = dict.fromkeys(COMPANY_FIGURES, unknown)
    if roundtrip is not None:
        figures = {name: getattr(roundtrip.companies, field) for name, field in COMPANY_FIGURES.items()}
    return pa.table(
        {
            "company": identities(graph),
            "paid": graph.paid,
            "received": graph.received,
            "component": components.labels,
            **{name: known(figure) for name, figure in figures.items()},
            "external_in": graph.throughflow - graph.received,
            "external_out": graph.throughflow - graph.paid,
        }
    )


def flows_table(graph: FlowGraph, components: Components, roundtrip: RoundTrip | None) -> pa.Table:
    """Return one row per flow; `component` is null between components, `return_fraction` where it was not computed."""
    names = identities(graph)
    labels = components.labels
    payer_label = labels[graph.payer]
    between = payer_label != labels[graph.payee]
    fraction = np.full(graph.flows, np.nan) if roundtrip is None else roundtrip.flows
    return pa.table(
        {
            "payer": names.take(pa.array(graph.payer)),
            "payee": names.take(pa.array(graph.payee)),
            "amount": graph.amount,
            "payments": graph.payments.astype(np.int64, copy=False),
            "component": pa.array(payer_label, mask=between),
            "return_fraction": known(fraction),
            "round_trip": known(graph.amount * fraction),
        }
    )


def components_table(
    graph: FlowGraph, components: Components, roundtrip: RoundTrip | None, circulation: Circulation | None = None
) -> pa.Table:
    """Return one row per component of two companies or more: its size, its inner flows and what goes round in it.

    The bounds of the circulation are float64 (null where it was not computed), rounded to nearest past 2^53.
    """
    count = components.nontrivial
    labels = components.labels
    payer_label = labels[graph.payer]
    inside = (payer_label == labels[graph.payee]) & (payer_label < count)
    amount = np.zeros(count, np.int64)
    np.add.at(amount, payer_label[inside], graph.amount[inside])
    members = labels < count
    back = np.full(graph.companies, np.nan) if roundtrip is None else roundtrip.companies.round_trip
    return pa.table(
        {
            "component": np.arange(count, dtype=np.int32),
            "companies": components.sizes[:count].astype(np.int64, copy=False),
            "flows": np.bincount(payer_label[inside], minlength=count).astype(np.int64, copy=False),
            "amount": amount,
            "round_trip": known(np.bincount(labels[members], back[members], count).astype(np.float64)),
            **{
                f"circulation_{end}": pa.nulls(count, pa.float64())
                if circulation is None
                else getattr(circulation, f"component_{end}").astype(np.float64)
                for end in ("low", "high")
            },
        }
    )


def component_certificate_table(
    graph: FlowGraph, components: Components, certificate: ComponentCertificate
) -> pa.Table:
    """Return both trees of every component of two companies or more, by identity."""
    rows = np.flatnonzero(components.labels < components.nontrivial)
    names = identities(graph)
    return pa.table(
        {
            "company": names.take(pa.array(rows)),
            "component": components.labels[rows],
            "to_root": _neighbour(names, certificate.next_to_root[rows]),
            "to_root_depth": certificate.next_depth[rows].astype(np.int32, copy=False),
            "from_root": _neighbour(names, certificate.next_from_root[rows]),
            "from_root_depth": certificate.from_depth[rows].astype(np.int32, copy=False),
        }
    )


def order_table(certificate: ComponentCertificate) -> pa.Table:
    """Return the rank of every component: flows between two components go from the lower rank to the higher."""
    rank = certificate.rank
    return pa.table({"component": np.arange(rank.size, dtype=np.int32), "rank": rank.astype(np.int64, copy=False)})


def circulation_table(
    graph: FlowGraph, circulation: Circulation, full: npt.NDArray[np.bool_], empty: npt.NDArray[np.bool_]
) -> pa.Table:
    """Return what circulates of each flow (minor units), and whether every maximum circulation fills it or leaves it empty."""
    return pa.table({**_ends(graph), "circulation": circulation.amount, "full": full, "empty": empty})


def potentials_table(graph: FlowGraph, circulation: Circulation) -> pa.Table:
    """Return the potential of each company: the proof that no circulation is larger."""
    return pa.table({"company": identities(graph), "potential": circulation.potentials})


def netting_table(graph: FlowGraph, circulation: Circulation) -> pa.Table:
    """Return one set-off notice per flow of which a part is netted: owed, netted and remaining, minor units.

    Each company is relieved of as much as it gives up.
    """
    rows = np.flatnonzero(circulation.amount)
    owed, netted = graph.amount[rows], circulation.amount[rows]
    return pa.table({**_ends(graph, rows), "amount": owed, "netted": netted, "remaining": owed - netted})


def _ends(graph: FlowGraph, rows: Ids | slice = slice(None)) -> dict[str, pa.Array]:
    names = identities(graph)
    return {side: names.take(pa.array(getattr(graph, side)[rows])) for side in ("payer", "payee")}


def known(figures: npt.NDArray[np.float64]) -> pa.Array:
    """Return figures as an Arrow column, null where they are NaN: not computed."""
    return pa.array(figures, mask=np.isnan(figures))


def ranges_table(graph: FlowGraph, ranges: FlowRanges, found: RangedReturns) -> pa.Table:
    """Return the flows whose amount is announced as a range, with the two scenarios that come closest to the ends of RTF."""
    rows = np.flatnonzero(ranges.low < ranges.high)
    names = identities(graph)
    return pa.table(
        {
            "payer": names.take(pa.array(graph.payer[rows])),
            "payee": names.take(pa.array(graph.payee[rows])),
            "low": ranges.low[rows],
            "high": ranges.high[rows],
            "attained_low": found.attained_low.amount[rows],
            "attained_high": found.attained_high.amount[rows],
        }
    )


def _neighbour(names: pa.Array, company: Ids) -> pa.Array:
    return names.take(pa.array(company, mask=company < 0))
