"""Strong components: who can get money back at all, because paths of flows lead out and home again.

Two companies are in one component when money can travel from each to the other along flows. Only inside a component can
money return to its payer, so every later measure works component by component. `strong_components` takes plain arrays,
`components_of` a `FlowGraph`; `certify` adds the trees and the order with which anybody can check the answer.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ouroflow.errors import InputError, UsageError
from ouroflow.runtime.launch import accelerator_of
from ouroflow.runtime.threads import in_threads

if TYPE_CHECKING:
    from ouroflow.graph import FlowGraph
    from ouroflow.graph_gpu import DeviceGraph
    from ouroflow.runtime.launch import Accelerator

__all__ = ["ComponentCertificate", "Components", "certify", "components_of", "strong_components"]

IdArray = npt.NDArray[np.int32] | npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Components:
    """The strong components of a graph, the largest first.

    Parameters
    ----------
    labels : int32[companies]
        Component of each company (int64 past 2**31 - 1 companies). Components are numbered by falling size, those of
        one size by their smallest company id.
    sizes : int64[count]
        Companies in each component; falling.
    """

    labels: IdArray
    sizes: npt.NDArray[np.int64]

    @property
    def count(self) -> int:
        """Number of components, those of a single company included."""
        return self.sizes.size

    @property
    def nontrivial(self) -> int:
        """Number of components with at least two companies; they carry the labels 0 to `nontrivial` - 1."""
        return int(np.searchsorted(-self.sizes, -1))

    @property
    def largest(self) -> int:
        """Companies in the largest component, 0 if there is no company."""
        return int(self.sizes[0]) if self.sizes.size else 0


@dataclass(frozen=True, eq=False)
class ComponentCertificate:
    """What proves a partition into strong components.

    Each component of two or more companies has a root, its smallest company id. Every member reaches the root along
    `next_to_root` and is reached from it along `next_from_root` reversed, over existing flows inside the component: so
    the members are strongly connected. `rank` rises along every flow between two components: so no two components
    belong together.

    Parameters
    ----------
    next_to_root : int32[companies]
        The next company on a shortest path to the root; -1 at the root and in components of one company.
    next_depth : int32[companies]
        Flows on that path: 0 at the root, -1 in components of one company.
    next_from_root : int32[companies]
        The previous company on a shortest path from the root; -1 at the root and in components of one company.
    from_depth : int32[companies]
        Flows on that path: 0 at the root, -1 in components of one company.
    rank : int64[count]
        Flows between components on the longest chain of components that ends in this one: 0 where no money comes in
        from outside.
    """

    next_to_root: IdArray
    next_depth: IdArray
    next_from_root: IdArray
    from_depth: IdArray
    rank: npt.NDArray[np.int64]


def strong_components(payer: npt.ArrayLike, payee: npt.ArrayLike, companies: int | None = None) -> IdArray:
    """Label the strong components of the graph with one flow from each payer to its payee.

    Parameters
    ----------
    payer, payee : integer[flows]
        Company ids from 0, of any integer type; NumPy arrays, or CuPy arrays of one device. int32 arrays are used as they
        are; others are copied to int32 where the ids allow. Self-flows and parallel flows may occur and change nothing.
        Ids should be dense: memory is spent on every id below the largest.
    companies : int, optional
        Number of companies; default the largest id + 1. Companies without flows are components of their own.

    Returns
    -------
    int32[companies]
        Component of each company: 0 is the largest; numbered by falling size, then by smallest company id. The same for
        any order of the flows, any number of threads, and any device. (int64 past 2**31 - 1 companies.) A CuPy array where
        the ids were CuPy arrays.

    Raises
    ------
    InputError
        If an array is not one-dimensional, not of integers, holds negative ids or ids not below `companies`, or if the
        lengths differ.
    UsageError
        If `companies` is not a non-negative integer.

    References
    ----------
    Forward-backward search: Fleischer, Hendrickson & Pinar (2000), On identifying strongly connected components in
    parallel. What it leaves: Tarjan (1972), Depth-first search and linear graph algorithms, with one stack as in Pearce
    (2016), A space-efficient algorithm for finding strongly connected components.
    """
    on = accelerator_of(payer)
    if on is not None:
        return _strong_components_on(on, payer, payee, companies)
    from ouroflow.components import cpu

    payer, payee, companies = _checked_flows(payer, payee, companies)
    return cpu.components_of_flows(payer, payee, companies)[0]


def _strong_components_on(on: Accelerator, payer: Any, payee: Any, companies: int | None) -> Any:
    """Label flows in device memory, after the checks of the host's twin; the labels stay there."""
    from ouroflow.components import gpu

    tops = []
    for ids, name in ((payer, "payer"), (payee, "payee")):
        if not isinstance(ids, on.xp.ndarray) or ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
            raise InputError(
                f"{name} must be a one-dimensional array of integer company ids on {on.name}, as the other is"
            )
        if ids.size and int(ids.min()) < 0:
            raise InputError(f"{name}[{int((ids < 0).argmax())}] is negative: company ids start at 0")
        tops.append(int(ids.max()) if ids.size else -1)
    if payer.size != payee.size:
        raise InputError(f"payer has {payer.size} ids and payee {payee.size}: every flow needs one payer and one payee")
    companies = _company_count(companies, max(tops) + 1)
    for ids, name, top in ((payer, "payer", tops[0]), (payee, "payee", tops[1])):
        if top >= companies:
            at = int(ids.argmax())
            raise InputError(f"{name}[{at}] is {top}, but with companies={companies} ids must be below {companies}")
    dtype = np.int32 if companies < 2**31 else np.int64
    payer, payee = (on.xp.ascontiguousarray(ids.astype(dtype, copy=False)) for ids in (payer, payee))
    return gpu.components_of_flows(on, payer, payee, companies)[0]


def components_of(graph: FlowGraph | DeviceGraph, *, scc: str = "own") -> Components:
    """Find the strong components of a flow graph; the labels equal those of `strong_components` on its flows.

    Parameters
    ----------
    graph : FlowGraph or DeviceGraph
    scc : {'own', 'cugraph'}
        Who finds them on a device: our kernels or cuGraph. The answer is the same.

    Raises
    ------
    UsageError
        If cuGraph is asked for on the CPU.
    """
    if graph.device == "gpu":
        labels, nontrivial_sizes = _device_components(graph, scc)
    elif scc != "own":
        raise UsageError(f"--scc {scc}: cuGraph works on a GPU; use --device gpu, or leave --scc out")
    else:
        from ouroflow.components import cpu

        labels, nontrivial_sizes = cpu.components_of_flows(
            graph.payer,
            graph.payee,
            graph.companies,
            ((graph.out_offsets, graph.payee), (graph.in_offsets, graph.in_payer)),
        )
    single = labels.size - int(nontrivial_sizes.sum())
    return Components(labels, np.concatenate([nontrivial_sizes, np.ones(single, np.int64)]))


def _device_components(graph: Any, scc: str) -> tuple[IdArray, npt.NDArray[np.int64]]:
    if scc == "cugraph":
        from ouroflow.components import gpu_cugraph

        labels, sizes = gpu_cugraph.labels_by_cugraph(graph.on, graph.payer, graph.payee, graph.companies)
    else:
        from ouroflow.components import gpu

        labels, sizes = gpu.components_of_indexes(
            graph.on, (graph.out_offsets, graph.payee), (graph.in_offsets, graph.in_payer)
        )
    return graph.on.to_host(labels), sizes


def certify(graph: FlowGraph | DeviceGraph, components: Components) -> ComponentCertificate:
    """Build the trees and the order that prove `components`, on the host; deterministic, O(companies + flows).

    Raises
    ------
    UsageError
        If `components` has not one label per company of `graph`, or a component is not strongly connected, or two
        belong together: it does not come from this graph.
    """
    from ouroflow.components import cpu_certificate

    if components.labels.size != graph.companies:
        raise UsageError(
            f"the components hold {components.labels.size} companies and the graph {graph.companies}: "
            "pass the components of this graph"
        )
    graph = graph.host
    outgoing, incoming = (graph.out_offsets, graph.payee), (graph.in_offsets, graph.in_payer)
    towards, away, rank = in_threads(
        lambda: cpu_certificate.trees(*incoming, components.labels, components.nontrivial),
        lambda: cpu_certificate.trees(*outgoing, components.labels, components.nontrivial),
        lambda: cpu_certificate.ranks(*outgoing, components.labels, components.count),
    )
    return ComponentCertificate(
        next_to_root=towards[0], next_depth=towards[1], next_from_root=away[0], from_depth=away[1], rank=rank
    )


def _checked_flows(payer: npt.ArrayLike, payee: npt.ArrayLike, companies: int | None) -> tuple[IdArray, IdArray, int]:
    """Return contiguous id arrays of one dtype and the number of companies."""
    (payer_ids, payer_top), (payee_ids, payee_top) = in_threads(
        lambda: _checked_ids(payer, "payer"), lambda: _checked_ids(payee, "payee")
    )
    if payer_ids.size != payee_ids.size:
        raise InputError(
            f"payer has {payer_ids.size} ids and payee {payee_ids.size}: every flow needs one payer and one payee"
        )
    needed = max(payer_top, payee_top) + 1
    companies = _company_count(companies, needed)
    if needed > companies:
        name, ids = ("payer", payer_ids) if payer_top >= payee_top else ("payee", payee_ids)
        at = int(ids.argmax())
        raise InputError(f"{name}[{at}] is {ids[at]}, but with companies={companies} ids must be below {companies}")
    dtype = np.int32 if companies < 2**31 else np.int64
    return payer_ids.astype(dtype, copy=False), payee_ids.astype(dtype, copy=False), companies


def _company_count(companies: int | None, needed: int) -> int:
    if companies is None:
        return needed
    try:
        companies = operator.index(companies)
    except TypeError:
        raise UsageError(f"companies must be an integer, got {companies!r}") from None
    if companies < 0:
        raise UsageError(f"companies must not be negative, got {companies}")
    return companies


def _checked_ids(values: npt.ArrayLike, name: str) -> tuple[npt.NDArray[Any], int]:
    """Return the ids as a contiguous one-dimensional integer array, and the largest of them (-1 if there is none)."""
    if np.ma.is_masked(values):
        raise InputError(f"{name} is a masked array with masked entries: take out what does not count before")
    ids = np.asarray(values)
    if ids.ndim != 1:
        raise InputError(f"{name} must be a one-dimensional array of company ids, got shape {ids.shape}")
    if ids.size == 0:
        return np.empty(0, np.int32), -1
    if ids.dtype.kind not in "iu":
        raise InputError(
            f"{name} must hold integer company ids, got {ids.dtype}: "
            "FlowGraph and read_ledger turn other identities into ids"
        )
    ids = np.ascontiguousarray(ids, ids.dtype.newbyteorder("="))
    # Read as unsigned, negative ids are the largest of all: one pass finds both the largest id and any negative one.
    top = int(ids.view(f"u{ids.itemsize}").max())
    if top > np.iinfo(ids.dtype).max:
        at = int((ids < 0).argmax())
        raise InputError(f"{name}[{at}] is {ids[at]}: company ids start at 0")
    if top >= 2**63 - 1:
        raise InputError(f"{name} holds the id {top}, past the range of int64")
    return ids, top
