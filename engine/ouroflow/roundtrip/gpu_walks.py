"""The GPU twin of the sampled walks: the layout, the alias rows and the outcome of every walk are those of `cpu_walks`.

Everything is integer arithmetic on the same draws, so equal means equal to the bit. A thread takes one walk after the
other, and in each round every thread of a warp makes one step; what a step reads comes from all over the graph.

Bytes read per step: over alias rows 16 of `row_offsets` and one slot of 16, in sectors of 32 bytes 72 on average, two
reads one after the other; on the plain flows about 180 and 8 for each of up to 64 flows, plus a sector for each halving
of a row of more than 64. Bytes per walk: its start, 12 (24 with int64 ids) and as above for up to 64 flows.

Alias rows take one pass over the flows and running sums: no thread ever fills a row alone, so hubs need no other way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ouroflow.graph_gpu import SUMMED_AT_ONCE
from ouroflow.roundtrip.walks import BLOCK, LEFT, AliasTable, MoneyLayout, WalkCounts
from ouroflow.runtime.launch import WARP, Accelerator, Array, Program

if TYPE_CHECKING:
    from ouroflow.graph import Ids
    from ouroflow.graph_gpu import DeviceGraph

Int64s = npt.NDArray[np.int64]

BYTES_PER_BUILT_SLOT = 32
"""Three running sums for each slot of the alias rows that are built at a time, and one that is being made."""

# What kernels have in common, in the order of their parameters.
_FLOWS = ("const int64*", "const Index*", "const int64*")  # out_offsets, payee, amount
_STARTS = ("const Index*", "const Index*", "const Index*")  # payers, tallies, companies
_TALLY = ("int64*", "int64*", "int64*")  # returned, unfinished, steps
_WALKS = ("int64", "uint64", "uint64", "int64")  # walks, number of the first, seed, last step
_SUMS = ("uint64*", "uint64*", "int64*")  # what poor slots lack, what rich ones spare, whether they are rich

PROGRAM = Program("roundtrip_walks.cu")
MARK_INSIDE = PROGRAM.kernel(
    "mark_inside",
    *(*_FLOWS, "const Index*", "const uint8*", "uint64*", "int64*", "int64", "int64"),
    types=("Index",),
)
SUM_COMPANIES = PROGRAM.kernel(
    "sum_companies", "const int64*", "const int64*", "const uint64*", "const int64*", "int64*", "int64"
)
MARK_LEAKY = PROGRAM.kernel(
    "mark_leaky", "const int64*", "const int64*", "const Index*", "uint8*", "int64", types=("Index",)
)
COUNT_INSIDE = PROGRAM.kernel("count_inside", "const uint64*", "int64*", "int64")
COUNT_SLOTS = PROGRAM.kernel(
    "count_slots",
    *("const int64*", "const int64*", "const uint64*", "const int64*", "const int64*", "int64*", "int64*", "int64"),
)
LAY_FLOW_SLOTS = PROGRAM.kernel(
    "lay_flow_slots",
    *(*_FLOWS, "const int64*", "const uint64*", "const int64*", "const int64*", "uint64*", *_SUMS),
    *("int64", "int64", "int64", "int64"),
    types=("Index",),
)
LAY_LEAK_SLOTS = PROGRAM.kernel(
    "lay_leak_slots", *("const int64*", "const int64*", "const int64*", "uint64*", *_SUMS, "int64", "int64", "int64")
)
BALANCE_SLOTS = PROGRAM.kernel(
    "balance_slots",
    *("const int64*", "const int64*", "const uint64*", "const uint64*", "const int64*", "uint64*"),
    *("int64", "int64", "int64", "int64"),
)
DRAW_STARTS = PROGRAM.kernel(
    "draw_starts",
    *(*_FLOWS, "const uint64*", "const int64*", "const int64*", "const int64*", "const int64*"),
    *("Index*", "Index*", "Index*", "int64", "int64", "int64", "int64", "int64", "int64", "uint64", "uint64"),
    types=("Index",),
)
WALK_ALIAS_ROWS = PROGRAM.kernel(
    "walk_alias_rows", *("const int64*", "const uint64*", *_STARTS, *_TALLY, *_WALKS), types=("Index",)
)
WALK_PLAIN_FLOWS = PROGRAM.kernel(
    "walk_plain_flows",
    *(*_FLOWS, "const int64*", "const uint64*", "const int64*", "const int64*", *_STARTS, *_TALLY, *_WALKS),
    types=("Index",),
)


# ---- the money layout ------------------------------------------------------------------------------------------------


def lay_money(
    graph: DeviceGraph,
    labels: Ids | Array,
    *,
    hops: int | None = None,
    threads: int | None = None,  # noqa: ARG001 (the CPU twin's; a device has as many as it has)
) -> MoneyLayout:
    """Lay out the money of all flows inside components: one pass over the flows, two where components are closed.

    Parameters
    ----------
    graph, labels, hops
        As `cpu_walks.lay_money`; the labels may lie on the device or on the host.
    threads : int, optional
        Without effect.

    Raises
    ------
    ResourceError
        If the device has not the memory for it (see `MoneyLayout`).
    """
    on, xp = graph.on, graph.on.xp
    companies, blocks, id_bytes = graph.companies, -(-graph.flows // BLOCK), graph.payee.dtype.itemsize
    on.require(16 * blocks + (34 + id_bytes) * companies, f"the money layout of {companies:,} companies")
    if not isinstance(labels, xp.ndarray):
        labels = on.to_device(labels)
    labels = labels.astype(graph.payee.dtype, copy=False)
    count = int(labels.max()) + 1 if companies else 0
    inside, block_before = xp.zeros(blocks, np.uint64), xp.zeros(blocks + 1, np.int64)
    company_before = xp.zeros(companies + 1, np.int64)

    def lay(keep: Array) -> None:
        flows = (graph.out_offsets, graph.payee, graph.amount)
        block_paid = block_before[1:]
        on.launch(MARK_INSIDE, blocks * WARP, *flows, labels, keep, inside, block_paid, companies, graph.flows)
        xp.cumsum(block_before, out=block_before)
        on.launch(
            SUM_COMPANIES,
            companies + 1,
            graph.out_offsets,
            graph.amount,
            inside,
            block_before,
            company_before,
            companies,
        )

    lay(xp.ones(count, np.uint8))
    closed, closed_paid = xp.zeros(0, np.int64), xp.zeros(0, np.int64)
    if hops is None:
        leaky = xp.zeros(count, np.uint8)
        on.launch(MARK_LEAKY, companies, graph.throughflow, company_before, labels, leaky, companies)
        paid = xp.diff(company_before)
        closed = xp.flatnonzero((paid > 0) & (leaky[labels] == 0))
        closed_paid = paid[closed]
        if len(closed):
            block_before[:] = 0
            lay(leaky)
    return MoneyLayout(graph, inside, block_before, company_before, on.to_host(closed), on.to_host(closed_paid))


# ---- alias rows ------------------------------------------------------------------------------------------------------


def alias_table(
    layout: MoneyLayout,
    *,
    threads: int | None = None,  # noqa: ARG001 (the CPU twin's; a device has as many as it has)
) -> AliasTable | None:
    """Build the alias tables of all companies with money in the layout, or return None where they cannot be built.

    They cannot where the flows of a company times its throughflow pass int64, or from 2^32 - 1 companies on.

    Raises
    ------
    ResourceError
        If the device has not the memory for them.

    Notes
    -----
    Vose's two stacks make each slot wait for the one before. Here what poor slots lack and rich ones spare is summed up,
    and each slot finds its partner by bisection (Hübschle-Schneider & Sanders 2022, Parallel weighted random sampling,
    ACM Trans. Math. Softw. 48); it is the partner that the stacks would give.

    Memory: that of `AliasTable`; while it is built 0.125 bytes per flow, and `BYTES_PER_BUILT_SLOT` for each slot of so
    many rows at a time as half of the free memory takes.
    """
    graph: Any = layout.graph
    on, xp = graph.on, graph.on.xp
    companies, blocks = graph.companies, len(layout.inside)
    on.require(8 * companies + 8 * blocks, f"the alias rows of {companies:,} companies")
    flows_before = xp.zeros(blocks + 1, np.int64)
    on.launch(COUNT_INSIDE, blocks, layout.inside, flows_before[1:], blocks)
    xp.cumsum(flows_before, out=flows_before)
    row_offsets, extremes = xp.zeros(companies + 1, np.int64), xp.zeros(2, np.int64)
    on.launch(
        COUNT_SLOTS,
        companies,
        *(graph.out_offsets, graph.throughflow, layout.inside, layout.company_before, flows_before),
        *(row_offsets[1:], extremes, companies),
    )
    longest, refused = (int(extreme) for extreme in on.to_host(extremes))
    if refused or longest > LEFT or companies >= LEFT:
        return None
    xp.cumsum(row_offsets, out=row_offsets)
    total = int(row_offsets[-1])
    on.require(16 * total, f"{total:,} alias slots")
    slots = xp.empty((total, 2), np.uint64)
    at_once = max(min(on.free_bytes() // 2 // BYTES_PER_BUILT_SLOT, SUMMED_AT_ONCE), longest)
    first = 0
    while first < companies:
        end = _rows_that_fit(on, row_offsets, first, companies, total, at_once)
        _fill_rows(layout, flows_before, row_offsets, slots, first, end)
        first = end
    return AliasTable(row_offsets, slots, longest)


def _rows_that_fit(on: Accelerator, row_offsets: Array, first: int, companies: int, total: int, at_once: int) -> int:
    """Return the end of the rows from `first` on that have so many slots together; one row always fits."""
    if total <= at_once:
        return companies
    most = on.to_device(np.array([int(row_offsets[first]) + at_once]))
    return int(on.xp.searchsorted(row_offsets, most, side="right")[0]) - 1


def _fill_rows(
    layout: MoneyLayout, flows_before: Array, row_offsets: Array, slots: Array, first: int, end: int
) -> None:
    """Fill the rows of companies first..end."""
    graph: Any = layout.graph
    on, xp = graph.on, graph.on.xp
    first_slot, end_slot = int(row_offsets[first]), int(row_offsets[end])
    on.require(BYTES_PER_BUILT_SLOT * (end_slot - first_slot), f"building {end_slot - first_slot:,} alias slots")
    lacking, spare = (xp.zeros(end_slot - first_slot + 1, np.uint64) for _ in range(2))
    rich = xp.zeros(end_slot - first_slot + 1, np.int64)
    sums = (lacking[1:], spare[1:], rich[1:])
    first_flow, end_flow = int(graph.out_offsets[first]), int(graph.out_offsets[end])
    on.launch(
        LAY_FLOW_SLOTS,
        (end_flow - first_flow + 2 * BLOCK) // BLOCK * WARP,
        *(graph.out_offsets, graph.payee, graph.amount, graph.throughflow, layout.inside, flows_before, row_offsets),
        *(slots, *sums, graph.companies, first_flow, end_flow, first_slot),
    )
    on.launch(
        LAY_LEAK_SLOTS,
        end - first,
        *(graph.throughflow, layout.company_before, row_offsets, slots, *sums, first, end, first_slot),
    )
    for values in (lacking, spare, rich):  # sums of many rows may pass 2^64: only differences within a row are used
        xp.cumsum(values, out=values)
    on.launch(
        BALANCE_SLOTS,
        end_slot - first_slot,
        *(graph.throughflow, row_offsets, lacking, spare, rich, slots, first, end, first_slot, end_slot),
    )


# ---- samples ---------------------------------------------------------------------------------------------------------


def walk_all(
    layout: MoneyLayout,
    table: AliasTable | None,
    walks: int,
    *,
    seed: int,
    walk_base: int,
    last_step: int,
    threads: int | None = None,  # noqa: ARG001 (the CPU twin's; a device has as many as it has)
) -> WalkCounts:
    """Walk a sample of all the money laid out.

    Parameters
    ----------
    layout, table, walks, seed, walk_base, last_step
        As `cpu_walks.walk_all`.
    threads : int, optional
        Without effect.

    Returns
    -------
    WalkCounts
        By payer: device arrays of shape (companies,).

    Raises
    ------
    ResourceError
        If the device has not the memory for the counts.

    Notes
    -----
    Memory: 16 bytes per company, and 12 per walk (24 with int64 ids) for so many walks at a time as half of the free
    memory takes.
    """
    graph: Any = layout.graph
    sources = (np.zeros(1, np.int64), np.array([layout.laid]), np.array([0, walks]))
    returned, unfinished, steps = _walk(
        layout, table, sources, graph.companies, seed=seed, walk_base=walk_base, last_step=last_step
    )
    return WalkCounts(returned, unfinished, steps)


def walk_each(
    layout: MoneyLayout,
    table: AliasTable | None,
    companies: Int64s,
    sizes: Int64s,
    *,
    seed: int,
    walk_base: int,
    last_step: int,
    threads: int | None = None,  # noqa: ARG001 (the CPU twin's; a device has as many as it has)
) -> WalkCounts:
    """Walk a sample from each of some companies, whose money is laid out: all of them at the same time.

    Parameters
    ----------
    layout, table, companies, sizes, seed, walk_base, last_step
        As `cpu_walks.walk_each`.
    threads : int, optional
        Without effect.

    Returns
    -------
    WalkCounts
        NumPy arrays of the shape of `companies`.

    Notes
    -----
    Memory: as `walk_all`, but 16 bytes per company walked from.
    """
    graph: Any = layout.graph
    sources = (
        layout.entries(layout.company_before, companies),
        layout.entries(layout.company_before, companies + 1),
        np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]),
    )
    returned, unfinished, steps = _walk(
        layout, table, sources, len(companies), seed=seed, walk_base=walk_base, last_step=last_step, by_source=True
    )
    return WalkCounts(graph.on.to_host(returned), graph.on.to_host(unfinished), steps)


def _walk(
    layout: MoneyLayout,
    table: AliasTable | None,
    sources: tuple[Int64s, Int64s, Int64s],
    tallies: int,
    *,
    seed: int,
    walk_base: int,
    last_step: int,
    by_source: bool = False,
) -> tuple[Array, Array, int]:
    """Walk from sources: where their money begins, where it ends, how many walks come before each and in all."""
    graph: Any = layout.graph
    on, xp, walks, id_bytes = graph.on, graph.on.xp, int(sources[2][-1]), graph.payee.dtype.itemsize
    on.require(16 * tallies + 3 * id_bytes, f"the tallies of {tallies:,} companies")
    returned, unfinished, steps = xp.zeros(tallies, np.int64), xp.zeros(tallies, np.int64), xp.zeros(1, np.int64)
    at_once = max(1, min(walks, on.free_bytes() // 2 // (3 * id_bytes)))
    starts = [xp.empty(at_once, graph.payee.dtype) for _ in range(3)]
    flows, money_and_walks = (graph.out_offsets, graph.payee, graph.amount), [on.to_device(part) for part in sources]
    for first in range(0, walks, at_once):
        part = min(at_once, walks - first)
        on.launch(
            DRAW_STARTS,
            part,
            *(*flows, layout.inside, layout.block_before, *money_and_walks, *starts, graph.companies, graph.flows),
            *(len(sources[0]), int(by_source), first, part, walk_base, seed),
        )
        ending = (*starts, returned, unfinished, steps, part, walk_base + first, seed, last_step)
        if table is None:
            laid = (layout.inside, layout.company_before, layout.block_before)
            on.launch(WALK_PLAIN_FLOWS, part, *flows, graph.throughflow, *laid, *ending)
        else:
            on.launch(WALK_ALIAS_ROWS, part, table.row_offsets, table.slots, *ending)
    return returned, unfinished, int(steps[0])
