r"""The result digest: one identity for what a run found, whatever device, row order or file encoding it came from.

Specification (``ouroflow-result-1``)
-------------------------------------
All arithmetic on words is modulo 2**64. ``mix`` is the finaliser of splitmix64 (Steele, Lea & Flood, OOPSLA 2014)::

    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;  z = (z ^ z >> 27) * 0x94D049BB133111EB;  z = z ^ z >> 31

``absorb(h, w) = mix((h ^ w) + 0x9E3779B97F4A7C15)``. Each row of a table starts with h = 0 and absorbs one word per
column, in the order of the list below; a null absorbs ``NULL``. A table is then the pair of sums over its rows of
``mix(h ^ LANES[0])`` and ``mix(h ^ LANES[1])``: sums do not depend on the order of rows, need no sort, and add up over
the parts of a cluster. The digest is the SHA-256, in hex, of the ASCII text ``ouroflow-result-1\n`` followed by
``<table> <rows> <sum 0> <sum 1>\n`` for companies, flows, components and, where amounts are announced as ranges, ranges
in this order (sums as 16 lower case hex digits).

=========== ===========================================================================================
table       words of a row
=========== ===========================================================================================
companies   identity(company), paid, received, component, external_in, external_out,
            fraction(round_trip / max(paid, 1)), bound(round_trip_low), bound(round_trip_high)
flows       identity(payer), identity(payee), amount, payments, component, fraction(return_fraction)
components  component, companies, flows, amount, relative(circulation_low), relative(circulation_high)
ranges      identity(payer), identity(payee), low, high, attained_low, attained_high
=========== ===========================================================================================

- integers: the two's complement of the int64.
- component: the sum over its members of ``mix(identity(company))``, in every table; null stays null. (A label would depend on
  the order of the input where components are of one size.)
- identity: an integer v is ``absorb(INTEGER, v)``. A string starts with ``absorb(STRING, number of bytes)`` and absorbs
  its UTF-8 bytes as little-endian words of 8, the last one filled with zero bytes. Of a string of more than 256 bytes
  the SHA-256 (32 bytes) is absorbed instead.
- fraction(x): ``floor(x * 10**6 + SHIFT)``, clipped to +-2**62. SHIFT is irrational, so that the simple ratios that
  graphs produce (halves, thirds, decimals) lie far from the edge of a cell: two devices whose figures differ by 1e-15
  disagree on about one figure in 10**9.
- relative(x): with x = m * 2**e, 0.5 <= abs(m) < 1: q = floor(m * 2**42 + SHIFT), and (q, e) = (2**41, e + 1) where
  q = 2**42; the word is q + (e + 2048) * 2**48.
- bound(x): ``EXACT`` where round_trip_low = round_trip = round_trip_high, else relative(x).
- a fraction or relative that is not finite is ``NOT_FINITE``.

With ranges, the rows of companies absorb four more words, for there the bounds of fractions are no quotients: relative
of return_fraction_low, return_fraction_high, self_funded_fraction_low and self_funded_fraction_high.

Columns that follow from these (return_fraction and self_funded_fraction of companies, with their bounds where there are
no ranges, round_trip of flows and components) are left out: ``ouroflow verify`` recomputes them. The digest is an
identity, not a proof, and no defence against forgery.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Words = npt.NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
LANES = (np.uint64(0x243F6A8885A308D3), np.uint64(0x13198A2E03707344))
NULL = np.uint64(0xA4093822299F31D0)
NOT_FINITE = np.uint64(0x082EFA98EC4E6C89)
EXACT = np.uint64(0x452821E638D01377)
INTEGER = np.uint64(0xBE5466CF34E90C6C)
STRING = np.uint64(0xC0AC29B7C97C50DD)
SHIFT = (3 - 5**0.5) / 2
LONG_IDENTITY = 256
ROWS_AT_ONCE = 1 << 18  # keeps the working arrays of one step in cache


def result_digest(companies: pa.Table, flows: pa.Table, components: pa.Table, ranges: pa.Table | None = None) -> str:
    """Return the digest of the result tables as 64 hex digits.

    Parameters
    ----------
    companies, flows, components : pa.Table
        The tables of the OUT folder, in any row order and chunking, with the columns named in this module's docstring.
    ranges : pa.Table, optional
        certificate/ranges.parquet, where amounts are announced as ranges.

    Raises
    ------
    KeyError
        If a column is missing.
    """
    labels, keys = _component_keys(companies)
    companies, flows, components = (_with_keys(table, labels, keys) for table in (companies, flows, components))
    text = "ouroflow-result-1\n"
    parts: list[tuple[str, pa.Table, Callable[[pa.Table], list[Words]]]] = [
        ("companies", companies, _company_words if ranges is None else _ranged_company_words),
        ("flows", flows, _flow_words),
        ("components", components, _component_words),
    ]
    if ranges is not None:
        parts.append(("ranges", ranges, _range_words))
    for name, table, row_words in parts:
        sums = [0, 0]
        for start in range(0, table.num_rows, ROWS_AT_ONCE):
            part = table.slice(start, ROWS_AT_ONCE)
            rows = np.zeros(part.num_rows, np.uint64)
            for words in row_words(part):
                rows = _absorb(rows, words)
            for lane, constant in enumerate(LANES):
                sums[lane] += int(_mix(rows ^ constant).sum(dtype=np.uint64))
        text += f"{name} {table.num_rows} {sums[0] % 2**64:016x} {sums[1] % 2**64:016x}\n"
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _component_keys(companies: pa.Table) -> tuple[npt.NDArray[np.int64], Words]:
    """Return the labels of the components, ascending, and the key of each: the sum of its members' mixed identities.

    Labels number components of one size in the order in which their companies appear in the input; keys do not know it.
    """
    label, _ = _numbers(companies["component"], np.int64)
    labels, place = np.unique(label, return_inverse=True)
    keys = np.zeros(labels.size, np.uint64)
    np.add.at(keys, place, _mix(_identity(companies["company"])))
    return labels, keys


def _with_keys(table: pa.Table, labels: npt.NDArray[np.int64], keys: Words) -> pa.Table:
    """Return a table with the key of each component in place of its label; a label of no company stays."""
    label, null = _numbers(table["component"], np.int64)
    place = np.minimum(np.searchsorted(labels, label), max(labels.size - 1, 0))
    known = labels[place] == label if labels.size else np.zeros(label.size, bool)
    key = np.where(known, keys[place], label.view(np.uint64)) if labels.size else label.view(np.uint64)
    column = pa.array(key.view(np.int64), mask=null)
    return table.set_column(table.column_names.index("component"), "component", column)


def _company_words(table: pa.Table) -> list[Words]:
    """Return the words of each company, one array per column of the specification."""
    paid, _ = _numbers(table["paid"], np.int64)
    (value, value_null), (low, low_null), (high, high_null) = (
        _numbers(table[name], np.float64) for name in ("round_trip", "round_trip_low", "round_trip_high")
    )
    exact = (low == value) & (value == high) & ~(value_null | low_null | high_null)
    return [
        _identity(table["company"]),
        *(_integer(table[name]) for name in ("paid", "received", "component", "external_in", "external_out")),
        _fraction(value / np.maximum(paid, 1), value_null),
        np.where(exact, EXACT, _relative(low, low_null)),
        np.where(exact, EXACT, _relative(high, high_null)),
    ]


def _ranged_company_words(table: pa.Table) -> list[Words]:
    """Return the words of each company where amounts are announced as ranges."""
    bounds = [f"{share}_fraction_{end}" for share in ("return", "self_funded") for end in ("low", "high")]
    return [*_company_words(table), *(_relative(*_numbers(table[name], np.float64)) for name in bounds)]


def _flow_words(table: pa.Table) -> list[Words]:
    """Return the words of each flow, one array per column of the specification."""
    return [
        _identity(table["payer"]),
        _identity(table["payee"]),
        *(_integer(table[name]) for name in ("amount", "payments", "component")),
        _fraction(*_numbers(table["return_fraction"], np.float64)),
    ]


def _component_words(table: pa.Table) -> list[Words]:
    """Return the words of each component, one array per column of the specification."""
    return [
        *(_integer(table[name]) for name in ("component", "companies", "flows", "amount")),
        *(_relative(*_numbers(table[name], np.float64)) for name in ("circulation_low", "circulation_high")),
    ]


def _range_words(table: pa.Table) -> list[Words]:
    """Return the words of each flow with a range, one array per column of the specification."""
    return [
        _identity(table["payer"]),
        _identity(table["payee"]),
        *(_integer(table[name]) for name in ("low", "high", "attained_low", "attained_high")),
    ]


def _mix(words: Words) -> Words:
    """Return the splitmix64 finaliser of each word."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _absorb(state: Words, words: Words) -> Words:
    """Return the state after one more word per row."""
    return _mix((state ^ words) + GOLDEN)


def _numbers(column: pa.ChunkedArray, dtype: type[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Return a column's values (0 for nulls) and which of them are null."""
    null = column.is_null().to_numpy()
    column = column.cast(pa.from_numpy_dtype(dtype))
    if column.null_count:
        column = column.fill_null(0)
    return column.to_numpy(), null


def _integer(column: pa.ChunkedArray) -> Words:
    """Return an integer column as words."""
    values, null = _numbers(column, np.int64)
    return np.where(null, NULL, values.view(np.uint64))


def _fraction(values: npt.NDArray[np.float64], null: npt.NDArray[np.bool_]) -> Words:
    """Return fractions as words: the number of their millionth."""
    finite = np.isfinite(values)
    cells = np.clip(np.floor(np.where(finite, values, 0.0) * 1e6 + SHIFT), -(2.0**62), 2.0**62).astype(np.int64)
    return np.where(null, NULL, np.where(finite, cells.view(np.uint64), NOT_FINITE))


def _relative(values: npt.NDArray[np.float64], null: npt.NDArray[np.bool_]) -> Words:
    """Return figures as words that keep 42 bits of each."""
    finite = np.isfinite(values)
    mantissa, exponent = np.frexp(np.where(finite, values, 0.0))
    cells = np.floor(mantissa * 2.0**42 + SHIFT).astype(np.int64)
    exponents = exponent.astype(np.int64)
    full = cells == 1 << 42
    cells = np.where(full, 1 << 41, cells) + ((exponents + full + 2048) << 48)
    return np.where(null, NULL, np.where(finite, cells.view(np.uint64), NOT_FINITE))


def _identity(column: pa.ChunkedArray) -> Words:
    """Return one word per identity, read from the Arrow buffers without a Python object per row."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_integer(column.type):
        values = _integer(column)
        return np.where(column.is_null().to_numpy(), NULL, _absorb(np.full_like(values, INTEGER), values))
    column = column.cast(pa.large_string())
    return np.concatenate([_string_words(chunk) for chunk in column.chunks] or [np.zeros(0, np.uint64)])


def _string_words(strings: pa.Array) -> Words:
    """Return one word per string of a large_string array."""
    _, offsets_buffer, bytes_buffer = strings.buffers()
    if len(strings) == 0:
        return np.zeros(0, np.uint64)
    offsets = np.frombuffer(offsets_buffer, np.int64, len(strings) + 1, strings.offset * 8)
    first, last = int(offsets[0]), int(offsets[-1])
    # Eight zero bytes more, so that a word may be read at the position of any byte.
    text = np.zeros(last - first + 8, np.uint8)
    if last > first:
        text[:-8] = np.frombuffer(bytes_buffer, np.uint8, last - first, first)
    word_at: Words = np.ndarray((len(text) - 7,), "<u8", text, strides=(1,))
    starts, lengths = offsets[:-1] - first, np.diff(offsets)
    words = _absorb(np.full(len(strings), STRING), lengths.view(np.uint64))
    reading = np.flatnonzero((lengths > 0) & (lengths <= LONG_IDENTITY))
    position = 0
    while len(reading):
        left = lengths[reading] - position
        # A shift by (8 - left) bytes and back cuts off what belongs to the next string.
        cut = (8 * (8 - np.minimum(left, 8))).astype(np.uint64)
        word = (word_at[starts[reading] + position] << cut) >> cut
        words[reading] = _absorb(words[reading], word)
        reading = reading[left > 8]
        position += 8
    for row in np.flatnonzero(lengths > LONG_IDENTITY):
        hashed = hashlib.sha256(text[starts[row] : starts[row] + lengths[row]].tobytes()).digest()
        for word in np.frombuffer(hashed, "<u8"):
            words[row : row + 1] = _absorb(words[row : row + 1], np.array([word], np.uint64))
    if strings.null_count:
        words[strings.is_null().to_numpy(zero_copy_only=False)] = NULL
    return words


def record_sha256(record: dict[str, Any]) -> str:
    """Return the SHA-256 that seals run.json: of all its entries but ``sha256``, as JSON with sorted keys and no white space.

    Like the digest it shows that a file was changed or damaged, and is no defence against one who makes a new seal.
    """
    rest = {key: value for key, value in record.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()
