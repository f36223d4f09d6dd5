"""Absorbing push: follow all the money that named companies pay, hop by hop, and collect what arrives back.

A panel of companies (the roots) is pushed together: one row of the panel holds, for one company, the share of each
root's money that is there after so many hops. A hop gathers, for every payee, the rows of its payers; what reaches
its own root is absorbed and counted, what leaves the component is dropped. After k hops the return fraction lies
between what has arrived and that plus a bound of what the money still under way can yet bring; with a hop limit, what
has arrived is the value itself.

What is the same on every device stands here: the settings, the loop over panels and hops, the error bounds. The twins
`cpu_push` and `gpu_push` take out the flows inside components and do the hops; both form every sum in the same order,
so that all figures have the same bits:

- the row of a payee: runs of `RUN` flows in the precision of the panel, their sums in float64 in pieces of `PART`
  flows, and those one after the other;
- what can still come back: parts of the payees one after the other (see `part_bounds`), then the sums of `GROUP`
  neighbours, again and again until one is left;
- what comes back to a root: in pieces of `PART` flows, each dealt out to 32 lanes that are added by halves, then the
  sums of the pieces in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from ouroflow.errors import UsageError

if TYPE_CHECKING:
    from ouroflow.graph import FlowGraph, Ids
    from ouroflow.graph_gpu import DeviceGraph
    from ouroflow.runtime.launch import Array

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MOST_HOPS = 1_000
"""Hops after which a push without hop limit gives the bounds it has."""

ROOTS = 32
"""Roots of one panel: a float32 row is 128 bytes, two cache lines that are fetched as a pair; a warp of a GPU."""

RUN = 64
"""Flows of one payee that are summed in the precision of the panel."""

PART = 256
"""Weight of a part of the payees, where a payee weighs 1 and each flow 1; and flows of one piece of a longer row."""

GROUP = 64
"""Neighbouring sums that are added together."""

UNITS = 2.0**53
"""`InnerFlows.stay_twice` is summed in units of 2^-53: sums of integers do not depend on their order."""

_COARSE = 1e-3  # tolerances from here on are tried with float32 panels first: half the memory traffic
_COARSE_HOPS = 64  # after which their rounding would count
_MOST_WORK = 1e9  # flows x panels x hops that a push without hop limit may take: some 20 seconds on two cores
_LEAST_HOPS = 64  # followed whatever they cost
_UNIT = 2.0**-53


@dataclass(frozen=True, eq=False)
class InnerFlows:
    """The flows inside some components, by payee, with companies renumbered 0..members-1 in ascending order.

    Arrays lie where the graph lies.

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
        Share of the throughflow of a company that is still inside its component after one hop, and (rounded up, flow by
        flow, to multiples of 2^-53) after two.
    outside : float64 array of shape (members,)
        Money that comes in from outside the component, T_j less what is received inside it, in minor units.

    Notes
    -----
    Memory: 16 bytes per inner flow (20 with int64 positions), 40 per member, and 4 per company of the graph while it
    is built (what else a device needs meanwhile: see `gpu_push`).
    """

    member: Array
    offsets: Array
    payer: Array
    flow: Array
    share: Array
    stay: Array
    stay_twice: Array
    outside: Array


@dataclass(frozen=True, eq=False)
class PushedReturns:
    """What comes back to each root, and through whom; arrays on the host.

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
    graph: FlowGraph | DeviceGraph,
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
    graph : FlowGraph or DeviceGraph
        n companies, m flows, int64 minor units. The push is done where it lies, with the same result.
    labels : int array of shape (n,), on the host
        Strong component of each company.
    roots : int array
        Different companies.
    tolerance : float
        Wanted half-width of the bounds.
    hops : int, optional
        Count returns within so many hops only, at least 2.
    threads : int, optional
        Threads to use on the CPU; results do not depend on it.

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
    ResourceError
        If a device has not the memory for the flows and two panels.

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
    u)^(d / 64 + 6) for the quotients with their conversions and the sum of the runs (in pieces: fewer additions than
    d / 64); the final sums add (members + d) u. Numbers too small for the panel lose at most 2^-149 each. All of it is
    added to the bounds.

    Memory: that of `InnerFlows`, two panels of 128 bytes (256 with float64) per member each, 1 byte per inner flow and
    member for sums, and 16 bytes per flow into the roots.
    """
    chosen = np.asarray(roots, np.int64)
    _check(graph, chosen, tolerance, hops)
    inner: InnerFlows
    new_panel: Callable[[Any], Panel]
    if graph.device == "gpu":
        from ouroflow.roundtrip import gpu_push

        inner = on_device = gpu_push.inner_flows(graph, labels, chosen)
        new_panel = partial(gpu_push.DevicePanel, graph, on_device)
    else:
        from ouroflow.roundtrip import cpu_push

        inner = cpu_push.inner_flows(graph, labels, chosen, threads=threads)
        new_panel = partial(cpu_push.HostPanel, graph, labels, inner, threads)
    stays, result = _nothing_yet(graph, inner, chosen)
    on_cycles = np.flatnonzero(stays)  # nothing comes back to the others
    asked = _Asked(tolerance, hops, len(inner.member), int(graph.xp.diff(inner.offsets).max()) if len(chosen) else 0)
    if on_cycles.size and hops is None and tolerance >= _COARSE:
        on_cycles = _push_all(new_panel, np.float32, on_cycles, asked, _COARSE_HOPS, result)
    if on_cycles.size:
        panels = -(-len(on_cycles) // ROOTS)
        affordable = int(_MOST_WORK / max(1, panels * len(inner.payer)))
        most = hops or min(MOST_HOPS, max(_LEAST_HOPS, affordable))
        _push_all(new_panel, np.float64, on_cycles, asked, most, result)
    return result


def two_hop_returns(graph: FlowGraph | DeviceGraph) -> Floats:
    """Return for every flow i -> j the share that j pays straight back to i, P_ji: the return fraction within two hops.

    Parameters
    ----------
    graph : FlowGraph or DeviceGraph
        n companies, m flows.

    Returns
    -------
    float64 array of shape (m,), on the host
        In the payer order of the graph. Times the amounts and summed by payer, these are the companies' C_i within
        two hops.

    Notes
    -----
    Memory: 8 bytes per flow, on the device too.
    """
    if graph.device == "gpu":
        from ouroflow.roundtrip import gpu_push

        return gpu_push.two_hop_returns(graph)
    from ouroflow.roundtrip import cpu_push

    return cpu_push.two_hop_returns(graph)


def _check(graph: FlowGraph | DeviceGraph, roots: Int64s, tolerance: float, hops: int | None) -> None:
    if roots.ndim != 1 or np.any((roots < 0) | (roots >= graph.companies)):
        raise UsageError(f"roots must be a list of companies in 0..{graph.companies - 1}")
    if len(np.unique(roots)) != len(roots):
        raise UsageError("each root must be named once")
    if hops is not None and hops < 2:
        raise UsageError(f"hops must be at least 2 (there and back), got {hops}")
    if not tolerance > 0:
        raise UsageError(f"tolerance must be positive, got {tolerance}")


def _nothing_yet(
    graph: FlowGraph | DeviceGraph, inner: InnerFlows, roots: Int64s
) -> tuple[npt.NDArray[np.bool_], PushedReturns]:
    """Return whether anything that a root pays stays in its component, and a result to be filled in."""
    xp, here = graph.xp, graph.place(roots)
    rows = xp.searchsorted(inner.member, here)
    starts = inner.offsets[rows]
    before = xp.concatenate([xp.zeros(1, np.int64), xp.cumsum(inner.offsets[rows + 1] - starts)])
    last_hops = xp.arange(int(before[-1]))
    root = xp.searchsorted(before, last_hops, side="right") - 1
    flow = inner.flow[last_hops + (starts - before[:-1])[root]]
    zeros, count = np.zeros, len(roots)
    return _to_host(graph, inner.stay[rows] > 0), PushedReturns(
        roots,
        zeros(count),
        zeros(count),
        zeros(count),
        np.ones(count, np.int64),
        _to_host(graph, before),
        _to_host(graph, flow),
        zeros(len(flow)),
    )


def part_bounds(graph: FlowGraph | DeviceGraph, inner: InnerFlows) -> Array:
    """Return where the parts of the payees begin and end, int64 array of shape (parts + 1,) where the graph lies.

    A payee belongs to part (flows and payees before it) // `PART`. So a part weighs less than `PART` and its last row;
    and a row longer than `PART` flows is the last of its part.
    """
    xp, members = graph.xp, len(inner.member)
    weight_before = inner.offsets[:-1] + xp.arange(members)
    parts = -(-(len(inner.payer) + members) // PART)
    return xp.searchsorted(weight_before, xp.arange(parts + 1) * PART)


def _to_host(graph: FlowGraph | DeviceGraph, array: Array) -> npt.NDArray[Any]:
    return array if graph.device == "cpu" else graph.on.to_host(array)


@dataclass(frozen=True)
class _Asked:
    """What a push was asked for, and what decides how it is rounded."""

    tolerance: float
    hops: int | None
    members: int
    longest: int

    def bounds(self, arrived: Floats, still: Floats, hops: int, unit: float) -> tuple[Floats, Floats]:
        """Return what comes back at least and at most, rounding in a panel of such a unit included."""
        a_hop = (min(self.longest, RUN) + 3) * unit + (self.longest / RUN + 6) * _UNIT
        error = math.expm1(hops * a_hop + (self.members + self.longest + 6) * _UNIT)
        too_small = self.members * hops * 2.0**-149
        most = arrived + still if self.hops is None else arrived
        return arrived * (1 - error), np.minimum(most * (1 + 2 * error) + too_small, 1)

    def is_met(self, low: Floats, high: Floats) -> npt.NDArray[np.bool_]:
        """Tell which bounds are as narrow as asked; none, where a hop limit says how far to go."""
        return (high - low <= 2 * self.tolerance) & (self.hops is None)


class Panel(Protocol):
    """Two panels of 32 roots where the graph lies, and the hops between them."""

    def place(self, roots: Int64s) -> None:
        """Begin anew with up to 32 companies: spread what each pays over the members of its component."""

    def collect(self) -> tuple[Floats, Floats]:
        """Count what the next hop brings back to each root.

        Returns
        -------
        arrived : float64 array of shape (32,), on the host
            All that has come back so far, the next hop included.
        still : float64 array of shape (32,), on the host
            Bound of what can come back after that.
        """

    def hop(self) -> None:
        """Move everything by one hop."""

    def last_hops(self) -> Floats:
        """Return what came back over each flow into the roots, one root after the other, on the host."""


def _push_all(
    new_panel: Callable[[Any], Panel], dtype: Any, chosen: Int64s, asked: _Asked, most: int, result: PushedReturns
) -> Int64s:
    """Push the chosen roots, 32 at a time; return those whose bounds are still too wide after `most` hops."""
    panel, unit = new_panel(dtype), float(np.finfo(dtype).epsneg)
    for first in range(0, len(chosen), ROOTS):
        part = chosen[first : first + ROOTS]
        panel.place(result.roots[part])
        _follow(panel, unit, part, asked, most, result)
        shares, taken = panel.last_hops(), 0
        for root in part:
            own = result.last_hop_share[slice(*result.last_hop_offsets[root : root + 2])]
            own[:] = shares[taken : taken + len(own)]
            taken += len(own)
    return chosen[~asked.is_met(result.low[chosen], result.high[chosen])]


def _follow(panel: Panel, unit: float, part: Int64s, asked: _Asked, most: int, result: PushedReturns) -> None:
    """Follow the money of one panel hop by hop until the bounds are narrow, and write them."""
    for followed in range(2, most + 1):
        if followed > 2:
            panel.hop()
        arrived, still = (figures[: len(part)] for figures in panel.collect())
        low, high = asked.bounds(arrived, still, followed, unit)
        if not still.any() or asked.is_met(low, high).all():
            break
    result.value[part] = np.minimum(arrived, 1)
    result.low[part], result.high[part], result.hops[part] = low, high, followed
