"""Dense chains: all expected visits N = (I - P)^-1 by sweeps that only ever add non-negative numbers.

The chain P holds the probabilities of moving inside it, ``leak`` the probability of leaving it for good. Subtracting
P from the identity would lose everything when the leak is small, so the pivot ``1 - P_vv`` is never formed by
subtraction: it is the sum of the rest of the row and the leak (Grassmann, Taksar, Heyman 1985, "Regenerative analysis
and steady state distributions for Markov chains"). Every entry of N then has a small *relative* error, however small
the leak (O'Cinneide 1993, "Entrywise perturbation theory and error analysis for Markov chains").

While companies are swept one by one, an entry means: N between swept companies, the censored chain between the
others, and the mixed products in the off-diagonal blocks. Sweeping a block K with ``S = (I - P_KK)^-1`` is ``P_RR +=
P_RK S P_KR``, one call of BLAS for nearly all of the work.

Memory: 8 bytes per entry of the chain, which is overwritten, and 24 bytes x block x companies of work space. Time: 2
x companies^3 flops.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.linalg.blas import dgemm

Floats = npt.NDArray[np.float64]

_BLOCK = 128  # companies swept together through BLAS
_INNER_BLOCK = 32  # the same within a block: below this, NumPy on small arrays is faster


def sweep_stack(chains: Floats, leaks: Floats) -> None:
    """Overwrite each chain of a stack with its expected visits, one company at a time in all of them together.

    Parameters
    ----------
    chains : float64[count, k, k]
        ``chains[c, i, j]``: probability of moving i -> j. The diagonal is not read. Overwritten with ``(I - P)^-1``.
    leaks : float64[count, k]
        Probability of leaving for good. Overwritten with work space.
    """
    for company in range(chains.shape[1]):
        pivot = chains[:, company, company + 1 :].sum(axis=1) + leaks[:, company]
        row = chains[:, company, :].copy()
        row[:, company] = 0.0
        column = chains[:, :, company] / pivot[:, None]
        column[:, company] = 0.0
        leaks += column * leaks[:, company, None]  # of use only to companies still to come
        chains += column[:, :, None] * row[:, None, :]
        row /= pivot[:, None]
        row[:, company] = 1.0 / pivot
        column[:, company] = 1.0 / pivot
        chains[:, company, :] = row
        chains[:, :, company] = column


def sweep(chain: Floats, leak: Floats, block: int = _BLOCK) -> None:
    """Overwrite a dense chain with its expected visits N, in blocks.

    Parameters
    ----------
    chain : float64[k, k], Fortran order
        ``chain[i, j]``: probability of moving i -> j. The diagonal is not read. Overwritten with ``(I - P)^-1``.
    leak : float64[k]
        Probability of leaving for good. Overwritten with work space.
    block : int
        Companies per call of BLAS.
    """
    companies = chain.shape[0]
    for start in range(0, companies, block):
        stop = min(start + block, companies)
        rows = chain[start:stop].copy(order="F")
        columns = chain[:, start:stop].copy(order="F")
        visits = rows[:, start:stop].copy(order="F")
        # What leaves the block, other than back into what is already swept.
        away = rows[:, stop:].sum(axis=1) + leak[start:stop]
        if block > _INNER_BLOCK:
            sweep(visits, away, _INNER_BLOCK)
        else:
            sweep_stack(visits[None], away[None])
        columns = dgemm(1.0, columns, visits)
        leak[stop:] += columns[stop:] @ leak[start:stop]
        # BLAS adds to the whole chain in place (a part of it would be copied first); the block's own rows and columns
        # are set after.
        dgemm(1.0, columns, rows, beta=1.0, c=chain, overwrite_c=True)
        chain[start:stop] = dgemm(1.0, visits, rows)
        chain[:, start:stop] = columns
        chain[start:stop, start:stop] = visits
