"""``ouroflow verify OUT``: re-check a stored result from its files alone, sharing no code with the engine.

Only NumPy, SciPy, PyArrow and the standard library are used here, so a mistake of the engine is not repeated by its
judge. (The digest is shared: it is an identity, not a proof.) For every row it is proven that the sums agree to the
last unit, that the components are the strong components, that the boundary balances and that the figures agree with
each other. The round trips themselves are recomputed: for every company of the components of up to ``DENSE_LIMIT``
companies by a direct inverse that never subtracts, for a sample of companies of larger components by bounds from below
and above, and for the sum of those by own random walks.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy import sparse

from ouroflow.digest import result_digest
from ouroflow.errors import VerificationError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

EXAMPLES = 10
DENSE_LIMIT = 3_000  # companies of a component that is recomputed whole
DENSE_WORK = 3e11  # sum of companies**3 over the components recomputed whole: about a minute
PANEL_ROOTS = 8  # companies of larger components that are recomputed
PANEL_WORK = 2e10  # flows x columns x steps of that
WALKS = 100_000
WALK_STEPS = 2_000
SIGMAS = 6.0
SAMPLED_SLACK = 3.0  # a sampled interval may miss at its own level, but not when made this many times wider
SUM_TOLERANCE = 1e-13  # relative: the same float64 numbers summed in another order
PRODUCT_TOLERANCE = 4e-15  # relative: one multiplication or division, and money far below a minor unit
EXACT_TOLERANCE = 1e-9  # relative: a figure that is claimed exact, found by another method

COLUMNS: dict[str, dict[str, str]] = {
    "companies.parquet": {
        "company": "identity",
        "paid": "integer",
        "received": "integer",
        "component": "integer",
        "round_trip": "figure or null",
        "round_trip_low": "figure or null",
        "round_trip_high": "figure or null",
        "return_fraction": "figure or null",
        "self_funded_fraction": "figure or null",
        "external_in": "integer",
        "external_out": "integer",
    },
    "flows.parquet": {
        "payer": "identity",
        "payee": "identity",
        "amount": "integer",
        "payments": "integer",
        "component": "integer or null",
        "return_fraction": "figure or null",
        "round_trip": "figure or null",
    },
    "components.parquet": {
        "component": "integer",
        "companies": "integer",
        "flows": "integer",
        "amount": "integer",
        "round_trip": "figure or null",
        "circulation_low": "figure or null",
        "circulation_high": "figure or null",
    },
    "certificate/components.parquet": {
        "company": "identity",
        "component": "integer",
        "to_root": "identity or null",
        "to_root_depth": "integer",
        "from_root": "identity or null",
        "from_root_depth": "integer",
    },
    "certificate/order.parquet": {"component": "integer", "rank": "integer"},
}


@dataclass(frozen=True)
class Check:
    """One check: what was looked at, how many things, and what is wrong with the first of them.

    Parameters
    ----------
    name : str
        Short name, stable.
    what : str
        What was proven, and for whom, in words.
    checked : int
        Number of rows or figures looked at.
    wrong : int
        Number of them that are wrong.
    examples : tuple of str
        The first ten of the wrong ones, each with what was found and what was expected.
    """

    name: str
    what: str
    checked: int
    wrong: int
    examples: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.wrong == 0

    def __str__(self) -> str:
        """Return the check as a line, with a line more for each example of what is wrong."""
        if self.ok:
            return f"ok      {self.name}: {self.what} ({self.checked:,} checked)"
        head = f"WRONG   {self.name}: {self.wrong:,} of {self.checked:,} wrong"
        more = [f"        ... and {self.wrong - len(self.examples):,} more"] if self.wrong > len(self.examples) else []
        return "\n".join([head, *(f"        {example}" for example in self.examples), *more])


@dataclass(frozen=True)
class VerifyReport:
    """The checks of one OUT folder, in order; `not_reached` names those that need what an earlier one found broken."""

    out: Path
    checks: tuple[Check, ...]
    not_reached: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every check was reached and found nothing wrong."""
        return not self.not_reached and all(check.ok for check in self.checks)

    def __str__(self) -> str:
        """Return the report for people: a line per check."""
        lines = [str(check) for check in self.checks]
        if self.not_reached:
            lines.append(f"not reached: {', '.join(self.not_reached)}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return {
            "ok": self.ok,
            "checks": [{**vars(check), "examples": list(check.examples), "ok": check.ok} for check in self.checks],
            "not_reached": list(self.not_reached),
        }

    def require(self) -> None:
        """Raise unless everything is as it must be.

        Raises
        ------
        VerificationError
            Naming the checks that failed, with the first thing found wrong.
        """
        failed = [check for check in self.checks if not check.ok]
        if failed:
            names = ", ".join(check.name for check in failed)
            raise VerificationError(
                f"{self.out} does not agree with its own certificates ({names}): {failed[0].examples[0]}. "
                "The files were altered or damaged after the run, or the run is wrong: analyze the input again"
            )


@dataclass
class _Findings:
    """What one check has looked at and found."""

    checked: int = 0
    wrong: int = 0
    examples: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def expect(self, ok: bool, message: str) -> bool:
        """Count one thing looked at, and keep the message if it is wrong."""
        self.checked += 1
        if not ok:
            self.wrong += 1
            if len(self.examples) < EXAMPLES:
                self.examples.append(message)
        return ok

    def expect_none(self, wrong: Bools, describe: Callable[[int], str]) -> bool:
        """Count an array of things, and describe the first wrong ones by their position."""
        self.checked += len(wrong)
        bad = np.flatnonzero(wrong)
        self.wrong += len(bad)
        self.examples += [describe(int(row)) for row in bad[: EXAMPLES - len(self.examples)]]
        return len(bad) == 0

    def expect_same(self, stated: Ints, expected: Ints, describe: Callable[[int], str]) -> bool:
        """Count integers that must be equal."""
        return self.expect_none(
            np.asarray(stated != expected, np.bool_),
            lambda row: f"{describe(row)} is {stated[row]}, expected {expected[row]}",
        )

    def expect_figures(self, found: Floats, expected: Floats, relative: float, describe: Callable[[int], str]) -> bool:
        """Count figures that must agree to a relative tolerance; NaN stands for null and agrees with NaN only."""
        with np.errstate(invalid="ignore"):
            agree = np.abs(found - expected) <= relative * np.abs(expected)
        agree |= np.isnan(found) & np.isnan(expected)
        return self.expect_none(
            ~agree, lambda row: f"{describe(row)} is {float(found[row])!r}, expected {float(expected[row])!r}"
        )


@dataclass
class _Stored:
    """The stored result as arrays; companies are rows of companies.parquet, NaN and -1 stand for null."""

    out: Path
    run: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, pa.Table] = field(default_factory=dict)
    seed: int = 0

    def integers(self, table: str, column: str) -> Ints:
        """Return an integer column, -1 for null."""
        values = self.tables[table][column].cast(pa.int64())
        return _array(values.fill_null(-1) if values.null_count else values, np.int64)

    def figures(self, table: str, column: str) -> Floats:
        """Return a float column, NaN for null."""
        values = self.tables[table][column].cast(pa.float64())
        return _array(values.fill_null(math.nan) if values.null_count else values, np.float64)

    def rows_of(self, table: str, column: str) -> Ints:
        """Return the row in companies.parquet of each identity in a column, -1 for null and unknown ones."""
        companies = self.tables["companies.parquet"]["company"].combine_chunks()
        rows = pc.index_in(self.tables[table][column].cast(companies.type), value_set=companies)
        return _array(rows.cast(pa.int64()).fill_null(-1), np.int64)

    def load_arrays(self) -> None:
        """Fill the arrays that several checks share (after the tables were found well formed)."""
        self.paid, self.received, self.component, self.external_in, self.external_out = (
            self.integers("companies.parquet", column)
            for column in ("paid", "received", "component", "external_in", "external_out")
        )
        self.low, self.value, self.high = (
            self.figures("companies.parquet", column) for column in ("round_trip_low", "round_trip", "round_trip_high")
        )
        self.payer, self.payee = self.rows_of("flows.parquet", "payer"), self.rows_of("flows.parquet", "payee")
        self.amount, self.payments = (self.integers("flows.parquet", column) for column in ("amount", "payments"))
        self.flow_returns = self.figures("flows.parquet", "return_fraction")

    @property
    def companies(self) -> int:
        """Number of companies."""
        return len(self.paid)

    def name(self, row: int) -> str:
        """Return a company in words."""
        return f"company {self.tables['companies.parquet']['company'][int(row)].as_py()!r}"

    def of_company(self, column: str) -> Callable[[int], str]:
        """Return how to name a column of a company."""
        return lambda row: f"{self.name(row)}: {column}"

    def flow(self, row: int) -> str:
        """Return a flow in words."""
        row = int(row)
        table = self.tables["flows.parquet"]
        return f"flow {table['payer'][row].as_py()!r} -> {table['payee'][row].as_py()!r}"

    def derive(self) -> None:
        """Fill what follows from the arrays once they are known to be consistent."""
        self.inside = self.component[self.payer] == self.component[self.payee]
        self.total = _total(self.amount)
        self.throughflow = self.received + self.external_in
        self.sizes = np.bincount(self.component)
        self.has_round_trips = isinstance(self.summary.get("round_trip_fraction"), dict)

    @property
    def exact(self) -> Bools:
        """Which companies' round trips are claimed exact."""
        return (self.low == self.value) & (self.value == self.high)


def verify(out: Path, *, progress: Callable[[str], None] | None = None) -> VerifyReport:
    """Re-check everything that the files of an OUT folder state.

    Parameters
    ----------
    out : Path
        The folder that ``ouroflow analyze`` wrote.
    progress : callable, optional
        Called with the name of each check before it begins.

    Returns
    -------
    VerifyReport
        One entry per check, whether it passed or not; ``report.require()`` raises VerificationError if any did not.
        Broken, missing and nonsensical files are findings, never exceptions.
    """
    stored = _Stored(Path(out))
    checks: list[Check] = []
    for position, (name, what, check, needed) in enumerate(_CHECKS):
        if progress is not None:
            progress(name)
        found = _Findings()
        try:
            check(stored, found)
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
            OSError,
            pa.ArrowException,
        ) as error:
            found.expect(False, f"could not be checked ({type(error).__name__}: {error})")
        notes = "; ".join([what, *found.notes])
        checks.append(Check(name, notes, found.checked, found.wrong, tuple(found.examples)))
        if needed and found.wrong:
            return VerifyReport(stored.out, tuple(checks), tuple(later[0] for later in _CHECKS[position + 1 :]))
    return VerifyReport(stored.out, tuple(checks))


# --- files and tables ---------------------------------------------------------------------------------------


def _check_files(stored: _Stored, found: _Findings) -> None:
    """Read run.json and compare every file with its SHA-256."""
    stored.run = _read_json(stored.out / "run.json", found)
    listed = stored.run.get("tables")
    if not found.expect(isinstance(listed, dict), "run.json has no 'tables' with the SHA-256 of each file"):
        return
    for needed in [*COLUMNS, "summary.json"]:
        found.expect(needed in listed, f"run.json 'tables' does not list {needed}")
    for name, sha256 in listed.items():
        path = PurePosixPath(name)
        if not found.expect(not path.is_absolute() and ".." not in path.parts, f"{name!r} points out of the folder"):
            continue
        try:
            with open(stored.out / name, "rb") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            found.expect(False, f"{name} cannot be read: {error.strerror}")
            continue
        found.expect(actual == sha256, f"{name} has SHA-256 {actual}, run.json says {sha256}")
        if name == "flows.parquet":
            stored.seed = int(actual[:16], 16)


def _read_json(path: Path, found: _Findings) -> dict[str, Any]:
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


def _check_tables(stored: _Stored, found: _Findings) -> None:
    """Parse summary.json and the tables, and check columns, types, nulls and identities."""
    stored.summary = _read_json(stored.out / "summary.json", found)
    for name, columns in COLUMNS.items():
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
    stored.load_arrays()
    companies = stored.tables["companies.parquet"]["company"]
    distinct = pc.count_distinct(companies).as_py()
    found.expect(distinct == len(companies), f"companies.parquet names {len(companies) - distinct} companies twice")
    for table_name, columns in COLUMNS.items():
        for column, kind in columns.items():
            if kind.startswith("identity") and column != "company":
                _expect_known(stored, table_name, column, found)
    _expect_known(stored, "certificate/components.parquet", "company", found)


def _expect_column(table: pa.Table, name: str, column: str, kind: str, found: _Findings) -> None:
    """Check that a column exists, has its type, and holds no null and no infinity where it must not."""
    if not found.expect(table.column_names.count(column) == 1, f"{name} must have the column {column!r} once"):
        return
    values = table[column]
    integer, text = (
        pa.types.is_integer(values.type),
        pa.types.is_string(values.type) or pa.types.is_large_string(values.type),
    )
    right = {"identity": integer or text, "integer": integer, "figure": pa.types.is_float64(values.type)}[
        kind.split()[0]
    ]
    right = right or (kind.endswith("null") and pa.types.is_null(values.type))
    if not found.expect(right, f"{name}: column {column!r} is of type {values.type}, expected {kind}"):
        return
    if not kind.endswith("null"):
        found.expect(values.null_count == 0, f"{name}: column {column!r} has {values.null_count} nulls")
    if pa.types.is_float64(values.type):
        infinite = len(values) - values.null_count - (pc.sum(pc.is_finite(values)).as_py() or 0)
        found.expect(infinite == 0, f"{name}: column {column!r} has {infinite} values that are not finite")


def _expect_known(stored: _Stored, table_name: str, column: str, found: _Findings) -> None:
    """Check that every identity of a column is one of companies.parquet."""
    values = stored.tables[table_name][column]
    unknown = (stored.rows_of(table_name, column) < 0) & values.is_valid().to_numpy()
    found.expect_none(
        unknown, lambda row: f"{table_name}: {column} {values[row].as_py()!r} is not in companies.parquet"
    )


# --- sums, components, boundary: proven for every row -------------------------------------------------------


def _check_flows(stored: _Stored, found: _Findings) -> None:
    """Check the flows, and every sum of them, in integers."""
    found.expect_none(stored.amount <= 0, lambda row: f"{stored.flow(row)} has the amount {stored.amount[row]}")
    found.expect_none(stored.payments < 1, lambda row: f"{stored.flow(row)} has {stored.payments[row]} payments")
    found.expect_none(stored.payer == stored.payee, lambda row: f"{stored.flow(row)} pays itself")
    keys = np.sort(_pair(stored.payer, stored.payee, stored.companies))
    found.expect_none(
        keys[1:] == keys[:-1],
        lambda row: f"a flow is stored twice: companies {divmod(int(keys[row]), stored.companies)}",
    )
    for column, ends, stated in (("paid", stored.payer, stored.paid), ("received", stored.payee, stored.received)):
        found.expect_same(stated, _sums(ends, stored.amount, stored.companies), stored.of_company(column))
    transactions = _total(stored.payments)
    for key, expected in (
        ("companies", stored.companies),
        ("flows", len(stored.amount)),
        ("transactions", transactions),
        ("total", _total(stored.amount)),
    ):
        _expect_integer(stored.summary.get(key), expected, f"summary.json: {key}", found)
    _expect_rows(stored.run.get("rows"), transactions, found)


def _expect_rows(rows: Any, transactions: int, found: _Findings) -> None:
    """Check that run.json accounts for every row that was read."""
    if not found.expect(isinstance(rows, dict), "run.json has no 'rows'"):
        return
    rejected = rows.get("rejected", {})
    counts = [rows.get("read"), rows.get("used"), rows.get("self_payments")]
    counts += list(rejected.values()) if isinstance(rejected, dict) else [None]
    whole = all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts)
    if not found.expect(whole, f"run.json: rows must be counts, found {rows}"):
        return
    read, used, *rest = counts
    found.expect(read == used + sum(rest), f"run.json: {read} rows read, but {used} used and {sum(rest)} left out")
    found.expect(used == transactions, f"run.json: {used} rows used, but the flows hold {transactions} payments")


def _check_components(stored: _Stored, found: _Findings) -> None:
    """Check that the components are exactly the strong components, from the two trees and the order."""
    labels = stored.component
    sizes = np.bincount(labels[labels >= 0]) if len(labels) else np.zeros(0, np.int64)
    if not found.expect_none(labels < 0, lambda row: f"{stored.name(row)} has the component {labels[row]}"):
        return
    found.expect_none(sizes == 0, lambda label: f"component {label} has no company, but higher numbers exist")
    found.expect_none(sizes[1:] > sizes[:-1], lambda label: f"component {label + 1} is larger than component {label}")
    _expect_trees(stored, sizes, found)
    _expect_order(stored, len(sizes), found)
    if found.wrong:
        return
    stored.derive()
    _expect_component_table(stored, sizes, found)
    stated = stored.summary.get("components")
    if found.expect(isinstance(stated, dict), "summary.json has no 'components'"):
        for key, expected in (
            ("count", len(sizes)),
            ("nontrivial", int((sizes >= 2).sum())),
            ("largest", int(max(sizes, default=0))),
        ):
            _expect_integer(stated.get(key), expected, f"summary.json: components.{key}", found)


def _expect_trees(stored: _Stored, sizes: Ints, found: _Findings) -> None:
    """Check that in each component every company reaches one root, and is reached from it, along flows inside.

    Depths fall by one at each step along an existing flow of the component, so every company has such a path; with one root
    per component, the same in both trees, the component is strongly connected.
    """
    name, labels = "certificate/components.parquet", stored.component
    company, component = stored.rows_of(name, "company"), stored.integers(name, "component")
    listed = np.bincount(company, minlength=stored.companies)
    found.expect_none(
        listed != (sizes[labels] >= 2), lambda row: f"{name} lists {stored.name(row)} {listed[row]} times"
    )
    found.expect_none(
        component != labels[company],
        lambda row: (
            f"{name} puts {stored.name(company[row])} in component {component[row]}, not {labels[company[row]]}"
        ),
    )
    if found.wrong:
        return
    keys = np.sort(_pair(stored.payer, stored.payee, stored.companies))
    roots = []
    for tree in ("to_root", "from_root"):
        step, depth = stored.rows_of(name, tree), stored.integers(name, f"{tree}_depth")
        depth_of = np.full(stored.companies, -1, np.int64)
        depth_of[company] = depth
        root = step < 0
        roots.append(np.sort(company[root]))
        found.expect_none(
            (depth == 0) != root, lambda row: f"{name}: {stored.name(company[row])} has {tree}_depth {depth[row]}"
        )
        per_component = np.bincount(component[root], minlength=len(sizes))
        found.expect_none(
            per_component != (sizes >= 2), lambda label: f"{name}: component {label} has {per_component[label]} roots"
        )
        at, to = company[~root], step[~root]
        known = _contains(keys, _pair(*((at, to) if tree == "to_root" else (to, at)), stored.companies))
        wrong = ~known | (labels[at] != labels[to]) | (depth_of[at] != depth_of[to] + 1) | (depth_of[to] < 0)
        found.expect_none(
            wrong, lambda row: f"{name}: the step {tree} of {stored.name(at[row])} is no flow to the depth above"
        )
    found.expect(np.array_equal(*roots), f"{name}: the two trees of a component have different roots")


def _expect_order(stored: _Stored, count: int, found: _Findings) -> None:
    """Check that every flow between components goes up in rank: then no path returns, and no two components are one."""
    name = "certificate/order.parquet"
    component, rank = stored.integers(name, "component"), stored.integers(name, "rank")
    if not found.expect(
        np.array_equal(np.sort(component), np.arange(count)), f"{name} must list each of {count} components once"
    ):
        return
    rank_of = np.zeros(count, np.int64)
    rank_of[component] = rank
    source, target = stored.component[stored.payer], stored.component[stored.payee]
    found.expect_none(
        (source != target) & (rank_of[source] >= rank_of[target]),
        lambda row: f"{stored.flow(row)} goes down in rank: {rank_of[source[row]]} to {rank_of[target[row]]}",
    )


def _expect_component_table(stored: _Stored, sizes: Ints, found: _Findings) -> None:
    """Check components.parquet and the component column of the flows."""
    name = "components.parquet"
    labels, count = stored.integers(name, "component"), int((sizes >= 2).sum())
    if not found.expect(
        np.array_equal(np.sort(labels), np.arange(count)), f"{name} must list each of {count} components once"
    ):
        return
    inside = np.where(stored.inside, stored.component[stored.payer], -1)
    stated = stored.integers("flows.parquet", "component")
    found.expect_same(stated, inside, lambda row: f"{stored.flow(row)}: component (-1 for none)")
    for column, expected in (
        ("companies", sizes[:count]),
        ("flows", np.bincount(inside[stored.inside], minlength=count)),
        ("amount", _sums(inside[stored.inside], stored.amount[stored.inside], count)),
    ):
        found.expect_same(stored.integers(name, column), expected[labels], partial(_of_component, labels, column))


def _of_component(labels: Ints, column: str, row: int) -> str:
    """Return how to name a column of a component."""
    return f"component {labels[row]}: {column}"


def _check_brackets(stored: _Stored, found: _Findings) -> None:
    """Recompute the figures of one pass over the flows, from integers."""
    total = stored.total
    keys = _pair(stored.payer, stored.payee, stored.companies)
    order = np.argsort(keys)
    keys, amount = keys[order], stored.amount[order]
    back = _pair(stored.payee[order], stored.payer[order], stored.companies)
    at = np.minimum(np.searchsorted(keys, back), max(len(keys) - 1, 0))
    both = keys[at] == back if len(keys) else np.zeros(0, np.bool_)
    mutual = _total(np.minimum(amount[both], amount[at[both]]))
    unbalanced = _total(np.abs(stored.received - stored.paid))
    stored.brackets = {
        "netting_fraction": Fraction(2 * total - unbalanced, 2 * total) if total else Fraction(0),
        "bilateral_fraction": Fraction(mutual, total) if total else Fraction(0),
        "intra_component_fraction": Fraction(_total(stored.amount[stored.inside]), total) if total else Fraction(0),
    }
    for key, expected in stored.brackets.items():
        stated = _certified(stored.summary.get(key))
        if (
            not found.expect(stated is not None, f"summary.json: {key} must have value, low and high in order")
            or stated is None
        ):
            continue
        # One minus a quotient loses up to an ulp of one, hence the absolute part.
        near = all(abs(figure - float(expected)) <= 3e-16 + 1e-15 * float(expected) for figure in stated)
        found.expect(
            near and stated[0] == stated[2], f"summary.json: {key} is {stated}, the flows give {float(expected)!r}"
        )


def _check_boundary(stored: _Stored, found: _Findings) -> None:
    """Check in integers that what enters each company equals what leaves it."""
    for column, values in (("external_in", stored.external_in), ("external_out", stored.external_out)):
        found.expect_same(
            np.minimum(values, 0), np.zeros_like(values), stored.of_company(f"what is below zero of {column}")
        )
    entering = stored.received.astype(np.uint64) + stored.external_in.astype(np.uint64)
    leaving = stored.paid.astype(np.uint64) + stored.external_out.astype(np.uint64)
    found.expect_none(entering != leaving, lambda row: f"{stored.name(row)}: {entering[row]} in, {leaving[row]} out")
    found.expect_none(
        entering > np.uint64(2**63 - 1),
        lambda row: f"{stored.name(row)}: the throughflow {entering[row]} is past int64",
    )
    settings = stored.run.get("settings")
    if isinstance(settings, dict) and "boundary" in settings and settings["boundary"] is None:
        least = np.maximum(stored.paid, stored.received).astype(np.uint64)
        found.expect_same(entering, least, stored.of_company("throughflow (no external flows are known)"))
        found.notes.append("the implied boundary is the least one")


# --- round trips: consistency for every row -----------------------------------------------------------------


def _check_round_trips(stored: _Stored, found: _Findings) -> None:
    """Check that the round trips of companies, flows, components and of the whole agree with each other."""
    if not stored.has_round_trips:
        _expect_no_round_trips(stored, found)
        return
    value, low, high, name = stored.value, stored.low, stored.high, stored.name
    with np.errstate(invalid="ignore"):
        ordered = (low >= 0) & (low <= value) & (value <= high)
        # Figures are float64: the largest one may be an ulp above an integer of more than 53 bits.
        bounded = high <= np.minimum(stored.paid, stored.received) * (1 + 1e-15)
    found.expect_none(
        ~ordered, lambda row: f"{name(row)}: round_trip {low[row]!r} <= {value[row]!r} <= {high[row]!r} does not hold"
    )
    found.expect_none(
        ~bounded, lambda row: f"{name(row)}: round_trip_high {high[row]!r} is more than it pays or receives"
    )
    alone = stored.sizes[stored.component] == 1
    found.expect_none(alone & (high != 0), lambda row: f"{name(row)} is on no closed loop, but has a round trip")
    for column, divisor in (("return_fraction", stored.paid), ("self_funded_fraction", stored.received)):
        expected = np.divide(value, divisor, out=np.full(len(value), math.nan), where=divisor > 0)
        found.expect_figures(
            stored.figures("companies.parquet", column),
            expected,
            PRODUCT_TOLERANCE,
            stored.of_company(column),
        )
    _expect_flow_returns(stored, found)
    _expect_component_returns(stored, found)
    _expect_graph_returns(stored, found)


def _expect_no_round_trips(stored: _Stored, found: _Findings) -> None:
    """Check that a run without round trips states none."""
    found.notes.append("the run did not measure round trips")
    found.expect(
        stored.summary.get("finn_cycling_index") is None, "summary.json: finn_cycling_index without round_trip_fraction"
    )
    for table, columns in COLUMNS.items():
        for column in set(columns) & {"round_trip", "round_trip_low", "round_trip_high", "self_funded_fraction"}:
            nulls, rows = stored.tables[table][column].null_count, stored.tables[table].num_rows
            found.expect(nulls == rows, f"{table} has {column}, but summary.json has no round_trip_fraction")


def _expect_flow_returns(stored: _Stored, found: _Findings) -> None:
    """Check the return fractions of flows, and that those of a payer add up to its round trip."""
    returns, money = stored.flow_returns, stored.figures("flows.parquet", "round_trip")
    with np.errstate(invalid="ignore"):
        outside = (returns < 0) | (returns > 1)
    found.expect_none(outside, lambda row: f"{stored.flow(row)}: return_fraction is {returns[row]!r}")
    found.expect_none(
        ~stored.inside & (returns != 0),
        lambda row: f"{stored.flow(row)} leaves its component, but return_fraction is {returns[row]!r}",
    )
    found.expect_figures(
        money, stored.amount * returns, PRODUCT_TOLERANCE, lambda row: f"{stored.flow(row)}: round_trip"
    )
    unknown = np.bincount(stored.payer, np.isnan(returns), stored.companies) > 0
    summed = np.bincount(stored.payer, np.nan_to_num(stored.amount * returns), stored.companies)
    slack = EXACT_TOLERANCE * stored.high + 1e-13 * stored.throughflow
    low, high = _widened(stored, stored.low, stored.value, stored.high)
    wrong = ~unknown & ((summed < low - slack) | (summed > high + slack))
    found.expect_none(
        wrong,
        lambda row: (
            f"{stored.name(row)}: its flows return {summed[row]!r}, its round trip is {stored.low[row]!r} to {stored.high[row]!r}"
        ),
    )


def _expect_component_returns(stored: _Stored, found: _Findings) -> None:
    """Check the money columns of components.parquet."""
    name = "components.parquet"
    labels, amount = stored.integers(name, "component"), stored.integers(name, "amount")
    expected = np.bincount(stored.component, stored.value)[labels] if len(labels) else np.zeros(0)
    found.expect_figures(
        stored.figures(name, "round_trip"), expected, SUM_TOLERANCE, lambda row: f"component {labels[row]}: round_trip"
    )
    low, high = stored.figures(name, "circulation_low"), stored.figures(name, "circulation_high")
    with np.errstate(invalid="ignore"):
        wrong = (np.isnan(low) != np.isnan(high)) | (low < 0) | (low > high) | (high > amount * (1 + 1e-15))
    found.expect_none(
        wrong, lambda row: f"component {labels[row]}: circulation {low[row]!r} to {high[row]!r} of {amount[row]}"
    )


def _expect_graph_returns(stored: _Stored, found: _Findings) -> None:
    """Check the figures of the whole graph against those of its companies, and their order."""
    stated: dict[str, tuple[float, float, float]] = {}
    throughflow = _total(stored.throughflow)
    for key, divisor in (("round_trip_fraction", stored.total), ("finn_cycling_index", throughflow)):
        figure = _certified(stored.summary.get(key))
        if (
            not found.expect(figure is not None, f"summary.json: {key} must have value, low and high in order")
            or figure is None
        ):
            return
        stated[key] = figure
        sums = [math.fsum(bound) / divisor if divisor else 0.0 for bound in (stored.low, stored.value, stored.high)]
        if figure[0] == figure[2]:
            found.expect(
                all(abs(figure[1] - bound) <= SUM_TOLERANCE * bound for bound in sums),
                f"summary.json: {key} is {figure[1]!r}, the companies give {sums[1]!r}",
            )
        else:
            low, high = _widened_figure(stored, key, figure)
            found.expect(
                low <= sums[2] * (1 + SUM_TOLERANCE) and sums[0] <= high * (1 + SUM_TOLERANCE),
                f"summary.json: {key} is {figure[0]!r} to {figure[2]!r}, the companies give {sums[0]!r} to {sums[2]!r}",
            )
    round_trip, finn = stated["round_trip_fraction"], stated["finn_cycling_index"]
    roof = min(float(stored.brackets["netting_fraction"]), float(stored.brackets["intra_component_fraction"]))
    bilateral = float(stored.brackets["bilateral_fraction"])
    found.expect(
        finn[0] <= round_trip[2] * (1 + 1e-12), "summary.json: finn_cycling_index is above round_trip_fraction"
    )
    found.expect(
        round_trip[0] <= roof + 1e-12,
        f"summary.json: round_trip_fraction {round_trip[0]!r} is above {roof!r}, what nets out",
    )
    found.expect(bilateral <= roof + 1e-12, f"bilateral_fraction {bilateral!r} is above {roof!r}, what nets out")
    circulation = _certified(stored.summary.get("max_circulation_fraction"))
    if circulation is not None:
        found.expect(
            max(bilateral, round_trip[0]) <= circulation[2] + 1e-12 and circulation[0] <= roof + 1e-12,
            f"summary.json: max_circulation_fraction {circulation} is not between round_trip_fraction and what nets out",
        )


# --- round trips: recomputed --------------------------------------------------------------------------------


def _check_recomputed(stored: _Stored, found: _Findings) -> None:
    """Recompute round trips from the flows: all companies of small components, a sample of those of large ones."""
    if not stored.has_round_trips:
        found.notes.append("the run did not measure round trips")
        return
    sizes = stored.sizes[stored.sizes >= 2]
    # Labels go from the largest component to the smallest: take all from the first that fits, within the work.
    work = np.cumsum(sizes[::-1].astype(np.float64) ** 3)[::-1]
    stored.first_dense = int(np.count_nonzero((sizes > DENSE_LIMIT) | (work > DENSE_WORK)))
    flows = np.flatnonzero(stored.inside)
    flows = flows[np.argsort(stored.component[stored.payer[flows]], kind="stable")]
    label = stored.component[stored.payer[flows]]
    by_component = np.argsort(stored.component, kind="stable")
    first = np.concatenate(([0], np.cumsum(stored.sizes)))
    position = np.empty(stored.companies, np.int64)
    position[by_component] = np.arange(stored.companies) - first[stored.component[by_component]]
    start = stored.first_dense
    while start < len(sizes):
        size = int(sizes[start])
        same = int(np.count_nonzero(sizes == size))
        stop = min(start + max(1, 4_000_000 // size**2), int(np.flatnonzero(sizes == size)[0]) + same)
        batch = flows[np.searchsorted(label, start) : np.searchsorted(label, stop)]
        members = by_component[first[start] : first[stop]].reshape(stop - start, size)
        _expect_dense(stored, members, batch, position, start, found)
        start = stop
    whole = int(sizes[stored.first_dense :].sum())
    found.notes.append(f"all {whole:,} companies of {len(sizes) - stored.first_dense:,} components by a direct inverse")
    if stored.first_dense:
        _expect_panel(stored, found)


def _expect_dense(
    stored: _Stored, members: Ints, flows: Ints, position: Ints, first_label: int, found: _Findings
) -> None:
    """Recompute a batch of components of one size, companies of shape (batch, size), and compare."""
    batch, size = members.shape
    transfers = np.zeros((batch, size, size))
    payer, payee = stored.payer[flows], stored.payee[flows]
    place = stored.component[payer] - first_label
    transfers[place, position[payer], position[payee]] = stored.amount[flows]
    kept = np.zeros(stored.companies, np.int64)
    np.add.at(kept, payer, stored.amount[flows])
    leak = (stored.throughflow - kept)[members]
    # An isolated, exactly balanced component: every unit returns, and the matrix is singular.
    closed = ~leak.any(axis=1)
    hits = np.ones((batch, size, size))
    if not closed.all():
        inverse = _inverse(transfers[~closed], leak[~closed].astype(np.float64))
        hits[~closed] = inverse / np.diagonal(inverse, axis1=1, axis2=2)[:, None, :]
    money = np.einsum("bij,bji->bi", transfers, hits)
    slack = EXACT_TOLERANCE * money + 1e-13 * stored.throughflow[members]
    _expect_interval(stored, members.ravel(), (money - slack).ravel(), (money + slack).ravel(), found)
    stated = stored.flow_returns[flows]
    expected = hits[place, position[payee], position[payer]]
    wrong = stored.exact[payer] & (np.abs(stated - expected) > EXACT_TOLERANCE * expected + 1e-13)
    found.expect_none(
        wrong,
        lambda row: f"{stored.flow(flows[row])}: return_fraction is {stated[row]!r}, recomputed {expected[row]!r}",
    )


def _inverse(transfers: Floats, leak: Floats) -> Floats:
    """Return the inverses of diag(leak + row sums) - transfers, the diagonal of transfers being ignored.

    Halves are eliminated in turn (Grassmann, Taksar & Heyman, Operations Research 33, 1985, in blocks): only sums,
    products and quotients of numbers that are not negative, so each entry keeps its relative accuracy, however nearly
    closed the component is.

    Parameters
    ----------
    transfers : float64 array of shape (batch, size, size)
        What each company pays to each other one.
    leak : float64 array of shape (batch, size)
        What leaves the component from each company.
    """
    size = leak.shape[1]
    if size == 1:
        return 1.0 / leak[:, :, None]
    half = size // 2
    there, back = transfers[:, :half, half:], transfers[:, half:, :half]
    first = _inverse(transfers[:, :half, :half], leak[:, :half] + there.sum(axis=2))
    back_first = back @ first
    rest_leak = leak[:, half:] + (back_first @ leak[:, :half, None])[:, :, 0]
    rest = _inverse(transfers[:, half:, half:] + back_first @ there, rest_leak)
    first_there = first @ there
    result = np.empty_like(transfers)
    result[:, half:, half:] = rest
    result[:, half:, :half] = rest @ back_first
    result[:, :half, half:] = first_there @ rest
    result[:, :half, :half] = first + first_there @ result[:, half:, :half]
    return result


def _expect_interval(stored: _Stored, companies: Ints, low: Floats, high: Floats, found: _Findings) -> None:
    """Check that stated round trips meet recomputed intervals; figures claimed exact have no interval of their own."""
    stated_low, stated_high = _widened(stored, stored.low, stored.value, stored.high)
    wrong = (stated_high[companies] < low) | (stated_low[companies] > high)
    found.expect_none(
        wrong,
        lambda row: (
            f"{stored.name(companies[row])}: round trip {stored.low[companies[row]]!r} to {stored.high[companies[row]]!r}, "
            f"recomputed {low[row]!r} to {high[row]!r}"
        ),
    )


def _expect_panel(stored: _Stored, found: _Findings) -> None:
    """Recompute a sample of companies of the large components by bounds from both sides."""
    companies = np.flatnonzero(stored.component < stored.first_dense)
    top = companies[np.argsort(-stored.value[companies], kind="stable")[: PANEL_ROOTS // 2]]
    drawn = np.random.default_rng(stored.seed).choice(companies, min(PANEL_ROOTS // 2, len(companies)), replace=False)
    roots = np.unique(np.concatenate((top, drawn)))
    flows = np.flatnonzero(stored.inside & (stored.component[stored.payer] < stored.first_dense))
    local = np.full(stored.companies, -1, np.int64)
    local[companies] = np.arange(len(companies))
    payer, payee = stored.payer[flows], stored.payee[flows]
    share = stored.amount[flows] / stored.throughflow[payer]
    steps = sparse.csr_array((share, (local[payer], local[payee])), shape=(len(companies), len(companies)))
    columns, at = np.arange(len(roots)), local[roots]
    low = np.zeros((len(companies), len(roots)))
    high = (stored.component[companies][:, None] == stored.component[roots]).astype(np.float64)
    low[at, columns] = 1.0
    paid, taken = stored.paid[roots], 0
    for _ in range(max(10, int(PANEL_WORK / (2 * len(roots) * max(1, len(flows)))))):
        low_step, high_step = steps @ low, steps @ high
        money_low, money_high = (stored.throughflow[roots] * step[at, columns] for step in (low_step, high_step))
        low, high, taken = low_step, high_step, taken + 1
        low[at, columns] = high[at, columns] = 1.0
        if np.all(money_high - money_low <= 1e-12 * paid):
            break
    slack = EXACT_TOLERANCE * money_high + 1e-12 * stored.throughflow[roots]
    _expect_interval(stored, roots, money_low - slack, money_high + slack, found)
    column_of = np.full(stored.companies, -1, np.int64)
    column_of[roots] = columns
    rows = np.flatnonzero((column_of[payer] >= 0) & stored.exact[payer])
    stated, place = stored.flow_returns[flows[rows]], (local[payee[rows]], column_of[payer[rows]])
    wrong = (stated < low[place] * (1 - EXACT_TOLERANCE) - 1e-12) | (
        stated > high[place] * (1 + EXACT_TOLERANCE) + 1e-12
    )
    found.expect_none(wrong, lambda row: f"{stored.flow(flows[rows[row]])}: return_fraction is {stated[row]!r}")
    width = float(np.max((money_high - money_low) / paid))
    found.notes.append(
        f"of {len(companies):,} companies of {stored.first_dense} larger components a sample of {len(roots)}, "
        f"known to {width:.0e} of what they pay after {taken} steps"
    )


def _check_walks(stored: _Stored, found: _Findings) -> None:
    """Draw money of the large components at random, walk it, and compare what returns with what is stated."""
    if not stored.has_round_trips or not stored.first_dense:
        found.notes.append("not needed: every company was recomputed")
        return
    large = stored.component < stored.first_dense
    flows = np.flatnonzero(stored.inside & large[stored.payer])
    flows = flows[np.argsort(stored.payer[flows], kind="stable")]
    if stored.total > 2**62:
        found.notes.append("not drawn: the total is past what the generator can address")
        return
    generator = np.random.default_rng([stored.seed, 1])
    ends = np.cumsum(stored.amount[flows])
    kept = np.bincount(stored.payer[flows], minlength=stored.companies)
    last = np.cumsum(kept)
    base = np.where(last - kept > 0, ends[last - kept - 1], 0)
    stop = np.where(kept > 0, ends[last - 1], base)
    drawn = flows[np.searchsorted(ends, generator.integers(0, ends[-1], WALKS), side="right")]
    root, place = stored.payer[drawn], stored.payee[drawn]
    returned = 0
    for _ in range(WALK_STEPS):
        home = place == root
        returned += int(home.sum())
        root, place = root[~home], place[~home]
        target = base[place] + generator.integers(0, stored.throughflow[place]) if len(place) else np.zeros(0, np.int64)
        stays = target < stop[place]
        root, target = root[stays], target[stays]
        if not len(target):
            break
        place = stored.payee[flows[np.searchsorted(ends, target, side="right")]]
    else:
        place = place[: len(root)]
    unresolved = len(root)
    inside = float(ends[-1])
    spread = SIGMAS * (math.sqrt(returned * (WALKS - returned) / WALKS) + SIGMAS) * inside / WALKS
    low, high = returned / WALKS * inside - spread, (returned + unresolved) / WALKS * inside + spread
    sums = [math.fsum(bound[large]) for bound in (stored.low, stored.high)]
    found.expect(
        low <= sums[1] and sums[0] <= high,
        f"the companies of large components state {sums[0]!r} to {sums[1]!r} returned, {WALKS:,} walks give {low!r} to {high!r}",
    )
    figure = _certified(stored.summary.get("round_trip_fraction"))
    if (
        found.expect(figure is not None, "summary.json: round_trip_fraction must have value, low and high in order")
        and figure is not None
    ):
        # The small components are known; only the rest is drawn.
        small = [math.fsum(bound[~large]) for bound in (stored.low, stored.high)]
        stated_low, stated_high = _widened_figure(stored, "round_trip_fraction", figure)
        found.expect(
            (low + small[0]) / stored.total <= stated_high and stated_low <= (high + small[1]) / stored.total,
            f"summary.json: round_trip_fraction is {figure[0]!r} to {figure[2]!r}, "
            f"walks give {(low + small[0]) / stored.total!r} to {(high + small[1]) / stored.total!r}",
        )
    found.notes.append(
        f"{WALKS:,} own walks, to {SIGMAS:g} standard deviations ({spread / inside:.1e} of the money inside)"
    )


def _check_digest(stored: _Stored, found: _Findings) -> None:
    """Compute the digest of the tables again."""
    digest = result_digest(*(stored.tables[f"{name}.parquet"] for name in ("companies", "flows", "components")))
    stated = stored.run.get("digest")
    found.expect(digest == stated, f"run.json: digest is {stated}, the tables give {digest}")


# --- small tools --------------------------------------------------------------------------------------------


def _array(values: pa.ChunkedArray, dtype: type[Any]) -> npt.NDArray[Any]:
    """Return a column without nulls as one array."""
    return np.asarray(values.to_numpy(), dtype)


def _pair(first: Ints, second: Ints, companies: int) -> Ints:
    """Return one number per pair of companies (in int64 up to three thousand million companies)."""
    return first * companies + second


def _contains(keys: Ints, wanted: Ints) -> Bools:
    """Return which of the wanted numbers are among the sorted keys."""
    at = np.searchsorted(keys, wanted)
    return np.asarray(keys[np.minimum(at, len(keys) - 1)] == wanted) if len(keys) else np.zeros(len(wanted), np.bool_)


def _sums(index: Ints, values: Ints, size: int) -> Ints:
    """Return sums of values by index, -1 where a sum is past int64 (summed in halves, so that none wraps around)."""
    high, low = np.zeros(size, np.int64), np.zeros(size, np.int64)
    np.add.at(high, index, values >> 32)
    np.add.at(low, index, values & 0xFFFFFFFF)
    high += low >> 32
    return np.where(high < 2**31, (high << 32) + (low & 0xFFFFFFFF), -1)


def _total(values: Ints) -> int:
    """Return the sum as a Python integer, whatever its size."""
    return (int((values >> 32).sum()) << 32) + int((values & 0xFFFFFFFF).sum())


def _expect_integer(stated: Any, expected: int, what: str, found: _Findings) -> None:
    """Check an integer of a JSON file."""
    same = isinstance(stated, int) and not isinstance(stated, bool) and stated == expected
    found.expect(same, f"{what} is {stated!r}, expected {expected}")


def _certified(figure: Any) -> tuple[float, float, float] | None:
    """Return (low, value, high) of a certified figure of summary.json, None if it is none."""
    if not isinstance(figure, dict):
        return None
    numbers = tuple(figure.get(key) for key in ("low", "value", "high"))
    if any(
        isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= 1 for number in numbers
    ):
        return None
    low, value, high = (float(number) for number in numbers)
    return (low, value, high) if low <= value <= high else None


def _is_sampled(method: Any) -> bool:
    """Return whether a method states a confidence level: then one interval in a hundred may miss."""
    return isinstance(method, str) and any(word in method.lower() for word in ("%", "confidence", "walk", "sampl"))


def _widened(stored: _Stored, low: Floats, value: Floats, high: Floats) -> tuple[Floats, Floats]:
    """Return the stated intervals of companies, made wider if the method in summary.json says that it sampled."""
    if not _is_sampled(stored.summary["round_trip_fraction"].get("method")):
        return low, high
    return value - SAMPLED_SLACK * (value - low), value + SAMPLED_SLACK * (high - value)


def _widened_figure(stored: _Stored, key: str, figure: tuple[float, float, float]) -> tuple[float, float]:
    """Return the stated interval of a figure of summary.json, made wider if it was sampled."""
    low, value, high = figure
    slack = SAMPLED_SLACK if _is_sampled(stored.summary[key].get("method")) else 1.0
    return value - slack * (value - low), value + slack * (high - value)


# name, what is proven, the check, and whether the later ones need it
_CHECKS: tuple[tuple[str, str, Callable[[_Stored, _Findings], None], bool], ...] = (
    ("files", "every file is there and has the SHA-256 of the run", _check_files, False),
    ("tables", "columns, types and identities are as they must be", _check_tables, True),
    ("flows", "flows are whole, and add up to every company and total", _check_flows, True),
    ("components", "trees and order prove the strong components", _check_components, True),
    ("brackets", "netting, bilateral and intra-component fractions follow from the flows", _check_brackets, True),
    ("boundary", "what enters each company equals what leaves it", _check_boundary, True),
    ("round trips", "figures of companies, flows, components and the whole agree", _check_round_trips, False),
    ("recomputed", "round trips recomputed from the flows", _check_recomputed, False),
    ("walks", "the share that returns, sampled", _check_walks, False),
    ("digest", "the result digest is that of the tables", _check_digest, False),
)
