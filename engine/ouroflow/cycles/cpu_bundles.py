"""Bundles: routes of companies with the number of round trips along each, counted without listing them.

Where two companies pay each other a thousand times, the round trips along one route multiply. A route is followed once
for all its payments: of the many ways to the company at its end only those matter that no other way beats, by beginning
later and arriving earlier (`stairs`). The round trips of a finished route are counted by chains of payments: at the end
of the window of a first payment (`boundary`) every chain falls into a part before and a part after it, both counted
while time passes, in (hops x payments) steps for all first payments together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from ouroflow.cycles.cpu_index import NEVER, OTHER, WHEN, Int32s, Int64s, PaymentIndex
from ouroflow.cycles.cpu_search import (
    BACKWARD,
    DONE,
    FORWARD,
    FULL,
    LOOK,
    STOPPED,
    Bytes,
    Rule,
    Scratch,
    forget,
    most_payments,
    new_scratch,
    reach,
    with_room,
)

Floats = npt.NDArray[np.float64]

EXACT_FLOATS = 2.0**53
"""Counts are sums and products of whole numbers in floats: exact below this, and no count below it had a part above."""


class FlowTimes(NamedTuple):
    """Payments by payer, payee and time.

    Attributes
    ----------
    flows : int64[companies + 1]
        Where the flows of each payer begin.
    payee : int32[flows]
    starts : int64[flows + 1]
        Where the payments of each flow begin.
    row : int32[payments]
        Row of `outgoing`.
    when : int32[payments]
        Rank in time.
    twin : int32[payments]
        Row of `outgoing` of each row of `incoming`.
    """

    flows: Int64s
    payee: Int32s
    starts: Int64s
    row: Int32s
    when: Int32s
    twin: Int32s


class BundleScratch(NamedTuple):
    """What one thread needs to search for bundles.

    Attributes
    ----------
    base : Scratch
    returns : int32[payments]
        Rank at which the money of each outgoing payment is back at the root at the earliest; NEVER.
    seen : int32[payments]
        Payments with such a rank.
    """

    base: Scratch
    returns: Int32s
    seen: Int32s


def new_bundle_scratch(companies: int, payments: int) -> BundleScratch:
    """Return the scratch of one thread."""
    return BundleScratch(
        new_scratch(companies, payments, False), np.full(payments, NEVER, np.int32), np.empty(payments, np.int32)
    )


def flow_times(index: PaymentIndex) -> FlowTimes:
    """Order the payments of an index by flow and time."""
    payments, companies = index.order.size, index.out_offsets.size - 1
    payer, payee = np.repeat(np.arange(companies), np.diff(index.out_offsets)), index.outgoing[:-1, OTHER]
    flow = payer * companies + payee
    row = np.argsort(flow, kind="stable")
    new = np.ones(payments, np.bool_)
    new[1:] = flow[row[1:]] != flow[row[:-1]]
    starts = np.append(np.flatnonzero(new), payments)
    first = row[starts[:-1]]
    outgoing_at = np.empty(payments, np.int32)
    outgoing_at[index.order] = np.arange(payments, dtype=np.int32)
    payee_in_time = payee[outgoing_at]
    in_order = np.argsort(payee_in_time, kind="stable")[::-1]  # as `lay_side` lays out `incoming`
    return FlowTimes(
        np.searchsorted(payer[first], np.arange(companies + 1)).astype(np.int64),
        payee[first],
        starts.astype(np.int64),
        row.astype(np.int32),
        index.outgoing[row, WHEN],
        outgoing_at[in_order],
    )


@njit(cache=True, nogil=True)
def search_bundles(
    index: PaymentIndex, flows: FlowTimes, scratch: BundleScratch, rule: Rule, roots: Int32s, limit: int, stop: Bytes
) -> tuple[Int32s, Int32s, Int64s, int]:
    """Find the routes of round trips whose first payer is one of `roots`, each of which has some.

    Returns
    -------
    steps : int32[payments]
        Rows of `outgoing` of the most valuable round trip of each route, one route after the other.
    lengths : int32[routes]
        Payments of each.
    members : int64[routes]
        Round trips of each.
    ending : int
        DONE; FULL: more than `limit` routes, or a route with more than 2**53 round trips; STOPPED.
    """
    steps, lengths, members = np.empty(64, np.int32), np.empty(16, np.int32), np.empty(16, np.int64)
    used, count, ending = 0, 0, DONE
    for root in roots:
        swept = sweep(index, flows, scratch, root)
        steps, used, lengths, members, count, ending = follow_routes(
            index, flows, scratch, rule, root, steps, used, lengths, members, count, limit, stop
        )
        for payment in scratch.seen[:swept]:
            scratch.returns[payment] = NEVER
        if ending != DONE:
            break
    if ending == DONE and count and members[:count].max() >= EXACT_FLOATS:
        ending = FULL
    return steps[:used], lengths[:count], members[:count], ending


@njit(cache=True, nogil=True)
def sweep(index: PaymentIndex, flows: FlowTimes, scratch: BundleScratch, root: int) -> int:
    """Find when the money of each payment is back at the root at the earliest, if in the window; return for how many.

    The payments to the root are taken in order of time. Whatever an earlier one has led back to is done: so each
    payment is looked at once for all first payments of the root.
    """
    incoming, last, base = index.incoming, index.last, scratch.base
    returns, seen, reached, touched = scratch.returns, scratch.seen, base.reached, base.touched
    mirror, everything = last.size - 1, index.order.size
    touched[0] = root
    reached[root, BACKWARD] = -1
    touches, count, opens = 1, 0, 0
    for row in range(index.in_offsets[root] - 1, index.in_offsets[root + 1] - 1, -1):
        back = mirror - incoming[row, WHEN]
        while last[opens] < back:
            opens += 1
        touches, followed, _, _ = reach(
            incoming, reached, base.away, touched, base.queue, base.found, touches,
            row, row + 1, root, mirror - opens, 1, None, BACKWARD, FORWARD, everything, False,
        )  # fmt: skip
        for at in range(followed):
            payment = flows.twin[base.found[at] & NEVER]
            returns[payment] = back
            seen[count] = payment
            count += 1
    forget(reached, touched, touches)
    return count


@njit(cache=True, nogil=True)
def follow_routes(
    index: PaymentIndex,
    flows: FlowTimes,
    scratch: BundleScratch,
    rule: Rule,
    root: int,
    steps: Int32s,
    used: int,
    lengths: Int32s,
    members: Int64s,
    count: int,
    limit: int,
    stop: Bytes,
) -> tuple[Int32s, int, Int32s, Int64s, int, int]:
    """Follow all routes from the root depth first; append those that come back to what is found."""
    base, last = scratch.base, index.last
    on_path, route, cursor = base.on_path, base.path, base.cursor
    starts, arrivals, level = np.empty(64, np.int32), np.empty(64, np.int32), np.zeros(on_path.size + 2, np.int64)
    depth, taken, ending, most_hops = 0, 0, DONE, most_payments(rule.hops)
    cursor[0] = flows.flows[root]
    while depth >= 0 and ending == DONE:
        company = root if depth == 0 else flows.payee[route[depth - 1]]
        flow, entered = cursor[depth], False
        while flow < flows.flows[company + 1]:
            taken += 1
            if taken % LOOK == 0 and stop[0]:
                ending = STOPPED
                break
            payee = flows.payee[flow]
            if payee == root:
                if closes(flows, last, flow, starts, arrivals, level[depth - 1], level[depth]):
                    if count == limit:
                        ending = FULL
                        break
                    route[depth] = flow
                    steps = with_room(steps, used + depth + 1)
                    lengths = with_room(lengths, count + 1)
                    if count == members.size:
                        members = np.append(members, np.empty(count, np.int64))
                    chain = steps[used : used + depth + 1]
                    members[count] = describe_bundle(index, flows, route[: depth + 1], chain)
                    lengths[count] = depth + 1
                    used += depth + 1
                    count += 1
            elif on_path[payee] == 0 and depth + 2 <= most_hops:
                begin = level[depth]
                room = begin + flows.starts[flow + 1] - flows.starts[flow]
                starts, arrivals = with_room(starts, room), with_room(arrivals, room)
                before = 0 if depth == 0 else level[depth - 1]
                end = extend(flows, last, scratch.returns, flow, starts, arrivals, before, begin, depth == 0)
                if end > begin:
                    level[depth + 1] = end
                    entered = True
                    break
            flow += 1
        cursor[depth] = flow + 1
        if entered:
            route[depth] = flow
            depth += 1
            on_path[flows.payee[flow]] = 1
            cursor[depth] = flows.flows[flows.payee[flow]]
        elif ending == DONE:
            depth -= 1
            if depth >= 0:
                on_path[company] = 0
    for at in range(depth):
        on_path[flows.payee[route[at]]] = 0
    return steps, used, lengths, members, count, ending


@njit(cache=True, nogil=True)
def extend(
    flows: FlowTimes,
    last: Int32s,
    returns: Int32s,
    flow: int,
    starts: Int32s,
    arrivals: Int32s,
    before: int,
    begin: int,
    first: bool,
) -> int:
    """Write the stairs at the end of a flow from place `begin` on, and return their end.

    A step is a rank of the first payment (the latest one possible) and the rank of arrival (the earliest for it). The
    stairs at the payer are at `before` to `begin`; a first flow has none.
    """
    end, step = begin, before
    for at in range(flows.starts[flow], flows.starts[flow + 1]):
        when, back = flows.when[at], returns[flows.row[at]]
        start = when
        if not first:
            if when > last[starts[begin - 1]]:
                break
            while step < begin and arrivals[step] < when:
                step += 1
            if step == before:
                continue
            start = starts[step - 1]
        if when <= last[start] and back <= last[start] and (end == begin or start > starts[end - 1]):
            starts[end], arrivals[end] = start, when
            end += 1
    return end


@njit(cache=True, nogil=True)
def closes(flows: FlowTimes, last: Int32s, flow: int, starts: Int32s, arrivals: Int32s, begin: int, end: int) -> bool:
    """Tell whether some payment of the flow ends a round trip of the stairs at its payer."""
    step = begin
    for at in range(flows.starts[flow], flows.starts[flow + 1]):
        when = flows.when[at]
        while step < end and arrivals[step] < when:
            step += 1
        if step > begin and when <= last[starts[step - 1]]:
            return True
    return False


@njit(cache=True, nogil=True)
def describe_bundle(index: PaymentIndex, flows: FlowTimes, route: Int32s, chain: Int32s) -> int:
    """Write the most valuable round trip of a route into `chain`, the earliest of them; return how many there are."""
    most = 0
    for flow in route:
        most += flows.starts[flow + 1] - flows.starts[flow]
    if most == route.size:
        most_valuable_chain(index, flows, route, 0, chain)
        return 1
    amounts, filled = np.empty(most, np.int64), 0
    for flow in route:
        for at in range(flows.starts[flow], flows.starts[flow + 1]):
            amounts[filled] = index.amount[flows.row[at]]
            filled += 1
    amounts.sort()
    # Some chain is of at least the amount at `low`, none of that at `high`.
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        if most_valuable_chain(index, flows, route, amounts[middle], chain):
            low = middle
        else:
            high = middle
    most_valuable_chain(index, flows, route, amounts[low], chain)
    return int(min(count_chains(flows, index.last, route), EXACT_FLOATS))


@njit(cache=True, nogil=True)
def most_valuable_chain(index: PaymentIndex, flows: FlowTimes, route: Int32s, least: int, chain: Int32s) -> bool:
    """Write the first round trip along a route whose payments are all of at least an amount; False if there is none.

    From one first payment to the next the earliest payments that may follow only move on in time.
    """
    amount, when, row = index.amount, flows.when, flows.row
    place = flows.starts[route]
    for first in range(flows.starts[route[0]], flows.starts[route[0] + 1]):
        if amount[row[first]] < least:
            continue
        chain[0] = row[first]
        arrival = when[first]
        for hop in range(1, route.size):
            at, end = place[hop], flows.starts[route[hop] + 1]
            while at < end and (when[at] <= arrival or amount[row[at]] < least):
                at += 1
            place[hop] = at
            if at == end:
                return False
            arrival = when[at]
            chain[hop] = row[at]
        if arrival <= index.last[when[first]]:
            return True
    return False


@njit(cache=True, nogil=True)
def count_chains(flows: FlowTimes, last: Int32s, route: Int32s) -> float:
    """Count the round trips along a route: chains of payments, one of each flow, later and later, within the window."""
    hops, when = route.size, flows.when
    first, end = flows.starts[route[0]], flows.starts[route[0] + 1]
    place = flows.starts[route]
    before, after = np.empty((hops + 2, hops + 2)), np.empty((hops + 2, hops + 2))
    total = 0.0
    while first < end:
        boundary = last[when[first]]
        stop = first
        while stop < end and when[stop] <= boundary:
            stop += 1
        early = np.empty((stop - first, hops))
        # From the boundary back in time: before[i, j] counts chains of the hops i to j, before[i, i - 1] = 1 is none.
        no_chains(before)
        for hop in range(1, hops):
            begin, place[hop] = flows.starts[route[hop]], flows.starts[route[hop] + 1]
            while place[hop] > begin and when[place[hop] - 1] > boundary:
                place[hop] -= 1
        for at in range(stop - 1, first - 1, -1):
            while True:
                hop = latest_hop(flows, route, place, when[at])
                if hop == 0:
                    break
                place[hop] -= 1
                for to in range(hop, hops):
                    before[hop, to] += before[hop + 1, to]
            for to in range(hops):
                early[at - first, to] = before[1, to]
        # From the boundary on.
        no_chains(after)
        for hop in range(1, hops):
            place[hop] = flows.starts[route[hop]]
            while place[hop] < flows.starts[route[hop] + 1] and when[place[hop]] <= boundary:
                place[hop] += 1
        for at in range(first, stop):
            while True:
                hop = earliest_hop(flows, route, place, last[when[at]])
                if hop == 0:
                    break
                place[hop] += 1
                for begin in range(1, hop + 1):
                    after[begin, hop] += after[begin, hop - 1]
            for to in range(hops):
                total += early[at - first, to] * after[to + 1, hops - 1]
        first = stop
    return total


@njit(cache=True, nogil=True)
def no_chains(counts: Floats) -> None:
    """Count no chains yet: only the empty ones."""
    counts[:] = 0.0
    for hop in range(1, counts.shape[0]):
        counts[hop, hop - 1] = 1.0


@njit(cache=True, nogil=True)
def latest_hop(flows: FlowTimes, route: Int32s, place: Int64s, after: int) -> int:
    """Return the hop of the latest payment before the places and after a rank, of equal ones the first; 0: none.

    The order among equal times keeps payments of one time out of each other's chains.
    """
    best, hop = after, 0
    for at in range(1, route.size):
        if place[at] > flows.starts[route[at]] and flows.when[place[at] - 1] > best:
            best, hop = flows.when[place[at] - 1], at
    return hop


@njit(cache=True, nogil=True)
def earliest_hop(flows: FlowTimes, route: Int32s, place: Int64s, until: int) -> int:
    """Return the hop of the earliest payment from the places on and until a rank, of equal ones the last; 0: none."""
    best, hop = until, 0
    for at in range(1, route.size):
        if place[at] < flows.starts[route[at] + 1] and flows.when[place[at]] <= best:
            best, hop = flows.when[place[at]], at
    return hop
