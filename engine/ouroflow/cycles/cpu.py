"""Round trips on a CPU: payments inside components are laid out once and searched in threads, payer by payer."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ouroflow.cycles import Cycles
from ouroflow.cycles.cpu_bundles import flow_times, new_bundle_scratch, search_bundles
from ouroflow.cycles.cpu_index import OWNER, index_payments
from ouroflow.cycles.cpu_parts import Listing, StopSign, bounded, chosen_steps, joined, search_in_parts
from ouroflow.cycles.cpu_search import Rule, new_scratch, search

Ids = npt.NDArray[Any]
Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]


MIX = np.uint64(0x9E3779B97F4A7C15)
"""An odd number without pattern: routes are told apart by sums of its powers."""


@dataclass(frozen=True, eq=False)
class Payments:
    """Payments inside components in order of time, with ids of the companies there.

    Attributes
    ----------
    payer, payee : int32[payments]
        Positions in `company`.
    time, amount : int64[payments]
    row : int64[payments]
        Position of each payment in the input.
    company : int64[companies]
        Ids in the input, ascending.
    """

    payer: Int32s
    payee: Int32s
    time: Int64s
    amount: Int64s
    row: Int64s
    company: Int64s


def inside_components(
    payer: Ids, payee: Ids, time: Int64s, amount: Int64s | None, labels: Ids, chosen: Int64s | None
) -> Payments:
    """Take the payments that can be part of a round trip: between two companies of one component, in order of time.

    `chosen` are the companies that round trips begin at: other components are left out.
    """
    row = rows_inside(payer, payee, labels, chosen)
    when = time[row]
    if (when[1:] < when[:-1]).any():
        by_time = np.argsort(when, kind="stable")
        row, when = row[by_time], when[by_time]
    payer, payee = payer[row], payee[row]
    is_member = np.zeros(labels.size, np.bool_)
    is_member[payer] = True  # inside a component whoever pays is paid
    company = np.flatnonzero(is_member)
    if company.size < labels.size:
        local = np.cumsum(is_member) - 1
        payer, payee = local[payer], local[payee]
    return Payments(
        payer.astype(np.int32, copy=False),
        payee.astype(np.int32, copy=False),
        when,
        np.ones(row.size, np.int64) if amount is None else amount[row],
        row,
        company,
    )


def rows_inside(payer: Ids, payee: Ids, labels: Ids, chosen: Int64s | None) -> Int64s:
    """Return the positions of payments between two companies of one component; of the chosen ones' components if given."""
    label = labels[payer]
    inside = (label == labels[payee]) & (payer != payee)
    if chosen is not None:
        wanted = np.zeros(int(labels.max(initial=0)) + 1, np.bool_)
        wanted[labels[chosen]] = True
        inside &= wanted[label]
    return np.flatnonzero(inside)


def find_round_trips(
    payments: Payments,
    rule: Rule,
    *,
    window: int | None,
    ties: str,
    chosen: Int64s | None,
    top: int | None,
    limit: int,
    seconds: float | None,
    bundles: bool,
    threads: int | None = None,
) -> Cycles:
    """Find round trips among payments that are in order of time; see `ouroflow.cycles.time_ordered_cycles`."""
    roots = np.arange(payments.company.size, dtype=np.int32)
    if chosen is not None:
        roots = np.searchsorted(payments.company, np.intersect1d(chosen, payments.company)).astype(np.int32)
    find = partial(
        list_all, payments, rule, roots, window=window, ties=ties, limit=limit, threads=threads, bundles=bundles
    )
    listing, reported, complete_from = bounded(find, payments.amount, top, seconds)
    trips, offsets, steps = chosen_steps(reported, top)
    payer, payee = payments.company[payments.payer[steps]], payments.company[payments.payee[steps]]
    return Cycles(
        count=max(listing.count, reported.count),
        limit_reached=not listing.complete,
        complete_from=complete_from,
        offsets=offsets,
        rows=payments.row[steps],
        payer=payer,
        payee=payee,
        amount=payments.amount[steps],
        time=payments.time[steps],
        value=reported.value[trips],
        bundle=(same_route(reported, payments) if reported.bundle is None else reported.bundle)[trips],
    )


def list_all(
    payments: Payments,
    rule: Rule,
    roots: Int32s,
    least: int,
    stop: StopSign,
    *,
    window: int | None,
    ties: str,
    limit: int,
    threads: int | None,
    bundles: bool,
) -> Listing:
    """List round trips of payments of at least an amount; the steps are positions in `payments`."""
    columns = (payments.payer, payments.payee, payments.time, payments.amount)
    place = None
    if least:
        place = np.flatnonzero(payments.amount >= least)
        columns = tuple(column[place] for column in columns)  # type: ignore[assignment]
    companies = payments.company.size
    index = index_payments(*columns, companies, window, ties)
    weight = np.diff(index.out_offsets) + 1

    def in_parts(roots: Int32s, limit: int, one_each: bool) -> tuple[list[tuple[Any, ...]], bool]:
        return search_in_parts(
            lambda scratch, part, left: search(index, scratch, rule, part, left, stop.raised, one_each),
            lambda: new_scratch(companies, index.order.size, rule.share > 0),
            roots, weight[roots], limit, stop, threads,
        )  # fmt: skip

    if bundles:
        some, all_tried = in_parts(roots, roots.size, True)
        first = [part[0][np.cumsum(part[1]) - part[1]] for part in some]
        roots = np.concatenate([index.outgoing[rows, OWNER] for rows in first] or [roots[:0]])
        flows = flow_times(index)
        found, complete = search_in_parts(
            lambda scratch, part, left: search_bundles(index, flows, scratch, rule, part, left, stop.raised),
            lambda: new_bundle_scratch(companies, index.order.size),
            roots, weight[roots], limit, stop, threads,
        )  # fmt: skip
        complete = complete and all_tried
    else:
        found, complete = in_parts(roots, limit, False)
    order = index.order if place is None else place[index.order]
    return joined(found, complete, limit, index.amount, order, bundles)


def same_route(listing: Listing, payments: Payments) -> Int64s:
    """Return for each round trip how many of the listing take its route."""
    lengths = np.diff(listing.offsets)
    payer = payments.payer[listing.steps]
    code = lengths.astype(np.uint64)
    for hop in range(int(lengths.max(initial=0))):
        longer = np.flatnonzero(lengths > hop)
        code[longer] = code[longer] * MIX + payer[listing.offsets[longer] + hop]
        code[longer] ^= code[longer] >> np.uint64(29)
    _, first, route, count = np.unique(code, return_index=True, return_inverse=True, return_counts=True)
    # Equal codes are equal routes, but for a chance of one in millions: then the routes themselves are compared.
    alike = np.repeat(listing.offsets[:-1][first[route]] - listing.offsets[:-1], lengths) + np.arange(payer.size)
    if (lengths[first[route]] != lengths).any() or (payer[alike] != payer).any():
        routes = [payer[begin:end].tobytes() for begin, end in itertools.pairwise(listing.offsets)]
        members = Counter(routes)
        return np.array([members[taken] for taken in routes], np.int64)
    return count[route].astype(np.int64)
