"""Round-trip fractions: how much of what is paid comes back to its payer under proportional mixing.

The door of the room: it chooses the method, once, and puts the parts together. The methods stand beside it: exact by
elimination (`cpu_exact`), absorbing panel push (`push`), seeded walks (`walks`), and the one-pass `brackets`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ouroflow.certified import Certified
from ouroflow.errors import ResourceError, UsageError
from ouroflow.graph import exact_sum
from ouroflow.roundtrip.brackets import Brackets, brackets

if TYPE_CHECKING:
    from ouroflow.components import Components
    from ouroflow.graph import FlowGraph
    from ouroflow.graph_gpu import DeviceGraph
    from ouroflow.roundtrip.ranges import FlowRanges, RangedReturns

__all__ = [
    "Brackets",
    "CompanyReturns",
    "RoundTrip",
    "brackets",
    "check_settings",
    "over_ranges",
    "round_trip_fractions",
]

Floats = npt.NDArray[np.float64]

MOST_HOPS = 10_000
"""Longest hop limit: beyond it a limit costs more than the figures without one, and says nothing else."""


@dataclass(frozen=True, eq=False)
class CompanyReturns:
    """Round-trip money of every company, float64 minor units, each array of shape (companies,).

    Attributes
    ----------
    round_trip : ndarray
        C_i = T_i rho_i: what leaves the company and comes back to it.
    low, high : ndarray
        Bounds of C_i; equal to `round_trip` where it is exact.
    return_fraction, return_low, return_high : ndarray
        C_i / out_i with its bounds; NaN for companies that pay nothing. Over announced ranges the bounds are those of the
        quotient, not quotients of bounds: what a company pays varies too.
    self_funded, self_low, self_high : ndarray
        The same for C_i / in_i.
    """

    round_trip: Floats
    low: Floats
    high: Floats
    return_fraction: Floats
    return_low: Floats
    return_high: Floats
    self_funded: Floats
    self_low: Floats
    self_high: Floats

    @classmethod
    def of_money(cls, graph: FlowGraph, round_trip: Floats, low: Floats, high: Floats) -> CompanyReturns:
        """Return the record for stated amounts: fractions are quotients of the money by what is paid and received."""
        parts = (round_trip, low, high)
        return cls(
            *parts, *(_share(part, graph.paid) for part in parts), *(_share(part, graph.received) for part in parts)
        )


@dataclass(frozen=True, eq=False)
class RoundTrip:
    """The answer of the room.

    Attributes
    ----------
    fraction : Certified
        RTF = sum C_i / W.
    finn : Certified
        Finn cycling index sum C_i / sum T_i (Finn 1976).
    brackets : Brackets
        Netting, intra-component and bilateral fraction, exact.
    companies : CompanyReturns
        C_i of every company.
    flows : ndarray of float64, shape (flows,)
        Return fraction r_e of every flow; NaN where the method does not give it.
    method : str
        How the companies were computed, in words.
    """

    fraction: Certified
    finn: Certified
    brackets: Brackets
    companies: CompanyReturns
    flows: Floats
    method: str


def round_trip_fractions(
    graph: FlowGraph | DeviceGraph,
    components: Components | None = None,
    *,
    tolerance: float = 1e-3,
    confidence: float = 0.99,
    hops: int | None = None,
    top: int = 100,
    companies: Sequence[int] = (),
    seed: int = 0,
) -> RoundTrip:
    """Compute how much of what every company pays comes back to it, and of what everybody pays.

    Components that elimination can handle are solved exactly. For the others the graph's fraction is sampled by seeded walks,
    whose starts screen all companies at the same time; then the `top` companies by that screen and the ones asked for are
    certified by panel push.

    Parameters
    ----------
    graph : FlowGraph or DeviceGraph
        n companies, m flows, int64 minor units. The work is done where it lies.
    components : Components, optional
        Strong components of `graph`; computed when not given.
    tolerance : float
        Half-width that the sampled fraction and the certified companies' return fractions are driven to. 0 asks for the exact
        method whatever it costs.
    confidence : float
        Level of sampled intervals: of the graph's fraction, of all companies of the screen at once, and of all certified
        companies at once.
    hops : int, optional
        Count returns within so many payments only, at least 2 (2 is plain reciprocity).
    top : int
        Companies certified beyond the screen.
    companies : sequence of int
        Ids of companies to certify too.
    seed : int
        Seed of the walks, 0 <= seed < 2^64.

    Returns
    -------
    RoundTrip

    Raises
    ------
    UsageError
        If a setting is out of range.
    ResourceError
        If exact figures were asked for and the memory at hand does not hold their dense core, or if the device has not the
        memory for a stage.

    Notes
    -----
    Definitions: throughflow analysis with the smallest boundary that balances (Finn 1976, J. Theor. Biol. 56; Fath and Patten
    1999). Walks and components use the same proportional mixing, so all methods estimate the same number.
    """
    from ouroflow.components import components_of

    check_settings(tolerance, confidence, hops, top, seed)
    for company in companies:
        if not 0 <= company < graph.companies:
            raise UsageError(f"company {company}: ids run from 0 to {graph.companies - 1}")
    if components is None:
        components = components_of(graph)
    work = _Work(graph, components)
    if hops is None:
        work.solve_exactly(exact_only=tolerance == 0)
    else:
        work.follow_hops(hops, exact_only=tolerance == 0)
    if work.open.any():
        work.sample(tolerance, confidence, hops, seed, screen=top > 0 or len(companies) > 0)
        work.certify(tolerance, confidence, hops, top, companies, seed)
    return work.finish(tolerance, hops)


# Elimination is tried on components of up to so many companies, and on any with few flows a company; it is given up where the
# dense core passes the limit of the twin.
_TRY_COMPANIES, _SPARSE = 150_000, 3
_PILOT_WALKS = 1 << 10  # tell how long walks are
_SCREEN_WALKS = 1 << 18  # one sample that ranks all companies
_SCREEN_STEPS = 1e8  # that it may take, where money hardly leaks and walks are long: about a second on two cores
_PUSH_STEPS = 4e9  # flows x companies x hops that pushing all companies may cost (about ten seconds on two cores)


class _Work:
    """The parts of an answer while they come together, on the host; the heavy work is done where the graph lies."""

    def __init__(self, graph: FlowGraph | DeviceGraph, components: Components) -> None:
        self.at, self.graph, self.components = graph, graph.host, components
        self.low, self.value, self.high = (np.zeros(graph.companies) for _ in range(3))
        inside = components.labels[self.graph.payer] == components.labels[self.graph.payee]
        self.flows = np.where(inside, np.nan, 0.0)
        self.open = components.labels < components.nontrivial
        """Companies on loops that no exact method has solved."""
        self.sampled = Certified.exact(0.0)
        """Round-trip money of the open companies together, while any are open."""
        self.walks_end = True
        """Whether walks end before their horizon, as far as a pilot tells."""
        self.screen = np.zeros(0)
        """Money by which companies are ranked for certification."""
        self.certified = (0, 0)
        """Companies narrowed by walks of their own, and by push."""

    def solve_exactly(self, *, exact_only: bool) -> None:
        """Solve every component that elimination can handle."""
        from ouroflow.roundtrip.cpu_exact import SMALL

        if not self.components.nontrivial:
            return
        exact = _exact_twin(self.at)
        core_limit = exact.core_that_fits() if exact_only else min(exact.TRY_CORE, exact.core_that_fits())
        intra = self.graph.intra(self.components.labels)
        throughflow = self.graph.throughflow[intra.company]
        sizes = np.diff(intra.company_offsets)
        small = np.flatnonzero(sizes <= SMALL)
        if small.size:
            found = exact.exact_small(intra, throughflow, small)
            solved = ~np.isnan(found.company)
            self._settle(intra.company[solved], found.company[solved])
            settled = ~np.isnan(found.flow)
            self.flows[intra.flow[settled]] = found.flow[settled]
        for component in np.flatnonzero(sizes > SMALL):
            members = slice(int(intra.company_offsets[component]), int(intra.company_offsets[component + 1]))
            flows = slice(int(intra.flow_offsets[members.start]), int(intra.flow_offsets[members.stop]))
            dense = flows.stop - flows.start > _SPARSE * sizes[component]
            if sizes[component] > _TRY_COMPANIES and dense and not exact_only:
                continue
            solution = exact.exact_returns(
                intra.flow_offsets[members.start : members.stop + 1] - flows.start,
                intra.payee[flows],
                intra.amount[flows],
                throughflow[members],
                core_limit=core_limit,
            )
            if solution is not None:
                self._settle(intra.company[members], solution.company)
                self.flows[intra.flow[flows]] = solution.flow
            elif exact_only:
                raise ResourceError(
                    f"exact figures of a component of {sizes[component]:,} companies need a dense core of more than "
                    f"{core_limit:,} companies, which this machine's free memory does not hold; allow a tolerance "
                    "(--tolerance 1e-3), or use a machine with more memory"
                )

    def follow_hops(self, hops: int, *, exact_only: bool) -> None:
        """Follow the money of every company on a loop for so many hops, where that is affordable."""
        from ouroflow.roundtrip.push import push_returns, two_hop_returns

        if hops == 2:
            self.flows = two_hop_returns(self.at)
            back = np.bincount(self.graph.payer, self.graph.amount * self.flows, self.graph.companies)
            self._settle(np.arange(self.graph.companies), back / np.maximum(self.graph.throughflow, 1))
            return
        roots = np.flatnonzero(self.open)
        if not roots.size or (float(self.graph.flows) * roots.size * hops > _PUSH_STEPS and not exact_only):
            return
        pushed = push_returns(self.at, self.components.labels, roots, hops=hops)
        paid = self.graph.paid[roots]
        self._settle(roots, pushed.value * paid / self.graph.throughflow[roots])

    def sample(self, tolerance: float, confidence: float, hops: int | None, seed: int, *, screen: bool) -> None:
        """Sample the open companies: their money together, and an interval for each of their companies.

        A screen takes more walks than the graph's fraction alone may need. Both looks share the error level.
        """
        from ouroflow.roundtrip.push import two_hop_returns
        from ouroflow.roundtrip.walks import walk_returns

        labels = self._open_labels()
        narrow = tolerance * self.graph.total
        pilot = walk_returns(self.at, labels, seed=_other(seed, 3), hops=hops, walks=_PILOT_WALKS)
        steps_a_walk = max(pilot.steps / max(pilot.walks, 1), 1.0)
        self.walks_end = pilot.unfinished <= tolerance * pilot.walks
        if screen:
            confidence = (1 + confidence) / 2
            walks = max(_PILOT_WALKS, min(_SCREEN_WALKS, int(_SCREEN_STEPS / steps_a_walk)))
            tally = walk_returns(self.at, labels, seed=seed, confidence=confidence, hops=hops, walks=walks)
            self.sampled = tally.round_trip()
        if not screen or max(self.sampled.high - self.sampled.value, self.sampled.value - self.sampled.low) > narrow:
            tally = walk_returns(
                self.at, labels, seed=_other(seed, 1), tolerance=tolerance, confidence=confidence, hops=hops
            )
            self.sampled = tally.round_trip()
        # All company intervals hold at once: of 10^6 intervals at 99% each, those at the top of any list would be the wrong ones.
        at_once = replace(tally, confidence=1 - (1 - tally.confidence) / max(1, int(np.count_nonzero(self.open))))
        value, low, high = at_once.companies()
        # What comes straight back is a lower bound, exact and cheap.
        straight = np.bincount(self.graph.payer, self.graph.amount * two_hop_returns(self.at), self.graph.companies)
        ceiling = np.minimum(self.graph.paid, self.graph.received).astype(np.float64)
        low = np.minimum(np.maximum(low, straight), ceiling)
        value = np.clip(value, low, ceiling)
        high = np.clip(high, value, ceiling)
        for ours, theirs in ((self.value, value), (self.low, low), (self.high, high)):
            ours[self.open] = theirs[self.open]
        # One lucky walk in a million stands for more money than most companies move; a one-sided look tells luck from money.
        _, likely, _ = replace(tally, confidence=0.8).companies()
        self.screen = np.maximum(np.minimum(likely, ceiling), straight)

    def certify(
        self, tolerance: float, confidence: float, hops: int | None, top: int, named: Sequence[int], seed: int
    ) -> None:
        """Narrow the intervals of the first companies of the screen, and of those asked for by name."""
        from ouroflow.roundtrip.push import push_returns
        from ouroflow.roundtrip.walks import walk_companies

        graph = self.graph
        candidates = np.flatnonzero(self.open)
        first = candidates[np.lexsort((candidates, -self.screen[candidates]))[:top]]
        asked = np.array([company for company in named if self.open[company]], np.int64)
        roots = np.unique(np.concatenate([first, asked]))
        if not roots.size:
            return
        paid = np.maximum(graph.paid[roots], 1)
        confidence = 1 - (1 - confidence) / roots.size  # these intervals, too, hold all at once
        walking = self._walks_are_cheaper(roots, self.value[roots] / paid, tolerance, confidence)
        found = np.zeros((3, roots.size))
        if walking.any():
            sampled = walk_companies(
                self.at,
                self._open_labels(),
                roots[walking],
                seed=_other(seed, 2),
                tolerance=tolerance,
                confidence=confidence,
                hops=hops,
            )
            found[:, walking] = sampled.low, sampled.value, sampled.high
        if not walking.all():
            pushed = push_returns(self.at, self.components.labels, roots[~walking], tolerance=tolerance, hops=hops)
            found[:, ~walking] = pushed.low, (pushed.low + pushed.high) / 2, pushed.high
        ceiling = np.minimum(paid, graph.received[roots]).astype(np.float64)
        money = np.minimum(found * paid, ceiling)
        # Where money hardly leaks a push may end wider than the screen: then the screen stays.
        better = walking | (money[2] - money[0] <= self.high[roots] - self.low[roots])
        chosen = roots[better]
        self.low[chosen], self.value[chosen], self.high[chosen] = money[:, better]
        self.certified = (int(np.count_nonzero(walking)), int(np.count_nonzero(~walking)))

    def _walks_are_cheaper(
        self, roots: npt.NDArray[np.int64], fraction: Floats, tolerance: float, confidence: float
    ) -> npt.NDArray[np.bool_]:
        """Tell for each root whether walks of its own cost less than its share of a panel.

        Measured on two cores (bench_roundtrip): 10 ns a step, against 18 ns a flow and hop for a panel of 32 roots. A panel needs
        about as many hops as a walk has steps.
        """
        from ouroflow.roundtrip.intervals import draws_needed

        labels = self.components.labels
        inner = np.bincount(labels[self.graph.payer[np.isnan(self.flows)]], minlength=self.components.count)[
            labels[roots]
        ]
        walks = draws_needed(fraction, tolerance, confidence)
        # Walks that do not end before the horizon cannot reach the tolerance, however many.
        return np.asarray((walks * 10.0 < inner * (18.0 / 32)) & self.walks_end)

    def _open_labels(self) -> Any:
        """Return the labels for walks, which start and stay inside components: a settled company gets one of its own."""
        labels = self.components.labels
        if self.open[labels < self.components.nontrivial].all():
            return labels
        return np.where(self.open, labels, self.components.count + np.arange(labels.size, dtype=labels.dtype))

    def finish(self, tolerance: float, hops: int | None) -> RoundTrip:
        """Put the parts together."""
        graph = self.graph
        settled = math.fsum(self.value[~self.open])
        walked, pushed = self.certified
        method = "exact"
        if self.open.any():
            method = f"{self.sampled.method}; {walked:,} companies by walks of their own, {pushed:,} by push"
            if self.sampled.width > 2 * tolerance * graph.total:
                why = "the tolerance is not reached, for money hardly leaks; tolerance 0 asks for exact figures"
                self.sampled = replace(self.sampled, method=f"{self.sampled.method}; {why}")
        if hops is not None:
            method += f", at most {hops} hops"
        total = _shifted(self.sampled, settled) if self.open.any() else Certified.exact(settled, method)
        return RoundTrip(
            fraction=_quotient(total, graph.total),
            finn=_quotient(total, exact_sum(graph.throughflow)),
            brackets=brackets(self.at, self.at.place(self.components.labels)),
            companies=CompanyReturns.of_money(graph, self.value, self.low, self.high),
            flows=self.flows,
            method=method,
        )

    def _settle(self, companies: npt.NDArray[np.integer[Any]], probability: Floats) -> None:
        """Take exact return probabilities: C_i = T_i rho_i, never above what the company pays or receives."""
        graph = self.graph
        ceiling = np.minimum(graph.paid[companies], graph.received[companies])
        money = np.minimum(graph.throughflow[companies] * probability, ceiling)
        for part in (self.low, self.value, self.high):
            part[companies] = money
        self.open[companies] = False


def over_ranges(
    graph: FlowGraph, components: Components, answer: RoundTrip, ranges: FlowRanges
) -> tuple[RoundTrip, RangedReturns]:
    """Give every figure of an exact answer the interval that is proven over the announced ranges of the amounts.

    Parameters
    ----------
    graph, components, answer
        The graph at its stated amounts, its components, and what :func:`round_trip_fractions` found.
    ranges : FlowRanges
        Announced range of every flow; not :func:`ouroflow.roundtrip.ranges.out_of_scope`.

    Returns
    -------
    RoundTrip
        `answer` with intervals.
    RangedReturns
        The intervals with the scenarios that come closest to the ends of RTF.
    """
    from ouroflow.roundtrip.ranges import ranged

    found = ranged(graph, components, answer, ranges)
    stated = answer.companies
    companies = CompanyReturns(
        stated.round_trip,
        found.round_trip_low,
        found.round_trip_high,
        stated.return_fraction,
        np.where(np.isnan(stated.return_fraction), np.nan, found.return_fraction_low),
        np.where(np.isnan(stated.return_fraction), np.nan, found.return_fraction_high),
        stated.self_funded,
        np.where(np.isnan(stated.self_funded), np.nan, found.self_funded_low),
        np.where(np.isnan(stated.self_funded), np.nan, found.self_funded_high),
    )
    return (
        replace(answer, fraction=found.fraction, finn=found.finn, brackets=found.brackets, companies=companies),
        found,
    )


def _exact_twin(graph: FlowGraph | DeviceGraph) -> Any:
    """Return the exact method where the graph lies; both twins have the same functions."""
    if graph.device == "gpu":
        from ouroflow.roundtrip.gpu_exact import DeviceExact

        return DeviceExact(graph.on)
    from ouroflow.roundtrip import cpu_exact

    return cpu_exact


def _other(seed: int, stream: int) -> int:
    """Return the seed of another stream of walks: samples that share a seed share their draws."""
    return (seed + stream * 0x9E3779B97F4A7C15) % 2**64


def _share(part: Floats, whole: npt.NDArray[np.int64]) -> Floats:
    return np.divide(part, whole, out=np.full(part.size, np.nan), where=whole != 0)


def _shifted(figure: Certified, by: float) -> Certified:
    return Certified(figure.value + by, figure.low + by, figure.high + by, figure.method)


def _quotient(money: Certified, whole: int) -> Certified:
    if whole == 0:
        return Certified.exact(0.0, "exact: no flow")
    value, low, high = (min(part / whole, 1.0) for part in (money.value, money.low, money.high))
    return Certified(value, low, high, money.method)


def check_settings(tolerance: float, confidence: float, hops: int | None, top: int, seed: int) -> None:
    """Refuse settings that make no sense, before anything is read or computed.

    Raises
    ------
    UsageError
        Naming the setting and what it may be.
    """
    if not 0 <= tolerance < 1:
        raise UsageError(f"tolerance {tolerance}: give a number from 0 (exact) to below 1, such as 1e-3")
    if not 0.5 <= confidence < 1:
        raise UsageError(f"confidence {confidence}: give a level from 0.5 to below 1, such as 0.99")
    if hops is not None and not 2 <= hops <= MOST_HOPS:
        raise UsageError(
            f"hops {hops}: a round trip has at least 2 payments, there and back; above {MOST_HOPS:,} leave the limit out"
        )
    if top < 0:
        raise UsageError(f"top {top}: give a number of companies, 0 or more")
    if not 0 <= seed < 2**64:
        raise UsageError(f"seed {seed}: give a number from 0 to 2^64 - 1")
