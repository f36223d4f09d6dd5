"""Cycles of flows, for payments without times: each is listed from its first company.

Depth first from each company among the companies behind it, under bounds of the hops back. As in `cpu_search`, a listing
that has long found nothing asks before every further step whether it can still come back around the companies on the
path, so the time per cycle is polynomial.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from ouroflow.cycles import Cycles
from ouroflow.cycles.cpu import rows_inside
from ouroflow.cycles.cpu_parts import Listing, StopSign, bounded, chosen_steps, joined, search_in_parts
from ouroflow.cycles.cpu_search import (
    DONE,
    FULL,
    INT64_MAX,
    LOOK,
    PATIENCE,
    STOPPED,
    Rule,
    amounts_kept,
    most_payments,
    with_room,
)
from ouroflow.graph import exact_sum, refuse_past_int64

Ids = npt.NDArray[Any]
Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

FAR = 2**30
"""Hops back from companies that do not lead back."""


class FlowIndex(NamedTuple):
    """Flows by payer and by payee.

    Attributes
    ----------
    out_offsets, in_offsets : int64[companies + 1]
    payee, in_payer : int32[flows]
    payer : int32[flows]
    amount : int64[flows]
    """

    out_offsets: Int64s
    in_offsets: Int64s
    payer: Int32s
    payee: Int32s
    in_payer: Int32s
    amount: Int64s


class FlowScratch(NamedTuple):
    """What one thread needs: hops back to the root (FAR), marks, a queue and the path."""

    back: Int32s
    on_path: Bytes
    queue: Int32s
    path: Int32s
    cursor: Int64s


def new_flow_scratch(companies: int) -> FlowScratch:
    """Return the scratch of one thread."""
    return FlowScratch(
        np.full(companies, FAR, np.int32),
        np.zeros(companies, np.uint8),
        np.empty(companies + 1, np.int32),
        np.empty(companies + 1, np.int32),
        np.empty(companies + 1, np.int64),
    )


def cycles_of_flows(
    payer: Ids,
    payee: Ids,
    amount: Int64s | None,
    labels: Ids,
    rule: Rule,
    *,
    chosen: Int64s | None,
    top: int | None,
    limit: int,
    seconds: float | None,
    threads: int | None = None,
) -> Cycles:
    """Find cycles of flows; see `ouroflow.cycles.time_ordered_cycles`."""
    rows = rows_inside(payer, payee, labels, chosen)
    paid = np.ones(rows.size, np.int64) if amount is None else amount[rows]
    refuse_past_int64(exact_sum(paid), "the payments")
    company = np.unique(payer[rows]).astype(np.int64)
    if chosen is not None:
        # Those asked for stand first: then every cycle through one of them begins at one.
        asked = np.isin(company, chosen)
        company = np.concatenate([company[asked], company[~asked]])
    local = np.zeros(labels.size, np.int32)
    local[company] = np.arange(company.size, dtype=np.int32)
    roots = np.arange(company.size if chosen is None else int(asked.sum()), dtype=np.int32)
    payers, payees = local[payer[rows]], local[payee[rows]]
    order = np.lexsort((payees, payers))
    new = np.ones(order.size, np.bool_)
    new[1:] = (payers[order][1:] != payers[order][:-1]) | (payees[order][1:] != payees[order][:-1])
    starts = np.flatnonzero(new)
    payers, payees, row = payers[order][starts], payees[order][starts], rows[order][starts]
    sums = np.add.reduceat(paid[order], starts) if starts.size else paid
    parallel = np.diff(starts, append=order.size)
    find = partial(list_all, payers, payees, sums, company.size, rule, roots=roots, limit=limit, threads=threads)
    listing, reported, complete_from = bounded(find, sums, top, seconds)
    cycles, offsets, flows = chosen_steps(reported, top)
    return Cycles(
        count=max(listing.count, reported.count),
        limit_reached=not listing.complete,
        complete_from=complete_from,
        offsets=offsets,
        rows=row[flows],
        payer=company[payers[flows]],
        payee=company[payees[flows]],
        amount=sums[flows],
        time=None,
        value=reported.value[cycles],
        bundle=products(parallel[flows], offsets),
    )


def products(values: Int64s, offsets: Int64s) -> Int64s:
    """Multiply the values of each stretch, up to what int64 holds."""
    product = np.ones(offsets.size - 1, np.int64)
    lengths = np.diff(offsets)
    for hop in range(int(lengths.max(initial=0))):
        longer = np.flatnonzero(lengths > hop)
        factor = values[offsets[longer] + hop]
        fits = product[longer] <= INT64_MAX // factor
        product[longer] = np.where(fits, product[longer] * np.where(fits, factor, 1), INT64_MAX)
    return product


def list_all(
    payer: Int32s,
    payee: Int32s,
    amount: Int64s,
    companies: int,
    rule: Rule,
    least: int,
    stop: StopSign,
    *,
    roots: Int32s,
    limit: int,
    threads: int | None,
) -> Listing:
    """List the cycles among flows of at least an amount; flows are by payer and payee, steps their positions."""
    place = np.flatnonzero(amount >= least)
    payer, payee, amount = payer[place], payee[place], amount[place]
    offsets = [
        np.concatenate([[0], np.cumsum(np.bincount(ends, minlength=companies))]).astype(np.int64)
        for ends in (payer, payee)
    ]
    index = FlowIndex(offsets[0], offsets[1], payer, payee, payer[np.argsort(payee, kind="stable")], amount)
    found, complete = search_in_parts(
        lambda scratch, part, left: search_flows(index, scratch, rule, part, left, stop.raised),
        lambda: new_flow_scratch(companies),
        roots, np.diff(index.out_offsets)[roots] + 1, limit, stop, threads,
    )  # fmt: skip
    return joined(found, complete, limit, amount, place, False)


@njit(cache=True, nogil=True)
def search_flows(
    index: FlowIndex, scratch: FlowScratch, rule: Rule, roots: Int32s, limit: int, stop: Bytes
) -> tuple[Int32s, Int32s, int]:
    """List the cycles whose first company is one of `roots`, as `cpu_search.search` does."""
    steps, lengths = np.empty(64, np.int32), np.empty(16, np.int32)
    used, count, ending, most_hops = 0, 0, DONE, min(most_payments(rule.hops), FAR - 1)
    for root in roots:
        if stop[0]:
            return steps[:used], lengths[:count], STOPPED
        near = measure_back(index.in_offsets, index.in_payer, root, most_hops, scratch.back, scratch.queue)
        steps, used, lengths, count, ending = list_cycles(
            index, scratch, rule, most_hops, root, steps, used, lengths, count, limit, stop
        )
        for company in scratch.queue[:near]:
            scratch.back[company] = FAR
        if ending != DONE:
            break
    return steps[:used], lengths[:count], ending


@njit(cache=True, nogil=True)
def measure_back(in_offsets: Int64s, in_payer: Int32s, root: int, hops: int, back: Int32s, queue: Int32s) -> int:
    """Measure the hops back to the root among the companies behind it, up to `hops` - 1; return how many there are."""
    queue[0], back[root] = root, 0
    head, tail = 0, 1
    while head < tail:
        company = queue[head]
        head += 1
        if back[company] == hops - 1:
            break
        for at in range(in_offsets[company], in_offsets[company + 1]):
            payer = in_payer[at]
            if payer > root and back[payer] == FAR:
                back[payer] = back[company] + 1
                queue[tail] = payer
                tail += 1
    return tail


@njit(cache=True, nogil=True)
def list_cycles(
    index: FlowIndex,
    scratch: FlowScratch,
    rule: Rule,
    most_hops: int,
    root: int,
    steps: Int32s,
    used: int,
    lengths: Int32s,
    count: int,
    limit: int,
    stop: Bytes,
) -> tuple[Int32s, int, Int32s, int, int]:
    """List the cycles from the root depth first, as `cpu_search.list_round_trips` does."""
    out_offsets, payees, amount = index.out_offsets, index.payee, index.amount
    back, on_path, path, cursor = scratch.back, scratch.on_path, scratch.path, scratch.cursor
    depth, fruitless, taken, ending = 0, 0, 0, DONE
    cursor[0] = out_offsets[root]
    while depth >= 0 and ending == DONE:
        company = root if depth == 0 else payees[path[depth - 1]]
        least, most = 0, INT64_MAX
        if rule.share and depth:
            least, most = amounts_kept(amount[path[depth - 1]], rule.share, rule.of)
        flow, entered = cursor[depth], False
        while flow < out_offsets[company + 1]:
            fruitless += 1
            taken += 1
            if taken % LOOK == 0 and stop[0]:
                ending = STOPPED
                break
            payee = payees[flow]
            if least <= amount[flow] <= most:
                if payee == root:
                    path[depth] = flow
                    if closes_kept(amount, path[0], flow, rule):
                        if count == limit:
                            ending = FULL
                            break
                        steps, lengths = with_room(steps, used + depth + 1), with_room(lengths, count + 1)
                        steps[used : used + depth + 1] = path[: depth + 1]
                        lengths[count] = depth + 1
                        used += depth + 1
                        count += 1
                        fruitless = 0
                elif payee > root and on_path[payee] == 0 and depth + 1 + back[payee] <= most_hops:
                    on_path[payee] = 1
                    if fruitless < PATIENCE or leads_back(index, on_path, root, payee, most_hops - depth - 1):
                        path[depth] = flow
                        entered = True
                        break
                    on_path[payee] = 0
            flow += 1
        cursor[depth] = flow + 1
        if entered:
            depth += 1
            cursor[depth] = out_offsets[payees[flow]]
        elif ending == DONE:
            on_path[company] = 0
            depth -= 1
    for at in range(depth):
        on_path[payees[path[at]]] = 0
    return steps, used, lengths, count, ending


@njit(cache=True, nogil=True)
def closes_kept(amount: Int64s, first: int, closing: int, rule: Rule) -> bool:
    """Tell whether the first flow keeps the amount rule with the last one: a cycle without times has no beginning."""
    if rule.share == 0:
        return True
    least, most = amounts_kept(amount[closing], rule.share, rule.of)
    return least <= amount[first] <= most


@njit(cache=True, nogil=True)
def leads_back(index: FlowIndex, on_path: Bytes, root: int, start: int, hops: int) -> bool:
    """Tell whether the root is at most `hops` from a company, around those on the path and those before the root."""
    companies = on_path.size
    seen, queue, away = np.zeros(companies, np.uint8), np.empty(companies, np.int32), np.empty(companies, np.int32)
    queue[0], away[0] = start, 0
    head, tail = 0, 1
    while head < tail:
        company, depth = queue[head], away[head]
        head += 1
        if depth == hops:
            return False
        for flow in range(index.out_offsets[company], index.out_offsets[company + 1]):
            payee = index.payee[flow]
            if payee == root:
                return True
            if payee > root and on_path[payee] == 0 and seen[payee] == 0:
                seen[payee] = 1
                queue[tail], away[tail] = payee, depth + 1
                tail += 1
    return False
