"""The proof of a circulation, checked in exact integers by code that shares nothing with the solver.

A circulation takes from every flow at most its amount, and from every company as much as it gives. Any integer
potentials bound all circulations from above (weak duality): around a circulation the potential differences cancel, so
its value is sum c (1 - potential[payer] + potential[payee]), and that is at most sum w max(0, 1 - potential[payer] +
potential[payee]) over the flows inside components. Where both are equal, both are optimal.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ouroflow.errors import VerificationError

if TYPE_CHECKING:
    from ouroflow.graph import FlowGraph, Ids

Int64s = npt.NDArray[np.int64]

_PIECE = 21  # bits
_PIECE_MASK = np.int64(2**_PIECE - 1)
_CHUNK = 1 << 20


def check_circulation(graph: FlowGraph, amount: Int64s) -> None:
    """Check that 0 <= amount <= flow, and that every company gives as much as it takes.

    Parameters
    ----------
    graph : FlowGraph
        n companies, m flows.
    amount : int64 array of shape (m,)
        What circulates of each flow, minor units.

    Raises
    ------
    VerificationError
        Naming the first flow or company that is wrong.
    """
    if amount.shape != (graph.flows,):
        raise VerificationError(
            f"the circulation has shape {amount.shape} for {graph.flows} flows: one amount per flow"
        )
    outside = np.flatnonzero((amount < 0) | (amount > graph.amount))
    if outside.size:
        flow = int(outside[0])
        raise VerificationError(
            f"flow {flow} ({graph.payer[flow]} -> {graph.payee[flow]}) of {graph.amount[flow]} minor units "
            f"has {amount[flow]} in the circulation: it must be from 0 to the flow"
        )
    given, taken = _row_sums(amount, graph.out_offsets), _row_sums(amount[graph.in_flow], graph.in_offsets)
    unbalanced = np.flatnonzero(given != taken)
    if unbalanced.size:
        company = int(unbalanced[0])
        raise VerificationError(
            f"company {company} gives {given[company]} and takes {taken[company]} minor units in the circulation: "
            "it must be the same"
        )


def bounds(
    graph: FlowGraph, labels: Ids, count: int, amount: Int64s, potentials: Int64s
) -> tuple[list[int], list[int]]:
    """Return, for the components 0..count-1, the value of the circulation and the bound of the potentials, exact.

    Parameters
    ----------
    graph : FlowGraph
        n companies, m flows.
    labels : int array of shape (n,)
        Component of each company.
    count : int
        How many components to look at; flows outside them and between components cannot circulate.
    amount : int64 array of shape (m,)
        A circulation, minor units.
    potentials : int64 array of shape (n,)
        Any integers below 2^62 in size.

    Raises
    ------
    VerificationError
        If a flow that is not inside one of the components circulates.
    """
    label = labels[graph.payer]
    inside = (label == labels[graph.payee]) & (label < count)
    stray = np.flatnonzero((amount != 0) & ~inside)
    if stray.size:
        raise VerificationError(f"flow {stray[0]} is not inside a component, but {amount[stray[0]]} of it circulates")
    reduced = 1 - potentials[graph.payer[inside]] + potentials[graph.payee[inside]]
    label = label[inside]
    whole = _sums(graph.amount[inside], label, count)
    above = _weighted_sums(graph.amount[inside], np.maximum(reduced, 0), label, count)
    return _sums(amount[inside], label, count), [min(pair) for pair in zip(above, whole, strict=True)]


def _row_sums(values: Int64s, offsets: Int64s) -> Int64s:
    """Sum each row; all values lie within flows whose sum fits int64, and so do the sums."""
    running = np.zeros(values.size + 1, np.int64)
    np.cumsum(values, out=running[1:])
    return np.diff(running[offsets])


def _sums(money: Int64s, label: Ids, count: int) -> list[int]:
    """Return the sum of each label; all money together fits int64."""
    if count == 1:
        return [int(money.sum())]
    sums = np.zeros(count, np.int64)
    np.add.at(sums, label, money)
    return sums.tolist()


def _weighted_sums(money: Int64s, weight: Int64s, label: Ids, count: int) -> list[int]:
    """Return sum money x weight of each label in exact integers, for 0 <= money and 0 <= weight < 2^63."""
    if not money.size or int(weight.max()) * int(money.sum()) < 2**63:
        return _sums(money * weight, label, count)
    # Products of 21-bit pieces: 2^21 of them fit int64, so they are added in chunks.
    totals = [0] * count
    for at, by in itertools.product(range(0, 63, _PIECE), repeat=2):
        for start in range(0, money.size, _CHUNK):
            chunk = slice(start, start + _CHUNK)
            piece = ((money[chunk] >> at) & _PIECE_MASK) * ((weight[chunk] >> by) & _PIECE_MASK)
            for component, part in enumerate(_sums(piece, label[chunk], count)):
                totals[component] += part << (at + by)
    return totals
