"""Payments laid out for searches in time: by payer forwards, by payee backwards, each with a link to what may follow.

Times become ranks (`when`), so every comparison is between small integers whatever the unit of the times was, and the
window becomes one more rank per rank (`last`). Payments of one company stand together in order of time. Each knows the
first payment that may follow it, so a search never looks for a place in time.

The payments by payee are laid out by the same code with payer and payee exchanged and time running backwards
(`mirrored`): what leads back to a company is found by the same search as what leads on from it.

Memory: 32 bytes a payment for the two sides, 4 for its order, 8 for its limits, 8 for its amount.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from ouroflow.errors import ResourceError
from ouroflow.runtime.threads import in_threads

Ids = npt.NDArray[Any]
Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]

WHEN, OTHER, LINK, OWNER = 0, 1, 2, 3
"""Columns of a side: rank in time, the other company, first payment of the other company that may follow, own company."""
CLOSES, FOLLOWED = 0, 1
"""Columns of `PaymentIndex.limits`."""
MOST_PAYMENTS = 2**31 - 2
NEVER = 2**31 - 1


class PaymentIndex(NamedTuple):
    """Payments in both directions of time, for kernels.

    Attributes
    ----------
    out_offsets : int64[companies + 1]
        Where the payments of each payer begin in `outgoing`.
    in_offsets : int64[companies + 1]
        Where the payments of each payee end in `incoming`, and so where those of the payee before begin.
    outgoing : int32[payments + 1, 4]
        WHEN, OTHER (payee), LINK (first payment of the payee that may follow), OWNER (payer); by payer and time. The last
        row belongs to nobody.
    incoming : int32[payments + 1, 4]
        The same with payer and payee exchanged and all mirrored: WHEN is the last rank minus the rank, LINK leads to the
        latest payment to the payer that may come before, and the last company stands first. So a search that goes
        through companies and time in order reads both sides in order, this one backwards.
    last : int32[ranks]
        Last rank within the window that opens at each rank.
    limits : int32[payments, 2]
        Of each outgoing payment the same (CLOSES), and the rank of the first payment that may follow it (FOLLOWED; NEVER).
    order : int32[payments]
        Place of each outgoing payment in the order of time, equal times in the order of rows.
    amount : int64[payments]
        Minor units, as `outgoing`.
    """

    out_offsets: Int64s
    in_offsets: Int64s
    outgoing: Int32s
    incoming: Int32s
    last: Int32s
    limits: Int32s
    order: Int32s
    amount: Int64s


def index_payments(
    payer: Int32s,
    payee: Int32s,
    time: Int64s,
    amount: Int64s,
    companies: int,
    window: int | None,
    ties: str,
) -> PaymentIndex:
    """Lay out payments that are in order of time; ids are below `companies`, none pays itself.

    Parameters
    ----------
    time : int64[payments]
        Ascending, any unit; the span fits int64.
    window : int or None
        In the unit of the times; None for the whole span.
    ties : {'strict', 'file', 'any'}
        Whether payments of equal times may follow each other: never, in the order of rows, or either way.
    """
    if payer.size > MOST_PAYMENTS:
        raise ResourceError(
            f"{payer.size:,} payments inside components: the search holds {MOST_PAYMENTS:,}; split the data by time"
        )
    when, last = rank_times(time, -1 if window is None else window, ties == "file")
    either_way = ties == "any"
    outward, inward = in_threads(
        partial(lay_side, payer, payee, when, last.size, companies, False, either_way),
        partial(lay_side, payee, payer, when, last.size, companies, True, either_way),
    )
    order = outward[2]
    return PaymentIndex(
        outward[0], inward[0], outward[1], inward[1], last, limits_of(outward[1], last), order, amount[order]
    )


@njit(cache=True, nogil=True)
def rank_times(time: Int64s, window: int, by_row: bool) -> tuple[Int32s, Int32s]:
    """Return the rank of each payment, and for each rank the last one within the window (-1: no window).

    Equal times have one rank; `by_row` gives every payment a rank of its own.
    """
    payments = time.size
    when = np.empty(payments, np.int32)
    start = np.empty(payments + 1, np.int32)
    ranks = 0
    for payment in range(payments):
        if payment == 0 or by_row or time[payment] != time[payment - 1]:
            start[ranks] = payment
            ranks += 1
        when[payment] = ranks - 1
    last = np.empty(ranks, np.int32)
    end = 0
    for rank in range(ranks):
        opens = time[start[rank]]
        while end < ranks and (window < 0 or time[start[end]] - opens <= window):
            end += 1
        last[rank] = end - 1
    return when, last


@njit(cache=True, nogil=True)
def limits_of(outgoing: Int32s, last: Int32s) -> Int32s:
    """Look up, once for all searches, what stands in places all over: the end of each window, and what may follow."""
    limits = np.empty((outgoing.shape[0] - 1, 2), np.int32)
    for row in range(limits.shape[0]):
        onward = outgoing[row, LINK]
        limits[row, CLOSES] = last[outgoing[row, WHEN]]
        limits[row, FOLLOWED] = outgoing[onward, WHEN] if outgoing[onward, OWNER] == outgoing[row, OTHER] else NEVER
    return limits


@njit(cache=True, nogil=True)
def lay_side(
    owner: Int32s, other: Int32s, when: Int32s, ranks: int, companies: int, mirrored: bool, either_way: bool
) -> tuple[Int64s, Int32s, Int32s]:
    """Lay out payments by owner and time; return (offsets, rows, place of each row in the order of time).

    `mirrored` runs through companies and time backwards. `either_way` lets a payment follow one of the same time.
    """
    payments = owner.size
    offsets = np.zeros(companies + 1, np.int64)
    for payment in range(payments):
        offsets[owner[payment] + 1] += 1
    for company in range(companies):
        offsets[company + 1] += offsets[company]
    if mirrored:
        offsets = payments - offsets
    place = (offsets[1:] if mirrored else offsets[:-1]).astype(np.int32)
    rows = np.empty((payments + 1, 4), np.int32)
    order = np.empty(payments, np.int32)
    row_of, link_of = np.empty(1, np.int32), np.empty(1, np.int32)
    begin, step = (payments - 1, -1) if mirrored else (0, 1)
    done = 0
    while done < payments:
        first = begin + step * done
        rank = when[first]
        same = 1
        while done + same < payments and when[first + step * same] == rank:
            same += 1
        if same > row_of.size:
            row_of, link_of = np.empty(2 * same, np.int32), np.empty(2 * same, np.int32)
        for at in range(same):
            link_of[at] = place[other[first + step * at]]
        for at in range(same):
            payment = first + step * at
            row = place[owner[payment]]
            place[owner[payment]] = row + 1
            row_of[at] = row
            order[row] = payment
            rows[row, WHEN] = ranks - 1 - rank if mirrored else rank
            rows[row, OTHER] = other[payment]
            rows[row, OWNER] = owner[payment]
        for at in range(same):
            # Only now is the whole time laid down: behind it begins what is strictly later.
            rows[row_of[at], LINK] = link_of[at] if either_way else place[other[first + step * at]]
        done += same
    rows[payments, WHEN] = NEVER
    rows[payments, OWNER] = -1
    return offsets, rows, order
