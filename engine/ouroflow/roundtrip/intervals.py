"""Confidence intervals of sampled fractions, valid for stratified draws, and the number of draws they need."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv

Floats = npt.NDArray[np.float64]

# betaincinv is accurate to a few units in the last place; its answers are moved outwards by far more than that.
_SLACK = 1e-12


def clopper_pearson(hits: npt.ArrayLike, draws: npt.ArrayLike, confidence: float) -> tuple[Floats, Floats]:
    """Bound the mean success probability of independent yes/no draws, which need not be equally likely.

    Parameters
    ----------
    hits, draws : array_like of int
        Successes and draws (``0 <= hits <= draws``, ``draws >= 1``), of one shape.
    confidence : float
        Level of the two-sided interval, at least 0.5; each side misses with probability at most ``(1 - confidence) /
        2``.

    Returns
    -------
    low, high : float64 arrays
        Bounds of the mean of the draws' success probabilities.

    Notes
    -----
    Clopper & Pearson (1934) for equal probabilities. Stratified draws have unequal ones, p_1 .. p_R with mean p, and
    then the interval still holds, by Hoeffding (1956, theorem 4): for S their sum and B binomial(R, p), P(S >= c) <=
    P(B >= c) for every integer c >= Rp + 1. The low end misses when S >= c*, the least c with P(B >= c) < a = (1 -
    confidence) / 2 <= 1/4.

    - If Rp <= 1 and c* >= 2, then c* >= Rp + 1 and Hoeffding's bound applies.
    - If Rp > 1 then P(B >= Rp) > 1/4 >= a (Greenberg & Mohri 2014), so c* > Rp. If Rp is an integer, c* >= Rp + 1 at
      once. If not, c* could be the integer between Rp and Rp + 1 only if P(B >= ceil(Rp)) = P(B >= Rp) < a, which was
      just excluded.
    - Left is c* = 1, which only happens for Rp < 1. There unequal probabilities do hurt: P(S >= 1) can be as large as
      Rp, more than 1 - (1 - p)^R. So one success is given the low end a / R, which Markov's inequality proves: it
      misses only when Rp < a.

    The high end is the same statement about failures. Adding draws that can never succeed keeps all of this true.
    """
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence must be in [0.5, 1), got {confidence}")
    successes = np.asarray(hits, np.float64)
    trials = np.asarray(draws, np.float64)
    miss = (1 - confidence) / 2
    return _low_end(successes, trials, miss), 1 - _low_end(trials - successes, trials, miss)


def _low_end(successes: Floats, trials: Floats, miss: float) -> Floats:
    low: Floats = np.zeros(np.broadcast(successes, trials).shape)
    successes, trials = np.broadcast_to(successes, low.shape), np.broadcast_to(trials, low.shape)
    once, always = successes == 1, (successes == trials) & (trials > 1)
    low[once] = miss / trials[once]
    low[always] = miss ** (1 / trials[always])  # the quantile in closed form: many companies have no miss, or no hit
    mixed = (successes > 1) & ~always
    low[mixed] = betaincinv(successes[mixed], trials[mixed] - successes[mixed] + 1, miss)
    return low * (1 - _SLACK)


def draws_needed(fraction: npt.ArrayLike, half_width: npt.ArrayLike, confidence: float) -> npt.NDArray[np.int64]:
    """Return how many draws make the interval of `clopper_pearson` reach at most `half_width` to either side.

    Parameters
    ----------
    fraction : array_like of float
        The success share that the draws are expected to show, in [0, 1].
    half_width : array_like of float
        Wanted distance between the share and either end of its interval, positive.
    confidence : float
        Level of the interval.

    Returns
    -------
    int64 array
        At most a thousandth more than the fewest; at most 2^62.
    """
    share, wanted = np.broadcast_arrays(np.asarray(fraction, np.float64), np.asarray(half_width, np.float64))

    def wide(draws: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        hits = np.minimum(np.rint(share * draws), draws)
        low, high = clopper_pearson(hits, draws, confidence)
        return np.maximum(high - hits / draws, hits / draws - low) > wanted

    enough = np.ones(share.shape, np.int64)
    while (short := wide(enough) & (enough < 2**62)).any():
        enough = np.where(short, enough * 2, enough)
    few = enough // 2
    while (enough - few > np.maximum(1, enough // 1000)).any():
        middle = np.maximum((enough + few) // 2, 1)
        short = wide(middle)
        few, enough = np.where(short, middle, few), np.where(short, enough, middle)
    return enough
