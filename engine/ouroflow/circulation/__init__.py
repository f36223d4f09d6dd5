"""Maximum circulation: how much of all that is paid could be netted, and the proof that it is not more.

A circulation takes a part of every flow so that each company gives as much as it takes: those payments can be set off
against each other without anyone losing. The maximum circulation fraction mu* is the largest share of all money that
can. The circulation itself is one of many optimal ones, never a property of a flow; the number is unique, and so are
the flows that every optimum fills or leaves empty.

The door of the room; `cpu` solves, `certificate` checks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ouroflow.certified import Certified
from ouroflow.errors import UsageError

if TYPE_CHECKING:
    from ouroflow.components import Components
    from ouroflow.graph import FlowGraph

__all__ = ["Circulation", "check_settings", "forced_flows", "max_circulation"]

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Circulation:
    """The answer of the room; all money in int64 minor units.

    Attributes
    ----------
    fraction : Certified
        mu*, the share of all money that could be netted.
    amount : int64 array of shape (flows,)
        What is netted of each flow, in payer order: a feasible circulation, one of many of its value.
    potentials : int64 array of shape (companies,)
        Prove the upper bound sum w max(0, 1 - potentials[payer] + potentials[payee]) over the flows inside components.
        The smallest of each component is 0.
    component_low, component_high : int64 array of shape (nontrivial components,)
        Netted money of each component of two companies or more, and its upper bound; equal where exact.
    """

    fraction: Certified
    amount: Int64s
    potentials: Int64s
    component_low: Int64s
    component_high: Int64s


def max_circulation(
    graph: FlowGraph,
    components: Components | None = None,
    *,
    tolerance: float = 0.0,
    seconds: float | None = None,
) -> Circulation:
    """Find the maximum circulation of a flow graph, with proof.

    Parameters
    ----------
    graph : FlowGraph
        n companies, m flows, int64 minor units.
    components : Components, optional
        The strong components of `graph`; found here if not given.
    tolerance : float
        Largest width of the certified interval of mu*, 0 <= tolerance < 1. 0: the exact maximum.
    seconds : float, optional
        Stop the search after about so long and give the interval that is proven by then; laying out the flows, and the
        repair that makes a circulation of what was reached, come on top.

    Returns
    -------
    Circulation
        The same for the same graph, whatever the number of threads, unless `seconds` ran out.

    Raises
    ------
    UsageError
        If `tolerance` or `seconds` make no sense, or `components` are not of this graph.

    References
    ----------
    The measure: D'Errico & Roukny (2021), "Compressing over-the-counter markets"; Fleischman & Dini (2021),
    "Mathematical foundations for balancing the payment system in the trade credit market"; Homs-Dones, MacKay, Sansom &
    Zhou (2025), "Maximum circularity", arXiv 2506.12546.
    """
    from ouroflow.circulation import certificate
    from ouroflow.circulation.cpu import solve

    check_settings(tolerance, seconds)
    if components is None:
        from ouroflow.components import components_of

        components = components_of(graph)
    if components.labels.size != graph.companies:
        raise UsageError(
            f"the components hold {components.labels.size} companies and the graph {graph.companies}: "
            "pass the components of this graph"
        )
    labels, count = components.labels, components.nontrivial
    found = solve(graph, labels, count, tolerance=tolerance, seconds=seconds)
    certificate.check_circulation(graph, found.amount)
    low, high = certificate.bounds(graph, labels, count, found.amount, found.potential)
    return Circulation(
        fraction=_fraction(sum(low), sum(high), graph.total, _method(found.phases, low == high, seconds)),
        amount=found.amount,
        potentials=found.potential,
        component_low=np.array(low, np.int64),
        component_high=np.array(high, np.int64),
    )


def forced_flows(
    graph: FlowGraph, components: Components, circulation: Circulation
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Tell which flows every maximum circulation fills, and which every one leaves empty.

    Two maximum circulations differ by rings in the residual graph of tight flows (payer one potential above payee). So
    a flow that is full or empty in one of them is so in all, unless payer and payee are in one strong component of that
    graph; and a flow that is not tight is always full or always empty.

    Parameters
    ----------
    graph : FlowGraph
        n companies, m flows.
    components : Components
        The strong components of `graph`.
    circulation : Circulation
        What `max_circulation` found for them.

    Returns
    -------
    full, empty : bool arrays of shape (m,)
        Exact. Nothing is known of the flows of a component whose circulation is not proven to be maximum: they are in
        neither.
    """
    from ouroflow.components import strong_components

    labels, payer, payee = components.labels, graph.payer, graph.payee
    inside = (labels[payer] == labels[payee]) & (labels[payer] < components.nontrivial)
    reduced = 1 - circulation.potentials[payer] + circulation.potentials[payee]
    tight = inside & (reduced == 0)
    undo, redo = tight & (circulation.amount > 0), tight & (circulation.amount < graph.amount)
    ring = strong_components(
        np.concatenate([payer[undo], payee[redo]]), np.concatenate([payee[undo], payer[redo]]), graph.companies
    )
    settled = ~inside
    settled[inside] = (circulation.component_low == circulation.component_high)[labels[payer[inside]]]
    settled &= ~tight | (ring[payer] != ring[payee])
    return settled & (circulation.amount == graph.amount), settled & (circulation.amount == 0)


def check_settings(tolerance: float, seconds: float | None) -> None:
    """Refuse settings that make no sense, before anything is read or computed.

    Raises
    ------
    UsageError
        Naming the setting and what it may be.
    """
    if not 0 <= tolerance < 1:
        raise UsageError(f"tolerance {tolerance}: give a number from 0 (exact) to below 1, such as 1e-3")
    if seconds is not None and not seconds >= 0:
        raise UsageError(f"seconds {seconds}: give a time budget of 0 or more, or None for no limit")


def _method(phases: int, exact: bool, seconds: float | None) -> str:
    how = f"{phases} phases of the unit-cost primal-dual method"
    if exact:
        return f"exact: {how}; the circulation equals the bound of the potentials"
    why = "the tolerance or the time budget" if seconds is not None else "the tolerance"
    return f"bounds: {how}, stopped early by {why}; low is a circulation, high the bound of the potentials"


def _fraction(low: int, high: int, total: int, method: str) -> Certified:
    """Return the interval in float64, rounded outwards where the bounds differ; the value is what is proven to exist."""
    if total == 0:
        return Certified.exact(0.0, "exact: no flow")
    least = float(Fraction(low, total))
    if low == high:
        return Certified.exact(least, method)
    least, most = math.nextafter(least, 0.0), math.nextafter(float(Fraction(high, total)), 1.0)
    return Certified(least, least, most, method)
