"""Exact return fractions of whole components: dense sweeps for small ones, elimination to a dense core for large ones.

A component is solved in local numbers, from int64 amounts: the share of a move is w_ij / T_i, the leak of a company
T_i less what it pays inside, an exact integer that is rounded once. Then the return fraction of a flow i -> j is h_ji
= N_ji / N_ii, and the return probability of a company is rho_i = sum_j P_ij h_ji: sums of non-negative terms,
accurate to the last digits also where they are tiny. A component that leaks nothing returns everything; that is
decided in integers.

Memory: 40 bytes per flow and 60 per company of the component, plus 8 k^2 for a small component, or what
`cpu_elimination` states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ouroflow.roundtrip.cpu_core import sweep_stack
from ouroflow.runtime.memory import available_bytes

if TYPE_CHECKING:
    from ouroflow.graph import IntraFlows
    from ouroflow.roundtrip.cpu_elimination import CoreSolver

Int64s = npt.NDArray[np.int64]
Ids = npt.NDArray[np.int32] | npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

SMALL = 200
"""Components of up to so many companies are solved densely, without compiled kernels."""

TRY_CORE = 8_000
"""Largest core where exact figures are not insisted on: 2 core^3 operations of BLAS take about 15 seconds on two cores, and
twice 8 core^2 bytes are a gigabyte."""

_STACK_BYTES = 1 << 26  # dense chains of equal size are swept together up to this size


@dataclass(frozen=True, eq=False)
class ExactReturns:
    """Exact returns of some component(s), in local order.

    Attributes
    ----------
    company : float64 array of shape (companies,)
        rho_i: share of the throughflow of a company that comes back to it.
    flow : float64 array of shape (flows,)
        r_e: share of a flow that comes back to its payer.
    """

    company: Floats
    flow: Floats


def exact_returns(
    offsets: Int64s,
    payee: Ids,
    amount: Int64s,
    throughflow: Int64s,
    *,
    core_limit: int | None = None,
    solver: CoreSolver | None = None,
) -> ExactReturns | None:
    """Solve one component exactly.

    Parameters
    ----------
    offsets : int64 array of shape (companies + 1,)
        The flows of local payer i are ``offsets[i]:offsets[i + 1]``.
    payee : int array of shape (flows,)
        Local payee; all flows stay in the component.
    amount : int64 array of shape (flows,)
        Minor units, positive.
    throughflow : int64 array of shape (companies,)
        T_i, at least the sum of the flows of i.
    core_limit : int, optional
        Largest dense core to accept.
    solver : CoreSolver, optional
        Who solves the dense core, the CPU unless given.

    Returns
    -------
    ExactReturns or None
        None if the core would be larger than `core_limit`, found out at a small part of the whole cost.
    """
    from ouroflow.roundtrip.cpu_elimination import eliminate, finish

    payer, probability, leak = _chain(offsets, amount, throughflow)
    if not leak.any():
        return _everything(throughflow.size, payee.size)
    elimination = eliminate(offsets, payee.astype(np.int32, copy=False), probability, leak, core_limit, solver)
    if elimination is None:
        return None
    returns = np.minimum(finish(elimination, offsets, payee.astype(np.int32, copy=False), solver), 1.0)
    return ExactReturns(_of_companies(payer, probability, returns, throughflow.size), returns)


def exact_small(intra: IntraFlows, throughflow: Int64s, components: Int64s) -> ExactReturns:
    """Solve many small components, those of equal size together.

    Parameters
    ----------
    intra : IntraFlows
        The flows inside the components of a graph.
    throughflow : int64 array of shape (members,)
        T_i in the order of ``intra.company``.
    components : int64 array
        Which components to solve; the entries of all others come back as NaN.
    """
    sizes = np.diff(intra.company_offsets)[components]
    batches = []
    for size in np.unique(sizes):
        same = components[sizes == size]
        step = max(1, _STACK_BYTES // (8 * int(size) ** 2))
        batches += [same[start : start + step] for start in range(0, same.size, step)]
    return solve_batches(intra, throughflow, batches, _sweep_equal)


@dataclass(frozen=True, eq=False)
class DenseChains:
    """Some components as dense chains, one after the other in one array of probabilities.

    Attributes
    ----------
    sizes : int64 array of shape (components,)
        Companies of each.
    probability : float64 array of shape (flows,)
        Probability of the move along each flow.
    leak : float64 array of shape (companies,)
        Probability of leaving each company for good; of at least one company of each component it is not 0.
    forth, back, own : int64 arrays of shape (flows,)
        Where each flow i -> j has its entries (i, j), (j, i) and (i, i).
    """

    sizes: Int64s
    probability: Floats
    leak: Floats
    forth: Int64s
    back: Int64s
    own: Int64s


def solve_batches(
    intra: IntraFlows, throughflow: Int64s, batches: Iterable[Int64s], solve: Callable[[DenseChains], Floats]
) -> ExactReturns:
    """Solve small components batch by batch; `solve` gives N_ji / N_ii for each flow i -> j of a batch."""
    company = np.full(intra.company.size, np.nan)
    flow = np.full(intra.flow.size, np.nan)
    for components in batches:
        _solve_batch(intra, throughflow, components, solve, company, flow)
    return ExactReturns(company, flow)


def _solve_batch(
    intra: IntraFlows,
    throughflow: Int64s,
    components: Int64s,
    solve: Callable[[DenseChains], Floats],
    company: Floats,
    flow: Floats,
) -> None:
    """Solve some components, and write their companies and flows."""
    first, sizes = intra.company_offsets[components], np.diff(intra.company_offsets)[components]
    members = _ranges(first, sizes)
    starts, lengths = intra.flow_offsets[members], intra.flow_offsets[members + 1] - intra.flow_offsets[members]
    flows = _ranges(starts, lengths)
    payer, probability, leak = _chain(_running(lengths), intra.amount[flows], throughflow[members])
    of_member = np.repeat(np.arange(sizes.size), sizes)
    which = of_member[payer]
    closed: npt.NDArray[np.bool_] = np.bincount(of_member, leak > 0.0, sizes.size) == 0
    # Without a leak there is nothing to invert: the sweep gets one to work on, and its answer is replaced.
    leak[closed[of_member]] = 1.0
    size = sizes[which]
    origin = _running(sizes**2)[which]
    row, column = payer - _running(sizes)[which], intra.payee[flows].astype(np.int64)
    chains = DenseChains(
        sizes, probability, leak, origin + row * size + column, origin + column * size + row, origin + row * (size + 1)
    )
    returns = np.minimum(solve(chains), 1.0)
    returns[closed[which]] = 1.0
    flow[flows] = returns
    found = _of_companies(payer, probability, returns, members.size)
    found[closed[of_member]] = 1.0
    company[members] = found


def _sweep_equal(chains: DenseChains) -> Floats:
    """Solve chains of one size."""
    count, size = chains.sizes.size, int(chains.sizes[0])
    entries = np.zeros(count * size**2)
    entries[chains.forth] = chains.probability
    sweep_stack(entries.reshape(count, size, size), chains.leak.reshape(count, size))
    return entries[chains.back] / entries[chains.own]


def _running(lengths: Int64s) -> Int64s:
    """Return the running sum of lengths, from 0 on."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def _ranges(starts: Int64s, lengths: Int64s) -> Int64s:
    """Return the numbers from each start on, so many as its length says, one range after the other."""
    before = _running(lengths)
    return np.arange(before[-1]) + np.repeat(starts - before[:-1], lengths)


def core_that_fits() -> int:
    """Return how large a dense core the free memory holds: two copies at 8 bytes an entry, and a fifth for the rest."""
    return math.isqrt(available_bytes() // 20)


def _chain(offsets: Int64s, amount: Int64s, throughflow: Int64s) -> tuple[Int64s, Floats, Floats]:
    """Return the payer of each flow, its share of the payer's throughflow, and the share of each company that leaks."""
    payer = np.repeat(np.arange(throughflow.size), np.diff(offsets))
    leak = throughflow - np.diff(_running(amount)[offsets])
    return payer, amount / throughflow[payer], leak / throughflow


def _of_companies(payer: Int64s, probability: Floats, returns: Floats, companies: int) -> Floats:
    return np.minimum(np.bincount(payer, probability * returns, companies), 1.0)


def _everything(companies: int, flows: int) -> ExactReturns:
    return ExactReturns(np.ones(companies), np.ones(flows))
