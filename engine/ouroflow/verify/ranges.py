"""Announced ranges of amounts: whether they are sound, and whether the stated intervals hold where amounts differ.

The engine proves its intervals for every choice of amounts. Here they are tried: all figures are computed again, by
dense code of its own, at some hundred choices that nobody could foresee, and each must lie in its interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csgraph, csr_array

from ouroflow.verify.findings import Findings, Floats, Ints, contains, pair, total
from ouroflow.verify.recompute import DENSE_CELLS, hitting
from ouroflow.verify.stored import COMPANIES, RANGES, Stored

SCENARIOS = 300
SCENARIO_WORK = 5e9  # companies**3 of all of them together: about two seconds
FEWEST = 20  # scenarios of however many companies
TOLERANCE = 1e-11  # relative: what rounding adds up to here; the engine's intervals are wider by more than that
ROUNDING = 1e-15
CHOICES = ("the amounts attained_low", "the amounts attained_high", "the stated amounts", "all lows", "all highs")
FRACTIONS = (
    "round_trip_fraction",
    "finn_cycling_index",
    "netting_fraction",
    "intra_component_fraction",
    "bilateral_fraction",
)


def check_ranges(stored: Stored, found: Findings) -> None:
    """Check the announced ranges in integers, and the stated intervals at many choices of amounts."""
    if not stored.ranged:
        found.notes.append("no amount was announced as a range")
        return
    flows = _ranged_flows(stored, found)
    if found.wrong:
        return
    low, high, attained_low, attained_high = (
        stored.integers(RANGES, column) for column in ("low", "high", "attained_low", "attained_high")
    )
    amount = stored.amount[flows]
    for column, values in (("amount", amount), ("attained_low", attained_low), ("attained_high", attained_high)):
        found.expect_none(
            ~((low <= values) & (values <= high)),
            lambda row, column=column, values=values: (  # type: ignore[misc]
                f"{stored.flow(int(flows[row]))}: {column} is {values[row]}, announced are {low[row]} to {high[row]}"
            ),
        )
    found.expect_none(low >= high, lambda row: f"{stored.flow(int(flows[row]))} is no range: {low[row]} to {high[row]}")
    found.expect_none(low < 0, lambda row: f"{stored.flow(int(flows[row]))}: low is {low[row]}")
    most = stored.total - total(amount) + total(high)
    found.expect(most < 2**63, f"{RANGES}: the highs sum up to {most}, past int64")
    if found.wrong:
        return
    settings = stored.run.get("settings")
    if not isinstance(settings, dict) or settings.get("boundary") is not None:
        found.notes.append("not tried at other amounts: the known external flows are not among the files")
        return
    world = _World.of(stored, flows)
    count = int(np.clip(SCENARIO_WORK / max(1, len(world.members)) ** 3, FEWEST, SCENARIOS))
    draw = np.random.default_rng([stored.seed, 2])
    chosen = np.where(draw.random((count, len(flows))) < 0.5, high, low)
    # Every other choice keeps about half of the stated amounts: the largest figures need not stand in the corners.
    chosen[::2] = np.where(draw.random(chosen[::2].shape) < 0.5, amount, chosen[::2])
    chosen = np.concatenate([[attained_low, attained_high, amount, low, high], chosen])
    step = max(1, DENSE_CELLS // (len(world.members) ** 2 + len(world.flows)))
    tried = [world.figures(chosen[start : start + step]) for start in range(0, len(chosen), step)]
    _expect_inside(stored, world, [np.concatenate(parts) for parts in zip(*tried, strict=True)], found)


def _ranged_flows(stored: Stored, found: Findings) -> Ints:
    """Return which flows the rows of ranges.parquet are; each must be one, and none twice."""
    companies = len(stored.paid)
    keys = pair(stored.payer, stored.payee, companies)
    order = np.argsort(keys)
    wanted = pair(stored.rows_of(RANGES, "payer"), stored.rows_of(RANGES, "payee"), companies)
    known = contains(keys[order], wanted)
    found.expect(bool(len(wanted)), f"{RANGES} has no row")
    found.expect_none(~known, lambda row: f"{RANGES}: row {row} is no flow of flows.parquet")
    twice = np.zeros(len(wanted), np.bool_)
    twice[np.setdiff1d(np.arange(len(wanted)), np.unique(wanted, return_index=True)[1])] = True
    found.expect_none(twice, lambda row: f"{RANGES}: the flow of row {row} is listed twice")
    if found.wrong:
        return np.zeros(0, np.int64)
    return order[np.searchsorted(keys[order], wanted)]


@dataclass(frozen=True)
class _World:
    """What may change when the amounts of some flows do, and the sums of everything else.

    Attributes
    ----------
    members : int64 array
        Companies on closed loops.
    touched : int64 array
        Companies whose sums may change, and the members: sorted rows of companies.parquet.
    flows : int64 array
        Flows that may change, that may come back, or that are the reverse of one of those; rows of flows.parquet.
    varied : int64 array
        Place in `flows` of the flows with a range, in the order of ranges.parquet.
    """

    stored: Stored
    members: Ints
    touched: Ints
    flows: Ints
    varied: Ints

    @classmethod
    def of(cls, stored: Stored, ranged: Ints) -> _World:
        members = np.flatnonzero(stored.sizes[stored.component] >= 2)
        touched = np.unique(np.concatenate([members, stored.payer[ranged], stored.payee[ranged]]))
        companies = len(stored.paid)
        there = pair(stored.payer, stored.payee, companies)
        reverse = np.isin(pair(stored.payee, stored.payer, companies), there[ranged])
        reverse[ranged] = True
        flows = np.flatnonzero(reverse | stored.inside)
        return cls(stored, members, touched, flows, np.searchsorted(flows, ranged))

    @cached_property
    def ends(self) -> tuple[Ints, Ints]:
        """Place of payer and payee among `touched`, len(touched) for others."""
        place = np.full(len(self.stored.paid), len(self.touched))
        place[self.touched] = np.arange(len(self.touched))
        return place[self.stored.payer[self.flows]], place[self.stored.payee[self.flows]]

    @cached_property
    def mutual(self) -> tuple[Ints, Ints]:
        """Places in `flows` of flows that have one in the opposite direction, and of that one."""
        companies = len(self.stored.paid)
        payer, payee = self.stored.payer[self.flows], self.stored.payee[self.flows]
        keys = pair(payer, payee, companies)
        order, back = np.argsort(keys), pair(payee, payer, companies)
        there = np.flatnonzero(contains(keys[order], back))
        return there, order[np.searchsorted(keys[order], back[there])]

    def figures(self, chosen: Ints) -> tuple[Floats, Floats, Floats, Floats]:
        """Compute everything at some choices of amounts.

        Parameters
        ----------
        chosen : int64 array of shape (choices, ranged flows)

        Returns
        -------
        fractions : float64 array of shape (choices, 5)
            As in `FRACTIONS`; NaN where nothing is paid at all.
        round_trip, return_fraction, self_funded : float64 arrays of shape (choices, members)
            NaN where there is nothing to divide by.
        """
        stored = self.stored
        stated = stored.amount[self.flows]
        amount = np.repeat(stated[None], len(chosen), 0)
        amount[:, self.varied] = chosen
        change = amount - stated
        paid, received = (
            np.repeat(sums[self.touched][None], len(chosen), 0) for sums in (stored.paid, stored.received)
        )
        for sums, ends in ((paid, self.ends[0]), (received, self.ends[1])):
            for flow in self.varied:
                sums[:, ends[flow]] += change[:, flow]
        through = np.maximum(paid, received)
        money, looped = self._round_trips(amount, through)
        whole = (float(stored.total) + change.sum(1)).astype(np.float64)
        others = np.ones(len(stored.paid), np.bool_)
        others[self.touched] = False
        rest_through = total(np.maximum(stored.paid, stored.received)[others])
        rest_met = total(np.minimum(stored.paid, stored.received)[others])
        there, back = self.mutual
        rest_mutual = _mutual_elsewhere(stored, self.flows)
        returned = money.sum(1)
        parts = (
            (returned, whole),
            (returned, rest_through + through.sum(1, dtype=np.float64)),
            (rest_met + np.minimum(paid, received).sum(1), whole),
            (looped, whole),
            (rest_mutual + np.minimum(amount[:, there], amount[:, back]).sum(1), whole),
        )
        fractions = np.column_stack([_quotient(np.asarray(part, np.float64), base) for part, base in parts])
        at = np.searchsorted(self.touched, self.members)
        return fractions, money, _quotient(money, paid[:, at]), _quotient(money, received[:, at])

    def _round_trips(self, amount: Ints, through: Ints) -> tuple[Floats, Floats]:
        """Return the round-trip money of each member, and all that is paid inside components, at each choice.

        Where a flow vanishes a component may fall apart; choices with the same components are solved together.
        """
        stored, size = self.stored, len(self.members)
        place = np.full(len(stored.paid), -1, np.int64)
        place[self.members] = np.arange(size)
        inner = np.flatnonzero(stored.inside[self.flows])
        payer, payee = (place[ends[self.flows[inner]]] for ends in (stored.payer, stored.payee))
        paid = np.zeros((len(amount), size, size))
        paid[:, payer, payee] = amount[:, inner]
        through = through[:, np.searchsorted(self.touched, self.members)]
        labels = np.array([_components(choice) for choice in paid], np.int64).reshape(len(amount), size)
        money, looped = np.zeros((len(amount), size)), np.zeros(len(amount))
        kinds, kind_of = np.unique(labels, axis=0, return_inverse=True)
        for kind, labelled in enumerate(kinds):
            choices = np.flatnonzero(kind_of.ravel() == kind)
            for label in np.flatnonzero(np.bincount(labelled) >= 2):
                inside = np.flatnonzero(labelled == label)
                own = (labelled[payer] == label) & (labelled[payee] == label)
                stays = amount[np.ix_(choices, inner[own])]
                # In integers: a component that nothing leaves must leak exactly nothing.
                leak = through[np.ix_(choices, inside)].copy()
                for flow, of in enumerate(np.searchsorted(inside, payer[own])):
                    leak[:, of] -= stays[:, flow]
                block = paid[np.ix_(choices, inside, inside)]
                money[np.ix_(choices, inside)] = np.einsum("bij,bji->bi", block, hitting(block, leak))
                looped[choices] += stays.sum(1)
        return money, looped


def _components(paid: Floats) -> npt.NDArray[Any]:
    """Return the strong component of each company of a dense matrix of payments."""
    return np.asarray(csgraph.connected_components(csr_array(paid), connection="strong")[1])


def _mutual_elsewhere(stored: Stored, flows: Ints) -> int:
    """Return the sum of min(w_ij, w_ji) over all flows but these, whose reverses are among them too."""
    left = np.ones(len(stored.amount), np.bool_)
    left[flows] = False
    companies = len(stored.paid)
    keys = pair(stored.payer[left], stored.payee[left], companies)
    order = np.argsort(keys)
    keys, amount = keys[order], stored.amount[left][order]
    back = pair(stored.payee[left], stored.payer[left], companies)[order]
    both = contains(keys, back)
    return total(np.minimum(amount[both], amount[np.searchsorted(keys, back[both])]))


def _quotient(part: Floats, whole: npt.NDArray[Any]) -> Floats:
    """Divide, with NaN where there is nothing to divide by."""
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _expect_inside(stored: Stored, world: _World, tried: list[Floats], found: Findings) -> None:
    """Check that what was found at each choice of amounts lies in the stated intervals."""
    fractions, *companies = tried
    attained_low, attained_high, stated = fractions[:3, 0]
    found.expect(
        attained_low <= stated * (1 + TOLERANCE) and stated <= attained_high * (1 + TOLERANCE),
        f"{RANGES}: attained_low gives the round-trip fraction {attained_low!r}, attained_high {attained_high!r}, "
        f"but the stated amounts {stated!r}",
    )
    intervals = [stored.certified(key) or (math.nan,) * 3 for key in FRACTIONS]
    ends = [np.array([interval[end] for interval in intervals]) for end in (0, 2)]
    _expect_between(fractions, ends[0], ends[1], lambda column: f"summary.json: {FRACTIONS[column]}", found)
    for values, name in zip(companies, ("round_trip", "return_fraction", "self_funded_fraction"), strict=True):
        low, high = (stored.figures(COMPANIES, f"{name}{end}")[world.members] for end in ("_low", "_high"))

        def of_member(column: int, name: str = name) -> str:
            return f"{stored.name(world.members[column])}: {name}"

        _expect_between(values, low, high, of_member, found)
    found.notes.append(
        f"all figures computed at {len(fractions)} choices of amounts must lie in them (tried, not proven)"
    )


def _expect_between(values: Floats, low: Floats, high: Floats, name: Callable[[int], str], found: Findings) -> None:
    """Check figures of shape (choices, columns) against an interval per column; NaN is no figure at that choice."""
    columns = values.shape[1]

    def where(at: int) -> str:
        choice, column = divmod(at, columns)
        return f"{name(column)} at {CHOICES[choice] if choice < len(CHOICES) else 'amounts drawn at random'}"

    found.expect_within(
        values.ravel(),
        np.tile(low * (1 - TOLERANCE) - ROUNDING, len(values)),
        np.tile(high * (1 + TOLERANCE) + ROUNDING, len(values)),
        where,
        among=~np.isnan(values).ravel(),
    )
