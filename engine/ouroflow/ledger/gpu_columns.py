"""Whole columns on the device: identities as ids, amounts as minor units.

What these do not decide by a rule that holds for a whole column at once is handed to the CPU twin's functions, row by
row (`minor_units`) or as a whole (`LeftToCpu`), so that both twins give the same integers.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ouroflow.ledger.gpu_frames import Column, Frames, LeftToCpu
from ouroflow.ledger.money import to_minor

if TYPE_CHECKING:
    from ouroflow.runtime.launch import Accelerator, Array

INT64_MAX = 2**63 - 1
MOST_DIGITS = 18
"""Texts of so many digits fit int64."""
UNIQUE = 1e15
"""Up to 15 digits, a decimal is the shortest one of the float it reads as."""
MOST_NUMBERED = 2**31 - 1
"""Rows of one column of cuDF."""
PLAIN_NUMBER = r"^[0-9]+(\.[0-9]+)?$"


class DeviceIdentities:
    """The dictionary from identities to ids 0, 1, 2... in order of first appearance, payer before payee, on the device.

    Each piece is encoded together with the identities known so far, in one call of the library's ``factorize``. Its codes
    may be in any order: they are renumbered by where each identity first stands.

    Notes
    -----
    Memory: the identities, and while a piece of r rows is numbered about 40 (2 r + identities) bytes plus the library's
    copy and hash table of the texts.
    """

    def __init__(self, on: Accelerator, frames: Frames) -> None:
        self._on, self._frames = on, frames
        self._known: Column | None = None
        self._names: list[pa.Array] = []
        self._count = 0

    def encode(self, payer: Column, payee: Column) -> tuple[Array, Array]:
        """Return the ids of both columns of a piece, int32 arrays of shape (rows,), adding what is new.

        Parameters
        ----------
        payer, payee : columns of shape (rows,)
            Both text, or both int64; without nulls.

        Raises
        ------
        LeftToCpu
            If an identity is blank or no text, or if there are too many for one column.
        """
        xp, rows, known = self._on.xp, len(payer), self._count
        if known + 2 * rows > MOST_NUMBERED:
            raise LeftToCpu(f"{known:,} companies and a piece of {rows:,} rows pass a column of {self._frames.name}")
        parts = [payer, payee] if self._known is None else [self._known, payer, payee]
        found, distinct = self._frames.module.concat(parts, ignore_index=True).factorize()
        code = self._frames.array(found)
        # Where each value stands: the known identities first, then row by row. Unsigned, for CuPy has no atomic minimum of int64.
        place = xp.empty(known + 2 * rows, np.uint64)
        place[:known] = xp.arange(known)
        place[known : known + rows] = xp.arange(known, known + 2 * rows, 2)
        place[known + rows :] = xp.arange(known + 1, known + 2 * rows, 2)
        first = xp.full(len(distinct), known + 2 * rows, np.uint64)
        xp.minimum.at(first, code, place)
        order = xp.argsort(first)
        ids = xp.empty(len(distinct), np.int32)
        ids[order] = xp.arange(len(distinct), dtype=np.int32)
        self._known = self._frames.module.Series(distinct).take(order)
        self._count = len(distinct)
        if self._count > known:
            self._names.append(self._new_names(self._known.iloc[known:]))
        return ids[code[known : known + rows]], ids[code[known + rows :]]

    def working_bytes(self) -> int:
        """Return about how much memory it takes to encode the known identities once more, with a new piece."""
        return 3 * sum(names.nbytes for names in self._names) + 40 * self._count

    def names(self) -> pa.Array:
        """Return the identities by id on the host: string (large_string from 2 GiB on) or int64."""
        names = pa.concat_arrays(self._names)
        if pa.types.is_large_string(names.type) and pc.sum(pc.binary_length(names)).as_py() < 2**31:
            return names.cast(pa.string())
        return names

    def _new_names(self, column: Column) -> pa.Array:
        names = self._frames.on_host(column)
        if not pa.types.is_string(names.type) and not pa.types.is_large_string(names.type):
            return names
        try:
            names.validate(full=True)
        except pa.ArrowInvalid as error:
            raise LeftToCpu("an identity is not UTF-8 text") from error
        if pc.any(pc.equal(pc.binary_length(pc.utf8_trim_whitespace(names)), 0)).as_py():
            raise LeftToCpu("a payer or payee is blank")
        return names.cast(pa.large_string())


def minor_units(
    on: Accelerator, frames: Frames, column: Column, kind: pa.DataType, decimals: int
) -> tuple[Array, Fraction]:
    """Return a column of amounts as positive int64 minor units, and what rounding adds to their sum.

    Parameters
    ----------
    column : column of shape (rows,)
        Without nulls.
    kind : pyarrow.DataType
        What it holds in the file.
    decimals : int
        Minor units are 10^-decimals.

    Raises
    ------
    LeftToCpu
        If any amount is not a positive number of minor units within int64.

    Notes
    -----
    Integers, and decimals and texts of up to 18 digits, are scaled in int64; rounding is half-even on the digits. A float64 is
    decided on the device where whole minor units divided by 10**decimals give it back, and that is its shortest decimal as
    long as it has at most 15 digits: the product, the rounding to an integer and the quotient are single IEEE
    operations, which a device rounds as a processor does. All other rows go through ``money.to_minor`` on the host.
    """
    if pa.types.is_integer(kind):
        # What is past int64 in a column of uint64 becomes negative here, and is left to the CPU as such.
        minor, rounding = _scaled(on, frames.array(column).astype(np.int64), 0, decimals)
    elif pa.types.is_decimal(kind) and kind.bit_width <= 128 and 0 <= kind.scale <= MOST_DIGITS:
        minor, rounding = _of_decimals(on, frames, column, kind.scale, decimals)
    elif pa.types.is_float64(kind):
        minor, rounding = _of_floats(on, frames, column, decimals)
    elif is_text(kind):
        minor, rounding = _of_texts(on, frames, column, decimals)
    else:
        minor, rounding = _on_the_host(on, frames, column, decimals)
    if int(minor.min()) <= 0:
        raise LeftToCpu("an amount is zero or negative")
    return minor, rounding


def is_text(kind: pa.DataType) -> bool:
    """Tell whether a type is text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def exact_sum(values: Array) -> int:
    """Sum int64 numbers of a device without overflow."""
    return (int((values >> 32).sum()) << 32) + int((values & 0xFFFFFFFF).sum())


def _on_the_host(on: Accelerator, frames: Frames, column: Column, decimals: int) -> tuple[Array, Fraction]:
    """Convert a column as the CPU twin does."""
    minor = to_minor(frames.on_host(column), decimals)
    if minor.reason is not None:
        raise LeftToCpu("an amount is no number or too large")
    return on.to_device(minor.values), minor.rounding


def _of_decimals(on: Accelerator, frames: Frames, column: Column, scale: int, decimals: int) -> tuple[Array, Fraction]:
    words = frames.unscaled(column)
    numbers = words[:, 0]
    if not bool((words[:, 1:] == (numbers >> 63)[:, None]).all()):  # more than 64 bits
        return _on_the_host(on, frames, column, decimals)
    return _scaled(on, on.xp.ascontiguousarray(numbers), scale, decimals)


def _of_floats(on: Accelerator, frames: Frames, column: Column, decimals: int) -> tuple[Array, Fraction]:
    xp, numbers, scale = on.xp, frames.array(column), 10.0**decimals
    rounded = xp.rint(numbers * scale)
    sure = (rounded / scale == numbers) & (xp.abs(rounded) <= UNIQUE)
    minor = xp.where(sure, rounded, 0.0).astype(np.int64)
    return minor, _finish(on, frames, column, sure, minor, decimals)


def _of_texts(on: Accelerator, frames: Frames, column: Column, decimals: int) -> tuple[Array, Fraction]:
    xp, digits = on.xp, column.str.replace(".", "", regex=False)
    # A pattern may accept a line end after the last digit: the digits alone must be all there is.
    sure = frames.array(column.str.match(PLAIN_NUMBER) & digits.str.isdecimal() & (digits.str.len() <= MOST_DIGITS))
    rows = xp.flatnonzero(sure)
    minor, rounding = xp.zeros(len(column), np.int64), Fraction(0)
    if len(rows):
        plain = column if len(rows) == len(column) else column.take(rows)
        digits = digits if len(rows) == len(column) else digits.take(rows)
        point = frames.array(plain.str.find("."))
        places = xp.where(point < 0, 0, frames.array(plain.str.len()) - point - 1)
        minor[rows], rounding = _scaled(on, frames.array(digits.astype("int64")), places, decimals)
    return minor, rounding + _finish(on, frames, column, sure, minor, decimals)


def _finish(on: Accelerator, frames: Frames, column: Column, sure: Array, minor: Array, decimals: int) -> Fraction:
    """Convert the rows that no rule for whole columns decides, in place; return what rounding adds to them."""
    others = on.xp.flatnonzero(~sure)
    if not len(others):
        return Fraction(0)
    minor[others], rounding = _on_the_host(on, frames, column.take(others), decimals)
    return rounding


def _scaled(on: Accelerator, numbers: Array, places: Any, decimals: int) -> tuple[Array, Fraction]:
    """Return numbers * 10^(decimals - places), half-even, and what rounding adds to their sum.

    Parameters
    ----------
    numbers : int64 array of shape (rows,)
    places : int, or integer array of shape (rows,)
        Digits of each number that stand behind the point, 0 to 18.
    """
    xp = on.xp
    if int(numbers.min()) < 0:
        raise LeftToCpu("an amount is negative or too large")
    power = on.to_device(np.array([10**k for k in range(MOST_DIGITS + 1)], np.int64))
    shift = decimals - xp.asarray(places)
    up, down = power[xp.maximum(shift, 0)], power[xp.maximum(-shift, 0)]
    if bool((numbers > INT64_MAX // up).any()):
        raise LeftToCpu("an amount is too large")
    if int(shift.min()) >= 0:
        return numbers * up, Fraction(0)
    whole = numbers // down
    rest = numbers - whole * down
    gap = down - rest
    whole = whole + ((rest > gap) | ((rest == gap) & (whole & 1 == 1)))
    added = whole * down - numbers
    # A number with digits to round off is not scaled up, so `whole * up` is one or the other.
    lost = sum(
        (Fraction(exact_sum(xp.where(shift == -k, added, 0)), 10**k) for k in range(1, MOST_DIGITS + 1 - decimals)),
        start=Fraction(0),
    )
    return whole * up, lost
