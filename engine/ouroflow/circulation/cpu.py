"""Maximum circulation on a plain processor: an exact primal-dual method with unit costs, interruptible at any moment.

Start with everything netted. Some companies then set off more than they are owed: they have a surplus, others a
deficit. To become a circulation, netting must be undone along paths of flows from surplus to deficit, and every flow
on a path costs one unit: find the cheapest way. That is a transshipment with unit costs, so potentials are integers
that begin as the number of flows to the nearest deficit, and a primal-dual method (Ford & Fulkerson 1957, "A
primal-dual algorithm for the capacitated Hitchcock problem") needs only as many phases as the longest shortest
detour: each phase sends a maximum flow over the tight flows (payer one above payee) and then moves the cut-off side
by one.

At any moment the potentials bound every circulation from above: a circulation of value c over flows w is at most
sum w max(0, 1 - potential[payer] + potential[payee]). From below it is bounded by a repair: what is still surplus is
sent to the deficits over any flows, cheap or not.

Memory, measured at its peak: 70 bytes per flow inside components and 84 per company (int32 positions), besides the graph. The
proof is checked in less.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from numba import njit

from ouroflow.circulation.cpu_network import Network, network_of
from ouroflow.circulation.cpu_phase import (
    TOO_FAR,
    Arcs,
    Search,
    gather,
    measure_distances,
    send,
    shift_cut_off,
    turn_around,
    with_long_distances,
    work_space,
)
from ouroflow.graph import exact_sum

if TYPE_CHECKING:
    from ouroflow.graph import FlowGraph, Ids

Int64s = npt.NDArray[np.int64]

_WORK_PER_ARC = 240  # work of relabelling, per tight flow, after which a new search pays
_IMPATIENT_WORK_PER_ARC = 120  # the same where the paths found are few for the relabels
_RELABELS_PER_PATH = 60
_LEAST_WORK = 1000
_REPAIR_COST = 1.5  # width of the interval per unit still to be sent, at the first try (measured: 1 to 2, on rings 100)


@dataclass(eq=False)
class Solver:
    """State of one solution; ``room`` with ``surplus`` and ``potential`` always satisfy complementary slackness.

    Attributes
    ----------
    network : Network
        The flows inside components.
    room : int64 array of shape (2 * flows,)
        What is netted of each flow and, after it, what is not, minor units: all of a flow is netted where
        1 - potential[payer] + potential[payee] > 0, nothing where it is < 0.
    surplus : int64 array of shape (members,)
        What the company sets off of its payments less what it sets off of its receipts; 0 everywhere at the end.
    potential : int32 array of shape (members,)
        Any integers give an upper bound; these are optimal at the end.
    phases : int
        How many maximum flows it took.
    """

    network: Network
    room: Int64s
    surplus: Int64s
    potential: Any
    arcs: Arcs
    search: Search
    phases: int = 0
    start_turned: bool = False

    @classmethod
    def of(cls, network: Network) -> Solver:
        """Net everything, and take the distances to the nearest deficit as the first potentials."""
        members, flows = network.in_offsets.size - 1, network.payee.size
        surplus = _surplus(network.out_offsets, network.payee, network.amount)
        room = np.zeros((flows, 2), np.int64)
        room[:, 0] = network.amount
        room = room.ravel()
        arcs, search = work_space(members, flows, network.out_offsets.dtype)
        potential = np.empty(members, np.int32)
        _hops_to_deficit(network.in_offsets, network.in_payer, surplus, potential, search.order)
        _undo_direct(network, room, surplus)
        return cls(network, room, surplus, potential, arcs, search)

    @property
    def netted(self) -> Int64s:
        """What is netted of each flow, minor units."""
        return self.room[::2]

    @property
    def open(self) -> int:
        """What still has to be sent, minor units."""
        return exact_sum(np.maximum(self.surplus, 0))

    def upper_bound(self) -> int:
        """Return the bound of the potentials on all circulations together.

        By complementary slackness sum w max(0, reduced) = sum netted x reduced = sum netted - sum potential x surplus.
        """
        open_ = np.flatnonzero(self.surplus)
        weights = zip(self.potential[open_].tolist(), self.surplus[open_].tolist(), strict=True)
        return exact_sum(self.netted) - sum(potential * surplus for potential, surplus in weights)

    def run_phase(self, deadline: float = np.inf) -> bool:
        """Send a maximum flow over the tight flows and move the side that is cut off; False if time ran out before."""
        tight = gather(self.network, self.room, self.potential, False, self.arcs, self.search.current)
        turned = self.start_turned
        if turned:
            turn_around(self.arcs, self.surplus)
        patience, finished = _WORK_PER_ARC, False
        while not finished and time.monotonic() < deadline:
            if self._waiting(self.surplus) == 0:
                finished = True
                break
            finished, paths, relabels = self._send(self.room, self.surplus, patience * tight)
            if not finished and relabels > _RELABELS_PER_PATH * paths:
                # Much searching, little found: the other side of the cut may be the smaller one.
                patience = _IMPATIENT_WORK_PER_ARC
                turn_around(self.arcs, self.surplus)
                turned = not turned
        if turned:
            np.negative(self.surplus, out=self.surplus)
        self.phases += 1
        if finished and self.surplus.any():
            cut_off = shift_cut_off(self.search, self.potential, -1 if turned else 1)
            # The smaller side has just been enlarged: the next maximum flow is found fastest from there.
            self.start_turned = (2 * cut_off > self.potential.size) == turned
        return finished

    def repaired(self) -> Int64s:
        """Return a circulation near the present state: what is netted once all surplus has been sent over any flows."""
        room, surplus = self.room.copy(), self.surplus.copy()
        if surplus.any():
            count = gather(self.network, room, self.potential, True, self.arcs, self.search.current)
            # Everything can be sent: undoing all netting is one way to do it.
            while self._waiting(surplus):
                self._send(room, surplus, _WORK_PER_ARC * count)
        return room[::2]

    def _waiting(self, surplus: Int64s) -> int:
        """Measure all distances; return how many companies have a surplus that can be sent."""
        waiting: int = measure_distances(self.arcs, surplus, self.search)
        if waiting == TOO_FAR:
            self.search = with_long_distances(self.search)
            waiting = measure_distances(self.arcs, surplus, self.search)
        return waiting

    def _send(self, room: Int64s, surplus: Int64s, limit: int) -> tuple[bool, int, int]:
        """Send what can be sent, up to a limit of work; return whether all is, the paths, and the relabels they took."""
        finished, paths, relabels = send(self.arcs, room, surplus, self.search, limit + _LEAST_WORK)
        if relabels == TOO_FAR:
            self.search = with_long_distances(self.search)
        return finished, paths, relabels


@dataclass(frozen=True, eq=False)
class Solution:
    """What `solve` found, for the flows and companies of a graph.

    Attributes
    ----------
    amount : int64 array of shape (flows,)
        A feasible circulation, minor units; 0 outside components.
    potential : int64 array of shape (companies,)
        Integer potentials, 0 or more, the smallest of each component 0; 0 outside nontrivial components.
    phases : int
        Maximum flows it took.
    """

    amount: Int64s
    potential: Int64s
    phases: int


def solve(
    graph: FlowGraph, labels: Ids, nontrivial: int, *, tolerance: float = 0.0, seconds: float | None = None
) -> Solution:
    """Find a maximum circulation, or stop early with one near it and potentials that bound the difference.

    Parameters
    ----------
    graph : FlowGraph
        n companies, m flows, int64 minor units.
    labels : int32 array of shape (n,)
        Strong component of each company, by falling size.
    nontrivial : int
        Number of components of two companies or more.
    tolerance : float
        Stop as soon as the bounds are proven to differ by at most this share of all money.
    seconds : float, optional
        Stop after about so long; layout and repair come on top.
    """
    deadline = np.inf if seconds is None else time.monotonic() + seconds
    network, members = network_of(graph, labels, nontrivial)
    solver = Solver.of(network)
    near_enough = math.floor(tolerance * graph.total) if tolerance > 0 else -1
    cost, netted = _REPAIR_COST, None
    while netted is None and solver.surplus.any():
        in_time = solver.run_phase(deadline)
        if not in_time or cost * solver.open <= near_enough:
            netted = solver.repaired()
            gap = solver.upper_bound() - exact_sum(netted)
            if in_time and gap > near_enough:
                # Too early; a try costs about as much as a phase, so the next one waits until this price promises enough.
                cost, netted = gap / solver.open, None
    amount = np.zeros(graph.flows, np.int64)
    amount[members.flow] = solver.netted if netted is None else netted
    potential = np.zeros(graph.companies, np.int64)
    potential[members.company] = solver.potential
    return Solution(amount, _from_zero(potential, labels, nontrivial), solver.phases)


def _from_zero(potential: Int64s, labels: Ids, nontrivial: int) -> Int64s:
    """Shift the potentials of each component so that the smallest is 0."""
    least = np.zeros(labels.max(initial=-1) + 1, np.int64)
    inside = labels < nontrivial
    np.minimum.at(least, labels[inside], potential[inside])
    return potential - least[labels]


@njit(cache=True, nogil=True)
def _surplus(out_offsets: Any, payee: Any, netted: Any) -> Any:
    """Return what each company nets of its payments less what it nets of its receipts."""
    surplus = np.zeros(out_offsets.size - 1, np.int64)
    for payer in range(surplus.size):
        for flow in range(out_offsets[payer], out_offsets[payer + 1]):
            surplus[payer] += netted[flow]
            surplus[payee[flow]] -= netted[flow]
    return surplus


@njit(cache=True, nogil=True)
def _hops_to_deficit(in_offsets: Any, in_payer: Any, surplus: Any, hops: Any, order: Any) -> None:
    """Count the flows from each company to the nearest deficit; 0 in components without one."""
    reached = 0
    for member in range(surplus.size):
        hops[member] = -1
        if surplus[member] < 0:
            hops[member] = 0
            order[reached] = member
            reached += 1
    done = 0
    while done < reached:
        member = order[done]
        done += 1
        for position in range(in_offsets[member], in_offsets[member + 1]):
            payer = in_payer[position]
            if hops[payer] < 0:
                hops[payer] = hops[member] + 1
                order[reached] = payer
                reached += 1
    for member in range(surplus.size):
        hops[member] = max(hops[member], 0)


@njit(cache=True, nogil=True)
def _undo_direct(network: Any, room: Any, surplus: Any) -> None:
    """Send what goes straight from a surplus to a deficit: most of the first phase, in one pass through memory."""
    for payer in range(surplus.size):
        if surplus[payer] <= 0:
            continue
        for flow in range(network.out_offsets[payer], network.out_offsets[payer + 1]):
            payee = network.payee[flow]
            if surplus[payee] < 0:
                money = min(surplus[payer], -surplus[payee], room[2 * flow])
                room[2 * flow] -= money
                room[2 * flow + 1] += money
                surplus[payer] -= money
                surplus[payee] += money
                if surplus[payer] == 0:
                    break
