"""Times of any column type as int64: nanoseconds since 1970 UTC, or step numbers kept as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_PER_UNIT = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
_DAY = 86_400 * 1_000_000_000
_LAST_DAY = (2**63 - 1) // _DAY - 1
_YEAR_1990 = 631_152_000
_YEAR_2100 = 4_102_444_800
_BLANKS = " \t\r\n"
_MOMENT = (
    r"^(?P<year>\d{4})(?P<separator>[-/.])(?P<month>\d{1,2})(?P<again>[-/.])(?P<day>\d{1,2})"
    r"(?:(?:T|t| +)(?P<hour>\d{1,2})(?::(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?)?"
    r" *(?P<zone>Z|z|UTC|[+-]\d{2}(?::?\d{2})?)?)?$"
)


@dataclass(frozen=True, eq=False)
class Times:
    """Times of rows.

    Attributes
    ----------
    values : int64 array of shape (rows,)
        0 where bad.
    bad : bool array of shape (rows,) or None
        Rows without a time that can be read, nulls among them. None: no row is bad.
    unit : str
        "ns" since 1970 UTC, or "steps": the integers as they are.
    reading : str
        How integers were read: "s", "ms", "us", "ns", "days" (YYYYMMDD) or "steps"; "moments" where the column holds
        none. Empty: no row says.
    """

    values: Int64s
    bad: Bools | None
    unit: str
    reading: str = "moments"


def to_times(column: pa.Array | pa.ChunkedArray, reading: str = "") -> Times:
    """Read a column of times, or the next part of one.

    Parameters
    ----------
    column : pyarrow.Array of shape (rows,)
        Timestamps of any unit and zone, dates, integers, floats that hold integers, or text. A time without zone is
        UTC.
    reading : str, optional
        How the parts before were read, so that all parts of a column are read alike.

    Returns
    -------
    Times

    Notes
    -----
    Integers are read as the column they are in: seconds, milliseconds, microseconds or nanoseconds since 1970 if all of
    them fall into 1990 to 2100 in that unit (seconds: 631152000 up to 4102444800, and so on times 1000; the four ranges
    do not touch); dates if all lie between 19000101 and 21001231 and most are calendar days YYYYMMDD; else steps. Text
    is a column of integers if more than half of its cells are. The first part of a column that holds any time decides.

    Text may be 2025-01-31, 2025/01/31, 2025.01.31 or 20250131, each alone or followed by T or a space and 13, 13:45,
    13:45:10 or 13:45:10.123456789, and by Z, UTC or an offset such as +09:00. Day first and month first are not told
    apart: bad.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    bad = np.array(column.is_null().to_numpy(zero_copy_only=False))
    if pa.types.is_timestamp(kind):
        return _scaled(_integers(column.cast(pa.int64())), bad, _PER_UNIT[kind.unit])
    if pa.types.is_date32(kind):
        return _scaled(_integers(column.cast(pa.int32())), bad, _DAY)
    if pa.types.is_date64(kind):
        return _scaled(_integers(column.cast(pa.int64())), bad, _PER_UNIT["ms"])
    if pa.types.is_integer(kind):
        if pa.types.is_uint64(kind):
            bad |= _filled(pc.greater(column, pa.scalar(2**63 - 1, pa.uint64())), False)
        return _from_integers(_integers(column), bad, reading)
    if pa.types.is_floating(kind):
        numbers = _filled(column.cast(pa.float64()), 0.0)
        bad |= ~(np.abs(numbers) <= 2.0**53) | (numbers != np.rint(numbers))
        return _from_integers(np.where(bad, 0, numbers).astype(np.int64), bad, reading)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _from_text(column if not pa.types.is_string_view(kind) else column.cast(pa.large_string()), reading)
    return _times(np.zeros(len(column), dtype=np.int64), np.ones(len(column), dtype=bool), "")


def _times(values: Int64s, bad: Bools, reading: str) -> Times:
    unit = "steps" if reading == "steps" else "ns"
    if not bad.any():
        return Times(values, None, unit, reading)
    return Times(np.where(bad, 0, values), bad, unit, reading)


def _filled(column: pa.Array, value: object) -> npt.NDArray[Any]:
    filled: npt.NDArray[Any] = pc.fill_null(column, value).to_numpy(zero_copy_only=False)
    return filled


def _integers(column: pa.Array) -> Int64s:
    return _filled(column, 0).astype(np.int64)


def _scaled(values: Int64s, bad: Bools, factor: int, reading: str = "moments") -> Times:
    limit = (2**63 - 1) // factor
    bad = bad | (values > limit) | (values < -limit)
    return _times(np.where(bad, 0, values) * np.int64(factor), bad, reading)


def _from_integers(values: Int64s, bad: Bools, reading: str) -> Times:
    reading = reading or _reading_of(values[~bad])
    if reading in _PER_UNIT:
        return _scaled(values, bad, _PER_UNIT[reading], reading)
    if reading == "days":
        days, unreal = _days_of_digits(values)
        return _times(days * _DAY, bad | unreal, reading)
    return _times(values, bad, reading)


def _reading_of(known: Int64s) -> str:
    """Tell what integers mean, from all that are known; empty where there is none."""
    if not len(known):
        return ""
    low, high = int(known.min()), int(known.max())
    for unit, factor in _PER_UNIT.items():
        per_second = 1_000_000_000 // factor
        if low >= _YEAR_1990 * per_second and high < _YEAR_2100 * per_second:
            return unit
    if low >= 19000101 and high <= 21001231 and 2 * np.count_nonzero(_days_of_digits(known)[1]) < len(known):
        return "days"
    return "steps"


def _days_of_digits(values: Int64s) -> tuple[Int64s, Bools]:
    """Read YYYYMMDD; what lies outside of four-digit years is no day."""
    inside = np.where((values >= 0) & (values <= 99991231), values, 0)
    return _days(inside // 10000, inside // 100 % 100, inside % 100)


def _days(year: Int64s, month: Int64s, day: Int64s) -> tuple[Int64s, Bools]:
    """Return days since 1970 and where there is no such day, or none that nanoseconds can hold (both 0)."""
    first = ((year - 1970) * 12 + month - 1).astype("M8[M]").astype("M8[D]").astype(np.int64)
    after = ((year - 1970) * 12 + month).astype("M8[M]").astype("M8[D]").astype(np.int64)
    days = first + day - 1
    unreal = (month < 1) | (month > 12) | (day < 1) | (days >= after) | (np.abs(days) > _LAST_DAY)
    return np.where(unreal, 0, days), unreal


# --- text -------------------------------------------------------------------------------------------------------------


def _from_text(column: pa.Array, reading: str) -> Times:
    """Read each distinct text once: ledgers repeat their days and minutes."""
    encoded = column.dictionary_encode()
    code = _integers(pc.fill_null(encoded.indices, -1))
    texts = pc.utf8_trim(encoded.dictionary, characters=_BLANKS)
    count = np.bincount(code[code >= 0], minlength=len(texts))
    empty = _filled(pc.equal(texts, ""), False)
    whole = _filled(pc.match_substring_regex(texts, r"^[+-]?(\d{1,18}|[1-8]\d{18})$"), False)
    if not reading and not count[~empty].sum():
        return _times(np.zeros(len(column), dtype=np.int64), np.ones(len(column), dtype=bool), "")
    distinct = None
    if reading not in ("", "moments") or (not reading and 2 * count[whole].sum() > count[~empty].sum()):
        integers = _integers(_cast_integers(pc.if_else(pa.array(whole), texts, None)))
        distinct = _from_integers(integers, ~whole, reading)
    if distinct is None or distinct.reading == "days":  # 20250131 is a moment too, and may be 2025-01-31 further on
        values, wrong = _moments(pc.if_else(pa.array(empty), None, texts))
        distinct = _times(values, wrong, "moments")
    # One more row, at position -1, for the nulls.
    values = np.append(distinct.values, np.int64(0))[code]
    wrong = np.append(np.zeros(len(texts), dtype=bool) if distinct.bad is None else distinct.bad, True)[code]
    return _times(values, wrong, distinct.reading)


def _cast_integers(texts: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(texts, r"^\+", "").cast(pa.int64())


def _moments(texts: pa.Array) -> tuple[Int64s, Bools]:
    """Return nanoseconds, and where the text is no time."""
    for kind in (pa.timestamp("ns"), pa.timestamp("ns", "UTC")):
        try:
            return _integers(texts.cast(kind).cast(pa.int64())), _filled(texts.is_null(), False)
        except pa.ArrowInvalid:
            continue  # some text is of another form
    dashed = pc.replace_substring_regex(texts, r"^(\d{4})[/.](\d{2})[/.](\d{2})($|[T ])", r"\1-\2-\3\4")
    dashed = pc.replace_substring_regex(dashed, r"^(\d{4})(\d{2})(\d{2})($|[T ])", r"\1-\2-\3\4")
    return _fields(texts) if dashed.equals(texts) else _moments(dashed)


def _fields(texts: pa.Array) -> tuple[Int64s, Bools]:
    found = pc.extract_regex(texts, pattern=_MOMENT)

    def number(name: str) -> Int64s:
        text = pc.struct_field(found, name)
        return _integers(pc.if_else(pc.equal(text, ""), "0", text).cast(pa.int64()))

    days, wrong = _days(number("year"), number("month"), number("day"))
    separator, again = pc.struct_field(found, "separator"), pc.struct_field(found, "again")
    wrong |= _filled(pc.not_equal(separator, again), True)
    hour, minute, second = number("hour"), number("minute"), number("second")
    fraction = pc.utf8_rpad(pc.struct_field(found, "fraction"), width=9, padding="0")
    nanosecond = _integers(fraction.cast(pa.int64()))
    offset, no_zone = _offsets(pc.struct_field(found, "zone"))
    wrong |= (hour > 23) | (minute > 59) | (second > 59) | no_zone
    values = days * _DAY + (hour * 3600 + minute * 60 + second - offset) * 1_000_000_000 + nanosecond
    return values, wrong


def _offsets(zone: pa.Array) -> tuple[Int64s, Bools]:
    """Return seconds east of UTC, and where there is no such offset."""
    digits = pc.replace_substring_regex(zone, r"[^0-9]", "")
    digits = pc.utf8_rpad(digits, width=4, padding="0")
    clock = _integers(digits.cast(pa.int64()))
    seconds = clock // 100 * 3600 + clock % 100 * 60
    west = _filled(pc.starts_with(zone, "-"), False)
    return np.where(west, -seconds, seconds), (clock // 100 > 23) | (clock % 100 > 59)
