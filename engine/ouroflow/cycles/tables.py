"""Round trips as Arrow tables: cycles.parquet, cycle_payments.parquet and the rings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

if TYPE_CHECKING:
    from ouroflow.cycles import Cycles


def cycles_table(cycles: Cycles, names: pa.Array | None) -> pa.Table:
    """Return one row per round trip, the most valuable first; money in minor units, times as in the input."""
    timed = cycles.time is not None
    span = cycles.last_time - cycles.first_time if timed else None  # type: ignore[operator]
    none = pa.nulls(cycles.listed, pa.int64())
    return pa.table(
        {
            "cycle": np.arange(cycles.listed),
            "companies": pa.LargeListArray.from_arrays(cycles.offsets, _identities(cycles.payer, names)),
            "hops": cycles.hops,
            "value": cycles.value,
            "first_time": cycles.first_time if timed else none,
            "last_time": cycles.last_time if timed else none,
            "span": span if timed else none,
            "returned": cycles.returned if timed else none.cast(pa.float64()),
            "fee_lost": cycles.fee_lost if timed else none,
            "bundle": cycles.bundle,
            "ring": cycles.rings.ring,
        }
    )


def payments_table(cycles: Cycles, names: pa.Array | None, payment_id: Any) -> pa.Table:
    """Return one row per payment of a round trip, by round trip and step (from 1)."""
    steps = cycles.rows.size
    columns = {
        "cycle": np.repeat(np.arange(cycles.listed), cycles.hops),
        "step": np.arange(1, steps + 1) - np.repeat(cycles.offsets[:-1], cycles.hops),
        "payment": pa.array(cycles.rows) if payment_id is None else payment_id.take(pa.array(cycles.rows)),
        "row": cycles.rows,
        "payer": _identities(cycles.payer, names),
        "payee": _identities(cycles.payee, names),
        "amount": cycles.amount,
        "time": pa.nulls(steps, pa.int64()) if cycles.time is None else cycles.time,
    }
    return pa.table(columns)


def rings_table(cycles: Cycles) -> pa.Table:
    """Return one row per ring, the most valuable first."""
    rings = cycles.rings
    return pa.table(
        {
            "ring": np.arange(rings.value.size),
            "cycles": rings.cycles,
            "payments": rings.payments,
            "companies": rings.companies,
            "value": rings.value,
        }
    )


def _identities(ids: npt.NDArray[np.int64], names: pa.Array | None) -> pa.Array:
    return pa.array(ids) if names is None else names.take(pa.array(ids))
