"""Rings: round trips that share payments, merged, with money that is counted once.

One group of companies that passes money around leaves many round trips, for every payment may be part of several. Their
values must not be added: a payment would count as often as it is used. A ring is a set of round trips that hang
together by common payments, and its value is what its payments can carry around at the same time, found by letting the
most valuable round trip take its value from all its payments, then the next one what these have left, and so on. So
the value is a sum of money that did go round along the listed round trips, none of it counted twice; another order might
find somewhat more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Rings:
    """Round trips merged by common payments, the most valuable ring first.

    Attributes
    ----------
    ring : int32[round trips]
        Ring of each round trip.
    cycles, payments, companies : int64[rings]
        How many round trips, distinct payments and distinct companies a ring has.
    value : int64[rings]
        Minor units that go round in it, each payment counted once.
    """

    ring: Int32s
    cycles: Int64s
    payments: Int64s
    companies: Int64s
    value: Int64s


def merge(offsets: Int64s, rows: Int64s, payer: Int64s, amount: Int64s) -> Rings:
    """Merge round trips that share payments.

    Parameters
    ----------
    offsets : int64[round trips + 1]
        Where the payments of each round trip begin in the arrays that follow; the most valuable round trip first.
    rows : int64[payments of all]
        Identity of each payment.
    payer, amount : int64[payments of all]
        Company and minor units.
    """
    trips = offsets.size - 1
    if not trips:
        nothing = np.empty(0, np.int64)
        return Rings(np.empty(0, np.int32), nothing, nothing, nothing, nothing)
    distinct, first, payment = np.unique(rows, return_index=True, return_inverse=True)
    # Round trips and payments are the two halves of one graph, whose connected parts are the rings.
    uses = csr_matrix((np.ones(rows.size, np.int8), trips + payment, offsets), shape=(trips, trips + distinct.size))
    uses.resize(trips + distinct.size, trips + distinct.size)
    group = connected_components(uses, directed=False)[1][:trips]
    taken = take_in_turn(offsets, payment, amount[first].copy())
    _, ring, cycles = np.unique(group, return_inverse=True, return_counts=True)
    value = np.zeros(cycles.size, np.int64)
    np.add.at(value, ring, taken)
    of_step = np.repeat(ring, np.diff(offsets))
    by_value = np.lexsort((np.arange(cycles.size), -value))
    rank = np.empty(cycles.size, np.int32)
    rank[by_value] = np.arange(cycles.size, dtype=np.int32)
    return Rings(
        rank[ring],
        cycles[by_value],
        _distinct(of_step, payment, cycles.size)[by_value],
        _distinct(of_step, payer, cycles.size)[by_value],
        value[by_value],
    )


@njit(cache=True)
def take_in_turn(offsets: Int64s, payment: Int64s, left: Int64s) -> Int64s:
    """Let each round trip in turn take from its payments what all of them have left; return what each took."""
    taken = np.zeros(offsets.size - 1, np.int64)
    for trip in range(taken.size):
        steps = payment[offsets[trip] : offsets[trip + 1]]
        least = left[steps[0]]
        for step in steps:
            least = min(least, left[step])
        for step in steps:
            left[step] -= least
        taken[trip] = least
    return taken


def _distinct(ring: Int64s, member: Int64s, rings: int) -> Int64s:
    """Count the distinct members of each ring."""
    order = np.lexsort((member, ring))
    ring, member = ring[order], member[order]
    new = np.ones(ring.size, np.bool_)
    new[1:] = (ring[1:] != ring[:-1]) | (member[1:] != member[:-1])
    return np.bincount(ring[new], minlength=rings).astype(np.int64)
