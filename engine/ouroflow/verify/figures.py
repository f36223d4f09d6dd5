"""Whether the stated round trips of companies, flows, components and the whole agree with each other, for every row."""

from __future__ import annotations

import math

import numpy as np

from ouroflow.verify.findings import Findings, Floats, total
from ouroflow.verify.stored import COMPANIES, COMPONENTS, FLOWS, RANGED_METHOD, RANGES, Stored

SUM_TOLERANCE = 1e-13  # relative: the same float64 numbers summed in another order
PRODUCT_TOLERANCE = 4e-15  # relative: a few multiplications and divisions
EXACT_TOLERANCE = 1e-9  # relative: a figure that is stated as exact, found by another method
SAMPLED_SLACK = 3.0  # a sampled interval may miss at its own level, but not when made this many times wider


def check_round_trips(stored: Stored, found: Findings) -> None:
    """Check that the round trips of companies, flows, components and of the whole agree with each other."""
    if not stored.has_round_trips:
        _expect_no_round_trips(stored, found)
        return
    _expect_methods(stored, found)
    _expect_company_returns(stored, found)
    _expect_company_fractions(stored, found)
    _expect_flow_returns(stored, found)
    _expect_component_returns(stored, found)
    _expect_graph_returns(stored, found)


def _expect_no_round_trips(stored: Stored, found: Findings) -> None:
    """Check that a run without round trips states none."""
    found.notes.append("the run did not measure round trips")
    found.expect(
        stored.summary.get("round_trip_fraction") is None and stored.summary.get("finn_cycling_index") is None,
        "summary.json: round_trip_fraction and finn_cycling_index must be figures, or both null",
    )
    found.expect(not stored.ranged, f"run.json lists {RANGES}, but there is no figure to hold over ranges")
    for name, columns in stored.columns.items():
        for column, kind in columns.items():
            if kind.startswith("figure") and not column.startswith("circulation"):
                stated = stored.tables[name].num_rows - stored.tables[name][column].null_count
                found.expect(stated == 0, f"{name} has {column}, but summary.json has no round_trip_fraction")


def _expect_methods(stored: Stored, found: Findings) -> None:
    """Check that the figures say that they hold over announced ranges if, and only if, there are any."""
    for key in ("round_trip_fraction", "finn_cycling_index", *stored.brackets):
        figure = stored.summary.get(key)
        method = figure.get("method") if isinstance(figure, dict) else None
        listed = "lists" if stored.ranged else "does not list"
        if found.expect(isinstance(method, str), f"summary.json: {key} has no method"):
            found.expect(
                str(method).startswith(RANGED_METHOD) == stored.ranged,
                f"summary.json: {key} is {method!r}, but run.json {listed} {RANGES}",
            )


def _expect_company_returns(stored: Stored, found: Findings) -> None:
    """Check each company's interval and what bounds it."""
    low, value, high = stored.round_trip_stored
    found.expect_within(value, np.maximum(low, 0.0), high, stored.of_company("round_trip"))
    found.expect_within(low, np.zeros_like(low), value, stored.of_company("round_trip_low"))
    # Where all comes back, rounding may end a little above.
    most = np.minimum(stored.paid, stored.received) * (1 + 1e-12)
    found.expect_within(value, low, most, stored.of_company("round_trip"))
    if not stored.ranged:
        found.expect_within(high, value, most, stored.of_company("round_trip_high"))
    alone = stored.sizes[stored.component] == 1
    found.expect_none(alone & (high != 0), lambda row: f"{stored.name(row)} is on no closed loop, but has a round trip")


def _expect_company_fractions(stored: Stored, found: Findings) -> None:
    """Check that fractions of companies are quotients; over ranges their bounds are figures of their own."""
    for column, divisor in (("return_fraction", stored.paid), ("self_funded_fraction", stored.received)):
        low, value, high = (stored.figures(COMPANIES, f"{column}{end}") for end in ("_low", "", "_high"))
        quotients = [
            np.divide(money, divisor, out=np.full(len(money), math.nan), where=divisor > 0)
            for money in stored.round_trip_stored
        ]
        found.expect_near(value, quotients[1], PRODUCT_TOLERANCE, stored.of_company(column))
        if not stored.ranged:
            found.expect_near(low, quotients[0], PRODUCT_TOLERANCE, stored.of_company(f"{column}_low"))
            found.expect_near(high, quotients[2], PRODUCT_TOLERANCE, stored.of_company(f"{column}_high"))
            continue
        for end, bound in (("_low", low), ("_high", high)):
            defined = np.where(np.isnan(bound), 0, 1)
            found.expect_same(
                defined, (divisor > 0).astype(np.int64), stored.of_company(f"{column}{end}: number of figures")
            )
        nothing = np.zeros_like(value)
        among = divisor > 0
        found.expect_within(low, nothing, value, stored.of_company(f"{column}_low"), among)
        found.expect_within(high, value, nothing + 1 + 1e-12, stored.of_company(f"{column}_high"), among)


def _expect_flow_returns(stored: Stored, found: Findings) -> None:
    """Check the return fractions of flows, and that those of a payer add up to its round trip."""
    returns, companies = stored.return_fraction, len(stored.paid)
    stated = ~np.isnan(returns)
    most = np.where(stored.inside, 1.0, 0.0)
    found.expect_within(returns, np.zeros_like(most), most, stored.of_flow("return_fraction"), among=stated)
    found.expect_none(
        ~stated & ~stored.inside, lambda row: f"{stored.flow(row)} leaves its component: return_fraction must be 0"
    )
    money = stored.amount * returns
    found.expect_near(stored.figures(FLOWS, "round_trip"), money, PRODUCT_TOLERANCE, stored.of_flow("round_trip"))
    complete = np.bincount(stored.payer[~stated], minlength=companies) == 0
    summed = np.asarray(np.bincount(stored.payer, np.where(stated, money, 0.0), companies), np.float64)
    low, high = widened(stored, *stored.round_trip)
    slack = EXACT_TOLERANCE * high + 1e-13 * stored.throughflow
    found.expect_within(summed, low - slack, high + slack, stored.of_company("round_trip of its flows"), among=complete)


def _expect_component_returns(stored: Stored, found: Findings) -> None:
    """Check the round trips of components.parquet."""
    labels = stored.integers(COMPONENTS, "component")
    by_component = np.asarray(np.bincount(stored.component, stored.round_trip[1], len(stored.sizes)), np.float64)
    found.expect_near(
        stored.figures(COMPONENTS, "round_trip"),
        by_component[labels],
        SUM_TOLERANCE,
        lambda row: f"component {labels[row]}: round_trip",
    )


def _expect_graph_returns(stored: Stored, found: Findings) -> None:
    """Check the figures of the whole graph against those of its companies, and their order."""
    divisors = {"round_trip_fraction": stored.total, "finn_cycling_index": total(stored.throughflow)}
    for key, divisor in divisors.items():
        figure = stored.at_stated(key)
        if not found.expect(figure is not None, f"summary.json: {key} must be a fraction with low <= value <= high"):
            return
        _expect_sum(stored, key, divisor, found)
    round_trip, finn = (stored.at_stated(key) or (0.0, 0.0, 0.0) for key in divisors)
    bracket = stored.brackets
    roof = min(bracket["netting_fraction"], bracket["intra_component_fraction"]) + 1e-12
    found.expect(
        finn[0] <= round_trip[2] * (1 + 1e-12), "summary.json: finn_cycling_index is above round_trip_fraction"
    )
    found.expect(round_trip[0] <= roof, f"summary.json: round_trip_fraction {round_trip[0]!r} is above {roof!r}")


def _expect_sum(stored: Stored, key: str, divisor: int, found: Findings) -> None:
    """Check a figure of the whole graph against the sums over its companies."""
    figure = stored.at_stated(key)
    assert figure is not None
    low, value, high = (math.fsum(end) / divisor if divisor else 0.0 for end in stored.round_trip)
    # The whole is exactly known if and only if every company is.
    if figure[0] == figure[2] or stored.exact.all():
        ends = zip(figure, (low, value, high), strict=True)
        near = figure[0] == figure[2] and all(abs(end - summed) <= SUM_TOLERANCE * summed for end, summed in ends)
        found.expect(near, f"summary.json: {key} is {figure}, the companies give {(low, value, high)}")
        found.expect_none(~stored.exact, lambda row: f"{stored.name(row)} has an interval, but {key} is exact")
        return
    stated_low, stated_high = widened_figure(stored, key, figure)
    found.expect(
        stated_low <= high * (1 + SUM_TOLERANCE) and low <= stated_high * (1 + SUM_TOLERANCE),
        f"summary.json: {key} is {figure[0]!r} to {figure[2]!r}, the companies give {low!r} to {high!r}",
    )


def widened(stored: Stored, low: Floats, value: Floats, high: Floats) -> tuple[Floats, Floats]:
    """Return the stated intervals of companies, made wider if the method in summary.json says that it sampled."""
    slack = _slack(stored, "round_trip_fraction")
    return (low, high) if slack == 1.0 else (value - slack * (value - low), value + slack * (high - value))


def widened_figure(stored: Stored, key: str, figure: tuple[float, float, float]) -> tuple[float, float]:
    """Return the stated interval of a figure of summary.json, made wider if its method says that it sampled."""
    low, value, high = figure
    slack = _slack(stored, key)
    return value - slack * (value - low), value + slack * (high - value)


def _slack(stored: Stored, key: str) -> float:
    """Return how much wider an interval must be made to be sure: sampled methods state a level of confidence."""
    method = stored.summary[key].get("method")
    sampled = isinstance(method, str) and any(word in method.lower() for word in ("%", "confidence", "walk", "sampl"))
    return SAMPLED_SLACK if sampled else 1.0
