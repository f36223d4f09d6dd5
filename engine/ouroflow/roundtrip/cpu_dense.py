"""Chains stored densely but still mostly empty: eliminate on bit sets, sweep the full rest with BLAS, walk back.

Between the lists of `cpu_elimination` and the sweeps of `cpu_core` lie a few thousand companies of which a tenth of
the pairs hold a probability. Lists cost too much per entry there, BLAS would treat them as full. Here a pair costs
one multiplication and addition, and the pattern one bit: joining the payees of two companies is a bitwise or. The
order and the formulas are those of `cpu_elimination`.

Memory beside the chain of k companies: 8 bytes x (companies left for BLAS)^2, and k^2 / 4 bytes of bit sets.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from ouroflow.roundtrip.cpu_core import sweep

_TILE = 32

Ids = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

# Eliminating a company and walking back over it costs as much per pair of payer and payee as this many floating point
# operations of BLAS (measured, 2 cores with AVX-512).
_FLOPS_PER_PAIR = 250.0


@njit(cache=True)
def _bits_set(word):  # type: ignore[no-untyped-def]
    """Count the bits of a uint64 (LLVM makes one instruction of it)."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(cache=True)
def _members(bits, found):  # type: ignore[no-untyped-def]
    """Write the members of a bit set in ascending order; return how many."""
    count = 0
    for place in range(bits.size):
        word = bits[place]
        while word != np.uint64(0):
            rest = word & (word - np.uint64(1))
            found[count] = place * 64 + _bits_set((word ^ rest) - np.uint64(1))
            count += 1
            word = rest
    return count


@njit(cache=True)
def _join(own, itself, added, eliminated):  # type: ignore[no-untyped-def]
    """Add the neighbours of an eliminated company to those of one company; return how many that are now."""
    one = np.uint64(1)
    for place in range(own.size):
        own[place] |= added[place]
    own[itself >> 6] &= ~(one << np.uint64(itself & 63))
    own[eliminated >> 6] &= ~(one << np.uint64(eliminated & 63))
    count = 0
    for place in range(own.size):
        count += _bits_set(own[place])
    return count


@njit(cache=True)
def _pattern(chain, payees, payers, outgoing, incoming):  # type: ignore[no-untyped-def]
    """Set the bits of the pairs that hold a probability, and count them by payer and by payee."""
    one = np.uint64(1)
    for payee in range(chain.shape[0]):
        for payer in range(chain.shape[0]):
            if chain[payer, payee] > 0.0:
                payees[payer, payee >> 6] |= one << np.uint64(payee & 63)
                payers[payee, payer >> 6] |= one << np.uint64(payer & 63)
                outgoing[payer] += 1
                incoming[payee] += 1


@njit(cache=True)
def _eliminate_pairs(  # type: ignore[no-untyped-def]
    chain, leak, payees, payers, outgoing, incoming, order, pivots, flops_per_pair
):
    """Eliminate the cheapest company while that beats BLAS, and return how many.

    Its row and column are overwritten with `onward` and `share`.
    """
    companies = leak.size
    present = np.ones(companies, np.bool_)
    some_payees, some_payers = np.empty(companies, np.int32), np.empty(companies, np.int32)
    for count in range(companies):
        company, cheapest = -1, companies * companies
        for candidate in range(companies):
            if present[candidate] and outgoing[candidate] * incoming[candidate] < cheapest:
                company, cheapest = candidate, outgoing[candidate] * incoming[candidate]
        if cheapest * flops_per_pair > 6.0 * float(companies - count) ** 2:
            return count
        paid = some_payees[: _members(payees[company], some_payees)]
        paying = some_payers[: _members(payers[company], some_payers)]
        pivot = leak[company]
        for payee in paid:
            pivot += chain[company, payee]
        column = chain[:, company]
        for payee in paid:
            onward = chain[company, payee] / pivot
            chain[company, payee] = onward
            passed_on = chain[:, payee]
            for payer in paying:  # the diagonal, payer = payee, is never read
                passed_on[payer] += column[payer] * onward
            incoming[payee] = _join(payers[payee], payee, payers[company], company)
        for payer in paying:
            column[payer] /= pivot
            leak[payer] += column[payer] * leak[company]
            outgoing[payer] = _join(payees[payer], payer, payees[company], company)
        present[company] = False
        order[count], pivots[count] = company, pivot
    return companies


@njit(cache=True)
def _copy_rest(chain, rest, dense, back):  # type: ignore[no-untyped-def]
    """Copy the square of the companies left into a dense chain of their own, or from there back."""
    for column in range(rest.size):
        for row in range(rest.size):
            if back:
                chain[rest[row], rest[column]] = dense[row, column]
            else:
                dense[row, column] = chain[rest[row], rest[column]]


@njit(cache=True, fastmath={"reassoc", "contract"})
def _walk_back_pairs(chain, payees, payers, order, pivots):  # type: ignore[no-untyped-def]
    """Replace `onward` and `share` by expected visits, from the last company eliminated to the first."""
    companies = chain.shape[0]
    some_payees, some_payers = np.empty(companies, np.int32), np.empty(companies, np.int32)
    onward, from_payee, to_payer = np.empty(companies), np.empty(companies), np.empty(companies)
    for position in range(order.size - 1, -1, -1):
        company = order[position]
        paid = some_payees[: _members(payees[company], some_payees)]
        paying = some_payers[: _members(payers[company], some_payers)]
        for entry in range(paid.size):
            onward[entry] = chain[company, paid[entry]]
            from_payee[entry] = 0.0
        own = 1.0 / pivots[position]
        for place in range(paying.size):
            visits = chain[:, paying[place]]
            share = chain[paying[place], company]
            total = 0.0
            for entry in range(paid.size):
                visit = visits[paid[entry]]
                total += onward[entry] * visit
                from_payee[entry] += visit * share
            to_payer[place] = total
            own += total * share
        for place in range(paying.size):
            chain[company, paying[place]] = to_payer[place]
        for entry in range(paid.size):
            chain[paid[entry], company] = from_payee[entry]
        chain[company, company] = own


def visits_of_pattern(chain: Floats, leak: Floats) -> None:
    """Overwrite a dense chain P with the entries of N = (I - P)^-1 that are the reverse of one of its filled pattern.

    Parameters
    ----------
    chain : float64[k, k], Fortran order
        ``chain[i, j]``: probability of moving i -> j; the diagonal is 0. Afterwards ``chain[j, i]`` is N_ji for each
        pair (i, j) that held a probability, and ``chain[i, i]`` is N_ii; other entries mean nothing.
    leak : float64[k]
        Probability of leaving for good. Overwritten with work space.
    """
    companies = leak.size
    words = (companies + 63) // 64
    payees, payers = np.zeros((companies, words), np.uint64), np.zeros((companies, words), np.uint64)
    outgoing, incoming = np.zeros(companies, np.int64), np.zeros(companies, np.int64)
    _pattern(chain, payees, payers, outgoing, incoming)
    order, pivots = np.empty(companies, np.int32), np.empty(companies)
    count = _eliminate_pairs(chain, leak, payees, payers, outgoing, incoming, order, pivots, _FLOPS_PER_PAIR)
    rest = np.setdiff1d(np.arange(companies, dtype=np.int32), order[:count])
    # BLAS gives each thread whole tiles only where the size is a multiple of them: padded with companies that nobody pays, the
    # result has the same bits on any number of threads.
    padded = -(-rest.size // _TILE) * _TILE
    dense = np.zeros((padded, padded), order="F")
    _copy_rest(chain, rest, dense, False)
    sweep(dense, np.concatenate([leak[rest], np.ones(padded - rest.size)]))
    _copy_rest(chain, rest, dense, True)
    del dense
    _walk_back_pairs(chain, payees, payers, order[:count], pivots)
