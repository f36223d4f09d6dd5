"""The certificate of a partition into strong components, on a CPU: trees inside the components, an order between them.

Two breadth-first searches and Kahn's (1962) topological sort, one thread each. Every flow is read four times, 4 bytes
of id and 4 to 8 of labels and depths each. Memory at the peak, result included: `BYTES_PER_COMPANY`, nothing per flow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import int64, njit

from ouroflow.components.cpu import as_input
from ouroflow.errors import UsageError

BYTES_PER_COMPANY = 80
"""Most memory that the certificate takes beside graph and components (int32 ids): 24 of result, the rest for work."""

Ids = npt.NDArray[Any]
Offsets = npt.NDArray[np.int64]


def trees(offsets: Offsets, neighbour: Ids, labels: Ids, nontrivial: int) -> tuple[Ids, Ids]:
    """Grow a tree of shortest paths from the smallest company of each component below `nontrivial`, inside it.

    With flows by payee the paths lead to the root, with flows by payer away from it. Returns the neighbour of each
    company on its path (-1 at roots and outside these components) and its depth (-1 outside).
    """
    members = np.flatnonzero(labels < nontrivial)
    roots = np.empty(nontrivial, labels.dtype)
    # Of several values for one place NumPy keeps the last: from the back, that is the smallest company.
    roots[labels[members[::-1]]] = members[::-1]
    parent, depth = np.full(labels.size, -1, labels.dtype), np.full(labels.size, -1, labels.dtype)
    queue = np.empty(members.size, labels.dtype)
    reached = _grow_trees(as_input(offsets), as_input(neighbour), as_input(labels), roots, parent, depth, queue)
    if reached != members.size:
        raise UsageError(
            f"of {members.size} companies in components of two or more, only {reached} are on a path to or from the "
            "root of their component: these are not the components of this graph"
        )
    return parent, depth


def ranks(out_offsets: Offsets, payee: Ids, labels: Ids, count: int) -> npt.NDArray[np.int64]:
    """Return for each component the number of flows on the longest chain of components that leads to it."""
    rank, entering = np.zeros(count, np.int64), np.zeros(count, np.int64)
    queue, first_member = np.empty(count, labels.dtype), np.full(count, -1, labels.dtype)
    next_member = np.empty(labels.size, labels.dtype)
    ordered = _rank_components(
        as_input(out_offsets), as_input(payee), as_input(labels), rank, entering, queue, first_member, next_member
    )
    if ordered != count:
        raise UsageError(
            f"{count - ordered} of {count} components lie on cycles: these are not the components of this graph"
        )
    return rank


@njit(cache=True, nogil=True)
def _grow_trees(offsets: Offsets, neighbour: Ids, labels: Ids, roots: Ids, parent: Ids, depth: Ids, queue: Ids) -> int:
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
                if depth[other] < 0 and labels[other] == labels[company]:
                    depth[other] = depth[company] + 1
                    parent[other] = company
                    queue[tail] = other
                    tail += 1
        reached = tail
    return reached


@njit(cache=True, nogil=True)
def _rank_components(
    offsets: Offsets,
    payee: Ids,
    labels: Ids,
    rank: Ids,
    entering: Offsets,
    queue: Ids,
    first_member: Ids,
    next_member: Ids,
) -> int:
    """Rank components once all flows into them are accounted for; return how many were ranked (all, unless on a cycle).

    `first_member` and `next_member` chain the companies of each component; `entering` counts the flows into it from
    others that come from components not ranked yet.
    """
    for company in range(labels.size - 1, -1, -1):
        next_member[company] = first_member[labels[company]]
        first_member[labels[company]] = company
        for flow in range(offsets[company], offsets[company + 1]):
            entering[labels[payee[flow]]] += int64(labels[payee[flow]] != labels[company])
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
