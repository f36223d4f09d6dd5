"""The files of an OUT folder: read, compared with their SHA-256, checked for shape, and given as arrays."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ouroflow.digest import record_sha256
from ouroflow.verify.findings import Bools, Findings, Floats, Ints, total

COMPANIES = "companies.parquet"
FLOWS = "flows.parquet"
COMPONENTS = "components.parquet"
TREES = "certificate/components.parquet"
ORDER = "certificate/order.parquet"
RANGES = "certificate/ranges.parquet"
NETTING = "netting.parquet"
CIRCULATION = "certificate/circulation.parquet"
POTENTIALS = "certificate/potentials.parquet"

COLUMNS: dict[str, dict[str, str]] = {
    COMPANIES: {
        "company": "identity",
        "paid": "integer",
        "received": "integer",
        "component": "integer",
        "round_trip": "figure or null",
        "round_trip_low": "figure or null",
        "round_trip_high": "figure or null",
        "return_fraction": "figure or null",
        "return_fraction_low": "figure or null",
        "return_fraction_high": "figure or null",
        "self_funded_fraction": "figure or null",
        "self_funded_fraction_low": "figure or null",
        "self_funded_fraction_high": "figure or null",
        "external_in": "integer",
        "external_out": "integer",
    },
    FLOWS: {
        "payer": "identity",
        "payee": "identity",
        "amount": "integer",
        "payments": "integer",
        "component": "integer or null",
        "return_fraction": "figure or null",
        "round_trip": "figure or null",
    },
    COMPONENTS: {
        "component": "integer",
        "companies": "integer",
        "flows": "integer",
        "amount": "integer",
        "round_trip": "figure or null",
        "circulation_low": "figure or null",
        "circulation_high": "figure or null",
    },
    TREES: {
        "company": "identity",
        "component": "integer",
        "to_root": "identity or null",
        "to_root_depth": "integer",
        "from_root": "identity or null",
        "from_root_depth": "integer",
    },
    ORDER: {"component": "integer", "rank": "integer"},
    RANGES: {
        "payer": "identity",
        "payee": "identity",
        "low": "integer",
        "high": "integer",
        "attained_low": "integer",
        "attained_high": "integer",
    },
    NETTING: {
        "payer": "identity",
        "payee": "identity",
        "amount": "integer",
        "netted": "integer",
        "remaining": "integer",
    },
    CIRCULATION: {
        "payer": "identity",
        "payee": "identity",
        "circulation": "integer",
        "full": "flag",
        "empty": "flag",
    },
    POTENTIALS: {"company": "identity", "potential": "integer"},
}

RANGED_METHOD = "exact at the stated amounts"
"""How the method of every figure begins when amounts are announced as ranges: the interval is over those."""

_Figure = tuple[float, float, float]


class Stored:
    """The stored result. Companies are rows of companies.parquet; NaN (figures) and -1 (integers) stand for null.

    Attributes
    ----------
    run, summary : dict
        Content of run.json and summary.json.
    tables : dict of str to pa.Table
        The tables of `columns`.
    brackets : dict of str to float
        Netting, bilateral and intra-component fraction, as recomputed from the flows.
    seed : int
        Seed of what is sampled here, from the SHA-256 of flows.parquet: nobody can choose what is looked at.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.run: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.tables: dict[str, pa.Table] = {}
        self.brackets: dict[str, float] = {}
        self.seed = 0

    @property
    def ranged(self) -> bool:
        """Whether amounts are announced as ranges: intervals are then over all choices of amounts."""
        listed = self.run.get("tables")
        return isinstance(listed, dict) and RANGES in listed

    @property
    def has_circulation(self) -> bool:
        """Whether the run measured the maximum circulation: it was asked for, or a file of it is listed."""
        settings, listed = self.run.get("settings"), self.run.get("tables")
        measures = settings.get("measures") if isinstance(settings, dict) else None
        asked = isinstance(measures, list) and "circulation" in measures
        return asked or (isinstance(listed, dict) and not listed.keys().isdisjoint((NETTING, CIRCULATION, POTENTIALS)))

    @property
    def columns(self) -> dict[str, dict[str, str]]:
        """The tables that this run must have, with the kind of each column."""
        left_out = set() if self.ranged else {RANGES}
        if not self.has_circulation:
            left_out |= {NETTING, CIRCULATION, POTENTIALS}
        return {name: columns for name, columns in COLUMNS.items() if name not in left_out}

    def integers(self, table: str, column: str) -> Ints:
        """Return an integer column, -1 for null."""
        values = self.tables[table][column].cast(pa.int64())
        return np.asarray((values.fill_null(-1) if values.null_count else values).to_numpy(), np.int64)

    def flags(self, table: str, column: str) -> Bools:
        """Return a column of yes and no."""
        return np.asarray(self.tables[table][column].to_numpy(), np.bool_)

    def figures(self, table: str, column: str) -> Floats:
        """Return a float column, NaN for null."""
        values = self.tables[table][column].cast(pa.float64())
        return np.asarray((values.fill_null(math.nan) if values.null_count else values).to_numpy(), np.float64)

    def rows_of(self, table: str, column: str) -> Ints:
        """Return the row in companies.parquet of each identity in a column, -1 for null and unknown ones."""
        companies = self.tables[COMPANIES]["company"].combine_chunks()
        rows = pc.index_in(self.tables[table][column].cast(companies.type), value_set=companies)
        return np.asarray(rows.cast(pa.int64()).fill_null(-1).to_numpy(), np.int64)

    def certified(self, key: str) -> _Figure | None:
        """Return (low, value, high) of a fraction of summary.json, None if it is none."""
        figure = self.summary.get(key)
        if not isinstance(figure, dict):
            return None
        numbers = [figure.get(part) for part in ("low", "value", "high")]
        low, value, high = (
            float(number) if isinstance(number, int | float) and not isinstance(number, bool) else math.nan
            for number in numbers
        )
        return (low, value, high) if 0 <= low <= value <= high <= 1 else None

    def at_stated(self, key: str) -> _Figure | None:
        """Return (low, value, high) of a fraction of summary.json at the stated amounts, None if it is none."""
        figure = self.certified(key)
        return (figure[1],) * 3 if figure is not None and self.ranged else figure

    def name(self, row: int) -> str:
        """Return a company in words."""
        return f"company {self.tables[COMPANIES]['company'][int(row)].as_py()!r}"

    def flow(self, row: int) -> str:
        """Return a flow in words."""
        payer, payee = (self.tables[FLOWS][column][int(row)].as_py() for column in ("payer", "payee"))
        return f"flow {payer!r} -> {payee!r}"

    def of_company(self, column: str) -> Callable[[int], str]:
        """Return how to name a column of a company."""
        return lambda row: f"{self.name(row)}: {column}"

    def of_flow(self, column: str) -> Callable[[int], str]:
        """Return how to name a column of a flow."""
        return lambda row: f"{self.flow(row)}: {column}"

    @cached_property
    def paid(self) -> Ints:
        """What each company pays."""
        return self.integers(COMPANIES, "paid")

    @cached_property
    def received(self) -> Ints:
        """What each company receives."""
        return self.integers(COMPANIES, "received")

    @cached_property
    def component(self) -> Ints:
        """Component of each company."""
        return self.integers(COMPANIES, "component")

    @cached_property
    def sizes(self) -> Ints:
        """Number of companies of each component."""
        return np.bincount(self.component)

    @cached_property
    def throughflow(self) -> Ints:
        """What passes through each company, known and implied external flows included."""
        return self.received + self.integers(COMPANIES, "external_in")

    @cached_property
    def round_trip_stored(self) -> tuple[Floats, Floats, Floats]:
        """Low end, value and high end of each company's round-trip money, as they stand in the file."""
        low, value, high = (self.figures(COMPANIES, f"round_trip{end}") for end in ("_low", "", "_high"))
        return low, value, high

    @cached_property
    def round_trip(self) -> tuple[Floats, Floats, Floats]:
        """The same at the stated amounts: the value alone where the interval is over announced ranges."""
        low, value, high = self.round_trip_stored
        return (value, value, value) if self.ranged else (low, value, high)

    @cached_property
    def exact(self) -> Bools:
        """Which companies' round-trip money is stated as exact at the stated amounts."""
        low, value, high = self.round_trip
        return (low == value) & (value == high)

    @cached_property
    def payer(self) -> Ints:
        """Payer of each flow."""
        return self.rows_of(FLOWS, "payer")

    @cached_property
    def payee(self) -> Ints:
        """Payee of each flow."""
        return self.rows_of(FLOWS, "payee")

    @cached_property
    def amount(self) -> Ints:
        """Amount of each flow."""
        return self.integers(FLOWS, "amount")

    @cached_property
    def return_fraction(self) -> Floats:
        """Stated return fraction of each flow."""
        return self.figures(FLOWS, "return_fraction")

    @cached_property
    def inside(self) -> Bools:
        """Which flows stay in a component."""
        return np.asarray(self.component[self.payer] == self.component[self.payee])

    @cached_property
    def total(self) -> int:
        """All that is paid."""
        return total(self.amount)

    @property
    def has_round_trips(self) -> bool:
        """Whether the run measured round trips at all."""
        return isinstance(self.summary.get("round_trip_fraction"), dict)

    @property
    def hops(self) -> int | None:
        """Longest round trip that the run counted, None for no limit."""
        settings = self.run.get("settings")
        hops = settings.get("hops") if isinstance(settings, dict) else None
        return hops if isinstance(hops, int) and not isinstance(hops, bool) else None


def check_files(stored: Stored, found: Findings) -> None:
    """Read run.json and compare every file with its SHA-256."""
    stored.run = _read_json(stored.out / "run.json", found)
    if stored.run:
        sealed = stored.run.get("sha256") == record_sha256(stored.run)
        found.expect(
            sealed, "run.json does not have the SHA-256 that it states of itself: settings or inputs were changed"
        )
    listed = stored.run.get("tables")
    if not isinstance(listed, dict):
        found.expect(False, "run.json has no 'tables' with the SHA-256 of each file")
        return
    for needed in [*stored.columns, "summary.json"]:
        found.expect(needed in listed, f"run.json 'tables' does not list {needed}")
    for name, sha256 in listed.items():
        path = PurePosixPath(name)
        if not found.expect(not path.is_absolute() and ".." not in path.parts, f"{name!r} points out of the folder"):
            continue
        try:
            with open(stored.out / name, "rb") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, ValueError) as error:
            found.expect(False, f"{name} cannot be read: {error}")
            continue
        found.expect(actual == sha256, f"{name} has the SHA-256 {actual}, run.json says {sha256}")
        if name == FLOWS:
            stored.seed = int(actual[:16], 16)
    for entry in stored.out.rglob("*"):
        name = entry.relative_to(stored.out).as_posix()
        known = name in listed or name == "run.json" or entry.is_dir()
        found.expect(known, f"{name} is in the folder, but no run wrote it")


def _read_json(path: Path, found: Findings) -> dict[str, Any]:
    """Return the object of a JSON file, or an empty one with a finding."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        found.expect(False, f"{path.name} cannot be read: {error.strerror}")
    except (ValueError, RecursionError) as error:
        found.expect(False, f"{path.name} is not JSON: {error}")
    else:
        if found.expect(isinstance(content, dict), f"{path.name} is not a JSON object"):
            return dict(content)
    return {}


def check_tables(stored: Stored, found: Findings) -> None:
    """Parse summary.json and the tables, and check columns, types, nulls and identities."""
    stored.summary = _read_json(stored.out / "summary.json", found)
    for name, columns in stored.columns.items():
        try:
            table = pq.read_table(stored.out / name)
        except (OSError, pa.ArrowException) as error:
            found.expect(False, f"{name} cannot be read as Parquet: {error}")
            continue
        stored.tables[name] = table
        for column, kind in columns.items():
            _expect_column(table, name, column, kind, found)
    if found.wrong:
        return
    companies = stored.tables[COMPANIES]["company"]
    twice = len(companies) - pc.count_distinct(companies).as_py()
    found.expect(twice == 0, f"{COMPANIES} lists {twice} companies more than once")
    for name, columns in stored.columns.items():
        for column, kind in columns.items():
            if kind.startswith("identity") and name != COMPANIES:
                _expect_known(stored, name, column, found)


def _expect_column(table: pa.Table, name: str, column: str, kind: str, found: Findings) -> None:
    """Check that a column is there once, has its type, and holds no null and no infinity where it must not."""
    if not found.expect(table.column_names.count(column) == 1, f"{name} must have the column {column!r} once"):
        return
    values = table[column]
    of_type, can_be_null = kind.split()[0], kind.endswith("null")
    whole = pa.types.is_integer(values.type)
    right = {
        "identity": whole or pa.types.is_string(values.type) or pa.types.is_large_string(values.type),
        "integer": whole,
        "figure": pa.types.is_float64(values.type),
        "flag": pa.types.is_boolean(values.type),
    }[of_type] or (can_be_null and pa.types.is_null(values.type))
    if not found.expect(right, f"{name}: column {column!r} is of type {values.type}, expected {kind}"):
        return
    nulls = values.null_count
    found.expect(can_be_null or nulls == 0, f"{name}: column {column!r} has {nulls} nulls")
    if pa.types.is_float64(values.type):
        strange = len(values) - nulls - (pc.sum(pc.is_finite(values)).as_py() or 0)
        found.expect(strange == 0, f"{name}: column {column!r} has {strange} values that are not finite")


def _expect_known(stored: Stored, name: str, column: str, found: Findings) -> None:
    """Check that every identity of a column is one of companies.parquet."""
    values = stored.tables[name][column]
    unknown = (stored.rows_of(name, column) < 0) & values.is_valid().to_numpy()
    found.expect_none(unknown, lambda row: f"{name}: {column} {values[row].as_py()!r} is not in {COMPANIES}")
