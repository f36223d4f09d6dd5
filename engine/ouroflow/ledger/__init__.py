"""Payments in: read, checked, every row accounted for.

The door of the room: :func:`read_ledger` takes paths, frames and graphs, and gives a :class:`Ledger` of int64 minor
units and dense company ids. The reading is Arrow's (`sources`), the meaning of columns is in `schema`, money in
`money`, times in `times`, the optional tables in `tables`, identities in `encode`; `cpu` puts the batches together.
`gpu` reads clean files on a device, through cuDF, and leaves everything else to `cpu`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ouroflow.ledger.cpu import read_ledger
from ouroflow.ledger.schema import InputFile, Ledger, RowCount

if TYPE_CHECKING:
    from ouroflow.runtime.launch import Accelerator

__all__ = ["InputFile", "Ledger", "RowCount", "read_ledger", "reader"]


def reader(on: Accelerator | None) -> Callable[..., Ledger]:
    """Return what reads payments for a device, or on the host where there is none; both take what `read_ledger` takes."""
    if on is None:
        return read_ledger
    from ouroflow.ledger import gpu

    return partial(gpu.read_ledger, on)
