"""Strong components on a GPU: labels like those of the CPU twin, from kernels that no single hub or long path holds up.

1. Trim (`gpu_search`): companies that are never paid or never pay go, with their flows, until only those between cycles
   are left; chains go at once, by pointer jumping.
2. From the hub, the company with most payers and payees left, one search forward and one backward among what that
   reached: both together are the hub's component. A level is pushed from the frontier, by flows, or pulled by those not
   reached yet. Graphs of long paths make a search give up early.
3. The rest (`gpu_rest`): the flows between companies that the searches do not tell apart, as a list; no other flow is
   read again. Signatures, the largest number that reaches a company and the largest that it reaches, settle it in
   passes that are few whatever the lengths of the paths.
4. Little is left, or signatures take too long: the CPU twin finishes.

Cost, with m flows, n companies and ids of b bytes. The rest has k companies, with r flows by payer of which q are kept.

- memory at the peak, labels included, indexes not: (3 b + 38) n to search and to number, 50 n with int32 ids; for the
  rest (b + 1) n + (6 b + 4) k + 2 b (r + q). Where there is a giant component k and r are a small part of n and m; they
  come near them in graphs of long paths, 94 n for the long cycle with int64 ids. Indexes from raw flows: (16 + 2 b) m
  + 32 n, both indexes included.
- bytes per flow read by trimming, by pushing or by pulling: b for the flow, and one word of 4 at a random place (in a
  bitmap, which fits the L2 cache up to some hundred million companies; two where the flow is released). Each flow is
  read at most twice by trimming; the searches read a good half of what trimming leaves where there is a giant component.
- bytes per flow and pass of signatures: 2 b in order, 4 b at random places. The filters read 2 b and write 2 b.

References
----------
Trim and forward-backward search: McLendon et al. (2005), Finding strongly connected components in distributed graphs;
Slota, Rajamanickam & Madduri (2014), BFS and coloring-based parallel algorithms for strongly connected components.
Push and pull: Beamer, Asanović & Patterson (2012), Direction-optimizing breadth-first search. Signatures: Alabandi,
Sands, Biros & Burtscher (2023), A GPU algorithm for detecting strongly connected components.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ouroflow.components.gpu_kernels import (
    MEASURE_COMPONENTS,
    NAME_MEMBERS,
    PACK_FLOWS,
    UNPACK_FLOWS,
    WRITE_LABELS,
)
from ouroflow.components.gpu_rest import Rest
from ouroflow.components.gpu_search import Index, Plan, Search
from ouroflow.errors import ResourceError
from ouroflow.runtime.launch import Accelerator, Array

__all__ = ["Plan", "components_of_flows", "components_of_indexes", "index_of_flows"]

DEFAULT_PLAN = Plan()
MOST_COMPANIES = 2**32 - 1
"""Whose ids fit twice into one sort key."""


def components_of_flows(
    on: Accelerator, payer: Array, payee: Array, companies: int, *, plan: Plan = DEFAULT_PLAN
) -> tuple[Array, npt.NDArray[np.int64]]:
    """Label the components of flows on the device; self-flows and parallel flows change nothing.

    Parameters
    ----------
    payer, payee : int32 or int64[flows] on the device
        Both of one dtype, ids below `companies`.

    Returns
    -------
    As `components_of_indexes`.

    Raises
    ------
    ResourceError
        If the device has not memory enough.
    """
    ids, flows = payer.dtype, payer.size
    if companies > MOST_COMPANIES:
        raise ResourceError(
            f"{companies} companies: on a device at most {MOST_COMPANIES} can be sorted; "
            "use dense ids, or --device cpu, which computes the same"
        )
    on.require((16 + 2 * ids.itemsize) * flows + 32 * companies, f"indexes of {flows} flows by payer and by payee")
    outgoing = index_of_flows(on, payer, payee, companies)
    return components_of_indexes(on, outgoing, index_of_flows(on, payee, payer, companies), plan=plan)


def index_of_flows(on: Accelerator, first: Array, second: Array, companies: int) -> Index:
    """Sort flows on the device by their first end, self-flows left out.

    Parameters
    ----------
    first, second : int32 or int64[flows] on the device
        Payer and payee, or payee and payer.
    """
    xp, flows = on.xp, first.size
    bits = max(1, (companies - 1).bit_length())
    keys = xp.empty(flows, xp.uint64)
    on.launch(PACK_FLOWS, flows, first, second, flows, bits, keys)
    keys.sort()
    starts = xp.arange(companies + 1, dtype=xp.uint64) << xp.uint64(bits)
    offsets = xp.searchsorted(keys, starts).astype(xp.int64, copy=False)
    others = xp.empty(int(on.to_host(offsets[-1:])[0]), first.dtype)
    on.launch(UNPACK_FLOWS, others.size, keys, others.size, bits, others)
    return offsets, others


def components_of_indexes(
    on: Accelerator, outgoing: Index, incoming: Index, *, plan: Plan = DEFAULT_PLAN
) -> tuple[Array, npt.NDArray[np.int64]]:
    """Label the components of a graph that lies on the device, indexed both ways.

    Parameters
    ----------
    outgoing, incoming : (int64[companies + 1], int32 or int64[flows]) on the device
        Offsets of each company's flows, and their payees; the same by payee, and their payers. No company has 2**32
        flows or more.

    Returns
    -------
    labels : int32 or int64[companies] on the device
        Those of the CPU twin: numbered by falling size, then by smallest company.
    sizes : int64[components of two or more companies] on the host

    Raises
    ------
    ResourceError
        If the device has not memory enough.
    """
    companies, ids = outgoing[0].size - 1, outgoing[1].dtype
    on.require((3 * ids.itemsize + 38) * companies, f"the components of {companies} companies")
    component = on.xp.arange(companies, dtype=ids)
    if companies:
        _settle(on, outgoing, incoming, plan, component)
    return _numbered(on, component)


def _settle(on: Accelerator, outgoing: Index, incoming: Index, plan: Plan, component: Array) -> None:
    """Name each company's component by one of its members."""
    search = Search(on, outgoing, incoming, plan)
    search.trim()
    hub = search.hub()
    if hub is None:
        return
    rest, split = search.live, search.live
    forward = search.reach(hub, outgoing, incoming, search.live)
    if forward is not None:
        split = forward
        around = search.reach(hub, incoming, outgoing, forward)
        if around is not None:
            on.launch(NAME_MEMBERS, component.size, around, component.size, hub, component)
            rest = rest & ~around
    del search
    Rest(on, outgoing, rest, split, plan).settle(component)


def _numbered(on: Accelerator, component: Array) -> tuple[Array, npt.NDArray[np.int64]]:
    """Number the components by falling size, then by smallest company; those of one company afterwards."""
    xp, companies, ids = on.xp, component.size, component.dtype
    others, smallest = xp.zeros(companies, ids), xp.arange(companies, dtype=ids)
    on.launch(MEASURE_COMPONENTS, companies, component, companies, others, smallest)
    names = xp.flatnonzero(others)
    sizes = others[names].astype(xp.int64) + 1
    rank = smallest
    if names.size:  # whether CuPy sorts no keys at all is not written anywhere
        order = xp.lexsort(xp.stack([smallest[names].astype(xp.int64), -sizes]))
        rank[names[order]] = xp.arange(names.size, dtype=ids)
        sizes = sizes[order]
    singles = xp.cumsum(others[component] == 0, dtype=xp.int64)
    labels = xp.empty(companies, ids)
    on.launch(WRITE_LABELS, companies, component, others, rank, singles, companies, names.size, labels)
    return labels, on.to_host(sizes)
