"""The round trips found again from the flows, by other methods than the engine's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ouroflow.verify.figures import EXACT_TOLERANCE, widened, widened_figure
from ouroflow.verify.findings import Findings, Floats, Ints
from ouroflow.verify.stored import Stored

DENSE_LIMIT = 3_000  # companies of a component that is recomputed whole
DENSE_WORK = 5e10  # companies**3, summed over those components: less than ten seconds on two cores
DENSE_CELLS = 4_000_000  # cells of the matrices inverted together
PANEL_ROOTS = 8  # companies of larger components that are recomputed
PANEL_WORK = 4e9  # flows x columns x steps of that: about four seconds
WALKS = 100_000
WALK_WORK = 20_000_000  # payments that all of them make together: about three seconds
SIGMAS = 6.0


def check_recomputed(stored: Stored, found: Findings) -> None:
    """Recompute round trips from the flows: all companies of small components, a sample of those of large ones."""
    if not stored.has_round_trips:
        found.notes.append("the run did not measure round trips")
        return
    sizes = stored.sizes[stored.sizes >= 2]
    large = first_whole(stored)
    blocks = _Blocks.of(stored)
    start = large
    while start < len(sizes):
        # Labels go from large to small, so components of one size are neighbours and are inverted together.
        size = int(sizes[start])
        of_size = int(np.searchsorted(-sizes, -size, side="right"))
        stop = min(start + max(1, DENSE_CELLS // size**2), of_size)
        _expect_blocks(stored, blocks, start, stop, found)
        start = stop
    limit = f" (round trips of at most {stored.hops} payments)" if stored.hops is not None else ""
    found.notes.append(f"all {int(sizes[large:].sum()):,} companies of {len(sizes) - large:,} components{limit}")
    if large:
        _expect_panel(stored, large, found)


def first_whole(stored: Stored) -> int:
    """Return the number of the first component that is recomputed whole; those before it are larger."""
    sizes = stored.sizes[stored.sizes >= 2].astype(np.float64)
    steps = 1 if stored.hops is None else max(1, stored.hops - 1)
    work = np.cumsum(sizes[::-1] ** 3)[::-1] * steps
    return int(np.count_nonzero((sizes > DENSE_LIMIT) | (work > DENSE_WORK)))


@dataclass(frozen=True)
class _Blocks:
    """Companies and inner flows in the order of their components."""

    companies: Ints  # sorted by component
    first: Ints  # where each component begins in `companies`
    position: Ints  # place of each company within its component
    flows: Ints  # inner flows sorted by component
    label: Ints  # component of each of these
    leak: Ints  # what leaves the component from each company, external flows included

    @classmethod
    def of(cls, stored: Stored) -> _Blocks:
        companies = np.argsort(stored.component, kind="stable")
        first = np.concatenate(([0], np.cumsum(stored.sizes)))
        position = np.empty(len(companies), np.int64)
        position[companies] = np.arange(len(companies)) - first[stored.component[companies]]
        flows = np.flatnonzero(stored.inside)
        label = stored.component[stored.payer[flows]]
        order = np.argsort(label, kind="stable")
        leak = stored.throughflow.copy()
        np.subtract.at(leak, stored.payer[flows], stored.amount[flows])
        return cls(companies, first, position, flows[order], label[order], leak)


def _expect_blocks(stored: Stored, blocks: _Blocks, start: int, stop: int, found: Findings) -> None:
    """Recompute the components start to stop - 1, which are of one size, and compare."""
    members = blocks.companies[blocks.first[start] : blocks.first[stop]].reshape(stop - start, -1)
    flows = blocks.flows[np.searchsorted(blocks.label, start) : np.searchsorted(blocks.label, stop)]
    payer, payee = stored.payer[flows], stored.payee[flows]
    block, row, column = stored.component[payer] - start, blocks.position[payer], blocks.position[payee]
    paid = np.zeros((*members.shape, members.shape[1]))
    paid[block, row, column] = stored.amount[flows]
    throughflow = stored.throughflow[members].astype(np.float64)
    if stored.hops is None:
        hits = hitting(paid, blocks.leak[members])
    else:
        hits = hitting_within(paid, throughflow, stored.hops - 1)
    money = np.einsum("bij,bji->bi", paid, hits)
    slack = EXACT_TOLERANCE * money + 1e-13 * throughflow
    _expect_meets(stored, members.ravel(), (money - slack).ravel(), (money + slack).ravel(), found)
    expected = hits[block, column, row]
    slack = EXACT_TOLERANCE * expected + 1e-13
    found.expect_within(
        stored.return_fraction[flows],
        expected - slack,
        expected + slack,
        lambda at: f"{stored.flow(flows[at])}: return_fraction",
        among=stored.exact[payer] & ~np.isnan(stored.return_fraction[flows]),
    )


def hitting(paid: Floats, leak: Ints) -> Floats:
    """Return the probability h[b, j, i] that money at j comes to i, in each component b.

    Parameters
    ----------
    paid : float64 array of shape (components, size, size)
        What each company pays to each other one, in minor units.
    leak : int64 array of shape (components, size)
        What leaves the component from each company, in minor units, from exact integers.
    """
    hits = np.ones_like(paid)
    # Isolated and exactly balanced: all money comes to every company, and the matrix is singular.
    leaking = leak.any(axis=1)
    if leaking.any():
        inverse = _inverse(paid[leaking], leak[leaking].astype(np.float64))
        hits[leaking] = inverse / np.diagonal(inverse, axis1=1, axis2=2)[:, None, :]
    return hits


def _inverse(paid: Floats, leak: Floats) -> Floats:
    """Return the inverses of diag(leak + row sums) - paid, the diagonal of `paid` being ignored.

    Halves are eliminated in turn (Grassmann, Taksar & Heyman, Operations Research 33, 1985, in blocks): only sums,
    products and quotients of numbers that are not negative, so each entry keeps its relative accuracy, however nearly
    closed the component is. Shapes as in `hitting`.
    """
    size = leak.shape[1]
    if size == 1:
        return 1.0 / leak[:, :, None]
    half = size // 2
    there, back = paid[:, :half, half:], paid[:, half:, :half]
    first = _inverse(paid[:, :half, :half], leak[:, :half] + there.sum(axis=2))
    back_first, first_there = back @ first, first @ there
    rest_leak = leak[:, half:] + (back_first @ leak[:, :half, None])[:, :, 0]
    rest = _inverse(paid[:, half:, half:] + back_first @ there, rest_leak)
    result = np.empty_like(paid)
    result[:, half:, half:] = rest
    result[:, half:, :half] = rest @ back_first
    result[:, :half, half:] = first_there @ rest
    result[:, :half, :half] = first + first_there @ result[:, half:, :half]
    return result


def hitting_within(paid: Floats, throughflow: Floats, steps: int) -> Floats:
    """Return the probability that money at j comes to i within so many payments, as `hitting` without a limit."""
    share = paid / throughflow[:, :, None]
    hits = np.zeros_like(paid)
    arrived = np.arange(paid.shape[1])
    hits[:, arrived, arrived] = 1.0
    for _ in range(steps):
        hits = share @ hits
        hits[:, arrived, arrived] = 1.0
    return hits


def _expect_meets(stored: Stored, companies: Ints, low: Floats, high: Floats, found: Findings) -> None:
    """Check that stated round trips meet recomputed intervals; figures stated as exact have no width of their own."""
    stated_low, stated_high = (end[companies] for end in widened(stored, *stored.round_trip))
    found.expect_none(
        ~((stated_low <= high) & (low <= stated_high)),
        lambda row: (
            f"{stored.name(companies[row])}: round trip is {stated_low[row]:.17g} to {stated_high[row]:.17g}, "
            f"found again as {low[row]:.17g} to {high[row]:.17g}"
        ),
    )


def _expect_panel(stored: Stored, large: int, found: Findings) -> None:
    """Recompute a sample of companies of the components before `large` by bounds from both sides.

    What returns within k payments is a lower bound, what has not left after k payments an upper one.
    """
    companies = np.flatnonzero(stored.component < large)
    top = companies[np.argsort(-stored.round_trip[1][companies], kind="stable")[: PANEL_ROOTS // 2]]
    drawn = np.random.default_rng(stored.seed).choice(companies, PANEL_ROOTS // 2, replace=False)
    roots = np.unique(np.concatenate((top, drawn)))
    local = np.full(len(stored.paid), -1, np.int64)
    local[companies] = np.arange(len(companies))
    flows = np.flatnonzero(stored.inside & (local[stored.payer] >= 0))
    payer, payee = stored.payer[flows], stored.payee[flows]
    share = stored.amount[flows] / stored.throughflow[payer]
    # Half as wide indices are read twice as fast, where they suffice.
    index = np.int32 if len(flows) < 2**31 else np.int64
    ends = (local[payer].astype(index), local[payee].astype(index))
    onward = sparse.csr_array((share, ends), shape=(len(companies), len(companies)))
    together = (stored.component[companies][:, None] == stored.component[roots]).astype(np.float64)
    # The lower bounds of all roots, and beside them the upper ones.
    hits = np.concatenate([np.zeros_like(together), together], axis=1)
    at = (local[roots], np.arange(len(roots)))
    at_root = (np.tile(local[roots], 2), np.arange(2 * len(roots)))
    hits[at_root] = 1.0
    most = max(20, int(PANEL_WORK / (2 * len(roots) * len(flows)))) if stored.hops is None else stored.hops
    throughflow = stored.throughflow[roots].astype(np.float64)
    for step in range(1, most + 1):
        after = onward @ hits
        money_low, money_high = throughflow * after[at_root].reshape(2, -1)
        if step == most or np.all(money_high - money_low <= 1e-10 * money_low + 1e-12 * throughflow):
            break
        hits = after
        hits[at_root] = 1.0
    low, high = np.split(hits, 2, axis=1)
    if stored.hops is not None:
        high, money_high = low, money_low
    slack = EXACT_TOLERANCE * money_high + 1e-12 * throughflow
    _expect_meets(stored, roots, money_low - slack, money_high + slack, found)
    column_of = np.full(len(stored.paid), -1, np.int64)
    column_of[roots] = at[1]
    rows = np.flatnonzero((column_of[payer] >= 0) & stored.exact[payer] & ~np.isnan(stored.return_fraction[flows]))
    place = (local[payee[rows]], column_of[payer[rows]])
    found.expect_within(
        stored.return_fraction[flows[rows]],
        low[place] * (1 - EXACT_TOLERANCE) - 1e-12,
        high[place] * (1 + EXACT_TOLERANCE) + 1e-12,
        lambda row: f"{stored.flow(flows[rows[row]])}: return_fraction",
    )
    width = float(np.max((money_high - money_low) / throughflow))
    found.notes.append(
        f"of {len(companies):,} companies of {large} larger components a sample of {len(roots)}, "
        f"each to {max(width, 1e-12):.0e} of its throughflow by {step} steps from both sides"
    )


def check_walks(stored: Stored, found: Findings) -> None:
    """Draw money of the large components at random, walk it, and compare what returns with what is stated."""
    large = first_whole(stored) if stored.has_round_trips else 0
    if not large:
        found.notes.append("not needed, every company was recomputed" if stored.has_round_trips else "nothing to check")
        return
    members = stored.component < large
    flows = np.flatnonzero(stored.inside & members[stored.payer])
    flows = flows[np.argsort(stored.payer[flows], kind="stable")]
    inside = float(stored.amount[flows].sum(dtype=np.float64))
    if inside > 2.0**62:
        found.notes.append("not drawn, the amounts are past what the generator can address")
        return
    returned, unresolved = _walk(stored, flows)
    ends = (returned, returned + unresolved)
    # The last term covers the case that next to nothing returns, where the spread is not normal.
    spread = [SIGMAS * math.sqrt(end * (WALKS - end) / WALKS) + SIGMAS**2 for end in ends]
    low, high = ((ends[0] - spread[0]) / WALKS * inside, (ends[1] + spread[1]) / WALKS * inside)
    stated_low, stated_high = (math.fsum(end[members]) for end in widened(stored, *stored.round_trip))
    found.expect(
        low <= stated_high and stated_low <= high,
        f"companies of large components return {stated_low:.6g} to {stated_high:.6g}, walks {low:.6g} to {high:.6g}",
    )
    figure = stored.at_stated("round_trip_fraction")
    if figure is not None:
        # The small components are known; only the rest is drawn.
        small_low, small_high = (math.fsum(end[~members]) for end in widened(stored, *stored.round_trip))
        low, high = (low + small_low) / stored.total, (high + small_high) / stored.total
        stated_low, stated_high = widened_figure(stored, "round_trip_fraction", figure)
        found.expect(
            low <= stated_high and stated_low <= high,
            f"summary.json: round_trip_fraction is {figure[0]!r} to {figure[2]!r}, walks give {low:.6g} to {high:.6g}",
        )
    found.notes.append(
        f"{WALKS:,} own walks, to {SIGMAS:g} standard deviations ({max(spread) / WALKS:.1e} of the money)"
    )
    if unresolved:
        found.notes.append(f"{unresolved:,} of them still under way, which may return or not")


def _walk(stored: Stored, flows: Ints) -> tuple[int, int]:
    """Draw units of money from these flows (sorted by payer); count those that return and those still walking."""
    generator = np.random.default_rng([stored.seed, 1])
    ends = np.cumsum(stored.amount[flows])
    degree = np.bincount(stored.payer[flows], minlength=len(stored.paid))
    after = np.cumsum(degree)
    begin = np.concatenate(([0], ends))[after - degree]
    stop = np.concatenate(([0], ends))[after]
    taken = flows[np.searchsorted(ends, generator.integers(0, ends[-1], WALKS), side="right")]
    root, place = stored.payer[taken], stored.payee[taken]
    returned = made = payments = 0
    limit = None if stored.hops is None else stored.hops - 1
    while len(root) and payments != limit and made < WALK_WORK:
        payments += 1
        made += len(root)
        unit = begin[place] + generator.integers(0, stored.throughflow[place])
        stays = unit < stop[place]
        root, unit = root[stays], unit[stays]
        place = stored.payee[flows[np.searchsorted(ends, unit, side="right")]]
        home = place == root
        returned += int(home.sum())
        root, place = root[~home], place[~home]
    # Money that has made all the payments of a limit has not returned within it; other money still may.
    return returned, 0 if payments == limit else len(root)
