"""Round trips in time: the concrete payments along which money comes back to its payer.

The definition, which the tests hold every search to:

- A round trip is a sequence of k >= 2 payments. The payee of each is the payer of the next, the payee of the last is the
  payer of the first, and the companies are distinct. Payments to oneself are part of none.
- Times rise strictly. From the first payment to the last there passes at most the window; a span equal to the window
  counts. There are at most `hops` payments.
- Parallel payments are different payments: two round trips are different if they differ in one payment. A round trip is
  counted once, at its first payment.
- Equal times (`ties`). 'strict': payments of one time do not follow each other. 'file': they follow each other in the order of
  their rows, as if each came a moment after the one above it. 'any': they may follow each other either way, so times need
  only not fall; a round trip whose times are all equal begins with its first row. For invoices that carry only a day, 'any'
  finds what may have gone round within the day.
- The amount rule (`keep`, a share such as 0.8): each payment is at least that share of the one before, and at most its
  inverse (1.25 times). It is decided in whole numbers, never in floats.
- Value: the smallest payment. Returned share: the last payment over the first. Fee lost: the first minus the last, minor
  units (negative where more comes back than was paid).
- A bundle is all round trips along one route: the same companies in the same order from the same first payer.
- Without times (`time=None`): cycles of flows, a flow being all payments from one company to another. Each is
  counted once, from its company of the smallest id. The amount rule then also holds between the last flow and the first;
  returned share and fee are not defined.

`time_ordered_cycles` finds them; answers are bounded by a number and by time, and say so (`limit_reached`).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ouroflow.errors import InputError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from ouroflow.cycles.rings import Rings

__all__ = ["Cycles", "time_ordered_cycles"]

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

TIES = ("strict", "file", "any")
FINEST_SHARE = 10**6
"""Largest denominator of `keep`."""


@dataclass(frozen=True, eq=False)
class Cycles:
    """Round trips with their payments, the most valuable first; those of equal value by first payer and time.

    Arrays of shape (listed,) have one entry per round trip, those of shape (steps,) one per payment of a round trip: the
    payments of round trip c are the steps ``offsets[c]`` to ``offsets[c + 1]``.

    Attributes
    ----------
    count : int
        Round trips that were found, all members of bundles included.
    limit_reached : bool
        Whether the limit or the time budget ended the search: there may be more than `count`.
    complete_from : int or None
        Every round trip of at least this value (minor units) is found, whatever else was not: 0 when the search was
        complete, None when nothing can be said.
    offsets : int64[listed + 1]
    rows : int64[steps]
        Position of the payment in the input; of the first payment of the flow where there are no times.
    payer, payee : int64[steps]
    amount : int64[steps]
        Minor units.
    time : int64[steps] or None
    value : int64[listed]
        The smallest payment.
    bundle : int64[listed]
        Round trips of this route that were found, this one included. When bundles were asked for, each is listed once, by
        the most valuable of its round trips.
    """

    count: int
    limit_reached: bool
    complete_from: int | None
    offsets: Int64s
    rows: Int64s
    payer: Int64s
    payee: Int64s
    amount: Int64s
    time: Int64s | None
    value: Int64s
    bundle: Int64s

    @property
    def listed(self) -> int:
        """Number of round trips in the arrays."""
        return self.value.size

    @cached_property
    def hops(self) -> Int64s:
        """Payments of each round trip: int64[listed]."""
        return np.diff(self.offsets)

    @cached_property
    def first_time(self) -> Int64s | None:
        """Time of the first payment of each: int64[listed]."""
        return None if self.time is None else self.time[self.offsets[:-1]]

    @cached_property
    def last_time(self) -> Int64s | None:
        """Time of the last payment of each: int64[listed]."""
        return None if self.time is None else self.time[self.offsets[1:] - 1]

    @cached_property
    def fee_lost(self) -> Int64s | None:
        """First minus last payment of each, minor units: int64[listed]."""
        return None if self.time is None else self.amount[self.offsets[:-1]] - self.amount[self.offsets[1:] - 1]

    @cached_property
    def returned(self) -> Floats | None:
        """Last over first payment of each: float64[listed]."""
        return None if self.time is None else self.amount[self.offsets[1:] - 1] / self.amount[self.offsets[:-1]]

    @cached_property
    def rings(self) -> Rings:
        """The listed round trips merged by common payments, with money counted once."""
        from ouroflow.cycles.rings import merge

        return merge(self.offsets, self.rows, self.payer, self.amount)

    @property
    def total(self) -> int:
        """Minor units that go round in all rings, no payment counted twice."""
        return sum(map(int, self.rings.value))

    def cycles_table(self, names: pa.Array | None = None) -> pa.Table:
        """Return one row per round trip, as cycles.parquet.

        Parameters
        ----------
        names : pyarrow.Array, optional
            Identity of each company id.
        """
        from ouroflow.cycles import tables

        return tables.cycles_table(self, names)

    def payments_table(self, names: pa.Array | None = None, payment_id: pa.Array | None = None) -> pa.Table:
        """Return one row per payment of a round trip, as cycle_payments.parquet.

        Parameters
        ----------
        names : pyarrow.Array, optional
            Identity of each company id.
        payment_id : pyarrow.Array or ChunkedArray, optional
            Identity of each payment of the input.
        """
        from ouroflow.cycles import tables

        return tables.payments_table(self, names, payment_id)

    def rings_table(self) -> pa.Table:
        """Return one row per ring."""
        from ouroflow.cycles import tables

        return tables.rings_table(self)


def time_ordered_cycles(
    payer: npt.ArrayLike,
    payee: npt.ArrayLike,
    time: npt.ArrayLike | None,
    amount: npt.ArrayLike | None = None,
    *,
    window: int | None,
    hops: int | None = None,
    keep: float | str | Fraction | None = None,
    ties: str = "strict",
    companies: npt.ArrayLike | None = None,
    labels: npt.ArrayLike | None = None,
    top: int | None = None,
    limit: int = 1_000_000,
    seconds: float | None = 600.0,
    bundles: bool = False,
) -> Cycles:
    """Find round trips in time; the definition is that of this module.

    Parameters
    ----------
    payer, payee : integer[payments]
        Company ids from 0.
    time : integer[payments] or None
        In any unit and any order. None: cycles of flows.
    amount : integer[payments], optional
        Positive, minor units. Without amounts every payment counts 1.
    window : int or None
        Longest span from first to last payment, in the unit of `time`; None: any.
    hops : int, optional
        Most payments of a round trip, at least 2.
    keep : float, str or Fraction, optional
        Share of the payment before that each payment carries at least, above 0 and at most 1; as a decimal number it is taken
        as written.
    ties : {'strict', 'file', 'any'}
        What equal times mean.
    companies : integer array, optional
        Only round trips whose first payer is one of these; without times: that pass through one of these.
    labels : integer[companies], optional
        Strong component of each company, as from ``strong_components``; computed when not given.
    top : int, optional
        List only so many round trips, those of most value. Where there are more than `limit` in all, they are looked for among
        the largest payments: see `complete_from`.
    limit : int
        Most round trips to find.
    seconds : float or None
        Time budget. A search that it ends is the one thing here whose result depends on the machine.
    bundles : bool
        Count each bundle without listing its round trips; not with `keep`, nor with ``ties='any'``.

    Returns
    -------
    Cycles
        The same for any number of threads.

    Raises
    ------
    InputError
        If the arrays do not fit together or hold what they must not.
    UsageError
        If a setting makes no sense.
    ResourceError
        If there are 2**31 - 1 payments or more inside components.

    Notes
    -----
    Memory beside the input: 90 bytes a payment inside components, measured at the peak with 10 million payments of a
    million companies in two threads; bundles take 36 more. Each thread takes 41 bytes a company, and reserves up to 17
    bytes a payment that it touches only as far as its searches reach.

    References
    ----------
    Kumar & Calders (2018), 2SCENT: an efficient algorithm to enumerate all simple temporal cycles, for the problem;
    Read & Tarjan (1975), Bounds on backtrack algorithms for listing cycles, paths, and spanning trees, for what
    bounds the listing.
    """
    from ouroflow.cycles import cpu, cpu_flows
    from ouroflow.cycles.cpu_search import Rule

    share = check_settings(window=window, hops=hops, keep=keep, ties=ties, top=top, limit=limit, seconds=seconds)
    payer, payee = _checked(payer, "payer", least=0), _checked(payee, "payee", least=0)
    payments = payer.size
    amounts = None if amount is None else _checked(amount, "amount", payments, least=1).astype(np.int64, copy=False)
    labelled = _checked_labels(labels, payer, payee)
    chosen = None
    if companies is not None:
        chosen = np.unique(_checked(companies, "companies", least=0)).astype(np.int64)
        if chosen.size and chosen[-1] >= labelled.size:
            raise InputError(f"companies holds {chosen[-1]}, but the ids are 0..{labelled.size - 1}")
    rule = Rule(hops, int(ties != "any"), share.numerator, share.denominator)
    budget: dict[str, Any] = {"chosen": chosen, "top": top, "limit": limit, "seconds": seconds}
    if time is None:
        if window is not None or bundles:
            raise UsageError("a window and bundles need times: cycles of flows have none")
        return cpu_flows.cycles_of_flows(payer, payee, amounts, labelled, rule, **budget)
    if bundles and (share or ties == "any"):
        raise UsageError("bundles are counted without the amount rule and without ties='any'; leave one of them out")
    times = _checked(time, "time", payments).astype(np.int64, copy=False)
    if payments and int(times.max()) - int(times.min()) > np.iinfo(np.int64).max:
        raise InputError("time spans more than int64 holds: use a coarser unit")
    inside = cpu.inside_components(payer, payee, times, amounts, labelled, chosen)
    return cpu.find_round_trips(inside, rule, window=window, ties=ties, bundles=bundles, **budget)


def check_settings(
    *,
    window: int | None,
    hops: int | None,
    keep: float | str | Fraction | None,
    ties: str,
    top: int | None,
    limit: int,
    seconds: float | None,
) -> Fraction:
    """Refuse settings that make no sense; return the amount rule as a fraction, 0 where there is none.

    Raises
    ------
    UsageError
        Naming the setting and what it may be.
    """
    if window is not None and window < 0:
        raise UsageError(f"window {window}: give a span of 0 or more, in the unit of the times")
    if hops is not None and hops < 2:
        raise UsageError(f"hops {hops}: a round trip has at least 2 payments, there and back")
    if ties not in TIES:
        raise UsageError(f"ties {ties!r}: choose one of {', '.join(TIES)}")
    if limit < 1:
        raise UsageError(f"limit {limit}: give the number of round trips to find, at least 1")
    if top is not None and not 1 <= top <= limit:
        raise UsageError(f"top {top}: give a number of round trips from 1 to the limit ({limit})")
    if seconds is not None and not seconds > 0:
        raise UsageError(f"seconds {seconds}: give a time budget above 0, or None for none")
    if keep is None:
        return Fraction(0)
    try:
        share = keep if isinstance(keep, Fraction) else Fraction(str(keep))
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if not 0 < share <= 1 or share.denominator > FINEST_SHARE:
        raise UsageError(f"keep {keep}: give a share above 0 and at most 1, with up to 6 decimals, such as 0.8")
    return share


def _checked(values: npt.ArrayLike, name: str, length: int | None = None, least: int | None = None) -> npt.NDArray[Any]:
    """Return a one-dimensional integer array of values of at least `least`."""
    array = np.asarray(values)
    if array.ndim != 1 or (length is not None and array.size != length):
        wanted = "one dimension" if length is None else f"one entry for each of the {length} payments"
        raise InputError(f"{name} has shape {array.shape}: give {wanted}")
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.dtype.kind not in "iu" or (array.dtype == np.uint64 and int(array.max()) > np.iinfo(np.int64).max):
        raise InputError(
            f"{name} has dtype {array.dtype}: give integers that fit int64; read_ledger turns files into such"
        )
    if least is not None and int(array.min()) < least:
        at = int((array < least).argmax())
        raise InputError(f"{name}[{at}] is {array[at]}: it must be at least {least}")
    return array


def _checked_labels(labels: npt.ArrayLike | None, payer: npt.NDArray[Any], payee: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return one component label per company."""
    if payer.size != payee.size:
        raise InputError(f"payer has {payer.size} ids and payee {payee.size}: every payment needs one of each")
    if labels is None:
        from ouroflow.components import strong_components

        return strong_components(payer, payee)
    array = _checked(labels, "labels", least=0)
    most = max((int(ids.max()) for ids in (payer, payee) if ids.size), default=-1)
    if most >= array.size:
        raise InputError(f"labels has {array.size} entries, but there is a company {most}: give one per company")
    return array
