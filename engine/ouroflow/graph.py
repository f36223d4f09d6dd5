"""``FlowGraph``: who pays whom how much, the one object that every measure reads.

Companies are 0..n-1. A flow is all payments of one payer to one payee, summed. Payments to oneself are counted and left
out. Amounts are int64 minor units, so that sums do not depend on any order.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from ouroflow.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

Ids = npt.NDArray[np.int32] | npt.NDArray[np.int64]
"""Company ids or flow positions: int32 where they fit, else int64."""

ByPayer = tuple[npt.NDArray[np.int64], Ids, npt.NDArray[np.int64], Ids]
"""out_offsets, payee, amount, payments."""
ByPayee = tuple[npt.NDArray[np.int64], Ids, Ids]
"""in_offsets, in_payer, in_flow."""

INT64_MAX = 2**63 - 1
INT32_SPAN = 2**31
"""Ids, counts and positions below this fit int32."""

MOST_COMPANIES = 2**40
SUM_CHUNK = 1 << 20
NUMPY_LIMIT = 50_000
"""Up to so many payments NumPy sums them: numba would need longer to load than NumPy takes."""


@dataclass(frozen=True, eq=False)
class FlowGraph:
    """An immutable graph of flows, by payer and by payee.

    Build it with :meth:`from_arrays`. All arrays are read-only.

    Attributes
    ----------
    out_offsets : int64 array of shape (companies + 1,)
        The flows of payer ``i`` are ``out_offsets[i]:out_offsets[i + 1]``, sorted by payee.
    payee : int32 or int64 array of shape (flows,)
        Who is paid (int64 only from 2**31 companies on).
    amount : int64 array of shape (flows,)
        Minor units, all positive.
    payments : int32 or int64 array of shape (flows,)
        How many payments the flow sums up.
    in_offsets : int64 array of shape (companies + 1,)
        The same flows by payee: ``in_offsets[j]:in_offsets[j + 1]``, sorted by payer.
    in_payer : int32 or int64 array of shape (flows,)
        Who pays, in the order by payee.
    in_flow : int32 or int64 array of shape (flows,)
        Position of that flow in the order by payer.
    names : pyarrow.Array or None
        Identity of each company, None where the ids are the identities.
    inflow, outflow : int64 array of shape (companies,) or None
        Known external flows (z and y of the boundary), minor units. None: the implied boundary alone.
    self_payments, self_amount : int
        Number and sum of the payments to oneself that were left out.

    Notes
    -----
    Memory: 24 bytes per flow (int64 ids, counts and positions: 4 more each) and 16 bytes per company, plus the
    identities; 16 bytes per company where external flows are known; `paid`, `received` and `throughflow` take 8 bytes
    per company each and `payer` 4 per flow, from their first use on.
    """

    device: ClassVar[Literal["cpu"]] = "cpu"

    out_offsets: npt.NDArray[np.int64]
    payee: Ids
    amount: npt.NDArray[np.int64]
    payments: Ids
    in_offsets: npt.NDArray[np.int64]
    in_payer: Ids
    in_flow: Ids
    names: pa.Array | None = None
    inflow: npt.NDArray[np.int64] | None = None
    outflow: npt.NDArray[np.int64] | None = None
    self_payments: int = 0
    self_amount: int = 0

    def __post_init__(self) -> None:
        """Make every array read-only."""
        for value in vars(self).values():
            if isinstance(value, np.ndarray):
                value.setflags(write=False)

    @classmethod
    def from_arrays(
        cls,
        payer: npt.ArrayLike,
        payee: npt.ArrayLike,
        amount: npt.ArrayLike | None = None,
        *,
        companies: int | None = None,
        names: Any = None,
        inflow: npt.ArrayLike | None = None,
        outflow: npt.ArrayLike | None = None,
    ) -> FlowGraph:
        """Sum payments into the flow graph, after checking every value.

        Parameters
        ----------
        payer, payee : integer arrays of shape (payments,)
            Ids from 0 on, of any integer dtype.
        amount : integer array of shape (payments,), optional
            Minor units (cents), positive. None: 1 per payment.
        companies : int, optional
            Number of companies. Default: the length of `names` or of the external flows, else the largest id + 1.
        names : pyarrow.Array or sequence, optional
            Identity of each company.
        inflow, outflow : integer arrays of shape (companies,), optional
            Known external flows in minor units, 0 or more. Where only one is given the other is 0.

        Raises
        ------
        InputError
            If lengths differ, an id is negative or not below `companies`, an amount is not a positive integer (the
            message names the first position), or if the sum of all amounts, external flows included, passes int64.
        """
        payer_ids, payee_ids = _id_array(payer, "payer"), _id_array(payee, "payee")
        if len(payer_ids) != len(payee_ids):
            raise InputError(f"payer has {len(payer_ids)} entries and payee {len(payee_ids)}: one of each per payment")
        amounts = None
        if amount is not None:
            amounts = _amount_array(amount, "amount")
            if len(amounts) != len(payer_ids):
                raise InputError(f"amount has {len(amounts)} entries for {len(payer_ids)} payments: one per payment")
            _refuse(amounts <= 0, amounts, "amount", "amounts are positive; turn a refund around (payee pays payer)")
        known = (
            None if inflow is None else _external_array(inflow, "inflow"),
            None if outflow is None else _external_array(outflow, "outflow"),
        )
        names = None if names is None else _name_array(names)
        companies = _company_count(companies, payer_ids, payee_ids, names, known)
        id_type = np.int32 if companies < INT32_SPAN else np.int64
        return cls.from_payments(
            payer_ids.astype(id_type, copy=False),
            payee_ids.astype(id_type, copy=False),
            amounts,
            companies=companies,
            names=names,
            inflow=known[0],
            outflow=known[1],
        )

    @classmethod
    def from_payments(
        cls,
        payer: Ids,
        payee: Ids,
        amount: npt.NDArray[np.int64] | None,
        *,
        companies: int,
        names: pa.Array | None = None,
        inflow: npt.NDArray[np.int64] | None = None,
        outflow: npt.NDArray[np.int64] | None = None,
    ) -> FlowGraph:
        """Sum payments that are already known to be sound; the lane of the ledger, which has checked every row.

        Parameters
        ----------
        payer, payee : int32 (int64 from 2**31 companies on) arrays of shape (payments,)
            Ids in 0..companies-1; not checked again.
        amount : int64 array of shape (payments,) or None
            Positive minor units; not checked again, but for their sum. None: 1 per payment.
        companies, names, inflow, outflow
            As in :meth:`from_arrays`; the external flows are kept without a copy and become read-only.

        Raises
        ------
        InputError
            If the sum of all amounts, or with the external flows, passes int64.
        """
        total = len(payer) if amount is None else exact_sum(amount)
        if (inflow is None) != (outflow is None):
            zeros = np.zeros(companies, dtype=np.int64)
            inflow, outflow = (zeros if inflow is None else inflow), (zeros if outflow is None else outflow)
        refuse_past_int64(total, "the payments")
        for external, what in ((inflow, "inflow"), (outflow, "outflow")):
            if external is not None:
                refuse_past_int64(total + exact_sum(external), f"the payments and the known {what}")
        by_payer, by_payee = _both_orders(payer, payee, amount, companies)
        _, _, flow_amount, payments = by_payer
        return cls(
            *by_payer,
            *by_payee,
            names=names,
            inflow=inflow,
            outflow=outflow,
            self_payments=len(payer) - int(payments.sum(dtype=np.int64)),
            self_amount=total - int(flow_amount.sum()),
        )

    @property
    def host(self) -> FlowGraph:
        """The graph on the host: this one (see ``DeviceGraph.host``)."""
        return self

    @property
    def xp(self) -> Any:
        """The array module of its arrays: NumPy (see ``DeviceGraph.xp``)."""
        return np

    def place(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a host array where the graph lies: as it is (see ``DeviceGraph.place``)."""
        return array

    @property
    def companies(self) -> int:
        """Number of companies, those without any flow included."""
        return len(self.out_offsets) - 1

    @property
    def flows(self) -> int:
        """Number of flows: ordered pairs of companies with at least one payment."""
        return len(self.payee)

    @cached_property
    def transactions(self) -> int:
        """Number of payments that are summed in the flows; payments to oneself are not among them."""
        return int(self.payments.sum(dtype=np.int64))

    @cached_property
    def total(self) -> int:
        """All the money of the flows, minor units."""
        return int(self.amount.sum())

    @cached_property
    def payer(self) -> Ids:
        """Payer of each flow, in the order by payer (the row of each entry)."""
        return _read_only(np.repeat(np.arange(self.companies, dtype=self.payee.dtype), np.diff(self.out_offsets)))

    @cached_property
    def paid(self) -> npt.NDArray[np.int64]:
        """out_i: what each company pays to others, minor units."""
        return _read_only(_row_sums(self.amount, self.out_offsets))

    @cached_property
    def received(self) -> npt.NDArray[np.int64]:
        """in_i: what each company receives from others, minor units."""
        return _read_only(_row_sums(self.amount[self.in_flow], self.in_offsets))

    @cached_property
    def throughflow(self) -> npt.NDArray[np.int64]:
        """T_i = max(in_i + z_i, out_i + y_i), minor units; z = y = 0 where no external flow is known.

        Each entry fits int64. Their sum may not (it can be twice as large): add them with :func:`exact_sum`.
        """
        if self.inflow is None or self.outflow is None:
            return _read_only(np.maximum(self.received, self.paid))
        return _read_only(np.maximum(self.received + self.inflow, self.paid + self.outflow))

    def intra(self, labels: Ids) -> IntraFlows:
        """Cut out the flows inside each nontrivial component, for all components in one pass of O(companies + flows).

        Parameters
        ----------
        labels : int32 array of shape (companies,)
            Component of each company, as from ``strong_components``: 0..count-1 in order of falling size, so that those
            of two companies or more come first.
        """
        sizes = np.bincount(labels)
        count = int(np.count_nonzero(sizes >= 2))
        company_offsets = np.zeros(count + 1, dtype=np.int64)
        np.cumsum(sizes[:count], out=company_offsets[1:])
        members = np.flatnonzero(labels < count)
        company: Ids = members[_stable_order(labels[members])].astype(self.payee.dtype)  # type: ignore[assignment]
        local = np.empty(self.companies, dtype=self.payee.dtype)
        local[company] = np.arange(len(company)) - np.repeat(company_offsets[:-1], sizes[:count])
        payer = self.payer
        inside = np.flatnonzero((labels[payer] == labels[self.payee]) & (labels[payer] < count))
        inside_offsets = _offsets(payer[inside], self.companies)
        row_sizes = np.diff(inside_offsets)[company]
        flow_offsets = np.zeros(len(company) + 1, dtype=np.int64)
        np.cumsum(row_sizes, out=flow_offsets[1:])
        within_row = np.arange(flow_offsets[-1]) - np.repeat(flow_offsets[:-1], row_sizes)
        flow = inside[np.repeat(inside_offsets[company], row_sizes) + within_row]
        return IntraFlows(
            company_offsets,
            company,
            flow_offsets,
            local[self.payee[flow]],
            self.amount[flow],
            flow.astype(self.in_flow.dtype),
        )


@dataclass(frozen=True, eq=False)
class IntraFlows:
    """The flows inside components of two companies or more, one small CSR graph after the other.

    Component ``c`` has the companies ``company[a:b]`` with ``a, b = company_offsets[c], company_offsets[c + 1]``; its
    local ids are 0..b-a-1. The flows of the company at position ``i`` are ``flow_offsets[i]:flow_offsets[i + 1]``.

    Attributes
    ----------
    company_offsets : int64 array of shape (components + 1,)
    company : int32 or int64 array of shape (members,)
        Company ids by component, ascending inside each.
    flow_offsets : int64 array of shape (members + 1,)
    payee : int32 or int64 array of shape (flows inside,)
        Local id of the payee, ascending inside each row.
    amount : int64 array of shape (flows inside,)
        Minor units.
    flow : int32 or int64 array of shape (flows inside,)
        Position of the flow in the graph.
    """

    company_offsets: npt.NDArray[np.int64]
    company: Ids
    flow_offsets: npt.NDArray[np.int64]
    payee: Ids
    amount: npt.NDArray[np.int64]
    flow: Ids

    @property
    def components(self) -> int:
        """Number of components of two companies or more."""
        return len(self.company_offsets) - 1


def exact_sum(values: npt.NDArray[np.int64]) -> int:
    """Sum int64 values without overflow, whatever their order and signs."""
    if not len(values):
        return 0
    largest = max(int(values.max()), -int(values.min()))
    if largest * len(values) <= INT64_MAX:
        return int(values.sum())
    total = 0
    for start in range(0, len(values), SUM_CHUNK):
        part = values[start : start + SUM_CHUNK]
        # Sums of the upper and the lower halves of the words: both far below int64 for a chunk.
        total += (int((part >> 32).sum()) << 32) + int((part & 0xFFFFFFFF).sum())
    return total


def _both_orders(
    payer: Ids, payee: Ids, amount: npt.NDArray[np.int64] | None, companies: int
) -> tuple[ByPayer, ByPayee]:
    """Sum parallel payments, leave out those to oneself, and order the flows both ways.

    The two ways to do it give the same arrays, bit for bit.
    """
    if len(payer) <= NUMPY_LIMIT:
        return _both_orders_small(payer, payee, amount, companies)
    from ouroflow import aggregate

    by_payer = aggregate.sum_payments(payer, payee, amount, companies)
    return by_payer, aggregate.by_payee(by_payer[0], by_payer[1])


def _both_orders_small(
    payer: Ids, payee: Ids, amount: npt.NDArray[np.int64] | None, companies: int
) -> tuple[ByPayer, ByPayee]:
    """Sum and order with NumPy alone."""
    kept = payer != payee
    payer, payee = payer[kept], payee[kept]
    order = np.lexsort((payee, payer))
    payer, payee = payer[order], payee[order]
    first = np.ones(len(payer), dtype=bool)
    first[1:] = (payer[1:] != payer[:-1]) | (payee[1:] != payee[:-1])
    starts = np.flatnonzero(first)
    payments = np.diff(starts, append=len(payer))
    if amount is None or not len(starts):
        summed = payments.astype(np.int64)
    else:
        summed = np.add.reduceat(amount[kept][order], starts)
    payer, payee = payer[starts], payee[starts]
    counts = _narrowed(payments, len(kept))
    by_payee = np.argsort(payee, kind="stable")
    in_flow = _narrowed(by_payee, len(payee))
    return (_offsets(payer, companies), payee, summed, counts), (_offsets(payee, companies), payer[by_payee], in_flow)


def _offsets(ids: Ids, companies: int) -> npt.NDArray[np.int64]:
    """Return where the entries of each id begin, once they are in the order of the ids."""
    offsets = np.zeros(companies + 1, dtype=np.int64)
    np.cumsum(np.bincount(ids, minlength=companies), out=offsets[1:])
    return offsets


def _stable_order(keys: Ids) -> npt.NDArray[np.int64]:
    """Return the order that sorts keys of 0 or more, equal ones as they stand.

    NumPy sorts 16-bit integers by radix, in linear time: two rounds do for 32 bits.
    """
    order = np.argsort((keys & 0xFFFF).astype(np.uint16), kind="stable")
    if len(keys) and int(keys.max()) > 0xFFFF:
        order = order[np.argsort((keys >> 16)[order].astype(np.uint16), kind="stable")]
    return order


def _row_sums(values: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Sum the values of each row, 0 for empty rows; no sum passes int64 because the sum of all does not."""
    running = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(values, out=running[1:])
    return np.diff(running[offsets])


def _narrowed(values: npt.NDArray[np.int64], span: int) -> Any:
    """Return values below `span` as int32 where they fit."""
    return values.astype(np.int32 if span < INT32_SPAN else np.int64)


def _read_only(array: Any) -> Any:
    array.setflags(write=False)
    return array


def _integer_array(values: npt.ArrayLike, what: str, advice: str) -> npt.NDArray[Any]:
    """Return the values as a one-dimensional integer array without copying one that is."""
    if np.ma.is_masked(values):
        raise InputError(f"{what} is a masked array with masked entries: take out what does not count before")
    array = np.asarray(values)
    if array.ndim != 1:
        raise InputError(f"{what} has shape {array.shape}: give a one-dimensional array")
    if array.size == 0:
        return np.empty(0, dtype=np.int64)
    if array.dtype.kind not in "iu":
        raise InputError(f"{what} has dtype {array.dtype}: {advice}")
    return array


def _id_array(values: npt.ArrayLike, what: str) -> Any:
    """Return company ids, refusing negative ones and those past int64."""
    advice = "company ids are integers; read_ledger takes names and turns them into ids"
    array = _integer_array(values, what, advice)
    _refuse(array < 0, array, what, "company ids begin at 0")
    return array


def _amount_array(values: npt.ArrayLike, what: str) -> npt.NDArray[np.int64]:
    """Return amounts as int64."""
    advice = "amounts are integers in minor units; convert with np.rint(values * 100).astype(np.int64) for two decimals"
    array = _integer_array(values, what, advice)
    if array.dtype == np.uint64:
        _refuse(array > INT64_MAX, array, what, f"amounts are at most {INT64_MAX}")
    return array.astype(np.int64, copy=False)


def _external_array(values: npt.ArrayLike, what: str) -> npt.NDArray[np.int64]:
    """Return a private copy of known external flows."""
    array = _amount_array(values, what)
    _refuse(array < 0, array, what, "external flows are 0 or more")
    return array.copy()


def _name_array(names: Any) -> pa.Array:
    """Return identities as one Arrow array."""
    import pyarrow as pa

    if isinstance(names, pa.ChunkedArray):
        names = names.combine_chunks()
    return names if isinstance(names, pa.Array) else pa.array(names)


def _company_count(
    companies: int | None,
    payer: npt.NDArray[Any],
    payee: npt.NDArray[Any],
    names: pa.Array | None,
    known: tuple[npt.NDArray[np.int64] | None, npt.NDArray[np.int64] | None],
) -> int:
    """Return the number of companies, and check that everything agrees with it."""
    lengths = {"names": names, "inflow": known[0], "outflow": known[1]}
    given = {what: len(values) for what, values in lengths.items() if values is not None}
    largest = max((int(ids.max()) for ids in (payer, payee) if len(ids)), default=-1)
    count = operator.index(companies) if companies is not None else next(iter(given.values()), largest + 1)
    if not 0 <= count <= MOST_COMPANIES:
        raise InputError(
            f"{count} companies: there can be 0 to {MOST_COMPANIES}, and memory is taken for every id; "
            "number them without gaps (read_ledger does)"
        )
    for what, length in given.items():
        if length != count:
            raise InputError(f"{what} has {length} entries for {count} companies: give one per company")
    if largest >= count:
        for ids, what in ((payer, "payer"), (payee, "payee")):
            _refuse(ids >= count, ids, what, f"with {count} companies the ids are 0..{count - 1}")
    return count


def _refuse(bad: npt.NDArray[np.bool_], values: npt.NDArray[Any], what: str, advice: str) -> None:
    """Raise for the first bad value, if there is one."""
    if bad.any():
        position = int(bad.argmax())
        raise InputError(f"{what}[{position}] is {values[position]}: {advice}")


def refuse_past_int64(total: int, what: str) -> None:
    """Raise where a sum of money is more than int64 holds."""
    if total > INT64_MAX:
        raise InputError(
            f"{what} sum up to {total} minor units, more than int64 holds ({INT64_MAX}): "
            "use a coarser unit (fewer decimals) or split the data"
        )
