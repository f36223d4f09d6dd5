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

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ouroflow.roundtrip.cpu_core import sweep_stack

if TYPE_CHECKING:
    from ouroflow.graph import IntraFlows

Int64s = npt.NDArray[np.int64]
Ids = npt.NDArray[np.int32] | npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

SMALL = 200
"""Components of up to so many companies are solved densely, without compiled kernels."""

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
    offsets: Int64s, payee: Ids, amount: Int64s, throughflow: Int64s, *, core_limit: int | None = None
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

    Returns
    -------
    ExactReturns or None
        None if the core would be larger than `core_limit`, found out at a small part of the whole cost.
    """
    from ouroflow.roundtrip.cpu_elimination import eliminate, finish

    payer, probability, leak = _chain(offsets, amount, throughflow)
    if not leak.any():
        return _everything(throughflow.size, payee.size)
    elimination = eliminate(offsets, payee.astype(np.int32, copy=False), probability, leak, core_limit)
    if elimination is None:
        return None
    returns = np.minimum(finish(elimination, offsets, payee.astype(np.int32, copy=False)), 1.0)
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
    sizes = np.diff(intra.company_offsets)
    company = np.full(intra.company.size, np.nan)
    flow = np.full(intra.flow.size, np.nan)
    for size in np.unique(sizes[components]):
        same = components[sizes[components] == size]
        step = max(1, _STACK_BYTES // (8 * int(size) ** 2))
        for start in range(0, same.size, step):
            _solve_stack(intra, throughflow, same[start : start + step], int(size), company, flow)
    return ExactReturns(company, flow)


def _solve_stack(
    intra: IntraFlows, throughflow: Int64s, components: Int64s, size: int, company: Floats, flow: Floats
) -> None:
    """Solve components of one size, and write their companies and flows."""
    members = (intra.company_offsets[components][:, None] + np.arange(size)).ravel()
    starts, lengths = intra.flow_offsets[members], intra.flow_offsets[members + 1] - intra.flow_offsets[members]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    flows = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    payer, probability, leak = _chain(offsets, intra.amount[flows], throughflow[members])
    which, row, column = payer // size, payer % size, intra.payee[flows]
    chains = np.zeros((components.size, size, size))
    chains[which, row, column] = probability
    leaks = leak.reshape(components.size, size)
    closed: npt.NDArray[np.bool_] = ~np.any(leaks > 0.0, axis=1)
    # Without a leak there is nothing to invert: the sweep gets one to work on, and its answer is replaced.
    leaks[closed] = 1.0
    sweep_stack(chains, leaks)
    returns = np.minimum(chains[which, column, row] / chains[which, row, row], 1.0)
    returns[closed[which]] = 1.0
    flow[flows] = returns
    found = _of_companies(payer, probability, returns, members.size)
    found[np.repeat(closed, size)] = 1.0
    company[members] = found


def _chain(offsets: Int64s, amount: Int64s, throughflow: Int64s) -> tuple[Int64s, Floats, Floats]:
    """Return the payer of each flow, its share of the payer's throughflow, and the share of each company that leaks."""
    payer = np.repeat(np.arange(throughflow.size), np.diff(offsets))
    running = np.concatenate([np.zeros(1, np.int64), np.cumsum(amount)])
    leak = throughflow - np.diff(running[offsets])
    return payer, amount / throughflow[payer], leak / throughflow


def _of_companies(payer: Int64s, probability: Floats, returns: Floats, companies: int) -> Floats:
    return np.minimum(np.bincount(payer, probability * returns, companies), 1.0)


def _everything(companies: int, flows: int) -> ExactReturns:
    return ExactReturns(np.ones(companies), np.ones(flows))
