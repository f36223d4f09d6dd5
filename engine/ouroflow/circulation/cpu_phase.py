"""One phase of the primal-dual method: a maximum flow over the flows that are tight.

See ``cpu`` for the method. The kernels here see a plain maximum flow: companies with a surplus send it over arcs with
room to companies with a deficit. A phase may be turned around: deficits then send against the arcs.

Distances are kept exact by a search from the deficits that switches direction with the size of its front (Beamer,
Asanović & Patterson 2012), and in between by relabelling (Ahuja & Orlin 1991, "Distance-directed augmenting path
algorithms"). When a distance has no company left, all companies farther away are cut off for good.

Nearly all of the time goes into looking at arcs, and nearly all of that into waiting for memory. So an arc is one
integer that says where it ends and whether it has room in either direction; amounts are looked up only to send.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

SHORT, LONG = 2**14, 2**30
"""`Search.cut_off` with distances in int16 and in int32."""

TOO_FAR = -1
"""Instead of a count: some distance does not fit the small type."""

_OPEN = 2  # bit of an arc that has room
_OPEN_BACK = 1  # bit of an arc whose mirror has room
_BOTTOM_UP = 6  # a front larger than 1 / so many of the companies not yet reached is searched from their side


class Arcs(NamedTuple):
    """The tight flows as an undirected graph: each flow is an arc at its payer and a mirror arc at its payee.

    Attributes
    ----------
    offsets : int32 or int64 array of shape (members + 1,)
        The arcs of company ``i`` are ``offsets[i]:offsets[i + 1]``.
    code : int32 or int64 array of shape (2 * flows,)
        Four times the company at the other end, plus `_OPEN` and `_OPEN_BACK`.
    mirror : int32 or int64 array of shape (2 * flows,)
        The same flow at the other end.
    link : int32 or int64 array of shape (2 * flows,)
        Where the room of the arc is, in the array of rooms; that of its mirror is at ``link ^ 1``.
    tight : int32 or int64 array of shape (flows,)
        The tight flows.
    """

    offsets: Any
    code: Any
    mirror: Any
    link: Any
    tight: Any


class Search(NamedTuple):
    """Work space of the searches, per company.

    Attributes
    ----------
    cut_off : int
        Distance of a company from which no deficit can be reached: an even number, as large as the type allows.
    distance : int16 or int32 array of shape (members,)
        Lower bound of the arcs to the nearest deficit. Distances are looked up all over memory, so the small type is
        used as long as they fit.
    current : array of shape (members,)
        First arc that may be admissible.
    order : array of shape (members,)
        Companies in the order in which the search reached them.
    count : int32 array of shape (members + 2,)
        How many companies have each distance; at the end, how many the search reached.
    path_arc, path_company : arrays of shape (members,)
        The path that is being built.
    """

    cut_off: int
    distance: Any
    current: Any
    order: Any
    count: Any
    path_arc: Any
    path_company: Any


def work_space(members: int, flows: int, position: Any) -> tuple[Arcs, Search]:
    """Take the memory of the phases once: 28 bytes per flow and 28 per company (int32 positions)."""
    coded = np.int32 if 4 * members < 2**31 else np.int64
    arcs = Arcs(
        np.empty(members + 1, position),
        np.empty(2 * flows, coded),
        np.empty(2 * flows, position),
        np.empty(2 * flows, position),
        np.empty(flows, position),
    )
    search = Search(
        SHORT,
        np.empty(members, np.int16),
        np.empty(members, position),
        np.empty(members, coded),
        np.zeros(members + 2, np.int32),
        np.empty(members, position),
        np.empty(members, coded),
    )
    return arcs, search


def with_long_distances(search: Search) -> Search:
    """Return the work space with distances in int32."""
    return search._replace(cut_off=LONG, distance=np.empty(search.distance.size, np.int32))


@njit(cache=True, nogil=True)
def gather(network: Any, room: Any, potential: Any, everything: bool, arcs: Any, current: Any) -> int:
    """Collect the tight flows (or all of them) as arcs; return how many there are.

    ``room[2 * flow]`` is what a flow can send from payer to payee by undoing its netting, ``room[2 * flow + 1]`` what it
    can send back.
    """
    members = potential.size
    offsets, tight = arcs.offsets, arcs.tight
    current[:] = 0
    found = 0
    for payer in range(members):
        below = potential[payer] - 1
        first = found
        for flow in range(network.out_offsets[payer], network.out_offsets[payer + 1]):
            payee = network.payee[flow]
            # Without a branch, for none could be foretold: what is not tight is overwritten by the next.
            wanted = everything | (potential[payee] == below)
            tight[found] = flow
            found += wanted
            current[payee] += wanted
        current[payer] += found - first
        offsets[payer] = found  # where the flows of the payer end in the list, for the second pass
    start = 0
    for member in range(members):
        degree = current[member]
        current[member] = start
        start += degree
    position = 0
    for payer in range(members):
        last = offsets[payer]
        while position < last:
            flow = tight[position]
            payee = network.payee[flow]
            here, there = current[payer], current[payee]
            current[payer] += 1
            current[payee] += 1
            link = 2 * flow
            forth = 1 if room[link] > 0 else 0
            back = 1 if room[link ^ 1] > 0 else 0
            arcs.code[here] = 4 * payee + _OPEN * forth + _OPEN_BACK * back
            arcs.code[there] = 4 * payer + _OPEN * back + _OPEN_BACK * forth
            arcs.mirror[here], arcs.mirror[there] = there, here
            arcs.link[here], arcs.link[there] = link, link ^ 1
            position += 1
    offsets[0] = 0
    for member in range(members):
        offsets[member + 1] = current[member]
    return found


@njit(cache=True, nogil=True)
def measure_distances(arcs: Any, surplus: Any, search: Any) -> int:
    """Find the exact distance of every company to the nearest deficit; return how many surplus companies have one, or TOO_FAR.

    ``search.order[:reached]`` lists the companies that were reached, nearest first; the number is left in
    ``search.count[-1]``.
    """
    distance, order, count = search.distance, search.order, search.count
    offsets, code = arcs.offsets, arcs.code
    cut_off = search.cut_off
    far = cut_off // _OPEN  # puts what lies over a closed arc beyond `cut_off` without a branch
    members = distance.size
    count[:] = 0
    reached = 0
    for member in range(members):
        search.current[member] = offsets[member]
        if surplus[member] < 0:
            distance[member] = 0
            order[reached] = member
            reached += 1
        else:
            distance[member] = cut_off
    level, done, waiting = 0, 0, 0
    while done < reached:
        if level + 1 >= cut_off:
            return TOO_FAR
        last = reached
        count[level] = last - done
        if (last - done) * _BOTTOM_UP > members - last:
            for member in range(members):
                if distance[member] == cut_off:
                    for arc in range(offsets[member], offsets[member + 1]):
                        if distance[code[arc] >> 2] | (~code[arc] & _OPEN) * far == level:
                            distance[member] = level + 1
                            order[reached] = member
                            reached += 1
                            waiting += surplus[member] > 0
                            break
        else:
            for position in range(done, last):
                member = order[position]
                for arc in range(offsets[member], offsets[member + 1]):
                    end = code[arc] >> 2
                    if code[arc] & _OPEN_BACK and distance[end] == cut_off:
                        distance[end] = level + 1
                        order[reached] = end
                        reached += 1
                        waiting += surplus[end] > 0
        done = last
        level += 1
    count[-1] = reached
    return waiting


@njit(cache=True, nogil=True)
def send(arcs: Any, room: Any, surplus: Any, search: Any, limit: int) -> tuple[bool, int, int]:
    """Send surplus along shortest paths to deficits until none is left that can, or the work limit is reached.

    Returns
    -------
    finished : bool
        Every company that still has a surplus is cut off (at the distance `cut_off`).
    paths, relabels : int
        How many of each it took; TOO_FAR for the relabels where a distance does not fit the small type.
    """
    distance, current, count = search.distance, search.current, search.count
    path_arc, path_company = search.path_arc, search.path_company
    offsets, code = arcs.offsets, arcs.code
    cut_off = search.cut_off
    far = cut_off // _OPEN
    work, paths, relabels = 0, 0, 0
    for position in range(count[-1]):
        source = search.order[position]
        if surplus[source] <= 0:
            continue
        member, hops = source, 0
        while surplus[source] > 0 and distance[source] < cut_off:
            if surplus[member] < 0:
                keep = _send_along(arcs, room, surplus, path_arc, hops, source, member)
                paths += 1
                work += 15 * hops
                if keep < hops:
                    hops = keep
                    member = path_company[hops]
                continue
            first, last = current[member], offsets[member + 1]
            here = distance[member]
            nearer, nearest = here - 1, cut_off
            arc = first
            while arc < last:
                there = distance[code[arc] >> 2] | (~code[arc] & _OPEN) * far
                if there == nearer:
                    break
                nearest = min(nearest, there)
                arc += 1
            work += arc - first + 8
            if arc < last:
                current[member] = arc
                path_arc[hops], path_company[hops] = arc, member
                hops += 1
                member = code[arc] >> 2
                continue
            # Dead end: no arc leads nearer. Move the company as far away as its nearest open neighbour demands.
            for before in range(offsets[member], first):
                nearest = min(nearest, distance[code[before] >> 2] | (~code[before] & _OPEN) * far)
            work += ((last - offsets[member]) >> 1) + 120
            relabels += 1
            if work > limit:
                return False, paths, relabels
            current[member] = offsets[member]
            if count[here] == 1:
                # No other company is at this distance, so none farther away can reach a deficit: nor can the source.
                work += _cut_off_from(source, arcs, search)
                break
            count[here] -= 1
            if nearest + 1 == cut_off:
                return False, paths, TOO_FAR
            if nearest < cut_off:
                distance[member] = nearest + 1
                count[nearest + 1] += 1
            else:
                distance[member] = cut_off
            if hops > 0:
                hops -= 1
                member = path_company[hops]
        if work > limit:
            return False, paths, relabels
    return True, paths, relabels


@njit(cache=True, nogil=True)
def _send_along(arcs: Any, room: Any, surplus: Any, path: Any, hops: int, source: int, sink: int) -> int:
    """Send what fits along a path; return the position of its first arc without room left, or `hops`."""
    code, link, mirror = arcs.code, arcs.link, arcs.mirror
    money = min(surplus[source], -surplus[sink])
    for hop in range(hops):
        money = min(money, room[link[path[hop]]])
    surplus[source] -= money
    surplus[sink] += money
    keep = hops
    for hop in range(hops - 1, -1, -1):
        arc = path[hop]
        forth = link[arc]
        if room[forth ^ 1] == 0:
            code[arc] |= _OPEN_BACK
            code[mirror[arc]] |= _OPEN
        room[forth] -= money
        room[forth ^ 1] += money
        if room[forth] == 0:
            code[arc] &= ~_OPEN
            code[mirror[arc]] &= ~_OPEN_BACK
            keep = hop
    return keep


@njit(cache=True, nogil=True)
def _cut_off_from(source: int, arcs: Any, search: Any) -> int:
    """Cut off all that can be reached from a company that cannot reach a deficit; return how many arcs that took."""
    distance, count, stack = search.distance, search.count, search.path_company
    cut_off = search.cut_off
    looked_at, top = 0, 1
    stack[0] = source
    count[distance[source]] -= 1
    distance[source] = cut_off
    while top > 0:
        top -= 1
        member = stack[top]
        for arc in range(arcs.offsets[member], arcs.offsets[member + 1]):
            end = arcs.code[arc] >> 2
            if arcs.code[arc] & _OPEN and distance[end] < cut_off:
                count[distance[end]] -= 1
                distance[end] = cut_off
                stack[top] = end
                top += 1
        looked_at += arcs.offsets[member + 1] - arcs.offsets[member]
    return looked_at


@njit(cache=True, nogil=True)
def turn_around(arcs: Any, surplus: Any) -> None:
    """Let deficits send against the arcs from now on, or surplus along them again."""
    for arc in range(arcs.offsets[-1]):
        code = arcs.code[arc]
        arcs.code[arc] = (code & ~3) | (code & _OPEN) >> 1 | (code & _OPEN_BACK) << 1
        arcs.link[arc] ^= 1
    for member in range(surplus.size):
        surplus[member] = -surplus[member]


@njit(cache=True, nogil=True)
def shift_cut_off(search: Any, potential: Any, step: int) -> int:
    """Shift the potential of every company that is cut off; return how many there are."""
    shifted = 0
    for member in range(potential.size):
        if search.distance[member] == search.cut_off:
            potential[member] += step
            shifted += 1
    return shifted
