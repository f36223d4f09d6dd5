"""The small tables beside the payments: rates of currencies, parents of companies, known external flows."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ouroflow.errors import InputError, UsageError
from ouroflow.ledger.money import plain_currency, to_minor
from ouroflow.ledger.schema import ADVICE, NOT_A_NUMBER, REASONS, TOO_LARGE
from ouroflow.ledger.times import to_times

Int64s = npt.NDArray[np.int64]

_ALWAYS = np.iinfo(np.int64).min  # a rate without date holds from the beginning


# --- one reader for all of them ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _SmallTable:
    """Columns by plain name, and the words for messages."""

    where: str
    columns: dict[str, pa.Array]
    rows: int

    def at(self, row: int) -> str:
        """Name file and data row (from 1)."""
        return f"{self.where}, row {row + 1}"

    def texts(self, column: str) -> list[str]:
        """Return the cells as text without surrounding blanks; "" where there is none."""
        return [_text(value) for value in self.columns[column].to_pylist()]


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))  # pandas turns a column of integers with gaps into floats
    return str(value).strip()


def _read(source: object, what: str, needed: tuple[str, ...], optional: tuple[str, ...] = ()) -> _SmallTable:
    """Read a small table from a path, a frame or a mapping of columns.

    Raises
    ------
    InputError
        If there is no such file, it cannot be read, it has no rows, or a column is missing or there twice.
    UsageError
        If `source` is nothing that holds a table.
    """
    if isinstance(source, str | os.PathLike):
        where = os.fspath(source)
        names, columns = _from_file(str(where), what)
    else:
        where = f"{what} ({type(source).__name__})"
        names, columns = _from_frame(source, where)
    found: dict[str, pa.Array] = {}
    for name, column in zip(names, columns, strict=True):
        plain = name.strip().casefold()
        if plain not in needed + optional:
            continue
        if plain in found:
            raise InputError(f"{where} has two columns {plain!r}: rename or remove one")
        found[plain] = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    missing = [name for name in needed if name not in found]
    if missing:
        raise InputError(
            f"{where} has no column {' and no column '.join(map(repr, missing))}: {what} need the columns "
            f"{', '.join(needed)}{''.join(f' [, {name}]' for name in optional)}; found: {', '.join(names)}"
        )
    rows = len(found[needed[0]])
    if rows == 0:
        raise InputError(f"{where} has no rows: fill in {what}, or leave it out")
    return _SmallTable(str(where), found, rows)


def _from_file(path: str, what: str) -> tuple[list[str], list[Any]]:
    if not os.path.isfile(path):
        raise InputError(f"{path}: there is no such file to read {what} from")
    try:
        with open(path, "rb") as file:
            parquet = file.read(4) == b"PAR1"
        if parquet:
            table = pq.read_table(path)
            return table.column_names, table.columns
        with pa.input_stream(path) as stream:
            content = stream.read()
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is neither Parquet nor UTF-8 text (byte {error.start + 1}): save it as Parquet or as CSV in UTF-8"
        ) from error
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    return _from_csv(text, path, what)


def _from_csv(text: str, path: str, what: str) -> tuple[list[str], list[Any]]:
    """Keep every cell as text: rates and amounts must not pass through floats, nor names lose their zeros in front."""
    header = text.lstrip("\r\n").partition("\n")[0]
    delimiter = max(",;\t|", key=header.count)
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as CSV: {error}") from error
    lines = [line for line in lines if any(map(str.strip, line))]
    if not lines:
        raise InputError(f"{path} is empty: fill in {what}, or leave it out")
    names, cells = lines[0], lines[1:]
    for row, line in enumerate(cells):
        if len(line) != len(names):
            raise InputError(
                f"{path}, row {row + 1} has {len(line)} fields, the header {len(names)}: quote a value that holds "
                f"{delimiter!r}"
            )
    columns = [pa.array([line[place] for line in cells], pa.string()) for place in range(len(names))]
    return names, columns


def _from_frame(source: object, where: str) -> tuple[list[str], list[Any]]:
    try:
        if isinstance(source, pa.Table | pa.RecordBatch):
            table = source
        elif isinstance(source, Mapping):
            table = pa.table({str(name): _array(column) for name, column in source.items()})
        elif hasattr(source, "to_arrow"):  # Polars; its stream would give string views
            table = source.to_arrow()
        elif hasattr(source, "__arrow_c_stream__"):
            table = pa.table(source)
        else:
            raise UsageError(f"{where} holds no table: give a path to CSV or Parquet, a frame, or a dict of columns")
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InputError(f"{where} cannot be read as a table: {error}") from error
    columns = [column.cast(pa.string()) if _is_text(column.type) else column for column in table.columns]
    return list(table.column_names), columns


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or (pa.types.is_dictionary(kind) and not pa.types.is_integer(kind.value_type))
    )


def _array(column: Any) -> pa.Array:
    try:
        return pa.array(column)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        # Names and numbers side by side, or Fractions: their text says all.
        return pa.array([None if value is None else str(value) for value in column], pa.string())


# --- rates ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Rates:
    """What one unit of each currency is worth in the result currency.

    Attributes
    ----------
    where : str
        For messages.
    result : str or None
        The currency whose rate is always 1, if there is exactly one. The table need not name it, as long as no payment
        is made in it.
    table : dict of str to (int64 array, list of Fraction)
        Nanoseconds since 1970 UTC from which each rate holds, ascending, and the rates.
    """

    where: str
    result: str | None
    table: dict[str, tuple[Int64s, list[Fraction]]]

    def of(self, currency: str) -> tuple[Int64s, list[Fraction]]:
        """Return from when each rate of this currency holds, and the rates; both empty where there is none."""
        return self.table.get(plain_currency(currency), (np.zeros(0, dtype=np.int64), []))

    def rate(self, currency: str, time_ns: int | None = None) -> Fraction | None:
        """Return the rate of the latest date not after this time (None: of a table without dates)."""
        starts, steps = self.of(currency)
        place = int(np.searchsorted(starts, _ALWAYS if time_ns is None else time_ns, side="right")) - 1
        return steps[place] if place >= 0 else None


def read_rates(source: object) -> Rates:
    """Read a table of rates: currency, rate[, date].

    Parameters
    ----------
    source : path, frame or mapping of columns
        CSV or Parquet; pandas, Polars or Arrow. A rate is units of the result currency per unit of `currency`, read
        exactly (a float as its shortest decimal). It holds from its date on until the next one; without date, from the
        beginning.

    Raises
    ------
    InputError
        If the table cannot be read, a rate is missing or not positive, a date cannot be read, or a currency has two
        rates at the same date.
    """
    table = _read(source, "the rates", ("currency", "rate"), ("date",))
    starts = _dates(table)
    texts = table.texts("rate")
    collected: dict[str, dict[int, Fraction]] = {}
    for row, name in enumerate(table.texts("currency")):
        currency = plain_currency(name)
        if not currency:
            raise InputError(f"{table.at(row)} names no currency")
        rates = collected.setdefault(currency, {})
        if starts[row] in rates:
            date = f" at {_day(starts[row])}" if starts[row] != _ALWAYS else " without date"
            raise InputError(f"{table.at(row)}: a second rate of {currency}{date}: keep one")
        rates[starts[row]] = _rate(texts[row], table.at(row), currency)
    ordered = {
        currency: (np.array(sorted(rates), dtype=np.int64), [rates[start] for start in sorted(rates)])
        for currency, rates in collected.items()
    }
    units = [currency for currency, (_, steps) in ordered.items() if all(step == 1 for step in steps)]
    return Rates(table.where, units[0] if len(units) == 1 else None, ordered)


def _rate(text: str, at: str, currency: str) -> Fraction:
    try:
        rate = Decimal(text)
    except ArithmeticError:
        rate = Decimal("NaN")
    if not rate.is_finite() or rate <= 0 or abs(rate.adjusted()) > 100:
        raise InputError(
            f"{at}: the rate of {currency} is {text!r}, and must be a positive number such as 0.92, in units of the "
            f"result currency per {currency}"
        )
    return Fraction(rate)


def _dates(table: _SmallTable) -> list[int]:
    if "date" not in table.columns:
        return [_ALWAYS] * table.rows
    absent = np.array([text == "" for text in table.texts("date")])
    times = to_times(table.columns["date"])
    bad = np.zeros(table.rows, dtype=bool) if times.bad is None else times.bad
    wrong = np.flatnonzero(~absent & (bad if times.unit == "ns" else True))
    if len(wrong):
        text = table.texts("date")[wrong[0]]
        raise InputError(f"{table.at(int(wrong[0]))}: {text!r} is no date: dates are written 2025-01-31")
    return [int(start) for start in np.where(absent, _ALWAYS, times.values)]


def _day(time_ns: int) -> str:
    return str(np.datetime64(time_ns, "ns").astype("M8[D]" if time_ns % 86_400_000_000_000 == 0 else "M8[s]"))


# --- entities ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entities:
    """Which companies are one.

    Attributes
    ----------
    where : str
        For messages.
    top : dict of str to str
        Company to the last of its chain of parents.
    """

    where: str
    top: dict[str, str]

    def merge(self, names: pa.Array) -> tuple[pa.Array, Int64s]:
        """Replace companies by their parents.

        Parameters
        ----------
        names : pyarrow.Array of shape (companies,)
            Text or integers; integers match their text.

        Returns
        -------
        names : pyarrow.Array of shape (merged companies,)
            In the order of first appearance. Integers stay integers if all parents are.
        new_id : int64 array of shape (companies,)
            Position of each old company in them.
        """
        text = _names_as_text(names)
        children = pa.array(list(self.top), pa.string()).cast(text.type)
        parents = pa.array(list(self.top.values()), pa.string()).cast(text.type)
        parent = parents.take(pc.index_in(text, value_set=children))
        merged = pc.coalesce(parent, text).dictionary_encode()
        found = merged.dictionary
        if pa.types.is_integer(names.type):
            found = _as_integers(found, names.type)
        elif found.type != names.type:
            found = found.cast(names.type)
        return found, merged.indices.to_numpy().astype(np.int64)

    def unknown(self, names: pa.Array) -> list[str]:
        """Return the companies of this table that are not among `names`."""
        text = _names_as_text(names)
        children = pa.array(list(self.top), pa.string())
        known = pc.is_in(children.cast(text.type), value_set=text)
        return [str(name) for name in children.filter(pc.invert(known)).to_pylist()]

    def note(self, names: pa.Array) -> str | None:
        """Say how many companies of this table make no payment and get none; None if all do."""
        unknown = self.unknown(names)
        if not unknown:
            return None
        examples = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        return f"{len(unknown)} of {len(self.top)} companies in {self.where} are not in the payments: {examples}"


def read_entities(source: object) -> Entities:
    """Read which company belongs to which: company, parent.

    Chains are followed to their end. A company whose parent is empty or itself stays as it is.

    Raises
    ------
    InputError
        If the table cannot be read, a company is missing or has two parents, or parents form a cycle.
    """
    table = _read(source, "the entities", ("company", "parent"))
    parent: dict[str, str] = {}
    row_of: dict[str, int] = {}
    for row, (company, above) in enumerate(zip(table.texts("company"), table.texts("parent"), strict=True)):
        if not company:
            raise InputError(f"{table.at(row)} names no company")
        above = above or company
        if parent.get(company, above) != above:
            raise InputError(
                f"{table.at(row)}: company {company!r} has a second parent {above!r}, after {parent[company]!r} in row "
                f"{row_of[company] + 1}: keep one"
            )
        parent[company] = above
        row_of.setdefault(company, row)
    tops = _tops(parent, table, row_of)
    return Entities(table.where, {company: top for company, top in tops.items() if top != company})


def _tops(parent: dict[str, str], table: _SmallTable, row_of: dict[str, int]) -> dict[str, str]:
    """Follow every chain to its end, each company once."""
    top: dict[str, str] = {}
    for company in parent:
        chain: dict[str, None] = {}
        at = company
        while at not in top and parent.get(at, at) != at:
            if at in chain:
                ring = list(chain)[list(chain).index(at) :]
                raise InputError(
                    f"{table.at(row_of[at])}: the parents form a cycle: {' -> '.join([*ring, at])}. "
                    "Remove one of these rows"
                )
            chain[at] = None
            at = parent[at]
        end = top.get(at, at)
        top.update(dict.fromkeys(chain, end))
        top[at] = end
    return top


def _names_as_text(names: pa.Array) -> pa.Array:
    if isinstance(names, pa.ChunkedArray):
        names = names.combine_chunks()
    return names if pa.types.is_string(names.type) or pa.types.is_large_string(names.type) else names.cast(pa.string())


def _as_integers(names: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return text as integers if that loses nothing ('007' stays text)."""
    try:
        numbers = names.cast(kind)
    except pa.ArrowInvalid:
        return names
    return numbers if numbers.cast(names.type).equals(names) else names


# --- boundary ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Boundary:
    """Known external flows of companies.

    Attributes
    ----------
    where : str
        For messages.
    companies : list of str
    inflow, outflow : int64 array of shape (companies of this table,)
        Minor units, 0 where the table says nothing.
    """

    where: str
    companies: list[str]
    inflow: Int64s
    outflow: Int64s

    def align(self, names: pa.Array, entities: Entities | None = None) -> tuple[Int64s, Int64s, list[str]]:
        """Bring the flows into the order of companies.

        Parameters
        ----------
        names : pyarrow.Array of shape (companies,)
            Text or integers; integers match their text.
        entities : Entities, optional
            Those by which `names` were merged: the flows of a company then count for its parent.

        Returns
        -------
        inflow, outflow : int64 array of shape (companies,)
            Minor units; 0 for companies that are not in this table.
        unknown : list of str
            Companies of this table that are not among `names`.

        Raises
        ------
        InputError
            If the sum of the inflows or of the outflows passes int64.
        """
        text = _names_as_text(names)
        top = entities.top if entities is not None else {}
        wanted = pa.array([top.get(company, company) for company in self.companies], pa.string()).cast(text.type)
        place = pc.fill_null(pc.index_in(wanted, value_set=text), -1).to_numpy(zero_copy_only=False)
        known = place >= 0
        aligned = []
        for flow in (self.inflow, self.outflow):
            if sum(map(int, flow)) >= 2**63:
                raise InputError(f"{self.where}: the sum passes 64-bit integers: lower decimals (--decimals)")
            total = np.zeros(len(text), dtype=np.int64)
            np.add.at(total, place[known], flow[known])
            aligned.append(total)
        unknown = [company for company, there in zip(self.companies, known, strict=True) if not there]
        return aligned[0], aligned[1], unknown


def read_boundary(source: object, decimals: int) -> Boundary:
    """Read known external flows: company, inflow, outflow, in the unit of the amounts.

    Parameters
    ----------
    source : path, frame or mapping of columns
        An empty cell is 0, and one of inflow and outflow may be left out.
    decimals : int
        As for the payments.

    Raises
    ------
    InputError
        If the table cannot be read, a company is missing or there twice, or a flow is negative or not a number.
    """
    table = _read(source, "the boundary", ("company",), ("inflow", "outflow"))
    if "inflow" not in table.columns and "outflow" not in table.columns:
        raise InputError(f"{table.where} has neither a column 'inflow' nor 'outflow': the boundary needs one of them")
    companies = table.texts("company")
    row_of: dict[str, int] = {}
    for row, company in enumerate(companies):
        if not company:
            raise InputError(f"{table.at(row)} names no company")
        if company in row_of:
            raise InputError(
                f"{table.at(row)}: company {company!r} is already in row {row_of[company] + 1}: add the two up"
            )
        row_of[company] = row
    return Boundary(table.where, companies, _flow(table, "inflow", decimals), _flow(table, "outflow", decimals))


def _flow(table: _SmallTable, name: str, decimals: int) -> Int64s:
    if name not in table.columns:
        return np.zeros(table.rows, dtype=np.int64)
    minor = to_minor(table.columns[name], decimals)
    texts = table.texts(name)
    for row, text in enumerate(texts):
        reason = 0 if minor.reason is None or text == "" else int(minor.reason[row])
        if reason:
            advice = ADVICE[TOO_LARGE if reason == TOO_LARGE else NOT_A_NUMBER]
            raise InputError(f"{table.at(row)}: {name} {text!r}: {REASONS[reason]}; {advice}")
        if minor.values[row] < 0:
            raise InputError(
                f"{table.at(row)}: {name} {text!r} is negative: money that comes in is inflow, money that leaves is "
                "outflow"
            )
    return minor.values
