"""Payments read on a device: what is clean goes there in whole columns, everything else to the CPU twin.

The device decodes files, numbers identities and converts amounts. Whatever needs a reason, a message or a rule about
single rows (nulls, blanks, bad numbers, amounts of zero or less, several currencies, rates, merged entities, chosen
statuses, announced ranges, ragged or quoted CSV, other encodings) is left to `ledger.cpu`, which then reads the input from
its beginning: so accounts, messages and figures of the two twins cannot differ. A note says which of the two has read.

Memory: the identities and 16 bytes per payment (payer, payee, amount) stay on the device; from half of its free memory on
the payments go to the host piece by piece, as times, texts and payment ids always do. Pieces of files are as large as
`gpu_frames.WORKING_COPIES` times their columns fit.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ouroflow.errors import InputError, ResourceError, UsageError
from ouroflow.ledger import cpu
from ouroflow.ledger.gpu_columns import INT64_MAX, DeviceIdentities, exact_sum, is_text, minor_units
from ouroflow.ledger.gpu_frames import Column, CudfFrames, Frame, Frames, LeftToCpu, LocalFile
from ouroflow.ledger.money import plain_currency
from ouroflow.ledger.schema import Ledger, choose_columns
from ouroflow.ledger.sources import Source, open_sources
from ouroflow.ledger.tables import read_boundary
from ouroflow.ledger.times import to_times

if TYPE_CHECKING:
    from ouroflow.runtime.launch import Accelerator, Array

PAYMENT_BYTES = 16
WHOLE_NUMBER = r"^\s*[+-]?\d+\s*$"
FIRST_DAY = 19_000_101
"""Integers below are steps, whatever stands beside them; those from here on may be days or moments."""


def read_ledger(
    on: Accelerator,
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
    frames: Frames | None = None,
) -> Ledger:
    """Read payments for a device; what is read, and what is refused, is as in :func:`ouroflow.ledger.cpu.read_ledger`.

    Parameters
    ----------
    on : Accelerator
        Where to read.
    source, payer, payee, ..., boundary
        As for the CPU twin.
    frames : Frames, optional
        What reads on the device. Default: cuDF, where it is installed.

    Returns
    -------
    Ledger
        With one more note, which says how it was read. Where the device has read, `on` is set, and `payer`, `payee` and
        `amount` lie in its memory; where the CPU has, the ledger is the CPU twin's, and ``Ledger.graph(on)`` takes it up.

    Raises
    ------
    InputError, UsageError
        As the CPU twin does.
    """
    roles = {
        "payer": payer, "payee": payee, "amount": amount, "time": time, "id": id, "currency": currency,
        "status": status, "kind": kind, "low": low, "high": high,
    }  # fmt: skip
    try:
        for asked, what in ((statuses, "chosen statuses"), (rates, "rates"), (entities, "merged entities")):
            if asked is not None:
                raise LeftToCpu(f"{what} are applied row by row")
        cpu._check_settings(decimals, reversals, on_bad_rows, statuses)
        return _read(on, frames or CudfFrames(), source, roles, decimals, boundary)
    except (LeftToCpu, InputError, UsageError, ResourceError, OSError, MemoryError, pa.ArrowException) as why:
        said = " ".join(str(why).split()) or type(why).__name__
    # Outside of the except clause: an error of the CPU twin is no consequence of what the device has met.
    ledger = cpu.read_ledger(
        source,
        **roles,
        decimals=decimals,
        statuses=statuses,
        reversals=reversals,
        on_bad_rows=on_bad_rows,
        rates=rates,
        entities=entities,
        boundary=boundary,
    )
    return replace(ledger, notes=(*ledger.notes, f"read on the CPU, not on {on.name}: {said}"))


def _read(
    on: Accelerator, frames: Frames, source: Any, roles: Mapping[str, str | None], decimals: int, boundary: Any
) -> Ledger:
    """Read clean input, or raise: in the order of the CPU twin, which reads what this does not."""
    parts = source if isinstance(source, list | tuple) else [source]
    if not all(isinstance(part, str | os.PathLike) for part in parts):
        raise LeftToCpu("the device reads files, and this is none")
    sources = open_sources(source)
    columns, guess_notes = choose_columns(sources[0].columns, roles, sources[0].path, sources[0].headerless)
    cpu._check_same_columns(sources, columns)
    if "low" in columns or "high" in columns:
        raise LeftToCpu("amounts have announced ranges, which are checked row by row")
    decimals = decimals if "amount" in columns else 0
    known = None if boundary is None else read_boundary(boundary, decimals)
    cpu._check_twice(sources)
    reading = _DeviceReading(on, frames, columns, decimals, cpu._Tables(None, None, known))
    reading.reserve(sources)
    for table in sources:
        reading.read(table)
    guessed = tuple(role for role in columns if not roles.get(role))
    notes = [note for table in sources for note in table.notes]
    notes += cpu._same_content(reading.inputs)
    if guessed and not sources[0].headerless:
        notes.append("columns guessed: " + ", ".join(f"{role} = {columns[role]}" for role in guessed))
    if "amount" not in columns:
        notes.append("no amount column: every payment counts as 1")
    ledger = reading.finish(columns, guessed, [*notes, *guess_notes])
    lies = on if reading.resident else None
    return replace(ledger, on=lies, notes=(*ledger.notes, f"read on {on.name} by {frames.name}"))


class _OnDevice(cpu._Growing):
    """A device array that grows at its end."""

    def __init__(self, on: Accelerator, dtype: Any, capacity: int = 0) -> None:
        self.dtype = dtype
        self._on = on
        self._array = on.xp.empty(capacity, dtype)
        self._used = 0

    def append(self, values: Array) -> None:
        needed = self._used + len(values)
        if needed > len(self._array):
            grown = self._on.xp.empty(max(needed, len(self._array) * 3 // 2, 1024), self.dtype)
            grown[: self._used] = self._array[: self._used]
            self._array = grown
        self._array[self._used : needed] = values
        self._used = needed


class _FromDevice(cpu._Growing):
    """A host array that grows by device arrays at its end."""

    def __init__(self, on: Accelerator, dtype: Any, capacity: int = 0) -> None:
        super().__init__(dtype, capacity)
        self._on = on

    def append(self, values: Array) -> None:
        super().append(self._on.to_host(values))


class _DeviceReading(cpu._Reading):
    """The state of a reading on a device; the account and the end of it are those of the CPU twin."""

    def __init__(
        self, on: Accelerator, frames: Frames, columns: dict[str, str], decimals: int, tables: cpu._Tables
    ) -> None:
        super().__init__(columns, decimals, None, False, tables, False)
        self.on, self.frames = on, frames
        self.numbering = DeviceIdentities(on, frames)
        self.identities = self.numbering  # type: ignore[assignment]  # the base class asks it for names only
        self.text_names: bool | None = None
        self.resident = True
        """Whether payer, payee and amount stay on the device."""

    def reserve(self, sources: Sequence[Source]) -> None:
        """Decide where the payments go, and make room at once where their number is known."""
        known = all(table.rows is not None for table in sources)
        # A payment of a CSV file has hardly fewer bytes than it takes here.
        sizes = [
            os.path.getsize(table.path) if table.rows is None else PAYMENT_BYTES * table.rows
            for table in sources
            if os.path.isfile(table.path)
        ]
        self.resident = sum(sizes) <= self.on.free_bytes() // 2
        room = sum(table.rows or 0 for table in sources) if known else 0
        super().reserve(sources)
        for role, dtype in (("payer", np.int32), ("payee", np.int32), ("amount", np.int64)):
            self.arrays[role] = (_OnDevice if self.resident else _FromDevice)(self.on, dtype, room)

    def read(self, table: Source) -> None:
        """Read one file to its end, piece by piece."""
        rows, before = 0, len(self.unused)
        self.time_reading = ""
        wanted = list(dict.fromkeys(self.columns.values()))
        file = LocalFile.of(table.path, wanted)
        table.read(wanted)  # begins to hash the file; its batches are not asked for
        for frame, count in file.pieces(self.on, self.frames, self.numbering.working_bytes):
            self._take_piece(frame, count, file, table, rows)
            rows += count
            del frame  # before the next piece is read
        self.unused[before:] = [self.file_offsets[-1] + part for part in self.unused[before:]]
        self.read_rows += rows
        self.inputs.append(table.describe(rows))
        self.file_offsets.append(self.file_offsets[-1] + rows)

    def _take_piece(self, frame: Frame, rows: int, file: LocalFile, table: Source, first: int) -> None:
        """Check a piece of a file and append what is used."""
        values = {role: frame[column] for role, column in self.columns.items()}
        types = {role: file.types[column] for role, column in self.columns.items()}
        for role in ("payer", "payee", "amount", "time", "currency"):
            if role in values and values[role].hasnans:
                raise LeftToCpu(f"{table.path} has a missing {role}")
        payer, payee = self.numbering.encode(
            self._identity(values["payer"], types["payer"]), self._identity(values["payee"], types["payee"])
        )
        if "amount" in values:
            amount, rounding = minor_units(self.on, self.frames, values["amount"], types["amount"], self.decimals)
            self.rounding += rounding
            if "currency" in values:
                self._count_currency(values["currency"], types["currency"], rows)
        else:
            amount = self.on.xp.ones(rows, np.int64)
        used = self._apart(payer, payee, amount, first)
        for role, array in (("payer", payer), ("payee", payee), ("amount", amount)):
            self.arrays[role].append(array if used is None else array[used])
        kept = None if used is None else self.on.to_host(used)
        if "time" in values:
            times = self._moments(values["time"], types["time"], table)
            self.arrays["time"].append(times if kept is None else times[kept])
        for role, texts in self.texts.items():
            texts.append(cpu._chosen(self._text(values[role], types[role], file), kept))
        if "id" in values:
            self.ids.append(cpu._chosen(self._text(values["id"], types["id"], file), kept))

    def _identity(self, column: Column, kind: pa.DataType) -> Column:
        """Return a column of payers or payees as text or int64, as all of them are."""
        if not is_text(kind) and not pa.types.is_integer(kind):
            raise LeftToCpu(f"companies are given as {kind}")
        self.text_names = is_text(kind) if self.text_names is None else self.text_names
        if self.text_names != is_text(kind):
            raise LeftToCpu("companies are given as text and as numbers")
        if self.text_names:
            return column
        if pa.types.is_uint64(kind) and int(column.max()) > INT64_MAX:
            raise LeftToCpu("the number of a company is past int64")
        return column.astype("int64")

    def _apart(self, payer: Array, payee: Array, amount: Array, first: int) -> Array | None:
        """Return which payments are not to oneself, None where all are not; count the others."""
        apart = payer != payee
        count = len(apart) - int(self.on.xp.count_nonzero(apart))
        if not count:
            return None
        self.self_payments += count
        self.self_amount += exact_sum(amount[~apart])
        self.unused.append(first + self.on.to_host(self.on.xp.flatnonzero(~apart)))
        return apart

    def _count_currency(self, column: Column, kind: pa.DataType, rows: int) -> None:
        """Take in the currency of a piece; there may be one only."""
        _, distinct = column.factorize()
        names = self._text(self.frames.module.Series(distinct), kind)
        absent = cpu._missing(names)
        if absent is not None and absent.any():
            raise LeftToCpu("a currency is missing")
        for name in {plain_currency(name) for name in names.to_pylist()}:
            self.currencies[name] += rows
        if len(self.currencies) > 1:
            raise LeftToCpu("the amounts are in several currencies")

    def _text(self, column: Column, kind: pa.DataType, file: LocalFile | None = None) -> pa.Array:
        """Return a column as text on the host; in a CSV file nothing and empty text are the same."""
        if not is_text(kind) and not pa.types.is_integer(kind):
            raise LeftToCpu(f"texts are given as {kind}")
        texts = cpu._text_of(self.frames.on_host(column))
        if file is None or file.parquet:
            return texts
        return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)

    def _moments(self, column: Column, kind: pa.DataType, table: Source) -> npt.NDArray[np.int64]:
        """Return times on the host, as the CPU twin reads them whatever its batches are."""
        code = None
        if is_text(kind):
            found, distinct = column.factorize()
            code = self.on.to_host(self.frames.array(found))
            column = self.frames.module.Series(distinct)
        elif not (pa.types.is_integer(kind) or pa.types.is_timestamp(kind) or pa.types.is_date32(kind)):
            raise LeftToCpu(f"times are given as {kind}")
        moments = self.frames.on_host(column)
        reading = _common_reading(moments)
        if reading is None or self.time_reading not in ("", reading):
            raise LeftToCpu(f"{table.path} has times that are plain numbers, and its first rows decide what they mean")
        faults = cpu._Faults(len(moments))
        values, _ = self._times(moments, faults, table)
        if faults.reason is not None:
            raise LeftToCpu(f"{table.path} has a time that cannot be read")
        return values if code is None else values[code]

    def finish(self, columns: dict[str, str], guessed: tuple[str, ...], notes: list[str]) -> Ledger:
        """Close the account; the sums by status need the amounts on the host."""
        status = self.texts.pop("status", None)
        ledger = super().finish(columns, guessed, notes)
        if status is None:
            return ledger
        texts = status.taken(None)
        amount = self.on.to_host(ledger.amount) if self.resident else ledger.amount
        return replace(ledger, status=texts, totals_by_status=cpu._totals(texts, amount))


def _common_reading(moments: pa.Array) -> str | None:
    """Return how a column of times is read if every part of it alone would be read so, else None.

    The CPU twin lets the first batch decide what plain numbers mean. What does not depend on the batch can be read here.
    """
    if is_text(moments.type):
        whole = pc.match_substring_regex(moments, WHOLE_NUMBER)
        if not pc.any(whole).as_py():
            return "moments"
        if not pc.all(whole).as_py():
            return None
        numbers = pc.utf8_trim_whitespace(moments).cast(pa.int64())
    elif pa.types.is_integer(moments.type):
        numbers = moments
    else:
        return "moments"
    times = to_times(numbers)
    if times.reading == "days":
        sure = times.bad is None
    else:
        sure = times.reading != "steps" or pc.max(numbers).as_py() < FIRST_DAY
    return to_times(moments).reading if sure else None
