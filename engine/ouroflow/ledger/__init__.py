"""Payments in: read, checked, every row accounted for.

The door of the room: :func:`read_ledger` takes paths, frames and graphs, and gives a :class:`Ledger` of int64 minor
units and dense company ids. The reading is Arrow's (`sources`), the meaning of columns is in `schema`, money in
`money`, times in `times`, the optional tables in `tables`, identities in `encode`; `cpu` puts the batches together.
"""

from ouroflow.ledger.cpu import read_ledger
from ouroflow.ledger.schema import InputFile, Ledger, RowCount

__all__ = ["InputFile", "Ledger", "RowCount", "read_ledger"]
