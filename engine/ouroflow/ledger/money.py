"""Amounts of any column type to int64 minor units, exactly: nothing is lost that `decimals` can hold, the rest is half-even.

Rounding is that of the decimal number that people see. A float stands for its shortest decimal: 1.005 is a tie and becomes
1.00, although the binary number lies a little below or above it, and ``rint(x * 100)`` gives 1.00 for 1.005 and 0.28 for
0.285 only by chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ouroflow.errors import InputError
from ouroflow.ledger.schema import MISSING_AMOUNT, NOT_A_NUMBER, NOT_FINITE, TOO_LARGE, USED

MAX_DECIMALS = 18
LARGEST = 2**63 - 1
UNSURE = 255
"""Fault code inside this module: the fast method cannot tell, the text of the number decides."""
FLOAT_LIMIT = 2.0**49
"""Products below this have room for the half and for both rounding errors."""
TIE_LIMIT = 1e15
"""Decimals of up to 15 digits survive the way through a double, so that a tie can be recognised as one."""
NEAR = 2.0**-50
"""Relative distance to a tie within which the product alone does not decide: four times the rounding errors."""
EXPONENT_LIMIT = 100_000

_POWERS = np.array([10**power for power in range(19)], dtype=np.int64)

Words = npt.NDArray[np.int64]
Faults = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Minor:
    """Amounts of one batch.

    Attributes
    ----------
    values : int64 array
        Minor units; 0 where there is a fault.
    faults : uint8 array or None
        Code of the reason, `USED` where there is none. None: no row has a fault.
    rounding : Fraction
        Sum of the values minus the sum as written, in minor units; meaningless where there are faults.
    """

    values: Words
    faults: Faults | None
    rounding: Fraction


def to_minor(column: pa.Array, decimals: int, what: str) -> Minor:
    """Convert one column of amounts.

    Parameters
    ----------
    column : pyarrow.Array of shape (rows,)
        Integers, decimals, floats, or text with plain numbers.
    decimals : int
        0..18; a minor unit is 10^-decimals.
    what : str
        Column and file, for messages.

    Returns
    -------
    Minor
        One value per row. Faults are missing amount, amount not a number, amount not finite and amount too large.

    Raises
    ------
    InputError
        If the type of the column cannot be an amount.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind, t = column.type, pa.types
    if t.is_null(kind):
        result = _no_values(len(column))
    elif t.is_integer(kind):
        result = _from_integers(column, decimals)
    elif t.is_float64(kind):
        result = _from_floats(column, decimals)
    elif t.is_decimal(kind):
        result = _from_decimals(column, decimals)
    elif t.is_floating(kind):
        result = _from_text(_float_text(column), decimals)
    elif is_text(kind):
        result = _from_text(column, decimals)
    else:
        raise InputError(f"{what} is of type {kind}: amounts are integers, decimals, floats or text with plain numbers")
    return _mark_missing(result, column)


def is_text(kind: pa.DataType) -> bool:
    """Tell whether a type is text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def text_buffers(column: pa.Array) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
    """Return offsets (rows + 1) and bytes of a text column, both views of its buffers where it is not of string views."""
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.large_string())
    width = np.int64 if pa.types.is_large_string(column.type) else np.int32
    _, offsets, data = column.buffers()
    if offsets is None or not len(column):
        return np.zeros(len(column) + 1, dtype=width), np.zeros(0, dtype=np.uint8)
    begins = np.frombuffer(offsets, dtype=width)[column.offset : column.offset + len(column) + 1]
    return begins, np.frombuffer(data, dtype=np.uint8) if data is not None else np.zeros(0, dtype=np.uint8)


def missing(column: pa.Array) -> npt.NDArray[np.bool_]:
    """Return which rows are null."""
    nulls: npt.NDArray[np.bool_] = pc.is_null(column).to_numpy(zero_copy_only=False)
    return nulls


def _no_values(rows: int) -> Minor:
    return Minor(np.zeros(rows, dtype=np.int64), np.full(rows, MISSING_AMOUNT, dtype=np.uint8), Fraction(0))


def _mark_missing(result: Minor, column: pa.Array) -> Minor:
    """Whatever lies under a null is not an amount."""
    if not column.null_count:
        return result
    nulls = missing(column)
    faults = np.zeros(len(column), dtype=np.uint8) if result.faults is None else result.faults
    faults[nulls] = MISSING_AMOUNT
    return Minor(np.where(nulls, 0, result.values), faults, result.rounding)


def _minor(values: Words, faults: Faults, rounding: Fraction) -> Minor:
    """Drop the faults where there are none."""
    return Minor(values, faults if faults.any() else None, rounding)


def _from_integers(column: pa.Array, decimals: int) -> Minor:
    """Whole units: a checked multiplication."""
    filled = column.fill_null(0) if column.null_count else column
    values: npt.NDArray[Any] = filled.to_numpy(zero_copy_only=False)
    scale = 10**decimals
    limit = LARGEST // scale
    if not len(values) or (int(values.max()) <= limit and int(values.min()) >= -limit):
        return Minor(values.astype(np.int64) * scale, None, Fraction(0))
    too_large = (values > limit) | ((values < -limit) if values.dtype.kind == "i" else False)
    kept = np.where(too_large, 0, values).astype(np.int64) * scale
    return Minor(kept, np.where(too_large, TOO_LARGE, USED).astype(np.uint8), Fraction(0))


# --- floats -------------------------------------------------------------------------------------------------------------


@numba.njit(cache=True, nogil=True)
def _round_floats(values, scale, minor, faults, rounded, buckets):
    """Round value * scale half-even, as the shortest decimal of the value says; return whether any row has a fault.

    `rounded` (2 words) and `buckets` (2 words per exponent) sum the amounts that do not lie on a minor unit, before and
    after: integers only, so that the difference is exact in any order.
    """
    bits = values.view(np.int64)
    faulty = False
    for row in range(len(values)):
        value = values[row]
        product = abs(value * scale)
        if not product < FLOAT_LIMIT:
            minor[row] = 0
            faults[row] = NOT_FINITE if not np.isfinite(value) else UNSURE
            faulty = True
            continue
        below = np.floor(product)
        rest = product - below
        units = np.int64(below)
        if abs(rest - 0.5) > NEAR * product:
            units += rest > 0.5
        else:
            # The decimal that ends in exactly half a minor unit, correctly rounded to a double by one division of two
            # exact numbers: the value is that tie if it is that double, else the doubles are ordered as the decimals are.
            ten_times = 10.0 * below + 5.0
            if ten_times >= TIE_LIMIT:
                minor[row] = 0
                faults[row] = UNSURE
                faulty = True
                continue
            tie = ten_times / (10.0 * scale)
            units += abs(value) > tie or (abs(value) == tie and units & 1)
        if abs(value) != units / scale:
            mantissa = (bits[row] & 0xFFFFFFFFFFFFF) | 0x10000000000000
            sign = 1 if value > 0 else -1
            exponent = (bits[row] >> 52) & 0x7FF
            buckets[exponent, 0] += sign * (mantissa >> 26)
            buckets[exponent, 1] += sign * (mantissa & 0x3FFFFFF)
            rounded[0] += sign * (units >> 24)
            rounded[1] += sign * (units & 0xFFFFFF)
        minor[row] = units if value >= 0 else -units
    return faulty


def _from_floats(column: pa.Array, decimals: int) -> Minor:
    """Doubles: arithmetic for nearly all, the shortest decimal as text for the few that are too large to be sure of."""
    validity, data = column.buffers()
    values = np.frombuffer(data, dtype=np.float64)[column.offset : column.offset + len(column)] if len(column) else np.empty(0)
    minor, faults = np.zeros(len(values), dtype=np.int64), np.zeros(len(values), dtype=np.uint8)
    rounded, buckets = np.zeros(2, dtype=np.int64), np.zeros((2048, 2), dtype=np.int64)
    if not _round_floats(values, float(10**decimals), minor, faults, rounded, buckets):
        return Minor(minor, None, _float_rounding(rounded, buckets, decimals))
    unsure = np.flatnonzero(faults == UNSURE)
    rounding = _float_rounding(rounded, buckets, decimals) + _settle(column, unsure, decimals, minor, faults)
    return _minor(minor, faults, rounding)


def _float_rounding(rounded: Words, buckets: Words, decimals: int) -> Fraction:
    """Return the sum after rounding minus the sum before, over the floats that were rounded."""
    if not rounded.any() and not buckets.any():
        return Fraction(0)
    after = (int(rounded[0]) << 24) + int(rounded[1])
    before = Fraction(0)
    for exponent in np.flatnonzero(buckets.any(axis=1)):
        mantissas = (int(buckets[exponent, 0]) << 26) + int(buckets[exponent, 1])
        before += mantissas * Fraction(2) ** (int(exponent) - 1075)
    return after - before * 10**decimals


def _settle(column: pa.Array, rows: npt.NDArray[np.int64], decimals: int, minor: Words, faults: Faults) -> Fraction:
    """Convert some rows by their text, in place; return their rounding."""
    if not len(rows):
        return Fraction(0)
    settled = _from_text(_float_text(column.take(pa.array(rows))), decimals)
    minor[rows] = settled.values
    faults[rows] = USED if settled.faults is None else settled.faults
    return settled.rounding


def _float_text(column: pa.Array) -> pa.Array:
    """Return numbers as text: floats as their shortest decimal."""
    if pa.types.is_float16(column.type):
        column = column.cast(pa.float32())
    return column.cast(pa.string())


# --- decimals -----------------------------------------------------------------------------------------------------------


@numba.njit(cache=True, nogil=True)
def _round_decimals(words, powers, drop, minor, faults, remainder):
    """Move the point of 128-bit decimals by -drop places, half-even; return whether any row has a fault."""
    faulty = False
    power = powers[abs(drop)]
    for row in range(len(minor)):
        low, high = words[row, 0], words[row, 1]
        if high != low >> 63 or low == -LARGEST - 1:
            faults[row] = UNSURE
            faulty = True
            continue
        size = abs(low)
        if drop <= 0:
            if size > LARGEST // power:
                faults[row] = TOO_LARGE
                faulty = True
                continue
            units = size * power
        else:
            units, rest = size // power, size % power
            away = power - rest
            if rest > away or (rest == away and units & 1):
                units += 1
                rest = -away
            if low < 0:
                rest = -rest
            remainder[0] -= rest // 1_000_000_000
            remainder[1] -= rest % 1_000_000_000
        minor[row] = units if low >= 0 else -units
    return faulty


def _from_decimals(column: pa.Array, decimals: int) -> Minor:
    """Decimals that fit 64 bits by integer arithmetic, others by their text."""
    if column.type.bit_width < 128:
        column = column.cast(pa.decimal128(38, column.type.scale))
    drop = column.type.scale - decimals
    if column.type.bit_width > 128 or not -MAX_DECIMALS <= drop <= MAX_DECIMALS:
        return _from_text(_float_text(column), decimals)
    words = np.frombuffer(column.buffers()[1], dtype=np.int64) if len(column) else np.empty(0, dtype=np.int64)
    words = words.reshape(-1, 2)[column.offset : column.offset + len(column)]
    minor, faults = np.zeros(len(column), dtype=np.int64), np.zeros(len(column), dtype=np.uint8)
    remainder = np.zeros(2, dtype=np.int64)
    faulty = _round_decimals(words, _POWERS, drop, minor, faults, remainder)
    rounding = Fraction(int(remainder[0]) * 10**9 + int(remainder[1]), 10 ** max(drop, 0))
    if not faulty:
        return Minor(minor, None, rounding)
    unsure = np.flatnonzero(faults == UNSURE)
    return _minor(minor, faults, rounding + _settle(column, unsure, decimals, minor, faults))


# --- text ---------------------------------------------------------------------------------------------------------------


@numba.njit(cache=True, nogil=True)
def _number_shape(data, start, stop):
    """Find the parts of a number in text: (fault, negative, first digit, end of digits, digits before the point, exponent)."""
    while start < stop and (data[start] == 32 or data[start] == 9):
        start += 1
    while stop > start and (data[stop - 1] == 32 or data[stop - 1] == 9):
        stop -= 1
    if start == stop:
        return MISSING_AMOUNT, False, start, stop, 0, 0
    negative = data[start] == 45
    if negative or data[start] == 43:
        start += 1
    at, digits, whole = start, 0, -1
    while at < stop:
        if 48 <= data[at] <= 57:
            digits += 1
        elif data[at] == 46 and whole < 0:
            whole = digits
        else:
            break
        at += 1
    end = at
    if digits == 0:
        first = data[start] | 32 if start < stop else 0
        second = data[start + 1] | 32 if start + 1 < stop else 0
        word = (first == 110 and second == 97 and stop - start == 3 and data[start + 2] | 32 == 110) or (
            first == 105 and second == 110 and (stop - start == 3 or stop - start == 8) and data[start + 2] | 32 == 102
        )
        return (NOT_FINITE if word else NOT_A_NUMBER), negative, start, end, 0, 0
    if whole < 0:
        whole = digits
    exponent = 0
    if at < stop:
        if data[at] | 32 != 101:
            return NOT_A_NUMBER, negative, start, end, whole, 0
        at += 1
        down = at < stop and data[at] == 45
        if at < stop and (data[at] == 45 or data[at] == 43):
            at += 1
        if at == stop:
            return NOT_A_NUMBER, negative, start, end, whole, 0
        while at < stop:
            if not 48 <= data[at] <= 57:
                return NOT_A_NUMBER, negative, start, end, whole, 0
            exponent = min(exponent * 10 + data[at] - 48, EXPONENT_LIMIT)
            at += 1
        if down:
            exponent = -exponent
    return USED, negative, start, end, whole, exponent


@numba.njit(cache=True, nogil=True)
def _round_digits(data, start, end, kept, powers):
    """Round a row of digits to the first `kept` ones, half-even.

    Returns the value (-1: too large), the first 9 and the next 9 digits cut off, and whether more follow that are not 0.
    """
    value, seen = np.int64(0), 0
    high, low, more = np.int64(0), np.int64(0), False
    for at in range(start, end):
        if data[at] == 46:
            continue
        digit = np.int64(data[at]) - 48
        if seen < kept:
            if value > (LARGEST - digit) // 10:
                return np.int64(-1), high, low, more
            value = value * 10 + digit
        else:
            place = seen - kept
            if place < 9:
                high += digit * powers[8 - place]
            elif place < 18:
                low += digit * powers[17 - place]
            elif digit:
                more = True
        seen += 1
    if value:
        for _ in range(kept - seen):
            if value > LARGEST // 10:
                return np.int64(-1), high, low, more
            value *= 10
    half = high == 500_000_000 and low == 0 and not more
    if (half and value & 1) or (not half and high >= 500_000_000):
        if value == LARGEST:
            return np.int64(-1), high, low, more
        value += 1
        high -= 1_000_000_000
    return value, high, low, more


@numba.njit(cache=True, nogil=True)
def _round_texts(offsets, data, decimals, powers, minor, faults, remainder, long_rows):
    """Read numbers from text; return whether any row has a fault and how many rows have more digits than are summed."""
    faulty, longs = False, 0
    for row in range(len(minor)):
        fault, negative, start, end, whole, exponent = _number_shape(data, offsets[row], offsets[row + 1])
        value = np.int64(0)
        if fault == USED:
            value, high, low, more = _round_digits(data, start, end, whole + exponent + decimals, powers)
            if value < 0:
                fault = TOO_LARGE
                value = np.int64(0)
            elif more and value:
                long_rows[longs] = row
                longs += 1
            elif negative:
                remainder[0] += high
                remainder[1] += low
            else:
                remainder[0] -= high
                remainder[1] -= low
        faults[row] = fault
        faulty |= fault != USED
        minor[row] = -value if negative else value
    return faulty, longs


def _from_text(column: pa.Array, decimals: int) -> Minor:
    """Plain numbers in text, of any length."""
    offsets, data = text_buffers(column)
    minor, faults = np.zeros(len(column), dtype=np.int64), np.zeros(len(column), dtype=np.uint8)
    remainder, long_rows = np.zeros(2, dtype=np.int64), np.empty(len(column), dtype=np.int64)
    faulty, longs = _round_texts(offsets, data, decimals, _POWERS, minor, faults, remainder, long_rows)
    rounding = Fraction(int(remainder[0]), 10**9) + Fraction(int(remainder[1]), 10**18)
    for row in long_rows[:longs]:
        rounding += int(minor[row]) - Fraction(column[int(row)].as_py().strip()) * 10**decimals
    return Minor(minor, faults if faulty else None, rounding)


# --- exchange rates -----------------------------------------------------------------------------------------------------


@numba.njit(cache=True, nogil=True)
def _multiply(offsets, data, decimals, powers, rate_of_row, rate_digits, rate_scale, minor, faults):
    """Amount times rate in decimal arithmetic, half-even; rows with more than 18 digits on either side are left UNSURE.

    The product of two 18-digit numbers is held as two words of 18 decimal digits, so that moving the point is exact.
    """
    base = powers[18]
    for row in range(len(minor)):
        rate = rate_of_row[row]
        if rate < 0:
            continue
        fault, negative, start, end, whole, exponent = _number_shape(data, offsets[row], offsets[row + 1])
        faults[row] = fault
        if fault != USED:
            continue
        digits, count, leading = np.int64(0), 0, True
        for at in range(start, end):
            if data[at] == 46:
                continue
            leading &= data[at] == 48
            count += not leading
            if count <= 18:
                digits = digits * 10 + np.int64(data[at]) - 48
        places = 0
        for at in range(start, end):
            places += data[at] != 46
        drop = places - whole - exponent + rate_scale[rate] - decimals
        if count > 18 or rate_digits[rate] < 0 or drop > 36 or drop < -18:
            faults[row] = UNSURE
            continue
        a, b = digits // 1_000_000_000, digits % 1_000_000_000
        c, d = rate_digits[rate] // 1_000_000_000, rate_digits[rate] % 1_000_000_000
        middle = a * d + b * c
        low = b * d + middle % 1_000_000_000 * 1_000_000_000
        high = a * c + middle // 1_000_000_000 + low // base
        low %= base
        if drop >= 18:
            power = powers[drop - 18]
            units, rest, sticky = high // power, high % power, low > 0
            half, tie_rest = power // 2, power > 1
            if power == 1:
                rest, half, sticky = low, base // 2, False
                tie_rest = True
        else:
            power = powers[max(drop, 0)]
            raise_by = powers[18 - max(drop, 0)]
            if high > LARGEST // raise_by or high * raise_by > LARGEST - low // power:
                faults[row] = TOO_LARGE
                continue
            units, rest, sticky = high * raise_by + low // power, low % power, False
            half, tie_rest = power // 2, power > 1
            if drop < 0:
                if units > LARGEST // powers[-drop]:
                    faults[row] = TOO_LARGE
                    continue
                units *= powers[-drop]
        if tie_rest and (rest > half or (rest == half and (sticky or units & 1))):
            if units == LARGEST:
                faults[row] = TOO_LARGE
                continue
            units += 1
        minor[row] = -units if negative else units


@dataclass(frozen=True, slots=True)
class RateList:
    """The distinct rates of a table.

    Attributes
    ----------
    exact : list of Fraction
    digits, scale : int64 arrays
        ``rate = digits / 10**scale``; digits is -1 where they are more than 18.
    """

    exact: list[Fraction]
    digits: Words
    scale: Words

    @classmethod
    def of(cls, rates: list[Decimal]) -> RateList:
        """Take rates apart."""
        digits, scale = [], []
        for rate in rates:
            _, numerals, exponent = rate.normalize().as_tuple()
            number = int("".join(map(str, numerals)))
            fits = len(numerals) <= MAX_DECIMALS
            digits.append(number if fits else -1)
            scale.append(-int(exponent))
        return cls([Fraction(rate) for rate in rates], np.array(digits, dtype=np.int64), np.array(scale, dtype=np.int64))


def to_minor_at_rates(column: pa.Array, decimals: int, what: str, rate_of_row: Words, rates: RateList) -> Minor:
    """Convert amounts at the rate of each row: amount x rate, rounded once, half-even.

    Parameters
    ----------
    column, decimals, what
        As for :func:`to_minor`.
    rate_of_row : int64 array of shape (rows,)
        Position in `rates`; -1 where there is none (the caller reports these).
    rates : RateList

    Returns
    -------
    Minor
        `rounding` is 0: what a conversion rounds away is not a difference to the amounts as written.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    text = column
    if pa.types.is_null(column.type):
        return _no_values(len(column))
    if not is_text(column.type):
        to_minor(column.slice(0, 0), decimals, what)  # refuses other types
        text = _float_text(column)
    offsets, data = text_buffers(text)
    minor, faults = np.zeros(len(column), dtype=np.int64), np.zeros(len(column), dtype=np.uint8)
    _multiply(offsets, data, decimals, _POWERS, rate_of_row, rates.digits, rates.scale, minor, faults)
    for row in np.flatnonzero(faults == UNSURE):
        exact = Fraction(text[int(row)].as_py().strip()) * rates.exact[int(rate_of_row[row])]
        units = round(exact * 10**decimals)  # Fractions round half-even
        faults[row] = TOO_LARGE if abs(units) > LARGEST else USED
        minor[row] = 0 if faults[row] else units
    return _mark_missing(_minor(minor, faults, Fraction(0)), column)
