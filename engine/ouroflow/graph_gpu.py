"""``DeviceGraph``: the flow graph in the memory of an accelerator, array for array what ``FlowGraph`` is on the host.

Payments are packed into one 64-bit key each (payer and payee), sorted, and equal neighbours summed: sums of int64 do not
depend on the order, so the arrays equal the host's to the bit. What does not fit at once is summed in pieces, and the
pieces are merged.

Memory, with p payments (of one piece), m flows and n companies: `BYTES_PER_PAYMENT` p + 8 n while it is built, then 24 m +
16 n (32-bit ids). Bytes moved: about 16 per payment and radix pass of the sort (8 passes), 60 more to gather and sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from ouroflow.errors import ResourceError
from ouroflow.graph import INT32_SPAN, FlowGraph, exact_sum, refuse_past_int64

if TYPE_CHECKING:
    import pyarrow as pa

    from ouroflow.runtime.launch import Accelerator, Array

BYTES_PER_PAYMENT = 72
"""Keys, order, the sort's own copies, gathered amounts, and their running sums."""

SUMMED_AT_ONCE = 1 << 30
"""Numbers of one running sum: CuPy has left those of more than 2^31 undone in silence, those of 2^32 later still (#9841)."""

MOST_AT_ONCE = 2**31 - 1
"""Payments sorted at once: CuPy scatters and masks with 32-bit counts (#10290)."""

PACKED_COMPANIES = 3_037_000_499
"""Up to so many companies payer * companies + payee fits int64."""


@dataclass(frozen=True, eq=False)
class DeviceGraph:
    """An immutable graph of flows in device memory; see :class:`ouroflow.FlowGraph` for the meaning of each array.

    Attributes
    ----------
    on : Accelerator
        Where the arrays lie.
    out_offsets, payee, amount, payments, in_offsets, in_payer, in_flow : device arrays
        As in ``FlowGraph``, of the same dtypes.
    names : pyarrow.Array or None
        Identity of each company, on the host.
    inflow, outflow : device arrays or None
        Known external flows.
    self_payments, self_amount : int
        Payments to oneself that were left out.
    """

    device: ClassVar[Literal["gpu"]] = "gpu"

    on: Accelerator
    out_offsets: Array
    payee: Array
    amount: Array
    payments: Array
    in_offsets: Array
    in_payer: Array
    in_flow: Array
    names: pa.Array | None = None
    inflow: Array | None = None
    outflow: Array | None = None
    self_payments: int = 0
    self_amount: int = 0

    @classmethod
    def from_host(cls, on: Accelerator, graph: FlowGraph) -> DeviceGraph:
        """Copy a graph to the device.

        Raises
        ------
        ResourceError
            If the device has not the memory for it.
        """
        on.require(24 * graph.flows + 16 * graph.companies, f"{graph.flows:,} flows")
        moved = cls(
            on,
            on.to_device(graph.out_offsets),
            on.to_device(graph.payee),
            on.to_device(graph.amount),
            on.to_device(graph.payments),
            on.to_device(graph.in_offsets),
            on.to_device(graph.in_payer),
            on.to_device(graph.in_flow),
            names=graph.names,
            inflow=None if graph.inflow is None else on.to_device(graph.inflow),
            outflow=None if graph.outflow is None else on.to_device(graph.outflow),
            self_payments=graph.self_payments,
            self_amount=graph.self_amount,
        )
        vars(moved)["host"] = graph
        return moved

    @classmethod
    def from_payments(
        cls,
        on: Accelerator,
        payer: Array | npt.NDArray[Any],
        payee: Array | npt.NDArray[Any],
        amount: Array | npt.NDArray[np.int64] | None,
        *,
        companies: int,
        names: pa.Array | None = None,
        inflow: npt.NDArray[np.int64] | None = None,
        outflow: npt.NDArray[np.int64] | None = None,
    ) -> DeviceGraph:
        """Sum payments that are already known to be sound, as ``FlowGraph.from_payments``.

        Parameters
        ----------
        on : Accelerator
            Where to sum them.
        payer, payee : int32 (int64 from 2**31 companies on) arrays of shape (payments,)
            Ids in 0..companies-1, in device memory or on the host; from there they are taken up piece by piece.
        amount : int64 array of shape (payments,) or None
            Positive minor units, where the ids are. None: 1 per payment.
        companies, names, inflow, outflow
            As in ``FlowGraph.from_payments``.

        Raises
        ------
        InputError
            If the sum of all amounts, or with the external flows, passes int64.
        ResourceError
            If the flows do not fit the device.
        """
        total = len(payer) if amount is None else exact_sum(amount)
        refuse_past_int64(total, "the payments")
        for external, what in ((inflow, "inflow"), (outflow, "outflow")):
            if external is not None:
                refuse_past_int64(total + exact_sum(external), f"the payments and the known {what}")
        if (inflow is None) != (outflow is None):
            zeros = np.zeros(companies, np.int64)
            inflow, outflow = (zeros if inflow is None else inflow), (zeros if outflow is None else outflow)
        flows = _summed_in_pieces(on, payer, payee, amount, companies)
        xp, apart = on.xp, int(flows.payments.sum())
        ids = xp.arange(companies + 1)
        by_payee = xp.argsort(flows.payee, kind="stable")
        return cls(
            on,
            xp.searchsorted(flows.payer, ids).astype(np.int64),
            flows.payee,
            flows.amount,
            flows.payments.astype(np.int32 if len(payer) < INT32_SPAN else np.int64),
            xp.searchsorted(flows.payee[by_payee], ids).astype(np.int64),
            flows.payer[by_payee],
            by_payee.astype(np.int32 if len(by_payee) < INT32_SPAN else np.int64),
            names=names,
            inflow=None if inflow is None else on.to_device(inflow),
            outflow=None if outflow is None else on.to_device(outflow),
            self_payments=len(payer) - apart,
            self_amount=total - int(flows.amount.sum()),
        )

    def __post_init__(self) -> None:
        """Make arrays read-only where the machine can (the host lane): a kernel that writes to one is refused."""
        for value in vars(self).values():
            if isinstance(value, self.on.xp.ndarray):
                self.on.seal(value)

    @cached_property
    def host(self) -> FlowGraph:
        """The same graph on the host: copied once, for what is written out or finished there."""
        down = self.on.to_host
        return FlowGraph(
            down(self.out_offsets),
            down(self.payee),
            down(self.amount),
            down(self.payments),
            down(self.in_offsets),
            down(self.in_payer),
            down(self.in_flow),
            names=self.names,
            inflow=None if self.inflow is None else down(self.inflow),
            outflow=None if self.outflow is None else down(self.outflow),
            self_payments=self.self_payments,
            self_amount=self.self_amount,
        )

    @property
    def xp(self) -> Any:
        """The array module of the arrays: CuPy on a device."""
        return self.on.xp

    def place(self, array: npt.NDArray[Any]) -> Array:
        """Return a host array where the graph lies: a copy in device memory."""
        return self.on.to_device(array)

    @property
    def companies(self) -> int:
        """Number of companies, those without any flow included."""
        return len(self.out_offsets) - 1

    @property
    def flows(self) -> int:
        """Number of flows."""
        return len(self.payee)

    @cached_property
    def transactions(self) -> int:
        """Number of payments that are summed in the flows."""
        return int(self.payments.sum(dtype=np.int64))

    @cached_property
    def total(self) -> int:
        """All the money of the flows, minor units."""
        return int(self.amount.sum())

    @cached_property
    def payer(self) -> Array:
        """Payer of each flow, in the order by payer: device array of the dtype of `payee`."""
        xp = self.on.xp
        begun = xp.bincount(self.out_offsets[1:-1], minlength=self.flows + 1)[: self.flows]
        return running_sums(xp, begun)[1:].astype(self.payee.dtype)

    @cached_property
    def paid(self) -> Array:
        """out_i: int64 device array of shape (companies,), minor units."""
        return self._row_sums(self.amount, self.out_offsets)

    @cached_property
    def received(self) -> Array:
        """in_i: int64 device array of shape (companies,), minor units."""
        return self._row_sums(self.amount[self.in_flow], self.in_offsets)

    @cached_property
    def throughflow(self) -> Array:
        """T_i = max(in_i + z_i, out_i + y_i): int64 device array of shape (companies,), minor units."""
        if self.inflow is None or self.outflow is None:
            return self.on.xp.maximum(self.received, self.paid)
        return self.on.xp.maximum(self.received + self.inflow, self.paid + self.outflow)

    def _row_sums(self, values: Array, offsets: Array) -> Array:
        xp = self.on.xp
        return xp.diff(running_sums(xp, values)[offsets])


def running_sums(xp: Any, values: Array, *, at_once: int = SUMMED_AT_ONCE) -> Array:
    """Return the sum of the integers before each place, the end included: int64 of shape (values + 1,)."""
    sums = xp.zeros(len(values) + 1, np.int64)
    for first in range(0, len(values), at_once):
        part = sums[first + 1 : first + 1 + at_once]
        part[:] = values[first : first + at_once]
        xp.cumsum(part, out=part)
        if first:
            part += sums[first]
    return sums


@dataclass(frozen=True, eq=False)
class _Flows:
    """Payments, or the flows they sum up to: device arrays."""

    payer: Array
    payee: Array
    amount: Array
    payments: Array


def _summed_in_pieces(on: Accelerator, payer: Any, payee: Any, amount: Any, companies: int) -> _Flows:
    """Sum parallel payments, as many at once as the free memory allows."""
    free = on.free_bytes()
    piece = max(1, min(free // BYTES_PER_PAYMENT, MOST_AT_ONCE))
    if len(payer) <= piece:
        return _summed(on, _moved(on, payer, payee, amount, 0, len(payer)), companies)
    # A quarter of the memory for each: the flows so far, a piece, and the sum of both while it is made.
    piece = max(1, piece // 4)
    flows: _Flows | None = None
    for first in range(0, len(payer), piece):
        summed = _summed(on, _moved(on, payer, payee, amount, first, min(first + piece, len(payer))), companies)
        flows = summed if flows is None else _merged(on, flows, summed, companies)
        if BYTES_PER_PAYMENT * len(flows.payer) > free // 2:
            raise ResourceError(
                f"the flows of {len(payer):,} payments, {len(flows.payer):,} of them after {first + piece:,} payments, do "
                f"not fit the {free / 1e6:,.0f} MB of free memory of {on.name}; use a device with more memory, or "
                "--device cpu, which computes the same"
            )
    assert flows is not None
    return flows


def _moved(on: Accelerator, payer: Any, payee: Any, amount: Any, first: int, last: int) -> _Flows:
    """Return payments first..last in device memory, each as a flow of its own."""
    here = slice(first, last)
    parts = [payer[here], payee[here]] + ([] if amount is None else [amount[here]])
    moved = [part if on.is_here(part) else on.to_device(part) for part in parts]
    ones = on.xp.ones(last - first, np.int64)
    return _Flows(moved[0], moved[1], ones if amount is None else moved[2], ones)


def _merged(on: Accelerator, flows: _Flows, more: _Flows, companies: int) -> _Flows:
    join = on.xp.concatenate
    both = _Flows(
        join([flows.payer, more.payer]),
        join([flows.payee, more.payee]),
        join([flows.amount, more.amount]),
        join([flows.payments, more.payments]),
    )
    return _summed(on, both, companies)


def _summed(on: Accelerator, flows: _Flows, companies: int) -> _Flows:
    """Leave out payments to oneself, and sum amounts and counts of equal payer and payee."""
    xp = on.xp
    payer, payee, amount, payments = flows.payer, flows.payee, flows.amount, flows.payments
    apart = payer != payee
    if not bool(apart.all()):
        payer, payee, amount, payments = payer[apart], payee[apart], amount[apart], payments[apart]
    if not len(payer):
        return _Flows(payer, payee, amount, payments)
    if companies <= PACKED_COMPANIES:
        key = payer.astype(np.int64) * companies + payee
        order = xp.argsort(key, kind="stable")
        key = key[order]
        new = key[1:] != key[:-1]
        del key
    else:
        order = xp.lexsort(xp.stack([payee, payer]))
        new = (payer[order][1:] != payer[order][:-1]) | (payee[order][1:] != payee[order][:-1])
    starts = xp.concatenate([xp.zeros(1, np.int64), xp.flatnonzero(new) + 1])
    ends = xp.concatenate([starts[1:], xp.full(1, len(order), np.int64)])
    first = order[starts]

    def sums(values: Array) -> Array:
        running = running_sums(xp, values[order])
        return running[ends] - running[starts]

    return _Flows(payer[first], payee[first], sums(amount), sums(payments))
