"""What could be netted: the circulation, its bound and its netting statement, proven from the files in exact integers.

A circulation is feasible, so no maximum is smaller. The potentials bound every circulation, so none is larger: around a
circulation potential differences cancel, hence its value is sum c (1 - potential[payer] + potential[payee]), and that is
at most sum w max(0, 1 - potential[payer] + potential[payee]) over the flows inside components (weak duality). One pass
over the flows adds up both. The flags need one look more: two maximum circulations differ by rings of flows that can
still be changed, so a flow on no such ring is the same in all of them.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ouroflow.verify.figures import widened_figure
from ouroflow.verify.findings import Bools, Findings, Ints, pair, sums
from ouroflow.verify.stored import CIRCULATION, COMPONENTS, NETTING, POTENTIALS, Stored

KEY = "max_circulation_fraction"
LARGEST_POTENTIAL = 2**61
"""1 - potential[payer] + potential[payee] fits int64 below it."""

ROWS_AT_ONCE = 1 << 20


def check_circulation(stored: Stored, found: Findings) -> None:
    """Check the circulation, the bound of the potentials, the flags, the netting statement, and the figures on them."""
    if not stored.has_circulation:
        _expect_no_circulation(stored, found)
        return
    places = _places(stored, CIRCULATION, found)
    listed = 0 if places is None else len(places)
    found.expect(listed == len(stored.amount), f"{CIRCULATION} lists {listed} of {len(stored.amount)} flows, each once")
    potential = _of_companies(stored, found)
    if found.wrong or places is None or potential is None:
        return
    circulation = np.zeros(len(places), np.int64)
    circulation[places] = stored.integers(CIRCULATION, "circulation")
    _expect_feasible(stored, circulation, found)
    _expect_netting(stored, circulation, found)
    if found.wrong:
        return
    # 1 - potential[payer] + potential[payee]: what one unit around the flow adds beyond what potentials allow.
    reduced = 1 - potential[stored.payer] + potential[stored.payee]
    low, high = _bounds(stored, circulation, reduced)
    _expect_figures(stored, low, high, found)
    proven = np.array([least == most for least, most in zip(low, high, strict=True)], np.bool_)
    _expect_flags(stored, circulation, places, _settled(stored, circulation, reduced, proven), found)


def _expect_no_circulation(stored: Stored, found: Findings) -> None:
    """Check that a run without the measure states nothing of it."""
    found.notes.append("the run did not measure it")
    found.expect(stored.summary.get(KEY) is None, f"summary.json: {KEY} is a figure, but the run did not measure it")
    for end in ("circulation_low", "circulation_high"):
        stated = stored.tables[COMPONENTS][end]
        found.expect(
            stated.null_count == len(stated), f"{COMPONENTS} has {end}, but the run did not measure the circulation"
        )


def _places(stored: Stored, table: str, found: Findings) -> Ints | None:
    """Return the row in flows.parquet of each row of a table; None where one is no flow, or listed twice."""
    companies = len(stored.paid)
    payer, payee = (stored.rows_of(table, side) for side in ("payer", "payee"))
    keys, wanted = pair(stored.payer, stored.payee, companies), pair(payer, payee, companies)
    order = np.argsort(keys, kind="stable")
    at = np.minimum(np.searchsorted(keys, wanted, sorter=order), max(len(keys) - 1, 0))
    known = keys[order[at]] == wanted if len(keys) else np.zeros(len(wanted), np.bool_)

    def words(row: int) -> str:
        return f"{table}: {stored.name(payer[row])} pays {stored.name(payee[row])}"

    if not found.expect_none(~known, lambda row: f"{words(row)}, which is no flow"):
        return None
    places = order[at] if len(keys) else at
    first = np.zeros(len(places), np.bool_)
    first[np.unique(places, return_index=True)[1]] = True
    return places if found.expect_none(~first, lambda row: f"{words(row)} more than once") else None


def _of_companies(stored: Stored, found: Findings) -> Ints | None:
    """Return the potential of each company, None where the table does not list each once or they cannot be computed with."""
    company, potential = stored.rows_of(POTENTIALS, "company"), stored.integers(POTENTIALS, "potential")
    companies = len(stored.paid)
    listed = found.expect_same(
        np.bincount(company, minlength=companies),
        np.ones(companies, np.int64),
        lambda row: f"{POTENTIALS}: number of rows of {stored.name(row)}",
    )
    small = found.expect_none(
        (potential <= -LARGEST_POTENTIAL) | (potential >= LARGEST_POTENTIAL),
        lambda row: f"{POTENTIALS}: {stored.name(company[row])} has {potential[row]}, which is 2^61 or more in size",
    )
    if not (listed and small):
        return None
    of_company = np.zeros(companies, np.int64)
    of_company[company] = potential
    return of_company


def _expect_feasible(stored: Stored, circulation: Ints, found: Findings) -> None:
    """Check that no flow circulates more than it is, and that every company gives as much as it takes."""
    most = np.where(stored.inside, stored.amount, 0)
    inside = found.expect_none(
        (circulation < 0) | (circulation > most),
        lambda row: f"{stored.flow(row)}: circulation is {circulation[row]}, expected 0 to {most[row]}",
    )
    if inside:  # then no sum is past what the company pays or receives
        companies = len(stored.paid)
        given, taken = (sums(ends, circulation, companies) for ends in (stored.payer, stored.payee))
        found.expect_same(
            given, taken, lambda row: f"{stored.name(row)} takes {taken[row]} in the circulation; what it gives"
        )


def _expect_netting(stored: Stored, circulation: Ints, found: Findings) -> None:
    """Check that there is one set-off notice per flow that is netted, and that notices cancel for every company."""
    places = _places(stored, NETTING, found)
    if places is None:
        return
    noticed = np.zeros(len(circulation), np.bool_)
    noticed[places] = True
    found.expect_none(
        noticed != (circulation > 0),
        lambda row: (
            f"{NETTING}: {stored.flow(row)}, of which {circulation[row]} circulates, has "
            + ("a notice" if noticed[row] else "no notice")
        ),
    )
    owed, netted, remaining = (stored.integers(NETTING, column) for column in ("amount", "netted", "remaining"))
    expected = {"amount": stored.amount[places], "netted": circulation[places]}
    expected["remaining"] = expected["amount"] - expected["netted"]
    for column, values in (("amount", owed), ("netted", netted), ("remaining", remaining)):
        found.expect_same(
            values,
            expected[column],
            lambda row, column=column: f"{NETTING}: {stored.flow(int(places[row]))}: {column}",  # type: ignore[misc]
        )


def _bounds(stored: Stored, circulation: Ints, reduced: Ints) -> tuple[list[int], list[int]]:
    """Return, per component of two companies or more, what circulates and the bound of the potentials, exact.

    Amounts that a malicious file chose need more than int64: those are added in Python's integers.
    """
    count = int((stored.sizes >= 2).sum())
    at = stored.inside
    label, whole = (
        stored.component[stored.payer[at]],
        sums(stored.component[stored.payer[at]], stored.amount[at], count),
    )
    weight, factor = stored.amount[at], np.maximum(reduced[at], 0)
    low = sums(label, circulation[at], count)
    if int(factor.max(initial=0)) * stored.total < 2**63:
        above = sums(label, weight * factor, count).tolist()
    else:
        above = [0] * count
        for start in range(0, len(label), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            for component, money, times in zip(
                label[part].tolist(), weight[part].tolist(), factor[part].tolist(), strict=True
            ):
                above[component] += money * times
    return low.tolist(), [min(bound) for bound in zip(above, whole.tolist(), strict=True)]


def _expect_figures(stored: Stored, low: list[int], high: list[int], found: Findings) -> None:
    """Check the stated bounds of components and of the whole against the exact ones, and their order with other measures."""
    labels = stored.integers(COMPONENTS, "component")
    for end, bounds in (("low", low), ("high", high)):
        found.expect_near(
            stored.figures(COMPONENTS, f"circulation_{end}"),
            np.array(bounds, np.float64)[labels],
            0.0,
            lambda row, end=end: f"component {labels[row]}: circulation_{end}",  # type: ignore[misc]
        )
    figure = stored.certified(KEY)
    if figure is None:
        found.expect(False, f"summary.json: {KEY} must be a fraction with low <= value <= high: the run measured it")
        return
    least, most = (Fraction(sum(bounds), stored.total or 1) for bounds in (low, high))
    expected = (float(least),) * 3
    if least != most:  # rounded outwards; the value is what is proven to exist
        expected = (math.nextafter(float(least), 0.0),) * 2 + (math.nextafter(float(most), 1.0),)
    found.expect(figure == expected, f"summary.json: {KEY} is {figure}, the certificate gives {expected}")
    _expect_method(stored, found)
    _expect_order(stored, figure, found)


def _expect_method(stored: Stored, found: Findings) -> None:
    """Check that the figure says that announced ranges are not followed, where there are any."""
    method = stored.summary[KEY].get("method")
    if found.expect(isinstance(method, str), f"summary.json: {KEY} has no method") and stored.ranged:
        said = "at the stated amounts" in method
        found.expect(said, f"summary.json: {KEY} does not say that it is at the stated amounts: {method!r}")


def _expect_order(stored: Stored, figure: tuple[float, float, float], found: Findings) -> None:
    """Check RTF <= mu* (loop-erased round trips are a circulation) and beta <= mu* <= min(nu, sigma), at the stated amounts."""
    bracket = stored.brackets
    roof = min(bracket["netting_fraction"], bracket["intra_component_fraction"])
    found.expect(figure[0] <= roof + 1e-12, f"summary.json: {KEY} {figure[0]!r} is above {roof!r}")
    smaller = {"bilateral_fraction": bracket["bilateral_fraction"]}
    returned = stored.at_stated("round_trip_fraction")
    if returned is not None:
        smaller["round_trip_fraction"] = widened_figure(stored, "round_trip_fraction", returned)[0]
    for name, value in smaller.items():
        found.expect(value <= figure[2] + 1e-12, f"summary.json: {KEY} {figure[2]!r} is below {name} {value!r}")


def _settled(stored: Stored, circulation: Ints, reduced: Ints, proven: Bools) -> Bools:
    """Return the flows that are the same in every maximum circulation, of components where one is proven.

    Slack conditions settle what is not tight. A tight flow (payer one potential above payee) is settled unless it lies
    on a ring of tight flows, taken backwards where they circulate and forwards where they are not full.
    """
    payer, payee, companies = stored.payer, stored.payee, len(stored.paid)
    tight = stored.inside & (reduced == 0)
    back, more = tight & (circulation > 0), tight & (circulation < stored.amount)
    start, stop = np.concatenate([payer[back], payee[more]]), np.concatenate([payee[back], payer[more]])
    steps = coo_array((np.ones(len(start), np.int8), (start, stop)), shape=(companies, companies))
    _, ring = connected_components(steps.tocsr(), connection="strong")
    settled = ~stored.inside
    settled[stored.inside] = proven[stored.component[payer[stored.inside]]]
    return np.asarray(settled & (~tight | (ring[payer] != ring[payee])))


def _expect_flags(stored: Stored, circulation: Ints, places: Ints, settled: Bools, found: Findings) -> None:
    """Check that full and empty mark the settled flows that are so; `places` are the flows of the table's rows."""
    for flag, holds in (("full", circulation == stored.amount), ("empty", circulation == 0)):
        expected = (settled & holds)[places]
        stated = stored.flags(CIRCULATION, flag)
        found.expect_same(
            stated,
            expected,
            lambda row, flag=flag: f"{CIRCULATION}: {flag} of {stored.flow(int(places[row]))}",  # type: ignore[misc]
        )
