"""From batches of columns to a ledger: every row is used, a payment to oneself, or set aside with a reason.

Batches are cleaned as whole Arrow columns. Where nothing is wrong with a batch nothing is copied or looked at row by
row; the reasons of single rows are computed only for batches in which a cheap test of the whole column finds something.

Memory: 16 bytes per payment for payer, payee and amount, 8 more for each of time, low and high, 4 for status and kind,
8 per row that is not used; one batch of 131,072 rows at a time on top, and the dictionary of identities.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ouroflow.errors import InputError, UsageError
from ouroflow.graph import exact_sum
from ouroflow.ledger import schema
from ouroflow.ledger.encode import Identities, any_blank_start, prefetch
from ouroflow.ledger.money import Minor, plain_currency, to_minor, to_minor_at_rates
from ouroflow.ledger.schema import InputFile, Ledger, RowCount, choose_columns, skip_positions
from ouroflow.ledger.sources import Source, cannot_read, open_sources
from ouroflow.ledger.tables import Boundary, Entities, Rates, read_boundary, read_entities, read_rates
from ouroflow.ledger.times import to_times

EXAMPLES = 10
"""Bad rows shown when the reading stops."""
SCANNED_FROM = 1 << 15
"""Texts from which a scan of their first bytes pays; fewer are trimmed sooner than the scan is compiled."""

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
    statuses: Collection[str] | None = None,
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
        Parquet, CSV (also .gz, .bz2, .zst), Arrow; a folder or a glob of them; a URL that fsspec can open; a pandas or
        Polars data frame, an Arrow table, a NetworkX graph; or a list of these, with the same columns.
    payer, payee, amount, time, id, currency, status, kind, low, high : str, optional
        Column of each role. Guessed from its name when that is unambiguous; '' means: use none.
    decimals : int
        Minor units are 10^-decimals of the unit of amounts, 0 to 18. Without amounts payments are counted, in whole units.
    statuses : collection of str, optional
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
    _check_settings(decimals, reversals, on_bad_rows, statuses)
    chosen = {
        "payer": payer, "payee": payee, "amount": amount, "time": time, "id": id, "currency": currency,
        "status": status, "kind": kind, "low": low, "high": high,
    }  # fmt: skip
    sources = open_sources(source)
    columns, guess_notes = choose_columns(sources[0].columns, chosen, sources[0].path, sources[0].headerless)
    _check_same_columns(sources, columns)
    _check_needed(columns, sources[0].path, statuses, rates)
    decimals = decimals if "amount" in columns else 0
    tables = _Tables(
        None if rates is None else read_rates(rates),
        None if entities is None else read_entities(entities),
        None if boundary is None else read_boundary(boundary, decimals),
    )
    _check_twice(sources)
    reading = _Reading(columns, decimals, statuses, reversals == "flip", tables, on_bad_rows == "reject")
    reading.reserve(sources)
    for table in sources:
        reading.read(table)
    guessed = tuple(role for role in columns if not chosen.get(role))
    notes = [note for table in sources for note in table.notes]
    notes += _same_content(reading.inputs)
    if guessed and not sources[0].headerless:
        notes.append("columns guessed: " + ", ".join(f"{role} = {columns[role]}" for role in guessed))
    if "amount" not in columns:
        notes.append("no amount column: every payment counts as 1")
    return reading.finish(columns, guessed, [*notes, *guess_notes])


def _check_settings(decimals: int, reversals: str, on_bad_rows: str, statuses: Collection[str] | None) -> None:
    if not isinstance(decimals, int) or not 0 <= decimals <= 18:
        raise UsageError(f"decimals {decimals}: give a whole number from 0 to 18")
    if reversals not in ("stop", "flip"):
        raise UsageError(f"reversals {reversals!r}: choose stop or flip")
    if on_bad_rows not in ("stop", "reject"):
        raise UsageError(f"on_bad_rows {on_bad_rows!r}: choose stop or reject")
    if isinstance(statuses, str) or (statuses is not None and not all(isinstance(status, str) for status in statuses)):
        raise UsageError(f"statuses {statuses!r}: give a list of texts")


def _check_twice(sources: Sequence[Source]) -> None:
    """Refuse the same file given twice: every payment of it would count double."""
    seen: set[str] = set()
    for table in sources:
        place = os.path.realpath(table.path) if os.path.exists(table.path) else table.path
        if place in seen and os.path.exists(table.path):
            raise InputError(
                f"{table.path}: the same file is given twice, and its payments would count double; name it once"
            )
        seen.add(place)


def _blanks_around(names: pa.Array) -> list[str]:
    """Tell of companies whose names differ by blanks around them only: they count as different, and a loop may hide there."""
    if not (pa.types.is_string(names.type) or pa.types.is_large_string(names.type)):
        return []
    trimmed = pc.utf8_trim_whitespace(names)
    padded = pc.not_equal(trimmed, names)
    if not pc.any(padded).as_py():
        return []
    bare = trimmed.filter(padded)
    counts = bare.value_counts()
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    same = bare.filter(pc.or_(pc.is_in(bare, value_set=names), pc.is_in(bare, value_set=repeated)))
    if not len(same):
        return []
    examples = ", ".join(repr(name) for name in same.unique()[:3].to_pylist())
    return [
        f"{len(same)} names differ from another only by blanks around them and count as companies of their own ({examples}); "
        "trim them in the input if they are not"
    ]


def _same_content(inputs: Sequence[InputFile]) -> list[str]:
    """Tell of files that are copies of each other."""
    first: dict[str, str] = {}
    notes = []
    for file in inputs:
        if file.sha256 is not None and first.setdefault(file.sha256, file.path) != file.path:
            notes.append(f"{file.path} is a copy of {first[file.sha256]}: its payments are counted again")
    return notes


def _check_needed(columns: Mapping[str, str], where: str, statuses: Collection[str] | None, rates: Any) -> None:
    if statuses is not None and "status" not in columns:
        raise InputError(f"{where}: payments are to be chosen by status, but no column is known to be the status")
    if rates is not None and "currency" not in columns:
        raise InputError(
            f"{where}: rates were given, but no column is known to be the currency; name it: --currency COLUMN"
        )


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
        self.dtype = dtype
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
        self,
        columns: dict[str, str],
        decimals: int,
        statuses: Collection[str] | None,
        flip: bool,
        tables: _Tables,
        reject: bool,
    ) -> None:
        self.columns, self.decimals, self.flip = columns, decimals, flip
        self.statuses = None if statuses is None else set(statuses)
        self.tables, self.reject = tables, reject
        self.identities = Identities()
        self.arrays = {"payer": _Growing(np.int32), "payee": _Growing(np.int32)}
        ranges = ("low", "high") if "low" in columns or "high" in columns else ()
        for role in ("amount", "time"):
            if role in columns:
                self.arrays[role] = _Growing(np.int64)
        if "amount" in columns:
            self.arrays |= {role: _Growing(np.int64) for role in ranges}
        self.texts = {role: _Texts() for role in ("status", "kind") if role in columns}
        self.ids: list[pa.Array] = []
        self.unused: list[Int64s] = []
        """Positions of the rows that are not used, in the whole input; of the present file among its whole rows."""
        self.read_rows = self.self_payments = self.self_amount = 0
        self.reasons = np.zeros(len(schema.REASONS), np.int64)
        self.examples: list[str] = []
        self.rejected: list[pa.Table] = []
        self.rounding = Fraction(0)
        self.currencies: Counter[str] = Counter()
        self.not_selected: Counter[str] = Counter()
        self.time_unit: str | None = None
        self.time_reading = ""
        self.inputs: list[schema.InputFile] = []
        self.file_offsets = [0]

    def reserve(self, sources: Sequence[Source]) -> None:
        """Make room at once where the number of rows is known: growing would need twice the memory."""
        if all(table.rows is not None for table in sources):
            rows = sum(table.rows or 0 for table in sources)
            self.arrays = {role: _Growing(array.dtype, rows) for role, array in self.arrays.items()}

    def read(self, table: Source) -> None:
        """Read one table to its end."""
        rows = 0
        before, rejected_before = len(self.unused), len(self.rejected)
        self.time_reading = ""
        wanted = list(dict.fromkeys(self.columns.values()))
        with closing(prefetch(table.read(wanted))) as batches:
            for batch in batches:
                try:
                    self._take(batch, table, rows)
                except (pa.ArrowException, UnicodeDecodeError) as error:  # text that is none, for instance
                    raise cannot_read(table.path, error) from error
                rows += batch.num_rows
        self._close_file(table, self.unused[before:], self.rejected[rejected_before:], before, rejected_before)
        rows += len(table.ragged)
        self.read_rows += rows
        self.inputs.append(table.describe(rows))
        self.file_offsets.append(self.file_offsets[-1] + rows)

    def _close_file(
        self, table: Source, unused: list[Int64s], rejected: list[pa.Table], before: int, rejected_before: int
    ) -> None:
        """Put the rows with a wrong number of fields, which the CSV reader took out, back into the count of rows."""
        if table.ragged:
            self.reasons[schema.WRONG_FIELDS] += len(table.ragged)
            for number, text in table.ragged[: EXAMPLES - len(self.examples)]:
                self.examples.append(
                    f"  {table.path}, row {number}: {schema.REASONS[schema.WRONG_FIELDS]}: {_shown(text)}"
                )
            ragged = _positions(table.ragged)
            unused = [np.sort(np.concatenate([ragged, *(skip_positions(part, ragged) for part in unused)]))]
            if self.reject:
                rejected = [*rejected, self._ragged_table(table)]
        self.unused[before:] = [self.file_offsets[-1] + part for part in unused]
        if rejected:
            self.rejected[rejected_before:] = [pa.concat_tables(rejected).sort_by("row")]

    def _ragged_table(self, table: Source) -> pa.Table:
        """Return the rejected rows whose values cannot be told apart; the whole text stands in the first column."""
        count = len(table.ragged)
        names = [f"raw_{column}" for column in dict.fromkeys(self.columns.values())]
        return pa.table(
            {
                "file": pa.array([table.path] * count, pa.string()),
                "row": pa.array([number for number, _ in table.ragged], pa.int64()),
                "reason": pa.array([schema.REASONS[schema.WRONG_FIELDS]] * count, pa.string()),
                names[0]: pa.array([text for _, text in table.ragged], pa.string()),
                **{name: pa.nulls(count, pa.string()) for name in names[1:]},
            }
        )

    def _take(self, batch: pa.RecordBatch, table: Source, first: int) -> None:
        """Clean one batch and append what is used."""
        values = {role: _plain(batch.column(column)) for role, column in self.columns.items()}
        self._check_types(values, table)
        faults = _Faults(batch.num_rows)
        if self.statuses is not None:
            self._select(values["status"], faults)
        for role, code in (("payer", schema.MISSING_PAYER), ("payee", schema.MISSING_PAYEE)):
            faults.mark(_missing(values[role]), code)
        extras: dict[str, Int64s] = {}
        time_ns = None
        if "time" in values:
            extras["time"], time_ns = self._times(values["time"], faults, table)
        minor, amounts = None, None
        if "amount" in values:
            minor = self._minor("amount", values, time_ns)
            amounts = self._amounts(minor, values, faults)
            extras |= self._ranges(values, amounts, time_ns, faults)
        keep = faults.good()
        if keep is not None and faults.reason is not None:
            self._set_aside(batch, table, first, faults.reason)
            values = {role: column.filter(pa.array(keep)) for role, column in values.items()}
            extras = {role: array[keep] for role, array in extras.items()}
            amounts = None if amounts is None else amounts[keep]
        if amounts is not None and minor is not None and len(amounts):
            self._count_rounding(minor, amounts, values)
            self._count_currencies(values)
        used = self._append(values, amounts, extras, table)
        self._note_unused(first, keep, used)

    def _check_types(self, values: Mapping[str, pa.Array], table: Source) -> None:
        for role in ("payer", "payee"):
            kind = values[role].type
            if not (pa.types.is_integer(kind) or _is_text(kind)):
                raise InputError(
                    f"{table.path}: column {self.columns[role]!r} ({role}) holds {kind}; companies are text or whole numbers. "
                    "Convert the column to one of them"
                )

    def _select(self, status: pa.Array, faults: _Faults) -> None:
        """Mark the rows of other statuses, and count them."""
        assert self.statuses is not None
        text = _text_of(status)
        wanted = pc.is_in(text, value_set=pa.array(sorted(self.statuses), text.type)).to_numpy(zero_copy_only=False)
        if wanted.all():
            return
        faults.mark(~wanted, schema.NOT_SELECTED)
        for entry in text.filter(pa.array(~wanted)).value_counts().to_pylist():
            self.not_selected["(none)" if entry["values"] is None else entry["values"]] += entry["counts"]

    def _times(self, column: pa.Array, faults: _Faults, table: Source) -> tuple[Int64s, Int64s | None]:
        """Return times, and once more where they are moments and no plain numbers."""
        times = to_times(column, self.time_reading)
        faults.mark(times.bad, schema.BAD_TIME)
        self.time_reading = times.reading or self.time_reading
        if times.reading and self.time_unit not in (None, times.unit):
            raise InputError(
                f"{table.path}: column {self.columns['time']!r} holds dates in one part and plain numbers in another; "
                "make the times of all files alike, or read without: --time ''"
            )
        self.time_unit = times.unit if times.reading else self.time_unit
        return times.values, times.values if times.unit == "ns" else None

    def _minor(self, role: str, values: Mapping[str, pa.Array], time_ns: Int64s | None) -> Minor:
        if self.tables.rates is None:
            return to_minor(values[role], self.decimals)
        currency = _text_of(values["currency"])
        return to_minor_at_rates(values[role], self.decimals, currency, time_ns, self.tables.rates)

    def _amounts(self, minor: Minor, values: Mapping[str, pa.Array], faults: _Faults) -> Int64s:
        """Mark what is no amount; return the amounts in minor units, with their signs."""
        if "currency" in values:
            faults.mark(_missing(_text_of(values["currency"])), schema.MISSING_CURRENCY)
        faults.mark_codes(minor.reason)
        amounts = minor.values
        if amounts.size and amounts.min() <= 0:
            if not self.flip:
                faults.mark(amounts < 0, schema.NEGATIVE)
            faults.mark(amounts == 0, schema.ZERO)
        return amounts

    def _ranges(
        self, values: Mapping[str, pa.Array], amounts: Int64s, time_ns: Int64s | None, faults: _Faults
    ) -> dict[str, Int64s]:
        """Return announced low and high, the amount where none is stated; of money paid back the range is turned too."""
        if "low" not in self.arrays:
            return {}
        found = {"low": amounts, "high": amounts}
        for role in found:
            if role not in values:
                continue
            minor = self._minor(role, values, time_ns)
            found[role] = minor.values
            if minor.reason is not None:
                absent = minor.reason == schema.MISSING_AMOUNT
                found[role] = np.where(absent, amounts, minor.values)
                faults.mark(minor.reason == schema.TOO_LARGE, schema.TOO_LARGE)
                no_number = (minor.reason == schema.NOT_A_NUMBER) | (minor.reason == schema.NOT_FINITE)
                faults.mark(no_number, schema.RANGE_NOT_A_NUMBER)
        low, high = found["low"], found["high"]
        back = amounts < 0
        if back.any():
            low, high = np.where(back, -high, low), np.where(back, -low, high)
        size = np.abs(amounts)
        faults.mark((low < 0) | (low > size) | (high < size), schema.RANGE_OUT_OF_ORDER)
        return {"low": low, "high": high}

    def _count_rounding(self, minor: Minor, amounts: Int64s, values: Mapping[str, pa.Array]) -> None:
        """Add the rounding of the rows that stay; of a batch that loses rows, the rows that stay are looked at again."""
        if self.tables.rates is not None or (
            minor.rounding == 0 and minor.reason is None and len(amounts) == len(minor.values)
        ):
            return
        back = amounts < 0
        if len(amounts) == len(minor.values) and not back.any():
            self.rounding += minor.rounding
        elif back.any():
            self.rounding += to_minor(values["amount"].filter(pa.array(~back)), self.decimals).rounding
            self.rounding -= to_minor(values["amount"].filter(pa.array(back)), self.decimals).rounding
        else:
            self.rounding += to_minor(values["amount"], self.decimals).rounding

    def _count_currencies(self, values: Mapping[str, pa.Array]) -> None:
        if "currency" in values and self.tables.rates is None:
            for entry in _text_of(values["currency"]).value_counts().to_pylist():
                self.currencies[plain_currency(entry["values"])] += entry["counts"]

    def _append(
        self, values: Mapping[str, pa.Array], amounts: Int64s | None, extras: Mapping[str, Int64s], table: Source
    ) -> npt.NDArray[np.bool_] | None:
        """Append payments; return which of them are not to oneself, None where all are not.

        Where companies are still to be merged, nobody can tell yet who pays himself: that is left to the end.
        """
        if not len(values["payer"]):
            return None
        try:
            payer, payee = self.identities.encode(values["payer"], values["payee"])
        except InputError as error:
            raise InputError(f"{table.path}: {error}") from error
        if amounts is not None and self.flip and amounts.min() < 0:
            back = amounts < 0
            payer[back], payee[back] = payee[back], payer[back]
            amounts = np.abs(amounts)
        used = None
        if self.tables.entities is None and not (apart := payer != payee).all():
            used = apart
            self.self_payments += len(used) - int(np.count_nonzero(used))
            self.self_amount += int(np.count_nonzero(~used)) if amounts is None else exact_sum(amounts[~used])
        arrays: dict[str, npt.NDArray[Any]] = {"payer": payer, "payee": payee, **extras}
        if amounts is not None:
            arrays["amount"] = amounts
        for role, array in arrays.items():
            self.arrays[role].append(array if used is None else array[used])
        for role, texts in self.texts.items():
            texts.append(_chosen(_text_of(values[role]), used))
        if "id" in values:
            self.ids.append(_chosen(_text_of(values["id"]), used))
        return used

    def _note_unused(self, first: int, keep: npt.NDArray[np.bool_] | None, used: npt.NDArray[np.bool_] | None) -> None:
        """Remember which rows of a batch are not used."""
        if keep is not None:
            stay = keep.copy()
            stay[keep] = True if used is None else used
            self.unused.append(first + np.flatnonzero(~stay))
        elif used is not None:
            self.unused.append(first + np.flatnonzero(~used))

    def _set_aside(self, batch: pa.RecordBatch, table: Source, first: int, reason: Codes) -> None:
        """Count the refused rows of a batch, and keep them, or as many as are shown."""
        counts = np.bincount(reason, minlength=len(schema.REASONS))
        counts[schema.USED] = 0
        self.reasons += counts
        bad = np.flatnonzero(reason > schema.NOT_SELECTED)
        if not self.reject:
            bad = bad[: EXAMPLES - len(self.examples)]
        if not bad.size:
            return
        # Rows that the CSV reader took out before this batch count as well.
        numbers = 1 + skip_positions(first + bad, _positions(table.ragged))
        columns = dict.fromkeys(self.columns.values())
        raw = {column: _text_of(_plain(batch.column(column).take(pa.array(bad)))) for column in columns}
        for k, row in enumerate(bad[: EXAMPLES - len(self.examples)]):
            shown = ", ".join(f"{column} = {_shown(text[k].as_py())}" for column, text in raw.items())
            self.examples.append(f"  {table.path}, row {numbers[k]}: {schema.REASONS[reason[row]]}: {shown}")
        if self.reject:
            names = pa.array([schema.REASONS[code] for code in reason[bad]], pa.string())
            where = {"file": pa.array([table.path] * bad.size, pa.string()), "row": pa.array(numbers), "reason": names}
            self.rejected.append(pa.table({**where, **{f"raw_{column}": text for column, text in raw.items()}}))

    # --- the end ------------------------------------------------------------------------------------------------------------

    def finish(self, columns: dict[str, str], guessed: tuple[str, ...], notes: list[str]) -> Ledger:
        """Merge entities, take out payments to oneself, and close the account."""
        if self.read_rows == 0:
            raise InputError(f"{self.inputs[0].path}: no payments: the input has no rows")
        self._stop_on_bad_rows()
        self._one_currency()
        payer, payee = self.arrays["payer"].taken(), self.arrays["payee"].taken()
        amount = self.arrays["amount"].taken() if "amount" in self.arrays else np.ones(len(payer), np.int64)
        names, keep = self._names(), None
        if self.tables.entities is not None and len(payer):
            notes += [note for note in [self.tables.entities.note(names)] if note]
            names, merged = self.tables.entities.merge(names)
            payer, payee = merged[payer].astype(payer.dtype), merged[payee].astype(payee.dtype)
            keep = self._merged_into_one(payer, payee, amount)

        def kept(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return array if keep is None else array[keep]

        payer, payee, amount = kept(payer), kept(payee), kept(amount)
        rejected = {name: int(count) for name, count in zip(schema.REASONS, self.reasons, strict=True) if count}
        if not len(payer):
            self._nothing_left(rejected)
        status = self.texts["status"].taken(keep) if "status" in self.texts else None
        inflow, outflow = self._boundary(names, notes)
        notes += _blanks_around(names)
        if self.rounding:
            changed = f"{float(self.rounding / 10**self.decimals):.6g}"
            notes.append(f"amounts were rounded to {self.decimals} decimals; the total changed by {changed}")
        for name in sorted((self.statuses or set()) - set([] if status is None else status.dictionary.to_pylist())):
            notes.append(f"no payment that is used has the status {name!r}")
        return Ledger(
            payer=payer,
            payee=payee,
            amount=amount,
            companies=names,
            rows=RowCount(self.read_rows, len(payer), self.self_payments, rejected),
            inputs=tuple(self.inputs),
            file_offsets=np.array(self.file_offsets, np.int64),
            columns=columns,
            guessed=guessed,
            decimals=self.decimals,
            unused=np.concatenate(self.unused) if self.unused else np.zeros(0, np.int64),
            time=kept(self.arrays["time"].taken()) if "time" in self.arrays else None,
            time_unit=self.time_unit,
            payment_id=self._payment_ids(keep),
            status=status,
            kind=self.texts["kind"].taken(keep) if "kind" in self.texts else None,
            low=kept(self.arrays["low"].taken()) if "low" in self.arrays else None,
            high=kept(self.arrays["high"].taken()) if "high" in self.arrays else None,
            inflow=inflow,
            outflow=outflow,
            self_amount=self.self_amount,
            totals_by_status=_totals(status, amount),
            not_selected=dict(self.not_selected.most_common()),
            currency=next(iter(self.currencies), None) if self.tables.rates is None else self.tables.rates.result,
            rounding=self.rounding,
            rejected=pa.concat_tables(self.rejected) if self.rejected else None,
            notes=tuple(notes),
        )

    def _names(self) -> pa.Array:
        try:
            return self.identities.names()
        except InputError as error:
            more = "" if len(self.inputs) == 1 else f" (or another of {len(self.inputs)} files)"
            raise InputError(f"{self.inputs[0].path}{more}: {error}") from error

    def _merged_into_one(
        self, payer: npt.NDArray[Any], payee: npt.NDArray[Any], amount: Int64s
    ) -> npt.NDArray[np.bool_] | None:
        """Take out payments between companies that are one; return which payments stay, None where all do."""
        keep = payer != payee
        if keep.all():
            return None
        self.self_payments = len(keep) - int(np.count_nonzero(keep))
        self.self_amount = exact_sum(amount[~keep])
        unused = np.concatenate([np.zeros(0, np.int64), *self.unused])
        self.unused = [np.sort(np.concatenate([unused, skip_positions(np.flatnonzero(~keep), unused)]))]
        return keep

    def _boundary(self, names: pa.Array, notes: list[str]) -> tuple[Int64s | None, Int64s | None]:
        if self.tables.boundary is None:
            return None, None
        inflow, outflow, unknown = self.tables.boundary.align(names, self.tables.entities)
        if unknown:
            examples = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
            notes.append(f"boundary: {len(unknown)} companies have no payments and are left out: {examples}")
        return inflow, outflow

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

    def _nothing_left(self, rejected: Mapping[str, int]) -> None:
        parts = [f"{count:,} {reason}" for reason, count in rejected.items()]
        if self.self_payments:
            parts.append(f"{self.self_payments:,} payments to oneself")
        found = ""
        if self.not_selected:
            found = "; statuses found: " + ", ".join(
                f"{name} ({count:,})" for name, count in self.not_selected.most_common(10)
            )
        raise InputError(
            f"{self.inputs[0].path}: no payments are left of {self.read_rows:,} rows: {', '.join(parts)}{found}"
            + "".join(f"\n{example}" for example in self.examples[:3])
        )


class _Faults:
    """The reason of each row of a batch, made only when there is a first fault; the lowest code of a row stays."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.reason: Codes | None = None

    def mark(self, rows: npt.NDArray[np.bool_] | None, code: int) -> None:
        if rows is not None:
            self.mark_codes(rows * np.uint8(code))

    def mark_codes(self, codes: Codes | None) -> None:
        if codes is None or not codes.any():
            return
        if self.reason is None:
            self.reason = codes.astype(np.uint8)
        else:
            first = (codes > 0) & ((self.reason == schema.USED) | (codes < self.reason))
            self.reason[first] = codes[first]

    def good(self) -> npt.NDArray[np.bool_] | None:
        return None if self.reason is None else self.reason == schema.USED


def _plain(column: pa.Array) -> pa.Array:
    """Unpack dictionaries, views and columns without any value, so that all that follows knows one form of text."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string_view(column.type):
        return column.cast(pa.large_string())
    return column.cast(pa.string()) if pa.types.is_null(column.type) else column


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _chosen(column: pa.Array, rows: npt.NDArray[np.bool_] | None) -> pa.Array:
    return column if rows is None else column.filter(pa.array(rows))


def _missing(column: pa.Array) -> npt.NDArray[np.bool_] | None:
    """Return which values are null or blank text; None where there is none."""
    text = _is_text(column.type)
    if not column.null_count and (not text or (len(column) >= SCANNED_FROM and not any_blank_start(column))):
        return None
    if text:
        column = pc.equal(pc.binary_length(pc.utf8_trim_whitespace(column)), 0).fill_null(True)
    else:
        column = column.is_null()
    absent: npt.NDArray[np.bool_] = column.to_numpy(zero_copy_only=False)
    return absent


def _text_of(column: pa.Array) -> pa.Array:
    """Return values of any type as text."""
    if _is_text(column.type):
        column.validate(full=True)  # Parquet does not promise that text is UTF-8
        return column.cast(pa.string())
    try:
        return column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())


def _positions(ragged: Sequence[tuple[int, str]]) -> Int64s:
    """Return the positions, from 0 and ascending, of rows with a wrong number of fields."""
    return np.sort(np.array([number - 1 for number, _ in ragged], np.int64))


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _totals(status: pa.DictionaryArray | None, amount: Int64s) -> dict[str, int]:
    if status is None:
        return {}
    codes = status.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    names = status.dictionary.to_pylist()
    sums = {name: exact_sum(amount[codes == code]) for code, name in enumerate(names) if (codes == code).any()}
    if (codes < 0).any():
        sums["(none)"] = exact_sum(amount[codes < 0])
    return sums
