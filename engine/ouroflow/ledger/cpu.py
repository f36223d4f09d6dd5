"""From batches of columns to a ledger: every row is used, a payment to oneself, or set aside with a reason.

Batches are cleaned as whole Arrow columns. Where nothing is wrong with a batch nothing is copied or looked at row by row; the reasons of
single rows are computed only for batches in which a cheap test of the whole column finds something.

Memory: 16 bytes per payment for payer, payee and amount, 8 more for each of time, low, high and rows that are not all used, 4 for status and
kind; one batch of 131,072 rows at a time on top, and the dictionary of identities.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ouroflow.errors import InputError, UsageError
from ouroflow.ledger import schema
from ouroflow.ledger.encode import Identities, prefetch
from ouroflow.ledger.money import Minor, apply_rates, to_minor
from ouroflow.ledger.schema import Ledger, RowCount, choose_columns
from ouroflow.ledger.sources import Source, open_sources
from ouroflow.ledger.tables import Boundary, Entities, Rates, read_boundary, read_entities, read_rates
from ouroflow.ledger.times import to_times

EXAMPLES = 10
"""Bad rows shown when the reading stops."""

Codes = npt.NDArray[np.uint8]
Int64s = npt.NDArray[np.int64]


def read_ledger(
    source: Any,
    *,
    payer: str | None = None,
    payee: str | None = None,
    amount: str | None = None,
    time: str | None = None,
    id: str | None = None,
    currency: str | None = None,
    status: str | None = None,
    kind: str | None = None,
    low: str | None = None,
    high: str | None = None,
    decimals: int = 2,
    statuses: set[str] | None = None,
    reversals: str = "stop",
    on_bad_rows: str = "stop",
    rates: Any = None,
    entities: Any = None,
    boundary: Any = None,
) -> Ledger:
    """Read payments, check them, and account for every row.

    Parameters
    ----------
    source : path, list of paths, data frame, table or graph
        Parquet, CSV (also .gz, .bz2, .zst), Arrow; a folder or a glob of them; a URL that fsspec can open; a pandas or Polars data
        frame, an Arrow table, a NetworkX graph; or a list of these, with the same columns.
    payer, payee, amount, time, id, currency, status, kind, low, high : str, optional
        Column of each role. Guessed from its name when that is unambiguous; '' means: use none.
    decimals : int
        Minor units are 10^-decimals of the unit of amounts, 0 to 18.
    statuses : set of str, optional
        Use only payments of these statuses; the others are counted.
    reversals : {'stop', 'flip'}
        What a negative amount is: a bad row, or money that the payee pays back.
    on_bad_rows : {'stop', 'reject'}
        Stop with counts and examples, or set bad rows aside in ``Ledger.rejected``.
    rates : path or table, optional
        Columns currency, rate[, date]: one unit of the currency is so many units of the result.
    entities : path or table, optional
        Columns company, parent: companies to merge before anything else.
    boundary : path or table, optional
        Columns company, inflow, outflow: known external flows, in the unit of amounts.

    Returns
    -------
    Ledger

    Raises
    ------
    InputError
        If the input cannot be read, if a column is missing or ambiguous, if rows are bad and the reading is to stop, or if no
        payment is left.
    UsageError
        If a setting makes no sense.
    """
    _check_settings(decimals, reversals, on_bad_rows)
    chosen = {
        "payer": payer, "payee": payee, "amount": amount, "time": time, "id": id, "currency": currency,
        "status": status, "kind": kind, "low": low, "high": high,
    }  # fmt: skip
    tables = _Tables(
        None if rates is None else read_rates(rates),
        None if entities is None else read_entities(entities),
        None if boundary is None else read_boundary(boundary, decimals),
    )
    sources = open_sources(source)
    columns, guess_notes = choose_columns(sources[0].columns, chosen, sources[0].path, sources[0].headerless)
    _check_same_columns(sources, columns)
    if statuses is not None and "status" not in columns:
        raise InputError(f"{sources[0].path}: payments are to be chosen by status, but no column is known to be the status")
    reading = _Reading(columns, decimals, statuses, reversals == "flip", tables, on_bad_rows == "reject")
    reading.reserve(sources)
    for table in sources:
        reading.read(table)
    guessed = tuple(role for role in columns if not chosen.get(role))
    notes = [note for table in sources for note in table.notes]
    if guessed and not sources[0].headerless:
        notes.append("columns guessed: " + ", ".join(f"{role} = {columns[role]}" for role in guessed))
    if "amount" not in columns:
        notes.append("no amount column: every payment counts as 1")
    return reading.finish(columns, guessed, [*notes, *guess_notes])


def _check_settings(decimals: int, reversals: str, on_bad_rows: str) -> None:
    if not 0 <= decimals <= 18:
        raise UsageError(f"decimals {decimals}: give a number from 0 to 18")
    if reversals not in ("stop", "flip"):
        raise UsageError(f"reversals {reversals!r}: choose stop or flip")
    if on_bad_rows not in ("stop", "reject"):
        raise UsageError(f"on_bad_rows {on_bad_rows!r}: choose stop or reject")


def _check_same_columns(sources: Sequence[Source], columns: Mapping[str, str]) -> None:
    for table in sources:
        missing = [column for column in columns.values() if column not in table.columns]
        if missing:
            raise InputError(
                f"{table.path} has no column {', '.join(map(repr, missing))}, which {sources[0].path} has; its columns are: "
                f"{', '.join(table.columns)}. Read files of different form one by one"
            )


@dataclass(frozen=True)
class _Tables:
    rates: Rates | None
    entities: Entities | None
    boundary: Boundary | None


class _Growing:
    """An array that grows at its end; the whole of it is never copied when its length is known before."""

    def __init__(self, dtype: Any, capacity: int = 0) -> None:
        self._array = np.empty(capacity, dtype)
        self._used = 0

    def append(self, values: npt.NDArray[Any]) -> None:
        needed = self._used + len(values)
        if needed > len(self._array):
            grown = np.empty(max(needed, len(self._array) * 3 // 2, 1024), self._array.dtype)
            grown[: self._used] = self._array[: self._used]
            self._array = grown
        self._array[self._used : needed] = values
        self._used = needed

    def taken(self) -> npt.NDArray[Any]:
        return self._array[: self._used]


@dataclass
class _Texts:
    """A text column of few different values: codes and the values they stand for."""

    values: dict[str | None, int] = field(default_factory=dict)
    codes: _Growing = field(default_factory=lambda: _Growing(np.int32))

    def append(self, column: pa.Array) -> None:
        encoded = column.dictionary_encode()
        names = encoded.dictionary.to_pylist()
        place = np.array([self.values.setdefault(name, len(self.values)) for name in names] or [0], np.int32)
        missing = self.values.setdefault(None, len(self.values)) if column.null_count else 0
        codes = encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)
        found = place[codes] if len(names) else np.full(len(column), missing, np.int32)
        if column.null_count and len(names):
            found[column.is_null().to_numpy(zero_copy_only=False)] = missing
        self.codes.append(found)

    def taken(self, keep: npt.NDArray[np.bool_] | None) -> pa.DictionaryArray:
        codes = self.codes.taken() if keep is None else self.codes.taken()[keep]
        names = list(self.values)
        absent = np.array([name is None for name in names] or [True])[codes] if len(codes) else np.zeros(0, bool)
        texts = pa.array(["" if name is None else name for name in names], pa.string())
        return pa.DictionaryArray.from_arrays(pa.array(codes, mask=absent), texts)


class _Reading:
    """The state of one reading: arrays that grow, the account of rows, and what was set aside."""

    def __init__(
        self, columns: dict[str, str], decimals: int, statuses: set[str] | None, flip: bool, tables: _Tables, reject: bool
    ) -> None:
        self.columns, self.decimals, self.statuses, self.flip = columns, decimals, statuses, flip
        self.tables, self.reject = tables, reject
        self.identities = Identities()
        self.arrays = {"payer": _Growing(np.int32), "payee": _Growing(np.int32)}
        if "amount" in columns:
            self.arrays["amount"] = _Growing(np.int64)
        for role in ("time", "low", "high"):
            if role in columns:
                self.arrays[role] = _Growing(np.int64)
        self.texts = {role: _Texts() for role in ("status", "kind") if role in columns}
        self.ids: list[pa.Array] = []
        self.rows: list[Int64s] = []
        """Rows used of each batch that does not use all of them, else the whole range."""
        self.all_rows_used = True
        self.read_rows = 0
        self.reasons = np.zeros(len(schema.REASONS), np.int64)
        self.examples: list[str] = []
        self.rejected: list[pa.Table] = []
        self.rounding = Fraction(0)
        self.currencies: Counter[str] = Counter()
        self.not_selected: Counter[str] = Counter()
        self.time_unit: str | None = None
        self.inputs: list[schema.InputFile] = []
        self.file_offsets = [0]

    def reserve(self, sources: Sequence[Source]) -> None:
        """Make room at once where the number of rows is known: growing would need twice the memory."""
        if all(table.rows is not None for table in sources):
            rows = sum(table.rows or 0 for table in sources)
            self.arrays = {role: _Growing(array._array.dtype, rows) for role, array in self.arrays.items()}

    def read(self, table: Source) -> None:
        """Read one table to its end."""
        rows = 0
        wanted = list(dict.fromkeys(self.columns.values()))
        batches: Iterator[pa.RecordBatch] = prefetch(table.read(wanted))
        for batch in batches:
            batch = self._checked_types(batch, table)
            self._take(batch, table, rows)
            rows += batch.num_rows
        for number, text in table.ragged:
            self._set_aside_ragged(table.path, number, text)
        rows += len(table.ragged)
        self.read_rows += rows
        self.inputs.append(table.describe(rows))
        self.file_offsets.append(self.file_offsets[-1] + rows)

    def _checked_types(self, batch: pa.RecordBatch, table: Source) -> pa.RecordBatch:
        for role in ("payer", "payee"):
            kind = batch.schema.field(self.columns[role]).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            if not (
                pa.types.is_integer(kind)
                or pa.types.is_string(kind)
                or pa.types.is_large_string(kind)
                or pa.types.is_string_view(kind)
                or pa.types.is_null(kind)
            ):
                raise InputError(
                    f"{table.path}: column {self.columns[role]!r} ({role}) holds {kind}; companies are text or whole numbers. "
                    "Convert the column to one of them"
                )
        return batch

    def _take(self, batch: pa.RecordBatch, table: Source, first: int) -> None:
        """Clean one batch and append what is used."""
        values = {role: batch.column(column) for role, column in self.columns.items()}
        size = batch.num_rows
        codes = _Faults(size)
        if self.statuses is not None:
            other = ~_is_one_of(values["status"], self.statuses)
            codes.mark(other, schema.NOT_SELECTED)
            for entry in _text_of(values["status"]).filter(pa.array(other)).value_counts().to_pylist():
                self.not_selected["(none)" if entry["values"] is None else entry["values"]] += entry["counts"]
        for role, code in (("payer", schema.MISSING_PAYER), ("payee", schema.MISSING_PAYEE)):
            missing = _missing(values[role])
            if missing is not None:
                codes.mark(missing, code)
        amounts = self._amounts(values, codes)
        extras = self._ranges(values, amounts, codes)
        if "time" in values:
            times = to_times(values["time"])
            if times.bad is not None:
                codes.mark(times.bad, schema.BAD_TIME)
            self._same_time_unit(times.unit, table)
            extras["time"] = times.values
        keep = codes.good()
        if keep is not None:
            self._set_aside(batch, table, first, codes.reason)
            values = {role: column.filter(pa.array(keep)) for role, column in values.items()}
            extras = {role: array[keep] for role, array in extras.items()}
            amounts = None if amounts is None else amounts[keep]
        self._append(values, amounts, extras)
        self._note_rows(table, first, size, keep)
        if amounts is not None and "currency" in values and self.tables.rates is None:
            counts = values["currency"].value_counts()
            for entry in counts.to_pylist():
                self.currencies[str(entry["values"]).strip()] += entry["counts"]

    def _amounts(self, values: Mapping[str, pa.Array], codes: _Faults) -> Int64s | None:
        """Return the amounts in minor units, signs kept where reversals are flipped."""
        if "amount" not in values:
            return None
        minor = to_minor(values["amount"], self.decimals)
        if "currency" in values:
            missing = _missing(values["currency"])
            if missing is not None:
                codes.mark(missing, schema.MISSING_CURRENCY)
        if minor.reason is not None:
            codes.mark_codes(minor.reason)
        if self.tables.rates is not None:
            if "currency" not in values:
                raise InputError("rates were given, but no column is known to be the currency; name it: --currency COLUMN")
            times = to_times(values["time"]) if "time" in values else None
            minor = apply_rates(minor, values["currency"], None if times is None else times.values, self.tables.rates)
            if minor.reason is not None:
                codes.mark_codes(minor.reason)
        self._count_rounding(minor, values["amount"], codes)
        amounts = minor.values
        if amounts.size and amounts.min() <= 0:
            if not self.flip:
                codes.mark(amounts < 0, schema.NEGATIVE)
            codes.mark(amounts == 0, schema.ZERO)
        return amounts

    def _count_rounding(self, minor: Minor, column: pa.Array, codes: _Faults) -> None:
        """Add the rounding of the rows that stay; of a batch that loses rows, the rows that stay are looked at again."""
        if self.tables.rates is not None or minor.rounding == 0:
            return
        if codes.reason is None and minor.values.size and minor.values.min() > 0:
            self.rounding += minor.rounding
            return
        stay = (minor.values != 0) & (True if self.flip else minor.values > 0)
        if codes.reason is not None:
            stay &= codes.reason == schema.USED
        if stay.any():
            self.rounding += to_minor(column.filter(pa.array(stay)), self.decimals).rounding

    def _ranges(self, values: Mapping[str, pa.Array], amounts: Int64s | None, codes: _Faults) -> dict[str, Int64s]:
        """Return announced low and high, the amount where none is stated."""
        found: dict[str, Int64s] = {}
        for role in ("low", "high"):
            if role not in values or amounts is None:
                continue
            minor = to_minor(values[role], self.decimals)
            edge = minor.values.copy()
            if minor.reason is not None:
                absent = minor.reason == schema.MISSING_AMOUNT
                edge[absent] = amounts[absent]
                codes.mark((minor.reason != schema.USED) & ~absent, schema.RANGE_NOT_A_NUMBER)
            found[role] = edge
        if found and amounts is not None:
            low, high = found.get("low", amounts), found.get("high", amounts)
            codes.mark((low < 0) | (low > amounts) | (high < amounts), schema.RANGE_OUT_OF_ORDER)
        return found

    def _same_time_unit(self, unit: str, table: Source) -> None:
        if self.time_unit not in (None, unit):
            raise InputError(
                f"{table.path}: column {self.columns['time']!r} holds dates in one part and plain numbers in another; "
                "make the times of all files alike, or read without: --time ''"
            )
        self.time_unit = unit

    def _append(self, values: Mapping[str, pa.Array], amounts: Int64s | None, extras: Mapping[str, Int64s]) -> None:
        payer, payee = _as_text(values["payer"]), _as_text(values["payee"])
        payer_ids, payee_ids = self.identities.encode(payer, payee)
        if amounts is not None and self.flip and amounts.size and amounts.min() < 0:
            back = amounts < 0
            payer_ids[back], payee_ids[back] = payee_ids[back], payer_ids[back]
            amounts = np.abs(amounts)
        self.arrays["payer"].append(payer_ids)
        self.arrays["payee"].append(payee_ids)
        if amounts is not None:
            self.arrays["amount"].append(amounts)
        for role, array in extras.items():
            self.arrays[role].append(array)
        for role, texts in self.texts.items():
            texts.append(values[role].cast(pa.string()))
        if "id" in values:
            self.ids.append(values["id"].cast(pa.string()))

    def _note_rows(self, table: Source, first: int, size: int, keep: npt.NDArray[np.bool_] | None) -> None:
        """Remember which rows are used; positions count the ragged rows that the CSV reader took out before."""
        position = np.arange(first, first + size)
        if table.ragged:
            position = _with_ragged(position, table.ragged)
        if keep is not None:
            position = position[keep]
        if keep is not None or table.ragged:
            self.all_rows_used = False
        self.rows.append(self.file_offsets[-1] + position)

    def _set_aside(self, batch: pa.RecordBatch, table: Source, first: int, reason: Codes | None) -> None:
        assert reason is not None
        self.reasons += np.bincount(reason, minlength=len(schema.REASONS)) * (np.arange(len(schema.REASONS)) > 0)
        bad = np.flatnonzero(reason > schema.NOT_SELECTED)
        if not bad.size:
            return
        numbers = first + bad
        if table.ragged:
            numbers = _with_ragged(numbers, table.ragged)
        if not self.reject:
            bad, numbers = bad[: EXAMPLES - len(self.examples)], numbers[: EXAMPLES - len(self.examples)]
        raw = {column: _text_of(batch.column(column).take(pa.array(bad))) for column in dict.fromkeys(self.columns.values())}
        if len(self.examples) < EXAMPLES:
            for k, row in enumerate(bad[: EXAMPLES - len(self.examples)]):
                self.examples.append(self._example(table.path, int(numbers[k]) + 1, int(reason[row]), raw, k))
        if self.reject:
            names = pa.array([schema.REASONS[code] for code in reason[bad]])
            where = {"file": pa.array([table.path] * bad.size), "row": pa.array(numbers + 1), "reason": names}
            self.rejected.append(pa.table({**where, **{f"raw_{column}": text for column, text in raw.items()}}))

    def _example(self, path: str, row: int, code: int, raw: Mapping[str, pa.Array], k: int) -> str:
        shown = ", ".join(f"{column} = {_shown(text[k].as_py())}" for column, text in raw.items())
        return f"  {path}, row {row}: {schema.REASONS[code]}: {shown}"

    def _set_aside_ragged(self, path: str, number: int, text: str) -> None:
        self.reasons[schema.WRONG_FIELDS] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"  {path}, row {number}: {schema.REASONS[schema.WRONG_FIELDS]}: {_shown(text)}")
        if self.reject:
            empty = {f"raw_{column}": pa.nulls(1, pa.string()) for column in dict.fromkeys(self.columns.values())}
            first = next(iter(empty))
            where = {"file": [path], "row": pa.array([number], pa.int64()), "reason": [schema.REASONS[schema.WRONG_FIELDS]]}
            self.rejected.append(pa.table({**where, **empty, first: pa.array([text])}))

    # --- the end ------------------------------------------------------------------------------------------------------------

    def finish(self, columns: dict[str, str], guessed: tuple[str, ...], notes: list[str]) -> Ledger:
        """Merge entities, take out payments to oneself, and close the account."""
        if self.read_rows == 0:
            raise InputError(f"{self.inputs[0].path}: no payments: the input has no rows")
        self._stop_on_bad_rows()
        self._one_currency()
        payer, payee = self.arrays["payer"].taken(), self.arrays["payee"].taken()
        amount = self.arrays["amount"].taken() if "amount" in self.arrays else np.ones(len(payer), np.int64)
        names = self.identities.names()
        if self.tables.entities is not None:
            names, merged = self.tables.entities.merge(names)
            payer, payee = merged[payer].astype(payer.dtype), merged[payee].astype(payee.dtype)
        to_self = payer == payee
        keep = ~to_self if to_self.any() else None
        self_payments = int(np.count_nonzero(to_self))
        self_amount = _exact_sum(amount[to_self])
        used = len(payer) - self_payments
        rejected = {name: int(count) for name, count in zip(schema.REASONS, self.reasons, strict=True) if count}
        if used == 0:
            self._nothing_left(self_payments, rejected)

        def kept(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return array if keep is None else array[keep]

        amount = kept(amount)
        all_used = self.all_rows_used and keep is None
        status = self.texts["status"].taken(keep) if "status" in self.texts else None
        inflow = outflow = None
        if self.tables.boundary is not None:
            inflow, outflow, unknown = self.tables.boundary.align(names)
            if unknown:
                notes.append(f"boundary: {len(unknown)} companies have no payments and are left out ({', '.join(unknown[:3])}...)")
        if self.rounding:
            notes.append(f"amounts were rounded to {self.decimals} decimals; the total changed by {_decimal(self.rounding, self.decimals)}")
        return Ledger(
            payer=kept(payer),
            payee=kept(payee),
            amount=amount,
            companies=names,
            rows=RowCount(self.read_rows, used, self_payments, rejected),
            inputs=tuple(self.inputs),
            file_offsets=np.array(self.file_offsets, np.int64),
            columns=columns,
            guessed=guessed,
            decimals=self.decimals,
            row=None if all_used else kept(np.concatenate(self.rows)),
            time=kept(self.arrays["time"].taken()) if "time" in self.arrays else None,
            time_unit=self.time_unit,
            payment_id=self._payment_ids(keep),
            status=status,
            kind=self.texts["kind"].taken(keep) if "kind" in self.texts else None,
            low=self._range("low", amount, keep),
            high=self._range("high", amount, keep),
            inflow=inflow,
            outflow=outflow,
            self_amount=self_amount,
            totals_by_status=_totals(status, amount),
            not_selected=dict(self.not_selected.most_common()),
            currency=next(iter(self.currencies), None) if self.tables.rates is None else None,
            rounding=self.rounding,
            rejected=pa.concat_tables(self.rejected).sort_by([("file", "ascending"), ("row", "ascending")])
            if self.rejected
            else None,
            notes=tuple(notes),
        )

    def _range(self, role: str, amount: Int64s, keep: npt.NDArray[np.bool_] | None) -> Int64s | None:
        if "low" not in self.arrays and "high" not in self.arrays:
            return None
        if role not in self.arrays:
            return amount
        edge: Int64s = self.arrays[role].taken()
        return edge if keep is None else edge[keep]

    def _payment_ids(self, keep: npt.NDArray[np.bool_] | None) -> pa.ChunkedArray | None:
        if "id" not in self.columns:
            return None
        ids = pa.chunked_array(self.ids, pa.string())
        return ids if keep is None else ids.filter(pa.array(keep))

    def _stop_on_bad_rows(self) -> None:
        bad = [(code, int(count)) for code, count in enumerate(self.reasons) if count and code > schema.NOT_SELECTED]
        if self.reject or not bad:
            return
        total = sum(count for _, count in bad)
        counts = ", ".join(f"{count:,} {schema.REASONS[code]}" for code, count in bad)
        advice = [schema.ADVICE[code] for code, _ in bad if code in schema.ADVICE]
        raise InputError(
            f"{total:,} of {self.read_rows:,} rows cannot be used: {counts}. The first of them:\n"
            + "\n".join(self.examples)
            + "".join(f"\n{advice}" for advice in advice)
            + "\nCorrect the input, or set such rows aside: on_bad_rows='reject' (--on-bad-rows reject)"
        )

    def _one_currency(self) -> None:
        if self.tables.rates is None and len(self.currencies) > 1:
            counts = ", ".join(f"{name} ({count:,} payments)" for name, count in self.currencies.most_common(10))
            raise InputError(
                f"{self.inputs[0].path}: the amounts are in {len(self.currencies)} currencies: {counts}. "
                "Give a table of rates: rates=FILE (--rates FILE) with the columns currency, rate[, date]"
            )

    def _nothing_left(self, self_payments: int, rejected: Mapping[str, int]) -> None:
        parts = [f"{count:,} {reason}" for reason, count in rejected.items()]
        if self_payments:
            parts.append(f"{self_payments:,} payments to oneself")
        raise InputError(
            f"{self.inputs[0].path}: no payments are left of {self.read_rows:,} rows: {', '.join(parts)}"
        )


class _Faults:
    """The reason of each row of a batch, made only when there is a first fault; the lowest code of a row stays."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.reason: Codes | None = None

    def mark(self, rows: npt.NDArray[np.bool_], code: int) -> None:
        if rows.any():
            self.mark_codes(rows * np.uint8(code))

    def mark_codes(self, codes: Codes) -> None:
        if not codes.any():
            return
        if self.reason is None:
            self.reason = codes.astype(np.uint8)
        else:
            first = (codes > 0) & ((self.reason == schema.USED) | (codes < self.reason))
            self.reason[first] = codes[first]

    def good(self) -> npt.NDArray[np.bool_] | None:
        return None if self.reason is None else self.reason == schema.USED


def _missing(column: pa.Array) -> npt.NDArray[np.bool_] | None:
    """Return which values are null or blank text; None where a look at the first bytes finds nothing."""
    if pa.types.is_null(column.type):
        return np.ones(len(column), bool)
    absent = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_integer(kind):
        return absent
    if pa.types.is_dictionary(column.type):
        column = column.cast(kind)
    if _may_be_blank(column):
        blank = pc.equal(pc.binary_length(pc.utf8_trim_whitespace(column)), 0).fill_null(True)
        return np.asarray(blank.to_numpy(zero_copy_only=False))
    return absent


def _may_be_blank(column: pa.Array) -> bool:
    """Tell whether any text is empty or begins with a byte that white space can begin with."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)) or column.null_count:
        return True
    wide = pa.types.is_large_string(column.type)
    _, offsets_buffer, data = column.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int64 if wide else np.int32)[column.offset : column.offset + len(column) + 1]
    if not len(column):
        return False
    if data is None or (np.diff(offsets) == 0).any():
        return True
    first = np.frombuffer(data, np.uint8)[offsets[:-1]]
    # Blanks of Unicode begin with C2 (no-break space), E1, E2 or E3 (en space and the like, ideographic space).
    return bool(((first <= 0x20) | (first == 0xC2) | ((first >= 0xE1) & (first <= 0xE3))).any())


def _is_one_of(column: pa.Array, wanted: set[str]) -> npt.NDArray[np.bool_]:
    found = pc.is_in(_text_of(column), value_set=pa.array(sorted(wanted), pa.string()))
    return np.asarray(found.fill_null(False).to_numpy(zero_copy_only=False))


def _as_text(column: pa.Array) -> pa.Array:
    return column.cast(pa.string()) if pa.types.is_null(column.type) else column


def _text_of(column: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_binary(column.type) or pa.types.is_nested(column.type):
        return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())
    return column.cast(pa.string())


def _with_ragged(position: Int64s, ragged: Sequence[tuple[int, str]]) -> Int64s:
    """Shift positions among the whole rows of a file to positions among all its rows."""
    taken_out = np.sort(np.array([number - 1 for number, _ in ragged], np.int64))
    whole_before = taken_out - np.arange(taken_out.size)  # whole rows that stand before each ragged one
    return position + np.searchsorted(whole_before, position, side="right")


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _exact_sum(values: Int64s) -> int:
    from ouroflow.graph import exact_sum

    return exact_sum(values)


def _totals(status: pa.DictionaryArray | None, amount: Int64s) -> dict[str, int]:
    if status is None:
        return {}
    codes = status.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    names = status.dictionary.to_pylist()
    sums = {name: _exact_sum(amount[codes == code]) for code, name in enumerate(names) if (codes == code).any()}
    if (codes < 0).any():
        sums["(none)"] = _exact_sum(amount[codes < 0])
    return sums


def _decimal(minor: Fraction, decimals: int) -> str:
    return f"{float(minor / 10**decimals):.6g}"
