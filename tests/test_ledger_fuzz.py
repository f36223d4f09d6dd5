"""Thousands of broken files and tables: an error of ours with a message, or every row accounted for to the last unit.

Two kinds of attack, both from a seed that every failure prints. Tables of known cells are read back and compared row by
row with a slow reader of plain Python in this file. Whole files are damaged byte by byte: there only the account must add
up, and nothing but our own errors may come out.
"""

from __future__ import annotations

import csv
import gzip
import io
import random
from collections import Counter
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ouroflow import read_ledger
from ouroflow.errors import OuroflowError
from ouroflow.ledger import Ledger

pytestmark = pytest.mark.cpu

EXACT = Context(prec=100, rounding=ROUND_HALF_EVEN)
NAMES = [
    "Acme",
    "Beta",
    "Gamma GmbH",
    "주식회사 가나",
    "🏦 bank",
    "=cmd()",
    'say "hi"',
    "a,b;c\td|e",
    "two\nlines",
    "007",
    "7",
]
BLANKS = ["", " ", "\t ", "\u00a0", "\u3000"]
NUMBERS = [
    "1",
    "12.34",
    "0.005",
    "0.015",
    "1.005",
    "2.675",
    "1e3",
    "1.5E-1",
    " 7 ",
    "+3",
    ".5",
    "5.",
    "1234567890123.455",
]
BAD_NUMBERS = [
    "",
    "x",
    "1,000",
    "$5",
    "nan",
    "inf",
    "-Infinity",
    "0",
    "0.00",
    "0.004",
    "-5",
    "-0.01",
    "1e30",
    "9" * 25,
    "--1",
    "1_0",
]
TIMES = ["2025-01-31", "2025/02/28 13:45", "2024-02-29T23:59:59.5+09:00", "20250101"]
BAD_TIMES = ["2025-02-30", "yesterday", "31.12.2025", "2025-01-01T25:00", ""]
RANGE = ["", "", "0.001", "1", "1000000000000000"]


@dataclass(frozen=True)
class Verdict:
    """What the slow reader says about one row: a reason, or the payment."""

    reason: str | None
    payment: tuple[str, str, int] | None


def blank(cell: str | None) -> bool:
    return cell is None or not cell.strip()


def slow_amount(cell: str | None) -> tuple[str | None, int]:
    """Read one amount in cents with the decimal module."""
    text = "" if cell is None else cell.strip(" \t\r\n")
    if not text:
        return "missing amount", 0
    try:
        number = Decimal(text)
    except InvalidOperation:
        return "amount not a number", 0
    if "_" in text:
        return "amount not a number", 0
    if not number.is_finite():
        return "amount not finite", 0
    cents = int(EXACT.quantize(EXACT.scaleb(number, 2), Decimal(1)))
    return ("amount too large", 0) if abs(cents) >= 2**63 else (None, cents)


def slow_row(row: dict[str, str | None], *, flip: bool, statuses: set[str] | None) -> Verdict:
    """Judge one row in the order of the reasons."""
    if statuses is not None and row.get("status") not in statuses:
        return Verdict("status not selected", None)
    for role in ("payer", "payee"):
        if blank(row[role]):
            return Verdict(f"missing {role}", None)
    reason, cents = slow_amount(row["amount"])
    if reason in ("missing amount", "amount not a number", "amount not finite"):
        return Verdict(reason, None)
    if "currency" in row and blank(row["currency"]):
        return Verdict("missing currency", None)
    if reason:
        return Verdict(reason, None)
    payer, payee = row["payer"], row["payee"]
    if cents < 0:
        if not flip:
            return Verdict("negative amount", None)
        payer, payee, cents = payee, payer, -cents
    if cents == 0:
        return Verdict("zero amount", None)
    if "time" in row and row["time"] not in TIMES:
        return Verdict("bad time", None)
    assert payer is not None
    assert payee is not None
    return Verdict(None, (payer, payee, cents))


def random_rows(rng: random.Random) -> list[dict[str, str | None]]:
    """Draw a table of text cells; bad cells are rare or frequent, whole optional columns come and go."""
    badness = rng.choice([0.0, 0.02, 0.3])
    optional = [role for role in ("time", "currency", "status") if rng.random() < 0.4]

    def cell(good: list[str], bad: list[str]) -> str:
        return rng.choice(bad if rng.random() < badness else good)

    rows: list[dict[str, str | None]] = []
    names = rng.sample(NAMES, rng.randint(2, len(NAMES)))
    for _ in range(rng.choice([1, 2, 5, 40])):
        row: dict[str, str | None] = {"payer": cell(names, BLANKS), "payee": cell(names, BLANKS)}
        row["amount"] = cell(NUMBERS, BAD_NUMBERS)
        for role, good, bad in (
            ("time", TIMES, BAD_TIMES),
            ("currency", ["EUR"], BLANKS),
            ("status", ["a", "b"], [""]),
        ):
            if role in optional:
                row[role] = cell(good, bad)
        rows.append(row)
    return rows


def csv_bytes(rows: list[dict[str, str | None]], rng: random.Random) -> tuple[bytes, str]:
    """Write rows as a CSV file of random dialect, encoding and compression."""
    text = io.StringIO()
    quoting = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    delimiter = rng.choice(",;\t|")
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=rng.choice(["\n", "\r\n"]))
    writer.writerow(rows[0])
    writer.writerows([row.values() for row in rows])
    content = text.getvalue().encode(rng.choice(["utf-8", "utf-8-sig", "utf-16"]))
    ending = rng.choice([".csv", ".csv.gz", ".csv.zst", ".txt"])
    if ending.endswith(".gz"):
        return gzip.compress(content), ending
    if ending.endswith(".zst"):
        return pa.compress(content, "zstd", asbytes=True), ending
    return content, ending


def as_source(rows: list[dict[str, str | None]], rng: random.Random, folder: Path) -> Any:
    """Hand the rows over in one of the forms that read_ledger takes."""
    form = rng.choice(["csv", "csv", "csv", "parquet", "arrow", "stream", "table", "pandas", "polars"])
    if form == "csv":
        content, ending = csv_bytes(rows, rng)
        path = folder / f"payments{ending}"
        path.write_bytes(content)
        return path
    if rng.random() < 0.5:
        for row in rows:
            row.update({role: None for role, value in row.items() if value == ""})
    kind = rng.choice([pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
    table = pa.table({role: pa.array([row[role] for row in rows], pa.string()).cast(kind) for role in rows[0]})
    if form == "parquet":
        pq.write_table(table, folder / "payments.parquet", row_group_size=rng.choice([1, 7, 1000]))
        return folder / "payments.parquet"
    if form in ("arrow", "stream"):
        path = folder / "payments.arrow"
        with pa.OSFile(str(path), "wb") as sink:
            opened = pa.ipc.new_file(sink, table.schema) if form == "arrow" else pa.ipc.new_stream(sink, table.schema)
            with opened as writer:
                writer.write_table(table, max_chunksize=rng.choice([1, 7, 1000]))
        return path
    if form == "pandas":
        return table.to_pandas()
    if form == "polars":
        return pytest.importorskip("polars").from_arrow(table)
    return table


def check_account(ledger: Ledger) -> None:
    """Every row is used, to oneself, or refused for a reason; all arrays speak of the same payments."""
    rows = ledger.rows
    assert rows.read == rows.used + rows.self_payments + sum(rows.rejected.values())
    assert rows.read == sum(file.rows for file in ledger.inputs) == ledger.file_offsets[-1]
    assert len(ledger.payer) == len(ledger.payee) == len(ledger.amount) == rows.used > 0
    assert (ledger.amount > 0).all()
    assert (ledger.payer != ledger.payee).all()
    assert min(ledger.payer.min(), ledger.payee.min()) >= 0
    assert max(ledger.payer.max(), ledger.payee.max()) < len(ledger.companies)
    assert len(ledger.unused) == rows.read - rows.used
    assert (np.diff(ledger.unused) > 0).all()
    assert not len(ledger.unused) or 0 <= ledger.unused[0] <= ledger.unused[-1] < rows.read
    set_aside = sum(count for reason, count in rows.rejected.items() if reason != "status not selected")
    assert (0 if ledger.rejected is None else len(ledger.rejected)) == set_aside


def check_against_slow_reader(seed: int, folder: Path) -> str:
    rng = random.Random(seed)
    rows = random_rows(rng)
    flip = rng.random() < 0.3
    statuses = {"a"} if "status" in rows[0] and rng.random() < 0.5 else None
    source = as_source(rows, rng, folder)
    verdicts = [slow_row(row, flip=flip, statuses=statuses) for row in rows]
    payments = [(number, verdict.payment) for number, verdict in enumerate(verdicts) if verdict.payment]
    expected = [(number, payment) for number, payment in payments if payment[0] != payment[1]]
    reasons = Counter(verdict.reason for verdict in verdicts if verdict.reason)
    try:
        ledger = read_ledger(source, on_bad_rows="reject", reversals="flip" if flip else "stop", statuses=statuses)
    except OuroflowError as error:
        assert len(str(error)) > 20  # noqa: PT017 (reading would be as good)
        assert not expected, f"refused although {len(expected)} rows are fine: {error}"  # noqa: PT017
        return "refused"
    check_account(ledger)
    assert ledger.rows.rejected == dict(reasons)
    assert ledger.rows.self_payments == len(payments) - len(expected)
    assert ledger.self_amount == sum(payment[2] for _, payment in payments if payment[0] == payment[1])
    names = ledger.companies.to_pylist()
    got = [
        (names[payer], names[payee], amount)
        for payer, payee, amount in zip(
            ledger.payer.tolist(), ledger.payee.tolist(), ledger.amount.tolist(), strict=True
        )
    ]
    assert got == [payment for _, payment in expected]
    assert [row - 1 for _, row in ledger.where(range(len(got)))] == [number for number, _ in expected]
    if ledger.rejected is not None:
        assert ledger.rejected["row"].to_pylist() == [
            number + 1 for number, verdict in enumerate(verdicts) if verdict.reason not in (None, "status not selected")
        ]
    return "read"


@pytest.mark.parametrize("block", range(6))
def test_tables_of_known_cells_are_read_as_plain_python_reads_them(block: int, tmp_path: Path) -> None:
    outcomes: Counter[str] = Counter()
    for seed in range(block * 250, (block + 1) * 250):
        try:
            outcomes[check_against_slow_reader(seed, tmp_path)] += 1
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
    assert outcomes["read"] > 150  # most tables hold at least one sound payment


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Break a file: cut, overwrite, insert, delete, repeat."""
    broken = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 10])):
        if not broken:
            break
        at, length = rng.randrange(len(broken)), rng.choice([1, 1, 4, 50])
        match rng.randrange(6):
            case 0:
                del broken[at:]
            case 1:
                broken[at : at + length] = rng.randbytes(length)
            case 2:
                broken[at:at] = rng.choice(
                    [b"\xff", b"\0", b'"', b"\n", b",", b"\r", b"\xb0\xa1", b"#", b"-", b"9" * 30]
                )
            case 3:
                del broken[at : at + length]
            case 4:
                broken[at:at] = broken[at : at + length]
            case 5:
                broken[at] ^= 1 << rng.randrange(8)
    return bytes(broken)


def sound_file(form: str, rng: random.Random) -> bytes:
    """Return the bytes of a small sound file."""
    rows: list[dict[str, str | None]] = [
        {
            "payer": rng.choice(NAMES),
            "payee": rng.choice(NAMES),
            "amount": rng.choice(NUMBERS),
            "time": rng.choice(TIMES),
        }
        for _ in range(30)
    ]
    if form.startswith("csv"):
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(rows[0])
        writer.writerows([row.values() for row in rows])
        content = text.getvalue().encode()
        return {
            "csv": content,
            "csv.gz": gzip.compress(content),
            "csv.zst": pa.compress(content, "zstd", asbytes=True),
        }[form]
    table = pa.table({role: pa.array([row[role] for row in rows]) for role in rows[0]})
    table = table.set_column(2, "amount", pa.array(np.arange(1, 31) / 7))
    sink = io.BytesIO()
    if form == "parquet":
        pq.write_table(table, sink)
    else:
        with (pa.ipc.new_file if form == "arrow" else pa.ipc.new_stream)(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue()


@pytest.mark.parametrize("form", ["csv", "csv.gz", "csv.zst", "parquet", "arrow", "arrows"])
def test_damaged_files_give_a_message_or_a_full_account(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"payments.{form}"
    outcomes: Counter[str] = Counter()
    for seed in range(400):
        rng = random.Random(f"{form} {seed}")
        path.write_bytes(damaged(sound_file(form, rng), rng))
        try:
            check_account(read_ledger(path, on_bad_rows=rng.choice(["stop", "reject", "reject"])))
            outcomes["read"] += 1
        except OuroflowError as error:
            assert "payments." in str(error), error  # noqa: PT017
            outcomes["refused"] += 1
        except BaseException as error:
            error.add_note(f"form {form}, seed {seed}")
            raise
    assert outcomes["refused"] > 20


AWKWARD = [
    pa.array([1, 2, None]),
    pa.array([1.0, 2.5, None]),
    pa.array([True, False, None]),
    pa.array([b"a", b"\xff", None]),
    pa.array([None, None, None]),
    pa.array([[1], [2], None]),
    pa.array([{"a": 1}, None, {"a": 2}]),
    pa.array(["a", "b", None]),
    pa.array(["1", "2", "3"]),
    pa.array([Decimal("1.10"), Decimal("-2.25"), None]),
    pa.array([2**63, 1, None], pa.uint64()),
    pa.array([1, 2, 3], pa.timestamp("us", "Asia/Seoul")),
    pa.array([1, 2, 3], pa.duration("s")),
    pa.array([1, 2, 3], pa.date32()),
    pa.array([1, 2, 3], pa.time64("us")),
    pa.array([1.5, float("nan"), float("inf")], pa.float32()),
    pa.array([1, 2, 3], pa.int8()),
    pa.array([1.5, 2.5, None], pa.float16()),
    pa.array(["a", "b", "a"]).dictionary_encode(),
    pa.array([1, 2, 1]).dictionary_encode(),
    pa.array([b"ab", b"cd", b"ab"], pa.binary(2)),
    pa.array(["a", "b", None], pa.string_view()),
    pa.array([1, 2, 3], pa.decimal256(60, 5)),
    pa.array([-(2**63), 2**63 - 1, 0]),
    pa.array([1.7e308, -1.7e308, 5e-324]),
    pa.array(["", " ", "x"], pa.large_string()),
    pa.array([["a"], [], None], pa.list_(pa.string())),
    pa.array([None, None, None], pa.month_day_nano_interval()),
    pa.array([0, 1, 2]),
    pa.array([1 << 62] * 3, pa.timestamp("ns")),
]


def test_columns_of_any_type_in_any_role_give_a_message_or_a_full_account(tmp_path: Path) -> None:
    outcomes: Counter[str] = Counter()
    for seed in range(1500):
        rng = random.Random(seed)
        names = [
            "payer",
            "payee",
            "amount",
            *(n for n in ("time", "id", "currency", "status", "kind") if rng.random() < 0.3),
        ]
        names += ["amount_low", "amount_high"] if rng.random() < 0.2 else []
        usual = {
            "payer": pa.array(["a", "b", "c"]),
            "payee": pa.array(["b", "c", "a"]),
            "amount": pa.array([1.25, 2.0, 3.5]),
        }
        table = pa.table({n: usual[n] if n in usual and rng.random() < 0.6 else rng.choice(AWKWARD) for n in names})
        if rng.random() < 0.2:
            table = pa.concat_tables([table, table.slice(0, 2)])
        source: Any = table
        try:
            if rng.random() < 0.3:
                source = table.to_pandas()
            elif rng.random() < 0.3:
                pq.write_table(table, tmp_path / "odd.parquet")
                source = tmp_path / "odd.parquet"
        except (pa.ArrowException, TypeError, ValueError):
            source = table
        try:
            check_account(
                read_ledger(
                    source,
                    on_bad_rows="reject",
                    reversals=rng.choice(["stop", "flip"]),
                    decimals=rng.choice([0, 2, 18]),
                )
            )
            outcomes["read"] += 1
        except OuroflowError as error:
            assert len(str(error)) > 20  # noqa: PT017
            outcomes["refused"] += 1
        except BaseException as error:
            error.add_note(f"seed {seed}: {table.schema}")
            raise
    assert min(outcomes["read"], outcomes["refused"]) > 100
