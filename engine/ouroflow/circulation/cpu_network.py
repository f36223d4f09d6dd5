"""The flows on which money can circulate, laid out for the solver.

Only flows inside a strong component can be netted. They are copied into a network of its own, in which companies are
numbered by component and, inside it, by falling number of flows: the few companies that touch most flows then share
cache lines. All components stand in one network and are solved together, so that 10^5 tiny ones cost no more than
their flows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

if TYPE_CHECKING:
    from ouroflow.graph import FlowGraph, Ids

Int64s = npt.NDArray[np.int64]
Positions = npt.NDArray[np.int32] | npt.NDArray[np.int64]


class Network(NamedTuple):
    """Flows inside components, by payer and by payee.

    Attributes
    ----------
    out_offsets : int32 or int64 array of shape (members + 1,)
        The flows of payer ``i`` are ``out_offsets[i]:out_offsets[i + 1]``.
    payee : int32 or int64 array of shape (flows,)
        Who is paid, in the numbers of the network.
    amount : int64 array of shape (flows,)
        Minor units, positive.
    in_offsets : int32 or int64 array of shape (members + 1,)
        The same flows by payee.
    in_payer : int32 or int64 array of shape (flows,)
        Who pays, in the order by payee.
    """

    out_offsets: Any
    payee: Any
    amount: Any
    in_offsets: Any
    in_payer: Any


class Members(NamedTuple):
    """Where the parts of a network stand in its graph.

    Attributes
    ----------
    company : int32 or int64 array of shape (members,)
        Company of the graph.
    flow : int32 or int64 array of shape (flows,)
        Position of the flow in the graph.
    """

    company: Any
    flow: Any


def network_of(graph: FlowGraph, labels: Ids, nontrivial: int) -> tuple[Network, Members]:
    """Lay out the flows inside the components 0..nontrivial-1.

    Parameters
    ----------
    graph : FlowGraph
        n companies, m flows.
    labels : int32 array of shape (n,)
        Component of each company, by falling size.
    nontrivial : int
        Number of components of two companies or more.

    Notes
    -----
    O(n + m). Memory: 20 bytes per flow inside and 20 per company (int32 positions).
    """
    inner, flows = _inner_degrees(graph.out_offsets, graph.payee, labels)
    company = _by_component_and_degree(inner, labels, nontrivial)
    # Pairs of arcs are numbered too, hence half the span.
    position = np.int32 if 2 * flows < 2**31 else np.int64
    number = np.full(graph.companies, -1, dtype=graph.payee.dtype)
    number[company] = np.arange(company.size, dtype=graph.payee.dtype)
    out_offsets, in_offsets = np.zeros((2, company.size + 1), dtype=position)
    payee, in_payer = np.empty((2, flows), dtype=graph.payee.dtype)
    amount, flow = np.empty(flows, dtype=np.int64), np.empty(flows, dtype=graph.in_flow.dtype)
    _fill_by_payer(
        graph.out_offsets,
        graph.payee,
        graph.amount,
        labels,
        company,
        number,
        out_offsets,
        payee,
        amount,
        flow,
        in_offsets,
    )
    _fill_by_payee(out_offsets, payee, in_offsets, in_payer)
    return Network(out_offsets, payee, amount, in_offsets, in_payer), Members(company, flow)


def _by_component_and_degree(inner: Int64s, labels: Ids, nontrivial: int) -> Any:
    """Return the companies of nontrivial components, by component, then by falling degree, then by number."""
    member = np.flatnonzero(labels < nontrivial)
    return member[np.lexsort((-inner[member], labels[member]))]


@njit(cache=True, nogil=True)
def _inner_degrees(out_offsets: Any, payee: Any, labels: Any) -> Any:
    """Count for each company its flows inside its component, paid and received, and all such flows."""
    degree = np.zeros(labels.size, np.int64)
    flows = 0
    for payer in range(labels.size):
        label = labels[payer]
        for flow in range(out_offsets[payer], out_offsets[payer + 1]):
            if labels[payee[flow]] == label:
                degree[payer] += 1
                degree[payee[flow]] += 1
                flows += 1
    return degree, flows


@njit(cache=True, nogil=True)
def _fill_by_payer(
    graph_offsets: Any,
    graph_payee: Any,
    graph_amount: Any,
    labels: Any,
    company: Any,
    number: Any,
    out_offsets: Any,
    payee: Any,
    amount: Any,
    flow: Any,
    in_offsets: Any,
) -> None:
    """Copy the inner flows payer by payer, and count those of each payee into in_offsets (shifted by one)."""
    filled = 0
    for payer in range(company.size):
        own = company[payer]
        label = labels[own]
        for at in range(graph_offsets[own], graph_offsets[own + 1]):
            other = graph_payee[at]
            if labels[other] == label:
                payee[filled] = number[other]
                amount[filled] = graph_amount[at]
                flow[filled] = at
                in_offsets[number[other] + 1] += 1
                filled += 1
        out_offsets[payer + 1] = filled


@njit(cache=True, nogil=True)
def _fill_by_payee(out_offsets: Any, payee: Any, in_offsets: Any, in_payer: Any) -> None:
    """Turn the counts into offsets, and list the payers of each payee in their order."""
    for member in range(in_offsets.size - 1):
        in_offsets[member + 1] += in_offsets[member]
    free = in_offsets[:-1].copy()
    for payer in range(out_offsets.size - 1):
        for flow in range(out_offsets[payer], out_offsets[payer + 1]):
            in_payer[free[payee[flow]]] = payer
            free[payee[flow]] += 1
