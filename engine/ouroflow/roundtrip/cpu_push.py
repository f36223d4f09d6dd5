"""Absorbing push on the CPU: the flows inside components, and the hops of a panel, by threads over fixed parts.

See `push` for what is computed, in which order, and what memory it takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from numba import njit

from ouroflow.roundtrip.push import GROUP, PART, ROOTS, RUN, UNITS, InnerFlows, part_bounds
from ouroflow.runtime.threads import between

if TYPE_CHECKING:
    from ouroflow.graph import FlowGraph, Ids

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_CHUNKS = 64  # tasks of a sweep that threads take in turn


# ---- the flows inside the components of the roots --------------------------------------------------------------------


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
    outside, stay, stay_twice = np.empty(len(member)), np.empty(len(member)), np.zeros(len(member), np.int64)
    between(fill, _even_bounds(len(member)), threads)
    _sum_stay(payer, flow, share, offsets, graph.amount, member, graph.throughflow, stay, stay_twice)
    return InnerFlows(member, offsets, payer, flow, share, stay, stay_twice / UNITS, outside)


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
    stay_twice: Int64s,
) -> None:
    """Find which share of a member's throughflow stays inside its component for one hop, and (in units) for two."""
    paid = np.zeros(len(member), np.int64)
    for place in range(len(payer)):
        paid[payer[place]] += amount[flow[place]]
    for row in range(len(member)):
        stay[row] = paid[row] / max(throughflow[member[row]], 1)
    for row in range(len(member)):
        for place in range(offsets[row], offsets[row + 1]):
            part = share[place] * stay[row]
            stay_twice[payer[place]] += np.int64(part * UNITS) + np.int64(part > 0.0)


# ---- the push --------------------------------------------------------------------------------------------------------


class HostPanel:
    """Two panels of 32 roots, and the hops between them (see `push.Panel`)."""

    def __init__(self, graph: FlowGraph, labels: Ids, inner: InnerFlows, threads: int | None, dtype: Any) -> None:
        self.graph, self.labels, self.inner, self.threads = graph, labels, inner, threads
        members = len(inner.member)
        self.now, self.next = np.zeros((members, ROOTS), dtype), np.zeros((members, ROOTS), dtype)
        self.column_of = np.full(members, -1, np.int8)
        with np.errstate(divide="ignore"):
            self.per_outside = 1 / inner.outside  # infinite, no bound, where nothing comes from outside
        self.bounds = part_bounds(graph, inner)
        self.open = np.zeros((len(self.bounds) - 1, ROOTS))
        self.share = inner.share.astype(dtype, copy=False)

    def place(self, roots: Int64s) -> None:
        """Begin anew with up to 32 companies: spread what each pays over the members of its component."""
        rows = np.searchsorted(self.inner.member, roots)
        self.now[:] = 0
        self.column_of[:] = -1
        self.column_of[rows] = np.arange(len(roots))
        self.root_throughflow = np.full(ROOTS, np.inf)  # columns without a root stay empty
        self.root_throughflow[: len(roots)] = self.graph.throughflow[roots]
        self.begin, lengths = self.inner.offsets[rows], np.diff(self.inner.offsets)[rows]
        self.last_hop_offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        self.last_hop_share, self.arrived = np.zeros(self.last_hop_offsets[-1]), np.zeros(ROOTS)
        filled = np.zeros(len(self.now), np.bool_)
        for column, root in enumerate(roots):
            filled[self._spread(column, int(root))] = True
        self._in_parts((_bound,), self.now, filled)

    def collect(self) -> tuple[Floats, Floats]:
        """Count what the next hop brings back to each root; return what has arrived, and what still can."""
        _collect(
            self.now,
            self.begin,
            self.last_hop_offsets,
            self.inner.payer,
            self.inner.share,
            self.last_hop_share,
            self.arrived,
        )
        return self.arrived.copy(), _sum_in_groups(self.open)

    def hop(self) -> None:
        """Move everything by one hop, and bound what can come back to each root after the next one."""
        rows = (self.inner.offsets, self.inner.payer, self.share, self.column_of)
        self._in_parts((_gather, _gather_long), self.now, self.next, ROOTS, *rows)
        self.now, self.next = self.next, self.now

    def last_hops(self) -> Floats:
        """Return what came back over each flow into the roots, one root after the other."""
        return self.last_hop_share

    def _spread(self, column: int, root: int) -> Int64s:
        """Spread what a root pays over the members of its component; return their rows."""
        graph = self.graph
        flows = slice(int(graph.out_offsets[root]), int(graph.out_offsets[root + 1]))
        payees = graph.payee[flows]
        inside = self.labels[payees] == self.labels[root]
        rows = np.searchsorted(self.inner.member, payees[inside])
        self.now[rows, column] = graph.amount[flows][inside] / max(int(graph.paid[root]), 1)
        return rows

    def _in_parts(self, kernels: Any, *panels: Any) -> None:
        """Run kernels over all parts; they write the bound of each."""
        limits = (self.inner.stay_twice, self.per_outside, self.root_throughflow, self.bounds, self.open)

        def work(first: int, last: int) -> None:
            for kernel in kernels:
                kernel(first, last, *panels, *limits)

        between(work, _even_bounds(len(self.open)), self.threads)


@njit(cache=True, nogil=True)
def _gather(
    first_part: int,
    last_part: int,
    now: Any,
    after: Any,
    width: int,
    offsets: Int64s,
    payer: Int32s,
    share: Any,
    column_of: npt.NDArray[np.int8],
    stay_twice: Floats,
    per_outside: Floats,
    root_throughflow: Floats,
    bounds: Int64s,
    open_parts: Floats,
) -> None:
    """Gather the next rows of some parts of the payees, absorb what has reached its root, and bound what is under way.

    `width` is an argument because LLVM unrolls loops of known length before it could vectorise them: 3 times slower.
    """
    row, bound, run_sum = np.empty(width, np.float64), np.empty(width, np.float64), np.empty(width, now.dtype)
    smallest = root_throughflow.min()
    for part in range(first_part, last_part):
        bound[:] = 0.0
        for payee in range(bounds[part], bounds[part + 1]):
            row[:] = 0.0
            begin, end = offsets[payee], offsets[payee + 1]
            if end - begin > PART:
                continue
            for run in range(begin, end, RUN):
                _add_run(now, run, min(run + RUN, end), payer, share, width, run_sum)
                for column in range(width):
                    row[column] += run_sum[column]
            if column_of[payee] >= 0:
                row[column_of[payee]] = 0.0
            for column in range(width):
                after[payee, column] = row[column]
            most, per = stay_twice[payee], per_outside[payee]
            if smallest * per >= most:
                for column in range(width):
                    bound[column] += row[column] * most
            else:
                for column in range(width):
                    bound[column] += row[column] * min(most, root_throughflow[column] * per)
        for column in range(width):
            open_parts[part, column] = bound[column]


@njit(inline="always")
def _add_run(now: Any, first: int, last: int, payer: Int32s, share: Any, width: int, run_sum: Any) -> None:
    """Sum a run of flows in the precision of the panel."""
    run_sum[:] = 0
    for place in range(first, last):
        passed, giver = share[place], np.uint64(payer[place])
        for column in range(width):
            run_sum[column] += passed * now[giver, column]


@njit(cache=True, nogil=True)
def _gather_long(
    first_part: int,
    last_part: int,
    now: Any,
    after: Any,
    width: int,
    offsets: Int64s,
    payer: Int32s,
    share: Any,
    column_of: npt.NDArray[np.int8],
    stay_twice: Floats,
    per_outside: Floats,
    root_throughflow: Floats,
    bounds: Int64s,
    open_parts: Floats,
) -> None:
    """Do the same for the rows of more than `PART` flows, each the last of its part.

    They have a kernel of their own because the shorter ones would take a fifth longer in one that knows pieces.
    """
    row, piece_sum, run_sum = np.empty(width, np.float64), np.empty(width, np.float64), np.empty(width, now.dtype)
    for part in range(first_part, last_part):
        payee = bounds[part + 1] - 1
        if payee < bounds[part] or offsets[payee + 1] - offsets[payee] <= PART:
            continue
        row[:] = 0.0
        end = offsets[payee + 1]
        for piece in range(offsets[payee], end, PART):
            piece_sum[:] = 0.0
            for run in range(piece, min(piece + PART, end), RUN):
                _add_run(now, run, min(run + RUN, end), payer, share, width, run_sum)
                for column in range(width):
                    piece_sum[column] += run_sum[column]
            for column in range(width):
                row[column] += piece_sum[column]
        if column_of[payee] >= 0:
            row[column_of[payee]] = 0.0
        for column in range(width):
            after[payee, column] = row[column]
            open_parts[part, column] += row[column] * min(
                stay_twice[payee], root_throughflow[column] * per_outside[payee]
            )


@njit(cache=True, nogil=True)
def _bound(
    first_part: int,
    last_part: int,
    now: Any,
    filled: npt.NDArray[np.bool_],
    stay_twice: Floats,
    per_outside: Floats,
    root_throughflow: Floats,
    bounds: Int64s,
    open_parts: Floats,
) -> None:
    """Bound what is under way in some parts of the payees after a first hop, which fills few rows."""
    bound = np.empty(len(root_throughflow))
    for part in range(first_part, last_part):
        bound[:] = 0.0
        for payee in range(bounds[part], bounds[part + 1]):
            if not filled[payee]:
                continue
            most, per = stay_twice[payee], per_outside[payee]
            for column in range(len(bound)):
                bound[column] += now[payee, column] * min(most, root_throughflow[column] * per)
        open_parts[part] = bound


def _sum_in_groups(rows: Floats) -> Floats:
    """Add up rows, neighbours together, until one is left."""
    while len(rows) > 1:
        rows = _sum_groups(rows)
    return rows[0].copy()


@njit(cache=True, nogil=True)
def _sum_groups(rows: Floats) -> Floats:
    sums = np.zeros(((len(rows) + GROUP - 1) // GROUP, rows.shape[1]))
    for group in range(len(sums)):
        for row in range(group * GROUP, min((group + 1) * GROUP, len(rows))):
            for column in range(rows.shape[1]):
                sums[group, column] += rows[row, column]
    return sums


@njit(cache=True, nogil=True)
def _collect(
    now: Any,
    begin: Int64s,
    last_hop_offsets: Int64s,
    payer: Int32s,
    share: Floats,
    last_hop_share: Floats,
    arrived: Floats,
) -> None:
    """Count what the next hop brings back to each root, and over which flow."""
    for column in range(len(begin)):
        first, last = last_hop_offsets[column], last_hop_offsets[column + 1]
        pieces = np.zeros((last - first + PART - 1) // PART)
        brought = np.empty(PART)
        for piece in range(len(pieces)):
            at = piece * PART
            length = min(PART, last - first - at)
            for nth in range(length):
                place = begin[column] + at + nth
                brought[nth] = share[place] * now[payer[place], column]
                last_hop_share[first + at + nth] += brought[nth]
            pieces[piece] = _sum_by_lanes(brought[:length])
        arrived[column] += _sum_by_lanes(pieces)


@njit(cache=True, nogil=True)
def _sum_by_lanes(values: Floats) -> float:
    """Add up numbers as a warp does: dealt out to its lanes, which are added by halves."""
    lanes = np.zeros(ROOTS)
    for nth in range(len(values)):
        lanes[nth % ROOTS] += values[nth]
    half = ROOTS // 2
    while half > 0:
        for lane in range(half):
            lanes[lane] += lanes[lane + half]
        half //= 2
    return lanes[0]


# ---- two hops, in closed form ----------------------------------------------------------------------------------------


def two_hop_returns(graph: FlowGraph) -> Floats:
    """Return P_ji for every flow i -> j (see `push.two_hop_returns`): one merge of each company's two rows, O(m)."""
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


def _even_bounds(size: int) -> Int64s:
    return np.linspace(0, size, min(size, _CHUNKS) + 1).astype(np.int64)
