"""One-pass brackets of the round-trip fraction: netting, intra-component and bilateral fraction, all exact."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ouroflow.certified import Certified
from ouroflow.graph import exact_sum

if TYPE_CHECKING:
    from ouroflow.graph import FlowGraph, Ids


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


def brackets(graph: FlowGraph, labels: Ids) -> Brackets:
    """Return the exact brackets of a graph with its component labels.

    Parameters
    ----------
    graph : FlowGraph
        n companies, m flows, int64 minor units.
    labels : ndarray of int32, shape (n,)
        Strong component of each company.

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
    imbalance = exact_sum(np.abs(graph.received - graph.paid))
    inside = labels[graph.payer] == labels[graph.payee]
    return Brackets(
        netting=_fraction(2 * total - imbalance, 2 * total),
        intra_component=_fraction(exact_sum(graph.amount[inside]), total),
        bilateral=_fraction(exact_sum(mutual_amounts(graph)), total),
    )


def mutual_amounts(graph: FlowGraph) -> npt.NDArray[np.int64]:
    """Return min(w_ij, w_ji) for every flow i -> j that has a flow j -> i.

    Both key lists are sorted by construction (flows by payer then payee, reverse flows by payee then payer), so the search
    runs through memory in order: O(m log m) steps, O(m) of them missing the cache at worst.
    """
    n = np.int64(graph.companies)
    forward = graph.payer.astype(np.int64) * n + graph.payee
    owner = np.repeat(np.arange(graph.companies, dtype=np.int64), np.diff(graph.in_offsets))
    backward = owner * n + graph.in_payer
    at = np.searchsorted(backward, forward)
    at[at == backward.size] = 0
    both = backward[at] == forward if backward.size else np.zeros(0, bool)
    return np.minimum(graph.amount[both], graph.amount[graph.in_flow[at[both]]])


def _fraction(part: int, whole: int) -> Certified:
    return Certified.exact(float(Fraction(part, whole)), "exact")
