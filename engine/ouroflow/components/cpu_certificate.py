"""The certificate of a partition into strong components, on a CPU: trees inside the components, an order between them.

Two breadth-first searches and one pass of Kahn's (1962) topological sort, one thread each. Reads every flow four times; working
memory 4 bytes per company for the trees and 16 for the ranks, beside the result (int32 ids).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from ouroflow.components.cpu import as_input
from ouroflow.components.threads import in_threads
from ouroflow.errors import UsageError

Ids = npt.NDArray[Any]
Offsets = npt.NDArray[np.int64]


def trees(
    out_offsets: Offsets, payee: Ids, in_offsets: Offsets, in_payer: Ids, labels: Ids, nontrivial: int
) -> tuple[tuple[Ids, Ids], tuple[Ids, Ids]]:
    """Return (next company, depth) to the root and (previous company, depth) from the root, for components below `nontrivial`."""
    roots = _smallest_members(labels, nontrivial)

    def tree(offsets: Offsets, neighbour: Ids) -> tuple[Ids, Ids, int]:
        parent, depth = np.full(labels.size, -1, labels.dtype), np.full(labels.size, -1, labels.dtype)
        queue = np.empty(labels.size, labels.dtype)
        reached = _grow_trees(
            as_input(offsets), as_input(neighbour), as_input(labels), roots, parent, depth, queue
        )
        return parent, depth, reached

    towards, away = in_threads(lambda: tree(in_offsets, in_payer), lambda: tree(out_offsets, payee))
    members = int(np.count_nonzero(labels < nontrivial))
    if (towards[2], away[2]) != (members, members):
        raise UsageError(
            f"of {members} companies in components of two or more, {towards[2]} reach their root and {away[2]} are reached from it: "
            "these are not the components of this graph"
        )
    return towards[:2], away[:2]


def ranks(out_offsets: Offsets, payee: Ids, labels: Ids, count: int) -> npt.NDArray[np.int64]:
    """Return for each component the number of flows on the longest chain of components that leads to it."""
    rank, entering = np.zeros(count, np.int64), np.zeros(count, np.int64)
    queue, first_member = np.empty(count, labels.dtype), np.full(count, -1, labels.dtype)
    next_member = np.empty(labels.size, labels.dtype)
    ordered = _rank_components(
        as_input(out_offsets), as_input(payee), as_input(labels), rank, entering, queue, first_member, next_member
    )
    if ordered != count:
        raise UsageError(f"{count - ordered} of {count} components lie on cycles: these are not the components of this graph")
    return rank


def _smallest_members(labels: Ids, nontrivial: int) -> Ids:
    """Return the smallest company of each component below `nontrivial`."""
    roots = np.full(nontrivial, labels.size, labels.dtype)
    members = np.flatnonzero(labels < nontrivial)
    # Of several values for one place NumPy keeps the last: from the back, that is the smallest company.
    roots[labels[members[::-1]]] = members[::-1]
    return roots


@njit(cache=True, nogil=True)
def _grow_trees(offsets, neighbour, labels, roots, parent, depth, queue):  # type: ignore[no-untyped-def]
    """Search breadth first from each root inside its component; return the number of companies reached."""
    reached = 0
    for root in roots:
        head, tail = reached, reached + 1
        queue[head] = root
        depth[root] = 0
        while head < tail:
            company = queue[head]
            head += 1
            for flow in range(offsets[company], offsets[company + 1]):
                other = neighbour[flow]
                if labels[other] == labels[company] and depth[other] < 0:
                    depth[other] = depth[company] + 1
                    parent[other] = company
                    queue[tail] = other
                    tail += 1
        reached = tail
    return reached


@njit(cache=True, nogil=True)
def _rank_components(offsets, payee, labels, rank, entering, queue, first_member, next_member):  # type: ignore[no-untyped-def]
    """Rank components once all flows into them are accounted for; return how many were ranked (all, unless on a cycle).

    `first_member` and `next_member` chain the companies of each component; `entering` counts the flows into it from others that
    come from components not ranked yet.
    """
    for company in range(labels.size - 1, -1, -1):
        next_member[company] = first_member[labels[company]]
        first_member[labels[company]] = company
        for flow in range(offsets[company], offsets[company + 1]):
            entering[labels[payee[flow]]] += np.int64(labels[payee[flow]] != labels[company])
    tail = 0
    for component in range(rank.size):
        if entering[component] == 0:
            queue[tail] = component
            tail += 1
    head = 0
    while head < tail:
        component = queue[head]
        head += 1
        company = first_member[component]
        while company >= 0:
            for flow in range(offsets[company], offsets[company + 1]):
                other = labels[payee[flow]]
                if other != component:
                    rank[other] = max(rank[other], rank[component] + 1)
                    entering[other] -= 1
                    if entering[other] == 0:
                        queue[tail] = other
                        tail += 1
            company = next_member[company]
    return tail
