"""Absorbing push: follow all the money that named companies pay, hop by hop, and collect what arrives back.

A panel of companies (the roots) is pushed together: one row of the panel holds, for one company, the share of each
root's money that is there after so many hops. A hop gathers, for every payee, the rows of its payers; what reaches
its own root is absorbed and counted, what leaves the component is dropped. After k hops the return fraction lies
between what has arrived and that plus a bound of what the money still under way can yet bring; with a hop limit, what
has arrived is the value itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from numba import njit

from ouroflow.errors import UsageError
from ouroflow.runtime.threads import between

if TYPE_CHECKING:
    from ouroflow.graph import FlowGraph, Ids

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MOST_HOPS = 1_000
"""Hops after which a push without hop limit gives the bounds it has."""

_ROOTS = 32  # in one panel: a float32 row is 128 bytes, two cache lines that are fetched as a pair
_CHUNKS = 64  # fixed parts of a hop: sums are added in their order, whatever the number of threads
_RUN = 64  # flows of one payee that are summed in the precision of the panel
_COARSE = 1e-3  # tolerances from here on are tried with float32 panels first: half the memory traffic
_COARSE_HOPS = 64  # after which their rounding would count
_MOST_WORK = 1e9  # flows x panels x hops that a push without hop limit may take: some 20 seconds on two cores
_LEAST_HOPS = 64  # followed whatever they cost
_UNIT = 2.0**-53


# ---- the flows inside the components of the roots --------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class InnerFlows:
    """The flows inside some components, by payee, with companies renumbered 0..members-1 in ascending order.

    Attributes
    ----------
    member : int64 array of shape (members,)
        Company of each local number.
    offsets : int64 array of shape (members + 1,)
        The flows into local j are ``offsets[j]:offsets[j + 1]``.
    payer : int32 array of shape (inner flows,)
        Local number of who pays.
    flow : int32 or int64 array of shape (inner flows,)
        Position of the flow in the payer order of the graph.
    share : float64 array of shape (inner flows,)
        P_ij = w_ij / T_i.
    stay, stay_twice : float64 array of shape (members,)
        Share of the throughflow of a company that is still inside its component after one hop, and after two.
    outside : float64 array of shape (members,)
        Money that comes in from outside the component, T_j less what is received inside it, in minor units.

    Notes
    -----
    Memory: 16 bytes per inner flow (20 with int64 positions), 40 per member, and 4 per company of the graph while it
    is built.
    """

    member: Int64s
    offsets: Int64s
    payer: Int32s
    flow: Ids
    share: Floats
    stay: Floats
    stay_twice: Floats
    outside: Floats

    def local(self, companies: Int64s) -> Int64s:
        """Return the local numbers of members."""
        return np.searchsorted(self.member, companies)


def inner_flows(graph: FlowGraph, labels: Ids, roots: Int64s, *, threads: int | None = None) -> InnerFlows:
    """Take out the flows inside the components of the roots: one pass over the labels, two over those flows.

    Parameters
    ----------
    graph : FlowGraph
        n companies, m flows, int64 minor units.
    labels : int array of shape (n,)
        Strong component of each company.
    roots : int64 array
        Companies whose components are wanted.
    threads : int, optional
        Threads to use; results do not depend on it.
    """
    wanted = np.zeros(int(labels.max(initial=-1)) + 1, np.bool_)
    wanted[labels[roots]] = True
    member = np.flatnonzero(wanted[labels])
    local = np.empty(len(labels), np.int32)
    local[member] = np.arange(len(member), dtype=np.int32)
    offsets = np.zeros(len(member) + 1, np.int64)

    def count(first: int, last: int) -> None:
        _count_inner(first, last, member, graph.in_offsets, graph.in_payer, labels, offsets[1:])

    def fill(first: int, last: int) -> None:
        _fill_inner(
            first,
            last,
            member,
            graph.in_offsets,
            graph.in_payer,
            graph.in_flow,
            graph.amount,
            graph.throughflow,
            labels,
            local,
            offsets,
            payer,
            flow,
            share,
            outside,
        )

    between(count, _even_bounds(len(member)), threads)
    np.cumsum(offsets, out=offsets)
    size = int(offsets[-1])
    payer, flow, share = np.empty(size, np.int32), np.empty(size, graph.in_flow.dtype), np.empty(size, np.float64)
    outside, stay, stay_twice = np.empty(len(member)), np.empty(len(member)), np.zeros(len(member))
    between(fill, _even_bounds(len(member)), threads)
    _sum_stay(payer, flow, share, offsets, graph.amount, member, graph.throughflow, stay, stay_twice)
    return InnerFlows(member, offsets, payer, flow, share, stay, stay_twice, outside)


@njit(cache=True, nogil=True)
def _count_inner(
    first: int, last: int, member: Int64s, in_offsets: Int64s, in_payer: Ids, labels: Ids, counts: Int64s
) -> None:
    """Count the flows into each member from its own component."""
    for row in range(first, last):
        payee = member[row]
        label, inner = labels[payee], np.int64(0)
        for place in range(in_offsets[payee], in_offsets[payee + 1]):
            inner += np.int64(labels[in_payer[place]] == label)
        counts[row] = inner


@njit(cache=True, nogil=True)
def _fill_inner(
    first: int,
    last: int,
    member: Int64s,
    in_offsets: Int64s,
    in_payer: Ids,
    in_flow: Ids,
    amount: Int64s,
    throughflow: Int64s,
    labels: Ids,
    local: Int32s,
    offsets: Int64s,
    payer: Int32s,
    flow: Ids,
    share: Floats,
    outside: Floats,
) -> None:
    """Write the flows into each member from its own component, and what the member gets from outside it."""
    for row in range(first, last):
        payee = member[row]
        label, free = labels[payee], offsets[row]
        from_outside = throughflow[payee]
        for place in range(in_offsets[payee], in_offsets[payee + 1]):
            giver = in_payer[place]
            if labels[giver] == label:
                paid = amount[in_flow[place]]
                payer[free], flow[free], share[free] = local[giver], in_flow[place], paid / throughflow[giver]
                from_outside -= paid
                free += 1
        outside[row] = from_outside


@njit(cache=True, nogil=True)
def _sum_stay(
    payer: Int32s,
    flow: Ids,
    share: Floats,
    offsets: Int64s,
    amount: Int64s,
    member: Int64s,
    throughflow: Int64s,
    stay: Floats,
    stay_twice: Floats,
) -> None:
    """Find which share of a member's throughflow stays inside its component for one hop, and for two."""
    paid = np.zeros(len(member), np.int64)
    for place in range(len(payer)):
        paid[payer[place]] += amount[flow[place]]
    for row in range(len(member)):
        stay[row] = paid[row] / max(throughflow[member[row]], 1)
    for row in range(len(member)):
        for place in range(offsets[row], offsets[row + 1]):
            stay_twice[payer[place]] += share[place] * stay[row]


# ---- the push --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PushedReturns:
    """What comes back to each root, and through whom.

    Attributes
    ----------
    roots : int64 array of shape (roots,)
        The companies.
    value : float64 array of shape (roots,)
        What has arrived within the hops followed, as a share of what the root pays.
    low, high : float64 arrays of shape (roots,)
        Bounds of the return fraction C_i / out_i, rounding included. With a hop limit they differ by rounding alone.
    hops : int64 array of shape (roots,)
        Hops that were followed.
    last_hop_offsets : int64 array of shape (roots + 1,)
        The last hops of root k are ``last_hop_offsets[k]:last_hop_offsets[k + 1]`` in the two arrays below.
    last_hop_flow : int32 or int64 array
        Flow into the root, as its position in the payer order of the graph.
    last_hop_share : float64 array
        Share of what the root pays that came back over that flow within the hops followed.

    Notes
    -----
    Memory: 16 bytes per flow into the roots from their components.
    """

    roots: Int64s
    value: Floats
    low: Floats
    high: Floats
    hops: Int64s
    last_hop_offsets: Int64s
    last_hop_flow: Ids
    last_hop_share: Floats


def push_returns(
    graph: FlowGraph,
    labels: Ids,
    roots: npt.ArrayLike,
    *,
    tolerance: float = 1e-3,
    hops: int | None = None,
    threads: int | None = None,
) -> PushedReturns:
    """Bound the return fractions of some companies to a tolerance, or find them within a hop limit.

    Parameters
    ----------
    graph : FlowGraph
        n companies, m flows, int64 minor units.
    labels : int array of shape (n,)
        Strong component of each company.
    roots : int array
        Different companies.
    tolerance : float
        Wanted half-width of the bounds.
    hops : int, optional
        Count returns within so many hops only, at least 2.
    threads : int, optional
        Threads to use; results do not depend on it.

    Returns
    -------
    PushedReturns
        Bounds in the order of `roots`. They can be wider than the tolerance only after `MOST_HOPS` hops, fewer on large
        components where so many would take minutes (money that hardly leaks: use the exact method), or where the tolerance
        is below the rounding of float64.

    Raises
    ------
    UsageError
        If a root is not a company or is named twice, or a setting is out of range.

    Notes
    -----
    *What can still come.* Let x_j be the share of the root's money that is at j after k hops and not absorbed, and
    h_j the probability to reach the root i from j. What is still to come is sum_j x_j h_j. The next hop brings sum_j
    x_j P_ji, which is computed. Beyond it, h_j - P_ji = sum_(k != i) P_jk h_k is at most

    - sum_k P_jk s_k, with s_k the share of T_k that k pays inside the component, since the hop out of k has to stay
      in it; and
    - T_i / z_j, with z_j the money that j gets from outside the component: the throughflow inside the component is T
      = z N, so T_i = sum_k z_k n_ki >= z_j n_ji = z_j h_j n_ii >= z_j h_j.

    *Rounding.* Nothing is ever subtracted: every figure is a sum of products of positive terms. Let v be the rounding
    unit of the panel (2^-24 for float32, 2^-53 for float64), u = 2^-53 and d the longest row. A hop changes the
    relative error by at most (1 + v)^(64 + 3) for storing shares and rows, the products and the runs of 64, and (1 +
    u)^(d / 64 + 6) for the quotients with their conversions and the sum of the runs; the final sums add (members + d)
    u. Numbers too small for the panel lose at most 2^-149 each. All of it is added to the bounds.

    Memory: that of `InnerFlows`, two panels of 128 bytes (256 with float64) per member each, and 16 bytes per flow
    into the roots.
    """
    chosen = np.asarray(roots, np.int64)
    _check(graph, chosen, tolerance, hops)
    inner = inner_flows(graph, labels, chosen, threads=threads)
    rows = inner.local(chosen)
    on_cycles = np.flatnonzero(inner.stay[rows] > 0)  # nothing comes back to the others
    starts, lengths = inner.offsets[rows], np.diff(inner.offsets)[rows]
    last_hop_offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    places = np.arange(last_hop_offsets[-1]) + np.repeat(starts - last_hop_offsets[:-1], lengths)
    result = PushedReturns(
        chosen,
        np.zeros(len(chosen)),
        np.zeros(len(chosen)),
        np.zeros(len(chosen)),
        np.ones(len(chosen), np.int64),
        last_hop_offsets,
        inner.flow[places],
        np.zeros(len(places)),
    )
    if hops is None and tolerance >= _COARSE:
        coarse = _Panel(graph, labels, inner, np.float32, threads)
        on_cycles = coarse.push_all(on_cycles, rows, result, tolerance, _COARSE_HOPS, None)
        del coarse
    if on_cycles.size:
        fine = _Panel(graph, labels, inner, np.float64, threads)
        panels = -(-len(on_cycles) // _ROOTS)
        affordable = int(_MOST_WORK / max(1, panels * len(inner.payer)))
        most = hops or min(MOST_HOPS, max(_LEAST_HOPS, affordable))
        fine.push_all(on_cycles, rows, result, tolerance, most, hops)
    return result


def _check(graph: FlowGraph, roots: Int64s, tolerance: float, hops: int | None) -> None:
    companies = len(graph.out_offsets) - 1
    if roots.ndim != 1 or np.any((roots < 0) | (roots >= companies)):
        raise UsageError(f"roots must be a list of companies in 0..{companies - 1}")
    if len(np.unique(roots)) != len(roots):
        raise UsageError("each root must be named once")
    if hops is not None and hops < 2:
        raise UsageError(f"hops must be at least 2 (there and back), got {hops}")
    if not tolerance > 0:
        raise UsageError(f"tolerance must be positive, got {tolerance}")


class _Panel:
    """Two panels of 32 roots, and the hops between them."""

    def __init__(self, graph: FlowGraph, labels: Ids, inner: InnerFlows, dtype: Any, threads: int | None) -> None:
        self.graph, self.labels, self.inner, self.threads = graph, labels, inner, threads
        members = len(inner.member)
        self.now, self.next = np.zeros((members, _ROOTS), dtype), np.zeros((members, _ROOTS), dtype)
        self.column_of = np.full(members, -1, np.int8)
        with np.errstate(divide="ignore"):
            self.per_outside = 1 / inner.outside  # infinite, no bound, where nothing comes from outside
        self.bounds = _flow_bounds(inner.offsets)
        self.open = np.zeros((len(self.bounds) - 1, _ROOTS))
        longest = int(np.diff(inner.offsets).max(initial=0))
        unit = 2.0**-24 if dtype is np.float32 else _UNIT
        self.share = inner.share.astype(dtype, copy=False)
        self.error_per_hop = (min(longest, _RUN) + 3) * unit + (longest / _RUN + 6) * _UNIT
        self.error_of_sums = (members + longest + 6) * _UNIT

    def push_all(
        self, chosen: Int64s, rows: Int64s, result: PushedReturns, tolerance: float, most: int, hops: int | None
    ) -> Int64s:
        """Push the chosen roots, 32 at a time; return those whose bounds are still too wide after `most` hops."""
        wide = []
        for first in range(0, len(chosen), _ROOTS):
            part = chosen[first : first + _ROOTS]
            self._place(part, rows[part], result)
            self._follow(part, rows[part], result, tolerance, most, hops)
            if hops is None:
                wide.append(part[result.high[part] - result.low[part] > 2 * tolerance])
        return np.concatenate([np.zeros(0, np.int64), *wide])

    def _place(self, part: Int64s, root_rows: Int64s, result: PushedReturns) -> None:
        """Make the first hop: spread what each root pays over the members of its component."""
        self.now[:] = 0
        self.column_of[:] = -1
        self.column_of[root_rows] = np.arange(len(part))
        self.root_throughflow = np.full(_ROOTS, np.inf)  # columns without a root stay empty
        self.root_throughflow[: len(part)] = self.graph.throughflow[result.roots[part]]
        self.still = np.zeros(_ROOTS)
        for column, root in enumerate(result.roots[part]):
            self._start(column, int(root))
            own = slice(*result.last_hop_offsets[part[column] : part[column] + 2])
            result.last_hop_share[own] = 0

    def _follow(
        self, part: Int64s, root_rows: Int64s, result: PushedReturns, tolerance: float, most: int, hops: int | None
    ) -> None:
        """Follow the money hop by hop until the bounds are narrow, and write them."""
        inner, arrived = self.inner, np.zeros(len(part))
        rows = (inner.offsets, inner.payer, inner.share)
        for followed in range(2, most + 1):
            if followed > 2:
                self._hop()
            _collect(self.now, root_rows, *rows, result.last_hop_offsets[part], result.last_hop_share, arrived)
            still = self.still[: len(part)] if hops is None else 0.0
            error = math.expm1(followed * self.error_per_hop + self.error_of_sums)
            lost = len(self.now) * followed * 2.0**-149
            low, high = arrived * (1 - error), np.minimum((arrived + still) * (1 + 2 * error) + lost, 1)
            if not self.still.any() or (hops is None and np.all(high - low <= 2 * tolerance)):
                break
        result.value[part] = np.minimum(arrived, 1)
        result.low[part], result.high[part], result.hops[part] = low, high, followed

    def _start(self, column: int, root: int) -> None:
        """Spread what a root pays over the members of its component."""
        graph, inner = self.graph, self.inner
        flows = slice(int(graph.out_offsets[root]), int(graph.out_offsets[root + 1]))
        payees = graph.payee[flows]
        inside = self.labels[payees] == self.labels[root]
        rows = inner.local(payees[inside])
        share = graph.amount[flows][inside] / max(int(graph.paid[root]), 1)
        self.now[rows, column] = share
        reach = np.minimum(inner.stay_twice[rows], self.root_throughflow[column] * self.per_outside[rows])
        self.still[column] = np.sum(share * reach)

    def _hop(self) -> None:
        """Move everything by one hop, and bound what can come back to each root after the next one."""
        inner = self.inner
        rows = (inner.offsets, inner.payer, self.share)
        members = (_ROOTS, *rows, inner.stay_twice, self.per_outside, self.column_of)

        def gather(first: int, last: int) -> None:
            _gather(self.now, self.next, first, last, *members, self.root_throughflow, self.bounds, self.open)

        between(gather, np.arange(len(self.bounds)), self.threads)
        self.now, self.next = self.next, self.now
        self.still = self.open.sum(axis=0)


@njit(cache=True, nogil=True)
def _gather(
    now: Any,
    after: Any,
    first_part: int,
    last_part: int,
    width: int,
    offsets: Int64s,
    payer: Int32s,
    share: Any,
    stay_twice: Floats,
    per_outside: Floats,
    column_of: npt.NDArray[np.int8],
    root_throughflow: Floats,
    bounds: Int64s,
    still: Floats,
) -> None:
    """Gather the next rows of some parts of the payees, absorb what has reached its root, and bound what is under way.

    Runs of 64 flows are summed in the precision of the panel, their sums in float64.

    `width` is an argument because LLVM unrolls loops of known length before it could vectorise them: 3 times slower.
    """
    row, bound, run_sum = np.empty(width, np.float64), np.empty(width, np.float64), np.empty(width, now.dtype)
    smallest = root_throughflow[0]
    for column in range(width):
        smallest = min(smallest, root_throughflow[column])
    for part in range(first_part, last_part):
        bound[:] = 0.0
        for payee in range(bounds[part], bounds[part + 1]):
            row[:] = 0.0
            for run in range(offsets[payee], offsets[payee + 1], _RUN):
                run_sum[:] = 0
                for place in range(run, min(run + _RUN, offsets[payee + 1])):
                    passed, giver = share[place], np.uint64(payer[place])
                    for column in range(width):
                        run_sum[column] += passed * now[giver, column]
                for column in range(width):
                    row[column] += run_sum[column]
            if column_of[payee] >= 0:
                row[column_of[payee]] = 0.0
            most, per = stay_twice[payee], per_outside[payee]
            for column in range(width):
                after[payee, column] = row[column]
            if smallest * per >= most:
                for column in range(width):
                    bound[column] += row[column] * most
            else:
                for column in range(width):
                    bound[column] += row[column] * min(most, root_throughflow[column] * per)
        for column in range(width):
            still[part, column] = bound[column]


@njit(cache=True, nogil=True)
def _collect(
    now: Any,
    root_rows: Int64s,
    offsets: Int64s,
    payer: Int32s,
    share: Floats,
    last_hop_offsets: Int64s,
    last_hop_share: Floats,
    arrived: Floats,
) -> None:
    """Count what the next hop brings back to each root, and over which flow."""
    for column in range(len(root_rows)):
        begin = offsets[root_rows[column]]
        total = 0.0
        for nth in range(offsets[root_rows[column] + 1] - begin):
            brought = share[begin + nth] * now[payer[begin + nth], column]
            last_hop_share[last_hop_offsets[column] + nth] += brought
            total += brought
        arrived[column] += total


# ---- two hops, in closed form ----------------------------------------------------------------------------------------


def two_hop_returns(graph: FlowGraph) -> Floats:
    """Return for every flow i -> j the share that j pays straight back to i, P_ji: the return fraction within two hops.

    Parameters
    ----------
    graph : FlowGraph
        n companies, m flows.

    Returns
    -------
    float64 array of shape (m,)
        In the payer order of the graph. Times the amounts and summed by payer, these are the companies' C_i within
        two hops.

    Notes
    -----
    One merge of the sorted payees and payers of each company, O(m). Memory: 8 bytes per flow.
    """
    result = np.zeros(len(graph.payee))
    _merge_mutual(
        graph.out_offsets,
        graph.payee,
        graph.in_offsets,
        graph.in_payer,
        graph.in_flow,
        graph.amount,
        graph.throughflow,
        result,
    )
    return result


@njit(cache=True, nogil=True)
def _merge_mutual(
    out_offsets: Int64s,
    payee: Ids,
    in_offsets: Int64s,
    in_payer: Ids,
    in_flow: Ids,
    amount: Int64s,
    throughflow: Int64s,
    result: Floats,
) -> None:
    """Walk down both rows of each company together, and write where they name the same partner."""
    for company in range(len(out_offsets) - 1):
        out, out_end = out_offsets[company], out_offsets[company + 1]
        back, back_end = in_offsets[company], in_offsets[company + 1]
        while out < out_end and back < back_end:
            if payee[out] == in_payer[back]:
                result[out] = amount[in_flow[back]] / throughflow[payee[out]]
                out += 1
                back += 1
            elif payee[out] < in_payer[back]:
                out += 1
            else:
                back += 1


# ---- parts -----------------------------------------------------------------------------------------------------------


def _even_bounds(size: int) -> Int64s:
    return np.linspace(0, size, min(size, _CHUNKS) + 1).astype(np.int64)


def _flow_bounds(offsets: Int64s) -> Int64s:
    """Return bounds of parts of the rows that hold about as many flows each."""
    cuts = np.searchsorted(offsets, np.linspace(0, offsets[-1], min(len(offsets) - 1, _CHUNKS) + 1)[1:-1])
    return np.concatenate([[0], cuts, [len(offsets) - 1]]).astype(np.int64)
