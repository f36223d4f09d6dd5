"""One-pass brackets of the round-trip fraction: netting, intra-component and bilateral fraction, all exact."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from ouroflow.certified import Certified
from ouroflow.graph import exact_sum

if TYPE_CHECKING:
    from ouroflow.graph import FlowGraph
    from ouroflow.graph_gpu import DeviceGraph


@dataclass(frozen=True, slots=True)
class Brackets:
    """What one pass over the flows says about circularity.

    Attributes
    ----------
    netting : Certified
        nu = 1 - sum |in_i - out_i| / 2W: no circulation can be larger.
    intra_component : Certified
        sigma: share of the money that is paid inside a strong component; money outside never returns.
    bilateral : Certified
        beta = sum min(w_ij, w_ji) / W: what two companies alone could set off; every maximum circulation holds at least that.
    """

    netting: Certified
    intra_component: Certified
    bilateral: Certified


def brackets(graph: FlowGraph | DeviceGraph, labels: Any) -> Brackets:
    """Return the exact brackets of a graph with its component labels.

    Parameters
    ----------
    graph : FlowGraph or DeviceGraph
        n companies, m flows, int64 minor units.
    labels : int32 or int64 array of shape (n,)
        Strong component of each company, where the graph lies.

    Returns
    -------
    Brackets
        Quotients of exact integers, rounded once to float64.
    """
    total = graph.total
    if total == 0:
        zero = Certified.exact(0.0, "exact: no flow")
        return Brackets(zero, zero, zero)
    # |in - out| of one company fits int64, for both are at most W < 2^63; their sum may reach 2W and is added in Python integers.
    imbalance = exact_sum(abs(graph.received - graph.paid))
    inside = labels[graph.payer] == labels[graph.payee]
    return Brackets(
        netting=_fraction(2 * total - imbalance, 2 * total),
        intra_component=_fraction(exact_sum(graph.amount[inside]), total),
        bilateral=_fraction(exact_sum(mutual_amounts(graph)), total),
    )


def mutual_amounts(graph: FlowGraph | DeviceGraph) -> Any:
    """Return min(w_ij, w_ji) for every flow i -> j that has a flow j -> i: int64 array, where the graph lies.

    Both key lists are sorted by construction (flows by payer then payee, reverse flows by payee then payer), so the search
    runs through memory in order: O(m log m) steps, O(m) of them missing the cache at worst.
    """
    forward = graph.payer.astype(np.int64) * graph.companies + graph.payee
    backward = graph.payee[graph.in_flow].astype(np.int64) * graph.companies + graph.in_payer
    if not len(forward):
        return graph.amount
    at = graph.xp.searchsorted(backward, forward)
    at[at == len(backward)] = 0
    both = backward[at] == forward
    return graph.xp.minimum(graph.amount[both], graph.amount[graph.in_flow[at[both]]])


def _fraction(part: int, whole: int) -> Certified:
    return Certified.exact(float(Fraction(part, whole)), "exact")
