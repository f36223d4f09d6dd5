"""Amounts of any column type as int64 minor units, exactly as written, with the difference that rounding makes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

from ouroflow.errors import InputError
from ouroflow.ledger.schema import (
    MISSING_AMOUNT,
    MISSING_CURRENCY,
    NO_RATE,
    NOT_A_NUMBER,
    NOT_FINITE,
    TOO_LARGE,
    USED,
)

if TYPE_CHECKING:
    from ouroflow.ledger.tables import Rates

Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]
Reasons = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.int64]

_LIMIT = 2**63
_COMPILED_FROM = 20_000  # below, Python reads a text column sooner than the kernel is compiled
_FLOAT_BLOCK = 1 << 15  # the temporaries of a block stay in the cache
_UNIQUE = 1e15  # up to 15 digits, a decimal is the shortest one of the float it reads as
_BLANKS = " \t\r\n"
_MAX_CHARACTERS = 1000
_NUMBER = re.compile(r"([+-]?)(\d*)(?:\.(\d*))?(?:[eE]([+-]?\d{1,4}))?", re.ASCII)
_NO_NUMBER = re.compile(r"[+-]?(nan|inf|infinity)", re.ASCII | re.IGNORECASE)
_REDO = 255  # of the kernel: leave the row to Python


@dataclass(frozen=True, eq=False)
class Minor:
    """Amounts in minor units.

    Attributes
    ----------
    values : int64 array of shape (rows,)
        Minor units; 0 where there is a reason.
    reason : uint8 array of shape (rows,) or None
        Codes of `ouroflow.ledger.schema`; 0 for a row that is fine. None: every row is.
    rounding : Fraction
        Sum of `values` minus the sum as written, over the rows that are fine, in minor units. Exact. A float counts as
        its shortest decimal where that is a whole number of minor units, else as the binary number it is.
    """

    values: Int64s
    reason: Reasons | None
    rounding: Fraction


def to_minor(column: pa.Array | pa.ChunkedArray, decimals: int) -> Minor:
    """Read a column of amounts as integers of 10**-decimals, rounded half-even.

    Parameters
    ----------
    column : pyarrow.Array of shape (rows,)
        Integers, decimals, floats or text, or a dictionary of them. A column of any other type holds no numbers.
    decimals : int
        From 0 to 18.

    Returns
    -------
    Minor
        Signs are kept, and zero is an amount like any other: the caller decides about them.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    nulls = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
    if pa.types.is_integer(kind):
        minor = _from_integers(column, decimals)
    elif pa.types.is_decimal(kind):
        minor = _from_decimals(column, decimals)
    elif pa.types.is_floating(kind):
        minor = _from_floats(_as_doubles(column), decimals)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        minor = _from_text(column, decimals)
    else:
        reason = np.full(len(column), MISSING_AMOUNT if pa.types.is_null(kind) else NOT_A_NUMBER, dtype=np.uint8)
        minor = Minor(np.zeros(len(column), dtype=np.int64), reason if len(reason) else None, Fraction(0))
    if nulls is None:
        return minor
    reason = np.zeros(len(column), dtype=np.uint8) if minor.reason is None else minor.reason
    reason[nulls] = MISSING_AMOUNT
    return Minor(minor.values, reason, minor.rounding)


def to_minor_at_rates(
    column: pa.Array, decimals: int, currency: pa.Array, time_ns: npt.NDArray[np.int64] | None, rates: Rates
) -> Minor:
    """Convert a column of amounts into the result currency: amount times rate, rounded once.

    As :func:`to_minor` and then :func:`apply_rates`, but an amount with more digits than `decimals` keeps them all until
    it is converted: 0.00012345 BTC are dollars and cents, and an amount past int64 may fit once it is converted.
    """
    minor = to_minor(column, decimals)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_integer(column.type) or pa.types.is_null(column.type):
        longer = np.zeros(len(column), dtype=bool)
    else:
        column = column.cast(pa.string())
        pattern = rf"[eE]|\.\d{{{decimals}}}\d*[1-9]"
        longer = pc.fill_null(pc.match_substring_regex(column, pattern), False).to_numpy(zero_copy_only=False)
    reason = np.zeros(len(column), dtype=np.uint8) if minor.reason is None else minor.reason.copy()
    longer = (longer & (reason == USED)) | (reason == TOO_LARGE)
    if not longer.any():
        return apply_rates(minor, currency, time_ns, rates)
    reason[longer] = USED
    started = Minor(minor.values, reason if reason.any() else None, minor.rounding)
    converted = apply_rates(started, currency, time_ns, rates)
    reason = np.zeros(len(column), dtype=np.uint8) if converted.reason is None else converted.reason.copy()
    values = converted.values.copy()
    names = currency.cast(pa.string()).to_pylist()
    for row in np.flatnonzero(longer & ((reason == USED) | (reason == TOO_LARGE))):
        rate = rates.rate(names[row], _LIMIT - 1 if time_ns is None else int(time_ns[row]))
        units = round(Fraction(str(column[int(row)].as_py()).strip()) * (rate or 0) * 10**decimals)  # ties to even
        reason[row] = USED if abs(units) < _LIMIT else TOO_LARGE
        values[row] = units if abs(units) < _LIMIT else 0
    return Minor(values, reason if reason.any() else None, Fraction(0))


def apply_rates(
    minor: Minor, currency: pa.Array | pa.ChunkedArray, time_ns: npt.NDArray[np.int64] | None, rates: Rates
) -> Minor:
    """Convert amounts into the result currency of a table of rates, exactly and rounded half-even.

    Parameters
    ----------
    minor : Minor of n rows
    currency : pyarrow.Array of shape (rows,)
        Text; upper and lower case are alike, blank and null are missing.
    time_ns : int64 array of shape (rows,) or None
        When each payment was made, nanoseconds since 1970 UTC. The rate is that of the latest date not after it.
    rates : Rates

    Returns
    -------
    Minor
        With MISSING_CURRENCY, NO_RATE and TOO_LARGE for the rows that cannot be converted; a row with several faults
        has the lowest code. `rounding` stays where every rate in use is 1, and else is 0: differences in several
        currencies have no sum.

    Raises
    ------
    InputError
        If a rate in use depends on the date and there is no time.
    """
    if isinstance(currency, pa.ChunkedArray):
        currency = currency.combine_chunks()
    if not pa.types.is_dictionary(currency.type):
        currency = currency.dictionary_encode()
    names = [plain_currency(name) for name in currency.dictionary.to_pylist()]
    priced = list(rates.table)
    number = {name: place for place, name in enumerate(priced)} | {"": -2}
    # One more name, at position -1, for the nulls.
    number_of = np.array([number.get(name, -1) for name in [*names, ""]], dtype=np.int64)
    code = number_of[pc.fill_null(currency.indices, -1).to_numpy(zero_copy_only=False)]
    reason = np.zeros(len(code), dtype=np.uint8) if minor.reason is None else minor.reason.copy()
    values = minor.values.copy()
    converted = False
    _lower(reason, np.flatnonzero(code == -2), MISSING_CURRENCY)
    _lower(reason, np.flatnonzero(code == -1), NO_RATE)
    for place in np.unique(code[code >= 0]):
        rows = np.flatnonzero(code == place)
        starts, steps = rates.table[priced[place]]
        if time_ns is None and len(steps) > 1:
            raise InputError(
                f"{rates.where} has rates of {priced[place]} by date, but the payments have no time: name its column "
                "(--time COLUMN) or give one rate for each currency, without date"
            )
        period = np.zeros(len(rows), dtype=np.int64)
        if time_ns is not None:
            period = np.searchsorted(starts, time_ns[rows], side="right") - 1
        _lower(reason, rows[period < 0], NO_RATE)
        for step, rate in enumerate(steps):
            chosen = rows[period == step]
            if rate != 1 and len(chosen):
                converted = True
                values[chosen], too_large, _ = _times(values[chosen], rate)
                _lower(reason, chosen[too_large], TOO_LARGE)
    values[reason != USED] = 0
    return Minor(values, reason if reason.any() else None, Fraction(0) if converted else minor.rounding)


def plain_currency(name: object) -> str:
    """Return the name of a currency as it is looked up: upper case, without blanks around; "" for None."""
    return "" if name is None else str(name).strip().upper()


def exact_sum(values: Int64s) -> int:
    """Sum int64 numbers without overflow."""
    return (int((values >> 32).sum()) << 32) + int((values & 0xFFFFFFFF).sum())


def _lower(reason: Reasons, rows: Rows, code: int) -> None:
    """Give rows a reason, unless they have one of a lower code."""
    old = reason[rows]
    reason[rows] = np.where((old == USED) | (old > code), code, old)


def _found(values: Int64s, too_large: npt.NDArray[np.bool_], rounding: Fraction) -> Minor:
    reason = np.where(too_large, np.uint8(TOO_LARGE), np.uint8(USED)) if too_large.any() else None
    return Minor(values, reason, rounding)


# --- integers and decimals --------------------------------------------------------------------------------------------


def _times(values: Int64s, rate: Fraction) -> tuple[Int64s, npt.NDArray[np.bool_], Fraction]:
    """Multiply by a positive rate, half-even; return products, where they pass int64 (0 there), and the rounding."""
    top, bottom = rate.numerator, rate.denominator
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    largest = max(-low, high, 1)
    if bottom == 1:
        limit = (_LIMIT - 1) // top
        if largest <= limit:
            return values * np.int64(top), np.zeros(len(values), dtype=bool), Fraction(0)
        too_large = (values > limit) | (values < -limit)
        return np.where(too_large, 0, values) * np.int64(min(top, _LIMIT - 1)), too_large, Fraction(0)
    if largest * top < _LIMIT and bottom < _LIMIT // 2:
        product = values * np.int64(top)
        whole, rest = np.divmod(product, np.int64(bottom))
        gap = np.int64(bottom) - rest
        whole += (rest > gap) | ((rest == gap) & (whole & 1 == 1))
        rounding = Fraction(exact_sum(whole) * bottom - exact_sum(values) * top, bottom)
        return whole, np.zeros(len(values), dtype=bool), rounding
    return _of_python_integers(values.tolist(), rate)


def _of_python_integers(numbers: list[int], rate: Fraction) -> tuple[Int64s, npt.NDArray[np.bool_], Fraction]:
    """Do the same with integers of any size."""
    top, bottom = rate.numerator, rate.denominator
    values = np.zeros(len(numbers), dtype=np.int64)
    too_large = np.zeros(len(numbers), dtype=bool)
    lost = 0
    for row, number in enumerate(numbers):
        whole = _half_even(number * top, bottom)
        if abs(whole) >= _LIMIT:
            too_large[row] = True
        else:
            values[row] = whole
            lost += whole * bottom - number * top
    return values, too_large, Fraction(lost, bottom)


def _half_even(number: int, divisor: int) -> int:
    whole, rest = divmod(number, divisor)
    return whole + (2 * rest > divisor or (2 * rest == divisor and whole & 1))


def _from_integers(column: pa.Array, decimals: int) -> Minor:
    if column.null_count:
        column = pc.fill_null(column, 0)
    numbers = column.to_numpy(zero_copy_only=False)
    beyond = numbers >= np.uint64(_LIMIT) if numbers.dtype == np.uint64 else None
    values, too_large, rounding = _times(numbers.astype(np.int64), Fraction(10**decimals))
    if beyond is not None and beyond.any():
        values[beyond] = 0
        too_large = too_large | beyond
    return _found(values, too_large, rounding)


def _from_decimals(column: pa.Array, decimals: int) -> Minor:
    kind = column.type
    if kind.bit_width < 128:
        column = column.cast(pa.decimal128(max(kind.precision, 1), kind.scale))
    rate = Fraction(10) ** (decimals - kind.scale)
    size = column.type.bit_width // 64
    buffer = column.buffers()[1]
    if buffer is None or not len(column):
        return Minor(np.zeros(len(column), dtype=np.int64), None, Fraction(0))
    words = np.frombuffer(buffer, dtype="<i8", count=(column.offset + len(column)) * size)
    words = words.reshape(-1, size)[column.offset :]
    values = words[:, 0].copy()
    narrow = (words[:, 1:] == (values >> 63)[:, None]).all(axis=1)
    if column.null_count:
        nulls = column.is_null().to_numpy(zero_copy_only=False)
        values[nulls] = 0
        narrow |= nulls
    if narrow.all():
        return _found(*_times(values, rate))
    wide = np.flatnonzero(~narrow)
    values[wide] = 0
    values, too_large, rounding = _times(values, rate)
    numbers = [int.from_bytes(words[row].tobytes(), "little", signed=True) for row in wide]
    values[wide], too_large[wide], more = _of_python_integers(numbers, rate)
    return _found(values, too_large, rounding + more)


# --- floats -----------------------------------------------------------------------------------------------------------


def _as_doubles(column: pa.Array) -> Float64s:
    """Return float64 numbers with the same shortest decimal: 0.1 as float32 is 0.1, not 0.10000000149."""
    if column.null_count:
        column = pc.fill_null(column, pa.scalar(0.0, column.type))
    if column.type != pa.float64():
        column = column.cast(pa.float32()).cast(pa.string()).cast(pa.float64())
    doubles: Float64s = column.to_numpy(zero_copy_only=False)
    return doubles


def _from_floats(numbers: Float64s, decimals: int) -> Minor:
    """Round the shortest decimal of each number, which is what was written.

    If whole minor units divided by 10**decimals give the number back, they are its shortest decimal: that holds for all
    amounts of up to 15 digits that were written with no more than `decimals` places. Only the others are looked at
    again.
    """
    scale = 10.0**decimals
    values = np.empty(len(numbers), dtype=np.int64)
    others = []
    for start in range(0, len(numbers), _FLOAT_BLOCK):
        block = numbers[start : start + _FLOAT_BLOCK]
        with np.errstate(over="ignore", invalid="ignore"):
            minor = block * scale
            np.rint(minor, out=minor)
            values[start : start + _FLOAT_BLOCK] = minor
            whole = minor / scale == block
            np.abs(minor, out=minor)
            whole &= minor <= _UNIQUE
        if not whole.all():
            others.append(np.flatnonzero(~whole) + start)
    if not others:
        return Minor(values, None, Fraction(0))
    return _finish_floats(numbers, decimals, values, np.concatenate(others))


def _finish_floats(numbers: Float64s, decimals: int, values: Int64s, rows: Rows) -> Minor:
    """Read the floats that are no whole minor units of up to 15 digits."""
    reason = np.zeros(len(values), dtype=np.uint8)
    with np.errstate(over="ignore", invalid="ignore"):
        minor = numbers[rows] * 10.0**decimals
        size = np.abs(minor)
        # The product and the shortest decimal are both within half a unit in the last place of the number.
        unsure = (np.abs(minor - np.floor(minor) - 0.5) <= size * 2.0**-50) | (size > _UNIQUE)
    reason[rows[~(size < 2.0**64)]] = TOO_LARGE
    reason[rows[~np.isfinite(numbers[rows])]] = NOT_FINITE
    off = np.ones(len(rows), dtype=bool)
    for place in np.flatnonzero(unsure & (size < 2.0**64)):
        row = rows[place]
        values[row], reason[row], lost = _read_text(repr(float(numbers[row])), decimals)
        off[place] = lost != 0
    values[reason != USED] = 0
    off &= reason[rows] == USED
    rounded = rows[off]
    rounding = exact_sum(values[rounded]) - _exact_float_sum(numbers[rounded]) * 10**decimals
    return Minor(values, reason if reason.any() else None, Fraction(rounding))


def _exact_float_sum(numbers: Float64s) -> Fraction:
    """Sum finite floats without any rounding: integer mantissas, summed per exponent."""
    mantissa, exponent = np.frexp(numbers)
    whole = np.ldexp(mantissa, 53).astype(np.int64)
    total = Fraction(0)
    for power in np.unique(exponent):
        total += exact_sum(whole[exponent == power]) * Fraction(2) ** (int(power) - 53)
    return total


# --- text -------------------------------------------------------------------------------------------------------------


def _from_text(column: pa.Array, decimals: int) -> Minor:
    if len(column) < _COMPILED_FROM:
        texts = column.to_pylist()
        return _read_texts(texts, np.arange(len(texts)), decimals, np.zeros(len(texts), np.int64), Fraction(0), None)
    column = column.cast(pa.large_string())
    if column.null_count:
        column = pc.fill_null(column, "")
    _, offsets, data = column.buffers()
    starts = np.frombuffer(offsets, dtype=np.int64, count=column.offset + len(column) + 1)[column.offset :]
    characters = np.frombuffer(data, dtype=np.uint8) if data is not None and data.size else np.zeros(1, dtype=np.uint8)
    values = np.zeros(len(column), dtype=np.int64)
    reason = np.zeros(len(column), dtype=np.uint8)
    lost = np.zeros((20, 2), dtype=np.int64)
    _parse(starts, characters, decimals, values, reason, lost)
    rounding = sum((Fraction(int(a) * 10**9 + int(b), 10**k) for k, (a, b) in enumerate(lost)), start=Fraction(0))
    redo = np.flatnonzero(reason == _REDO)
    return _read_texts(column.take(pa.array(redo)).to_pylist(), redo, decimals, values, rounding, reason)


def _read_texts(
    texts: list[str | None], rows: Rows, decimals: int, values: Int64s, rounding: Fraction, reason: Reasons | None
) -> Minor:
    """Read the texts of some rows into the arrays of all."""
    reason = np.zeros(len(values), dtype=np.uint8) if reason is None else reason
    lost: dict[int, int] = {}  # by denominator: adding fractions row by row would take most of the time
    for row, text in zip(rows.tolist(), texts, strict=True):
        values[row], reason[row], difference = _read_text(text or "", decimals)
        if difference:
            lost[difference.denominator] = lost.get(difference.denominator, 0) + difference.numerator
    rounding += sum((Fraction(above, below) for below, above in lost.items()), start=Fraction(0))
    return Minor(values, reason if reason.any() else None, rounding)


def _read_text(text: str, decimals: int) -> tuple[int, int, Fraction]:
    """Return minor units, reason, and minor units minus the number as written."""
    text = text.strip(_BLANKS)
    if not text:
        return 0, MISSING_AMOUNT, Fraction(0)
    if _NO_NUMBER.fullmatch(text):
        return 0, NOT_FINITE, Fraction(0)
    match = _NUMBER.fullmatch(text) if len(text) <= _MAX_CHARACTERS else None
    if match is None or not (match[2] or match[3]):
        return 0, NOT_A_NUMBER, Fraction(0)
    places = match[3] or ""
    number = int(match[1] + match[2] + places)
    shift = int(match[4] or 0) - len(places) + decimals
    if number == 0:
        return 0, USED, Fraction(0)
    if shift >= 0:
        minor = number * 10**shift if shift < 19 else _LIMIT
        return (0, TOO_LARGE, Fraction(0)) if abs(minor) >= _LIMIT else (minor, USED, Fraction(0))
    minor = _half_even(number, 10**-shift)
    if abs(minor) >= _LIMIT:
        return 0, TOO_LARGE, Fraction(0)
    return minor, USED, Fraction(minor * 10**-shift - number, 10**-shift)


@njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _parse(
    starts: Int64s, characters: npt.NDArray[np.uint8], decimals: int, values: Int64s, reason: Reasons, lost: Int64s
) -> None:
    """Read plain numbers of up to 18 digits; every other text becomes _REDO.

    `lost[k]` sums what rounding off k places adds, in units of 10**-k, as (billions, rest), so that no sum overflows.
    """
    for row in range(len(values)):
        at = starts[row]
        end = starts[row + 1]
        while at < end and (characters[at] == 32 or 9 <= characters[at] <= 10 or characters[at] == 13):
            at += 1
        while end > at and (characters[end - 1] == 32 or 9 <= characters[end - 1] <= 10 or characters[end - 1] == 13):
            end -= 1
        if at == end:
            reason[row] = MISSING_AMOUNT
            continue
        negative = characters[at] == 45
        if negative or characters[at] == 43:
            at += 1
        number = np.int64(0)
        digits = 0
        places = 0
        points = 0
        plain = end - at <= 19
        while plain and at < end:
            character = characters[at]
            if 48 <= character <= 57:
                number = number * 10 + np.int64(character) - 48
                digits += 1
                places += points
            elif character == 46 and points == 0:
                points = 1
            else:
                plain = False
            at += 1
        if not plain or digits == 0 or digits > 18:
            reason[row] = _REDO
            continue
        for _ in range(places, decimals):
            if number > 922337203685477580:  # (2**63 - 1) // 10
                plain = False
                break
            number *= 10
        if not plain:
            reason[row] = _REDO
            continue
        if places > decimals:
            power = np.int64(1)
            for _ in range(decimals, places):
                power *= 10
            whole = number // power
            rest = number - whole * power
            number = whole
            added = -rest
            if rest > power - rest or (rest == power - rest and whole & 1 == 1):
                number += 1
                added = power - rest
            if negative:
                added = -added
            billions = added // 1_000_000_000
            lost[places - decimals, 0] += billions
            lost[places - decimals, 1] += added - billions * 1_000_000_000
        values[row] = -number if negative else number
