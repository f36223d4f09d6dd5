"""Absorbing push on a device: one warp for a part of the payees, one lane for each root (see `push` for the order of sums).

A hop reads, per flow, the payer's number (4 bytes), the share (4 or 8) and the payer's row of the panel (128 bytes, or 256
with float64): 136 (268) bytes; and writes 128 (256) per member. While three quarters of the rows or fewer hold anything,
as in the first hops, a bitmap of them (one bit per member) is looked at before a row is read; the others would add zero.
Rows of more than `PART` flows are cut into pieces that warps of their own add up, so that no warp waits for a hub. Each
hop ends with one copy of 64 numbers to the host, which decides whether to go on.

Device memory of a push, beside the graph: per inner flow 16 bytes (20 with int64 positions), 4 more for a float32
panel, and 1 for sums; per member 62 and two rows of a panel (256 or 512 bytes); 4 per company of the graph. While the
flows are taken out also 4 per inner flow, 22 per member, 1 per flow and company of the graph, a copy of the labels, and 48
for each of 2^24 flows that are looked at together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ouroflow.roundtrip.push import GROUP, PART, ROOTS, UNITS, InnerFlows, part_bounds
from ouroflow.runtime.launch import WARP, Program

if TYPE_CHECKING:
    from ouroflow.graph import Ids
    from ouroflow.graph_gpu import DeviceGraph
    from ouroflow.runtime.launch import Array

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

PROGRAM = Program("roundtrip_push.cu")
SUM_INSIDE = PROGRAM.kernel(
    "sum_inside", "const int32*", "const int32*", "const Index*", "const int64*", "int64", "int64*", "int64*",
    types=("Index",),
)  # fmt: skip
SUM_STAY = PROGRAM.kernel(
    "sum_stay", "const int32*", "const int32*", "const float64*", "const float64*", "int64", "int64*"
)
PLACE_ROOTS = PROGRAM.kernel(
    "place_roots", "const int64*", "int64", "const int64*", "const int32*", "const int64*", "const Index*",
    "const int64*", "const int32*", "const int32*", "Real*", "uint32*", "int64*", types=("Real", "Index"),
)  # fmt: skip
BOUND_PARTS = PROGRAM.kernel(
    "bound_parts", "const Real*", "const int64*", "int64", "const float64*", "const float64*", "const float64*",
    "const uint32*", "float64*", types=("Real",),
)  # fmt: skip
GATHER_PIECES = PROGRAM.kernel(
    "gather_pieces", "const Real*", "const int64*", "const int32*", "const Real*", "const int64*", "const int64*",
    "int64", "int64", "const uint32*", "const int64*", "int64", "float64*", types=("Real",),
)  # fmt: skip
GATHER_PARTS = PROGRAM.kernel(
    "gather_parts", "const Real*", "Real*", "const int64*", "int64", "const int64*", "const int32*", "const Real*",
    "const float64*", "const float64*", "const uint8*", "const float64*", "const int64*", "const int64*", "int64",
    "const float64*", "const uint32*", "const int64*", "int64", "uint32*", "int64*", "float64*", types=("Real",),
)  # fmt: skip
SUM_GROUPS = PROGRAM.kernel("sum_groups", "const float64*", "int64", "float64*")
BRING_BACK = PROGRAM.kernel(
    "bring_back", "const Real*", "const int64*", "const int64*", "const int64*", "int64", "const int32*",
    "const float64*", "float64*", "float64*", types=("Real",),
)  # fmt: skip
ADD_ARRIVALS = PROGRAM.kernel("add_arrivals", "const float64*", "const int64*", "int64", "float64*")
PAY_STRAIGHT_BACK = PROGRAM.kernel(
    "pay_straight_back", "const int64*", "const Index*", "const Index*", "const int64*", "const int64*", "int64",
    "float64*", types=("Index",),
)  # fmt: skip
# Launched by `gpu_exact`. Declared here, because one file is one program: what is declared later would not be compiled.
SWEEP_CHAINS = PROGRAM.kernel(
    "sweep_chains", "const int64*", "const int64*", "const int32*", "int64", "float64*", "float64*", "float64*",
    "float64*", block=256,
)  # fmt: skip

NO_ROOT = 255
_FLOWS_AT_ONCE = 1 << 24  # looked at together when the flows inside components are taken out
_BYTES_PER_FLOW_AT_ONCE = 48


@dataclass(frozen=True, eq=False)
class DeviceFlows(InnerFlows):
    """`InnerFlows` in device memory, and what finds the members among all companies.

    Attributes
    ----------
    local : int32 device array of shape (companies of the graph,)
        Local number of each member, -1 for the others.
    component : int32 device array of shape (members,)
        The component of each member, numbered among those that were taken out.
    """

    local: Array
    component: Array


def inner_flows(graph: DeviceGraph, labels: Ids, roots: Int64s, *, flows_at_once: int = _FLOWS_AT_ONCE) -> DeviceFlows:
    """Take out the flows inside the components of the roots: two passes over the flows of the graph, in pieces.

    Parameters
    ----------
    graph : DeviceGraph
        n companies, m flows, int64 minor units.
    labels : int array of shape (n,), on the host
        Strong component of each company.
    roots : int64 array, on the host
        Companies whose components are wanted.
    flows_at_once : int
        Flows of one piece.

    Raises
    ------
    ResourceError
        If the device has not the memory for them.
    """
    on, xp = graph.on, graph.xp
    meanwhile = _BYTES_PER_FLOW_AT_ONCE * min(graph.flows, flows_at_once)
    on.require(
        labels.nbytes + 6 * graph.companies + graph.flows + meanwhile,
        f"taking out the components of {len(roots):,} roots",
    )
    label = on.to_device(labels)
    wanted = xp.zeros(int(labels.max(initial=-1)) + 1, np.bool_)
    wanted[label[on.to_device(roots)]] = True
    inside = wanted[label]
    member = xp.flatnonzero(inside)
    local = xp.full(graph.companies, -1, np.int32)
    local[member] = xp.arange(len(member), dtype=np.int32)
    component = xp.searchsorted(xp.flatnonzero(wanted), label[member]).astype(np.int32)
    pieces = [slice(at, min(at + flows_at_once, graph.flows)) for at in range(0, graph.flows, flows_at_once)]
    kept = xp.empty(graph.flows, np.bool_)
    counts = []
    for piece in pieces:
        payee = graph.payee[graph.in_flow[piece]]
        kept[piece] = (label[graph.in_payer[piece]] == label[payee]) & inside[payee]
        counts.append(int(kept[piece].sum()))
    size = sum(counts)
    flow_bytes = 16 + graph.in_flow.dtype.itemsize
    on.require(
        flow_bytes * size + 84 * len(member) + meanwhile,
        f"{size:,} flows inside the components of {len(roots):,} roots",
    )
    del label, inside
    payer, payee = xp.empty(size, np.int32), xp.empty(size, np.int32)
    flow, share = xp.empty(size, graph.in_flow.dtype), xp.empty(size, np.float64)
    end = 0
    for piece, count in zip(pieces, counts, strict=True):
        places = xp.flatnonzero(kept[piece]) + piece.start
        free = slice(end, end + count)
        end += count
        giver, flow[free] = graph.in_payer[places], graph.in_flow[places]
        payer[free], payee[free] = local[giver], local[graph.payee[flow[free]]]
        share[free] = graph.amount[flow[free]] / graph.throughflow[giver]
    del kept
    return _with_sums(graph, member, payer, payee, flow, share, local, component)


def _with_sums(
    graph: DeviceGraph,
    member: Array,
    payer: Array,
    payee: Array,
    flow: Array,
    share: Array,
    local: Array,
    component: Array,
) -> DeviceFlows:
    """Add the sums by member: whole minor units and whole units of a share, which no order changes."""
    on, xp, size = graph.on, graph.xp, len(payer)
    paid, received, twice = (xp.zeros(len(member), np.int64) for _ in range(3))
    on.launch(SUM_INSIDE, size, payer, payee, flow, graph.amount, size, paid, received)
    throughflow = graph.throughflow[member]
    stay = paid / xp.maximum(throughflow, 1)
    on.launch(SUM_STAY, size, payer, payee, share, stay, size, twice)
    offsets = xp.searchsorted(payee, xp.arange(len(member) + 1, dtype=np.int32))
    outside = (throughflow - received).astype(np.float64)
    return DeviceFlows(member, offsets, payer, flow, share, stay, twice / UNITS, outside, local, component)


class DevicePanel:
    """Two panels of 32 roots in device memory, and the hops between them (see `push.Panel`)."""

    def __init__(self, graph: DeviceGraph, inner: DeviceFlows, dtype: Any) -> None:
        on, xp = graph.on, graph.xp
        self.graph, self.on, self.inner = graph, on, inner
        members, flows = len(inner.member), len(inner.payer)
        row = ROOTS * np.dtype(dtype).itemsize
        on.require(
            (2 * row + 18) * members + (1 if dtype is np.float64 else 5) * (flows + members),
            f"two panels of {ROOTS} roots and {members:,} companies",
        )
        self.members = members
        self.now, self.next = (xp.empty((members, ROOTS), dtype) for _ in range(2))
        self.filled, self.filled_next = (xp.empty(members // 32 + 1, np.uint32) for _ in range(2))
        self.rows_filled, self.rows_filled_next = (xp.zeros(1, np.int64) for _ in range(2))
        self.column_of = xp.full(members, NO_ROOT, np.uint8)
        self.per_outside = xp.where(inner.outside > 0, 1 / xp.maximum(inner.outside, 1), np.inf)
        self.share = inner.share.astype(dtype, copy=False)
        self.bounds = part_bounds(graph, inner)
        self.open = xp.empty((len(self.bounds) - 1, ROOTS))
        self.figures = xp.zeros((2, ROOTS))  # what has arrived, and what still can
        lengths = xp.diff(inner.offsets)
        self.long_row = xp.flatnonzero(lengths > PART)
        self.first_piece = _first_pieces(xp, lengths[self.long_row])
        self.pieces = int(self.first_piece[-1])
        self.piece_sums = xp.empty((self.pieces, ROOTS))

    def place(self, roots: Int64s) -> None:
        """Begin anew with up to 32 companies: spread what each pays over the members of its component."""
        on, xp, graph, inner = self.on, self.graph.xp, self.graph, self.inner
        here = on.to_device(roots)
        rows = inner.local[here]
        self.column_of.fill(NO_ROOT)
        self.column_of[rows] = xp.arange(len(roots), dtype=np.uint8)
        self.throughflow = xp.full(ROOTS, np.inf)  # columns without a root stay empty
        self.throughflow[: len(roots)] = graph.throughflow[here]
        for array in (self.now, self.filled, self.rows_filled, self.figures):
            array.fill(0)
        begin = graph.out_offsets[here]
        first = _running(xp, graph.out_offsets[here + 1] - begin)
        on.launch(
            PLACE_ROOTS, int(first[-1]), first, len(roots), begin, inner.component[rows], xp.maximum(graph.paid[here], 1),
            graph.payee, graph.amount, inner.local, inner.component, self.now, self.filled, self.rows_filled,
        )  # fmt: skip
        on.launch(
            BOUND_PARTS, len(self.open) * WARP, self.now, self.bounds, len(self.open), inner.stay_twice, self.per_outside,
            self.throughflow, self.filled, self.open,
        )  # fmt: skip
        self.begin = inner.offsets[rows]
        lengths = inner.offsets[rows + 1] - self.begin
        self.last_hop_first, self.last_hop_piece = _running(xp, lengths), _first_pieces(xp, lengths)
        self.last_hop_share = xp.zeros(int(self.last_hop_first[-1]))
        self.last_hop_sums = xp.empty(int(self.last_hop_piece[-1]))

    def collect(self) -> tuple[Floats, Floats]:
        """Count what the next hop brings back to each root; return what has arrived, and what still can."""
        on, inner, roots = self.on, self.inner, len(self.begin)
        on.launch(
            BRING_BACK, len(self.last_hop_sums) * WARP, self.now, self.begin, self.last_hop_first, self.last_hop_piece,
            roots, inner.payer, inner.share, self.last_hop_share, self.last_hop_sums,
        )  # fmt: skip
        on.launch(ADD_ARRIVALS, roots * WARP, self.last_hop_sums, self.last_hop_piece, roots, self.figures[0])
        rows = self.open
        while len(rows) > 1:
            groups = -(-len(rows) // GROUP)
            sums = self.graph.xp.empty((groups, ROOTS))
            on.launch(SUM_GROUPS, groups * WARP, rows, len(rows), sums)
            rows = sums
        self.figures[1] = rows[0]
        arrived, still = on.to_host(self.figures)
        return arrived, still

    def hop(self) -> None:
        """Move everything by one hop, and bound what can come back to each root after the next one."""
        on, inner, parts = self.on, self.inner, len(self.open)
        self.filled_next.fill(0)
        self.rows_filled_next.fill(0)
        filled = (self.filled, self.rows_filled, self.members)
        on.launch(
            GATHER_PIECES, self.pieces * WARP, self.now, inner.offsets, inner.payer, self.share, self.long_row,
            self.first_piece, len(self.long_row), self.pieces, *filled, self.piece_sums,
        )  # fmt: skip
        # A block for every few parts, not a stride over them: the device hands out blocks as others end, so that parts of
        # different weight even out.
        on.launch(
            GATHER_PARTS, parts * WARP, self.now, self.next, self.bounds, parts, inner.offsets, inner.payer, self.share,
            inner.stay_twice, self.per_outside, self.column_of, self.throughflow, self.long_row, self.first_piece,
            len(self.long_row), self.piece_sums, *filled, self.filled_next, self.rows_filled_next, self.open,
            blocks=-(-parts * WARP // GATHER_PARTS.block),
        )  # fmt: skip
        self.now, self.next = self.next, self.now
        self.filled, self.filled_next = self.filled_next, self.filled
        self.rows_filled, self.rows_filled_next = self.rows_filled_next, self.rows_filled

    def last_hops(self) -> Floats:
        """Return what came back over each flow into the roots, one root after the other, on the host."""
        return self.on.to_host(self.last_hop_share)


def _running(xp: Any, lengths: Array) -> Array:
    """Return the running sum of lengths, from 0 on."""
    return xp.concatenate([xp.zeros(1, np.int64), xp.cumsum(lengths)])


def _first_pieces(xp: Any, lengths: Array) -> Array:
    """Return how many pieces of `PART` flows there are before each row."""
    return _running(xp, (lengths + PART - 1) // PART)


def two_hop_returns(graph: DeviceGraph) -> Floats:
    """Return P_ji for every flow i -> j (see `push.two_hop_returns`): each flow is looked up in the row of its payee.

    Device memory: 8 bytes per flow.
    """
    on = graph.on
    on.require(8 * graph.flows, f"the two-hop returns of {graph.flows:,} flows")
    returned = graph.xp.empty(graph.flows, np.float64)
    on.launch(
        PAY_STRAIGHT_BACK, graph.flows, graph.out_offsets, graph.payer, graph.payee, graph.amount, graph.throughflow,
        graph.flows, returned,
    )  # fmt: skip
    return on.to_host(returned)
