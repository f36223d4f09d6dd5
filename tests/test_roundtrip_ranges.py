"""Intervals over announced ranges: no choice of amounts leaves them, and attained ends are really attained."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from decimal import Decimal
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from ouroflow.certified import Certified
from ouroflow.components import components_of
from ouroflow.errors import InputError, UsageError
from ouroflow.graph import FlowGraph
from ouroflow.roundtrip import CompanyReturns, RoundTrip, round_trip_fractions
from ouroflow.roundtrip.brackets import brackets
from ouroflow.roundtrip.ranges import (
    METHOD,
    MOST_COMPANIES,
    MOST_RANGED,
    FlowRanges,
    RangedReturns,
    flow_ranges,
    out_of_scope,
    ranged,
)

pytestmark = pytest.mark.cpu

Floats = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]
ROUNDING = 1e-9
"""What the dense evaluation of a nearly balanced choice may be off by."""


@dataclass(frozen=True)
class Case:
    """A small graph with the range of every flow."""

    graph: FlowGraph
    ranges: FlowRanges


def case(flows: dict[tuple[int, int], tuple[int, int, int]], companies: int | None = None, **external: Any) -> Case:
    """Flows payer -> payee with low, stated amount and high."""
    pairs = sorted(flows)
    low, amount, high = np.array([flows[pair] for pair in pairs], np.int64).T
    payer, payee = np.array(pairs).T
    return Case(FlowGraph.from_arrays(payer, payee, amount, companies=companies, **external), FlowRanges(low, high))


@dataclass(frozen=True)
class Figures:
    """Every figure of many choices of amounts at once: arrays of shape (choices,) or (choices, companies)."""

    fraction: Floats
    finn: Floats
    netting: Floats
    intra_component: Floats
    bilateral: Floats
    round_trip: Floats
    return_fraction: Floats
    self_funded: Floats


def evaluate(graph: FlowGraph, amounts: Int64s) -> Figures:
    """Evaluate choices (shape (choices, flows)) by plain inverses; a part without leak counts as leaking 1e-13."""
    choices, n = len(amounts), graph.companies
    w = np.zeros((choices, n, n))
    w[:, graph.payer, graph.payee] = amounts
    paid, received, total = w.sum(2), w.sum(1), w.sum((1, 2))
    through = np.maximum(
        received + (0 if graph.inflow is None else graph.inflow), paid + (0 if graph.outflow is None else graph.outflow)
    )
    share = w / np.where(through > 0, through, 1)[:, :, None] * (1 - 1e-13)
    visits = np.einsum("sii->si", np.linalg.inv(np.eye(n) - share))
    back = through * (1 - 1 / visits)
    reach = (w > 0) | np.eye(n, dtype=bool)
    for _ in range(n.bit_length()):
        reach = reach.astype(np.float32) @ reach.astype(np.float32) > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        return Figures(
            np.where(total > 0, back.sum(1) / total, 0),
            np.where(total > 0, back.sum(1) / through.sum(1), 0),
            np.where(total > 0, np.minimum(paid, received).sum(1) / total, 0),
            np.where(total > 0, (w * (reach & reach.transpose(0, 2, 1))).sum((1, 2)) / total, 0),
            np.where(total > 0, np.minimum(w, w.transpose(0, 2, 1)).sum((1, 2)) / total, 0),
            back,
            back / paid,
            back / received,
        )


def stated(graph: FlowGraph) -> RoundTrip:
    figures = evaluate(graph, graph.amount[None])
    back = figures.round_trip[0]
    return RoundTrip(
        Certified.exact(float(figures.fraction[0])),
        Certified.exact(float(figures.finn[0])),
        brackets(graph, components_of(graph).labels),
        CompanyReturns.of_money(graph, back, back, back),
        np.full(graph.flows, np.nan),
        "dense",
    )


def bounds_of(example: Case) -> RangedReturns:
    return ranged(example.graph, components_of(example.graph), stated(example.graph), example.ranges)


def intervals(answer: RangedReturns) -> dict[str, tuple[Any, Any]]:
    certified = {
        "fraction": answer.fraction,
        "finn": answer.finn,
        "netting": answer.brackets.netting,
        "intra_component": answer.brackets.intra_component,
        "bilateral": answer.brackets.bilateral,
    }
    return {name: (figure.low, figure.high) for name, figure in certified.items()} | {
        "round_trip": (answer.round_trip_low, answer.round_trip_high),
        "return_fraction": (answer.return_fraction_low, answer.return_fraction_high),
        "self_funded": (answer.self_funded_low, answer.self_funded_high),
    }


def assert_none_leaves(example: Case, answer: RangedReturns, amounts: Int64s) -> None:
    figures = evaluate(example.graph, amounts)
    for name, (low, high) in intervals(answer).items():
        values = getattr(figures, name)
        room = ROUNDING * (float(amounts.max()) if name == "round_trip" else 1)
        known = np.isfinite(values)
        assert (values >= low - room)[known].all(), f"{name} falls below its interval"
        assert (values <= high + room)[known].all(), f"{name} rises above its interval"


def choices(example: Case, count: int, seed: int) -> Int64s:
    """Corners, inner points, and points where companies are balanced: there the figures have their kinks."""
    rng = np.random.default_rng(seed)
    low, high = example.ranges.low, example.ranges.high
    graph = example.graph
    corners = np.where(rng.random((count, graph.flows)) < 0.5, low, high)
    inner = rng.integers(low, high + 1, (count, graph.flows))
    mixed = np.where(rng.random((count, graph.flows)) < 0.5, corners, inner)
    for _ in range(6):
        flow, company = rng.integers(graph.flows, size=count), rng.integers(2, size=count)
        end = np.where(company, graph.payer[flow], graph.payee[flow])
        more = [(mixed * (side == end[:, None])).sum(1) for side in (graph.payee, graph.payer)]
        change = (more[0] - more[1]) * np.where(company, 1, -1)
        at = np.arange(count), flow
        mixed[at] = np.clip(mixed[at] + change, low[flow], high[flow])
    return np.concatenate([corners, inner, mixed, low[None], high[None]])


@st.composite
def cases(draw: st.DrawFn, largest: int = 6, amount: int = 30, boundary: bool = True) -> Case:
    n = draw(st.integers(2, largest))
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    flows = {}
    for pair in draw(st.lists(st.sampled_from(pairs), unique=True, min_size=2, max_size=12)):
        middle = draw(st.integers(1, amount))
        flows[pair] = draw(st.sampled_from([0, middle // 2, middle])), middle, draw(st.integers(middle, 2 * amount))
    external = {}
    if boundary and draw(st.booleans()):
        outside = st.lists(st.integers(0, amount), min_size=n, max_size=n)
        external = {"inflow": draw(outside), "outflow": draw(outside)}
    return case(flows, n, **external)


# --- the proof holds --------------------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(cases(), st.integers(0, 2**32))
def test_no_choice_of_amounts_leaves_any_interval(example: Case, seed: int) -> None:
    answer = bounds_of(example)
    assert_none_leaves(example, answer, choices(example, 150, seed))


@settings(max_examples=25)
@given(cases(largest=3, amount=2))
def test_no_choice_at_all_leaves_any_interval(example: Case) -> None:
    """Small enough to try every choice of whole minor units."""
    span = [range(a, b + 1) for a, b in zip(example.ranges.low, example.ranges.high, strict=True)]
    every = np.array(list(product(*span)), np.int64)
    answer = bounds_of(example)
    assert_none_leaves(example, answer, every)
    figures = evaluate(example.graph, every)
    # Exact ends, both of beta and the high end of sigma, are attained at whole amounts.
    beta, sigma = answer.brackets.bilateral, answer.brackets.intra_component
    assert beta.low == pytest.approx(figures.bilateral.min(), abs=2e-9)
    assert beta.high == pytest.approx(figures.bilateral.max(), abs=2e-9)
    assert sigma.high == pytest.approx(figures.intra_component.max(), abs=2e-9)


@settings(max_examples=60)
@given(cases(boundary=False))
def test_the_stated_value_is_inside_and_the_fractions_keep_their_order(example: Case) -> None:
    answer = bounds_of(example)
    for name, (low, high) in intervals(answer).items():
        assert (np.isnan(low) | (low >= 0)).all(), name
        assert (np.isnan(low) | (low <= high)).all(), name
        if name != "round_trip":
            assert (np.isnan(high) | (high <= 1 + 1e-12)).all(), name
    assert answer.finn.high <= answer.fraction.high * (1 + 1e-8) + 1e-12
    assert answer.fraction.high <= answer.brackets.netting.high + 1e-12
    assert answer.fraction.high <= answer.brackets.intra_component.high + 1e-12
    assert answer.fraction.method == METHOD


@settings(max_examples=60)
@given(cases(boundary=False))
def test_attained_ends_are_attained(example: Case) -> None:
    answer = bounds_of(example)
    for scenario in (answer.attained_low, answer.attained_high):
        assert ((example.ranges.low <= scenario.amount) & (scenario.amount <= example.ranges.high)).all()
        matrix = [[0] * example.graph.companies for _ in range(example.graph.companies)]
        for i, j, amount in zip(example.graph.payer, example.graph.payee, scenario.amount, strict=True):
            matrix[i][j] = int(amount)
        assert scenario.fraction == pytest.approx(float(oracle.rational(matrix)[0]), abs=1e-13)
        assert answer.fraction.low <= scenario.fraction <= answer.fraction.high
    assert answer.attained_low.fraction <= answer.fraction.value + 1e-9
    assert answer.attained_high.fraction >= answer.fraction.value - 1e-9


@settings(max_examples=40)
@given(cases())
def test_a_box_of_one_point_gives_back_the_stated_figures(example: Case) -> None:
    point = Case(example.graph, FlowRanges(example.graph.amount, example.graph.amount))
    answer = bounds_of(point)
    figures = evaluate(example.graph, example.graph.amount[None])
    for name, (low, high) in intervals(answer).items():
        value = getattr(figures, name)[0]
        unit = float(example.graph.amount.max()) if name == "round_trip" else 1.0
        assert low == pytest.approx(value, abs=1e-8 * unit, nan_ok=True), name
        assert high == pytest.approx(value, abs=1e-8 * unit, nan_ok=True), name


def test_money_that_stays_for_long_is_bounded_as_tightly() -> None:
    """A ring that leaks one part in a million: plain iteration would need millions of steps."""
    k, amount = 40, 10**6
    flows = {(i, (i + 1) % k): (amount, amount, amount) for i in range(k)} | {(0, k): (1, 1, 1)}
    answer = bounds_of(case(flows))
    assert answer.fraction.low > 0.99 and answer.fraction.width < 1e-8
    assert np.nanmax(answer.return_fraction_high - answer.return_fraction_low) < 1e-8


# --- ends that are known ----------------------------------------------------------------------------------------------


def test_the_best_of_two_companies_lies_inside_the_range_not_at_its_ends() -> None:
    answer = bounds_of(case({(0, 1): (5, 8, 30), (1, 0): (10, 10, 10)}))
    assert answer.attained_high.amount.tolist() == [10, 10]
    assert answer.attained_high.fraction == answer.fraction.high == 1.0
    assert answer.attained_low.fraction == pytest.approx(oracle.dense(np.array([[0, 30], [10, 0]])).fraction)
    assert 0.3 < answer.fraction.low <= answer.attained_low.fraction


def test_a_ring_that_can_be_balanced_returns_everything_at_best() -> None:
    flows = {(0, 1): (5, 6, 9), (1, 2): (7, 7, 7), (2, 3): (6, 9, 9), (3, 0): (3, 3, 8)}
    answer = bounds_of(case(flows))
    assert answer.attained_high.amount.tolist() == [7, 7, 7, 7]
    assert answer.attained_high.fraction == 1.0
    assert (answer.fraction.high, answer.finn.high, answer.brackets.netting.high) == (1.0, 1.0, 1.0)
    assert (answer.return_fraction_high == 1).all() and (answer.self_funded_high == 1).all()


def test_a_payment_that_may_not_happen_can_break_the_component() -> None:
    answer = bounds_of(case({(0, 1): (4, 4, 4), (1, 2): (4, 4, 4), (2, 0): (0, 4, 4)}))
    assert answer.attained_low.amount.tolist() == [4, 4, 0]
    assert answer.attained_low.fraction == answer.fraction.low == answer.finn.low == 0
    assert answer.brackets.intra_component.low == 0
    assert (answer.round_trip_low == 0).all()
    assert answer.attained_high.fraction == 1.0
    # Whoever may pay nothing: its fraction is over the choices in which it pays.
    assert answer.return_fraction_low[2] == pytest.approx(1.0) and answer.return_fraction_low[0] == 0


def test_a_component_that_stands_without_the_doubtful_payment_counts() -> None:
    flows = {(0, 1): (3, 3, 3), (1, 0): (3, 3, 3), (1, 2): (0, 2, 5), (2, 0): (1, 1, 1)}
    answer = bounds_of(case(flows))
    assert answer.brackets.intra_component.low == pytest.approx(6 / 12)
    assert answer.brackets.intra_component.high == 1.0


def test_everything_doubtful_may_be_nothing() -> None:
    answer = bounds_of(case({(0, 1): (0, 2, 5), (1, 0): (0, 2, 5), (1, 2): (0, 1, 1)}))
    for name in ("fraction", "finn"):
        assert getattr(answer, name).low == 0
    assert answer.brackets.bilateral.low == answer.brackets.netting.low == answer.brackets.intra_component.low == 0


def test_money_between_components_only_dilutes() -> None:
    flows = {(0, 1): (2, 2, 2), (1, 0): (2, 2, 2), (2, 3): (0, 4, 12)}
    answer = bounds_of(case(flows))
    assert answer.fraction.low == pytest.approx(4 / 16) and answer.fraction.high == 1.0
    assert answer.attained_low.amount.tolist() == [2, 2, 12] and answer.attained_high.amount.tolist() == [2, 2, 0]
    assert answer.round_trip_low[:2].tolist() == pytest.approx([2, 2])
    assert np.isnan(answer.return_fraction_low[3]) and answer.return_fraction_high[2] == 0


def test_netting_is_exact_at_its_best() -> None:
    """0 pays 10; 1 passes on what it likes; matched exactly, the payments net best."""
    answer = bounds_of(case({(0, 1): (10, 10, 10), (1, 2): (0, 20, 40), (2, 0): (5, 5, 5)}))
    best = max((min(5, 10) + min(10, x) + min(x, 5)) / (15 + x) for x in np.linspace(0, 40, 4001))
    worst = min((5 + min(10, x) + min(x, 5)) / (15 + x) for x in (0, 40))
    assert answer.brackets.netting.high == pytest.approx(best, rel=1e-3)
    assert answer.brackets.netting.low == pytest.approx(worst, rel=1e-6)


def test_amounts_near_the_end_of_int64_are_bounded_like_small_ones() -> None:
    flows = {(0, 1): (2, 3, 4), (1, 2): (1, 3, 3), (2, 0): (0, 1, 5), (1, 0): (1, 1, 2)}
    small = bounds_of(case(flows))
    large = bounds_of(case({pair: (a * 10**16, b * 10**16, c * 10**16) for pair, (a, b, c) in flows.items()}))
    assert large.fraction.low == pytest.approx(small.fraction.low, rel=1e-7)
    assert large.fraction.high == pytest.approx(small.fraction.high, rel=1e-7)
    assert large.round_trip_high / 1e16 == pytest.approx(small.round_trip_high, rel=1e-7)


# --- ranges of flows, and what is out of scope ------------------------------------------------------------------------


def ledger_like(**columns: list[int] | None) -> Any:
    return SimpleNamespace(**{k: None if v is None else np.array(v, np.int64) for k, v in columns.items()})


def test_ranges_of_payments_add_up_to_ranges_of_flows() -> None:
    ledger = ledger_like(payer=[1, 0, 1, 2], payee=[0, 1, 0, 2], low=[5, 7, 0, 1], high=[5, 9, 4, 8])
    graph = FlowGraph.from_arrays(ledger.payer, ledger.payee, [5, 8, 2, 3])
    ranges = flow_ranges(ledger, graph)
    assert ranges is not None
    assert ranges.low.tolist() == [7, 5] and ranges.high.tolist() == [9, 9]


@pytest.mark.parametrize("bounds", [(None, None), ([5, 7, 1], [5, 7, 9])])
def test_without_a_range_that_differs_there_is_nothing_to_bound(bounds: tuple[Any, Any]) -> None:
    """A range of a payment to oneself is none."""
    ledger = ledger_like(payer=[0, 1, 2], payee=[1, 0, 2], low=bounds[0], high=bounds[1])
    assert flow_ranges(ledger, FlowGraph.from_arrays(ledger.payer, ledger.payee, [5, 7, 3])) is None


def test_highs_past_int64_are_refused() -> None:
    ledger = ledger_like(payer=[0, 1], payee=[1, 0], low=[1, 1], high=[2**62, 2**62])
    with pytest.raises(InputError, match="coarser unit"):
        flow_ranges(ledger, FlowGraph.from_arrays(ledger.payer, ledger.payee, [1, 1]))


def test_what_is_too_large_says_so() -> None:
    k = MOST_COMPANIES + 1
    ring = case({(i, (i + 1) % k): (1, 1, 2 if i == 0 else 1) for i in range(k)})
    reason = out_of_scope(components_of(ring.graph), ring.ranges)
    assert reason is not None and f"{k:,} companies" in reason
    with pytest.raises(UsageError, match="no interval over the announced ranges"):
        bounds_of(ring)
    star = case({(0, i): (1, 1, 2) for i in range(1, MOST_RANGED + 2)})
    reason = out_of_scope(components_of(star.graph), star.ranges)
    assert reason is not None and f"{MOST_RANGED + 1:,} flows" in reason


def test_ranges_of_another_graph_are_refused() -> None:
    example = case({(0, 1): (1, 1, 2), (1, 0): (1, 1, 1)})
    with pytest.raises(UsageError, match="same ledger"):
        bounds_of(Case(example.graph, FlowRanges(example.ranges.low + 1, example.ranges.high + 1)))


def test_a_component_of_sixty_companies_is_bounded_and_attained() -> None:
    rng = np.random.default_rng(5)
    n = 60
    pairs = {(i, (i + 1) % n) for i in range(n)} | {tuple(sorted(rng.choice(n, 2, False))[::-1]) for _ in range(150)}
    flows = {}
    for pair in sorted(pairs):
        middle = int(rng.integers(10, 1000))
        free = rng.random() < 0.4
        flows[pair] = (middle // 3, middle, middle * 2) if free else (middle, middle, middle)
    example = case(flows)
    answer = bounds_of(example)
    assert_none_leaves(example, answer, choices(example, 200, 1))
    assert answer.fraction.low <= answer.attained_low.fraction < answer.fraction.value
    assert answer.fraction.value < answer.attained_high.fraction <= answer.fraction.high
    again = bounds_of(example)
    assert again.attained_high.amount.tolist() == answer.attained_high.amount.tolist()
    assert (again.fraction.low, again.fraction.high) == (answer.fraction.low, answer.fraction.high)


# --- the bundled deals ------------------------------------------------------------------------------------------------


DATASETS = Path(__file__).resolve().parents[1] / "datasets"
COUNTED = {"completed", "announced", "reported", "up_to", "estimate"}


def deals(name: str) -> Case:
    """The counted deals in cents of a million, read without the engine's reader."""
    with (DATASETS / name / "deals.csv").open(encoding="utf-8", newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["status"] in COUNTED]
    ids: dict[str, int] = {}
    payer, payee = ([ids.setdefault(row[side], len(ids)) for row in rows] for side in ("payer", "payee"))
    amount, low, high = (
        [int(Decimal(row[column] or row["amount"]) * 100) for row in rows]
        for column in ("amount", "amount_low", "amount_high")
    )
    graph = FlowGraph.from_arrays(payer, payee, amount, companies=len(ids))
    ranges = flow_ranges(ledger_like(payer=payer, payee=payee, low=low, high=high), graph)
    assert ranges is not None
    return Case(graph, ranges)


@pytest.mark.parametrize("name", ["ai-deals", "ai-deals-annual"])
def test_the_bundled_deals_have_intervals_around_every_figure(name: str) -> None:
    example = deals(name)
    components = components_of(example.graph)
    assert out_of_scope(components, example.ranges) is None
    roundtrip = round_trip_fractions(example.graph, components)
    answer = ranged(example.graph, components, roundtrip, example.ranges)
    brackets_ = answer.brackets
    for figure in (answer.fraction, answer.finn, brackets_.netting, brackets_.intra_component, brackets_.bilateral):
        assert 0 < figure.low < figure.value < figure.high < 1
        assert figure.method == METHOD
    assert answer.fraction.value == roundtrip.fraction.value
    # The search comes close to what is proven: together they tell how far the fraction can really move.
    assert answer.fraction.low <= answer.attained_low.fraction < answer.fraction.value
    assert answer.fraction.value < answer.attained_high.fraction <= answer.fraction.high
    assert answer.attained_high.fraction - answer.attained_low.fraction > 0.9 * answer.fraction.width
    for scenario in (answer.attained_low, answer.attained_high):
        matrix = np.zeros((example.graph.companies,) * 2)
        matrix[example.graph.payer, example.graph.payee] = scenario.amount
        assert oracle.dense(matrix).fraction == pytest.approx(scenario.fraction, abs=1e-12)
    assert (answer.round_trip_low <= roundtrip.companies.round_trip).all()
    assert (roundtrip.companies.round_trip <= answer.round_trip_high).all()
    assert_none_leaves(example, answer, choices(example, 1000, 3))
