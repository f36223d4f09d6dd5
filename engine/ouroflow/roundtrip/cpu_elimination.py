"""Sparse chains: eliminate companies with few neighbours down to a dense core, and walk back over them.

Eliminating company v hands what its payers send it on to its payees: ``P_ij += P_iv P_vj / (1 - P_vv)``, with ``1 -
P_vv`` formed as the sum of the rest of the row and the leak, so that nothing is ever subtracted (see `cpu_core`). The
order is Markowitz's (1957): the smallest product of payers and payees still present, ties by the smallest company. It
stops where BLAS on the dense rest is cheaper than the next company's lists.

Walking back, N for v follows from N between its payees J and payers I, which are later in the order (Takahashi,
Fagan, Chen 1973). With ``onward = P_vJ / (1 - P_vv)`` and ``share = P_Iv / (1 - P_vv)``::

    N_vI = onward N_JI      N_Jv = N_JI share      N_vv = 1 / (1 - P_vv) + onward N_JI share

Every (j, i) that this reads is the reverse of an entry (i, j) of the filled pattern, so N is only kept there: in
place of `onward` and `share`, and in the dense core. The entry that a flow i -> j needs, N_ji, is among them.

Memory of the lists: about 54 bytes per entry of the pattern still present (a row's table is kept at most half full), up
to twice that while the pools move; 12 bytes per entry of an eliminated company's row and column; about 140 bytes per
company. Then 8 bytes x core^2, and what `cpu_dense` states.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from numba import njit

from ouroflow.roundtrip.cpu_dense import visits_of_pattern

Ids = npt.NDArray[np.int32]
Positions = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Number = TypeVar("Number", bound=np.generic)

# A pair of payer and payee costs as much in lists as this many floating point operations of BLAS (measured, 2 cores
# with AVX-512). In the dense core eliminating goes on at a small part of that, so the lists are left early, unless the
# core would pass its limit.
_FLOPS_PER_PAIR = 600.0
_FLOPS_TO_LEAVE = 100_000.0
_FINISHED, _NEEDS_ROOM = 0, 1
_ROWS, _COLUMNS, _ONWARD, _SHARE, _HEAP, _ELIMINATED = range(6)  # what `used` counts


class Rows(NamedTuple):
    """For each company a hash table from the payees to the probability of moving to each.

    Eliminated payees stay in the table until it moves: `filled` counts them, `length` does not. Free slots hold
    payee -1.
    """

    start: Positions
    length: Positions
    filled: Positions
    capacity: Positions
    payee: Ids
    probability: Floats


class Columns(NamedTuple):
    """For each company its payers. Those eliminated stay in the list until it moves; `present` counts the others."""

    start: Positions
    length: Positions
    capacity: Positions
    present: Positions
    payer: Ids


class Eliminated(NamedTuple):
    """What walking back needs, by position in the order: payees with `onward`, payers with `share`, and the pivots."""

    company: Ids
    pivot: Floats
    payee_start: Positions
    payee: Ids
    onward: Floats
    payer_start: Positions
    payer: Ids
    share: Floats


class Scratch(NamedTuple):
    """Arrays by company, and the heap of (payers x payees) x companies + company."""

    leak: Floats
    onward: Floats
    present: npt.NDArray[np.bool_]
    queued: Positions
    heap: Positions
    used: Positions
    needed: Positions


class CoreSolver(NamedTuple):
    """Who finds the expected visits of the dense core, and when it is cheaper to leave the lists for it.

    Attributes
    ----------
    visits : callable
        ``visits(chain, leak)`` as `cpu_dense.visits_of_pattern`.
    flops_to_leave : float
        Lists are left where a pair of payer and payee in them costs as much as so many floating point operations of
        `visits`.
    """

    visits: Callable[[Floats, Floats], None]
    flops_to_leave: float


class Elimination(NamedTuple):
    """A chain with all companies but `core` eliminated, ready to be finished."""

    core: Ids
    chain: Floats
    leak: Floats
    eliminated: Eliminated
    companies_gone: int


@njit(cache=True)
def _heap_push(heap, size, key):  # type: ignore[no-untyped-def]
    """Add a key to a binary heap of `size` keys."""
    place = size
    while place > 0:
        parent = (place - 1) >> 1
        if heap[parent] <= key:
            break
        heap[place] = heap[parent]
        place = parent
    heap[place] = key


@njit(cache=True)
def _heap_replace_top(heap, size, key):  # type: ignore[no-untyped-def]
    """Put a key in place of the smallest one and restore the order."""
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= key:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = key


@njit(cache=True)
def _queue(company, rows, columns, scratch):  # type: ignore[no-untyped-def]
    """Queue a company again if it is cheaper than its place in the heap says (dearer ones are noticed at the top)."""
    companies = scratch.present.size
    key = rows.length[company] * columns.present[company] * companies + company
    if key < scratch.queued[company]:
        scratch.queued[company] = key
        _heap_push(scratch.heap, scratch.used[_HEAP], key)
        scratch.used[_HEAP] += 1


@njit(cache=True)
def _cheapest(rows, columns, scratch):  # type: ignore[no-untyped-def]
    """Return the company with the smallest product of payers and payees, -1 when none is left. It stays in the heap."""
    companies = scratch.present.size
    while scratch.used[_HEAP] > 0:
        key = scratch.heap[0]
        company = key % companies
        size = scratch.used[_HEAP]
        if scratch.present[company] and key == scratch.queued[company]:
            actual = rows.length[company] * columns.present[company] * companies + company
            if actual == key:
                return company
            scratch.queued[company] = actual
            _heap_replace_top(scratch.heap, size, actual)
        else:
            scratch.used[_HEAP] = size - 1
            _heap_replace_top(scratch.heap, size - 1, scratch.heap[size - 1])
    return -1


@njit(cache=True)
def _append_payer(company, payer, coming, columns, scratch):  # type: ignore[no-untyped-def]
    """Add a payer to a company's column; a full list moves, without those eliminated, to room for `coming` more."""
    start, length = columns.start[company], columns.length[company]
    if length == columns.capacity[company]:
        fresh = scratch.used[_COLUMNS]
        kept = 0
        for entry in range(start, start + length):
            if scratch.present[columns.payer[entry]]:
                columns.payer[fresh + kept] = columns.payer[entry]
                kept += 1
        columns.start[company] = fresh
        columns.capacity[company] = kept + max(kept // 2, coming) + 4
        scratch.used[_COLUMNS] += columns.capacity[company]
        start, length = fresh, kept
    columns.payer[start + length] = payer
    columns.length[company] = length + 1


@njit(cache=True)
def _slot(payees, start, capacity, payee):  # type: ignore[no-untyped-def]
    """Return where a payee is in a table, or the free slot where it belongs. Tables are never full."""
    # Knuth's multiplicative hash, scaled to the capacity.
    slot = (((np.int64(payee) * 2654435769) & 0xFFFFFFFF) * capacity) >> 32
    while payees[start + slot] != payee and payees[start + slot] >= 0:
        slot += 1
        if slot == capacity:
            slot = 0
    return start + slot


@njit(cache=True)
def _move_row(company, fresh, capacity, rows, present, payees, probabilities):  # type: ignore[no-untyped-def]
    """Copy a company's table, without eliminated payees, to `capacity` slots from `fresh` on in the given pools."""
    payees[fresh : fresh + capacity] = -1
    start = rows.start[company]
    for old in range(start, start + rows.capacity[company]):
        payee = rows.payee[old]
        if payee >= 0 and present[payee]:
            slot = _slot(payees, fresh, capacity, payee)
            payees[slot] = payee
            probabilities[slot] = rows.probability[old]
    rows.start[company] = fresh
    rows.capacity[company] = capacity
    rows.filled[company] = rows.length[company]


@njit(cache=True)
def _pass_on(payer, company, payees, coming, rows, columns, scratch):  # type: ignore[no-untyped-def]
    """Hand what `payer` sends to `company` on to the company's payees; return the probability that was handed on."""
    rows.length[payer] -= 1
    start, capacity = rows.start[payer], rows.capacity[payer]
    sent = rows.probability[_slot(rows.payee, start, capacity, company)]
    for entry in range(payees.size):
        payee = payees[entry]
        if payee == payer:  # money that comes straight back is the pivot's business, not an entry
            continue
        slot = _slot(rows.payee, start, capacity, payee)
        if rows.payee[slot] == payee:
            rows.probability[slot] += sent * scratch.onward[entry]
            continue
        if _is_full(rows.filled[payer] + 1, capacity):
            capacity = _slots_for(rows.length[payer] + max(rows.length[payer] // 4, payees.size - entry))
            start = scratch.used[_ROWS]
            scratch.used[_ROWS] += capacity
            _move_row(payer, start, capacity, rows, scratch.present, rows.payee, rows.probability)
            slot = _slot(rows.payee, start, capacity, payee)
        rows.payee[slot] = payee
        rows.probability[slot] = sent * scratch.onward[entry]
        rows.length[payer] += 1
        rows.filled[payer] += 1
        columns.present[payee] += 1
        _append_payer(payee, payer, coming, columns, scratch)
    return sent


@njit(cache=True)
def _is_full(filled, capacity):  # type: ignore[no-untyped-def]
    """Say whether a table of `capacity` slots is too full, with `filled` of them taken, to be searched quickly."""
    return 4 * filled > 3 * capacity


@njit(cache=True)
def _slots_for(length):  # type: ignore[no-untyped-def]
    """Return the capacity of a fresh table for `length` payees."""
    return length + length // 2 + 4


@njit(cache=True)
def _room(payees, payers, rows, columns):  # type: ignore[no-untyped-def]
    """Return the most room that the payers' rows and the payees' columns can ask for when a company is eliminated."""
    row_room = column_room = 0
    for payer in payers:
        if _is_full(rows.filled[payer] + payees.size, rows.capacity[payer]):
            row_room += 2 * (rows.length[payer] + payees.size) + 4
    for payee in payees:
        longest = columns.length[payee] + payers.size
        if longest > columns.capacity[payee]:
            column_room += 2 * longest + 4
    return row_room, column_room


@njit(cache=True)
def _eliminate_one(company, payees, payers, rows, columns, eliminated, scratch):  # type: ignore[no-untyped-def]
    """Eliminate a company: store its lists, hand its money on, and queue the neighbours that became cheaper."""
    order, onward, share = scratch.used[_ELIMINATED], scratch.used[_ONWARD], scratch.used[_SHARE]
    pivot = scratch.leak[company]
    for entry in range(payees.size):
        slot = _slot(rows.payee, rows.start[company], rows.capacity[company], payees[entry])
        scratch.onward[entry] = rows.probability[slot]
        pivot += scratch.onward[entry]
    eliminated.company[order] = company
    eliminated.pivot[order] = pivot
    for entry in range(payees.size):
        scratch.onward[entry] /= pivot
        eliminated.payee[onward + entry] = payees[entry]
        eliminated.onward[onward + entry] = scratch.onward[entry]
        columns.present[payees[entry]] -= 1
    scratch.present[company] = False
    for entry in range(payers.size):
        payer = payers[entry]
        sent = _pass_on(payer, company, payees, payers.size, rows, columns, scratch)
        scratch.leak[payer] += sent * (scratch.leak[company] / pivot)
        eliminated.payer[share + entry] = payer
        eliminated.share[share + entry] = sent / pivot
    for payee in payees:
        _queue(payee, rows, columns, scratch)
    for payer in payers:
        _queue(payer, rows, columns, scratch)
    scratch.used[_ELIMINATED] = order + 1
    scratch.used[_ONWARD] = eliminated.payee_start[order + 1] = onward + payees.size
    scratch.used[_SHARE] = eliminated.payer_start[order + 1] = share + payers.size


@njit(cache=True)
def _eliminate(  # type: ignore[no-untyped-def]
    rows, columns, eliminated, scratch, core_limit, flops_per_pair, flops_to_leave
):
    """Eliminate until the core is cheaper (`_FINISHED`) or a list might not fit (`_NEEDS_ROOM`, nothing half done)."""
    payers = np.empty(scratch.present.size, np.int32)
    payees = np.empty(scratch.present.size, np.int32)
    while True:
        company = _cheapest(rows, columns, scratch)
        if company < 0:
            return _FINISHED
        pairs = float(rows.length[company] * columns.present[company])
        # One company more in a core of `left` costs 6 left^2 operations, the derivative of 2 left^3. A company that is
        # too dear for a core of the size allowed shows, long before the lists explode, that it would become larger.
        left = scratch.present.size - scratch.used[_ELIMINATED]
        price = flops_to_leave if left <= core_limit else flops_per_pair
        if pairs * price > 6.0 * float(min(left, core_limit)) ** 2:
            return _FINISHED
        payer_count = 0
        for entry in range(columns.start[company], columns.start[company] + columns.length[company]):
            if scratch.present[columns.payer[entry]]:
                payers[payer_count] = columns.payer[entry]
                payer_count += 1
        payee_count = 0
        for entry in range(rows.start[company], rows.start[company] + rows.capacity[company]):
            if rows.payee[entry] >= 0 and scratch.present[rows.payee[entry]]:
                payees[payee_count] = rows.payee[entry]
                payee_count += 1
        row_room, column_room = _room(payees[:payee_count], payers[:payer_count], rows, columns)
        scratch.needed[_ROWS], scratch.needed[_COLUMNS] = row_room, column_room
        scratch.needed[_ONWARD], scratch.needed[_SHARE] = payee_count, payer_count
        scratch.needed[_HEAP] = payee_count + payer_count
        if (
            scratch.used[_ROWS] + row_room > rows.payee.size
            or scratch.used[_COLUMNS] + column_room > columns.payer.size
            or scratch.used[_ONWARD] + payee_count > eliminated.payee.size
            or scratch.used[_SHARE] + payer_count > eliminated.payer.size
            or scratch.used[_HEAP] + payee_count + payer_count > scratch.heap.size
        ):
            return _NEEDS_ROOM
        _eliminate_one(company, payees[:payee_count], payers[:payer_count], rows, columns, eliminated, scratch)


@njit(cache=True)
def _fill_rows(offsets, payee, probability, rows):  # type: ignore[no-untyped-def]
    """Write a chain's flows into empty tables."""
    for company in range(offsets.size - 1):
        for flow in range(offsets[company], offsets[company + 1]):
            slot = _slot(rows.payee, rows.start[company], rows.capacity[company], payee[flow])
            rows.payee[slot] = payee[flow]
            rows.probability[slot] = probability[flow]


@njit(cache=True)
def _repack_rows(rows, present, payees, probabilities):  # type: ignore[no-untyped-def]
    """Move the tables of present companies into fresh pools; return the slots taken there."""
    used = 0
    for company in range(present.size):
        if present[company]:
            length = rows.length[company]
            capacity = _slots_for(length + length // 4)
            _move_row(company, used, capacity, rows, present, payees, probabilities)
            used += capacity
    return used


@njit(cache=True)
def _repack_columns(columns, present, payers):  # type: ignore[no-untyped-def]
    """Move the columns of present companies, without eliminated payers, to a fresh pool; return the entries taken."""
    used = 0
    for company in range(present.size):
        if not present[company]:
            continue
        kept = used
        for entry in range(columns.start[company], columns.start[company] + columns.length[company]):
            if present[columns.payer[entry]]:
                payers[kept] = columns.payer[entry]
                kept += 1
        columns.start[company] = used
        columns.length[company] = kept - used
        columns.capacity[company] = columns.length[company] + columns.length[company] // 4 + 4
        used += columns.capacity[company]
    return used


@njit(cache=True)
def _fill_core(rows, core, place, chain):  # type: ignore[no-untyped-def]
    """Write the rows of the companies left into the dense chain."""
    for row in range(core.size):
        start = rows.start[core[row]]
        for entry in range(start, start + rows.capacity[core[row]]):
            payee = rows.payee[entry]
            if payee >= 0 and place[payee] >= 0:
                chain[row, place[payee]] = rows.probability[entry]


@njit(cache=True)
def _core_members(ids, place, where, at):  # type: ignore[no-untyped-def]
    """Write where the core's members of a list are, in the list (`where`) and in the core (`at`); return how many."""
    count = 0
    for entry in range(ids.size):
        if place[ids[entry]] >= 0:
            where[count] = entry
            at[count] = place[ids[entry]]
            count += 1
    return count


@njit(cache=True, fastmath={"reassoc", "contract"})
def _through_core(visits, payees, onward, payers, share, to_payer, from_payee):  # type: ignore[no-untyped-def]
    """Add what runs through the core, `to_payer` = onward N and `from_payee` = N share; ids are places in the core."""
    for column in range(payers.size):
        column_visits = visits[:, payers[column]]
        column_share = share[column]
        total = 0.0
        for row in range(payees.size):
            visit = column_visits[payees[row]]
            total += onward[row] * visit
            from_payee[row] += visit * column_share
        to_payer[column] = total


@njit(cache=True)
def _through_eliminated(  # type: ignore[no-untyped-def]
    ids, weights, other_slot, other_weights, gained, list_start, lists, values, order, into
):
    """Add what runs from the eliminated among `ids` to the later ones in `other_slot`: by id, and `gained` by other."""
    for entry in range(ids.size):
        position = order[ids[entry]]
        if position < 0:
            continue
        total = 0.0
        weight = weights[entry]
        for stored in range(list_start[position], list_start[position + 1]):
            slot = other_slot[lists[stored]]
            if slot >= 0:
                total += values[stored] * other_weights[slot]
                gained[slot] += values[stored] * weight
        into[entry] += total


@njit(cache=True)
def _walk_back(eliminated, count, visits, place, order, own_visits):  # type: ignore[no-untyped-def]
    """Overwrite `onward` by N_Jv, `share` by N_vI, and fill `own_visits` = N_vv, from the last company to the first."""
    companies = order.size
    payee_slot = np.full(companies, -1, np.int32)
    payer_slot = np.full(companies, -1, np.int32)
    payee_where, payee_at = np.empty(companies, np.int64), np.empty(companies, np.int64)
    payer_where, payer_at = np.empty(companies, np.int64), np.empty(companies, np.int64)
    for position in range(count - 1, -1, -1):
        payees = eliminated.payee[eliminated.payee_start[position] : eliminated.payee_start[position + 1]]
        onward = eliminated.onward[eliminated.payee_start[position] : eliminated.payee_start[position + 1]]
        payers = eliminated.payer[eliminated.payer_start[position] : eliminated.payer_start[position + 1]]
        share = eliminated.share[eliminated.payer_start[position] : eliminated.payer_start[position + 1]]
        to_payer, from_payee = np.zeros(payers.size), np.zeros(payees.size)
        for entry in range(payees.size):
            payee_slot[payees[entry]] = entry
        for entry in range(payers.size):
            payer_slot[payers[entry]] = entry
        _through_eliminated(
            payees, onward, payer_slot, share, to_payer,
            eliminated.payer_start, eliminated.payer, eliminated.share, order, from_payee,
        )  # fmt: skip
        _through_eliminated(
            payers, share, payee_slot, onward, from_payee,
            eliminated.payee_start, eliminated.payee, eliminated.onward, order, to_payer,
        )  # fmt: skip
        for entry in range(payees.size):  # a company that both pays and is paid: N on its own diagonal
            slot = payer_slot[payees[entry]]
            if slot >= 0 and place[payees[entry]] < 0:
                to_payer[slot] += onward[entry] * own_visits[payees[entry]]
                from_payee[entry] += own_visits[payees[entry]] * share[slot]
        payee_count = _core_members(payees, place, payee_where, payee_at)
        payer_count = _core_members(payers, place, payer_where, payer_at)
        if payee_count and payer_count:
            core_payees, core_payers = payee_where[:payee_count], payer_where[:payer_count]
            core_from, core_to = np.zeros(payee_count), np.zeros(payer_count)
            _through_core(
                visits,
                payee_at[:payee_count],
                onward[core_payees],
                payer_at[:payer_count],
                share[core_payers],
                core_to,
                core_from,
            )
            for entry in range(payee_count):
                from_payee[core_payees[entry]] += core_from[entry]
            for entry in range(payer_count):
                to_payer[core_payers[entry]] += core_to[entry]
        own = 1.0 / eliminated.pivot[position]
        for entry in range(payers.size):
            own += to_payer[entry] * share[entry]
            payer_slot[payers[entry]] = -1
        for entry in range(payees.size):
            payee_slot[payees[entry]] = -1
        own_visits[eliminated.company[position]] = own
        onward[:] = from_payee
        share[:] = to_payer


@njit(cache=True)
def _visits_of_flows(offsets, payee, eliminated, visits, place, order, own_visits, returns):  # type: ignore[no-untyped-def]
    """Write N_ji / N_ii for each flow i -> j."""
    for company in range(offsets.size - 1):
        for flow in range(offsets[company], offsets[company + 1]):
            other = payee[flow]
            if place[company] >= 0 and place[other] >= 0:
                back = visits[place[other], place[company]]
            elif place[other] >= 0 or (place[company] < 0 and order[company] < order[other]):
                entry = eliminated.payee_start[order[company]]
                while eliminated.payee[entry] != other:
                    entry += 1
                back = eliminated.onward[entry]
            else:
                entry = eliminated.payer_start[order[other]]
                while eliminated.payer[entry] != company:
                    entry += 1
                back = eliminated.share[entry]
            returns[flow] = back / own_visits[company]


def eliminate(
    offsets: Positions,
    payee: Ids,
    probability: Floats,
    leak: Floats,
    core_limit: int | None = None,
    solver: CoreSolver | None = None,
) -> Elimination | None:
    """Eliminate companies of a chain, cheapest first, as long as that is cheaper than keeping them in the dense core.

    Parameters
    ----------
    offsets : int64[k + 1]
        Flows of payer i are ``offsets[i]:offsets[i + 1]``.
    payee : int32[m]
        Company that each flow goes to; no flow to oneself, no pair twice.
    probability, leak : float64[m], float64[k]
        Probability of each move, and of leaving for good.
    core_limit : int, optional
        Largest core to accept.
    solver : CoreSolver, optional
        Who will solve the core, `cpu_dense` unless given.

    Returns
    -------
    Elimination or None
        None if the core would be larger than `core_limit`; that shows early, at a small part of the whole cost.
    """
    companies = leak.size
    limit = companies if core_limit is None else core_limit
    to_leave = _FLOPS_TO_LEAVE if solver is None else solver.flops_to_leave
    rows, columns, eliminated, scratch = _lists(offsets, payee, probability, leak)
    while _eliminate(rows, columns, eliminated, scratch, limit, _FLOPS_PER_PAIR, to_leave) == _NEEDS_ROOM:
        rows, columns, eliminated, scratch = _with_room(rows, columns, eliminated, scratch)
    core = np.flatnonzero(scratch.present).astype(np.int32)
    if core.size > limit:
        return None
    del columns
    chain = np.zeros((core.size, core.size), order="F")
    _fill_core(rows, core, _places(core, companies), chain)
    return Elimination(core, chain, scratch.leak[core], eliminated, int(scratch.used[_ELIMINATED]))


def finish(elimination: Elimination, offsets: Positions, payee: Ids, solver: CoreSolver | None = None) -> Floats:
    """Return N_ji / N_ii for each flow i -> j, the probability of coming from j to i; uses the elimination up.

    Parameters
    ----------
    elimination : Elimination
        From `eliminate`; its chain and lists are overwritten with expected visits.
    offsets, payee : int64[k + 1], int32[m]
        The same as given to `eliminate`.
    solver : CoreSolver, optional
        Who solves the core, `cpu_dense` unless given.

    Returns
    -------
    float64[m]
    """
    companies = offsets.size - 1
    core, visits, leak, eliminated, count = elimination
    solve = visits_of_pattern if solver is None else solver.visits
    solve(visits, leak)
    order = np.full(companies, -1, np.int32)
    order[eliminated.company[:count]] = np.arange(count, dtype=np.int32)
    place = _places(core, companies)
    own_visits = np.empty(companies)
    own_visits[core] = np.diagonal(visits)
    _walk_back(eliminated, count, visits, place, order, own_visits)
    returns = np.empty(payee.size)
    _visits_of_flows(offsets, payee, eliminated, visits, place, order, own_visits, returns)
    return returns


def _places(core: Ids, companies: int) -> Ids:
    """Return each company's place in the core, -1 outside."""
    place = np.full(companies, -1, np.int32)
    place[core] = np.arange(core.size, dtype=np.int32)
    return place


def _lists(
    offsets: Positions, payee: Ids, probability: Floats, leak: Floats
) -> tuple[Rows, Columns, Eliminated, Scratch]:
    """Set up the lists of a chain: rows and columns without spare room, nothing eliminated yet."""
    companies, flows = leak.size, payee.size
    payer = np.repeat(np.arange(companies, dtype=np.int32), np.diff(offsets))
    incoming = np.bincount(payee, minlength=companies).astype(np.int64)
    outgoing = np.diff(offsets)
    capacity = outgoing + outgoing // 2 + 4
    rows = Rows(
        np.cumsum(capacity) - capacity, outgoing.copy(), outgoing.copy(), capacity,
        np.full(capacity.sum(), -1, np.int32), np.zeros(capacity.sum()),
    )  # fmt: skip
    _fill_rows(offsets, payee, probability, rows)
    by_payee = payer[np.argsort(payee, kind="stable")]
    columns = Columns(np.cumsum(incoming) - incoming, incoming.copy(), incoming.copy(), incoming.copy(), by_payee)
    starts = np.zeros(companies + 1, np.int64)
    eliminated = Eliminated(
        np.empty(companies, np.int32), np.empty(companies),
        starts, np.empty(flows, np.int32), np.empty(flows), starts.copy(), np.empty(flows, np.int32), np.empty(flows),
    )  # fmt: skip
    queued = outgoing * incoming * companies + np.arange(companies)
    used = np.zeros(6, np.int64)
    used[_ROWS], used[_COLUMNS] = rows.payee.size, flows
    used[_HEAP] = companies
    scratch = Scratch(
        leak.copy(), np.zeros(companies), np.ones(companies, np.bool_),
        queued, np.sort(queued), used, np.zeros(5, np.int64),
    )  # fmt: skip
    return rows, columns, eliminated, scratch


def _with_room(
    rows: Rows, columns: Columns, eliminated: Eliminated, scratch: Scratch
) -> tuple[Rows, Columns, Eliminated, Scratch]:
    """Return the lists with room for the next company in each pool that is too small for it."""
    present, used, needed = scratch.present, scratch.used, scratch.needed
    if used[_ROWS] + needed[_ROWS] > rows.payee.size:
        size = _roomy(rows.length[present] * 2, int(needed[_ROWS]))
        ids, values = np.empty(size, np.int32), np.empty(size)
        used[_ROWS] = _repack_rows(rows, present, ids, values)
        rows = rows._replace(payee=ids, probability=values)
    if used[_COLUMNS] + needed[_COLUMNS] > columns.payer.size:
        ids = np.empty(_roomy(columns.present[present], int(needed[_COLUMNS])), np.int32)
        used[_COLUMNS] = _repack_columns(columns, present, ids)
        columns = columns._replace(payer=ids)
    eliminated = eliminated._replace(
        payee=_grown(eliminated.payee, used[_ONWARD], needed[_ONWARD]),
        onward=_grown(eliminated.onward, used[_ONWARD], needed[_ONWARD]),
        payer=_grown(eliminated.payer, used[_SHARE], needed[_SHARE]),
        share=_grown(eliminated.share, used[_SHARE], needed[_SHARE]),
    )
    if used[_HEAP] + needed[_HEAP] > scratch.heap.size:
        companies = present.size
        scratch.queued[:] = rows.length * columns.present * companies + np.arange(companies)
        used[_HEAP] = np.count_nonzero(present)
        heap = np.empty(2 * companies + needed[_HEAP], np.int64)
        heap[: used[_HEAP]] = np.sort(scratch.queued[present])  # in ascending order: a heap
        scratch = scratch._replace(heap=heap)
    return rows, columns, eliminated, scratch


def _roomy(lengths: Positions, needed: int) -> int:
    """Return the size of a fresh pool: lists and their spare room, half as much again, and what is needed now."""
    packed = int(lengths.sum() + (lengths // 4).sum()) + 4 * lengths.size
    return packed + packed // 2 + needed


def _grown(array: npt.NDArray[Number], used: int, needed: int) -> npt.NDArray[Number]:
    """Return the array with its first `used` entries kept and room for `needed` more."""
    if used + needed <= array.size:
        return array
    fresh = np.empty(used + used // 2 + needed, array.dtype)
    fresh[:used] = array[:used]
    return fresh
