"""Sampled round trips: draw a unit of money, walk from its payee, see whether it comes back to its payer.

The unit is drawn with probability w_e / W, so one walk is one yes/no answer to "does it return?" and the share of yes
is the round-trip fraction, whatever the size of the graph. Money that leaves its component never comes back: only the
flows inside components are laid out and drawn from, and a walk that leaves its component has ended.

Everything random is integer arithmetic on a counter-based generator (Philox4x32-10; Salmon, Moraes, Dror & Shaw 2011)
keyed by seed, walk and draw. Neither threads nor devices therefore change a result: the twins `cpu_walks` and
`gpu_walks` walk the same paths, bit for bit. What they share stands here: how many walks to take, by which walker, and
what their tallies prove.

Two walkers share starts and generator. The plain one needs no tables beyond the money layout and draws from the flows
themselves without any rounding: for few walks. The other one walks over alias tables (Walker 1977, Vose 1991) with
64-bit thresholds: for many. `walk_returns` and `walk_companies` choose by predicted cost, on every device alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ouroflow.certified import Certified
from ouroflow.errors import UsageError
from ouroflow.graph import exact_sum
from ouroflow.roundtrip.intervals import clopper_pearson, draws_needed

if TYPE_CHECKING:
    from ouroflow.graph import FlowGraph, Ids
    from ouroflow.graph_gpu import DeviceGraph
    from ouroflow.runtime.launch import Array

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

HORIZON = 4096
"""Hops after which a walk without hop limit is given up; such walks widen the interval."""

MOST_WALKS = 2**31 - 1
"""Walks of one sample: their squares must fit int64."""

BLOCK = 64
"""Flows per block of the money layout: one bit each in a word."""

LEFT = 2**32 - 1
"""Target of the slot that leaves the component; no company of an alias table has this id, and no row more slots."""


# ---- what the twins lay out ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class MoneyLayout:
    """The money paid inside components, laid end to end in payer order; arrays lie where the graph lies.

    Attributes
    ----------
    graph : FlowGraph or DeviceGraph
        Where the flows are.
    inside : uint64 array of shape (ceil(flows / 64),)
        Bit e % 64 of word e // 64: whether flow e is laid out.
    block_before : int64 array of shape (ceil(flows / 64) + 1,)
        Money laid out before each block of 64 flows; the last entry is all of it.
    company_before : int64 array of shape (companies + 1,)
        Money laid out before the first flow of each company.
    closed : int64 array of shape (closed companies,), on the host
        Companies of closed components (nothing leaks, by exact integers). All their money returns, so it is not laid
        out.
    closed_paid : int64 array of shape (closed companies,), on the host
        What each of them pays.

    Notes
    -----
    Memory: 8 bytes per company and 0.25 bytes per flow. While it is built, on the CPU 8 more per component; on a device
    a byte per component, 26 per company where no hop limit is set, and a copy of labels that come from the host.
    """

    graph: FlowGraph | DeviceGraph
    inside: Array
    block_before: Array
    company_before: Array
    closed: Int64s
    closed_paid: Int64s

    @property
    def certain(self) -> int:
        """Return the money that returns for sure."""
        return int(self.closed_paid.sum())

    @cached_property
    def laid(self) -> int:
        """Return the money laid out."""
        return int(self.company_before[-1])

    def to_host(self, array: Array) -> npt.NDArray[Any]:
        """Return an array that lies where the graph lies as a NumPy array."""
        graph: Any = self.graph
        return array if graph.device == "cpu" else graph.on.to_host(array)

    def entries(self, array: Array, places: Int64s) -> npt.NDArray[Any]:
        """Return some entries of an array that lies where the graph lies, as a NumPy array."""
        return self.to_host(array[self.graph.place(places)])


@dataclass(frozen=True, eq=False)
class AliasTable:
    """Where money goes next, one equally likely slot per flow inside the component, and one for what leaves it.

    Attributes
    ----------
    row_offsets : int64 array of shape (companies + 1,)
        The slots of company i are ``row_offsets[i]:row_offsets[i + 1]``.
    slots : uint64 array of shape (slots, 2)
        Column 0: 64-bit threshold; a draw below it goes to the lower 32 bits of column 1, else to the upper 32 bits.
    longest : int
        Slots of the longest row.

    Notes
    -----
    Memory: 16 bytes per flow inside a component, 16 per leaking company in one, 8 per company.

    The amounts are balanced in exact integers; only the final thresholds are rounded down to multiples of 2^-64. A
    row of k slots then errs by less than k 2^-63 in total variation: each of its 2k pieces is an interval of 64-bit
    draws whose count differs from the exact length by less than 1 for the ends and by less than 1 for the threshold.
    """

    row_offsets: Array
    slots: Array
    longest: int

    @property
    def error_per_step(self) -> float:
        """Return a bound of the total variation error of one step."""
        return self.longest * 2.0**-63


@dataclass(frozen=True, eq=False)
class WalkCounts:
    """How walks ended: int64 counts per company of the graph, or per company walked from, and steps in all.

    Attributes
    ----------
    returned, unfinished : int64 arrays
        Walks that came back to their payer, and walks whose last step was taken without an end.
    steps : int
        Steps that all of them took together.
    """

    returned: Array
    unfinished: Array
    steps: int


def _twin(graph: FlowGraph | DeviceGraph) -> Any:
    """Return the twin that works where the graph lies; both have the same functions."""
    if graph.device == "gpu":
        from ouroflow.roundtrip import gpu_walks

        return gpu_walks
    from ouroflow.roundtrip import cpu_walks

    return cpu_walks


# ---- samples ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class WalkTally:
    """How the walks of one sample ended, and what follows from it.

    Attributes
    ----------
    layout : MoneyLayout
        The money they were drawn from.
    walks : int
        How many they were.
    returned, unfinished_of : int64 arrays of shape (companies,), where the graph lies
        By payer, how many came back, and how many were given up at the horizon without knowing whether they return
        (none where there is a hop limit: an unfinished walk has not returned within it).
    steps : int
        Steps that all of them took together.
    hops : int or None
        Hop limit.
    confidence : float
        Level at which this sample gives intervals.
    error : float
        Bound of the rounding error of the walker in any return probability (0 for the plain walker).

    Notes
    -----
    Memory: 16 bytes per company, however many the walks.
    """

    layout: MoneyLayout
    walks: int
    returned: Array
    unfinished_of: Array
    steps: int
    hops: int | None
    confidence: float
    error: float

    @cached_property
    def hits(self) -> int:
        """Return how many walks came back to their payer."""
        return int(self.returned.sum())

    @cached_property
    def unfinished(self) -> int:
        """Return how many walks were given up at the horizon without knowing whether they return."""
        return int(self.unfinished_of.sum())

    @property
    def method(self) -> str:
        """Return the words for `Certified.method`."""
        limit = "" if self.hops is None else f" within {self.hops} hops"
        return f"{self.walks} seeded walks{limit}, Clopper-Pearson {self.confidence:.6g}"

    def round_trip(self) -> Certified:
        """Return the money of the whole graph that comes back to its payers, sum C_i, in minor units."""
        certain, laid = self.layout.certain, self.layout.laid
        if laid == 0 or self.walks == 0:
            return Certified.exact(certain, "exact: closed components and acyclic money only")
        low, high = _share_bounds(self.hits, self.unfinished, self.walks, self.confidence, self.error)
        value = certain + laid * (self.hits + self.unfinished / 2) / self.walks
        # Sums past 2^53 are rounded: the value must stay in its interval all the same.
        low_money, high_money = certain + laid * float(low), certain + laid * float(high)
        return Certified(value, min(low_money, value), max(high_money, value), self.method)

    def fraction(self) -> Certified:
        """Return the round-trip fraction RTF = sum C_i / W."""
        return _scaled(self.round_trip(), self.layout.graph.total)

    def finn(self) -> Certified:
        """Return the Finn cycling index FCI = sum C_i / sum T_i (Finn 1976)."""
        return _scaled(self.round_trip(), exact_sum(self.layout.graph.throughflow))

    def companies(self) -> tuple[Floats, Floats, Floats]:
        """Return round-trip money C_i of every company with its interval: value, low, high, float64 minor units.

        Each interval holds at the level of the sample for its company alone, not for all companies at once.

        Notes
        -----
        Walk r draws from the r-th of R equal strata of the money. "Walk r starts in a flow of i and returns" is an
        event whose probabilities, summed over the strata that touch the money of i, are C_i R / laid. So
        `clopper_pearson` bounds their mean with the number of touched strata, those shared with a neighbour included,
        as the number of draws.
        """
        layout = self.layout
        before = layout.to_host(layout.company_before)
        paid = np.diff(before).astype(np.float64)
        certain = np.zeros_like(paid)
        certain[layout.closed] = layout.closed_paid
        if self.walks == 0:
            return certain, certain.copy(), certain.copy()
        hits, unfinished = layout.to_host(self.returned), layout.to_host(self.unfinished_of)
        stratum = layout.laid / self.walks
        # Rounded outwards by more than the float error: one stratum too many only widens the interval.
        first = np.floor(before[:-1] / stratum * (1 - 2.0**-50))
        end = np.ceil(before[1:] / stratum * (1 + 2.0**-50))
        draws = np.maximum(end - first, 1)
        low, high = _share_bounds(hits, unfinished, draws, self.confidence, self.error)
        money = draws * stratum
        value = np.minimum((hits + unfinished / 2) * stratum, paid)
        low_money = np.minimum(money * low, value)
        high_money = np.where(paid > 0, np.maximum(np.minimum(money * high, paid), value), 0)
        return certain + value, certain + low_money, certain + high_money


def _scaled(figure: Certified, whole: int) -> Certified:
    """Divide an amount of money and its bounds by a whole, ends rounded outwards and kept within [0, 1]."""
    if whole == 0:
        return Certified.exact(0.0, "exact: no flow")
    value = min(figure.value / whole, 1.0)
    if figure.width == 0:
        return Certified.exact(value, figure.method)
    low, high = math.nextafter(figure.low / whole, 0), math.nextafter(figure.high / whole, 2)
    return Certified(value, min(low, value), max(min(high, 1.0), value), figure.method)


def _share_bounds(
    hits: npt.ArrayLike, unfinished: npt.ArrayLike, draws: npt.ArrayLike, confidence: float, error: float
) -> tuple[Floats, Floats]:
    """Bound mean return probabilities: unfinished walks are misses for the low end and hits for the high end."""
    low, _ = clopper_pearson(hits, draws, confidence)
    _, high = clopper_pearson(np.add(hits, unfinished), draws, confidence)
    return np.maximum(low - error, 0), np.minimum(high + error, 1)


def walk_sample(
    layout: MoneyLayout,
    walks: int,
    *,
    seed: int,
    table: AliasTable | None = None,
    walk_base: int = 0,
    hops: int | None = None,
    confidence: float = 0.99,
    threads: int | None = None,
) -> WalkTally:
    """Walk one stratified sample.

    Parameters
    ----------
    layout : MoneyLayout
        From `lay_money`, with the same `hops`.
    walks : int
        Size of the sample, below 2^31.
    seed : int
        Key of the generator, 0 <= seed < 2^64.
    table : AliasTable, optional
        Walk over it, many walks at a time. None: walk straight on the flows, without any rounding.
    walk_base : int
        Number of the first walk: samples with disjoint numbers are independent.
    hops : int, optional
        Count returns within so many hops only (the drawn flow is the first hop).
    confidence : float
        Level of the intervals that the tally will give.
    threads : int, optional
        Threads to use; results do not depend on it.

    Raises
    ------
    UsageError
        If there are too many walks.
    """
    if not 0 <= walks <= MOST_WALKS:
        raise UsageError(f"a sample has 0 to {MOST_WALKS} walks, not {walks}")
    size, last_step = walks if layout.laid else 0, _last_step(hops)
    counts = _twin(layout.graph).walk_all(
        layout, table, size, seed=seed, walk_base=walk_base, last_step=last_step, threads=threads
    )
    unfinished = counts.unfinished if hops is None else layout.graph.xp.zeros_like(counts.unfinished)
    error = 0.0 if table is None else last_step * table.error_per_step
    return WalkTally(layout, size, counts.returned, unfinished, counts.steps, hops, confidence, error)


def _last_step(hops: int | None) -> int:
    return (HORIZON if hops is None else hops) - 1


# ---- how many walks, and by which walker -----------------------------------------------------------------------------

_PILOT_SHARE, _MAIN_SHARE = 0.1, 0.8  # of the error level; each repetition takes half of what is left

# Nanoseconds per step or slot on one thread of a 2.7 GHz server core; only their ratios matter.
_PLAIN_STEP, _LOCKSTEP_STEP, _BUILD_SLOT = 110.0, 15.0, 45.0


def walk_returns(
    graph: FlowGraph | DeviceGraph,
    labels: Ids,
    *,
    seed: int,
    tolerance: float = 1e-3,
    confidence: float = 0.99,
    hops: int | None = None,
    walks: int | None = None,
    threads: int | None = None,
) -> WalkTally:
    """Sample the round-trip fraction to a tolerance, or with a given number of walks.

    Parameters
    ----------
    graph : FlowGraph or DeviceGraph
        n companies, m flows, int64 minor units. The walks are taken where it lies, and are the same everywhere.
    labels : int array of shape (n,), where the graph lies or on the host
        Strong component of each company.
    seed : int
        Key of the generator, 0 <= seed < 2^64. The result is a function of graph, settings and seed alone.
    tolerance : float
        Wanted distance from the fraction to either end of its interval.
    confidence : float
        Level of the interval, at least 0.5.
    hops : int, optional
        Count returns within so many hops only, at least 2.
    walks : int, optional
        Take one sample of so many walks, whatever interval it gives.
    threads : int, optional
        Threads to use; results do not depend on it.

    Returns
    -------
    WalkTally
        The last sample taken. Its interval may be wider than the tolerance only where walks were still unfinished after
        `HORIZON` hops, or where more than `MOST_WALKS` would have been needed.

    Raises
    ------
    UsageError
        If a setting is out of range.

    Notes
    -----
    A pilot says how many walks a sample needs; then a sample of its own is taken and used alone. So every interval is
    that of a sample whose size was fixed before it was drawn, and holds at its level given all that was drawn before.
    Looking at several samples and keeping the first that is narrow enough misses at most as often as all looks
    together: the pilot is given a tenth of the error level, the first sample eight tenths, each repetition half of
    what is left.

    Memory: that of `MoneyLayout` and `WalkTally`, and `AliasTable` where so many walks are needed that it pays.
    """
    _check_settings(seed, tolerance, confidence, hops, walks)
    layout = _twin(graph).lay_money(graph, labels, hops=hops, threads=threads)
    tables = _Tables(layout, threads)
    common: dict[str, Any] = {"seed": seed, "hops": hops, "threads": threads}
    if walks is not None:
        return walk_sample(layout, walks, table=tables.for_steps(2 * walks), confidence=confidence, **common)
    if layout.laid == 0:
        return walk_sample(layout, 0, confidence=confidence, **common)
    half_width = tolerance * graph.total / layout.laid
    taken, size, steps = 0, 0, 2.0
    share, unknown = 0.0, 0.0
    for level in _levels(confidence):
        size = max(_larger(size), int(draws_needed(share, half_width - unknown, level)))
        size = min(size, MOST_WALKS)
        tally = walk_sample(
            layout, size, table=tables.for_steps(size * steps), walk_base=taken, confidence=level, **common
        )
        low, high = _share_bounds(tally.hits, tally.unfinished, size, level, tally.error)
        share, unknown = tally.hits / size, tally.unfinished / size / 2
        if (
            max(high - share - unknown, share + unknown - low) <= half_width
            or unknown >= half_width
            or size == MOST_WALKS
        ):
            return tally
        taken, steps, share = taken + size, tally.steps / size, float(_cautious(tally.hits, size))
    raise AssertionError("the levels never end")


@dataclass(frozen=True, eq=False)
class SampledReturns:
    """Return fractions of some companies, each with the interval of walks that started at it.

    Attributes
    ----------
    companies : int64 array of shape (companies,)
    value, low, high : float64 arrays of shape (companies,)
        C_i / out_i (0 where nothing is paid) and its interval, which holds at the asked confidence for each company
        alone.
    walks : int64 array of shape (companies,)
        Walks of the sample that was used.
    """

    companies: Int64s
    value: Floats
    low: Floats
    high: Floats
    walks: Int64s


def walk_companies(
    graph: FlowGraph | DeviceGraph,
    labels: Ids,
    companies: npt.ArrayLike,
    *,
    seed: int,
    tolerance: float = 1e-3,
    confidence: float = 0.99,
    hops: int | None = None,
    threads: int | None = None,
) -> SampledReturns:
    """Sample the return fractions of some companies to a tolerance: walks from each of them alone.

    Parameters
    ----------
    graph, labels, seed, confidence, hops, threads
        As `walk_returns`.
    companies : int array
        Whose return fractions are wanted.
    tolerance : float
        Wanted distance from each fraction to either end of its interval.

    Raises
    ------
    UsageError
        If a setting is out of range or a company does not exist.

    Notes
    -----
    Pilot, sample and repetitions as in `walk_returns`. A fraction near 0 or 1 takes a few thousand walks at a
    tolerance of 1e-3, one near 1/2 takes 1.7 million: there `push_returns` is faster.

    Memory: that of `MoneyLayout` and `AliasTable`.
    """
    _check_settings(seed, tolerance, confidence, hops, None)
    chosen = np.asarray(companies, np.int64)
    if chosen.ndim != 1 or np.any((chosen < 0) | (chosen >= len(labels))):
        raise UsageError(f"companies must be a list of ids in 0..{len(labels) - 1}")
    twin, last_step = _twin(graph), _last_step(hops)
    layout = twin.lay_money(graph, labels, hops=hops, threads=threads)
    tables = _Tables(layout, threads)
    value, low, high = np.zeros(len(chosen)), np.zeros(len(chosen)), np.zeros(len(chosen))
    walks = np.zeros(len(chosen), np.int64)
    value[np.isin(chosen, layout.closed)] = low[np.isin(chosen, layout.closed)] = high[
        np.isin(chosen, layout.closed)
    ] = 1
    laid = layout.entries(layout.company_before, chosen + 1) - layout.entries(layout.company_before, chosen)
    inside = laid / np.maximum(layout.entries(graph.paid, chosen), 1)
    open_, taken, steps = np.flatnonzero(inside > 0), 0, 2.0
    share, unknown = np.zeros(len(chosen)), np.zeros(len(chosen))
    for level in _levels(confidence):
        if not open_.size:
            break
        wanted = np.maximum(tolerance / inside[open_] - unknown[open_], 1e-9)
        least = np.minimum(_larger(walks[open_]), MOST_WALKS)
        walks[open_] = np.clip(draws_needed(share[open_], wanted, level), least, MOST_WALKS)
        sizes = walks[open_]
        table = tables.for_steps(float(sizes.sum()) * steps)
        counts = twin.walk_each(
            layout, table, chosen[open_], sizes, seed=seed, walk_base=taken, last_step=last_step, threads=threads
        )
        hits, unfinished = counts.returned, counts.unfinished if hops is None else np.zeros_like(sizes)
        error = 0.0 if table is None else last_step * table.error_per_step
        bottom, top = _share_bounds(hits, unfinished, sizes, level, error)
        unknown[open_] = unfinished / sizes / 2
        middle = hits / sizes + unknown[open_]
        value[open_], low[open_], high[open_] = (inside[open_] * part for part in (middle, bottom, top))
        done = np.maximum(top - middle, middle - bottom) * inside[open_] <= tolerance
        done |= (unknown[open_] * inside[open_] >= tolerance) | (sizes == MOST_WALKS)
        share[open_] = _cautious(hits, sizes)
        taken, steps = taken + int(sizes.sum()), counts.steps / sizes.sum()
        open_ = open_[~done]
    return SampledReturns(chosen, value, low, np.minimum(high, 1), walks)


def _check_settings(seed: int, tolerance: float, confidence: float, hops: int | None, walks: int | None) -> None:
    if not 0 <= seed < 2**64:
        raise UsageError(f"seed must be in 0..2^64-1, got {seed}")
    if not tolerance > 0:
        raise UsageError(f"tolerance must be positive, got {tolerance}")
    if not 0.5 <= confidence < 1:
        raise UsageError(f"confidence must be in [0.5, 1), got {confidence}")
    if hops is not None and hops < 2:
        raise UsageError(f"hops must be at least 2 (there and back), got {hops}")
    if walks is not None and not 1 <= walks <= MOST_WALKS:
        raise UsageError(f"walks must be in 1..{MOST_WALKS}, got {walks}")


def _levels(confidence: float) -> Iterator[float]:
    """Yield the levels of pilot, sample and repetitions; their errors add up to that of `confidence` at most."""
    error = 1 - confidence
    yield 1 - _PILOT_SHARE * error
    share, left = _MAIN_SHARE, 1 - _PILOT_SHARE
    while True:
        yield 1 - share * error
        left -= share
        share = left / 2


def _larger(walks: Any) -> Any:
    """Return the least size of the sample after one that was not enough: it must not fall short by a hair for ever."""
    return walks + walks // 4


def _cautious(hits: npt.ArrayLike, walks: npt.ArrayLike) -> Floats:
    """Return the share of returns, two standard errors nearer to one half: the next sample should not fall short."""
    share = np.add(hits, 1.0) / np.add(walks, 2)
    spread = 2 * np.sqrt(share * (1 - share) / walks)
    return np.asarray(np.where(share < 0.5, np.minimum(share + spread, 0.5), np.maximum(share - spread, 0.5)))


class _Tables:
    """Builds the alias table once it is predicted to pay."""

    def __init__(self, layout: MoneyLayout, threads: int | None) -> None:
        self.layout, self.threads = layout, threads
        self.table: AliasTable | None = None
        self.possible = True

    def for_steps(self, steps: float) -> AliasTable | None:
        """Return the table if so many steps over it, building included, are predicted to be faster than without."""
        saved = steps * (_PLAIN_STEP - _LOCKSTEP_STEP)
        if self.table is None and self.possible and saved > len(self.layout.graph.payee) * _BUILD_SLOT:
            self.table = _twin(self.layout.graph).alias_table(self.layout, threads=self.threads)
            self.possible = self.table is not None
        return self.table
