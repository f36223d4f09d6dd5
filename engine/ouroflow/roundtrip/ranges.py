"""How far every figure moves when each amount may lie anywhere in its announced range, independently of the others.

Two answers stand side by side. The outer interval is proven: no choice of amounts leaves it. The attained ends are
found by a search: amounts that anybody can put in to get that round-trip fraction. The truth about each end lies
between the two.

The proof. The return fraction of a flow i -> j is the probability h_ij of hitting i from j. A company j passes money
on in the shares w_j / max(s_j, y_j + sum w_j), where w_j are its payments, y_j its known external outflow and s_j
what it receives. Every w is free in its range, and s_j is taken as free between its own extremes, though it depends
on the others' payments: that is the only relaxation. What remains is a Markov decision problem (Givan, Leach & Dean
2000, bounded-parameter Markov decision processes): the operator F that gives every company its best row bounds the
operator of every choice of amounts from above, and with the worst row from below. The best row is a linear-fractional
program over a box, solved by filling the payments in the order of h. F is monotone, so

- any g >= 0 with F^n(g) <= g for some n is above the hitting probabilities of every choice, and
- any g with F^n(g) >= g is below them, if it is zero wherever the root cannot be reached along flows whose low is
  positive (elsewhere the root is hit with a positive probability under every choice: no walk stays away for ever).

Policy iteration finds g, and only this check is believed. Where it fails, F is iterated from 1 (from 0), a bound at
any step.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ouroflow.certified import Certified
from ouroflow.errors import InputError, UsageError
from ouroflow.graph import INT64_MAX, exact_sum
from ouroflow.roundtrip.brackets import Brackets

if TYPE_CHECKING:
    from ouroflow.components import Components
    from ouroflow.graph import FlowGraph
    from ouroflow.ledger.schema import Ledger
    from ouroflow.roundtrip import RoundTrip

Floats = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Bounds = tuple[Floats, Floats]

METHOD = "exact at the stated amounts; interval proven over all amounts between their low and high"

MOST_COMPANIES = 300
"""In components of two companies or more; beyond it the dense systems take minutes."""
MOST_RANGED = 500
"""Flows with a range."""
MOST_FLOWS = 1_000_000
"""Flows in all: the search keeps some twenty choices of all amounts."""

SLACK = 1e-9
"""Every end is moved outwards by this share of itself, far more than rounding can add up to."""
_ROUNDING = 1e-13
"""Added at every application of F in a proof: more than the rounding of sums of `MOST_COMPANIES` terms of one sign."""
_MARGINS = (5e-10, 1e-7, 1e-5)
"""By how much the solution of the decision problem is moved outwards before it is proven, the least that works."""
_POLICY_STEPS = 40
"""Far more than policy iteration takes (about five); a loop for ever would be worse than a loose bound."""
_SWEEPS = 400
"""Steps of F from 1 or 0 where the proof fails; the bound holds after any number."""
_PANEL = 4_000_000
"""Entries of the dense systems that are solved in one call."""
_MIXING_STEPS = 300
"""Of the subgradient method that tightens the netting bounds; any number gives a bound."""
_SEARCH_ROUNDS = 30
_SEARCH_WORK = 40_000_000
"""Flows times squared companies times starts: what a round of the search may cost."""
_LEAK = 1e-9
"""Of the throughflow: keeps the systems of the search regular where a component is balanced. Not in reported values."""
_REGULAR = 1e-12
"""Least factor by which one step of the search may change the determinant of its system."""
_NOTHING = 1e-100
"""Stands for the outflow of a set of companies that nothing leaves."""


@dataclass(frozen=True, eq=False)
class FlowRanges:
    """The announced range of every flow: the sums of the lows and of the highs of its payments.

    Attributes
    ----------
    low, high : int64 array of shape (flows,)
        Minor units, ``0 <= low <= amount <= high``, in the order of the graph's flows.
    """

    low: Int64s
    high: Int64s


@dataclass(frozen=True, eq=False)
class Scenario:
    """One choice of amounts and the round-trip fraction that it gives.

    Attributes
    ----------
    amount : int64 array of shape (flows,)
        Minor units, each between its low and its high, in the order of the graph's flows. 0: the flow is not there.
    fraction : float
        RTF of exactly these amounts.
    """

    amount: Int64s
    fraction: float


@dataclass(frozen=True, eq=False)
class RangedReturns:
    """Every figure of the round-trip room with an interval that holds for every choice of amounts in their ranges.

    Attributes
    ----------
    fraction, finn : Certified
        RTF and Finn cycling index: the value at the stated amounts, the interval over the ranges.
    brackets : Brackets
        The same for netting, intra-component and bilateral fraction. The bilateral interval is exact, and so is the
        high end of the intra-component fraction.
    round_trip_low, round_trip_high : float64 array of shape (companies,)
        Of C_i, minor units. What a company pays varies too: dividing these by the stated payments does not bound a
        fraction.
    return_fraction_low, return_fraction_high : float64 array of shape (companies,)
        Of C_i / paid, over all choices in which the company pays anything; NaN where it never does.
    self_funded_low, self_funded_high : float64 array of shape (companies,)
        Of C_i / received, over all choices in which the company receives anything; NaN where it never does.
    attained_low, attained_high : Scenario
        The choices with the lowest and the highest RTF that a search found; not proven to be the extremes.
    """

    fraction: Certified
    finn: Certified
    brackets: Brackets
    round_trip_low: Floats
    round_trip_high: Floats
    return_fraction_low: Floats
    return_fraction_high: Floats
    self_funded_low: Floats
    self_funded_high: Floats
    attained_low: Scenario
    attained_high: Scenario


def flow_ranges(ledger: Ledger, graph: FlowGraph) -> FlowRanges | None:
    """Sum the announced ranges of the payments into ranges of the flows, exactly.

    Parameters
    ----------
    ledger : Ledger
        Payments with `low` and `high`.
    graph : FlowGraph
        The graph of this ledger.

    Returns
    -------
    FlowRanges or None
        None when the ledger has no ranges, or none whose ends differ.

    Raises
    ------
    InputError
        If the highs sum past int64.
    """
    if ledger.low is None or ledger.high is None or not (ledger.low < ledger.high).any():
        return None
    external = max((exact_sum(known) for known in (graph.inflow, graph.outflow) if known is not None), default=0)
    if (total := exact_sum(ledger.high) + external) > INT64_MAX:
        raise InputError(
            f"the highs of the announced ranges sum up to {total} minor units, more than int64 holds ({INT64_MAX}): "
            "use a coarser unit (fewer decimals)"
        )
    others = ledger.payer != ledger.payee
    key = ledger.payer[others].astype(np.int64) * graph.companies + ledger.payee[others]
    flow = np.searchsorted(_flow_keys(graph), key)
    low, high = np.zeros((2, graph.flows), np.int64)
    np.add.at(low, flow, ledger.low[others])
    np.add.at(high, flow, ledger.high[others])
    return FlowRanges(low, high) if (low < high).any() else None


def out_of_scope(components: Components, ranges: FlowRanges) -> str | None:
    """Return why :func:`ranged` does not bound figures of this size, for the user to read; None where it does."""
    companies = int(components.sizes[: components.nontrivial].sum())
    flows = int(np.count_nonzero(ranges.low < ranges.high))
    in_all = ranges.low.size
    if companies > MOST_COMPANIES:
        found = f"{companies:,} companies are in components of two or more; at most {MOST_COMPANIES:,} are"
    elif flows > MOST_RANGED:
        found = f"{flows:,} flows have a range; at most {MOST_RANGED:,} are"
    elif in_all > MOST_FLOWS:
        found = f"there are {in_all:,} flows; at most {MOST_FLOWS:,} are"
    else:
        return None
    return f"no interval over the announced ranges: {found} bounded in this version"


def ranged(graph: FlowGraph, components: Components, roundtrip: RoundTrip, ranges: FlowRanges) -> RangedReturns:
    """Bound every figure over all amounts between their low and high, each chosen independently of the others.

    Parameters
    ----------
    graph : FlowGraph
        n companies, m flows at the stated amounts, int64 minor units; known external flows stay as they are.
    components : Components
        Strong components of `graph`.
    roundtrip : RoundTrip
        The figures at the stated amounts, over round trips of any length.
    ranges : FlowRanges
        Of every flow of `graph`.

    Returns
    -------
    RangedReturns
        Every interval holds the value at the stated amounts. Deterministic.

    Raises
    ------
    UsageError
        If :func:`out_of_scope` gives a reason, or the ranges are not of this graph.

    Notes
    -----
    With k companies in components of two or more and f ranged flows: O(k^4) in LAPACK for each of about five steps of
    policy iteration, four times (above, below, money followed forwards and backwards), and O(f k) per choice that the
    search tries. Measured on one core: 50 ms for ai-deals (10 companies, 20 ranged flows), 5 s for 150 and 250, half a
    minute for 300 and 500.
    """
    if (reason := out_of_scope(components, ranges)) is not None:
        raise UsageError(reason)
    if (
        ranges.low.shape != graph.amount.shape
        or not ((ranges.low <= graph.amount) & (graph.amount <= ranges.high)).all()
    ):
        raise UsageError("the ranges do not hold the amounts of this graph: pass flow_ranges of the same ledger")
    box = _Box.of(graph, components, ranges)
    forward, backward = _Returns.of(box), _Returns.of(box.reversed())
    netting, inside = _netting_bounds(graph, box), _inside_bounds(box)
    low, high = _fraction_bounds(box, forward, backward)
    # Proven for every choice: FCI <= RTF <= mu* <= min(netting, intra-component).
    fraction = low, min(high, netting[1], inside[1])
    netting, inside = (max(netting[0], low), netting[1]), (max(inside[0], low), inside[1])
    finn = _finn_bounds(graph, box, forward, backward, fraction, netting)
    central = roundtrip.brackets
    money = _money_bounds(box, forward, backward)
    returned, funded = _share_bounds(forward, money, box), _share_bounds(backward, money, box.reversed())
    at_stated = roundtrip.companies
    round_trip = _everywhere(graph, box, money, (at_stated.low, at_stated.high))
    stated_share = [_over(at_stated.round_trip, whole.astype(np.float64)) for whole in (graph.paid, graph.received)]
    ever_paid, ever_received = _sums_by_company(graph, ranges.high)
    return_fraction = _everywhere(graph, box, returned, (stated_share[0], stated_share[0]), ever_paid > 0, most=1.0)
    self_funded = _everywhere(graph, box, funded, (stated_share[1], stated_share[1]), ever_received > 0, most=1.0)
    attained_low, attained_high = _attained(box, graph.amount)
    return RangedReturns(
        _certified(roundtrip.fraction, fraction),
        _certified(roundtrip.finn, finn),
        Brackets(
            netting=_certified(central.netting, netting),
            intra_component=_certified(central.intra_component, inside),
            bilateral=_certified(central.bilateral, _bilateral_bounds(graph, box)),
        ),
        *round_trip,
        *return_fraction,
        *self_funded,
        attained_low,
        attained_high,
    )


# ---- the box of amounts ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Box:
    """The flows with their ranges, as the companies in components of two or more (the members) see them.

    Attributes
    ----------
    company : int64 array of shape (members,)
        Company ids.
    component : array of shape (members,)
        Label of each member.
    payer, payee : int64 array of shape (flows,)
        Position of a member; `members` for every other company.
    inside : bool array of shape (flows,)
        Both ends lie in one component: only this money can come back, at any choice, for no flow can appear.
    low, high : int64 array of shape (flows,)
    inflow, outflow : int64 array of shape (members,)
        Known external flows.
    """

    company: Int64s
    component: npt.NDArray[Any]
    payer: Int64s
    payee: Int64s
    inside: Mask
    low: Int64s
    high: Int64s
    inflow: Int64s
    outflow: Int64s

    @classmethod
    def of(cls, graph: FlowGraph, components: Components, ranges: FlowRanges) -> _Box:
        """Number the members and translate the flows."""
        company = np.flatnonzero(components.labels < components.nontrivial)
        position = np.full(graph.companies, company.size)
        position[company] = np.arange(company.size)
        payer, payee = position[graph.payer], position[graph.payee]
        inside = (components.labels[graph.payer] == components.labels[graph.payee]) & (payer < company.size)
        known = [np.zeros(company.size, np.int64) if x is None else x[company] for x in (graph.inflow, graph.outflow)]
        return cls(
            company, components.labels[company], payer, payee, inside, ranges.low, ranges.high, known[0], known[1]
        )

    def reversed(self) -> _Box:
        """Return the box with every payment turned around: what is paid from there is received from here."""
        return _Box(
            self.company, self.component, self.payee, self.payer, self.inside,
            self.low, self.high, self.outflow, self.inflow,
        )  # fmt: skip

    @property
    def members(self) -> int:
        """Number of companies in components of two or more."""
        return self.company.size

    @property
    def free(self) -> Int64s:
        """Flows whose ends differ."""
        return np.flatnonzero(self.low < self.high)

    def sums(self, position: Int64s, amount: Int64s) -> Int64s:
        """Add amounts by payer or payee; shape (members,)."""
        total = np.zeros(self.members + 1, np.int64)
        np.add.at(total, position, amount)
        return total[:-1]


def _flow_keys(graph: FlowGraph) -> Int64s:
    return graph.payer.astype(np.int64) * graph.companies + graph.payee


def _sums_by_company(graph: FlowGraph, amount: Int64s) -> tuple[Int64s, Int64s]:
    """Return what every company pays and what it receives at these amounts."""
    paid, received = np.zeros((2, graph.companies), np.int64)
    np.add.at(paid, graph.payer, amount)
    np.add.at(received, graph.payee, amount)
    return paid, received


def _extreme_mean(
    value: Floats, span: Floats, base: npt.ArrayLike, total: npt.ArrayLike, floor: npt.ArrayLike, upper: bool
) -> tuple[Floats, Floats]:
    """Maximise (or minimise) (base + sum x value) / max(floor, total + sum x) over 0 <= x <= span.

    For a given sum of x the best x fills the largest values first. Along that order the quotient is monotone between
    the ends of the entries and the point where the sum meets the floor, so one of those is the best. A quotient
    without denominator does not count.

    Parameters
    ----------
    value, span : float64 array of shape (..., entries)
    base, total, floor : float64 of shape (...)

    Returns
    -------
    extreme : float64 array of shape (...)
    x : float64 array of shape (..., entries)
    """
    order = np.argsort(-value if upper else value, axis=-1, kind="stable")
    span_in_order = np.take_along_axis(np.broadcast_to(span, value.shape), order, -1)
    value_in_order = np.take_along_axis(value, order, -1)
    base, total, floor = (np.asarray(x, np.float64)[..., None] for x in (base, total, floor))
    filled = np.concatenate([np.zeros((*value.shape[:-1], 1)), np.cumsum(span_in_order, -1)], -1)
    gained = base + np.concatenate([np.zeros_like(filled[..., :1]), np.cumsum(span_in_order * value_in_order, -1)], -1)
    meets = np.clip(floor - total, 0, filled[..., -1:])
    at_floor = base + (np.clip(meets - filled[..., :-1], 0, span_in_order) * value_in_order).sum(-1, keepdims=True)
    level, gained = np.concatenate([filled, meets], -1), np.concatenate([gained, at_floor], -1)
    whole = np.maximum(floor, total + level)
    quotient = np.divide(gained, whole, out=np.full(level.shape, -np.inf if upper else np.inf), where=whole > 0)
    best = (quotient.argmax(-1) if upper else quotient.argmin(-1))[..., None]
    taken = np.clip(np.take_along_axis(level, best, -1) - filled[..., :-1], 0, span_in_order)
    x = np.empty_like(taken)
    np.put_along_axis(x, order, taken, -1)
    return np.take_along_axis(quotient, best, -1)[..., 0], x


# ---- hitting probabilities over the box ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Rows:
    """What every member does with the money it has, over the box; float64, minor units.

    Attributes
    ----------
    low : shape (members, members)
        Least payments inside components.
    total : shape (members,)
        Least sum of all payments, and the known external outflow.
    outflow : shape (members,)
        The known external outflow alone.
    received_low, received_high : shape (members,)
        Extremes of what comes in, known external inflow included.
    ranged : shape (rows,)
        Members with a payment that has a range.
    payee, span : shape (rows, entries)
        Those payments: whom (`members` outside the component, and where the row is shorter) and high - low.
    """

    low: Floats
    total: Floats
    outflow: Floats
    received_low: Floats
    received_high: Floats
    ranged: Int64s
    payee: Int64s
    span: Floats

    @classmethod
    def of(cls, box: _Box) -> _Rows:
        """Collect the rows of a box."""
        k = box.members
        low = np.zeros((k, k))
        low[box.payer[box.inside], box.payee[box.inside]] = box.low[box.inside]
        free = box.free[box.payer[box.free] < k]
        free = free[np.argsort(box.payer[free], kind="stable")]
        ranged, start, length = np.unique(box.payer[free], return_index=True, return_counts=True)
        row = np.repeat(np.arange(ranged.size), length)
        entry = np.arange(free.size) - np.repeat(start, length)
        shape = ranged.size, int(length.max(initial=0))
        payee, span = np.full(shape, k), np.zeros(shape)
        payee[row, entry] = np.where(box.inside[free], box.payee[free], k)
        span[row, entry] = box.high[free] - box.low[free]
        received_low, received_high = (box.sums(box.payee, x) + box.inflow for x in (box.low, box.high))
        return cls(
            low=low,
            total=(box.sums(box.payer, box.low) + box.outflow).astype(np.float64),
            outflow=box.outflow.astype(np.float64),
            received_low=received_low.astype(np.float64),
            received_high=received_high.astype(np.float64),
            ranged=ranged,
            payee=payee,
            span=span,
        )

    def extreme(self, hits: Floats, upper: bool) -> tuple[Floats, Floats, Floats]:
        """Apply F: the best (or worst) chance of a hit that each member has after its next payment.

        Parameters
        ----------
        hits : float64 array of shape (roots, members)

        Returns
        -------
        after : float64 array of shape (roots, members)
        taken : float64 array of shape (roots, rows, entries)
            What the best rows pay above the low.
        whole : float64 array of shape (roots, members)
            The denominators of the best rows.
        """
        floor = self.received_low if upper else self.received_high
        gained = hits @ self.low.T
        whole = np.broadcast_to(np.maximum(floor, self.total), hits.shape).copy()
        after = _over(gained, whole)
        after_ranged, taken = _extreme_mean(
            _with_outside(hits)[:, self.payee], self.span, gained[:, self.ranged],
            self.total[self.ranged], floor[self.ranged], upper,
        )  # fmt: skip
        after[:, self.ranged] = after_ranged
        whole[:, self.ranged] = np.maximum(floor[self.ranged], self.total[self.ranged] + taken.sum(-1))
        return after, taken, whole

    def of_roots(self, hits: Floats, total: Floats, floor: Floats, upper: bool) -> Floats:
        """Return the extreme of sum w_ij h_ij / max(floor_i, total_i + ...) of each member i as its own root."""
        gained = (self.low * hits).sum(1)
        mean = _over(gained, np.maximum(floor, total))
        value = _with_outside(hits)[self.ranged[:, None], self.payee]
        mean[self.ranged] = _extreme_mean(
            value, self.span, gained[self.ranged], total[self.ranged], floor[self.ranged], upper
        )[0]
        return mean


def _over(part: Floats, whole: Floats) -> Floats:
    """Divide, with 0 where there is nothing to divide by."""
    return np.divide(part, whole, out=np.zeros(np.broadcast_shapes(part.shape, whole.shape)), where=whole > 0)


def _with_outside(hits: Floats) -> Floats:
    """Add the column of money that has left its component: it hits nobody."""
    return np.concatenate([hits, np.zeros((len(hits), 1))], 1)


def _hit_bounds(rows: _Rows, component: npt.NDArray[Any]) -> Bounds:
    """Bound h[i, j], the probability that money at j comes to i, over the box; shape (members, members) each."""
    together = component[:, None] == component
    np.fill_diagonal(together, False)
    firm = _reach(rows.low > 0).T & together
    panel = max(1, _PANEL // max(1, together.size))
    ends = []
    for open_, upper in ((firm, False), (together, True)):
        parts = [
            _proven_hits(rows, open_, np.arange(i, min(i + panel, len(open_))), upper)
            for i in range(0, len(open_), panel)
        ]
        ends.append(np.concatenate(parts) if parts else np.zeros((0, 0)))
    return ends[0], ends[1]


def _reach(step: Mask) -> Mask:
    """Return who can be reached from whom, along any number of steps."""
    reached = (step | np.eye(len(step), dtype=bool)).astype(np.float32)
    for _ in range(len(step).bit_length()):
        reached = (reached @ reached > 0).astype(np.float32)
    return reached > 0


def _proven_hits(rows: _Rows, open_: Mask, roots: Int64s, upper: bool) -> Floats:
    """Return a proven bound of the hitting probabilities of some roots; shape (roots, members).

    `open_` marks the members whose probability is not known beforehand: the root has 1, the others 0.
    """
    unknown = open_[roots]
    solution = _policy_iteration(rows, unknown, roots, upper)
    bound, missing = np.zeros_like(solution), np.arange(len(roots))
    for margin in _MARGINS:
        moved = np.where(unknown, np.minimum(1, solution * (1 + margin if upper else 1 - margin)), solution)[missing]
        holds = _is_bound(rows, unknown[missing], moved, upper)
        bound[missing[holds]] = moved[holds]
        missing = missing[~holds]
        if not missing.size:
            return bound
    bound[missing] = _swept(rows, unknown[missing], solution[missing], upper)
    return bound


def _outward_step(rows: _Rows, unknown: Mask, hits: Floats, upper: bool) -> Floats:
    """Apply F and move the result outwards by more than its rounding."""
    after = rows.extreme(hits, upper)[0] * (1 + _ROUNDING if upper else 1 - _ROUNDING)
    return np.where(unknown, np.minimum(1, after), hits)


def _is_bound(rows: _Rows, unknown: Mask, hits: Floats, upper: bool) -> Mask:
    """Return for which roots F^n moves no entry outwards, for some n: the proof of a bound."""
    proven = np.zeros(len(hits), bool)
    moved = hits
    for _ in range(2 * hits.shape[1] + 20):
        moved = _outward_step(rows, unknown, moved, upper)
        proven |= (moved <= hits if upper else moved >= hits).all(1)
        if proven.all():
            break
    return proven


def _swept(rows: _Rows, unknown: Mask, solution: Floats, upper: bool) -> Floats:
    """Iterate F from 1 (or 0): a bound after any number of steps."""
    bound = np.where(unknown, 1.0 if upper else 0.0, solution)
    for _ in range(_SWEEPS):
        moved = _outward_step(rows, unknown, bound, upper)
        still = np.abs(moved - bound).max() < 1e-12
        bound = moved
        if still:
            break
    return bound


def _policy_iteration(rows: _Rows, unknown: Mask, roots: Int64s, upper: bool) -> Floats:
    """Solve the decision problem, from below for the maximum and from above for the minimum; not proven here."""
    towards = np.maximum if upper else np.minimum
    hits = np.where(unknown, 0.0 if upper else 1.0, 0.0)
    hits[np.arange(len(roots)), roots] = 1
    for _ in range(_POLICY_STEPS):
        after, taken, whole = rows.extreme(hits, upper)
        solved = _policy_value(rows, unknown, roots, taken, whole)
        better = np.where(unknown, towards(hits, towards(after, solved)), hits)
        moved = np.abs(better - hits) > 1e-13 * better
        hits = better
        if not moved.any():
            break
    return hits


def _policy_value(rows: _Rows, unknown: Mask, roots: Int64s, taken: Floats, whole: Floats) -> Floats:
    """Solve for the hitting probabilities when every member pays as chosen; shape (roots, members)."""
    count, k = unknown.shape
    paid = np.zeros((count, k, k + 1))
    paid[:, :, :k] = rows.low
    paid[:, rows.ranged[:, None], rows.payee] += taken
    # The factor keeps a closed circle that misses the root regular: nothing arrives from it, so its probability is 0.
    share = _over(paid[:, :, :k], whole[:, :, None]) * ((1 - 1e-14) * unknown[:, :, None])
    arrived = np.zeros((count, k, 1))
    arrived[np.arange(count), roots] = 1
    return np.clip(np.linalg.solve(np.eye(k) - share, arrived)[:, :, 0], 0, 1)


# ---- figures ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Returns:
    """Bounds of what comes back, with the money followed in one direction; (low, high) pairs.

    Attributes
    ----------
    flow : shape (flows,)
        Return fraction of each flow, 0 between components.
    of_paid : shape (members,)
        C_i / paid, where anything is paid.
    of_throughflow : shape (members,)
        C_i / T_i.
    """

    flow: Bounds
    of_paid: Bounds
    of_throughflow: Bounds

    @classmethod
    def of(cls, box: _Box) -> _Returns:
        """Bound the returns of every flow and member of a box."""
        rows = _Rows.of(box)
        low, high = _hit_bounds(rows, box.component)
        flow = np.zeros((2, box.inside.size))
        for end, hits in zip(flow, (low, high), strict=True):
            end[box.inside] = hits[box.payer[box.inside], box.payee[box.inside]]
        paid, nothing = rows.total - rows.outflow, np.zeros(box.members)
        return cls(
            (flow[0], flow[1]),
            (rows.of_roots(low, paid, nothing, False), rows.of_roots(high, paid, nothing, True)),
            (
                rows.of_roots(low, rows.total, rows.received_high, False),
                rows.of_roots(high, rows.total, rows.received_low, True),
            ),
        )


def _fraction_bounds(box: _Box, forward: _Returns, backward: _Returns) -> tuple[float, float]:
    """Bound RTF = sum w_e r_e / sum w_e, the better of the two directions."""
    free = box.free
    span, total = (box.high - box.low)[free].astype(np.float64), float(exact_sum(box.low))
    ends: list[list[float]] = [[], []]
    for returns in (forward, backward):
        for upper, value in enumerate(returns.flow):
            mean, _ = _extreme_mean(value[free], span, box.low @ value, total, 0.0, bool(upper))
            ends[upper].append(float(mean))
    # Where nothing need be paid at all, the fraction counts as 0.
    return (max(ends[0]) if total else 0.0), max(0.0, min(ends[1]))


def _money_bounds(box: _Box, forward: _Returns, backward: _Returns) -> Bounds:
    """Bound C_i = sum of what is paid (or received) times its return fraction; shape (members,)."""
    lows, highs = [], []
    for position, returns in ((box.payer, forward), (box.payee, backward)):
        bins = {"minlength": box.members + 1}
        lows.append(np.bincount(position, box.low * returns.flow[0], **bins)[:-1])
        highs.append(np.bincount(position, box.high * returns.flow[1], **bins)[:-1])
        highs.append(box.sums(position, box.high).astype(np.float64))
    return np.maximum.reduce(lows), np.minimum.reduce(highs)


def _share_bounds(returns: _Returns, money: Bounds, box: _Box) -> Bounds:
    """Bound C_i / paid of a box, also by the money alone; shape (members,)."""
    least, most = (box.sums(box.payer, x).astype(np.float64) for x in (box.low, box.high))
    by_money = np.divide(money[1], least, out=np.full(box.members, np.inf), where=least > 0)
    return np.maximum(returns.of_paid[0], _over(money[0], most)), np.minimum(returns.of_paid[1], by_money)


def _finn_bounds(
    graph: FlowGraph,
    box: _Box,
    forward: _Returns,
    backward: _Returns,
    fraction: tuple[float, float],
    netting: tuple[float, float],
) -> tuple[float, float]:
    """Bound FCI = sum C_i / sum T_i, as a mean of C_i / T_i and, with the implied boundary, as RTF / (2 - netting)."""
    extremes = []
    for amount in (box.low, box.high):
        paid, received = _sums_by_company(graph, amount)
        if graph.inflow is not None and graph.outflow is not None:
            paid, received = paid + graph.outflow, received + graph.inflow
        extremes.append(np.maximum(paid, received).astype(np.float64))
    others = np.ones(graph.companies, bool)
    others[box.company] = False
    # All companies that nothing comes back to are one more entry.
    weight = [np.append(extreme[box.company], extreme[others].sum()) for extreme in extremes]
    ends = []
    for upper, (one, other) in enumerate(zip(forward.of_throughflow, backward.of_throughflow, strict=True)):
        rho = np.append(np.minimum(one, other) if upper else np.maximum(one, other), 0.0)
        mean, _ = _extreme_mean(rho, weight[1] - weight[0], weight[0] @ rho, weight[0].sum(), 0.0, bool(upper))
        ends.append(float(mean))
    low, high = (ends[0] if weight[0].any() else 0.0), min(max(0.0, ends[1]), fraction[1])
    if graph.inflow is None:
        low, high = max(low, fraction[0] / (2 - netting[0])), min(high, fraction[1] / (2 - netting[1]))
    return low, high


def _inside_bounds(box: _Box) -> tuple[float, float]:
    """Bound the share of the money that is paid inside strong components.

    The high end is exact. For the low end only flows inside components that stand without any flow that may vanish
    count: every choice has at least those flows, so its components are at least as large.
    """
    linked = np.zeros((box.members, box.members), bool)
    firm = box.inside & (box.low > 0)
    linked[box.payer[firm], box.payee[firm]] = True
    reach = _reach(linked)
    stands = box.inside.copy()
    stands[box.inside] = (reach & reach.T)[box.payer[box.inside], box.payee[box.inside]]
    least = exact_sum(box.low[stands])
    most = exact_sum(box.high[box.inside])
    low = Fraction(least, whole) if (whole := least + exact_sum(box.high[~stands])) else Fraction(0)
    high = Fraction(most, whole) if (whole := most + exact_sum(box.low[~box.inside])) else Fraction(0)
    return float(low), float(high)


def _bilateral_bounds(graph: FlowGraph, box: _Box) -> tuple[float, float]:
    """Return the exact range of beta = 2 sum min(w_ij, w_ji) / W, the sum over pairs of companies.

    Largest: in every pair both payments as high as the smaller high, no payment higher than it must be. Smallest: a
    pair adds 2 min(x, y) - beta (x + y), concave in both payments, so one of its four corners is the worst;
    Dinkelbach (1967) finds beta.
    """
    key = _flow_keys(graph)
    at = np.searchsorted(key, graph.payee.astype(np.int64) * graph.companies + graph.payer)
    at[at == key.size] = 0
    mutual = (key[at] == graph.payee.astype(np.int64) * graph.companies + graph.payer) & (graph.payer < graph.payee)
    alone = np.ones(key.size, bool)
    alone[mutual], alone[at[mutual]] = False, False
    there, back = np.flatnonzero(mutual), at[mutual]
    common = np.minimum(box.high[there], box.high[back])
    most = 2 * exact_sum(common)
    others = exact_sum(box.low[alone])
    whole = exact_sum(np.maximum(box.low[there], common)) + exact_sum(np.maximum(box.low[back], common)) + others
    high = Fraction(most, whole) if whole else Fraction(0)
    fixed = (box.low[there] == box.high[there]) & (box.low[back] == box.high[back])
    base_met = 2 * exact_sum(common[fixed])
    base_whole = exact_sum(box.high[there][fixed]) + exact_sum(box.high[back][fixed]) + exact_sum(box.high[alone])
    corner = np.array(
        [
            [first[there][~fixed], second[back][~fixed]]
            for first in (box.low, box.high)
            for second in (box.low, box.high)
        ],
        dtype=object,
    )  # Python integers: the products below pass int64.
    met, paid = 2 * corner.min(1), corner.sum(1)
    low, pairs = high, np.arange(met.shape[1])
    while True:
        worst = (met * low.denominator - paid * low.numerator).argmin(0) if pairs.size else pairs
        whole = base_whole + int(paid[worst, pairs].sum())
        lower = Fraction(base_met + int(met[worst, pairs].sum()), whole) if whole else Fraction(0)
        if lower >= low:
            return float(low), float(high)
        low = lower


def _netting_bounds(graph: FlowGraph, box: _Box) -> tuple[float, float]:
    """Bound the netting fraction sum min(in_i, out_i) / W.

    Above, min(in, out) is at most any mixture of in and out; the best mixture gives the exact maximum, and any
    mixture a bound. Below, min is concave, and over the rectangle of a company's extremes it is at least either plane
    of its convex envelope.
    """
    free = box.free
    paid_low, received_low = _sums_by_company(graph, box.low)
    paid_high, received_high = _sums_by_company(graph, box.high)
    touched, ends = np.unique(np.concatenate([graph.payer[free], graph.payee[free]]), return_inverse=True)
    payer, payee = ends[: free.size], ends[free.size :]
    left = np.ones(graph.companies, bool)
    left[touched] = False
    elsewhere = float(exact_sum(np.minimum(paid_low, received_low)[left]))
    total = exact_sum(box.low)
    extremes = [x[touched] for x in (received_low, received_high, paid_low, paid_high)]
    in_low, in_high, out_low, out_high = (x.astype(np.float64) for x in extremes)
    # In integers: their differences are small beside them.
    corner = {(x, y): np.minimum(extremes[x], extremes[2 + y]) for x in (0, 1) for y in (0, 1)}
    # Planes: value where all is low, slope in what is received, slope in what is paid.
    one, nought = np.ones(touched.size), np.zeros(touched.size)
    above = np.array([[in_low, one, nought], [out_low, nought, one]])
    width, height = in_high - in_low, out_high - out_low
    below = np.array(
        [
            [corner[0, 0], _over(corner[1, 0] - corner[0, 0], width), _over(corner[0, 1] - corner[0, 0], height)],
            [
                corner[0, 1] - corner[1, 1] + corner[1, 0],
                _over(corner[1, 1] - corner[0, 1], width),
                _over(corner[1, 1] - corner[1, 0], height),
            ],
        ]
    )
    share = np.where(in_high <= out_low, 1.0, np.where(out_high <= in_low, 0.0, 0.5))
    span = (box.high - box.low)[free].astype(np.float64)
    high = _best_mixture(above, share, payer, payee, span, elsewhere, float(total), True)
    low = _best_mixture(below, np.full(touched.size, 0.5), payer, payee, span, elsewhere, float(total), False)
    return (max(0.0, low) if total else 0.0), min(1.0, high)


def _best_mixture(
    planes: Floats, share: Floats, payer: Int64s, payee: Int64s, span: Floats, base: float, total: float, upper: bool
) -> float:
    """Return the best bound that mixtures of two planes per company give, by projected subgradient steps.

    Parameters
    ----------
    planes : float64 array of shape (2, 3, companies)
    share : float64 array of shape (companies,)
        Of the first plane, to start with.
    """
    first, second = planes
    best = np.inf if upper else -np.inf
    for step in range(_MIXING_STEPS):
        constant, received, paid = share * first + (1 - share) * second
        mean, x = _extreme_mean(received[payee] + paid[payer], span, base + constant.sum(), total, 0.0, upper)
        best = min(best, float(mean)) if upper else max(best, float(mean))
        gained = [np.bincount(position, x, share.size) for position in (payee, payer)]
        slope = ((first - second) * np.array([np.ones(share.size), *gained])).sum(0)
        movable = np.where(slope > 0, share > 0, share < 1) if upper else np.where(slope > 0, share < 1, share > 0)
        steepest = np.abs(slope[movable]).max(initial=0.0)
        if steepest == 0:
            break
        stride = (-0.5 if upper else 0.5) / np.sqrt(step + 1)
        share = np.clip(share + stride * np.clip(slope / steepest, -1, 1), 0, 1)
    return best


def _certified(stated: Certified, bounds: tuple[float, float]) -> Certified:
    """Widen a bound by the slack, keep it a fraction, and let it hold the value at the stated amounts."""
    low = min(max(0.0, bounds[0] * (1 - SLACK) - 1e-15), stated.low)
    high = max(min(1.0, bounds[1] * (1 + SLACK) + 1e-15), stated.high)
    return Certified(stated.value, low, high, METHOD)


def _everywhere(
    graph: FlowGraph, box: _Box, bounds: Bounds, stated: Bounds, defined: Mask | None = None, most: float = np.inf
) -> Bounds:
    """Spread bounds of the members over all companies (0 for the others), widened, with the stated value in them."""
    ends = []
    for bound, value, slack, hull in zip(bounds, stated, (1 - SLACK, 1 + SLACK), (np.minimum, np.maximum), strict=True):
        end = np.zeros(graph.companies)
        end[box.company] = np.minimum(bound * slack, most)
        end = hull(end, value)
        ends.append(end if defined is None else np.where(defined, end, np.nan))
    return ends[0], ends[1]


# ---- the search for attained ends ------------------------------------------------------------------------------------


def _attained(box: _Box, stated: Int64s) -> tuple[Scenario, Scenario]:
    """Search amounts with a low and with a high RTF; never worse than the stated amounts, all low, and all high."""
    starts = _starts(box, stated)
    found = []
    for sense in (-1.0, 1.0):
        reached = np.repeat(stated[None], len(starts), 0)
        reached[:, box.free] = np.rint(_ascend(box, starts, sense)).astype(np.int64)
        amounts = np.clip(np.concatenate([reached, [stated, box.low, box.high]]), box.low, box.high)
        fraction = _fractions(box, amounts)
        best = int((sense * fraction).argmax())
        found.append(Scenario(amounts[best], float(fraction[best])))
    return found[0], found[1]


def _starts(box: _Box, stated: Int64s) -> Floats:
    """Return where the search starts: stated amounts, all low, all high, seeded corners; shape (starts, free flows)."""
    low, high = (x[box.free].astype(np.float64) for x in (box.low, box.high))
    corners = int(np.clip(_SEARCH_WORK // max(1, box.free.size * (box.members + 1) ** 2), 1, 12))
    pick = np.random.default_rng(0).random((corners, low.size)) < 0.5
    return np.concatenate([[stated[box.free].astype(np.float64), low, high], np.where(pick, high, low)])


def _fractions(box: _Box, amounts: Int64s) -> Floats:
    """Return the RTF of each choice of amounts, exact but for rounding; amounts of shape (choices, flows)."""
    count, k = len(amounts), box.members
    fractions = np.empty(count)
    for i, amount in enumerate(amounts):
        paid, received = box.sums(box.payer, amount) + box.outflow, box.sums(box.payee, amount) + box.inflow
        through = np.maximum(paid, received)
        inside = np.zeros((1, k, k))
        inside[0, box.payer[box.inside], box.payee[box.inside]] = amount[box.inside]
        # The leak is taken in integers: a component that nothing leaves must leak exactly nothing.
        leak = through - box.sums(np.where(box.inside, box.payer, k), amount)
        escape = 1 / np.einsum("ii->i", _visits(inside, leak[None].astype(np.float64))[0])
        total = exact_sum(amount)
        fractions[i] = np.clip(through - escape, 0, None).sum() / total if total else 0.0
    return fractions


def _visits(paid: Floats, leak: Floats) -> Floats:
    """Invert diag(leak + row sums of paid) - paid without a single subtraction (Grassmann, Taksar & Heyman 1985).

    Parameters
    ----------
    paid : float64 array of shape (choices, members, members), overwritten
        Its diagonal does not count.
    leak : float64 array of shape (choices, members), overwritten

    Returns
    -------
    float64 array of shape (choices, members, members)
        Every entry to nearly full relative precision. 1 / its diagonal is what leaves a member and never comes back.
    """
    size = leak.shape[1]
    visits = np.empty_like(paid)
    for last in range(size - 1, -1, -1):
        out = np.maximum(paid[:, last, :last].sum(1) + leak[:, last], _NOTHING)
        paid[:, :last, last] /= out[:, None]
        paid[:, :last, :last] += paid[:, :last, last, None] * paid[:, last, None, :last]
        leak[:, :last] += paid[:, :last, last] * leak[:, last, None]
        paid[:, last, :last] /= out[:, None]
        visits[:, last, last] = 1 / out
    for last in range(1, size):
        known = visits[:, :last, :last]
        visits[:, :last, last] = (known @ paid[:, :last, last, None])[..., 0]
        visits[:, last, :last] = (paid[:, last, None, :last] @ known)[:, 0]
        visits[:, last, last] += (paid[:, last, :last] * visits[:, :last, last]).sum(1)
    return visits


def _ascend(box: _Box, starts: Floats, sense: float) -> Floats:
    """Improve choices one flow at a time until none of its candidates improves any; shape (starts, free flows)."""
    amounts = starts
    for _ in range(_SEARCH_ROUNDS):
        climb = _Climb.of(box, amounts, sense)
        before = climb.score.copy()
        for flow in range(box.free.size):
            climb.improve(flow)
        amounts = climb.amounts
        if (climb.score - before).max() < 1e-12:
            break
    return amounts


@dataclass(eq=False)
class _Climb:
    """Choices of amounts under way, with all it takes to try another amount of one flow in O(members).

    An amount w of i -> j stands in row i of the system and in the throughflows of i and j: changing it is a change of
    rank two. Member number `members` stands for every other company and is never changed.

    Attributes
    ----------
    amounts : shape (choices, free flows)
    paid, received : shape (choices, members + 1)
        Known external flows included.
    total : shape (choices,)
    through : shape (choices, members + 1)
        The diagonal of the system.
    visits : shape (choices, members + 1, members + 1)
        Its inverse.
    score : shape (choices,)
        RTF times the sense of the search.
    """

    box: _Box
    sense: float
    amounts: Floats
    paid: Floats
    received: Floats
    total: Floats
    through: Floats
    visits: Floats
    score: Floats

    @classmethod
    def of(cls, box: _Box, amounts: Floats, sense: float) -> _Climb:
        """Set up the systems of these choices."""
        k, free, count = box.members, box.free, len(amounts)
        payer, payee, inside = box.payer, box.payee, box.inside
        every = np.repeat(box.low[None].astype(np.float64), count, 0)
        every[:, free] = amounts
        paid, received = np.zeros((2, count, k + 1))
        for choice, amount in enumerate(every):
            paid[choice, :k] = np.bincount(payer, amount, k + 1)[:k] + box.outflow
            received[choice, :k] = np.bincount(payee, amount, k + 1)[:k] + box.inflow
        moved = np.zeros((count, k + 1, k + 1))
        moved[:, payer[inside], payee[inside]] = every[:, inside]
        most = np.maximum(box.sums(payer, box.high) + box.outflow, box.sums(payee, box.high) + box.inflow)
        # A company whose flows all vanish keeps this leak alone, and so does a component that nothing leaves.
        kept = np.append(_LEAK * most, 1.0)
        leak = np.maximum(0, np.maximum(paid, received) - moved.sum(2)) + kept
        through = np.maximum(paid, received) + kept
        visits = _visits(moved, leak)
        total = every.sum(1)
        back = (through - 1 / np.einsum("sii->si", visits))[:, :k]
        return cls(
            box, sense, amounts.copy(), paid, received, total, through, visits, sense * _over(back.sum(1), total)
        )

    def improve(self, flow: int) -> None:
        """Give one flow the best of its candidates in every choice where that is an improvement."""
        e, k = self.box.free[flow], self.box.members
        payer, payee, row = self.box.payer[e], self.box.payee[e], np.arange(len(self.amounts))
        now = self.amounts[:, flow]
        change = self._candidates(flow, payer, payee) - now[:, None]
        to_payer, to_payee = self._more_throughflow(payer, payee, change)
        coupled = change if self.box.inside[e] else np.zeros_like(change)
        first = to_payer[..., None] * self.visits[:, None, payer] - coupled[..., None] * self.visits[:, None, payee]
        second = to_payee[..., None] * self.visits[:, None, payee]
        # Sherman-Morrison-Woodbury: the inverse changes by left @ (first, second).
        a, b, c, d = 1 + first[..., payer], first[..., payee], second[..., payer], 1 + second[..., payee]
        determinant = a * d - b * c
        from_payer, from_payee = self.visits[:, None, :, payer], self.visits[:, None, :, payee]
        # What brings the system this close to a singular one is left to a start that already stands there.
        regular = determinant > _REGULAR
        determinant = np.where(regular, determinant, 1.0)
        by_first = (d[..., None] * from_payer - c[..., None] * from_payee) / determinant[..., None]
        by_second = (a[..., None] * from_payee - b[..., None] * from_payer) / determinant[..., None]
        own = np.einsum("sii->si", self.visits)[:, None] - by_first * first - by_second * second
        regular &= (own > 0).all(-1)
        through = np.repeat(self.through[:, None], change.shape[1], 1)
        through[..., payer] += to_payer
        through[..., payee] += to_payee
        back = np.clip(through - 1 / np.where(own > 0, own, 1.0), 0, through)[..., :k]
        score = np.where(regular, self.sense * _over(back.sum(-1), self.total[:, None] + change), -np.inf)
        best = score.argmax(1)
        up = np.flatnonzero(score[row, best] > self.score + 1e-14)
        if not up.size:
            return
        best = best[up]
        self.amounts[up, flow] += change[up, best]
        self.score[up] = score[up, best]
        self.total[up] += change[up, best]
        self.through[up] = through[up, best]
        if payer < k:
            self.paid[up, payer] += change[up, best]
        if payee < k:
            self.received[up, payee] += change[up, best]
        self.visits[up] -= (
            by_first[up, best][:, :, None] * first[up, best][:, None]
            + by_second[up, best][:, :, None] * second[up, best][:, None]
        )

    def _candidates(self, flow: int, payer: int, payee: int) -> Floats:
        """Return low, high, quarters, and what balances the payer and the payee; shape (choices, candidates)."""
        e = self.box.free[flow]
        low, high, now = float(self.box.low[e]), float(self.box.high[e]), self.amounts[:, flow]
        steps = np.rint(np.linspace(low, high, 5))
        balanced = [
            now + self.received[:, payer] - self.paid[:, payer],
            now + self.paid[:, payee] - self.received[:, payee],
        ]
        candidates: Floats = np.clip(np.column_stack([np.tile(steps, (now.size, 1)), *balanced]), low, high)
        return candidates

    def _more_throughflow(self, payer: int, payee: int, change: Floats) -> Bounds:
        """Return how much the throughflows of payer and payee grow."""
        grown = []
        for company, (moving, other) in ((payer, (self.paid, self.received)), (payee, (self.received, self.paid))):
            before, against = moving[:, company, None], other[:, company, None]
            growth = np.maximum(before + change, against) - np.maximum(before, against)
            grown.append(growth if company < self.box.members else np.zeros_like(change))
        return grown[0], grown[1]
